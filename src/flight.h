/*-------------------------------------------------------------------------
 *
 * flight.h
 *		A batch in a worker's hands.
 *
 * The truth is in llm_batch.batch; a flight is what the worker needs beside
 * it.  After an error a flight is thrown away and made again from there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FLIGHT_H
#define LLMB_FLIGHT_H

#include "call.h"
#include "results.h"
#include "spool.h"
#include "store.h"

typedef struct LlmbFlight
{
	LlmbParty	party;			/* must be first */
	LlmbBatchRow *row;
	MemoryContext context;
	LlmbSpool  *spool;
	bool		fresh_intent;	/* SUBMITTING is of this process's making */
	TimestampTz next_at;		/* when the next step is due */
	int			tries;			/* of the current step, without success */
	bool		abandoned;		/* a copy's: ended here alone */
	bool		cancel;			/* its end was asked for */
	LlmbCode	cancel_code;	/* and what that makes of the rest */
	bool		cancel_sent;	/* by this process */
	int			gone;			/* replies in a row that say "no such thing" */
	TimestampTz gone_since;
	int			listings;		/* complete ones without a trace of it */
	char	   *cursor;
	int			part;			/* of the result files */
	int			rereads;		/* of result files that were short */
	bool		judged;			/* bad_lines are known */
	int			bad_lines[LLMB_BAD_LINES];	/* positions + 1; see has_failed() */
	int			bad_line_count;
	LlmbIntake	intake;			/* while FETCHING */
	MemoryContext intake_context;	/* of what it points to */
} LlmbFlight;

/* Does what is due, given that no call is under way.  May throw. */
extern void llmb_flight_step(LlmbFlight *flight);

/* Readies a new flight for calls. */
extern void llmb_flight_init(LlmbFlight *flight);

/* Takes it back to what is in the table, after an error. */
extern void llmb_flight_failed(LlmbParty *party);

/*
 * Asks for its end.  A batch that was never submitted ends here and now, in
 * the current turn.
 */
extern void llmb_flight_cancel(LlmbFlight *flight, LlmbCode code);

/* ---- lifecycle.c, for flights ---- */

/* Is another create of this server and owner under way? */
extern bool llmb_create_in_flight(const LlmbFlight *flight);

#endif							/* LLMB_FLIGHT_H */
