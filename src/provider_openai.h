/*-------------------------------------------------------------------------
 *
 * provider_openai.h
 *		OpenAI's wire form, for providers that speak it as well.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PROVIDER_OPENAI_H
#define LLMB_PROVIDER_OPENAI_H

#include "batch.h"

/* What a batch may hold: npm openai 7.55.0, resources/batches.d.ts */
#define LLMB_OPENAI_MAX_BATCH_REQUESTS	50000
#define LLMB_OPENAI_MAX_BATCH_BYTES		(INT64CONST(200) * 1000 * 1000)

extern char *llmb_openai_check_params(const char *model, const LlmbJson *params);
extern void llmb_openai_put_body(StringInfo out, const LlmbRequest *request);
extern void llmb_openai_put_line(StringInfo out, const LlmbRequest *request);
extern bool llmb_openai_make_call(LlmbVerb verb, const LlmbBatchRef *ref,
								  const char *key, LlmbCall *call);
extern void llmb_openai_read_reply(LlmbVerb verb, LlmbHttpReply *http,
								   LlmbReply *reply);
extern bool llmb_openai_read_line(char *line, size_t len, LlmbOutcome *outcome);

#endif							/* LLMB_PROVIDER_OPENAI_H */
