/*-------------------------------------------------------------------------
 *
 * fair.h
 *		Whose turn it is: the order in which jobs are given batches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FAIR_H
#define LLMB_FAIR_H

#include "store.h"

/*
 * Orders jobs (of LlmbJob, with "flying" set): by priority; within it owners
 * take turns, and of an owner's jobs the one with the fewest batches out goes
 * first; among equals those that have had none yet and the others take turns,
 * then the one that has waited longest for one.  So a job of a thousand
 * batches waits for those of one, but not for ever; and who submits a thousand
 * jobs does not keep the others waiting.
 */
extern void llmb_fair_order(List *jobs);

/* The job was given a batch, or a set in real time: of equal ones the others go first. */
extern void llmb_fair_served(const LlmbJob *job, bool realtime);

/*
 * How much of a limit (batches, or tokens in the provider's queue) one job
 * may take: an eighth, and at least one, is left for the others; of limits
 * below four nothing is.
 */
extern int64 llmb_fair_share(int64 limit);

#endif							/* LLMB_FAIR_H */
