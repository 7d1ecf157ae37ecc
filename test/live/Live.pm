# Three requests to each real provider: one in real time and a batch of two,
# with typed answers.  What it may cost is known before anything is sent.
#
# Keys come from the environment and stay there: SQL only ever has the name of
# the variable (option "api_key_env"), so that no log can have the key.
package Live;

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../t";
use LlmBatch;
use Test::More;

# USD, of all providers together.
our $MOST = 0.01;

# Cheap models, as of November 2026.  LLM_BATCH_LIVE_<API>_MODEL names another,
# LLM_BATCH_LIVE_<API>_URL another address.
our %PROVIDER = (
	openai => { key => 'OPENAI_API_KEY', model => 'gpt-6-luna', params => '{"max_tokens": 600, "reasoning_effort": "none"}' },
	anthropic => { key => 'ANTHROPIC_API_KEY', model => 'claude-haiku-5-5', params => '{"max_tokens": 600, "reasoning_effort": "none"}' },
	gemini => { key => 'GEMINI_API_KEY', model => 'gemini-3.1-flash-lite', params => '{"max_tokens": 600}' });

# Seconds that a batch may take before it is cancelled.  Most end in minutes;
# the providers promise no more than a day.
our $PATIENCE = $ENV{LLM_BATCH_LIVE_PATIENCE} // 3600;

# How often is asked for a batch.
our ($POLL_MIN, $POLL_MAX) = ('5s', '30s');

my $TARGET = 'mood, stars, summary';
my $PROMPT = 'What does the writer of this review think, and how many stars would they give (1 to 5)? Review: {{body}}';

# Those providers whose key is there.
sub providers
{
	return grep { ($ENV{ $PROVIDER{$_}{key} } // '') ne '' } sort keys %PROVIDER;
}

sub setting
{
	my ($api, $name, $default) = @_;
	my $value = $ENV{ 'LLM_BATCH_LIVE_' . uc($api) . "_$name" } // '';

	return $value ne '' ? $value : $default;
}

sub arguments
{
	my ($api, $mode) = @_;
	my %arg = (
		source => 'reviews', prompt => $PROMPT, model => setting($api, 'MODEL', $PROVIDER{$api}{model}), server => $api,
		target => $TARGET, params => $PROVIDER{$api}{params}, mode => $mode,
		filter => $mode eq 'realtime' ? 'id = 1' : 'id > 1');

	return \%arg;
}

# create($node, @apis): a table of three reviews, and a server for each.
sub create
{
	my ($node, @apis) = @_;

	sql($node, q{
		CREATE TYPE mood AS ENUM ('pleased', 'displeased', 'undecided');
		CREATE TABLE reviews (id int PRIMARY KEY, body text NOT NULL, mood mood, stars smallint, summary text);
		COMMENT ON COLUMN reviews.stars IS 'from 1 to 5';
		COMMENT ON COLUMN reviews.summary IS 'at most ten words';
		INSERT INTO reviews (id, body) VALUES
			(1, 'I could not put it down. The best book I have read this year.'),
			(2, 'The screen broke on the second day, and nobody answers my letters.'),
			(3, 'It is a chair. One can sit on it.')});
	foreach my $api (@apis)
	{
		my $url = setting($api, 'URL');
		my $options = join ', ', "api '$api'", "fallback 'none'", "poll_min '$POLL_MIN'", "poll_max '$POLL_MAX'",
		  defined $url ? 'base_url ' . quote($url) : ();

		sql($node, "CREATE SERVER $api FOREIGN DATA WRAPPER llm_batch OPTIONS ($options)");
		sql($node, "CREATE USER MAPPING FOR CURRENT_USER SERVER $api OPTIONS (api_key_env '$PROVIDER{$api}{key}')");
	}
}

# USD that all of it is expected to cost; undef when a price is not known.
sub forecast
{
	my ($node, @apis) = @_;
	my $sum = 0;

	foreach my $api (@apis)
	{
		foreach my $mode (qw(realtime batch))
		{
			my $arg = arguments($api, $mode);
			my $list = join ', ', map { "$_ => " . quote($arg->{$_}) } sort keys %$arg;
			my $cost = sql($node, "SELECT COALESCE(cost::text, 'unknown') FROM llm_batch.estimate($list) WHERE asked");

			note("$api, $mode: $arg->{model} is expected to cost $cost USD");
			return undef if $cost !~ /^[0-9.]+$/;
			$sum += $cost;
		}
	}
	return $sum;
}

# Until it has ended, waits for nobody, or is out of time; the state then.
sub wait_end
{
	my ($node, $job) = @_;
	my $until = time + $PATIENCE;
	my $row;

	do
	{
		$row = job_row($node, $job);
		return $row if $row->{state} =~ /^(succeeded|partial|failed|cancelled|paused)$/;
		select undef, undef, undef, 0.5;
	} while (time < $until);
	return $row;
}

# One job; the USD that it cost.
sub run_job
{
	my ($node, $api, $mode, $most) = @_;
	my $arg = arguments($api, $mode);
	my $count = $mode eq 'realtime' ? 1 : 2;
	my $job = submit($node, %$arg, max_cost => $most);
	my $row = wait_end($node, $job);

  SKIP:
	{
		if ($row->{state} eq 'running')
		{
			sql($node, "SELECT llm_batch.cancel($job)");
			$row = wait_end($node, $job);
			skip "$api, $mode: the batch took longer than $PATIENCE s and was cancelled (it is $row->{state} now)", 3;
		}
		is($row->{state}, 'succeeded', "$api, $mode: the job succeeded") or explain_job($node, $job);
		is( sql($node, "SELECT count(*) FROM reviews WHERE $arg->{filter} AND mood IS NOT NULL AND stars BETWEEN 1 AND 5 AND summary <> ''"),
			$count, "$api, $mode: every column has its answer");
		is($row->{cost_unknown}, 0, "$api, $mode: what it cost is known");
	}
	note(sql($node, "SELECT string_agg(concat_ws(' | ', id, mood, stars, summary), E'\\n' ORDER BY id) FROM reviews WHERE $arg->{filter}"));
	sql($node, "SELECT llm_batch.cancel($job)") if $row->{state} eq 'paused';
	return $row->{cost} // 0;
}

# check($node, @apis): all of it; the USD that were spent.
sub check
{
	my ($node, @apis) = @_;
	my $spent = 0;

	create($node, @apis);
	my $forecast = forecast($node, @apis);
	if (!defined $forecast || $forecast > $MOST)
	{
		fail(defined $forecast ? "nothing is sent: it may cost $forecast USD, and $MOST are allowed"
			: 'nothing is sent: what it may cost is not known');
		return $spent;
	}
	pass("it is expected to cost $forecast USD of the $MOST that are allowed");
	foreach my $api (@apis)
	{
		sql($node, 'UPDATE reviews SET mood = NULL, stars = NULL, summary = NULL');
		my ($status, undef, $error) = $node->psql('postgres', "CALL llm_batch.check_server('$api')");
		if ($status != 0)
		{
			fail("$api: the server answers");
			diag($error);
			next;
		}
		pass("$api: the server answers");
		foreach my $mode (qw(realtime batch))
		{
			# what is left, so that all of it together cannot cost more
			$spent += run_job($node, $api, $mode, sprintf('%.8f', $MOST - $spent));
		}
	}
	cmp_ok($spent, '<=', $MOST, sprintf('all of it cost %.6f USD', $spent));
	return $spent;
}

1;
