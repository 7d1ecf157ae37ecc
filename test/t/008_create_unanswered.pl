# The one paid call stays unanswered: the batch is found by its label, or it
# is proved to be absent before it is sent anew.  Nothing is paid twice.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node();
my $sim = start_sim();
my $count = 40;
my $create = { method => 'POST', path => '^/v1/batches$' };
my $true = $sim->true;

# Absence takes request_timeout + settle_time, 3 s, to be proved.
create_server($node, $sim, request_timeout => '1s', settle_time => '2s');
create_server($node, $sim, name => 'patient', request_timeout => '10s', settle_time => '10s');
create_articles($node, $count);

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
}

# Ends the job: all succeeded, each prompt ran once.  Returns how often the
# batch was created at the provider.
sub check
{
	my ($name, $job, $batches) = @_;
	my $summary;

	is(watch_job($node, $job, $name), 'succeeded', "$name: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $name);
	check_prompts_ran_once($sim, $count, "$name: each prompt ran once");
	is($sim->summary->{batches_created}, $batches // 1, "$name: so many batches were created");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer");
	check_sim($sim, "$name: the simulator is content");
}

sub event
{
	my ($job, $kind) = @_;
	return sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = '$kind'");
}

sub creates { return $sim->requests(method => 'POST', path => '/v1/batches') }

# ---- it was created ----

my $job;
foreach my $case (
	[ 'cut after the commit', { cut_after_commit => $true } ],
	[ 'no answer in time', { stall => 3 } ],
	[ 'status 500 after the commit', { status => 500, commit => $true } ],
	[ 'garbage', { garbage => $true } ],
	[ 'an answer cut short', { cut_body_at => 20, reset => $true } ])
{
	my ($name, $do) = @$case;

	begin($name);
	$sim->fault($create, $do);
	$job = submit($node, target => 'summary');
	check($name, $job);
	is(event($job, 'verifying'), 1, "$name: the batch was looked for");
	is(scalar(my @sent = creates()), 1, "$name: it was sent once");
}

begin('listed late');
$sim->fault($create, { cut_after_commit => $true });
$sim->rule({}, unlisted_seconds => 1.5);
$job = submit($node, target => 'summary');
check('listed late', $job);

# It shows in the listing long before its absence could be proved: it is
# found then, not at the end of that time.
begin('found when it is listed');
$sim->fault($create, { cut_after_commit => $true });
$sim->rule({}, unlisted_seconds => 1);
my $begun = time;
$job = submit($node, target => 'summary', server => 'patient');
check('found when it is listed', $job);
cmp_ok(time - $begun, '<', 12, 'found when it is listed: the job did not wait for the 20 s of a proof');

# The listing has pages, and ours is not on the first.
begin('behind the batches of others');
$sim->fault({ %$create, times => 1 }, { cut_after_commit => $true });
$sim->fault({ method => 'GET', path => '^/v1/batches$' }, { status => 503 });
$sim->rule({ metadata => { whose => 'other' } }, fail => 'not_meant_to_run');
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'verifying'", 'created unanswered');
my $file = $sim->upload('{}');
$sim->api('POST', '/batches', qq({"input_file_id": "$file", "endpoint": "/v1/chat/completions", "completion_window": "24h",
	"metadata": {"whose": "other"}})) foreach 1 .. 210;
$sim->clear_rules;
check('behind the batches of others', $job, 211);
cmp_ok(scalar(grep { $_->{path} =~ /after=/ } $sim->requests(method => 'GET', path => '/v1/batches?')), '>=', 2,
	'behind the batches of others: it was on the third page');

# ---- it was not created ----

foreach my $case ([ 'cut before the body', { cut_before => $true } ], [ 'status 503', { status => 503 } ], [ 'no answer and no batch', { stall_before => 3, status => 503 } ])
{
	my ($name, $do) = @$case;

	begin($name);
	$sim->fault({ %$create, times => 1 }, $do);
	$begun = time;
	$job = submit($node, target => 'summary');
	check($name, $job);
	my @sent = creates();
	is(scalar @sent, 2, "$name: it was sent anew once");
	if (event($job, 'verifying'))
	{
		my @lists = grep { $_->{path} =~ m{^/v1/batches(\?|$)} && $_->{seq} < $sent[1]{seq} } $sim->requests(method => 'GET', path => '/v1/batches');
		my $waited = sql($node, qq{
			SELECT (SELECT at FROM llm_batch.events WHERE job_id = $job AND kind = 'absent') -
				(SELECT at FROM llm_batch.events WHERE job_id = $job AND kind = 'verifying') >= interval '1.9 s'});

		cmp_ok(scalar @lists, '>=', 2, "$name: two listings came before");
		is($waited, 't', "$name: the second of them late enough");
		cmp_ok($sent[1]{time} - $sent[0]{time}, '>=', 2.9, "$name: request_timeout + settle_time passed before it was sent anew");
	}
}

# The provider is away altogether: nothing is proved by listings that fail.
begin('listings fail as well');
$sim->fault({ %$create, times => 1 }, { cut_after_commit => $true });
$sim->fault({ method => 'GET', path => '^/v1/batches$', times => 12 }, { status => 503 });
$job = submit($node, target => 'summary');
check('listings fail as well', $job);
is(event($job, 'absent'), 0, 'listings fail as well: a failed listing proves nothing');

begin('listings are not understood');
$sim->fault({ %$create, times => 1 }, { cut_after_commit => $true });
$sim->fault({ method => 'GET', path => '^/v1/batches$', times => 12 }, { merge => { data => 'none' } });
$job = submit($node, target => 'summary');
check('listings are not understood', $job);
is(event($job, 'absent'), 0, 'listings are not understood: they prove nothing');

# ---- one at a time ----

# While the fate of one create is open no other is sent to that server: what
# is looked for is one batch.
begin('one create at a time');
sql($node, q{ALTER SERVER sim OPTIONS (ADD max_batch_requests '10')});
$sim->fault({ %$create, nth => [ 1, 3 ] }, { cut_after_commit => $true });
$sim->rule({ nth => 1 }, unlisted_seconds => 1);
$job = submit($node, target => 'summary');
check('one create at a time', $job, 4);
is($sim->summary->{max_concurrent}{'POST /v1/batches'}, 1, 'one create at a time: creates do not overlap');
sql($node, q{ALTER SERVER sim OPTIONS (DROP max_batch_requests)});

# A paused job is not sent anew before it is resumed.
begin('paused meanwhile');
$sim->fault({ %$create, times => 1 }, { status => 500 });
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'verifying'", 'verifying');
sql($node, "SELECT llm_batch.pause($job)");
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'absent'", 'the batch is proved to be absent');
sleep 0.5;
is(scalar(my @sent = creates()), 1, 'paused meanwhile: it is not sent anew');
sql($node, "SELECT llm_batch.resume($job)");
check('paused meanwhile', $job);

done_testing();
