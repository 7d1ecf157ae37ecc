/*-------------------------------------------------------------------------
 *
 * results.h
 *		From the lines of a result file to results, answers and source rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_RESULTS_H
#define LLMB_RESULTS_H

#include "options.h"
#include "store.h"

/* A batch whose results are coming in. */
typedef struct LlmbIntake
{
	const LlmbBatchRow *batch;
	const LlmbServer *server;
	const LlmbJobDef *def;
	Oid			owner;			/* InvalidOid: the role is gone */
	bool		free;			/* the provider charges nothing */
	bool		realtime;		/* sent singly: prices, and what a failure means */
	bool		fallback;		/* what a batch does not bring goes to real time */
	bool		unfit;			/* the batch was refused or lost as a whole: not in a batch again */
	bool		no_retry;		/* the job is being cancelled */
	int			retry_ms;		/* wait of items that are sent again: one for all */
	LlmbCode	stuck;			/* what would fall back, and may not: the job is to be paused */
	LlmbCode	cancelled_as;	/* what a cancelled line means: why we cancelled */
	bool	   *seen;			/* by position; set once committed */
	int			seen_count;
	int			answered;		/* by this process, for good */
	double		dearest;		/* USD that one item has cost at most, of those with a known cost */
	int64		lines;			/* of the file that is being read */
	bool		stored;			/* answers wait for locked rows; whoever has their time noted clears it */
	int			strange_lines;	/* no, unknown or repeated custom_id */
	int			with_usage;		/* items whose usage the provider told, and its sums: */
	int64		input_tokens;
	int64		output_tokens;
} LlmbIntake;

/*
 * Takes in whole lines, a slice per transaction.  Lines of items that have a
 * result already are passed over, so a file may be read again from its start.
 */
extern void llmb_take_lines(LlmbIntake *intake, char *lines, size_t len);

/*
 * The same for outcomes of real-time requests, in the caller's turn; returns
 * how many answers are in place.  Once that is committed, llmb_outcomes_stored().
 */
extern int	llmb_store_outcomes(LlmbIntake *intake, LlmbOutcome *const *outcomes,
								const int *positions, int count);
extern void llmb_outcomes_stored(LlmbIntake *intake, const int *positions, int count, int succeeded);

/* Fails the items at these positions (counted from 1) of the batch. */
extern void llmb_take_named(LlmbIntake *intake, const int *positions, int count,
							LlmbCode code, bool retryable, const char *error);

/*
 * In a turn, once every item is decided: what the usage teaches of the model,
 * if all items brought it to this process.
 */
extern void llmb_learn_from(const LlmbIntake *intake);

/* Decides all items of the batch that had no line. */
extern void llmb_take_missing(LlmbIntake *intake, LlmbCode code, bool retryable, const char *error);

/*
 * In a turn, before stale items are sent again: their prompts are made anew
 * from their rows.
 */
extern void llmb_renew_stale(const LlmbJob *job);

/*
 * Around a write to a job's source table, in a turn.  False: its code has held
 * up the others, or made a commit fail; it is not run until a person asks.
 */
extern bool llmb_write_begins(int64 job);
extern void llmb_write_ended(void);

/* Tries stored answers again whose time has come; false when there are none. */
extern bool llmb_apply_due(void);

#endif							/* LLMB_RESULTS_H */
