/*-------------------------------------------------------------------------
 *
 * request.h
 *		From a job and a prompt to the provider's request, from an answer to
 *		the target columns; and the two ways of text over the edge.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_REQUEST_H
#define LLMB_REQUEST_H

#include "batch.h"
#include "store.h"

/* Text of the database as UTF-8.  Raises for text that is not valid. */
extern char *llmb_to_utf8(const char *text);

/*
 * JSON text of the database, read.  NULL, with *reason, when it is none.
 * Escapes of any character are taken, in databases of any encoding.
 */
extern LlmbJson *llmb_json_of_text(const char *text, const char **reason);

/*
 * UTF-8 as text of the database; what its encoding lacks becomes \uXXXX and
 * sets *altered (which may be NULL).
 */
extern char *llmb_from_utf8(const char *text, bool *altered);

/*
 * The JSON schema that answers are asked for in: the given one, which must
 * then describe every target column; else for several targets an object of
 * strings; else NULL, and the whole answer goes to the one target.
 */
extern char *llmb_answer_schema(char *given, char **targets, int count);

/*
 * Appends the request for one prompt: a line of a request file when
 * custom_id is given, else the body alone.
 */
extern void llmb_put_request(StringInfo out, const LlmbProvider *provider, const char *model,
							 const LlmbJobDef *def, const LlmbPrompt *prompt, const char *custom_id);

/*
 * Cuts an answer (database encoding) into the target columns' texts.  False,
 * with *reason, when it does not fit.
 */
extern bool llmb_split_answer(const LlmbJobDef *def, const char *answer, char **columns,
							  const char **reason);

#endif							/* LLMB_REQUEST_H */
