# The ways in which a batch can end, and what becomes of its items.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node();
my $sim = start_sim();
my $count = 60;

create_server($node, $sim, max_attempts => 3);
create_articles($node, $count);

# case($name, $state, \@rules, %options): one job under these batch rules,
# each [{match}, member => value, ...], that ends in this state.  Returns it.
sub case
{
	my ($name, $state, $rules, %opt) = @_;

	note("--- $name");
	$sim->reset;
	$sim->rule(@$_) foreach @$rules;
	sql($node, 'UPDATE articles SET summary = NULL');
	my $job = submit($node, target => 'summary', %opt);
	is(watch_job($node, $job, $name, falls => 1), $state, "$name: the job is $state")
	  or explain_job($node, $job);
	check_job($node, $job, $name);
	is(sql($node, "SELECT count(*) FROM articles WHERE summary <> $LlmBatch::RIGHT"), '0', "$name: no row has a wrong summary");
	is( sql($node, 'SELECT count(*) FROM articles WHERE summary IS NOT NULL'),
		sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"),
		"$name: as many rows are written as items succeeded");
	check_sim($sim, "$name: the simulator is content");
	return $job;
}

# "code attempts count" of the results, in order.
sub results
{
	my ($job) = @_;
	return sql($node, qq{
		SELECT string_agg(concat_ws(' ', code, attempt, n), ', ' ORDER BY code, attempt)
		FROM (SELECT COALESCE(error_code, 'ok') AS code, attempt, count(*) AS n
			  FROM llm_batch.results WHERE job_id = $job GROUP BY 1, 2) x});
}

sub batches
{
	my ($job) = @_;
	return sql($node, qq{
		SELECT string_agg(concat_ws(' ', state, remote_end, items), ', ' ORDER BY batch_id)
		FROM llm_batch.batches WHERE job_id = $job});
}

sub items { return (items => [@_]) }

# ---- expired ----

my $job = case('expired once', 'succeeded', [ [ { times => 1 }, expire => 0.4 ] ]);
is(results($job), 'ok 1 24, ok 2 36', 'what was finished is kept, the rest goes once more');
is(batches($job), 'finalized expired 60, finalized ended 36', 'both batches are shown');
is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND state = 'failed' AND error_code = 'expired'"),
	'36', 'the first attempts expired');
check_prompts_ran_once($sim, $count);

$job = case('expired always', 'succeeded', [ [ {}, expire => 0.5 ] ]);
is(results($job), 'ok 1 30, ok 2 15, ok 3 15', 'after two batches the rest goes in real time');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'and nothing runs twice');

$job = case('expired with nothing done', 'succeeded', [ [ {}, expire => 0 ] ]);
is(results($job), 'ok 3 60', 'nothing was done, twice');
is($sim->summary->{realtime_calls}, $count, 'so all goes in real time');

# ---- refused as a whole ----

my $refusal = [ {}, fail => { code => 'model_not_found', message => 'The model does not exist.' } ];

$job = case('failed validation', 'succeeded', [$refusal]);
is(results($job), 'ok 2 60', 'it goes in real time');
is(batches($job), 'failed failed 60, finalized ended 60', 'the batch has failed');
is(sql($node, "SELECT count(*) FROM llm_batch.batches WHERE job_id = $job AND reason ~ 'model_not_found'"), '1',
	'and says why');
is($sim->summary->{requests_run}, 0, 'nothing ran in the batch');

$job = case('failed validation, and refused one by one', 'failed',
	[ $refusal, [ { mode => 'realtime' }, items({ do => { status_code => 400 } }) ] ]);
is(results($job), 'invalid_request 2 60', 'it is not sent again');

$job = case('one bad line', 'partial',
	[ [ { times => 1 }, fail => { code => 'invalid_json_line', line => 7, message => 'Line 7 is no JSON.' } ] ]);
is(results($job), 'invalid_request 1 1, ok 2 59', 'the line that is named fails, the others are sent again');
check_prompts_ran_once($sim, $count - 1);

$job = case('full queue', 'succeeded', [ [ { times => 2 }, fail => 'token_limit_exceeded' ] ]);
is(results($job), 'ok 1 60', 'a full queue is nobody\'s fault: the first attempt succeeded');
is($sim->summary->{batches}{failed}, 2, 'it was full twice');
check_prompts_ran_once($sim, $count);
# what a queue holds is learned, and is not what the other cases are about
sql($node, 'DELETE FROM llm_batch.calibration');

$sim->reset;
$sim->options(max_enqueued_tokens => 2000, run_seconds => 1);
sql($node, "ALTER SERVER sim OPTIONS (ADD max_batch_requests '20')");
$job = submit($node, target => 'summary');
is(wait_job($node, $job), 'succeeded', 'a queue that holds one batch at a time: all succeed');
cmp_ok($sim->summary->{batches}{failed} // 0, '>', 0, 'some creates met the full queue');
check_prompts_ran_once($sim, $count);
sql($node, 'DELETE FROM llm_batch.calibration');
sql($node, 'ALTER SERVER sim OPTIONS (DROP max_batch_requests)');

# ---- files ----

$job = case('all failed', 'failed', [ [ {}, items({ do => { status_code => 400 } }) ] ]);
is(results($job), 'invalid_request 1 60', 'no output file, an error file: every item failed, none is sent again');

$job = case('error_file_id ""', 'succeeded', [ [ {}, error_file_id => '' ] ]);
is(results($job), 'ok 1 60', 'an empty error_file_id is none');

$job = case('reverse order', 'succeeded', [ [ {}, shuffle => 'reverse', final_newline => $sim->false ] ]);
is(results($job), 'ok 1 60', 'lines are told by their custom_id; the last one needs no line end');

$job = case('missing lines', 'succeeded', [ [ { times => 1 }, items({ share => 0.5, do => { missing => $sim->true } }) ] ]);
like(results($job), qr/^ok 1 \d\d, ok 2 \d\d$/, 'items without a line are sent again');

$job = case('no output file', 'succeeded', [ [ { times => 1 }, no_output_file => $sim->true ] ]);
is(results($job), 'ok 2 60', 'a batch that completed without any file is sent again');

$job = case('duplicate lines', 'succeeded', [ [ {}, items({ do => { duplicate => 2 } }) ] ]);
is(results($job), 'ok 1 60', 'of repeated lines the first counts');
check_prompts_ran_once($sim, $count);

$job = case('a strange custom_id', 'succeeded',
	[ [ { times => 1 }, items({ nth => 3, do => { custom_id => 'somebody-3' } }, { nth => 5, do => { custom_id => undef } }) ] ]);
is(results($job), 'ok 1 58, ok 2 2', 'an answer with a strange custom_id belongs to nobody');
is(sql($node, "SELECT message FROM llm_batch.events WHERE job_id = $job AND kind = 'strange_lines'"),
	'2 lines of the result files belong to no item, or to one that had its line', 'the events tell how many');

my @malformed = ('not json', '', '   ', '[]', '{}', '{"custom_id": 5}', '{"custom_id":', "\x{1}", '[' x 5000,
	'{"custom_id": "x", "response": 1, "error": 2}', 'x' x 100000);
$job = case('malformed lines', 'succeeded',
	[ [ { times => 1 }, extra_lines => { output => \@malformed, error => \@malformed },
		items({ nth => 2, do => { malformed => $sim->true } }, { nth => 4, do => { malformed => '{{{' } }) ] ]);
is(results($job), 'ok 1 58, ok 2 2', 'malformed lines cost only their items');

# The files are gone before they could be read: no attempt brings them back.
$sim->reset;
$sim->fault({ method => 'GET', path => '^/v1/files/.*/content$' },
	{ status => 404, body => { error => { message => 'No such File object', type => 'invalid_request_error', param => 'id', code => undef } } });
$job = submit($node, target => 'summary');
is(wait_job($node, $job, limit => 20), 'failed', 'result files that are gone for good: the job ends');
is(join(' ', @{ $sim->summary }{qw(batches_created realtime_calls)}), '1 0', 'and what ran and was paid is not sent again unasked');

# The batch itself is not known any more.
$sim->reset;
$sim->fault({ method => 'GET', path => '^/v1/batches/batch_' },
	{ status => 404, body => { error => { message => 'No batch found', type => 'invalid_request_error', param => undef, code => undef } } });
$job = submit($node, target => 'summary');
is(wait_job($node, $job), 'succeeded', 'a batch that is gone for good: its items go in real time (on_unanswered)');
is(join(' ', @{ $sim->summary }{qw(batches_created realtime_calls)}), "1 $count", 'and not in a batch');
is(sql($node, "SELECT uncertain, cost_unknown FROM llm_batch.progress WHERE job_id = $job"), "$count|$count",
	'what the batch may have run is uncertain');

# ---- items ----

$job = case('items with status 400', 'partial', [ [ {}, items({ nth => 'every 4', do => { status_code => 400 } }) ] ]);
is(results($job), 'invalid_request 1 15, ok 1 45', 'refused requests are not sent again');
is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND state = 'failed' AND error <> '' AND answer IS NULL"),
	'15', 'the provider\'s words are kept');
check_prompts_ran_once($sim, 45);

foreach my $case ([ 429 => 'rate_limited' ], [ 500 => 'provider_error' ], [ 503 => 'provider_error' ])
{
	my ($status, $code) = @$case;
	my $rule = { nth => 'every 4', do => { status_code => $status } };

	$job = case("items with status $status once", 'succeeded', [ [ { times => 1 }, items($rule) ] ]);
	is(results($job), 'ok 1 45, ok 2 15', "status $status is tried again");
	is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND error_code = '$code'"), '15',
		"and shown as $code");
	check_prompts_ran_once($sim, $count);
}
$job = case('items with status 500 always', 'partial',
	[ [ {}, items({ prompt_contains => 'Article 7 ', do => { status_code => 500 } }) ] ]);
is(results($job), 'ok 1 59, provider_error 3 1', 'after max_attempts it is enough');

foreach my $case (
	[ refusal => { refusal => 'I would rather not.' }, 'refused' ],
	[ content_filter => { content_filter => $sim->true }, 'refused' ],
	[ length => { length => $sim->true }, 'truncated' ])
{
	my ($name, $do, $code) = @$case;

	$job = case($name, 'partial', [ [ {}, items({ nth => 'every 6', do => $do }) ] ]);
	is(results($job), join(', ', sort('ok 1 50', "$code 1 10")), "$name is $code, and not sent again");
	check_prompts_ran_once($sim, $count);
}
is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND error_code = 'truncated' AND answer <> ''"), '10',
	'what there is of a truncated answer is kept');

# ---- cancelled by somebody else ----

$sim->reset;
$sim->rule({}, run_seconds => 5);
sql($node, 'UPDATE articles SET summary = NULL');
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress' AND done > 5",
	'the batch runs');
$sim->api('POST', '/batches/' . sql($node, "SELECT remote_id FROM llm_batch.batches WHERE job_id = $job") . '/cancel');
is(watch_job($node, $job, 'cancelled at the provider'), 'partial', 'cancelled at the provider: partial');
check_job($node, $job);
is(batches($job), "cancelled cancelled $count", 'the batch is cancelled');
my ($batch) = $sim->batches;
is(results($job), join(', ', 'cancelled 1 ' . ($count - $batch->{completed}), "ok 1 $batch->{completed}"),
	'what was finished is kept, the rest is cancelled and not sent again');
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $batch->{completed}, 'and written');
check_prompts_ran_once($sim, $batch->{completed});

done_testing();
