# After a break nothing of ours stays at a provider, and nobody else's goes:
# request files whose upload was not answered are found and used, or deleted;
# so are those of batches that came to nothing.  And what another key does not
# see is not proved to be absent.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;
use Time::HiRes qw(sleep time);

my $items = 4;    # of a case
my $cases = 0;
my $node = start_node();
my $sim = start_sim();
my $true = $sim->true;

# Of each provider: what its calls look like.
my %provider = (
	openai => {
		upload => { method => 'POST', path => '^/v1/files$', nth => 1 },
		list => { method => 'GET', path => '^/v1/files$' },
		create => { method => 'POST', path => '^/v1/batches$' },
		batches => { method => 'GET', path => '^/v1/batches$' },
		delete => { method => 'DELETE', path => '^/v1/files/' },
		label => sub { "llm_batch-$_[0].jsonl" },
		broken => { file_status => 'error' },
		sound => { file_status => 'processed' },
		pending => { file_status => 'uploaded' } },
	gemini => {
		# the first only asks where to send the file
		upload => { method => 'POST', path => '^/upload/v1beta/files$', nth => 2 },
		list => { method => 'GET', path => '^/v1beta/files$' },
		create => { method => 'POST', path => '^/v1beta/models/[^/]+:batchGenerateContent$' },
		batches => { method => 'GET', path => '^/v1beta/batches$' },
		delete => { method => 'DELETE', path => '^/v1beta/files/' },
		label => sub { $_[0] },
		broken => { gemini_file_state => 'FAILED' },
		sound => { gemini_file_state => 'ACTIVE' },
		pending => { gemini_file_state => 'PROCESSING' } });

# Keys as the simulator shows them.
my %sim_key = map { $_ => substr(sha256_hex($_), 0, 8) } qw(sk-test sk-new);

create_articles($node, 400);
create_server($node, $sim, name => $_, api => $_, request_timeout => '1s', settle_time => '1s') foreach sort keys %provider;

sub event
{
	my ($job, $kind) = @_;
	return sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = '$kind'");
}

# Each case has articles of its own, so that the bill at the end tells of all.
sub start_job
{
	my ($api, %opt) = @_;
	my $from = $items * $cases++;

	return submit($node, source => 'articles', target => 'summary', server => $api, model => $LlmBatch::MODEL{$api},
		filter => sprintf('id BETWEEN %d AND %d', $from + 1, $from + $items), %opt);
}

# Somebody else's file of that name; its id.
sub foreign_file
{
	my ($api, $name) = @_;

	if ($api eq 'openai')
	{
		my $form = join "\r\n", '--x', 'Content-Disposition: form-data; name="purpose"', '', 'batch',
		  '--x', qq(Content-Disposition: form-data; name="file"; filename="$name"), '', "{}\n", '--x--', '';

		return $sim->api('POST', '/files', $form, 'multipart/form-data; boundary=x')->{id};
	}
	my %key = ('x-goog-api-key' => 'sk-other');
	my $start = $sim->{http}->post($sim->origin . '/upload/v1beta/files', {
		headers => { %key, 'Content-Type' => 'application/json', 'X-Goog-Upload-Protocol' => 'resumable', 'X-Goog-Upload-Command' => 'start',
			'X-Goog-Upload-Header-Content-Length' => 3, 'X-Goog-Upload-Header-Content-Type' => 'application/jsonl' },
		content => qq({"file": {"displayName": "$name"}}) });
	my $end = $sim->{http}->post($start->{headers}{'x-goog-upload-url'}, {
		headers => { %key, 'X-Goog-Upload-Offset' => 0, 'X-Goog-Upload-Command' => 'upload, finalize' }, content => "{}\n" });

	die "$end->{status} $end->{content}" if !$end->{success};
	return JSON::PP->new->decode($end->{content})->{file}{name} =~ s{^files/}{}r;
}

# Uploaded files by their names: those of the job's batches.
sub files_of
{
	my ($job) = @_;
	my $tokens = sql($node, "SELECT string_agg(token, '|') FROM llm_batch.batch WHERE job_id = $job");

	return grep { $_->{uploaded} && $_->{filename} =~ /(?:$tokens)/ } $sim->files;
}

# The job ends well; so many uploads were stored.
sub check
{
	my ($name, $job, $uploads) = @_;

	is(wait_job($node, $job), 'succeeded', "$name: the job succeeded") or explain_job($node, $job);
	check_job($node, $job, $name);
	is(scalar(my @files = files_of($job)), $uploads, "$name: so many uploads arrived");
	$sim->clear_rules;
}

# ---- an upload that was not answered ----

my %foreign;    # ids of files that are not ours

foreach my $api (sort keys %provider)
{
	my $p = $provider{$api};
	my %upload = (%{ $p->{upload} }, times => 1);
	my $job;

	# what it did with the file, and how many copies of it that makes
	foreach my $case (
		[ 'cut after the commit', { cut_after_commit => $true }, 1 ],
		[ 'status 500 after the commit', { status => 500, commit => $true }, 1 ],
		[ 'no answer in time', { stall => 1.5 }, 1 ],
		[ 'garbage', { garbage => $true }, 1 ],
		[ 'status 503', { status => 503 }, 1, 'absent' ],
		[ 'cut in the middle', { cut_upload_at => 200 }, 1, 'absent' ])
	{
		my ($what, $do, $copies, $absent) = @$case;
		my $name = "$api, upload: $what";

		$sim->fault(\%upload, $do);
		$job = start_job($api);
		check($name, $job, $copies);
		is(event($job, 'looking_for_file'), 1, "$name: the file was looked for");
		is(event($job, 'file_absent'), $absent ? 1 : 0, "$name: it was " . ($absent ? 'not there' : 'found'));
	}

	# A copy that cannot be used goes, and the next is sent.
	my $name = "$api, upload: stored in part";
	$sim->options(file_fraction => 0.5);
	$sim->fault(\%upload, { cut_after_commit => $true });
	# until we have seen it nobody finds it
	$sim->fault($p->{list}, { status => 503 });
	$job = start_job($api);
	$sim->wait_for(sub { scalar(files_of($job)) == 1 });
	$sim->options(file_fraction => 1);
	$sim->clear_rules;
	check($name, $job, 2);
	is(event($job, 'file_copy'), 1, "$name: the broken copy was found");

	$name = "$api, upload: refused by the provider";
	$sim->options(%{ $p->{broken} });
	$sim->fault(\%upload, { cut_after_commit => $true });
	$job = start_job($api);
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'file_copy'", "$name: the broken copy is found");
	$sim->options(%{ $p->{sound} });
	check($name, $job, 2);

	# It is not ready at once: no second one is sent.
	$sim->options(%{ $p->{pending} });
	$sim->fault(\%upload, { cut_after_commit => $true });
	$job = start_job($api);
	wait_until($node, "SELECT count(*) > 0 FROM llm_batch.events WHERE job_id = $job AND kind = 'retry' AND message ~ 'ready'", 'the file is not ready');
	$sim->options(%{ $p->{sound} });
	check("$api, upload: not ready at once", $job, 1);

	# It is listed late: a second one is sent, and the first found at the end.
	$sim->options(file_unlisted_seconds => 1);
	$sim->fault(\%upload, { cut_after_commit => $true });
	my $late = start_job($api);
	check("$api, upload: listed late", $late, 2);
	$sim->options(file_unlisted_seconds => 0);

	# The list itself fails, for a while or for good.
	$sim->fault(\%upload, { cut_after_commit => $true });
	$sim->fault({ %{ $p->{list} }, times => 2 }, { status => 503 });
	$job = start_job($api);
	check("$api, upload: the list fails", $job, 1);
	wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.leftover', 'nobody else lists files');
	$sim->fault(\%upload, { status => 500 });
	$sim->fault({ %{ $p->{list} }, times => 1 }, { status => 404 });
	$job = start_job($api);
	check("$api, upload: there is no list", $job, 1);
	is(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND kind = 'file_absent' AND message ~ 'does not list'"), 1,
		"$api, upload: there is no list: the events say so");

	# The worker dies while the file is on its way; foreign names, however
	# like ours they are, mean nothing.
	$name = "$api, upload: the worker dies";
	my $pid = worker_pid($node);
	$sim->fault(\%upload, { stall => 0.8 });
	$job = start_job($api);
	$sim->wait_for(sub { scalar(files_of($job)) == 1 });
	my ($ours) = files_of($job);
	my $token = sql($node, "SELECT token FROM llm_batch.batch WHERE job_id = $job");
	sql($node, "SELECT pg_terminate_backend($pid)");
	$foreign{ foreign_file($api, $_) } = $_
	  foreach map { $p->{label}->($_) } "x${token}_0", "${token}_0x", "${token}_", $token, "${token}_0_0", substr($token, 0, 15) . '_0';
	check($name, $job, 6);
	is(event($job, 'looking_for_file'), 1, "$name: the file was looked for");
	is(sql($node, "SELECT remote_input FROM llm_batch.batch WHERE job_id = $job") =~ s{^files/}{}r, $ours->{id}, "$name: and used");
}

# ---- batches that came to nothing ----

foreach my $api (sort keys %provider)
{
	my $p = $provider{$api};
	my $job;

	# cancelled between upload and create
	$sim->fault($p->{create}, { status => 401 });
	$job = start_job($api);
	wait_until($node, "SELECT state = 'paused' FROM llm_batch.progress WHERE job_id = $job", 'the key is refused after the upload');
	is(join(' ', map { $_->{deleted} ? 'deleted' : 'there' } files_of($job)), 'there', "$api, cancelled after the upload: the file waits to be used");
	sql($node, "SELECT llm_batch.cancel($job)");
	$sim->clear_rules;
	is(wait_job($node, $job), 'cancelled', "$api, cancelled after the upload") or explain_job($node, $job);

	# too large: cut in halves
	$sim->fault({ %{ $p->{create} }, times => 1 }, { status => 413 });
	$job = start_job($api);
	check("$api: cut in halves", $job, 3);
	is(sql($node, "SELECT count(*) FROM llm_batch.calibration WHERE server = '$api' AND max_batch_bytes > 0"), 1, "$api: cut in halves: what that has taught is kept");
	sql($node, 'UPDATE llm_batch.calibration SET max_batch_bytes = NULL');
	wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.leftover', 'nothing else is being deleted');

	# the provider's queue is full: cut anew
	$sim->rule({ times => 1 }, fail => 'token_limit_exceeded') if $api eq 'openai';
	$sim->fault($p->{create}, { status => 429 }) if $api eq 'gemini';
	$job = start_job($api);
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'queue_full'", "$api: the queue is full: the events say so");
	$sim->clear_rules;
	is(wait_job($node, $job), 'succeeded', "$api: the queue is full") or explain_job($node, $job);
	sql($node, 'UPDATE llm_batch.calibration SET max_enqueued_tokens = NULL');
	wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.leftover', 'nothing else is being deleted');

	# its DELETE fails, the server is restarted meanwhile
	$sim->fault({ %{ $p->{delete} }, times => 2 }, { status => 500 });
	$job = start_job($api);
	wait_job($node, $job);
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'file_kept'", "$api: the deletion fails");
	$node->restart if $api eq 'openai';
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'file_deleted'", "$api: and is done at last");
	check("$api: the deletion fails", $job, 1);
}

# refused as a whole
$sim->rule({ times => 1 }, fail => 'invalid_json_line');
my $refused = start_job('openai', mode => 'batch');
wait_job($node, $refused);
$sim->clear_rules;

# The address is another when the file is to be deleted: not to be known there
# is not to be gone.
my $other = start_sim();
$sim->fault($provider{openai}{delete}, { status => 500 });
my $moved = start_job('openai');
wait_job($node, $moved);
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $moved AND kind = 'file_kept'", 'a file is left over');
sql($node, 'ALTER SERVER openai OPTIONS (SET base_url ' . LlmBatch::quote($other->base_url) . ')');
$other->wait_for(sub { scalar(my @asked = $other->requests(method => 'DELETE')) > 0 });
sql($node, 'ALTER SERVER openai OPTIONS (SET base_url ' . LlmBatch::quote($sim->base_url) . ')');
$sim->clear_rules;
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $moved AND kind = 'file_deleted'", 'it is deleted where it is');
$other->stop;

# ---- in a copy ----

# A database that is not the original: nothing is deleted.
wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.leftover', 'nothing else is being deleted');
$sim->fault($provider{openai}{delete}, { status => 500 });
my $copied = start_job('openai');
wait_job($node, $copied);
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $copied AND kind = 'file_kept'", 'a file is left over');
sql($node, "UPDATE llm_batch.job SET database_oid = 1 WHERE id = $copied");
my $asked = () = $sim->requests(method => 'DELETE');
$sim->clear_rules;
wait_until($node, "SELECT count(*) = 0 FROM llm_batch.leftover WHERE job_id = $copied", 'the copy forgets it');
my ($kept) = files_of($copied);
ok(!$kept->{deleted}, 'and does not delete it');

# ---- nothing of ours is left, and nobody else's is gone ----

wait_until($node, 'SELECT count(*) = 0 FROM llm_batch.leftover', 'all is cleaned up');
is(join(' ', map { "$_->{filename} ($_->{id})" } grep { $_->{uploaded} && !$_->{deleted} && !$foreign{ $_->{id} } && $_->{id} ne $kept->{id} } $sim->files),
	'', 'no file of ours is left at the provider');
is(join(' ', map { $_->{filename} } grep { $_->{deleted} && $foreign{ $_->{id} } } $sim->files), '', 'no file of others is gone');
is(scalar(keys %foreign), 12, 'there were some');
cmp_ok($sim->summary->{max_times_one_prompt_ran}, '==', 1, 'nothing was paid twice');
check_sim($sim);

# ---- a key that does not see the batch ----

$provider{anthropic} = {
	create => { method => 'POST', path => '^/v1/messages/batches$' },
	batches => { method => 'GET', path => '^/v1/messages/batches$' } };
create_server($node, $sim, name => 'anthropic', api => 'anthropic', request_timeout => '1s', settle_time => '1s');
my $job;

sub verify_with_other_key
{
	my ($api) = @_;
	my $p = $provider{$api};

	$sim->fault({ %{ $p->{create} }, times => 1 }, { cut_after_commit => $true });
	$sim->fault({ %{ $p->{batches} }, key => $sim_key{'sk-test'} }, { merge => { data => 'none' } });
	$sim->fault({ %{ $p->{batches} }, key => $sim_key{'sk-new'} }, { merge => { data => [] } });
	$job = start_job($api);
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.batches WHERE job_id = $job AND state = 'verifying'", 'verifying');
	like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), qr/^verifying: .*looked for/, 'progress says what is the matter');
	sql($node, qq{ALTER USER MAPPING FOR CURRENT_USER SERVER $api OPTIONS (SET api_key 'sk-new')});
	wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $job AND kind = 'other_key'", 'the key is another');
	sleep 2.5;
	is(sql($node, "SELECT state FROM llm_batch.batches WHERE job_id = $job"), 'verifying', 'by the listings of another key nothing is proved');
	like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $job"), qr/^verifying: .*another key/, 'progress says why');
}

verify_with_other_key('anthropic');
sql($node, q{ALTER USER MAPPING FOR CURRENT_USER SERVER anthropic OPTIONS (SET api_key 'sk-test')});
$sim->clear_rules;
is(wait_job($node, $job), 'succeeded', 'anthropic: found with the key of before') or explain_job($node, $job);
is(event($job, 'absent'), 0, 'anthropic: it was never absent');

verify_with_other_key('openai');

# one create at a time: the next waits, and says for what
my $second = start_job('openai');
wait_until($node, "SELECT count(*) = 1 FROM llm_batch.events WHERE job_id = $second AND kind = 'waiting'", 'another batch of the key waits');
like(sql($node, "SELECT reason FROM llm_batch.progress WHERE job_id = $second"), qr/^verifying: batch \d+ of the same server and key/, 'progress says for what');
sql($node, q{ALTER USER MAPPING FOR CURRENT_USER SERVER openai OPTIONS (SET api_key 'sk-test')});
$sim->clear_rules;
check('the key is as it was', $job, 1);
check('and the one that waited goes', $second, 1);
is(sql($node, "SELECT count(*) FROM llm_batch.progress WHERE job_id IN ($job, $second) AND reason IS NOT NULL"), 0, 'no reason is left');
is(event($job, 'absent'), 0, 'it was never absent');
is($sim->summary->{max_times_one_prompt_ran}, 1, 'and not paid twice');

# A person may decide otherwise.
verify_with_other_key('openai');
sql($node, "SELECT llm_batch.resume($job, resend => true)");
is(wait_job($node, $job), 'succeeded', 'sent anew because somebody says so') or explain_job($node, $job);
is(event($job, 'resend'), 1, 'the events say who said so');
is($sim->summary->{max_times_one_prompt_ran}, 2, 'which was paid twice');
unlike(sql($node, "SELECT string_agg(b::text, ' ') FROM llm_batch.batch b"), qr/sk-/, 'no key is in the tables');

done_testing();
