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
#include "ground.h"
#include "results.h"
#include "spool.h"
#include "store.h"

typedef struct LlmbFlight
{
	LlmbParty	party;			/* must be first */
	LlmbBatchRow *row;
	MemoryContext context;
	LlmbSpool  *spool;
	struct LlmbRealtime *realtime;	/* while its items are sent singly; NULL not begun */
	bool		unsent;			/* realtime: some of its items were not handed to a slot */
	bool		fresh_intent;	/* SUBMITTING is of this process's making */
	TimestampTz next_at;		/* when the next step is due */
	int			tries;			/* of the current step, without success */
	int			held;			/* by which trouble of the server it was last held back */
	int			throws;			/* errors of our own since something went well */
	TimestampTz mend_at;		/* its job awaits a mend: not before */
	int			mend_looks;		/* for that, in vain */
	bool		awaiting;		/* it was this one that was refused or had no ground */
	bool		told;			/* that the provider does not end it */
	bool		settling;		/* failover.c has changed it in a turn that is not committed */
	bool		foreign;		/* a copy's: the provider's batch is not ours */
	bool		abandoned;		/* foreign, and to be ended here alone */
	bool		cancel;			/* its end was asked for */
	LlmbCode	cancel_code;	/* and what that makes of the rest */
	bool		cancel_sent;	/* by this process */
	TimestampTz running_at;		/* when it was last seen to run, by this process; 0 never */
	int64		running_done;	/* and the provider's count then; -1 unknown */
	int			gone;			/* replies in a row that say "no such thing" */
	TimestampTz gone_since;
	int			listings;		/* complete ones without a trace of it */
	char	   *cursor;
	int			candidates;		/* verify.c: what the listing has so far */
	bool		candidates_told;
	char	   *ended_candidate;	/* one whose results can be read */
	List	   *strangers;		/* ids of candidates that were somebody else's */
	char	   *upload_url;		/* where the request file goes, when the provider says so first */
	bool		file_known;		/* UPLOADING: no copy of the request file is at the provider */
	int			looks;			/* for such a copy, without success */
	int			pages;			/* of the present look */
	bool		other_route;	/* calls go elsewhere now than the create went, or with another key */
	bool		other_route_told;
	bool		waiting_told;	/* that another create is being looked for */
	int			part;			/* of the result files */
	int			rereads;		/* of result files that were short */
	bool		judged;			/* bad_lines are known */
	int			bad_lines[LLMB_BAD_LINES];	/* positions + 1; see has_failed() */
	int			bad_line_count;
	LlmbIntake	intake;			/* while FETCHING */
	MemoryContext intake_context;	/* of what it points to */
} LlmbFlight;

/*
 * Asks for its end.  A batch that was never submitted ends here and now, in
 * the current turn.
 */
extern void llmb_flight_cancel(LlmbFlight *flight, LlmbCode code);

/* ---- for its steps, its replies, and real time ---- */

#define llmb_flight_say(flight, kind, ...) \
	llmb_store_event((flight)->row->job, (flight)->row->id, kind, __VA_ARGS__)

/* In a turn: the one place where a batch's state changes. */
extern void llmb_flight_become(LlmbFlight *flight, LlmbBatchState state);
/* In a turn: spending stops until somebody resumes the job. */
extern void llmb_flight_pause(LlmbFlight *flight, const LlmbJob *job, const char *reason);
/*
 * In a turn: the same for what is mended elsewhere (key, quota, server,
 * privileges): from time to time one call or request of the flight goes out
 * to see.  server: whose waits count; may be NULL.
 */
extern void llmb_flight_await_mend(LlmbFlight *flight, const LlmbServer *server, const LlmbJob *job, const char *reason);
/* In a turn: a call of the flight went well, so its job need not wait any longer. */
extern void llmb_flight_mended(LlmbFlight *flight, const LlmbJob *job);
/* Wait before the next look for a mend, after so many in vain, in ms; server may be NULL. */
extern int64 llmb_look_again_ms(const LlmbServer *server, int looks);
/* In a turn.  Raises when it is gone. */
extern LlmbJob *llmb_flight_job(const LlmbFlight *flight);
/*
 * In a turn: why the job is held up, for progress.reason; NULL: not any more.
 * Begins with "verifying: ", by which it is known when it goes.
 */
extern void llmb_flight_explain(const LlmbFlight *flight, const char *reason);
/*
 * In a turn.  False when the step cannot be done now: then the time of the
 * next look is set, and the job tells why.
 */
extern bool llmb_flight_stand(LlmbFlight *flight, LlmbGround *ground, bool spending);
/* In a turn: the request file of a planned batch again, if it is not there. */
extern void llmb_flight_spool(LlmbFlight *flight, const LlmbGround *ground);
/* In a turn: what results are taken in by; false when the server is gone. */
extern bool llmb_flight_open_intake(LlmbFlight *flight);
/* Outside of a turn: items without a result are decided, the batch is over. */
extern void llmb_flight_finalize(LlmbFlight *flight);
/* In a turn: a batch that never reached the provider ends. */
extern void llmb_flight_cancel_unsent(LlmbFlight *flight);
/* Starts a call about the batch; false when the provider has no such call. */
extern bool llmb_flight_call(LlmbFlight *flight, const LlmbGround *ground, LlmbVerb verb);
/*
 * Forecasts are means; a batch of dear items must not pass the budget.  Sums
 * of 20 answers of natural length stray by some 5 % from 20 times their mean.
 */
#define LLMB_BUDGET_MARGIN	1.25
/* Why a job with max_cost is paused, in words. */
extern char *llmb_budget_reason(const LlmbJob *job);
/* What a provider is told of the batch. */
extern void llmb_flight_ref(const LlmbFlight *flight, const LlmbGround *ground, LlmbBatchRef *ref);
/* In a turn: refused as a whole; the items are decided by the coming steps. */
extern void llmb_flight_refused(LlmbFlight *flight, LlmbCode code, const char *why);
/* In a turn: the batch is there, and this is its id. */
extern void llmb_flight_adopt(LlmbFlight *flight, const char *id, const char *how);
/* The next step comes after so many milliseconds. */
extern void llmb_flight_wait(LlmbFlight *flight, int64 ms);
/* Counts a try without success; the wait before the next, at least asked_ms. */
extern int64 llmb_flight_back_off(LlmbFlight *flight, const LlmbServer *server, int64 asked_ms);
/* A string that lives as long as the flight. */
extern char *llmb_flight_keep(LlmbFlight *flight, const char *text);
extern void llmb_flight_drop_spool(LlmbFlight *flight);

#endif							/* LLMB_FLIGHT_H */
