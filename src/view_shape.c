/*-------------------------------------------------------------------------
 *
 * view_shape.c
 *		What a view over a task's table shows.
 *
 * Whoever may read the view may read answers, and may call the function that
 * gives them for any key.  So the view must be one that hides nothing: its
 * stored query is looked at, not its text, for that changes when columns are
 * renamed, and from one version of PostgreSQL to the next.
 *
 *		SELECT s..., answer_field(a.answer_json, 'x', NULL::t), ..., a.state, ...
 *		FROM source s CROSS JOIN LATERAL llm_batch.task_answer('1', s.key) a
 *
 * is the form that create_view() writes.  Source columns may be taken away,
 * and others be added; a condition, another key, or an answer less, and only
 * those who have the privileges of the task's owner may read it.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "answer.h"
#include "request.h"
#include "view_shape.h"

/* Result columns of llm_batch.task_answer(). */
enum
{
	OUT_ANSWER = 1, OUT_ANSWER_JSON, OUT_STATE, OUT_ERROR, OUT_COST, OUT_ANSWERED_AT
};

/* ---- the fields of an answer ---- */

static Oid
field_type(const LlmbJson *property)
{
	static const struct
	{
		const char *word;
		Oid			type;
	}			types[] = {
		{"string", TEXTOID}, {"number", NUMERICOID}, {"integer", INT8OID},
		{"boolean", BOOLOID}, {"object", JSONBOID}, {"array", JSONBOID}
	};
	LlmbJson   *any = llmb_json_get(property, "anyOf");
	Oid			found = InvalidOid;

	/* one thing or null */
	if (any && any->count == 2 && llmb_json_get(property, "type") == NULL)
	{
		bool		first_is_null = llmb_schema_has_type(any->first, "null");

		if (first_is_null || llmb_schema_has_type(any->last, "null"))
			return field_type(first_is_null ? any->last : any->first);
	}
	for (int i = 0; i < (int) lengthof(types); i++)
	{
		if (!llmb_schema_has_type(property, types[i].word))
			continue;
		found = OidIsValid(found) ? JSONBOID : types[i].type;
	}
	return OidIsValid(found) ? found : JSONBOID;
}

List *
llmb_answer_fields(const char *schema)
{
	const char *reason;
	LlmbJson   *json = schema ? llmb_json_of_text(schema, &reason) : NULL;
	LlmbJson   *properties = llmb_json_get(json, "properties");
	List	   *fields = NIL;

	if (properties == NULL || properties->type != LLMB_JSON_OBJECT)
		return NIL;
	for (const LlmbJson *child = properties->first; child; child = child->next)
	{
		LlmbAnswerField *field = palloc(sizeof(LlmbAnswerField));

		field->name = llmb_from_utf8(child->name, NULL);
		field->type = field_type(child);
		fields = lappend(fields, field);
	}
	return fields;
}

/* ---- the view's query ---- */

Oid
llmb_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

typedef struct Shape
{
	Query	   *query;
	Oid			owner;
	bool		as_reader;		/* security_invoker: its reader needs more than SELECT on it */
	int			source;			/* range table index; 0 none */
	int			answers;
	FuncExpr   *call;			/* of task_answer; NULL none */
	bool		other;			/* something else is in FROM */
} Shape;

static Oid
our_function(const char *name)
{
	return LookupFuncName(list_make2(makeString(pstrdup(LLMB_SCHEMA)), makeString(pstrdup(name))), -1, NULL, true);
}

static void
look_at_entry(Shape *shape, Oid view, RangeTblEntry *rte, int index, Oid task_answer)
{
	RangeTblFunction *function = rte->rtekind == RTE_FUNCTION && list_length(rte->functions) == 1 ? linitial(rte->functions) : NULL;

	if (rte->rtekind == RTE_JOIN || (rte->rtekind == RTE_RELATION && rte->relid == view))
		return;
	if (rte->rtekind == RTE_RELATION && shape->source == 0)
		shape->source = index;
	else if (function && function->funcexpr && IsA(function->funcexpr, FuncExpr) && shape->call == NULL &&
			 ((FuncExpr *) function->funcexpr)->funcid == task_answer)
	{
		shape->call = (FuncExpr *) function->funcexpr;
		shape->answers = index;
	}
	else
		shape->other = true;
}

/* False when that is no view. */
static bool
read_shape(Oid view, Shape *shape)
{
	Relation	rel = try_relation_open(view, AccessShareLock);
	Oid			task_answer = our_function("task_answer");
	int			index = 0;
	ListCell   *lc;

	memset(shape, 0, sizeof(*shape));
	if (rel == NULL)
		return false;
	if (rel->rd_rel->relkind != RELKIND_VIEW || !OidIsValid(task_answer))
	{
		relation_close(rel, AccessShareLock);
		return false;
	}
	shape->query = copyObject(get_view_query(rel));
	shape->owner = rel->rd_rel->relowner;
	shape->as_reader = RelationHasSecurityInvoker(rel);
	relation_close(rel, AccessShareLock);
	foreach(lc, shape->query->rtable)
		look_at_entry(shape, view, lfirst(lc), ++index, task_answer);
	return true;
}

static int64
attachment_of_call(const FuncExpr *call)
{
	Const	   *id = call && call->args != NIL && IsA(linitial(call->args), Const) ? linitial(call->args) : NULL;

	return id && id->consttype == INT8OID && !id->constisnull ? DatumGetInt64(id->constvalue) : 0;
}

int64
llmb_view_attachment(Oid view)
{
	Shape		shape;

	return read_shape(view, &shape) ? attachment_of_call(shape.call) : 0;
}

/* ---- rows ---- */

static bool
joins_freely(Node *node)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return true;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		return join->jointype == JOIN_INNER && join->quals == NULL && joins_freely(join->larg) && joins_freely(join->rarg);
	}
	if (!IsA(node, FromExpr) || ((FromExpr *) node)->quals != NULL)
		return false;
	foreach(lc, ((FromExpr *) node)->fromlist)
	{
		if (!joins_freely(lfirst(lc)))
			return false;
	}
	return true;
}

/* Every row of what is in FROM, once. */
static bool
takes_all_rows(const Query *query)
{
	return query->commandType == CMD_SELECT && joins_freely((Node *) query->jointree) &&
		query->setOperations == NULL && query->groupClause == NIL && query->groupingSets == NIL &&
		query->havingQual == NULL && query->distinctClause == NIL && query->limitOffset == NULL &&
		query->limitCount == NULL && query->cteList == NIL && query->rowMarks == NIL &&
		!query->hasAggs && !query->hasTargetSRFs && !query->hasSubLinks;
}

static bool
is_column(Node *node, int index, AttrNumber attnum)
{
	Var		   *var = (Var *) node;

	return node && IsA(node, Var) && var->varno == index && var->varattno == attnum && var->varlevelsup == 0;
}

static bool
asks_by_key(const Shape *shape, const LlmbAttachment *a, Oid source)
{
	if (list_length(shape->call->args) != 1 + a->key_count)
		return false;
	for (int i = 0; i < a->key_count; i++)
	{
		if (!is_column(list_nth(shape->call->args, 1 + i), shape->source, get_attnum(source, a->keys[i])))
			return false;
	}
	return true;
}

/* ---- who sees which rows of the source ---- */

/* Does the table show everybody the same rows, read with the privileges of that role? */
static bool
same_for_all(Oid relid, Oid reader)
{
	char		kind = get_rel_relkind(relid);

	return (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE) &&
		check_enable_rls(relid, reader, true) != RLS_ENABLED;
}

/* ---- answers ---- */

/* The member of the answer that this is, and its type; NULL: it is something else. */
static char *
field_of(Node *node, const Shape *shape, Oid answer_field, Oid *type)
{
	FuncExpr   *call = (FuncExpr *) node;
	Const	   *field;

	if (!IsA(node, FuncExpr) || call->funcid != answer_field || list_length(call->args) != 3 ||
		!is_column(linitial(call->args), shape->answers, OUT_ANSWER_JSON) || !IsA(lsecond(call->args), Const))
		return NULL;
	field = lsecond(call->args);
	*type = call->funcresulttype;
	return !field->constisnull && field->consttype == TEXTOID ? TextDatumGetCString(field->constvalue) : NULL;
}

static bool
shows_column(const Shape *shape, AttrNumber attnum)
{
	ListCell   *lc;

	foreach(lc, shape->query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (!entry->resjunk && is_column((Node *) entry->expr, shape->answers, attnum))
			return true;
	}
	return false;
}

static bool
shows_field(const Shape *shape, const LlmbAnswerField *field, Oid answer_field)
{
	ListCell   *lc;

	foreach(lc, shape->query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		Oid			type;
		char	   *name = entry->resjunk ? NULL : field_of((Node *) entry->expr, shape, answer_field, &type);

		if (name && type == field->type && strcmp(name, field->name) == 0)
			return true;
	}
	return false;
}

static bool
is_field_of(List *fields, const char *name)
{
	ListCell   *lc;

	foreach(lc, fields)
	{
		if (strcmp(((LlmbAnswerField *) lfirst(lc))->name, name) == 0)
			return true;
	}
	return false;
}

/* Nothing that answers do not have any more. */
static bool
shows_no_more(const Shape *shape, const LlmbAttachment *a)
{
	List	   *fields = a->target_count > 0 ? NIL : llmb_answer_fields(a->schema);
	Oid			answer_field = our_function("answer_field");
	ListCell   *lc;

	if ((fields != NIL || a->target_count > 0) && shows_column(shape, OUT_ANSWER))
		return false;
	foreach(lc, shape->query->targetList)
	{
		Oid			type;
		char	   *name = field_of((Node *) ((TargetEntry *) lfirst(lc))->expr, shape, answer_field, &type);

		if (name && !is_field_of(fields, name))
			return false;
	}
	return true;
}

static bool
shows_answer(const Shape *shape, const LlmbAttachment *a)
{
	List	   *fields = llmb_answer_fields(a->schema);
	Oid			answer_field = our_function("answer_field");
	ListCell   *lc;

	/* what is written to target columns the function does not give */
	if (a->target_count > 0 || shows_column(shape, OUT_ANSWER))
		return true;
	foreach(lc, fields)
	{
		if (!shows_field(shape, lfirst(lc), answer_field))
			return false;
	}
	return fields != NIL;
}

static bool
shows_everything(const Shape *shape, const LlmbAttachment *a)
{
	return shows_answer(shape, a) && shows_column(shape, OUT_STATE) && shows_column(shape, OUT_ERROR) &&
		shows_column(shape, OUT_COST) && shows_column(shape, OUT_ANSWERED_AT);
}

static Oid
source_of(const LlmbAttachment *a)
{
	Oid			schema = get_namespace_oid(a->source_schema, true);

	return OidIsValid(schema) ? get_relname_relid(a->source_table, schema) : InvalidOid;
}

bool
llmb_view_fits(Oid view, const LlmbAttachment *a)
{
	Shape		shape;

	return read_shape(view, &shape) && attachment_of_call(shape.call) == a->id && shape.source != 0 &&
		asks_by_key(&shape, a, source_of(a)) && shows_everything(&shape, a) && shows_no_more(&shape, a);
}

bool
llmb_view_source_columns(Oid view, List **columns)
{
	Oid			answer_field = our_function("answer_field");
	Shape		shape;
	ListCell   *lc;

	*columns = NIL;
	if (!read_shape(view, &shape) || shape.call == NULL || shape.source == 0 || shape.other || !takes_all_rows(shape.query))
		return false;
	foreach(lc, shape.query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		Var		   *var = (Var *) entry->expr;
		Oid			type;

		if (IsA(var, Var) && var->varno == shape.source && var->varlevelsup == 0)
		{
			LlmbViewColumn *column = palloc(sizeof(LlmbViewColumn));

			column->attnum = var->varattno;
			column->name = pstrdup(entry->resname);
			*columns = lappend(*columns, column);
		}
		else if (!(IsA(var, Var) && var->varno == shape.answers && var->varlevelsup == 0) &&
				 field_of((Node *) var, &shape, answer_field, &type) == NULL)
			return false;
	}
	return true;
}

const char *
llmb_view_hides(Oid view, const LlmbAttachment *a)
{
	Oid			source = source_of(a);
	RangeTblEntry *rte;
	Shape		shape;

	if (!read_shape(view, &shape) || attachment_of_call(shape.call) != a->id)
		return "It does not show the answers of this task.";
	if (shape.other || shape.source == 0)
		return "It is not over the task's table alone.";
	rte = rt_fetch(shape.source, shape.query->rtable);
	if (rte->relid != source)
		return "It is not over the task's table, or that has another name now.";
	if (!takes_all_rows(shape.query) || !rte->inh || rte->tablesample || !asks_by_key(&shape, a, source))
		return "It was changed since create_view() made it, and does not show all rows any more.";
	if (!shows_everything(&shape, a))
		return "It was changed since create_view() made it, and does not show all answers any more.";
	if (shape.as_reader)
		return "It has the option security_invoker.";
	if (!same_for_all(source, shape.owner))
		return "Row-level security of the task's table applies to the view's owner.";
	return NULL;
}
