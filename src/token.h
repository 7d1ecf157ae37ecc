/*-------------------------------------------------------------------------
 *
 * token.h
 *		The token of a batch: what it says beside being random.
 *
 *		home_job_first_random		all in hexadecimal
 *
 * It begins the custom_ids of the batch's requests ("<token>-<ordinal>"), and
 * with the number of the create behind it is the batch's label at the
 * provider ("<token>_<creates>").  So a batch of which our tables know
 * nothing, for they were set back by a failover, still tells whose it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TOKEN_H
#define LLMB_TOKEN_H

#include "common.h"

typedef struct LlmbToken
{
	uint32		home;			/* of the database, see llmb_token_home() */
	int64		job;
	int			first;			/* first of consecutive ordinals never sent before; 0: others */
	char		text[64];		/* the token alone */
	int			creates;		/* of a label; 0 of a custom_id */
} LlmbToken;

/* What stands for a database in tokens: a hash of who it is. */
extern uint32 llmb_token_home(uint64 system_identifier, uint32 database);

/* The token's text, palloc'd; of at most 50 bytes. */
extern char *llmb_token_make(uint32 home, int64 job, int first, uint64 random);

/* Reads a label or a custom_id; false when it is none of ours. */
extern bool llmb_token_parse(const char *text, LlmbToken *token);

#endif							/* LLMB_TOKEN_H */
