# Every request that leaves is valid by its provider's published OpenAPI
# document: jobs of many shapes, recorded and held against it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $specs = ($ENV{LLM_BATCH_SHARED} // "$FindBin::RealBin/../../../shared") . '/specs';
plan skip_all => "the providers' OpenAPI documents are not there ($specs)" if !-d $specs;

# What each provider must have been seen to be asked for, or nothing was tested.
my %ASKED = (
	openai => [
		'POST /v1/files', 'POST /v1/batches', 'GET /v1/batches/{batch_id}', 'GET /v1/files/{file_id}/content',
		'POST /v1/batches/{batch_id}/cancel', 'GET /v1/batches', 'GET /v1/files', 'DELETE /v1/files/{file_id}',
		'POST /v1/chat/completions', 'POST /v1/responses', 'POST /v1/embeddings', 'GET /v1/models' ],
	anthropic => [
		'POST /v1/messages/batches', 'GET /v1/messages/batches/{message_batch_id}',
		'GET /v1/messages/batches/{message_batch_id}/results', 'POST /v1/messages/batches/{message_batch_id}/cancel',
		'GET /v1/messages/batches', 'POST /v1/messages', 'GET /v1/models' ],
	gemini => [
		'POST /upload/v1beta/files', 'POST /v1beta/models/{model}:batchGenerateContent',
		'GET /v1beta/batches/{generateContentBatch}', 'POST /v1beta/batches/{generateContentBatch}:cancel',
		'GET /v1beta/batches', 'GET /v1beta/files', 'DELETE /v1beta/files/{file}', 'POST /v1beta/models/{model}:generateContent',
		'GET /v1beta/models' ]);

my $node = start_node();
my $sim = start_sim(record => 1);

create_typed_articles($node, 6);
sql($node, q{
	ALTER TABLE articles ADD due date, ADD seen timestamptz, ADD tags text[], ADD price numeric(8, 2) NOT NULL DEFAULT 0,
		ADD rest jsonb, ADD ratio double precision, ADD vector real[]});

# run($api, %arguments): a job of this shape, in both modes; it must succeed.
sub run
{
	my ($api, $name, %arg) = @_;
	my $server = delete $arg{server} // $api;

	foreach my $mode (qw(batch realtime))
	{
		my $job = submit($node, server => $server, model => $LlmBatch::MODEL{$api}, target => 'summary', mode => $mode, %arg);
		is(wait_job($node, $job), 'succeeded', "$server, $mode: $name") or explain_job($node, $job);
	}
}

foreach my $api (sort keys %ASKED)
{
	create_server($node, $sim, name => $api, api => $api, settle_time => '1s', request_timeout => '5s');
	sql($node, "CALL llm_batch.check_server('$api')");
	pass("$api: check_server");
	run($api, 'plain');
	run($api, 'a system prompt', system => 'Answer in one sentence.');
	run($api, 'parameters', params => '{"max_tokens": 300}');
	run($api, 'characters of all kinds', prompt => qq{Say "\\ \x{1}\t \x{fc}\x{4e2d}\x{1f600}": {{body}}});
	run($api, 'typed columns', target => 'summary, mood, score, urgent');
	run($api, 'all types of columns', target => 'mood, score, urgent, due, seen, tags, price, rest, ratio');
	run($api, 'a schema of its own',
		schema => '{"type": "object", "properties": {"summary": {"type": "string", "description": "in one sentence"}}, '
		  . '"required": ["summary"], "additionalProperties": false}');
	foreach my $mode (qw(batch realtime))
	{
		my $job = sql($node, qq{
			SELECT llm_batch.submit_query(\$q\$
				SELECT id::text AS key, NULL::text AS prompt, jsonb_build_array(
					jsonb_build_object('role', 'user', 'content', 'Is this good?'),
					jsonb_build_object('role', 'assistant', 'content', 'I need to see it.'),
					jsonb_build_object('role', 'user', 'content', body)) AS messages
				FROM articles\$q\$, '$LlmBatch::MODEL{$api}', server => '$api', mode => '$mode')});
		is(wait_job($node, $job), 'succeeded', "$api, $mode: messages") or explain_job($node, $job);
	}

	# listings, and a cancel
	$sim->fault({ method => 'POST', path => '^.*/files$', nth => $api eq 'gemini' ? 2 : 1, times => 1 }, { cut_after_commit => $sim->true });
	$sim->fault({ method => 'POST', path => '^.*(/batches|:batchGenerateContent)$', times => 1 }, { cut_after_commit => $sim->true });
	my $job = submit($node, server => $api, model => $LlmBatch::MODEL{$api}, target => 'summary');
	is(wait_job($node, $job), 'succeeded', "$api: a batch that was looked for") or explain_job($node, $job);
	$sim->rule({}, run_seconds => 20);
	$job = submit($node, server => $api, model => $LlmBatch::MODEL{$api}, target => 'summary');
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'it runs');
	sql($node, "SELECT llm_batch.cancel($job)");
	is(wait_job($node, $job), 'cancelled', "$api: a batch that was cancelled");
	$sim->clear_rules;
}

# ---- what models of other classes take ----

run('openai', 'a model that thinks, and how much', params => '{"reasoning_effort": "low", "max_tokens": 5000}');
run('openai', 'sampling', model => 'gpt-4.1-nano', params => '{"temperature": 0.2, "top_p": 0.9, "seed": 7, "stop": ["END"]}');
run('anthropic', 'sampling', params => '{"temperature": 0.2, "stop": ["END"]}');
run('anthropic', 'a model that thinks by itself', model => 'claude-haiku-5-5', params => '{"reasoning_effort": "low"}');
run('anthropic', 'a budget for thinking', params => '{"reasoning_effort": "medium", "max_tokens": 8000}');
run('gemini', 'sampling', params => '{"temperature": 0.2, "top_p": 0.9, "seed": 7, "stop": ["END"]}');
run('gemini', 'how much it thinks', params => '{"reasoning_effort": "low"}');
run('gemini', 'a budget for thinking', model => 'gemini-2.5-flash', params => '{"reasoning_effort": "low"}');

foreach my $mode (qw(batch realtime))
{
	my $job = sql($node, qq{
		SELECT llm_batch.submit_query(\$q\$
			SELECT id::text AS key, NULL::text AS prompt, jsonb_build_array(jsonb_build_object('role', 'user', 'content', jsonb_build_array(
				jsonb_build_object('type', 'text', 'text', 'Long instructions.', 'cache_control', '{"type": "ephemeral", "ttl": "1h"}'::jsonb),
				jsonb_build_object('type', 'text', 'text', body)))) AS messages
			FROM articles\$q\$, '$LlmBatch::MODEL{anthropic}', server => 'anthropic', mode => '$mode')});
	is(wait_job($node, $job), 'succeeded', "anthropic, $mode: marked parts of messages") or explain_job($node, $job);
}

# ---- OpenAI's other endpoints ----

create_server($node, $sim, name => 'responses', endpoint => 'responses');
run('openai', 'plain', server => 'responses');
run('openai', 'a system prompt and parameters', server => 'responses', system => 'Be brief.',
	params => '{"max_tokens": 3000, "reasoning_effort": "low"}');
run('openai', 'typed columns', server => 'responses', target => 'summary, mood, score, urgent');
create_server($node, $sim, name => 'embeddings', endpoint => 'embeddings');
run('openai', 'a vector', server => 'embeddings', model => 'text-embedding-3-small', target => 'vector');
run('openai', 'a short vector', server => 'embeddings', model => 'text-embedding-3-small', target => 'vector',
	params => '{"dimensions": 16}');

check_sim($sim);

# ---- all that was sent ----

$node->stop;
my $counts = validate_record($sim);
foreach my $api (sort keys %ASKED)
{
	foreach my $operation (@{ $ASKED{$api} })
	{
		cmp_ok($counts->{"$api $operation"} // 0, '>', 0, "$api was asked $operation");
	}
}
note("$counts->{$_} $_") foreach sort keys %$counts;

# ---- and the validator is not blind ----

open my $in, '<', $sim->record_file or die;
my ($line) = grep { m{"/v1/chat/completions"} && m{"POST"} } <$in>;
my $spoilt = "$PostgreSQL::Test::Utils::tmp_check/spoilt.jsonl";
$line =~ s/max_completion_tokens|\\"model\\":/my $found = $&; $found =~ m{model} ? '\\"temprature\\": 1, \\"model\\":' : $found/e;
open my $out, '>', $spoilt or die;
print $out $line;
close $out;
my $said = qx{'$sim->{python}' '$FindBin::RealBin/../openapi/validate' --specs '$specs' '$spoilt'};
is($? >> 8, 1, 'a member too many in a recorded request is found');
like($said, qr{^problem: openai POST /v1/chat/completions, request \d+: .*temprature}m, 'and named');

done_testing();
