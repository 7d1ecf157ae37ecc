/*-------------------------------------------------------------------------
 *
 * view.c
 *		create_view: a task's table with its answers beside the rows.
 *
 * The view is made as the current user, by ordinary DDL, and is an ordinary
 * view: who may read it is said by GRANT, pg_dump takes it, ALTER VIEW and
 * DROP VIEW work.  llm_batch.task_view knows it by its name; what it means
 * for who may read answers is told in task_answer.c.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "ask.h"
#include "compat.h"
#include "ddl.h"
#include "sql.h"
#include "own_task.h"
#include "view.h"
#include "view_shape.h"

PG_FUNCTION_INFO_V1(llmb_create_view);

/* ---- what the view shows ---- */

/* The columns that a view has so far. */
typedef struct Columns
{
	StringInfoData list;
	List	   *names;			/* of char * */
} Columns;

static bool
is_taken(const Columns *columns, const char *name)
{
	ListCell   *lc;

	foreach(lc, columns->names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* The name with a suffix, within the length of a name. */
static char *
with_suffix(const char *name, const char *suffix)
{
	int			len = pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1 - strlen(suffix));

	return psprintf("%.*s%s", len, name, suffix);
}

/* A column of that name; if it is taken name_llm, name_llm2 and so on. */
static void
add_column(Columns *columns, const char *expression, const char *name)
{
	char	   *free_name = with_suffix(name[0] ? name : "value", "");

	for (int n = 1; is_taken(columns, free_name); n++)
		free_name = with_suffix(name, n == 1 ? "_llm" : psprintf("_llm%d", n));
	columns->names = lappend(columns->names, free_name);
	appendStringInfo(&columns->list, "%s%s AS %s", columns->list.len > 0 ? ", " : "", expression, quote_identifier(free_name));
}

static void
require_readable(Relation rel, Form_pg_attribute att)
{
	if (pg_class_aclcheck(RelationGetRelid(rel), GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(RelationGetRelid(rel), att->attnum, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for column \"%s\" of \"%s\"", NameStr(att->attname), RelationGetRelationName(rel)),
			 errdetail("The view reads it with the privileges of the role that makes the view."),
			 errhint("GRANT SELECT ON %s TO %s;",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)),
					 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

static void
add_source_column(Columns *columns, Relation rel, Form_pg_attribute att, const char *name)
{
	require_readable(rel, att);
	add_column(columns, psprintf("s.%s", quote_identifier(NameStr(att->attname))), name);
}

static void
add_source_columns(Columns *columns, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			add_source_column(columns, rel, att, NameStr(att->attname));
	}
}

/* Those that a view has: readers of it are not shown others unasked. */
static void
add_shown_columns(Columns *columns, Relation rel, List *shown)
{
	ListCell   *lc;

	foreach(lc, shown)
	{
		LlmbViewColumn *column = lfirst(lc);

		if (column->attnum > 0 && column->attnum <= RelationGetDescr(rel)->natts)
			add_source_column(columns, rel, TupleDescAttr(RelationGetDescr(rel), column->attnum - 1), column->name);
	}
}

/* What is written to target columns is in the source already. */
static void
add_answer_columns(Columns *columns, const LlmbAttachment *a)
{
	List	   *fields = llmb_answer_fields(a->schema);
	ListCell   *lc;

	if (a->target_count > 0)
		return;
	foreach(lc, fields)
	{
		LlmbAnswerField *field = lfirst(lc);

		add_column(columns, psprintf("llm_batch.answer_field(a.answer_json, %s, NULL::%s)",
									 quote_literal_cstr(field->name), format_type_extended(field->type, -1, FORMAT_TYPE_FORCE_QUALIFY)),
				   field->name);
	}
	if (fields == NIL)
		add_column(columns, "a.answer", "answer");
}

/* The query of the view over that table; of its columns only those shown, unless all. */
static char *
view_query(const LlmbAttachment *a, Relation rel, bool all, List *shown)
{
	Columns		columns = {.names = NIL};
	StringInfoData sql;

	initStringInfo(&columns.list);
	if (all)
		add_source_columns(&columns, rel);
	else
		add_shown_columns(&columns, rel, shown);
	add_answer_columns(&columns, a);
	add_column(&columns, "a.state", "state");
	add_column(&columns, "a.error", "error");
	add_column(&columns, "a.cost", "cost");
	add_column(&columns, "a.answered_at", "answered_at");
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM %s s CROSS JOIN LATERAL llm_batch.task_answer('" INT64_FORMAT "'::pg_catalog.int8",
					 columns.list.data, quote_qualified_identifier(a->source_schema, a->source_table), a->id);
	for (int i = 0; i < a->key_count; i++)
		appendStringInfo(&sql, ", s.%s", quote_identifier(a->keys[i]));
	appendStringInfoString(&sql, ") a");
	return sql.data;
}

static char *
query_of_attachment(const LlmbTask *task, const LlmbAttachment *a, bool all, List *shown)
{
	Oid			schema = get_namespace_oid(a->source_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(a->source_table, schema) : InvalidOid;
	Relation	rel = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;
	char	   *query;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s, to which task \"%s\" is attached, does not exist any more",
						quote_qualified_identifier(a->source_schema, a->source_table), task->name),
				 errhint("Create it again, or drop the task.")));
	query = view_query(a, rel, all, shown);
	relation_close(rel, NoLock);
	return query;
}

/* ---- a view that has to go and come again ---- */

/* A statement that gives a view back what it had; of a column, when the view still has that. */
typedef struct Belonging
{
	char	   *statement;
	char	   *column;			/* NULL: of the view itself */
} Belonging;

/* format()s of what $1, a view, has beside its query. */
#define GRANTEE \
	"CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END"

static const char belongings_query[] =
	"SELECT pg_catalog.format('GRANT %s ON %s TO %s%s', a.privilege_type, $1::pg_catalog.regclass, " GRANTEE ", "
	" CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), NULL "
	"FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a "
	"WHERE c.oid = $1 AND a.grantee <> c.relowner "
	"UNION ALL "
	"SELECT pg_catalog.format('GRANT %s (%I) ON %s TO %s%s', a.privilege_type, t.attname, $1::pg_catalog.regclass, " GRANTEE ", "
	" CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), t.attname "
	"FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a "
	"WHERE t.attrelid = $1 AND t.attnum > 0 "
	"UNION ALL "
	"SELECT pg_catalog.format('COMMENT ON VIEW %s IS %L', $1::pg_catalog.regclass, d.text), NULL "
	"FROM pg_catalog.obj_description($1, 'pg_class') d(text) WHERE d.text IS NOT NULL "
	"UNION ALL "
	"SELECT pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', $1::pg_catalog.regclass, t.attname, d.text), t.attname "
	"FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.col_description($1, t.attnum) d(text) "
	"WHERE t.attrelid = $1 AND t.attnum > 0 AND d.text IS NOT NULL "
	/* last, for then it may be another's */
	"UNION ALL "
	"SELECT pg_catalog.format('ALTER VIEW %s OWNER TO %I', $1::pg_catalog.regclass, pg_catalog.pg_get_userbyid(c.relowner)), NULL "
	"FROM pg_catalog.pg_class c WHERE c.oid = $1";

static const char default_grants_query[] =
	"SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', $1::pg_catalog.regclass, " GRANTEE "), NULL "
	"FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a "
	"WHERE c.oid = $1 AND a.grantee <> c.relowner";

static const char options_query[] =
	"SELECT pg_catalog.array_to_string(c.reloptions, ', '), NULL "
	"FROM pg_catalog.pg_class c WHERE c.oid = $1 AND c.reloptions IS NOT NULL";

static const char obstacles_query[] =
	"SELECT pg_catalog.format('trigger %I', t.tgname), NULL FROM pg_catalog.pg_trigger t "
	"WHERE t.tgrelid = $1 AND NOT t.tgisinternal "
	"UNION ALL "
	"SELECT pg_catalog.format('rule %I', r.rulename), NULL FROM pg_catalog.pg_rewrite r "
	"WHERE r.ev_class = $1 AND r.rulename <> '_RETURN'";

/* List of Belonging: what a query on the catalogs says of a view, as the current user. */
static List *
ask_catalogs(const char *query, Oid view)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	MemoryContext caller = CurrentMemoryContext;
	List	   *list = NIL;
	int			level = llmb_ddl_begin();

	if (SPI_execute_with_args(query, 1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(caller);
		Belonging  *belonging = palloc(sizeof(Belonging));

		belonging->statement = SPI_getvalue(tuple, desc, 1);
		belonging->column = SPI_getvalue(tuple, desc, 2);
		list = lappend(list, belonging);
		MemoryContextSwitchTo(old);
	}
	llmb_ddl_end(level);
	return list;
}

static void
run_statements(const List *belongings, Oid view)
{
	ListCell   *lc;

	foreach(lc, belongings)
	{
		Belonging  *belonging = lfirst(lc);

		if (belonging->column == NULL || get_attnum(view, belonging->column) != InvalidAttrNumber)
			llmb_ddl("%s", belonging->statement);
	}
}

/* ---- making and replacing ---- */

typedef struct ViewName
{
	char	   *schema;
	char	   *name;
	char	   *qualified;		/* both, quoted */
} ViewName;

static Oid
relation_of_name(const ViewName *view)
{
	Oid			namespace = get_namespace_oid(view->schema, true);

	return OidIsValid(namespace) ? get_relname_relid(view->name, namespace) : InvalidOid;
}

/* Do the new columns begin with those that the view has? */
static bool
columns_are_kept(Oid view, TupleDesc new)
{
	Relation	rel = relation_open(view, AccessShareLock);
	TupleDesc	old = RelationGetDescr(rel);
	bool		kept = old->natts <= new->natts;

	for (int i = 0; i < old->natts && kept; i++)
	{
		Form_pg_attribute a = TupleDescAttr(old, i);
		Form_pg_attribute b = TupleDescAttr(new, i);

		kept = strcmp(NameStr(a->attname), NameStr(b->attname)) == 0 && a->atttypid == b->atttypid &&
			a->atttypmod == b->atttypmod && a->attcollation == b->attcollation;
	}
	relation_close(rel, AccessShareLock);
	return kept;
}

static bool
can_be_replaced(Oid view, const char *query)
{
	int			level = llmb_ddl_begin();
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);
	bool		can;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	can = columns_are_kept(view, ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->resultDesc);
	llmb_ddl_end(level);
	return can;
}

static char *
with_options(Oid view)
{
	List	   *options = ask_catalogs(options_query, view);

	return options == NIL ? "" : psprintf(" WITH (%s)", ((Belonging *) linitial(options))->statement);
}

/* Whatever goes wrong says at what. */
static void
replacing(void *arg)
{
	errcontext("replacing view %s, because the columns of the answer have changed", (char *) arg);
}

static void
refuse_obstacles(Oid view, const char *qualified)
{
	List	   *obstacles = ask_catalogs(obstacles_query, view);

	if (obstacles != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("view %s has to be made anew, and %s would be lost", qualified, ((Belonging *) linitial(obstacles))->statement),
				 errhint("Drop it first, and create it again afterwards.")));
}

static void
make_anew(const ViewName *view, Oid old, const char *query)
{
	List	   *belongings;
	char	   *options;
	Oid			new;

	refuse_obstacles(old, view->qualified);
	belongings = ask_catalogs(belongings_query, old);
	options = with_options(old);
	llmb_ddl("DROP VIEW %s", view->qualified);
	llmb_ddl("CREATE VIEW %s%s AS %s", view->qualified, options, query);
	new = relation_of_name(view);
	run_statements(ask_catalogs(default_grants_query, new), new);
	run_statements(belongings, new);
}

static void
make_view(const ViewName *view, Oid existing, const char *query)
{
	if (!OidIsValid(existing))
		llmb_ddl("CREATE VIEW %s AS %s", view->qualified, query);
	else if (can_be_replaced(existing, query))
		llmb_ddl("CREATE OR REPLACE VIEW %s%s AS %s", view->qualified, with_options(existing), query);
	else
		make_anew(view, existing, query);
}

/* ---- llm_batch.task_view ---- */

static void
register_view(const ViewName *view, int64 attachment)
{
	llmb_sql_run("INSERT INTO llm_batch.task_view (view_schema, view_name, attachment_id) VALUES ($1::name, $2::name, $3) "
				 "ON CONFLICT (view_schema, view_name) DO UPDATE SET attachment_id = excluded.attachment_id",
				 "ttl", view->schema, view->name, attachment);
}

static void
unregister_view(const ViewName *view)
{
	llmb_sql_run("DELETE FROM llm_batch.task_view WHERE view_schema = $1::name AND view_name = $2::name",
				 "tt", view->schema, view->name);
}

static ViewName *
name_of(char *schema, char *name)
{
	ViewName   *view = palloc(sizeof(ViewName));

	view->schema = schema;
	view->name = name;
	view->qualified = quote_qualified_identifier(schema, name);
	return view;
}

/*
 * Whether it is a view of the attachment.  The name may be another's now, who
 * must not be able to stand in the way of the task's owner.
 */
static bool
is_view_of(const LlmbTask *task, int64 attachment, Oid relid)
{
	Oid			owner = get_role_oid(task->owner, true);
	Oid			view_owner = OidIsValid(relid) ? llmb_relation_owner(relid) : InvalidOid;

	return OidIsValid(view_owner) && llmb_view_attachment(relid) == attachment &&
		(OidIsValid(owner) ? has_privs_of_role(view_owner, owner) : superuser_arg(view_owner));
}

/* List of ViewName: the views of an attachment that are still there; others are forgotten. */
static List *
views_of(const LlmbTask *task, int64 attachment)
{
	LlmbRows   *rows = llmb_sql("SELECT view_schema::text, view_name::text FROM llm_batch.task_view "
								"WHERE attachment_id = $1 ORDER BY view_schema, view_name",
								"l", attachment);
	List	   *all = NIL;
	List	   *there = NIL;
	ListCell   *lc;

	for (int i = 0; i < llmb_row_count(rows); i++)
		all = lappend(all, name_of(llmb_row_text(rows, i, 1), llmb_row_text(rows, i, 2)));
	llmb_sql_done(rows);
	foreach(lc, all)
	{
		if (is_view_of(task, attachment, relation_of_name(lfirst(lc))))
			there = lappend(there, lfirst(lc));
		else
			unregister_view(lfirst(lc));
	}
	return there;
}

/* What somebody has made of it is not undone: it may show less on purpose. */
static void
follow(const LlmbTask *task, const LlmbAttachment *a, const ViewName *view)
{
	ErrorContextCallback callback = {error_context_stack, replacing, view->qualified};
	Oid			relid = relation_of_name(view);
	List	   *shown;

	if (llmb_view_fits(relid, a))
		return;
	if (!llmb_view_source_columns(relid, &shown))
	{
		ereport(WARNING,
				(errmsg("view %s was changed since create_view() made it, and stays as it is", view->qualified),
				 errhint("Change it again, or make it anew with llm_batch.create_view().")));
		return;
	}
	error_context_stack = &callback;
	make_view(view, relid, query_of_attachment(task, a, false, shown));
	error_context_stack = callback.previous;
}

void
llmb_views_follow(int64 task_id)
{
	LlmbTask   *task = llmb_store_task(NULL, task_id);
	ListCell   *lc;
	ListCell   *vc;

	foreach(lc, llmb_store_attachments(task_id, NULL, NULL))
	{
		LlmbAttachment *a = lfirst(lc);
		Oid			schema = get_namespace_oid(a->source_schema, true);

		/* of a table that is gone the view tells by itself */
		if (!OidIsValid(schema) || !OidIsValid(get_relname_relid(a->source_table, schema)))
			continue;
		foreach(vc, views_of(task, a->id))
			follow(task, a, lfirst(vc));
	}
}

static void
refuse_to_drop(const LlmbTask *task, bool detach, List *views)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, views)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", ((ViewName *) lfirst(lc))->qualified);
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 detach ? errmsg("cannot detach task \"%s\" because views depend on it", task->name) :
			 errmsg("cannot drop task \"%s\" because views depend on it", task->name),
			 errdetail("They show its answers: %s.", list.data),
			 detach ? errhint("DROP VIEW %s;", list.data) :
			 errhint("DROP VIEW %s; or drop the task with them: SELECT llm_batch.drop_task(%s, cascade => true);",
					 list.data, quote_literal_cstr(task->name))));
}

void
llmb_views_drop(int64 task_id, int64 attachment, bool cascade)
{
	LlmbTask   *task = llmb_store_task(NULL, task_id);
	List	   *views = NIL;
	ListCell   *lc;

	foreach(lc, llmb_store_attachments(task_id, NULL, NULL))
	{
		LlmbAttachment *a = lfirst(lc);

		if (attachment == 0 || a->id == attachment)
			views = list_concat(views, views_of(task, a->id));
	}
	if (views != NIL && !cascade)
		refuse_to_drop(task, attachment != 0, views);
	foreach(lc, views)
	{
		ViewName   *view = lfirst(lc);

		/* with an earlier one, perhaps */
		if (OidIsValid(relation_of_name(view)))
			llmb_ddl("DROP VIEW %s CASCADE", view->qualified);
		unregister_view(view);
	}
}

/* ---- create_view ---- */

static ViewName *
parse_name(const char *text)
{
	RangeVar   *range = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(text)));
	Oid			namespace;

	if (range->catalogname)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the name of a view cannot name a database"),
				 errhint("Write name => 'schema.view'.")));
	namespace = RangeVarGetCreationNamespace(range);
	if (isAnyTempNamespace(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the view cannot be temporary"),
				 errhint("Write name => 'schema.view', or CREATE TEMP VIEW over the view that is made here.")));
	return name_of(get_namespace_name(namespace), range->relname);
}

static char *
table_names(List *attachments)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, attachments)
	{
		LlmbAttachment *a = lfirst(lc);

		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_qualified_identifier(a->source_schema, a->source_table));
	}
	return list.data;
}

/* The attachment to that table; InvalidOid: to the only one. */
static LlmbAttachment *
choose_attachment(const LlmbTask *task, Oid source)
{
	List	   *attachments = llmb_store_attachments(task->id, NULL, NULL);
	char	   *schema = OidIsValid(source) ? get_namespace_name(get_rel_namespace(source)) : NULL;
	ListCell   *lc;

	foreach(lc, attachments)
	{
		LlmbAttachment *a = lfirst(lc);

		if (source == InvalidOid ? list_length(attachments) == 1 :
			schema && strcmp(a->source_schema, schema) == 0 && strcmp(a->source_table, get_rel_name(source)) == 0)
			return a;
	}
	if (attachments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task \"%s\" is not attached to a table", task->name),
				 errhint("SELECT llm_batch.attach(%s, 'table');", quote_literal_cstr(task->name))));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 OidIsValid(source) ? errmsg("task \"%s\" is not attached to that table", task->name) :
			 errmsg("task \"%s\" is attached to several tables", task->name),
			 errhint("Pass one of these as source: %s.", table_names(attachments))));
	return NULL;
}

/* What has the name must be a view of this task, or of one that is gone. */
static void
check_existing(const LlmbTask *task, const ViewName *view, Oid existing)
{
	int64		id = OidIsValid(existing) ? llmb_view_attachment(existing) : 0;
	LlmbAttachment *a = id != 0 ? llmb_store_attachment(id) : NULL;

	if (!OidIsValid(existing) || (id != 0 && (a == NULL || a->task == task->id)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("relation \"%s\" already exists", view->qualified),
			 errdetail("It is not a view of task \"%s\".", task->name),
			 errhint("Choose another name.")));
}

/*
 * llm_batch.create_view(task text, name text, source regclass) returns void
 */
Datum
llmb_create_view(PG_FUNCTION_ARGS)
{
	char	   *task_name = llmb_text_arg(fcinfo, 0);
	char	   *name = llmb_text_arg(fcinfo, 1);
	LlmbTask   *task;
	LlmbAttachment *a;
	ViewName   *view;
	Oid			existing;

	llmb_check_given(task_name, "task");
	llmb_check_given(name, "name");
	llmb_require_writable("llm_batch.create_view()");
	task = llmb_own_task(task_name);
	a = choose_attachment(task, PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2));
	view = parse_name(name);
	existing = relation_of_name(view);
	check_existing(task, view, existing);
	make_view(view, existing, query_of_attachment(task, a, true, NIL));
	register_view(view, a->id);
	PG_RETURN_VOID();
}
