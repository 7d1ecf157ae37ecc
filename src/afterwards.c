/*-------------------------------------------------------------------------
 *
 * afterwards.c
 *		on_success and on_error: SQL of a job's owner that runs when the job
 *		has ended.
 *
 * The transaction in which a job ends leaves a row in llm_batch.afterwards
 * (store_job.c).  The SQL runs in a transaction of its own, which takes the
 * row away: whatever dies in between, it has run once when the row is gone,
 * and not at all while it is there.  So no SQL of a user's can keep a job
 * from ending, however slow it is, or what becomes of its commit.
 *
 * Each run is announced by a transaction before it ("begun"): SQL that takes
 * the worker or the server down with it, or whose commit fails, is given up
 * after some runs.  SQL that fails is given up at once, unless the error
 * passes with time (a lock, a deadlock): it never waits long for a lock, and
 * comes back with backoff.
 *
 * What failed keeps its row, with PostgreSQL's words, for its owner to read:
 * events, which others may see, and the log do not have them.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parse_param.h"
#include "parser/parser.h"
#include "storage/ipc.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "afterwards.h"
#include "as_owner.h"
#include "batch.h"
#include "notify.h"
#include "sql.h"
#include "store.h"
#include "turn.h"

/* A longer text belongs into a function. */
#define MAX_SQL_BYTES	(64 * 1024)

/* Longest wait for a lock: the worker has others to serve, and submit need not know. */
#define LOCK_TIMEOUT	"100ms"

/* Runs that ended with an error that passes, about a quarter of an hour. */
#define MAX_TRIES		20
#define AGAIN_BASE_MS	500
#define AGAIN_MAX_MS	60000

/*
 * Of the worker's time one owner's SQL may take a fifth: after a run that was
 * long enough to matter the owner's others wait four times as long.
 */
#define LONG_RUN_MS		100
#define REST_FACTOR		4

/* Runs that were begun and have no end at all. */
#define MAX_BEGUN		5

/* $1 and $2 */
static const Oid parameter_types[] = {INT8OID, TEXTOID};

static void
take_parameters(ParseState *pstate, void *arg)
{
	(void) arg;
	setup_parse_fixed_parameters(pstate, parameter_types, lengthof(parameter_types));
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* ---- at submit ---- */

typedef struct Given
{
	const char *sql;
	const char *name;
} Given;

/* A syntax error points into the argument, not into the statement around it. */
static void
argument_error(void *arg)
{
	Given	   *given = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(given->sql);
	}
	errcontext("argument \"%s\"", given->name);
}

/* What a transaction that is not the user's cannot do, or a worker cannot: in words; else NULL. */
static const char *
impossible(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
			return "begin, commit or roll back";
		case T_ListenStmt:
		case T_UnlistenStmt:
			return "LISTEN: nobody would read what comes";
		case T_PrepareStmt:
			return "PREPARE: nobody would execute it";
		case T_CopyStmt:
			return castNode(CopyStmt, statement)->filename ? NULL : "COPY from or to a client: there is none";
		case T_VacuumStmt:
			return castNode(VacuumStmt, statement)->is_vacuumcmd ? "VACUUM" : NULL;
		case T_IndexStmt:
			return castNode(IndexStmt, statement)->concurrent ? "create an index CONCURRENTLY" : NULL;
		case T_CreatedbStmt:
		case T_DropdbStmt:
			return "create or drop a database";
		case T_AlterSystemStmt:
			return "ALTER SYSTEM";
		default:
			return NULL;
	}
}

static void
check_statements(const List *parsed, const char *name)
{
	ListCell   *lc;

	if (parsed == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s holds no statement", name),
				 errhint("Pass SQL, or leave it out.")));
	foreach(lc, parsed)
	{
		const char *what = impossible(lfirst_node(RawStmt, lc)->stmt);

		if (what)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s cannot %s", name, what),
					 errdetail("It runs in a transaction of the worker's."),
					 errhint("Leave that statement out.")));
	}
}

/*
 * Would its first statement find what it names?  Others may need what it
 * makes.  Locks and all else are given back.
 */
static void
look_names_up(const List *parsed, const Given *given)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		set_local("search_path", "pg_catalog, pg_temp");
		set_local("lock_timeout", LOCK_TIMEOUT);
		(void) parse_analyze_withcb(linitial_node(RawStmt, parsed), given->sql, take_parameters, NULL, NULL);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error == NULL || error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	if (error->sqlerrcode == ERRCODE_UNDEFINED_PARAMETER ||
		(ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
		 error->sqlerrcode != ERRCODE_INVALID_SCHEMA_NAME))
	{
		/* its position is one in the argument */
		error->internalpos = error->cursorpos;
		error->internalquery = pstrdup(given->sql);
		error->cursorpos = 0;
		ReThrowError(error);
	}
	ereport(NOTICE,
			(errmsg("%s would fail as things are: %s", given->name, error->message),
			 errhint("It will run with search_path pg_catalog, pg_temp: write names with their schema. $1 is the job (bigint), $2 its state (text).")));
}

void
llmb_check_afterwards(const char *sql, const char *name)
{
	Given		given = {sql, name};
	ErrorContextCallback callback = {error_context_stack, argument_error, &given};
	List	   *parsed;

	if (sql == NULL)
		return;
	if (strlen(sql) > MAX_SQL_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument \"%s\" is longer than %d bytes", name, MAX_SQL_BYTES),
				 errhint("Make it a function, and call that.")));
	error_context_stack = &callback;
	parsed = raw_parser(sql, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;
	check_statements(parsed, name);
	look_names_up(parsed, &given);
}

/* ---- rows of llm_batch.afterwards ---- */

typedef struct Row
{
	int64		job;
	char	   *verb;			/* on_success, on_error; NULL: the end is to be told, no more */
	bool		untold;			/* a session has ended it, and sessions tell nothing */
	char	   *state;			/* that the job ended with */
	int			tries;			/* runs whose error passes */
	int			begun;			/* runs without an end, before this one */
} Row;

/* What is due first; false: nothing is. */
static bool
take_row(Row *row)
{
	LlmbRows   *rows = llmb_sql("UPDATE llm_batch.afterwards a SET begun = a.begun + 1, untold = false "
								"FROM (SELECT o.job_id, o.begun, o.untold FROM llm_batch.afterwards o "
								" WHERE o.error IS NULL AND o.not_before <= clock_timestamp() ORDER BY o.not_before LIMIT 1) was "
								"WHERE a.job_id = was.job_id "
								"RETURNING a.job_id, a.verb, a.state, a.tries, was.begun, was.untold", "");
	bool		found = llmb_row_count(rows) > 0;

	if (found)
	{
		row->job = llmb_row_int(rows, 0, 1);
		row->verb = llmb_row_text(rows, 0, 2);
		row->state = llmb_row_text(rows, 0, 3);
		row->tries = (int) llmb_row_int(rows, 0, 4);
		row->begun = (int) llmb_row_int(rows, 0, 5);
		row->untold = llmb_row_bool(rows, 0, 6);
	}
	llmb_sql_done(rows);
	return found;
}

static TimestampTz
next_row(void)
{
	LlmbRows   *rows = llmb_sql("SELECT not_before FROM llm_batch.afterwards WHERE error IS NULL ORDER BY not_before LIMIT 1", "");
	TimestampTz when = llmb_row_count(rows) ? llmb_row_time(rows, 0, 1) : 0;

	llmb_sql_done(rows);
	return when;
}

static void
drop_row(int64 job)
{
	llmb_sql_run("DELETE FROM llm_batch.afterwards WHERE job_id = $1", "l", job);
}

static void
give_up(const Row *row, const char *code, const char *error)
{
	llmb_sql_run("UPDATE llm_batch.afterwards SET error = $2, failed_at = clock_timestamp() WHERE job_id = $1",
				 "lt", row->job, error);
	llmb_store_event(row->job, 0, "afterwards", "%s failed (%s): the job's owner reads why in llm_batch.afterwards",
					 row->verb, code);
}

static void
try_later(const Row *row, const char *code)
{
	int64		ms = llmb_backoff_ms(row->tries + 1, AGAIN_BASE_MS, AGAIN_MAX_MS, 0.5);

	llmb_sql_run("UPDATE llm_batch.afterwards SET tries = tries + 1, begun = 0, "
				 " not_before = clock_timestamp() + $2 * interval '1 millisecond' WHERE job_id = $1", "ll", row->job, ms);
	if (row->tries == 0)
		llmb_store_event(row->job, 0, "afterwards", "%s had to give way (%s), and is tried again", row->verb, code);
}

/* What else is due for that owner waits. */
static void
let_rest(const char *owner, int64 ms)
{
	llmb_sql_run("UPDATE llm_batch.afterwards a SET not_before = clock_timestamp() + $2 * interval '1 millisecond' "
				 "FROM llm_batch.job j WHERE j.id = a.job_id AND j.owner = $1::name AND a.error IS NULL "
				 "AND a.not_before < clock_timestamp() + $2 * interval '1 millisecond'", "tl", owner, ms);
}

/* ---- running ---- */

typedef struct Run
{
	const Row  *row;
	const char *sql;
} Run;

/* As the owner. */
static void
run_sql(void *arg)
{
	const Run  *run = arg;
	ParamListInfo params = makeParamList(lengthof(parameter_types));
	SPIExecuteOptions options = {.params = params, .dest = None_Receiver};
	int			code;

	params->parserSetup = take_parameters;
	params->params[0] = (ParamExternData) {.value = Int64GetDatum(run->row->job), .pflags = PARAM_FLAG_CONST, .ptype = INT8OID};
	params->params[1] = (ParamExternData) {.value = CStringGetTextDatum(run->row->state), .pflags = PARAM_FLAG_CONST, .ptype = TEXTOID};
	set_local("lock_timeout", LOCK_TIMEOUT);
	/* what it selects is nobody's, and may be long */
	code = SPI_execute_extended(run->sql, &options);
	if (code < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("it holds a statement that cannot run there: %s", SPI_result_code_string(code))));
}

/* Whose code may be running. */
static Row	at_work;
static bool is_at_work = false;

/*
 * This process ends, because the SQL caught its cancels: it would hold up the
 * next one as long.
 */
static void
give_up_at_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;
	if (!is_at_work || !llmb_code_cannot_be_cancelled())
		return;
	is_at_work = false;
	llmb_turn_abort();
	llmb_turn_begin("giving up on what follows a job");
	give_up(&at_work, "57014", "it could not be cancelled, and ran for three times llm_batch.write_back_timeout, or it set transaction_timeout");
	llmb_turn_commit();
	llmb_turn_hand_over();
}

static void
begins_work(const Row *row)
{
	static bool registered = false;
	static char verb[sizeof("on_success")];

	if (!registered)
		before_shmem_exit(give_up_at_exit, (Datum) 0);
	registered = true;
	strlcpy(verb, row->verb, sizeof(verb));
	at_work = (Row) {.job = row->job, .verb = verb};
	is_at_work = true;
}

static void
decide(const Row *row, int sqlstate, char *message)
{
	const char *code = unpack_sql_state(sqlstate);
	const char *hint = "";

	if (sqlstate == 0)
	{
		drop_row(row->job);
		llmb_store_event(row->job, 0, "afterwards", "%s has run", row->verb);
		return;
	}
	/* one that ran out of time would hold up the others as long again */
	if (sqlstate != ERRCODE_QUERY_CANCELED && llmb_error_passes(sqlstate) && row->tries + 1 < MAX_TRIES)
	{
		try_later(row, code);
		return;
	}
	if (sqlstate == ERRCODE_UNDEFINED_TABLE || sqlstate == ERRCODE_UNDEFINED_FUNCTION || sqlstate == ERRCODE_UNDEFINED_OBJECT)
		hint = "; it ran with search_path pg_catalog, pg_temp";
	if (sqlstate == ERRCODE_QUERY_CANCELED)
		message = psprintf("it was cancelled: it may take llm_batch.write_back_timeout, which is %d ms", llmb_write_back_timeout_ms);
	give_up(row, code, psprintf("%s%s", message, hint));
}

/* The SQL, with the job's time zone; false when the job's definition is gone. */
static bool
read_sql(const Row *row, const char **sql, const char **time_zone)
{
	LlmbRows   *rows = llmb_sql("SELECT CASE $2 WHEN 'on_success' THEN on_success ELSE on_error END, time_zone "
								"FROM llm_batch.job_def WHERE job_id = $1", "lt", row->job, row->verb);
	bool		found = llmb_row_count(rows) > 0;

	*sql = found ? llmb_row_text(rows, 0, 1) : NULL;
	*time_zone = found ? llmb_row_text(rows, 0, 2) : NULL;
	llmb_sql_done(rows);
	return *sql != NULL;
}

static void
run_row(const Row *row, const LlmbJob *job)
{
	Run			run = {.row = row};
	LlmbAsOwner who = {.owner = get_role_oid(job->owner, true)};
	TimestampTz from = GetCurrentTimestamp();
	char	   *message = NULL;
	int			sqlstate;
	long		took;

	if (!read_sql(row, &run.sql, &who.time_zone))
	{
		drop_row(row->job);
		return;
	}
	if (!OidIsValid(who.owner))
	{
		give_up(row, "42704", "the role that owns the job does not exist any more");
		return;
	}
	who.deadline = TimestampTzPlusMilliseconds(from, llmb_write_back_timeout_ms);
	llmb_as_owner_begin();
	begins_work(row);
	sqlstate = llmb_as_owner(&who, run_sql, &run, &message);
	is_at_work = false;
	llmb_as_owner_end();
	decide(row, sqlstate, message);
	took = TimestampDifferenceMilliseconds(from, GetCurrentTimestamp());
	if (took >= LONG_RUN_MS)
		let_rest(job->owner, took * REST_FACTOR);
}

/* In a turn. */
static void
follow(const Row *row)
{
	LlmbJob    *job = llmb_store_job(row->job);

	if (job == NULL || row->verb == NULL)
		drop_row(row->job);
	else if (!job->ours)
	{
		drop_row(row->job);
		llmb_store_event(row->job, 0, "afterwards", "%s does not run: the job was copied from another database", row->verb);
	}
	else if (row->begun >= MAX_BEGUN)
		give_up(row, "XX000", psprintf("it was begun %d times and never ended: the worker ended meanwhile, or the commit failed", row->begun));
	else
		run_row(row, job);
}

/* ---- steps ---- */

static bool pending = true;
static TimestampTz next_due = 0;

void
llmb_afterwards_step(void)
{
	Row			row;
	bool		found;

	llmb_turn_begin("looking for what follows a job");
	found = take_row(&row);
	if (found && row.untold)
		llmb_notify_state(row.job, NULL);
	if (!found)
	{
		next_due = next_row();
		pending = false;
	}
	llmb_turn_commit();
	if (!found)
		return;
	llmb_turn_begin("running what follows a job");
	follow(&row);
	llmb_turn_commit();
	pending = true;
}

void
llmb_afterwards_failed(void)
{
	pending = false;
	next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000);
}

void
llmb_afterwards_look(void)
{
	pending = true;
}

TimestampTz
llmb_afterwards_next(void)
{
	return pending ? 1 : next_due;
}

bool
llmb_afterwards_busy(void)
{
	return next_due != 0;
}
