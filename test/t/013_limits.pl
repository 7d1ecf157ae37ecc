# What a server allows: requests and bytes of a batch, batches at a time; and
# many jobs on one server.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(max sum);
use LlmBatch;
use Test::More;

my $node = start_node();
my $sim = start_sim();
my $count = 200;

create_server($node, $sim);
create_articles($node, $count);

sub begin
{
	my ($name, $options) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'UPDATE articles SET summary = NULL');
	sql($node, "ALTER SERVER sim OPTIONS ($options)");
}

# How many batches of the simulator lived at the same moment.
sub most_at_a_time
{
	my ($most, $now) = (0, 0);
	my @moments;

	foreach my $batch ($sim->batches)
	{
		push @moments, [ $batch->{times}{validating}, 1 ], [ max(values %{ $batch->{times} }), -1 ];
	}
	# an end and a beginning at the same moment: the end first
	foreach (sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] } @moments)
	{
		$now += $_->[1];
		$most = max($most, $now);
	}
	return $most;
}

sub check
{
	my ($name, @jobs) = @_;

	foreach my $job (@jobs)
	{
		is(wait_job($node, $job), 'succeeded', "$name: job $job succeeded");
		check_job($node, $job, $name);
	}
	check_sim($sim, "$name: the simulator is content");
}

# ---- requests and bytes ----

begin('max_batch_requests', q{ADD max_batch_requests '30'});
check('max_batch_requests', submit($node, target => 'summary'));
is(join(' ', sort { $b <=> $a } map { $_->{total} } $sim->batches), '30 30 30 30 30 30 20', 'max_batch_requests: full batches, and the rest');
check_prompts_ran_once($sim, $count);
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, 'max_batch_requests: every row has its answer');

begin('max_batch_bytes', q{DROP max_batch_requests, ADD max_batch_bytes '8kB'});
check('max_batch_bytes', submit($node, target => 'summary'));
my @bytes = map { $_->{bytes} } grep { $_->{uploaded} } $sim->files;
cmp_ok(max(@bytes), '<=', 8192, 'max_batch_bytes: no file is larger');
cmp_ok(sum(@bytes) / @bytes, '>', 7000, 'max_batch_bytes: and they are well filled');
check_prompts_ran_once($sim, $count);

# One prompt that is too large for any batch is refused at submit.
sql($node, q{INSERT INTO articles VALUES (1001, repeat('Much too long. ', 700))});
my (undef, undef, $stderr) = $node->psql('postgres',
	q{SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'gpt-6-luna', 'summary', server => 'sim', mode => 'batch')});
like($stderr, qr/ERROR:  the prompt for key 1001 is too long: .*DETAIL:.*max_batch_bytes of server "sim" is 8192.*HINT:/s, 'one too large: submit says which, why and what to do');
sql($node, 'DELETE FROM articles WHERE id = 1001');

# The provider takes less than we thought: what it refuses is cut in two, until
# it fits.
begin('status 413', q{DROP max_batch_bytes});
$sim->options(max_file_bytes => 8192);
my $job = submit($node, target => 'summary');
check('status 413', $job);
cmp_ok(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'split'"), '>', 1, 'status 413: the history says so');
is($sim->summary->{realtime_calls}, 0, 'status 413: nothing goes at the full price');
check_prompts_ran_once($sim, $count);

# What that has taught is known to the next worker, too; for a day.
is(sql($node, q{SELECT count(*) FROM llm_batch.calibration WHERE server = 'sim' AND max_batch_bytes BETWEEN 2000 AND 8192}), 1, 'status 413: the size that goes is noted');
begin('status 413, again', q{ADD max_active_batches '8'});
$sim->options(max_file_bytes => 8192);
sql($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
check('status 413, again', submit($node, target => 'summary'));
is(scalar(grep { ($_->{status} // 0) == 413 } $sim->requests(method => 'POST', path => '/v1/files')), 0, 'status 413, again: nothing is refused any more');
sql($node, 'UPDATE llm_batch.calibration SET max_batch_bytes = NULL');

# ---- batches at a time ----

begin('max_active_batches', q{ADD max_batch_requests '20', SET max_active_batches '3'});
$sim->options(run_seconds => 0.4);
check('max_active_batches', submit($node, target => 'summary'));
is(most_at_a_time(), 3, 'max_active_batches: three at a time, no more and no less');
check_prompts_ran_once($sim, $count);

begin('max_active_batches 1', q{SET max_active_batches '1'});
$sim->options(run_seconds => 0.05);
check('max_active_batches 1', submit($node, target => 'summary'));
is(most_at_a_time(), 1, 'max_active_batches 1: one after the other');
cmp_ok(max(values %{ $sim->summary->{max_concurrent} }), '<=', 1, 'max_active_batches 1: one call at a time of each kind');

# ---- many jobs ----

begin('many jobs', q{SET max_active_batches '4', SET max_batch_requests '15'});
my @jobs = map { submit($node, filter => "id % 10 = $_") } 0 .. 9;
check('many jobs', @jobs);
cmp_ok(most_at_a_time(), '<=', 4, 'many jobs: they share max_active_batches');
check_prompts_ran_once($sim, $count, 'many jobs: each prompt ran once');
is( sql($node, 'SELECT count(*) FROM llm_batch.results WHERE job_id IN (' . join(',', @jobs) . q{) AND answer = 'Summarise: Article ' || key || ' speaks.'}),
	$count, 'many jobs: each item has its own answer');

# Priority: the higher goes first, whichever came first.
begin('priority', q{SET max_active_batches '1', SET max_batch_requests '50'});
$node->append_conf('postgresql.conf', 'llm_batch.enabled = off');
$node->reload;
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'}, 'nobody works');
my %job = map { $_ => submit($node, priority => $_, filter => 'id <= 50') } 0, 5, -5, 9;
$node->adjust_conf('postgresql.conf', 'llm_batch.enabled', 'on');
$node->reload;
check('priority', values %job);
is( sql($node, 'SELECT string_agg(j.priority::text, $$ $$ ORDER BY b.submitted_at) FROM llm_batch.batch b JOIN llm_batch.job j ON j.id = b.job_id WHERE j.id IN (' . join(',', values %job) . ')'),
	'9 5 0 -5', 'priority: the highest first');

# A job on a server that is out of order does not hold up those of others.
begin('two servers', q{SET max_active_batches '20', SET max_batch_requests '50'});
my $other = start_sim();
create_server($node, $other, name => 'other', request_timeout => '2s');
$other->fault({}, { stall_before => 60 });
my $stuck = submit($node, server => 'other', filter => 'id <= 50');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $stuck AND state = 'uploading'", 'one provider is silent');
my $fine = submit($node, target => 'summary');
is(wait_job($node, $fine, limit => 15), 'succeeded', 'two servers: the other goes on');
is(sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $stuck"), 'running', 'two servers: the one still waits');
sql($node, "SELECT llm_batch.cancel($stuck)");
is(wait_job($node, $stuck, limit => 10), 'cancelled', 'two servers: and can be cancelled');

done_testing();
