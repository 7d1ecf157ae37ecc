# Each call of a batch's life meets each fault of the network and of the
# provider.  The job succeeds all the same, and nothing is run twice.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node();
my $sim = start_sim(options => { run_seconds => 0.05, validate_seconds => 0.02, finalize_seconds => 0.02 });
my $count = 30;
my ($true, $false) = ($sim->true, $sim->false);

create_server($node, $sim, request_timeout => '1s', settle_time => '300ms', retry_max => '200ms');
create_articles($node, $count, bytes => 400);

my %call = (
	upload => { method => 'POST', path => '^/v1/files$' },
	create => { method => 'POST', path => '^/v1/batches$' },
	poll => { method => 'GET', path => '^/v1/batches/[^/]+$' },
	fetch => { method => 'GET', path => '^/v1/files/[^/]+/content$' });

# Each is given to two requests in turn, unless it says otherwise.
my @faults = (
	[ 'status 429' => { status => 429, headers => { 'retry-after' => '0' } } ],
	[ 'status 500' => { status => 500, body => { error => { message => 'Oops', type => 'server_error', param => undef, code => undef } } } ],
	[ 'status 503 with HTML' => { status => 503, headers => { 'content-type' => 'text/html' }, body => '<html>Back soon</html>' } ],
	[ 'status 502 before the body' => { status => 502, read_body => $false, close => $true } ],
	[ 'status 408' => { status => 408 } ],
	[ 'a cut before the body' => { cut_before => $true } ],
	[ 'a cut in the answer' => { cut_body_at => 40 }, 1 ],
	[ 'a reset in the answer' => { cut_body_at => 40, reset => $true }, 1 ],
	[ 'a stall' => { stall => 3 }, 1 ],
	[ 'a stall before' => { stall_before => 3, status => 503 }, 1 ],
	[ 'garbage' => { garbage => $true }, 1 ],
	[ 'an empty body' => { garbage => "\n" }, 1 ],
	[ 'an endless body' => { endless => $true }, 1 ],
	[ 'a closed connection' => { close => $true } ],
	[ 'a slow body' => { slow_body => 5000 } ]);
my %extra = (
	upload => [
		[ 'a cut in the request' => { cut_upload_at => 5000 } ],
		[ 'an id that is none' => { merge => { id => '../../v1/models?x=1' } }, 1 ],
		[ 'no id' => { merge => { id => undef } }, 1 ]
	],
	create => [
		[ 'a file not known yet' => { status => 400, body => { error => { message => 'Invalid file_id', type => 'invalid_request_error', param => 'file_id', code => undef } } } ],
		[ 'an id that is none' => { merge => { id => 'batch/../x' } }, 1 ]
	],
	poll => [
		[ 'an unknown status' => { merge => { status => 'pondering' } } ],
		[ 'a file id that is none' => { merge => { output_file_id => '../secret' } } ],
		[ 'counts that are none' => { merge => { request_counts => { total => 'many', completed => -5, failed => [] } } } ],
		[ 'status 404 for a moment' => { status => 404, body => { error => { message => 'No batch found', type => 'invalid_request_error', param => undef, code => undef } } } ]
	],
	fetch => [
		[ 'a cut in mid-line' => { cut_body_at => 6000 } ],
		[ 'a reset in mid-line' => { cut_body_at => 9000, reset => $true } ],
		[ 'status 404 for a moment' => { status => 404, body => { error => { message => 'No such File', type => 'invalid_request_error', param => 'id', code => undef } } } ]
	]);

foreach my $name (qw(upload create poll fetch))
{
	foreach my $fault (@faults, @{ $extra{$name} })
	{
		my ($what, $do, $times) = @$fault;
		my $title = "$name: $what";

		$sim->reset;
		sql($node, 'UPDATE articles SET summary = NULL');
		$sim->fault({ %{ $call{$name} }, times => $times // 2 }, $do);
		my $job = submit($node, target => 'summary');
		my $state = wait_job($node, $job, limit => 30);
		my ($fired) = map { $_->{fired} } $sim->faults;
		my $summary = $sim->summary;
		my $right = sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT");
		my $paid = join ' ', map { $summary->{$_} } qw(distinct_prompts_run max_times_one_prompt_ran batches_created);

		ok($fired, "$title: it happened");
		is($state, 'succeeded', "$title: the job succeeded") or explain_job($node, $job);
		is($right, $count, "$title: every row has its answer");
		is($paid, "$count 1 1", "$title: nothing ran twice");
		check_job($node, $job, $title);
		is(join("\n", @{ $summary->{simulator_failures} }), '', "$title: the requests were well-formed");
		# a job that hangs must not disturb the next
		if ($state eq 'running')
		{
			$sim->clear_rules;
			sql($node, "SELECT llm_batch.cancel($job)");
			wait_job($node, $job);
		}
	}
}

# All at once, on a job of several batches.
$sim->reset;
sql($node, q{ALTER SERVER sim OPTIONS (ADD max_batch_requests '6')});
sql($node, 'UPDATE articles SET summary = NULL');
$sim->fault({ %{ $call{create} }, nth => 'every 2' }, { cut_after_commit => $true });
$sim->fault({ %{ $call{create} }, nth => 'every 3' }, { status => 500 });
$sim->fault({ %{ $call{upload} }, nth => 'every 2' }, { cut_upload_at => 500 });
$sim->fault({ %{ $call{fetch} }, nth => 'every 2' }, { cut_body_at => 2000, reset => $true });
$sim->fault({ nth => 'every 4' }, { status => 503 });
my $job = submit($node, target => 'summary');
is(wait_job($node, $job), 'succeeded', 'all at once: the job succeeded') or explain_job($node, $job);
check_job($node, $job, 'all at once');
check_prompts_ran_once($sim, $count, 'all at once: nothing ran twice');
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, 'all at once: every row has its answer');
is(scalar(grep { !$_->{fired} } $sim->faults), 0, 'all at once: each fault happened');
sql($node, q{ALTER SERVER sim OPTIONS (DROP max_batch_requests)});

# Retry-After is obeyed, also where the backoff would be shorter.
$sim->reset;
$sim->fault({ %{ $call{upload} }, times => 1 }, { status => 429, headers => { 'retry-after' => '2' } });
$sim->fault({ %{ $call{poll} }, times => 1 }, { status => 429, headers => { 'retry-after-ms' => '1500' } });
$job = submit($node, target => 'summary');
is(wait_job($node, $job), 'succeeded', 'Retry-After: the job succeeded');
my @uploads = $sim->requests(method => 'POST', path => '/v1/files');
my @polls = $sim->requests(method => 'GET', path => '/v1/batches/');
cmp_ok($uploads[1]{time} - $uploads[0]{time}, '>=', 2, 'Retry-After: 2 is two seconds');
cmp_ok($polls[1]{time} - $polls[0]{time}, '>=', 1.5, 'Retry-After-Ms: 1500 is a second and a half');

# Whatever went wrong: no prompt and no key in what is shown.
is( sql($node, q{SELECT count(*) FROM llm_batch.events WHERE message ~ 'sk-test|speaks|words and'}),
	'0', 'events show neither keys nor prompts');
my @told = grep { !/LOG:  statement:/ && /sk-test|Article \d+ speaks|words and words/ }
  split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile);
is(join("\n", @told), '', 'nor does the log');

done_testing();
