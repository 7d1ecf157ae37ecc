/*-------------------------------------------------------------------------
 *
 * gather.h
 *		From changed rows to jobs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_GATHER_H
#define LLMB_GATHER_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Something was committed, or a job was sent: the inboxes are to be looked at. */
extern void llmb_gather_look(void);

/* When there is something to do; 0 never, in the past: now. */
extern TimestampTz llmb_gather_next(void);

/*
 * One bounded thing: looks at the inboxes, or makes a job of one that is due.
 * True when jobs are to be looked at, for there is a new one.  may_clean: this
 * is no database that a dump is being restored into, so what belongs to
 * nothing may be removed.
 */
extern bool llmb_gather_step(TimestampTz now, bool may_clean);

/* That step has thrown: not at once again. */
extern void llmb_gather_failed(TimestampTz now);

/* Do changed rows wait for their time? */
extern bool llmb_gather_busy(void);

#endif							/* LLMB_GATHER_H */
