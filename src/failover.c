/*-------------------------------------------------------------------------
 *
 * failover.c
 *		After a promotion: what the old primary has sent, and its standby
 *		never heard of.
 *
 * A comparison is about one server and one owner's key.  It reads the
 * provider's list of batches back to before the oldest job that is not over.
 * Where listings give our label back, they tell all; where they do not, the
 * unknown batches are read one by one once they have ended, for their
 * custom_ids begin with our token.
 *
 * What bears our token is one of these:
 *
 *		a batch that our tables have, and believe unsent: it is adopted;
 *		a batch that they do not have, of a job that they do: its items are the
 *			next ones that were never sent, so it is adopted with these;
 *		any other: which items it holds is not known.  Its job is paused, and
 *			its owner decides.
 *
 * One list does not show what was made just before the promotion: a provider
 * may take settle_time to list it.  So what the old primary may have sent in a
 * batch waits for a second complete list, later than that; what it cannot have
 * known, and real time, waits for the first.
 *
 * Real time has no lists: that is said.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "failover.h"
#include "fleet.h"
#include "flight.h"
#include "gate.h"
#include "steps.h"
#include "store_home.h"
#include "token.h"
#include "turn.h"

/* How far back before the oldest job, or the promotion, listings are read. */
#define BEFORE_S	3600
/* Pages of one list; more are a list without end. */
#define MAX_PAGES	10000

/* A batch at the provider that bears our token. */
typedef struct Found
{
	char	   *id;
	LlmbToken	token;
	int64		total;
	LlmbRemoteState state;
} Found;

typedef struct Comparison
{
	LlmbParty	party;			/* must be first */
	LlmbGate   *gate;			/* what it opens */
	const char *server;			/* the gate's */
	const char *owner;
	int64		since_s;		/* batches made before are of no interest, epoch seconds */
	int64		until_s;		/* nor those made after: by ourselves */
	TimestampTz list_began;		/* the present one, or the last */
	TimestampTz next_at;
	int			tries;
	bool		told;
	MemoryContext context;		/* of what follows */
	char	   *cursor;
	int			pages;
	int			running;		/* whose contents are not known, and that have not ended */
	List	   *found;			/* of Found */
	List	   *unread;			/* ids of unlabelled ones that have ended */
	List	   *read;			/* and of those that were read */
	char	   *reading;
} Comparison;

typedef struct Unread
{
	char	   *id;
	int64		total;
	LlmbRemoteState state;
} Unread;

static List *comparisons = NIL;
static List *reported = NIL;	/* ids that are told to be uncertain */

/* ---- who compares ---- */

static void comparison_lines(LlmbParty *party, char *lines, size_t len);
static void comparison_ended(LlmbParty *party, LlmbEnding *ending);
static void comparison_failed(LlmbParty *party);

/* The comparison that opens the gate, made when it is first asked for. */
static Comparison *
comparison_of(LlmbGate *gate)
{
	ListCell   *lc;
	MemoryContext old;
	Comparison *comparison;

	foreach(lc, comparisons)
	{
		comparison = lfirst(lc);
		if (comparison->gate == gate)
			return comparison;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	comparison = palloc0(sizeof(Comparison));
	comparison->party.lines = comparison_lines;
	comparison->party.ended = comparison_ended;
	comparison->party.failed = comparison_failed;
	comparison->gate = gate;
	comparison->server = gate->server;
	comparison->owner = gate->owner;
	comparison->context = AllocSetContextCreate(TopMemoryContext, "llm_batch comparison", ALLOCSET_SMALL_SIZES);
	comparisons = lappend(comparisons, comparison);
	MemoryContextSwitchTo(old);
	return comparison;
}

/* ---- small things ---- */

#define say(comparison, kind, ...) \
	llmb_store_event((comparison)->gate->job, 0, kind, __VA_ARGS__)

static void
wait_ms(Comparison *comparison, int64 ms)
{
	comparison->next_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/* The list is read from its beginning. */
static void
begin_anew(Comparison *comparison)
{
	MemoryContextReset(comparison->context);
	comparison->cursor = comparison->reading = NULL;
	comparison->found = comparison->unread = comparison->read = NIL;
	comparison->pages = comparison->running = 0;
}

static void
try_later(Comparison *comparison, const LlmbServer *server, const char *why)
{
	int64		ms = llmb_backoff_ms(++comparison->tries, server->retry_base_ms, server->retry_max_ms, 0.5);

	snprintf(comparison->gate->why, sizeof(comparison->gate->why), LLMB_COMPARING "this server was promoted, and the batches of server \"%s\" "
			 "cannot be compared with ours yet (%s)", comparison->server, why);
	llmb_fleet_look_at_jobs();
	if (comparison->tries <= 3 || (comparison->tries & (comparison->tries - 1)) == 0)
		say(comparison, "retry", "listing the batches of server \"%s\" did not succeed (%s), try %d; the next in %.1f s",
			comparison->server, why, comparison->tries, ms / 1000.0);
	wait_ms(comparison, ms);
}

/* ---- what was found ---- */

static bool
is_ours(const LlmbToken *token)
{
	return token->home == llmb_token_home(GetSystemIdentifier(), MyDatabaseId);
}

static void
note_found(Comparison *comparison, const char *id, const LlmbToken *token, int64 total, LlmbRemoteState state)
{
	MemoryContext old = MemoryContextSwitchTo(comparison->context);
	Found	   *found = palloc0(sizeof(Found));

	found->id = pstrdup(id);
	found->token = *token;
	found->total = total;
	found->state = state;
	comparison->found = lappend(comparison->found, found);
	MemoryContextSwitchTo(old);
}

/* Is this what has become of a batch that our tables have, and they do not know it? */
static bool
is_news(const LlmbFlight *flight, const Found *found)
{
	const LlmbBatchRow *row = flight->row;
	bool		later = found->token.creates > row->creates;

	if (strcmp(row->token, found->token.text) != 0 || row->realtime ||
		(row->remote_id && strcmp(row->remote_id, found->id) == 0))
		return false;
	switch (row->state)
	{
		case LLMB_PLANNED:
		case LLMB_UPLOADING:
			return true;
		case LLMB_SUBMITTING:
		case LLMB_VERIFYING:
			/* our own create may be out; of what failed, the steps of these states learn themselves */
			return !llmb_call_busy(&flight->party) && found->state != LLMB_REMOTE_FAILED &&
				(later || found->token.creates == row->creates || found->token.creates == 0);
		case LLMB_IN_PROGRESS:
		case LLMB_CANCELLING:
			/* the one that we know of was refused, and made once more */
			return later && found->state != LLMB_REMOTE_FAILED;
		default:
			return false;
	}
}

/* Our tables have it.  Do they know that it was sent? */
static void
settle_known(const Found *found)
{
	ListCell   *lc;

	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);
		LlmbBatchRow *row = flight->row;

		if (!is_news(flight, found))
			continue;
		flight->settling = true;
		/* the next create must not be taken for this one */
		row->creates = Max(row->creates, found->token.creates);
		if (found->state == LLMB_REMOTE_FAILED)
			llmb_flight_become(flight, row->state);
		else
		{
			llmb_call_drop(&flight->party);
			llmb_flight_drop_spool(flight);
			llmb_flight_adopt(flight, found->id, "found at the provider after a failover");
		}
		flight->next_at = 0;
	}
}

/* Its items are the next that were never sent, up to its own last. */
static void
adopt_unknown(const LlmbJob *job, const Found *found)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "llm_batch flight", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LlmbBatchRow *row = palloc0(sizeof(LlmbBatchRow));

	row->job = job->id;
	row->owner = pstrdup(job->owner);
	row->server = pstrdup(job->server);
	row->model = pstrdup(job->model);
	row->token = pstrdup(found->token.text);
	row->attempt = 1;
	row->ranges = palloc(sizeof(LlmbRange));
	row->ranges[0].lower = job->planned_to + 1;
	row->ranges[0].upper = (int) (found->token.first + found->total);
	row->ranges[0].position = 0;
	row->range_count = 1;
	row->item_count = row->ranges[0].upper - row->ranges[0].lower;
	row->creates = Max(found->token.creates, 1);
	row->remote_id = pstrdup(found->id);
	row->intent_at = row->submitted_at = GetCurrentTimestamp();
	llmb_store_add_found_batch(row);
	MemoryContextSwitchTo(old);
	llmb_store_event(job->id, row->id, "adopted", "found at the provider after a failover as %s: made by the old primary, "
					 "with items from ordinal %d on; %lld requests", found->id, found->token.first, (long long) found->total);
	llmb_fleet_add(row, NULL, context)->settling = true;
}

/* In a turn: its job goes on when a person says so, and not by itself. */
static void
report(const LlmbJob *job, const Found *found)
{
	bool		ends = llmb_job_is_over(job) || strcmp(job->state, "cancelling") == 0;
	const char *reason = psprintf("uncertain: the old primary has sent batch %s, and which items it holds is not known here; %s",
								  found->id, ends ? "its answers are not fetched" :
								  "resume() sends them, and what was run already is paid twice");
	MemoryContext old;

	llmb_store_event(job->id, 0, "uncertain", "%s", reason);
	if (!ends)
		llmb_store_job_state(job->id, "paused", reason);
	old = MemoryContextSwitchTo(TopMemoryContext);
	reported = lappend(reported, pstrdup(found->id));
	MemoryContextSwitchTo(old);
}

static bool
is_in(const List *ids, const char *id)
{
	ListCell   *lc;

	foreach(lc, ids)
	{
		if (strcmp(lfirst(lc), id) == 0)
			return true;
	}
	return false;
}

static void
settle_unknown(const Found *found)
{
	/* a job that came later may have the number of one that was lost */
	LlmbJob    *job = found->token.job <= llmb_gate_home()->last_job ? llmb_store_job(found->token.job) : NULL;

	if (found->state == LLMB_REMOTE_FAILED || is_in(reported, found->id))
		return;
	if (job == NULL)
	{
		ereport(LOG,
				(errmsg("llm_batch: batch %s was made by the old primary for job %lld, which this server never heard of",
						found->id, (long long) found->token.job)));
		return;
	}
	if (job->ours && !llmb_job_is_over(job) && found->token.first > job->planned_to &&
		found->total > 0 && found->total <= job->total && found->token.first + found->total <= (int64) job->total + 1)
		adopt_unknown(job, found);
	else
		report(job, found);
}

static int
by_first(const ListCell *a, const ListCell *b)
{
	const Found *one = lfirst(a);
	const Found *other = lfirst(b);

	return one->token.first < other->token.first ? -1 : one->token.first > other->token.first;
}

/* What was being sent one by one is not in any list. */
static void
tell_realtime(const Comparison *comparison)
{
	ListCell   *lc;

	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->realtime && strcmp(flight->row->server, comparison->server) == 0 &&
			strcmp(flight->row->owner, comparison->owner) == 0)
			llmb_flight_say(flight, "uncertain", "requests that the old primary sent in real time just before the failover are in "
							"no list: they are sent again, and perhaps paid twice");
	}
}

/* OpenAI counts a batch's requests while it is "validating", a minute or so. */
static bool
is_uncounted(const Found *found)
{
	return found->total <= 0 && found->state < LLMB_REMOTE_ENDED;
}

static bool
is_of(const Comparison *comparison, const LlmbJob *job)
{
	return job && strcmp(job->server, comparison->server) == 0 && strcmp(job->owner, comparison->owner) == 0;
}

/*
 * In a turn: it, or one before it of the same job, is not counted yet.  for_good:
 * that is not waited for; but what is another's is his own comparison's to decide.
 */
static bool
is_early(const Comparison *comparison, const Found *found, bool for_good)
{
	ListCell   *lc;

	if (for_good && is_of(comparison, llmb_store_job(found->token.job)))
		return false;
	foreach(lc, comparison->found)
	{
		const Found *other = lfirst(lc);

		if (other->token.job == found->token.job && is_uncounted(other) && !llmb_store_knows_token(other->token.text))
			return true;
		if (other == found)
			break;
	}
	return false;
}

/* In a turn: what was found is made ours; for good: that is all there will be. */
static void
settle_found(Comparison *comparison, bool for_good)
{
	ListCell   *lc;

	list_sort(comparison->found, by_first);
	foreach(lc, comparison->found)
	{
		const Found *found = lfirst(lc);

		if (llmb_store_knows_token(found->token.text))
			settle_known(found);
		else if (!is_early(comparison, found, for_good))
			settle_unknown(found);
	}
	if (!comparison->gate->listed)
		tell_realtime(comparison);
}

/* In a turn: all is known that can be. */
static void
settle(Comparison *comparison)
{
	settle_found(comparison, true);
	llmb_store_set_compared(comparison->server, comparison->owner, llmb_gate_timeline());
	say(comparison, "compared", "the batches that server \"%s\" has were compared with ours; of this database: %d",
		comparison->server, list_length(comparison->found));
}

/* After the commit: those who wait look whether they may go now. */
static void
let_go(Comparison *comparison, bool done)
{
	ListCell   *lc;

	comparison->gate->listed = true;
	comparison->gate->open = done;
	comparison->found = NIL;
	if (done)
		begin_anew(comparison);
	llmb_fleet_look_at_jobs();
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		flight->settling = false;
		if (strcmp(flight->row->server, comparison->server) == 0 && strcmp(flight->row->owner, comparison->owner) == 0)
			flight->next_at = 0;
	}
}

/* ---- lists ---- */

/* In a turn: one that says nothing of whose it is. */
static void
note_unlabelled(Comparison *comparison, const LlmbRemoteBatch *listed)
{
	MemoryContext old;
	Unread	   *unread;

	if (listed->id == NULL || listed->created_s > comparison->until_s || is_in(comparison->read, listed->id) ||
		llmb_store_knows_remote(comparison->server, listed->id))
		return;
	if (listed->state < LLMB_REMOTE_ENDED)
	{
		comparison->running++;
		return;
	}
	old = MemoryContextSwitchTo(comparison->context);
	unread = palloc0(sizeof(Unread));
	unread->id = pstrdup(listed->id);
	unread->total = listed->total;
	unread->state = listed->state;
	comparison->unread = lappend(comparison->unread, unread);
	MemoryContextSwitchTo(old);
}

/* In a turn: a page; true when it was the last that is of interest. */
static bool
read_page(Comparison *comparison, const LlmbReply *reply, bool unlabelled)
{
	bool		past = false;

	for (int i = 0; i < reply->listed_count; i++)
	{
		const LlmbRemoteBatch *listed = &reply->listed[i];
		LlmbToken	token;

		if (listed->created_s > 0 && listed->created_s < comparison->since_s)
			past = true;
		else if (unlabelled)
			note_unlabelled(comparison, listed);
		else if (listed->id && llmb_token_parse(listed->token, &token) && token.creates > 0 && is_ours(&token))
		{
			note_found(comparison, listed->id, &token, listed->total, listed->state);
			comparison->running += is_uncounted(llast(comparison->found)) && !llmb_store_knows_token(token.text);
		}
	}
	if (past || reply->next_cursor == NULL)
		return true;
	comparison->cursor = MemoryContextStrdup(comparison->context, reply->next_cursor);
	return false;
}

/* Of a list without an end nothing follows. */
static bool
is_endless(Comparison *comparison, const char *next)
{
	return next && (++comparison->pages >= MAX_PAGES || (comparison->cursor && strcmp(comparison->cursor, next) == 0));
}

/* In a turn: what is running tells later what it holds. */
static void
wait_for_running(Comparison *comparison, const LlmbServer *server)
{
	snprintf(comparison->gate->why, sizeof(comparison->gate->why), LLMB_COMPARING "this server was promoted, and of batches at server \"%s\" "
			 "it is not known yet whether they are ours: %d; resume(job, resend => true) does not wait for them, at the risk of paying twice",
			 comparison->server, comparison->running);
	if (!comparison->told)
		say(comparison, "comparing", "batches of server \"%s\" that are not at their end yet, and of which it is not known what they hold: %d; "
			"nothing is sent meanwhile", comparison->server, comparison->running);
	comparison->told = true;
	wait_ms(comparison, Min(llmb_backoff_ms(++comparison->tries, server->poll_min_ms, server->poll_max_ms, 0.5), server->poll_max_ms));
}

/* In a turn: what was made last may not be listed yet. */
static void
wait_for_listing(Comparison *comparison, TimestampTz certain)
{
	snprintf(comparison->gate->why, sizeof(comparison->gate->why), LLMB_COMPARING "this server was promoted, and what the old primary sent just before may "
			 "not be listed by server \"%s\" yet: batches are sent from %s on, or after resume(job, resend => true), at the risk of paying twice",
			 comparison->server, timestamptz_to_str(certain));
	if (!comparison->gate->listed)
		say(comparison, "comparing", "a first list of the batches of server \"%s\" was compared with ours; before batches are sent there is a second, at %s",
			comparison->server, timestamptz_to_str(certain));
	comparison->tries = 0;
	comparison->next_at = certain;
}

typedef enum Pass
{
	PASS_GOES_ON,				/* or is to be tried again */
	PASS_COMPLETE,				/* and another one is to follow */
	PASS_LAST
} Pass;

/* In a turn: the list was read to its end. */
static Pass
end_pass(Comparison *comparison, const LlmbServer *server)
{
	TimestampTz certain = TimestampTzPlusMilliseconds(llmb_gate_home()->seen_at, server->request_timeout_ms + server->settle_time_ms);
	int			running = comparison->running;

	comparison->cursor = NULL;
	comparison->pages = comparison->running = 0;
	/* nobody is left whom the old primary knew, too */
	if (llmb_store_oldest_job(comparison->server, comparison->owner, llmb_gate_home()->last_job) == 0)
		return PASS_LAST;
	if (comparison->unread != NIL)
		return PASS_GOES_ON;
	comparison->running = running;
	if (running > 0)
		wait_for_running(comparison, server);
	else if (comparison->list_began < certain)
		wait_for_listing(comparison, certain);
	else
		return PASS_LAST;
	comparison->running = 0;
	return PASS_COMPLETE;
}

/* In a turn. */
static Pass
list_ended(Comparison *comparison, const LlmbEnding *ending, const LlmbServer *server)
{
	if (ending->wire == LLMB_WIRE_OK && ending->reply.fault == LLMB_FAULT_GONE)
	{
		say(comparison, "uncertain", "server \"%s\" has no list of batches (%s): what the old primary sent just before the failover "
			"is sent again, and perhaps paid twice", comparison->server, llmb_ending_in_words(ending));
		return PASS_LAST;
	}
	if (ending->wire != LLMB_WIRE_OK || ending->reply.fault != LLMB_FAULT_NONE ||
		is_endless(comparison, ending->reply.next_cursor))
	{
		char	   *why = ending->reply.fault == LLMB_FAULT_NONE && ending->wire == LLMB_WIRE_OK ?
			pstrdup("the list does not end") : llmb_ending_in_words(ending);

		begin_anew(comparison);
		try_later(comparison, server, why);
		return PASS_GOES_ON;
	}
	return read_page(comparison, &ending->reply, server->provider->unlabelled) ?
		end_pass(comparison, server) : PASS_GOES_ON;
}

/* ---- results of those without a label ---- */

static void
note_read(Comparison *comparison)
{
	MemoryContext old = MemoryContextSwitchTo(comparison->context);

	comparison->read = lappend(comparison->read, comparison->reading);
	comparison->unread = list_delete_first(comparison->unread);
	comparison->reading = NULL;
	MemoryContextSwitchTo(old);
}

/* The first line with a custom_id says whose it is. */
static bool
read_owner(const Comparison *comparison, char *lines, size_t len, char **custom_id)
{
	size_t		at = 0;

	while (at < len)
	{
		size_t		consumed;
		ssize_t		found = llmb_jsonl_next(lines + at, len - at, &consumed);
		LlmbOutcome outcome = {0};

		if (found < 0)
			found = consumed = len - at;
		lines[at + found] = '\0';
		if (found > 0 && comparison->party.provider->read_line(lines + at, found, &outcome) && outcome.custom_id)
		{
			*custom_id = outcome.custom_id;
			return true;
		}
		at += consumed;
	}
	return false;
}

static void
comparison_lines(LlmbParty *party, char *lines, size_t len)
{
	Comparison *comparison = (Comparison *) party;
	Unread	   *unread = linitial(comparison->unread);
	char	   *custom_id;
	LlmbToken	token;

	if (!read_owner(comparison, lines, len, &custom_id))
		return;
	llmb_call_drop(party);
	if (llmb_token_parse(custom_id, &token) && is_ours(&token))
		note_found(comparison, unread->id, &token, unread->total, unread->state);
	note_read(comparison);
	comparison->next_at = 0;
}

/* In a turn.  Nothing was read that tells whose it is. */
static void
fetch_ended(Comparison *comparison, const LlmbEnding *ending, const LlmbServer *server)
{
	if (ending->wire == LLMB_WIRE_OK && (ending->status == 200 || ending->reply.fault == LLMB_FAULT_GONE))
		note_read(comparison);
	else
		try_later(comparison, server, llmb_ending_in_words(ending));
}

/* ---- calls ---- */

static void
comparison_ended(LlmbParty *party, LlmbEnding *ending)
{
	Comparison *comparison = (Comparison *) party;
	LlmbServer *server;
	Pass		pass = PASS_GOES_ON;

	llmb_turn_begin("comparing batches after a failover");
	server = llmb_server_by_name(comparison->server);
	if (server == NULL || server->provider == NULL)
		wait_ms(comparison, 60000);
	else if (ending->verb == LLMB_CALL_FETCH)
		fetch_ended(comparison, ending, server);
	else
		pass = list_ended(comparison, ending, server);
	if (pass == PASS_COMPLETE)
		settle_found(comparison, false);
	else if (pass == PASS_LAST)
		settle(comparison);
	llmb_turn_commit();
	if (pass != PASS_GOES_ON)
		let_go(comparison, pass == PASS_LAST);
}

static void
comparison_failed(LlmbParty *party)
{
	Comparison *comparison = (Comparison *) party;
	ListCell   *lc;

	llmb_call_drop(party);
	/* what settle() has changed in memory was not committed */
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->settling)
			llmb_steps_failed(&flight->party);
		flight->settling = false;
	}
	begin_anew(comparison);
	wait_ms(comparison, llmb_backoff_ms(++comparison->tries, 1000, 60000, 0.5));
}

/* In a turn: back to when. */
static void
set_bounds(Comparison *comparison)
{
	const LlmbHome *home = llmb_gate_home();
	TimestampTz oldest = llmb_store_oldest_job(comparison->server, comparison->owner, home->last_job);

	oldest = oldest ? Min(oldest, home->seen_at) : home->seen_at;
	comparison->since_s = llmb_epoch_ms(oldest) / 1000 - BEFORE_S;
	comparison->until_s = llmb_epoch_ms(home->seen_at) / 1000 + LLMB_CLOCK_SKEW_S;
}

static void
fill_ref(const Comparison *comparison, const LlmbGround *ground, LlmbBatchRef *ref)
{
	const LlmbServer *server = ground->server;

	memset(ref, 0, sizeof(LlmbBatchRef));
	ref->model = ground->model;
	ref->dialect = &server->dialect;
	ref->base_url = server->base_url;
	ref->organization = server->organization;
	ref->project = server->project;
	ref->cursor = comparison->cursor;
	ref->remote_id = ref->remote_output = comparison->reading;
}

/* In a turn.  Can, and need, the server be asked now? */
static bool
stand(Comparison *comparison, LlmbGround *ground, bool *through)
{
	const char *reason;

	*through = false;
	memset(ground, 0, sizeof(LlmbGround));
	wait_ms(comparison, 60000);
	ground->job = llmb_store_job(comparison->gate->job);
	/* the job itself is paused for that reason when it is planned */
	reason = ground->job ? llmb_ground_obstacle(comparison->server, ground) : "it is gone";
	comparison->gate->asleep = reason && (ground->job == NULL || llmb_job_is_over(ground->job));
	if (reason)
		return false;
	*through = ground->server->provider->answer != NULL || !ground->server->batch;
	return !*through;
}

static void
begin_step(Comparison *comparison)
{
	LlmbGround	ground;
	LlmbBatchRef ref;
	bool		through;
	bool		ready;
	LlmbVerb	verb = comparison->unread ? LLMB_CALL_FETCH : LLMB_CALL_LIST;

	llmb_turn_begin("comparing batches after a failover");
	ready = stand(comparison, &ground, &through);
	if (ready && !comparison->told && comparison->since_s == 0)
		say(comparison, "comparing", "this server was promoted (timeline %d): before anything is sent, the batches of server \"%s\" are compared with ours",
			llmb_gate_timeline(), comparison->server);
	if (ready && comparison->since_s == 0)
		set_bounds(comparison);
	if (through)
		settle(comparison);
	llmb_turn_commit();
	if (through)
		let_go(comparison, true);
	if (!ready)
		return;
	if (verb == LLMB_CALL_LIST && comparison->cursor == NULL)
		comparison->list_began = GetCurrentTimestamp();
	comparison->reading = comparison->unread ? ((Unread *) linitial(comparison->unread))->id : NULL;
	fill_ref(comparison, &ground, &ref);
	if (!llmb_call_start(&comparison->party, ground.server, verb, &ref, ground.key, NULL))
		elog(ERROR, "provider \"%s\" has no list of batches", ground.server->api);
	comparison->next_at = 0;
}

/* What was found by then is made ours all the same. */
void
llmb_failover_waive(const LlmbJob *job)
{
	LlmbGate   *gate = llmb_gate_find(job->server, job->owner);
	Comparison *comparison;

	if (gate == NULL || gate->open)
		return;
	comparison = comparison_of(gate);
	llmb_call_drop(&comparison->party);
	gate->job = job->id;
	settle(comparison);
	say(comparison, "resend", "what may still turn up of server \"%s\" is not waited for, because resume(resend => true) says so; "
		"what the old primary did send is paid twice", comparison->server);
	let_go(comparison, true);
}

static void
step(void *arg)
{
	begin_step(arg);
}

bool
llmb_failover_step(TimestampTz now, TimestampTz *next)
{
	ListCell   *lc;

	foreach(lc, llmb_gates())
	{
		LlmbGate   *gate = lfirst(lc);
		Comparison *comparison;

		if (gate->open || gate->asleep)
			continue;
		comparison = comparison_of(gate);
		if (llmb_call_busy(&comparison->party))
			continue;
		if (comparison->next_at <= now)
		{
			if (!llmb_guarded(step, comparison, "llm_batch: comparing batches after a failover"))
				comparison_failed(&comparison->party);
			return true;
		}
		if (*next == 0 || comparison->next_at < *next)
			*next = comparison->next_at;
	}
	return false;
}
