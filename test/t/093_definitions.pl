# What a session knows of the tasks that its triggers feed is true: whatever
# was rolled back, whatever snapshot its transaction has, whoever changes the
# task at the same time.  Else rows were lost without a word.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run ();
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(conf => [ 'max_prepared_transactions = 5', 'restart_after_crash = off' ]);
my $PAT = q{model => 'mock', server => 'mock', max_wait => '0', mode => 'realtime', target => 'ans'};
my $BY_HAND = q{AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('%s')};

# A table of that name with a task on it; by hand: with a trigger that somebody made.
sub task_on
{
	my ($table, %opt) = @_;
	my $prompt = $opt{prompt} // "$table {{body}}";
	my $more = $opt{more} // '';

	sql($node, qq{
		CREATE TABLE $table (} . ($opt{columns} // 'id int PRIMARY KEY, body text, ans text') . qq{);
		SELECT llm_batch.create_task('$table', prompt => '$prompt', $PAT$more)});
	sql($node, $opt{by_hand} ? 'CREATE TRIGGER go ' . sprintf($BY_HAND, $table, $table) : "SELECT llm_batch.attach('$table', '$table')");
}

sub answered
{
	my ($table, $count, $name) = @_;
	ok(wait_until($node, "SELECT count(ans) = $count FROM $table", $name), $name);
}

# Nothing waits, and no job runs.
sub settle
{
	return wait_until($node, q{
		SELECT NOT EXISTS (SELECT FROM llm_batch.tasks WHERE waiting > 0 AND state = 'enabled')
		AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, 'all is done');
}

# Answers that were paid; what was withdrawn in time was not.
sub paid
{
	my ($task) = @_;
	return sql($node, "SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress USING (job_id) WHERE task = '$task' AND r.state <> 'cancelled'");
}

# What the same session does, statement by statement; errors are part of it.
sub session
{
	my ($script) = @_;
	return $node->psql('postgres', $script, on_error_stop => 0);
}

# ---- what was rolled back ----

note('--- rolled back');

task_on('undone', by_hand => 1);
session(q{
	BEGIN; INSERT INTO undone VALUES (1, 'a'); ROLLBACK;
	INSERT INTO undone VALUES (2, 'b');
	INSERT INTO undone VALUES (3, 'c');});
answered('undone', 2, 'a table whose first row was rolled back: the next ones are answered');

task_on('saved', by_hand => 1);
session(q{
	BEGIN; SAVEPOINT s; INSERT INTO saved VALUES (1, 'a'); ROLLBACK TO s; INSERT INTO saved VALUES (2, 'b'); COMMIT;
	INSERT INTO saved VALUES (3, 'c');});
answered('saved', 2, 'so they are after ROLLBACK TO');

task_on('nested', by_hand => 1);
session(q{
	BEGIN; SAVEPOINT s; SAVEPOINT t; INSERT INTO nested VALUES (1, 'a'); RELEASE t; ROLLBACK TO s; INSERT INTO nested VALUES (2, 'b'); COMMIT;
	INSERT INTO nested VALUES (3, 'c');});
answered('nested', 2, 'and after one around a savepoint that was released');

task_on('prepared', by_hand => 1);
session(q{
	BEGIN; INSERT INTO prepared VALUES (1, 'a'); PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p';
	INSERT INTO prepared VALUES (2, 'b');
	INSERT INTO prepared VALUES (3, 'c');});
answered('prepared', 2, 'and after ROLLBACK PREPARED');

task_on('altered', columns => 'id int PRIMARY KEY, body text, other text, ans text');
session(q{
	INSERT INTO altered VALUES (1, 'a', 'b');
	BEGIN; SELECT llm_batch.alter_task('altered', prompt => 'A {{other}}'); UPDATE altered SET body = 'x' WHERE id = 1; ROLLBACK;
	UPDATE altered SET body = 'known' WHERE id = 1;});
ok(wait_until($node, q{SELECT ans ~ 'known' FROM altered}, 'the prompt of before'), 'a prompt that was rolled back: columns count by the one of before');

is(sql($node, q{SELECT count(*) FROM llm_batch.inbox i WHERE NOT EXISTS (SELECT FROM llm_batch.attachment a WHERE a.id = i.attachment_id)}),
	'0', 'nothing was put in for what is not there');

# ---- old snapshots ----

note('--- old snapshots');

foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $table = $level =~ /^R/ ? 'rr' : 'sr';
	my $old = $node->background_psql('postgres');

	sql($node, qq{
		CREATE TABLE $table (id int PRIMARY KEY, body text, other text, ans text);
		SELECT llm_batch.create_task('$table', prompt => '$table {{body}}', $PAT)});
	$old->query_safe("BEGIN ISOLATION LEVEL $level; SELECT 1");
	sql($node, "SELECT llm_batch.attach('$table', '$table')");
	$old->query_safe("INSERT INTO $table VALUES (1, 'a', 'b'); COMMIT");
	$old->query_safe("INSERT INTO $table VALUES (2, 'b', 'c')");
	answered($table, 2, "$level: rows of a session that is older than attach() are answered");

	$old->query_safe("BEGIN ISOLATION LEVEL $level; SELECT 1");
	sql($node, "SELECT llm_batch.alter_task('$table', prompt => '$table {{other}}')");
	$old->query_safe("UPDATE $table SET other = 'seen at once' WHERE id = 1; COMMIT");
	$old->query_safe("UPDATE $table SET other = 'seen later' WHERE id = 2");
	ok(wait_until($node, qq{SELECT count(*) = 2 FROM $table WHERE ans ~ 'seen'}, 'the new prompt'), "$level: so are changes that only a newer prompt reads");
	$old->quit;
}

task_on('by_hand', by_hand => 1);
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql($node, q{INSERT INTO by_hand VALUES (1, 'a')});
$old->query_safe(q{INSERT INTO by_hand VALUES (2, 'b'); COMMIT});
$old->quit;
answered('by_hand', 2, 'a table that another session has attached by its first row');

# ---- at the same time ----

note('--- at the same time');

task_on('race', by_hand => 1, columns => 'id serial PRIMARY KEY, body text, ans text');
my @hands = map {
	my ($out, $err) = ('', '');
	my $script = $_ x 150;
	{ err => \$err, run => IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=terse' ], '<', \$script, '>', \$out, '2>', \$err) }
  } ("INSERT INTO race (body) VALUES ('x');\n\\c\n") x 2,
  "SELECT llm_batch.detach('race', 'race') FROM llm_batch.attachment WHERE source_table = 'race' LIMIT 1;\n";
$_->{run}->finish foreach @hands;
unlike(join('', map { ${ $_->{err} } } @hands), qr/closed the connection|terminated|FATAL/, 'detach() while first rows come in: no server process dies');
is(sql($node, 'SELECT count(*) FROM race'), '300', 'and no row is refused');
is(sql($node, q{INSERT INTO race (body) VALUES ('last') RETURNING body}), 'last', 'the next comes in, too');
ok(wait_until($node, q{SELECT ans IS NOT NULL FROM race WHERE body = 'last'}, 'the last row'), 'and is answered');

# ---- rows that went without a trigger ----

note('--- rows that went unseen');

sql($node, q{
	CREATE TABLE window_of (id int PRIMARY KEY, body text, ans text) PARTITION BY RANGE (id);
	CREATE TABLE window_1 PARTITION OF window_of FOR VALUES FROM (0) TO (100);
	SELECT llm_batch.create_task('window', prompt => 'W {{body}}', } . $PAT . q{);
	SELECT llm_batch.attach('window', 'window_of');
	INSERT INTO window_of VALUES (1, 'one'), (2, 'two')});
answered('window_of', 2, 'two rows of a partition are answered');
sql($node, q{
	DROP TABLE window_1;
	CREATE TABLE window_1 PARTITION OF window_of FOR VALUES FROM (0) TO (100);
	INSERT INTO window_of VALUES (1, 'one'), (2, 'two')});
answered('window_of', 2, 'dropped, made again and loaded again, with the same texts: answered again');

foreach my $how ([ 'statements', 'false' ], [ 'rows', 'true' ])
{
	my ($name, $row_level) = @$how;

	sql($node, qq{
		CREATE TABLE off_$name (id int PRIMARY KEY, body text, ans text);
		SELECT llm_batch.create_task('off_$name', prompt => 'O {{body}}', $PAT);
		SELECT llm_batch.attach('off_$name', 'off_$name', row_level => $row_level);
		INSERT INTO off_$name VALUES (1, 'one')});
	answered("off_$name", 1, "triggers for $name: a row is answered");
	sql($node, qq{
		ALTER TABLE off_$name DISABLE TRIGGER ALL; DELETE FROM off_$name; ALTER TABLE off_$name ENABLE TRIGGER ALL;
		INSERT INTO off_$name VALUES (1, 'one')});
	answered("off_$name", 1, "triggers for $name: deleted behind their back, it is answered again");
	sql($node, qq{
		ALTER TABLE off_$name DISABLE TRIGGER ALL; DELETE FROM off_$name; ALTER TABLE off_$name ENABLE TRIGGER ALL;
		INSERT INTO off_$name VALUES (1, 'one', 'restored'), (2, 'two', NULL)});
	ok(wait_until($node, "SELECT ans IS NOT NULL FROM off_$name WHERE id = 2", 'the new one'), "triggers for $name: of rows that are restored the one without an answer is asked about");
	is(sql($node, "SELECT ans FROM off_$name WHERE id = 1") . ' ' . paid("off_$name"), 'restored 3', "triggers for $name: and the one that has it is not paid again");
}

# Rows that two triggers tell of are paid once, wherever the one's keys end and the other's begin.
task_on('told_twice', more => ', max_items => 10');
sql($node, q{
	CREATE TRIGGER also AFTER INSERT ON told_twice FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('told_twice');
	INSERT INTO told_twice SELECT g, 'text ' || g FROM generate_series(1, 25) g});
answered('told_twice', 25, 'rows that two triggers tell of are answered');
settle();
is(paid('told_twice'), '25', 'and paid once');

# ---- filters, as PostgreSQL reads them ----

note('--- filters');

# PostgreSQL 19 knows the new way alone
my $old_way = sql($node, 'SHOW server_version_num') >= 190000 ? '' : 'SET standard_conforming_strings = off;';

task_on('slashed', more => q{, filter => $$body <> '\'$$});
is(session($old_way . q{
	INSERT INTO slashed VALUES (1, 'one');}), 0, 'a session that reads strings in the old way changes rows of a task with a filter');
my (undef, undef, $said) = session($old_way . q{
	INSERT INTO slashed VALUES (2, 'two');});
is($said, '', 'and is told nothing of it');
answered('slashed', 2, 'which are answered');
is(session($old_way . q{
	SET escape_string_warning = off;
	SELECT llm_batch.create_task('by_slash', prompt => '{{body}}', model => 'mock', server => 'mock', filter => $$body <> '\'$$);}), 0,
	'and it may create a task with such a filter');

sql($node, q{
	SELECT llm_batch.alter_task('slashed', deadline => '1 hour');
	SET IntervalStyle = 'iso_8601';
	SELECT llm_batch.alter_task('slashed', deadline => '0')});
is(sql($node, q{SELECT deadline IS NULL FROM llm_batch.task WHERE name = 'slashed'}), 't', 'a deadline is taken away in any style of intervals');

# ---- inheritance ----

note('--- inheritance');

sql($node, q{
	CREATE TABLE parent (id int PRIMARY KEY, body text, z int, ans text);
	CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
	CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.body := 'stamped ' || NEW.z; RETURN NEW; END$$;
	CREATE TRIGGER stamp BEFORE UPDATE OF z ON child FOR EACH ROW EXECUTE FUNCTION stamp();
	SELECT llm_batch.create_task('parent', prompt => 'P {{body}}', } . $PAT . q{);
	SELECT llm_batch.attach('parent', 'parent');
	INSERT INTO child VALUES (1, 'a');
	SELECT llm_batch.run('parent')});
answered('parent', 1, 'a row of a child is answered');
sql($node, 'UPDATE parent SET z = 1');
ok(wait_until($node, q{SELECT ans ~ 'stamped 1' FROM parent}, 'the stamp'), q{what a child's trigger changes in an UPDATE of the parent is noticed});

# ---- keys that hold a NULL ----

note('--- keys');

sql($node, q{CREATE TABLE nullable (a int, b int, body text, ans text, UNIQUE (a, b))});
sql($node, q{SELECT llm_batch.create_task('nullable', prompt => '{{body}}', key => 'a, b', } . $PAT . ')');
like((session(q{SELECT llm_batch.attach('nullable', 'nullable')}))[2], qr/column "a" of the key may be NULL/, 'attach(): columns of a key must be NOT NULL');
sql($node, q{INSERT INTO nullable VALUES (1, NULL, 'none')});
like((session(q{SELECT llm_batch.submit('nullable', prompt => '{{body}}', model => 'mock', server => 'mock', key => 'a, b', target => 'ans')}))[2],
	qr/the key of a row is NULL/, 'submit(): a row whose key holds a NULL is refused before anything is sent');
sql($node, q{TRUNCATE nullable});
sql($node, q{
	ALTER TABLE nullable ALTER a SET NOT NULL, ALTER b SET NOT NULL;
	SELECT llm_batch.attach('nullable', 'nullable');
	INSERT INTO nullable VALUES (1, 2, 'one')});
answered('nullable', 1, 'NOT NULL is enough');

sql($node, q{
	CREATE TYPE mood AS ENUM ('good', 'bad', 'odd');
	CREATE FUNCTION mood_text(mood) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN enum_out($1)::text; END';
	CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood)});
task_on('moody', columns => 'id mood PRIMARY KEY, body text, ans text');
my $writer = $node->background_psql('postgres');
$writer->query_safe(q{INSERT INTO moody VALUES ('good', 'one')});
sql($node, 'DROP CAST (mood AS text); DROP FUNCTION mood_text');
$writer->query_safe(q{INSERT INTO moody VALUES ('bad', 'two')});
$writer->quit;
answered('moody', 2, 'a session goes on when the cast is gone that made texts of keys');

$node->stop;
done_testing();
