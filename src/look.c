/*-------------------------------------------------------------------------
 *
 * look.c
 *		Small functions under the views.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "answer.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "json.h"
#include "request.h"
#include "shmem.h"
#include "sql.h"
#include "store_turnaround.h"
#include "writeback.h"

PG_FUNCTION_INFO_V1(llmb_may_see);
PG_FUNCTION_INFO_V1(llmb_is_home);
PG_FUNCTION_INFO_V1(llmb_worker_status);
PG_FUNCTION_INFO_V1(llmb_answer_json);
PG_FUNCTION_INFO_V1(llmb_time_left);
PG_FUNCTION_INFO_V1(llmb_task_status);

/* Has the current user the privileges of that role?  Of one that is gone superusers have. */
static bool
may_see(const char *role)
{
	Oid			owner = get_role_oid(role, true);

	return OidIsValid(owner) ? has_privs_of_role(GetUserId(), owner) : superuser();
}

/*
 * llm_batch.may_see(owner name) returns boolean
 */
Datum
llmb_may_see(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(may_see(NameStr(*PG_GETARG_NAME(0))));
}

/*
 * llm_batch.is_home(system_identifier bigint, database_oid bigint) returns boolean
 */
Datum
llmb_is_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(PG_GETARG_INT64(0) == (int64) GetSystemIdentifier() && PG_GETARG_INT64(1) == (int64) MyDatabaseId);
}

/* When there is no worker: the last thing that any worker wrote down. */
static TimestampTz
last_sign(void)
{
	LlmbRows   *rows = llmb_sql("SELECT at FROM llm_batch.event WHERE kind <> 'submitted' OR batch_id IS NOT NULL "
								"ORDER BY id DESC LIMIT 1", "");
	TimestampTz at = llmb_row_count(rows) ? llmb_row_time(rows, 0, 1) : 0;

	llmb_sql_done(rows);
	return Max(at, PgStartTime);
}

/*
 * llm_batch.worker_status() returns (pid, state, since, preloaded)
 */
Datum
llmb_worker_status(PG_FUNCTION_ARGS)
{
	int			pid = llmb_worker_pid();
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	nulls[0] = pid == 0;
	values[0] = Int32GetDatum(pid);
	values[1] = CStringGetTextDatum(pid != 0 ? "running" : !llmb_enabled ? "disabled" : "none");
	nulls[2] = pid != 0;
	values[2] = pid != 0 ? (Datum) 0 : TimestampTzGetDatum(last_sign());
	values[3] = BoolGetDatum(llmb_preloaded());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * llm_batch.answer_json(answer text) returns jsonb: the answer where it is
 * JSON, or the one object that stands in it; else NULL
 */
Datum
llmb_answer_json(PG_FUNCTION_ARGS)
{
	char	   *answer = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *start = answer + strspn(answer, " \t\r\n");
	char	   *utf8;
	bool		altered = false;
	const char *reason;
	LlmbJson   *json;
	StringInfoData out;

	/* most answers are prose; what holds no object or array is not worth a parse */
	if (*start != '[' && strchr(start, '{') == NULL)
		PG_RETURN_NULL();
	utf8 = llmb_to_utf8(start);
	json = *start == '[' ? llmb_json_of_text(start, &reason) : NULL;
	if (json == NULL)
		json = llmb_answer_recover(utf8, strlen(utf8), NULL, &altered, &reason);
	if (json == NULL || !llmb_answer_fits_jsonb(json))
		PG_RETURN_NULL();
	initStringInfo(&out);
	llmb_json_put_node(&out, json);
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(llmb_from_utf8(out.data, NULL))));
}

/* As the policy of llm_batch.turnaround has it. */
static bool
may_know_pace(const char *server)
{
	Oid			oid = get_foreign_server_oid(server, true);

	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		(OidIsValid(oid) && llmb_foreign_server_aclcheck(oid, GetUserId()) == ACLCHECK_OK);
}

/*
 * llm_batch.time_left(server name, model text, items int, done int,
 * submitted_at timestamptz) returns interval
 */
Datum
llmb_time_left(PG_FUNCTION_ARGS)
{
	LlmbSight	sight = {0, -1, -1, -1, -1};
	LlmbExpectation expected;
	int64		left;
	Interval   *result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	if (may_know_pace(NameStr(*PG_GETARG_NAME(0))))
		llmb_store_expect(NameStr(*PG_GETARG_NAME(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
						  PG_GETARG_INT32(2), &expected);
	else
		llmb_cadence_expect(&expected, NULL, 0);
	if (!PG_ARGISNULL(4))
		sight.elapsed_ms = (GetCurrentTimestamp() - PG_GETARG_TIMESTAMPTZ(4)) / 1000;
	if (!PG_ARGISNULL(3))
	{
		sight.total = PG_GETARG_INT32(2);
		sight.done = PG_GETARG_INT32(3);
	}
	left = llmb_cadence_left_ms(&expected, &sight);
	if (left < 0)
		PG_RETURN_NULL();
	result = palloc0(sizeof(Interval));
	result->time = left * 1000;
	PG_RETURN_INTERVAL_P(result);
}

/* ---- tasks ---- */

/*
 * The ids of tasks that the current user sees: as one with the owner's
 * privileges, and only as a monitor.
 */
static void
find_tasks(Datum *own, Datum *watched)
{
	ArrayBuildState *seen[2];
	bool		monitor = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
	LlmbRows   *rows = llmb_cursor("SELECT id, owner::text FROM llm_batch.task", "");
	int			count;

	seen[0] = initArrayResult(INT8OID, CurrentMemoryContext, false);
	seen[1] = initArrayResult(INT8OID, CurrentMemoryContext, false);
	while ((count = llmb_cursor_fetch(rows)) > 0)
	{
		for (int i = 0; i < count; i++)
		{
			bool		mine = may_see(llmb_row_text(rows, i, 2));

			if (mine || monitor)
				(void) accumArrayResult(seen[mine], Int64GetDatum(llmb_row_int(rows, i, 1)), false, INT8OID, CurrentMemoryContext);
		}
	}
	*own = makeArrayResult(seen[1], CurrentMemoryContext);
	*watched = makeArrayResult(seen[0], CurrentMemoryContext);
	llmb_cursor_done(rows);
}

static void
put_task(ReturnSetInfo *result, LlmbRows *rows, int row)
{
	Datum		values[21];
	bool		nulls[21];

	Assert(result->setDesc->natts == lengthof(values));
	for (int i = 0; i < (int) lengthof(values); i++)
		values[i] = llmb_row_datum(rows, row, i + 1, &nulls[i]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * llm_batch.task_status() returns setof (the columns of llm_batch.tasks)
 *
 * Policies hide the tables of tasks from monitors, for beside names and
 * numbers they hold text: prompts, filters, code, keys.  So they are read as
 * the extension's owner, and what may be seen is picked here.  $3 begins a
 * reason that goes on in words of somebody's code, which may quote rows.
 * Cursors, for they see what the statement sees that calls us.
 */
Datum
llmb_task_status(PG_FUNCTION_ARGS)
{
	Datum		own;
	Datum		watched;
	LlmbRows   *rows;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	find_tasks(&own, &watched);
	rows = llmb_cursor("SELECT t.name, t.owner, CASE WHEN a.id IS NOT NULL THEN format('%I.%I', a.source_schema, a.source_table) END, "
					   " CASE WHEN NOT t.enabled THEN 'disabled' "
					   "  WHEN NOT llm_batch.is_home(t.system_identifier, t.database_oid) THEN 'restored' "
					   "  WHEN a.id IS NULL THEN 'detached' WHEN g.barred_at > t.changed_at THEN 'barred' ELSE 'enabled' END, "
					   " COALESCE(llm_batch.source_trouble(a.id, a.source_schema, a.source_table, a.source_owner, t.name, t.owner, a.triggers, false), "
					   "  CASE WHEN NOT s.own AND starts_with(g.reason, $3) THEN $3 ELSE g.reason END, "
					   "  llm_batch.source_trouble(a.id, a.source_schema, a.source_table, a.source_owner, t.name, t.owner, a.triggers, true)), "
					   " t.version, t.server, t.model, t.mode, t.target, t.priority, t.max_items, t.max_wait, "
					   " w.waiting, w.since, COALESCE(g.rows, 0), COALESCE(g.jobs, 0), g.gathered_at, t.labels, t.created_at, t.changed_at "
					   "FROM (SELECT unnest($1) AS id, true AS own UNION ALL SELECT unnest($2), false) s "
					   "JOIN llm_batch.task t ON t.id = s.id "
					   "LEFT JOIN llm_batch.attachment a ON a.task_id = t.id "
					   "LEFT JOIN llm_batch.gathering g ON g.attachment_id = a.id "
					   "CROSS JOIN LATERAL (SELECT count(*) AS waiting, min(i.at) AS since "
					   " FROM (SELECT i.at FROM llm_batch.inbox i WHERE i.attachment_id = a.id ORDER BY i.id LIMIT 10001) i) w",
					   "hht", DatumGetArrayTypeP(own), DatumGetArrayTypeP(watched), LLMB_CANNOT_BE_READ);
	while ((count = llmb_cursor_fetch(rows)) > 0)
	{
		for (int i = 0; i < count; i++)
			put_task((ReturnSetInfo *) fcinfo->resultinfo, rows, i);
	}
	llmb_cursor_done(rows);
	return (Datum) 0;
}
