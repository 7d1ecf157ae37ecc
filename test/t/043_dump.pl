# Dump and restore: everything is there again, and nothing of it spends.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $old = start_node(name => 'old');
my $sim = start_sim();
my $dump = $old->basedir . '/dump.sql';

# ---- what is there ----

sql($old, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE "Bob O'Hara" LOGIN;
	CREATE SCHEMA "A Schema" AUTHORIZATION alice;
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '1h');
	CREATE SERVER broken FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '0', failure_rate '1', max_attempts '2', retry_base '1ms', retry_max '1ms');
	GRANT USAGE ON FOREIGN SERVER slow, broken TO alice, "Bob O'Hara"});
create_server($old, $sim, key => undef);
sql($old, q{
	CREATE USER MAPPING FOR alice SERVER sim OPTIONS (api_key 'sk-alice');
	GRANT USAGE ON FOREIGN SERVER sim TO alice});

sub as
{
	my ($node, $role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

as($old, 'alice', q{
	CREATE TABLE "A Schema"."An Article" (id int PRIMARY KEY, body text, summary text);
	INSERT INTO "A Schema"."An Article" SELECT n, E'Article ' || n || E' speaks \\\\ of\ttabs. At length.' FROM generate_series(1, 10) n});
my $SUBMIT = q{SELECT llm_batch.submit('"A Schema"."An Article"', 'Summarise: {{body}}', 'gpt-6-luna', target => 'summary', mode => 'batch', labels => '{"a": "b"}'};
my %job;

$job{done} = as($old, 'alice', "$SUBMIT, server => 'mock', request_key => 'once', filter => 'id <= 5')");
$job{failed} = as($old, 'alice', q{SELECT llm_batch.submit_prompts('{One.,Two.}', 'mock', server => 'broken')});
wait_job($old, $job{$_}) foreach qw(done failed);
$sim->options(run_seconds => 3600);
$job{running} = as($old, 'alice', "$SUBMIT, server => 'sim', filter => 'id > 5')");
$job{orphan} = as($old, q{Bob O'Hara}, q{SELECT llm_batch.submit_prompts('{Three.}', 'mock', server => 'slow', mode => 'batch')});
$job{paused} = as($old, 'alice', q{SELECT llm_batch.submit_prompts('{Four.,Five.}', 'mock', server => 'slow', mode => 'batch')});
as($old, 'alice', "SELECT llm_batch.pause($job{paused})");
wait_until($old, "SELECT count(*) = 2 FROM llm_batch.batches WHERE job_id IN ($job{running}, $job{orphan}) AND state = 'in_progress'", 'batches fly');
wait_until($old, 'SELECT count(*) = 0 FROM llm_batch.command', 'and nothing is left to do');

# the tables of the extension that are dumped, each as one number
my @tables = split /\n/, sql($old, q{SELECT relname FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'r' AND relname NOT IN ('probe', 'home', 'compared', 'leftover') ORDER BY 1});

sub contents
{
	my ($node) = @_;
	return join "\n", map { sql($node, "SELECT '$_', count(*), md5(string_agg(r::text, ' ' ORDER BY r::text)) FROM llm_batch.$_ r") } @tables;
}

$old->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$old->reload;
wait_until($old, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker stops');
my $before = contents($old);
command_ok([ 'pg_dump', '-f', $dump, $old->connstr('postgres') ], 'pg_dump');
my $sql = slurp_file($dump);
like($sql, qr/CREATE SERVER sim /, 'servers of the user are in the dump');
unlike($sql, qr/CREATE SERVER mock /, 'the extension\'s own is not');

# ---- into another cluster, where nothing runs ----

my $new = start_node(name => 'new', extension => 0, conf => [ 'llm_batch.enabled = off' ]);
sql($new, 'CREATE ROLE alice LOGIN');
my ($status, $out, $errors) = $new->psql('postgres', $sql, on_error_stop => 0);
is(join("\n", grep { /ERROR/ && !/role "Bob O'Hara" does not exist/ } split /\n/, $errors), '', 'restored without an error but for the role that is not here');
is(contents($new), $before, 'every table has what it had');
is(sql($new, 'SELECT count(*), count(DISTINCT job_id) FROM llm_batch.progress'), '5|5', 'views work, also over jobs of a role that is not here');
is(as($new, 'alice', 'SELECT count(*) FROM llm_batch.progress'), '4', 'each owner sees the own jobs');
is(as($new, 'alice', "$SUBMIT, server => 'mock', request_key => 'once', filter => 'id <= 5')"), $job{done}, 'a request_key is remembered');
sql($new, 'DROP SCHEMA "A Schema" CASCADE; DROP EXTENSION llm_batch CASCADE');

# ---- into another database, whose worker is awake ----

sub requests
{
	return scalar(my @all = $sim->requests);
}

$new->append_conf('postgresql.conf', "llm_batch.enabled = on\nllm_batch.idle_timeout = 1d");
$new->reload;
$new->safe_psql('postgres', 'CREATE EXTENSION llm_batch');
sql($new, q{CALL llm_batch.check_server('mock')});
my $heard = requests();
# ALTER: the role must own what it gets; psql is told not to stop at the missing one
($status, $out, $errors) = $new->psql('postgres', $sql, on_error_stop => 0);
sql($new, q{CALL llm_batch.check_server('mock')});
wait_until($new, qq{SELECT bool_and(state = 'paused') FROM llm_batch.progress WHERE job_id IN ($job{running}, $job{orphan}, $job{paused})}, 'restored jobs pause');
is(sql($new, "SELECT string_agg(reason, ', ' ORDER BY job_id) FROM llm_batch.progress WHERE job_id IN ($job{running}, $job{orphan})"), 'restored, restored', 'and say why');
sleep 0.5;
is(requests(), $heard, 'the provider has heard nothing of it');
is(sql($new, "SELECT state FROM llm_batch.progress WHERE job_id = $job{done}"), 'succeeded', 'ended jobs are what they were');

# ids go on where they were
my $next = as($new, 'alice', q{SELECT llm_batch.submit_prompts('{Six.}', 'mock', server => 'mock')});
cmp_ok($next, '>', $job{paused}, 'a new job has a new id');
is(wait_job($new, $next), 'succeeded', 'and runs beside the restored ones');
is(sql($new, 'SELECT count(*) - count(DISTINCT batch_id) FROM llm_batch.batches') . sql($new, 'SELECT count(*) - count(DISTINCT event_id) FROM llm_batch.events'),
	'00', 'no id of a batch or an event comes twice');
check_job($new, $next, 'a new job');

# resumed, a job goes on here: its batch is the one that is at the provider
as($new, 'alice', "SELECT llm_batch.resume($job{running})");
wait_until($new, "SELECT state = 'running' FROM llm_batch.progress WHERE job_id = $job{running}", 'resumed, it runs');
$sim->advance(4000);
is(wait_job($new, $job{running}), 'succeeded', 'and ends');
check_job($new, $job{running}, 'a restored job');
is(as($new, 'alice', q{SELECT count(*) FROM "A Schema"."An Article" WHERE summary LIKE '%Article ' || id || ' %'}), '10', 'its answers are in the restored rows');
is(scalar(my @batches = $sim->batches), 1, 'nothing was sent for it anew');

# the others: of nobody here; paused by hand before; failed, and tried again
sql($new, "SELECT llm_batch.resume($job{orphan})");
wait_until($new, 'SELECT count(*) = 0 FROM llm_batch.command', 'resume is obeyed');
wait_until($new, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job{orphan}", 'a job without an owner does not run');
is(sql($new, "SELECT reason FROM llm_batch.progress WHERE job_id = $job{orphan}"), q{role "Bob O'Hara" does not exist any more}, 'and says so');
sql($new, q{ALTER SERVER slow OPTIONS (SET latency '0')});
as($new, 'alice', "SELECT llm_batch.resume($job{paused})");
is(wait_job($new, $job{paused}), 'succeeded', 'a job that was paused before goes on when resumed');
sql($new, q{ALTER SERVER broken OPTIONS (SET failure_rate '0')});
as($new, 'alice', "SELECT llm_batch.retry($job{failed})");
is(wait_job($new, $job{failed}), 'succeeded', 'failed items still have their prompts');
check_job($new, $job{failed}, 'a retried job');

check_sim($sim);
done_testing();
