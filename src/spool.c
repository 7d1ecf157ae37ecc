/*-------------------------------------------------------------------------
 *
 * spool.c
 *		A request file in a PostgreSQL temporary file.
 *
 * Temporary files obey temp_file_limit and are removed after a crash.  A spool
 * that is lost that way is written again from the batch's items.
 *
 * It is a plain file of fd.c's and no BufFile: that one writes what it holds
 * when it is closed, and so raises once more just when the disk is full and
 * the file had better go.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "json.h"
#include "spool.h"

/* Lines are gathered into, and cut out of, pieces of this size. */
#define PIECE_SIZE 65536

struct LlmbSpool
{
	File		file;			/* 0: closed */
	int64		bytes;			/* all that was written */
	int64		read_to;		/* where reading goes on */
	StringInfoData unwritten;	/* the end, not yet in the file */
	StringInfoData buffer;		/* of llmb_spool_line */
	size_t		taken;			/* of buffer */
	MemoryContextCallback on_reset; /* the file goes with the context */
};

static void
close_file(void *arg)
{
	LlmbSpool  *spool = arg;

	if (spool->file > 0)
		FileClose(spool->file);
	spool->file = 0;
}

LlmbSpool *
llmb_spool_new(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	LlmbSpool  *spool = palloc0(sizeof(LlmbSpool));

	initStringInfo(&spool->unwritten);
	initStringInfo(&spool->buffer);
	spool->on_reset.func = close_file;
	spool->on_reset.arg = spool;
	MemoryContextRegisterResetCallback(context, &spool->on_reset);
	spool->file = OpenTemporaryFile(true);
	MemoryContextSwitchTo(old);
	return spool;
}

/* Brings into the file what waits for it. */
static void
write_out(LlmbSpool *spool)
{
	StringInfo	unwritten = &spool->unwritten;
	int64		at = spool->bytes - unwritten->len;
	int			done = 0;

	while (done < unwritten->len)
	{
		int			n = FileWrite(spool->file, unwritten->data + done, unwritten->len - done,
								  at + done, WAIT_EVENT_BUFFILE_WRITE);

		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write a request file: %m")));
		done += n;
	}
	resetStringInfo(unwritten);
}

void
llmb_spool_write(LlmbSpool *spool, const char *data, size_t len)
{
	appendBinaryStringInfo(&spool->unwritten, data, len);
	spool->bytes += len;
	if (spool->unwritten.len >= PIECE_SIZE)
		write_out(spool);
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
	pfree(spool->unwritten.data);
	pfree(spool->buffer.data);
	/* the struct itself stays, for the callback to find it closed */
}

/* The next bytes, at most size; 0 at the end. */
static int
read_piece(LlmbSpool *spool, char *buf, size_t size)
{
	int			n;

	if (spool->unwritten.len > 0)
		write_out(spool);
	/* older versions count in int */
	n = FileRead(spool->file, buf, (int) Min(size, (size_t) MaxAllocSize),
				 spool->read_to, WAIT_EVENT_BUFFILE_READ);
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read a request file: %m")));
	spool->read_to += n;
	return n;
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
			spool->read_to = 0;
		got = size > 0 ? read_piece(spool, buf, size) : 0;
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
		spool->read_to = 0;
		resetStringInfo(buffer);
		spool->taken = 0;
	}
	for (;;)
	{
		int			got;

		found = llmb_jsonl_next(buffer->data + spool->taken, buffer->len - spool->taken, &consumed);
		if (found >= 0)
			break;
		memmove(buffer->data, buffer->data + spool->taken, buffer->len - spool->taken);
		buffer->len -= spool->taken;
		spool->taken = 0;
		enlargeStringInfo(buffer, PIECE_SIZE);
		got = read_piece(spool, buffer->data + buffer->len, PIECE_SIZE);
		if (got == 0)
			return NULL;
		buffer->len += got;
	}
	buffer->data[spool->taken + found] = '\0';
	*len = found;
	spool->taken += consumed;
	return buffer->data + spool->taken - consumed;
}
