/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Keeps a worker in each database that has work.
 *
 * No list of names: at its start the launcher has a worker look into every
 * database that takes connections and is no template; a worker leaves at
 * once where there is no extension, and after a while where there is no
 * work.  Later a commit that enqueues says so in shared memory, and each
 * llm_batch.sweep_interval the databases that have the extension are looked
 * into again, for wake-ups that no callback sees.
 *
 * A worker that ends by an error is started again after a growing pause.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "compat.h"
#include "launcher.h"
#include "log.h"
#include "shmem.h"

/* Looks into this many databases at a time when nothing is known of them. */
#define MAX_STARTING	4

/* What the launcher alone knows of a slot. */
typedef struct Charge
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: none was started, or it ended */
	TimestampTz not_before;
	int			failures;
} Charge;

static Charge charges[LLMB_MAX_DATABASES];

PGDLLEXPORT void llmb_launcher_main(Datum arg);

void
llmb_register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, LLMB_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "llmb_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, LLMB_LAUNCHER_TYPE, BGW_MAXLEN);
	strlcpy(worker.bgw_type, LLMB_LAUNCHER_TYPE, BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Gives every database a slot; slots of dropped ones are freed. */
static void
survey_databases(void)
{
	bool		alive[LLMB_MAX_DATABASES] = {false};
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	LlmbSlot	slot;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (!form->datallowconn || form->datistemplate || form->datconnlimit == -2)
			continue;
		if (!llmb_slot_for(form->oid))
			ereport(LOG,
					(errmsg("llm_batch: no room to look after database \"%s\"", NameStr(form->datname)),
					 errdetail("At most %d databases can be looked after.", LLMB_MAX_DATABASES)));
		for (int i = 0; llmb_slot(i, &slot); i++)
		{
			if (slot.database == form->oid)
				alive[i] = true;
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	for (int i = 0; llmb_slot(i, &slot); i++)
	{
		if (OidIsValid(slot.database) && !alive[i])
			llmb_slot_free(slot.database);
	}
}

static void
sweep(void)
{
	LlmbSlot	slot;

	survey_databases();
	for (int i = 0; llmb_slot(i, &slot); i++)
	{
		if (OidIsValid(slot.database) && slot.has_extension && slot.worker_pid == 0)
			llmb_slot_set_wanted(slot.database, true);
	}
}

/* Takes note of a worker that has ended. */
static void
note_end(Charge *charge, const LlmbSlot *slot)
{
	pid_t		pid;

	if (charge->handle == NULL || GetBackgroundWorkerPid(charge->handle, &pid) != BGWH_STOPPED)
		return;
	pfree(charge->handle);
	charge->handle = NULL;
	if (slot->clean_exit)
	{
		charge->failures = 0;
		charge->not_before = 0;
		return;
	}
	charge->failures++;
	charge->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 llmb_backoff_ms(charge->failures, 2000, 60000, 0.5));
	llmb_slot_set_wanted(slot->database, true);
}

static bool
start_worker(Charge *charge, Oid database)
{
	BackgroundWorker worker;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		started;

	llmb_fill_worker(&worker, database, true);
	llmb_slot_starting(database);
	started = RegisterDynamicBackgroundWorker(&worker, &charge->handle);
	MemoryContextSwitchTo(old);
	charge->database = database;
	if (!started)
	{
		charge->handle = NULL;
		llmb_slot_set_wanted(database, true);
		charge->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 10000);
		ereport(LOG,
				(errmsg("llm_batch: no background worker slot is free"),
				 errhint("Raise max_worker_processes.")));
	}
	return started;
}

/* Starts what is wanted and due; milliseconds until something else falls due. */
static long
look_after_databases(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		timeout = 3600000L;
	int			starting = 0;
	LlmbSlot	slot;

	for (int i = 0; llmb_slot(i, &slot); i++)
	{
		Charge	   *charge = &charges[i];

		if (charge->handle && charge->database != slot.database)
			note_end(charge, &slot);
		if (!OidIsValid(slot.database))
			continue;
		note_end(charge, &slot);
		if (charge->handle && slot.worker_pid == 0)
			starting++;
	}
	for (int i = 0; llmb_slot(i, &slot); i++)
	{
		Charge	   *charge = &charges[i];

		if (!OidIsValid(slot.database) || charge->handle || slot.worker_pid || slot.held_by || !slot.wanted)
			continue;
		if (charge->database != slot.database)
			memset(charge, 0, sizeof(Charge));
		if (charge->not_before > now)
			timeout = Min(timeout, TimestampDifferenceMilliseconds(now, charge->not_before) + 1);
		else if (starting < MAX_STARTING && start_worker(charge, slot.database))
			starting++;
	}
	return timeout;
}

/* For pg_stat_activity, before it sleeps. */
static void
show_waiting(long timeout)
{
	char		text[100];
	int			running = 0;

	for (int i = 0; i < LLMB_MAX_DATABASES; i++)
		running += charges[i].handle != NULL;
	if (llmb_enabled)
		snprintf(text, sizeof(text), "workers: %d; next look in %ld s", running, (timeout + 999) / 1000);
	else
		snprintf(text, sizeof(text), "workers: %d; llm_batch.enabled is off", running);
	pgstat_report_activity(STATE_IDLE, text);
}

static void
launcher_stops(int code, Datum arg)
{
	(void) arg;
	llmb_log_process("launcher", "stopped", code == 0 ? NULL : "terminated, or an error");
}

/* The background worker's main function. */
void
llmb_launcher_main(Datum arg)
{
	TimestampTz next_sweep = 0;

	(void) arg;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* no database: shared catalogs are all it reads */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	llmb_launcher_arrives();
	pgstat_report_appname(LLMB_LAUNCHER_TYPE);
	on_proc_exit(launcher_stops, 0);
	llmb_log_process("launcher", "started", NULL);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long		timeout = 3600000L;

		if (ConfigReloadPending)
		{
			bool		was_enabled = llmb_enabled;

			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			/* what was left alone meanwhile goes on at once */
			if (llmb_enabled && !was_enabled)
				next_sweep = now;
		}
		if (llmb_enabled && now >= next_sweep)
		{
			pgstat_report_activity(STATE_RUNNING, "looking for databases that have work");
			sweep();
			next_sweep = TimestampTzPlusMilliseconds(now, llmb_sweep_interval_s * INT64CONST(1000));
		}
		if (llmb_enabled)
			timeout = Min(look_after_databases(),
						  TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_sweep) + 1);
		show_waiting(timeout);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 llmb_wait_event_launcher());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
