/*-------------------------------------------------------------------------
 *
 * writeback.c
 *		Answers into the user's table, as the job's owner.
 *
 * One UPDATE writes a slice: it joins the source by its key with the keys
 * and answers that it is given as arrays, and renders the prompt once more
 * from the row, so that a row whose text has changed keeps what it has.  As
 * the test stands in the UPDATE's own WHERE, it also holds for a row that
 * changed while we waited.
 *
 * Nothing of ours waits for others: the slice runs first under a very short
 * lock_timeout; if somebody holds a row, the slice runs again over the rows
 * that SELECT ... SKIP LOCKED could get.  If a row refuses, the slice is
 * halved until the row stands alone.  Each try is a subtransaction, and all
 * of them together have llm_batch.write_back_timeout.
 *
 * User code (triggers, defaults, checks, policies, casts) runs as the owner:
 * as_owner.c.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "as_owner.h"
#include "compat.h"
#include "source.h"
#include "sql.h"
#include "template.h"
#include "writeback.h"

/* Prompts that one look reads; the first is read however long it is. */
#define LOOK_BYTES	(4 * 1024 * 1024)

typedef struct Slice
{
	const LlmbJobDef *def;
	LlmbAsOwner who;
	LlmbWrite  *writes;
	char	   *update;			/* SQL texts */
	char	   *lock;
	char	   *look;
	char	   *read;
	LlmbReading *readings;		/* llmb_look_at_rows(): instead of writes */
	Oid			relid;
	MemoryContext context;		/* the caller's */
} Slice;

/* ---- SQL ---- */

static char *
column_type(Oid relid, const char *column)
{
	AttrNumber	attnum = get_attnum(relid, column);
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist any more", column)));
	get_atttypetypmodcoll(relid, attnum, &type, &typmod, &collation);
	/*
	 * Qualified, whatever the search_path, and without a typmod: "character"
	 * alone would mean character(1).
	 */
	return format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/*
 * What makes the answer's text the column's value.  Text is assigned, not
 * cast: a cast to varchar(n) would cut it off.  So is, once it is of the base
 * type, what a domain or a typmod restricts.
 */
static const char *
target_cast(Oid relid, const char *column)
{
	Oid			base = getBaseType(get_atttype(relid, get_attnum(relid, column)));

	if (base == TEXTOID || base == VARCHAROID || base == BPCHAROID)
		return "";
	return psprintf("::%s", format_type_extended(base, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

/*
 * k, h, a1, a2, ... : what the arrays hold.  Keys are cast to the columns'
 * types here, once per answer and never per row, so that the key's index
 * serves.
 */
static void
append_input(StringInfo sql, const LlmbJobDef *def, Oid relid)
{
	appendStringInfoString(sql, "(SELECT n, h");
	for (int i = 0; i < def->key_count; i++)
	{
		char	   *type = column_type(relid, def->key_columns[i]);

		if (def->key_count == 1)
			appendStringInfo(sql, ", k::%s AS k%d", type, i);
		else
			appendStringInfo(sql, ", (k::pg_catalog.jsonb ->> %d)::%s AS k%d", i, type, i);
	}
	for (int i = 0; i < def->target_count; i++)
		appendStringInfo(sql, ", a%d", i);
	appendStringInfoString(sql, " FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.int8[])");
	for (int i = 0; i < def->target_count; i++)
		appendStringInfo(sql, ", pg_catalog.unnest($%d::pg_catalog.text[])", i + 4);
	appendStringInfoString(sql, ") WITH ORDINALITY AS v(k, h");
	for (int i = 0; i < def->target_count; i++)
		appendStringInfo(sql, ", a%d", i);
	appendStringInfoString(sql, ", n)) AS llmb_input");
}

/*
 * The operator by which a unique index finds a value of the column's type,
 * wherever that type's extension lives: search_path does not lead there.
 */
static const char *
equality(Oid relid, const char *column)
{
	Oid			type = getBaseType(get_atttype(relid, get_attnum(relid, column)));
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr));
	const char *name = "=";

	if (!HeapTupleIsValid(tuple))
		return name;
	if (((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace != PG_CATALOG_NAMESPACE)
		name = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace)),
						NameStr(((Form_pg_operator) GETSTRUCT(tuple))->oprname));
	ReleaseSysCache(tuple);
	return name;
}

static void
append_match(StringInfo sql, const LlmbJobDef *def, Oid relid, const char *table)
{
	for (int i = 0; i < def->key_count; i++)
		appendStringInfo(sql, "%s%s.%s %s llmb_input.k%d", i ? " AND " : "", table,
						 quote_identifier(def->key_columns[i]), equality(relid, def->key_columns[i]), i);
}

/* The prompt, or its hash, as the row would give it now. */
static void
append_prompt(StringInfo sql, const LlmbJobDef *def, const char *table, const char *function, const char *constant)
{
	LlmbTemplate *template = llmb_template_parse(def->prompt);

	/* a prompt that reads no column is always the same */
	if (template->column_count == 0)
	{
		appendStringInfoString(sql, constant);
		return;
	}
	appendStringInfo(sql, "llm_batch.%s($3", function);
	for (int i = 0; i < template->column_count; i++)
		appendStringInfo(sql, ", %s.%s", table, quote_identifier(template->columns[i]));
	appendStringInfoString(sql, ")");
}

static void
build_sql(Slice *slice, Oid relid)
{
	const LlmbJobDef *def = slice->def;
	char	   *table = quote_qualified_identifier(def->source_schema, def->source_table);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS t SET ", table);
	for (int i = 0; i < def->target_count; i++)
		appendStringInfo(&sql, "%s%s = llmb_input.a%d%s", i ? ", " : "", quote_identifier(def->target_columns[i]), i,
						 target_cast(relid, def->target_columns[i]));
	appendStringInfoString(&sql, " FROM ");
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def, relid, "t");
	appendStringInfoString(&sql, " AND ");
	append_prompt(&sql, def, "t", "prompt_hash", "llmb_input.h");
	appendStringInfoString(&sql, " = llmb_input.h RETURNING llmb_input.n");
	slice->update = sql.data;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT llmb_input.n FROM %s AS t, ", table);
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def, relid, "t");
	appendStringInfoString(&sql, " FOR NO KEY UPDATE OF t SKIP LOCKED");
	slice->lock = sql.data;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT llmb_input.n, ");
	append_prompt(&sql, def, "t", "prompt_hash", "llmb_input.h");
	appendStringInfo(&sql, " = llmb_input.h FROM %s AS t, ", table);
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def, relid, "t");
	slice->look = sql.data;
}

/* Is there no answer in the row?  To write one takes no right to read it. */
static void
append_vacant(StringInfo sql, const LlmbJobDef *def, Oid relid, Oid owner)
{
	appendStringInfoString(sql, def->target_count ? "true" : "false");
	for (int i = 0; i < def->target_count; i++)
	{
		AttrNumber	attnum = get_attnum(relid, def->target_columns[i]);

		if (attnum != InvalidAttrNumber &&
			(pg_class_aclcheck(relid, owner, ACL_SELECT) == ACLCHECK_OK ||
			 pg_attribute_aclcheck(relid, attnum, owner, ACL_SELECT) == ACLCHECK_OK))
			appendStringInfo(sql, " AND %s.%s IS NULL", quote_identifier(def->source_table), quote_identifier(def->target_columns[i]));
	}
	appendStringInfoString(sql, " AS vacant, ");
}

/*
 * One look at each row: does it match the filter, have other tasks written
 * what the prompt needs, and what is the prompt?  A text that submit would
 * refuse is not read: it may be a gigabyte.  Nor are more texts than a few
 * megabytes at a time, for there are several copies of each.  The row stands in a subquery of
 * its own, so that names in the filter are its columns.
 */
static void
build_look(Slice *slice, const LlmbLook *look)
{
	const LlmbJobDef *def = slice->def;
	const char *table = quote_identifier(def->source_table);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT r.n, r.k, r.matches, r.ready, r.bytes, CASE WHEN r.bytes / 1024 < %d "
					 "AND pg_catalog.sum(r.bytes) OVER (ORDER BY r.n) - r.bytes < %d THEN r.p END, r.vacant "
					 "FROM (SELECT llmb_input.n, s.k, s.matches, s.ready, s.p, s.vacant, "
					 "CASE WHEN s.matches AND s.ready THEN pg_catalog.octet_length(s.p) ELSE 0 END::pg_catalog.int8 AS bytes FROM ",
					 llmb_max_prompt_kb, LOOK_BYTES);
	append_input(&sql, def, slice->relid);
	appendStringInfoString(&sql, ", LATERAL (SELECT ");
	llmb_append_key(&sql, table, def->key_columns, def->key_count);
	appendStringInfo(&sql, " AS k, (%s\n) IS TRUE AS matches, true", look->filter ? look->filter : "true");
	for (int i = 0; i < look->needed_count; i++)
		appendStringInfo(&sql, " AND %s.%s IS NOT NULL", table, quote_identifier(look->needed[i]));
	appendStringInfoString(&sql, " AS ready, ");
	append_vacant(&sql, def, slice->relid, slice->who.owner);
	append_prompt(&sql, def, table, "prompt_text", "$3");
	appendStringInfo(&sql, " AS p FROM %s WHERE ", quote_qualified_identifier(def->source_schema, def->source_table));
	append_match(&sql, def, slice->relid, table);
	appendStringInfoString(&sql, " OFFSET 0) AS s OFFSET 0) AS r");
	slice->read = sql.data;
}

/* ---- arguments ---- */

static Datum
text_array(char *const *texts, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			lower = 1;

	for (int i = 0; i < count; i++)
	{
		nulls[i] = texts[i] == NULL;
		datums[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(datums, nulls, 1, &count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
keys(const Slice *slice, const int *which, int count)
{
	char	  **texts = palloc(sizeof(char *) * Max(count, 1));

	for (int i = 0; i < count; i++)
		texts[i] = unconstify(char *, slice->writes ? slice->writes[which[i]].key : slice->readings[which[i]].key);
	return text_array(texts, count);
}

static Datum
column_texts(const Slice *slice, const int *which, int count, int column)
{
	char	  **texts = palloc0(sizeof(char *) * Max(count, 1));

	for (int i = 0; slice->writes && i < count; i++)
		texts[i] = slice->writes[which[i]].columns[column];
	return text_array(texts, count);
}

static Datum
hashes(const Slice *slice, const int *which, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int64GetDatum(slice->writes ? slice->writes[which[i]].prompt_hash : 0);
	return PointerGetDatum(construct_array(datums, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Runs one of the slice's statements over some of its writes. */
static void
execute(const Slice *slice, const char *sql, const int *which, int count)
{
	int			nargs = 3 + slice->def->target_count;
	Oid		   *types = palloc(sizeof(Oid) * nargs);
	Datum	   *values = palloc(sizeof(Datum) * nargs);
	SPIPlanPtr	plan;
	int			code;
	int			level;

	types[0] = TEXTARRAYOID;
	values[0] = keys(slice, which, count);
	types[1] = INT8ARRAYOID;
	values[1] = hashes(slice, which, count);
	types[2] = TEXTOID;
	values[2] = CStringGetTextDatum(slice->def->prompt);
	for (int i = 0; i < slice->def->target_count; i++)
	{
		types[3 + i] = TEXTARRAYOID;
		values[3 + i] = column_texts(slice, which, count, i);
	}
	/* SPI_execute_with_args() would plan with the values */
	level = NewGUCNestLevel();
	llmb_pin_strings();
	plan = SPI_prepare(sql, nargs, types);
	AtEOXact_GUC(false, level);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	code = SPI_execute_plan(plan, values, NULL, false, 0);
	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	SPI_freeplan(plan);
}

/* Column 1 of a row of the result: a position in which[], from 0. */
static int
result_position(uint64 row, int count)
{
	bool		isnull;
	int64		n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull));

	if (isnull || n < 1 || n > count)
		elog(ERROR, "write-back got row number " INT64_FORMAT, n);
	return (int) n - 1;
}

/* ---- one try ---- */

/* Writes, and tells what became of the rows that were not there to write. */
static void
update_rows(const Slice *slice, const int *which, int count)
{
	bool	   *found = palloc0(sizeof(bool) * count);
	int			left = count;

	execute(slice, slice->update, which, count);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int			n = result_position(i, count);

		left -= !found[n];
		found[n] = true;
	}
	if (left > 0)
	{
		for (int i = 0; i < count; i++)
			slice->writes[which[i]].written = found[i] ? LLMB_WRITTEN : LLMB_ROW_GONE;
		execute(slice, slice->look, which, count);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			int			n = result_position(i, count);
			bool		isnull;
			bool		same = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));

			/* unchanged, yet not written: a rule, policy or trigger said no */
			if (!found[n])
			{
				slice->writes[which[n]].written = same ? LLMB_ROW_REFUSED : LLMB_ROW_STALE;
				if (same)
					slice->writes[which[n]].reason =
						"the row was not updated: a policy, rule or trigger withheld it";
			}
		}
		return;
	}
	for (int i = 0; i < count; i++)
		slice->writes[which[i]].written = LLMB_WRITTEN;
}

/* Locks what can be had at once; the others come back later. */
static int
lock_rows(const Slice *slice, const int *which, int count, int *locked)
{
	int			got = 0;
	bool	   *have = palloc0(sizeof(bool) * count);

	execute(slice, slice->lock, which, count);
	for (uint64 i = 0; i < SPI_processed; i++)
		have[result_position(i, count)] = true;
	for (int i = 0; i < count; i++)
	{
		slice->writes[which[i]].written = LLMB_ROW_LATER;
		if (have[i])
			locked[got++] = which[i];
	}
	return got;
}

/* Rows that are not there at all cannot be locked: told from locked ones. */
static void
settle_missing(const Slice *slice, const int *which, int count)
{
	bool	   *there = palloc0(sizeof(bool) * count);

	execute(slice, slice->look, which, count);
	for (uint64 i = 0; i < SPI_processed; i++)
		there[result_position(i, count)] = true;
	for (int i = 0; i < count; i++)
	{
		if (!there[i] && slice->writes[which[i]].written == LLMB_ROW_LATER)
			slice->writes[which[i]].written = LLMB_ROW_GONE;
	}
}

/* Into the caller's memory. */
static void
read_rows(const Slice *slice, const int *which, int count)
{
	for (int i = 0; i < count; i++)
	{
		slice->readings[which[i]].found = LLMB_FOUND_NOTHING;
		slice->readings[which[i]].row = NULL;
	}
	execute(slice, slice->read, which, count);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		LlmbReading *reading = &slice->readings[which[result_position(i, count)]];
		char	   *row = SPI_getvalue(tuple, desc, 2);
		char	   *prompt = SPI_getvalue(tuple, desc, 6);
		bool		isnull;

		/* a cast of somebody's may give none */
		reading->row = row ? MemoryContextStrdup(slice->context, row) : NULL;
		reading->vacant = DatumGetBool(SPI_getbinval(tuple, desc, 7, &isnull));
		reading->prompt = prompt ? MemoryContextStrdup(slice->context, prompt) : NULL;
		reading->bytes = DatumGetInt64(SPI_getbinval(tuple, desc, 5, &isnull));
		if (!DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull)))
			reading->found = LLMB_FOUND_OTHER;
		else if (!DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull)))
			reading->found = LLMB_FOUND_UNREADY;
		else
			reading->found = prompt ? LLMB_FOUND_PROMPT :
				reading->bytes / 1024 < llmb_max_prompt_kb ? LLMB_FOUND_MORE : LLMB_FOUND_TOO_LONG;
	}
}

typedef enum TryKind
{
	TRY_HOPEFUL,				/* straight UPDATE under a short lock_timeout */
	TRY_LOCKED,					/* SKIP LOCKED first */
	TRY_READ					/* read the prompts, write nothing */
} TryKind;

typedef struct Try
{
	const Slice *slice;
	TryKind		kind;
	const int  *which;
	int			count;
} Try;

static void
try_inside(void *arg)
{
	const Try  *try = arg;
	const Slice *slice = try->slice;
	int		   *locked = palloc(sizeof(int) * try->count);
	int			got = try->count;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (try->kind == TRY_LOCKED)
	{
		got = lock_rows(slice, try->which, try->count, locked);
		settle_missing(slice, try->which, try->count);
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	if (try->kind == TRY_READ)
		read_rows(slice, try->which, try->count);
	else if (got > 0)
		update_rows(slice, try->kind == TRY_LOCKED ? locked : try->which, got);
	PopActiveSnapshot();
}

static int
try_slice(const Slice *slice, TryKind kind, const int *which, int count, char **message)
{
	Try			try = {slice, kind, which, count};

	return llmb_as_owner(&slice->who, try_inside, &try, message);
}

/* ---- slices ---- */

static void
set_all(const Slice *slice, const int *which, int count, LlmbWritten written, const char *reason)
{
	for (int i = 0; i < count; i++)
	{
		slice->writes[which[i]].written = written;
		slice->writes[which[i]].reason = reason ? pstrdup(reason) : NULL;
	}
}

/*
 * Writes what can be written; a slice that fails as a whole is halved.  When
 * time has run out once, what is left waits for another turn.
 */
static void
write_slice(const Slice *slice, const int *which, int count, bool *out_of_time)
{
	char	   *message = NULL;
	int			sqlstate;

	if (*out_of_time)
	{
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
		return;
	}
	sqlstate = try_slice(slice, TRY_HOPEFUL, which, count, &message);
	if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
		sqlstate = try_slice(slice, TRY_LOCKED, which, count, &message);
	if (sqlstate == 0)
		return;
	if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
		/* the rows were ours: something is locked that all of them need */
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
	else if (sqlstate == ERRCODE_QUERY_CANCELED)
	{
		/* a slow row is found by the smaller slices of later turns */
		*out_of_time = true;
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
	}
	else if (count > 1)
	{
		write_slice(slice, which, count / 2, out_of_time);
		write_slice(slice, which + count / 2, count - count / 2, out_of_time);
	}
	else if (llmb_error_passes(sqlstate))
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
	else
		set_all(slice, which, count, LLMB_ROW_REFUSED, message);
}

typedef enum Ground
{
	GROUND_FIRM,
	GROUND_LATER,				/* somebody has locked the table */
	GROUND_GONE					/* table or columns are not there any more */
} Ground;

static Ground
begin_slice(Slice *slice, char **reason)
{
	const LlmbJobDef *def = slice->def;
	Oid			schema = get_namespace_oid(def->source_schema, true);

	slice->relid = OidIsValid(schema) ? get_relname_relid(def->source_table, schema) : InvalidOid;
	if (!OidIsValid(slice->relid))
	{
		*reason = psprintf("table %s does not exist any more", quote_qualified_identifier(def->source_schema, def->source_table));
		return GROUND_GONE;
	}
	/* a task outlives its table, so others have time to take the name */
	if (def->attachment != 0 && !llmb_owner_is_known(slice->relid, def->source_owner, slice->who.owner))
	{
		*reason = psprintf("table %s belongs to another role now", quote_qualified_identifier(def->source_schema, def->source_table));
		return GROUND_GONE;
	}
	for (int i = 0; i < def->key_count + def->target_count; i++)
	{
		const char *column = i < def->key_count ? def->key_columns[i] : def->target_columns[i - def->key_count];

		if (get_attnum(slice->relid, column) == InvalidAttrNumber)
		{
			*reason = psprintf("column \"%s\" does not exist any more", column);
			return GROUND_GONE;
		}
	}
	/* LOCK TABLE or DDL of somebody: not now */
	if (!ConditionalLockRelationOid(slice->relid, slice->writes ? RowExclusiveLock : AccessShareLock))
		return GROUND_LATER;
	slice->context = CurrentMemoryContext;
	slice->who.time_zone = def->time_zone;
	slice->who.by_index = true;
	slice->who.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), llmb_write_back_timeout_ms);
	llmb_as_owner_begin();
	return GROUND_FIRM;
}

static int *
all_of_them(int count)
{
	int		   *which = palloc(sizeof(int) * Max(count, 1));

	for (int i = 0; i < count; i++)
		which[i] = i;
	return which;
}

void
llmb_write_back(const LlmbJobDef *def, Oid owner, LlmbWrite *writes, int count)
{
	Slice		slice = {.def = def, .who.owner = owner, .writes = writes};
	int		   *which = all_of_them(count);
	bool		out_of_time = false;
	char	   *reason;

	if (count == 0)
		return;
	switch (begin_slice(&slice, &reason))
	{
		case GROUND_FIRM:
			build_sql(&slice, slice.relid);
			write_slice(&slice, which, count, &out_of_time);
			break;
		case GROUND_LATER:
			set_all(&slice, which, count, LLMB_ROW_LATER, NULL);
			break;
		case GROUND_GONE:
			set_all(&slice, which, count, LLMB_ROW_REFUSED, reason);
	}
	llmb_as_owner_end();
}

/* ---- all or nothing ---- */

/* The first that was not written, or NULL. */
static LlmbWrite *
first_unwritten(LlmbWrite *writes, const int *which, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (writes[which[i]].written != LLMB_WRITTEN)
			return &writes[which[i]];
	}
	return NULL;
}

/* Writes a slice in its order; what stands in the way, or NULL. */
static LlmbWrite *
write_strictly(const Slice *slice, const int *which, int count, bool *timed_out)
{
	char	   *message = NULL;
	int			sqlstate = try_slice(slice, TRY_HOPEFUL, which, count, &message);
	LlmbWrite  *culprit;

	if (sqlstate == 0)
		return first_unwritten(slice->writes, which, count);
	*timed_out |= sqlstate == ERRCODE_QUERY_CANCELED;
	if (llmb_error_passes(sqlstate))
	{
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
		return &slice->writes[which[0]];
	}
	if (count == 1)
	{
		set_all(slice, which, count, LLMB_ROW_REFUSED, message);
		return &slice->writes[which[0]];
	}
	/* which one is it? */
	culprit = write_strictly(slice, which, count / 2, timed_out);
	return culprit ? culprit : write_strictly(slice, which + count / 2, count - count / 2, timed_out);
}

/* As write_strictly(), of the next slice; sets *count. */
static LlmbWrite *
write_next(Slice *slice, LlmbWriteNext next, void *arg, int *count, bool *timed_out)
{
	LlmbWrite  *culprit;
	int		   *which;
	char	   *reason;

	*count = next(arg, &slice->writes);
	if (*count == 0)
		return NULL;
	which = all_of_them(*count);
	culprit = first_unwritten(slice->writes, which, *count);
	if (culprit)
		return culprit;
	switch (begin_slice(slice, &reason))
	{
		case GROUND_FIRM:
			build_sql(slice, slice->relid);
			return write_strictly(slice, which, *count, timed_out);
		case GROUND_LATER:
			set_all(slice, which, 1, LLMB_ROW_LATER, NULL);
			break;
		case GROUND_GONE:
			set_all(slice, which, 1, LLMB_ROW_REFUSED, reason);
	}
	return &slice->writes[0];
}

void
llmb_write_together(const LlmbJobDef *def, Oid owner, LlmbWriteNext next, void *arg,
					LlmbWrite *culprit, bool *timed_out)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext part = AllocSetContextCreate(context, "llm_batch atomic slice", ALLOCSET_DEFAULT_SIZES);
	ResourceOwner resources = CurrentResourceOwner;
	LlmbWrite  *found = NULL;
	int			count = 1;

	memset(culprit, 0, sizeof(*culprit));
	BeginInternalSubTransaction(NULL);
	while (found == NULL && count > 0)
	{
		Slice		slice = {.def = def, .who.owner = owner};

		MemoryContextSwitchTo(part);
		MemoryContextReset(part);
		CHECK_FOR_INTERRUPTS();
		found = write_next(&slice, next, arg, &count, timed_out);
	}
	MemoryContextSwitchTo(context);
	if (found)
	{
		*culprit = *found;
		culprit->key = found->key ? pstrdup(found->key) : NULL;
		culprit->reason = found->reason ? pstrdup(found->reason) : NULL;
		RollbackAndReleaseCurrentSubTransaction();
	}
	else
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = resources;
	MemoryContextDelete(part);
	llmb_as_owner_end();
}

/* ---- looking ---- */

/* A name that is gone, or a privilege, is missed with no rows at all, too. */
static bool
fails_without_rows(const Slice *slice, int sqlstate)
{
	char	   *message = NULL;

	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
		try_slice(slice, TRY_READ, NULL, 0, &message) == sqlstate;
}

/* Halved, until a row that cannot be read stands alone.  False: all of it another time. */
static bool
read_slice(const Slice *slice, const LlmbLook *look, const int *which, int count, char **obstacle)
{
	char	   *message = NULL;
	int			sqlstate = try_slice(slice, TRY_READ, which, count, &message);

	if (sqlstate == 0)
		return true;
	/* what is wrong with the statement is no row's fault, and what passes passes */
	if ((llmb_error_passes(sqlstate) && !(look->last_try && sqlstate == ERRCODE_QUERY_CANCELED)) || fails_without_rows(slice, sqlstate))
	{
		*obstacle = psprintf(LLMB_CANNOT_BE_READ ": %s", message ? message : "it takes too long");
		return false;
	}
	if (count > 1)
		return read_slice(slice, look, which, count / 2, obstacle) &&
			read_slice(slice, look, which + count / 2, count - count / 2, obstacle);
	slice->readings[which[0]].found = LLMB_FOUND_ERROR;
	slice->readings[which[0]].reason = message ? message : pstrdup("there was not time enough to read the row");
	return true;
}

bool
llmb_look_at_rows(const LlmbJobDef *def, Oid owner, const LlmbLook *look, LlmbReading *readings, int count, char **obstacle)
{
	Slice		slice = {.def = def, .who.owner = owner, .readings = readings};
	bool		looked;

	*obstacle = NULL;
	if (count == 0)
		return true;
	looked = begin_slice(&slice, obstacle) == GROUND_FIRM;
	if (looked)
	{
		if (look->deadline != 0)
			slice.who.deadline = look->deadline;
		build_look(&slice, look);
		looked = read_slice(&slice, look, all_of_them(count), count, obstacle);
	}
	llmb_as_owner_end();
	return looked;
}
