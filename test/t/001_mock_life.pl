# A job's whole life on the server that needs no key and no network.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(time);

my $node = start_node();

sub create_mock
{
	my ($name, %opt) = @_;
	my $list = join ', ', map { "$_ " . quote($opt{$_}) } sort keys %opt;

	sql($node, "CREATE SERVER $name FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', $list)");
}

# Which of the first rows the last job left without a summary.
sub unanswered
{
	my ($count) = @_;
	my $ids = sql($node, "SELECT array_agg(id ORDER BY id) FROM articles WHERE summary IS NULL AND id <= $count");

	sql($node, 'UPDATE articles SET summary = NULL');
	return $ids;
}

create_articles($node, 400);

# The server that is there after CREATE EXTENSION.
my $job = submit($node, server => 'mock', target => 'summary');
is(watch_job($node, $job, 'mock'), 'succeeded', 'a job on server "mock" succeeds');
check_job($node, $job);
is(sql($node, "SELECT count(*) FROM articles WHERE summary LIKE 'Article ' || id || ' %'"), '400',
	'each row has the answer to its own prompt');
is( sql($node, "SELECT string_agg(kind, ' ' ORDER BY event_id) FROM llm_batch.events WHERE job_id = $job AND batch_id IS NOT NULL"),
	'planned uploaded submitted ended finalized',
	'events tell the life of its batch');
is(sql($node, "SELECT cost, cost_unknown FROM llm_batch.progress WHERE job_id = $job"), '0|0', 'it is known to have cost nothing');
is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND input_tokens > 0 AND output_tokens > 0"), '400',
	'every result tells its tokens');
is(sql($node, "SELECT count(*) FROM llm_batch.prompt WHERE job_id = $job"), '0', 'its prompts are gone');
unanswered(0);

# Failures are retried until they succeed ...
create_mock('shaky', latency => '50ms', failure_rate => '0.3', seed => 5, max_attempts => 20, retry_base => '10ms', retry_max => '50ms');
$job = submit($node, server => 'shaky', target => 'summary');
is(watch_job($node, $job, 'failure_rate 0.3', falls => 1), 'succeeded', 'with a failure rate of 0.3 all succeed in the end');
check_job($node, $job);
is(unanswered(400), '', 'all rows have their summary');
cmp_ok(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND attempt = 1 AND state = 'failed' AND error_code = 'provider_error'"),
	'>', 60, 'some first attempts had failed');
is( sql($node, qq{
		SELECT count(*) FROM (
			SELECT ordinal FROM llm_batch.attempts WHERE job_id = $job GROUP BY ordinal
			HAVING count(*) <> max(attempt) OR count(*) FILTER (WHERE state = 'succeeded') <> 1) x}),
	'0', 'attempts are numbered without a gap, and one of each item succeeded');

# ... or until there have been max_attempts.
create_mock('broken', latency => '20ms', failure_rate => '1', max_attempts => 3, retry_base => '10ms', retry_max => '50ms');
$job = submit($node, server => 'broken', target => 'summary', limit => 30);
is(watch_job($node, $job, 'failure_rate 1', falls => 1), 'failed', 'a job without any success has failed');
check_job($node, $job);
is(sql($node, "SELECT count(*), min(attempt), max(attempt), min(error_code), max(error_code) FROM llm_batch.results WHERE job_id = $job"),
	'30|3|3|provider_error|provider_error', 'each item failed after three attempts');
my ($code, undef, $stderr) = $node->psql('postgres', "CALL llm_batch.wait($job)");
like($stderr, qr/ERROR:  job $job failed: none of 30 items succeeded/, 'wait() says so with an error');

# The seed decides which requests fail: a demonstration can be repeated.
my %failed;
foreach my $seed (7, 8)
{
	create_mock("seed$seed", latency => '20ms', failure_rate => '0.5', seed => $seed, max_attempts => 1);
	foreach my $run (1, 2)
	{
		$job = submit($node, server => "seed$seed", target => 'summary', filter => 'id <= 40');
		is(wait_job($node, $job), 'partial', "seed $seed, run $run: some fail, some do not");
		$failed{$seed}[$run] = unanswered(40);
	}
	is($failed{$seed}[1], $failed{$seed}[2], "seed $seed: the same ones each time");
}
isnt($failed{7}[1], $failed{8}[1], 'another seed, others');

# Latency: the batch takes that long, and its progress is seen meanwhile.
create_mock('slow', latency => '2s', poll_min => '50ms', poll_max => '100ms');
my $begin = time;
my $between = 0;
$job = submit($node, server => 'slow', target => 'summary');
is(wait_job($node, $job, each => sub { $between++ if $_[0]->{percent} > 10 && $_[0]->{percent} < 90 }), 'succeeded', 'latency 2s: succeeded');
cmp_ok(time - $begin, '>', 2, 'it took no less than its latency');
cmp_ok($between, '>', 3, 'progress was seen in between');

done_testing();
