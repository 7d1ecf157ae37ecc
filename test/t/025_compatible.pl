# The servers of README's section "Compatible servers", each as it stands there
# but for host and times, against the simulator's flavour of that family.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(time);

# family: the simulator's options, the model, the modes that the server has
my %family = (
	openai_responses => { flavour => 'openai', model => 'gpt-6-luna', modes => [qw(batch realtime)] },
	azure => { flavour => 'azure', deployments => 'my-luna=gpt-6-luna', model => 'my-luna', modes => [qw(batch realtime)] },
	azure_older => { flavour => 'azure', deployments => 'my-luna=gpt-6-luna', model => 'my-luna', modes => [qw(batch realtime)] },
	groq => { flavour => 'groq', model => 'llama-3.1-8b-instant', modes => [qw(batch realtime)] },
	together => { flavour => 'together', model => 'meta-llama/Llama-3.3-70B-Instruct-Turbo', modes => [qw(auto)] },
	vllm => { flavour => 'vllm', model => 'Qwen/Qwen3-8B', modes => [qw(auto realtime)], key => 'none' },
	ollama => { flavour => 'ollama', model => 'gemma3:4b', modes => [qw(auto)], key => 'none' },
	llamacpp => { flavour => 'llama.cpp', model => 'nomic-embed-text', modes => [qw(auto)], key => 'none' },
	openrouter => { flavour => 'gateway', model => 'deepseek/deepseek-chat', modes => [qw(auto)] });
my $ITEMS = 25;

# The paths that real-time requests of each may take
my %path = (
	openai_responses => '/v1/responses',
	azure => '/openai/v1/chat/completions',
	azure_older => '/openai/deployments/my-luna/chat/completions?api-version=2024-10-21',
	groq => '/openai/v1/chat/completions',
	llamacpp => '/v1/embeddings',
	openrouter => '/api/v1/chat/completions');

# {server => its statement}, from README
sub examples
{
	open my $file, '<', "$FindBin::RealBin/../../README.md" or die "README.md: $!";
	local $/;
	my ($section) = <$file> =~ /^### Compatible servers\n(.*?)^### /ms or die 'README.md has no such section';

	return { $section =~ /^(?=CREATE SERVER (\w+) )(.*?;)$/msg };
}

# The statement with the simulator for a host, and the times of a test.
sub create
{
	my ($node, $sim, $name, $statement, $key) = @_;
	my $origin = $sim->origin;
	my %short = (poll_min => '50ms', poll_max => '200ms', retry_base => '50ms', retry_max => '500ms', settle_time => '2s');
	my $added;

	if ($statement !~ s{https?://[^/']+}{$origin})
	{
		$short{base_url} = "$origin/v1";
	}
	$added = join ', ', map { "ADD $_ " . quote($short{$_}) } sort keys %short;
	sql($node, $statement);
	sql($node, "ALTER SERVER $name OPTIONS ($added)");
	sql($node, "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (api_key " . quote($key) . ')');
}

# One job of two columns in a mode, and what came of it.
sub run_texts
{
	my ($node, $sim, $name, $model, $mode) = @_;
	my $what = "$name, $mode";

	sql($node, "UPDATE articles SET summary = NULL, remark = NULL");
	my $job = submit($node, server => $name, model => $model, mode => $mode, target => 'summary, remark',
		params => '{"max_tokens": 500}');
	is(wait_job($node, $job), 'succeeded', "$what: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $what);
	is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT AND remark <> ''"), $ITEMS,
		"$what: every row has its own answers");
	is(sql($node, "SELECT count(*) FROM llm_batch.results WHERE job_id = $job AND input_tokens > 0 AND output_tokens > 0 AND model IS NOT NULL"),
		$ITEMS, "$what: and its usage");
	return $job;
}

sub run_vectors
{
	my ($node, $sim, $name, $model, $mode) = @_;
	my $what = "$name, $mode";
	my $job = submit($node, server => $name, model => $model, mode => $mode, target => 'vector', params => '{"dimensions": 5}');

	is(wait_job($node, $job), 'succeeded', "$what: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $what);
	is(sql($node, "SELECT count(DISTINCT vector) FROM articles WHERE cardinality(vector) = 5"), $ITEMS, "$what: every row has a vector of its own");
	is(sql($node, "SELECT DISTINCT output_tokens FROM llm_batch.results WHERE job_id = $job"), '0', "$what: which has no output tokens");
	return $job;
}

# How the requests of a mode came in.
sub check_requests
{
	my ($sim, $name, $mode, $since) = @_;
	my @posts = grep { $_->{seq} > $since } $sim->requests(method => 'POST');
	my @files = grep { $_->{path} =~ m{/(files|batches)\b} } @posts;
	my $path = $path{$name} // '/v1/chat/completions';

	if ($mode eq 'batch')
	{
		is(scalar(@files), scalar(@posts), "$name, $mode: nothing but files and batches");
		cmp_ok(scalar(@files), '>=', 2, "$name, $mode: of which there were some");
		return;
	}
	is(scalar(@files), 0, "$name, $mode: no files, no batches");
	is(scalar(@posts), $ITEMS, "$name, $mode: one request for each item");
	is(join(' ', keys %{ { map { $_->{path} => 1 } @posts } }), $path, "$name, $mode: where they went");
	is(join(' ', keys %{ { map { $_->{status} => 1 } @posts } }), '200', "$name, $mode: none was refused");
}

my $node = start_node();
my $sim = start_sim(options => { window_seconds => 86400 });
my $examples = examples();

is(join(' ', sort keys %$examples), join(' ', sort keys %family), 'README has an example for each family');
create_articles($node, $ITEMS);
sql($node, 'ALTER TABLE articles ADD remark text, ADD vector real[]');

foreach my $name (sort keys %$examples)
{
	my $family = $family{$name};
	my $key = $family->{key} // 'sk-test';

	$sim->reset;
	$sim->options(flavour => $family->{flavour}, deployments => $family->{deployments} // '', keys => $family->{key} ? '' : $key);
	create($node, $sim, $name, $examples->{$name}, $key);
	my @jobs;
	foreach my $mode (@{ $family->{modes} })
	{
		my @log = $sim->requests;
		my $since = @log ? $log[-1]{seq} : 0;
		my $run = $examples->{$name} =~ /embeddings/ ? \&run_vectors : \&run_texts;

		push @jobs, $run->($node, $sim, $name, $family->{model}, $mode);
		check_requests($sim, $name, $mode, $since);
	}
	is($sim->summary->{max_times_one_prompt_ran}, scalar(@{ $family->{modes} }), "$name: nothing ran twice");
	check_bill($node, $sim, \@jobs, $name) if $family->{model} eq 'gpt-6-luna';
	check_sim($sim, "$name: the simulator met nothing that it cannot do");
}

# OpenAI's own: a model of embeddings needs no option
$sim->reset;
create_server($node, $sim);
foreach my $mode (qw(batch realtime))
{
	$sim->reset;
	sql($node, 'UPDATE articles SET vector = NULL');
	my $vectors = run_vectors($node, $sim, 'sim', 'text-embedding-3-small', $mode);
	check_bill($node, $sim, $vectors, "sim, $mode: embeddings");
}

# What Responses says of an answer that is none, in both modes
foreach my $mode (qw(batch realtime))
{
	$sim->reset;
	$sim->rule({ mode => 'any' }, items => [
		{ prompt_contains => 'Article 1 ', do => { refusal => 'No.' } },
		{ prompt_contains => 'Article 2 ', do => { content_filter => $sim->true } },
		{ prompt_contains => 'Article 3 ', do => { length => $sim->true } },
		{ prompt_contains => 'Article 4 ', do => { status_code => 400 } },
		{ prompt_contains => 'Article 5 ', times => 1, do => { merge => { status => 'failed', error => { code => 'server_error', message => 'x' } } } } ]);
	my $mixed = submit($node, server => 'openai_responses', target => 'summary', mode => $mode);
	is(wait_job($node, $mixed), 'partial', "responses, $mode: some fail");
	check_job($node, $mixed, "responses, $mode");
	is( sql($node, "SELECT string_agg(key || ' ' || error_code, ', ' ORDER BY key) FROM llm_batch.results WHERE job_id = $mixed AND state = 'failed'"),
		'1 refused, 2 refused, 3 truncated, 4 invalid_request', "responses, $mode: each for its own reason");
	is(sql($node, "SELECT state, attempt FROM llm_batch.results WHERE job_id = $mixed AND key = '5'"), 'succeeded|2', "responses, $mode: one the second time");
	check_bill($node, $sim, $mixed, "responses, $mode");
}

# A schema in words alone: such answers come in a code fence, with prose around it
$sim->reset;
$sim->options(flavour => 'gateway');
create_server($node, $sim, name => 'wordy', batch => 'off', structured_output => 'prompt');
run_texts($node, $sim, 'wordy', 'deepseek/deepseek-chat', 'auto');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'wordy: nobody had to be asked again');

# Ten requests in any second: what the headers and Retry-After say is obeyed
$sim->reset;
$sim->options(flavour => 'groq', requests_per_minute => 600, rate_window_seconds => 1);
create_server($node, $sim, name => 'hasty', base_url => $sim->origin . '/openai/v1', batch => 'off', realtime_concurrency => 16);
my $began = time;
run_texts($node, $sim, 'hasty', 'llama-3.1-8b-instant', 'auto');
my %status;
$status{ $_->{status} }++ foreach $sim->requests(method => 'POST');
is(join(' ', $status{200}, grep { $_ != 200 && $_ != 429 } keys %status), $ITEMS, 'hasty: each was answered once');
cmp_ok($status{429} // 0, '<=', 32, 'hasty: it does not go on knocking');
cmp_ok(time - $began, '>', 1, 'hasty: and took the time that it had to');

# A server without a batch API whose owner did not say so: an end with a reason
$sim->reset;
$sim->options(flavour => 'vllm');
create_server($node, $sim, name => 'forgetful', key => 'none', fallback => 'none');
my $job = submit($node, server => 'forgetful', model => 'Qwen/Qwen3-8B', target => 'summary');
wait_until($node, "SELECT state IN ('failed', 'paused') FROM llm_batch.progress WHERE job_id = $job", 'no batch API: the job does not hang');
like(sql($node, "SELECT string_agg(message, ' ') FROM llm_batch.events WHERE job_id = $job"), qr/no_batch_api/, 'no batch API: the events say so');
check_sim($sim);

done_testing();
