# Jobs that are removed: by forget(), and when their time is over.
#
#	nothing of a job is left but what it has cost			"forget"
#	others cannot, and nothing that still runs can be		"who may, and what"
#	costs and metrics say the same before and after			"money"
#	files at the provider are deleted first					"files"
#	each setting, and what holds a job						"retention"
#	a database where nobody works; idle means idle			"idle"
#	a worker that dies in the middle						"crashes"
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $orders = PostgreSQL::Test::Utils::tempdir('crash') . '/orders';
my $node = start_node(
	conf => [
		'llm_batch.idle_timeout = 1h', 'llm_batch.sweep_interval = 1s', "llm_batch.crash_file = '$orders'", 'llm_batch.keep_prompts = forever',
		'restart_after_crash = on', 'autovacuum = off', 'checkpoint_timeout = 1h', 'bgwriter_lru_maxpages = 0', 'jit = off' ]);

sql($node, q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT pg_monitor TO bob;
	CREATE SERVER quick FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', poll_min '10ms');
	CREATE SERVER failing FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', failure_rate '1', max_attempts '1', fallback 'none');
	CREATE SERVER half FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', failure_rate '0.5', seed '7', max_attempts '1', fallback 'none');
	CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '1h', poll_min '50ms', poll_max '100ms');
	GRANT USAGE ON FOREIGN SERVER quick, failing, half, slow TO PUBLIC;
	INSERT INTO llm_batch.model (api, name, input, output, batch_input, batch_output) VALUES ('mock', 'm', 0.25, 1.5, 0.5, 0.5)});

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

# "SQLSTATE: message", and the hint on a line of its own.
sub refused
{
	my ($role, $query) = @_;
	my ($status, $out, $error) = $node->psql('postgres', $query, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	my ($message) = $error =~ /ERROR:  (.*)/ or return "no error: $out";
	my ($hint) = $error =~ /HINT:  (.*)/;
	return join "\n", $message, $hint // ();
}

# So many prompts as one job of its own, that has ended; %arg is submit's.
sub ended
{
	my ($count, %arg) = @_;
	my $wants = delete $arg{ends} // 'succeeded';
	my $role = delete $arg{role} // 'alice';

	$arg{server} //= 'quick';
	my $list = join '', map { ", $_ => " . quote($arg{$_}) } sort { $a cmp $b } keys %arg;
	my $job = as($role, qq{SELECT llm_batch.submit_prompts(
		ARRAY(SELECT 'Tell me about number ' || n || ', please.' FROM generate_series(1, $count) n), 'm', mode => 'batch'$list)});
	my $state = wait_job($node, $job);

	is($state, $wants, "job $job ends $wants") or explain_job($node, $job) if $state ne $wants;
	return $job;
}

# Tables of ours that have a row of the job: "table count, ...".
my @tables = split /\n/, sql($node, q{
	SELECT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
	WHERE table_schema = 'llm_batch' AND column_name = 'job_id' AND table_type = 'BASE TABLE' AND table_name <> 'spending' ORDER BY 1});

sub rows_of
{
	my (@jobs) = @_;
	my $list = join ', ', @jobs;

	return sql($node, "SELECT string_agg(name || ' ' || count, ', ' ORDER BY name) FROM (" . join(' UNION ALL ',
		"SELECT 'job' AS name, count(*) FROM llm_batch.job WHERE id IN ($list)",
		map { "SELECT '$_', count(*) FROM llm_batch.$_ WHERE job_id IN ($list)" } @tables) . ') t WHERE count > 0');
}

sub gone
{
	my ($name, @jobs) = @_;
	my $list = join ', ', @jobs;

	return if !wait_until($node, "SELECT count(*) = 0 FROM llm_batch.job WHERE id IN ($list)", "$name: gone");
	is(rows_of(@jobs), '', "$name: nothing of it is left");
}

# What outlives a job, by the sums that people look at.
sub money
{
	return sql($node, 'SELECT to_json(c) FROM llm_batch.costs c ORDER BY c::text')
	  . "\n" . sql($node, q{SELECT name, labels, value FROM llm_batch.metrics WHERE name ~ '_total$|usd' AND name !~ 'calls' ORDER BY name, labels::text});
}

# ---- no table is forgotten ----

# A new table with rows of jobs has a line in store_forget.c, and whatever has
# rows at all a line in docs/ARCHITECTURE.md that says why they do not grow
# without end.
{
	my $top = "$FindBin::RealBin/../..";
	my $source = slurp_file("$top/src/store_forget.c");
	my ($bounds) = slurp_file("$top/docs/ARCHITECTURE.md") =~ /^### What bounds each table\n(.*?)^##/ms;

	is(join(' ', grep { $_ ne 'leftover' && $source !~ /BY_(JOB|ORDINAL)\("$_"\)/ } @tables), '', 'every table with rows of jobs is in store_forget.c');
	is(join(' ', grep { $bounds !~ /^\|[^|]*`$_`/m } split /\n/, sql($node, q{
		SELECT relname FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace AND relkind = 'r' ORDER BY 1})), '',
		'and every table has its bound in docs/ARCHITECTURE.md');
}

# ---- forget ----

cmp_ok(scalar(@tables), '>=', 10, 'tables with rows of jobs: ' . join(' ', @tables));
my $kept = ended(5, request_key => 'kept');
my $job = ended(1200, request_key => 'again', labels => '{"for": "forget"}');
like(rows_of($job), qr/answer 1200, batch 1, event \d+, item 1200, job 1, job_def 1, prompt 1200, result 1200/, 'a job has rows');
my ($before, $others) = (money(), rows_of($kept));
is(as('alice', "SELECT llm_batch.forget($job)"), '', 'forget returns nothing');
gone('forgotten', $job);
is(money(), $before, 'costs and metrics are what they were');
is(rows_of($kept), $others, 'so are other jobs');
like($before, qr/"for": ?"forget"/, 'which they do tell of');
is(sql($node, "SELECT count(*) FROM llm_batch.progress WHERE job_id = $job"), '0', 'it is not in progress any more');
like(refused('alice', "SELECT llm_batch.forget($job)"), qr/^42704: job $job does not exist/, 'nor for forget');
my $again = ended(2, request_key => 'again');
isnt($again, $job, 'its request_key is free again');

# ---- who may, and what ----

is(refused('bob', "SELECT llm_batch.forget($kept)"), refused('bob', "SELECT llm_batch.cancel($kept)"), 'who only sees the numbers is refused as for cancel');
like(refused('bob', "SELECT llm_batch.forget($kept)"), qr/^42704: job $kept does not exist/, 'which says no more than that');
my $slow = as('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'm', server => 'slow', mode => 'batch')});
wait_until($node, "SELECT state = 'running' FROM llm_batch.progress WHERE job_id = $slow");
like(refused('alice', "SELECT llm_batch.forget($slow)"), qr/^55000: job $slow cannot be forgotten: it is running\n.*cancel\($slow\)/, 'a running job is not forgotten: cancel it first');
is(refused('alice', 'SELECT llm_batch.forget(NULL)'), 'no error: ', 'of NULL nothing is forgotten');
like(refused('alice', 'BEGIN READ ONLY; SELECT llm_batch.forget(1)'), qr/^25006: /, 'nor in a read-only transaction');
is(sql($node, "BEGIN; SELECT llm_batch.forget($kept); ROLLBACK; SELECT count(*) FROM llm_batch.command"), "\n0", 'a rollback takes it back');

# What was asked and is not done yet shows, and stands in the way of others.
sql($node, 'ALTER SYSTEM SET llm_batch.enabled = off; SELECT pg_reload_conf()');
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker leaves');
as('alice', "SELECT llm_batch.forget($kept)");
is(sql($node, "SELECT state, reason FROM llm_batch.progress WHERE job_id = $kept"), 'succeeded|is being forgotten', 'progress says so at once');
foreach my $verb (qw(retry apply))
{
	like(refused('alice', "SELECT llm_batch.$verb($kept)"), qr/^55000: job $kept cannot be .*: it is being forgotten/, "$verb is too late then");
}
like(refused('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'm', server => 'quick', request_key => 'kept')}),
	qr/^55006: request_key "kept" belongs to job $kept, which is being forgotten/, 'its request_key is neither its own nor free');
my (undef, undef, $notice) = $node->psql('postgres', "SELECT llm_batch.forget($kept)");
like($notice, qr/NOTICE:  job $kept is being forgotten already/, 'to ask twice is no error');
is(sql($node, "SELECT count(*) FROM llm_batch.command WHERE job_id = $kept"), '1', 'and asks once');
my $follow = q{INSERT INTO llm_batch.afterwards (job_id, verb, state, not_before) VALUES (%d, 'on_success', 'succeeded', 'infinity')};
sql($node, sprintf $follow, $again);
like(refused('alice', "SELECT llm_batch.forget($again)"), qr/^55006: job $again cannot be forgotten: on_success is still to run/, 'one whose on_success has not run is needed');
sql($node, "DELETE FROM llm_batch.afterwards WHERE job_id = $again");
# one that another began to wait for meanwhile
my $second = as('alice', q{SELECT llm_batch.submit_prompts('{Two.}', 'm', server => 'slow', mode => 'batch')});
sql($node, qq{UPDATE llm_batch.job SET after = $again, state = 'paused' WHERE id = $second});
like(refused('alice', "SELECT llm_batch.forget($again)"), qr/^55006: job $again cannot be forgotten: job $second waits for it/, 'nor one that another job waits for');
sql($node, qq{INSERT INTO llm_batch.command (job_id, verb, given_by) VALUES ($again, 'forget', 'alice')});
sql($node, 'ALTER SYSTEM RESET llm_batch.enabled; SELECT pg_reload_conf()');
gone('asked for while nobody worked', $kept);
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.command', 'commands are done');
like(sql($node, "SELECT message FROM llm_batch.events WHERE job_id = $again AND kind = 'not_obeyed'"), qr/but job $second waits for it/, 'the worker looks once more, and says so');
as('alice', "SELECT llm_batch.cancel($_)") foreach $slow, $second;
is(wait_job($node, $_), 'cancelled', "job $_ is cancelled") foreach $slow, $second;
as('alice', "SELECT llm_batch.forget($again), llm_batch.forget($second), llm_batch.forget($slow)");
gone('three at once', $again, $second, $slow);
is(sql($node, 'SELECT count(*) FROM llm_batch.job'), '0', 'no job is left');

# ---- money ----

# One row for all jobs that are alike, whatever their number.
my @like = map { ended(1 + $_ % 3, labels => '{"team": "a", "n": 1.0}') } 1 .. 6;
my $labelled = ended(3, labels => '{"team": "b"}');
my $other = ended(3, role => 'bob', labels => '{"team": "a", "n": 1.0}');
my $lost = ended(4, server => 'failing', ends => 'failed', labels => '{"team": "a", "n": 1.0}');
$before = money();
my $rows = sql($node, q{SELECT count(*) FROM llm_batch.spending WHERE labels ? 'team'});
sql($node, "UPDATE llm_batch.spending SET day = day - 1 WHERE job_id = $like[0]");
$before = money();
sql($node, "SELECT llm_batch.forget(id) FROM llm_batch.job");
gone('all', @like, $labelled, $other, $lost);
is(money(), $before, 'costs and metrics are the same when all jobs are forgotten');
cmp_ok($rows, '>=', 8, "rows of spending: $rows");
is(sql($node, q{SELECT count(*), bool_and(job_id < 0) FROM llm_batch.spending WHERE labels ? 'team' AND server = 'quick'}), '4|t',
	'one row for each day, owner, server, model, mode and labels');
ok(sql($node, q{SELECT sum(cost) > 0 FROM llm_batch.spending}) eq 't', 'and it is about money');
# another day's jobs come upon these rows again
my $more = ended(2, labels => '{"team": "a", "n": 1.0}');
$before = money();
sql($node, "SELECT llm_batch.forget($more)");
gone('one more', $more);
is(money(), $before, 'the next one is added to them');
is(sql($node, q{SELECT count(*) FROM llm_batch.spending WHERE labels ? 'team' AND server = 'quick'}), '4', 'and makes no row of its own');

# Of old ones months are enough, where somebody says so.
sub by_model
{
	return sql($node, q{SELECT owner, server, model, sum(attempts), sum(input_tokens), sum(output_tokens), sum(cost), sum(real_time_cost), sum(saved), sum(saved_batch)
		FROM llm_batch.costs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3})
	  . $before =~ s/^\{.*\n//mgr;
}

sql($node, q{UPDATE llm_batch.spending SET day = CASE WHEN labels = '{}' THEN date_trunc('month', day - 500)::date ELSE date_trunc('month', day - 500)::date + 10 + (day = current_date)::int END});
$before = money();
my $sums = by_model();
sql($node, q{ALTER SYSTEM SET llm_batch.keep_daily_costs = '600d'; SELECT pg_reload_conf()});
sleep 1.5;
is(money(), $before, 'costs that are not that old stay as they are');
sql($node, q{ALTER SYSTEM SET llm_batch.keep_daily_costs = '400d'; SELECT pg_reload_conf()});
wait_until($node, 'SELECT bool_and(monthly) FROM llm_batch.spending', 'older ones are summed up by month');
$before = money();
is(by_model(), $sums, 'which changes no sum');
is(sql($node, q{SELECT count(DISTINCT day), bool_and(extract(day FROM day) = 1 AND labels = '{}'), count(*) = count(DISTINCT (owner, server, model, mode)) FROM llm_batch.spending}), '1|t|t',
	'and leaves one row for each owner, server, model and mode');
$more = ended(2);
sql($node, "UPDATE llm_batch.spending SET day = day - 500 WHERE job_id = $more; SELECT llm_batch.forget($more)");
gone('one of that time', $more);
wait_until($node, 'SELECT bool_and(monthly) FROM llm_batch.spending', 'it is added to that row');
is(sql($node, 'SELECT count(*) = count(DISTINCT (owner, server, model, mode)) FROM llm_batch.spending'), 't', 'and makes none');

# ---- files ----

# A request file that the provider does not delete yet: what that takes stays.
my $sim = start_sim();
create_server($node, $sim, retry_base => '500ms', retry_max => '1s');
create_articles($node, 20);
my @fault = ({ method => 'DELETE', path => '^/v1/files/', times => 2 }, { status => 500 });
$sim->fault(@fault);
$job = submit($node, target => 'summary');
is(wait_job($node, $job), 'succeeded', 'a job over HTTP');
sql($node, "SELECT llm_batch.forget($job)");
wait_until($node, "SELECT count(*) = 0 FROM llm_batch.answer WHERE job_id = $job", 'its texts go at once');
is(rows_of($job) =~ s/event \d+, //r, 'batch 1, job 1, leftover 1', 'what the deletion of its file needs stays');
is(sql($node, "SELECT state, reason FROM llm_batch.progress WHERE job_id = $job"), 'succeeded|is being forgotten', 'which progress tells');
gone('when its file is deleted', $job);
is(scalar(my @files = grep { $_->{method} eq 'DELETE' && $_->{status} == 200 } $sim->requests), 1, 'it was deleted');
check_sim($sim);

# ---- retention ----

# Ends as if so long ago.
sub ended_ago
{
	my ($ago, @rest) = @_;
	my $job = ended(@rest);

	sql($node, "UPDATE llm_batch.job SET finished_at = now() - interval '$ago' WHERE id = $job");
	return $job;
}

sub set
{
	my (%values) = @_;

	sql($node, join '', map { "ALTER SYSTEM SET llm_batch.$_ = '$values{$_}';\n" } sort keys %values);
	sql($node, 'SELECT pg_reload_conf()');
}

# Two looks have begun and ended since now.
sub looks
{
	sleep 2.2;
}

sub there
{
	my (@jobs) = @_;
	return sql($node, 'SELECT string_agg(id::text, \' \' ORDER BY id) FROM llm_batch.job WHERE id IN (' . join(', ', @jobs) . ')');
}

is(sql($node, q{SELECT string_agg(name || ' ' || boot_val || ' ' || unit || ' ' || context, ', ' ORDER BY name) FROM pg_settings WHERE name ~ '^llm_batch.keep_.*_jobs$'}),
	join(', ', map { "llm_batch.keep_$_ min sighup" } 'cancelled_jobs -1', 'failed_jobs -1', 'partial_jobs -1', 'succeeded_jobs -1', 'task_jobs 43200'),
	'by default answers are kept for ever, but not all of what tasks do by themselves');
my %old = (
	succeeded => ended_ago('100 days', 3),
	partial => ended_ago('100 days', 8, server => 'half', ends => 'partial'),
	failed => ended_ago('100 days', 3, server => 'failing', ends => 'failed'),
	cancelled => as('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'm', server => 'slow', mode => 'batch')}));
as('alice', "SELECT llm_batch.cancel($old{cancelled})");
is(wait_job($node, $old{cancelled}), 'cancelled', 'one is cancelled');
sql($node, "UPDATE llm_batch.job SET finished_at = now() - interval '100 days' WHERE id = $old{cancelled}");
looks();
is(there(values %old), join(' ', sort { $a <=> $b } values %old), 'nothing goes by itself');
my @young = (ended_ago('80 days', 2), ended_ago('80 days', 2, server => 'failing', ends => 'failed'));
foreach my $state (qw(failed cancelled partial succeeded))
{
	my %left = %old;

	delete $left{$state};
	set("keep_${state}_jobs" => '90d');
	gone("keep_${state}_jobs", $old{$state});
	is(there(values %old), join(' ', sort { $a <=> $b } values %left), 'the others stay') if %left;
	%old = %left;
}

is(there(@young), "@young", 'those that ended later stay');

# Retried, it ends anew.
set(keep_failed_jobs => -1);
$job = ended_ago('100 days', 3, server => 'failing', ends => 'failed');
sql($node, 'ALTER SERVER failing OPTIONS (SET failure_rate \'0\')');
set(keep_succeeded_jobs => '90d');
as('alice', "SELECT llm_batch.retry($job)");
is(wait_job($node, $job), 'succeeded', 'a job is retried');
looks();
is(there($job), $job, 'its time begins with its new end');
is(there(@young), "@young", 'and those that ended later are still there');

# What holds a job.
my %held = map { $_ => ended(1) } qw(after foreign task dropped follow);
my $waiting = as('alice', q{SELECT llm_batch.submit_prompts('{One.}', 'm', server => 'slow', mode => 'batch')});
sql($node, qq{
	UPDATE llm_batch.job SET finished_at = now() - interval '91 days' WHERE finished_at IS NOT NULL;
	UPDATE llm_batch.job SET after = $held{after}, started_at = NULL WHERE id = $waiting;
	UPDATE llm_batch.job SET system_identifier = 4711 WHERE id = $held{foreign};
	UPDATE llm_batch.job SET attachment_id = 99 WHERE id IN ($held{task}, $held{dropped});
	INSERT INTO llm_batch.task_item (attachment_id, key, prompt_hash, job_id, ordinal, version) VALUES (99, 'k', 0, $held{task}, 1, 1);}
	. sprintf $follow, $held{follow});
gone('held by nothing', $job, $young[0]);
gone('of a task, and nobody\'s newest answer', delete $held{dropped});
looks();
is(there(values %held), join(' ', sort { $a <=> $b } values %held),
	'a job stays that another waits for, whose on_success has not run, that came with a dump of late, or that has the newest answer of a task\'s row');
sql($node, "UPDATE llm_batch.home SET since = now() - interval '91 days'");
sql($node, "DELETE FROM llm_batch.task_item WHERE job_id = $held{task}");
as('alice', "SELECT llm_batch.cancel($waiting)");
sql($node, "UPDATE llm_batch.afterwards SET error = 'it failed' WHERE job_id = $held{follow}");
gone("held by nothing any more: $_", $held{$_}) foreach sort keys %held;

# ---- idle ----

is(wait_job($node, $waiting), 'cancelled', 'nobody has anything to do');
set(keep_cancelled_jobs => '90d', keep_failed_jobs => '90d', keep_partial_jobs => '90d');
$kept = ended(3);
# held, and looked at each time
my $held = ended(1);
sql($node, qq{
	UPDATE llm_batch.job SET attachment_id = 99, finished_at = now() - interval '91 days' WHERE id = $held;
	INSERT INTO llm_batch.task_item (attachment_id, key, prompt_hash, job_id, ordinal, version) VALUES (99, 'k', 0, $held, 1, 1)});
sleep 1;
$node->safe_psql('template1', 'VACUUM');
sql($node, 'VACUUM; CHECKPOINT');
sleep 0.5;
my $wal = sub { return $node->safe_psql('template1', 'SELECT pg_current_wal_insert_lsn()') };
my $from = $wal->();
sleep 3;
is($wal->(), $from, 'to look for jobs whose time is over writes nothing');
isnt(worker_pid($node), '', 'while a worker is there');
is(there($held), $held, 'and one is that may not go');

# Where nobody works, the launcher sees to it.
set(idle_timeout => '1s');
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker leaves, however often it looks');
sql($node, "UPDATE llm_batch.job SET finished_at = now() - interval '91 days' WHERE id = $kept");
gone('in a database where nobody works', $kept);
sql($node, "DELETE FROM llm_batch.task_item WHERE attachment_id = 99");
gone('so does the other', $held);
set(idle_timeout => '1h', keep_succeeded_jobs => -1);

# ---- crashes ----

# The next worker goes on where this one stopped, each time; after an error it
# is the same one, a while later.
sub order
{
	PostgreSQL::Test::Utils::append_to_file($orders, join '', map { "$_\n" } @_);
}

foreach my $point ('kill 2 forgetting jobs: commit', 'kill 2 forgetting jobs: committed', 'exit forgetting jobs: committed', 'stop 2 forgetting jobs: committed',
	'error 2 forgetting jobs: commit', 'kill obeying a command: commit', 'kill obeying a command: committed')
{
	my @jobs = (ended(4000), ended(10));

	$kept = ended(2);
	$before = money();
	$others = rows_of($kept);
	order($point);
	my ($status) = $node->psql('postgres', 'SELECT llm_batch.forget(' . join('), llm_batch.forget(', @jobs) . ')');
	if ($point =~ /^stop/)
	{
		my $until = time + $LlmBatch::PATIENCE;

		sleep 0.1 while -s $orders && time < $until;
		sleep 0.5;
		$node->_update_pid(0) if $node->can('_update_pid');
		$node->start;
	}
	else
	{
		my $until = time + $LlmBatch::PATIENCE;

		sleep 0.1 while time < $until && ($node->psql('postgres', 'SELECT 1', timeout => 10) // 1) != 0;
	}
	$node->poll_query_until('postgres', 'SELECT true');
	gone($point, @jobs);
	is(-s $orders // 0, 0, 'it was passed');
	is(money(), $before, 'and money is what it was');
	is(rows_of($kept), $others, 'as are other jobs');
}

# ---- restored ----

# The time of jobs that come with a dump begins with the restore; what was
# being removed when it was made is removed.
{
	my $dump = $node->basedir . '/dump.sql';
	my ($half, $old) = (ended(4000), ended(3));
	my $new = start_node(name => 'new', extension => 0, conf => [ 'llm_batch.sweep_interval = 1s', 'llm_batch.keep_succeeded_jobs = 1d' ]);

	sql($node, "UPDATE llm_batch.job SET finished_at = now() - interval '90 days' WHERE id = $old");
	order('exit forgetting jobs: committed');
	sql($node, "ALTER SYSTEM SET llm_batch.enabled = on; SELECT llm_batch.forget($half)");
	wait_until($node, "SELECT count(*) < 4000 FROM llm_batch.item WHERE job_id = $half", 'a removal has begun');
	sql($node, 'ALTER SYSTEM SET llm_batch.enabled = off; SELECT pg_reload_conf()');
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'the worker leaves');
	is(sql($node, "SELECT forgotten_at IS NOT NULL FROM llm_batch.job WHERE id = $half"), 't', 'and has not ended');
	command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
	sql($new, 'CREATE ROLE alice; CREATE ROLE bob');
	$new->psql('postgres', slurp_file($dump), on_error_stop => 0);
	$before = money();
	$node = $new;
	gone('restored halfway', $half);
	looks();
	is(there($old), $old, 'one that ended long ago stays, by the restored database\'s own setting');
	is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $old"), '3', 'with all that it has');
	is(money(), $before, 'and costs are what they were');
	sql($node, "UPDATE llm_batch.home SET since = now() - interval '25 hours'");
	gone('a day after the restore', $old);
}

done_testing();
