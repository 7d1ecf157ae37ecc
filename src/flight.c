/*-------------------------------------------------------------------------
 *
 * flight.c
 *		One batch on its way: what its steps (steps.c), the replies (replies.c)
 *		and real time (realtime.c) stand on.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "crash.h"
#include "fleet.h"
#include "flight.h"
#include "gate.h"
#include "health.h"
#include "leftover.h"
#include "model.h"
#include "pii_sql.h"
#include "request.h"
#include "store_turnaround.h"
#include "turn.h"

/* A look for what somebody has to mend comes after so many times retry_base. */
#define LOOK_FACTOR	30

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
	if (state != was)
		llmb_crash_turn_changes(llmb_batch_state_name(was), llmb_batch_state_name(state));
	if (llmb_batch_is_over(state) && state != was)
		llmb_leftover_leave(flight->row, flight->row->stray_at != 0 || (was == LLMB_UPLOADING && !flight->file_known));
	if (state != was && (state == LLMB_VERIFYING || was == LLMB_VERIFYING))
		llmb_flight_explain(flight, state != LLMB_VERIFYING ? NULL :
							psprintf("verifying: the create of batch " INT64_FORMAT " was not answered; it is being looked for at the provider",
									 flight->row->id));
	/* the next batch may be planned when this one is on its way */
	if (state != was)
		llmb_fleet_look_at_jobs();
	if (state != was)
		flight->tries = flight->throws = 0;
}

/* ---- why it does not go on ---- */

#define EXPLAINED "verifying: "

/*
 * The states of a job go on as they are: it is not paused.  A reason of
 * somebody else's stays.
 */
void
llmb_flight_explain(const LlmbFlight *flight, const char *reason)
{
	LlmbJob    *job = llmb_store_job(flight->row->job);

	if (job == NULL || llmb_job_is_over(job) || strcmp(job->state, "paused") == 0)
		return;
	if (job->reason == NULL || strncmp(job->reason, EXPLAINED, strlen(EXPLAINED)) == 0)
		llmb_store_job_state(job->id, job->state, reason);
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

static void
pause_job(LlmbFlight *flight, const LlmbJob *job, const char *reason, bool until_mended)
{
	bool		active = strcmp(job->state, "waiting") == 0 || strcmp(job->state, "running") == 0;
	/* what waits for a person must not go on by itself */
	bool		another = job->awaits_mend && (!until_mended || (job->reason && strcmp(job->reason, reason) != 0));

	if (active || another)
	{
		if (until_mended)
			llmb_store_await_mend(job->id, reason);
		else
			llmb_store_job_state(job->id, "paused", reason);
		llmb_flight_say(flight, "paused", "%s", reason);
	}
	/* its end waits for the same */
	else if (strcmp(job->state, "cancelling") == 0 && (job->reason == NULL || strcmp(job->reason, reason) != 0))
	{
		llmb_store_job_state(job->id, "cancelling", reason);
		llmb_flight_say(flight, "waiting", "cannot be cancelled yet: %s", reason);
	}
}

/* In a turn: spending stops until somebody resumes the job. */
void
llmb_flight_pause(LlmbFlight *flight, const LlmbJob *job, const char *reason)
{
	pause_job(flight, job, reason, false);
	llmb_flight_wait(flight, 60000);
}

/*
 * Much longer than the wait before another try: somebody has to do something
 * first.
 */
int64
llmb_look_again_ms(const LlmbServer *server, int looks)
{
	int64		most = server ? server->retry_max_ms : 600000;
	int64		least = server ? Min(server->retry_base_ms, most / LOOK_FACTOR + 1) * LOOK_FACTOR : 60000;

	return llmb_backoff_ms(Max(looks, 1), least, most, pg_prng_double(&pg_global_prng_state));
}

void
llmb_flight_await_mend(LlmbFlight *flight, const LlmbServer *server, const LlmbJob *job, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();

	pause_job(flight, job, reason, true);
	flight->awaiting = true;
	/* requests that were out together are refused together: one look */
	if (flight->mend_at <= now)
		flight->mend_at = TimestampTzPlusMilliseconds(now, llmb_look_again_ms(server, ++flight->mend_looks));
	flight->next_at = flight->mend_at;
}

/*
 * That a batch can be polled does not prove that one can be created: what
 * waits to be sent proves it itself, where there is any.
 */
void
llmb_flight_mended(LlmbFlight *flight, const LlmbJob *job)
{
	ListCell   *lc;

	if (strcmp(job->state, "paused") != 0 || !job->awaits_mend ||
		(!flight->awaiting && llmb_fleet_unsent(job->id) != NULL))
		return;
	llmb_store_resume_job(job->id);
	llmb_flight_say(flight, "resumed", "what the job was paused for is mended: it goes on");
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *other = lfirst(lc);

		if (other->row->job != job->id || !(other->awaiting || other->mend_at))
			continue;
		other->awaiting = false;
		other->mend_at = 0;
		if (other != flight && !llmb_call_busy(&other->party))
			other->next_at = 0;
	}
	llmb_fleet_look_at_jobs();
}

/* Without an exponent, and without zeros at the end. */
static char *
usd(double amount)
{
	char	   *text = psprintf("%.9f", amount);
	size_t		len = strlen(text);

	while (len > 1 && text[len - 1] == '0' && text[len - 2] != '.')
		text[--len] = '\0';
	return text;
}

char *
llmb_budget_reason(const LlmbJob *job)
{
	return psprintf("budget: max_cost is %s USD, spent are %s, and the next item may cost more than is left",
					usd(job->max_cost), usd(job->cost));
}

/* In a turn: calls to a server that does not answer wait; the event is told once. */
static bool
held_back(LlmbFlight *flight, const LlmbServer *server)
{
	LlmbHealth *health;
	int64		wait;

	if (server->provider->answer)
		return false;
	health = llmb_health_of(server);
	wait = llmb_health_wait(health);
	if (wait == 0)
		return false;
	if (flight->held != llmb_health_troubles(health))
	{
		flight->held = llmb_health_troubles(health);
		llmb_flight_say(flight, "held", "%s", llmb_health_words(health));
	}
	/*
	 * The end of the call that is out to see is not announced.  Spread, so
	 * that it is not always the same flight, perhaps the one at fault, that
	 * goes to see.
	 */
	wait = wait > 0 ? wait : 500;
	llmb_flight_wait(flight, wait + (int64) (wait * 0.5 * pg_prng_double(&pg_global_prng_state)));
	return true;
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
	reason = llmb_ground_obstacle(flight->row->server, ground);
	if (reason)
	{
		llmb_flight_await_mend(flight, ground->server, ground->job, reason);
		return false;
	}
	if (ground->job->awaits_mend && flight->mend_at > GetCurrentTimestamp())
	{
		flight->next_at = flight->mend_at;
		return false;
	}
	ground->looking = ground->job->awaits_mend;
	flight->awaiting |= spending && ground->looking;
	if (spending && !ground->looking && strcmp(ground->job->state, "paused") == 0)
	{
		llmb_flight_wait(flight, 60000);
		return false;
	}
	if (spending && !llmb_gate_allows(ground->job, flight->row->realtime))
	{
		llmb_flight_wait(flight, 60000);
		return false;
	}
	flight->other_route = flight->row->route && strcmp(flight->row->route, llmb_ground_route(flight->row, ground)) != 0;
	return !held_back(flight, ground->server);
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
	if (row->state == LLMB_VERIFYING && flight->ended_candidate)
		ref->remote_id = ref->remote_output = flight->ended_candidate;
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

bool
llmb_flight_call(LlmbFlight *flight, const LlmbGround *ground, LlmbVerb verb)
{
	LlmbBatchRef ref;

	llmb_flight_ref(flight, ground, &ref);
	return llmb_call_start(&flight->party, ground->server, verb, &ref, ground->key, flight->spool);
}

/* ---- what becomes of it ---- */

void
llmb_flight_adopt(LlmbFlight *flight, const char *id, const char *how)
{
	flight->row->remote_id = llmb_flight_keep(flight, id);
	flight->row->submitted_at = flight->row->intent_at ? flight->row->intent_at : GetCurrentTimestamp();
	flight->running_at = flight->row->submitted_at;
	flight->running_done = -1;
	flight->listings = 0;
	flight->cursor = NULL;
	llmb_flight_become(flight, LLMB_IN_PROGRESS);
	llmb_flight_say(flight, "submitted", "%s as %s", how, id);
}

/* In a turn: refused as a whole; the items are decided by the coming steps. */
void
llmb_flight_refused(LlmbFlight *flight, LlmbCode code, const char *why)
{
	flight->row->remote_end = llmb_flight_keep(flight, "failed");
	flight->row->error_code = llmb_flight_keep(flight, llmb_code_name(code));
	flight->row->reason = llmb_flight_keep(flight, why);
	flight->row->ended_at = GetCurrentTimestamp();
	llmb_flight_become(flight, LLMB_ENDED);
	llmb_flight_say(flight, "refused", "the batch failed as a whole: %s", why);
}

/* ---- the request file ---- */

typedef struct Spooling
{
	LlmbFlight *flight;
	const LlmbGround *ground;
	LlmbJobDef *def;
	LlmbMasking *masking;
	bool		bodies;			/* of real-time requests */
	StringInfoData line;
} Spooling;

static bool
spool_prompt(const LlmbPrompt *prompt, void *arg)
{
	Spooling   *spooling = arg;
	LlmbFlight *flight = spooling->flight;
	char		custom_id[80];

	prompt = llmb_mask_prompt(spooling->masking, prompt);
	snprintf(custom_id, sizeof(custom_id), "%s-%d", flight->row->token, prompt->ordinal);
	resetStringInfo(&spooling->line);
	llmb_put_request(&spooling->line, spooling->ground->server, spooling->ground->model,
					 spooling->def, prompt, spooling->bodies ? NULL : custom_id, llmb_spool_bytes(flight->spool) == 0);
	if (spooling->bodies)
		appendStringInfoChar(&spooling->line, '\n');
	llmb_spool_write(flight->spool, spooling->line.data, spooling->line.len);
	/* its map is there, but for a text that was changed by hand */
	llmb_masking_keep(spooling->masking, flight->row->job, prompt->ordinal);
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
	spooling.masking = llmb_masking_begin(spooling.def);
	llmb_store_batch_prompts(flight->row->id, spool_prompt, &spooling);
	llmb_masking_end(spooling.masking);
	flight->row->file_bytes = llmb_spool_bytes(flight->spool);
}

void
llmb_flight_drop_spool(LlmbFlight *flight)
{
	llmb_spool_free(flight->spool);
	flight->spool = NULL;
}

/* In a turn: a batch that never reached the provider ends. */
void
llmb_flight_cancel_unsent(LlmbFlight *flight)
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

/* ---- results ---- */

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
		llmb_flight_await_mend(flight, NULL, job, psprintf("server \"%s\" does not exist any more", flight->row->server));
		return false;
	}
	intake->free = intake->server->provider->answer != NULL;
	intake->realtime = flight->row->realtime;
	intake->fallback = intake->server->fallback && !intake->def->atomic;
	intake->no_retry = strcmp(job->state, "cancelling") == 0;
	intake->cancelled_as = LLMB_CANCELLED_ITEM;
	if (!intake->no_retry && flight->row->error_code)
		(void) llmb_code_parse(flight->row->error_code, &intake->cancelled_as);
	intake->retry_ms = (int) llmb_backoff_ms(flight->row->attempt, intake->server->retry_base_ms,
											 intake->server->retry_max_ms, pg_prng_double(&pg_global_prng_state));
	intake->seen_count = llmb_store_seen(flight->row, intake->seen);
	return true;
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
		/* the others were not tried; where there is no end to it, each goes by itself */
		intake->unfit = flight->row->attempt >= intake->server->max_attempts;
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
						  flight->row->realtime ? "the job ended before this item was sent" :
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

void
llmb_flight_finalize(LlmbFlight *flight)
{
	const char *end = flight->row->remote_end ? flight->row->remote_end : "ended";

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
	llmb_store_learn_turnaround(flight->row);
	pause_stuck(flight);
	if (llmb_keep_prompts == LLMB_KEEP_JOB)
		llmb_store_purge_prompts(flight->row, flight->intake.answered == flight->row->item_count, flight->intake.def == NULL || flight->intake.def->mask_pii);
	llmb_turn_commit();
	llmb_flight_drop_spool(flight);
}

/* ---- ends asked for ---- */

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
		llmb_flight_cancel_unsent(flight);
	else if (!llmb_call_busy(&flight->party))
		flight->next_at = 0;
}
