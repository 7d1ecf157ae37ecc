/*-------------------------------------------------------------------------
 *
 * estimate.c
 *		What a job would cost, before a cent is spent; and price(), what
 *		given tokens cost.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "estimate.h"
#include "price.h"
#include "request.h"

PG_FUNCTION_INFO_V1(llmb_price_sql);

typedef struct Candidate
{
	char	   *model;
	bool		asked;
	LlmbRoom	room;
	LlmbForecast forecast;
	char	   *realtime;		/* USD; NULL unknown, or there is no such way */
	char	   *batch;
	char	   *cost;			/* of the two, the way that the job would go */
} Candidate;

/* As the job would be sent. */
static bool
goes_realtime(const LlmbEstimate *estimate, const char *model)
{
	const LlmbServer *server = estimate->server;
	bool		has_batch = server->batch && !llmb_model(server, model)->no_batch;

	return llmb_goes_realtime(estimate->mode, estimate->items, has_batch, server->realtime_threshold);
}

static void
fill_candidate(const LlmbEstimate *estimate, char *name, Candidate *candidate)
{
	const LlmbServer *server = estimate->server;
	LlmbModel  *model = llmb_model(server, name);

	candidate->model = name;
	candidate->asked = strcmp(name, estimate->model) == 0;
	llmb_model_room(server, name, &candidate->room);
	llmb_forecast(server, model, estimate->bytes, estimate->items,
				  Max(0, llmb_json_int(estimate->params, "max_tokens", 0)), &candidate->forecast);
	candidate->realtime = llmb_forecast_cost(server, name, &candidate->forecast, false);
	candidate->batch = server->batch ? llmb_forecast_cost(server, name, &candidate->forecast, true) : NULL;
	candidate->cost = goes_realtime(estimate, name) ? candidate->realtime : candidate->batch;
}

/* Whether the model, which nobody asked for, could do it as well. */
static bool
could_serve(const LlmbEstimate *estimate, const char *name)
{
	LlmbModel  *model = llmb_model(estimate->server, name);

	if (estimate->with_schema && model->json_schema == 0)
		return false;
	return estimate->server->provider->check_params(model, &estimate->server->dialect, estimate->params) == NULL;
}

static int
compare_costs(const void *a, const void *b)
{
	const Candidate *left = a;
	const Candidate *right = b;
	double		difference;

	if (left->cost == NULL || right->cost == NULL)
		difference = (left->cost == NULL) - (right->cost == NULL);
	else
		difference = strtod(left->cost, NULL) - strtod(right->cost, NULL);
	if (difference != 0)
		return difference < 0 ? -1 : 1;
	return strcmp(left->model, right->model);
}

static bool
fits(const LlmbEstimate *estimate, const Candidate *candidate)
{
	return estimate->longest / candidate->room.bytes_per_token <= candidate->room.max_input;
}

static void
say(StringInfo note, const char *text)
{
	appendStringInfo(note, "%s%s", note->len ? "; " : "", text);
}

static char *
note_of(const LlmbEstimate *estimate, const Candidate *candidate)
{
	StringInfoData note;

	initStringInfo(&note);
	if (candidate->realtime == NULL)
		say(&note, "price not known");
	else if (candidate->cost == NULL)
		say(&note, "price in a batch not known");
	if (candidate->room.max_input > 0 && !fits(estimate, candidate))
		say(&note, "the longest prompt may be too long");
	if (!candidate->room.calibrated)
		say(&note, psprintf("input: %.2g bytes a token assumed", candidate->room.bytes_per_token));
	if (candidate->room.answers && !candidate->room.answers_calibrated && estimate->items > 0)
		say(&note, psprintf("output: " INT64_FORMAT " tokens an answer assumed",
							candidate->forecast.output_tokens / estimate->items));
	return note.data;
}

static Datum
numeric_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	if (text == NULL)
		return (Datum) 0;
	return DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static void
put_row(const LlmbEstimate *estimate, const Candidate *candidate, ReturnSetInfo *set)
{
	Datum		values[12];
	bool		nulls[12] = {false};

	values[0] = DirectFunctionCall1(namein, CStringGetDatum(estimate->server->name));
	values[1] = CStringGetTextDatum(candidate->model);
	values[2] = BoolGetDatum(candidate->asked);
	values[3] = Int64GetDatum(candidate->forecast.items);
	values[4] = Int64GetDatum(candidate->forecast.input_tokens);
	values[5] = Int64GetDatum(candidate->forecast.output_tokens);
	values[6] = numeric_or_null(candidate->realtime, &nulls[6]);
	values[7] = numeric_or_null(candidate->batch, &nulls[7]);
	values[8] = CStringGetTextDatum(goes_realtime(estimate, candidate->model) ? "realtime" : "batch");
	values[9] = numeric_or_null(candidate->cost, &nulls[9]);
	nulls[10] = candidate->room.max_input == 0;
	values[10] = BoolGetDatum(!nulls[10] && fits(estimate, candidate));
	values[11] = CStringGetTextDatum(note_of(estimate, candidate));
	tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

void
llmb_put_estimates(const LlmbEstimate *estimate, ReturnSetInfo *set)
{
	LlmbRoom	room;
	Candidate  *candidates;
	char	  **names;
	int			count;
	int			n = 1;

	llmb_model_room(estimate->server, estimate->model, &room);
	names = llmb_store_priced_models(estimate->server, !room.answers, &count);
	candidates = palloc0(sizeof(Candidate) * (count + 1));
	fill_candidate(estimate, pstrdup(estimate->model), &candidates[0]);
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i], estimate->model) != 0 && could_serve(estimate, names[i]))
			fill_candidate(estimate, names[i], &candidates[n++]);
	}
	qsort(candidates, n, sizeof(Candidate), compare_costs);
	for (int i = 0; i < n; i++)
		put_row(estimate, &candidates[i], set);
}

/* ---- retry() ---- */

char *
llmb_retry_cost(const LlmbJob *job, int64 count)
{
	LlmbServer *server = llmb_server_by_name(job->server);
	char	   *usual = llmb_store_usual_cost(job->id, count);
	LlmbForecast forecast;
	const char *reason;
	LlmbJson   *params;

	if (usual || server == NULL)
		return usual;
	params = llmb_json_of_text(llmb_store_job_def(job->id)->params, &reason);
	llmb_forecast(server, llmb_model(server, job->model), llmb_store_prompt_bytes(job->id, count), (int) count,
				  Max(0, llmb_json_int(params, "max_tokens", 0)), &forecast);
	return llmb_forecast_cost(server, job->model, &forecast, server->batch && strcmp(job->mode, "realtime") != 0);
}

/* ---- price() ---- */

static int64
count_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n) || PG_GETARG_INT64(n) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a number of tokens, 0 or more", name),
				 errhint("Pass 0 for none.")));
	return PG_GETARG_INT64(n);
}

static bool
batch_arg(FunctionCallInfo fcinfo, int n)
{
	char	   *mode = PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));

	if (mode == NULL || (strcmp(mode, "batch") != 0 && strcmp(mode, "realtime") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode"),
				 errhint("mode is batch or realtime.")));
	return strcmp(mode, "batch") == 0;
}

static void
check_parts(const LlmbUsage *usage)
{
	if (usage->cached > usage->input || usage->written > usage->input - usage->cached ||
		usage->long_written > usage->written)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the parts of the input are more than the whole"),
				 errdetail("input_tokens includes cached_tokens and cache_write_tokens, and these include long_write_tokens."),
				 errhint("Anthropic counts them apart: add them up.")));
}

/*
 * llm_batch.price(server, model, input_tokens, output_tokens, cached_tokens,
 *		cache_write_tokens, long_write_tokens, mode, at) returns numeric
 */
Datum
llmb_price_sql(PG_FUNCTION_ARGS)
{
	LlmbServer *server;
	LlmbUsage	usage = {0};
	Numeric		cost;
	bool		batch;

	/* 0 and 1 are the only ones that may be NULL, and so is the answer then */
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	server = llmb_server_by_name(NameStr(*PG_GETARG_NAME(0)));
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", NameStr(*PG_GETARG_NAME(0))),
				 errhint("It must be a server of the foreign-data wrapper llm_batch.")));
	usage.input = count_arg(fcinfo, 2, "input_tokens");
	usage.output = count_arg(fcinfo, 3, "output_tokens");
	usage.cached = count_arg(fcinfo, 4, "cached_tokens");
	usage.written = count_arg(fcinfo, 5, "cache_write_tokens");
	usage.long_written = count_arg(fcinfo, 6, "long_write_tokens");
	check_parts(&usage);
	batch = batch_arg(fcinfo, 7);
	cost = llmb_price(llmb_prices(server, text_to_cstring(PG_GETARG_TEXT_PP(1)),
								  PG_ARGISNULL(8) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(8)),
					  &usage, batch);
	if (cost == NULL)
		PG_RETURN_NULL();
	PG_RETURN_NUMERIC(cost);
}
