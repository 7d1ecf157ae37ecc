/*-------------------------------------------------------------------------
 *
 * steps.c
 *		One batch's way: what is done in each state.  What the replies mean
 *		stands in replies.c.
 *
 * Every step commits what it is about to do before it does it, where that
 * costs money, and what has come of it afterwards.  What a crash can leave
 * behind is therefore one of the states in llm_batch.batch; the step of that
 * state finds out the rest.
 *
 *		planned		  nothing is out: spool, upload
 *		uploading	  a file may be out: after a break, look for it; else upload
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

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "fleet.h"
#include "realtime.h"
#include "replies.h"
#include "steps.h"
#include "turn.h"
#include "verify.h"

/* Lines that the in-process provider answers in one step. */
#define IN_PROCESS_LINES 500
/* A result file that has fewer lines than the provider counts is read again. */
#define MAX_REREADS		3
/* Lines of a result file beyond two for each request, at which it is given up. */
#define MOST_LINES_ANYWAY	10000
/* So many errors of our own in a row pause the job. */
#define MAX_THROWS		3

/* ---- calls ---- */

/* A call that changes nothing here: ground, then go. */
static void
simple_call(LlmbFlight *flight, LlmbVerb verb, const char *doing)
{
	LlmbGround		ground;
	bool		ready;

	llmb_turn_begin(doing);
	ready = llmb_flight_stand(flight, &ground, false);
	llmb_turn_commit();
	if (ready && !llmb_flight_call(flight, &ground, verb))
		elog(ERROR, "provider \"%s\" lacks a call", ground.server->api);
}

/* ---- planned, uploading, submitting ---- */

/* Another create of this server and key is out; if its fate is open, that may take long. */
static void
wait_for_other(LlmbFlight *flight)
{
	const LlmbFlight *other = llmb_fleet_verifying(flight);

	/* an ordinary create is over in a moment, and the next goes at once */
	llmb_flight_wait(flight, other ? 200 : 10);
	if (other == NULL || flight->waiting_told)
		return;
	flight->waiting_told = true;
	llmb_turn_begin("waiting for another batch");
	llmb_flight_say(flight, "waiting", "batch " INT64_FORMAT " of the same server and key is being looked for: this one is sent when its fate is known",
					other->row->id);
	llmb_flight_explain(flight, psprintf("verifying: batch " INT64_FORMAT " of the same server and key is being looked for at the provider; "
										 "the next is sent when its fate is known", other->row->id));
	llmb_turn_commit();
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

	if (llmb_fleet_creating(flight))
	{
		wait_for_other(flight);
		return;
	}
	llmb_turn_begin("submitting a batch");
	if (flight->cancel)
	{
		llmb_flight_cancel_unsent(flight);
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
		if (ground.server->provider->answer == NULL)
			flight->row->route = llmb_flight_keep(flight, llmb_ground_route(flight->row, &ground));
		if (flight->waiting_told)
			llmb_flight_explain(flight, NULL);
		flight->waiting_told = flight->other_route_told = false;
		llmb_flight_become(flight, LLMB_SUBMITTING);
		flight->fresh_intent = true;
	}
	llmb_turn_commit();
	if (ready && !llmb_flight_call(flight, &ground, LLMB_CALL_CREATE))
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

/*
 * In a turn.  An upload went out, and nobody knows what has become of it: is
 * the file there?  Since when shows in the row, for the day when a copy of
 * it turns up.
 */
static void
begin_look(LlmbFlight *flight)
{
	if (flight->cursor == NULL && flight->looks == 0)
		llmb_flight_say(flight, "looking_for_file", "%s: looking for it at the provider",
						flight->row->stray_at ? "the upload of the request file was not answered" :
						"the worker stopped while the request file was being uploaded");
	if (flight->row->stray_at == 0)
		flight->row->stray_at = GetCurrentTimestamp();
}

static void
upload(LlmbFlight *flight)
{
	LlmbGround		ground;
	bool		with_upload = false;
	bool		look = false;
	bool		ready;

	llmb_turn_begin("preparing a request file");
	if (flight->cancel)
	{
		llmb_flight_cancel_unsent(flight);
		llmb_turn_commit();
		return;
	}
	ready = llmb_flight_stand(flight, &ground, true);
	if (ready)
		with_upload = flight->row->remote_input == NULL && !ground.server->provider->inline_requests;
	if (with_upload)
	{
		llmb_flight_spool(flight, &ground);
		look = flight->row->state == LLMB_UPLOADING && !flight->file_known && flight->upload_url == NULL;
		if (look)
			begin_look(flight);
		llmb_flight_become(flight, LLMB_UPLOADING);
		flight->file_known = false;
	}
	llmb_turn_commit();
	if (look)
	{
		if (!llmb_flight_call(flight, &ground, LLMB_CALL_FIND_FILE))
			flight->file_known = true;
		return;
	}
	if (with_upload && !llmb_flight_call(flight, &ground, flight->upload_url ? LLMB_CALL_UPLOAD_DATA : LLMB_CALL_UPLOAD))
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
	if (ready && !llmb_flight_call(flight, &ground, LLMB_CALL_CANCEL))
		llmb_flight_wait(flight, ground.server->poll_min_ms);
}

/* ---- fetching ---- */

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
	{
		flight->intake.lines = 0;
		simple_call(flight, LLMB_CALL_FETCH, "fetching results");
	}
	else if ((flight->intake.seen_count < row->done + row->failed ||
			  (flight->intake.seen_count == 0 && flight->intake.strange_lines > 0)) && flight->rereads < MAX_REREADS)
	{
		/* a file may be short without an error of HTTP: read it again */
		flight->rereads++;
		llmb_turn_begin("reading result files again");
		llmb_flight_say(flight, "reread", "the result files had lines for %d requests, and %d were counted: they are read again",
						flight->intake.seen_count, row->done + row->failed);
		llmb_turn_commit();
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
llmb_steps_step(LlmbFlight *flight)
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

/* Whatever is still to come of it, it is not this batch's results. */
static void
give_up_file(LlmbFlight *flight)
{
	llmb_turn_begin("giving up a result file");
	llmb_flight_say(flight, "endless", "the result file does not end: " INT64_FORMAT " lines for %d requests; the rest of it is not read",
					flight->intake.lines, flight->row->item_count);
	llmb_turn_commit();
	llmb_call_drop(&flight->party);
	flight->part++;
	flight->next_at = 0;
}

static void
flight_lines(LlmbParty *party, char *lines, size_t len)
{
	LlmbFlight *flight = (LlmbFlight *) party;

	if (flight->row->state == LLMB_VERIFYING)
	{
		llmb_verify_lines(flight, lines, len);
		return;
	}
	llmb_take_lines(&flight->intake, lines, len);
	/* a look at the jobs finds the time of answers that wait for locked rows */
	if (flight->intake.stored)
		llmb_fleet_look_at_jobs();
	flight->intake.stored = false;
	if (flight->intake.lines > MOST_LINES_ANYWAY + 2 * (int64) flight->row->item_count)
		give_up_file(flight);
}

void
llmb_steps_init(LlmbFlight *flight)
{
	flight->party.lines = flight_lines;
	flight->party.ended = llmb_reply_ended;
	flight->party.failed = llmb_steps_failed;
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
llmb_steps_failed(LlmbParty *party)
{
	LlmbFlight *flight = (LlmbFlight *) party;

	if (++flight->throws == MAX_THROWS)
		(void) llmb_guarded(pause_throwing, flight, "llm_batch: pausing a job");
	/* what is out there in real time stays out, and is taken in later */
	if (flight->realtime && flight->row->state != LLMB_ENDED)
	{
		llmb_realtime_failed(flight);
		flight->tries++;
		llmb_flight_wait(flight, llmb_backoff_ms(flight->tries, 1000, 60000, 0.5));
		return;
	}
	/* nothing is out when it ends; whether that was committed, the table tells */
	llmb_realtime_free(flight);
	llmb_call_drop(party);
	/* it may be half written */
	llmb_flight_drop_spool(flight);
	flight->judged = false;
	/* whether a create was out is not known any more */
	flight->fresh_intent = false;
	flight->cursor = NULL;
	flight->upload_url = NULL;
	flight->file_known = false;
	flight->looks = flight->pages = 0;
	llmb_verify_reset(flight);
	flight->part = 0;
	memset(&flight->intake, 0, sizeof(LlmbIntake));
	(void) llmb_guarded(reload, flight, "llm_batch: reading a batch again");
	flight->tries++;
	llmb_flight_wait(flight, llmb_backoff_ms(flight->tries, 1000, 60000, 0.5));
}

void
llmb_steps_resend(LlmbFlight *flight)
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
