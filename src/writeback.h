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
	int			ordinal;		/* llmb_write_together(): the caller's, to know it by */
	char	  **columns;		/* a text for each target column, or NULL */
	LlmbWritten written;
	const char *reason;			/* of a refusal, else NULL */
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
 * The same for all answers of a job or none, in the order in which "next"
 * gives them: it fills *writes, in the current memory context, and returns how
 * many; 0 at the end.  One whose "written" is not LLMB_WRITTEN is refused as
 * it says.  *culprit tells what became of it: LLMB_WRITTEN, all are written;
 * else nothing is, because of that one (LLMB_ROW_LATER: try again, and
 * *timed_out, if that is why).  Each slice may take
 * llm_batch.write_back_timeout.
 */
typedef int (*LlmbWriteNext) (void *arg, LlmbWrite **writes);
extern void llmb_write_together(const LlmbJobDef *def, Oid owner, LlmbWriteNext next, void *arg,
								LlmbWrite *culprit, bool *timed_out);

/* ---- looking at rows ---- */

typedef enum LlmbFound
{
	LLMB_FOUND_PROMPT,
	LLMB_FOUND_NOTHING,			/* there is no such row */
	LLMB_FOUND_OTHER,			/* the row does not match the filter */
	LLMB_FOUND_UNREADY,			/* a needed column is NULL */
	LLMB_FOUND_TOO_LONG,		/* the prompt is longer than llm_batch.max_prompt_size */
	LLMB_FOUND_MORE,			/* enough was read before it: look again */
	LLMB_FOUND_ERROR			/* it cannot be rendered: see reason */
} LlmbFound;

/* What is looked for. */
typedef struct LlmbLook
{
	const char *filter;			/* SQL condition, names qualified; NULL none */
	char	  **needed;			/* columns that must not be NULL */
	int			needed_count;
	TimestampTz deadline;		/* of all looks that belong together */
	bool		last_try;		/* a row that takes too long is an error, not "another time" */
} LlmbLook;

typedef struct LlmbReading
{
	const char *key;
	LlmbFound	found;
	char	   *prompt;			/* as the row gives it now; only LLMB_FOUND_PROMPT */
	int64		bytes;			/* of the prompt */
	char	   *row;			/* the key as the row has it; NULL: there is no such row */
	bool		vacant;			/* all targets that can be read are NULL; false without targets */
	char	   *reason;			/* of an error: it may quote the row */
} LlmbReading;

/* So begins an obstacle that goes on in words of PostgreSQL, or of a user's code: those may quote rows. */
#define LLMB_CANNOT_BE_READ	"rows cannot be read for now"

/*
 * Looks at rows of the job's source by their keys, as the owner, and renders
 * their prompts.  False when that cannot be done now: somebody has locked the
 * table (*obstacle is NULL), or what it needs is gone, or reading took too
 * long or met a lock (and says what).
 */
extern bool llmb_look_at_rows(const LlmbJobDef *def, Oid owner, const LlmbLook *look,
							  LlmbReading *readings, int count, char **obstacle);

#endif							/* LLMB_WRITEBACK_H */
