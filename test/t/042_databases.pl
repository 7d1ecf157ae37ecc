# A worker for each database that has work, found without a list of names; and
# out of the way of whoever needs a database, or the server, for himself.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A transfer below hangs for a minute.  Who does not wait for it is done in
# well under a second; the rest is for slow machines.
my $PROMPTLY = 3;

my $node = start_node(extension => 0, conf => [ "llm_batch.idle_timeout = '1s'", 'max_worker_processes = 16', 'max_prepared_transactions = 5' ]);
my $sim = start_sim();

sub db
{
	my ($name, $query, %opt) = @_;
	return $node->safe_psql($name, $query, %opt);
}

# The databases that have a worker.
sub workers
{
	return db('postgres', q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
}

sub wait_workers
{
	my ($expected, $name, $limit) = @_;
	my $until = time + ($limit // $LlmBatch::PATIENCE);

	my $found;

	sleep 0.05 while ($found = workers()) ne $expected && time < $until;
	return is($found, $expected, $name);
}

sub wait_state
{
	my ($db, $job, $state, $name) = @_;
	my $until = time + $LlmBatch::PATIENCE;
	my $said = '';

	do
	{
		sleep 0.05;
		$said = db($db, "SELECT state FROM llm_batch.progress WHERE job_id = $job");
	} while ($said ne $state && time < $until);
	return is($said, $state, $name);
}

# With a provider that takes an hour, and with the simulator.
sub create_database
{
	my ($name) = @_;

	db('postgres', "CREATE DATABASE $name");
	db($name, qq{
		CREATE EXTENSION llm_batch;
		CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', realtime_threshold '0', latency '1h');
		CREATE SERVER sim FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '${\$sim->base_url}',
			poll_min '50ms', poll_max '200ms', retry_base '50ms', retry_max '200ms', settle_time '1s', request_timeout '90s');
		CREATE USER MAPPING FOR PUBLIC SERVER sim OPTIONS (api_key 'sk-test');
		CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
		INSERT INTO articles SELECT n, 'Article ' || n || ' speaks. At length.' FROM generate_series(1, 20) n});
}

# A job whose first upload hangs for a minute, with the worker in it; its number.
sub hang
{
	my ($db) = @_;
	my $uploads = sub { return scalar(my @all = $sim->requests(method => 'POST', path => '/v1/files')) };
	my $seen = $uploads->();

	$sim->fault({ method => 'POST', path => '/v1/files', times => 1 }, { stall => 60 });
	my $job = db($db, q{SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')});
	my $until = time + $LlmBatch::PATIENCE;

	sleep 0.05 while $uploads->() == $seen && time < $until;
	cmp_ok($uploads->(), '>', $seen, "the worker of $db is in mid-transfer");
	return $job;
}

# ---- found without a list ----

create_database($_) foreach qw(one two three);
wait_workers('', 'no work, no workers');
my %job = map { $_ => db($_, q{SELECT llm_batch.submit_prompts('{One.,Two.}', 'mock', server => 'mock')}) } qw(one two three);
wait_state($_, $job{$_}, 'succeeded', "a job in database $_ is found") foreach qw(one two three);
wait_workers('', 'workers without work leave');
# work that was there before the server was
$job{$_} = db($_, q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow')}) foreach qw(one two);
wait_workers('one two', 'a worker for each database that has work');
$node->restart;
wait_workers('one two', 'after a restart as well');
$node->stop('immediate');
$node->start;
wait_workers('one two', 'and after a crash');
db($_, "SELECT llm_batch.cancel($job{$_})") foreach qw(one two);
wait_workers('', 'cancelled, they leave');

# ---- sweeps: for what no commit callback announces ----

$node->append_conf('postgresql.conf', "llm_batch.sweep_interval = '1s'");
$node->restart;
$job{one} = db('one', q{BEGIN; SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'mock'); PREPARE TRANSACTION 'p'});
$job{one} =~ s/\s.*//s;
is(db('one', "SELECT count(*) FROM llm_batch.progress WHERE job_id = $job{one}"), '0', 'a job is prepared');
db('one', q{COMMIT PREPARED 'p'});
wait_state('one', $job{one}, 'succeeded', 'a sweep finds the work of a prepared transaction');

# templates have none
create_database('model');
$job{model} = db('model', q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'mock')});
wait_state('model', $job{model}, 'succeeded', 'a database on its way to be a template');
db('postgres', 'ALTER DATABASE model IS_TEMPLATE true');
$job{model} = db('model', q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'mock')});
sleep 2.5;
is(db('model', "SELECT state FROM llm_batch.progress WHERE job_id = $job{model}"), 'waiting', 'once it is one, nothing works there, some sweeps later either');
db('postgres', 'ALTER DATABASE model IS_TEMPLATE false');
wait_state('model', $job{model}, 'succeeded', 'a template no more, it is swept again');
$node->append_conf('postgresql.conf', "llm_batch.sweep_interval = '5min'");
$node->restart;
wait_workers('', 'at rest');

# ---- out of the way, in mid-transfer ----

sub timed
{
	my ($name, $query) = @_;
	my $begin = time;

	db('postgres', $query);
	return cmp_ok(time - $begin, '<', $PROMPTLY, "$name in mid-transfer is done promptly");
}

hang('one');
timed('DROP DATABASE', 'DROP DATABASE one');
is(workers(), '', 'and its worker is gone');

$job{two} = hang('two');
timed('ALTER DATABASE ... RENAME', 'ALTER DATABASE two RENAME TO second');
wait_state('second', $job{two}, 'succeeded', 'the job goes on under the new name');
is(db('second', 'SELECT count(summary) FROM articles'), '20', 'with all its answers');

db('postgres', q{SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''});
db('second', 'UPDATE articles SET summary = NULL');
$job{second} = hang('second');
timed('ALTER DATABASE ... SET TABLESPACE', 'ALTER DATABASE second SET TABLESPACE elsewhere');
wait_state('second', $job{second}, 'succeeded', 'the job goes on in its new place');

$job{three} = hang('three');
timed('CREATE DATABASE ... TEMPLATE', 'CREATE DATABASE copy TEMPLATE three');
db('copy', q{CALL llm_batch.check_server('mock')});
wait_state('copy', $job{three}, 'paused', 'a copy does not spend when a worker comes to it');
is(db('copy', "SELECT reason FROM llm_batch.progress WHERE job_id = $job{three}"), 'restored', 'for it is one');
wait_state('three', $job{three}, 'succeeded', 'the job goes on in the original');
is(scalar(my @created = $sim->batches), 3, 'three batches were created: one for each job, none for the copy');
wait_workers('', 'at rest again', 10);
is(db('copy', "SELECT state FROM llm_batch.progress WHERE job_id = $job{three}"), 'paused', 'the copy is paused still');
db('copy', "SELECT llm_batch.cancel($job{three})");
wait_state('copy', $job{three}, 'cancelled', 'and can be cancelled');
db('postgres', 'DROP DATABASE copy');

# statements that fail, by whoever might have done them: the worker comes back
$job{three} = db('three', q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow')});
wait_workers('three', 'a worker is there');
foreach my $statement ('ALTER DATABASE three RENAME TO second', 'CREATE DATABASE second TEMPLATE three', 'BEGIN; DROP DATABASE three')
{
	my ($status) = $node->psql('postgres', $statement, on_error_stop => 1);

	isnt($status, 0, "this fails: $statement");
	wait_workers('three', 'and the worker is back', $PROMPTLY);
}

# nor can the worker be stopped by trying
db('postgres', q{
	CREATE ROLE nobody LOGIN;
	CREATE ROLE creator LOGIN CREATEDB});
my $pid = db('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
foreach my $role (qw(nobody creator))
{
	foreach my $statement ('DROP DATABASE three', 'ALTER DATABASE three RENAME TO mine', 'ALTER DATABASE three SET TABLESPACE pg_default', 'CREATE DATABASE mine TEMPLATE three')
	{
		my ($status, $out, $error) = $node->psql('postgres', $statement, extra_params => [ '-U', $role ]);

		like($error, qr/permission denied|must be owner/, "$role must not: $statement");
	}
	is(db('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}), $pid, "$role did not stop the worker by trying");
}
db('three', "SELECT llm_batch.cancel($job{three})");

# ---- DROP EXTENSION ----

hang('three');
my $begin = time;
db('three', 'DROP EXTENSION llm_batch CASCADE');
cmp_ok(time - $begin, '<', $PROMPTLY, 'DROP EXTENSION in mid-transfer is done promptly');
wait_workers('', 'and the worker goes', $PROMPTLY);
db('three', 'CREATE EXTENSION llm_batch');
$job{three} = db('three', q{SELECT llm_batch.submit_prompts('{One.}', 'mock')});
wait_state('three', $job{three}, 'succeeded', 'CREATE EXTENSION begins anew');
# while the worker is in the middle of many small things
db('three', q{SELECT llm_batch.submit_prompts(array_agg('Prompt ' || n), 'mock') FROM generate_series(1, 20000) n});
$begin = time;
db('three', 'DROP EXTENSION llm_batch CASCADE');
cmp_ok(time - $begin, '<', $PROMPTLY, 'DROP EXTENSION while answers are written is done promptly');
wait_workers('', 'and the worker goes again', 10);

# ---- switched off and on ----

$job{second} = hang('second');
$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->reload;
wait_workers('', 'llm_batch.enabled = off ends the worker in mid-transfer', $PROMPTLY);
my $next = db('second', q{SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'mock')});
sleep 0.5;
is(workers() . '|' . db('second', 'SELECT state FROM llm_batch.workers'), '|disabled', 'none is started meanwhile');
is(db('second', "SELECT state FROM llm_batch.progress WHERE job_id = $next"), 'waiting', 'jobs wait');
$node->append_conf('postgresql.conf', 'llm_batch.enabled = on');
$node->reload;
wait_state('second', $next, 'succeeded', 'switched on again, they go on');
wait_state('second', $job{second}, 'succeeded', 'also the one that was in mid-transfer');

# ---- fast shutdown ----

$job{second} = hang('second');
$begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', $PROMPTLY, 'a fast shutdown in mid-transfer is done promptly');
$node->start;
wait_state('second', $job{second}, 'succeeded', 'and the job goes on afterwards');

check_sim($sim);
done_testing();
