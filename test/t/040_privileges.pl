# Who sees what, who may spend, and as whom the users' own code runs.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;

# Words that must not turn up where they do not belong.
my $KEY = 'sk-0123456789-kept-from-sight';
my $SECRET = 'zebrafish';

my $node = start_node(conf => [ 'log_min_messages = debug1', "log_statement = 'none'", 'llm_batch.log_events = all' ]);
my $sim = start_sim();

sql($node, qq{
	CREATE ROLE alice LOGIN;
	CREATE ROLE team LOGIN;
	CREATE ROLE apart LOGIN NOINHERIT;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE monitor LOGIN;
	GRANT alice TO team;
	GRANT alice TO apart;
	GRANT pg_monitor TO monitor;
	CREATE SCHEMA alice AUTHORIZATION alice;
	ALTER ROLE alice SET search_path = alice;
	GRANT CREATE ON SCHEMA public TO PUBLIC});
create_server($node, $sim, key => undef, max_batch_requests => 10, max_active_batches => 1);
sql($node, "GRANT USAGE ON FOREIGN SERVER sim TO alice; CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key '$KEY')");

# As another role, in a session of its own.
sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# The same where an error is expected: "SQLSTATE message".
sub refused
{
	my ($role, $query) = @_;
	my ($status, $out, $error) = $node->psql('postgres', $query, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return $error =~ /ERROR:  (.*)/ ? $1 : "no error: $out";
}

# Every table and view of the extension that holds rows of jobs, and that others than superusers may read at all.
my @relations = split /\n/, sql($node, q{
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'llm_batch'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname NOT IN ('workers', 'model', 'preset', 'pii_pattern', 'metric_help')
	AND has_table_privilege('alice', c.oid, 'SELECT') ORDER BY 1});

# All rows that a role gets to see, as text; of servers but the one that everybody may use.
my %but = ('llm_batch.health' => q{WHERE server <> 'mock'}, 'llm_batch.metrics' => q{WHERE labels->>'server' <> 'mock'});

sub all_that_is_seen
{
	my ($role) = @_;
	return as($role, join ' UNION ALL ', map { "SELECT '$_', r::text FROM $_ r " . ($but{$_} // '') } @relations);
}

# Twenty rows; each text holds the secret, and so will each answer.
as('alice', qq{
	CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
	INSERT INTO articles SELECT n, 'Article ' || n || ' on the $SECRET. More.' FROM generate_series(1, 20) n});

my $SUBMIT = q{SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')};

# ---- who sees what ----

# One item fails, with words of the provider's about its prompt.
$sim->rule({ nth => 1 }, items => [ { nth => 1, do => { status_code => 400, error => { message => "no $SECRET here" } } } ]);
my $job = as('alice', $SUBMIT);
is(wait_job($node, $job), 'partial', 'a job of role alice ends');

like(all_that_is_seen('alice'), qr/$SECRET/, 'the owner sees the text');
is(all_that_is_seen('mallory'), '', 'another role sees nothing in any table or view, not text nor numbers');
is(all_that_is_seen('team'), all_that_is_seen('alice'), 'a role that has the privileges of the owner sees all the same');
is(all_that_is_seen('apart'), '', 'a member that does not inherit them sees nothing');
my $seen = all_that_is_seen('monitor');
unlike($seen, qr/$SECRET/, 'pg_monitor sees no text: no prompt, no answer, no error');
is(as('monitor', "SELECT total, succeeded, failed FROM llm_batch.progress WHERE job_id = $job"), '20|19|1', 'but it sees the counts');
is(as('monitor', "SELECT count(*), count(input_tokens), count(answer), count(error), count(key) FROM llm_batch.attempts WHERE job_id = $job"),
	'20|19|0|0|0', 'and each attempt in numbers');
is(as('monitor', "SELECT count(*) FROM llm_batch.batches WHERE job_id = $job"), '2', 'and the batches');

# Nor by the ways around: statistics, a function that is run too early.
sql($node, 'ANALYZE llm_batch.answer, llm_batch.prompt, llm_batch.item, llm_batch.job');
foreach my $role (qw(mallory monitor))
{
	is(as($role, "SELECT count(*) FROM pg_stats WHERE schemaname = 'llm_batch' AND tablename IN ('answer', 'prompt', 'item')"), '0',
		"$role gets nothing from the planner's statistics");
	my ($status, $out, $notices) = $node->psql('postgres', q{
		CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
			$$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
		SELECT count(*) FROM llm_batch.answer WHERE pg_temp.tell(answer);
		SELECT count(*) FROM llm_batch.results WHERE pg_temp.tell(answer);
		SELECT count(*) FROM llm_batch.attempts WHERE pg_temp.tell(answer) AND job_id > 0},
		extra_params => [ '-U', $role ]);
	unlike($notices, qr/$SECRET/, "$role gets nothing through a leaky function");
}

# ---- who may do what ----

foreach my $call (map({ "SELECT llm_batch.$_($job)" } qw(cancel pause resume retry apply)), "CALL llm_batch.wait($job)")
{
	like(refused('mallory', $call), qr/^42704: job $job does not exist/, "mallory: $call");
	like(refused('monitor', $call), qr/^42704: job $job does not exist/, "monitor: $call");
}
foreach my $statement (
	"INSERT INTO llm_batch.command (job_id, verb, given_by) VALUES ($job, 'cancel', 'alice')",
	"UPDATE llm_batch.job SET owner = 'mallory'",
	'DELETE FROM llm_batch.event',
	'TRUNCATE llm_batch.answer',
	"SELECT nextval('llm_batch.job_id_seq')",
	"SELECT llm_batch.validator('{}', 0)")
{
	like(refused('mallory', $statement), qr/^42501: permission denied/, "mallory: $statement");
	like(refused('alice', $statement), qr/^42501: permission denied/, "the owner neither: $statement");
}
like(refused('mallory', "SELECT llm_batch.submit_prompts('{x}', 'gpt-6-luna', server => 'sim')"), qr/^42501: permission denied for foreign server sim/,
	'spending takes USAGE on the server');
is(as('team', "SELECT llm_batch.retry($job, '{invalid_request}')"), '1', 'a role with the privileges of the owner may retry');
is(wait_job($node, $job), 'succeeded', 'and the job is the owner\'s still');
is(as('alice', 'SELECT count(summary) FROM articles'), '20', 'written to the table on which that role alone has privileges');

# ---- USAGE is checked at use, too ----

as('alice', 'UPDATE articles SET summary = NULL');
$sim->reset;
$sim->rule({ nth => 1 }, run_seconds => 3600);
$job = as('alice', $SUBMIT);
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'the first batch flies');
sql($node, 'REVOKE USAGE ON FOREIGN SERVER sim FROM alice');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'the job pauses when USAGE is taken away');
is(as('alice', "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), 'role "alice" has lost USAGE on server "sim"', 'and says why');
as('alice', "SELECT llm_batch.resume($job)");
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.command', 'resume is obeyed');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'resumed without it, the job pauses again');
is(scalar(my @created = $sim->batches), 1, 'nothing more was sent');
sql($node, 'GRANT USAGE ON FOREIGN SERVER sim TO alice');
as('alice', "SELECT llm_batch.resume($job)");
$sim->advance(4000);
is(wait_job($node, $job), 'succeeded', 'granted again and resumed, it ends');
is(as('alice', 'SELECT count(summary) FROM articles'), '20', 'with all its answers');
check_prompts_ran_once($sim, 20);

# ---- whose code runs as whom ----

# What a trigger on the source finds, and what it can do about it.
as('alice', q{
	CREATE TABLE found (who text, what text);
	CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE statement;
		RETURN 'done';
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLSTATE;
	END $$;
	CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		statement text;
	BEGIN
		INSERT INTO alice.found VALUES ('current_user', current_user), ('search_path', current_setting('search_path'));
		FOREACH statement IN ARRAY ARRAY['SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'RESET ROLE', 'RESET SESSION AUTHORIZATION',
			'ALTER ROLE alice SUPERUSER', 'CREATE ROLE eve SUPERUSER', 'GRANT postgres TO alice', 'CREATE TEMP TABLE pg_proc (x int)',
			'SET CONSTRAINTS ALL DEFERRED', 'INSERT INTO alice.later VALUES (1)', 'DECLARE c CURSOR WITH HOLD FOR SELECT alice.escalate()', 'LISTEN x',
			'ALTER SYSTEM SET log_statement = ''all''', 'COPY alice.found TO PROGRAM ''true''', 'SELECT pg_read_file(''PG_VERSION'')',
			'UPDATE llm_batch.job SET owner = ''mallory''', 'SELECT set_config(''role'', ''postgres'', false)',
			'SELECT set_config(''session_authorization'', ''postgres'', false)', 'PREPARE p AS SELECT alice.escalate()']
		LOOP
			INSERT INTO alice.found VALUES (statement, alice.attempt(statement));
		END LOOP;
		INSERT INTO alice.found VALUES ('and then', current_user);
		RETURN NEW;
	END $$;
	CREATE FUNCTION escalate() RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO alice.found VALUES ('escalate', current_user);
		RETURN 1;
	END $$;
	CREATE FUNCTION at_end() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO alice.found VALUES (TG_NAME, current_user); RETURN NULL; END $$;
	CREATE TABLE later (x int);
	CREATE CONSTRAINT TRIGGER later_at_commit AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_end();
	CREATE TRIGGER look BEFORE UPDATE ON articles FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION look();
	CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON articles DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION at_end();
	CREATE FUNCTION note(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO alice.found VALUES (what, current_user); END $$;
	CREATE FUNCTION seen_by_check(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.note('check'); RETURN true; END $$;
	CREATE FUNCTION seen_by_index(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.note('index'); RETURN $1; END $$;
	ALTER TABLE articles ADD CHECK (seen_by_check(summary));
	CREATE INDEX ON articles (seen_by_index(summary));
	TRUNCATE found});

# Objects planted where a careless search_path would find them first.
as('mallory', q{
	CREATE TABLE public.trap (process text, what text);
	GRANT INSERT ON public.trap TO PUBLIC;
	CREATE FUNCTION public.trapped(what text) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.trap SELECT backend_type, what FROM pg_stat_get_activity(pg_backend_pid()); END $$;
	CREATE FUNCTION public.eq(bigint, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
	CREATE FUNCTION public.eq(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
	CREATE OPERATOR public.= (FUNCTION = public.eq, LEFTARG = bigint, RIGHTARG = int);
	CREATE OPERATOR public.= (FUNCTION = public.eq, LEFTARG = name, RIGHTARG = text);
	CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('unnest'); RETURN; END $$;
	CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('now'); RETURN clock_timestamp(); END $$;
	CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('clock_timestamp'); RETURN pg_catalog.clock_timestamp(); END $$});
sql($node, 'ALTER DATABASE postgres SET search_path = public, pg_catalog');
# the worker that is there has its settings already
sql($node, q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});

as('alice', 'ALTER TABLE articles DISABLE TRIGGER USER; UPDATE articles SET summary = NULL; ALTER TABLE articles ENABLE TRIGGER USER; TRUNCATE found');
$job = as('alice', $SUBMIT);
is(wait_job($node, $job), 'succeeded', 'a job over a table full of its owner\'s code');
is(as('alice', 'SELECT count(summary) FROM articles'), '20', 'has all its answers');
is(as('alice', q{SELECT DISTINCT who, what FROM found WHERE who IN ('current_user', 'and then', 'at_commit', 'check', 'index', 'escalate', 'later_at_commit') ORDER BY 1}),
	"and then|alice\nat_commit|alice\ncheck|alice\ncurrent_user|alice\nindex|alice",
	'triggers, deferred triggers, checks and index functions ran as the owner; nothing waited for the commit');
is(as('alice', q{SELECT DISTINCT what FROM found WHERE who = 'search_path'}), 'pg_catalog, pg_temp', 'with a pinned search_path');
is(as('alice', q{SELECT who FROM found WHERE what = 'done' AND who NOT IN ('SET CONSTRAINTS ALL DEFERRED', 'RESET ROLE', 'PREPARE p AS SELECT alice.escalate()') ORDER BY 1}), '',
	'and could do nothing that its owner cannot');
is(as('alice', q{SELECT rolname FROM pg_roles WHERE rolsuper}), 'postgres', 'there is no new superuser');
is(sql($node, q{SELECT string_agg(DISTINCT what, ' ') FROM public.trap WHERE process ~ 'llm_batch'}), '', 'the worker called no planted operator or function');
sql($node, 'TRUNCATE public.trap');
sql($node, "SELECT count(*) FROM $_") foreach @relations;
is(sql($node, q{SELECT string_agg(DISTINCT what, ' ') FROM public.trap}), '', 'nor do the views call any');
sql($node, 'SELECT 1 FROM llm_batch.progress WHERE job_id = 1');
is(sql($node, q{SELECT string_agg(DISTINCT what, ' ') FROM public.trap}), '=', 'while what a user writes himself does');
sql($node, 'ALTER DATABASE postgres RESET search_path');
as('alice', 'DROP TABLE articles CASCADE');

# ---- privileges and policies on the source, when the answers come ----

sql($node, q{
	CREATE TABLE public.shared (id int PRIMARY KEY, tenant name, body text, summary text);
	INSERT INTO public.shared SELECT n, CASE WHEN n <= 6 THEN 'alice' ELSE 'mallory' END, 'Row ' || n || ' speaks.' FROM generate_series(1, 10) n;
	ALTER TABLE public.shared ENABLE ROW LEVEL SECURITY;
	CREATE POLICY own ON public.shared USING (tenant = current_user);
	GRANT SELECT, UPDATE (summary) ON public.shared TO alice});
$sim->reset;
$sim->options(run_seconds => 3600);
# lets the batch of the last job end
sub land
{
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'a batch flies');
	$sim->advance(4000);
}

my $SHARED = q{SELECT llm_batch.submit('public.shared', '{{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')};
$job = as('alice', $SHARED);
is(as('alice', "SELECT total FROM llm_batch.progress WHERE job_id = $job"), '6', 'a job reads the rows that the policies show its owner');
sql($node, q{UPDATE public.shared SET tenant = 'mallory' WHERE id = 1; CREATE POLICY keep ON public.shared AS RESTRICTIVE FOR UPDATE USING (id <> 2)});
land();
is(wait_job($node, $job), 'partial', 'policies hold when it writes');
is(as('alice', "SELECT string_agg(key || ' ' || error_code, ', ' ORDER BY key) FROM llm_batch.results WHERE job_id = $job AND state = 'failed' AND answer IS NOT NULL"),
	'1 write_back, 2 write_back', 'an answer that they withhold is kept');
is(sql($node, 'SELECT array_agg(id ORDER BY id) FROM public.shared WHERE summary IS NOT NULL'), '{3,4,5,6}', 'the others landed');

sql($node, 'UPDATE public.shared SET summary = NULL');
$job = as('alice', $SHARED);
sql($node, 'REVOKE UPDATE (summary) ON public.shared FROM alice');
land();
is(wait_job($node, $job), 'failed', 'a job whose owner lost UPDATE on the target');
is(as('alice', "SELECT DISTINCT error_code, error FROM llm_batch.results WHERE job_id = $job AND answer IS NOT NULL"),
	'write_back|permission denied for table shared', 'keeps its answers');
sql($node, 'GRANT UPDATE (summary) ON public.shared TO alice; DROP POLICY keep ON public.shared');
as('alice', "SELECT llm_batch.apply($job)");
is(wait_job($node, $job), 'succeeded', 'and writes them when it is granted again');
$sim->options(run_seconds => 0.1);

# ---- keys ----

# A key file is read by the worker, never by the user whose key it is.
my $file = $node->basedir . '/key';
PostgreSQL::Test::Utils::append_to_file($file, "$KEY-of-a-file\n");
sql($node, "DROP USER MAPPING FOR alice SERVER sim; CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key_file '$file')");
$sim->reset;
$sim->options(keys => "$KEY-of-a-file");
$job = as('alice', "SELECT llm_batch.submit_prompts('{One.}', 'gpt-6-luna', server => 'sim')");
is(wait_job($node, $job), 'succeeded', 'a key from a file');
$sim->options(keys => '');

# ---- what we write down ourselves ----

# Providers quote keys and prompts in their errors; these are not passed on.
my %echo = (status => 401, body => { error => { message => "Incorrect API key provided: $KEY. You sent: $SECRET", type => 'x', param => $SECRET, code => 'invalid_api_key' } });
sql($node, "DROP USER MAPPING FOR alice SERVER sim; CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key '$KEY')");
as('alice', qq{
	CREATE TABLE notes (id int PRIMARY KEY, body text, summary text);
	INSERT INTO notes SELECT n, 'Note ' || n || ' on the $SECRET. More.' FROM generate_series(1, 5) n});
foreach my $case (
	[ 'the upload is refused', { method => 'POST', path => '/v1/files' }, {%echo} ],
	[ 'the create is refused', { method => 'POST', path => '/v1/batches' }, {%echo} ],
	[ 'the upload fails', { method => 'POST', path => '/v1/files' }, { %echo, status => 500 } ],
	[ 'garbage comes back', { method => 'POST', path => '/v1/files' }, { garbage => "<html>$KEY $SECRET</html>" } ],
	[ 'a poll is refused', { method => 'GET', path => '^/v1/batches/.' }, {%echo} ],
	[ 'a result file breaks off', { method => 'GET', path => '^/v1/files/.*/content' }, { cut_body_at => 300 } ])
{
	my ($name, $match, $do) = @$case;

	$sim->reset;
	$sim->fault({ %$match, times => 1 }, $do);
	$job = as('alice', q{SELECT llm_batch.submit('notes', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')});
	wait_until($node, "SELECT finished_at IS NOT NULL OR state = 'paused' AND reason <> '' FROM llm_batch.progress WHERE job_id = $job", $name);
	my $activity = sql($node, q{SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE backend_type ~ 'llm_batch'});
	unlike($activity, qr/$KEY|$SECRET/, "$name: pg_stat_activity is silent");
	as('alice', "SELECT llm_batch.resume($job)") if sql($node, "SELECT finished_at IS NULL FROM llm_batch.progress WHERE job_id = $job") eq 't';
	is(wait_job($node, $job), 'succeeded', "$name: the job ends well");
}
# a batch that fails validation, with the provider's words on it
$sim->reset;
$sim->rule({}, fail => { code => 'bad_line', message => "key $KEY: line 1: $SECRET", line => 1, param => $SECRET });
$job = as('alice', q{SELECT llm_batch.submit('notes', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')});
# each refusal names one more; whom none has named goes one by one at last
is(wait_job($node, $job), 'partial', 'a batch fails with words about its input');

# tables that pg_monitor reads, whole
$seen = all_that_is_seen('monitor');
unlike($seen, qr/$SECRET/, 'no prompt in jobs, batches, results, events or the queue');
unlike($seen, qr/$KEY/, 'no key either');
unlike(sql($node, join ' UNION ALL ', map { "SELECT r::text FROM $_ r" } grep { !/\.(workers)$/ } @relations), qr/$KEY/, 'no key in any table');
# the log, at debug1
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
like($log, qr/DEBUG/, 'the log is talkative');
unlike($log, qr/$KEY/, 'no key in the log');
my @told = grep { /$SECRET/ } split /\n/, $log;
is("@told", '', 'no prompt in the log');

# ---- owners that go ----

$sim->reset;
$sim->options(run_seconds => 3600);
$job = as('alice', "SELECT llm_batch.submit_prompts('{One.}', 'gpt-6-luna', server => 'sim')");
wait_until($node, "SELECT in_flight = 1 FROM llm_batch.progress WHERE job_id = $job", 'a job of alice flies');
# at once, lest the worker finds her without USAGE first
sql($node, 'BEGIN; DROP OWNED BY alice CASCADE; DROP USER MAPPING IF EXISTS FOR alice SERVER sim; DROP ROLE alice; COMMIT');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'it pauses when alice is dropped');
is(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), 'role "alice" does not exist any more', 'and says why');
is(as('team', 'SELECT count(*) FROM llm_batch.progress'), '0', 'her jobs are nobody\'s but the superusers\'');
sql($node, 'CREATE ROLE alice LOGIN');
note('who is given the name again gets the jobs again: roles are known by name');
check_sim($sim);

done_testing();
