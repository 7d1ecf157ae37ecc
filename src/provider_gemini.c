/*-------------------------------------------------------------------------
 *
 * provider_gemini.c
 *		Google's Gemini API (the one with an API key, not Vertex AI): its
 *		batch mode, and generateContent in real time.
 *
 * A batch is: a JSONL file uploaded in two calls (where to, then the bytes),
 * an "operation" created over it, polled until it is done, and a result file
 * of one line per request.  Our token travels as the displayName of file and
 * batch.  Requests are told apart by the "key" of their line.
 *
 * What is particular:
 *
 * - Integers come as strings, and members that are zero or empty do not come.
 * - States are written with one of two prefixes, and may be new: what is not
 *   known to be an end is one only when the operation says "done".
 * - Results stand in one of three places, and a batch that was made from a
 *   file may be answered inside of the operation.  Its output is then
 *   INLINE_OUTPUT instead of the name of a file, fetching it is one more look
 *   at the operation, and read_reply() makes lines of it.
 * - An expired batch delivers nothing, nor need a cancelled one.
 * - Ids contain a slash ("batches/...", "files/..."); both halves are checked
 *   before they enter a path.
 *
 * Nothing that came from the other side is trusted further than it was
 * checked; a reply that is not understood is a passing fault where "nothing
 * there" would be an answer.
 *
 * Sources: the npm package @google/genai 3.1.0 (August 2026), the pages
 * "Batch API", "Files API", "Rate limits", "Troubleshooting" and "OpenAI
 * compatibility" at ai.google.dev (2026), the API's discovery document
 * v1beta, revision 20251218, and recorded traffic of 2026; where a line goes
 * back to something that is only seen in the wild, it says so.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "provider.h"

/* "Input file: 2 GB" (Batch API guide) */
#define MAX_BATCH_BYTES		(INT64CONST(2) * 1000 * 1000 * 1000)

/*
 * No count of requests is documented.  Mixed up answers are reported of jobs
 * above 10,000 (googleapis/python-genai#1909), and a batch that expires delivers
 * nothing, so that one should not be everything.
 */
#define MAX_BATCH_REQUESTS	10000

/* Batches on a page of a listing. */
#define LIST_LIMIT 100
/* Models on a page: more than there are, the largest page there is. */
#define MODEL_LIMIT 1000
/* Longest page token that is sent back. */
#define MAX_CURSOR 1024
/* Longest address for an upload; they have about 300 characters. */
#define MAX_UPLOAD_PATH 2048

/* Stands for the id of a result file where the operation holds the results. */
#define INLINE_OUTPUT "inline"

/* Counts of tokens are of 32 bits, so that sums of them cannot overflow. */
#define MAX_TOKENS PG_INT32_MAX

/*
 * Parameters
 */

#define EFFORTS "none minimal low medium high"

/* Ranges: descriptions in the discovery document, GenerationConfig. */
static const LlmbParam known_params[] = {
	{"max_tokens", "maxOutputTokens", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"temperature", "temperature", LLMB_PARAM_NUMBER, 0, 2, NULL},
	{"top_p", "topP", LLMB_PARAM_NUMBER, 0, 1, NULL},
	{"top_k", "topK", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"seed", "seed", LLMB_PARAM_INTEGER, PG_INT32_MIN, PG_INT32_MAX, NULL},
	{"stop", "stopSequences", LLMB_PARAM_STOP, 0, 5, NULL},
	{"reasoning_effort", "thinkingConfig", LLMB_PARAM_WORD, 0, 0, EFFORTS},
};

static const LlmbParamHint other_names[] = {
	{"maxOutputTokens", "it is called \"max_tokens\" here"},
	{"max_output_tokens", "it is called \"max_tokens\" here"},
	{"max_completion_tokens", "it is called \"max_tokens\" here"},
	{"topP", "it is called \"top_p\" here"},
	{"topK", "it is called \"top_k\" here"},
	{"stopSequences", "it is called \"stop\" here"},
	{"stop_sequences", "it is called \"stop\" here"},
	{"effort", "it is called \"reasoning_effort\" here"},
	{"thinking", "use \"reasoning_effort\""},
	{"thinkingConfig", "use \"reasoning_effort\""},
	{"thinkingLevel", "use \"reasoning_effort\""},
	{"thinking_level", "use \"reasoning_effort\""},
	{"thinkingBudget", "use \"reasoning_effort\""},
	{"thinking_budget", "use \"reasoning_effort\""},
	{"generationConfig", "its members have names of their own here: max_tokens, temperature, ..."},
	{"response_format", "use the argument \"schema\""},
	{"responseSchema", "use the argument \"schema\""},
	{"responseJsonSchema", "use the argument \"schema\""},
	{"contents", "let the query yield a column \"messages\""},
	{"messages", "let the query yield a column \"messages\""},
	{"model", "use the argument \"model\""},
	{"system", "use the argument \"system\""},
	{"systemInstruction", "use the argument \"system\""},
	{"n", "each prompt has one answer"},
	{"candidateCount", "each prompt has one answer"},
	{"stream", "answers are not streamed"},
	{"presence_penalty", "these models refuse it"},
	{"frequency_penalty", "these models refuse it"},
};

/*
 * How a model is told to think: 'gemini-budget' (2.5) takes a number of
 * tokens, 'gemini-level' (3 and later) a word.  A model that nobody has
 * described is judged by its name.
 */
static bool
thinks_by_budget(const LlmbModel *model)
{
	const char *name = model->name;

	if (model->model_class != NULL)
		return strcmp(model->model_class, "gemini-budget") == 0;
	if (strncmp(name, "models/", 7) == 0)
		name += 7;
	return strncmp(name, "gemini-2.", 9) == 0;
}

/* 2.5 Pro has a least budget of 128 tokens; a level is never "none". */
static bool
always_thinks(const LlmbModel *model)
{
	return !thinks_by_budget(model) ||
		(model->efforts == NULL && strstr(model->name, "gemini-2.5-pro") != NULL);
}

static char *
gemini_check_params(const LlmbModel *model, const LlmbDialect *dialect, const LlmbJson *params)
{
	const char *effort = llmb_json_string(params, "reasoning_effort");
	char	   *reason;

	if (dialect != NULL && dialect->endpoint == LLMB_ENDPOINT_RESPONSES)
		return pstrdup("the endpoint \"responses\" is one of servers with api openai");
	if ((dialect != NULL && dialect->endpoint == LLMB_ENDPOINT_EMBEDDINGS) ||
		(model->model_class != NULL && strcmp(model->model_class, "embedding") == 0))
		return pstrdup("embeddings are asked of servers with api openai");

	reason = llmb_check_params(known_params, lengthof(known_params),
							   other_names, lengthof(other_names), params);
	if (reason == NULL)
		reason = llmb_check_model_params(model, params, "temperature top_p top_k");
	if (reason == NULL && effort != NULL && strcmp(effort, "none") == 0 && always_thinks(model))
		reason = psprintf("model \"%s\" cannot be told not to think: reasoning_effort \"none\" is not for it",
						  model->name);
	return reason;
}

/*
 * Names
 */

/*
 * A model as it stands in paths and bodies: "models/..." or "tunedModels/...",
 * palloc'd; NULL when the name cannot be part of a path.
 */
static char *
model_path(const LlmbModel *model)
{
	const char *name = model->name;
	const char *kind = "models/";
	size_t		len;

	if (strncmp(name, "models/", 7) == 0)
		name += 7;
	else if (strncmp(name, "tunedModels/", 12) == 0)
	{
		kind = "tunedModels/";
		name += 12;
	}
	len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
	if (len == 0 || len > 128 || name[len] != '\0' || name[0] == '.')
		return NULL;
	return psprintf("%s%s", kind, name);
}

/* Whether id is kind ("batches/", "files/") and one more word. */
static bool
is_name(const char *id, const char *kind)
{
	size_t		len = strlen(kind);

	return id != NULL && strncmp(id, kind, len) == 0 && llmb_is_id(id + len);
}

static bool
is_inline(const char *output)
{
	return output != NULL && strcmp(output, INLINE_OUTPUT) == 0;
}

/* v1beta, unless the server's option says otherwise; NULL when it may not. */
static const char *
version(const LlmbBatchRef *ref)
{
	const char *version = ref->dialect != NULL ? ref->dialect->api_version : NULL;

	if (version == NULL || version[0] == '\0')
		return "v1beta";
	return llmb_is_id(version) ? version : NULL;
}

/*
 * Requests
 */

static void
put_text_part(StringInfo out, const char *text)
{
	appendStringInfoString(out, "{\"text\":");
	llmb_json_put_string(out, text);
	appendStringInfoChar(out, '}');
}

static void
put_comma(StringInfo out, bool *first)
{
	if (!*first)
		appendStringInfoChar(out, ',');
	*first = false;
}

/*
 * A picture as OpenAI's clients write it, {"image_url":{"url":"data:T;base64,D"}},
 * is {"inlineData":{"mimeType":T,"data":D}} here.
 */
static bool
put_image_part(StringInfo out, const LlmbJson *part)
{
	const char *url = llmb_json_string(llmb_json_get(part, "image_url"), "url");
	const char *comma;

	if (url == NULL || strncmp(url, "data:", 5) != 0)
		return false;
	comma = strstr(url, ";base64,");
	if (comma == NULL)
		return false;
	appendStringInfoString(out, "{\"inlineData\":{\"mimeType\":");
	llmb_json_put_string_len(out, url + 5, comma - url - 5);
	appendStringInfoString(out, ",\"data\":");
	llmb_json_put_string(out, comma + 8);
	appendStringInfoString(out, "}}");
	return true;
}

/*
 * One part of a message.  One that is not known goes as it is: users may
 * write this API's own, and what is none of them the provider refuses, while
 * to leave it out would change the question.
 */
static void
put_part(StringInfo out, const LlmbJson *part)
{
	const char *text = llmb_json_string(part, "text");

	if (part->type == LLMB_JSON_STRING)
		put_text_part(out, part->text);
	else if (text != NULL)
		put_text_part(out, text);
	else if (!put_image_part(out, part))
		llmb_json_put_node(out, part);
}

/* The parts of a message's content, or of its "parts". */
static void
put_parts(StringInfo out, const LlmbJson *message, bool *first)
{
	const LlmbJson *content = llmb_json_get(message, "content");
	const LlmbJson *part;

	if (content == NULL)
		content = llmb_json_get(message, "parts");
	if (llmb_json_is_null(content))
		return;
	if (content->type != LLMB_JSON_ARRAY)
	{
		put_comma(out, first);
		put_part(out, content);
		return;
	}
	for (part = content->first; part != NULL; part = part->next)
	{
		put_comma(out, first);
		put_part(out, part);
	}
}

static bool
is_system(const LlmbJson *message)
{
	return llmb_in_list(llmb_string_or_empty(message, "role"), "system developer");
}

static void
put_contents(StringInfo out, const LlmbRequest *request, const LlmbJson *messages)
{
	const LlmbJson *message;
	bool		first = true;

	appendStringInfoString(out, ",\"contents\":[");
	if (messages == NULL)
	{
		appendStringInfoString(out, "{\"role\":\"user\",\"parts\":[");
		put_text_part(out, request->prompt ? request->prompt : "");
		appendStringInfoString(out, "]}");
	}
	for (message = messages ? messages->first : NULL; message != NULL; message = message->next)
	{
		bool		first_part = true;
		bool		ours = llmb_in_list(llmb_string_or_empty(message, "role"), "assistant model");

		if (is_system(message))
			continue;
		put_comma(out, &first);
		appendStringInfo(out, "{\"role\":\"%s\",\"parts\":[", ours ? "model" : "user");
		put_parts(out, message, &first_part);
		appendStringInfoString(out, "]}");
	}
	appendStringInfoChar(out, ']');
}

/* in_words: the schema must be told in the system prompt. */
static void
put_system(StringInfo out, const LlmbRequest *request, const LlmbJson *messages, bool in_words)
{
	const char *system = messages == NULL ? request->system : NULL;
	const LlmbJson *message;
	StringInfoData parts;
	bool		first = true;

	initStringInfo(&parts);
	for (message = messages ? messages->first : NULL; message != NULL; message = message->next)
	{
		if (is_system(message))
			put_parts(&parts, message, &first);
	}
	if (in_words)
	{
		char	   *words = llmb_schema_in_words(system, request->schema);

		put_comma(&parts, &first);
		put_text_part(&parts, words);
		pfree(words);
	}
	else if (system != NULL)
	{
		put_comma(&parts, &first);
		put_text_part(&parts, system);
	}
	if (!first)
		appendStringInfo(out, ",\"systemInstruction\":{\"parts\":[%s]}", parts.data);
	pfree(parts.data);
}

/*
 * Tokens to think with.  1,024, 8,192 and 24,576 are what Google's own
 * OpenAI-compatible endpoint makes of these words ("OpenAI compatibility"
 * at ai.google.dev); 0 turns thinking off where the model allows it.
 */
static int
thinking_budget(const char *effort)
{
	if (strcmp(effort, "none") == 0)
		return 0;
	if (strcmp(effort, "high") == 0)
		return 24576;
	if (strcmp(effort, "medium") == 0)
		return 8192;
	return 1024;
}

static void
put_thinking(StringInfo out, const LlmbModel *model, const char *effort)
{
	const char *p;

	if (thinks_by_budget(model))
	{
		appendStringInfo(out, "\"thinkingConfig\":{\"thinkingBudget\":%d}", thinking_budget(effort));
		return;
	}
	appendStringInfoString(out, "\"thinkingConfig\":{\"thinkingLevel\":\"");
	for (p = effort; *p != '\0'; p++)
		appendStringInfoChar(out, (*p >= 'a' && *p <= 'z') ? *p - 'a' + 'A' : *p);
	appendStringInfoString(out, "\"}");
}

/* A parameter that is known and has a value of its type. */
static void
put_param(StringInfo out, const LlmbModel *model, const LlmbParam *param, const LlmbJson *value)
{
	if (strcmp(param->name, "reasoning_effort") == 0)
	{
		put_thinking(out, model, value->text ? value->text : "");
		return;
	}
	appendStringInfo(out, "\"%s\":", param->wire);
	if (param->kind == LLMB_PARAM_STOP && value->type == LLMB_JSON_STRING)
	{
		appendStringInfoChar(out, '[');
		llmb_json_put_node(out, value);
		appendStringInfoChar(out, ']');
	}
	else
		llmb_json_put_node(out, value);
}

static void
put_config(StringInfo out, const LlmbRequest *request, LlmbStructured structured)
{
	const LlmbJson *value = NULL;
	StringInfoData config;
	bool		first = true;

	initStringInfo(&config);
	if (request->params != NULL && request->params->type == LLMB_JSON_OBJECT)
		value = request->params->first;
	for (; value != NULL; value = value->next)
	{
		const LlmbParam *param = llmb_find_param(known_params, lengthof(known_params), value->name);

		if (param == NULL || llmb_json_is_null(value))
			continue;
		put_comma(&config, &first);
		put_param(&config, request->model, param, value);
	}
	if (request->schema != NULL && structured != LLMB_STRUCTURED_PROMPT)
	{
		put_comma(&config, &first);
		appendStringInfoString(&config, "\"responseMimeType\":\"application/json\"");
		if (structured == LLMB_STRUCTURED_NATIVE)
		{
			appendStringInfoString(&config, ",\"responseJsonSchema\":");
			llmb_put_raw(&config, request->schema);
		}
	}
	if (!first)
		appendStringInfo(out, ",\"generationConfig\":{%s}", config.data);
	pfree(config.data);
}

static LlmbStructured
structured_by(const LlmbRequest *request)
{
	LlmbStructured structured = request->dialect ? request->dialect->structured : LLMB_STRUCTURED_NATIVE;

	if (structured == LLMB_STRUCTURED_NATIVE && request->model->json_schema == 0)
		return LLMB_STRUCTURED_PROMPT;
	return structured;
}

static LlmbJson *
parse_messages(const char *text)
{
	size_t		len = strlen(text);
	char	   *copy = pnstrdup(text, len);
	const char *reason;
	bool		altered = false;
	LlmbJson   *messages;

	len = llmb_json_clean(copy, len, &altered);
	messages = llmb_json_parse(copy, len, &reason);
	pfree(copy);
	return messages;
}

/*
 * The model is a member as well as part of the path: the discovery document
 * requires it.
 */
static void
gemini_put_body(StringInfo out, const LlmbRequest *request)
{
	LlmbStructured structured = structured_by(request);
	char	   *model = model_path(request->model);
	LlmbJson   *messages = request->messages ? parse_messages(request->messages) : NULL;

	appendStringInfoString(out, "{\"model\":");
	llmb_json_put_string(out, model ? model : request->model->name);
	put_system(out, request, messages, request->schema != NULL && structured != LLMB_STRUCTURED_NATIVE);
	put_config(out, request, structured);
	put_contents(out, request, messages);
	appendStringInfoChar(out, '}');
	llmb_json_free(messages);
	if (model != NULL)
		pfree(model);
}

static void
gemini_put_line(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, "{\"key\":");
	llmb_json_put_string(out, request->custom_id);
	appendStringInfoString(out, ",\"request\":");
	gemini_put_body(out, request);
	appendStringInfoString(out, "}\n");
}

/*
 * Calls
 */

/* An absolute address in its parts; pointers into the text. */
typedef struct Address
{
	bool		https;
	const char *host;
	size_t		host_len;
	int			port;
	const char *path;			/* what follows the port: "" or begins with '/' */
} Address;

/* False when it is none, or one with anything out of the ordinary. */
static bool
read_address(const char *url, Address *address)
{
	size_t		host_len;

	memset(address, 0, sizeof(*address));
	if (pg_strncasecmp(url, "https://", 8) == 0)
		address->https = true;
	else if (pg_strncasecmp(url, "http://", 7) != 0)
		return false;
	address->host = url + (address->https ? 8 : 7);

	if (address->host[0] == '[')
		host_len = strspn(address->host, "[0123456789abcdefABCDEF:.]");
	else
		host_len = strspn(address->host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
	address->host_len = host_len;
	address->path = address->host + host_len;
	address->port = address->https ? 443 : 80;
	if (host_len == 0)
		return false;
	if (address->path[0] == ':')
	{
		size_t		digits = strspn(address->path + 1, "0123456789");

		if (digits == 0 || digits > 5)
			return false;
		address->port = atoi(address->path + 1);
		address->path += 1 + digits;
	}
	return address->path[0] == '\0' || address->path[0] == '/';
}

/*
 * The path of an address that we were told to upload to, after base_url;
 * NULL when it leads to another host, or to where base_url does not.
 */
static char *
upload_path(const char *base_url, const char *upload_url)
{
	Address		base;
	Address		upload;
	size_t		base_len;
	size_t		len;

	if (base_url == NULL || upload_url == NULL ||
		!read_address(base_url, &base) || !read_address(upload_url, &upload))
		return NULL;
	if (base.https != upload.https || base.port != upload.port || base.host_len != upload.host_len ||
		pg_strncasecmp(base.host, upload.host, base.host_len) != 0)
		return NULL;
	base_len = strlen(base.path);
	if (strncmp(base.path, upload.path, base_len) != 0 || upload.path[base_len] != '/')
		return NULL;
	len = strspn(upload.path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				 "-._~/?&=%+:@!$'()*,;");
	if (upload.path[len] != '\0' || len > MAX_UPLOAD_PATH || strstr(upload.path, "/..") != NULL)
		return NULL;
	return pstrdup(upload.path + base_len);
}

static bool
set_path(LlmbCall *call, const char *method, const char *version, const char *path, const char *after)
{
	call->method = method;
	call->path = psprintf("/%s/%s%s", version, path, after);
	return true;
}

static void
add_json_body(LlmbCall *call)
{
	llmb_add_header(call, "Content-Type", "", "application/json");
	call->body = makeStringInfo();
}

/* Asks where to send the file. */
static bool
make_upload(const LlmbBatchRef *ref, const char *version, LlmbCall *call)
{
	char		bytes[32];

	if (!llmb_is_id(ref->token))
		return false;
	snprintf(bytes, sizeof(bytes), INT64_FORMAT, ref->file_bytes);
	call->method = "POST";
	call->path = psprintf("/upload/%s/files", version);
	llmb_add_header(call, "X-Goog-Upload-Protocol", "", "resumable");
	llmb_add_header(call, "X-Goog-Upload-Command", "", "start");
	llmb_add_header(call, "X-Goog-Upload-Header-Content-Length", "", bytes);
	llmb_add_header(call, "X-Goog-Upload-Header-Content-Type", "", "application/jsonl");
	add_json_body(call);
	appendStringInfo(call->body, "{\"file\":{\"displayName\":\"%s\"}}", ref->token);
	return true;
}

/* The whole file in one part, which is also the last. */
static bool
make_upload_data(const LlmbBatchRef *ref, LlmbCall *call)
{
	call->method = "POST";
	call->path = upload_path(ref->base_url, ref->upload_url);
	if (call->path == NULL)
		return false;
	llmb_add_header(call, "X-Goog-Upload-Offset", "", "0");
	llmb_add_header(call, "X-Goog-Upload-Command", "", "upload, finalize");
	llmb_add_header(call, "Content-Type", "", "application/jsonl");
	call->with_file = true;
	return true;
}

static bool
make_create(const LlmbBatchRef *ref, const char *version, LlmbCall *call)
{
	char	   *model = model_path(ref->model);

	if (model == NULL || !llmb_is_id(ref->token) || !is_name(ref->remote_input, "files/"))
		return false;
	add_json_body(call);
	appendStringInfo(call->body,
					 "{\"batch\":{\"model\":\"%s\",\"displayName\":\"%s\",\"inputConfig\":{\"fileName\":\"%s\"}}}",
					 model, ref->token, ref->remote_input);
	return set_path(call, "POST", version, model, ":batchGenerateContent");
}

/*
 * A page of "batches" or of "files", 100 of which are the most for both (Files
 * API reference, "files.list").  A page token is opaque: what is not a plain
 * letter is escaped.
 */
static bool
make_list(const LlmbBatchRef *ref, const char *version, const char *what, LlmbCall *call)
{
	StringInfoData path;
	const char *p;

	initStringInfo(&path);
	appendStringInfo(&path, "/%s/%s?pageSize=%d", version, what, LIST_LIMIT);
	if (ref->cursor != NULL)
	{
		if (ref->cursor[0] == '\0' || strlen(ref->cursor) > MAX_CURSOR)
			return false;
		appendStringInfoString(&path, "&pageToken=");
		for (p = ref->cursor; *p != '\0'; p++)
		{
			if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", *p))
				appendStringInfoChar(&path, *p);
			else
				appendStringInfo(&path, "%%%02X", (unsigned char) *p);
		}
	}
	call->method = "GET";
	call->path = path.data;
	return true;
}

/* There is one result file; a result that is no file is in the operation. */
static bool
make_fetch(const LlmbBatchRef *ref, const char *version, LlmbCall *call)
{
	if (ref->part != 0)
		return false;
	if (is_inline(ref->remote_output))
		return is_name(ref->remote_id, "batches/") && set_path(call, "GET", version, ref->remote_id, "");
	if (!is_name(ref->remote_output, "files/"))
		return false;
	call->method = "GET";
	call->path = psprintf("/download/%s/%s:download?alt=media", version, ref->remote_output);
	call->reply_is_lines = true;
	return true;
}

static bool
make_answer(const LlmbBatchRef *ref, const char *version, LlmbCall *call)
{
	char	   *model = model_path(ref->model);

	if (model == NULL)
		return false;
	llmb_add_header(call, "Content-Type", "", "application/json");
	return set_path(call, "POST", version, model, ":generateContent");
}

static bool
make_cancel(const LlmbBatchRef *ref, const char *version, LlmbCall *call)
{
	if (!is_name(ref->remote_id, "batches/"))
		return false;
	add_json_body(call);
	appendStringInfoString(call->body, "{}");
	return set_path(call, "POST", version, ref->remote_id, ":cancel");
}

static bool
gemini_make_call(LlmbVerb verb, const LlmbBatchRef *ref, const char *key, LlmbCall *call)
{
	const char *v = version(ref);

	memset(call, 0, sizeof(LlmbCall));
	if (v == NULL)
		return false;
	llmb_add_header(call, "x-goog-api-key", "", key);

	switch (verb)
	{
		case LLMB_CALL_UPLOAD:
			return make_upload(ref, v, call);
		case LLMB_CALL_UPLOAD_DATA:
			return make_upload_data(ref, call);
		case LLMB_CALL_CREATE:
			return make_create(ref, v, call);
		case LLMB_CALL_POLL:
			return is_name(ref->remote_id, "batches/") && set_path(call, "GET", v, ref->remote_id, "");
		case LLMB_CALL_LIST:
			return make_list(ref, v, "batches", call);
		case LLMB_CALL_FIND_FILE:
			return make_list(ref, v, "files", call);
		case LLMB_CALL_CANCEL:
			return make_cancel(ref, v, call);
		case LLMB_CALL_FETCH:
			return make_fetch(ref, v, call);
		case LLMB_CALL_DELETE_FILE:
			return is_name(ref->remote_input, "files/") && set_path(call, "DELETE", v, ref->remote_input, "");
		case LLMB_CALL_CHECK:
			call->method = "GET";
			call->path = psprintf("/%s/models?pageSize=%d", v, MODEL_LIMIT);
			return true;
		case LLMB_CALL_ANSWER:
			return make_answer(ref, v, call);
	}
	return false;
}

/*
 * Errors
 *
 * Of a call: {"error":{"code":429,"message":...,"status":"RESOURCE_EXHAUSTED",
 * "details":[...]}}, where code is the HTTP status.  Of an operation and of a
 * request in a batch: {"code":8,"message":...}, where code is a number of
 * google.rpc.Code.
 */
typedef enum RpcCode
{
	RPC_OK,
	RPC_CANCELLED,
	RPC_UNKNOWN,
	RPC_INVALID_ARGUMENT,
	RPC_DEADLINE_EXCEEDED,
	RPC_NOT_FOUND,
	RPC_ALREADY_EXISTS,
	RPC_PERMISSION_DENIED,
	RPC_RESOURCE_EXHAUSTED,
	RPC_FAILED_PRECONDITION,
	RPC_ABORTED,
	RPC_OUT_OF_RANGE,
	RPC_UNIMPLEMENTED,
	RPC_INTERNAL,
	RPC_UNAVAILABLE,
	RPC_DATA_LOSS,
	RPC_UNAUTHENTICATED
} RpcCode;

static const char *const rpc_names[] = {
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
};

typedef struct ErrorWords
{
	RpcCode		rpc;			/* RPC_UNKNOWN when it is not told */
	const char *reason;			/* "" when absent, as the others */
	const char *message;
	bool		per_day;		/* a quota that comes back with the next day */
	int64		retry_ms;		/* what the provider asks for; -1 nothing */
} ErrorWords;

/* The nearest google.rpc.Code of an HTTP status (google/rpc/code.proto). */
static RpcCode
rpc_of_status(int64 status)
{
	switch (status)
	{
		case 400:
		case 413:
			return RPC_INVALID_ARGUMENT;
		case 401:
			return RPC_UNAUTHENTICATED;
		case 402:				/* no credit: as "billing is not enabled" */
			return RPC_FAILED_PRECONDITION;
		case 403:
			return RPC_PERMISSION_DENIED;
		case 404:
			return RPC_NOT_FOUND;
		case 408:
		case 504:
			return RPC_DEADLINE_EXCEEDED;
		case 409:
			return RPC_ABORTED;
		case 429:
			return RPC_RESOURCE_EXHAUSTED;
		case 499:
			return RPC_CANCELLED;
		case 500:
			return RPC_INTERNAL;
		case 503:
			return RPC_UNAVAILABLE;
	}
	return RPC_UNKNOWN;
}

static RpcCode
read_rpc(const LlmbJson *error)
{
	const char *name = llmb_string_or_empty(error, "status");
	int64		code = llmb_json_int(error, "code", RPC_UNKNOWN);
	int			i;

	for (i = 1; i < (int) lengthof(rpc_names); i++)
	{
		if (strcmp(name, rpc_names[i]) == 0)
			return (RpcCode) i;
	}
	if (code > 0 && code < (int64) lengthof(rpc_names))
		return (RpcCode) code;
	return rpc_of_status(code);
}

/* A google.protobuf.Duration ("34s", "0.5s") in milliseconds; -1 if it is none. */
static int64
read_duration_ms(const char *text)
{
	char	   *end;
	double		seconds;

	if (text[0] < '0' || text[0] > '9')
		return -1;
	seconds = strtod(text, &end);
	if (strcmp(end, "s") != 0 || !(seconds <= 86400))
		return -1;
	return (int64) (seconds * 1000 + 0.999);
}

/* One of an error's details: ErrorInfo, RetryInfo or QuotaFailure. */
static void
read_detail(const LlmbJson *detail, ErrorWords *words)
{
	const char *reason = llmb_string_or_empty(detail, "reason");
	const char *delay = llmb_string_or_empty(detail, "retryDelay");
	const LlmbJson *violations = llmb_json_get(detail, "violations");
	const LlmbJson *violation;

	if (reason[0] != '\0' && words->reason[0] == '\0')
		words->reason = reason;
	if (delay[0] != '\0')
		words->retry_ms = read_duration_ms(delay);
	for (violation = violations ? violations->first : NULL; violation != NULL; violation = violation->next)
	{
		/* "GenerateRequestsPerDayPerProjectPerModel-FreeTier" */
		if (strstr(llmb_string_or_empty(violation, "quotaId"), "PerDay") != NULL)
			words->per_day = true;
	}
}

/* error: the object itself, or NULL. */
static void
read_error(const LlmbJson *error, ErrorWords *words)
{
	const LlmbJson *details = llmb_json_get(error, "details");
	const LlmbJson *detail;

	memset(words, 0, sizeof(*words));
	words->rpc = read_rpc(error);
	words->message = llmb_string_or_empty(error, "message");
	words->reason = "";
	words->retry_ms = -1;
	for (detail = details ? details->first : NULL; detail != NULL; detail = detail->next)
		read_detail(detail, words);
}

/* The error of a reply's body; some come wrapped in an array (seen). */
static const LlmbJson *
error_of(const LlmbJson *body)
{
	if (body != NULL && body->type == LLMB_JSON_ARRAY)
		body = body->first;
	return llmb_json_get(body, "error");
}

/*
 * "You do not have permission to access the File x or it may not exist.",
 * 403, is how a file that was deleted or has expired is answered (seen since
 * 2024: googleapis/python-genai#1218).
 */
static bool
may_not_exist(const ErrorWords *words)
{
	return strstr(words->message, "may not exist") != NULL;
}

/* "The input token count (n) exceeds the maximum number of tokens allowed" */
static bool
is_too_long(const ErrorWords *words)
{
	return strstr(words->message, "token count") != NULL && strstr(words->message, "exceeds") != NULL;
}

/* The words that may be shown: a reason tells more than a status. */
static char *
shown_code(const ErrorWords *words)
{
	char	   *code = llmb_safe_code(words->reason);

	if (code == NULL && words->rpc != RPC_UNKNOWN)
		code = pstrdup(rpc_names[words->rpc]);
	return code;
}

/*
 * Replies
 */

/*
 * 429.  A create is refused so when too many tokens are enqueued or too many
 * batches run, and without a word on which (googleapis/python-genai#1901).
 */
static LlmbFault
judge_exhausted(LlmbVerb verb, const ErrorWords *words)
{
	if (verb != LLMB_CALL_CREATE && verb != LLMB_CALL_ANSWER)
		return LLMB_FAULT_RETRY;
	if (words->per_day)
		return LLMB_FAULT_QUOTA;
	return verb == LLMB_CALL_CREATE ? LLMB_FAULT_QUEUE_FULL : LLMB_FAULT_BUSY;
}

static LlmbFault
judge_not_found(LlmbVerb verb, const ErrorWords *words)
{
	switch (verb)
	{
		case LLMB_CALL_POLL:
		case LLMB_CALL_CANCEL:
		case LLMB_CALL_FETCH:
		case LLMB_CALL_DELETE_FILE:
			return LLMB_FAULT_GONE;
		case LLMB_CALL_CREATE:
			/* the input file, unless it is the model */
			return strncmp(words->message, "models/", 7) == 0 ? LLMB_FAULT_REQUEST : LLMB_FAULT_GONE;
		case LLMB_CALL_UPLOAD_DATA:
			/* the upload's session is over: begin anew */
			return LLMB_FAULT_RETRY;
		default:
			return LLMB_FAULT_REQUEST;
	}
}

static LlmbFault
judge_refusal(LlmbVerb verb, int status, const ErrorWords *words)
{
	if (strncmp(words->reason, "API_KEY_", 8) == 0)
		return LLMB_FAULT_KEY;	/* a wrong key is 400 here */
	switch (status)
	{
		case 401:
			return LLMB_FAULT_KEY;
		case 402:
			return LLMB_FAULT_QUOTA;
		case 403:
			return may_not_exist(words) ? judge_not_found(verb, words) : LLMB_FAULT_KEY;
		case 404:
		case 410:
			return judge_not_found(verb, words);
		case 408:
		case 409:
		case 499:
			return LLMB_FAULT_RETRY;
		case 413:
			return LLMB_FAULT_TOO_LARGE;
		case 429:
			return judge_exhausted(verb, words);
	}
	/* 400: the region is not served, or billing is not enabled */
	if (words->rpc == RPC_FAILED_PRECONDITION)
		return LLMB_FAULT_QUOTA;
	return LLMB_FAULT_REQUEST;
}

static LlmbFault
judge_status(LlmbVerb verb, int status, const ErrorWords *words)
{
	if (status >= 400 && status < 500)
		return judge_refusal(verb, status, words);
	if (status == 503 && verb == LLMB_CALL_ANSWER)
		return LLMB_FAULT_BUSY;
	return (status < 400 || status >= 500) ? LLMB_FAULT_RETRY : LLMB_FAULT_REQUEST;
}

static void
read_failure(LlmbVerb verb, int status, const LlmbJson *body, LlmbReply *reply, ErrorWords *words)
{
	read_error(error_of(body), words);
	if (words->rpc == RPC_UNKNOWN)
		words->rpc = rpc_of_status(status);
	reply->fault = judge_status(verb, status, words);
	reply->code = shown_code(words);
	reply->message = llmb_copy_or_null(words->message);
	if (words->retry_ms >= 0)
		reply->retry_after_ms = words->retry_ms;
}

/* UNKNOWN: not named, or not known. */
static LlmbRemoteState
read_state(const char *state)
{
	static const struct
	{
		const char *name;
		LlmbRemoteState state;
	}			names[] =
	{
		{"PENDING", LLMB_REMOTE_RUNNING},
		{"QUEUED", LLMB_REMOTE_RUNNING},
		{"RUNNING", LLMB_REMOTE_RUNNING},
		{"PAUSED", LLMB_REMOTE_RUNNING},
		{"UPDATING", LLMB_REMOTE_RUNNING},
		{"CANCELLING", LLMB_REMOTE_CANCELLING},
		{"SUCCEEDED", LLMB_REMOTE_ENDED},
		{"PARTIALLY_SUCCEEDED", LLMB_REMOTE_ENDED},
		{"FAILED", LLMB_REMOTE_FAILED},
		{"CANCELLED", LLMB_REMOTE_CANCELLED},
		{"EXPIRED", LLMB_REMOTE_EXPIRED},
	};
	int			i;

	if (strncmp(state, "BATCH_STATE_", 12) == 0)
		state += 12;
	else if (strncmp(state, "JOB_STATE_", 10) == 0)
		state += 10;
	for (i = 0; i < (int) lengthof(names); i++)
	{
		if (strcmp(state, names[i].name) == 0)
			return names[i].state;
	}
	return LLMB_REMOTE_UNKNOWN;
}

/* Where results stand: the first of the three places that has any. */
static LlmbJson *
find_output(const LlmbJson *node)
{
	LlmbJson   *places[3];
	int			i;

	places[0] = llmb_json_get(node, "response");
	places[1] = llmb_json_path(node, "metadata", "output", NULL);
	places[2] = llmb_json_path(node, "response", "output", NULL);
	for (i = 0; i < 3; i++)
	{
		if (llmb_string_or_empty(places[i], "responsesFile")[0] != '\0' ||
			!llmb_json_is_null(llmb_json_get(places[i], "inlinedResponses")))
			return places[i];
	}
	return NULL;
}

/* False when there is a result file whose name cannot be used. */
static bool
read_output(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	LlmbJson   *output = find_output(node);
	const char *file = llmb_string_or_empty(output, "responsesFile");

	if (file[0] != '\0')
	{
		if (!is_name(file, "files/"))
			return false;
		batch->output = pstrdup(file);
	}
	else if (output != NULL)
		batch->output = pstrdup(INLINE_OUTPUT);
	return true;
}

/* A count that does not come is zero; -1 for one that cannot be. */
static int64
read_count(const LlmbJson *stats, const char *member)
{
	return llmb_json_get(stats, member) == NULL ? 0 : llmb_count(stats, member);
}

/* Without the object nothing is known. */
static void
read_counts(const LlmbJson *stats, LlmbRemoteBatch *batch)
{
	if (stats == NULL || stats->type != LLMB_JSON_OBJECT)
	{
		batch->total = batch->done = batch->failed = -1;
		return;
	}
	batch->total = read_count(stats, "requestCount");
	batch->done = read_count(stats, "successfulRequestCount");
	batch->failed = read_count(stats, "failedRequestCount");
}

/* Why the operation failed as a whole. */
static LlmbFault
judge_failed_batch(const ErrorWords *words)
{
	switch (words->rpc)
	{
		case RPC_RESOURCE_EXHAUSTED:
			return words->per_day ? LLMB_FAULT_QUOTA : LLMB_FAULT_QUEUE_FULL;
		case RPC_FAILED_PRECONDITION:
			return LLMB_FAULT_QUOTA;
		case RPC_PERMISSION_DENIED:
		case RPC_UNAUTHENTICATED:
			return LLMB_FAULT_KEY;
		case RPC_UNKNOWN:
		case RPC_DEADLINE_EXCEEDED:
		case RPC_ABORTED:
		case RPC_INTERNAL:
		case RPC_UNAVAILABLE:
		case RPC_DATA_LOSS:
			return LLMB_FAULT_RETRY;
		default:
			return LLMB_FAULT_REQUEST;
	}
}

/*
 * A failure that is none: results are there, or the fault is the provider's
 * and passes, so that each request may be sent again like one without a line.
 */
static void
soften_failure(LlmbRemoteBatch *batch)
{
	if (batch->output != NULL)
		batch->state = LLMB_REMOTE_ENDED;
	else if (batch->fault == LLMB_FAULT_RETRY)
	{
		batch->state = LLMB_REMOTE_ENDED;
		batch->done = batch->failed = 0;
	}
	if (batch->state == LLMB_REMOTE_ENDED)
		batch->fault = LLMB_FAULT_NONE;
}

static bool
is_end(LlmbRemoteState state)
{
	return state != LLMB_REMOTE_UNKNOWN && state != LLMB_REMOTE_RUNNING && state != LLMB_REMOTE_CANCELLING;
}

/* The operation is done, and its state does not say how. */
static LlmbRemoteState
state_when_done(const LlmbJson *error, const ErrorWords *words)
{
	if (llmb_json_is_null(error))
		return LLMB_REMOTE_ENDED;
	return words->rpc == RPC_CANCELLED ? LLMB_REMOTE_CANCELLED : LLMB_REMOTE_FAILED;
}

/* False when this is not a batch, or one that cannot be worked with. */
static bool
read_batch(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	const LlmbJson *metadata = llmb_json_get(node, "metadata");
	const LlmbJson *error = llmb_json_get(node, "error");
	const LlmbJson *done = llmb_json_get(node, "done");
	const char *name = llmb_json_string(node, "name");
	const char *token = llmb_json_string(metadata, "displayName");
	const char *input = llmb_json_string(llmb_json_get(metadata, "inputConfig"), "fileName");
	ErrorWords	words;

	if (!is_name(name, "batches/") || metadata == NULL || metadata->type != LLMB_JSON_OBJECT ||
		!read_output(node, batch))
		return false;
	read_error(error, &words);
	batch->token = llmb_is_id(token) ? pstrdup(token) : NULL;
	batch->input = is_name(input, "files/") ? pstrdup(input) : NULL;
	batch->created_s = llmb_rfc3339_ms(llmb_json_string(metadata, "createTime")) / 1000;
	batch->ended_ms = llmb_rfc3339_ms(llmb_json_string(metadata, "endTime"));
	read_counts(llmb_json_get(metadata, "batchStats"), batch);

	batch->state = read_state(llmb_string_or_empty(metadata, "state"));
	if (done != NULL && done->boolean && !is_end(batch->state))
		batch->state = state_when_done(error, &words);
	if (batch->state == LLMB_REMOTE_FAILED)
	{
		batch->fault = judge_failed_batch(&words);
		soften_failure(batch);
	}

	/* what is not delivered was not done, whatever was counted meanwhile */
	if (batch->output == NULL &&
		(batch->state == LLMB_REMOTE_EXPIRED || batch->state == LLMB_REMOTE_CANCELLED))
		batch->done = batch->failed = 0;

	/* the id last: whoever sees one sees a whole batch */
	batch->id = pstrdup(name);
	return true;
}

static bool
read_described_batch(const LlmbJson *body, LlmbReply *reply)
{
	const LlmbJson *error = llmb_json_get(body, "error");
	ErrorWords	words;

	if (!read_batch(body, &reply->batch))
		return false;
	if (!llmb_json_is_null(error))
	{
		read_error(error, &words);
		reply->code = shown_code(&words);
		reply->message = llmb_copy_or_null(words.message);
	}
	return true;
}

/*
 * A page counts as read only when each batch on it was: a listing is what
 * proves that a batch does not exist.  The order of a listing is not
 * documented, so that the age of one batch tells nothing about the next page:
 * no times are given.  "{}" is an empty list.
 */
static bool
read_listing(const LlmbJson *body, LlmbReply *reply)
{
	const LlmbJson *operations = llmb_json_get(body, "operations");
	const char *cursor = llmb_string_or_empty(body, "nextPageToken");
	LlmbJson   *node = NULL;

	if (body == NULL || body->type != LLMB_JSON_OBJECT || strlen(cursor) > MAX_CURSOR)
		return false;
	if (!llmb_json_is_null(operations))
	{
		if (operations->type != LLMB_JSON_ARRAY)
			return false;
		node = operations->first;
	}
	reply->listed = palloc0(sizeof(LlmbRemoteBatch) * Max(node ? operations->count : 0, 1));
	for (; node != NULL; node = node->next)
	{
		LlmbRemoteBatch *batch = &reply->listed[reply->listed_count++];

		if (!read_batch(node, batch))
			return false;
		batch->created_s = 0;
	}
	reply->next_cursor = llmb_copy_or_null(cursor);
	return true;
}

static LlmbFileState
read_file_state(const char *state)
{
	if (strcmp(state, "FAILED") == 0)
		return LLMB_FILE_BROKEN;
	return strcmp(state, "PROCESSING") == 0 ? LLMB_FILE_PENDING : LLMB_FILE_READY;
}

/*
 * {"files":[{"name":...,"displayName":...,"sizeBytes":"1234","state":"ACTIVE"}]},
 * in an order that is not documented: no times are given.  "{}" is an empty
 * list; what is not understood is passed over, for no money hangs on it.
 */
static bool
read_files(const LlmbJson *body, LlmbReply *reply)
{
	const LlmbJson *files = llmb_json_get(body, "files");
	const char *cursor = llmb_string_or_empty(body, "nextPageToken");
	const LlmbJson *node = NULL;

	if (body == NULL || body->type != LLMB_JSON_OBJECT || strlen(cursor) > MAX_CURSOR)
		return false;
	if (!llmb_json_is_null(files))
	{
		if (files->type != LLMB_JSON_ARRAY)
			return false;
		node = files->first;
	}
	reply->files = palloc0(sizeof(LlmbRemoteFile) * Max(node ? files->count : 0, 1));
	for (; node != NULL; node = node->next)
	{
		LlmbRemoteFile *file = &reply->files[reply->file_count];
		const char *name = llmb_json_string(node, "name");
		const char *token = llmb_json_string(node, "displayName");

		if (!is_name(name, "files/"))
			continue;
		file->id = pstrdup(name);
		file->token = llmb_is_id(token) ? pstrdup(token) : NULL;
		file->bytes = Max(llmb_json_int(node, "sizeBytes", -1), -1);
		file->state = read_file_state(llmb_string_or_empty(node, "state"));
		reply->file_count++;
	}
	reply->next_cursor = llmb_copy_or_null(cursor);
	return true;
}

static void
put_member(StringInfo out, const char *name, const LlmbJson *value)
{
	if (value == NULL)
		return;
	appendStringInfo(out, ",\"%s\":", name);
	llmb_json_put_node(out, value);
}

/*
 * The results inside of an operation as lines of a result file.  The key
 * should be in the metadata; where it is missing (seen: python-genai, issue
 * 1886) nobody can say whose answer it is.
 */
static bool
read_inline(const LlmbJson *body, LlmbReply *reply)
{
	const LlmbJson *responses = llmb_json_get(find_output(body), "inlinedResponses");
	const LlmbJson *node;

	if (responses != NULL && responses->type == LLMB_JSON_OBJECT)
		responses = llmb_json_get(responses, "inlinedResponses");
	if (responses == NULL || responses->type != LLMB_JSON_ARRAY)
		return false;
	reply->lines = makeStringInfo();
	for (node = responses->first; node != NULL; node = node->next)
	{
		const char *key = llmb_json_string(llmb_json_get(node, "metadata"), "key");

		if (key == NULL)
			continue;
		appendStringInfoString(reply->lines, "{\"key\":");
		llmb_json_put_string(reply->lines, key);
		put_member(reply->lines, "response", llmb_json_get(node, "response"));
		put_member(reply->lines, "error", llmb_json_get(node, "error"));
		appendStringInfoString(reply->lines, "}\n");
	}
	return true;
}

static bool
read_uploaded(const LlmbJson *body, LlmbReply *reply)
{
	const char *name = llmb_json_string(llmb_json_get(body, "file"), "name");

	if (!is_name(name, "files/"))
		return false;
	reply->file_id = pstrdup(name);
	return true;
}

/* False when the reply is not what the call should bring. */
static bool
read_success(LlmbVerb verb, const LlmbHttpReply *http, const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *models;

	switch (verb)
	{
		case LLMB_CALL_UPLOAD:
			reply->upload_url = llmb_reply_header(http, "x-goog-upload-url");
			return reply->upload_url != NULL;
		case LLMB_CALL_UPLOAD_DATA:
			return read_uploaded(body, reply);
		case LLMB_CALL_CREATE:
		case LLMB_CALL_POLL:
			return read_described_batch(body, reply);
		case LLMB_CALL_LIST:
			return read_listing(body, reply);
		case LLMB_CALL_FIND_FILE:
			return read_files(body, reply);
		case LLMB_CALL_FETCH:
			return read_inline(body, reply);
		case LLMB_CALL_CHECK:
			models = llmb_json_get(body, "models");
			reply->models = (models != NULL) ? models->count : 0;
			return models != NULL && models->type == LLMB_JSON_ARRAY;
		case LLMB_CALL_CANCEL:	/* {}: a poll tells what has come of it */
		case LLMB_CALL_DELETE_FILE:
		case LLMB_CALL_ANSWER:
			return true;
	}
	return false;
}

static void
read_call_failure(LlmbVerb verb, int status, const LlmbJson *body, LlmbReply *reply)
{
	ErrorWords	words;

	read_failure(verb, status, body, reply, &words);
}

static void
gemini_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply)
{
	llmb_read_reply(verb, http, reply, read_success, read_call_failure);
}

/*
 * Answers
 *
 * {"candidates":[{"content":{"parts":[{"text":...}]},"finishReason":"STOP"}],
 * "usageMetadata":{...},"modelVersion":...,"responseId":...}
 */

static int64
token_count(const LlmbJson *usage, const char *member)
{
	return Min(Max(llmb_json_int(usage, member, 0), 0), MAX_TOKENS);
}

/*
 * Thoughts are not part of the candidates' tokens, and are paid as output.
 * A count that does not come is zero; nothing is paid for writing to a cache.
 */
static void
read_usage(const LlmbJson *usage, LlmbOutcome *outcome)
{
	if (usage == NULL || usage->type != LLMB_JSON_OBJECT)
		return;
	outcome->reasoning_tokens = token_count(usage, "thoughtsTokenCount");
	outcome->output_tokens = token_count(usage, "candidatesTokenCount") + outcome->reasoning_tokens;
	outcome->input_tokens = token_count(usage, "promptTokenCount") + token_count(usage, "toolUsePromptTokenCount");
	outcome->cached_tokens = token_count(usage, "cachedContentTokenCount");
	outcome->cache_write_tokens = outcome->long_write_tokens = 0;
}

static bool
is_thought(const LlmbJson *part)
{
	const LlmbJson *thought = llmb_json_get(part, "thought");

	return thought != NULL && thought->type == LLMB_JSON_BOOL && thought->boolean;
}

/* The text of all parts that are not thoughts; NULL when there is none. */
static char *
take_text(LlmbJson *candidate)
{
	LlmbJson   *parts = llmb_json_path(candidate, "content", "parts", NULL);
	LlmbJson   *part;
	StringInfoData joined = {0};
	char	   *text = NULL;

	for (part = parts ? parts->first : NULL; part != NULL; part = part->next)
	{
		char	   *more = is_thought(part) ? NULL : llmb_take_string(part, "text");

		if (more == NULL)
			continue;
		if (text == NULL)
		{
			/* nearly always the only one */
			text = more;
			continue;
		}
		if (joined.data == NULL)
		{
			initStringInfo(&joined);
			appendStringInfoString(&joined, text);
			pfree(text);
		}
		appendStringInfoString(&joined, more);
		pfree(more);
		text = joined.data;
	}
	return text;
}

/* Reasons for which an answer is held back (guide "Troubleshooting"); also IMAGE_*. */
#define REFUSALS "SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII LANGUAGE"

static void
read_finish(LlmbJson *candidate, LlmbOutcome *outcome)
{
	const char *finish = outcome->finish_reason ? outcome->finish_reason : "";

	if (llmb_in_list(finish, REFUSALS) || strncmp(finish, "IMAGE_", 6) == 0)
	{
		outcome->error = llmb_take_string(candidate, "finishMessage");
		llmb_outcome_fail(outcome, LLMB_REFUSED, false, "The answer was held back by a content filter.");
		return;
	}
	outcome->answer = take_text(candidate);
	if (strcmp(finish, "MAX_TOKENS") == 0)
		llmb_outcome_fail(outcome, LLMB_TRUNCATED, false, "The answer reached the limit of tokens.");
	else if (finish[0] != '\0' && strcmp(finish, "STOP") != 0 && strcmp(finish, "FINISH_REASON_UNSPECIFIED") != 0)
	{
		/* MALFORMED_FUNCTION_CALL, OTHER, and what is not known yet */
		if (outcome->answer != NULL)
			pfree(outcome->answer);
		outcome->answer = NULL;
		outcome->error = llmb_take_string(candidate, "finishMessage");
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The model did not finish its answer.");
	}
	else if (outcome->answer == NULL)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply holds no answer.");
}

static void
read_response(LlmbJson *response, LlmbOutcome *outcome)
{
	LlmbJson   *candidate = llmb_json_at(llmb_json_get(response, "candidates"), 0);
	LlmbJson   *feedback = llmb_json_get(response, "promptFeedback");

	outcome->model = llmb_take_string(response, "modelVersion");
	outcome->request_id = llmb_take_string(response, "responseId");
	read_usage(llmb_json_get(response, "usageMetadata"), outcome);

	if (candidate != NULL)
	{
		outcome->finish_reason = llmb_take_string(candidate, "finishReason");
		read_finish(candidate, outcome);
		return;
	}
	outcome->finish_reason = llmb_take_string(feedback, "blockReason");
	if (outcome->finish_reason != NULL)
	{
		outcome->error = llmb_take_string(feedback, "blockReasonMessage");
		llmb_outcome_fail(outcome, LLMB_REFUSED, false, "The prompt was held back by a content filter.");
	}
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply holds no answer.");
}

/* The provider's words, or else its code. */
static const char *
in_words(const ErrorWords *words)
{
	return words->message[0] != '\0' ? words->message : rpc_names[words->rpc];
}

/* What a failed request is to its item. */
static void
fail_by_words(const ErrorWords *words, LlmbOutcome *outcome)
{
	LlmbCode	code = LLMB_PROVIDER_ERROR;
	bool		retryable = false;

	switch (words->rpc)
	{
		case RPC_CANCELLED:
			code = LLMB_CANCELLED_ITEM;
			break;
		case RPC_INVALID_ARGUMENT:
			code = is_too_long(words) ? LLMB_TOO_LARGE : LLMB_INVALID_REQUEST;
			break;
		case RPC_NOT_FOUND:
		case RPC_ALREADY_EXISTS:
		case RPC_FAILED_PRECONDITION:
		case RPC_OUT_OF_RANGE:
		case RPC_UNIMPLEMENTED:
			code = LLMB_INVALID_REQUEST;
			break;
		case RPC_PERMISSION_DENIED:
		case RPC_UNAUTHENTICATED:
			code = LLMB_AUTH;
			break;
		case RPC_RESOURCE_EXHAUSTED:
			code = LLMB_RATE_LIMITED;
			retryable = true;
			break;
		case RPC_DEADLINE_EXCEEDED:
			code = LLMB_TIMEOUT;
			retryable = true;
			break;
		default:
			retryable = true;
	}
	llmb_outcome_fail(outcome, code, retryable, in_words(words));
}

static bool
gemini_read_line(char *line, size_t len, LlmbOutcome *outcome)
{
	bool		altered = false;
	LlmbJson   *root = llmb_open_line(line, len, "key", outcome, &altered);
	LlmbJson   *error;
	LlmbJson   *response;
	ErrorWords	words;

	if (root == NULL)
		return false;

	error = llmb_json_get(root, "error");
	response = llmb_json_get(root, "response");
	if (!llmb_json_is_null(error))
	{
		read_error(error, &words);
		fail_by_words(&words, outcome);
	}
	else if (response != NULL && response->type == LLMB_JSON_OBJECT)
		read_response(response, outcome);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The result line holds no response.");

	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(root);
	return true;
}

/* A key that is refused is nobody's request's fault, nor is a busy provider. */
static void
read_answer_failure(int status, const LlmbJson *body, LlmbOutcome *outcome, LlmbReply *reply)
{
	ErrorWords	words;

	read_failure(LLMB_CALL_ANSWER, status, body, reply, &words);
	if (reply->fault == LLMB_FAULT_KEY)
		llmb_outcome_fail(outcome, LLMB_AUTH, false, in_words(&words));
	else if (reply->fault == LLMB_FAULT_QUOTA)
		llmb_outcome_fail(outcome, LLMB_RATE_LIMITED, true, in_words(&words));
	else if (reply->fault == LLMB_FAULT_TOO_LARGE)
		llmb_outcome_fail(outcome, LLMB_TOO_LARGE, false, in_words(&words));
	else if (words.rpc == RPC_CANCELLED)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, in_words(&words));
	else
		fail_by_words(&words, outcome);
}

static void
gemini_read_answer(LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply)
{
	LlmbJson   *body;
	bool		altered = false;

	llmb_outcome_init(outcome);
	reply->retry_after_ms = http->retry_after_ms;
	llmb_reply_forget(reply);

	body = llmb_reply_json(http, &altered);
	if (http->status < 200 || http->status > 299)
		read_answer_failure(http->status, body, outcome, reply);
	else if (body == NULL || body->type != LLMB_JSON_OBJECT)
	{
		reply->fault = LLMB_FAULT_RETRY;
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply cannot be read.");
	}
	else
		read_response(body, outcome);
	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(body);
}

/* Gemma and others of Google's open models are served by many. */
static bool
gemini_serves(const char *model)
{
	if (strncmp(model, "models/", 7) == 0)
		model += 7;
	return strncmp(model, "gemini-", 7) == 0 || strncmp(model, "tunedModels/", 12) == 0;
}

const LlmbProvider llmb_provider_gemini = {
	.api = "gemini",
	.base_url = "https://generativelanguage.googleapis.com",
	.needs_key = true,
	.max_batch_requests = MAX_BATCH_REQUESTS,
	.max_batch_bytes = MAX_BATCH_BYTES,
	.window_hours = 48,	/* ai.google.dev, "Batch API": expires when pending or running for longer */
	.serves = gemini_serves,
	.check_params = gemini_check_params,
	.put_body = gemini_put_body,
	.put_line = gemini_put_line,
	.make_call = gemini_make_call,
	.read_reply = gemini_read_reply,
	.read_line = gemini_read_line,
	.read_answer = gemini_read_answer,
};
