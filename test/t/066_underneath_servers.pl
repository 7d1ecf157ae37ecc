# Owners, servers, keys, the extension, the database and the whole cluster are
# changed or taken away while batches are created, fly and are fetched: jobs
# say what they wait for, go on when it is mended, and nothing is paid twice.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A transfer below would take longer by far.  Who does not wait for it is done
# in well under a second; the rest is for slow machines.
my $PROMPTLY = 3;

my $node = start_node(conf => [ 'llm_batch.write_back_rows = 2', "llm_batch.sweep_interval = '1s'" ]);
my $sim = start_sim(options => { keys => 'sk-good,sk-better' });
my $other = start_sim();
my $count = 6;

# ---- what happens ----

# Each case has a role, a server and a table of its own; "%s" is their name.
#	change	by a superuser
#	why		the job pauses, and that is the reason
#	mend	after which it goes on
#	soon	by itself, within 30 times retry_base
my $MAPPING = q{CREATE USER MAPPING FOR %s SERVER %s OPTIONS (api_key 'sk-good')};
my $GRANTS = qq{GRANT USAGE ON FOREIGN SERVER %s TO %s; $MAPPING};
my @cases = (
	{ name => 'owner dropped', change => 'REASSIGN OWNED BY %s TO postgres; DROP OWNED BY %s; DROP USER MAPPING IF EXISTS FOR %s SERVER %s; DROP ROLE %s', why => 'role "%s" does not exist any more',
		mend => "CREATE ROLE %s; $GRANTS; ALTER TABLE %s.t OWNER TO %s; GRANT ALL ON SCHEMA %s TO %s" },
	{ name => 'owner renamed', change => 'ALTER ROLE %s RENAME TO %s_other', why => 'role "%s" does not exist any more', mend => 'ALTER ROLE %s_other RENAME TO %s' },
	{ name => 'USAGE revoked', soon => 1, change => 'REVOKE USAGE ON FOREIGN SERVER %s FROM %s', why => 'role "%s" has lost USAGE on server "%s"', mend => 'GRANT USAGE ON FOREIGN SERVER %s TO %s' },
	{ name => 'user mapping dropped', soon => 1, change => 'DROP USER MAPPING FOR %s SERVER %s', why => 'there is no user mapping', mend => $MAPPING },
	{ name => 'key made wrong', soon => 1, change => q{ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET api_key 'sk-bad')}, why => 'auth: ', mend => q{ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET api_key 'sk-better')} },
	{ name => 'server disabled', soon => 1, change => q{ALTER SERVER %s OPTIONS (ADD enabled 'off')}, why => 'server "%s" is disabled', mend => q{ALTER SERVER %s OPTIONS (SET enabled 'on')} },
	{ name => 'server renamed', change => 'ALTER SERVER %s RENAME TO %s_other', why => 'server "%s" does not exist any more', mend => 'ALTER SERVER %s_other RENAME TO %s' },
	{ name => 'server dropped', change => 'DROP SERVER %s CASCADE', why => 'server "%s" does not exist any more', mend => "CREATE; $GRANTS" },
	# what needs nobody's hand, or no resume
	{ name => 'server dropped and created at once', change => "DROP SERVER %s CASCADE; CREATE; $GRANTS" },
	{ name => 'key changed', change => q{ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET api_key 'sk-better')} },
	{ name => 'no batches any more', change => q{ALTER SERVER %s OPTIONS (ADD batch 'off')} },
	{ name => 'smaller limits', change => q{ALTER SERVER %s OPTIONS (ADD max_batch_requests '2', ADD max_batch_bytes '4kB', ADD max_active_batches '1', ADD max_enqueued_tokens '1')} },
	{ name => 'nobody listens there', change => q{ALTER SERVER %s OPTIONS (SET base_url 'http://127.0.0.1:9/v1')}, mend => 'ALTER SERVER %s OPTIONS (SET base_url \'' . $sim->base_url . q{')} },
	{ name => 'somebody else listens there', change => q{ALTER SERVER %s OPTIONS (SET base_url '} . $other->base_url . q{')}, mend => 'ALTER SERVER %s OPTIONS (SET base_url \'' . $sim->base_url . q{')} },
	{ name => 'owner may not log in', change => q{ALTER ROLE %s NOLOGIN VALID UNTIL '2020-01-01'} });

my $CREATE = q{CREATE SERVER %s FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '} . $sim->base_url . q{',
	realtime_threshold '0', poll_min '50ms', poll_max '200ms', retry_base '50ms', retry_max '500ms', connect_timeout '5s', request_timeout '60s', settle_time '60s')};

sub run_for
{
	my ($case, $statements) = @_;

	$statements =~ s/\bCREATE; /$CREATE; /;
	$statements =~ s/%s/$case->{id}/g;
	return sql($node, "BEGIN; $statements; COMMIT");
}

sub jobs
{
	return join ', ', map { $_->{job} } @cases;
}

sub submit_all
{
	my ($round, $mode, $prepare) = @_;
	my $n = 0;
	my $script = '';

	$sim->reset;
	$prepare->();
	foreach my $case (@cases)
	{
		my $id = $case->{id} = $round . '_' . ++$n;

		$script .= qq{
			CREATE ROLE $id LOGIN;
			CREATE SCHEMA $id AUTHORIZATION $id;
			$CREATE;
			$GRANTS;
			CREATE TABLE $id.t (id int PRIMARY KEY, body text, summary text);
			ALTER TABLE $id.t OWNER TO $id;
			INSERT INTO $id.t SELECT n, format('In $id article %s speaks. At length.', n) FROM generate_series(1, $count) n;
			SET ROLE $id;
			SELECT llm_batch.submit('$id.t', 'Summarise: {{body}}', 'gpt-6-luna', target => 'summary', server => '$id', mode => '$mode');
			RESET ROLE;
		};
		$script =~ s/(CREATE SERVER|USER MAPPING FOR|SERVER|FOREIGN SERVER|TO) %s/$1 $id/g;
	}
	my @ids = split /\n/, sql($node, $script);
	is(scalar @ids, scalar @cases, "$round: as many jobs as cases");
	$_->{job} = shift @ids foreach @cases;
}

# Changes all, looks for what the jobs say of it, mends, and sees them end.
sub play
{
	my ($round, $let_go) = @_;
	my $pid = worker_pid($node);

	run_for($_, $_->{change}) foreach @cases;
	$let_go->();
	foreach my $case (@cases)
	{
		next if !$case->{why};
		my $why = $case->{why} =~ s/%s/$case->{id}/gr;
		# what was on its way may have come to its end before anybody asked
		wait_until($node, "SELECT finished_at IS NOT NULL OR state = 'paused' AND reason ~ '^$why' FROM llm_batch.progress WHERE job_id = $case->{job}",
			"$round: $case->{name}: the job says what it waits for") or explain_job($node, $case->{job});
		isnt(job_row($node, $case->{job})->{state}, 'succeeded', "$round: $case->{name}: it has not ended") if $round !~ /fetched|singly/;
	}
	# some look in vain for a while
	sleep 0.5;
	is(sql($node, 'SELECT count(*) FROM llm_batch.attempts WHERE state = \'failed\' AND answer IS NULL AND job_id IN (' . jobs() . ')'), '0', "$round: nothing is given up");
	foreach my $case (@cases)
	{
		run_for($case, $case->{mend}) if $case->{mend};
		# the others go on by themselves as well, but in a minute; refused when they were quicker
		$node->psql('postgres', "SELECT llm_batch.resume($case->{job})") if $case->{why} && !$case->{soon};
		my $row = job_row($node, $case->{job});
		sql($node, "SELECT llm_batch.apply($case->{job})") if defined $row->{finished_at} && $row->{failed} > 0;
	}
	foreach my $case (@cases)
	{
		my $name = "$round: $case->{name}";

		is(wait_job($node, $case->{job}), 'succeeded', "$name: mended, the job succeeds") or explain_job($node, $case->{job});
		check_job($node, $case->{job}, $name);
		is(sql($node, "SELECT count(*) FROM $case->{id}.t WHERE summary = format('Summarise: In $case->{id} article %s speaks.', id)"), $count, "$name: every row has its answer");
	}
	is(join(' ', @{ $sim->summary }{qw(distinct_prompts_run max_times_one_prompt_ran)}), @cases * $count . ' 1', "$round: nothing was paid twice");
	is($sim->summary->{batches_created}, $round eq 'singly' ? 0 : scalar @cases, "$round: each batch was created once");
	is(worker_pid($node), $pid, "$round: the worker lived through all of it");
	check_sim($sim, "$round: the simulator is content");
}

# ---- owners and servers ----

# The one call that costs money is out: it arrived, its answer did not.
submit_all('created', 'batch', sub { $sim->fault({ method => 'POST', path => '^/v1/batches$' }, { stall => 3 }) });
$sim->wait_for(sub { $_[0]->summary->{batches_created} == @cases });
is(sql($node, q{SELECT DISTINCT state FROM llm_batch.batches WHERE job_id IN (} . jobs() . ')'), 'submitting', 'all creates are out');
play('created', sub { });

submit_all('flying', 'batch', sub { $sim->options(run_seconds => 3600) });
wait_until($node, 'SELECT count(*) = ' . @cases . q{ FROM llm_batch.batches WHERE state = 'in_progress' AND job_id IN (} . jobs() . ')', 'all batches fly');
play('flying', sub { $sim->options(run_seconds => 0.1); $sim->advance(4000) });

# Lines are taken in when there is a megabyte of them: half of each file.
submit_all('fetched', 'batch', sub {
	$sim->rule({}, shuffle => $sim->false, items => [ { do => { merge => { padding => 'x' x 430_000 } } } ]);
	$sim->fault({ method => 'GET', path => '^/v1/files/[^/]+/content$' }, { slow_body => 350_000 });
});
wait_until($node, 'SELECT bool_and(succeeded > 0) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')', 'of all files, some answers have landed');
cmp_ok(sql($node, "SELECT count(*) FROM llm_batch.progress WHERE succeeded < $count AND job_id IN (" . jobs() . ')'), '>', @cases / 2, 'and not all');
play('fetched', sub { });

submit_all('singly', 'realtime', sub { $sim->fault({ method => 'POST', path => '^/v1/chat/completions$' }, { stall => 4 }) });
$sim->wait_for(sub { $_[0]->summary->{realtime_calls} == @cases * $count });
is(sql($node, 'SELECT sum(succeeded) FROM llm_batch.progress WHERE job_id IN (' . jobs() . ')'), '0', 'all requests are out, no answer has come');
play('singly', sub { });

done_testing();
