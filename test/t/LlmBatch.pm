# What the tests of llm_batch share: a server with the extension, a provider
# simulator beside it, and ways to wait for what happens in between.
#
#	use FindBin;
#	use lib $FindBin::RealBin;
#	use LlmBatch;
#
#	my $node = start_node();
#	my $sim = start_sim();
#	create_server($node, $sim);
#	create_articles($node, 100);
#	my $job = submit($node, target => 'summary');
#	is(wait_job($node, $job), 'succeeded', 'the job ends');
#	check_job($node, $job);
#	check_sim($sim);
#
# Simulators end with the test, however it ends: they live as long as the
# pipe to their standard input does.
package LlmBatch;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use IO::Uncompress::Gunzip;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  start_node start_sim create_server create_articles create_typed_articles load_articles
  sql quote submit job_row wait_until wait_job watch_job explain_job
  check_job check_prompts_ran_once check_bill check_sim validate_record worker_pid rss_kb
);

my $TOP = File::Spec->rel2abs(dirname(__FILE__) . '/../..');

# The cheapest model of each provider.
our %MODEL = (openai => 'gpt-6-luna', anthropic => 'claude-haiku-4-5', gemini => 'gemini-3.5-flash-lite');
our $MODEL = $MODEL{openai};
our $PROMPT = 'Summarise: {{body}}';

# A limit for whatever should happen "soon", for slow machines as well.
our $PATIENCE = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 60;

# ---- servers ----

# start_node(%options): a running server with the extension in "postgres".
#	name		of the node
#	preload		1 (default), 0, or the libraries as a list with commas
#	conf		lines for postgresql.conf
#	extension	0: without CREATE EXTENSION
sub start_node
{
	my (%opt) = (name => 'main', preload => 1, conf => [], extension => 1, @_);
	my $node = PostgreSQL::Test::Cluster->new($opt{name});
	my $libraries = $opt{preload} eq '1' ? 'llm_batch' : $opt{preload} || '';

	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$node->append_conf('postgresql.conf', $_) foreach @{ $opt{conf} };
	$node->start;
	sql($node, 'CREATE EXTENSION llm_batch') if $opt{extension};
	return $node;
}

# start_sim(%options): a provider simulator.
#	tls			1: HTTPS; $sim->ca_file is what to trust
#	options		{name => value} of the simulator, see its README.  By default a
#				batch lives for a quarter of a second.
#	record		1: $sim->record_file has every request, see validate_record()
# One simulator plays all providers, each under paths of its own.
sub start_sim
{
	my (%opt) = @_;

	$opt{options} = {
		validate_seconds => 0.05,
		run_seconds => 0.1,
		finalize_seconds => 0.05,
		cancel_seconds => 0.05,
		%{ $opt{options} // {} } };
	return LlmBatch::Simulator->start(%opt);
}

# create_server($node, $sim, %options): a server that calls the simulator, and
# a key for the current user.  Times are short, so that tests are; nothing goes
# in real time unless it is asked for.
#	name		'sim'
#	key			of the user mapping; undef: no mapping
#	api			'openai', 'anthropic' or 'gemini'; base_url follows
# All other options are those of the server; undef leaves one out.
sub create_server
{
	my ($node, $sim, %given) = @_;
	my $name = delete $given{name} // 'sim';
	my $key = exists $given{key} ? delete $given{key} : 'sk-test';
	my %opt = (
		api => 'openai',
		base_url => $sim->base_url($given{api}),
		realtime_threshold => 0,
		poll_min => '50ms',
		poll_max => '200ms',
		retry_base => '50ms',
		retry_max => '500ms',
		connect_timeout => '5s',
		request_timeout => '20s',
		settle_time => '2s',
		($sim->ca_file ? (ca_file => $sim->ca_file) : ()),
		%given);
	my $list = join ', ', map { "$_ " . quote($opt{$_}) } grep { defined $opt{$_} } sort keys %opt;

	sql($node, "CREATE SERVER $name FOREIGN DATA WRAPPER llm_batch OPTIONS ($list)");
	sql($node, "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (api_key " . quote($key) . ")")
	  if defined $key;
}

# create_articles($node, $count, %options): a table of made-up articles, whose
# text begins with a sentence that tells the row (see $RIGHT).
#	name		'articles'
#	bytes		length of each text, about; 100
sub create_articles
{
	my ($node, $count, %opt) = @_;
	my $name = $opt{name} // 'articles';
	my $filler = int((($opt{bytes} // 100) - 20) / 10);

	sql($node, qq{
		CREATE TABLE $name (id bigint PRIMARY KEY, body text, summary text);
		INSERT INTO $name
		SELECT n, format('Article %s speaks. %s', n, repeat('words and ', $filler))
		FROM generate_series(1, $count) n});
}

# create_typed_articles($node, $count, $name): the same with a column for each
# type of answer that there is a difference between.
sub create_typed_articles
{
	my ($node, $count, $name) = @_;
	$name //= 'articles';

	create_articles($node, $count, name => $name);
	sql($node, qq{
		DO \$\$ BEGIN CREATE TYPE mood AS ENUM ('good', 'bad', 'it depends'); EXCEPTION WHEN duplicate_object THEN END \$\$;
		ALTER TABLE $name ADD mood mood, ADD score int, ADD urgent boolean;
		COMMENT ON COLUMN $name.mood IS 'how the article leaves its reader'});
}

# What the simulator answers for a row of create_articles and $PROMPT: the
# first sentence of the prompt.
our $RIGHT = q{format('Summarise: Article %s speaks.', id)};

# load_articles($node): table "articles" with the recorded articles; their
# number, or 0 where the file is not there.
sub load_articles
{
	my ($node) = @_;
	my $file = ($ENV{LLM_BATCH_SHARED} // "$TOP/../shared") . '/data/articles.jsonl.gz';
	my $copy = PostgreSQL::Test::Utils::tempdir('articles') . '/copy';
	my $count = 0;

	return 0 if !-r $file;
	my $in = IO::Uncompress::Gunzip->new($file) or die "$file: $IO::Uncompress::Gunzip::GunzipError";
	open my $out, '>:raw', $copy or die "$copy: $!";
	while (defined(my $line = $in->getline))
	{
		# the one character of JSON lines that means something to COPY
		$line =~ s/\\/\\\\/g;
		print $out $line;
		$count++;
	}
	close $out or die "$copy: $!";
	sql($node, qq{
		CREATE TEMP TABLE line (j json);
		\\copy line FROM '$copy'
		CREATE TABLE articles (id text PRIMARY KEY, title text, body text, summary text);
		INSERT INTO articles SELECT j->>'id', j->>'title', j->>'body' FROM line;});
	unlink $copy;
	return $count;
}

# ---- SQL ----

sub sql
{
	my ($node, $query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub quote
{
	my ($text) = @_;
	return 'NULL' if !defined $text;
	$text =~ s/'/''/g;
	return "'$text'";
}

# submit($node, %arguments): of llm_batch.submit(), with the table and the
# server of this module by default; returns the job.
sub submit
{
	my ($node, %given) = @_;
	my %arg = (source => 'articles', prompt => $PROMPT, model => $MODEL, server => 'sim', mode => 'batch', %given);
	my $list = join ', ', map { "\"$_\" => " . quote($arg{$_}) } grep { defined $arg{$_} } sort keys %arg;

	return sql($node, "SELECT llm_batch.submit($list)");
}

# job_row($node, $job): its line of llm_batch.progress, as a hash.
sub job_row
{
	my ($node, $job) = @_;
	my $row = sql($node, "SELECT to_json(p) FROM llm_batch.progress p WHERE job_id = $job");

	return $row eq '' ? undef : JSON::PP->new->decode($row);
}

# The process of the worker; '' when there is none.
sub worker_pid
{
	my ($node) = @_;
	return sql($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' ORDER BY pid LIMIT 1");
}

# Resident memory of a process in kB, undef when it is gone.
sub rss_kb
{
	my ($pid) = @_;
	open my $status, '<', "/proc/$pid/status" or return undef;
	my ($kb) = map { /^VmRSS:\s+(\d+) kB/ } <$status>;

	return $kb;
}

# ---- waiting ----

# wait_until($node, $sql, $what): until the query says 't'; fails the test and
# tells what it said instead when that takes too long.
sub wait_until
{
	my ($node, $query, $what, $limit) = @_;
	my $until = time + ($limit // $PATIENCE);
	my $said;

	do
	{
		$said = sql($node, $query);
		return 1 if $said eq 't';
		sleep 0.05;
	} while (time < $until);
	fail($what // "waited for: $query");
	diag("it said \"$said\": $query");
	return 0;
}

# wait_job($node, $job, %options): until it has ended; its state then.
#	limit		seconds
#	each		called with the job's line of progress at each look
sub wait_job
{
	my ($node, $job, %opt) = @_;
	my $until = time + ($opt{limit} // $PATIENCE);
	my $row;

	do
	{
		$row = job_row($node, $job) // die "there is no job $job";
		$opt{each}->($row) if $opt{each};
		return $row->{state} if $row->{state} =~ /^(succeeded|partial|failed|cancelled)$/;
		sleep 0.05;
	} while (time < $until);
	diag("job $job did not end in time");
	explain_job($node, $job);
	return $row->{state};
}

# watch_job($node, $job, $name, %options): waits as wait_job does, and tests
# that progress told the truth at every look.
#	falls		percent may go back, since items are sent again
sub watch_job
{
	my ($node, $job, $name, %opt) = @_;
	my ($looks, $last, @wrong) = (0, 0);
	my $state = wait_job(
		$node, $job, %opt,
		each => sub {
			my ($row) = @_;
			my $sum = 0;

			$looks++;
			$sum += $row->{$_} foreach qw(queued in_flight succeeded failed cancelled);
			push @wrong, "total $row->{total}, sum $sum" if $sum != $row->{total};
			push @wrong, "percent $last, then $row->{percent}" if $row->{percent} < $last && !$opt{falls};
			push @wrong, "percent $row->{percent}" if $row->{percent} > 100;
			push @wrong, "bar $row->{bar}" if $row->{bar} !~ /^\[#*\.*\]$/ || length $row->{bar} != 22;
			push @wrong, "100 %, but $row->{state}" if $row->{percent} == 100 && !defined $row->{finished_at};
			$last = $row->{percent};
		});

	push @wrong, "ended at $last %" if $last != 100;
	is(join('; ', @wrong), '', "$name: progress told the truth at each of $looks looks");
	return $state;
}

# All there is to know about a job, as diagnostics.
sub explain_job
{
	my ($node, $job) = @_;
	my %look = (
		progress => "SELECT to_json(p) FROM llm_batch.progress p WHERE job_id = $job",
		batches => "SELECT to_json(b) FROM llm_batch.batches b WHERE job_id = $job ORDER BY batch_id LIMIT 20",
		events => "SELECT at::time, batch_id, kind, message FROM llm_batch.events WHERE job_id = $job ORDER BY event_id DESC LIMIT 12",
		results => "SELECT state, error_code, max(error), count(*) FROM llm_batch.results WHERE job_id = $job GROUP BY 1, 2",
		activity => "SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity WHERE backend_type ~ 'llm_batch'");

	foreach my $name (sort keys %look)
	{
		diag("$name:\n" . sql($node, $look{$name}));
	}
}

# ---- what has to be true of every job that has ended ----

# check_job($node, $job, $name): every item ended, once; the counters agree
# with the results; nothing is left in the queue.
sub check_job
{
	my ($node, $job, $name) = @_;
	my $wrong = sql($node, qq{
		WITH counted AS (
			SELECT count(*) AS total, count(DISTINCT ordinal) AS distinct_items,
				count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
				count(*) FILTER (WHERE state = 'failed') AS failed,
				count(*) FILTER (WHERE state = 'cancelled') AS cancelled
			FROM llm_batch.results WHERE job_id = $job)
		SELECT to_json(p), to_json(c)
		FROM llm_batch.progress p, counted c
		WHERE p.job_id = $job AND (
			p.finished_at IS NULL OR p.queued <> 0 OR p.in_flight <> 0 OR p.unapplied <> 0
			OR (p.total, p.succeeded, p.failed, p.cancelled) <> (c.total, c.succeeded, c.failed, c.cancelled)
			OR c.total <> c.distinct_items OR c.total <> c.succeeded + c.failed + c.cancelled
			OR EXISTS (SELECT FROM llm_batch.queue WHERE job_id = $job)
			OR EXISTS (SELECT FROM llm_batch.unapplied WHERE job_id = $job)
			OR EXISTS (SELECT FROM llm_batch.batches WHERE job_id = $job
					   AND state NOT IN ('finalized', 'failed', 'cancelled')))});

	is($wrong, '', ($name // "job $job") . ': every item ended once, and the counters agree')
	  or explain_job($node, $job);
}

# check_prompts_ran_once($sim, $count, $name): the bill shows so many prompts,
# each run once, under one custom_id.
sub check_prompts_ran_once
{
	my ($sim, $count, $name) = @_;
	my $summary = $sim->summary;

	is( join(' ', map { $summary->{$_} } qw(distinct_prompts_run max_times_one_prompt_ran max_times_one_custom_id_ran)),
		"$count 1 1", $name // "the bill shows $count prompts, each run once");
}

# check_bill($node, $sim, $jobs, $name): progress.cost of these jobs, which are
# all that ran since the simulator's start or reset, is the bill to the last
# digit, and nobody's cost is unknown.
sub check_bill
{
	my ($node, $sim, $jobs, $name) = @_;
	my $list = join ', ', ref $jobs ? @$jobs : $jobs;
	my $cost = sql($node, qq{
		SELECT concat_ws(' ', trim_scale(COALESCE(sum(cost), 0)), 'unknown', sum(cost_unknown))
		FROM llm_batch.progress WHERE job_id IN ($list)});
	my $bill = $sim->call('GET', 'bill');

	return is($cost, "$bill->{usd} unknown 0", ($name // "job $list") . ': progress.cost is the bill')
	  || diag(JSON::PP->new->canonical->encode($bill->{lines}));
}

# validate_record($sim, $name): every request that was recorded is valid by its
# provider's OpenAPI document; returns {operation => count}, or nothing where
# the documents are not there.
sub validate_record
{
	my ($sim, $name) = @_;
	my $specs = ($ENV{LLM_BATCH_SHARED} // "$TOP/../shared") . '/specs';

	return if !-d $specs;
	open my $pipe, '-|', $sim->{python}, "$TOP/test/openapi/validate", '--specs', $specs, $sim->record_file
	  or die "$sim->{python}: $!";
	chomp(my @lines = <$pipe>);
	close $pipe;
	my @problems = grep { /^problem: / } @lines;
	ok(@problems == 0 && $? == 0, $name // 'every request is valid by its provider\'s document')
	  or diag(join "\n", @problems, "status $?");
	return { map { /^(\d+) (.*)/ ? ($2 => $1) : () } @lines };
}

# The simulator itself has no complaint.
sub check_sim
{
	my ($sim, $name) = @_;
	is(join("\n", @{ $sim->summary->{simulator_failures} }), '', $name // 'the simulator met nothing that it cannot do');
}

# ---- a session that stays open ----
package LlmBatch::Session;

use IPC::Run ();

# As background_psql() of PostgreSQL::Test::Cluster, which differs between
# versions.
sub new
{
	my ($class, $node) = @_;
	my $self = bless { in => '', out => '', err => '', number => 0 }, $class;
	my @psql = ('psql', '-XAtq', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=0');

	$self->{psql} = IPC::Run::start(\@psql, '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout($LlmBatch::PATIENCE * 3));
	return $self;
}

# Sends a query that may have to wait; receive() has to follow.
sub send
{
	my ($self, $sql) = @_;

	@$self{qw(out err)} = ('', '');
	$self->{in} .= "$sql;\n\\echo end of query " . ++$self->{number} . "\n";
	$self->{psql}->pump_nb while length $self->{in};
}

# Its output, errors included.
sub receive
{
	my ($self) = @_;
	my $end = "end of query $self->{number}";

	$self->{psql}->pump until $self->{out} =~ /^\Q$end\E\n/m;
	return $self->{err} . ($self->{out} =~ s/^\Q$end\E\n//mr);
}

sub query
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->receive;
}

sub end
{
	my ($self) = @_;
	$self->{in} .= "\\q\n";
	$self->{psql}->finish;
}

# ---- the simulator ----
package LlmBatch::Simulator;

use HTTP::Tiny;
use POSIX ();

my %running;    # pid => simulator
my $number = 0;

sub start
{
	my ($class, %opt) = @_;
	my $python = $ENV{PYTHON} || '/usr/bin/python3';
	my $dir = PostgreSQL::Test::Utils::tempdir('simulator');
	my $self = bless { dir => $dir, python => $python }, $class;
	my @command = ($python, "$TOP/test/simulator/simulate", '--stdin', '--dir', $dir);
	my $errors = "$PostgreSQL::Test::Utils::log_path/simulator_" . POSIX::getpid() . '_' . ++$number . '.log';

	push @command, '--tls', "$dir/tls" if $opt{tls};
	push @command, '--record', $self->record_file if $opt{record};
	push @command, map { ('--option', "$_=$opt{options}{$_}") } sort keys %{ $opt{options} // {} };
	pipe my $child_in, my $in or die "pipe: $!";
	pipe my $out, my $child_out or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		# END blocks are the parent's: leave by exec or without them
		open STDIN, '<&', $child_in;
		open STDOUT, '>&', $child_out;
		open STDERR, '>>', $errors;
		exec @command or POSIX::_exit(127);
	}
	@$self{qw(pid stdin)} = ($pid, $in);
	$running{$pid} = $self;
	close $child_in;
	close $child_out;
	my $line = <$out> // '';
	($self->{port}) = $line =~ /^port (\d+)$/ or die "the simulator did not start: see $errors";
	$self->{scheme} = $opt{tls} ? 'https' : 'http';
	$self->{ca_file} = "$dir/tls/ca.pem" if $opt{tls};
	$self->{http} = HTTP::Tiny->new(timeout => 120);
	return $self;
}

sub port { return $_[0]->{port} }
sub ca_file { return $_[0]->{ca_file} }
sub origin { return "$_[0]->{scheme}://127.0.0.1:$_[0]->{port}" }
sub record_file { return "$_[0]->{dir}/record" }

# As the providers' own clients cut it.
sub base_url
{
	my ($self, $api) = @_;
	return $self->origin . (($api // 'openai') eq 'openai' ? '/v1' : '');
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;

	delete $running{$pid};
	close $self->{stdin};
	kill 'TERM', $pid;
	waitpid $pid, 0;
}

END
{
	my $status = $?;

	$_->stop foreach values %running;
	$? = $status;
}

# Perl's own HTTPS is not in every installation; Python has to be there anyway.
my $PYTHON_CALL = <<'PYTHON';
import ssl, sys, urllib.request
ca, method, url = sys.argv[1:4]
body = sys.argv[4].encode() if len(sys.argv) > 4 else None
request = urllib.request.Request(url, body, method=method)
with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca), timeout=120) as reply:
    sys.stdout.buffer.write(reply.read())
PYTHON

# A control call; dies when it is refused, for that is the test's mistake.
sub call
{
	my ($self, $method, $path, $data) = @_;
	my $url = $self->origin . "/_sim/$path";
	my @body = defined $data ? (JSON::PP->new->encode($data)) : ();
	my $text;

	if ($self->{ca_file})
	{
		open my $pipe, '-|', $self->{python}, '-c', $PYTHON_CALL, $self->{ca_file}, $method, $url, @body
		  or die "$self->{python}: $!";
		local $/;
		$text = <$pipe>;
		close $pipe or die "$method $url failed";
	}
	else
	{
		my $reply = $self->{http}->request($method, $url, { @body ? (content => $body[0]) : () });
		die "$method $url: $reply->{status} $reply->{content}" if !$reply->{success};
		$text = $reply->{content};
	}
	return JSON::PP->new->allow_nonref->decode($text);
}

# Data as the simulator's README describes it.
sub summary { return $_[0]->call('GET', 'summary') }
sub batches { return @{ $_[0]->call('GET', 'batches') } }
sub files { return @{ $_[0]->call('GET', 'files') } }
sub items { return $_[0]->call('GET', 'items') }
sub rules { return @{ $_[0]->call('GET', 'batch_rules') } }
sub faults { return @{ $_[0]->call('GET', 'faults') } }
sub reset { return $_[0]->call('POST', 'reset', {}) }
sub advance { return $_[0]->call('POST', 'clock', { advance => $_[1] }) }
sub options { my ($self, %opt) = @_; return $self->call('POST', 'options', \%opt) }
sub clear_rules { my ($self) = @_; $self->call('DELETE', $_) foreach qw(faults batch_rules) }

# fault({match…}, {do…}), rule({match…}, member => value, …)
sub fault { my ($self, $match, $do) = @_; return $self->call('POST', 'faults', { match => $match, do => $do }) }
sub rule { my ($self, $match, %member) = @_; return $self->call('POST', 'batch_rules', { match => $match, %member }) }

# Waits until a condition of the simulator holds; dies when it does not.
sub wait_for
{
	my ($self, $condition) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	until ($condition->($self))
	{
		die 'the simulator did not get there' if time > $until;
		select undef, undef, undef, 0.05;
	}
}

# How each provider wants the key.
my %KEY_HEADER = (
	openai => [ Authorization => 'Bearer sk-other' ],
	anthropic => [ 'x-api-key' => 'sk-other', 'anthropic-version' => '2023-06-01' ],
	gemini => [ 'x-goog-api-key' => 'sk-other' ]);

# A call to the provider itself, behind the back of the extension; the reply.
# The path follows base_url.
sub api
{
	my ($self, $method, $path, $content, $type, $api) = @_;
	my %headers = (@{ $KEY_HEADER{ $api // 'openai' } }, 'Content-Type' => $type // 'application/json');
	my $reply = $self->{http}->request($method, $self->base_url($api) . $path, { headers => \%headers, content => $content // '{}' });

	die "$path: $reply->{status} $reply->{content}" if !$reply->{success};
	return JSON::PP->new->decode($reply->{content});
}

# Uploads a request file as somebody else would; its id.
sub upload
{
	my ($self, @lines) = @_;
	my $form = join "\r\n", '--x', 'Content-Disposition: form-data; name="purpose"', '', 'batch',
	  '--x', 'Content-Disposition: form-data; name="file"; filename="other.jsonl"', '', join('', map { "$_\n" } @lines), '--x--', '';

	return $self->api('POST', '/files', $form, 'multipart/form-data; boundary=x')->{id};
}

# Requests that came in: requests(method => 'POST', path => '/v1/batches').
# The path is a prefix.
sub requests
{
	my ($self, %want) = @_;
	my $query = join '&', map { "$_=$want{$_}" } sort keys %want;

	return @{ $self->call('GET', "log?$query") };
}

# What Perl lacks for JSON.
sub true { return JSON::PP::true() }
sub false { return JSON::PP::false() }

1;
