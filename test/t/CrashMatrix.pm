# The worker dies at every point of a job's life, with every provider.
#
#	use CrashMatrix;
#	CrashMatrix::check('openai');
#
# The points are not listed here: a first life of each kind is traced (see
# src/crash.h), and then every point that it has passed is walked: the worker is
# killed there, and when the job comes there again, the server is stopped
# immediately; if it does not, another life is for that.  What a life passes
# only because it was broken is walked as well, as lives that begin broken.
# Then connections are cut, in every call and at every place of it.
#
# However a life was broken: every item ends once, is paid once (the bill says
# so to the last digit) and written once, and nobody is waited for.
#
# To look at one point:  LLM_BATCH_POINTS='call create: sent' prove ...
package CrashMatrix;

use strict;
use warnings;

use JSON::PP ();
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $COUNT = 6;
# Batches of four and of two items; slices of two; one item has to be sent again.
my %SHAPE = (max_batch_requests => 4);
my $SLICE = 2;

# The calls of each provider, as the simulator's faults know them.
my %CALLS = (
	openai => {
		upload => { method => 'POST', path => '^/v1/files$' },
		create => { method => 'POST', path => '^/v1/batches$' },
		poll => { method => 'GET', path => '^/v1/batches/batch_[^/]+$' },
		list => { method => 'GET', path => '^/v1/batches$' },
		cancel => { method => 'POST', path => '^/v1/batches/.*/cancel$' },
		fetch => { method => 'GET', path => '^/v1/files/.*/content$' },
		delete => { method => 'DELETE', path => '^/v1/files/' },
		answer => { method => 'POST', path => '^/v1/chat/completions$' },
	},
	anthropic => {
		create => { method => 'POST', path => '^/v1/messages/batches$' },
		poll => { method => 'GET', path => '^/v1/messages/batches/msgbatch_[^/]+$' },
		list => { method => 'GET', path => '^/v1/messages/batches$' },
		cancel => { method => 'POST', path => '^/v1/messages/batches/.*/cancel$' },
		fetch => { method => 'GET', path => '^/v1/messages/batches/.*/results$' },
		answer => { method => 'POST', path => '^/v1/messages$' },
	},
	gemini => {
		upload => { method => 'POST', path => '^/upload/' },
		create => { method => 'POST', path => '^/.*:batchGenerateContent$' },
		poll => { method => 'GET', path => '^/v1beta/batches/[^/:]+$' },
		list => { method => 'GET', path => '^/v1beta/batches$' },
		cancel => { method => 'POST', path => '^/v1beta/batches/[^/]+:cancel$' },
		fetch => { method => 'GET', path => '^/.*:download$' },
		delete => { method => 'DELETE', path => '^/v1beta/files/' },
		answer => { method => 'POST', path => '^/v1beta/models/[^/]+:generateContent$' },
	});

my ($api, $calls, $node, $sim, $orders);
my $last_job = 0;

# ---- the server, which is not always there ----

# A query's output, or undef when the server or the connection was not there.
sub try_sql
{
	my ($query) = @_;
	my ($out, $err);
	my $status = $node->psql('postgres', $query, stdout => \$out, stderr => \$err);

	return $out if $status == 0;
	die "$query: $err" if $status != 2 && $err !~ /connection|server|terminat/i;
	return;
}

# The same as soon as it is there again.
sub sure_sql
{
	my ($query) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	while (time < $until)
	{
		my $out = try_sql($query);
		return $out if defined $out;
		sleep 0.02;
	}
	die "the server does not come back";
}

sub slurp { my ($file) = @_; open my $in, '<', $file or return ''; local $/; return scalar(<$in>) // '' }

# How often the server has come up since that place in its log.
sub times_up
{
	my ($offset) = @_;
	open my $log, '<', $node->logfile or die $node->logfile . ": $!";
	seek $log, $offset, 0;
	return scalar grep { /database system is ready to accept connections/ } <$log>;
}

sub postmaster { my ($pid) = slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/; return $pid }

# ---- orders ----

# The worker has them from here on; every life is traced.
sub give
{
	my (@lines) = @_;
	unlink "$orders.log";
	open my $out, '>', "$orders.begin" or die "$orders: $!";
	print $out map { "$_\n" } 'trace', @lines;
	close $out;
	rename "$orders.begin", $orders or die "$orders: $!";
}

sub orders_left { return grep { $_ ne 'trace' } split /\n/, slurp($orders) }

# The points that were passed, in order.
sub passed { return map { /^\d+ (.*)/ ? $1 : () } split /\n/, slurp("$orders.log") }


# ---- a life ----

# The state of this life's job; '' when nobody can tell.
sub job_state
{
	return try_sql("SELECT state FROM llm_batch.job WHERE id > $last_job") // '';
}

sub is_over { return $_[0] =~ /^(succeeded|partial|failed|cancelled)$/ }

# Waits until an order was obeyed, and the server is up as often as it should
# be; false when the job has ended without coming by.
sub order_done
{
	my ($line, $left, $offset, $ups) = @_;
	my $until = time + $LlmBatch::PATIENCE;
	my $over;

	while (orders_left() > $left)
	{
		# points behind its end may follow
		return 0 if time > $until || (defined $over && time > $over + 0.3);
		$over //= time if is_over(job_state());
		sleep 0.02;
	}
	if ($line =~ /^stop/)
	{
		# a process that has ended may take a while to disappear
		while (-e $node->data_dir . '/postmaster.pid') { die 'it does not stop' if time > $until; sleep 0.01 }
		$node->{_pid} = undef;
		$node->start;
	}
	until (times_up($offset) >= $ups) { die 'it does not come back' if time > $until; sleep 0.02 }
	return 1;
}

# The calls that go on when a job is over have ended: they are not to come by
# in the next life.
sub be_quiet
{
	my $until = time + 2;

	while (time < $until)
	{
		my @lines = split /\n/, slurp("$orders.log");
		my ($pid) = @lines ? $lines[-1] =~ /^(\d+)/ : 0;
		my $out = 0;
		foreach my $line (@lines)
		{
			next if $line !~ /^$pid call delete file: (\w+)/;
			$out += $1 eq 'begin' ? 1 : $1 eq 'answered' ? -1 : 0;
		}
		return if $out == 0;
		sleep 0.02;
	}
}

# life($kind, @orders): one job, broken as ordered; what is wrong with it (an
# empty string: nothing), and how many of the orders were obeyed.
sub life
{
	my ($kind, @lines) = @_;
	my $offset = -s $node->logfile;
	my ($done, $ups, $problems) = (0, 0, '');

	$sim->reset;
	$kind->{prepare}->() if $kind->{prepare};
	give(@lines);
	# it may die before its submit has returned
	try_sql(qq{
		UPDATE articles SET summary = NULL;
		TRUNCATE written;
		SELECT llm_batch.submit('articles', '$LlmBatch::PROMPT', '$LlmBatch::MODEL{$api}', 'summary', server => 'sim', mode => '$kind->{mode}')});
	$kind->{meanwhile}->() if $kind->{meanwhile};
	foreach my $line (@lines)
	{
		$ups++ if $line =~ /^(kill|stop)/;
		last if !order_done($line, @lines - $done - 1, $offset, $ups);
		$done++;
	}
	my $until = time + $LlmBatch::PATIENCE;
	until (is_over(job_state()) || time > $until) { sleep 0.03 }
	be_quiet();
	return (check_life($kind), $done);
}

# What has to be true of every life, in one query and one look at the bill.
sub check_life
{
	my ($kind) = @_;
	my $job = '(SELECT max(id) FROM llm_batch.job)';
	my $summary = $sim->summary;
	my $bill = $sim->call('GET', 'bill')->{usd};
	my $delivered = $kind->{state} eq 'cancelled' ? sum(map { $_->{completed} } $sim->batches) : $COUNT;
	my @wrong = split /\n/, sure_sql(qq{
		WITH p AS (SELECT * FROM llm_batch.progress WHERE job_id = $job),
		r AS (SELECT * FROM llm_batch.results WHERE job_id = $job),
		wrong (what, holds) AS (
			SELECT 'state ' || state || COALESCE(', ' || reason, ''), state <> '$kind->{state}' FROM p
			UNION ALL SELECT 'counters ' || to_json(p), (total, queued, in_flight, unapplied) <> ($COUNT, 0, 0, 0)
				OR (succeeded, failed, cancelled) <> ($delivered, 0, $COUNT - $delivered) FROM p
			UNION ALL SELECT 'items without one end', count(*) <> $COUNT OR count(DISTINCT ordinal) <> $COUNT
				OR count(*) FILTER (WHERE state = 'succeeded') <> $delivered FROM r
			UNION ALL SELECT 'answers twice', count(*) <> $delivered OR count(DISTINCT ordinal) <> $delivered
				FROM llm_batch.attempts WHERE job_id = $job AND state = 'succeeded'
			UNION ALL SELECT 'rows written: ' || count(*), count(*) <> $delivered FROM articles WHERE summary = $LlmBatch::RIGHT
			UNION ALL SELECT 'rows with another''s answer', EXISTS (SELECT FROM articles WHERE summary <> $LlmBatch::RIGHT)
			UNION ALL SELECT 'rows written twice', count(*) <> $delivered OR count(DISTINCT id) <> $delivered FROM written
			UNION ALL SELECT 'something is left to do', EXISTS (SELECT FROM llm_batch.queue WHERE job_id = $job)
				OR EXISTS (SELECT FROM llm_batch.unapplied WHERE job_id = $job)
				OR EXISTS (SELECT FROM llm_batch.batches WHERE job_id = $job AND state NOT IN ('finalized', 'failed', 'cancelled'))
			UNION ALL SELECT 'it waited for somebody: ' || message, true
				FROM llm_batch.events WHERE job_id = $job AND (kind = 'paused' OR message ~ 'cannot be'))
		SELECT what FROM wrong WHERE holds
		UNION ALL SELECT concat('=', trim_scale(cost), ' ', uncertain, ' ',
			(SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'unanswered'), ' ', job_id) FROM p});
	my ($cost, $uncertain, $told, $id) = split / /, substr pop @wrong, 1;

	push @wrong, 'the job is not there' if $id == $last_job;
	$last_job = $id;

	push @wrong, $kind->{mode} eq 'realtime'
	  ? check_realtime($summary, $uncertain, $told)
	  : check_batches($kind, $summary, $uncertain, $delivered, $cost, $bill);
	push @wrong, "simulator: $_" foreach @{ $summary->{simulator_failures} };
	explain_job($node, $id) if @wrong;
	return join '; ', @wrong;
}

sub sum { my $sum = 0; $sum += $_ // 0 foreach @_; return $sum }

sub check_batches
{
	my ($kind, $summary, $uncertain, $delivered, $cost, $bill) = @_;
	my @wrong;

	push @wrong, "bill $bill, cost $cost" if $bill ne ($cost || 0);
	push @wrong, "a prompt was paid $summary->{max_times_one_prompt_ran} times" if $summary->{max_times_one_prompt_ran} > 1;
	push @wrong, "prompts paid: $summary->{distinct_prompts_run}" if $summary->{distinct_prompts_run} != $delivered;
	push @wrong, "batches created: $summary->{batches_created}" if $summary->{batches_created} != $kind->{batches};
	push @wrong, "uncertain: $uncertain" if $uncertain != 0;
	return @wrong;
}

# What was out may have been paid, and is told.
sub check_realtime
{
	my ($summary, $uncertain, $told) = @_;
	my $twice = sum(map { $_->{realtime} - 1 } values %{ $sim->items->{prompts} });
	my @wrong;

	push @wrong, "prompts run: $summary->{distinct_prompts_run}" if $summary->{distinct_prompts_run} != $COUNT;
	push @wrong, "paid twice: $twice, uncertain: $uncertain" if $twice > $uncertain;
	push @wrong, "uncertain: $uncertain, told: $told" if ($uncertain > 0) != ($told > 0);
	return @wrong;
}

# ---- kinds of lives ----

# The first item that is run fails once.
sub one_fails
{
	my ($mode) = @_;
	$sim->rule({ mode => $mode }, items => [ { nth => 1, times => 1, do => { status_code => 500 } } ]);
}

# Cancels when that is in the log.
sub cancel_after
{
	my ($what, $times) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	while ((grep { $_ eq $what } passed()) < $times)
	{
		die "\"$what\" was not passed" if time > $until;
		sleep 0.01;
	}
	# it may die before this returns
	try_sql("SELECT llm_batch.cancel(max(id)) FROM llm_batch.job");
}

# name, mode, state at the end, batches that are created then;
#	prepare		the simulator
#	meanwhile	after the submit
#	broken		orders that it begins with
sub kinds
{
	my $long = sub { $sim->options(run_seconds => 20, gemini_cancelled_results => $sim->true) };

	return (
		{ name => 'batch', mode => 'batch', state => 'succeeded', batches => 3, prepare => sub { one_fails('batch') } },
		{ name => 'batch that is looked for', mode => 'batch', state => 'succeeded', batches => 3, prepare => sub { one_fails('batch') },
			broken => ['kill call create: sent'] },
		{ name => 'batch that is absent', mode => 'batch', state => 'succeeded', batches => 3, prepare => sub { one_fails('batch') },
			broken => ['kill call create: begin'] },
		{ name => 'create unanswered', mode => 'batch', state => 'succeeded', batches => 3,
			prepare => sub { one_fails('batch'); $sim->fault({ %{ $calls->{create} }, times => 1 }, { cut_after_commit => $sim->true }) } },
		{ name => 'cancelled batch', mode => 'batch', state => 'cancelled', batches => 2, prepare => $long,
			meanwhile => sub { cancel_after("recording a provider's reply [submitting > in_progress]: committed", 2) } },
		{ name => 'cancelled before it was taken', mode => 'batch', state => 'cancelled', batches => 0,
			prepare => sub { $sim->fault({ %{ $calls->{create} } }, { status => 429, headers => { 'retry-after' => '1' } }) },
			meanwhile => sub { cancel_after('call create: answered', 1) } },
		{ name => 'real time', mode => 'realtime', state => 'succeeded', prepare => sub { one_fails('realtime') } });
}

# ---- the walk ----

my %walked;

sub walk
{
	my ($kind) = @_;
	my @broken = @{ $kind->{broken} // [] };
	my $from = time;
	# what is done once in the life of a database does not come again
	life($kind, @broken) if !%walked;
	my ($problems) = life($kind, @broken);
	my %times;
	my @points = grep { !$times{$_}++ } passed();
	my $lives = 1;

	is($problems, '', "$api: $kind->{name}");
	@points = grep { !$walked{$_} } @points;
	@points = grep { $ENV{LLM_BATCH_POINTS} eq $_ } @points if $ENV{LLM_BATCH_POINTS};
	foreach my $point (@points)
	{
		my $name = "$api, $kind->{name}: $point";
		my ($problems, $done) = life($kind, @broken, "kill $point", "stop $point");

		$walked{$point} = 1;
		$lives++;
		$problems .= '; not killed' if $done < @broken + 1;
		is($problems, '', $name . ($done == @broken + 2 ? ', killed and stopped' : ', killed'));
		next if $done != @broken + 1;
		($problems, $done) = life($kind, @broken, "stop $point");
		$lives++;
		$problems .= '; not stopped' if $done < @broken + 1;
		is($problems, '', "$name, stopped");
	}
	note(sprintf '%s, %s: %d points, %d lives, %.1f s', $api, $kind->{name}, scalar @points, $lives, time - $from);
}

# check($api): all of it.
sub check
{
	($api) = @_;
	$calls = $CALLS{$api};
	$orders = "$PostgreSQL::Test::Utils::tmp_check/orders";
	$node = start_node(
		conf => [
			'restart_after_crash = on', "llm_batch.write_back_rows = $SLICE", "llm_batch.crash_file = '$orders'",
			'log_statement = none', 'autovacuum = off', 'shared_buffers = 4MB' ]);
	$sim = start_sim(options => { validate_seconds => 0.01, run_seconds => 0.05, finalize_seconds => 0.01, cancel_seconds => 0.02 });
	create_server($node, $sim, api => $api, retry_base => '20ms', request_timeout => '1s', settle_time => '500ms', poll_min => '20ms', poll_max => '100ms',
		realtime_concurrency => 3, %SHAPE);
	create_articles($node, $COUNT);
	sql($node, q{
		CREATE TABLE written (id bigint);
		CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.written VALUES (NEW.id); RETURN NULL; END $$;
		CREATE TRIGGER note_write AFTER UPDATE ON articles FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
		EXECUTE FUNCTION note_write()});
	foreach my $kind (kinds())
	{
		next if $ENV{LLM_BATCH_KIND} && $ENV{LLM_BATCH_KIND} ne $kind->{name};
		walk($kind);
	}
	done_testing();
}

1;
