# A short run of bench/soak: many small jobs from several sessions, in every
# way, while one in twenty requests, items and batches meets a fault.  All end,
# nothing is lost, nothing is paid twice without our knowing, tables stay small,
# and in the end all is quiet.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

plan skip_all => 'needs /proc' if !-r '/proc/self/status';

my $seconds = 12;
my $node = start_node(conf => [ "llm_batch.keep_prompts = 'forever'", "autovacuum_naptime = '5s'" ]);
my $sim = start_sim(options => { run_seconds => 0.3, poll_retry_after => 0 });

local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';
open my $soak, '-|', $sim->{python}, "$FindBin::RealBin/../../bench/soak.py", $sim->port, $seconds, $ENV{LLM_BATCH_SEED} // 1, 3
  or die "soak.py: $!";
while (my $line = <$soak>)
{
	chomp $line;
	if ($line =~ /^(ok|NOT OK) +(.*)/)
	{
		ok($1 eq 'ok', $2);
	}
	else
	{
		note($line);
	}
}
close $soak;
is($?, 0, 'it held');
done_testing();
