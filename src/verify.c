/*-------------------------------------------------------------------------
 *
 * verify.c
 *		Looking for a batch at a provider that gives no label back.
 *
 * A create was not answered.  What may be our batch are the batches that
 * nobody here knows, made since the intent, with as many requests as ours:
 * the candidates.  None of them is touched, and nothing is sent again, until
 * they have ended; then the custom_ids in their results tell, for ours begin
 * with a random token.  A candidate that is somebody else's is struck off;
 * when none is left, the listing proves that the batch was never made.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "turn.h"
#include "verify.h"

static bool
is_stranger(const LlmbFlight *flight, const char *id)
{
	ListCell   *lc;

	foreach(lc, flight->strangers)
	{
		if (strcmp(lfirst(lc), id) == 0)
			return true;
	}
	return false;
}

static List *
append_kept(LlmbFlight *flight, List *list, const char *id)
{
	MemoryContext old = MemoryContextSwitchTo(flight->context);

	list = lappend(list, pstrdup(id));
	MemoryContextSwitchTo(old);
	return list;
}

/* In a turn. */
static bool
is_candidate(const LlmbFlight *flight, const LlmbRemoteBatch *listed, int64 oldest)
{
	return listed->id && listed->created_s >= oldest && listed->total == flight->row->item_count &&
		!is_stranger(flight, listed->id) && !llmb_store_knows_remote(flight->row->server, listed->id);
}

bool
llmb_verify_page(LlmbFlight *flight, const LlmbReply *reply, const LlmbGround *ground)
{
	int64		oldest = llmb_epoch_ms(flight->row->intent_at) / 1000 - LLMB_CLOCK_SKEW_S;
	bool		past = false;

	if (flight->cursor == NULL)
	{
		flight->candidates = 0;
		flight->ended_candidate = NULL;
	}
	for (int i = 0; i < reply->listed_count; i++)
	{
		const LlmbRemoteBatch *listed = &reply->listed[i];

		past |= listed->created_s > 0 && listed->created_s < oldest;
		if (!is_candidate(flight, listed, oldest))
			continue;
		flight->candidates++;
		if (flight->ended_candidate == NULL && listed->state >= LLMB_REMOTE_ENDED)
			flight->ended_candidate = llmb_flight_keep(flight, listed->id);
	}
	if (!past && reply->next_cursor)
	{
		flight->cursor = llmb_flight_keep(flight, reply->next_cursor);
		return false;
	}
	flight->cursor = NULL;
	if (flight->candidates > 0 && flight->ended_candidate == NULL)
	{
		if (!flight->candidates_told)
			llmb_flight_say(flight, "verifying", "unknown batches of as many requests at the provider: %d; "
							"which of them is ours shows when they have ended, nothing is sent anew meanwhile", flight->candidates);
		flight->candidates_told = true;
		llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, ground->server->poll_min_ms));
	}
	return flight->candidates == 0;
}

const char *
llmb_verify_candidate(const LlmbFlight *flight)
{
	return flight->ended_candidate;
}

typedef enum Whose
{
	NOT_SAID,					/* no custom_id can be read in it */
	OURS,
	SOMEBODY_ELSES
} Whose;

static Whose
whose_line(const LlmbFlight *flight, char *line, size_t len)
{
	LlmbOutcome outcome = {0};
	size_t		token_len = strlen(flight->row->token);

	if (len == 0 || !flight->party.provider->read_line(line, len, &outcome) || outcome.custom_id == NULL)
		return NOT_SAID;
	return strncmp(outcome.custom_id, flight->row->token, token_len) == 0 &&
		outcome.custom_id[token_len] == '-' ? OURS : SOMEBODY_ELSES;
}

/* The first line that says it. */
static Whose
whose_lines(const LlmbFlight *flight, char *lines, size_t len)
{
	size_t		at = 0;
	Whose		whose = NOT_SAID;

	while (at < len && whose == NOT_SAID)
	{
		size_t		consumed;
		ssize_t		found = llmb_jsonl_next(lines + at, len - at, &consumed);

		if (found < 0)
			found = consumed = len - at;
		lines[at + found] = '\0';
		whose = whose_line(flight, lines + at, found);
		at += consumed;
	}
	return whose;
}

void
llmb_verify_lines(LlmbFlight *flight, char *lines, size_t len)
{
	Whose		whose = whose_lines(flight, lines, len);

	/* then the next lines may say it; when none does, nothing is proved */
	if (whose == NOT_SAID)
		return;
	llmb_call_drop(&flight->party);
	flight->next_at = 0;
	if (whose == SOMEBODY_ELSES)
	{
		flight->strangers = append_kept(flight, flight->strangers, flight->ended_candidate);
		flight->ended_candidate = NULL;
		return;
	}
	llmb_turn_begin("adopting a batch");
	llmb_flight_adopt(flight, flight->ended_candidate, "found at the provider by its custom_ids");
	llmb_turn_commit();
	llmb_verify_reset(flight);
}

void
llmb_verify_reset(LlmbFlight *flight)
{
	flight->candidates = 0;
	flight->candidates_told = false;
	flight->ended_candidate = NULL;
	flight->strangers = NIL;
}
