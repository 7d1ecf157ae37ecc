/*-------------------------------------------------------------------------
 *
 * plan.h
 *		Cutting a job's items into batches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PLAN_H
#define LLMB_PLAN_H

#include "spool.h"
#include "store.h"

/*
 * Plans and spools the job's next batch, if its server has room for one.
 * True when it did, or when it found that the job cannot go on.
 */
extern bool llmb_plan_batch(LlmbJob *job, TimestampTz now);

/* Why a job with max_cost is paused, in words. */
extern char *llmb_budget_reason(const LlmbJob *job);

/* The server's provider takes no request files of more bytes; until the worker ends. */
extern void llmb_plan_learn_size(const char *server, int64 bytes);

/* ---- lifecycle.c, for plan.c ---- */

extern void llmb_lifecycle_add(LlmbBatchRow *row, LlmbSpool *spool, MemoryContext context);
extern int	llmb_lifecycle_count(const LlmbJob *job, bool *unsent);
extern bool llmb_lifecycle_landing(int64 job);
/* Are items of the job being sent in real time? */
extern bool llmb_lifecycle_realtime(int64 job);
/* Input tokens that batches of this server, owner and model have in the provider's queue. */
extern int64 llmb_lifecycle_tokens(const char *server, const char *owner, const char *model);

#endif							/* LLMB_PLAN_H */
