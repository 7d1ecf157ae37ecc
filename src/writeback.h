/*-------------------------------------------------------------------------
 *
 * writeback.h
 *		The door to the user's table: answers into its columns, as the job's
 *		owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_WRITEBACK_H
#define LLMB_WRITEBACK_H

#include "store.h"

typedef enum LlmbWritten
{
	LLMB_WRITTEN,
	LLMB_ROW_LATER,				/* locked, or out of time: try again */
	LLMB_ROW_STALE,				/* its text has changed since */
	LLMB_ROW_GONE,				/* deleted */
	LLMB_ROW_REFUSED			/* by a constraint, a type, a trigger, a privilege */
} LlmbWritten;

typedef struct LlmbWrite
{
	const char *key;
	int64		prompt_hash;
	char	  **columns;		/* a text for each target column, or NULL */
	LlmbWritten written;
	const char *reason;			/* of a refusal, else NULL */
	const char *prompt;			/* llmb_read_prompts(): as the row gives it now */
} LlmbWrite;

/*
 * Writes answers to the job's source, in the current transaction, which must
 * be at READ COMMITTED; fills "written" of each.  Never waits for a lock, nor
 * longer than llm_batch.write_back_timeout.  A row that refuses its answer
 * does not keep the others from theirs.
 *
 * Must be called before anything else in the transaction has queued a
 * deferred trigger.  Raises only for what is no row's fault (out of memory,
 * shutdown).
 */
extern void llmb_write_back(const LlmbJobDef *def, Oid owner, LlmbWrite *writes, int count);

/*
 * Renders the prompts of these rows anew, as the owner: fills "prompt", with
 * NULL where the row is gone or cannot be read.
 */
extern void llmb_read_prompts(const LlmbJobDef *def, Oid owner, LlmbWrite *writes, int count);

#endif							/* LLMB_WRITEBACK_H */
