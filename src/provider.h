/*-------------------------------------------------------------------------
 *
 * provider.h
 *		What the providers' files share: checks of what comes in, parameters
 *		by table, headers.
 *
 * Pure like them: text and numbers, palloc, no server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PROVIDER_H
#define LLMB_PROVIDER_H

#include "batch.h"

/* ---- words ---- */

/* An id that may stand in a path: 1 to 128 of [A-Za-z0-9_-]. */
extern bool llmb_is_id(const char *id);
/* Whether word is one of the words of a blank-separated list. */
extern bool llmb_in_list(const char *word, const char *list);
/* A provider's error code when it is but a word, which may be shown; else NULL. */
extern char *llmb_safe_code(const char *code);
/* A copy, or NULL for NULL and "". */
extern char *llmb_copy_or_null(const char *text);

/* ---- reading ---- */

extern const char *llmb_string_or_empty(const LlmbJson *node, const char *member);
/* Takes a string member out of the tree instead of copying it; NULL without. */
extern char *llmb_take_string(LlmbJson *node, const char *member);
/*
 * A count, of tokens or of requests: -1 when it is absent, negative, or more
 * than anything has (counts are added up, and stored as integer).
 */
extern int64 llmb_count(const LlmbJson *node, const char *member);
/* A time in epoch seconds; 0 when it is absent, or none of this age. */
extern int64 llmb_epoch_seconds(const LlmbJson *node, const char *member);
/* Zeroes the outcome and marks all counts unknown. */
extern void llmb_outcome_init(LlmbOutcome *outcome);
/* The outcome is a failure; error (copied) unless it has one already.  It gets one in any case. */
extern void llmb_outcome_fail(LlmbOutcome *outcome, LlmbCode code, bool retryable, const char *error);
/* Zeroes the reply, counts of its batch unknown, but keeps retry_after_ms. */
extern void llmb_reply_forget(LlmbReply *reply);
/* Cleans and parses the reply's body; NULL when it is no JSON. */
extern LlmbJson *llmb_reply_json(LlmbHttpReply *http, bool *altered);
/*
 * Reads a reply to a call: success() is asked for those of status 2xx and says
 * whether they are what the call should bring, failure() for the others.  What
 * cannot be understood is a passing fault; but after a create or a cancel the
 * deed may be done: no fault then, and no batch, and the caller goes and looks.
 */
extern void llmb_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply,
							bool (*success) (LlmbVerb verb, const LlmbHttpReply *http,
											 const LlmbJson *body, LlmbReply *reply),
							void (*failure) (LlmbVerb verb, int status,
											 const LlmbJson *body, LlmbReply *reply));
/*
 * Begins to read a result line: cleans and parses it, readies the outcome and
 * takes the custom_id from that member.  NULL when there is none; else the
 * caller frees the tree.
 */
extern LlmbJson *llmb_open_line(char *line, size_t len, const char *id_member,
								LlmbOutcome *outcome, bool *altered);
/* A header of the reply, by its name in lower case: palloc'd, UTF-8 without control characters; or NULL. */
extern char *llmb_reply_header(const LlmbHttpReply *http, const char *name);
/* A count in a header, or -1. */
extern int64 llmb_reply_header_int(const LlmbHttpReply *http, const char *name);
/*
 * Epoch milliseconds of an RFC 3339 time ("2026-08-02T17:47:08.039741+00:00",
 * also with nanoseconds and Z); 0 when it is none.
 */
extern int64 llmb_rfc3339_ms(const char *text);

/* ---- calls ---- */

/* Adds a header unless value is NULL, "" or holds a control character. */
extern void llmb_add_header(LlmbCall *call, const char *name, const char *prefix, const char *value);
/* JSON as given, but for its line ends: they would end a line of JSONL. */
extern void llmb_put_raw(StringInfo out, const char *json);
/*
 * The system prompt with the schema in words behind it, for what cannot be
 * told the schema otherwise; palloc'd.
 */
extern char *llmb_schema_in_words(const char *system, const char *schema);

/* ---- parameters ----
 *
 * Users write the common names; each has the values that are documented.
 * What is not in the table is refused at submit, because a request with an
 * unknown member fails only hours later, and 50,000 times.
 */

typedef enum LlmbParamKind
{
	LLMB_PARAM_INTEGER,
	LLMB_PARAM_NUMBER,
	LLMB_PARAM_WORD,			/* one of a list */
	LLMB_PARAM_STRING,
	LLMB_PARAM_STOP,			/* a string, or up to max of them */
	LLMB_PARAM_OBJECT
} LlmbParamKind;

typedef struct LlmbParam
{
	const char *name;			/* common name */
	const char *wire;			/* the provider's */
	LlmbParamKind kind;
	double		min;
	double		max;
	const char *words;
} LlmbParam;

/* A name that others use, or that is no parameter here, and what to do. */
typedef struct LlmbParamHint
{
	const char *name;
	const char *hint;
} LlmbParamHint;

extern const LlmbParam *llmb_find_param(const LlmbParam *table, int count, const char *name);

/*
 * NULL when params is null or an object whose members are all in the table
 * with values that it allows; else the reason.  hints may be NULL.
 */
extern char *llmb_check_params(const LlmbParam *table, int count,
							   const LlmbParamHint *hints, int hint_count,
							   const LlmbJson *params);

/*
 * NULL when the model gives so many "max_tokens" and takes these sampling parameters ("temperature",
 * "top_p", ... as a blank-separated list) and this "reasoning_effort", as far
 * as that is known; else the reason.  Values are of the right type.  A
 * temperature or top_p of 1 is everybody's default.
 */
extern char *llmb_check_model_params(const LlmbModel *model, const LlmbJson *params,
									 const char *sampling);

#endif							/* LLMB_PROVIDER_H */
