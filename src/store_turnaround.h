/*-------------------------------------------------------------------------
 *
 * store_turnaround.h
 *		The door to llm_batch.turnaround: what batches have taken; see store.h
 *		for what holds for its functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_TURNAROUND_H
#define LLMB_STORE_TURNAROUND_H

#include "cadence.h"
#include "store.h"

/*
 * What this database's batches at the server let expect of one of that model
 * with so many requests.  One index scan over the rows of the server.
 */
extern void llmb_store_expect(const char *server, const char *model, int64 items,
							  LlmbExpectation *expected);

/*
 * Once a batch is over: what it took, if it says anything about the next.
 * Nothing is learned of batches that were cancelled or refused, nor where it
 * is not known when the provider ended it.
 */
extern void llmb_store_learn_turnaround(const LlmbBatchRow *batch);

#endif							/* LLMB_STORE_TURNAROUND_H */
