/*-------------------------------------------------------------------------
 *
 * atomic.h
 *		Atomic jobs: all answers are written in one transaction, or none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_ATOMIC_H
#define LLMB_ATOMIC_H

#include "store.h"

/*
 * Looks after an atomic job that has nothing to send and nothing flying any
 * more, and not ended: applies its answers, or ends it without.  True when
 * something was done; else job->look_again_ms is set.  Opens turns; may throw.
 */
extern bool llmb_atomic_step(LlmbJob *job);

#endif							/* LLMB_ATOMIC_H */
