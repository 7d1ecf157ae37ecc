/*-------------------------------------------------------------------------
 *
 * store_turnaround.c
 *		What batches have taken, by server, model and size.
 *
 * One row has the last turnarounds of its kind as they were: so few numbers
 * say more than their mean would, and forget by themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "sql.h"
#include "store_turnaround.h"

#define AS_TEXT(number)		CppAsString2(number)

void
llmb_store_expect(const char *server, const char *model, int64 items, LlmbExpectation *expected)
{
	/* classes of size are powers of four: their distance is one of logarithms */
	LlmbRows   *rows = llmb_sql("SELECT s.seconds, s.age - 1, t.same_model, t.gap "
								"FROM (SELECT seconds, model = $2 AS same_model, "
								"  round(abs(ln(GREATEST(items_from, 1) / $3::float8) / ln(4::float8)))::int AS gap "
								" FROM llm_batch.turnaround WHERE server = $1::name "
								" ORDER BY 2 DESC, 3 LIMIT 8) t "
								"CROSS JOIN LATERAL unnest(t.seconds) WITH ORDINALITY s(seconds, age) "
								"ORDER BY t.same_model DESC, t.gap, s.age LIMIT " AS_TEXT(LLMB_PEAKS),
								"tti", server, model, llmb_size_class(items));
	int			count = llmb_row_count(rows);
	LlmbPastBatch *past = palloc(sizeof(LlmbPastBatch) * Max(count, 1));

	for (int i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		seconds = llmb_row_datum(rows, i, 1, &isnull);

		past[i].seconds = isnull ? 0 : DatumGetFloat4(seconds);
		past[i].age = (int) llmb_row_int(rows, i, 2);
		past[i].same_model = llmb_row_bool(rows, i, 3);
		past[i].size_gap = (int) llmb_row_int(rows, i, 4);
	}
	llmb_sql_done(rows);
	llmb_cadence_expect(expected, past, count);
	pfree(past);
}

/* The newest comes first; the oldest falls off. */
#define PUSHED(column) \
	column " = (excluded." column " || t." column ")[1:" AS_TEXT(LLMB_TURNAROUNDS) "]"

void
llmb_store_learn_turnaround(const LlmbBatchRow *batch)
{
	llmb_sql_run("INSERT INTO llm_batch.turnaround AS t (server, model, items_from, batches, seconds, landing, learned_at) "
				 "SELECT b.server, j.model, $2, 1, "
				 " ARRAY[extract(epoch FROM b.provider_ended_at - b.submitted_at)::real], "
				 " ARRAY[extract(epoch FROM b.finalized_at - b.provider_ended_at)::real], b.finalized_at "
				 "FROM llm_batch.batch b JOIN llm_batch.job j ON j.id = b.job_id "
				 "WHERE b.id = $1 AND b.mode = 'batch' AND b.state = 'finalized' AND b.remote_end IN ('ended', 'expired') "
				 "AND b.cancelled_at IS NULL AND b.submitted_at <= b.provider_ended_at AND b.provider_ended_at <= b.finalized_at "
				 "ON CONFLICT (server, model, items_from) DO UPDATE SET "
				 " batches = t.batches + 1, learned_at = excluded.learned_at, " PUSHED("seconds") ", " PUSHED("landing"),
				 "li", batch->id, llmb_size_class(batch->item_count));
}
