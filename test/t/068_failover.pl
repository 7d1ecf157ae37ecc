# A standby that lags behind is promoted while the old primary is gone: what
# the old primary has sent since is looked for at the provider before anything
# is sent, adopted where it can be told, and reported where it cannot.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $count = 6;
my $primary = PostgreSQL::Test::Cluster->new('primary');
my $sim = start_sim(options => { run_seconds => 5 });
my $true = $sim->true;

$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'llm_batch'");
$primary->start;
sql($primary, q{
	CREATE EXTENSION llm_batch;
	CREATE TABLE parcel (what text, n int, body text, summary text, PRIMARY KEY (what, n))});

# A server and its job for each state that the lag may cut through; the key is
# named after it.
my %model = (anthropic => 'claude-haiku-4-5', gemini => 'gemini-3.5-flash-lite');
my %job;

sub server
{
	my ($name, %opt) = @_;
	create_server($primary, $sim, name => $name, key => "sk-$name", request_timeout => '5s', settle_time => '1s', %opt);
}

# A server's key as the simulator's log has it.
sub key
{
	my ($name) = @_;
	return substr sha256_hex("sk-$name"), 0, 8;
}

# A job of some rows of its own; $state: what its batch comes to.
sub begin_job
{
	my ($what, %opt) = @_;
	my $server = delete $opt{server} // $what;
	my $state = delete $opt{state};
	my $items = delete $opt{items} // $count;
	my $mode = delete $opt{mode} // 'batch';
	my $model = $opt{model} // 'gpt-6-luna';

	$job{$what} = sql($primary, qq{
		INSERT INTO parcel SELECT '$what', n, format('Parcel %s of $what. And more.', n) FROM generate_series(1, $items) n;
		SELECT llm_batch.submit('parcel', 'Weigh: {{body}}', '$model', target => 'summary', filter => 'what = ''$what''', server => '$server', mode => '$mode')});
	wait_until($primary, "SELECT bool_or(state = '$state') FROM llm_batch.batches WHERE job_id = $job{$what}", "$what: it is $state") if $state;
	return $job{$what};
}

sub right
{
	my ($node, $what) = @_;
	return sql($node, "SELECT count(*) FROM parcel WHERE what = '$what' AND summary = format('Weigh: Parcel %s of $what.', n)");
}

# ---- before the lag begins ----

server('flying');
server('arrived');
server('vanished');
server('uploading', request_timeout => '20s');
server('unsent');
server('split', max_batch_requests => 2, max_active_batches => 1);
server('again', retry_base => '12s', retry_max => '12s');
server('singly', batch => 'off', requests_per_minute => 240);
server('silent');
my @apis = qw(openai anthropic gemini);
foreach my $api (@apis)
{
	server("narrow_$api", api => $api, max_active_batches => 1);
}

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;

# somebody else's batches, in the same accounts
$sim->rule({ metadata => { whose => 'other' } }, run_seconds => 3600);
my $file = $sim->upload('{"custom_id": "x-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Not yours."}]}}');
$sim->api('POST', '/batches', qq({"input_file_id": "$file", "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"whose": "other"}}));

# its first attempt fails, the second comes in a while
$sim->rule({ nth => 1 }, run_seconds => 0.1, items => [ { do => { status_code => 500 } } ]);
begin_job('again', state => 'finalized');

my $create = { method => 'POST', path => '^/v1/batches$' };
my $upload = { method => 'POST', path => '^/v1/files$' };
# The provider's clock stands still from here on, so that batches fly.
$sim->call('POST', 'clock', { stop => $true });
begin_job("ahead_$_", server => "narrow_$_", state => 'in_progress', model => $model{$_}) foreach @apis;
begin_job("behind_$_", server => "narrow_$_", model => $model{$_}) foreach @apis;
begin_job('flying', state => 'in_progress');
begin_job('split', state => 'in_progress');
begin_job('silent', state => 'in_progress', items => 2);
$sim->fault({ %$create, key => key('arrived') }, { stall => 20 });
begin_job('arrived', state => 'submitting');
$sim->fault({ %$create, key => key('vanished'), times => 1 }, { stall_before => 20, status => 503 });
begin_job('vanished', state => 'submitting');
$sim->fault({ %$upload, key => key('unsent') }, { stall_before => 60, status => 503 });
begin_job('unsent', state => 'uploading');
begin_job('singly', mode => 'realtime', items => 20);
wait_until($primary, "SELECT succeeded > 1 FROM llm_batch.progress WHERE job_id = $job{singly}", 'singly: it is under way');
$sim->wait_for(sub { grep { $_->{key} eq key('arrived') } $_[0]->requests(method => 'POST', path => '/v1/batches') });
$sim->fault({ %$upload, key => key('uploading'), times => 1 }, { stall => 3 });
begin_job('uploading', state => 'uploading');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# ---- the lag ----

$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->reload;
$standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver') or BAIL_OUT('the standby still streams');
my %at_cut = map { $_ => sql($standby, "SELECT string_agg(state, ' ' ORDER BY batch_id) FROM llm_batch.batches WHERE job_id = $job{$_}") } keys %job;
is($at_cut{uploading}, 'uploading', 'the standby knows a batch that is being uploaded');
is($at_cut{again}, 'finalized', 'and a failed attempt, but not the next');
is($at_cut{"behind_$_"} =~ s/planned//r, '', "and a job that waits ($_)") foreach @apis;

# What flies ends, and what waited is sent.
$sim->advance(10);
my %sent = (uploading => 1, again => 2, split => 2, map { ("behind_$_" => 1) } @apis);
wait_until($primary, "SELECT count(*) >= $sent{$_} FROM llm_batch.batches WHERE job_id = $job{$_} AND remote_id IS NOT NULL", "$_: sent by the primary after the cut")
  foreach sort keys %sent;
begin_job('late', server => 'flying', state => 'in_progress');
wait_until($primary, "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job{flying}", 'flying: stored by the primary after the cut');
is(sql($standby, "SELECT state || ' ' || in_flight FROM llm_batch.progress WHERE job_id = $job{flying}"), "running $count", 'which the standby does not know');
my $single_calls = $sim->summary->{realtime_calls};
my $created = $sim->summary->{batches_created};

# ---- promoted ----

$primary->stop('immediate');
# nothing can be listed at first
$sim->fault({ method => 'GET', path => '^/v1(beta)?/(messages/)?batches$' }, { status => 503 });
my $promoted_at = time;
$standby->promote;
wait_until($standby, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'promoted, it has a worker');
my $new = sql($standby, q{SELECT llm_batch.submit_prompts('{A new one.}', 'gpt-6-luna', server => 'flying', mode => 'batch')});
wait_until($standby, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id IN ($new, $job{unsent}) AND kind IN ('comparing', 'retry')", 'batches are to be compared');
sleep 1.5;
is($sim->summary->{batches_created}, $created, 'nothing is created while that cannot be done');
is(sql($standby, "SELECT state FROM llm_batch.progress WHERE job_id = $new"), 'waiting', 'a new job waits');
wait_until($standby, "SELECT state = 'finalized' FROM llm_batch.batches WHERE job_id = $job{flying}", 'while what is known to fly is fetched');
# not forgotten by a worker that begins anew
$standby->restart;
wait_until($standby, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'restarted, it has a worker');
sleep 1;
is($sim->summary->{batches_created}, $created, 'nor is anything created after a restart');
# the owner of a key is listed before anything of that key is sent
my %seen;
$seen{ $_->{seq} } = 1 foreach $sim->requests();
$sim->clear_rules;
$sim->options(run_seconds => 0.1);
$sim->call('POST', 'clock', { stop => $sim->false });
$sim->advance(10);

my @well = ('flying', 'arrived', 'vanished', 'uploading', 'unsent', 'split', 'silent', map { ("ahead_$_", "behind_$_") } @apis);
foreach my $what (@well)
{
	is(wait_job($standby, $job{$what}), 'succeeded', "$what: the job succeeds") or explain_job($standby, $job{$what});
	check_job($standby, $job{$what}, $what);
	is(right($standby, $what), $what eq 'silent' ? 2 : $count, "$what: every row has its answer");
}
is(wait_job($standby, $new), 'succeeded', 'and so does the new one');

sub kinds
{
	my ($what) = @_;
	return sql($standby, "SELECT string_agg(kind, ' ' ORDER BY event_id) FROM llm_batch.events WHERE job_id = $job{$what} AND kind IN ('adopted', 'submitted', 'uncertain')");
}

like(sql($standby, "SELECT string_agg(message, ' ') FROM llm_batch.events WHERE job_id = $job{uploading} AND kind = 'submitted' AND batch_id IS NOT NULL"),
	qr/found at the provider after a failover/, 'uploading: its batch was found') or explain_job($standby, $job{uploading});
like(kinds("behind_$_"), qr/adopted/, "behind_$_: a batch that the standby never heard of was adopted") || explain_job($standby, $job{"behind_$_"}) foreach @apis;
like(kinds('split'), qr/adopted/, 'split: and one of a job of which another batch was known');

# Each key: listed first, then sent.
foreach my $what (qw(unsent flying))
{
	my @after = grep { !$seen{ $_->{seq} } && $_->{key} eq key($what) } $sim->requests();
	my ($listed) = grep { $_->{method} eq 'GET' && $_->{path} =~ m{^/v1/batches(\?|$)} && ($_->{status} // 0) == 200 } @after;
	my ($sent) = grep { $_->{method} eq 'POST' && $_->{path} =~ m{^/v1/(batches|files)$} } @after;

	ok($listed && $sent && $listed->{seq} < $sent->{seq}, "$what: its batches were listed before the first was sent")
	  or diag(join "\n", map { "$_->{seq} $_->{method} $_->{path} " . ($_->{status} // '') } @after);
}

is(sql($standby, "SELECT count(*) FROM llm_batch.compared WHERE server = 'flying'"), '1', 'what was compared is remembered');

# ---- what cannot be told is reported ----

wait_until($standby, "SELECT state = 'paused' AND reason ~ '^uncertain' FROM llm_batch.progress WHERE job_id = $job{again}", 'again: a second attempt that the standby never heard of pauses the job')
  or explain_job($standby, $job{again});
like(kinds('again'), qr/uncertain/, 'again: and its events say why');
like(slurp_file($standby->logfile), qr/llm_batch: batch \S+ was made by the old primary for job $job{late}, which this server never heard of/, 'late: a batch of a job that is not here is logged');
is(wait_job($standby, $job{singly}), 'succeeded', 'singly: what is sent one by one goes on');
like(kinds('singly'), qr/uncertain/, 'singly: and its events say that something may be paid twice');

# ---- the bill ----

is($sim->summary->{max_times_one_custom_id_ran}, 1, 'no batch was run twice');
sql($standby, "SELECT llm_batch.cancel($job{again})");
wait_until($standby, "SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $job{again}", 'again: its owner may cancel');
is(scalar(grep { $_->{metadata} && ($_->{metadata}{whose} // '') eq 'other' && $_->{status} =~ /cancel/ } $sim->batches), 0, 'nobody else\'s batch was touched');

# ---- the old primary comes back, switched off as it has to be ----

# the other one may have calls to make still
$standby->stop('fast');
$primary->append_conf('postgresql.conf', 'llm_batch.enabled = off');
my $heard = scalar(my @requests = $sim->requests);
$primary->start;
sleep 1.5;
is(sql($primary, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}), '0', 'a clone that is switched off has no worker');
sql($primary, 'DROP EXTENSION llm_batch CASCADE');
is(scalar(@requests = $sim->requests), $heard, 'and makes no call, nor does it when the extension is dropped');
check_sim($sim);

done_testing();
