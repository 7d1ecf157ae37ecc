/*-------------------------------------------------------------------------
 *
 * afterwards.h
 *		on_success and on_error: SQL of a job's owner that runs when the job
 *		has ended.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_AFTERWARDS_H
#define LLMB_AFTERWARDS_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * At submit: raises unless "sql" (NULL: nothing is asked) is SQL that can run
 * in the worker, as far as its syntax tells; "name" is the argument's.  Names
 * in it are looked up as the worker will: what is not there is a NOTICE, for
 * it may be made before the job ends.
 */
extern void llmb_check_afterwards(const char *sql, const char *name);

/* When llmb_afterwards_step() has something to do: 0 never, as far as is known. */
extern TimestampTz llmb_afterwards_next(void);
/* Runs what is due first.  Opens turns; may throw. */
extern void llmb_afterwards_step(void);
/* After it has thrown: not at once again. */
extern void llmb_afterwards_failed(void);
/* The table may have changed behind our back. */
extern void llmb_afterwards_look(void);
/* Something waits for its time. */
extern bool llmb_afterwards_busy(void);

#endif							/* LLMB_AFTERWARDS_H */
