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
};

/* Why a prompt cannot be sent, in words that quote no more than its key. */
typedef struct LlmbRefusal
{
	int			sqlstate;
	LlmbCode	code;
	char	   *message;
	char	   *detail;			/* or NULL */
	char	   *hint;
} LlmbRefusal;

/* source: NULL for prompts that come from no table. */
extern void llmb_fill_begin(LlmbFill *fill, const LlmbAsk *ask, const LlmbSource *source, LlmbSink sink, void *arg);

/* Can the prompt be sent?  If not, says why; palloc'd. */
extern bool llmb_line_fits(LlmbFill *fill, const LlmbLine *line, LlmbRefusal *refusal);

/* Checks a line and gives it to the sink.  Raises when it cannot be sent. */
extern void llmb_fill_line(LlmbFill *fill, const LlmbLine *line);

/*
 * Runs a query as the current user, with the settings that rendering depends
 * on, and fills from its rows: of the source (with the filter, and at most
 * "limit" of them; -1: all), or of a query that yields key and prompt.
 */
extern void llmb_fill_from_source(LlmbFill *fill, const char *filter, int64 limit);
extern void llmb_fill_from_query(LlmbFill *fill, const char *query);

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
