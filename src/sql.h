/*-------------------------------------------------------------------------
 *
 * sql.h
 *		The door to SPI for SQL on our own tables.
 *
 * A statement runs as the extension's owner with a pinned search_path,
 * whoever the current user is; its plan is kept, so the text must be a
 * string constant.  Arguments follow a string of letters:
 *
 *		l int64 -> bigint			i int -> int
 *		t char * -> text or NULL	b bool (as int) -> boolean
 *		z TimestampTz -> timestamptz, 0 is NULL
 *		a ArrayType * -> text[] or NULL
 *		o ArrayType * -> int[]
 *		h ArrayType * -> bigint[]
 *
 * Rows stay open until llmb_sql_done(); what the readers return is palloc'd
 * in the context that was current before llmb_sql().
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_SQL_H
#define LLMB_SQL_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"

typedef struct LlmbRows LlmbRows;

extern LlmbRows *llmb_sql(const char *query, const char *letters,...);

/*
 * While it is set, queries see what is committed by now, whatever the
 * snapshot of a REPEATABLE READ transaction is, and nothing can be written.
 * Whoever sets it resets it, also when an error is thrown.
 */
extern bool llmb_sql_latest;

extern int	llmb_row_count(const LlmbRows *rows);
extern void llmb_sql_done(LlmbRows *rows);

/* A statement of which only the number of rows matters. */
extern int	llmb_sql_run(const char *query, const char *letters,...);

/* Columns count from 1.  NULL reads as 0, NULL or false. */
extern int64 llmb_row_int(LlmbRows *rows, int row, int column);
extern bool llmb_row_bool(LlmbRows *rows, int row, int column);
extern TimestampTz llmb_row_time(LlmbRows *rows, int row, int column);
extern char *llmb_row_text(LlmbRows *rows, int row, int column);
extern Datum llmb_row_datum(LlmbRows *rows, int row, int column, bool *isnull);

/* Texts as an argument of letter "a" (NULL for none), and a column of type text[]. */
extern ArrayType *llmb_name_array(char **names, int count);
extern char **llmb_row_names(LlmbRows *rows, int row, int column, int *count);

/*
 * A query read 500 rows at a time: calls again until it gives an empty set.
 * The cursor ends with llmb_cursor_done().
 */
extern LlmbRows *llmb_cursor(const char *query, const char *letters,...);
extern int	llmb_cursor_fetch(LlmbRows *rows);
extern void llmb_cursor_done(LlmbRows *rows);

/*
 * For a procedure outside transaction blocks: what stands between snapshot
 * and commit is a transaction of its own; after it nothing is held.
 */
extern void llmb_procedure_begin(void);
extern void llmb_procedure_snapshot(void);
extern void llmb_procedure_commit(void);
extern void llmb_procedure_end(void);

/*
 * Until the current level of settings ends: auto_explain (of PostgreSQL 16
 * and later) writes no parameters, which may be prompts, into the log.
 */
extern void llmb_keep_values_from_log(void);

/* Raises in a read-only transaction and on a standby. */
extern void llmb_require_writable(const char *function);

#endif							/* LLMB_SQL_H */
