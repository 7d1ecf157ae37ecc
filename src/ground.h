/*-------------------------------------------------------------------------
 *
 * ground.h
 *		What a call stands on: a server, a job, its owner's key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_GROUND_H
#define LLMB_GROUND_H

#include "options.h"
#include "store.h"

/* What a step stands on; in the current memory context. */
typedef struct LlmbGround
{
	LlmbServer *server;
	LlmbJob    *job;
	Oid			owner;
	char	   *key;
	LlmbModel  *model;			/* UTF-8: calls start outside of turns, where nothing converts */
	bool		looking;		/* the job awaits a mend, and one call may show that it came */
} LlmbGround;

/*
 * In a turn, with ground->job set: fills in the rest; why a call of that
 * server cannot be made, in words, or NULL.
 */
extern const char *llmb_ground_obstacle(const char *server_name, LlmbGround *ground);

/*
 * In a turn: a short hash, salted with the batch's token, of where its calls go
 * and with which key; palloc'd.
 */
extern char *llmb_ground_route(const LlmbBatchRow *row, const LlmbGround *ground);

#endif							/* LLMB_GROUND_H */
