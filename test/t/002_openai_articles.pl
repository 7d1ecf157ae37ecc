# The real articles through OpenAI's batch API: five batches of at most 500.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node();
my $count = load_articles($node);
plan skip_all => 'the recorded articles are not there (LLM_BATCH_SHARED)' if $count == 0;
is($count, 2225, 'the articles are all there');

my $sim = start_sim();
create_server($node, $sim, max_batch_requests => 500);

my $job = submit($node, prompt => 'Summarise: {{title}} {{body}}', target => 'summary');
is(watch_job($node, $job, 'articles'), 'succeeded', 'the job succeeded');
check_job($node, $job);

is(sql($node, "SELECT count(*) FROM articles WHERE summary IS NULL OR summary = ''"), '0', 'every article has a summary');

# The simulator answers with the first sentence of at most 200 characters: it
# stands at the very beginning of the row's own prompt.
is( sql($node, q{
		SELECT count(*) FROM articles
		WHERE NOT starts_with(btrim('Summarise: ' || title || ' ' || body), summary)}),
	'0', 'each has its own');

my $summary = $sim->summary;
is($summary->{batches_created}, 5, 'five batches were created');
is($summary->{files_uploaded}, 5, 'five files were uploaded');
is($summary->{distinct_custom_ids}, $count, 'as many custom_ids as articles');
is($summary->{max_times_one_custom_id_ran}, 1, 'each ran once');
is($summary->{requests_run}, $count, 'nothing else ran');
is(join(' ', sort { $b <=> $a } map { $_->{total} } $sim->batches), '500 500 500 500 225', 'no batch is larger than allowed');
is(sql($node, "SELECT count(*) FROM llm_batch.batches WHERE job_id = $job AND state = 'finalized'"), '5',
	'five batches are shown as finalized');

# We leave nothing of ours behind; result files are the provider's to expire.
$sim->wait_for(sub { $sim->summary->{files_deleted} == 5 });
is(join(' ', map { $_->{deleted} ? 'deleted' : 'kept' } grep { $_->{uploaded} } $sim->files), join(' ', ('deleted') x 5), 'the five request files are deleted');
check_sim($sim);

done_testing();
