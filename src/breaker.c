/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		Whether a server is to be called at all.
 *
 *-------------------------------------------------------------------------
 */
#include "breaker.h"

const char *
llmb_breaker_name(LlmbBreakerState state)
{
	switch (state)
	{
		case LLMB_BREAKER_CLOSED:
			return "closed";
		case LLMB_BREAKER_OPEN:
			return "open";
		case LLMB_BREAKER_HALF_OPEN:
			return "half_open";
	}
	return NULL;
}

static void
become(LlmbBreaker *breaker, LlmbBreakerState state, int64 now_ms)
{
	breaker->state = state;
	breaker->since_ms = now_ms;
}

int64
llmb_breaker_wait(const LlmbBreaker *breaker, int64 now_ms)
{
	if (breaker->state == LLMB_BREAKER_HALF_OPEN)
		return -1;
	if (breaker->state == LLMB_BREAKER_OPEN && breaker->retry_ms > now_ms)
		return breaker->retry_ms - now_ms;
	return 0;
}

void
llmb_breaker_sent(LlmbBreaker *breaker, int64 now_ms)
{
	if (breaker->state == LLMB_BREAKER_OPEN)
		become(breaker, LLMB_BREAKER_HALF_OPEN, now_ms);
}

/* What went out before the state began says nothing about it. */
static bool
is_trial(const LlmbBreaker *breaker, int64 sent_ms)
{
	return breaker->state == LLMB_BREAKER_HALF_OPEN && sent_ms >= breaker->since_ms;
}

static bool
ended_well(LlmbBreaker *breaker, int64 now_ms)
{
	bool		was_closed = breaker->state == LLMB_BREAKER_CLOSED;

	breaker->failures = breaker->opens = 0;
	if (!was_closed)
		become(breaker, LLMB_BREAKER_CLOSED, now_ms);
	return !was_closed;
}

bool
llmb_breaker_ended(LlmbBreaker *breaker, bool good, int64 sent_ms, int64 now_ms, int64 backoff_ms)
{
	if (good)
		return ended_well(breaker, now_ms);
	breaker->failures++;
	if (breaker->state == LLMB_BREAKER_CLOSED ? breaker->failures < LLMB_BREAKER_FAILURES :
		!is_trial(breaker, sent_ms))
		return false;
	breaker->opens++;
	breaker->retry_ms = now_ms + backoff_ms;
	become(breaker, LLMB_BREAKER_OPEN, now_ms);
	return true;
}

void
llmb_breaker_dropped(LlmbBreaker *breaker, int64 sent_ms, int64 now_ms)
{
	if (!is_trial(breaker, sent_ms))
		return;
	breaker->retry_ms = now_ms;
	become(breaker, LLMB_BREAKER_OPEN, now_ms);
}
