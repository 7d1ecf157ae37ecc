# Idle means idle: no WAL, no query.  The worker leaves after a while and
# comes back when there is work; without preload it comes when it is called.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep);

my $control = `pg_config --sharedir`;
chomp $control;
my $statements = -r "$control/extension/pg_stat_statements.control";

my @quiet = ('autovacuum = off', 'checkpoint_timeout = 1h', 'bgwriter_lru_maxpages = 0', 'jit = off');
my $node = start_node(
	preload => 'llm_batch' . ($statements ? ',pg_stat_statements' : ''),
	conf => [ @quiet, 'llm_batch.idle_timeout = 1h', ($statements ? 'pg_stat_statements.track = all' : ()) ]);
my $seconds = 10;

create_articles($node, 50);
is(wait_job($node, submit($node, server => 'mock', target => 'summary')), 'succeeded', 'a job succeeds');
my $pid = worker_pid($node);
isnt($pid, '', 'the worker is still there');

# Statistics are sent when a process has nothing else to do; ours are read
# from another database, so that reading them does not count.
my $commits = q{SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'};
my $look = sub {
	my ($query) = @_;
	return $node->safe_psql('template1', $query);
};
my $cpu = sub {
	my @fields = split ' ', PostgreSQL::Test::Utils::slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;
	return $fields[11] + $fields[12];
};
$look->('CREATE EXTENSION pg_stat_statements') if $statements;
# looking must not write either: no pruning, no hint bits
$look->('VACUUM FREEZE');
sql($node, 'CHECKPOINT');

sub idle
{
	my ($name) = @_;
	my $linux = -r "/proc/$pid/stat";
	my $calls = q{SELECT COALESCE(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE datname = 'postgres'};
	my $snapshot = sub { return ($look->('SELECT pg_current_wal_insert_lsn()'), $look->($commits), $statements ? $look->($calls) : 0, $linux ? $cpu->() : 0) };

	# what the last query of a test did is reported with a delay
	sleep 1;
	$snapshot->();
	my @before = $snapshot->();

	sleep $seconds;
	my @after = $snapshot->();
	is($after[0], $before[0], "$name: no WAL in $seconds s");
	is($after[1], $before[1], "$name: no transaction");
	is($after[2], $before[2], "$name: no query") if $statements;
	cmp_ok($after[3] - $before[3], '<=', 2, "$name: no processor time") if $linux;
}

idle('after a job');
is(worker_pid($node), $pid, 'and the worker was there all the time');
is($look->(q{SELECT wait_event_type FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}), 'Extension', 'it waits on its latch');
is($look->(q{SELECT state, backend_xid IS NULL, backend_xmin IS NULL FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}), 'idle|t|t', 'without a transaction or snapshot');

# A job that somebody has paused is no work either.
my $job = sql($node, q{
	BEGIN;
	SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'mock', 'summary', server => 'mock', mode => 'batch') AS job \gset
	SELECT llm_batch.pause(:job);
	COMMIT;
	SELECT :job});
($job) = $job =~ /(\d+)$/;
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.command', 'the pause is noted');
sleep 1;
$seconds = 4;
idle('a paused job');
sql($node, "SELECT llm_batch.cancel($job)");
is(wait_job($node, $job), 'cancelled', 'cancelled');

# ---- gone, and back ----

$node->append_conf('postgresql.conf', 'llm_batch.idle_timeout = 1s');
$node->reload;
sub no_worker { wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, $_[0]) }
sub job_ends { is(wait_job($node, submit($node, server => 'mock', target => 'summary')), 'succeeded', $_[0]) }

no_worker('after idle_timeout the worker leaves');
is($look->(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_batch launcher'}), '1', 'the launcher stays');
job_ends('a new job brings it back');
no_worker('and it leaves again');

# A submit that is rolled back, or not yet committed, starts nobody.
sql($node, q{BEGIN; SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'mock', 'summary', server => 'mock'); ROLLBACK});
sleep 0.5;
is(worker_pid($node), '', 'a job that is rolled back wakes nobody');
is(sql($node, q{SELECT count(*) FROM llm_batch.progress WHERE state IN ('waiting', 'running')}), '0', 'and is not there');

# A restart finds what is to be done.
$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->reload;
sleep 0.2;
$job = submit($node, server => 'mock', target => 'summary');
sleep 1;
is(worker_pid($node), '', 'llm_batch.enabled = off: nobody works');
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'waiting', 'and the job waits');
$node->stop;
$node->append_conf('postgresql.conf', 'llm_batch.enabled = on');
$node->start;
is(wait_job($node, $job), 'succeeded', 'after a restart with llm_batch.enabled = on it is done');
$node->stop;

# ---- without preload ----

my $plain = start_node(name => 'plain', preload => 0, conf => [ @quiet, 'llm_batch.idle_timeout = 1s' ]);
$node = $plain;
create_articles($plain, 20);
is(worker_pid($plain), '', 'without preload there is no worker');
job_ends('submit starts one');
no_worker('it leaves when it is idle');
is(sql($plain, 'SELECT pid IS NULL, preloaded FROM llm_batch.workers'), 't|f', 'the view shows it');

# After a restart nobody works until somebody calls.
sql($plain, q{CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '2s')});
$job = submit($plain, server => 'slow', target => 'summary');
wait_until($plain, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'in_progress'", 'a batch flies');
$plain->restart;
sleep 1;
is(worker_pid($plain), '', 'after a restart there is no worker');
like(sql($plain, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), qr/^no worker since \d{4}-/, 'progress says so');
my (undef, undef, $stderr) = $plain->psql('postgres', "CALL llm_batch.wait($job)");
is(sql($plain, "SELECT state FROM llm_batch.progress WHERE job_id = $job"), 'succeeded', 'wait() calls one, and the job succeeds');
check_job($plain, $job);

done_testing();
