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

/*
 * True while some of its items were not handed to a slot: no other set of
 * the same job is planned before.
 */
extern bool llmb_realtime_unsent(const LlmbFlight *flight);

/* After an error of its step. */
extern void llmb_realtime_failed(LlmbFlight *flight);

/* Frees what is its own; requests that are out are dropped. */
extern void llmb_realtime_free(LlmbFlight *flight);

/*
 * Does the request file of a batch hold bodies, not lines?  In process
 * answers are made from lines.
 */
extern bool llmb_sends_bodies(const LlmbServer *server, bool realtime);

#endif							/* LLMB_REALTIME_H */
