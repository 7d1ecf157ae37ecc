/*
 * How fast real-time requests may go out: the policy against a made clock.
 */
#include "unit.h"

#include "pace.h"

static LlmbPace
new_pace(int most, int64 requests, int64 tokens)
{
	LlmbPace	pace = {0};

	llmb_pace_set(&pace, most, requests, tokens, 1000);
	return pace;
}

static void
test_concurrency(void)
{
	LlmbPace	pace = new_pace(3, 0, 0);
	int			i;

	for (i = 0; i < 3; i++)
	{
		ok(llmb_pace_wait(&pace, 10, 1000) == 0, "a place is free");
		llmb_pace_sent(&pace, 10);
	}
	ok(llmb_pace_wait(&pace, 10, 1000) == -1, "no more than as many as may be out");
	llmb_pace_ended(&pace, LLMB_PACE_ANSWERED, 1000, 1100, -1, 50);
	ok(llmb_pace_wait(&pace, 10, 1100) == 0, "an answer makes room");
	llmb_pace_set(&pace, 100, 0, 0, 1200);
	ok((int) pace.limit == 100, "one that was never cut grows with the option");
}

static void
test_busy(void)
{
	LlmbPace	pace = new_pace(64, 0, 0);
	int			i;

	for (i = 0; i < 64; i++)
		llmb_pace_sent(&pace, 1);
	for (i = 0; i < 10; i++)
		llmb_pace_ended(&pace, LLMB_PACE_BUSY, 1000, 1500, 2000, 100);
	ok((int) pace.limit == 32, "ten refusals of one moment halve once");
	ok(pace.blocked_until_ms == 3500, "Retry-After is honoured, not the backoff");
	for (i = 0; i < 54; i++)
		llmb_pace_ended(&pace, LLMB_PACE_ANSWERED, 1000, 1600, -1, 100);
	ok(llmb_pace_wait(&pace, 1, 1600) == 1900, "and waited for");
	ok(llmb_pace_wait(&pace, 1, 3500) == 0, "until it is over");
	llmb_pace_sent(&pace, 1);
	llmb_pace_ended(&pace, LLMB_PACE_BUSY, 3500, 3600, -1, 100);
	ok(pace.blocked_until_ms == 3700, "without Retry-After the backoff counts");
	for (i = 0; i < 2000; i++)
	{
		llmb_pace_sent(&pace, 1);
		llmb_pace_ended(&pace, LLMB_PACE_ANSWERED, 4000, 4000, -1, 100);
	}
	ok((int) pace.limit > 32 && (int) pace.limit <= 64, "answers bring the places back, one by one");
	llmb_pace_sent(&pace, 1);
	llmb_pace_ended(&pace, LLMB_PACE_BUSY, 8000, 8000, -1, 100);
	llmb_pace_set(&pace, 1000, 0, 0, 9000);
	ok((int) pace.limit < 100, "one that was cut does not jump when more are allowed");
	for (i = 0; i < 20; i++)
	{
		llmb_pace_sent(&pace, 1);
		llmb_pace_ended(&pace, LLMB_PACE_LOST, 10000 + i * 10, 10005 + i * 10, -1, 5);
	}
	ok(pace.limit >= 1, "one may always be tried");
}

/* How many of so many tokens each go out in a minute. */
static int
sent_in_a_minute(LlmbPace *pace, double tokens)
{
	int64		now = 1000;
	int			sent = 0;

	while (now < 61000)
	{
		int64		wait = llmb_pace_wait(pace, tokens, now);

		if (wait > 0)
		{
			now += wait;
			continue;
		}
		llmb_pace_sent(pace, tokens);
		llmb_pace_ended(pace, LLMB_PACE_ANSWERED, now, now, -1, 100);
		sent++;
	}
	return sent;
}

static void
test_rates(void)
{
	LlmbPace	pace = new_pace(64, 600, 0);
	int			sent = sent_in_a_minute(&pace, 100);

	ok(sent >= 590 && sent <= 625, "600 requests a minute, and a bucket: %d", sent);
	pace = new_pace(64, 0, 100000);
	sent = sent_in_a_minute(&pace, 1000);
	ok(sent >= 98 && sent <= 105, "100,000 tokens a minute: %d of 1,000", sent);
	pace = new_pace(64, 0, 6000);
	sent = sent_in_a_minute(&pace, 3000);
	ok(sent >= 1 && sent <= 3, "one that is larger than the bucket goes on credit: %d", sent);
}

static void
test_limits(void)
{
	LlmbPace	pace = new_pace(64, 0, 0);
	LlmbLimits	limits = {5, 1000, -1, -1};

	llmb_pace_limits(&pace, &limits, 1000);
	ok(llmb_pace_wait(&pace, 1, 1000) == 0, "requests are left: go on");
	limits.requests_left = 0;
	llmb_pace_limits(&pace, &limits, 1000);
	ok(llmb_pace_wait(&pace, 1, 1000) == 1000, "none is left: wait for the reset");
	limits.tokens_left = 0;
	limits.tokens_reset_ms = 5000;
	llmb_pace_limits(&pace, &limits, 1000);
	ok(llmb_pace_wait(&pace, 1, 1000) == 5000, "the same for tokens");
}

void
test_pace(void)
{
	test_concurrency();
	test_busy();
	test_rates();
	test_limits();
}
