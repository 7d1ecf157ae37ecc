# Polls come when an end is likely: by what earlier batches took, within
# poll_min, poll_max and what the provider asks for; and so does the time left.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(max min);
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# A batch at the provider takes so many seconds.
my $TAKES = 4;

my $node = start_node();
my @pace = (validate_seconds => 0.1, run_seconds => $TAKES - 0.2, finalize_seconds => 0.1);
my $sim = start_sim(options => { @pace, poll_retry_after => 0 });
my $asking = start_sim(options => { @pace, poll_retry_after => 2 });
my %anthropic = (api => 'anthropic', poll_min => '50ms', poll_max => '20s');

create_articles($node, 3);
create_server($node, $sim, name => 'quiet', %anthropic);
create_server($node, $sim, name => 'bounded', %anthropic, poll_min => '1s', poll_max => '1500ms');
create_server($node, $asking, name => 'asking', %anthropic, poll_max => '200ms');
create_server($node, $asking, name => 'busy', api => 'openai', poll_max => '200ms');
$asking->fault({ method => 'GET', path => '^/v1/batches/', nth => 2 }, { status => 429, headers => { 'retry-after' => '2' } });

sub submit_to
{
	my ($server) = @_;
	my $api = $server eq 'busy' ? 'openai' : 'anthropic';
	return submit($node, server => $server, model => $LlmBatch::MODEL{$api});
}

sub batch_row
{
	my ($job) = @_;
	my @names = qw(remote_id turnaround late tells);
	my %row;

	@row{@names} = split /\|/, sql($node, qq{
		SELECT remote_id, extract(epoch FROM provider_ended_at - submitted_at),
			extract(epoch FROM ended_at - provider_ended_at),
			submitted_at < provider_ended_at AND provider_ended_at <= ended_at AND ended_at <= finalized_at
		FROM llm_batch.batches WHERE job_id = $job});
	return \%row;
}

# When a batch was created, and then polled, in seconds since.
sub poll_times
{
	my ($sim, $job) = @_;
	my $id = batch_row($job)->{remote_id};
	my @polls = grep { $_->{path} =~ m{/\Q$id\E$} } $sim->requests(method => 'GET');
	my ($batch) = grep { $_->{id} eq $id } $sim->batches;

	return map { $_->{time} - $batch->{times}{validating} } @polls;
}

sub gaps { return map { $_[$_] - $_[ $_ - 1 ] } 1 .. $#_ }
sub list { return join ' ', map { sprintf '%.2f', $_ } @_ }

# ---- nothing is known yet ----

my @cold = map { submit_to('quiet') } 1 .. 3;
my ($bounded, $asked, $busy) = map { submit_to($_) } qw(bounded asking busy);

wait_until($node, "SELECT count(*) = 6 FROM llm_batch.batches WHERE state = 'in_progress'", 'all are at their providers');
is(sql($node, "SELECT eta IS NULL AND eta_at IS NULL FROM llm_batch.progress WHERE job_id = $cold[0]"), 't',
	'without history and counts no end is foretold');
is(wait_job($node, $_), 'succeeded', "job $_ ends") foreach @cold, $bounded, $asked, $busy;

my @times = poll_times($sim, $bounded);
cmp_ok(min(gaps(0, @times)), '>', 0.95, "poll_min is kept from the first poll on: " . list(@times));
cmp_ok($times[0], '<', 5, 'and poll_max, when nothing is known');

@times = poll_times($asking, $asked);
cmp_ok(min(gaps(@times)), '>', 1.9, 'what a running batch asks for is heeded, beyond poll_max: ' . list(@times));

@times = poll_times($asking, $busy);
my @long = grep { $_ > 1.9 } gaps(@times);
is(scalar @long, 1, 'Retry-After of a refused poll is heeded, once: ' . list(@times));

# ---- what was learned ----

is( sql($node, q{
		SELECT string_agg(concat_ws(' ', server, items_from, batches, cardinality(seconds), cardinality(landing)), ', ' ORDER BY server)
		FROM llm_batch.turnaround}),
	'asking 1 1 1 1, bounded 1 1 1 1, busy 1 1 1 1, quiet 1 3 3 3', 'each batch has taught its server, model and size');
foreach my $job (@cold, $bounded, $asked, $busy)
{
	my $row = batch_row($job);

	is($row->{tells}, 't', "job $job: the provider's end lies between submission and the poll that saw it");
	cmp_ok(abs($row->{turnaround} - $TAKES), '<', 1.5, "job $job: the turnaround is the provider's: $row->{turnaround}");
}
is(sql($node, 'SELECT bool_and(l >= 0 AND l < 60) FROM llm_batch.turnaround, unnest(landing) l'), 't', 'so is how long results took to land');
my $learned = sql($node, 'SELECT * FROM llm_batch.turnaround ORDER BY server');

# ---- after a restart ----

$node->restart;
is(sql($node, 'SELECT * FROM llm_batch.turnaround ORDER BY server'), $learned, 'a restart forgets nothing');

# a long history, as of many batches, beside the short one
create_server($node, $sim, name => 'known', %anthropic);
sql($node, "INSERT INTO llm_batch.turnaround VALUES ('known', '$LlmBatch::MODEL{anthropic}', 1, 32, array_fill($TAKES, ARRAY[32]), '{0}', now())");
my @warm = map { submit_to($_) } qw(quiet quiet quiet known);
my @eta;
wait_until($node, "SELECT count(*) = 4 FROM llm_batch.batches WHERE job_id >= $warm[0] AND state = 'in_progress'", 'the next ones fly');
foreach my $job (@warm)
{
	my $state = wait_job(
		$node, $job,
		each => sub {
			my ($row) = @_;
			push @eta, $row->{eta} if $job == $warm[0] && $row->{succeeded} == 0 && defined $row->{eta};
		});
	is($state, 'succeeded', "job $job ends");
}

my @late = sort { $a <=> $b } map { my $row = batch_row($_); $row->{late} / $row->{turnaround} } @warm;
cmp_ok(($late[1] + $late[2]) / 2, '<', 0.25, 'the end is seen soon, as a share of the turnaround: ' . list(@late));
note('without a history that was ' . list(map { my $row = batch_row($_); $row->{late} / $row->{turnaround} } @cold));
@times = poll_times($sim, $warm[3]);
cmp_ok($times[0], '>', $TAKES / 10, 'the first poll waits for what was learned: ' . list(@times));
cmp_ok(scalar(grep { $_ < $TAKES / 2 } @times), '<=', 3, 'there is little to see in the first half');
cmp_ok(scalar @times, '<=', 10, 'so few polls do');
is(sql($node, "SELECT batches, cardinality(seconds), cardinality(landing), seconds[1] <> seconds[2] FROM llm_batch.turnaround WHERE server = 'known'"),
	'33|32|2|t', 'the newest turnaround has taken the place of the oldest');

# ---- the time left ----

my @seconds = map { /^(\d+):(\d+):(\d+)$/ ? $1 * 3600 + $2 * 60 + $3 : -1 } @eta;
cmp_ok(scalar @eta, '>', 0, 'with a history the end is foretold, though nothing is done yet');
ok(min(@seconds, 0) >= 0 && max(@seconds, 0) <= $TAKES + 3, "the time left is plausible: @seconds");
cmp_ok($seconds[0], '>=', $seconds[-1], 'and goes down');
is(sql($node, "SELECT bool_and(eta IS NULL AND eta_at IS NULL) FROM llm_batch.progress"), 't', 'what has ended has none');
is( sql($node, "SELECT extract(epoch FROM llm_batch.time_left('quiet', '$LlmBatch::MODEL{anthropic}', 3, 0, NULL))::int BETWEEN 3 AND 7,
		llm_batch.time_left('nowhere', 'x', 3, 0, NULL) IS NULL, llm_batch.time_left(NULL, 'x', 3, 0, NULL) IS NULL"),
	't|t|t', 'of a batch that is still to be submitted, too');

# three items that go one after the other
create_server($node, $sim, name => 'rounds', %anthropic, max_batch_requests => 1, max_active_batches => 1);
sql($node, "INSERT INTO llm_batch.turnaround VALUES ('rounds', '$LlmBatch::MODEL{anthropic}', 1, 32, array_fill($TAKES, ARRAY[32]), '{0}', now())");
my $rounds = submit_to('rounds');
wait_until($node, "SELECT state = 'in_progress' FROM llm_batch.batches WHERE job_id = $rounds", 'the first of three flies');
my $row = job_row($node, $rounds);
my ($left) = $row->{eta} =~ /^00:00:(\d+)$/;
ok($left >= 2 * $TAKES - 1 && $left <= 3 * $TAKES + 3, "what waits its turn is in the time left: $row->{eta}");
is($row->{queued}, 2, 'two wait');
sql($node, "SELECT llm_batch.pause($rounds)");
is(job_row($node, $rounds)->{eta}, undef, 'nobody knows how long a pause takes');
sql($node, "SELECT llm_batch.cancel($rounds)");
is(wait_job($node, $rounds), 'cancelled', 'it is cancelled');

# ---- what teaches nothing ----

my $cancelled = submit_to('quiet');
wait_until($node, "SELECT state = 'in_progress' FROM llm_batch.batches WHERE job_id = $cancelled", 'one more flies');
sql($node, "SELECT llm_batch.cancel($cancelled)");
is(wait_job($node, $cancelled), 'cancelled', 'and is cancelled');
is(sql($node, "SELECT batches, cardinality(seconds) FROM llm_batch.turnaround WHERE server = 'quiet'"), '6|6', 'a cancelled batch teaches nothing');

# ---- who sees it ----

sql($node, 'CREATE ROLE user_of_one; CREATE ROLE watcher; GRANT pg_monitor TO watcher; GRANT USAGE ON FOREIGN SERVER quiet TO user_of_one');
is(sql($node, 'SET ROLE user_of_one; SELECT string_agg(server, \' \') FROM llm_batch.turnaround'), 'quiet', 'whoever may use a server sees how fast it is');
is( sql($node, "SET ROLE user_of_one; SELECT llm_batch.time_left(s, '$LlmBatch::MODEL{anthropic}', 3, 0, NULL) IS NOT NULL FROM unnest('{quiet,known}'::name[]) s"),
	"t\nf", 'the time left is told to the same people');
is(sql($node, 'SET ROLE watcher; SELECT count(*) FROM llm_batch.turnaround'), '6', 'and pg_monitor sees all');

check_sim($_) foreach $sim, $asking;
done_testing();
