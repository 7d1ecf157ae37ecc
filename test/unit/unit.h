/*-------------------------------------------------------------------------
 *
 * unit.h
 *		Tests of what needs no server: one function for each file under test.
 *
 * Results are printed in the Test Anything Protocol.  A test is a call of
 * one of the functions below; none stops the program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_UNIT_H
#define LLMB_UNIT_H

#include "common.h"

#include "batch.h"
#include "json.h"

extern void ok(bool passed, const char *fmt,...) pg_attribute_printf(2, 3);
extern void is_int(int64 got, int64 expected, const char *what);
/* NULL is a value like any other. */
extern void is_text(const char *got, const char *expected, const char *what);
extern void has_text(const char *got, const char *part, const char *what);
extern void skip(const char *what, const char *why);

/* A copy that may be edited, as bytes from a provider are. */
extern LlmbJson *parse(const char *text);
extern LlmbHttpReply http_reply(int status, const char *body);

/*
 * A recorded file, whole; NULL when it is not at hand, after a test has been
 * skipped for it.
 */
extern char *recorded(const char *name, size_t *len);

/* What llm_batch.model would say of a model; of an unknown one, nothing. */
extern const LlmbModel *model_of(const char *name);
/* A server with none of the options that change the dialect. */
extern const LlmbDialect plain_dialect;

/* Small, fast and the same everywhere. */
extern uint32 next_random(uint64 *state);

extern void test_json(void);
extern void test_answer(void);
extern void test_batch(void);
extern void test_provider(void);
extern void test_pace(void);
extern void test_cadence(void);
extern void test_breaker(void);
extern void test_token(void);
extern void test_pii(void);
extern void test_openai(void);
extern void test_openai_endpoints(void);
extern void test_recorded(void);
extern void test_gemini(void);
extern void test_anthropic(void);
extern void test_mock(void);
extern void test_errors(void);
extern void test_mutations(int rounds);
extern void measure(void);
extern void measure_pii(void);

#endif							/* LLMB_UNIT_H */
