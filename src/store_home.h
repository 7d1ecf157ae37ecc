/*-------------------------------------------------------------------------
 *
 * store_home.h
 *		Where this database is at home: which cluster and timeline its batches
 *		were made on, and with which servers it was compared since.
 *
 * As in store.h: in the caller's transaction, as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_HOME_H
#define LLMB_STORE_HOME_H

#include "store.h"

typedef struct LlmbHome
{
	int			timeline;		/* on which this database was at home first */
	TimestampTz seen_at;		/* when the present timeline was seen first */
	int64		last_job;		/* the newest job then; later ones are of this timeline */
} LlmbHome;

/*
 * Takes note of the present timeline.  A database that was restored or copied
 * begins anew, with that.
 */
extern void llmb_store_home(int present, LlmbHome *home);

/* Was this server, with this owner's key, compared on that timeline? */
extern bool llmb_store_is_compared(const char *server, const char *owner, int timeline);
extern void llmb_store_set_compared(const char *server, const char *owner, int timeline);

/* When the oldest job up to last_job that is not over was submitted; 0: there is none. */
extern TimestampTz llmb_store_oldest_job(const char *server, const char *owner, int64 last_job);

/* Is there a batch with this token? */
extern bool llmb_store_knows_token(const char *token);

/*
 * A batch that is at the provider already: like llmb_store_add_batch(), with
 * row->creates, remote_id, intent_at and submitted_at; in_progress at once.
 */
extern void llmb_store_add_found_batch(LlmbBatchRow *row);

#endif							/* LLMB_STORE_HOME_H */
