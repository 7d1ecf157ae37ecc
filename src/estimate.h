/*-------------------------------------------------------------------------
 *
 * estimate.h
 *		What a job would cost, before a cent is spent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_ESTIMATE_H
#define LLMB_ESTIMATE_H

#include "model.h"
#include "nodes/execnodes.h"
#include "store.h"

/* What is asked, as far as its price depends on it. */
typedef struct LlmbEstimate
{
	const LlmbServer *server;
	const char *model;			/* asked for, in the database's encoding */
	const char *mode;			/* auto, batch, realtime */
	const LlmbJson *params;
	bool		with_schema;	/* answers are to follow a JSON schema */
	int			items;
	int64		bytes;			/* of all requests */
	int64		longest;		/* bytes of the longest one */
} LlmbEstimate;

/*
 * Puts a row for the asked model and for each other that could do it on that
 * server and has a price into the set, the cheapest first.  In a transaction.
 */
extern void llmb_put_estimates(const LlmbEstimate *estimate, ReturnSetInfo *set);

/*
 * What sending so many items of a job again is likely to cost, in USD as text
 * (palloc'd): by what its attempts have cost, before that by forecast.  NULL
 * when it is not known.  In a transaction.
 */
extern char *llmb_retry_cost(const LlmbJob *job, int64 count);

#endif							/* LLMB_ESTIMATE_H */
