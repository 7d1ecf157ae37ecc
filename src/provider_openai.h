/*-------------------------------------------------------------------------
 *
 * provider_openai.h
 *		OpenAI's wire form, for providers that speak it as well.
 *
 * Three files know it: openai_request.c writes requests, openai_answer.c
 * reads what a request brought, provider_openai.c makes the calls that a
 * batch's life is made of, and reads their replies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PROVIDER_OPENAI_H
#define LLMB_PROVIDER_OPENAI_H

#include "batch.h"

/* What a batch may hold: npm openai 7.55.0, resources/batches.d.ts */
#define LLMB_OPENAI_MAX_BATCH_REQUESTS	50000
#define LLMB_OPENAI_MAX_BATCH_BYTES		(INT64CONST(200) * 1000 * 1000)

/* ---- openai_request.c ---- */

/* A model of class "embedding" has no other endpoint, whatever the server's option says. */
extern LlmbEndpoint llmb_openai_endpoint(const LlmbModel *model, const LlmbDialect *dialect);

/* An endpoint's path after base_url: "/chat/completions". */
extern const char *llmb_openai_path(LlmbEndpoint endpoint);

/*
 * Whether the server is an Azure resource with the older paths: an
 * api_version, and a base_url that does not end with "/v1".
 */
extern bool llmb_openai_is_old_azure(const LlmbDialect *dialect, const char *base_url);

/* See LlmbProvider. */
extern char *llmb_openai_check_params(const LlmbModel *model, const LlmbDialect *dialect,
									  const LlmbJson *params);
extern void llmb_openai_put_body(StringInfo out, const LlmbRequest *request);
extern void llmb_openai_put_line(StringInfo out, const LlmbRequest *request);

/* ---- openai_answer.c ---- */

/*
 * {"error":{"message":..., "type":..., "param":..., "code":...}}; some
 * servers write the members without the envelope, or a mere string for it.
 * The members point into the JSON they were read from.
 */
typedef struct LlmbOpenaiError
{
	const char *code;			/* "" when absent, as the others */
	const char *type;
	const char *param;
	const char *message;
	int64		number;			/* code, where it is a number, also in quotes; else -1 */
} LlmbOpenaiError;

/* body may be NULL: all members are then absent. */
extern void llmb_openai_read_error(const LlmbJson *body, LlmbOpenaiError *error);
/* Whether its code or type is a word of the blank-separated list. */
extern bool llmb_openai_error_in(const LlmbOpenaiError *error, const char *list);
/* Its code, else its type, if that may be shown (palloc'd); else NULL. */
extern char *llmb_openai_error_code(const LlmbOpenaiError *error);

/* Money or quota is used up: waiting does not help. */
#define LLMB_OPENAI_QUOTA_CODES \
	"insufficient_quota credit_balance_exhausted billing_hard_limit_reached " \
	"organization_spend_limit_exceeded project_spend_limit_exceeded " \
	"organization_usage_limit_exceeded"

/* See LlmbProvider. */
extern bool llmb_openai_read_line(char *line, size_t len, LlmbOutcome *outcome);
extern void llmb_openai_read_answer(LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply);
extern void llmb_openai_read_limits(const LlmbHttpReply *http, int64 now_ms, LlmbLimits *limits);

/* ---- provider_openai.c ---- */

/* See LlmbProvider. */
extern bool llmb_openai_make_call(LlmbVerb verb, const LlmbBatchRef *ref,
								  const char *key, LlmbCall *call);
extern void llmb_openai_read_reply(LlmbVerb verb, LlmbHttpReply *http,
								   LlmbReply *reply);

#endif							/* LLMB_PROVIDER_OPENAI_H */
