/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What processes tell one another: that a database has work, and where
 *		its worker's latch is.
 *
 * Shared memory exists only when the library is preloaded.  Without it a
 * worker is found by its type among the background workers, and started by
 * the session that commits work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_SHMEM_H
#define LLMB_SHMEM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

/* Databases that the launcher can look after at a time. */
#define LLMB_MAX_DATABASES 256

typedef struct LlmbSlot
{
	Oid			database;		/* InvalidOid: free */
	int			worker_pid;		/* 0: none runs */
	struct Latch *worker_latch;
	bool		wanted;			/* there may be work */
	bool		has_extension;	/* as its last worker saw it */
	bool		clean_exit;		/* its last worker left of its own will */
	int			held_by;		/* pid that needs the database for itself; 0 */
	TimestampTz looks_at;		/* its worker will look for changed rows then, called or not */
} LlmbSlot;

extern void llmb_shmem_request(void);
extern bool llmb_preloaded(void);

/* ---- for sessions ---- */

/* Once per transaction: when it commits, its database's worker is woken. */
extern void llmb_wake_at_commit(void);
/*
 * The same for rows that have changed; but a worker that is going to look for
 * such by itself in a moment is left in peace: thousands of commits a second
 * are one wake-up.
 */
extern void llmb_wake_for_changes_at_commit(void);
/*
 * The extension was created: when that commits, sweeps begin to look into its
 * database, for a dump that is being restored has no submit to wake a worker.
 */
extern void llmb_extension_at_commit(void);
/* Now, for what was committed already.  Safe to call anywhere. */
extern void llmb_wake(void);
/* The worker of this database: its pid, 0 when none runs. */
extern int	llmb_worker_pid(void);

/* ---- for launcher and worker ---- */

extern void llmb_launcher_arrives(void);
extern void llmb_worker_arrives(void);	/* leaves by itself on exit */
/*
 * The worker's latch was set: for work?  Late alarms of timeouts that are
 * long disabled set it, too.  Without shared memory: always true.
 */
extern bool llmb_worker_is_wanted(void);
/* We shall look for changed rows at that time; who commits such before then need not call us. */
extern void llmb_worker_looks_at(TimestampTz when);
extern void llmb_worker_reports(bool has_extension, bool clean_exit);
/* Copies the slot of that number; false past the last. */
extern bool llmb_slot(int number, LlmbSlot *copy);
/* A slot for the database, wanted if new; false when all are taken. */
extern bool llmb_slot_for(Oid database);
extern void llmb_slot_free(Oid database);
extern void llmb_slot_set_wanted(Oid database, bool wanted);
/* A worker for it is being started. */
extern void llmb_slot_starting(Oid database);
/* A new worker for our database; we are about to leave it. */
extern void llmb_start_successor(void);
/* How every worker is started. */
extern void llmb_fill_worker(BackgroundWorker *worker, Oid database, bool notify);

/* ---- for the utility hook ---- */

/* Ends the database's worker and keeps it away until released. */
extern void llmb_hold_database(Oid database);
/* gone: it was dropped. */
extern void llmb_release_database(Oid database, bool gone);

#endif							/* LLMB_SHMEM_H */
