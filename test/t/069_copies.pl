# Copies: restored from a dump, made from a template, upgraded by pg_upgrade.
# Nothing of them spends before somebody resumes it, and what flies is then
# fetched, not sent again.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $count = 6;
my $node = start_node(name => 'old', conf => [ "llm_batch.sweep_interval = '1s'" ]);
my $sim = start_sim(options => { run_seconds => 3600 });

create_server($node, $sim, request_timeout => '2s', settle_time => '1s');
# another key, for creates go one at a time
create_server($node, $sim, name => 'slow', key => 'sk-slow', request_timeout => '60s', settle_time => '1s');
create_server($node, $sim, name => 'broken', key => 'sk-broken', max_attempts => 1, batch => 'off');
sql($node, q{
	CREATE TABLE parcel (what text, n int, body text, summary text, PRIMARY KEY (what, n));
	CREATE TABLE letter (LIKE parcel INCLUDING ALL);
	INSERT INTO llm_batch.model (api, name, input, output) VALUES ('openai', 'gpt-6-luna', 1, 2)});

# In another database than postgres, too.
sub db
{
	my ($on, $name, $query) = @_;
	return $on->safe_psql($name, $query);
}

sub wait_in
{
	my ($on, $name, $query, $what) = @_;
	my $until = time + $LlmBatch::PATIENCE;
	my $said;

	do
	{
		$said = db($on, $name, $query);
		return 1 if $said eq 't';
		sleep 0.05;
	} while (time < $until);
	return fail("$what: $query said $said");
}

sub begin_job
{
	my ($what, %opt) = @_;
	my $table = $opt{table} // 'parcel';
	my $mode = $opt{mode} // 'batch';
	my $server = $opt{server} // 'sim';

	return sql($node, qq{
		INSERT INTO $table SELECT '$what', n, format('Item %s of $what. And more.', n) FROM generate_series(1, $count) n;
		SELECT llm_batch.submit('$table', 'Weigh: {{body}}', 'gpt-6-luna', target => 'summary', filter => 'what = ''$what''', server => '$server', mode => '$mode')});
}

my $RIGHT = q{summary = format('Weigh: Item %s of %s.', n, what)};

sub right
{
	my ($on, $name, $what, $table) = @_;
	return db($on, $name, 'SELECT count(*) FROM ' . ($table // 'parcel') . " WHERE what = '$what' AND $RIGHT");
}

sub heard { return scalar(my @all = $sim->requests) }

# ---- what is there ----

my %job;

$sim->rule({ nth => 1 }, run_seconds => 0.1);
$job{done} = begin_job('done');
is(wait_job($node, $job{done}), 'succeeded', 'a job that is done');
$sim->fault({ method => 'POST', path => '^/v1/chat/completions$', times => $count }, { status => 400 });
$job{failed} = begin_job('failed', server => 'broken', mode => 'realtime');
is(wait_job($node, $job{failed}), 'failed', 'one that failed');
$job{flying} = begin_job('flying');
$job{letter} = begin_job('letter', table => 'letter');
wait_until($node, "SELECT count(*) = 2 FROM llm_batch.batches WHERE job_id IN ($job{flying}, $job{letter}) AND state = 'in_progress'", 'two batches fly');
$sim->fault({ method => 'POST', path => '^/v1/batches$', times => 1 }, { stall => 60 });
$job{creating} = begin_job('creating', server => 'slow');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job{creating} AND state = 'submitting'", 'and one is being created');
$sim->wait_for(sub { $_[0]->summary->{batches_created} == 4 });
$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker has left');
$job{waiting} = begin_job('waiting');

my $shipped = sql($node, 'SELECT count(*) FROM llm_batch.model WHERE shipped');
my $unfinished = join ', ', @job{qw(flying letter creating waiting)};
my $created = $sim->summary->{batches_created};

# What is true of each copy before anybody resumes anything.
sub check_stands_still
{
	my ($on, $db, $name) = @_;
	my $heard = heard();

	wait_in($on, $db, "SELECT bool_and(state = 'paused' AND reason = 'restored') FROM llm_batch.progress WHERE job_id IN ($unfinished)", "$name: what had not ended is paused as restored");
	is(db($on, $db, "SELECT count(*) FROM llm_batch.events WHERE job_id IN ($unfinished) AND kind = 'paused' AND message ~ 'resume'"), '4', "$name: events say what to do");
	is(db($on, $db, "SELECT string_agg(state, ' ' ORDER BY job_id) FROM llm_batch.progress WHERE job_id IN ($job{done}, $job{failed})"), 'succeeded failed', "$name: what had ended is as it was");
	is(db($on, $db, q{SELECT input, output FROM llm_batch.model WHERE NOT shipped}), '1|2', "$name: models of our own are there");
	is(db($on, $db, 'SELECT count(*) FROM llm_batch.model WHERE shipped'), $shipped, "$name: besides those that the extension brings");
	sleep 1;
	is(heard(), $heard, "$name: the provider has heard nothing");
}

# ---- restored from a dump, without one of the tables ----

my $dump = $node->basedir . '/dump';
my $new = start_node(name => 'new', extension => 0, conf => [ "llm_batch.sweep_interval = '1s'" ]);

command_ok([ 'pg_dump', '-Fc', '-T', 'letter', '-f', $dump, $node->connstr('postgres') ], 'pg_dump, without a table');
sql($new, 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $new->connstr('restored'), $dump ], 'pg_restore in parallel');
check_stands_still($new, 'restored', 'restored');
is(db($new, 'restored', "SELECT llm_batch.retry($job{failed})"), $count, 'restored: what failed can be sent again from there');
wait_in($new, 'restored', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job{failed}", 'restored: and succeeds');
is(right($new, 'restored', 'failed'), $count, 'restored: with its answers');

# ---- a copy by template ----

sql($node, 'CREATE DATABASE copy TEMPLATE postgres');
# the original is not to go on before all copies are made
sql($node, 'ALTER DATABASE postgres IS_TEMPLATE true');
$node->append_conf('postgresql.conf', 'llm_batch.enabled = on');
$node->reload;
db($node, 'copy', q{CALL llm_batch.check_server('mock')});
check_stands_still($node, 'copy', 'copied');
db($node, 'copy', "SELECT llm_batch.cancel($job{letter})");
wait_in($node, 'copy', "SELECT state = 'cancelled' FROM llm_batch.progress WHERE job_id = $job{letter}", 'copied: cancelled, a job ends in the copy');
is(scalar(grep { $_->{path} =~ /cancel/ } $sim->requests(method => 'POST')), 0, 'copied: the provider is not asked to cancel the original\'s batch');
db($node, 'copy', "SELECT llm_batch.resume($job{flying})");
wait_in($node, 'copy', "SELECT state = 'running' FROM llm_batch.progress WHERE job_id = $job{flying}", 'copied: resumed, it runs');
$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->reload;
sql($node, 'ALTER DATABASE postgres IS_TEMPLATE false');

# ---- upgraded ----

# The other databases are not of interest here; what flies in them goes on.
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
my $bindir = $node->config_data('--bindir');
my @oids = map { sql($node, $_) } (q{SELECT oid FROM pg_database WHERE datname = 'copy'}, 'SELECT system_identifier FROM pg_control_system()');

$node->append_conf('postgresql.conf', 'llm_batch.enabled = on');
$node->stop;
$upgraded->init;
$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'llm_batch'\nllm_batch.sweep_interval = '1s'");
chdir $PostgreSQL::Test::Utils::tmp_check;
command_ok([ "$bindir/pg_upgrade", '--no-sync', '-d', $node->data_dir, '-D', $upgraded->data_dir, '-b', $bindir, '-B', $bindir,
		'-s', $node->host, '-p', $node->port, '-P', $upgraded->port ],
	'pg_upgrade, with the library preloaded in both');
$upgraded->start;
is(sql($upgraded, q{SELECT oid FROM pg_database WHERE datname = 'copy'}), $oids[0], 'databases keep their oids');
isnt(sql($upgraded, 'SELECT system_identifier FROM pg_control_system()'), $oids[1], 'but the cluster is another one');
is($sim->summary->{batches_created}, $created, 'no worker has sent anything meanwhile');
check_stands_still($upgraded, 'postgres', 'upgraded');
wait_in($upgraded, 'copy', "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job{flying}", 'upgraded: so is what ran in another database');

# ---- each goes on ----

$sim->clear_rules;
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
sql($upgraded, "SELECT llm_batch.resume($_)") foreach @job{qw(flying letter creating waiting)};
foreach my $what (qw(flying letter creating waiting))
{
	is(wait_job($upgraded, $job{$what}), 'succeeded', "upgraded: $what: resumed, the job succeeds") or explain_job($upgraded, $job{$what});
	check_job($upgraded, $job{$what}, "upgraded: $what");
	is(right($upgraded, 'postgres', $what, $what eq 'letter' ? 'letter' : 'parcel'), $count, "upgraded: $what: every row has its answer");
}
my $next = sql($upgraded, q{SELECT llm_batch.submit_prompts('{Next.}', 'gpt-6-luna', server => 'sim')});
cmp_ok($next, '>', $job{waiting}, 'upgraded: a new job has a new id');
is(wait_job($upgraded, $next), 'succeeded', 'upgraded: and runs');

# the restored one, in which a table is missing
db($new, 'restored', "SELECT llm_batch.resume($_)") foreach @job{qw(flying letter)};
wait_in($new, 'restored', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job{flying}", 'restored: what flew is fetched there as well');
is(right($new, 'restored', 'flying'), $count, 'restored: every row has its answer');
wait_in($new, 'restored', "SELECT state = 'failed' FROM llm_batch.progress WHERE job_id = $job{letter}", 'restored: a job whose table is not there ends');
is(db($new, 'restored', "SELECT DISTINCT error_code, error FROM llm_batch.results WHERE job_id = $job{letter} AND answer <> ''"), 'write_back|table public.letter does not exist any more', 'restored: its answers are kept');
db($new, 'restored', q{
	CREATE TABLE letter (LIKE parcel INCLUDING ALL);
	INSERT INTO letter SELECT 'letter', n, format('Item %s of letter. And more.', n) FROM generate_series(1, 6) n});
db($new, 'restored', "SELECT llm_batch.apply($job{letter})");
wait_in($new, 'restored', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job{letter}", 'restored: with a table, apply() brings them in');
is(right($new, 'restored', 'letter', 'letter'), $count, 'restored: every row of it has its answer');
is(db($new, 'restored', "SELECT string_agg(state, ' ') FROM llm_batch.progress WHERE job_id IN ($job{creating}, $job{waiting})"), 'paused paused', 'restored: the others are paused still');
db($new, 'restored', "SELECT llm_batch.cancel($job{waiting})");
wait_in($new, 'restored', "SELECT state = 'cancelled' FROM llm_batch.progress WHERE job_id = $job{waiting}", 'restored: what waits can be cancelled');

# the one from a template, in the upgraded cluster
db($upgraded, 'copy', "SELECT llm_batch.resume($job{flying})");
wait_in($upgraded, 'copy', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $job{flying}", 'copied, then upgraded: what flew is fetched there as well');
is(right($upgraded, 'copy', 'flying'), $count, 'copied, then upgraded: every row has its answer');

is($sim->summary->{max_times_one_custom_id_ran}, 1, 'whatever was copied: nothing ran twice');
is($sim->summary->{batches_created}, $created + 2, 'and nothing was created but what waited, and the new job\'s');
check_sim($sim);

done_testing();
