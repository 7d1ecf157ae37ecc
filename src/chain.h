/*-------------------------------------------------------------------------
 *
 * chain.h
 *		Jobs that begin when another job has ended.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CHAIN_H
#define LLMB_CHAIN_H

#include "store.h"

/* How long the query of a job may take that begins after another, ms. */
extern int	llmb_query_timeout_ms;

/*
 * At submit: raises unless the current user has a job of that id, which is
 * there to be waited for.
 */
extern void llmb_check_predecessor(int64 after);

/*
 * Looks after a job that is held (job->held) and not being cancelled: lets it
 * go when the job that it waits for has ended well, ends it when that has not.
 * True when something was done; else job->look_again_ms may be set.  Opens
 * turns; may throw.
 */
extern bool llmb_chain_step(LlmbJob *job);

/* Is there nothing to be done for it, as long as that other job goes on? */
extern bool llmb_chain_waits(const LlmbJob *job);

#endif							/* LLMB_CHAIN_H */
