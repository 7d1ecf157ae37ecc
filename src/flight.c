/*-------------------------------------------------------------------------
 *
 * flight.c
 *		One batch's way: what is done in each state.  What the replies mean
 *		stands in replies.c.
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
#include "model.h"
#include "realtime.h"
#include "request.h"
#include "turn.h"
#include "verify.h"

/* Lines that the in-process provider answers in one step. */
#define IN_PROCESS_LINES 500
/* A result file that has fewer lines than the provider counts is read again. */
#define MAX_REREADS		3
/* So many errors of our own in a row pause the job. */
#define MAX_THROWS		3

/* ---- small things ---- */

void
llmb_flight_wait(LlmbFlight *flight, int64 ms)
{
	flight->next_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

int64
llmb_flight_back_off(LlmbFlight *flight, const LlmbServer *server, int64 asked_ms)
{
	int64		ms;

	flight->tries++;
	ms = llmb_backoff_ms(flight->tries, server->retry_base_ms, server->retry_max_ms,
						 pg_prng_double(&pg_global_prng_state));
	return Max(ms, asked_ms);
}

/* A string that lives as long as the flight. */
char *
llmb_flight_keep(LlmbFlight *flight, const char *text)
{
	return text ? MemoryContextStrdup(flight->context, text) : NULL;
}

int64
llmb_epoch_ms(TimestampTz when)
{
	return when ? (int64) (when / 1000) +
		((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000 : 0;
}

/* In a turn: the one place where a batch's state changes. */
void
llmb_flight_become(LlmbFlight *flight, LlmbBatchState state)
{
	LlmbBatchState was = flight->row->state;

	if (state != was && !llmb_batch_can_become(was, state))
		elog(ERROR, "a batch cannot become %s from %s",
			 llmb_batch_state_name(state), llmb_batch_state_name(was));
	flight->row->state = state;
	llmb_store_save_batch(flight->row, was);
	/* the next batch may be planned when this one is on its way */
	if (state != was)
		llmb_lifecycle_look_at_jobs();
	if (state != was)
		flight->tries = flight->throws = 0;
}

/* ---- the ground ---- */

/* In a turn. */
LlmbJob *
llmb_flight_job(const LlmbFlight *flight)
{
	LlmbJob    *job = llmb_store_job(flight->row->job);

	if (job == NULL)
		elog(ERROR, "batch " INT64_FORMAT " has no job", flight->row->id);
	return job;
}

/* In a turn: spending stops until somebody resumes the job. */
void
llmb_flight_pause(LlmbFlight *flight, const LlmbJob *job, const char *reason)
{
	if (strcmp(job->state, "waiting") == 0 || strcmp(job->state, "running") == 0)
	{
		llmb_store_job_state(job->id, "paused", reason);
		llmb_flight_say(flight, "paused", "%s", reason);
	}
	/* its end waits for the same */
	else if (strcmp(job->state, "cancelling") == 0 && (job->reason == NULL || strcmp(job->reason, reason) != 0))
	{
		llmb_store_job_state(job->id, "cancelling", reason);
		llmb_flight_say(flight, "waiting", "cannot be cancelled yet: %s", reason);
	}
	llmb_flight_wait(flight, 60000);
}

static const char *
find_ground(LlmbFlight *flight, LlmbGround *ground)
{
	const LlmbServer *server;
	bool		missing;
	char	   *reason;

	ground->owner = get_role_oid(ground->job->owner, true);
	if (!OidIsValid(ground->owner))
		return psprintf("role \"%s\" does not exist any more", ground->job->owner);
	server = ground->server = llmb_server_by_name(flight->row->server);
	if (server == NULL)
		return psprintf("server \"%s\" does not exist any more", flight->row->server);
	ground->model = llmb_model(server, ground->job->model);
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
bool
llmb_flight_stand(LlmbFlight *flight, LlmbGround *ground, bool spending)
{
	const char *reason;

	memset(ground, 0, sizeof(LlmbGround));
	ground->job = llmb_flight_job(flight);
	flight->foreign = !ground->job->ours;
	if (flight->foreign)
	{
		flight->abandoned = strcmp(ground->job->state, "cancelling") == 0;
		/* a copy leaves the provider to its original, until it is resumed */
		llmb_flight_wait(flight, flight->abandoned ? 0 : 60000);
		return false;
	}
	reason = find_ground(flight, ground);
	if (reason)
	{
		llmb_flight_pause(flight, ground->job, reason);
		return false;
	}
	if (spending && strcmp(ground->job->state, "paused") == 0)
	{
		llmb_flight_wait(flight, 60000);
		return false;
	}
	return true;
}

/* ---- calls ---- */

void
llmb_flight_ref(const LlmbFlight *flight, const LlmbGround *ground, LlmbBatchRef *ref)
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
	ref->dialect = &server->dialect;
	ref->base_url = server->base_url;
	ref->upload_url = flight->upload_url;
	ref->remote_input = row->remote_input;
	ref->remote_id = row->remote_id;
	ref->remote_output = row->remote_output;
	if (row->state == LLMB_VERIFYING && llmb_verify_candidate(flight))
		ref->remote_id = ref->remote_output = llmb_verify_candidate(flight);
	ref->remote_errors = row->remote_errors;
	ref->part = flight->part;
	ref->cursor = flight->cursor;
	ref->item_count = row->item_count;
	ref->file_bytes = row->file_bytes;
	ref->created_ms = llmb_epoch_ms(row->submitted_at);
	ref->cancelled_ms = llmb_epoch_ms(row->cancelled_at);
	ref->latency_ms = server->latency_ms;
	ref->failure_rate = server->failure_rate;
	ref->seed = server->seed;
}

static bool
start_call(LlmbFlight *flight, const LlmbGround *ground, LlmbVerb verb)
{
	LlmbBatchRef ref;

	llmb_flight_ref(flight, ground, &ref);
	return llmb_call_start(&flight->party, ground->server, verb, &ref, ground->key, flight->spool);
}

/* A call that changes nothing here: ground, then go. */
static void
simple_call(LlmbFlight *flight, LlmbVerb verb, const char *doing)
{
	LlmbGround		ground;
	bool		ready;

	llmb_turn_begin(doing);
	ready = llmb_flight_stand(flight, &ground, false);
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, verb))
		elog(ERROR, "provider \"%s\" lacks a call", ground.server->api);
}

/* ---- the request file ---- */

typedef struct Spooling
{
	LlmbFlight *flight;
	const LlmbGround *ground;
	LlmbJobDef *def;
	bool		bodies;			/* of real-time requests */
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
	llmb_put_request(&spooling->line, spooling->ground->server, spooling->ground->model,
					 spooling->def, prompt, spooling->bodies ? NULL : custom_id, llmb_spool_bytes(flight->spool) == 0);
	if (spooling->bodies)
		appendStringInfoChar(&spooling->line, '\n');
	llmb_spool_write(flight->spool, spooling->line.data, spooling->line.len);
	return true;
}

/* In a turn: the file of a planned batch again, after a restart. */
void
llmb_flight_spool(LlmbFlight *flight, const LlmbGround *ground)
{
	Spooling	spooling = {.flight = flight, .ground = ground};

	if (flight->spool)
		return;
	spooling.def = llmb_store_job_def(flight->row->job);
	spooling.bodies = llmb_sends_bodies(ground->server, flight->row->realtime);
	flight->spool = llmb_spool_new(flight->context);
	initStringInfo(&spooling.line);
	llmb_store_batch_prompts(flight->row->id, spool_prompt, &spooling);
	flight->row->file_bytes = llmb_spool_bytes(flight->spool);
}

void
llmb_flight_drop_spool(LlmbFlight *flight)
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
	llmb_flight_become(flight, LLMB_CANCELLED);
	llmb_store_end_unsent(flight->row, flight->cancel_code);
	llmb_store_count(flight->row->job, &delta);
	llmb_flight_say(flight, "cancelled", "%s before it was sent", llmb_code_name(flight->cancel_code));
	llmb_flight_drop_spool(flight);
}

/*
 * The intent is committed, then the create goes out.  One at a time per
 * server and owner, so that what is looked for after a break is one batch.
 */
static void
create(LlmbFlight *flight)
{
	LlmbGround		ground;
	bool		ready;

	if (llmb_create_in_flight(flight))
	{
		llmb_flight_wait(flight, 200);
		return;
	}
	llmb_turn_begin("submitting a batch");
	if (flight->cancel)
	{
		cancel_unsent(flight);
		llmb_turn_commit();
		return;
	}
	ready = llmb_flight_stand(flight, &ground, true);
	if (ready)
	{
		if (ground.server->provider->inline_requests)
			llmb_flight_spool(flight, &ground);
		flight->row->creates++;
		flight->row->intent_at = GetCurrentTimestamp();
		llmb_flight_become(flight, LLMB_SUBMITTING);
		flight->fresh_intent = true;
	}
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, LLMB_CALL_CREATE))
		elog(ERROR, "provider \"%s\" cannot create a batch", ground.server->api);
}

/* Keys and prompts do not travel to where a reply says, but to base_url. */
static void
refuse_address(LlmbFlight *flight)
{
	llmb_turn_begin("refusing an address");
	llmb_flight_refused(flight, LLMB_INVALID_REQUEST, "the provider named an address on another host for the request file");
	llmb_turn_commit();
}

static void
upload(LlmbFlight *flight)
{
	LlmbGround		ground;
	bool		with_upload = false;
	bool		ready;

	llmb_turn_begin("preparing a request file");
	if (flight->cancel)
	{
		cancel_unsent(flight);
		llmb_turn_commit();
		return;
	}
	ready = llmb_flight_stand(flight, &ground, true);
	if (ready)
		with_upload = flight->row->remote_input == NULL && !ground.server->provider->inline_requests;
	if (with_upload)
	{
		llmb_flight_spool(flight, &ground);
		llmb_flight_become(flight, LLMB_UPLOADING);
	}
	llmb_turn_commit();
	if (with_upload && !start_call(flight, &ground, flight->upload_url ? LLMB_CALL_UPLOAD_DATA : LLMB_CALL_UPLOAD))
		refuse_address(flight);
	if (ready && !with_upload)
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
	llmb_flight_become(flight, LLMB_VERIFYING);
	llmb_flight_say(flight, "verifying", "the worker stopped while the batch was being created: looking for it at the provider");
	llmb_turn_commit();
}

/* ---- in progress ---- */

static void
check_timeout(LlmbFlight *flight)
{
	LlmbGround		ground;

	if (flight->cancel || flight->row->state != LLMB_IN_PROGRESS)
		return;
	llmb_turn_begin("looking after a batch");
	if (llmb_flight_stand(flight, &ground, false) &&
		GetCurrentTimestamp() > TimestampTzPlusMilliseconds(flight->row->submitted_at, ground.server->batch_timeout_ms))
	{
		flight->row->error_code = llmb_flight_keep(flight, llmb_code_name(LLMB_TIMEOUT));
		llmb_flight_become(flight, LLMB_IN_PROGRESS);
		llmb_flight_say(flight, "timeout", "not ended within batch_timeout: it is being cancelled, what is finished is kept");
		llmb_flight_cancel(flight, LLMB_TIMEOUT);
	}
	llmb_turn_commit();
}

static void
poll_or_cancel(LlmbFlight *flight)
{
	LlmbGround		ground;
	bool		ready;

	check_timeout(flight);
	if (!flight->cancel)
	{
		simple_call(flight, LLMB_CALL_POLL, "polling a batch");
		return;
	}
	llmb_turn_begin("cancelling a batch");
	ready = llmb_flight_stand(flight, &ground, false);
	if (ready)
	{
		flight->row->cancelled_at = GetCurrentTimestamp();
		flight->cancel_sent = true;
		llmb_flight_become(flight, LLMB_CANCELLING);
		llmb_flight_say(flight, "cancelling", "the provider was asked to cancel the batch");
	}
	llmb_turn_commit();
	if (ready && !start_call(flight, &ground, LLMB_CALL_CANCEL))
		llmb_flight_wait(flight, ground.server->poll_min_ms);
}

/* ---- fetching ---- */

bool
llmb_flight_open_intake(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;
	LlmbJob    *job = llmb_flight_job(flight);
	MemoryContext old;

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
	{
		llmb_flight_pause(flight, job, psprintf("server \"%s\" does not exist any more", flight->row->server));
		return false;
	}
	intake->free = intake->server->provider->answer != NULL;
	intake->realtime = flight->row->realtime;
	intake->fallback = intake->server->fallback;
	intake->no_retry = strcmp(job->state, "cancelling") == 0;
	intake->cancelled_as = LLMB_CANCELLED_ITEM;
	if (!intake->no_retry && flight->row->error_code)
		(void) llmb_code_parse(flight->row->error_code, &intake->cancelled_as);
	intake->retry_ms = (int) llmb_backoff_ms(flight->row->attempt, intake->server->retry_base_ms,
											 intake->server->retry_max_ms, pg_prng_double(&pg_global_prng_state));
	intake->seen_count = llmb_store_seen(flight->row, intake->seen);
	return true;
}

static void
begin_fetching(LlmbFlight *flight)
{
	llmb_turn_begin("beginning to fetch results");
	if (flight->row->state == LLMB_ENDED)
		llmb_flight_become(flight, LLMB_FETCHING);
	(void) llmb_flight_open_intake(flight);
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
		llmb_take_named(intake, flight->bad_lines, flight->bad_line_count, code, false, flight->row->reason);
		llmb_take_missing(intake, LLMB_PROVIDER_ERROR, true, "refused together with other items of its batch");
	}
	else if (code == LLMB_PROVIDER_ERROR)
	{
		/*
		 * The provider lost it; what it had run by then was paid.  When all
		 * of it was, and only its results are gone, a person has to decide.
		 */
		bool		all_ran = flight->row->remote_output || flight->row->remote_errors;

		intake->unfit = true;
		llmb_take_missing(intake, LLMB_UNANSWERED, intake->server->resend_unanswered && !all_ran, flight->row->reason);
	}
	else
	{
		/* not the items' fault, as far as can be known: one by one will tell */
		intake->unfit = true;
		llmb_take_missing(intake, code, true, flight->row->reason);
	}
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

	llmb_turn_begin("recording lost answers");
	llmb_flight_say(flight, "unanswered", "the provider counts %d items as run, its files have %d; unanswered: %d%s",
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
						  flight->row->realtime ? "its end came before it was sent" :
						  "the batch was cancelled before this item was run");
	else
		llmb_take_missing(intake, LLMB_PROVIDER_ERROR, true, "the provider's files have no line for this item");
}

/* In a turn: what the batch did not bring may not go to real time. */
static void
pause_stuck(LlmbFlight *flight)
{
	const char *code;

	if (flight->intake.stuck == LLMB_OK)
		return;
	code = llmb_code_name(flight->intake.stuck);
	llmb_flight_pause(flight, llmb_flight_job(flight),
					  psprintf("%s: items are left that a batch did not bring, and option fallback of server \"%s\" is none; "
							   "resume() sends them in a batch once more", code, flight->row->server));
}

/* Our own input file goes; that the provider keeps it longer is no harm. */
void
llmb_flight_finalize(LlmbFlight *flight)
{
	const char *end = flight->row->remote_end ? flight->row->remote_end : "ended";
	LlmbGround		ground = {0};
	bool		clean;

	decide_missing(flight);
	llmb_turn_begin("finalizing a batch");
	llmb_flight_become(flight, strcmp(end, "failed") == 0 ? LLMB_FAILED :
		   strcmp(end, "cancelled") == 0 ? LLMB_CANCELLED : LLMB_FINALIZED);
	if (flight->intake.strange_lines > 0)
		llmb_flight_say(flight, "strange_lines", "%d lines of the result files belong to no item, or to one that had its line",
			flight->intake.strange_lines);
	llmb_flight_say(flight, llmb_batch_state_name(flight->row->state), "every item of the batch is decided");
	if (flight->intake.server)
		llmb_learn_from(&flight->intake);
	pause_stuck(flight);
	if (llmb_keep_prompts == LLMB_KEEP_JOB)
		llmb_store_purge_prompts(flight->row, flight->intake.answered == flight->row->item_count);
	ground.job = llmb_flight_job(flight);
	clean = ground.job->ours && find_ground(flight, &ground) == NULL;
	llmb_turn_commit();
	llmb_flight_drop_spool(flight);
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
	LlmbGround		ground;
	bool		ready;
	char	   *line = NULL;
	size_t		len;

	llmb_turn_begin("answering in process");
	ready = llmb_flight_stand(flight, &ground, false);
	if (ready)
		llmb_flight_spool(flight, &ground);
	llmb_turn_commit();
	if (!ready)
		return;
	flight->part = 1;
	llmb_flight_ref(flight, &ground, &ref);
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
		llmb_flight_finalize(flight);
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
			llmb_flight_finalize(flight);
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
		flight->intake.strange_lines = 0;
		flight->part = 0;
		llmb_flight_wait(flight, llmb_backoff_ms(flight->rereads, flight->intake.server->retry_base_ms,
										flight->intake.server->retry_max_ms, 0.5));
	}
	else
		llmb_flight_finalize(flight);
}

/*
 * Cancelled in a copy: the batch at the provider is the original's, so it
 * ends in our tables alone.
 */
static void
abandon(LlmbFlight *flight)
{
	llmb_turn_begin("ending a copied batch");
	flight->row->remote_end = llmb_flight_keep(flight, "cancelled");
	flight->row->done = flight->row->failed = 0;
	if (flight->row->state != LLMB_ENDED && flight->row->state != LLMB_FETCHING)
		llmb_flight_become(flight, LLMB_ENDED);
	llmb_flight_say(flight, "cancelled", "ended in this copy only; the original's batch goes on at the provider");
	llmb_turn_commit();
	begin_fetching(flight);
	if (flight->intake.server && flight->intake.server->provider)
		llmb_flight_finalize(flight);
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
	if (flight->row->realtime && !llmb_batch_is_over(flight->row->state) &&
		flight->row->state != LLMB_ENDED && flight->row->state != LLMB_FETCHING)
	{
		llmb_realtime_step(flight);
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
			simple_call(flight, llmb_verify_candidate(flight) ? LLMB_CALL_FETCH : LLMB_CALL_LIST, "looking for a batch");
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

/* ---- beginnings and ends ---- */

static void
flight_lines(LlmbParty *party, char *lines, size_t len)
{
	LlmbFlight *flight = (LlmbFlight *) party;

	if (flight->row->state == LLMB_VERIFYING)
		llmb_verify_lines(flight, lines, len);
	else
		llmb_take_lines(&flight->intake, lines, len);
}

void
llmb_flight_init(LlmbFlight *flight)
{
	flight->party.lines = flight_lines;
	flight->party.ended = llmb_flight_ended;
	flight->party.failed = llmb_flight_failed;
}

/* It throws whenever it is tried: somebody has to look. */
static void
pause_throwing(void *arg)
{
	LlmbFlight *flight = arg;

	llmb_turn_begin("pausing a job");
	llmb_flight_pause(flight, llmb_flight_job(flight), "a step of a batch failed again and again; the server's log tells why");
	llmb_turn_commit();
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

	if (++flight->throws == MAX_THROWS)
		(void) llmb_guarded(pause_throwing, flight, "llm_batch: pausing a job");
	/* what is out there in real time stays out, and is taken in later */
	if (flight->realtime)
	{
		llmb_realtime_failed(flight);
		flight->tries++;
		llmb_flight_wait(flight, llmb_backoff_ms(flight->tries, 1000, 60000, 0.5));
		return;
	}
	llmb_call_drop(party);
	/* it may be half written */
	llmb_flight_drop_spool(flight);
	flight->judged = false;
	/* whether a create was out is not known any more */
	flight->fresh_intent = false;
	flight->cursor = NULL;
	flight->upload_url = NULL;
	llmb_verify_reset(flight);
	flight->part = 0;
	memset(&flight->intake, 0, sizeof(LlmbIntake));
	(void) llmb_guarded(reload, flight, "llm_batch: reading a batch again");
	flight->tries++;
	llmb_flight_wait(flight, llmb_backoff_ms(flight->tries, 1000, 60000, 0.5));
}

void
llmb_flight_resend(LlmbFlight *flight)
{
	if (flight->row->state != LLMB_VERIFYING)
		return;
	llmb_call_drop(&flight->party);
	llmb_verify_reset(flight);
	flight->listings = 0;
	flight->cursor = NULL;
	llmb_flight_become(flight, LLMB_PLANNED);
	llmb_flight_say(flight, "resend", "sent anew because resume(resend => true) says so; if the first did arrive, it is paid twice");
	flight->next_at = 0;
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
