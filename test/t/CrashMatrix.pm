# The worker dies at every point of a job's life, with every provider.
#
#	use CrashMatrix;
#	CrashMatrix::check('openai');
#
# The points are not listed here: a first life of each kind is traced (see
# src/crash.h), and then every point that it has passed is walked: the worker is
# killed there, and when the job comes there again, the server is stopped
# immediately; if it does not, another life is for that.  What a life passes
# only because it was broken is walked as well, in lives that begin broken.
# Then connections are cut, in every call and at four places of it; and, since
# that is the same with all of them, errors are thrown, with one provider.
#
# However a life was broken: every item ends once, is paid once (the bill says
# so to the last digit) and written once, and nobody is waited for.
#
# To look at one kind of life, or at one point of it:
#
#	LLM_BATCH_KIND='real time' LLM_BATCH_POINTS='call answer: sent' prove ...
package CrashMatrix;

use strict;
use warnings;

use JSON::PP ();
use List::Util qw(min sum0);
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
# Where the record of what was sent stood when this life began.
my $sent_before = 0;

# ---- the server, which is not always there ----

# A query's output, or undef when the server or the connection was not there.
# (The node's own way costs three times as much, and there are hundreds.)
sub try_sql
{
	my ($query) = @_;

	open my $stderr, '>&', \*STDERR or die "stderr: $!";
	open STDERR, '>', "$orders.errors" or die "$orders.errors: $!";
	my $pid = open my $psql, '-|', 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $query;
	open STDERR, '>&', $stderr;
	die "psql: $!" if !$pid;
	local $/;
	my $out = <$psql> // '';
	close $psql;
	chomp $out;
	return $out if $? == 0;
	my $errors = slurp("$orders.errors");
	die "$query: $errors" if $? >> 8 != 2 && $errors !~ /connection|server|terminat/i;
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
	open my $out, '>', "$orders.begin" or die "$orders: $!";
	print $out map { "$_\n" } 'trace', @lines;
	close $out;
	rename "$orders.begin", $orders or die "$orders: $!";
}

sub orders_left { return grep { $_ ne 'trace' } split /\n/, slurp($orders) }

# The points that were passed, in order.
sub passed { return map { /^\d+ (.*)/ ? $1 : () } split /\n/, slurp("$orders.log") }


# ---- a life ----

# Has it come to its end?  The trace tells that without asking the server.
sub is_over { return scalar grep { $_ eq 'ending a job: committed' } passed() }

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
		$over //= time if is_over();
		sleep 0.01;
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

# What goes on when a job is over has ended: it is not to come by in the next
# life.
sub be_quiet
{
	my $until = time + 2;
	my ($size, $since) = (-1, 0);

	while (time < $until)
	{
		my @lines = split /\n/, slurp("$orders.log");
		my ($pid) = @lines ? $lines[-1] =~ /^(\d+)/ : 0;
		my $out = (grep { /^$pid call .*: begin$/ } @lines) - (grep { /^$pid call .*: answered$/ } @lines);

		($size, $since) = (scalar @lines, time) if @lines != $size;
		return if $out <= 0 && time > $since + 0.02;
		sleep 0.01;
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
	$sent_before = -s $sim->record_file // 0;
	$kind->{prepare}->() if $kind->{prepare};
	unlink "$orders.log";
	give($kind->{meanwhile} ? () : @lines);
	# it may die before its submit has returned
	my $table = table_of($kind);
	try_sql(qq{
		UPDATE $table SET summary = NULL;
		TRUNCATE written;
		SELECT llm_batch.submit('$table', '$LlmBatch::PROMPT', '$LlmBatch::MODEL{$api}', 'summary', server => 'sim', mode => '$kind->{mode}',
			mask_pii => } . ($kind->{masked} ? 'true' : 'false') . ', "limit" => ' . ($kind->{count} // 'NULL') . ')');
	$kind->{meanwhile}->(sub { give(@lines) }) if $kind->{meanwhile};
	foreach my $line (@lines)
	{
		$ups++ if $line =~ /^(kill|stop)/;
		last if !order_done($line, @lines - $done - 1, $offset, $ups);
		$done++;
	}
	my $until = time + $LlmBatch::PATIENCE;
	until (is_over() || time > $until) { sleep 0.01 }
	be_quiet();
	return (check_life($kind), $done);
}

# Rows of "people" have something in them that must not leave the database.
my $RIGHT_OF_PEOPLE = q{format('Summarise: Article %s is of ann%s@secret.example, +49 30 555012%s.', id, id, id)};

sub table_of { return $_[0]->{masked} ? 'people' : 'articles' }

# What was sent since the life began, and should not have been.
sub check_sent
{
	open my $record, '<', $sim->record_file or die $sim->record_file . ": $!";
	seek $record, $sent_before, 0;
	local $/;
	my $sent = <$record> // '';
	my %found = map { $_ => 1 } $sent =~ /secret.{0,8}example|555.{0,4}012/gi;

	return ($sent =~ /EMAIL_1/ ? () : 'nothing was masked', map { "sent: $_" } sort keys %found);
}

# What has to be true of every life, in one query and one look at the bill.
sub check_life
{
	my ($kind) = @_;
	my $job = '(SELECT max(id) FROM llm_batch.job)';
	my $summary = $sim->summary;
	my $bill = $sim->call('GET', 'bill')->{usd};
	my $count = $kind->{count} // $COUNT;
	my ($table, $right) = $kind->{masked} ? ('people', $RIGHT_OF_PEOPLE) : ('articles', $LlmBatch::RIGHT);
	my $delivered = $kind->{state} eq 'cancelled' ? sum0(map { $_->{completed} } $sim->batches) : $count;
	my @wrong = split /\n/, sure_sql(qq{
		WITH p AS (SELECT * FROM llm_batch.progress WHERE job_id = $job),
		r AS (SELECT * FROM llm_batch.results WHERE job_id = $job),
		wrong (what, holds) AS (
			SELECT 'state ' || state || COALESCE(', ' || reason, ''), state <> '$kind->{state}' FROM p
			UNION ALL SELECT 'counters ' || to_json(p), (total, queued, in_flight, unapplied) <> ($count, 0, 0, 0)
				OR (succeeded, failed, cancelled) <> ($delivered, 0, $count - $delivered) FROM p
			UNION ALL SELECT 'items without one end', count(*) <> $count OR count(DISTINCT ordinal) <> $count
				OR count(*) FILTER (WHERE state = 'succeeded') <> $delivered FROM r
			UNION ALL SELECT 'answers twice', count(*) <> $delivered OR count(DISTINCT ordinal) <> $delivered
				FROM llm_batch.attempts WHERE job_id = $job AND state = 'succeeded'
			UNION ALL SELECT 'rows written: ' || count(*), count(*) <> $delivered FROM $table WHERE summary = $right
			UNION ALL SELECT 'rows with another''s answer', EXISTS (SELECT FROM $table WHERE summary <> $right)
			UNION ALL SELECT 'what was replaced is kept', EXISTS (SELECT FROM llm_batch.pii_map)
			UNION ALL SELECT 'rows written twice', count(*) <> $delivered OR count(DISTINCT id) <> $delivered FROM written
			UNION ALL SELECT 'something is left to do', EXISTS (SELECT FROM llm_batch.queue WHERE job_id = $job)
				OR EXISTS (SELECT FROM llm_batch.unapplied WHERE job_id = $job)
				OR EXISTS (SELECT FROM llm_batch.batches WHERE job_id = $job AND state NOT IN ('finalized', 'failed', 'cancelled'))
			UNION ALL SELECT 'it waited for somebody: ' || message, true
				FROM llm_batch.events WHERE job_id = $job AND (kind = 'paused' OR message ~ 'cannot be cancelled'))
		SELECT what FROM wrong WHERE holds
		UNION ALL SELECT concat('=', trim_scale(cost), ' ', uncertain, ' ',
			(SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'unanswered'), ' ', job_id) FROM p});
	my ($cost, $uncertain, $told, $id) = split / /, substr pop @wrong, 1;

	push @wrong, 'the job is not there' if $id == $last_job;
	$last_job = $id;

	push @wrong, $kind->{mode} eq 'realtime'
	  ? check_realtime($summary, $uncertain, $told)
	  : check_batches($kind, $summary, $uncertain, $delivered, $cost, $bill);
	push @wrong, check_sent() if $kind->{masked};
	push @wrong, "simulator: $_" foreach @{ $summary->{simulator_failures} };
	explain_job($node, $id) if @wrong;
	return join '; ', @wrong;
}

sub check_batches
{
	my ($kind, $summary, $uncertain, $delivered, $cost, $bill) = @_;
	my @wrong;

	push @wrong, "bill $bill, cost $cost" if $bill ne ($cost || 0);
	push @wrong, "a prompt was paid $summary->{max_times_one_prompt_ran} times" if $summary->{max_times_one_prompt_ran} > 1;
	push @wrong, "prompts paid: $summary->{distinct_prompts_run}" if $summary->{distinct_prompts_run} != $delivered;
	push @wrong, 'nothing was delivered' if $delivered == 0 && $kind->{batches} > 0;
	push @wrong, "batches created: $summary->{batches_created}" if $summary->{batches_created} != $kind->{batches};
	push @wrong, "uncertain: $uncertain" if $uncertain != 0;
	return @wrong;
}

# What was out may have been paid, and is told.
sub check_realtime
{
	my ($summary, $uncertain, $told) = @_;
	my $twice = sum0(map { $_->{realtime} - 1 } values %{ $sim->items->{prompts} });
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

# Until that was passed so often.
sub wait_passed
{
	my ($what, $times) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	while ((grep { /$what/ } passed()) < $times)
	{
		die "\"$what\" was not passed" if time > $until;
		sleep 0.01;
	}
}

# It may die before this returns.
sub cancel { try_sql('SELECT llm_batch.cancel(max(id)) FROM llm_batch.job') }

# name, mode, state at the end, batches that are created then;
#	prepare		the simulator
#	meanwhile	after the submit; it calls its argument to give the orders
#	from		the points from this on are walked
#	broken		orders that it begins with
#	masked		its texts are masked; the points that have to do with them are
#				walked, also those that another life has been through
sub kinds
{
	my $fails = sub { one_fails('batch') };
	my $long = sub { $sim->options(run_seconds => 20, gemini_cancelled_results => $sim->true) };
	my $first = $calls->{upload} ? 'upload' : 'create';
	my $last = { openai => 'upload', anthropic => 'create', gemini => 'upload data' }->{$api};

	return (
		{ name => 'batch', mode => 'batch', state => 'succeeded', batches => 3, prepare => $fails },
		$calls->{upload}
		  ? { name => 'upload unanswered', mode => 'batch', state => 'succeeded', batches => 3, prepare => $fails, broken => ["kill call $last: sent"] }
		  : (),
		{ name => 'batch that is looked for', mode => 'batch', state => 'succeeded', batches => 3, prepare => $fails,
			broken => ['kill call create: sent'] },
		{ name => 'batch that is absent', mode => 'batch', state => 'succeeded', batches => 3, prepare => $fails,
			broken => ['kill call create: begin'] },
		{ name => 'create unanswered', mode => 'batch', state => 'succeeded', batches => 3,
			prepare => sub { $fails->(); $sim->fault({ %{ $calls->{create} }, times => 1 }, { cut_after_commit => $sim->true }) } },
		{ name => 'cancelled batch', mode => 'batch', state => 'cancelled', batches => 2, prepare => $long,
			# half of it is done by then
			meanwhile => sub { wait_passed('> in_progress\]: committed', 2); $sim->advance(10); $_[0]->(); cancel() },
			from => '^obeying a command' },
		{ name => 'cancelled before it was taken', mode => 'batch', state => 'cancelled', batches => 0, count => 3,
			prepare => sub { $sim->fault($calls->{$first}, { status => 429, headers => { 'retry-after' => '1' } }) },
			meanwhile => sub { wait_passed("call $first: answered", 1); $_[0]->(); cancel() },
			from => '^obeying a command' },
		{ name => 'real time', mode => 'realtime', state => 'succeeded', prepare => sub { one_fails('realtime') } },
		# what was sent again is answered, and its prompt gone, while others are out
		{ name => 'real time with a slow answer', mode => 'realtime', state => 'succeeded',
			prepare => sub { one_fails('realtime'); $sim->fault({ %{ $calls->{answer} }, nth => 3 }, { stall => 0.8 }) },
			from => '^looking after interrupted requests',
			broken => ['kill finalizing a batch [ended > finalized]: committed'] },
		$api eq 'openai'
		  ? ({ name => 'masked batch', mode => 'batch', state => 'succeeded', batches => 3, prepare => $fails, masked => 1 },
			{ name => 'masked real time', mode => 'realtime', state => 'succeeded', prepare => sub { one_fails('realtime') }, masked => 1 })
		  : ());
}

# ---- the walk ----

my %walked;
my @missed;

# One life that begins as its kind does, and has this happen at the point; what
# is wrong with it, and how many of these orders were obeyed.  Chance decides
# whether some points are passed, so it has three tries.
sub strike
{
	my ($kind, @lines) = @_;
	my @broken = @{ $kind->{broken} // [] };

	foreach (1 .. 3)
	{
		my ($problems, $done) = life($kind, @broken, @lines);
		return ($problems, $done - @broken) if $problems ne '' || $done > @broken;
	}
	return ('', 0);
}

sub walk_point
{
	my ($kind, $point, $nth) = @_;
	my $name = "$api, $kind->{name}: $point" . ($nth > 1 ? " for the time $nth" : '');
	my ($problems, $done) = strike($kind, "kill $nth $point", "stop $point");

	if ($done > 0 || $problems ne '')
	{
		is($problems, '', $name . ($done > 1 ? ', killed and stopped' : ', killed'));
		return if $done > 1;
		($problems, $done) = strike($kind, "stop $nth $point");
		is($problems, '', "$name, stopped") if $done > 0 || $problems ne '';
	}
	push @missed, $name if $done == 0;
}

sub walk
{
	my ($kind) = @_;
	my $from = time;
	my (%times, @passed);

	# what is done once in the life of a database does not come again
	life($kind, @{ $kind->{broken} // [] }) if !%walked;
	# a slow machine may take another way once
	foreach (1 .. 3)
	{
		my ($problems) = life($kind, @{ $kind->{broken} // [] });

		is($problems, '', "$api: $kind->{name}");
		@passed = passed();
		while (@passed && $kind->{from} && $passed[0] !~ /$kind->{from}/) { shift @passed }
		last if @passed > 0;
	}
	ok(@passed > 0, "$api, $kind->{name}: it came to $kind->{from}") if $kind->{from};
	my $of_texts = qr/^(?:planning|uploading|submitting|storing|sending|finalizing|ending|call (?:upload|create|fetch|answer)\b)/;
	my $as = $kind->{masked} ? "masked $kind->{mode}: " : '';
	my @points = grep { !$times{$_}++ && !$walked{"$as$_"} && ($as eq '' || $_ =~ $of_texts) } @passed;
	@points = grep { $ENV{LLM_BATCH_POINTS} eq $_ } @points if $ENV{LLM_BATCH_POINTS};
	foreach my $point (@points)
	{
		# each slice of results counts, two polls and answers, of other points the first
		my $most = $point =~ /^storing results: / ? ($kind->{masked} ? 2 : 4) : $point =~ /^call (poll|answer): / ? 2 : 1;

		walk_point($kind, $point, $_) foreach 1 .. min($most, $times{$point});
		$walked{"$as$point"} = 1;
	}
	note(sprintf '%s, %s: %d points, %.1f s', $api, $kind->{name}, scalar @points, time - $from);
}

# ---- errors ----

# Something of ours throws, before every commit of a batch's steps and at every
# reply of a plain life: the step is done again, and nothing else.  Several points
# to a life, far enough from each other that the job is not paused for one that
# throws again and again.
sub throw
{
	foreach my $kind (grep { $_->{name} =~ /^(batch|real time)$/ } kinds())
	{
		my (%seen, @obeyed);

		life($kind);
		my @points = grep { !$seen{$_}++ && /^call (?!delete).*: answered$|\]: commit$|^(storing|sending) .*: commit$/ } passed();
		my $lives = int(@points / 4) + 1;
		foreach my $n (0 .. $lives - 1)
		{
			my @here = @points[ grep { $_ % $lives == $n } 0 .. $#points ];
			my ($problems, $done) = life($kind, map { "error $_" } @here);

			is($problems, '', "$api, $kind->{name}: errors at " . join(', ', @here[ 0 .. $done - 1 ]));
			push @obeyed, @here[ 0 .. $done - 1 ];
		}
		my ($problems, $done) = life($kind, "exit $points[1]");
		is("$problems; $done", '; 1', "$api, $kind->{name}: the worker ends at $points[1]");
		cmp_ok(@obeyed, '>=', @points * 0.8, "$api, $kind->{name}: errors at " . @obeyed . ' of ' . @points . ' points');
	}
}

# ---- cuts ----

# Every call, its first two times, is cut at the same place; a cancel is
# among them, and real time.  (A batch whose create was cut may have to run to
# its end before it is known, so those that are cancelled are created whole.)
sub cut
{
	my $true = $sim->true;
	my @places = (
		[ 'before its body was read', { cut_before => $true } ],
		[ 'in its body', { cut_upload_at => 20 } ],
		[ 'when all was done', { cut_after_commit => $true } ],
		[ 'in the answer', { cut_body_at => 20, reset => $true } ]);

	foreach my $kind (grep { $_->{name} =~ /^(batch|cancelled batch|real time)$/ } kinds())
	{
		my $prepare = $kind->{prepare};

		foreach my $place (@places)
		{
			my ($problems) = life({
				%$kind,
				prepare => sub {
					$prepare->();
					foreach my $call (keys %$calls)
					{
						$sim->fault({ %{ $calls->{$call} }, nth => [ 1, 2 ] }, $place->[1])
						  if $call ne 'create' || $kind->{state} ne 'cancelled';
					}
				} });
			my $fired = grep { $_->{fired} } $sim->faults;

			is($problems, '', "$api, $kind->{name}: each call cut $place->[0]");
			cmp_ok($fired, '>=', $kind->{mode} eq 'batch' ? 3 : 1, "$api, $kind->{name}: calls that were cut $place->[0]: $fired");
		}
	}
}

# check($api): all of it.
sub check
{
	($api) = @_;
	$calls = $CALLS{$api};
	$orders = PostgreSQL::Test::Utils::tempdir('crash') . '/orders';
	$node = start_node(
		conf => [
			'restart_after_crash = on', "llm_batch.write_back_rows = $SLICE", "llm_batch.crash_file = '$orders'",
			'log_statement = none', 'autovacuum = off', 'shared_buffers = 4MB' ]);
	$sim = start_sim(record => 1, options => { validate_seconds => 0.01, run_seconds => 0.05, finalize_seconds => 0.01, cancel_seconds => 0.02, poll_retry_after => 0 });
	create_server($node, $sim, api => $api, retry_base => '20ms', request_timeout => '1s', settle_time => '500ms', poll_min => '20ms', poll_max => '100ms',
		realtime_concurrency => 3, %SHAPE);
	create_articles($node, $COUNT);
	create_articles($node, $COUNT, name => 'people');
	sql($node, q{UPDATE people SET body = format('Article %s is of ann%s@secret.example, +49 30 555012%s. Words.', id, id, id)});
	sql($node, q{
		CREATE TABLE written (id bigint);
		CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.written VALUES (NEW.id); RETURN NULL; END $$;
		CREATE TRIGGER note_write AFTER UPDATE ON articles FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
		EXECUTE FUNCTION note_write();
		CREATE TRIGGER note_write AFTER UPDATE ON people FOR EACH ROW WHEN (NEW.summary IS NOT NULL)
		EXECUTE FUNCTION note_write()});
	is(sql($node, "SELECT count(*) FROM pg_settings WHERE name = 'llm_batch.crash_file'"), '0', 'the setting is hidden');
	foreach my $kind (kinds())
	{
		next if $ENV{LLM_BATCH_KIND} && $ENV{LLM_BATCH_KIND} ne $kind->{name};
		walk($kind);
	}
	my $walked = keys %walked;
	cmp_ok(@missed, '<=', $walked / 20, "$api: points that were walked: $walked, not passed a second time: " . @missed)
	  or diag(join "\n", @missed);
	my $from = time;
	cut() if !$ENV{LLM_BATCH_KIND};
	note(sprintf 'cuts: %.1f s', time - $from);
	$from = time;
	throw() if !$ENV{LLM_BATCH_KIND} && $api eq 'openai';
	note(sprintf 'errors: %.1f s', time - $from);
	done_testing();
}

1;
