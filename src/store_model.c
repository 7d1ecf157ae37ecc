/*-------------------------------------------------------------------------
 *
 * store_model.c
 *		What is known of models, what usage has taught, and what was spent.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "model_name.h"
#include "sql.h"
#include "store_model.h"

static ArrayType *
text_array(char **texts, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * count);

	for (int i = 0; i < count; i++)
		datums[i] = CStringGetTextDatum(texts[i]);
	return construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT);
}

/* ---- llm_batch.model ---- */

/*
 * The row of the user's (shipped is false) and that of the extension's that
 * hold for api $1, host $2, the model's forms $3 and the day of $4.  A row
 * for the host goes before one for all, a name before a pattern, and the
 * model's own name before what was made of it.
 */
#define MODEL_ROWS \
	"FROM (SELECT DISTINCT ON (m.shipped) m.* " \
	" FROM llm_batch.model m " \
	" CROSS JOIN LATERAL (SELECT min(f.n) AS rank " \
	"  FROM unnest($3::text[]) WITH ORDINALITY f(form, n) WHERE f.form LIKE m.name) f " \
	" WHERE f.rank IS NOT NULL AND m.api = $1 AND (m.host IS NULL OR $2 LIKE m.host) " \
	" AND m.valid_from <= ($4 AT TIME ZONE 'UTC')::date " \
	" ORDER BY m.shipped, m.host IS NULL, position('%' IN m.name) > 0, f.rank, " \
	"  length(m.name) DESC, m.valid_from DESC) b"

/* The user's value, or the extension's where he gave none. */
#define FACT(column) \
	"(array_agg(" column " ORDER BY shipped) FILTER (WHERE " column " IS NOT NULL))[1]"

void
llmb_store_model_facts(const LlmbServer *server, const char *name, LlmbModelFacts *facts)
{
	int			count;
	char	  **forms = llmb_model_forms(name, false, &count);
	LlmbRows   *rows = llmb_sql("SELECT " FACT("class") ", " FACT("sampling") ", "
								FACT("array_to_string(efforts, ' ')") ", " FACT("default_effort") ", "
								FACT("json_schema::int") ", " FACT("context_window") ", " FACT("max_input") ", "
								FACT("max_output") ", " FACT("bytes_per_token") "::text, "
								FACT("batch") " IS FALSE " MODEL_ROWS,
								"ttaz", server->api, llmb_url_host(server->base_url),
								text_array(forms, count), GetCurrentTimestamp());
	char	   *bytes_per_token = llmb_row_text(rows, 0, 9);
	bool		isnull;

	facts->model_class = llmb_row_text(rows, 0, 1);
	facts->sampling = llmb_row_text(rows, 0, 2);
	facts->efforts = llmb_row_text(rows, 0, 3);
	facts->default_effort = llmb_row_text(rows, 0, 4);
	(void) llmb_row_datum(rows, 0, 5, &isnull);
	facts->json_schema = isnull ? -1 : (int) llmb_row_int(rows, 0, 5);
	facts->context_window = llmb_row_int(rows, 0, 6);
	facts->max_input = llmb_row_int(rows, 0, 7);
	facts->max_output = llmb_row_int(rows, 0, 8);
	facts->no_batch = llmb_row_bool(rows, 0, 10);
	facts->bytes_per_token = bytes_per_token ? strtod(bytes_per_token, NULL) : 0;
	llmb_sql_done(rows);
}

/* The five prices are one row's: yours, where it has one for input. */
#define PRICE(column) \
	"(array_agg(" column " ORDER BY shipped) FILTER (WHERE input IS NOT NULL))[1]"

static Numeric
row_numeric(LlmbRows *rows, int column)
{
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, 0, column, &isnull);

	return isnull ? NULL : DatumGetNumericCopy(datum);
}

void
llmb_store_prices(const LlmbServer *server, const char *model, TimestampTz when, LlmbPriceRow *row)
{
	int			count;
	char	  **forms = llmb_model_forms(model, true, &count);
	LlmbRows   *rows = llmb_sql("SELECT " PRICE("input") ", " PRICE("cached") ", " PRICE("cache_write") ", "
								PRICE("cache_write_long") ", " PRICE("output") ", "
								FACT("batch_input") ", " FACT("batch_cached") ", " FACT("batch_cache_write") ", "
								FACT("batch_output") ", " FACT("long_input") ", " FACT("long_output") ", "
								FACT("long_context") " " MODEL_ROWS,
								"ttaz", server->api, llmb_url_host(server->base_url),
								text_array(forms, count), when);

	for (int i = 0; i < (int) lengthof(row->price); i++)
		row->price[i] = row_numeric(rows, i + 1);
	for (int i = 0; i < (int) lengthof(row->batch); i++)
		row->batch[i] = row_numeric(rows, i + 6);
	row->long_input = row_numeric(rows, 10);
	row->long_output = row_numeric(rows, 11);
	row->long_context = llmb_row_int(rows, 0, 12);
	llmb_sql_done(rows);
}

/*
 * Where the table has rows for the server's host, they are its models; all
 * others are had at the provider's own address.  What the user has added for
 * any host may be anywhere.
 */
char **
llmb_store_priced_models(const LlmbServer *server, bool embedding, int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT DISTINCT m.name FROM llm_batch.model m "
								"WHERE m.api = $1 AND m.input IS NOT NULL AND position('%' IN m.name) = 0 "
								"AND m.valid_from <= ($5 AT TIME ZONE 'UTC')::date "
								"AND (m.class IS NOT DISTINCT FROM 'embedding') = $4 "
								"AND CASE WHEN m.host IS NOT NULL THEN $2 LIKE m.host "
								" ELSE NOT m.shipped OR $3 END "
								"ORDER BY m.name",
								"ttbbz", server->api, llmb_url_host(server->base_url),
								server->base_url_is_default, embedding, GetCurrentTimestamp());
	char	  **names;

	*count = llmb_row_count(rows);
	names = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		names[i] = llmb_row_text(rows, i, 1);
	llmb_sql_done(rows);
	return names;
}

/* ---- llm_batch.calibration ---- */

void
llmb_store_calibration(const char *server, const char *model, LlmbCalibration *calibration)
{
	LlmbRows   *rows = llmb_sql("SELECT text_bytes, input_tokens, answers, output_tokens, "
								" CASE WHEN enqueued_at > now() - interval '1 day' THEN max_enqueued_tokens END, "
								" CASE WHEN bytes_at > now() - interval '1 day' THEN max_batch_bytes END "
								"FROM llm_batch.calibration WHERE server = $1::name AND model = $2",
								"tt", server, model);

	memset(calibration, 0, sizeof(*calibration));
	if (llmb_row_count(rows) > 0)
	{
		calibration->text_bytes = llmb_row_int(rows, 0, 1);
		calibration->input_tokens = llmb_row_int(rows, 0, 2);
		calibration->answers = llmb_row_int(rows, 0, 3);
		calibration->output_tokens = llmb_row_int(rows, 0, 4);
		calibration->max_enqueued_tokens = llmb_row_int(rows, 0, 5);
		calibration->max_batch_bytes = llmb_row_int(rows, 0, 6);
	}
	llmb_sql_done(rows);
}

/*
 * What is old counts for half once there are 64 MB of requests, so that the
 * figures follow when other texts are sent.
 */
#define LEARNED(column) \
	column " = c." column " / CASE WHEN c.text_bytes > 67108864 THEN 2 ELSE 1 END + excluded." column

void
llmb_store_learn_usage(const char *server, const char *model, int64 bytes,
					   int64 input_tokens, int64 answers, int64 output_tokens)
{
	llmb_sql_run("INSERT INTO llm_batch.calibration AS c (server, model, text_bytes, input_tokens, answers, output_tokens) "
				 "VALUES ($1::name, $2, $3, $4, $5, $6) "
				 "ON CONFLICT (server, model) DO UPDATE SET "
				 LEARNED("text_bytes") ", " LEARNED("input_tokens") ", "
				 LEARNED("answers") ", " LEARNED("output_tokens"),
				 "ttllll", server, model, bytes, input_tokens, answers, output_tokens);
}

void
llmb_store_learn_enqueued(const char *server, const char *model, int64 tokens, bool guess)
{
	llmb_sql_run("INSERT INTO llm_batch.calibration AS c (server, model, max_enqueued_tokens, enqueued_at, enqueued_guess) "
				 "VALUES ($1::name, $2, $3, now(), $4) "
				 "ON CONFLICT (server, model) DO UPDATE SET max_enqueued_tokens = excluded.max_enqueued_tokens, "
				 " enqueued_at = excluded.enqueued_at, enqueued_guess = excluded.enqueued_guess",
				 "ttlb", server, model, tokens, guess);
}

/*
 * A refusal may have had another reason, or the queue was full of somebody
 * else's: without this, one refusal of a small batch would keep all of the
 * next day's small.
 */
void
llmb_store_grow_enqueued(const char *server, const char *model, int64 tokens)
{
	llmb_sql_run("UPDATE llm_batch.calibration SET max_enqueued_tokens = max_enqueued_tokens * 2 "
				 "WHERE server = $1::name AND model = $2 AND enqueued_guess AND max_enqueued_tokens <= 2 * $3",
				 "ttl", server, model, tokens);
}

void
llmb_store_learn_bytes(const char *server, const char *model, int64 bytes)
{
	llmb_sql_run("INSERT INTO llm_batch.calibration AS c (server, model, max_batch_bytes, bytes_at) "
				 "VALUES ($1::name, $2, $3, now()) "
				 "ON CONFLICT (server, model) DO UPDATE SET "
				 " max_batch_bytes = excluded.max_batch_bytes, bytes_at = excluded.bytes_at",
				 "ttl", server, model, bytes);
}

/* ---- what a job's items are like ---- */

char *
llmb_store_usual_cost(int64 job, int64 count)
{
	LlmbRows   *rows = llmb_sql("SELECT trim_scale(round(avg(cost) * $2, 6))::text FROM llm_batch.result "
								"WHERE job_id = $1 AND input_tokens > 0 AND cost IS NOT NULL",
								"ll", job, count);
	char	   *cost = llmb_row_text(rows, 0, 1);

	llmb_sql_done(rows);
	return cost;
}

int64
llmb_store_prompt_bytes(int64 job, int64 count)
{
	LlmbRows   *rows = llmb_sql("SELECT (avg(COALESCE(octet_length(p.prompt), 0) + COALESCE(octet_length(p.messages), 0) "
								" + COALESCE(octet_length(p.system), octet_length(d.system), 0)) * $2)::bigint "
								"FROM llm_batch.job_def d JOIN llm_batch.prompt p ON p.job_id = d.job_id "
								"WHERE d.job_id = $1",
								"ll", job, count);
	int64		bytes = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return bytes;
}

/* ---- llm_batch.spending ---- */

#define ADDED(column) \
	column " = CASE WHEN excluded." column " IS NULL THEN s." column \
	" ELSE trim_scale(COALESCE(s." column ", 0) + excluded." column ") END"
#define COUNTED(column)  column " = s." column " + excluded." column

void
llmb_store_spend(int64 job, bool realtime, TimestampTz when, const LlmbSpending *spending)
{
	llmb_sql_run("INSERT INTO llm_batch.spending AS s (day, job_id, mode, owner, server, model, labels, "
				 " succeeded, attempts, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, "
				 " cost_unknown, cost, real_time_cost, saved_batch, saved_prefix) "
				 "SELECT ($3 AT TIME ZONE 'UTC')::date, j.id, CASE WHEN $2 THEN 'realtime' ELSE 'batch' END, "
				 " j.owner, j.server, j.model, j.labels, $15, $4, $5, $6, $7, $8, $9, $10, "
				 " $11::numeric, $12::numeric, $13::numeric, $14::numeric "
				 "FROM llm_batch.job j WHERE j.id = $1 "
				 "ON CONFLICT (day, job_id, mode) DO UPDATE SET "
				 COUNTED("attempts") ", " COUNTED("succeeded") ", " COUNTED("input_tokens") ", " COUNTED("cached_tokens") ", "
				 COUNTED("cache_write_tokens") ", " COUNTED("output_tokens") ", "
				 COUNTED("reasoning_tokens") ", " COUNTED("cost_unknown") ", "
				 ADDED("cost") ", " ADDED("real_time_cost") ", " ADDED("saved_batch") ", " ADDED("saved_prefix"),
				 "lbzlllllllttttl", job, realtime, when, spending->attempts, spending->input_tokens,
				 spending->cached_tokens, spending->cache_write_tokens, spending->output_tokens,
				 spending->reasoning_tokens, spending->cost_unknown, spending->cost,
				 spending->real_time_cost, spending->saved_batch, spending->saved_prefix, spending->succeeded);
}
