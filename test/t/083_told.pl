# Who listens is told what becomes of jobs, and nothing that is not so, not for
# them, or too often; what a job's owner wants done when it has ended is done
# once, as the owner, and holds up nobody.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $orders = PostgreSQL::Test::Utils::tempdir('told') . '/orders';
my $node = start_node(
	conf => [ 'restart_after_crash = on', "llm_batch.crash_file = '$orders'", 'max_prepared_transactions = 2',
		'log_min_messages = info', 'log_error_verbosity = terse' ]);
my $sim = start_sim();

sql($node, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0');
	GRANT USAGE ON FOREIGN SERVER fast TO PUBLIC});
create_server($node, $sim);

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# Error and notices of a statement of a role.
sub said_to
{
	my ($role, $query) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $query, extra_params => [ '-U', $role ]);
	return $err;
}

# ---- listening ----

sub listener
{
	my ($encoding) = @_;
	my $session = LlmBatch::Session->new($node);

	$session->query("SET client_encoding = '" . ($encoding // 'UTF8') . "'");
	$session->query('LISTEN llm_batch');
	$session->{heard} = [];
	return $session;
}

# What it has heard so far; of one job, if that is named.
sub heard
{
	my ($session, $job) = @_;

	foreach my $line (split /\n/, $session->query('SELECT'))
	{
		next if $line !~ /^Asynchronous notification/;
		my ($payload) = $line =~ /^Asynchronous notification "llm_batch" with payload "(.*)" received from server process with PID \d+\.$/
		  or die "what is this: $line";
		my $told = JSON::PP->new->decode($payload);

		push @{ $session->{heard} }, { %$told, payload => $payload };
	}
	return grep { !defined $job || $_->{job} == $job } @{ $session->{heard} };
}

# Until the listener has heard of the job's end; all that it has heard of it.
sub heard_to_the_end
{
	my ($session, $job) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	while (time < $until)
	{
		my @heard = heard($session, $job);
		return @heard if @heard && $heard[-1]{state} =~ /^(succeeded|partial|failed|cancelled)$/;
		sleep 0.05;
	}
	return heard($session, $job);
}

sub states { return join ' ', map { "$_->{what}:" . ($_->{was} // '') . ">$_->{state}" } @_ }

my $ear = listener();
create_articles($node, 30);

# Two that take their time, see below: one goes on and on; of the other a part
# is done, and then nothing happens.
sql($node, q{CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '} . $sim->base_url . q{', realtime_concurrency '2', batch 'off');
	CREATE USER MAPPING FOR CURRENT_USER SERVER slow OPTIONS (api_key 'sk-test');
	ALTER SERVER sim OPTIONS (ADD max_batch_requests '15')});
$sim->fault({ method => 'POST', path => '^/v1/chat/completions' }, { stall => 0.4 });
$sim->rule({ nth => 2 }, run_seconds => 3600);
my $busy = submit($node, server => 'slow', mode => 'realtime', prompt => 'Slowly: {{body}}');
my $idle = submit($node, prompt => 'Half: {{body}}');
$sim->wait_for(sub { $_[0]->batches == 2 });

my $job = submit($node, target => 'summary', labels => '{"team": "news", "n": [1, {"x": null}]}');
is(wait_job($node, $job), 'succeeded', 'a job');
my @heard = heard_to_the_end($ear, $job);
is(states(@heard), 'state:waiting>running state:running>succeeded', 'each change of its state is told once');
is(join(' ', sort keys %{ $heard[0] }),
	'at cost cost_unknown eta failed cancelled in_flight job labels model owner payload queued reason server state succeeded task total uncertain unapplied was what'
	  =~ s/(\S+(?: \S+)*)/join ' ', sort split ' ', $1/er, 'by these words');
is(join(' ', @{ $heard[1] }{qw(total queued in_flight succeeded failed cancelled unapplied uncertain)}), '30 0 0 30 0 0 0 0', 'the end has the counts');
is(join(' ', @{ $heard[0] }{qw(total in_flight)}), '30 15', 'the begin, too');
is(join(' ', @{ $heard[1] }{qw(owner server model)}), "postgres sim $LlmBatch::MODEL", 'and says whose it was');
is($heard[1]{cost}, sql($node, "SELECT trim_scale(cost) FROM llm_batch.progress WHERE job_id = $job"), 'the cost is there');
is_deeply($heard[1]{labels}, { team => 'news', n => [ 1, { x => undef } ] }, 'and the labels');
like($heard[1]{at}, qr/^20\d\d-\d\d-\d\dT[\d:.]+(\+00:00|Z)$/, 'with the time');
is(scalar(grep { $_->{payload} =~ /Article|speaks|Summarise/ } @heard), 0, 'no text of prompts or answers');

# ---- sessions tell nothing, and are not kept from anything ----

sql($node, q{BEGIN; SELECT llm_batch.submit_prompts('{a,b}', 'mock', server => 'fast'); PREPARE TRANSACTION 'p'});
sql($node, q{BEGIN; SELECT llm_batch.submit_prompts('{a,b}', 'mock', server => 'fast'); ROLLBACK});
my $untold = grep { $_->{job} > $job } heard($ear);
sql($node, q{COMMIT PREPARED 'p'; SELECT llm_batch.submit_prompts('{c}', 'mock', server => 'fast')});
my ($prepared, $after) = split /\n/, sql($node, 'SELECT job_id FROM llm_batch.progress ORDER BY job_id DESC LIMIT 2') =~ s/(\d+)\n(\d+)/$2\n$1/r;
is(states(heard_to_the_end($ear, $_)), 'state:waiting>running state:running>succeeded', "job $_ is told of by the worker") foreach $prepared, $after;
is($untold, 0, 'nothing was heard of what was only prepared, or rolled back');
my $empty = sql($node, q{SELECT llm_batch.submit_prompts('{}', 'mock', server => 'fast')});
is(states(heard_to_the_end($ear, $empty)), 'state:>succeeded', 'a job without items has an end, too');

# ---- what the worker rolls back ----

append_to_file($orders, "error ending a job: commit\n");
$job = sql($node, q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast')});
is(wait_job($node, $job), 'succeeded', 'the turn in which a job ends fails, and is made again');
is(states(heard_to_the_end($ear, $job)), 'state:waiting>running state:running>succeeded', 'its end is told once');
like(slurp_file($node->logfile), qr/crash point "ending a job: commit"/, 'it did fail');
unlink $orders;

# ---- reasons ----

sql($node, q{CREATE SERVER closed FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0')});
$job = sql($node, q{BEGIN; SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'closed'); ALTER SERVER closed OPTIONS (ADD enabled 'off'); COMMIT});
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'a job is paused');
sql($node, "SELECT llm_batch.cancel($job)");
@heard = heard_to_the_end($ear, $job);
like(states(@heard), qr/^state:waiting>paused (?:state:paused>cancelling )?state:\w+>cancelled$/, 'pause and cancel are told');
is($heard[0]{reason}, 'setup', 'with a word for the reason');

# ---- who hears ----

# As README says: everybody who can connect, and what is in the payload.
my $stranger = listener();
$stranger->query('SET SESSION AUTHORIZATION mallory');
$job = as('alice', q{SELECT llm_batch.submit_prompts('{My secret.}', 'mock', server => 'fast', system => 'Another secret.', labels => '{"n": 1}')});
@heard = heard_to_the_end($stranger, $job);
is(join(' ', map { "$_->{owner} $_->{state} $_->{labels}{n}" } @heard), 'alice running 1 alice succeeded 1', 'another role hears of a job, with its labels');
is(scalar(grep { $_->{payload} =~ /secret/i } @heard), 0, 'and of no text of it');
$stranger->end;

# ---- payloads that are too long, and characters that a listener lacks ----

my $latin = listener('LATIN1');
$job = sql($node, q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', labels => jsonb_build_object(U&'\0433\043e\0440', U&'\041c\+01F993 "x"'))});
my ($whole) = reverse heard_to_the_end($latin, $job);
is_deeply($whole->{labels}, { "\x{433}\x{43e}\x{440}" => "\x{41c}\x{1f993} \"x\"" }, 'a listener of another encoding reads labels of any script');
like($whole->{payload}, qr/^[\x20-\x7e]+$/, 'for they travel as ASCII');
$latin->end;
foreach my $labels (q{jsonb_build_object('long', repeat('x', 15000))}, q{jsonb_build_object('long', repeat(U&'\044f', 7000))},
	q{jsonb_build_object('long', repeat(U&'\0001', 2000))})
{
	$job = sql($node, "SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', labels => $labels)");
	my ($cut) = reverse heard_to_the_end($ear, $job);
	is_deeply([ $cut->{left_out}, $cut->{labels}, $cut->{state} ], [ ['labels'], undef, 'succeeded' ], 'labels that are too long are left out, and that is said');
	cmp_ok(length $cut->{payload}, '<', 8000, 'so it is short enough');
}
sql($node, q{DO $$ BEGIN EXECUTE format('CREATE ROLE %I SUPERUSER', repeat('"', 63)); END $$});
$job = sql($node, 'SET SESSION AUTHORIZATION ' . ('"' x 128) . q{;
	SELECT llm_batch.submit_prompts('{a}', repeat('\\\\', 128), server => 'fast', labels => jsonb_build_object('long', repeat('x', 7300)))});
my ($quoted) = reverse heard_to_the_end($ear, $job);
is(join(' ', $quoted->{owner}, $quoted->{state}), ('"' x 63) . ' succeeded', 'names are quoted as they must be');

# ---- how often ----

wait_job($node, $busy);
@heard = heard_to_the_end($ear, $busy);
my @counts = grep { $_->{what} eq 'counts' } @heard;
cmp_ok(scalar @counts, '>=', 1, 'of a job that takes longer, counts are told on the way: ' . @counts);
is(scalar(grep { $_->{state} ne 'running' || $_->{was} || $_->{succeeded} == 0 || $_->{succeeded} == 30 } @counts), 0, 'as they are by then');
my @times = map { sql($node, "SELECT extract(epoch FROM '$_->{at}'::timestamptz)") } @heard;
my @early = grep { $heard[$_]{what} eq 'counts' && $times[$_] - $times[ $_ - 1 ] < 4.99 } 1 .. $#heard;
is(scalar @early, 0, 'at most every five seconds') or diag(states(@heard) . ": @times");
is($heard[-1]{succeeded}, 30, 'the last are told with the end');
wait_until($node, "SELECT succeeded = 15 FROM llm_batch.progress WHERE job_id = $idle", 'half of the other is done');
my $until = time + 20;
do { sleep 0.1; @counts = grep { $_->{what} eq 'counts' && $_->{succeeded} == 15 } heard($ear, $idle) } until @counts || time > $until;
is(scalar @counts, 1, 'counts that were held back are told although nothing else happens');
my @all = heard($ear, $idle);
sleep 1;
is(scalar(heard($ear, $idle)), scalar @all, 'and once');
$sim->advance(4000);
is(wait_job($node, $idle), 'succeeded', 'it ends');
is((heard_to_the_end($ear, $idle))[-1]{succeeded}, 30, 'which is told as ever');
$sim->reset;

# ---- off, and on ----

$node->append_conf('postgresql.conf', 'llm_batch.notify = off');
$node->reload;
sql($node, q{SELECT pg_sleep(0.3)});
my $before = scalar heard($ear);
$job = sql($node, q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_success => 'SELECT 1')});
is(wait_job($node, $job), 'succeeded', 'with the setting off a job goes on as ever');
sql($node, "CALL llm_batch.wait($job)");
is(scalar(heard($ear)), $before, 'and nobody is told');
$node->append_conf('postgresql.conf', 'llm_batch.notify = on');
$node->reload;
sql($node, q{SELECT pg_sleep(0.3)});

# ---- a listener that does not read ----

my $deaf = listener();
# since 19 a session does not hold up what it would not hear
$deaf->query('LISTEN other; BEGIN; SELECT 1');
sql($node, q{SELECT count(pg_notify('other', repeat('x', 7900) || n)) FROM generate_series(1, 11500) n});
cmp_ok(sql($node, 'SELECT pg_notification_queue_usage()'), '>', 0.01, 'the queue is filling up');
$before = scalar heard($ear);
foreach (1 .. 2)
{
	$job = sql($node, q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast')});
	is(wait_job($node, $job), 'succeeded', 'jobs go on');
}
is(scalar(heard($ear)), $before, 'nobody is told');
my $log = slurp_file($node->logfile);
is(scalar(() = $log =~ /no notifications are sent: 1\.\d %/g), 1, 'the log says so, once');
$deaf->query('UNLISTEN *; COMMIT');
$job = sql($node, q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast')});
is(states(heard_to_the_end($ear, $job)), 'state:waiting>running state:running>succeeded', 'when it has read, others hear again');
like(slurp_file($node->logfile), qr/notifications are sent again/, 'which the log says');
$deaf->end;
unlike(slurp_file($node->logfile), qr/could not notify/, 'and nothing ever went wrong');

# ---- on_success, on_error ----

as('alice', q{
	CREATE TABLE alice.ended (job bigint, state text, who text DEFAULT current_user, path text DEFAULT current_setting('search_path'));
	CREATE TABLE alice.rows (id int PRIMARY KEY, body text, n int);
	INSERT INTO alice.rows SELECT n, 'Row ' || n || ' speaks.' FROM generate_series(1, 4) n});
my $note = q{'INSERT INTO alice.ended VALUES ($1, $2)'};

# A job of a role, with what follows it; waits for both.
sub job_of
{
	my ($role, $what, $more) = @_;
	my $job = as($role, "SELECT llm_batch.submit_prompts('{a,b}', 'mock', server => 'fast', $what" . ($more // '') . ')');

	as($role, "CALL llm_batch.wait($job)");
	return $job;
}

sub follows
{
	my ($job, $role) = @_;
	return as($role // 'alice', "SELECT COALESCE(string_agg(message, '; ' ORDER BY event_id), '') FROM llm_batch.events WHERE job_id = $job AND kind = 'afterwards'");
}

sub why
{
	my ($job, $role) = @_;
	return as($role // 'alice', "SELECT error FROM llm_batch.afterwards WHERE job_id = $job");
}

$job = job_of('alice', "on_success => $note, on_error => 'SELECT 1/0'");
is(as('alice', 'SELECT * FROM alice.ended'), "$job|succeeded|alice|pg_catalog, pg_temp", 'on_success runs when the job has ended, as its owner, with a pinned search_path; wait() waits for it');
is(follows($job), 'on_success has run', 'an event says so');
is(as('alice', 'SELECT count(*) FROM llm_batch.afterwards'), '0', 'and nothing is left behind');

$job = job_of('alice', q{on_success => 'CREATE TABLE alice.made (n int); INSERT INTO alice.made SELECT $1; INSERT INTO alice.ended VALUES ($1, (SELECT count(*) FROM alice.made)::text)'});
is(as('alice', "SELECT state FROM alice.ended WHERE job = $job"), '1', 'several statements are one transaction');
$job = job_of('alice', q{on_success => 'INSERT INTO alice.ended VALUES ($1, ''half''); SELECT 1/0'});
is(as('alice', "SELECT count(*) FROM alice.ended WHERE job = $job"), '0', 'which is all or nothing');
is(why($job), 'division by zero', 'its owner can read why');
is(follows($job), q{on_success failed (22012): the job's owner reads why in llm_batch.afterwards}, 'the event only says that');
is(as('mallory', 'SELECT count(*) FROM llm_batch.afterwards'), '0', 'nobody else');
is(as('watcher', 'SELECT count(*) FROM llm_batch.afterwards'), '0', 'not even pg_monitor');
is(as('watcher', "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'afterwards'"), '1', 'which sees the event');
unlike(slurp_file($node->logfile), qr/division by zero/, 'nor whoever reads the log');
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'succeeded', 'the job has succeeded all the same');
$job = job_of('alice', q{on_success => 'CALL alice.commits()'}) if as('alice', q{CREATE PROCEDURE alice.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'}) || 1;
is(why($job), 'invalid transaction termination', 'a procedure that commits is told that it cannot');

# partial, failed, cancelled; again after retry
$sim->rule({ mode => 'any' }, items => [ { nth => [ 1, 2 ], do => { status_code => 400 } } ]);
sql($node, 'GRANT USAGE ON FOREIGN SERVER sim TO alice');
as('alice', q{CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key 'sk-test')});
$job = as('alice', qq{SELECT llm_batch.submit('alice.rows', '{{body}}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch', on_error => $note, on_success => $note)});
is(wait_job($node, $job), 'partial', 'a job ends partial');
said_to('alice', "CALL llm_batch.wait($job)");
is(as('alice', "SELECT string_agg(state, ' ') FROM alice.ended WHERE job = $job"), 'partial', 'on_error knows how');
$sim->reset;
as('alice', "SELECT llm_batch.retry($job)");
is(wait_job($node, $job), 'succeeded', 'what failed is sent again');
as('alice', "CALL llm_batch.wait($job)");
is(as('alice', "SELECT string_agg(state, ' ' ORDER BY state) FROM alice.ended WHERE job = $job"), 'partial succeeded', 'another end is another run');
$sim->rule({ mode => 'any' }, items => [ { do => { status_code => 400 } } ]);
$job = as('alice', qq{SELECT llm_batch.submit('alice.rows', '{{body}}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch', on_error => $note)});
is(wait_job($node, $job), 'failed', 'one fails');
said_to('alice', "CALL llm_batch.wait($job)");
$sim->reset;
$sim->options(run_seconds => 3600);
my $cancelled = as('alice', qq{SELECT llm_batch.submit('alice.rows', '{{body}}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch', on_error => $note)});
as('alice', "SELECT llm_batch.cancel($cancelled)");
as('alice', "CALL llm_batch.wait($cancelled)");
is(as('alice', "SELECT string_agg(state, ' ' ORDER BY job) FROM alice.ended WHERE job IN ($job, $cancelled)"), 'failed cancelled', 'on_error runs for failed and cancelled jobs');
$sim->reset;
$job = as('alice', q{SELECT llm_batch.submit_prompts('{}', 'mock', server => 'fast', on_success => } . $note . ')');
as('alice', "CALL llm_batch.wait($job)");
is(as('alice', "SELECT state FROM alice.ended WHERE job = $job"), 'succeeded', 'on_success runs for a job without items');

# ---- jobs of tasks, and of chains ----

as('alice', qq{SELECT llm_batch.create_task('by herself', '{{body}}', model => 'mock', server => 'fast', max_wait => '10ms', labels => '{"team": "tasks"}', on_success => $note)});
as('alice', q{SELECT llm_batch.attach('by herself', 'alice.rows'); INSERT INTO alice.rows VALUES (5, 'Row 5 speaks.')});
wait_until($node, q{SELECT EXISTS (SELECT FROM alice.ended e JOIN llm_batch.job j ON j.id = e.job WHERE j.task = 'by herself' AND e.state = 'succeeded' AND e.who = 'alice')},
	"a task's on_success runs for each of its jobs");
$job = sql($node, q{SELECT id FROM llm_batch.job WHERE task = 'by herself'});
@heard = heard_to_the_end($ear, $job);
is(join(' ', states(@heard), $heard[-1]{task}, $heard[-1]{labels}{team}), 'state:>waiting state:waiting>running state:running>succeeded by herself tasks', 'which are told of by its name');
as('alice', q{SELECT llm_batch.drop_task('by herself'); DELETE FROM alice.rows WHERE id = 5});
$sim->rule({ mode => 'any' }, items => [ { do => { status_code => 400 } } ]);
my $first = as('alice', qq{SELECT llm_batch.submit('alice.rows', '{{body}}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch')});
$job = as('alice', qq{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', after => $first, on_error => $note)});
wait_until($node, "SELECT EXISTS (SELECT FROM alice.ended WHERE job = $job AND state = 'cancelled')", 'on_error runs for a job that could not begin');
is((heard_to_the_end($ear, $job))[-1]{reason}, 'other', 'of whose reason only a word is told');
$sim->reset;

# ---- a chain by hand ----

$job = job_of('alice', q{on_success => 'SELECT llm_batch.submit(''alice.rows'', ''Job '' || $1 || '': {{body}}'', ''mock'', server => ''fast'', on_success => ''INSERT INTO alice.ended VALUES ($1, ''''second'''')'')'});
my $second = $job + 1;
ok(wait_until($node, "SELECT EXISTS (SELECT FROM alice.ended WHERE job = $second AND state = 'second')", 'a job that on_success submits runs at once', 5), 'a chain by hand');
is(as('alice', "SELECT owner || ' ' || total FROM llm_batch.progress WHERE job_id = $second"), 'alice 4', 'it is its owner\'s');
is(states(heard_to_the_end($ear, $second)), 'state:>waiting state:waiting>running state:running>succeeded', 'and told of');
sql($node, 'CREATE SERVER dear FOREIGN DATA WRAPPER llm_batch OPTIONS (api \'mock\')');
$job = job_of('alice', q{on_success => 'SELECT llm_batch.submit_prompts(''{a}'', ''mock'', server => ''dear'')'});
like(why($job), qr/permission denied for foreign server/, 'it spends what its owner may spend');

# ---- what it may not do ----

as('alice', 'CREATE TABLE alice.tried (n int, outcome text)');
my @attempts = (
	[ 'SET ROLE postgres', 'cannot set parameter "role" within security-definer function' ],
	[ 'SET SESSION AUTHORIZATION postgres', 'cannot set parameter "session_authorization" within security-definer function' ],
	[ 'RESET ROLE', 'cannot set parameter "role" within security-definer function' ],
	[ 'CREATE TEMP TABLE t (n int)', 'cannot create temporary table within security-restricted operation' ],
	[ 'DO $$BEGIN EXECUTE \'PREPARE p AS SELECT 1\'; END$$', 'cannot execute PREPARE within security-restricted operation' ],
	[ 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'cannot create a cursor WITH HOLD within security-restricted operation' ],
	[ 'CREATE MATERIALIZED VIEW alice.seen AS SELECT id FROM alice.rows; CREATE UNIQUE INDEX ON alice.seen (id); REFRESH MATERIALIZED VIEW alice.seen; ANALYZE alice.seen', undef ],
	[ 'REFRESH MATERIALIZED VIEW CONCURRENTLY alice.seen', 'cannot create temporary table within security-restricted operation' ],
	[ 'DELETE FROM llm_batch.job', 'permission denied for table job' ],
	[ 'INSERT INTO ended VALUES ($1, $2)', 'relation "ended" does not exist; it ran with search_path pg_catalog, pg_temp' ],
	[ 'CALL llm_batch.wait($1)', 'llm_batch.wait() cannot run inside a transaction block' ],
	[ 'CREATE TABLE alice.child (n int REFERENCES alice.rows DEFERRABLE INITIALLY DEFERRED); INSERT INTO alice.child VALUES (99)', 'insert or update on table "child" violates foreign key constraint "child_n_fkey"' ],
	[ 'CREATE TABLE alice.child (n int REFERENCES alice.rows DEFERRABLE INITIALLY DEFERRED); SET CONSTRAINTS ALL DEFERRED; INSERT INTO alice.child VALUES (99)',
		'cannot fire deferred trigger within security-restricted operation' ],
	[ q{SELECT pg_advisory_lock(4711); SELECT set_config('statement_timeout', '0', false); SELECT set_config('search_path', 'alice', false); NOTIFY llm_batch, 'hello'}, undef ]);
foreach my $attempt (@attempts)
{
	my ($statement, $refused) = @$attempt;

	$job = job_of('alice', 'on_success => ' . quote($statement));
	is(why($job), $refused // '', "$statement: " . ($refused // 'is taken'));
}
is(sql($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711}), '0', 'nothing of it outlives the run');
like($ear->query('SELECT'), qr/with payload "hello"/, 'whoever may notify may do it here, too');

# ---- at submit ----

foreach my $wrong (
	[ 'INSERT INTOO x', qr/ERROR:  syntax error at or near "INTOO"\nLINE 1: INSERT INTOO x\n\s+\^\nQUERY:  INSERT INTOO x\nCONTEXT:  argument "on_error"/ ],
	[ 'SELECT $3', qr/ERROR:  there is no parameter \$3\nLINE 1: SELECT \$3\n/ ],
	[ '', qr/ERROR:  on_error holds no statement/ ], [ ' ; -- nothing', qr/ERROR:  on_error holds no statement/ ],
	[ 'SELECT 1; COMMIT', qr/ERROR:  on_error cannot begin, commit or roll back/ ],
	[ 'LISTEN x', qr/ERROR:  on_error cannot LISTEN/ ], [ 'PREPARE p AS SELECT 1', qr/ERROR:  on_error cannot PREPARE/ ], [ 'VACUUM', qr/ERROR:  on_error cannot VACUUM/ ],
	[ 'COPY alice.rows TO STDOUT', qr/ERROR:  on_error cannot COPY/ ],
	[ 'SELECT ' . ('1,' x 40000) . '1', qr/ERROR:  argument "on_error" is longer than 65536 bytes/ ])
{
	my ($statement, $expected) = @$wrong;

	like(said_to('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_error => } . quote($statement) . ')'), $expected,
		'refused at submit: ' . substr $statement, 0, 20);
}
like(said_to('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_error => 'INSERT INTO ended VALUES ($1, $2)')}),
	qr/NOTICE:  on_error would fail as things are: relation "ended" does not exist\nHINT:  .*write names with their schema/, 'a name that is not there is a notice');
is(said_to('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_error => 'INSERT INTO alice.ended VALUES ($1, $2)', on_success => 'ANALYZE alice.ended')}), '', 'one that is there is not');

# ---- time, and locks ----

$node->append_conf('postgresql.conf', "llm_batch.write_back_timeout = '400ms'");
$node->reload;
sql($node, q{SELECT pg_sleep(0.3)});
$job = job_of('alice', q{on_success => 'SELECT pg_sleep(60)'});
like(why($job), qr/^it was cancelled: it may take llm_batch.write_back_timeout, which is 400 ms$/, 'what takes too long is cancelled, and given up');

as('alice', q{SELECT count(llm_batch.submit_prompts(ARRAY['a' || n], 'mock', server => 'fast', on_success => 'SELECT pg_sleep(60)')) FROM generate_series(1, 8) n});
job_of('mallory', q{on_success => 'SELECT 1'});
my $slow = sql($node, q{SELECT count(*) FROM llm_batch.afterwards WHERE error IS NULL});
cmp_ok($slow, '>=', 5, "others need not wait until all of one owner's slow ones have run: $slow are left");
sql($node, q{DELETE FROM llm_batch.afterwards});

my $lock = LlmBatch::Session->new($node);
$lock->query('BEGIN; UPDATE alice.rows SET n = 0 WHERE id = 1');
$job = as('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_success => 'UPDATE alice.rows SET n = $1 WHERE id = 1')});
wait_until($node, "SELECT tries > 0 FROM llm_batch.afterwards WHERE job_id = $job", 'what meets a lock gives way');
my $from = time;
job_of('mallory', q{on_success => 'SELECT 1'});
cmp_ok(time - $from, '<', 5, 'others go on');
$lock->query('COMMIT');
wait_until($node, "SELECT n = $job FROM alice.rows WHERE id = 1", 'and comes back');
is(follows($job), 'on_success had to give way (55P03), and is tried again; on_success has run', 'as the events say');

# another end while it waits
$sim->rule({ mode => 'any' }, items => [ { nth => 1, do => { status_code => 400 } } ]);
$lock->query('BEGIN; UPDATE alice.rows SET n = 0 WHERE id = 1');
$job = as('alice', qq{SELECT llm_batch.submit('alice.rows', '{{body}}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch',
	on_error => 'UPDATE alice.rows SET n = -1 WHERE id = 1', on_success => 'UPDATE alice.rows SET n = \$1 WHERE id = 1')});
wait_until($node, "SELECT tries > 0 FROM llm_batch.afterwards WHERE job_id = $job", 'on_error waits for a lock');
$sim->reset;
as('alice', "SELECT llm_batch.retry($job)");
wait_until($node, "SELECT verb = 'on_success' FROM llm_batch.afterwards WHERE job_id = $job", 'meanwhile the job is retried, and ends well');
$lock->query('COMMIT');
wait_until($node, "SELECT n = $job FROM alice.rows WHERE id = 1", 'on_success takes the place of on_error');
like(follows($job), qr/; on_error had not run yet, and does not: the job has ended anew; .*on_success has run$/, 'as the events say');

# one that was begun again and again, and one of another database
foreach my $how ([ 'UPDATE llm_batch.afterwards SET begun = 5, not_before = now() WHERE job_id =', qr/^on_success had to give way \(55P03\), and is tried again; on_success failed \(XX000\)/ ],
	[ 'UPDATE llm_batch.afterwards SET not_before = now(); UPDATE llm_batch.job SET database_oid = 1 WHERE id =', qr/is tried again; on_success does not run: the job was copied from another database$/ ])
{
	$lock->query('BEGIN; UPDATE alice.rows SET n = 0 WHERE id = 1');
	$job = as('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_success => 'UPDATE alice.rows SET n = $1 WHERE id = 1')});
	wait_until($node, "SELECT tries > 0 FROM llm_batch.afterwards WHERE job_id = $job", 'one waits for a lock');
	sql($node, "$how->[0] $job");
	wait_until($node, "SELECT NOT EXISTS (SELECT FROM llm_batch.afterwards WHERE job_id = $job AND error IS NULL)", 'it is given up');
	$lock->query('COMMIT');
	like(follows($job), $how->[1], 'as the events say');
	is(sql($node, 'SELECT n FROM alice.rows WHERE id = 1'), '0', 'and does not run');
}
$lock->end;

# It catches its cancel.
as('alice', q{
	CREATE FUNCTION alice.stubborn() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_sleep(3600);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		END LOOP;
	END $$});
$job = as('alice', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_success => 'SELECT alice.stubborn()')});
wait_until($node, "SELECT EXISTS (SELECT FROM llm_batch.afterwards WHERE job_id = $job AND error IS NOT NULL)", 'what catches its cancel ends the worker, and is given up');
like(why($job), qr/^it could not be cancelled/, 'with the reason');
job_of('mallory', q{on_success => 'SELECT 1'});
pass('jobs of others go on');

# the owner is gone
sql($node, q{CREATE ROLE bob LOGIN; CREATE TABLE gate (n int); INSERT INTO gate VALUES (1); GRANT ALL ON gate TO bob});
$lock = LlmBatch::Session->new($node);
$lock->query('BEGIN; UPDATE gate SET n = 2');
$job = as('bob', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', on_success => 'UPDATE public.gate SET n = 3')});
wait_until($node, "SELECT tries > 0 FROM llm_batch.afterwards WHERE job_id = $job", 'one waits for a lock');
sql($node, 'REVOKE ALL ON gate FROM bob; DROP ROLE bob; UPDATE llm_batch.afterwards SET not_before = now()');
wait_until($node, "SELECT error = 'the role that owns the job does not exist any more' FROM llm_batch.afterwards WHERE job_id = $job", 'an owner who is gone runs nothing');
$lock->query('COMMIT');
$lock->end;
is(sql($node, 'SELECT n FROM gate'), '2', 'nor anybody else');
$ear->end;

# ---- crashes: once, and only once ----

$node->append_conf('postgresql.conf', "llm_batch.write_back_timeout = '10s'");
$node->reload;
foreach my $point ('ending a job: commit', 'ending a job: committed', 'looking for what follows a job: commit', 'looking for what follows a job: committed',
	'running what follows a job: commit', 'running what follows a job: committed')
{
	append_to_file($orders, "kill $point\n");
	my $offset = -s $node->logfile;

	# it may die before this has returned
	$node->psql('postgres', "SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'fast', request_key => '$point', on_success => $note)", extra_params => [ '-U', 'alice' ]);
	$until = time + $LlmBatch::PATIENCE;
	my $done = '';
	until ($done eq 't' || time > $until)
	{
		my ($status, $out) = $node->psql('postgres', qq{
			SELECT EXISTS (SELECT FROM alice.ended e JOIN llm_batch.job j ON j.id = e.job WHERE j.request_key = '$point')
				AND NOT EXISTS (SELECT FROM llm_batch.afterwards WHERE error IS NULL)});
		$done = $out // '';
		sleep 0.05;
	}
	ok(!-s $orders, "$point: the worker was killed");
	unlink $orders;
	is( sql($node, qq{SELECT string_agg(e.state, ' ') || ' ' || (SELECT count(*) FROM llm_batch.event v WHERE v.job_id = j.id AND v.kind = 'afterwards')
			FROM alice.ended e JOIN llm_batch.job j ON j.id = e.job WHERE j.request_key = '$point' GROUP BY j.id}),
		'succeeded 1', "$point: it has run once");
}
# a commit that fails
append_to_file($orders, "error running what follows a job: commit\n");
$job = job_of('alice', "on_success => $note");
is(as('alice', "SELECT count(*) FROM alice.ended WHERE job = $job"), '1', 'a commit that fails: it runs again, and counts once');
ok(!-s $orders, 'it did fail');

check_sim($sim);
done_testing();
