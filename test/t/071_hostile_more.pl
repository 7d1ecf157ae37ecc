# More of a hostile provider: in real time; replies without end, and what they
# cost in memory; one that drips for ever beside one that is in order.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Hostile;
use LlmBatch;
use Test::More;
use Time::HiRes qw(time);

my $rows = 3;
my $key = 'sk-hostile-0123456789';
my %path = (
	openai => '^/v1/chat/completions$',
	anthropic => '^/v1/messages$',
	gemini => ':generateContent$');

# ---- real time: as many servers, each hostile once ----

my @cases;
foreach my $api (qw(openai anthropic gemini))
{
	push @cases, map { { api => $api, how => $_->[0], arg => $_->[1] } } (
		[ 'redirect' ],
		[ 'headers_endless' ],
		[ 'interim_storm' ],
		[ 'gzip_bomb' ],
		[ bytes => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\":\"x\"}" ],
		[ reply => { status => '999 What', body => '{}' } ],
		[ reply => { body => '<html>Sign in, please</html>', headers => ['Content-Type: text/html'] } ],
		[ reply => { body => '{"error":{"message":"but no"}}' } ],
		[ reply => { status => '529 x', body => "\xff\x00", headers => [ 'Retry-After: 31557600000000', "request-id: \xff", "x-request-id: \xfe\xff" ] } ],
		[ reply => { status => '429 x', body => '{}', headers => [
			'Retry-After: -1', 'x-ratelimit-reset-requests: 99999999999h', 'x-ratelimit-remaining-requests: 99999999999999999999',
			'anthropic-ratelimit-requests-reset: 9999-12-31T23:59:59Z', 'anthropic-ratelimit-requests-remaining: -5' ] } ],
		[ 'headers_drip' ],
		[ 'body_drip' ],
		[ 'empty' ],
		[ 'deep' ],
		[ bom => undef ]);
}
# answers that are whole, and strange all the same
my @strange = (
	[ openai => [ [ '"prompt_tokens": ?\d+', '"prompt_tokens":9223372036854775807' ], [ '"completion_tokens": ?\d+', '"completion_tokens":-1' ] ] ],
	[ anthropic => [ [ '"input_tokens": ?\d+', '"input_tokens":1e999' ], [ '"output_tokens": ?\d+', '"output_tokens":99999999999' ] ] ],
	[ gemini => [ [ '"promptTokenCount": ?\d+', '"promptTokenCount":99999999999999999999999' ], [ '"candidatesTokenCount": ?\d+', '"candidatesTokenCount":"x"' ] ] ]);
push @cases, map { { api => $_->[0], how => 'text', arg => $_->[1] } } @strange;

my $node = start_node(conf => [ 'max_files_per_process = 2000', 'shared_buffers = 16MB' ]);
my $sim = start_sim(options => { run_seconds => 0.05, validate_seconds => 0.02, finalize_seconds => 0.02 });
my $hostile = Hostile->start($sim);

create_articles($node, $rows * @cases);
create_server($node, $hostile, request_timeout => '2s', key => $key);
is(wait_job($node, submit($node, filter => 'id <= 3')), 'succeeded', 'through the proxy all is well');
my $pid = worker_pid($node);
my $before = rss_kb($pid);

sub case_server
{
	my ($n, $api, $more) = @_;
	my $url = $hostile->base_url($api, $n);

	return qq{
		CREATE SERVER case_$n FOREIGN DATA WRAPPER llm_batch OPTIONS (api '$api', base_url '$url', poll_min '50ms', poll_max '300ms',
			retry_base '50ms', retry_max '300ms', connect_timeout '5s', request_timeout '2s', settle_time '500ms' $more);
		CREATE USER MAPPING FOR CURRENT_USER SERVER case_$n OPTIONS (api_key '$key');
	};
}

my $script = '';
foreach my $n (0 .. $#cases)
{
	my $case = $cases[$n];
	my ($low, $high) = ($n * $rows + 1, ($n + 1) * $rows);

	$case->{name} = "real time, $case->{api}: $case->{how} #$n";
	$hostile->rule(case => "$n", method => 'POST', path => $path{ $case->{api} }, how => $case->{how}, arg => $case->{arg}, times => 1);
	$script .= case_server($n, $case->{api}, q{, batch 'off'}) . qq{
		SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', '$LlmBatch::MODEL{ $case->{api} }', 'summary', server => 'case_$n',
			filter => 'id BETWEEN $low AND $high');
	};
}
my $begin = time;
my @jobs = split /\n/, sql($node, $script);
my $most = $before;

sub watch_memory
{
	my ($until, $patience) = @_;
	my $end = time + $patience;

	while (time < $end)
	{
		my $kb = rss_kb($pid) // last;
		$most = $kb if $kb > $most;
		return 1 if sql($node, $until) eq 't';
		select undef, undef, undef, 0.1;
	}
	return 0;
}

watch_memory('SELECT count(*) = 0 FROM llm_batch.progress WHERE finished_at IS NULL', 2 * $LlmBatch::PATIENCE);
note(sprintf 'real time: %.1f s, memory from %d to %d kB', time - $begin, $before, $most);
my @ends = split /\n/, sql($node, qq{
	SELECT p.state, p.succeeded, count(a.id)
	FROM llm_batch.progress p
	LEFT JOIN articles a ON (a.id - 1) / $rows = p.job_id - $jobs[0] AND summary = $LlmBatch::RIGHT
	WHERE job_id >= $jobs[0]
	GROUP BY job_id, p.state, p.succeeded ORDER BY job_id});
foreach my $n (0 .. $#cases)
{
	is($ends[$n], "succeeded|$rows|$rows", "$cases[$n]{name}: it ends well") or explain_job($node, $jobs[$n]);
}
is(worker_pid($node), $pid, 'real time: the worker lives');
is(join(', ', map { "$_->{case} $_->{how}" } grep { !$_->{fired} } @{ $hostile->call('GET')->{rules} }), '', 'real time: all of it happened');
is(scalar($hostile->trapped), 0, 'real time: nothing went to where redirects point');
is( sql($node, q{SELECT count(*) > 20, count(*) FILTER (WHERE error IS NULL OR error = '') FROM llm_batch.attempts WHERE state = 'failed'}),
	't|0', 'real time: each failed attempt says why');
is( sql($node, q{SELECT count(*) FROM llm_batch.attempts WHERE input_tokens < 0 OR output_tokens < 0 OR cost < 0 OR cost > 1}),
	'0', 'real time: no count and no cost is absurd');

# ---- replies without end, and memory ----

$hostile->clear;
# the real-time jobs had their own share
$before = rss_kb($pid);
my $n = @cases;
sql($node, case_server($n, 'openai', ''));
foreach my $fault (
	[ GET => '/content$', 'long_line', 100, qr/a line of the reply is larger than \d+ bytes/ ],
	[ GET => '/content$', 'line_endless', undef, qr/a line of the reply is larger than \d+ bytes/ ],
	[ GET => '^/v1/batches/[^/?]+$', 'body_endless', undef, qr/the reply is larger than \d+ bytes/ ],
	[ POST => '^/v1/files$', 'body_endless', undef, qr/the reply is larger than \d+ bytes/ ])
{
	my ($method, $where, $how, $arg, $says) = @$fault;
	my $name = "$method $where: $how";

	$hostile->rule(case => "$n", method => $method, path => $where, how => $how, arg => $arg, times => 2);
	$most = $before;
	my $job = submit($node, server => "case_$n", filter => 'id <= 3');
	watch_memory("SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $job", $LlmBatch::PATIENCE);
	is(sql($node, "SELECT state, succeeded FROM llm_batch.progress WHERE job_id = $job"), "succeeded|3", "$name: it ends well")
	  or explain_job($node, $job);
	like(sql($node, "SELECT string_agg(message, ' / ') FROM llm_batch.events WHERE job_id = $job"), $says, "$name: an operator reads why");
  SKIP:
	{
		skip 'a sanitizer keeps what was freed', 1 if $ENV{LLM_BATCH_SANITIZED};
		cmp_ok($most - $before, '<', 64 * 1024, "$name: memory is bounded");
	}
	note("memory from $before to $most kB");
}
is(worker_pid($node), $pid, 'the worker lives');

# ---- one that drips for ever, and one that is in order ----

$hostile->clear;
$n++;
sql($node, case_server($n, 'openai', ''));
$hostile->rule(case => "$n", path => '.', how => 'body_drip');
my $stuck = submit($node, server => "case_$n", filter => 'id <= 3');
wait_until($node, "SELECT state = 'uploading' FROM llm_batch.batches WHERE job_id = $stuck", 'one provider drips');
$begin = time;
is(wait_job($node, submit($node, filter => 'id <= 3')), 'succeeded', 'the other goes on');
cmp_ok(time - $begin, '<', 15, 'and is not held up');
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $stuck"), 'running', 'the one still tries');
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $stuck AND message ~ 'next to nothing, for 2000 ms'", 'and says why');
sql($node, "SELECT llm_batch.cancel($stuck)");
is(wait_job($node, $stuck, limit => 20), 'cancelled', 'it can be cancelled');

# ---- check_server is told in plain words as well ----

$hostile->clear;
$n++;
sql($node, case_server($n, 'openai', ''));
foreach my $look (
	[ redirect => undef, qr/HTTP 307|redirect/ ],
	[ gzip_bomb => undef, qr/compressed/ ],
	[ headers_endless => undef, qr/headers of the reply have no end/ ],
	[ reply => { body => '<html>Sign in, please</html>' }, qr/./ ],
	[ body_endless => undef, qr/the reply is larger/ ])
{
	my ($how, $arg, $says) = @$look;

	$hostile->rule(case => "$n", path => '/models', how => $how, arg => $arg, times => 1);
	my (undef, undef, $words) = $node->psql('postgres', "CALL llm_batch.check_server('case_$n')");
	like($words, qr/ERROR/, "check_server, $how: fails");
	like($words, $says, "check_server, $how: says why");
	unlike($words, qr/$key|Sign in|connection to server was lost/, "check_server, $how: without a key or a provider's words");
}
is(worker_pid($node), $pid, 'the worker lives');

# ---- a schema that is none: it is the user's, and the worker lives ----

my ($status, $out, $error) = $node->psql('postgres',
	q{SELECT llm_batch.submit('articles', 'Say: {{body}}', 'mock', server => 'mock', filter => 'id <= 3', schema => '{"type":"object","properties":["v"],"required":7}')});
if ($status == 0)
{
	like(wait_job($node, $out), qr/^(succeeded|partial|failed)$/, 'a schema with an array for properties: the job ends');
}
else
{
	like($error, qr/ERROR:.*schema/, 'a schema with an array for properties is refused');
}
is(worker_pid($node), $pid, 'and the worker lives');

is(sql($node, qq{SELECT count(*) FROM llm_batch.events WHERE message ~ '$key|speaks|words and|Sign in|but no'}), '0',
	'no key, no prompt and no words of a provider in events');

done_testing();
