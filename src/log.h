/*-------------------------------------------------------------------------
 *
 * log.h
 *		One line in the server's log for each change of state, for programs:
 *
 *		LOG:  llm_batch event: {"at": "…", "database": "…", "what": "batch", …}
 *
 * One JSON object on one line, whatever a label or a reason holds.  A line
 * is written when its transaction has committed, and vanishes with it when
 * not.  What a transaction that is prepared (PREPARE TRANSACTION) had to say
 * is lost, and what had committed a moment before a crash may be.
 *
 * No prompt, no answer, no key: the same words as in llm_batch.event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_LOG_H
#define LLMB_LOG_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* Setting llm_batch.log_events. */
typedef enum LlmbLogEvents
{
	LLMB_LOG_OFF,
	LLMB_LOG_STATES,			/* changes of state */
	LLMB_LOG_ALL				/* these, and all that goes into llm_batch.event */
} LlmbLogEvents;

extern int	llmb_log_events;

typedef StringInfoData LlmbLogLine;

/* Begins a line about "what", in the current memory context. */
extern void llmb_log_begin(LlmbLogLine *line, const char *what);

/*
 * Members; names are constants.  A text that is NULL is left out.  Text is in
 * the database's encoding.
 */
extern void llmb_log_text(LlmbLogLine *line, const char *name, const char *text);
extern void llmb_log_int(LlmbLogLine *line, const char *name, int64 number);
/* An instant, in epoch milliseconds; 0 is left out. */
extern void llmb_log_time(LlmbLogLine *line, const char *name, int64 epoch_ms);
/* Text that is JSON already, as jsonb_out() writes it: on one line. */
extern void llmb_log_json(LlmbLogLine *line, const char *name, const char *json);

/* Ends it: it is written when, and if, the current transaction commits. */
extern void llmb_log_end(LlmbLogLine *line);
/* Ends it, at once: for what no transaction can undo. */
extern void llmb_log_end_now(LlmbLogLine *line);

/* A process of ours: "worker" or "launcher", "started" or "stopped". */
extern void llmb_log_process(const char *what, const char *state, const char *reason);

#endif							/* LLMB_LOG_H */
