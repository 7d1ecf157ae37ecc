/*-------------------------------------------------------------------------
 *
 * turn.h
 *		A worker's transactions.  turn.c is their only opener.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TURN_H
#define LLMB_TURN_H

#include "postgres.h"

/*
 * Begins a transaction with a snapshot; "doing" shows in pg_stat_activity.
 * The extension is locked against being dropped until the end.  When it is
 * gone the process leaves and this does not return.  The current memory
 * context stays the caller's, whose turn it is to reset it.
 */
extern void llmb_turn_begin(const char *doing);
/* In a turn: cursors (llmb_cursor()) see what the turn has changed so far. */
extern void llmb_turn_see_changes(void);
extern void llmb_turn_commit(void);
/*
 * Takes, or still holds, the lock that makes this process the only worker of
 * its database; false when another has it.
 */
extern bool llmb_turn_only_worker(void);
/* In a transaction: is the extension there, and the one we began with? */
extern bool llmb_extension_is_served(void);
/* After an error: gets rid of what is open, if anything. */
extern void llmb_turn_abort(void);
/* In callbacks at the end of a transaction: was the turn about to commit? */
extern bool llmb_turn_is_committing(void);
/* Before this process ends, between turns: another takes over at once. */
extern void llmb_turn_hand_over(void);

#endif							/* LLMB_TURN_H */
