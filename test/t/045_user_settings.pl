# Settings of databases, roles and sessions change neither what the worker does
# nor what a prompt says.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node(conf => [ "llm_batch.keep_prompts = 'forever'" ]);

sql($node, q{
	CREATE SCHEMA evil;
	CREATE ROLE alice;
	CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0');
	CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
	INSERT INTO articles SELECT n, 'Article ' || n || ' speaks. At length.' FROM generate_series(1, 30) n});

# ---- of databases and roles: for the worker ----

# What they say, and what the sessions of this test say instead.
my %settings = (
	default_transaction_isolation => [ 'serializable', 'read\ committed' ],
	default_transaction_read_only => [ 'on', 'off' ],
	default_transaction_deferrable => [ 'on', 'off' ],
	statement_timeout => [ '1ms', '0' ],
	lock_timeout => [ '1ms', '0' ],
	idle_in_transaction_session_timeout => [ '1ms', '0' ],
	search_path => [ 'evil', 'public' ],
	synchronous_commit => [ 'off', 'on' ],
	session_replication_role => [ 'replica', 'origin' ],
	row_security => [ 'off', 'on' ],
	role => [ 'alice', 'none' ],
	DateStyle => [ 'German', 'ISO' ],
	IntervalStyle => [ 'iso_8601', 'postgres' ],
	TimeZone => [ 'Pacific/Chatham', 'Asia/Tokyo' ],
	extra_float_digits => [ '-15', '1' ],
	bytea_output => [ 'escape', 'hex' ],
	client_encoding => [ 'LATIN1', 'UTF8' ],
	standard_conforming_strings => [ 'off', 'on' ],
	array_nulls => [ 'off', 'on' ],
	quote_all_identifiers => [ 'on', 'off' ],
	transform_null_equals => [ 'on', 'off' ],
	enable_indexscan => [ 'off', 'on' ],
	enable_bitmapscan => [ 'off', 'on' ],
	enable_nestloop => [ 'off', 'on' ],
	plan_cache_mode => [ 'force_generic_plan', 'auto' ]);
my $version = sql($node, 'SHOW server_version_num');
$settings{transaction_timeout} = [ '1ms', '0' ] if $version >= 170000;
delete $settings{standard_conforming_strings} if $version >= 190000;

# A trigger tells what it was run with.
my @told = qw(DateStyle IntervalStyle TimeZone bytea_output extra_float_digits row_security search_path session_replication_role
	synchronous_commit transaction_isolation transaction_read_only);
my $told = join ', ', map { "'$_'" } @told;
sql($node, qq{
	CREATE TABLE found (name text, setting text);
	CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO public.found SELECT name, split_part(setting, ', DMY', 1) FROM pg_settings WHERE name IN ($told);
		RETURN NEW;
	END \$\$;
	CREATE TRIGGER look BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION look()});

foreach my $whose ('DATABASE postgres', 'ROLE postgres IN DATABASE postgres', 'ROLE ALL')
{
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=$settings{$_}[1]" } sort keys %settings;

	sql($node, join '; ', map { "ALTER $whose SET $_ = " . quote($settings{$_}[0]) } sort keys %settings);
	# the one that is there has its settings already
	sql($node, q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'});
	my $job = submit($node, server => 'fast', target => 'summary');
	is(wait_job($node, $job), 'succeeded', "settings of $whose: a job ends well");
	check_job($node, $job);
	is(sql($node, q{SELECT count(*) FROM articles WHERE summary = 'Article ' || id || ' speaks.'}), '30', 'all answers are written');
	is( sql($node, q{SELECT string_agg(setting, E'\n' ORDER BY setting) FROM (SELECT DISTINCT name || ' ' || setting COLLATE "C" AS setting FROM found) f}),
		join("\n", 'DateStyle ISO', 'IntervalStyle postgres', 'TimeZone Asia/Tokyo', 'bytea_output hex', 'extra_float_digits 1', 'row_security on',
			'search_path pg_catalog, pg_temp', 'session_replication_role origin', 'synchronous_commit on',
			'transaction_isolation read committed', 'transaction_read_only off'),
		'with pinned settings, and the time zone of the session that submitted');
	sql($node, qq{ALTER $whose RESET ALL; ALTER TABLE articles DISABLE TRIGGER look; UPDATE articles SET summary = NULL;
		ALTER TABLE articles ENABLE TRIGGER look; TRUNCATE found});
}

# ---- of sessions: for what a prompt says ----

# A row whose text depends on settings, found by keys that do.
sql($node, q{
	CREATE TABLE moments (day date, at timestamptz, span interval, share float8, raw bytea, body text, answer text, PRIMARY KEY (day, at, span, share, raw));
	INSERT INTO moments
	SELECT date '2026-02-03' + n, timestamptz '2026-02-03 04:05:06.789+00' + n * interval '1 hour', n * interval '1 day 2:03:04', 1.0 / (n + 2),
		decode(lpad(to_hex(n), 4, '0'), 'hex'), 'Moment ' || n || ' passes.'
	FROM generate_series(1, 20) n;
	CREATE TABLE days (day date PRIMARY KEY, body text, answer text);
	INSERT INTO days SELECT date '2026-01-01' + n, 'Day ' || n || ' passes.' FROM generate_series(1, 40) n});

my %prompts;
my $PROMPT = '{{body}} {{day}} {{at}} {{span}} {{share}} {{raw}} {{day|json}} {{at|json}} {{span|json}} {{share|json}} {{raw|json}}';
foreach my $session (
	[ 'plain', q{SET TimeZone = 'Asia/Tokyo'} ],
	[ 'German', q{SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = -10; SET bytea_output = 'escape'} ],
	[ 'SQL', q{SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, MDY'; SET IntervalStyle = 'sql_standard'; SET default_transaction_isolation = 'serializable'} ],
	[ 'elsewhere', q{SET TimeZone = '<+03>-03:30'; SET DateStyle = 'German'} ])
{
	my ($name, $set) = @$session;
	my $job = sql($node, qq{$set; SELECT llm_batch.submit('moments', '$PROMPT', 'mock', target => 'answer', server => 'fast')});
	my $days = sql($node, qq{$set; SELECT llm_batch.submit('days', '{{body}} {{day}}', 'mock', target => 'answer', server => 'fast', filter => 'day > ''2026-02-01''')});

	is(wait_job($node, $job), 'succeeded', "$name: a session's own forms make nothing stale");
	is(sql($node, 'SELECT count(*) FROM moments WHERE answer = body'), '20', "$name: each answer found its row");
	is(wait_job($node, $days), 'succeeded', "$name: nor with a date as the key");
	is(sql($node, 'SELECT count(*), min(day) FROM days WHERE answer IS NOT NULL'), '9|2026-02-02', "$name: and a date in the filter");
	$prompts{$name} = sql($node, "SELECT string_agg(prompt, E'\n' ORDER BY ordinal) FROM llm_batch.prompt WHERE job_id = $job");
	sql($node, 'UPDATE moments SET answer = NULL; UPDATE days SET answer = NULL');
}
is((split /\n/, $prompts{plain})[0],
	'Moment 1 passes. 2026-02-04 2026-02-03 14:05:06.789+09 1 day 02:03:04 0.3333333333333333 \x0001 '
	  . '"2026-02-04" "2026-02-03T14:05:06.789+09:00" "1 day 02:03:04" 0.3333333333333333 "\\\\x0001"',
	'a prompt has dates in ISO form, in the time zone of the session');
is($prompts{$_}, $prompts{plain}, "$_: it says the same") foreach qw(German SQL);
like((split /\n/, $prompts{elsewhere})[0], qr/^Moment 1 passes. 2026-02-04 2026-02-03 08:35:06.789\+03:30 /, 'elsewhere: in that time zone');

done_testing();
