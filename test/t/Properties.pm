# What has to hold with every provider, in batch and in real time alike.
#
#	use Properties;
#	Properties::check('openai');
#
# Each property is one job under one mischief of the simulator.  Whatever the
# mischief: progress tells the truth, every item ends once, each row has its
# own answer, the cost shown is the provider's bill to the last digit, and
# nothing ran twice.
package Properties;

use strict;
use warnings;

use JSON::PP ();
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $COUNT = 60;

# Where the providers differ for a test:
#	upload ... answer	how calls are known from their paths
#	cancel_path			of a batch, behind base_url
#	overloaded			the status that says so
#	expired_delivers	a batch that ran out of time delivers what it has done
#	cancelled_delivers	so does one that was cancelled; this option makes it
#	labelled			listings tell whose batch it is, before it has ended
#	caches				prompts are cached without being marked for it
my %PROVIDER = (
	openai => {
		upload => { method => 'POST', path => '^/v1/files$' },
		create => { method => 'POST', path => '^/v1/batches$' },
		poll => { method => 'GET', path => '^/v1/batches/batch_[^/]+$' },
		cancel => { method => 'POST', path => '^/v1/batches/.*/cancel$' },
		fetch => { method => 'GET', path => '^/v1/files/.*/content$' },
		answer => { method => 'POST', path => '^/v1/chat/completions$' },
		cancel_path => sub { "/batches/$_[0]/cancel" },
		overloaded => 503,
		expired_delivers => 1,
		cancelled_delivers => {},
		labelled => 1,
		caches => 1,
	},
	anthropic => {
		create => { method => 'POST', path => '^/v1/messages/batches$' },
		poll => { method => 'GET', path => '^/v1/messages/batches/msgbatch_[^/]+$' },
		cancel => { method => 'POST', path => '^/v1/messages/batches/.*/cancel$' },
		fetch => { method => 'GET', path => '^/v1/messages/batches/.*/results$' },
		answer => { method => 'POST', path => '^/v1/messages$' },
		cancel_path => sub { "/v1/messages/batches/$_[0]/cancel" },
		overloaded => 529,
		expired_delivers => 1,
		cancelled_delivers => {},
		labelled => 0,
		caches => 0,
	},
	gemini => {
		upload => { method => 'POST', path => '^/upload/' },
		create => { method => 'POST', path => ':batchGenerateContent$' },
		poll => { method => 'GET', path => '^/v1beta/batches/[^/:]+$' },
		cancel => { method => 'POST', path => '^/v1beta/batches/[^/]+:cancel$' },
		fetch => { method => 'GET', path => ':download$' },
		answer => { method => 'POST', path => '^/v1beta/models/[^/]+:generateContent$' },
		cancel_path => sub { '/v1beta/' . ($_[0] =~ m{^batches/} ? $_[0] : "batches/$_[0]") . ':cancel' },
		overloaded => 503,
		expired_delivers => 0,
		cancelled_delivers => { gemini_cancelled_results => JSON::PP::true() },
		labelled => 1,
		caches => 1,
	});
# a path that is not anchored is a regular expression as well
$_->{path} =~ s/^(?=[^^])/^.*/ foreach grep { ref eq 'HASH' && exists $_->{path} } map { values %$_ } values %PROVIDER;

my ($api, $facts, $mode, $node, $sim);

# ---- one job, and what is true of each ----

# The simulator as new, no summaries, these options of it.
sub begin
{
	my ($name, %options) = @_;

	note("--- $api, $mode: $name");
	$sim->reset;
	$sim->options(%options) if %options;
	sql($node, 'UPDATE articles SET summary = NULL, mood = NULL, score = NULL, urgent = NULL');
}

sub send_job
{
	my (%arg) = @_;
	return submit($node, target => 'summary', model => $LlmBatch::MODEL{$api}, mode => $mode, %arg);
}

# A rule for the batches, or for single calls, whichever the mode makes.
sub rule
{
	my ($match, %member) = @_;
	$sim->rule({ mode => $mode, %$match }, %member);
}

# After its end: the job is $state and its results are $results, "code count"
# each; see the head of this file for the rest.
#	falls		items were sent again, so percent may go back
#	lost		so many attempts ran whose usage never came: of unknown cost
#	again		some had to be asked again, and were paid again
#	any			the answers are not those of $LlmBatch::RIGHT
#	other_mode	some went the other way
sub check_end
{
	my ($job, $name, $state, $results, %opt) = @_;
	my $what = "$api, $mode: $name";

	is(watch_job($node, $job, $what, falls => $opt{falls}), $state, "$what: the job is $state") or explain_job($node, $job);
	check_job($node, $job, $what);
	is(results($job), $results, "$what: the results") if defined $results;
	is(sql($node, "SELECT count(*) FROM articles WHERE summary <> $LlmBatch::RIGHT"), '0', "$what: no row has another's answer") if !$opt{any};
	is( sql($node, 'SELECT count(*) FROM articles WHERE summary IS NOT NULL'),
		sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"),
		"$what: as many rows are written as items succeeded");
	check_money($job, $what, %opt);
	my $summary = $sim->summary;
	my $other = $mode eq 'batch' ? 'realtime_calls' : 'batches_created';
	is($summary->{$other}, 0, "$what: nothing went the other way") if !$opt{other_mode};
	check_sim($sim, "$what: the simulator is content");
	return $summary;
}

sub check_money
{
	my ($job, $what, %opt) = @_;

	if ($opt{lost})
	{
		my $bill = $sim->call('GET', 'bill')->{usd};
		is( sql($node, "SELECT cost_unknown, cost < $bill FROM llm_batch.progress WHERE job_id = $job"),
			"$opt{lost}|t", "$what: what ran and never came is of unknown cost, the rest is known");
		return;
	}
	check_bill($node, $sim, $job, $what);
	cmp_ok($sim->summary->{max_times_one_prompt_ran}, '<=', 1, "$what: nothing is paid twice") if !$opt{again};
}

# "code count" of the results, in order; "ok" is an answer.
sub results
{
	my ($job) = @_;
	return sql($node, qq{
		SELECT string_agg(code || ' ' || n, ', ' ORDER BY code)
		FROM (SELECT COALESCE(error_code, 'ok') AS code, count(*) AS n
			  FROM llm_batch.results WHERE job_id = $job GROUP BY 1) x});
}

# How many attempts ended so.
sub attempts
{
	my ($job, $code) = @_;
	return sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND error_code = '$code'");
}

sub wait_batch
{
	my ($job, $condition) = @_;
	wait_until($node, "SELECT count(*) > 0 FROM llm_batch.batches WHERE job_id = $job AND $condition", "a batch with $condition");
}

sub cancel { my ($job) = @_; sql($node, "SELECT llm_batch.cancel($job)") }

# What the results of a job with $kept answers are when the rest is cancelled.
sub cancelled_but
{
	my ($kept) = @_;
	return join ', ', $kept < $COUNT ? 'cancelled ' . ($COUNT - $kept) : (), $kept ? "ok $kept" : ();
}

# How many answers the cancelled batches of the simulator deliver.
sub delivered
{
	my $sum = 0;
	$sum += $_->{completed} foreach $sim->batches;
	return $sum;
}

# ---- properties of both modes ----

sub happy_path
{
	begin('happy path');
	sql($node, "ALTER SERVER sim OPTIONS (ADD max_batch_requests '25')");
	my $job = send_job();
	my $summary = check_end($job, 'happy path', 'succeeded', "ok $COUNT");
	sql($node, 'ALTER SERVER sim OPTIONS (DROP max_batch_requests)');

	is("@$summary{qw(distinct_prompts_run max_times_one_prompt_ran)}", "$COUNT 1", "$api, $mode: happy path: every prompt ran once");
	if ($mode eq 'batch')
	{
		is(join(' ', sort { $b <=> $a } map { $_->{total} } $sim->batches), '25 25 10', "$api: three batches, none larger than allowed");
		# half of the price, to the last digit, is what a batch takes off
		is(sql($node, "SELECT saved = cost FROM llm_batch.progress WHERE job_id = $job"), 't', "$api: a batch saves half");
	}
	else
	{
		is($summary->{realtime_calls}, $COUNT, "$api: as many calls as items");
		is(sql($node, "SELECT saved FROM llm_batch.progress WHERE job_id = $job"), '0', "$api: real time saves nothing");
	}
	is( sql($node, qq{
			SELECT bool_and(input_tokens > 0 AND output_tokens > 0 AND cost > 0 AND model <> '' AND finish_reason <> '')
			FROM llm_batch.results WHERE job_id = $job}),
		't', "$api, $mode: happy path: each result tells what it took");
}

sub system_and_params
{
	begin('system prompt and parameters');
	my $job = send_job(system => 'Answer with one sentence.', params => '{"max_tokens": 500}');
	check_end($job, 'system prompt and parameters', 'succeeded', "ok $COUNT");
}

sub cached_prompts
{
	my $system = 'A long instruction. ' x 1000;

	begin('prompts that the provider caches', cached_fraction => 0.5, written_fraction => 0.25);
	my $job = send_job(system => $system);
	check_end($job, 'prompts that the provider caches', 'succeeded', "ok $COUNT");
	is( sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND cached_tokens > 1000"),
		$facts->{caches} ? $COUNT : 0, "$api, $mode: cached tokens are shown");
}

sub reasoning
{
	begin('hidden tokens');
	rule({}, items => [ { do => { reasoning_tokens => 77 } } ]);
	my $job = send_job();
	check_end($job, 'hidden tokens', 'succeeded', "ok $COUNT");
	is(sql($node, "SELECT bool_and(output_tokens > 77) FROM llm_batch.results WHERE job_id = $job"), 't',
		"$api, $mode: hidden tokens are output");
}

sub item_errors
{
	begin('items with status 400');
	rule({}, items => [ { nth => 'every 4', do => { status_code => 400 } } ]);
	my $job = send_job();
	check_end($job, 'items with status 400', 'partial', 'invalid_request 15, ok 45');
	is(sql($node, "SELECT bool_and(attempt = 1 AND error <> '') FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"),
		't', "$api, $mode: refused requests are not sent again, and the provider's words are kept");

	# fifteen of those that are sent first, never many in a row: that would be the server's fault
	foreach my $status (500, $mode eq 'batch' ? $facts->{overloaded} : ())
	{
		my $code = 'provider_error';

		begin("items with status $status once");
		rule({}, items => [ { nth => [ map { 4 * $_ } 1 .. 15 ], do => { status_code => $status } } ]);
		$job = send_job();
		check_end($job, "items with status $status once", 'succeeded', "ok $COUNT", falls => 1);
		is(attempts($job, $code), 15, "$api, $mode: status $status is tried again, and shown as $code");
	}

	begin('one item with status 500 always');
	rule({}, items => [ { prompt_contains => 'Article 7 ', do => { status_code => 500 } } ]);
	$job = send_job();
	check_end($job, 'one item with status 500 always', 'partial', 'ok 59, provider_error 1', falls => 1);
	is(sql($node, "SELECT attempt FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"), '3',
		"$api, $mode: after max_attempts it is enough");

	begin('all items with status 400');
	rule({}, items => [ { do => { status_code => 400 } } ]);
	$job = send_job();
	check_end($job, 'all items with status 400', 'failed', "invalid_request $COUNT");
}

sub refused_and_truncated
{
	foreach my $case (
		[ 'a refusal' => { refusal => 'I would rather not.' }, 'refused' ],
		[ 'a content filter' => { content_filter => $sim->true }, 'refused' ],
		[ 'an answer that is cut' => { length => $sim->true }, 'truncated' ])
	{
		my ($name, $do, $code) = @$case;

		begin($name);
		rule({}, items => [ { nth => 'every 6', do => $do } ]);
		my $job = send_job();
		check_end($job, $name, 'partial', join(', ', sort("ok 50", "$code 10")));
		is( sql($node, "SELECT bool_and(attempt = 1) FROM llm_batch.results WHERE job_id = $job"),
			't', "$api, $mode: $name is $code, and not sent again");
		is(sql($node, "SELECT bool_and(answer <> '') FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"),
			't', "$api, $mode: $name: what there is of it is kept") if $code eq 'truncated';
	}
}

# Answers into an enum, an integer and a boolean beside the text.
sub typed_answers
{
	my $good = '{"summary": "So.", "mood": "good", "score": 5, "urgent": false}';
	my %form = (
		'in a code fence' => "```json\n$good\n```",
		'with words around it' => "Here it is: $good I hope that it helps.",
		'with commas too many' => '{"summary": "So.", "mood": "good", "score": 5, "urgent": false,}');
	my $filled = q{SELECT count(*) FROM articles WHERE (summary, mood, score, urgent) = ('So.', 'good', 5, false)};
	my @target = (target => 'summary, mood, score, urgent');
	my $job;

	foreach my $form (sort keys %form)
	{
		begin("an answer $form");
		rule({}, items => [ { do => { answer => $form{$form} } } ]);
		$job = send_job(@target);
		check_end($job, "an answer $form", 'succeeded', "ok $COUNT", any => 1);
		is(sql($node, $filled), $COUNT, "$api, $mode: an answer $form is read as a reader would");
	}

	foreach my $wrong (
		[ 'no label of the enum' => '{"summary": "So.", "mood": "angry", "score": 5, "urgent": false}' ],
		[ 'no integer' => '{"summary": "So.", "mood": "good", "score": "many", "urgent": false}' ],
		[ 'no object' => 'I cannot say.' ])
	{
		my ($name, $answer) = @$wrong;

		begin("$name, once");
		rule({}, items => [ { nth => [ 1 .. 6 ], do => { answer => $answer } } ]);
		$job = send_job(@target);
		check_end($job, "$name, once", 'succeeded', "ok $COUNT", any => 1, again => 1, falls => 1);
		is(attempts($job, 'invalid_output'), 6, "$api, $mode: $name is invalid_output, and asked again");
	}

	begin('always no label of the enum');
	rule({}, items => [ { prompt_contains => 'Article 7 ', do => { answer => '{"summary": "So.", "mood": "angry", "score": 5, "urgent": false}' } } ]);
	$job = send_job(@target);
	check_end($job, 'always no label of the enum', 'partial', 'invalid_output 1, ok 59', any => 1, again => 1, falls => 1);
	is(sql($node, "SELECT attempt, error <> '', answer <> '' FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"), '2|t|t',
		"$api, $mode: it is asked again once, and the answer is kept with the reason");
	is(sql($node, 'SELECT count(*) FROM articles WHERE id = 7 AND summary IS NULL AND mood IS NULL'), '1', "$api, $mode: and nothing of it is written");
}

sub cancel_before_anything
{
	begin('cancel in the same transaction');
	my $job = sql($node, qq{
		BEGIN;
		SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', '$LlmBatch::MODEL{$api}', 'summary', server => 'sim', mode => '$mode') AS job \\gset
		SELECT llm_batch.cancel(:job);
		COMMIT;
		SELECT :job});
	($job) = $job =~ /(\d+)$/;
	check_end($job, 'cancel in the same transaction', 'cancelled', "cancelled $COUNT");
	is(scalar(my @none = $sim->requests), 0, "$api, $mode: cancel in the same transaction: the provider heard nothing");

	begin('cancel with a key that is refused', keys => 'sk-another');
	$job = send_job();
	wait_until($node, "SELECT state = 'paused' AND reason ~ '^auth' FROM llm_batch.progress WHERE job_id = $job", 'the key is refused');
	cancel($job);
	check_end($job, 'cancel with a key that is refused', 'cancelled', "cancelled $COUNT");
}

sub cancel_between_sendings
{
	begin('cancel while items wait to be sent again');
	sql($node, "ALTER SERVER sim OPTIONS (SET retry_base '1h', SET retry_max '1h')");
	rule({}, items => [ { nth => [ map { 10 * $_ } 1 .. 5 ], do => { status_code => 500 } } ]);
	my $job = send_job();
	wait_until($node, "SELECT succeeded = 55 AND queued = 5 AND in_flight = 0 FROM llm_batch.progress WHERE job_id = $job", 'five wait')
	  or explain_job($node, $job);
	cancel($job);
	check_end($job, 'cancel while items wait to be sent again', 'cancelled', 'cancelled 5, ok 55');
	sql($node, "ALTER SERVER sim OPTIONS (SET retry_base '50ms', SET retry_max '500ms')");
}

sub cancel_when_paused
{
	begin('cancel while paused, with items in flight', $mode eq 'batch' ? (run_seconds => 2, %{ $facts->{cancelled_delivers} }) : (realtime_seconds => 0.3));
	sql($node, "ALTER SERVER sim OPTIONS (ADD realtime_concurrency '4')");
	my $job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b ? $b->{done} > 5 : $sim->summary->{realtime_calls} > 5 });
	sql($node, "SELECT llm_batch.pause($job)");
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'it is paused');
	cancel($job);
	wait_job($node, $job);
	my $ran = $mode eq 'batch' ? delivered() : $sim->summary->{realtime_calls};
	check_end($job, 'cancel while paused, with items in flight', $ran == $COUNT ? 'succeeded' : 'cancelled', cancelled_but($ran));
	sql($node, 'ALTER SERVER sim OPTIONS (DROP realtime_concurrency)');
}

# ---- properties of batches ----

sub expired
{
	my $delivers = $facts->{expired_delivers};
	my %opt = (falls => 1);

	begin('expired once');
	rule({ times => 1 }, expire => 0.4);
	my $job = send_job();
	check_end($job, 'expired once', 'succeeded', "ok $COUNT", %opt);
	is(attempts($job, 'expired'), $delivers ? 36 : $COUNT, "$api: the first attempts of what was not delivered expired");

	sql($node, "ALTER SERVER sim OPTIONS (ADD fallback 'none')");
	begin('expired always, no fallback');
	rule({}, expire => 0.5);
	$job = send_job();
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", "$api: expired twice, no fallback: the job pauses")
	  or explain_job($node, $job);
	like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), qr/expired/, "$api: and says why");
	cancel($job);
	check_end($job, 'expired always, no fallback', 'cancelled', undef, %opt);
	is(sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"), $delivers ? 45 : 0, "$api: what two batches delivered is kept");
	sql($node, 'ALTER SERVER sim OPTIONS (DROP fallback)');

	begin('expired always, fallback');
	rule({}, expire => 0.5);
	$job = send_job();
	check_end($job, 'expired always, fallback', 'succeeded', "ok $COUNT", other_mode => 1, %opt);
	is($sim->summary->{realtime_calls}, $delivers ? 15 : $COUNT, "$api: only the rest went in real time");
}

sub cancelled_elsewhere
{
	begin('cancelled at the provider', run_seconds => 4, %{ $facts->{cancelled_delivers} });
	my $job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{done} > 5 });
	wait_batch($job, q{state = 'in_progress' AND remote_id IS NOT NULL});
	my $id = sql($node, "SELECT remote_id FROM llm_batch.batches WHERE job_id = $job");
	$sim->api('POST', $facts->{cancel_path}->($id), '{}', undef, $api);
	$sim->wait_for(sub { my ($b) = $sim->batches; $b->{status} eq 'cancelled' });
	check_end($job, 'cancelled at the provider', 'partial', cancelled_but(delivered()));
}

# A provider that keeps what a cancelled batch has done bills nothing.
sub cancelled_with_nothing
{
	return if !%{ $facts->{cancelled_delivers} };
	begin('cancelled, and nothing is delivered', run_seconds => 4);
	my $job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{done} > 5 });
	cancel($job);
	check_end($job, 'cancelled, and nothing is delivered', 'cancelled', "cancelled $COUNT");
}

sub partial_output
{
	my $job;

	begin('missing lines');
	rule({ times => 1 }, items => [ { nth => 'every 10', do => { missing => $sim->true } } ]);
	$job = send_job();
	check_end($job, 'missing lines', 'succeeded', "ok $COUNT", falls => 1, lost => 6);

	begin('malformed lines');
	rule({ times => 1 }, items => [ { nth => [ 3, 7 ], do => { malformed => $sim->true } } ]);
	$job = send_job();
	check_end($job, 'malformed lines', 'succeeded', "ok $COUNT", falls => 1, lost => 2);

	begin('results that are cut while they are read');
	$sim->fault({ %{ $facts->{fetch} }, nth => [ 1, 2 ] }, { cut_body_at => 2500 });
	$job = send_job();
	check_end($job, 'results that are cut while they are read', 'succeeded', "ok $COUNT");

	begin('a batch of which little is done when it is cancelled', run_seconds => 4, %{ $facts->{cancelled_delivers} });
	$job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{done} > 5 });
	cancel($job);
	is(wait_job($node, $job), 'cancelled', "$api: cancelled with some done");
	check_end($job, 'a batch of which little is done when it is cancelled', 'cancelled', cancelled_but(delivered()));
}

sub another_order
{
	foreach my $order ('reverse', $sim->true)
	{
		begin("results in order \"$order\"");
		rule({}, shuffle => $order);
		my $job = send_job();
		check_end($job, "results in order \"$order\"", 'succeeded', "ok $COUNT");
	}

	begin('repeated lines');
	rule({}, items => [ { nth => 'every 3', do => { duplicate => 2 } } ]);
	my $job = send_job();
	check_end($job, 'repeated lines', 'succeeded', "ok $COUNT");

	begin('lines of somebody else');
	rule({ times => 1 }, items => [ { nth => 3, do => { custom_id => 'somebody-3' } } ]);
	$job = send_job();
	check_end($job, 'lines of somebody else', 'succeeded', "ok $COUNT", falls => 1, lost => 1);
}

sub create_unanswered
{
	begin('a create that is not answered', unlisted_seconds => 0.3);
	$sim->fault({ %{ $facts->{create} }, nth => 1 }, { cut_after_commit => $sim->true });
	my $job = send_job();
	check_end($job, 'a create that is not answered', 'succeeded', "ok $COUNT");
	is($sim->summary->{batches_created}, 1, "$api: the batch is found, and not created twice");
}

sub cancel_in_every_state
{
	my ($job, $batch);

	if ($facts->{upload})
	{
		begin('cancel while uploading');
		$sim->fault($facts->{upload}, { stall_before => 30 });
		$job = send_job();
		wait_batch($job, q{state = 'uploading'});
		sleep 0.2;
		cancel($job);
		check_end($job, 'cancel while uploading', 'cancelled', "cancelled $COUNT");
		is($sim->summary->{batches_created}, 0, "$api: cancel while uploading: no batch was created");
	}

	begin('cancel while submitting', run_seconds => 60, %{ $facts->{cancelled_delivers} });
	$sim->fault($facts->{create}, { stall => 1.5 });
	$job = send_job();
	wait_batch($job, q{state = 'submitting'});
	$sim->wait_for(sub { scalar $sim->batches });
	cancel($job);
	is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'cancelling', "$api: cancelling until the provider has ended");
	wait_job($node, $job);
	($batch) = $sim->batches;
	is($batch->{status}, 'cancelled', "$api: the batch that was created is cancelled at the provider");
	check_end($job, 'cancel while submitting', 'cancelled', cancelled_but(delivered()));

	# one that cannot be told to be ours is not cancelled: it is watched to its end
	begin('cancel while verifying', run_seconds => $facts->{labelled} ? 60 : 2, unlisted_seconds => 1, %{ $facts->{cancelled_delivers} });
	$sim->fault({ %{ $facts->{create} }, nth => 1 }, { cut_after_commit => $sim->true });
	$job = send_job();
	wait_batch($job, q{state = 'verifying'});
	cancel($job);
	wait_job($node, $job);
	($batch) = $sim->batches;
	is($batch->{status}, $facts->{labelled} ? 'cancelled' : 'completed', "$api: cancel while verifying: the batch is found");
	check_end($job, 'cancel while verifying', $facts->{labelled} ? 'cancelled' : 'succeeded', cancelled_but(delivered()));

	begin('cancel in progress', run_seconds => 4, cancel_seconds => 0.5, %{ $facts->{cancelled_delivers} });
	$job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{done} > 5 });
	wait_batch($job, q{state = 'in_progress'});
	cancel($job);
	is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'cancelling', "$api: cancelling until the provider has ended");
	wait_job($node, $job);
	cmp_ok(delivered(), '>', 5, "$api: some are finished");
	cmp_ok(delivered(), '<', $COUNT, "$api: some are not");
	check_end($job, 'cancel in progress', 'cancelled', cancelled_but(delivered()));

	begin('the cancel itself fails', run_seconds => 60, %{ $facts->{cancelled_delivers} });
	$sim->fault({ %{ $facts->{cancel} }, nth => [ 1, 2 ] }, { status => 503 });
	$job = send_job();
	wait_batch($job, q{state = 'in_progress'});
	cancel($job);
	wait_job($node, $job);
	($batch) = $sim->batches;
	is($batch->{status}, 'cancelled', "$api: a cancel is asked for until it is heard");
	check_end($job, 'the cancel itself fails', 'cancelled', cancelled_but(delivered()));

	begin('cancel when the provider has ended');
	sql($node, "ALTER SERVER sim OPTIONS (SET poll_min '3s', SET poll_max '3s')");
	$job = send_job();
	$sim->wait_for(sub { my ($b) = $sim->batches; $b && $b->{status} eq 'completed' });
	is(sql($node, "SELECT state FROM llm_batch.batches WHERE job_id = $job"), 'in_progress', "$api: nobody has looked yet");
	cancel($job);
	check_end($job, 'cancel when the provider has ended', 'succeeded', "ok $COUNT");
	sql($node, "ALTER SERVER sim OPTIONS (SET poll_min '50ms', SET poll_max '200ms')");

	begin('cancel while results are read');
	$sim->fault($facts->{fetch}, { slow_body => 15000 });
	$job = send_job();
	wait_batch($job, q{state = 'fetching'});
	cancel($job);
	check_end($job, 'cancel while results are read', 'succeeded', "ok $COUNT");
}

# ---- properties of real time ----

# What a provider says when it is asked too often is no fault of the item.
sub asked_too_often
{
	foreach my $status (429, $facts->{overloaded})
	{
		begin("status $status");
		rule({}, items => [ { nth => [ 1 .. 5 ], do => { status_code => $status } } ]);
		my $job = send_job();
		check_end($job, "status $status", 'succeeded', "ok $COUNT");
		is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job"), $COUNT, "$api: status $status costs an item no attempt");
	}
}

sub cancel_in_flight
{
	begin('cancel with answers under way', realtime_seconds => 0.5);
	sql($node, "ALTER SERVER sim OPTIONS (ADD realtime_concurrency '4')");
	my $job = send_job();
	wait_until($node, "SELECT succeeded >= 4 FROM llm_batch.progress WHERE job_id = $job", 'some are answered');
	cancel($job);
	wait_job($node, $job);
	my $ran = $sim->summary->{realtime_calls};
	check_end($job, 'cancel with answers under way', 'cancelled', cancelled_but($ran));
	cmp_ok($ran, '<', $COUNT, "$api: what was not sent yet stayed so");
	sql($node, 'ALTER SERVER sim OPTIONS (DROP realtime_concurrency)');
}

sub cancel_before_answers
{
	begin('cancel before the first answer', realtime_seconds => 1);
	sql($node, "ALTER SERVER sim OPTIONS (ADD realtime_concurrency '4')");
	my $job = send_job();
	$sim->wait_for(sub { scalar(my @calls = $sim->requests(method => 'POST')) >= 1 });
	cancel($job);
	wait_job($node, $job);
	my $ran = $sim->summary->{realtime_calls};
	check_end($job, 'cancel before the first answer', 'cancelled', cancelled_but($ran));
	cmp_ok($ran, '<=', 4, "$api: no more than were under way");
	sql($node, 'ALTER SERVER sim OPTIONS (DROP realtime_concurrency)');
}

sub cancel_when_out_of_order
{
	begin('cancel while the provider is out of order');
	$sim->fault({}, { status => 503 });
	my $job = send_job();
	$sim->wait_for(sub { scalar(my @calls = $sim->requests(method => 'POST')) >= 3 });
	cancel($job);
	check_end($job, 'cancel while the provider is out of order', 'cancelled', undef);
	is(sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"), '0', "$api: nothing was answered");
}

sub answers_that_are_spoilt
{
	begin('answers that are no JSON');
	$sim->fault({ %{ $facts->{answer} }, nth => [ 2, 4 ] }, { garbage => $sim->true });
	my $job = send_job();
	check_end($job, 'answers that are no JSON', 'succeeded', "ok $COUNT", falls => 1, lost => 2);
}

# ---- all of them ----

my @BOTH = (\&happy_path, \&system_and_params, \&cached_prompts, \&reasoning, \&item_errors, \&refused_and_truncated, \&typed_answers,
	\&cancel_before_anything, \&cancel_between_sendings, \&cancel_when_paused);
my %OF_MODE = (
	batch => [ \&expired, \&cancelled_elsewhere, \&cancelled_with_nothing, \&partial_output, \&another_order, \&create_unanswered, \&cancel_in_every_state ],
	realtime => [ \&asked_too_often, \&cancel_in_flight, \&cancel_before_answers, \&cancel_when_out_of_order, \&answers_that_are_spoilt ]);

sub check
{
	($api) = @_;
	$facts = $PROVIDER{$api};
	$node = start_node();
	$sim = start_sim();
	create_server($node, $sim, api => $api, max_attempts => 3, request_timeout => '5s', settle_time => '1s');
	create_typed_articles($node, $COUNT);
	foreach my $each (qw(batch realtime))
	{
		$mode = $each;
		$_->() foreach @BOTH, @{ $OF_MODE{$mode} };
	}
	done_testing();
}

1;
