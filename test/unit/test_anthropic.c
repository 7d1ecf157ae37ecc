/*-------------------------------------------------------------------------
 *
 * test_anthropic.c
 *		Tests of src/provider_anthropic.c: on examples written by hand, on
 *		recorded traffic where it is at hand, and on text that was spoilt at
 *		random.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "provider.h"
#include "unit.h"

#define P (&llmb_provider_anthropic)

static const LlmbModel haiku = {"claude-haiku-4-5", "claude-enabled", 200000, 64000, LLMB_SAMPLING_ANY,
"none low medium high", "none", 1, false};
static const LlmbModel sonnet46 = {"claude-sonnet-4-6", "claude-enabled", 1000000, 64000, LLMB_SAMPLING_ANY,
"none low medium high", "none", 1, false};
static const LlmbModel sonnet5 = {"claude-sonnet-5", "claude-adaptive", 1000000, 128000, LLMB_SAMPLING_DEFAULT,
"none low medium high xhigh max", "high", 1, false};
static const LlmbModel sonnet55 = {"claude-sonnet-5-5", "claude-between", 1000000, 128000, LLMB_SAMPLING_DEFAULT,
"none low medium high xhigh max", "high", 1, false};
static const LlmbModel opus55 = {"claude-opus-5-5", "claude-always", 1000000, 128000, LLMB_SAMPLING_DEFAULT,
NULL, "medium", 1, false};
static const LlmbModel small = {"claude-small", "claude-enabled", 8000, 2000, LLMB_SAMPLING_ANY, NULL, NULL, 0, false};
static const LlmbModel unknown = {"claude-7", NULL, 0, 0, LLMB_SAMPLING_UNKNOWN, NULL, NULL, -1, false};

static LlmbDialect
version(const char *api_version)
{
	LlmbDialect dialect = plain_dialect;

	dialect.api_version = pstrdup(api_version);
	return dialect;
}

/*
 * Parameters
 */

static void
param_in(const LlmbDialect *dialect, const LlmbModel *model, const char *params, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = P->check_params(model, dialect, json);
	char	   *what = psprintf("anthropic, params: %s %s", model->name, params);

	if (part == NULL)
		is_text(reason, NULL, what);
	else
		has_text(reason, part, what);
	pfree(what);
	if (reason != NULL)
		pfree(reason);
	llmb_json_free(json);
}

static void
param(const LlmbModel *model, const char *params, const char *part)
{
	param_in(&plain_dialect, model, params, part);
}

static void
test_params(void)
{
	LlmbDialect newest = version("2026-10-21");
	LlmbDialect embeddings = plain_dialect;

	is_text(P->check_params(&haiku, &plain_dialect, NULL), NULL, "anthropic, params: none");
	param(&haiku, "{\"temperature\": 0, \"max_tokens\": 10, \"top_k\": 5, \"stop\": [\"a\", \"b\"]}", NULL);
	param(&haiku, "{\"temperature\": null, \"top_p\": 0.5}", NULL);
	param(&haiku, "[]", "must be an object");
	param(&haiku, "{\"temprature\": 1}", "perhaps you mean \"temperature\"");
	param(&haiku, "{\"max_completion_tokens\": 1}", "it is called \"max_tokens\" here");
	param(&haiku, "{\"thinking\": {}}", "use \"reasoning_effort\"");
	param(&haiku, "{\"seed\": 1}", "take none");
	param(&haiku, "{\"inference_geo\": \"us\"}", "change the price");
	param(&haiku, "{\"temperature\": 1.5}", "must be a number between 0 and 1");
	param(&haiku, "{\"max_tokens\": 0}", "must be an integer of at least 1");
	param(&haiku, "{\"max_tokens\": 64001}", "at most 64000 tokens");
	param(&haiku, "{\"stop\": \" \\n\"}", "more than blanks");
	param(&haiku, "{\"stop\": [\"a\", \"\"]}", "more than blanks");
	param(&haiku, "{\"temperature\": 0.5, \"top_p\": 0.5}", "temperature or top_p, not both");
	param(&sonnet46, "{\"temperature\": 0.5, \"top_p\": 0.5}", NULL);

	/* newer models */
	param(&sonnet5, "{\"temperature\": 0.2}", "takes no temperature but 1");
	param(&sonnet5, "{\"temperature\": 1}", NULL);
	param(&sonnet5, "{\"top_p\": 0.9}", "takes no top_p but 1");
	param(&sonnet5, "{\"top_k\": 1}", "takes no top_k");
	param(&unknown, "{\"temperature\": 0.2}", NULL);

	/* a version that has dropped them for all */
	param_in(&newest, &haiku, "{\"temperature\": 1}", "version 2026-10-21 of Anthropic's API takes no temperature");
	param_in(&newest, &haiku, "{\"top_p\": 1}", "takes no top_p");
	param_in(&newest, &haiku, "{\"top_k\": 1}", "takes no top_k");
	param_in(&newest, &haiku, "{\"max_tokens\": 5}", NULL);

	/* thinking */
	param(&haiku, "{\"reasoning_effort\": \"minimal\"}", "one of: none low medium high");
	param(&haiku, "{\"reasoning_effort\": \"max\"}", "as reasoning_effort one of: none low");
	param(&haiku, "{\"reasoning_effort\": \"low\", \"max_tokens\": 1024}", "needs max_tokens of more than 1024");
	param(&haiku, "{\"reasoning_effort\": \"low\", \"max_tokens\": 1025}", NULL);
	param(&haiku, "{\"reasoning_effort\": \"none\", \"max_tokens\": 10, \"temperature\": 0}", NULL);
	param(&haiku, "{\"reasoning_effort\": \"low\", \"temperature\": 0}", "takes no temperature but 1");
	param(&haiku, "{\"reasoning_effort\": \"low\", \"top_k\": 3}", "takes no top_k");
	param(&haiku, "{\"reasoning_effort\": \"low\", \"top_p\": 0.5}", "no top_p under 0.95");
	param(&sonnet5, "{\"reasoning_effort\": \"max\", \"max_tokens\": 10}", NULL);
	param(&opus55, "{\"reasoning_effort\": \"none\"}", "always thinks");
	param(&opus55, "{\"reasoning_effort\": \"low\"}", NULL);

	embeddings.endpoint = LLMB_ENDPOINT_EMBEDDINGS;
	param_in(&embeddings, &haiku, "{}", "no embeddings");
	embeddings.endpoint = LLMB_ENDPOINT_RESPONSES;
	param_in(&embeddings, &haiku, "{}", "no endpoint");

	ok(P->serves("claude-haiku-4-5") && !P->serves("gpt-6-luna") && !P->serves("anthropic/claude") &&
	   !P->serves(""), "anthropic: serves its own models");
}

/*
 * Requests
 */

static LlmbRequest
plain_request(const LlmbModel *model)
{
	LlmbRequest request = {0};

	request.custom_id = "tok-1";
	request.first = true;
	request.model = model;
	request.dialect = &plain_dialect;
	request.prompt = "Say \"hi\"\n\xC3\xA9";
	return request;
}

static void
body_has(const LlmbRequest *request, const char *part, const char *what)
{
	StringInfoData out;
	LlmbJson   *root;

	initStringInfo(&out);
	P->put_body(&out, request);
	root = parse(out.data);
	ok(root != NULL && strchr(out.data, '\n') == NULL, "anthropic, body is JSON on one line: %s", what);
	has_text(out.data, part, what);
	llmb_json_free(root);
	pfree(out.data);
}

static void
body_lacks(const LlmbRequest *request, const char *part, const char *what)
{
	StringInfoData out;

	initStringInfo(&out);
	P->put_body(&out, request);
	ok(strstr(out.data, part) == NULL, "%s", what);
	pfree(out.data);
}

static void
test_requests(void)
{
	LlmbRequest request = plain_request(&haiku);
	StringInfoData out;

	initStringInfo(&out);
	P->put_body(&out, &request);
	is_text(out.data, "{\"model\":\"claude-haiku-4-5\",\"max_tokens\":4096,\"messages\":"
			"[{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\\n\xC3\xA9\"}]}", "anthropic, body: the least");

	resetStringInfo(&out);
	request.system = "Be brief.";
	request.params = parse("{\"stop\": \"END\", \"temperature\": 0.0, \"max_tokens\": 9, \"top_p\": null}");
	P->put_line(&out, &request);
	is_text(out.data, "{\"custom_id\":\"tok-1\",\"params\":{\"model\":\"claude-haiku-4-5\",\"max_tokens\":9,"
			"\"stop_sequences\":[\"END\"],\"temperature\":0.0,\"system\":\"Be brief.\",\"messages\":"
			"[{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\\n\xC3\xA9\"}]}}\n", "anthropic, line: the first");
	request.first = false;
	request.custom_id = "tok-2";
	P->put_line(&out, &request);
	has_text(out.data, "}}\n,{\"custom_id\":\"tok-2\"", "anthropic, line: another");
	ok(parse(psprintf("{\"requests\":[%s]}", out.data)) != NULL, "anthropic, lines: make an array");

	request = plain_request(&haiku);
	request.system = "";
	body_lacks(&request, "\"system\"", "anthropic, body: an empty system prompt is none");
	request = plain_request(&small);
	body_has(&request, "\"max_tokens\":2000,", "anthropic, max_tokens: what the model gives at most");
	request = plain_request(&sonnet5);
	body_has(&request, "\"max_tokens\":20480,", "anthropic, max_tokens: room for thinking");
	request.params = parse("{\"stop\": [\"a\", \"b\"], \"max_tokens\": 50}");
	body_has(&request, "\"max_tokens\":50,\"stop_sequences\":[\"a\",\"b\"],", "anthropic, max_tokens: as asked for");
}

static void
test_messages(void)
{
	LlmbRequest request = plain_request(&haiku);

	request.system = "not used";
	request.prompt = NULL;
	request.messages = "[{\"role\":\"user\",\r\n\"content\":\"x\"}]";
	body_has(&request, ",\"max_tokens\":4096,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
			 "anthropic, messages: replace system and prompt");
	request.messages = "[{\"role\":\"system\",\"content\":\"A\"},{\"role\":\"developer\",\"content\":"
		"[{\"type\":\"text\",\"text\":\"B\"},{\"type\":\"text\",\"text\":\"C\"}]},"
		"{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},"
		"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"z\"}]}]";
	body_has(&request, ",\"system\":\"A\\n\\nBC\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"},"
			 "{\"role\":\"assistant\",\"content\":\"y\"},"
			 "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"z\"}]}]}",
			 "anthropic, messages: those of the system move");
	request.messages = "[]";
	body_has(&request, ",\"messages\":[]}", "anthropic, messages: none");
}

static void
thinking_is(const LlmbModel *model, const char *params, const char *part)
{
	LlmbRequest request = plain_request(model);

	request.params = parse(params);
	body_has(&request, part, psprintf("anthropic, thinking: %s %s", model->name, params));
}

static void
test_thinking(void)
{
	LlmbRequest request = plain_request(&haiku);

	thinking_is(&haiku, "{\"reasoning_effort\": \"low\"}",
				"\"max_tokens\":5120,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024},\"messages\"");
	thinking_is(&haiku, "{\"reasoning_effort\": \"high\"}",
				"\"max_tokens\":20480,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":16384},\"messages\"");
	thinking_is(&haiku, "{\"reasoning_effort\": \"medium\", \"max_tokens\": 3000}",
				"\"max_tokens\":3000,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1500},\"messages\"");
	thinking_is(&haiku, "{\"reasoning_effort\": \"medium\", \"max_tokens\": 1030}", "\"budget_tokens\":1024}");
	thinking_is(&sonnet5, "{\"reasoning_effort\": \"xhigh\"}",
				"\"max_tokens\":53248,\"thinking\":{\"type\":\"adaptive\"},\"output_config\":{\"effort\":\"xhigh\"},\"messages\"");
	thinking_is(&sonnet5, "{\"reasoning_effort\": \"none\"}", ",\"thinking\":{\"type\":\"disabled\"},\"messages\"");
	thinking_is(&sonnet55, "{\"reasoning_effort\": \"none\"}", ",\"thinking\":{\"type\":\"between_tools\"},\"messages\"");
	thinking_is(&opus55, "{\"reasoning_effort\": \"low\"}", "\"output_config\":{\"effort\":\"low\"}");
	thinking_is(&unknown, "{\"reasoning_effort\": \"low\"}", "\"output_config\":{\"effort\":\"low\"}");
	request.params = parse("{\"reasoning_effort\": \"none\"}");
	body_lacks(&request, "thinking", "anthropic, thinking: off by itself");
	body_lacks(&request, "output_config", "anthropic, thinking: no effort where there is none");
}

static void
schema_is(const char *schema, const char *expected, const char *what)
{
	LlmbRequest request = plain_request(&haiku);

	request.schema = schema;
	body_has(&request, psprintf(",\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":%s}},\"messages\"",
								expected), psprintf("anthropic, schema: %s", what));
}

/* A schema with so many members that may be null. */
static char *
wide_schema(int members)
{
	StringInfoData text;
	int			i;

	initStringInfo(&text);
	appendStringInfoString(&text, "{\"type\":\"object\",\"properties\":{");
	for (i = 0; i < members; i++)
		appendStringInfo(&text, "%s\"m%d\":{\"type\":[\"string\",\"null\"]}", i > 0 ? "," : "", i);
	appendStringInfoString(&text, "},\"required\":[],\"additionalProperties\":false}");
	return text.data;
}

static void
test_schemas(void)
{
	LlmbRequest request = plain_request(&haiku);
	LlmbDialect dialect = plain_dialect;

	schema_is("{\"type\":\n\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"],"
			  "\"additionalProperties\":false}",
			  "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"],"
			  "\"additionalProperties\":false}", "as it is");
	schema_is("{\"$schema\":\"x\",\"properties\":{\"n\":{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":5,"
			  "\"description\":\"stars\"}}}",
			  "{\"properties\":{\"n\":{\"type\":[\"integer\",\"null\"],\"description\":\"stars\\n\\n{minimum: 1, maximum: 5}\"}},"
			  "\"additionalProperties\":false}", "bounds move to the description");
	schema_is("{\"type\":\"array\",\"minItems\":2,\"maxItems\":3,\"items\":{\"type\":\"string\",\"format\":\"int32\"}}",
			  "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"description\":\"{format: \\\"int32\\\"}\"},"
			  "\"description\":\"{minItems: 2, maxItems: 3}\"}", "lengths, and a format that is not known");
	schema_is("{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"string\",\"format\":\"date-time\"}}",
			  "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"string\",\"format\":\"date-time\"}}",
			  "what is allowed stays");
	schema_is("{\"type\":\"object\",\"additionalProperties\":true,\"properties\":{\"minimum\":{\"oneOf\":["
			  "{\"const\":1},{\"type\":\"string\",\"maxLength\":3}]}}}",
			  "{\"type\":\"object\",\"properties\":{\"minimum\":{\"anyOf\":[{\"const\":1},{\"type\":\"string\","
			  "\"description\":\"{maxLength: 3}\"}]}},\"additionalProperties\":false}",
			  "names of members are no keywords; no member is free");

	request.schema = wide_schema(16);
	body_has(&request, "\"output_config\"", "anthropic, schema: sixteen members of several types");
	request.schema = wide_schema(17);
	body_lacks(&request, "\"output_config\"", "anthropic, schema: not seventeen");
	body_has(&request, "\"system\":\"Answer with one JSON object", "anthropic, schema: then in words");
	request.schema = "{\"type\":\"object\"}";
	request.system = "Be brief.";
	dialect.structured = LLMB_STRUCTURED_PROMPT;
	request.dialect = &dialect;
	body_has(&request, "\"system\":\"Be brief.\\n\\nAnswer with one", "anthropic, schema: in words by option");
	request.dialect = &plain_dialect;
	request.model = &small;
	body_lacks(&request, "\"output_config\"", "anthropic, schema: in words for a model that takes none");
	request.model = &sonnet5;
	request.params = parse("{\"reasoning_effort\": \"low\"}");
	body_has(&request, "\"output_config\":{\"effort\":\"low\",\"format\":{", "anthropic, schema: with an effort");
}

/*
 * Calls
 */

static bool
has_header(const LlmbCall *call, const char *header)
{
	int			i;

	for (i = 0; i < call->header_count; i++)
	{
		if (strcmp(call->headers[i], header) == 0)
			return true;
	}
	return false;
}

static void
call_is(LlmbVerb verb, const LlmbBatchRef *ref, const char *method, const char *path)
{
	LlmbCall	call;

	ok(P->make_call(verb, ref, "sk-ant-1", &call) && strcmp(call.method, method) == 0 &&
	   strcmp(call.path, path) == 0 && has_header(&call, "x-api-key: sk-ant-1") &&
	   has_header(&call, "anthropic-version: 2023-06-01") &&
	   call.reply_is_lines == (verb == LLMB_CALL_FETCH) && call.with_file == (verb == LLMB_CALL_CREATE),
	   "anthropic, call: %s %s", method, path);
}

static void
test_calls(void)
{
	static const char *const evil[] = {"", "..", "a/b", "a?b", "a b", "a\r\nX: y", "a\"b", "%2e"};
	LlmbBatchRef ref = {.dialect = &plain_dialect, .token = "t0k", .remote_id = "msgbatch_1"};
	LlmbDialect newest = version("2026-10-21");
	LlmbCall	call;
	bool		none = true;
	int			i;

	call_is(LLMB_CALL_CREATE, &ref, "POST", "/v1/messages/batches");
	call_is(LLMB_CALL_POLL, &ref, "GET", "/v1/messages/batches/msgbatch_1");
	call_is(LLMB_CALL_CANCEL, &ref, "POST", "/v1/messages/batches/msgbatch_1/cancel");
	call_is(LLMB_CALL_FETCH, &ref, "GET", "/v1/messages/batches/msgbatch_1/results");
	call_is(LLMB_CALL_LIST, &ref, "GET", "/v1/messages/batches?limit=100");
	ref.cursor = "msgbatch_0";
	call_is(LLMB_CALL_LIST, &ref, "GET", "/v1/messages/batches?limit=100&after_id=msgbatch_0");
	call_is(LLMB_CALL_CHECK, &ref, "GET", "/v1/models?limit=1000");
	call_is(LLMB_CALL_ANSWER, &ref, "POST", "/v1/messages");
	ok(!P->make_call(LLMB_CALL_UPLOAD, &ref, "k", &call) && !P->make_call(LLMB_CALL_DELETE_FILE, &ref, "k", &call) &&
	   !P->make_call(LLMB_CALL_UPLOAD_DATA, &ref, "k", &call), "anthropic, call: there are no files");
	ref.part = 1;
	ok(!P->make_call(LLMB_CALL_FETCH, &ref, "k", &call), "anthropic, call: there is no file of errors");
	ref.part = 0;

	ok(P->make_call(LLMB_CALL_CREATE, &ref, "k", &call) && strcmp(call.body->data, "{\"requests\":[") == 0 &&
	   strcmp(call.after_file, "]}") == 0 && has_header(&call, "Content-Type: application/json"),
	   "anthropic, create: the request file is its body");
	ref.dialect = &newest;
	ref.project = "wrkspc_1";
	ok(P->make_call(LLMB_CALL_POLL, &ref, "k", &call) && has_header(&call, "anthropic-version: 2026-10-21") &&
	   has_header(&call, "anthropic-workspace-id: wrkspc_1"), "anthropic, call: version and workspace by option");
	ok(P->make_call(LLMB_CALL_POLL, &ref, "k\r\nX: 1", &call) && !has_header(&call, "x-api-key: k\r\nX: 1"),
	   "anthropic, call: a key with a line end is not sent");
	for (i = 0; i < (int) lengthof(evil); i++)
	{
		ref.remote_id = ref.cursor = evil[i];
		none &= !P->make_call(LLMB_CALL_POLL, &ref, "k", &call) && !P->make_call(LLMB_CALL_CANCEL, &ref, "k", &call) &&
			!P->make_call(LLMB_CALL_FETCH, &ref, "k", &call) && !P->make_call(LLMB_CALL_LIST, &ref, "k", &call);
	}
	ok(none, "anthropic, call: no id that could leave its place in a path");
}

/*
 * Replies
 */

static LlmbReply
reply_to(LlmbVerb verb, int status, const char *body)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbReply	reply;

	http.retry_after_ms = 1500;
	P->read_reply(verb, &http, &reply);
	pfree(http.body);
	return reply;
}

#define ERROR(type, message) "{\"type\":\"error\",\"error\":{\"type\":\"" type "\",\"message\":\"" message "\"}," \
	"\"request_id\":\"req_1\"}"
#define SPEND(code) "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\"," \
	"\"details\":{\"error_code\":\"" code "\"}},\"request_id\":\"req_1\"}"
#define NO_CREDIT "Your credit balance is too low to access the Anthropic API."
#define NO_USE "You have reached your specified API usage limits."
#define TOO_LONG "prompt is too long: 208310 tokens > 200000 maximum"

#define BATCH(status, counts, more) "{\"id\":\"msgbatch_1\",\"type\":\"message_batch\"," \
	"\"processing_status\":\"" status "\",\"request_counts\":" counts ",\"created_at\":" \
	"\"2026-08-02T17:47:08.039741+00:00\"" more "}"
#define COUNTS(p, s, e, c, x) "{\"processing\":" #p ",\"succeeded\":" #s ",\"errored\":" #e \
	",\"canceled\":" #c ",\"expired\":" #x "}"
#define URL ",\"results_url\":\"https://elsewhere.example/x\""
#define NULLS ",\"results_url\":null,\"cancel_initiated_at\":null"
#define CANCELED ",\"cancel_initiated_at\":\"2026-08-02T17:47:20.000000+00:00\""

static void
fault_is(LlmbVerb verb, int status, const char *body, LlmbFault fault, const char *what)
{
	LlmbReply	reply = reply_to(verb, status, body);

	ok(reply.fault == fault && reply.retry_after_ms == 1500, "anthropic, fault: %s", what);
	if (reply.fault != fault)
		printf("# got %d, expected %d\n", reply.fault, fault);
}

static void
test_faults(void)
{
	LlmbReply	reply;

	fault_is(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", "m"), LLMB_FAULT_REQUEST, "400");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", NO_CREDIT), LLMB_FAULT_QUOTA, "400 for money");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", NO_USE), LLMB_FAULT_QUOTA, "400 for a spend limit");
	fault_is(LLMB_CALL_POLL, 401, ERROR("authentication_error", "m"), LLMB_FAULT_KEY, "401");
	fault_is(LLMB_CALL_CREATE, 402, ERROR("billing_error", "m"), LLMB_FAULT_QUOTA, "402");
	fault_is(LLMB_CALL_POLL, 403, ERROR("permission_error", "m"), LLMB_FAULT_KEY, "403");
	fault_is(LLMB_CALL_POLL, 404, ERROR("not_found_error", "m"), LLMB_FAULT_GONE, "404 of a batch");
	fault_is(LLMB_CALL_FETCH, 404, ERROR("not_found_error", "m"), LLMB_FAULT_GONE, "404 of results");
	fault_is(LLMB_CALL_CREATE, 404, ERROR("not_found_error", "m"), LLMB_FAULT_REQUEST, "404 of an address");
	fault_is(LLMB_CALL_CANCEL, 409, ERROR("conflict_error", "m"), LLMB_FAULT_RETRY, "409");
	fault_is(LLMB_CALL_CREATE, 413, "<html>", LLMB_FAULT_TOO_LARGE, "413, not JSON");
	fault_is(LLMB_CALL_CREATE, 429, ERROR("rate_limit_error", "m"), LLMB_FAULT_RETRY, "429");
	fault_is(LLMB_CALL_CREATE, 429, SPEND("enforced_spend_limit_reached"), LLMB_FAULT_QUOTA, "429 for money");
	fault_is(LLMB_CALL_CREATE, 429, SPEND("contract_spend_limit_reached"), LLMB_FAULT_QUOTA, "429 for the contract's");
	fault_is(LLMB_CALL_CREATE, 429, SPEND("ramp_limit_exceeded"), LLMB_FAULT_RETRY, "429 for rising too fast");
	fault_is(LLMB_CALL_POLL, 500, ERROR("api_error", "m"), LLMB_FAULT_RETRY, "500");
	fault_is(LLMB_CALL_POLL, 503, ERROR("cmek_unavailable", "m"), LLMB_FAULT_KEY, "503 for a customer's own key");
	fault_is(LLMB_CALL_POLL, 503, "", LLMB_FAULT_RETRY, "503");
	fault_is(LLMB_CALL_POLL, 529, ERROR("overloaded_error", "m"), LLMB_FAULT_RETRY, "529");
	fault_is(LLMB_CALL_POLL, 302, "", LLMB_FAULT_RETRY, "a redirect is not the request's fault");
	fault_is(LLMB_CALL_FETCH, 200, "no JSON at all", LLMB_FAULT_NONE, "results");

	/* 200, and yet not what was asked for */
	fault_is(LLMB_CALL_POLL, 200, "<html>", LLMB_FAULT_RETRY, "poll: not JSON");
	fault_is(LLMB_CALL_POLL, 200, "{\"type\":\"message_batch\",\"processing_status\":\"ended\"}", LLMB_FAULT_RETRY, "poll: no id");
	fault_is(LLMB_CALL_POLL, 200, "{\"id\":\"a/b\",\"processing_status\":\"ended\"}", LLMB_FAULT_RETRY, "poll: an id that cannot be one");
	fault_is(LLMB_CALL_POLL, 200, "{\"id\":\"m\",\"type\":\"message\",\"processing_status\":\"ended\"}", LLMB_FAULT_RETRY, "poll: another object");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":{}}", LLMB_FAULT_RETRY, "list: no data");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[]}", LLMB_FAULT_RETRY, "list: not said whether there are more");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[],\"has_more\":true}", LLMB_FAULT_RETRY, "list: more, and no cursor");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[{\"id\":\"a\"}],\"has_more\":false}", LLMB_FAULT_RETRY, "list: one that cannot be read");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[{\"id\":\"a\",\"processing_status\":\"ended\",\"request_counts\":" COUNTS(0, 1, 0, 0, 0)
			 "}],\"has_more\":false}", LLMB_FAULT_RETRY, "list: one that does not say when it was made");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[" BATCH("ended", "{\"succeeded\":1}", URL) "],\"has_more\":false}",
			 LLMB_FAULT_RETRY, "list: one that does not say how many requests it has");
	fault_is(LLMB_CALL_CHECK, 200, "{}", LLMB_FAULT_RETRY, "check: no models");
	fault_is(LLMB_CALL_CREATE, 200, "{\"id\":", LLMB_FAULT_NONE, "create: cut; it may be there");
	reply = reply_to(LLMB_CALL_CREATE, 200, "{}");
	ok(reply.batch.id == NULL && reply.batch.total == -1, "anthropic, create: a reply that tells nothing is no batch");

	reply = reply_to(LLMB_CALL_CREATE, 429, SPEND("enforced_spend_limit_reached"));
	is_text(reply.code, "enforced_spend_limit_reached", "anthropic, error: the closest code");
	reply = reply_to(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", NO_CREDIT));
	is_text(reply.code, "credit_balance_too_low", "anthropic, error: what only its text tells");
	reply = reply_to(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", NO_USE));
	is_text(reply.code, "usage_limits_reached", "anthropic, error: the other");
	reply = reply_to(LLMB_CALL_CREATE, 429, SPEND("ramp_limit_exceeded"));
	is_text(reply.code, "ramp_limit_exceeded", "anthropic, error: of its details");
	reply = reply_to(LLMB_CALL_CREATE, 400, ERROR("invalid_request_error", "words"));
	is_text(reply.code, "invalid_request_error", "anthropic, error: its type");
	is_text(reply.message, "words", "anthropic, error: its words");
	reply = reply_to(LLMB_CALL_CHECK, 400, ERROR("no code but words", "m"));
	is_text(reply.code, NULL, "anthropic, error: what is no word is not shown");
}

static void
batch_is(const char *body, LlmbRemoteState state, int total, int done, int failed, bool results, const char *what)
{
	LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, body);
	const LlmbRemoteBatch *batch = &reply.batch;

	ok(reply.fault == LLMB_FAULT_NONE && batch->id != NULL && batch->state == state && batch->total == total &&
	   batch->done == done && batch->failed == failed && (batch->output != NULL) == results &&
	   batch->errors == NULL && batch->token == NULL, "anthropic, batch: %s", what);
}

static void
test_batches(void)
{
	LlmbReply	reply;

	batch_is(BATCH("in_progress", COUNTS(3, 0, 0, 0, 0), NULLS), LLMB_REMOTE_RUNNING, 3, -1, -1, false, "in progress");
	batch_is(BATCH("in_progress", COUNTS(1, 2, 0, 0, 0), NULLS), LLMB_REMOTE_RUNNING, 3, -1, -1, false,
			 "counts before the end are no progress");
	batch_is(BATCH("canceling", COUNTS(3, 0, 0, 0, 0), NULLS CANCELED), LLMB_REMOTE_CANCELLING, 3, -1, -1, false, "canceling");
	batch_is(BATCH("ended", COUNTS(0, 5, 1, 0, 2), URL), LLMB_REMOTE_ENDED, 8, 5, 1, true, "ended, some expired");
	batch_is(BATCH("ended", COUNTS(0, 0, 0, 0, 8), URL), LLMB_REMOTE_ENDED, 8, 0, 0, true, "all expired");
	batch_is(BATCH("ended", COUNTS(0, 2, 0, 6, 0), URL CANCELED), LLMB_REMOTE_CANCELLED, 8, 2, 0, true, "canceled");
	batch_is(BATCH("ended", COUNTS(0, 2, 0, 0, 0), ",\"cancel_initiated_at\":{}" URL), LLMB_REMOTE_ENDED, 2, 2, 0, true,
			 "an empty object for null");
	batch_is(BATCH("ended", COUNTS(0, 2, 0, 0, 0), NULLS), LLMB_REMOTE_ENDED, 2, 2, 0, false, "results that are late");
	batch_is(BATCH("pondering", COUNTS(0, 2, 0, 0, 0), NULLS), LLMB_REMOTE_UNKNOWN, 2, -1, -1, false, "a new status");
	batch_is(BATCH("ended", "{\"processing\":0,\"succeeded\":2}", URL), LLMB_REMOTE_ENDED, -1, 2, -1, true, "counts missing");
	batch_is(BATCH("ended", "null", URL), LLMB_REMOTE_ENDED, -1, -1, -1, true, "no counts");
	batch_is(BATCH("ended", COUNTS(9223372036854775807, 9223372036854775807, 1, 0, 0), URL), LLMB_REMOTE_ENDED, -1,
			 -1, 1, true, "counts that cannot be");

	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("ended", COUNTS(0, 1, 0, 0, 0), URL));
	is_int(reply.batch.created_s, 1785692828, "anthropic, batch: when it was created");
	is_text(reply.batch.output, "msgbatch_1", "anthropic, batch: results are where we look, not where it says");

	reply = reply_to(LLMB_CALL_LIST, 200, "{\"data\":[" BATCH("ended", COUNTS(0, 1, 0, 0, 0), URL) ","
					 BATCH("in_progress", COUNTS(7, 0, 0, 0, 0), NULLS) "],\"has_more\":true,\"last_id\":\"msgbatch_1\"}");
	ok(reply.listed_count == 2 && reply.listed[0].total == 1 && reply.listed[1].total == 7 &&
	   reply.listed[1].created_s == 1785692828 && reply.listed[1].state == LLMB_REMOTE_RUNNING, "anthropic, list: a page");
	is_text(reply.next_cursor, "msgbatch_1", "anthropic, list: where the next page starts");
	reply = reply_to(LLMB_CALL_LIST, 200, "{\"data\":[],\"has_more\":false,\"first_id\":null,\"last_id\":null}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.listed_count == 0 && reply.next_cursor == NULL, "anthropic, list: empty");
	reply = reply_to(LLMB_CALL_CHECK, 200, "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}],\"has_more\":false}");
	is_int(reply.models, 2, "anthropic, check: models");
}

/*
 * Result lines
 */

static bool
read_text(const char *text, LlmbOutcome *outcome)
{
	char	   *copy = pstrdup(text);
	bool		result = P->read_line(copy, strlen(copy), outcome);

	pfree(copy);
	return result;
}

#define LINE(result) "{\"custom_id\":\"n0nce-7\",\"result\":" result "}"
#define ERRORED(type, message) LINE("{\"type\":\"errored\",\"error\":" ERROR(type, message) "}")
#define USAGE "{\"input_tokens\":20,\"cache_creation_input_tokens\":30,\"cache_read_input_tokens\":50," \
	"\"cache_creation\":{\"ephemeral_5m_input_tokens\":10,\"ephemeral_1h_input_tokens\":20}," \
	"\"output_tokens\":8,\"output_tokens_details\":{\"thinking_tokens\":3},\"service_tier\":\"batch\"}"
#define MESSAGE(content, stop, more) "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\"," \
	"\"model\":\"claude-m-1\",\"content\":" content ",\"stop_reason\":" stop ",\"stop_sequence\":null," \
	"\"usage\":" USAGE more "}"
#define GOOD(content, stop) LINE("{\"type\":\"succeeded\",\"message\":" MESSAGE(content, stop, "") "}")
#define TEXT(text) "{\"type\":\"text\",\"text\":\"" text "\"}"

static void
code_is(const char *line, LlmbCode code, bool retryable, const char *what)
{
	LlmbOutcome outcome;
	bool		read = read_text(line, &outcome);

	ok(read && outcome.code == code && outcome.retryable == retryable &&
	   outcome.perhaps_run == (code == LLMB_PROVIDER_ERROR && outcome.request_id == NULL) &&
	   strcmp(outcome.custom_id, "n0nce-7") == 0 && (code == LLMB_OK || outcome.error != NULL),
	   "anthropic, line: %s", what);
	if (read && (outcome.code != code || outcome.retryable != retryable))
		printf("# got %s, %d\n", outcome.code ? llmb_code_name(outcome.code) : "ok", outcome.retryable);
}

static void
test_failures(void)
{
	LlmbOutcome outcome;

	code_is(ERRORED("invalid_request_error", "m"), LLMB_INVALID_REQUEST, false, "invalid_request_error");
	code_is(ERRORED("invalid_request_error", TOO_LONG), LLMB_TOO_LARGE, false, "a prompt that is too long");
	code_is(ERRORED("invalid_request_error", NO_CREDIT), LLMB_RATE_LIMITED, true, "no credit");
	code_is(ERRORED("not_found_error", "m"), LLMB_INVALID_REQUEST, false, "not_found_error");
	code_is(ERRORED("request_too_large", "m"), LLMB_TOO_LARGE, false, "request_too_large");
	code_is(ERRORED("authentication_error", "m"), LLMB_AUTH, false, "authentication_error");
	code_is(ERRORED("permission_error", "m"), LLMB_AUTH, false, "permission_error");
	code_is(ERRORED("rate_limit_error", "m"), LLMB_RATE_LIMITED, true, "rate_limit_error");
	code_is(ERRORED("billing_error", "m"), LLMB_RATE_LIMITED, true, "billing_error");
	code_is(ERRORED("timeout_error", "m"), LLMB_TIMEOUT, true, "timeout_error");
	code_is(ERRORED("api_error", "m"), LLMB_PROVIDER_ERROR, true, "api_error");
	code_is(ERRORED("overloaded_error", "m"), LLMB_PROVIDER_ERROR, true, "overloaded_error");
	code_is(ERRORED("a_new_error", "m"), LLMB_PROVIDER_ERROR, true, "an error that is not known");
	code_is(LINE("{\"type\":\"canceled\"}"), LLMB_CANCELLED_ITEM, false, "canceled");
	code_is(LINE("{\"type\":\"expired\"}"), LLMB_EXPIRED, true, "expired");
	code_is(LINE("{\"type\":\"pondered\"}"), LLMB_PROVIDER_ERROR, true, "another type");
	code_is(LINE("{\"type\":\"succeeded\"}"), LLMB_PROVIDER_ERROR, true, "success without a message");
	code_is(LINE("null"), LLMB_PROVIDER_ERROR, true, "no result");
	code_is("{\"custom_id\":\"n0nce-7\"}", LLMB_PROVIDER_ERROR, true, "nothing");
	code_is(GOOD("[]", "\"end_turn\""), LLMB_PROVIDER_ERROR, true, "a message without text");
	code_is(GOOD("null", "\"end_turn\""), LLMB_PROVIDER_ERROR, true, "a message without content");
	code_is(GOOD("[" TEXT("x") "]", "\"tool_use\""), LLMB_PROVIDER_ERROR, false, "tool_use");
	code_is(GOOD("[" TEXT("x") "]", "\"pause_turn\""), LLMB_PROVIDER_ERROR, false, "pause_turn");

	(void) read_text(LINE("{\"type\":\"errored\",\"error\":{\"type\":\"api_error\",\"message\":\"bare\"}}"), &outcome);
	is_text(outcome.error, "bare", "anthropic, line: an error without its envelope");
	(void) read_text(ERRORED("api_error", "words"), &outcome);
	is_text(outcome.error, "words", "anthropic, line: an error's words");
	is_text(outcome.request_id, "req_1", "anthropic, line: an error's request id");
	ok(outcome.input_tokens == -1 && outcome.output_tokens == -1 && outcome.cached_tokens == -1 &&
	   outcome.cache_write_tokens == -1 && outcome.long_write_tokens == -1 && outcome.reasoning_tokens == -1,
	   "anthropic, line: unknown usage is -1");

	ok(!read_text("", &outcome) && !read_text("[]", &outcome) && !read_text("{\"custom_id\":7}", &outcome) &&
	   !read_text("{\"custom_id\":\"\"}", &outcome) && !read_text("{\"result\":{\"type\":\"expired\"}}", &outcome) &&
	   !read_text("{\"custom_id\":\"n0nce-7\",\"resu", &outcome), "anthropic, line: what is no item's");
}

static void
refusal_is(const char *details, const char *words)
{
	LlmbOutcome outcome;
	char	   *line = psprintf(LINE("{\"type\":\"succeeded\",\"message\":"
									 MESSAGE("[" TEXT("I can") "]", "\"refusal\"", ",\"stop_details\":%s") "}"), details);

	ok(read_text(line, &outcome) && outcome.code == LLMB_REFUSED && !outcome.retryable && outcome.answer == NULL &&
	   outcome.output_tokens == 8, "anthropic, refusal: what it has used counts");
	is_text(outcome.error, words, "anthropic, refusal: its words");
}

static void
test_answers(void)
{
	LlmbOutcome outcome;

	ok(read_text(GOOD("[{\"type\":\"thinking\",\"thinking\":\"hm\",\"text\":\"no\"}," TEXT("Four.") "]", "\"end_turn\""),
				 &outcome), "anthropic, answer: read");
	is_int(outcome.code, LLMB_OK, "anthropic, answer: success");
	is_text(outcome.custom_id, "n0nce-7", "anthropic, answer: whose it is");
	is_text(outcome.answer, "Four.", "anthropic, answer: the text, not the thinking before it");
	is_text(outcome.model, "claude-m-1", "anthropic, answer: model");
	is_text(outcome.request_id, "msg_1", "anthropic, answer: the message's id");
	is_text(outcome.finish_reason, "end_turn", "anthropic, answer: how it ended");
	is_text(outcome.error, NULL, "anthropic, answer: no error");
	ok(outcome.input_tokens == 100 && outcome.cached_tokens == 50 && outcome.cache_write_tokens == 30 &&
	   outcome.long_write_tokens == 20 && outcome.output_tokens == 8 && outcome.reasoning_tokens == 3,
	   "anthropic, answer: usage, the whole prompt summed");

	(void) read_text(GOOD("[" TEXT("a") ",{\"type\":\"thinking\"}," TEXT("b") "," TEXT("c") "]", "\"stop_sequence\""), &outcome);
	ok(outcome.code == LLMB_OK, "anthropic, answer: ended by a stop text");
	is_text(outcome.answer, "abc", "anthropic, answer: blocks of text, joined");
	code_is(GOOD("[" TEXT("") "]", "\"end_turn\""), LLMB_OK, false, "an empty answer is one");
	code_is(GOOD("[" TEXT("x") "]", "null"), LLMB_OK, false, "not said how it ended");
	code_is(GOOD("[" TEXT("x") "]", "\"something_new\""), LLMB_OK, false, "ended in a way that is not known");
	code_is(GOOD("[" TEXT("x") "]", "\"max_tokens\""), LLMB_TRUNCATED, false, "max_tokens");
	code_is(GOOD("[" TEXT("x") "]", "\"model_context_window_exceeded\""), LLMB_TRUNCATED, false, "a full window");
	(void) read_text(GOOD("[" TEXT("{\\\"a\\\":") "]", "\"max_tokens\""), &outcome);
	is_text(outcome.answer, "{\"a\":", "anthropic, answer: what was cut is kept");
	(void) read_text(GOOD("[{\"type\":\"thinking\"}]", "\"max_tokens\""), &outcome);
	ok(outcome.code == LLMB_TRUNCATED && outcome.answer == NULL, "anthropic, answer: all went into thinking");
	ok(read_text(GOOD("[" TEXT("a\\u0000\\ud83d") "]", "\"end_turn\""), &outcome) && outcome.altered,
	   "anthropic, answer: says that it was altered");

	refusal_is("{\"type\":\"refusal\",\"category\":\"cyber\",\"explanation\":\"Too risky.\"}", "Too risky.");
	refusal_is("{\"type\":\"refusal\",\"category\":\"bio\",\"explanation\":null}", "The model refused to answer (bio).");
	refusal_is("null", "The model refused to answer.");

	(void) read_text(LINE("{\"type\":\"succeeded\",\"message\":{\"content\":[" TEXT("x") "],\"usage\":"
						  "{\"input_tokens\":11,\"output_tokens\":2}}}"), &outcome);
	ok(outcome.input_tokens == 11 && outcome.cached_tokens == -1 && outcome.cache_write_tokens == -1 &&
	   outcome.long_write_tokens == -1 && outcome.output_tokens == 2 && outcome.reasoning_tokens == -1,
	   "anthropic, usage: of old messages");
	(void) read_text(LINE("{\"type\":\"succeeded\",\"message\":{\"content\":[" TEXT("x") "],\"usage\":"
						  "{\"input_tokens\":1,\"cache_creation\":{\"ephemeral_5m_input_tokens\":2,"
						  "\"ephemeral_1h_input_tokens\":4}}}}"), &outcome);
	ok(outcome.input_tokens == 7 && outcome.cache_write_tokens == 6 && outcome.long_write_tokens == 4,
	   "anthropic, usage: what was written, from its parts");
}

/*
 * Real time
 */

static void
answer_is(int status, const char *body, LlmbFault fault, LlmbCode code, bool retryable, const char *what)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbOutcome outcome;
	LlmbReply	reply;

	http.retry_after_ms = 700;
	http.headers = "request-id: req_h\n";
	P->read_answer(&http, &outcome, &reply);
	ok(reply.fault == fault && outcome.code == code && outcome.retryable == retryable &&
	   outcome.perhaps_run == (status == 200 && code == LLMB_PROVIDER_ERROR) &&
	   reply.retry_after_ms == 700 && (code == LLMB_OK || outcome.error != NULL) &&
	   strcmp(outcome.request_id, "req_h") == 0, "anthropic, real time: %s", what);
	if (reply.fault != fault || outcome.code != code || outcome.retryable != retryable)
		printf("# got fault %d, code %d, retryable %d\n", reply.fault, outcome.code, outcome.retryable);
	pfree(http.body);
}

static void
test_real_time(void)
{
	LlmbHttpReply http = http_reply(200, MESSAGE("[" TEXT("Four.") "]", "\"end_turn\"", ""));
	LlmbOutcome outcome;
	LlmbReply	reply;
	LlmbLimits	limits;
	int64		now = llmb_rfc3339_ms("2026-11-21T10:00:00Z");

	P->read_answer(&http, &outcome, &reply);
	ok(reply.fault == LLMB_FAULT_NONE && outcome.code == LLMB_OK && outcome.custom_id == NULL &&
	   outcome.input_tokens == 100 && outcome.long_write_tokens == 20, "anthropic, real time: an answer");
	is_text(outcome.answer, "Four.", "anthropic, real time: its text");
	is_text(outcome.request_id, "msg_1", "anthropic, real time: without a header, the message's id");

	answer_is(200, MESSAGE("[" TEXT("x") "]", "\"end_turn\"", ""), LLMB_FAULT_NONE, LLMB_OK, false, "200");
	answer_is(200, MESSAGE("[" TEXT("x") "]", "\"max_tokens\"", ""), LLMB_FAULT_NONE, LLMB_TRUNCATED, false, "200, cut");
	answer_is(200, MESSAGE("[]", "\"refusal\"", ""), LLMB_FAULT_NONE, LLMB_REFUSED, false, "200, refused");
	answer_is(200, "<html>", LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "200, not JSON");
	answer_is(200, "{\"type\":\"message", LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "200, half of it");
	answer_is(200, ERROR("api_error", "m"), LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "200, and yet an error");
	answer_is(400, ERROR("invalid_request_error", "m"), LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "400");
	answer_is(400, "", LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "400 without a body");
	answer_is(400, ERROR("invalid_request_error", TOO_LONG), LLMB_FAULT_REQUEST, LLMB_TOO_LARGE, false, "400 for its length");
	answer_is(400, ERROR("invalid_request_error", NO_CREDIT), LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true, "400 for money");
	answer_is(401, ERROR("authentication_error", "m"), LLMB_FAULT_KEY, LLMB_AUTH, false, "401");
	answer_is(402, ERROR("billing_error", "m"), LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true, "402");
	answer_is(403, ERROR("permission_error", "m"), LLMB_FAULT_KEY, LLMB_AUTH, false, "403");
	answer_is(404, ERROR("not_found_error", "model: x"), LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false, "404");
	answer_is(408, "", LLMB_FAULT_RETRY, LLMB_TIMEOUT, true, "408");
	answer_is(409, ERROR("conflict_error", "m"), LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "409");
	answer_is(413, "<html>", LLMB_FAULT_TOO_LARGE, LLMB_TOO_LARGE, false, "413");
	answer_is(429, ERROR("rate_limit_error", "m"), LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true, "429");
	answer_is(429, SPEND("enforced_spend_limit_reached"), LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true, "429 for money");
	answer_is(500, ERROR("api_error", "m"), LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true, "500");
	answer_is(503, "", LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true, "503");
	answer_is(504, ERROR("timeout_error", "m"), LLMB_FAULT_RETRY, LLMB_TIMEOUT, true, "504");
	answer_is(529, ERROR("overloaded_error", "m"), LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true, "529");

	http.headers = "anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-remaining: 49\n"
		"anthropic-ratelimit-requests-reset: 2026-11-21T10:00:30Z\nanthropic-ratelimit-tokens-remaining: 30000\n"
		"anthropic-ratelimit-tokens-reset: 2026-11-21T09:59:59Z\nanthropic-ratelimit-input-tokens-remaining: 7\n";
	P->read_limits(&http, now, &limits);
	ok(limits.requests_left == 49 && limits.requests_reset_ms == 30000 && limits.tokens_left == 30000 &&
	   limits.tokens_reset_ms == 0, "anthropic, limits: all of them");
	http.headers = "anthropic-ratelimit-input-tokens-remaining: 7\nanthropic-ratelimit-input-tokens-reset: 9999-01-01T00:00:00Z\n";
	P->read_limits(&http, now, &limits);
	ok(limits.requests_left == -1 && limits.requests_reset_ms == -1 && limits.tokens_left == 7 &&
	   limits.tokens_reset_ms == 3600000, "anthropic, limits: those of the input alone");
	http.headers = "anthropic-ratelimit-requests-remaining: many\nanthropic-ratelimit-requests-reset: 30s\n";
	P->read_limits(&http, now, &limits);
	ok(limits.requests_left == -1 && limits.requests_reset_ms == -1 && limits.tokens_left == -1 &&
	   limits.tokens_reset_ms == -1, "anthropic, limits: what cannot be read is not there");
}

/*
 * Recorded traffic
 */

/* The next line of a recorded file; NULL at its end. */
static char *
next_line(char **at)
{
	char	   *line = *at;
	char	   *end;

	if (*line == '\0')
		return NULL;
	end = strchr(line, '\n');
	*at = end ? end + 1 : line + strlen(line);
	if (end)
		*end = '\0';
	return line;
}

static LlmbReply
replay(LlmbVerb verb, const LlmbJson *exchange)
{
	LlmbJson   *response = llmb_json_get(exchange, "response");
	char	   *body = pstrdup(llmb_string_or_empty(response, "body"));
	LlmbHttpReply http = http_reply((int) llmb_json_int(response, "status", 0), body);
	LlmbReply	reply;

	http.retry_after_ms = llmb_json_int(llmb_json_get(response, "headers"), "retry-after", -1) * 1000;
	P->read_reply(verb, &http, &reply);
	pfree(body);
	pfree(http.body);
	return reply;
}

/* One whole run of 2025: create, polls, results. */
static void
test_recorded_run(void)
{
	static const LlmbVerb verbs[] = {LLMB_CALL_CREATE, LLMB_CALL_POLL, LLMB_CALL_POLL, LLMB_CALL_FETCH};
	static const LlmbRemoteState states[] = {LLMB_REMOTE_RUNNING, LLMB_REMOTE_RUNNING, LLMB_REMOTE_ENDED};
	size_t		len;
	char	   *text = recorded("../anthropic/curator_message_batch.trace.jsonl", &len);
	char	   *at = text;
	char	   *line;
	int			i;

	if (text == NULL)
		return;
	for (i = 0; i < (int) lengthof(verbs) && (line = next_line(&at)) != NULL; i++)
	{
		LlmbJson   *exchange = parse(line);
		LlmbReply	reply = replay(verbs[i], exchange);
		bool		same;

		if (verbs[i] == LLMB_CALL_FETCH)
			same = reply.fault == LLMB_FAULT_NONE;
		else
			same = reply.fault == LLMB_FAULT_NONE && reply.batch.state == states[i] && reply.batch.total == 3 &&
				strcmp(reply.batch.id, "msgbatch_01MxdL3LT4Dizo9t3j6FY9Ap") == 0 &&
				reply.batch.created_s == 1736661554 &&
				reply.batch.done == (i == 2 ? 3 : -1) && (reply.batch.output != NULL) == (i == 2);
		ok(same, "anthropic, recorded run: exchange %d", i + 1);
		ok(reply.retry_after_ms == (i == 1 ? 10000 : -1000), "anthropic, recorded run: when to poll again, %d", i + 1);
		llmb_json_free(exchange);
	}
	is_int(i, 4, "anthropic, recorded run: four exchanges");
}

static void
test_recorded_results(void)
{
	static const int output_tokens[] = {273, 259, 313};
	size_t		len;
	char	   *text = recorded("../anthropic/curator_message_batch.results.jsonl", &len);
	char	   *at = text;
	char	   *line;
	int			count = 0;

	if (text == NULL)
		return;
	while ((line = next_line(&at)) != NULL)
	{
		LlmbOutcome outcome;
		char		id[2] = {(char) ('0' + count), '\0'};

		ok(read_text(line, &outcome) && outcome.code == LLMB_OK && strcmp(outcome.custom_id, id) == 0 &&
		   outcome.answer != NULL && !outcome.altered && outcome.cached_tokens == 0 &&
		   outcome.reasoning_tokens == -1 && outcome.long_write_tokens == -1, "anthropic, recorded results: line %d", count + 1);
		is_text(outcome.model, "claude-3-5-sonnet-20241022", "anthropic, recorded results: model");
		if (count < (int) lengthof(output_tokens))
			is_int(outcome.output_tokens, output_tokens[count], "anthropic, recorded results: tokens");
		if (count == 0)
			ok(strncmp(outcome.answer, "Here's a basic spaghetti recipe:\n\nIngredients:\n- 1 pound", 56) == 0 &&
			   strstr(outcome.answer, "Saut\xC3\xA9 onions") != NULL && outcome.input_tokens == 11,
			   "anthropic, recorded results: what a person reads");
		count++;
	}
	is_int(count, 3, "anthropic, recorded results: three lines, the last without an end");
}

/* A batch and its results of 2026, as an R package keeps them: {} for null. */
static void
test_recorded_state(void)
{
	static const char *const capitals[] = {"Des Moines", "Albany", "Sacramento", "Austin"};
	size_t		len;
	char	   *text = recorded("../anthropic/ellmer_state_capitals.json", &len);
	LlmbJson   *root;
	LlmbReply	reply;
	StringInfoData part;
	int			i;

	if (text == NULL)
		return;
	root = parse(text);
	initStringInfo(&part);
	llmb_json_put_node(&part, llmb_json_get(root, "batch"));
	reply = reply_to(LLMB_CALL_POLL, 200, part.data);
	ok(reply.batch.state == LLMB_REMOTE_ENDED && reply.batch.total == 4 && reply.batch.done == 4 &&
	   reply.batch.failed == 0 && reply.batch.output != NULL && reply.batch.created_s == 1785692828,
	   "anthropic, recorded state: the batch");
	is_int(reply.batch.ended_ms, INT64CONST(1785692884374), "anthropic, recorded state: when it ended");
	for (i = 0; i < (int) lengthof(capitals); i++)
	{
		LlmbOutcome outcome;

		resetStringInfo(&part);
		appendStringInfo(&part, "{\"custom_id\":\"%d\",\"result\":", i);
		llmb_json_put_node(&part, llmb_json_at(llmb_json_get(root, "results"), i));
		appendStringInfoChar(&part, '}');
		ok(read_text(part.data, &outcome) && outcome.code == LLMB_OK && outcome.reasoning_tokens == 0 &&
		   outcome.cache_write_tokens == 0 && outcome.long_write_tokens == 0 &&
		   strcmp(outcome.model, "claude-sonnet-5") == 0, "anthropic, recorded state: result %d", i + 1);
		is_text(outcome.answer, capitals[i], "anthropic, recorded state: its answer");
	}
	llmb_json_free(root);
}

/*
 * Spoilt text
 */

static const char *const seeds[] = {
	GOOD("[{\"type\":\"thinking\",\"thinking\":\"\"}," TEXT("A\\u00e9\\ud83d\\ude00\\n\\\"b\\\\\\u0000\xE2\x82\xAC") ","
		 TEXT("b") "]", "\"end_turn\""),
	ERRORED("invalid_request_error", "prompt is too long"),
	LINE("{\"type\":\"succeeded\",\"message\":" MESSAGE("[]", "\"refusal\"", ",\"stop_details\":{\"category\":\"bio\"}") "}"),
	MESSAGE("[" TEXT("x") "]", "\"max_tokens\"", ""),
	SPEND("enforced_spend_limit_reached"),
	BATCH("ended", COUNTS(0, 5, 1, 0, 2), URL CANCELED),
	"{\"data\":[" BATCH("in_progress", COUNTS(7, 0, 0, 0, 0), NULLS) "],\"has_more\":true}",
};

static const char *const spices[] = {
	"\\u", "\\ud83d", "\\u0000", "\\", "\"", "{", "}", "[", "]", ",", ":", "null", "\xED\xA0\x80", "\xC3", "\xFF",
	"-1", "1e999", "99999999999999999999", "9223372036854775807", "[[[[[[[[[[[[[[[["
};

/* A few random changes; the result is in a buffer of exactly its size. */
static char *
spoil(uint64 *state, size_t *len)
{
	const char *seed = seeds[next_random(state) % lengthof(seeds)];
	int			changes = 1 + next_random(state) % 4;
	StringInfoData text;
	char	   *result;

	initStringInfo(&text);
	appendStringInfoString(&text, seed);
	while (changes-- > 0)
	{
		int			at = next_random(state) % (text.len + 1);
		char	   *tail = pnstrdup(text.data + at, text.len - at);
		size_t		taken = next_random(state) % 8;

		switch (next_random(state) % 4)
		{
			case 0:				/* a byte */
				if (at < text.len)
					text.data[at] = (char) (1 + next_random(state) % 255);
				break;
			case 1:				/* cut */
				text.len = at;
				text.data[at] = '\0';
				break;
			case 2:				/* put in */
				text.len = at;
				appendStringInfoString(&text, spices[next_random(state) % lengthof(spices)]);
				appendStringInfoString(&text, tail);
				break;
			case 3:				/* take out */
				text.len = at;
				appendStringInfoString(&text, tail + Min(taken, strlen(tail)));
				break;
		}
		pfree(tail);
	}
	result = malloc(text.len + 1);
	memcpy(result, text.data, text.len + 1);
	*len = text.len;
	pfree(text.data);
	return result;
}

static bool
is_utf8(const char *text)
{
	return text == NULL || pg_encoding_verifymbstr(PG_UTF8, text, strlen(text)) == (int) strlen(text);
}

static bool
outcome_keeps_promises(const LlmbOutcome *outcome)
{
	return is_utf8(outcome->answer) && is_utf8(outcome->error) && is_utf8(outcome->finish_reason) &&
		is_utf8(outcome->model) && is_utf8(outcome->request_id) &&
		(outcome->code != LLMB_OK || (outcome->answer != NULL && outcome->error == NULL)) &&
		(outcome->code == LLMB_OK || outcome->code == LLMB_TRUNCATED || outcome->answer == NULL) &&
		outcome->input_tokens >= -1 && outcome->output_tokens >= -1 && outcome->cached_tokens >= -1 &&
		outcome->cache_write_tokens >= -1 && outcome->long_write_tokens >= -1 && outcome->reasoning_tokens >= -1;
}

static void
free_outcome(LlmbOutcome *outcome)
{
	free(outcome->custom_id);
	free(outcome->answer);
	free(outcome->error);
	free(outcome->finish_reason);
	free(outcome->model);
	free(outcome->request_id);
}

static bool
reply_keeps_promises(char *text, size_t len, LlmbVerb verb, int status)
{
	LlmbHttpReply http = {status, text, len, -1, NULL};
	LlmbReply	reply;
	bool		good;
	int			i;

	P->read_reply(verb, &http, &reply);
	good = (reply.code == NULL || strlen(reply.code) <= 64) && is_utf8(reply.message) &&
		(status == 200 || reply.fault != LLMB_FAULT_NONE) && reply.batch.total >= -1 && reply.batch.done >= -1 &&
		(verb != LLMB_CALL_POLL || status != 200 || (reply.batch.id != NULL) == (reply.fault == LLMB_FAULT_NONE)) &&
		(verb != LLMB_CALL_LIST || reply.fault != LLMB_FAULT_NONE || reply.listed != NULL);
	for (i = 0; i < reply.listed_count; i++)
	{
		good &= reply.listed[i].id != NULL && reply.listed[i].total >= -1;
		free(reply.listed[i].id);
		free(reply.listed[i].output);
	}
	free(reply.listed);
	free(reply.batch.id);
	free(reply.batch.output);
	free(reply.code);
	free(reply.message);
	free(reply.next_cursor);
	return good;
}

static bool
line_keeps_promises(char *text, size_t len)
{
	LlmbOutcome outcome;
	bool		good = !P->read_line(text, len, &outcome) ||
		(outcome.custom_id != NULL && outcome_keeps_promises(&outcome));

	free_outcome(&outcome);
	return good;
}

static bool
answer_keeps_promises(char *text, size_t len, int status)
{
	LlmbHttpReply http = {status, text, len, -1, NULL};
	LlmbOutcome outcome;
	LlmbReply	reply;
	LlmbLimits	limits;
	char	   *headers = psprintf("anthropic-ratelimit-tokens-reset: %s\nrequest-id: %s\n", text, text);
	bool		good;

	http.headers = headers;
	P->read_limits(&http, INT64CONST(1790000000000), &limits);
	good = limits.tokens_reset_ms >= -1 && limits.tokens_reset_ms <= 3600000;
	http.headers = NULL;
	P->read_answer(&http, &outcome, &reply);
	good &= outcome_keeps_promises(&outcome) && outcome.custom_id == NULL &&
		(status == 200 || (reply.fault != LLMB_FAULT_NONE && outcome.code != LLMB_OK));
	free_outcome(&outcome);
	free(reply.code);
	free(reply.message);
	free(headers);
	return good;
}

static void
test_spoilt(int rounds)
{
	static const LlmbVerb verbs[] = {LLMB_CALL_POLL, LLMB_CALL_LIST, LLMB_CALL_CREATE, LLMB_CALL_CHECK};
	static const int statuses[] = {200, 200, 400, 404, 429, 529};
	uint64		state = 20261121;
	int			broken[3] = {0};
	int			i;

	for (i = 0; i < rounds; i++)
	{
		size_t		len;
		char	   *text = spoil(&state, &len);
		int			status = statuses[next_random(&state) % lengthof(statuses)];

		switch (i % 3)
		{
			case 0:
				broken[0] += !line_keeps_promises(text, len);
				break;
			case 1:
				broken[1] += !reply_keeps_promises(text, len, verbs[next_random(&state) % lengthof(verbs)], status);
				break;
			case 2:
				broken[2] += !answer_keeps_promises(text, len, status);
				break;
		}
		free(text);
	}
	is_int(broken[0], 0, "anthropic, spoilt: result lines");
	is_int(broken[1], 0, "anthropic, spoilt: replies");
	is_int(broken[2], 0, "anthropic, spoilt: answers in real time");
}

void
test_anthropic(void)
{
	test_params();
	test_requests();
	test_messages();
	test_thinking();
	test_schemas();
	test_calls();
	test_faults();
	test_batches();
	test_failures();
	test_answers();
	test_real_time();
	test_recorded_run();
	test_recorded_results();
	test_recorded_state();
	test_spoilt(60000);
}
