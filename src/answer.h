/*-------------------------------------------------------------------------
 *
 * answer.h
 *		From what a model wrote to the texts that columns take.
 *
 * Pure: text in, text out.  What a column takes is told by an LlmbColumn,
 * which schema.c fills from the catalogs.  All text is UTF-8; nothing raises
 * an error other than out-of-memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_ANSWER_H
#define LLMB_ANSWER_H

#include "common.h"

#include "json.h"

/*
 * Stands in the description of a property whose column takes any JSON: strict
 * schemas have no "anything", so that the value is asked for as a string.
 */
#define LLMB_JSON_IN_STRING "Any JSON value, written as JSON text inside this string."

typedef enum LlmbKind
{
	LLMB_KIND_TEXT,
	LLMB_KIND_INTEGER,
	LLMB_KIND_NUMERIC,
	LLMB_KIND_FLOAT,
	LLMB_KIND_BOOLEAN,
	LLMB_KIND_ENUM,
	LLMB_KIND_DATE,
	LLMB_KIND_TIME,
	LLMB_KIND_TIMESTAMP,
	LLMB_KIND_UUID,
	LLMB_KIND_JSON,
	LLMB_KIND_VECTOR,			/* pgvector's */
	LLMB_KIND_OTHER				/* no schema can be derived; a scalar's text goes in */
} LlmbKind;

/* What a column takes. */
typedef struct LlmbColumn
{
	const char *name;			/* also of the answer's property */
	LlmbKind	kind;			/* of an array: its elements' */
	bool		array;			/* of one dimension */
	bool		nullable;
	int			max_chars;		/* TEXT; 0: any number */
	int64		min;			/* INTEGER */
	int64		max;
	int			precision;		/* NUMERIC; 0: any number */
	int			scale;
	bool		single;			/* FLOAT: real, not double precision */
	const char **labels;		/* ENUM */
	int			label_count;
	bool		strict_text;	/* TEXT: an object or array is not taken as its JSON text */
	bool		json_in_string; /* JSON: a string is JSON text, not a JSON string */
	bool		optional;		/* the schema lets the property be absent */
	/* whether PostgreSQL reads text as a DATE, TIME or TIMESTAMP */
	bool		(*valid_moment) (LlmbKind kind, const char *text);
} LlmbColumn;

/*
 * The one JSON object that stands in an answer, where a reader would find it:
 * bare, in a code fence, with prose around it, with trailing commas or raw
 * line ends, wrapped in a string or an array.  Of several only one that alone
 * has all members that schema (or NULL) requires is taken.  text is cut in
 * place; *altered is set when a character had to be replaced.  NULL, with
 * *reason, when there is no such object.
 */
extern LlmbJson *llmb_answer_recover(char *text, size_t len, const LlmbJson *schema,
									 bool *altered, const char **reason);

/*
 * A value as text that the column's type reads; NULL for SQL's NULL.  value
 * NULL: the property is absent.  False, with *reason (palloc'd; it quotes the
 * value, so it is not for logs), when it does not fit.
 */
extern bool llmb_answer_value(const LlmbColumn *column, const LlmbJson *value,
							  const char **text, const char **reason);

/*
 * Whether value has what schema says of types, required members, elements,
 * enum and const; other keywords are not looked at, and members of the root
 * for which skip says so neither.  at is its name in reasons, "" for the whole
 * answer.  False, with *reason as above.
 */
extern bool llmb_answer_check(const LlmbJson *schema, const LlmbJson *value, const char *at,
							  bool (*skip) (const char *member, const void *arg), const void *arg,
							  const char **reason);

/*
 * Whether a value that the column takes, as that text, is one that the enum
 * or const of its property (or NULL) lists; of an array each element.
 */
extern bool llmb_answer_listed(const LlmbColumn *column, const LlmbJson *property,
							   const LlmbJson *value, const char *text, const char **reason);

/* Whether jsonb can hold all of the numbers: numeric has its limits. */
extern bool llmb_answer_fits_jsonb(const LlmbJson *value);

/* Whether a schema node's "type" is or holds that word; whether it lets null pass. */
extern bool llmb_schema_has_type(const LlmbJson *schema, const char *type);
extern bool llmb_schema_allows_null(const LlmbJson *schema);

#endif							/* LLMB_ANSWER_H */
