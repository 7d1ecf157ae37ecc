/*-------------------------------------------------------------------------
 *
 * cadence.c
 *		When to ask a provider for a batch again, and how long it will take.
 *
 * Being late by a second is nothing for a batch of an hour and much for one
 * of ten seconds, so all of it happens on the scale of u = ln(time): lateness
 * and the distance of polls are shares of the time that has passed.
 *
 * Let h(u) be the chance that a batch that has not ended by u ends around u
 * (the hazard of the expected distribution).  Polls that are d(u) apart are
 * d/2 late on average and 1/d(u) of them are needed; the sum of both, each
 * weighed, is least where d is proportional to 1/sqrt(h).  So the next poll
 * comes where the integral of sqrt(h) has grown by a constant, CLOSENESS.
 * Where an end is unlikely polls are rare, where it is likely they are dense;
 * and since something unseen is always possible a little, a provider that has
 * become much faster or slower is still found out.
 *
 * Counts, where a provider gives them, say more than the past does; they are
 * not trusted for longer stretches than a part of the time that has passed,
 * for the last requests of a batch need not be like the first.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <float.h>
#include <math.h>

#include "cadence.h"

/*
 * Where an end is likely (h about 1, as around the median of turnarounds that
 * vary by a factor of two) polls are 7 % of the time apart, so 3.5 % late.
 */
#define CLOSENESS		0.07
/* Nobody needs to know an end more exactly. */
#define CLOSEST			0.04

/* With nothing learned, half of the batches end between 3 and 40 minutes. */
#define PRIOR_AT		13.3	/* ln(10 minutes) */
#define PRIOR_WIDTH		2.0
/*
 * Once something is learned, what is unlike all of it counts as half a batch
 * more: one that takes exp(1.2) times as long, or as short, and rarely more.
 */
#define UNSEEN_WIDTH	1.2
#define UNSEEN_WEIGHT	0.5

/* What an older batch counts, against the next newer one. */
#define FADING			0.88
/* What one of the next class of size counts, and one of another model. */
#define OTHER_SIZE		0.4
#define OTHER_MODEL		0.3
/* All of these together count no more than so many batches. */
#define OTHERS_AT_MOST	2.0

/* Before anything is known, turnarounds are taken to vary that much. */
#define USUAL_SPREAD	0.5
#define LEAST_WIDTH		0.03

/* The integral's step, and where time ends: 30 years. */
#define STEP			0.02
#define END_OF_TIME		27.6

/* Counts may stretch a wait to that share of the time that has passed. */
#define TRUST			0.3

int
llmb_size_class(int64 items)
{
	int			size = 1;

	while (items / 4 >= size && size < (1 << 28))
		size *= 4;
	return size;
}

/* ---- what is expected ---- */

static bool
is_alike(const LlmbPastBatch *past)
{
	return past->same_model && past->size_gap == 0;
}

static double
likeness(const LlmbPastBatch *past)
{
	return pow(FADING, Max(past->age, 0)) * pow(OTHER_SIZE, Min(abs(past->size_gap), 20)) *
		(past->same_model ? 1 : OTHER_MODEL);
}

/* The others' weights are cut to what they may count together. */
static void
weigh(LlmbExpectation *expected, const LlmbPastBatch *past)
{
	double		others = 0;
	int			i;

	for (i = 0; i < expected->peaks; i++)
	{
		expected->weight[i] = likeness(&past[i]);
		if (!is_alike(&past[i]))
			others += expected->weight[i];
	}
	for (i = 0; i < expected->peaks; i++)
	{
		if (!is_alike(&past[i]) && others > OTHERS_AT_MOST)
			expected->weight[i] *= OTHERS_AT_MOST / others;
	}
}

/*
 * The usual rule for the width of peaks that stand for a sample (Silverman,
 * "Density Estimation", 1986, 3.28), with one more batch of the usual spread.
 */
static double
peak_width(const LlmbExpectation *expected, double sum)
{
	double		mean = expected->hill_at;
	double		spread = USUAL_SPREAD * USUAL_SPREAD;
	double		squares = 0;
	int			i;

	for (i = 0; i < expected->peaks; i++)
	{
		spread += expected->weight[i] * (expected->at[i] - mean) * (expected->at[i] - mean);
		squares += expected->weight[i] * expected->weight[i];
	}
	return Max(1.06 * sqrt(spread / (sum + 1)) * pow(sum * sum / squares, -0.2), LEAST_WIDTH);
}

void
llmb_cadence_expect(LlmbExpectation *expected, const LlmbPastBatch *past, int count)
{
	double		sum = 0;
	int			i;

	memset(expected, 0, sizeof(*expected));
	expected->hill = 1;
	expected->hill_at = PRIOR_AT;
	expected->hill_width = PRIOR_WIDTH;
	expected->peaks = Min(Max(count, 0), LLMB_PEAKS);
	if (expected->peaks == 0)
		return;
	weigh(expected, past);
	for (i = 0; i < expected->peaks; i++)
	{
		expected->at[i] = log(Min(Max(past[i].seconds, 0.001), 1e9) * 1000);
		sum += expected->weight[i];
	}
	expected->hill_at = 0;
	for (i = 0; i < expected->peaks; i++)
		expected->hill_at += expected->weight[i] * expected->at[i] / sum;
	expected->hill_width = UNSEEN_WIDTH;
	expected->width = peak_width(expected, sum);
	for (i = 0; i < expected->peaks; i++)
		expected->weight[i] /= sum + UNSEEN_WEIGHT;
	expected->hill = UNSEEN_WEIGHT / (sum + UNSEEN_WEIGHT);
}

/* Chance to end after u, and the density of ends there. */
static double
chance_later(const LlmbExpectation *expected, double u, double *density)
{
	double		z = (u - expected->hill_at) / expected->hill_width;
	double		later = expected->hill * erfc(z / M_SQRT2);
	double		dense = expected->hill * exp(-z * z / 2) / expected->hill_width;
	int			i;

	for (i = 0; i < expected->peaks; i++)
	{
		z = (u - expected->at[i]) / expected->width;
		later += expected->weight[i] * (z < -6 ? 2 : z > 6 ? 0 : erfc(z / M_SQRT2));
		if (z > -6 && z < 6)
			dense += expected->weight[i] * exp(-z * z / 2) / expected->width;
	}
	*density = dense / sqrt(2 * M_PI);
	return later / 2;
}

/* ---- the next poll ---- */

/* By the past alone: how long after elapsed_ms, looking no further than max_ms. */
static double
wait_by_past(const LlmbExpectation *expected, double elapsed, double min_ms, double max_ms)
{
	double		u = log(Max(elapsed, min_ms));
	double		last = log(elapsed + max_ms);
	double		grown = 0;

	while (grown < CLOSENESS && u < last)
	{
		double		density;
		double		later = chance_later(expected, u, &density);

		grown += STEP * sqrt(density / Max(later, DBL_MIN));
		u += STEP;
	}
	return Max(exp(Min(u, last)) - elapsed, elapsed * CLOSEST);
}

/* By the counts alone: how long it has to run; -1 when they do not tell. */
static double
left_by_counts(const LlmbSight *sight)
{
	int64		done = sight->done;
	double		passed = sight->elapsed_ms;

	if (sight->total <= 0 || done <= 0)
		return -1;
	if (done >= sight->total)
		return 0;
	/* what was done since the last poll is nearer to what comes */
	if (sight->before_ms >= 0 && sight->before_done >= 0)
	{
		done -= sight->before_done;
		passed -= sight->before_ms;
	}
	if (done <= 0 || passed <= 0)
		return -1;
	return passed * (sight->total - sight->done) / done;
}

/* Three quarters of a long way are slept through, and the last bit with a little more. */
static double
wait_by_counts(double left, double elapsed)
{
	return left > elapsed * 0.1 ? left * 0.75 : left + elapsed * 0.01;
}

int64
llmb_cadence_wait_ms(const LlmbExpectation *expected, const LlmbSight *sight,
					 int64 min_ms, int64 max_ms, double jitter)
{
	double		elapsed = Max(sight->elapsed_ms, 0);
	double		least = Max(min_ms, 1);
	double		most = Max(max_ms, least);
	double		wait = wait_by_past(expected, elapsed, least, most);
	double		left = left_by_counts(sight);

	if (left >= 0)
		wait = Min(wait_by_counts(left, elapsed), Max(wait, elapsed * TRUST));
	else if (sight->total > 0 && sight->done >= 0.9 * sight->total)
		wait = Min(wait, elapsed * 0.05);	/* stragglers */
	wait *= 0.9 + 0.2 * jitter;
	return (int64) Min(Max(wait, least), most);
}

/* ---- the end ---- */

static double
left_by_past(const LlmbExpectation *expected, double elapsed)
{
	double		density;
	double		from = log(Max(elapsed, 1));
	double		to = Max(from, END_OF_TIME);
	double		half = chance_later(expected, from, &density) / 2;

	/* the chance to end later only falls: close in on where it is half */
	while (to - from > STEP / 20)
	{
		double		u = (from + to) / 2;

		if (chance_later(expected, u, &density) > half)
			from = u;
		else
			to = u;
	}
	return Max(exp((from + to) / 2) - elapsed, 0);
}

/* The further it has come, the more its counts tell, and the past the less. */
int64
llmb_cadence_left_ms(const LlmbExpectation *expected, const LlmbSight *sight)
{
	double		elapsed = Max(sight->elapsed_ms, 0);
	double		counted = left_by_counts(sight);
	double		part;

	if (counted < 0 && expected->peaks == 0)
		return -1;
	if (expected->peaks == 0)
		return (int64) Min(counted, 1e15);
	if (counted < 0)
		return (int64) Min(left_by_past(expected, elapsed), 1e15);
	part = Min((double) sight->done / sight->total, 1);
	return (int64) Min(part * counted + (1 - part) * left_by_past(expected, elapsed), 1e15);
}
