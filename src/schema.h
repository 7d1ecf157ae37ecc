/*-------------------------------------------------------------------------
 *
 * schema.h
 *		The table is the schema: what the target columns ask of an answer,
 *		and an answer cut into their texts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_SCHEMA_H
#define LLMB_SCHEMA_H

#include "options.h"
#include "source.h"
#include "store.h"

/* Whether what comes back is a vector instead of text. */
extern bool llmb_is_embedding(const LlmbServer *server, const LlmbModel *model);

/* Raises unless a given schema (or NULL), an object, can describe an object. */
extern void llmb_check_schema(const char *given);

/*
 * The JSON schema that answers of a job over a table are asked for in: the
 * given one (or NULL), which must then describe every target; else derived
 * from the targets' types; else NULL, and the whole answer goes to the one
 * target.  In the database's encoding, as given is.  Raises when a target's
 * type has no schema, or cannot take what the model gives.
 */
extern char *llmb_target_schema(const LlmbSource *source, char *given, bool embedding);

/*
 * A hash of what these columns can take: types, NOT NULL, labels of enums.
 * Columns that are not there, and InvalidOid for the table, give one as well.
 */
extern int64 llmb_targets_hash(Oid relid, char **names, int count);

/* What is looked up once for many answers of one job. */
typedef struct LlmbSplit LlmbSplit;

/* In a transaction.  Lives, as all that it returns, in the current context. */
extern LlmbSplit *llmb_split_begin(const LlmbJobDef *def);

/*
 * Cuts an answer (database encoding) into texts that cast to the types of the
 * target columns; columns has room for each.  Of a job without targets it is
 * only held against the schema.  *altered is set when a character had to be
 * replaced.  False, with *reason (which may quote the answer: for its owner,
 * not for logs), when it does not fit.
 */
extern bool llmb_split_answer(LlmbSplit *split, const char *answer, char **columns,
							  bool *altered, const char **reason);

/* Whether somebody has changed what the targets can take since the submit. */
extern bool llmb_split_is_changed(const LlmbSplit *split);

#endif							/* LLMB_SCHEMA_H */
