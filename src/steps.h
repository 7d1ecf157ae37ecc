/*-------------------------------------------------------------------------
 *
 * steps.h
 *		One batch's way, step by step.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STEPS_H
#define LLMB_STEPS_H

#include "flight.h"

/* Does what is due, given that no call is under way.  May throw. */
extern void llmb_steps_step(LlmbFlight *flight);

/* Readies a new flight for calls. */
extern void llmb_steps_init(LlmbFlight *flight);

/* Takes it back to what is in the table, after an error. */
extern void llmb_steps_failed(LlmbParty *party);

/* In a turn: what is being looked for is sent anew, at its owner's risk. */
extern void llmb_steps_resend(LlmbFlight *flight);

#endif							/* LLMB_STEPS_H */
