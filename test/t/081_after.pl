# A job that begins when another has ended: its query runs then, in the
# worker, as its owner.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $orders = PostgreSQL::Test::Utils::tempdir('orders') . '/crash';
my $node = start_node(conf => [ "llm_batch.query_timeout = '2s'", "llm_batch.write_back_timeout = '500ms'", "llm_batch.crash_file = '$orders'", "llm_batch.max_prompt_size = '1MB'", "llm_batch.idle_timeout = '1s'",
	'restart_after_crash = on' ]);
my $sim = start_sim();
create_server($node, $sim);
create_articles($node, 20, name => 'notes');
sql($node, 'ALTER TABLE notes ADD gist text');

# Asks about what another job has written.
sub follow
{
	my ($after, %arg) = @_;
	return submit($node, source => 'notes', prompt => 'Again: {{summary}}', target => 'gist', filter => 'summary IS NOT NULL', after => $after, %arg);
}

sub follow_query
{
	my ($after, $query, $more) = @_;
	return sql($node, 'SELECT llm_batch.submit_query(' . quote($query) . ", '$LlmBatch::MODEL', server => 'sim', mode => 'batch', after => $after" . ($more // '') . ')');
}

sub prompts
{
	my ($prompts, $more) = @_;
	return sql($node, "SELECT llm_batch.submit_prompts($prompts, '$LlmBatch::MODEL', server => 'sim', mode => 'batch'" . ($more // '') . ')');
}

# A job that goes on until it is let go.
sub endless
{
	my $job = sql($node, qq{
		BEGIN;
		SELECT llm_batch.submit_prompts('{wait for it}', '$LlmBatch::MODEL', server => 'sim', mode => 'batch') AS job \\gset
		SELECT llm_batch.pause(:job) \\g /dev/null
		COMMIT;
		SELECT :job});
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.job WHERE id = $job");
	return $job;
}

sub go_on
{
	my ($job) = @_;
	sql($node, "SELECT llm_batch.resume($job)");
	return is(wait_job($node, $job), 'succeeded', "job $job goes on");
}

sub line
{
	my ($job) = @_;
	my $row = job_row($node, $job);
	return join ' ', map { $_ // 'NULL' } @$row{qw(state total queued succeeded failed cancelled reason)};
}

sub error
{
	my ($query) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $query);

	return $status == 0 ? "no error: $out" : $err;
}

# ---- one after the other ----

my $first = endless();
my $second = submit($node, source => 'notes', target => 'summary', after => $first);
my $third = follow($second);
my $fourth = follow_query($third, q{SELECT id AS key, 'Thrice: ' || gist AS prompt FROM public.notes WHERE gist IS NOT NULL});
is(line($second), "waiting 0 0 0 0 0 waits for job $first", 'it waits, and says for whom');
cmp_ok(job_row($node, $second)->{percent}, '==', 0, 'it does not look finished');
go_on($first);
is(wait_job($node, $fourth), 'succeeded', 'the last of the chain ends');
is(line($_), 'succeeded 20 0 20 0 0 NULL', "job $_ had its 20 items") foreach $second, $third, $fourth;
is(sql($node, "SELECT count(*) FROM notes WHERE gist = 'Again: Summarise: Article ' || id || ' speaks.'"), '20', 'the third has read what the second has written');
is(sql($node, "SELECT count(*) FROM llm_batch.results r JOIN notes n ON n.id::text = r.key WHERE job_id = $fourth AND answer = 'Thrice: ' || gist"), '20',
	'the fourth what the third has');
check_job($node, $_) foreach $second, $third, $fourth;

# several after one, which has ended already: at once, with filter and limit
my @after = map { follow($second, filter => 'id > 3', limit => $_) } 5, 7;
is(wait_job($node, $_), 'succeeded', "job $_ begins at once") foreach @after;
is(join(' ', map { job_row($node, $_)->{total} } @after), '5 7', 'each with its limit');
is(sql($node, "SELECT string_agg(key, ' ' ORDER BY ordinal) FROM llm_batch.item WHERE job_id = $after[0]"), '4 5 6 7 8', 'and its filter');

# prompts of an array are there at once, and held
my $held = endless();
my $array = prompts("'{one,two,three}'", ", after => $held");
is(line($array), "waiting 3 3 0 0 0 waits for job $held", 'prompts are items at once');
sleep 0.5;
is(sql($node, "SELECT count(*) FROM llm_batch.batches WHERE job_id = $array"), '0', 'and nothing of them goes');
my $empty = prompts("'{}'", ", after => $held");
go_on($held);
is(wait_job($node, $array), 'succeeded', 'then they go');
is(wait_job($node, $empty), 'succeeded', 'none at all is no failure');
is(sql($node, "SELECT string_agg(answer, ' ' ORDER BY ordinal) FROM llm_batch.results WHERE job_id = $array"), 'one two three', 'each with its answer');

# what follows the other at once goes before
sql($node, 'CREATE TABLE fact (n int)');
my $followed = prompts("'{fact}'", ", on_success => 'INSERT INTO public.fact SELECT generate_series(1, 6) FROM pg_sleep(0.2)'");
my $facts = follow_query($followed, q{SELECT n AS key, 'Fact.' AS prompt FROM public.fact});
is(wait_job($node, $facts), 'succeeded', 'after a job with on_success');
is(job_row($node, $facts)->{total}, 6, 'its query finds what that has made');

# a query without rows
my $none = follow_query($first, q{SELECT 1 AS key, 'x' AS prompt WHERE false});
is(wait_job($node, $none), 'succeeded', 'no rows are no failure');
is(line($none), 'succeeded 0 0 0 0 0 NULL', 'and no items');

# ---- when the other does not end well ----

$held = endless();
my $victim = follow($held);
my $grandchild = prompts("'{a,b}'", ", after => $victim, on_error => 'SELECT 1'");
sql($node, "SELECT llm_batch.cancel($held)");
is(wait_job($node, $grandchild), 'cancelled', 'who comes after a cancelled job is cancelled');
is(line($victim), "cancelled 0 0 0 0 0 job $held, after which it was to begin, has ended cancelled", 'with the reason');
is(line($grandchild), "cancelled 2 0 0 0 2 job $victim, after which it was to begin, has ended cancelled", 'and all the chain with it');
check_job($node, $grandchild);
my $late = follow($held);
is(wait_job($node, $late), 'cancelled', 'after one that had ended so: at once');
my ($status, $out, $err) = $node->psql('postgres', "CALL llm_batch.wait($late)");
like($err, qr/job $held, after which it was to begin, has ended cancelled/, 'wait() tells it');

# ---- what is asked of one that waits ----

$held = endless();
my @asked = map { follow($held) } 1 .. 2;
push @asked, follow($held, deadline => '1 second'), prompts("'{a,b}'", ", after => $held, deadline => '1 second'");
sql($node, "SELECT llm_batch.cancel($asked[0])");
is(wait_job($node, $asked[0]), 'cancelled', 'it can be cancelled');
is(line($asked[0]), 'cancelled 0 0 0 0 0 NULL', 'without items');
sql($node, "SELECT llm_batch.pause($asked[1])");
is(wait_job($node, $asked[2]), 'failed', 'its deadline counts');
is(line($asked[2]), "failed 0 0 0 0 0 its deadline was over before it could begin after job $held", 'and is the reason');
is(wait_job($node, $asked[3]), 'failed', 'also of prompts that wait');
is(sql($node, "SELECT string_agg(DISTINCT error_code, ' ') FROM llm_batch.results WHERE job_id = $asked[3]"), 'expired', 'which are expired');
($status, $out, $err) = $node->psql('postgres', "CALL llm_batch.wait($asked[1], '0.3 s')");
like($err, qr/has not ended within the timeout/, 'wait() can be given up');
like(error("SELECT llm_batch.forget($first); SELECT llm_batch.forget($held)"), qr/cannot be forgotten/, 'the other is kept meanwhile');
go_on($held);
sleep 0.3;
is(line($asked[1]), 'paused 0 0 0 0 0 paused by request', 'a paused one waits on');
sql($node, "SELECT llm_batch.resume($asked[1])");
is(wait_job($node, $asked[1]), 'succeeded', 'and begins when it is resumed');

# ---- refused at submit ----

$held = endless();
my $future = sql($node, 'SELECT last_value + 1 FROM llm_batch.job_id_seq');
like(error("SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock', after => $future)"), qr/job $future does not exist/, 'no cycle: ids point back');
my %refused = (
	'names without a schema' => [ q{SELECT id AS key, body AS prompt FROM notes}, qr/relation "notes" does not exist.*search_path pg_catalog, pg_temp/s ],
	'an unknown column' => [ q{SELECT id AS key, bdoy AS prompt FROM public.notes}, qr/column "bdoy" does not exist/ ],
	'no prompt' => [ q{SELECT id AS key FROM public.notes}, qr/the query yields no column "prompt"/ ],
	'bad syntax' => [ q{SELECT id AS key FROM FROM}, qr/syntax error at or near "FROM"/ ],
	'two statements' => [ q{SELECT 1 AS key; SELECT 2}, qr/must be one statement/ ] );
foreach my $what (sort keys %refused)
{
	my ($query, $like) = @{ $refused{$what} };
	like(error('SELECT llm_batch.submit_query(' . quote($query) . ", 'mock', server => 'mock', after => $held)"), $like, "refused: $what");
}
like(error("CREATE TEMP TABLE t (key int, prompt text); SELECT llm_batch.submit_query('SELECT * FROM t', 'mock', server => 'mock', after => $held)"),
	qr/"t" is a temporary table/, 'refused: temporary tables');
like(error("SELECT llm_batch.submit('notes', '{{body}}', 'mock', server => 'mock', filter => 'nonsense(id)', after => $held)"), qr/nonsense\(bigint\) does not exist/,
	'refused: a filter that cannot be planned');
sql($node, q{CREATE ROLE analyst; CREATE ROLE other; GRANT SELECT, UPDATE ON notes TO analyst; GRANT SELECT (id, body) ON notes TO other;
	GRANT USAGE ON FOREIGN SERVER sim TO analyst; CREATE USER MAPPING FOR analyst SERVER sim OPTIONS (api_key 'sk-test')});
like(error("SET ROLE other; SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock', after => $held)"), qr/job $held does not exist/, 'nor after a job of somebody else');
like(error("SET ROLE other; SELECT llm_batch.submit_query('SELECT id AS key, gist AS prompt FROM public.notes', 'mock', server => 'mock', after => llm_batch.submit_prompts('{a}', 'mock', server => 'mock'))"),
	qr/permission denied for table notes/, 'privileges are asked at submit');
is(sql($node, "SELECT max(id) FROM llm_batch.job"), $held, 'nothing of all that is there');

# the same request is the same job, also when it has begun
my $keyed = follow_query($held, q{SELECT 1 AS key, 'x' AS prompt}, ", request_key => 'k'");
is(follow_query($held, q{SELECT 1 AS key, 'x' AS prompt}, ", request_key => 'k'"), $keyed, 'request_key finds it');

# ---- what goes wrong when it begins ----

# Rows that cannot be sent do not keep the others from going.
my $mixed = follow_query($held, q{SELECT n AS key, CASE n % 5 WHEN 0 THEN ' ' WHEN 1 THEN repeat('x', 2000000) WHEN 2 THEN NULL ELSE 'Row ' || n || '.' END AS prompt,
	CASE WHEN n = 13 THEN '{"nonsense": 1}'::jsonb END AS params FROM generate_series(1, 20) n});
sql($node, q{
	CREATE TABLE passing AS SELECT id, body FROM notes;
	CREATE TABLE lockable AS SELECT id FROM notes LIMIT 3;
	CREATE FUNCTION stubborn() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
	CREATE FUNCTION secret() RETURNS int LANGUAGE sql AS $$ SELECT left(body, 7)::int FROM public.notes LIMIT 1 $$;
	CREATE FUNCTION whoami() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_user || ' ' || current_setting('search_path') || '.'; END $$});
my $odd = follow_query($held, q{SELECT E'a\\tb\\\\c\\nd' AS key, ' ' AS prompt});
my $after_mixed = prompts("'{after all}'", ", after => $mixed");
my $gone = follow_query($held, q{SELECT id AS key, body AS prompt FROM public.passing});
my $slow = follow_query($held, q{SELECT 1 AS key, 'x' AS prompt FROM pg_sleep(60)});
my $quoting = follow_query($held, q{SELECT public.secret() AS key, 'x' AS prompt});
my $told = follow_query($held, q{SELECT id AS key, pg_size_bytes(body)::text AS prompt FROM public.notes});
my $named = follow_query($held, q{SELECT body AS key, NULL AS prompt FROM public.notes}, ', atomic => true');
my $stubborn = follow_query($held, q{SELECT 1 AS key, public.stubborn() AS prompt});
my $locked = follow_query($held, q{SELECT id AS key, 'Locked.' AS prompt FROM public.lockable});
my $huge = follow_query($held, q{SELECT n AS key, 'x' AS prompt FROM generate_series(1, 20) n}, ', atomic => true');
my $hopeless = follow_query($held, q{SELECT n AS key, NULLIF('x' || n, 'x2') AS prompt FROM generate_series(1, 3) n}, ', atomic => true');
my $theirs = sql($node, "SET ROLE analyst; SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock')");
my $who = sql($node, "SET ROLE analyst; SELECT llm_batch.submit_query('SELECT 1 AS key, public.whoami() AS prompt', '$LlmBatch::MODEL', server => 'sim', mode => 'batch', after => $theirs)");
my $revoked = sql($node, "SET ROLE analyst; SELECT llm_batch.submit('notes', '{{body}}', '$LlmBatch::MODEL', server => 'sim', target => 'gist', after => $who)");
sql($node, 'DROP TABLE passing; REVOKE UPDATE ON notes FROM analyst; ALTER SYSTEM SET llm_batch.atomic_max_items = 19; SELECT pg_reload_conf()');
my $lock = LlmBatch::Session->new($node);
$lock->query('BEGIN; LOCK TABLE lockable');
go_on($held);

is(wait_job($node, $mixed), 'partial', 'rows that cannot be sent: the others go');
is(line($mixed), 'partial 20 0 7 13 0 NULL', 'each is an item');
is( sql($node, "SELECT string_agg(what, ', ' ORDER BY what) FROM (SELECT concat_ws(' ', state, error_code, count(*)) AS what FROM llm_batch.results WHERE job_id = $mixed GROUP BY state, error_code) r"),
	'failed invalid_request 9, failed too_large 4, succeeded 7', 'with what is wrong with it');
is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $mixed AND state = 'succeeded' AND answer = 'Row ' || key || '.'"), '7', 'each answer is of its row');
like(sql($node, "SELECT error FROM llm_batch.results WHERE job_id = $mixed AND key = '13'"), qr/params cannot be sent/, 'in words');
check_job($node, $mixed);
is(sql($node, "SELECT llm_batch.retry($mixed)"), '0', 'there is nothing to send again');
is(wait_job($node, $after_mixed), 'succeeded', 'who comes after a job that ended partial begins');
is(wait_job($node, $odd), 'failed', 'when none can be sent');
is(sql($node, "SELECT key = E'a\\tb\\\\c\\nd' AND error = 'the prompt for key ' || key || ' is empty' FROM llm_batch.results WHERE job_id = $odd"), 't', 'whatever its key looks like');

is(wait_job($node, $slow), 'failed', 'a slow query ends its job');
is(line($slow), 'failed 0 0 0 0 0 its query took longer than llm_batch.query_timeout, which is 2000 ms', 'and the setting is named');
like(sql($node, "SELECT string_agg(message, ' ') FROM llm_batch.events WHERE job_id = $slow AND kind = 'failed'"), qr/llm_batch\.query_timeout/, 'in an event, too');
is(wait_job($node, $gone), 'failed', 'a table that is gone');
like(line($gone), qr/its query failed: relation "public.passing" does not exist/, 'is named');
is(wait_job($node, $quoting), 'failed', 'an error that quotes data');
like(line($quoting), qr/its query failed \(SQLSTATE 22P02\): run it to see why$/, 'is not told to everybody');
foreach my $job ($told, $named)
{
	is(wait_job($node, $job), 'failed', 'another one');
	unlike(line($job) . sql($node, "SELECT string_agg(message, ' ') FROM llm_batch.events WHERE job_id = $job"), qr/speaks|Article/, 'neither');
}
like(line($named), qr/row 1 of its query cannot be sent: the prompt is NULL$/, 'but what it was');
is(wait_job($node, $stubborn), 'failed', 'a query that catches its cancels');
like(line($stubborn), qr/its query could not be cancelled/, 'ends its job, not the worker for ever');
is(wait_job($node, $huge), 'failed', 'an atomic job of too many items');
like(line($huge), qr/^failed 0 .*an atomic job cannot have more than 19 items/, 'fails before a cent is spent');
is(wait_job($node, $hopeless), 'failed', 'an atomic job with a row that cannot be sent');
like(line($hopeless), qr/^failed 0 .*row 2 of its query cannot be sent: the prompt is NULL$/, 'fails likewise, and tells which');
is(wait_job($node, $who), 'succeeded', 'a query of a role with fewer privileges');
is(sql($node, "SELECT answer FROM llm_batch.results WHERE job_id = $who"), 'analyst pg_catalog, pg_temp.', 'runs as that role, with a pinned search_path');
is(wait_job($node, $revoked), 'failed', 'privileges are asked again');
like(line($revoked), qr/permission denied for column "gist"/, 'and named');
($status, $out, $err) = $node->psql('postgres', "CALL llm_batch.wait($revoked)");
like($err, qr/ERROR:  job $revoked failed: its query failed: permission denied/, 'wait() tells it');
is(wait_job($node, $keyed), 'succeeded', 'the others have gone on all the while');
like(line($locked), qr/^waiting 0 .*(locked: it is tried again|its query runs)/, 'a locked table is not waited for');
$lock->query('COMMIT');
$lock->end;
is(wait_job($node, $locked), 'succeeded', 'it is tried again');

# A table that somebody else has put in the place of another.
sql($node, q{CREATE ROLE thief; CREATE SCHEMA shared; GRANT ALL ON SCHEMA shared TO PUBLIC;
	CREATE TABLE shared.t (id int PRIMARY KEY, body text); CREATE TABLE shared.u (id int PRIMARY KEY, body text); CREATE TABLE loot (who text)});
$held = endless();
my @replaced = map { submit($node, source => "shared.$_", prompt => '{{body}}', target => undef, after => $held) } 't', 'u';
sql($node, q{
	DROP TABLE shared.t, shared.u;
	CREATE TABLE shared.u AS SELECT 1 AS id, 'Mine.' AS body; ALTER TABLE shared.u ADD PRIMARY KEY (id);
	GRANT INSERT ON loot TO PUBLIC;
	SET ROLE thief;
	CREATE FUNCTION shared.evil() RETURNS bool LANGUAGE sql AS 'INSERT INTO public.loot VALUES (current_user) RETURNING true';
	CREATE TABLE shared.t AS SELECT 1 AS id, 'Theirs.' AS body;
	ALTER TABLE shared.t ADD PRIMARY KEY (id);
	ALTER TABLE shared.t RENAME TO real; CREATE VIEW shared.t AS SELECT * FROM shared.real WHERE shared.evil(); GRANT ALL ON shared.real, shared.t TO PUBLIC});
go_on($held);
is(wait_job($node, $replaced[0]), 'failed', 'a table that another role has put in the place of the one named');
like(line($replaced[0]), qr/its query failed: table shared\.t belongs to another role than when the job was submitted$/, 'is told');
is(sql($node, 'SELECT count(*) FROM loot'), '0', 'and none of its code has run');
is(wait_job($node, $replaced[1]), 'succeeded', 'one of the same owner is as good as before');

# Slow queries of several owners leave the worker as much time as they take.
$held = endless();
my @slow;
foreach my $n (1 .. 2)
{
	push @slow, follow_query($held, q{SELECT 1 AS key, 'Slow.' || pg_sleep(0.8) AS prompt});
	push @slow, sql($node, q{
		SET ROLE analyst;
		BEGIN;
		SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock') AS job \gset
		SELECT llm_batch.submit_query('SELECT 1 AS key, ''Slow.'' || pg_sleep(0.8) AS prompt', 'mock', server => 'mock', after => :job);
		COMMIT});
}
go_on($held);
wait_until($node, 'SELECT count(*) > 0 FROM llm_batch.progress WHERE reason = ' . quote('its query waits for its turn') . ' AND job_id IN (' . join(', ', @slow) . ')',
	'one tells that it waits for its turn');
is(wait_job($node, $_), 'succeeded', 'a slow query') foreach @slow;
my $rests = sql($node, q{
	SELECT string_agg(round(extract(epoch FROM begun - ended), 1)::text, ' '), bool_and(begun - ended >= '0.75 s')
	FROM (SELECT kind, at AS ended, lead(at) OVER (ORDER BY at) AS begun FROM llm_batch.events WHERE kind IN ('querying', 'started') AND job_id IN (} . join(', ', @slow) . q{)) e
	WHERE kind = 'started' AND begun IS NOT NULL});
like($rests, qr/\|t$/, 'the worker had time between them');

# without a key it waits for one, and runs no query
sql($node, q{CREATE ROLE intern; GRANT USAGE ON FOREIGN SERVER sim TO intern; CREATE USER MAPPING FOR intern SERVER sim OPTIONS (api_key 'sk-test')});
my ($before, $keyless) = split /\n/, sql($node, qq{
	SET ROLE intern;
	BEGIN;
	SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock') AS job \\gset
	SELECT llm_batch.pause(:job) \\g /dev/null
	SELECT llm_batch.submit_query('SELECT 1 AS key, ''Key.'' AS prompt', '$LlmBatch::MODEL', server => 'sim', mode => 'batch', after => :job) AS keyless \\gset
	COMMIT;
	SELECT :job; SELECT :keyless});
sql($node, 'DROP USER MAPPING FOR intern SERVER sim');
go_on($before);
wait_until($node, "SELECT state = 'paused' AND reason ~ 'no user mapping' FROM llm_batch.progress WHERE job_id = $keyless");
is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $keyless AND kind = 'querying'"), '0', 'a job without a key runs no query');
sql($node, q{CREATE USER MAPPING FOR intern SERVER sim OPTIONS (api_key 'sk-test')});
is(wait_job($node, $keyless), 'succeeded', 'it goes on by itself when there is one');

# ---- crashes ----

sub crash
{
	my ($point) = @_;
	open my $file, '>', "$orders.new" or die;
	print $file "kill $point\n";
	close $file;
	rename "$orders.new", $orders or die;
}

foreach my $point ('beginning a job that waited: commit', 'beginning a job that waited: committed', "running a job's query: commit", "running a job's query: committed")
{
	my $other = endless();
	my $job = follow($other, filter => 'id <= 4');
	my $offset = -s $node->logfile;
	crash($point);
	sql($node, "SELECT llm_batch.resume($other)");
	# the postmaster throws out everybody and begins anew
	$node->wait_for_log(qr/all server processes terminated; reinitializing(.*\n)*.*database system is ready to accept connections/, $offset);
	is(wait_job($node, $job), 'succeeded', "the worker dies at '$point'");
	ok(!-e $orders || -z $orders, 'it did');
	is(line($job), 'succeeded 4 0 4 0 0 NULL', 'and every row is one item');
	check_job($node, $job);
}
is($sim->summary->{max_times_one_custom_id_ran}, 1, 'nothing was run twice');

# ---- idle: a job that waits keeps no worker ----

$held = endless();
$second = follow($held, limit => 2);
is(wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'"), 1, 'the worker leaves when all wait for one that is paused');
sleep 1.5;
is(worker_pid($node), '', 'and stays away');

# ---- a copy ----

my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->command_ok([ 'createdb', '-h', $node->host, '-p', $node->port, 'copy' ], 'create a database');
$node->command_ok([ 'psql', '-Xq', '-f', $dump, $node->connstr('copy') ], 'restore');
my $restored = "SELECT state || ' ' || reason FROM llm_batch.progress WHERE job_id = $second";
$node->safe_psql('copy', "SELECT llm_batch.resume($held)");
$node->poll_query_until('copy', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $held");
is($node->safe_psql('copy', $restored), 'paused restored', 'restored, it does not begin by itself');
$node->safe_psql('copy', "SELECT llm_batch.resume($second)");
ok($node->poll_query_until('copy', "SELECT state = 'succeeded' FROM llm_batch.progress WHERE job_id = $second"), 'but when it is resumed: the link is still there');
go_on($held);
is(wait_job($node, $second), 'succeeded', 'so does the original');
check_sim($sim);

# ---- the real articles: extract, classify, summarise each class ----

SKIP:
{
	my $count = load_articles($node);
	skip 'the recorded articles are not there (LLM_BATCH_SHARED)', 7 if $count == 0;
	sql($node, q{CREATE TYPE class AS ENUM ('business', 'politics', 'sport', 'tech', 'other'); ALTER TABLE articles ADD facts text, ADD class class});
	my @stage = split /\n/, sql($node, qq{
		BEGIN;
		SELECT llm_batch.submit('articles', 'Extract the facts: {{title}} {{body}}', '$LlmBatch::MODEL', target => 'facts', server => 'sim', mode => 'batch') AS job \\gset s1
		SELECT llm_batch.submit('articles', 'Classify: {{facts}}', '$LlmBatch::MODEL', target => 'class', filter => 'facts IS NOT NULL', server => 'sim', mode => 'batch', after => :s1job) AS job \\gset s2
		SELECT llm_batch.submit_query(\$\$SELECT class AS key, format('Summarise %s articles about %s: %s', count(*), class, string_agg(facts, ' ' ORDER BY id)) AS prompt
			FROM public.articles WHERE class IS NOT NULL GROUP BY class\$\$, '$LlmBatch::MODEL', server => 'sim', mode => 'batch', after => :s2job) AS job \\gset s3
		COMMIT;
		SELECT :s1job; SELECT :s2job; SELECT :s3job});
	is(wait_job($node, $stage[2], limit => 180), 'succeeded', 'three stages run by themselves');
	is(line($stage[$_]), "succeeded $count 0 $count 0 0 NULL", "stage $_: all articles") foreach 0, 1;
	my $classes = sql($node, 'SELECT count(DISTINCT class) FROM articles');
	is(line($stage[2]), "succeeded $classes 0 $classes 0 0 NULL", "stage 2: $classes classes");
	is(sql($node, 'SELECT count(*) FROM articles WHERE facts IS NULL OR class IS NULL'), '0', 'every article has facts and a class');
	is( sql($node, "SELECT count(*) FROM llm_batch.results r JOIN (SELECT class, count(*) FROM articles GROUP BY class) c ON c.class::text = r.key
		WHERE r.job_id = $stage[2] AND starts_with(r.answer, format('Summarise %s articles about %s: ', c.count, c.class))"),
		$classes, 'and every class a summary of its articles');
	diag('the queries took: ' . sql($node, "SELECT string_agg(round(extract(epoch FROM b.at - a.at) * 1000) || ' ms', ', ' ORDER BY a.at)
		FROM llm_batch.events a JOIN llm_batch.events b USING (job_id) WHERE a.kind = 'querying' AND b.kind = 'started' AND job_id IN ($stage[1], $stage[2])"));
	check_sim($sim);
}

done_testing();
