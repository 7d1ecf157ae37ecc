/*-------------------------------------------------------------------------
 *
 * provider_mock.c
 *		A provider in process: the whole life of a batch with no key, no
 *		network and no cost.
 *
 * It speaks OpenAI's wire form, so that all code but the wire itself is the
 * code that runs against a real provider.
 *
 * The far side keeps nothing.  What a batch is follows from its id
 * ("mock-<created>-<requests>"), the clock, and the options that stand in
 * LlmbBatchRef; what a request gets follows from its text, its custom_id and
 * the seed.  The same questions therefore get the same answers, also after a
 * crash, and a resent request, having another custom_id, gets another chance.
 *
 * What the answers say is the business of mock_answer.c.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "mock_answer.h"
#include "provider_openai.h"

/* Batches take latency_ms, and up to this much of it more. */
#define LATENCY_SPREAD 0.10

/* Part of its time that a batch is being validated. */
#define VALIDATION_SHARE 0.05

/* Numbers in a vector: when none are asked for, and the most (as pgvector has it). */
#define MOCK_DIMENSIONS 8
#define MOCK_MAX_DIMENSIONS 16000

static double
fraction_of(const char *text, int64 seed, LlmbMockPurpose purpose)
{
	return llmb_mock_fraction(llmb_mock_hash(text, strlen(text), seed, purpose));
}

/*
 * The life of a batch
 */

typedef struct MockBatch
{
	int64		created_ms;
	int64		total;
	double		progress;		/* of its time that has passed: 0..1 */
	bool		cancelled;
} MockBatch;

static bool
mock_batch(const LlmbBatchRef *ref, int64 now_ms, MockBatch *batch)
{
	const char *token = ref->token ? ref->token : "";
	double		latency;
	int64		until_ms = now_ms;
	long long	created;
	long long	total;
	char		end;

	memset(batch, 0, sizeof(*batch));
	if (ref->remote_id == NULL ||
		sscanf(ref->remote_id, "mock-%lld-%lld%c", &created, &total, &end) != 2 ||
		created < 0 || total < 0)
		return false;
	batch->created_ms = created;
	batch->total = total;

	latency = (double) Max(ref->latency_ms, 0) *
		(1 + LATENCY_SPREAD * fraction_of(token, ref->seed, FOR_LATENCY));
	if (ref->cancelled_ms > 0 && ref->cancelled_ms <= now_ms &&
		ref->cancelled_ms < created + latency)
	{
		batch->cancelled = true;
		until_ms = ref->cancelled_ms;
	}
	if (until_ms - created >= latency)
		batch->progress = 1;
	else
		batch->progress = Max((until_ms - created) / latency, 0);
	return true;
}

static const char *
mock_status(const MockBatch *batch)
{
	if (batch->cancelled)
		return "cancelled";
	if (batch->progress >= 1)
		return "completed";
	if (batch->progress < VALIDATION_SHARE)
		return "validating";
	return "in_progress";
}

static void
put_optional(StringInfo out, const char *member, const char *text)
{
	appendStringInfo(out, ",\"%s\":", member);
	if (text != NULL)
		llmb_json_put_string(out, text);
	else
		appendStringInfoString(out, "null");
}

/*
 * All lines, good and bad, stand in the one output file.  The counts are
 * the expected ones; which requests fail is not known without them.
 */
static void
put_batch(StringInfo out, const LlmbBatchRef *ref, const MockBatch *batch)
{
	const char *status = mock_status(batch);
	bool		over = batch->cancelled || batch->progress >= 1;
	bool		started = over || batch->progress >= VALIDATION_SHARE;
	double		rate = Min(Max(ref->failure_rate, 0), 1);
	int64		done = (int64) (batch->total * batch->progress);
	int64		failed = (int64) (done * rate);

	appendStringInfoString(out, "{\"id\":");
	llmb_json_put_string(out, ref->remote_id);
	appendStringInfo(out, ",\"object\":\"batch\",\"endpoint\":\"/v1%s\","
					 "\"errors\":null,\"completion_window\":\"24h\",\"status\":\"%s\"",
					 llmb_openai_path(llmb_openai_endpoint(ref->model, ref->dialect)), status);
	put_optional(out, "input_file_id", ref->remote_input);
	put_optional(out, "output_file_id",
				 over ? psprintf("%s-output", ref->remote_id) : NULL);
	put_optional(out, "error_file_id", NULL);
	appendStringInfo(out, ",\"created_at\":%lld,\"request_counts\":"
					 "{\"total\":%lld,\"completed\":%lld,\"failed\":%lld},\"metadata\":{\"llm_batch\":",
					 (long long) (batch->created_ms / 1000),
					 (long long) (started ? batch->total : 0),
					 (long long) (done - failed), (long long) failed);
	llmb_json_put_string(out, ref->token ? ref->token : "");
	appendStringInfoString(out, "}}");
}

static void
put_no_such_batch(StringInfo out)
{
	appendStringInfoString(out, "{\"error\":{\"message\":\"No such batch.\","
						   "\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"not_found\"}}");
}

static int
answer_batch(StringInfo out, const LlmbBatchRef *ref, int64 now_ms)
{
	MockBatch	batch;

	if (!mock_batch(ref, now_ms, &batch))
	{
		put_no_such_batch(out);
		return 404;
	}
	put_batch(out, ref, &batch);
	return 200;
}

/* The reference that a caller will hold once it knows the answer. */
static int
answer_create(StringInfo out, const LlmbBatchRef *ref, int64 now_ms)
{
	LlmbBatchRef created = *ref;

	created.remote_id = psprintf("mock-%lld-%lld",
								 (long long) now_ms, (long long) ref->item_count);
	created.cancelled_ms = 0;
	return answer_batch(out, &created, now_ms);
}

static int
answer_cancel(StringInfo out, const LlmbBatchRef *ref, int64 now_ms)
{
	LlmbBatchRef cancelled = *ref;

	if (cancelled.cancelled_ms <= 0)
		cancelled.cancelled_ms = now_ms;
	return answer_batch(out, &cancelled, now_ms);
}

static void
mock_answer(LlmbVerb verb, const LlmbBatchRef *ref, int64 now_ms,
			LlmbHttpReply *http)
{
	StringInfoData out;

	initStringInfo(&out);
	http->status = 200;
	switch (verb)
	{
		case LLMB_CALL_UPLOAD:
			appendStringInfo(&out, "{\"object\":\"file\",\"id\":\"mock-file-%s\","
							 "\"purpose\":\"batch\",\"bytes\":%lld}",
							 ref->token ? ref->token : "0", (long long) ref->file_bytes);
			break;
		case LLMB_CALL_CREATE:
			http->status = answer_create(&out, ref, now_ms);
			break;
		case LLMB_CALL_POLL:
			http->status = answer_batch(&out, ref, now_ms);
			break;
		case LLMB_CALL_CANCEL:
			http->status = answer_cancel(&out, ref, now_ms);
			break;
		case LLMB_CALL_LIST:
			/* in process nothing comes between a create and its answer */
			appendStringInfoString(&out, "{\"object\":\"list\",\"data\":[],\"has_more\":false}");
			break;
		case LLMB_CALL_FIND_FILE:
			/* uploads are always answered, and leave nothing */
			appendStringInfoString(&out, "{\"object\":\"list\",\"data\":[],\"has_more\":false}");
			break;
		case LLMB_CALL_FETCH:
			/* its lines come from answer_line() */
			break;
		case LLMB_CALL_DELETE_FILE:
			appendStringInfoString(&out, "{\"object\":\"file\",\"deleted\":true}");
			break;
		case LLMB_CALL_UPLOAD_DATA:
		case LLMB_CALL_ANSWER:
			/* not in use: its real-time answers, too, come from answer_line() */
			break;
		case LLMB_CALL_CHECK:
			appendStringInfoString(&out, "{\"object\":\"list\",\"data\":"
								   "[{\"id\":\"mock\",\"object\":\"model\"}]}");
			break;
	}
	http->body = out.data;
	http->len = out.len;
	http->retry_after_ms = -1;
}

/*
 * Answering one request
 */

/* About four bytes make a token. */
static int64
count_tokens(size_t bytes)
{
	return (bytes + 3) / 4;
}

/* Cuts the answer where the request says; true when it had to. */
static bool
limit_answer(char *answer, int64 max_tokens)
{
	size_t		len;

	if (max_tokens <= 0 || count_tokens(strlen(answer)) <= max_tokens)
		return false;
	len = max_tokens * 4;
	/* not inside a character of several bytes */
	while (len > 0 && ((unsigned char) answer[len] & 0xC0) == 0x80)
		len--;
	answer[len] = '\0';
	return true;
}

/* What a reply says, whatever its form. */
typedef struct MockReply
{
	const char *model;
	char	   *answer;
	bool		cut;			/* by the limit of tokens */
	uint64		hash;
	int64		in;				/* tokens */
	int64		out;
} MockReply;

static void
put_chat_reply(StringInfo out, const MockReply *reply)
{
	appendStringInfo(out, "{\"id\":\"chatcmpl-mock-%016llx\",\"object\":\"chat.completion\",\"model\":",
					 (unsigned long long) reply->hash);
	llmb_json_put_string(out, reply->model);
	appendStringInfoString(out, ",\"choices\":[{\"index\":0,"
						   "\"message\":{\"role\":\"assistant\",\"content\":");
	llmb_json_put_string(out, reply->answer);
	appendStringInfo(out, ",\"refusal\":null},\"finish_reason\":\"%s\"}],"
					 "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,"
					 "\"total_tokens\":%lld,"
					 "\"prompt_tokens_details\":{\"cached_tokens\":0,\"cache_write_tokens\":0},"
					 "\"completion_tokens_details\":{\"reasoning_tokens\":0}}}",
					 reply->cut ? "length" : "stop",
					 (long long) reply->in, (long long) reply->out, (long long) (reply->in + reply->out));
}

static void
put_response_reply(StringInfo out, const MockReply *reply)
{
	appendStringInfo(out, "{\"id\":\"resp_mock_%016llx\",\"object\":\"response\",\"status\":\"%s\","
					 "\"error\":null,\"incomplete_details\":%s,\"model\":",
					 (unsigned long long) reply->hash, reply->cut ? "incomplete" : "completed",
					 reply->cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
	llmb_json_put_string(out, reply->model);
	appendStringInfoString(out, ",\"output\":[{\"type\":\"message\",\"role\":\"assistant\",\"content\":"
						   "[{\"type\":\"output_text\",\"text\":");
	llmb_json_put_string(out, reply->answer);
	appendStringInfo(out, "}]}],\"usage\":{\"input_tokens\":%lld,"
					 "\"input_tokens_details\":{\"cached_tokens\":0,\"cache_write_tokens\":0},"
					 "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":0},"
					 "\"total_tokens\":%lld}}",
					 (long long) reply->in, (long long) reply->out, (long long) (reply->in + reply->out));
}

static void
put_text_reply(StringInfo out, const LlmbBatchRef *ref, const LlmbJson *body, LlmbEndpoint endpoint)
{
	bool		chat = endpoint == LLMB_ENDPOINT_CHAT;
	const char *model = llmb_json_string(body, "model");
	MockReply	reply = {0};
	size_t		prompt_bytes;
	size_t		system_bytes;
	int64		most;

	reply.model = model ? model : "mock";
	reply.answer = llmb_mock_answer(body, ref->seed, &prompt_bytes, &system_bytes, &reply.hash);
	most = llmb_json_int(body, chat ? "max_completion_tokens" : "max_output_tokens", -1);
	if (chat && most < 0)
		most = llmb_json_int(body, "max_tokens", -1);
	reply.cut = limit_answer(reply.answer, most);
	reply.in = count_tokens(system_bytes) + count_tokens(prompt_bytes);
	reply.out = count_tokens(strlen(reply.answer));
	if (chat)
		put_chat_reply(out, &reply);
	else
		put_response_reply(out, &reply);
	pfree(reply.answer);
}

/* As many numbers as are asked for. */
static void
put_embedding_reply(StringInfo out, const LlmbBatchRef *ref, const LlmbJson *body)
{
	const char *model = llmb_json_string(body, "model");
	const char *text = llmb_json_string(body, "input");
	int			dimensions = (int) Min(Max(llmb_json_int(body, "dimensions", MOCK_DIMENSIONS), 1),
									   MOCK_MAX_DIMENSIONS);
	double	   *vector = palloc(sizeof(double) * dimensions);
	int64		tokens = count_tokens(text ? strlen(text) : 0);
	int			i;

	llmb_mock_vector(text ? text : "", ref->seed, vector, dimensions);
	appendStringInfoString(out, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,"
						   "\"embedding\":");
	for (i = 0; i < dimensions; i++)
		appendStringInfo(out, "%c%.9g", i == 0 ? '[' : ',', vector[i]);
	appendStringInfoString(out, "]}],\"model\":");
	llmb_json_put_string(out, model ? model : "mock");
	appendStringInfo(out, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
					 (long long) tokens, (long long) tokens);
	pfree(vector);
}

/* A line says itself which endpoint it is for. */
static void
put_reply(StringInfo out, const LlmbBatchRef *ref, const LlmbJson *request)
{
	LlmbJson   *body = llmb_json_get(request, "body");
	const char *url = llmb_json_string(request, "url");

	if (url != NULL && strcmp(url, "/v1/embeddings") == 0)
		put_embedding_reply(out, ref, body);
	else if (url != NULL && strcmp(url, "/v1/responses") == 0)
		put_text_reply(out, ref, body, LLMB_ENDPOINT_RESPONSES);
	else
		put_text_reply(out, ref, body, LLMB_ENDPOINT_CHAT);
}

/* Text and attempt of a request: what is the same in every run of a job. */
static char *
failure_name(const LlmbJson *request, int attempt)
{
	LlmbJson   *text = llmb_json_path(request, "body", "messages", NULL);
	StringInfoData name;

	initStringInfo(&name);
	appendStringInfo(&name, "%d/", attempt);
	if (text == NULL)
		text = llmb_json_path(request, "body", "input", NULL);
	if (text != NULL)
		llmb_json_put_node(&name, text);
	return name.data;
}

/* What the line brings once it is known whether the request was reached. */
static void
put_response(StringInfo out, const LlmbBatchRef *ref, const LlmbJson *request,
			 const char *custom_id, bool reached)
{
	if (!reached)
	{
		appendStringInfoString(out, "null,\"error\":{\"code\":\"batch_cancelled\","
							   "\"message\":\"The batch was cancelled before this request was run.\"}");
		return;
	}
	/* not by the custom_id: tokens are random, a seed is not */
	if (ref->failure_rate > 0 &&
		fraction_of(failure_name(request, ref->attempt), ref->seed, FOR_FAILURE) < ref->failure_rate)
	{
		appendStringInfoString(out, "{\"status_code\":500,\"request_id\":\"req_mock\","
							   "\"body\":{\"error\":"
							   "{\"message\":\"The mock server was told to fail now and then.\","
							   "\"type\":\"server_error\",\"param\":null,\"code\":null}}},\"error\":null");
		return;
	}
	appendStringInfo(out, "{\"status_code\":200,\"request_id\":\"req_mock-%016llx\",\"body\":",
					 (unsigned long long) llmb_mock_hash(custom_id, strlen(custom_id),
													ref->seed, FOR_ORDER));
	put_reply(out, ref, request);
	appendStringInfoString(out, "},\"error\":null");
}

/* A line that is no request gets no answer. */
static void
mock_answer_line(const LlmbBatchRef *ref, int64 now_ms, char *line, size_t len,
				 StringInfo out)
{
	LlmbJson   *request;
	const char *custom_id;
	const char *reason;
	bool		altered = false;
	bool		reached = true;
	MockBatch	batch;

	len = llmb_json_clean(line, len, &altered);
	request = llmb_json_parse(line, len, &reason);
	custom_id = llmb_json_string(request, "custom_id");
	if (custom_id == NULL)
	{
		llmb_json_free(request);
		return;
	}
	if (mock_batch(ref, now_ms, &batch) && batch.cancelled)
		reached = fraction_of(custom_id, ref->seed, FOR_ORDER) < batch.progress;

	appendStringInfo(out, "{\"id\":\"batch_req_mock-%016llx\",\"custom_id\":",
					 (unsigned long long) llmb_mock_hash(custom_id, strlen(custom_id),
													ref->seed, FOR_ORDER));
	llmb_json_put_string(out, custom_id);
	appendStringInfoString(out, ",\"response\":");
	put_response(out, ref, request, custom_id, reached);
	appendStringInfoString(out, "}\n");
	llmb_json_free(request);
}

static bool
mock_serves(const char *model)
{
	return strncmp(model, "mock", 4) == 0;
}

const LlmbProvider llmb_provider_mock = {
	.api = "mock",
	.base_url = NULL,
	.needs_key = false,
	.max_batch_requests = LLMB_OPENAI_MAX_BATCH_REQUESTS,
	.max_batch_bytes = LLMB_OPENAI_MAX_BATCH_BYTES,
	.window_hours = 24,
	.serves = mock_serves,
	.check_params = llmb_openai_check_params,
	.put_body = llmb_openai_put_body,
	.put_line = llmb_openai_put_line,
	.make_call = llmb_openai_make_call,
	.read_reply = llmb_openai_read_reply,
	.read_line = llmb_openai_read_line,
	.read_answer = llmb_openai_read_answer,
	.answer = mock_answer,
	.answer_line = mock_answer_line,
};
