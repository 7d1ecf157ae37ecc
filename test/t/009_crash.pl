# The worker is killed and the server crashes, in the middle of transfers and
# at random moments: every item ends once, is paid once and written once.
# (Between the steps they die in 060 to 062, at every point that there is.)
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $seed = $ENV{LLM_BATCH_SEED} // 20261;
my $count = 240;
my $node = start_node(conf => [ 'restart_after_crash = on', 'llm_batch.write_back_rows = 20' ]);
my $sim = start_sim();

srand($seed);
note("LLM_BATCH_SEED=$seed");

create_server($node, $sim, request_timeout => '1s', settle_time => '1s', max_batch_requests => 80, max_active_batches => 2);
create_articles($node, $count);

# Who writes a row twice is found out.
sql($node, q{
	CREATE TABLE written (id bigint);
	CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.written VALUES (NEW.id); RETURN NULL; END $$;
	CREATE TRIGGER note_write AFTER UPDATE ON articles FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
	EXECUTE FUNCTION note_write()});

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL; TRUNCATE written');
}

# Ways to die.
my %crash = (
	'kill -9' => sub {
		my $pid = worker_pid($node);
		my $offset = -s $node->logfile;

		return if $pid eq '';
		kill 'KILL', $pid;
		# the postmaster throws out everybody and begins anew
		$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
	},
	'immediate stop' => sub { $node->stop('immediate'); $node->start },
	'fast stop' => sub { $node->stop('fast'); $node->start },
	'pg_terminate_backend' => sub {
		sql($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
	});

sub check
{
	my ($name, $job) = @_;

	is(wait_job($node, $job), 'succeeded', "$name: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $name);
	check_prompts_ran_once($sim, $count, "$name: each prompt ran once");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer");
	is(sql($node, 'SELECT count(*), count(DISTINCT id) FROM written'), "$count|$count", "$name: every row was written once");
	is(sql($node, "SELECT count(*) FROM llm_batch.result WHERE job_id = $job"), $count, "$name: one result each");
	check_sim($sim, "$name: the simulator is content");
}

# Result files that are long enough to be stored in several slices, and slow
# enough to be met in the middle: each line stands in them fifty times.
sub slow_fetch
{
	$sim->rule({}, items => [ { do => { duplicate => 49 } } ]);
	$sim->fault({ method => 'GET', path => '^/v1/files/[^/]+/content$' }, { slow_body => 1_500_000 });
}

# ---- in mid-transfer ----

my $upload = { method => 'POST', path => '^/v1/files$' };
my $create = { method => 'POST', path => '^/v1/batches$' };
my @states = (
	[ 'uploading', q{state = 'uploading'}, sub { $sim->fault({ %$upload, times => 1 }, { stall_before => 3, status => 503 }) } ],
	[ 'submitting, nothing arrived', q{state = 'submitting'}, sub { $sim->fault({ %$create, times => 1 }, { stall_before => 0.9, status => 503 }) } ],
	[ 'fetching', q{state = 'fetching' AND EXISTS (SELECT FROM llm_batch.result r WHERE r.batch_id = b.batch_id)},
		\&slow_fetch ]);
my @ways = ('kill -9', 'immediate stop');

foreach my $n (0 .. $#states)
{
	my ($name, $condition, $prepare) = @{ $states[$n] };

	# the two ways alternate; in mid-fetch, where most is at stake, both
	foreach my $way ($name eq 'fetching' ? @ways : $ways[ $n % 2 ])
	{
		begin("$name, $way");
		$prepare->();
		my $job = submit($node, target => 'summary');
		wait_until($node, "SELECT count(*) > 0 FROM llm_batch.batches b WHERE job_id = $job AND $condition", "$name is reached");
		sleep 0.1 if $name =~ /arrived/;
		my $landed = sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job");
		$crash{$way}->();
		cmp_ok(sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"), '>=', $landed, "$name, $way: what had landed is there");
		$sim->clear_rules;
		check("$name, $way", $job);
	}
}

# A worker that is ended while it sleeps comes back, each time.
begin('terminated while it sleeps');
$sim->options(run_seconds => 15);
my $job = submit($node, target => 'summary');
foreach my $n (1, 2)
{
	wait_until($node, "SELECT count(*) = 2 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'two batches fly');
	my $pid = worker_pid($node);
	$crash{pg_terminate_backend}->();
	wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND pid <> $pid", 'there is a new worker');
}
$sim->options(run_seconds => 0.1);
$sim->advance(15);
check('terminated while it sleeps', $job);

# ---- at random moments ----

my @all = sort keys %crash;
foreach my $round (1 .. 2)
{
	begin("round $round");
	$sim->options(run_seconds => 0.4, validate_seconds => 0.1);
	slow_fetch() if $round > 1;
	my $job = submit($node, target => 'summary');
	my @done;
	foreach my $n (1 .. 7)
	{
		my $way = $all[ rand @all ];
		my $delay = rand 0.6;

		sleep $delay;
		push @done, sprintf '%s after %.2f s', $way, $delay;
		$crash{$way}->();
		last if defined job_row($node, $job)->{finished_at};
	}
	note(join ', ', @done);
	cmp_ok(scalar @done, '>=', 2, "round $round: " . @done . ' crashes');
	check("round $round", $job);
}

done_testing();
