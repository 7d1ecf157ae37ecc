# What is shown as spent and saved is so, to the last digit, also after a
# crash; estimates learn from it; and a dump takes what is the user's along.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $COUNT = 40;
my $node = start_node(conf => ['llm_batch.write_back_rows = 100']);
my $sim = start_sim(options => { cached_fraction => 0.5, written_fraction => 0.25 });
my $system = 'A long instruction. ' x 1000;

# List prices by hand, USD per million: input, cached, written, output; and
# what cached input costs in a batch, as a factor.
my %LIST = (openai => [ 0.1, 0.01, 0.125, 0.5, 0.5 ], anthropic => [ 1, 0.1, 1.25, 5, 0.5 ], gemini => [ 0.3, 0.03, 0, 2.5, 1 ]);

sub costs
{
	my ($server, $select) = @_;
	return sql($node, "SELECT $select FROM llm_batch.costs WHERE server = '$server'");
}

# ---- what the cache and the batch saved, by provider ----

create_articles($node, $COUNT);
foreach my $api (sort keys %LIST)
{
	my ($input, $cached, $written, $output, $factor) = @{ $LIST{$api} };
	my @jobs;

	$sim->reset;
	$sim->options(cached_fraction => 0.5, written_fraction => 0.25);
	create_server($node, $sim, name => $api, api => $api);
	foreach my $mode (qw(batch realtime))
	{
		push @jobs, submit($node, server => $api, model => $LlmBatch::MODEL{$api}, mode => $mode, system => $system);
		is(wait_job($node, $jobs[-1]), 'succeeded', "$api, $mode: the job ends");
	}
	check_bill($node, $sim, \@jobs, $api);
	my $sums = "(SELECT sum(input_tokens) AS i, sum(cached_tokens) AS c, sum(cache_write_tokens) AS w, sum(output_tokens) AS o, sum(cost) AS cost
		FROM llm_batch.attempts WHERE job_id IN ($jobs[0], $jobs[1]))";
	my $list = "(i * $input + o * $output) / 1000000.0";
	my $in_real_time = "((i - c - w) * $input + c * $cached + w * $written + o * $output) / 1000000.0";
	my $halves = "(SELECT sum(input_tokens) AS i, sum(cached_tokens) AS c, sum(cache_write_tokens) AS w, sum(output_tokens) AS o
		FROM llm_batch.attempts WHERE job_id = $jobs[0])";

	# Anthropic caches what is marked for it, and nothing is
	is(sql($node, "SELECT c > 100000 FROM $sums s"), $api eq 'anthropic' ? 'f' : 't', "$api: there are cached tokens");
	is(sql($node, "SELECT cost = (SELECT sum(cost) FROM llm_batch.progress WHERE job_id IN ($jobs[0], $jobs[1])) FROM $sums s"),
		't', "$api: attempts and progress agree");
	is(costs($api, "attempts = 2 * $COUNT AND input_tokens = (SELECT i FROM $sums s) AND cached_tokens = (SELECT c FROM $sums s)
			AND cache_write_tokens = COALESCE((SELECT w FROM $sums s), 0) AND output_tokens = (SELECT o FROM $sums s)"),
		't', "$api: costs has their tokens");
	is(costs($api, "cost = (SELECT cost FROM $sums s)"), 't', "$api: and their cost");
	is(costs($api, "real_time_cost = (SELECT $list FROM $sums s)"), 't', "$api: one by one, nothing is cached");
	# the simulator keeps nothing for the longer time
	is(costs($api, "saved_prefix = (SELECT $list - (SELECT $in_real_time FROM (SELECT i, c, COALESCE(w, 0) AS w, o FROM $sums s) s) FROM $sums s)"),
		't', "$api: the prefix cache saved its part");
	is(costs($api, "saved_batch = (SELECT ((i - c - w) * $input * 0.5 + c * $cached * (1 - $factor) + w * $written * 0.5 + o * $output * 0.5) / 1000000.0
			FROM (SELECT i, c, COALESCE(w, 0) AS w, o FROM $halves s) s)"),
		't', "$api: batches saved theirs");
	is(costs($api, 'cost + saved = real_time_cost AND saved = saved_batch + saved_prefix AND cost_unknown = 0'), 't', "$api: all of it adds up");
	is(sql($node, "SELECT sum(saved) = (SELECT saved FROM llm_batch.costs WHERE server = '$api') FROM llm_batch.progress WHERE server = '$api'"),
		't', "$api: progress.saved says the same");
	is( sql($node, qq{
		SELECT abs(e.input_tokens - i / 2) < 0.02 * i AND abs(e.output_tokens - o / 2) < 0.02 * o
		FROM llm_batch.estimate('articles', '$LlmBatch::PROMPT', '$LlmBatch::MODEL{$api}', server => '$api', system => repeat('A long instruction. ', 1000)) e, $sums s WHERE e.asked}),
		't', "$api: the next estimate has learned");
	check_sim($sim, "$api: the simulator is content");
}

# ---- a crash between slices ----

$sim->reset;
$sim->options(cached_fraction => 0.5, written_fraction => 0.25);
create_articles($node, 4000, name => 'many');
my $job = submit($node, source => 'many', server => 'openai', target => 'summary');
wait_until($node, "SELECT succeeded > 0 FROM llm_batch.progress WHERE job_id = $job", 'the first slices are in');
$node->stop('immediate');
$node->start;
is(wait_job($node, $job), 'succeeded', 'after a crash the job ends');
check_bill($node, $sim, $job, 'after a crash');
is( sql($node, "SELECT p.cost = a.cost AND p.cost = s.cost AND p.saved = s.saved AND s.attempts = 4000
		FROM llm_batch.progress p, (SELECT sum(cost) AS cost FROM llm_batch.attempts WHERE job_id = $job) a,
			(SELECT sum(cost) AS cost, sum(real_time_cost - cost) AS saved, sum(attempts) AS attempts FROM llm_batch.spending WHERE job_id = $job) s
		WHERE p.job_id = $job"),
	't', 'every slice was counted once');

# ---- a dump ----

sql($node, q{
	INSERT INTO llm_batch.model (api, name, valid_from, input, output, note) VALUES
		('openai', 'gpt-6-luna', '2026-01-01', 0.08, 0.4, 'as negotiated'), ('openai', 'house-%', '-infinity', 0, 0, NULL)});
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
my $sql = slurp_file($dump);
like($sql, qr/house-%/, 'rows of the user are dumped');
unlike($sql, qr/gpt-6-astra/, 'the extension\'s are not');
sql($node, 'CREATE DATABASE copy');
$node->safe_psql('copy', $sql);
foreach my $table (qw(model calibration turnaround spending))
{
	my $contents = "SELECT count(*), md5(string_agg(r::text, ' ' ORDER BY r::text)) FROM llm_batch.$table r";
	is($node->safe_psql('copy', $contents), sql($node, $contents), "$table is the same in the copy");
}
is($node->safe_psql('copy', q{SELECT llm_batch.price('openai', 'gpt-6-luna', 1000000, mode => 'realtime', at => '2026-11-21')}), '0.16', 'the user\'s price counts there');

done_testing();
