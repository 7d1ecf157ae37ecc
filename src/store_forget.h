/*-------------------------------------------------------------------------
 *
 * store_forget.h
 *		Removing jobs: which are to go, and taking their rows out.
 *
 * A job on its way out is marked (job.forgotten_at), then its rows go, a few
 * thousand to a transaction, and its own row goes last: whoever finds a mark
 * goes on where another stopped.  What it has cost stays in spending and
 * tally.
 *
 * As in store.h: in the caller's transaction, as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_FORGET_H
#define LLMB_STORE_FORGET_H

#include "store.h"

/* Is it on its way out, or asked to be? */
extern bool llmb_store_is_forgotten(int64 job);
/* What an ended job is still needed for, in words; NULL nothing. */
extern char *llmb_store_needed_for(int64 job);

/*
 * Marks an ended job, and frees its request_key; "why" is told in an event.
 * False when it is marked already, or has not ended.
 */
extern bool llmb_store_begin_forget(int64 job, const char *why);

/* How far a look at ended jobs has come: the last that was looked at. */
typedef struct LlmbEndedPlace
{
	TimestampTz finished_at;	/* 0: none yet */
	int64		id;
} LlmbEndedPlace;

typedef struct LlmbEnded
{
	int64		id;
	bool		held;			/* something still needs it */
} LlmbEnded;

/*
 * Jobs that ended more than so many minutes ago, the oldest first, at most
 * "limit" after that place, which moves on.  kind: the state in which they
 * ended, of those that people submitted, or 'task' for those of tasks.  In a
 * restored or copied database a job's time begins with the restore.  Gives a
 * list of LlmbEnded.
 */
extern List *llmb_store_ended_jobs(const char *kind, int minutes, LlmbEndedPlace *place, int limit);

/* A marked job, and how far its removal has come. */
typedef struct LlmbForgotten
{
	int64		id;				/* 0: there is none */
	int			total;
	int			ordinal;		/* nothing is left of its items up to this one */
	bool		waits;			/* for request files that are to be deleted at a provider */
	bool		bare;			/* its items are gone, and most of the rest */
} LlmbForgotten;

/* Is any job marked? */
extern bool llmb_store_any_forgotten(void);
/* The marked job with the next higher id that has rows to be deleted; false when there is none. */
extern bool llmb_store_next_forgotten(int64 after, LlmbForgotten *job);

/*
 * Deletes the next rows of a marked job: those of so many items, or, when
 * there are no more of these, some others; returns how many.  Sets *gone when
 * nothing is left, or only what a job that waits needs.
 */
extern int	llmb_store_forget_rows(LlmbForgotten *job, int items, bool *gone);

/*
 * Sums up what forgotten jobs have cost in months that ended more than so many
 * minutes ago, at most so many rows at once; true when there were any.
 */
extern bool llmb_store_sum_up_months(int minutes, int limit);

#endif							/* LLMB_STORE_FORGET_H */
