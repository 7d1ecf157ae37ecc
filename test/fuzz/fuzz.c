/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *		What the fuzz targets share: memory, promises.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "fuzz.h"

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void) (start))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void) (start))
#endif

/*
 * A tree takes up to some 40 bytes for each byte of JSON ("[1,1,1,..."), and
 * a reader may hold a copy or two of its text; no reader needs more.
 */
#define BYTES_PER_BYTE	96
#define BYTES_ANYWAY	(1024 * 1024)

/* Stands before each chunk, where nobody else may look. */
typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *previous;
	size_t		size;
	size_t		unused;			/* keeps what follows aligned */
} Chunk;

static Chunk *chunks = NULL;
static size_t held = 0;
static size_t peak = 0;

void
fuzz_broken(const char *promise, const char *file, int line)
{
	fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, promise);
	abort();
}

/* ---- memory ---- */

static Chunk *
chunk_of(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	ASAN_UNPOISON_MEMORY_REGION(chunk, sizeof(Chunk));
	return chunk;
}

static void
hide(Chunk *chunk)
{
	ASAN_POISON_MEMORY_REGION(chunk, sizeof(Chunk));
}

static void *
add_chunk(size_t size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	/* as in the server: more is an error, which no reader may come to */
	CHECK(size < 0x3fffffff);
	CHECK(chunk != NULL);
	chunk->size = size;
	chunk->previous = NULL;
	chunk->next = chunks;
	if (chunks != NULL)
	{
		ASAN_UNPOISON_MEMORY_REGION(chunks, sizeof(Chunk));
		chunks->previous = chunk;
		hide(chunks);
	}
	chunks = chunk;
	hide(chunk);
	held += size;
	peak = Max(peak, held);
	return chunk + 1;
}

static void
remove_chunk(Chunk *chunk)
{
	Chunk	   *next = chunk->next;
	Chunk	   *previous = chunk->previous;

	held -= chunk->size;
	if (next != NULL)
	{
		chunk_of(next + 1)->previous = previous;
		hide(next);
	}
	if (previous != NULL)
	{
		chunk_of(previous + 1)->next = next;
		hide(previous);
	}
	else
		chunks = next;
	free(chunk);
}

void *
palloc_extended(Size size, int flags)
{
	void	   *pointer = add_chunk(size);

	/* what is read before it was written should be the same each time */
	memset(pointer, (flags & MCXT_ALLOC_ZERO) ? 0 : 0xA5, size);
	return pointer;
}

void *
palloc(Size size)
{
	return palloc_extended(size, 0);
}

void *
palloc0(Size size)
{
	return palloc_extended(size, MCXT_ALLOC_ZERO);
}

void
pfree(void *pointer)
{
	CHECK(pointer != NULL);
	remove_chunk(chunk_of(pointer));
}

void *
repalloc(void *pointer, Size size)
{
	size_t		old_size = chunk_of(pointer)->size;
	void	   *larger;

	hide((Chunk *) pointer - 1);
	larger = palloc(size);
	memcpy(larger, pointer, Min(size, old_size));
	pfree(pointer);
	return larger;
}

char *
pnstrdup(const char *text, Size size)
{
	size_t		len = strnlen(text, size);
	char	   *copy = palloc(len + 1);

	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

/* the other names, which jsonapi and psprintf use in some versions */
void *
pg_malloc(size_t size)
{
	return palloc(size);
}

void *
pg_malloc0(size_t size)
{
	return palloc0(size);
}

void *
pg_malloc_extended(size_t size, int flags)
{
	return palloc_extended(size, flags);
}

void *
pg_realloc(void *pointer, size_t size)
{
	return repalloc(pointer, size);
}

char *
pg_strdup(const char *text)
{
	return pstrdup(text);
}

void
pg_free(void *pointer)
{
	if (pointer != NULL)
		pfree(pointer);
}

size_t
fuzz_peak(void)
{
	return peak;
}

/* ---- for the targets ---- */

char *
fuzz_copy(const char *data, size_t len)
{
	char	   *copy = palloc(len + 1);

	memcpy(copy, data, len);
	copy[len] = '\0';
	return copy;
}

bool
fuzz_is_text(const char *text)
{
	return text == NULL ||
		pg_encoding_verifymbstr(PG_UTF8, text, strlen(text)) == (int) strlen(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	held = peak = 0;
	fuzz_one((const char *) data, len);
	CHECK(peak <= len * BYTES_PER_BYTE + BYTES_ANYWAY);
	while (chunks != NULL)
		remove_chunk(chunk_of(chunks + 1));
	return 0;
}
