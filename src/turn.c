/*-------------------------------------------------------------------------
 *
 * turn.c
 *		A worker's transactions.
 *
 * The first thing in each is a lock on the extension and a second look at
 * it: DROP EXTENSION either waits for a short transaction, or finds the
 * worker between two of them, where it holds nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "crash.h"
#include "inbox.h"
#include "notify.h"
#include "shmem.h"
#include "sql.h"
#include "turn.h"

/*
 * The session lock of the only worker.  Advisory locks of users have 1 or 2
 * in the last field, so nobody can take, or wait for, this one from SQL.  (A
 * lock of the default method would be lost with the first error.)
 */
#define LOCK_FIELD	0x6C62	/* "lb" */

static MemoryContext before;	/* the caller's, while a turn runs */
static bool committing = false;

/*
 * The extension that this worker serves.  One that was dropped and created
 * again is another: its ids begin anew, and all that we remember is void.
 */
static Oid	served = InvalidOid;

void
llmb_turn_hand_over(void)
{
	llmb_worker_reports(true, true);
	LockReleaseAll(USER_LOCKMETHOD, true);
	llmb_start_successor();
}

static void
leave_without_extension(void)
{
	bool		another = OidIsValid(get_extension_oid(LLMB_EXTENSION, true));

	PopActiveSnapshot();
	CommitTransactionCommand();
	llmb_worker_reports(another, true);
	if (another)
	{
		/* for whoever woke us, and will not wake our successor */
		LockReleaseAll(USER_LOCKMETHOD, true);
		llmb_start_successor();
	}
	proc_exit(0);
}

bool
llmb_extension_is_served(void)
{
	Oid			extension = get_extension_oid(LLMB_EXTENSION, true);

	if (!OidIsValid(served))
		served = extension;
	return OidIsValid(extension) && extension == served;
}

static bool
take_lock(const LOCKTAG *tag, bool session)
{
	return LockAcquire(tag, ExclusiveLock, session, true) != LOCKACQUIRE_NOT_AVAIL;
}

bool
llmb_turn_only_worker(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_FIELD);
	return llmb_lock_held_by_me(&tag, ExclusiveLock) || take_lock(&tag, true);
}

/*
 * A trigger can say pg_advisory_lock(), which would last as long as the
 * worker, and pg_advisory_unlock_all(), which takes ours: the session ends
 * each turn with our lock and no other.  In a transaction it is not given
 * away meanwhile.
 */
static void
drop_locks_of_users(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_FIELD);
	if (IsTransactionState() && !take_lock(&tag, false))
		proc_exit(0);
	LockReleaseSession(USER_LOCKMETHOD);
	if (!take_lock(&tag, true))
		proc_exit(0);
}

void
llmb_turn_begin(const char *doing)
{
	Assert(!IsTransactionState());
	before = CurrentMemoryContext;
	llmb_writing_attachment = 0;
	if (!llmb_turn_only_worker())
		proc_exit(0);
	pgstat_report_activity(STATE_RUNNING, doing);
	llmb_crash_turn_begins(doing);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!llmb_extension_is_served())
		leave_without_extension();
	LockDatabaseObject(ExtensionRelationId, served, 0, AccessShareLock);
	/* it may have been dropped while we waited for the lock */
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!llmb_extension_is_served())
		leave_without_extension();
	llmb_notify_turn_begins();
	MemoryContextSwitchTo(before);
}

void
llmb_turn_see_changes(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
llmb_turn_commit(void)
{
	llmb_notify_turn_commits();
	llmb_crash_turn_commits();
	drop_locks_of_users();
	PopActiveSnapshot();
	committing = true;
	CommitTransactionCommand();
	committing = false;
	MemoryContextSwitchTo(before);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	llmb_crash_turn_committed();
}

bool
llmb_turn_is_committing(void)
{
	return committing;
}

void
llmb_turn_abort(void)
{
	AbortOutOfAnyTransaction();
	committing = false;
	drop_locks_of_users();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}
