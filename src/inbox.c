/*-------------------------------------------------------------------------
 *
 * inbox.c
 *		Which rows may have changed: appended by sessions, taken out by gather.c.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "bulk.h"
#include "inbox.h"
#include "shmem.h"

int64		llmb_writing_attachment = 0;

struct LlmbInboxWriter
{
	int64		attachment;
	int64		count;
	Oid			sequence;
	TimestampTz now;
	LlmbBulk   *bulk;			/* NULL: nothing was put yet */
	MemoryContext context;		/* of all of it: who puts may be in one that goes before llmb_inbox_end() */
};

LlmbInboxWriter *
llmb_inbox_begin(int64 attachment)
{
	LlmbInboxWriter *writer = palloc0(sizeof(LlmbInboxWriter));

	writer->attachment = attachment;
	writer->context = CurrentMemoryContext;
	return writer;
}

void
llmb_inbox_put(LlmbInboxWriter *writer, char kind, const char *key)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	if (writer->bulk == NULL)
	{
		MemoryContext old;

		/* before the first id is drawn: gather.c takes ids of transactions that have ended for gone */
		(void) GetTopTransactionId();
		writer->sequence = get_relname_relid("inbox_id_seq", get_namespace_oid(LLMB_SCHEMA, false));
		writer->now = GetCurrentTimestamp();
		old = MemoryContextSwitchTo(writer->context);
		writer->bulk = llmb_bulk_begin("inbox");
		MemoryContextSwitchTo(old);
	}
	values[0] = Int64GetDatum(writer->attachment);
	values[1] = Int64GetDatum(nextval_internal(writer->sequence, false));
	values[2] = TimestampTzGetDatum(writer->now);
	values[3] = CharGetDatum(kind);
	nulls[4] = key == NULL;
	values[4] = key ? CStringGetTextDatum(key) : (Datum) 0;
	llmb_bulk_put(writer->bulk, values, nulls);
	writer->count++;
}

int64
llmb_inbox_end(LlmbInboxWriter *writer)
{
	if (writer->bulk)
	{
		llmb_bulk_end(writer->bulk);
		llmb_wake_for_changes_at_commit();
	}
	return writer->count;
}
