/*
 * Whether a server is to be called: the policy against a made clock.
 */
#include "unit.h"

#include "breaker.h"

static void
fail(LlmbBreaker *breaker, int times, int64 now)
{
	for (int i = 0; i < times; i++)
		(void) llmb_breaker_ended(breaker, false, now - 10, now, 1000);
}

static void
test_opening(void)
{
	LlmbBreaker breaker = {0};

	is_text(llmb_breaker_name(breaker.state), "closed", "all zero is closed");
	fail(&breaker, LLMB_BREAKER_FAILURES - 1, 5000);
	ok(llmb_breaker_wait(&breaker, 5000) == 0, "a few bad ends do not open it");
	ok(!llmb_breaker_ended(&breaker, true, 4000, 5000, 1000) && breaker.failures == 0, "a good one begins the count anew");
	fail(&breaker, LLMB_BREAKER_FAILURES - 1, 5000);
	ok(llmb_breaker_ended(&breaker, false, 4990, 6000, 1000), "as many in a row do");
	is_text(llmb_breaker_name(breaker.state), "open", "then it is open");
	ok(llmb_breaker_wait(&breaker, 6000) == 1000 && llmb_breaker_wait(&breaker, 6999) == 1, "until the backoff is over");
	fail(&breaker, 20, 6500);
	ok(breaker.retry_ms == 7000 && breaker.opens == 1, "what was out when it opened does not prolong it");
	ok(llmb_breaker_wait(&breaker, 7000) == 0, "then one may go");
}

static void
test_trial(void)
{
	LlmbBreaker breaker = {0};

	fail(&breaker, LLMB_BREAKER_FAILURES, 1000);
	llmb_breaker_sent(&breaker, 2000);
	is_text(llmb_breaker_name(breaker.state), "half_open", "one is out to see");
	ok(llmb_breaker_wait(&breaker, 2000) == -1 && llmb_breaker_wait(&breaker, 99000) == -1, "the others wait for its end");
	ok(!llmb_breaker_ended(&breaker, false, 500, 2100, 4000), "an old one that ends meanwhile decides nothing");
	ok(llmb_breaker_ended(&breaker, false, 2000, 2500, 4000) && breaker.retry_ms == 6500, "its bad end opens it for longer");
	ok(breaker.opens == 2, "which is counted, for the backoff");
	llmb_breaker_sent(&breaker, 6500);
	ok(llmb_breaker_ended(&breaker, true, 6500, 6600, 4000), "a good end");
	ok(breaker.state == LLMB_BREAKER_CLOSED && breaker.opens == 0 && breaker.failures == 0 && breaker.since_ms == 6600,
	   "closes it, and all is forgotten");
	fail(&breaker, LLMB_BREAKER_FAILURES, 7000);
	ok(llmb_breaker_ended(&breaker, true, 6990, 7100, 1000) && llmb_breaker_wait(&breaker, 7100) == 0,
	   "any good end closes it, also of one that was out before");
}

static void
test_dropped(void)
{
	LlmbBreaker breaker = {0};

	llmb_breaker_dropped(&breaker, 10, 20);
	ok(breaker.state == LLMB_BREAKER_CLOSED, "a call given up says nothing");
	fail(&breaker, LLMB_BREAKER_FAILURES, 1000);
	llmb_breaker_sent(&breaker, 2000);
	llmb_breaker_dropped(&breaker, 900, 2050);
	ok(llmb_breaker_wait(&breaker, 2050) == -1, "an old one given up does not end the trial");
	llmb_breaker_dropped(&breaker, 2000, 2100);
	ok(breaker.state == LLMB_BREAKER_OPEN && llmb_breaker_wait(&breaker, 2100) == 0 && breaker.opens == 1,
	   "the trial given up makes room for another at once");
}

/*
 * A server that is down for an hour, of which a hundred batches want to know:
 * how many calls go out, and how soon its return is noticed.
 */
static void
test_outage(void)
{
	LlmbBreaker breaker = {0};
	int64		down_until = 3600 * 1000;
	int64		now = 0;
	int			calls = 0;

	while (breaker.state != LLMB_BREAKER_CLOSED || now < down_until)
	{
		if (llmb_breaker_wait(&breaker, now) == 0)
		{
			llmb_breaker_sent(&breaker, now);
			calls++;
			(void) llmb_breaker_ended(&breaker, now + 20 >= down_until, now, now + 20,
									  llmb_backoff_ms(breaker.opens + 1, 1000, 60000, 0.5));
		}
		now += 20;
	}
	ok(calls < 100, "an hour without the server costs %d calls", calls);
	ok(now - down_until <= 60000, "its return is noticed after %lld ms", (long long) (now - down_until));
}

void
test_breaker(void)
{
	test_opening();
	test_trial();
	test_dropped();
	test_outage();
}
