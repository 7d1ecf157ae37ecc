# Real time while something breaks: USAGE is revoked, the key is taken away,
# the provider is slow beyond patience.  What was answered stays, nothing is
# sent without a right to it, and the rest goes on when things are mended.
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

create_articles($node, $count);
# ten a second, so that there is a middle to break in
create_server($node, $sim, batch => 'off', requests_per_minute => 600, request_timeout => '1s');
sql($node, q{
	CREATE ROLE alice LOGIN;
	GRANT SELECT, UPDATE ON articles TO alice;
	GRANT USAGE ON FOREIGN SERVER sim TO alice;
	CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key 'sk-alice')});

sub begin_job
{
	my ($name) = @_;

	note("--- $name");
	$sim->clear_rules;
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
	my $job = sql($node, qq{SET ROLE alice; SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', 'gpt-6-luna', target => 'summary', server => 'sim')});
	wait_until($node, "SELECT succeeded > 3 FROM llm_batch.progress WHERE job_id = $job", "$name: it is under way");
	return $job;
}

# Pauses for that reason, and sends nothing while it is.
sub check_stands_still
{
	my ($name, $job, $reason) = @_;

	wait_until($node, "SELECT state = 'paused' AND reason ~ '$reason' FROM llm_batch.progress WHERE job_id = $job", "$name: the job pauses, and says why")
	  or explain_job($node, $job);
	sleep(0.5);
	my $calls = $sim->summary->{realtime_calls};
	sleep(1);
	is($sim->summary->{realtime_calls}, $calls, "$name: nothing is sent");
	cmp_ok($calls, '<', $count, "$name: and not all had been");
}

sub check_goes_on
{
	my ($name, $job) = @_;

	sql($node, "SELECT llm_batch.resume($job)");
	is(wait_job($node, $job), 'succeeded', "$name: mended and resumed, it ends well") or explain_job($node, $job);
	check_job($node, $job, $name);
	is(join(' ', @{ $sim->summary }{qw(distinct_prompts_run max_times_one_prompt_ran)}), "$count 1", "$name: each prompt ran once");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer");
	check_bill($node, $sim, $job, "$name: the cost is the bill");
}

my $name = 'USAGE revoked';
my $job = begin_job($name);
sql($node, 'REVOKE USAGE ON FOREIGN SERVER sim FROM alice');
check_stands_still($name, $job, 'has lost USAGE');
sql($node, 'GRANT USAGE ON FOREIGN SERVER sim TO alice');
check_goes_on($name, $job);

$name = 'mapping dropped';
$job = begin_job($name);
sql($node, 'DROP USER MAPPING FOR alice SERVER sim');
check_stands_still($name, $job, 'no user mapping');
sql($node, q{CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key 'sk-alice')});
check_goes_on($name, $job);

# ---- two answers come after request_timeout: sent and not answered ----

$name = 'a slow provider';
$job = begin_job($name);
$sim->fault({ method => 'POST', path => '^/v1/chat/completions$', times => 2 }, { stall => 3 });
is(wait_job($node, $job), 'succeeded', "$name: the job ends well") or explain_job($node, $job);
is(sql($node, "SELECT uncertain, cost_unknown FROM llm_batch.progress WHERE job_id = $job"), '2|2',
	"$name: two are uncertain, and their cost unknown");
is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND error_code = 'unanswered'"), '2', "$name: these were not answered");
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer all the same");
check_sim($sim, "$name: the simulator is content");

# ---- a neighbour that is slow does not hold up a second try: the first to arrive fails, the next is slow ----

$sim->clear_rules;
$sim->reset;
create_server($node, $sim, name => 'patient', batch => 'off', retry_base => '100ms', retry_max => '200ms');
$sim->rule({ mode => 'realtime' }, items => [ { nth => 1, do => { status_code => 500 } } ]);
$sim->fault({ method => 'POST', path => '^/v1/chat/completions$', nth => 2 }, { stall_before => 6 });
my $pair = sql($node, qq{SELECT llm_batch.submit_prompts('{"One of two.","The other one."}', '$LlmBatch::MODEL', server => 'patient')});
wait_until($node, "SELECT succeeded = 1 FROM llm_batch.progress WHERE job_id = $pair", 'one is answered');
is(sql($node, "SELECT string_agg(attempt || ' ' || state, ', ' ORDER BY attempt DESC) FROM llm_batch.results WHERE job_id = $pair"), '2 succeeded, 0 in_flight',
	'it is the one that was tried again, while the other is still out');
is(wait_job($node, $pair), 'succeeded', 'which is waited for');

done_testing();
