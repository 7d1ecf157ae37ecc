# The same job on each provider, in batch and in real time: the same answers
# in the same typed columns, and the cost that is shown is the bill.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $count = 40;
my $COLUMNS = 'summary, mood, score, urgent';
my $node = start_node();
my $sim = start_sim(options => { reasoning_tokens => 20 });

create_typed_articles($node, $count);
sql($node, 'UPDATE articles SET body = body || repeat(\' and more\', (id % 7)::int)');

# The answers of one run, as text.
sub answers
{
	my $rows = sql($node, "SELECT id, $COLUMNS FROM articles ORDER BY id");

	sql($node, 'UPDATE articles SET summary = NULL, mood = NULL, score = NULL, urgent = NULL');
	return $rows;
}

my ($first, $first_name);
foreach my $api (qw(openai anthropic gemini))
{
	create_server($node, $sim, name => $api, api => $api, max_batch_requests => 25);
	foreach my $mode (qw(batch realtime))
	{
		my $name = "$api, $mode";

		$sim->reset;
		my $job = submit($node, target => $COLUMNS, server => $api, model => $LlmBatch::MODEL{$api}, mode => $mode);
		is(watch_job($node, $job, $name), 'succeeded', "$name: the job succeeded") or explain_job($node, $job);
		check_job($node, $job, $name);
		is( sql($node, qq{
				SELECT count(*) FROM articles
				WHERE summary <> '' AND mood IS NOT NULL AND score IS NOT NULL AND urgent IS NOT NULL}),
			$count, "$name: every column of every row has an answer");
		is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: each row has its own");
		is( sql($node, qq{
				SELECT count(*) FROM articles JOIN llm_batch.results r ON r.key = id::text AND r.job_id = $job
				WHERE (r.answer_json->>'mood', r.answer_json->>'score', r.answer_json->>'urgent', r.answer_json->>'summary')
					= (mood::text, score::text, urgent::text, summary)}),
			$count, "$name: what stands in the columns is what was answered");
		is(sql($node, 'SELECT count(DISTINCT mood), count(DISTINCT score) > 10, count(DISTINCT urgent) FROM articles'), '3|t|2',
			"$name: the answers differ from row to row");
		check_bill($node, $sim, $job, $name);
		my $summary = $sim->summary;
		is("@$summary{qw(distinct_prompts_run max_times_one_prompt_ran)}", "$count 1", "$name: every prompt ran once");
		check_sim($sim, "$name: the simulator is content");

		my $answers = answers();
		($first, $first_name) = ($answers, $name) if !defined $first;
		is($answers, $first, "$name: the same answers as with $first_name");
	}
}

# What a batch costs is half of what real time does, and progress said so.
is( sql($node, q{
		SELECT count(*) FROM llm_batch.progress b JOIN llm_batch.progress r USING (server, model)
		WHERE b.mode = 'batch' AND r.mode = 'realtime' AND b.cost + b.saved = r.cost AND b.cost < r.cost AND r.saved = 0}),
	'3', 'cost and saved of the batch are the cost in real time, with each provider');

done_testing();
