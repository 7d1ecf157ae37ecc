# A promotion seen closely: what providers list late or do not count yet, what
# waits for it and what does not, and what people may do meanwhile.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = 4;
my $primary = PostgreSQL::Test::Cluster->new('primary');
my $sim = start_sim(options => { run_seconds => 1 });
my %model = (anthropic => 'claude-haiku-4-5', openai => 'gpt-6-luna');
my %job;

$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'llm_batch'");
$primary->start;
sql($primary, q{
	CREATE EXTENSION llm_batch;
	CREATE TABLE parcel (what text, n int, body text, summary text, PRIMARY KEY (what, n))});

sub server
{
	my ($name, %opt) = @_;
	create_server($primary, $sim, name => $name, key => "sk-$name", request_timeout => '1s', settle_time => '9s', poll_min => '200ms', poll_max => '500ms', %opt);
}

# One that is paused while the standby still listens.
sub begin_job
{
	my ($what, %opt) = @_;
	my $server = delete $opt{server} // $what;
	my $mode = delete $opt{mode} // 'batch';
	my $api = delete $opt{api} // 'openai';

	($job{$what}) = sql($primary, qq{
		INSERT INTO parcel SELECT '$what', n, format('Parcel %s of $what. And more.', n) FROM generate_series(1, $count) n;
		BEGIN;
		SELECT llm_batch.submit('parcel', 'Weigh: {{body}}', '$model{$api}', target => 'summary', filter => 'what = ''$what''', server => '$server', mode => '$mode') AS job \\gset
		SELECT llm_batch.pause(:job);
		COMMIT;
		SELECT :job}) =~ /(\d+)$/;
	wait_until($primary, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job{$what}", "$what: paused");
}

sub right
{
	my ($node, $what) = @_;
	return sql($node, "SELECT count(*) FROM parcel WHERE what = '$what' AND summary = format('Weigh: Parcel %s of $what.', n)");
}

# ---- before the lag ----

server($_) foreach qw(late counting);
server('person', max_batch_requests => 2, max_active_batches => 1);
server('strangers', api => 'anthropic');
server('singly', realtime_threshold => 10);
begin_job($_) foreach qw(late counting person);
begin_job('strangers', api => 'anthropic');
begin_job('singly', mode => 'realtime');
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
# it does not stream: what follows it never hears of
$standby->append_conf('postgresql.conf', "primary_conninfo = ''");

# ---- the lag ----

# not listed for a while; not counted for a while; somebody else's
$sim->rule({ nth => 1 }, run_seconds => 0.5, unlisted_seconds => 10);
sql($primary, "SELECT llm_batch.resume($job{late})");
wait_until($primary, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job{late} AND remote_id IS NOT NULL", 'late: sent');
$sim->clear_rules;
$sim->rule({ nth => 1 }, validate_seconds => 7);
sql($primary, "SELECT llm_batch.resume($job{counting})");
wait_until($primary, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job{counting} AND remote_id IS NOT NULL", 'counting: sent');
$sim->clear_rules;
sql($primary, "SELECT llm_batch.resume($job{person})");
wait_until($primary, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job{person} AND remote_id IS NOT NULL", 'person: sent');
$sim->rule({ }, run_seconds => 3600);
$sim->api('POST', '/v1/messages/batches', '{"requests": [{"custom_id": "x-1", "params": {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Not yours."}]}}]}', undef, 'anthropic');
$sim->clear_rules;
$primary->stop('immediate');

# ---- promoted ----

my $created = $sim->summary->{batches_created};
# and the worker stumbles over what it finds: an error, its end, an error
my $orders = $standby->data_dir . '/orders';
my $point = 'comparing batches after a failover: commit';
append_to_file($orders, "error 2 $point\nexit 3 $point\nerror 1 $point\n");
$standby->append_conf('postgresql.conf', "llm_batch.crash_file = '$orders'");
$standby->start;
$standby->promote;
sql($standby, "SELECT llm_batch.resume($job{$_})") foreach qw(late counting strangers singly);
# on a slow machine one may be through before the next has begun
wait_until($standby, "SELECT count(DISTINCT job_id) = 3 FROM llm_batch.events WHERE job_id IN ($job{late}, $job{counting}, $job{strangers}) AND kind = 'comparing'",
	'it is said what they wait for');
is(wait_job($standby, $job{singly}), 'succeeded', 'what is sent singly does not wait for what may be listed late');
my $new = sql($standby, q{SELECT llm_batch.submit_prompts('{A new one.}', 'gpt-6-luna', server => 'late', mode => 'batch')});
is(wait_job($standby, $new), 'succeeded', 'nor does a new job');
is($sim->summary->{batches_created}, $created + 1, 'the others do');
is(wait_job($standby, $job{counting}), 'succeeded', 'counting: ends') or explain_job($standby, $job{counting});
is(wait_job($standby, $job{late}), 'succeeded', 'late: ends') or explain_job($standby, $job{late});
is(right($standby, $_), $count, "$_: every row has its answer") foreach qw(counting late);
wait_until($standby, "SELECT state = 'paused' AND succeeded = 2 AND queued = 2 FROM llm_batch.progress WHERE job_id = $job{person}",
	'person: a batch of a job that a person paused is taken in, and the job stays paused') or explain_job($standby, $job{person});

# Somebody else's batch runs for an hour.
is(sql($standby, "SELECT state || ' ' || (reason ~ 'whether they are ours: 1; resume') FROM llm_batch.progress WHERE job_id = $job{strangers}"), 'waiting true',
	'strangers: it is said what the job waits for') or explain_job($standby, $job{strangers});
sql($standby, "SELECT llm_batch.resume($job{strangers}, resend => true)");
is(wait_job($standby, $job{strangers}), 'succeeded', 'strangers: and a person may go on without');
is(right($standby, 'strangers'), $count, 'strangers: every row has its answer');
is(slurp_file($orders), '', 'the worker stumbled as it was told to');
is($sim->summary->{max_times_one_custom_id_ran}, 1, 'no batch was run twice');

done_testing();
