# mask_pii: no e-mail address, phone number, card, IBAN, IP address, national
# id or text of a pattern of the user's leaves the database, by whichever way;
# the answers have them back; and what was replaced is known to nobody else,
# and forgotten with the prompts.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JSON::PP ();
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $orders = PostgreSQL::Test::Utils::tempdir('crash') . '/orders';
my $node = start_node(conf => [ "llm_batch.crash_file = '$orders'", 'restart_after_crash = on', "log_statement = 'none'", 'log_min_error_statement = panic', 'llm_batch.log_events = all' ]);
my $sim = start_sim(record => 1);
my @apis = qw(openai anthropic gemini);

# What must never be on the wire, in whatever writing.
my @secrets = (
	qr/anna\.secret\d*\@example\.com/i, qr/5550\s?123/, qr/4111.?1111.?1111.?1111/, qr/DE89.?3704/i, qr/10\.20\.30\.40/,
	qr/123-45-6789/, qr/boss\@corp\.example/, qr/Zebrafish/i, qr/2001:db8/i);

# All that came in since the last call, and whether a secret is in it.
my $read = 0;

sub sent
{
	open my $file, '<', $sim->record_file or die "no record: $!";
	seek $file, $read, 0;
	my @lines = <$file>;
	$read = tell $file;
	close $file;
	return join '', map { my $r = JSON::PP->new->decode($_); join "\n", $r->{path}, $r->{query} // '', $r->{body} // '', '' } @lines;
}

sub nothing_left
{
	my ($name) = @_;
	my $sent = sent();
	my @found = grep { $sent =~ $_ } @secrets;

	cmp_ok(length $sent, '>', 100, "$name: something was sent");
	is("@found", '', "$name: no original was sent");
	return $sent;
}

sub maps { return sql($node, 'SELECT count(*) FROM llm_batch.pii_map' . (@_ ? " WHERE job_id = $_[0]" : '')) }

sub error_of
{
	my ($query, @role) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $query, extra_params => [ map { ('-U', $_) } @role ]);

	return $err =~ /ERROR:  (.*)/ ? $1 : "no error: $out";
}

# ---- redact() and patterns ----

is(sql($node, q{SELECT llm_batch.redact('Write to anna.secret1@example.com or anna.secret1@example.com, call +49 30 5550123.')}),
	'Write to [EMAIL_1] or [EMAIL_1], call [PHONE_1].', 'redact() shows what would be sent');
is(sql($node, q{SELECT llm_batch.redact('4111 1111 1111 1111, DE89 3704 0044 0532 0130 00, 10.20.30.40, 123-45-6789; [CARD_1]')}),
	'[CARD_2], [IBAN_1], [IP_1], [NATIONAL_ID_1]; [CARD_1]', 'and passes over what the text mentions');
is(sql($node, q{SELECT llm_batch.redact(to_json(E'Contact:\n+49 30 5550123\tDE89370400440532013000\nanna.secret1@example.com\r\n10.20.30.40'::text)::text)}),
	'"Contact:\n[PHONE_1]\t[IBAN_1]\n[EMAIL_1]\r\n[IP_1]"', 'what stands behind an escape of JSON is found');
is(sql($node, q{SELECT llm_batch.redact('postgres://anna:secret@db.example.com/x?mail=anna.secret1%40example.com')}),
	'postgres://[LOGIN_1]@db.example.com/x?mail=[EMAIL_1]', 'passwords and parameters of a URL are');
is(sql($node, q{SELECT llm_batch.redact('Version 1.2.3 of 2026-11-21, order 4111111111111112')}),
	'Version 1.2.3 of 2026-11-21, order 4111111111111112', 'what is nobody\'s stays');
is(sql($node, q{SELECT llm_batch.redact(NULL) IS NULL, llm_batch.redact('') = ''}), 't|t', 'nothing, and the empty text');

sql($node, q{
	CREATE ROLE clerk LOGIN;
	CREATE ROLE other LOGIN;
	INSERT INTO llm_batch.pii_pattern (name, pattern, label, comment) VALUES ('project', '(?i)zebrafish\w*', 'PROJECT', 'not yet announced')});
is(sql($node, q{SELECT llm_batch.redact('Über Zebrafish7 und ZEBRAFISH, zebrafish@example.com')}), 'Über [PROJECT_1] und [PROJECT_2], [EMAIL_1]',
	'a pattern masks; what overlaps is masked as a whole');
sql($node, q{INSERT INTO llm_batch.pii_pattern VALUES ('off', 'Über', 'WORD', false)});
unlike(sql($node, q{SELECT llm_batch.redact('Über')}), qr/WORD/, 'one that is not enabled does not');
like(error_of(q{INSERT INTO llm_batch.pii_pattern (name, pattern) VALUES ('x', '(a')}), qr/parentheses/, 'one that does not compile is refused');
like(error_of(q{INSERT INTO llm_batch.pii_pattern (name, pattern) VALUES ('x', '(a+)+\1')}), qr/back references/, 'one with a back reference is refused');
like(error_of(q{INSERT INTO llm_batch.pii_pattern (name, pattern) VALUES ('x', 'a*')}), qr/empty text/, 'one that matches nothing is refused');
like(error_of(q{INSERT INTO llm_batch.pii_pattern VALUES ('x', 'a', 'no label')}), qr/pii_pattern_label/, 'a label is a word in capitals');
like(error_of(q{INSERT INTO llm_batch.pii_pattern VALUES ('x', 'a')}, 'clerk'), qr/permission denied/, 'patterns are the owner\'s to write');
like(error_of(q{UPDATE llm_batch.pii_pattern SET enabled = false}, 'clerk'), qr/permission denied/, 'and to change');
is($node->safe_psql('postgres', q{SELECT count(*) FROM llm_batch.pii_pattern}, extra_params => [ '-U', 'clerk' ]), '2', 'all may read them');
is($node->safe_psql('postgres', q{SELECT llm_batch.redact('a@b.de Zebrafish')}, extra_params => [ '-U', 'clerk' ]), '[EMAIL_1] [PROJECT_1]', 'and redact by them');

# ---- jobs ----

# The first sentence comes back as the answer.
my @bodies = (
	'Anna (anna.secret1@example.com) writes. Her number is +49 30 5550123.',
	'Paid with 4111 1111 1111 1111, or else from DE89 3704 0044 0532 0130 00 by anna.secret2@example.com! More.',
	'SSN 123-45-6789 logged in from 10.20.30.40 and 2001:db8::7. Zebrafish.',
	'About Zebrafish and anna.secret1@example.com, anna.secret1@example.com.',
	'Nothing of anybody here. See [EMAIL_1].');
my $SYSTEM = 'You help boss@corp.example with Zebrafish.';

sub people
{
	my $values = join ', ', map { '(' . ($_ + 1) . ', ' . quote($bodies[$_]) . ')' } 0 .. $#bodies;

	sql($node, qq{
		DROP TABLE IF EXISTS people;
		CREATE TABLE people (id int PRIMARY KEY, body text, summary text, mood text, score int);
		INSERT INTO people VALUES $values});
}

people();
create_server($node, $sim, name => $_, api => $_, invalid_output_retries => 0) foreach @apis;

my %ask = (source => 'people', prompt => '{{body}}', target => 'summary', mask_pii => 'true');

# The answer is the first sentence, whose end is a dot, or a sign, and a blank.
my $RIGHT = q{bool_and(summary = substring(body from '^.*?[.!](?= |$)'))};

foreach my $api (@apis)
{
	foreach my $mode ('batch', 'realtime')
	{
		people();
		sent();
		my $job = submit($node, %ask, server => $api, model => $LlmBatch::MODEL{$api}, system => $SYSTEM, mode => $mode);
		is(wait_job($node, $job), 'succeeded', "$api, $mode: the job succeeded") or explain_job($node, $job);
		my $sent = nothing_left("$api, $mode");
		like($sent, qr/Anna \(\[EMAIL_2\]\) writes\. Her number is \[PHONE_1\]/, "$api, $mode: placeholders were; the system prompt has the first");
		like($sent, qr/You help \[EMAIL_1\] with \[PROJECT_1\]/, "$api, $mode: also there");
		like($sent, qr/Nothing of anybody here\. See \[EMAIL_1\]/, "$api, $mode: a text goes as it is");
		is(sql($node, "SELECT $RIGHT FROM people"), 't', "$api, $mode: the answers have the originals") or diag(sql($node, 'TABLE people'));
		is(sql($node, "SELECT bool_and(answer !~ '(EMAIL|PHONE|CARD|PROJECT)_1' OR ordinal = 5) FROM llm_batch.results WHERE job_id = $job"), 't',
			"$api, $mode: so have the results");
		is(maps(), '0', "$api, $mode: the map is gone");
		check_job($node, $job, "$api, $mode");
	}
}

# A query's own prompts: messages, a system prompt for each.
foreach my $api (@apis)
{
	sent();
	my $job = sql($node, qq{
		SELECT llm_batch.submit_query(\$\$
			SELECT 1 AS key, NULL AS prompt, NULL AS system, jsonb_build_array(
				jsonb_build_object('role', 'user', 'content', 'I am "anna.secret1\@example.com" and my card is 4111-1111-1111-1111'),
				jsonb_build_object('role', 'assistant', 'content', E'Noted.\\nMore?'),
				jsonb_build_object('role', 'user', 'content', 'Tell anna.secret1\@example.com and 10.20.30.40 of Zebrafish')) AS messages
			UNION ALL
			SELECT 2, 'Say +49 30 5550123', 'For boss\@corp.example', NULL\$\$,
			'$LlmBatch::MODEL{$api}', server => '$api', mode => 'batch', mask_pii => true)});
	is(wait_job($node, $job), 'succeeded', "$api, messages: the job succeeded") or explain_job($node, $job);
	nothing_left("$api, messages");
	is(sql($node, "SELECT string_agg(answer, ' | ' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $job") =~ /EMAIL|PHONE/, '',
		"$api, messages: the answers have the originals");
	is(maps($job), '0', "$api, messages: the map is gone");
}

# Texts of messages that begin as a file does, or are written as one.
{
	sent();
	my $job = sql($node, qq{
		SELECT llm_batch.submit_query(\$\$
			SELECT n AS key, jsonb_build_array(jsonb_build_object('role', 'user', 'content', content)) AS messages
			FROM (VALUES (1, to_jsonb('Data: anna.secret1\@example.com has 4111 1111 1111 1111'::text)),
				(2, to_jsonb((SELECT string_agg('Iban-DE89370400440532013000', E'\\n') FROM generate_series(1, 30)))),
				(3, jsonb_build_array(jsonb_build_object('type', 'text', 'text', 'data:anna.secret3\@example.com')))) t(n, content)\$\$,
			'$LlmBatch::MODEL{openai}', server => 'openai', mode => 'batch', mask_pii => true)});
	is(wait_job($node, $job), 'succeeded', 'texts as files: the job succeeded') or explain_job($node, $job);
	like(nothing_left('texts as files'), qr/Data: \[EMAIL_1\] has \[CARD_1\]/, 'texts as files: placeholders were');
}

# ---- answers that are JSON ----

people();
# what has to be escaped in JSON, and what is a number in it
sql($node, q{
	INSERT INTO llm_batch.pii_pattern VALUES ('quote', '"the \\\\fish"', 'CODE');
	UPDATE people SET body = E'Code "the \\\\fish" of anna.secret4@example.com is good. More.' WHERE id = 1});
sent();
foreach my $api (@apis)
{
	sql($node, 'UPDATE people SET summary = NULL, mood = NULL');
	my $job = submit($node, %ask, target => 'summary, mood', filter => 'id = 1', server => $api, model => $LlmBatch::MODEL{$api}, mode => 'batch');
	is(wait_job($node, $job), 'succeeded', "$api, typed: the job succeeded") or explain_job($node, $job);
	nothing_left("$api, typed");
	is(sql($node, 'SELECT summary, mood = summary FROM people WHERE id = 1'), 'Code "the \\fish" of anna.secret4@example.com is good.|t',
		"$api, typed: quotes and backslashes came back");
	is(sql($node, "SELECT answer_json->>'summary' FROM llm_batch.results WHERE job_id = $job"), 'Code "the \\fish" of anna.secret4@example.com is good.',
		"$api, typed: the stored answer is JSON");
	is(maps(), '0', "$api, typed: the map is gone");
}

# Rows as JSON, and messages whose strings hold JSON.
people();
sql($node, q{
	UPDATE llm_batch.pii_pattern SET enabled = false WHERE name = 'quote';
	UPDATE people SET body = E'Tell\nanna.secret1@example.com\t+49 30 5550123\r\n10.20.30.40\nDE89370400440532013000 of it. More.' WHERE id = 1});
sent();
foreach my $prompt ('{{body|json}}', '{{*|json}}')
{
	my $job = submit($node, %ask, prompt => $prompt, filter => 'id = 1', server => 'openai', mode => 'batch');
	is(wait_job($node, $job), 'succeeded', "$prompt: the job succeeded") or explain_job($node, $job);
	like(nothing_left($prompt), qr/Tell\\\\n\[EMAIL_1\]\\\\t\[PHONE_1\]\\\\r\\\\n\[IP_1\]\\\\n\[IBAN_1\] of it/, "$prompt: placeholders were");
	is(sql($node, q{SELECT summary ~ 'anna\.secret1@.*5550123' AND summary !~ '\[[A-Z]+_\d' FROM people WHERE id = 1}), 't',
		"$prompt: the answer has the originals");
}
{
	my $job = sql($node, qq{
		SELECT llm_batch.submit_query(\$\$
			SELECT 1 AS key, jsonb_build_array(jsonb_build_object('role', 'user', 'content', to_json(body)::text)) AS messages FROM people WHERE id = 1\$\$,
			'$LlmBatch::MODEL{openai}', server => 'openai', mode => 'batch', mask_pii => true)});
	is(wait_job($node, $job), 'succeeded', 'JSON in messages: the job succeeded') or explain_job($node, $job);
	like(nothing_left('JSON in messages'), qr/Tell\\\\n\[EMAIL_1\]\\\\t\[PHONE_1\]/, 'JSON in messages: placeholders were');
}

# What models make of placeholders.
people();
$sim->rule({}, items => [ { do => { answer => 'Mail email_1 or [ EMAIL_1 ], \\[EMAIL\\_1\\], not EMAIL_9, about PROJECT_1.' } } ]);
my $job = submit($node, %ask, filter => 'id = 4', server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'succeeded', 'an answer that varies placeholders');
is(sql($node, 'SELECT summary FROM people WHERE id = 4'),
	'Mail anna.secret1@example.com or anna.secret1@example.com, anna.secret1@example.com, not EMAIL_9, about Zebrafish.', 'is understood');
$sim->clear_rules;

# ---- estimate and preview ----

my $list = q{source => 'people', prompt => '{{body}}', model => 'gpt-6-luna', server => 'openai', filter => 'id = 2', system => 'For boss@corp.example'};
my $body = sql($node, "SELECT request FROM llm_batch.preview($list, mask_pii => true)");
like($body, qr/Paid with \[CARD_1\], or else from \[IBAN_1\] by \[EMAIL_2\]!.*/, 'preview shows what would be sent');
like($body, qr/For \[EMAIL_1\]/, 'of the system prompt as well');
like(sql($node, "SELECT request FROM llm_batch.preview($list)"), qr/Paid with 4111 1111/, 'without mask_pii it goes as it is');
is(sql($node, "SELECT (SELECT input_tokens FROM llm_batch.estimate($list, mask_pii => true) LIMIT 1) < (SELECT input_tokens FROM llm_batch.estimate($list) LIMIT 1)"), 't',
	'estimate counts what would be sent');

# ---- who sees the map while it is there ----

people();
sql($node, q{GRANT ALL ON people TO clerk; GRANT USAGE ON FOREIGN SERVER openai TO clerk; CREATE USER MAPPING FOR clerk SERVER openai OPTIONS (api_key 'sk-clerk')});
$sim->options(run_seconds => 3600);
sent();
$job = $node->safe_psql('postgres', q{SELECT llm_batch.submit('people', '{{body}}', 'gpt-6-luna', 'summary', server => 'openai', mode => 'batch', mask_pii => true)},
	extra_params => [ '-U', 'clerk' ]);
$sim->wait_for(sub { grep { $_->{status} eq 'in_progress' } $_[0]->batches });
sub as { return $node->safe_psql('postgres', $_[1], extra_params => [ '-U', $_[0] ]) }
is(as('clerk', 'SELECT count(*) FROM llm_batch.pii_map'), '5', 'the owner sees what was replaced');
is(as('clerk', 'SELECT placeholders[1], originals[1] FROM llm_batch.pii_map WHERE ordinal = 1'), '[EMAIL_1]|anna.secret1@example.com', 'and by what');
is(as('other', 'SELECT count(*) FROM llm_batch.pii_map'), '0', 'another role sees nothing');
sql($node, 'GRANT pg_monitor TO other');
is(as('other', 'SELECT count(*) FROM llm_batch.pii_map'), '0', 'nor does a monitor');
is(as('other', "SELECT count(*) FROM llm_batch.job WHERE id = $job"), '1', 'who sees the job');
like(error_of('DELETE FROM llm_batch.pii_map', 'clerk'), qr/permission denied/, 'and nobody changes it');

# A row that changes: its new text is masked anew.
sql($node, q{UPDATE people SET body = 'Now anna.secret9@example.com, not 10.20.30.40. More.' WHERE id = 1});
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
is(wait_job($node, $job), 'partial', 'a row has changed');
is(maps($job), '1', 'its map stays with its prompt');
as('clerk', "SELECT llm_batch.retry($job, '{stale}')");
is(wait_job($node, $job), 'succeeded', 'and is asked anew');
like(nothing_left('a row that changed'), qr/Now \[EMAIL_1\], not \[IP_1\]/, 'with new placeholders');
is(sql($node, 'SELECT summary FROM people WHERE id = 1'), 'Now anna.secret9@example.com, not 10.20.30.40.', 'and has its answer');
is(maps(), '0', 'the map is gone');

# ---- a crash, and a file that is written again ----

foreach my $mode ('batch', 'realtime')
{
	people();
	sent();
	append_to_file($orders, "kill planning a batch: committed\n");
	$job = submit($node, %ask, server => 'openai', system => $SYSTEM, mode => $mode);
	my $until = time + $LlmBatch::PATIENCE;
	select undef, undef, undef, 0.05 while slurp_file($orders) =~ /kill/ && time < $until;
	is(slurp_file($orders), '', "$mode: the worker died when the batch was planned");
	$node->poll_query_until('postgres', 'SELECT true');
	is(wait_job($node, $job), 'succeeded', "$mode, after a crash: the job succeeded") or explain_job($node, $job);
	nothing_left("$mode, after a crash");
	is(sql($node, "SELECT $RIGHT FROM people"), 't', "$mode, after a crash: the answers have the originals");
	is(maps(), '0', "$mode, after a crash: the map is gone");
}

# An upload that fails for long, the worker dead meanwhile, patterns changed.
sub files_sent { return map { JSON::PP->new->decode($_) } grep { /"path": "\/v1\/files"/ } split /\n/, slurp_file($sim->record_file) }
people();
my $before = files_sent();
$sim->fault({ method => 'POST', path => '^/v1/files$', times => 1 }, { stall_before => 2, status => 503 });
$job = submit($node, %ask, server => 'openai', system => $SYSTEM, mode => 'batch');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'uploading'", 'an upload is under way');
sql($node, q{
	UPDATE llm_batch.pii_pattern SET enabled = false WHERE name = 'project';
	INSERT INTO llm_batch.pii_pattern VALUES ('later', 'Nothing|writes', 'LATER')});
my $offset = -s $node->logfile;
kill 'KILL', worker_pid($node);
$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
is(wait_job($node, $job), 'succeeded', 'after a crash in an upload: the job succeeded') or explain_job($node, $job);
my $sent = nothing_left('after a crash in an upload, with other patterns');
my @files = files_sent();
splice @files, 0, $before;
my %contents = map { s/boundary=\S+//gr =~ s/--+\w+//gr => 1 } map { $_->{body} =~ /(\{"custom_id.*\})/s ? $1 : () } grep { $_->{whole} } @files;
cmp_ok(scalar @files, '>=', 2, 'the file was sent again');
is(scalar keys %contents, 1, 'with the same bytes');
is(sql($node, "SELECT $RIGHT FROM people"), 't', 'after a crash in an upload: the answers have the originals');

# What is sent again goes as it went, though the patterns are others.
sql($node, q{UPDATE llm_batch.pii_pattern SET enabled = name = 'project'});
people();
$sim->rule({}, items => [ { prompt_contains => 'See', times => 1, do => { status_code => 500 } }, { prompt_contains => 'About', times => 1, do => { status_code => 500 } } ]);
$sim->options(run_seconds => 3600);
$job = submit($node, %ask, server => 'openai', system => $SYSTEM, mode => 'batch');
$sim->wait_for(sub { grep { $_->{status} eq 'in_progress' } $_[0]->batches });
sql($node, q{UPDATE llm_batch.pii_pattern SET enabled = name = 'later'});
sent();
$sim->options(run_seconds => 0.1);
$sim->advance(4000);
is(wait_job($node, $job), 'succeeded', 'after a retry: the job succeeded') or explain_job($node, $job);
$sent = nothing_left('after a retry, with other patterns');
like($sent, qr/About \[PROJECT_1\] and \[EMAIL_2\], \[EMAIL_2\]/, 'it went as it had gone');
unlike($sent, qr/LATER/, 'and a later pattern plays no part');
is(sql($node, "SELECT max(attempt) FROM llm_batch.attempts WHERE job_id = $job"), '2', 'a second time');
is(sql($node, "SELECT $RIGHT FROM people"), 't', 'after a retry: the answers have the originals');
is(maps(), '0', 'after a retry: the map is gone');
$sim->clear_rules;
sql($node, q{UPDATE llm_batch.pii_pattern SET enabled = name IN ('project', 'quote')});

# One that would be too long is no obstacle to the others.
people();
sql($node, q{UPDATE people SET body = 'Repeat ' || repeat('a', 1000000) || '@b.example' WHERE id = 4});
$sim->rule({}, items => [ { prompt_contains => 'Repeat', do => { answer => '[EMAIL_1] ' x 100 } } ]);
$job = submit($node, %ask, server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'partial', 'an answer that is too long with the originals: the others succeed');
is(sql($node, "SELECT error_code, error ~ 'too long with what was masked', answer = repeat('[EMAIL_1] ', 100) FROM llm_batch.results WHERE job_id = $job AND key = '4'"),
	'too_large|t|t', 'it has failed, and is kept with its placeholders') or explain_job($node, $job);
is(sql($node, 'SELECT count(summary) FROM people WHERE id <> 4'), '4', 'they are written');
$sim->clear_rules;

# A pattern that takes the square of a text's length: that item is not sent, the others are.
people();
sent();
sql($node, q{
	INSERT INTO llm_batch.pii_pattern VALUES ('square', 'secret(.*code)?', 'SQUARE');
	UPDATE people SET body = repeat('secret ', 45000) WHERE id = 2;
	UPDATE people SET mood = 'behind it' WHERE id = 5});
$job = submit($node, %ask, server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'partial', 'a pattern that takes too long on a text');
is(sql($node, "SELECT string_agg(key || ' ' || error_code || ' ' || error, '; ') FROM llm_batch.results WHERE job_id = $job AND state <> 'succeeded'"),
	'2 invalid_request it was not sent: the patterns of llm_batch.pii_pattern take too long on its text', 'that item fails');
unlike(nothing_left('a pattern that takes too long'), qr/secret secret/, 'its text was not sent');
is(sql($node, 'SELECT count(summary) FROM people'), '4', 'the others have their answers');
check_job($node, $job);
sql($node, q{DELETE FROM llm_batch.pii_pattern WHERE name = 'square'});
sql($node, "SELECT llm_batch.retry($job)");
wait_until($node, "SELECT state = 'succeeded' FROM llm_batch.job WHERE id = $job", 'retry() sends it when the pattern is gone');
check_job($node, $job);

# ---- errors ----

# A provider that quotes the request, and a row that does not take the answer.
people();
sent();
$sim->rule({}, items => [ { prompt_contains => 'Paid', do => { status_code => 400, merge => { error => { message => 'bad: Paid with [CARD_1] from [IBAN_1]' } } } } ]);
sql($node, q{ALTER TABLE people ADD CONSTRAINT short CHECK (length(summary) < 40) NOT VALID});
$job = submit($node, %ask, server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'partial', 'errors: some failed');
my $errors = sql($node, "SELECT string_agg(error_code || ': ' || error, E'\n' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $job AND error IS NOT NULL");
like($errors, qr/write_back/, 'errors: a row refused its answer');
my $events = sql($node, q{SELECT string_agg(message, E'\n') FROM llm_batch.events});
foreach my $secret (@secrets)
{
	unlike($errors, $secret, "errors do not quote $secret");
	unlike($events, $secret, "nor do events");
}
is(sql($node, "SELECT count(*) > 0 FROM llm_batch.results WHERE job_id = $job AND answer ~ 'secret1\@example'"), 't', 'while answers are kept as they should be');
sql($node, 'ALTER TABLE people DROP CONSTRAINT short');
$sim->clear_rules;
my $kept = maps($job);
cmp_ok($kept, '>', 0, 'failed items keep their maps with their prompts');
sql($node, "SELECT llm_batch.apply($job)");
wait_until($node, "SELECT failed <= 1 FROM llm_batch.progress WHERE job_id = $job", 'answers are written when they can be');
cmp_ok(maps($job), '<=', 1, 'and their maps go');
is(sql($node, 'SELECT summary FROM people WHERE id = 1'), 'Anna (anna.secret1@example.com) writes.', 'with the originals');

# A job that is atomic, and a trigger that says too much.
people();
sent();
sql($node, q{
	CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not %, of all', NEW.summary; END $$;
	CREATE TRIGGER loud BEFORE UPDATE ON people FOR EACH ROW WHEN (OLD.id = 4) EXECUTE FUNCTION loud()});
foreach my $atomic ('false', 'true')
{
	$job = submit($node, %ask, server => 'openai', mode => 'batch', atomic => $atomic);
	like(wait_job($node, $job), $atomic eq 'true' ? qr/^failed$/ : qr/^partial$/, "atomic $atomic: a trigger refuses an answer");
	is(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $job AND error ~ 'of all'") =~ s/.*(not .*)/$1/r, 'not About [PROJECT_1] and [EMAIL_1], [EMAIL_1]., of all',
		"atomic $atomic: what it says is told with placeholders");
}
sql($node, 'DROP TRIGGER loud ON people');
nothing_left('a trigger that refuses');

# ---- a task ----

people();
sent();
sql($node, qq{
	SELECT llm_batch.create_task('masked', '{{body}}', model => '$LlmBatch::MODEL', server => 'openai', target => 'summary', system => '$SYSTEM',
		mode => 'batch', mask_pii => true, max_wait => '0');
	SELECT llm_batch.attach('masked', 'people');
	UPDATE people SET body = 'Newly anna.secret5\@example.com has 10.20.30.40. More.' WHERE id IN (1, 2)});
wait_until($node, q{SELECT count(*) = 2 FROM people WHERE summary = 'Newly anna.secret5@example.com has 10.20.30.40.'}, 'a task\'s rows have their answers');
like(nothing_left('a task'), qr/Newly \[EMAIL_2\] has \[IP_1\]/, 'a task masks, too');
wait_until($node, q{SELECT NOT EXISTS (SELECT FROM llm_batch.progress WHERE task = 'masked' AND finished_at IS NULL)}, 'its job ends');
is(sql($node, q{SELECT count(*) FROM llm_batch.pii_map m JOIN llm_batch.job j ON j.id = m.job_id WHERE j.task = 'masked'}), '0', 'and forgets');
sql($node, q{SELECT llm_batch.detach('masked', 'people')});

# ---- embeddings, and answers in process ----

people();
sent();
sql($node, 'ALTER TABLE people ADD vec float8[]');
$job = submit($node, %ask, target => 'vec', model => 'text-embedding-3-small', server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'succeeded', 'embeddings: the job succeeded') or explain_job($node, $job);
nothing_left('embeddings');
is(sql($node, 'SELECT bool_and(cardinality(vec) = 1536) FROM people'), 't', 'embeddings: vectors are as they came');
is(maps($job), '0', 'embeddings: the map is gone');

foreach my $mode ('batch', 'realtime')
{
	people();
	$job = submit($node, %ask, model => 'mock', server => 'mock', mode => $mode);
	is(wait_job($node, $job), 'succeeded', "in process, $mode: the job succeeded") or explain_job($node, $job);
	unlike(sql($node, 'SELECT string_agg(summary, E\'\n\') FROM people WHERE id < 5'), qr/\[\w+_\d\]/, "in process, $mode: no placeholder is left");
}

# ---- not asked for ----

people();
sent();
$job = submit($node, %ask, mask_pii => undef, server => 'openai', mode => 'batch');
is(wait_job($node, $job), 'succeeded', 'without mask_pii');
like(sent(), qr/Anna \(anna\.secret1\@example\.com\) writes/, 'texts go as they are');
is(maps($job), '0', 'and nothing is kept');

# ---- databases that are not UTF-8 ----

{
	local $ENV{PGCLIENTENCODING} = 'UTF8';
	my %encoding = (latin1 => 'LATIN1', ascii => 'SQL_ASCII');

	foreach my $name (sort keys %encoding)
	{
		my $body = "M\xc3\xbcller <m\xc3\xbcller\@stra\xc3\x9fe.de> \xc3\xa4 Gr\xc3\xb6\xc3\x9fe7 \xc3\xbc.";
		my $text = "Der $body Mehr.";

		sql($node, "CREATE DATABASE $name TEMPLATE template0 ENCODING '$encoding{$name}' LOCALE 'C'");
		$node->safe_psql($name, qq{
			CREATE EXTENSION llm_batch;
			INSERT INTO llm_batch.pii_pattern VALUES ('size', 'Gr\xc3\xb6\xc3\x9fe[0-9]', 'SIZE');
			CREATE TABLE notes (id int PRIMARY KEY, body text, summary text);
			INSERT INTO notes VALUES (1, '$text')});
		is($node->safe_psql($name, "SELECT llm_batch.redact(body) FROM notes"), "Der M\xc3\xbcller <[EMAIL_1]> \xc3\xa4 [SIZE_1] \xc3\xbc. Mehr.", "$name: found and replaced");
		my $peak = $node->safe_psql($name, q{
			SELECT length(llm_batch.redact(repeat('abc def ', 50000)));
			SELECT substring(pg_read_file('/proc/' || pg_backend_pid() || '/status') FROM 'VmHWM:\s*(\d+)')});
		cmp_ok((split /\n/, $peak)[1], '<', 200_000, "$name: 400 kB take little memory");
		my ($status, $out, $err) = $node->psql($name, qq{
			SELECT llm_batch.submit('notes', '{{body}}', 'mock', 'summary', server => 'mock', mode => 'batch', mask_pii => true);
			CALL llm_batch.wait(1)});
		is($node->safe_psql($name, 'SELECT summary FROM notes'), "Der $body", "$name: and put back") or diag($err);
		$node->safe_psql($name, q{INSERT INTO llm_batch.pii_pattern VALUES ('any', 'Zebra.', 'ANY')});
		is($node->safe_psql($name, "SELECT llm_batch.redact('x Zebra\xc3\xb6, y Zebra\xc3\xa4z')"), 'x [ANY_1], y [ANY_2]', "$name: characters are masked as a whole");
		sql($node, "DROP DATABASE $name WITH (FORCE)");
	}
}

foreach my $secret (@secrets)
{
	unlike(slurp_file($node->logfile), $secret, "no $secret in the server's log, where events are");
}
check_sim($sim);

done_testing();
