# People change tables, types and rows underneath of jobs, while their batches
# fly and while results land: no answer is lost, no newer row is overwritten,
# nothing is paid twice, and what is mended is brought in by apply().
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => [ 'llm_batch.write_back_rows = 4', 'max_connections = 30' ]);
my $sim = start_sim();
my $count = 8;

create_server($node, $sim, key => undef, max_active_batches => 100, realtime_concurrency => 400, retry_base => '300ms', retry_max => '1s');
sql($node, q{
	CREATE ROLE alice LOGIN;
	GRANT CREATE ON DATABASE postgres TO alice;
	GRANT USAGE ON FOREIGN SERVER sim TO alice;
	CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key 'sk-alice')});

sub as_alice
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', 'alice' ]);
}

my $ALL = join ' ', 1 .. $count;
# Rows whose results stand at the end of the file, so that they come after
# the change in any case.
my $LATE = '7 8';

# What happens to a table "t" of the schema that each case has for itself:
#	make	before the job, by its owner
#	change	meanwhile, by a superuser
#	rows	whose answers are refused then
#	why		the reason that is kept
#	mend	what makes it possible again
#	lost	1: with the change, the answers that had landed are gone
#	code	instead of write_back
#	target	instead of summary
my @cases = (
	{ name => 'table renamed', change => 'ALTER TABLE t RENAME TO u', rows => $ALL, why => qr/^table \w+\.t does not exist any more$/, mend => 'ALTER TABLE u RENAME TO t' },
	{ name => 'schema renamed', change => 'ALTER SCHEMA %s RENAME TO %s_other', rows => $ALL, why => qr/^table \w+\.t does not exist any more$/, mend => 'ALTER SCHEMA %s_other RENAME TO %s' },
	{ name => 'moved to another schema', change => 'ALTER TABLE t SET SCHEMA elsewhere', rows => $ALL, why => qr/^table \w+\.t does not exist any more$/, mend => 'ALTER TABLE elsewhere.t SET SCHEMA %s' },
	{ name => 'table dropped', change => 'CREATE TABLE copy AS SELECT id, body FROM t; DROP TABLE t', rows => $ALL, why => qr/^table \w+\.t does not exist any more$/, lost => 1,
		mend => 'CREATE TABLE t (id int PRIMARY KEY, body text, summary text); INSERT INTO t SELECT * FROM copy; ALTER TABLE t OWNER TO alice' },
	{ name => 'target dropped', change => 'ALTER TABLE t DROP summary', rows => $ALL, why => qr/^column "summary" does not exist any more$/, lost => 1, mend => 'ALTER TABLE t ADD summary text' },
	{ name => 'target renamed', change => 'ALTER TABLE t RENAME summary TO abstract', rows => $ALL, why => qr/^column "summary" does not exist any more$/, mend => 'ALTER TABLE t RENAME abstract TO summary' },
	{ name => 'target retyped', change => 'ALTER TABLE t ALTER summary TYPE int USING NULL', rows => $ALL, why => qr/^the target has been changed since the submit: column "summary": expected an integer/, lost => 1, mend => 'ALTER TABLE t ALTER summary TYPE text' },
	{ name => 'target made shorter', change => 'ALTER TABLE t ALTER summary TYPE varchar(9) USING NULL', rows => $ALL, why => qr/^value too long for type/, lost => 1, mend => 'ALTER TABLE t ALTER summary TYPE text' },
	{ name => 'target made generated', change => q{ALTER TABLE t DROP summary; ALTER TABLE t ADD summary text GENERATED ALWAYS AS ('x') STORED}, rows => $ALL, why => qr/^column "summary" can only be updated to DEFAULT$/, lost => 1,
		mend => 'ALTER TABLE t ALTER summary DROP EXPRESSION; UPDATE t SET summary = NULL' },
	{ name => 'label of the enum renamed', make => q{CREATE TYPE mood AS ENUM ('good', 'bad'); ALTER TABLE t ADD mood mood}, target => 'mood', change => q{ALTER TYPE mood RENAME VALUE 'good' TO 'fair'; ALTER TYPE mood RENAME VALUE 'bad' TO 'foul'},
		rows => $ALL, why => qr/^the target has been changed since the submit: column "mood": expected one of fair, foul/, mend => q{ALTER TYPE mood RENAME VALUE 'fair' TO 'good'; ALTER TYPE mood RENAME VALUE 'foul' TO 'bad'} },
	{ name => 'column of the prompt dropped', change => 'CREATE TABLE copy AS SELECT id, body FROM t; ALTER TABLE t DROP body', rows => $ALL, why => qr/^column t\.body does not exist$/,
		mend => 'ALTER TABLE t ADD body text; UPDATE t SET body = c.body FROM copy c WHERE c.id = t.id' },
	{ name => 'key column dropped', change => 'ALTER TABLE t DROP id', rows => $ALL, why => qr/^column "id" does not exist any more$/, mend => q{ALTER TABLE t ADD id int; UPDATE t SET id = substring(body from 'article (\d+)')::int} },
	{ name => 'key retyped so that keys do not fit', change => q{ALTER TABLE t ALTER id TYPE uuid USING lpad(id::text, 32, '0')::uuid}, rows => $ALL, why => qr/^invalid input syntax for type uuid/, mend => q{ALTER TABLE t ALTER id TYPE int USING right(id::text, 9)::int} },
	{ name => 'keys changed', change => 'UPDATE t SET id = id + 1000', rows => $ALL, why => qr/^the source row does not exist any more$/, mend => 'UPDATE t SET id = id - 1000' },
	{ name => 'rows deleted', change => 'DELETE FROM t WHERE id >= 7', rows => $LATE, why => qr/^the source row does not exist any more$/, mend => q{INSERT INTO t SELECT n, body_of('%s', n) FROM generate_series(7, 8) n} },
	{ name => 'truncated', change => 'TRUNCATE t', rows => $ALL, why => qr/^the source row does not exist any more$/, lost => 1, mend => q{INSERT INTO t SELECT n, body_of('%s', n) FROM generate_series(1, 8) n} },
	{ name => 'replaced by a view that cannot be updated', change => 'ALTER TABLE t RENAME TO base; CREATE VIEW t AS SELECT DISTINCT * FROM base; ALTER VIEW t OWNER TO alice', rows => $ALL, why => qr/^cannot update view "t"$/, mend => 'DROP VIEW t; ALTER TABLE base RENAME TO t' },
	{ name => 'replaced by a materialized view', change => 'ALTER TABLE t RENAME TO base; CREATE MATERIALIZED VIEW t AS SELECT * FROM base; ALTER MATERIALIZED VIEW t OWNER TO alice', rows => $ALL, why => qr/^cannot change materialized view "t"$/, mend => 'DROP MATERIALIZED VIEW t; ALTER TABLE base RENAME TO t' },
	{ name => 'a rule withholds updates', change => 'CREATE RULE r AS ON UPDATE TO t DO INSTEAD NOTHING', rows => $ALL, why => qr/^cannot perform UPDATE RETURNING on relation "t"$/, mend => 'DROP RULE r ON t' },
	{ name => 'CHECK', change => 'ALTER TABLE t ADD CONSTRAINT c CHECK (id < 7 OR summary IS NULL)', rows => $LATE, why => qr/violates check constraint "c"$/, mend => 'ALTER TABLE t DROP CONSTRAINT c' },
	{ name => 'trigger', change => q{CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id >= 7 THEN RAISE ''not this one''; END IF; RETURN NEW; END'; CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()},
		rows => $LATE, why => qr/^not this one$/, mend => 'DROP TRIGGER g ON t' },
	{ name => 'deferred trigger', change => q{CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id >= 7 THEN RAISE ''not this one''; END IF; RETURN NULL; END'; CREATE CONSTRAINT TRIGGER g AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()},
		rows => $LATE, why => qr/^not this one$/, mend => 'DROP TRIGGER g ON t' },
	{ name => 'foreign key', change => q{CREATE TABLE allowed AS SELECT DISTINCT right_answer('%s', n) AS a FROM generate_series(1, 6) n; ALTER TABLE allowed ADD PRIMARY KEY (a), OWNER TO alice;
			ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (summary) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED},
		rows => $LATE, why => qr/violates foreign key constraint "c"$/, mend => 'ALTER TABLE t DROP CONSTRAINT c' },
	{ name => 'row-level security', change => 'ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id < 7)', rows => $LATE, why => qr/^the source row does not exist any more$/, mend => 'ALTER TABLE t DISABLE ROW LEVEL SECURITY' },
	{ name => 'a policy for what is written', change => 'ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (true) WITH CHECK (id < 7)', rows => $LATE, why => qr/^new row violates row-level security policy/, mend => 'ALTER TABLE t DISABLE ROW LEVEL SECURITY' },
	{ name => 'given to another owner', change => 'ALTER TABLE t OWNER TO postgres', rows => $ALL, why => qr/^permission denied for table t$/, mend => 'ALTER TABLE t OWNER TO alice' },
	{ name => 'SELECT taken away', change => 'ALTER TABLE t OWNER TO postgres; GRANT UPDATE ON t TO alice', rows => $ALL, why => qr/^permission denied for table t$/, mend => 'GRANT SELECT ON t TO alice' },
	{ name => 'USAGE on the schema taken away', change => 'ALTER SCHEMA %s OWNER TO postgres; REVOKE ALL ON SCHEMA %s FROM alice', rows => $ALL, why => qr/^permission denied for schema/, mend => 'GRANT USAGE ON SCHEMA %s TO alice' },
	{ name => 'rows changed', change => q{UPDATE t SET body = 'Now ' || body WHERE id >= 7}, rows => $LATE, code => 'stale', why => qr/text has changed/ },
	{ name => 'rows changed while they are locked', hold => q{UPDATE t SET body = 'Now ' || body WHERE id >= 7}, rows => $LATE, code => 'stale', why => qr/text has changed/ },
	# what does not matter
	{ name => 'rows locked', hold => 'SELECT FROM t WHERE id >= 7 FOR UPDATE' },
	{ name => 'primary key dropped', change => 'ALTER TABLE t DROP CONSTRAINT t_pkey' },
	{ name => 'key retyped so that keys fit', change => 'ALTER TABLE t ALTER id TYPE text' },
	{ name => 'written anew', vacuum => 1 },
	{ name => 'replaced by a view that can be updated', change => 'ALTER TABLE t RENAME TO base; CREATE VIEW t AS SELECT * FROM base; ALTER VIEW t OWNER TO alice' },
	{ name => 'columns added and reordered', change => 'ALTER TABLE t RENAME TO u; CREATE TABLE t (x int DEFAULT 7, summary text, body text, id bigint UNIQUE); INSERT INTO t (id, body, summary) SELECT id, body, summary FROM u; ALTER TABLE t OWNER TO alice' });

sql($node, q{
	CREATE SCHEMA elsewhere AUTHORIZATION alice;
	CREATE FUNCTION body_of(text, int) RETURNS text IMMUTABLE LANGUAGE sql RETURN format('In %s article %s speaks. At length.', $1, $2);
	CREATE FUNCTION right_answer(text, int) RETURNS text IMMUTABLE LANGUAGE sql RETURN format('Summarise: In %s article %s speaks.', $1, $2)});

# In a session that stays: there are many questions.
my $session = LlmBatch::Session->new($node);
$session->query('SET client_min_messages = warning');

sub ask
{
	my ($query) = @_;
	chomp(my $answer = $session->query($query));
	return $answer;
}

# Runs statements of a case, in its schema; by a superuser.
sub run_in
{
	my ($case, $statements) = @_;

	$statements =~ s/%s/$case->{schema}/g;
	return is(ask("SET search_path = $case->{schema}, public; BEGIN; $statements; COMMIT; RESET search_path"), '', "$case->{schema}: $case->{name}");
}

sub jobs
{
	return join ', ', map { $_->{job} } @cases;
}

# All jobs, each with its table; in one session, for they are many.
sub submit_all
{
	my ($round, $mode) = @_;
	my $n = 0;
	my $script = "SET search_path = public;\n";

	foreach my $case (@cases)
	{
		my $schema = $case->{schema} = $round . '_' . ++$n;
		my $target = $case->{target} // 'summary';
		my $make = $case->{make} // '';

		$script .= qq{
			CREATE SCHEMA $schema;
			SET search_path = $schema, public;
			CREATE TABLE t (id int PRIMARY KEY, body text, summary text);
			$make;
			INSERT INTO t SELECT n, body_of('$schema', n) FROM generate_series(1, $count) n;
			SELECT llm_batch.submit('t', 'Summarise: {{body}}', 'gpt-6-luna', target => '$target', server => 'sim', mode => '$mode');
		};
	}
	my @ids = split /\n/, as_alice($script);
	is(scalar @ids, scalar @cases, "$round: as many jobs as cases");
	$_->{job} = shift @ids foreach @cases;
}

# Changes everything; sessions that hold something are returned.
sub change_all
{
	my @holders;

	foreach my $case (@cases)
	{
		if ($case->{hold})
		{
			my $holder = LlmBatch::Session->new($node);

			$holder->query("SET search_path = $case->{schema}; BEGIN; $case->{hold}");
			push @holders, $holder;
		}
		ask("VACUUM FULL $case->{schema}.t") if $case->{vacuum};
		run_in($case, $case->{change}) if $case->{change};
		$case->{landed} = ask("SELECT succeeded FROM llm_batch.progress WHERE job_id = $case->{job}");
	}
	return @holders;
}

sub right_rows
{
	my ($case) = @_;
	my $schema = $case->{schema};

	return ask("SELECT count(*) FROM $schema.t WHERE mood IS NOT NULL") if $case->{target};
	return ask("SELECT count(*) FROM $schema.t WHERE summary = right_answer('$schema', id::text::int)");
}

# What became of it: refused items have their answers and the reason.
sub check_ended
{
	my ($round, $case) = @_;
	my ($name, $job) = ("$round: $case->{name}", $case->{job});
	# what landed before the change cannot be refused by it
	my @refused = grep { $_ > $case->{landed} } split / /, $case->{rows} // '';
	my $code = $case->{code} // 'write_back';

	is(ask("SELECT string_agg(key, ' ' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $job AND error_code = '$code'"),
		"@refused", "$name: the rows that it concerns, and no others") or explain_job($node, $job);
	is(ask("SELECT count(*) FILTER (WHERE answer <> ''), count(*) FILTER (WHERE state = 'succeeded') FROM llm_batch.results WHERE job_id = $job"),
		"$count|" . ($count - @refused), "$name: every answer is kept, all others succeeded");
	like(ask("SELECT string_agg(DISTINCT error, E'\\n') FROM llm_batch.results WHERE job_id = $job"), $case->{why}, "$name: the reason is kept") if $case->{why};
	return scalar @refused;
}

# Mended, all is where it belongs.
sub check_mended
{
	my ($round, $case, $refused) = @_;
	my ($name, $job, $schema) = ("$round: $case->{name}", $case->{job}, $case->{schema});

	if (($case->{code} // '') eq 'stale')
	{
		is(ask("SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'succeeded', "$name: asked again, the job succeeds") or explain_job($node, $job);
		is(ask("SELECT count(*) FROM $schema.t WHERE body ~ '^Now' AND summary LIKE 'Summarise: Now In $schema article % speaks.'"), '2', "$name: with the answers to the new text");
		return;
	}
	is(ask("SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'succeeded', "$name: the job succeeds") or explain_job($node, $job);
	check_job($node, $job, "$name, mended");
	is(right_rows($case), $case->{lost} ? $refused : $count, "$name: the rows have their answers");
}

sub play
{
	my ($round) = @_;
	my $pid = worker_pid($node);
	my @holders = change_all();
	my %refused;

	$sim->clear_rules;
	$sim->options(run_seconds => 0.1);
	$sim->advance(4000);
	# what is locked is stored, and the others do not wait for it
	foreach my $case (@cases)
	{
		my $want = $case->{hold} ? 'unapplied = 2 AND in_flight = 2' : 'finished_at IS NOT NULL';
		my $until = time + $LlmBatch::PATIENCE;

		sleep 0.05 while ask("SELECT $want FROM llm_batch.progress WHERE job_id = $case->{job}") ne 't' && time < $until;
		is(ask("SELECT $want FROM llm_batch.progress WHERE job_id = $case->{job}"), 't', "$round: $case->{name}: $want") or explain_job($node, $case->{job});
	}
	foreach my $holder (@holders)
	{
		$holder->query('COMMIT');
		$holder->end;
	}
	wait_until($node, 'SELECT bool_and(finished_at IS NOT NULL) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')', "$round: all jobs end");
	$refused{ $_->{name} } = check_ended($round, $_) foreach @cases;
	foreach my $case (grep { ($_->{code} // '') eq 'stale' } @cases)
	{
		is(ask("SELECT count(*) FROM $case->{schema}.t WHERE body ~ '^Now' AND summary IS NULL"), '2', "$round: $case->{name}: the newer rows are untouched");
		is(ask("SELECT llm_batch.retry($case->{job}, '{stale}')"), $refused{ $case->{name} }, "$round: $case->{name}: retry() takes them when it is told");
	}
	foreach my $case (grep { $_->{mend} } @cases)
	{
		run_in($case, $case->{mend});
		is(ask("SELECT llm_batch.apply($case->{job})"), $refused{ $case->{name} }, "$round: $case->{name}: apply() takes what was refused");
	}
	wait_until($node, 'SELECT bool_and(finished_at IS NOT NULL) AND NOT EXISTS (SELECT FROM llm_batch.command) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')', "$round: all jobs end again");
	check_mended($round, $_, $refused{ $_->{name} }) foreach @cases;
	my $changed = ask('SELECT sum((error_code = \'stale\')::int) FROM llm_batch.attempts WHERE job_id IN (' . jobs() . ')');
	is(join(' ', @{ $sim->summary }{qw(distinct_prompts_run max_times_one_prompt_ran)}), @cases * $count + $changed . ' 1', "$round: nothing was paid twice");
	is(worker_pid($node), $pid, "$round: the worker lived through all of it");
	check_sim($sim, "$round: the simulator is content");
}

# ---- while batches fly ----

$sim->options(run_seconds => 3600);
submit_all('flying', 'batch');
wait_until($node, 'SELECT count(*) = ' . @cases . ' FROM llm_batch.batches WHERE job_id IN (' . jobs() . q{) AND state = 'in_progress'}, 'all batches fly');
play('flying');

# ---- while results land ----

# Each file breaks off after a few lines, again and again.
$sim->reset;
$sim->rule({}, shuffle => $sim->false);
$sim->fault({ method => 'GET', path => '^/v1/files/[^/]+/content$' }, { cut_body_at => 2400 });
submit_all('landing', 'batch');
wait_until($node, 'SELECT bool_and(succeeded > 0) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')', 'of all files, some answers have landed');
play('landing');
# ---- while requests are out one by one ----

$sim->reset;
$sim->fault({ method => 'POST', path => '^/v1/chat/completions$' }, { stall => 4 });
submit_all('singly', 'realtime');
$sim->wait_for(sub { $_[0]->summary->{realtime_calls} == @cases * $count });
is(sql($node, 'SELECT sum(succeeded) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')'), '0', 'all requests are out, no answer has come');
play('singly');

# ---- while rows are changed, one after the other, as fast as can be ----

# Text and answer meet in the middle of the table; who writes an answer to a
# text that has changed by then is found out.
my $many = 300;

$sim->reset;
$sim->options(run_seconds => 3600);
sql($node, qq{
	CREATE TABLE race (id int PRIMARY KEY, body text, summary text);
	INSERT INTO race SELECT n, body_of('race', n) FROM generate_series(1, $many) n;
	CREATE TABLE written (id int, body text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
		\$\$ BEGIN INSERT INTO public.written VALUES (NEW.id, NEW.body); RETURN NEW; END \$\$;
	CREATE TRIGGER note BEFORE UPDATE OF summary ON race FOR EACH ROW EXECUTE FUNCTION note();
	CREATE PROCEDURE change_all(last int) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR n IN REVERSE last..1 LOOP
			UPDATE public.race SET body = 'Now ' || body WHERE id = n;
			-- a lock that lasts for a moment, for the other side to run into
			PERFORM pg_sleep(0.004);
			COMMIT;
		END LOOP;
	END \$\$;
	GRANT SELECT, UPDATE ON race TO alice;
	GRANT INSERT ON written TO alice});
my $job = as_alice(q{SELECT llm_batch.submit('race', 'Summarise: {{body}}', 'gpt-6-luna', target => 'summary', server => 'sim', mode => 'batch')});
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'the batch flies');
my $changer = LlmBatch::Session->new($node);
$changer->query('SELECT 1');
# starts, and is not waited for
$changer->{in} .= "CALL change_all($many);\n";
$changer->{psql}->pump_nb;
wait_until($node, q{SELECT count(*) > 50 FROM race WHERE body ~ '^Now'}, 'rows are being changed');
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
is(wait_job($node, $job), 'partial', 'race: the job ends') or explain_job($node, $job);
check_job($node, $job, 'race');
$changer->end;
is(sql($node, q{SELECT count(*) FROM race WHERE body ~ '^Now'}), $many, 'race: all rows were changed in the end');
is(sql($node, q{SELECT count(*) FROM written WHERE body ~ '^Now'}), '0', 'race: no answer was written to a text that had changed');
is(sql($node, 'SELECT count(*) FROM written'), sql($node, "SELECT succeeded FROM llm_batch.progress WHERE job_id = $job"), 'race: what is counted was written');
is(sql($node, "SELECT DISTINCT error_code FROM llm_batch.results WHERE job_id = $job AND state = 'failed' AND answer <> ''"), 'stale', 'race: the others are stale, their answers kept');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'race: nothing was sent again');

$session->end;
check_sim($sim);
done_testing();
