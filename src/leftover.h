/*-------------------------------------------------------------------------
 *
 * leftover.h
 *		Request files of ours that are still at providers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_LEFTOVER_H
#define LLMB_LEFTOVER_H

#include "batch.h"
#include "datatype/timestamp.h"
#include "options.h"
#include "store.h"

/* Pages of a listing that are read before a file counts as not found. */
#define LLMB_FILE_PAGES	100

/*
 * Whether the label of a file (LlmbRemoteFile.token) is one of this batch's,
 * of whichever create.
 */
extern bool llmb_leftover_is_ours(const LlmbBatchRow *row, const char *label);

/* Does this page reach back to files older than the batch? */
extern bool llmb_leftover_is_past(const LlmbBatchRow *row, const LlmbReply *reply);

/*
 * In a turn, with a batch that is over: its request file is to be deleted;
 * stray: also copies that nobody has told us of.
 */
extern void llmb_leftover_leave(const LlmbBatchRow *row, bool stray);

/* In a turn: that file of the batch is to be deleted, after so many milliseconds. */
extern void llmb_leftover_delete(const LlmbBatchRow *row, const char *remote_file, int64 delay_ms);

/* When llmb_leftover_step() has something to do: 0 never, as far as is known. */
extern TimestampTz llmb_leftover_next(void);
/* Starts the deletions that are due.  Opens a turn; may throw. */
extern void llmb_leftover_step(void);
/* After it has thrown: not at once again. */
extern void llmb_leftover_failed(void);
/* The table may have changed behind our back. */
extern void llmb_leftover_look(void);
/* Something is under way, or due within a minute. */
extern bool llmb_leftover_busy(void);

#endif							/* LLMB_LEFTOVER_H */
