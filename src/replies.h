/*-------------------------------------------------------------------------
 *
 * replies.h
 *		What a provider's replies mean for a batch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_REPLIES_H
#define LLMB_REPLIES_H

#include "flight.h"

/* A flight's party->ended: decides, in a turn of its own.  May throw. */
extern void llmb_reply_ended(LlmbParty *party, LlmbEnding *ending);

#endif							/* LLMB_REPLIES_H */
