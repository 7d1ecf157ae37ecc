/*-------------------------------------------------------------------------
 *
 * clock.c
 *		PostgreSQL's timestamps, and epoch milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#include "clock.h"

#include "utils/timestamp.h"

/* From 1970 to 2000, in milliseconds. */
#define EPOCHS_APART	(((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000)

int64
llmb_now_ms(void)
{
	return (int64) (GetCurrentTimestamp() / 1000) + EPOCHS_APART;
}

int64
llmb_epoch_ms(TimestampTz when)
{
	return when ? (int64) (when / 1000) + EPOCHS_APART : 0;
}

TimestampTz
llmb_timestamp(int64 epoch_ms)
{
	return epoch_ms ? (TimestampTz) (epoch_ms - EPOCHS_APART) * 1000 : 0;
}
