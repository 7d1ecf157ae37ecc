/*-------------------------------------------------------------------------
 *
 * plan.h
 *		Cutting a job's items into batches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PLAN_H
#define LLMB_PLAN_H

#include "store.h"

/*
 * Plans and spools the job's next batch, if its server has room for one.
 * True when it did, or when it found that the job cannot go on.
 */
extern bool llmb_plan_batch(LlmbJob *job, TimestampTz now);

#endif							/* LLMB_PLAN_H */
