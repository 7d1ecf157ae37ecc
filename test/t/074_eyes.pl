# What an operator sees: views health, metrics and workers, the reason in
# progress, lines of JSON in the log, pg_stat_activity.  All of it is compared
# with what is known to have happened, as various roles, and without preload.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $NASTY = qq{say "x", it's\nnew};
my $node = start_node(conf => ['llm_batch.log_events = states']);
my $sim = start_sim();
my $json = JSON::PP->new;

# metrics as {"name label=value …" => value}; "as" is a role.
sub metrics
{
	my ($as, $where) = @_;
	my $rows = sql($node, ($as ? "SET ROLE $as; " : '') . q{
		SELECT concat(name, (SELECT string_agg(format(' %s=%s', key, value), '' ORDER BY key) FROM jsonb_each_text(labels))), trim_scale(value)
		FROM llm_batch.metrics});

	return map { /^(.*)\|(.*)$/ ? ($1 => $2) : () } split /\n/, $rows;
}

# What a counter says in all its labels together, which must hold $with.
sub total
{
	my ($metrics, $name, $with) = @_;
	my $sum = 0;

	$sum += $metrics->{$_} foreach grep { /^\Q$name\E( |$)/ && (!$with || / \Q$with\E( |$)/) } keys %$metrics;
	return $sum;
}

# The log's lines for programs, since the last call.
my $log_read = 0;

sub told
{
	my $log = slurp_file($node->logfile, $log_read);
	my @lines;

	$log_read += length $log;
	foreach my $line (grep { /llm_batch event: / } split /\n/, $log)
	{
		push @lines, $1 if $line =~ /llm_batch event: (\{.*\})$/;
		fail("a line of the log that is no object: $line") if $line !~ /llm_batch event: \{.*\}$/;
	}
	# the worker may be faster than the session that woke it
	@lines = sort { $a->{at} cmp $b->{at} } map { $json->decode($_) } @lines;
	return @lines;
}

# "was>state" of the lines about something, in their order.
sub states
{
	my ($what, $member, $value, @lines) = @_;
	return join ' ', map { ($_->{was} // '') . ">$_->{state}" }
	  grep { $_->{what} eq $what && (!$member || $_->{$member} eq $value) } @lines;
}

# ---- nothing has happened yet ----

create_server($node, $sim, max_attempts => 1);
create_server($node, $sim, name => 'other', key => 'sk-two');
sql($node, q{
	CREATE ROLE ann LOGIN; GRANT USAGE ON FOREIGN SERVER sim TO ann; CREATE USER MAPPING FOR ann SERVER sim OPTIONS (api_key 'sk-test');
	CREATE ROLE nobody LOGIN;
	CREATE ROLE eyes LOGIN; GRANT pg_monitor TO eyes});
is(sql($node, q{SELECT server, enabled, breaker, since, failures, in_flight, calls_per_minute, error_rate, last_error, turnaround_p50, landing_p50,
		active_jobs, active_batches, verifying, queued, uncertain, last_success FROM llm_batch.health ORDER BY 1}),
	join("\n", map { "$_|t|closed||0|0|0|||||0|0|0|0|0|" } qw(mock other sim)), 'health: a line per server, before anything was called');

# ---- a job that goes well, one that partly fails, one that is rolled back ----

create_articles($node, 30);
my $good = submit($node, target => 'summary', labels => $json->encode({ team => $NASTY }));
is(wait_job($node, $good), 'succeeded', 'a job that goes well');
$sim->rule({}, items => [ { prompt_contains => 'Article 7 ', do => { status_code => 400 } }, { prompt_contains => 'Article 8 ', do => { refusal => $sim->true } } ]);
my $partial = submit($node);
is(wait_job($node, $partial), 'partial', 'a job that partly fails');
$sim->clear_rules;
sql($node, q{
	BEGIN; SELECT llm_batch.submit_prompts('{never}', 'mock', server => 'mock'); ROLLBACK;
	BEGIN;
	SAVEPOINT a; SELECT llm_batch.submit_prompts('{neither}', 'mock', server => 'mock', labels => '{"n": 2}'); ROLLBACK TO a;
	SAVEPOINT b; SELECT llm_batch.submit_prompts('{yes}', 'mock', server => 'mock', labels => '{"n": 3}'); RELEASE b;
	COMMIT});
wait_until($node, q{SELECT state = 'succeeded' FROM llm_batch.progress WHERE server = 'mock'}, 'the one of three that was not rolled back');

# ---- metrics against what is known ----

my %now = metrics();
my $sums = sql($node, q{
	SELECT to_json(s) FROM (SELECT sum(succeeded) AS succeeded, sum(failed) AS failed, trim_scale(sum(cost)) AS cost, trim_scale(sum(saved)) AS saved,
		(SELECT count(*) FROM llm_batch.attempts) AS attempts, (SELECT sum(input_tokens) FROM llm_batch.attempts) AS input,
		(SELECT sum(output_tokens) FROM llm_batch.attempts) AS output,
		(SELECT count(*) FROM llm_batch.attempts WHERE error_code = 'invalid_request') AS invalid_request,
		(SELECT count(*) FROM llm_batch.attempts WHERE error_code = 'refused') AS refused
	FROM llm_batch.progress) s});
my %sum = %{ $json->decode($sums) };
is(total(\%now, 'llm_batch_items_total', "state=$_"), $sum{$_}, "metrics: items $_, as progress has them") foreach qw(succeeded failed);
is(total(\%now, 'llm_batch_errors_total', "code=$_"), $sum{$_}, "metrics: errors $_, as attempts have them") foreach qw(invalid_request refused);
is("$sum{invalid_request} $sum{refused}", '1 1', 'metrics: and there are some');
is(total(\%now, 'llm_batch_attempts_total'), $sum{attempts}, 'metrics: attempts');
is(total(\%now, 'llm_batch_tokens_total', 'class=input') + total(\%now, 'llm_batch_tokens_total', 'class=cached')
	  + total(\%now, 'llm_batch_tokens_total', 'class=cache_write'), $sum{input}, 'metrics: input tokens');
is(total(\%now, 'llm_batch_tokens_total', 'class=output') + total(\%now, 'llm_batch_tokens_total', 'class=reasoning'), $sum{output}, 'metrics: output tokens');
is($now{'llm_batch_cost_usd_total mode=batch model=gpt-6-luna server=sim'}, $sum{cost}, 'metrics: the cost, to the last digit');
is($now{'llm_batch_saved_usd mode=batch model=gpt-6-luna server=sim'}, $sum{saved}, 'metrics: what was saved');
is(join(' ', map { $now{"llm_batch_jobs_total server=sim state=$_"} // 'none' } qw(succeeded partial failed)), '1 1 none', 'metrics: ends of jobs');
is(total(\%now, 'llm_batch_queue_items') + total(\%now, 'llm_batch_in_flight_items') + total(\%now, 'llm_batch_jobs') + total(\%now, 'llm_batch_batches'),
	0, 'metrics: nothing is under way');
cmp_ok($now{'llm_batch_calls_total server=sim'}, '>=', 8, 'metrics: calls were counted');
ok(defined $now{'llm_batch_turnaround_seconds quantile=0.5 server=sim'} && $now{'llm_batch_landing_seconds quantile=0.5 server=sim'} > 0,
	'metrics: how long batches took');
# how long a batch ran is not known to the second
is(sql($node, q{SELECT turnaround_p50 BETWEEN '0' AND '20 s', turnaround_p95 >= turnaround_p50, landing_p50 BETWEEN '0' AND '20 s', last_success > now() - interval '1 min',
		calls_per_minute > 0, error_rate FROM llm_batch.health WHERE server = 'sim'}), 't|t|t|t|t|0', 'health: the same as intervals');

# ---- the log, so far ----

my @lines = told();
my @batches = $json->decode(sql($node, "SELECT json_agg(batch_id) FROM llm_batch.batches WHERE job_id = $good"))->@*;
is(states('job', 'job', $good, @lines), '>waiting waiting>running running>succeeded', 'log: the states of a job');
is(states('batch', 'batch', $batches[0], @lines),
	'>planned planned>uploading uploading>planned planned>submitting submitting>in_progress in_progress>ended ended>fetching fetching>finalized',
	'log: the states of a batch');
is(states('job', 'job', $partial, @lines), '>waiting waiting>running running>partial', 'log: the states of another job');
my ($end) = grep { $_->{what} eq 'job' && $_->{job} == $good && $_->{state} eq 'succeeded' } @lines;
is_deeply([ @$end{qw(database owner server model mode total succeeded queued labels)} ],
	[ 'postgres', sql($node, 'SELECT current_user'), 'sim', $LlmBatch::MODEL, 'batch', 30, 30, 0, { team => $NASTY } ], 'log: what stands in such a line');
like($end->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/, 'log: when it was');
is(join(' ', map { $_->{labels}{n} // 'none' } grep { $_->{what} eq 'job' && $_->{server} eq 'mock' && $_->{state} eq 'waiting' } @lines), '3',
	'log: nothing of transactions and subtransactions that were rolled back');
is(states('launcher', undef, undef, @lines) . ' ' . states('worker', undef, undef, @lines), '>started >started', 'log: launcher and worker have started');
is((grep { $_->{what} eq 'event' } @lines), 0, 'log: states alone');

# ---- failed items again: counters do not fall ----

my %before = %now;
sql($node, "SELECT llm_batch.retry($partial, '{refused,invalid_request}')");
wait_until($node, "SELECT state = 'succeeded' AND succeeded = 30 FROM llm_batch.progress WHERE job_id = $partial", 'the failed items are retried');
%now = metrics();
my @fallen = grep { /_total/ && $now{$_} < $before{$_} } grep { defined $now{$_} } keys %before;
is("@fallen", '', 'metrics: no counter has fallen');
is(join(' ', grep { /_total/ && !defined $now{$_} } keys %before), '', 'metrics: nor gone');
is(total(\%now, 'llm_batch_items_total', 'state=succeeded') - total(\%before, 'llm_batch_items_total', 'state=succeeded'), 2, 'metrics: two more have succeeded');
is(total(\%now, 'llm_batch_items_total', 'state=failed'), $sum{failed}, 'metrics: that they had failed remains');

# ---- an answer that waits for its row, and one that never comes ----

%before = %now;
my $session = LlmBatch::Session->new($node);
$session->query('BEGIN; SELECT id FROM articles WHERE id = 3 FOR UPDATE');
my $locked = submit($node, target => 'summary', filter => 'id = 3', mode => 'realtime');
wait_until($node, "SELECT unapplied = 1 FROM llm_batch.progress WHERE job_id = $locked", 'a row is locked');
%now = metrics();
is("$now{'llm_batch_unapplied_items server=sim'} $now{'llm_batch_in_flight_items server=sim'}", '1 1', 'metrics: its answer waits');
$session->query('ROLLBACK');
$session->end;
is(wait_job($node, $locked), 'succeeded', 'it is written when the lock is gone');
sql($node, q{ALTER SERVER sim OPTIONS (ADD on_unanswered 'fail')});
$sim->fault({ method => 'POST', path => '^/v1/(chat|responses)', times => 1 }, { cut_after_commit => $sim->true });
is(wait_job($node, submit($node, filter => 'id = 4', mode => 'realtime')), 'failed', 'a call that gets no answer');
%now = metrics();
is(total(\%now, 'llm_batch_items_total', "state=$_") - total(\%before, 'llm_batch_items_total', "state=$_"), 1, "metrics: one more has $_") foreach qw(succeeded failed);
is("$now{'llm_batch_uncertain_total model=gpt-6-luna server=sim'} $now{'llm_batch_cost_unknown_total mode=realtime model=gpt-6-luna server=sim'}", '1 1',
	'metrics: what may have been paid in vain');

# ---- under way ----

$sim->options(run_seconds => 3600);
my $slow = submit($node);
wait_until($node, "SELECT state = 'in_progress' FROM llm_batch.batches WHERE job_id = $slow", 'a batch that takes its time');
sql($node, 'CREATE TABLE few AS TABLE articles LIMIT 5; ALTER TABLE few ADD PRIMARY KEY (id); GRANT SELECT ON few TO ann;');
my $hers = sql($node, "BEGIN; SET LOCAL ROLE ann; SELECT llm_batch.submit('few', '$LlmBatch::PROMPT', '$LlmBatch::MODEL', server => 'sim', mode => 'batch'); COMMIT");
wait_until($node, "SELECT state = 'in_progress' FROM llm_batch.batches WHERE job_id = $hers", 'and one of another role');
sql($node, 'BEGIN; ' . join('', map { "SELECT llm_batch.submit_prompts('{a,b,c}', '$LlmBatch::MODEL', server => 'other', mode => 'batch'); " } 1, 2) . 'SELECT llm_batch.pause(max(id)) FROM llm_batch.job; COMMIT');
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.job WHERE state = 'paused'}, 'one is paused');
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.batches WHERE state = 'in_progress' AND server = 'other'}, 'one is not');
%now = metrics();
is(join(' ', map { $now{"llm_batch_$_"} } 'jobs server=sim state=running', 'jobs server=other state=running', 'jobs server=other state=paused',
		'batches server=sim state=in_progress', 'in_flight_items server=sim', 'queue_items server=sim', 'queue_items server=other', 'worker_up', 'enabled'),
	'2 1 1 2 35 0 3 1 1', 'metrics: what is under way');
is($now{'llm_batch_oldest_queued_seconds server=other'}, 0, 'metrics: what is paused does not grow old');
is(sql($node, q{SELECT server, active_jobs, active_batches, queued FROM llm_batch.health WHERE server <> 'mock' ORDER BY 1}), "other|2|1|3\nsim|2|2|0", 'health: the same');

# ---- who sees what ----

my %seen = metrics('ann');
is(join(' ', map { $seen{"llm_batch_$_"} } 'jobs server=sim state=running', 'in_flight_items server=sim'), '1 5', 'an ordinary role: the numbers of its own jobs');
is(join(' ', grep { /server=other/ } keys %seen), '', 'an ordinary role: no server that it may not use');
is(total(\%seen, 'llm_batch_items_total') + total(\%seen, 'llm_batch_attempts_total') + total(\%seen, 'llm_batch_errors_total'), 0,
	'an ordinary role: nothing of what others have done');
is(sql($node, q{SET ROLE ann; SELECT server, active_jobs, queued FROM llm_batch.health ORDER BY 1}), "mock|0|0\nsim|1|0", 'an ordinary role: health of its servers');
is(sql($node, q{SET ROLE ann; SELECT state, pid > 0, started_at IS NULL, doing IS NULL FROM llm_batch.workers}), 'running|t|t|t', 'an ordinary role: that there is a worker');
is(sql($node, q{SET ROLE nobody; SELECT string_agg(server, ' ') FROM llm_batch.health}), 'mock', 'a role without any server: the one of PUBLIC');
%seen = metrics('eyes');
# what moves by itself is left out
my $moving = qr/calls|_seconds/;
is_deeply({ map { $_ => $seen{$_} } grep { !/$moving/ } keys %seen }, { map { $_ => $now{$_} } grep { !/$moving/ } keys %now }, 'pg_monitor: all numbers');
is(sql($node, q{SET ROLE eyes; SELECT count(*) FROM llm_batch.results}), '0', 'pg_monitor: no text');
like(sql($node, q{SET ROLE eyes; SELECT doing FROM llm_batch.workers}), qr/./, 'pg_monitor: what the worker does');

# ---- pg_stat_activity ----

wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND application_name = 'llm_batch worker'
	AND state = 'idle' AND query ~ '^(\S.*; )?waiting for batches: 3; next look in \d+ s$' AND datname = 'postgres'}, 'the worker says what it waits for');
wait_until($node, q{SELECT application_name = 'llm_batch launcher' AND state = 'idle' AND query ~ '^workers: 1; next look in \d+ s$'
	FROM pg_stat_activity WHERE backend_type = 'llm_batch launcher'}, 'so does the launcher');
wait_until($node, q{SELECT started_at > now() - interval '5 min' AND doing ~ 'waiting for batches: 3' FROM llm_batch.workers}, 'workers says it as well');
my $events = join ' ', split /\n/, sql($node, q{SELECT DISTINCT wait_event FROM pg_stat_activity WHERE backend_type ~ '^llm_batch' ORDER BY 1});
my $has_names = sql($node, 'SHOW server_version_num') >= 170000;
ok($has_names ? $events =~ /^LlmBatchLauncher (LlmBatchMain|LlmBatchNetwork)$/ : $events eq 'Extension', "wait events: $events");
SKIP:
{
	my $pid = worker_pid($node);
	open my $title, '<', "/proc/$pid/cmdline" or skip 'no /proc', 1;
	like(<$title>, qr/llm_batch worker postgres/, 'ps tells the database');
}
# polls come every 200 ms at least, and take as long as we say
$sim->fault({ method => 'GET', path => '/v1/batches/' }, { stall_before => 1 });
wait_until($node, q{SELECT query ~ '^polling a batch' FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'a call that is out is named');
$sim->clear_rules;
# its good answer would close a breaker that has opened meanwhile
wait_until($node, q{SELECT sum(in_flight) = 0 FROM llm_batch.health}, 'it is back');

# ---- a server that does not answer ----

# the other server is the same one, with another key
my %its = (path => '/v1/batches', key => substr(sha256_hex('sk-test'), 0, 8));
told();
sql($node, q{ALTER SERVER sim OPTIONS (SET retry_base '300ms', SET retry_max '300ms')});
$sim->fault(\%its, { status => 503, body => 'the key is sk-test' });
wait_until($node, q{SELECT breaker = 'open' FROM llm_batch.health WHERE server = 'sim'}, 'the breaker opens');
wait_until($node, qq{SELECT reason ~ '^server "sim" does not answer \\(HTTP 503\\); calls in a row that failed: \\d+; (next try at 20|one is out to see)'
	FROM llm_batch.progress WHERE job_id = $slow}, 'progress says that its server does not answer');
is(sql($node, q{SELECT string_agg(DISTINCT COALESCE(reason, 'none'), ' ') FROM llm_batch.progress WHERE finished_at IS NOT NULL OR server = 'other' AND state <> 'paused'}), 'none',
	'and nothing of the kind of other jobs');
is(sql($node, q{SELECT failures >= 5, error_rate > 0 AND error_rate <= 1, last_error, since > now() - interval '1 min', retry_at > since OR breaker = 'half_open'
	FROM llm_batch.health WHERE server = 'sim'}), 't|t|HTTP 503|t|t', 'health: since when, how often, why');
%now = metrics();
is($now{'llm_batch_breaker_open server=sim'} . $now{'llm_batch_breaker_open server=other'}, '10', 'metrics: its breaker is open, the others\' are not');
cmp_ok($now{'llm_batch_call_errors_total server=sim'}, '>=', 5, 'metrics: errors of calls');
$sim->clear_rules;
$sim->fault(\%its, { stall_before => 1.5, status => 503 });
wait_until($node, q{SELECT breaker = 'half_open' AND in_flight > 0 AND retry_at IS NULL FROM llm_batch.health WHERE server = 'sim'}, 'one call is out to see');
like(job_row($node, $slow)->{reason} // '', qr/^server "sim" does not answer \(HTTP 503\); calls in a row that failed: \d+; one is out to see$/, 'progress says so');
$sim->clear_rules;
wait_until($node, q{SELECT breaker = 'closed' AND failures = 0 FROM llm_batch.health WHERE server = 'sim'}, 'it answers again');
is(job_row($node, $slow)->{reason}, undef, 'no reason is left');
@lines = grep { $_->{what} eq 'breaker' } told();
# it may have been closed for a moment when we changed the fault
my $states = states('breaker', 'server', 'sim', @lines);
like($states, qr/^closed>open (.* )?open>half_open (.* )?(half_open|open)>closed$/, 'log: the states of the breaker');
unlike($states, qr/>(\w+) (?!\1>)/, 'log: each follows from the one before');
is(join(' ', sort grep { !/^(at|pid)$/ } keys %{ $lines[0] }), 'database error failures retry_at server state was what', 'log: what stands in such a line');
is("$lines[0]{error} $lines[0]{failures}", 'HTTP 503 5', 'log: why it was opened');

# ---- cancelled: the words of that, and its counters ----

sql($node, 'SELECT llm_batch.cancel(id) FROM llm_batch.job WHERE finished_at IS NULL');
wait_until($node, q{SELECT bool_and(finished_at IS NOT NULL) FROM llm_batch.progress}, 'all are cancelled');
@lines = told();
like(states('job', 'job', $slow, @lines), qr/^running>cancelling cancelling>cancelled$/, 'log: a job is cancelled');
%now = metrics();
is(total(\%now, 'llm_batch_items_total', 'state=cancelled'), sql($node, 'SELECT sum(cancelled) FROM llm_batch.progress'), 'metrics: cancelled items');
is(total(\%now, 'llm_batch_errors_total'), 3, 'metrics: which are no errors');

# ---- tasks: names and numbers for monitors, text for the owner ----

# its error is one of those that pass: all rows are read another time
sql($node, q{
	GRANT CREATE ON SCHEMA public TO ann;
	SET ROLE ann;
	CREATE FUNCTION loud(body text) RETURNS boolean LANGUAGE plpgsql AS
		$$BEGIN RAISE USING ERRCODE = 'serialization_failure', MESSAGE = 'diagnosis: ' || body; END$$;
	CREATE TABLE patient (id text PRIMARY KEY, body text, ans text);
	CREATE TABLE guest (LIKE patient INCLUDING ALL);
	CREATE TABLE visitor (LIKE patient INCLUDING ALL);
	SELECT llm_batch.create_task('stands', prompt => 'Recall {{body}}', filter => 'public.loud(body)', model => 'mock', server => 'mock', target => 'ans', max_wait => '0',
		on_error => $$SELECT 'words and more'$$);
	SELECT llm_batch.create_task('sleeps', prompt => 'Recall {{body}}', model => 'mock', server => 'mock', target => 'ans');
	SELECT llm_batch.create_task('runs', prompt => 'Recall {{body}} once', model => 'mock', server => 'mock', target => 'ans', max_wait => '0', labels => '{"n": 4}');
	SELECT llm_batch.attach('stands', 'patient');
	SELECT llm_batch.attach('sleeps', 'guest');
	SELECT llm_batch.attach('sleeps', 'visitor');
	SELECT llm_batch.attach('runs', 'guest');
	SELECT llm_batch.alter_task('sleeps', enabled => false);
	INSERT INTO patient VALUES ('Smith', 'gout');
	INSERT INTO guest VALUES ('Jones', 'ague'), ('Brown', 'rash');
	INSERT INTO visitor VALUES ('Green', 'cold')});
wait_until($node, q{SELECT reason = 'rows cannot be read for now: diagnosis: gout' FROM llm_batch.tasks WHERE task = 'stands'}, 'a filter whose error quotes the row');
wait_until($node, q{SELECT count(ans) = 2 FROM guest}, 'another task runs');
my $TASKS = q{SELECT task, source, state, waiting, waiting_since, COALESCE(substr(reason, 1, 27), 'none'), gathered, labels, created_at FROM llm_batch.tasks ORDER BY task, source};
my $tasks = sql($node, $TASKS);
is(sql($node, q{SELECT task, source, owner, state, waiting, waiting_since IS NULL, target FROM llm_batch.tasks ORDER BY task, source}), join("\n",
		'runs|public.guest|ann|enabled|0|t|ans', 'sleeps|public.guest|ann|disabled|2|f|ans', 'sleeps|public.visitor|ann|disabled|1|f|ans', 'stands|public.patient|ann|enabled|1|f|ans'),
	'tasks: what runs, what sleeps, what stands');
is(sql($node, "SET ROLE $_; $TASKS"), $tasks, "tasks: $_ sees the same") foreach qw(ann eyes);
is(sql($node, "SET ROLE nobody; $TASKS"), '', 'tasks: an ordinary role nothing of it');
is(sql($node, "SET ROLE $_->[0]; SELECT reason FROM llm_batch.tasks WHERE task = 'stands'"), $_->[1], "tasks: the reason, as $_->[0] may see it")
  foreach [ ann => 'rows cannot be read for now: diagnosis: gout' ], [ eyes => 'rows cannot be read for now' ];
unlike(sql($node, 'SET ROLE eyes; SELECT t FROM llm_batch.tasks t; SELECT s FROM llm_batch.task_status() s'), qr/gout|Smith|Recall|loud|words/, 'tasks: pg_monitor sees no rows, no prompts, no code');
is(sql($node, "SET ROLE eyes; SELECT count(*) FROM llm_batch.$_"), '0', "pg_monitor: nothing in $_") foreach qw(task task_version attachment inbox task_item gathering);
%now = metrics('eyes');
is(join(' ', map { $now{"llm_batch_task_waiting_rows task=$_"} } qw(runs sleeps stands)), '0 3 1', 'metrics: rows that wait, of all tables of a task');
is(join(' ', map { $now{"llm_batch_task_stopped task=$_"} } qw(runs sleeps stands)), '0 1 1', 'metrics: tasks that stand still');
my $age = sql($node, q{SELECT extract(epoch FROM clock_timestamp() - min(waiting_since)) FROM llm_batch.tasks WHERE task = 'sleeps'});
my $told = $now{'llm_batch_task_oldest_waiting_seconds task=sleeps'};
ok($told > 0 && $told < $age, 'metrics: since when the oldest waits');
is($now{'llm_batch_task_oldest_waiting_seconds task=runs'}, 0, 'metrics: 0 where none does');
my %others = metrics('nobody');
is(join(' ', grep { /_task_/ } keys %others), '', 'metrics: an ordinary role hears nothing of others\' tasks');
# the statement has its snapshot, and waits for the lock before it reads the view
my $holder = LlmBatch::Session->new($node);
$holder->query('SELECT pg_advisory_lock(7)');
my ($seen_late, $trouble) = ('', '');
my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', q{
	SELECT (SELECT sum(waiting) FROM llm_batch.tasks WHERE task = 'sleeps' AND lock.had IS NOT NULL)
	FROM (SELECT pg_advisory_lock_shared(7)::text AS had OFFSET 0) lock} ], '>', \$seen_late, '2>', \$trouble);
wait_until($node, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, 'a statement waits');
sql($node, q{INSERT INTO visitor VALUES ('Black', 'mumps')});
$holder->end;
$reader->finish;
is("$seen_late$trouble", "3\n", 'tasks: what the statement sees that reads it, as of the other views');
is(sql($node, q{SELECT sum(waiting) FROM llm_batch.tasks WHERE task = 'sleeps'}), 4, 'and the next one sees more');
# rows that wait for their task keep the worker
sql($node, q{SELECT llm_batch.drop_task('stands'); SELECT llm_batch.drop_task('sleeps')});

# ---- the list of metrics ----

is( sql($node, q{SELECT string_agg(DISTINCT name, ' ') FROM llm_batch.metrics WHERE name NOT IN (SELECT name FROM llm_batch.metric_help)}),
	'', 'every metric has its help');
is( sql($node, q{SELECT string_agg(name, ' ') FROM llm_batch.metric_help WHERE name NOT IN (SELECT name FROM llm_batch.metrics)}),
	'', 'and every help its metric');
is( sql($node, q{SELECT string_agg(DISTINCT name, ' ') FROM llm_batch.metrics m JOIN llm_batch.metric_help h USING (name)
		WHERE (SELECT array_agg(k ORDER BY k) FROM unnest(string_to_array(h.labels, ', ')) k)
			IS DISTINCT FROM (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(m.labels) k)}),
	'', 'the labels are those of the help');
is( sql($node, q{SELECT string_agg(name, ' ') FROM llm_batch.metric_help WHERE (type = 'counter') <> (name ~ '_total$')}), '', 'counters, and no others, are named _total');
my $list = sql($node, q{SELECT format('| `%s` | %s | %s | %s |', name, type, labels, help) FROM llm_batch.metric_help});
my $docs = join "\n", grep { /^\| `llm_batch_/ } split /\n/, slurp_file("$FindBin::RealBin/../../docs/METRICS.md");
is($docs, $list, 'docs/METRICS.md has the same list');

# ---- what README tells to paste ----

my ($section) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^### Monitoring$(.*?)^### /ms;
my ($queries) = $section =~ /^```sql$(.*?)^```$/ms;
my ($status, $out, $error) = $node->psql('postgres', "SET ROLE eyes; $queries", on_error_die => 0);
is("$status $error", '0 ', 'README: the queries run');
like($out, qr/^sim\|closed\|HTTP 503\|/m, 'README: and show something');
my ($exported) = $section =~ /^  query: \|\n(.*?)^  metrics:/ms;
is(sql($node, "SET ROLE eyes; SELECT count(*) = (SELECT count(*) FROM llm_batch.metrics), string_agg(DISTINCT llm_server, ' ') FROM ($exported) q"), 't|mock other sim',
	'README: what the exporter asks');
my %named = map { $_ => 1 } $section =~ /^ +expr: .*$/mg ? join(' ', $section =~ /^ +expr: (.*)$/mg) =~ /\b(llm_batch_\w+)/g : ();
is(sql($node, sprintf q{SELECT count(*) FROM llm_batch.metric_help WHERE name IN (%s)}, join ', ', map { quote($_) } keys %named), scalar(keys %named),
	'README: what the alerts look at');
cmp_ok(scalar(keys %named), '>=', 8, 'README: which is something');

# ---- the log: switched over and off; nothing in it that is not to be there ----

$node->append_conf('postgresql.conf', 'llm_batch.log_events = all');
$node->reload;
$sim->options(run_seconds => 0.1);
wait_until($node, q{SELECT setting = 'all' FROM pg_settings WHERE name = 'llm_batch.log_events'}, 'the setting is read');
sleep 0.2;
my $last = submit($node);
is(wait_job($node, $last), 'succeeded', 'one more job');
my $said = sql($node, "SELECT json_agg(json_build_array(kind, message) ORDER BY event_id) FROM llm_batch.events WHERE job_id = $last");
is_deeply([ map { [ $_->{kind}, $_->{message} ] } grep { $_->{what} eq 'event' && $_->{job} == $last } told() ], $json->decode($said), 'log: all events');
$node->append_conf('postgresql.conf', "llm_batch.log_events = off\nllm_batch.idle_timeout = 1");
$node->reload;
wait_until($node, q{SELECT setting = 'off' FROM pg_settings WHERE name = 'llm_batch.log_events'}, 'the setting is read');
sleep 0.2;
is(wait_job($node, submit($node)), 'succeeded', 'a job that nobody wants to know of');
is(scalar(told()), 0, 'log: nothing when it is off');
$node->append_conf('postgresql.conf', 'llm_batch.log_events = on');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker leaves');
is(join(' ', map { "$_->{what} $_->{state}, $_->{reason}" } told()), 'worker stopped, no work', 'log: so it says');
$node->stop;
is(states('launcher', undef, undef, told()), '>stopped', 'log: the launcher as well');
my @secret = grep { /llm_batch event/ && /sk-test|speaks|words and/ } split /\n/, slurp_file($node->logfile);
is("@secret", '', 'log: no key, prompt or answer in its lines');

# ---- without preload: NULL where nobody knows ----

$node = start_node(name => 'bare', preload => 0);
create_server($node, $sim);
create_articles($node, 5);
is(wait_job($node, submit($node)), 'succeeded', 'without preload: a job');
is(sql($node, q{SELECT enabled, breaker, since, retry_at, failures, in_flight, calls_per_minute, error_rate, last_error, turnaround_p50 > '0', queued
		FROM llm_batch.health WHERE server = 'sim'}), 't|||||||||t|0', 'without preload: health is NULL where it cannot know');
%now = metrics();
is(join(' ', grep { /breaker|calls/ } keys %now), '', 'without preload: nor are there such metrics');
is(total(\%now, 'llm_batch_items_total', 'state=succeeded'), 5, 'without preload: the others are there');
wait_until($node, q{SELECT pid > 0 AND started_at IS NOT NULL AND doing ~ '^waiting for work; leaves in \d+ s$' FROM llm_batch.workers}, 'without preload: workers says the same');
check_sim($sim);

done_testing();
