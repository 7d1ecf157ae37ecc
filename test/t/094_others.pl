# Tasks of several people, and what is paid: nobody keeps others from being
# answered or from working, and no row is asked about twice for one text.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node();

# alice and mallory may use the mock, and both may make tables in "common"
sql($node, q{
	CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
	CREATE SCHEMA common; GRANT ALL ON SCHEMA common TO alice, mallory;
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '3s', poll_min '200ms', poll_max '200ms');
	CREATE SERVER shaky FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', failure_rate '0.5', max_attempts '1', seed '3');
	GRANT USAGE ON FOREIGN SERVER slow TO PUBLIC});

my $me = sql($node, 'SELECT quote_ident(current_user)');

sub as { my ($role, $query) = @_; return sql($node, "SET ROLE $role; $query") }

sub table { my ($role, $name, $columns) = @_; as($role, "CREATE TABLE common.$name ($columns)") }

sub task
{
	my ($role, $name, %arg) = @_;
	%arg = (prompt => 'Say: {{body}}', model => 'mock', server => 'mock', target => 'ans', max_wait => '0', %arg);
	as($role, "SELECT llm_batch.create_task('$name', " . join(', ', map { "$_ => " . quote($arg{$_}) } grep { defined $arg{$_} } sort keys %arg) . ')');
}

sub attach { my ($role, $name, $table) = @_; as($role, "SELECT llm_batch.attach('$name', 'common.$table')") }

sub settled
{
	return wait_until($node, q{
		SELECT NOT EXISTS (SELECT FROM llm_batch.inbox i JOIN llm_batch.attachment a ON a.id = i.attachment_id JOIN llm_batch.task t ON t.id = a.task_id WHERE t.enabled)
		AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, $_[0]);
}

sub total { return sql($node, "SELECT COALESCE(sum(total), 0) FROM llm_batch.progress WHERE task = '$_[0]'") }

# ---- looks that fail, and take long, are their owner's ----

sql($node, q{
	SET ROLE mallory;
	CREATE FUNCTION common.slowly(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$});
as('mallory', join '; ', map { (
	"CREATE TABLE common.slow$_ (id int PRIMARY KEY, body text, ans text)",
	"SELECT llm_batch.create_task('slow$_', 'Say: {{body}}', model => 'mock', server => 'mock', target => 'ans', max_wait => '0', filter => 'common.slowly(id)')",
	"SELECT llm_batch.attach('slow$_', 'common.slow$_')") } 1 .. 30);
table('alice', 'calm', 'id int PRIMARY KEY, body text, ans text');
task('alice', 'calm');
attach('alice', 'calm', 'calm');
as('mallory', join '; ', map { "INSERT INTO common.slow$_ VALUES (1, 'one')" } 1 .. 30);
wait_until($node, q{SELECT count(*) >= 1 FROM llm_batch.tasks WHERE reason ~ 'cannot be read'}, 'looks fail');
my $tried = sub { sql($node, q{SELECT count(*) FROM llm_batch.tasks WHERE reason ~ 'cannot be read'}) };
as('alice', q{INSERT INTO common.calm VALUES (1, 'one')});
wait_until($node, q{SELECT ans IS NOT NULL FROM common.calm}, 'another owner is answered meanwhile');
cmp_ok($tried->(), '<', 30, 'before all of them had their turn');
as('mallory', join '; ', map { "SELECT llm_batch.alter_task('slow$_', enabled => false)" } 1 .. 30);

# ---- a row that failed, was retried and succeeded ----

sql($node, q{CREATE TABLE common.rt (id int PRIMARY KEY, body text, ans text)});
task($me, 'rt', server => 'shaky', mode => 'batch');
attach($me, 'rt', 'rt');
sql($node, q{INSERT INTO common.rt SELECT n, 'Row ' || n FROM generate_series(1, 20) n});
settled('some fail');
my $job = sql($node, q{SELECT max(job_id) FROM llm_batch.progress WHERE task = 'rt'});
cmp_ok(sql($node, "SELECT failed FROM llm_batch.progress WHERE job_id = $job"), '>', 0, 'and some did');
sql($node, q{ALTER SERVER shaky OPTIONS (SET failure_rate '0')});
sql($node, "SELECT llm_batch.retry($job)");
wait_until($node, "SELECT succeeded = 20 FROM llm_batch.progress WHERE job_id = $job", 'all succeed once they are tried again');
sql($node, q{SELECT llm_batch.run('rt'); UPDATE common.rt SET body = body});
settled('looked at once more');
is(total('rt'), 20, 'and nothing is asked again');

# ---- what was cancelled is asked when somebody says so ----

sql($node, q{CREATE TABLE common.cc (id int PRIMARY KEY, body text, ans text)});
task($me, 'cc', server => 'slow', mode => 'batch');
attach($me, 'cc', 'cc');
sql($node, q{INSERT INTO common.cc VALUES (1, 'one'), (2, 'two')});
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.progress WHERE task = 'cc'}, 'a job of them');
sql($node, q{SELECT llm_batch.cancel(max(job_id)) FROM llm_batch.progress WHERE task = 'cc'});
settled('which is cancelled');
sql($node, q{SELECT llm_batch.run('cc')});
wait_until($node, q{SELECT count(ans) = 2 FROM common.cc}, 'run() asks for all that has no answer');

# ---- texts that differ and are one key ----

sql($node, q{CREATE TABLE common.nk (id numeric PRIMARY KEY, body text, ans text)});
task($me, 'nk');
attach($me, 'nk', 'nk');
sql($node, q{INSERT INTO common.nk VALUES (1, 'one')});
settled('a key');
sql($node, q{UPDATE common.nk SET id = 1.0, body = 'uno'});
settled('and the same written otherwise');
is(total('nk'), 2, 'one item each');
like(sql($node, 'SELECT ans FROM common.nk'), qr/uno/, 'the newer text is answered');
sql($node, q{BEGIN; UPDATE common.nk SET id = 1.00; UPDATE common.nk SET id = 1.0; COMMIT});
settled('there and back');
is(sql($node, q{SELECT string_agg(key, ' ') FROM llm_batch.task_item i JOIN llm_batch.attachment a ON a.id = i.attachment_id WHERE source_table = 'nk'}), '1.0',
	'it is known by the text that it has');

# ---- an operator that is not where ours are ----

sql($node, q{
	CREATE SCHEMA far;
	CREATE TYPE far.pair AS (a int, b int);
	CREATE FUNCTION far.same(far.pair, far.pair) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT ($1).a * ($1).b = ($2).a * ($2).b';
	CREATE FUNCTION far.cmp(far.pair, far.pair) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT btint4cmp(($1).a * ($1).b, ($2).a * ($2).b)';
	CREATE FUNCTION far.less(far.pair, far.pair) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT far.cmp($1, $2) < 0';
	CREATE FUNCTION far.most(far.pair, far.pair) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT far.cmp($1, $2) <= 0';
	CREATE FUNCTION far.more(far.pair, far.pair) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT far.cmp($1, $2) > 0';
	CREATE FUNCTION far.least(far.pair, far.pair) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT far.cmp($1, $2) >= 0';
	CREATE OPERATOR far.=== (PROCEDURE = far.same, LEFTARG = far.pair, RIGHTARG = far.pair, COMMUTATOR = OPERATOR(far.===));
	CREATE OPERATOR far.<<< (PROCEDURE = far.less, LEFTARG = far.pair, RIGHTARG = far.pair);
	CREATE OPERATOR far.<<= (PROCEDURE = far.most, LEFTARG = far.pair, RIGHTARG = far.pair);
	CREATE OPERATOR far.>>> (PROCEDURE = far.more, LEFTARG = far.pair, RIGHTARG = far.pair);
	CREATE OPERATOR far.>>= (PROCEDURE = far.least, LEFTARG = far.pair, RIGHTARG = far.pair);
	CREATE OPERATOR CLASS far.pair_ops DEFAULT FOR TYPE far.pair USING btree AS
		OPERATOR 1 far.<<<, OPERATOR 2 far.<<=, OPERATOR 3 far.===, OPERATOR 4 far.>>=, OPERATOR 5 far.>>>, FUNCTION 1 far.cmp(far.pair, far.pair);
	CREATE TABLE common.op (id far.pair PRIMARY KEY, body text, ans text);
	INSERT INTO common.op VALUES ('(2,3)', 'six')});
my $op = sql($node, q{SELECT llm_batch.submit('common.op', 'Say: {{body}}', 'mock', target => 'ans', server => 'mock')});
is(wait_job($node, $op), 'succeeded', 'a key type of some extension') or explain_job($node, $op);
task($me, 'op');
attach($me, 'op', 'op');
sql($node, q{INSERT INTO common.op VALUES ('(5,5)', 'twenty-five')});
settled('and of a task');
is(sql($node, q{SELECT count(*) FROM common.op WHERE ans ~ body}), 2, 'both are written');

# ---- a namesake of somebody else's ----

table('mallory', 'orders', 'id int PRIMARY KEY, title text, body text, ans text');
task('mallory', 'steal_body', prompt => 'T: {{title}}', target => 'body');
attach('mallory', 'steal_body', 'orders');
task('mallory', 'steal_title', prompt => 'T: {{ans}}', target => 'title');
attach('mallory', 'steal_title', 'orders');
as('mallory', 'ALTER TABLE common.orders RENAME TO orders_of_mallory');
table('alice', 'orders', 'id int PRIMARY KEY, title text, body text, ans text');
as('alice', q{INSERT INTO common.orders VALUES (1, 'Title.', 'Body.')});
like(as('alice', q{SELECT to_jsonb(p)::text FROM llm_batch.preview('common.orders', 'Say: {{*}}', 'mock', target => 'ans', server => 'mock') p}), qr/Title.*Body/s, 'all columns are asked about');
task('alice', 'hers', prompt => 'Say: {{title}}-{{body}}');
attach('alice', 'hers', 'orders');
pass('no circle with those of the table before');
as('alice', q{INSERT INTO common.orders VALUES (2, 'Other.', NULL)});
wait_until($node, q{SELECT ans IS NOT NULL FROM common.orders WHERE id = 2}, 'nobody is waited for who writes another table');

# ---- a key that has no text of its own ----

sql($node, q{
	CREATE TYPE common.parts AS (x int, y int);
	CREATE TABLE common.ck (a common.parts, b int, body text, ans text, PRIMARY KEY (a, b))});
task($me, 'ck');
attach($me, 'ck', 'ck');
my $pid = worker_pid($node);
sql($node, q{INSERT INTO common.ck VALUES (ROW(1, NULL), 1, 'half'), (ROW(1, 2), 2, 'whole')});
wait_until($node, q{SELECT count(ans) = 2 FROM common.ck}, 'rows whose key is a composite with NULLs are answered');
is(worker_pid($node), $pid, 'by the worker that there was');

# ---- two hands at one task ----

table('alice', 'hands', 'id int PRIMARY KEY, body text, title text, ans text');
task('alice', 'hands');
attach('alice', 'hands', 'hands');
my $one = LlmBatch::Session->new($node);
$one->query(q{SET ROLE alice; BEGIN; SELECT llm_batch.alter_task('hands', prompt => 'New: {{title}}')});
my $two = LlmBatch::Session->new($node);
$two->send(q{SET ROLE alice; SELECT llm_batch.alter_task('hands', max_items => 7)});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'max_items'}, 'the second waits');
# mallory has something else to attach
as('mallory', q{CREATE TABLE common.own (id int PRIMARY KEY, body text, ans text)});
task('mallory', 'own');
attach('mallory', 'own', 'own');
pass('which is no concern of others');
$one->query('COMMIT');
$two->receive;
is(sql($node, q{SELECT DISTINCT max_items || ' ' || a.prompt FROM llm_batch.task t JOIN llm_batch.attachment a ON a.task_id = t.id WHERE t.name = 'hands'}), '7 New: {{title}}', 'both changes are there');
$_->end foreach $one, $two;

# ---- what can always be done ----

as('alice', q{ALTER TABLE common.hands DROP COLUMN title});
as('alice', q{SELECT llm_batch.alter_task('hands', enabled => false)});
is(sql($node, q{SELECT enabled FROM llm_batch.task WHERE name = 'hands'}), 'f', 'a task that is broken can be stopped');

# ---- the late answer to an older prompt ----

sql($node, q{CREATE TABLE common.late (id int PRIMARY KEY, body text, ans text)});
sql($node, q{ALTER SERVER slow OPTIONS (SET latency '10s')});
task($me, 'late', prompt => 'OLD {{body}}', server => 'slow', mode => 'batch');
attach($me, 'late', 'late');
sql($node, q{INSERT INTO common.late VALUES (1, 'one'), (2, 'two')});
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.batches b JOIN llm_batch.progress p USING (job_id) WHERE p.task = 'late' AND b.state = 'in_progress'}, 'a batch flies');
sql($node, q{SELECT llm_batch.alter_task('late', prompt => 'NEW {{body}}', server => 'mock'); SELECT llm_batch.run('late')});
settled('the older one lands last, or is called off');
is(sql($node, q{SELECT count(*) FROM common.late WHERE ans ~ 'NEW'}), 2, 'the answers to the newer prompt stay');
is(sql($node, q{SELECT string_agg(DISTINCT r.state || ' ' || r.error_code, ', ') FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id) WHERE p.task = 'late' AND p.job_id = (SELECT min(job_id) FROM llm_batch.progress WHERE task = 'late')}),
	'cancelled stale', 'the older ones are stale');

# ---- a database that reads strings in the old way ----

SKIP:
{
	skip 'there is no old way any more', 2 if sql($node, 'SHOW server_version_num') >= 190000;
	sql($node, q{CREATE TABLE common.bs (id int PRIMARY KEY, body text, ans text)});
	task($me, 'bs', filter => q{body <> '\_'});
	attach($me, 'bs', 'bs');
	sql($node, q{ALTER DATABASE postgres SET standard_conforming_strings = off; ALTER DATABASE postgres SET escape_string_warning = off});
	my $before = worker_pid($node);
	sql($node, "SELECT pg_terminate_backend($before)");
	wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND pid <> $before", 'another worker');
	sql($node, q{INSERT INTO common.bs VALUES (1, 'one'), (2, '_'), (3, E'\\\\_')});
	wait_until($node, q{SELECT count(ans) = 2 FROM common.bs}, 'rows are gathered');
	settled('all of them');
	is(sql($node, q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM common.bs WHERE ans IS NOT NULL}), '1 2', 'and the filter means what it has always meant');
	is(sql($node, 'SHOW standard_conforming_strings'), 'off', 'there');
	sql($node, q{ALTER DATABASE postgres RESET standard_conforming_strings; ALTER DATABASE postgres RESET escape_string_warning});
}

# ---- many tables ----

sql($node, q{CREATE FUNCTION many() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	FOR n IN 1 .. 40 LOOP EXECUTE format('CREATE TABLE common.m%s (id int PRIMARY KEY, body text, ans text)', n); PERFORM llm_batch.attach('many', format('common.m%s', n)::regclass); END LOOP; END $$;
	CREATE FUNCTION fill() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1 .. 40 LOOP EXECUTE format('INSERT INTO common.m%s VALUES (1, %L)', n, 'one'); END LOOP; END $$});
task($me, 'many');
sql($node, 'SELECT many(); SELECT fill()');
settled('rows of many tables');
is(total('many'), 40, 'each is answered');

done_testing();
