/*-------------------------------------------------------------------------
 *
 * sql.c
 *		The door to SPI for SQL on our own tables.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "sql.h"

#define MAX_ARGS	32
#define CURSOR_ROWS	500

struct LlmbRows
{
	SPITupleTable *table;
	uint64		count;
	MemoryContext context;		/* the caller's */
	Portal		portal;			/* of a cursor */
	Oid			saved_user;
	int			saved_security;
	int			guc_level;
};

/* Plans live as long as the session, found by the address of their text. */
typedef struct KeptPlan
{
	const char *query;
	SPIPlanPtr	plan;
} KeptPlan;

static KeptPlan *plans = NULL;
static int	plan_count = 0;
static int	plan_space = 0;

bool		llmb_sql_latest = false;

/* Owner and schema of the extension; InvalidOid when there is none. */
static Oid
extension_owner(Oid *schema)
{
	Oid			extension = get_extension_oid(LLMB_EXTENSION, true);
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	*schema = InvalidOid;
	if (!OidIsValid(extension))
		return InvalidOid;
	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
		*schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

/* ---- becoming the owner, and back ---- */

/*
 * Names in our statements mean the extension's own tables.  A schema that
 * was renamed leaves its name to whoever takes it, and triggers in that one
 * would run as the extension's owner.
 */
static void
require_own_schema(Oid schema)
{
	char	   *name = get_namespace_name(schema);

	if (name == NULL || strcmp(name, LLMB_SCHEMA) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the schema of extension \"llm_batch\" was renamed"),
				 errhint("ALTER SCHEMA %s RENAME TO %s;", quote_identifier(name ? name : ""), LLMB_SCHEMA)));
}

/*
 * Our statements go by our indexes, whatever the statistics say: right after
 * a bulk submit there are none, and a plan that reads all items of a job for
 * each slice of it costs more with every item (measured: 30 ms instead of 2
 * at 100,000).  A generic plan holds no values either, which auto_explain or
 * debug_print_plan would write into the log.
 */
static void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_seqscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_bitmapscan", "off"},
	};

	for (int i = 0; i < (int) lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	llmb_keep_values_from_log();
}

void
llmb_keep_values_from_log(void)
{
	static const char *const name = "auto_explain.log_parameter_max_length";

	if (GetConfigOption(name, true, false) != NULL)
		(void) set_config_option(name, "0", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static LlmbRows *
open_rows(void)
{
	LlmbRows   *rows = palloc0(sizeof(LlmbRows));
	Oid			schema;
	Oid			owner = extension_owner(&schema);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"llm_batch\" does not exist in this database"),
				 errhint("CREATE EXTENSION llm_batch;")));
	require_own_schema(schema);
	rows->context = CurrentMemoryContext;
	GetUserIdAndSecContext(&rows->saved_user, &rows->saved_security);
	SetUserIdAndSecContext(owner, rows->saved_security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	rows->guc_level = NewGUCNestLevel();
	pin_settings();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return rows;
}

/* The caller's identity and settings again; open cursors run on. */
static void
step_back(LlmbRows *rows)
{
	AtEOXact_GUC(false, rows->guc_level);
	SetUserIdAndSecContext(rows->saved_user, rows->saved_security);
}

static void
close_rows(LlmbRows *rows)
{
	SPI_finish();
	MemoryContextSwitchTo(rows->context);
	pfree(rows);
}

/* ---- arguments and plans ---- */

static void
read_argument(char letter, va_list *list, Oid *type, Datum *value, char *isnull)
{
	char	   *string;
	ArrayType  *array;
	TimestampTz time;

	*isnull = ' ';
	switch (letter)
	{
		case 'l':
			*type = INT8OID;
			*value = Int64GetDatum(va_arg(*list, int64));
			break;
		case 'i':
			*type = INT4OID;
			*value = Int32GetDatum(va_arg(*list, int));
			break;
		case 'b':
			*type = BOOLOID;
			*value = BoolGetDatum(va_arg(*list, int) != 0);
			break;
		case 't':
			*type = TEXTOID;
			string = va_arg(*list, char *);
			*isnull = string ? ' ' : 'n';
			*value = string ? CStringGetTextDatum(string) : (Datum) 0;
			break;
		case 'z':
			*type = TIMESTAMPTZOID;
			time = va_arg(*list, TimestampTz);
			*isnull = time ? ' ' : 'n';
			*value = TimestampTzGetDatum(time);
			break;
		case 'a':
		case 'o':
		case 'h':
			*type = letter == 'a' ? TEXTARRAYOID : letter == 'o' ? INT4ARRAYOID : INT8ARRAYOID;
			array = va_arg(*list, ArrayType *);
			*isnull = array ? ' ' : 'n';
			*value = PointerGetDatum(array);
			break;
		default:
			elog(ERROR, "unknown argument letter \"%c\"", letter);
	}
}

static SPIPlanPtr
kept_plan(const char *query, int nargs, Oid *types, int options)
{
	MemoryContext old;
	SPIPlanPtr	plan;

	for (int i = 0; i < plan_count; i++)
	{
		if (plans[i].query == query)
			return plans[i].plan;
	}
	plan = SPI_prepare_cursor(query, nargs, types, options);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (plan_count == plan_space)
	{
		plan_space = plan_space ? plan_space * 2 : 32;
		plans = plans ? repalloc(plans, plan_space * sizeof(KeptPlan)) :
			palloc(plan_space * sizeof(KeptPlan));
	}
	plans[plan_count].query = query;
	plans[plan_count++].plan = plan;
	MemoryContextSwitchTo(old);
	return plan;
}

static SPIPlanPtr
prepare(const char *query, int options, const char *letters, va_list *list, Datum *values, char *nulls)
{
	Oid			types[MAX_ARGS];
	int			nargs = strlen(letters);

	Assert(nargs <= MAX_ARGS);
	for (int i = 0; i < nargs; i++)
		read_argument(letters[i], list, &types[i], &values[i], &nulls[i]);
	nulls[nargs] = '\0';
	return kept_plan(query, nargs, types, options);
}

/* ---- statements ---- */

static LlmbRows *
run(const char *query, const char *letters, va_list *list)
{
	LlmbRows   *rows = open_rows();
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS + 1];
	SPIPlanPtr	plan = prepare(query, 0, letters, list, values, nulls);
	int			code = llmb_sql_latest ?
		SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot, true, true, 0) :
		SPI_execute_plan(plan, values, nulls, false, 0);

	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	rows->table = SPI_tuptable;
	rows->count = SPI_processed;
	step_back(rows);
	return rows;
}

LlmbRows *
llmb_sql(const char *query, const char *letters,...)
{
	va_list		list;
	LlmbRows   *rows;

	va_start(list, letters);
	rows = run(query, letters, &list);
	va_end(list);
	MemoryContextSwitchTo(rows->context);
	return rows;
}

int
llmb_sql_run(const char *query, const char *letters,...)
{
	va_list		list;
	LlmbRows   *rows;
	int			count;

	va_start(list, letters);
	rows = run(query, letters, &list);
	va_end(list);
	count = (int) rows->count;
	close_rows(rows);
	return count;
}

int
llmb_row_count(const LlmbRows *rows)
{
	return (int) rows->count;
}

void
llmb_sql_done(LlmbRows *rows)
{
	close_rows(rows);
}

/* ---- reading rows ---- */

Datum
llmb_row_datum(LlmbRows *rows, int row, int column, bool *isnull)
{
	Assert(row >= 0 && (uint64) row < rows->count);
	return SPI_getbinval(rows->table->vals[row], rows->table->tupdesc, column, isnull);
}

int64
llmb_row_int(LlmbRows *rows, int row, int column)
{
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, row, column, &isnull);

	if (isnull)
		return 0;
	switch (SPI_gettypeid(rows->table->tupdesc, column))
	{
		case INT8OID:
			return DatumGetInt64(datum);
		case INT4OID:
			return DatumGetInt32(datum);
		default:
			elog(ERROR, "column %d is not an integer", column);
	}
	return 0;
}

bool
llmb_row_bool(LlmbRows *rows, int row, int column)
{
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, row, column, &isnull);

	return !isnull && DatumGetBool(datum);
}

TimestampTz
llmb_row_time(LlmbRows *rows, int row, int column)
{
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, row, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(datum);
}

char *
llmb_row_text(LlmbRows *rows, int row, int column)
{
	MemoryContext old = MemoryContextSwitchTo(rows->context);
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, row, column, &isnull);
	Oid			type = SPI_gettypeid(rows->table->tupdesc, column);
	char	   *string = NULL;

	if (!isnull && type == TEXTOID)
		string = TextDatumGetCString(datum);
	else if (!isnull)
		string = SPI_getvalue(rows->table->vals[row], rows->table->tupdesc, column);
	MemoryContextSwitchTo(old);
	return string;
}

/* ---- cursors ---- */

LlmbRows *
llmb_cursor(const char *query, const char *letters,...)
{
	va_list		list;
	LlmbRows   *rows = open_rows();
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS + 1];
	SPIPlanPtr	plan;

	va_start(list, letters);
	/* planned for its first rows: a batch must not sort what waits behind it */
	plan = prepare(query, CURSOR_OPT_FAST_PLAN | CURSOR_OPT_NO_SCROLL, letters, &list, values, nulls);
	va_end(list);
	rows->portal = SPI_cursor_open(NULL, plan, values, nulls, true);
	if (rows->portal == NULL)
		elog(ERROR, "SPI_cursor_open failed: %s", SPI_result_code_string(SPI_result));
	step_back(rows);
	MemoryContextSwitchTo(rows->context);
	return rows;
}

int
llmb_cursor_fetch(LlmbRows *rows)
{
	if (rows->table)
		SPI_freetuptable(rows->table);
	SPI_cursor_fetch(rows->portal, true, CURSOR_ROWS);
	rows->table = SPI_tuptable;
	rows->count = SPI_processed;
	MemoryContextSwitchTo(rows->context);
	return (int) rows->count;
}

void
llmb_cursor_done(LlmbRows *rows)
{
	SPI_cursor_close(rows->portal);
	close_rows(rows);
}

/* ---- procedures ---- */

void
llmb_require_writable(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s during recovery", function),
				 errhint("Call it on the primary server.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s in a read-only transaction", function),
				 errhint("Call it in a transaction that may write: SET TRANSACTION READ WRITE.")));
}

void
llmb_procedure_begin(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
}

void
llmb_procedure_snapshot(void)
{
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
llmb_procedure_commit(void)
{
	PopActiveSnapshot();
	SPI_commit();
}

void
llmb_procedure_end(void)
{
	SPI_finish();
}

/* ---- arrays ---- */

ArrayType *
llmb_name_array(char **names, int count)
{
	Datum	   *datums;

	if (count == 0)
		return NULL;
	datums = palloc(sizeof(Datum) * count);
	for (int i = 0; i < count; i++)
		datums[i] = CStringGetTextDatum(names[i]);
	return construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT);
}

char **
llmb_row_names(LlmbRows *rows, int row, int column, int *count)
{
	bool		isnull;
	Datum		datum = llmb_row_datum(rows, row, column, &isnull);
	Datum	   *datums;
	char	  **names;

	*count = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false, TYPALIGN_INT,
					  &datums, NULL, count);
	names = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		names[i] = TextDatumGetCString(datums[i]);
	return names;
}
