/*-------------------------------------------------------------------------
 *
 * replies.c
 *		What a provider's replies mean for a batch.
 *
 * A reply is judged once, by its provider (LlmbFault); here the judgement is
 * turned into the batch's next state, in a turn of its own.  Whatever leaves
 * open whether money was spent leads to looking, never to sending again.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "fleet.h"
#include "flight.h"
#include "model.h"
#include "replies.h"
#include "turn.h"
#include "verify.h"

/* A request file that is gone is uploaded again so often. */
#define MAX_UPLOADS		3

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
	int64		ms = llmb_flight_back_off(flight, server, ending->reply.retry_after_ms);

	llmb_flight_say(flight, "retry", "%s did not succeed (%s), try %d; the next in %.1f s",
		what, in_words(ending), flight->tries, ms / 1000.0);
	llmb_flight_wait(flight, ms);
}

/* In a turn: nothing of it ran, and its items are cut into batches anew. */
static void
requeue(LlmbFlight *flight, LlmbCode code, const char *why, int64 wait_ms)
{
	LlmbBatchRow *row = flight->row;
	LlmbDelta	delta = {.in_flight = -row->item_count, .queued = row->item_count};

	row->remote_end = llmb_flight_keep(flight, "failed");
	row->error_code = llmb_flight_keep(flight, llmb_code_name(code));
	row->reason = llmb_flight_keep(flight, why);
	row->ended_at = GetCurrentTimestamp();
	llmb_flight_become(flight, LLMB_FAILED);
	llmb_store_requeue(row, wait_ms);
	llmb_store_count(row->job, &delta);
}

/*
 * How many tokens may be enqueued after a refusal: what the provider says, but
 * never more than it took beside the refused batch; else a guess.
 */
static int64
what_fits(int64 said, int64 others, int64 refused)
{
	if (said > 0 && others > 0)
		return Min(said, others);
	/* one that should have fitted holds more tokens than we think */
	if (said > 0)
		return said < refused ? said : Max(refused * 3 / 4, 1);
	return others > 0 ? others : Max(refused / 2, 1);
}

/*
 * In a turn: more tokens than the provider's queue takes.  What it takes is
 * learned, and the items are cut into batches anew by that.
 */
static void
dissolve(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground, const char *code)
{
	LlmbBatchRow *row = flight->row;
	int64		others = llmb_fleet_tokens(row->server, row->owner, row->model) - row->forecast_tokens;
	int64		wait_ms = ground->server->poll_max_ms;

	llmb_learn_enqueued_limit(ground->server, ground->model, what_fits(ending->reply.queue_tokens, others, row->forecast_tokens));
	requeue(flight, LLMB_RATE_LIMITED, code, wait_ms);
	llmb_flight_say(flight, "queue_full", "the provider's queue is full (%s): its items are planned anew, by %lld tokens at a time, in %.0f s",
					code, (long long) llmb_enqueued_limit(ground->server, ground->model), wait_ms / 1000.0);
}

/* In a turn: more requests or bytes than the provider takes at a time. */
static void
split(LlmbFlight *flight, const LlmbGround *ground, const char *code)
{
	LlmbBatchRow *row = flight->row;

	llmb_learn_batch_bytes(row->server, row->file_bytes / 2);
	requeue(flight, LLMB_TOO_LARGE, code, ground->server->retry_base_ms);
	llmb_flight_say(flight, "split", "the provider does not take so much at a time (%s): its items go in batches of half the size", code);
}

/* In a turn: it waited longer than the provider keeps request files. */
static void
file_is_gone(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	flight->row->remote_input = NULL;
	llmb_flight_become(flight, LLMB_PLANNED);
	llmb_flight_say(flight, "file_gone", "the provider does not have the request file any more (%s): it is uploaded anew",
					in_words(ending));
	llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, -1));
}

/* In a turn: faults that upload and create share.  Nothing was created. */
static void
refused(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground, const char *what)
{
	switch (ending->reply.fault)
	{
		case LLMB_FAULT_KEY:
		case LLMB_FAULT_QUOTA:
			llmb_flight_become(flight, LLMB_PLANNED);
			llmb_flight_pause(flight, ground->job,
					  psprintf("%s: the provider refused %s (%s)",
							   ending->reply.fault == LLMB_FAULT_KEY ? "auth" : "quota", what, in_words(ending)));
			break;
		case LLMB_FAULT_TOO_LARGE:
			if (flight->row->item_count > 1 && !flight->cancel)
				split(flight, ground, in_words(ending));
			else
				llmb_flight_refused(flight, LLMB_TOO_LARGE, in_words(ending));
			break;
		case LLMB_FAULT_QUEUE_FULL:
			if (flight->cancel)
				llmb_flight_refused(flight, flight->cancel_code, in_words(ending));
			else
				dissolve(flight, ending, ground, in_words(ending));
			break;
		case LLMB_FAULT_GONE:
		case LLMB_FAULT_REQUEST:
			if (ending->reply.fault == LLMB_FAULT_GONE && flight->row->remote_input && flight->gone++ < MAX_UPLOADS)
				file_is_gone(flight, ending, ground);
			else
				llmb_flight_refused(flight, LLMB_INVALID_REQUEST, in_words(ending));
			break;
		default:
			try_later(flight, ending, ground->server, what);
	}
}

static void
upload_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	/* where it was to go is good for one try */
	flight->upload_url = NULL;
	if (ending->wire != LLMB_WIRE_OK)
		try_later(flight, ending, ground->server, "the upload");
	else if (ending->reply.fault == LLMB_FAULT_NONE && ending->reply.upload_url)
		flight->upload_url = llmb_flight_keep(flight, ending->reply.upload_url);
	else if (ending->reply.fault == LLMB_FAULT_NONE && ending->reply.file_id)
	{
		flight->row->remote_input = llmb_flight_keep(flight, ending->reply.file_id);
		llmb_flight_become(flight, LLMB_PLANNED);
		llmb_flight_say(flight, "uploaded", "request file uploaded as %s", ending->reply.file_id);
		llmb_flight_drop_spool(flight);
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
	flight->judged = true;
	if (flight->row->state != LLMB_FETCHING)
	{
		llmb_flight_refused(flight, LLMB_PROVIDER_ERROR, why);
		return;
	}
	flight->row->remote_end = llmb_flight_keep(flight, "failed");
	flight->row->error_code = llmb_flight_keep(flight, llmb_code_name(LLMB_PROVIDER_ERROR));
	flight->row->reason = llmb_flight_keep(flight, why);
	llmb_flight_become(flight, LLMB_FETCHING);
	llmb_flight_say(flight, "gone", "%s", why);
}

static void
create_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	if (ending->wire == LLMB_WIRE_NOT_SENT)
		try_later(flight, ending, ground->server, "creating the batch");
	else if (ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_NONE && ending->reply.batch.id)
	{
		llmb_flight_adopt(flight, ending->reply.batch.id, "the provider took the batch");
		llmb_flight_drop_spool(flight);
	}
	else if (ending->wire == LLMB_WIRE_OK && ending->status >= 400 && ending->status < 500 &&
			 ending->status != 408 && ending->status != 409)
		refused(flight, ending, ground, "creating the batch");
	else
	{
		/* it may have been created all the same: never send it twice */
		llmb_flight_become(flight, LLMB_VERIFYING);
		llmb_flight_say(flight, "verifying", "creating the batch was not answered (%s): looking for it at the provider",
			in_words(ending));
		llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, ending->reply.retry_after_ms));
	}
}

/* In a turn: not in this listing.  Twice so, the second time late: absent. */
static void
not_listed(LlmbFlight *flight, const LlmbGround *ground)
{
	TimestampTz certain = TimestampTzPlusMilliseconds(flight->row->intent_at,
													  ground->server->request_timeout_ms + ground->server->settle_time_ms);

	flight->cursor = NULL;
	if (++flight->listings >= 2 && GetCurrentTimestamp() >= certain)
	{
		flight->listings = 0;
		llmb_verify_reset(flight);
		llmb_flight_become(flight, LLMB_PLANNED);
		llmb_flight_say(flight, "absent", "two complete listings do not show the batch: it is sent anew");
	}
	else if (GetCurrentTimestamp() >= certain)
		llmb_flight_wait(flight, ground->server->poll_min_ms);
	else
	{
		/* it may only be slow to appear: look again, ever more seldom */
		llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, ground->server->poll_min_ms));
		flight->next_at = Min(flight->next_at, certain);
	}
}

static const LlmbRemoteBatch *
find_listed(const LlmbFlight *flight, const LlmbReply *reply, bool *past)
{
	char	   *label = psprintf("%s_%d", flight->row->token, flight->row->creates);
	int64		oldest = llmb_epoch_ms(flight->row->intent_at) / 1000 - LLMB_CLOCK_SKEW_S;

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
list_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	const LlmbRemoteBatch *found;
	bool		past = false;

	if (ending->wire != LLMB_WIRE_OK || ending->reply.fault != LLMB_FAULT_NONE)
	{
		flight->cursor = NULL;
		try_later(flight, ending, ground->server, "listing batches");
		return;
	}
	if (ground->server->provider->unlabelled)
	{
		if (llmb_verify_page(flight, &ending->reply, ground))
			not_listed(flight, ground);
		return;
	}
	found = find_listed(flight, &ending->reply, &past);
	if (found)
		llmb_flight_adopt(flight, found->id, "found at the provider");
	else if (!past && ending->reply.next_cursor)
		flight->cursor = llmb_flight_keep(flight, ending->reply.next_cursor);
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
	llmb_flight_wait(flight, Max(ms, asked_ms));
	/* a cancel that was asked for meanwhile, or that never arrived */
	if (row->state == LLMB_CANCELLING && remote->state == LLMB_REMOTE_RUNNING && !flight->cancel_sent)
		llmb_flight_become(flight, LLMB_IN_PROGRESS);
	if (flight->cancel && row->state == LLMB_IN_PROGRESS)
		llmb_flight_wait(flight, row->cancelled_at ? server->poll_min_ms : 0);
	/* an UPDATE per poll would bloat the table: one per twentieth will do */
	if (remote->done >= 0 && (remote->done + Max(remote->failed, 0) - row->done - row->failed) * 20 >= row->item_count)
	{
		row->done = remote->done;
		row->failed = Max(remote->failed, 0);
		llmb_flight_become(flight, row->state);
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
	llmb_flight_wait(flight, llmb_flight_back_off(flight, server, server->poll_min_ms));
	return true;
}

/* In a turn: the provider has ended. */
static void
has_ended(LlmbFlight *flight, const LlmbRemoteBatch *remote)
{
	LlmbBatchRow *row = flight->row;
	const char *end = remote->state == LLMB_REMOTE_EXPIRED ? "expired" :
		remote->state == LLMB_REMOTE_CANCELLED ? "cancelled" : "ended";

	row->remote_output = llmb_flight_keep(flight, remote->output);
	row->remote_errors = llmb_flight_keep(flight, remote->errors);
	row->remote_end = llmb_flight_keep(flight, end);
	row->ended_at = GetCurrentTimestamp();
	if (remote->done >= 0)
		row->done = remote->done;
	if (remote->failed >= 0)
		row->failed = remote->failed;
	llmb_flight_become(flight, LLMB_ENDED);
	llmb_flight_say(flight, end, "%s: %d done, %d failed",
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
has_failed(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	const LlmbRemoteBatch *remote = &ending->reply.batch;
	const char *code = ending->reply.code ? ending->reply.code : "no code given";

	note_bad_lines(flight, remote);
	if ((remote->fault == LLMB_FAULT_QUOTA || remote->fault == LLMB_FAULT_KEY) && !flight->cancel)
	{
		flight->row->remote_id = NULL;
		llmb_flight_become(flight, LLMB_PLANNED);
		llmb_flight_pause(flight, ground->job, psprintf("quota: the provider refused the batch (%s)", code));
	}
	else if (remote->fault == LLMB_FAULT_QUEUE_FULL && !flight->cancel)
		dissolve(flight, ending, ground, code);
	else if (remote->fault == LLMB_FAULT_TOO_LARGE && !flight->cancel && flight->row->item_count > 1)
		split(flight, ground, code);
	else
		llmb_flight_refused(flight, flight->cancel ? flight->cancel_code :
				   remote->fault == LLMB_FAULT_TOO_LARGE ? LLMB_TOO_LARGE : LLMB_INVALID_REQUEST, code);
}

/* In a turn: asked to cancel it, the provider does not end it either. */
static void
tell_endless(LlmbFlight *flight, const LlmbGround *ground)
{
	const LlmbBatchRow *row = flight->row;

	if (flight->told || row->state != LLMB_CANCELLING || row->cancelled_at == 0 ||
		GetCurrentTimestamp() < TimestampTzPlusMilliseconds(row->cancelled_at, ground->server->batch_timeout_ms))
		return;
	flight->told = true;
	llmb_flight_pause(flight, ground->job,
					  psprintf("timeout: the provider has not ended batch " INT64_FORMAT " since it was asked to cancel it at %s; it is still being polled",
							   row->id, timestamptz_to_str(row->cancelled_at)));
}

static void
poll_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	const LlmbRemoteBatch *remote = &ending->reply.batch;
	bool		answered = ending->wire == LLMB_WIRE_OK;

	/* asked only why it was refused; no answer to that is an answer, too */
	if (answered && flight->row->state == LLMB_FETCHING && ending->reply.fault != LLMB_FAULT_RETRY)
	{
		note_bad_lines(flight, remote);
		return;
	}
	if (answered && ending->reply.fault == LLMB_FAULT_GONE)
	{
		gone(flight, ending, ground->server, "batch");
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
				tell_endless(flight, ground);
				still_running(flight, remote, ground->server, ending->reply.retry_after_ms);
		}
	}
	else if (ending->reply.fault == LLMB_FAULT_KEY || ending->reply.fault == LLMB_FAULT_QUOTA)
	{
		llmb_flight_pause(flight, ground->job, psprintf("auth: the provider refused a poll (%s)", in_words(ending)));
		llmb_flight_wait(flight, Max(llmb_flight_back_off(flight, ground->server, -1), ground->server->poll_min_ms));
	}
	else
		try_later(flight, ending, ground->server, "the poll");
}

static void
cancel_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	/* refused means that it had ended: the poll tells */
	if (ending->wire == LLMB_WIRE_OK && ending->status < 500 && ending->status != 429)
		llmb_flight_wait(flight, ground->server->poll_min_ms);
	else
	{
		flight->cancel_sent = false;
		llmb_flight_become(flight, LLMB_IN_PROGRESS);
		try_later(flight, ending, ground->server, "the cancel");
	}
}

static void
fetch_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	if (flight->row->state == LLMB_VERIFYING)
	{
		/* a candidate without a line, or without results for now */
		flight->ended_candidate = NULL;
		try_later(flight, ending, ground->server, "reading a candidate's results");
		return;
	}
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

void
llmb_reply_ended(LlmbParty *party, LlmbEnding *ending)
{
	LlmbFlight *flight = (LlmbFlight *) party;
	LlmbGround		ground;

	if (ending->verb == LLMB_CALL_DELETE_FILE)
		return;
	llmb_turn_begin("recording a provider's reply");
	memset(&ground, 0, sizeof(ground));
	ground.job = llmb_flight_job(flight);
	ground.server = llmb_server_by_name(flight->row->server);
	if (ground.server)
		ground.model = llmb_model(ground.server, ground.job->model);
	if (ground.server == NULL)
		llmb_flight_wait(flight, 60000);
	else
	{
		switch (ending->verb)
		{
			case LLMB_CALL_UPLOAD:
			case LLMB_CALL_UPLOAD_DATA:
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
