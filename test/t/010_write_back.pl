# Answers into source rows: what a row refuses costs only itself, what has
# changed is not overwritten, and nobody who holds a lock holds us up.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => [ 'llm_batch.write_back_timeout = 500ms', 'llm_batch.write_back_rows = 100', 'max_connections = 30' ]);
my $sim = start_sim();
my $count = 60;

create_server($node, $sim);

# A fresh table "articles" each time, and what else $sql makes.
sub begin
{
	my ($name, $sql) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'DROP TABLE IF EXISTS articles CASCADE');
	create_articles($node, $count);
	sql($node, $sql) if $sql;
}

# Ids of the rows whose results have this code.
sub with_code
{
	my ($job, $code) = @_;
	return sql($node, "SELECT string_agg(key, ' ' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $job AND error_code = '$code'");
}

sub written
{
	return sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT");
}

# Every item has an answer, whatever its row said.
sub check_answers_kept
{
	my ($name, $job) = @_;

	is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND answer = 'Summarise: Article ' || key || ' speaks.'"),
		$count, "$name: every answer is kept");
	is($sim->summary->{max_times_one_prompt_ran}, 1, "$name: nothing was sent again");
}

# ---- rows that refuse ----

foreach my $case (
	[ 'CHECK', q{ALTER TABLE articles ADD CONSTRAINT no7 CHECK (id % 20 <> 7 OR summary IS NULL)}, q{ALTER TABLE articles DROP CONSTRAINT no7}, qr/violates check constraint "no7"/ ],
	[ 'length', q{ALTER TABLE articles ALTER summary TYPE varchar(29) USING summary; UPDATE articles SET body = 'Article ' || id || ' speaks. And this: ' || body;
		CREATE FUNCTION longer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 20 = 7 THEN NEW.summary = repeat(NEW.summary, 9); END IF; RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION longer()},
		q{DROP FUNCTION longer CASCADE}, qr/value too long/ ],
	[ 'trigger', q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 20 = 7 THEN RAISE EXCEPTION 'not % please', NEW.id; END IF; RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION refuse()}, q{DROP FUNCTION refuse CASCADE}, qr/not \d+ please/ ],
	[ 'deferred constraint trigger', q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 20 = 7 THEN RAISE EXCEPTION 'not % please', NEW.id; END IF; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON articles DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()}, q{DROP FUNCTION refuse CASCADE}, qr/not \d+ please/ ],
	[ 'deferred unique', q{
		ALTER TABLE articles ADD CONSTRAINT once UNIQUE (summary) DEFERRABLE INITIALLY DEFERRED;
		INSERT INTO articles SELECT 1000 + id, 'x', 'Summarise: Article ' || id || ' speaks.' FROM articles WHERE id % 20 = 7},
		q{DELETE FROM articles WHERE id > 1000}, qr/duplicate key value/ ],
	[ 'withheld by a trigger', q{
		CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 20 = 7 THEN RETURN NULL; END IF; RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION withhold()}, q{DROP FUNCTION withhold CASCADE}, qr/withheld/ ])
{
	my ($name, $make, $drop, $reason) = @$case;

	begin("refused: $name", $make);
	my $job = submit($node, target => 'summary', filter => 'id < 1000');
	is(wait_job($node, $job), 'partial', "$name: the job is partial") or explain_job($node, $job);
	check_job($node, $job, $name);
	is(with_code($job, 'write_back'), '7 27 47', "$name: the rows that refuse, and no others");
	is(written(), $count - 3, "$name: all others are written");
	like(sql($node, "SELECT min(error) FROM llm_batch.results WHERE job_id = $job AND error_code = 'write_back'"), $reason, "$name: the reason is kept");
	check_answers_kept($name, $job);
	is(sql($node, "SELECT llm_batch.retry($job)"), '0', "$name: retry() does not pay for them again");
	is(sql($node, "SELECT llm_batch.apply($job)"), '3', "$name: apply() tries them again");
	is(wait_job($node, $job), 'partial', "$name: and they are refused again") if $name eq 'CHECK';
	wait_until($node, "SELECT finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM llm_batch.command) FROM llm_batch.progress WHERE job_id = $job", 'apply is over');
	is(with_code($job, 'write_back'), '7 27 47', "$name: nothing is lost by trying");
	sql($node, $drop);
	is(sql($node, "SELECT llm_batch.apply($job)"), '3', "$name: once the obstacle is gone, apply() tries them");
	wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job", "$name: the job succeeds then");
	check_job($node, $job, "$name, applied");
	is(written(), $count, "$name: all are written");
	check_prompts_ran_once($sim, $count, "$name: it was free");
	is(sql($node, "SELECT llm_batch.apply($job)"), '0', "$name: nothing is left to apply");
}

# Several columns, and an answer that leaves one out: NULL is for the column
# to accept or to refuse.
begin('NOT NULL', q{ALTER TABLE articles ADD grade varchar(5) NOT NULL DEFAULT '', ADD note text});
$sim->rule({}, items => [
	{ do => { answer => { summary => 'fine', grade => '3', note => undef } } },
	{ prompt_contains => 'Article 7 ', do => { answer => { summary => 'fine', grade => undef, note => 'n' } } },
	{ prompt_contains => 'Article 9 ', do => { answer => qq(Here it is:\n```json\n{"summary": "fine", "grade": 3, "note": null,}\n```\nAnything else?) } },
	{ prompt_contains => 'Article 8 ', do => { answer => { summary => 'fine', grade => 'very good', note => 'n' } } } ]);
my $job = submit($node, target => 'summary, grade, note');
is(wait_job($node, $job), 'partial', 'NOT NULL: the job is partial') or explain_job($node, $job);
check_job($node, $job, 'NOT NULL');
is(with_code($job, 'invalid_output'), '7 8', 'NOT NULL: the answers that do not fit, and no others');
like(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND key = '7'"), qr/column "grade": expected text of at most 5 characters, got null/, 'NOT NULL: the reason');
like(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND key = '8'"), qr/column "grade": expected text of at most 5 characters, got "very good"/, 'a value that the type refuses: the reason');
is(sql($node, q{SELECT count(*) FROM articles WHERE (summary, grade) = ('fine', '3') AND note IS NULL}), $count - 2, 'NOT NULL: all others are written');
is(sql($node, 'SELECT count(*) FROM articles WHERE id IN (7, 8) AND summary IS NULL AND length(grade) = 0'), '2', 'NOT NULL: of those two no column is');

# ---- rows that are gone, or newer ----

begin('deleted and changed');
$sim->rule({}, run_seconds => 0.8);
$job = submit($node, target => 'summary');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'the batch flies');
sql($node, q{
	DELETE FROM articles WHERE id IN (3, 30);
	UPDATE articles SET body = 'Something else. ' || body WHERE id IN (4, 40);
	UPDATE articles SET summary = 'by hand' WHERE id = 5});
is(wait_job($node, $job), 'partial', 'deleted and changed: the job is partial');
check_job($node, $job, 'deleted and changed');
is(with_code($job, 'write_back'), '3 30', 'deleted rows: write_back');
is(with_code($job, 'stale'), '4 40', 'changed rows: stale');
is(sql($node, 'SELECT count(*) FROM articles WHERE id IN (4, 40) AND summary IS NULL'), '2', 'the newer rows are untouched');
is(sql($node, "SELECT string_agg(state || ' ' || error_code, ',') FROM llm_batch.attempts WHERE job_id = $job AND key = '4'"), 'failed stale', 'attempts shows it');
check_answers_kept('deleted and changed', $job);
is(sql($node, 'SELECT summary FROM articles WHERE id = 5'), 'Summarise: Article 5 speaks.', 'a row whose text is the same is written');
is(sql($node, "SELECT llm_batch.apply($job)"), '2', 'apply() does not take stale answers');
wait_until($node, "SELECT finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM llm_batch.command) FROM llm_batch.progress WHERE job_id = $job", 'apply is over');
is(with_code($job, 'write_back'), '3 30', 'a row that is gone stays gone');

# ---- locks ----

# A session of somebody else's, in a transaction, that holds what $sql takes.
sub hold
{
	my ($sql) = @_;
	my $holder = LlmBatch::Session->new($node);

	$holder->query("BEGIN; $sql");
	return $holder;
}

# Runs a small job of another table meanwhile: how long that took.
sub other_job
{
	sql($node, 'DROP TABLE IF EXISTS others');
	create_articles($node, 10, name => 'others');
	my $begin = time;
	my $other = submit($node, source => 'others', target => 'summary', server => 'mock');

	is(wait_job($node, $other), 'succeeded', 'another job succeeds meanwhile');
	return time - $begin;
}

foreach my $how ('FOR UPDATE', 'UPDATE')
{
	begin("rows locked: $how");
	my $holder = hold($how eq 'UPDATE' ? q{UPDATE articles SET summary = 'mine' WHERE id IN (11, 22)} : q{SELECT FROM articles WHERE id IN (11, 22) FOR UPDATE});
	$job = submit($node, target => 'summary');
	wait_until($node, "SELECT succeeded = $count - 2 AND unapplied = 2 FROM llm_batch.progress WHERE job_id = $job", "$how: all others land at once");
	is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'running', "$how: the job runs on");
	is(sql($node, "SELECT count(*) FROM llm_batch.attempts WHERE job_id = $job AND key IN ('11', '22') AND answer IS NOT NULL"), '2', "$how: their answers are stored");
	cmp_ok(other_job(), '<', 5, "$how: and does not wait");
	is(sql($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND wait_event_type = 'Lock'"), '0', "$how: the worker does not wait for the lock");
	$holder->query('COMMIT');
	is(wait_job($node, $job), 'succeeded', "$how: with the lock gone the job succeeds");
	check_job($node, $job, $how);
	is(written(), $count, "$how: all are written");
	check_answers_kept($how, $job);
}

# The row changes under the lock: what is written after it is stale.
begin('changed under a lock');
my $holder = hold(q{UPDATE articles SET body = 'Changed. ' || body WHERE id = 11});
$job = submit($node, target => 'summary');
wait_until($node, "SELECT succeeded = $count - 1 AND unapplied = 1 FROM llm_batch.progress WHERE job_id = $job", 'all others land at once');
$holder->query('COMMIT');
is(wait_job($node, $job), 'partial', 'changed under a lock: the job ends');
is(with_code($job, 'stale'), '11', 'changed under a lock: the answer is stale');
is(sql($node, 'SELECT summary IS NULL FROM articles WHERE id = 11'), 't', 'changed under a lock: the newer row is untouched');

# The whole table, or something that every row's trigger needs, is locked.
foreach my $case (
	[ 'table locked', '', 'LOCK TABLE articles IN ACCESS EXCLUSIVE MODE' ],
	[ 'a trigger\'s counter locked', q{
		CREATE TABLE IF NOT EXISTS counter (n bigint); DELETE FROM counter; INSERT INTO counter VALUES (0);
		CREATE OR REPLACE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.counter SET n = n + 1; RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION count_up()}, 'UPDATE counter SET n = 100' ])
{
	my ($name, $make, $lock) = @$case;
	my $many = $count;

	$count = 1000;
	begin($name, $make);
	$sim->rule({}, run_seconds => 1);
	$job = submit($node, target => 'summary');
	$holder = hold($lock);
	wait_until($node, "SELECT unapplied = $count FROM llm_batch.progress WHERE job_id = $job", "$name: all answers are stored");
	cmp_ok(other_job(), '<', 10, "$name: another job does not wait");
	$holder->query('COMMIT');
	is(wait_job($node, $job), 'succeeded', "$name: with the lock gone the job succeeds");
	check_job($node, $job, $name);
	is(written(), $count, "$name: all are written");
	$count = $many;
}

# ---- slow triggers ----

begin('a slow trigger', q{
	CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$;
	CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION dawdle()});
$job = submit($node, target => 'summary', filter => 'id <= 30');
wait_until($node, "SELECT count(*) > 0 FROM llm_batch.unapplied WHERE job_id = $job", 'the first slice was too slow');
cmp_ok(other_job(), '<', 8, 'a slow trigger: another job is not stalled');
is(wait_job($node, $job), 'succeeded', 'a slow trigger: all succeed, in slices that fit into the time limit');
check_job($node, $job, 'a slow trigger');
is(written(), 30, 'a slow trigger: all are written');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'a slow trigger: nothing was sent again');

# One row that takes for ever does not hold up the others.
begin('one row for ever', q{
	CREATE OR REPLACE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 13 THEN PERFORM pg_sleep(3600); END IF; RETURN NEW; END $$;
	CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION dawdle()});
$job = submit($node, target => 'summary');
wait_until($node, "SELECT succeeded = $count - 1 FROM llm_batch.progress WHERE job_id = $job", 'one row for ever: all others land');
is(written(), $count - 1, 'one row for ever: and are written');
sql($node, 'DROP FUNCTION dawdle CASCADE');
is(wait_job($node, $job), 'succeeded', 'one row for ever: it lands as well when it is let');
check_job($node, $job, 'one row for ever');

# ---- keys ----

foreach my $case (
	[ 'uuid', 'uuid', q{gen_random_uuid()} ],
	[ 'date', 'date', q{date '1999-12-01' + n} ],
	[ 'timestamptz', 'timestamptz', q{timestamptz '2026-03-29 00:30:00.123456+00' + n * interval '17 minutes'} ],
	[ 'float8', 'float8', q{n / 3.0::float8} ],
	[ 'bytea', 'bytea', q{decode(md5(n::text), 'hex')} ],
	[ 'text', 'text', q{format(E'it''s "%s" \\\\ {%s,} [%s] \n %%, é', n, n, n)} ],
	[ 'text with an empty one', 'text', q{CASE n WHEN 1 THEN '' WHEN 2 THEN 'NULL' WHEN 3 THEN ' ' ELSE n::text END} ],
	[ 'composite', 'a text, b int, c date', q{'x"' || n / 2 || ']', n % 2, date '2026-01-01' + n}, 'a, b, c' ],
	[ 'numeric', 'numeric(10,4)', q{n * 1.25} ])
{
	my ($name, $type, $expression, $columns) = @$case;
	my $define = $columns ? "$type, PRIMARY KEY ($columns)" : "\"the Key\" $type PRIMARY KEY";

	note("--- key: $name");
	$sim->reset;
	sql($node, qq{
		SET datestyle = 'German, DMY'; SET timezone = 'Asia/Kolkata'; SET extra_float_digits = 0;
		DROP TABLE articles CASCADE;
		CREATE TABLE articles ($define, id int, body text, summary text);
		INSERT INTO articles SELECT $expression, n, format('Article %s speaks. And so on.', n) FROM generate_series(1, 20) n;
	});
	$job = sql($node, q{
		SET datestyle = 'German, DMY'; SET timezone = 'Asia/Kolkata'; SET extra_float_digits = 0; SET bytea_output = escape;
		SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')});
	is(wait_job($node, $job), 'succeeded', "key $name: the job succeeds") or explain_job($node, $job);
	is(written(), 20, "key $name: every row has its own answer");
}

check_sim($sim);
$holder->end;

done_testing();
