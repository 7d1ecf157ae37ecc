# Typed answers: the same job has the same answers in the same columns, whoever
# gives them and in either mode; an answer is found where a reader would find
# it; what does not fit is asked for once more and never becomes NULL.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $COUNT = 12;
my @APIS = qw(openai anthropic gemini);
my $node = start_node();
my $sim = start_sim();

create_server($node, $sim, name => $_, api => $_) foreach @APIS;
create_typed_articles($node, $COUNT);
sql($node, q{
	CREATE DOMAIN grade AS smallint NOT NULL CHECK (VALUE <= 1000);
	ALTER TABLE articles ADD due date, ADD seen timestamptz, ADD hour time, ADD ident uuid, ADD price numeric(8, 2) NOT NULL DEFAULT 0,
		ADD ratio double precision, ADD headline varchar(12), ADD tags text[], ADD moods mood[], ADD grade grade DEFAULT 0, ADD rest jsonb;
	COMMENT ON COLUMN articles.headline IS 'What a newspaper would print';
	CREATE TABLE empty AS SELECT * FROM articles});
my $ALL = 'summary, mood, score, urgent, due, seen, hour, ident, price, ratio, headline, tags, moods, grade, rest';

sub begin
{
	my ($name) = @_;

	note("--- $name");
	$sim->reset;
	sql($node, 'TRUNCATE articles; INSERT INTO articles SELECT * FROM empty');
}

# ---- the same answers ----

my $first;
foreach my $api (@APIS)
{
	foreach my $mode (qw(batch realtime))
	{
		my $what = "$api, $mode";

		begin($what);
		my $job = submit($node, server => $api, model => $LlmBatch::MODEL{$api}, target => $ALL, mode => $mode);
		is(wait_job($node, $job), 'succeeded', "$what: the job succeeds") or explain_job($node, $job);
		check_job($node, $job, $what);
		check_bill($node, $sim, $job, $what);
		is(sql($node, "SELECT count(*) FROM articles WHERE num_nonnulls($ALL) = 15"), $COUNT, "$what: all columns of all rows are filled");
		is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT AND length(headline) <= 12 AND cardinality(tags) > 0"), $COUNT,
			"$what: each row with its own answer");
		my $rows = sql($node, 'SELECT json_agg(a ORDER BY id) FROM articles a');
		$first //= $rows;
		is($rows, $first, "$what: the same answers as of the first");
	}
}
cmp_ok(sql($node, 'SELECT count(DISTINCT (mood, score, urgent)) FROM articles'), '>', 3, 'and they are not all one');

# ---- where a reader finds them ----

my $object = '{"mood": "good", "score": %s, "urgent": true}';
my %FOUND = (
	1 => $object,
	2 => "```json\n$object\n```",
	3 => "Here is what you asked for:\n\n$object\n\nIs there anything else?",
	4 => '{"mood": "good", "score": %s, "urgent": true,}',
	5 => "The schema has {\"mood\": ...}; hence ```\n{\"mood\": \"good\",\n \"score\": \"%s\",\n \"urgent\": \"True\",\n}\n```",
	6 => "<think>{\"mood\": \"bad\"}?</think>$object",
	7 => "[$object]",
	8 => '{"mood": "Good ", "score": %s.0, "urgent": true, "why": "it says
so"}');
# the braces of number 5's prose are no object; nobody can read them
my %LOST = (
	5 => 'not valid JSON',
	9 => 'not a JSON object',
	10 => 'more than one JSON object',
	11 => 'column "score": expected an integer',
	12 => 'column "mood": expected one of good, bad, it depends');
my %ANSWER = (
	9 => 'I would rather not say.',
	10 => "$object or " . '{"mood": "bad", "score": 1, "urgent": false}',
	11 => '{"mood": "good", "score": 7.5, "urgent": true}',
	12 => '{"mood": "cheerful", "score": 7, "urgent": true}');

# Answers by row; %s is the row's number.
sub answer_with
{
	my ($mode, $times, %answer) = @_;
	my @items = map {
		{ prompt_contains => "Article $_ ", ($times ? (times => $times) : ()), do => { answer => $answer{$_} =~ s/%s/$_/r } }
	} sort { $a <=> $b } keys %answer;
	$sim->rule({ mode => $mode }, items => \@items);
}

foreach my $mode (qw(batch realtime))
{
	begin("found, $mode");
	answer_with($mode, 0, %FOUND, %ANSWER);
	my $job = submit($node, server => 'openai', target => 'mood, score, urgent', mode => $mode);
	is(wait_job($node, $job), 'partial', "$mode: not all can be read") or explain_job($node, $job);
	check_job($node, $job, "$mode: found");
	my $good = join ', ', grep { !exists $LOST{$_} } sort { $a <=> $b } keys %FOUND;
	is(sql($node, q{SELECT string_agg(id::text, ', ' ORDER BY id) FROM articles WHERE (mood, score, urgent) = ('good', id, true)}), $good,
		"$mode: what a reader finds is found");
	foreach my $id (sort { $a <=> $b } keys %LOST)
	{
		my $row = sql($node, "SELECT attempt, error_code, answer IS NOT NULL, error FROM llm_batch.results WHERE job_id = $job AND key = '$id'");
		like($row, qr/^2\|invalid_output\|t\|.*\Q$LOST{$id}\E/, "$mode: row $id is asked for twice, and says why it does not fit");
	}
	is(sql($node, q{SELECT count(*) FROM articles WHERE num_nonnulls(mood, score, urgent) NOT IN (0, 3)}), '0', "$mode: no row is written in part");
	is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND message ~ 'cheerful|rather not'"), '0', "$mode: no event quotes an answer");
	check_bill($node, $sim, $job, "$mode: what was asked twice is paid twice");
	is(sql($node, "SELECT bool_and(COALESCE(answer_json->>'mood', answer_json->0->>'mood') IS NOT NULL) FROM llm_batch.results WHERE job_id = $job AND state = 'succeeded'"), 't',
		"$mode: answer_json shows what was found");

	# free: the column has become one that takes it
	if ($mode eq 'batch')
	{
		sql($node, 'ALTER TABLE articles ALTER score TYPE numeric');
		sql($node, "SELECT llm_batch.apply($job)");
		wait_until($node, "SELECT finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM llm_batch.command) FROM llm_batch.progress WHERE job_id = $job", 'apply is over');
		is(sql($node, 'SELECT score FROM articles WHERE id = 11'), '7.5', 'apply() writes an answer that fits by now');
		check_bill($node, $sim, $job, 'apply() is free');
		check_job($node, $job, 'applied');
		sql($node, 'TRUNCATE articles; ALTER TABLE articles ALTER score TYPE int');
	}
}

# ---- asked once more, and then it fits ----

begin('once more');
answer_with('batch', 1, map { $_ => $ANSWER{$_} } 9 .. 12);
my $job = submit($node, server => 'openai', target => 'mood, score, urgent');
is(wait_job($node, $job), 'succeeded', 'what fits the second time is taken') or explain_job($node, $job);
is(sql($node, "SELECT string_agg(key || ' ' || attempt, ', ' ORDER BY key::int) FROM llm_batch.results WHERE job_id = $job AND attempt > 1"), '9 2, 10 2, 11 2, 12 2',
	'it was asked once more for those that did not fit, and no others');

# ---- truncated and refused answers are not asked for again ----

begin('truncated and refused');
$sim->rule({}, items => [
	{ prompt_contains => 'Article 1 ', do => { length => $sim->true } },
	{ prompt_contains => 'Article 2 ', do => { refusal => 'No.' } } ]);
$job = submit($node, server => 'openai', target => 'mood, score, urgent');
is(wait_job($node, $job), 'partial', 'truncated and refused: the job is partial');
is(sql($node, "SELECT string_agg(key || ' ' || attempt || ' ' || error_code, ', ' ORDER BY key::int) FROM llm_batch.results WHERE job_id = $job AND state = 'failed'"),
	'1 1 truncated, 2 1 refused', 'neither is asked for again');

check_sim($sim);
done_testing();
