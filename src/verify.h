/*-------------------------------------------------------------------------
 *
 * verify.h
 *		Looking for a batch at a provider that gives no label back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_VERIFY_H
#define LLMB_VERIFY_H

#include "flight.h"

/*
 * In a turn: notes what a page of a listing may be.  True when the listing,
 * complete to before the intent, leaves no candidate.
 */
extern bool llmb_verify_page(LlmbFlight *flight, const LlmbReply *reply, const LlmbGround *ground);

/* The candidate whose results are to be read now; NULL: list (again). */
extern const char *llmb_verify_candidate(const LlmbFlight *flight);

/*
 * Lines of that candidate's results: adopts it, or strikes it off, and then
 * the call is over.  Outside of a turn.
 */
extern void llmb_verify_lines(LlmbFlight *flight, char *lines, size_t len);

/* Forgets all that was noted. */
extern void llmb_verify_reset(LlmbFlight *flight);

#endif							/* LLMB_VERIFY_H */
