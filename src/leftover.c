/*-------------------------------------------------------------------------
 *
 * leftover.c
 *		Request files of ours that are still at providers: they are deleted.
 *
 * When a batch is over, its request file is noted in llm_batch.leftover, in
 * the same transaction; the note goes when the provider has deleted the file,
 * or does not know it.  What fails comes again, ever more seldom, and is given
 * up at last: providers let such files expire by themselves.  One call at a
 * time for each server and key, so that a dead provider holds up its own only.
 *
 * Nobody else's files are touched.  A file is deleted when its id stands in a
 * row of ours, or when its name holds the random token of a batch of ours that
 * is over.  In a copy of the database nothing is deleted: the notes are
 * dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "call.h"
#include "ground.h"
#include "health.h"
#include "leftover.h"
#include "turn.h"

/*
 * After so many tries a file is left to expire; with the default of
 * retry_base, 1 s, and waits that double, this is after an hour and more.
 */
#define MAX_TRIES		12
#define MAX_WAIT_MS		(60 * 60 * 1000)
/* A copy of the request file that is still on its way has arrived by then. */
#define USUAL_SETTLE_MS	(15 * 60 * 1000)

typedef struct Removal
{
	LlmbParty	party;			/* must be first */
	MemoryContext context;
	LlmbLeftover *leftover;
	LlmbBatchRow *row;
	char	   *cursor;			/* of a listing; NULL its begin */
	int			pages;
	bool		again;			/* the next page is to be asked for */
	bool		other_route;	/* the key or the address is not that of the create */
} Removal;

static List *removals = NIL;	/* under way */
static bool pending = true;		/* the table is to be looked at */
static TimestampTz next_due = 0;	/* as far as is known; 0 never */

/* ---- whose files ---- */

/* "<token of the batch>_<number of the create>" */
bool
llmb_leftover_is_ours(const LlmbBatchRow *row, const char *label)
{
	size_t		len = strlen(row->token);

	return label != NULL && strncmp(label, row->token, len) == 0 && label[len] == '_' &&
		label[len + 1] != '\0' && strspn(label + len + 1, "0123456789") == strlen(label + len + 1);
}

bool
llmb_leftover_is_past(const LlmbBatchRow *row, const LlmbReply *reply)
{
	int64		oldest = llmb_epoch_ms(row->created_at) / 1000 - LLMB_CLOCK_SKEW_S;

	for (int i = 0; i < reply->file_count; i++)
	{
		if (reply->files[i].created_s > 0 && reply->files[i].created_s < oldest)
			return true;
	}
	return false;
}

/* ---- notes ---- */

void
llmb_leftover_delete(const LlmbBatchRow *row, const char *remote_file, int64 delay_ms)
{
	(void) llmb_store_leave(row, remote_file, delay_ms);
	llmb_leftover_look();
}

void
llmb_leftover_leave(const LlmbBatchRow *row, bool stray)
{
	const LlmbServer *server;

	if (row->realtime || (row->remote_input == NULL && !stray))
		return;
	server = llmb_server_by_name(row->server);
	/* in process there are no files */
	if (server && server->provider && server->provider->answer)
		return;
	if (row->remote_input)
		llmb_leftover_delete(row, row->remote_input, 0);
	if (stray)
		llmb_leftover_delete(row, NULL, server ? server->request_timeout_ms + server->settle_time_ms : USUAL_SETTLE_MS);
}

/* ---- what is under way ---- */

static void
forget(Removal *removal)
{
	llmb_call_drop(&removal->party);
	removals = list_delete_ptr(removals, removal);
	MemoryContextDelete(removal->context);
	pending = true;
}

static bool
is_busy(const LlmbLeftover *leftover)
{
	ListCell   *lc;

	foreach(lc, removals)
	{
		const LlmbLeftover *other = ((Removal *) lfirst(lc))->leftover;

		if (strcmp(other->server, leftover->server) == 0 && strcmp(other->owner, leftover->owner) == 0)
			return true;
	}
	return false;
}

/* ---- tries ---- */

/* How a file is called in events. */
static char *
in_words(const LlmbLeftover *leftover)
{
	return leftover->remote_file ? psprintf("the request file %s", leftover->remote_file) :
		pstrdup("copies of the request file");
}

/* In a turn: it did not go, and comes again, or is left where it is. */
static void
try_later(const LlmbLeftover *leftover, const LlmbBatchRow *row, const LlmbServer *server, const char *why, bool for_good)
{
	int			tries = leftover->tries + 1;
	int64		ms;

	if (for_good || tries >= MAX_TRIES)
	{
		llmb_store_leftover_done(leftover);
		llmb_store_event(row->job, row->id, "file_left", "%s cannot be deleted (%s): left to the provider, which lets it expire",
						 in_words(leftover), why);
		return;
	}
	ms = llmb_backoff_ms(tries, server ? server->retry_base_ms : 1000, MAX_WAIT_MS, pg_prng_double(&pg_global_prng_state));
	llmb_store_leftover_later(leftover, ms);
	if (tries == 1)
		llmb_store_event(row->job, row->id, "file_kept", "%s cannot be deleted now (%s): it is tried again, up to %d times",
						 in_words(leftover), why, MAX_TRIES);
}

/* In a turn: makes the removal's call, or decides without. */
static bool
call(Removal *removal)
{
	const LlmbLeftover *leftover = removal->leftover;
	const LlmbBatchRow *row = removal->row;
	LlmbGround	ground = {.job = llmb_store_job(row->job)};
	const char *reason = ground.job ? llmb_ground_obstacle(row->server, &ground) : "its job is gone";
	const LlmbServer *server = ground.server;
	LlmbBatchRef ref = {0};

	if (reason)
	{
		try_later(leftover, row, server, reason, server == NULL || ground.job == NULL);
		return false;
	}
	removal->other_route = row->route && strcmp(row->route, llmb_ground_route(row, &ground)) != 0;
	ref.organization = server->organization;
	ref.project = server->project;
	ref.dialect = &server->dialect;
	ref.base_url = server->base_url;
	ref.remote_input = leftover->remote_file;
	ref.cursor = removal->cursor;
	if (llmb_call_start(&removal->party, server, leftover->remote_file ? LLMB_CALL_DELETE_FILE : LLMB_CALL_FIND_FILE,
						&ref, ground.key, NULL))
		return true;
	try_later(leftover, row, server, "the provider has no such call", true);
	return false;
}

/* ---- replies ---- */

/* In a turn: notes the copies on a page; true when there may be more of them. */
static bool
take_page(Removal *removal, const LlmbReply *reply)
{
	const LlmbBatchRow *row = removal->row;

	for (int i = 0; i < reply->file_count; i++)
	{
		const LlmbRemoteFile *file = &reply->files[i];

		if (llmb_leftover_is_ours(row, file->token) && llmb_store_leave(row, file->id, 0))
			llmb_store_event(row->job, row->id, "file_copy", "the provider has a copy of the request file, %s: it is deleted", file->id);
	}
	return reply->next_cursor != NULL && !llmb_leftover_is_past(row, reply) && ++removal->pages < LLMB_FILE_PAGES;
}

/* In a turn. */
static void
decide(Removal *removal, const LlmbEnding *ending)
{
	const LlmbLeftover *leftover = removal->leftover;
	const LlmbBatchRow *row = removal->row;
	LlmbFault	fault = ending->reply.fault;

	removal->again = false;
	if (ending->wire == LLMB_WIRE_OK && fault == LLMB_FAULT_NONE && leftover->remote_file == NULL)
	{
		removal->again = take_page(removal, &ending->reply);
		if (removal->again)
			removal->cursor = MemoryContextStrdup(removal->context, ending->reply.next_cursor);
		else
			llmb_store_leftover_done(leftover);
	}
	else if (ending->wire == LLMB_WIRE_OK && fault == LLMB_FAULT_GONE && removal->other_route)
		try_later(leftover, row, llmb_server_by_name(row->server), "the key or the address is another now, where it is not known", false);
	else if (ending->wire == LLMB_WIRE_OK && (fault == LLMB_FAULT_NONE || fault == LLMB_FAULT_GONE))
	{
		llmb_store_leftover_done(leftover);
		if (leftover->tries > 0)
			llmb_store_event(row->job, row->id, "file_deleted", "%s is deleted now", in_words(leftover));
	}
	else
		try_later(leftover, row, llmb_server_by_name(row->server),
				  llmb_ending_in_words(ending), ending->wire == LLMB_WIRE_OK && fault == LLMB_FAULT_REQUEST);
}

static void
removal_ended(LlmbParty *party, LlmbEnding *ending)
{
	Removal    *removal = (Removal *) party;
	bool		goes_on;

	llmb_turn_begin("recording the removal of a request file");
	decide(removal, ending);
	goes_on = removal->again && call(removal);
	llmb_turn_commit();
	if (!goes_on)
		forget(removal);
}

static void
removal_failed(LlmbParty *party)
{
	forget((Removal *) party);
	llmb_leftover_failed();
}

/* ---- steps ---- */

/* In a turn.  True when a call is out. */
static bool
begin(const LlmbLeftover *leftover)
{
	LlmbBatchRow *row = llmb_store_batch(leftover->batch);
	LlmbJob    *job = row ? llmb_store_job(row->job) : NULL;
	LlmbServer *server = row ? llmb_server_by_name(row->server) : NULL;
	MemoryContext context;
	MemoryContext old;
	Removal    *removal;

	/* nobody knows the batch any more, or it is the original's */
	if (job == NULL || !job->ours)
	{
		llmb_store_leftover_done(leftover);
		return false;
	}
	if (server && server->provider && llmb_health_wait(llmb_health_of(server)) != 0)
	{
		/* a dead server is not asked for this; that is no try */
		llmb_store_leftover_wait(leftover, server->retry_max_ms);
		return false;
	}
	context = AllocSetContextCreate(TopMemoryContext, "llm_batch removal", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	removal = palloc0(sizeof(Removal));
	removal->context = context;
	removal->party.ended = removal_ended;
	removal->party.failed = removal_failed;
	removal->row = llmb_store_batch(leftover->batch);
	removal->leftover = palloc(sizeof(LlmbLeftover));
	*removal->leftover = *leftover;
	removal->leftover->server = pstrdup(leftover->server);
	removal->leftover->owner = pstrdup(leftover->owner);
	removal->leftover->remote_file = leftover->remote_file ? pstrdup(leftover->remote_file) : NULL;
	MemoryContextSwitchTo(TopMemoryContext);
	removals = lappend(removals, removal);
	MemoryContextSwitchTo(old);
	if (call(removal))
		return true;
	forget(removal);
	return false;
}

void
llmb_leftover_step(void)
{
	List	   *due;
	ListCell   *lc;

	llmb_turn_begin("removing request files");
	pending = false;
	next_due = 0;
	due = llmb_store_leftovers();
	foreach(lc, due)
	{
		if (!is_busy(lfirst(lc)))
			(void) begin(lfirst(lc));
	}
	/* while one is out, its end leads back here */
	if (removals == NIL)
		next_due = llmb_store_next_leftover();
	llmb_turn_commit();
}

void
llmb_leftover_failed(void)
{
	ListCell   *lc;

	/* one whose call could not be made has no end that leads back here */
	foreach(lc, removals)
	{
		Removal    *removal = lfirst(lc);

		if (llmb_call_busy(&removal->party))
			continue;
		removals = foreach_delete_current(removals, lc);
		MemoryContextDelete(removal->context);
	}
	pending = false;
	next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 60000);
}

void
llmb_leftover_look(void)
{
	pending = true;
}

TimestampTz
llmb_leftover_next(void)
{
	return pending ? 1 : next_due;
}

bool
llmb_leftover_busy(void)
{
	return removals != NIL ||
		(next_due != 0 && next_due < TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 60000));
}
