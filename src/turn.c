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
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "shmem.h"
#include "sql.h"
#include "turn.h"

static MemoryContext before;	/* the caller's, while a turn runs */

static void
leave_without_extension(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	llmb_worker_reports(false, true);
	proc_exit(0);
}

void
llmb_turn_begin(const char *doing)
{
	Oid			extension;

	Assert(!IsTransactionState());
	before = CurrentMemoryContext;
	pgstat_report_activity(STATE_RUNNING, doing);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	extension = get_extension_oid(LLMB_EXTENSION, true);
	if (!OidIsValid(extension))
		leave_without_extension();
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	/* it may have been dropped while we waited for the lock */
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (get_extension_oid(LLMB_EXTENSION, true) != extension)
		leave_without_extension();
	MemoryContextSwitchTo(before);
}

void
llmb_turn_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(before);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
llmb_turn_abort(void)
{
	AbortOutOfAnyTransaction();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}
