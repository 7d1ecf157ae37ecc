/*-------------------------------------------------------------------------
 *
 * submit.c
 *		submit, submit_query, submit_prompts, preview and estimate.
 *
 * One way leads from arguments to items: ask.c checks the arguments, fill.c
 * runs the query as the caller and checks the prompts, and a sink appends
 * items to the store, or prints what would be sent.  Nothing is enqueued when
 * anything is wrong, for all of it happens in the caller's transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ask.h"
#include "chain.h"
#include "compat.h"
#include "estimate.h"
#include "fill.h"
#include "pii_sql.h"
#include "request.h"
#include "schema.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "store.h"
#include "store_forget.h"

PG_FUNCTION_INFO_V1(llmb_submit);
PG_FUNCTION_INFO_V1(llmb_submit_query);
PG_FUNCTION_INFO_V1(llmb_submit_prompts);
PG_FUNCTION_INFO_V1(llmb_preview);
PG_FUNCTION_INFO_V1(llmb_estimate);

/* Arguments that all entry points share, from position "tail" on. */
enum
{
	ARG_SERVER, ARG_SYSTEM, ARG_PARAMS, ARG_SCHEMA, ARG_MODE, ARG_PRIORITY, ARG_ATOMIC,
	ARG_CACHE, ARG_PACK, ARG_MASK_PII, ARG_MAX_COST, ARG_DEADLINE, ARG_AFTER,
	ARG_REQUEST_KEY, ARG_LABELS, ARG_ON_SUCCESS, ARG_ON_ERROR, TAIL_ARGS
};

/* ---- arguments ---- */

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

static bool
bool_arg(FunctionCallInfo fcinfo, int n)
{
	return !PG_ARGISNULL(n) && PG_GETARG_BOOL(n);
}

/* function: what writes, for the message in a read-only session; else NULL */
static LlmbAsk *
read_arguments(FunctionCallInfo fcinfo, const char *function, int model, int tail)
{
	LlmbArguments arguments = {0};

	if (function)
		llmb_require_writable(function);
	arguments.model = llmb_text_arg(fcinfo, model);
	arguments.server = PG_ARGISNULL(tail + ARG_SERVER) ? NULL : NameStr(*PG_GETARG_NAME(tail + ARG_SERVER));
	arguments.system = llmb_text_arg(fcinfo, tail + ARG_SYSTEM);
	arguments.params = llmb_object_arg(fcinfo, tail + ARG_PARAMS, "params", "{}");
	arguments.schema = llmb_object_arg(fcinfo, tail + ARG_SCHEMA, "schema", NULL);
	arguments.mode = llmb_text_arg(fcinfo, tail + ARG_MODE);
	arguments.priority = PG_ARGISNULL(tail + ARG_PRIORITY) ? 0 : PG_GETARG_INT32(tail + ARG_PRIORITY);
	arguments.atomic = bool_arg(fcinfo, tail + ARG_ATOMIC);
	arguments.pack = PG_ARGISNULL(tail + ARG_PACK) ? 1 : PG_GETARG_INT32(tail + ARG_PACK);
	arguments.mask_pii = bool_arg(fcinfo, tail + ARG_MASK_PII);
	if (!PG_ARGISNULL(tail + ARG_MAX_COST))
		arguments.max_cost = DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(tail + ARG_MAX_COST)));
	if (!PG_ARGISNULL(tail + ARG_DEADLINE))
		arguments.deadline = PG_GETARG_INTERVAL_P(tail + ARG_DEADLINE);
	arguments.after = PG_ARGISNULL(tail + ARG_AFTER) ? 0 : PG_GETARG_INT64(tail + ARG_AFTER);
	arguments.request_key = llmb_text_arg(fcinfo, tail + ARG_REQUEST_KEY);
	arguments.request_hash = arguments_hash(fcinfo, tail);
	arguments.labels = llmb_object_arg(fcinfo, tail + ARG_LABELS, "labels", "{}");
	arguments.on_success = llmb_text_arg(fcinfo, tail + ARG_ON_SUCCESS);
	arguments.on_error = llmb_text_arg(fcinfo, tail + ARG_ON_ERROR);
	return llmb_ask(&arguments);
}

/* What is asked of a table. */
typedef struct SourceAsk
{
	LlmbAsk    *ask;
	LlmbSource *source;
} SourceAsk;

/* The source's own arguments: 0 source, 1 prompt, 3 target, 4 key, 5 filter, 6 limit. */
static SourceAsk
ask_for_source(FunctionCallInfo fcinfo, const char *function)
{
	SourceAsk	asked;
	char	   *prompt = llmb_text_arg(fcinfo, 1);
	LlmbSource *source;
	LlmbJobDef *def;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("source must not be NULL"),
				 errhint("Pass a table: source => 'articles'.")));
	llmb_check_given(prompt, "prompt");
	asked.ask = read_arguments(fcinfo, function, 2, 7);
	asked.source = source = llmb_source_resolve(PG_GETARG_OID(0), prompt, llmb_text_arg(fcinfo, 4), llmb_text_arg(fcinfo, 3));
	def = &asked.ask->job.def;
	def->filter = llmb_text_arg(fcinfo, 5);
	if (def->filter)
		llmb_check_condition(def->filter);
	if (!PG_ARGISNULL(6))
		def->row_limit = PG_GETARG_INT64(6);
	if (!PG_ARGISNULL(6) && def->row_limit < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit must not be negative"),
				 errhint("Leave it out to take all rows.")));
	llmb_def_of_source(def, source);
	def->schema = llmb_target_schema(source, def->schema, llmb_is_embedding(asked.ask->server, asked.ask->model));
	def->targets_hash = llmb_targets_hash(source->relid, source->targets, source->target_count);
	return asked;
}

/* ---- jobs ---- */

/* The job of the same request_key, or 0; other arguments are an error. */
static int64
same_request(const LlmbAsk *ask)
{
	int64		hash = 0;
	int64		job;

	if (ask->job.request_key == NULL)
		return 0;
	job = llmb_store_find_request(GetUserNameFromId(GetUserId(), false), ask->job.request_key, &hash);
	if (job != 0 && llmb_store_is_forgotten(job))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("request_key \"%s\" belongs to job " INT64_FORMAT ", which is being forgotten",
						ask->job.request_key, job),
				 errhint("Submit it again in a moment: then it makes a new job.")));
	if (job != 0 && hash != ask->job.request_hash)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("request_key \"%s\" belongs to job " INT64_FORMAT ", which had other arguments",
						ask->job.request_key, job),
				 errhint("Use another request_key for another request.")));
	return job;
}

/*
 * Opens the job; false when the same request has one already: *job is that.
 * Two sessions with one request_key meet at the unique index: the second
 * waits there for the first.
 */
static bool
open_job(const LlmbAsk *ask, int64 *job)
{
	if ((*job = same_request(ask)) != 0)
		return false;
	if (ask->job.after != 0)
		llmb_check_predecessor(ask->job.after);
	*job = llmb_store_new_job(&ask->job, GetUserNameFromId(GetUserId(), false));
	if (*job != 0)
		return true;
	*job = same_request(ask);
	if (*job == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("another session has just used request_key \"%s\"", ask->job.request_key),
				 errhint("Run the statement again.")));
	return false;
}

static void
begin_items(LlmbFill *fill, const LlmbAsk *ask, const LlmbSource *source, int64 job)
{
	llmb_fill_begin(fill, ask, source, llmb_items_sink, llmb_items_begin(job));
}

static Datum
close_job(LlmbFill *fill, int64 job)
{
	llmb_items_end(fill->arg);
	llmb_store_job_filled(job, fill->count);
	/* one that waits is ended by the worker, in its time */
	if (fill->count == 0 && fill->ask->job.after == 0)
	{
		ereport(NOTICE, (errmsg("job " INT64_FORMAT " has no items", job)));
		(void) llmb_store_finish_job(job);
	}
	else
		llmb_wake_at_commit();
	return Int64GetDatum(job);
}

/* Its query runs when the other job has ended. */
static Datum
hold_job(const LlmbAsk *ask, int64 job)
{
	llmb_store_job_held(job, ask->job.after);
	llmb_wake_at_commit();
	return Int64GetDatum(job);
}

/* ---- entry points ---- */

/*
 * llm_batch.submit(...) returns bigint, the job's id
 */
Datum
llmb_submit(PG_FUNCTION_ARGS)
{
	SourceAsk	asked = ask_for_source(fcinfo, "llm_batch.submit()");
	const LlmbJobDef *def = &asked.ask->job.def;
	LlmbFill	fill;
	int64		job;

	if (!open_job(asked.ask, &job))
		PG_RETURN_INT64(job);
	if (asked.ask->job.after != 0)
	{
		llmb_probe_source(asked.source, def->filter, def->row_limit);
		return hold_job(asked.ask, job);
	}
	begin_items(&fill, asked.ask, asked.source, job);
	llmb_fill_from_source(&fill, def->filter, def->row_limit);
	return close_job(&fill, job);
}

/*
 * llm_batch.submit_query(...) returns bigint, the job's id
 */
Datum
llmb_submit_query(PG_FUNCTION_ARGS)
{
	char	   *query = llmb_text_arg(fcinfo, 0);
	LlmbAsk    *ask;
	LlmbFill	fill;
	int64		job;

	llmb_check_given(query, "query");
	ask = read_arguments(fcinfo, "llm_batch.submit_query()", 1, 2);
	llmb_check_query(query);
	if (ask->job.after != 0)
		ask->job.def.query = query;
	if (!open_job(ask, &job))
		PG_RETURN_INT64(job);
	if (ask->job.after != 0)
	{
		llmb_probe_query(query);
		return hold_job(ask, job);
	}
	begin_items(&fill, ask, NULL, job);
	llmb_fill_from_query(&fill, query);
	return close_job(&fill, job);
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
	LlmbAsk    *ask;
	LlmbFill	fill;
	int64		job;

	if (PG_ARGISNULL(0))
		llmb_check_given(NULL, "prompts");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &prompts, &nulls, &count);
	ask = read_arguments(fcinfo, "llm_batch.submit_prompts()", 1, 2);
	if (!open_job(ask, &job))
		PG_RETURN_INT64(job);
	begin_items(&fill, ask, NULL, job);
	for (int i = 0; i < count; i++)
	{
		LlmbLine	line = {0};

		line.key = psprintf("%d", i + 1);
		line.prompt = nulls[i] ? NULL : TextDatumGetCString(prompts[i]);
		line.len = line.prompt ? strlen(line.prompt) : 0;
		llmb_fill_line(&fill, &line);
	}
	return close_job(&fill, job);
}

/* ---- preview ---- */

/* What the sinks that send nothing need beside their line. */
typedef struct Look
{
	LlmbMasking *masking;
	ReturnSetInfo *set;			/* preview */
	LlmbEstimate estimate;
} Look;

/* One row, the body as it would be sent. */
static void
preview_line(LlmbFill *fill, const LlmbLine *line)
{
	Look	   *look = fill->arg;
	LlmbPrompt	prompt = {.ordinal = fill->count, .prompt = line->prompt};
	StringInfoData body;
	Datum		values[2];
	bool		nulls[2] = {false};

	initStringInfo(&body);
	llmb_put_request(&body, fill->ask->server, fill->ask->model, &fill->ask->job.def,
					 llmb_mask_prompt(look->masking, &prompt), NULL, true);
	values[0] = CStringGetTextDatum(line->key);
	values[1] = CStringGetTextDatum(llmb_from_utf8(body.data, NULL));
	tuplestore_putvalues(look->set->setResult, look->set->setDesc, values, nulls);
}

/*
 * llm_batch.preview(... as submit ..., n) returns table (key, request)
 */
Datum
llmb_preview(PG_FUNCTION_ARGS)
{
	SourceAsk	asked = ask_for_source(fcinfo, NULL);
	const LlmbJobDef *def = &asked.ask->job.def;
	int64		n = PG_ARGISNULL(7 + TAIL_ARGS) ? 1 : PG_GETARG_INT32(7 + TAIL_ARGS);
	LlmbFill	fill;
	Look		look = {0};

	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must not be negative"),
				 errhint("Pass how many requests to show.")));
	InitMaterializedSRF(fcinfo, 0);
	look.masking = llmb_masking_begin(def);
	look.set = (ReturnSetInfo *) fcinfo->resultinfo;
	llmb_fill_begin(&fill, asked.ask, asked.source, preview_line, &look);
	llmb_fill_from_source(&fill, def->filter, def->row_limit < 0 ? n : Min(def->row_limit, n));
	return (Datum) 0;
}

/* ---- estimate ---- */

/* Only the length counts. */
static void
measure_line(LlmbFill *fill, const LlmbLine *line)
{
	Look	   *look = fill->arg;
	LlmbEstimate *estimate = &look->estimate;
	LlmbPrompt	prompt = {.ordinal = fill->count, .prompt = line->prompt};
	int64		bytes = llmb_text_bytes(&fill->ask->job.def, llmb_mask_prompt(look->masking, &prompt));

	estimate->bytes += bytes;
	estimate->longest = Max(estimate->longest, bytes);
}

/*
 * llm_batch.estimate(... as submit ...) returns a row for each model that
 * could do it
 */
Datum
llmb_estimate(PG_FUNCTION_ARGS)
{
	SourceAsk	asked = ask_for_source(fcinfo, NULL);
	const LlmbNewJob *job = &asked.ask->job;
	Look		look = {.masking = llmb_masking_begin(&job->def)};
	LlmbEstimate *estimate = &look.estimate;
	LlmbFill	fill;
	const char *reason;

	InitMaterializedSRF(fcinfo, 0);
	llmb_fill_begin(&fill, asked.ask, asked.source, measure_line, &look);
	fill.any_length = true;
	llmb_fill_from_source(&fill, job->def.filter, job->def.row_limit);
	estimate->server = asked.ask->server;
	estimate->model = job->model;
	estimate->mode = job->mode;
	estimate->params = llmb_json_of_text(job->def.params, &reason);
	estimate->with_schema = job->def.schema != NULL;
	estimate->items = fill.count;
	llmb_put_estimates(estimate, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
