/*-------------------------------------------------------------------------
 *
 * chain.c
 *		Jobs that begin when another job has ended.
 *
 * Such a job is held (job.held): it has a definition and, but for
 * submit_prompts(), no items.  When the job that it names has ended
 * 'succeeded' or 'partial', its query runs here, in the worker, as its owner,
 * and its rows become items in that one transaction; from then on it is a job
 * like any other.  When the other has ended in another way it is cancelled.
 *
 * A query that fails, or takes longer than llm_batch.query_timeout, ends the
 * job: nothing was sent yet, so nothing is lost.  Rows whose prompt cannot be
 * sent become items that failed, behind the others: a gap between ordinals
 * would stand in the way of recognising a batch by its first one (failover.c).
 *
 * Each run is announced by a transaction before it, so that a query that takes
 * the worker down with it is given up after some runs.  One that finds a table
 * locked comes back with backoff: nothing of ours waits for others.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "as_owner.h"
#include "chain.h"
#include "compat.h"
#include "control.h"
#include "fill.h"
#include "model.h"
#include "plan.h"
#include "source.h"
#include "spool.h"
#include "store_forget.h"
#include "turn.h"

int			llmb_query_timeout_ms = 10000;

/* Longest wait for a lock: the worker has others to serve. */
#define LOCK_TIMEOUT	"100ms"
/* Runs that found a table locked, or no memory: more than an hour of them. */
#define MAX_POSTPONED	100
#define LATER_BASE_MS	1000
#define LATER_MAX_MS	60000
/* Runs that were begun and have no end at all. */
#define MAX_BEGUN		5
/* Rows that cannot be sent, in memory at once. */
#define REFUSED_ROWS	500

/* ---- at submit ---- */

void
llmb_check_predecessor(int64 after)
{
	LlmbJob    *job = llmb_own_job(after);

	if (llmb_store_is_forgotten(job->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot be waited for: it is being forgotten", after),
				 errhint("Leave after out.")));
}

/* ---- when it is tried again ---- */

/* In memory alone: a new worker tries at once.  Jobs that are cancelled leave theirs. */
#define MOST_LATERS		10000

typedef struct Later
{
	int64		job;			/* the key */
	int			tries;
	TimestampTz at;
} Later;

static HTAB *postponed = NULL;

static Later *
find_later(int64 job)
{
	return postponed ? hash_search(postponed, &job, HASH_FIND, NULL) : NULL;
}

static void
forget_later(int64 job)
{
	if (postponed)
		(void) hash_search(postponed, &job, HASH_REMOVE, NULL);
}

/* How long from now on; 0: now. */
static int64
later_ms(int64 job)
{
	const Later *later = find_later(job);

	return later ? TimestampDifferenceMilliseconds(GetCurrentTimestamp(), later->at) : 0;
}

static void
come_again(int64 job)
{
	Later	   *later;
	bool		found;

	if (postponed && hash_get_num_entries(postponed) >= MOST_LATERS)
	{
		hash_destroy(postponed);
		postponed = NULL;
	}
	if (postponed == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64), .entrysize = sizeof(Later), .hcxt = TopMemoryContext};

		postponed = hash_create("llm_batch queries postponed", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	later = hash_search(postponed, &job, HASH_ENTER, &found);
	if (!found)
		later->tries = 0;
	later->at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											llmb_backoff_ms(++later->tries, LATER_BASE_MS, LATER_MAX_MS, 0.5));
}

/* ---- rows that cannot be sent ---- */

/* A query that is being made into items. */
typedef struct Filling
{
	const LlmbJob *job;
	LlmbAsk		ask;
	LlmbFill	fill;
	LlmbItems  *items;
	LlmbSpool  *refused;		/* a line for each row that cannot be sent: code, key, error */
	int			refused_count;
	bool		reads;			/* rows: what is said from now on may quote them */
	char		why[300];		/* an atomic job has none of these rows, without their texts; "": nothing */
} Filling;

/* As a field of a line: ends of lines and fields, and what tells them, are written in two bytes. */
static void
append_field(StringInfo line, const char *text)
{
	for (; *text; text++)
	{
		if (*text == '\n' || *text == '\t' || *text == '\\')
			appendStringInfo(line, "\\%c", *text == '\n' ? 'n' : *text == '\t' ? 't' : '\\');
		else
			appendStringInfoChar(line, *text);
	}
}

/* The field at *at, in place; *at moves behind it. */
static char *
read_field(char **at)
{
	char	   *field = *at;
	char	   *from = field;
	char	   *to = field;

	for (; *from && *from != '\t'; from++)
	{
		if (*from == '\\' && from[1])
		{
			from++;
			*to++ = *from == 'n' ? '\n' : *from == 't' ? '\t' : *from;
		}
		else
			*to++ = *from;
	}
	*at = *from ? from + 1 : from;
	*to = '\0';
	return field;
}

/* For more than the owner's eyes: the row by its number, not by its key. */
static void
note_refusal(Filling *filling, const LlmbLine *line, const LlmbRefusal *refusal)
{
	char	   *named = psprintf(" for key %s", line->key);
	const char *at = strstr(refusal->message, named);
	int			before = at ? (int) (at - refusal->message) : (int) strlen(refusal->message);

	snprintf(filling->why, sizeof(filling->why), "row %d of its query cannot be sent: %.*s%s", filling->fill.count + 1,
			 before, refusal->message, at ? at + strlen(named) : "");
	pfree(named);
}

static void
keep_refused(LlmbFill *fill, const LlmbLine *line, const LlmbRefusal *refusal)
{
	Filling    *filling = fill->refuser_arg;
	const char *error = refusal->detail ? psprintf("%s: %s", refusal->message, refusal->detail) : refusal->message;
	StringInfoData text;

	/* all or none: one that cannot be sent leaves none */
	if (fill->ask->job.atomic)
	{
		note_refusal(filling, line, refusal);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_internal("%s", filling->why)));
	}
	if (fill->count + filling->refused_count >= LLMB_MAX_ITEMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a job cannot have more than %d items", LLMB_MAX_ITEMS)));
	initStringInfo(&text);
	appendStringInfo(&text, "%d\t", refusal->code);
	append_field(&text, line->key);
	appendStringInfoChar(&text, '\t');
	append_field(&text, error);
	appendStringInfoChar(&text, '\n');
	llmb_spool_write(filling->refused, text.data, text.len);
	filling->refused_count++;
}

static void
put_refused(Filling *filling, char *text, LlmbResult *result, int ordinal)
{
	LlmbCode	code = (LlmbCode) atoi(read_field(&text));
	LlmbLine	line = {.key = pstrdup(read_field(&text))};

	llmb_items_put(filling->items, ordinal, &line);
	memset(result, 0, sizeof(LlmbResult));
	result->ordinal = ordinal;
	result->attempt = 1;
	result->state = "failed";
	result->code = code;
	result->error = pstrdup(read_field(&text));
	result->input_tokens = result->output_tokens = result->cached_tokens = -1;
	result->cache_write_tokens = result->long_write_tokens = result->reasoning_tokens = -1;
}

static void
end_refused(Filling *filling)
{
	MemoryContext part = AllocSetContextCreate(CurrentMemoryContext, "llm_batch refused rows", ALLOCSET_DEFAULT_SIZES);
	LlmbResult *results = palloc(sizeof(LlmbResult) * REFUSED_ROWS);
	int			done = 0;

	while (done < filling->refused_count)
	{
		MemoryContext old = MemoryContextSwitchTo(part);
		int			n = 0;
		size_t		len;
		char	   *text;

		while (n < REFUSED_ROWS && (text = llmb_spool_line(filling->refused, done + n == 0, &len)) != NULL)
		{
			put_refused(filling, text, &results[n], filling->fill.count + done + n + 1);
			n++;
		}
		if (n == 0)
			elog(ERROR, "a row of the query was lost on its way");
		llmb_store_put_results(filling->job->id, results, n);
		done += n;
		MemoryContextSwitchTo(old);
		MemoryContextReset(part);
	}
	llmb_spool_free(filling->refused);
	MemoryContextDelete(part);
}

/* ---- the query ---- */

static char *
column_list(char **names, int count)
{
	StringInfoData list;

	if (count == 0)
		return NULL;
	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", quote_identifier(names[i]));
	return list.data;
}

/* The table as it is now; whether it may be read and written is asked again. */
static LlmbSource *
source_now(const LlmbJobDef *def)
{
	Oid			schema = get_namespace_oid(def->source_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(def->source_table, schema) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s does not exist any more",
						quote_qualified_identifier(def->source_schema, def->source_table))));
	/* policies and views of somebody who has taken the name would run as the owner of the job; a superuser may be that, too */
	if (!llmb_owner_is_known(relid, def->source_owner, InvalidOid) &&
		!llmb_owner_is_known(relid, GetUserNameFromId(GetUserId(), false), InvalidOid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table %s belongs to another role than when the job was submitted",
						quote_qualified_identifier(def->source_schema, def->source_table))));
	return llmb_source_resolve(relid, def->prompt, column_list(def->key_columns, def->key_count),
							   column_list(def->target_columns, def->target_count));
}

/* As the owner. */
static void
fill_items(void *arg)
{
	Filling    *filling = arg;
	const LlmbJobDef *def = &filling->ask.job.def;
	LlmbSource *source;

	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	source = def->query ? NULL : source_now(def);
	filling->items = llmb_items_begin(filling->job->id);
	filling->refused = llmb_spool_new(CurrentMemoryContext);
	llmb_fill_begin(&filling->fill, &filling->ask, source, llmb_items_sink, filling->items);
	filling->fill.refuser = keep_refused;
	filling->fill.refuser_arg = filling;
	filling->reads = true;
	if (def->query)
		llmb_fill_from_query(&filling->fill, def->query);
	else
		llmb_fill_from_source(&filling->fill, def->filter, def->row_limit);
	end_refused(filling);
	llmb_items_end(filling->items);
}

/* ---- what becomes of it ---- */

/*
 * PostgreSQL's words, where they name objects and never quote data, and ours:
 * the reason of a job is seen by more than its owner.
 */
static char *
words_of(const Filling *filling, int sqlstate, const char *message)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	if (filling->why[0])
		return pstrdup(filling->why);
	if (message && (category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
					category == ERRCODE_PROGRAM_LIMIT_EXCEEDED || sqlstate == ERRCODE_INVALID_SCHEMA_NAME ||
					(sqlstate == ERRCODE_INVALID_PARAMETER_VALUE && !filling->reads)))
		return psprintf("its query failed: %s", message);
	return psprintf("its query failed (SQLSTATE %s): run it to see why", unpack_sql_state(sqlstate));
}

static void
release(const LlmbJob *job, int total, int refused)
{
	llmb_store_event(job->id, 0, "started", "job " INT64_FORMAT " has ended %s: this one begins; items: %d, of them cannot be sent: %d",
					 job->after, job->after_state, total, refused);
	llmb_store_release_job(job->id, total, refused);
	if (total == refused)
		(void) llmb_store_finish_job(job->id);
}

static void
postpone(const LlmbJob *job, int sqlstate)
{
	const char *why = sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ? "a table of its query is locked" : "its query gave way";

	if (llmb_store_count_events(job->id, "postponed") + 1 >= MAX_POSTPONED)
	{
		llmb_store_end_job(job->id, "failed", psprintf("%s (SQLSTATE %s), as often as it was tried", why, unpack_sql_state(sqlstate)));
		return;
	}
	llmb_store_event(job->id, 0, "postponed", "%s (SQLSTATE %s): it is tried again", why, unpack_sql_state(sqlstate));
	llmb_store_job_state(job->id, "waiting", psprintf("%s: it is tried again", why));
	come_again(job->id);
}

static void
decide(const Filling *filling, int sqlstate, const char *message, TimestampTz deadline)
{
	const LlmbJob *job = filling->job;

	if (!llmb_error_passes(sqlstate))
		forget_later(job->id);
	if (sqlstate == 0)
		release(job, filling->fill.count + filling->refused_count, filling->refused_count);
	else if (sqlstate == ERRCODE_QUERY_CANCELED && GetCurrentTimestamp() >= deadline)
		llmb_store_end_job(job->id, "failed", psprintf("its query took longer than llm_batch.query_timeout, which is %d ms", llmb_query_timeout_ms));
	else if (llmb_error_passes(sqlstate))
		postpone(job, sqlstate);
	else
		llmb_store_end_job(job->id, "failed", words_of(filling, sqlstate, message));
}

/* ---- code that cannot be cancelled ---- */

static int64 at_work = 0;		/* whose query may be running */

/* This process ends for it, and its successor would meet it again. */
static void
give_up_at_exit(int code, Datum arg)
{
	int64		job = at_work;

	(void) code;
	(void) arg;
	if (job == 0 || !llmb_code_cannot_be_cancelled())
		return;
	at_work = 0;
	llmb_turn_abort();
	llmb_turn_begin("giving up on a job's query");
	llmb_store_end_job(job, "failed", "its query could not be cancelled when llm_batch.query_timeout was over, or it set transaction_timeout");
	llmb_turn_commit();
	llmb_turn_hand_over();
}

static void
begins_work(int64 job)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(give_up_at_exit, (Datum) 0);
	registered = true;
	at_work = job;
}

/* ---- steps ---- */

/* In a turn: the items are made, or it is decided that there will be none. */
static void
run_query(const LlmbJob *job, LlmbServer *server, const LlmbJobDef *def)
{
	Filling		filling = {.job = job};
	LlmbAsOwner who = {.owner = get_role_oid(job->owner, true), .time_zone = def->time_zone};
	char	   *message = NULL;
	int			sqlstate;

	filling.ask.server = server;
	filling.ask.model = llmb_model(server, job->model);
	filling.ask.job.server = server->name;
	filling.ask.job.model = job->model;
	filling.ask.job.atomic = job->atomic;
	filling.ask.job.def = *def;
	who.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), llmb_query_timeout_ms);
	llmb_as_owner_begin();
	begins_work(job->id);
	sqlstate = llmb_as_owner(&who, fill_items, &filling, &message);
	at_work = 0;
	llmb_as_owner_end();
	decide(&filling, sqlstate, message, who.deadline);
}

/*
 * While a query runs the worker serves nobody else: the next one of the same
 * owner rests four times as long as the last has taken, and those of all
 * others as long, so that queries have half of the worker's time at most.
 */
#define REST_FACTOR	4
/* Rests that are worth telling. */
#define LONG_REST_MS	1000
static const char *const RESTS = "its query waits for its turn";

typedef struct Rest
{
	NameData	owner;			/* the key */
	TimestampTz until;
} Rest;

static HTAB *rests = NULL;
static TimestampTz all_rest_until = 0;

static void
let_rest(const LlmbJob *job, TimestampTz begun)
{
	TimestampTz now = GetCurrentTimestamp();
	long		taken = TimestampDifferenceMilliseconds(begun, now);
	NameData	owner;
	Rest	   *rest;

	if (rests == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(NameData), .entrysize = sizeof(Rest), .hcxt = TopMemoryContext};

		rests = hash_create("llm_batch owners that rest", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	namestrcpy(&owner, job->owner);
	rest = hash_search(rests, &owner, HASH_ENTER, NULL);
	rest->until = TimestampTzPlusMilliseconds(now, REST_FACTOR * taken);
	all_rest_until = TimestampTzPlusMilliseconds(now, taken);
}

static long
rest_ms(const LlmbJob *job)
{
	TimestampTz now = GetCurrentTimestamp();
	NameData	owner;
	const Rest *rest;

	namestrcpy(&owner, job->owner);
	rest = rests ? hash_search(rests, &owner, HASH_FIND, NULL) : NULL;
	return Max(TimestampDifferenceMilliseconds(now, all_rest_until), rest ? TimestampDifferenceMilliseconds(now, rest->until) : 0);
}

/* Once: it does not wait for the other job any more.  True: it was told. */
static bool
tell_rest(const LlmbJob *job)
{
	if (job->reason && !strstr(job->reason, "waits for job"))
		return false;
	llmb_turn_begin("telling that a query waits for its turn");
	llmb_store_job_state(job->id, job->state, RESTS);
	llmb_turn_commit();
	return true;
}

/* The run is announced, then done: each in a turn. */
static bool
start(LlmbJob *job)
{
	LlmbJobDef *def;
	LlmbServer *server;
	TimestampTz begun_at;
	bool		begun;

	llmb_turn_begin("beginning a job that waited");
	def = llmb_store_job_def(job->id);
	if (def->query == NULL && def->source_table == NULL)
	{
		release(job, job->total, 0);
		llmb_turn_commit();
		return true;
	}
	/* one that is paused leaves nothing to be done for the others */
	if (!llmb_plan_ground(job, &server))
	{
		llmb_turn_commit();
		return false;
	}
	begun = llmb_store_count_events(job->id, "querying") - llmb_store_count_events(job->id, "postponed") < MAX_BEGUN;
	if (begun)
	{
		llmb_store_event(job->id, 0, "querying", "job " INT64_FORMAT " has ended %s: the query runs", job->after, job->after_state);
		llmb_store_job_state(job->id, "waiting", "its query runs");
	}
	else
		llmb_store_end_job(job->id, "failed", psprintf("its query was begun %d times and never ended", MAX_BEGUN));
	llmb_turn_commit();
	if (!begun)
		return true;
	begun_at = GetCurrentTimestamp();
	llmb_turn_begin("running a job's query");
	run_query(job, server, def);
	llmb_turn_commit();
	let_rest(job, begun_at);
	return true;
}

static void
end_held(const LlmbJob *job, const char *code, const char *state, const char *reason)
{
	llmb_turn_begin("ending a job that waited");
	(void) llmb_store_drop_rest(job->id, code);
	llmb_store_end_job(job->id, state, reason);
	forget_later(job->id);
	llmb_turn_commit();
}

bool
llmb_chain_waits(const LlmbJob *job)
{
	return job->held && job->after_state == NULL;
}

bool
llmb_chain_step(LlmbJob *job)
{
	if (job->past_deadline)
	{
		end_held(job, "expired", "failed", psprintf("its deadline was over before it could begin after job " INT64_FORMAT, job->after));
		return true;
	}
	if (job->after_state == NULL || (strcmp(job->state, "paused") == 0 && !job->awaits_mend))
		return false;
	if (strcmp(job->after_state, "succeeded") != 0 && strcmp(job->after_state, "partial") != 0)
	{
		end_held(job, "cancelled", "cancelled",
				 strcmp(job->after_state, "gone") == 0 ? psprintf("job " INT64_FORMAT ", after which it was to begin, does not exist any more", job->after) :
				 psprintf("job " INT64_FORMAT ", after which it was to begin, has ended %s", job->after, job->after_state));
		return true;
	}
	job->look_again_ms = Max(later_ms(job->id), rest_ms(job));
	if (job->look_again_ms >= LONG_REST_MS)
		return tell_rest(job);
	return job->look_again_ms == 0 && start(job);
}
