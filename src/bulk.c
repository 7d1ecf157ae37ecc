/*-------------------------------------------------------------------------
 *
 * bulk.c
 *		Many rows into one of our own tables, as COPY does it.
 *
 * table_multi_insert writes a page's worth of rows with one WAL record,
 * which is what keeps enqueueing near the cost of an INSERT ... SELECT.
 * Unlike COPY we take no BulkInsertState: its small ring of buffers makes the
 * session write and flush what the checkpointer would write anyway (measured
 * on 100,000 rows of 1 kB).  The
 * tables written here have no triggers, no CHECK and no foreign key, and
 * privileges are not asked: whoever calls has already decided.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "bulk.h"
#include "compat.h"

/* As in COPY (copyfrom.c): rows and bytes that are buffered at most. */
#define MAX_ROWS	1000
#define MAX_BYTES	65535

struct LlmbBulk
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *info;
	CommandId	cid;
	TupleTableSlot **slots;
	int			count;
	size_t		bytes;
	MemoryContext context;		/* of the slots */
	MemoryContext values;		/* of the buffered rows */
};

LlmbBulk *
llmb_bulk_begin(const char *table)
{
	LlmbBulk   *bulk = palloc0(sizeof(LlmbBulk));
	Oid			schema = get_namespace_oid(LLMB_SCHEMA, false);
	Oid			relid = get_relname_relid(table, schema);

	if (!OidIsValid(relid))
		elog(ERROR, "table llm_batch.%s does not exist", table);
	bulk->rel = table_open(relid, RowExclusiveLock);
	bulk->estate = CreateExecutorState();
	bulk->info = makeNode(ResultRelInfo);
	InitResultRelInfo(bulk->info, bulk->rel, 0, NULL, 0);
	ExecOpenIndices(bulk->info, false);
	bulk->cid = GetCurrentCommandId(true);
	bulk->slots = palloc0(sizeof(TupleTableSlot *) * MAX_ROWS);
	bulk->context = CurrentMemoryContext;
	bulk->values = AllocSetContextCreate(CurrentMemoryContext, "llm_batch bulk rows",
										 ALLOCSET_DEFAULT_SIZES);
	return bulk;
}

static void
flush(LlmbBulk *bulk)
{
	MemoryContext old;

	if (bulk->count == 0)
		return;
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(bulk->estate));
	table_multi_insert(bulk->rel, bulk->slots, bulk->count, bulk->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < bulk->count; i++)
	{
		if (bulk->info->ri_NumIndices > 0)
			llmb_insert_index_tuples(bulk->info, bulk->slots[i], bulk->estate);
		ExecClearTuple(bulk->slots[i]);
	}
	ResetPerTupleExprContext(bulk->estate);
	MemoryContextReset(bulk->values);
	bulk->count = 0;
	bulk->bytes = 0;
}

/* Pass-by-reference values are copied: the slot only points to them. */
static Datum
copied(LlmbBulk *bulk, Form_pg_attribute att, Datum value)
{
	MemoryContext old = MemoryContextSwitchTo(bulk->values);
	Datum		copy = value;

	if (!att->attbyval)
	{
		copy = datumCopy(value, att->attbyval, att->attlen);
		bulk->bytes += att->attlen == -1 ? VARSIZE_ANY(DatumGetPointer(copy)) : 64;
	}
	MemoryContextSwitchTo(old);
	return copy;
}

void
llmb_bulk_put(LlmbBulk *bulk, const Datum *values, const bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(bulk->rel);
	TupleTableSlot *slot = bulk->slots[bulk->count];

	if (slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(bulk->context);

		slot = bulk->slots[bulk->count] = table_slot_create(bulk->rel, NULL);
		MemoryContextSwitchTo(old);
	}
	ExecClearTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		slot->tts_isnull[i] = nulls[i];
		slot->tts_values[i] = nulls[i] ? (Datum) 0 :
			copied(bulk, TupleDescAttr(desc, i), values[i]);
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(bulk->rel);
	if (++bulk->count == MAX_ROWS || bulk->bytes >= MAX_BYTES)
		flush(bulk);
}

void
llmb_bulk_end(LlmbBulk *bulk)
{
	flush(bulk);
	for (int i = 0; i < MAX_ROWS && bulk->slots[i]; i++)
		ExecDropSingleTupleTableSlot(bulk->slots[i]);
	table_finish_bulk_insert(bulk->rel, 0);
	ExecCloseIndices(bulk->info);
	FreeExecutorState(bulk->estate);
	table_close(bulk->rel, NoLock);
	MemoryContextDelete(bulk->values);
	pfree(bulk->slots);
	pfree(bulk);
	CommandCounterIncrement();
}
