# cancel() in every state of a batch: what was finished by then is kept.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node();
my $sim = start_sim();
my $count = 50;

create_server($node, $sim, request_timeout => '4s', settle_time => '1s');
create_articles($node, $count);

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
}

sub cancel
{
	my ($job) = @_;
	sql($node, "SELECT llm_batch.cancel($job)");
}

sub wait_batch
{
	my ($job, $condition) = @_;
	wait_until($node, "SELECT count(*) > 0 FROM llm_batch.batches WHERE job_id = $job AND $condition", "a batch with $condition");
}

# After the end: the job is $state, $kept items succeeded and are written.
sub check
{
	my ($name, $job, $state, $kept, %opt) = @_;
	my $total = $opt{total} // $count;

	is(watch_job($node, $job, $name), $state, "$name: the job is $state") or explain_job($node, $job);
	check_job($node, $job, $name);
	is( sql($node, "SELECT succeeded, failed, cancelled FROM llm_batch.progress WHERE job_id = $job"),
		join('|', $kept, 0, $total - $kept), "$name: $kept kept, the others are cancelled");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $kept, "$name: what is kept is written");
	is( sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND state = 'cancelled' AND error_code = 'cancelled'"),
		$total - $kept, "$name: results say cancelled");
	is($sim->summary->{max_times_one_prompt_ran}, $kept ? 1 : 0, "$name: nothing ran twice") if !$opt{unpaid};
	check_sim($sim, "$name: the simulator is content");
}

# ---- nothing is at the provider yet ----

begin('not looked at');
my $job = sql($node, qq{
	BEGIN;
	SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch') AS job \\gset
	SELECT llm_batch.cancel(:job);
	COMMIT;
	SELECT :job});
($job) = $job =~ /(\d+)$/;
check('not looked at', $job, 'cancelled', 0);
is(scalar(my @none = $sim->requests), 0, 'not looked at: the provider heard nothing');

begin('planned');
$sim->options(keys => 'sk-another');
$job = submit($node, target => 'summary');
wait_until($node, "SELECT state = 'paused' AND reason ~ '^auth' FROM llm_batch.progress WHERE job_id = $job", 'the key is refused');
cancel($job);
check('planned', $job, 'cancelled', 0);
is(sql($node, "SELECT string_agg(DISTINCT state, ' ') FROM llm_batch.batches WHERE job_id = $job"), 'cancelled', 'planned: the batch is cancelled');

begin('uploading');
$sim->fault({ method => 'POST', path => '/v1/files' }, { stall_before => 30 });
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'uploading'});
sleep 0.2;
my $begun = time;
cancel($job);
check('uploading', $job, 'cancelled', 0);
cmp_ok(time - $begun, '<', 10, 'uploading: it did not wait for the upload');
is($sim->summary->{batches_created}, 0, 'uploading: no batch was created');

begin('the provider is out of order');
$sim->fault({}, { status => 503 });
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) > 2 FROM llm_batch.events WHERE job_id = $job AND kind = 'retry'", 'the upload is tried');
cancel($job);
check('the provider is out of order', $job, 'cancelled', 0);

# ---- a create is out ----

begin('submitting');
$sim->rule({}, run_seconds => 60);
$sim->fault({ method => 'POST', path => '^/v1/batches$' }, { stall => 2 });
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'submitting'});
sleep 0.2;
cancel($job);
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'cancelling', 'submitting: cancelling until the provider has ended');
wait_job($node, $job);
my ($batch) = $sim->batches;
is($batch->{status}, 'cancelled', 'submitting: the batch that was created all the same is cancelled at the provider');
check('submitting', $job, 'cancelled', $batch->{completed});

begin('verifying');
$sim->rule({}, run_seconds => 60, unlisted_seconds => 1);
$sim->fault({ method => 'POST', path => '^/v1/batches$' }, { cut_after_commit => $sim->true });
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'verifying'});
cancel($job);
wait_job($node, $job);
($batch) = $sim->batches;
is($batch->{status}, 'cancelled', 'verifying: the batch is found and cancelled');
check('verifying', $job, 'cancelled', $batch->{completed});

begin('verifying, and it was never created');
$sim->fault({ method => 'POST', path => '^/v1/batches$' }, { cut_before => $sim->true });
$job = submit($node, target => 'summary');
wait_batch($job, q{state IN ('verifying', 'submitting', 'planned') AND remote_id IS NULL});
sleep 0.2;
cancel($job);
check('verifying, and it was never created', $job, 'cancelled', 0);
is($sim->summary->{batches_created}, 0, 'verifying, and it was never created: it is not created to be cancelled');

# ---- the provider works ----

begin('in_progress');
$sim->rule({}, run_seconds => 4, cancel_seconds => 1);
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'in_progress' AND done > 5});
cancel($job);
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'cancelling', 'in_progress: cancelling until the provider has ended');
cancel($job);
pass('in_progress: asking twice is no error');
wait_job($node, $job);
($batch) = $sim->batches;
cmp_ok($batch->{completed}, '>', 5, 'in_progress: some are finished');
cmp_ok($batch->{completed}, '<', $count, 'in_progress: some are not');
check('in_progress', $job, 'cancelled', $batch->{completed});

begin('the cancel itself fails');
$sim->rule({}, run_seconds => 60);
$sim->fault({ method => 'POST', path => '^/v1/batches/.*/cancel$', nth => [ 1, 2 ] }, { status => 503 });
$sim->fault({ method => 'POST', path => '^/v1/batches/.*/cancel$', nth => 3 }, { cut_after_commit => $sim->true });
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'in_progress' AND done > 0});
cancel($job);
wait_job($node, $job);
($batch) = $sim->batches;
is($batch->{status}, 'cancelled', 'the cancel itself fails: it is asked for until it is heard');
check('the cancel itself fails', $job, 'cancelled', $batch->{completed});

begin('some of three batches');
sql($node, "ALTER SERVER sim OPTIONS (ADD max_batch_requests '20', ADD max_active_batches '1')");
$sim->rule({ nth => 2 }, run_seconds => 60);
$job = submit($node, target => 'summary');
wait_until($node, "SELECT succeeded = 20 AND in_flight = 20 AND queued = 10 FROM llm_batch.progress WHERE job_id = $job", 'the second batch runs');
cancel($job);
wait_job($node, $job);
is($sim->summary->{batches_created}, 2, 'some of three batches: the third is never created');
check('some of three batches', $job, 'cancelled', 20 + ($sim->batches)[1]->{completed});
sql($node, 'ALTER SERVER sim OPTIONS (DROP max_batch_requests, DROP max_active_batches)');

begin('failed requests are not sent again');
$sim->rule({}, run_seconds => 60, items => [ { nth => 'every 2', do => { status_code => 500 } } ]);
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'in_progress' AND done + failed > 3});
cancel($job);
wait_job($node, $job);
is($sim->summary->{batches_created}, 1, 'failed requests are not sent again: one batch');
is(sql($node, "SELECT cancelled + failed + succeeded = total AND failed > 0 FROM llm_batch.progress WHERE job_id = $job"), 't',
	'failed requests are not sent again: they are shown as failed');

# ---- too late ----

begin('finalizing');
$sim->rule({}, finalize_seconds => 30);
$job = submit($node, target => 'summary');
$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{status} eq 'finalizing' });
cancel($job);
check('finalizing', $job, 'succeeded', $count);

begin('the provider has ended already');
sql($node, "ALTER SERVER sim OPTIONS (SET poll_min '3s', SET poll_max '3s')");
$job = submit($node, target => 'summary');
$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{status} eq 'completed' });
is(sql($node, "SELECT state FROM llm_batch.batches WHERE job_id = $job"), 'in_progress', 'the provider has ended already: and nobody has looked yet');
cancel($job);
wait_job($node, $job);
my @refused = grep { $_->{path} =~ m{/cancel$} && $_->{status} == 409 } $sim->requests(method => 'POST');
is(scalar @refused, 1, 'the provider has ended already: it refuses the cancel');
check('the provider has ended already', $job, 'succeeded', $count);
sql($node, "ALTER SERVER sim OPTIONS (SET poll_min '50ms', SET poll_max '200ms')");

begin('fetching');
$sim->fault({ path => '^/v1/files/.*/content$' }, { slow_body => 15000 });
$job = submit($node, target => 'summary');
wait_batch($job, q{state = 'fetching'});
cancel($job);
check('fetching', $job, 'succeeded', $count);

# ---- not the owner, not there, over ----

my ($code, undef, $stderr) = $node->psql('postgres', "SELECT llm_batch.cancel($job)", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($stderr, qr/ERROR:  55000: job $job cannot be cancelled: it is succeeded/, 'an ended job cannot be cancelled');
($code, undef, $stderr) = $node->psql('postgres', 'SELECT llm_batch.cancel(4711)');
like($stderr, qr/job 4711 does not exist/, 'nor one that is not there');

done_testing();
