# Tasks in bad company: filters that break or drag, locks, keys without
# measure, tables that others take over, two hands at once.  What is wrong
# with one row, one task or one person is nobody else's trouble.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => [ "llm_batch.write_back_timeout = '2s'", 'restart_after_crash = on' ]);
my $PAT = q{model => 'mock', server => 'mock', max_wait => '0', mode => 'realtime', target => 'ans'};

sql($node, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	GRANT CREATE ON SCHEMA public TO alice, mallory});

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

sub said
{
	my ($role, $query) = @_;
	my ($status, undef, $stderr) = $node->psql('postgres', $query, extra_params => [ '-U', $role ]);
	return $stderr;
}

# A table of that name with a task on it.
sub task_on
{
	my ($table, %opt) = @_;
	my $prompt = $opt{prompt} // "$table {{body}}";
	my $more = $opt{more} // '';

	as($opt{role} // 'postgres', qq{
		CREATE TABLE $table (} . ($opt{columns} // 'id int PRIMARY KEY, body text, ans text') . qq{);
		SELECT llm_batch.create_task('$table', prompt => '$prompt', $PAT$more);
		SELECT llm_batch.attach('$table', '$table')});
}

sub answered
{
	my ($table, $count, $name) = @_;
	ok(wait_until($node, "SELECT count(ans) = $count FROM $table", $name), $name);
}

sub reason
{
	my ($task) = @_;
	return sql($node, "SELECT reason FROM llm_batch.tasks WHERE task = '$task'");
}

# One that is well, beside all the others.
task_on('well');

sub others_go_on
{
	my ($name) = @_;
	my $id = sql($node, q{INSERT INTO well SELECT COALESCE(max(id), 0) + 1, 'text' FROM well RETURNING id});
	ok(wait_until($node, "SELECT ans IS NOT NULL FROM well WHERE id = $id", $name), "$name: other tasks go on");
}

# ---- filters ----

task_on('filtered', columns => 'id int PRIMARY KEY, body text, ans text, st text', more => q{, filter => 'st IS NULL'});
sql($node, 'ALTER TABLE filtered DROP COLUMN st');
is(said('postgres', q{INSERT INTO filtered VALUES (1, 'a')}), '', 'a row comes in, although the column of the filter is gone');
others_go_on('a filter whose column is gone');
like(reason('filtered'), qr/column "st" does not exist/, 'the task says what is missing');
is(sql($node, q{SELECT waiting FROM llm_batch.tasks WHERE task = 'filtered'}), '1', 'the row waits, and has not failed');
sql($node, 'ALTER TABLE filtered ADD COLUMN st text');
answered('filtered', 1, 'once that is mended the row is answered');

sql($node, q{
	CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN true; END';
	CREATE FUNCTION odd(int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF $1 = 3 THEN RAISE 'row % is odd', $1; END IF; RETURN true; END$$});
task_on('dragged', more => q{, filter => 'public.slow(id)'});
sql($node, q{INSERT INTO dragged SELECT g, 'text' FROM generate_series(1, 250) g});
others_go_on('a slow filter');
answered('dragged', 250, 'rows of a slow filter are answered, a few at a time');
is(sql($node, q{SELECT count(*) FROM llm_batch.results JOIN llm_batch.progress USING (job_id) WHERE task = 'dragged' AND results.state <> 'succeeded'}),
	'0', 'and none of them has failed');

task_on('odd_one', more => q{, filter => 'public.odd(id)'});
sql($node, q{INSERT INTO odd_one SELECT g, 'text' FROM generate_series(1, 6) g});
answered('odd_one', 5, 'a filter that fails for one row stops that one only');
is(sql($node, q{SELECT key || ' ' || error_code || ' ' || error FROM llm_batch.results JOIN llm_batch.progress USING (job_id)
	WHERE task = 'odd_one' AND results.state = 'failed'}), '3 invalid_request row 3 is odd', 'whose item says why');

# ---- locks ----

sql($node, q{
	CREATE TABLE parts (id int PRIMARY KEY, body text, ans text) PARTITION BY RANGE (id);
	CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200);
	SELECT llm_batch.create_task('parts', prompt => 'P {{body}}', } . $PAT . q{);
	SELECT llm_batch.attach('parts', 'parts')});
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE ONLY parts_high IN ACCESS EXCLUSIVE MODE');
sql($node, q{INSERT INTO parts_low VALUES (1, 'a'), (2, 'b')});
others_go_on('a locked partition');
$locker->query_safe('COMMIT');
answered('parts', 2, 'rows that were not to be read for a lock are answered when it is gone');
$locker->query_safe('BEGIN; LOCK TABLE parts IN ACCESS EXCLUSIVE MODE');
others_go_on('a locked table');
$locker->query_safe('COMMIT');

# ---- a server that goes, keys without measure ----

sql($node, q{CREATE SERVER gone FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock')});
sql($node, q{
	CREATE TABLE lost (id int PRIMARY KEY, body text, ans text);
	SELECT llm_batch.create_task('lost', prompt => '{{body}}', model => 'mock', server => 'gone', max_wait => '0', target => 'ans');
	SELECT llm_batch.attach('lost', 'lost');
	DROP SERVER gone;
	INSERT INTO lost VALUES (1, 'a')});
others_go_on('a server that is gone');
like(reason('lost'), qr/server "gone" does not exist any more/, 'the task says so');

task_on('long_keys', columns => 'id bytea PRIMARY KEY, body text, ans text');
sql($node, q{INSERT INTO long_keys SELECT convert_to(string_agg(md5(g::text), ''), 'UTF8'), 'a' FROM generate_series(1, 60) g});
others_go_on('a key of 1,920 bytes, twice as long in hexadecimal');
sql($node, q{INSERT INTO long_keys VALUES ('\x01', 'b')});
answered('long_keys', 1, 'rows beside it are answered');
is(sql($node, q{SELECT count(*) FROM llm_batch.results JOIN llm_batch.progress USING (job_id)
	WHERE task = 'long_keys' AND results.state = 'failed' AND error ~ 'the key has more than'}), '1', 'that one says why not');

# ---- large texts ----

task_on('large');
# of its own: what it has touched of the shared buffers is everybody's
sub own_kb
{
	my $status = slurp_file('/proc/' . worker_pid($node) . '/status');
	return $status =~ /^RssAnon:\s+(\d+) kB/m ? $1 : die 'no RssAnon';
}
my $before = own_kb();
sql($node, q{INSERT INTO large SELECT g, (SELECT string_agg(md5((g * 1000000 + i)::text), '') FROM generate_series(1, 25000) i) FROM generate_series(1, 100) g});
answered('large', 100, '80 MB of texts are asked about');
cmp_ok(own_kb() - $before, '<', 64 * 1024, 'and the worker has grown by less than 64 MB');

# ---- what our own answers set off ----

task_on('family', columns => 'id int PRIMARY KEY, body text, ans text, parent int');
sql($node, q{
	CREATE FUNCTION beget() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
	BEGIN
		IF NEW.ans IS NOT NULL AND NEW.parent IS NULL THEN
			INSERT INTO family VALUES (NEW.id + 100, 'child of ' || NEW.id, NULL, NEW.id);
			UPDATE family SET body = 'touched' WHERE id = 50;
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER beget AFTER UPDATE ON family FOR EACH ROW EXECUTE FUNCTION beget();
	INSERT INTO family VALUES (50, 'old', NULL, 1)});
answered('family', 1, 'one is answered');
sql($node, q{INSERT INTO family VALUES (1, 'a')});
answered('family', 3, 'what a trigger inserts while we write is answered');
ok(wait_until($node, q{SELECT ans ~ 'touched' FROM family WHERE id = 50}, 'the touched one'), 'what it changes as well');

# ---- names ----

sql($node, q{
	CREATE SCHEMA archive;
	CREATE TABLE named (id int PRIMARY KEY, body text, ans text) PARTITION BY RANGE (id);
	CREATE TABLE named_low PARTITION OF named FOR VALUES FROM (0) TO (100);
	CREATE TABLE archive.named PARTITION OF named FOR VALUES FROM (100) TO (200);
	SELECT llm_batch.create_task('named', prompt => 'N {{body}}', } . $PAT . q{);
	SELECT llm_batch.attach('named', 'named');
	BEGIN; INSERT INTO named VALUES (3, 'a'), (4, 'b'); TRUNCATE archive.named; COMMIT});
answered('named', 2, 'a partition that bears the name of its table is not taken for it when it is emptied');

task_on('art', role => 'alice');
as('alice', 'ALTER TABLE art RENAME TO art_2025; CREATE TABLE secret AS SELECT 42 AS n');
as('mallory', q{
	CREATE TABLE loot (who text);
	CREATE TABLE art (id int PRIMARY KEY, body text, ans text);
	GRANT ALL ON art, loot TO PUBLIC;
	CREATE FUNCTION steal() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NEW; END';
	CREATE TRIGGER steal BEFORE UPDATE ON art FOR EACH ROW EXECUTE FUNCTION steal();
	CREATE TRIGGER go AFTER INSERT ON art REFERENCING NEW TABLE AS new EXECUTE FUNCTION llm_batch.enqueue('art')});
like(said('mallory', q{INSERT INTO art VALUES (1, 'mine')}), qr/task "art" is not attached/, 'who takes the name of an attached table feeds nothing');
as('alice', q{INSERT INTO art_2025 VALUES (7, 'hers')});
others_go_on('a table whose name was taken');
is(sql($node, q{SELECT count(*) FROM loot}) . sql($node, q{SELECT count(ans) FROM art}), '00', 'nothing ran there, and nothing was written');
like(reason('art'), qr/another role|does not exist any more/, 'the task says why it does nothing');

# ---- whose rights ----

as('mallory', q{
	CREATE TYPE mk AS ENUM ('a', 'b', 'c');
	CREATE FUNCTION mkt(mk) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN enum_out($1)::text; END'});
sql($node, 'CREATE CAST (mk AS text) WITH FUNCTION mkt(mk)');
task_on('keyed', role => 'mallory', columns => 'id mk PRIMARY KEY, body text, ans text');
as('mallory', q{INSERT INTO keyed VALUES ('a', 'x')});
sql($node, q{TRUNCATE loot; SELECT llm_batch.run('keyed')});
is(sql($node, q{SELECT string_agg(DISTINCT who, ' ') FROM loot}), 'mallory', 'run() runs the code of the owner of the task with his rights');

as('alice', 'CREATE TABLE kept (id int PRIMARY KEY, body text, ans text); GRANT SELECT, INSERT, TRIGGER ON kept TO mallory');
as('alice', q{SELECT llm_batch.create_task('hers', prompt => '{{body}}', } . $PAT . ')');
as('mallory', q{CREATE TRIGGER go AFTER INSERT ON kept REFERENCING NEW TABLE AS new EXECUTE FUNCTION llm_batch.enqueue('hers')});
like(said('mallory', q{INSERT INTO kept VALUES (1, 'x', 'kept')}), qr/task "hers" is not attached/, 'the privilege TRIGGER attaches no task of others');

# ---- a trigger that is changed while it runs ----

as('mallory', q{
	CREATE OR REPLACE FUNCTION mkt(mk) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('my.turn', true) = 'on' THEN
			PERFORM set_config('my.turn', 'off', false);
			PERFORM llm_batch.alter_task('keyed', prompt => '{{body}} ' || repeat('AAAAAAAA{{body}}', 40));
			INSERT INTO public.keyed VALUES ('c', 'nested');
		END IF;
		RETURN enum_out($1)::text;
	END $$});
my $pid = sql($node, 'SELECT pid FROM llm_batch.workers');
as('mallory', q{SET my.turn = 'on'; INSERT INTO keyed VALUES ('b', 'outer')});
answered('keyed', 3, 'a trigger that is changed in the middle of itself notes all rows');
is(sql($node, 'SELECT pid FROM llm_batch.workers'), $pid, 'and no server process has died');

# ---- two hands ----

sql($node, q{
	CREATE TABLE twice (id int PRIMARY KEY, body text, ans text);
	SELECT llm_batch.create_task('twice', prompt => 'T {{body}}', } . $PAT . ')');
my $first = $node->background_psql('postgres');
my $second = $node->background_psql('postgres');
$_->query_safe('SET client_min_messages = warning') foreach $first, $second;
$first->query_safe(q{BEGIN; SELECT llm_batch.attach('twice', 'twice')});
$second->query_until(qr/begins/, "\\echo begins\nSELECT llm_batch.attach('twice', 'twice');\n");
sleep(0.5);
$first->query_safe('COMMIT');
$second->query('SELECT 1');
is(sql($node, q{SELECT count(*) FROM llm_batch.attachment a JOIN llm_batch.task t ON t.id = a.task_id WHERE t.name = 'twice'}), '1',
	'two attach() at once attach once');
sql($node, q{INSERT INTO twice VALUES (1, 'a')});
answered('twice', 1, 'a row is answered');
is(sql($node, q{SELECT count(*) FROM llm_batch.results JOIN llm_batch.progress USING (job_id) WHERE task = 'twice'}), '1', 'once');
like(said('postgres', q{SELECT llm_batch.attach('parts', 'parts_low')}), qr/attached to "parts" already, which shares rows/, 'a table and a part of it are not both attached');

sql($node, q{
	CREATE TABLE circle (id int PRIMARY KEY, a text, b text) PARTITION BY RANGE (id);
	CREATE TABLE circle_low PARTITION OF circle FOR VALUES FROM (0) TO (100);
	SELECT llm_batch.create_task('to', prompt => '{{a}}', model => 'mock', server => 'mock', target => 'b');
	SELECT llm_batch.create_task('fro', prompt => '{{b}}', model => 'mock', server => 'mock', target => 'a');
	SELECT llm_batch.attach('to', 'circle')});
like(said('postgres', q{SELECT llm_batch.attach('fro', 'circle_low', row_level => true)}), qr/in a circle/, 'a circle through a partition is seen');

# ---- what is left behind ----

sql($node, q{
	SELECT llm_batch.alter_task('twice', enabled => false);
	INSERT INTO twice SELECT g, 'x' FROM generate_series(2, 9000) g;
	SELECT llm_batch.drop_task('twice')});
ok(wait_until($node, q{SELECT NOT EXISTS (SELECT FROM llm_batch.inbox i WHERE NOT EXISTS (SELECT FROM llm_batch.attachment a WHERE a.id = i.attachment_id))},
	'the inbox'), 'what waited for a task that is gone goes, too');

$_->quit foreach $locker, $first, $second;
$node->stop;
done_testing();
