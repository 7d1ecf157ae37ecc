/*-------------------------------------------------------------------------
 *
 * store_batch.c
 *		Prompts on their way out, and the batches they travel in.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/builtins.h"

#include "log.h"
#include "pii_sql.h"
#include "sql.h"
#include "store.h"

/* ---- prompts ---- */

static void
free_text(char *text)
{
	if (text)
		pfree(text);
}

/* with_maps: behind the texts stand the columns of llm_batch.pii_map */
static void
hand_out(LlmbRows *rows, bool with_maps, LlmbPromptTaker take, void *arg)
{
	bool		more = true;
	int			count;

	while (more && (count = llmb_cursor_fetch(rows)) > 0)
	{
		for (int i = 0; more && i < count; i++)
		{
			LlmbPrompt	prompt = {0};

			prompt.ordinal = llmb_row_int(rows, i, 1);
			prompt.prompt = llmb_row_text(rows, i, 2);
			prompt.system = llmb_row_text(rows, i, 3);
			prompt.messages = llmb_row_text(rows, i, 4);
			prompt.params = llmb_row_text(rows, i, 5);
			if (with_maps)
				prompt.map = llmb_row_map(rows, i, 6);
			more = take(&prompt, arg);
			llmb_map_free(prompt.map);
			free_text(prompt.prompt);
			free_text(prompt.system);
			free_text(prompt.messages);
			free_text(prompt.params);
		}
	}
	llmb_cursor_done(rows);
}

void
llmb_store_new_prompts(int64 job, int after, int limit, LlmbPromptTaker take, void *arg)
{
	hand_out(llmb_cursor("SELECT ordinal, prompt, system, messages, params FROM llm_batch.prompt "
						 "WHERE job_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3", "lii", job, after, limit),
			 false, take, arg);
}

void
llmb_store_queued_prompts(int64 job, int attempt, bool realtime, int limit,
						  LlmbPromptTaker take, void *arg)
{
	hand_out(llmb_cursor("SELECT q.ordinal, p.prompt, p.system, p.messages, p.params, m.places, m.placeholders, m.originals "
						 "FROM llm_batch.queue q JOIN llm_batch.prompt p USING (job_id, ordinal) "
						 "LEFT JOIN LATERAL (SELECT t.places, t.placeholders, t.originals FROM llm_batch.pii_map t "
						 " WHERE t.job_id = q.job_id AND t.ordinal = q.ordinal OFFSET 0) m ON true "
						 "WHERE q.job_id = $1 AND q.attempt = $2 AND q.realtime = $3 AND q.not_before <= clock_timestamp() "
						 "ORDER BY q.ordinal LIMIT $4", "libi", job, attempt, (int) realtime, limit),
			 true, take, arg);
}

void
llmb_store_batch_prompts(int64 batch, LlmbPromptTaker take, void *arg)
{
	hand_out(llmb_cursor("SELECT p.ordinal, p.prompt, p.system, p.messages, p.params, m.places, m.placeholders, m.originals "
						 "FROM llm_batch.batch b CROSS JOIN unnest(b.items) r "
						 "CROSS JOIN LATERAL (SELECT t.ordinal, t.prompt, t.system, t.messages, t.params FROM llm_batch.prompt t "
						 " WHERE t.job_id = b.job_id AND t.ordinal >= lower(r) AND t.ordinal < upper(r) ORDER BY t.ordinal OFFSET 0) p "
						 "LEFT JOIN LATERAL (SELECT t.places, t.placeholders, t.originals FROM llm_batch.pii_map t "
						 " WHERE t.job_id = b.job_id AND t.ordinal = p.ordinal OFFSET 0) m ON true "
						 "WHERE b.id = $1", "l", batch),
			 true, take, arg);
}

/* Range by range: a plan for all of them at once may begin at the wrong end. */
void
llmb_store_purge_prompts(const LlmbBatchRow *batch, bool all, bool masked)
{
	for (int i = 0; i < batch->range_count; i++)
	{
		const LlmbRange *range = &batch->ranges[i];

		if (all)
			llmb_sql_run("DELETE FROM llm_batch.prompt WHERE job_id = $1 AND ordinal >= $2 AND ordinal < $3",
						 "lii", batch->job, range->lower, range->upper);
		if (all && masked)
			llmb_sql_run("DELETE FROM llm_batch.pii_map WHERE job_id = $1 AND ordinal >= $2 AND ordinal < $3",
						 "lii", batch->job, range->lower, range->upper);
		if (all)
			continue;
		llmb_sql_run("DELETE FROM llm_batch.prompt p WHERE job_id = $1 AND ordinal >= $2 AND ordinal < $3 "
					 "AND (SELECT s.state FROM llm_batch.result s WHERE s.job_id = p.job_id AND s.ordinal = p.ordinal "
					 " AND s.attempt = $4) = 'succeeded'",
					 "liii", batch->job, range->lower, range->upper, batch->attempt);
		if (masked)
			llmb_sql_run("DELETE FROM llm_batch.pii_map p WHERE job_id = $1 AND ordinal >= $2 AND ordinal < $3 "
						 "AND (SELECT s.state FROM llm_batch.result s WHERE s.job_id = p.job_id AND s.ordinal = p.ordinal "
						 " AND s.attempt = $4) = 'succeeded'",
						 "liii", batch->job, range->lower, range->upper, batch->attempt);
	}
}

/* ---- batches ---- */

/* A line for the log; was: NULL for a new batch. */
static void
log_batch(const LlmbBatchRow *b, const char *was)
{
	LlmbLogLine line;

	if (llmb_log_events == LLMB_LOG_OFF)
		return;
	llmb_log_begin(&line, "batch");
	llmb_log_int(&line, "job", b->job);
	llmb_log_int(&line, "batch", b->id);
	llmb_log_text(&line, "owner", b->owner);
	llmb_log_text(&line, "server", b->server);
	llmb_log_text(&line, "model", b->model);
	llmb_log_text(&line, "mode", b->realtime ? "realtime" : "batch");
	llmb_log_int(&line, "attempt", b->attempt);
	llmb_log_text(&line, "was", was);
	llmb_log_text(&line, "state", llmb_batch_state_name(b->state));
	llmb_log_text(&line, "reason", b->reason);
	llmb_log_text(&line, "error_code", b->error_code);
	llmb_log_text(&line, "remote_id", b->remote_id);
	llmb_log_text(&line, "remote_end", b->remote_end);
	llmb_log_int(&line, "items", b->item_count);
	llmb_log_int(&line, "done", b->done);
	llmb_log_int(&line, "failed", b->failed);
	llmb_log_end(&line);
}

static char *
ranges_text(const LlmbBatchRow *batch)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	for (int i = 0; i < batch->range_count; i++)
		appendStringInfo(&text, "%s[%d,%d)", i ? "," : "",
						 batch->ranges[i].lower, batch->ranges[i].upper);
	appendStringInfoChar(&text, '}');
	return text.data;
}

void
llmb_store_add_batch(LlmbBatchRow *batch)
{
	char	   *items = ranges_text(batch);
	char	   *before = llmb_store_job_before(batch->job);
	LlmbRows   *rows;

	rows = llmb_sql("INSERT INTO llm_batch.batch (job_id, server, attempt, state, token, item_count, file_bytes, items, "
					" mode, forecast_tokens, forecast_cost, text_bytes) "
					"VALUES ($1, $2::name, $3, 'planned', $4, $5, $6, $7::int4multirange, $8, $9, $10::numeric, $11) "
					"RETURNING id, created_at",
					"ltitilttltl", batch->job, batch->server, batch->attempt, batch->token,
					batch->item_count, batch->file_bytes, items,
					batch->realtime ? "realtime" : "batch", batch->forecast_tokens, batch->forecast_cost,
					batch->text_bytes);
	batch->id = llmb_row_int(rows, 0, 1);
	batch->created_at = llmb_row_time(rows, 0, 2);
	batch->state = LLMB_PLANNED;
	llmb_sql_done(rows);

	for (int i = 0; i < batch->range_count; i++)
		llmb_sql_run("DELETE FROM llm_batch.queue WHERE job_id = $1 AND attempt = $2 AND ordinal >= $3 AND ordinal < $4",
					 "liii", batch->job, batch->attempt, batch->ranges[i].lower, batch->ranges[i].upper);
	llmb_sql_run("UPDATE llm_batch.job SET queued = queued - $2, in_flight = in_flight + $2, "
				 " planned_to = GREATEST(planned_to, $3), state = CASE WHEN state = 'waiting' THEN 'running' ELSE state END, "
				 " reason = CASE WHEN starts_with(reason, 'verifying: ') OR state = 'paused' THEN reason END, "
				 " started_at = COALESCE(started_at, clock_timestamp()) WHERE id = $1",
				 "lii", batch->job, batch->item_count,
				 batch->ranges[batch->range_count - 1].upper - 1);
	llmb_store_log_job(batch->job, before);
	log_batch(batch, NULL);
	llmb_store_event(batch->job, batch->id, "planned", "%s: items %d, bytes %lld, attempt %d",
					 batch->realtime ? "planned to be sent in real time" : "batch planned", batch->item_count, (long long) batch->file_bytes, batch->attempt);
}

void
llmb_store_fail_unplanned(int64 job, int ordinal, int attempt, LlmbCode code, char *error)
{
	LlmbDelta	delta = {.queued = -1, .failed = 1};
	LlmbResult	result = {.ordinal = ordinal, .attempt = attempt, .state = "failed", .code = code, .error = error};

	result.input_tokens = result.output_tokens = result.cached_tokens = -1;
	result.cache_write_tokens = result.long_write_tokens = result.reasoning_tokens = -1;
	llmb_store_put_results(job, &result, 1);
	llmb_sql_run("DELETE FROM llm_batch.queue WHERE job_id = $1 AND ordinal = $2", "li", job, ordinal);
	llmb_sql_run("UPDATE llm_batch.job SET planned_to = GREATEST(planned_to, $2) WHERE id = $1", "li", job, ordinal);
	llmb_store_count(job, &delta);
}

void
llmb_store_end_unsent(const LlmbBatchRow *batch, LlmbCode code)
{
	llmb_sql_run("INSERT INTO llm_batch.result (job_id, batch_id, completed_at, ordinal, attempt, applied, altered, state, error_code, cost) "
				 "SELECT b.job_id, b.id, clock_timestamp(), o, b.attempt, false, false, "
				 " CASE WHEN $2 = 'cancelled' THEN 'cancelled' ELSE 'failed' END, $2, 0 "
				 "FROM llm_batch.batch b CROSS JOIN unnest(b.items) r CROSS JOIN generate_series(lower(r), upper(r) - 1) o "
				 "WHERE b.id = $1", "lt", batch->id, llmb_code_name(code));
	if (code != LLMB_CANCELLED_ITEM)
		llmb_store_tally(batch->job, "errors", llmb_code_name(code), batch->item_count);
}

static void
read_ranges(LlmbBatchRow *batch)
{
	LlmbRows   *rows = llmb_sql("SELECT lower(r), upper(r) FROM llm_batch.batch b CROSS JOIN unnest(b.items) r "
								"WHERE b.id = $1 ORDER BY 1", "l", batch->id);
	int			position = 0;

	batch->range_count = llmb_row_count(rows);
	batch->ranges = palloc(sizeof(LlmbRange) * Max(batch->range_count, 1));
	for (int i = 0; i < batch->range_count; i++)
	{
		LlmbRange  *range = &batch->ranges[i];

		range->lower = llmb_row_int(rows, i, 1);
		range->upper = llmb_row_int(rows, i, 2);
		range->position = position;
		position += range->upper - range->lower;
	}
	llmb_sql_done(rows);
}

static LlmbBatchRow *
read_batch(LlmbRows *rows, int row)
{
	LlmbBatchRow *batch = palloc0(sizeof(LlmbBatchRow));
	char	   *state = llmb_row_text(rows, row, 5);

	batch->id = llmb_row_int(rows, row, 1);
	batch->job = llmb_row_int(rows, row, 2);
	batch->server = llmb_row_text(rows, row, 3);
	batch->attempt = llmb_row_int(rows, row, 4);
	if (!llmb_batch_state_parse(state, &batch->state))
		elog(ERROR, "batch " INT64_FORMAT " has an unknown state", batch->id);
	batch->reason = llmb_row_text(rows, row, 6);
	batch->token = llmb_row_text(rows, row, 7);
	batch->creates = llmb_row_int(rows, row, 8);
	batch->item_count = llmb_row_int(rows, row, 9);
	batch->file_bytes = llmb_row_int(rows, row, 10);
	batch->done = llmb_row_int(rows, row, 11);
	batch->failed = llmb_row_int(rows, row, 12);
	batch->tries = llmb_row_int(rows, row, 13);
	batch->remote_input = llmb_row_text(rows, row, 14);
	batch->remote_id = llmb_row_text(rows, row, 15);
	batch->remote_output = llmb_row_text(rows, row, 16);
	batch->remote_errors = llmb_row_text(rows, row, 17);
	batch->remote_end = llmb_row_text(rows, row, 18);
	batch->created_at = llmb_row_time(rows, row, 19);
	batch->intent_at = llmb_row_time(rows, row, 20);
	batch->submitted_at = llmb_row_time(rows, row, 21);
	batch->cancelled_at = llmb_row_time(rows, row, 22);
	batch->ended_at = llmb_row_time(rows, row, 23);
	batch->error_code = llmb_row_text(rows, row, 24);
	batch->owner = llmb_row_text(rows, row, 25);
	batch->realtime = llmb_row_bool(rows, row, 26);
	batch->marked = llmb_row_int(rows, row, 27);
	batch->forecast_tokens = llmb_row_int(rows, row, 28);
	batch->forecast_cost = llmb_row_text(rows, row, 29);
	batch->model = llmb_row_text(rows, row, 30);
	batch->text_bytes = llmb_row_int(rows, row, 31);
	batch->stray_at = llmb_row_time(rows, row, 32);
	batch->route = llmb_row_text(rows, row, 33);
	batch->provider_ended_at = llmb_row_time(rows, row, 34);
	read_ranges(batch);
	return batch;
}

#define BATCH_QUERY \
	"SELECT id, job_id, server, attempt, state, reason, token, creates, item_count, file_bytes, " \
	" done, failed, tries, remote_input, remote_id, remote_output, remote_errors, remote_end, " \
	" created_at, intent_at, submitted_at, cancelled_at, ended_at, error_code, " \
	" (SELECT j.owner FROM llm_batch.job j WHERE j.id = job_id), " \
	" mode = 'realtime', marked, forecast_tokens, forecast_cost::text, " \
	" (SELECT j.model FROM llm_batch.job j WHERE j.id = job_id), text_bytes, stray_at, route, provider_ended_at " \
	"FROM llm_batch.batch "

List *
llmb_store_live_batches(void)
{
	LlmbRows   *rows = llmb_sql(BATCH_QUERY "WHERE state NOT IN ('finalized', 'failed', 'cancelled') ORDER BY id", "");
	List	   *batches = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
		batches = lappend(batches, read_batch(rows, i));
	llmb_sql_done(rows);
	return batches;
}

LlmbBatchRow *
llmb_store_batch(int64 id)
{
	LlmbRows   *rows = llmb_sql(BATCH_QUERY "WHERE id = $1", "l", id);
	LlmbBatchRow *batch = llmb_row_count(rows) ? read_batch(rows, 0) : NULL;

	llmb_sql_done(rows);
	return batch;
}

bool
llmb_store_knows_remote(const char *server, const char *remote_id)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.batch WHERE remote_id = $2 AND server = $1::name)",
								"tt", server, remote_id);
	bool		known = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return known;
}

void
llmb_store_save_batch(const LlmbBatchRow *b, LlmbBatchState was)
{
	int			saved;

	saved = llmb_sql_run("UPDATE llm_batch.batch SET state = $3, reason = $4, creates = $5, done = $6, failed = $7, tries = $8, "
						 " remote_input = $9, remote_id = $10, remote_output = $11, remote_errors = $12, remote_end = $13, "
						 " intent_at = $14, submitted_at = $15, cancelled_at = $16, ended_at = $17, error_code = $18, marked = $19, "
						 " stray_at = $20, route = $21, "
						 " provider_ended_at = $22, "
						 " finalized_at = CASE WHEN $3 IN ('finalized', 'failed', 'cancelled') THEN clock_timestamp() END "
						 "WHERE id = $1 AND state = $2",
						 "lttt" "iiii" "ttttt" "zzzzti" "ztz",
						 b->id, llmb_batch_state_name(was), llmb_batch_state_name(b->state), b->reason,
						 b->creates, b->done, b->failed, b->tries,
						 b->remote_input, b->remote_id, b->remote_output, b->remote_errors, b->remote_end,
						 b->intent_at, b->submitted_at, b->cancelled_at, b->ended_at, b->error_code, b->marked,
						 b->stray_at, b->route, b->provider_ended_at);
	if (saved != 1)
		elog(ERROR, "batch " INT64_FORMAT " is not in state %s any more", b->id, llmb_batch_state_name(was));
	if (b->state != was)
		log_batch(b, llmb_batch_state_name(was));
}

/* ---- request files that are to be deleted at providers ---- */

bool
llmb_store_leave(const LlmbBatchRow *batch, const char *remote_file, int64 delay_ms)
{
	return llmb_sql_run("INSERT INTO llm_batch.leftover (job_id, batch_id, server, owner, remote_file, not_before) "
				 "VALUES ($1, $2, $3::name, $4::name, $5, clock_timestamp() + $6 * interval '1 ms') "
				 "ON CONFLICT DO NOTHING",
				 "lltttl", batch->job, batch->id, batch->server, batch->owner, remote_file, delay_ms) > 0;
}

List *
llmb_store_leftovers(void)
{
	LlmbRows   *rows = llmb_sql("SELECT DISTINCT ON (server, owner) batch_id, server, owner, remote_file, tries "
								"FROM (SELECT * FROM llm_batch.leftover WHERE not_before <= clock_timestamp() "
								" ORDER BY not_before LIMIT 200) due "
								"ORDER BY server, owner, not_before", "");
	List	   *leftovers = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbLeftover *leftover = palloc0(sizeof(LlmbLeftover));

		leftover->batch = llmb_row_int(rows, i, 1);
		leftover->server = llmb_row_text(rows, i, 2);
		leftover->owner = llmb_row_text(rows, i, 3);
		leftover->remote_file = llmb_row_text(rows, i, 4);
		leftover->tries = (int) llmb_row_int(rows, i, 5);
		leftovers = lappend(leftovers, leftover);
	}
	llmb_sql_done(rows);
	return leftovers;
}

TimestampTz
llmb_store_next_leftover(void)
{
	LlmbRows   *rows = llmb_sql("SELECT min(not_before) FROM llm_batch.leftover", "");
	TimestampTz next = llmb_row_time(rows, 0, 1);

	llmb_sql_done(rows);
	return next;
}

void
llmb_store_leftover_done(const LlmbLeftover *leftover)
{
	llmb_sql_run("DELETE FROM llm_batch.leftover WHERE batch_id = $1 AND remote_file IS NOT DISTINCT FROM $2",
				 "lt", leftover->batch, leftover->remote_file);
}

void
llmb_store_leftover_wait(const LlmbLeftover *leftover, int64 delay_ms)
{
	llmb_sql_run("UPDATE llm_batch.leftover SET not_before = clock_timestamp() + $3 * interval '1 ms' "
				 "WHERE server = $1::name AND owner = $2::name AND not_before < clock_timestamp() + $3 * interval '1 ms'",
				 "ttl", leftover->server, leftover->owner, delay_ms);
}

/* What the provider does not do for one it will not do for the others now. */
void
llmb_store_leftover_later(const LlmbLeftover *leftover, int64 delay_ms)
{
	llmb_sql_run("UPDATE llm_batch.leftover SET tries = tries + 1 "
				 "WHERE batch_id = $1 AND remote_file IS NOT DISTINCT FROM $2",
				 "lt", leftover->batch, leftover->remote_file);
	llmb_store_leftover_wait(leftover, delay_ms);
}

int
llmb_range_position(const LlmbRange *ranges, int count, int ordinal)
{
	int			low = 0;
	int			high = count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (ordinal < ranges[middle].lower)
			high = middle;
		else if (ordinal >= ranges[middle].upper)
			low = middle + 1;
		else
			return ranges[middle].position + ordinal - ranges[middle].lower;
	}
	return -1;
}

int
llmb_store_seen(const LlmbBatchRow *batch, bool *seen)
{
	LlmbRows   *rows = llmb_cursor("SELECT s.ordinal FROM llm_batch.batch b CROSS JOIN unnest(b.items) r "
								   "CROSS JOIN LATERAL (SELECT t.ordinal FROM llm_batch.result t WHERE t.job_id = b.job_id "
								   " AND t.ordinal >= lower(r) AND t.ordinal < upper(r) AND t.attempt = b.attempt OFFSET 0) s "
								   "WHERE b.id = $1", "l", batch->id);
	int			known = 0;
	int			count;

	while ((count = llmb_cursor_fetch(rows)) > 0)
	{
		for (int i = 0; i < count; i++)
		{
			int			position = llmb_range_position(batch->ranges, batch->range_count,
													   (int) llmb_row_int(rows, i, 1));

			if (position >= 0 && !seen[position])
			{
				seen[position] = true;
				known++;
			}
		}
	}
	llmb_cursor_done(rows);
	return known;
}

int
llmb_store_refused_items(int64 job, int *most)
{
	LlmbRows   *rows = llmb_sql("SELECT COALESCE(min(item_count), 0), COALESCE(max(item_count), 0) FROM llm_batch.batch "
								"WHERE job_id = $1 AND state = 'failed' AND error_code = 'invalid_request' AND item_count > $2",
								"li", job, LLMB_HALVE_ABOVE);
	int			least = llmb_row_int(rows, 0, 1);

	*most = llmb_row_int(rows, 0, 2);
	llmb_sql_done(rows);
	return least;
}
