/*-------------------------------------------------------------------------
 *
 * test_openai.c
 *		Tests of src/provider_openai.c: on examples written by hand, and on
 *		recorded traffic where it is at hand.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "unit.h"

#define P (&llmb_provider_openai)

/*
 * Parameters
 */

static void
param(const char *model, const char *params, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = P->check_params(model_of(model), &plain_dialect, json);
	char	   *what = psprintf("params: %s %s", model, params);

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
test_params(void)
{
	is_text(P->check_params(model_of("gpt-4o"), &plain_dialect, NULL), NULL, "params: none");
	param("gpt-4.1-mini", "{}", NULL);
	param("gpt-4.1-mini", "{\"temperature\": 0, \"top_p\": 0.5, \"max_tokens\": 10, \"seed\": -1,"
		  " \"stop\": [\"a\", \"b\"], \"presence_penalty\": -2}", NULL);
	param("gpt-4.1-mini", "{\"temperature\": null}", NULL);
	param("gpt-4.1-mini", "[]", "must be an object");
	param("gpt-4.1-mini", "{\"temprature\": 1}", "perhaps you mean \"temperature\"");
	param("gpt-4.1-mini", "{\"maxtokens\": 1}", "perhaps you mean \"max_tokens\"");
	param("gpt-4.1-mini", "{\"max_completion_tokens\": 1}", "it is called \"max_tokens\" here");
	param("gpt-4.1-mini", "{\"fruit_of_the_day\": 1}", "known are max_tokens, temperature");
	param("gpt-4.1-mini", "{\"stream\": true}", "not streamed");
	param("gpt-4.1-mini", "{\"temperature\": \"0\"}", "must be a number between 0 and 2");
	param("gpt-4.1-mini", "{\"temperature\": 2.1}", "must be a number between 0 and 2");
	param("gpt-4.1-mini", "{\"max_tokens\": 1.5}", "must be an integer of at least 1");
	param("gpt-4.1-mini", "{\"max_tokens\": 0}", "must be an integer of at least 1");
	param("gpt-4.1-mini", "{\"stop\": []}", "an array of up to 4");
	param("gpt-4.1-mini", "{\"stop\": [1]}", "an array of up to 4");
	param("gpt-4.1-mini", "{\"stop\": \"END\"}", NULL);
	param("gpt-5.1", "{\"verbosity\": \"loud\"}", "one of: low medium high");
	param("gpt-5.1", "{\"verbosity\": \"low medium\"}", "one of: low medium high");
	param("gpt-5.1", "{\"verbosity\": \"lo\"}", "one of: low medium high");
	param("gpt-5.1", "{\"prompt_cache_options\": \"explicit\"}", "an object");

	/* what a model refuses, as far as that is known */
	param("gpt-4.1-mini", "{\"reasoning_effort\": \"low\"}", "takes no reasoning_effort");
	param("ft:gpt-4o-mini:us::1", "{\"reasoning_effort\": \"low\"}", "takes no reasoning_effort");
	param("gpt-5-mini", "{\"temperature\": 0.2}", "takes no temperature but 1");
	param("gpt-5-mini", "{\"temperature\": 1}", NULL);
	param("o3-mini", "{\"top_p\": 0.5}", "takes no top_p but 1");
	param("o3-mini", "{\"reasoning_effort\": \"minimal\"}", "one of: low medium high");
	param("gpt-5.1", "{\"temperature\": 0.2}", NULL);
	param("gpt-5.1", "{\"temperature\": 0.2, \"reasoning_effort\": \"low\"}", "only with reasoning_effort \"none\"");
	param("gpt-6-luna", "{\"temperature\": 0.2}", "only with reasoning_effort \"none\"");
	param("gpt-6-luna", "{\"temperature\": 0.2, \"reasoning_effort\": \"none\"}", NULL);
	param("gpt-6.2-sol", "{\"reasoning_effort\": \"none\"}", "as reasoning_effort one of: low");
	param("gpt-6.2-sol", "{\"reasoning_effort\": \"max\"}", "as reasoning_effort one of: low");
	param("llama-3.1-8b-instant", "{\"temperature\": 0.2, \"reasoning_effort\": \"low\"}", NULL);

	ok(P->serves("gpt-6-luna") && P->serves("o3-mini") && P->serves("ft:gpt-4o-mini:x") &&
	   P->serves("chatgpt-4o-latest"), "serves: its own models");
	ok(!P->serves("gpt-oss-120b") && !P->serves("claude-haiku-4-5") && !P->serves("mock") &&
	   !P->serves("olmo") && !P->serves(""), "serves: no others");
}

/*
 * Requests
 */

static void
test_requests(void)
{
	LlmbRequest request = {0};
	LlmbJson   *params = parse("{\"max_tokens\": 9, \"temperature\": 0.0, \"seed\": null}");
	StringInfoData out;
	LlmbJson   *line;

	initStringInfo(&out);
	request.custom_id = "tok-1";
	request.model = model_of("gpt-4.1-mini");
	request.dialect = &plain_dialect;
	request.prompt = "Say \"hi\"\n\xC3\xA9";
	P->put_body(&out, &request);
	is_text(out.data, "{\"model\":\"gpt-4.1-mini\",\"messages\":"
			"[{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\\n\xC3\xA9\"}]}", "body: the least");

	resetStringInfo(&out);
	request.system = "Be brief.";
	request.params = params;
	request.schema = "{\"type\":\n\"object\"}";
	P->put_line(&out, &request);
	is_text(out.data, "{\"custom_id\":\"tok-1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\","
			"\"body\":{\"model\":\"gpt-4.1-mini\",\"max_completion_tokens\":9,\"temperature\":0.0,"
			"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
			"\"strict\":true,\"schema\":{\"type\": \"object\"}}},"
			"\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
			"{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\\n\xC3\xA9\"}]}}\n", "line: everything");
	ok(strchr(out.data, '\n') == out.data + out.len - 1, "line: one line end, at its end");
	line = parse(out.data);
	ok(line != NULL, "line: is JSON");
	llmb_json_free(line);

	resetStringInfo(&out);
	request.messages = "[{\"role\":\"user\",\r\n\"content\":\"x\"}]";
	request.params = NULL;
	request.schema = NULL;
	P->put_body(&out, &request);
	is_text(out.data, "{\"model\":\"gpt-4.1-mini\",\"messages\":[{\"role\":\"user\",  \"content\":\"x\"}]}",
			"body: messages replace system and prompt");
	llmb_json_free(params);
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

	ref.model = model_of("gpt-4.1-mini");
	ref.dialect = &plain_dialect;
	ref.token = "t0k";
	ref.remote_id = "batch_1";
	ref.remote_input = "file-in";
	ref.remote_output = "file-out";
	ref.remote_errors = "file-err";
	return ref;
}

static void
call_is(LlmbVerb verb, const LlmbBatchRef *ref, const char *method, const char *path)
{
	LlmbCall	call;
	char	   *what = psprintf("call: %s %s", method, path);

	ok(P->make_call(verb, ref, "sk-1", &call) && strcmp(call.method, method) == 0 &&
	   strcmp(call.path, path) == 0 && has_header(&call, "Authorization: Bearer sk-1") &&
	   call.reply_is_lines == (verb == LLMB_CALL_FETCH), "%s", what);
	pfree(what);
}

static void
test_calls(void)
{
	static const LlmbVerb by_id[] = {
		LLMB_CALL_CREATE, LLMB_CALL_POLL, LLMB_CALL_LIST, LLMB_CALL_CANCEL,
		LLMB_CALL_FETCH, LLMB_CALL_DELETE_FILE, LLMB_CALL_UPLOAD, LLMB_CALL_FIND_FILE
	};
	static const char *const evil[] = {
		"", "..", "a/b", "a?b", "a b", "a\r\nX: y", "a\"b", "%2e",
		("0123456789012345678901234567890123456789012345678901234567890123"
		 "0123456789012345678901234567890123456789012345678901234567890123x")
	};
	LlmbBatchRef ref = batch_ref();
	LlmbCall	call;
	int			i;
	int			k;
	bool		none = true;

	call_is(LLMB_CALL_POLL, &ref, "GET", "/batches/batch_1");
	call_is(LLMB_CALL_CANCEL, &ref, "POST", "/batches/batch_1/cancel");
	call_is(LLMB_CALL_FETCH, &ref, "GET", "/files/file-out/content");
	ref.part = 1;
	call_is(LLMB_CALL_FETCH, &ref, "GET", "/files/file-err/content");
	call_is(LLMB_CALL_DELETE_FILE, &ref, "DELETE", "/files/file-in");
	call_is(LLMB_CALL_CHECK, &ref, "GET", "/models");
	call_is(LLMB_CALL_LIST, &ref, "GET", "/batches?limit=100");
	call_is(LLMB_CALL_FIND_FILE, &ref, "GET", "/files?purpose=batch&order=desc&limit=1000");
	ref.cursor = "file-0";
	call_is(LLMB_CALL_FIND_FILE, &ref, "GET", "/files?purpose=batch&order=desc&limit=1000&after=file-0");
	ref.cursor = "batch_0";
	call_is(LLMB_CALL_LIST, &ref, "GET", "/batches?limit=100&after=batch_0");

	call_is(LLMB_CALL_CREATE, &ref, "POST", "/batches");
	ref.organization = "org-1";
	ref.project = "proj_1";
	ok(P->make_call(LLMB_CALL_CREATE, &ref, "sk-1", &call), "create: can be made");
	is_text(call.body->data, "{\"input_file_id\":\"file-in\",\"endpoint\":\"/v1/chat/completions\","
			"\"completion_window\":\"24h\",\"metadata\":{\"llm_batch\":\"t0k\"}}", "create: its body");
	ok(has_header(&call, "Content-Type: application/json") &&
	   has_header(&call, "OpenAI-Organization: org-1") &&
	   has_header(&call, "OpenAI-Project: proj_1"), "create: its headers");
	ref.completion_window = "7d";
	(void) P->make_call(LLMB_CALL_CREATE, &ref, NULL, &call);
	has_text(call.body->data, "\"completion_window\":\"7d\"", "create: a window of the server's");
	is_int(call.header_count, 3, "create: no key, no header for it");

	ok(P->make_call(LLMB_CALL_UPLOAD, &ref, "sk-1", &call) && call.with_file, "upload: carries the file");
	is_text(call.body->data, "--llm_batch-t0k\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n"
			"batch\r\n--llm_batch-t0k\r\nContent-Disposition: form-data; name=\"file\"; "
			"filename=\"llm_batch-t0k.jsonl\"\r\nContent-Type: application/octet-stream\r\n\r\n",
			"upload: what stands before the file");
	is_text(call.after_file, "\r\n--llm_batch-t0k--\r\n", "upload: what stands after it");
	ok(has_header(&call, "Content-Type: multipart/form-data; boundary=llm_batch-t0k"), "upload: its header");

	(void) P->make_call(LLMB_CALL_POLL, &ref, "sk-1\r\nX-Evil: 1", &call);
	is_int(call.header_count, 2, "headers: a key with a line end is not sent");

	for (i = 0; i < (int) lengthof(evil); i++)
	{
		ref.token = ref.remote_id = ref.remote_input = ref.remote_errors = ref.cursor = evil[i];
		for (k = 0; k < (int) lengthof(by_id); k++)
			none &= !P->make_call(by_id[k], &ref, "sk-1", &call);
	}
	ok(none, "ids: none that could leave its place in a path");
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

static void
fault_is(LlmbVerb verb, int status, const char *body, LlmbFault fault, const char *what)
{
	LlmbReply	reply = reply_to(verb, status, body);

	ok(reply.fault == fault && reply.retry_after_ms == 1500, "fault: %s", what);
	if (reply.fault != fault)
		printf("# got %d, expected %d\n", reply.fault, fault);
}

#define ERROR(code, param) "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\"," \
	"\"param\":" param ",\"code\":" code "}}"

static void
test_faults(void)
{
	LlmbReply	reply;

	fault_is(LLMB_CALL_POLL, 400, ERROR("null", "null"), LLMB_FAULT_REQUEST, "400");
	fault_is(LLMB_CALL_POLL, 401, ERROR("\"invalid_api_key\"", "null"), LLMB_FAULT_KEY, "401");
	fault_is(LLMB_CALL_POLL, 402, "", LLMB_FAULT_QUOTA, "402");
	fault_is(LLMB_CALL_POLL, 403, "", LLMB_FAULT_KEY, "403");
	fault_is(LLMB_CALL_POLL, 404, "", LLMB_FAULT_GONE, "404 of an object");
	fault_is(LLMB_CALL_CHECK, 404, "", LLMB_FAULT_REQUEST, "404 of an address");
	fault_is(LLMB_CALL_CREATE, 404, "", LLMB_FAULT_REQUEST, "404 of an address, create");
	fault_is(LLMB_CALL_CREATE, 404, ERROR("null", "\"input_file_id\""), LLMB_FAULT_GONE, "404 of the input file");
	fault_is(LLMB_CALL_POLL, 408, "", LLMB_FAULT_RETRY, "408");
	fault_is(LLMB_CALL_POLL, 409, "", LLMB_FAULT_RETRY, "409");
	fault_is(LLMB_CALL_UPLOAD, 413, "<html>", LLMB_FAULT_TOO_LARGE, "413");
	fault_is(LLMB_CALL_POLL, 422, "", LLMB_FAULT_REQUEST, "422");
	fault_is(LLMB_CALL_POLL, 429, ERROR("\"rate_limit_exceeded\"", "null"), LLMB_FAULT_RETRY, "429");
	fault_is(LLMB_CALL_CREATE, 429, ERROR("\"insufficient_quota\"", "null"), LLMB_FAULT_QUOTA, "429 for quota, by code");
	fault_is(LLMB_CALL_CREATE, 429, "{\"error\":{\"type\":\"insufficient_quota\"}}", LLMB_FAULT_QUOTA, "429 for quota, by type");
	fault_is(LLMB_CALL_CREATE, 429, ERROR("\"project_spend_limit_exceeded\"", "null"), LLMB_FAULT_QUOTA, "429 for a spend limit");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("\"token_limit_exceeded\"", "null"), LLMB_FAULT_QUEUE_FULL, "a full queue");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("null", "\"file_id\""), LLMB_FAULT_RETRY, "a fresh file");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("null", "\"input_file_id\""), LLMB_FAULT_RETRY, "a fresh file, other name");
	fault_is(LLMB_CALL_CREATE, 400, ERROR("null", "\"endpoint\""), LLMB_FAULT_REQUEST, "another parameter");
	fault_is(LLMB_CALL_POLL, 500, "Internal Server Error", LLMB_FAULT_RETRY, "500 without JSON");
	fault_is(LLMB_CALL_POLL, 503, "", LLMB_FAULT_RETRY, "503");
	fault_is(LLMB_CALL_POLL, 302, "", LLMB_FAULT_RETRY, "a redirect is not the request's fault");
	fault_is(LLMB_CALL_DELETE_FILE, 200, "{}", LLMB_FAULT_NONE, "a file deleted");
	fault_is(LLMB_CALL_FETCH, 200, "no JSON at all", LLMB_FAULT_NONE, "a result file");
	fault_is(LLMB_CALL_FETCH, 404, "", LLMB_FAULT_GONE, "a result file that is gone");

	/* 200, and yet not what was asked for */
	fault_is(LLMB_CALL_POLL, 200, "<html>Welcome</html>", LLMB_FAULT_RETRY, "poll: not JSON");
	fault_is(LLMB_CALL_POLL, 200, "{\"object\":\"batch\",\"status\":\"completed\"}", LLMB_FAULT_RETRY, "poll: no id");
	fault_is(LLMB_CALL_POLL, 200, "{\"object\":\"file\",\"id\":\"file-1\",\"status\":\"processed\"}", LLMB_FAULT_RETRY, "poll: a file");
	fault_is(LLMB_CALL_POLL, 200, "{\"id\":\"b\",\"status\":\"completed\",\"output_file_id\":\"../x\"}", LLMB_FAULT_RETRY, "poll: an id that cannot be one");
	fault_is(LLMB_CALL_UPLOAD, 200, "{\"object\":\"file\"}", LLMB_FAULT_RETRY, "upload: no id");
	fault_is(LLMB_CALL_LIST, 200, "{\"object\":\"list\"}", LLMB_FAULT_RETRY, "list: no data");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[{\"id\":\"b\",\"status\":\"completed\"},{}]}", LLMB_FAULT_RETRY, "list: one that cannot be read");
	fault_is(LLMB_CALL_LIST, 200, "{\"data\":[],\"has_more\":true}", LLMB_FAULT_RETRY, "list: more, and no cursor");
	fault_is(LLMB_CALL_CHECK, 200, "{}", LLMB_FAULT_RETRY, "check: no models");
	fault_is(LLMB_CALL_FIND_FILE, 200, "{\"object\":\"list\"}", LLMB_FAULT_RETRY, "files: no data");
	fault_is(LLMB_CALL_FIND_FILE, 404, "{\"detail\":\"Not Found\"}", LLMB_FAULT_REQUEST, "files: no such list");
	fault_is(LLMB_CALL_FIND_FILE, 405, "", LLMB_FAULT_REQUEST, "files: no such list");
	fault_is(LLMB_CALL_FIND_FILE, 503, "", LLMB_FAULT_RETRY, "files: a passing fault");
	reply = reply_to(LLMB_CALL_CREATE, 200, "{\"object\":\"batch\"}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id == NULL && reply.batch.total == -1,
	   "create: a reply that tells nothing is no fault, and no batch");
	reply = reply_to(LLMB_CALL_CREATE, 200, "{\"id\":\"ba");
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id == NULL, "create: a reply that was cut");

	reply = reply_to(LLMB_CALL_CHECK, 401, "{\"error\":{\"message\":\"Incorrect key: sk-ab*yz\",\"code\":\"invalid_api_key\"}}");
	is_text(reply.code, "invalid_api_key", "error: its code");
	is_text(reply.message, "Incorrect key: sk-ab*yz", "error: its words");
	reply = reply_to(LLMB_CALL_CHECK, 400, "{\"error\":{\"code\":\"Your prompt was: secret\",\"type\":\"invalid_request_error\"}}");
	is_text(reply.code, "invalid_request_error", "error: a code that is no word is not shown");
	reply = reply_to(LLMB_CALL_CHECK, 400, "{\"error\":{\"code\":\"a_code_of_just_sixty_five_letters_is_more_than_what_is_ever_shown__\"}}");
	is_text(reply.code, NULL, "error: nor is one that is too long");
	reply = reply_to(LLMB_CALL_CHECK, 400, "{\"error\":\"plain words\"}");
	is_text(reply.message, "plain words", "error: a string instead of an object");
	is_text(reply.code, NULL, "error: no code");
	reply = reply_to(LLMB_CALL_CHECK, 400, "{\"object\":\"error\",\"message\":\"bare\",\"code\":400}");
	is_text(reply.message, "bare", "error: without its envelope");
}

#define BATCH(status, more) "{\"id\":\"batch_1\",\"object\":\"batch\",\"status\":\"" status "\"," \
	"\"created_at\":1741967568,\"input_file_id\":\"file-a\"," \
	"\"request_counts\":{\"total\":10,\"completed\":4,\"failed\":1}" more "}"

static void
state_is(const char *body, LlmbRemoteState state, const char *what)
{
	LlmbReply	reply = reply_to(LLMB_CALL_POLL, 200, body);

	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.id != NULL && reply.batch.state == state,
	   "state: %s", what);
}

/* As the OpenAPI document has them (OpenAIFile, ListFilesResponse), and shorter, as others answer. */
#define FILE_OF(id, name, bytes, status) \
	"{\"object\":\"file\",\"id\":\"" id "\",\"purpose\":\"batch\",\"filename\":\"" name "\",\"bytes\":" bytes "," \
	"\"created_at\":1741967567,\"expires_at\":null,\"status\":\"" status "\",\"status_details\":null}"

static void
test_files(void)
{
	static const char *const names[] = {
		"llm_batch-.jsonl", "llm_batch-t0k_1", "xllm_batch-t0k_1.jsonl", "llm_batch-t0k_1.jsonl.jsonl",
		"llm_batch-t0k/1.jsonl", "LLM_BATCH-t0k_1.jsonl", "t0k_1.jsonl", "", "llm_batch-", ".jsonl"
	};
	LlmbReply	reply = reply_to(LLMB_CALL_FIND_FILE, 200, "{\"object\":\"list\",\"data\":["
								 FILE_OF("file-1", "llm_batch-t0k_1.jsonl", "468", "processed") ","
								 FILE_OF("file-2", "other.jsonl", "3", "uploaded") ","
								 FILE_OF("file-3", "llm_batch-t0k_1.jsonl", "12", "error")
								 "],\"first_id\":\"file-1\",\"last_id\":\"file-3\",\"has_more\":true}");
	bool		none = true;

	ok(reply.fault == LLMB_FAULT_NONE && reply.file_count == 3, "files: three on a page");
	is_text(reply.files[0].id, "file-1", "files: id");
	is_text(reply.files[0].token, "t0k_1", "files: the token in the name");
	ok(reply.files[0].bytes == 468 && reply.files[0].created_s == 1741967567 &&
	   reply.files[0].state == LLMB_FILE_READY, "files: length, time, state");
	ok(reply.files[1].token == NULL && reply.files[1].state == LLMB_FILE_PENDING, "files: somebody else's, not looked at yet");
	ok(reply.files[2].state == LLMB_FILE_BROKEN, "files: broken");
	is_text(reply.next_cursor, "file-3", "files: where the next page starts");

	reply = reply_to(LLMB_CALL_FIND_FILE, 200, "{\"data\":[{\"id\":\"file-1\",\"filename\":\"llm_batch-t0k_1.jsonl\"},{\"id\":\"../x\"},7]}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.file_count == 1 && reply.files[0].bytes == -1 &&
	   reply.files[0].state == LLMB_FILE_READY && reply.next_cursor == NULL, "files: what is not understood is passed over");
	reply = reply_to(LLMB_CALL_FIND_FILE, 200, "{\"data\":[],\"has_more\":true}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.file_count == 0 && reply.next_cursor == NULL, "files: more, and no cursor: the last page");

	for (int i = 0; i < (int) lengthof(names); i++)
	{
		char	   *body = psprintf("{\"data\":[{\"id\":\"file-1\",\"filename\":\"%s\"}]}", names[i]);
		char	   *token = reply_to(LLMB_CALL_FIND_FILE, 200, body).files[0].token;

		none &= token == NULL || strcmp(token, "t0k_1.jsonl") == 0;
	}
	ok(none, "files: names that are none of ours");
}

static void
test_batches(void)
{
	LlmbReply	reply;

	state_is(BATCH("validating", ""), LLMB_REMOTE_RUNNING, "validating");
	state_is(BATCH("in_progress", ""), LLMB_REMOTE_RUNNING, "in_progress");
	state_is(BATCH("finalizing", ""), LLMB_REMOTE_RUNNING, "finalizing");
	state_is(BATCH("completed", ""), LLMB_REMOTE_ENDED, "completed");
	state_is(BATCH("COMPLETED", ""), LLMB_REMOTE_ENDED, "completed, in capitals");
	state_is(BATCH("expired", ""), LLMB_REMOTE_EXPIRED, "expired");
	state_is(BATCH("cancelling", ""), LLMB_REMOTE_CANCELLING, "cancelling");
	state_is(BATCH("cancelled", ""), LLMB_REMOTE_CANCELLED, "cancelled");
	state_is(BATCH("failed", ""), LLMB_REMOTE_FAILED, "failed");
	state_is(BATCH("pondering", ""), LLMB_REMOTE_UNKNOWN, "a new one");

	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("completed", ",\"output_file_id\":\"file-o\","
												"\"error_file_id\":\"\",\"metadata\":{\"llm_batch\":\"t0k\"}"));
	is_text(reply.batch.id, "batch_1", "batch: id");
	is_text(reply.batch.input, "file-a", "batch: input file");
	is_text(reply.batch.output, "file-o", "batch: output file");
	is_text(reply.batch.errors, NULL, "batch: an error file without a name is none");
	is_text(reply.batch.token, "t0k", "batch: token");
	is_int(reply.batch.created_s, 1741967568, "batch: when it was created");
	ok(reply.batch.total == 10 && reply.batch.done == 4 && reply.batch.failed == 1, "batch: counts");
	is_int(reply.batch.ended_ms, 0, "batch: when it ended is not told");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("expired", ",\"completed_at\":null,\"expired_at\":1742053968"));
	is_int(reply.batch.ended_ms, INT64CONST(1742053968000), "batch: when it ended");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("completed", ",\"completed_at\":9223372036854775807"));
	is_int(reply.batch.ended_ms, 0, "batch: a time that cannot be");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("validating", ",\"metadata\":null"));
	ok(reply.batch.total == -1 && reply.batch.done == -1, "batch: no counts before validation");
	is_text(reply.batch.token, NULL, "batch: no token");

	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("failed", ",\"errors\":{\"object\":\"list\",\"data\":"
												"[{\"code\":\"token_limit_exceeded\",\"message\":\"Enqueued token limit\"}]}"));
	ok(reply.fault == LLMB_FAULT_NONE && reply.batch.fault == LLMB_FAULT_QUEUE_FULL, "failed: for a full queue");
	is_text(reply.code, "token_limit_exceeded", "failed: its code");
	is_text(reply.message, "Enqueued token limit", "failed: its words");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"model_not_found\"}]}"));
	ok(reply.batch.fault == LLMB_FAULT_REQUEST, "failed: for good");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("failed", ",\"errors\":{\"data\":[{\"code\":\"too_many_tasks\"}]}"));
	ok(reply.batch.fault == LLMB_FAULT_TOO_LARGE, "failed: too many requests");
	reply = reply_to(LLMB_CALL_POLL, 200, BATCH("failed", ",\"errors\":null"));
	ok(reply.batch.fault == LLMB_FAULT_REQUEST && reply.code == NULL, "failed: without a reason");

	reply = reply_to(LLMB_CALL_LIST, 200, "{\"object\":\"list\",\"data\":[" BATCH("completed", "") ","
					 BATCH("in_progress", ",\"metadata\":{\"llm_batch\":\"other\"}") "],\"has_more\":true}");
	is_int(reply.listed_count, 2, "list: batches on a page");
	is_text(reply.listed[1].token, "other", "list: token");
	is_text(reply.next_cursor, "batch_1", "list: where the next page starts");
	reply = reply_to(LLMB_CALL_LIST, 200, "{\"data\":[],\"has_more\":false}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.listed_count == 0 && reply.next_cursor == NULL, "list: empty");
	reply = reply_to(LLMB_CALL_LIST, 200, "{\"data\":[" BATCH("completed", "") "]}");
	ok(reply.fault == LLMB_FAULT_NONE && reply.next_cursor == NULL, "list: a short page is the last");

	test_files();
	reply = reply_to(LLMB_CALL_UPLOAD, 200, "{\"object\":\"file\",\"id\":\"file-SQ38\"}");
	is_text(reply.file_id, "file-SQ38", "upload: the file's id");
	reply = reply_to(LLMB_CALL_CHECK, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}]}");
	is_int(reply.models, 2, "check: models");
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

#define LINE(response, error) "{\"id\":\"batch_req_1\",\"custom_id\":\"tok-7\"," \
	"\"response\":" response ",\"error\":" error "}"
#define BAD(status, code) LINE("{\"status_code\":" status ",\"request_id\":\"req_1\",\"body\":" \
	"{\"error\":{\"message\":\"words\",\"type\":\"some_error\",\"code\":" code "}}}", "null")
#define GOOD(message, finish) LINE("{\"status_code\":200,\"request_id\":\"req_1\",\"body\":{\"model\":\"m-1\"," \
	"\"choices\":[{\"index\":0,\"message\":" message ",\"finish_reason\":" finish "}]," \
	"\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":8," \
	"\"prompt_tokens_details\":{\"cached_tokens\":5,\"cache_write_tokens\":2}," \
	"\"completion_tokens_details\":{\"reasoning_tokens\":3}}}}", "null")

static void
code_is(const char *line, LlmbCode code, bool retryable, const char *what)
{
	LlmbOutcome outcome;
	bool		read = read_text(line, &outcome);

	ok(read && outcome.code == code && outcome.retryable == retryable &&
	   strcmp(outcome.custom_id, "tok-7") == 0 && (code == LLMB_OK || outcome.error != NULL),
	   "line: %s", what);
	if (read && (outcome.code != code || outcome.retryable != retryable))
		printf("# got %s, %d\n", outcome.code ? llmb_code_name(outcome.code) : "ok", outcome.retryable);
}

static void
test_failures(void)
{
	LlmbOutcome outcome;

	code_is(BAD("429", "\"rate_limit_exceeded\""), LLMB_RATE_LIMITED, true, "429");
	code_is(BAD("400", "\"unsupported_value\""), LLMB_INVALID_REQUEST, false, "400");
	code_is(BAD("400", "\"context_length_exceeded\""), LLMB_TOO_LARGE, false, "400 for its length");
	code_is(BAD("400", "\"invalid_prompt\""), LLMB_REFUSED, false, "400 for its content");
	code_is(BAD("413", "null"), LLMB_TOO_LARGE, false, "413");
	code_is(BAD("401", "null"), LLMB_AUTH, false, "401");
	code_is(BAD("403", "null"), LLMB_AUTH, false, "403");
	code_is(BAD("404", "\"model_not_found\""), LLMB_INVALID_REQUEST, false, "404");
	code_is(BAD("408", "null"), LLMB_TIMEOUT, true, "408");
	code_is(BAD("409", "null"), LLMB_PROVIDER_ERROR, true, "409");
	code_is(BAD("500", "null"), LLMB_PROVIDER_ERROR, true, "500");
	code_is(BAD("503", "null"), LLMB_PROVIDER_ERROR, true, "503");
	code_is(BAD("200", "429"), LLMB_RATE_LIMITED, true, "an error of 429 in a body of 200");
	code_is(LINE("null", "{\"code\":\"batch_expired\",\"message\":\"m\"}"), LLMB_EXPIRED, true, "batch_expired");
	code_is(LINE("null", "{\"code\":\"batch_cancelled\",\"message\":\"m\"}"), LLMB_CANCELLED_ITEM, false, "batch_cancelled");
	code_is(LINE("null", "{\"code\":\"request_timeout\",\"message\":\"m\"}"), LLMB_TIMEOUT, true, "request_timeout");
	code_is(LINE("null", "{\"code\":\"server_error\",\"message\":\"m\"}"), LLMB_PROVIDER_ERROR, true, "another code");
	code_is(LINE("null", "\"words\""), LLMB_PROVIDER_ERROR, true, "an error that is a string");
	code_is(LINE("null", "null"), LLMB_PROVIDER_ERROR, true, "neither response nor error");
	code_is(LINE("{\"status_code\":200,\"body\":null}", "null"), LLMB_PROVIDER_ERROR, true, "200 without a body");
	code_is(LINE("{\"status_code\":200,\"body\":{\"choices\":[]}}", "null"), LLMB_PROVIDER_ERROR, true, "200 without a choice");
	code_is(GOOD("{\"content\":null}", "\"stop\""), LLMB_PROVIDER_ERROR, true, "200 without content");
	code_is(GOOD("{\"content\":\"x\"}", "\"content_filter\""), LLMB_REFUSED, false, "content_filter");
	code_is(GOOD("{\"content\":null}", "\"tool_calls\""), LLMB_PROVIDER_ERROR, false, "tool_calls");
	code_is(GOOD("{\"content\":null}", "\"function_call\""), LLMB_PROVIDER_ERROR, false, "function_call");

	code_is("{\"custom_id\":\"tok-7\",\"response\":{\"status_code\":200,\"body\":{\"choices\":"
			"[{\"message\":{\"content\":\"x\"}}]}},\"error\":{}}", LLMB_OK, false, "an error of {} is none");

	(void) read_text(GOOD("{\"content\":null,\"refusal\":\"I can't.\"}", "\"stop\""), &outcome);
	ok(outcome.code == LLMB_REFUSED && outcome.answer == NULL, "line: a refusal");
	is_text(outcome.error, "I can't.", "line: its words");
	is_int(outcome.output_tokens, 8, "line: what a refusal has used");

	(void) read_text(BAD("400", "null"), &outcome);
	is_text(outcome.error, "words", "line: an error's words");
	is_text(outcome.request_id, "req_1", "line: an error's request id");
	ok(outcome.input_tokens == -1 && outcome.output_tokens == -1 && outcome.cached_tokens == -1 &&
	   outcome.cache_write_tokens == -1 && outcome.reasoning_tokens == -1, "line: unknown usage is -1");

	ok(!read_text("", &outcome) && !read_text("\xEF\xBB\xBF", &outcome) && !read_text("[]", &outcome) &&
	   !read_text("{\"custom_id\":7}", &outcome) && !read_text("{\"custom_id\":\"\"}", &outcome) &&
	   !read_text("{\"id\":\"x\",\"response\":null}", &outcome) &&
	   !read_text("{\"custom_id\":\"tok-7\",\"respon", &outcome), "line: what is no item's");
}

static void
test_answers(void)
{
	LlmbOutcome outcome;

	ok(read_text(GOOD("{\"content\":\"Four.\",\"refusal\":null}", "\"stop\""), &outcome), "answer: read");
	is_int(outcome.code, LLMB_OK, "answer: success");
	is_text(outcome.custom_id, "tok-7", "answer: whose it is");
	is_text(outcome.answer, "Four.", "answer: text");
	is_text(outcome.model, "m-1", "answer: model");
	is_text(outcome.request_id, "req_1", "answer: request id");
	is_text(outcome.finish_reason, "stop", "answer: finish reason");
	is_text(outcome.error, NULL, "answer: no error");
	ok(outcome.input_tokens == 20 && outcome.cached_tokens == 5 && outcome.cache_write_tokens == 2 &&
	   outcome.output_tokens == 8 && outcome.reasoning_tokens == 3, "answer: usage");
	ok(!outcome.altered, "answer: as it came");

	code_is(GOOD("{\"content\":\"\"}", "\"stop\""), LLMB_OK, false, "an empty answer is one");
	code_is(GOOD("{\"content\":\"x\"}", "null"), LLMB_OK, false, "no finish reason");
	(void) read_text(GOOD("{\"content\":\"{\\\"a\\\": 1\"}", "\"length\""), &outcome);
	ok(outcome.code == LLMB_TRUNCATED && !outcome.retryable, "answer: truncated");
	is_text(outcome.answer, "{\"a\": 1", "answer: what there is is kept");
	(void) read_text(GOOD("{\"content\":[{\"type\":\"text\",\"text\":\"A\"},{\"type\":\"image\"},"
						  "{\"type\":\"text\",\"text\":\"B\"}]}", "\"stop\""), &outcome);
	is_text(outcome.answer, "AB", "answer: parts joined");
	(void) read_text(GOOD("{\"content\":[{\"type\":\"refusal\",\"refusal\":\"No.\"}]}", "\"stop\""), &outcome);
	ok(outcome.code == LLMB_REFUSED, "answer: a refusal among parts");
	(void) read_text(GOOD("{\"content\":\"a\\u0000\\ud83d\\ude00\\ud83d\"}", "\"stop\""), &outcome);
	is_text(outcome.answer, "a\xEF\xBF\xBD\xF0\x9F\x98\x80\xEF\xBF\xBD", "answer: cleaned");
	ok(outcome.altered, "answer: and says so");
}

void
test_openai(void)
{
	test_params();
	test_requests();
	test_calls();
	test_faults();
	test_batches();
	test_failures();
	test_answers();
}

/*
 * Recorded traffic
 */

typedef struct Tally
{
	int			read;
	int			good;			/* success, with an answer and usage */
	LlmbOutcome first;
} Tally;

static Tally
read_recorded_lines(char *text, size_t len)
{
	Tally		tally = {0};
	LlmbOutcome outcome;
	size_t		taken = 0;
	ssize_t		line_len;

	while (len > 0)
	{
		line_len = llmb_jsonl_next(text, len, &taken);
		if (line_len < 0)
			line_len = taken = len;
		text[line_len] = '\0';
		if (line_len > 0 && P->read_line(text, line_len, &outcome))
		{
			if (tally.read++ == 0)
				tally.first = outcome;
			tally.good += (outcome.code == LLMB_OK && outcome.answer != NULL &&
						   outcome.input_tokens > 0 && outcome.output_tokens > 0);
		}
		text += taken;
		len -= taken;
	}
	return tally;
}

static void
test_recorded_lines(void)
{
	size_t		len;
	char	   *text = recorded("curator_chat_batch.output.jsonl", &len);
	Tally		tally;

	if (text != NULL)
	{
		tally = read_recorded_lines(text, len);
		ok(tally.read == 3 && tally.good == 3, "recorded: three answers of 2025");
		is_text(tally.first.custom_id, "0", "recorded: custom_id");
		is_int(tally.first.input_tokens, 10, "recorded: input tokens");
		is_int(tally.first.output_tokens, 72, "recorded: output tokens");
		is_int(tally.first.cached_tokens, 0, "recorded: cached tokens");
		is_int(tally.first.cache_write_tokens, -1, "recorded: cache writes are not told");
		ok(tally.first.answer && strncmp(tally.first.answer, "Spaghetti is a type", 19) == 0, "recorded: answer");
	}
	text = recorded("groq_compatible_batch_output.jsonl", &len);
	if (text != NULL)
	{
		tally = read_recorded_lines(text, len);
		ok(tally.read == 3 && tally.good == 3, "recorded: three answers of a compatible server");
		is_text(tally.first.custom_id, "request-2", "recorded: in an order of its own");
		is_text(tally.first.request_id, "req_01jpthgyahed0r94pxxy0bjbvr", "recorded: request id");
		is_int(tally.first.cached_tokens, -1, "recorded: cached tokens are not told");
	}
}

/* The n-th exchange of a trace, its reply judged as one to verb. */
static bool
replay(const char *name, int n, LlmbVerb verb, LlmbReply *reply)
{
	size_t		len;
	char	   *text = recorded(name, &len);
	char	   *at = text;
	size_t		taken;
	ssize_t		line_len;
	LlmbJson   *exchange;
	LlmbHttpReply http;

	if (text == NULL)
		return false;
	while ((line_len = llmb_jsonl_next(at, text + len - at, &taken)) >= 0 && n-- > 0)
		at += taken;
	exchange = parse(line_len < 0 ? at : pnstrdup(at, line_len));
	http = http_reply((int) llmb_json_int(llmb_json_get(exchange, "response"), "status", 0),
					  llmb_json_path(exchange, "response", "body", NULL)->text);
	P->read_reply(verb, &http, reply);
	llmb_json_free(exchange);
	return true;
}

static void
test_recorded_run(void)
{
	static const LlmbVerb verbs[] = {
		LLMB_CALL_UPLOAD, LLMB_CALL_UPLOAD, LLMB_CALL_CREATE,
		LLMB_CALL_POLL, LLMB_CALL_POLL, LLMB_CALL_POLL, LLMB_CALL_POLL, LLMB_CALL_POLL
	};
	LlmbReply	reply;
	int			i;

	for (i = 0; i < (int) lengthof(verbs); i++)
	{
		if (!replay("curator_chat_batch.trace.jsonl", i, verbs[i], &reply))
			return;
		ok(reply.fault == LLMB_FAULT_NONE && (reply.file_id != NULL) == (verbs[i] == LLMB_CALL_UPLOAD) &&
		   (reply.batch.id != NULL) == (verbs[i] != LLMB_CALL_UPLOAD), "recorded: exchange %d of a run", i);
		ok(reply.batch.id == NULL || reply.batch.state == (i == 7 ? LLMB_REMOTE_ENDED : LLMB_REMOTE_RUNNING),
		   "recorded: state in exchange %d", i);
	}
	is_text(reply.batch.output, "file-GykDwPni5UjeQEo2wkgrh7", "recorded: output file");
	is_text(reply.batch.errors, NULL, "recorded: no error file");
	ok(reply.batch.total == 3 && reply.batch.done == 3 && reply.batch.failed == 0, "recorded: counts");
}

static void
test_recorded_batches(void)
{
	LlmbReply	reply;
	int			i;
	int			cancelled = 0;

	if (replay("ruby_openai_batches_list.trace.jsonl", 0, LLMB_CALL_LIST, &reply))
	{
		for (i = 0; i < reply.listed_count; i++)
			cancelled += (reply.listed[i].state == LLMB_REMOTE_CANCELLED);
		is_int(reply.listed_count, 20, "recorded: a page of 20 batches");
		is_int(cancelled, 4, "recorded: four of them cancelled");
		is_text(reply.next_cursor, "batch_67af4399280c819086317c491e1d7c89", "recorded: the next page");
	}
	if (replay("ruby_openai_batches_list.trace.jsonl", 2, LLMB_CALL_LIST, &reply))
		is_int(reply.listed_count, 10, "recorded: the page after a cursor");
	if (replay("ruby_openai_batches_cancel.trace.jsonl", 0, LLMB_CALL_CANCEL, &reply))
		ok(reply.batch.id != NULL && reply.batch.state == LLMB_REMOTE_CANCELLING, "recorded: a cancel");
	if (replay("ruby_openai_batches_retrieve.trace.jsonl", 0, LLMB_CALL_POLL, &reply))
		ok(reply.batch.state == LLMB_REMOTE_RUNNING && reply.batch.total == -1, "recorded: a poll");
	if (replay("ruby_openai_batches_create.trace.jsonl", 0, LLMB_CALL_CREATE, &reply))
		ok(reply.batch.id != NULL && reply.batch.input != NULL, "recorded: a create");
	if (replay("ruby_openai_batches_create_input.trace.jsonl", 0, LLMB_CALL_UPLOAD, &reply))
		is_text(reply.file_id, "file-SQ38s1FVw83BEb6baok3Av", "recorded: an upload");
}

/* A batch of 2026, with {} where null should stand. */
static void
test_recorded_2026(void)
{
	size_t		len;
	char	   *text = recorded("ellmer_responses_state_capitals.json", &len);
	StringInfoData batch;
	LlmbJson   *root;
	LlmbReply	reply;

	if (text == NULL)
		return;
	root = parse(text);
	initStringInfo(&batch);
	llmb_json_put_node(&batch, llmb_json_get(root, "batch"));
	reply = reply_to(LLMB_CALL_POLL, 200, batch.data);
	ok(reply.batch.state == LLMB_REMOTE_ENDED && reply.batch.done == 4, "recorded: a batch of 2026");
	is_text(reply.batch.output, "file-JSFUCukRnE3G1h2pEs4uqS", "recorded: its output file");
	is_text(reply.batch.errors, NULL, "recorded: {} is none");
	llmb_json_free(root);
}

void
test_recorded(void)
{
	test_recorded_lines();
	test_recorded_run();
	test_recorded_batches();
	test_recorded_2026();
}
