/*-------------------------------------------------------------------------
 *
 * source.c
 *		The user's table, as the catalogs describe it.
 *
 * All that can be known to fail is refused here, before money is spent.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "source.h"
#include "sql.h"

/* ---- columns ---- */

static const char *
nearest_column(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char	  **names = palloc(sizeof(char *) * Max(desc->natts, 1));
	int			count = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			names[count++] = NameStr(TupleDescAttr(desc, i)->attname);
	}
	return llmb_nearest(name, names, count);
}

/* As it is to be written where it stands: in a template, or in a list of SQL names. */
static int
hint_at_column(const char *role, const char *near)
{
	if (strcmp(role, "prompt") == 0)
		return errhint("Perhaps you meant {{%s}}.", near);
	if (strcmp(quote_identifier(near), near) == 0)
		return errhint("Perhaps you meant column \"%s\".", near);
	return errhint("Perhaps you meant column \"%s\". Names are read as SQL reads them: write %s => '%s'.",
				   near, role, quote_identifier(near));
}

static Form_pg_attribute
find_column(Relation rel, const char *name, const char *role)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const char *near;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att;
	}
	near = nearest_column(rel, name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("%s column \"%s\" does not exist in \"%s\"", role, name, RelationGetRelationName(rel)),
			 near ? hint_at_column(role, near) :
			 errhint("Name a column of \"%s\".", RelationGetRelationName(rel))));
	return NULL;
}

static void
require_column(Relation rel, Form_pg_attribute att, AclMode mode)
{
	Oid			relid = RelationGetRelid(rel);
	const char *verb = mode == ACL_SELECT ? "SELECT" : "UPDATE";

	if (pg_class_aclcheck(relid, GetUserId(), mode) == ACLCHECK_OK ||
		pg_attribute_aclcheck(relid, att->attnum, GetUserId(), mode) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for column \"%s\" of \"%s\"",
					NameStr(att->attname), RelationGetRelationName(rel)),
			 errdetail("The job needs %s on it, now and when the answers arrive.", verb),
			 errhint("GRANT %s (%s) ON %s TO %s;", verb, quote_identifier(NameStr(att->attname)),
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)),
					 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

/* 'a, b' as names, read as SQL reads identifiers. */
static char **
name_list(const char *text, const char *role, int *count)
{
	List	   *list;
	ListCell   *lc;
	char	  **names;

	if (!SplitIdentifierString(pstrdup(text), ',', &list) || list == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list of %s columns: \"%s\"", role, text),
				 errhint("Separate column names by commas; quote names that need it.")));
	names = palloc(sizeof(char *) * list_length(list));
	*count = 0;
	foreach(lc, list)
	{
		char	   *name = lfirst(lc);

		for (int i = 0; i < *count; i++)
		{
			if (strcmp(names[i], name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("%s column \"%s\" is named twice", role, name),
						 errhint("Name each column once.")));
		}
		names[(*count)++] = name;
	}
	return names;
}

/* ---- the relation ---- */

static void
check_kind(Relation rel)
{
	char		kind = rel->rd_rel->relkind;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW &&
		kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table or view", RelationGetRelationName(rel)),
				 errhint("Pass a table or view as source.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a temporary table", RelationGetRelationName(rel)),
				 errdetail("The background worker cannot see temporary tables of a session."),
				 errhint("Use submit_query() to read it and llm_batch.results for the answers, or an ordinary table.")));
}

/* ---- the key ---- */

static char **
index_columns(Relation rel, Relation index, int *count)
{
	char	  **names = palloc(sizeof(char *) * index->rd_index->indnkeyatts);

	*count = index->rd_index->indnkeyatts;
	for (int i = 0; i < *count; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];

		if (attnum <= 0)
			return NULL;
		names[i] = pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname));
	}
	return names;
}

static bool
columns_not_null(Relation rel, char **names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (!find_column(rel, names[i], "key")->attnotnull)
			return false;
	}
	return true;
}

/* A full, valid, immediate unique index on plain columns. */
static bool
tells_rows_apart(Relation index)
{
	return index->rd_index->indisunique && index->rd_index->indisvalid &&
		index->rd_index->indimmediate && RelationGetIndexPredicate(index) == NIL &&
		RelationGetIndexExpressions(index) == NIL;
}

/* The primary key, else the first unique index over NOT NULL columns. */
static char **
default_key(Relation rel, int *count)
{
	List	   *indexes = RelationGetIndexList(rel);
	char	  **found = NULL;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		int			n;

		if (tells_rows_apart(index))
		{
			char	  **names = index_columns(rel, index, &n);

			if (names && (index->rd_index->indisprimary ||
						  (found == NULL && columns_not_null(rel, names, n))))
			{
				found = names;
				*count = n;
			}
		}
		index_close(index, AccessShareLock);
		if (found && index->rd_index->indisprimary)
			break;
	}
	return found;
}

static bool
same_columns(char **a, int na, char **b, int nb)
{
	int			hits = 0;

	for (int i = 0; i < na; i++)
	{
		for (int j = 0; j < nb; j++)
			hits += strcmp(a[i], b[j]) == 0;
	}
	return na == nb && hits == na;
}

/* A named key must tell the rows apart, else an answer would hit several. */
static void
check_named_key(Relation rel, char **names, int count)
{
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		int			n;
		char	  **columns = tells_rows_apart(index) ? index_columns(rel, index, &n) : NULL;
		bool		same = columns && same_columns(names, count, columns, n);

		index_close(index, AccessShareLock);
		if (same)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the key of \"%s\" is not unique", RelationGetRelationName(rel)),
			 errdetail("There is no unique index on exactly these columns."),
			 errhint("CREATE UNIQUE INDEX ON %s (...), or name the columns of another unique index.",
					 quote_identifier(RelationGetRelationName(rel)))));
}

static void
resolve_key(LlmbSource *source, Relation rel, const char *key)
{
	char		kind = rel->rd_rel->relkind;

	if (key)
	{
		source->keys = name_list(key, "key", &source->key_count);
		for (int i = 0; i < source->key_count; i++)
			(void) find_column(rel, source->keys[i], "key");
		if (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE || kind == RELKIND_MATVIEW)
			check_named_key(rel, source->keys, source->key_count);
	}
	else
		source->keys = default_key(rel, &source->key_count);
	if (source->keys == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("\"%s\" has no key", RelationGetRelationName(rel)),
				 errdetail("An answer finds its row by a primary key, or by a unique index over columns that are NOT NULL."),
				 errhint("Add a primary key; for a view, pass key => 'column'.")));
	for (int i = 0; i < source->key_count; i++)
		require_column(rel, find_column(rel, source->keys[i], "key"), ACL_SELECT);
}

/* ---- the template ---- */

/* Columns that tasks write: what a model said of the row is not the row. */
static char **
task_targets(const LlmbSource *source, int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT DISTINCT t FROM llm_batch.attachment, LATERAL unnest(target_columns) t "
								"WHERE source_schema = $1::name AND source_table = $2::name AND source_owner = $3::name",
								"ttt", source->schema, source->table, source->owner);
	char	  **names;

	*count = llmb_row_count(rows);
	names = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		names[i] = llmb_row_text(rows, i, 1);
	llmb_sql_done(rows);
	return names;
}

static bool
is_among(const char *name, char **names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

/*
 * {{*}} is the row as people know it: not what is generated from other
 * columns, nor what answers are written to, by this job or by tasks.
 */
static LlmbTemplate *
expand_star(LlmbSource *source, Relation rel, const LlmbTemplate *template, const char *target)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char	  **columns = palloc(sizeof(char *) * Max(desc->natts, 1));
	int			count = 0;
	int			target_count = 0;
	char	  **targets = target ? name_list(target, "target", &target_count) : NULL;
	int			written_count;
	char	  **written = task_targets(source, &written_count);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		char	   *name = NameStr(att->attname);

		if (!att->attisdropped && !att->attgenerated && !llmb_template_star_skips(att->atttypid) &&
			!is_among(name, targets, target_count) && !is_among(name, written, written_count))
			columns[count++] = name;
	}
	source->prompt = llmb_template_expand(template, columns, count);
	return llmb_template_parse(source->prompt);
}

static void
resolve_template(LlmbSource *source, Relation rel, const char *prompt, const char *target)
{
	LlmbTemplate *template = llmb_template_parse(prompt);

	source->prompt = pstrdup(prompt);
	if (llmb_template_has_star(template))
		template = expand_star(source, rel, template, target);
	source->template = template;
	source->template_types = palloc(sizeof(Oid) * Max(template->column_count, 1));
	for (int i = 0; i < template->column_count; i++)
	{
		Form_pg_attribute att = find_column(rel, template->columns[i], "prompt");

		require_column(rel, att, ACL_SELECT);
		source->template_types[i] = att->atttypid;
	}
	if (template->column_count >= FUNC_MAX_ARGS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_ARGUMENTS),
				 errmsg("the prompt template names more than %d columns", FUNC_MAX_ARGS - 1),
				 errhint("Put them together in a view, or use to_jsonb().")));
}

/* ---- the targets ---- */

static void
check_target(LlmbSource *source, Relation rel, Form_pg_attribute att)
{
	const char *name = NameStr(att->attname);

	if (att->attgenerated)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("target column \"%s\" is a generated column", name),
				 errhint("Name a column that can be updated.")));
	if (att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("target column \"%s\" is an identity column defined as GENERATED ALWAYS", name),
				 errhint("Name a column that can be updated.")));
	for (int i = 0; i < source->key_count; i++)
	{
		if (strcmp(source->keys[i], name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("target column \"%s\" is part of the key", name),
					 errhint("Name another column; the key is how an answer finds its row.")));
	}
	for (int i = 0; i < source->template->column_count; i++)
	{
		if (strcmp(source->template->columns[i], name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("target column \"%s\" is read by the prompt", name),
					 errdetail("The answer would change the question, and count as stale."),
					 errhint("Name another column.")));
	}
	require_column(rel, att, ACL_UPDATE);
}

static void
check_updatable(Relation rel, const Bitmapset *columns)
{
	int			events = relation_is_updatable(RelationGetRelid(rel), NIL, true, (Bitmapset *) columns);

	if ((events & (1 << CMD_UPDATE)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" cannot be updated", RelationGetRelationName(rel)),
				 errdetail("The answers could not be written to it."),
				 errhint("Use its base table as source, give the view an INSTEAD OF UPDATE trigger, or pass target => NULL.")));
}

static void
resolve_targets(LlmbSource *source, Relation rel, const char *target)
{
	Bitmapset  *columns = NULL;

	if (target == NULL)
		return;
	source->targets = name_list(target, "target", &source->target_count);
	for (int i = 0; i < source->target_count; i++)
	{
		Form_pg_attribute att = find_column(rel, source->targets[i], "target");

		check_target(source, rel, att);
		columns = bms_add_member(columns, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	check_updatable(rel, columns);
}

LlmbSource *
llmb_source_resolve(Oid relid, const char *prompt, const char *key, const char *target)
{
	LlmbSource *source = palloc0(sizeof(LlmbSource));
	Relation	rel = try_relation_open(relid, AccessShareLock);

	/* any number can be given as a regclass */
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("Pass the name of a table or view as source.")));
	check_kind(rel);
	source->relid = relid;
	source->schema = get_namespace_name(RelationGetNamespace(rel));
	source->table = pstrdup(RelationGetRelationName(rel));
	source->owner = GetUserNameFromId(rel->rd_rel->relowner, false);
	resolve_template(source, rel, prompt, target);
	resolve_key(source, rel, key);
	resolve_targets(source, rel, target);
	relation_close(rel, NoLock);
	return source;
}

bool
llmb_owner_is_known(Oid relid, const char *owner, Oid user)
{
	HeapTuple	tuple;
	Oid			relowner;

	if (owner == NULL)
		return true;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	relowner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return relowner == get_role_oid(owner, true) || (OidIsValid(user) && has_privs_of_role(user, relowner));
}

void
llmb_def_of_source(LlmbJobDef *def, const LlmbSource *source)
{
	def->prompt = source->prompt;
	def->source_schema = source->schema;
	def->source_table = source->table;
	def->source_owner = source->owner;
	def->key_columns = source->keys;
	def->key_count = source->key_count;
	def->target_columns = source->targets;
	def->target_count = source->target_count;
}

/* ---- texts that become SQL ---- */

void
llmb_pin_strings(void)
{
	static const char *const pinned[] = {"standard_conforming_strings", "backslash_quote"};

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		/* later versions read them in no other way */
		if (GetConfigOption(pinned[i], true, false) != NULL)
			(void) set_config_option(pinned[i], "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
}

/* A syntax error in a filter points into the filter, not into the statement. */
static void
filter_error(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(arg);
	}
	errcontext("filter");
	errhint("Write what would stand behind WHERE, for instance: filter => 'summary IS NULL'.");
}

static List *
parse_filter(char *text)
{
	ErrorContextCallback callback = {error_context_stack, filter_error, text};
	int			level = NewGUCNestLevel();
	List	   *parsed;

	llmb_pin_strings();
	error_context_stack = &callback;
	parsed = raw_parser(text, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;
	AtEOXact_GUC(false, level);
	return parsed;
}

void
llmb_check_condition(const char *filter)
{
	List	   *parsed = parse_filter(psprintf("SELECT %s\n", filter));
	SelectStmt *select;

	/* a length is given only to what ends with a semicolon */
	if (list_length(parsed) != 1 || linitial_node(RawStmt, parsed)->stmt_len != 0 ||
		!IsA(linitial_node(RawStmt, parsed)->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the filter must be one SQL condition"),
				 errdetail("It holds more than one statement, or a semicolon."),
				 errhint("Write what would stand behind WHERE, without a semicolon.")));
	select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (list_length(select->targetList) != 1 || select->fromClause || select->whereClause ||
		select->groupClause || select->havingClause || select->sortClause || select->limitCount ||
		select->limitOffset || select->lockingClause || select->withClause || select->intoClause ||
		select->distinctClause || select->windowClause || select->op != SETOP_NONE ||
		linitial_node(ResTarget, select->targetList)->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the filter must be one SQL condition"),
				 errhint("Write what would stand behind WHERE, for instance: filter => 'summary IS NULL'.")));
}

void
llmb_check_query(const char *query)
{
	List	   *parsed = raw_parser(query, RAW_PARSE_DEFAULT);

	if (parsed == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query is empty"),
				 errhint("Pass a SELECT that yields the columns key and prompt.")));
	if (list_length(parsed) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query must be one statement"),
				 errhint("Pass a single SELECT that yields the columns key and prompt.")));
	if (!IsA(linitial_node(RawStmt, parsed)->stmt, SelectStmt) ||
		((SelectStmt *) linitial_node(RawStmt, parsed)->stmt)->intoClause)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query must be a SELECT"),
				 errhint("Pass a SELECT, VALUES or WITH query that yields the columns key and prompt.")));
}

void
llmb_append_key(StringInfo sql, const char *table, char **columns, int count)
{
	/* a key that holds a NULL is none: no row is found by it */
	for (int i = 0; count > 1 && i < count; i++)
		appendStringInfo(sql, "%s%s.%s IS DISTINCT FROM NULL", i ? " AND " : "CASE WHEN ", table, quote_identifier(columns[i]));
	if (count > 1)
		appendStringInfoString(sql, " THEN pg_catalog.jsonb_build_array(");
	for (int i = 0; i < count; i++)
		appendStringInfo(sql, "%s%s.%s::pg_catalog.text", i ? ", " : "", table, quote_identifier(columns[i]));
	if (count > 1)
		appendStringInfoString(sql, ")::pg_catalog.text END");
}

char *
llmb_source_query(const LlmbSource *source, const char *filter, int64 limit)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	llmb_append_key(&sql, quote_identifier(source->table), source->keys, source->key_count);
	for (int i = 0; i < source->template->column_count; i++)
		appendStringInfo(&sql, ", %s", quote_identifier(source->template->columns[i]));
	appendStringInfo(&sql, " FROM %s", quote_qualified_identifier(source->schema, source->table));
	if (filter)
		appendStringInfo(&sql, " WHERE (%s\n)", filter);
	if (limit >= 0)
	{
		/*
		 * A sample should be the same one each time.  The bare name would
		 * mean the output column, which is the key as text.
		 */
		for (int i = 0; i < source->key_count; i++)
			appendStringInfo(&sql, "%s%s.%s", i ? ", " : " ORDER BY ",
							 quote_identifier(source->table), quote_identifier(source->keys[i]));
		appendStringInfo(&sql, " LIMIT " INT64_FORMAT, limit);
	}
	return sql.data;
}
