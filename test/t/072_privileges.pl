# Privileges: each sentence of the guarantee, and what here tries to break it.
# (040 has the ordinary course of things.)
#
#	User code runs as the job's owner in a security-restricted		"whoever's code", "ways out"
#	operation with pinned search_path and settings
#	constraints are set immediate before the switch					"ways out" (a deferred trigger); 040
#	a statement timeout is armed around it							"a trigger that will not end"
#	at submit it runs as the caller, and meets nothing of ours		"at submit"
#	USAGE is checked at submit and at use							040; "keys and servers"
#	Row-level security hides other owners' jobs						"who sees what"
#	text and numbers are apart; pg_monitor sees numbers only		"who sees what"
#	*We* put no key and no prompt in logs, errors, events, ...		076
#	no EXECUTE and no right that should not be there; comments		073
#	functions take nothing on trust									"hostile arguments", "hostile names"
#	answers go to the table that was meant							"another table of that name"
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = start_node(conf => [ 'llm_batch.write_back_timeout = 400ms', 'track_functions = all' ]);

sql($node, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE team LOGIN;
	CREATE ROLE monitor LOGIN;
	CREATE ROLE reader LOGIN;
	GRANT alice TO team;
	GRANT pg_monitor TO monitor;
	GRANT pg_read_all_data TO reader;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE, CREATE ON SCHEMA public TO PUBLIC;
	CREATE SERVER m FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '10ms', poll_min '20ms', poll_max '50ms', retry_base '20ms');
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '1h', poll_min '20ms', poll_max '50ms');
	GRANT USAGE ON FOREIGN SERVER m, slow TO alice, mallory});

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# "SQLSTATE: message", or what came instead of an error.
sub refused
{
	my ($role, $query) = @_;
	my ($status, $out, $error) = $node->psql('postgres', $query, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return $error =~ /ERROR:  (.*)/ ? $1 : "no error: $out$error";
}

my $started = sql($node, 'SELECT pg_postmaster_start_time()');

# ---- whoever's code ----

# Every place from which code of the owner's can be called while an answer is
# written; each says who it is, and how its settings are.
as('alice', q{
	SET search_path = alice;
	CREATE TABLE found (what text, who text, path text, restricted text, timeout text);
	CREATE FUNCTION say(what text) RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		restricted text := 'no';
	BEGIN
		BEGIN
			CREATE TEMP TABLE t (x int);
			DROP TABLE t;
		EXCEPTION WHEN insufficient_privilege THEN
			restricted := 'yes';
		END;
		INSERT INTO alice.found VALUES (what, current_user, current_setting('search_path'), restricted, current_setting('lock_timeout'));
		RETURN true;
	END $$;
	CREATE DOMAIN short AS text CHECK (alice.say('a domain'));
	CREATE TYPE mood AS ENUM ('good', 'bad');
	CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say('a cast to json'); RETURN '"x"'; END $$;
	CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
	CREATE FUNCTION copy_of(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say('a generated column'); RETURN $1; END $$;
	CREATE FUNCTION indexed(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say('an index'); RETURN $1; END $$;
	CREATE FUNCTION for_default() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say('a default'); RETURN 1; END $$;
	CREATE TABLE history (id int, at int DEFAULT alice.for_default());
	CREATE TABLE ruled (x int CHECK (alice.say('a rule')));
	CREATE TABLE articles (id int PRIMARY KEY, body text, mood mood DEFAULT 'good', summary short,
		twin text GENERATED ALWAYS AS (alice.copy_of(summary)) STORED,
		CHECK (alice.say('a check')), parent int REFERENCES articles);
	CREATE INDEX ON articles (indexed(summary));
	CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say(TG_NAME); INSERT INTO alice.history (id) VALUES (NEW.id); RETURN NEW; END $$;
	CREATE TRIGGER before_row BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION on_row();
	CREATE TRIGGER after_row AFTER UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION on_row();
	CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON articles DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION on_row();
	CREATE FUNCTION on_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say(TG_NAME); RETURN NULL; END $$;
	CREATE TRIGGER before_statement BEFORE UPDATE ON articles EXECUTE FUNCTION on_statement();
	CREATE TRIGGER with_tables AFTER UPDATE ON articles REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION on_statement();
	CREATE RULE ruled AS ON UPDATE TO articles DO ALSO INSERT INTO alice.ruled VALUES (1);
	ALTER TABLE articles ENABLE ROW LEVEL SECURITY;
	ALTER TABLE articles FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON articles USING (alice.say('a policy'));
	INSERT INTO articles (id, body) SELECT n, 'Row ' || n || '. More.' FROM generate_series(1, 3) n;
	CREATE TABLE based (id int PRIMARY KEY, body text, summary text);
	INSERT INTO based SELECT id, body FROM articles;
	CREATE VIEW viewed AS SELECT id, body, summary, alice.say('a view') AS said FROM based;
	CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.say(TG_NAME); UPDATE alice.based SET summary = NEW.summary WHERE id = NEW.id; RETURN NEW; END $$;
	CREATE TRIGGER instead_of INSTEAD OF UPDATE ON viewed FOR EACH ROW EXECUTE FUNCTION instead();
	TRUNCATE found});
# an event trigger is a superuser's; it fires for what the owner's code makes
sql($node, q{
	CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO alice.found VALUES ('an event trigger', current_user, '', '', ''); END $$;
	CREATE EVENT TRIGGER ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.on_ddl();
	GRANT EXECUTE ON FUNCTION public.on_ddl() TO PUBLIC});
as('alice', q{CREATE OR REPLACE FUNCTION alice.instead() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM alice.say(TG_NAME);
		EXECUTE 'CREATE TABLE IF NOT EXISTS alice.made (x int)';
		UPDATE alice.based SET summary = NEW.summary WHERE id = NEW.id;
		RETURN NEW;
	END $$});

my $job = as('alice', q{SELECT llm_batch.submit('alice.articles', '{{body}} {{mood|json}}', 'x', 'summary', server => 'm', mode => 'batch')});
my $submitted = as('alice', 'SELECT count(*) FROM alice.found');
is(wait_job($node, $job), 'succeeded', 'a job over a table full of code ends');
my $viewed = as('alice', q{SELECT llm_batch.submit('alice.viewed', '{{body}}', 'x', 'summary', key => 'id', server => 'm', mode => 'batch')});
is(wait_job($node, $viewed), 'succeeded', 'and one over a view');
is(as('alice', 'SELECT (SELECT count(summary) FROM alice.articles), (SELECT count(summary) FROM alice.based)'), '3|3', 'all answers are there');
is(as('alice', q{SELECT string_agg(DISTINCT what, ', ' ORDER BY what) FROM alice.found WHERE path = 'pg_catalog, pg_temp'}),
	join(', ', sort('a cast to json', 'a check', 'a default', 'a domain', 'a generated column', 'a policy', 'a rule', 'a view', 'after_row',
			'an index', 'at_commit', 'before_row', 'before_statement', 'instead_of', 'with_tables')),
	'code was called in the worker from every place there is');
is(as('alice', 'SELECT string_agg(DISTINCT who, \' \') FROM alice.found'), 'alice', 'all of it as the owner, also a superuser\'s event trigger');
is(as('alice', q{SELECT DISTINCT restricted, timeout FROM alice.found WHERE path = 'pg_catalog, pg_temp'}), 'yes|10ms',
	'in a security-restricted operation, with settings that we chose');
sql($node, 'DROP EVENT TRIGGER ddl');

# ---- ways out ----

# What a trigger may try, and what comes of it: "done" where it is allowed,
# because it ends with the slice; else the SQLSTATE.
my @attempts = (
	[ 'SET ROLE postgres', '42501' ],
	[ 'SET LOCAL ROLE postgres', '42501' ],
	[ 'SET SESSION AUTHORIZATION postgres', '42501' ],
	[ 'SET SESSION AUTHORIZATION DEFAULT', '42501' ],
	[ q{SELECT set_config('role', 'none', false)}, '42501' ],
	[ q{SELECT set_config('session_authorization', 'postgres', false)}, '42501' ],
	[ 'SET session_replication_role = replica', '42501' ],
	[ 'SET log_statement = none', '42501' ],
	[ q{SET session_preload_libraries = 'x'}, '42501' ],
	[ q{LOAD '$libdir/dblink'}, '42501' ],
	[ 'CREATE TEMP TABLE job (x int)', '42501' ],
	[ 'CREATE TEMP VIEW job AS SELECT 1', '42501' ],
	[ 'CREATE TEMP SEQUENCE s', '42501' ],
	[ 'SELECT 1 AS x INTO TEMP t', '42501' ],
	[ 'CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql RETURN 1', 'done|42501' ],
	[ 'CREATE DOMAIN pg_temp.text AS pg_catalog.text', 'done|42501' ],
	[ 'CREATE TYPE pg_temp.mood AS ENUM ()', 'done|42501' ],
	[ 'CREATE OPERATOR pg_temp.= (FUNCTION = pg_catalog.int4eq, LEFTARG = int, RIGHTARG = int)', 'done|42501' ],
	[ 'LISTEN x', '0A000|42501' ],
	[ 'UNLISTEN *', '0A000|42501' ],
	[ 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', '42501' ],
	[ 'PREPARE p AS SELECT 1', 'done|42501' ],
	[ 'PREPARE TRANSACTION \'x\'', '0A000' ],
	[ 'DEALLOCATE ALL', 'done|42501' ],
	[ 'DISCARD ALL', '25001|42501' ],
	[ 'DISCARD TEMP', 'done|42501' ],
	[ 'DISCARD PLANS', 'done|42501' ],
	[ 'CLOSE ALL', 'done|24000|42501' ],
	[ 'COMMIT', '0A000' ],
	[ 'ROLLBACK', '0A000' ],
	[ 'SAVEPOINT s', '0A000' ],
	[ 'CALL alice.commits()', '2D000' ],
	[ 'DO $d$ BEGIN COMMIT; END $d$', '2D000' ],
	[ 'VACUUM', '25001' ],
	[ 'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE', '25001' ],
	[ 'SET TRANSACTION READ ONLY', 'done' ],
	[ 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY', 'done|25006' ],
	[ 'SET CONSTRAINTS ALL DEFERRED', 'done' ],
	[ 'INSERT INTO alice.later VALUES (1)', 'done' ],
	[ 'SET CONSTRAINTS ALL DEFERRED; INSERT INTO alice.later VALUES (1)', '42501' ],
	[ 'SET search_path = mallory, public', 'done' ],
	[ q{SELECT set_config('search_path', 'mallory', false)}, 'done' ],
	[ 'SET statement_timeout = 0', 'done' ],
	[ 'SET lock_timeout = 0', 'done' ],
	[ 'SET row_security = off', 'done' ],
	[ q{SET work_mem = '77MB'}, 'done' ],
	[ q{SET DateStyle = 'German'}, 'done' ],
	[ q{SET TimeZone = 'Pacific/Chatham'}, 'done' ],
	[ q{SET client_min_messages = 'debug5'}, 'done' ],
	[ 'SET llm_batch.default_server = \'x\'', 'done' ],
	[ 'SET mine.own = \'x\'', 'done' ],
	[ 'RESET ALL', 'done' ],
	[ 'SET transform_null_equals = on', 'done' ],
	[ 'SET llm_batch.enabled = off', '55P02' ],
	[ 'SET llm_batch.max_prompt_size = \'1GB\'', '42501' ],
	[ 'SELECT pg_advisory_lock(4711)', 'done' ],
	[ 'SELECT pg_advisory_lock_shared(4712)', 'done' ],
	[ 'SELECT pg_advisory_unlock_all()', 'done' ],
	[ 'SELECT pg_terminate_backend(pg_backend_pid())', '42501' ],
	[ 'SELECT pg_cancel_backend(pg_backend_pid())', '42501' ],
	[ 'SELECT pg_reload_conf()', '42501' ],
	[ 'SELECT pg_log_backend_memory_contexts(pg_backend_pid())', '42501' ],
	[ q{SELECT lo_import('/etc/passwd')}, '42501' ],
	[ q{SELECT lo_export(1, '/tmp/x')}, '42501' ],
	[ 'SELECT lo_open(lo_create(0), 393216)', 'done' ],
	[ q{SELECT pg_read_file('postgresql.conf')}, '42501' ],
	[ q{SELECT pg_ls_dir('.')}, '42501' ],
	[ q{COPY alice.found TO '/tmp/x'}, '42501' ],
	[ 'COPY alice.found TO PROGRAM \'true\'', '42501' ],
	[ 'COPY alice.found TO STDOUT', '0A000' ],
	[ 'CREATE ROLE eve SUPERUSER', '42501' ],
	[ 'GRANT postgres TO alice', '42501' ],
	[ 'ALTER ROLE alice SUPERUSER', '42501' ],
	[ 'CREATE EXTENSION lo', '42501' ],
	[ 'ALTER TABLE llm_batch.job DISABLE ROW LEVEL SECURITY', '42501' ],
	[ 'UPDATE llm_batch.job SET owner = \'mallory\'', '42501' ],
	[ 'LOCK TABLE llm_batch.job IN ACCESS EXCLUSIVE MODE', '42501' ],
	[ 'LOCK TABLE llm_batch.job IN ACCESS SHARE MODE', 'done' ],
	[ 'ALTER TABLE alice.targets DROP COLUMN summary', '55006' ],
	[ 'DROP TABLE alice.targets CASCADE', '55006' ],
	[ 'TRUNCATE alice.targets', '55006' ],
	[ q{SELECT dblink_connect('dbname=postgres')}, '42883' ],
	[ q{SELECT pg_notify('x', 'y')}, 'done' ]);

as('alice', q{
	CREATE PROCEDURE alice.commits() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
	CREATE TABLE alice.later (id int);
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON alice.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alice.on_row();
	CREATE TABLE alice.targets (id int PRIMARY KEY, body text, summary text);
	INSERT INTO alice.targets VALUES (1, 'One.', NULL);
	CREATE TABLE alice.tried (n int, statement text, outcome text);
	CREATE FUNCTION alice.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE statement;
		RETURN 'done';
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLSTATE;
	END $$;
	CREATE TABLE alice.attempts (n int, statement text);
	-- one statement for each time it is written: what it did must be gone then
	CREATE FUNCTION alice.escape() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		state text := concat_ws(' ', current_user, session_user, current_setting('search_path'), current_setting('statement_timeout'),
			current_setting('work_mem'), current_setting('DateStyle'), current_setting('session_replication_role'), current_setting('row_security'),
			current_setting('transaction_read_only'), current_setting('default_transaction_read_only'), COALESCE(current_setting('mine.own', true), ''),
			current_setting('client_min_messages'), current_setting('transform_null_equals'), (SELECT count(*) FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::regclass AND refobjid = pg_my_temp_schema()),
			(SELECT count(*) FROM pg_catalog.pg_prepared_statements), (SELECT count(*) FROM pg_catalog.pg_cursors WHERE is_holdable),
			(SELECT count(*) FROM pg_catalog.pg_listening_channels()),
			(SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid IN (1, 2)));
		attempt alice.attempts;
		outcome text;
	BEGIN
		FOR attempt IN SELECT * FROM alice.attempts a WHERE n = NEW.id LOOP
			outcome := alice.attempt(attempt.statement);
			-- read-only as it may be now
			PERFORM alice.remember(attempt.n, attempt.statement, outcome || ' as ' || current_user);
		END LOOP;
		PERFORM alice.remember(0, state, '');
		RETURN NEW;
	END $$;
	CREATE FUNCTION alice.remember(int, text, text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO alice.tried VALUES ($1, $2, $3);
	EXCEPTION WHEN read_only_sql_transaction THEN
		NULL;
	END $$});
{
	my $rows = join ', ', map { "($_, " . quote($attempts[ $_ - 1 ][0]) . ')' } 1 .. @attempts;

	as('alice', "INSERT INTO alice.attempts VALUES $rows; TRUNCATE alice.targets; INSERT INTO alice.targets SELECT n, 'Row ' || n || '.' FROM alice.attempts");
}
as('alice', 'CREATE TRIGGER escape BEFORE UPDATE ON alice.targets FOR EACH ROW EXECUTE FUNCTION alice.escape()');
# each row in a slice of its own, all of them by one worker
$node->append_conf('postgresql.conf', 'llm_batch.write_back_rows = 1');
$node->reload;
my $worker = worker_pid($node);
$job = as('alice', q{SELECT llm_batch.submit('alice.targets', '{{body}}', 'x', 'summary', server => 'm', mode => 'batch')});
is(wait_job($node, $job), 'succeeded', 'a job whose trigger tries all ways out ends');
is(worker_pid($node), $worker, 'in the same worker');
$node->append_conf('postgresql.conf', 'llm_batch.write_back_rows = 100');
$node->reload;
my %outcome = map { split /\|/, $_, 2 } split /\n/, as('alice', 'SELECT n, outcome FROM alice.tried WHERE n > 0');
foreach my $n (1 .. @attempts)
{
	my ($statement, $expected) = @{ $attempts[ $n - 1 ] };

	# what made the transaction read-only could not be written down
	next if $statement =~ /READ ONLY/ && !defined $outcome{$n};
	like($outcome{$n} // 'nothing', qr/^(?:$expected) as alice$/, "in a trigger: $statement");
}
is(as('alice', 'SELECT count(DISTINCT statement) FROM alice.tried WHERE n = 0'), '1', 'each began as the one before had: nothing outlives its slice')
  or diag(as('alice', 'SELECT statement, count(*) FROM alice.tried WHERE n = 0 GROUP BY 1'));
like(as('alice', 'SELECT min(statement) FROM alice.tried WHERE n = 0'), qr/^alice postgres pg_catalog, pg_temp 0 .* 0 0 0 0$/,
	'with no temporary schema, prepared statement, held cursor, channel or lock');
is(sql($node, 'SELECT count(*), min(objsubid) FROM pg_locks WHERE locktype = \'advisory\' AND database = (SELECT oid FROM pg_database WHERE datname = \'postgres\')'),
	'1|27746', 'the worker holds its own lock and no other');
is(sql($node, 'SELECT count(*) FROM pg_stat_activity WHERE backend_type = \'llm_batch worker\''), '1', 'and is the only one');
is(sql($node, q{SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper}), 'postgres', 'there is no new superuser');
as('alice', 'DROP TRIGGER escape ON alice.targets');

# ---- a trigger that will not end ----

# It lifts the timeout, and catches its cancel.
as('alice', q{
	CREATE FUNCTION alice.stubborn() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.id <> 7 THEN
			RETURN NEW;
		END IF;
		PERFORM set_config('statement_timeout', '0', false);
		LOOP
			BEGIN
				PERFORM pg_sleep(3600);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		END LOOP;
	END $$;
	UPDATE alice.targets SET summary = NULL;
	CREATE TRIGGER stubborn BEFORE UPDATE ON alice.targets FOR EACH ROW EXECUTE FUNCTION alice.stubborn()});
$worker = worker_pid($node);
my $count = @attempts;
$job = as('alice', q{SELECT llm_batch.submit('alice.targets', '{{body}}', 'x', 'summary', server => 'm', mode => 'batch', filter => 'id < 20')});
wait_until($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND pid <> $worker)", 'a trigger that catches its cancel ends the worker, and another comes');
my $other = as('mallory', q{SELECT llm_batch.submit_prompts('{One.}', 'x', server => 'm', mode => 'batch')});
is(wait_job($node, $other, limit => 20), 'succeeded', 'jobs of others go on');
is(wait_job($node, $job), 'failed', 'this one ends, and is not tried again and again');
like(as('alice', "SELECT DISTINCT error_code || ' ' || error FROM llm_batch.results WHERE job_id = $job"), qr/^write_back .*could not be cancelled/, 'its answers are kept, with the reason');
as('alice', 'DROP TRIGGER stubborn ON alice.targets');
as('alice', "SELECT llm_batch.apply($job)");
is(wait_job($node, $job), 'succeeded', 'and written when the trigger is gone and somebody says so');

# ---- a commit that fails ----

# What another server defers to the end cannot be set immediate from here.
SKIP:
{
	skip 'no postgres_fdw here', 7 if sql($node, q{SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'}) eq '0';
	my ($host, $port) = ($node->host, $node->port);

	sql($node, 'CREATE DATABASE remote');
	$node->safe_psql('remote', q{
		CREATE TABLE t (id int PRIMARY KEY, body text, summary text);
		INSERT INTO t VALUES (1, 'One.', NULL), (2, 'Two.', NULL);
		CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not at the end'; END $$;
		CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()});
	sql($node, qq{
		CREATE EXTENSION postgres_fdw;
		CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'remote');
		CREATE USER MAPPING FOR postgres SERVER away OPTIONS (user 'postgres');
		CREATE FOREIGN TABLE far (id int NOT NULL, body text, summary text) SERVER away OPTIONS (table_name 't')});
	foreach my $mode (qw(batch realtime))
	{
		my $far = sql($node, qq{SELECT llm_batch.submit('far', '{{body}}', 'x', 'summary', key => 'id', server => 'm', mode => '$mode')});

		is(wait_job($node, $far), 'failed', "$mode: a job whose answers cannot be committed ends");
		is(sql($node, "SELECT count(answer), min(error_code) FROM llm_batch.results WHERE job_id = $far"), '2|write_back', "$mode: and has them stored");
		next if $mode eq 'batch';
		$node->safe_psql('remote', 'DROP TRIGGER no ON t');
		sql($node, "SELECT llm_batch.apply($far)");
		is(wait_job($node, $far), 'succeeded', 'to be written when that is mended');
		is($node->safe_psql('remote', 'SELECT count(summary) FROM t'), '2', 'as they are');
	}
	is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE kind = 'barred' AND message ~ 'could not be committed'"), '2', 'the events say so');
	sql($node, 'DROP EXTENSION postgres_fdw CASCADE');
}

# ---- at submit ----

# The caller's own query, filter, policy and casts run as the caller, in a
# session of the caller's; they can spoil nothing but that.
as('alice', q{
	CREATE FUNCTION alice.who(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO alice.found VALUES (what, current_user); RETURN true; END $$;
	TRUNCATE alice.found;
	GRANT USAGE ON SCHEMA alice TO mallory; GRANT EXECUTE ON FUNCTION alice.who(text) TO mallory;
	CREATE FUNCTION alice.closer(alice.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CLOSE ALL'; RETURN '1'; END $$;
	DROP CAST (alice.mood AS json);
	CREATE CAST (alice.mood AS json) WITH FUNCTION alice.closer(alice.mood)});
$job = as('alice', q{SELECT llm_batch.submit('alice.targets', '{{body}}', 'x', server => 'slow', filter => $$alice.who('filter')$$, "limit" => 2)});
as('alice', q{SELECT llm_batch.submit_query($$SELECT 1 AS key, 'x' AS prompt WHERE alice.who('query')$$, 'x', server => 'slow')});
is(as('alice', q{SELECT string_agg(DISTINCT what || ' ' || who, ', ' ORDER BY what || ' ' || who) FROM alice.found}), 'filter alice, query alice', 'filter and query run as the caller');
like(refused('alice', q{SELECT llm_batch.submit('alice.articles', '{{mood|json}}', 'x', server => 'slow')}), qr/^24000: cannot drop pinned portal/,
	'a cast that closes all cursors gets an error, and no crash');
foreach my $case (
	[ 'a setting', q{set_config('search_path', 'mallory', false) = 'x'}, 'no error' ],
	[ 'a failing function', q{1 / 0 = 1}, '22012' ],
	[ 'a nested submit', q{llm_batch.submit_prompts('{x}', 'x', server => 'slow') > 0}, 'no error' ],
	[ 'a second statement', q{true; DROP TABLE alice.targets}, '42601' ],
	[ 'a comment that eats the rest', q{true --}, 'no error' ],
	[ 'an open comment', q{true /*}, '42601' ],
	[ 'a parenthesis', q{true) OR (true}, '42601' ],
	[ 'a union', q{true UNION SELECT true}, '42601' ],
	[ 'a row source', q{true FROM alice.articles}, '42601' ],
	[ 'an ordering', q{true ORDER BY 1}, '42601' ],
	[ 'a lock', q{true FOR UPDATE}, '42601' ],
	[ 'a subquery', q{EXISTS (SELECT FROM llm_batch.prompt WHERE job_id = 1)}, 'no error' ],
	[ 'writing', q{EXISTS (WITH d AS (DELETE FROM alice.targets RETURNING 1) SELECT FROM d)}, '0A000' ],
	[ 'nothing', '', '42601' ],
	[ 'a string without end', q{'}, '42601' ],
	[ 'a dollar', q{$1}, '42P02' ])
{
	my ($what, $filter, $expected) = @$case;

	like(refused('alice', "SELECT llm_batch.submit('alice.targets', '{{body}}', 'x', server => 'slow', filter => " . quote($filter) . ')'), qr/^$expected/, "a filter: $what");
}
foreach my $query ('SELECT 1 AS key, 2 AS prompt; SELECT 1', 'DELETE FROM alice.targets', 'COMMIT', 'CALL alice.commits()', 'COPY alice.targets TO STDOUT',
	'EXPLAIN SELECT 1', 'SELECT 1 AS key, 1 AS prompt INTO alice.t', 'SET ROLE postgres', 'SHOW search_path', 'DO $$ BEGIN END $$', "EXECUTE x", 'FETCH ALL FROM c')
{
	like(refused('alice', 'SELECT llm_batch.submit_query(' . quote($query) . ", 'x', server => 'slow')"), qr/^42601: the query must be/, "a query: $query");
}
# SECURITY DEFINER: the owner is who it runs as
as('alice', q{
	CREATE FUNCTION alice.for_others() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
		$$ SELECT llm_batch.submit_prompts('{x}', 'x', server => 'slow') $$;
	GRANT EXECUTE ON FUNCTION alice.for_others() TO bob;
	GRANT USAGE ON SCHEMA alice TO bob});
my $lent = as('bob', 'SELECT alice.for_others()');
is(sql($node, "SELECT owner FROM llm_batch.progress WHERE job_id = $lent"), 'alice', 'a function of alice\'s submits for alice');
is(as('bob', "SELECT count(*) FROM llm_batch.progress WHERE job_id = $lent"), '0', 'and who called it does not see the job');
like(refused('bob', "SELECT llm_batch.submit_prompts('{x}', 'x', server => 'slow')"), qr/^42501: permission denied for foreign server slow/, 'nor may spend himself');
# settings that would change what our own statements mean
my $strings = sql($node, 'SHOW server_version_num') >= 190000 ? '' : 'SET standard_conforming_strings = off; SET escape_string_warning = off;';
$job = as('alice', $strings . q{
	SET transform_null_equals = on; SET array_nulls = off; SET quote_all_identifiers = on;
	SET DateStyle = 'German, DMY'; SET row_security = off; SET xmloption = document; SET constraint_exclusion = on; SET lc_numeric = 'C';
	SET search_path = mallory, public; SET default_table_access_method = 'heap'; SET default_with_oids = off;
	SELECT llm_batch.submit('alice.targets', 'N''{{body}}', 'x', 'summary', server => 'm', "limit" => 2)});
is(wait_job($node, $job), 'succeeded', 'settings of the session do not change what our statements mean');

# ---- keys and servers ----

my $sim = start_sim();
my $url = $sim->base_url;
sql($node, qq{
	GRANT USAGE ON FOREIGN DATA WRAPPER llm_batch TO bob;
	CREATE SERVER shared FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '$url', poll_min '50ms', poll_max '100ms', retry_base '20ms', retry_max '50ms', realtime_threshold '0');
	GRANT USAGE ON FOREIGN SERVER shared TO alice, mallory;
	CREATE USER MAPPING FOR PUBLIC SERVER shared OPTIONS (api_key 'sk-public')});
# the own mapping goes first; without it that for PUBLIC serves
as('alice', q{CREATE USER MAPPING FOR alice SERVER shared OPTIONS (api_key 'sk-alice')});
$sim->options(keys => 'sk-alice');
$job = as('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'gpt-6-luna', server => 'shared')});
is(wait_job($node, $job), 'succeeded', 'a role\'s own key goes before that of PUBLIC');
$sim->options(keys => 'sk-public');
$job = as('mallory', q{SELECT llm_batch.submit_prompts('{One.}', 'gpt-6-luna', server => 'shared')});
is(wait_job($node, $job), 'succeeded', 'who has none goes by that of PUBLIC');
as('alice', 'DROP USER MAPPING FOR alice SERVER shared');
$job = as('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'gpt-6-luna', server => 'shared')});
is(wait_job($node, $job), 'succeeded', 'also who had one and dropped it');
$sim->options(keys => '');
is(as('mallory', q{SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL}), '0', 'nobody but its role, and for PUBLIC the server\'s owner, reads a key');
like(refused('mallory', 'SELECT umoptions FROM pg_user_mapping'), qr/^42501/, 'the catalog itself is shut');
like(refused('mallory', q{CREATE USER MAPPING FOR alice SERVER shared OPTIONS (api_key 'x')}), qr/^42501/, 'nobody gives another a key');
like(refused('mallory', q{ALTER USER MAPPING FOR PUBLIC SERVER shared OPTIONS (SET api_key 'x')}), qr/^42501/, 'nor changes that of all');
like(refused('mallory', q{CREATE USER MAPPING FOR mallory SERVER shared OPTIONS (api_key_file '/etc/passwd')}), qr/^42501: only a superuser may set option "api_key_file"/, 'nor reads a file of the server\'s');
like(refused('mallory', q{ALTER SERVER shared OPTIONS (SET base_url 'https://evil.example')}), qr/^42501: must be owner/, 'who does not own a server does not turn it elsewhere');
like(refused('mallory', q{CREATE SERVER evil FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://evil.example')}), qr/^42501/, 'nor makes one without USAGE of the wrapper');
as('bob', q{CREATE SERVER bobs FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://api.example.com')});
foreach my $case (
	[ q{SET base_url 'http://127.0.0.1:9'}, '42501' ], [ q{SET base_url 'https://localhost/'}, '42501' ], [ q{SET base_url 'https://[::1]/'}, '42501' ],
	[ q{SET base_url 'https://127.1/'}, '42501' ],
	[ q{SET base_url 'https://[::ffff:127.0.0.1]/'}, '42501' ],
	[ q{SET base_url 'http://example.com'}, 'HV024' ], [ q{SET base_url 'https://user:pw@example.com'}, 'HV024' ], [ q{SET base_url 'file:///etc/passwd'}, 'HV024' ],
	[ q{SET base_url 'https://example.com#@evil.example'}, 'HV024' ], [ q{SET base_url E'https://example.com\r\nX: y'}, 'HV024' ],
	[ q{ADD proxy 'http://evil.example'}, '42501' ], [ q{ADD ca_file '/etc/passwd'}, '42501' ], [ q{ADD headers 'X-A: b'}, '42501' ])
{
	like(refused('bob', "ALTER SERVER bobs OPTIONS ($case->[0])"), qr/^$case->[1]/, "the owner of a server, no superuser: $case->[0]");
}
# what merely resolves to a loopback address is stopped when the connection is made
sql($node, q{CREATE USER MAPPING FOR bob SERVER bobs OPTIONS (api_key 'x')});
foreach my $host (qw(0 2130706433 0x7f.1 LOCALHOST.))
{
	as('bob', "ALTER SERVER bobs OPTIONS (SET base_url 'https://$host:" . $sim->port . "/v1')");
	like(refused('bob', q{CALL llm_batch.check_server('bobs')}), qr/loopback|could not resolve/, "no call to https://$host");
}
foreach my $header ('Authorization: Bearer sk-1', 'authorization:x', "X-Team: a\nx-api-key: sk-1", 'X-Goog-Api-Key: sk-1', 'Cookie: a=b', 'api-key: 1')
{
	like(refused('postgres', 'ALTER SERVER bobs OPTIONS (ADD headers ' . quote($header) . ')'), qr/^HV024: option "headers" must not hold the header/, 'a key is not left where all can read it');
}

# ---- who sees what ----

# Words of a job of alice's, in every place that takes any.
sql($node, q{CREATE TABLE alice.secret (id text PRIMARY KEY, body text, summary text); ALTER TABLE alice.secret OWNER TO alice;
	INSERT INTO alice.secret VALUES ('words-key', 'words-row.', NULL); GRANT UPDATE ON alice.secret TO alice});
$sim->rule({}, items => [ { do => { status_code => 400, error => { message => 'words-error', code => 'x' } } } ]);
$job = as('alice', q{SELECT llm_batch.submit('alice.secret', 'words-template {{body}}', 'gpt-6-luna', 'summary', server => 'shared', mode => 'batch', system => 'words-system',
	params => '{"stop": "words-params"}', schema => '{"type": "object", "title": "words-schema", "properties": {"summary": {"type": "string"}}, "required": ["summary"], "additionalProperties": false}', labels => '{"who": "own-labels"}', request_key => 'own-request')}) // '';
wait_job($node, $job);
$sim->reset;
my $good = as('alice', q{SELECT llm_batch.submit('alice.secret', 'words-template {{body}}', 'gpt-6-luna', 'summary', server => 'shared', mode => 'batch', labels => '{"who": "own-labels"}')});
is(wait_job($node, $good), 'succeeded', 'jobs to look at');
my $waiting = as('alice', q{SELECT llm_batch.submit('alice.secret', 'words-template {{body}}', 'x', server => 'slow', mode => 'batch', labels => '{"who": "own-labels"}')});
sql($node, 'ANALYZE');
my @relations = split /\n/, sql($node, q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1});
my @readable = split /\n/, as('mallory', q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind IN ('r', 'v')
	AND has_table_privilege(oid, 'SELECT') ORDER BY 1});

sub all_seen_by
{
	my ($role, $before) = @_;
	return as($role, ($before // '') . join ' UNION ALL ', map { "SELECT '$_ ' || to_json(r)::text FROM $_ r" } @readable);
}
my $mine = all_seen_by('alice');
like($mine, qr/$_/, "the owner sees $_") foreach qw(words-key words-template words-system words-params words-schema own-labels own-request words-row);
my $of_owner = qr/words-|own-|"owner":"alice"|"job_id":(?:$job|$good|$waiting)\b/;
foreach my $role (qw(mallory reader bob))
{
	my @seen = grep { /$of_owner/ } split /\n/, all_seen_by($role);

	is("@seen", '', "$role sees nothing of them in any table or view");
}
like(all_seen_by('team'), qr/words-template.*own-labels/s, 'a member of the owner\'s role sees it all');
my @of_others = grep { !/"owner":"alice"|llm_batch\.(model|workers|metrics|health) / && /"owner":/ } split /\n/, $mine;
is("@of_others", '', 'and the owner nothing of others');
my $numbers = all_seen_by('monitor');
unlike($numbers, qr/words-/, 'pg_monitor sees no text: no prompt, key, answer, error, template or schema');
like($numbers, qr/"job_id":$good\b/, 'but the jobs');
foreach my $relation (@readable)
{
	next if sql($node, "SELECT relkind = 'v' OR NOT relrowsecurity FROM pg_class WHERE oid = '$relation'::regclass") eq 't';
	like(refused('mallory', "SET row_security = off; SELECT count(*) FROM $relation"), qr/^42501: query would be affected by row-level security/, "$relation cannot be read without its policies");
}
# sums, too, are of what one may see
is(as('mallory', q{SELECT sum(value) FROM llm_batch.metrics WHERE name = 'llm_batch_items_total' AND labels->>'server' = 'shared'}), '1', 'metrics count the items of who asks');
isnt(as('monitor', q{SELECT sum(value) FROM llm_batch.metrics WHERE name = 'llm_batch_items_total' AND labels->>'server' = 'shared'}), '1', 'but for pg_monitor');
is(as('mallory', q{SELECT sum(attempts) FROM llm_batch.costs WHERE server = 'shared'}), '1', 'so do costs');
is(as('reader', q{SELECT count(*) FROM llm_batch.health WHERE server IN ('shared', 'slow', 'm')}), '0', 'a server that one may not use is not shown');
# a function that tells what it is given, cheaper than anything, and an operator of it, on each column of each view and table
my $columns = sql($node, q{
	SELECT a.attrelid::regclass || ' ' || quote_ident(a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'llm_batch'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT attisdropped});
my $peek = q{
	CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
	CREATE FUNCTION mallory.tell(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
	CREATE OPERATOR mallory.<<< (FUNCTION = mallory.tell, LEFTARG = text, RIGHTARG = text);};
my %may = map { $_ => 1 } @readable;
foreach my $line (split /\n/, $columns)
{
	my ($relation, $column) = split / /, $line, 2;

	next if !$may{$relation};
	$peek .= "SELECT count(*) FROM $relation WHERE pg_temp.tell($column\::text);\n";
	$peek .= "SELECT count(*) FROM $relation WHERE $column\::text OPERATOR(mallory.<<<) 'x' AND $column\::text <> 'y';\n";
}
my ($status, $out, $told) = $node->psql('postgres', $peek, extra_params => [ '-U', 'mallory' ]);
is($status, 0, 'leaky functions and operators were tried on every column');
my @leaked = grep { /leaked .*(?:words-|own-|alice)/ } split /\n/, $told;
is("@leaked", '', 'and were told nothing of others');
like($told, qr/leaked/, 'while they work on what one may see');
is(as('mallory', q{SELECT count(*) FROM pg_stats WHERE schemaname = 'llm_batch' AND tablename NOT IN ('model', 'preset', 'pii_pattern')}), '0', 'the planner\'s statistics show nothing');
is(as($_, "SELECT count(*) FROM llm_batch.progress WHERE job_id = $good"), '0', "$_ has no way in by the number of a job") foreach qw(mallory reader);
foreach my $call ("llm_batch.cancel($waiting)", "llm_batch.pause($waiting)", "llm_batch.resume($waiting)", "llm_batch.resume($waiting, true)", "llm_batch.retry($job)", "llm_batch.apply($job)")
{
	foreach my $role (qw(mallory monitor reader))
	{
		my $said = refused($role, "SELECT $call");
		my $none = refused($role, "SELECT " . ($call =~ s/\d+/999999/r));

		is($said =~ s/job \d+/job/r, $none =~ s/job \d+/job/r, "$role: $call says what it says of a job that does not exist");
	}
}
as('alice', "SELECT llm_batch.cancel($waiting)");
# roles that do not inherit, roles that are gone
sql($node, 'CREATE ROLE apart LOGIN NOINHERIT; GRANT alice TO apart');
is(as('apart', 'SELECT count(*) FROM llm_batch.progress'), '0', 'a member that does not inherit sees nothing');
isnt(as('apart', 'SET ROLE alice; SELECT count(*) FROM llm_batch.progress'), '0', 'until it becomes the owner');

# ---- hostile arguments ----

# Straight to the functions, of which some are meant for our own statements;
# an answer, or an error that a person can read, never an internal one.
my $deep = q{(repeat('[', 100000) || repeat(']', 100000))};
foreach my $case (
	[ q~llm_batch.prompt_hash(NULL::text, 1)~, '' ], [ q~llm_batch.prompt_hash('{{a}}{{b}}', 1)~, '22023' ], [ q~llm_batch.prompt_hash('{{a}}', 1, 2)~, '22023' ],
	[ q~llm_batch.prompt_hash('{{a}}', VARIADIC ARRAY[1])~, '0A000' ], [ q~llm_batch.prompt_text('{{a}}', NULL)~, '' ],
	[ q~llm_batch.prompt_text('{{a|json}}', c) IS NOT NULL FROM pg_class c LIMIT 1~, 't' ],
	[ q~llm_batch.prompt_text('{{', 1)~, '22023' ], [ q~llm_batch.prompt_text('{{a|xml}}', 1)~, '22023' ],
	[ q~llm_batch.render('{{a}}', ROW(1))~, '42703' ], [ q~llm_batch.render(NULL, ROW(1))~, '' ], [ q~llm_batch.render('x', NULL)~, '' ], [ q~llm_batch.render('{{f1}}', ROW(ROW(1)))~, '\(1\)' ],
	[ q~llm_batch.render((SELECT string_agg('{{c' || n || '}}', '') FROM generate_series(1, 100000) n), ROW(1))~, '54011' ],
	[ q~llm_batch.may_see(NULL)~, '' ], [ q~llm_batch.may_see('')~, 'f' ], [ q~llm_batch.may_see('postgres')~, 'f' ], [ q~llm_batch.may_see('nobody at all')~, 'f' ],
	[ qq~llm_batch.answer_json($deep)~, '' ], [ q~llm_batch.answer_json(repeat('{"a":', 100000))~, '' ], [ q~llm_batch.answer_json('{"a": 1e999999}')~, '' ],
	[ q~llm_batch.answer_json(E'{"a": "\\\\u0000"}')~, '\{.*' ], [ q~llm_batch.answer_json(repeat('{', 1000000))~, '' ],
	[ q~(llm_batch.worker_status()).state IS NOT NULL~, 't' ],
	[ q~llm_batch.price(NULL, NULL, NULL)~, '' ], [ q~llm_batch.price('m', 'x', -1)~, '22023' ],
	[ q~llm_batch.price('m', 'x', 9223372036854775807, 9223372036854775807)~, '0' ], [ q~llm_batch.price('m', 'x', 1, mode => '')~, '22023' ],
	[ q~llm_batch.cancel(NULL)~, '' ], [ q~llm_batch.cancel(-9223372036854775808)~, '42704' ], [ q~llm_batch.retry(NULL)~, '' ], [ q~llm_batch.retry(0, ARRAY[[NULL]]::text[])~, '42704' ],
	[ qq~llm_batch.retry($job, ARRAY[[NULL, 'x']]::text[])~, '22023' ], [ qq~llm_batch.retry($job, array_fill('x'::text, '{1000}'))~, '22023' ],
	[ q~llm_batch.submit(NULL, 'x', 'x')~, '22004' ], [ q~llm_batch.submit(0, 'x', 'x', server => 'slow')~, '42P01' ], [ q~llm_batch.submit(4294967295::oid, 'x', 'x', server => 'slow')~, '42P01' ],
	[ q~llm_batch.submit('pg_class_oid_index', 'x', 'x', server => 'slow')~, '42809' ], [ q~llm_batch.submit('pg_authid', '{{rolpassword}}', 'x', server => 'slow')~, '42501' ],
	[ q~llm_batch.submit('pg_class', '{{relname}}', 'x', 'relname', server => 'slow')~, '22023|42501' ], [ q~llm_batch.submit('llm_batch.job', '{{owner}}', 'x', 'reason', server => 'slow')~, '42501' ],
	[ q~llm_batch.submit('llm_batch.prompt', '{{prompt}}', 'x', server => 'slow', "limit" => 0)~, '\d+psql' ],
	[ q~llm_batch.submit('alice.targets', '{{body}}', 'x', server => 'slow', "limit" => -1)~, '22023' ], [ q~llm_batch.submit('alice.targets', '{{tableoid}}', 'x', server => 'slow')~, '42703' ],
	[ q~llm_batch.submit('alice.targets', '{{body}}', 'x', 'ctid', server => 'slow')~, '42703' ], [ q~llm_batch.submit('alice.targets', '{{body}}', 'x', '""', server => 'slow')~, '42703' ],
	[ q~llm_batch.submit('alice.targets', '{{body}}', 'x', key => repeat('id,', 100000), server => 'slow')~, '22023|42701' ],
	[ q~llm_batch.submit('alice.targets', repeat('{{body}}' || repeat('x', 60), 300000), 'x', server => 'slow', "limit" => 1)~, '54000' ],
	[ q~llm_batch.submit_prompts(NULL, 'x')~, '22004' ], [ q~llm_batch.submit_prompts('{}', NULL)~, '22004' ], [ q~llm_batch.submit_prompts(ARRAY[NULL], 'x', server => 'slow')~, '22004' ],
	[ q~llm_batch.submit_prompts(ARRAY[repeat('x', 17000000)], 'x', server => 'slow')~, '54000' ], [ q~llm_batch.submit_prompts('{x}', repeat('x', 1000000), server => 'slow')~, '54000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', labels => jsonb_build_object('a', repeat('x', 1000000)))~, '54000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', request_key => repeat('x', 10000))~, '54000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', system => repeat('x', 17000000))~, '54000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', params => '[]')~, '22023' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', params => '{"temperature": 1e400}')~, '22023' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', schema => (repeat('{"a":', 3000) || '1' || repeat('}', 3000))::jsonb)~, '\d+' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', schema => '{"$ref": "#"}')~, '\d+|22023|0A000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', mode => NULL)~, '22023' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', pack => -2147483648)~, '0A000' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', deadline => '-1 year')~, '22023' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', deadline => '178000000 years')~, '22008' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', max_cost => 'NaN')~, '22023' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', max_cost => 'Infinity')~, '22023' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', max_cost => -1)~, '22023' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', priority => -2147483648)~, '\d+' ],
	[ q~llm_batch.submit_prompts('{x}', 'x', server => 'slow', priority => 2147483647)~, '\d+' ], [ q~llm_batch.submit_prompts('{x}', 'x', server => 'nowhere')~, '42704' ],
	[ q~llm_batch.submit_query(NULL, 'x')~, '22004' ], [ q~llm_batch.submit_query('SELECT 1', 'x', server => 'slow')~, '42703' ],
	[ q~llm_batch.submit_query('SELECT 1 AS key, $$x$$ AS prompt, $${}$$::jsonb AS messages', 'x', server => 'slow')~, '22023' ],
	[ q~llm_batch.submit_query('SELECT 1 AS key, NULL AS prompt', 'x', server => 'slow')~, '22004' ], [ q~llm_batch.submit_query('SELECT NULL AS key, 1 AS prompt', 'x', server => 'slow')~, '22004' ],
	[ q~count(*) FROM llm_batch.preview('alice.targets', '{{body}}', 'x', server => 'slow', n => 2147483647)~, '\d+' ], [ q~count(*) FROM llm_batch.preview('alice.targets', '{{body}}', 'x', server => 'slow', n => -1)~, '22023' ],
	[ q~llm_batch.validator('{a=b}', 0)~, '42501' ], [ q~count(*) FROM llm_batch.server_health()~, '\d+' ],
	[ q~llm_batch.time_left(NULL, NULL, NULL, NULL, NULL)~, '' ], [ q~llm_batch.time_left('m', 'x', -2147483648, 2147483647, 'infinity')~, '.*' ],
	[ q~llm_batch.time_left('m', 'x', 2147483647, -2147483648, '-infinity')~, '.*' ])
{
	my ($call, $expected) = @$case;
	my $said = refused('alice', "SELECT $call");

	like($said, qr/^(?:no error: )?(?:$expected)(?::|\n|$)/, 'hostile: ' . (length $call > 110 ? substr($call, 0, 110) . '...' : $call));
	unlike($said, qr/^XX000/, 'not an internal error') if $said =~ /^XX/;
}
# a template that would take for ever does not outlast a signal
my $before = time;
like(refused('alice', q{SELECT set_config('mine.template', string_agg('{{c' || n % 1600 || '}}', ''), false) IS NULL FROM generate_series(1, 1000000) n; SET statement_timeout = '300ms'; SELECT llm_batch.prompt_hash(current_setting('mine.template'), 1)}), qr/^57014/, 'a template of millions of columns can be cancelled');
cmp_ok(time - $before, '<', 30, 'at once');
# many items
$job = as('alice', q{SELECT llm_batch.submit_prompts(array_fill('x'::text, '{20000}'), 'x', server => 'slow')});
is(as('alice', "SELECT total FROM llm_batch.progress WHERE job_id = $job"), '20000', 'many prompts');
as('alice', "SELECT llm_batch.cancel($job)");
is(sql($node, 'SELECT pg_postmaster_start_time()'), $started, 'the server has not crashed meanwhile');

# ---- hostile names ----

# Names that would be SQL, formats, templates, arrays or JSON if they were not quoted.
my @names = ("a'; DROP TABLE alice.targets; --", 'a"b', 'a%s%n', 'a{{b}}', 'a\\', "a\nb", '{a,b}', 'a,b', "\$1", 'a.b', ' a ', "select", "\xc3\xa4\xe2\x82\xac", 'null', '"');
foreach my $name (@names)
{
	my $quoted = '"' . ($name =~ s/"/""/gr) . '"';
	# in a template a name stands as it is: what holds braces or bars, or is framed by blanks, cannot stand there
	my $column = $name =~ /[{}|]|^\s|\s$/ ? 'plain' : $name;
	my $in_template = '"' . ($column =~ s/"/""/gr) . '"';
	my $source = quote("$quoted.$quoted");
	my $label = quote($name);
	my $template = quote("Say: {{$column}} and $name" =~ s/\{\{(?!\Q$column\E\}\})/{{{{/gr);

	my ($k, $k2, $t, $o) = map { '"' . $_ . ($name =~ s/"/""/gr) . '"' } qw(k k2 t o);

	sql($node, qq{
		CREATE ROLE $quoted LOGIN;
		CREATE SCHEMA $quoted AUTHORIZATION $quoted;
		CREATE SERVER $quoted FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '10ms', poll_min '20ms', poll_max '20ms');
		GRANT USAGE ON FOREIGN SERVER $quoted TO $quoted;
		SET ROLE $quoted;
		CREATE TYPE $quoted.$t AS ENUM ($label, 'other');
		CREATE TABLE $quoted.$quoted ($k text, $k2 text, $in_template text DEFAULT 'y', $o text, mood $quoted.$t, PRIMARY KEY ($k, $k2));
		INSERT INTO $quoted.$quoted ($k, $k2) VALUES ($label, $label), ('x', $label)});
	my $targets = quote("$o, mood");
	my $number = sql($node, qq{SET ROLE $quoted; SELECT llm_batch.submit($source, $template, 'x', $targets, server => $label, request_key => $label, labels => jsonb_build_object($label, $label), mode => 'batch')});
	my $shown = $name =~ s/\n/ /gr;
	is(wait_job($node, $number), 'succeeded', "names like <$shown>: a job of it ends");
	is(sql($node, "SELECT count($o), count(mood) FROM $quoted.$quoted"), '2|2', "<$shown>: with its answers");
	is(sql($node, "SELECT owner = $label AND server = $label AND labels = jsonb_build_object($label, $label) FROM llm_batch.progress WHERE job_id = $number"), 't', "<$shown>: and is told as it is");
}
is(sql($node, 'SELECT count(*) > 0 FROM alice.targets'), 't', 'and no table is gone');

# ---- another table of that name ----

# A job knows its table by name.  Whoever takes the name gets no more than the
# job's owner would give him by an UPDATE: never other rights, and never an
# answer to another question.
sql($node, 'CREATE SCHEMA common; GRANT ALL ON SCHEMA common TO alice, mallory; CREATE TABLE alice.traces (who text); GRANT ALL ON alice.traces TO PUBLIC; ALTER SERVER m OPTIONS (SET latency \'1500ms\')');
sub swap
{
	my ($make) = @_;

	as('alice', q{CREATE TABLE common.t (id int PRIMARY KEY, body text, summary text); INSERT INTO common.t VALUES (1, 'One.'), (2, 'Two.')});
	my $number = as('alice', q{SELECT llm_batch.submit('common.t', '{{body}}', 'x', 'summary', server => 'm', mode => 'batch')});
	as('alice', 'ALTER TABLE common.t RENAME TO was');
	as('mallory', "CREATE TABLE common.t (id int PRIMARY KEY, body text, summary text); INSERT INTO common.t VALUES (1, 'One.'), (2, 'Other.');
		CREATE FUNCTION common.trace() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO alice.traces VALUES (current_user); RETURN NEW; END \$\$;
		CREATE TRIGGER trace BEFORE UPDATE ON common.t FOR EACH ROW EXECUTE FUNCTION common.trace(); $make");
	wait_job($node, $number);
	my $seen = as('alice', "SELECT string_agg(key || ' ' || state || COALESCE(' ' || error_code, '') || COALESCE(' ' || error, ''), ', ' ORDER BY key) FROM llm_batch.results WHERE job_id = $number");
	my $written = sql($node, q{SELECT array_agg(id ORDER BY id) FROM common.t WHERE summary IS NOT NULL});
	my $traces = sql($node, q{SELECT string_agg(DISTINCT who, ' ') FROM alice.traces});

	sql($node, 'DROP TABLE common.t, common.was; DROP FUNCTION common.trace; TRUNCATE alice.traces');
	return "$seen; written $written; ran as $traces";
}
is(swap(''), '1 failed write_back permission denied for table t, 2 failed write_back permission denied for table t; written ; ran as ',
	'a table of another\'s in its place: refused, and none of its code ran');
is(swap('GRANT SELECT, UPDATE ON common.t TO alice'), '1 succeeded, 2 failed stale the row\'s text has changed since the prompt was made; written {1}; ran as alice',
	'one that the owner may update: as if it were hers, for the rows that ask the same; its code has her rights, no more');
check_sim($sim);
is(sql($node, 'SELECT pg_postmaster_start_time()'), $started, 'the server has not crashed');
unlike(slurp_file($node->logfile), qr/XX000|TRAP:|PANIC|was terminated by signal/, 'nor was there an internal error');

done_testing();
