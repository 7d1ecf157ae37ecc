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
	bool		no_retry;		/* the job is being cancelled */
	int			retry_ms;		/* wait of items that are sent again: one for all */
	LlmbCode	cancelled_as;	/* what a cancelled line means: why we cancelled */
	bool	   *seen;			/* by position; set once committed */
	int			seen_count;
	int			answered;		/* by this process, for good */
	int			strange_lines;	/* no, unknown or repeated custom_id */
} LlmbIntake;

/*
 * Takes in whole lines, a slice per transaction.  Lines of items that have a
 * result already are passed over, so a file may be read again from its start.
 */
extern void llmb_take_lines(LlmbIntake *intake, char *lines, size_t len);

/* Fails the items at these positions (counted from 1) of the batch. */
extern void llmb_take_named(LlmbIntake *intake, const int *positions, int count,
							LlmbCode code, const char *error);

/* Decides all items of the batch that had no line. */
extern void llmb_take_missing(LlmbIntake *intake, LlmbCode code, bool retryable, const char *error);

/*
 * In a turn, before stale items are sent again: their prompts are made anew
 * from their rows.
 */
extern void llmb_renew_stale(const LlmbJob *job);

/* Tries stored answers again whose time has come; false when there are none. */
extern bool llmb_apply_due(void);

#endif							/* LLMB_RESULTS_H */
