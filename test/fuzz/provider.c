/*-------------------------------------------------------------------------
 *
 * provider.c
 *		Fuzz targets "openai", "anthropic", "gemini" and "mock": all that a
 *		provider's file reads.
 *
 * Input: a letter that says which reader (see readers[]), a letter for the
 * status, then the bytes.  Where they hold an empty line, what stands before
 * it are the headers that http.c has kept.
 *
 * PROVIDER is the table of functions, set by the Makefile.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "provider.h"

#include "fuzz.h"

#define P (&PROVIDER)

/* as many tokens as no request has, and a batch not requests */
#define MANY_TOKENS INT64CONST(1000000000000000)

#define NOW_MS INT64CONST(1790000000000)

static const LlmbModel model = {"gpt-5-mini", NULL, 400000, 128000, LLMB_SAMPLING_ANY, NULL, NULL, 1, false};
static const LlmbDialect dialect = {LLMB_ENDPOINT_CHAT, LLMB_STRUCTURED_NATIVE, false, false, NULL};

static const struct
{
	char		letter;
	LlmbVerb	verb;
}			readers[] =
{
	{'U', LLMB_CALL_UPLOAD},
	{'D', LLMB_CALL_UPLOAD_DATA},
	{'C', LLMB_CALL_CREATE},
	{'P', LLMB_CALL_POLL},
	{'L', LLMB_CALL_LIST},
	{'I', LLMB_CALL_FIND_FILE},
	{'X', LLMB_CALL_CANCEL},
	{'F', LLMB_CALL_FETCH},
	{'R', LLMB_CALL_DELETE_FILE},
	{'K', LLMB_CALL_CHECK},
	{'A', LLMB_CALL_ANSWER},
};

static const int statuses[] = {
	200, 400, 401, 403, 404, 429, 500, 503, 201, 204, 302, 402, 408, 409, 410, 413, 499, 501, 504, 529, 999
};

/* ---- what was read, as text ---- */

static void
show_text(StringInfo out, const char *name, const char *text)
{
	if (text == NULL)
		return;
	CHECK(fuzz_is_text(text));
	appendStringInfo(out, "%s \"%s\"\n", name, text);
}

static void
show_number(StringInfo out, const char *name, int64 number)
{
	appendStringInfo(out, "%s %lld\n", name, (long long) number);
}

static void
show_code(StringInfo out, const char *name, const char *code)
{
	char	   *safe;

	if (code == NULL)
		return;
	/* it goes into logs and events */
	safe = llmb_safe_code(code);
	CHECK(safe != NULL);
	CHECK(strcmp(safe, code) == 0);
	show_text(out, name, code);
}

static void
show_batch(StringInfo out, const LlmbRemoteBatch *batch)
{
	show_text(out, "id", batch->id);
	show_text(out, "token", batch->token);
	show_text(out, "input", batch->input);
	show_text(out, "output", batch->output);
	show_text(out, "errors", batch->errors);
	show_number(out, "created", batch->created_s);
	show_number(out, "state", batch->state);
	show_number(out, "fault", batch->fault);
	show_number(out, "total", batch->total);
	show_number(out, "done", batch->done);
	show_number(out, "failed", batch->failed);
	CHECK(batch->state <= LLMB_REMOTE_FAILED);
	CHECK(batch->fault <= LLMB_FAULT_REQUEST);
	CHECK(batch->total >= -1 && batch->total <= PG_INT32_MAX);
	CHECK(batch->done >= -1 && batch->done <= PG_INT32_MAX);
	CHECK(batch->failed >= -1 && batch->failed <= PG_INT32_MAX);
	/* it becomes microseconds since 2000 */
	CHECK(batch->created_s >= 0 && batch->created_s < INT64CONST(1000000000000));
	CHECK(batch->bad_line_count >= 0 && batch->bad_line_count <= LLMB_BAD_LINES);
	for (int i = 0; i < batch->bad_line_count; i++)
		CHECK(batch->bad_lines[i] > 0);
}

static void
show_file(StringInfo out, const LlmbRemoteFile *file)
{
	CHECK(file->id != NULL);
	CHECK(file->state <= LLMB_FILE_BROKEN);
	CHECK(file->bytes >= -1);
	CHECK(file->created_s >= 0 && file->created_s < INT64CONST(1000000000000));
	show_text(out, "id", file->id);
	show_text(out, "token", file->token);
	show_number(out, "bytes", file->bytes);
	show_number(out, "created", file->created_s);
}

/* ---- what is built from it ---- */

/* A request's path: of this host, with nothing in it that ends it or climbs up. */
static void
check_path(const char *path)
{
	CHECK(path[0] == '/');
	CHECK(strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:?&=%+,;@!$'()*") == strlen(path));
	CHECK(strstr(path, "/../") == NULL && strstr(path, "/./") == NULL);
}

static void
check_calls(const LlmbReply *reply, const LlmbRemoteBatch *batch)
{
	LlmbBatchRef ref = {.token = batch->token ? batch->token : "0f1e2d3c", .model = &model, .dialect = &dialect};

	ref.base_url = P->base_url;
	ref.upload_url = reply->upload_url;
	ref.remote_input = batch->input ? batch->input : reply->file_id;
	ref.remote_id = batch->id;
	ref.remote_output = batch->output;
	ref.remote_errors = batch->errors;
	ref.cursor = reply->next_cursor;
	ref.item_count = 2;
	ref.file_bytes = 100;
	for (ref.part = 0; ref.part < 2; ref.part++)
	{
		for (int i = 0; i < (int) lengthof(readers); i++)
		{
			LlmbCall	call;

			if (!P->make_call(readers[i].verb, &ref, "sk-key", &call))
				continue;
			check_path(call.path);
			CHECK(call.header_count <= (int) lengthof(call.headers));
			for (int h = 0; h < call.header_count; h++)
			{
				for (const char *p = call.headers[h]; *p; p++)
					CHECK((unsigned char) *p >= 0x20 && *p != 0x7F);
			}
			if (call.body != NULL)
				CHECK(fuzz_is_text(call.body->data));
		}
	}
}

/* ---- readers ---- */

static void
read_reply(StringInfo out, LlmbVerb verb, LlmbHttpReply *http)
{
	LlmbReply	reply;
	int			status = http->status;

	memset(&reply, 0xA5, sizeof(reply));
	P->read_reply(verb, http, &reply);

	CHECK(reply.fault <= LLMB_FAULT_REQUEST);
	CHECK(status / 100 == 2 || reply.fault != LLMB_FAULT_NONE);
	CHECK(reply.retry_after_ms >= -1);
	CHECK(reply.queue_tokens >= 0 && reply.models >= 0 && reply.listed_count >= 0);
	if (reply.fault == LLMB_FAULT_NONE)
	{
		CHECK(verb != LLMB_CALL_POLL || reply.batch.id != NULL);
		CHECK(verb != LLMB_CALL_LIST || reply.listed != NULL);
		CHECK(verb != LLMB_CALL_FIND_FILE || reply.files != NULL || reply.file_count == 0);
		CHECK(verb != LLMB_CALL_UPLOAD || reply.file_id != NULL || reply.upload_url != NULL);
		CHECK(verb != LLMB_CALL_UPLOAD_DATA || P->make_call != llmb_provider_gemini.make_call || reply.file_id != NULL);
	}
	show_number(out, "fault", reply.fault);
	show_number(out, "retry after", reply.retry_after_ms);
	show_number(out, "models", reply.models);
	show_number(out, "queue tokens", reply.queue_tokens);
	show_code(out, "code", reply.code);
	show_text(out, "message", reply.message);
	show_text(out, "file", reply.file_id);
	show_text(out, "cursor", reply.next_cursor);
	if (reply.lines != NULL)
		show_text(out, "lines", reply.lines->data);
	show_batch(out, &reply.batch);
	check_calls(&reply, &reply.batch);
	for (int i = 0; i < reply.file_count; i++)
	{
		LlmbRemoteBatch found = {.input = reply.files[i].id, .token = reply.files[i].token};

		show_file(out, &reply.files[i]);
		check_calls(&reply, &found);
	}
	for (int i = 0; i < reply.listed_count; i++)
	{
		CHECK(reply.listed[i].id != NULL);
		show_batch(out, &reply.listed[i]);
		check_calls(&reply, &reply.listed[i]);
	}
}

static void
show_outcome(StringInfo out, const LlmbOutcome *outcome)
{
	const struct
	{
		const char *name;
		int64		count;
	}			counts[] =
	{
		{"input", outcome->input_tokens},
		{"cached", outcome->cached_tokens},
		{"written", outcome->cache_write_tokens},
		{"written for long", outcome->long_write_tokens},
		{"output", outcome->output_tokens},
		{"reasoning", outcome->reasoning_tokens},
	};

	CHECK(outcome->code == LLMB_OK || llmb_code_name(outcome->code) != NULL);
	CHECK((outcome->answer != NULL) || outcome->code != LLMB_OK);
	CHECK(outcome->answer == NULL || outcome->code == LLMB_OK || outcome->code == LLMB_TRUNCATED);
	/* whoever looks into results finds why */
	CHECK(outcome->code == LLMB_OK || (outcome->error != NULL && outcome->error[0] != '\0'));
	CHECK(!outcome->altered || outcome->answer != NULL);
	for (int i = 0; i < (int) lengthof(counts); i++)
	{
		/* they are added up for a job */
		CHECK(counts[i].count >= -1 && counts[i].count <= MANY_TOKENS);
		show_number(out, counts[i].name, counts[i].count);
	}
	show_number(out, "code", outcome->code);
	show_number(out, "flags", outcome->retryable + 2 * outcome->altered + 4 * outcome->perhaps_run);
	show_text(out, "answer", outcome->answer);
	show_text(out, "error", outcome->error);
	show_text(out, "finish", outcome->finish_reason);
	show_text(out, "model", outcome->model);
	show_text(out, "request", outcome->request_id);
}

static void
read_line(StringInfo out, char *line, size_t len)
{
	LlmbOutcome outcome;

	memset(&outcome, 0xA5, sizeof(outcome));
	if (!P->read_line(line, len, &outcome))
		return;
	CHECK(outcome.custom_id != NULL && outcome.custom_id[0] != '\0');
	CHECK(strlen(outcome.custom_id) <= len);
	show_text(out, "custom_id", outcome.custom_id);
	show_outcome(out, &outcome);
}

static void
read_answer(StringInfo out, LlmbHttpReply *http)
{
	LlmbOutcome outcome;
	LlmbReply	reply;
	int			status = http->status;

	memset(&outcome, 0xA5, sizeof(outcome));
	memset(&reply, 0, sizeof(reply));
	P->read_answer(http, &outcome, &reply);
	CHECK(outcome.code != LLMB_OK || reply.fault == LLMB_FAULT_NONE);
	CHECK(status / 100 == 2 || reply.fault != LLMB_FAULT_NONE);
	CHECK(reply.retry_after_ms >= -1);
	show_number(out, "fault", reply.fault);
	show_number(out, "retry after", reply.retry_after_ms);
	show_code(out, "code", reply.code);
	show_text(out, "message", reply.message);
	show_outcome(out, &outcome);
}

static void
read_limits(StringInfo out, const LlmbHttpReply *http)
{
	LlmbLimits	limits = {0};

	if (P->read_limits == NULL)
		return;
	P->read_limits(http, NOW_MS, &limits);
	CHECK(limits.requests_left >= -1 && limits.tokens_left >= -1);
	CHECK(limits.requests_reset_ms >= -1 && limits.requests_reset_ms <= INT64CONST(86400000));
	CHECK(limits.tokens_reset_ms >= -1 && limits.tokens_reset_ms <= INT64CONST(86400000));
	show_number(out, "requests", limits.requests_left);
	show_number(out, "requests reset", limits.requests_reset_ms);
	show_number(out, "tokens", limits.tokens_left);
	show_number(out, "tokens reset", limits.tokens_reset_ms);
}

/* The provider in process answers a request line; that answer is then read. */
static void
answer_line(StringInfo out, char *line, size_t len)
{
	LlmbBatchRef ref = {.token = "0f1e2d3c", .model = &model, .dialect = &dialect, .remote_id = "mock-1-2"};
	StringInfoData reply;

	if (P->answer_line == NULL)
		return;
	ref.failure_rate = (len % 2) * 0.5;
	initStringInfo(&reply);
	P->answer_line(&ref, NOW_MS, line, len, &reply);
	if (reply.len == 0)
		return;
	CHECK(reply.data[reply.len - 1] == '\n');
	CHECK(memchr(reply.data, '\n', reply.len - 1) == NULL);
	read_line(out, reply.data, reply.len - 1);
}

/* ---- input ---- */

/* Splits off the headers; they have no NUL, and each a line end. */
static char *
take_headers(const char **data, size_t *len)
{
	for (size_t i = 0; i + 1 < *len; i++)
	{
		char	   *headers;

		if ((*data)[i] == '\0')
			return NULL;
		if ((*data)[i] != '\n' || (*data)[i + 1] != '\n')
			continue;
		headers = fuzz_copy(*data, i + 1);
		*data += i + 2;
		*len -= i + 2;
		return headers;
	}
	return NULL;
}

static char *
read_once(char reader, char status, const char *data, size_t len)
{
	LlmbHttpReply http = {.retry_after_ms = -1};
	StringInfoData out;

	initStringInfo(&out);
	http.status = statuses[(status - 'a') & 0xFF] ;
	http.headers = take_headers(&data, &len);
	http.body = fuzz_copy(data, len);
	http.len = len;
	if (reader == 'l')
		read_line(&out, http.body, http.len);
	else if (reader == 'm')
		answer_line(&out, http.body, http.len);
	else if (reader == 'a')
		read_answer(&out, &http);
	else if (reader == 'h')
		read_limits(&out, &http);
	else
	{
		for (int i = 0; i < (int) lengthof(readers); i++)
		{
			if (readers[i].letter == reader)
				read_reply(&out, readers[i].verb, &http);
		}
	}
	return out.data;
}

void
fuzz_one(const char *data, size_t len)
{
	char	   *first;
	char	   *second;
	char		status;

	if (len < 2)
		return;
	status = (char) ('a' + (unsigned char) (data[1] - 'a') % lengthof(statuses));
	first = read_once(data[0], status, data + 2, len - 2);
	second = read_once(data[0], status, data + 2, len - 2);
	CHECK(strcmp(first, second) == 0);
}
