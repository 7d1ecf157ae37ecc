/*-------------------------------------------------------------------------
 *
 * submit.c
 *		submit, submit_query, submit_prompts, preview and estimate.
 *
 * One way leads from arguments to items: ask (the arguments, checked) ->
 * a query of the caller's, run as the caller -> prompts, rendered and
 * checked -> a sink, which either appends items to the store or prints what
 * would be sent.  Nothing is enqueued when anything is wrong, for all of it
 * happens in the caller's transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "bulk.h"
#include "compat.h"
#include "estimate.h"
#include "model.h"
#include "options.h"
#include "request.h"
#include "schema.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "store.h"

PG_FUNCTION_INFO_V1(llmb_submit);
PG_FUNCTION_INFO_V1(llmb_submit_query);
PG_FUNCTION_INFO_V1(llmb_submit_prompts);
PG_FUNCTION_INFO_V1(llmb_preview);
PG_FUNCTION_INFO_V1(llmb_estimate);

#define FETCH_ROWS 500

#define MAX_MODEL_BYTES			256
#define MAX_LABELS_BYTES		(16 * 1024)
/* an entry of a btree is at most 2704 bytes */
#define MAX_REQUEST_KEY_BYTES	1024

/*
 * How many bytes more a token may have than expected before a prompt is
 * refused for its length.  Ordinary text stays well within (English 4 to 5
 * bytes a token, Russian 5 to 6, code 3 to 4); what is between the
 * expectation and this goes out, for the provider to decide, because a wrong
 * refusal here stops a whole job and one by the provider is free.
 */
#define CONTEXT_MARGIN	2.0

/* Arguments that all entry points share, from position "tail" on. */
enum
{
	ARG_SERVER, ARG_SYSTEM, ARG_PARAMS, ARG_SCHEMA, ARG_MODE, ARG_PRIORITY, ARG_ATOMIC,
	ARG_CACHE, ARG_PACK, ARG_MASK_PII, ARG_MAX_COST, ARG_DEADLINE, ARG_AFTER,
	ARG_REQUEST_KEY, ARG_LABELS, TAIL_ARGS
};

/* One prompt on its way to a sink. */
typedef struct Line
{
	char	   *key;
	char	   *prompt;			/* database encoding, len bytes */
	size_t		len;
	char	   *system;
	char	   *messages;
	char	   *params;
} Line;

typedef struct Ask
{
	LlmbServer *server;
	LlmbModel  *model;
	LlmbNewJob	job;
	LlmbSource *source;			/* NULL: submit_query, submit_prompts */
	char	   *filter;
	int64		limit;			/* -1: none */
	size_t		max_prompt;		/* bytes */
	LlmbRoom	room;			/* of the model */
	bool		any_length;		/* the model's context does not matter */
	size_t		overhead;		/* bytes of a request line with an empty prompt */

	/* the sink */
	void		(*sink) (struct Ask *ask, const Line *line);
	int			count;			/* lines so far */
	int64		job_id;
	LlmbBulk   *items;
	LlmbBulk   *prompts;
	ReturnSetInfo *preview;
	LlmbEstimate estimate;
} Ask;

/* ---- arguments ---- */

/* Requests are UTF-8; a SQL_ASCII database may hold anything. */
static void
check_encoding(const char *text, const char *what, const char *key)
{
	if (text == NULL || GetDatabaseEncoding() != PG_SQL_ASCII ||
		pg_verify_mbstr(PG_UTF8, text, strlen(text), true))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
			 key ? errmsg("the %s for key %s is not valid UTF-8", what, key) :
			 errmsg("argument \"%s\" is not valid UTF-8", what),
			 errhint("Correct the text, or leave the row out with filter.")));
}

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
jsonb_arg(FunctionCallInfo fcinfo, int n, const char *name, const char *absent)
{
	Jsonb	   *jsonb;
	char	   *text;

	if (PG_ARGISNULL(n))
		return absent ? pstrdup(absent) : NULL;
	jsonb = PG_GETARG_JSONB_P(n);
	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object", name),
				 errhint("For instance: %s => '{}'.", name)));
	text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	check_encoding(text, name, NULL);
	return text;
}

static void
required(const char *value, const char *name)
{
	if (value == NULL || value[strspn(value, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(value ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be %s", name, value ? "empty" : "NULL"),
				 errhint("Pass %s => '...'.", name)));
}

/* What is shown in every line of a view must not be a document. */
static void
check_length(const char *value, const char *name, size_t max)
{
	if (value && strlen(value) > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument \"%s\" is longer than %zu bytes", name, max),
				 errhint("Shorten it.")));
}

static void
not_yet(bool asked, const char *name, const char *neutral)
{
	if (asked)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("argument \"%s\" is not supported yet", name),
				 errhint("Leave it out, or pass %s => %s.", name, neutral)));
}

/* What is promised for later must not look as if it worked now. */
static void
check_later_arguments(FunctionCallInfo fcinfo, int tail)
{
	char	   *mode = text_arg(fcinfo, tail + ARG_MODE);

	if (mode == NULL || (strcmp(mode, "auto") != 0 && strcmp(mode, "batch") != 0 && strcmp(mode, "realtime") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode"),
				 errhint("mode is one of auto, batch, realtime.")));
	not_yet(!PG_ARGISNULL(tail + ARG_ATOMIC) && PG_GETARG_BOOL(tail + ARG_ATOMIC), "atomic", "false");
	not_yet(!PG_ARGISNULL(tail + ARG_PACK) && PG_GETARG_INT32(tail + ARG_PACK) != 1, "pack", "1");
	not_yet(!PG_ARGISNULL(tail + ARG_MASK_PII) && PG_GETARG_BOOL(tail + ARG_MASK_PII), "mask_pii", "false");
	not_yet(!PG_ARGISNULL(tail + ARG_AFTER), "after", "NULL");
}

/* Hash of all arguments, so that a request_key stands for one request. */
static int64
arguments_hash(FunctionCallInfo fcinfo, int tail)
{
	StringInfoData all;

	int			level = NewGUCNestLevel();

	llmb_pin_rendering(NULL);
	initStringInfo(&all);
	for (int i = 0; i < tail + TAIL_ARGS; i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i);
		Oid			output;
		bool		varlena;

		appendStringInfo(&all, "%d:", i);
		if (PG_ARGISNULL(i))
			continue;
		getTypeOutputInfo(type, &output, &varlena);
		if (type == REGCLASSOID)
			/* by name, whatever the search_path; an oid would not survive a dump */
			appendStringInfo(&all, "=%s.%s", get_namespace_name(get_rel_namespace(PG_GETARG_OID(i))),
							 get_rel_name(PG_GETARG_OID(i)));
		else
			appendStringInfo(&all, "=%s", OidOutputFunctionCall(output, PG_GETARG_DATUM(i)));
	}
	AtEOXact_GUC(false, level);
	return llmb_text_hash(all.data, all.len);
}

static TimestampTz
deadline_arg(FunctionCallInfo fcinfo, int n)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz deadline;

	if (PG_ARGISNULL(n))
		return 0;
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
													   PG_GETARG_DATUM(n)));
	if (deadline <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deadline must lie ahead"),
				 errhint("It is an interval from now on, for instance deadline => '6 hours'.")));
	return deadline;
}

static void
check_params(const Ask *ask, const char *params)
{
	const char *reason;
	LlmbJson   *json = llmb_json_of_text(params, &reason);
	char	   *refused;

	if (json == NULL || json->type != LLMB_JSON_OBJECT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("params must be a JSON object"),
				 errhint("For instance: params => '{\"max_tokens\": 200}'.")));
	refused = ask->server->provider->check_params(ask->model, &ask->server->dialect, json);
	if (refused)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("params cannot be sent to model \"%s\"", ask->job.model),
				 errdetail("%s", refused),
				 errhint("Correct or leave out that parameter.")));
}

static void
check_mode(const Ask *ask)
{
	if (strcmp(ask->job.mode, "batch") == 0 && !ask->server->batch)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("server \"%s\" has no batch API", ask->server->name),
				 errdetail("Its option \"batch\" is off."),
				 errhint("Use mode => 'realtime', or leave mode out.")));
	if (strcmp(ask->job.mode, "batch") == 0 && ask->model->no_batch)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("model \"%s\" is not taken in batches", ask->job.model),
				 errdetail("llm_batch.model says so."),
				 errhint("Use mode => 'realtime', or leave mode out.")));
}

/* What the job may cost, as a number; it can be kept only where prices are known. */
static char *
max_cost_arg(FunctionCallInfo fcinfo, int n, const Ask *ask)
{
	LlmbForecast forecast = {.input_tokens = 1000, .output_tokens = 1000};
	char	   *text;

	if (PG_ARGISNULL(n))
		return NULL;
	text = DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(n)));
	/* "NaN", "Infinity" and negative ones */
	if (text[0] < '0' || text[0] > '9')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_cost must be a number of USD, 0 or more"),
				 errhint("For instance: max_cost => 2.50.")));
	if (llmb_forecast_cost(ask->server, ask->job.model, &forecast, ask->server->batch) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("max_cost cannot be kept: the price of model \"%s\" is not known", ask->job.model),
				 errhint("Add a row with its price to llm_batch.model, or leave max_cost out.")));
	return text;
}

/* An embedding is of one text. */
static void
no_embedding(const Ask *ask, const char *given, const char *name)
{
	if (given && llmb_is_embedding(ask->server, ask->model))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model \"%s\" makes embeddings and takes no %s", ask->job.model, name),
				 errhint("Leave %s out.", name)));
}

/* function: what writes, for the message in a read-only session; else NULL */
static Ask *
read_arguments(FunctionCallInfo fcinfo, const char *function, int model, int tail)
{
	Ask		   *ask = palloc0(sizeof(Ask));
	LlmbNewJob *job = &ask->job;

	if (function)
		llmb_require_writable(function);
	check_later_arguments(fcinfo, tail);
	job->model = text_arg(fcinfo, model);
	required(job->model, "model");
	check_encoding(job->model, "model", NULL);
	check_length(job->model, "model", MAX_MODEL_BYTES);
	job->mode = text_arg(fcinfo, tail + ARG_MODE);
	job->def.system = text_arg(fcinfo, tail + ARG_SYSTEM);
	check_encoding(job->def.system, "system", NULL);
	job->def.params = jsonb_arg(fcinfo, tail + ARG_PARAMS, "params", "{}");
	job->def.schema = jsonb_arg(fcinfo, tail + ARG_SCHEMA, "schema", NULL);
	job->def.time_zone = pstrdup(pg_get_timezone_name(session_timezone));
	job->labels = jsonb_arg(fcinfo, tail + ARG_LABELS, "labels", "{}");
	job->priority = PG_ARGISNULL(tail + ARG_PRIORITY) ? 0 : PG_GETARG_INT32(tail + ARG_PRIORITY);
	job->deadline = deadline_arg(fcinfo, tail + ARG_DEADLINE);
	job->request_key = text_arg(fcinfo, tail + ARG_REQUEST_KEY);
	check_length(job->labels, "labels", MAX_LABELS_BYTES);
	check_length(job->request_key, "request_key", MAX_REQUEST_KEY_BYTES);
	job->request_hash = arguments_hash(fcinfo, tail);
	ask->limit = -1;
	ask->server = llmb_choose_server(PG_ARGISNULL(tail + ARG_SERVER) ? NULL :
									 NameStr(*PG_GETARG_NAME(tail + ARG_SERVER)), job->model);
	job->server = ask->server->name;
	ask->model = llmb_model(ask->server, job->model);
	no_embedding(ask, job->def.system, "system");
	no_embedding(ask, job->def.schema, "schema");
	llmb_check_schema(job->def.schema);
	check_mode(ask);
	job->max_cost = max_cost_arg(fcinfo, tail + ARG_MAX_COST, ask);
	check_params(ask, job->def.params);
	ask->max_prompt = (size_t) llmb_max_prompt_kb * 1024;
	llmb_model_room(ask->server, job->model, &ask->room);
	return ask;
}

/* ---- prompts ---- */

static size_t
text_len(const char *text)
{
	return text ? strlen(text) : 0;
}

/* What a request line holds beside the prompt; measured once. */
static size_t
request_overhead(Ask *ask)
{
	LlmbPrompt	prompt = {.ordinal = 1, .prompt = ""};
	StringInfoData line;

	if (ask->overhead > 0)
		return ask->overhead;
	initStringInfo(&line);
	llmb_put_request(&line, ask->server, ask->model, &ask->job.def, &prompt,
					 "0123456789abcdef-1", false);
	ask->overhead = line.len;
	pfree(line.data);
	return ask->overhead;
}

/* A prompt that cannot fit the model's context is refused before it is paid. */
static void
check_context(const Ask *ask, const Line *line)
{
	const LlmbRoom *room = &ask->room;
	size_t		bytes = line->len + text_len(line->messages) +
		text_len(line->system ? line->system : line->messages ? NULL : ask->job.def.system);
	double		most = room->bytes_per_token * CONTEXT_MARGIN;

	if (room->max_input == 0 || ask->any_length || bytes / most <= room->max_input)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the prompt for key %s cannot fit the context of model \"%s\"", line->key, ask->job.model),
			 errdetail("It has %zu bytes: about %.0f tokens, and hardly less than %.0f. The model takes " INT64_FORMAT ".",
					   bytes, bytes / room->bytes_per_token, bytes / most, room->max_input),
			 errhint("Shorten the text (left(body, %.0f)), leave the row out with filter, or choose a model with a larger context.",
					 room->max_input * room->bytes_per_token)));
}

static void
check_prompt(Ask *ask, const Line *line)
{
	size_t		whole;
	size_t		longest;

	if (line->messages == NULL &&
		(line->prompt == NULL || line->prompt[strspn(line->prompt, " \t\r\n")] == '\0'))
		ereport(ERROR,
				(errcode(line->prompt ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the prompt for key %s is %s", line->key, line->prompt ? "empty" : "NULL"),
				 ask->source ? errhint("Leave such rows out, for instance with filter => 'body IS NOT NULL'.") :
				 errhint("Leave it out.")));
	whole = line->len + text_len(line->system) + text_len(line->messages) + text_len(line->params) + request_overhead(ask);
	longest = Max(Max(line->len, text_len(line->system)), Max(text_len(line->messages), ask->overhead));
	if (longest > ask->max_prompt || whole > (size_t) ask->server->max_batch_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the prompt for key %s is too long: %zu bytes, %zu with all that goes with it",
						line->key, line->len, whole),
				 errdetail("llm_batch.max_prompt_size is %zu bytes, max_batch_bytes of server \"%s\" is " INT64_FORMAT ".",
						   ask->max_prompt, ask->server->name, ask->server->max_batch_bytes),
				 errhint("Shorten the text (left(body, 100000)), leave the row out with filter, or raise the limit.")));
	check_encoding(line->prompt, "prompt", line->key);
	check_encoding(line->system, "system prompt", line->key);
	check_context(ask, line);
}

static void
take_line(Ask *ask, const Line *line)
{
	check_prompt(ask, line);
	if (ask->count >= LLMB_MAX_ITEMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a job cannot have more than %d items", LLMB_MAX_ITEMS),
				 errhint("Submit several jobs, each with its own filter.")));
	ask->count++;
	ask->sink(ask, line);
}

/* ---- the sink that enqueues ---- */

static Datum
text_datum(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
enqueue_line(Ask *ask, const Line *line)
{
	Datum		item[4];
	bool		item_nulls[4] = {false};
	Datum		prompt[6];
	bool		prompt_nulls[6] = {false};

	item[0] = prompt[0] = Int64GetDatum(ask->job_id);
	item[1] = Int64GetDatum(line->prompt ? llmb_text_hash(line->prompt, line->len) : 0);
	item[2] = prompt[1] = Int32GetDatum(ask->count);
	item[3] = text_datum(line->key, &item_nulls[3]);
	prompt_nulls[2] = line->prompt == NULL;
	prompt[2] = line->prompt ? PointerGetDatum(cstring_to_text_with_len(line->prompt, line->len)) : (Datum) 0;
	prompt[3] = text_datum(line->system, &prompt_nulls[3]);
	prompt[4] = text_datum(line->messages, &prompt_nulls[4]);
	prompt[5] = text_datum(line->params, &prompt_nulls[5]);
	llmb_bulk_put(ask->items, item, item_nulls);
	llmb_bulk_put(ask->prompts, prompt, prompt_nulls);
}

/* The job of the same request_key, or 0; other arguments are an error. */
static int64
same_request(const Ask *ask)
{
	int64		hash = 0;
	int64		job;

	if (ask->job.request_key == NULL)
		return 0;
	job = llmb_store_find_request(GetUserNameFromId(GetUserId(), false), ask->job.request_key, &hash);
	if (job != 0 && hash != ask->job.request_hash)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("request_key \"%s\" belongs to job " INT64_FORMAT ", which had other arguments",
						ask->job.request_key, job),
				 errhint("Use another request_key for another request.")));
	return job;
}

/*
 * Opens the job; false when the same request has one already.  Two sessions
 * with one request_key meet at the unique index: the second waits there for
 * the first.
 */
static bool
open_job(Ask *ask)
{
	if ((ask->job_id = same_request(ask)) != 0)
		return false;
	ask->job_id = llmb_store_new_job(&ask->job, GetUserNameFromId(GetUserId(), false));
	if (ask->job_id == 0)
	{
		ask->job_id = same_request(ask);
		if (ask->job_id == 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("another session has just used request_key \"%s\"", ask->job.request_key),
					 errhint("Run the statement again.")));
		return false;
	}
	ask->items = llmb_bulk_begin("item");
	ask->prompts = llmb_bulk_begin("prompt");
	ask->sink = enqueue_line;
	return true;
}

static Datum
close_job(Ask *ask)
{
	llmb_bulk_end(ask->items);
	llmb_bulk_end(ask->prompts);
	llmb_store_job_filled(ask->job_id, ask->count);
	if (ask->count == 0)
	{
		ereport(NOTICE, (errmsg("job " INT64_FORMAT " has no items", ask->job_id)));
		(void) llmb_store_finish_job(ask->job_id);
	}
	else
		llmb_wake_at_commit();
	return Int64GetDatum(ask->job_id);
}

/* ---- rows of the caller's query ---- */

/* How a row becomes a line; allocates in the current context. */
typedef void (*RowReader) (Ask *ask, HeapTuple tuple, TupleDesc desc, void *arg, Line *line);

static void
read_source_row(Ask *ask, HeapTuple tuple, TupleDesc desc, void *arg, Line *line)
{
	LlmbRenderer *renderer = arg;
	Datum		values[FUNC_MAX_ARGS];
	bool		nulls[FUNC_MAX_ARGS];
	StringInfoData prompt;

	(void) ask;
	line->key = SPI_getvalue(tuple, desc, 1);
	if (line->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the key of a row is NULL"),
				 errhint("Leave such rows out with filter, or name another key.")));
	for (int i = 1; i < desc->natts; i++)
		values[i - 1] = SPI_getbinval(tuple, desc, i + 1, &nulls[i - 1]);
	initStringInfo(&prompt);
	llmb_render(renderer, &prompt, values, nulls);
	line->prompt = prompt.data;
	line->len = prompt.len;
}

static void
check_messages(const Line *line)
{
	const char *reason;
	LlmbJson   *messages;

	check_encoding(line->messages, "messages", line->key);
	messages = llmb_json_of_text(line->messages, &reason);

	if (messages == NULL || messages->type != LLMB_JSON_ARRAY || messages->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the messages for key %s are not a JSON array with at least one element", line->key),
				 errhint("For instance: [{\"role\": \"user\", \"content\": \"...\"}].")));
}

static void
read_query_row(Ask *ask, HeapTuple tuple, TupleDesc desc, void *arg, Line *line)
{
	const int  *columns = arg;	/* key, prompt, system, messages, params; 0: none */

	line->key = SPI_getvalue(tuple, desc, columns[0]);
	line->prompt = columns[1] ? SPI_getvalue(tuple, desc, columns[1]) : NULL;
	line->len = line->prompt ? strlen(line->prompt) : 0;
	line->system = columns[2] ? SPI_getvalue(tuple, desc, columns[2]) : NULL;
	line->messages = columns[3] ? SPI_getvalue(tuple, desc, columns[3]) : NULL;
	line->params = columns[4] ? SPI_getvalue(tuple, desc, columns[4]) : NULL;
	if (line->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("row %d of the query has no key", ask->count + 1),
				 errhint("Let the query yield a key for each row.")));
	no_embedding(ask, line->system, "system");
	no_embedding(ask, line->messages, "messages");
	check_encoding(line->params, "params", line->key);
	if (line->params)
		check_params(ask, line->params);
	if (line->messages)
		check_messages(line);
}

static void
read_rows(Ask *ask, Portal portal, RowReader reader, void *arg)
{
	MemoryContext per_row = AllocSetContextCreate(CurrentMemoryContext, "llm_batch submit row",
												  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		SPITupleTable *table;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		table = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < table->numvals; i++)
		{
			Line		line = {0};
			MemoryContext old;

			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(per_row);
			old = MemoryContextSwitchTo(per_row);
			reader(ask, table->vals[i], table->tupdesc, arg, &line);
			take_line(ask, &line);
			MemoryContextSwitchTo(old);
		}
		SPI_freetuptable(table);
	}
	MemoryContextDelete(per_row);
}

static Portal
open_query(const char *sql)
{
	SPIPlanPtr	plan;
	Portal		portal;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = SPI_prepare_cursor(sql, 0, NULL, CURSOR_OPT_NO_SCROLL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	if (portal == NULL)
		elog(ERROR, "SPI_cursor_open failed: %s", SPI_result_code_string(SPI_result));
	/* {{column|json}} calls casts of the user's, and a function can say CLOSE ALL */
	PinPortal(portal);
	return portal;
}

static void
close_query(Portal portal)
{
	UnpinPortal(portal);
	SPI_cursor_close(portal);
	SPI_finish();
}

/* Runs the source's query with the settings that rendering depends on. */
static void
read_source(Ask *ask)
{
	LlmbRenderer *renderer = llmb_renderer(ask->source->template, ask->source->template_types);
	int			level = NewGUCNestLevel();
	Portal		portal;

	llmb_pin_rendering(NULL);
	portal = open_query(llmb_source_query(ask->source, ask->filter, ask->limit));
	read_rows(ask, portal, read_source_row, renderer);
	close_query(portal);
	AtEOXact_GUC(false, level);
}

static int
query_column(TupleDesc desc, const char *name, bool json)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			type = TupleDescAttr(desc, i)->atttypid;

		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) != 0)
			continue;
		if (json && type != JSONBOID && type != JSONOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of the query must be of type jsonb", name),
					 errhint("Cast it: %s::jsonb AS %s.", name, name)));
		return i + 1;
	}
	return 0;
}

static void
read_query(Ask *ask, const char *query)
{
	Portal		portal = open_query(query);
	TupleDesc	desc = portal->tupDesc;
	int			columns[5];

	columns[0] = query_column(desc, "key", false);
	columns[1] = query_column(desc, "prompt", false);
	columns[2] = query_column(desc, "system", false);
	columns[3] = query_column(desc, "messages", true);
	columns[4] = query_column(desc, "params", true);
	if (columns[0] == 0 || (columns[1] == 0 && columns[3] == 0))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("the query yields no column \"%s\"", columns[0] == 0 ? "key" : "prompt"),
				 errhint("It must yield key and prompt (or messages), optionally system and params: SELECT id AS key, 'Summarise: ' || body AS prompt FROM ...")));
	read_rows(ask, portal, read_query_row, columns);
	close_query(portal);
}

/* ---- entry points ---- */

/* The source's own arguments: 0 source, 1 prompt, 3 target, 4 key, 5 filter, 6 limit. */
static Ask *
ask_for_source(FunctionCallInfo fcinfo, const char *function)
{
	char	   *prompt = text_arg(fcinfo, 1);
	LlmbJobDef *def;
	Ask		   *ask;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("source must not be NULL"),
				 errhint("Pass a table: source => 'articles'.")));
	required(prompt, "prompt");
	ask = read_arguments(fcinfo, function, 2, 7);
	ask->source = llmb_source_resolve(PG_GETARG_OID(0), prompt, text_arg(fcinfo, 4), text_arg(fcinfo, 3));
	ask->filter = text_arg(fcinfo, 5);
	if (ask->filter)
		llmb_check_condition(ask->filter);
	if (!PG_ARGISNULL(6))
		ask->limit = PG_GETARG_INT64(6);
	if (!PG_ARGISNULL(6) && ask->limit < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit must not be negative"),
				 errhint("Leave it out to take all rows.")));
	def = &ask->job.def;
	def->prompt = prompt;
	def->source_schema = ask->source->schema;
	def->source_table = ask->source->table;
	def->key_columns = ask->source->keys;
	def->key_count = ask->source->key_count;
	def->target_columns = ask->source->targets;
	def->target_count = ask->source->target_count;
	def->schema = llmb_target_schema(ask->source, def->schema, llmb_is_embedding(ask->server, ask->model));
	def->targets_hash = llmb_targets_hash(ask->source->relid, ask->source->targets, ask->source->target_count);
	return ask;
}

/*
 * llm_batch.submit(...) returns bigint, the job's id
 */
Datum
llmb_submit(PG_FUNCTION_ARGS)
{
	Ask		   *ask = ask_for_source(fcinfo, "llm_batch.submit()");

	if (open_job(ask))
	{
		read_source(ask);
		return close_job(ask);
	}
	PG_RETURN_INT64(ask->job_id);
}

/*
 * llm_batch.submit_query(...) returns bigint, the job's id
 */
Datum
llmb_submit_query(PG_FUNCTION_ARGS)
{
	char	   *query = text_arg(fcinfo, 0);
	Ask		   *ask;

	required(query, "query");
	ask = read_arguments(fcinfo, "llm_batch.submit_query()", 1, 2);
	llmb_check_query(query);
	if (open_job(ask))
	{
		read_query(ask, query);
		return close_job(ask);
	}
	PG_RETURN_INT64(ask->job_id);
}

/*
 * llm_batch.submit_prompts(...) returns bigint, the job's id
 */
Datum
llmb_submit_prompts(PG_FUNCTION_ARGS)
{
	Datum	   *prompts;
	bool	   *nulls;
	int			count;
	Ask		   *ask;

	if (PG_ARGISNULL(0))
		required(NULL, "prompts");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &prompts, &nulls, &count);
	ask = read_arguments(fcinfo, "llm_batch.submit_prompts()", 1, 2);
	if (!open_job(ask))
		PG_RETURN_INT64(ask->job_id);
	for (int i = 0; i < count; i++)
	{
		Line		line = {0};

		line.key = psprintf("%d", i + 1);
		line.prompt = nulls[i] ? NULL : TextDatumGetCString(prompts[i]);
		line.len = line.prompt ? strlen(line.prompt) : 0;
		take_line(ask, &line);
	}
	return close_job(ask);
}

/* The sink of preview: one row, the body as it would be sent. */
static void
preview_line(Ask *ask, const Line *line)
{
	LlmbPrompt	prompt = {.ordinal = ask->count, .prompt = line->prompt};
	StringInfoData body;
	Datum		values[2];
	bool		nulls[2] = {false};

	initStringInfo(&body);
	llmb_put_request(&body, ask->server, ask->model, &ask->job.def, &prompt, NULL, true);
	values[0] = CStringGetTextDatum(line->key);
	values[1] = CStringGetTextDatum(llmb_from_utf8(body.data, NULL));
	tuplestore_putvalues(ask->preview->setResult, ask->preview->setDesc, values, nulls);
}

/*
 * llm_batch.preview(... as submit ..., n) returns table (key, request)
 */
Datum
llmb_preview(PG_FUNCTION_ARGS)
{
	Ask		   *ask = ask_for_source(fcinfo, NULL);
	int64		n = PG_ARGISNULL(7 + TAIL_ARGS) ? 1 : PG_GETARG_INT32(7 + TAIL_ARGS);

	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must not be negative"),
				 errhint("Pass how many requests to show.")));
	InitMaterializedSRF(fcinfo, 0);
	ask->preview = (ReturnSetInfo *) fcinfo->resultinfo;
	ask->sink = preview_line;
	ask->limit = ask->limit < 0 ? n : Min(ask->limit, n);
	read_source(ask);
	return (Datum) 0;
}

/* The sink of estimate: only the length counts. */
static void
measure_line(Ask *ask, const Line *line)
{
	LlmbPrompt	prompt = {.ordinal = ask->count, .prompt = line->prompt};
	int64		bytes = llmb_text_bytes(&ask->job.def, &prompt);

	ask->estimate.bytes += bytes;
	ask->estimate.longest = Max(ask->estimate.longest, bytes);
}

/*
 * llm_batch.estimate(... as submit ...) returns a row for each model that
 * could do it
 */
Datum
llmb_estimate(PG_FUNCTION_ARGS)
{
	Ask		   *ask = ask_for_source(fcinfo, NULL);
	const char *reason;

	InitMaterializedSRF(fcinfo, 0);
	ask->sink = measure_line;
	ask->any_length = true;
	read_source(ask);
	ask->estimate.server = ask->server;
	ask->estimate.model = ask->job.model;
	ask->estimate.mode = ask->job.mode;
	ask->estimate.params = llmb_json_of_text(ask->job.def.params, &reason);
	ask->estimate.with_schema = ask->job.def.schema != NULL;
	ask->estimate.items = ask->count;
	llmb_put_estimates(&ask->estimate, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
