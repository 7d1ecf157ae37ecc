# Views of tasks: who may read the view reads the answers and nothing more; a
# row finds its answer whatever the reader's settings are; a view follows its
# task, and survives dump and restore.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(conf => [ 'llm_batch.sweep_interval = 1s' ]);

# As that role, in one session.
sub as
{
	my ($role, $query, $on) = @_;
	return sql($on // $node, "SET ROLE $role; $query");
}

# The error of what must fail, in one line.
sub refused
{
	my ($role, $query, $on) = @_;
	my ($status, $out, $error) = ($on // $node)->psql('postgres', "SET ROLE $role; $query");
	$error =~ s/\s+/ /g;
	return $status == 0 ? "no error: $out" : $error;
}

# Until each row of each attachment of the task has an ended item.
sub answered
{
	my ($task, $rows) = @_;
	wait_until($node, qq{
		SELECT count(*) = $rows FROM llm_batch.task t JOIN llm_batch.attachment a ON a.task_id = t.id
		JOIN llm_batch.task_item i ON i.attachment_id = a.id
		JOIN llm_batch.results r ON r.job_id = i.job_id AND r.ordinal = i.ordinal
		WHERE t.name = '$task' AND r.state IN ('succeeded', 'failed')}, "$task: answered");
}

my $DENIED = qr/permission denied for answers of a task/;
my $MOOD = q{'{"type": "object", "properties": {"mood": {"type": "string"}, "score": {"type": ["number", "null"]}, "count": {"type": "integer"}, "yes": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}}, "state": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["mood", "score", "count", "yes", "tags", "state"], "additionalProperties": false}'};

sql($node, q{
	CREATE ROLE alice; CREATE ROLE boss; CREATE ROLE reader; CREATE ROLE friend; CREATE ROLE mallory;
	GRANT alice TO boss;
	CREATE SCHEMA app AUTHORIZATION alice;
	GRANT USAGE ON SCHEMA app TO reader, friend, mallory;
	GRANT CREATE ON SCHEMA public TO alice, mallory;
	GRANT USAGE ON FOREIGN SERVER mock TO alice});
as('alice', qq{
	CREATE TABLE app.notes (id int PRIMARY KEY, body text, state text, score text, mood_llm int, mood int);
	INSERT INTO app.notes (id, body) SELECT n, 'Note ' || n || ' says so. And more.' FROM generate_series(1, 5) n;
	SELECT llm_batch.create_task('mood', prompt => '{{body}}', model => 'mock', schema => $MOOD, max_wait => '0');
	SELECT llm_batch.attach('mood', 'app.notes')});

# ---- what it shows ----

as('alice', q{SELECT llm_batch.create_view('mood', 'app."A view"')});
is( sql($node, q{SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app."A view"'::regclass}),
	'id integer, body text, state text, score text, mood_llm integer, mood integer, yes boolean, mood_llm2 text, tags jsonb, count bigint, '
	. 'score_llm numeric, state_llm text, state_llm2 text, error text, cost numeric, answered_at timestamp with time zone',
	'columns of the table, typed ones of the answer, and how it went; names that are taken get a suffix');
is(as('alice', q{SELECT count(*), count(state_llm2), count(mood_llm2) FROM app."A view"}), '5|0|0', 'rows that nobody has asked about');
as('alice', q{SELECT llm_batch.run('mood')});
answered('mood', 5);
is( as('alice', q{
		SELECT count(*) FROM app."A view" WHERE mood_llm2 LIKE '%Note ' || id || ' says so.%' AND score_llm IS NOT NULL AND count IS NOT NULL
		AND yes IN (true, false) AND jsonb_array_length(tags) > 0 AND state_llm2 = 'succeeded' AND error IS NULL AND cost = 0 AND answered_at <= now()}),
	'5', 'each row has its own answer');

# ---- who may read ----

like(refused('reader', 'SELECT * FROM app."A view"'), qr/permission denied for view A view/, 'without a grant: no');
as('alice', 'GRANT SELECT ON app."A view" TO reader');
is(as('reader', 'SELECT count(*) FROM app."A view" WHERE mood_llm2 LIKE \'%Note \' || id || \' says so.%\''), '5', 'who has SELECT on the view, and nothing else, reads its answers');
is(as('reader', 'SELECT count(*) FROM llm_batch.answer') . as('reader', 'SELECT count(*) FROM llm_batch.task') . as('reader', 'SELECT count(*) FROM llm_batch.task_view'), '000',
	'and nothing of the tables under it');
like(refused('reader', 'SELECT * FROM app.notes'), qr/permission denied for table notes/, 'nor of the table');
is(as('boss', 'SELECT state FROM llm_batch.task_answer(1, 1)'), 'succeeded', 'who has the privileges of the owner may call the function');
is(as('reader', 'SELECT state FROM llm_batch.task_answer(1, 1)'), 'succeeded', 'who reads the view as well');
like(refused('mallory', 'SELECT * FROM llm_batch.task_answer(1, 1)'), $DENIED, 'others may not');
like(refused('mallory', 'SELECT * FROM llm_batch.task_answer(2, 1)'), qr/does not exist any more/, 'nor of a task that there is not');
is(as('reader', 'SELECT llm_batch.task_answer(NULL, 1) IS NULL, (llm_batch.task_answer(1, 99)).state, (llm_batch.task_answer(1, NULL::int)).state'), 't||', 'no task, no row, no key');
like(refused('reader', 'SELECT llm_batch.task_answer(1, 1, 2)'), qr/has 1 columns, but 2 were given/, 'another key');
like(refused('reader', 'SELECT llm_batch.task_answer(1, VARIADIC ARRAY[1])'), qr/VARIADIC array/, 'an array');

# SELECT on some columns, and a view of one's own, are not enough
as('alice', 'GRANT SELECT (id, mood_llm2) ON app."A view" TO friend');
like(refused('friend', 'SELECT id, mood_llm2 FROM app."A view"'), $DENIED, 'SELECT on columns only: no');
sql($node, 'GRANT SELECT ON app.notes TO mallory');
my $OWN = q{SELECT s.id, a.answer, a.answer_json, a.state, a.error, a.cost, a.answered_at FROM app.notes s CROSS JOIN LATERAL llm_batch.task_answer('1'::bigint, s.id) a};
as('mallory', "CREATE VIEW public.own AS $OWN");
like(refused('mallory', 'SELECT * FROM public.own'), $DENIED, 'a view of one\'s own: no');
like(refused('mallory', q{SELECT llm_batch.create_view('mood', 'public.mine')}), qr/task "mood" does not exist/, 'nobody makes views of others\' tasks');
as('alice', q{SELECT llm_batch.create_view('mood', 'public.taken'); DROP VIEW public.taken});
as('mallory', 'ALTER VIEW public.own RENAME TO taken');
like(refused('mallory', 'SELECT * FROM public.taken'), $DENIED, 'nor under the name of one that was dropped');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'public.taken')}), qr/must be owner of view taken/, 'and whose name it is now keeps it');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'app.notes')}), qr/relation "app\.notes" already exists DETAIL: It is not a view of task "mood"\./, 'a table is not replaced');
as('alice', 'CREATE VIEW app.plain AS SELECT 1 AS x');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'app.plain')}), qr/relation "app\.plain" already exists/, 'nor is another view');

# a view over the view
as('alice', 'CREATE VIEW app.outer AS SELECT id, mood_llm2 FROM app."A view"; GRANT SELECT ON app.outer TO friend');
like(refused('friend', 'SELECT * FROM app.outer'), $DENIED, 'a view over the view needs SELECT on both');
as('alice', 'GRANT SELECT ON app."A view" TO friend');
is(as('friend', 'SELECT count(mood_llm2) FROM app.outer'), '5', 'which is enough');
as('alice', 'REVOKE ALL ON app."A view" FROM friend; DROP VIEW app.outer');
like(refused('friend', 'SELECT * FROM llm_batch.task_answer(1, 1)'), $DENIED, 'a grant that was taken back');

# ---- a view that is changed to show less shows nothing to others, as the function would show all ----

as('alice', q{
	CREATE TABLE app.short (id int, part text, body text, PRIMARY KEY (id, part));
	INSERT INTO app.short VALUES (1, 'a "b"', 'One.'), (2, 'c', 'Two.');
	SELECT llm_batch.create_task('plain', prompt => '{{body}}', model => 'mock', max_wait => '0');
	SELECT llm_batch.attach('plain', 'app.short');
	SELECT llm_batch.create_view('plain', 'app.shown');
	GRANT SELECT ON app.shown TO reader;
	SELECT llm_batch.run('plain')});
answered('plain', 2);
my $READ = 'SELECT count(answer) FROM app.shown';
is(as('reader', $READ), '2', 'a key of two columns');

my $CALL = q{llm_batch.task_answer('2'::bigint, s.id, s.part) a};
my $ALL = 's.id, s.part, s.body, a.answer, a.state, a.error, a.cost, a.answered_at';
my $FROM = "FROM app.short s CROSS JOIN LATERAL $CALL";
my %less = (
	'a condition' => "SELECT $ALL $FROM WHERE s.id = 1",
	'a join with a condition' => "SELECT $ALL FROM app.short s JOIN LATERAL $CALL ON s.id = 1",
	'another table' => "SELECT $ALL $FROM JOIN app.notes n ON true",
	'a limit' => "SELECT $ALL $FROM LIMIT 1",
	'an offset' => "SELECT $ALL $FROM OFFSET 1",
	'DISTINCT' => "SELECT DISTINCT $ALL $FROM",
	'groups' => "SELECT $ALL $FROM GROUP BY $ALL",
	'a union' => "SELECT $ALL $FROM UNION ALL SELECT $ALL $FROM",
	'a sample' => "SELECT $ALL FROM app.short s TABLESAMPLE system (50) CROSS JOIN LATERAL $CALL",
	'one table alone' => "SELECT $ALL FROM ONLY app.short s CROSS JOIN LATERAL $CALL",
	'a subquery' => "SELECT $ALL FROM (SELECT * FROM app.short LIMIT 1) s CROSS JOIN LATERAL $CALL",
	'a query before it' => "WITH s AS (SELECT * FROM app.short) SELECT $ALL FROM s CROSS JOIN LATERAL $CALL",
	'another key' => "SELECT $ALL FROM app.short s CROSS JOIN LATERAL llm_batch.task_answer('2'::bigint, 1, s.part) a",
	'keys the other way round' => "SELECT $ALL FROM app.short s CROSS JOIN LATERAL llm_batch.task_answer('2'::bigint, s.part, s.id) a",
	'a hidden answer' => 'SELECT ' . ($ALL =~ s/a\.answer,/NULL::text AS answer,/r) . " $FROM",
	'an answer for some' => 'SELECT ' . ($ALL =~ s/a\.answer,/CASE WHEN s.id = 1 THEN a.answer END AS answer,/r) . " $FROM",
	'a hidden error' => 'SELECT ' . ($ALL =~ s/a\.error,/NULL::text AS error,/r) . " $FROM",
	'another\'s answer' => 'SELECT ' . ($ALL =~ s/a\.answer,/o.answer,/r) . qq{ $FROM CROSS JOIN LATERAL llm_batch.task_answer('1'::bigint, s.id) o},
	'another task' => q{SELECT s.id, s.part, s.body, a.answer, a.state, a.error, a.cost, a.answered_at FROM app.short s CROSS JOIN LATERAL llm_batch.task_answer('1'::bigint, s.id) a},
);
foreach my $what (sort keys %less)
{
	as('alice', "CREATE OR REPLACE VIEW app.shown AS $less{$what}");
	like(refused('reader', 'SELECT * FROM llm_batch.task_answer(2, 1, \'a "b"\'::text)'), $DENIED, "$what: the function gives nothing");
}
as('alice', "CREATE OR REPLACE VIEW app.shown AS SELECT $ALL, upper(s.part) AS part_2 $FROM");
is(as('reader', $READ), '2', 'one column more does no harm');
as('alice', 'ALTER TABLE app.short RENAME body TO words');
is(as('reader', $READ), '2', 'nor does a renamed one');
as('alice', 'ALTER TABLE app.short RENAME words TO body; ALTER VIEW app.shown RENAME TO known');
like(refused('reader', 'SELECT * FROM app.known'), $DENIED, 'a view that was renamed is not known');
as('alice', 'ALTER VIEW app.known RENAME TO shown');
as('alice', 'ALTER VIEW app.shown SET (security_invoker)');
like(refused('reader', $READ), qr/permission denied for table short/, 'security_invoker asks for the table');
like(refused('reader', 'SELECT * FROM llm_batch.task_answer(2, 1, \'a "b"\'::text)'), qr/$DENIED.*option security_invoker/, 'and so does the function');
as('alice', 'ALTER VIEW app.shown RESET (security_invoker)');
as('alice', 'ALTER TABLE app.short ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON app.short USING (current_user = \'alice\')');
like(refused('reader', 'SELECT * FROM llm_batch.task_answer(2, 1, \'a "b"\'::text)'), qr/$DENIED.*Row-level security/, 'rows that are shown to some only');
as('alice', 'ALTER TABLE app.short DISABLE ROW LEVEL SECURITY');
is(as('reader', $READ), '2', 'and to all again');
sql($node, 'ALTER VIEW app.shown OWNER TO mallory');
like(refused('reader', $READ), qr/permission denied/, 'a view that is another\'s now');
sql($node, 'ALTER VIEW app.shown OWNER TO boss');
is(as('reader', $READ), '2', 'or of somebody with the owner\'s privileges');

# ---- the same key under other settings ----

as('alice', q{
	CREATE TABLE app.keyed (at timestamptz, ratio float8, raw bytea, span interval, day date, body text, PRIMARY KEY (at, ratio, raw, span, day));
	INSERT INTO app.keyed VALUES ('2026-03-29 01:30:00+00', 0.1::float8 + 0.2, '\x00ff', '1 day 2 hours', '2026-02-03', 'Key.');
	SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY';
	SELECT llm_batch.create_task('keyed', prompt => '{{body}}', model => 'mock', max_wait => '0');
	SELECT llm_batch.attach('keyed', 'app.keyed');
	SELECT llm_batch.create_view('keyed', 'app.by_key');
	GRANT SELECT ON app.by_key TO reader;
	SET TimeZone = 'UTC'; SET extra_float_digits = -10;
	SELECT llm_batch.run('keyed')});
answered('keyed', 1);
is(as('reader', "$_; SELECT count(answer) FROM app.by_key"), '1', $_)
  foreach "SET TimeZone = 'America/Lima'", q{SET DateStyle = 'German'}, 'SET extra_float_digits = -5', q{SET bytea_output = 'escape'}, q{SET IntervalStyle = 'iso_8601'};

# ---- targets, prepared statements, errors ----

as('alice', q{
	CREATE TABLE app.filled (id int PRIMARY KEY, body text, answer text CHECK (answer NOT LIKE '%Bad.%'));
	INSERT INTO app.filled VALUES (1, 'Good.'), (2, 'Bad.');
	SELECT llm_batch.create_task('filled', prompt => '{{body}}', model => 'mock', target => 'answer', max_wait => '0');
	SELECT llm_batch.attach('filled', 'app.filled');
	SELECT llm_batch.create_view('filled', 'app.full');
	GRANT SELECT ON app.full TO reader;
	SELECT llm_batch.run('filled')});
answered('filled', 2);
is(as('reader', 'SELECT id, answer LIKE \'%Good.%\', state, left(error, 10) FROM app.full ORDER BY id'), "1|t|succeeded|\n2||failed|write_back", 'answers in target columns are shown there, and errors');
is(as('reader', 'SELECT answer, answer_json FROM llm_batch.task_answer(4, 1)'), '|', 'and the function gives none');
is(as('reader', 'PREPARE p AS SELECT count(state) FROM app.full; EXECUTE p'), '2', 'a prepared statement');
like(refused('reader', 'PREPARE p AS SELECT count(state) FROM app.full; EXECUTE p; SET ROLE mallory; EXECUTE p'), qr/permission denied/, 'asks again when the role is another');
is(as('alice', 'BEGIN READ ONLY; SELECT count(state) FROM app.full; COMMIT'), '2', 'in a read-only transaction');
as('alice', 'ALTER TABLE app.filled ADD more int');
is(as('alice', 'SELECT count(*) FROM app.full'), '2', 'a new column of the table does no harm');
as('alice', q{SELECT llm_batch.create_view('filled', 'app.full')});
is(as('reader', 'SELECT count(*), count(more) FROM app.full'), '2|0', 'and is in the view when that is made again; grants stay');

# ---- it follows the task ----

as('alice', q{COMMENT ON VIEW app."A view" IS 'mine'; COMMENT ON COLUMN app."A view".body IS 'text'; COMMENT ON COLUMN app."A view".yes IS 'gone';
	GRANT SELECT (id) ON app."A view" TO friend; ALTER VIEW app."A view" SET (security_barrier);
	GRANT SELECT ON app."A view" TO reader WITH GRANT OPTION; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC});
sql($node, 'ALTER VIEW app."A view" OWNER TO boss; GRANT CREATE ON SCHEMA app TO boss');
# what an owner may do; since 17 there is MAINTAIN
my $MAY = sql($node, 'SHOW server_version_num') >= 170000 ? 'arwdDxtm' : 'arwdDxt';
my $NEW = q{schema => '{"type": "object", "properties": {"mood": {"type": "string"}, "why": {"type": "string"}}, "required": ["mood", "why"], "additionalProperties": false}'};
sql($node, qq{SELECT llm_batch.alter_task('mood', $NEW)});
is(sql($node, q{SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app."A view"'::regclass}),
	'id body state score mood_llm mood why mood_llm2 state_llm error cost answered_at', 'columns as the new schema has them');
is( sql($node, q{
		SELECT pg_get_userbyid(relowner), relacl, obj_description(oid), col_description(oid, 2), reloptions,
			(SELECT attacl FROM pg_attribute WHERE attrelid = c.oid AND attname = 'id') FROM pg_class c WHERE oid = 'app."A view"'::regclass}),
	"boss|{boss=$MAY/boss,reader=r*/boss}|mine|text|{security_barrier=true}|{friend=r/boss}", 'owner, grants, comments and options as they were');
is(as('reader', 'SELECT count(mood_llm2), count(why) FROM app."A view"'), '5|0', 'older answers are shown as far as they go');
as('boss', 'CREATE VIEW app.on_top AS SELECT why FROM app."A view"');
like(refused('boss', q{SELECT llm_batch.alter_task('mood', schema => '{"type": "object", "properties": {"other": {"type": "string"}}}')}),
	qr/cannot drop view app\."A view" because other objects depend on it DETAIL: view app\.on_top depends .*CONTEXT: .*replacing view app\."A view"/, 'what stands in the way is told');
is(sql($node, q{SELECT version FROM llm_batch.task WHERE name = 'mood'}), '2', 'and the task is as it was');
as('boss', q{DROP VIEW app.on_top; CREATE RULE r AS ON INSERT TO app."A view" DO INSTEAD NOTHING});
like(refused('boss', q{SELECT llm_batch.alter_task('mood', schema => '{"type": "object", "properties": {"other": {"type": "string"}}}')}), qr/rule r would be lost/, 'a rule is not thrown away');
as('boss', q{DROP RULE r ON app."A view"});
like(refused('alice', q{SELECT llm_batch.alter_task('mood', schema => '{"type": "object", "properties": {"other": {"type": "string"}}}')}), qr/must be (member of role|able to SET ROLE) "boss" CONTEXT: .*replacing view/, 'who does not own the view cannot change it');
as('alice', q{ALTER TABLE app.notes ADD secret int; SELECT llm_batch.alter_task('mood', prompt => 'Now: {{body}}')});
is(as('reader', 'SELECT count(mood_llm2) FROM app."A view"'), '5', 'another prompt changes nothing of it');
as('boss', q{SELECT llm_batch.alter_task('mood', schema => '{"type": "object", "properties": {"mood": {"type": "string"}}}')});
my $SHOWN = q{SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app."A view"'::regclass};
is(sql($node, $SHOWN), 'id body state score mood_llm mood mood_llm2 state_llm error cost answered_at', 'a new column of the table is not shown unasked');
my $def = sql($node, q{SELECT pg_get_viewdef('app."A view"'::regclass)}) =~ s/;$/ WHERE s.id = 1/r;
as('boss', qq{CREATE OR REPLACE VIEW app."A view" WITH (security_barrier) AS $def});
my ($code, $none, $warning) = $node->psql('postgres', qq{SET ROLE boss; SELECT llm_batch.alter_task('mood', $NEW)});
like("$code $warning", qr/^0 .*WARNING:  view app."A view" was changed since create_view\(\) made it, and stays as it is/s, 'a view that somebody has changed is left alone');
is(as('boss', 'SELECT count(mood_llm2) FROM app."A view"'), '1', 'with its condition');
like(refused('reader', 'SELECT * FROM llm_batch.task_answer(1, 1)'), $DENIED, 'and its readers get no more by the function');
as('boss', q{SELECT llm_batch.create_view('mood', 'app."A view"')});
like(sql($node, $SHOWN), qr/^id .* secret why mood_llm2 /, 'made again it has all columns');
is(as('reader', 'SELECT count(mood_llm2) FROM app."A view"'), '5', 'and all rows; grants stay');

# ---- several tables, and names ----

as('alice', q{CREATE TABLE app.more_notes (LIKE app.notes INCLUDING ALL); SELECT llm_batch.attach('mood', 'app.more_notes')});
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'app.v')}), qr/attached to several tables HINT: Pass one of these as source: app\.notes, app\.more_notes/, 'of which table?');
as('alice', q{SELECT llm_batch.create_view('mood', 'app.v', 'app.more_notes')});
is(as('alice', 'SELECT count(*) FROM app.v'), '0', 'of that one');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'app.v', 'app.short')}), qr/not attached to that table/, 'of no other');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'pg_temp.v', 'app.notes')}), qr/cannot be temporary/, 'not a temporary one');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'db.app.v', 'app.notes')}), qr/cannot name a database|cross-database/, 'not of another database');
like(refused('alice', q{SELECT llm_batch.create_view('mood', 'llm_batch.v', 'app.notes')}), qr/permission denied for schema llm_batch/, 'not in our schema');
like(refused('alice', q{BEGIN READ ONLY; SELECT llm_batch.create_view('mood', 'app.w', 'app.notes')}), qr/read-only/, 'not in a read-only transaction');

# ---- dump and restore ----

my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
my $new = start_node(name => 'new', extension => 0, conf => [ 'llm_batch.enabled = off' ]);
sql($new, 'CREATE ROLE alice; CREATE ROLE boss; GRANT alice TO boss; CREATE ROLE reader; CREATE ROLE friend; CREATE ROLE mallory');
my ($status, $out, $errors) = $new->psql('postgres', slurp_file($dump), on_error_stop => 0);
is(join("\n", grep { /ERROR/ } split /\n/, $errors), '', 'restored without an error');
is(as('reader', 'SELECT count(mood_llm2) FROM app."A view"', $new) . as('reader', 'SELECT count(answer) FROM app.by_key', $new), '51', 'the reader reads the same there');
like(refused('mallory', 'SELECT * FROM llm_batch.task_answer(1, 1)', $new), $DENIED, 'and others do not');

# ---- the end ----

like(refused('alice', q{SELECT llm_batch.detach('filled', 'app.filled')}), qr/cannot detach task "filled" because views depend on it DETAIL: They show its answers: app\."?full"?\./, 'a table is not detached under its view');
like(refused('alice', q{SELECT llm_batch.drop_task('filled')}), qr/cannot drop task "filled" because views depend on it .*cascade => true/, 'nor a task dropped');
as('alice', q{SELECT llm_batch.drop_task('filled', cascade => true)});
is(sql($node, q{SELECT to_regclass('app.full') IS NULL, count(*) FROM llm_batch.task_view WHERE view_name = 'full'}), 't|0', 'unless its views go with it');
as('alice', q{DROP VIEW app.by_key; SELECT llm_batch.drop_task('keyed')});
pass('a view that was dropped is not in the way');
sql($node, q{UPDATE llm_batch.task_view SET view_schema = 'public', view_name = 'taken' WHERE view_name = 'shown'; GRANT SELECT ON app.short TO mallory; DROP VIEW app.shown;
	DROP VIEW public.taken; SET ROLE mallory; CREATE VIEW public.taken AS SELECT answer FROM llm_batch.task_answer('2'::bigint, 1, 'c'::text)});
as('alice', q{SELECT llm_batch.drop_task('plain')});
is(sql($node, q{SELECT to_regclass('public.taken')}), 'taken', 'nor is another\'s, which stays');
like(refused('mallory', 'SELECT * FROM public.taken'), qr/does not exist any more/, 'and has no answers');
as('alice', q{SELECT llm_batch.create_task('plain', prompt => '{{body}}', model => 'mock'); SELECT llm_batch.attach('plain', 'app.short')});
like(refused('mallory', 'SELECT * FROM public.taken'), qr/does not exist any more/, 'also when there is a task of that name again');

done_testing();
