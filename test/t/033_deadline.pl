# A deadline that passes while items are out: what was sent is stored and paid
# once, what was not ends as expired at once; nothing is sent afterwards.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $node = start_node();
my $sim = start_sim();
my $count = 200;

create_articles($node, $count);
foreach my $provider ([ 'openai', 'gpt-6-luna' ], [ 'anthropic', 'claude-haiku-5-5' ], [ 'gemini', 'gemini-3.5-flash-lite' ])
{
	my ($api, $model) = @$provider;
	my ($job, $got);

	# ten a second: some are sent within the deadline, most are not
	create_server($node, $sim, name => $api, api => $api, batch => 'off', requests_per_minute => 600);
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
	$job = submit($node, server => $api, model => $model, target => 'summary', mode => 'auto', deadline => '2 s');
	$got = wait_job($node, $job);
	is($got, 'partial', "$api: the job ends in part") or explain_job($node, $job);
	check_job($node, $job, "$api: counters");

	my ($succeeded, $failed) = split /\|/, sql($node, "SELECT succeeded, failed FROM llm_batch.progress WHERE job_id = $job");
	cmp_ok($succeeded, '>', 5, "$api: some were sent in time: $succeeded");
	cmp_ok($failed, '>', 50, "$api: and many were not: $failed");
	is(sql($node, "SELECT string_agg(DISTINCT error_code, ' ') FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"),
		'expired', "$api: these are expired");
	is(sql($node, "SELECT max(attempt) FROM llm_batch.attempts WHERE job_id = $job"), '1', "$api: each was decided once");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $succeeded, "$api: answers are in the table");
	is($sim->summary->{distinct_prompts_run}, $succeeded, "$api: and nothing else was sent");
	sleep(1);
	is($sim->summary->{distinct_prompts_run}, $succeeded, "$api: nor is it afterwards");
	check_bill($node, $sim, $job, "$api: the cost is the bill");
	check_sim($sim, "$api: the simulator is content");
}

done_testing();
