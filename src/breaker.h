/*-------------------------------------------------------------------------
 *
 * breaker.h
 *		Whether a server is to be called at all: a policy, pure function of
 *		how calls ended, and the clock.
 *
 *		closed		calls go out; so many bad ends in a row open it
 *		open		no call goes out until its time has come
 *		half_open	one call is out to see; the others wait for its end
 *
 * A call ends badly when the server is at fault or cannot be reached.  A
 * refusal, also for lack of quota, is a sign of life.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_BREAKER_H
#define LLMB_BREAKER_H

#include "common.h"

/* Bad ends in a row that open it. */
#define LLMB_BREAKER_FAILURES	5

typedef enum LlmbBreakerState
{
	LLMB_BREAKER_CLOSED,
	LLMB_BREAKER_OPEN,
	LLMB_BREAKER_HALF_OPEN
} LlmbBreakerState;

/* All zero: closed, and nothing known. */
typedef struct LlmbBreaker
{
	LlmbBreakerState state;
	int			failures;		/* bad ends in a row */
	int			opens;			/* in a row, without a good end between */
	int64		since_ms;		/* when the state began, epoch ms; 0 never changed */
	int64		retry_ms;		/* open: when one call may go out, epoch ms */
} LlmbBreaker;

extern const char *llmb_breaker_name(LlmbBreakerState state);

/*
 * Milliseconds until a call may go out: 0 now, -1 when the one that is out
 * has ended.
 */
extern int64 llmb_breaker_wait(const LlmbBreaker *breaker, int64 now_ms);

/* One goes out, which llmb_breaker_wait() has let. */
extern void llmb_breaker_sent(LlmbBreaker *breaker, int64 now_ms);

/*
 * One that went out at sent_ms has ended.  backoff_ms is how long it stays
 * open, if this opens it.  True when the state is another now.
 */
extern bool llmb_breaker_ended(LlmbBreaker *breaker, bool good, int64 sent_ms, int64 now_ms, int64 backoff_ms);

/* The one that is out was given up, so nothing is known of it: another may go. */
extern void llmb_breaker_dropped(LlmbBreaker *breaker, int64 sent_ms, int64 now_ms);

#endif							/* LLMB_BREAKER_H */
