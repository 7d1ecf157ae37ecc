# Without shared_preload_libraries: whoever needs the worker starts it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = start_node(preload => 0, conf => [ "llm_batch.idle_timeout = '1s'", 'max_worker_processes = 12', 'log_min_messages = debug1' ]);

sub workers
{
	return sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
}

sub since
{
	return sql($node, 'SELECT state, pid IS NULL, preloaded, message FROM llm_batch.workers');
}

sql($node, q{
	CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0');
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '1h')});

# ---- quiet ----

is(workers(), '0', 'CREATE EXTENSION starts nothing');
like(since(), qr/^none\|t\|f\|no worker since \d{4}-/, 'workers says that there is none');
my ($status, $out, $said) = $node->psql('postgres', q{
	LOAD 'llm_batch';
	SET llm_batch.default_server = 'mock';
	SELECT count(*) FROM llm_batch.progress});
is("$status|$out|$said", '0|0|', 'the library loads without a word');

# ---- started on demand ----

# by submit
my $job = sql($node, q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'fast')});
is(wait_job($node, $job), 'succeeded', 'submit starts the worker');
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'idle, it leaves');
# by a transaction that commits late, and not by one that does not
sql($node, q{BEGIN; SELECT llm_batch.submit_prompts('{Two.}', 'mock', server => 'fast'); ROLLBACK});
is(workers(), '0', 'a rollback starts nothing');
# by wait
$job = sql($node, qq{
	BEGIN;
	SELECT llm_batch.submit_prompts('{Three.}', 'mock', server => 'slow') AS job \\gset
	SELECT llm_batch.pause(:job);
	COMMIT;
	SELECT :job});
($job) = $job =~ /(\d+)$/;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'a paused job keeps no worker');
sql($node, "SELECT llm_batch.cancel($job)");
sql($node, "CALL llm_batch.wait($job)");
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'cancelled', 'cancel and wait start it as well');
# by check_server
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'idle again');
sql($node, q{CALL llm_batch.check_server('fast')});
is(workers(), '1', 'and check_server');

# ---- one worker, however many call for it ----

my $told = -s $node->logfile;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'idle once more');
$node->pgbench('-c 10 -j 2 -t 10 -n', 0, [qr{number of transactions actually processed: 100/100}], [qr{^$}],
	'ten sessions submit ten jobs each',
	{ 'submit.sql' => q{SELECT llm_batch.submit_prompts(ARRAY['One.', 'Two.'], 'mock', server => 'fast');} });
wait_until($node, q{SELECT bool_and(finished_at IS NOT NULL) FROM llm_batch.progress}, 'all jobs end');
is(sql($node, q{SELECT count(*), min(succeeded), max(succeeded) FROM llm_batch.progress p
	WHERE total = 2 AND NOT EXISTS (SELECT FROM llm_batch.batches b WHERE b.job_id = p.job_id GROUP BY b.job_id HAVING count(*) > 1)}),
	'100|2|2', 'each was sent once');
is(workers(), '1', 'there is one worker');
is(sql($node, 'SELECT pid FROM llm_batch.workers'), worker_pid($node), 'which the view shows');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $told);
unlike($log, qr/ERROR|FATAL|PANIC/, 'no complaint in the log');

# ---- after a restart ----

$job = sql($node, q{SELECT llm_batch.submit_prompts('{Four.}', 'mock', server => 'slow')});
wait_until($node, "SELECT in_flight = 1 FROM llm_batch.progress WHERE job_id = $job", 'a batch is on its way');
$node->restart;
sleep 1;
is(workers(), '0', 'after a restart there is no worker, for nobody called');
like(since(), qr/^none\|t\|f\|no worker since \d{4}-/, 'workers says so');
like(sql($node, "SELECT state, reason FROM llm_batch.progress WHERE job_id = $job"), qr/^running\|no worker since \d{4}-/, 'and so does progress, beside the job that waits for one');
is(workers(), '0', 'looking starts none');
sql($node, q{ALTER SERVER slow OPTIONS (SET latency '0')});
sql($node, "CALL llm_batch.wait($job, '30 s')");
is(sql($node, "SELECT state, reason FROM llm_batch.progress WHERE job_id = $job"), 'succeeded|', 'wait starts it, and it goes on where it was');
sql($node, q{ALTER SERVER slow OPTIONS (SET latency '1h')});

# ---- after a crash of everything ----

$job = sql($node, q{SELECT llm_batch.submit_prompts('{Five.}', 'mock', server => 'slow')});
wait_until($node, "SELECT in_flight = 1 FROM llm_batch.progress WHERE job_id = $job", 'a batch is on its way');
$node->stop('immediate');
$node->start;
sql($node, q{ALTER SERVER slow OPTIONS (SET latency '0')});
my $other = sql($node, q{SELECT llm_batch.submit_prompts('{Six.}', 'mock', server => 'fast')});
is(wait_job($node, $other), 'succeeded', 'after a crash a submit starts the worker');
is(wait_job($node, $job), 'succeeded', 'which also sees to what was there');

# ---- switched off ----

$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->restart;
$job = sql($node, q{SELECT llm_batch.submit_prompts('{Seven.}', 'mock', server => 'fast')});
sleep 0.5;
is(workers(), '0', 'with llm_batch.enabled = off submit starts nothing');
is(sql($node, 'SELECT state FROM llm_batch.workers'), 'disabled', 'and the view says why');
$node->append_conf('postgresql.conf', 'llm_batch.enabled = on');
$node->reload;
sql($node, "CALL llm_batch.wait($job, '30 s')");
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'succeeded', 'switched on, the job ends');

# ---- gone in time ----

sql($node, q{SELECT llm_batch.submit_prompts('{Eight.}', 'mock', server => 'slow')});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'a worker is there');
sql($node, 'DROP EXTENSION llm_batch CASCADE');
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'DROP EXTENSION sends it away', 10);
sql($node, 'CREATE EXTENSION llm_batch');
$job = sql($node, q{SELECT llm_batch.submit_prompts('{Nine.}', 'mock')});
is(wait_job($node, $job), 'succeeded', 'and CREATE EXTENSION begins anew');

sql($node, 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION llm_batch; CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '1h'); SELECT llm_batch.submit_prompts('{Ten.}', 'mock', server => 'slow')});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND datname = 'other'}, 'another database has its own');
sql($node, 'DROP DATABASE other WITH (FORCE)');
is(sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'}), '0', 'DROP DATABASE WITH (FORCE) takes it along');

done_testing();
