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

/*
 * In a turn: its owner does not want to wait for what may still turn up.
 */
extern void llmb_failover_waive(const LlmbJob *job);

/* Does what is due, outside of a turn; false when nothing was.  *next: when something is, 0 never. */
extern bool llmb_failover_step(TimestampTz now, TimestampTz *next);

#endif							/* LLMB_FAILOVER_H */
