/*-------------------------------------------------------------------------
 *
 * as_owner.h
 *		Code of users that the worker runs: as its owner, bounded, and so
 *		that its failure is nobody else's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_AS_OWNER_H
#define LLMB_AS_OWNER_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct LlmbAsOwner
{
	Oid			owner;
	const char *time_zone;		/* that texts are rendered in */
	TimestampTz deadline;		/* when it is cancelled */
	bool		by_index;		/* plans must find rows by the key's index, and never wait long for a lock */
} LlmbAsOwner;

/*
 * Calls work(arg) as the owner, connected to SPI, in a subtransaction and a
 * security-restricted operation, with pinned search_path (pg_catalog,
 * pg_temp) and settings, and a statement timeout.  Returns 0 when it went
 * through, else the SQLSTATE, and sets *message (palloc'd, at most 1,000
 * bytes; it may quote the user's data).
 *
 * Between llmb_as_owner_begin() and llmb_as_owner_end(), in a transaction at
 * READ COMMITTED.  Raises only what is not the user's fault.
 */
extern int	llmb_as_owner(const LlmbAsOwner *who, void (*work) (void *arg), void *arg, char **message);

/* Before the first: deferred constraints become immediate, for the rest of the transaction. */
extern void llmb_as_owner_begin(void);
/* After the last: what was made in pg_temp goes. */
extern void llmb_as_owner_end(void);

/*
 * Whether this process is ending because the user's code caught its cancels
 * for three times llm_batch.write_back_timeout, or set transaction_timeout.
 */
extern bool llmb_code_cannot_be_cancelled(void);

/* Errors that say "another time", never "not this". */
extern bool llmb_error_passes(int sqlstate);

#endif							/* LLMB_AS_OWNER_H */
