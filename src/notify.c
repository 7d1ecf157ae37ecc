/*-------------------------------------------------------------------------
 *
 * notify.c
 *		NOTIFY llm_batch: what becomes of jobs, for whoever listens.
 *
 * The worker alone tells, with the commit of the turn that made the change:
 * what is rolled back nobody hears of, and no session of a user's has
 * notifications of ours in its transaction (PREPARE TRANSACTION would refuse
 * it).  Changes are noted in the turn and put into words at its end, so that
 * a turn tells of a job once, with the counters that it leaves behind.
 *
 * A change of state is told at once.  Counts are told at most once in
 * COUNTS_MS for each job; what was held back is told when that time is over,
 * or with the next change of state, whichever comes first.
 *
 * Whoever listens in the database hears it, so a payload has numbers, names
 * and labels, and no text: of a reason only its first word.  It is plain
 * ASCII, since an error in a listener's conversion would be the listener's.
 *
 * Harm that notifications could do us: a listener that does not read lets
 * the server's one queue fill up, and every commit that notifies then fails.
 * So nothing is told while more of it is unread than any listener should
 * leave, and what goes wrong in here is caught in a subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "notify.h"
#include "sql.h"
#include "turn.h"

#define CHANNEL		"llm_batch"

/* Counts of one job are told this often at most. */
#define COUNTS_MS	5000

/* A payload is shorter than 8000 bytes; async.c: NOTIFY_PAYLOAD_MAX_LENGTH. */
#define MAX_PAYLOAD	7900

/*
 * How much of the server's queue may be unread for us to add to it: 80 MB,
 * the hundredth part of its 8 GB (async.c: QUEUE_MAX_PAGE; a setting since
 * 17).  Of a queue that was made small, a half.
 */
#define UNREAD_PAGES	10486
#define QUEUE_PAGES		1048576

/* That something went wrong here is said this often at most. */
#define COMPLAIN_MS	60000

/* Of a reason's first word. */
#define MAX_REASON_CODE	40

bool		llmb_notify = true;

/* ---- notes of a turn ---- */

typedef struct Note
{
	int64		job;
	bool		state;			/* not only counters */
	char	   *before;			/* "<state>[ <reason>]" when the turn began, or NULL */
	struct Note *next;
} Note;

static Note *notes = NULL;		/* in TopTransactionContext */
static bool in_turn = false;

void
llmb_notify_turn_begins(void)
{
	notes = NULL;
	in_turn = true;
}

bool
llmb_notify_is_told(void)
{
	return in_turn;
}

static Note *
note_of(int64 job)
{
	Note	   *note;

	for (note = notes; note; note = note->next)
	{
		if (note->job == job)
			return note;
	}
	note = MemoryContextAllocZero(TopTransactionContext, sizeof(Note));
	note->job = job;
	note->next = notes;
	notes = note;
	return note;
}

void
llmb_notify_state(int64 job, const char *before)
{
	Note	   *note;

	if (!in_turn || !llmb_notify)
		return;
	note = note_of(job);
	if (!note->state && before)
		note->before = MemoryContextStrdup(TopTransactionContext, before);
	note->state = true;
}

void
llmb_notify_counts(int64 job)
{
	if (in_turn && llmb_notify)
		(void) note_of(job);
}

/* ---- what jobs were told of ---- */

typedef struct Told
{
	int64		job;			/* hash key; must be first */
	TimestampTz at;				/* the last time */
	TimestampTz due;			/* held back until then; 0 nothing is */
} Told;

static HTAB *told = NULL;
static TimestampTz next_due = 0;	/* of all; may be too early, never too late */

static Told *
told_of(int64 job)
{
	Told	   *entry;
	bool		found;

	if (told == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64), .entrysize = sizeof(Told), .hcxt = TopMemoryContext};

		told = hash_create("llm_batch told", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(told, &job, HASH_ENTER, &found);
	if (!found)
		entry->at = entry->due = 0;
	return entry;
}

static void
forget(int64 job)
{
	if (told)
		(void) hash_search(told, &job, HASH_REMOVE, NULL);
}

static void
hold_back(Told *entry, TimestampTz until)
{
	entry->due = until;
	if (next_due == 0 || until < next_due)
		next_due = until;
}

static void
forget_all(void)
{
	if (told)
		hash_destroy(told);
	told = NULL;
	next_due = 0;
}

TimestampTz
llmb_notify_next(void)
{
	return next_due;
}

/* ---- payloads ---- */

/* A job as it is, at the end of the turn. */
typedef struct Fact
{
	char	   *state;
	char	   *reason;
	char	   *owner;
	char	   *server;
	char	   *model;
	char	   *task;
	char	   *labels;			/* JSON */
	char	   *cost;			/* USD, a number; NULL unknown */
	int64		counts[9];
	int64		eta;			/* seconds; -1 unknown */
	bool		over;
} Fact;

static const char *const count_names[] = {
	"total", "queued", "in_flight", "succeeded", "failed", "cancelled", "unapplied", "uncertain", "cost_unknown"
};

/* False when there is no such job (any more). */
static bool
read_fact(int64 job, Fact *fact)
{
	LlmbRows   *rows = llmb_sql("SELECT j.state, j.reason, j.owner, j.server, j.model, j.task, j.labels::text, j.cost::text, "
								" j.total, j.queued, j.in_flight, j.succeeded, j.failed, j.cancelled, j.unapplied, j.uncertain, j.cost_unknown, "
								" j.finished_at IS NOT NULL, "
								" CASE WHEN j.finished_at IS NULL THEN COALESCE((SELECT pg_catalog.extract('epoch', p.eta)::bigint "
								"  FROM llm_batch.progress p WHERE p.job_id = j.id), -1) ELSE -1 END "
								"FROM llm_batch.job j WHERE j.id = $1", "l", job);
	bool		found = llmb_row_count(rows) > 0;

	if (found)
	{
		fact->state = llmb_row_text(rows, 0, 1);
		fact->reason = llmb_row_text(rows, 0, 2);
		fact->owner = llmb_row_text(rows, 0, 3);
		fact->server = llmb_row_text(rows, 0, 4);
		fact->model = llmb_row_text(rows, 0, 5);
		fact->task = llmb_row_text(rows, 0, 6);
		fact->labels = llmb_row_text(rows, 0, 7);
		fact->cost = llmb_row_text(rows, 0, 8);
		for (int i = 0; i < (int) lengthof(count_names); i++)
			fact->counts[i] = llmb_row_int(rows, 0, 9 + i);
		fact->over = llmb_row_bool(rows, 0, 18);
		fact->eta = llmb_row_int(rows, 0, 19);
	}
	llmb_sql_done(rows);
	return found;
}

/*
 * A reason is for people and may quote what a provider said; its first word,
 * where a colon ends it, is ours, and so are these texts.  What else a job is
 * paused for has to be set up: servers, mappings, privileges.
 */
static char *
reason_code(const char *state, const char *reason)
{
	size_t		len;

	if (reason == NULL || *reason == '\0')
		return NULL;
	len = strspn(reason, "abcdefghijklmnopqrstuvwxyz_");
	if (len > 0 && len <= MAX_REASON_CODE && reason[len] == ':')
		return pnstrdup(reason, len);
	if (strcmp(reason, "paused by request") == 0)
		return "requested";
	if (strcmp(reason, "restored") == 0)
		return "restored";
	if (strncmp(reason, "planning failed", strlen("planning failed")) == 0)
		return "planning_failed";
	return strcmp(state, "paused") == 0 ? "setup" : "other";
}

static void
put_name(StringInfo out, const char *name)
{
	appendStringInfo(out, "%s\"%s\": ", out->len > 1 ? ", " : "", name);
}

static void
put_text(StringInfo out, const char *name, const char *text)
{
	put_name(out, name);
	if (text)
		escape_json(out, text);
	else
		appendStringInfoString(out, "null");
}

/* JSON, or NULL */
static void
put_json(StringInfo out, const char *name, const char *json)
{
	put_name(out, name);
	appendStringInfoString(out, json ? json : "null");
}

/* The state of "<state>[ <reason>]". */
static char *
state_before(const char *before)
{
	return before ? pnstrdup(before, strcspn(before, " ")) : NULL;
}

static const char *
reason_before(const char *before)
{
	const char *blank = before ? strchr(before, ' ') : NULL;

	return blank ? blank + 1 : NULL;
}

/* All but the end, in the database's encoding. */
static char *
payload_text(int64 job, const Fact *fact, const Note *note, TimestampTz now, bool whole)
{
	static const int utc = 0;
	char		at[MAXDATELEN + 1];
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	put_json(&out, "job", psprintf(INT64_FORMAT, job));
	put_text(&out, "what", note ? "state" : "counts");
	put_text(&out, "state", fact->state);
	put_text(&out, "was", note ? state_before(note->before) : NULL);
	put_text(&out, "reason", reason_code(fact->state, fact->reason));
	put_text(&out, "owner", fact->owner);
	put_text(&out, "server", fact->server);
	put_text(&out, "model", fact->model);
	if (whole)
		put_text(&out, "task", fact->task);
	for (int i = 0; i < (int) lengthof(count_names); i++)
		put_json(&out, count_names[i], psprintf(INT64_FORMAT, fact->counts[i]));
	put_json(&out, "cost", fact->cost);
	put_json(&out, "eta", fact->eta < 0 ? NULL : psprintf(INT64_FORMAT, fact->eta));
	put_text(&out, "at", JsonEncodeDateTime(at, TimestampTzGetDatum(now), TIMESTAMPTZOID, &utc));
	if (whole)
		put_json(&out, "labels", fact->labels);
	else
		put_json(&out, "left_out", fact->task ? "[\"task\", \"labels\"]" : "[\"labels\"]");
	appendStringInfoChar(&out, '}');
	return out.data;
}

/* Characters that are not ASCII stand within strings alone: as \uXXXX there. */
static char *
in_ascii(const char *text)
{
	const unsigned char *utf8 = (const unsigned char *) text;
	StringInfoData out;

	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		utf8 = (const unsigned char *) pg_server_to_any(text, strlen(text), PG_UTF8);
	initStringInfo(&out);
	while (*utf8)
	{
		int			len = pg_utf_mblen(utf8);
		bool		legal = strnlen((const char *) utf8, len) == (size_t) len && pg_utf8_islegal(utf8, len);
		pg_wchar	c = legal ? utf8_to_unicode(utf8) : 0xFFFD;

		if (c < 0x80)
			appendStringInfoChar(&out, (char) c);
		else if (c < 0x10000)
			appendStringInfo(&out, "\\u%04x", (unsigned int) c);
		else
			appendStringInfo(&out, "\\u%04x\\u%04x", (unsigned int) (0xD800 + ((c - 0x10000) >> 10)),
							 (unsigned int) (0xDC00 + ((c - 0x10000) & 0x3FF)));
		utf8 += legal ? len : 1;
	}
	return out.data;
}

/* What fits; NULL: not even what has to be there does. */
static char *
payload(int64 job, const Fact *fact, const Note *note, TimestampTz now)
{
	char	   *text = in_ascii(payload_text(job, fact, note, now, true));

	if (strlen(text) > MAX_PAYLOAD)
		text = in_ascii(payload_text(job, fact, note, now, false));
	return strlen(text) > MAX_PAYLOAD ? NULL : text;
}

/* ---- the queue ---- */

/* How full the server's queue of notifications may be for us to add to it. */
static double
bound(void)
{
	const char *pages = GetConfigOption("max_notify_queue_pages", true, false);

	return Min(0.5, (double) UNREAD_PAGES / (pages ? atoi(pages) : QUEUE_PAGES));
}

static bool
queue_has_room(void)
{
	static bool had_room = true;
	double		usage = DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0));
	bool		has_room = usage < bound();

	if (has_room != had_room)
		ereport(LOG,
				(has_room ? errmsg("llm_batch: notifications are sent again") :
				 errmsg("llm_batch: no notifications are sent: %.1f %% of the server's queue of notifications is unread", usage * 100),
				 has_room ? 0 : errhint("Look for a session that listens and stays in a transaction: pg_stat_activity, state 'idle in transaction'.")));
	had_room = has_room;
	return has_room;
}

/* ---- telling ---- */

/* Is there a difference that a listener would see? */
static bool
state_is_another(const Note *note, const Fact *fact)
{
	const char *was;
	const char *is;

	if (note->before == NULL || strcmp(state_before(note->before), fact->state) != 0)
		return true;
	was = reason_code(fact->state, reason_before(note->before));
	is = reason_code(fact->state, fact->reason);
	return was && is ? strcmp(was, is) != 0 : was != is;
}

/* note: of a change of state; NULL: the counts alone */
static void
tell(int64 job, const Fact *fact, const Note *note, TimestampTz now)
{
	Told	   *entry = told_of(job);
	char	   *text;

	entry->at = now;
	entry->due = 0;
	if (queue_has_room())
	{
		text = payload(job, fact, note, now);
		if (text)
			Async_Notify(CHANNEL, text);
	}
	else
		/* how things stand by then */
		hold_back(entry, TimestampTzPlusMilliseconds(now, COUNTS_MS));
	if (fact->over)
		forget(job);
}

/* True when it has to wait, and is noted as that. */
static bool
counts_wait(int64 job, TimestampTz now)
{
	Told	   *entry = told_of(job);
	TimestampTz due = TimestampTzPlusMilliseconds(entry->at, COUNTS_MS);

	if (now >= due)
		return false;
	hold_back(entry, due);
	return true;
}

static void
tell_note(const Note *note, TimestampTz now)
{
	Fact		fact;

	if (!note->state && counts_wait(note->job, now))
		return;
	if (!read_fact(note->job, &fact))
		forget(note->job);
	else if (note->state && state_is_another(note, &fact))
		tell(note->job, &fact, note, now);
	else if (!note->state || !counts_wait(note->job, now))
		tell(note->job, &fact, NULL, now);
}

/* Counts that were held back, whose time has come. */
static void
tell_held_back(TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	Told	   *entry;

	hash_seq_init(&scan, told);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		int64		job = entry->job;
		Fact		fact;

		if (entry->due == 0 || entry->due > now)
			continue;
		/* to remove the entry that the scan has come to is allowed */
		if (!read_fact(job, &fact) || fact.over)
			forget(job);
		else
			tell(job, &fact, NULL, now);
	}
}

static void
tell_all(bool held_back)
{
	TimestampTz now = GetCurrentTimestamp();
	Note	   *first = NULL;

	if (held_back && told)
		tell_held_back(now);
	/* the newest stands first */
	while (notes)
	{
		Note	   *note = notes;

		notes = note->next;
		note->next = first;
		first = note;
	}
	for (; first; first = first->next)
		tell_note(first, now);
}

/* Whatever fails in here, the turn goes on. */
static void
tell_guarded(bool held_back)
{
	static TimestampTz complained = 0;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		tell_all(held_back);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (TimestampDifferenceExceeds(complained, GetCurrentTimestamp(), COMPLAIN_MS))
		{
			complained = GetCurrentTimestamp();
			ereport(LOG, (errmsg("llm_batch: could not notify: %s", error->message)));
		}
		FreeErrorData(error);
		forget_all();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

void
llmb_notify_turn_commits(void)
{
	if (notes)
		tell_guarded(false);
	notes = NULL;
	in_turn = false;
}

/* What was held back may have been told with a change of state: the next that was not. */
static TimestampTz
first_held_back(void)
{
	HASH_SEQ_STATUS scan;
	Told	   *entry;
	TimestampTz first = 0;

	if (told == NULL)
		return 0;
	hash_seq_init(&scan, told);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->due != 0 && (first == 0 || entry->due < first))
			first = entry->due;
	}
	return first;
}

void
llmb_notify_due(void)
{
	if (!llmb_notify)
		forget_all();
	next_due = first_held_back();
	if (next_due == 0 || next_due > GetCurrentTimestamp())
		return;
	/* should the turn fail */
	next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), COUNTS_MS);
	llmb_turn_begin("telling counts");
	tell_guarded(true);
	llmb_turn_commit();
	next_due = first_held_back();
}
