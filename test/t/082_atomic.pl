# Atomic jobs: all answers are written in one transaction, or none.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $orders = PostgreSQL::Test::Utils::tempdir('orders') . '/crash';
my $node = start_node(conf => [ 'restart_after_crash = on', "llm_batch.crash_file = '$orders'", 'llm_batch.write_back_rows = 10', "llm_batch.write_back_timeout = '500ms'" ]);
my $sim = start_sim();
create_server($node, $sim, max_batch_requests => 10, max_attempts => 2, invalid_output_retries => 0);
my $count = 25;
create_articles($node, $count);
sql($node, 'ALTER TABLE articles ADD score int, ADD note text');

# Who writes, in which order and in which transaction.
sql($node, q{
	CREATE TABLE written (n bigserial, id bigint, xact xid8);
	CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.written (id, xact) VALUES (NEW.id, pg_current_xact_id()); RETURN NULL; END $$;
	CREATE TRIGGER note_write AFTER UPDATE OF summary ON articles FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
	EXECUTE FUNCTION note_write()});

sub atomic { return submit($node, target => 'summary', atomic => 1, @_) }

sub line
{
	my ($job) = @_;
	my $row = job_row($node, $job);
	return join ' ', map { $_ // 'NULL' } @$row{qw(state total queued in_flight succeeded failed cancelled unapplied reason)};
}

sub answers { return sql($node, 'SELECT count(summary) FROM articles') }
sub begin { my ($name) = @_; note("--- $name"); $sim->clear_rules; sql($node, 'UPDATE articles SET summary = NULL; TRUNCATE written') }

sub states
{
	my ($job) = @_;
	return sql($node, "SELECT string_agg(concat_ws(' ', state, error_code, n), ', ' ORDER BY state, error_code)
		FROM (SELECT state, error_code, count(*) AS n FROM llm_batch.results WHERE job_id = $job GROUP BY 1, 2) r");
}

# What the simulator does with the item of this key.
sub item_rule
{
	my ($key, $match, $do) = @_;
	return $sim->rule($match, items => [ { prompt_contains => "Article $key speaks", do => $do } ]);
}

# ---- all of them ----

# A reader that looks all the time.
my $reader = LlmBatch::Session->new($node);
$reader->query(q{CREATE PROCEDURE watch(watched bigint) LANGUAGE plpgsql AS $$
	DECLARE n int; looks int := 0; parts text := '';
	BEGIN
		LOOP
			SELECT count(summary) INTO n FROM articles;
			looks := looks + 1;
			IF n NOT IN (0, 25) THEN parts := parts || ' ' || n; END IF;
			EXIT WHEN EXISTS (SELECT FROM llm_batch.job WHERE id = watched AND finished_at IS NOT NULL);
			COMMIT;
		END LOOP;
		RAISE NOTICE 'looks: %, parts:%', looks, parts;
	END $$});
$sim->options(run_seconds => 0.5);
my $job = atomic();
my $seen = $reader->query("CALL watch($job)");
like($seen, qr/looks: \d\d+, parts:$/m, 'no reader sees a part of the answers');
is(wait_job($node, $job), 'succeeded', 'the job succeeds');
$sim->options(run_seconds => 0.1);
is(line($job), 'succeeded 25 0 0 25 0 0 0 NULL', 'with all items');
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, 'each answer in its row');
is(sql($node, 'SELECT count(*), count(DISTINCT xact), array_agg(id ORDER BY n) = array_agg(id ORDER BY id) FROM written'), '25|1|t', 'once, in one transaction, in their order');
check_job($node, $job);
is(sql($node, "SELECT count(*) FROM llm_batch.prompt WHERE job_id = $job"), '0', 'prompts are not kept longer than those of others');

# without a target they are there together
begin('without a target');
$job = submit($node, target => undef, atomic => 1, prompt => 'Say: {{body}}');
my @parts;
is(wait_job($node, $job, each => sub { push @parts, sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND state = 'succeeded'") }), 'succeeded', 'without a target');
is(join(' ', grep { $_ != 0 && $_ != $count } @parts), '', 'all answers succeed together');
check_job($node, $job);

# in real time
begin('real time');
$job = atomic(mode => 'realtime');
is(wait_job($node, $job), 'succeeded', 'in real time');
is(sql($node, 'SELECT count(*), count(DISTINCT xact) FROM written'), '25|1', 'in one transaction');
check_job($node, $job);

# ---- an item fails ----

begin('retried');
item_rule(7, { times => 3 }, { status_code => 500 });
$job = atomic();
is(wait_job($node, $job), 'succeeded', 'what fails once is sent again');
is(answers(), $count, 'then all are written');

begin('fails');
item_rule(7, {}, { status_code => 500 });
$job = atomic();
is(wait_job($node, $job), 'failed', 'an item fails as often as it is tried');
is(answers(), '0', 'nothing is written');
is(line($job), 'failed 25 0 0 0 25 0 0 1 of 25 items failed (provider_error 1): nothing was written', 'the job tells why');
is(states($job), 'failed provider_error 1, failed write_back 24', 'and each item');
is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND answer IS NOT NULL"), 24, 'answers are kept');
is(sql($node, "SELECT count(DISTINCT mode) FROM llm_batch.batches WHERE job_id = $job"), 1, 'it does not fall back to real time');
is(sql($node, "SELECT max(attempt) FROM llm_batch.results WHERE job_id = $job"), 2, 'after max_attempts');
check_job($node, $job);
is(sql($node, "SELECT llm_batch.apply($job)"), 24, 'apply() takes those that are there');
sleep 0.3;
is(wait_job($node, $job), 'failed', 'and does not write them alone');
is(answers(), '0', 'not one');
$sim->clear_rules;
my $ran = $sim->summary->{requests_run};
is(sql($node, "SELECT llm_batch.retry($job)"), 1, 'retry() sends what failed');
wait_until($node, "SELECT finished_at IS NULL OR state = 'succeeded' FROM llm_batch.job WHERE id = $job");
is(wait_job($node, $job), 'succeeded', 'and then');
is(answers(), $count, 'all are written');
is($sim->summary->{requests_run} - $ran, 1, 'one request was paid for it');
is(sql($node, 'SELECT count(*), count(DISTINCT xact) FROM written'), '25|1', 'in one transaction');
check_job($node, $job);

begin('expires');
$sim->rule({}, expire => 0.4);
$job = atomic();
is(wait_job($node, $job), 'failed', 'batches that expire');
is(sql($node, "SELECT string_agg(DISTINCT mode, ' ') || ' ' || max(attempt) FROM llm_batch.batches WHERE job_id = $job"), 'batch 2', 'are sent again as batches, and not in real time');
is(answers(), '0', 'nothing is written');
is(job_row($node, $job)->{state}, 'failed', 'the job is not paused for ever');
check_job($node, $job);

# ---- a row says no ----

begin('refused');
sql($node, q{ALTER TABLE articles ADD CONSTRAINT not_eleven CHECK (id <> 11 OR summary IS NULL)});
$job = atomic();
is(wait_job($node, $job), 'failed', 'a row refuses its answer');
is(answers(), '0', 'nothing is written');
like(line($job), qr/ the row of item \d+ refused its answer, .*: nothing was written$/, 'the reason names the item, and not the key');
like(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND key = '11'"), qr/not_eleven/, 'the item tells what it said');
like(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND key = '12'"), qr/the job is atomic: the row of item \d+ refused/, 'the others, whose fault it is');
is(states($job), 'failed write_back 25', 'all are write_back');
sql($node, 'ALTER TABLE articles DROP CONSTRAINT not_eleven');
is(sql($node, "SELECT llm_batch.apply($job)"), 25, 'when that is mended');
is(wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job"), 1, 'apply() writes them');
is(sql($node, 'SELECT count(*), count(DISTINCT xact) FROM written'), '25|1', 'in one transaction');
check_job($node, $job);

begin('changed');
$sim->options(run_seconds => 0.6);
$job = atomic();
wait_until($node, "SELECT count(*) = 3 FROM llm_batch.batch WHERE job_id = $job AND state = 'in_progress'");
sql($node, q{UPDATE articles SET body = 'Article 19 speaks of another thing.' WHERE id = 19});
is(wait_job($node, $job), 'failed', 'a row has changed meanwhile');
$sim->options(run_seconds => 0.1);
is(answers(), '0', 'nothing is written');
like(line($job), qr/ the text of the row of item \d+ has changed/, 'the reason names it');
is(states($job), 'failed stale 1, failed write_back 24', 'it is stale');
is(sql($node, "SELECT llm_batch.retry($job, '{stale}')"), 1, 'retry() asks about the newer text');
is(wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job"), 1, 'and all are written');
is(sql($node, 'SELECT summary FROM articles WHERE id = 19'), 'Summarise: Article 19 speaks of another thing.', 'the newer one, too');
is(sql($node, 'SELECT count(*), count(DISTINCT xact) FROM written'), '25|1', 'in one transaction');
check_job($node, $job);

begin('deleted');
$sim->options(run_seconds => 0.6);
sql($node, q{INSERT INTO articles VALUES (99, 'Article 99 speaks.')});
$job = atomic();
wait_until($node, "SELECT count(*) = 3 FROM llm_batch.batch WHERE job_id = $job AND state = 'in_progress'");
sql($node, 'DELETE FROM articles WHERE id = 99');
is(wait_job($node, $job), 'failed', 'a row is gone');
$sim->options(run_seconds => 0.1);
is(answers(), '0', 'nothing is written');
like(line($job), qr/ the row of item \d+ does not exist any more/, 'the reason names its item');

# answers that the column cannot take are invalid as those of others
begin('invalid');
$job = submit($node, target => 'score', atomic => 1, schema => '{"type": "object", "properties": {"score": {"type": "string"}}}', prompt => 'Rate: {{body}}');
wait_job($node, $job);
is(sql($node, 'SELECT count(score) FROM articles'), '0', 'answers of the wrong type: nothing is written');
sql($node, "SELECT llm_batch.cancel($job)") if job_row($node, $job)->{state} !~ /failed|succeeded|partial|cancelled/;

# ---- a row is locked ----

begin('locked');
my $lock = LlmBatch::Session->new($node);
$lock->query('BEGIN; SELECT FROM articles WHERE id = 3 FOR UPDATE');
$job = atomic();
wait_until($node, "SELECT reason ~ 'locked' FROM llm_batch.job WHERE id = $job");
is(line($job), 'running 25 0 25 0 0 0 25 rows that it is to write are locked: it is tried again', 'a locked row is waited for');
is(answers(), '0', 'nothing is written meanwhile');
is(sql($node, "SELECT string_agg(DISTINCT state, ' ') FROM llm_batch.results WHERE job_id = $job"), 'in_flight', 'and nothing has succeeded');
create_articles($node, 3, name => 'others');
my $other = submit($node, source => 'others', target => 'summary');
is(wait_job($node, $other), 'succeeded', 'other jobs go on');
$lock->query('COMMIT');
is(wait_job($node, $job), 'succeeded', 'then it is written');
is(sql($node, 'SELECT count(*), count(DISTINCT xact) FROM written'), '25|1', 'in one transaction');
check_job($node, $job);

# many of them: each has its own backoff
begin('many locked');
$lock->query('BEGIN; SELECT FROM articles FOR UPDATE');
my @many = map { atomic(filter => 'id = ' . (1 + $_ % 25), server => 'mock', model => 'mock') } 1 .. 80;
my $list = join ', ', @many;
wait_until($node, "SELECT bool_and(reason ~ 'locked') FROM llm_batch.job WHERE id IN ($list)");
# without it, each is tried once in a second at least, for ever
my $tries;
foreach (1 .. 30)
{
	my $ids = sql($node, 'SELECT txid_current()');
	sleep 2;
	$tries = sql($node, 'SELECT txid_current()') - $ids;
	last if $tries < 100;
}
cmp_ok($tries, '<', 100, 'the worker does not spin');
sql($node, "SELECT llm_batch.cancel(id) FROM llm_batch.job WHERE id IN ($list)");
is(wait_until($node, "SELECT bool_and(finished_at IS NOT NULL) FROM llm_batch.job WHERE id IN ($list)"), 1, 'they end');
$lock->query('COMMIT');

# a table that takes too long
begin('slow');
sql($node, q{CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;
	CREATE TRIGGER slow BEFORE UPDATE ON articles FOR EACH ROW WHEN (NEW.id = 25) EXECUTE FUNCTION slow()});
$job = atomic();
is(wait_job($node, $job), 'failed', 'a trigger that is too slow');
like(line($job), qr/llm_batch\.write_back_timeout/, 'the setting is named');
is(answers(), '0', 'nothing is written');
sql($node, 'DROP TRIGGER slow ON articles');
sql($node, "SELECT llm_batch.apply($job)");
is(wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job"), 1, 'when it is gone, apply() writes');

# a trigger that cannot be cancelled
begin('stubborn');
sql($node, q{CREATE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
	CREATE TRIGGER stubborn BEFORE UPDATE ON articles FOR EACH ROW WHEN (NEW.id = 25) EXECUTE FUNCTION stubborn()});
$job = atomic();
is(wait_job($node, $job), 'failed', 'a trigger that catches its cancels');
like(line($job), qr/code on the table could not be cancelled/, 'is not run again by itself');
is(answers(), '0', 'nothing is written');
sql($node, 'DROP TRIGGER stubborn ON articles');
sql($node, "SELECT llm_batch.apply($job)");
is(wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job"), 1, 'when it is gone, apply() writes');

# a trigger that ends the process which it runs in
SKIP:
{
	skip 'transaction_timeout came with 17', 5 if sql($node, 'SHOW server_version_num') < 170000;

	begin('hasty');
	sql($node, q{CREATE FUNCTION hasty() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET LOCAL transaction_timeout = 1; PERFORM pg_sleep(60); END $$;
		CREATE TRIGGER hasty BEFORE UPDATE ON articles FOR EACH ROW WHEN (NEW.id = 25) EXECUTE FUNCTION hasty()});
	$job = atomic();
	is(wait_job($node, $job), 'failed', 'a trigger that sets transaction_timeout');
	like(line($job), qr/code on the table could not be cancelled/, 'is not run again by itself');
	is(answers(), '0', 'nothing is written');
	sql($node, 'DROP TRIGGER hasty ON articles');
	sql($node, "SELECT llm_batch.apply($job)");
	is(wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job"), 1, 'when it is gone, apply() writes');
	is(sql($node, 'SHOW transaction_timeout'), '0', 'sessions have their own');
}

# a constraint that is checked at the end is checked before
begin('deferred');
sql($node, q{CREATE TABLE allowed (summary text PRIMARY KEY);
	ALTER TABLE articles ADD CONSTRAINT allowed FOREIGN KEY (summary) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED});
$job = atomic();
is(wait_job($node, $job), 'failed', 'a deferred constraint');
like(line($job), qr/the row of item \d+ refused its answer/, 'names its item');
is(answers(), '0', 'nothing is written');
sql($node, 'ALTER TABLE articles DROP CONSTRAINT allowed');

# personal data that was masked is not told by what the table says
begin('masked');
sql($node, q{ALTER TABLE articles ADD CONSTRAINT short CHECK (summary !~ 'ann@'); UPDATE articles SET body = 'Article 2 speaks to ann@example.com.' WHERE id = 2;
	CREATE FUNCTION quote() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not %', NEW.summary; END $$;
	CREATE TRIGGER quote BEFORE UPDATE OF summary ON articles FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION quote()});
$job = atomic(mask_pii => 1);
is(wait_job($node, $job), 'failed', 'a trigger that quotes the answer');
like(sql($node, "SELECT answer FROM llm_batch.results WHERE job_id = $job AND key = '2'"), qr/ann\@example\.com/, 'the answer has its address again');
unlike(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND key = '2'"), qr/ann/, 'the error does not');
sql($node, q{DROP TRIGGER quote ON articles; ALTER TABLE articles DROP CONSTRAINT short; UPDATE articles SET body = 'Article 2 speaks.' WHERE id = 2});

# ---- ends that are asked for ----

begin('cancelled');
$lock->query('BEGIN; SELECT FROM articles WHERE id = 3 FOR UPDATE');
$job = atomic();
wait_until($node, "SELECT reason ~ 'locked' FROM llm_batch.job WHERE id = $job");
sql($node, "SELECT llm_batch.cancel($job)");
is(wait_job($node, $job), 'cancelled', 'cancelled when all answers were there');
$lock->query('COMMIT');
$lock->end;
is(answers(), '0', 'nothing is written');
is(states($job), 'failed write_back 25', 'the answers are kept');
check_job($node, $job);

begin('cancelled early');
$sim->options(run_seconds => 5);
$job = atomic();
wait_until($node, "SELECT count(*) = 3 FROM llm_batch.batch WHERE job_id = $job AND state = 'in_progress'");
sql($node, "SELECT llm_batch.cancel($job)");
is(wait_job($node, $job), 'cancelled', 'cancelled while it was flying');
is(answers(), '0', 'nothing is written');
check_job($node, $job);

begin('deadline');
$job = atomic(deadline => '1 second', max_cost => 0.000001);
is(wait_job($node, $job), 'failed', 'its deadline is over before it could be paid');
is(answers(), '0', 'nothing is written');
$sim->options(run_seconds => 0.1);

# ---- limits ----

my ($status, $out, $err) = $node->psql('postgres', "SET llm_batch.atomic_max_items = 24; SELECT llm_batch.submit('articles', '{{body}}', 'mock', server => 'mock', target => 'note', atomic => true)");
like($err, qr/an atomic job cannot have more than 24 items/, 'more items than one transaction should write are refused');

# ---- crashes ----

foreach my $point ('applying an atomic job: commit', 'applying an atomic job: committed', 'storing results: commit')
{
	begin($point);
	my $offset = -s $node->logfile;
	open my $file, '>', "$orders.new" or die;
	print $file "kill $point\n";
	close $file;
	rename "$orders.new", $orders or die;
	$job = atomic();
	# the postmaster throws out everybody and begins anew
	$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
	like(answers(), $point =~ /committed$/ ? qr/^$count$/ : qr/^(0|$count)$/, "the worker dies at '$point': all or nothing");
	is(wait_job($node, $job), 'succeeded', 'it goes on');
	is(sql($node, 'SELECT count(*), count(DISTINCT id), count(DISTINCT xact) FROM written'), '25|25|1', 'all are written, once, in one transaction');
	check_job($node, $job);
}
$reader->end;
check_sim($sim);
done_testing();
