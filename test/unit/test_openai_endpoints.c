/*-------------------------------------------------------------------------
 *
 * test_openai_endpoints.c
 *		Tests of what src/openai_request.c, openai_answer.c and
 *		provider_openai.c do beyond Chat Completions in a batch: Responses,
 *		Embeddings, real time, and the dialects of compatible servers.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "unit.h"

#define P (&llmb_provider_openai)

static const LlmbDialect responses = {.endpoint = LLMB_ENDPOINT_RESPONSES};
static const LlmbDialect embeddings = {.endpoint = LLMB_ENDPOINT_EMBEDDINGS};

/*
 * Parameters
 */

static void
param(const LlmbDialect *dialect, const char *model, const char *params, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = P->check_params(model_of(model), dialect, json);
	char	   *what = psprintf("endpoint params: %s %s", model, params);

	if (part == NULL)
		is_text(reason, NULL, what);
	else
		has_text(reason, part, what);
	llmb_json_free(json);
}

static void
test_endpoint_params(void)
{
	param(&responses, "gpt-4.1-mini", "{\"max_tokens\": 16, \"temperature\": 0, \"verbosity\": \"low\"}", NULL);
	param(&responses, "gpt-4.1-mini", "{\"max_tokens\": 15}", "an integer of at least 16");
	param(&responses, "gpt-4.1-mini", "{\"seed\": 1}", "\"seed\" cannot be used: the endpoint \"responses\" does not have it");
	param(&responses, "gpt-4.1-mini", "{\"stop\": \"x\"}", "\"stop\" cannot be used");
	param(&responses, "gpt-4.1-mini", "{\"seed\": null}", "unknown parameter \"seed\"");
	param(&responses, "gpt-6-luna", "{\"temperature\": 0.2}", "only with reasoning_effort \"none\"");
	param(&responses, "gpt-6-luna", "{\"instructions\": \"x\"}", "use the argument \"system\"");
	param(&embeddings, "nomic-embed-text", "{\"dimensions\": 256}", NULL);
	param(&embeddings, "nomic-embed-text", "{\"dimensions\": 0}", "an integer of at least 1");
	param(&embeddings, "nomic-embed-text", "{\"temperature\": 0}", "unknown parameter \"temperature\"; known are dimensions");
	param(&plain_dialect, "text-embedding-3-small", "{\"dimensions\": 256}", NULL);
	param(&responses, "text-embedding-3-small", "{\"max_tokens\": 256}", "known are dimensions");
	param(&plain_dialect, "gpt-4.1-mini", "{\"dimensions\": 256}", "only embeddings have dimensions");
	ok(P->serves("text-embedding-3-small") && !P->serves("text-bison"), "serves: embedding models");
}

/*
 * Requests
 */

static LlmbRequest
request_of(const char *model, const LlmbDialect *dialect)
{
	LlmbRequest request = {0};

	request.custom_id = "tok-1";
	request.model = model_of(model);
	request.dialect = dialect;
	request.prompt = "Say \"hi\"";
	return request;
}

static void
body_is(const LlmbRequest *request, const char *expected, const char *what)
{
	StringInfoData out;
	LlmbJson   *json;

	initStringInfo(&out);
	P->put_body(&out, request);
	is_text(out.data, expected, what);
	json = parse(out.data);
	ok(json != NULL, "%s, which is JSON", what);
	llmb_json_free(json);
}

static void
line_has(const LlmbRequest *request, const char *part, const char *what)
{
	StringInfoData out;

	initStringInfo(&out);
	P->put_line(&out, request);
	has_text(out.data, part, what);
}

#define WORDS "Answer with one JSON object and nothing else. It must satisfy this JSON schema:\\n{\\\"type\\\":\\\"object\\\"}"

static void
test_responses_requests(void)
{
	LlmbRequest request = request_of("gpt-6-luna", &responses);
	LlmbDialect object = responses;

	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"input\":\"Say \\\"hi\\\"\"}",
			"responses: the least");
	request.system = "Be brief.";
	request.schema = "{\"type\":\"object\"}";
	request.params = parse("{\"max_tokens\": 99, \"reasoning_effort\": \"none\", \"verbosity\": \"low\", \"temperature\": 0}");
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"max_output_tokens\":99,\"temperature\":0,"
			"\"reasoning\":{\"effort\":\"none\"},\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"answer\","
			"\"strict\":true,\"schema\":{\"type\":\"object\"}},\"verbosity\":\"low\"},"
			"\"instructions\":\"Be brief.\",\"input\":\"Say \\\"hi\\\"\"}", "responses: everything");
	line_has(&request, "\"method\":\"POST\",\"url\":\"/v1/responses\",\"body\":{\"model\"", "responses: the url of a line");

	request.schema = NULL;
	request.params = parse("{\"verbosity\": \"high\"}");
	request.system = NULL;
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"text\":{\"verbosity\":\"high\"},"
			"\"input\":\"Say \\\"hi\\\"\"}", "responses: a verbosity alone");
	request.params = NULL;
	request.messages = "[{\"role\":\"user\",\"content\":\"x\"}]";
	request.system = "Be brief.";
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"input\":[{\"role\":\"user\",\"content\":\"x\"}]}",
			"responses: messages replace system and prompt");

	request.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\\n\"},"
		"{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y\",\"detail\":\"low\"}},{\"type\":\"file\"}]},"
		"{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"y\"}],\"n\":1}]";
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"input\":[{\"role\":\"user\",\"content\":"
			"[{\"type\":\"input_text\",\"text\":\"x\\n\"},{\"type\":\"input_image\",\"image_url\":\"https://x/y\",\"detail\":\"low\"},"
			"{\"type\":\"file\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"y\"}],\"n\":1}]}",
			"responses: parts of messages by their names there");
	request.messages = "[1,\n2]";
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"input\":[1, 2]}", "responses: what are no messages stays");

	object.structured = LLMB_STRUCTURED_OBJECT;
	request.dialect = &object;
	request.messages = "[{\"role\":\"user\",\"content\":\"x\"}]";
	request.schema = "{\"type\":\"object\"}";
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"text\":{\"format\":{\"type\":\"json_object\"}},"
			"\"input\":[{\"role\":\"system\",\"content\":\"" WORDS "\"},{\"role\":\"user\",\"content\":\"x\"}]}",
			"responses: words before given messages");
	request.messages = NULL;
	request.schema = "{\"type\":\"object\"}";
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"text\":{\"format\":{\"type\":\"json_object\"}},"
			"\"instructions\":\"Be brief.\",\"input\":[{\"role\":\"system\",\"content\":\"" WORDS "\"},"
			"{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}", "responses: some object");
	object.structured = LLMB_STRUCTURED_PROMPT;
	body_is(&request, "{\"model\":\"gpt-6-luna\",\"store\":false,\"instructions\":\"Be brief.\",\"input\":"
			"[{\"role\":\"system\",\"content\":\"" WORDS "\"},{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}",
			"responses: words alone");
}

static void
test_embedding_requests(void)
{
	LlmbRequest request = request_of("text-embedding-3-small", &plain_dialect);

	body_is(&request, "{\"model\":\"text-embedding-3-small\",\"encoding_format\":\"float\",\"input\":\"Say \\\"hi\\\"\"}",
			"embeddings: by the model's class");
	line_has(&request, "\"url\":\"/v1/embeddings\"", "embeddings: the url of a line");
	request = request_of("nomic-embed-text", &embeddings);
	request.params = parse("{\"dimensions\": 64}");
	request.system = "ignored";
	request.schema = "{\"type\":\"object\"}";
	body_is(&request, "{\"model\":\"nomic-embed-text\",\"encoding_format\":\"float\",\"dimensions\":64,"
			"\"input\":\"Say \\\"hi\\\"\"}", "embeddings: by the server's option");
}

static void
test_chat_dialects(void)
{
	LlmbDialect dialect = {.old_cap = true};
	LlmbRequest request = request_of("mystery", &dialect);

	request.params = parse("{\"max_tokens\": 5, \"top_p\": 1}");
	body_is(&request, "{\"model\":\"mystery\",\"max_tokens\":5,\"top_p\":1,\"messages\":"
			"[{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}", "dialect: max_tokens by its old name");
	request.params = NULL;
	request.schema = "{\"type\":\"object\"}";
	dialect.structured = LLMB_STRUCTURED_OBJECT;
	body_is(&request, "{\"model\":\"mystery\",\"response_format\":{\"type\":\"json_object\"},\"messages\":"
			"[{\"role\":\"system\",\"content\":\"" WORDS "\"},{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}",
			"dialect: some object");
	dialect.structured = LLMB_STRUCTURED_PROMPT;
	request.system = "Be brief.";
	body_is(&request, "{\"model\":\"mystery\",\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\\n\\n" WORDS "\"},"
			"{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}", "dialect: words behind the system prompt");
	request.messages = " [ {\"role\":\"user\",\"content\":\"x\"}]";
	body_is(&request, "{\"model\":\"mystery\",\"messages\":[{\"role\":\"system\",\"content\":\"" WORDS "\"},"
			"{\"role\":\"user\",\"content\":\"x\"}]}", "dialect: words before given messages");
	request.messages = "[ ]";
	body_is(&request, "{\"model\":\"mystery\",\"messages\":[{\"role\":\"system\",\"content\":\"" WORDS "\"}]}",
			"dialect: words before none");
	request.messages = NULL;
	request.system = NULL;
	dialect.structured = LLMB_STRUCTURED_NATIVE;
	request.model = model_of("llama-3.1-8b");
	body_is(&request, "{\"model\":\"llama-3.1-8b\",\"messages\":[{\"role\":\"system\",\"content\":\"" WORDS "\"},"
			"{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\"}]}", "dialect: a model without schemas gets words");
	line_has(&request, "\"url\":\"/v1/chat/completions\"", "dialect: the url stays");
}

/*
 * Calls
 */

static const char *
path_of(LlmbVerb verb, const LlmbBatchRef *ref)
{
	LlmbCall	call;

	return P->make_call(verb, ref, "k", &call) ? call.path : NULL;
}

static void
test_paths(void)
{
	LlmbDialect dialect = plain_dialect;
	LlmbBatchRef ref = {.dialect = &dialect, .token = "t0k", .remote_id = "batch_1", .remote_input = "file-1"};
	LlmbCall	call;

	ref.model = model_of("gpt-4.1-mini");
	ref.base_url = "https://api.openai.com/v1";
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/chat/completions", "path: chat");
	ok(P->make_call(LLMB_CALL_ANSWER, &ref, "k", &call) && strcmp(call.method, "POST") == 0 &&
	   call.header_count == 2 && strcmp(call.headers[0], "Authorization: Bearer k") == 0 &&
	   strcmp(call.headers[1], "Content-Type: application/json") == 0 && call.body == NULL,
	   "real time: method and headers; the body is the caller's");
	dialect.endpoint = LLMB_ENDPOINT_RESPONSES;
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/responses", "path: responses");
	(void) P->make_call(LLMB_CALL_CREATE, &ref, "k", &call);
	has_text(call.body->data, "\"endpoint\":\"/v1/responses\"", "create: of responses");
	ref.model = model_of("text-embedding-3-small");
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/embeddings", "path: embeddings");
	(void) P->make_call(LLMB_CALL_CREATE, &ref, "k", &call);
	has_text(call.body->data, "\"endpoint\":\"/v1/embeddings\"", "create: of embeddings");

	/* Azure */
	dialect.endpoint = LLMB_ENDPOINT_CHAT;
	dialect.key_header = true;
	ref.model = model_of("gpt-4.1-mini");
	ref.base_url = "https://r.openai.azure.com/openai/v1";
	ok(P->make_call(LLMB_CALL_POLL, &ref, "k", &call) && strcmp(call.headers[0], "api-key: k") == 0 &&
	   call.header_count == 1, "azure: the key's header");
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/chat/completions", "azure: paths like others");
	dialect.api_version = "preview";
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/chat/completions?api-version=preview", "azure: with a version");
	is_text(path_of(LLMB_CALL_LIST, &ref), "/batches?limit=100&api-version=preview", "azure: behind another query");
	ref.base_url = "https://r.openai.azure.com/openai";
	dialect.api_version = "2024-10-21";
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/deployments/gpt-4.1-mini/chat/completions?api-version=2024-10-21",
			"azure: older paths name the deployment");
	is_text(path_of(LLMB_CALL_POLL, &ref), "/batches/batch_1?api-version=2024-10-21", "azure: but not those of batches");
	dialect.endpoint = LLMB_ENDPOINT_RESPONSES;
	is_text(path_of(LLMB_CALL_ANSWER, &ref), "/responses?api-version=2024-10-21", "azure: nor that of responses");
	dialect.endpoint = LLMB_ENDPOINT_CHAT;
	ref.model = model_of("../../secrets");
	is_text(path_of(LLMB_CALL_ANSWER, &ref), NULL, "azure: a model that cannot be part of a path");
	ref.model = model_of("..");
	is_text(path_of(LLMB_CALL_ANSWER, &ref), NULL, "azure: nor dots alone");
	dialect.api_version = "1&x=y";
	is_text(path_of(LLMB_CALL_POLL, &ref), NULL, "azure: a version that cannot be part of a query");
	dialect.api_version = "";
	is_text(path_of(LLMB_CALL_POLL, &ref), "/batches/batch_1", "azure: an empty version is none");
}

/*
 * Servers without a batch API
 */

static LlmbReply
reply_to(LlmbVerb verb, int status, const char *body)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbReply	reply = {0};

	P->read_reply(verb, &http, &reply);
	return reply;
}

static void
test_no_batches(void)
{
	static const char *const bodies[] = {
		"{\"detail\":\"Not Found\"}",
		"404 page not found",
		"{\"error\":{\"code\":404,\"message\":\"File Not Found\",\"type\":\"not_found_error\"}}"
	};
	LlmbReply	reply;
	int			i;

	for (i = 0; i < (int) lengthof(bodies); i++)
	{
		reply = reply_to(LLMB_CALL_UPLOAD, 404, bodies[i]);
		ok(reply.fault == LLMB_FAULT_REQUEST, "no batches: upload refused for good: %s", bodies[i]);
		is_text(reply.code, "no_batch_api", "no batches: its code");
		has_text(reply.message, "set \"batch\" to off", "no batches: what to do");
		reply = reply_to(LLMB_CALL_CREATE, 404, bodies[i]);
		ok(reply.fault == LLMB_FAULT_REQUEST && strcmp(reply.code, "no_batch_api") == 0, "no batches: create");
		reply = reply_to(LLMB_CALL_LIST, 405, bodies[i]);
		ok(reply.fault == LLMB_FAULT_REQUEST && strcmp(reply.code, "no_batch_api") == 0, "no batches: listing");
	}
	reply = reply_to(LLMB_CALL_CREATE, 404, "{\"error\":{\"code\":\"model_not_found\",\"message\":\"m\"}}");
	is_text(reply.code, "model_not_found", "no batches: a model that is not there is another matter");
	reply = reply_to(LLMB_CALL_UPLOAD, 501, "{}");
	ok(reply.fault == LLMB_FAULT_REQUEST, "no batches: 501 is no passing fault here");
}

/*
 * A full queue
 */

static void
limit_said(const char *message, int64 tokens)
{
	LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, psprintf("{\"id\":\"batch_1\",\"object\":\"batch\",\"status\":\"failed\","
														   "\"errors\":{\"data\":[{\"code\":\"token_limit_exceeded\",\"message\":\"%s\"}]}}", message));

	is_int(reply.batch.fault, LLMB_FAULT_QUEUE_FULL, "queue: it is full");
	is_int(reply.queue_tokens, tokens, psprintf("queue: %s", message));
}

static void
test_full_queue(void)
{
	LlmbReply	reply;

	limit_said("Enqueued token limit reached for gpt-4o-mini in organization org-x. Limit: 2,000,000 enqueued tokens.", 2000000);
	limit_said("Limit: 900 enqueued tokens.", 900);
	limit_said("Limit: 900 requests", 0);
	limit_said("Limit: , enqueued tokens", 0);
	limit_said("Limit: 99999999999999999999999 enqueued tokens", 0);
	limit_said("too many tokens", 0);
	limit_said("", 0);
	reply = reply_to(LLMB_CALL_CREATE, 400, "{\"error\":{\"code\":\"token_limit_exceeded\",\"message\":\"Limit: 5,000 enqueued tokens.\"}}");
	ok(reply.fault == LLMB_FAULT_QUEUE_FULL && reply.queue_tokens == 5000, "queue: refused at the create");
	reply = reply_to(LLMB_CALL_POLL, 200, "{\"id\":\"batch_1\",\"status\":\"failed\",\"errors\":{\"data\":[{\"code\":\"x\","
					 "\"message\":\"Limit: 5 enqueued tokens\"}]}}");
	is_int(reply.queue_tokens, 0, "queue: of another failure nothing is learned");
}

/*
 * Answers
 */

static LlmbOutcome
line_of(const char *body)
{
	char	   *line = psprintf("{\"custom_id\":\"t-1\",\"response\":{\"status_code\":200,\"request_id\":\"r\","
								"\"body\":%s},\"error\":null}", body);
	LlmbOutcome outcome;

	ok(P->read_line(line, strlen(line), &outcome), "line of %.60s", body);
	pfree(line);
	return outcome;
}

#define RESPONSE(rest) "{\"id\":\"resp_1\",\"object\":\"response\",\"model\":\"m-1\",\"usage\":{\"input_tokens\":20," \
	"\"input_tokens_details\":{\"cached_tokens\":5,\"cache_write_tokens\":2},\"output_tokens\":8," \
	"\"output_tokens_details\":{\"reasoning_tokens\":3},\"total_tokens\":28}," rest "}"
#define MESSAGE(content) "\"output\":[{\"type\":\"reasoning\",\"summary\":[]},{\"type\":\"message\"," \
	"\"role\":\"assistant\",\"content\":[" content "]}]"
#define TEXT(text) "{\"type\":\"output_text\",\"text\":\"" text "\"}"

static void
response_is(const char *body, LlmbCode code, bool retryable, const char *answer, const char *what)
{
	LlmbOutcome outcome = line_of(body);

	ok(outcome.code == code && outcome.retryable == retryable && (code == LLMB_OK || outcome.error != NULL),
	   "response: %s", what);
	if (outcome.code != code)
		printf("# got %s\n", outcome.code ? llmb_code_name(outcome.code) : "ok");
	is_text(outcome.answer, answer, psprintf("response: answer of %s", what));
}

static void
test_responses(void)
{
	LlmbOutcome outcome = line_of(RESPONSE("\"status\":\"completed\",\"error\":null," MESSAGE(TEXT("Four."))));

	is_int(outcome.code, LLMB_OK, "response: success");
	is_text(outcome.answer, "Four.", "response: its text, without the reasoning");
	is_text(outcome.model, "m-1", "response: model");
	is_text(outcome.finish_reason, "completed", "response: how it ended");
	ok(outcome.input_tokens == 20 && outcome.cached_tokens == 5 && outcome.cache_write_tokens == 2 &&
	   outcome.long_write_tokens == 0 && outcome.output_tokens == 8 && outcome.reasoning_tokens == 3,
	   "response: usage");

	response_is(RESPONSE("\"status\":\"completed\",\"error\":{}," MESSAGE(TEXT("A") "," TEXT("B"))),
				LLMB_OK, false, "AB", "two parts, and an error of {}");
	response_is(RESPONSE("\"status\":\"completed\"," MESSAGE(TEXT(""))), LLMB_OK, false, "", "an empty text");
	response_is(RESPONSE("\"status\":\"completed\"," MESSAGE("{\"type\":\"refusal\",\"refusal\":\"No.\"}")),
				LLMB_REFUSED, false, NULL, "a refusal");
	response_is(RESPONSE("\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},"
						 MESSAGE(TEXT("{\\\"a"))), LLMB_TRUNCATED, false, "{\"a", "one that was cut");
	response_is(RESPONSE("\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},\"output\":[]"),
				LLMB_TRUNCATED, false, NULL, "one that only thought");
	response_is(RESPONSE("\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"content_filter\"},"
						 MESSAGE(TEXT("x"))), LLMB_REFUSED, false, NULL, "one that was filtered");
	response_is(RESPONSE("\"status\":\"incomplete\",\"incomplete_details\":null," MESSAGE(TEXT("x"))),
				LLMB_PROVIDER_ERROR, true, NULL, "one that ended for no reason");
	response_is(RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"m\"},\"output\":[]"),
				LLMB_PROVIDER_ERROR, true, NULL, "failed: server_error");
	response_is(RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"},\"output\":[]"),
				LLMB_RATE_LIMITED, true, NULL, "failed: rate_limit_exceeded");
	response_is(RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"invalid_prompt\",\"message\":\"m\"},\"output\":[]"),
				LLMB_REFUSED, false, NULL, "failed: invalid_prompt");
	response_is(RESPONSE("\"status\":\"failed\",\"error\":null,\"output\":[]"),
				LLMB_PROVIDER_ERROR, true, NULL, "failed without an error");
	response_is(RESPONSE("\"status\":\"queued\",\"output\":[]"), LLMB_PROVIDER_ERROR, true, NULL, "not begun");
	response_is(RESPONSE("\"status\":\"completed\",\"output\":[]"), LLMB_PROVIDER_ERROR, true, NULL, "no message");
	response_is(RESPONSE("\"status\":\"completed\",\"output\":[{\"type\":\"function_call\",\"name\":\"f\"}]"),
				LLMB_PROVIDER_ERROR, false, NULL, "a tool");
	response_is("{\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"x\"}]}]}",
				LLMB_OK, false, "x", "one that does not say what it is");
	outcome = line_of(RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"m\"}"));
	is_int(outcome.input_tokens, 20, "response: usage of one that failed");
}

static void
test_embeddings(void)
{
	LlmbOutcome outcome = line_of("{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":"
								  "[0.25, -1e-3,\n7]}],\"model\":\"m-1\",\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5}}");

	is_int(outcome.code, LLMB_OK, "embedding: success");
	is_text(outcome.answer, "[0.25,-1e-3,7]", "embedding: its numbers, as written");
	ok(outcome.input_tokens == 5 && outcome.output_tokens == 0 && outcome.reasoning_tokens == 0 &&
	   outcome.cached_tokens == 0, "embedding: usage");
	is_text(outcome.model, "m-1", "embedding: model");

	response_is("{\"data\":[{\"embedding\":[1]}]}", LLMB_OK, false, "[1]", "a vector that does not say what it is");
	response_is("{\"object\":\"list\",\"data\":[]}", LLMB_PROVIDER_ERROR, true, NULL, "no vector");
	response_is("{\"object\":\"list\",\"data\":[{\"embedding\":[]}]}", LLMB_PROVIDER_ERROR, true, NULL, "an empty one");
	response_is("{\"object\":\"list\",\"data\":[{\"embedding\":\"AACAPw==\"}]}", LLMB_PROVIDER_ERROR, true, NULL, "one of bytes");
	response_is("{\"object\":\"list\",\"data\":[{\"embedding\":[1,null]}]}", LLMB_PROVIDER_ERROR, true, NULL, "one with a hole");
}

/*
 * Real time
 */

static LlmbReply
answer_to(int status, const char *body, const char *headers, LlmbOutcome *outcome)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbReply	reply = {0};

	http.headers = headers;
	http.retry_after_ms = 1500;
	P->read_answer(&http, outcome, &reply);
	return reply;
}

static void
judged(int status, const char *body, const char *headers, LlmbFault fault, LlmbCode code, bool retryable,
	   const char *what)
{
	LlmbOutcome outcome;
	LlmbReply	reply = answer_to(status, body, headers, &outcome);

	ok(reply.fault == fault && outcome.code == code && outcome.retryable == retryable &&
	   reply.retry_after_ms == 1500 && (code == LLMB_OK || outcome.error != NULL), "real time: %s", what);
	if (reply.fault != fault || outcome.code != code)
		printf("# got fault %d, code %s\n", reply.fault, outcome.code ? llmb_code_name(outcome.code) : "ok");
}

#define ERROR(code, type) "{\"error\":{\"message\":\"words\",\"type\":" type ",\"param\":null,\"code\":" code "}}"

static void
test_real_time(void)
{
	LlmbOutcome outcome;
	LlmbReply	reply;
	const char *none = "{\"error\":{\"message\":\"m\"}}";

	reply = answer_to(200, "{\"object\":\"chat.completion\",\"model\":\"m-1\",\"choices\":[{\"message\":{\"content\":\"a\\u0000\"},"
					  "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}",
					  "x-request-id: req_7\nx-ratelimit-remaining-requests: 3\n", &outcome);
	ok(reply.fault == LLMB_FAULT_NONE && outcome.code == LLMB_OK && outcome.custom_id == NULL, "real time: an answer");
	is_text(outcome.answer, "a\xEF\xBF\xBD", "real time: its text");
	ok(outcome.altered, "real time: which was altered");
	is_text(outcome.request_id, "req_7", "real time: the request's id");
	is_text(outcome.model, "m-1", "real time: the model");
	ok(outcome.input_tokens == 7 && outcome.output_tokens == 2 && outcome.cached_tokens == -1, "real time: usage");
	(void) answer_to(200, RESPONSE("\"status\":\"completed\"," MESSAGE(TEXT("x"))), NULL, &outcome);
	is_text(outcome.answer, "x", "real time: a response");
	is_text(outcome.request_id, NULL, "real time: no header, no id");
	(void) answer_to(200, "{\"object\":\"list\",\"data\":[{\"embedding\":[1,2]}]}", NULL, &outcome);
	is_text(outcome.answer, "[1,2]", "real time: an embedding");

	judged(429, ERROR("\"rate_limit_exceeded\"", "\"requests\""), NULL, LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true, "429");
	judged(503, ERROR("\"slow_down\"", "null"), NULL, LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true, "503, slow_down");
	judged(503, "", NULL, LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true, "503 without a body");
	judged(500, ERROR("\"server_is_overloaded\"", "null"), NULL, LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true, "500, overloaded");
	judged(429, ERROR("\"insufficient_quota\"", "\"insufficient_quota\""), NULL, LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true, "429 for quota");
	judged(402, none, NULL, LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true, "402");
	judged(401, ERROR("\"invalid_api_key\"", "null"), NULL, LLMB_FAULT_KEY, LLMB_AUTH, false, "401");
	judged(403, none, NULL, LLMB_FAULT_KEY, LLMB_AUTH, false, "403");
	judged(500, "Internal Server Error", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "500");
	judged(502, "<html>", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "502");
	judged(504, "", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "504");
	judged(408, none, NULL, LLMB_FAULT_RETRY, LLMB_TIMEOUT, true, "408");
	judged(409, none, NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "409");
	judged(400, ERROR("\"unsupported_value\"", "null"), NULL, LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "400");
	judged(404, ERROR("\"model_not_found\"", "null"), NULL, LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "404");
	judged(422, none, NULL, LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "422");
	judged(400, ERROR("\"context_length_exceeded\"", "null"), NULL, LLMB_FAULT_REQUEST, LLMB_TOO_LARGE, false, "400 for its length");
	judged(400, ERROR("\"content_filter\"", "null"), NULL, LLMB_FAULT_REQUEST, LLMB_REFUSED, false, "400 for its content");
	judged(413, "", NULL, LLMB_FAULT_TOO_LARGE, LLMB_TOO_LARGE, false, "413");

	judged(400, none, "x-should-retry: true\n", LLMB_FAULT_RETRY, LLMB_INVALID_REQUEST, true, "400, to be sent again");
	judged(500, none, "x-should-retry: false\n", LLMB_FAULT_REQUEST, LLMB_PROVIDER_ERROR, false, "500, not to be sent again");
	judged(429, ERROR("\"insufficient_quota\"", "null"), "x-should-retry: false\n", LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true,
		   "quota stays quota");

	judged(200, "<html>Welcome</html>", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "200 without JSON");
	judged(200, "[]", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "200 with other JSON");
	judged(200, "{\"choices\":[]}", NULL, LLMB_FAULT_NONE, LLMB_PROVIDER_ERROR, true, "200 without a choice");
	judged(200, "{\"choices\":[{\"error\":{\"code\":429,\"message\":\"m\"}}]}", NULL, LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true,
		   "200 of a gateway, 429 behind it");
	judged(200, "{\"error\":{\"code\":502,\"message\":\"m\"}}", NULL, LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true,
		   "200 of a gateway, 502 behind it");
	judged(200, "{\"error\":{\"code\":\"429\",\"message\":\"m\"}}", NULL, LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true,
		   "200 of a gateway, 429 in quotes behind it");
	judged(200, "{\"error\":{\"code\":402,\"message\":\"m\"}}", NULL, LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true,
		   "200 of a gateway, no credit");
	judged(200, RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}"), NULL,
		   LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true, "a failed response, rate limit");
	judged(200, RESPONSE("\"status\":\"failed\",\"error\":{\"code\":\"invalid_prompt\",\"message\":\"m\"}"), NULL,
		   LLMB_FAULT_REQUEST, LLMB_REFUSED, false, "a failed response, its content");

	(void) answer_to(200, "{\"id\": \"garb", NULL, &outcome);
	ok(outcome.perhaps_run, "real time: what cannot be read may have run");
	(void) answer_to(200, "{\"choices\":[]}", NULL, &outcome);
	ok(outcome.perhaps_run, "real time: so may what holds no answer");
	(void) answer_to(200, "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":0}}", NULL, &outcome);
	ok(!outcome.perhaps_run, "real time: unless it says what it took");
	(void) answer_to(500, "", NULL, &outcome);
	ok(!outcome.perhaps_run, "real time: an error has not");
	outcome = line_of("{\"choices\":null}");
	ok(outcome.perhaps_run, "line: without an answer, it may have run");

	reply = answer_to(401, ERROR("\"invalid_api_key\"", "null"), "x-request-id: req_8\n", &outcome);
	is_text(reply.code, "invalid_api_key", "real time: an error's code");
	is_text(outcome.request_id, "req_8", "real time: an error's request id");
	is_text(outcome.error, "words", "real time: its words");
	ok(outcome.input_tokens == -1 && outcome.output_tokens == -1, "real time: no usage");
}

/*
 * Rate limits
 */

static void
reset_is(const char *text, int64 expected)
{
	LlmbHttpReply http = http_reply(200, "");
	LlmbLimits	limits;

	http.headers = psprintf("x-ratelimit-reset-requests: %s\n", text);
	P->read_limits(&http, INT64CONST(1790000000000), &limits);
	is_int(limits.requests_reset_ms, expected, psprintf("limits: reset in \"%s\"", text));
}

static void
test_limits(void)
{
	LlmbHttpReply http = http_reply(200, "");
	LlmbLimits	limits;

	P->read_limits(&http, 0, &limits);
	ok(limits.requests_left == -1 && limits.requests_reset_ms == -1 && limits.tokens_left == -1 &&
	   limits.tokens_reset_ms == -1, "limits: nothing said");
	http.headers = "x-ratelimit-limit-requests: 60\nx-ratelimit-limit-tokens: 150000\n"
		"x-ratelimit-remaining-requests: 59\nx-ratelimit-remaining-tokens: 149984\n"
		"x-ratelimit-reset-requests: 1s\nx-ratelimit-reset-tokens: 6m0s\n";
	P->read_limits(&http, 0, &limits);
	ok(limits.requests_left == 59 && limits.requests_reset_ms == 1000 && limits.tokens_left == 149984 &&
	   limits.tokens_reset_ms == 360000, "limits: as documented");
	http.headers = "x-ratelimit-remaining-tokens: 500\nx-ratelimit-reset-tokens: 1s\n"
		"x-ratelimit-remaining-project-tokens: 20\nx-ratelimit-reset-project-tokens: 2s\n";
	P->read_limits(&http, 0, &limits);
	ok(limits.tokens_left == 20 && limits.tokens_reset_ms == 2000, "limits: the project's, when less is left");
	http.headers = "x-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 1s\n"
		"x-ratelimit-remaining-project-tokens: 20\nx-ratelimit-reset-project-tokens: 2s\n";
	P->read_limits(&http, 0, &limits);
	ok(limits.tokens_left == 5 && limits.tokens_reset_ms == 1000, "limits: the key's, when less is left");

	reset_is("20ms", 20);
	reset_is("8.64s", 8640);
	reset_is("2m59.56s", 179560);
	reset_is("1h2m3.5s", 3723500);
	reset_is("500\302\265s", 1);
	reset_is("0s", 0);
	reset_is("12", 12000);
	reset_is("0.5", 500);
	reset_is("1790000060", 60000);
	reset_is("1790000060000", 60000);
	reset_is("1789999999", 0);
	reset_is("999h", 86400000);
	reset_is("", -1);
	reset_is("soon", -1);
	reset_is("-5s", -1);
	reset_is("0x10", -1);
	reset_is("inf", -1);
	reset_is("5s later", -1);
	reset_is("1m 5", -1);
	reset_is("5 s", -1);
}

/*
 * Recorded traffic of Responses
 */

static void
test_recorded_responses(void)
{
	static const char *const answers[] = {"Des Moines.", "Albany.", NULL};
	size_t		len;
	char	   *text = recorded("ellmer_responses_state_capitals.json", &len);
	LlmbJson   *root;
	LlmbJson   *result;
	int			good = 0;
	int			i = 0;

	if (text == NULL)
		return;
	root = parse(text);
	for (result = llmb_json_get(root, "results")->first; result != NULL; result = result->next, i++)
	{
		StringInfoData body;
		LlmbOutcome outcome;

		initStringInfo(&body);
		llmb_json_put_node(&body, llmb_json_get(result, "body"));
		outcome = line_of(body.data);
		good += outcome.code == LLMB_OK && outcome.answer != NULL && outcome.input_tokens > 0 &&
			outcome.output_tokens > 0 && outcome.cached_tokens == 0 && outcome.cache_write_tokens == 0;
		if (i < 2)
			is_text(outcome.answer, answers[i], "recorded: a response's answer");
		(void) answer_to(200, body.data, NULL, &outcome);
		good += outcome.code == LLMB_OK;
	}
	is_int(good, 8, "recorded: four responses, read as lines and by themselves");
	llmb_json_free(root);
}

void
test_openai_endpoints(void)
{
	test_endpoint_params();
	test_responses_requests();
	test_embedding_requests();
	test_chat_dialects();
	test_paths();
	test_no_batches();
	test_full_queue();
	test_responses();
	test_embeddings();
	test_real_time();
	test_limits();
	test_recorded_responses();
}
