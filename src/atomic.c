/*-------------------------------------------------------------------------
 *
 * atomic.c
 *		Atomic jobs: all answers are written in one transaction, or none.
 *
 * Answers of an atomic job come in as those of any other; but each is only
 * stored, with a row in llm_batch.unapplied that never falls due by itself.
 * When nothing is queued and nothing flies any more, this file decides: if
 * every item has its answer, all are written here, in the order of their
 * ordinals, in the transaction that ends the job.  If one item has failed, if
 * one row is gone, changed or refuses its answer, or if the job was cancelled,
 * nothing is written: the answers are kept as 'write_back', for apply(), or
 * retry() of those that failed.
 *
 * Rows that others have locked are waited for with backoff, outside of any
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "atomic.h"
#include "pii_sql.h"
#include "results.h"
#include "schema.h"
#include "turn.h"
#include "writeback.h"


/* Waits for rows that others have locked. */
#define LATER_BASE_MS	500
#define LATER_MAX_MS	60000
/* Tries that ran out of time before the job fails. */
#define MAX_TIMEOUTS	5

/* ---- when it is tried again ---- */

/* In memory alone, until the job ends: a new worker tries at once. */
typedef struct Later
{
	int64		job;			/* the key */
	int			tries;
	int			timeouts;
	TimestampTz at;
} Later;

static HTAB *postponed = NULL;

/* Of that job; NULL: it was not tried yet. */
static Later *
find_later(int64 job)
{
	return postponed ? hash_search(postponed, &job, HASH_FIND, NULL) : NULL;
}

static Later *
later_of(int64 job)
{
	Later	   *later;
	bool		found;

	if (postponed == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64), .entrysize = sizeof(Later), .hcxt = TopMemoryContext};

		postponed = hash_create("llm_batch postponed", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	later = hash_search(postponed, &job, HASH_ENTER, &found);
	if (!found)
	{
		later->tries = later->timeouts = 0;
		later->at = 0;
	}
	return later;
}

static void
forget_later(int64 job)
{
	if (postponed)
		(void) hash_search(postponed, &job, HASH_REMOVE, NULL);
}

/* ---- giving up ---- */

/* In a turn.  why: of the job; culprit: of one item (ordinal 0: of none), for its owner's eyes. */
static void
give_up(const LlmbJob *job, const char *state, const char *why, int ordinal, LlmbCode code, const char *culprit)
{
	LlmbDelta	delta = {0};
	int			held = llmb_store_drop_held(job->id, psprintf("the answer is not written, for the job is atomic: %s", why));

	if (ordinal > 0)
		llmb_store_blame(job->id, ordinal, code, llmb_hide_originals(job->id, ordinal, culprit));
	delta.unapplied = delta.in_flight = -held;
	delta.failed = held;
	llmb_store_count(job->id, &delta);
	llmb_store_tally(job->id, "errors", llmb_code_name(code == LLMB_OK ? LLMB_WRITE_BACK : code), ordinal > 0);
	llmb_store_tally(job->id, "errors", llmb_code_name(LLMB_WRITE_BACK), held - (ordinal > 0));
	llmb_store_end_job(job->id, state, why);
	forget_later(job->id);
}

/* ---- all answers, a slice at a time ---- */

typedef struct Reading
{
	const LlmbJob *job;
	const LlmbJobDef *def;
	int			above;			/* ordinals up to this one were read */
	LlmbResult *slice;			/* the last */
} Reading;

/* In the current memory context. */
static int
next_slice(void *arg, LlmbWrite **writes)
{
	Reading    *reading = arg;
	int			count;
	LlmbSplit  *split;

	reading->slice = llmb_store_held_answers(reading->job->id, reading->above, llmb_write_back_rows, &count);
	if (count == 0)
		return 0;
	reading->above = reading->slice[count - 1].ordinal;
	split = llmb_split_begin(reading->def);
	*writes = palloc0(sizeof(LlmbWrite) * count);
	for (int i = 0; i < count; i++)
	{
		LlmbWrite  *write = &(*writes)[i];
		bool		altered;

		write->key = reading->slice[i].key;
		write->prompt_hash = reading->slice[i].prompt_hash;
		write->ordinal = reading->slice[i].ordinal;
		write->columns = palloc(sizeof(char *) * Max(reading->def->target_count, 1));
		if (!llmb_split_answer(split, reading->slice[i].answer, write->columns, &altered, &write->reason))
			write->written = LLMB_ROW_REFUSED;
	}
	return count;
}

/* ---- applying ---- */

/* In a turn: all is written, or there is nothing to write. */
static void
all_applied(const LlmbJob *job, const LlmbJobDef *def)
{
	LlmbDelta	delta = {0};
	int			count = llmb_store_release_held(job->id, def->target_count > 0);

	delta.unapplied = delta.in_flight = -count;
	delta.succeeded = count;
	llmb_store_tally(job->id, "items", "succeeded", count);
	llmb_store_count(job->id, &delta);
	llmb_store_event(job->id, 0, "applied", def->target_count > 0 ? "all answers are written, in one transaction: %d" :
					 "all answers are there: %d", count);
	(void) llmb_store_finish_job(job->id);
	forget_later(job->id);
}

static void
come_again(const LlmbJob *job, bool timed_out, const char *reason)
{
	Later	   *later = later_of(job->id);

	later->tries++;
	later->timeouts += timed_out;
	later->at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											llmb_backoff_ms(later->tries, LATER_BASE_MS, LATER_MAX_MS, 0.5));
	llmb_store_job_state(job->id, job->state, reason);
}

/* Keys are text of the owner's, and the reason of a job is seen by more: it names the item. */
static void
refused(const LlmbJob *job, const LlmbWrite *culprit)
{
	switch (culprit->written)
	{
		case LLMB_ROW_STALE:
			give_up(job, "failed", psprintf("the text of the row of item %d has changed since its prompt was made: nothing was written", culprit->ordinal),
					culprit->ordinal, LLMB_STALE, "the row's text has changed since the prompt was made");
			break;
		case LLMB_ROW_GONE:
			give_up(job, "failed", psprintf("the row of item %d does not exist any more: nothing was written", culprit->ordinal),
					culprit->ordinal, LLMB_WRITE_BACK, "the source row does not exist any more");
			break;
		default:
			give_up(job, "failed", psprintf("the row of item %d refused its answer, llm_batch.results has its key and the reason: nothing was written", culprit->ordinal),
					culprit->ordinal, LLMB_WRITE_BACK, culprit->reason);
	}
}

/* What a table says of an answer does not quote what was masked in its prompt. */
static const char *
hide_in_reason(int64 job, const LlmbWrite *culprit)
{
	LlmbResult	result = {.ordinal = culprit->ordinal};
	LlmbPiiMap **map = llmb_store_maps(job, &result, 1);

	return map[0] ? llmb_pii_hide(map[0], pstrdup(culprit->reason)) : culprit->reason;
}

/* In a turn. */
static void
apply(const LlmbJob *job)
{
	LlmbJobDef *def = llmb_store_job_def(job->id);
	Oid			owner = get_role_oid(job->owner, true);
	Reading		reading = {.job = job, .def = def};
	LlmbWrite	culprit;
	bool		timed_out = false;

	if (def->target_count == 0)
	{
		all_applied(job, def);
		return;
	}
	if (!OidIsValid(owner))
	{
		give_up(job, "failed", "the role that owns the job does not exist any more", 0, LLMB_OK, NULL);
		return;
	}
	if (!llmb_write_begins(job->id))
	{
		give_up(job, "failed", "code on the table could not be cancelled, or made the transaction fail at its end: mend it, then apply() writes the answers",
				0, LLMB_OK, NULL);
		return;
	}
	llmb_write_together(def, owner, next_slice, &reading, &culprit, &timed_out);
	llmb_write_ended();
	if (culprit.reason && def->mask_pii)
		culprit.reason = hide_in_reason(job->id, &culprit);
	if (timed_out && later_of(job->id)->timeouts + 1 >= MAX_TIMEOUTS)
		give_up(job, "failed", psprintf("writing took longer than llm_batch.write_back_timeout (%d ms for each %d rows), as often as it was tried: nothing was written",
										llmb_write_back_timeout_ms, llmb_write_back_rows), 0, LLMB_OK, NULL);
	else if (culprit.written == LLMB_WRITTEN)
		all_applied(job, def);
	else if (culprit.written == LLMB_ROW_LATER)
		come_again(job, timed_out, timed_out ? "writing all answers took too long: it is tried again" : "rows that it is to write are locked: it is tried again");
	else
		refused(job, &culprit);
}

/* How items failed, the most frequent first; palloc'd. */
static char *
failures(const LlmbJob *job)
{
	return psprintf("%d of %d items failed (%s): nothing was written", job->failed + job->cancelled, job->total,
					llmb_store_failures(job->id));
}

bool
llmb_atomic_step(LlmbJob *job)
{
	const Later *later = find_later(job->id);

	job->look_again_ms = later ? TimestampDifferenceMilliseconds(GetCurrentTimestamp(), later->at) : 0;
	if (job->look_again_ms > 0 && strcmp(job->state, "cancelling") != 0)
		return false;
	llmb_turn_begin("applying an atomic job");
	if (strcmp(job->state, "cancelling") == 0)
		give_up(job, "cancelled", "it was cancelled: nothing was written", 0, LLMB_OK, NULL);
	else if (job->failed + job->cancelled > 0)
		give_up(job, "failed", failures(job), 0, LLMB_OK, NULL);
	else
		apply(job);
	llmb_turn_commit();
	return true;
}
