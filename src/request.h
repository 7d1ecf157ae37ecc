/*-------------------------------------------------------------------------
 *
 * request.h
 *		From a job and a prompt to the provider's request; and the two ways of
 *		text over the edge.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_REQUEST_H
#define LLMB_REQUEST_H

#include "options.h"
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
 * Appends the request for one prompt: a line of a request file (its first?)
 * when custom_id is given, else the body alone.
 */
extern void llmb_put_request(StringInfo out, const LlmbServer *server, const LlmbModel *model,
							 const LlmbJobDef *def, const LlmbPrompt *prompt,
							 const char *custom_id, bool first);

/* Bytes of what a model is given to read: prompt, system prompt, messages. */
extern int64 llmb_text_bytes(const LlmbJobDef *def, const LlmbPrompt *prompt);

/*
 * Does the request file of a batch hold bodies, not lines?  In process
 * answers are made from lines.
 */
extern bool llmb_sends_bodies(const LlmbServer *server, bool realtime);

#endif							/* LLMB_REQUEST_H */
