/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The worker of one database: its main loop.
 *
 * One process, one loop: serve what came from the network, do one due thing,
 * sleep on the latch and the sockets until the next falls due.  No
 * transaction, snapshot or lock is open while it sleeps or transfers, but
 * the session lock that makes it the only worker of its database.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/ps_status.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "call.h"
#include "compat.h"
#include "fleet.h"
#include "http.h"
#include "lifecycle.h"
#include "log.h"
#include "shmem.h"
#include "store.h"
#include "store_task.h"
#include "turn.h"

/* While transfers run, the extension is looked for this often. */
#define STILL_THERE_MS	1000
/* A shorter sleep is not worth telling pg_stat_activity. */
#define WORTH_TELLING_MS	20

PGDLLEXPORT void llmb_worker_main(Datum arg);

/* ---- beginnings ---- */

/* Whatever ALTER DATABASE or ALTER ROLE SET says. */
static void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"synchronous_commit", "on"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"},
		{"session_replication_role", "origin"},
		{"check_function_bodies", "on"},
		{"exit_on_error", "off"},
		{"temp_file_limit", "-1"},
		{"zero_damaged_pages", "off"},
		{"jit", "off"},
		{"row_security", "on"},
	};

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		/* older versions have no transaction_timeout */
		if (GetConfigOption(pinned[i][0], true, false) == NULL)
			continue;
		/* remote_apply and the like are stronger than on: leave them */
		if (strcmp(pinned[i][0], "synchronous_commit") == 0 && synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
			continue;
		SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

/*
 * A reply that is read up to its cap is given back to the system when it is
 * freed.  By default glibc keeps blocks of a size that was freed once, so the
 * worker would stay as large as the largest reply ever made it.
 */
static void
give_memory_back(void)
{
#ifdef M_MMAP_THRESHOLD
	(void) mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
#endif
}

static bool
extension_is_here(void)
{
	MemoryContext before = CurrentMemoryContext;
	bool		here;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	here = llmb_extension_is_served();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(before);
	return here;
}

/* A template must stay free of connections, so that it can be copied. */
static bool
database_is_template(void)
{
	HeapTuple	tuple;
	MemoryContext before = CurrentMemoryContext;
	bool		template;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	template = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	CommitTransactionCommand();
	MemoryContextSwitchTo(before);
	return template;
}

static const char *leaves_because = NULL;

static void
leave(bool has_extension, const char *reason)
{
	leaves_because = reason;
	llmb_worker_reports(has_extension, true);
	proc_exit(0);
}

static void
worker_stops(int code, Datum arg)
{
	(void) arg;
	llmb_log_process("worker", "stopped", leaves_because ? leaves_because :
					 code == 0 ? "the extension is gone, or another worker is here" : "terminated, or an error");
}

/* For ps, pg_stat_activity and the log. */
static void
show_start(void)
{
	MemoryContext before = CurrentMemoryContext;
	char	   *database;

	pgstat_report_appname(LLMB_WORKER_TYPE);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	database = get_database_name(MyDatabaseId);
	set_ps_display(database ? database : "");
	llmb_log_process("worker", "started", NULL);
	CommitTransactionCommand();
	MemoryContextSwitchTo(before);
	on_proc_exit(worker_stops, 0);
}

static bool
has_work(void)
{
	bool		work;

	llmb_turn_begin("looking for work");
	work = llmb_store_has_work() || llmb_store_has_changes();
	llmb_turn_commit();
	return work;
}

/* ---- the loop ---- */

static long
shorter(long a, long b)
{
	return a < 0 ? b : b < 0 ? a : Min(a, b);
}

/* Milliseconds until work is looked for that no wake-up has announced. */
static long
until_sweep(TimestampTz last_look)
{
	return Max(llmb_sweep_interval_s * 1000L - TimestampDifferenceMilliseconds(last_look, GetCurrentTimestamp()), 0);
}

/* A call that is out for one of the batches, and what it does; or NULL. */
static const char *
call_in_words(void)
{
	static const char *const words[] = {
		[LLMB_CALL_UPLOAD] = "uploading a request file",
		[LLMB_CALL_UPLOAD_DATA] = "uploading a request file",
		[LLMB_CALL_CREATE] = "submitting a batch",
		[LLMB_CALL_POLL] = "polling a batch",
		[LLMB_CALL_LIST] = "looking for a batch",
		[LLMB_CALL_CANCEL] = "cancelling a batch",
		[LLMB_CALL_FETCH] = "fetching results",
		[LLMB_CALL_FIND_FILE] = "looking for a request file",
		[LLMB_CALL_DELETE_FILE] = "deleting a request file",
	};
	ListCell   *lc;

	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (llmb_call_busy(&flight->party) && flight->party.verb < (int) lengthof(words))
			return words[flight->party.verb];
	}
	return NULL;
}

/*
 * What the worker waits for, in pg_stat_activity.  due: milliseconds until
 * the next thing falls due, -1 nothing.  A microsecond, and no system call.
 */
static void
show_waiting(long due)
{
	char		text[200] = "";
	const char *call = call_in_words();
	int			batches = list_length(llmb_fleet());
	int			calls = llmb_http_count();
	size_t		len = 0;

	if (call && calls == 1)
		len = snprintf(text, sizeof(text), "%s; ", call);
	else if (call)
		len = snprintf(text, sizeof(text), "%s, calls out: %d; ", call, calls);
	else if (calls > 0)
		len = snprintf(text, sizeof(text), "waiting for replies, calls out: %d; ", calls);
	if (batches > 0)
		len += snprintf(text + len, sizeof(text) - len, "waiting for batches: %d", batches);
	else
		len += snprintf(text + len, sizeof(text) - len, "waiting for %s", llmb_lifecycle_busy() ? "its time" : "work");
	if (due >= 0)
		(void) snprintf(text + len, sizeof(text) - len, "; %s in %ld s", llmb_lifecycle_busy() ? "next look" : "leaves",
						(due + 999) / 1000);
	pgstat_report_activity(STATE_IDLE, text);
}

/* While it is dropped under running transfers, nobody else would tell us. */
static void
check_extension(TimestampTz *last)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!llmb_http_busy() || TimestampDifferenceMilliseconds(*last, now) < STILL_THERE_MS)
		return;
	if (!extension_is_here())
	{
		/* a turn leaves, and sees to a successor if there is another one */
		llmb_turn_begin("leaving");
		llmb_turn_commit();
	}
	*last = now;
}

/*
 * What is palloc'd in a turn goes with it.  Under AddressSanitizer it goes back
 * to the system, so that whoever looks at it afterwards is found out; a reset
 * keeps the first block.
 */
static void
renew_turn_memory(void)
{
	static MemoryContext turn = NULL;

	Assert(turn == NULL || CurrentMemoryContext == turn);
#ifdef __SANITIZE_ADDRESS__
	if (turn)
	{
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(turn);
		turn = NULL;
	}
#endif
	/* of no standard size, for these are kept for others when they are deleted */
	if (turn == NULL)
		turn = AllocSetContextCreate(TopMemoryContext, "llm_batch turn", 0, 16 * 1024, ALLOCSET_DEFAULT_MAXSIZE);
	else
		MemoryContextReset(turn);
	MemoryContextSwitchTo(turn);
}

static void
main_loop(void)
{
	TimestampTz idle_since = GetCurrentTimestamp();
	TimestampTz last_check = idle_since;
	TimestampTz last_look = idle_since;

	for (;;)
	{
		long		timeout;
		bool		woken;
		bool		sweep;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!llmb_enabled)
			leave(true, "llm_batch.enabled is off");
		renew_turn_memory();
		while (llmb_call_serve())
		{
			CHECK_FOR_INTERRUPTS();
			renew_turn_memory();
		}
		check_extension(&last_check);
		timeout = llmb_lifecycle_step();
		if (timeout == 0)
		{
			/* more to do; but first whatever the sockets have, and who has called */
			idle_since = GetCurrentTimestamp();
			if (llmb_http_wait(0) && llmb_worker_is_wanted())
				llmb_lifecycle_look_again();
			continue;
		}
		if (llmb_lifecycle_busy())
			idle_since = GetCurrentTimestamp();
		else
		{
			long		left = llmb_idle_timeout_s * 1000L -
				TimestampDifferenceMilliseconds(idle_since, GetCurrentTimestamp());

			if (left <= 0)
			{
				/* a commit that came just now found us still here */
				if (!has_work())
					leave(true, "no work");
				llmb_lifecycle_look_again();
				idle_since = GetCurrentTimestamp();
				continue;
			}
			timeout = shorter(timeout, left);
		}
		if (timeout < 0 || timeout >= WORTH_TELLING_MS)
			show_waiting(timeout);
		if (llmb_http_busy())
			timeout = shorter(timeout, STILL_THERE_MS);
		else
			timeout = shorter(timeout, until_sweep(last_look));
		woken = llmb_http_wait(timeout) && llmb_worker_is_wanted();
		sweep = !woken && until_sweep(last_look) == 0;
		if (woken || sweep)
			last_look = GetCurrentTimestamp();
		if (woken || (sweep && (llmb_lifecycle_busy() || has_work())))
		{
			/* it may have become one meanwhile */
			if (database_is_template())
				leave(true, "the database is a template");
			llmb_lifecycle_look_again();
		}
	}
}

/* The background worker's main function; the argument is the database's oid. */
void
llmb_worker_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	pin_settings();
	give_memory_back();
	if (!extension_is_here())
		leave(false, NULL);
	if (database_is_template())
		leave(true, NULL);
	if (!llmb_turn_only_worker() || !llmb_enabled)
		leave(true, NULL);
	llmb_worker_arrives();
	show_start();
	renew_turn_memory();
	llmb_http_init();
	llmb_lifecycle_begin();
	main_loop();
}
