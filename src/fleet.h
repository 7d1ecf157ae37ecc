/*-------------------------------------------------------------------------
 *
 * fleet.h
 *		All batches that are on their way, and questions about them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FLEET_H
#define LLMB_FLEET_H

#include "flight.h"

/* The flights, each once, who was served longest ago first. */
extern List *llmb_fleet(void);

/*
 * A batch becomes a flight.  Row and spool (which may be NULL) live in that
 * context, which goes with the flight.  lifecycle.c readies it.
 */
extern LlmbFlight *llmb_fleet_add(LlmbBatchRow *row, LlmbSpool *spool, MemoryContext context);
/* Takes it out and frees it; nothing of it may be under way. */
extern void llmb_fleet_forget(LlmbFlight *flight);
/* It was served: behind the others. */
extern void llmb_fleet_served(LlmbFlight *flight);

/* Is this batch, or any of the job, in our hands? */
extern bool llmb_fleet_has_batch(int64 batch);
extern bool llmb_fleet_has_job(int64 job);

/* Is another create of this server and owner under way? */
extern bool llmb_fleet_creating(const LlmbFlight *flight);
/* The one of this server and owner whose create was not answered; or NULL. */
extern LlmbFlight *llmb_fleet_verifying(const LlmbFlight *flight);
/*
 * How many batches of the job's server and owner are at the provider or on
 * their way there, and whether one of the job itself is (partly) unsent.
 */
extern int	llmb_fleet_count(const LlmbJob *job, bool *unsent);
/* Sets how many batches each of these jobs (of LlmbJob) has out. */
extern void llmb_fleet_count_jobs(List *jobs);
/* Input tokens that batches of the job have in the provider's queue. */
extern int64 llmb_fleet_job_tokens(int64 job);
/* How often places of batches have become free so far. */
extern int64 llmb_fleet_freed(void);
/* One of the job that is (partly) unsent, and not told to stop; or NULL. */
extern LlmbFlight *llmb_fleet_unsent(int64 job);
/* Are results of the job being read? */
extern bool llmb_fleet_landing(int64 job);
/* Are items of the job being sent in real time? */
extern bool llmb_fleet_realtime(int64 job);
/* Input tokens that batches of this server, owner and model have in the provider's queue. */
extern int64 llmb_fleet_tokens(const char *server, const char *owner, const char *model);

/* Jobs are to be looked at, for there may be room for another batch. */
extern void llmb_fleet_look_at_jobs(void);
/* Was that said since the last time this was asked? */
extern bool llmb_fleet_wants_look(void);

#endif							/* LLMB_FLEET_H */
