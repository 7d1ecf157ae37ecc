/*-------------------------------------------------------------------------
 *
 * watch.h
 *		Which columns of a table can change what a task asks of a row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_WATCH_H
#define LLMB_WATCH_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "utils/rel.h"

/*
 * Raises unless the condition is one on that table; names in it mean what
 * they mean with search_path = pg_catalog.
 */
extern void llmb_check_condition_on(Relation rel, const char *condition);

/*
 * The columns that a condition may read, as numbers that start from 1; *whole
 * is set when that cannot be told.  Goes by the text alone, for functions and
 * columns that it names may be gone, and the statement that changes a row
 * must not fail for it.
 */
extern Bitmapset *llmb_condition_columns(Relation rel, const char *condition, bool *whole);

/* Does a generated column read one of these others? */
extern bool llmb_generated_from(Relation rel, int generated, const Bitmapset *columns);

/*
 * The set, which is taken over, with what its virtual generated columns read:
 * nothing is stored of such a column, so a trigger finds none of its values.
 * *whole is set when one reads the whole row, and left alone otherwise.
 */
extern Bitmapset *llmb_with_virtual_read(Relation rel, Bitmapset *columns, bool *whole);

/* Numbers of named columns; *missing is set to the first that is not there. */
extern Bitmapset *llmb_column_numbers(Relation rel, char **names, int count, const char **missing);

#endif							/* LLMB_WATCH_H */
