# HTTPS with a certification authority of one's own; no key goes elsewhere.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use LlmBatch;
use Test::More;

my $node = start_node();
my $sim = start_sim(tls => 1);
my $other = start_sim(tls => 1);
create_articles($node, 40);

# The error of a call of check_server, or its NOTICE.
sub check_server
{
	my ($name) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', "CALL llm_batch.check_server('$name')");
	return $stderr;
}

create_server($node, $sim);
like(check_server('sim'), qr/NOTICE:.*server "sim": /, 'check_server: a server behind a CA of ours is fine');
my $job = submit($node, target => 'summary');
is(watch_job($node, $job, 'HTTPS'), 'succeeded', 'a job over HTTPS succeeds');
check_job($node, $job);
is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), '40', 'every row has its answer');
check_prompts_ran_once($sim, 40);

# The other providers, and real time.
foreach my $api (qw(anthropic gemini openai))
{
	create_server($node, $sim, name => $api, api => $api);
	like(check_server($api), qr/NOTICE:.*server "$api": /, "check_server: $api");
	foreach my $mode (qw(batch realtime))
	{
		$sim->reset;
		sql($node, 'UPDATE articles SET summary = NULL');
		$job = submit($node, server => $api, model => $LlmBatch::MODEL{$api}, target => 'summary', mode => $mode);
		is(watch_job($node, $job, "HTTPS, $api, $mode"), 'succeeded', "HTTPS, $api, $mode: the job succeeds");
		is(sql($node, "SELECT count(*) FROM articles WHERE summary = $LlmBatch::RIGHT"), '40', "HTTPS, $api, $mode: every row has its answer");
		check_bill($node, $sim, $job, "HTTPS, $api, $mode");
	}
}

# A certificate that the server's CA has not signed, or no CA of ours at all.
foreach my $case ([ wrong => $other->ca_file ], [ none => undef ], [ absent => '/nonexistent/ca.pem' ])
{
	my ($name, $ca) = @$case;
	my $before = () = $sim->requests;

	create_server($node, $sim, name => $name, ca_file => $ca);
	like(
		check_server($name),
		$name eq 'absent'
		? qr/ERROR:.*server "$name": .*could not load the file of certificate authorities/
		: qr/ERROR:.*server "$name": .*could not verify the TLS certificate of 127\.0\.0\.1/,
		"check_server says what is wrong with the certificate: CA $name");
	$job = submit($node, server => $name, target => 'summary', limit => 5);
	wait_until($node, "SELECT count(*) >= 2 FROM llm_batch.events WHERE job_id = $job AND message ~ 'certificate'",
		"CA $name: events tell that the certificate is the reason");
	is(sql($node, "SELECT state, queued + in_flight FROM llm_batch.progress WHERE job_id = $job"), 'running|5',
		"CA $name: the job waits, no item is charged for it");
	is(scalar(my @seen = $sim->requests), $before, "CA $name: not one request came through");
	sql($node, "ALTER SERVER $name OPTIONS (" . ($ca ? 'SET' : 'ADD') . ' ca_file ' . quote($sim->ca_file) . ')');
	is(wait_job($node, $job), 'succeeded', "CA $name: it goes on when the option is corrected");
}

# Redirects are not followed: the next host would get key and prompts.
foreach my $method ('POST', 'GET')
{
	$sim->clear_rules;
	$sim->fault({ method => $method, times => 2 }, { redirect => $other->base_url . '/elsewhere' });
	$job = submit($node, target => 'summary', limit => 5);
	my $state = wait_job($node, $job);
	ok($state eq 'succeeded' || $state eq 'failed', "$method redirected: the job ends ($state)");
	check_job($node, $job);
	cmp_ok(sql($node, "SELECT count(*) FROM llm_batch.events WHERE job_id = $job AND message ~ 'HTTP 307'"),
		'>=', 1, "$method redirected: events name the status");
	is(scalar(my @seen = $other->requests), 0, "$method redirected: nothing arrived at the other host");
}
is( sql($node, q{
		SELECT count(*) FROM llm_batch.events WHERE message ~ 'sk-test'}) , '0', 'no key in events');
check_sim($sim);
check_sim($other);

done_testing();
