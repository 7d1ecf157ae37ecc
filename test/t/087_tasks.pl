# Tasks: create, alter, attach, run, detach, drop; who may; what becomes of them
# when tables change, databases are copied and workers die.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $orders = PostgreSQL::Test::Utils::tempdir('orders') . '/orders';
my $node = start_node(conf => [ "llm_batch.crash_file = '$orders'", 'restart_after_crash = on', 'llm_batch.sweep_interval = 1s' ]);
my $sim = start_sim();
my $PAT = q{model => 'mock', server => 'mock', max_wait => '0', mode => 'realtime'};

create_server($node, $sim);
sql($node, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE inserter LOGIN;
	CREATE ROLE mallory LOGIN;
	GRANT CREATE ON SCHEMA public TO alice, mallory});

sub as
{
	my ($role, $query, $on) = @_;
	return ($on // $node)->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# The words of the server: NOTICEs and errors.
sub said
{
	my ($role, $query, $on, $database) = @_;
	my ($status, undef, $stderr) = ($on // $node)->psql($database // 'postgres', $query, extra_params => [ '-U', $role ]);
	return $stderr =~ s/^psql:<stdin>:\d+: //mgr;
}

sub refused
{
	my ($query, $expected, $name, $role) = @_;
	my $said = said($role // 'postgres', $query);

	like($said, $expected, $name);
	like($said, qr/^HINT:  .+/m, "$name: with a hint");
}

sub settle
{
	my ($what, $on) = @_;
	return wait_until($on // $node, q{
		SELECT NOT EXISTS (SELECT FROM llm_batch.tasks WHERE waiting > 0 AND state = 'enabled')
		AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, $what // 'all is done');
}

sub summaries
{
	my ($table, $on) = @_;
	return sql($on // $node, "SELECT string_agg(summary, ' ' ORDER BY id) FROM $table");
}

# ---- the very first row ----

note('--- the first row of all');
sql($node, q{CREATE TABLE note (id int PRIMARY KEY, body text, summary text, other text, "Second ""T""" text)});
is(sql($node, "SELECT llm_batch.create_task('Notes', 'Say: {{body}}', target => 'summary', $PAT)"), 1, 'create_task() returns an id');
like(said('postgres', q{SELECT llm_batch.attach('Notes', 'note')}), qr/^NOTICE:  task "Notes" answers rows of public\.note from now on\nHINT:  SELECT llm_batch\.run\('Notes'\); answers/, 'attach() says what will happen');
like(said('postgres', q{SELECT llm_batch.attach('Notes', 'note')}), qr/^NOTICE:  task "Notes" answers rows of public\.note as before, by new triggers\nHINT:/, 'and when it is called again');
# a worker has looked around before there was anything
sql($node, q{CALL llm_batch.check_server('mock')});
sleep 2.5;
sql($node, q{INSERT INTO note VALUES (1, 'One. More.')});
settle('the first row of all is answered');
is(summaries('note'), 'One.', 'by its first sentence');
is(sql($node, q{SELECT task, owner, source, state, prompt_version, waiting, gathered, jobs, reason FROM llm_batch.tasks}), 'Notes|postgres|public.note|enabled|1|0|1|1|', 'view tasks');

# ---- what is refused ----

note('--- refused');
my $create = 'SELECT llm_batch.create_task';
refused("$create('Notes', 'x', $PAT)", qr/task "Notes" already exists/, 'a name that is taken');
refused("$create(NULL, 'x', $PAT)", qr/name must be given|name must not be NULL/, 'no name');
refused("$create('', 'x', $PAT)", qr/name/, 'an empty name');
refused("$create(repeat('x', 300), 'x', $PAT)", qr/cannot be longer than 256 bytes/, 'a long name');
refused("$create('t', $PAT)", qr/needs a prompt/, 'no prompt');
refused("$create('t', 'x {{', $PAT)", qr/template|\{\{/, 'a broken template');
refused("$create('t', 'x', max_items => 0, $PAT)", qr/max_items must lie between 1 and 50000/, 'max_items 0');
refused("$create('t', 'x', max_items => 50001, $PAT)", qr/max_items must lie between 1 and 50000/, 'max_items 50001');
refused("$create('t', 'x', model => 'mock', server => 'mock', max_wait => '-1 s')", qr/max_wait/, 'a negative max_wait');
refused("$create('t', 'x', model => 'mock', server => 'mock', max_wait => '8 days')", qr/max_wait/, 'a long max_wait');
refused("$create('t', 'x', filter => 'true; DROP TABLE note', $PAT)", qr/filter/, 'a filter with two statements');
refused("$create('t', 'x', model => 'gpt-6-luna', server => 'nowhere')", qr/server "nowhere" does not exist/, 'no such server');
refused("$create('t', 'x', model => 'mock', server => 'mock', mode => 'soon')", qr/mode/, 'no such mode');
refused(q{SELECT llm_batch.create_task('t', preset => 'horoscope', model => 'mock', server => 'mock')}, qr/preset "horoscope" does not exist/, 'no such preset');
foreach my $call (q{alter_task('nobody')}, q{drop_task('nobody')}, q{attach('nobody', 'note')}, q{detach('nobody', 'note')}, q{run('nobody')})
{
	refused("SELECT llm_batch.$call", qr/task "nobody" does not exist/, $call);
}

sql($node, q{
	CREATE VIEW note_view AS SELECT * FROM note;
	CREATE MATERIALIZED VIEW note_mat AS SELECT * FROM note;
	CREATE TABLE keyless (body text, summary text);
	CREATE TABLE made (id int PRIMARY KEY, body text, summary text, short text GENERATED ALWAYS AS (left(summary, 9)) STORED);
	CREATE TABLE ring (id int PRIMARY KEY, body text, a text, b text, c text)});

# refused_to_attach($table, {arguments}, $expected, $name)
sub refused_to_attach
{
	my ($table, $given, $expected, $name) = @_;
	my %arg = (prompt => '{{body}}', target => 'summary', %$given);
	my $list = join ', ', map { "$_ => " . quote($arg{$_}) } sort keys %arg;

	sql($node, "SELECT llm_batch.create_task('refused', $list, $PAT)");
	refused("SELECT llm_batch.attach('refused', '$table')", $expected, $name);
	is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid <> 'note'::regclass AND tgrelid <> 'ring'::regclass}), 0, "$name: no trigger is left");
	sql($node, q{SELECT llm_batch.drop_task('refused')});
}

refused_to_attach('note', { prompt => '{{body}} {{summary}}' }, qr/target column "summary" is read by the prompt/, 'a prompt that reads its own target');
refused_to_attach('made', { prompt => '{{body}} {{short}}' }, qr/the prompt reads its own target.*"short" is generated from a target column/s, 'a column that is generated from the target');
refused_to_attach('note', { prompt => '{{boddy}}' }, qr/column "boddy".*body/s, 'an unknown column');
refused_to_attach('note', { target => 'sumary' }, qr/column "sumary".*summary/s, 'an unknown target');
refused_to_attach('note', { filter => 'boddy IS NULL' }, qr/boddy/, 'a filter with an unknown column');
refused_to_attach('made', { target => 'short' }, qr/generated/, 'a generated column as target');
refused_to_attach('keyless', {}, qr/key/, 'a table without a key');
refused_to_attach('note_view', {}, qr/"note_view" is not a table/, 'a view');
refused_to_attach('note_mat', {}, qr/"note_mat" is not a table/, 'a materialized view');
sql($node, "SELECT llm_batch.create_task('refused', '{{relname}}', key => 'oid', target => 'relpages', $PAT)");
like(said('postgres', q{SELECT llm_batch.attach('refused', 'pg_class')}), qr/system catalog/, 'a table of the system');
sql($node, q{SELECT llm_batch.drop_task('refused')});
like(said('postgres', q{SELECT llm_batch.attach('Notes', NULL)}), qr/source must not be NULL/, 'no table');
refused(q{SELECT llm_batch.detach('Notes', 'ring')}, qr/task "Notes" is not attached to that table/, 'detach from another table');

# cycles of two, and of three
sql($node, "SELECT llm_batch.create_task('to_$_->[1]', '{{$_->[0]}}', target => '$_->[1]', $PAT)") foreach [ 'a', 'b' ], [ 'b', 'c' ], [ 'b', 'a' ];
sql($node, "SELECT llm_batch.create_task('c_to_a', '{{c}}', target => 'a', $PAT)");
sql($node, q{SELECT llm_batch.attach('to_b', 'ring')});
refused(q{SELECT llm_batch.attach('to_a', 'ring')}, qr/would read each other's targets in a circle/, 'a cycle of two');
sql($node, q{SELECT llm_batch.attach('to_c', 'ring')});
refused(q{SELECT llm_batch.attach('c_to_a', 'ring')}, qr/would read each other's targets in a circle/, 'a cycle of three');
refused(q{SELECT llm_batch.alter_task('to_b', '{{c}}')}, qr/in a circle/, 'a cycle by alter_task');
is(sql($node, q{SELECT version FROM llm_batch.task WHERE name = 'to_b'}), 1, 'which leaves the task as it was');
sql($node, "SELECT llm_batch.drop_task('$_')") foreach qw(to_a to_b to_c c_to_a);
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid = 'ring'::regclass}), 0, 'drop_task removes the triggers');

# ---- versions ----

note('--- versions');
sub versions { return sql($node, q{SELECT string_agg(key || ' ' || prompt_version, ', ' ORDER BY job_id, ordinal) FROM llm_batch.results WHERE job_id IN (SELECT job_id FROM llm_batch.progress WHERE task = 'Notes')}) }
is(sql($node, q{SELECT llm_batch.alter_task('Notes', 'Tell: {{body}}')}), 2, 'another prompt: version 2');
sql($node, q{INSERT INTO note VALUES (2, 'Two. More.')});
settle();
is(summaries('note'), 'One. Two.', 'newer rows get the newer prompt');
is(versions(), '1 1, 2 2', 'results name the version that made them');
is(sql($node, q{SELECT llm_batch.alter_task('Notes', priority => 3, labels => '{"a": 1}', max_items => 7)}), 2, 'other changes make no version');
is(sql($node, q{SELECT llm_batch.alter_task('Notes', 'Tell: {{body}}')}), 2, 'nor does the same prompt');
is(sql($node, q{SELECT llm_batch.alter_task('Notes', system => 'Be brief.')}), 3, 'other instructions do');
is(sql($node, q{SELECT string_agg(version || ' ' || prompt || COALESCE(' ' || system, ''), ', ' ORDER BY version) FROM llm_batch.task_version WHERE task_id = 1}),
	'1 Say: {{body}}, 2 Tell: {{body}}, 3 Tell: {{body}} Be brief.', 'all versions are kept');
is(sql($node, q{SELECT llm_batch.run('Notes')}), 2, 'run() after a new version');
settle();
is(versions(), '1 1, 2 2, 1 3, 2 3', 'answers both rows anew');
sql($node, q{SELECT llm_batch.run('Notes')});
settle();
is(versions(), '1 1, 2 2, 1 3, 2 3', 'and once more none');
is(sql($node, q{SELECT labels FROM llm_batch.progress WHERE task = 'Notes' ORDER BY job_id DESC LIMIT 1}), '{"a": 1}', 'labels go with the job');
refused(q{SELECT llm_batch.alter_task('Notes', '{{boddy}}')}, qr/column "boddy"/, 'alter_task to an unknown column');
refused(q{SELECT llm_batch.alter_task('Notes', model => 'gpt-6-luna', server => 'nowhere')}, qr/server "nowhere" does not exist/, 'alter_task to no server');
is(sql($node, q{SELECT prompt_version || model || server FROM llm_batch.tasks WHERE task = 'Notes'}), '3mockmock', 'and nothing has changed');

# ---- filter ----

note('--- filter');
sql($node, q{SELECT llm_batch.alter_task('Notes', filter => $$other = 'yes' AND id > (SELECT 0)$$); INSERT INTO note VALUES (3, 'Three.', NULL, 'no'), (4, 'Four.', NULL, 'yes')});
settle();
is(sql($node, q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM note WHERE summary IS NOT NULL}), '1 2 4', 'rows that the filter leaves out are not asked about');
sql($node, q{UPDATE note SET other = 'yes' WHERE id = 3});
settle();
is(sql($node, q{SELECT summary FROM note WHERE id = 3}), 'Three.', 'a row that comes to match is');
sql($node, q{SELECT llm_batch.alter_task('Notes', filter => $$100 / (id - 6) > 0$$); INSERT INTO note VALUES (6, 'Six.')});
sql($node, q{INSERT INTO note VALUES (7, 'Seven.')});
settle();
is(sql($node, q{SELECT string_agg(concat_ws(' ', key, r.state, error_code, substring(error FROM 'division by zero')), ', ' ORDER BY key) FROM llm_batch.results r JOIN llm_batch.progress USING (job_id) WHERE task = 'Notes' AND key IN ('6', '7')}),
	'6 failed invalid_request division by zero, 7 succeeded', 'a row for which the filter fails is an item that failed, and says why');
sql($node, q{SELECT llm_batch.alter_task('Notes', filter => ''); SELECT llm_batch.run('Notes', 'id > 4')});
settle();
is(sql($node, q{SELECT string_agg(summary, ' ' ORDER BY id) FROM note WHERE id > 4}), 'Six. Seven.', 'run() without the filter answers it');

# ---- names, keys, several tasks and tables ----

note('--- names and keys');
my $odd = q{it's "odd" {{x}} \\ %s ü};
sql($node, q{
	CREATE SCHEMA "An ""App""";
	CREATE TABLE "An ""App"""."It's a table" ("first key" int, "B ""key""" text, "the body" text, "the answer" text, PRIMARY KEY ("first key", "B ""key"""))});
my $create_odd = 'SELECT llm_batch.create_task(' . quote($odd) . ", 'Say: {{the body}}', target => '\"the answer\"', $PAT)";
sql($node, $create_odd);
sql($node, 'SELECT llm_batch.attach(' . quote($odd) . q{, '"An ""App"""."It''s a table"')});
sql($node, q{INSERT INTO "An ""App"""."It's a table" VALUES (1, E'a"b\\\\c\n, d', 'One.'), (1, '', 'Two.'), (2, '["x"]', 'Three.')});
settle();
is(sql($node, q{SELECT string_agg("the answer", ' ' ORDER BY "the body") FROM "An ""App"""."It's a table"}), 'One. Three. Two.', 'names with blanks and quotes, keys with all sorts of characters');
sql($node, q{UPDATE "An ""App"""."It's a table" SET "the body" = 'Uno.' WHERE "the body" = 'One.'});
settle();
is(sql($node, q{SELECT count(*) FROM "An ""App"""."It's a table" WHERE "the answer" = 'Uno.'}), 1, 'an UPDATE as well');
is(sql($node, 'SELECT llm_batch.run(' . quote($odd) . ')'), 3, 'and run()');
settle();
is(sql($node, 'SELECT sum(total) FROM llm_batch.progress WHERE task = ' . quote($odd)), 4, 'which asks about nothing that is answered');
sql($node, 'SELECT llm_batch.detach(' . quote($odd) . q{, '"An ""App"""."It''s a table"'), llm_batch.drop_task(} . quote($odd) . ')');
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid <> 'note'::regclass}), 0, 'detach and drop_task');

my %key = (
	timestamptz => q{'2026-01-02 03:04:05.678+02'}, uuid => q{'6ecd8c99-4036-403d-bf84-cf8400f67836'}, 'numeric(10,2)' => '1.50', float8 => '0.1::float8 + 0.2',
	bytea => q{'\xdeadbeef'}, date => q{'2026-03-04'}, 'char(5)' => q{'ab'}, interval => q{'1 month 2 days'}, boolean => 'true', inet => q{'10.0.0.1'},
	'int[]' => q{'{1,2}'}, int4range => q{'[1,5)'}, '"char"' => q{'x'}, xid8 => q{'7'}, timetz => q{'01:02:03+04'}, name => q{'n'}, color => q{'dark blue'}, even => '4', pair => q{'(1,"a b")'});
my @types = sort keys %key;
sql($node, q{CREATE TYPE color AS ENUM ('red', 'dark blue'); CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0); CREATE TYPE pair AS (a int, b text)});
sql($node, join '; ', "SELECT llm_batch.create_task('keyed', 'Say: {{body}}', target => 'summary', $PAT)",
	map { "CREATE TABLE keyed_$_ (id $types[$_] PRIMARY KEY, body text, summary text); SELECT llm_batch.attach('keyed', 'keyed_$_')" } 0 .. $#types);
sql($node, join '; ', q{SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 0; SET bytea_output = 'escape'},
	map { "INSERT INTO keyed_$_ VALUES ($key{$types[$_]}, 'One.')" } 0 .. $#types);
settle('keys of many types');
is(summaries("keyed_$_"), 'One.', "a key of type $types[$_], whatever the session's settings are") foreach 0 .. $#types;
sql($node, q{SELECT llm_batch.drop_task('keyed')});

sql($node, qq{
	CREATE TABLE other_note (id int PRIMARY KEY, body text, summary text);
	SELECT llm_batch.attach('Notes', 'other_note');
	SELECT llm_batch.create_task('Second', 'Second: {{body}}', target => '"Second ""T"""', $PAT);
	SELECT llm_batch.attach('Second', 'note');
	INSERT INTO note VALUES (10, 'Ten.');
	INSERT INTO other_note VALUES (10, 'Other ten.')});
settle();
is(sql($node, q{SELECT summary || "Second ""T""" FROM note WHERE id = 10}), 'Ten.Ten.', 'two tasks on one table');
is(summaries('other_note'), 'Other ten.', 'one task on two tables');
is(sql($node, q{SELECT string_agg(task || ' ' || source, ', ' ORDER BY task, source) FROM llm_batch.tasks}), 'Notes public.note, Notes public.other_note, Second public.note', 'a line each in tasks');
sql($node, q{SELECT llm_batch.detach('Notes', 'other_note'); INSERT INTO other_note VALUES (11, 'x'); INSERT INTO note VALUES (11, 'Eleven.')});
settle();
is(sql($node, q{SELECT summary FROM note WHERE id = 11}) . sql($node, q{SELECT summary FROM other_note WHERE id = 11}), 'Eleven.', 'detached from one, it goes on with the other');
sql($node, q{SELECT llm_batch.drop_task('Second')});

# attach() in two sessions at once
my $one = LlmBatch::Session->new($node);
$one->query(q{BEGIN; SELECT llm_batch.attach('Notes', 'other_note')});
my $two = LlmBatch::Session->new($node);
$two->query(q{SET statement_timeout = '500ms'});
$two->query(q{SELECT llm_batch.attach('Notes', 'other_note')});
$one->query('COMMIT');
$two->query(q{SELECT llm_batch.attach('Notes', 'other_note')});
$_->end foreach $one, $two;
is(sql($node, q{SELECT count(*) FROM llm_batch.tasks WHERE source = 'public.other_note'}), 1, 'attached twice at once: it is attached once');

# ---- privileges ----

note('--- privileges');
as('alice', qq{
	CREATE TABLE hers (id int PRIMARY KEY, body text, summary text);
	GRANT INSERT ON hers TO inserter;
	SELECT llm_batch.create_task('hers', 'Say: {{body}}', target => 'summary', $PAT);
	SELECT llm_batch.attach('hers', 'hers')});
as('inserter', q{INSERT INTO hers VALUES (1, 'One.')});
settle();
is(summaries('hers'), 'One.', 'who may only insert feeds the task');
is(sql($node, q{SELECT string_agg(DISTINCT owner, ' ') FROM llm_batch.progress WHERE task = 'hers'}), 'alice', 'at the cost of its owner');
is(as('inserter', q{SELECT count(*) FROM llm_batch.tasks}) . as('inserter', q{SELECT count(*) FROM llm_batch.progress}) . as('inserter', q{SELECT count(*) FROM llm_batch.inbox}), '000', 'and sees nothing of it');
foreach my $call (q{alter_task('hers', 'Give me {{body}}')}, q{drop_task('hers')}, q{attach('hers', 'hers')}, q{detach('hers', 'hers')}, q{run('hers')})
{
	refused("SELECT llm_batch.$call", qr/task "hers" does not exist/, "a stranger: $call", 'mallory');
}
like(said('mallory', "SELECT llm_batch.create_task('hers', 'x', $PAT)"), qr/task "hers" already exists/, 'names are shared');
as('alice', q{SELECT llm_batch.create_task('greedy', 'Say: {{body}}', target => 'summary', model => 'mock', server => 'mock')});
refused(q{SELECT llm_batch.attach('greedy', 'note')}, qr/permission denied/, 'a table that the owner may not read', 'alice');
like(said('alice', q{SELECT llm_batch.create_task('dear', 'x', model => 'gpt-6-luna', server => 'sim')}), qr/permission denied for foreign server sim/, 'a server that the owner may not use');
like(said('mallory', q{INSERT INTO llm_batch.inbox VALUES (1, 1, now(), 'r', '1')}), qr/permission denied/, 'nobody writes into the inbox');
like(said('mallory', q{SELECT nextval('llm_batch.inbox_id_seq')}), qr/permission denied/, 'nor draws its numbers');

# a stranger's triggers, on a table of his
as('mallory', q{
	CREATE TABLE his (id int PRIMARY KEY, body text, summary text);
	GRANT ALL ON his TO PUBLIC;
	CREATE TABLE caught (who text);
	GRANT ALL ON caught TO PUBLIC;
	CREATE FUNCTION catch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN NEW; END $$;
	CREATE TRIGGER catch BEFORE UPDATE ON his FOR EACH ROW EXECUTE FUNCTION catch()});
my $hers = sql($node, q{SELECT a.id FROM llm_batch.attachment a JOIN llm_batch.task t ON t.id = a.task_id WHERE t.name = 'hers'});
foreach my $task ('hers', 'Notes')
{
	as('mallory', "CREATE TRIGGER t AFTER INSERT ON his FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('$task')");
	refused(q{INSERT INTO his VALUES (1, 'Mine.')}, qr/task "$task" is not attached to "his"/, "a trigger of a stranger for task $task", 'mallory');
	as('mallory', 'DROP TRIGGER t ON his');
}
sql($node, q{SELECT llm_batch.alter_task('hers', enabled => false)});
as('mallory', qq{
	CREATE TRIGGER llm_batch_${hers}_insert AFTER INSERT ON his FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('hers');
	CREATE TRIGGER llm_batch_${hers}_truncate AFTER TRUNCATE ON his EXECUTE FUNCTION llm_batch.enqueue('hers');
	TRUNCATE his;
	INSERT INTO his VALUES (1, 'Mine.')});
is(sql($node, q{SELECT count(*) FROM llm_batch.inbox}), 0, 'a trigger that bears the name of another does not feed its task');
sql($node, q{SELECT llm_batch.alter_task('hers', enabled => true)});
as('alice', q{SELECT llm_batch.run('hers')});
settle();
is(sql($node, q{SELECT sum(total) FROM llm_batch.progress WHERE task = 'hers'}), 1, 'nor makes it pay again');
is(sql($node, q{SELECT count(*) FROM caught}) . sql($node, q{SELECT count(*) FROM his WHERE summary IS NOT NULL}), '00', 'nobody has written his table');

# what the table's owner does in triggers, filters and casts happens as the task's owner
as('alice', q{
	CREATE FUNCTION whoami() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.summary = current_user || ': ' || NEW.summary; RETURN NEW; END $$;
	CREATE TRIGGER whoami BEFORE UPDATE ON hers FOR EACH ROW EXECUTE FUNCTION whoami();
	INSERT INTO hers VALUES (2, 'Two.')});
settle();
is(sql($node, q{SELECT summary FROM hers WHERE id = 2}), 'alice: Two.', 'answers are written as the owner');
sql($node, q{REVOKE USAGE ON FOREIGN SERVER mock FROM PUBLIC});
as('inserter', q{INSERT INTO hers VALUES (3, 'Three.')});
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.progress WHERE task = 'hers' AND state = 'paused' AND reason ~* 'permission|usage'}, 'without USAGE the job pauses, and the INSERT went through');
sql($node, q{GRANT USAGE ON FOREIGN SERVER mock TO PUBLIC});
sql($node, q{SELECT llm_batch.resume(job_id) FROM llm_batch.progress WHERE state = 'paused'});
settle();
is(sql($node, q{SELECT summary FROM hers WHERE id = 3}), 'alice: Three.', 'and goes on with it');

# ---- on and off ----

note('--- disabled');
sql($node, q{SELECT llm_batch.alter_task('Notes', enabled => false); INSERT INTO note VALUES (20, 'Twenty.')});
sleep 0.6;
is(sql($node, q{SELECT state, waiting FROM llm_batch.tasks WHERE task = 'Notes' AND source = 'public.note'}), 'disabled|1', 'a disabled task lets rows wait');
is(sql($node, q{SELECT summary IS NULL FROM note WHERE id = 20}), 't', 'and asks nothing');
sql($node, q{SELECT llm_batch.alter_task('Notes', enabled => true)});
settle();
is(sql($node, q{SELECT summary FROM note WHERE id = 20}), 'Twenty.', 'enabled: they are answered');

# ---- tables that change ----

note('--- tables that change');
my $session = LlmBatch::Session->new($node);
$session->query(q{INSERT INTO note VALUES (30, 'Thirty.')});
settle();
sql($node, q{DROP VIEW note_view; DROP MATERIALIZED VIEW note_mat; ALTER TABLE note RENAME TO renamed});
is($session->query(q{INSERT INTO renamed VALUES (31, 'Thirty-one.')}), '', 'after RENAME inserts go on');
wait_until($node, q{SELECT reason IS NOT NULL FROM llm_batch.tasks WHERE task = 'Notes' AND source = 'public.note'}, 'tasks tells what is wrong');
note(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'Notes' AND source = 'public.note'}));
sql($node, q{SELECT llm_batch.attach('Notes', 'renamed')});
settle();
is(sql($node, q{SELECT summary FROM renamed WHERE id = 31}), 'Thirty-one.', 'attach() of the new name: what was put in meanwhile is answered');
is(sql($node, q{SELECT count(*) FROM llm_batch.tasks WHERE task = 'Notes' AND source LIKE '%note'}), 1, 'and the old name is gone (the other table is there)');
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid = 'renamed'::regclass}), 4, 'it has its triggers once');
sql($node, q{SELECT llm_batch.run('Notes')});
settle();
is(sql($node, q{SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id) WHERE task = 'Notes' AND key = '31'}), 1, 'nothing is asked again');

is($session->query(q{ALTER TABLE renamed RENAME body TO text}), '', 'a column of the prompt is renamed');
is($session->query(q{INSERT INTO renamed VALUES (32, 'Thirty-two.')}), '', 'inserts go on');
wait_until($node, q{SELECT reason ~ 'body' FROM llm_batch.tasks WHERE task = 'Notes' AND source = 'public.renamed'}, 'tasks tells which column is missing');
is($session->query(q{ALTER TABLE renamed RENAME text TO body}), '', 'it is called as before');
settle();
is(sql($node, q{SELECT summary FROM renamed WHERE id = 32}), 'Thirty-two.', 'the row is answered');
is($session->query(q{ALTER TABLE renamed DROP COLUMN body; ALTER TABLE renamed ADD body text DEFAULT 'New.'}), '', 'the column is dropped, and another made');
is($session->query(q{INSERT INTO renamed (id) VALUES (33)}), '', 'inserts go on');
settle();
is(sql($node, q{SELECT summary FROM renamed WHERE id = 33}), 'New.', 'and are answered');
is($session->query(q{ALTER TABLE renamed DROP COLUMN id CASCADE; INSERT INTO renamed VALUES ('x')}), '', 'without the key inserts go on, too');
wait_until($node, q{SELECT reason ~ 'key' FROM llm_batch.tasks WHERE task = 'Notes' AND source = 'public.renamed'}, 'tasks tells that the key is gone');
is($session->query(q{DROP TABLE renamed CASCADE}), '', 'DROP TABLE');
sleep 0.5;
is(sql($node, q{SELECT llm_batch.detach('Notes', 'other_note'), llm_batch.drop_task('Notes')}), '|', 'and drop_task of what is left');

# what is left of a task under another name does no harm
sql($node, qq{
	CREATE TABLE first_name (id int PRIMARY KEY, body text, summary text);
	SELECT llm_batch.create_task('renames', 'Say: {{body}}', target => 'summary', $PAT);
	SELECT llm_batch.attach('renames', 'first_name');
	ALTER TABLE first_name RENAME TO last_name;
	SELECT llm_batch.drop_task('renames')});
is($session->query(q{INSERT INTO last_name VALUES (1, 'x'); UPDATE last_name SET body = 'y'; DELETE FROM last_name; TRUNCATE last_name}), '', 'a table that was renamed before its task was dropped goes on being a table');
sql($node, q{
	CREATE TABLE first_name (id int PRIMARY KEY, body text, summary text);
	SELECT llm_batch.create_task('renames', 'Say: {{body}}', target => 'summary', model => 'mock', server => 'mock');
	SELECT llm_batch.attach('renames', 'first_name');
	ALTER TABLE first_name RENAME TO newest_name});
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'renames'}), q{table public.first_name is called public.newest_name now: attach('renames', 'public.newest_name')}, 'tasks tells the new name of a table');
sql($node, q{CREATE SCHEMA older; ALTER TABLE newest_name SET SCHEMA older; ALTER SCHEMA older RENAME TO newer});
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'renames'}), q{table public.first_name is called newer.newest_name now: attach('renames', 'newer.newest_name')}, 'and of its schema');
sql($node, q{ALTER TABLE newer.newest_name SET SCHEMA public});
is(said('postgres', q{SELECT llm_batch.detach('renames', 'newest_name'::regclass)}), '', 'detach of a table that was renamed');
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid = 'newest_name'::regclass}), 0, 'its triggers are gone');
is(sql($node, q{SELECT state FROM llm_batch.tasks WHERE task = 'renames'}), 'detached', 'and tasks says so');
$session->end;

# ---- tables that are gone ----

note('--- tables that are gone');
sub kept
{
	my ($id) = @_;
	return sql($node, "SELECT (SELECT count(*) FROM llm_batch.task_item WHERE attachment_id = $id), (SELECT count(*) FROM llm_batch.inbox WHERE attachment_id = $id)");
}

# a task for each of three tables; the answers to two rows of each, and a third that waits
my %attachment;
foreach my $name (qw(gone swapped moved))
{
	sql($node, qq{
		CREATE TABLE $name (id int PRIMARY KEY, body text, summary text);
		SELECT llm_batch.create_task('$name', 'Say: {{body}}', target => 'summary', $PAT);
		SELECT llm_batch.attach('$name', '$name');
		INSERT INTO $name VALUES (1, 'One.'), (2, 'Two.')});
	$attachment{$name} = sql($node, "SELECT id FROM llm_batch.attachment WHERE source_table = '$name'");
}
settle('they are answered');
foreach my $name (qw(gone swapped moved))
{
	sql($node, "SELECT llm_batch.alter_task('$name', enabled => false); INSERT INTO $name VALUES (3, 'Three.')");
	is(kept($attachment{$name}), '2|1', "$name: two answers, and a row that waits");
}
is(sql($node, q{SELECT count(reason) FROM llm_batch.tasks WHERE task IN ('gone', 'swapped', 'moved')}), 0, 'nothing is wrong');

# somebody else's trigger of that name is not the table under a new one
as('mallory', q{CREATE TABLE his_own (id int PRIMARY KEY, body text, summary text)});
as('mallory', qq{CREATE TRIGGER llm_batch_$attachment{gone}_insert AFTER INSERT ON his_own FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('gone')});
sql($node, q{DROP TABLE gone; DROP TABLE swapped; CREATE TABLE swapped (id int PRIMARY KEY, body text, summary text); ALTER TABLE moved RENAME TO moved_on});
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'gone'}), q{table public.gone does not exist any more: attach() another, or detach('gone', 'public.gone')}, 'tasks tells that a table is gone');
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'swapped'}), q{table public.swapped lacks triggers of the task, so its changes are missed: attach('swapped', 'public.swapped'), then run('swapped')}, 'and that another has its name');
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'moved'}), q{table public.moved is called public.moved_on now: attach('moved', 'public.moved_on')}, 'and that one has another name');
as('mallory', q{DROP TABLE his_own});
# somebody calls the worker
sql($node, q{SELECT llm_batch.alter_task('moved', max_items => 5)});
wait_until($node, "SELECT NOT EXISTS (SELECT FROM llm_batch.task_item WHERE attachment_id = $attachment{gone}) AND NOT EXISTS (SELECT FROM llm_batch.inbox WHERE attachment_id = $attachment{gone})", 'what was kept of a dropped table goes');
is(kept($attachment{moved}), '2|1', 'and of one that has another name it stays');
sql($node, q{SELECT llm_batch.attach('moved', 'moved_on'); SELECT llm_batch.alter_task('moved', enabled => true)});
settle('under its new name it goes on');
is(sql($node, q{SELECT summary FROM moved_on WHERE id = 3}) . sql($node, q{SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id) WHERE task = 'moved'}), 'Three.3', 'with the row that waited, and no other');
refused(q{SELECT llm_batch.detach('gone', 'elsewhere.gone')}, qr/task "gone" is not attached to that table/, 'detach by a name that is not its');
is(said('postgres', q{SELECT llm_batch.detach(task, source) FROM llm_batch.tasks WHERE task = 'gone'}), '', 'detach by the old name');
is(sql($node, q{SELECT source IS NULL, reason FROM llm_batch.tasks WHERE task = 'gone'}), 't|', 'and nothing is left');
sql($node, q{CREATE SCHEMA app; CREATE TABLE app.gone (id int PRIMARY KEY, body text, summary text)});
sql($node, q{SELECT llm_batch.attach('gone', 'app.gone'); DROP SCHEMA app CASCADE});
is(said('postgres', q{SELECT llm_batch.detach('gone', 'gone')}), '', 'also without the schema, which is gone as well');
sql($node, "SELECT llm_batch.drop_task('$_')") foreach qw(gone swapped moved);
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.gathering g WHERE NOT EXISTS (SELECT FROM llm_batch.attachment a WHERE a.id = g.attachment_id)', 'after drop_task nothing is left of them');

# names in a filter
sql($node, qq{
	CREATE FUNCTION is_long(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT length(\$1) > 3';
	CREATE TABLE filtered (id int PRIMARY KEY, body text, summary text);
	SELECT llm_batch.create_task('filtered', 'Say: {{body}}', target => 'summary', filter => 'is_long(body)', $PAT)});
refused(q{SELECT llm_batch.attach('filtered', 'filtered')}, qr/function is_long\(text\) does not exist.*HINT:  .*with their schema/s, 'a filter with a name that is not qualified');
sql($node, q{SELECT llm_batch.alter_task('filtered', filter => 'bdy IS NULL')});
refused(q{SELECT llm_batch.attach('filtered', 'filtered')}, qr/column "bdy" does not exist.*HINT:  Perhaps you meant/s, 'a filter with a column that is not there');
sql($node, q{SELECT llm_batch.alter_task('filtered', filter => 'public.is_long(body)'); SELECT llm_batch.attach('filtered', 'filtered'); SELECT llm_batch.drop_task('filtered')});

# ---- rows wait, and the task goes ----

note('--- dropped while rows wait');
sql($node, qq{
	CREATE TABLE waits (id int PRIMARY KEY, body text, summary text);
	SELECT llm_batch.create_task('waits', 'Say: {{body}}', target => 'summary', model => 'mock', server => 'mock', max_wait => '1 day');
	SELECT llm_batch.attach('waits', 'waits');
	INSERT INTO waits SELECT n, 'x' FROM generate_series(1, 7000) n;
	SELECT llm_batch.drop_task('waits');
	INSERT INTO waits VALUES (0, 'x')});
wait_until($node, q{SELECT count(*) = 0 FROM llm_batch.inbox}, 'what waited is forgotten');
is(sql($node, q{SELECT count(*) FROM llm_batch.progress WHERE task = 'waits'}), 0, 'and was never asked about');
sql($node, qq{SELECT llm_batch.create_task('waits', 'Say: {{body}}', target => 'summary', $PAT); SELECT llm_batch.attach('waits', 'waits'); DELETE FROM waits WHERE id > 2});
settle();
is(sql($node, q{SELECT llm_batch.run('waits')}), 3, 'a task of the same name begins anew');
settle();
is(summaries('waits'), 'x x x', 'and answers');

# ---- the worker dies ----

note('--- the worker dies');
foreach my $case ('killed while rows wait', 'gathering changed rows: commit', 'gathering changed rows: committed', 'error gathering changed rows: commit')
{
	my $die = $case =~ /^error (.*)/ ? "error $1" : "kill $case";

	sql($node, q{SELECT llm_batch.alter_task('waits', server => 'sim', model => 'gpt-6-luna', mode => 'batch', max_wait => '1.5 s'); TRUNCATE waits});
	settle();
	$sim->reset;
	sql($node, q{INSERT INTO waits SELECT n, format('Row %s waits.', n) FROM generate_series(1, 30) n});
	if ($case =~ /while/)
	{
		my $offset = -s $node->logfile;
		kill 'KILL', worker_pid($node);
		$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
	}
	else
	{
		append_to_file($orders, "$die\n");
		my $until = time + $LlmBatch::PATIENCE;
		sleep 0.1 while -s $orders && time < $until;
		is(-s $orders, 0, "$case: the point was passed");
		$node->poll_query_until('postgres', 'SELECT true');
	}
	settle("$case: all is done");
	check_prompts_ran_once($sim, 30, "$case: every row was asked about once");
	is(sql($node, q{SELECT count(*) FROM waits WHERE summary = format('Say: Row %s waits.', id)}), 30, "$case: every row has its answer");
}

# ---- dump, restore, copy ----

note('--- dumped and copied');
sql($node, q{SELECT llm_batch.alter_task('waits', max_wait => '1 day', server => 'mock', model => 'mock', mode => 'realtime'); INSERT INTO waits VALUES (100, 'Waits.')});
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dumpall', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dumpall');
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init;
$restored->append_conf('postgresql.conf', "shared_preload_libraries = 'llm_batch'\nllm_batch.sweep_interval = 1s");
$restored->start;
$restored->command_ok([ 'psql', '-XAtq', '-d', $restored->connstr('postgres'), '-f', $dump ], 'restored');
sql($node, 'CREATE DATABASE copied TEMPLATE postgres');

foreach my $where ([ 'restored', $restored, 'postgres' ], [ 'copied', $node, 'copied' ])
{
	my ($name, $on, $database) = @$where;
	my $query = sub { return $on->safe_psql($database, $_[0]) };

	is($query->(q{SELECT DISTINCT state FROM llm_batch.tasks}), 'restored', "$name: tasks are 'restored'");
	is($query->(q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid = 'waits'::regclass}), 4, "$name: the triggers are there");
	$query->(q{INSERT INTO waits VALUES (101, 'Row 101.'); UPDATE waits SET body = 'Changed.' WHERE id = 1});
	is($query->(q{SELECT waiting FROM llm_batch.tasks WHERE task = 'waits'}), 3, "$name: changes go to the inbox, behind what was there");
	my $jobs = $query->('SELECT count(*) FROM llm_batch.progress');
	sleep 2.5;
	is($query->('SELECT count(*) FROM llm_batch.progress'), $jobs, "$name: nothing is asked");
	is($query->(q{SELECT llm_batch.alter_task('waits', enabled => true, max_wait => '0')}), 1, "$name: alter_task(enabled => true)");
	$on->poll_query_until($database, q{SELECT count(*) = 3 FROM waits WHERE summary IN ('Waits.', 'Row 101.', 'Changed.')}) or fail("$name: they are answered");
	is($query->(q{SELECT state FROM llm_batch.tasks WHERE task = 'waits'}), 'enabled', "$name: the task is at home");
	is($query->(q{SELECT sum(total) FROM llm_batch.progress WHERE task = 'waits' AND job_id > } . sql($node, q{SELECT max(job_id) FROM llm_batch.progress})), 3, "$name: of just these three rows");
}
is(sql($node, q{SELECT waiting FROM llm_batch.tasks WHERE task = 'waits'}), 1, 'the original knows nothing of it');
check_sim($sim);

done_testing();
