/*-------------------------------------------------------------------------
 *
 * flight.c
 *		One batch's way: what is done in each state, and what its replies
 *		mean.
 *
 * Every step commits what it is about to do before it does it, where that
 * costs money, and what has come of it afterwards.  What a crash can leave
 * behind is therefore one of the states in llm_batch.batch; the step of that
 * state finds out the rest.
 *
 *		planned		  nothing is out: spool, upload
 *		uploading	  a file may be out: upload anew
 *		submitting	  a create may be out: after a restart, verifying
 *		verifying	  listings tell: adopted, or absent and planned again
 *		in_progress	  poll; cancel when asked for
 *		cancelling	  poll
 *		ended		  the provider is done: fetch
 *		fetching	  files are read from their start, known items skipped
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "flight.h"
#include "request.h"
#include "turn.h"

/* How far clocks may be apart when listings are read back to an intent. */
#define CLOCK_SKEW_S	300
/* Lines that the in-process provider answers in one step. */
#define IN_PROCESS_LINES 500
/* A result file that has fewer lines than the provider counts is read again. */
#define MAX_REREADS		3

/* What a step stands on; in the current memory context. */
typedef struct Ground
{
	LlmbServer *server;
	LlmbJob    *job;
	Oid			owner;
	char	   *key;
	char	   *model;			/* UTF-8: calls start outside of turns, where nothing converts */
} Ground;

/* ---- small things ---- */

static void
wait_ms(LlmbFlight *flight, int64 ms)
{
	flight->next_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

static int64
back_off_ms(LlmbFlight *flight, const LlmbServer *server, int64 asked_ms)
{
	int64		ms;

	flight->tries++;
	ms = llmb_backoff_ms(flight->tries, server->retry_base_ms, server->retry_max_ms,
						 pg_prng_double(&pg_global_prng_state));
	return Max(ms, asked_ms);
}

/* A string that lives as long as the flight. */
static char *
keep(LlmbFlight *flight, const char *text)
{
	return text ? MemoryContextStrdup(flight->context, text) : NULL;
}

static int64
epoch_ms(TimestampTz when)
{
	return when ? (int64) (when / 1000) +
		((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000 : 0;
}

/* In a turn: the one place where a batch's state changes. */
static void
become(LlmbFlight *flight, LlmbBatchState state)
{
	LlmbBatchState was = flight->row->state;

	if (state != was && !llmb_batch_can_become(was, state))
		elog(ERROR, "a batch cannot become %s from %s",
			 llmb_batch_state_name(state), llmb_batch_state_name(was));
	flight->row->state = state;
	llmb_store_save_batch(flight->row, was);
	flight->tries = state == was ? flight->tries : 0;
}

#define say(flight, kind, ...) \
	llmb_store_event((flight)->row->job, (flight)->row->id, kind, __VA_ARGS__)

/* ---- the ground ---- */

/* In a turn. */
static LlmbJob *
its_job(const LlmbFlight *flight)
{
	LlmbJob    *job = llmb_store_job(flight->row->job);

	if (job == NULL)
		elog(ERROR, "batch " INT64_FORMAT " has no job", flight->row->id);
	return job;
}

/* In a turn: spending stops until somebody resumes the job. */
static void
pause_job(LlmbFlight *flight, const LlmbJob *job, const char *reason)
{
	if (strcmp(job->state, "waiting") == 0 || strcmp(job->state, "running") == 0)
	{
		llmb_store_job_state(job->id, "paused", reason);
		say(flight, "paused", "%s", reason);
	}
	wait_ms(flight, 60000);
}

static const char *
find_ground(LlmbFlight *flight, Ground *ground)
{
	const LlmbServer *server;
	bool		missing;
	char	   *reason;

	ground->model = llmb_to_utf8(ground->job->model);
	ground->owner = get_role_oid(ground->job->owner, true);
	if (!OidIsValid(ground->owner))
		return psprintf("role \"%s\" does not exist any more", ground->job->owner);
	server = ground->server = llmb_server_by_name(flight->row->server);
	if (server == NULL)
		return psprintf("server \"%s\" does not exist any more", flight->row->server);
	if (server->provider == NULL)
		return psprintf("api \"%s\" is not supported", server->api);
	if (!server->enabled)
		return psprintf("server \"%s\" is disabled", server->name);
	if (llmb_foreign_server_aclcheck(server->oid, ground->owner) != ACLCHECK_OK)
		return psprintf("role \"%s\" has lost USAGE on server \"%s\"", ground->job->owner, server->name);
	if (!server->provider->needs_key)
		return NULL;
	ground->key = llmb_server_key(server, ground->owner, true, &missing, &reason);
	return ground->key ? NULL : reason;
}

/*
 * In a turn.  False when the step cannot be done now; then the time of the
 * next look is set, and the job tells why.
 */
static bool
stand(LlmbFlight *flight, Ground *ground, bool spending)
{
	const char *reason;

	memset(ground, 0, sizeof(Ground));
	ground->job = its_job(flight);
	if (!ground->job->ours)
	{
		flight->abandoned = strcmp(ground->job->state, "cancelling") == 0;
		/* a copy leaves the provider to its original, until it is resumed */
		wait_ms(flight, flight->abandoned ? 0 : 60000);
		return false;
	}
	reason = find_ground(flight, ground);
	if (reason)
	{
		pause_job(flight, ground->job, reason);
		return false;
	}
	if (spending && strcmp(ground->job->state, "paused") == 0)
	{
		wait_ms(flight, 60000);
		return false;
	}
	return true;
}

/* ---- calls ---- */

static void
fill_ref(const LlmbFlight *flight, const Ground *ground, LlmbBatchRef *ref)
{
	const LlmbBatchRow *row = flight->row;
	const LlmbServer *server = ground->server;

	memset(ref, 0, sizeof(*ref));
	/* each create has a label of its own: a failed one must not be adopted */
	ref->token = psprintf("%s_%d", row->token, row->creates);
	ref->attempt = row->attempt;
	ref->model = ground->model;
	ref->completion_window = server->completion_window;
	ref->organization = server->organization;
	ref->project = server->project;
	ref->api_version = server->api_version;
	ref->remote_input = row->remote_input;
	ref->remote_id = row->remote_id;
	ref->remote_output = row->remote_output;
	ref->remote_errors = row->remote_errors;
	ref->part = flight->part;
	ref->cursor = flight->cursor;
	ref->item_count = row->item_count;
	ref->file_bytes = row->file_bytes;
	ref->created_ms = epoch_ms(row->submitted_at);
	ref->cancelled_ms = epoch_ms(row->cancelled_at);
	ref->latency_ms = server->latency_ms;
	ref->failure_rate = server->failure_rate;
	ref->seed = server->seed;
}

static bool
start_call(LlmbFlight *flight, const Ground *ground, LlmbVerb verb)
{
	LlmbBatchRef ref;

	fill_ref(flight, ground, &ref);
	return llmb_call_start(&flight->party, ground->server, verb, &ref, ground->key, flight->spool);
}

/* A call that changes nothing here: ground, then go. */
static void
simple_call(LlmbFlight *flight, LlmbVerb verb, const char *doing)
{
	Ground		ground;
	bool		ready;

	llmb_turn_begin(doing);
	ready = stand(flight, &ground, false);
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, verb))
		elog(ERROR, "provider \"%s\" lacks a call", ground.server->api);
}

/* ---- the request file ---- */

typedef struct Spooling
{
	LlmbFlight *flight;
	const Ground *ground;
	LlmbJobDef *def;
	StringInfoData line;
} Spooling;

static bool
spool_prompt(const LlmbPrompt *prompt, void *arg)
{
	Spooling   *spooling = arg;
	LlmbFlight *flight = spooling->flight;
	char		custom_id[80];

	snprintf(custom_id, sizeof(custom_id), "%s-%d", flight->row->token, prompt->ordinal);
	resetStringInfo(&spooling->line);
	llmb_put_request(&spooling->line, spooling->ground->server->provider, spooling->ground->job->model,
					 spooling->def, prompt, custom_id);
	llmb_spool_write(flight->spool, spooling->line.data, spooling->line.len);
	return true;
}

/* In a turn: the file of a planned batch again, after a restart. */
static void
spool_again(LlmbFlight *flight, const Ground *ground)
{
	Spooling	spooling = {.flight = flight, .ground = ground};

	if (flight->spool)
		return;
	spooling.def = llmb_store_job_def(flight->row->job);
	flight->spool = llmb_spool_new(flight->context);
	initStringInfo(&spooling.line);
	llmb_store_batch_prompts(flight->row->id, spool_prompt, &spooling);
	flight->row->file_bytes = llmb_spool_bytes(flight->spool);
}

static void
drop_spool(LlmbFlight *flight)
{
	llmb_spool_free(flight->spool);
	flight->spool = NULL;
}

/* ---- planned, uploading, submitting ---- */

/* In a turn: a batch that never reached the provider ends. */
static void
cancel_unsent(LlmbFlight *flight)
{
	LlmbDelta	delta = {.in_flight = -flight->row->item_count};

	if (flight->cancel_code == LLMB_CANCELLED_ITEM)
		delta.cancelled = flight->row->item_count;
	else
		delta.failed = flight->row->item_count;
	llmb_call_drop(&flight->party);
	become(flight, LLMB_CANCELLED);
	llmb_store_end_unsent(flight->row, flight->cancel_code);
	llmb_store_count(flight->row->job, &delta);
	say(flight, "cancelled", "%s before it was sent", llmb_code_name(flight->cancel_code));
	drop_spool(flight);
}

/*
 * The intent is committed, then the create goes out.  One at a time per
 * server and owner, so that what is looked for after a break is one batch.
 */
static void
create(LlmbFlight *flight)
{
	Ground		ground;
	bool		ready;

	if (llmb_create_in_flight(flight))
	{
		wait_ms(flight, 200);
		return;
	}
	llmb_turn_begin("submitting a batch");
	if (flight->cancel)
	{
		cancel_unsent(flight);
		llmb_turn_commit();
		return;
	}
	ready = stand(flight, &ground, true);
	if (ready)
	{
		flight->row->creates++;
		flight->row->intent_at = GetCurrentTimestamp();
		become(flight, LLMB_SUBMITTING);
		flight->fresh_intent = true;
	}
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, LLMB_CALL_CREATE))
		elog(ERROR, "provider \"%s\" cannot create a batch", ground.server->api);
}

static void
upload(LlmbFlight *flight)
{
	Ground		ground;
	bool		ready;

	llmb_turn_begin("preparing a request file");
	if (flight->cancel)
	{
		cancel_unsent(flight);
		llmb_turn_commit();
		return;
	}
	ready = stand(flight, &ground, true);
	if (ready && flight->row->remote_input == NULL)
	{
		spool_again(flight, &ground);
		become(flight, LLMB_UPLOADING);
	}
	llmb_turn_commit();
	if (ready && (flight->row->remote_input || !start_call(flight, &ground, LLMB_CALL_UPLOAD)))
		create(flight);
}

static void
submit_again(LlmbFlight *flight)
{
	if (flight->fresh_intent)
	{
		create(flight);
		return;
	}
	llmb_turn_begin("looking for a batch");
	become(flight, LLMB_VERIFYING);
	say(flight, "verifying", "the worker stopped while the batch was being created: looking for it at the provider");
	llmb_turn_commit();
}

/* ---- in progress ---- */

static void
check_timeout(LlmbFlight *flight)
{
	Ground		ground;

	if (flight->cancel || flight->row->state != LLMB_IN_PROGRESS)
		return;
	llmb_turn_begin("looking after a batch");
	if (stand(flight, &ground, false) &&
		GetCurrentTimestamp() > TimestampTzPlusMilliseconds(flight->row->submitted_at, ground.server->batch_timeout_ms))
	{
		flight->row->error_code = keep(flight, llmb_code_name(LLMB_TIMEOUT));
		become(flight, LLMB_IN_PROGRESS);
		say(flight, "timeout", "not ended within batch_timeout: it is being cancelled, what is finished is kept");
		llmb_flight_cancel(flight, LLMB_TIMEOUT);
	}
	llmb_turn_commit();
}

static void
poll_or_cancel(LlmbFlight *flight)
{
	Ground		ground;
	bool		ready;

	check_timeout(flight);
	if (!flight->cancel)
	{
		simple_call(flight, LLMB_CALL_POLL, "polling a batch");
		return;
	}
	llmb_turn_begin("cancelling a batch");
	ready = stand(flight, &ground, false);
	if (ready)
	{
		flight->row->cancelled_at = GetCurrentTimestamp();
		flight->cancel_sent = true;
		become(flight, LLMB_CANCELLING);
		say(flight, "cancelling", "the provider was asked to cancel the batch");
	}
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, LLMB_CALL_CANCEL))
		wait_ms(flight, ground.server->poll_min_ms);
}

/* ---- fetching ---- */

static void
begin_fetching(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;
	MemoryContext old;
	LlmbJob    *job;

	llmb_turn_begin("beginning to fetch results");
	if (flight->row->state == LLMB_ENDED)
		become(flight, LLMB_FETCHING);
	job = its_job(flight);
	if (flight->intake_context == NULL)
		flight->intake_context = AllocSetContextCreate(flight->context, "llm_batch intake", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(flight->intake_context);
	old = MemoryContextSwitchTo(flight->intake_context);
	memset(intake, 0, sizeof(*intake));
	intake->batch = flight->row;
	intake->server = llmb_server_by_name(flight->row->server);
	intake->def = llmb_store_job_def(flight->row->job);
	intake->owner = get_role_oid(job->owner, true);
	intake->seen = palloc0(sizeof(bool) * Max(flight->row->item_count, 1));
	MemoryContextSwitchTo(old);
	if (intake->server == NULL || intake->server->provider == NULL)
		pause_job(flight, job, psprintf("server \"%s\" does not exist any more", flight->row->server));
	else
	{
		intake->free = intake->server->provider->answer != NULL;
		intake->no_retry = strcmp(job->state, "cancelling") == 0;
		intake->cancelled_as = LLMB_CANCELLED_ITEM;
		if (!intake->no_retry && flight->row->error_code)
			(void) llmb_code_parse(flight->row->error_code, &intake->cancelled_as);
		intake->retry_ms = (int) llmb_backoff_ms(flight->row->attempt, intake->server->retry_base_ms,
												 intake->server->retry_max_ms, pg_prng_double(&pg_global_prng_state));
		intake->seen_count = llmb_store_seen(flight->row, intake->seen);
	}
	llmb_turn_commit();
	flight->part = 0;
}

/*
 * The provider refused the batch as a whole.  Where it names lines, only
 * their items are at fault; the others go again.
 */
static void
decide_refused(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;
	LlmbCode	code = LLMB_PROVIDER_ERROR;

	(void) llmb_code_parse(flight->row->error_code ? flight->row->error_code : "provider_error", &code);
	if (code == LLMB_INVALID_REQUEST && flight->bad_line_count > 0)
	{
		llmb_take_named(intake, flight->bad_lines, flight->bad_line_count, code, flight->row->reason);
		llmb_take_missing(intake, LLMB_PROVIDER_ERROR, true, "refused together with other items of its batch");
	}
	else
		llmb_take_missing(intake, code, false, flight->row->reason);
}

/*
 * The provider says that it has run more than its files hold.  Which of the
 * items without a line were run is not known; all of them may have been.
 */
static void
decide_lost(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;
	int			missing = flight->row->item_count - intake->seen_count;
	LlmbDelta	delta = {.uncertain = missing};

	llmb_turn_begin("recording lost answers");
	llmb_store_count(flight->row->job, &delta);
	say(flight, "unanswered", "the provider counts %d items as run, its files have %d; unanswered: %d%s",
		flight->row->done + flight->row->failed, intake->seen_count, missing,
		intake->server->resend_unanswered ? ", sent again and perhaps paid twice (on_unanswered)" : "");
	llmb_turn_commit();
	llmb_take_missing(intake, LLMB_UNANSWERED, intake->server->resend_unanswered,
					  "the provider's files have no line for this item, though it counts it as run");
}

/* What became of items without a line, as the batch's end tells. */
static void
decide_missing(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;
	const char *end = flight->row->remote_end ? flight->row->remote_end : "ended";

	if (intake->seen_count == flight->row->item_count)
		return;
	if (strcmp(end, "failed") == 0)
		decide_refused(flight);
	else if (flight->row->done + flight->row->failed > intake->seen_count)
		decide_lost(flight);
	else if (strcmp(end, "expired") == 0)
		llmb_take_missing(intake, LLMB_EXPIRED, true, "the batch expired before this item was run");
	else if (strcmp(end, "cancelled") == 0)
		llmb_take_missing(intake, intake->cancelled_as, intake->cancelled_as != LLMB_CANCELLED_ITEM,
						  "the batch was cancelled before this item was run");
	else
		llmb_take_missing(intake, LLMB_PROVIDER_ERROR, true, "the provider's files have no line for this item");
}

/* Our own input file goes; that the provider keeps it longer is no harm. */
static void
finalize(LlmbFlight *flight)
{
	const char *end = flight->row->remote_end ? flight->row->remote_end : "ended";
	Ground		ground = {0};
	bool		clean;

	decide_missing(flight);
	llmb_turn_begin("finalizing a batch");
	become(flight, strcmp(end, "failed") == 0 ? LLMB_FAILED :
		   strcmp(end, "cancelled") == 0 ? LLMB_CANCELLED : LLMB_FINALIZED);
	if (flight->intake.strange_lines > 0)
		say(flight, "strange_lines", "%d lines of the result files belong to no item, or to one that had its line",
			flight->intake.strange_lines);
	say(flight, llmb_batch_state_name(flight->row->state), "every item of the batch is decided");
	if (llmb_keep_prompts == LLMB_KEEP_JOB)
		llmb_store_purge_prompts(flight->row->id, flight->intake.answered == flight->row->item_count);
	ground.job = its_job(flight);
	clean = ground.job->ours && find_ground(flight, &ground) == NULL;
	llmb_turn_commit();
	drop_spool(flight);
	if (clean && flight->row->remote_input)
		(void) start_call(flight, &ground, LLMB_CALL_DELETE_FILE);
}

/* The provider in our own process answers line by line from the request file. */
static void
fetch_in_process(LlmbFlight *flight)
{
	const LlmbProvider *provider = flight->intake.server->provider;
	bool		begin = flight->spool == NULL || flight->part == 0;
	StringInfoData out;
	LlmbBatchRef ref;
	Ground		ground;
	bool		ready;
	char	   *line = NULL;
	size_t		len;

	llmb_turn_begin("answering in process");
	ready = stand(flight, &ground, false);
	if (ready)
		spool_again(flight, &ground);
	llmb_turn_commit();
	if (!ready)
		return;
	flight->part = 1;
	fill_ref(flight, &ground, &ref);
	initStringInfo(&out);
	for (int i = 0; i < IN_PROCESS_LINES; i++)
	{
		line = llmb_spool_line(flight->spool, begin && i == 0, &len);
		if (line == NULL)
			break;
		provider->answer_line(&ref, llmb_now_ms(), line, len, &out);
	}
	llmb_take_lines(&flight->intake, out.data, out.len);
	if (line == NULL)
		finalize(flight);
}

static void
fetch(LlmbFlight *flight)
{
	const LlmbBatchRow *row = flight->row;

	if (flight->intake.batch == NULL)
		begin_fetching(flight);
	if (flight->intake.server == NULL || flight->intake.server->provider == NULL)
	{
		memset(&flight->intake, 0, sizeof(LlmbIntake));
		return;
	}
	if (row->remote_end && strcmp(row->remote_end, "failed") == 0)
	{
		/* after a restart: which lines was it refused for? */
		if (!flight->judged && row->remote_id)
			simple_call(flight, LLMB_CALL_POLL, "asking why a batch was refused");
		else
			finalize(flight);
	}
	else if (flight->intake.server->provider->answer)
		fetch_in_process(flight);
	else if (flight->part == 0 && row->remote_output == NULL)
		flight->part = 1;
	else if (flight->part == 1 && row->remote_errors == NULL)
		flight->part = 2;
	else if (flight->part < 2)
		simple_call(flight, LLMB_CALL_FETCH, "fetching results");
	else if (flight->intake.seen_count < row->done + row->failed && flight->rereads < MAX_REREADS)
	{
		/* a file may be short without an error of HTTP: read it again */
		flight->rereads++;
		flight->part = 0;
		wait_ms(flight, llmb_backoff_ms(flight->rereads, flight->intake.server->retry_base_ms,
										flight->intake.server->retry_max_ms, 0.5));
	}
	else
		finalize(flight);
}

/*
 * Cancelled in a copy: the batch at the provider is the original's, so it
 * ends in our tables alone.
 */
static void
abandon(LlmbFlight *flight)
{
	llmb_turn_begin("ending a copied batch");
	flight->row->remote_end = keep(flight, "cancelled");
	flight->row->done = flight->row->failed = 0;
	if (flight->row->state != LLMB_ENDED && flight->row->state != LLMB_FETCHING)
		become(flight, LLMB_ENDED);
	say(flight, "cancelled", "ended in this copy only; the original's batch goes on at the provider");
	llmb_turn_commit();
	begin_fetching(flight);
	if (flight->intake.server && flight->intake.server->provider)
		finalize(flight);
}

/* ---- the step ---- */

void
llmb_flight_step(LlmbFlight *flight)
{
	flight->next_at = 0;
	if (flight->abandoned)
	{
		abandon(flight);
		return;
	}
	switch (flight->row->state)
	{
		case LLMB_PLANNED:
		case LLMB_UPLOADING:
			upload(flight);
			break;
		case LLMB_SUBMITTING:
			submit_again(flight);
			break;
		case LLMB_VERIFYING:
			simple_call(flight, LLMB_CALL_LIST, "looking for a batch");
			break;
		case LLMB_IN_PROGRESS:
			poll_or_cancel(flight);
			break;
		case LLMB_CANCELLING:
			simple_call(flight, LLMB_CALL_POLL, "polling a batch");
			break;
		case LLMB_ENDED:
		case LLMB_FETCHING:
			fetch(flight);
			break;
		case LLMB_FINALIZED:
		case LLMB_FAILED:
		case LLMB_CANCELLED:
			break;
	}
}

/* ---- replies ---- */

/* What happened, in words that quote neither key nor prompt. */
static char *
in_words(const LlmbEnding *ending)
{
	if (ending->wire != LLMB_WIRE_OK)
		return pstrdup(ending->error);
	if (ending->reply.code)
		return psprintf("HTTP %d, %s", ending->status, ending->reply.code);
	return psprintf("HTTP %d", ending->status);
}

/* In a turn: the call comes again after a wait. */
static void
try_later(LlmbFlight *flight, const LlmbEnding *ending, const LlmbServer *server, const char *what)
{
	int64		ms = back_off_ms(flight, server, ending->reply.retry_after_ms);

	say(flight, "retry", "%s did not succeed (%s), try %d; the next in %.1f s",
		what, in_words(ending), flight->tries, ms / 1000.0);
	wait_ms(flight, ms);
}

/* In a turn: refused as a whole; the items are decided by the coming steps. */
static void
fail_batch(LlmbFlight *flight, LlmbCode code, const char *why)
{
	flight->row->remote_end = keep(flight, "failed");
	flight->row->error_code = keep(flight, llmb_code_name(code));
	flight->row->reason = keep(flight, why);
	flight->row->ended_at = GetCurrentTimestamp();
	become(flight, LLMB_ENDED);
	say(flight, "refused", "the batch failed as a whole: %s", why);
}

/* In a turn: faults that upload and create share.  Nothing was created. */
static void
refused(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground, const char *what)
{
	switch (ending->reply.fault)
	{
		case LLMB_FAULT_KEY:
		case LLMB_FAULT_QUOTA:
			become(flight, LLMB_PLANNED);
			pause_job(flight, ground->job,
					  psprintf("%s: the provider refused %s (%s)",
							   ending->reply.fault == LLMB_FAULT_KEY ? "auth" : "quota", what, in_words(ending)));
			break;
		case LLMB_FAULT_TOO_LARGE:
			fail_batch(flight, LLMB_TOO_LARGE, in_words(ending));
			break;
		case LLMB_FAULT_GONE:
		case LLMB_FAULT_REQUEST:
			fail_batch(flight, LLMB_INVALID_REQUEST, in_words(ending));
			break;
		default:
			try_later(flight, ending, ground->server, what);
	}
}

static void
upload_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	if (ending->wire != LLMB_WIRE_OK)
		try_later(flight, ending, ground->server, "the upload");
	else if (ending->reply.fault == LLMB_FAULT_NONE && ending->reply.file_id)
	{
		flight->row->remote_input = keep(flight, ending->reply.file_id);
		become(flight, LLMB_PLANNED);
		say(flight, "uploaded", "request file uploaded as %s", ending->reply.file_id);
		drop_spool(flight);
	}
	else
		refused(flight, ending, ground, "the upload");
}

/*
 * In a turn.  "No such thing" is believed when it was said three times, and
 * for longer than a new thing may take to appear.  Then it is final: the
 * items may have been run and paid, so sending them again is for a person to
 * decide.
 */
static void
gone(LlmbFlight *flight, const LlmbEnding *ending, const LlmbServer *server, const char *what)
{
	const char *why = psprintf("the provider does not know the %s any more (%s)", what, in_words(ending));

	if (flight->gone++ == 0)
		flight->gone_since = GetCurrentTimestamp();
	if (flight->gone < 3 ||
		GetCurrentTimestamp() < TimestampTzPlusMilliseconds(flight->gone_since, server->settle_time_ms))
	{
		try_later(flight, ending, server, psprintf("asking for the %s", what));
		return;
	}
	if (flight->row->state != LLMB_FETCHING)
	{
		fail_batch(flight, LLMB_PROVIDER_ERROR, why);
		return;
	}
	flight->row->remote_end = keep(flight, "failed");
	flight->row->error_code = keep(flight, llmb_code_name(LLMB_PROVIDER_ERROR));
	flight->row->reason = keep(flight, why);
	become(flight, LLMB_FETCHING);
	say(flight, "gone", "%s", why);
}

/* In a turn: the batch is there, and this is its id. */
static void
adopt(LlmbFlight *flight, const char *id, const char *how)
{
	flight->row->remote_id = keep(flight, id);
	flight->row->submitted_at = flight->row->intent_at ? flight->row->intent_at : GetCurrentTimestamp();
	flight->listings = 0;
	flight->cursor = NULL;
	become(flight, LLMB_IN_PROGRESS);
	say(flight, "submitted", "%s as %s", how, id);
}

static void
create_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	if (ending->wire == LLMB_WIRE_NOT_SENT)
		try_later(flight, ending, ground->server, "creating the batch");
	else if (ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_NONE && ending->reply.batch.id)
		adopt(flight, ending->reply.batch.id, "the provider took the batch");
	else if (ending->wire == LLMB_WIRE_OK && ending->status >= 400 && ending->status < 500 &&
			 ending->status != 408 && ending->status != 409)
		refused(flight, ending, ground, "creating the batch");
	else
	{
		/* it may have been created all the same: never send it twice */
		become(flight, LLMB_VERIFYING);
		say(flight, "verifying", "creating the batch was not answered (%s): looking for it at the provider",
			in_words(ending));
		wait_ms(flight, back_off_ms(flight, ground->server, ending->reply.retry_after_ms));
	}
}

/* In a turn: not in this listing.  Twice so, the second time late: absent. */
static void
not_listed(LlmbFlight *flight, const Ground *ground)
{
	TimestampTz certain = TimestampTzPlusMilliseconds(flight->row->intent_at,
													  ground->server->request_timeout_ms + ground->server->settle_time_ms);

	flight->cursor = NULL;
	if (++flight->listings >= 2 && GetCurrentTimestamp() >= certain)
	{
		flight->listings = 0;
		become(flight, LLMB_PLANNED);
		say(flight, "absent", "two complete listings do not show the batch: it is sent anew");
	}
	else if (GetCurrentTimestamp() >= certain)
		wait_ms(flight, ground->server->poll_min_ms);
	else
	{
		/* it may only be slow to appear: look again, ever more seldom */
		wait_ms(flight, back_off_ms(flight, ground->server, ground->server->poll_min_ms));
		flight->next_at = Min(flight->next_at, certain);
	}
}

static const LlmbRemoteBatch *
find_listed(const LlmbFlight *flight, const LlmbReply *reply, bool *past)
{
	char	   *label = psprintf("%s_%d", flight->row->token, flight->row->creates);
	int64		oldest = epoch_ms(flight->row->intent_at) / 1000 - CLOCK_SKEW_S;

	for (int i = 0; i < reply->listed_count; i++)
	{
		const LlmbRemoteBatch *listed = &reply->listed[i];

		if (listed->token && strcmp(listed->token, label) == 0)
			return listed;
		if (listed->created_s > 0 && listed->created_s < oldest)
			*past = true;
	}
	return NULL;
}

static void
list_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	const LlmbRemoteBatch *found;
	bool		past = false;

	if (ending->wire != LLMB_WIRE_OK || ending->reply.fault != LLMB_FAULT_NONE)
	{
		flight->cursor = NULL;
		try_later(flight, ending, ground->server, "listing batches");
		return;
	}
	found = find_listed(flight, &ending->reply, &past);
	if (found)
		adopt(flight, found->id, "found at the provider");
	else if (!past && ending->reply.next_cursor)
		flight->cursor = keep(flight, ending->reply.next_cursor);
	else
		not_listed(flight, ground);
}

/* In a turn. */
static void
still_running(LlmbFlight *flight, const LlmbRemoteBatch *remote, const LlmbServer *server, int64 asked_ms)
{
	LlmbBatchRow *row = flight->row;
	int64		elapsed = (GetCurrentTimestamp() - row->submitted_at) / 1000;
	int64		ms = llmb_poll_ms(elapsed, remote->done, remote->total, server->poll_min_ms, server->poll_max_ms,
								  pg_prng_double(&pg_global_prng_state));

	flight->tries = 0;
	wait_ms(flight, Max(ms, asked_ms));
	/* a cancel that was asked for meanwhile, or that never arrived */
	if (row->state == LLMB_CANCELLING && remote->state == LLMB_REMOTE_RUNNING && !flight->cancel_sent)
		become(flight, LLMB_IN_PROGRESS);
	if (flight->cancel && row->state == LLMB_IN_PROGRESS)
		wait_ms(flight, row->cancelled_at ? server->poll_min_ms : 0);
	/* an UPDATE per poll would bloat the table: one per twentieth will do */
	if (remote->done >= 0 && (remote->done + Max(remote->failed, 0) - row->done - row->failed) * 20 >= row->item_count)
	{
		row->done = remote->done;
		row->failed = Max(remote->failed, 0);
		become(flight, row->state);
	}
}

/*
 * Ended with answers, but without their file: that file may be late.  True
 * when it is worth to wait.
 */
static bool
file_is_late(LlmbFlight *flight, const LlmbRemoteBatch *remote, const LlmbServer *server)
{
	if (remote->done <= 0 || remote->output != NULL || server->provider->answer)
		return false;
	if (flight->gone++ == 0)
		flight->gone_since = GetCurrentTimestamp();
	if (GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(flight->gone_since, server->settle_time_ms))
		return false;
	wait_ms(flight, back_off_ms(flight, server, server->poll_min_ms));
	return true;
}

/* In a turn: the provider has ended. */
static void
has_ended(LlmbFlight *flight, const LlmbRemoteBatch *remote)
{
	LlmbBatchRow *row = flight->row;
	const char *end = remote->state == LLMB_REMOTE_EXPIRED ? "expired" :
		remote->state == LLMB_REMOTE_CANCELLED ? "cancelled" : "ended";

	row->remote_output = keep(flight, remote->output);
	row->remote_errors = keep(flight, remote->errors);
	row->remote_end = keep(flight, end);
	row->ended_at = GetCurrentTimestamp();
	if (remote->done >= 0)
		row->done = remote->done;
	if (remote->failed >= 0)
		row->failed = remote->failed;
	become(flight, LLMB_ENDED);
	say(flight, end, "%s: %d done, %d failed",
		remote->state == LLMB_REMOTE_EXPIRED ? "the batch expired at the provider" :
		remote->state == LLMB_REMOTE_CANCELLED ? "the batch was cancelled at the provider" :
		"the provider has ended the batch", row->done, row->failed);
}

static void
note_bad_lines(LlmbFlight *flight, const LlmbRemoteBatch *remote)
{
	flight->judged = true;
	flight->bad_line_count = remote->bad_line_count;
	memcpy(flight->bad_lines, remote->bad_lines, sizeof(flight->bad_lines));
}

/* In a turn: the provider ran nothing of it. */
static void
has_failed(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	const LlmbRemoteBatch *remote = &ending->reply.batch;
	const char *code = ending->reply.code ? ending->reply.code : "no code given";

	note_bad_lines(flight, remote);
	if ((remote->fault == LLMB_FAULT_QUOTA || remote->fault == LLMB_FAULT_KEY) && !flight->cancel)
	{
		flight->row->remote_id = NULL;
		become(flight, LLMB_PLANNED);
		pause_job(flight, ground->job, psprintf("quota: the provider refused the batch (%s)", code));
	}
	else if (remote->fault == LLMB_FAULT_QUEUE_FULL && !flight->cancel)
	{
		int64		ms = Max(back_off_ms(flight, ground->server, -1), ground->server->poll_max_ms);

		flight->row->remote_id = NULL;
		become(flight, LLMB_PLANNED);
		say(flight, "queue_full", "the provider's queue is full (%s); again in %.0f s", code, ms / 1000.0);
		wait_ms(flight, ms);
	}
	else
		fail_batch(flight, flight->cancel ? flight->cancel_code :
				   remote->fault == LLMB_FAULT_TOO_LARGE ? LLMB_TOO_LARGE : LLMB_INVALID_REQUEST, code);
}

static void
poll_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	const LlmbRemoteBatch *remote = &ending->reply.batch;
	bool		answered = ending->wire == LLMB_WIRE_OK;

	if (answered && ending->reply.fault == LLMB_FAULT_GONE)
	{
		gone(flight, ending, ground->server, "batch");
		return;
	}
	if (answered && flight->row->state == LLMB_FETCHING)
	{
		note_bad_lines(flight, remote);
		return;
	}
	if (answered && ending->reply.fault == LLMB_FAULT_NONE && remote->id)
	{
		switch (remote->state)
		{
			case LLMB_REMOTE_ENDED:
			case LLMB_REMOTE_EXPIRED:
			case LLMB_REMOTE_CANCELLED:
				if (!file_is_late(flight, remote, ground->server))
					has_ended(flight, remote);
				break;
			case LLMB_REMOTE_FAILED:
				has_failed(flight, ending, ground);
				break;
			default:
				flight->gone = 0;
				still_running(flight, remote, ground->server, ending->reply.retry_after_ms);
		}
	}
	else if (ending->reply.fault == LLMB_FAULT_KEY || ending->reply.fault == LLMB_FAULT_QUOTA)
	{
		pause_job(flight, ground->job, psprintf("auth: the provider refused a poll (%s)", in_words(ending)));
		wait_ms(flight, Max(back_off_ms(flight, ground->server, -1), ground->server->poll_min_ms));
	}
	else
		try_later(flight, ending, ground->server, "the poll");
}

static void
cancel_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	/* refused means that it had ended: the poll tells */
	if (ending->wire == LLMB_WIRE_OK && ending->status < 500 && ending->status != 429)
		wait_ms(flight, ground->server->poll_min_ms);
	else
	{
		flight->cancel_sent = false;
		become(flight, LLMB_IN_PROGRESS);
		try_later(flight, ending, ground->server, "the cancel");
	}
}

static void
fetch_ended(LlmbFlight *flight, const LlmbEnding *ending, const Ground *ground)
{
	if (ending->wire == LLMB_WIRE_OK && ending->status == 200)
	{
		flight->part++;
		flight->tries = 0;
		flight->gone = 0;
	}
	else if (ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_GONE)
		gone(flight, ending, ground->server, "result file");
	else
		try_later(flight, ending, ground->server, "fetching results");
}

static void
flight_ended(LlmbParty *party, LlmbEnding *ending)
{
	LlmbFlight *flight = (LlmbFlight *) party;
	Ground		ground;

	if (ending->verb == LLMB_CALL_DELETE_FILE)
		return;
	llmb_turn_begin("recording a provider's reply");
	memset(&ground, 0, sizeof(ground));
	ground.job = its_job(flight);
	ground.server = llmb_server_by_name(flight->row->server);
	if (ground.server == NULL)
		wait_ms(flight, 60000);
	else
	{
		switch (ending->verb)
		{
			case LLMB_CALL_UPLOAD:
				upload_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_CREATE:
				create_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_LIST:
				list_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_POLL:
				poll_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_CANCEL:
				cancel_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_FETCH:
				fetch_ended(flight, ending, &ground);
				break;
			default:
				break;
		}
	}
	llmb_turn_commit();
}

static void
flight_lines(LlmbParty *party, char *lines, size_t len)
{
	llmb_take_lines(&((LlmbFlight *) party)->intake, lines, len);
}

/* ---- beginnings and ends ---- */

void
llmb_flight_init(LlmbFlight *flight)
{
	flight->party.lines = flight_lines;
	flight->party.ended = flight_ended;
	flight->party.failed = llmb_flight_failed;
}

static void
reload(void *arg)
{
	LlmbFlight *flight = arg;
	LlmbBatchRow *row;
	MemoryContext old;

	llmb_turn_begin("looking after a batch");
	old = MemoryContextSwitchTo(flight->context);
	row = llmb_store_batch(flight->row->id);
	MemoryContextSwitchTo(old);
	/* somebody removed it: nothing is left to do for us */
	if (row == NULL)
		flight->row->state = LLMB_CANCELLED;
	else
		flight->row = row;
	llmb_turn_commit();
}

void
llmb_flight_failed(LlmbParty *party)
{
	LlmbFlight *flight = (LlmbFlight *) party;

	llmb_call_drop(party);
	flight->judged = false;
	/* whether a create was out is not known any more */
	flight->fresh_intent = false;
	flight->cursor = NULL;
	flight->part = 0;
	memset(&flight->intake, 0, sizeof(LlmbIntake));
	(void) llmb_guarded(reload, flight, "llm_batch: reading a batch again");
	flight->tries++;
	wait_ms(flight, llmb_backoff_ms(flight->tries, 1000, 60000, 0.5));
}

void
llmb_flight_cancel(LlmbFlight *flight, LlmbCode code)
{
	bool		unsent = flight->row->state == LLMB_PLANNED || flight->row->state == LLMB_UPLOADING ||
		(flight->row->state == LLMB_SUBMITTING && flight->fresh_intent && !llmb_call_busy(&flight->party));

	if (flight->row->state == LLMB_ENDED || flight->row->state == LLMB_FETCHING)
	{
		flight->intake.no_retry = code == LLMB_CANCELLED_ITEM;
		return;
	}
	flight->cancel = true;
	flight->cancel_code = code;
	if (unsent)
		cancel_unsent(flight);
	else if (!llmb_call_busy(&flight->party))
		flight->next_at = 0;
}
