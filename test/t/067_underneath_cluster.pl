# The extension, the database and the whole cluster are taken away in the
# middle of an upload, a download and real-time calls; settings change in
# storms.  Whoever does it does not wait, and what stays goes on.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# The transfers below would take longer by far.  Who does not wait for them is
# done in well under a second; the rest is for slow machines.
my $PROMPTLY = 3;

my $node = start_node(extension => 0, conf => [ 'llm_batch.write_back_rows = 2' ]);
my $sim = start_sim();
my $count = 10;
my $RIGHT = $LlmBatch::RIGHT;

my $SERVER = q{
	CREATE SERVER sim FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '} . $sim->base_url . q{', realtime_threshold '0', realtime_concurrency '3',
		poll_min '50ms', poll_max '200ms', retry_base '50ms', retry_max '200ms', settle_time '1s', request_timeout '90s', on_unanswered 'fail');
	CREATE USER MAPPING FOR PUBLIC SERVER sim OPTIONS (api_key 'sk-test')};
my $TABLE = qq{
	CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
	INSERT INTO articles SELECT n, 'Article ' || n || ' speaks. At length.' FROM generate_series(1, $count) n};

sub db
{
	my ($name, $query, %opt) = @_;
	return $node->safe_psql($name, $query, %opt);
}

sub create_database
{
	my ($name) = @_;

	db('postgres', "CREATE DATABASE $name");
	db($name, "CREATE EXTENSION llm_batch; $SERVER; $TABLE");
}

sub wait_in
{
	my ($db, $query, $name) = @_;
	my $until = time + $LlmBatch::PATIENCE;
	my $said;

	do
	{
		$said = db($db, $query);
		return 1 if $said eq 't';
		sleep 0.05;
	} while (time < $until);
	return fail("$name: $query said $said");
}

# Takes a new job in $db to the middle of something; the job.
my %middle = (
	upload => sub { $sim->fault({ method => 'POST', path => '^/v1/files$', times => 1 }, { stall => 60 }) },
	create => sub { $sim->fault({ method => 'POST', path => '^/v1/batches$', times => 1 }, { stall => 60 }) },
	# lines are taken in when there is a megabyte of them
	download => sub {
		$sim->rule({}, items => [ { do => { merge => { padding => 'x' x 260_000 } } } ]);
		$sim->fault({ method => 'GET', path => '^/v1/files/[^/]+/content$', times => 1 }, { slow_body => 600_000 });
	},
	'real time' => sub { $sim->fault({ method => 'POST', path => '^/v1/chat/completions$', nth => [ 4, 5, 6 ] }, { stall => 60 }) });
my %reached = (
	upload => sub { $_[0]->requests(method => 'POST', path => '/v1/files') },
	create => sub { $_[0]->summary->{batches_created} },
	download => sub { $_[0]->requests(method => 'GET', path => '/v1/files/') },
	'real time' => sub { $_[0]->summary->{realtime_calls} >= 6 });

sub begin_job
{
	my ($db, $where) = @_;
	my $mode = $where eq 'real time' ? 'realtime' : 'batch';

	$sim->clear_rules;
	$sim->reset;
	$middle{$where}->();
	my $job = db($db, qq{SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', target => 'summary', server => 'sim', mode => '$mode')});
	$sim->wait_for(sub { scalar(my @all = grep { $_ } $reached{$where}->($sim)) });
	wait_in($db, "SELECT succeeded > 0 FROM llm_batch.progress WHERE job_id = $job", "$where: answers land") if $where =~ /download|real time/;
	cmp_ok(db($db, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"), '<', $count, "$where: in the middle of it");
	return $job;
}

sub promptly
{
	my ($name, $what) = @_;
	my $begin = time;

	$what->();
	return cmp_ok(time - $begin, '<', $PROMPTLY, "$name is done promptly");
}

sub workers
{
	return db('postgres', q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
}

# ---- the extension ----

create_database('one');
foreach my $where (sort keys %middle)
{
	my $job = begin_job('one', $where);
	my $written = db('one', "SELECT count(summary) FROM articles WHERE summary = $RIGHT");
	my $created = $sim->summary->{batches_created};

	promptly("$where: DROP EXTENSION, and CREATE EXTENSION at once", sub { db('one', "DROP EXTENSION llm_batch CASCADE; CREATE EXTENSION llm_batch; $SERVER") });
	cmp_ok(db('one', "SELECT count(summary) FROM articles WHERE summary = $RIGHT"), '>=', $written, "$where: what was written stays");
	$sim->clear_rules;
	my $again = db('one', q{SELECT llm_batch.submit('articles', 'Again: {{body}}', 'gpt-6-luna', target => 'summary', server => 'sim', mode => 'batch')});
	wait_in('one', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $again", "$where: a job of the new extension succeeds");
	is(db('one', q{SELECT count(*) FROM articles WHERE summary = format('Again: Article %s speaks.', id)}), $count, "$where: all of the rows are the new one's");
	is($sim->summary->{batches_created}, $created + 1, "$where: nothing is left that sends for the old one");
	is(db('one', "SELECT count(*), count(DISTINCT batch_id) FROM llm_batch.attempts WHERE state = 'succeeded'"), "$count|1", "$where: nor one that stores for it");
	db('one', 'UPDATE articles SET summary = NULL');
}

# ---- the database ----

foreach my $case ([ 'download', 'DROP DATABASE two' ], [ 'download', 'DROP DATABASE two WITH (FORCE)' ], [ 'real time', 'DROP DATABASE two' ], [ 'create', 'DROP DATABASE two WITH (FORCE)' ])
{
	my ($where, $statement) = @$case;

	create_database('two');
	begin_job('two', $where);
	promptly("$where: $statement", sub { db('postgres', $statement) });
	unlike(workers(), qr/two/, "$where: the worker is gone");
}

# ---- the cluster ----

foreach my $where (sort keys %middle)
{
	my $job = begin_job('one', $where);

	promptly("$where: a fast stop", sub { $node->stop('fast') });
	$sim->clear_rules;
	$node->start;
	wait_in('one', "SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $job", "$where: after the start the job ends");
	my $row = db('one', "SELECT state, failed, uncertain FROM llm_batch.progress WHERE job_id = $job");
	if ($where eq 'real time')
	{
		# what was out and not answered nobody can look up
		like($row, qr/^partial\|([1-3])\|\1$/, "$where: no more is uncertain than may be out at a time");
		is(db('one', "SELECT DISTINCT error_code FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"), 'unanswered', "$where: and it says so");
	}
	else
	{
		is($row, 'succeeded|0|0', "$where: it succeeded");
		is(db('one', "SELECT count(*) FROM articles WHERE summary = $RIGHT"), $count, "$where: every row has its answer");
		is($sim->summary->{batches_created}, 1, "$where: the batch was created once");
	}
	is($sim->summary->{max_times_one_prompt_ran}, 1, "$where: nothing was paid twice");
	db('one', 'UPDATE articles SET summary = NULL');
}

# ---- settings ----

# Settings that would hurt, in postgresql.conf, and the server reads it again
# and again; the sessions of this test say what they want.
{
	my @hurting = ("default_transaction_isolation = 'serializable'", 'default_transaction_read_only = on', 'statement_timeout = 1ms', 'lock_timeout = 1ms',
		"search_path = 'nowhere'", 'session_replication_role = replica', "DateStyle = 'German'", "TimeZone = 'Pacific/Chatham'", 'synchronous_commit = off',
		'row_security = off', 'standard_conforming_strings = off', 'enable_indexscan = off', 'llm_batch.write_back_rows = 1', "llm_batch.write_back_timeout = '100ms'");
	@hurting = grep { !/standard_conforming_strings/ } @hurting if db('one', 'SHOW server_version_num') >= 190000;
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0'
	  . ' -c search_path=public -c session_replication_role=origin -c row_security=on -c standard_conforming_strings=on';

	$sim->clear_rules;
	$sim->reset;
	db('one', 'ALTER SERVER sim OPTIONS (ADD max_batch_requests \'5\')');
	my $pid = db('one', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND datname = 'one'});
	my $job = db('one', q{SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', target => 'summary', server => 'sim', mode => 'batch')});
	my $one_by_one = db('one', q{SELECT llm_batch.submit_prompts(array_agg(format('Prompt %s. More.', n)), 'gpt-6-luna', server => 'sim', mode => 'realtime') FROM generate_series(1, 40) n});
	my $reloads = 0;
	my $row;

	do
	{
		$node->append_conf('postgresql.conf', $hurting[ $reloads % @hurting ]) if $reloads < @hurting;
		$node->reload;
		$reloads++;
		$row = db('one', "SELECT string_agg(state, ' ') FROM llm_batch.progress WHERE job_id IN ($job, $one_by_one)");
	} while (($row ne 'succeeded succeeded' || $reloads < 2 * @hurting) && $reloads < 500);
	is($row, 'succeeded succeeded', "the jobs succeed through $reloads reloads");
	is(db('one', "SELECT count(*) FROM articles WHERE summary = $RIGHT"), $count, 'every row has its answer');
	is(db('one', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND datname = 'one'}), $pid, 'the worker is the same');
	# and one that starts under all of them
	db('one', "UPDATE articles SET summary = NULL; SELECT pg_terminate_backend($pid, 10000)");
	$job = db('one', q{SELECT llm_batch.submit('articles', 'Again: {{body}}', 'gpt-6-luna', target => 'summary', server => 'sim', mode => 'batch')});
	wait_in('one', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job", 'a worker that starts under them');
	is(db('one', q{SELECT count(*) FROM articles WHERE summary = format('Again: Article %s speaks.', id)}), $count, 'a worker that starts under them does its work');
	check_prompts_ran_once($sim, 40 + 2 * $count);
}

check_sim($sim);
done_testing();
