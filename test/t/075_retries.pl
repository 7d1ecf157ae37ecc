# Whose fault a failure is, and what it costs the others: docs/ERRORS.md, as
# far as it takes a server.  Only what failed is sent again; an item that always
# fails ends, alone; what a person has to mend pauses the job, nothing is spent
# meanwhile, and once it is mended the job goes on by itself.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $node = start_node();
my $sim = start_sim(options => { validate_seconds => 0.02, run_seconds => 0.05, finalize_seconds => 0.02 });
my $count = 12;
our $api;    # of the present loop; subroutines see it

create_articles($node, $count);
create_server($node, $sim, name => $_, api => $_, retry_base => '20ms', retry_max => '100ms', max_attempts => 3)
  foreach qw(openai anthropic gemini);

sub begin
{
	my ($name) = @_;

	note("--- $api: $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
}

sub begin_job { return submit($node, server => $api, model => $LlmBatch::MODEL{$api}, target => 'summary', @_) }

# How items ended: "state code attempt: number", in order.
sub outcomes
{
	my ($job) = @_;
	return sql($node, qq{
		SELECT string_agg(format('%s: %s', what, n), ', ' ORDER BY what) FROM (
			SELECT concat_ws(' ', state, error_code, attempt) AS what, count(*) AS n
			FROM llm_batch.results WHERE job_id = $job GROUP BY 1) r});
}

# The bill: so many prompts, each run once.  In real time there are no
# custom_ids to count.
sub check_paid_once
{
	my ($expected, $name) = @_;
	my $summary = $sim->summary;

	is("$summary->{distinct_prompts_run} $summary->{max_times_one_prompt_ran}", "$expected 1", $name);
}

sub written { return sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT") }

# ---- only what failed is sent again ----

foreach $api (qw(openai anthropic gemini))
{
	begin('some items fail once');
	$sim->rule({ times => 1 }, items => [ { nth => 'every 4', do => { status_code => 500 } } ]);
	my $job = begin_job();
	is(wait_job($node, $job), 'succeeded', "$api: items that failed once succeed");
	check_job($node, $job);
	is(outcomes($job), 'succeeded 1: 9, succeeded 2: 3', "$api: they, and no others, took a second attempt");
	is(join(' ', sort { $a <=> $b } map { $_->{total} } $sim->batches), "3 $count", "$api: they travelled together, and alone");
	check_paid_once($count, "$api: nothing was paid twice");
	is(written(), $count, "$api: every row has its answer");

	foreach my $mode (qw(batch realtime))
	{
		begin("an item always fails, $mode");
		$sim->rule({ mode => 'any' }, items => [ { prompt_contains => 'Article 7 speaks', do => { status_code => 500 } } ]);
		$job = begin_job(mode => $mode);
		is(wait_job($node, $job), 'partial', "$api, $mode: an item that always fails does not keep its job");
		check_job($node, $job);
		is(outcomes($job), 'failed provider_error 3: 1, succeeded 1: 11', "$api, $mode: it ends after max_attempts, and takes nobody along");
		check_paid_once($count - 1, "$api, $mode: the others were paid once");
	}
}

# ---- a batch that is refused as a whole ----

$api = 'openai';
foreach my $rounds (1, 4)
{
	begin("a line is named, $rounds times");
	$sim->rule({ times => $rounds }, fail => { code => 'invalid_request', line => 1 });
	my $job = begin_job();
	is(wait_job($node, $job), 'partial', "named $rounds times: the job ends");
	check_job($node, $job);
	# each refusal names another item; after max_attempts the rest goes one by one
	my $named = $rounds < 3 ? $rounds : 3;
	is( sql($node, "SELECT count(*) FILTER (WHERE error_code = 'invalid_request'), count(*) FILTER (WHERE state = 'succeeded') FROM llm_batch.results WHERE job_id = $job"),
		"$named|" . ($count - $named), "named $rounds times: who was named fails, and nobody else");
	check_paid_once($count - $named, "named $rounds times: the others were paid once");
}

my %refuse = (
	openai => sub { $sim->rule({}, fail => { code => 'invalid_request' }) },
	anthropic => sub {
		$sim->fault({ method => 'POST', path => '^/v1/messages/batches$' },
			{ status => 400, body => { type => 'error', error => { type => 'invalid_request_error', message => 'no' } } });
	},
	gemini => sub { $sim->rule({}, fail => 'INVALID_ARGUMENT') });
foreach $api (qw(openai anthropic gemini))
{
	begin('nobody is named');
	$refuse{$api}->();
	$sim->rule({ mode => 'realtime' }, items => [ { prompt_contains => 'Article 7 speaks', do => { status_code => 400 } } ]);
	my $job = begin_job();
	is(wait_job($node, $job), 'partial', "$api: a batch refused without a name: the job ends");
	check_job($node, $job);
	is(outcomes($job), 'failed invalid_request 2: 1, succeeded 2: 11', "$api: one by one shows who was at fault");
	check_paid_once($count - 1, "$api: the others were paid once");
}

# A large one is halved: the price of real time is for few.
create_articles($node, 240, name => 'many', bytes => 1000);
foreach $api (qw(anthropic gemini))
{
	begin('a large batch, nobody is named');
	# of 240, then one half of 120
	if ($api eq 'gemini')
	{
		$sim->rule({ nth => [ 1, 3 ] }, fail => 'INVALID_ARGUMENT');
	}
	else
	{
		$sim->fault({ method => 'POST', path => '^/v1/messages/batches$', nth => [ 1, 3 ] },
			{ status => 400, body => { type => 'error', error => { type => 'invalid_request_error', message => 'no' } } });
	}
	my $job = begin_job(source => 'many');
	is(wait_job($node, $job), 'succeeded', "$api, large: the job succeeds");
	check_job($node, $job);
	is( sql($node, "SELECT string_agg(items || ' ' || state, ', ' ORDER BY items DESC, state) FROM llm_batch.batches WHERE job_id = $job"),
		'240 failed, 120 failed, 120 finalized, 60 finalized, 60 finalized', "$api, large: it is halved, and what is refused again once more");
	is(outcomes($job), 'succeeded 1: 240', "$api, large: no attempt was charged");
	check_prompts_ran_once($sim, 240, "$api, large: each prompt ran once, in a batch");
}

# All are at fault: that is known soon.
$api = 'gemini';
begin('a large batch, all at fault');
$sim->rule({}, fail => 'INVALID_ARGUMENT');
$sim->rule({ mode => 'realtime' }, items => [ { do => { status_code => 400 } } ]);
my $hopeless = begin_job(source => 'many');
is(wait_job($node, $hopeless), 'failed', 'all at fault: the job fails');
check_job($node, $hopeless);
is(outcomes($hopeless), 'failed invalid_request 2: 240', 'all at fault: each for itself, and once');
cmp_ok($sim->summary->{batches_created}, '<=', 7, 'all at fault: few batches were tried');

# A queue that is full of somebody else's: what is learned from that passes.
begin('the queue is full for no reason of ours');
$sim->rule({ nth => [ 1, 2 ] }, fail => 'RESOURCE_EXHAUSTED');
foreach my $round (1 .. 4)
{
	my $job = begin_job();
	is(wait_job($node, $job), 'succeeded', "queue full, job $round: it succeeds");
	is(outcomes($job), "succeeded 1: $count", "queue full, job $round: no attempt was charged");
	next if $round == 2 || $round == 3;
	my $batches = sql($node, "SELECT count(*) FROM llm_batch.batches WHERE job_id = $job AND state = 'finalized'");
	cmp_ok($batches, $round == 1 ? '>' : '==', 1, "queue full, job $round: " . ($round == 1 ? 'it goes in smaller batches' : 'it goes in one again'));
}

# ---- what a person has to mend ----

# begin_mend(name, mode, break, reason): a job that pauses; nothing was run
sub begin_mend
{
	my ($name, $mode, $break, $reason) = @_;
	my $job;

	begin("$name, $mode");
	$break->();
	$job = begin_job(mode => $mode);
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", "$api, $mode, $name: the job pauses")
	  or explain_job($node, $job);
	like(job_row($node, $job)->{reason}, $reason, "$api, $mode, $name: and says why");
	return $job;
}

sub end_mend
{
	my ($job, $name, $mend, $before) = @_;

	is($sim->summary->{distinct_prompts_run}, $before // 0, "$api, $name: nothing is spent meanwhile");
	is(job_row($node, $job)->{state}, 'paused', "$api, $name: still paused");
	$mend->();
	is(wait_job($node, $job), 'succeeded', "$api, $name: mended, it goes on by itself");
	check_job($node, $job);
	is(outcomes($job), "succeeded 1: $count", "$api, $name: no attempt was charged");
	check_paid_once($count, "$api, $name: each prompt ran once");
	is(written(), $count, "$api, $name: every row has its answer");
	is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'resumed' AND message ~ 'mended'"), '1', "$api, $name: the history says so, once");
}

foreach $api (qw(openai anthropic gemini))
{
	foreach my $mode (qw(batch realtime))
	{
		my $job = begin_mend('wrong key', $mode, sub { $sim->options(keys => 'sk-another') }, qr/^auth: .*HTTP 40/);
		sleep 0.5;
		# looks are few: one call each, however many places there are
		my @posts = $sim->requests(method => 'POST');
		cmp_ok(scalar @posts, '<=', $count + 20, "$api, $mode, wrong key: looks are few");
		cmp_ok(scalar @posts, '>', 1, "$api, $mode, wrong key: but there are some");
		end_mend($job, "$mode, wrong key", sub { $sim->options(keys => '') });

		next if $mode eq 'realtime' && $api ne 'openai';
		$job = begin_mend('no money', $mode, sub { $sim->options(quota_keys => 'sk-test') }, qr/^quota: .*HTTP/);
		end_mend($job, "$mode, no money", sub { $sim->options(quota_keys => '') });
	}
}

# Ours to mend: no call is made before.
$api = 'openai';
foreach my $case (
	[
		'a disabled server', qr/^server "openai" is disabled/,
		sub { sql($node, q{ALTER SERVER openai OPTIONS (ADD enabled 'off')}) },
		sub { sql($node, q{ALTER SERVER openai OPTIONS (DROP enabled)}) }
	],
	[
		'no mapping', qr/no user mapping for server "openai"/,
		sub { sql($node, q{DROP USER MAPPING FOR CURRENT_USER SERVER openai}) },
		sub { sql($node, q{CREATE USER MAPPING FOR CURRENT_USER SERVER openai OPTIONS (api_key 'sk-test')}) }
	])
{
	my ($name, $reason, $break, $mend) = @$case;

	foreach my $mode (qw(batch realtime))
	{
		begin("$name, $mode");
		# submit would refuse it: broken between submit and the worker's look
		my $job = sql($node, qq{
			BEGIN;
			SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', '$LlmBatch::MODEL', 'summary', server => 'openai', mode => '$mode') AS job \\gset
			SELECT llm_batch.pause(:job);
			COMMIT;
			SELECT :job});
		($job) = $job =~ /(\d+)$/;
		$break->();
		sql($node, "SELECT llm_batch.resume($job)");
		wait_until($node, "SELECT state = 'paused' AND reason !~ 'request' FROM llm_batch.progress WHERE job_id = $job", "$mode, $name: the job pauses");
		like(job_row($node, $job)->{reason}, $reason, "$mode, $name: and says why");
		sleep 0.3;
		is(scalar(my @none = $sim->requests), 0, "$mode, $name: no call is made");
		end_mend($job, "$mode, $name", $mend);
	}
}

# The key is refused while a batch flies: it lands when the key is good again.
begin('the key is revoked in flight');
$sim->rule({}, run_seconds => 0.5);
my $job = begin_job();
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'the batch flies');
$sim->options(keys => 'sk-another');
wait_until($node, "SELECT state = 'paused' AND reason ~ '^auth: .*poll' FROM llm_batch.progress WHERE job_id = $job", 'revoked: the job pauses');
$sim->call('POST', 'settle', { ended => $sim->true, timeout => 30 });
end_mend($job, 'revoked', sub { $sim->options(keys => '') }, $count);

# The same for fetching, when the batch has ended by then.
begin('results are refused');
$sim->fault({ method => 'GET', path => '^/v1/files/[^/]+/content$', times => 3 }, { status => 403, body => { error => { code => 'x', message => 'no' } } });
$job = begin_job();
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $job AND message ~ '^auth: .*fetching'", 'results refused: the history says why');
is(wait_job($node, $job), 'succeeded', 'results refused for a while: the job goes on');
check_paid_once($count, 'results refused: each prompt ran once');

# A person's pause is a person's to end.
begin('paused while it awaits a mend');
$sim->options(keys => 'sk-another');
$job = begin_job();
wait_until($node, "SELECT state = 'paused' AND reason ~ '^auth' FROM llm_batch.progress WHERE job_id = $job", 'the job pauses for its key');
sql($node, "SELECT llm_batch.pause($job)");
wait_until($node, "SELECT reason = 'paused by request' FROM llm_batch.job WHERE id = $job", 'and by request');
$sim->options(keys => '');
sleep 0.5;
is(job_row($node, $job)->{state}, 'paused', 'mended, it stays paused by request');
sql($node, "SELECT llm_batch.resume($job)");
is(wait_job($node, $job), 'succeeded', 'resumed, it succeeds');

# A worker that dies meanwhile knows it from the table.
begin('the server crashes meanwhile');
$sim->options(keys => 'sk-another');
$job = begin_job();
wait_until($node, "SELECT state = 'paused' AND reason ~ '^auth' FROM llm_batch.progress WHERE job_id = $job", 'the job pauses for its key');
$node->stop('immediate');
$node->start;
end_mend($job, 'after a crash', sub { $sim->options(keys => '') });

# A request file cannot be written, as when the disk is full.
begin('no room for request files');
my $folder = $node->data_dir . '/base/pgsql_tmp';
rename $folder, "$folder.away" or -e $folder and die "$folder: $!";
PostgreSQL::Test::Utils::append_to_file($folder, 'not a folder');
$job = begin_job(source => 'many');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'no room: the job pauses');
is(job_row($node, $job)->{reason}, "planning failed; the server's log tells why", 'no room: and says where to look');
is($sim->summary->{distinct_prompts_run}, 0, 'no room: nothing is sent');
unlink $folder or die "$folder: $!";
sql($node, "SELECT llm_batch.resume($job)");
is(wait_job($node, $job), 'succeeded', 'with room again, it succeeds');
check_paid_once(240, 'no room: each prompt ran once');

check_sim($sim);
done_testing();
