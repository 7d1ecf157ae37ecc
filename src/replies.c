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
#include "leftover.h"
#include "model.h"
#include "replies.h"
#include "store_model.h"
#include "store_turnaround.h"
#include "turn.h"
#include "verify.h"

/* A batch that is refused as a whole is cut in halves so often. */
#define MAX_HALVINGS	5
/* A request file that is gone is uploaded again so often. */
#define MAX_UPLOADS		3
/* A queue that is said to be full without a number may be a rate limit: so many tries first. */
#define MAX_FULL_TRIES	3
/* A file that a create does not know is given so many tries to appear. */
#define MAX_FILE_TRIES	8
/* Pages of a listing of batches, of some 100 each: what has more has no end. */
#define MAX_LIST_PAGES	1000
/* A listing of files that fails, or a file that is not ready, is looked at so often. */
#define MAX_LOOKS		5

static void still_running(LlmbFlight *flight, const LlmbRemoteBatch *remote,
						  const LlmbServer *server, int64 asked_ms);

/* ---- replies ---- */

/* A long outage makes no long history: tries 1, 2, 3, 4, 8, 16, ... are told. */
static bool
is_told(int tries)
{
	return tries <= 3 || (tries & (tries - 1)) == 0;
}

/* In a turn: the call comes again after a wait. */
static void
try_later(LlmbFlight *flight, const LlmbEnding *ending, const LlmbServer *server, const char *what)
{
	int64		ms = llmb_flight_back_off(flight, server, ending->reply.retry_after_ms);

	if (is_told(flight->tries))
		llmb_flight_say(flight, "retry", "%s did not succeed (%s), try %d; the next in %.1f s",
			what, llmb_ending_in_words(ending), flight->tries, ms / 1000.0);
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
	/* a few of ours beside a large one do not mean that so few is all it takes */
	if (others > 0)
		others = Max(others, refused / 2);
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
	int64		fits;

	fits = what_fits(ending->reply.queue_tokens, others, row->forecast_tokens);
	llmb_learn_enqueued_limit(ground->server, ground->model, fits, fits != ending->reply.queue_tokens);
	requeue(flight, LLMB_RATE_LIMITED, code, wait_ms);
	llmb_flight_say(flight, "queue_full", "the provider's queue is full (%s): its items are planned anew, by %lld tokens at a time, in %.0f s",
					code, (long long) llmb_enqueued_limit(ground->server, ground->model), wait_ms / 1000.0);
}

/* In a turn: more requests or bytes than the provider takes at a time. */
static void
split(LlmbFlight *flight, const LlmbGround *ground, const char *code)
{
	LlmbBatchRow *row = flight->row;

	llmb_learn_batch_bytes(row->server, row->model, row->file_bytes / 2);
	requeue(flight, LLMB_TOO_LARGE, code, ground->server->retry_base_ms);
	llmb_flight_say(flight, "split", "the provider does not take so much at a time (%s): its items go in batches of half the size", code);
}

/*
 * In a turn: refused as a whole, and the provider does not say for which of
 * its requests.  One by one would show it, at the price of real time; halves
 * show it at the price of batches, down to where singly is cheap.  But five
 * times at most, lest all of them are at fault.
 */
static bool
halve(LlmbFlight *flight, const LlmbGround *ground, const char *code)
{
	int			items = flight->row->item_count;
	int			most;

	(void) llmb_store_refused_items(flight->row->job, &most);
	if (flight->cancel || items <= LLMB_HALVE_ABOVE || items < most >> MAX_HALVINGS)
		return false;
	requeue(flight, LLMB_INVALID_REQUEST, code, ground->server->retry_base_ms);
	llmb_flight_say(flight, "split", "the provider refused the batch and does not say for which request (%s): its items go in batches of half the size", code);
	return true;
}

/* In a turn: it waited longer than the provider keeps request files. */
static void
file_is_gone(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	/* it may yet turn up */
	llmb_leftover_delete(flight->row, flight->row->remote_input, ground->server->settle_time_ms);
	flight->row->remote_input = NULL;
	llmb_flight_become(flight, LLMB_PLANNED);
	llmb_flight_say(flight, "file_gone", "the provider does not have the request file any more (%s): it is uploaded anew",
					llmb_ending_in_words(ending));
	llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, -1));
}

/* In a turn: the key is refused, or money is wanted. */
static void
refuse_account(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground, const char *what)
{
	llmb_flight_await_mend(flight, ground->server, ground->job,
						   psprintf("%s: the provider refused %s (%s)",
									ending->reply.fault == LLMB_FAULT_KEY ? "auth" : "quota", what, llmb_ending_in_words(ending)));
}

static bool
is_about_account(const LlmbEnding *ending)
{
	return ending->wire == LLMB_WIRE_OK &&
		(ending->reply.fault == LLMB_FAULT_KEY || ending->reply.fault == LLMB_FAULT_QUOTA);
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
			refuse_account(flight, ending, ground, what);
			break;
		case LLMB_FAULT_TOO_LARGE:
			if (flight->row->item_count > 1 && !flight->cancel)
				split(flight, ground, llmb_ending_in_words(ending));
			else
				llmb_flight_refused(flight, LLMB_TOO_LARGE, llmb_ending_in_words(ending));
			break;
		case LLMB_FAULT_QUEUE_FULL:
			if (flight->cancel)
				llmb_flight_refused(flight, flight->cancel_code, llmb_ending_in_words(ending));
			else if (ending->reply.queue_tokens == 0 && flight->tries < MAX_FULL_TRIES)
				try_later(flight, ending, ground->server, what);
			else
				dissolve(flight, ending, ground, llmb_ending_in_words(ending));
			break;
		case LLMB_FAULT_GONE:
		case LLMB_FAULT_REQUEST:
			if (ending->reply.fault == LLMB_FAULT_GONE && flight->row->remote_input && flight->gone++ < MAX_UPLOADS)
				file_is_gone(flight, ending, ground);
			/* where the create carries the requests it may be for one of them */
			else if (!(ground->server->provider->inline_requests && halve(flight, ground, llmb_ending_in_words(ending))))
				llmb_flight_refused(flight, LLMB_INVALID_REQUEST, llmb_ending_in_words(ending));
			break;
		default:
			try_later(flight, ending, ground->server, what);
	}
}

/* Refused for certain: nothing was stored. */
static bool
is_refusal(const LlmbEnding *ending)
{
	return ending->wire == LLMB_WIRE_OK && ending->status >= 400 && ending->status < 500 &&
		ending->status != 408 && ending->status != 409;
}

static void
upload_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	bool		done = ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_NONE;

	/* where it was to go is good for one try */
	flight->upload_url = NULL;
	flight->file_known = done || is_refusal(ending);
	if (!flight->file_known)
	{
		flight->looks = flight->pages = 0;
		flight->row->stray_at = GetCurrentTimestamp();
		llmb_flight_become(flight, LLMB_UPLOADING);
		try_later(flight, ending, ground->server, "the upload");
	}
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

/* In a turn: the look is over, without a file that can be used. */
static void
upload_anew(LlmbFlight *flight, const char *why)
{
	flight->cursor = NULL;
	flight->looks = flight->pages = 0;
	flight->file_known = true;
	flight->next_at = 0;
	llmb_flight_say(flight, "file_absent", "%s: it is uploaded anew", why);
}

/* In a turn: looks again later, but not for ever. */
static void
look_later(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground, const char *what, const char *at_last)
{
	flight->cursor = NULL;
	flight->pages = 0;
	if (++flight->looks < MAX_LOOKS)
		try_later(flight, ending, ground->server, what);
	else
		upload_anew(flight, at_last);
}

/*
 * In a turn.  What a page has of the batch's request file: the first whole
 * copy stays, the others go.  True when one is whole, but not ready.
 */
static bool
take_files(LlmbFlight *flight, const LlmbReply *reply, char **found)
{
	bool		wait = false;

	*found = NULL;
	for (int i = 0; i < reply->file_count; i++)
	{
		const LlmbRemoteFile *file = &reply->files[i];
		bool		whole = file->bytes == flight->row->file_bytes && file->state != LLMB_FILE_BROKEN;

		if (!llmb_leftover_is_ours(flight->row, file->token))
			continue;
		if (whole && *found == NULL && file->state == LLMB_FILE_READY)
			*found = file->id;
		else if (whole && file->state == LLMB_FILE_PENDING && flight->looks < MAX_LOOKS - 1)
			wait = true;
		else
		{
			llmb_flight_say(flight, "file_copy", "%s of the request file is at the provider, %s: it is deleted",
							whole ? "another copy" : "a broken copy", file->id);
			llmb_leftover_delete(flight->row, file->id, 0);
		}
	}
	return wait;
}

/* In a turn: a page of the provider's files, among which ours may be. */
static void
find_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	char	   *found;
	bool		wait;

	if (ending->wire != LLMB_WIRE_OK || ending->reply.fault == LLMB_FAULT_RETRY)
	{
		look_later(flight, ending, ground, "looking for the request file", "the provider's list of files cannot be had");
		return;
	}
	/* 403: a key may be one that uploads, and does not list */
	if (is_about_account(ending) && ending->status != 403)
	{
		flight->cursor = NULL;
		refuse_account(flight, ending, ground, "to list files");
		return;
	}
	if (ending->reply.fault != LLMB_FAULT_NONE)
	{
		upload_anew(flight, psprintf("this endpoint does not list its files (%s), so that the request file cannot be looked for", llmb_ending_in_words(ending)));
		return;
	}
	wait = take_files(flight, &ending->reply, &found);
	if (found)
	{
		flight->cursor = NULL;
		flight->row->remote_input = llmb_flight_keep(flight, found);
		llmb_flight_become(flight, LLMB_PLANNED);
		llmb_flight_say(flight, "uploaded", "the request file is at the provider as %s: it is not uploaded again", found);
		llmb_flight_drop_spool(flight);
	}
	else if (wait)
		look_later(flight, ending, ground, "waiting for the request file to be ready", "the provider does not get the request file ready");
	else if (ending->reply.next_cursor && ++flight->pages < LLMB_FILE_PAGES && !llmb_leftover_is_past(flight->row, &ending->reply))
		flight->cursor = llmb_flight_keep(flight, ending->reply.next_cursor);
	else
		upload_anew(flight, "the provider does not have the request file");
}

/*
 * In a turn.  The key or the address is not the one that the batch went out
 * with: what cannot be found there may well exist.  So it is watched on, until
 * they are as they were, or somebody decides: also by a cancel, after which
 * nothing is sent anew.
 */
static bool
proves_nothing(LlmbFlight *flight, const LlmbGround *ground)
{
	const char *what;

	if (!flight->other_route || flight->cancel)
	{
		if (flight->other_route_told)
			llmb_flight_explain(flight, psprintf("verifying: batch " INT64_FORMAT " is being looked for at the provider", flight->row->id));
		flight->other_route_told = false;
		return false;
	}
	what = psprintf("batch " INT64_FORMAT " went out with another key or to another address than server \"%s\" has now, "
					"where it cannot be found, and that proves nothing", flight->row->id, flight->row->server);
	if (!flight->other_route_told)
		llmb_flight_say(flight, "other_key", "%s; resume(job, resend => true) sends it anew, at the risk of paying twice", what);
	flight->other_route_told = true;
	llmb_flight_explain(flight, psprintf("verifying: %s", what));
	flight->cursor = NULL;
	llmb_flight_wait(flight, llmb_flight_back_off(flight, ground->server, ground->server->poll_min_ms));
	return true;
}

/* In a turn: the batch, or its file, is known there after all. */
static void
route_is_good(LlmbFlight *flight)
{
	if (!flight->other_route_told)
		return;
	flight->other_route_told = false;
	llmb_flight_explain(flight, NULL);
}

/*
 * In a turn.  "No such thing" is believed when it was said three times, and
 * for longer than a new thing may take to appear.  Then it is final: the
 * items may have been run and paid, so sending them again is for a person to
 * decide.
 */
static void
gone(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground, const char *what)
{
	const char *why = psprintf("the provider does not know the %s any more (%s)", what, llmb_ending_in_words(ending));

	if (proves_nothing(flight, ground))
		return;
	if (flight->gone++ == 0)
		flight->gone_since = GetCurrentTimestamp();
	if (flight->gone < 3 ||
		GetCurrentTimestamp() < TimestampTzPlusMilliseconds(flight->gone_since, ground->server->settle_time_ms))
	{
		try_later(flight, ending, ground->server, psprintf("asking for the %s", what));
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

/* In a turn: created, and not yet asked for.  In process, asking costs nothing. */
static void
wait_for_first(LlmbFlight *flight, const LlmbEnding *ending, const LlmbServer *server)
{
	const LlmbRemoteBatch *remote = &ending->reply.batch;

	if (!server->provider->answer &&
		(remote->state == LLMB_REMOTE_RUNNING || remote->state == LLMB_REMOTE_UNKNOWN))
		still_running(flight, remote, server, ending->reply.retry_after_ms);
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
		wait_for_first(flight, ending, ground->server);
	}
	else if (is_refusal(ending) && ending->status == 400 && ending->reply.fault == LLMB_FAULT_RETRY &&
			 flight->row->remote_input && flight->tries >= MAX_FILE_TRIES && flight->gone++ < MAX_UPLOADS)
		file_is_gone(flight, ending, ground);
	else if (is_refusal(ending))
		refused(flight, ending, ground, "creating the batch");
	else
	{
		/* it may have been created all the same: never send it twice */
		llmb_flight_become(flight, LLMB_VERIFYING);
		llmb_flight_say(flight, "verifying", "creating the batch was not answered (%s): looking for it at the provider",
			llmb_ending_in_words(ending));
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
	if (proves_nothing(flight, ground))
		return;
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

/* In a turn.  Proves nothing, and would go on for ever: from the beginning, later. */
static void
give_up_listing(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	flight->cursor = NULL;
	flight->pages = 0;
	try_later(flight, ending, ground->server, "reading the list of batches, which does not end,");
}

static void
list_ended(LlmbFlight *flight, const LlmbEnding *ending, const LlmbGround *ground)
{
	const LlmbRemoteBatch *found;
	const char *next = ending->reply.next_cursor;
	bool		past = false;
	bool		endless;

	if (flight->cursor == NULL)
		flight->pages = 0;
	if (ending->wire != LLMB_WIRE_OK || ending->reply.fault != LLMB_FAULT_NONE)
	{
		flight->cursor = NULL;
		if (is_about_account(ending))
			refuse_account(flight, ending, ground, "listing batches");
		else
			try_later(flight, ending, ground->server, "listing batches");
		return;
	}
	endless = next && (++flight->pages >= MAX_LIST_PAGES || (flight->cursor && strcmp(flight->cursor, next) == 0));
	if (ground->server->provider->unlabelled)
	{
		if (llmb_verify_page(flight, &ending->reply, ground))
			not_listed(flight, ground);
		else if (endless && flight->cursor)
			give_up_listing(flight, ending, ground);
		return;
	}
	found = find_listed(flight, &ending->reply, &past);
	if (found)
		llmb_flight_adopt(flight, found->id, "found at the provider");
	else if (!past && endless)
		give_up_listing(flight, ending, ground);
	else if (!past && next)
		flight->cursor = llmb_flight_keep(flight, next);
	else
		not_listed(flight, ground);
}

/*
 * In a turn: when to ask again.  One that is being cancelled is not known to
 * take as long as any other.
 */
static int64
next_poll_ms(LlmbFlight *flight, const LlmbRemoteBatch *remote, const LlmbServer *server)
{
	LlmbBatchRow *row = flight->row;
	bool		cancelling = row->state == LLMB_CANCELLING && row->cancelled_at != 0;
	TimestampTz since = cancelling ? row->cancelled_at : row->submitted_at;
	TimestampTz now = GetCurrentTimestamp();
	LlmbSight	sight = {(now - since) / 1000, -1, -1, -1, -1};
	LlmbExpectation expected;

	if (cancelling)
		llmb_cadence_expect(&expected, NULL, 0);
	else
	{
		llmb_store_expect(row->server, row->model, row->item_count, &expected);
		sight.total = remote->total;
		sight.done = remote->done < 0 ? -1 : remote->done + Max(remote->failed, 0);
		if (flight->running_at > since)
		{
			sight.before_ms = (flight->running_at - since) / 1000;
			sight.before_done = flight->running_done;
		}
	}
	flight->running_at = now;
	flight->running_done = sight.done;
	return llmb_cadence_wait_ms(&expected, &sight, server->poll_min_ms, server->poll_max_ms,
								pg_prng_double(&pg_global_prng_state));
}

/* In a turn. */
static void
still_running(LlmbFlight *flight, const LlmbRemoteBatch *remote, const LlmbServer *server, int64 asked_ms)
{
	LlmbBatchRow *row = flight->row;
	int64		done = Min(remote->done, row->item_count);
	int64		failed = Min(Max(remote->failed, 0), row->item_count - Max(done, 0));
	int64		ms = next_poll_ms(flight, remote, server);
	TimestampTz timeout = TimestampTzPlusMilliseconds(row->submitted_at, server->batch_timeout_ms);

	flight->tries = 0;
	llmb_flight_wait(flight, Max(ms, asked_ms));
	/* its end by batch_timeout is no poll, and waits for none */
	if (row->state == LLMB_IN_PROGRESS && timeout > GetCurrentTimestamp())
		flight->next_at = Min(flight->next_at, timeout);
	/* a cancel that was asked for meanwhile, or that never arrived */
	if (row->state == LLMB_CANCELLING && remote->state == LLMB_REMOTE_RUNNING && !flight->cancel_sent)
		llmb_flight_become(flight, LLMB_IN_PROGRESS);
	if (flight->cancel && row->state == LLMB_IN_PROGRESS)
		llmb_flight_wait(flight, row->cancelled_at ? server->poll_min_ms : 0);
	/* an UPDATE per poll would bloat the table: one per twentieth will do */
	if (done >= 0 && (done + failed - row->done - row->failed) * 20 >= row->item_count)
	{
		row->done = (int) done;
		row->failed = (int) failed;
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

/*
 * When the provider ended it: by its own word, as far as that agrees with
 * what was seen of it; else halfway between the last two polls.  0 when
 * nothing can be told, for this process has not seen it run.
 */
static TimestampTz
end_at_provider(const LlmbFlight *flight, const LlmbRemoteBatch *remote)
{
	TimestampTz seen = flight->running_at ? flight->running_at : flight->row->submitted_at;
	TimestampTz now = GetCurrentTimestamp();

	if (seen == 0 || seen > now)
		return 0;
	if (remote->ended_ms > 0)
		return Min(TimestampTzPlusMilliseconds(seen, Max(remote->ended_ms - llmb_epoch_ms(seen), 0)), now);
	return flight->running_at ? seen + (now - seen) / 2 : 0;
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
	row->provider_ended_at = end_at_provider(flight, remote);
	row->ended_at = GetCurrentTimestamp();
	/* whatever is counted, there are no more than there are */
	if (remote->done >= 0)
		row->done = Min(remote->done, row->item_count);
	if (remote->failed >= 0)
		row->failed = Min(remote->failed, row->item_count - row->done);
	llmb_store_grow_enqueued(row->server, row->model, row->forecast_tokens);
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
		llmb_flight_await_mend(flight, ground->server, ground->job,
							   psprintf("%s: the provider refused the batch (%s)",
										remote->fault == LLMB_FAULT_KEY ? "auth" : "quota", code));
	}
	else if (remote->fault == LLMB_FAULT_QUEUE_FULL && !flight->cancel)
		dissolve(flight, ending, ground, code);
	else if (remote->fault == LLMB_FAULT_TOO_LARGE && !flight->cancel && flight->row->item_count > 1)
		split(flight, ground, code);
	else if (remote->fault != LLMB_FAULT_REQUEST || remote->bad_line_count > 0 || !halve(flight, ground, code))
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
	if (answered && ending->reply.fault == LLMB_FAULT_NONE)
		route_is_good(flight);
	if (answered && ending->reply.fault == LLMB_FAULT_GONE)
	{
		gone(flight, ending, ground, "batch");
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
	else if (is_about_account(ending))
		refuse_account(flight, ending, ground, "a poll");
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
		route_is_good(flight);
		flight->part++;
		flight->tries = 0;
		flight->gone = 0;
	}
	else if (ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_GONE)
		gone(flight, ending, ground, "result file");
	else if (is_about_account(ending))
		refuse_account(flight, ending, ground, "fetching results");
	else
		try_later(flight, ending, ground->server, "fetching results");
}

/*
 * In a turn: somebody has dropped the server while the call was out.  Only
 * what the reply says of money must not be lost; the rest is asked again when
 * there is such a server again.
 */
static void
server_dropped(LlmbFlight *flight, const LlmbEnding *ending, const LlmbJob *job)
{
	bool		success = ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_NONE;

	if (ending->verb == LLMB_CALL_CREATE && success && ending->reply.batch.id)
		llmb_flight_adopt(flight, ending->reply.batch.id, "the provider took the batch");
	else if (ending->verb == LLMB_CALL_CREATE && ending->wire != LLMB_WIRE_NOT_SENT)
	{
		llmb_flight_become(flight, LLMB_VERIFYING);
		llmb_flight_say(flight, "verifying", "the server was dropped while the batch was being created (%s): it is looked for when the server is there again",
						llmb_ending_in_words(ending));
	}
	llmb_flight_await_mend(flight, NULL, job, psprintf("server \"%s\" does not exist any more", flight->row->server));
}

void
llmb_reply_ended(LlmbParty *party, LlmbEnding *ending)
{
	LlmbFlight *flight = (LlmbFlight *) party;
	LlmbGround		ground;

	llmb_turn_begin("recording a provider's reply");
	memset(&ground, 0, sizeof(ground));
	ground.job = llmb_flight_job(flight);
	ground.server = llmb_server_by_name(flight->row->server);
	if (ground.server)
		ground.model = llmb_model(ground.server, ground.job->model);
	if (ground.server == NULL)
		server_dropped(flight, ending, ground.job);
	else
	{
		switch (ending->verb)
		{
			case LLMB_CALL_UPLOAD:
			case LLMB_CALL_UPLOAD_DATA:
				upload_ended(flight, ending, &ground);
				break;
			case LLMB_CALL_FIND_FILE:
				find_ended(flight, ending, &ground);
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
		if (ending->wire == LLMB_WIRE_OK && ending->status < 300 && ending->reply.fault == LLMB_FAULT_NONE &&
			ending->reply.batch.fault == LLMB_FAULT_NONE)
			llmb_flight_mended(flight, ground.job);
	}
	llmb_turn_commit();
}
