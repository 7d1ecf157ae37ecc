# The worker and the server die at random moments, while jobs of all three
# providers run and one request in twenty fails: every item ends once, is paid
# once and written once.  LLM_BATCH_SEED repeats a run, as far as chance goes.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{LLM_BATCH_SEED} // 20264;
my $seconds = $ENV{LLM_BATCH_SECONDS} // 20;
my $count = 40;
my @apis = qw(openai anthropic gemini);

srand($seed);
note("LLM_BATCH_SEED=$seed");

my $node = start_node(conf => [ 'restart_after_crash = on', 'llm_batch.write_back_rows = 5', 'log_statement = none' ]);
my %sim;
foreach my $api (@apis)
{
	$sim{$api} = start_sim();
	create_server($node, $sim{$api}, name => $api, api => $api, request_timeout => '1s', settle_time => '1s',
		max_batch_requests => 15, max_active_batches => 2, realtime_concurrency => 4, max_attempts => 20);
	create_articles($node, $count, name => "${api}_articles");
}
sql($node, q{
	CREATE TABLE written (job text, id bigint);
	CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.written VALUES (TG_TABLE_NAME, NEW.id); RETURN NULL; END $$;
	} . join '', map { qq{
	CREATE TRIGGER note_write AFTER UPDATE ON ${_}_articles FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
	EXECUTE FUNCTION note_write();} } @apis);

# ---- ways to die ----

# The log has said so often since that place that the server is up.
sub wait_up
{
	my ($offset) = @_;
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
}

# The worker's process, without asking the server, which may be down; 0 none.
sub worker
{
	my ($postmaster) = $node->{_pid};

	foreach my $pid (split ' ', `cat /proc/$postmaster/task/$postmaster/children 2>/dev/null`)
	{
		open my $in, '<', "/proc/$pid/cmdline" or next;
		return $pid if (<$in> // '') =~ /llm_batch worker/;
	}
	return 0;
}

my %way = (
	'kill -9' => sub {
		my $offset = -s $node->logfile;
		my $pid = worker() || return;
		kill 'KILL', $pid;
		wait_up($offset);
	},
	'immediate stop' => sub { $node->stop('immediate'); $node->start },
	'SIGTERM' => sub { kill 'TERM', worker() || return });
my @ways = sort keys %way;

# ---- faults ----

# One in twenty of all calls, of every kind that leaves no doubt for long.
sub faults
{
	my ($sim) = @_;
	my @do = (
		{ status => 500 }, { status => 503, headers => { 'retry-after' => '0' } }, { cut_before => $sim->true },
		{ cut_body_at => 30, reset => $sim->true }, { cut_after_commit => $sim->true });

	# each kind every hundredth request, from a place of its own on
	foreach my $n (0 .. $#do)
	{
		$sim->fault({ path => '/v1', nth => [ map { 7 + int(rand 20) + 20 * $n + 100 * $_ } 0 .. 9 ] }, $do[$n]);
	}
}

# ---- the loop ----

my $until = time + $seconds;
my $round = 0;
my (%died, $jobs);
my $faults = 0;

while (time < $until)
{
	my %job;
	my @mode = map { rand() < 0.3 ? 'realtime' : 'batch' } @apis;

	$round++;
	foreach my $n (0 .. $#apis)
	{
		my ($api, $sim) = ($apis[$n], $sim{ $apis[$n] });

		$sim->reset;
		faults($sim);
		sql($node, "UPDATE ${api}_articles SET summary = NULL");
	}
	sql($node, 'TRUNCATE written');
	foreach my $n (0 .. $#apis)
	{
		my $api = $apis[$n];

		$job{$api} = submit($node, source => "${api}_articles", target => 'summary', server => $api, mode => $mode[$n], model => $LlmBatch::MODEL{$api});
		$jobs++;
	}
	my @deaths;
	foreach (1 .. 4)
	{
		my $name = $ways[ rand @ways ];
		my $delay = rand 0.5;

		sleep $delay;
		$way{$name}->();
		push @deaths, sprintf '%s after %.2f s', $name, $delay;
		$died{$name}++;
	}
	note("round $round: @mode; " . join ', ', @deaths);
	foreach my $n (0 .. $#apis)
	{
		my ($api, $sim, $mode) = ($apis[$n], $sim{ $apis[$n] }, $mode[$n]);
		my $name = "round $round, $api, $mode";

		is(wait_job($node, $job{$api}), 'succeeded', "$name: the job succeeded") or explain_job($node, $job{$api});
		check_job($node, $job{$api}, $name);
		is( sql($node, qq{
				SELECT count(*) FILTER (WHERE summary = $LlmBatch::RIGHT), (SELECT count(*) FROM written WHERE job = '${api}_articles')
				FROM ${api}_articles}),
			"$count|$count", "$name: every row has its answer, and was written once");
		if ($mode eq 'batch')
		{
			check_prompts_ran_once($sim, $count, "$name: each prompt ran once");
		}
		else
		{
			my $twice = 0;
			$twice += $_->{realtime} - 1 foreach values %{ $sim->items->{prompts} };
			my ($uncertain, $told) = split /\|/, sql($node, qq{
				SELECT uncertain, (SELECT count(*) FROM llm_batch.events e WHERE e.job_id = p.job_id AND kind = 'unanswered')
				FROM llm_batch.progress p WHERE job_id = $job{$api}});
			cmp_ok($twice, '<=', $uncertain, "$name: paid twice: $twice, uncertain: $uncertain");
			is($uncertain > 0, $told > 0, "$name: what is uncertain is told");
		}
		check_sim($sim, "$name: the simulator is content");
		$faults += $_->{fired} foreach $sim->faults;
	}
}
note("$round rounds, $jobs jobs, $faults faults; " . join ', ', map { "$_: $died{$_}" } sort keys %died);
cmp_ok($round, '>=', 2, "rounds: $round");
cmp_ok($faults, '>', 0, "faults of the simulators: $faults");

done_testing();
