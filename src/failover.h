/*-------------------------------------------------------------------------
 *
 * failover.h
 *		After a promotion: what the old primary has sent, and its standby
 *		never heard of.
 *
 * The tables of a promoted standby may be some seconds old.  Before a job
 * may send anything on the new timeline, the batches that its server lists
 * for its key are compared with ours, once: those that bear our token are
 * adopted, what cannot be told is reported.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FAILOVER_H
#define LLMB_FAILOVER_H

#include "store.h"

/* Outside of a turn: is this another timeline than the one we began on? */
extern void llmb_failover_begin(void);

/*
 * In a turn: may the job send?  False: first its server is compared with our
 * tables, which this call begins if need be; the job says so in its reason.
 * One complete list will do for requests in real time, which are in no list,
 * and for jobs that the old primary cannot have known.
 */
extern bool llmb_failover_allows(const LlmbJob *job, bool realtime);

/*
 * In a turn: its owner does not want to wait for what may still turn up.
 */
extern void llmb_failover_waive(const LlmbJob *job);

/* Does what is due, outside of a turn; false when nothing was.  *next: when something is, 0 never. */
extern bool llmb_failover_step(TimestampTz now, TimestampTz *next);

/* Is a comparison under way? */
extern bool llmb_failover_busy(void);

#endif							/* LLMB_FAILOVER_H */
