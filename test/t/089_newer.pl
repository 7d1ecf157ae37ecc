# The newer text wins: rows that change while they wait or fly, the order in
# which rows of tasks travel, and tasks that read what others write.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(conf => ['llm_batch.log_events = states']);
my $sim = start_sim();

create_server($node, $sim);

sub create_task
{
	my ($name, %given) = @_;
	my $table = delete $given{table} // 'articles';
	my %arg = (prompt => 'Summarise: {{body}}', model => $LlmBatch::MODEL, server => 'sim', target => 'summary', mode => 'batch', max_wait => '0', %given);
	my $list = join ', ', map { "$_ => " . quote($arg{$_}) } grep { defined $arg{$_} } sort keys %arg;

	sql($node, 'SELECT llm_batch.create_task(' . quote($name) . ", $list); SELECT llm_batch.attach(" . quote($name) . ", '$table')");
}

# Everything is gone, and the simulator knows nothing.
sub begin
{
	my ($name) = @_;

	note("--- $name");
	sql($node, q{SELECT llm_batch.drop_task(task) FROM (SELECT DISTINCT task FROM llm_batch.tasks) t; DROP TABLE IF EXISTS articles});
	sql($node, q{SELECT llm_batch.cancel(job_id) FROM llm_batch.progress WHERE finished_at IS NULL});
	$sim->options(run_seconds => 0.1);
	$sim->advance(10000);
	wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.progress WHERE finished_at IS NULL', 'jobs of before are over');
	$sim->reset;
	create_articles($node, 0);
}

sub article { return "($_[0], 'Article $_[1] speaks. Much.')" }

sub insert { sql($node, 'INSERT INTO articles VALUES ' . join ', ', map { article($_, $_) } @_) }

sub settle
{
	my ($what, $limit) = @_;
	return wait_until($node, q{
		SELECT NOT EXISTS (SELECT FROM llm_batch.tasks WHERE waiting > 0 AND state = 'enabled')
		AND NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL)}, $what // 'all is done', $limit);
}

sub land
{
	$sim->options(run_seconds => 0.1);
	$sim->advance(4000);
	settle($_[0]);
}

sub fly
{
	my ($batches) = @_;
	wait_until($node, "SELECT count(*) = $batches FROM llm_batch.batches WHERE state = 'in_progress'", "$batches batches fly");
}

sub summaries { return sql($node, q{SELECT string_agg(id || ': ' || COALESCE(summary, '-'), ', ' ORDER BY id) FROM articles}) }
sub attempts { return sql($node, q{SELECT string_agg(concat_ws(' ', key, state, error_code, substring(answer FROM 'Article (\S+)')), ', ' ORDER BY job_id, ordinal, attempt) FROM llm_batch.attempts WHERE job_id > } . (shift // 0)) }
sub last_job { return sql($node, 'SELECT COALESCE(max(job_id), 0) FROM llm_batch.progress') }

# ---- while it flies ----

foreach my $target ('summary', undef)
{
	my $how = $target ? 'into the table' : 'without target';
	begin("flying, $how");
	my $before = last_job();
	$sim->options(run_seconds => 3600);
	create_task('t', target => $target);
	insert(1 .. 3);
	fly(1);
	sql($node, q{UPDATE articles SET body = 'Article 2b speaks. Much.' WHERE id = 2; DELETE FROM articles WHERE id = 3});
	fly(2);
	is($sim->summary->{batches_created}, 2, "$how: the newer text does not wait for the older one");
	land("$how: both batches end");
	is(summaries(), $target ? '1: Summarise: Article 1 speaks., 2: Summarise: Article 2b speaks.' : '1: -, 2: -', "$how: the row has the answer to its newer text");
	is(attempts($before), '1 succeeded 1, 2 cancelled stale 2, 3 cancelled cancelled 3, 2 succeeded 2b', "$how: the older answer is in attempts as stale");
	is(sql($node, "SELECT string_agg(state || ' ' || total, ', ' ORDER BY job_id) FROM llm_batch.progress WHERE job_id > $before"), 'succeeded 3, succeeded 1', "$how: a row that has changed is no failure of the job");
	is(sql($node, 'SELECT llm_batch.retry(' . ($before + 1) . q{, '{stale,cancelled}')}), '0', "$how: retry() sends nothing that has been asked about since");
	check_job($node, $_, "$how, job $_") foreach $before + 1 .. last_job();
	check_bill($node, $sim, [ $before + 1 .. last_job() ], $how);
}

# The newer answer lands first.
begin('the newer one lands first');
my $before = last_job();
$sim->options(run_seconds => 3600);
create_task('t');
insert(1, 2);
fly(1);
$sim->options(run_seconds => 0.1);
sql($node, q{UPDATE articles SET body = 'Article 1b speaks. Much.' WHERE id = 1});
wait_until($node, q{SELECT summary IS NOT NULL FROM articles WHERE id = 1}, 'the newer answer is there');
land('the older one lands');
is(summaries(), '1: Summarise: Article 1b speaks., 2: Summarise: Article 2 speaks.', 'the older answer did not overwrite the newer one');
is(attempts($before), '1 cancelled stale 1, 2 succeeded 2, 1 succeeded 1b', 'it is kept as stale');

# Back to the old text, before anybody has looked and after.
begin('back to the old text');
$before = last_job();
$sim->options(run_seconds => 3600);
create_task('t');
insert(1, 2);
fly(1);
sql($node, q{BEGIN; UPDATE articles SET body = 'Article 1b speaks. Much.' WHERE id = 1; UPDATE articles SET body = 'Article 1 speaks. Much.' WHERE id = 1; COMMIT});
sql($node, q{UPDATE articles SET body = 'Article 2b speaks. Much.' WHERE id = 2});
fly(2);
sql($node, q{UPDATE articles SET body = 'Article 2 speaks. Much.' WHERE id = 2});
land('all land');
is(summaries(), '1: Summarise: Article 1 speaks., 2: Summarise: Article 2 speaks.', 'changed back: the answers are to the present text');
like(attempts($before), qr/^1 succeeded 1, 2 \w+( stale)? 2, 2 cancelled stale 2b/, 'changed back within a transaction: nothing was asked anew');

# Five changes, one prompt.
begin('many changes');
create_task('t', max_wait => '1 s');
insert(1);
sql($node, "UPDATE articles SET body = 'Article 1$_ speaks. Much.'") foreach 'a' .. 'e';
settle('it is answered');
is(summaries(), '1: Summarise: Article 1e speaks.', 'a row that has changed five times has the answer to its last text');
is($sim->summary->{requests_run}, 1, 'and was asked about once');

# The update is still open while the answer lands: the row is locked, and comes later.
begin('an open transaction');
$before = last_job();
create_task('t');
$sim->options(run_seconds => 3600);
insert(1);
fly(1);
my $session = LlmBatch::Session->new($node);
$session->query(q{BEGIN; UPDATE articles SET body = 'Article 1b speaks. Much.'});
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.progress WHERE unapplied = 1}, 'the answer is stored and waits for the row');
$session->query('COMMIT');
$session->end;
settle('all is done');
is(summaries(), '1: Summarise: Article 1b speaks.', 'a transaction that was open meanwhile: the newer text is answered');
is(attempts($before), '1 cancelled stale 1, 1 succeeded 1b', 'and the older answer is stale');

# ---- accumulation ----

begin('max_items and max_wait');
$before = last_job();
create_task('t', max_items => 5, max_wait => '1 day');
insert(1 .. 4);
sleep 0.7;
is(sql($node, q{SELECT waiting, state FROM llm_batch.tasks}), '4|enabled', 'four rows wait for a fifth');
is(last_job(), $before, 'and there is no job');
my $began = time;
insert(5);
settle('five go at once');
is(summaries(), join(', ', map { "$_: Summarise: Article $_ speaks." } 1 .. 5), 'max_items: all are answered');
is(last_job(), $before + 1, 'by one job');
insert(6 .. 17);
wait_until($node, q{SELECT waiting = 2 FROM llm_batch.tasks}, 'of twelve two are left');
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.progress WHERE finished_at IS NULL', 'the others are answered');
is(sql($node, "SELECT string_agg(total::text, ' ' ORDER BY job_id) FROM llm_batch.progress WHERE job_id > $before"), '5 5 5', 'jobs have max_items');
sql($node, q{SELECT llm_batch.alter_task('t', max_wait => '100ms')});
settle('with a shorter max_wait they go as well');
is(sql($node, q{SELECT count(*) FROM articles WHERE summary IS NULL}), 0, 'all are answered');

begin('max_wait');
create_task('t', max_wait => '2 s', max_items => 1000);
$began = time;
insert(1);
sleep 0.5;
insert(2);
settle('both are answered');
is($sim->summary->{batches_created}, 1, 'max_wait: they have travelled together');
cmp_ok(time - $began, '>=', 2, 'after two seconds');
my $wait = sql($node, q{SELECT extract(epoch FROM min(j.created_at) - (SELECT min(created_at) FROM llm_batch.tasks)) FROM llm_batch.progress j WHERE j.job_id = (SELECT max(job_id) FROM llm_batch.progress)});
cmp_ok($wait, '<', 12, "and not much later ($wait s)");

# ---- chains ----

begin('a chain');
sql($node, q{ALTER TABLE articles ADD class text, ADD verdict text});
sql($node, q{ALTER SERVER sim OPTIONS (ADD max_batch_requests '5')});
create_task('a', max_items => 5);
create_task('b', prompt => 'Class {{summary}} please. {{id}}', target => 'class');
create_task('c', prompt => 'Verdict {{class}} please', target => 'verdict');
# a batch of the first stage that takes long holds nobody up
$sim->rule({ nth => 2 }, run_seconds => 4);
insert(1 .. 15);
wait_until($node, q{SELECT count(*) = 10 FROM articles WHERE verdict IS NOT NULL}, 'ten rows are through', 20);
is(sql($node, q{SELECT count(*) FROM articles WHERE summary IS NULL}), 5, 'while five are in the first stage: stages overlap');
settle('the others follow');
is(sql($node, q{SELECT count(*) FROM articles WHERE summary = format('Summarise: Article %s speaks.', id) AND class LIKE 'Class Summarise: Article ' || id || ' speaks.%' AND verdict LIKE 'Verdict Class%'}), 15, 'each stage reads what the one before it has written');
my $ran = $sim->summary;
is("$ran->{requests_run} $ran->{max_times_one_prompt_ran}", '45 1', 'each stage was asked once about each row, and never about an empty column');
sql($node, q{UPDATE articles SET body = 'Article 1b speaks. Much.' WHERE id = 1});
settle('a changed row goes all the way again');
is(sql($node, q{SELECT verdict LIKE '%1b%' FROM articles WHERE id = 1}), 't', 'to the last column');
is($sim->summary->{requests_run}, 48, 'with three requests');
sql($node, q{UPDATE articles SET summary = NULL WHERE id = 2});
settle('a column of the chain is emptied');
is($sim->summary->{requests_run}, 48, 'an empty column is not asked about');
sql($node, q{ALTER SERVER sim OPTIONS (DROP max_batch_requests)});

# ---- deleted, and back ----

begin('reloaded');
my $reloaded = last_job();
create_task('t', mode => 'realtime');
insert(1, 2);
settle('two rows are answered');
sql($node, 'BEGIN; DELETE FROM articles; INSERT INTO articles VALUES ' . article(1, 1) . ', ' . article(2, 2) . '; COMMIT');
settle('a table is loaded anew');
is(sql($node, 'SELECT count(summary) FROM articles'), '2', 'rows with the text of those before them are answered');
sql($node, q{BEGIN; UPDATE articles SET id = 5 WHERE id = 1; UPDATE articles SET id = 1, summary = NULL WHERE id = 5; COMMIT});
settle('a key goes away and comes back');
is(sql($node, 'SELECT count(summary) FROM articles'), '2', 'the row is answered');
is(sql($node, "SELECT sum(total) FROM llm_batch.progress WHERE job_id > $reloaded"), '5', 'five prompts in all');
sql($node, q{DROP TABLE articles});
create_articles($node, 2);
sql($node, q{SELECT llm_batch.attach('t', 'articles'); SELECT llm_batch.run('t')});
settle('another table of that name');
is(sql($node, 'SELECT count(summary) FROM articles'), '2', 'its rows are answered, whatever those of the dropped one were');

# ---- priority ----

begin('priority');
create_server($node, $sim, name => 'narrow', max_active_batches => 1) if sql($node, q{SELECT count(*) FROM pg_foreign_server WHERE srvname = 'narrow'}) eq '0';
$sim->options(run_seconds => 3600);
foreach my $name ('low', 'high')
{
	create_articles($node, 0, name => "a_$name");
	create_task($name, server => 'narrow', table => "a_$name", priority => $name eq 'high' ? 5 : 0);
}
insert(1);
create_task('first', server => 'narrow');
sql($node, q{UPDATE articles SET body = body || '.'});
fly(1);
sql($node, "INSERT INTO a_$_ VALUES (1, 'Article $_ speaks.')") foreach 'low', 'high';
wait_until($node, q{SELECT count(*) = 2 FROM llm_batch.progress WHERE queued = 1}, 'two wait');
$sim->options(run_seconds => 0.3);
$sim->advance(4000);
settle('all are answered');
is(sql($node, q{SELECT string_agg(task, ' ' ORDER BY finished_at) FROM llm_batch.progress WHERE task IN ('first', 'low', 'high')}), 'first high low', 'the task with the higher priority comes first');
sql($node, "SELECT llm_batch.drop_task('$_'); DROP TABLE a_$_") foreach 'low', 'high';

# ---- a large backfill beside a small task ----

begin('a backfill');
# there is one place, and the two take turns
sql($node, q{ALTER SERVER narrow OPTIONS (ADD max_batch_requests '100')});
create_articles($node, 3000, name => 'old');
create_task('backfill', server => 'narrow', table => 'old');
create_task('small', server => 'narrow');
is(sql($node, q{SELECT llm_batch.run('backfill')}), 3000, 'run() says how many rows it looks at');
wait_until($node, q{SELECT succeeded > 0 FROM llm_batch.progress WHERE task = 'backfill'}, 'the backfill runs');
insert(1 .. 3);
wait_until($node, q{SELECT count(*) = 1 FROM llm_batch.progress WHERE task = 'small' AND state = 'succeeded'}, 'the small task is answered');
my $done = sql($node, q{
	SELECT count(*) FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id)
	WHERE p.task = 'backfill' AND r.completed_at < (SELECT finished_at FROM llm_batch.progress WHERE task = 'small')});
cmp_ok($done, '<', 2000, "long before the backfill of the same owner and server is done ($done of 3000)");
settle('the backfill ends');
is(sql($node, "SELECT count(*) FROM old WHERE summary = $LlmBatch::RIGHT"), 3000, 'the backfill answers all rows');
check_prompts_ran_once($sim, 3003);
is(sql($node, q{SELECT llm_batch.run('backfill')}), 3000, 'run() once more');
settle('it looks');
is($sim->summary->{requests_run}, 3003, 'and pays nothing: all rows have answers to their text');
is(sql($node, q{SELECT llm_batch.run('backfill', 'id <= 2', again => true)}), 2, 'run() of some rows, again');
settle('two are answered again');
is($sim->summary->{requests_run}, 3005, 'those are asked about again');
check_sim($sim);

done_testing();
