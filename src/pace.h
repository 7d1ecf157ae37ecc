/*-------------------------------------------------------------------------
 *
 * pace.h
 *		How fast real-time requests may go out with one key: a policy, pure
 *		function of what was sent, what came back, and the clock.
 *
 * Three things hold a request back: how many are out (additive increase,
 * multiplicative decrease under the option realtime_concurrency), how many
 * requests and tokens a minute may have (options, as buckets of two seconds'
 * worth), and what the provider said (Retry-After, rate-limit headers).
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PACE_H
#define LLMB_PACE_H

#include "batch.h"

typedef struct LlmbPace
{
	int			most;			/* option realtime_concurrency */
	double		limit;			/* how many may be out now, 1..most */
	int			out;
	int64		cut_ms;			/* when limit was last cut; what was sent before does not cut again */
	int64		blocked_until_ms;	/* nothing goes out before */
	int			blocks;			/* in a row, without a success between */
	double		requests_per_ms;	/* 0: no pace */
	double		tokens_per_ms;
	double		requests;		/* what the buckets hold */
	double		tokens;
	int64		filled_ms;		/* when they were last filled */
} LlmbPace;

/* How a request ended, as far as the pace is concerned. */
typedef enum LlmbPaceEnd
{
	LLMB_PACE_ANSWERED,			/* any reply that says nothing of overload */
	LLMB_PACE_BUSY,				/* too fast, or overloaded */
	LLMB_PACE_LOST				/* not sent, or no answer: the way is broken */
} LlmbPaceEnd;

/* Sets or changes the options; what is known otherwise stays. */
extern void llmb_pace_set(LlmbPace *pace, int most, int64 requests_per_minute,
						  int64 tokens_per_minute, int64 now_ms);

/*
 * Milliseconds until a request of so many tokens may go out: 0 now, -1 not
 * before one that is out has ended.
 */
extern int64 llmb_pace_wait(LlmbPace *pace, double tokens, int64 now_ms);

/* One went out. */
extern void llmb_pace_sent(LlmbPace *pace, double tokens);

/*
 * One that went out at sent_ms has ended.  asked_ms is what the provider
 * asked to wait (-1 nothing), backoff_ms what to wait when it asked nothing.
 */
extern void llmb_pace_ended(LlmbPace *pace, LlmbPaceEnd end, int64 sent_ms, int64 now_ms,
							int64 asked_ms, int64 backoff_ms);

/* What the headers of a reply said. */
extern void llmb_pace_limits(LlmbPace *pace, const LlmbLimits *limits, int64 now_ms);

#endif							/* LLMB_PACE_H */
