/*-------------------------------------------------------------------------
 *
 * health.c
 *		How the servers of this database are doing.
 *
 * The worker keeps a record for each server that it calls, and copies it to
 * shared memory whenever it changes, for sessions to look at.  A spinlock
 * guards the copies; nothing but copying is done under it.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/spin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "compat.h"
#include "health.h"
#include "log.h"

PG_FUNCTION_INFO_V1(llmb_server_health);

/* Servers, of all databases, that are shown at a time. */
#define MAX_SHOWN		1024
/* Rates are those of the last minute, kept as slices of five seconds. */
#define SLICES			12
#define SLICE_MS		5000
/*
 * When somebody goes to see: first so soon, at last so often.  The options
 * retry_base and retry_max are what a call waits by itself; of a server that
 * does not answer one wants to know sooner, not later.
 */
#define FIRST_TRIAL_MS	1000
#define LAST_TRIAL_MS	60000
/* After so long the others do not wait any more for the one that is out to see. */
#define TRIAL_LONG_MS	60000

typedef struct Slice
{
	int64		number;			/* epoch ms / SLICE_MS */
	int			calls;
	int			errors;
} Slice;

typedef struct Record
{
	Oid			database;		/* InvalidOid: free (in shared memory) */
	Oid			server;
	int			pid;			/* of the worker that says so */
	LlmbBreaker breaker;
	int			troubles;		/* times that it was opened */
	int			in_flight;
	int64		calls;
	int64		errors;
	Slice		slices[SLICES];
	char		last_error[256];
} Record;

struct LlmbHealth
{
	Record		record;
	char		name[NAMEDATALEN];
	uint32		address;		/* hash of base_url and proxy */
	int64		retry_base_ms;
	int64		retry_max_ms;
	int			shown;			/* place in shared memory; -1 none */
	LlmbBreakerState logged;	/* what programs were told last */
	struct LlmbHealth *next;
};

typedef struct Shared
{
	slock_t		mutex;
	Record		records[MAX_SHOWN];
} Shared;

static Shared *shared = NULL;
static LlmbHealth *healths = NULL;

/* ---- shared memory ---- */

Size
llmb_health_shared_size(void)
{
	return MAXALIGN(sizeof(Shared));
}

void
llmb_health_share(void *memory, bool found)
{
	shared = memory;
	if (found)
		return;
	memset(shared, 0, sizeof(Shared));
	SpinLockInit(&shared->mutex);
}

/* For on_proc_exit: what a worker that is gone had to say is void. */
static void
hide_all(int code, Datum arg)
{
	(void) code;
	(void) arg;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < MAX_SHOWN; i++)
	{
		if (shared->records[i].pid == MyProcPid)
			shared->records[i].database = InvalidOid;
	}
	SpinLockRelease(&shared->mutex);
}

static int
find_place(void)
{
	int			place = -1;

	if (shared == NULL)
		return -1;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < MAX_SHOWN && place < 0; i++)
	{
		if (!OidIsValid(shared->records[i].database))
			place = i;
	}
	if (place >= 0)
	{
		memset(&shared->records[place], 0, sizeof(Record));
		shared->records[place].database = MyDatabaseId;
		shared->records[place].pid = MyProcPid;
	}
	SpinLockRelease(&shared->mutex);
	return place;
}

/* For programs; what is for people is said once in each trouble. */
static void
log_state(LlmbHealth *health)
{
	const LlmbBreaker *breaker = &health->record.breaker;
	LlmbBreakerState was = health->logged;
	LlmbLogLine line;

	health->logged = breaker->state;
	if (breaker->state == was || llmb_log_events == LLMB_LOG_OFF)
		return;
	llmb_log_begin(&line, "breaker");
	llmb_log_text(&line, "server", health->name);
	llmb_log_text(&line, "was", llmb_breaker_name(was));
	llmb_log_text(&line, "state", llmb_breaker_name(breaker->state));
	llmb_log_int(&line, "failures", breaker->failures);
	if (breaker->state == LLMB_BREAKER_OPEN)
	{
		llmb_log_time(&line, "retry_at", breaker->retry_ms);
		llmb_log_text(&line, "error", health->record.last_error);
	}
	llmb_log_end_now(&line);
}

static void
show(LlmbHealth *health)
{
	log_state(health);
	if (health->shown < 0)
		return;
	SpinLockAcquire(&shared->mutex);
	shared->records[health->shown] = health->record;
	SpinLockRelease(&shared->mutex);
}

/* ---- the worker's records ---- */

static uint32
address_of(const LlmbServer *server)
{
	char	   *text = psprintf("%s|%s", server->base_url ? server->base_url : "", server->proxy ? server->proxy : "");

	return hash_bytes((const unsigned char *) text, strlen(text));
}

static LlmbHealth *
new_health(Oid server)
{
	LlmbHealth *health = MemoryContextAllocZero(TopMemoryContext, sizeof(LlmbHealth));

	if (healths == NULL && shared)
		on_proc_exit(hide_all, 0);
	health->record.database = MyDatabaseId;
	health->record.server = server;
	health->record.pid = MyProcPid;
	health->shown = find_place();
	health->next = healths;
	healths = health;
	return health;
}

static LlmbHealth *
take_over(const LlmbServer *server)
{
	LlmbHealth *health = healths;

	while (health && strcmp(health->name, server->name) != 0)
		health = health->next;
	if (health)
	{
		memset(&health->record.breaker, 0, sizeof(LlmbBreaker));
		health->record.server = server->oid;
	}
	return health;
}

LlmbHealth *
llmb_health_of(const LlmbServer *server)
{
	LlmbHealth *health = healths;
	uint32		address = address_of(server);

	while (health && health->record.server != server->oid)
		health = health->next;
	/* dropped and created again: a new one in the old one's place */
	if (health == NULL)
		health = take_over(server);
	if (health == NULL)
		health = new_health(server->oid);
	if (health->address != address)
		memset(&health->record.breaker, 0, sizeof(LlmbBreaker));
	health->address = address;
	strlcpy(health->name, server->name, NAMEDATALEN);
	health->retry_base_ms = server->retry_base_ms;
	health->retry_max_ms = server->retry_max_ms;
	return health;
}

int64
llmb_health_wait(const LlmbHealth *health)
{
	const LlmbBreaker *breaker = &health->record.breaker;
	int64		now = llmb_now_ms();

	if (breaker->state == LLMB_BREAKER_HALF_OPEN && now - breaker->since_ms > TRIAL_LONG_MS)
		return 0;
	return llmb_breaker_wait(breaker, now);
}

static Slice *
current_slice(Record *record, int64 now)
{
	Slice	   *slice = &record->slices[(now / SLICE_MS) % SLICES];

	if (slice->number != now / SLICE_MS)
		*slice = (Slice) {.number = now / SLICE_MS};
	return slice;
}

int64
llmb_health_sent(LlmbHealth *health)
{
	int64		now = llmb_now_ms();

	llmb_breaker_sent(&health->record.breaker, now);
	health->record.calls++;
	health->record.in_flight++;
	current_slice(&health->record, now)->calls++;
	show(health);
	return now;
}

static void
log_change(const LlmbHealth *health)
{
	const Record *record = &health->record;

	if (record->breaker.state == LLMB_BREAKER_CLOSED)
		ereport(LOG,
				(errmsg("llm_batch: server \"%s\" answers again", health->name), errhidestmt(true)));
	else if (record->breaker.opens == 1)
		ereport(LOG,
				(errmsg("llm_batch: %s", llmb_health_words(health)), errhidestmt(true)));
}

void
llmb_health_ended(LlmbHealth *health, int64 sent_ms, const char *error)
{
	Record	   *record = &health->record;
	int64		now = llmb_now_ms();
	int64		backoff;
	bool		changed;

	record->in_flight--;
	if (error)
	{
		record->errors++;
		current_slice(record, now)->errors++;
		strlcpy(record->last_error, error, sizeof(record->last_error));
	}
	backoff = llmb_backoff_ms(record->breaker.opens + 1, Min(health->retry_base_ms, FIRST_TRIAL_MS),
							  Min(health->retry_max_ms, LAST_TRIAL_MS),
							  pg_prng_double(&pg_global_prng_state));
	changed = llmb_breaker_ended(&record->breaker, error == NULL, sent_ms, now, backoff);
	if (changed && record->breaker.opens == 1)
		record->troubles++;
	show(health);
	if (changed)
		log_change(health);
}

void
llmb_health_answers(LlmbHealth *health, int64 sent_ms)
{
	if (health->record.breaker.state == LLMB_BREAKER_CLOSED)
		return;
	if (llmb_breaker_ended(&health->record.breaker, true, sent_ms, llmb_now_ms(), 0))
		log_change(health);
	show(health);
}

void
llmb_health_dropped(LlmbHealth *health, int64 sent_ms)
{
	health->record.in_flight--;
	llmb_breaker_dropped(&health->record.breaker, sent_ms, llmb_now_ms());
	show(health);
}

bool
llmb_health_is_good(const LlmbHealth *health)
{
	return health->record.breaker.state == LLMB_BREAKER_CLOSED;
}

int
llmb_health_troubles(const LlmbHealth *health)
{
	return health->record.troubles;
}

char *
llmb_health_words(const LlmbHealth *health)
{
	return psprintf("server \"%s\" does not answer (%s): %d calls in a row failed; one is tried now and then, the others wait for it",
					health->name, health->record.last_error, health->record.breaker.failures);
}

/* ---- looking at it ---- */

/* Of the last minute. */
static void
count_recent(const Record *record, int64 now, int *calls, int *errors)
{
	*calls = *errors = 0;
	for (int i = 0; i < SLICES; i++)
	{
		if (record->slices[i].number <= now / SLICE_MS - SLICES)
			continue;
		*calls += record->slices[i].calls;
		*errors += record->slices[i].errors;
	}
}

static void
put_row(ReturnSetInfo *result, const Record *record, const char *name)
{
	Datum		values[11];
	bool		nulls[11] = {false};
	int			calls;
	int			errors;

	count_recent(record, llmb_now_ms(), &calls, &errors);
	values[0] = DirectFunctionCall1(namein, CStringGetDatum(name));
	values[1] = CStringGetTextDatum(llmb_breaker_name(record->breaker.state));
	nulls[2] = record->breaker.since_ms == 0;
	values[2] = TimestampTzGetDatum(llmb_timestamp(record->breaker.since_ms));
	nulls[3] = record->breaker.state != LLMB_BREAKER_OPEN;
	values[3] = TimestampTzGetDatum(llmb_timestamp(record->breaker.retry_ms));
	values[4] = Int32GetDatum(record->breaker.failures);
	values[5] = Int32GetDatum(record->in_flight);
	values[6] = Int64GetDatum(record->calls);
	values[7] = Int64GetDatum(record->errors);
	values[8] = Float8GetDatum(calls);
	nulls[9] = calls == 0;
	/* what ended in this minute may have gone out before it */
	values[9] = Float8GetDatum(calls ? Min((double) errors / calls, 1.0) : 0.0);
	nulls[10] = record->last_error[0] == '\0';
	values[10] = CStringGetTextDatum(record->last_error);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* In the session of whoever asks. */
static bool
may_look_at(Oid server)
{
	return llmb_foreign_server_aclcheck(server, GetUserId()) == ACLCHECK_OK ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/*
 * llm_batch.server_health() returns setof (server, breaker, since, retry_at,
 * failures, in_flight, calls, errors, calls_per_minute, error_rate,
 * last_error): of this database's worker; nothing without shared memory
 */
Datum
llmb_server_health(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	if (shared == NULL)
		return (Datum) 0;
	for (int i = 0; i < MAX_SHOWN; i++)
	{
		Record		record;
		LlmbServer *server;

		SpinLockAcquire(&shared->mutex);
		record = shared->records[i];
		SpinLockRelease(&shared->mutex);
		if (record.database != MyDatabaseId || record.calls == 0)
			continue;
		/* it may have been dropped since */
		server = llmb_server_by_oid(record.server);
		if (server && may_look_at(record.server))
			put_row((ReturnSetInfo *) fcinfo->resultinfo, &record, server->name);
	}
	return (Datum) 0;
}
