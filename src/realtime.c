/*-------------------------------------------------------------------------
 *
 * realtime.c
 *		Items that are sent singly.
 *
 * A set of items is planned and spooled like a batch; instead of going to
 * the provider as a file, its requests pass through slots, as many as may be
 * out at a time.  A slot goes
 *
 *		free -> ready -> out -> answered -> free
 *
 * Real time has no lookup: what was sent and not answered before a crash may
 * have been paid, and nobody can tell.  So a slot is marked, one UPDATE for
 * many, in the transaction before its request may go out, and becomes free
 * only with the commit of its result.  At any moment at most
 * realtime_concurrency items of one key are marked and have no result: that
 * is all a crash leaves uncertain.
 *
 * One step is one transaction: what came in since the last is stored, free
 * slots are filled and marked; after the commit the requests go out.  Thus
 * few transactions carry many answers when they come fast, and each answer is
 * stored at once when they come slowly.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "fleet.h"
#include "health.h"
#include "lane.h"
#include "model.h"
#include "realtime.h"
#include "turn.h"

/* An item that finds the provider busy so often is taken as failed for now. */
#define MAX_BUSY		20
/* One event of a kind in so many milliseconds. */
#define EVENT_EVERY_MS	30000	/* and then ever more seldom, down to one in an hour or so */
#define EVENT_DOUBLINGS	7

typedef struct LlmbRealtime LlmbRealtime;

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_READY,					/* marked, to be sent */
	SLOT_OUT,
	SLOT_ANSWERED				/* its outcome is to be stored */
} SlotState;

typedef struct Slot
{
	LlmbParty	party;			/* must be first */
	LlmbRealtime *realtime;
	SlotState	state;
	int			position;		/* in the batch */
	char	   *body;
	size_t		len;
	double		tokens;			/* that it is expected to take */
	int64		sent_ms;
	int			busy;			/* times that the provider was */
	MemoryContext context;		/* of body and outcome */
	LlmbOutcome outcome;
} Slot;

struct LlmbRealtime
{
	LlmbFlight *flight;
	LlmbLaneMember place;		/* in the lane of its key */
	MemoryContext context;
	Slot	   *slots;
	int			slot_count;
	int			marked;			/* as the table has it */
	int			next;			/* position of the spool's next line */
	bool		resend;			/* option on_unanswered */
	double		tokens_per_byte;
	double		tokens_per_answer;
	int64		retry_base_ms;
	int64		retry_max_ms;
	LlmbHealth *health;			/* of the server; NULL before its first request */
	const char *pause_reason;	/* what the provider refused, for the next turn */
	bool		went_well;		/* a request was taken since the last turn */
	char	   *trouble;		/* what holds it up, for the next turn's event */
	int			unanswered;		/* since the last turn */
	TimestampTz told_at;		/* of the last event about trouble */
	int			told;			/* how many of them stood close together */
};

static bool
has_unsent(const LlmbRealtime *realtime)
{
	return realtime->next < realtime->flight->row->item_count && !realtime->flight->cancel;
}

/* ---- slots ---- */

static void
empty_slot(Slot *slot)
{
	LlmbRealtime *realtime = slot->realtime;

	Assert(slot->state != SLOT_FREE && slot->state != SLOT_OUT);
	llmb_lane_give(&realtime->place, slot->len);
	slot->state = SLOT_FREE;
	slot->body = NULL;
	slot->busy = 0;
	memset(&slot->outcome, 0, sizeof(LlmbOutcome));
	MemoryContextReset(slot->context);
}

static char *
keep(Slot *slot, const char *text)
{
	return text ? MemoryContextStrdup(slot->context, text) : NULL;
}

static void
keep_outcome(Slot *slot, const LlmbOutcome *outcome)
{
	slot->outcome = *outcome;
	slot->outcome.custom_id = NULL;
	slot->outcome.answer = keep(slot, outcome->answer);
	slot->outcome.error = keep(slot, outcome->error);
	slot->outcome.finish_reason = keep(slot, outcome->finish_reason);
	slot->outcome.model = keep(slot, outcome->model);
	slot->outcome.request_id = keep(slot, outcome->request_id);
	slot->state = SLOT_ANSWERED;
}

static void
keep_unanswered(Slot *slot, const char *why)
{
	LlmbOutcome outcome = {0};

	outcome.code = LLMB_UNANSWERED;
	outcome.retryable = slot->realtime->resend;
	outcome.error = unconstify(char *, why);
	outcome.input_tokens = outcome.output_tokens = outcome.cached_tokens = -1;
	outcome.cache_write_tokens = outcome.long_write_tokens = outcome.reasoning_tokens = -1;
	keep_outcome(slot, &outcome);
	slot->realtime->unanswered++;
}

/* To be told in the next turn, if nothing was told just before. */
static void
note_trouble(LlmbRealtime *realtime, const char *what)
{
	if (realtime->trouble == NULL)
		realtime->trouble = MemoryContextStrdup(realtime->context, what);
}

/* ---- replies: no transaction here, the next step has one for all ---- */

/*
 * While the server fails whoever asks, its failures are not charged to the
 * item that went to see; that it is the item that makes it fail is believed
 * after MAX_BUSY of them.
 */
static LlmbFault
fault_of(const LlmbRealtime *realtime, const LlmbEnding *ending)
{
	if (ending->status >= 500 && !llmb_health_is_good(realtime->health))
		return LLMB_FAULT_BUSY;
	return ending->reply.fault;
}

static LlmbPaceEnd
end_slot(Slot *slot, const LlmbEnding *ending)
{
	LlmbRealtime *realtime = slot->realtime;
	char	   *words = llmb_ending_in_words(ending);

	if (ending->wire == LLMB_WIRE_NOT_SENT)
	{
		slot->state = SLOT_READY;
		note_trouble(realtime, psprintf("requests do not reach the provider (%s)", words));
		return LLMB_PACE_LOST;
	}
	if (ending->wire != LLMB_WIRE_OK)
	{
		keep_unanswered(slot, psprintf("the request was sent and not answered: %s", words));
		return LLMB_PACE_LOST;
	}
	switch (fault_of(realtime, ending))
	{
		case LLMB_FAULT_BUSY:
			if (++slot->busy < MAX_BUSY)
				slot->state = SLOT_READY;
			else
				keep_outcome(slot, &ending->outcome);
			/* who fails everybody is waited for by the breaker, not by the pace */
			if (ending->reply.fault != LLMB_FAULT_BUSY)
			{
				note_trouble(realtime, psprintf("the provider fails (%s)", words));
				return LLMB_PACE_ANSWERED;
			}
			note_trouble(realtime, psprintf("the provider asks to slow down (%s)", words));
			return LLMB_PACE_BUSY;
		case LLMB_FAULT_KEY:
		case LLMB_FAULT_QUOTA:
			slot->state = SLOT_READY;
			realtime->pause_reason = ending->reply.fault == LLMB_FAULT_KEY ? "auth" : "quota";
			note_trouble(realtime, words);
			return LLMB_PACE_ANSWERED;
		default:
			realtime->went_well |= ending->reply.fault != LLMB_FAULT_RETRY;
			keep_outcome(slot, &ending->outcome);
			/* a success that cannot be read: it ran */
			slot->outcome.perhaps_run = ending->status >= 200 && ending->status < 300;
			if (slot->outcome.perhaps_run && slot->outcome.code == LLMB_PROVIDER_ERROR)
				slot->outcome.retryable &= realtime->resend;
			return LLMB_PACE_ANSWERED;
	}
}

static void
slot_ended(LlmbParty *party, LlmbEnding *ending)
{
	Slot	   *slot = (Slot *) party;
	LlmbRealtime *realtime = slot->realtime;
	LlmbPace   *pace = &realtime->place.lane->pace;
	int64		now = llmb_now_ms();
	LlmbPaceEnd end = end_slot(slot, ending);
	int64		backoff = llmb_backoff_ms(pace->blocks + 1, realtime->retry_base_ms, realtime->retry_max_ms, 0.5);

	llmb_pace_ended(pace, end, slot->sent_ms, now, ending->reply.retry_after_ms, backoff);
	llmb_pace_limits(pace, &ending->limits, now);
	realtime->flight->next_at = 0;
	llmb_lane_wake_for_pace(realtime->place.lane);
}

/* Something of ours threw while its reply was read. */
static void
slot_failed(LlmbParty *party)
{
	Slot	   *slot = (Slot *) party;
	LlmbLane   *lane = slot->realtime->place.lane;

	if (slot->state != SLOT_OUT)
		return;
	llmb_pace_ended(&lane->pace, LLMB_PACE_ANSWERED, slot->sent_ms, llmb_now_ms(), -1, 0);
	keep_unanswered(slot, "the reply could not be read; the server's log tells why");
	slot->realtime->flight->next_at = 0;
	llmb_lane_wake_for_pace(lane);
}

static void
slot_lines(LlmbParty *party, char *lines, size_t len)
{
	(void) party;
	(void) lines;
	(void) len;
	elog(ERROR, "a real-time reply is no stream of lines");
}

/* ---- the turn ---- */

/* Slots in that state; positions and outcomes, in the current context. */
static int
answered_slots(LlmbRealtime *realtime, int *positions, LlmbOutcome **outcomes)
{
	int			count = 0;

	for (int i = 0; i < realtime->slot_count; i++)
	{
		Slot	   *slot = &realtime->slots[i];

		if (slot->state != SLOT_ANSWERED)
			continue;
		positions[count] = slot->position;
		outcomes[count++] = &slot->outcome;
	}
	return count;
}

static Slot *
free_slot(LlmbRealtime *realtime)
{
	for (int i = 0; i < realtime->slot_count; i++)
	{
		if (realtime->slots[i].state == SLOT_FREE)
			return &realtime->slots[i];
	}
	return NULL;
}

/* Readies the requests of as many items as there is room for. */
static void
fill_slots(LlmbRealtime *realtime, int count)
{
	LlmbFlight *flight = realtime->flight;
	Slot	   *slot;

	while (count > 0 && realtime->next < flight->row->item_count &&
		   llmb_lane_has_memory(&realtime->place) && (slot = free_slot(realtime)) != NULL)
	{
		size_t		len;
		char	   *line = llmb_spool_line(flight->spool, realtime->next == 0, &len);

		if (line == NULL)
			elog(ERROR, "the request file of batch " INT64_FORMAT " is short", flight->row->id);
		slot->position = realtime->next++;
		/* one that came out of order before a restart may have its result */
		if (flight->intake.seen[slot->position])
			continue;
		slot->body = MemoryContextAlloc(slot->context, len + 1);
		memcpy(slot->body, line, len + 1);
		slot->len = len;
		slot->tokens = len * realtime->tokens_per_byte + realtime->tokens_per_answer;
		slot->state = SLOT_READY;
		llmb_lane_take(&realtime->place, len);
		count--;
	}
}

/* Connections are bounded; polls and files need some, too. */
static int
places(const LlmbServer *server)
{
	return Min((int) server->realtime_concurrency, Max(llmb_http_capacity() - 16, 1));
}

static void
read_options(LlmbRealtime *realtime, const LlmbGround *ground)
{
	const LlmbServer *server = ground->server;
	const LlmbBatchRow *row = realtime->flight->row;
	const LlmbIntake *intake = &realtime->flight->intake;
	LlmbForecast forecast;

	realtime->resend = server->resend_unanswered;
	realtime->retry_base_ms = server->retry_base_ms;
	realtime->retry_max_ms = server->retry_max_ms;
	llmb_pace_set(&realtime->place.lane->pace, places(server), server->requests_per_minute,
				  server->tokens_per_minute, llmb_now_ms());
	if (server->tokens_per_minute == 0)
		return;
	/* what answers have taken is nearer to the truth than any forecast */
	if (intake->with_usage > 0)
	{
		realtime->tokens_per_byte = 0;
		realtime->tokens_per_answer = (intake->input_tokens + intake->output_tokens) / (double) intake->with_usage;
		return;
	}
	llmb_forecast(server, ground->model, row->text_bytes, row->item_count, 0, &forecast);
	realtime->tokens_per_byte = forecast.input_tokens / (double) Max(row->file_bytes, 1);
	realtime->tokens_per_answer = forecast.output_tokens / (double) Max(row->item_count, 1);
}

/* In a turn. */
static void
tell(LlmbRealtime *realtime)
{
	LlmbFlight *flight = realtime->flight;
	TimestampTz now = GetCurrentTimestamp();
	int64		gap = (int64) EVENT_EVERY_MS << Min(realtime->told, EVENT_DOUBLINGS);

	if (realtime->unanswered > 0)
		llmb_flight_say(flight, "unanswered", "requests that were sent and not answered: %d%s", realtime->unanswered,
						realtime->resend ? "; they are sent again, and perhaps paid twice (on_unanswered)" : "");
	if (realtime->trouble && realtime->pause_reason == NULL && now >= TimestampTzPlusMilliseconds(realtime->told_at, gap))
	{
		/* after a quiet time it is news again */
		realtime->told = now >= TimestampTzPlusMilliseconds(realtime->told_at, gap * 4) ? 0 : realtime->told + 1;
		llmb_flight_say(flight, "slowed", "%s; at a time now: %d, the next in %.1f s", realtime->trouble,
						(int) realtime->place.lane->pace.limit,
						Max(realtime->place.lane->pace.blocked_until_ms - llmb_now_ms(), 0) / 1000.0);
		realtime->told_at = now;
	}
}

/* In a turn: the provider refused the key, or wants money. */
static void
pause_refused(LlmbRealtime *realtime)
{
	LlmbFlight *flight = realtime->flight;

	llmb_flight_await_mend(flight, flight->intake.server, llmb_flight_job(flight),
						   psprintf("%s: the provider refused a request (%s)", realtime->pause_reason,
									realtime->trouble ? realtime->trouble : "no reason given"));
}

/* What was to be told or done is told and done, once the turn is committed. */
static void
forget_trouble(LlmbRealtime *realtime)
{
	if (realtime->trouble)
		pfree(realtime->trouble);
	realtime->trouble = NULL;
	realtime->pause_reason = NULL;
	realtime->went_well = false;
	realtime->unanswered = 0;
}

/*
 * How many more requests the job can pay, those that are held and not being
 * stored counted by what they are expected to cost.
 */
static int
affordable(const LlmbRealtime *realtime, const LlmbJob *job)
{
	const LlmbBatchRow *row = realtime->flight->row;
	double		forecast = row->forecast_cost ? strtod(row->forecast_cost, NULL) : 0;
	double		others = LLMB_BUDGET_MARGIN * Max(job->flying_cost - forecast, 0);	/* batches of the job */
	double		each = forecast / Max(row->item_count, 1);

	/* what answers have cost is nearer to the truth than any forecast */
	each = Max(each, realtime->flight->intake.dearest);
	if (job->max_cost < 0 || each <= 0)
		return realtime->slot_count;
	/* what is stored in this turn is not in job->cost yet */
	return (int) Min(Max((job->max_cost - job->cost - others) / each - realtime->place.held, 0), realtime->slot_count);
}

/*
 * While the job awaits a mend one request at a time goes to see: whether one
 * more may be readied for that.
 */
static int
may_look(const LlmbRealtime *realtime)
{
	return realtime->place.held == 0 ? 1 : 0;
}

static bool
is_out(const LlmbRealtime *realtime)
{
	for (int i = 0; i < realtime->slot_count; i++)
	{
		if (realtime->slots[i].state == SLOT_OUT)
			return true;
	}
	return false;
}

/* In a turn: pauses the job when it can pay no further request. */
static bool
within_budget(LlmbRealtime *realtime, const LlmbJob *job)
{
	if (realtime->place.held > 0 || !has_unsent(realtime) || affordable(realtime, job) > 0)
		return true;
	llmb_flight_pause(realtime->flight, job, llmb_budget_reason(job));
	return false;
}

/*
 * Stores what has come, then fills what that sets free.  Returns whether
 * requests may go out.
 */
static bool
take_turn(LlmbRealtime *realtime, LlmbGround *ground)
{
	LlmbFlight *flight = realtime->flight;
	int		   *positions = palloc(sizeof(int) * realtime->slot_count);
	LlmbOutcome **outcomes = palloc(sizeof(LlmbOutcome *) * realtime->slot_count);
	int			count;
	int			succeeded = 0;
	bool		ready;

	llmb_turn_begin("sending requests in real time");
	if (realtime->pause_reason)
		pause_refused(realtime);
	else if (realtime->went_well)
		llmb_flight_mended(flight, llmb_flight_job(flight));
	ready = llmb_flight_stand(flight, ground, true) && !flight->cancel && within_budget(realtime, ground->job);
	flight->intake.no_retry = flight->cancel;
	count = answered_slots(realtime, positions, outcomes);
	if (count > 0)
		succeeded = llmb_store_outcomes(&flight->intake, outcomes, positions, count);
	if (ready)
	{
		read_options(realtime, ground);
		/*
		 * What is stored in this turn makes room with the same commit.  While
		 * the provider wants us to wait, nothing is marked.
		 */
		if (realtime->place.lane->pace.blocked_until_ms <= llmb_now_ms())
			fill_slots(realtime, Min(llmb_lane_room(&realtime->place, count), ground->looking ? may_look(realtime) :
									 affordable(realtime, ground->job)));
		flight->row->marked = Max(flight->row->marked, realtime->next);
	}
	tell(realtime);
	if (count > 0 || flight->row->marked != realtime->marked)
	{
		flight->row->done = flight->intake.seen_count + count;
		llmb_flight_become(flight, flight->row->state);
	}
	llmb_turn_commit();

	/* some may be queued again, for a time that the job's next look takes note of */
	if (succeeded < count || flight->intake.stored)
		llmb_fleet_look_at_jobs();
	flight->intake.stored = false;
	realtime->marked = flight->row->marked;
	llmb_outcomes_stored(&flight->intake, positions, count, succeeded);
	for (int i = 0; count > 0 && i < realtime->slot_count; i++)
	{
		if (realtime->slots[i].state == SLOT_ANSWERED)
			empty_slot(&realtime->slots[i]);
	}
	forget_trouble(realtime);
	flight->tries = flight->throws = 0;
	return ready;
}

/* ---- sending ---- */

/* May one more go out now?  If not, sets when it may. */
static bool
may_send(LlmbRealtime *realtime, const LlmbServer *server, double tokens)
{
	LlmbLaneMember *place = &realtime->place;
	int64		held;
	int64		wait = llmb_pace_wait(&place->lane->pace, tokens, llmb_now_ms());

	realtime->health = llmb_health_of(server);
	held = llmb_health_wait(realtime->health);
	if (held != 0)
		llmb_flight_wait(realtime->flight, held > 0 ? held : 1000);
	else if (wait > 0)
		llmb_flight_wait(realtime->flight, wait);
	else if (wait < 0 || llmb_lane_yields(place))
		place->wants_pace = true;
	else
		return true;
	return false;
}

static void
send_slot(Slot *slot, const LlmbGround *ground, const LlmbBatchRef *ref)
{
	LlmbLaneMember *place = &slot->realtime->place;

	slot->party.body = slot->body;
	slot->party.body_len = slot->len;
	slot->sent_ms = llmb_now_ms();
	if (!llmb_call_start(&slot->party, ground->server, LLMB_CALL_ANSWER, ref, ground->key, NULL))
		elog(ERROR, "provider \"%s\" cannot answer in real time", ground->server->api);
	slot->state = SLOT_OUT;
	llmb_pace_sent(&place->lane->pace, slot->tokens);
	llmb_lane_sent(place);
}

/*
 * Sends what may go; sets when the next may.  Those that found the provider
 * busy go after the others.
 */
static void
send_ready(LlmbRealtime *realtime, const LlmbGround *ground)
{
	LlmbBatchRef ref;

	llmb_flight_ref(realtime->flight, ground, &ref);
	for (int pass = 0; pass < 2; pass++)
	{
		for (int i = 0; i < realtime->slot_count; i++)
		{
			Slot	   *slot = &realtime->slots[i];

			if (slot->state != SLOT_READY || (slot->busy > 0) != (pass > 0))
				continue;
			realtime->place.has_ready = true;
			if (ground->looking && is_out(realtime))
				return;
			if (!may_send(realtime, ground->server, slot->tokens))
				return;
			send_slot(slot, ground, &ref);
		}
	}
	realtime->place.has_ready = false;
}

/* ---- beginnings and ends ---- */

/*
 * Twice as many slots as may be held: those whose answers are being stored
 * are free only when that is committed, and the next are readied before.
 */
static LlmbRealtime *
make_slots(LlmbFlight *flight)
{
	MemoryContext context = AllocSetContextCreate(flight->context, "llm_batch real time", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LlmbRealtime *realtime = palloc0(sizeof(LlmbRealtime));

	realtime->flight = flight;
	realtime->context = context;
	realtime->marked = flight->row->marked;
	realtime->slot_count = 2 * Min(places(flight->intake.server), flight->row->item_count);
	realtime->slots = palloc0(sizeof(Slot) * realtime->slot_count);
	for (int i = 0; i < realtime->slot_count; i++)
	{
		Slot	   *slot = &realtime->slots[i];

		slot->realtime = realtime;
		slot->party.lines = slot_lines;
		slot->party.ended = slot_ended;
		slot->party.failed = slot_failed;
		slot->context = AllocSetContextCreate(context, "llm_batch slot", ALLOCSET_SMALL_SIZES);
	}
	MemoryContextSwitchTo(old);
	return realtime;
}

/* Items that were marked before a restart and have no result, from 1. */
static int
uncertain_items(const LlmbFlight *flight, int *positions)
{
	int			count = 0;

	for (int i = 0; i < flight->row->marked; i++)
	{
		if (!flight->intake.seen[i])
			positions[count++] = i + 1;
	}
	return count;
}

/*
 * Lines that were marked are not sent again from here.  While some are not,
 * no item of the set is planned anew, so the file has all lines; later some
 * may have been sent again and answered, and their prompts be gone.
 */
static void
skip_marked(LlmbRealtime *realtime)
{
	const LlmbBatchRow *row = realtime->flight->row;
	size_t		len;

	if (row->marked >= row->item_count)
		realtime->next = row->item_count;
	while (realtime->next < realtime->flight->row->marked)
	{
		if (llmb_spool_line(realtime->flight->spool, realtime->next == 0, &len) == NULL)
			elog(ERROR, "the request file of batch " INT64_FORMAT " is short", realtime->flight->row->id);
		realtime->next++;
	}
}

/* After a restart: some of these may have been sent, and paid. */
static void
decide_uncertain(LlmbFlight *flight)
{
	int		   *positions = palloc(sizeof(int) * Max(flight->row->marked, 1));
	int			count = uncertain_items(flight, positions);
	bool		resend = flight->intake.server->resend_unanswered;

	if (count == 0)
		return;
	llmb_turn_begin("looking after interrupted requests");
	llmb_flight_say(flight, "unanswered", "the worker stopped while requests were out; unanswered at most: %d%s", count,
					resend ? "; they are sent again, and perhaps paid twice (on_unanswered)" : "");
	llmb_turn_commit();
	llmb_take_named(&flight->intake, positions, count, LLMB_UNANSWERED, resend,
					"the worker stopped before an answer was stored");
}

/* In a turn: the provider in our own process needs no sending. */
static void
end_in_process(LlmbFlight *flight)
{
	flight->row->ended_at = GetCurrentTimestamp();
	flight->row->remote_end = llmb_flight_keep(flight, "ended");
	llmb_flight_become(flight, LLMB_ENDED);
}

/* In a turn, on good ground. */
static void
begin_sending(LlmbFlight *flight, const LlmbGround *ground)
{
	if (flight->row->state == LLMB_PLANNED)
	{
		flight->row->intent_at = flight->row->submitted_at = GetCurrentTimestamp();
		llmb_flight_become(flight, LLMB_IN_PROGRESS);
		llmb_flight_say(flight, "submitted", "sending one by one, at most %d at a time",
						places(ground->server));
	}
	llmb_flight_spool(flight, ground);
}

/* False when there is nothing to send, or not now. */
static bool
begin(LlmbFlight *flight)
{
	LlmbGround	ground;
	LlmbRealtime *realtime;
	bool		sending;

	llmb_turn_begin("beginning to send in real time");
	sending = llmb_flight_stand(flight, &ground, true) && llmb_flight_open_intake(flight);
	if (sending)
		begin_sending(flight, &ground);
	if (sending && ground.server->provider->answer)
	{
		end_in_process(flight);
		sending = false;
	}
	llmb_turn_commit();
	if (!sending)
		return false;
	decide_uncertain(flight);
	realtime = make_slots(flight);
	skip_marked(realtime);
	llmb_lane_join(&realtime->place, flight->row->server, flight->row->owner, &flight->next_at);
	flight->realtime = realtime;
	return true;
}

static void
end(LlmbFlight *flight)
{
	LlmbIntake *intake = &flight->intake;

	intake->no_retry = flight->cancel;
	intake->cancelled_as = flight->cancel ? flight->cancel_code : LLMB_CANCELLED_ITEM;
	llmb_turn_begin("ending real-time requests");
	if (flight->cancel && flight->cancel_code != LLMB_CANCELLED_ITEM)
		flight->row->error_code = llmb_flight_keep(flight, llmb_code_name(flight->cancel_code));
	flight->row->remote_end = llmb_flight_keep(flight, flight->cancel ? "cancelled" : "ended");
	flight->row->ended_at = GetCurrentTimestamp();
	flight->row->done = intake->seen_count;
	llmb_flight_become(flight, LLMB_ENDED);
	llmb_turn_commit();
	llmb_realtime_free(flight);
	llmb_flight_finalize(flight);
}

/*
 * Slots that are ready while nothing may be sent (the job is paused, the key
 * is refused) leave their places to other jobs of the key.  Their items stay
 * marked: a crash meanwhile counts them as uncertain, though they never went.
 */
static void
park(LlmbRealtime *realtime, bool parking)
{
	int			ready = 0;
	size_t		bytes = 0;

	for (int i = 0; parking && i < realtime->slot_count; i++)
	{
		if (realtime->slots[i].state == SLOT_READY)
		{
			ready++;
			bytes += realtime->slots[i].len;
		}
	}
	llmb_lane_park(&realtime->place, ready, bytes);
	realtime->place.has_ready &= !parking;
}

/* What was never sent because its end was asked for. */
static void
release_ready(LlmbRealtime *realtime)
{
	for (int i = 0; i < realtime->slot_count; i++)
	{
		if (realtime->slots[i].state == SLOT_READY)
			empty_slot(&realtime->slots[i]);
	}
}

void
llmb_realtime_step(LlmbFlight *flight)
{
	LlmbRealtime *realtime;
	LlmbLaneMember *place;
	LlmbGround	ground;
	bool		ready;

	if (flight->realtime == NULL && !begin(flight))
		return;
	realtime = flight->realtime;
	place = &realtime->place;
	place->wants_place = place->wants_pace = false;
	llmb_lane_share(place, has_unsent(realtime));
	/* the end of a request, or of a wait, makes it due again */
	llmb_flight_wait(flight, 60000);
	ready = take_turn(realtime, &ground);
	park(realtime, !ready && !flight->cancel);
	if (flight->cancel)
		release_ready(realtime);
	else if (ready)
		send_ready(realtime, &ground);
	/* who only looks whether all is mended takes no place from others */
	llmb_lane_share(place, ready && !ground.looking && has_unsent(realtime));
	flight->unsent = has_unsent(realtime);
	llmb_lane_wake(place->lane);
	if (place->held == 0 && !has_unsent(realtime))
		end(flight);
	else if (place->sharing && llmb_lane_room(place, 0) > 0 && llmb_lane_has_memory(place))
		llmb_flight_wait(flight, Max(place->lane->pace.blocked_until_ms - llmb_now_ms(), 0));
	else
		place->wants_place = place->sharing;
}

/* What is out stays out, and is taken in later; but others need not wait. */
void
llmb_realtime_failed(LlmbFlight *flight)
{
	flight->realtime->place.has_ready = false;
	llmb_lane_share(&flight->realtime->place, false);
	llmb_lane_wake(flight->realtime->place.lane);
}

void
llmb_realtime_free(LlmbFlight *flight)
{
	LlmbRealtime *realtime = flight->realtime;

	if (realtime == NULL)
		return;
	park(realtime, false);
	for (int i = 0; i < realtime->slot_count; i++)
	{
		Slot	   *slot = &realtime->slots[i];

		if (slot->state == SLOT_OUT)
		{
			llmb_call_drop(&slot->party);
			realtime->place.lane->pace.out--;
			llmb_lane_wake_for_pace(realtime->place.lane);
			slot->state = SLOT_READY;
		}
		if (slot->state != SLOT_FREE)
			empty_slot(slot);
	}
	llmb_lane_leave(&realtime->place);
	flight->realtime = NULL;
	MemoryContextDelete(realtime->context);
}
