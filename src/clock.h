/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The two ways to tell the time: PostgreSQL's timestamps, and epoch
 *		milliseconds, as providers and policies have them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CLOCK_H
#define LLMB_CLOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* How far a provider's clock and ours may be apart when its listings are read back to a time of ours, seconds. */
#define LLMB_CLOCK_SKEW_S	300

/* Epoch milliseconds; the one clock of calls. */
extern int64 llmb_now_ms(void);
/* A timestamp as epoch milliseconds, and back; 0 for 0. */
extern int64 llmb_epoch_ms(TimestampTz when);
extern TimestampTz llmb_timestamp(int64 epoch_ms);

#endif							/* LLMB_CLOCK_H */
