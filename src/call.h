/*-------------------------------------------------------------------------
 *
 * call.h
 *		A provider's call: over HTTP, or answered in process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CALL_H
#define LLMB_CALL_H

#include "batch.h"
#include "clock.h"
#include "http.h"
#include "options.h"
#include "spool.h"

typedef struct LlmbParty LlmbParty;

/* How a call ended. */
typedef struct LlmbEnding
{
	LlmbVerb	verb;
	LlmbWire	wire;
	int			status;			/* 0: none */
	const char *error;			/* plain words for a wire that is not OK */
	LlmbReply	reply;			/* wire OK, and not lines with status 200 */
	LlmbOutcome outcome;		/* LLMB_CALL_ANSWER, wire OK */
	LlmbLimits	limits;			/* what the reply's headers said; -1 each without */
} LlmbEnding;

/* Whoever makes calls; one at a time. */
struct LlmbParty
{
	/* Lines of a reply; how many bytes were taken is len, always. */
	void		(*lines) (LlmbParty *party, char *lines, size_t len);
	void		(*ended) (LlmbParty *party, LlmbEnding *ending);
	void		(*failed) (LlmbParty *party);	/* one of these has thrown */
	LlmbTransfer *transfer;		/* under way; NULL none */
	struct LlmbHealth *health;	/* of the server that it goes to, while under way */
	int64		called_ms;
	LlmbVerb	verb;
	const LlmbProvider *provider;
	const char *body;			/* LLMB_CALL_ANSWER: the request, until the call has begun */
	size_t		body_len;
	bool		lines_wanted;		/* the reply is handed out as lines */
	char	   *answered;		/* body of an answer in process, to be handed out */
	int			answered_status;
	int64		answered_retry_ms;
	LlmbParty  *next;			/* in the list of answered ones */
};

/*
 * Starts a call; its end comes through party->ended from llmb_call_serve().
 * spool may be NULL.  False when the provider has no such call.
 */
extern bool llmb_call_start(LlmbParty *party, const LlmbServer *server, LlmbVerb verb,
							const LlmbBatchRef *ref, const char *key, LlmbSpool *spool);
extern bool llmb_call_busy(const LlmbParty *party);
/* What happened, in words that quote neither key nor prompt; in the current memory context. */
extern char *llmb_ending_in_words(const LlmbEnding *ending);
/* Forgets a call, if one is under way. */
extern void llmb_call_drop(LlmbParty *party);

/*
 * Hands out what has come; false when there was nothing.  An error thrown by
 * a party is logged, and ends in its "failed".
 */
extern bool llmb_call_serve(void);

/* Runs step(arg); an error is logged and made undone. False then. */
extern bool llmb_guarded(void (*step) (void *arg), void *arg, const char *what);

#endif							/* LLMB_CALL_H */
