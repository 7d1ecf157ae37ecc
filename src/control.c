/*-------------------------------------------------------------------------
 *
 * control.c
 *		What people ask of a job: cancel, pause, resume, retry, apply, forget;
 *		and the two procedures that wait for the worker: wait and check_server.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "control.h"
#include "estimate.h"
#include "options.h"
#include "shmem.h"
#include "sql.h"
#include "store.h"
#include "store_forget.h"

PG_FUNCTION_INFO_V1(llmb_wait);
PG_FUNCTION_INFO_V1(llmb_cancel);
PG_FUNCTION_INFO_V1(llmb_pause);
PG_FUNCTION_INFO_V1(llmb_resume);
PG_FUNCTION_INFO_V1(llmb_retry);
PG_FUNCTION_INFO_V1(llmb_apply);
PG_FUNCTION_INFO_V1(llmb_forget);
PG_FUNCTION_INFO_V1(llmb_check_server);

/* Looks of wait() at its job, and the lines it prints. */
#define LOOK_MS		200
#define PROGRESS_MS	2000

/* ---- jobs of one's own ---- */

/*
 * The job, if the current user has the privileges of its owner.  Others are
 * told that it does not exist, which is all that they may know.
 */
LlmbJob *
llmb_own_job(int64 id)
{
	LlmbJob    *job = llmb_store_job(id);
	Oid			owner = job ? get_role_oid(job->owner, true) : InvalidOid;

	if (job && (superuser() || (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))))
		return job;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("job " INT64_FORMAT " does not exist", id),
			 errhint("SELECT job_id, state FROM llm_batch.progress; shows your jobs.")));
	return NULL;
}

static void
require_state(bool fine, const LlmbJob *job, const char *verb)
{
	if (!fine)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot be %s: it is %s", job->id, verb, job->state),
				 llmb_job_is_over(job) ? errhint("An ended job takes retry() and apply().") :
				 errhint("Look at llm_batch.progress.")));
}

/* Half of it may be gone by now. */
static void
require_kept(const LlmbJob *job, const char *verb)
{
	if (llmb_store_is_forgotten(job->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot be %s: it is being forgotten", job->id, verb)));
}

static void
ask(int64 job, const char *verb, ArrayType *codes)
{
	llmb_store_command(job, verb, codes);
	llmb_wake_at_commit();
}

static LlmbJob *
job_to_change(int64 id, const char *function)
{
	llmb_require_writable(function);
	return llmb_own_job(id);
}

/*
 * llm_batch.cancel(job bigint)
 */
Datum
llmb_cancel(PG_FUNCTION_ARGS)
{
	LlmbJob    *job = job_to_change(PG_GETARG_INT64(0), "llm_batch.cancel()");

	require_state(!llmb_job_is_over(job), job, "cancelled");
	ask(job->id, "cancel", NULL);
	PG_RETURN_VOID();
}

/*
 * llm_batch.pause(job bigint)
 */
Datum
llmb_pause(PG_FUNCTION_ARGS)
{
	LlmbJob    *job = job_to_change(PG_GETARG_INT64(0), "llm_batch.pause()");

	require_state(!llmb_job_is_over(job) && strcmp(job->state, "cancelling") != 0, job, "paused");
	ask(job->id, "pause", NULL);
	PG_RETURN_VOID();
}

/*
 * llm_batch.resume(job bigint, resend boolean)
 */
Datum
llmb_resume(PG_FUNCTION_ARGS)
{
	LlmbJob    *job = job_to_change(PG_GETARG_INT64(0), "llm_batch.resume()");

	require_state(!llmb_job_is_over(job) && strcmp(job->state, "cancelling") != 0, job, "resumed");
	ask(job->id, PG_GETARG_BOOL(1) ? "resend" : "resume", NULL);
	PG_RETURN_VOID();
}

static void
check_codes(ArrayType *codes)
{
	Datum	   *datums;
	bool	   *nulls;
	int			count;
	LlmbCode	code;

	deconstruct_array(codes, TEXTOID, -1, false, TYPALIGN_INT, &datums, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i] || !llmb_code_parse(TextDatumGetCString(datums[i]), &code))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown error code %s", nulls[i] ? "NULL" : TextDatumGetCString(datums[i])),
					 errhint("Take codes from llm_batch.results.error_code, for instance '{truncated}'.")));
	}
}

/*
 * llm_batch.retry(job bigint, codes text[]) returns bigint
 */
Datum
llmb_retry(PG_FUNCTION_ARGS)
{
	ArrayType  *codes = PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1);
	LlmbJob    *job;
	int64		count;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	job = job_to_change(PG_GETARG_INT64(0), "llm_batch.retry()");
	if (codes)
		check_codes(codes);
	require_state(llmb_job_is_over(job), job, "retried");
	require_kept(job, "retried");
	count = llmb_store_count_retry(job->id, codes);
	if (count == 0)
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " has no items to send again", job->id),
				 errhint("Items that are cancelled, truncated, refused, stale or in write_back are sent again when their code is named: llm_batch.retry(" INT64_FORMAT ", '{cancelled}').", job->id)));
	else
	{
		char	   *cost = llmb_retry_cost(job, count);

		ereport(NOTICE,
				(errmsg(INT64_FORMAT " of %d items will be sent again to model \"%s\", and paid again",
						count, job->total, job->model),
				 cost ? errdetail("That is likely to cost %s USD.", cost) :
				 errdetail("What that costs is not known.")));
		ask(job->id, "retry", codes);
	}
	PG_RETURN_INT64(count);
}

/*
 * llm_batch.apply(job bigint) returns bigint
 */
Datum
llmb_apply(PG_FUNCTION_ARGS)
{
	LlmbJob    *job = job_to_change(PG_GETARG_INT64(0), "llm_batch.apply()");
	int64		count;

	require_state(llmb_job_is_over(job), job, "applied again");
	require_kept(job, "applied again");
	count = llmb_store_count_apply(job->id);
	if (count == 0)
		ereport(NOTICE, (errmsg("job " INT64_FORMAT " has no stored answers that wait to be written", job->id)));
	else
		ask(job->id, "apply", NULL);
	PG_RETURN_INT64(count);
}

/*
 * llm_batch.forget(job bigint)
 */
Datum
llmb_forget(PG_FUNCTION_ARGS)
{
	LlmbJob    *job = job_to_change(PG_GETARG_INT64(0), "llm_batch.forget()");
	char	   *needed;

	if (!llmb_job_is_over(job))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot be forgotten: it is %s", job->id, job->state),
				 errhint("llm_batch.cancel(" INT64_FORMAT ") ends it; an ended job can be forgotten.", job->id)));
	if (llmb_store_is_forgotten(job->id))
	{
		ereport(NOTICE, (errmsg("job " INT64_FORMAT " is being forgotten already", job->id)));
		PG_RETURN_VOID();
	}
	needed = llmb_store_needed_for(job->id);
	if (needed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("job " INT64_FORMAT " cannot be forgotten: %s", job->id, needed),
				 errhint("Try again later. A job that waits can be cancelled.")));
	if (job->commanded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot be forgotten: something was asked of it that is not done yet", job->id),
				 errhint("CALL llm_batch.wait(" INT64_FORMAT "); first.", job->id)));
	ask(job->id, "forget", NULL);
	PG_RETURN_VOID();
}

/* ---- waiting ---- */

static void
require_no_block(FunctionCallInfo fcinfo, const char *call)
{
	bool		atomic = !(fcinfo->context && IsA(fcinfo->context, CallContext) &&
						   !castNode(CallContext, fcinfo->context)->atomic);

	if (atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", call),
				 errdetail("The worker sees work only when it is committed."),
				 errhint("Commit first, or use autocommit.")));
}

/* Between transactions' work: nothing is held meanwhile. */
static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, llmb_wait_event_worker());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

typedef struct Seen
{
	char		state[20];
	char		reason[200];
	int			finished;
	TimestampTz told_at;
} Seen;

/* Why nothing moves, when it is not for the job itself; NULL all is well. */
static const char *
worker_trouble(const LlmbJob *job)
{
	if (llmb_job_is_over(job) || llmb_worker_pid() != 0)
		return NULL;
	return llmb_enabled ? "no worker is running" : "llm_batch.enabled is off";
}

static void
tell(const LlmbJob *job)
{
	int			finished = job->succeeded + job->failed + job->cancelled;
	int			percent = job->total ? (int) (finished * INT64CONST(100) / job->total) : job->held ? 0 : 100;
	char		bar[21];
	const char *reason = job->reason ? job->reason : worker_trouble(job);
	const char *cancelled = job->cancelled ? psprintf(", %d cancelled", job->cancelled) : "";

	memset(bar, '.', 20);
	memset(bar, '#', percent / 5);
	bar[20] = '\0';
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT " %s [%s] %d of %d: %d succeeded, %d failed%s, %d in flight%s%s",
					job->id, job->state, bar, finished, job->total, job->succeeded, job->failed, cancelled, job->in_flight,
					reason ? "; " : "", reason ? reason : "")));
}

/* A line every few seconds while something moves, at once when it pauses. */
static void
tell_progress(const LlmbJob *job, Seen *seen)
{
	TimestampTz now = GetCurrentTimestamp();
	int			finished = job->succeeded + job->failed + job->cancelled;
	const char *reason = job->reason ? job->reason : "";
	bool		paused = strcmp(job->state, "paused") == 0 &&
		(strcmp(seen->state, job->state) != 0 || strncmp(seen->reason, reason, sizeof(seen->reason) - 1) != 0);
	bool		due = TimestampDifferenceMilliseconds(seen->told_at, now) >=
		(finished != seen->finished ? PROGRESS_MS : PROGRESS_MS * 5);

	if (!paused && !due)
		return;
	tell(job);
	strlcpy(seen->state, job->state, sizeof(seen->state));
	strlcpy(seen->reason, reason, sizeof(seen->reason));
	seen->finished = finished;
	seen->told_at = now;
}

static void
tell_end(const LlmbJob *job)
{
	if (strcmp(job->state, "failed") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 job->reason ? errmsg("job " INT64_FORMAT " failed: %s", job->id, job->reason) :
				 errmsg("job " INT64_FORMAT " failed: none of %d items succeeded", job->id, job->total),
				 errhint("SELECT error_code, error, count(*) FROM llm_batch.results WHERE job_id = " INT64_FORMAT " GROUP BY 1, 2;", job->id)));
	if (strcmp(job->state, "partial") == 0)
		ereport(WARNING,
				(errmsg("job " INT64_FORMAT " ended partial: %d succeeded, %d failed, %d cancelled",
						job->id, job->succeeded, job->failed, job->cancelled),
				 errhint("llm_batch.retry(" INT64_FORMAT ") sends failed items again, llm_batch.apply(" INT64_FORMAT ") writes stored answers again.",
						 job->id, job->id)));
	else
		tell(job);
}

/*
 * llm_batch.wait(job bigint, timeout interval)
 */
Datum
llmb_wait(PG_FUNCTION_ARGS)
{
	MemoryContext look;
	Seen		seen = {.told_at = GetCurrentTimestamp()};
	TimestampTz give_up = 0;
	LlmbJob    *job;
	int64		id;

	require_no_block(fcinfo, "llm_batch.wait()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job must not be NULL"),
				 errhint("Pass the id that submit() returned.")));
	id = PG_GETARG_INT64(0);
	if (!PG_ARGISNULL(1))
		give_up = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														  TimestampTzGetDatum(GetCurrentTimestamp()),
														  PG_GETARG_DATUM(1)));
	look = AllocSetContextCreate(PortalContext, "llm_batch wait", ALLOCSET_SMALL_SIZES);
	llmb_procedure_begin();
	llmb_wake();
	for (;;)
	{
		llmb_procedure_snapshot();
		MemoryContextSwitchTo(look);
		MemoryContextReset(look);
		job = llmb_own_job(id);
		llmb_procedure_commit();
		MemoryContextSwitchTo(look);
		/* retry() and apply() make an ended job run on */
		if (llmb_job_is_over(job) && !job->commanded)
			break;
		/* one that has died, or left when the extension was made anew */
		if (llmb_worker_pid() == 0)
			llmb_wake();
		tell_progress(job, &seen);
		if (give_up != 0 && GetCurrentTimestamp() >= give_up)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("job " INT64_FORMAT " has not ended within the timeout", id),
					 errdetail("It is %s; %d of %d items are finished.", job->state,
							   job->succeeded + job->failed + job->cancelled, job->total),
					 errhint("CALL llm_batch.wait(" INT64_FORMAT ") again, or llm_batch.cancel(" INT64_FORMAT ").", id, id)));
		nap(LOOK_MS);
	}
	tell_end(job);
	llmb_procedure_end();
	MemoryContextDelete(look);
	PG_RETURN_VOID();
}

/*
 * llm_batch.check_server(server name)
 */
Datum
llmb_check_server(PG_FUNCTION_ARGS)
{
	LlmbServer *server;
	char	   *name;
	char	   *message = NULL;
	bool		ok = false;
	int64		id;
	TimestampTz give_up;
	MemoryContext context;

	require_no_block(fcinfo, "llm_batch.check_server()");
	llmb_require_writable("llm_batch.check_server()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("server must not be NULL"),
				 errhint("Pass its name.")));
	name = pstrdup(NameStr(*PG_GETARG_NAME(0)));
	server = llmb_choose_server(name, "");
	give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										  server->connect_timeout_ms + server->request_timeout_ms + 10000);
	context = AllocSetContextCreate(PortalContext, "llm_batch check", ALLOCSET_SMALL_SIZES);
	name = MemoryContextStrdup(context, name);
	llmb_procedure_begin();
	llmb_procedure_snapshot();
	id = llmb_store_new_probe(server->name, GetUserNameFromId(GetUserId(), false));
	llmb_wake_at_commit();
	llmb_procedure_commit();
	for (;;)
	{
		bool		done;

		nap(50);
		llmb_procedure_snapshot();
		MemoryContextSwitchTo(context);
		done = llmb_store_take_probe(id, &ok, &message);
		llmb_procedure_commit();
		if (done)
			break;
		if (GetCurrentTimestamp() >= give_up)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("the worker did not answer"),
					 errhint("Look at llm_batch.workers, llm_batch.enabled and the server's log.")));
	}
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("server \"%s\": %s", name, message),
				 errhint("Correct the server's options or the user mapping.")));
	ereport(NOTICE, (errmsg("server \"%s\": %s", name, message)));
	llmb_procedure_end();
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
