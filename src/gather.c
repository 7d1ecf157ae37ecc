/*-------------------------------------------------------------------------
 *
 * gather.c
 *		From changed rows to jobs.
 *
 * llm_batch.inbox says which rows of a table may have changed, by key.  When
 * enough are there, or the oldest has waited long enough, the worker takes
 * them out, looks at each row as it is now, and makes one job of those that
 * are to be answered.  From there on it is a job like any other.
 *
 * What was put in and what a row is are two things: a row that has changed
 * five times is one prompt, one that was changed and changed back is none,
 * one that is gone ends its item if that was not sent yet.  All of it is one
 * transaction, so a key is in the inbox or has been dealt with.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "as_owner.h"
#include "attach.h"
#include "compat.h"
#include "fill.h"
#include "gather.h"
#include "inbox.h"
#include "model.h"
#include "options.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "store_task.h"
#include "turn.h"
#include "writeback.h"

/* Rows that are looked at with one query. */
#define LOOK_ROWS		500
/* An entry of a btree has at most 2704 bytes: a longer key is no row's of llm_batch.task_item. */
#define MAX_KEY_BYTES	2600
/* A job's prompts; what is beyond waits for the next. */
#define MOST_BYTES		(INT64CONST(64) * 1024 * 1024)
/* Looking at rows takes no longer than this, or it is done with fewer. */
#define LOOK_MS			2000
/* After a look, the next is so much later at least, however many commits there are. */
#define LOOK_EVERY_MS	200
/* Of a table that was emptied some items are forgotten so often. */
#define EMPTY_EVERY_MS	50
/* Rows that could not be gathered are tried again after so long, then twice as long, ... */
#define AGAIN_MS		1000
#define AGAIN_MAX_MS	60000
/* A look that fails after less was no burden to others. */
#define SLOW_MS			100

static bool look_pending = true;
static bool clean_pending = true;
static bool waiting = false;
static TimestampTz next_look = 0;	/* when something falls due */
static TimestampTz last_look = 0;
static bool more_due = false;	/* another inbox than the one whose turn it was */
/* Sessions rely on a look at that time, and do not call us before. */
static TimestampTz promised = 0;

/* A table that was emptied: how far its items are forgotten. */
static struct
{
	int64		attachment;
	int64		change;			/* that says so, by its id */
	char	   *from;			/* key to go on from, in TopMemoryContext; NULL: all are */
}			emptied = {0};

/* ---- ids that are gone for good ---- */

/*
 * Where many keys were taken out and some old snapshot keeps the dead rows,
 * a look would pass by all of them, each time.  So ids are remembered up to
 * which nothing can be found any more: who draws an id has a transaction id
 * already (llmb_inbox_put), so once all transactions have ended that had one
 * when the sequence stood at "mark", what they put in up to there is visible
 * or will never be; and if a look finds nothing up to there, it is taken.
 */
static int64 proven = 0;
static int64 mark = 0;
static TransactionId mark_xid = InvalidTransactionId;

static void
move_proof(const List *inboxes)
{
	Snapshot	snapshot = GetActiveSnapshot();
	int64		last = llmb_store_last_change_id();

	/* somebody has set the sequence back */
	if (last < mark)
		proven = mark = 0;
	if (TransactionIdIsValid(mark_xid) && TransactionIdFollowsOrEquals(snapshot->xmin, mark_xid) && inboxes == NIL)
		proven = Max(proven, mark);
	else if (TransactionIdIsValid(mark_xid) && TransactionIdPrecedes(snapshot->xmin, mark_xid))
		return;
	mark = last;
	mark_xid = ReadNextTransactionId();
}

/* ---- what is to be done ---- */

void
llmb_gather_look(void)
{
	look_pending = clean_pending = true;
}

bool
llmb_gather_busy(void)
{
	return waiting;
}

TimestampTz
llmb_gather_next(void)
{
	TimestampTz next = next_look;

	if (look_pending && more_due)
		return last_look;
	if (look_pending)
	{
		TimestampTz asked = TimestampTzPlusMilliseconds(last_look, emptied.attachment != 0 && emptied.from ? EMPTY_EVERY_MS : LOOK_EVERY_MS);

		next = next == 0 ? asked : Min(asked, next);
	}
	if (promised > last_look)
		next = next == 0 ? promised : Min(promised, next);
	return next;
}

/* ---- whose turn it is ---- */

/* What went wrong with one attachment is no other's trouble. */
typedef struct Note
{
	int64		attachment;		/* the key */
	int			failures;		/* in a row */
	TimestampTz not_before;
	int			rows;			/* that are taken at once: fewer, where looking at them takes long */
	TimestampTz served_at;		/* when its rows were last looked at, in vain or not */
	TimestampTz rest_until;		/* nothing else of its owner before */
} Note;

static HTAB *notes = NULL;
static int64 at_work = 0;		/* the attachment of the step that is being done */

static Note *
note_of(int64 attachment)
{
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(Note)};
	Note	   *note;
	bool		found;

	if (notes == NULL)
		notes = hash_create("llm_batch attachments", 16, &control, HASH_ELEM | HASH_BLOBS);
	note = hash_search(notes, &attachment, HASH_ENTER, &found);
	if (!found)
	{
		note->failures = 0;
		note->not_before = note->served_at = note->rest_until = 0;
		note->rows = PG_INT32_MAX;
	}
	return note;
}

/* Who takes long rests as long: half of the worker's time, at least, is for others. */
static void
note_rest(Note *note, TimestampTz began, long least_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	long		took = TimestampDifferenceMilliseconds(began, now);

	if (took >= least_ms)
		note->rest_until = TimestampTzPlusMilliseconds(now, Min(took, AGAIN_MAX_MS));
}

/* began: when the look began that has failed. */
static void
note_failure(int64 attachment, TimestampTz began)
{
	Note	   *note = note_of(attachment);

	note_rest(note, began, SLOW_MS);
	note->failures = Min(note->failures + 1, 10);
	note->not_before = TimestampTzPlusMilliseconds(began, Min(AGAIN_MS << (note->failures - 1), AGAIN_MAX_MS));
}

void
llmb_gather_failed(TimestampTz now)
{
	if (at_work != 0)
		note_failure(at_work, now);
	else
		next_look = TimestampTzPlusMilliseconds(now, AGAIN_MS);
	look_pending = at_work != 0;
	at_work = 0;
	last_look = now;
	/* what was forgotten may be there again */
	emptied.attachment = 0;
}

/* ---- one gathering ---- */

/* A key, and what is to become of it. */
typedef struct Key
{
	const char *text;			/* the hash key */
	bool		again;			/* answered or not */
	bool		fresh;			/* inserted: it has no answer but what is in it */
	bool		seen;			/* in the list already */
} Key;

typedef struct Gathering
{
	LlmbTask   *task;
	LlmbAttachment *attachment;
	Oid			owner;
	LlmbAsk		ask;			/* of the job that is being made */
	LlmbFill	fill;
	LlmbLook	look;
	LlmbItems  *items;
	bool		lost;			/* rows have changed whose key nobody could tell */
	int64		job;			/* 0: nothing is to be asked so far */
	int			good;			/* items that are to be sent */
	List	   *bad;			/* of Refused: they get the ordinals behind them */
	int64		bytes;
	LlmbTaskItem *newest;		/* of the rows that are asked about, in memory of the turn */
	int			newest_count;
	int			newest_space;
} Gathering;

typedef struct Refused
{
	char	   *key;
	int64		hash;
	LlmbCode	code;
	char	   *error;
} Refused;

/* Columns of the prompt that other tasks write. */
static void
find_needed(Gathering *g)
{
	LlmbTemplate *template = llmb_template_parse(g->attachment->prompt);
	Oid			schema = get_namespace_oid(g->attachment->source_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(g->attachment->source_table, schema) : InvalidOid;
	List	   *others = OidIsValid(relid) ? llmb_attachments_of_family(relid) : NIL;
	ListCell   *lc;

	g->look.filter = g->task->filter;
	g->look.needed = palloc(sizeof(char *) * Max(template->column_count, 1));
	for (int i = 0; i < template->column_count; i++)
	{
		bool		written = false;

		foreach(lc, others)
		{
			LlmbAttachment *other = lfirst(lc);

			for (int j = 0; other->id != g->attachment->id && j < other->target_count; j++)
				written |= strcmp(other->targets[j], template->columns[i]) == 0;
		}
		if (written)
			g->look.needed[g->look.needed_count++] = template->columns[i];
	}
}

/* A column that the task cannot do without: why nothing can be gathered, or NULL. */
static char *
missing_column(const LlmbAttachment *a)
{
	Oid			schema = get_namespace_oid(a->source_schema, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(a->source_table, schema) : InvalidOid;
	LlmbTemplate *template = llmb_template_parse(a->prompt);

	if (!OidIsValid(relid))
		return NULL;			/* whoever opens it tells */
	for (int i = 0; i < a->key_count; i++)
	{
		if (get_attnum(relid, a->keys[i]) == InvalidAttrNumber)
			return psprintf("column \"%s\" of the key does not exist any more: alter_task(key => ...), then run()", a->keys[i]);
	}
	for (int i = 0; i < template->column_count; i++)
	{
		if (get_attnum(relid, template->columns[i]) == InvalidAttrNumber)
			return psprintf("column \"%s\" of the prompt does not exist any more: alter_task(prompt => ...)", template->columns[i]);
	}
	return NULL;
}

/* What each of the task's jobs is; false, with *reason, when there can be none. */
static bool
begin_gathering(Gathering *g, const LlmbInbox *inbox, char **reason)
{
	LlmbNewJob *job = &g->ask.job;
	LlmbTask   *task = g->task = llmb_store_task(NULL, inbox->task);
	LlmbAttachment *a = g->attachment = llmb_store_attachment(inbox->attachment);

	*reason = NULL;
	if (task == NULL || a == NULL)
		return false;
	g->owner = get_role_oid(task->owner, true);
	g->ask.server = llmb_server_by_name(task->server);
	if (!OidIsValid(g->owner))
		*reason = psprintf("role \"%s\", which owns the task, does not exist any more", task->owner);
	else if (g->ask.server == NULL)
		*reason = psprintf("server \"%s\" does not exist any more", task->server);
	else
		*reason = missing_column(a);
	if (*reason)
		return false;
	g->ask.model = llmb_model(g->ask.server, task->model);
	job->server = task->server;
	job->model = task->model;
	job->mode = task->mode;
	job->labels = task->labels;
	job->priority = task->priority;
	job->max_cost = task->max_cost;
	if (task->deadline)
		job->deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()),
																DirectFunctionCall3(interval_in, CStringGetDatum(task->deadline),
																					ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1))));
	job->task = task->name;
	job->attachment = a->id;
	job->prompt_version = task->version;
	job->def.source_schema = a->source_schema;
	job->def.source_table = a->source_table;
	job->def.source_owner = a->source_owner;
	job->def.attachment = a->id;
	job->def.key_columns = a->keys;
	job->def.key_count = a->key_count;
	job->def.target_columns = a->targets;
	job->def.target_count = a->target_count;
	job->def.prompt = a->prompt;
	job->def.schema = a->schema;
	job->def.targets_hash = a->targets_hash;
	job->def.system = task->system;
	job->def.params = task->params;
	job->def.time_zone = task->time_zone;
	job->def.mask_pii = task->mask_pii;
	job->def.on_success = task->on_success;
	job->def.on_error = task->on_error;
	job->def.row_limit = -1;
	llmb_fill_begin(&g->fill, &g->ask, NULL, NULL, NULL);
	find_needed(g);
	return true;
}

/* ---- keys ---- */

/* A table of keys that says which were seen; texts are compared as they are. */
static uint32
key_hash(const void *key, Size size)
{
	const char *text = *(const char *const *) key;

	(void) size;
	return DatumGetUInt32(hash_any((const unsigned char *) text, strlen(text)));
}

static int
key_match(const void *a, const void *b, Size size)
{
	(void) size;
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static HTAB *
new_key_table(int count)
{
	HASHCTL		control = {.keysize = sizeof(char *), .entrysize = sizeof(Key), .hash = key_hash, .match = key_match,
	.hcxt = CurrentMemoryContext};

	return hash_create("llm_batch changed rows", Max(count, 16), &control, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* Each key once, in the order in which it first came. */
static Key *
add_key(HTAB *table, const char *text, bool again, Key **keys, int *count)
{
	bool		found;
	Key		   *key = hash_search(table, &text, HASH_ENTER, &found);

	if (!found)
	{
		key->text = text;
		key->again = key->fresh = false;
		keys[(*count)++] = key;
	}
	key->again |= again;
	return key;
}

/*
 * Forgets some items of a table that was emptied.  True: there are none left,
 * and what came after that may be looked at.  After a restart of this process
 * it begins anew.
 */
static bool
forget_emptied(int64 attachment, int64 change)
{
	char	   *from;

	if (change == 0)
		return true;
	if (emptied.attachment != attachment || emptied.change != change || emptied.from == NULL)
	{
		emptied.attachment = attachment;
		emptied.change = change;
		if (emptied.from)
			pfree(emptied.from);
		emptied.from = MemoryContextStrdup(TopMemoryContext, "");
	}
	from = llmb_store_empty_task_items(attachment, emptied.from);
	pfree(emptied.from);
	emptied.from = from ? MemoryContextStrdup(TopMemoryContext, from) : NULL;
	return from == NULL;
}

/* For a change that came to light only now, with an id below others': rare, and all at once. */
static void
forget_all(int64 attachment)
{
	char	   *from = "";

	while ((from = llmb_store_empty_task_items(attachment, from)) != NULL)
		CHECK_FOR_INTERRUPTS();
}

/*
 * What is to be looked at after these changes.  A table that was emptied in
 * between has only what came later; its items are forgotten already if that
 * is the change "known".
 */
static Key **
keys_of(Gathering *g, LlmbChange *changes, int change_count, int64 known, int *count)
{
	int			first = 0;
	int			unsent_count = 0;
	char	  **unsent = NULL;
	bool		part_emptied = false;
	HTAB	   *table = new_key_table(change_count);
	Key		  **keys;

	for (int i = 0; i < change_count; i++)
	{
		if (changes[i].kind == LLMB_TABLE_EMPTIED)
		{
			if (changes[i].id > known)
				forget_all(g->attachment->id);
			first = i + 1;
		}
		else if (changes[i].kind == LLMB_PART_EMPTIED && unsent == NULL)
			unsent = llmb_store_unsent_keys(g->attachment->id, &unsent_count);
		else if (changes[i].kind == LLMB_ROWS_LOST)
			g->lost = true;
	}
	keys = palloc(sizeof(Key *) * Max(change_count + unsent_count, 1));
	*count = 0;
	for (int i = first; i < change_count; i++)
	{
		char		kind = changes[i].kind;

		part_emptied |= kind == LLMB_PART_EMPTIED;
		/* a row that was deleted is another when it is back, whatever was asked about the old one */
		if (changes[i].key)
			add_key(table, changes[i].key, part_emptied || kind == LLMB_ROW_AGAIN || kind == LLMB_ROW_DELETED, keys, count)->fresh |=
				kind == LLMB_ROW_NEW;
	}
	for (int i = 0; i < unsent_count; i++)
		(void) add_key(table, unsent[i], false, keys, count);
	return keys;
}

/* ---- rows ---- */

static void
add_newest(Gathering *g, const char *key, int64 hash, int ordinal)
{
	LlmbTaskItem *item;

	if (strlen(key) > MAX_KEY_BYTES)
		return;
	if (g->newest_count == g->newest_space)
	{
		g->newest_space = Max(g->newest_space * 2, 256);
		g->newest = g->newest ? repalloc_huge(g->newest, sizeof(LlmbTaskItem) * g->newest_space) :
			palloc(sizeof(LlmbTaskItem) * g->newest_space);
	}
	item = &g->newest[g->newest_count++];
	memset(item, 0, sizeof(LlmbTaskItem));
	item->key = pstrdup(key);
	item->hash = hash;
	item->job = g->job;
	item->ordinal = ordinal;
	item->version = g->task->version;
}

static void
open_job(Gathering *g)
{
	if (g->job != 0)
		return;
	g->job = llmb_store_new_job(&g->ask.job, g->task->owner);
	g->items = llmb_items_begin(g->job);
}

/* A row that cannot be asked about becomes an item that failed: it is seen, and costs nothing. */
static void
add_refused(Gathering *g, const char *key, int64 hash, LlmbCode code, const char *error)
{
	Refused    *refused = palloc(sizeof(Refused));

	open_job(g);
	refused->key = pstrdup(key);
	refused->hash = hash;
	refused->code = code;
	refused->error = pstrdup(error);
	g->bad = lappend(g->bad, refused);
}

static void
ask_row(Gathering *g, const LlmbReading *reading)
{
	LlmbLine	line = {.key = unconstify(char *, reading->key), .prompt = reading->prompt, .len = strlen(reading->prompt)};
	LlmbRefusal refusal;

	if (!llmb_line_fits(&g->fill, &line, &refusal))
	{
		add_refused(g, reading->key, llmb_text_hash(line.prompt, line.len), refusal.code,
					refusal.detail ? psprintf("%s: %s", refusal.message, refusal.detail) : refusal.message);
		return;
	}
	open_job(g);
	llmb_items_put(g->items, ++g->good, &line);
	g->bytes += line.len;
	add_newest(g, line.key, llmb_text_hash(line.prompt, line.len), g->good);
}

/* Is the row's newest item about just this text? */
static bool
is_asked(const Gathering *g, const LlmbTaskItem *item, const LlmbReading *reading)
{
	return item->job != 0 && !item->failed && item->version == g->task->version &&
		item->hash == llmb_text_hash(reading->prompt, strlen(reading->prompt));
}

/*
 * Texts that differ may be one key (1 and 1.0, or 'a' and 'A' by a collation):
 * such a row is asked about once, by the text that it has now.
 */
static void
leave_out_twins(LlmbReading *readings, int count)
{
	HTAB	   *rows = new_key_table(count);

	for (int i = 0; i < count; i++)
	{
		if (readings[i].row && strcmp(readings[i].row, readings[i].key) == 0)
			(void) hash_search(rows, &readings[i].row, HASH_ENTER, NULL);
	}
	for (int i = count; i-- > 0;)
	{
		bool		found = false;

		if (readings[i].row && strcmp(readings[i].row, readings[i].key) != 0)
			(void) hash_search(rows, &readings[i].row, HASH_ENTER, &found);
		if (found)
			readings[i].found = LLMB_FOUND_NOTHING;
	}
	hash_destroy(rows);
}

static void
look_at(Gathering *g, Key **keys, int count, LlmbReading *readings)
{
	LlmbTaskItem *items = palloc0(sizeof(LlmbTaskItem) * count);
	LlmbTaskItem *gone = palloc(sizeof(LlmbTaskItem) * count);
	LlmbTaskItem *old = palloc(sizeof(LlmbTaskItem) * count);
	int			gone_count = 0;
	int			old_count = 0;

	for (int i = 0; i < count; i++)
		items[i].key = unconstify(char *, keys[i]->text);
	llmb_store_task_items(g->attachment->id, items, count);
	for (int i = 0; i < count; i++)
	{
		LlmbReading *reading = &readings[i];

		/* which of its items is the newest could not be told */
		if (strlen(items[i].key) > MAX_KEY_BYTES && reading->found == LLMB_FOUND_PROMPT)
		{
			reading->found = LLMB_FOUND_ERROR;
			reading->reason = psprintf("the key has more than %d bytes", MAX_KEY_BYTES);
		}
		switch (reading->found)
		{
			case LLMB_FOUND_NOTHING:
			case LLMB_FOUND_OTHER:
				if (items[i].job != 0)
					gone[gone_count++] = items[i];
				continue;
			case LLMB_FOUND_UNREADY:
				/* it comes again when the other task has written: what was asked about the row before it must not pass for it then */
				if (items[i].job != 0 && (keys[i]->again || (keys[i]->fresh && reading->vacant)))
				{
					gone[gone_count++] = items[i];
					continue;
				}
				break;
			case LLMB_FOUND_MORE:
				elog(ERROR, "a row was not read");
				continue;
			case LLMB_FOUND_PROMPT:
				/* no trigger tells of a row that goes with its partition: the one of its key that is back has no answer */
				if (!keys[i]->again && !(keys[i]->fresh && reading->vacant) && is_asked(g, &items[i], reading))
					continue;
				ask_row(g, reading);
				break;
			case LLMB_FOUND_TOO_LONG:
				add_refused(g, reading->key, 0, LLMB_TOO_LARGE,
							psprintf("the prompt is too long: " INT64_FORMAT " bytes, llm_batch.max_prompt_size is %d kB", reading->bytes, llmb_max_prompt_kb));
				break;
			case LLMB_FOUND_ERROR:
				add_refused(g, reading->key, 0, LLMB_INVALID_REQUEST, reading->reason);
				break;
		}
		if (items[i].job != 0)
			old[old_count++] = items[i];
	}
	(void) llmb_store_withdraw(old, old_count, LLMB_STALE);
	(void) llmb_store_withdraw(gone, gone_count, LLMB_CANCELLED_ITEM);
	llmb_store_drop_task_items(g->attachment->id, gone, gone_count);
}

/* How many of the readings have all that was asked for: the first always has. */
static int
readings_done(const LlmbReading *readings, int count)
{
	int			n = 0;

	while (n < count && readings[n].found != LLMB_FOUND_MORE)
		n++;
	return n;
}

/* What goes beyond a job's size waits for the next. */
static void
put_back(const Gathering *g, Key **keys, int count)
{
	LlmbInboxWriter *inbox = llmb_inbox_begin(g->attachment->id);

	for (int i = 0; i < count; i++)
		llmb_inbox_put(inbox, keys[i]->again ? LLMB_ROW_AGAIN : keys[i]->fresh ? LLMB_ROW_NEW : LLMB_ROW_CHANGED,
					   keys[i]->text);
	(void) llmb_inbox_end(inbox);
}

/* False when the table cannot be looked at now; *obstacle: for other reasons than a lock. */
static bool
look_at_all(Gathering *g, Key **keys, int count, char **obstacle)
{
	MemoryContext part = AllocSetContextCreate(CurrentMemoryContext, "llm_batch rows", ALLOCSET_DEFAULT_SIZES);
	int			from = 0;

	while (from < count && g->bytes < MOST_BYTES)
	{
		int			n = Min(LOOK_ROWS, count - from);
		MemoryContext old = MemoryContextSwitchTo(part);
		LlmbReading *readings = palloc0(sizeof(LlmbReading) * n);
		bool		looked;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			readings[i].key = keys[from + i]->text;
		looked = llmb_look_at_rows(&g->ask.job.def, g->owner, &g->look, readings, n, obstacle);
		if (!looked && *obstacle)
			*obstacle = MemoryContextStrdup(old, *obstacle);
		MemoryContextSwitchTo(old);
		if (!looked)
			return false;
		n = readings_done(readings, n);
		leave_out_twins(readings, n);
		look_at(g, keys + from, n, readings);
		from += n;
		MemoryContextReset(part);
	}
	put_back(g, keys + from, count - from);
	return true;
}

/* ---- the job ---- */

static void
put_refused(Gathering *g)
{
	LlmbResult *results = palloc0(sizeof(LlmbResult) * Max(list_length(g->bad), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, g->bad)
	{
		Refused    *refused = lfirst(lc);
		LlmbLine	line = {.key = refused->key};
		LlmbResult *result = &results[n++];

		llmb_items_put(g->items, g->good + n, &line);
		result->ordinal = g->good + n;
		result->attempt = 1;
		result->state = "failed";
		result->code = refused->code;
		result->error = refused->error;
		result->input_tokens = result->output_tokens = result->cached_tokens = -1;
		result->cache_write_tokens = result->long_write_tokens = result->reasoning_tokens = -1;
		add_newest(g, refused->key, refused->hash, result->ordinal);
	}
	llmb_store_put_results(g->job, results, n);
}

static void
close_job(Gathering *g)
{
	int			bad = list_length(g->bad);

	if (g->job == 0)
		return;
	if (bad > 0)
		put_refused(g);
	llmb_items_end(g->items);
	llmb_store_set_task_items(g->attachment->id, g->newest, g->newest_count);
	llmb_store_job_filled(g->job, g->good + bad);
	if (bad > 0)
	{
		LlmbDelta	delta = {.queued = -bad, .failed = bad};

		llmb_store_count(g->job, &delta);
		llmb_store_event(g->job, 0, "refused", "rows whose prompt cannot be sent: %d", bad);
	}
	if (g->good == 0)
		(void) llmb_store_finish_job(g->job);
}

/* ---- code that cannot be cancelled ---- */

static int64 looked_at = 0;		/* whose filter or casts may be running */

/* This process ends for it: its successor leaves that attachment alone, until somebody changes the task. */
static void
bar_attachment(int code, Datum arg)
{
	int64		attachment = looked_at;

	(void) code;
	(void) arg;
	if (attachment == 0 || !llmb_code_cannot_be_cancelled())
		return;
	looked_at = 0;
	llmb_turn_abort();
	llmb_turn_begin("giving up on a task's filter");
	llmb_store_bar_gathering(attachment, "its filter, or code of the prompt's columns, could not be cancelled: mend it, then alter_task(enabled => true)");
	llmb_turn_commit();
	llmb_turn_hand_over();
}

static bool
look_guarded(Gathering *g, Key **keys, int count, char **obstacle)
{
	static bool registered = false;
	bool		looked;

	if (!registered)
		before_shmem_exit(bar_attachment, (Datum) 0);
	registered = true;
	looked_at = g->attachment->id;
	looked = look_at_all(g, keys, count, obstacle);
	looked_at = 0;
	return looked;
}

/*
 * In a turn: makes a job of what is due.  Returns false when the turn must
 * not be committed, for the table is locked or what the task needs is gone.
 */
static bool
gather(const LlmbInbox *inbox, bool *new_job, char **obstacle)
{
	Gathering	g = {0};
	LlmbChange *changes;
	Key		  **keys;
	int			change_count;
	int			count;
	int			limit;
	int64		emptied_by;

	if (!begin_gathering(&g, inbox, obstacle))
		return false;
	limit = Min(g.task->max_items, note_of(inbox->attachment)->rows);
	g.look.last_try = limit == 1;
	emptied_by = llmb_store_emptied(inbox->attachment, proven, limit);
	if (!forget_emptied(inbox->attachment, emptied_by))
		return true;			/* what came after that waits for the next turn */
	changes = llmb_store_take_changes(inbox->attachment, proven, limit, &change_count);
	keys = keys_of(&g, changes, change_count, emptied_by, &count);
	g.look.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), g.look.last_try ? llmb_write_back_timeout_ms :
												  Min(llmb_write_back_timeout_ms, LOOK_MS));
	if (!look_guarded(&g, keys, count, obstacle))
	{
		/* it took too long, perhaps: fewer at a time, until one alone shows that it is the row */
		if (GetCurrentTimestamp() >= g.look.deadline)
			note_of(inbox->attachment)->rows = Max(1, change_count / 4);
		return false;
	}
	close_job(&g);
	llmb_store_gathered(inbox->attachment, change_count, g.job != 0);
	if (g.lost)
		llmb_store_gathering_reason(inbox->attachment, "the key column was not there when rows changed: run() looks for what was missed");
	*new_job = g.job != 0;
	return true;
}

/* ---- steps ---- */

static void
note_obstacle(const LlmbInbox *inbox, const char *obstacle)
{
	llmb_turn_begin("noting why rows are not gathered");
	llmb_store_gathering_reason(inbox->attachment, obstacle);
	llmb_turn_commit();
}

/*
 * When rows of an owner were last looked at, so that no priority of one's
 * keeps another waiting; and until when the owner rests.
 */
static TimestampTz
owner_served_at(List *inboxes, const char *owner, TimestampTz *rest_until)
{
	TimestampTz at = 0;
	ListCell   *lc;

	*rest_until = 0;
	foreach(lc, inboxes)
	{
		LlmbInbox  *inbox = lfirst(lc);
		Note	   *note;

		if (strcmp(inbox->owner, owner) != 0)
			continue;
		note = note_of(inbox->attachment);
		at = Max(at, note->served_at);
		*rest_until = Max(*rest_until, note->rest_until);
	}
	return at;
}

/* One that is due, by turn of the owners, priority and age; sets when the next is. */
static LlmbInbox *
due_inbox(List *inboxes, TimestampTz now)
{
	LlmbInbox  *best = NULL;
	TimestampTz best_served = 0;
	ListCell   *lc;

	next_look = 0;
	waiting = more_due = false;
	foreach(lc, inboxes)
	{
		LlmbInbox  *inbox = lfirst(lc);
		TimestampTz due;
		TimestampTz served = 0;
		TimestampTz rest_until;

		if (inbox->held)
			continue;
		waiting = true;
		due = Max(inbox->full ? 0 : inbox->due, note_of(inbox->attachment)->not_before);
		if (due <= now)
		{
			served = owner_served_at(inboxes, inbox->owner, &rest_until);
			due = rest_until;
		}
		if (due > now)
		{
			next_look = next_look == 0 ? due : Min(next_look, due);
			continue;
		}
		more_due = best != NULL;
		if (best == NULL || served < best_served ||
			(served == best_served && inbox->priority == best->priority &&
			 note_of(inbox->attachment)->served_at < note_of(best->attachment)->served_at))
		{
			best = inbox;
			best_served = served;
		}
	}
	return best;
}

/*
 * While rows keep coming we look again by ourselves, and whoever commits some
 * until then need not call us.
 */
static void
promise_look(TimestampTz now)
{
	static int64 last_id = 0;
	int64		id = llmb_store_last_change_id();

	if (id == last_id)
		return;
	last_id = id;
	promised = TimestampTzPlusMilliseconds(now, LOOK_EVERY_MS);
	llmb_worker_looks_at(promised);
}

static LlmbInbox *
look_at_inboxes(TimestampTz now, bool may_clean)
{
	List	   *inboxes;

	look_pending = false;
	last_look = now;
	llmb_turn_begin("looking for changed rows");
	if (clean_pending && may_clean)
		look_pending = clean_pending = llmb_store_clean_attachments();
	inboxes = llmb_store_inboxes(proven);
	move_proof(inboxes);
	promise_look(now);
	llmb_turn_commit();
	return due_inbox(inboxes, now);
}

bool
llmb_gather_step(TimestampTz now, bool may_clean)
{
	LlmbInbox  *inbox = look_at_inboxes(now, may_clean);
	MemoryContext before = CurrentMemoryContext;
	char	   *obstacle = NULL;
	bool		new_job = false;

	if (inbox == NULL)
		return false;
	/* what looking took is nobody's in particular */
	now = GetCurrentTimestamp();
	at_work = inbox->attachment;
	note_of(at_work)->served_at = now;
	llmb_turn_begin("gathering changed rows");
	if (gather(inbox, &new_job, &obstacle))
	{
		Note	   *note = note_of(inbox->attachment);

		llmb_turn_commit();
		at_work = 0;
		note->failures = 0;
		/* a row whose filter takes all the time that there is */
		if (note->rows == 1)
			note_rest(note, now, LOOK_MS);
		if (note->rows <= PG_INT32_MAX / 2 && TimestampDifferenceMilliseconds(now, GetCurrentTimestamp()) < LOOK_MS / 4)
			note->rows *= 2;
		look_pending = true;
		return new_job;
	}
	llmb_turn_abort();
	MemoryContextSwitchTo(before);
	if (obstacle)
		note_obstacle(inbox, obstacle);
	llmb_gather_failed(now);
	return false;
}
