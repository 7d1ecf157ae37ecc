/*-------------------------------------------------------------------------
 *
 * provider_openai.c
 *		OpenAI's Batch API, and the many servers that speak the same
 *		protocol: the calls, and what they are answered.
 *
 * A batch is: a JSONL file uploaded to /files, a batch object created over
 * it at /batches, polled until it is terminal, and one or two result files:
 * an output file and an error file, either of which may be missing.  Our
 * token travels in the batch's metadata and in the name of the file, so that
 * a batch whose create was never answered can be recognised in a listing.
 *
 * Nothing that came from the other side is trusted further than it was
 * checked: ids before they enter a path, codes before they are shown.
 * Wherever "nothing there" and "could not be understood" must be told apart
 * (a listing proves absence; a missing file id means no results) a reply
 * that is not understood is a passing fault, never an answer.
 *
 * Sources: the npm package openai 7.55.0 (November 2026), the guides "Batch
 * API", "Rate limits" and "Error codes" at developers.openai.com, and
 * recorded traffic of 2025 and 2026; where a line goes back to something that
 * is only seen in the wild, it says so.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "provider.h"
#include "provider_openai.h"

/* Batches on a page of a listing: the most there can be. */
#define LIST_LIMIT 100
/* Files on a page; 10,000 would be allowed, and be more than a reply may be long. */
#define FILE_LIMIT 1000

/* The name of a request file: our token between these. */
#define FILE_PREFIX "llm_batch-"
#define FILE_SUFFIX ".jsonl"

/*
 * Calls
 */

/* Method and path; false when the id cannot be part of a path. */
static bool
set_path(LlmbCall *call, const char *method, const char *before,
		 const char *id, const char *after)
{
	if (!llmb_is_id(id))
		return false;
	call->method = method;
	call->path = psprintf("%s%s%s", before, id, after);
	return true;
}

/*
 * The boundary cannot occur in the file: lines of JSON hold no carriage
 * return, with which it begins.
 */
static bool
make_upload(const LlmbBatchRef *ref, LlmbCall *call)
{
	if (!llmb_is_id(ref->token))
		return false;
	call->method = "POST";
	call->path = pstrdup("/files");
	call->headers[call->header_count++] =
		psprintf("Content-Type: multipart/form-data; boundary=llm_batch-%s", ref->token);
	call->body = makeStringInfo();
	appendStringInfo(call->body,
					 "--llm_batch-%s\r\n"
					 "Content-Disposition: form-data; name=\"purpose\"\r\n"
					 "\r\n"
					 "batch\r\n"
					 "--llm_batch-%s\r\n"
					 "Content-Disposition: form-data; name=\"file\"; filename=\"" FILE_PREFIX "%s" FILE_SUFFIX "\"\r\n"
					 "Content-Type: application/octet-stream\r\n"
					 "\r\n",
					 ref->token, ref->token, ref->token);
	call->with_file = true;
	call->after_file = psprintf("\r\n--llm_batch-%s--\r\n", ref->token);
	return true;
}

static bool
make_create(const LlmbBatchRef *ref, LlmbCall *call)
{
	const char *window = ref->completion_window;

	if (!llmb_is_id(ref->token) || !llmb_is_id(ref->remote_input))
		return false;
	call->method = "POST";
	call->path = pstrdup("/batches");
	llmb_add_header(call, "Content-Type", "", "application/json");
	call->body = makeStringInfo();
	appendStringInfo(call->body,
					 "{\"input_file_id\":\"%s\",\"endpoint\":\"/v1%s\",\"completion_window\":",
					 ref->remote_input, llmb_openai_path(llmb_openai_endpoint(ref->model, ref->dialect)));
	llmb_json_put_string(call->body, window != NULL ? window : "24h");
	appendStringInfo(call->body, ",\"metadata\":{\"llm_batch\":\"%s\"}}", ref->token);
	return true;
}

static bool
make_list(const LlmbBatchRef *ref, LlmbCall *call)
{
	call->method = "GET";
	if (ref->cursor == NULL)
	{
		call->path = psprintf("/batches?limit=%d", LIST_LIMIT);
		return true;
	}
	if (!llmb_is_id(ref->cursor))
		return false;
	call->path = psprintf("/batches?limit=%d&after=%s", LIST_LIMIT, ref->cursor);
	return true;
}

/* Newest first, which is also the default (OpenAPI document, listFiles). */
static bool
make_find_file(const LlmbBatchRef *ref, LlmbCall *call)
{
	call->method = "GET";
	if (ref->cursor == NULL)
	{
		call->path = psprintf("/files?purpose=batch&order=desc&limit=%d", FILE_LIMIT);
		return true;
	}
	if (!llmb_is_id(ref->cursor))
		return false;
	call->path = psprintf("/files?purpose=batch&order=desc&limit=%d&after=%s", FILE_LIMIT, ref->cursor);
	return true;
}

/* A model's name that may stand in a path; those of Azure's deployments can have dots. */
static bool
is_deployment(const char *name)
{
	size_t		len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");

	return len > 0 && len <= 128 && name[len] == '\0' && strspn(name, ".") < len;
}

/*
 * Azure's older paths name the deployment, but not for Responses, which came
 * later (Microsoft Learn, "Azure OpenAI REST API reference").
 */
static bool
make_answer(const LlmbBatchRef *ref, LlmbCall *call)
{
	LlmbEndpoint endpoint = llmb_openai_endpoint(ref->model, ref->dialect);
	const char *path = llmb_openai_path(endpoint);

	call->method = "POST";
	llmb_add_header(call, "Content-Type", "", "application/json");
	if (endpoint == LLMB_ENDPOINT_RESPONSES || !llmb_openai_is_old_azure(ref->dialect, ref->base_url))
		call->path = pstrdup(path);
	else if (ref->model != NULL && is_deployment(ref->model->name))
		call->path = psprintf("/deployments/%s%s", ref->model->name, path);
	return call->path != NULL;
}

static bool
make_path(LlmbVerb verb, const LlmbBatchRef *ref, LlmbCall *call)
{
	switch (verb)
	{
		case LLMB_CALL_UPLOAD:
			return make_upload(ref, call);
		case LLMB_CALL_CREATE:
			return make_create(ref, call);
		case LLMB_CALL_POLL:
			return set_path(call, "GET", "/batches/", ref->remote_id, "");
		case LLMB_CALL_LIST:
			return make_list(ref, call);
		case LLMB_CALL_FIND_FILE:
			return make_find_file(ref, call);
		case LLMB_CALL_CANCEL:
			return set_path(call, "POST", "/batches/", ref->remote_id, "/cancel");
		case LLMB_CALL_FETCH:
			call->reply_is_lines = true;
			return set_path(call, "GET", "/files/",
							ref->part == 0 ? ref->remote_output : ref->remote_errors,
							"/content");
		case LLMB_CALL_DELETE_FILE:
			return set_path(call, "DELETE", "/files/", ref->remote_input, "");
		case LLMB_CALL_CHECK:
			call->method = "GET";
			call->path = pstrdup("/models");
			return true;
		case LLMB_CALL_ANSWER:
			return make_answer(ref, call);
		case LLMB_CALL_UPLOAD_DATA:
			return false;
	}
	return false;
}

/* Azure: "?api-version=..."; false when it cannot be part of a query. */
static bool
add_api_version(LlmbCall *call, const char *version)
{
	char	   *path = call->path;

	if (version == NULL || version[0] == '\0')
		return true;
	if (!is_deployment(version))
		return false;
	call->path = psprintf("%s%sapi-version=%s", path, strchr(path, '?') ? "&" : "?", version);
	pfree(path);
	return true;
}

bool
llmb_openai_make_call(LlmbVerb verb, const LlmbBatchRef *ref,
					  const char *key, LlmbCall *call)
{
	memset(call, 0, sizeof(LlmbCall));
	if (ref->dialect->key_header)
		llmb_add_header(call, "api-key", "", key);
	else
		llmb_add_header(call, "Authorization", "Bearer ", key);
	llmb_add_header(call, "OpenAI-Organization", "", ref->organization);
	llmb_add_header(call, "OpenAI-Project", "", ref->project);
	return make_path(verb, ref, call) && add_api_version(call, ref->dialect->api_version);
}

/*
 * Replies
 */

/* An object that a call names is gone; elsewhere the address is wrong. */
static LlmbFault
judge_not_found(LlmbVerb verb, const LlmbOpenaiError *words)
{
	switch (verb)
	{
		case LLMB_CALL_POLL:
		case LLMB_CALL_CANCEL:
		case LLMB_CALL_FETCH:
		case LLMB_CALL_DELETE_FILE:
			return LLMB_FAULT_GONE;
		case LLMB_CALL_CREATE:
			if (llmb_in_list(words->param, "file_id input_file_id"))
				return LLMB_FAULT_GONE;
			return LLMB_FAULT_REQUEST;
		default:
			return LLMB_FAULT_REQUEST;
	}
}

static LlmbFault
judge_status(LlmbVerb verb, int status, const LlmbOpenaiError *words)
{
	if (status >= 400 && status < 500)
	{
		if (llmb_openai_error_in(words, LLMB_OPENAI_QUOTA_CODES))
			return LLMB_FAULT_QUOTA;
		if (llmb_openai_error_in(words, "token_limit_exceeded"))
			return LLMB_FAULT_QUEUE_FULL;
	}
	switch (status)
	{
		case 400:
			/* a file just uploaded may be unknown for some seconds (seen) */
			if (verb == LLMB_CALL_CREATE &&
				llmb_in_list(words->param, "file_id input_file_id"))
				return LLMB_FAULT_RETRY;
			return LLMB_FAULT_REQUEST;
		case 401:
		case 403:
			return LLMB_FAULT_KEY;
		case 402:				/* gateways: no credit left */
			return LLMB_FAULT_QUOTA;
		case 404:
			return judge_not_found(verb, words);
		case 408:
		case 409:
		case 429:
			return LLMB_FAULT_RETRY;
		case 413:
			return LLMB_FAULT_TOO_LARGE;
		case 501:				/* no such call, and there will be none */
			return LLMB_FAULT_REQUEST;
	}
	return (status < 400 || status >= 500) ? LLMB_FAULT_RETRY : LLMB_FAULT_REQUEST;
}

/*
 * Compatible servers without a batch API know nothing of these paths.  A
 * create can also fail to find a file or a model, and says so.
 */
static bool
lacks_batches(LlmbVerb verb, int status, const LlmbOpenaiError *words)
{
	if (status != 404 && status != 405 && status != 501)
		return false;
	return verb == LLMB_CALL_UPLOAD || verb == LLMB_CALL_LIST ||
		(verb == LLMB_CALL_CREATE && words->param[0] == '\0' && words->code[0] == '\0');
}

/*
 * "Enqueued token limit reached for gpt-4o-mini in organization org-x.
 * Limit: 2,000,000 enqueued tokens." (seen): the number, or 0.
 */
static int64
queue_limit(const char *message)
{
	static const char before[] = "Limit: ";
	const char *p = strstr(message, before);
	int64		tokens = 0;

	if (p == NULL)
		return 0;
	for (p += strlen(before); (*p >= '0' && *p <= '9') || *p == ','; p++)
	{
		if (tokens > PG_INT64_MAX / 100)
			return 0;
		if (*p != ',')
			tokens = tokens * 10 + (*p - '0');
	}
	return strncmp(p, " enqueued tokens", 16) == 0 ? tokens : 0;
}

static void
read_failure(LlmbVerb verb, int status, const LlmbJson *body, LlmbReply *reply)
{
	LlmbOpenaiError words;

	llmb_openai_read_error(body, &words);
	reply->fault = judge_status(verb, status, &words);
	if (lacks_batches(verb, status, &words))
	{
		reply->code = pstrdup("no_batch_api");
		reply->message = pstrdup("There is no batch API at this address: see the server's option \"base_url\", "
								 "or set \"batch\" to off.");
		return;
	}
	reply->code = llmb_openai_error_code(&words);
	reply->message = llmb_copy_or_null(words.message);
	if (reply->fault == LLMB_FAULT_QUEUE_FULL)
		reply->queue_tokens = queue_limit(words.message);
}

static LlmbRemoteState
read_state(const char *status)
{
	static const struct
	{
		const char *name;
		LlmbRemoteState state;
	}			names[] =
	{
		{"validating", LLMB_REMOTE_RUNNING},
		{"in_progress", LLMB_REMOTE_RUNNING},
		{"finalizing", LLMB_REMOTE_RUNNING},
		{"completed", LLMB_REMOTE_ENDED},
		{"failed", LLMB_REMOTE_FAILED},
		{"expired", LLMB_REMOTE_EXPIRED},
		{"cancelling", LLMB_REMOTE_CANCELLING},
		{"cancelled", LLMB_REMOTE_CANCELLED},
	};
	int			i;

	for (i = 0; i < (int) lengthof(names); i++)
	{
		if (pg_strcasecmp(status, names[i].name) == 0)
			return names[i].state;
	}
	return LLMB_REMOTE_UNKNOWN;
}

/* False when an id is there and cannot be used; "" is none (seen 2026). */
static bool
read_id(const LlmbJson *node, const char *member, char **id)
{
	const char *text = llmb_json_string(node, member);

	*id = NULL;
	if (text == NULL || text[0] == '\0')
		return true;
	if (!llmb_is_id(text))
		return false;
	*id = pstrdup(text);
	return true;
}

/* Why validation refused a batch: the first of its errors. */
static LlmbFault
judge_failed_batch(const LlmbOpenaiError *words)
{
	if (llmb_in_list(words->code, "token_limit_exceeded"))
		return LLMB_FAULT_QUEUE_FULL;
	if (llmb_in_list(words->code, LLMB_OPENAI_QUOTA_CODES))
		return LLMB_FAULT_QUOTA;
	if (llmb_in_list(words->code, "too_many_tasks"))
		return LLMB_FAULT_TOO_LARGE;
	return LLMB_FAULT_REQUEST;
}

static void
first_error(const LlmbJson *node, LlmbOpenaiError *words)
{
	llmb_openai_read_error(llmb_json_at(llmb_json_path(node, "errors", "data", NULL), 0), words);
}

/* The lines of the request file (from 1) that validation objects to. */
static void
read_bad_lines(const LlmbJson *errors, LlmbRemoteBatch *batch)
{
	int			i;

	for (i = 0; errors && i < errors->count && batch->bad_line_count < LLMB_BAD_LINES; i++)
	{
		int64		line = llmb_json_int(llmb_json_at(errors, i), "line", 0);

		if (line > 0 && line <= PG_INT32_MAX)
			batch->bad_lines[batch->bad_line_count++] = (int) line;
	}
}

/* In whole seconds; a batch has at most one of these. */
static int64
read_end_ms(const LlmbJson *node)
{
	static const char *const names[] = {"completed_at", "expired_at", "cancelled_at", "failed_at"};
	int64		seconds = 0;
	int			i;

	for (i = 0; i < (int) lengthof(names); i++)
		seconds = Max(seconds, llmb_epoch_seconds(node, names[i]));
	return seconds * 1000;
}

/* False when this is not a batch, or one that cannot be worked with. */
static bool
read_batch(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	const char *object = llmb_json_string(node, "object");
	const char *status = llmb_json_string(node, "status");
	const char *token = llmb_json_string(llmb_json_get(node, "metadata"), "llm_batch");
	LlmbJson   *counts = llmb_json_get(node, "request_counts");
	LlmbOpenaiError words;

	if (status == NULL || (object != NULL && strcmp(object, "batch") != 0))
		return false;
	if (!read_id(node, "output_file_id", &batch->output) ||
		!read_id(node, "error_file_id", &batch->errors) ||
		!read_id(node, "input_file_id", &batch->input))
		return false;
	batch->token = llmb_is_id(token) ? pstrdup(token) : NULL;
	batch->created_s = llmb_epoch_seconds(node, "created_at");
	batch->ended_ms = read_end_ms(node);
	batch->state = read_state(status);
	if (batch->state == LLMB_REMOTE_FAILED)
	{
		first_error(node, &words);
		batch->fault = judge_failed_batch(&words);
		read_bad_lines(llmb_json_path(node, "errors", "data", NULL), batch);
	}
	/* before validation is through all counts are 0, which tells nothing */
	if (pg_strcasecmp(status, "validating") == 0)
		counts = NULL;
	batch->total = llmb_count(counts, "total");
	batch->done = llmb_count(counts, "completed");
	batch->failed = llmb_count(counts, "failed");

	/* the id last: whoever sees one sees a whole batch */
	return read_id(node, "id", &batch->id) && batch->id != NULL;
}

static bool
read_described_batch(const LlmbJson *body, LlmbReply *reply)
{
	LlmbOpenaiError words;

	if (!read_batch(body, &reply->batch))
		return false;
	if (reply->batch.state == LLMB_REMOTE_FAILED)
	{
		first_error(body, &words);
		reply->code = llmb_safe_code(words.code);
		reply->message = llmb_copy_or_null(words.message);
		if (reply->batch.fault == LLMB_FAULT_QUEUE_FULL)
			reply->queue_tokens = queue_limit(words.message);
	}
	return true;
}

/*
 * A page counts as read only when each batch on it was: a listing is what
 * proves that a batch does not exist.
 */
static bool
read_listing(const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *data = llmb_json_get(body, "data");
	LlmbJson   *more = llmb_json_get(body, "has_more");
	LlmbJson   *node;
	bool		has_more;

	if (data == NULL || data->type != LLMB_JSON_ARRAY)
		return false;
	reply->listed = palloc0(sizeof(LlmbRemoteBatch) * Max(data->count, 1));
	for (node = data->first; node != NULL; node = node->next)
	{
		if (!read_batch(node, &reply->listed[reply->listed_count]))
			return false;
		reply->listed_count++;
	}

	/* a server that says nothing of pages and sends more than asked for has none */
	if (llmb_json_is_null(more))
		has_more = (reply->listed_count == LIST_LIMIT);
	else
		has_more = (more->type != LLMB_JSON_BOOL || more->boolean);
	if (!has_more)
		return true;
	if (reply->listed_count == 0)
		return false;
	reply->next_cursor = pstrdup(reply->listed[reply->listed_count - 1].id);
	return true;
}

/* The token in a file's name as make_upload() writes it; NULL when it is none of ours. */
static char *
token_of_name(const char *name)
{
	size_t		len = strlen(name);
	size_t		prefix = strlen(FILE_PREFIX);
	size_t		suffix = strlen(FILE_SUFFIX);
	char	   *token;

	if (len <= prefix + suffix || strncmp(name, FILE_PREFIX, prefix) != 0 ||
		strcmp(name + len - suffix, FILE_SUFFIX) != 0)
		return NULL;
	token = pnstrdup(name + prefix, len - prefix - suffix);
	return llmb_is_id(token) ? token : NULL;
}

/* "status" is deprecated, so that a file without one is as good as any. */
static LlmbFileState
read_file_state(const char *status)
{
	if (strcmp(status, "error") == 0)
		return LLMB_FILE_BROKEN;
	return strcmp(status, "uploaded") == 0 ? LLMB_FILE_PENDING : LLMB_FILE_READY;
}

/*
 * Other than with batches, money does not hang on the completeness of this
 * listing: what is not understood is passed over.
 */
static bool
read_files(const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *data = llmb_json_get(body, "data");
	LlmbJson   *more = llmb_json_get(body, "has_more");
	LlmbJson   *node;
	const char *last = NULL;

	if (data == NULL || data->type != LLMB_JSON_ARRAY)
		return false;
	reply->files = palloc0(sizeof(LlmbRemoteFile) * Max(data->count, 1));
	for (node = data->first; node != NULL; node = node->next)
	{
		LlmbRemoteFile *file = &reply->files[reply->file_count];

		last = llmb_json_string(node, "id");
		if (!llmb_is_id(last))
			continue;
		file->id = pstrdup(last);
		file->token = token_of_name(llmb_string_or_empty(node, "filename"));
		file->bytes = Max(llmb_json_int(node, "bytes", -1), -1);
		file->created_s = llmb_epoch_seconds(node, "created_at");
		file->state = read_file_state(llmb_string_or_empty(node, "status"));
		reply->file_count++;
	}
	if (more != NULL && more->type == LLMB_JSON_BOOL && more->boolean && llmb_is_id(last))
		reply->next_cursor = pstrdup(last);
	return true;
}

/* False when the reply is not what the call should bring. */
static bool
read_success(LlmbVerb verb, const LlmbHttpReply *http, const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *data;

	(void) http;
	switch (verb)
	{
		case LLMB_CALL_UPLOAD:
			return read_id(body, "id", &reply->file_id) && reply->file_id != NULL;
		case LLMB_CALL_CREATE:
		case LLMB_CALL_CANCEL:
		case LLMB_CALL_POLL:
			return read_described_batch(body, reply);
		case LLMB_CALL_LIST:
			return read_listing(body, reply);
		case LLMB_CALL_FIND_FILE:
			return read_files(body, reply);
		case LLMB_CALL_CHECK:
			data = llmb_json_get(body, "data");
			reply->models = (data != NULL) ? data->count : 0;
			return data != NULL && data->type == LLMB_JSON_ARRAY;
		case LLMB_CALL_FETCH:
		case LLMB_CALL_DELETE_FILE:
		case LLMB_CALL_UPLOAD_DATA:
		case LLMB_CALL_ANSWER:
			return true;
	}
	return false;
}

void
llmb_openai_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply)
{
	llmb_read_reply(verb, http, reply, read_success, read_failure);
}

/* The name of a fine-tuned model begins with "ft:" and that of its base. */
static const char *
base_model(const char *model)
{
	return (strncmp(model, "ft:", 3) == 0) ? model + 3 : model;
}

/* Models of OpenAI's own: gpt-oss is served by others. */
static bool
openai_serves(const char *model)
{
	model = base_model(model);
	if (strncmp(model, "gpt-oss", 7) == 0)
		return false;
	return strncmp(model, "gpt-", 4) == 0 ||
		strncmp(model, "chatgpt-", 8) == 0 ||
		strncmp(model, "text-embedding-", 15) == 0 ||
		(model[0] == 'o' && model[1] >= '1' && model[1] <= '9' &&
		 strchr("-:", model[2]) != NULL);
}

const LlmbProvider llmb_provider_openai = {
	.api = "openai",
	.base_url = "https://api.openai.com/v1",
	.needs_key = true,
	.max_batch_requests = LLMB_OPENAI_MAX_BATCH_REQUESTS,
	.max_batch_bytes = LLMB_OPENAI_MAX_BATCH_BYTES,
	.window_hours = 24,	/* guide "Batch API" */
	.serves = openai_serves,
	.check_params = llmb_openai_check_params,
	.put_body = llmb_openai_put_body,
	.put_line = llmb_openai_put_line,
	.make_call = llmb_openai_make_call,
	.read_reply = llmb_openai_read_reply,
	.read_line = llmb_openai_read_line,
	.read_answer = llmb_openai_read_answer,
	.read_limits = llmb_openai_read_limits,
};
