# A streaming standby: to look at, not to submit to; and promoted, it goes on.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep);

my $primary = PostgreSQL::Test::Cluster->new('primary');
my $sim = start_sim(options => { run_seconds => 3600 });

$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'llm_batch'");
$primary->start;
sql($primary, q{CREATE EXTENSION llm_batch; CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '1h')});
create_server($primary, $sim, max_batch_requests => 50);
create_articles($primary, 100);

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;

my $done = sql($primary, q{SELECT llm_batch.submit_prompts('{One.,Two.}', 'mock', server => 'mock')});
is(wait_job($primary, $done), 'succeeded', 'a job ends on the primary');
my $flying = submit($primary, target => 'summary');
my $waiting = sql($primary, qq{
	BEGIN;
	SELECT llm_batch.submit_prompts('{Three.}', 'gpt-6-luna', server => 'sim') AS job \\gset
	SELECT llm_batch.pause(:job);
	COMMIT;
	SELECT :job});
($waiting) = $waiting =~ /(\d+)$/;
wait_until($primary, "SELECT count(*) = 2 FROM llm_batch.batches WHERE job_id = $flying AND state = 'in_progress'", 'batches fly');
wait_until($primary, 'SELECT count(*) = 0 FROM llm_batch.command', 'all was obeyed');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# ---- on the standby ----

sub refused
{
	my ($query) = @_;
	my ($status, $out, $error) = $standby->psql('postgres', $query, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $error =~ /ERROR:  (.*)\nHINT:  (.*)/ ? "$1 ($2)" : "no error with a hint: $out$error";
}

foreach my $call (
	[ 'submit()', "submit('articles', 'Summarise: {{body}}', 'mock', server => 'mock')" ],
	[ 'submit_query()', "submit_query('SELECT 1 AS key, ''x'' AS prompt', 'mock', server => 'mock')" ],
	[ 'submit_prompts()', "submit_prompts('{x}', 'mock', server => 'mock')" ],
	map { [ "$_()", "$_($flying)" ] } qw(cancel pause resume retry apply))
{
	like(refused("SELECT llm_batch.$call->[1]"), qr/^25006: cannot execute llm_batch\.\Q$call->[0]\E during recovery/, "$call->[0] says that this is a standby");
}
like(refused("CALL llm_batch.check_server('mock')"), qr/^25006: cannot execute llm_batch\.check_server\(\) during recovery/, 'and so does check_server');

is(sql($standby, 'SELECT job_id, state, total, in_flight, succeeded FROM llm_batch.progress ORDER BY job_id'),
	"$done|succeeded|2|0|2\n$flying|running|100|100|0\n$waiting|paused|1|0|0", 'progress shows what the primary does');
is(sql($standby, "SELECT string_agg(answer, ' ' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $done"), 'One. Two.', 'results are there');
is(sql($standby, "SELECT count(*) FROM llm_batch.$_"), sql($primary, "SELECT count(*) FROM llm_batch.$_"), "$_ can be read") foreach qw(attempts batches events workers);
is(sql($standby, q{SELECT count(*) FROM llm_batch.preview('articles', '{{body}}', 'mock', server => 'mock', n => 3)}), '3', 'preview works');
sql($standby, "CALL llm_batch.wait($done)");
pass('wait returns for a job that has ended');
is(sql($standby, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'llm_batch'}), '0', 'neither launcher nor worker runs');

# ---- promoted ----

$primary->stop('immediate');
$standby->promote;
wait_until($standby, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'promoted, it has a worker');
$sim->options(run_seconds => 0.1);
$sim->advance(3600);
is(wait_job($standby, $flying), 'succeeded', 'the job that was flying ends');
check_job($standby, $flying, 'the flying job');
is(sql($standby, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), '100', 'with all its answers');
sql($standby, "SELECT llm_batch.resume($waiting)");
is(wait_job($standby, $waiting), 'succeeded', 'a paused one goes on when resumed');
my $new = sql($standby, q{SELECT llm_batch.submit_prompts('{Four.}', 'gpt-6-luna', server => 'sim')});
is(wait_job($standby, $new), 'succeeded', 'and a new one runs');
check_prompts_ran_once($sim, 102);
is(scalar(my @batches = $sim->batches), 4, 'no batch was created twice');
check_sim($sim);

done_testing();
