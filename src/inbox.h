/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		Which rows may have changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_INBOX_H
#define LLMB_INBOX_H

#include "store_task.h"

/*
 * The worker is writing answers of this attachment; 0: of none.  Its own
 * triggers take no notice meanwhile: what an answer changes is no question.
 */
extern int64 llmb_writing_attachment;

/* Appends to llm_batch.inbox, in the caller's transaction; keys are copied. */
typedef struct LlmbInboxWriter LlmbInboxWriter;

extern LlmbInboxWriter *llmb_inbox_begin(int64 attachment);
/* key NULL: of the whole table. */
extern void llmb_inbox_put(LlmbInboxWriter *writer, char kind, const char *key);
/* Returns how many were put; the worker hears of them when that commits. */
extern int64 llmb_inbox_end(LlmbInboxWriter *writer);

#endif							/* LLMB_INBOX_H */
