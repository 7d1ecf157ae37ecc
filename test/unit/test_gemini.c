/*-------------------------------------------------------------------------
 *
 * test_gemini.c
 *		Tests of src/provider_gemini.c: on examples written by hand, on
 *		mutations of them, and on recorded traffic where it is at hand.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "unit.h"

#define P (&llmb_provider_gemini)

static const LlmbModel budget_model = {
	"gemini-2.5-flash", "gemini-budget", 1048576, 65536, LLMB_SAMPLING_ANY, "none minimal low medium high", NULL, 1, false
};
static const LlmbModel level_model = {
	"gemini-3.8-flash", "gemini-level", 1048576, 65536, LLMB_SAMPLING_DEFAULT, "low medium high", "medium", 1, false
};
static const LlmbModel embedding_model = {
	"gemini-embedding-001", "embedding", 2048, 0, LLMB_SAMPLING_UNKNOWN, NULL, NULL, 0, false
};

/*
 * Parameters
 */

static void
param(const LlmbModel *model, const char *params, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = P->check_params(model, &plain_dialect, json);
	char	   *what = psprintf("gemini params: %s %s", model->name, params);

	if (part == NULL)
		is_text(reason, NULL, what);
	else
		has_text(reason, part, what);
	llmb_json_free(json);
}

static void
test_params(void)
{
	LlmbDialect embeddings = plain_dialect;
	LlmbDialect responses = plain_dialect;

	param(&budget_model, "{}", NULL);
	param(&budget_model, "{\"temperature\": 2, \"top_p\": 0, \"top_k\": 1, \"max_tokens\": 10, \"seed\": -1,"
		  " \"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\"], \"reasoning_effort\": \"none\"}", NULL);
	param(&budget_model, "{\"temperature\": 2.1}", "must be a number between 0 and 2");
	param(&budget_model, "{\"top_k\": 0}", "must be an integer of at least 1");
	param(&budget_model, "{\"seed\": 2147483648}", "must be an integer");
	param(&budget_model, "{\"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\"]}", "up to 5");
	param(&budget_model, "{\"reasoning_effort\": \"max\"}", "one of: none minimal low medium high");
	param(&budget_model, "{\"maxOutputTokens\": 5}", "it is called \"max_tokens\" here");
	param(&budget_model, "{\"thinkingBudget\": 5}", "use \"reasoning_effort\"");
	param(&budget_model, "{\"presence_penalty\": 1}", "refuse");
	param(&budget_model, "{\"temprature\": 1}", "perhaps you mean \"temperature\"");
	param(&level_model, "{\"temperature\": 0.2}", "takes no temperature but 1");
	param(&level_model, "{\"temperature\": 1, \"max_tokens\": 5}", NULL);
	param(&level_model, "{\"top_k\": 1}", "takes no top_k");
	param(&level_model, "{\"reasoning_effort\": \"minimal\"}", "one of: low medium high");
	param(&level_model, "{\"reasoning_effort\": \"high\"}", NULL);
	param(model_of("gemini-3.5-flash"), "{\"reasoning_effort\": \"none\"}", "cannot be told not to think");
	param(model_of("gemini-2.5-flash"), "{\"reasoning_effort\": \"none\"}", NULL);
	param(model_of("gemini-2.5-pro"), "{\"reasoning_effort\": \"none\"}", "cannot be told not to think");
	param(&embedding_model, "{}", "embeddings are asked of servers with api openai");
	embeddings.endpoint = LLMB_ENDPOINT_EMBEDDINGS;
	has_text(P->check_params(&budget_model, &embeddings, NULL), "embeddings are asked of", "gemini params: no embeddings");
	responses.endpoint = LLMB_ENDPOINT_RESPONSES;
	has_text(P->check_params(&budget_model, &responses, NULL), "api openai", "gemini params: nor responses");

	ok(P->serves("gemini-3.8-flash") && P->serves("models/gemini-2.5-pro") && P->serves("tunedModels/mine-1"),
	   "gemini serves: its own models");
	ok(!P->serves("gemma-3-27b-it") && !P->serves("gpt-6-luna") && !P->serves("") && !P->serves("gemini"),
	   "gemini serves: no others");
}

/*
 * Requests
 */

static LlmbRequest
request_to(const LlmbModel *model, const char *prompt)
{
	LlmbRequest request = {0};

	request.custom_id = "tok-1";
	request.model = model;
	request.dialect = &plain_dialect;
	request.prompt = prompt;
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
	ok(json != NULL && strchr(out.data, '\n') == NULL, "%s: is JSON in one line", what);
	llmb_json_free(json);
}

#define CONTENTS(text) "\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"" text "\"}]}]}"

static void
test_requests(void)
{
	LlmbRequest request = request_to(&budget_model, "Say \"hi\"\n\xC3\xA9");
	LlmbDialect dialect = plain_dialect;
	StringInfoData out;

	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\"," CONTENTS("Say \\\"hi\\\"\\n\xC3\xA9"), "gemini body: the least");

	request.system = "Be brief.";
	request.params = parse("{\"max_tokens\": 9, \"temperature\": 0.0, \"top_p\": 0.5, \"top_k\": 3, \"seed\": null,"
						   " \"stop\": \"END\", \"reasoning_effort\": \"medium\"}");
	request.schema = "{\"type\":\n\"object\"}";
	initStringInfo(&out);
	P->put_line(&out, &request);
	is_text(out.data, "{\"key\":\"tok-1\",\"request\":{\"model\":\"models/gemini-2.5-flash\","
			"\"systemInstruction\":{\"parts\":[{\"text\":\"Be brief.\"}]},"
			"\"generationConfig\":{\"maxOutputTokens\":9,\"temperature\":0.0,\"topP\":0.5,\"topK\":3,"
			"\"stopSequences\":[\"END\"],\"thinkingConfig\":{\"thinkingBudget\":8192},"
			"\"responseMimeType\":\"application/json\",\"responseJsonSchema\":{\"type\": \"object\"}},"
			CONTENTS("Say \\\"hi\\\"\\n\xC3\xA9") "}\n", "gemini line: everything");

	/* how a model is told to think */
	request = request_to(&budget_model, "x");
	request.params = parse("{\"reasoning_effort\": \"none\"}");
	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\",\"generationConfig\":{\"thinkingConfig\":"
			"{\"thinkingBudget\":0}}," CONTENTS("x"), "gemini body: no thinking");
	request.params = parse("{\"reasoning_effort\": \"low\"}");
	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\",\"generationConfig\":{\"thinkingConfig\":"
			"{\"thinkingBudget\":1024}}," CONTENTS("x"), "gemini body: a small budget");
	request.model = &level_model;
	body_is(&request, "{\"model\":\"models/gemini-3.8-flash\",\"generationConfig\":{\"thinkingConfig\":"
			"{\"thinkingLevel\":\"LOW\"}}," CONTENTS("x"), "gemini body: a level");

	/* where the model is not told the schema */
	request = request_to(&budget_model, "x");
	request.schema = "{}";
	request.dialect = &dialect;
	dialect.structured = LLMB_STRUCTURED_OBJECT;
	initStringInfo(&out);
	P->put_body(&out, &request);
	has_text(out.data, "\"responseMimeType\":\"application/json\"}", "gemini body: some object");
	has_text(out.data, "\"systemInstruction\":{\"parts\":[{\"text\":\"Answer with one JSON object", "gemini body: and the schema in words");
	dialect.structured = LLMB_STRUCTURED_PROMPT;
	resetStringInfo(&out);
	P->put_body(&out, &request);
	ok(strstr(out.data, "generationConfig") == NULL && strstr(out.data, "Answer with one JSON object") != NULL,
	   "gemini body: the schema in words alone");
	dialect.structured = LLMB_STRUCTURED_NATIVE;
	request.model = &embedding_model;
	resetStringInfo(&out);
	P->put_body(&out, &request);
	ok(strstr(out.data, "responseJsonSchema") == NULL, "gemini body: no schema where the model knows none");
}

static void
test_messages(void)
{
	LlmbRequest request = request_to(&budget_model, NULL);

	request.system = "not this";
	request.messages = "[{\"role\":\"system\",\"content\":\"A\"},{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"B\"}]},\r\n"
		"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"C\"},{\"type\":\"image_url\",\"image_url\":"
		"{\"url\":\"data:image/png;base64,QUJD\"}}]},{\"role\":\"assistant\",\"content\":\"D\"},"
		"{\"role\":\"user\",\"parts\":[{\"text\":\"E\"},{\"fileData\":{\"fileUri\":\"u\"}}]}]";
	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\",\"systemInstruction\":{\"parts\":[{\"text\":\"A\"},{\"text\":\"B\"}]},"
			"\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"C\"},{\"inlineData\":{\"mimeType\":\"image/png\",\"data\":\"QUJD\"}}]},"
			"{\"role\":\"model\",\"parts\":[{\"text\":\"D\"}]},"
			"{\"role\":\"user\",\"parts\":[{\"text\":\"E\"},{\"fileData\":{\"fileUri\":\"u\"}}]}]}", "gemini messages: mapped");
	request.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://h/p.png\"}}]}]";
	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\",\"contents\":[{\"role\":\"user\",\"parts\":[{\"type\":\"image_url\","
			"\"image_url\":{\"url\":\"https://h/p.png\"}}]}]}", "gemini messages: what is not known is not left out");
	request.schema = "{}";
	request.messages = "[{\"role\":\"system\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"B\"}]";
	body_is(&request, "{\"model\":\"models/gemini-2.5-flash\",\"systemInstruction\":{\"parts\":[{\"text\":\"A\"}]},"
			"\"generationConfig\":{\"responseMimeType\":\"application/json\",\"responseJsonSchema\":{}}," CONTENTS("B"),
			"gemini messages: with a schema");
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

static LlmbBatchRef
batch_ref(void)
{
	LlmbBatchRef ref = {0};

	ref.model = &budget_model;
	ref.dialect = &plain_dialect;
	ref.base_url = "https://generativelanguage.googleapis.com";
	ref.token = "t0k_1";
	ref.remote_id = "batches/o6k1";
	ref.remote_input = "files/9ipl31k7go00";
	ref.remote_output = "files/batch-o6k1";
	ref.file_bytes = 1234;
	return ref;
}

static void
call_is(LlmbVerb verb, const LlmbBatchRef *ref, const char *method, const char *path, const char *body)
{
	LlmbCall	call;
	bool		made = P->make_call(verb, ref, "key-1", &call);

	ok(made && strcmp(call.method, method) == 0 && strcmp(call.path, path) == 0 &&
	   has_header(&call, "x-goog-api-key: key-1"), "gemini call: %s %s", method, path);
	is_text(made && call.body ? call.body->data : NULL, body, "gemini call: its body");
}

static void
test_calls(void)
{
	static const char *const evil[] = {
		"", "files/", "files/..", "files/a/b", "files/a?b", "files/a:b", "batches/a\r\nX: y", "batches/%2e", "o6k1", "models/x"
	};
	static const LlmbVerb by_id[] = {
		LLMB_CALL_CREATE, LLMB_CALL_POLL, LLMB_CALL_CANCEL, LLMB_CALL_FETCH, LLMB_CALL_DELETE_FILE
	};
	LlmbBatchRef ref = batch_ref();
	LlmbDialect dialect = plain_dialect;
	LlmbCall	call;
	bool		none = true;
	int			i;
	int			k;

	call_is(LLMB_CALL_POLL, &ref, "GET", "/v1beta/batches/o6k1", NULL);
	call_is(LLMB_CALL_CANCEL, &ref, "POST", "/v1beta/batches/o6k1:cancel", "{}");
	call_is(LLMB_CALL_FETCH, &ref, "GET", "/download/v1beta/files/batch-o6k1:download?alt=media", NULL);
	call_is(LLMB_CALL_DELETE_FILE, &ref, "DELETE", "/v1beta/files/9ipl31k7go00", NULL);
	call_is(LLMB_CALL_CHECK, &ref, "GET", "/v1beta/models?pageSize=1000", NULL);
	call_is(LLMB_CALL_ANSWER, &ref, "POST", "/v1beta/models/gemini-2.5-flash:generateContent", NULL);
	call_is(LLMB_CALL_CREATE, &ref, "POST", "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
			"{\"batch\":{\"model\":\"models/gemini-2.5-flash\",\"displayName\":\"t0k_1\",\"inputConfig\":"
			"{\"fileName\":\"files/9ipl31k7go00\"}}}");
	call_is(LLMB_CALL_LIST, &ref, "GET", "/v1beta/batches?pageSize=100", NULL);
	ref.cursor = "Cg1h+/=&x";
	call_is(LLMB_CALL_LIST, &ref, "GET", "/v1beta/batches?pageSize=100&pageToken=Cg1h%2B%2F%3D%26x", NULL);
	call_is(LLMB_CALL_FIND_FILE, &ref, "GET", "/v1beta/files?pageSize=100&pageToken=Cg1h%2B%2F%3D%26x", NULL);

	(void) P->make_call(LLMB_CALL_FETCH, &ref, "key-1", &call);
	ok(call.reply_is_lines, "gemini fetch: a file is lines");
	ref.remote_output = "inline";
	call_is(LLMB_CALL_FETCH, &ref, "GET", "/v1beta/batches/o6k1", NULL);
	(void) P->make_call(LLMB_CALL_FETCH, &ref, "key-1", &call);
	ok(!call.reply_is_lines, "gemini fetch: an operation is not");
	ref.part = 1;
	ok(!P->make_call(LLMB_CALL_FETCH, &ref, "key-1", &call), "gemini fetch: there is no second file");

	ref = batch_ref();
	ref.dialect = &dialect;
	dialect.api_version = "v1";
	call_is(LLMB_CALL_POLL, &ref, "GET", "/v1/batches/o6k1", NULL);
	dialect.api_version = "v1/../x";
	ok(!P->make_call(LLMB_CALL_POLL, &ref, "key-1", &call), "gemini call: a version that is none");

	for (i = 0; i < (int) lengthof(evil); i++)
	{
		ref = batch_ref();
		ref.remote_id = ref.remote_input = ref.remote_output = evil[i];
		for (k = 0; k < (int) lengthof(by_id); k++)
			none &= !P->make_call(by_id[k], &ref, "key-1", &call);
	}
	ok(none, "gemini call: no id enters a path that is none");
}

static void
test_models_in_paths(void)
{
	static const char *const evil[] = {
		"", "..", ".x", "a/b", "a:b", "a?b", "a b", "a\nb", "models/", "models/..", "tunedModels/a/b", "a%2fb", "caf\xC3\xA9"
	};
	LlmbModel	model = budget_model;
	LlmbBatchRef ref = batch_ref();
	LlmbCall	call;
	bool		none = true;
	int			i;

	ref.model = &model;
	for (i = 0; i < (int) lengthof(evil); i++)
	{
		model.name = evil[i];
		none &= !P->make_call(LLMB_CALL_ANSWER, &ref, "key-1", &call) &&
			!P->make_call(LLMB_CALL_CREATE, &ref, "key-1", &call);
	}
	ok(none, "gemini model: none enters a path that is no name");
	model.name = "models/gemini-2.5-flash";
	call_is(LLMB_CALL_ANSWER, &ref, "POST", "/v1beta/models/gemini-2.5-flash:generateContent", NULL);
	model.name = "tunedModels/mine-1";
	call_is(LLMB_CALL_ANSWER, &ref, "POST", "/v1beta/tunedModels/mine-1:generateContent", NULL);
}

static void
upload_to(const char *base_url, const char *upload_url, const char *path)
{
	LlmbBatchRef ref = batch_ref();
	LlmbCall	call;
	bool		made;

	ref.base_url = base_url;
	ref.upload_url = upload_url;
	made = P->make_call(LLMB_CALL_UPLOAD_DATA, &ref, "key-1", &call);
	is_text(made ? call.path : NULL, path, psprintf("gemini upload to %s", upload_url ? upload_url : "nowhere"));
}

static void
test_upload(void)
{
	static const char google[] = "https://generativelanguage.googleapis.com";
	LlmbBatchRef ref = batch_ref();
	LlmbCall	call;

	call_is(LLMB_CALL_UPLOAD, &ref, "POST", "/upload/v1beta/files", "{\"file\":{\"displayName\":\"t0k_1\"}}");
	(void) P->make_call(LLMB_CALL_UPLOAD, &ref, "key-1", &call);
	ok(!call.with_file && has_header(&call, "X-Goog-Upload-Protocol: resumable") &&
	   has_header(&call, "X-Goog-Upload-Command: start") &&
	   has_header(&call, "X-Goog-Upload-Header-Content-Length: 1234") &&
	   has_header(&call, "X-Goog-Upload-Header-Content-Type: application/jsonl"), "gemini upload: begun");

	ref.upload_url = "https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id=A-b_c&upload_protocol=resumable";
	call_is(LLMB_CALL_UPLOAD_DATA, &ref, "POST", "/upload/v1beta/files?upload_id=A-b_c&upload_protocol=resumable", NULL);
	(void) P->make_call(LLMB_CALL_UPLOAD_DATA, &ref, "key-1", &call);
	ok(call.with_file && call.after_file == NULL && has_header(&call, "X-Goog-Upload-Offset: 0") &&
	   has_header(&call, "X-Goog-Upload-Command: upload, finalize"), "gemini upload: in one part");

	upload_to(google, "https://GenerativeLanguage.googleapis.com:443/u?x=1", "/u?x=1");
	upload_to("http://127.0.0.1:8080", "http://127.0.0.1:8080/u", "/u");
	upload_to("http://[::1]:8080", "http://[::1]:8080/u", "/u");
	upload_to("https://gateway/gemini", "https://gateway/gemini/u", "/u");
	upload_to(google, NULL, NULL);
	upload_to(google, "https://generativelanguage.googleapis.com", NULL);
	upload_to(google, "https://evil.example/u", NULL);
	upload_to(google, "http://generativelanguage.googleapis.com/u", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com.evil.example/u", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com@evil.example/u", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com:8443/u", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com:/u", NULL);
	upload_to(google, "https://user@generativelanguage.googleapis.com/u", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com/a b", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com/a\r\nX: y", NULL);
	upload_to(google, "https://generativelanguage.googleapis.com/u/../x", NULL);
	upload_to(google, "/upload", NULL);
	upload_to(google, "", NULL);
	upload_to("https://gateway/gemini", "https://gateway/geminis/u", NULL);
	upload_to("https://gateway/gemini", "https://gateway/other/u", NULL);
	upload_to("http://127.0.0.1:8080", "http://127.0.0.1:8081/u", NULL);
	upload_to("https://127.0.0.1:8080", "http://127.0.0.1:8080/u", NULL);
	upload_to("http://127.0.0.1:8080", "http://127.0.0.2:8080/u", NULL);
}

/*
 * Replies
 */

static LlmbReply
reply_to(LlmbVerb verb, int status, const char *body)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbReply	reply;

	P->read_reply(verb, &http, &reply);
	return reply;
}

#define ERROR(code, status, message) "{\"error\":{\"code\":" code ",\"message\":\"" message "\",\"status\":\"" status "\"}}"
#define EXHAUSTED(quota) "{\"error\":{\"code\":429,\"message\":\"You exceeded your current quota.\",\"status\":" \
	"\"RESOURCE_EXHAUSTED\",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.QuotaFailure\",\"violations\":" \
	"[{\"quotaId\":\"GenerateRequests" quota "PerProjectPerModel\"}]}," \
	"{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"34.5s\"}]}}"
#define BAD_KEY "{\"error\":{\"code\":400,\"message\":\"API key not valid.\",\"status\":\"INVALID_ARGUMENT\",\"details\":" \
	"[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":\"API_KEY_INVALID\",\"domain\":\"googleapis.com\"}]}}"
#define NO_FILE ERROR("403", "PERMISSION_DENIED", "You do not have permission to access the File x or it may not exist.")

static void
fault_is(LlmbVerb verb, int status, const char *body, LlmbFault fault, const char *code)
{
	LlmbReply	reply = reply_to(verb, status, body);

	ok(reply.fault == fault, "gemini fault: %d to call %d, %s", status, verb, code ? code : "no code");
	if (reply.fault != fault)
		printf("# got %d, expected %d\n", reply.fault, fault);
	is_text(reply.code, code, "gemini fault: its code");
}

static void
test_faults(void)
{
	LlmbReply	reply;

	fault_is(LLMB_CALL_CREATE, 429, EXHAUSTED("PerMinute"), LLMB_FAULT_QUEUE_FULL, "RESOURCE_EXHAUSTED");
	fault_is(LLMB_CALL_CREATE, 429, EXHAUSTED("PerDay"), LLMB_FAULT_QUOTA, "RESOURCE_EXHAUSTED");
	fault_is(LLMB_CALL_CREATE, 429, ERROR("429", "RESOURCE_EXHAUSTED", "m"), LLMB_FAULT_QUEUE_FULL, "RESOURCE_EXHAUSTED");
	fault_is(LLMB_CALL_POLL, 429, EXHAUSTED("PerDay"), LLMB_FAULT_RETRY, "RESOURCE_EXHAUSTED");
	fault_is(LLMB_CALL_CREATE, 400, BAD_KEY, LLMB_FAULT_KEY, "API_KEY_INVALID");
	fault_is(LLMB_CALL_CHECK, 400, BAD_KEY, LLMB_FAULT_KEY, "API_KEY_INVALID");
	fault_is(LLMB_CALL_CREATE, 401, ERROR("401", "UNAUTHENTICATED", "m"), LLMB_FAULT_KEY, "UNAUTHENTICATED");
	fault_is(LLMB_CALL_CREATE, 403, ERROR("403", "PERMISSION_DENIED", "m"), LLMB_FAULT_KEY, "PERMISSION_DENIED");
	fault_is(LLMB_CALL_CREATE, 403, NO_FILE, LLMB_FAULT_GONE, "PERMISSION_DENIED");
	fault_is(LLMB_CALL_FETCH, 403, NO_FILE, LLMB_FAULT_GONE, "PERMISSION_DENIED");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("400", "FAILED_PRECONDITION", "m"), LLMB_FAULT_QUOTA, "FAILED_PRECONDITION");
	fault_is(LLMB_CALL_CREATE, 402, "", LLMB_FAULT_QUOTA, "FAILED_PRECONDITION");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("400", "INVALID_ARGUMENT", "m"), LLMB_FAULT_REQUEST, "INVALID_ARGUMENT");
	fault_is(LLMB_CALL_CREATE, 404, ERROR("404", "NOT_FOUND", "models/x is not found"), LLMB_FAULT_REQUEST, "NOT_FOUND");
	fault_is(LLMB_CALL_CREATE, 404, ERROR("404", "NOT_FOUND", "m"), LLMB_FAULT_GONE, "NOT_FOUND");
	fault_is(LLMB_CALL_POLL, 404, ERROR("404", "NOT_FOUND", "m"), LLMB_FAULT_GONE, "NOT_FOUND");
	fault_is(LLMB_CALL_LIST, 404, "", LLMB_FAULT_REQUEST, "NOT_FOUND");
	fault_is(LLMB_CALL_UPLOAD_DATA, 404, "", LLMB_FAULT_RETRY, "NOT_FOUND");
	fault_is(LLMB_CALL_UPLOAD, 413, "", LLMB_FAULT_TOO_LARGE, "INVALID_ARGUMENT");
	fault_is(LLMB_CALL_CREATE, 499, "", LLMB_FAULT_RETRY, "CANCELLED");
	fault_is(LLMB_CALL_POLL, 500, ERROR("500", "INTERNAL", "m"), LLMB_FAULT_RETRY, "INTERNAL");
	fault_is(LLMB_CALL_POLL, 503, ERROR("503", "UNAVAILABLE", "m"), LLMB_FAULT_RETRY, "UNAVAILABLE");
	fault_is(LLMB_CALL_POLL, 504, "<html>", LLMB_FAULT_RETRY, "DEADLINE_EXCEEDED");
	fault_is(LLMB_CALL_POLL, 418, "", LLMB_FAULT_REQUEST, NULL);
	fault_is(LLMB_CALL_POLL, 302, "", LLMB_FAULT_RETRY, NULL);

	reply = reply_to(LLMB_CALL_CREATE, 429, EXHAUSTED("PerMinute"));
	is_int(reply.retry_after_ms, 34500, "gemini fault: when to come back");
	is_text(reply.message, "You exceeded your current quota.", "gemini fault: its words");
	reply = reply_to(LLMB_CALL_POLL, 400, "[" ERROR("400", "INVALID_ARGUMENT", "m") "]");
	is_text(reply.message, "m", "gemini fault: in an array");

	/* what is not understood */
	fault_is(LLMB_CALL_POLL, 200, "{}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_POLL, 200, "{\"name\":\"batches/x\"}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_POLL, 200, "{\"name\":\"x\",\"metadata\":{}}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_LIST, 200, "[]", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_LIST, 200, "{\"operations\":[{}]}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_LIST, 200, "{\"operations\":{}}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_UPLOAD, 200, "", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_UPLOAD_DATA, 200, "{\"file\":{\"name\":\"x\"}}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_CHECK, 200, "{}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_FETCH, 200, "{}", LLMB_FAULT_RETRY, NULL);
	reply = reply_to(LLMB_CALL_CREATE, 200, "{\"na");
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id == NULL, "gemini create: an answer that cannot be read");
}

#define OPERATION(state, stats, more) "{\"name\":\"batches/o6k1\",\"metadata\":{\"@type\":\"type.googleapis.com/x\"," \
	"\"displayName\":\"t0k_1\",\"inputConfig\":{\"fileName\":\"files/in\"},\"createTime\":\"2026-07-02T14:40:59.019821594Z\"," \
	"\"batchStats\":{" stats "},\"state\":\"" state "\"}" more "}"
#define OUTPUT ",\"done\":true,\"response\":{\"responsesFile\":\"files/batch-o6k1\"}"

static LlmbRemoteBatch
batch_of(const char *body, const char *what)
{
	LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, body);

	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id != NULL && strcmp(reply.batch.id, "batches/o6k1") == 0, "%s", what);
	return reply.batch;
}

static void
test_states(void)
{
	static const struct
	{
		const char *name;
		LlmbRemoteState state;
	}			states[] =
	{
		{"PENDING", LLMB_REMOTE_RUNNING},
		{"QUEUED", LLMB_REMOTE_RUNNING},
		{"RUNNING", LLMB_REMOTE_RUNNING},
		{"PAUSED", LLMB_REMOTE_RUNNING},
		{"UPDATING", LLMB_REMOTE_RUNNING},
		{"CANCELLING", LLMB_REMOTE_CANCELLING},
		{"SUCCEEDED", LLMB_REMOTE_ENDED},
		{"PARTIALLY_SUCCEEDED", LLMB_REMOTE_ENDED},
		{"FAILED", LLMB_REMOTE_ENDED},	/* for a reason that is not told */
		{"CANCELLED", LLMB_REMOTE_CANCELLED},
		{"EXPIRED", LLMB_REMOTE_EXPIRED},
		{"LEVITATING", LLMB_REMOTE_UNKNOWN},
		{"UNSPECIFIED", LLMB_REMOTE_UNKNOWN},
	};
	static const char *const prefixes[] = {"BATCH_STATE_", "JOB_STATE_", ""};
	int			i;
	int			k;

	for (i = 0; i < (int) lengthof(states); i++)
	{
		for (k = 0; k < (int) lengthof(prefixes); k++)
		{
			char	   *body = psprintf("{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"%s%s\"}}", prefixes[k], states[i].name);
			LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, body);

			ok(reply.batch.id != NULL && reply.batch.state == states[i].state, "gemini state: %s%s", prefixes[k], states[i].name);
		}
	}
}

static void
test_batches(void)
{
	LlmbRemoteBatch batch;

	batch = batch_of(OPERATION("BATCH_STATE_PENDING", "\"requestCount\":\"4\",\"pendingRequestCount\":\"4\"", ""), "gemini batch: pending");
	ok(batch.total == 4 && batch.done == 0 && batch.failed == 0, "gemini batch: counts that do not come are zero");
	is_text(batch.token, "t0k_1", "gemini batch: our token");
	is_text(batch.input, "files/in", "gemini batch: its input");
	is_int(batch.created_s, 1783003259, "gemini batch: when it was created");
	batch = batch_of("{\"name\":\"batches/o6k1\",\"metadata\":{}}", "gemini batch: of which nothing is told");
	ok(batch.total == -1 && batch.done == -1 && batch.failed == -1 && batch.state == LLMB_REMOTE_UNKNOWN, "gemini batch: unknown is not zero");

	batch = batch_of(OPERATION("BATCH_STATE_SUCCEEDED", "\"requestCount\":\"4\",\"successfulRequestCount\":\"3\",\"failedRequestCount\":1", OUTPUT), "gemini batch: succeeded");
	is_text(batch.output, "files/batch-o6k1", "gemini batch: its result file");
	ok(batch.done == 3 && batch.failed == 1, "gemini batch: counts are strings, or numbers");
	batch = batch_of(OPERATION("X", "", ",\"done\":true,\"response\":{\"output\":{\"responsesFile\":\"files/w\"}}"), "gemini batch: wrapped");
	is_text(batch.output, "files/w", "gemini batch: a wrapped result file");
	is_int(batch.state, LLMB_REMOTE_ENDED, "gemini batch: done, whatever its state is");
	batch = batch_of(OPERATION("RUNNING", "", OUTPUT), "gemini batch: done, though it is said to run");
	is_int(batch.state, LLMB_REMOTE_ENDED, "gemini batch: done is done");
	batch = batch_of(OPERATION("BATCH_STATE_CANCELLING", "", ",\"done\":true,\"error\":{\"code\":1}"), "gemini batch: done, though it is being cancelled");
	is_int(batch.state, LLMB_REMOTE_CANCELLED, "gemini batch: cancelled by now");
	batch = batch_of("{\"name\":\"batches/o6k1\",\"metadata\":{\"output\":{\"responsesFile\":\"files/m\"}}}", "gemini batch: output in the metadata");
	is_text(batch.output, "files/m", "gemini batch: its file");
	fault_is(LLMB_CALL_POLL, 200, OPERATION("SUCCEEDED", "", ",\"response\":{\"responsesFile\":\"../x\"}"), LLMB_FAULT_RETRY, NULL);

	batch = batch_of(OPERATION("EXPIRED", "\"requestCount\":\"4\",\"successfulRequestCount\":\"3\"", ",\"done\":true"), "gemini batch: expired");
	ok(batch.state == LLMB_REMOTE_EXPIRED && batch.total == 4 && batch.done == 0 && batch.failed == 0, "gemini batch: delivers nothing");
	batch = batch_of(OPERATION("CANCELLED", "\"successfulRequestCount\":\"3\"", ",\"done\":true,\"error\":{\"code\":1,\"message\":\"m\"}"), "gemini batch: cancelled");
	ok(batch.state == LLMB_REMOTE_CANCELLED && batch.done == 0 && batch.output == NULL, "gemini batch: without results");
	batch = batch_of(OPERATION("CANCELLED", "\"successfulRequestCount\":\"3\"", OUTPUT), "gemini batch: cancelled with results");
	ok(batch.state == LLMB_REMOTE_CANCELLED && batch.done == 3 && batch.output != NULL, "gemini batch: which count");
	batch = batch_of(OPERATION("NEW_WORD", "", ",\"done\":true,\"error\":{\"code\":1}"), "gemini batch: done, cancelled");
	is_int(batch.state, LLMB_REMOTE_CANCELLED, "gemini batch: by its error");
}

static void
failed_is(const char *error, LlmbRemoteState state, LlmbFault fault, const char *code)
{
	char	   *body = psprintf("{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"BATCH_STATE_FAILED\"},\"done\":true,\"error\":%s}", error);
	LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, body);

	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.state == state && reply.batch.fault == fault, "gemini failed: %s", error);
	is_text(reply.code, code, "gemini failed: its code");
}

static void
test_failed(void)
{
	LlmbRemoteBatch batch;

	failed_is("{\"code\":3,\"message\":\"m\"}", LLMB_REMOTE_FAILED, LLMB_FAULT_REQUEST, "INVALID_ARGUMENT");
	failed_is("{\"code\":5}", LLMB_REMOTE_FAILED, LLMB_FAULT_REQUEST, "NOT_FOUND");
	failed_is("{\"code\":7}", LLMB_REMOTE_FAILED, LLMB_FAULT_KEY, "PERMISSION_DENIED");
	failed_is("{\"code\":8}", LLMB_REMOTE_FAILED, LLMB_FAULT_QUEUE_FULL, "RESOURCE_EXHAUSTED");
	failed_is("{\"code\":9}", LLMB_REMOTE_FAILED, LLMB_FAULT_QUOTA, "FAILED_PRECONDITION");
	failed_is("{\"code\":13}", LLMB_REMOTE_ENDED, LLMB_FAULT_NONE, "INTERNAL");
	failed_is("{\"code\":14}", LLMB_REMOTE_ENDED, LLMB_FAULT_NONE, "UNAVAILABLE");
	failed_is("{\"code\":4}", LLMB_REMOTE_ENDED, LLMB_FAULT_NONE, "DEADLINE_EXCEEDED");
	failed_is("{}", LLMB_REMOTE_ENDED, LLMB_FAULT_NONE, NULL);
	batch = batch_of(OPERATION("BATCH_STATE_FAILED", "\"successfulRequestCount\":\"2\"", OUTPUT), "gemini failed: with results");
	ok(batch.state == LLMB_REMOTE_ENDED && batch.done == 2 && batch.output != NULL, "gemini failed: which are taken");
}

static void
test_listing(void)
{
	LlmbReply	reply = reply_to(LLMB_CALL_LIST, 200, "{\"operations\":[" OPERATION("BATCH_STATE_RUNNING", "", "") ","
								 OPERATION("BATCH_STATE_SUCCEEDED", "", OUTPUT) "],\"nextPageToken\":\"Cg1h+/=\"}");
	char	   *cursor;

	ok(reply.fault == LLMB_FAULT_NONE && reply.listed_count == 2, "gemini list: two batches");
	is_text(reply.listed[1].token, "t0k_1", "gemini list: token");
	is_int(reply.listed[0].created_s, 0, "gemini list: in no order, so no times");
	is_text(reply.next_cursor, "Cg1h+/=", "gemini list: the next page");
	reply = reply_to(LLMB_CALL_LIST, 200, "{}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.listed_count == 0 && reply.next_cursor == NULL, "gemini list: empty");
	cursor = psprintf("{\"nextPageToken\":\"%01030d\"}", 7);
	reply = reply_to(LLMB_CALL_LIST, 200, cursor);
	is_int(reply.fault, LLMB_FAULT_RETRY, "gemini list: a page token that is too long to be sent");
	reply = reply_to(LLMB_CALL_CANCEL, 200, "{}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id == NULL, "gemini cancel: tells nothing");
	reply = reply_to(LLMB_CALL_UPLOAD_DATA, 200, "{\"file\":{\"name\":\"files/abc\",\"state\":\"ACTIVE\"}}");
	is_text(reply.file_id, "files/abc", "gemini upload: the file's name");
	reply = reply_to(LLMB_CALL_CHECK, 200, "{\"models\":[{},{}]}");
	is_int(reply.models, 2, "gemini check: models");
}

static void
test_files(void)
{
	/* discovery document, File and ListFilesResponse: 64-bit integers are strings */
	LlmbReply	reply = reply_to(LLMB_CALL_FIND_FILE, 200, "{\"files\":["
								 "{\"name\":\"files/9ipl31k7go00\",\"displayName\":\"t0k_1\",\"mimeType\":\"application/jsonl\","
								 "\"sizeBytes\":\"1234\",\"createTime\":\"2026-08-02T17:47:08.039741Z\",\"state\":\"ACTIVE\"},"
								 "{\"name\":\"files/abc\",\"displayName\":\"my file.pdf\",\"sizeBytes\":\"1\",\"state\":\"PROCESSING\"},"
								 "{\"name\":\"files/def\",\"displayName\":\"t0k_1\",\"state\":\"FAILED\"},"
								 "{\"name\":\"batches/abc\"},7],\"nextPageToken\":\"Cg1h+/=\"}");

	ok(reply.fault == LLMB_FAULT_NONE && reply.file_count == 3, "gemini files: what is not understood is passed over");
	is_text(reply.files[0].id, "files/9ipl31k7go00", "gemini files: name");
	is_text(reply.files[0].token, "t0k_1", "gemini files: token");
	ok(reply.files[0].bytes == 1234 && reply.files[0].created_s == 0 && reply.files[0].state == LLMB_FILE_READY,
	   "gemini files: length and state; in no order, so no times");
	ok(reply.files[1].token == NULL && reply.files[1].state == LLMB_FILE_PENDING, "gemini files: somebody else's, not ready");
	ok(reply.files[2].bytes == -1 && reply.files[2].state == LLMB_FILE_BROKEN, "gemini files: broken");
	is_text(reply.next_cursor, "Cg1h+/=", "gemini files: the next page");
	reply = reply_to(LLMB_CALL_FIND_FILE, 200, "{}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.file_count == 0 && reply.next_cursor == NULL, "gemini files: none");
	fault_is(LLMB_CALL_FIND_FILE, 200, "{\"files\":{}}", LLMB_FAULT_RETRY, NULL);
	fault_is(LLMB_CALL_FIND_FILE, 404, "", LLMB_FAULT_REQUEST, "NOT_FOUND");
	fault_is(LLMB_CALL_FIND_FILE, 503, "", LLMB_FAULT_RETRY, "UNAVAILABLE");
}

static void
test_upload_url(void)
{
	LlmbHttpReply http = http_reply(200, "");
	LlmbReply	reply;

	http.headers = "x-goog-upload-url: https://h/u?x=1\nx-other: y\n";
	P->read_reply(LLMB_CALL_UPLOAD, &http, &reply);
	ok(reply.fault == LLMB_FAULT_NONE && reply.file_id == NULL, "gemini upload: told where to");
	is_text(reply.upload_url, "https://h/u?x=1", "gemini upload: the address");
}

/*
 * Results
 */

static bool
read_text(const char *text, LlmbOutcome *outcome)
{
	char	   *copy = pstrdup(text);

	return P->read_line(copy, strlen(copy), outcome);
}

#define LINE(response) "{\"key\":\"tok-7\",\"response\":" response "}"
#define CANDIDATE(content, finish) LINE("{\"candidates\":[{\"content\":" content ",\"finishReason\":\"" finish "\",\"index\":0}]," \
	"\"usageMetadata\":{\"promptTokenCount\":20,\"candidatesTokenCount\":8,\"thoughtsTokenCount\":62,\"totalTokenCount\":95," \
	"\"cachedContentTokenCount\":5,\"toolUsePromptTokenCount\":3},\"modelVersion\":\"gemini-3.5-flash\",\"responseId\":\"r-1\"}")
#define TEXT(text) "{\"parts\":[{\"text\":\"" text "\",\"thoughtSignature\":\"Epg=\"}],\"role\":\"model\"}"
#define LINE_ERROR(error) "{\"key\":\"tok-7\",\"error\":" error "}"

static void
code_is(const char *line, LlmbCode code, bool retryable, const char *what)
{
	LlmbOutcome outcome;
	bool		read = read_text(line, &outcome);

	ok(read && outcome.code == code && outcome.retryable == retryable &&
	   strcmp(outcome.custom_id, "tok-7") == 0 && (code == LLMB_OK) == (outcome.error == NULL), "gemini line: %s", what);
	if (read && (outcome.code != code || outcome.retryable != retryable))
		printf("# got %s, %d\n", outcome.code ? llmb_code_name(outcome.code) : "ok", outcome.retryable);
}

static void
test_line_errors(void)
{
	LlmbOutcome outcome;

	code_is(LINE_ERROR("{\"code\":3,\"message\":\"m\"}"), LLMB_INVALID_REQUEST, false, "3");
	code_is(LINE_ERROR("{\"code\":3,\"message\":\"The input token count (9) exceeds the maximum\"}"), LLMB_TOO_LARGE, false, "3 for its length");
	code_is(LINE_ERROR("{\"code\":1}"), LLMB_CANCELLED_ITEM, false, "1");
	code_is(LINE_ERROR("{\"code\":4}"), LLMB_TIMEOUT, true, "4");
	code_is(LINE_ERROR("{\"code\":5}"), LLMB_INVALID_REQUEST, false, "5");
	code_is(LINE_ERROR("{\"code\":7}"), LLMB_AUTH, false, "7");
	code_is(LINE_ERROR("{\"code\":8}"), LLMB_RATE_LIMITED, true, "8");
	code_is(LINE_ERROR("{\"code\":9}"), LLMB_INVALID_REQUEST, false, "9");
	code_is(LINE_ERROR("{\"code\":13}"), LLMB_PROVIDER_ERROR, true, "13");
	code_is(LINE_ERROR("{\"code\":14}"), LLMB_PROVIDER_ERROR, true, "14");
	code_is(LINE_ERROR("{\"code\":16}"), LLMB_AUTH, false, "16");
	code_is(LINE_ERROR("{\"code\":99}"), LLMB_PROVIDER_ERROR, true, "a number that is none");
	code_is(LINE_ERROR("{\"code\":429}"), LLMB_RATE_LIMITED, true, "a status for a number");
	code_is(LINE_ERROR("{\"code\":\"3\"}"), LLMB_INVALID_REQUEST, false, "a number in a string");
	code_is(LINE_ERROR("{\"status\":\"UNAVAILABLE\"}"), LLMB_PROVIDER_ERROR, true, "a name alone");
	code_is(LINE_ERROR("{}"), LLMB_PROVIDER_ERROR, true, "an empty error");
	code_is(LINE("null"), LLMB_PROVIDER_ERROR, true, "neither response nor error");
	code_is(LINE("{}"), LLMB_PROVIDER_ERROR, true, "an empty response");
	(void) read_text(LINE_ERROR("{\"code\":3,\"message\":\"words\"}"), &outcome);
	is_text(outcome.error, "words", "gemini line: an error's words");
	ok(outcome.input_tokens == -1 && outcome.output_tokens == -1, "gemini line: nothing used");
	ok(!read_text("", &outcome) && !read_text("[]", &outcome) && !read_text("{\"key\":7}", &outcome) &&
	   !read_text("{\"key\":\"\"}", &outcome) && !read_text("{\"response\":{}}", &outcome) &&
	   !read_text("{\"key\":\"tok-7\",\"respon", &outcome), "gemini line: what is no item's");
}

static void
test_finishes(void)
{
	static const char *const refused[] = {
		CANDIDATE("{}", "SAFETY"), CANDIDATE("{}", "RECITATION"), CANDIDATE(TEXT("x"), "BLOCKLIST"),
		CANDIDATE("{}", "PROHIBITED_CONTENT"), CANDIDATE("{}", "SPII"), CANDIDATE("{}", "LANGUAGE"),
		CANDIDATE("{}", "IMAGE_SAFETY"), CANDIDATE("{}", "IMAGE_OTHER")
	};
	static const char *const odd[] = {
		CANDIDATE("{}", "MALFORMED_FUNCTION_CALL"), CANDIDATE("{}", "UNEXPECTED_TOOL_CALL"), CANDIDATE(TEXT("x"), "OTHER"),
		CANDIDATE("{}", "MISSING_THOUGHT_SIGNATURE"), CANDIDATE(TEXT("x"), "A_NEW_REASON"), CANDIDATE("{}", "STOP"),
		CANDIDATE("{\"parts\":[{\"text\":\"t\",\"thought\":true}]}", "STOP"), CANDIDATE("{\"parts\":[{\"functionCall\":{}}]}", "STOP")
	};
	LlmbOutcome outcome;
	int			i;

	for (i = 0; i < (int) lengthof(refused); i++)
		code_is(refused[i], LLMB_REFUSED, false, psprintf("refused, %d", i));
	for (i = 0; i < (int) lengthof(odd); i++)
		code_is(odd[i], LLMB_PROVIDER_ERROR, true, psprintf("without an answer, %d", i));
	code_is(CANDIDATE(TEXT(""), "STOP"), LLMB_OK, false, "an empty answer is one");
	code_is(LINE("{\"candidates\":[{\"content\":" TEXT("x") "}]}"), LLMB_OK, false, "no finish reason");

	(void) read_text(CANDIDATE("{\"role\":\"model\"}", "MAX_TOKENS"), &outcome);
	ok(outcome.code == LLMB_TRUNCATED && outcome.answer == NULL && outcome.output_tokens == 70, "gemini line: thinking ate the budget");
	(void) read_text(CANDIDATE(TEXT("ab"), "MAX_TOKENS"), &outcome);
	ok(outcome.code == LLMB_TRUNCATED && !outcome.retryable, "gemini line: truncated");
	is_text(outcome.answer, "ab", "gemini line: what there is is kept");

	(void) read_text(LINE("{\"promptFeedback\":{\"blockReason\":\"PROHIBITED_CONTENT\"},\"usageMetadata\":{\"promptTokenCount\":22,"
						  "\"totalTokenCount\":22},\"modelVersion\":\"m\",\"responseId\":\"r2\"}"), &outcome);
	ok(outcome.code == LLMB_REFUSED && !outcome.retryable && outcome.error != NULL, "gemini line: a blocked prompt");
	is_text(outcome.finish_reason, "PROHIBITED_CONTENT", "gemini line: and why");
	ok(outcome.input_tokens == 22 && outcome.output_tokens == 0 && outcome.cached_tokens == 0 &&
	   outcome.reasoning_tokens == 0, "gemini line: which has used its prompt");
}

static void
test_answers(void)
{
	LlmbOutcome outcome;

	ok(read_text(CANDIDATE(TEXT("Des Moines"), "STOP"), &outcome) && outcome.code == LLMB_OK, "gemini answer: read");
	is_text(outcome.custom_id, "tok-7", "gemini answer: whose it is");
	is_text(outcome.answer, "Des Moines", "gemini answer: text");
	is_text(outcome.model, "gemini-3.5-flash", "gemini answer: model");
	is_text(outcome.request_id, "r-1", "gemini answer: its id");
	is_text(outcome.finish_reason, "STOP", "gemini answer: finish reason");
	ok(outcome.input_tokens == 23 && outcome.cached_tokens == 5 && outcome.cache_write_tokens == 0 &&
	   outcome.long_write_tokens == 0 && outcome.output_tokens == 70 && outcome.reasoning_tokens == 62, "gemini answer: usage");

	(void) read_text(CANDIDATE("{\"parts\":[{\"text\":\"hm\",\"thought\":true},{\"text\":\"A\"},{\"thoughtSignature\":\"E\"},"
							   "{\"text\":\"B\",\"thought\":false},{\"text\":\"C\"}]}", "STOP"), &outcome);
	is_text(outcome.answer, "ABC", "gemini answer: parts joined, without thoughts");
	(void) read_text(CANDIDATE(TEXT("a\\u0000\\ud83d\\ude00\\ud83d"), "STOP"), &outcome);
	is_text(outcome.answer, "a\xEF\xBF\xBD\xF0\x9F\x98\x80\xEF\xBF\xBD", "gemini answer: cleaned");
	ok(outcome.altered, "gemini answer: and says so");
	(void) read_text(LINE("{\"candidates\":[{\"content\":" TEXT("x") ",\"finishReason\":\"STOP\"}],\"usageMetadata\":"
						  "{\"promptTokenCount\":9223372036854775807,\"candidatesTokenCount\":-5,\"thoughtsTokenCount\":\"7\"}}"), &outcome);
	ok(outcome.input_tokens == PG_INT32_MAX && outcome.output_tokens == 7, "gemini answer: counts that cannot be");
}

#define RESULTS "{\"inlinedResponses\":{\"inlinedResponses\":[" \
	"{\"response\":{\"candidates\":[{\"content\":" TEXT("A\\nB") ",\"finishReason\":\"STOP\"}]},\"metadata\":{\"key\":\"k-1\"}}," \
	"{\"metadata\":{\"key\":\"k-2\"},\"error\":{\"code\":3,\"message\":\"no\"}}," \
	"{\"response\":{\"candidates\":[]}},{\"response\":{},\"metadata\":{}},{\"response\":{},\"metadata\":{\"key\":7}}]}}"

static void
test_inline(void)
{
	static const char *const places[] = {
		"{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"BATCH_STATE_SUCCEEDED\"},\"done\":true,\"response\":" RESULTS "}",
		"{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"BATCH_STATE_SUCCEEDED\",\"output\":" RESULTS "},\"done\":true}",
		"{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"BATCH_STATE_SUCCEEDED\"},\"done\":true,\"response\":{\"output\":" RESULTS "}}",
		/* not nested, as the documentation of the SDK has it */
		"{\"name\":\"batches/o6k1\",\"metadata\":{\"state\":\"JOB_STATE_SUCCEEDED\"},\"done\":true,\"response\":{\"inlinedResponses\":"
		"[{\"response\":{\"candidates\":[{\"content\":" TEXT("A\\nB") ",\"finishReason\":\"STOP\"}]},\"metadata\":{\"key\":\"k-1\"}},"
		"{\"metadata\":{\"key\":\"k-2\"},\"error\":{\"code\":3,\"message\":\"no\"}}]}}",
	};
	int			i;

	for (i = 0; i < (int) lengthof(places); i++)
	{
		LlmbRemoteBatch batch = batch_of(places[i], "gemini inline: a batch");
		LlmbReply	reply = reply_to(LLMB_CALL_FETCH, 200, places[i]);
		char	   *second;
		LlmbOutcome outcome;

		is_text(batch.output, "inline", "gemini inline: where the results are");
		ok(reply.fault == LLMB_FAULT_NONE && reply.lines != NULL, "gemini inline: fetched");
		second = strchr(reply.lines->data, '\n') + 1;
		ok(second[strlen(second) - 1] == '\n' && strchr(second, '\n') == second + strlen(second) - 1, "gemini inline: two lines, those with a key");
		ok(P->read_line(pstrdup(second), strlen(second), &outcome) && outcome.code == LLMB_INVALID_REQUEST, "gemini inline: an error");
		is_text(outcome.custom_id, "k-2", "gemini inline: whose it is");
		ok(P->read_line(reply.lines->data, second - 1 - reply.lines->data, &outcome) && outcome.code == LLMB_OK, "gemini inline: an answer");
		is_text(outcome.answer, "A\nB", "gemini inline: its text");
	}
}

/*
 * In real time
 */

static LlmbReply
answer_of(int status, const char *body, LlmbOutcome *outcome)
{
	LlmbHttpReply http = http_reply(status, body);
	LlmbReply	reply;

	P->read_answer(&http, outcome, &reply);
	return reply;
}

static void
answer_is(int status, const char *body, LlmbFault fault, LlmbCode code, bool retryable)
{
	LlmbOutcome outcome;
	LlmbReply	reply = answer_of(status, body, &outcome);

	ok(reply.fault == fault && outcome.code == code && outcome.retryable == retryable && outcome.error != NULL &&
	   outcome.custom_id == NULL, "gemini real time: %d %s", status, body);
	if (reply.fault != fault || outcome.code != code)
		printf("# got fault %d, %s\n", reply.fault, outcome.code ? llmb_code_name(outcome.code) : "ok");
}

static void
test_real_time(void)
{
	LlmbOutcome outcome;
	LlmbReply	reply;

	reply = answer_of(200, "{\"candidates\":[{\"content\":" TEXT("A") ",\"finishReason\":\"STOP\"}],\"usageMetadata\":"
					  "{\"promptTokenCount\":4},\"modelVersion\":\"m\",\"responseId\":\"r\"}", &outcome);
	ok(reply.fault == LLMB_FAULT_NONE && outcome.code == LLMB_OK && outcome.input_tokens == 4 && outcome.output_tokens == 0,
	   "gemini real time: an answer");
	is_text(outcome.answer, "A", "gemini real time: its text");
	is_text(outcome.request_id, "r", "gemini real time: its id");
	reply = answer_of(429, EXHAUSTED("PerMinute"), &outcome);
	is_int(reply.retry_after_ms, 34500, "gemini real time: when to come back");
	is_text(reply.code, "RESOURCE_EXHAUSTED", "gemini real time: its code");

	answer_is(200, "{\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}", LLMB_FAULT_NONE, LLMB_REFUSED, false);
	answer_is(200, "{\"candi", LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true);
	answer_is(200, "", LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true);
	answer_is(429, EXHAUSTED("PerMinute"), LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true);
	answer_is(429, EXHAUSTED("PerDay"), LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true);
	answer_is(429, "", LLMB_FAULT_BUSY, LLMB_RATE_LIMITED, true);
	answer_is(503, ERROR("503", "UNAVAILABLE", "m"), LLMB_FAULT_BUSY, LLMB_PROVIDER_ERROR, true);
	answer_is(500, ERROR("500", "INTERNAL", "m"), LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true);
	answer_is(502, "<html>", LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true);
	answer_is(504, ERROR("504", "DEADLINE_EXCEEDED", "m"), LLMB_FAULT_RETRY, LLMB_TIMEOUT, true);
	answer_is(499, ERROR("499", "CANCELLED", "m"), LLMB_FAULT_RETRY, LLMB_PROVIDER_ERROR, true);
	answer_is(408, "", LLMB_FAULT_RETRY, LLMB_TIMEOUT, true);
	answer_is(400, BAD_KEY, LLMB_FAULT_KEY, LLMB_AUTH, false);
	answer_is(401, "", LLMB_FAULT_KEY, LLMB_AUTH, false);
	answer_is(403, ERROR("403", "PERMISSION_DENIED", "m"), LLMB_FAULT_KEY, LLMB_AUTH, false);
	answer_is(400, ERROR("400", "FAILED_PRECONDITION", "m"), LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true);
	answer_is(402, "", LLMB_FAULT_QUOTA, LLMB_RATE_LIMITED, true);
	answer_is(400, ERROR("400", "INVALID_ARGUMENT", "m"), LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false);
	answer_is(400, ERROR("400", "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"), LLMB_FAULT_REQUEST, LLMB_TOO_LARGE, false);
	answer_is(404, ERROR("404", "NOT_FOUND", "m"), LLMB_FAULT_REQUEST, LLMB_INVALID_REQUEST, false);
	answer_is(413, "", LLMB_FAULT_TOO_LARGE, LLMB_TOO_LARGE, false);
}

/*
 * Recorded traffic
 */

static void
test_recorded_job(void)
{
	size_t		len;
	char	   *text = recorded("../gemini/ellmer_state_capitals.json", &len);
	LlmbJson   *root;
	LlmbJson   *result;
	StringInfoData out;
	LlmbReply	reply;
	LlmbOutcome outcome;
	int			read = 0;

	if (text == NULL)
		return;
	root = parse(text);
	initStringInfo(&out);
	llmb_json_put_node(&out, llmb_json_get(root, "batch"));
	reply = reply_to(LLMB_CALL_POLL, 200, out.data);
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.state == LLMB_REMOTE_ENDED && reply.batch.total == 4 &&
	   reply.batch.done == 4 && reply.batch.failed == 0, "gemini recorded: a batch of July 2026");
	is_text(reply.batch.id, "batches/o6k1fq34vm2ou69wy5w72wqw56qjigbln6yy", "gemini recorded: its id");
	is_text(reply.batch.output, "files/batch-o6k1fq34vm2ou69wy5w72wqw56qjigbln6yy", "gemini recorded: its result file");
	is_text(reply.batch.token, "ellmer-1783003258", "gemini recorded: its label");
	is_int(reply.batch.created_s, 1783003259, "gemini recorded: its time");
	is_int(reply.batch.ended_ms, INT64CONST(1783003291577), "gemini recorded: when it ended");

	for (result = llmb_json_get(root, "results")->first; result != NULL; result = result->next)
	{
		resetStringInfo(&out);
		llmb_json_put_node(&out, llmb_json_get(result, "body"));
		reply = answer_of(200, out.data, &outcome);
		if (read++ == 0)
		{
			is_text(outcome.answer, "Des Moines", "gemini recorded: an answer");
			ok(outcome.input_tokens == 15 && outcome.output_tokens == 64 && outcome.reasoning_tokens == 62 &&
			   outcome.cached_tokens == 0, "gemini recorded: thoughts are output");
			is_text(outcome.request_id, "mnhGavTtJvqf_uMP4rue8Qw", "gemini recorded: its id");
		}
		ok(outcome.code == LLMB_OK && outcome.answer != NULL && !outcome.altered, "gemini recorded: answer %d", read);
	}
	is_int(read, 4, "gemini recorded: four answers");
	llmb_json_free(root);
}

/* Of Vertex AI, whose answers have the same form. */
static void
test_recorded_answers(void)
{
	size_t		len;
	char	   *text = recorded("../gemini/curator_vertex_batch_predictions.jsonl", &len);
	size_t		taken;
	ssize_t		line_len;
	StringInfoData out;
	LlmbOutcome outcome;
	int			good = 0;

	if (text == NULL)
		return;
	initStringInfo(&out);
	while (len > 0)
	{
		LlmbJson   *line;

		line_len = llmb_jsonl_next(text, len, &taken);
		if (line_len < 0)
			line_len = taken = len;
		line = parse(pnstrdup(text, line_len));
		resetStringInfo(&out);
		llmb_json_put_node(&out, llmb_json_get(line, "response"));
		(void) answer_of(200, out.data, &outcome);
		good += outcome.code == LLMB_OK && strlen(outcome.answer) > 100 && outcome.input_tokens > 0 && outcome.output_tokens > 100;
		llmb_json_free(line);
		text += taken;
		len -= taken;
	}
	is_int(good, 3, "gemini recorded: three answers of 2025");
}

/*
 * Mutations: text that was cut, changed and repeated at random.
 */

static const char *const seeds[] = {
	CANDIDATE("{\"parts\":[{\"text\":\"hm\",\"thought\":true},{\"text\":\"A\\u00e9\\ud83d\\ude00\\u0000\"},{\"text\":\"B\"}]}", "STOP"),
	LINE_ERROR("{\"code\":8,\"message\":\"m\",\"details\":[{\"retryDelay\":\"3.5s\"},{\"violations\":[{\"quotaId\":\"PerDay\"}]}]}"),
	"{\"key\":\"k\",\"promptFeedback\":{\"blockReason\":\"SAFETY\"},\"response\":{\"promptFeedback\":{\"blockReason\":\"OTHER\"}}}",
	OPERATION("BATCH_STATE_SUCCEEDED", "\"requestCount\":\"4\",\"successfulRequestCount\":\"3\"", OUTPUT),
	OPERATION("BATCH_STATE_FAILED", "", ",\"done\":true,\"error\":{\"code\":3,\"message\":\"m\"}"),
	"{\"name\":\"batches/o6k1\",\"metadata\":{\"output\":" RESULTS "},\"done\":true}",
	"{\"operations\":[" OPERATION("BATCH_STATE_RUNNING", "", "") "],\"nextPageToken\":\"Cg1h\"}",
	"{\"file\":{\"name\":\"files/abc\"},\"models\":[{}]}",
	EXHAUSTED("PerDay"),
	BAD_KEY,
};

static const char *const spices[] = {
	"\\u", "\\ud83d", "\\u0000", "\\", "\"", "{", "}", "[", "]", ",", ":", "null", "true", "\xED\xA0\x80", "\xC3", "\xFF",
	"-1", "1e999", "99999999999999999999", "[[[[[[[[[[[[[[[["
};

/* A few random changes; the result is in a buffer of exactly its size. */
static char *
mutate(uint64 *state, size_t *len)
{
	StringInfoData text;
	int			changes = 1 + next_random(state) % 4;
	char	   *result;

	initStringInfo(&text);
	appendStringInfoString(&text, seeds[next_random(state) % lengthof(seeds)]);
	while (changes-- > 0)
	{
		int			at = next_random(state) % (text.len + 1);
		char	   *tail = pnstrdup(text.data + at, text.len - at);

		switch (next_random(state) % 4)
		{
			case 0:				/* a byte */
				if (at < text.len)
					text.data[at] = (char) next_random(state);
				break;
			case 1:				/* cut */
				text.len = at;
				break;
			case 2:				/* put in */
				text.len = at;
				appendStringInfoString(&text, spices[next_random(state) % lengthof(spices)]);
				appendStringInfoString(&text, tail);
				break;
			case 3:				/* repeat */
				appendStringInfoString(&text, tail);
				break;
		}
		pfree(tail);
	}
	result = malloc(text.len + 1);
	memcpy(result, text.data, text.len);
	result[text.len] = '\0';
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
good_outcome(const LlmbOutcome *outcome)
{
	return is_utf8(outcome->answer) && is_utf8(outcome->error) && is_utf8(outcome->model) &&
		(outcome->code != LLMB_OK || (outcome->answer != NULL && outcome->error == NULL)) &&
		(outcome->code == LLMB_OK || outcome->error != NULL) &&
		outcome->input_tokens >= -1 && outcome->output_tokens >= outcome->reasoning_tokens;
}

/* Every line that was made of a reply is some item's. */
static bool
good_lines(StringInfo lines)
{
	char	   *at = lines->data;
	char	   *end;
	LlmbOutcome outcome;

	for (; (end = strchr(at, '\n')) != NULL; at = end + 1)
	{
		*end = '\0';
		if (end > at && !P->read_line(at, end - at, &outcome) && strncmp(at, "{\"key\":\"\"", 9) != 0)
			return false;
	}
	return *at == '\0';
}

static bool
good_reply(const LlmbReply *reply, LlmbVerb verb, int status)
{
	return (reply->code == NULL || strlen(reply->code) <= 64) && is_utf8(reply->message) &&
		(status == 200 || reply->fault != LLMB_FAULT_NONE) &&
		reply->retry_after_ms >= -1 && reply->retry_after_ms <= 86400000 &&
		(verb != LLMB_CALL_POLL || status != 200 || (reply->batch.id != NULL) == (reply->fault == LLMB_FAULT_NONE)) &&
		(verb != LLMB_CALL_LIST || reply->fault != LLMB_FAULT_NONE || reply->listed != NULL) &&
		(verb != LLMB_CALL_UPLOAD_DATA || reply->fault != LLMB_FAULT_NONE || reply->file_id != NULL) &&
		(reply->lines == NULL || good_lines(reply->lines));
}

static void
test_gemini_mutations(void)
{
	static const LlmbVerb verbs[] = {
		LLMB_CALL_POLL, LLMB_CALL_LIST, LLMB_CALL_FIND_FILE, LLMB_CALL_CREATE, LLMB_CALL_UPLOAD_DATA, LLMB_CALL_CHECK, LLMB_CALL_FETCH
	};
	static const int statuses[] = {200, 200, 200, 400, 404, 429, 500};
	uint64		state = 20261121;
	int			broken[3] = {0};
	int			i;

	for (i = 0; i < 60000; i++)
	{
		size_t		len;
		char	   *text = mutate(&state, &len);
		int			status = statuses[next_random(&state) % lengthof(statuses)];
		LlmbVerb	verb = verbs[next_random(&state) % lengthof(verbs)];
		LlmbHttpReply http = {status, text, len, -1, NULL};
		LlmbReply	reply;
		LlmbOutcome outcome;

		switch (i % 3)
		{
			case 0:
				broken[0] += P->read_line(text, len, &outcome) && !(outcome.custom_id != NULL && good_outcome(&outcome));
				break;
			case 1:
				P->read_reply(verb, &http, &reply);
				broken[1] += !good_reply(&reply, verb, status);
				break;
			case 2:
				P->read_answer(&http, &outcome, &reply);
				broken[2] += !good_outcome(&outcome) || (status != 200 && reply.fault == LLMB_FAULT_NONE);
				break;
		}
		free(text);
	}
	is_int(broken[0], 0, "gemini mutations: result lines");
	is_int(broken[1], 0, "gemini mutations: replies");
	is_int(broken[2], 0, "gemini mutations: answers");
}

void
test_gemini(void)
{
	test_params();
	test_requests();
	test_messages();
	test_calls();
	test_models_in_paths();
	test_upload();
	test_faults();
	test_states();
	test_batches();
	test_failed();
	test_listing();
	test_files();
	test_upload_url();
	test_line_errors();
	test_finishes();
	test_answers();
	test_inline();
	test_real_time();
	test_recorded_job();
	test_recorded_answers();
	test_gemini_mutations();
}
