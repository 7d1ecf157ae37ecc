# Several owners and tasks on one server: nobody's work keeps that of others
# waiting until it is done, however few places there are, however much it is,
# and however much more is coming.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node();
my $sim = start_sim();
my @places = (1, 2, 8);
my @owners = ('alice', 'bob');
my $SIZE = 10;    # items in a batch

sql($node, qq{
	CREATE ROLE $_ LOGIN;
	CREATE SCHEMA $_ AUTHORIZATION $_}) foreach @owners;
foreach my $n (@places)
{
	create_server($node, $sim, name => "p$n", key => undef, max_active_batches => $n, realtime_concurrency => $n, max_batch_requests => $SIZE);
	sql($node, "GRANT USAGE ON FOREIGN SERVER p$n TO $_; CREATE USER MAPPING FOR $_ SERVER p$n OPTIONS (api_key 'sk-$_')") foreach @owners;
}

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# A table of that role with so many articles; "role.name".
sub table
{
	my ($role, $name, $count) = @_;

	as($role, qq{
		DROP TABLE IF EXISTS $role.$name;
		CREATE TABLE $role.$name (id bigint PRIMARY KEY, body text, summary text);
		INSERT INTO $role.$name SELECT n, format('Article %s speaks. Much.', n) FROM generate_series(1, $count) n});
	return "$role.$name";
}

sub statement
{
	my ($table, %given) = @_;
	my %arg = (source => $table, prompt => $LlmBatch::PROMPT, model => $LlmBatch::MODEL, mode => 'batch', target => 'summary', %given);
	return 'SELECT llm_batch.submit(' . join(', ', map { "$_ => " . quote($arg{$_}) } sort keys %arg) . ')';
}

sub job_of { my ($role, @rest) = @_; return as($role, statement(@rest)) }

sub task_of
{
	my ($role, $name, $table, %given) = @_;
	my %arg = (prompt => $LlmBatch::PROMPT, model => $LlmBatch::MODEL, mode => 'batch', target => 'summary', max_wait => '0', %given);
	my $list = join ', ', map { "$_ => " . quote($arg{$_}) } sort keys %arg;

	as($role, qq{SELECT llm_batch.create_task('$name', $list); SELECT llm_batch.attach('$name', '$table')});
}

# All jobs are over, all tasks gone, and time goes on.
sub begin
{
	my ($name) = @_;

	note("--- $name");
	sql($node, q{SELECT llm_batch.drop_task(task) FROM (SELECT DISTINCT task FROM llm_batch.tasks) t});
	$sim->clear_rules;
	$sim->options(run_seconds => 0.1);
	$sim->advance(10000);
	wait_until($node, 'SELECT NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)', 'jobs of before are over');
	$sim->reset;
}

sub out { return sql($node, "SELECT count(*) FROM llm_batch.batch WHERE job_id = $_[0] AND state = 'in_progress'") }

# How much of the first job had no answer when the second ended.
sub left_when_ended
{
	my ($large, $small) = @_;
	return sql($node, qq{
		SELECT p.total - (SELECT count(*) FROM llm_batch.results r WHERE r.job_id = p.job_id AND r.completed_at <= s.finished_at)
		FROM llm_batch.progress p, llm_batch.progress s WHERE p.job_id = $large AND s.job_id = $small});
}

# ---- places that one owner has taken are not those of another ----

foreach my $n (@places)
{
	begin("$n places");
	$sim->options(run_seconds => 3600);
	my $large = job_of('alice', table('alice', 'old', $SIZE * ($n + 1)), server => "p$n");
	# an eighth of eight is left for others of the same owner
	my $most = $n == 8 ? 7 : $n;
	wait_until($node, "SELECT count(*) = $most FROM llm_batch.batch WHERE job_id = $large AND state = 'in_progress'", "$n places: a large job takes its own places");
	# nothing ends: whoever waits for a place of alice's waits for ever
	my $small = job_of('bob', table('bob', 'few', 3), server => "p$n");
	ok(wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batch WHERE job_id = $small AND state = 'in_progress'", 'it waits'), "$n places: the small job of another owner flies beside it");
	task_of('bob', 'small', table('bob', 'one', 0), server => "p$n", mode => 'realtime');
	as('bob', q{INSERT INTO bob.one VALUES (1, 'Article 1 speaks.')});
	ok(wait_until($node, q{SELECT summary IS NOT NULL FROM bob.one}, 'it waits'), "$n places: a row of a task of another owner is answered in real time");
	is(out($large), $most, "$n places: and nothing of the large one had ended");
	if ($n == 8)
	{
		my $own = job_of('alice', table('alice', 'few', 3), server => "p$n");
		ok(wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batch WHERE job_id = $own AND state = 'in_progress'", 'it waits'), "$n places: so does a small job of the same owner");
	}
}

# ---- who comes with a lot, and who comes with a little ----

# All three come with one commit, the large one first.
sub come_together
{
	my ($mode, $server, $size) = @_;
	my %server = (mode => $mode, server => $server);

	table('alice', 'old', $size);
	table($_, 'few', 3) foreach @owners;
	return split /\n/, sql($node, join ";\n", 'BEGIN',
		'SET SESSION AUTHORIZATION alice', statement('alice.old', %server),
		'SET SESSION AUTHORIZATION bob', statement('bob.few', %server),
		'SET SESSION AUTHORIZATION alice', statement('alice.few', %server), 'COMMIT');
}

foreach my $mode ('batch', 'realtime')
{
	foreach my $n (@places)
	{
		my $what = "$mode, $n at once";

		begin("$what: a large job and two small ones");
		$sim->fault({ method => 'POST', path => '^/v1/chat/completions' }, { stall => 0.02 });
		my ($large, $other, $own) = come_together($mode, "p$n", $SIZE * ($mode eq 'batch' && $n < 8 ? 5 : 2 * $n + 4));
		is(wait_job($node, $_), 'succeeded', "$what: a job ends") foreach $large, $other, $own;
		cmp_ok(left_when_ended($large, $_->[1]), '>', $SIZE, "$what: the small one $_->[0] did not wait until the large one was done")
		  foreach [ 'of another', $other ], [ 'of the same owner', $own ];
	}
}

# ---- the other way: a stream of small ones does not starve the large one ----

# Every job of the stream is there before the one before it has ended: somebody
# small waits all the time.  Nothing is timed: the large one ends, or it does not.
foreach my $n (1, 2)
{
	foreach my $who ($n == 1 ? 'bob' : (), 'alice')
	{
		begin("$n places, a stream of $who beside a backfill of alice");
		my $few = table($who, 'few', 1);
		my @stream = map { job_of($who, $few, server => "p$n", prompt => "$_ {{body}}") } 1 .. 2 * $n;
		my $large = job_of('alice', table('alice', 'old', $SIZE * 4), server => "p$n");
		my ($ended, $until) = (0, time + $LlmBatch::PATIENCE);

		until ($ended || time > $until)
		{
			my ($over, $open) = split /\|/, sql($node, qq{
				SELECT (SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $large), count(*)
				FROM llm_batch.progress WHERE job_id <> $large AND finished_at IS NULL});
			$ended = $over eq 't';
			push @stream, map { job_of($who, $few, server => "p$n", prompt => @stream . "-$_ {{body}}") } $open .. 2 * $n if !$ended && $open < 2 * $n;
		}
		ok($ended, "$n places: a backfill ends beside a stream of " . @stream . " small jobs of $who");
	}
}

# ---- tasks ----

# Two of one owner on one table: each row makes a job of its own for each of
# them.  The one of less priority comes to its end as well.
begin('two tasks on a table');
table('alice', 'pair', 0);
as('alice', 'ALTER TABLE alice.pair ADD summary_2 text');
task_of('alice', 'high', 'alice.pair', server => 'p2', max_items => 1, priority => 5);
task_of('alice', 'low', 'alice.pair', server => 'p2', max_items => 1, target => 'summary_2', prompt => 'Again: {{body}}');
as('alice', q{INSERT INTO alice.pair SELECT n, format('Article %s speaks.', n) FROM generate_series(1, 3) n});
as('alice', qq{INSERT INTO alice.pair VALUES ($_, 'Article $_ speaks.')}) foreach 4 .. 6;
ok(wait_until($node, q{SELECT count(summary) = 6 AND count(summary_2) = 6 FROM alice.pair}, 'they wait'), 'two tasks of different priority answer all rows of a table');
is(sql($node, q{SELECT count(*) FROM alice.pair WHERE summary = format('Summarise: Article %s speaks.', id) AND summary_2 = format('Again: Article %s speaks.', id)}), 6, 'each in its column');
wait_until($node, q{SELECT count(*) FILTER (WHERE finished_at IS NULL) = 0 FROM llm_batch.progress WHERE task IN ('high', 'low')}, 'their jobs end');
check_prompts_ran_once($sim, 12, 'two tasks of a table: every prompt ran once');
is(sql($node, q{SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id) WHERE p.task IN ('high', 'low') AND r.state <> 'succeeded'}), 0, 'and none came to another end');

# One waits with many rows; another has one.
begin('many rows, and one');
table('alice', 'many', 0);
table('bob', 'one', 0);
task_of('alice', 'many', 'alice.many', server => 'p2', max_items => 500);
task_of('bob', 'one', 'bob.one', server => 'p2');
sql($node, q{ALTER SERVER p2 OPTIONS (SET max_batch_requests '500')});
sql($node, q{BEGIN;
	INSERT INTO alice.many SELECT n, format('Article %s speaks.', n) FROM generate_series(1, 5000) n;
	INSERT INTO bob.one VALUES (1, 'Article 1 speaks.'); COMMIT});
ok(wait_until($node, q{SELECT summary IS NOT NULL FROM bob.one}, 'it waits'), 'a row of a task is answered beside 5,000 of another owner');
ok(wait_until($node, q{SELECT count(summary) = 5000 FROM alice.many}, 'they wait'), 'and so are the 5,000');
my $before = sql($node, q{
	SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id)
	WHERE p.task = 'many' AND r.completed_at < (SELECT min(finished_at) FROM llm_batch.progress WHERE task = 'one')});
cmp_ok($before, '<', 4000, "long after it: $before of them were before it");

# The other way: one that has many rows, beside a stream.
begin('a stream of rows beside many');
my $last = sql($node, 'SELECT max(job_id) FROM llm_batch.progress');
task_of('alice', 'many', 'alice.many', server => 'p1');
task_of('alice', 'one', table('alice', 'one', 0), server => 'p1', max_items => 1);
as('alice', q{SELECT llm_batch.run('many', 'id <= 40', again => true); INSERT INTO alice.one SELECT n, format('Article %s speaks.', n) FROM generate_series(1, 3) n});
my ($rows, $until) = (3, time + $LlmBatch::PATIENCE);
my $over = '';
until ($over eq 't' || time > $until)
{
	($over, my $open) = split /\|/, sql($node, qq{
		SELECT (SELECT COALESCE(sum(succeeded), 0) = 40 FROM llm_batch.progress WHERE task = 'many' AND job_id > $last),
			(SELECT count(*) FROM alice.one WHERE summary IS NULL)});
	as('alice', 'INSERT INTO alice.one SELECT n, \'Article \' || n || \' speaks.\' FROM generate_series(' . ($rows + 1) . ', ' . ($rows += 3 - $open) . ') n') if $open < 3;
}
is($over, 't', "a backfill by a task ends beside a stream of $rows rows of another of the same owner");

check_sim($sim);
done_testing();
