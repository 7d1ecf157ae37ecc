/*-------------------------------------------------------------------------
 *
 * mock_answer.h
 *		Answers that read as if somebody had read the prompt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_MOCK_ANSWER_H
#define LLMB_MOCK_ANSWER_H

#include "json.h"

/* What is hashed for: the same text gives unrelated numbers. */
typedef enum LlmbMockPurpose
{
	FOR_LATENCY = 1,			/* how long a batch takes */
	FOR_FAILURE,				/* whether a request fails */
	FOR_ORDER,					/* when in its batch a request is finished */
	FOR_ANSWER					/* what cannot be told from the text */
} LlmbMockPurpose;

extern uint64 llmb_mock_hash(const char *text, size_t len, int64 seed, LlmbMockPurpose purpose);

/* A number in [0, 1). */
extern double llmb_mock_fraction(uint64 hash);

/*
 * Fills a vector for the text: the same for the same text, of length 1.
 * dimensions is at least 1.
 */
extern void llmb_mock_vector(const char *text, int64 seed, double *vector, int dimensions);

/*
 * The answer to the body of a chat completion or a response, palloc'd, with the length of the
 * prompt's texts in bytes and a hash of them.
 */
extern char *llmb_mock_answer(const LlmbJson *body, int64 seed,
							  size_t *prompt_bytes, size_t *system_bytes, uint64 *hash);

#endif							/* LLMB_MOCK_ANSWER_H */
