# A provider that gives no label back: after a create that was not answered,
# batches of equal size that nobody here knows are watched until they have
# ended, and told by the custom_ids in their results.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node();
my $sim = start_sim();
my $count = 30;
my $create = { method => 'POST', path => '^/v1/messages/batches$', times => 1 };
my $true = $sim->true;

# Absence takes request_timeout + settle_time, 3 s, to be proved.
create_server($node, $sim, api => 'anthropic', request_timeout => '1s', settle_time => '2s');
create_articles($node, $count);

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->clear_rules;
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
}

sub submit_job { return submit($node, target => 'summary', model => 'claude-haiku-5-5') }

# The job ends well, each of its prompts ran once, and ours are so many batches.
sub check
{
	my ($name, $job, $batches) = @_;

	is(watch_job($node, $job, $name), 'succeeded', "$name: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $name);
	is($sim->summary->{batches_created}, $batches, "$name: so many batches were created");
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, "$name: every row has its answer");
	check_sim($sim, "$name: the simulator is content");
}

sub runs_of_ours
{
	my ($name, $runs) = @_;
	my $items = $sim->items->{prompts};
	my @wrong = grep { /Article/ && $items->{$_}{runs} != $runs } keys %$items;

	is(scalar(@wrong), 0, "$name: each prompt of ours ran so often: $runs");
}

sub event
{
	my ($job, $kind) = @_;
	return sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = '$kind'");
}

# Somebody else with the same key sends a batch of so many requests.
sub strangers_batch
{
	my ($requests) = @_;
	my @requests = map {
		{ custom_id => "stranger-$_", params => { model => 'claude-haiku-5-5', max_tokens => 50,
				messages => [ { role => 'user', content => "Somebody else's text $_." } ] } } } 1 .. $requests;

	return $sim->api('POST', '/v1/messages/batches', JSON::PP->new->encode({ requests => \@requests }), undef, 'anthropic');
}

# ---- one candidate, ours ----

my $name = 'created and not answered';
begin($name);
$sim->fault($create, { cut_after_commit => $true });
my $job = submit_job();
check($name, $job, 1);
runs_of_ours($name, 1);
ok(event($job, 'verifying') > 0, "$name: it was looked for");

# ---- one candidate, whose results do not begin well ----

$name = 'created and not answered, its first line spoilt';
begin($name);
$sim->fault($create, { cut_after_commit => $true });
$sim->rule({ mode => 'batch' }, shuffle => $sim->false, items => [ { nth => 1, do => { malformed => $true } } ]);
$job = submit_job();
is(wait_job($node, $job), 'succeeded', "$name: the job ends well");
is(event($job, 'absent'), 0, "$name: nothing was taken for absent");
# the one whose line cannot be read is sent again, as on_unanswered says
is(sql($node, "SELECT string_agg(items::text, ' ' ORDER BY batch_id) FROM llm_batch.batches WHERE job_id = $job"), "$count 1",
	"$name: the others were not sent again");

# ---- two of equal size; one of them is a stranger's ----

$name = 'a stranger\'s batch of equal size';
begin($name);
$sim->options(run_seconds => 1.5);
strangers_batch($count);
$sim->fault($create, { cut_after_commit => $true });
$job = submit_job();
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $job AND kind = 'verifying'", "$name: ours is looked for");
strangers_batch($count);
check($name, $job, 3);
runs_of_ours($name, 1);

# ---- never arrived; a stranger's batch looks like it ----

$name = 'not created, and a stranger\'s batch looks like it';
begin($name);
$sim->options(run_seconds => 6);
strangers_batch($count);
# the request is read, and nothing is done
$sim->fault($create, { status => 500 });
$job = submit_job();
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $job AND message LIKE 'unknown batches%'",
	"$name: the candidate is noticed");
sleep(4);
is(sql($node, "SELECT state FROM llm_batch.batches WHERE job_id = $job ORDER BY batch_id DESC LIMIT 1"), 'verifying',
	"$name: long after absence could be proved otherwise, nothing is sent while the candidate runs");
is($sim->summary->{batches_created}, 1, "$name: nothing was sent anew");
check($name, $job, 2);
runs_of_ours($name, 1);
is(event($job, 'absent'), 1, "$name: its absence was proved in the end");

# ---- the owner decides ----

$name = 'resend';
begin($name);
$sim->options(run_seconds => 600);
strangers_batch($count);
$sim->fault($create, { status => 500 });
$job = submit_job();
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $job AND message LIKE 'unknown batches%'",
	"$name: the candidate is noticed");
$sim->options(run_seconds => 0.1);
sql($node, "SELECT llm_batch.resume($job, resend => true)");
check($name, $job, 2);
is(event($job, 'resend'), 1, "$name: the history says who decided");

done_testing();
