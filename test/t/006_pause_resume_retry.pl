# pause() and resume(), the reasons for which a job pauses itself, and retry().
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $node = start_node();
my $sim = start_sim();
my $count = 60;

create_server($node, $sim, max_batch_requests => 20, max_active_batches => 1);
create_articles($node, $count);

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
}

sub state_of
{
	my ($job) = @_;
	return sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job");
}

sub check_written
{
	my ($name) = @_;
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer");
}

# ---- pause and resume ----

begin('paused in the transaction of its submit');
my $job = sql($node, qq{
	BEGIN;
	SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch') AS job \\gset
	SELECT llm_batch.pause(:job);
	COMMIT;
	SELECT :job});
($job) = $job =~ /(\d+)$/;
is(state_of($job), 'paused', 'it is paused at once');
wait_until($node, "SELECT count(*) = 0 FROM llm_batch.command", 'the worker has taken note');
sleep 0.5;
is(state_of($job), 'paused', 'and stays so');
is(scalar(my @none = $sim->requests), 0, 'the provider heard nothing');
sql($node, "SELECT llm_batch.resume($job)");
is(watch_job($node, $job, 'resumed'), 'succeeded', 'resumed, it succeeds');
check_job($node, $job);
check_written('paused at once');

begin('paused while a batch flies');
$sim->rule({ nth => 1 }, run_seconds => 1);
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'the first batch flies');
sql($node, "SELECT llm_batch.pause($job)");
is(state_of($job), 'paused', 'the job is paused');
wait_until($node, "SELECT succeeded = 20 AND in_flight = 0 FROM llm_batch.progress WHERE job_id = $job", 'the flying batch lands');
sleep 0.5;
is($sim->summary->{batches_created}, 1, 'no other is created');
is(sql($node, "SELECT state, queued FROM llm_batch.progress WHERE job_id = $job"), 'paused|40', 'the rest waits');

# A paused job survives a restart of the server as such.
$node->restart;
sleep 0.5;
is(sql($node, "SELECT state, queued FROM llm_batch.progress WHERE job_id = $job"), 'paused|40', 'also over a restart');
sql($node, "SELECT llm_batch.resume($job)");
is(wait_job($node, $job), 'succeeded', 'resumed, it succeeds');
check_job($node, $job);
check_prompts_ran_once($sim, $count);
check_written('paused in flight');

foreach my $verb (qw(pause resume))
{
	my (undef, undef, $stderr) = $node->psql('postgres', "SELECT llm_batch.$verb($job)", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($stderr, qr/ERROR:  55000: job $job cannot be ${verb}d: it is succeeded/, "$verb() of an ended job is an error");
}

# ---- jobs that pause themselves: nothing is lost, nobody is charged ----

foreach my $case (
	[
		'a wrong key', qr/^auth: .*HTTP 401/,
		sub { $sim->options(keys => 'sk-another') },
		sub { sql($node, q{ALTER USER MAPPING FOR CURRENT_USER SERVER sim OPTIONS (SET api_key 'sk-another')}) }
	],
	[
		'no money', qr/^quota: .*insufficient_quota/,
		sub { $sim->options(quota_keys => 'sk-another') },
		sub { $sim->options(quota_keys => '') }
	],
	[
		'a disabled server', qr/^server "sim" is disabled/,
		sub { sql($node, q{ALTER SERVER sim OPTIONS (ADD enabled 'off')}) },
		sub { sql($node, q{ALTER SERVER sim OPTIONS (DROP enabled)}) }
	],
	[
		'no key', qr/there is no user mapping for server "sim"/,
		sub { sql($node, q{DROP USER MAPPING FOR CURRENT_USER SERVER sim}) },
		sub { sql($node, q{CREATE USER MAPPING FOR CURRENT_USER SERVER sim OPTIONS (api_key 'sk-new')}) }
	])
{
	my ($name, $reason, $break, $mend) = @$case;

	begin($name);
	# submit looks at keys and servers itself: break them between it and the worker
	$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
	$node->reload;
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker is gone');
	$job = submit($node, target => 'summary');
	$break->();
	$node->adjust_conf('postgresql.conf', 'llm_batch.enabled', 'on');
	$node->reload;
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", "$name: the job pauses");
	like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), $reason, "$name: and says why");
	is(sql($node, "SELECT queued + in_flight FROM llm_batch.progress WHERE job_id = $job"), $count, "$name: no item is charged for it");
	$mend->();
	sql($node, "SELECT llm_batch.resume($job)");
	is(wait_job($node, $job), 'succeeded', "$name: mended and resumed, it succeeds");
	check_job($node, $job);
	check_written($name);
	check_prompts_ran_once($sim, $count, "$name: each prompt ran once");
}

# ---- retry ----

sub items { return (items => [@_]) }

begin('retry');
sql($node, q{ALTER SERVER sim OPTIONS (SET max_batch_requests '100')});
$sim->rule({ times => 1 },
	items({ nth => 'every 10', do => { status_code => 400 } }, { nth => 'every 15', do => { length => $sim->true } }));
$job = submit($node, target => 'summary');
is(wait_job($node, $job), 'partial', 'some items failed');
my ($failed, $truncated) = split /\|/,
  sql($node, qq{SELECT count(*) FILTER (WHERE error_code = 'invalid_request'), count(*) FILTER (WHERE error_code = 'truncated')
			  FROM llm_batch.results WHERE job_id = $job});
cmp_ok($failed, '>', 0, 'some were refused');
cmp_ok($truncated, '>', 0, 'some were truncated');

my (undef, $stdout, $stderr) = $node->psql('postgres', "SELECT llm_batch.retry($job)");
is($stdout, $failed, 'retry() returns how many it sends again: not the truncated ones');
like($stderr, qr/NOTICE:  $failed of $count items will be sent again to model "gpt-6-luna", and paid again/, 'it says that they cost');
(undef, undef, $stderr) = $node->psql('postgres', "CALL llm_batch.wait($job)");
like($stderr, qr/WARNING:  job $job ended partial/, 'wait() right after it waits for what is sent again');
check_job($node, $job);
is(sql($node, "SELECT succeeded, failed FROM llm_batch.progress WHERE job_id = $job"), ($count - $truncated) . "|$truncated", 'they succeed');
is(($sim->batches)[1]->{total}, $failed, 'only they were sent');

(undef, $stdout, $stderr) = $node->psql('postgres', "SELECT llm_batch.retry($job)");
is($stdout, '0', 'a second time there is nothing to send');
like($stderr, qr/NOTICE:  job $job has no items to send again.*HINT:.*truncated/s, 'it says so, and how truncated ones are named');
is(sql($node, "SELECT llm_batch.retry($job, '{truncated}')"), $truncated, 'named, the truncated ones are sent');
is(wait_job($node, $job), 'succeeded', 'now all have succeeded');
check_job($node, $job);
check_written('retry');
is($sim->summary->{max_times_one_prompt_ran}, 2, 'the truncated ones were paid twice, as asked');

(undef, undef, $stderr) = $node->psql('postgres', "SELECT llm_batch.retry($job, '{misspelt}')", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($stderr, qr/ERROR:  22023: unknown error code misspelt/, 'an unknown code is an error');

begin('retry of what was cancelled');
$sim->rule({ times => 1 }, run_seconds => 30);
$job = submit($node, target => 'summary');
sql($node, "SELECT llm_batch.cancel($job)");
is(wait_job($node, $job), 'cancelled', 'cancelled');
my $left = sql($node, "SELECT cancelled FROM llm_batch.progress WHERE job_id = $job");
is(sql($node, "SELECT llm_batch.retry($job)"), '0', 'what was cancelled is sent again only when it is named');
is(sql($node, "SELECT llm_batch.retry($job, '{cancelled}')"), $left, 'named, all of it');
is(wait_job($node, $job), 'succeeded', 'and succeeds');
check_job($node, $job);
check_written('retry of what was cancelled');
check_sim($sim);

done_testing();
