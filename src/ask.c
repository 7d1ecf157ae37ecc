/*-------------------------------------------------------------------------
 *
 * ask.c
 *		What is asked of a model: arguments, checked.
 *
 * All that can be known to fail fails here, before anything is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "afterwards.h"
#include "ask.h"
#include "compat.h"
#include "request.h"
#include "schema.h"

#define MAX_MODEL_BYTES			256
#define MAX_LABELS_BYTES		(16 * 1024)
/* an entry of a btree is at most 2704 bytes */
#define MAX_REQUEST_KEY_BYTES	1024

/* Requests are UTF-8; a SQL_ASCII database may hold anything. */
void
llmb_check_utf8(const char *text, const char *what, const char *key)
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

char *
llmb_text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

char *
llmb_object_arg(FunctionCallInfo fcinfo, int n, const char *name, const char *absent)
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
	llmb_check_utf8(text, name, NULL);
	return text;
}

void
llmb_check_given(const char *value, const char *name)
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
check_later_arguments(const LlmbArguments *arguments)
{
	not_yet(arguments->pack != 1, "pack", "1");
}

static TimestampTz
deadline_from_now(Interval *interval)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz deadline;

	if (interval == NULL)
		return 0;
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
													   IntervalPGetDatum(interval)));
	if (deadline <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deadline must lie ahead"),
				 errhint("It is an interval from now on, for instance deadline => '6 hours'.")));
	return deadline;
}

bool
llmb_params_fit(const LlmbAsk *ask, const char *params, char **why)
{
	const char *reason;
	LlmbJson   *json = llmb_json_of_text(params, &reason);

	*why = NULL;
	if (json == NULL || json->type != LLMB_JSON_OBJECT)
		return false;
	*why = ask->server->provider->check_params(ask->model, &ask->server->dialect, json);
	return *why == NULL;
}

static void
check_params(const LlmbAsk *ask, const char *params)
{
	char	   *why;

	if (llmb_params_fit(ask, params, &why))
		return;
	if (why == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("params must be a JSON object"),
				 errhint("For instance: params => '{\"max_tokens\": 200}'.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("params cannot be sent to model \"%s\"", ask->job.model),
			 errdetail("%s", why),
			 errhint("Correct or leave out that parameter.")));
}

static void
check_mode(const LlmbAsk *ask)
{
	const char *mode = ask->job.mode;

	if (mode == NULL || (strcmp(mode, "auto") != 0 && strcmp(mode, "batch") != 0 && strcmp(mode, "realtime") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode"),
				 errhint("mode is one of auto, batch, realtime.")));
	if (strcmp(mode, "batch") == 0 && !ask->server->batch)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("server \"%s\" has no batch API", ask->server->name),
				 errdetail("Its option \"batch\" is off."),
				 errhint("Use mode => 'realtime', or leave mode out.")));
	if (strcmp(mode, "batch") == 0 && ask->model->no_batch)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("model \"%s\" is not taken in batches", ask->job.model),
				 errdetail("llm_batch.model says so."),
				 errhint("Use mode => 'realtime', or leave mode out.")));
}

/* What the job may cost, as a number; it can be kept only where prices are known. */
static void
check_max_cost(const LlmbAsk *ask, const char *text)
{
	LlmbForecast forecast = {.input_tokens = 1000, .output_tokens = 1000};

	if (text == NULL)
		return;
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
}

/* An embedding is of one text. */
void
llmb_check_no_embedding(const LlmbAsk *ask, const char *given, const char *name)
{
	if (given && llmb_is_embedding(ask->server, ask->model))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model \"%s\" makes embeddings and takes no %s", ask->job.model, name),
				 errhint("Leave %s out.", name)));
}

LlmbAsk *
llmb_ask(const LlmbArguments *arguments)
{
	LlmbAsk    *ask = palloc0(sizeof(LlmbAsk));
	LlmbNewJob *job = &ask->job;

	check_later_arguments(arguments);
	llmb_check_afterwards(arguments->on_success, "on_success");
	llmb_check_afterwards(arguments->on_error, "on_error");
	llmb_check_given(arguments->model, "model");
	llmb_check_utf8(arguments->model, "model", NULL);
	llmb_check_utf8(arguments->system, "system", NULL);
	check_length(arguments->model, "model", MAX_MODEL_BYTES);
	check_length(arguments->labels, "labels", MAX_LABELS_BYTES);
	check_length(arguments->request_key, "request_key", MAX_REQUEST_KEY_BYTES);
	job->model = arguments->model;
	job->mode = arguments->mode;
	job->priority = arguments->priority;
	job->labels = arguments->labels;
	job->request_key = arguments->request_key;
	job->request_hash = arguments->request_hash;
	job->deadline = deadline_from_now(arguments->deadline);
	job->max_cost = arguments->max_cost;
	job->atomic = arguments->atomic;
	job->after = arguments->after;
	job->prompt_version = 1;
	job->def.system = arguments->system;
	job->def.params = arguments->params;
	job->def.schema = arguments->schema;
	job->def.mask_pii = arguments->mask_pii;
	job->def.on_success = arguments->on_success;
	job->def.on_error = arguments->on_error;
	job->def.row_limit = -1;
	job->def.time_zone = pstrdup(pg_get_timezone_name(session_timezone));
	ask->server = llmb_choose_server(arguments->server, job->model);
	job->server = ask->server->name;
	ask->model = llmb_model(ask->server, job->model);
	llmb_check_no_embedding(ask, job->def.system, "system");
	llmb_check_no_embedding(ask, job->def.schema, "schema");
	llmb_check_schema(job->def.schema);
	check_mode(ask);
	check_max_cost(ask, job->max_cost);
	check_params(ask, job->def.params);
	return ask;
}
