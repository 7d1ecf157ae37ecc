# A provider, or somebody who plays it, sends what no provider would, to every
# call of a batch's life.  Some hundred servers at a time, each with another
# way of being hostile: the worker lives, each job ends as it should once the
# fault is gone, nothing is run twice, and nobody disturbs the others.
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

my %call = (
	openai => {
		upload => [ POST => '^/v1/files$' ],
		create => [ POST => '^/v1/batches$' ],
		poll => [ GET => '^/v1/batches/[^/?]+$' ],
		list => [ GET => '^/v1/batches[?]' ],
		fetch => [ GET => '/content$' ]
	},
	anthropic => {
		create => [ POST => '^/v1/messages/batches$' ],
		poll => [ GET => '^/v1/messages/batches/[^/?]+$' ],
		list => [ GET => '^/v1/messages/batches[?]' ],
		fetch => [ GET => '/results$' ]
	},
	gemini => {
		upload => [ POST => '^/upload/v1beta/files$' ],
		create => [ POST => ':batchGenerateContent$' ],
		poll => [ GET => '^/v1beta/batches/[^/?]+$' ],
		list => [ GET => '^/v1beta/batches[?]' ],
		fetch => [ GET => ':download' ]
	});
my %id_member = (openai => 'custom_id', anthropic => 'custom_id', gemini => 'key');

# ---- what is done to whom ----

# Each: provider, call, how, arg, and perhaps
#	times	how often (2); "all": until the rest has ended
#	says	what an operator reads in events
#	never	what stands there in no case
#	counts	what polls are made to say of counts, always
#	altered	the answers are not what the row would have them be
my @cases;

sub add
{
	my ($api, $call, $how, $arg, %more) = @_;
	push @cases, { api => $api, call => $call, how => $how, arg => $arg, times => 2, %more };
}

# what is no HTTP, or no end of it
foreach my $call (qw(upload poll fetch))
{
	add('openai', $call, 'redirect', undef, says => qr/HTTP 307/);
	add('openai', $call, 'headers_endless', undef, says => qr/headers of the reply have no end/);
	add('openai', $call, 'header_huge', undef, says => qr/could not|headers|exchange|reply/);
	add('openai', $call, 'interim_storm', undef, says => qr/headers of the reply have no end/);
	add('openai', $call, 'gzip_bomb', undef, says => qr/compressed/);
	add('openai', $call, 'gzip_cut', undef, says => qr/compressed/);
	add('openai', $call, 'gzip_in_transfer', undef, says => qr/compressed/);
	add('openai', $call, 'trailers_endless', undef, says => qr/headers of the reply have no end/);
	add('openai', $call, 'two_replies', undef) if $call ne 'fetch';
	add('openai', $call, 'bytes', "SSH-2.0-OpenSSH_9.2\r\n", says => qr/does not speak HTTP|lost|no HTTP status/);
	add('openai', $call, 'bytes', "HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n");
	add('openai', $call, 'bytes', "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\":\"x\"}", says => qr/cut off/);
	add('openai', $call, 'bytes', "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}");
	add('openai', $call, 'bytes', "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
	add('openai', $call, 'bytes', "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx");
	add('openai', $call, 'reply', { status => '999 What', body => '{}' }, $call eq 'fetch' ? (says => qr/HTTP 999/) : ());
	add('openai', $call, 'reply', { status => '200 OK', body => '<html>Sign in, please</html>', headers => ['Content-Type: text/html'] }, times => 1)
	  if $call ne 'fetch';
	add('openai', $call, 'reply', { body => "\xff\xfe\x00\x00" }, times => 1) if $call ne 'fetch';
}
add('openai', 'upload', 'headers_drip', undef, times => 1, says => qr/next to nothing, for/);
add('openai', 'poll', 'headers_drip', undef, times => 1, says => qr/did not answer within/);
add('openai', 'fetch', 'headers_drip', undef, times => 1, says => qr/next to nothing, for/);
add('openai', 'poll', 'body_drip', undef, times => 1, says => qr/did not answer within/);
add('openai', 'fetch', 'body_drip', undef, times => 1, says => qr/next to nothing, for/);
add('openai', 'poll', 'status_drip', undef, times => 1, says => qr/./);

# the create: whatever comes back, the batch may be there, and is looked for
add('openai', 'create', 'redirect', undef, times => 1);
foreach my $api (qw(openai anthropic gemini))
{
	my $id = $api eq 'gemini' ? 'name' : 'id';

	add($api, 'create', 'reply', { body => '{"error":{"message":"but no"}}' }, times => 1, says => qr/looking for it/);
	add($api, 'create', 'merge', { $id => $_ }, times => 1, says => qr/looking for it/)
	  foreach "b/../../files", "b\r\nX-Evil: 1", "b\"?x=1#y", "batches/..", "%2e%2e", ' ', "b\x{0}", 'x' x 5000;
	add($api, 'create', 'text', [ [ '(?s)^.+$', '{"id":1e999,"name":NaN}' ] ], times => 1, says => qr/looking for it/);
	add($api, 'create', 'deep', undef, times => 1, says => qr/looking for it/);
	# a listing that never ends proves nothing
	add($api, 'list', 'list_endless', $_, times => $_ eq 'same' ? 2 : 1000, first => 'create', says => qr/does not end/)
	  foreach 'same', $api eq 'openai' ? 'other' : ();
}

# polls
my @polls = (
	openai => [
		{ 'request_counts.total' => 1000000000000000000, 'request_counts.completed' => 1000000000000000000, 'request_counts.failed' => -1000000000000000000 },
		{ request_counts => 'NaN', metadata => undef },
		{ output_file_id => '../secret', error_file_id => "x\ny" },
		{ created_at => -100000000000000000, status => 'completed ' },
		{ object => 'elephant' }
	],
	anthropic => [
		{ 'request_counts.succeeded' => 1000000000000000000, 'request_counts.expired' => -5 },
		{ created_at => '9999-99-99T99:99:99Z', expires_at => 'never', processing_status => "ended\n" },
		{ results_url => 'https://169.254.169.254/latest/meta-data', id => '../x' },
	],
	gemini => [
		{ 'metadata.batchStats.requestCount' => '1' . '0' x 30, 'metadata.batchStats.failedRequestCount' => -7 },
		{ 'metadata.createTime' => '0000-00-00T00:00:00Z', name => 'batches/../../x' },
		{ 'metadata' => 7 },
	]);
while (my ($api, $merges) = splice @polls, 0, 2)
{
	add($api, 'poll', 'merge', $_) foreach @$merges;
}
add('openai', 'poll', 'reply', { status => '503 x', headers => ["Retry-After: $_"] }, says => qr/the poll did not succeed/, never => qr/next in [1-9]/)
  foreach '31557600000000', '-5', 'tomorrow', '1e300', 'Fri, 31 Dec 9999 23:59:59 GMT', 'nan', '0x10';

# result files
foreach my $api (qw(openai anthropic gemini))
{
	add($api, 'fetch', $_, undef) foreach qw(bom crlf nul deep twice);
	add($api, 'fetch', 'half', undef, times => 1, says => qr/lines for 1 requests, and 3 were counted/);
	add($api, 'fetch', 'empty', undef, times => 1, says => qr/are read again/);
	add($api, 'fetch', 'strangers', $id_member{$api}, says => qr/belong to no item/);
	add($api, 'fetch', 'before', qq("\\ud800 \xff\xed\xa0\x80"\n{"$id_member{$api}":1e999}\n[NaN]\n{"$id_member{$api}":"x","$id_member{$api}":"y"}\n));
	add($api, 'fetch', 'lines_endless', undef, times => 1, says => qr/does not end/);
}
add('openai', 'fetch', 'blank_lines_endless', undef, times => 1, says => qr/does not end/);
add('openai', 'fetch', 'text', [ [ '"prompt_tokens": ?\d+', '"prompt_tokens":9223372036854775807' ], [ '"completion_tokens": ?\d+', '"completion_tokens":-1' ] ]);
add('openai', 'fetch', 'text', [ [ '"model": ?"[^"]*"', '"model":"' . 'm' x 3000 . '"' ], [ '"finish_reason": ?"stop"', '"finish_reason":"s\u0000\ud800\\\\"' ] ]);
# what no answer should hold: it is replaced, and the result says so
add($_, 'fetch', 'text', [ [ 'speaks', "spe\\u0000\\ud83daks\xff\xed\xa0\x80" ] ], times => 1, altered => 1) foreach qw(openai anthropic gemini);
add('openai', $_, 'same', 'image/png') foreach qw(upload create poll fetch);
add('openai', 'poll', 'reply', { body => '{"error":{"message":"but no","code":"server_error"}}' });
# a page instead of the file, and nobody knows how many lines there should be;
# or counts that are no more than a claim
add('openai', 'fetch', 'reply', { body => "<html>Sign in, please</html>\n" }, times => 1, counts => { request_counts => undef }, says => qr/are read again/);
add('gemini', 'fetch', 'reply', { body => "<html>Sign in, please</html>\n" }, times => 1, counts => { 'metadata.batchStats' => undef }, says => qr/are read again/);
add('openai', 'fetch', 'half', undef, times => 1, counts => { 'request_counts.completed' => 2147483647, 'request_counts.failed' => 2147483647 },
	says => qr/ended the batch: 3 done, 0 failed.*are read again/);
# somebody else's file: no line is ours
add('openai', 'fetch', 'text', [ [ '"custom_id": ?"[^"-]+', '"custom_id":"0000' ] ], says => qr/lines for 0 requests, and 3 were counted/, times => 1);

# ---- all at once ----

my $node = start_node(conf => [ 'log_min_messages = debug1', 'max_files_per_process = 2000' ]);
my $sim = start_sim(options => { run_seconds => 0.05, validate_seconds => 0.02, finalize_seconds => 0.02 });
my $hostile = Hostile->start($sim);

create_articles($node, $rows * @cases);
create_server($node, $hostile, request_timeout => '2s');
is(wait_job($node, submit($node, filter => 'id <= 3')), 'succeeded', 'through the proxy all is well');
my $pid = worker_pid($node);
my $before = rss_kb($pid);
$sim->reset;

my $script = '';
foreach my $n (0 .. $#cases)
{
	my $case = $cases[$n];
	my ($method, $path) = @{ $call{ $case->{api} }{ $case->{call} } };
	my ($low, $high) = ($n * $rows + 1, ($n + 1) * $rows);
	my @rules = { case => "$n", method => $method, path => $path, how => $case->{how}, arg => $case->{arg}, times => $case->{times} };

	if ($case->{first})
	{
		my ($first_method, $first_path) = @{ $call{ $case->{api} }{ $case->{first} } };
		push @rules, { case => "$n", method => $first_method, path => $first_path, how => 'hide', times => 1 };
	}
	push @rules, { case => "$n", method => 'GET', path => $call{ $case->{api} }{poll}[1], how => 'merge', arg => $case->{counts} } if $case->{counts};
	$case->{name} = "$case->{api} $case->{call}: $case->{how} #$n";
	$hostile->call('POST', \@rules);
	my $model = $LlmBatch::MODEL{ $case->{api} };
	my $url = $hostile->base_url($case->{api}, $n);
	$script .= qq{
		CREATE SERVER case_$n FOREIGN DATA WRAPPER llm_batch OPTIONS (api '$case->{api}', base_url '$url', poll_min '50ms', poll_max '300ms',
			retry_base '50ms', retry_max '300ms', connect_timeout '5s', request_timeout '2s', settle_time '500ms');
		CREATE USER MAPPING FOR CURRENT_USER SERVER case_$n OPTIONS (api_key '$key');
		SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', '$model', 'summary', server => 'case_$n', mode => 'batch',
			filter => 'id BETWEEN $low AND $high');
	};
}
my $begin = time;
my @jobs = split /\n/, sql($node, $script);
is(scalar @jobs, scalar @cases, scalar(@cases) . ' jobs on as many servers');

my ($most, $left) = ($before, scalar @cases);
while ($left > 0 && time - $begin < 3 * $LlmBatch::PATIENCE)
{
	$left = sql($node, 'SELECT count(*) FROM llm_batch.progress WHERE finished_at IS NULL');
	my $kb = rss_kb($pid) // last;
	$most = $kb if $kb > $most;
	select undef, undef, undef, 0.2;
}
note("the slowest: $_") foreach split /\n/, sql($node, q{
	SELECT extract(epoch FROM finished_at - created_at)::numeric(9,1), server FROM llm_batch.progress ORDER BY 1 DESC LIMIT 5});
note(sprintf '%.1f s, memory from %d to %d kB', time - $begin, $before, $most);

is(worker_pid($node), $pid, 'the worker lives');
SKIP:
{
	skip 'a sanitizer keeps what was freed', 1 if $ENV{LLM_BATCH_SANITIZED};
	cmp_ok($most - $before, '<', 128 * 1024, 'its memory is bounded');
}
my %told = map { split /\|/, $_, 2 } split /\n/,
  sql($node, q{SELECT job_id, replace(string_agg(message, ' / '), E'\n', '\n') FROM llm_batch.events GROUP BY 1});
my @ends = split /\n/, sql($node, qq{
	SELECT p.state, p.succeeded, count(a.id)
	FROM llm_batch.progress p
	LEFT JOIN articles a ON (a.id - 1) / $rows = p.job_id - $jobs[0] AND summary = $LlmBatch::RIGHT
	WHERE job_id >= $jobs[0]
	GROUP BY job_id, p.state, p.succeeded ORDER BY job_id});
foreach my $n (0 .. $#cases)
{
	my ($case, $job) = ($cases[$n], $jobs[$n]);

	my $right = $case->{altered} ? 0 : $rows;
	is($ends[$n], "succeeded|$rows|$right", "$case->{name}: it ends well") or explain_job($node, $job);
	is(sql($node, "SELECT count(*) FROM llm_batch.result WHERE job_id = $job AND altered"), $rows, "$case->{name}: altered answers say so") if $case->{altered};
	like($told{$job}, $case->{says}, "$case->{name}: an operator reads why") if $case->{says};
	unlike($told{$job}, $case->{never}, "$case->{name}: and it is not obeyed") if $case->{never};
}
my @idle = grep { !$_->{fired} } @{ $hostile->call('GET')->{rules} };
is(join(', ', map { "$_->{case} $_->{how}" } @idle), '', 'all of it happened');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'nothing ran twice');

# ---- what must not be anywhere ----

is(scalar($hostile->trapped), 0, 'nothing went to where redirects point');
is(sql($node, qq{SELECT count(*) FROM llm_batch.events WHERE message ~ '$key|speaks|words and|Sign in|but no'}), '0',
	'no key, no prompt and no words of a provider in events');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
unlike($log =~ s/^.*(LOG|DEBUG):  statement:.*(\n\t.*)*//mgr =~ s/^.*STATEMENT:.*(\n\t.*)*//mgr, qr/\Q$key/, 'nor the key in the log');
unlike($log, qr/PANIC|TRAP|terminated by signal|was terminated/, 'nothing crashed');

done_testing();
