/*-------------------------------------------------------------------------
 *
 * fill.h
 *		From rows to items: prompts rendered and checked, one after the other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FILL_H
#define LLMB_FILL_H

#include "ask.h"
#include "source.h"

/* One prompt on its way. */
typedef struct LlmbLine
{
	char	   *key;
	char	   *prompt;			/* database encoding, len bytes */
	size_t		len;
	char	   *system;
	char	   *messages;
	char	   *params;
} LlmbLine;

typedef struct LlmbFill LlmbFill;

/* Takes the next line, which has passed the checks: number "count" of the fill. */
typedef void (*LlmbSink) (LlmbFill *fill, const LlmbLine *line);

typedef struct LlmbRefusal LlmbRefusal;

/* Takes a line that cannot be sent; it is not counted. */
typedef void (*LlmbRefuser) (LlmbFill *fill, const LlmbLine *line, const LlmbRefusal *refusal);

struct LlmbFill
{
	const LlmbAsk *ask;
	const LlmbSource *source;	/* NULL: submit_query, submit_prompts */
	size_t		max_prompt;		/* bytes */
	LlmbRoom	room;			/* of the model */
	bool		any_length;		/* the model's context does not matter */
	size_t		overhead;		/* bytes of a request line with an empty prompt */
	int			count;			/* lines so far */
	LlmbSink	sink;
	void	   *arg;			/* the sink's */
	LlmbRefuser refuser;		/* NULL: what cannot be sent is an error */
	void	   *refuser_arg;
};

/* Why a prompt cannot be sent, in words that quote no more than its key. */
struct LlmbRefusal
{
	int			sqlstate;
	LlmbCode	code;
	char	   *message;
	char	   *detail;			/* or NULL */
	char	   *hint;
};

/* source: NULL for prompts that come from no table. */
extern void llmb_fill_begin(LlmbFill *fill, const LlmbAsk *ask, const LlmbSource *source, LlmbSink sink, void *arg);

/* Can the prompt be sent?  If not, says why; palloc'd. */
extern bool llmb_line_fits(LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal);

/* Checks a line and gives it to the sink.  Raises when it cannot be sent, or calls the refuser. */
extern void llmb_fill_line(LlmbFill *fill, const LlmbLine *line);

/*
 * Runs a query as the current user, with the settings that rendering depends
 * on, and fills from its rows: of the source (with the filter, and at most
 * "limit" of them; -1: all), or of a query that yields key and prompt.
 */
extern void llmb_fill_from_source(LlmbFill *fill, const char *filter, int64 limit);
extern void llmb_fill_from_query(LlmbFill *fill, const char *query);

/*
 * Raises unless such a query can be run later by the worker, as far as its plan
 * and its columns tell: with search_path pg_catalog, pg_temp, and without
 * temporary tables.  Reads no row.
 */
extern void llmb_probe_source(const LlmbSource *source, const char *filter, int64 limit);
extern void llmb_probe_query(const char *query);

/* The keys of the source's rows that match the filter, one by one; those that are NULL are left out. */
extern void llmb_fill_keys(const LlmbSource *source, const char *filter, const char *time_zone,
						   void (*put) (const char *key, void *arg), void *arg);

/* ---- the sink that makes items ---- */

typedef struct LlmbItems LlmbItems;

/* The items of that job from ordinal 1 on; give it as the sink's argument. */
extern LlmbItems *llmb_items_begin(int64 job);
extern void llmb_items_sink(LlmbFill *fill, const LlmbLine *line);
/*
 * Appends one item by hand.  prompt NULL: it is never sent.
 */
extern void llmb_items_put(LlmbItems *items, int ordinal, const LlmbLine *line);
extern void llmb_items_end(LlmbItems *items);

#endif							/* LLMB_FILL_H */
