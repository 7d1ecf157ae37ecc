/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What the fuzz targets share.
 *
 * A target is one file with one function, fuzz_one(), which takes any bytes,
 * gives them to the readers that it is about, and checks what they promise.
 * The same program text is linked in two ways: with libFuzzer, which looks
 * for bytes that break a promise, and with replay.c, which tries those that
 * are kept in corpus/.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_FUZZ_H
#define LLMB_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A promise; one that is broken ends the program, with its text. */
#define CHECK(promise) \
	((promise) ? (void) 0 : fuzz_broken(#promise, __FILE__, __LINE__))

extern void fuzz_broken(const char *promise, const char *file, int line) __attribute__((noreturn));

/* A copy with a NUL behind it, of exactly that size, that readers may edit. */
extern char *fuzz_copy(const char *data, size_t len);

/* Whether text is UTF-8 without U+0000; NULL is. */
extern bool fuzz_is_text(const char *text);

/*
 * palloc and its kin, as the programs see them: every chunk is malloc'd by
 * itself, so that a sanitizer knows its ends, and all are freed when
 * fuzz_one() returns.  The most that was held at one time, in bytes.
 */
extern size_t fuzz_peak(void);

/* libFuzzer's name for it; calls fuzz_one(), and checks the memory it took. */
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* ---- of each target ---- */

extern void fuzz_one(const char *data, size_t len);

#endif							/* LLMB_FUZZ_H */
