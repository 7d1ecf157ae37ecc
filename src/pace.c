/*-------------------------------------------------------------------------
 *
 * pace.c
 *		How fast real-time requests may go out with one key.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "pace.h"

/* Nobody is waited for longer without being asked again. */
#define LONGEST_BLOCK_MS	(INT64CONST(60) * 60 * 1000)

/* A bucket holds what so many milliseconds bring, and at least one request. */
#define BUCKET_MS	2000

static double
bucket(double per_ms, double least)
{
	return Max(per_ms * BUCKET_MS, least);
}

void
llmb_pace_set(LlmbPace *pace, int most, int64 requests_per_minute,
			  int64 tokens_per_minute, int64 now_ms)
{
	double		requests = requests_per_minute / 60000.0;
	double		tokens = tokens_per_minute / 60000.0;

	/* only a limit that was cut has to grow again */
	if (pace->most != most)
		pace->limit = pace->limit >= pace->most ? most : Min(pace->limit, most);
	pace->most = most;
	if (pace->requests_per_ms != requests || pace->tokens_per_ms != tokens)
	{
		pace->requests = bucket(requests, 1);
		pace->tokens = bucket(tokens, 0);
		pace->filled_ms = now_ms;
	}
	pace->requests_per_ms = requests;
	pace->tokens_per_ms = tokens;
}

static void
fill_buckets(LlmbPace *pace, int64 now_ms)
{
	int64		passed = Max(now_ms - pace->filled_ms, 0);

	pace->requests = Min(pace->requests + passed * pace->requests_per_ms, bucket(pace->requests_per_ms, 1));
	pace->tokens = Min(pace->tokens + passed * pace->tokens_per_ms, bucket(pace->tokens_per_ms, 0));
	pace->filled_ms = now_ms;
}

/* Until a bucket holds that much; one larger than the bucket goes on credit. */
static int64
bucket_wait(double has, double wanted, double per_ms)
{
	if (per_ms <= 0)
		return 0;
	wanted = Min(wanted, bucket(per_ms, 0));
	return has >= wanted ? 0 : (int64) ((wanted - has) / per_ms) + 1;
}

int64
llmb_pace_wait(LlmbPace *pace, double tokens, int64 now_ms)
{
	int64		wait;

	if (pace->out >= (int) pace->limit)
		return -1;
	fill_buckets(pace, now_ms);
	wait = Max(pace->blocked_until_ms - now_ms, 0);
	if (pace->requests_per_ms > 0 && pace->requests < 1)
		wait = Max(wait, (int64) ((1 - pace->requests) / pace->requests_per_ms) + 1);
	return Max(wait, bucket_wait(pace->tokens, tokens, pace->tokens_per_ms));
}

void
llmb_pace_sent(LlmbPace *pace, double tokens)
{
	pace->out++;
	pace->requests -= 1;
	pace->tokens -= tokens;
}

static void
block(LlmbPace *pace, int64 now_ms, int64 ms)
{
	pace->blocked_until_ms = Max(pace->blocked_until_ms, now_ms + Min(ms, LONGEST_BLOCK_MS));
}

void
llmb_pace_ended(LlmbPace *pace, LlmbPaceEnd end, int64 sent_ms, int64 now_ms,
				int64 asked_ms, int64 backoff_ms)
{
	pace->out--;
	if (end == LLMB_PACE_ANSWERED)
	{
		/* one more at a time once as many as are allowed were answered */
		pace->limit = Min(pace->limit + 1 / Max(pace->limit, 1), pace->most);
		pace->blocks = 0;
		return;
	}
	/* the others that were out at the time tell the same once more */
	if (sent_ms >= pace->cut_ms)
	{
		pace->limit = Max(pace->limit / 2, 1);
		pace->cut_ms = now_ms;
		pace->blocks++;
		block(pace, now_ms, asked_ms > 0 ? asked_ms : backoff_ms);
	}
	else if (asked_ms > 0)
		block(pace, now_ms, asked_ms);
}

void
llmb_pace_limits(LlmbPace *pace, const LlmbLimits *limits, int64 now_ms)
{
	if (limits->requests_left == 0 && limits->requests_reset_ms > 0)
		block(pace, now_ms, limits->requests_reset_ms);
	if (limits->tokens_left == 0 && limits->tokens_reset_ms > 0)
		block(pace, now_ms, limits->tokens_reset_ms);
}
