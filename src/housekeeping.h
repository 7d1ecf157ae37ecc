/*-------------------------------------------------------------------------
 *
 * housekeeping.h
 *		Jobs that are removed: those that forget() names, and those that have
 *		been kept as long as the settings say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_HOUSEKEEPING_H
#define LLMB_HOUSEKEEPING_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* For how long ended jobs are kept, by how they ended, in minutes; -1 for ever. */
extern int	llmb_keep_succeeded_min;
extern int	llmb_keep_partial_min;
extern int	llmb_keep_failed_min;
extern int	llmb_keep_cancelled_min;
/* Those of tasks, however they ended. */
extern int	llmb_keep_task_min;

/* How long costs of forgotten jobs are kept by day and labels, in minutes; -1 for ever. */
extern int	llmb_keep_daily_min;

/* A job was marked. */
extern void llmb_housekeeping_look(void);
/* Request files were deleted at a provider: what waited for that goes on. */
extern void llmb_housekeeping_files_gone(void);

/* When there is something to do: never 0, for there is always a next look. */
extern TimestampTz llmb_housekeeping_next(void);
/* True while there are rows to be deleted, and not a look alone. */
extern bool llmb_housekeeping_busy(void);

/*
 * Does one slice: looks for jobs whose time is over, or removes some rows, in
 * a transaction of its own.  True when that was something, and there may be
 * more.  Raises what SQL raises.
 */
extern bool llmb_housekeeping_step(void);

/* After an error of a step: what it had in hand is looked for anew, later. */
extern void llmb_housekeeping_failed(void);

#endif							/* LLMB_HOUSEKEEPING_H */
