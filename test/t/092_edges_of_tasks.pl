# Where two things meet: atomic jobs and what fails at the end of a
# transaction, what follows a job and an owner who is gone, masked texts and
# every way there is to send them, and tasks that are changed while others write.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => [ 'llm_batch.write_back_rows = 4', "llm_batch.write_back_timeout = '2s'", "llm_batch.query_timeout = '2s'" ]);
my $sim = start_sim(record => 1);
my $ANY = qr/^(?:succeeded|partial|failed|cancelled)$/;

create_server($node, $sim, max_attempts => 2, invalid_output_retries => 0);

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# ---- atomic: what fails at the end ----

sub line
{
	my ($job) = @_;
	my $row = job_row($node, $job);
	return join ' ', map { $_ // 'NULL' } @$row{qw(state total queued in_flight succeeded failed unapplied reason)};
}

# An atomic job over "t" that cannot be applied: nothing is written, it says
# why, others go on with the same worker; and once that is mended apply() writes.
sub refused_at_the_end
{
	my ($name, $reason, $mend) = @_;
	my $written = 'SELECT count(summary) FROM ' . ($name =~ /foreign/ ? 'far' : 't');
	my $pid = worker_pid($node);
	my $job = submit($node, source => $name =~ /foreign/ ? 'far' : 't', target => 'summary', atomic => 1, key => 'id');

	is(wait_job($node, $job), 'failed', "atomic, $name: the job fails");
	like(line($job), qr/^failed 10 0 0 0 10 0 .*$reason/, 'it says why');
	is(sql($node, $written), '0', 'nothing is written');
	is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND answer IS NOT NULL AND state = 'failed'"), 10, 'all answers are kept');
	check_job($node, $job, "atomic, $name");
	is(worker_pid($node), $pid, 'the worker is the same');
	my $other = submit($node, source => 'other', target => 'summary', prompt => "After $name: {{body}}");
	is(wait_job($node, $other), 'succeeded', 'and goes on with others');
	my $ran = $sim->summary->{requests_run};
	$mend->();
	is(sql($node, "SELECT llm_batch.apply($job)"), 10, 'apply() takes all of it');
	wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job", "$name: mended, it succeeds") or explain_job($node, $job);
	is(sql($node, $written), '10', 'and all is written');
	is($sim->summary->{requests_run}, $ran, 'for nothing');
	check_job($node, $job, "atomic, $name, mended");
}

create_articles($node, 1, name => 'other');
is(wait_job($node, submit($node, source => 'other', target => 'summary')), 'succeeded', 'there is a worker');
my %refusals = (
	'a deferred constraint trigger' => [
		q{CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not number %', NEW.id; END $$;
		CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no()},
		qr/the row of item \d+ refused its answer/, q{DROP FUNCTION no CASCADE} ],
	# the row that comes second refuses, and only because of the first, in another slice
	'a deferred unique' => [
		q{UPDATE t SET body = 'Same. ' || id WHERE id IN (2, 9); ALTER TABLE t ADD CONSTRAINT once UNIQUE (summary) DEFERRABLE INITIALLY DEFERRED},
		qr/the row of item \d+ refused its answer/, q{ALTER TABLE t DROP CONSTRAINT once} ],
	'a trigger that defers what it breaks' => [
		q{CREATE TABLE later (n int REFERENCES other (id) DEFERRABLE INITIALLY DEFERRED);
		CREATE FUNCTION defer() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO later VALUES (NEW.id); RETURN NEW; END $$;
		CREATE TRIGGER defer BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.id = 8) EXECUTE FUNCTION defer()},
		qr/the row of item \d+ refused its answer/, q{DROP TABLE later; DROP FUNCTION defer CASCADE} ]);
foreach my $name (sort keys %refusals)
{
	my ($break, $reason, $mend) = @{ $refusals{$name} };

	note("--- $name");
	create_articles($node, 10, name => 't');
	sql($node, $break);
	refused_at_the_end($name, $reason, sub { sql($node, $mend) });
	sql($node, 'DROP TABLE t');
}

# What another server defers to the end cannot be set immediate from here: the
# COMMIT itself fails.
SKIP:
{
	skip 'no postgres_fdw here', 11 if sql($node, q{SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'}) eq '0';
	my ($host, $port) = ($node->host, $node->port);

	note('--- a commit that fails');
	sql($node, 'CREATE DATABASE remote');
	$node->safe_psql('remote', q{
		CREATE TABLE t (id int PRIMARY KEY, body text, summary text);
		INSERT INTO t SELECT n, format('Article %s speaks.', n) FROM generate_series(1, 10) n;
		CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not at the end'; END $$;
		CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no()});
	sql($node, qq{
		CREATE EXTENSION postgres_fdw;
		CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'remote');
		CREATE USER MAPPING FOR postgres SERVER away OPTIONS (user 'postgres');
		CREATE FOREIGN TABLE far (id int NOT NULL, body text, summary text) SERVER away OPTIONS (table_name 't')});
	refused_at_the_end('a foreign table', qr/made the transaction fail at its end/, sub { $node->safe_psql('remote', 'DROP TRIGGER no ON t') });
	sql($node, 'DROP EXTENSION postgres_fdw CASCADE');
}

# All answers are there, and wait for a lock: what changes now counts as well.
foreach my $case ([ 'DELETE FROM t WHERE id = 9', qr/the row of item \d+ does not exist any more/ ],
	[ q{UPDATE t SET body = 'Article 9 speaks of another thing.' WHERE id = 9}, qr/the text of the row of item \d+ has changed/ ],
	[ 'ALTER TABLE t DROP COLUMN summary', qr/./ ], [ 'DROP TABLE t', qr/./ ])
{
	my ($change, $reason) = @$case;
	my $lock = LlmBatch::Session->new($node);

	note("--- $change");
	create_articles($node, 10, name => 't');
	sql($node, q{CREATE TABLE gate (n int); INSERT INTO gate VALUES (1);
		CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM public.gate FOR UPDATE; RETURN NEW; END $$;
		CREATE TRIGGER gate BEFORE UPDATE OF summary ON t FOR EACH ROW WHEN (NEW.id = 5) EXECUTE FUNCTION gate()});
	$lock->query('BEGIN; SELECT FROM gate FOR UPDATE');
	my $job = submit($node, source => 't', target => 'summary', atomic => 1);
	wait_until($node, "SELECT reason ~ 'locked' FROM llm_batch.job WHERE id = $job", "$change: it waits for a lock");
	sql($node, $change =~ /^ALTER/ ? "DROP TRIGGER gate ON t; $change" : $change);
	$lock->query('COMMIT');
	$lock->end;
	is(wait_job($node, $job), 'failed', "$change, while an atomic job waits to write: it fails");
	like(line($job), qr/^failed 10 0 0 0 10 0 .*$reason/, 'it says why');
	note(line($job), ' ', sql($node, "SELECT string_agg(DISTINCT error, '; ') FROM llm_batch.results WHERE job_id = $job"));
	is(sql($node, 'SELECT count(summary) FROM t'), '0', 'nothing is written') if $change !~ /DROP/;
	check_job($node, $job, $change);
	sql($node, 'DROP TABLE IF EXISTS t; DROP FUNCTION gate CASCADE; DROP TABLE gate');
}

# ---- what follows a job, and its owner ----

sql($node, q{
	CREATE TABLE ended (job bigint, state text, who text DEFAULT current_user);
	GRANT INSERT ON ended TO PUBLIC;
	CREATE FUNCTION public.tell(bigint, text) RETURNS void LANGUAGE sql AS 'INSERT INTO public.ended VALUES ($1, $2)';
	REVOKE EXECUTE ON FUNCTION public.tell FROM PUBLIC});

# A job of a new role that flies; what is said happens to the role; then it lands.
my $number = 0;

sub owner_changes
{
	my ($name, $change) = @_;
	my $role = 'owner_' . ++$number;

	note("--- $name");
	sql($node, qq{
		CREATE ROLE $role LOGIN;
		GRANT USAGE ON FOREIGN SERVER sim TO $role;
		GRANT EXECUTE ON FUNCTION public.tell TO $role;
		CREATE USER MAPPING FOR $role SERVER sim OPTIONS (api_key 'sk-$role')});
	$sim->options(run_seconds => 3600);
	my $job = as($role, qq{SELECT llm_batch.submit_prompts('{a}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch',
		on_success => 'SELECT public.tell(\$1, \$2)', on_error => 'SELECT public.tell(\$1, \$2)')});
	wait_until($node, "SELECT EXISTS (SELECT FROM llm_batch.batch WHERE job_id = $job AND state = 'in_progress')", 'it flies');
	sql($node, $change =~ s/OWNER/$role/gr);
	$sim->options(run_seconds => 0.1);
	$sim->advance(4000);
	return ($job, $role);
}

sub followed
{
	my ($job) = @_;
	wait_until($node, "SELECT NOT EXISTS (SELECT FROM llm_batch.afterwards WHERE job_id = $job AND error IS NULL)", 'what follows has run, or failed');
	return sql($node, qq{SELECT COALESCE((SELECT string_agg(state || ' as ' || who, ', ') FROM ended WHERE job = $job), 'did not run')
		|| COALESCE((SELECT ': ' || error FROM llm_batch.afterwards WHERE job_id = $job), '')});
}

my ($job, $role) = owner_changes('NOLOGIN', 'ALTER ROLE OWNER NOLOGIN');
is(wait_job($node, $job), 'succeeded', 'the owner may not log in any more: the job ends');
is(followed($job), "succeeded as $role", 'what follows it runs all the same');

($job, $role) = owner_changes('no EXECUTE', 'REVOKE EXECUTE ON FUNCTION public.tell FROM OWNER');
is(wait_job($node, $job), 'succeeded', 'the owner may not call the function any more: the job ends');
is(followed($job), 'did not run: permission denied for function tell', 'what follows does not run, and says why');
like(sql($node, "SELECT string_agg(message, '; ') FROM llm_batch.events WHERE job_id = $job AND kind = 'afterwards'"), qr/^on_success failed \(42501\)/, 'an event tells');

($job, $role) = owner_changes('renamed', 'ALTER ROLE OWNER RENAME TO OWNER_2');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'the owner has another name: the job is paused');
is(job_row($node, $job)->{reason}, qq{role "$role" does not exist any more}, 'and says why');
sql($node, "ALTER ROLE ${role}_2 RENAME TO $role");
sql($node, "SELECT llm_batch.resume($job) FROM llm_batch.progress WHERE job_id = $job AND state = 'paused'");
is(wait_job($node, $job), 'succeeded', 'named as before, the job goes on');
is(followed($job), "succeeded as $role", 'and what follows runs');

($job, $role) = owner_changes('gone', 'REASSIGN OWNED BY OWNER TO postgres; DROP OWNED BY OWNER; DROP ROLE OWNER');
wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'the owner is gone: the job is paused');
is(job_row($node, $job)->{reason}, qq{role "$role" does not exist any more}, 'and says why');
# its key went with it: the provider cannot be told, and the job says what it waits for
sql($node, "SELECT llm_batch.cancel($job)");
wait_until($node, "SELECT state = 'cancelling' FROM llm_batch.progress WHERE job_id = $job", 'somebody else cancels it');
is(job_row($node, $job)->{reason}, qq{role "$role" does not exist any more}, 'its end waits for the same');
my $other = submit($node, source => 'other', target => 'summary', prompt => 'Beside it: {{body}}');
is(wait_job($node, $other), 'succeeded', 'others do not wait');
sql($node, "CREATE ROLE $role; GRANT USAGE ON FOREIGN SERVER sim TO $role; CREATE USER MAPPING FOR $role SERVER sim OPTIONS (api_key 'sk-$role')");
# a new worker looks at once
sql($node, q{SELECT pg_terminate_backend(pid) FROM llm_batch.workers});
like(wait_job($node, $job), $ANY, 'with a role of that name and a key it ends');
check_job($node, $job);
like(followed($job), qr/^did not run: permission denied/, 'what follows it does what the new role may do, and no more');

# The job has ended, and what follows it was waiting for a lock.
sql($node, 'CREATE TABLE gate (n int); INSERT INTO gate VALUES (1); GRANT ALL ON gate TO PUBLIC');
sql($node, "CREATE ROLE last_owner LOGIN; GRANT USAGE ON FOREIGN SERVER mock TO last_owner");
my $lock = LlmBatch::Session->new($node);
$lock->query('BEGIN; UPDATE gate SET n = 2');
$job = as('last_owner', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock', on_success => 'UPDATE public.gate SET n = 3')});
wait_until($node, "SELECT tries > 0 FROM llm_batch.afterwards WHERE job_id = $job", 'one waits for a lock');
sql($node, 'REASSIGN OWNED BY last_owner TO postgres; DROP OWNED BY last_owner; DROP ROLE last_owner');
$lock->query('COMMIT');
$lock->end;
is(followed($job), 'did not run: the role that owns the job does not exist any more', 'REASSIGN OWNED and DROP ROLE meanwhile: it does not run, as nobody');
is(sql($node, 'SELECT n FROM gate'), '2', 'and has done nothing');
sql($node, 'DROP TABLE gate');

# Code that would be somebody else, or end the transaction.
sql($node, q{
	CREATE ROLE sly LOGIN;
	CREATE SCHEMA sly AUTHORIZATION sly;
	GRANT USAGE ON FOREIGN SERVER mock TO sly});
as('sly', q{
	CREATE TABLE sly.found (who text);
	CREATE FUNCTION sly.becomes(how text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE how; INSERT INTO sly.found VALUES (current_user || ' ' || session_user); END $$;
	CREATE FUNCTION sly.tries(how text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN EXECUTE how; EXCEPTION WHEN OTHERS THEN NULL; END;
		INSERT INTO sly.found VALUES (current_user || ' ' || session_user);
	END $$});
my @ways = ('SET ROLE postgres', 'SET LOCAL ROLE postgres', 'RESET ROLE', 'SET ROLE NONE', q{SELECT set_config('role', 'postgres', false)}, 'RESET SESSION AUTHORIZATION',
	q{SELECT set_config('session_authorization', 'postgres', true)}, 'DISCARD ALL', 'COMMIT', 'ROLLBACK', 'DO $$ BEGIN COMMIT; END $$', 'DO $$ BEGIN ROLLBACK; END $$');
my %sly;
foreach my $how (@ways, 'RESET ALL')
{
	$sly{$how} = [ map { as('sly', q{SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock', on_success => } . quote("SELECT sly.$_(" . quote($how) . ')') . ')') } 'becomes', 'tries' ];
}
wait_until($node, q{SELECT count(*) = 0 FROM llm_batch.afterwards WHERE error IS NULL} . " AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE owner = 'sly' AND finished_at IS NULL)", 'all of it has run');
my %why = map { split /\|/, $_, 2 } split /\n/, sql($node, q{SELECT job_id, error FROM llm_batch.afterwards});
foreach my $how (@ways)
{
	like($why{ $sly{$how}[0] } // 'it ran', qr/^(?:cannot (?:set|execute)|EXECUTE of transaction|invalid transaction termination)/, "$how: is refused");
	is($why{ $sly{$how}[1] }, undef, "$how: who tries that first may go on");
}
note(join "\n", map { "$_: " . ($why{ $sly{$_}[0] } // '') } @ways);
# this one is allowed, and changes nothing for anybody
is(join(' ', map { $why{$_} // 'ran' } @{ $sly{'RESET ALL'} }), 'ran ran', 'RESET ALL: is not refused');
is(as('sly', 'SELECT string_agg(DISTINCT who, \' \'), count(*) FROM sly.found'), join('|', 'sly postgres', @ways + 2), 'and is who he was')
  or diag(as('sly', 'SELECT who, count(*) FROM sly.found GROUP BY 1'));

# ---- masked texts, by every way ----

# All that came in since the last call; no original is in it.
my $read = -s $sim->record_file;

sub nothing_sent
{
	my ($name) = @_;
	open my $file, '<', $sim->record_file or die "no record: $!";
	seek $file, $read, 0;
	my $sent = join "\n", map { my $r = JSON::PP->new->decode($_); join "\n", $r->{path}, $r->{query} // '', $r->{body} // '' } <$file>;
	$read = tell $file;
	close $file;
	like($sent, qr/\[EMAIL_1\][^"]{1,20}\[PHONE_1\]/, "$name: placeholders were sent");
	is(join(' ', $sent =~ /ann\d*\.secret|secret\.example|5550\s?\d{3}|boss@/gi), '', "$name: no original was");
	return $sent;
}

# Answers are right, and nothing is kept.
sub restored
{
	my ($name, $expected, $count) = @_;
	is(sql($node, "SELECT count(*) FROM people WHERE $expected"), $count // 6, "$name: the answers have the originals") or diag(sql($node, 'TABLE people'));
	is(sql($node, 'SELECT count(*) FROM llm_batch.pii_map'), 0, "$name: nothing of what was replaced is kept");
	return nothing_sent($name);
}

sub people
{
	sql($node, q{
		DROP TABLE IF EXISTS people CASCADE;
		CREATE TABLE people (id int PRIMARY KEY, body text, summary text, again text);
		INSERT INTO people SELECT n, format('Write to ann%s.secret@secret.example or +49 30 555012%s now. More of it.', n, n) FROM generate_series(1, 6) n});
	$sim->clear_rules;
}

my $FIRST = q{summary = format('Say: Write to ann%s.secret@secret.example or +49 30 555012%s now.', id, id)};
my %masked = (source => 'people', prompt => 'Say: {{body}}', target => 'summary', mask_pii => 'true');

note('--- masked: retry');
foreach my $mode ('batch', 'realtime')
{
	people();
	$sim->rule({ mode => 'any' }, items => [ { prompt_contains => 'Write', nth => [ 1, 2 ], do => { status_code => 400 } } ]);
	$job = submit($node, %masked, mode => $mode);
	is(wait_job($node, $job), 'partial', "masked, $mode: two fail");
	is(sql($node, "SELECT count(*) FROM llm_batch.pii_map WHERE job_id = $job"), 2, 'what was replaced in them is kept with their prompts');
	$sim->clear_rules;
	# their text goes as it went
	sql($node, q{INSERT INTO llm_batch.pii_pattern VALUES ('later', 'Write', 'LATER')});
	is(sql($node, "SELECT llm_batch.retry($job)"), 2, 'retry()');
	wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job", 'and they are answered');
	unlike(restored("masked, $mode, retried", $FIRST), qr/LATER/, 'as they had been sent');
	sql($node, q{DELETE FROM llm_batch.pii_pattern});
	check_job($node, $job);
}

note('--- masked: fallback');
people();
$sim->rule({}, expire => 0);
$job = submit($node, %masked);
is(wait_job($node, $job), 'succeeded', 'masked: batches expire, and real time comes to help') or explain_job($node, $job);
is(sql($node, "SELECT string_agg(DISTINCT mode, ' ' ORDER BY mode) FROM llm_batch.batches WHERE job_id = $job"), 'batch realtime', 'in both ways');
restored('masked, fallen back', $FIRST);
check_job($node, $job);
people();
$sim->fault({ method => 'POST', path => '^/v1/chat/completions$', times => 2 }, { cut_after_commit => $sim->true });
$job = submit($node, %masked, mode => 'realtime');
is(wait_job($node, $job), 'succeeded', 'masked: requests in real time that are not answered are sent again');
restored('masked, sent again', $FIRST);

note('--- masked: after');
people();
$sim->options(run_seconds => 0.3);
my $first = submit($node, %masked);
my $second = submit($node, %masked, prompt => 'Again: {{summary}}', target => 'again', filter => 'summary IS NOT NULL', after => $first);
my $third = sql($node, qq{SELECT llm_batch.submit_query(\$\$ SELECT id AS key, 'Thrice: ' || again AS prompt, 'You are boss\@secret.example.' AS system FROM public.people \$\$,
	'$LlmBatch::MODEL', server => 'sim', mode => 'realtime', mask_pii => true, after => $second)});
is(wait_job($node, $_), 'succeeded', 'masked: a job of a chain') foreach $first, $second, $third;
restored('masked, a chain', "$FIRST AND again = 'Again: ' || summary");
is(sql($node, "SELECT count(*) FROM llm_batch.results r JOIN people p ON p.id::text = r.key WHERE job_id = $third AND answer = 'Thrice: ' || again"), 6, 'also in the results of the last');
is(sql($node, "SELECT count(*) FROM llm_batch.prompt WHERE job_id IN ($first, $second, $third)"), 0, 'and no prompt is kept');
$sim->options(run_seconds => 0.1);

note('--- masked: tasks, and their view');
people();
sql($node, qq{
	CREATE ROLE viewer;
	SELECT llm_batch.create_task('say', 'Say: {{body}}', model => '$LlmBatch::MODEL', server => 'sim', target => 'summary', mode => 'realtime', mask_pii => true, max_wait => '0');
	SELECT llm_batch.create_task('again', 'Again: {{summary}}', model => '$LlmBatch::MODEL', server => 'sim', mode => 'batch', mask_pii => true, max_wait => '0', filter => 'summary IS NOT NULL');
	SELECT llm_batch.attach('say', 'people'); SELECT llm_batch.attach('again', 'people');
	SELECT llm_batch.create_view('again', 'said_again');
	GRANT SELECT ON said_again TO viewer;
	SELECT llm_batch.run('say')});
wait_until($node, q{SELECT count(*) = 6 FROM said_again WHERE state = 'succeeded'}, 'masked: tasks of a chain answer all rows');
is(sql($node, q{SET ROLE viewer; SELECT count(*) FROM said_again v WHERE to_jsonb(v)->>'answer' = 'Again: ' || summary AND NOT v::text ~ '(EMAIL|PHONE)_'}), 6, 'who may read the view reads the originals')
  or diag(sql($node, 'SELECT * FROM said_again LIMIT 2'));
sql($node, q{UPDATE people SET body = 'Write to ann7.secret@secret.example or +49 30 5550127 now. New.' WHERE id = 1});
wait_until($node, q{SELECT count(*) = 1 FROM said_again v WHERE id = 1 AND state = 'succeeded' AND v::text ~ 'Again: Say: Write to ann7.secret'}, 'a row that changes');
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, 'all jobs end');
restored('masked, tasks', "$FIRST OR id = 1 AND summary ~ 'ann7'");
sql($node, q{SELECT llm_batch.drop_task('again', cascade => true), llm_batch.drop_task('say')});

# ---- tasks that are changed while others write ----

note('--- a new prompt, while others write');
# "seen" is the version that was to be seen by the statement that wrote the row
sql($node, q{
	CREATE TABLE busy (id int PRIMARY KEY, body text, extra text, seen int, ans text);
	INSERT INTO busy SELECT n, 'body ' || n, '', 1 FROM generate_series(1, 40) n;
	SELECT llm_batch.create_task('busy', 'A {{body}}', model => 'mock', server => 'mock', target => 'ans', mode => 'realtime', max_wait => '0');
	SELECT llm_batch.attach('busy', 'busy');
	CREATE TABLE stop (n int);
	CREATE PROCEDURE write(first int) LANGUAGE plpgsql AS $$
	DECLARE n int := 0; last int;
	BEGIN
		LOOP
			n := n + 1;
			UPDATE busy SET extra = first || '-' || n, seen = (SELECT version FROM llm_batch.task WHERE name = 'busy')
			WHERE id = first + 4 * (n % 10);
			COMMIT;
			PERFORM pg_sleep(0.002);
			EXIT WHEN n >= 20 AND EXISTS (SELECT FROM stop);
		END LOOP;
	END $$;
	SELECT llm_batch.run('busy')});
my @writers = map { LlmBatch::Session->new($node) } 1 .. 4;
foreach my $n (1 .. 4)
{
	$writers[ $n - 1 ]->send("CALL write($n)");
}
wait_until($node, q{SELECT count(*) = 40 FROM busy WHERE extra <> '' AND ans IS NOT NULL}, 'others write');
is(sql($node, q{SELECT count(*) FROM busy WHERE ans <> 'A ' || body}), 0, 'a column that the prompt does not read is nothing to it');
is(sql($node, q{SELECT llm_batch.alter_task('busy', 'B {{body}} {{extra}}')}), 2, 'meanwhile the prompt is changed, and reads it');
# some rows are left as they were written before it, or were in between
wait_until($node, q{SELECT count(*) >= 20 FROM busy WHERE seen = 2}, 'they write on');
sql($node, 'INSERT INTO stop VALUES (1)');
$_->receive, $_->end foreach @writers;
my $settled = q{SELECT NOT EXISTS (SELECT FROM llm_batch.tasks WHERE waiting > 0 AND state = 'enabled') AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)};
wait_until($node, $settled, 'all is done');
is(sql($node, q{SELECT string_agg(format('%s (%s): %s', id, extra, ans), '; ') FROM busy WHERE seen = 2 AND ans <> 'B ' || body || ' ' || extra}), '', 'who could see the new prompt has an answer to it, and to the last that was written');
is(sql($node, q{SELECT string_agg(format('%s (%s): %s', id, extra, ans), '; ') FROM busy WHERE ans NOT IN ('A ' || body, 'B ' || body || ' ' || extra)}), '', 'and nobody another');
sql($node, q{UPDATE busy SET extra = 'last'});
wait_until($node, $settled, 'all is done');
is(sql($node, q{SELECT count(*) FROM busy WHERE ans = 'B ' || body || ' last'}), 40, 'what is written later has it in any case');

# One that had written and not committed yet.
my $writer = LlmBatch::Session->new($node);
$writer->query(q{PREPARE w AS UPDATE busy SET seen = $1 WHERE id = 1; EXECUTE w(7)});
$writer->query(q{BEGIN; EXECUTE w(8)});
my $changer = LlmBatch::Session->new($node);
$changer->send(q{SELECT llm_batch.alter_task('busy', 'C {{body}} {{seen}}')});
wait_until($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ~ '^SELECT llm_batch.alter_task' AND (wait_event_type = 'Lock' OR state = 'idle'))}, 'it is there');
my $waits = sql($node, q{SELECT version FROM llm_batch.task WHERE name = 'busy'}) eq '2';
$writer->query('COMMIT');
$changer->receive;
wait_until($node, $settled, 'all is done');
my $answer = sql($node, 'SELECT ans FROM busy WHERE id = 1');
ok($waits ? $answer eq 'B body 1 last' || $answer eq 'C body 1 8' : $answer eq 'C body 1 8',
	'a writer who was there before the new prompt, and commits after it: the prompt waits for him, or his row is answered anew') or diag("waits: $waits, $answer");
$writer->query(q{EXECUTE w(9)});
wait_until($node, $settled, 'all is done');
is(sql($node, 'SELECT ans FROM busy WHERE id = 1'), 'C body 1 9', 'a prepared statement of before sees the new prompt');
$_->end foreach $writer, $changer;

check_sim($sim);
done_testing();
