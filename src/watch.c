/*-------------------------------------------------------------------------
 *
 * watch.c
 *		Which columns of a table can change what a task asks of a row.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/sysattr.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "source.h"
#include "watch.h"

/* ---- conditions ---- */

static Node *
raw_condition(const char *condition)
{
	int			level = NewGUCNestLevel();
	List	   *parsed;
	SelectStmt *select;

	llmb_pin_strings();
	parsed = raw_parser(psprintf("SELECT %s\n", condition), RAW_PARSE_DEFAULT);
	AtEOXact_GUC(false, level);
	select = castNode(SelectStmt, linitial_node(RawStmt, parsed)->stmt);
	return linitial_node(ResTarget, select->targetList)->val;
}

typedef struct Names
{
	Relation	rel;
	Bitmapset  *columns;
	bool		whole;
} Names;

/* A name that is no column's may stand for the row, or for a function of it. */
static bool
note_names(Node *node, void *context)
{
	Names	   *names = context;
	ListCell   *lc;
	bool		found = false;

	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
		names->whole = true;
	if (!IsA(node, ColumnRef))
		return raw_expression_tree_walker(node, note_names, context);
	foreach(lc, castNode(ColumnRef, node)->fields)
	{
		AttrNumber	attnum = IsA(lfirst(lc), String) ? get_attnum(RelationGetRelid(names->rel), strVal(lfirst(lc))) : 0;

		found |= attnum > 0;
		if (attnum > 0)
			names->columns = bms_add_member(names->columns, attnum);
	}
	names->whole |= !found;
	return false;
}

Bitmapset *
llmb_condition_columns(Relation rel, const char *condition, bool *whole)
{
	Names		names = {.rel = rel};

	(void) note_names(raw_condition(condition), &names);
	*whole = names.whole;
	return names.columns;
}

/* Names that would be found here, by the caller's search_path, are not when the worker looks. */
static void
condition_error(void *arg)
{
	int			code = geterrcode();

	(void) arg;
	errcontext("filter of a task");
	if (code == ERRCODE_UNDEFINED_FUNCTION || code == ERRCODE_UNDEFINED_OBJECT || code == ERRCODE_UNDEFINED_TABLE)
		errhint("It is read with search_path pg_catalog, pg_temp: write names of functions, operators, types and tables with their schema.");
}

void
llmb_check_condition_on(Relation rel, const char *condition)
{
	ErrorContextCallback callback = {error_context_stack, condition_error, NULL};
	ParseState *pstate = make_parsestate(NULL);
	int			level = NewGUCNestLevel();
	ParseNamespaceItem *item;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, item, true, true, true);
	error_context_stack = &callback;
	(void) transformWhereClause(pstate, raw_condition(condition), EXPR_KIND_WHERE, "WHERE");
	error_context_stack = callback.previous;
	AtEOXact_GUC(false, level);
	free_parsestate(pstate);
}

/* ---- columns ---- */

/* Attribute numbers as pull_varattnos() gives them; system columns are left out. */
static Bitmapset *
plain_numbers(const Bitmapset *offset, bool *whole)
{
	Bitmapset  *numbers = NULL;
	int			member = -1;

	while ((member = bms_next_member(offset, member)) >= 0)
	{
		int			attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum == InvalidAttrNumber)
			*whole = true;
		else if (attnum > 0)
			numbers = bms_add_member(numbers, attnum);
	}
	return numbers;
}

/* What a generated column reads. */
static Bitmapset *
read_by_generated(Relation rel, int generated, bool *whole)
{
	Bitmapset  *offset = NULL;

	pull_varattnos(build_column_default(rel, generated), 1, &offset);
	return plain_numbers(offset, whole);
}

bool
llmb_generated_from(Relation rel, int generated, const Bitmapset *columns)
{
	bool		whole = false;

	if (!TupleDescAttr(RelationGetDescr(rel), generated - 1)->attgenerated)
		return false;
	return bms_overlap(read_by_generated(rel, generated, &whole), columns) || whole;
}

Bitmapset *
llmb_with_virtual_read(Relation rel, Bitmapset *columns, bool *whole)
{
	Bitmapset  *read = NULL;
	int			attnum = -1;

	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		if (llmb_is_virtual(TupleDescAttr(RelationGetDescr(rel), attnum - 1)))
			read = bms_add_members(read, read_by_generated(rel, attnum, whole));
	}
	return bms_add_members(columns, read);
}

Bitmapset *
llmb_column_numbers(Relation rel, char **names, int count, const char **missing)
{
	Bitmapset  *numbers = NULL;

	*missing = NULL;
	for (int i = 0; i < count; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), names[i]);

		if (attnum > 0)
			numbers = bms_add_member(numbers, attnum);
		else if (*missing == NULL)
			*missing = names[i];
	}
	return numbers;
}
