# 50,000 items of 4 kB, one batch of 200 MB: the worker's memory stays where
# it is, while the file is written, sent, and its results are read.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'needs /proc' if !-r '/proc/self/status';

my $count = 50_000;
my $limit_kb = 64 * 1024;

# Shared memory that a process has touched counts as its own: keep that small.
my $node = start_node(conf => [ 'shared_buffers = 16MB', 'max_wal_size = 4GB', 'autovacuum = off' ]);
my $sim = start_sim();

create_server($node, $sim, poll_max => '500ms', request_timeout => '120s');

# A first job, so that libraries are loaded and caches filled.
create_articles($node, 100, name => 'few');
is(wait_job($node, submit($node, source => 'few', target => 'summary')), 'succeeded', 'a small job succeeds');
my $pid = worker_pid($node);
my $before = rss_kb($pid);
cmp_ok($before, '>', 0, "the worker begins with $before kB");

create_articles($node, $count, bytes => 4000);
my $begin = time;
my $job = submit($node, target => 'summary');
note(sprintf 'submit: %.1f s', time - $begin);
is(worker_pid($node), $pid, 'the same worker');

my ($most, $samples, $state, $look) = ($before, 0, 'running', 0);
my %most;
while (time < $begin + 5 * $LlmBatch::PATIENCE)
{
	my $kb = rss_kb($pid) // last;

	$most = $kb if $kb > $most;
	$samples++;
	# looking costs more than sampling
	if ($samples % 20 == 0)
	{
		$state = sql($node, "SELECT state FROM llm_batch.progress WHERE job_id = $job");
		my $doing = sql($node, "SELECT string_agg(DISTINCT state, ' ') FROM llm_batch.batches WHERE job_id = $job");
		$most{$doing} = $kb if $kb > ($most{$doing} // 0);
		last if $state ne 'running' && $state ne 'waiting';
	}
	sleep 0.02;
}
note(sprintf '%.1f s; %s', time - $begin, join ', ', map { "$_: $most{$_} kB" } sort keys %most);
is($state, 'succeeded', 'the large job succeeds') or explain_job($node, $job);
is(worker_pid($node), $pid, 'the worker was the same all the time');
cmp_ok($samples, '>', 100, "its memory was looked at $samples times");
cmp_ok($most - $before, '<=', $limit_kb, sprintf('its memory moved by %.1f MB', ($most - $before) / 1024));

# No timed test, but what is quadratic would take minutes.
my $reading = sql($node, "SELECT extract(epoch FROM max(finalized_at - ended_at)) FROM llm_batch.batches WHERE job_id = $job");
cmp_ok($reading, '<', 60, sprintf('reading the results took %.1f s', $reading));

check_job($node, $job);
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), $count, 'every row has its answer');
my ($batch, @more) = map { $_->{total} } grep { $_->{total} > 100 } $sim->batches;
is($batch + ($more[0] // 0), $count, 'all went in one batch, or two where 200 MB were not enough');
check_sim($sim);

done_testing();
