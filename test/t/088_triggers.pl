# Triggers: every committed change of a row is noticed, by whatever statement it
# came, and nothing else is; each row is asked about once.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IO::Uncompress::Gunzip;
use JSON::PP ();
use LlmBatch;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => [ 'max_prepared_transactions = 5', 'llm_batch.sweep_interval = 1s', 'wal_level = logical' ]);
my $sim = start_sim();

create_server($node, $sim);

# ---- what is in the inbox ----

# A task that is off gathers nothing, so what triggers put in can be looked at.
# Waiting keys, sorted, with the letter of what they are; then none is there.
sub inbox
{
	my ($on) = @_;

	return sql($on // $node, q{
		WITH taken AS (DELETE FROM llm_batch.inbox RETURNING kind, key)
		SELECT string_agg(kind::text || COALESCE(' ' || key, ''), ', ' ORDER BY kind, key COLLATE "C") FROM taken});
}

# changes($sql, $expected, $name)
sub changes
{
	my ($query, $expected, $name) = @_;

	sql($node, $query);
	is(inbox(), $expected, $name);
}

sub create_task
{
	my ($name, %given) = @_;
	my %arg = (prompt => 'Summarise: {{body}}', model => $LlmBatch::MODEL, server => 'sim', target => 'summary', mode => 'batch', max_wait => '0', %given);
	my $list = join ', ', map { "$_ => " . quote($arg{$_}) } grep { defined $arg{$_} } sort keys %arg;

	return sql($node, 'SELECT llm_batch.create_task(' . quote($name) . ", $list)");
}

sub attach
{
	my ($task, $table, $rest) = @_;
	sql($node, 'SELECT llm_batch.attach(' . quote($task) . ', ' . quote($table) . ($rest // '') . ')');
}

# The same, for a table whose triggers are to be looked at.
sub watch
{
	my ($task, $table, %given) = @_;

	create_task($task, %given);
	sql($node, 'SELECT llm_batch.alter_task(' . quote($task) . ', enabled => false)');
	attach($task, $table);
}

# All that waits is dealt with, and all jobs have ended.
sub settle
{
	my ($what, $limit) = @_;
	return wait_until($node, q{
		SELECT NOT EXISTS (SELECT FROM llm_batch.tasks WHERE waiting > 0 AND state = 'enabled')
		AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, $what // 'all is done', $limit);
}

# ---- statements ----

note('--- statements');
sql($node, q{
	CREATE TABLE note (id int PRIMARY KEY, body text, summary text, other int);
	CREATE TABLE staging (LIKE note)});
watch('notes', 'note');

changes(q{INSERT INTO note VALUES (1, 'One.')}, 'n 1', 'INSERT');
changes(q{INSERT INTO note VALUES (2, 'Two.'), (3, NULL)}, 'n 2, n 3', 'of several rows');
changes(q{INSERT INTO note SELECT n, 'Row ' || n FROM generate_series(4, 6) n}, 'n 4, n 5, n 6', 'INSERT ... SELECT');
changes(qq{COPY note (id, body) FROM STDIN;\n7\tSeven.\n8\tEight.\n\\.\n}, 'n 7, n 8', 'COPY');
changes(q{INSERT INTO note VALUES (1, 'x') ON CONFLICT DO NOTHING}, '', 'ON CONFLICT DO NOTHING');
changes(q{INSERT INTO note VALUES (1, 'Uno.'), (9, 'Nine.') ON CONFLICT (id) DO UPDATE SET body = excluded.body}, 'n 9, r 1', 'ON CONFLICT DO UPDATE');
changes(q{INSERT INTO note VALUES (1, 'Uno.') ON CONFLICT (id) DO UPDATE SET other = 1}, '', 'ON CONFLICT DO UPDATE of another column');
changes(q{UPDATE note SET body = 'Two again.' WHERE id = 2}, 'r 2', 'UPDATE');
changes(q{UPDATE note SET other = 5}, '', 'UPDATE of an unrelated column: at once nothing');
changes(q{UPDATE note SET body = body}, '', 'UPDATE to the same value');
changes(q{UPDATE note SET body = 'Five.', other = 1 WHERE id = 5}, 'r 5', 'UPDATE of two columns');
changes(q{UPDATE note SET summary = 'By hand.' WHERE id = 5}, '', 'UPDATE of the target');
changes(q{UPDATE note SET body = CASE WHEN id = 4 THEN 'Four.' ELSE body END}, 'r 4', 'UPDATE of all rows that changes one');
changes(q{UPDATE note SET body = 'x' WHERE false}, '', 'UPDATE of no row');
changes(q{UPDATE note SET id = 40 WHERE id = 4}, 'd 4, r 40', 'UPDATE of the key');
changes(q{UPDATE note SET id = id + 1000}, join(', ', sort map { ("d $_", 'r ' . ($_ + 1000)) } 1 .. 3, 5 .. 9, 40), 'UPDATE of all keys');
sql($node, 'UPDATE note SET id = id - 1000; DELETE FROM llm_batch.inbox');
changes(q{DELETE FROM note WHERE id IN (2, 3)}, 'd 2, d 3', 'DELETE');
sql($node, q{INSERT INTO staging VALUES (5, 'Merged.'), (6, NULL), (50, 'New.')});
changes(q{MERGE INTO note n USING staging s ON n.id = s.id
	WHEN MATCHED AND s.body IS NULL THEN DELETE
	WHEN MATCHED THEN UPDATE SET body = s.body
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.body)}, 'd 6, n 50, r 5', 'MERGE');
changes(q{WITH gone AS (DELETE FROM note WHERE id = 7 RETURNING *), put AS (INSERT INTO note VALUES (70, 'By a CTE.'))
	UPDATE note SET body = (SELECT body FROM gone) WHERE id = 8}, 'd 7, n 70, r 8', 'a CTE that modifies');
changes(q{CREATE RULE r AS ON INSERT TO staging DO ALSO INSERT INTO note VALUES (NEW.id, NEW.body); INSERT INTO staging VALUES (80, 'By a rule.')}, 'n 80', 'a rule');
changes(q{PREPARE p AS UPDATE note SET body = $1 WHERE id = $2; EXECUTE p('a', 1); EXECUTE p('b', 1); EXECUTE p('b', 1)}, 'r 1, r 1', 'a prepared statement, each time that something changes');
changes(q{BEGIN; DECLARE c CURSOR FOR SELECT * FROM note WHERE id = 1 FOR UPDATE; MOVE 1 FROM c; UPDATE note SET body = 'c' WHERE CURRENT OF c; COMMIT}, 'r 1', 'WHERE CURRENT OF');
changes(q{BEGIN; INSERT INTO note VALUES (90, 'x'); ROLLBACK}, '', 'ROLLBACK');
changes(q{BEGIN; INSERT INTO note VALUES (91, 'x'); SAVEPOINT s; INSERT INTO note VALUES (92, 'x'); ROLLBACK TO s; INSERT INTO note VALUES (93, 'x'); COMMIT}, 'n 91, n 93', 'ROLLBACK TO SAVEPOINT');
changes(q{DO $$ BEGIN INSERT INTO note VALUES (94, 'x'); BEGIN INSERT INTO note VALUES (95, 'x'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN END; END $$}, 'n 94', 'a block with an exception');
$node->psql('postgres', q{INSERT INTO note VALUES (96, 'x'), (1, 'x')});
is(inbox(), '', 'a statement that fails');
changes(q{TRUNCATE note}, 't', 'TRUNCATE');
changes(q{SET session_replication_role = replica; INSERT INTO note VALUES (97, 'x')}, '', 'session_replication_role = replica: no trigger fires');
is(sql($node, q{SELECT llm_batch.run('notes')}), 1, 'run() finds what was missed so');
is(inbox(), 'r 97', 'and puts it in');

# A toasted text that is not touched is not taken for another.
sql($node, q{INSERT INTO note SELECT 98, string_agg(md5(n::text), ''), NULL, 1 FROM generate_series(1, 2000) n; DELETE FROM llm_batch.inbox});
changes(q{UPDATE note SET other = 2, body = body WHERE id = 98}, '', 'a text that is stored out of line, as it was');
changes(q{UPDATE note SET body = body || '.' WHERE id = 98}, 'r 98', 'a text that is stored out of line, longer');

# ---- columns that change by themselves ----

note('--- columns that change by themselves');
sql($node, q{
	SELECT llm_batch.drop_task('notes');
	CREATE TABLE copied (id int PRIMARY KEY, source text, body text, summary text, other int);
	CREATE FUNCTION copy_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body = 'Copy of ' || NEW.source; RETURN NEW; END $$;
	CREATE TRIGGER copy_it BEFORE INSERT OR UPDATE ON copied FOR EACH ROW EXECUTE FUNCTION copy_it();
	INSERT INTO copied VALUES (1, 'a'), (2, 'b');
	CREATE TABLE generated (id int PRIMARY KEY, first text, body text GENERATED ALWAYS AS (first || ' and more') STORED, summary text, other int);
	INSERT INTO generated VALUES (1, 'a'), (2, 'b')});
watch('copied', 'copied');
watch('generated', 'generated');
changes(q{UPDATE copied SET source = 'c' WHERE id = 2}, 'r 2', 'what a BEFORE trigger copies into the prompt');
changes(q{UPDATE copied SET other = 1}, '', 'and what it leaves alone');
changes(q{UPDATE generated SET first = 'c' WHERE id = 2}, 'r 2', 'what a column of the prompt is generated from');
changes(q{UPDATE generated SET other = 1}, '', 'and what it is not');
SKIP:
{
	skip 'virtual generated columns came with 18', 8 if sql($node, 'SHOW server_version_num') < 180000;

	foreach my $rows (0, 1)
	{
		my $table = "virtual$rows";

		sql($node, qq{
			CREATE TABLE $table (id int PRIMARY KEY, first text, body text GENERATED ALWAYS AS (first || ' and more') VIRTUAL,
				flag int, ready boolean GENERATED ALWAYS AS (flag > 0) VIRTUAL, summary text, other int);
			INSERT INTO $table (id, first) VALUES (1, 'a'), (2, 'b')});
		watch($table, $table, filter => 'ready');
		attach($table, $table, ', row_level => true') if $rows;
		my $how = $rows ? 'row by row' : 'by statement';
		changes("UPDATE $table SET first = 'c' WHERE id = 2", 'r 2', "what a virtual column of the prompt is made from, $how");
		changes("UPDATE $table SET flag = id - 1", 'r 1, r 2', "what one of the filter is made from, $how");
		changes("UPDATE $table SET other = 1, first = first, summary = 'x'", '', "and what they are not, $how");
		changes("DELETE FROM $table WHERE id = 2", 'd 2', "DELETE, $how");
		sql($node, "SELECT llm_batch.drop_task('$table')");
	}
}
sql($node, q{CREATE TABLE late (id int PRIMARY KEY, source text, body text, summary text); INSERT INTO late VALUES (1, 'a')});
watch('late', 'late');
changes(q{UPDATE late SET source = 'b'}, '', 'before there is a BEFORE trigger');
changes(q{CREATE TRIGGER copy_it BEFORE UPDATE ON late FOR EACH ROW EXECUTE FUNCTION copy_it(); UPDATE late SET source = 'c'}, 'r 1', 'one that is created later is noticed');
sql($node, q{CREATE TABLE filtered (id int PRIMARY KEY, body text, ready boolean, summary text, other int); INSERT INTO filtered VALUES (1, 'a', false)});
watch('filtered', 'filtered', filter => 'ready');
changes(q{UPDATE filtered SET ready = true}, 'r 1', 'a column that the filter reads');
changes(q{UPDATE filtered SET other = 1}, '', 'and one that it does not');
sql($node, "SELECT llm_batch.drop_task('$_')") foreach qw(copied generated late filtered);

# ---- partitions ----

note('--- partitions');
sql($node, q{
	CREATE TABLE part (id int, region text, body text, summary text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
	CREATE TABLE part_s PARTITION OF part FOR VALUES IN ('s') PARTITION BY RANGE (id);
	CREATE TABLE part_s1 PARTITION OF part_s FOR VALUES FROM (0) TO (100);
	CREATE TABLE part_w (region text NOT NULL, id int NOT NULL, summary text, body text)});
watch('parts', 'part');
changes(q{INSERT INTO part VALUES (1, 'n', 'a'), (2, 's', 'b')}, 'n ["1", "n"], n ["2", "s"]', 'through the root');
changes(q{INSERT INTO part_n VALUES (3, 'n', 'c')}, 'n ["3", "n"]', 'directly into a leaf');
changes(q{INSERT INTO part_s VALUES (4, 's', 'd')}, 'n ["4", "s"]', 'into a part with parts');
changes(q{UPDATE part SET body = 'e'}, 'r ["1", "n"], r ["2", "s"], r ["3", "n"], r ["4", "s"]', 'UPDATE through the root');
changes(q{UPDATE part SET summary = 'e'}, '', 'UPDATE of the target through the root');
changes(q{UPDATE part SET region = 's' WHERE id = 3}, 'd ["3", "n"], r ["3", "s"]', 'a row that moves');
changes(q{UPDATE part SET region = CASE region WHEN 'n' THEN 's' ELSE 'n' END WHERE id IN (1, 2)}, 'd ["1", "n"], d ["2", "s"], r ["1", "s"], r ["2", "n"]', 'rows that move both ways');
changes(q{DELETE FROM part_n}, 'd ["2", "n"]', 'DELETE from a leaf');
changes(q{TRUNCATE part_s1}, 'p', 'TRUNCATE of a leaf');
changes(q{TRUNCATE part}, 'p, p, p, t', 'TRUNCATE of the root');
sql($node, q{ALTER TABLE part ATTACH PARTITION part_w FOR VALUES IN ('w')});
changes(q{INSERT INTO part VALUES (5, 'w', 'f')}, 'n ["5", "w"]', 'a part that came later: through the root');
changes(q{INSERT INTO part_w VALUES ('w', 6, NULL, 'g')}, '', 'but not directly');
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'parts'}), q{partition public.part_w came later: what is written or emptied by its own name is missed; attach('parts', 'public.part'), then run('parts')}, 'which tasks tells');
sql($node, q{CREATE TABLE part_x PARTITION OF part FOR VALUES IN ('x')});
like(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'parts'}), qr/^partition public\.part_[wx] \(and 1 more\) came later/, 'also of more than one');
sql($node, q{DROP TABLE part_x});
attach('parts', 'part');
is(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'parts'}), '', 'till attach() is called again');
changes(q{INSERT INTO part_w VALUES ('w', 7, NULL, 'h')}, 'n ["7", "w"]', 'before attach() is called again; then its columns are told by name');
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc}), 4 * 5, 'four triggers on each table');
like(($node->psql('postgres', q{SELECT llm_batch.attach('parts', 'part')}))[2],
	qr/NOTICE:  task "parts" answers rows of public\.part as before, by new triggers\n.*DETAIL:  There are triggers on the table and on its 4 partitions\./, 'attach() again says so');
sql($node, q{ALTER TABLE part DETACH PARTITION part_n; SELECT llm_batch.detach('parts', 'part')});
is(sql($node, q{SELECT string_agg(DISTINCT tgrelid::regclass::text, ' ') FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc}), 'part_n', 'detach takes them from all parts');
changes(q{INSERT INTO part_n VALUES (1, 'n', 'a'); INSERT INTO part VALUES (8, 'w', 'a')}, '', 'one that was detached before has some, and they do nothing');
attach('parts', 'part', ', row_level => true');
sql($node, q{CREATE TABLE part_e PARTITION OF part FOR VALUES IN ('e')});
changes(q{INSERT INTO part_e VALUES (1, 'e', 'a')}, 'n ["1", "e"]', 'row_level: a new part has them by itself');
changes(q{UPDATE part SET region = 'w' WHERE region = 'e'}, 'd ["1", "e"], n ["1", "w"]', 'row_level: a row that moves');
changes(q{TRUNCATE part_e}, '', 'row_level: but nobody is told that it is emptied');
like(sql($node, q{SELECT reason FROM llm_batch.tasks WHERE task = 'parts'}), qr/^partition public\.part_e came later/, 'which tasks tells as well');
sql($node, q{SELECT llm_batch.drop_task('parts')});
is(sql($node, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'llm_batch.enqueue'::regproc AND tgrelid <> 'part_n'::regclass}), 0, 'drop_task leaves no trigger');
changes(q{INSERT INTO part_n VALUES (2, 'n', 'a')}, '', 'and what was detached before goes on being a table');

# ---- old snapshots ----

# What a session learns of a trigger in a transaction that began before attach()
# it keeps for all those that follow.
note('--- old snapshots');
sql($node, q{CREATE TABLE snapped (id int PRIMARY KEY, body text, more text, summary text)});
create_task('snapped');
sql($node, q{SELECT llm_batch.alter_task('snapped', enabled => false)});
foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $old = LlmBatch::Session->new($node);

	$old->query("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM note");
	attach('snapped', 'snapped');
	is($old->query(q{INSERT INTO snapped VALUES (1, 'a'); COMMIT}), '', "$level: rows of a transaction whose snapshot is older than attach()");
	is(inbox(), 'n 1', "$level: are noted");
	$old->query(q{INSERT INTO snapped VALUES (2, 'a')});
	is(inbox(), 'n 2', "$level: and those that follow");
	$old->end;
	sql($node, q{SELECT llm_batch.detach('snapped', 'snapped'); DELETE FROM snapped});
}
sql($node, q{SELECT llm_batch.drop_task('snapped')});

# ---- triggers by hand ----

note('--- by hand');
sql($node, q{CREATE TABLE by_hand (id int PRIMARY KEY, body text, summary text, other int)});
create_task('hand');
sql($node, q{
	SELECT llm_batch.alter_task('hand', enabled => false);
	CREATE TRIGGER i AFTER INSERT ON by_hand REFERENCING NEW TABLE AS fresh EXECUTE FUNCTION llm_batch.enqueue('hand');
	CREATE TRIGGER u AFTER UPDATE ON by_hand REFERENCING OLD TABLE AS was NEW TABLE AS is_now EXECUTE FUNCTION llm_batch.enqueue('hand')});
is(sql($node, q{SELECT state FROM llm_batch.tasks WHERE task = 'hand'}), 'disabled', 'the task has no table yet');
changes(q{INSERT INTO by_hand VALUES (1, 'a'), (2, 'b')}, 'n 1, n 2', 'for each statement');
changes(q{UPDATE by_hand SET body = 'c' WHERE id = 2}, 'r 2', 'UPDATE for each statement');
is(sql($node, q{SELECT source FROM llm_batch.tasks WHERE task = 'hand'}), 'public.by_hand', 'the first row attaches it');
sql($node, q{
	DROP TRIGGER i ON by_hand; DROP TRIGGER u ON by_hand;
	CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON by_hand FOR EACH ROW EXECUTE FUNCTION llm_batch.enqueue('hand');
	CREATE TRIGGER t AFTER TRUNCATE ON by_hand EXECUTE FUNCTION llm_batch.enqueue('hand')});
changes(q{INSERT INTO by_hand VALUES (3, 'a'), (4, 'b'); UPDATE by_hand SET other = 1; UPDATE by_hand SET body = 'z' WHERE id = 4; DELETE FROM by_hand WHERE id = 1}, 'd 1, n 3, n 4, r 4', 'one for each row, of all events');
changes(q{TRUNCATE by_hand}, 't', 'TRUNCATE');
sql($node, q{DROP TRIGGER r ON by_hand; DROP TRIGGER t ON by_hand});

foreach my $case (
	[ 'AFTER INSERT ON by_hand', q{('hand')}, qr/trigger "x" does not see the rows.*HINT:  Create it with "REFERENCING NEW TABLE AS new", or FOR EACH ROW/s ],
	[ 'AFTER INSERT ON by_hand', q{('nobody')}, qr/task "nobody" does not exist.*HINT/s ],
	[ 'AFTER INSERT ON by_hand FOR EACH ROW', q{()}, qr/trigger "x" must name one task.*HINT/s ],
	[ 'AFTER INSERT ON by_hand FOR EACH ROW', q{('hand', 'and more')}, qr/trigger "x" must name one task/ ],
	[ 'BEFORE INSERT ON by_hand FOR EACH ROW', q{('hand')}, qr/trigger "x" must be an AFTER trigger/ ])
{
	my ($form, $arguments, $expected) = @$case;
	my (undef, undef, $error) = $node->psql('postgres', "CREATE TRIGGER x $form EXECUTE FUNCTION llm_batch.enqueue$arguments; INSERT INTO by_hand VALUES (1, 'a')");

	like($error, $expected, "$form $arguments");
	sql($node, q{DROP TRIGGER x ON by_hand});
}
like(($node->psql('postgres', 'SELECT llm_batch.enqueue()'))[2], qr/can only be called as a trigger.*HINT/s, 'enqueue() is no function for people');
is(inbox(), '', 'none of them put anything in');
sql($node, q{SELECT llm_batch.drop_task('hand')});

# ---- rows that are not sent yet ----

note('--- not sent yet');

# Numbers of the articles that stand in any request file, with what follows "speaks"; sorted.
sub asked
{
	my @lines;

	foreach my $file (grep { $_->{purpose} eq 'batch' } $sim->files)
	{
		my $content = $sim->{http}->get($sim->origin . "/_sim/files/$file->{id}")->{content};
		push @lines, map { JSON::PP->new->utf8->decode($_)->{body}{messages}[-1]{content} } split /\n/, $content;
	}
	return join ' ', sort { $a <=> $b || $a cmp $b } map { /Article (\S+) speaks/ ? $1 : $_ } @lines;
}

sub article { return map { "($_, 'Article $_ speaks. Much.')" } @_ }

create_articles($node, 0);
create_server($node, $sim, name => 'narrow', max_active_batches => 1);
create_task('articles', server => 'narrow');
attach('articles', 'articles');
$sim->options(run_seconds => 3600);
sql($node, 'INSERT INTO articles VALUES ' . join ', ', article(1, 2));
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.batches WHERE state = 'in_progress'}, 'the first batch flies');
sql($node, 'INSERT INTO articles VALUES ' . join ', ', article(11 .. 16));
wait_until($node, q{SELECT sum(queued) = 6 FROM llm_batch.progress}, 'the second job has to wait for it');
sql($node, q{
	DELETE FROM articles WHERE id IN (1, 11);
	UPDATE articles SET body = 'Article 12b speaks. Much.' WHERE id = 12;
	UPDATE articles SET body = 'Article 13b speaks. Much.' WHERE id = 13;
	UPDATE articles SET body = 'Article 13 speaks. Much.' WHERE id = 13;
	UPDATE articles SET id = 140 WHERE id = 14;
	DELETE FROM articles WHERE id = 15;
	INSERT INTO articles VALUES (15, 'Article 15 speaks. Much.')});
sleep 0.5;
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
settle('both jobs end');
is(asked(), '1 2 12b 13 14 15 16', 'what was changed or deleted before it was sent was not asked about in its old form');
is(sql($node, q{SELECT string_agg(id || ' ' || summary, ', ' ORDER BY id) FROM articles}),
	join(', ', map { (/^(\d+)/)[0] . " Summarise: Article $_ speaks." } '2', '12b', '13', '15', '16') . ', 140 Summarise: Article 14 speaks.', 'every row has its answer');
is(sql($node, q{SELECT string_agg(key || ' ' || error_code, ', ' ORDER BY key::int) FROM llm_batch.results WHERE error_code IS NOT NULL}),
	'1 cancelled, 11 stale, 12 stale, 13 stale, 14 stale, 15 stale', 'what became of the others is told');

# TRUNCATE
$sim->reset;
$sim->options(run_seconds => 3600);
sql($node, 'INSERT INTO articles VALUES ' . join ', ', article(21, 22));
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.batches WHERE state = 'in_progress'}, 'the first batch flies');
sql($node, 'INSERT INTO articles VALUES ' . join ', ', article(31 .. 36));
wait_until($node, q{SELECT sum(queued) = 6 FROM llm_batch.progress}, 'the second job has to wait for it');
sql($node, 'TRUNCATE articles; INSERT INTO articles VALUES ' . join ', ', article(36, 37));
sleep 0.5;
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
settle('both jobs end');
is(asked(), '21 22 36 37', 'TRUNCATE withdraws what was not sent');
is(sql($node, qq{SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT}), 2, 'and what came after it is answered');

# of a large table: what is remembered of its rows goes some thousands at a time, and what came after it is answered all the same
$sim->reset;
sql($node, q{
	INSERT INTO llm_batch.task_item SELECT i.attachment_id, 'x' || n, i.prompt_hash, i.job_id, i.ordinal, i.version
	FROM (SELECT * FROM llm_batch.task_item WHERE key = '36') i, generate_series(1, 22000) n;
	CREATE TABLE forgotten (rows int);
	CREATE FUNCTION forgotten() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.forgotten SELECT count(*) FROM gone; RETURN NULL; END $$;
	CREATE TRIGGER forgotten AFTER DELETE ON llm_batch.task_item REFERENCING OLD TABLE AS gone EXECUTE FUNCTION public.forgotten();
	TRUNCATE articles;
	INSERT INTO articles VALUES } . join ', ', article(36, 38));
settle('they are answered');
is(sql($node, q{SELECT count(*) > 4, max(rows) <= 5000, sum(rows) FROM forgotten}), 't|t|22002', 'TRUNCATE of a large table: bounded turns');
is(sql($node, q{SELECT string_agg(key, ' ' ORDER BY key) FROM llm_batch.task_item}), '36 38', 'and all is forgotten');
is(sql($node, qq{SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT}), 2, 'but for the rows that came after it');
is(asked(), '36 38', 'which are asked about');
sql($node, q{DROP TRIGGER forgotten ON llm_batch.task_item; DROP FUNCTION forgotten(); DROP TABLE forgotten});
sql($node, q{SELECT llm_batch.drop_task('articles'); DROP TABLE articles});

# ---- our own writing ----

note('--- our own writing');
$sim->reset;
sql($node, q{
	CREATE TABLE stamped (id int PRIMARY KEY, body text, summary text, second text, updated_at timestamptz, changes int DEFAULT 0);
	CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = clock_timestamp(); NEW.changes = COALESCE(OLD.changes, 0) + 1; RETURN NEW; END $$;
	CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp()});
create_task('stamped', prompt => 'Row {{id}}: {{body}} {{updated_at}}');
attach('stamped', 'stamped');
sql($node, q{INSERT INTO stamped VALUES (1, 'a'), (2, 'b')});
settle('it is answered');
sleep 0.5;
settle('and nothing follows');
is(sql($node, q{SELECT string_agg(changes::text, ' '), count(summary) FROM stamped}), '2 2|2', 'each row was written once');
is($sim->summary->{requests_run}, 2, 'a prompt that reads what a BEFORE trigger stamps when we write: paid once');

# Two tasks that both read the stamp would call each other for ever.
create_task('second', prompt => 'Again {{id}}: {{body}} {{updated_at}}', target => 'second');
attach('second', 'stamped');
$sim->reset;
sql($node, q{INSERT INTO stamped VALUES (3, 'c')});
my $until = time + 5;
sleep 0.2 while time < $until && $sim->summary->{requests_run} < 8;
cmp_ok($sim->summary->{requests_run}, '<', 8, 'two tasks that read the stamp do not call each other for ever');
sql($node, q{SELECT llm_batch.drop_task('second'); SELECT llm_batch.drop_task('stamped')});
settle('their jobs end');

# ---- prepared transactions ----

note('--- prepared transactions');
$sim->reset;
create_articles($node, 0);
create_task('articles');
attach('articles', 'articles');
foreach my $end ('COMMIT', 'ROLLBACK')
{
	my $id = $end eq 'COMMIT' ? 1 : 2;
	sql($node, "BEGIN; INSERT INTO articles VALUES ($id, 'Article $id speaks.'); PREPARE TRANSACTION 'x$id'");
}
sleep 0.3;
sql($node, q{INSERT INTO articles VALUES (3, 'Article 3 speaks.')});
settle('a row that was put in later is answered');
sql($node, q{COMMIT PREPARED 'x1'; ROLLBACK PREPARED 'x2'});
wait_until($node, q{SELECT count(*) = 2 FROM articles WHERE summary IS NOT NULL}, 'COMMIT PREPARED is found by the sweep');
settle('and no more');
is(asked(), '1 3', 'what was rolled back is not asked about');

# ---- a subscription ----

note('--- a subscription');
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
$publisher->safe_psql('postgres', q{
	CREATE TABLE applied (id int PRIMARY KEY, body text, summary text);
	CREATE TABLE unseen (id int PRIMARY KEY, body text, summary text);
	CREATE PUBLICATION p FOR TABLE applied, unseen});
my $connection = quote($publisher->connstr('postgres'));
sql($node, q{CREATE TABLE applied (id int PRIMARY KEY, body text, summary text); CREATE TABLE unseen (LIKE applied INCLUDING ALL)});
create_task('applied', target => undef);
sql($node, q{SELECT llm_batch.alter_task('applied', enabled => false)});
attach('applied', 'applied', ', row_level => true');
attach('applied', 'unseen');
sql($node, "CREATE SUBSCRIPTION s CONNECTION $connection PUBLICATION p");
$node->wait_for_subscription_sync($publisher, 's');
$publisher->safe_psql('postgres', q{INSERT INTO applied VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO unseen VALUES (9, 'z')});
$publisher->safe_psql('postgres', q{UPDATE applied SET body = 'd' WHERE id = 2; UPDATE applied SET summary = 'd' WHERE id = 3; DELETE FROM applied WHERE id = 3});
$publisher->wait_for_catchup('s');
is(inbox(), 'd 3, n 1, n 2, n 3, r 2', 'row_level: what a subscription applies is noticed, and without it is not');
$publisher->safe_psql('postgres', q{TRUNCATE applied});
$publisher->wait_for_catchup('s');
is(inbox(), 't', 'its TRUNCATE as well');
sql($node, q{INSERT INTO applied VALUES (4, 'e'); DELETE FROM applied});
is(inbox(), 'd 4, n 4', 'and what is done here');
sql($node, q{DROP SUBSCRIPTION s; SELECT llm_batch.drop_task('applied')});
$publisher->stop('fast');

# ---- many rows ----

note('--- many rows');
$sim->reset;
$sim->options(validate_seconds => 0.05, run_seconds => 0.1);
sql($node, q{SELECT llm_batch.drop_task('articles'); CREATE TABLE news (id text PRIMARY KEY, title text, body text, summary text)});
create_task('news', prompt => 'News {{id}} says. {{title}} {{body}}', max_wait => '1 s');
attach('news', 'news');

# 2,500 rows that are committed, one by one, and between them what is not.
sub session_file
{
	my ($session) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir("session$session") . '/sql';
	my $insert = sub { "INSERT INTO news (id, title) VALUES " . join(', ', map { "('$session/$_', 'Title $_.')" } @_) . ";\n" };

	open my $out, '>', $path or die "$path: $!";
	foreach my $n (1 .. 2500)
	{
		my $case = $n % 25;
		my @bad = ("bad $n", "worse $n");

		print $out 'BEGIN;', $insert->($bad[0]), "ROLLBACK;\n" if $case == 1;
		print $out $insert->(@bad, $n - 1) if $case == 6;    # the last is there already
		print $out 'BEGIN;', $insert->($bad[0]), $insert->($n - 1), $insert->($bad[1]), "COMMIT;\n" if $case == 11;
		print $out 'BEGIN; SAVEPOINT s;', $insert->($bad[0]), 'ROLLBACK TO s;', $insert->($n), 'SAVEPOINT s;', $insert->($bad[1]), "ROLLBACK TO s; COMMIT;\n" if $case == 16;
		print $out $insert->($n) if $case != 16;
	}
	close $out;
	return $path;
}

my $news = ($ENV{LLM_BATCH_SHARED} // "$FindBin::RealBin/../../../shared") . '/data/short_news.jsonl.gz';
my $copy = PostgreSQL::Test::Utils::tempdir('news') . '/copy';
my $news_count = 0;
open my $out, '>:raw', $copy or die "$copy: $!";
if (my $in = -r $news ? IO::Uncompress::Gunzip->new($news) : undef)
{
	while (defined(my $line = $in->getline))
	{
		my $row = JSON::PP->new->utf8->decode($line);
		my $text = join "\t", map { s/\\/\\\\/gr =~ s/\n/\\n/gr =~ s/\t/\\t/gr =~ s/\r/\\r/gr } @$row{qw(id title body)};
		utf8::encode($text);
		print $out "$text\n";
		$news_count++;
	}
}
close $out;
note("short news: $news_count");

my @sessions = map {
	my $path = session_file($_);
	IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $path ], '>', \my $said, '2>', \my $errors, IPC::Run::timeout($LlmBatch::PATIENCE * 3))
} 1 .. 4;
# twice it comes to nothing, and then it is committed, in one statement
$node->psql('postgres', "BEGIN;\n\\copy news (id, title, body) FROM '$copy'\nROLLBACK");
$node->psql('postgres', "INSERT INTO news (id) SELECT 'none ' || n FROM generate_series(1, 5000) n UNION ALL SELECT NULL");
sql($node, "\\copy news (id, title, body) FROM '$copy'");
$_->finish foreach @sessions;

my $count = 4 * 2500 + $news_count;
is(sql($node, 'SELECT count(*) FROM news'), $count, 'so many rows were committed');
settle('all of them are dealt with', 3 * $LlmBatch::PATIENCE);
check_prompts_ran_once($sim, $count, 'every committed row was asked about once, and no other');
is(sql($node, q{SELECT count(*) FROM news WHERE summary = format('News %s says.', id)}), $count, 'every row has its answer');
my $jobs = sql($node, q{SELECT string_agg(job_id::text, ',') FROM llm_batch.progress WHERE task = 'news'});
is(sql($node, "SELECT sum(total), sum(succeeded) FROM llm_batch.progress WHERE job_id IN ($jobs)"), "$count|$count", 'so many items, and all succeeded');
check_bill($node, $sim, [ split /,/, $jobs ], 'many rows');
is(sql($node, q{SELECT waiting, gathered, state, reason FROM llm_batch.tasks WHERE task = 'news'}), "0|$count|enabled|", 'tasks says so');
my $jobs_count = () = split /,/, $jobs, -1;
cmp_ok($jobs_count, '<', 60, "they gathered into $jobs_count jobs");
check_sim($sim);

done_testing();
