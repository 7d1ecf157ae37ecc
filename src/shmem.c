/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		What processes tell one another.
 *
 * A spinlock guards a small array of slots, one per database.  Shared memory
 * is a hint, never the truth: after a crash it is empty, and the launcher
 * finds out again by starting a worker in every database once.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "compat.h"
#include "health.h"
#include "shmem.h"

typedef struct Shared
{
	slock_t		mutex;
	struct Latch *launcher_latch;
	LlmbSlot	slots[LLMB_MAX_DATABASES];
} Shared;

static Shared *shared = NULL;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/* ---- set-up ---- */

static void
request_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(sizeof(Shared));
	RequestAddinShmemSpace(llmb_health_shared_size());
}

static void
set_up_memory(void)
{
	bool		found;
	bool		health_found;
	void	   *health;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("llm_batch", sizeof(Shared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(Shared));
		SpinLockInit(&shared->mutex);
	}
	health = ShmemInitStruct("llm_batch health", llmb_health_shared_size(), &health_found);
	llmb_health_share(health, health_found);
	LWLockRelease(AddinShmemInitLock);
}

void
llmb_shmem_request(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = set_up_memory;
}

bool
llmb_preloaded(void)
{
	return shared != NULL;
}

/* ---- slots; the mutex is held ---- */

static LlmbSlot *
find_slot(Oid database, bool create)
{
	LlmbSlot   *unused = NULL;

	for (int i = 0; i < LLMB_MAX_DATABASES; i++)
	{
		LlmbSlot   *slot = &shared->slots[i];

		if (slot->database == database)
			return slot;
		if (unused == NULL && !OidIsValid(slot->database))
			unused = slot;
	}
	if (!create || unused == NULL)
		return NULL;
	memset(unused, 0, sizeof(LlmbSlot));
	unused->database = database;
	unused->wanted = true;
	return unused;
}

/* ---- waking ---- */

void
llmb_fill_worker(BackgroundWorker *worker, Oid database, bool notify)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION | LLMB_BGWORKER_INTERRUPTIBLE;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_main_arg = ObjectIdGetDatum(database);
	worker->bgw_notify_pid = notify ? MyProcPid : 0;
	strlcpy(worker->bgw_library_name, LLMB_LIBRARY, sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, "llmb_worker_main", sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, LLMB_WORKER_TYPE, BGW_MAXLEN);
	strlcpy(worker->bgw_type, LLMB_WORKER_TYPE, BGW_MAXLEN);
}

void
llmb_start_successor(void)
{
	BackgroundWorker worker;

	if (shared)
	{
		llmb_slot_set_wanted(MyDatabaseId, true);
		return;
	}
	llmb_fill_worker(&worker, MyDatabaseId, false);
	(void) RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* The process of this database's worker, when there is no shared memory. */
static PGPROC *
find_worker(void)
{
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];
		int			pid = proc->pid;
		const char *type;

		if (pid == 0 || proc->databaseId != MyDatabaseId || !llmb_is_background_worker(proc))
			continue;
		type = GetBackgroundWorkerTypeByPid(pid);
		if (type && strcmp(type, LLMB_WORKER_TYPE) == 0)
			return proc;
	}
	return NULL;
}

static void
wake_shared(void)
{
	struct Latch *worker;
	struct Latch *launcher;
	LlmbSlot   *slot;

	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, true);
	if (slot)
		slot->wanted = true;
	worker = slot && slot->worker_pid ? slot->worker_latch : NULL;
	launcher = shared->launcher_latch;
	SpinLockRelease(&shared->mutex);
	/* a latch of a process that has just gone wakes nobody, or its heir */
	if (worker)
		SetLatch(worker);
	else if (launcher)
		SetLatch(launcher);
}

/*
 * Also runs in the commit callback, where nothing may throw: it takes
 * spinlocks, lightweight locks and no memory.
 */
void
llmb_wake(void)
{
	BackgroundWorker worker;
	PGPROC	   *proc;

	if (shared)
	{
		wake_shared();
		return;
	}
	proc = find_worker();
	if (proc)
		SetLatch(&proc->procLatch);
	else if (llmb_enabled && !IsBinaryUpgrade && !RecoveryInProgress())
	{
		llmb_fill_worker(&worker, MyDatabaseId, false);
		(void) RegisterDynamicBackgroundWorker(&worker, NULL);
	}
}

/* A look at that time or later sees what has been committed by now. */
static bool
worker_will_look(void)
{
	LlmbSlot   *slot;
	TimestampTz now;
	bool		will;

	if (shared == NULL)
		return false;
	now = GetCurrentTimestamp();
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, false);
	will = slot && slot->worker_pid != 0 && now < slot->looks_at;
	SpinLockRelease(&shared->mutex);
	return will;
}

static bool wake_pending = false;
static bool changes_pending = false;
static bool extension_pending = false;
static bool callback_registered = false;

static void
note_extension(void)
{
	LlmbSlot   *slot;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, true);
	if (slot)
		slot->has_extension = true;
	SpinLockRelease(&shared->mutex);
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT && (wake_pending || (changes_pending && !worker_will_look())))
		llmb_wake();
	if (event == XACT_EVENT_COMMIT && extension_pending)
		note_extension();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wake_pending = changes_pending = extension_pending = false;
}

static void
register_callback(void)
{
	if (!callback_registered)
		RegisterXactCallback(at_end_of_transaction, NULL);
	callback_registered = true;
}

void
llmb_wake_at_commit(void)
{
	register_callback();
	wake_pending = true;
}

void
llmb_wake_for_changes_at_commit(void)
{
	register_callback();
	changes_pending = true;
}

void
llmb_worker_looks_at(TimestampTz when)
{
	LlmbSlot   *slot;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, false);
	if (slot)
		slot->looks_at = when;
	SpinLockRelease(&shared->mutex);
}

void
llmb_extension_at_commit(void)
{
	register_callback();
	extension_pending = true;
}

int
llmb_worker_pid(void)
{
	PGPROC	   *proc;
	int			pid = 0;

	if (shared)
	{
		LlmbSlot   *slot;

		SpinLockAcquire(&shared->mutex);
		slot = find_slot(MyDatabaseId, false);
		pid = slot ? slot->worker_pid : 0;
		SpinLockRelease(&shared->mutex);
		return pid;
	}
	proc = find_worker();
	return proc ? proc->pid : 0;
}

/* ---- launcher and worker ---- */

static void
launcher_leaves(int code, Datum arg)
{
	(void) code;
	(void) arg;
	SpinLockAcquire(&shared->mutex);
	shared->launcher_latch = NULL;
	SpinLockRelease(&shared->mutex);
}

void
llmb_launcher_arrives(void)
{
	on_shmem_exit(launcher_leaves, (Datum) 0);
	SpinLockAcquire(&shared->mutex);
	shared->launcher_latch = MyLatch;
	SpinLockRelease(&shared->mutex);
}

static void
worker_leaves(int code, Datum arg)
{
	LlmbSlot   *slot;
	struct Latch *launcher;

	(void) code;
	(void) arg;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, false);
	if (slot && slot->worker_pid == MyProcPid)
	{
		slot->worker_pid = 0;
		slot->worker_latch = NULL;
	}
	launcher = shared->launcher_latch;
	SpinLockRelease(&shared->mutex);
	if (launcher)
		SetLatch(launcher);
}

void
llmb_worker_arrives(void)
{
	LlmbSlot   *slot;

	if (shared == NULL)
		return;
	on_shmem_exit(worker_leaves, (Datum) 0);
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, true);
	if (slot)
	{
		slot->worker_pid = MyProcPid;
		slot->worker_latch = MyLatch;
		slot->clean_exit = false;
		slot->wanted = false;
	}
	SpinLockRelease(&shared->mutex);
}

bool
llmb_worker_is_wanted(void)
{
	LlmbSlot   *slot;
	bool		wanted = true;

	if (shared == NULL)
		return true;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, false);
	if (slot)
	{
		wanted = slot->wanted;
		slot->wanted = false;
	}
	SpinLockRelease(&shared->mutex);
	return wanted;
}

void
llmb_worker_reports(bool has_extension, bool clean_exit)
{
	LlmbSlot   *slot;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(MyDatabaseId, false);
	if (slot)
	{
		slot->has_extension = has_extension;
		slot->clean_exit = clean_exit;
	}
	SpinLockRelease(&shared->mutex);
}

bool
llmb_slot(int number, LlmbSlot *copy)
{
	if (number >= LLMB_MAX_DATABASES)
		return false;
	SpinLockAcquire(&shared->mutex);
	*copy = shared->slots[number];
	SpinLockRelease(&shared->mutex);
	return true;
}

bool
llmb_slot_for(Oid database)
{
	LlmbSlot   *slot;

	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, true);
	SpinLockRelease(&shared->mutex);
	return slot != NULL;
}

void
llmb_slot_free(Oid database)
{
	LlmbSlot   *slot;

	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, false);
	if (slot && slot->worker_pid == 0 && slot->held_by == 0)
		slot->database = InvalidOid;
	SpinLockRelease(&shared->mutex);
}

void
llmb_slot_set_wanted(Oid database, bool wanted)
{
	LlmbSlot   *slot;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, false);
	if (slot)
		slot->wanted = wanted;
	SpinLockRelease(&shared->mutex);
}

void
llmb_slot_starting(Oid database)
{
	LlmbSlot   *slot;

	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, false);
	if (slot)
	{
		/* an end that is not reported by the worker itself is no clean one */
		slot->wanted = false;
		slot->clean_exit = false;
	}
	SpinLockRelease(&shared->mutex);
}

/* ---- databases that somebody needs for themselves ---- */

static int
held_worker(Oid database, int holder)
{
	LlmbSlot   *slot;
	int			pid = 0;

	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, true);
	if (slot)
	{
		slot->held_by = holder;
		slot->wanted = false;
		pid = slot->worker_pid;
		/* it is we who end it: no reason to bring it back slowly */
		slot->clean_exit = true;
	}
	SpinLockRelease(&shared->mutex);
	return pid;
}

void
llmb_hold_database(Oid database)
{
	int			pid;

	if (shared == NULL)
		return;
	/* a worker answers SIGTERM within a second; do not wait for ever */
	for (int i = 0; i < 50 && (pid = held_worker(database, MyProcPid)) != 0; i++)
	{
		if (i % 10 == 0)
			kill(pid, SIGTERM);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100, llmb_wait_event_worker_end());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
llmb_release_database(Oid database, bool gone)
{
	LlmbSlot   *slot;
	struct Latch *launcher;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(database, false);
	if (slot && slot->held_by == MyProcPid)
	{
		slot->held_by = 0;
		slot->wanted = !gone;
		if (gone && slot->worker_pid == 0)
			slot->database = InvalidOid;
	}
	launcher = shared->launcher_latch;
	SpinLockRelease(&shared->mutex);
	if (launcher)
		SetLatch(launcher);
}
