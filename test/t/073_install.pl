# The install script, run where others were before: nothing that they planted
# runs, nothing is open to them that should not be, and nothing stays behind.
#
#	an object is found by its name, whatever search_path says	"planted", "pg_temp"
#	the schema is ours alone									"a schema that was there"
#	privileges are those of the script							"default privileges", "what is there"
#	a schema that was renamed leaves its name to nobody			"renamed"
#	who may install; SET SCHEMA									"who may"
#	DROP EXTENSION leaves nothing								"dropped"
#	dumps of somebody who is no superuser						"dumps"
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# a worker for each of many databases
my $node = start_node(extension => 0, conf => [ 'max_worker_processes = 40', 'llm_batch.idle_timeout = 2s' ]);

sql($node, q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE app LOGIN;
	CREATE ROLE second LOGIN SUPERUSER;
	CREATE ROLE owner LOGIN CREATEROLE CREATEDB});

sub db
{
	my ($name, $query, @extra) = @_;
	return $node->safe_psql($name, $query, extra_params => [@extra]);
}

# "SQLSTATE: message" of what should not go through.
sub refused
{
	my ($name, $role, $query) = @_;
	my ($status, $out, $error) = $node->psql($name, $query, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return $error =~ /ERROR:  (.*)/ ? $1 : "no error: $out";
}

sub new_database
{
	my ($name, $owner) = @_;

	sql($node, "CREATE DATABASE $name" . ($owner ? " OWNER $owner" : ''));
	db($name, 'GRANT CREATE ON SCHEMA public TO PUBLIC');
}

# Everything that the extension made, and who may do what with it: kind, name,
# and of the privileges those that are not the owner's own.
my $OBJECTS = q{
	WITH object (kind, name, owner, acl) AS (
		SELECT 'schema', n.nspname::text, n.nspowner, COALESCE(n.nspacl, acldefault('n', n.nspowner))
		FROM pg_namespace n WHERE n.nspname = 'llm_batch'
		UNION ALL
		SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
			p.proowner, COALESCE(p.proacl, acldefault('f', p.proowner))
		FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND d.refobjid = extension
		UNION ALL
		SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE c.relkind::text END, c.relname,
			c.relowner, COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
		FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND d.refobjid = extension
		UNION ALL
		SELECT 'server', s.srvname, s.srvowner, COALESCE(s.srvacl, acldefault('S', s.srvowner))
		FROM pg_foreign_server s JOIN pg_depend d ON d.classid = 'pg_foreign_server'::regclass AND d.objid = s.oid AND d.deptype = 'e' AND d.refobjid = extension
		UNION ALL
		SELECT 'wrapper', w.fdwname, w.fdwowner, COALESCE(w.fdwacl, acldefault('F', w.fdwowner))
		FROM pg_foreign_data_wrapper w JOIN pg_depend d ON d.classid = 'pg_foreign_data_wrapper'::regclass AND d.objid = w.oid AND d.deptype = 'e' AND d.refobjid = extension)
	SELECT kind || ' ' || name || ': ' || COALESCE((
		SELECT string_agg(COALESCE(r.rolname, 'PUBLIC') || ' ' || a.privilege_type, ', ' ORDER BY 1, a.privilege_type)
		FROM aclexplode(acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> owner), '')
	FROM object ORDER BY kind COLLATE "C", name COLLATE "C"};
$OBJECTS =~ s/\bextension\b/(SELECT oid FROM pg_extension WHERE extname = 'llm_batch')/g;

# ---- planted ----

# Things of every kind, with names that the script uses, where a search_path
# would find them before, or instead of, those of the system: each writes
# down that it ran.  Tables, types and domains are told by an install that
# fails or by the catalogs.
my $PLANTED = q{
	CREATE TABLE trap (what text);
	GRANT ALL ON trap TO PUBLIC;
	CREATE FUNCTION trapped(what text) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.trap VALUES (what); END $$;
	CREATE FUNCTION eq(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('name = text'); RETURN true; END $$;
	CREATE FUNCTION eq(oid, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('oid = int'); RETURN true; END $$;
	CREATE FUNCTION le(int, numeric) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('int <= numeric'); RETURN true; END $$;
	CREATE FUNCTION gt(int, numeric) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('> numeric'); RETURN true; END $$;
	CREATE OPERATOR = (FUNCTION = eq, LEFTARG = name, RIGHTARG = text);
	CREATE OPERATOR = (FUNCTION = eq, LEFTARG = oid, RIGHTARG = int);
	CREATE OPERATOR <> (FUNCTION = eq, LEFTARG = oid, RIGHTARG = int);
	CREATE OPERATOR <= (FUNCTION = le, LEFTARG = int, RIGHTARG = numeric);
	CREATE OPERATOR > (FUNCTION = gt, LEFTARG = int, RIGHTARG = numeric);
	CREATE FUNCTION string_to_array(text, text) RETURNS text[] LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('string_to_array'); RETURN '{}'; END $$;
	CREATE FUNCTION format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('format'); RETURN 'SELECT 1'; END $$;
	CREATE FUNCTION format(text, text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('format'); RETURN 'SELECT 1'; END $$;
	CREATE FUNCTION quote_ident(name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('quote_ident'); RETURN 'x'; END $$;
	CREATE FUNCTION pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('pg_get_userbyid'); RETURN 'x'; END $$;
	CREATE FUNCTION pg_extension_config_dump(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('pg_extension_config_dump'); END $$;
	CREATE FUNCTION nextval(text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('nextval'); RETURN 1; END $$;
	CREATE FUNCTION now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('now'); RETURN 'infinity'; END $$;
	CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('clock_timestamp'); RETURN 'infinity'; END $$;
	CREATE FUNCTION pg_has_role(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('pg_has_role'); RETURN true; END $$;
	CREATE FUNCTION pg_has_role(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('pg_has_role'); RETURN true; END $$;
	CREATE FUNCTION may_see(name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('may_see'); RETURN true; END $$;
	CREATE FUNCTION answer_json(text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('answer_json'); RETURN '{}'; END $$;
	CREATE FUNCTION worker_status() RETURNS record LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('worker_status'); RETURN NULL; END $$;
	CREATE FUNCTION sum_step(numeric, numeric) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('sum'); RETURN 0; END $$;
	CREATE AGGREGATE sum(numeric) (SFUNC = sum_step, STYPE = numeric, INITCOND = '0');
	CREATE TABLE job (x int);
	CREATE TABLE model (x int);
	CREATE VIEW pg_extension AS SELECT 1 AS extname;
	CREATE VIEW pg_namespace AS SELECT 1 AS nspname FROM trapped('pg_namespace');
	CREATE VIEW pg_class AS SELECT 1 AS relname FROM trapped('pg_class');
	CREATE VIEW pg_settings AS SELECT 'x' AS name FROM trapped('pg_settings');
	CREATE VIEW pg_roles AS SELECT 'x' AS rolname FROM trapped('pg_roles');
	CREATE DOMAIN text AS pg_catalog.text CHECK (trapped('text') IS NOT NULL);
	CREATE DOMAIN name AS pg_catalog.name CHECK (trapped('name') IS NOT NULL);
	CREATE DOMAIN oid AS pg_catalog.oid CHECK (trapped('oid') IS NOT NULL);
	CREATE DOMAIN jsonb AS pg_catalog.jsonb CHECK (trapped('jsonb') IS NOT NULL);
	CREATE DOMAIN regclass AS pg_catalog.regclass CHECK (trapped('regclass') IS NOT NULL);
	CREATE DOMAIN date AS pg_catalog.date CHECK (trapped('date') IS NOT NULL);
	CREATE TYPE word AS ENUM ('a');
	CREATE FUNCTION to_text(word) RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trapped('cast'); RETURN 'a'; END $$;
	CREATE CAST (word AS pg_catalog.text) WITH FUNCTION to_text(word) AS IMPLICIT};

new_database('pristine');
db('pristine', 'CREATE EXTENSION llm_batch');
my $pristine = db('pristine', $OBJECTS);

new_database('planted');
db('planted', $PLANTED, '-U', 'mallory');
isnt(db('planted', "SET search_path = public, pg_catalog; SELECT format('%s', 'x'), now(); SELECT string_agg(what, ' ') FROM trap"), '',
	'what is planted works, where it is found');
db('planted', 'TRUNCATE trap; ALTER DATABASE planted SET search_path = public, pg_catalog');
db('planted', 'CREATE EXTENSION llm_batch');
is(db('planted', q{SELECT string_agg(DISTINCT what, ' ') FROM public.trap}), '', 'nothing that was planted in public ran while the extension was made');
is(db('planted', "SET search_path = pg_catalog; $OBJECTS"), $pristine, 'and the same objects are there');
is( db('planted', q{
	SET search_path = pg_catalog;
	SELECT string_agg(d.classid::regclass || ' ' || pg_describe_object(d.classid, d.objid, 0) || ' -> ' || pg_describe_object(d.refclassid, d.refobjid, 0), '; ')
	FROM pg_depend d JOIN pg_depend e ON e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e'
		AND e.refclassid = 'pg_extension'::regclass
	WHERE d.refobjid >= 16384 AND pg_describe_object(d.refclassid, d.refobjid, 0) ~ 'public'}), '', 'nothing of ours depends on anything in public');

# the same through a worker and through the views, with a job
db('planted', q{SELECT llm_batch.submit_prompts('{One., Two.}', 'm', server => 'mock', mode => 'batch'); CALL llm_batch.wait(1)});
db('planted', "SELECT count(*) FROM llm_batch.$_") foreach split /\n/, db('planted',
	q{SET search_path = pg_catalog; SELECT relname FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'v'});
is(db('planted', q{SELECT string_agg(DISTINCT what, ' ') FROM public.trap}), '', 'nor while a job ran, or while the views were looked at');
is(db('planted', 'SELECT count(*) FROM llm_batch.results'), '2', 'which went well');

# ---- pg_temp ----

# A session whose temporary schema has another's objects: it called a function of his.
new_database('temporary');
db('temporary', q{
	CREATE TABLE public.trap (what text);
	GRANT ALL ON public.trap TO PUBLIC;
	CREATE FUNCTION public.litter() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
	BEGIN
		CREATE FUNCTION pg_temp.trapped(what text) RETURNS boolean LANGUAGE plpgsql AS
			$f$ BEGIN INSERT INTO public.trap VALUES (what); RETURN true; END $f$;
		CREATE TEMP TABLE job (x int);
		CREATE TEMP TABLE model (x int CHECK (pg_temp.trapped('model')));
		CREATE TEMP VIEW pg_roles AS SELECT 'x' AS rolname, true AS rolsuper, 10::oid AS oid WHERE pg_temp.trapped('pg_roles');
		CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.trapped('text'));
		CREATE DOMAIN pg_temp.date AS pg_catalog.date CHECK (pg_temp.trapped('date'));
		CREATE DOMAIN pg_temp.numeric AS pg_catalog.numeric CHECK (pg_temp.trapped('numeric'));
		CREATE DOMAIN pg_temp.regclass AS pg_catalog.regclass CHECK (pg_temp.trapped('regclass'));
	END $$}, '-U', 'mallory');
db('temporary', 'SET search_path = pg_temp, public, pg_catalog; SELECT public.litter(); CREATE EXTENSION llm_batch');
is(db('temporary', 'SELECT string_agg(DISTINCT what, \' \') FROM public.trap'), '', 'nothing in the temporary schema ran');
is(db('temporary', $OBJECTS), $pristine, 'and the same objects are there');

# ---- a schema that was there ----

new_database('schemas');
db('schemas', 'GRANT CREATE ON DATABASE schemas TO mallory');
db('schemas', 'CREATE SCHEMA llm_batch', '-U', 'mallory');
like(refused('schemas', 'postgres', 'CREATE EXTENSION llm_batch'), qr/^42P06: schema "llm_batch" belongs to another role/, 'a schema of somebody else is refused');
db('schemas', 'DROP SCHEMA llm_batch; CREATE SCHEMA llm_batch; GRANT ALL ON SCHEMA llm_batch TO mallory, PUBLIC');
foreach my $case (
	[ 'a function', 'CREATE FUNCTION llm_batch.le(int, numeric) RETURNS boolean LANGUAGE sql RETURN true', 'DROP FUNCTION llm_batch.le' ],
	[ 'a table', 'CREATE TABLE llm_batch.extra (x int)', 'DROP TABLE llm_batch.extra' ],
	[ 'a type', 'CREATE DOMAIN llm_batch.text AS pg_catalog.text', 'DROP DOMAIN llm_batch.text' ],
	[ 'a collation', 'CREATE COLLATION llm_batch.c FROM "C"', 'DROP COLLATION llm_batch.c' ],
	[ 'an operator', 'CREATE OPERATOR llm_batch.<= (FUNCTION = pg_catalog.numeric_le, LEFTARG = numeric, RIGHTARG = numeric)', 'DROP OPERATOR llm_batch.<= (numeric, numeric)' ])
{
	my ($what, $plant, $drop) = @$case;

	db('schemas', $plant, '-U', 'mallory');
	like(refused('schemas', 'postgres', 'CREATE EXTENSION llm_batch'), qr/^42P06: schema "llm_batch" is not empty/, "a schema with $what of another in it is refused");
	db('schemas', $drop, '-U', 'mallory');
}
db('schemas', 'CREATE EXTENSION llm_batch', '-U', 'second');
is(db('schemas', q{SELECT has_schema_privilege('mallory', 'llm_batch', 'CREATE'), has_schema_privilege('app', 'llm_batch', 'CREATE'), has_schema_privilege('app', 'llm_batch', 'USAGE')}),
	'f|f|t', 'an empty one of another superuser will do, and is open to nobody any more');
db('schemas', 'DROP EXTENSION llm_batch; CREATE EXTENSION llm_batch');
pass('what one superuser dropped another can make anew');

# ---- default privileges ----

# As in many a database, and worse.
new_database('lavish');
db('lavish', q{
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app, PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO app, PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO app WITH GRANT OPTION;
	ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO app, PUBLIC;
	CREATE EXTENSION llm_batch});
is(db('lavish', $OBJECTS), $pristine, 'default privileges neither open nor close anything of ours');
db('lavish', 'CREATE TABLE public.control (x int)');
is(db('lavish', q{SELECT has_table_privilege('app', 'public.control', 'TRIGGER')}), 't', 'which otherwise they would');
like(refused('lavish', 'app', 'CREATE TRIGGER t BEFORE UPDATE ON llm_batch.job FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()'),
	qr/^42501: permission denied for table job/, 'nobody puts a trigger on our tables');

# ---- what is there ----

# A new object has to be written down here, with what others than its owner
# may do with it: think before you add EXECUTE or SELECT.
my @expected = map { chomp; $_ } <DATA>;
is($pristine, join("\n", @expected), 'each object, and who may use it, is as listed') or do
{
	my %listed = map { $_ => 1 } @expected;
	my %there = map { $_ => 1 } split /\n/, $pristine;
	diag("not listed: $_") foreach grep { !$listed{$_} } sort keys %there;
	diag("not there: $_") foreach grep { !$there{$_} } sort keys %listed;
};
is(db('pristine', q{
	SELECT string_agg(proname, ' ') FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'llm_batch')
	WHERE p.prosecdef OR p.proleakproof OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')}), '',
	'no function is SECURITY DEFINER, none claims to be leakproof, none is SQL that a search_path could turn');
is(db('pristine', q{SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'v'
		AND NOT COALESCE(reloptions @> '{security_invoker=true,security_barrier=true}', false)}), '',
	'each view runs as whoever reads it, behind a barrier');
is(db('pristine', q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'r'
		AND NOT relrowsecurity AND has_table_privilege('app', oid, 'SELECT')}), 'model pii_pattern preset', 'each table that all may read has policies, but those of models, patterns and presets');
is(db('pristine', q{SELECT string_agg(relname || ' ' || polname, ', ') FROM pg_policy JOIN pg_class c ON c.oid = polrelid
		WHERE relnamespace = 'llm_batch'::regnamespace AND (polcmd <> 'r' OR NOT polpermissive)}), '', 'which are for reading alone');

# comments: each object, and each column whose table has any
is( db('pristine', q{
	SELECT string_agg(pg_describe_object(d.classid, d.objid, 0), ', ')
	FROM pg_depend d
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'llm_batch')
	AND obj_description(d.objid, d.classid::regclass::name) IS NULL
	AND NOT EXISTS (SELECT FROM pg_type t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND (t.typrelid <> 0 OR t.typelem <> 0))}),
	'', 'every object has a comment');
is( db('pristine', q{
	SELECT string_agg(relname || '.' || attname, ', ' ORDER BY relname, attnum)
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
	WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'v' AND COALESCE(col_description(c.oid, attnum), '') !~ '\w{2}'}),
	'', 'and so has every column of a view');

# ---- renamed ----

# Whoever takes the name of a schema that was renamed gets no call of ours.
new_database('renamed');
db('renamed', q{CREATE EXTENSION llm_batch; GRANT CREATE ON DATABASE renamed TO mallory;
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '1h', poll_min '50ms', poll_max '100ms'); GRANT USAGE ON FOREIGN SERVER slow TO PUBLIC});
db('renamed', q{SELECT llm_batch.submit_prompts('{One.}', 'm', server => 'slow', mode => 'batch')});
sub until_true
{
	my ($query) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	sleep 0.05 while db('renamed', $query) ne 't' && time < $until;
	return db('renamed', $query);
}
is(until_true(q{SELECT EXISTS (SELECT FROM llm_batch.batches WHERE state = 'in_progress')}), 't', 'a job flies');
db('renamed', 'ALTER SCHEMA llm_batch RENAME TO away');
db('renamed', q{
	CREATE SCHEMA llm_batch;
	CREATE TABLE public.trap (what text);
	GRANT ALL ON public.trap TO PUBLIC;
	CREATE FUNCTION public.trapped() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER AS $$ BEGIN INSERT INTO public.trap VALUES (current_user); RETURN NEW; END $$;
	CREATE TABLE llm_batch.job (LIKE away.job INCLUDING ALL);
	CREATE TABLE llm_batch.job_def (LIKE away.job_def INCLUDING ALL);
	CREATE TABLE llm_batch.batch (LIKE away.batch INCLUDING ALL);
	CREATE TABLE llm_batch.command (LIKE away.command INCLUDING ALL);
	CREATE TABLE llm_batch.event (LIKE away.event INCLUDING ALL);
	CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON llm_batch.job FOR EACH STATEMENT EXECUTE FUNCTION public.trapped();
	CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON llm_batch.batch FOR EACH STATEMENT EXECUTE FUNCTION public.trapped();
	CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON llm_batch.event FOR EACH STATEMENT EXECUTE FUNCTION public.trapped()}, '-U', 'mallory');
like(refused('renamed', 'postgres', q{SELECT away.submit_prompts('{One.}', 'm', server => 'slow')}), qr/^55000: the schema of extension "llm_batch" was renamed/,
	'a schema that was renamed is an error, with the way back');
sleep 0.5;
is(db('renamed', 'SELECT count(*) FROM public.trap'), '0', 'and the impostor sees neither session nor worker');
db('renamed', 'DROP SCHEMA llm_batch CASCADE; ALTER SCHEMA away RENAME TO llm_batch; ALTER SERVER slow OPTIONS (SET latency \'10ms\')');
is(until_true(q{SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = 1}), 't', 'renamed back, all goes on');

# ---- who may ----

new_database('owned', 'owner');
like(refused('owned', 'owner', 'CREATE EXTENSION llm_batch'), qr/^42501: permission denied to create extension "llm_batch"/, 'it takes a superuser, even where one owns the database');
like(refused('pristine', 'postgres', 'ALTER EXTENSION llm_batch SET SCHEMA public'), qr/^0A000: extension "llm_batch" does not support SET SCHEMA/, 'it stays in its schema');
like(refused('owned', 'postgres', 'CREATE EXTENSION llm_batch SCHEMA public'), qr/^0A000: extension "llm_batch" must be installed in schema "llm_batch"/, 'it cannot be made in another');
db('owned', 'CREATE EXTENSION llm_batch');
like(refused('owned', 'owner', 'DROP EXTENSION llm_batch'), qr/^42501: must be owner of extension llm_batch/, 'the owner of the database cannot drop it');
like(refused('owned', 'owner', 'CREATE FUNCTION llm_batch.mine() RETURNS int LANGUAGE sql RETURN 1'), qr/^42501: permission denied for schema llm_batch/, 'nor add to its schema');

# ---- dumps ----

# Somebody who is no superuser either has all that he asked for, or an error;
# never a dump that silently lacks jobs.
db('owned', q{CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t VALUES (1);
	SELECT llm_batch.submit_prompts('{Mine.}', 'm', server => 'mock', mode => 'batch'); CALL llm_batch.wait(1)}, '-U', 'owner');
db('owned', q{SELECT llm_batch.submit_prompts('{Theirs.}', 'm', server => 'mock', mode => 'batch'); CALL llm_batch.wait(2)}, '-U', 'mallory');
sub dump_of
{
	my (@options) = @_;
	my ($out, $err);

	IPC::Run::run([ 'pg_dump', '-d', $node->connstr('owned'), @options ], '>', \$out, '2>', \$err);
	return ($?, $out, $err);
}
my ($status, $out, $err) = dump_of('-U', 'owner');
ok($status != 0, 'the owner of the database cannot dump all of it');
like($err, qr/permission denied|row-level security|lack SELECT privilege/, 'and is told why');
($status, $out, $err) = dump_of('-U', 'owner', '-n', 'app');
is($status, 0, 'he can dump a schema of his own');
like($out, qr/CREATE TABLE app\.t/, 'which is in it');
unlike($out, qr/llm_batch/, 'and nothing of llm_batch');
($status, $out, $err) = dump_of('-U', 'postgres');
is($status, 0, 'a superuser dumps it all');
like($out, qr/^1\towner\tmock/m, 'with the jobs of one');
like($out, qr/^2\tmallory\tmock/m, 'and another');
unlike($out, qr/GRANT .* ON (TABLE|FUNCTION|SEQUENCE|PROCEDURE) llm_batch\./, 'privileges as they were made are not dumped');
new_database('again', 'owner');
my $file = $node->basedir . '/dump.sql';
PostgreSQL::Test::Utils::append_to_file($file, $out);
IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('again'), '-f', $file ], '>', \$out, '2>', \$err);
is("$?$err", '0', 'and restores it into a database of another\'s');
is(db('again', $OBJECTS), $pristine, 'with the privileges that it should have');
is(db('again', 'SELECT string_agg(job_id || owner, \' \' ORDER BY job_id) FROM llm_batch.progress', '-U', 'owner'), '1owner', 'and each sees what is his');

# ---- dropped ----

like(refused('renamed', 'postgres', 'DROP EXTENSION llm_batch'), qr/^2BP01: cannot drop extension llm_batch because other objects depend on it/, 'servers of others keep the extension');
db('renamed', 'DROP EXTENSION llm_batch CASCADE');
is(db('renamed', q{
	SELECT count(*) FROM (
		SELECT objid FROM pg_depend WHERE refobjid = (SELECT oid FROM pg_namespace WHERE nspname = 'llm_batch')
		UNION ALL SELECT oid FROM pg_proc WHERE probin ~ 'llm_batch'
		UNION ALL SELECT oid FROM pg_foreign_data_wrapper
		UNION ALL SELECT oid FROM pg_foreign_server
		UNION ALL SELECT oid FROM pg_user_mapping
		UNION ALL SELECT p.objoid FROM pg_init_privs p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE p.classoid = 'pg_class'::regclass AND c.oid = p.objoid)
			AND NOT EXISTS (SELECT FROM pg_proc c WHERE p.classoid = 'pg_proc'::regclass AND c.oid = p.objoid)
			AND p.classoid IN ('pg_class'::regclass, 'pg_proc'::regclass)
		UNION ALL SELECT objoid FROM pg_description WHERE description ~ 'llm_batch') x}), '0', 'dropped, it leaves an empty schema and nothing else');
db('renamed', 'DROP SCHEMA llm_batch; CREATE EXTENSION llm_batch');
is(db('renamed', $OBJECTS), $pristine, 'and can be made anew');

done_testing();
__DATA__
function alter_task(text, text, text, text, text, text, text, name, text, jsonb, jsonb, text, integer, boolean, integer, boolean, numeric, interval, jsonb, interval, integer, text, text, boolean): PUBLIC EXECUTE
function answer_field(jsonb, text, anyelement): PUBLIC EXECUTE
function answer_json(text): PUBLIC EXECUTE
function apply(bigint): PUBLIC EXECUTE
function attach(text, regclass, boolean): PUBLIC EXECUTE
function cancel(bigint): PUBLIC EXECUTE
function check_pattern(text): PUBLIC EXECUTE
function create_task(text, text, text, text, text, text, text, name, text, jsonb, jsonb, text, integer, boolean, integer, boolean, numeric, interval, jsonb, interval, integer, text, text): PUBLIC EXECUTE
function create_view(text, text, regclass): PUBLIC EXECUTE
function detach(text, regclass): PUBLIC EXECUTE
function detach(text, text): PUBLIC EXECUTE
function drop_task(text, boolean): PUBLIC EXECUTE
function enqueue(): PUBLIC EXECUTE
function estimate(regclass, text, text, text, text, text, bigint, name, text, jsonb, jsonb, text, integer, boolean, boolean, integer, boolean, numeric, interval, bigint, text, jsonb, text, text): PUBLIC EXECUTE
function forget(bigint): PUBLIC EXECUTE
function is_home(bigint, bigint): PUBLIC EXECUTE
function may_see(name): PUBLIC EXECUTE
function pause(bigint): PUBLIC EXECUTE
function preview(regclass, text, text, text, text, text, bigint, name, text, jsonb, jsonb, text, integer, boolean, boolean, integer, boolean, numeric, interval, bigint, text, jsonb, text, text, integer): PUBLIC EXECUTE
function price(name, text, bigint, bigint, bigint, bigint, bigint, text, timestamp with time zone): PUBLIC EXECUTE
function prompt_hash(text, "any"): PUBLIC EXECUTE
function prompt_text(text, "any"): PUBLIC EXECUTE
function redact(text): PUBLIC EXECUTE
function render(text, record): PUBLIC EXECUTE
function resume(bigint, boolean): PUBLIC EXECUTE
function retry(bigint, text[]): PUBLIC EXECUTE
function run(text, text, boolean): PUBLIC EXECUTE
function server_health(): PUBLIC EXECUTE
function source_trouble(bigint, name, name, name, text, name, boolean, boolean): PUBLIC EXECUTE
function submit(regclass, text, text, text, text, text, bigint, name, text, jsonb, jsonb, text, integer, boolean, boolean, integer, boolean, numeric, interval, bigint, text, jsonb, text, text): PUBLIC EXECUTE
function submit_prompts(text[], text, name, text, jsonb, jsonb, text, integer, boolean, boolean, integer, boolean, numeric, interval, bigint, text, jsonb, text, text): PUBLIC EXECUTE
function submit_query(text, text, name, text, jsonb, jsonb, text, integer, boolean, boolean, integer, boolean, numeric, interval, bigint, text, jsonb, text, text): PUBLIC EXECUTE
function task_answer(bigint, "any"): PUBLIC EXECUTE
function task_status(): PUBLIC EXECUTE
function time_left(name, text, integer, integer, timestamp with time zone): PUBLIC EXECUTE
function validator(text[], oid): 
function worker_status(): PUBLIC EXECUTE
procedure check_server(name): PUBLIC EXECUTE
procedure wait(bigint, interval): PUBLIC EXECUTE
schema llm_batch: PUBLIC USAGE
sequence attachment_id_seq: 
sequence batch_id_seq: 
sequence command_id_seq: 
sequence event_id_seq: 
sequence inbox_id_seq: 
sequence job_id_seq: 
sequence probe_id_seq: 
sequence task_id_seq: 
server mock: PUBLIC USAGE
table afterwards: PUBLIC SELECT
table answer: PUBLIC SELECT
table attachment: PUBLIC SELECT
table batch: PUBLIC SELECT
table calibration: PUBLIC SELECT
table command: PUBLIC SELECT
table compared: 
table event: PUBLIC SELECT
table gathering: PUBLIC SELECT
table home: 
table inbox: PUBLIC SELECT
table item: PUBLIC SELECT
table job: PUBLIC SELECT
table job_def: PUBLIC SELECT
table leftover: PUBLIC SELECT
table model: PUBLIC SELECT
table pii_map: PUBLIC SELECT
table pii_pattern: PUBLIC SELECT
table preset: PUBLIC SELECT
table probe: PUBLIC SELECT
table prompt: PUBLIC SELECT
table queue: PUBLIC SELECT
table result: PUBLIC SELECT
table spending: PUBLIC SELECT
table tally: PUBLIC SELECT
table task: PUBLIC SELECT
table task_item: PUBLIC SELECT
table task_version: PUBLIC SELECT
table task_view: PUBLIC SELECT
table turnaround: PUBLIC SELECT
table unapplied: PUBLIC SELECT
view attempts: PUBLIC SELECT
view batches: PUBLIC SELECT
view costs: PUBLIC SELECT
view events: PUBLIC SELECT
view health: PUBLIC SELECT
view metric_help: PUBLIC SELECT
view metrics: PUBLIC SELECT
view progress: PUBLIC SELECT
view results: PUBLIC SELECT
view tasks: PUBLIC SELECT
view workers: PUBLIC SELECT
wrapper llm_batch: 
