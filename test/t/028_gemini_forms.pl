# The forms in which Gemini's batches come: states with one prefix or the
# other, results in one of three places or inside of the operation, uploads in
# two calls, over TLS as well.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $COUNT = 20;
my %GEMINI = (api => 'gemini', settle_time => '1s');

my $node = start_node();
my $sim = start_sim();
create_server($node, $sim, %GEMINI);
create_typed_articles($node, $COUNT);

sub begin
{
	my (%options) = @_;
	$sim->reset;
	$sim->options(%options) if %options;
	sql($node, 'UPDATE articles SET summary = NULL, mood = NULL, score = NULL, urgent = NULL');
}

sub send_job { return submit($node, target => 'summary', model => $LlmBatch::MODEL{gemini}, @_) }

# The job is $state, as many rows have their answer as items succeeded, and
# the cost is the bill.
sub check_end
{
	my ($job, $what, $state, $right) = @_;

	is(wait_job($node, $job), $state, "$what: $state") or explain_job($node, $job);
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $right, "$what: $right rows have their answer");
	is(sql($node, 'SELECT count(*) FROM articles WHERE summary IS NOT NULL'), $right, "$what: and no others");
	check_bill($node, $sim, $job, $what);
	check_sim($sim, $what);
}

# ---- states, places ----

foreach my $case (
	[ 'JOB_STATE_' => (gemini_state_prefix => 'JOB_STATE_') ],
	[ 'results named in the response' => (gemini_output => 'response') ],
	[ 'results named in the metadata' => (gemini_output => 'metadata') ],
	[ 'results named in a wrapped response' => (gemini_output => 'wrapped') ],
	[ 'thoughts that are shown' => (gemini_thought_parts => $sim->true, reasoning_tokens => 30) ])
{
	my ($what, %options) = @$case;

	begin(%options);
	check_end(send_job(), $what, 'succeeded', $COUNT);
}

begin(gemini_partial => $sim->true);
$sim->rule({}, items => [ { nth => 'every 4', do => { status_code => 400 } } ]);
my $job = send_job();
check_end($job, 'PARTIALLY_SUCCEEDED', 'partial', 15);

# ---- results inside of the operation ----

begin(gemini_inline => 'key');
$sim->rule({}, items => [ { nth => 3, do => { status_code => 400 } } ]);
$job = send_job();
check_end($job, 'results inside of the operation', 'partial', 19);
is(scalar($sim->requests(path => '/download')), 0, 'results inside of the operation: there was no file to fetch');
is( sql($node, "SELECT count(*) || ' ' || min(error_code) FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"),
	'1 invalid_request', 'results inside of the operation: errors are among them');

# Nobody can say whose they are: they are sent again, in real time at last, or
# not, but no row gets another's.
begin(gemini_inline => 'bare');
sql($node, "ALTER SERVER sim OPTIONS (ADD on_unanswered 'fail')");
$job = send_job();
is(wait_job($node, $job), 'failed', 'results without keys: the job fails') or explain_job($node, $job);
is(sql($node, 'SELECT count(*) FROM articles WHERE summary IS NOT NULL'), '0', 'results without keys: no row is written');
is( sql($node, "SELECT DISTINCT error_code FROM llm_batch.results WHERE job_id = $job"),
	'unanswered', 'results without keys: all are unanswered');
is(sql($node, "SELECT uncertain FROM llm_batch.progress WHERE job_id = $job"), $COUNT, 'results without keys: and counted as uncertain');
check_sim($sim, 'results without keys');
sql($node, 'ALTER SERVER sim OPTIONS (DROP on_unanswered)');

# ---- uploads ----

begin();
$sim->fault({ method => 'POST', path => '/upload/', nth => 2 }, { cut_upload_at => 500 });
$sim->fault({ method => 'POST', path => '/upload/', nth => 4 }, { status => 503 });
check_end(send_job(), 'uploads that break', 'succeeded', $COUNT);
is($sim->summary->{files_uploaded}, 1, 'uploads that break: one was whole');

# as after two days in a queue
begin();
$sim->rule({}, refuse => 1);
check_end(send_job(), 'a file that has expired', 'succeeded', $COUNT);
is($sim->summary->{files_uploaded}, 2, 'a file that has expired: it is uploaded anew');

# A server of its own, for the limit is learned.
begin(max_enqueued_tokens => 900);
create_server($node, $sim, %GEMINI, name => 'queue', max_batch_requests => 10);
check_end(send_job(server => 'queue'), 'a queue that is full', 'succeeded', $COUNT);
cmp_ok($sim->summary->{batches_created}, '>=', 2, 'a queue that is full: one after the other');
cmp_ok(scalar(grep { $_->{status} == 429 } $sim->requests(method => 'POST')), '<', 10, 'a queue that is full: is not stormed');

my $elsewhere = start_sim();
begin(gemini_upload_base => 'http://127.0.0.1:' . $elsewhere->port);
$job = send_job();
# what no batch takes goes in real time
check_end($job, 'told to upload elsewhere', 'succeeded', $COUNT);
is(scalar(my @heard = $elsewhere->requests), 0, 'told to upload elsewhere: the other host hears nothing');
is($sim->summary->{batches_created}, 0, 'told to upload elsewhere: nothing is created');
is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND message ~ 'another host'"),
	'1', 'told to upload elsewhere: an event says so');

# ---- typed answers ----

begin(reasoning_tokens => 20);
$job = submit($node, target => 'summary, mood, score, urgent', model => $LlmBatch::MODEL{gemini},
	params => '{"reasoning_effort": "low", "max_tokens": 2000, "temperature": 0, "stop": "THE END"}', system => 'Be brief.');
check_end($job, 'typed answers', 'succeeded', $COUNT);
is(sql($node, 'SELECT count(*) FROM articles WHERE mood IS NULL OR score IS NULL OR urgent IS NULL'), '0', 'typed answers: each column has its value');

# ---- TLS ----

my $secure = start_sim(tls => 1);
create_server($node, $secure, %GEMINI, name => 'secure');
sql($node, 'UPDATE articles SET summary = NULL');
$job = send_job(server => 'secure');
is(wait_job($node, $job), 'succeeded', 'over TLS: succeeded') or explain_job($node, $job);
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $COUNT, 'over TLS: each row has its answer');
check_sim($secure, 'over TLS');

done_testing();
