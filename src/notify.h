/*-------------------------------------------------------------------------
 *
 * notify.h
 *		NOTIFY llm_batch: what becomes of jobs, for whoever listens.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_NOTIFY_H
#define LLMB_NOTIFY_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Setting llm_batch.notify: on by default. */
extern bool llmb_notify;

/*
 * The worker's turns.  What was noted since the begin is told with the
 * commit, or, if the turn is rolled back, not at all.  Neither raises for
 * anything that concerns notifications.
 */
extern void llmb_notify_turn_begins(void);
extern void llmb_notify_turn_commits(void);

/* In a turn?  Then what is noted will be told; sessions tell nothing. */
extern bool llmb_notify_is_told(void);

/*
 * A job's state may be another than before; "before" is "<state>[ <reason>]",
 * NULL: it is new, or nobody was told of it yet.  Of several notes in a turn
 * the first one counts.  Does nothing outside of turns.
 */
extern void llmb_notify_state(int64 job, const char *before);

/* A job's counters have changed.  Does nothing outside of turns. */
extern void llmb_notify_counts(int64 job);

/* When counts that were held back fall due; 0: there are none. */
extern TimestampTz llmb_notify_next(void);

/* Tells these, in a turn of its own. */
extern void llmb_notify_due(void);

#endif							/* LLMB_NOTIFY_H */
