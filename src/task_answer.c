/*-------------------------------------------------------------------------
 *
 * task_answer.c
 *		The functions under the views of tasks.
 *
 * Row-level security on our tables hides a task's answers from everybody but
 * its owner.  A view of the task is to be shared by a plain GRANT SELECT, and
 * the functions in a view run as its reader: so task_answer() reads our tables
 * as the extension's owner and decides by itself who may have the answer:
 *
 *	- who has the privileges of the task's owner, or
 *	- who has SELECT on a view that create_view() has registered in
 *	  llm_batch.task_view for this attachment, which belongs to somebody with
 *	  the privileges of the task's owner, and which hides nothing that the
 *	  function gives (view_shape.c).
 *
 * It can be called directly, and then gives what can be seen in the view; but
 * for this: the answer to a row that was deleted is had, by who knows its
 * key, until the worker has noticed the DELETE.
 *
 * What does not help: a view of one's own (its owner has not the privileges of
 * the task's), also under the name of one that was dropped; a view over the
 * view (its reader needs SELECT on both); SELECT on some columns only; a
 * registered view that was replaced by one with a condition, by its owner, to
 * share less (the function then refuses, as long as the reader may read no
 * other); a task that was made again under the same name (attachments have
 * numbers that are never used twice); SET ROLE (what counts is the current
 * user, when the statement begins).
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "key.h"
#include "sql.h"
#include "store_task.h"
#include "template.h"
#include "view_shape.h"

PG_FUNCTION_INFO_V1(llmb_task_answer);
PG_FUNCTION_INFO_V1(llmb_answer_field);

#define OUT_COLUMNS	6

/* What holds for all rows of a statement. */
typedef struct Reading
{
	int64		attachment;
	LlmbKeyText *key_text;
	char	   *time_zone;
	bool		with_answer;	/* it is in no target column */
	bool		with_json;
	TupleDesc	desc;
} Reading;

/* ---- who may ---- */

static bool
has_privileges_of(Oid user, Oid owner)
{
	return OidIsValid(owner) ? has_privs_of_role(user, owner) : superuser_arg(user);
}

static Oid
view_by_name(const char *schema, const char *name)
{
	Oid			namespace = get_namespace_oid(schema, true);
	Oid			view = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	return OidIsValid(view) && get_rel_relkind(view) == RELKIND_VIEW ? view : InvalidOid;
}

/* By one of its views?  If not, *detail may say why. */
static bool
may_read_by_view(const LlmbAttachment *attachment, Oid owner, const char **detail)
{
	LlmbRows   *rows = llmb_sql("SELECT view_schema::text, view_name::text FROM llm_batch.task_view WHERE attachment_id = $1",
								"l", attachment->id);
	int			count = llmb_row_count(rows);
	bool		may = false;

	for (int i = 0; i < count && !may; i++)
	{
		char	   *schema = llmb_row_text(rows, i, 1);
		char	   *name = llmb_row_text(rows, i, 2);
		Oid			view = view_by_name(schema, name);
		const char *hides;

		if (!OidIsValid(view) || pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
			!has_privileges_of(llmb_relation_owner(view), owner))
			continue;
		hides = llmb_view_hides(view, attachment);
		may = hides == NULL;
		if (!may)
			*detail = psprintf("View %s cannot be shared. %s", quote_qualified_identifier(schema, name), hides);
	}
	llmb_sql_done(rows);
	return may;
}

static void
require_right(const LlmbTask *task, const LlmbAttachment *attachment)
{
	Oid			owner = get_role_oid(task->owner, true);
	const char *detail = NULL;

	if (has_privileges_of(GetUserId(), owner) || may_read_by_view(attachment, owner, &detail))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for answers of a task"),
			 detail ? errdetail_internal("%s", detail) :
			 errdetail("It takes SELECT on a view that create_view() has made, or the privileges of the task's owner."),
			 errhint("A view over such a view needs SELECT on both. Ask the owner of the task to call llm_batch.create_view() again, or to grant SELECT on the view.")));
}

/* ---- what is asked ---- */

static Reading *
begin_reading(FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	Reading    *reading = palloc0(sizeof(Reading));
	int64		id = PG_GETARG_INT64(0);
	LlmbAttachment *attachment = llmb_store_attachment(id);
	LlmbTask   *task = attachment ? llmb_store_task(NULL, attachment->task) : NULL;
	Oid			types[FUNC_MAX_ARGS];
	int			count = PG_NARGS() - 1;

	if (task == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the task whose answers are read does not exist any more"),
				 errhint("Drop the view, or make it anew with llm_batch.create_view().")));
	require_right(task, attachment);
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a VARIADIC array cannot be given"),
				 errhint("Give the columns of the key one by one.")));
	if (count != attachment->key_count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the key of the task's table has %d columns, but %d were given", attachment->key_count, count),
				 errhint("Make the view anew with llm_batch.create_view().")));
	for (int i = 0; i < count; i++)
		types[i] = get_fn_expr_argtype(fcinfo->flinfo, 1 + i);
	reading->attachment = id;
	reading->key_text = llmb_key_text_begin(types, count);
	reading->time_zone = task->time_zone;
	reading->with_answer = attachment->target_count == 0;
	reading->with_json = reading->with_answer && attachment->schema;
	if (get_call_result_type(fcinfo, NULL, &reading->desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	reading->desc = BlessTupleDesc(reading->desc);
	MemoryContextSwitchTo(old);
	return reading;
}

/* NULL: a column of the key is. */
static char *
key_of_arguments(FunctionCallInfo fcinfo, const Reading *reading)
{
	Datum		values[FUNC_MAX_ARGS];
	bool		nulls[FUNC_MAX_ARGS];
	StringInfoData key;
	bool		pin = llmb_key_text_needs_settings(reading->key_text);
	int			level = pin ? NewGUCNestLevel() : 0;
	bool		found;

	for (int i = 0; i < PG_NARGS() - 1; i++)
	{
		values[i] = PG_GETARG_DATUM(1 + i);
		nulls[i] = PG_ARGISNULL(1 + i);
	}
	/* as the key was written down, whatever the reader's settings are */
	if (pin)
		llmb_pin_rendering(reading->time_zone);
	initStringInfo(&key);
	found = llmb_key_text(reading->key_text, &key, values, nulls);
	if (pin)
		AtEOXact_GUC(false, level);
	return found ? key.data : NULL;
}

/* ---- what is answered ---- */

/*
 * Nearly all rows have been answered well: three probes.  What the others
 * are, the view llm_batch.results knows, at ten times the cost.
 */
static const char succeeded_query[] =
	"SELECT CASE WHEN $3 THEN a.answer END, CASE WHEN $4 THEN llm_batch.answer_json(a.answer) END, r.state, "
	" NULL::text, r.cost, r.completed_at, i.job_id, i.ordinal "
	"FROM llm_batch.task_item i "
	"LEFT JOIN llm_batch.result r ON r.job_id = i.job_id AND r.ordinal = i.ordinal AND r.state = 'succeeded' "
	"LEFT JOIN llm_batch.answer a ON a.job_id = r.job_id AND a.ordinal = r.ordinal AND a.attempt = r.attempt "
	"WHERE i.attachment_id = $1 AND i.key = $2";

static const char other_query[] =
	"SELECT CASE WHEN $3 AND w.fits THEN r.answer END, CASE WHEN $4 AND w.fits THEN llm_batch.answer_json(r.answer) END, r.state, "
	" CASE WHEN w.ended THEN concat_ws(': ', r.error_code, r.error) END, r.cost, CASE WHEN w.ended THEN r.completed_at END "
	"FROM llm_batch.results r CROSS JOIN LATERAL ("
	" SELECT r.state IN ('succeeded', 'failed', 'cancelled') AS ended, "
	"  r.state = 'succeeded' OR r.state = 'failed' AND r.error_code = 'write_back' AS fits) w "
	"WHERE r.job_id = $1 AND r.ordinal = $2";

static void
take_columns(const Reading *reading, LlmbRows *rows, Datum *values, bool *nulls)
{
	for (int i = 0; i < OUT_COLUMNS; i++)
	{
		Form_pg_attribute att = TupleDescAttr(reading->desc, i);

		values[i] = llmb_row_datum(rows, 0, i + 1, &nulls[i]);
		if (!nulls[i])
			values[i] = datumCopy(values[i], att->attbyval, att->attlen);
	}
}

/* Of the row's newest item, as the view llm_batch.results has it. */
static void
read_answer(const Reading *reading, const char *key, Datum *values, bool *nulls)
{
	LlmbRows   *rows = llmb_sql(succeeded_query, "ltbb", reading->attachment, key, (int) reading->with_answer, (int) reading->with_json);
	bool		found = llmb_row_count(rows) > 0;
	int64		job = found ? llmb_row_int(rows, 0, 7) : 0;
	int			ordinal = found ? (int) llmb_row_int(rows, 0, 8) : 0;

	if (found)
		take_columns(reading, rows, values, nulls);
	llmb_sql_done(rows);
	if (!found || !nulls[2])
		return;
	rows = llmb_sql(other_query, "libb", job, ordinal, (int) reading->with_answer, (int) reading->with_json);
	if (llmb_row_count(rows) > 0)
		take_columns(reading, rows, values, nulls);
	llmb_sql_done(rows);
}

/*
 * llm_batch.task_answer(attachment bigint, VARIADIC key "any") returns record:
 * what the task's newest item of that row brought; all NULL: it has none
 */
Datum
llmb_task_answer(PG_FUNCTION_ARGS)
{
	Reading    *reading = fcinfo->flinfo->fn_extra;
	Datum		values[OUT_COLUMNS] = {0};
	bool		nulls[OUT_COLUMNS];
	char	   *key;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (reading == NULL || reading->attachment != PG_GETARG_INT64(0))
		reading = fcinfo->flinfo->fn_extra = begin_reading(fcinfo);
	memset(nulls, true, sizeof(nulls));
	key = key_of_arguments(fcinfo, reading);
	if (key)
		read_answer(reading, key, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(reading->desc, values, nulls)));
}

/* ---- a member of an answer ---- */

/* NULL: not a whole number, or too large. */
static bool
as_bigint(Numeric number, int64 *result)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(number))));
	char	   *end;

	errno = 0;
	*result = strtoi64(text, &end, 10);
	return errno == 0 && *end == '\0' && end != text;
}

static char *
as_text(JsonbValue *value)
{
	Jsonb	   *jsonb;

	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	jsonb = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/*
 * llm_batch.answer_field(answer jsonb, field text, like anyelement) returns
 * anyelement: the member, or NULL where it is absent or of another type
 */
Datum
llmb_answer_field(PG_FUNCTION_ARGS)
{
	Jsonb	   *answer;
	text	   *field;
	JsonbValue *value;
	int64		number;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	answer = PG_GETARG_JSONB_P(0);
	field = PG_GETARG_TEXT_PP(1);
	value = JB_ROOT_IS_OBJECT(answer) ?
		getKeyJsonValueFromContainer(&answer->root, VARDATA_ANY(field), VARSIZE_ANY_EXHDR(field), NULL) : NULL;
	if (value == NULL || value->type == jbvNull)
		PG_RETURN_NULL();
	switch (get_fn_expr_rettype(fcinfo->flinfo))
	{
		case TEXTOID:
			PG_RETURN_TEXT_P(cstring_to_text(as_text(value)));
		case NUMERICOID:
			if (value->type == jbvNumeric)
				PG_RETURN_NUMERIC(value->val.numeric);
			break;
		case INT8OID:
			if (value->type == jbvNumeric && as_bigint(value->val.numeric, &number))
				PG_RETURN_INT64(number);
			break;
		case BOOLOID:
			if (value->type == jbvBool)
				PG_RETURN_BOOL(value->val.boolean);
			break;
		case JSONBOID:
			PG_RETURN_JSONB_P(JsonbValueToJsonb(value));
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("answer_field() gives text, numeric, bigint, boolean or jsonb"),
					 errhint("Take it as jsonb and cast that.")));
	}
	PG_RETURN_NULL();
}
