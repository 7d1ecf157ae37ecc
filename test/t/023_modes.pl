# Which way items go, how fast, what happens when a way is blocked, and what
# it may cost.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use List::Util qw(max min);
use Test::More;
use Time::HiRes qw(sleep time);

my $CHAT = 'POST /v1/chat/completions';
my $ANSWER = { method => 'POST', path => '^/v1/chat/completions$' };
my $node = start_node(conf => ['restart_after_crash = on']);
my $sim = start_sim();

# auto, with the threshold that a server has by itself
create_server($node, $sim, realtime_threshold => undef, request_timeout => '5s', settle_time => '1s');
create_articles($node, 500);

sub begin
{
	my ($name, %options) = @_;

	note("--- $name");
	$sim->reset;
	$sim->options(%options) if %options;
	sql($node, 'UPDATE articles SET summary = NULL');
}

# The first $count articles.
sub send_job
{
	my ($count, %arg) = @_;
	return submit($node, target => 'summary', mode => 'auto', limit => $count, %arg);
}

sub alter { my ($what) = @_; sql($node, "ALTER SERVER sim OPTIONS ($what)") }

# After the end: this state, "code count" of the results, each row its own
# answer, and (unless told otherwise) the bill.
sub check_end
{
	my ($job, $name, $state, $results, %opt) = @_;

	is(watch_job($node, $job, $name, falls => 1, limit => 120), $state, "$name: the job is $state") or explain_job($node, $job);
	check_job($node, $job, $name);
	is(results($job), $results, "$name: the results");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary <> $LlmBatch::RIGHT"), '0', "$name: no row has another's answer");
	is( sql($node, 'SELECT count(*) FROM articles WHERE summary IS NOT NULL'),
		sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"),
		"$name: as many rows are written as items succeeded");
	if (!$opt{paid_twice})
	{
		check_bill($node, $sim, $job, $name);
		cmp_ok($sim->summary->{max_times_one_prompt_ran}, '<=', 1, "$name: nothing is paid twice");
	}
	check_sim($sim, "$name: the simulator is content");
	return $sim->summary;
}

sub results
{
	my ($job) = @_;
	return sql($node, qq{
		SELECT string_agg(code || ' ' || n, ', ' ORDER BY code)
		FROM (SELECT COALESCE(error_code, 'ok') AS code, count(*) AS n
			  FROM llm_batch.results WHERE job_id = $job GROUP BY 1) x});
}

sub ways { my ($summary) = @_; return "$summary->{batches_created} batches, $summary->{realtime_calls} calls" }

sub wait_paused
{
	my ($job, $reason, $name) = @_;

	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", "$name: the job pauses")
	  or explain_job($node, $job);
	like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), $reason, "$name: the job pauses and says why");
}

sub progress { my ($job, $what) = @_; return sql($node, "SELECT $what FROM llm_batch.progress WHERE job_id = $job") }

# ---- which way ----

foreach my $case ([ 19 => '0 batches, 19 calls' ], [ 20 => '0 batches, 20 calls' ], [ 21 => '1 batches, 0 calls' ])
{
	my ($count, $ways) = @$case;

	begin("$count items in auto");
	my $summary = check_end(send_job($count), "$count items in auto", 'succeeded', "ok $count");
	is(ways($summary), $ways, "$count items in auto: the way they go");
}

begin('1 item as a batch');
is(ways(check_end(send_job(1, mode => 'batch'), '1 item as a batch', 'succeeded', 'ok 1')), '1 batches, 0 calls', 'mode batch is a batch');
begin('50 items in real time');
is(ways(check_end(send_job(50, mode => 'realtime'), '50 items in real time', 'succeeded', 'ok 50')), '0 batches, 50 calls',
	'mode realtime is real time');

begin('500 items, no batch API');
alter("ADD batch 'off'");
my $summary = check_end(send_job(500), '500 items, no batch API', 'succeeded', 'ok 500');
is(ways($summary), '0 batches, 500 calls', '500 items, no batch API: all go in real time');
is($summary->{files_uploaded}, 0, '500 items, no batch API: nothing was uploaded');
alter('DROP batch');

# ---- how fast ----

begin('concurrency', realtime_seconds => 0.1);
alter("ADD realtime_concurrency '8'");
$summary = check_end(send_job(120, mode => 'realtime'), 'concurrency', 'succeeded', 'ok 120');
cmp_ok($summary->{max_concurrent}{$CHAT}, '<=', 8, 'never more at a time than realtime_concurrency');
cmp_ok($summary->{max_concurrent}{$CHAT}, '>', 4, 'but many');

begin('concurrency of two jobs', realtime_seconds => 0.1);
my @jobs = map { send_job(60, mode => 'realtime', target => undef, filter => "id % 2 = $_") } (0, 1);
is(wait_job($node, $_), 'succeeded', "concurrency of two jobs: job $_ succeeded") foreach @jobs;
check_bill($node, $sim, \@jobs, 'concurrency of two jobs');
$summary = $sim->summary;
cmp_ok($summary->{max_concurrent}{$CHAT}, '<=', 8, 'two jobs share the concurrency of their server');
is("@$summary{qw(distinct_prompts_run max_times_one_prompt_ran)}", '120 1', 'concurrency of two jobs: each prompt ran once');

begin('Retry-After', realtime_seconds => 0.02);
$sim->rule({ mode => 'realtime' },
	items => [ { nth => 20, do => { status_code => 429, headers => { 'retry-after' => 2 } } } ]);
my $job = send_job(100, mode => 'realtime');
check_end($job, 'Retry-After', 'succeeded', 'ok 100');
is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job"), '100', 'status 429 costs the item no attempt');
my @calls = grep { $_->{path} eq '/v1/chat/completions' } $sim->requests(method => 'POST');
my ($refused) = grep { $_->{status} == 429 } @calls;
my $told = $refused->{time} + $refused->{seconds};
is(scalar(grep { $_->{time} > $told + 0.3 && $_->{time} < $told + 1.9 } @calls), 0, 'for two seconds nothing is sent');
cmp_ok(scalar(grep { $_->{time} >= $told + 1.9 } @calls), '>', 0, 'then it goes on');

begin('a pace', realtime_seconds => 0.01);
alter("ADD requests_per_minute '1200'");
check_end(send_job(100, mode => 'realtime'), 'a pace', 'succeeded', 'ok 100');
my @times = sort { $a <=> $b } map { $_->{time} } grep { $_->{path} eq '/v1/chat/completions' } $sim->requests(method => 'POST');
# 20 a second, but for two seconds' worth at the beginning
cmp_ok($times[-1] - $times[0], '>', 2.5, 'requests_per_minute holds them back');
cmp_ok($times[-1] - $times[0], '<', 20, 'but not more than that');
alter('DROP requests_per_minute, DROP realtime_concurrency');

# on a server of its own: for a minute nothing goes there
begin('a limit of the provider', requests_per_minute => 40);
create_server($node, $sim, name => 'limited');
$job = send_job(60, mode => 'realtime', server => 'limited');
wait_until($node, "SELECT succeeded = 40 FROM llm_batch.progress WHERE job_id = $job", 'as many as the provider lets through');
sleep 1;
@calls = grep { $_->{path} eq '/v1/chat/completions' } $sim->requests(method => 'POST');
my $tried = grep { $_->{status} == 429 } @calls;
cmp_ok($tried, '<=', 16, "the provider's limit is met once, not hammered at ($tried refusals)");
is(progress($job, 'failed'), '0', 'and costs no item anything');
sql($node, "SELECT llm_batch.cancel($job)");
check_end($job, 'a limit of the provider', 'cancelled', 'cancelled 20, ok 40');

# ---- a way that is blocked ----

my $BATCHES = 'model_not_found';

begin('a refused batch');
$sim->rule({}, fail => { code => $BATCHES, message => 'No batches with this model.' });
$job = send_job(40);
is(ways(check_end($job, 'a refused batch', 'succeeded', 'ok 40')), '1 batches, 40 calls', 'a refused batch goes in real time');

begin('a refused create');
$sim->fault({ method => 'POST', path => '^/v1/batches$' },
	{ status => 400, body => { error => { message => 'No batches here.', type => 'invalid_request_error', param => undef, code => undef } } });
$job = send_job(40);
is(ways(check_end($job, 'a refused create', 'succeeded', 'ok 40')), '0 batches, 40 calls', 'a create that is refused, too');

begin('a batch that takes too long');
alter("ADD batch_timeout '2s'");
$sim->rule({}, hang => 0.25);
$job = send_job(40);
is(ways(check_end($job, 'a batch that takes too long', 'succeeded', 'ok 40')), '1 batches, 30 calls',
	'what it finished is kept, only the rest goes in real time');
is(($sim->batches)[0]->{status}, 'cancelled', 'and it is cancelled');

begin('a batch that takes too long, fallback none');
alter("ADD fallback 'none'");
$sim->rule({}, hang => 0.25);
$job = send_job(40);
wait_paused($job, qr/timeout.*fallback/s, 'a batch that takes too long, fallback none');
is(progress($job, 'succeeded, failed, queued'), '10|0|30', 'what it finished is there, the rest waits');
is(ways($sim->summary), '1 batches, 0 calls', 'nothing goes in real time');
$sim->clear_rules;
sql($node, "SELECT llm_batch.resume($job)");
is(ways(check_end($job, 'a batch that takes too long, resumed', 'succeeded', 'ok 40')), '2 batches, 0 calls',
	'resume() sends the rest in a batch once more');
alter('DROP batch_timeout');

begin('a refused batch, fallback none');
$sim->rule({}, fail => { code => $BATCHES, message => 'No batches with this model.' });
$job = send_job(40);
wait_paused($job, qr/fallback/, 'a refused batch, fallback none');
is(progress($job, 'succeeded, failed, queued'), '0|0|40', 'nothing is lost');
sql($node, "SELECT llm_batch.cancel($job)");
check_end($job, 'a refused batch, fallback none', 'cancelled', 'cancelled 40');
alter('DROP fallback');

my $LOST = { status => 404, body => { error => { message => 'No batch found', type => 'invalid_request_error', param => undef, code => undef } } };

begin('a lost batch', run_seconds => 60);
$sim->fault({ method => 'GET', path => '^/v1/batches/batch_' }, $LOST);
$job = send_job(40);
is(ways(check_end($job, 'a lost batch', 'succeeded', 'ok 40', paid_twice => 1)), '1 batches, 40 calls', 'a lost batch goes in real time');
is(progress($job, 'uncertain'), '40', 'and what it may have run is uncertain');

begin('a lost batch, on_unanswered fail', run_seconds => 60);
alter("ADD on_unanswered 'fail'");
$sim->fault({ method => 'GET', path => '^/v1/batches/batch_' }, $LOST);
$job = send_job(40);
is(ways(check_end($job, 'a lost batch, on_unanswered fail', 'failed', 'unanswered 40', paid_twice => 1)), '1 batches, 0 calls',
	'with on_unanswered fail it is not sent again');
is(progress($job, 'uncertain, cost_unknown'), '40|40', 'uncertain, and of unknown cost');
alter('DROP on_unanswered');

begin('fallback and max_cost');
$sim->rule({}, fail => { code => $BATCHES, message => 'No batches with this model.' });
$job = send_job(400, max_cost => '0.0005');
wait_paused($job, qr/^budget/, 'fallback and max_cost');
cmp_ok($sim->call('GET', 'bill')->{usd}, '<=', 0.0005, 'a fallback does not spend more than max_cost');
cmp_ok($sim->summary->{realtime_calls}, '>', 0, 'but it spends');
sql($node, "SELECT llm_batch.cancel($job)");
wait_job($node, $job);
check_bill($node, $sim, $job, 'fallback and max_cost');

begin('fallback beside a batch that flies', run_seconds => 3);
alter("ADD max_batch_requests '100'");
$sim->rule({ nth => 1 }, fail => { code => $BATCHES, message => 'No batches with this model.' });
$job = send_job(200, max_cost => '0.001');
wait_until($node, "SELECT state = 'paused' OR finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $job", 'the money is spent', 90);
sql($node, "SELECT llm_batch.cancel($job)") if progress($job, 'state') eq 'paused';
wait_job($node, $job);
check_bill($node, $sim, $job, 'fallback beside a batch that flies');
cmp_ok($sim->call('GET', 'bill')->{usd}, '<=', 0.001, 'both ways together do not spend more than max_cost');
alter('DROP max_batch_requests');

begin('fallback waits for no batch', run_seconds => 0.2);
alter("ADD max_batch_requests '30', ADD max_active_batches '1'");
$sim->rule({ nth => 1 }, fail => { code => $BATCHES, message => 'No batches with this model.' });
$sim->rule({ nth => 2 }, run_seconds => 60);
$job = send_job(60);
wait_until($node, "SELECT succeeded = 30 AND in_flight = 30 FROM llm_batch.progress WHERE job_id = $job", 'what falls back is answered while a batch flies', 20)
  or explain_job($node, $job);
sql($node, "SELECT llm_batch.cancel($job)");
wait_job($node, $job);
check_bill($node, $sim, $job, 'fallback waits for no batch');
alter('DROP max_batch_requests, DROP max_active_batches');

# ---- what the provider's queue holds ----

# The simulator counts whole lines, we the text in them: hence the room.
begin('max_enqueued_tokens', run_seconds => 0.3);
alter("ADD max_enqueued_tokens '1500'");
$sim->options(max_enqueued_tokens => 4000);
check_end(send_job(200), 'max_enqueued_tokens', 'succeeded', 'ok 200');
is($sim->summary->{batches}{failed} // 0, 0, 'max_enqueued_tokens: the provider had nothing to refuse');
cmp_ok($sim->summary->{batches_created}, '>', 2, 'max_enqueued_tokens: in several batches');
alter('DROP max_enqueued_tokens');

sql($node, 'DELETE FROM llm_batch.calibration');
begin('a queue that is learned', run_seconds => 0.3, max_enqueued_tokens => 4000);
$job = send_job(300);
check_end($job, 'a queue that is learned', 'succeeded', 'ok 300');
my $refusals = $sim->summary->{batches}{failed} // 0;
cmp_ok($refusals, '>', 0, 'a queue that is learned: the provider refused at first');
is(sql($node, "SELECT max(attempt) FROM llm_batch.results WHERE job_id = $job"), '1', 'a queue that is learned: at no expense of the items');
begin('a queue that was learned', run_seconds => 0.3, max_enqueued_tokens => 4000);
check_end(send_job(300), 'a queue that was learned', 'succeeded', 'ok 300');
cmp_ok($sim->summary->{batches}{failed} // 0, '<', $refusals, 'a queue that was learned: it is not run into again');
sql($node, 'DELETE FROM llm_batch.calibration');

# ---- what it may cost ----

foreach my $mode (qw(realtime batch))
{
	begin("max_cost, $mode");
	alter("ADD max_batch_requests '20'") if $mode eq 'batch';
	$job = send_job(200, mode => $mode, max_cost => '0.0005');
	wait_paused($job, qr/^budget.*max_cost/, "max_cost, $mode");
	my $paid = $sim->call('GET', 'bill')->{usd};
	cmp_ok($paid, '<=', 0.0005, "max_cost, $mode: not more is spent ($paid USD)");
	cmp_ok($paid, '>', 0, "max_cost, $mode: but as much as it may");
	check_bill($node, $sim, $job, "max_cost, $mode");
	cmp_ok(progress($job, 'queued'), '>', 0, "max_cost, $mode: the rest waits");
	sql($node, "SELECT llm_batch.cancel($job)");
	is(wait_job($node, $job), 'cancelled', "max_cost, $mode: and can be cancelled");
	alter('DROP max_batch_requests') if $mode eq 'batch';
}

# ---- sent, and not answered ----

foreach my $policy (qw(resend fail))
{
	begin("unanswered, $policy");
	alter("ADD on_unanswered '$policy'");
	$sim->fault({ %$ANSWER, nth => [ 5, 10, 15 ] }, { cut_after_commit => $sim->true });
	$job = send_job(50, mode => 'realtime');
	check_end($job, "unanswered, $policy", $policy eq 'resend' ? ('succeeded', 'ok 50') : ('partial', 'ok 47, unanswered 3'), paid_twice => 1);
	is(progress($job, 'uncertain, cost_unknown'), '3|3', "unanswered, $policy: three are uncertain, their cost is not known");
	my @runs = map { $_->{realtime} } values %{ $sim->items->{prompts} };
	is(join(' ', scalar(grep { $_ == 2 } @runs), scalar(grep { $_ > 2 } @runs)), $policy eq 'resend' ? '3 0' : '0 0',
		"unanswered, $policy: " . ($policy eq 'resend' ? 'these, and no others, ran twice' : 'nothing ran twice'));
	like(sql($node, "SELECT string_agg(message, '; ') FROM llm_batch.events WHERE job_id = $job AND kind = 'unanswered'"),
		$policy eq 'resend' ? qr/paid twice/ : qr/\d/, "unanswered, $policy: the events say so");
	alter('DROP on_unanswered');
}

begin('not wholly sent');
$sim->fault({ %$ANSWER, nth => [ 5, 10 ] }, { status => 500 });
$job = send_job(50, mode => 'realtime');
check_end($job, 'not wholly sent', 'succeeded', 'ok 50');
is(progress($job, 'uncertain, cost_unknown'), '0|0', 'an answer with a status is decided: nothing is uncertain');

# ---- the worker dies in the middle ----

foreach my $policy (qw(resend fail))
{
	begin("killed, $policy", realtime_seconds => 0.2);
	alter("ADD on_unanswered '$policy', ADD realtime_concurrency '8'");
	$job = send_job(100, mode => 'realtime');
	wait_until($node, "SELECT succeeded >= 16 FROM llm_batch.progress WHERE job_id = $job", 'some are answered');
	my $offset = -s $node->logfile;
	kill 'KILL', worker_pid($node);
	$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
	is(wait_job($node, $job), $policy eq 'resend' ? 'succeeded' : 'partial', "killed, $policy: the job ends") or explain_job($node, $job);
	check_job($node, $job, "killed, $policy");
	my @runs = map { $_->{realtime} } values %{ $sim->items->{prompts} };
	my $twice = grep { $_ > 1 } @runs;
	is(max(@runs), $policy eq 'resend' && $twice ? 2 : 1, "killed, $policy: no prompt ran more often than that");
	cmp_ok($twice, '<=', 8, "killed, $policy: at most realtime_concurrency prompts ran twice ($twice did)");
	my $uncertain = progress($job, 'uncertain');
	cmp_ok($uncertain, '>', 0, "killed, $policy: those that were out are uncertain ($uncertain)");
	cmp_ok($uncertain, '<=', 8, "killed, $policy: and no others");
	cmp_ok($twice, '<=', $uncertain, "killed, $policy: whatever ran twice is among them");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary <> $LlmBatch::RIGHT"), '0', "killed, $policy: no row has another's answer");
	check_sim($sim, "killed, $policy: the simulator is content");
	alter('DROP on_unanswered, DROP realtime_concurrency');
}

done_testing();
