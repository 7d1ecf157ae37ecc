/*-------------------------------------------------------------------------
 *
 * spool.h
 *		A request file on its way: lines in a PostgreSQL temporary file,
 *		written once, read as often as needed, gone with the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_SPOOL_H
#define LLMB_SPOOL_H

#include "postgres.h"

typedef struct LlmbSpool LlmbSpool;

/* In a transaction; the spool outlives it, until its context is deleted. */
extern LlmbSpool *llmb_spool_new(MemoryContext context);
extern void llmb_spool_write(LlmbSpool *spool, const char *data, size_t len);
extern int64 llmb_spool_bytes(const LlmbSpool *spool);
extern void llmb_spool_free(LlmbSpool *spool);

/* A reader for http.h: never throws. */
extern ssize_t llmb_spool_read(void *spool, char *buf, size_t size, bool rewind);

/*
 * The next line, without its end, in a buffer of the spool's that the caller
 * may edit; NULL at the end.  rewind: from the first one.
 */
extern char *llmb_spool_line(LlmbSpool *spool, bool rewind, size_t *len);

#endif							/* LLMB_SPOOL_H */
