# Databases that are not UTF-8: providers get UTF-8 all the same, and answers
# are kept in what the database has.
use strict;
use warnings;

use Encode ();
use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = start_node(extension => 0);
my $sim = start_sim();

# Queries are UTF-8 here, whatever the database is; so is what they say.
$ENV{PGCLIENTENCODING} = 'UTF8';

my %encoding = (latin1 => 'LATIN1', utf8 => 'UTF8', ascii => 'SQL_ASCII');
foreach my $name (sort keys %encoding)
{
	sql($node, "CREATE DATABASE $name TEMPLATE template0 ENCODING '$encoding{$name}' LOCALE 'C'");
	db($name, qq{
		CREATE EXTENSION llm_batch;
		CREATE SERVER sim FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url '${\$sim->base_url}', poll_min '50ms', poll_max '200ms');
		CREATE USER MAPPING FOR PUBLIC SERVER sim OPTIONS (api_key 'sk-test');
		CREATE TABLE "Stra\xc3\x9fen" ("Schl\xc3\xbcssel" text PRIMARY KEY, body text, "gek\xc3\xbcrzt" text);
		INSERT INTO "Stra\xc3\x9fen" VALUES ('M\xc3\xbcnchen', 'F\xc3\xbcnf Caf\xc3\xa9s. Mehr.', NULL), ('K\xc3\xb6ln', 'Drei Br\xc3\xbccken. Mehr.', NULL)});
}

sub db
{
	my ($name, $query) = @_;
	return $node->safe_psql($name, $query);
}

sub ended
{
	my ($name, $job) = @_;
	my $until = time + $LlmBatch::PATIENCE;

	sleep 0.05 while db($name, "SELECT finished_at IS NULL FROM llm_batch.progress WHERE job_id = $job") eq 't' && time < $until;
	return db($name, "SELECT state FROM llm_batch.progress WHERE job_id = $job");
}

# The last request file that came, as bytes.
sub last_file
{
	my ($file) = (sort { $b->{created_at} <=> $a->{created_at} || $b->{id} cmp $a->{id} } grep { $_->{purpose} eq 'batch' } $sim->files);
	my $reply = $sim->{http}->get($sim->origin . "/_sim/files/$file->{id}");

	return $reply->{content};
}

# What the simulator answers to everything; JSON as it stands, for Perl would
# not write what is no text.
sub answer_with
{
	my ($json) = @_;
	my $reply = $sim->{http}->post($sim->origin . '/_sim/batch_rules', { content => qq({"match": {}, "items": [{"do": {"answer": $json}}]}) });

	die "the simulator refuses the rule: $reply->{content}" if !$reply->{success};
}

sub refused
{
	my ($name, $query) = @_;
	my ($status, $out, $error) = $node->psql($name, $query, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $error =~ /ERROR:  (.*)/ ? $1 : "no error: $out";
}

my $SUBMIT = qq{SELECT llm_batch.submit('"Stra\xc3\x9fen"', 'K\xc3\xbcrze: {{body}}', 'gpt-6-luna', '"gek\xc3\xbcrzt"', server => 'sim', mode => 'batch', system => 'Sei h\xc3\xb6flich.')};

# ---- there and back ----

foreach my $name (sort keys %encoding)
{
	$sim->reset;
	my $job = db($name, $SUBMIT);
	is(ended($name, $job), 'succeeded', "$encoding{$name}: a job ends");
	is(db($name, qq{SELECT string_agg("gek\xc3\xbcrzt", ' ' ORDER BY "Schl\xc3\xbcssel" COLLATE "C") FROM "Stra\xc3\x9fen"}),
		"K\xc3\xbcrze: Drei Br\xc3\xbccken. K\xc3\xbcrze: F\xc3\xbcnf Caf\xc3\xa9s.", "$encoding{$name}: umlauts come back as they went");
	is(db($name, "SELECT bool_or(altered) FROM llm_batch.results WHERE job_id = $job"), 'f', "$encoding{$name}: nothing was altered");
	my $sent = last_file();
	ok(eval { Encode::decode('UTF-8', my $copy = $sent, Encode::FB_CROAK); 1 }, "$encoding{$name}: the request file is UTF-8");
	like($sent, qr/"K\xc3\xbcrze: F\xc3\xbcnf Caf\xc3\xa9s\. Mehr\."/, "$encoding{$name}: with the prompt in it");
	like($sent, qr/"Sei h\xc3\xb6flich\."/, "$encoding{$name}: and the system's text");
	like(db($name, qq{SELECT request FROM llm_batch.preview('"Stra\xc3\x9fen"', '{{body}}', 'gpt-6-luna', server => 'sim')}),
		qr/Br\xc3\xbccken|Caf\xc3\xa9s/, "$encoding{$name}: preview shows it as well");
}

# ---- answers with what the encoding lacks ----

# Each case: what the answer is, in JSON; what LATIN1 keeps of it; what the others
# keep. Half a surrogate pair and U+0000 are no text at all.
my @cases = (
	[ 'what all have', '"f\u00fcr 5"', "f\xc3\xbcr 5", "f\xc3\xbcr 5" ],
	[ 'a euro sign', '"f\u00fcr 5 \u20ac."', "f\xc3\xbcr 5 \\u20ac.", "f\xc3\xbcr 5 \xe2\x82\xac." ],
	[ 'an emoji', '"gut \ud83d\ude00!"', 'gut \ud83d\ude00!', "gut \xf0\x9f\x98\x80!" ],
	[ 'U+0000', '"vor\u0000nach"', 'vor\ufffdnach', "vor\xef\xbf\xbdnach" ],
	[ 'half a pair', '"vor\ud800nach"', 'vor\ufffdnach', "vor\xef\xbf\xbdnach" ]);

foreach my $name (sort keys %encoding)
{
	foreach my $case (@cases)
	{
		my ($what, $answer, $in_latin1, $elsewhere) = @$case;
		my $expected = $name eq 'latin1' ? $in_latin1 : $elsewhere;
		my $altered = $what =~ /U\+0000|half/ || $in_latin1 ne $elsewhere && $name eq 'latin1';

		$sim->reset;
		answer_with($answer);
		my $job = db($name, $SUBMIT);
		is(ended($name, $job), 'succeeded', "$encoding{$name}, $what: the job ends");
		is(db($name, "SELECT DISTINCT answer, altered FROM llm_batch.results WHERE job_id = $job"), "$expected|" . ($altered ? 't' : 'f'),
			"$encoding{$name}, $what: kept as far as can be, and told when altered");
		is(db($name, qq{SELECT DISTINCT "gek\xc3\xbcrzt" FROM "Stra\xc3\x9fen"}), $expected, "$encoding{$name}, $what: the row has the same");
	}
}

# several columns: the members of a JSON object go the same way
foreach my $name (sort keys %encoding)
{
	db($name, qq{ALTER TABLE "Stra\xc3\x9fen" ADD "gr\xc3\xb6\xc3\x9fe" text});
	$sim->reset;
	answer_with('{"gek\u00fcrzt": "5 \u20ac", "gr\u00f6\u00dfe": "gro\u00df"}');
	my $job = db($name, qq{SELECT llm_batch.submit('"Stra\xc3\x9fen"', '{{body}}', 'gpt-6-luna', '"gek\xc3\xbcrzt", "gr\xc3\xb6\xc3\x9fe"', server => 'sim', mode => 'batch')});
	is(ended($name, $job), 'succeeded', "$encoding{$name}: a job with two targets ends");
	is(db($name, qq{SELECT DISTINCT "gek\xc3\xbcrzt", "gr\xc3\xb6\xc3\x9fe" FROM "Stra\xc3\x9fen"}),
		($name eq 'latin1' ? '5 \u20ac' : "5 \xe2\x82\xac") . "|gro\xc3\x9f", "$encoding{$name}: each column has its member");
	like(last_file(), qr/"gr\xc3\xb6\xc3\x9fe":\{"type":\["string","null"\]/, "$encoding{$name}: the schema is UTF-8 as well");
	is(db($name, "SELECT DISTINCT altered FROM llm_batch.results WHERE job_id = $job"), $name eq 'latin1' ? 't' : 'f', "$encoding{$name}: told when a member is altered");
	$sim->reset;
	answer_with('{"gek\u00fcrzt": "vor\u0000nach", "gr\u00f6\u00dfe": "vor\ud800nach"}');
	$job = db($name, qq{SELECT llm_batch.submit('"Stra\xc3\x9fen"', '{{body}}', 'gpt-6-luna', '"gek\xc3\xbcrzt", "gr\xc3\xb6\xc3\x9fe"', server => 'sim', mode => 'batch')});
	is(ended($name, $job), 'succeeded', "$encoding{$name}: two targets, and what is no text: the job ends");
	is(db($name, qq{SELECT DISTINCT "gek\xc3\xbcrzt" = "gr\xc3\xb6\xc3\x9fe", "gr\xc3\xb6\xc3\x9fe" FROM "Stra\xc3\x9fen"}),
		't|' . ($name eq 'latin1' ? 'vor\ufffdnach' : "vor\xef\xbf\xbdnach"), "$encoding{$name}: replaced in each column");
	is(db($name, "SELECT DISTINCT altered FROM llm_batch.results WHERE job_id = $job"), 't', "$encoding{$name}: and told");
}

# labels of an enum, and a column's comment
foreach my $name (sort keys %encoding)
{
	db($name, qq{CREATE TYPE "Ma\xc3\x9fe" AS ENUM ('gro\xc3\x9f', 'klein'); ALTER TABLE "Stra\xc3\x9fen" ADD typ "Ma\xc3\x9fe" NOT NULL DEFAULT 'klein';
		COMMENT ON COLUMN "Stra\xc3\x9fen".typ IS 'Gr\xc3\xb6\xc3\x9fe'});
	$sim->reset;
	answer_with('"Hier: {\\"typ\\": \\"gro\\u00df\\"}!"');
	my $job = db($name, qq{SELECT llm_batch.submit('"Stra\xc3\x9fen"', '{{body}}', 'gpt-6-luna', 'typ', server => 'sim', mode => 'batch')});
	is(ended($name, $job), 'succeeded', "$encoding{$name}: a job with an enum as target ends");
	is(db($name, qq{SELECT DISTINCT typ FROM "Stra\xc3\x9fen"}), "gro\xc3\x9f", "$encoding{$name}: the label is there");
	like(last_file(), qr/"typ":\{"type":"string","enum":\["gro\xc3\x9f","klein"\],"description":"Gr\xc3\xb6\xc3\x9fe"\}/, "$encoding{$name}: labels and comment are UTF-8");
}

# ---- SQL_ASCII holds anything; what is not UTF-8 is refused at submit ----

$ENV{PGCLIENTENCODING} = 'SQL_ASCII';
db('ascii', q{CREATE TABLE raw (id int PRIMARY KEY, body text, answer text, other text);
	COMMENT ON COLUMN raw.other IS E'caf\xe9';
	INSERT INTO raw VALUES (1, 'fine', NULL), (2, E'caf\xe9', NULL)});
my $jobs = db('ascii', 'SELECT count(*) FROM llm_batch.job');
foreach my $case (
	[ 'a prompt', q{llm_batch.submit('raw', '{{body}}', 'gpt-6-luna', server => 'sim')} ],
	[ 'a template', q{llm_batch.submit('raw', E'caf\xe9 {{id}}', 'gpt-6-luna', server => 'sim')} ],
	[ 'a prompt of an array', q{llm_batch.submit_prompts(ARRAY[E'caf\xe9'], 'gpt-6-luna', server => 'sim')} ],
	[ 'a system text', q{llm_batch.submit_prompts('{fine}', 'gpt-6-luna', server => 'sim', system => E'caf\xe9')} ],
	[ 'a model', q{llm_batch.submit_prompts('{fine}', E'gpt-6-luna\xe9', server => 'sim')} ],
	[ 'a query\'s system text', q{llm_batch.submit_query($$SELECT 1 AS key, 'fine' AS prompt, E'caf\xe9' AS system$$, 'gpt-6-luna', server => 'sim')} ],
	[ 'messages', q{llm_batch.submit_query($$SELECT 1 AS key, jsonb_build_array(jsonb_build_object('role', 'user', 'content', E'caf\xe9')) AS messages$$, 'gpt-6-luna', server => 'sim')} ],
	[ 'a schema', q{llm_batch.submit_prompts('{fine}', 'gpt-6-luna', server => 'sim', schema => jsonb_build_object('title', E'caf\xe9'))} ],
	[ 'a target\'s comment', q{llm_batch.submit('raw', '{{body}}', 'gpt-6-luna', 'answer, other', server => 'sim', filter => 'id = 1')} ],
	[ 'a parameter', q{llm_batch.submit_prompts('{fine}', 'gpt-6-luna', server => 'sim', params => jsonb_build_object('stop', E'caf\xe9'))} ])
{
	my ($what, $call) = @$case;

	like(refused('ascii', "SELECT $call"), qr/^22021: /, "SQL_ASCII: $what that is not UTF-8 is refused");
}
is(db('ascii', 'SELECT count(*) FROM llm_batch.job'), $jobs, 'nothing was enqueued');
# the rows that are fine can go
$sim->reset;
my $job = db('ascii', q{SELECT llm_batch.submit('raw', '{{body}}', 'gpt-6-luna', 'answer', server => 'sim', mode => 'batch', filter => 'id = 1')});
is(ended('ascii', $job), 'succeeded', 'the rows that are UTF-8 can go without the others');

check_sim($sim);
done_testing();
