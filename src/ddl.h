/*-------------------------------------------------------------------------
 *
 * ddl.h
 *		The door to DDL on users' objects: triggers and views that a function
 *		of ours makes for its caller, as the caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_DDL_H
#define LLMB_DDL_H

#include "postgres.h"

/*
 * Between these, SPI is connected and search_path pinned, for what DDL has to
 * look up; the first gives what the second takes.
 */
extern int	llmb_ddl_begin(void);
extern void llmb_ddl_end(int level);

/* Runs one statement as the current user.  Raises what it raises. */
extern void llmb_ddl(const char *format,...) pg_attribute_printf(1, 2);

#endif							/* LLMB_DDL_H */
