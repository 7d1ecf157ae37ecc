/*-------------------------------------------------------------------------
 *
 * store_forget.c
 *		Removing jobs: which are to go, and taking their rows out.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "miscadmin.h"

#include "log.h"
#include "sql.h"
#include "store_forget.h"

/* ---- which ---- */

bool
llmb_store_is_forgotten(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.job WHERE id = $1 AND forgotten_at IS NOT NULL) "
								"OR EXISTS (SELECT FROM llm_batch.command WHERE job_id = $1 AND verb = 'forget')", "l", job);
	bool		forgotten = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return forgotten;
}

/* Who has not begun yet waits, also while it is paused. */
#define SUCCESSOR(job) \
	"SELECT w.id FROM llm_batch.job w WHERE w.after = " job " AND w.finished_at IS NULL AND w.started_at IS NULL"

/* What follows its end, and has not run yet. */
#define AFTERWARDS(job) \
	"SELECT a.verb FROM llm_batch.afterwards a WHERE a.job_id = " job " AND a.error IS NULL"

char *
llmb_store_needed_for(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT COALESCE((SELECT 'job ' || s.id || ' waits for it' FROM (" SUCCESSOR("$1") " ORDER BY w.id LIMIT 1) s), "
								" (SELECT s.verb || ' is still to run' FROM (" AFTERWARDS("$1") ") s))", "l", job);
	char	   *what = llmb_row_text(rows, 0, 1);

	llmb_sql_done(rows);
	return what;
}

bool
llmb_store_begin_forget(int64 job, const char *why)
{
	if (llmb_sql_run("UPDATE llm_batch.job SET forgotten_at = clock_timestamp(), request_key = NULL "
					 "WHERE id = $1 AND finished_at IS NOT NULL AND forgotten_at IS NULL", "l", job) == 0)
		return false;
	llmb_store_event(job, 0, "forgetting", "the job is being removed: %s", why);
	return true;
}

/*
 * What holds a job: something is asked of it, another waits for it, what
 * follows its end has not run, it has the newest answer of a task's row, or it
 * came into this database so lately.
 */
#define KIND "(CASE WHEN j.attachment_id IS NULL THEN j.state ELSE 'task' END)"
#define HELD \
	"EXISTS (SELECT FROM llm_batch.command c WHERE c.job_id = j.id) " \
	"OR EXISTS (" SUCCESSOR("j.id") ") " \
	"OR EXISTS (" AFTERWARDS("j.id") ") " \
	"OR (j.attachment_id IS NOT NULL AND EXISTS (SELECT FROM llm_batch.task_item t WHERE t.job_id = j.id)) " \
	"OR ((j.system_identifier <> $6 OR j.database_oid <> $7) AND NOT EXISTS (SELECT FROM llm_batch.home h " \
	" WHERE h.system_identifier = $6 AND h.database_oid = $7 AND h.since < now() - $4 * interval '1 minute'))"

List *
llmb_store_ended_jobs(const char *kind, int minutes, LlmbEndedPlace *place, int limit)
{
	LlmbRows   *rows = llmb_sql("SELECT j.id, j.finished_at, " HELD " FROM llm_batch.job j "
								"WHERE " KIND " = $1 AND j.finished_at IS NOT NULL AND j.forgotten_at IS NULL "
								"AND (j.finished_at, j.id) > (COALESCE($2, '-infinity'), $3) "
								"AND j.finished_at < now() - $4 * interval '1 minute' "
								"ORDER BY " KIND ", j.finished_at, j.id LIMIT $5",
								"tzllill", kind, place->finished_at, place->id, (int64) minutes, limit,
								(int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	List	   *jobs = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbEnded  *job = palloc(sizeof(LlmbEnded));

		job->id = place->id = llmb_row_int(rows, i, 1);
		place->finished_at = llmb_row_time(rows, i, 2);
		job->held = llmb_row_bool(rows, i, 3);
		jobs = lappend(jobs, job);
	}
	llmb_sql_done(rows);
	return jobs;
}

bool
llmb_store_any_forgotten(void)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.job WHERE forgotten_at IS NOT NULL AND id > 0)", "");
	bool		any = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return any;
}

#define WAITS "EXISTS (SELECT FROM llm_batch.batch b JOIN llm_batch.leftover l ON l.batch_id = b.id WHERE b.job_id = j.id)"
#define BARE  "NOT EXISTS (SELECT FROM llm_batch.job_def d WHERE d.job_id = j.id)"

bool
llmb_store_next_forgotten(int64 after, LlmbForgotten *job)
{
	LlmbRows   *rows = llmb_sql("SELECT j.id, j.total, " WAITS ", " BARE " FROM llm_batch.job j "
								"WHERE j.forgotten_at IS NOT NULL AND j.id > $1 AND NOT (" BARE " AND " WAITS ") "
								"ORDER BY j.id LIMIT 1", "l", after);

	memset(job, 0, sizeof(*job));
	if (llmb_row_count(rows) > 0)
	{
		job->id = llmb_row_int(rows, 0, 1);
		job->total = llmb_row_int(rows, 0, 2);
		job->waits = llmb_row_bool(rows, 0, 3);
		job->bare = llmb_row_bool(rows, 0, 4);
	}
	llmb_sql_done(rows);
	return job->id != 0;
}

/* ---- rows ---- */

/*
 * Tables with rows for each item, by ordinals, so that no slice reads again,
 * as dead rows, what others before it have deleted.
 */
#define BY_ORDINAL(table) \
	"DELETE FROM llm_batch." table " WHERE job_id = $1 AND ordinal > $2 AND ordinal <= $3"

static const char *const by_ordinal[] = {
	BY_ORDINAL("item"),
	BY_ORDINAL("prompt"),
	BY_ORDINAL("pii_map"),
	BY_ORDINAL("result"),
	BY_ORDINAL("answer"),
	BY_ORDINAL("unapplied"),
};

/* The others, which have few rows or narrow ones. */
#define OTHERS_AT_A_TIME	1000
#define BY_JOB(table) \
	"DELETE FROM llm_batch." table " WHERE ctid = ANY (ARRAY(SELECT ctid FROM llm_batch." table " WHERE job_id = $1 LIMIT $2))"

static const char *const by_job[] = {
	BY_JOB("task_item"),
	BY_JOB("afterwards"),
	BY_JOB("queue"),
	BY_JOB("event"),
	BY_JOB("job_def"),			/* the last: when it is gone, so are the items */
};

/* What the removal of its request files at the provider needs: these go last. */
static const char *const at_last[] = {
	BY_JOB("command"),
	BY_JOB("batch"),
};

/* With the last ones goes whatever stands above. */
static int
delete_items(LlmbForgotten *job, int items)
{
	int			upto = job->total - job->ordinal > items ? job->ordinal + items : PG_INT32_MAX;
	int			deleted = 0;

	for (int i = 0; i < (int) lengthof(by_ordinal); i++)
		deleted += llmb_sql_run(by_ordinal[i], "lii", job->id, job->ordinal, upto);
	job->ordinal = upto;
	return deleted;
}

/* At most so many of them; *deleted grows.  True when there are no more. */
static bool
delete_others(int64 job, const char *const *statements, int count, int limit, int *deleted)
{
	for (int i = 0; i < count; i++)
	{
		int			rows = llmb_sql_run(statements[i], "li", job, limit);

		*deleted += rows;
		if (rows >= limit)
			return false;
	}
	return true;
}

#define COUNTED(column)  column " = s." column " + excluded." column
/* not trimmed: sums of the view costs are to look the same before and after */
#define ADDED(column) \
	column " = CASE WHEN s." column " IS NULL THEN excluded." column " ELSE s." column " + COALESCE(excluded." column ", 0) END"

#define ADD_TO_SUM \
	"ON CONFLICT (day, owner, server, model, mode, jsonb_hash_extended(labels, 0), monthly) WHERE job_id < 0 DO UPDATE SET " \
	COUNTED("attempts") ", " COUNTED("succeeded") ", " COUNTED("input_tokens") ", " COUNTED("cached_tokens") ", " \
	COUNTED("cache_write_tokens") ", " COUNTED("output_tokens") ", " COUNTED("reasoning_tokens") ", " COUNTED("cost_unknown") ", " \
	ADDED("cost") ", " ADDED("real_time_cost") ", " ADDED("saved_batch") ", " ADDED("saved_prefix")

/* What it has cost becomes part of one row for all like it. */
static void
keep_spending(int64 job)
{
	llmb_sql_run("WITH gone AS (DELETE FROM llm_batch.spending WHERE job_id = $1 RETURNING *) "
				 "INSERT INTO llm_batch.spending AS s (day, job_id, mode, owner, server, model, labels, attempts, succeeded, "
				 " input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, "
				 " cost, real_time_cost, saved_batch, saved_prefix, cost_unknown) "
				 "SELECT day, -job_id, mode, owner, server, model, labels, attempts, succeeded, "
				 " input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, "
				 " cost, real_time_cost, saved_batch, saved_prefix, cost_unknown FROM gone "
				 ADD_TO_SUM, "l", job);
}

/* Whole months alone: those whose last day is old enough. */
bool
llmb_store_sum_up_months(int minutes, int limit)
{
	int			rows = llmb_sql_run("WITH gone AS (DELETE FROM llm_batch.spending WHERE ctid = ANY (ARRAY("
									"  SELECT ctid FROM llm_batch.spending WHERE job_id < 0 AND NOT monthly "
									"  AND day < date_trunc('month', now() AT TIME ZONE 'UTC' - $1 * interval '1 minute')::date "
									"  ORDER BY day LIMIT $2)) RETURNING *) "
									"INSERT INTO llm_batch.spending AS s (day, job_id, mode, owner, server, model, labels, attempts, succeeded, "
									" input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, "
									" cost, real_time_cost, saved_batch, saved_prefix, cost_unknown, monthly) "
									"SELECT date_trunc('month', day)::date, max(job_id), mode, owner, server, model, '{}', sum(attempts), sum(succeeded), "
									" sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), "
									" sum(cost), sum(real_time_cost), sum(saved_batch), sum(saved_prefix), sum(cost_unknown), true "
									"FROM gone GROUP BY date_trunc('month', day), mode, owner, server, model "
									ADD_TO_SUM, "li", (int64) minutes, limit);

	return rows > 0;
}

static void
log_gone(int64 job, const char *owner, const char *state)
{
	LlmbLogLine line;

	if (llmb_log_events == LLMB_LOG_OFF)
		return;
	llmb_log_begin(&line, "job");
	llmb_log_int(&line, "job", job);
	llmb_log_text(&line, "owner", owner);
	llmb_log_text(&line, "was", state);
	llmb_log_text(&line, "state", "forgotten");
	llmb_log_end(&line);
}

static void
delete_job(int64 job)
{
	LlmbRows   *rows = llmb_sql("DELETE FROM llm_batch.job WHERE id = $1 RETURNING owner, state", "l", job);

	if (llmb_row_count(rows) > 0)
		log_gone(job, llmb_row_text(rows, 0, 1), llmb_row_text(rows, 0, 2));
	llmb_sql_done(rows);
}

int
llmb_store_forget_rows(LlmbForgotten *job, int items, bool *gone)
{
	int			deleted = 0;

	*gone = false;
	if (!job->bare && job->ordinal < job->total)
		return delete_items(job, items);
	*gone = delete_others(job->id, by_job, lengthof(by_job), OTHERS_AT_A_TIME, &deleted) &&
		(job->waits || delete_others(job->id, at_last, lengthof(at_last), OTHERS_AT_A_TIME, &deleted));
	if (*gone && !job->waits)
	{
		keep_spending(job->id);
		delete_job(job->id);
		deleted++;
	}
	return deleted;
}
