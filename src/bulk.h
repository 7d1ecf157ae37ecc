/*-------------------------------------------------------------------------
 *
 * bulk.h
 *		Many rows into one of our own tables, as COPY does it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_BULK_H
#define LLMB_BULK_H

#include "postgres.h"

typedef struct LlmbBulk LlmbBulk;

/* Opens llm_batch.<table> for appending.  Raises when it does not exist. */
extern LlmbBulk *llmb_bulk_begin(const char *table);

/* Appends a row, all columns in their order.  Values are copied. */
extern void llmb_bulk_put(LlmbBulk *bulk, const Datum *values, const bool *nulls);

/* Writes what is buffered, closes the table, makes the rows visible. */
extern void llmb_bulk_end(LlmbBulk *bulk);

#endif							/* LLMB_BULK_H */
