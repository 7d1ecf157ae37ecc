/*-------------------------------------------------------------------------
 *
 * health.h
 *		How the servers of this database are doing: calls that are out, how
 *		they ended, and the breakers.
 *
 * The worker's own; with the library preloaded it is shown to everybody by
 * llm_batch.server_health().  It begins anew with each worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_HEALTH_H
#define LLMB_HEALTH_H

#include "breaker.h"
#include "options.h"

typedef struct LlmbHealth LlmbHealth;

/*
 * In a turn, or with a server read in one: that server's.  It never moves
 * and is never freed.  A server with another address is another one.
 */
extern LlmbHealth *llmb_health_of(const LlmbServer *server);

/* Milliseconds until it may be called: 0 now, -1 when a call that is out has ended. */
extern int64 llmb_health_wait(const LlmbHealth *health);

/*
 * A call goes out; returns its time, epoch ms, for the end.  Then one of the
 * two below, exactly once: it ended (error: why the server is at fault, in
 * words without key and prompt; NULL when it is not), or was given up.
 */
extern int64 llmb_health_sent(LlmbHealth *health);
extern void llmb_health_ended(LlmbHealth *health, int64 sent_ms, const char *error);
extern void llmb_health_dropped(LlmbHealth *health, int64 sent_ms);
/* A long reply has begun to come: that is a sign of life before its end. */
extern void llmb_health_answers(LlmbHealth *health, int64 sent_ms);

/* What is wrong with it since when, in words; in the current memory context. */
extern char *llmb_health_words(const LlmbHealth *health);
/* Does it answer, as far as is known? */
extern bool llmb_health_is_good(const LlmbHealth *health);
/* How often its breaker was opened; tells one trouble from the next. */
extern int	llmb_health_troubles(const LlmbHealth *health);

/* For shmem.c: how much shared memory, and setting it up. */
extern Size llmb_health_shared_size(void);
extern void llmb_health_share(void *memory, bool found);

#endif							/* LLMB_HEALTH_H */
