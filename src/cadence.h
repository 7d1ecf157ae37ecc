/*-------------------------------------------------------------------------
 *
 * cadence.h
 *		When to ask a provider for a batch again, and how long it will take:
 *		a policy, pure function of what earlier batches took, of what the
 *		provider has said of this one, and of the time that has passed.
 *
 * No I/O, no SQL, no setting, no clock, no memory of earlier calls, no errors
 * raised.  Times are milliseconds unless a name says otherwise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CADENCE_H
#define LLMB_CADENCE_H

#include "common.h"

/* So many of the last turnarounds of a server, model and size are kept ... */
#define LLMB_TURNAROUNDS	32
/* ... and so many, of alike ones together, are looked at. */
#define LLMB_PEAKS			96

/* What one batch of the past took. */
typedef struct LlmbPastBatch
{
	double		seconds;		/* from its submission to the provider's end */
	int			age;			/* newer ones of its server, model and size */
	bool		same_model;
	int			size_gap;		/* how many classes of size it is away */
} LlmbPastBatch;

/*
 * The distribution of the turnaround that is expected, on the scale of its
 * logarithm: a peak for each batch of the past, all of one width, and a wide
 * hill below them for what has never been seen.
 */
typedef struct LlmbExpectation
{
	int			peaks;			/* 0: nothing was learned */
	double		at[LLMB_PEAKS]; /* ln(ms) */
	double		weight[LLMB_PEAKS]; /* with that of the hill: 1 in all */
	double		width;			/* of a peak */
	double		hill;			/* weight of the hill */
	double		hill_at;		/* ln(ms) */
	double		hill_width;
} LlmbExpectation;

/* A batch that runs, as its last polls have shown it. */
typedef struct LlmbSight
{
	int64		elapsed_ms;		/* since its submission */
	int64		total;			/* the provider's counts, -1 unknown */
	int64		done;			/* failed ones included */
	int64		before_ms;		/* elapsed at the poll before; -1 there was none */
	int64		before_done;	/* and its count; -1 unknown */
} LlmbSight;

/*
 * The class of size of a batch: 1, 4, 16 ..., the largest power of four that
 * is not more than its number of requests.
 */
extern int	llmb_size_class(int64 items);

/*
 * What past batches let expect of the next.  Those of the same model and size
 * count most, others only until there are enough of these; new ones count
 * more than old ones.  The first LLMB_PEAKS are used: the most alike should
 * come first.
 */
extern void llmb_cadence_expect(LlmbExpectation *expected, const LlmbPastBatch *past, int count);

/*
 * Milliseconds until the next poll: min_ms at least, max_ms at most (min_ms
 * wins), spread by a tenth each way by jitter in [0, 1).
 */
extern int64 llmb_cadence_wait_ms(const LlmbExpectation *expected, const LlmbSight *sight,
								  int64 min_ms, int64 max_ms, double jitter);

/*
 * Milliseconds until the provider is likely to end it, with even chances of
 * sooner and later; -1 when neither earlier batches nor counts tell.
 */
extern int64 llmb_cadence_left_ms(const LlmbExpectation *expected, const LlmbSight *sight);

#endif							/* LLMB_CADENCE_H */
