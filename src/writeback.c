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

#include "catalog/namespace.h"
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
#include "utils/timestamp.h"

#include "as_owner.h"
#include "compat.h"
#include "source.h"
#include "sql.h"
#include "template.h"
#include "writeback.h"

typedef struct Slice
{
	const LlmbJobDef *def;
	LlmbAsOwner who;
	LlmbWrite  *writes;
	char	   *update;			/* SQL texts */
	char	   *lock;
	char	   *look;
	char	   *read;
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
	appendStringInfoString(sql, ", n)) AS u");
}

static void
append_match(StringInfo sql, const LlmbJobDef *def)
{
	for (int i = 0; i < def->key_count; i++)
		appendStringInfo(sql, "%st.%s = u.k%d", i ? " AND " : "",
						 quote_identifier(def->key_columns[i]), i);
}

/* The prompt, or its hash, as the row would give it now. */
static void
append_prompt(StringInfo sql, const LlmbJobDef *def, const char *function, const char *constant)
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
		appendStringInfo(sql, ", t.%s", quote_identifier(template->columns[i]));
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
		appendStringInfo(&sql, "%s%s = u.a%d%s", i ? ", " : "", quote_identifier(def->target_columns[i]), i,
						 target_cast(relid, def->target_columns[i]));
	appendStringInfoString(&sql, " FROM ");
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def);
	appendStringInfoString(&sql, " AND ");
	append_prompt(&sql, def, "prompt_hash", "u.h");
	appendStringInfoString(&sql, " = u.h RETURNING u.n");
	slice->update = sql.data;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT u.n FROM %s AS t, ", table);
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def);
	appendStringInfoString(&sql, " FOR NO KEY UPDATE OF t SKIP LOCKED");
	slice->lock = sql.data;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT u.n, ");
	append_prompt(&sql, def, "prompt_hash", "u.h");
	appendStringInfo(&sql, " = u.h FROM %s AS t, ", table);
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def);
	slice->look = sql.data;

	/* a text that submit would refuse is not read: it may be a gigabyte */
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT s.n, s.p FROM (SELECT u.n, ");
	append_prompt(&sql, def, "prompt_text", "$3");
	appendStringInfo(&sql, " AS p FROM %s AS t, ", table);
	append_input(&sql, def, relid);
	appendStringInfoString(&sql, " WHERE ");
	append_match(&sql, def);
	appendStringInfo(&sql, " OFFSET 0) AS s WHERE pg_catalog.octet_length(s.p) / 1024 < %d", llmb_max_prompt_kb);
	slice->read = sql.data;
}

/* ---- arguments ---- */

static Datum
text_array(const LlmbWrite *writes, const int *which, int count, int column)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			lower = 1;

	for (int i = 0; i < count; i++)
	{
		const LlmbWrite *write = &writes[which[i]];
		const char *text = column < 0 ? write->key : write->columns[column];

		nulls[i] = text == NULL;
		datums[i] = text ? CStringGetTextDatum(text) : (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(datums, nulls, 1, &count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
hashes(const LlmbWrite *writes, const int *which, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int64GetDatum(writes[which[i]].prompt_hash);
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

	types[0] = TEXTARRAYOID;
	values[0] = text_array(slice->writes, which, count, -1);
	types[1] = INT8ARRAYOID;
	values[1] = hashes(slice->writes, which, count);
	types[2] = TEXTOID;
	values[2] = CStringGetTextDatum(slice->def->prompt);
	for (int i = 0; i < slice->def->target_count; i++)
	{
		types[3 + i] = TEXTARRAYOID;
		values[3 + i] = text_array(slice->writes, which, count, i);
	}
	/* SPI_execute_with_args() would plan with the values */
	plan = SPI_prepare(sql, nargs, types);
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

/* Column 2 of the rows that are there, into the caller's memory. */
static void
read_rows(const Slice *slice, const int *which, int count)
{
	execute(slice, slice->read, which, count);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *prompt = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);

		slice->writes[which[result_position(i, count)]].prompt =
			prompt ? MemoryContextStrdup(slice->context, prompt) : NULL;
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

/* False when table or columns are not there any more; then all are refused. */
static bool
begin_slice(Slice *slice, const int *which, int count)
{
	const LlmbJobDef *def = slice->def;
	Oid			schema = get_namespace_oid(def->source_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(def->source_table, schema) : InvalidOid;

	if (!OidIsValid(relid))
	{
		set_all(slice, which, count, LLMB_ROW_REFUSED,
				psprintf("table %s does not exist any more",
						 quote_qualified_identifier(def->source_schema, def->source_table)));
		return false;
	}
	for (int i = 0; i < def->key_count + def->target_count; i++)
	{
		const char *column = i < def->key_count ? def->key_columns[i] : def->target_columns[i - def->key_count];

		if (get_attnum(relid, column) == InvalidAttrNumber)
		{
			set_all(slice, which, count, LLMB_ROW_REFUSED,
					psprintf("column \"%s\" does not exist any more", column));
			return false;
		}
	}
	/* LOCK TABLE or DDL of somebody: not now */
	if (!ConditionalLockRelationOid(relid, RowExclusiveLock))
	{
		set_all(slice, which, count, LLMB_ROW_LATER, NULL);
		return false;
	}
	slice->context = CurrentMemoryContext;
	slice->who.time_zone = def->time_zone;
	slice->who.by_index = true;
	slice->who.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), llmb_write_back_timeout_ms);
	build_sql(slice, relid);
	llmb_as_owner_begin();
	return true;
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

	if (count > 0 && begin_slice(&slice, which, count))
		write_slice(&slice, which, count, &out_of_time);
	llmb_as_owner_end();
}

void
llmb_read_prompts(const LlmbJobDef *def, Oid owner, LlmbWrite *writes, int count)
{
	Slice		slice = {.def = def, .who.owner = owner, .writes = writes};
	int		   *which = all_of_them(count);
	char	   *message;

	if (count == 0 || !begin_slice(&slice, which, count) ||
		try_slice(&slice, TRY_READ, which, count, &message) != 0)
		set_all(&slice, which, count, LLMB_ROW_LATER, NULL);
	llmb_as_owner_end();
}
