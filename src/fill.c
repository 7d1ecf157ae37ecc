/*-------------------------------------------------------------------------
 *
 * fill.c
 *		From rows to items.
 *
 * A query runs as the current user, through a cursor; each of its rows
 * becomes a line, a prompt that is rendered and checked; and each line goes
 * to a sink, which appends items to the store or does something else with it.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "bulk.h"
#include "compat.h"
#include "fill.h"
#include "request.h"
#include "schema.h"
#include "template.h"

#define FETCH_ROWS 500

/*
 * How many bytes more a token may have than expected before a prompt is
 * refused for its length.  Ordinary text stays well within (English 4 to 5
 * bytes a token, Russian 5 to 6, code 3 to 4); what is between the
 * expectation and this goes out, for the provider to decide, because a wrong
 * refusal here stops a whole job and one by the provider is free.
 */
#define CONTEXT_MARGIN	2.0

/* ---- what can be sent ---- */

static size_t
text_len(const char *text)
{
	return text ? strlen(text) : 0;
}

/* What a request line holds beside the prompt; measured once. */
static size_t
request_overhead(LlmbFill *fill)
{
	/* measured as it is; nothing of it is sent */
	LlmbPrompt	prompt = {.ordinal = 1, .prompt = "", .system = fill->ask->job.def.system, .masked = fill->ask->job.def.mask_pii};
	StringInfoData line;

	if (fill->overhead > 0)
		return fill->overhead;
	initStringInfo(&line);
	llmb_put_request(&line, fill->ask->server, fill->ask->model, &fill->ask->job.def, &prompt,
					 "0123456789abcdef-1", false);
	fill->overhead = line.len;
	pfree(line.data);
	return fill->overhead;
}

static bool
refuse(LlmbRefusal *refusal, int sqlstate, LlmbCode code, char *message, char *detail, char *hint)
{
	refusal->sqlstate = sqlstate;
	refusal->code = code;
	refusal->message = message;
	refusal->detail = detail;
	refusal->hint = hint;
	return false;
}

static bool
has_text(const LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	if (line->messages || (line->prompt && line->prompt[strspn(line->prompt, " \t\r\n")] != '\0'))
		return true;
	return refuse(refusal, line->prompt ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED, LLMB_INVALID_REQUEST,
				  psprintf("the prompt for key %s is %s", line->key, line->prompt ? "empty" : "NULL"), NULL,
				  fill->source ? "Leave such rows out, for instance with filter => 'body IS NOT NULL'." : "Leave it out.");
}

static bool
is_short_enough(LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	const LlmbServer *server = fill->ask->server;
	size_t		whole = line->len + text_len(line->system) + text_len(line->messages) + text_len(line->params) + request_overhead(fill);
	size_t		longest = Max(Max(line->len, text_len(line->system)), Max(text_len(line->messages), fill->overhead));

	if (longest <= fill->max_prompt && whole <= (size_t) server->max_batch_bytes)
		return true;
	return refuse(refusal, ERRCODE_PROGRAM_LIMIT_EXCEEDED, LLMB_TOO_LARGE,
				  psprintf("the prompt for key %s is too long: %zu bytes, %zu with all that goes with it", line->key, line->len, whole),
				  psprintf("llm_batch.max_prompt_size is %zu bytes, max_batch_bytes of server \"%s\" is " INT64_FORMAT ".",
						   fill->max_prompt, server->name, server->max_batch_bytes),
				  "Shorten the text (left(body, 100000)), leave the row out with filter, or raise the limit.");
}

/* Requests are UTF-8; a SQL_ASCII database may hold anything. */
static bool
is_utf8(const char *text, const char *what, const char *key, LlmbRefusal *refusal)
{
	if (text == NULL || GetDatabaseEncoding() != PG_SQL_ASCII || pg_verify_mbstr(PG_UTF8, text, strlen(text), true))
		return true;
	return refuse(refusal, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, LLMB_INVALID_REQUEST,
				  psprintf("the %s for key %s is not valid UTF-8", what, key), NULL,
				  "Correct the text, or leave the row out with filter.");
}

/* A prompt that cannot fit the model's context is refused before it is paid. */
static bool
fits_context(const LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	const LlmbRoom *room = &fill->room;
	size_t		bytes = line->len + text_len(line->messages) +
		text_len(line->system ? line->system : line->messages ? NULL : fill->ask->job.def.system);
	double		most = room->bytes_per_token * CONTEXT_MARGIN;

	if (room->max_input == 0 || fill->any_length || bytes / most <= room->max_input)
		return true;
	return refuse(refusal, ERRCODE_PROGRAM_LIMIT_EXCEEDED, LLMB_TOO_LARGE,
				  psprintf("the prompt for key %s cannot fit the context of model \"%s\"", line->key, fill->ask->job.model),
				  psprintf("It has %zu bytes: about %.0f tokens, and hardly less than %.0f. The model takes " INT64_FORMAT ".",
						   bytes, bytes / room->bytes_per_token, bytes / most, room->max_input),
				  psprintf("Shorten the text (left(body, %.0f)), leave the row out with filter, or choose a model with a larger context.",
						   room->max_input * room->bytes_per_token));
}

/* An embedding is of one text. */
static bool
is_one_text(const LlmbFill *fill, const char *given, const char *name, LlmbRefusal *refusal)
{
	if (given == NULL || !llmb_is_embedding(fill->ask->server, fill->ask->model))
		return true;
	return refuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE, LLMB_INVALID_REQUEST,
				  psprintf("model \"%s\" makes embeddings and takes no %s", fill->ask->job.model, name), NULL,
				  psprintf("Leave %s out.", name));
}

static bool
takes_params(const LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	char	   *why;

	if (line->params == NULL || llmb_params_fit(fill->ask, line->params, &why))
		return true;
	if (why == NULL)
		return refuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE, LLMB_INVALID_REQUEST, "params must be a JSON object", NULL,
					  "For instance: params => '{\"max_tokens\": 200}'.");
	return refuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE, LLMB_INVALID_REQUEST,
				  psprintf("params cannot be sent to model \"%s\"", fill->ask->job.model), why,
				  "Correct or leave out that parameter.");
}

static bool
has_messages(const LlmbLine *line, LlmbRefusal *refusal)
{
	const char *reason;
	LlmbJson   *messages = line->messages ? llmb_json_of_text(line->messages, &reason) : NULL;

	if (line->messages == NULL || (messages && messages->type == LLMB_JSON_ARRAY && messages->count > 0))
		return true;
	return refuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE, LLMB_INVALID_REQUEST,
				  psprintf("the messages for key %s are not a JSON array with at least one element", line->key), NULL,
				  "For instance: [{\"role\": \"user\", \"content\": \"...\"}].");
}

/* What only a query of the user's can give a row. */
static bool
extras_fit(const LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	return is_one_text(fill, line->system, "system", refusal) &&
		is_one_text(fill, line->messages, "messages", refusal) &&
		is_utf8(line->params, "params", line->key, refusal) &&
		takes_params(fill, line, refusal) &&
		is_utf8(line->messages, "messages", line->key, refusal) &&
		has_messages(line, refusal);
}

bool
llmb_line_fits(LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal)
{
	return extras_fit(fill, line, refusal) &&
		has_text(fill, line, refusal) &&
		is_short_enough(fill, line, refusal) &&
		is_utf8(line->prompt, "prompt", line->key, refusal) &&
		is_utf8(line->system, "system prompt", line->key, refusal) &&
		fits_context(fill, line, refusal);
}

void
llmb_fill_begin(LlmbFill *fill, const LlmbAsk *ask, const LlmbSource *source, LlmbSink sink, void *arg)
{
	memset(fill, 0, sizeof(LlmbFill));
	fill->ask = ask;
	fill->source = source;
	fill->sink = sink;
	fill->arg = arg;
	fill->max_prompt = (size_t) llmb_max_prompt_kb * 1024;
	llmb_model_room(ask->server, ask->job.model, &fill->room);
}

static void
check_atomic_items(int count)
{
	if (count > llmb_atomic_max_items)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an atomic job cannot have more than %d items", llmb_atomic_max_items),
				 errdetail("All its answers are written in one transaction."),
				 errhint("Submit several jobs, each with its own filter; pass atomic => false; or raise llm_batch.atomic_max_items.")));
}

void
llmb_fill_line(LlmbFill *fill, const LlmbLine *line)
{
	LlmbRefusal refusal;
	bool		fits = llmb_line_fits(fill, line, &refusal);

	if (!fits && fill->refuser)
	{
		fill->refuser(fill, line, &refusal);
		return;
	}
	if (!fits)
		ereport(ERROR,
				(errcode(refusal.sqlstate),
				 errmsg_internal("%s", refusal.message),
				 refusal.detail ? errdetail_internal("%s", refusal.detail) : 0,
				 errhint("%s", refusal.hint)));
	if (fill->count >= LLMB_MAX_ITEMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a job cannot have more than %d items", LLMB_MAX_ITEMS),
				 errhint("Submit several jobs, each with its own filter.")));
	if (fill->ask->job.atomic)
		check_atomic_items(fill->count + 1);
	fill->count++;
	fill->sink(fill, line);
}

/* ---- rows of a query ---- */

/* How a row becomes a line; allocates in the current context. */
typedef void (*RowReader) (LlmbFill *fill, HeapTuple tuple, TupleDesc desc, void *arg, LlmbLine *line);

static void
read_source_row(LlmbFill *fill, HeapTuple tuple, TupleDesc desc, void *arg, LlmbLine *line)
{
	LlmbRenderer *renderer = arg;
	Datum		values[FUNC_MAX_ARGS];
	bool		nulls[FUNC_MAX_ARGS];
	StringInfoData prompt;

	(void) fill;
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
read_query_row(LlmbFill *fill, HeapTuple tuple, TupleDesc desc, void *arg, LlmbLine *line)
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
				 errmsg("row %d of the query has no key", fill->count + 1),
				 errhint("Let the query yield a key for each row.")));
}

static void
read_rows(LlmbFill *fill, Portal portal, RowReader reader, void *arg)
{
	MemoryContext per_row = AllocSetContextCreate(CurrentMemoryContext, "llm_batch fill row",
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
			LlmbLine	line = {0};
			MemoryContext old;

			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(per_row);
			old = MemoryContextSwitchTo(per_row);
			reader(fill, table->vals[i], table->tupdesc, arg, &line);
			llmb_fill_line(fill, &line);
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

void
llmb_fill_from_source(LlmbFill *fill, const char *filter, int64 limit)
{
	const LlmbSource *source = fill->source;
	LlmbRenderer *renderer = llmb_renderer(source->template, source->template_types);
	int			level = NewGUCNestLevel();
	Portal		portal;

	llmb_pin_rendering(NULL);
	llmb_pin_strings();
	portal = open_query(llmb_source_query(source, filter, limit));
	read_rows(fill, portal, read_source_row, renderer);
	close_query(portal);
	AtEOXact_GUC(false, level);
}

void
llmb_fill_keys(const LlmbSource *source, const char *filter, const char *time_zone, void (*put) (const char *key, void *arg), void *arg)
{
	LlmbTemplate none = {0};
	LlmbSource	keys = *source;
	int			level = NewGUCNestLevel();
	Portal		portal;

	keys.template = &none;
	llmb_pin_rendering(time_zone);
	llmb_pin_strings();
	portal = open_query(llmb_source_query(&keys, filter, -1));
	for (;;)
	{
		SPITupleTable *table;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		table = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < table->numvals; i++)
		{
			char	   *key = SPI_getvalue(table->vals[i], table->tupdesc, 1);

			if (key)
			{
				put(key, arg);
				pfree(key);
			}
		}
		SPI_freetuptable(table);
	}
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
query_columns(TupleDesc desc, int *columns)
{
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
}

void
llmb_fill_from_query(LlmbFill *fill, const char *query)
{
	Portal		portal = open_query(query);
	int			columns[5];

	query_columns(portal->tupDesc, columns);
	read_rows(fill, portal, read_query_row, columns);
	close_query(portal);
}

/* ---- a query that runs later ---- */

static void
probe_error(void *arg)
{
	(void) arg;
	errcontext("query that is to run when the other job has ended");
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION)
		errhint("It will run with search_path pg_catalog, pg_temp: write names with their schema.");
}

/* A temporary table is seen by its session alone. */
static void
require_no_temporary(const Portal portal)
{
	ListCell   *lc;
	ListCell   *rc;

	foreach(lc, portal->stmts)
	{
		foreach(rc, lfirst_node(PlannedStmt, lc)->rtable)
		{
			RangeTblEntry *entry = lfirst_node(RangeTblEntry, rc);

			if (entry->rtekind == RTE_RELATION && get_rel_persistence(entry->relid) == RELPERSISTENCE_TEMP)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("\"%s\" is a temporary table", get_rel_name(entry->relid)),
						 errdetail("The background worker, which will run the query, cannot see temporary tables of a session."),
						 errhint("Use an ordinary table.")));
		}
	}
}

static void
probe(const char *sql, bool of_user)
{
	ErrorContextCallback callback = {error_context_stack, probe_error, NULL};
	int			level = NewGUCNestLevel();
	Portal		portal;
	int			columns[5];

	llmb_pin_rendering(NULL);
	if (!of_user)
		llmb_pin_strings();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	error_context_stack = &callback;
	portal = open_query(sql);
	error_context_stack = callback.previous;
	if (of_user)
		query_columns(portal->tupDesc, columns);
	require_no_temporary(portal);
	close_query(portal);
	AtEOXact_GUC(false, level);
}

void
llmb_probe_source(const LlmbSource *source, const char *filter, int64 limit)
{
	probe(llmb_source_query(source, filter, limit), false);
}

void
llmb_probe_query(const char *query)
{
	probe(query, true);
}

/* ---- the sink that makes items ---- */

struct LlmbItems
{
	int64		job;
	LlmbBulk   *items;
	LlmbBulk   *prompts;
};

LlmbItems *
llmb_items_begin(int64 job)
{
	LlmbItems  *items = palloc(sizeof(LlmbItems));

	items->job = job;
	items->items = llmb_bulk_begin("item");
	items->prompts = llmb_bulk_begin("prompt");
	return items;
}

static Datum
text_datum(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

void
llmb_items_put(LlmbItems *items, int ordinal, const LlmbLine *line)
{
	Datum		item[4];
	bool		item_nulls[4] = {false};
	Datum		prompt[6];
	bool		prompt_nulls[6] = {false};

	item[0] = prompt[0] = Int64GetDatum(items->job);
	item[1] = Int64GetDatum(line->prompt ? llmb_text_hash(line->prompt, line->len) : 0);
	item[2] = prompt[1] = Int32GetDatum(ordinal);
	item[3] = text_datum(line->key, &item_nulls[3]);
	llmb_bulk_put(items->items, item, item_nulls);
	if (line->prompt == NULL && line->messages == NULL)
		return;
	prompt_nulls[2] = line->prompt == NULL;
	prompt[2] = line->prompt ? PointerGetDatum(cstring_to_text_with_len(line->prompt, line->len)) : (Datum) 0;
	prompt[3] = text_datum(line->system, &prompt_nulls[3]);
	prompt[4] = text_datum(line->messages, &prompt_nulls[4]);
	prompt[5] = text_datum(line->params, &prompt_nulls[5]);
	llmb_bulk_put(items->prompts, prompt, prompt_nulls);
}

void
llmb_items_sink(LlmbFill *fill, const LlmbLine *line)
{
	llmb_items_put(fill->arg, fill->count, line);
}

void
llmb_items_end(LlmbItems *items)
{
	llmb_bulk_end(items->items);
	llmb_bulk_end(items->prompts);
}
