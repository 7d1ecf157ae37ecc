# A server that does not answer: calls to it are held back, its jobs wait and go
# on by themselves when it is back, and no other server is slower for it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node();
my $dead = start_sim();
my $alive = start_sim();
my %hasty = (retry_base => '100ms', retry_max => '400ms', max_attempts => 20, connect_timeout => '2s', request_timeout => '2s', settle_time => '1s');

create_server($node, $dead, name => 'dead', %hasty);
create_server($node, $alive, name => 'alive', %hasty);
create_articles($node, 40);

sub breaker
{
	my ($server) = @_;

	return sql($node, "SELECT breaker FROM llm_batch.server_health() WHERE server = '$server'");
}

sub prompts
{
	my ($server, $count, $mode) = @_;

	return sql($node, "SELECT llm_batch.submit_prompts(ARRAY(SELECT 'Prompt ' || i || ' of $server.' FROM generate_series(1, $count) i), '$LlmBatch::MODEL', server => '$server', mode => '$mode')");
}

# What arrived at the dead server, refused or not.
sub calls { return scalar @{ $dead->call('GET', 'log') } }

sub break_it { my (%do) = @_; $dead->fault({ path => '^/v1/' }, \%do) }

# ---- each way to be dead ----

foreach my $way ([ 'HTTP 503', status => 503 ], [ 'HTTP 500', status => 500 ], [ 'connections that are cut', cut_before => $dead->true ])
{
	my ($name, %do) = @$way;
	my $before = calls();

	break_it(%do);
	my @jobs = map { prompts('dead', 5, $_ % 2 ? 'batch' : 'realtime') } 1 .. 6;
	wait_until($node, "SELECT breaker <> 'closed' FROM llm_batch.server_health() WHERE server = 'dead'", "$name: the breaker opens");

	# meanwhile
	my $job = submit($node, target => 'summary', server => 'alive');
	is(wait_job($node, $job), 'succeeded', "$name: the other server's batch ends");
	is(wait_job($node, prompts('alive', 10, 'realtime')), 'succeeded', "$name: and what it answers in real time");
	is(breaker('alive'), 'closed', "$name: its breaker is closed");
	sql($node, 'UPDATE articles SET summary = NULL');

	my $seen = calls();
	my $began = time;
	sleep 3;
	my $rate = (calls() - $seen) / (time - $began);
	# one call is out at a time, and the wait between two is at least half of retry_max
	cmp_ok($rate, '<=', 6, sprintf("%s: six jobs send %.1f calls a second between them, not each as often as it would", $name, $rate));
	is(sql($node, "SELECT count(*) FROM llm_batch.progress WHERE server = 'dead' AND state NOT IN ('succeeded', 'running', 'waiting')"), 0,
		"$name: its jobs are neither failed nor paused");
	like(sql($node, "SELECT string_agg(message, ' ') FROM llm_batch.events WHERE kind = 'held' AND job_id IN (" . join(',', @jobs) . ')'),
		qr/server "dead" does not answer \(.+\): \d+ calls in a row failed/, "$name: events say why they wait");
	is(sql($node, "SELECT max(n) FROM (SELECT count(*) AS n FROM llm_batch.events WHERE kind = 'held' AND job_id IN (" . join(',', @jobs) . ') GROUP BY batch_id) c'), 1,
		"$name: once for each batch");

	$dead->clear_rules;
	is(join(' ', map { wait_job($node, $_) } @jobs), join(' ', ('succeeded') x 6), "$name: when it is back they end by themselves");
	is(breaker('dead'), 'closed', "$name: the breaker is closed");
	check_job($node, $_, $name) foreach @jobs;
}

my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
like($log, qr/LOG:  llm_batch: server "dead" does not answer \(HTTP 503\): 5 calls in a row failed/, 'the log tells of it');
like($log, qr/LOG:  llm_batch: server "dead" answers again/, 'and of its end');

# ---- one request that makes the server fail ----

$dead->fault({ method => 'POST', path => '^/v1/batches$', times => 200 }, { status => 500, body => '{"error": {"message": "poison"}}' });
my $poison = prompts('dead', 3, 'batch');
wait_until($node, "SELECT state = 'verifying' FROM llm_batch.batches WHERE job_id = $poison", 'a create that always ends in 500');
is(wait_job($node, prompts('dead', 3, 'realtime')), 'succeeded', 'does not keep others from the same server');
$dead->clear_rules;
is(wait_job($node, $poison), 'succeeded', 'and is found to have made nothing, and sent again');

# ---- mended by hand ----

sql($node, q{ALTER SERVER dead OPTIONS (SET retry_base '1min', SET retry_max '1h')});
break_it(status => 502);
# as many as open it: one more would wait for the breaker, and go to see
my @late = map { prompts('dead', 2, 'batch') } 1 .. 5;
wait_until($node, "SELECT breaker = 'open' FROM llm_batch.server_health() WHERE server = 'dead'", 'open, and its jobs wait for a minute')
  or diag(sql($node, 'TABLE llm_batch.server_health()'));
$dead->clear_rules;
sleep 2;
is(breaker('dead'), 'open', 'nobody goes to see meanwhile');
like($node->psql('postgres', q{CALL llm_batch.check_server('dead')}) // '', qr/^0/, 'check_server goes through all the same');
wait_until($node, "SELECT breaker = 'closed' FROM llm_batch.server_health() WHERE server = 'dead'", 'and closes the breaker');

check_sim($_) foreach $dead, $alive;

# ---- a crowd of them ----

my $pid = worker_pid($node);
sql($node, q{
	DO $$ BEGIN
		FOR n IN 1 .. 270 LOOP
			EXECUTE format($f$CREATE SERVER s%s FOREIGN DATA WRAPPER llm_batch OPTIONS
				(api 'openai', base_url 'http://127.0.0.1:9/v1', batch 'off', retry_base '50ms', retry_max '10min', connect_timeout '1s')$f$, n);
			EXECUTE format($f$CREATE USER MAPPING FOR PUBLIC SERVER s%s OPTIONS (api_key 'k')$f$, n);
			PERFORM llm_batch.submit_prompts('{Nobody answers.}', 'gpt-6-luna', server => ('s' || n)::name, labels => '{"crowd": true}');
		END LOOP;
	END $$});
wait_until($node, q{SELECT count(DISTINCT job_id) > 200 FROM llm_batch.events WHERE labels ? 'crowd' AND kind IN ('slowed', 'held')}, 'hundreds of servers do not answer');
is(wait_job($node, prompts('alive', 3, 'realtime')), 'succeeded', 'among hundreds that do not answer one that does is as ever');
is(worker_pid($node), $pid, 'by the same worker');
is(sql($node, q{SELECT count(*) FROM llm_batch.progress WHERE labels ? 'crowd' AND (state NOT IN ('waiting', 'running') OR uncertain > 0)}), 0,
	'the others wait, and nothing is uncertain');
done_testing();
