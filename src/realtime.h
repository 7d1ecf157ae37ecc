/*-------------------------------------------------------------------------
 *
 * realtime.h
 *		Items that are sent singly, through the same event loop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_REALTIME_H
#define LLMB_REALTIME_H

#include "flight.h"

/* Does what is due for a batch of mode realtime that is not over.  May throw. */
extern void llmb_realtime_step(LlmbFlight *flight);

/* After an error of its step. */
extern void llmb_realtime_failed(LlmbFlight *flight);

/* Frees what is its own; requests that are out are dropped. */
extern void llmb_realtime_free(LlmbFlight *flight);

#endif							/* LLMB_REALTIME_H */
