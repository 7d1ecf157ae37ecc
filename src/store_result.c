/*-------------------------------------------------------------------------
 *
 * store_result.c
 *		What attempts brought: numbers in llm_batch.result, words in
 *		llm_batch.answer, what is to be sent again in llm_batch.queue, and
 *		what could not yet be written to its row in llm_batch.unapplied.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "bulk.h"
#include "sql.h"
#include "store.h"

static ArrayType *
ordinal_array(const LlmbResult *results, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int32GetDatum(results[i].ordinal);
	return construct_array(datums, count, INT4OID, sizeof(int32), true, TYPALIGN_INT);
}

void
llmb_store_keys(int64 job, LlmbResult *results, int count)
{
	LlmbRows   *rows;

	/*
	 * The array's order is the results' order.  OFFSET 0 keeps the subquery
	 * what it is, one index probe for each ordinal: a plan made while the
	 * table was small would else read all items of the job for each slice.
	 */
	rows = llmb_sql("SELECT u.n::int, i.key, i.prompt_hash "
					"FROM unnest($2::int[]) WITH ORDINALITY u(ordinal, n) "
					"CROSS JOIN LATERAL (SELECT t.key, t.prompt_hash FROM llm_batch.item t "
					" WHERE t.job_id = $1 AND t.ordinal = u.ordinal OFFSET 0) i",
					"lo", job, ordinal_array(results, count));
	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbResult *result = &results[llmb_row_int(rows, i, 1) - 1];

		result->key = llmb_row_text(rows, i, 2);
		result->prompt_hash = llmb_row_int(rows, i, 3);
	}
	llmb_sql_done(rows);
}

LlmbResult *
llmb_store_stale_items(int64 job, int above, int limit, int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT r.ordinal, i.key, i.prompt_hash FROM llm_batch.result r "
								"JOIN llm_batch.item i ON i.job_id = r.job_id AND i.ordinal = r.ordinal "
								"WHERE r.job_id = $1 AND r.ordinal > $2 AND r.state IN ('failed', 'cancelled') AND r.error_code = 'stale' "
								"ORDER BY r.ordinal LIMIT $3", "lii", job, above, limit);
	LlmbResult *results;

	*count = llmb_row_count(rows);
	results = palloc0(sizeof(LlmbResult) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		results[i].ordinal = llmb_row_int(rows, i, 1);
		results[i].key = llmb_row_text(rows, i, 2);
		results[i].prompt_hash = llmb_row_int(rows, i, 3);
	}
	llmb_sql_done(rows);
	return results;
}

void
llmb_store_renew_prompt(int64 job, int ordinal, const char *prompt, int64 hash)
{
	llmb_sql_run("UPDATE llm_batch.prompt SET prompt = $3 WHERE job_id = $1 AND ordinal = $2",
				 "lit", job, ordinal, prompt);
	llmb_sql_run("UPDATE llm_batch.item SET prompt_hash = $3 WHERE job_id = $1 AND ordinal = $2",
				 "lil", job, ordinal, hash);
	/* what is in the new one is found anew */
	llmb_sql_run("DELETE FROM llm_batch.pii_map WHERE job_id = $1 AND ordinal = $2", "li", job, ordinal);
}

/* ---- appending ---- */

static void
text_or_null(const char *text, Datum *value, bool *isnull)
{
	*isnull = text == NULL;
	*value = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
tokens_or_null(int64 tokens, Datum *value, bool *isnull)
{
	*isnull = tokens < 0 || tokens > PG_INT32_MAX;
	*value = *isnull ? (Datum) 0 : Int32GetDatum((int32) tokens);
}

static void
put_numbers(LlmbBulk *bulk, int64 job, const LlmbResult *r, TimestampTz now)
{
	Datum		values[18];
	bool		nulls[18] = {false};

	values[0] = Int64GetDatum(job);
	values[1] = Int64GetDatum(r->batch);
	values[2] = TimestampTzGetDatum(now);
	values[3] = Int32GetDatum(r->ordinal);
	values[4] = Int32GetDatum(r->attempt);
	tokens_or_null(r->input_tokens, &values[5], &nulls[5]);
	tokens_or_null(r->cached_tokens, &values[6], &nulls[6]);
	tokens_or_null(r->cache_write_tokens, &values[7], &nulls[7]);
	tokens_or_null(r->output_tokens, &values[8], &nulls[8]);
	tokens_or_null(r->reasoning_tokens, &values[9], &nulls[9]);
	values[10] = BoolGetDatum(r->applied);
	values[11] = BoolGetDatum(r->altered);
	text_or_null(r->state, &values[12], &nulls[12]);
	text_or_null(llmb_code_name(r->code), &values[13], &nulls[13]);
	text_or_null(r->finish_reason, &values[14], &nulls[14]);
	text_or_null(r->model, &values[15], &nulls[15]);
	text_or_null(r->request_id, &values[16], &nulls[16]);
	nulls[17] = r->cost == NULL;
	values[17] = r->cost ? NumericGetDatum(r->cost) : (Datum) 0;
	llmb_bulk_put(bulk, values, nulls);
}

static void
put_words(LlmbBulk *bulk, int64 job, const LlmbResult *r)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int64GetDatum(job);
	values[1] = Int32GetDatum(r->ordinal);
	values[2] = Int32GetDatum(r->attempt);
	text_or_null(r->answer, &values[3], &nulls[3]);
	text_or_null(r->error, &values[4], &nulls[4]);
	llmb_bulk_put(bulk, values, nulls);
}

static void
put_queue(LlmbBulk *bulk, int64 job, int ordinal, int attempt, TimestampTz when, bool realtime)
{
	Datum		values[5] = {Int64GetDatum(job), Int32GetDatum(attempt),
		Int32GetDatum(ordinal), TimestampTzGetDatum(when), BoolGetDatum(realtime)};
	bool		nulls[5] = {false};

	llmb_bulk_put(bulk, values, nulls);
}

/* For llm_batch.metrics: how these attempts failed. */
static void
tally_errors(int64 job, const LlmbResult *results, int count)
{
	int			times[LLMB_BUDGET + 1] = {0};	/* the last code */

	for (int i = 0; i < count; i++)
		times[results[i].code]++;
	/* that somebody cancelled it is no error */
	times[LLMB_CANCELLED_ITEM] = 0;
	for (int code = LLMB_OK + 1; code <= LLMB_BUDGET; code++)
		llmb_store_tally(job, "errors", llmb_code_name(code), times[code]);
}

void
llmb_store_put_results(int64 job, LlmbResult *results, int count)
{
	TimestampTz now = GetCurrentTimestamp();
	LlmbBulk   *bulk = llmb_bulk_begin("result");
	int			retried = 0;

	for (int i = 0; i < count; i++)
	{
		put_numbers(bulk, job, &results[i], now);
		retried += strcmp(results[i].state, "retried") == 0;
	}
	llmb_bulk_end(bulk);
	tally_errors(job, results, count);

	bulk = llmb_bulk_begin("answer");
	for (int i = 0; i < count; i++)
	{
		if (results[i].answer || results[i].error)
			put_words(bulk, job, &results[i]);
	}
	llmb_bulk_end(bulk);
	if (retried == 0)
		return;

	bulk = llmb_bulk_begin("queue");
	for (int i = 0; i < count; i++)
	{
		if (strcmp(results[i].state, "retried") == 0)
			put_queue(bulk, job, results[i].ordinal, results[i].attempt + 1,
					  TimestampTzPlusMilliseconds(now, results[i].retry_after_ms), results[i].resend_realtime);
	}
	llmb_bulk_end(bulk);
}

void
llmb_store_requeue(const LlmbBatchRow *batch, int64 delay_ms)
{
	TimestampTz when = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	LlmbBulk   *bulk = llmb_bulk_begin("queue");

	for (int i = 0; i < batch->range_count; i++)
	{
		const LlmbRange *range = &batch->ranges[i];

		for (int ordinal = range->lower; ordinal < range->upper; ordinal++)
			put_queue(bulk, batch->job, ordinal, batch->attempt, when, batch->realtime);
	}
	llmb_bulk_end(bulk);
}

int
llmb_store_times(int64 job, int ordinal, LlmbCode code)
{
	LlmbRows   *rows = llmb_sql("SELECT count(*) FROM llm_batch.result WHERE job_id = $1 AND ordinal = $2 AND error_code = $3",
								"lit", job, ordinal, llmb_code_name(code));
	int			times = (int) llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return times;
}

/* ---- answers that wait for their rows ---- */

static int64
due_job(void)
{
	LlmbRows   *rows = llmb_sql("SELECT job_id FROM llm_batch.unapplied "
								"WHERE not_before <= clock_timestamp() ORDER BY not_before LIMIT 1", "");
	int64		job = llmb_row_count(rows) ? llmb_row_int(rows, 0, 1) : 0;

	llmb_sql_done(rows);
	return job;
}

LlmbResult *
llmb_store_due_answers(int64 *job, int limit, int *count)
{
	LlmbRows   *rows;
	LlmbResult *results;

	*count = 0;
	*job = due_job();
	if (*job == 0)
		return NULL;
	rows = llmb_sql("SELECT u.ordinal, u.attempt, i.key, i.prompt_hash, a.answer, u.tries "
					"FROM llm_batch.unapplied u JOIN llm_batch.item i USING (job_id, ordinal) "
					"JOIN llm_batch.answer a USING (job_id, ordinal, attempt) "
					"WHERE u.job_id = $1 AND u.not_before <= clock_timestamp() ORDER BY u.ordinal LIMIT $2",
					"li", *job, limit);
	*count = llmb_row_count(rows);
	results = palloc0(sizeof(LlmbResult) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		results[i].ordinal = llmb_row_int(rows, i, 1);
		results[i].attempt = llmb_row_int(rows, i, 2);
		results[i].key = llmb_row_text(rows, i, 3);
		results[i].prompt_hash = llmb_row_int(rows, i, 4);
		results[i].answer = llmb_row_text(rows, i, 5);
		results[i].retry_after_ms = llmb_row_int(rows, i, 6);
	}
	llmb_sql_done(rows);
	return results;
}

TimestampTz
llmb_store_next_due_answer(void)
{
	LlmbRows   *rows = llmb_sql("SELECT not_before FROM llm_batch.unapplied WHERE not_before < 'infinity' ORDER BY not_before LIMIT 1", "");
	TimestampTz when = llmb_row_count(rows) ? llmb_row_time(rows, 0, 1) : 0;

	llmb_sql_done(rows);
	return when;
}

void
llmb_store_answer_decided(int64 job, const LlmbResult *r)
{
	llmb_sql_run("DELETE FROM llm_batch.unapplied WHERE job_id = $1 AND ordinal = $2", "li", job, r->ordinal);
	llmb_sql_run("UPDATE llm_batch.result SET state = $4, error_code = $5, applied = $6 "
				 "WHERE job_id = $1 AND ordinal = $2 AND attempt = $3",
				 "liittb", job, r->ordinal, r->attempt, r->state, llmb_code_name(r->code), r->applied);
	llmb_sql_run("UPDATE llm_batch.answer SET error = $4 WHERE job_id = $1 AND ordinal = $2 AND attempt = $3",
				 "liit", job, r->ordinal, r->attempt, r->error);
	if (r->code == LLMB_OK && llmb_keep_prompts == LLMB_KEEP_JOB)
		llmb_sql_run("DELETE FROM llm_batch.pii_map WHERE job_id = $1 AND ordinal = $2", "li", job, r->ordinal);
	tally_errors(job, r, 1);
}

void
llmb_store_answer_later(int64 job, int ordinal, int64 delay_ms)
{
	llmb_sql_run("UPDATE llm_batch.unapplied SET tries = tries + 1, "
				 " not_before = clock_timestamp() + $3 * interval '1 millisecond' "
				 "WHERE job_id = $1 AND ordinal = $2", "lil", job, ordinal, delay_ms);
}

void
llmb_store_answer_wait(int64 job, const LlmbResult *results, int count, int64 delay_ms)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(results[i].state, "stored") == 0)
			llmb_sql_run("INSERT INTO llm_batch.unapplied (job_id, ordinal, attempt, tries, not_before) "
						 "VALUES ($1, $2, $3, 1, clock_timestamp() + $4 * interval '1 millisecond')",
						 "liil", job, results[i].ordinal, results[i].attempt, delay_ms);
	}
}

/* ---- answers of atomic jobs ---- */

void
llmb_store_hold_answers(int64 job, const LlmbResult *results, int count)
{
	LlmbBulk   *bulk = llmb_bulk_begin("unapplied");

	for (int i = 0; i < count; i++)
	{
		Datum		values[5] = {Int64GetDatum(job), Int32GetDatum(results[i].ordinal),
			Int32GetDatum(results[i].attempt), Int32GetDatum(0), TimestampTzGetDatum(DT_NOEND)};
		bool		nulls[5] = {false};

		if (strcmp(results[i].state, "stored") == 0)
			llmb_bulk_put(bulk, values, nulls);
	}
	llmb_bulk_end(bulk);
}

LlmbResult *
llmb_store_held_answers(int64 job, int above, int limit, int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT u.ordinal, u.attempt, i.key, i.prompt_hash, a.answer "
								"FROM llm_batch.unapplied u JOIN llm_batch.item i USING (job_id, ordinal) "
								"JOIN llm_batch.answer a USING (job_id, ordinal, attempt) "
								"WHERE u.job_id = $1 AND u.ordinal > $2 ORDER BY u.ordinal LIMIT $3", "lii", job, above, limit);
	LlmbResult *results;

	*count = llmb_row_count(rows);
	results = palloc0(sizeof(LlmbResult) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		results[i].ordinal = llmb_row_int(rows, i, 1);
		results[i].attempt = llmb_row_int(rows, i, 2);
		results[i].key = llmb_row_text(rows, i, 3);
		results[i].prompt_hash = llmb_row_int(rows, i, 4);
		results[i].answer = llmb_row_text(rows, i, 5);
	}
	llmb_sql_done(rows);
	return results;
}

/* Decides all of them at once. */
static int
decide_held(int64 job, const char *state, LlmbCode code, bool applied, const char *error)
{
	llmb_sql_run("UPDATE llm_batch.answer a SET error = $2 FROM llm_batch.unapplied u "
				 "WHERE u.job_id = $1 AND a.job_id = $1 AND a.ordinal = u.ordinal AND a.attempt = u.attempt "
				 "AND a.error IS DISTINCT FROM $2", "lt", job, error);
	llmb_sql_run("UPDATE llm_batch.result r SET state = $2, error_code = $3, applied = $4 FROM llm_batch.unapplied u "
				 "WHERE u.job_id = $1 AND r.job_id = $1 AND r.ordinal = u.ordinal AND r.attempt = u.attempt",
				 "lttb", job, state, llmb_code_name(code), (int) applied);
	return llmb_sql_run("DELETE FROM llm_batch.unapplied WHERE job_id = $1", "l", job);
}

int
llmb_store_release_held(int64 job, bool applied)
{
	if (llmb_keep_prompts == LLMB_KEEP_JOB)
	{
		llmb_sql_run("DELETE FROM llm_batch.pii_map WHERE job_id = $1", "l", job);
		llmb_sql_run("DELETE FROM llm_batch.prompt WHERE job_id = $1", "l", job);
	}
	return decide_held(job, "succeeded", LLMB_OK, applied, NULL);
}

int
llmb_store_drop_held(int64 job, const char *error)
{
	return decide_held(job, "failed", LLMB_WRITE_BACK, false, error);
}

void
llmb_store_blame(int64 job, int ordinal, LlmbCode code, const char *error)
{
	llmb_sql_run("UPDATE llm_batch.result r SET error_code = $3 WHERE job_id = $1 AND ordinal = $2 "
				 "AND attempt = (SELECT max(m.attempt) FROM llm_batch.result m WHERE m.job_id = $1 AND m.ordinal = $2)",
				 "lit", job, ordinal, llmb_code_name(code));
	llmb_sql_run("UPDATE llm_batch.answer a SET error = $3 WHERE job_id = $1 AND ordinal = $2 "
				 "AND attempt = (SELECT max(m.attempt) FROM llm_batch.result m WHERE m.job_id = $1 AND m.ordinal = $2)",
				 "lit", job, ordinal, error);
}
