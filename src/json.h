/*-------------------------------------------------------------------------
 *
 * json.h
 *		The door to JSON: a small tree read through common/jsonapi.h, a
 *		writer into a StringInfo, and the cleaning of provider bytes.
 *
 * All text here is UTF-8, whatever the database's encoding is; the callers
 * convert at their edge.  Nothing in json.c raises an error other than
 * out-of-memory; reading failures come back as a NULL tree and a reason.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_JSON_H
#define LLMB_JSON_H

#include "common.h"

/* Deepest nesting that is read.  Provider replies nest less than 10 deep. */
#define LLMB_JSON_MAX_DEPTH 64

typedef enum LlmbJsonType
{
	LLMB_JSON_NULL,
	LLMB_JSON_BOOL,
	LLMB_JSON_NUMBER,
	LLMB_JSON_STRING,
	LLMB_JSON_ARRAY,
	LLMB_JSON_OBJECT
} LlmbJsonType;

typedef struct LlmbJson
{
	LlmbJsonType type;
	char	   *name;			/* member name inside an object, else NULL */
	char	   *text;			/* string (unescaped) or number as written */
	bool		boolean;
	struct LlmbJson *first;		/* children of array or object, in order */
	struct LlmbJson *last;
	struct LlmbJson *next;		/* next sibling */
	int			count;			/* number of children */
} LlmbJson;

/*
 * Cleans "text" in place so that jsonapi can read it in any server encoding:
 * U+0000 and lone surrogates become U+FFFD, all other \uXXXX escapes of
 * non-ASCII characters become UTF-8 bytes.  The text never grows, which is
 * why a byte that is not UTF-8 becomes '?': U+FFFD takes three.  Returns the
 * new length, with a NUL there if the text has shrunk.  *altered is set to
 * true (never to false) when a character had to be replaced.
 */
extern size_t llmb_json_clean(char *text, size_t len, bool *altered);

/*
 * Reads cleaned text (NUL-terminated at text[len]).  Returns NULL with
 * *reason (a constant string that quotes nothing of the text) when it is not
 * one JSON value, or nests deeper than LLMB_JSON_MAX_DEPTH.
 */
extern LlmbJson *llmb_json_parse(char *text, size_t len, const char **reason);
extern void llmb_json_free(LlmbJson *node);

/* Navigation; every function takes NULL for node and then answers "absent". */
extern LlmbJson *llmb_json_get(const LlmbJson *node, const char *member);
/* Path of members, ended by NULL: llmb_json_path(n, "response", "body", NULL) */
extern LlmbJson *llmb_json_path(const LlmbJson *node,...);
extern LlmbJson *llmb_json_at(const LlmbJson *node, int index);
/* The text of a non-null string member (also an empty one), else NULL. */
extern const char *llmb_json_string(const LlmbJson *node, const char *member);
/* An integer member, also one written as a string ("4"), else "absent". */
extern int64 llmb_json_int(const LlmbJson *node, const char *member, int64 absent);
extern bool llmb_json_is_null(const LlmbJson *node);	/* absent or null */

/* Writer. "text" is UTF-8 and written as a quoted, escaped JSON string. */
extern void llmb_json_put_string(StringInfo out, const char *text);
extern void llmb_json_put_string_len(StringInfo out, const char *text, size_t len);
extern void llmb_json_put_node(StringInfo out, const LlmbJson *node);

/*
 * The next whole line of buf: its length without the line end (LF or CRLF),
 * *consumed with it; -1 when no line end is there yet.
 */
extern ssize_t llmb_jsonl_next(const char *buf, size_t len, size_t *consumed);

#endif							/* LLMB_JSON_H */
