/*-------------------------------------------------------------------------
 *
 * task.c
 *		create_task, alter_task, drop_task and run.
 *
 * A task says what is asked of a row, an attachment of which table.  Both are
 * checked when they are made, as the task's owner, whose jobs they become;
 * the worker finds out at use what has changed since.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/namespace.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "attach.h"
#include "compat.h"
#include "fill.h"
#include "inbox.h"
#include "own_task.h"
#include "preset.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "task_trigger.h"
#include "trouble.h"
#include "view.h"

PG_FUNCTION_INFO_V1(llmb_create_task);
PG_FUNCTION_INFO_V1(llmb_alter_task);
PG_FUNCTION_INFO_V1(llmb_drop_task);
PG_FUNCTION_INFO_V1(llmb_run);

#define MAX_NAME_BYTES	256

/* Arguments of create_task and alter_task. */
enum
{
	ARG_NAME, ARG_PROMPT, ARG_PRESET, ARG_MODEL, ARG_TARGET, ARG_KEY, ARG_FILTER, ARG_SERVER, ARG_SYSTEM,
	ARG_PARAMS, ARG_SCHEMA, ARG_MODE, ARG_PRIORITY, ARG_CACHE, ARG_PACK, ARG_MASK_PII, ARG_MAX_COST, ARG_DEADLINE,
	ARG_LABELS, ARG_MAX_WAIT, ARG_MAX_ITEMS, ARG_ON_SUCCESS, ARG_ON_ERROR, ARG_ENABLED
};

/* ---- arguments ---- */

/* NULL leaves a member as it is, and '' takes it away. */
static void
take_text(FunctionCallInfo fcinfo, int n, char **member)
{
	if (PG_ARGISNULL(n))
		return;
	*member = llmb_text_arg(fcinfo, n);
	if ((*member)[0] == '\0')
		*member = NULL;
}

static void
take_object(FunctionCallInfo fcinfo, int n, const char *name, char **member)
{
	if (!PG_ARGISNULL(n))
		*member = llmb_object_arg(fcinfo, n, name, NULL);
}

static void
take_interval(FunctionCallInfo fcinfo, int n, char **member)
{
	if (!PG_ARGISNULL(n))
		*member = DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(n)));
}

static int
compare_intervals(const char *a, const char *b)
{
	Datum		x = DirectFunctionCall3(interval_in, CStringGetDatum(a), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	Datum		y = DirectFunctionCall3(interval_in, CStringGetDatum(b), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	return DatumGetInt32(DirectFunctionCall2(interval_cmp, x, y));
}

/* What has no empty text is taken away by what could not be meant: an empty object, NaN, no time at all. */
static void
take_away(char **member, const char *nothing)
{
	if (*member && strcmp(*member, nothing) == 0)
		*member = NULL;
}

/* What a preset brings stands back behind what is given here, and behind what was given before. */
static void
take_preset(FunctionCallInfo fcinfo, LlmbTask *task)
{
	LlmbPreset	preset;

	if (PG_ARGISNULL(ARG_PRESET))
		return;
	task->preset = llmb_text_arg(fcinfo, ARG_PRESET);
	llmb_preset(task->preset, &preset);
	task->prompt = preset.prompt;
	task->system = preset.system;
	task->params = preset.params;
	task->schema = preset.schema;
}

static void
take_arguments(FunctionCallInfo fcinfo, LlmbTask *task)
{
	take_preset(fcinfo, task);
	take_text(fcinfo, ARG_PROMPT, &task->prompt);
	take_text(fcinfo, ARG_MODEL, &task->model);
	take_text(fcinfo, ARG_TARGET, &task->target);
	take_text(fcinfo, ARG_KEY, &task->key);
	take_text(fcinfo, ARG_FILTER, &task->filter);
	if (!PG_ARGISNULL(ARG_SERVER))
		task->server = pstrdup(NameStr(*PG_GETARG_NAME(ARG_SERVER)));
	take_text(fcinfo, ARG_SYSTEM, &task->system);
	take_object(fcinfo, ARG_PARAMS, "params", &task->params);
	take_object(fcinfo, ARG_SCHEMA, "schema", &task->schema);
	take_text(fcinfo, ARG_MODE, &task->mode);
	if (!PG_ARGISNULL(ARG_PRIORITY))
		task->priority = PG_GETARG_INT32(ARG_PRIORITY);
	if (!PG_ARGISNULL(ARG_MASK_PII))
		task->mask_pii = PG_GETARG_BOOL(ARG_MASK_PII);
	if (!PG_ARGISNULL(ARG_MAX_COST))
		task->max_cost = DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(ARG_MAX_COST)));
	take_interval(fcinfo, ARG_DEADLINE, &task->deadline);
	take_object(fcinfo, ARG_LABELS, "labels", &task->labels);
	take_interval(fcinfo, ARG_MAX_WAIT, &task->max_wait);
	if (!PG_ARGISNULL(ARG_MAX_ITEMS))
		task->max_items = PG_GETARG_INT32(ARG_MAX_ITEMS);
	take_text(fcinfo, ARG_ON_SUCCESS, &task->on_success);
	take_text(fcinfo, ARG_ON_ERROR, &task->on_error);
	take_away(&task->schema, "{}");
	take_away(&task->max_cost, "NaN");
	if (task->deadline && compare_intervals(task->deadline, "0") == 0)
		task->deadline = NULL;
	/* the table is the schema, unless somebody says otherwise */
	if (!PG_ARGISNULL(ARG_PRESET) && PG_ARGISNULL(ARG_SCHEMA) && task->target)
		task->schema = NULL;
}

/* ---- checks ---- */

static void
check_own_arguments(const LlmbTask *task)
{
	if (task->prompt == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a task needs a prompt"),
				 errhint("Pass prompt => 'Summarise: {{body}}', or preset => 'summary'.")));
	if (task->max_items < 1 || task->max_items > 50000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_items must lie between 1 and 50000"),
				 errhint("So many changed rows travel at once, even if they are young.")));
	if (compare_intervals(task->max_wait, "0") < 0 || compare_intervals(task->max_wait, "7 days") > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wait must lie between 0 and 7 days"),
				 errhint("A changed row waits so long at most for others to travel with.")));
	if (task->filter)
		llmb_check_condition(task->filter);
	(void) llmb_template_parse(task->prompt);
	/* without a schema the columns that it is attached to may have the list */
	if (task->schema || task->target == NULL)
		llmb_preset_check(task->preset, task->schema);
}

static int
pack_arg(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(ARG_PACK) ? 1 : PG_GETARG_INT32(ARG_PACK);
}

/* ---- entry points: tasks ---- */

/*
 * llm_batch.create_task(name, ...) returns bigint, the task's id
 */
Datum
llmb_create_task(PG_FUNCTION_ARGS)
{
	LlmbTask	task = {.version = 1, .enabled = true, .mode = "auto", .labels = "{}", .max_items = 10000, .params = "{}", .max_wait = "00:01:00"};
	LlmbAsk    *ask;

	llmb_require_writable("llm_batch.create_task()");
	task.name = llmb_text_arg(fcinfo, ARG_NAME);
	llmb_check_given(task.name, "name");
	if (strlen(task.name) > MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("the name of a task cannot be longer than %d bytes", MAX_NAME_BYTES),
				 errhint("Shorten it.")));
	task.owner = GetUserNameFromId(GetUserId(), false);
	task.time_zone = pstrdup(pg_get_timezone_name(session_timezone));
	take_arguments(fcinfo, &task);
	check_own_arguments(&task);
	ask = llmb_ask_of_task(&task, pack_arg(fcinfo));
	task.server = ask->server->name;
	if (!llmb_store_new_task(&task))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("task \"%s\" already exists", task.name),
				 errhint("Choose another name, or change it: SELECT llm_batch.alter_task(...).")));
	PG_RETURN_INT64(task.id);
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* alter_task(name, enabled => false), and nothing else? */
static bool
only_disables(FunctionCallInfo fcinfo)
{
	for (int i = ARG_NAME + 1; i < ARG_ENABLED; i++)
	{
		if (!PG_ARGISNULL(i))
			return false;
	}
	return !PG_ARGISNULL(ARG_ENABLED) && !PG_GETARG_BOOL(ARG_ENABLED);
}

/*
 * llm_batch.alter_task(name, ...) returns int, the version of its prompt
 */
Datum
llmb_alter_task(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_to_change(fcinfo, "llm_batch.alter_task()");
	LlmbTask	was = *task;
	LlmbIdentity	self;

	if (only_disables(fcinfo))
	{
		/* whatever else is wrong with it: that can be mended later */
		task->enabled = false;
		llmb_store_change_task(task);
		PG_RETURN_INT32(task->version);
	}
	/* another model is looked for on any server, unless one is named */
	if (!PG_ARGISNULL(ARG_MODEL) && PG_ARGISNULL(ARG_SERVER) && strcmp(llmb_text_arg(fcinfo, ARG_MODEL), was.model) != 0)
		task->server = NULL;
	take_arguments(fcinfo, task);
	if (!PG_ARGISNULL(ARG_ENABLED))
		task->enabled = PG_GETARG_BOOL(ARG_ENABLED);
	check_own_arguments(task);
	if (!same_text(task->prompt, was.prompt) || !same_text(task->system, was.system) ||
		!same_text(task->params, was.params) || !same_text(task->schema, was.schema))
		task->version++;
	llmb_become_owner(task, &self);
	task->server = llmb_ask_of_task(task, pack_arg(fcinfo))->server->name;
	llmb_become_self(&self);
	llmb_store_change_task(task);
	llmb_renew_attachments(task, task->filter && !same_text(task->filter, was.filter));
	llmb_views_follow(task->id);
	llmb_wake_at_commit();
	PG_RETURN_INT32(task->version);
}

/*
 * llm_batch.drop_task(name, cascade) returns void
 */
Datum
llmb_drop_task(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_to_change(fcinfo, "llm_batch.drop_task()");
	ListCell   *lc;

	llmb_views_drop(task->id, 0, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	foreach(lc, llmb_store_attachments(task->id, NULL, NULL))
	{
		LlmbAttachment *a = lfirst(lc);
		Oid			relid = llmb_table_by_name(a->source_schema, a->source_table);

		if (OidIsValid(relid))
			llmb_drop_triggers(a->id, relid);
		else
			llmb_triggers_forget(InvalidOid);
	}
	llmb_store_drop_task(task->id);
	llmb_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- entry points: rows that are there already ---- */

typedef struct RunSink
{
	LlmbInboxWriter *writer;
	char		kind;
} RunSink;

static void
put_key(const char *key, void *arg)
{
	RunSink    *sink = arg;

	llmb_inbox_put(sink->writer, sink->kind, key);
}

static int64
run_attachment(const LlmbTask *task, const LlmbAttachment *a, const char *filter, bool again)
{
	Oid			schema = get_namespace_oid(a->source_schema, false);
	Oid			relid = get_relname_relid(a->source_table, schema);
	LlmbSource *source;
	LlmbIdentity	was;
	RunSink		sink = {.kind = again ? LLMB_ROW_AGAIN : LLMB_ROW_CHANGED};

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s does not exist any more", quote_qualified_identifier(a->source_schema, a->source_table)),
				 errhint("SELECT llm_batch.drop_task(%s);", quote_literal_cstr(task->name))));
	llmb_become_owner(task, &was);
	source = llmb_source_resolve(relid, a->prompt, task->key, NULL);
	sink.writer = llmb_inbox_begin(a->id);
	llmb_fill_keys(source, filter, task->time_zone, put_key, &sink);
	llmb_become_self(&was);
	return llmb_inbox_end(sink.writer);
}

/*
 * llm_batch.run(task, filter, again) returns bigint, how many rows will be
 * looked at
 */
Datum
llmb_run(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_arg(fcinfo, "llm_batch.run()");
	char	   *filter = llmb_text_arg(fcinfo, 1);
	List	   *attachments = llmb_store_attachments(task->id, NULL, NULL);
	int64		rows = 0;
	ListCell   *lc;

	if (filter)
		llmb_check_condition(filter);
	if (attachments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task \"%s\" is not attached to a table", task->name),
				 errhint("SELECT llm_batch.attach(%s, 'table');", quote_literal_cstr(task->name))));
	foreach(lc, attachments)
		rows += run_attachment(task, lfirst(lc), filter, !PG_ARGISNULL(2) && PG_GETARG_BOOL(2));
	PG_RETURN_INT64(rows);
}
