# Real providers, real keys, at most a cent: see README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../t";
use Live;
use LlmBatch;
use Test::More;

my @apis = Live::providers();
plan skip_all => 'no key in ' . join(', ', map { $Live::PROVIDER{$_}{key} } sort keys %Live::PROVIDER) if !@apis;

foreach my $api (sort keys %Live::PROVIDER)
{
	next if grep { $_ eq $api } @apis;
  SKIP: { skip "$api: no key in $Live::PROVIDER{$api}{key}", 1 }
}
Live::check(start_node(), @apis);
done_testing();
