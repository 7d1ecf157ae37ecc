# No key and no prompt of ours in the log, whatever is logged; nor in events,
# activity, statistics of statements, or the views that show settings.
#
# What is ours: the statements that the extension runs for itself, in the
# worker and inside of submit, with their parameters, plans and errors; and
# what it writes down.  What is the user's: the statement that somebody types,
# and what code of theirs (a trigger's RAISE) says.  So one role types no
# secret at all, for they are in the rows, and is logged with all there is; the
# other types its secrets, and its own sessions are not logged.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $KEY = 'sk-9876543210-kept-from-sight';
my $ROW = 'zebrafish';		# in rows, so in prompts and answers
my $TYPED = 'wolverine';	# in templates, system prompts, schemas and parameters

# Whatever there is to turn on.
my @loud = (
	'log_min_messages = debug5', "log_statement = 'all'", 'log_min_duration_statement = 0', 'log_error_verbosity = verbose',
	'debug_print_parse = on', 'debug_print_rewritten = on', 'debug_print_plan = on', 'debug_pretty_print = off',
	'log_parameter_max_length = -1', 'log_parameter_max_length_on_error = -1', 'log_duration = on', 'log_lock_waits = on',
	'log_min_error_statement = debug5', 'log_executor_stats = off', 'log_temp_files = 0', 'log_replication_commands = on',
	'auto_explain.log_min_duration = 0', 'auto_explain.log_analyze = on', 'auto_explain.log_verbose = on',
	'auto_explain.log_nested_statements = on', 'auto_explain.log_triggers = on', 'auto_explain.log_settings = on',
	'llm_batch.log_events = all', "pg_stat_statements.track = 'all'", 'pg_stat_statements.track_utility = on', 'track_activity_query_size = 1MB');
my %quiet = (
	log_min_messages => 'panic', log_statement => 'none', log_min_duration_statement => '-1', debug_print_parse => 'off',
	debug_print_rewritten => 'off', debug_print_plan => 'off', log_duration => 'off', log_min_error_statement => 'panic',
	'auto_explain.log_min_duration' => '-1', 'pg_stat_statements.track' => 'none');
my $libraries = 'llm_batch,auto_explain,pg_stat_statements';

# in PostgreSQL 15 there is no such setting; from 16 on it says all
my $node = start_node(extension => 0, conf => [@loud], preload => $libraries);
my $sim = start_sim();

# Not for the log: it is the user's who types it.
sub silently
{
	my ($query) = @_;
	return $node->safe_psql('postgres', join('', map { "SET $_ = '$quiet{$_}';" } sort keys %quiet) . $query);
}

sub as
{
	my ($role, $query) = @_;
	return $node->safe_psql('postgres', $query, extra_params => [ '-U', $role ]);
}

silently('CREATE EXTENSION llm_batch; CREATE EXTENSION pg_stat_statements');
silently(q{
	CREATE ROLE loud LOGIN;
	CREATE ROLE hushed LOGIN;
	CREATE SCHEMA loud AUTHORIZATION loud;
	CREATE SCHEMA hushed AUTHORIZATION hushed});
silently("ALTER ROLE hushed SET $_ = '$quiet{$_}'") foreach sort keys %quiet;
foreach my $api (qw(openai anthropic gemini))
{
	my $url = $sim->base_url($api);

	silently(qq{
		CREATE SERVER $api FOREIGN DATA WRAPPER llm_batch OPTIONS (api '$api', base_url '$url', realtime_threshold '0', poll_min '50ms', poll_max '100ms',
			retry_base '20ms', retry_max '50ms', settle_time '500ms', request_timeout '10s', invalid_output_retries '0');
		GRANT USAGE ON FOREIGN SERVER $api TO PUBLIC;
		CREATE USER MAPPING FOR PUBLIC SERVER $api OPTIONS (api_key '$KEY')});
}

# Tables whose rows hold a secret, made without a word in the log.
sub make_rows
{
	my ($role, $table, $count) = @_;

	silently(qq{
		CREATE DOMAIN $role.tiny AS int CHECK (VALUE BETWEEN 0 AND 9);
		CREATE TABLE $role.$table (id int PRIMARY KEY, body text, summary text, score $role.tiny);
		ALTER TABLE $role.$table OWNER TO $role;
		INSERT INTO $role.$table SELECT n, 'Row ' || n || ' on the $ROW. And more.' FROM generate_series(1, $count) n});
}
make_rows($_, 'notes', 6) foreach qw(loud hushed);

# What is said of ours while something runs, by whatever shows it.
my %said;
sub look
{
	my $seen = silently(q{
		SELECT query FROM pg_stat_activity WHERE backend_type ~ 'llm_batch'
		UNION ALL SELECT s::text FROM llm_batch.events s UNION ALL SELECT s::text FROM llm_batch.batches s
		UNION ALL SELECT s::text FROM llm_batch.progress s UNION ALL SELECT s::text FROM llm_batch.command s
		UNION ALL SELECT s::text FROM llm_batch.queue s UNION ALL SELECT s::text FROM llm_batch.probe s});
	$said{$_} = 1 foreach split /\n/, $seen;
}

# A job of a role, to its end.
sub run
{
	my ($role, $what, $state, $call) = @_;
	my $job = as($role, "SELECT llm_batch.$call");
	my $row;

	my $ended = wait_quietly($job);
	like($ended, $state, "$role: $what") or explain_job($node, $job);
	look();
	return $job;
}

# wait_job() of a role that is not logged.
sub wait_quietly
{
	my ($job) = @_;
	my $until = time + $LlmBatch::PATIENCE;
	my $state;

	do
	{
		look();
		$state = silently("SELECT state FROM llm_batch.progress WHERE job_id = $job");
		return $state if $state =~ /^(succeeded|partial|failed|cancelled)$/;
		select undef, undef, undef, 0.1;
	} while (time < $until);
	return "$state, and no end";
}

# What has nothing to do with the session that submits.
sub worker_alone
{
	my ($role, $notes) = @_;

	# answers that the row refuses: type, unique index, length
	$sim->rule({}, items => [ { do => { answer => qq({"score": "the $ROW", "summary": "$ROW"}) } } ]);
	run($role, 'an answer of the wrong type', qr/^failed|partial$/, "submit($notes, '$LlmBatch::MODEL', 'score, summary', server => 'openai', mode => 'batch')");
	$sim->reset;
	silently("UPDATE $role.notes SET summary = NULL; CREATE UNIQUE INDEX once ON $role.notes (substr(summary, 1, 5))");
	run($role, 'answers that an index refuses', qr/^failed|partial$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	silently("DROP INDEX $role.once");
	silently("ALTER TABLE $role.notes ALTER summary TYPE varchar(3) USING substr(summary, 1, 3)");
	run($role, 'answers that are too long', qr/^failed$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	silently("ALTER TABLE $role.notes ALTER summary TYPE text");

	# a row that is locked
	my $lock = LlmBatch::Session->new($node);
	$lock->query('SET log_statement = none');
	$lock->query("BEGIN; SELECT FROM $role.notes WHERE id = 2 FOR UPDATE");
	my $job = as($role, "SELECT llm_batch.submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	wait_until($node, "SELECT unapplied > 0 FROM llm_batch.progress WHERE job_id = $job", "$role: a locked row waits");
	$lock->query('COMMIT');
	$lock->end;
	like(wait_quietly($job), qr/^succeeded$/, "$role: and is written");

	# providers that quote what they were sent, fail, or talk nonsense
	my %echo = (body => { error => { message => "key $KEY, prompt: $ROW $TYPED", type => 'x', param => $ROW, code => "$KEY: $ROW" } });
	foreach my $fault (
		[ { method => 'POST', path => '/v1/files' }, { %echo, status => 500 } ],
		[ { method => 'POST', path => '/v1/files' }, { garbage => "<html>$KEY $ROW $TYPED</html>" } ],
		[ { method => 'POST', path => '/v1/batches' }, { %echo, status => 503 } ],
		[ { method => 'GET', path => '^/v1/batches/.' }, { %echo, status => 429 } ],
		[ { method => 'GET', path => '^/v1/files/.*/content' }, { cut_body_at => 200 } ])
	{
		$sim->reset;
		$sim->fault({ %{ $fault->[0] }, times => 1 }, $fault->[1]);
		run($role, "a fault at $fault->[0]{path}", qr/^succeeded$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	}
	$sim->reset;
	$sim->fault({ method => 'POST', path => 'chat/completions', times => 1 }, { %echo, status => 400 });
	run($role, 'a refusal in real time', qr/^partial|succeeded$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'realtime')");
	$sim->reset;
	$sim->rule({ nth => 1 }, fail => { code => 'bad_line', message => "key $KEY: line 1: $ROW $TYPED", line => 1, param => $ROW });
	run($role, 'a batch that fails', qr/^partial$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	$sim->reset;
}

# ---- jobs of all kinds ----

my %typed = (
	loud => q{'Summarise: {{body}}'},
	hushed => qq{'Summarise, $TYPED: {{body}}'});
my %tail = (
	loud => '',
	hushed => qq{, system => 'You are a $TYPED.', schema => '{"type": "object", "properties": {"$TYPED": {"type": "string"}}}'});

foreach my $role (qw(loud hushed))
{
	my $notes = "'$role.notes', $typed{$role}";

	# what the worker does it does for both alike
	foreach my $api ('openai', $role eq 'hushed' ? qw(anthropic gemini) : ())
	{
		run($role, "$api, a batch", qr/^succeeded$/, "submit($notes, '$LlmBatch::MODEL{$api}', 'summary', server => '$api', mode => 'batch')");
		run($role, "$api, real time", qr/^succeeded$/, "submit($notes, '$LlmBatch::MODEL{$api}', 'summary', server => '$api', mode => 'realtime')");
	}
	# what is masked is found and kept without a word, too
	silently("INSERT INTO llm_batch.pii_pattern (name, pattern) VALUES ('$role', '$ROW') ON CONFLICT DO NOTHING");
	run($role, "masked, $_", qr/^succeeded$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => '$_', mask_pii => true)") foreach 'batch', 'realtime';
	run($role, 'of a query', qr/^succeeded|failed$/, "submit_query('SELECT id AS key, body AS prompt FROM $role.notes', '$LlmBatch::MODEL', server => 'openai', mode => 'batch'$tail{$role})");
	as($role, "SELECT count(*) FROM llm_batch.preview($notes, '$LlmBatch::MODEL', server => 'openai')");
	as($role, "SELECT count(*) FROM llm_batch.estimate($notes, '$LlmBatch::MODEL', server => 'openai')");

	worker_alone($role, $notes) if $role eq 'hushed';

	# answers that the row refuses, and that are written in the end
	silently("ALTER TABLE $role.notes ADD CONSTRAINT no CHECK (summary !~ '$ROW') NOT VALID");
	my $job = run($role, 'answers that a CHECK refuses', qr/^failed$/, "submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	silently("ALTER TABLE $role.notes DROP CONSTRAINT no");
	as($role, "SELECT llm_batch.apply($job)");
	like(wait_quietly($job), qr/^succeeded$/, "$role: written when it is gone");

	# rows that change, and are asked anew
	$sim->options(run_seconds => 3600);
	$job = as($role, "SELECT llm_batch.submit($notes, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
	$sim->wait_for(sub { grep { $_->{status} eq 'in_progress' } $_[0]->batches });
	silently("UPDATE $role.notes SET body = 'Newer: the $ROW. More.' WHERE id = 1");
	$sim->options(run_seconds => 0.1);
	$sim->advance(4000);
	like(wait_quietly($job), qr/^partial$/, "$role: a row has changed");
	as($role, "SELECT llm_batch.retry($job, '{stale}')");
	like(wait_quietly($job), qr/^succeeded$/, "$role: and is asked anew");

	$sim->reset;
	$sim->options(keys => 'sk-another');
	my ($status, $out, $err) = $node->psql('postgres', q{CALL llm_batch.check_server('openai')}, extra_params => [ '-U', $role ]);
	like($err, qr/refuses the key/, "$role: a key that is refused");
	unlike($err, qr/$KEY|$ROW/, "$role: is not shown");
	look();
	$sim->options(keys => '');

	# errors of submit's own; what it quotes are keys of rows and names of columns
	silently("UPDATE $role.notes SET body = ' ' WHERE id = 3");
	($status, $out, $err) = $node->psql('postgres', "SELECT llm_batch.submit('$role.notes', '{{body}}', '$LlmBatch::MODEL', server => 'openai')", extra_params => [ '-U', $role ]);
	like($err, qr/the prompt for key 3 is empty/, "$role: an empty prompt is refused");
	silently("UPDATE $role.notes SET body = repeat('$ROW ', 3000000) WHERE id = 3");
	($status, $out, $err) = $node->psql('postgres', "SELECT llm_batch.submit('$role.notes', '{{body}}', '$LlmBatch::MODEL', server => 'openai')", extra_params => [ '-U', $role ]);
	like($err, qr/the prompt for key 3 is too long/, "$role: one that is too long");
	unlike($err, qr/$ROW/, "$role: and is not quoted");
	# an error in the middle of storing: what is being stored is not told
	($status, $out, $err) = $node->psql('postgres', "SET statement_timeout = '150ms'; SELECT llm_batch.submit_query('SELECT 1 AS key, body AS prompt FROM $role.notes, pg_sleep(1) WHERE id = 1', '$LlmBatch::MODEL', server => 'openai'$tail{$role})",
		extra_params => [ '-U', $role ]);
	like($err, qr/statement timeout/, "$role: a submit that is cancelled");
	silently("UPDATE $role.notes SET body = 'Row 3 on the $ROW.' WHERE id = 3");
}

# the worker's end, and its beginning with work in flight
$sim->options(run_seconds => 3600);
my $job = as('hushed', "SELECT llm_batch.submit('hushed.notes', $typed{hushed}, '$LlmBatch::MODEL', 'summary', server => 'openai', mode => 'batch')");
$sim->wait_for(sub { grep { $_->{status} eq 'in_progress' } $_[0]->batches });
silently(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
as('hushed', "SELECT llm_batch.cancel($job)");
like(wait_quietly($job), qr/^cancelled|partial$/, 'a worker that begins with work in flight');

# ---- what was said ----

# How a text looks in the dump of a plan: a byte is a number there.
sub as_bytes
{
	return join ' ', map { ord } split //, $_[0];
}

sub lines_with
{
	my ($text, $secret) = @_;
	my $bytes = as_bytes($secret);

	return join "\n", map { substr $_, 0, 2000 } grep { index($_, $secret) >= 0 || index($_, $bytes) >= 0 } split /\n/, $text;
}

my $log = slurp_file($node->logfile);
like($log, qr/DEBUG:  00000: /, 'the log is talkative');
like($log, qr/LOG:  00000: plan:/, 'it has plans');
like($log, qr/llm_batch event: \{/, 'and events');
like($log, qr/LOG:  00000: duration: [^\n]*plan:\n\s*Query Text: UPDATE loud\.notes/, 'also of the statements that write answers');
like($log, qr/statement: SELECT llm_batch\.submit\('loud\.notes'/, 'and what users type');
is(lines_with($log, $KEY), '', 'no key in the log');
is(lines_with($log, $ROW), '', 'no text of a row: no prompt, no answer');
is(lines_with($log, $TYPED), '', 'no template, system prompt or schema of somebody whose own sessions are not logged');
my $said = join "\n", sort keys %said;
like($said, qr/sent|planned|in_progress/, 'what was looked at while it ran has something in it');
is(lines_with($said, $_), '', "no \"$_\" in activity, events, batches, progress or the queue") foreach $KEY, $ROW, $TYPED;
my $statements = silently('SELECT query FROM pg_stat_statements');
like($statements, qr/UPDATE loud\.notes/, 'statistics of statements have ours');
is(lines_with($statements, $_), '', "no \"$_\" in them") foreach $KEY, $ROW, $TYPED;
is(lines_with(silently("SELECT name || ' ' || setting FROM pg_settings UNION ALL SELECT s::text FROM pg_file_settings s UNION ALL SELECT s::text FROM pg_db_role_setting s"), $_), '',
	"no \"$_\" in settings") foreach $KEY, $ROW, $TYPED;
foreach my $role (qw(loud hushed))
{
	is( as($role, q{SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL}), '0', "$role: a key for PUBLIC is not shown to whom it serves");
	is( lines_with(as($role, q{SELECT s::text FROM pg_foreign_server s UNION ALL SELECT o::text FROM information_schema.user_mapping_options o
		UNION ALL SELECT o::text FROM information_schema.foreign_server_options o}), $KEY), '', "$role: nor in the views of the standard");
}
check_sim($sim);

# ---- README: how to type a key that nothing logs ----

my $usual = start_node(name => 'usual', preload => 'llm_batch,pg_stat_statements', conf => [
	q{log_statement = 'all'}, 'log_min_duration_statement = 0', 'log_parameter_max_length = -1', q{pg_stat_statements.track = 'all'} ]);
my ($recipe) = slurp_file("$FindBin::RealBin/../../README.md") =~ /```sql\n(BEGIN;\n(?:(?!```).)*\\getenv(?:(?!```).)*)```/s;
ok($recipe, 'README has a recipe');
sql($usual, q{CREATE ROLE boss; CREATE EXTENSION pg_stat_statements; CREATE SERVER openai FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai')});
foreach my $time (qw(once twice))
{
	local $ENV{OPENAI_API_KEY} = $KEY;
	my ($status, $out, $error) = $usual->psql('postgres', $recipe // '');

	is($error =~ /ERROR/ ? 'refused' : 'done', $time eq 'once' ? 'done' : 'refused', "it is followed $time");
}
is(sql($usual, q{SELECT count(*) FROM pg_user_mappings WHERE usename = 'boss'}), '1', 'the mapping is there');
unlike(slurp_file($usual->logfile), qr/\Q$KEY\E/, 'its key is not in the log, not even of the one that failed');
like(slurp_file($usual->logfile), qr/CREATE SERVER openai/, 'where other statements are');
is(sql($usual, "SELECT count(*) FROM pg_stat_statements WHERE query ~ '" . substr($KEY, 0, 9) . "' AND query !~ 'pg_stat_statements'"), '0',
	'and not among the statistics');

done_testing();
