/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *		Triggers: what changes in a table that a task is attached to.
 *
 * A trigger only appends keys to llm_batch.inbox, in the transaction that
 * changes the rows: no lock, no update of a shared row, no rendering.  The
 * worker looks at the rows once it is committed, and what has become of them
 * by then is what counts: gather.c.  So a key too many does no harm, and one
 * is put in wherever it is not sure that nothing of interest has changed.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/detoast.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "attach.h"
#include "compat.h"
#include "inbox.h"
#include "key.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "task_trigger.h"
#include "template.h"
#include "watch.h"

PG_FUNCTION_INFO_V1(llmb_enqueue);

/* ---- what a session knows of its triggers ---- */

/*
 * One that is not valid any more may still be in use further up, by a
 * statement that called the code that changed it: it lives until the
 * transaction is over, and a new one takes its place.
 */
typedef struct Watch
{
	Oid			relid;
	bool		valid;
	bool		ignored;		/* made by attach(), and detached since */
	bool		is_part;		/* a partition of the table that is attached */
	MemoryContext context;
	int64		attachment;
	int			key_count;
	int		   *keys;			/* attribute numbers; NULL: a column of the key is gone */
	LlmbKeyText *key_text;
	Bitmapset  *columns;		/* that matter: of key, prompt and filter */
	bool		whole;			/* all of them */
	bool		others_write;	/* columns that no statement names may change */
	char		insert_kind;	/* of rows that are inserted */
	SubTransactionId learnt_in; /* it may be rolled back with this one; Invalid: with none any more */
	char	   *time_zone;
} Watch;

typedef struct WatchEntry
{
	Oid			trigger;		/* the key */
	Watch	   *watch;			/* the newest; NULL none */
} WatchEntry;

static HTAB *watches = NULL;
static bool unsure = false;		/* some of them may be rolled back */

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	WatchEntry *entry;

	(void) arg;
	hash_seq_init(&scan, watches);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->watch && (relid == InvalidOid || entry->watch->relid == relid))
			entry->watch->valid = false;
	}
}

/* A key's text may be made by a cast, that is by a function which may go or be another. */
static void
cast_changed(Datum arg, int cache, uint32 hash)
{
	(void) cache;
	(void) hash;
	relation_changed(arg, InvalidOid);
}

/* What was learnt in this subtransaction, or in one inside of it, has gone with it, perhaps. */
static void
forget_learnt_in(SubTransactionId from)
{
	HASH_SEQ_STATUS scan;
	WatchEntry *entry;

	if (!unsure)
		return;
	hash_seq_init(&scan, watches);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->watch && entry->watch->learnt_in >= from)
			entry->watch->valid = false;
	}
}

/* What this transaction has learnt is committed now, or was forgotten. */
static void
be_sure(void)
{
	HASH_SEQ_STATUS scan;
	WatchEntry *entry;

	if (!unsure)
		return;
	hash_seq_init(&scan, watches);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->watch)
			entry->watch->learnt_in = InvalidSubTransactionId;
	}
	unsure = false;
}

/* A transaction that is prepared may be rolled back later, and nobody tells us. */
static void
transaction_ends(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forget_learnt_in(TopSubTransactionId);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		be_sure();
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId own, SubTransactionId parent, void *arg)
{
	(void) parent;
	(void) arg;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_learnt_in(own);
}

static void
open_watches(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(WatchEntry)};

	if (watches)
		return;
	watches = hash_create("llm_batch triggers", 16, &control, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, cast_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, cast_changed, (Datum) 0);
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}

static bool
made_by_attach(const Trigger *trigger)
{
	return strncmp(trigger->tgname, LLMB_TRIGGER_PREFIX, strlen(LLMB_TRIGGER_PREFIX)) == 0;
}

static bool
is_named_itself(Oid relid, const LlmbAttachment *attachment)
{
	/* of what a partition was just taken from, the name may be gone */
	const char *table = get_rel_name(relid);
	const char *schema = get_namespace_name(get_rel_namespace(relid));

	return table && schema && strcmp(table, attachment->source_table) == 0 && strcmp(schema, attachment->source_schema) == 0;
}

/*
 * Is it the table that is attached, or a part of it?  By name, and by its
 * owner: who takes a name that has become free must not spend for others.
 */
static bool
is_named_by(Relation rel, const LlmbAttachment *attachment)
{
	List	   *relids = rel->rd_rel->relispartition ? get_partition_ancestors(RelationGetRelid(rel)) : NIL;
	ListCell   *lc;

	foreach(lc, lcons_oid(RelationGetRelid(rel), relids))
	{
		if (is_named_itself(lfirst_oid(lc), attachment))
			return llmb_owner_is_known(lfirst_oid(lc), attachment->source_owner, InvalidOid);
	}
	return false;
}

/*
 * Is it that table, or under another name one of the task's owner?  Anybody
 * can give a trigger of his any name.
 */
static bool
is_attached(Relation rel, const LlmbTask *task, const LlmbAttachment *attachment)
{
	return is_named_by(rel, attachment) || get_role_oid(task->owner, true) == rel->rd_rel->relowner;
}

/* Triggers that attach() made name their attachment, whatever became of the table's name. */
static LlmbAttachment *
attachment_of_trigger(const LlmbTask *task, Relation rel, const Trigger *trigger)
{
	LlmbAttachment *attachment;

	if (!made_by_attach(trigger))
		return NULL;
	attachment = llmb_store_attachment(strtoll(trigger->tgname + strlen(LLMB_TRIGGER_PREFIX), NULL, 10));
	return attachment && attachment->task == task->id && is_attached(rel, task, attachment) ? attachment : NULL;
}

/* The attachment of the relation, or of a table that it is a partition of; NULL: none. */
static LlmbAttachment *
find_attachment(int64 task, Relation rel)
{
	List	   *relids = rel->rd_rel->relispartition ? get_partition_ancestors(RelationGetRelid(rel)) : NIL;
	ListCell   *lc;

	foreach(lc, lcons_oid(RelationGetRelid(rel), relids))
	{
		int64		id = llmb_store_find_attachment(task, get_namespace_name(get_rel_namespace(lfirst_oid(lc))),
													get_rel_name(lfirst_oid(lc)));
		LlmbAttachment *found = id != 0 ? llmb_store_attachment(id) : NULL;

		if (found && llmb_owner_is_known(lfirst_oid(lc), found->source_owner, InvalidOid))
			return found;
	}
	return NULL;
}

static bool
rows_change_unasked(Relation rel)
{
	/* triggers of partitions and children are not looked at one by one */
	return rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE || rel->rd_rel->relhassubclass ||
		(rel->trigdesc && (rel->trigdesc->trig_update_before_row || rel->trigdesc->trig_update_instead_row));
}

static void
watch_columns(Watch *watch, Relation rel, const LlmbTask *task, const LlmbAttachment *attachment)
{
	LlmbTemplate *template = llmb_template_parse(attachment->prompt);
	const char *missing;
	Bitmapset  *keys;

	keys = llmb_column_numbers(rel, attachment->keys, attachment->key_count, &missing);
	if (missing == NULL)
	{
		Oid		   *types = palloc(sizeof(Oid) * attachment->key_count);

		watch->keys = palloc(sizeof(int) * attachment->key_count);
		for (int i = 0; i < attachment->key_count; i++)
		{
			watch->keys[i] = get_attnum(RelationGetRelid(rel), attachment->keys[i]);
			types[i] = TupleDescAttr(RelationGetDescr(rel), watch->keys[i] - 1)->atttypid;
		}
		watch->key_count = attachment->key_count;
		watch->key_text = llmb_key_text_begin(types, attachment->key_count);
	}
	watch->columns = bms_add_members(keys, llmb_column_numbers(rel, template->columns, template->column_count, &missing));
	if (task->filter)
		watch->columns = bms_add_members(watch->columns, llmb_condition_columns(rel, task->filter, &watch->whole));
	watch->columns = llmb_with_virtual_read(rel, watch->columns, &watch->whole);
	/* the worker tells what is wrong with a prompt whose columns are gone */
	watch->whole |= missing != NULL;
}

/* Does this trigger tell the task of any row that is inserted? */
static bool
tells_of_inserts(const Trigger *trigger, Oid function, const char *task)
{
	return trigger->tgfoid == function && TRIGGER_FOR_INSERT(trigger->tgtype) && trigger->tgqual == NULL &&
		trigger->tgenabled != TRIGGER_DISABLED && trigger->tgenabled != TRIGGER_FIRES_ON_REPLICA &&
		trigger->tgnargs == 1 && strcmp(trigger->tgargs[0], task) == 0;
}

/*
 * Where several triggers tell the task of a row that is inserted, to the
 * first it is a new one, and to the others one that may have changed: else
 * it would be asked about as often as the worker hears of it.
 */
static char
insert_kind(Relation rel, const Trigger *trigger)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *other = &rel->trigdesc->triggers[i];

		if (tells_of_inserts(other, trigger->tgfoid, trigger->tgargs[0]))
			return other->tgoid == trigger->tgoid ? LLMB_ROW_NEW : LLMB_ROW_CHANGED;
	}
	return LLMB_ROW_NEW;
}

static void
learn(Watch *watch, Relation rel, const Trigger *trigger)
{
	MemoryContext old;
	LlmbTask   *task = llmb_store_task(trigger->tgargs[0], 0);
	LlmbAttachment *attachment;

	/* the task went while the table had another name, or was a part of another */
	if (task == NULL && made_by_attach(trigger))
	{
		watch->ignored = true;
		return;
	}
	if (task == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task \"%s\" does not exist", trigger->tgargs[0]),
				 errdetail("Trigger \"%s\" on \"%s\" feeds it.", trigger->tgname, RelationGetRelationName(rel)),
				 errhint("Create the task, or drop the trigger.")));
	attachment = attachment_of_trigger(task, rel, trigger);
	if (attachment == NULL)
		attachment = find_attachment(task->id, rel);
	watch->ignored = attachment == NULL && made_by_attach(trigger);
	if (watch->ignored)
		return;
	/* once read it is believed: what another session does to it meanwhile reaches us with the next statement */
	if (attachment == NULL)
	{
		llmb_sql_latest = false;
		attachment = llmb_task_attach_by_trigger(task, rel);
		llmb_sql_latest = true;
	}
	watch->attachment = attachment->id;
	watch->is_part = !is_named_itself(RelationGetRelid(rel), attachment);
	old = MemoryContextSwitchTo(watch->context);
	watch->time_zone = pstrdup(task->time_zone);
	watch_columns(watch, rel, task, attachment);
	watch->others_write = rows_change_unasked(rel);
	watch->insert_kind = insert_kind(rel, trigger);
	MemoryContextSwitchTo(old);
}

static Watch *
new_watch(Relation rel)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "llm_batch trigger", ALLOCSET_SMALL_SIZES);
	Watch	   *watch = MemoryContextAllocZero(context, sizeof(Watch));

	watch->context = context;
	watch->relid = RelationGetRelid(rel);
	/* what is told to be changed while it is being read is read again next time */
	watch->valid = true;
	watch->learnt_in = GetCurrentSubTransactionId();
	unsure = true;
	return watch;
}

static Watch *
watch_of(Relation rel, const Trigger *trigger)
{
	WatchEntry *entry;
	Watch	   *volatile watch;
	bool		found;

	open_watches();
	entry = hash_search(watches, &trigger->tgoid, HASH_ENTER, &found);
	if (!found)
		entry->watch = NULL;
	if (entry->watch && entry->watch->valid)
		return entry->watch;
	if (entry->watch)
		MemoryContextSetParent(entry->watch->context, TopTransactionContext);
	entry->watch = NULL;
	watch = new_watch(rel);
	entry->watch = watch;
	PG_TRY();
	{
		/* what is learned outlives a transaction whose snapshot is older than the trigger, or than the task's prompt */
		llmb_sql_latest = true;
		learn(watch, rel, trigger);
		llmb_sql_latest = false;
	}
	PG_CATCH();
	{
		llmb_sql_latest = false;
		watch->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	return watch;
}

/* ---- rows ---- */

typedef struct Rows
{
	Watch	   *watch;
	Bitmapset  *columns;		/* of the watch, or fewer: see narrow_to_answers() */
	bool		whole;
	LlmbInboxWriter *writer;
	MemoryContext per_row;
} Rows;

/* The row's key in the per-row context, NULL when it cannot be told. */
static char *
row_key(const Rows *rows, TupleTableSlot *slot)
{
	const Watch *watch = rows->watch;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	StringInfoData key;

	if (watch->keys == NULL)
		return NULL;
	for (int i = 0; i < watch->key_count; i++)
		values[i] = slot_getattr(slot, watch->keys[i], &nulls[i]);
	initStringInfo(&key);
	return llmb_key_text(watch->key_text, &key, values, nulls) ? key.data : NULL;
}

static void
put_row(Rows *rows, char kind, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(rows->per_row);
	char	   *key = row_key(rows, slot);

	MemoryContextSwitchTo(old);
	llmb_inbox_put(rows->writer, key ? kind : LLMB_ROWS_LOST, key);
	MemoryContextReset(rows->per_row);
}

static bool
same_value(Form_pg_attribute att, Datum a, Datum b)
{
	/* what was stored out of line and not touched has the same pointer */
	if (att->attlen == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(a)) && VARATT_IS_EXTERNAL(DatumGetPointer(b)) &&
		VARSIZE_EXTERNAL(DatumGetPointer(a)) == VARSIZE_EXTERNAL(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_EXTERNAL(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

static bool
same_row(const Rows *rows, TupleTableSlot *before, TupleTableSlot *after)
{
	TupleDesc	desc = after->tts_tupleDescriptor;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum		a;
		Datum		b;
		bool		a_null;
		bool		b_null;

		if (att->attisdropped || !(rows->whole || bms_is_member(i + 1, rows->columns)))
			continue;
		a = slot_getattr(before, i + 1, &a_null);
		b = slot_getattr(after, i + 1, &b_null);
		if (a_null != b_null || (!a_null && !same_value(att, a, b)))
			return false;
	}
	return true;
}

static bool
same_key(Rows *rows, TupleTableSlot *before, TupleTableSlot *after)
{
	MemoryContext old = MemoryContextSwitchTo(rows->per_row);
	char	   *a = row_key(rows, before);
	char	   *b = row_key(rows, after);
	bool		same = a && b && strcmp(a, b) == 0;

	MemoryContextSwitchTo(old);
	MemoryContextReset(rows->per_row);
	return same;
}

/* A changed key is a row less and a row more. */
static void
put_update(Rows *rows, TupleTableSlot *before, TupleTableSlot *after)
{
	if (same_row(rows, before, after))
		return;
	if (!same_key(rows, before, after))
		put_row(rows, LLMB_ROW_DELETED, before);
	put_row(rows, LLMB_ROW_CHANGED, after);
}

static TupleTableSlot *
slot_for(Relation rel)
{
	return MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
}

static void
put_table(Rows *rows, Relation rel, char kind, Tuplestorestate *table)
{
	TupleTableSlot *slot = slot_for(rel);

	tuplestore_rescan(table);
	while (tuplestore_gettupleslot(table, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		put_row(rows, kind, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Both tables hold the rows in the order in which they were updated.  Rows
 * are compared pair by pair; if ever a pair were none, its keys would differ,
 * and both be put in: a look too many, and no row missed.
 */
static void
put_tables(Rows *rows, Relation rel, Tuplestorestate *before, Tuplestorestate *after)
{
	TupleTableSlot *old_slot = slot_for(rel);
	TupleTableSlot *new_slot = slot_for(rel);

	tuplestore_rescan(before);
	tuplestore_rescan(after);
	for (;;)
	{
		bool		has_old = tuplestore_gettupleslot(before, true, false, old_slot);
		bool		has_new = tuplestore_gettupleslot(after, true, false, new_slot);

		CHECK_FOR_INTERRUPTS();
		if (has_old && has_new)
			put_update(rows, old_slot, new_slot);
		else if (has_old)
			put_row(rows, LLMB_ROW_DELETED, old_slot);
		else if (has_new)
			put_row(rows, LLMB_ROW_CHANGED, new_slot);
		else
			break;
	}
	ExecDropSingleTupleTableSlot(old_slot);
	ExecDropSingleTupleTableSlot(new_slot);
}

/* ---- the trigger ---- */

static void
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("llm_batch.enqueue() can only be called as a trigger"),
				 errhint("SELECT llm_batch.attach('task', 'table'); makes the triggers.")));
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be an AFTER trigger", data->tg_trigger->tgname),
				 errhint("CREATE TRIGGER ... AFTER INSERT ON ... REFERENCING NEW TABLE AS new EXECUTE FUNCTION llm_batch.enqueue('task').")));
	if (data->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" must name one task", data->tg_trigger->tgname),
				 errhint("... EXECUTE FUNCTION llm_batch.enqueue('task').")));
}

static void
require_table(const TriggerData *data, bool there, const char *clause)
{
	if (!there)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" does not see the rows", data->tg_trigger->tgname),
				 errhint("Create it with \"%s\", or FOR EACH ROW.", clause)));
}

/* Does an UPDATE of these columns leave all that matters as it is? */
static bool
is_irrelevant(const Watch *watch, const TriggerData *data)
{
	int			member = -1;

	if (watch->whole || watch->others_write || data->tg_updatedcols == NULL)
		return false;
	while ((member = bms_next_member(data->tg_updatedcols, member)) >= 0)
	{
		int			attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum <= 0 || bms_is_member(attnum, watch->columns))
			return false;
	}
	return true;
}

static void
row_trigger(Rows *rows, const TriggerData *data)
{
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		put_update(rows, data->tg_trigslot, data->tg_newslot);
	else
		put_row(rows, TRIGGER_FIRED_BY_DELETE(data->tg_event) ? LLMB_ROW_DELETED : rows->watch->insert_kind, data->tg_trigslot);
}

static void
statement_trigger(Rows *rows, const TriggerData *data)
{
	Relation	rel = data->tg_relation;

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		require_table(data, data->tg_newtable, "REFERENCING NEW TABLE AS new");
		put_table(rows, rel, rows->watch->insert_kind, data->tg_newtable);
	}
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		require_table(data, data->tg_oldtable && data->tg_newtable, "REFERENCING OLD TABLE AS old NEW TABLE AS new");
		put_tables(rows, rel, data->tg_oldtable, data->tg_newtable);
	}
	else if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
	{
		require_table(data, data->tg_oldtable, "REFERENCING OLD TABLE AS old");
		put_table(rows, rel, LLMB_ROW_DELETED, data->tg_oldtable);
	}
}

static void
put_truncate(Rows *rows)
{
	llmb_inbox_put(rows->writer, rows->watch->is_part ? LLMB_PART_EMPTIED : LLMB_TABLE_EMPTIED, NULL);
}

/* The worker's own UPDATE, not a statement of a user's trigger that it has set off. */
static bool
is_our_write(const TriggerData *data)
{
	return llmb_writing_attachment != 0 && TRIGGER_FIRED_BY_UPDATE(data->tg_event) &&
		DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH)) == 1;
}

/*
 * While the worker writes answers of another task, nothing counts but these:
 * what a BEFORE trigger stamps on the way, if two tasks read it, would have
 * them call each other for ever.
 */
static void
narrow_to_answers(Rows *rows, Relation rel)
{
	LlmbAttachment *writing = llmb_store_attachment(llmb_writing_attachment);
	Bitmapset  *written;
	Bitmapset  *generated = NULL;
	const char *missing;

	if (writing == NULL || !is_named_by(rel, writing))
		return;
	written = llmb_column_numbers(rel, writing->targets, writing->target_count, &missing);
	for (int attnum = 1; attnum <= RelationGetNumberOfAttributes(rel); attnum++)
	{
		if (llmb_generated_from(rel, attnum, written))
			generated = bms_add_member(generated, attnum);
	}
	written = bms_add_members(written, generated);
	rows->columns = rows->whole ? written : bms_intersect(rows->columns, written);
	rows->whole = false;
}

static void
note_changes(const TriggerData *data, Watch *watch)
{
	Rows		rows = {.watch = watch, .columns = watch->columns, .whole = watch->whole};
	int			level = NewGUCNestLevel();

	if (is_our_write(data))
		narrow_to_answers(&rows, data->tg_relation);
	if (watch->key_text && llmb_key_text_needs_settings(watch->key_text))
		llmb_pin_rendering(watch->time_zone);
	rows.per_row = AllocSetContextCreate(CurrentMemoryContext, "llm_batch trigger row", ALLOCSET_SMALL_SIZES);
	rows.writer = llmb_inbox_begin(watch->attachment);
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		put_truncate(&rows);
	else if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
		row_trigger(&rows, data);
	else
		statement_trigger(&rows, data);
	(void) llmb_inbox_end(rows.writer);
	MemoryContextDelete(rows.per_row);
	AtEOXact_GUC(false, level);
}

/*
 * llm_batch.enqueue() returns trigger; its argument is the task's name
 */
Datum
llmb_enqueue(PG_FUNCTION_ARGS)
{
	TriggerData *data;
	Watch	   *watch;

	check_call(fcinfo);
	data = (TriggerData *) fcinfo->context;
	watch = watch_of(data->tg_relation, data->tg_trigger);
	if (watch->ignored || (is_our_write(data) && watch->attachment == llmb_writing_attachment))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event) && is_irrelevant(watch, data))
		return PointerGetDatum(NULL);
	note_changes(data, watch);
	return PointerGetDatum(NULL);
}
