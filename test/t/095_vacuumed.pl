# What waits in the inbox is gathered, and what a dropped task leaves is
# removed, in the time that it takes: also by plans that were made and kept
# when there was next to nothing, which VACUUM has noted.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# nothing has plans made anew
my $node = start_node(conf => ['autovacuum = off']);

# 10,000 changes, of which ten are asked about
sub change
{
	sql($node, q{INSERT INTO note SELECT (SELECT COALESCE(max(id), 0) FROM note) + n, 'Say it. Again.' FROM generate_series(1, 10000) n});
}

# The worker looks at an inbox without rows, and then at one with a row.
sub little
{
	my $job = sql($node, q{VACUUM ANALYZE; SELECT llm_batch.submit_prompts('{a}', 'mock', server => 'mock')});

	wait_until($node, "SELECT finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = $job", 'a job ends');
	sleep 1;
	sql($node, q{INSERT INTO few SELECT count(*), 'One.' FROM few});
	wait_until($node, q{SELECT count(*) = count(summary) FROM few}, 'a row is answered');
}

sql($node, q{
	CREATE TABLE note (id int PRIMARY KEY, body text, summary text);
	CREATE TABLE few (LIKE note INCLUDING ALL);
	SELECT llm_batch.create_task('vacuumed', '{{body}}', filter => 'id % 1000 = 0', target => 'summary', model => 'mock', server => 'mock', mode => 'realtime', max_wait => '0');
	SELECT llm_batch.create_task('few', '{{body}}', target => 'summary', model => 'mock', server => 'mock', mode => 'realtime', max_wait => '0');
	SELECT llm_batch.attach('vacuumed', 'note');
	SELECT llm_batch.attach('few', 'few')});
little();
change();
ok(wait_until($node, q{SELECT waiting = 0 AND gathered = 10000 FROM llm_batch.tasks WHERE task = 'vacuumed'}, 'changes are gathered'), 'changes are gathered');
ok(wait_until($node, q{SELECT count(summary) = 10 FROM note}, 'and answered'), 'and answered');
is(sql($node, q{SELECT sum(total) FROM llm_batch.progress WHERE task = 'vacuumed'}), 10, 'once each');

sql($node, q{SELECT llm_batch.alter_task('vacuumed', enabled => false)});
little();
change();
is(sql($node, q{SELECT waiting FROM llm_batch.tasks WHERE task = 'vacuumed'}), 10000, 'more of them wait');
sql($node, q{SELECT llm_batch.drop_task('vacuumed')});
ok(wait_until($node, q{SELECT NOT EXISTS (SELECT FROM llm_batch.inbox) AND (SELECT count(*) FROM llm_batch.task_item) = 2}, 'what a dropped task leaves is removed'),
	'what a dropped task leaves is removed');

done_testing();
