# The smoke test with real keys (test/live), against the simulator: what it
# sends, that it keeps to its cent, and that it shows no key.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../live";
use Live;
use LlmBatch;
use PostgreSQL::Test::Utils ();
use Test::More;

my $sim = start_sim();
my @apis = sort keys %Live::PROVIDER;

foreach my $name (grep { /^LLM_BATCH_LIVE_/ } keys %ENV) { delete $ENV{$name} }
foreach my $api (@apis)
{
	$ENV{ $Live::PROVIDER{$api}{key} } = "secret-of-$api";
	$ENV{ 'LLM_BATCH_LIVE_' . uc($api) . '_URL' } = $sim->base_url($api);
}
# numbers of a simulator are anything; a review has one to five stars
$sim->rule({ mode => 'any' }, items => [ { do => { answer => { mood => 'undecided', stars => 3, summary => 'It is so.' } } } ]);

($Live::POLL_MIN, $Live::POLL_MAX) = ('50ms', '200ms');

is(join(' ', Live::providers()), join(' ', @apis), 'every provider has a key');
my $node = start_node();
my $spent = Live::check($node, @apis);
cmp_ok($spent, '>', 0, 'it cost something');
cmp_ok($spent, '<=', 0.01, 'a cent at most');
cmp_ok(abs($spent - $sim->call('GET', 'bill')->{usd}), '<', 1e-12, 'which is the bill');
my $summary = $sim->summary;
is("@$summary{qw(batches_created requests_run realtime_calls)}", '3 6 3', 'three requests to each provider: one, and a batch of two');
check_sim($sim);

# ---- too dear ----

$sim->reset;
$node->stop;
{
	local $ENV{LLM_BATCH_LIVE_OPENAI_MODEL} = 'gpt-6-sol';
	local $Live::MOST = 0.001;
	my $other = start_node(name => 'dear');

	Live::create($other, 'openai');
	cmp_ok(Live::forecast($other, 'openai'), '>', 0.001, 'a model that is too dear is known to be');
	my $failed = 0;
	{
		# it fails, as it should; that is not our failure
		no warnings 'redefine';
		local *Live::fail = sub { $failed++; note("it said: $_[0]") };
		local *Live::create = sub { };
		is(Live::check($other, 'openai'), 0, 'nothing is spent');
	}
	is($failed, 1, 'it refuses');
	is(scalar(my @none = $sim->requests(method => 'POST')), 0, 'and sends nothing');
}

# ---- no key ----

{
	local %ENV = %ENV;
	delete $ENV{ $Live::PROVIDER{$_}{key} } foreach @apis;
	my $said = qx{'$^X' @{[ map { "-I'$_'" } @INC ]} '$FindBin::RealBin/../live/live.pl' 2>&1};
	like($said, qr/^1\.\.0 # SKIP no key in ANTHROPIC_API_KEY, GEMINI_API_KEY, OPENAI_API_KEY$/m, 'without a key it is skipped, and says so');
}

# ---- no key is shown ----

my @logs = grep { -s } glob "$PostgreSQL::Test::Utils::log_path/*031_live*";
cmp_ok(scalar(@logs), '>=', 2, 'the logs of the test and of the server are there');
is(join(' ', grep { PostgreSQL::Test::Utils::slurp_file($_) =~ /secret-of-/ } @logs), '', 'and none has a key');

done_testing();
