/*-------------------------------------------------------------------------
 *
 * as_owner.c
 *		Code of users that the worker runs.
 *
 * Triggers, defaults, checks, policies, casts, filters and queries of users
 * run in the worker as the owner of the job they belong to, in a
 * security-restricted operation, with pinned settings.  Each call is a
 * subtransaction under a statement timeout: what fails, fails alone.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <limits.h>
#include <signal.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "as_owner.h"
#include "compat.h"
#include "sql.h"
#include "template.h"

/*
 * How long a hopeful UPDATE may wait for a row lock.  Long enough for a short
 * transaction to pass by, short enough not to be waiting.
 */
#define HOPEFUL_LOCK_TIMEOUT "10ms"
/* What reads whole tables waits a little for who has locked one. */
#define PATIENT_LOCK_TIMEOUT "1s"

/* Bytes of an error's message that are kept. */
#define MAX_MESSAGE	1000

/* ---- becoming the owner ---- */

typedef struct Identity
{
	Oid			user;
	int			security;
	int			guc_level;
} Identity;

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
become_owner(const LlmbAsOwner *who, Identity *was)
{
	GetUserIdAndSecContext(&was->user, &was->security);
	was->guc_level = NewGUCNestLevel();
	llmb_pin_rendering(who->time_zone);
	set_local("search_path", "pg_catalog, pg_temp");
	set_local("row_security", "on");
	/* answers and templates are parameters: a plan without them keeps them out of the log */
	set_local("plan_cache_mode", "force_generic_plan");
	llmb_keep_values_from_log();
	if (who->by_index)
	{
		/* find rows by the key's index; a plan must not read the table for a slice */
		set_local("enable_seqscan", "off");
		set_local("enable_hashjoin", "off");
		set_local("enable_mergejoin", "off");
		set_local("enable_material", "off");
	}
	set_local("lock_timeout", who->by_index ? HOPEFUL_LOCK_TIMEOUT : PATIENT_LOCK_TIMEOUT);
	SetUserIdAndSecContext(who->owner, was->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

static void
become_self(const Identity *was)
{
	AtEOXact_GUC(false, was->guc_level);
	SetUserIdAndSecContext(was->user, was->security);
}

/* ---- time ---- */

/*
 * A trigger may catch the cancel of a statement timeout; then it is cancelled
 * again and again, and after three times that long the worker ends itself,
 * which nothing can catch.  Its jobs go on in the next one, but that job's
 * answers are written no more: see results.c.  The same holds for code that
 * sets transaction_timeout, and so ends the worker.
 */
static TimeoutId hard_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t cannot_be_cancelled = false;

bool
llmb_code_cannot_be_cancelled(void)
{
	return cannot_be_cancelled || llmb_transaction_timed_out();
}

static void
end_worker(void)
{
	cannot_be_cancelled = true;
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
arm_timeouts(long ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	if (hard_timeout == MAX_TIMEOUTS)
		hard_timeout = RegisterTimeout(USER_TIMEOUT, end_worker);
	enable_timeout_every(STATEMENT_TIMEOUT, end, (int) ms);
	enable_timeout_after(hard_timeout, (int) Min(ms + 2L * llmb_write_back_timeout_ms, INT_MAX));
}

static void
disarm_timeouts(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	disable_timeout(hard_timeout, false);
}

/* ---- the call ---- */

bool
llmb_error_passes(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_QUERY_CANCELED ||
		sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED || sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_INSUFFICIENT_RESOURCES ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_SYSTEM_ERROR;
}

void
llmb_as_owner_begin(void)
{
	/* a deferred trigger could not fire in a restricted operation at commit */
	AfterTriggerSetState(&(ConstraintsSetStmt) {.type = T_ConstraintsSetStmt, .constraints = NIL, .deferred = false});
}

/* Functions and types can be made in pg_temp even so, and would meet the next owner. */
void
llmb_as_owner_end(void)
{
	Oid			schema;
	Oid			toast_schema;

	GetTempNamespaceState(&schema, &toast_schema);
	if (OidIsValid(schema))
		ResetTempTableNamespace();
}

int
llmb_as_owner(const LlmbAsOwner *who, void (*work) (void *arg), void *arg, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), who->deadline);
	volatile int sqlstate = 0;

	if (left <= 0)
		return ERRCODE_QUERY_CANCELED;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		Identity	was;

		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		arm_timeouts(left);
		become_owner(who, &was);
		work(arg);
		become_self(&was);
		disarm_timeouts();
		SPI_finish();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		disarm_timeouts();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		sqlstate = error->sqlerrcode;
		/* a trigger may say as much as it likes, for each row */
		*message = pnstrdup(error->message, pg_mbcliplen(error->message, strlen(error->message), MAX_MESSAGE));
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return sqlstate;
}
