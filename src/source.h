/*-------------------------------------------------------------------------
 *
 * source.h
 *		The user's table, as the catalogs describe it: key, targets, and
 *		what may be read and written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_SOURCE_H
#define LLMB_SOURCE_H

#include "postgres.h"

#include "store.h"
#include "template.h"

typedef struct LlmbSource
{
	Oid			relid;
	char	   *schema;
	char	   *table;
	char	   *owner;			/* role that the table belongs to */
	char	   *prompt;			/* {{*}} written out for this table */
	LlmbTemplate *template;		/* of that */
	Oid		   *template_types;
	char	  **keys;
	int			key_count;
	char	  **targets;
	int			target_count;
} LlmbSource;

/*
 * Resolves and checks all that the catalogs can tell, as the current user:
 * that the relation is one that the worker can see, that template, key and
 * target name columns which may be read and written.  Raises for the first
 * thing that will fail later.
 */
extern LlmbSource *llmb_source_resolve(Oid relid, const char *prompt,
									   const char *key, const char *target);

/*
 * Does the relation belong to that role (NULL: any), or to one whose privileges "user"
 * has (InvalidOid: nobody asks)?  A table is known by its name, and names are taken
 * by others when they become free.
 */
extern bool llmb_owner_is_known(Oid relid, const char *owner, Oid user);

/* Fills the members of a definition that say where its rows are, and what is asked of them. */
extern void llmb_def_of_source(LlmbJobDef *def, const LlmbSource *source);

/*
 * Until the current level of settings ends: string constants in filters mean
 * what they mean to the worker, whatever the session has set.
 */
extern void llmb_pin_strings(void);

/* Raises unless the text is one SQL expression, and nothing behind it. */
extern void llmb_check_condition(const char *filter);

/* Raises unless the text is one SELECT (or VALUES, TABLE, WITH) statement. */
extern void llmb_check_query(const char *query);

/*
 * The query that reads the source: key as text in column 1, then the
 * template's columns.  limit < 0: no limit.
 */
extern char *llmb_source_query(const LlmbSource *source, const char *filter, int64 limit);

/* Appends an expression: the key of a row of that table (as it stands in SQL), as text; of several columns a JSON array of texts. */
extern void llmb_append_key(StringInfo sql, const char *table, char **columns, int count);

#endif							/* LLMB_SOURCE_H */
