/*-------------------------------------------------------------------------
 *
 * results.c
 *		From the lines of a result file to results, answers and source rows.
 *
 * A slice of lines is one transaction: source rows, results, answers, the
 * queue and the counters change together or not at all.  Lines are matched
 * by custom_id, "<token>-<ordinal>", and by nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "as_owner.h"
#include "inbox.h"
#include "pii_sql.h"
#include "price.h"
#include "request.h"
#include "results.h"
#include "schema.h"
#include "template.h"
#include "turn.h"
#include "writeback.h"

/* Expired items travel once more in a batch. */
#define EXPIRED_ATTEMPTS 2
/* Waits of an answer whose row is locked. */
#define LATER_BASE_MS	500
#define LATER_MAX_MS	60000
/* Stale prompts in memory at once: each may be llm_batch.max_prompt_size long. */
#define RENEW_ROWS		16

/* ---- lines ---- */

/* The item of a custom_id: its position in the batch, or -1. */
static int
custom_id_position(const LlmbBatchRow *batch, const char *custom_id, int *ordinal)
{
	size_t		token_len = strlen(batch->token);
	char	   *end;
	long		number;

	if (custom_id == NULL || strncmp(custom_id, batch->token, token_len) != 0 ||
		custom_id[token_len] != '-')
		return -1;
	errno = 0;
	number = strtol(custom_id + token_len + 1, &end, 10);
	if (errno != 0 || *end != '\0' || end == custom_id + token_len + 1 ||
		number < 1 || number > LLMB_MAX_ITEMS)
		return -1;
	*ordinal = (int) number;
	return llmb_range_position(batch->ranges, batch->range_count, *ordinal);
}

static void
to_database_text(char **text, bool *altered)
{
	if (*text)
		*text = llmb_from_utf8(*text, altered);
}

/* In a turn, for conversions are found in the catalogs. */
static void
convert_result(LlmbResult *result)
{
	to_database_text(&result->answer, &result->altered);
	to_database_text(&result->error, NULL);
	to_database_text(&result->finish_reason, NULL);
	to_database_text(&result->model, NULL);
	to_database_text(&result->request_id, NULL);
}

/*
 * What the batch did not bring in its time, and what it was refused for,
 * goes to real time; what expired travels once more first.
 */
static bool
batch_is_vain(const LlmbIntake *intake, LlmbCode code)
{
	if (intake->realtime)
		return false;
	return intake->unfit ||
		(code == LLMB_EXPIRED && intake->batch->attempt >= EXPIRED_ATTEMPTS) ||
		(code == LLMB_TIMEOUT && intake->cancelled_as == LLMB_TIMEOUT);
}

static bool
may_retry(const LlmbIntake *intake, LlmbCode code, bool retryable)
{
	if (!retryable || intake->no_retry)
		return false;
	/* all travel the same way */
	if (intake->def->atomic && code != LLMB_INVALID_OUTPUT)
		return intake->batch->attempt < intake->server->max_attempts;
	/* the item was not tried: it goes another way, or waits for a person */
	if (batch_is_vain(intake, code))
		return true;
	/* these are counted by themselves */
	if (code == LLMB_INVALID_OUTPUT)
		return true;
	return intake->batch->attempt < intake->server->max_attempts;
}

static void
set_failed(LlmbIntake *intake, LlmbResult *result, LlmbCode code, bool retryable)
{
	bool		again = may_retry(intake, code, retryable);

	result->code = code;
	result->state = again ? "retried" : code == LLMB_CANCELLED_ITEM ? "cancelled" : "failed";
	result->retry_after_ms = again ? intake->retry_ms : 0;
	result->resend_realtime = again && intake->fallback && batch_is_vain(intake, code);
	if (again && !intake->fallback && !intake->def->atomic && batch_is_vain(intake, code))
		intake->stuck = code;
}

static void
fill_result(LlmbIntake *intake, LlmbResult *result, const LlmbOutcome *outcome)
{
	result->attempt = intake->batch->attempt;
	result->batch = intake->batch->id;
	result->altered = outcome->altered;
	result->answer = outcome->answer;
	result->error = outcome->error;
	result->finish_reason = outcome->finish_reason;
	result->model = outcome->model;
	result->request_id = outcome->request_id;
	result->input_tokens = outcome->input_tokens;
	result->cached_tokens = outcome->cached_tokens;
	result->cache_write_tokens = outcome->cache_write_tokens;
	result->long_write_tokens = outcome->long_write_tokens;
	result->output_tokens = outcome->output_tokens;
	result->reasoning_tokens = outcome->reasoning_tokens;
	/* a reply that names its model was made by it */
	result->perhaps_run = outcome->perhaps_run || outcome->model != NULL || outcome->answer != NULL;
	result->free = intake->free;
	if (outcome->code == LLMB_OK)
		result->state = "succeeded";
	else if (outcome->code == LLMB_CANCELLED_ITEM)
		set_failed(intake, result, intake->cancelled_as, intake->cancelled_as != LLMB_CANCELLED_ITEM);
	else
		set_failed(intake, result, outcome->code, outcome->retryable);
}

/* ---- a slice ---- */

typedef struct Slice
{
	LlmbIntake *intake;
	LlmbResult *results;
	int		   *positions;
	bool	   *taken;			/* positions of this slice, for repeated lines */
	int			count;
	bool		utf8;			/* texts came from the provider as they are */
} Slice;

static void
take_line(Slice *slice, char *line, size_t len)
{
	LlmbIntake *intake = slice->intake;
	LlmbOutcome outcome = {0};
	LlmbResult *result = &slice->results[slice->count];
	int			ordinal;
	int			position;

	if (len == 0)
		return;
	if (!intake->server->provider->read_line(line, len, &outcome) ||
		(position = custom_id_position(intake->batch, outcome.custom_id, &ordinal)) < 0 ||
		slice->taken[position])
	{
		intake->strange_lines++;
		return;
	}
	/* a file that is read again after a crash: not strange */
	if (intake->seen[position])
		return;
	memset(result, 0, sizeof(LlmbResult));
	result->ordinal = ordinal;
	fill_result(intake, result, &outcome);
	slice->positions[slice->count++] = position;
	slice->taken[position] = true;
}

static void
refuse_changed(LlmbResult *result)
{
	result->state = "failed";
	result->code = LLMB_WRITE_BACK;
	result->error = psprintf("the target has been changed since the submit: %s", result->error);
}

/* ---- code of a user's that holds up the others ---- */

/* Jobs that are remembered for it at once, until their next slice. */
#define MAX_FAILING		16

static int64 job_at_work = 0;	/* whose code may be running */
static int64 job_written = 0;	/* in this turn */
static int64 failing[MAX_FAILING];
static int	failing_count = 0;

/*
 * This process ends, because code that catches its cancels held it up.  What
 * runs next would meet it again: the job is marked first, and the successor
 * begins at once.
 */
static void
bar_job_at_work(int code, Datum arg)
{
	int64		job = job_at_work;

	(void) code;
	(void) arg;
	if (job == 0 || !llmb_code_cannot_be_cancelled())
		return;
	job_at_work = 0;
	llmb_turn_abort();
	llmb_turn_begin("giving up on a table's triggers");
	llmb_store_bar_writing(job, "code on the source table could not be cancelled");
	llmb_turn_commit();
	llmb_turn_hand_over();
}

/*
 * What a foreign table's server defers to the end, and a full queue of
 * notifications, make the commit fail, and would each time.
 */
static void
at_end_of_turn(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_ABORT && job_written != 0 && llmb_turn_is_committing())
		failing[failing_count++ % MAX_FAILING] = job_written;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		job_written = 0;
}

static bool
made_a_commit_fail(int64 job)
{
	for (int i = 0; i < Min(failing_count, MAX_FAILING); i++)
	{
		if (failing[i] == job)
		{
			failing[i] = 0;
			return true;
		}
	}
	return false;
}

static void
code_of_job_begins(int64 job)
{
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(bar_job_at_work, (Datum) 0);
		RegisterXactCallback(at_end_of_turn, NULL);
	}
	registered = true;
	job_at_work = job_written = job;
}

/* What a job is told whose code held up the others. */
static void
refuse_all(LlmbWrite *writes, int count)
{
	for (int i = 0; i < count; i++)
	{
		writes[i].written = LLMB_ROW_REFUSED;
		writes[i].reason = "code on the table could not be cancelled, or made the transaction fail at its end: "
			"mend it, then apply() writes the answer";
	}
}

bool
llmb_write_begins(int64 job)
{
	if (made_a_commit_fail(job))
		llmb_store_bar_writing(job, "what was written to the source table could not be committed");
	if (llmb_store_writing_is_barred(job))
		return false;
	code_of_job_begins(job);
	return true;
}

void
llmb_write_ended(void)
{
	job_at_work = 0;
}

static void
write_or_refuse(int64 job, const LlmbJobDef *def, Oid owner, LlmbWrite *writes, int count)
{
	if (!llmb_write_begins(job))
	{
		refuse_all(writes, count);
		return;
	}
	llmb_writing_attachment = def->attachment;
	llmb_write_back(def, owner, writes, count);
	llmb_writing_attachment = 0;
	llmb_write_ended();
}

/* ---- rows of tasks ---- */

/*
 * A row that has changed since is nobody's failure: its newer text is what
 * gets answered.  Whether its trigger has said so or not, it is looked at.
 */
static void
answer_newer(int64 attachment, LlmbResult **results, int count)
{
	LlmbInboxWriter *inbox = llmb_inbox_begin(attachment);

	for (int i = 0; i < count; i++)
	{
		if (results[i]->code != LLMB_STALE)
			continue;
		results[i]->state = "cancelled";
		if (results[i]->key)
			llmb_inbox_put(inbox, LLMB_ROW_CHANGED, results[i]->key);
	}
	(void) llmb_inbox_end(inbox);
}

/*
 * Answers of a task are stale when something newer was asked about their row,
 * be it a newer text or by a newer prompt.  Those that are written nowhere
 * tell here, too, that the row is gone.
 */
static void
find_superseded(int64 job, const LlmbJobDef *def, LlmbResult **results, int count)
{
	LlmbCode   *codes = palloc0(sizeof(LlmbCode) * Max(count, 1));

	llmb_store_superseded(def->attachment, job, (const LlmbResult *const *) results, count, codes);
	for (int i = 0; i < count; i++)
	{
		if (codes[i] == LLMB_OK || (codes[i] == LLMB_CANCELLED_ITEM && def->target_count > 0))
			continue;
		results[i]->state = "cancelled";
		results[i]->code = codes[i];
		results[i]->error = codes[i] == LLMB_STALE ? "the task has asked about this row anew since: its text or the task's prompt has changed, or run() was told to ask again" :
			"the source row does not exist any more";
	}
}

/*
 * Answers whose rows are to be written, as write-back wants them; of a job
 * without targets they are only held against its schema.
 */
static void
write_answers(int64 job, const LlmbJobDef *def, Oid owner, LlmbResult **results, int count,
			  void (*invalid) (void *arg, LlmbResult *result), void *arg)
{
	LlmbWrite  *writes = palloc0(sizeof(LlmbWrite) * Max(count, 1));
	LlmbResult **written = palloc(sizeof(LlmbResult *) * Max(count, 1));
	LlmbSplit  *split = llmb_split_begin(def);
	int			n = 0;

	if (def->attachment != 0)
		find_superseded(job, def, results, count);
	for (int i = 0; i < count; i++)
	{
		const char *reason = NULL;

		if (results[i]->code != LLMB_OK)
			continue;
		writes[n].columns = palloc(sizeof(char *) * def->target_count);
		if (!llmb_split_answer(split, results[i]->answer, writes[n].columns, &results[i]->altered, &reason))
		{
			results[i]->error = unconstify(char *, reason);
			/* the model gave what was asked for then: asking again would not mend it */
			if (llmb_split_is_changed(split))
				refuse_changed(results[i]);
			else
				invalid(arg, results[i]);
			continue;
		}
		writes[n].key = results[i]->key;
		writes[n].prompt_hash = results[i]->prompt_hash;
		written[n++] = results[i];
	}
	if (def->target_count == 0 || def->atomic)
		return;
	if (OidIsValid(owner))
		write_or_refuse(job, def, owner, writes, n);
	for (int i = 0; i < n; i++)
	{
		LlmbResult *result = written[i];

		if (!OidIsValid(owner))
		{
			writes[i].written = LLMB_ROW_REFUSED;
			writes[i].reason = "the role that owns the job does not exist any more";
		}
		result->applied = writes[i].written == LLMB_WRITTEN;
		result->state = result->applied ? "succeeded" : "failed";
		switch (writes[i].written)
		{
			case LLMB_WRITTEN:
				result->code = LLMB_OK;
				break;
			case LLMB_ROW_LATER:
				result->state = "stored";
				break;
			case LLMB_ROW_STALE:
				result->code = LLMB_STALE;
				result->error = "the row's text has changed since the prompt was made";
				break;
			case LLMB_ROW_GONE:
				result->code = def->attachment != 0 ? LLMB_CANCELLED_ITEM : LLMB_WRITE_BACK;
				result->state = def->attachment != 0 ? "cancelled" : "failed";
				result->error = "the source row does not exist any more";
				break;
			case LLMB_ROW_REFUSED:
				result->code = LLMB_WRITE_BACK;
				result->error = unconstify(char *, writes[i].reason);
		}
	}
	if (def->attachment != 0)
		answer_newer(def->attachment, written, n);
}

/* Asked again so often, however many attempts have failed for other reasons. */
static void
invalid_output(void *arg, LlmbResult *result)
{
	LlmbIntake *intake = arg;
	int			before = llmb_store_times(intake->batch->job, result->ordinal, LLMB_INVALID_OUTPUT);

	set_failed(intake, result, LLMB_INVALID_OUTPUT, before < intake->server->invalid_output_retries);
}

/* Answers of an atomic job wait for one another. */
static void
hold_slice(Slice *slice)
{
	for (int i = 0; slice->intake->def->atomic && i < slice->count; i++)
	{
		if (strcmp(slice->results[i].state, "succeeded") == 0)
			slice->results[i].state = "stored";
	}
}

static void
write_slice(Slice *slice)
{
	LlmbIntake *intake = slice->intake;
	LlmbResult **answers = palloc(sizeof(LlmbResult *) * Max(slice->count, 1));
	int			n = 0;

	if (intake->def->target_count == 0 && intake->def->schema == NULL && intake->def->attachment == 0)
	{
		hold_slice(slice);
		return;
	}
	for (int i = 0; i < slice->count; i++)
	{
		if (slice->results[i].code == LLMB_OK)
			answers[n++] = &slice->results[i];
	}
	if (n == 0)
		return;
	if (intake->def->target_count > 0 || intake->def->attachment != 0)
		llmb_store_keys(intake->batch->job, slice->results, slice->count);
	write_answers(intake->batch->job, intake->def, intake->owner, answers, n, invalid_output, intake);
	hold_slice(slice);
}

static void
add_to(LlmbDelta *delta, const LlmbResult *result)
{
	if (strcmp(result->state, "stored") == 0)
		delta->unapplied++;
	else
	{
		delta->in_flight--;
		if (strcmp(result->state, "succeeded") == 0)
			delta->succeeded++;
		else if (strcmp(result->state, "retried") == 0)
			delta->queued++;
		else if (strcmp(result->state, "cancelled") == 0)
			delta->cancelled++;
		else
			delta->failed++;
	}
	if (result->code == LLMB_UNANSWERED)
		delta->uncertain++;
}

/*
 * Whether an attempt that ended so and has no usage may have cost something.
 * What a provider did not run it does not charge: requests that it refused,
 * that were cancelled or expired, and its own failures.
 */
static bool
may_have_cost(LlmbCode code)
{
	switch (code)
	{
		case LLMB_RATE_LIMITED:
		case LLMB_AUTH:
		case LLMB_INVALID_REQUEST:
		case LLMB_TOO_LARGE:
		case LLMB_PROVIDER_ERROR:
		case LLMB_TIMEOUT:
		case LLMB_EXPIRED:
		case LLMB_CANCELLED_ITEM:
		case LLMB_BUDGET:
			return false;
		case LLMB_OK:
		case LLMB_REFUSED:
		case LLMB_TRUNCATED:
		case LLMB_INVALID_OUTPUT:
		case LLMB_UNANSWERED:
		case LLMB_WRITE_BACK:
		case LLMB_STALE:
			break;
	}
	return true;
}

static void
add_usage(LlmbIntake *intake, const LlmbResult *result)
{
	if (result->input_tokens < 0)
		return;
	intake->with_usage++;
	intake->input_tokens += result->input_tokens;
	intake->output_tokens += Max(result->output_tokens, 0);
}

/* What the attempts cost, by today's prices; every attempt counts. */
static void
bill_slice(Slice *slice, LlmbDelta *delta)
{
	LlmbIntake *intake = slice->intake;
	TimestampTz now = GetCurrentTimestamp();
	LlmbBill	bill;
	LlmbSpending spending;

	llmb_bill_begin(&bill, llmb_prices(intake->server, intake->batch->model, now), !intake->realtime);
	for (int i = 0; i < slice->count; i++)
	{
		LlmbResult *result = &slice->results[i];
		LlmbUsage	usage = {result->input_tokens, result->cached_tokens, result->cache_write_tokens,
		result->long_write_tokens, result->output_tokens, result->reasoning_tokens};

		result->cost = llmb_bill_add(&bill, &usage, result->free ||
									 (!result->perhaps_run && !may_have_cost(result->code)));
		if (result->cost)
			intake->dearest = Max(intake->dearest, DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
																					 NumericGetDatum(result->cost))));
		add_usage(intake, result);
	}
	llmb_bill_end(&bill, &spending);
	spending.succeeded = delta->succeeded;
	llmb_store_spend(intake->batch->job, intake->realtime, now, &spending);
	delta->cost = spending.cost;
	delta->saved = spending.saved;
	delta->cost_unknown = (int) spending.cost_unknown;
}

static void
store_slice(Slice *slice)
{
	int64		job = slice->intake->batch->job;
	LlmbDelta	delta = {0};

	for (int i = 0; i < slice->count; i++)
		add_to(&delta, &slice->results[i]);
	bill_slice(slice, &delta);
	llmb_store_put_results(job, slice->results, slice->count);
	if (delta.unapplied > 0 && slice->intake->def->atomic)
		llmb_store_hold_answers(job, slice->results, slice->count);
	else if (delta.unapplied > 0)
		llmb_store_answer_wait(job, slice->results, slice->count, LATER_BASE_MS);
	slice->intake->stored |= delta.unapplied > 0 && !slice->intake->def->atomic;
	llmb_store_count(job, &delta);
}

/*
 * Maps in memory at once: one may be larger than its prompt.
 */
#define MAPS_AT_ONCE	20

/* Works on a result with its map; texts that stay are made in that context. */
typedef void (*MapUser) (LlmbResult *result, const LlmbPiiMap *map, MemoryContext stays, void *arg);

static void
for_maps(int64 job, LlmbResult *results, int count, MapUser use, void *arg)
{
	MemoryContext stays = CurrentMemoryContext;
	MemoryContext part;

	part = AllocSetContextCreate(stays, "llm_batch maps", ALLOCSET_DEFAULT_SIZES);
	for (int at = 0; at < count; at += MAPS_AT_ONCE)
	{
		int			n = Min(MAPS_AT_ONCE, count - at);
		LlmbPiiMap **maps;

		MemoryContextSwitchTo(part);
		maps = llmb_store_maps(job, results + at, n);
		for (int i = 0; i < n; i++)
		{
			if (maps[i])
				use(&results[at + i], maps[i], stays, arg);
		}
		MemoryContextSwitchTo(stays);
		MemoryContextReset(part);
	}
	MemoryContextDelete(part);
}

/* Bytes that the answers of a slice may grow by in all; beyond that those are too long that grow by much. */
#define MOST_GROWN		(64 * 1024 * 1024)
#define MUCH_GROWN		(64 * 1024)

typedef struct Restoring
{
	LlmbIntake *intake;
	Size		grown;
} Restoring;

/* NULL: too long, alone or with those before it. */
static char *
restored_answer(Restoring *restoring, const LlmbPiiMap *map, char *answer)
{
	char	   *restored = llmb_pii_restore(map, answer, restoring->intake->def->schema != NULL);
	Size		grown;

	if (restored == NULL || strlen(restored) <= strlen(answer))
		return restored;
	grown = strlen(restored) - strlen(answer);
	if (grown > MUCH_GROWN && restoring->grown + grown > MOST_GROWN)
		return NULL;
	restoring->grown += grown;
	return restored;
}

static void
restore_answer(LlmbResult *result, const LlmbPiiMap *map, MemoryContext stays, void *arg)
{
	Restoring  *restoring = arg;
	char	   *restored;

	if (result->answer == NULL)
		return;
	restored = restored_answer(restoring, map, result->answer);
	if (restored == NULL && strcmp(result->state, "succeeded") == 0)
	{
		/* not a code that apply() takes: it would write the placeholders */
		set_failed(restoring->intake, result, LLMB_TOO_LARGE, false);
		result->error = MemoryContextStrdup(stays, "the answer is too long with what was masked put back: it is kept with its placeholders");
	}
	else if (restored && restored != result->answer)
		result->answer = MemoryContextStrdup(stays, restored);
}

/* Answers get back what was masked in their prompts.  What a provider says of a request it could not answer keeps the placeholders. */
static void
restore_answers(Slice *slice)
{
	Restoring	restoring = {slice->intake, 0};

	if (slice->utf8 && slice->intake->def->mask_pii)
		for_maps(slice->intake->batch->job, slice->results, slice->count, restore_answer, &restoring);
}

static void
hide_in_error(LlmbResult *result, const LlmbPiiMap *map, MemoryContext stays, void *arg)
{
	(void) arg;
	if (result->answer && result->error)
		result->error = MemoryContextStrdup(stays, llmb_pii_hide(map, result->error));
}

/*
 * Nor do the reasons for which answers were refused here quote it.  What came
 * from the provider instead of an answer cannot: it has not seen it.
 */
static void
hide_in_errors(const LlmbJobDef *def, int64 job, LlmbResult *results, int count)
{
	for (int i = 0; def->mask_pii && i < count; i++)
	{
		if (results[i].answer && results[i].error)
		{
			for_maps(job, results, count, hide_in_error, NULL);
			return;
		}
	}
}

/* In a turn. */
static void
put_slice(Slice *slice)
{
	restore_answers(slice);
	for (int i = 0; slice->utf8 && i < slice->count; i++)
		convert_result(&slice->results[i]);
	write_slice(slice);
	hide_in_errors(slice->intake->def, slice->intake->batch->job, slice->results, slice->count);
	store_slice(slice);
}

static void
finish_slice(Slice *slice, const char *doing)
{
	llmb_turn_begin(doing);
	put_slice(slice);
	llmb_turn_commit();
	/* only what is committed counts as seen */
	for (int i = 0; i < slice->count; i++)
	{
		slice->intake->seen[slice->positions[i]] = true;
		slice->intake->answered += strcmp(slice->results[i].state, "succeeded") == 0;
		slice->taken[slice->positions[i]] = false;
		slice->intake->seen_count++;
	}
	slice->count = 0;
}

static void
begin_slice(Slice *slice, LlmbIntake *intake)
{
	slice->intake = intake;
	slice->results = palloc(sizeof(LlmbResult) * llmb_write_back_rows);
	slice->positions = palloc(sizeof(int) * llmb_write_back_rows);
	slice->taken = palloc0(sizeof(bool) * Max(intake->batch->item_count, 1));
	slice->count = 0;
	slice->utf8 = false;
}

void
llmb_take_lines(LlmbIntake *intake, char *lines, size_t len)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llm_batch results",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Slice		slice;
	size_t		at = 0;

	while (at < len)
	{
		int			rows = llmb_write_back_rows;

		MemoryContextReset(context);
		begin_slice(&slice, intake);
		slice.utf8 = true;
		while (at < len && slice.count < rows)
		{
			size_t		consumed;
			ssize_t		found = llmb_jsonl_next(lines + at, len - at, &consumed);

			if (found < 0)
				found = consumed = len - at;	/* the last one has no line end */
			lines[at + found] = '\0';
			intake->lines++;
			take_line(&slice, lines + at, found);
			at += consumed;
		}
		if (slice.count > 0)
			finish_slice(&slice, "storing results");
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- outcomes of real-time requests ---- */

/* The ordinal at a position of the batch, or 0. */
static int
position_ordinal(const LlmbBatchRow *batch, int position)
{
	for (int r = 0; r < batch->range_count; r++)
	{
		int			ordinal = batch->ranges[r].lower + position - batch->ranges[r].position;

		if (position >= batch->ranges[r].position && ordinal < batch->ranges[r].upper)
			return ordinal;
	}
	return 0;
}

int
llmb_store_outcomes(LlmbIntake *intake, LlmbOutcome *const *outcomes, const int *positions, int count)
{
	Slice		slice = {.intake = intake, .count = count, .utf8 = true};
	int			succeeded = 0;

	slice.results = palloc0(sizeof(LlmbResult) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		slice.results[i].ordinal = position_ordinal(intake->batch, positions[i]);
		fill_result(intake, &slice.results[i], outcomes[i]);
	}
	put_slice(&slice);
	for (int i = 0; i < count; i++)
		succeeded += strcmp(slice.results[i].state, "succeeded") == 0;
	return succeeded;
}

void
llmb_outcomes_stored(LlmbIntake *intake, const int *positions, int count, int succeeded)
{
	for (int i = 0; i < count; i++)
		intake->seen[positions[i]] = true;
	intake->seen_count += count;
	intake->answered += succeeded;
}

void
llmb_learn_from(const LlmbIntake *intake)
{
	if (intake->with_usage == intake->batch->item_count)
		llmb_learn_usage(intake->server->name, intake->batch->model, intake->batch->text_bytes,
						 intake->input_tokens, intake->with_usage, intake->output_tokens);
}

/* An item that has no line; its position is not in the slice yet. */
static void
add_lineless(Slice *slice, int ordinal, int position, LlmbCode code, bool retryable, const char *error)
{
	const LlmbBatchRow *batch = slice->intake->batch;
	LlmbResult *result = &slice->results[slice->count];

	memset(result, 0, sizeof(LlmbResult));
	result->ordinal = ordinal;
	result->attempt = batch->attempt;
	result->batch = batch->id;
	result->input_tokens = result->output_tokens = result->cached_tokens = -1;
	result->cache_write_tokens = result->long_write_tokens = result->reasoning_tokens = -1;
	result->error = error ? pstrdup(error) : NULL;
	set_failed(slice->intake, result, code, retryable);
	slice->positions[slice->count++] = position;
	if (slice->count == llmb_write_back_rows)
		finish_slice(slice, "deciding items without a line");
}

void
llmb_take_missing(LlmbIntake *intake, LlmbCode code, bool retryable, const char *error)
{
	const LlmbBatchRow *batch = intake->batch;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llm_batch results",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Slice		slice;

	begin_slice(&slice, intake);
	for (int r = 0; r < batch->range_count; r++)
	{
		for (int ordinal = batch->ranges[r].lower; ordinal < batch->ranges[r].upper; ordinal++)
		{
			int			position = batch->ranges[r].position + ordinal - batch->ranges[r].lower;

			if (!intake->seen[position])
				add_lineless(&slice, ordinal, position, code, retryable, error);
		}
	}
	if (slice.count > 0)
		finish_slice(&slice, "deciding items without a line");
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
llmb_take_named(LlmbIntake *intake, const int *positions, int count, LlmbCode code, bool retryable, const char *error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "llm_batch results",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Slice		slice;

	begin_slice(&slice, intake);
	for (int i = 0; i < count; i++)
	{
		int			position = positions[i] - 1;
		int			ordinal = position_ordinal(intake->batch, position);

		if (ordinal == 0 || intake->seen[position] || slice.taken[position])
			continue;
		slice.taken[position] = true;
		add_lineless(&slice, ordinal, position, code, retryable, error);
	}
	if (slice.count > 0)
		finish_slice(&slice, "deciding refused items");
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- answers that wait for their rows ---- */

/* Asked for and paid already; there is no batch to send it with again. */
static void
invalid_stored(void *arg, LlmbResult *result)
{
	(void) arg;
	result->state = "failed";
	result->code = LLMB_INVALID_OUTPUT;
}

static void
decide_due(int64 job, LlmbResult *results, int count)
{
	LlmbDelta	delta = {0};

	for (int i = 0; i < count; i++)
	{
		LlmbResult *result = &results[i];

		if (strcmp(result->state, "stored") == 0)
		{
			int			tries = result->retry_after_ms;

			llmb_store_answer_later(job, result->ordinal,
									llmb_backoff_ms(Max(tries, 1), LATER_BASE_MS, LATER_MAX_MS, 0.5));
			continue;
		}
		llmb_store_answer_decided(job, result);
		delta.unapplied--;
		delta.in_flight--;
		delta.succeeded += result->code == LLMB_OK;
		delta.cancelled += strcmp(result->state, "cancelled") == 0;
		delta.failed += strcmp(result->state, "failed") == 0;
	}
	llmb_store_tally(job, "items", "succeeded", delta.succeeded);
	llmb_store_count(job, &delta);
}

bool
llmb_apply_due(void)
{
	LlmbResult *results;
	LlmbResult **answers;
	LlmbJobDef *def;
	LlmbJob    *job;
	int64		id;
	int			count;

	llmb_turn_begin("writing stored answers");
	results = llmb_store_due_answers(&id, llmb_write_back_rows, &count);
	if (count == 0)
	{
		llmb_turn_commit();
		return false;
	}
	job = llmb_store_job(id);
	if (job == NULL)
		elog(ERROR, "stored answers of job " INT64_FORMAT " have no job", id);
	def = llmb_store_job_def(id);
	/* after a time-out each try takes less, until the slow row stands alone */
	count = Min(count, Max(1, llmb_write_back_rows >> (3 * Min(results[0].retry_after_ms, 10))));
	answers = palloc(sizeof(LlmbResult *) * count);
	for (int i = 0; i < count; i++)
		answers[i] = &results[i];
	write_answers(id, def, get_role_oid(job->owner, true), answers, count, invalid_stored, NULL);
	hide_in_errors(def, id, results, count);
	decide_due(id, results, count);
	llmb_turn_commit();
	return true;
}

/* ---- stale items that are sent again ---- */

void
llmb_renew_stale(const LlmbJob *job)
{
	LlmbJobDef *def = llmb_store_job_def(job->id);
	Oid			owner = get_role_oid(job->owner, true);
	MemoryContext before = CurrentMemoryContext;
	MemoryContext part;
	int			above = 0;
	int			count;

	if (def->prompt == NULL || !OidIsValid(owner))
		return;
	part = AllocSetContextCreate(before, "llm_batch stale items", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(part);
	do
	{
		LlmbResult *items = llmb_store_stale_items(job->id, above, RENEW_ROWS, &count);
		LlmbReading *reads = palloc0(sizeof(LlmbReading) * Max(count, 1));
		LlmbLook	look = {0};
		char	   *obstacle;
		bool		looked;

		for (int i = 0; i < count; i++)
		{
			reads[i].key = items[i].key;
			above = items[i].ordinal;
		}
		code_of_job_begins(job->id);
		looked = llmb_look_at_rows(def, owner, &look, reads, count, &obstacle);
		for (int i = 1; looked && i < count; i++)
		{
			if (reads[i].found == LLMB_FOUND_MORE)
				looked = llmb_look_at_rows(def, owner, &look, &reads[i], 1, &obstacle);
		}
		job_at_work = 0;
		for (int i = 0; looked && i < count; i++)
		{
			if (reads[i].found == LLMB_FOUND_PROMPT)
				llmb_store_renew_prompt(job->id, items[i].ordinal, reads[i].prompt,
										llmb_text_hash(reads[i].prompt, strlen(reads[i].prompt)));
		}
		MemoryContextReset(part);
	} while (count == RENEW_ROWS);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(part);
}
