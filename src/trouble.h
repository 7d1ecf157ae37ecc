/*-------------------------------------------------------------------------
 *
 * trouble.h
 *		What is wrong with a table that a task is attached to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TROUBLE_H
#define LLMB_TROUBLE_H

#include "postgres.h"

/* The table of that name; InvalidOid: there is none.  Raises nothing. */
extern Oid	llmb_table_by_name(const char *schema, const char *table);

#endif							/* LLMB_TROUBLE_H */
