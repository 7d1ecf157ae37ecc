/*-------------------------------------------------------------------------
 *
 * store_job.c
 *		Jobs, what people ask of them, and events.
 *
 * Only the worker changes a job once it is committed.  What others want of
 * it they leave in llm_batch.command, so that an open transaction of theirs
 * never holds a lock that the worker needs.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "log.h"
#include "notify.h"
#include "shmem.h"
#include "sql.h"
#include "store.h"

/* ---- changes of state, for the log and for listeners ---- */

char *
llmb_store_job_before(int64 job)
{
	LlmbRows   *rows;
	char	   *state;

	if (llmb_log_events == LLMB_LOG_OFF && !(llmb_notify && llmb_notify_is_told()))
		return NULL;
	rows = llmb_sql("SELECT state || COALESCE(' ' || reason, '') FROM llm_batch.job WHERE id = $1", "l", job);
	state = llmb_row_count(rows) ? llmb_row_text(rows, 0, 1) : NULL;
	llmb_sql_done(rows);
	return state;
}

static void
log_job(int64 job, const char *before)
{
	static const char *const counts[] = {"total", "queued", "in_flight", "succeeded", "failed", "cancelled"};
	LlmbRows   *rows = llmb_sql("SELECT state || COALESCE(' ' || reason, ''), owner, server, model, mode, state, reason, "
								" labels::text, total, queued, in_flight, succeeded, failed, cancelled "
								"FROM llm_batch.job WHERE id = $1", "l", job);

	if (llmb_row_count(rows) && (before == NULL || strcmp(before, llmb_row_text(rows, 0, 1)) != 0))
	{
		LlmbLogLine line;

		llmb_log_begin(&line, "job");
		llmb_log_int(&line, "job", job);
		llmb_log_text(&line, "owner", llmb_row_text(rows, 0, 2));
		llmb_log_text(&line, "server", llmb_row_text(rows, 0, 3));
		llmb_log_text(&line, "model", llmb_row_text(rows, 0, 4));
		llmb_log_text(&line, "mode", llmb_row_text(rows, 0, 5));
		/* the first word is the state */
		llmb_log_text(&line, "was", before ? pnstrdup(before, strcspn(before, " ")) : NULL);
		llmb_log_text(&line, "state", llmb_row_text(rows, 0, 6));
		llmb_log_text(&line, "reason", llmb_row_text(rows, 0, 7));
		for (int i = 0; i < (int) lengthof(counts); i++)
			llmb_log_int(&line, counts[i], llmb_row_int(rows, 0, 9 + i));
		llmb_log_json(&line, "labels", llmb_row_text(rows, 0, 8));
		llmb_log_end(&line);
	}
	llmb_sql_done(rows);
}

void
llmb_store_log_job(int64 job, const char *before)
{
	if (before == NULL)
		return;
	llmb_notify_state(job, before);
	if (llmb_log_events != LLMB_LOG_OFF)
		log_job(job, before);
}

/* ---- new jobs ---- */

int64
llmb_store_new_job(const LlmbNewJob *job, const char *owner)
{
	const LlmbJobDef *def = &job->def;
	LlmbRows   *rows;
	int64		id = 0;

	rows = llmb_sql("INSERT INTO llm_batch.job (owner, server, model, mode, state, priority, labels, "
					" request_key, request_hash, deadline_at, system_identifier, database_oid, max_cost, "
					" atomic, after, task, attachment_id, prompt_version, held, reason) "
					"VALUES ($1::name, $2::name, $3, $4, 'waiting', $5, $6::jsonb, $7, $8, $9, $10, $11, $12::numeric, "
					" $13, NULLIF($14, 0), $15, NULLIF($16, 0), $17, $14 <> 0, 'waits for job ' || NULLIF($14, 0)) "
					"ON CONFLICT (owner, request_key) DO NOTHING RETURNING id",
					"ttttittlzlltbltli", owner, job->server, job->model, job->mode, job->priority,
					job->labels, job->request_key, job->request_hash, job->deadline,
					(int64) GetSystemIdentifier(), (int64) MyDatabaseId, job->max_cost,
					(int) job->atomic, job->after, job->task, job->attachment, Max(job->prompt_version, 1));
	if (llmb_row_count(rows) > 0)
		id = llmb_row_int(rows, 0, 1);
	llmb_sql_done(rows);
	if (id == 0)
		return 0;
	llmb_sql_run("INSERT INTO llm_batch.job_def (job_id, source_schema, source_table, key_columns, "
				 " target_columns, prompt, system, params, schema, time_zone, targets_hash, "
				 " mask_pii, filter, row_limit, query, on_success, on_error, source_owner) "
				 "VALUES ($1, $2::name, $3::name, $4::name[], $5::name[], $6, $7, $8::jsonb, $9::json, $10, $11, "
				 " $12, $13, NULLIF($14, -1), $15, $16, $17, $18::name)",
				 "lttaatttttlbtltttt", id, def->source_schema, def->source_table,
				 llmb_name_array(def->key_columns, def->key_count),
				 llmb_name_array(def->target_columns, def->target_count),
				 def->prompt, def->system, def->params, def->schema, def->time_zone, def->targets_hash,
				 (int) def->mask_pii, def->filter, def->row_limit, def->query, def->on_success, def->on_error, def->source_owner);
	return id;
}

int64
llmb_store_find_request(const char *owner, const char *request_key, int64 *hash)
{
	LlmbRows   *rows = llmb_sql("SELECT id, request_hash FROM llm_batch.job "
								"WHERE owner = $1::name AND request_key = $2",
								"tt", owner, request_key);
	int64		id = 0;

	if (llmb_row_count(rows) > 0)
	{
		id = llmb_row_int(rows, 0, 1);
		*hash = llmb_row_int(rows, 0, 2);
	}
	llmb_sql_done(rows);
	return id;
}

void
llmb_store_job_filled(int64 job, int total)
{
	llmb_sql_run("UPDATE llm_batch.job SET total = $2, queued = $2 WHERE id = $1", "li", job, total);
	llmb_store_event(job, 0, "submitted", "submitted items: %d", total);
	llmb_notify_state(job, NULL);
	if (llmb_log_events != LLMB_LOG_OFF)
		log_job(job, NULL);
}

void
llmb_store_job_held(int64 job, int64 after)
{
	llmb_store_event(job, 0, "submitted", "submitted: its items are made when job " INT64_FORMAT " has ended", after);
	llmb_notify_state(job, NULL);
	if (llmb_log_events != LLMB_LOG_OFF)
		log_job(job, NULL);
}

void
llmb_store_release_job(int64 job, int total, int failed)
{
	char	   *before = llmb_store_job_before(job);

	llmb_sql_run("UPDATE llm_batch.job SET held = false, state = 'waiting', reason = NULL, awaits_mend = false, "
				 " total = $2, queued = $2 - $3, failed = $3 WHERE id = $1", "lii", job, total, failed);
	llmb_store_tally(job, "items", "failed", failed);
	llmb_notify_counts(job);
	llmb_store_log_job(job, before);
}

/* ---- reading jobs ---- */

#define JOB_QUERY \
	"SELECT j.id, j.owner, j.server, j.model, j.state, j.reason, j.total, j.queued, j.in_flight, " \
	" j.succeeded, j.failed, j.cancelled, j.unapplied, j.planned_to, q.attempt, q.not_before, " \
	" EXISTS (SELECT FROM llm_batch.batch b WHERE b.job_id = j.id " \
	"  AND b.state NOT IN ('finalized', 'failed', 'cancelled')), " \
	" j.deadline_at <= clock_timestamp(), j.deadline_at, " \
	" EXISTS (SELECT FROM llm_batch.command c WHERE c.job_id = j.id) OR " \
	" EXISTS (SELECT FROM llm_batch.afterwards a WHERE a.job_id = j.id AND a.verb IS NOT NULL AND a.tries = 0 AND a.error IS NULL), " \
	" j.system_identifier, j.database_oid, j.mode, q.realtime, " \
	" COALESCE(j.cost, 0)::text, COALESCE(j.max_cost, -1)::text, " \
	" COALESCE((SELECT sum(b.forecast_cost) FROM llm_batch.batch b WHERE b.job_id = j.id AND j.max_cost IS NOT NULL " \
	"  AND b.state NOT IN ('finalized', 'failed', 'cancelled')), 0)::text, j.awaits_mend, " \
	" j.planned_to < j.total AND EXISTS (SELECT FROM llm_batch.prompt p WHERE p.job_id = j.id AND p.ordinal > j.planned_to), j.priority, " \
	" j.atomic, j.held, j.after, CASE WHEN j.held THEN COALESCE((SELECT CASE WHEN p.finished_at IS NULL OR " \
	"   EXISTS (SELECT FROM llm_batch.afterwards a WHERE a.job_id = p.id AND a.verb IS NOT NULL AND a.tries = 0 AND a.error IS NULL) THEN '' ELSE p.state END " \
	"  FROM llm_batch.job p WHERE p.id = j.after), 'gone') END, j.attachment_id " \
	"FROM llm_batch.job j " \
	"LEFT JOIN LATERAL (SELECT q.attempt, q.not_before, q.realtime FROM llm_batch.queue q " \
	" WHERE q.job_id = j.id ORDER BY q.not_before LIMIT 1) q ON true "

static LlmbJob *
read_job(LlmbRows *rows, int row)
{
	LlmbJob    *job = palloc0(sizeof(LlmbJob));

	job->id = llmb_row_int(rows, row, 1);
	job->owner = llmb_row_text(rows, row, 2);
	job->server = llmb_row_text(rows, row, 3);
	job->model = llmb_row_text(rows, row, 4);
	job->state = llmb_row_text(rows, row, 5);
	job->reason = llmb_row_text(rows, row, 6);
	job->total = llmb_row_int(rows, row, 7);
	job->queued = llmb_row_int(rows, row, 8);
	job->in_flight = llmb_row_int(rows, row, 9);
	job->succeeded = llmb_row_int(rows, row, 10);
	job->failed = llmb_row_int(rows, row, 11);
	job->cancelled = llmb_row_int(rows, row, 12);
	job->unapplied = llmb_row_int(rows, row, 13);
	job->planned_to = llmb_row_int(rows, row, 14);
	job->retry_attempt = llmb_row_int(rows, row, 15);
	job->retry_at = llmb_row_time(rows, row, 16);
	job->live_batches = llmb_row_bool(rows, row, 17);
	job->past_deadline = llmb_row_bool(rows, row, 18);
	job->deadline = llmb_row_time(rows, row, 19);
	job->commanded = llmb_row_bool(rows, row, 20);
	job->ours = llmb_row_int(rows, row, 21) == (int64) GetSystemIdentifier() &&
		llmb_row_int(rows, row, 22) == (int64) MyDatabaseId;
	job->mode = llmb_row_text(rows, row, 23);
	job->retry_realtime = llmb_row_bool(rows, row, 24);
	job->cost = strtod(llmb_row_text(rows, row, 25), NULL);
	job->max_cost = strtod(llmb_row_text(rows, row, 26), NULL);
	job->flying_cost = strtod(llmb_row_text(rows, row, 27), NULL);
	job->awaits_mend = job->ours && llmb_row_bool(rows, row, 28);
	job->fresh = llmb_row_bool(rows, row, 29);
	job->atomic = llmb_row_bool(rows, row, 31);
	job->held = llmb_row_bool(rows, row, 32);
	job->after = llmb_row_int(rows, row, 33);
	job->after_state = llmb_row_text(rows, row, 34);
	if (job->after_state && job->after_state[0] == '\0')
		job->after_state = NULL;
	job->priority = (int) llmb_row_int(rows, row, 30);
	job->attachment = llmb_row_int(rows, row, 35);
	return job;
}

List *
llmb_store_active_jobs(void)
{
	LlmbRows   *rows = llmb_sql(JOB_QUERY
								"WHERE j.state IN ('waiting', 'running', 'paused', 'cancelling') "
								"AND (j.total > 0 OR j.held) ORDER BY j.priority DESC, j.id", "");
	List	   *jobs = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
		jobs = lappend(jobs, read_job(rows, i));
	llmb_sql_done(rows);
	return jobs;
}

LlmbJob *
llmb_store_job(int64 id)
{
	LlmbRows   *rows = llmb_sql(JOB_QUERY "WHERE j.id = $1", "l", id);
	LlmbJob    *job = llmb_row_count(rows) ? read_job(rows, 0) : NULL;

	llmb_sql_done(rows);
	return job;
}

LlmbJobDef *
llmb_store_job_def(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT source_schema, source_table, key_columns::text[], "
								" target_columns::text[], prompt, system, params::text, schema::text, time_zone, targets_hash, "
								" mask_pii, filter, COALESCE(row_limit, -1), query, on_success, on_error, "
								" (SELECT j.attachment_id FROM llm_batch.job j WHERE j.id = job_id), "
								" COALESCE((SELECT j.atomic FROM llm_batch.job j WHERE j.id = job_id), false), source_owner "
								"FROM llm_batch.job_def WHERE job_id = $1", "l", job);
	LlmbJobDef *def;

	if (llmb_row_count(rows) == 0)
		elog(ERROR, "job " INT64_FORMAT " has no definition", job);
	def = palloc0(sizeof(LlmbJobDef));
	def->source_schema = llmb_row_text(rows, 0, 1);
	def->source_table = llmb_row_text(rows, 0, 2);
	def->key_columns = llmb_row_names(rows, 0, 3, &def->key_count);
	def->target_columns = llmb_row_names(rows, 0, 4, &def->target_count);
	def->prompt = llmb_row_text(rows, 0, 5);
	def->system = llmb_row_text(rows, 0, 6);
	def->params = llmb_row_text(rows, 0, 7);
	def->schema = llmb_row_text(rows, 0, 8);
	def->time_zone = llmb_row_text(rows, 0, 9);
	def->targets_hash = llmb_row_int(rows, 0, 10);
	def->mask_pii = llmb_row_bool(rows, 0, 11);
	def->filter = llmb_row_text(rows, 0, 12);
	def->row_limit = llmb_row_int(rows, 0, 13);
	def->query = llmb_row_text(rows, 0, 14);
	def->on_success = llmb_row_text(rows, 0, 15);
	def->on_error = llmb_row_text(rows, 0, 16);
	def->atomic = llmb_row_bool(rows, 0, 18);
	def->attachment = llmb_row_int(rows, 0, 17);
	def->source_owner = llmb_row_text(rows, 0, 19);
	llmb_sql_done(rows);
	return def;
}

bool
llmb_store_has_history(void)
{
	LlmbRows   *rows = llmb_sql("SELECT is_called FROM llm_batch.event_id_seq", "");
	bool		has = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return has;
}

bool
llmb_store_has_work(void)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.job WHERE state IN ('waiting', 'running', 'paused', 'cancelling') "
								"  AND NOT (held AND COALESCE(deadline_at > clock_timestamp(), true) AND (state = 'paused' AND NOT awaits_mend OR "
								"   EXISTS (SELECT FROM llm_batch.job p WHERE p.id = job.after AND p.finished_at IS NULL))) "
								"  AND (state <> 'paused' OR (queued = 0 AND in_flight = 0) OR "
								"   ((in_flight > 0 OR awaits_mend) AND system_identifier = $1 AND database_oid = $2))) "
								"OR EXISTS (SELECT FROM llm_batch.command) "
								"OR EXISTS (SELECT FROM llm_batch.afterwards WHERE error IS NULL) "
								"OR EXISTS (SELECT FROM llm_batch.leftover WHERE not_before <= clock_timestamp()) "
								"OR EXISTS (SELECT FROM llm_batch.probe WHERE ok IS NULL)",
								"ll", (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	bool		work = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return work;
}

bool
llmb_job_is_over(const LlmbJob *job)
{
	return strcmp(job->state, "succeeded") == 0 || strcmp(job->state, "partial") == 0 ||
		strcmp(job->state, "failed") == 0 || strcmp(job->state, "cancelled") == 0;
}

/* ---- changing jobs ---- */

void
llmb_store_count(int64 job, const LlmbDelta *delta)
{
	llmb_sql_run("UPDATE llm_batch.job SET queued = queued + $2, in_flight = in_flight + $3, "
				 " succeeded = succeeded + $4, failed = failed + $5, cancelled = cancelled + $6, "
				 " unapplied = unapplied + $7, uncertain = uncertain + $8, "
				 " cost_unknown = cost_unknown + $9, "
				 " cost = CASE WHEN $10 IS NULL THEN cost ELSE trim_scale(COALESCE(cost, 0) + $10::numeric) END, "
				 " saved = CASE WHEN $11 IS NULL THEN saved ELSE trim_scale(COALESCE(saved, 0) + $11::numeric) END "
				 "WHERE id = $1",
				 "liiiiiiiitt", job, delta->queued, delta->in_flight, delta->succeeded,
				 delta->failed, delta->cancelled, delta->unapplied, delta->uncertain,
				 delta->cost_unknown, delta->cost, delta->saved);
	llmb_notify_counts(job);
	/* the usual end is counted in llm_batch.spending: one statement less for each slice */
	llmb_store_tally(job, "items", "failed", delta->failed);
	llmb_store_tally(job, "items", "cancelled", delta->cancelled);
}

void
llmb_store_tally(int64 job, const char *what, const char *label, int64 more)
{
	if (more > 0)
		llmb_sql_run("INSERT INTO llm_batch.tally AS t (owner, server, model, what, label, value) "
					 "SELECT j.owner, j.server, j.model, $2, $3, $4 FROM llm_batch.job j WHERE j.id = $1 "
					 "ON CONFLICT (owner, server, model, what, label) DO UPDATE SET value = t.value + excluded.value",
					 "lttl", job, what, label, more);
}

static void
set_job_state(int64 job, const char *state, const char *reason, bool awaits_mend)
{
	char	   *before = llmb_store_job_before(job);

	llmb_sql_run("UPDATE llm_batch.job SET state = $2, reason = $3, finished_at = NULL, awaits_mend = $4 "
				 "WHERE id = $1 AND (state, reason, awaits_mend) IS DISTINCT FROM ($2, $3, $4)",
				 "lttb", job, state, reason, awaits_mend);
	llmb_store_log_job(job, before);
}

void
llmb_store_job_state(int64 job, const char *state, const char *reason)
{
	set_job_state(job, state, reason, false);
}

void
llmb_store_await_mend(int64 job, const char *reason)
{
	set_job_state(job, "paused", reason, true);
}

/* A job of another database becomes one of this. */
void
llmb_store_resume_job(int64 job)
{
	char	   *before = llmb_store_job_before(job);

	llmb_sql_run("UPDATE llm_batch.job SET reason = CASE WHEN held THEN 'waits for job ' || after END, awaits_mend = false, "
				 " state = CASE WHEN started_at IS NULL THEN 'waiting' ELSE 'running' END, "
				 " system_identifier = $2, database_oid = $3 "
				 "WHERE id = $1 AND state = 'paused'",
				 "lll", job, (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	llmb_store_log_job(job, before);
}

int
llmb_store_drop_rest(int64 job, const char *code)
{
	LlmbRows   *rows;
	int			dropped;

	/* what was to be sent again has a history: it gets an end of its own */
	llmb_sql_run("INSERT INTO llm_batch.result (job_id, batch_id, completed_at, ordinal, attempt, applied, altered, state, error_code, cost) "
				 "SELECT q.job_id, 0, clock_timestamp(), q.ordinal, q.attempt, false, false, "
				 " CASE WHEN $2 = 'cancelled' THEN 'cancelled' ELSE 'failed' END, $2, 0 "
				 "FROM llm_batch.queue q WHERE q.job_id = $1", "lt", job, code);
	llmb_sql_run("DELETE FROM llm_batch.queue WHERE job_id = $1", "l", job);
	rows = llmb_sql("UPDATE llm_batch.job j SET queued = 0, planned_to = j.total, "
					" rest_code = CASE WHEN j.planned_to < j.total THEN $2 ELSE j.rest_code END, "
					" cancelled = j.cancelled + CASE WHEN $2 = 'cancelled' THEN j.queued ELSE 0 END, "
					" failed = j.failed + CASE WHEN $2 = 'cancelled' THEN 0 ELSE j.queued END "
					"FROM llm_batch.job was WHERE j.id = $1 AND was.id = j.id RETURNING was.queued",
					"lt", job, code);
	dropped = llmb_row_count(rows) ? llmb_row_int(rows, 0, 1) : 0;
	llmb_sql_done(rows);
	llmb_notify_counts(job);
	llmb_store_tally(job, "items", strcmp(code, "cancelled") == 0 ? "cancelled" : "failed", dropped);
	if (strcmp(code, "cancelled") != 0)
		llmb_store_tally(job, "errors", code, dropped);
	return dropped;
}

/*
 * Leaves what follows the end of a job for afterwards.c: its owner's SQL, and,
 * where a session has ended it because it has no items, that this is told.
 * What has not run since an earlier end gives way.
 */
static void
follow_job(int64 job, const char *state)
{
	LlmbRows   *rows = llmb_sql("WITH was AS (SELECT w.verb FROM llm_batch.afterwards w WHERE w.job_id = $1 AND w.error IS NULL) "
								"INSERT INTO llm_batch.afterwards AS a (job_id, verb, state, untold) "
								"SELECT d.job_id, v.verb, $2, $3 FROM llm_batch.job_def d "
								"CROSS JOIN LATERAL (SELECT CASE WHEN $2 = 'succeeded' AND d.on_success IS NOT NULL THEN 'on_success' "
								" WHEN $2 <> 'succeeded' AND d.on_error IS NOT NULL THEN 'on_error' END) v (verb) "
								"WHERE d.job_id = $1 AND (v.verb IS NOT NULL OR $3) "
								"ON CONFLICT (job_id) DO UPDATE SET verb = excluded.verb, state = excluded.state, "
								" untold = excluded.untold, tries = 0, begun = 0, "
								" not_before = excluded.not_before, error = NULL, failed_at = NULL "
								"RETURNING (SELECT verb FROM was)",
								"ltb", job, state, (int) (llmb_notify && !llmb_notify_is_told()));
	bool		follows = llmb_row_count(rows) > 0;
	char	   *was = follows ? llmb_row_text(rows, 0, 1) : NULL;

	llmb_sql_done(rows);
	if (follows)
		llmb_wake_at_commit();
	if (was)
		llmb_store_event(job, 0, "afterwards", "%s had not run yet, and does not: the job has ended anew", was);
}

char *
llmb_store_finish_job(int64 job)
{
	char	   *before = llmb_store_job_before(job);
	LlmbRows   *rows;
	char	   *state = NULL;

	rows = llmb_sql("UPDATE llm_batch.job SET finished_at = clock_timestamp(), reason = NULL, awaits_mend = false, held = false, state = CASE "
					" WHEN held AND state = 'cancelling' THEN 'cancelled' "
					/* rows of a task that have changed, or are gone, are nobody's failure */
					" WHEN failed = 0 AND (cancelled = 0 OR attachment_id IS NOT NULL AND state <> 'cancelling') THEN 'succeeded' "
					" WHEN state = 'cancelling' THEN 'cancelled' "
					" WHEN succeeded = 0 THEN 'failed' ELSE 'partial' END "
					"WHERE id = $1 AND state IN ('waiting', 'running', 'paused', 'cancelling') "
					"AND queued = 0 AND in_flight = 0 "
					"AND NOT EXISTS (SELECT FROM llm_batch.batch b WHERE b.job_id = $1 "
					" AND b.state NOT IN ('finalized', 'failed', 'cancelled')) "
					"RETURNING state, succeeded, failed, cancelled", "l", job);
	if (llmb_row_count(rows) > 0)
	{
		state = llmb_row_text(rows, 0, 1);
		llmb_store_event(job, 0, state, "the job ended: %d succeeded, %d failed, %d cancelled",
						 (int) llmb_row_int(rows, 0, 2), (int) llmb_row_int(rows, 0, 3),
						 (int) llmb_row_int(rows, 0, 4));
	}
	llmb_sql_done(rows);
	if (state)
	{
		llmb_store_tally(job, "jobs", state, 1);
		follow_job(job, state);
	}
	llmb_store_log_job(job, before);
	return state;
}

void
llmb_store_end_job(int64 job, const char *state, const char *reason)
{
	char	   *before = llmb_store_job_before(job);

	if (llmb_sql_run("UPDATE llm_batch.job SET finished_at = clock_timestamp(), state = $2, reason = $3, "
					 " awaits_mend = false, held = false "
					 "WHERE id = $1 AND state IN ('waiting', 'running', 'paused', 'cancelling')", "ltt", job, state, reason) == 0)
		return;
	llmb_store_event(job, 0, state, "the job ended: %s", reason);
	llmb_store_tally(job, "jobs", state, 1);
	follow_job(job, state);
	llmb_store_log_job(job, before);
}

char *
llmb_store_failures(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT string_agg(code || ' ' || n, ', ' ORDER BY n DESC, code) FROM ("
								"SELECT COALESCE(r.error_code, j.rest_code, 'cancelled') AS code, count(*) AS n "
								"FROM llm_batch.item i JOIN llm_batch.job j ON j.id = i.job_id "
								"LEFT JOIN LATERAL (SELECT r.state, r.error_code FROM llm_batch.result r "
								" WHERE r.job_id = i.job_id AND r.ordinal = i.ordinal ORDER BY r.attempt DESC LIMIT 1) r ON true "
								"WHERE i.job_id = $1 AND r.state IS DISTINCT FROM 'stored' AND r.state IS DISTINCT FROM 'succeeded' GROUP BY 1) c", "l", job);
	char	   *failures = llmb_row_text(rows, 0, 1);

	llmb_sql_done(rows);
	return failures ? failures : pstrdup("none");
}

/* ---- commands ---- */

void
llmb_store_command(int64 job, const char *verb, ArrayType *codes)
{
	llmb_sql_run("INSERT INTO llm_batch.command (job_id, verb, codes, given_by) "
				 "VALUES ($1, $2, $3, session_user)", "lta", job, verb, codes);
}

LlmbCommand *
llmb_store_next_command(void)
{
	LlmbRows   *rows = llmb_sql("SELECT id, job_id, verb, codes FROM llm_batch.command ORDER BY id LIMIT 1", "");
	LlmbCommand *command = NULL;

	if (llmb_row_count(rows) > 0)
	{
		bool		isnull;
		Datum		codes = llmb_row_datum(rows, 0, 4, &isnull);

		command = palloc0(sizeof(LlmbCommand));
		command->id = llmb_row_int(rows, 0, 1);
		command->job = llmb_row_int(rows, 0, 2);
		command->verb = llmb_row_text(rows, 0, 3);
		command->codes = isnull ? NULL : DatumGetArrayTypePCopy(codes);
	}
	llmb_sql_done(rows);
	return command;
}

void
llmb_store_command_done(int64 id)
{
	llmb_sql_run("DELETE FROM llm_batch.command WHERE id = $1", "l", id);
}

/*
 * Which failed items retry() takes.  Without codes: those that have no answer
 * stored and whose failure another sending may mend.  Of a task only those that
 * are the newest of their rows: others have been asked about since.
 */
#define RETRY_FROM \
	"FROM llm_batch.result r " \
	"JOIN llm_batch.prompt p ON p.job_id = r.job_id AND p.ordinal = r.ordinal " \
	"WHERE r.job_id = $1 AND r.state IN ('failed', 'cancelled') " \
	"AND NOT EXISTS (SELECT FROM llm_batch.result n WHERE n.job_id = r.job_id AND n.ordinal = r.ordinal AND n.attempt > r.attempt) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.queue q WHERE q.job_id = r.job_id AND q.ordinal = r.ordinal) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.job t JOIN llm_batch.item m ON m.job_id = t.id AND m.ordinal = r.ordinal " \
	" WHERE t.id = r.job_id AND t.attachment_id IS NOT NULL AND NOT EXISTS (SELECT FROM llm_batch.task_item n " \
	"  WHERE n.attachment_id = t.attachment_id AND n.key = m.key AND n.job_id = t.id AND n.ordinal = m.ordinal)) " \
	"AND CASE WHEN $2 IS NULL " \
	" THEN r.state = 'failed' AND r.error_code NOT IN ('truncated', 'refused', 'stale', 'write_back') " \
	" ELSE r.error_code = ANY ($2) END "

/* Items that were given up before they were ever sent. */
#define UNSENT_FROM \
	"FROM llm_batch.item i " \
	"JOIN llm_batch.prompt p ON p.job_id = i.job_id AND p.ordinal = i.ordinal " \
	"JOIN llm_batch.job j ON j.id = i.job_id " \
	"WHERE i.job_id = $1 " \
	"AND NOT EXISTS (SELECT FROM llm_batch.result r WHERE r.job_id = i.job_id AND r.ordinal = i.ordinal) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.queue q WHERE q.job_id = i.job_id AND q.ordinal = i.ordinal) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.job t JOIN llm_batch.item m ON m.job_id = t.id AND m.ordinal = i.ordinal " \
	" WHERE t.id = i.job_id AND t.attachment_id IS NOT NULL AND NOT EXISTS (SELECT FROM llm_batch.task_item n " \
	"  WHERE n.attachment_id = t.attachment_id AND n.key = m.key AND n.job_id = t.id AND n.ordinal = m.ordinal)) " \
	"AND CASE WHEN $2 IS NULL THEN j.rest_code <> 'cancelled' ELSE COALESCE(j.rest_code, 'cancelled') = ANY ($2) END "

int64
llmb_store_count_retry(int64 job, ArrayType *codes)
{
	LlmbRows   *rows = llmb_sql("SELECT (SELECT count(*) " RETRY_FROM ") + (SELECT count(*) " UNSENT_FROM ")",
								"la", job, codes);
	int64		count = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return count;
}

/*
 * Queues them; the counters go by what the items were until now.  Who asks
 * for it asks here, so a restored job becomes one of this database.
 */
int
llmb_store_do_retry(int64 job, ArrayType *codes)
{
	LlmbRows   *rows;
	int			failed;
	int			unsent;
	int			cancelled;
	char	   *before = llmb_store_job_before(job);

	rows = llmb_sql("SELECT (SELECT count(*) " RETRY_FROM "AND r.state = 'cancelled')::int + "
					"(SELECT count(*) " UNSENT_FROM "AND COALESCE(j.rest_code, 'cancelled') = 'cancelled')::int",
					"la", job, codes);
	cancelled = llmb_row_int(rows, 0, 1);
	llmb_sql_done(rows);
	/* the unsent first: what is queued does not count as sent */
	unsent = llmb_sql_run("INSERT INTO llm_batch.queue (job_id, ordinal, attempt, not_before) "
						  "SELECT i.job_id, i.ordinal, 1, now() " UNSENT_FROM,
						  "la", job, codes);
	failed = llmb_sql_run("INSERT INTO llm_batch.queue (job_id, ordinal, attempt, not_before) "
						  "SELECT r.job_id, r.ordinal, r.attempt + 1, now() " RETRY_FROM,
						  "la", job, codes);
	if (failed + unsent > 0)
		llmb_sql_run("UPDATE llm_batch.job SET queued = queued + $2, failed = failed - $2 + $3, cancelled = cancelled - $3, "
					 " state = 'running', reason = NULL, finished_at = NULL, deadline_at = NULL, "
					 " system_identifier = $4, database_oid = $5 WHERE id = $1",
					 "liill", job, failed + unsent, cancelled,
					 (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	llmb_store_log_job(job, before);
	return failed + unsent;
}

#define APPLY_FROM \
	"FROM llm_batch.result r " \
	"JOIN llm_batch.answer a USING (job_id, ordinal, attempt) " \
	"WHERE r.job_id = $1 AND r.state = 'failed' AND a.answer IS NOT NULL " \
	"AND (r.error_code IN ('write_back', 'invalid_output') OR " \
	" r.error_code = 'stale' AND EXISTS (SELECT FROM llm_batch.job j WHERE j.id = r.job_id AND j.atomic)) " \
	"AND EXISTS (SELECT FROM llm_batch.job_def d JOIN llm_batch.job j ON j.id = d.job_id " \
	" WHERE d.job_id = r.job_id AND (cardinality(d.target_columns) > 0 OR j.atomic)) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.result n WHERE n.job_id = r.job_id AND n.ordinal = r.ordinal AND n.attempt > r.attempt) " \
	"AND NOT EXISTS (SELECT FROM llm_batch.queue q WHERE q.job_id = r.job_id AND q.ordinal = r.ordinal) "

int64
llmb_store_count_apply(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT count(*) " APPLY_FROM, "l", job);
	int64		count = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return count;
}

int
llmb_store_do_apply(int64 job)
{
	int			count = llmb_sql_run("INSERT INTO llm_batch.unapplied (job_id, ordinal, attempt, tries, not_before) "
									 "SELECT r.job_id, r.ordinal, r.attempt, 0, "
									 " CASE WHEN EXISTS (SELECT FROM llm_batch.job j WHERE j.id = $1 AND j.atomic) THEN 'infinity' ELSE now() END "
									 APPLY_FROM "ON CONFLICT DO NOTHING",
									 "l", job);
	char	   *before = llmb_store_job_before(job);

	if (count == 0)
		return 0;
	llmb_sql_run("UPDATE llm_batch.result r SET state = 'stored', error_code = NULL "
				 "FROM llm_batch.unapplied u "
				 "WHERE u.job_id = $1 AND (r.job_id, r.ordinal, r.attempt) = (u.job_id, u.ordinal, u.attempt) "
				 "AND r.state = 'failed'", "l", job);
	llmb_sql_run("UPDATE llm_batch.job SET failed = failed - $2, in_flight = in_flight + $2, "
				 " unapplied = unapplied + $2, state = 'running', reason = NULL, finished_at = NULL, "
				 " system_identifier = $3, database_oid = $4 WHERE id = $1",
				 "lill", job, count, (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	llmb_store_log_job(job, before);
	return count;
}

void
llmb_store_bar_writing(int64 job, const char *why)
{
	llmb_sql_run("UPDATE llm_batch.job SET writing_barred = $2 WHERE id = $1 AND writing_barred <> $2", "lb", job, (int) (why != NULL));
	if (why == NULL)
		return;
	llmb_sql_run("DELETE FROM llm_batch.command WHERE job_id = $1 AND verb = 'retry'", "l", job);
	llmb_store_event(job, 0, "barred", "%s: answers are stored, and not written", why);
}

bool
llmb_store_writing_is_barred(int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT writing_barred FROM llm_batch.job WHERE id = $1", "l", job);
	bool		barred = llmb_row_count(rows) > 0 && llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return barred;
}

/* ---- probes ---- */

int64
llmb_store_new_probe(const char *server, const char *role)
{
	LlmbRows   *rows = llmb_sql("INSERT INTO llm_batch.probe (server, role) VALUES ($1::name, $2::name) RETURNING id",
								"tt", server, role);
	int64		id = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return id;
}

List *
llmb_store_probes(void)
{
	LlmbRows   *rows;
	List	   *probes = NIL;

	/* who asked and left has no use for the answer any more */
	llmb_sql_run("DELETE FROM llm_batch.probe WHERE asked_at < now() - interval '1 hour'", "");
	rows = llmb_sql("SELECT id, server, role FROM llm_batch.probe WHERE ok IS NULL ORDER BY id LIMIT 10", "");
	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbProbe  *probe = palloc0(sizeof(LlmbProbe));

		probe->id = llmb_row_int(rows, i, 1);
		probe->server = llmb_row_text(rows, i, 2);
		probe->role = llmb_row_text(rows, i, 3);
		probes = lappend(probes, probe);
	}
	llmb_sql_done(rows);
	return probes;
}

void
llmb_store_probe_done(int64 id, bool ok, const char *message)
{
	llmb_sql_run("UPDATE llm_batch.probe SET ok = $2, message = $3 WHERE id = $1", "lbt", id, ok, message);
}

bool
llmb_store_take_probe(int64 id, bool *ok, char **message)
{
	LlmbRows   *rows = llmb_sql("DELETE FROM llm_batch.probe WHERE id = $1 AND ok IS NOT NULL RETURNING ok, message",
								"l", id);
	bool		done = llmb_row_count(rows) > 0;

	if (done)
	{
		*ok = llmb_row_bool(rows, 0, 1);
		*message = llmb_row_text(rows, 0, 2);
	}
	llmb_sql_done(rows);
	return done;
}

/* ---- events ---- */

int
llmb_store_count_events(int64 job, const char *kind)
{
	LlmbRows   *rows = llmb_sql("SELECT count(*) FROM llm_batch.event WHERE job_id = $1 AND kind = $2", "lt", job, kind);
	int			count = (int) llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return count;
}

void
llmb_store_event(int64 job, int64 batch, const char *kind, const char *format,...)
{
	StringInfoData message;

	initStringInfo(&message);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&message, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&message, needed);
	}
	/* of a job that is gone nothing is told, for nobody would ever remove it */
	llmb_sql_run("INSERT INTO llm_batch.event (job_id, batch_id, kind, message) "
				 "SELECT j.id, NULLIF($2, 0), $3, $4 FROM llm_batch.job j WHERE j.id = $1", "lltt", job, batch, kind, message.data);
	if (llmb_log_events == LLMB_LOG_ALL)
	{
		LlmbLogLine line;

		llmb_log_begin(&line, "event");
		llmb_log_int(&line, "job", job);
		if (batch != 0)
			llmb_log_int(&line, "batch", batch);
		llmb_log_text(&line, "kind", kind);
		llmb_log_text(&line, "message", message.data);
		llmb_log_end(&line);
	}
}
