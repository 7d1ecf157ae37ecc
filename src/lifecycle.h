/*-------------------------------------------------------------------------
 *
 * lifecycle.h
 *		The life of batches: plan, spool, upload, submit, poll, fetch,
 *		finalize, with repair and cancel.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_LIFECYCLE_H
#define LLMB_LIFECYCLE_H

#include "postgres.h"

/* Loads what is under way; at a worker's start. */
extern void llmb_lifecycle_begin(void);

/* Something was committed that the worker may not know of. */
extern void llmb_lifecycle_look_again(void);

/*
 * Does one due thing, if there is any.  Returns milliseconds until the next
 * falls due: 0 more to do now, -1 nothing.
 */
extern long llmb_lifecycle_step(void);

/* True while batches, jobs or answers still need this worker. */
extern bool llmb_lifecycle_busy(void);

#endif							/* LLMB_LIFECYCLE_H */
