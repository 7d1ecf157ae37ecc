# Prices that a request's own size or marks change: prompts past a provider's
# limit for long ones, and prefixes that are marked to be cached.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node(conf => [q{llm_batch.max_prompt_size = '4MB'}]);
my $sim = start_sim();

create_articles($node, 3);

# A model of each provider, and the tokens past which all of a request is
# dearer.  A token of the simulator is four bytes.
my %LONG = (openai => [ 'gpt-6-luna', 272000 ], anthropic => [ 'claude-haiku-5-5', 100000 ], gemini => [ 'gemini-2.5-pro', 200000 ]);

foreach my $api (sort keys %LONG)
{
	my ($model, $limit) = @{ $LONG{$api} };

	create_server($node, $sim, name => $api, api => $api);
	# just below, just above, and a short one
	sql($node, qq{
		UPDATE articles SET body = format('Article %s speaks. ', id) || CASE WHEN id < 3 THEN
			repeat('x', $limit * 4 + CASE id WHEN 1 THEN -4000 ELSE 4000 END) ELSE '' END});
	foreach my $mode (qw(batch realtime))
	{
		$sim->reset;
		my $job = submit($node, target => 'summary', mode => $mode, server => $api, model => $model);
		is(wait_job($node, $job), 'succeeded', "$api, $mode: long prompts are answered") or explain_job($node, $job);
		is( sql($node, "SELECT count(*) FILTER (WHERE input_tokens > $limit), count(*) FILTER (WHERE input_tokens BETWEEN $limit - 2000 AND $limit)
				FROM llm_batch.results WHERE job_id = $job"),
			'1|1', "$api, $mode: one is past the limit, one is below");
		is( sql($node, qq{
				SELECT max(cost) FILTER (WHERE input_tokens > $limit) > 1.5 * max(cost) FILTER (WHERE input_tokens <= $limit)
				FROM llm_batch.results WHERE job_id = $job}),
			't', "$api, $mode: and dearer by far");
		check_bill($node, $sim, $job, "$api, $mode: long prompts");
	}
}

foreach my $mode (qw(batch realtime))
{
	$sim->reset;
	$sim->options(cached_fraction => 0.5, written_fraction => 0.25);
	foreach my $ttl (qw(5m 1h))
	{
		my $job = sql($node, qq{
			SELECT llm_batch.submit_query(\$q\$
				SELECT id::text AS key, NULL::text AS prompt, jsonb_build_array(jsonb_build_object('role', 'user', 'content', jsonb_build_array(
					jsonb_build_object('type', 'text', 'text', repeat('Long instructions. ', 3000),
						'cache_control', '{"type": "ephemeral", "ttl": "$ttl"}'::jsonb),
					jsonb_build_object('type', 'text', 'text', format('Article %s, $ttl', id))))) AS messages
				FROM articles\$q\$, 'claude-haiku-4-5', server => 'anthropic', mode => '$mode')});
		is(wait_job($node, $job), 'succeeded', "anthropic, $mode, $ttl: marked prompts are answered") or explain_job($node, $job);
		is(sql($node, "SELECT bool_and(cached_tokens > 5000 AND cache_write_tokens > 2500) FROM llm_batch.results WHERE job_id = $job"), 't',
			"anthropic, $mode, $ttl: what was read from the cache, and what was written to it, is shown");
	}
	my $jobs = sql($node, "SELECT string_agg(job_id::text, ' ') FROM (SELECT job_id FROM llm_batch.progress ORDER BY job_id DESC LIMIT 2) x");
	check_bill($node, $sim, [ split ' ', $jobs ], "anthropic, $mode: five minutes and an hour of cache");
	is(sql($node, "SELECT count(DISTINCT cost) FROM llm_batch.progress WHERE job_id IN (" . join(', ', split ' ', $jobs) . ')'), '2',
		"anthropic, $mode: the hour is dearer");
}

check_sim($sim);
done_testing();
