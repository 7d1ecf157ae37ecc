/*-------------------------------------------------------------------------
 *
 * spool.c
 *		A request file in a PostgreSQL temporary file.
 *
 * Temporary files obey temp_tablespaces and temp_file_limit and are removed
 * after a crash.  A spool that is lost that way is written again from the
 * batch's items.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "lib/stringinfo.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "json.h"
#include "spool.h"

/* BufFile reads 8 kB at a time; lines are cut out of pieces of this size. */
#define READ_SIZE 65536

struct LlmbSpool
{
	BufFile    *file;
	MemoryContext context;
	int64		bytes;
	StringInfoData buffer;		/* of llmb_spool_line */
	size_t		taken;			/* of buffer */
	MemoryContextCallback on_reset; /* the file goes with the context */
};

static void
close_file(void *arg)
{
	LlmbSpool  *spool = arg;

	if (spool->file)
		BufFileClose(spool->file);
	spool->file = NULL;
}

LlmbSpool *
llmb_spool_new(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	LlmbSpool  *spool = palloc0(sizeof(LlmbSpool));

	spool->context = context;
	spool->file = BufFileCreateTemp(true);
	initStringInfo(&spool->buffer);
	spool->on_reset.func = close_file;
	spool->on_reset.arg = spool;
	MemoryContextRegisterResetCallback(context, &spool->on_reset);
	MemoryContextSwitchTo(old);
	return spool;
}

void
llmb_spool_write(LlmbSpool *spool, const char *data, size_t len)
{
	BufFileWrite(spool->file, unconstify(char *, data), len);
	spool->bytes += len;
}

int64
llmb_spool_bytes(const LlmbSpool *spool)
{
	return spool->bytes;
}

void
llmb_spool_free(LlmbSpool *spool)
{
	if (spool == NULL)
		return;
	close_file(spool);
	pfree(spool->buffer.data);
	spool->buffer.data = NULL;
	/* the struct itself stays, for the callback to find it closed */
}

static void
rewind_file(LlmbSpool *spool)
{
	if (BufFileSeek(spool->file, 0, 0, SEEK_SET) != 0)
		elog(ERROR, "could not rewind a request file");
}

ssize_t
llmb_spool_read(void *arg, char *buf, size_t size, bool rewind)
{
	LlmbSpool  *spool = arg;
	MemoryContext context = CurrentMemoryContext;
	volatile ssize_t got = -1;

	/* the foreign frames of curl are below us: an error must end here */
	PG_TRY();
	{
		if (rewind)
			rewind_file(spool);
		got = (ssize_t) BufFileRead(spool->file, buf, size);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return got;
}

char *
llmb_spool_line(LlmbSpool *spool, bool rewind, size_t *len)
{
	StringInfo	buffer = &spool->buffer;
	size_t		consumed;
	ssize_t		found;

	if (rewind)
	{
		rewind_file(spool);
		resetStringInfo(buffer);
		spool->taken = 0;
	}
	for (;;)
	{
		size_t		got;

		found = llmb_jsonl_next(buffer->data + spool->taken, buffer->len - spool->taken, &consumed);
		if (found >= 0)
			break;
		memmove(buffer->data, buffer->data + spool->taken, buffer->len - spool->taken);
		buffer->len -= spool->taken;
		spool->taken = 0;
		enlargeStringInfo(buffer, READ_SIZE);
		got = BufFileRead(spool->file, buffer->data + buffer->len, READ_SIZE);
		if (got == 0)
			return NULL;
		buffer->len += got;
	}
	buffer->data[spool->taken + found] = '\0';
	*len = found;
	spool->taken += consumed;
	return buffer->data + spool->taken - consumed;
}
