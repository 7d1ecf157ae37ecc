/*-------------------------------------------------------------------------
 *
 * plan.h
 *		Cutting a job's items into batches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PLAN_H
#define LLMB_PLAN_H

#include "options.h"
#include "store.h"

/*
 * In a turn: whether the job may be planned.  If not, it is paused until that
 * is mended, and job->look_again_ms set; one that is paused already goes on if
 * it may.
 */
extern bool llmb_plan_ground(LlmbJob *job, LlmbServer **server);

/*
 * Plans and spools the job's next batch, if its server has room for one.
 * True when it did, or when it found that the job cannot go on.
 */
extern bool llmb_plan_batch(LlmbJob *job, TimestampTz now);

#endif							/* LLMB_PLAN_H */
