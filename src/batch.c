/*-------------------------------------------------------------------------
 *
 * batch.c
 *		The life of a batch as a table, the names of states and codes, the
 *		list of providers, and the policies that are arithmetic.
 *
 *		   planned ---> uploading ---> submitting ---> in_progress
 *		      ^             |          |        ^         |     |
 *		      +-------------+----------+     verifying    |  cancelling
 *		                                                  v     v
 *		   finalized | cancelled <--- fetching <------->  ended
 *
 * "failed" can be reached from wherever a provider may refuse, "cancelled"
 * from wherever nothing runs any more.  The table below is the truth.
 *
 * Pure functions: no clock, no memory of earlier calls, no errors raised.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"

/*
 * States
 */

#define TO(state) (1u << (state))

typedef struct StateInfo
{
	const char *name;
	uint32		successors;		/* none: the batch is over */
} StateInfo;

static const StateInfo states[] = {
	/*
	 * A provider that takes the requests in the body of the create call has
	 * no upload; items that are sent singly have no create.
	 */
	[LLMB_PLANNED] = {
		"planned",
		TO(LLMB_UPLOADING) | TO(LLMB_SUBMITTING) | TO(LLMB_IN_PROGRESS) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/*
	 * Back to planned when the upload has ended, or was refused for the key:
	 * nothing is paid for a file.  Ended when the file itself was refused.  In
	 * progress when the old primary of a failover had gone further.
	 */
	[LLMB_UPLOADING] = {
		"uploading",
		TO(LLMB_PLANNED) | TO(LLMB_SUBMITTING) | TO(LLMB_IN_PROGRESS) | TO(LLMB_ENDED) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/*
	 * Entered before the create is sent.  Back to planned or uploading only
	 * when it is certain that the provider took nothing: not wholly sent, or
	 * refused.  Anything less certain is verifying.  Some providers answer
	 * with a batch that has ended already.
	 */
	[LLMB_SUBMITTING] = {
		"submitting",
		TO(LLMB_IN_PROGRESS) | TO(LLMB_VERIFYING) |
		TO(LLMB_PLANNED) | TO(LLMB_UPLOADING) | TO(LLMB_ENDED) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/*
	 * Found: whatever the found batch is.  Proved absent: sent anew
	 * (submitting, or planned when its file is gone as well), or cancelled if
	 * that is what the user wants by now.
	 */
	[LLMB_VERIFYING] = {
		"verifying",
		TO(LLMB_IN_PROGRESS) | TO(LLMB_CANCELLING) | TO(LLMB_ENDED) |
		TO(LLMB_SUBMITTING) | TO(LLMB_PLANNED) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/*
	 * Back to planned when validation refused it for a full queue, which
	 * providers tell only after the create: nothing ran, the same requests go
	 * again later.
	 */
	[LLMB_IN_PROGRESS] = {
		"in_progress",
		TO(LLMB_CANCELLING) | TO(LLMB_ENDED) | TO(LLMB_PLANNED) |
		TO(LLMB_FAILED)
	},

	/*
	 * A cancelled batch ends like any other, for it may hold results.  It is
	 * cancelled at once only when the provider says that nothing ran.  Back
	 * to in_progress when the cancel did not arrive.
	 */
	[LLMB_CANCELLING] = {
		"cancelling",
		TO(LLMB_IN_PROGRESS) | TO(LLMB_ENDED) | TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/* Without a result file there is nothing to fetch. */
	[LLMB_ENDED] = {
		"ended",
		TO(LLMB_FETCHING) | TO(LLMB_FINALIZED) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	/*
	 * Back to ended when the transfer broke; what was read is kept.  Failed
	 * when the files are gone for good.
	 */
	[LLMB_FETCHING] = {
		"fetching",
		TO(LLMB_ENDED) | TO(LLMB_FINALIZED) |
		TO(LLMB_CANCELLED) | TO(LLMB_FAILED)
	},

	[LLMB_FINALIZED] = {"finalized", 0},
	[LLMB_FAILED] = {"failed", 0},
	[LLMB_CANCELLED] = {"cancelled", 0},
};

const char *
llmb_batch_state_name(LlmbBatchState state)
{
	Assert((int) state >= 0 && state < lengthof(states));
	return states[state].name;
}

bool
llmb_batch_state_parse(const char *name, LlmbBatchState *state)
{
	int			i;

	for (i = 0; i < (int) lengthof(states); i++)
	{
		if (strcmp(states[i].name, name) == 0)
		{
			*state = (LlmbBatchState) i;
			return true;
		}
	}
	return false;
}

/* Staying what it is is no transition. */
bool
llmb_batch_can_become(LlmbBatchState from, LlmbBatchState to)
{
	Assert((int) from >= 0 && from < lengthof(states));
	return (states[from].successors & TO(to)) != 0;
}

bool
llmb_batch_is_over(LlmbBatchState state)
{
	Assert((int) state >= 0 && state < lengthof(states));
	return states[state].successors == 0;
}

/*
 * Codes
 */

static const char *const code_names[] = {
	[LLMB_OK] = NULL,
	[LLMB_RATE_LIMITED] = "rate_limited",
	[LLMB_AUTH] = "auth",
	[LLMB_INVALID_REQUEST] = "invalid_request",
	[LLMB_TOO_LARGE] = "too_large",
	[LLMB_PROVIDER_ERROR] = "provider_error",
	[LLMB_TIMEOUT] = "timeout",
	[LLMB_EXPIRED] = "expired",
	[LLMB_REFUSED] = "refused",
	[LLMB_TRUNCATED] = "truncated",
	[LLMB_INVALID_OUTPUT] = "invalid_output",
	[LLMB_UNANSWERED] = "unanswered",
	[LLMB_WRITE_BACK] = "write_back",
	[LLMB_STALE] = "stale",
	[LLMB_CANCELLED_ITEM] = "cancelled",
	[LLMB_BUDGET] = "budget",
};

const char *
llmb_code_name(LlmbCode code)
{
	Assert((int) code >= 0 && code < lengthof(code_names));
	return code_names[code];
}

bool
llmb_code_parse(const char *name, LlmbCode *code)
{
	int			i;

	for (i = 0; i < (int) lengthof(code_names); i++)
	{
		if (code_names[i] != NULL && strcmp(code_names[i], name) == 0)
		{
			*code = (LlmbCode) i;
			return true;
		}
	}
	return false;
}

/*
 * Providers
 */

static const LlmbProvider *const providers[] = {
	&llmb_provider_openai,
	&llmb_provider_anthropic,
	&llmb_provider_gemini,
	&llmb_provider_mock,
};

const LlmbProvider *
llmb_provider(const char *api)
{
	int			i;

	for (i = 0; i < (int) lengthof(providers); i++)
	{
		if (strcmp(providers[i]->api, api) == 0)
			return providers[i];
	}
	return NULL;
}

/*
 * Policies
 */

/*
 * Half of the wait is fixed, so that a provider in trouble gets a rest; half
 * is chance, so that those who wait for it do not come back together.
 */
int64
llmb_backoff_ms(int tries, int64 base_ms, int64 max_ms, double jitter)
{
	int64		wait = Max(base_ms, 1);

	max_ms = Max(max_ms, 1);
	while (--tries > 0 && wait < max_ms)
		wait = (wait > max_ms / 2) ? max_ms : wait * 2;
	wait = Min(wait, max_ms);
	return Max((int64) (wait * (0.5 + jitter / 2)), 1);
}

bool
llmb_goes_realtime(const char *mode, int64 items, bool has_batch, int64 threshold)
{
	if (!has_batch || strcmp(mode, "realtime") == 0)
		return true;
	return strcmp(mode, "auto") == 0 && items <= threshold;
}
