/*-------------------------------------------------------------------------
 *
 * provider_openai.c
 *		OpenAI's Batch API over Chat Completions, and the many servers that
 *		speak the same protocol.
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
#include "provider_openai.h"

#define ENDPOINT "/v1/chat/completions"

/* Longest id that may enter a path; theirs have about 40 characters. */
#define MAX_ID_LEN 128

/* Batches on a page of a listing: the most there can be. */
#define LIST_LIMIT 100

static bool
is_id(const char *id)
{
	size_t		len;

	if (id == NULL)
		return false;
	len = strspn(id, "abcdefghijklmnopqrstuvwxyz"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				 "0123456789_-");
	return len > 0 && len <= MAX_ID_LEN && id[len] == '\0';
}

/* Whether word is one of the words of a blank-separated list. */
static bool
in_list(const char *word, const char *list)
{
	size_t		len = strlen(word);
	const char *p = list;

	if (len == 0 || strchr(word, ' ') != NULL)
		return false;
	while ((p = strstr(p, word)) != NULL)
	{
		if ((p == list || p[-1] == ' ') && (p[len] == ' ' || p[len] == '\0'))
			return true;
		p += len;
	}
	return false;
}

/*
 * Parameters
 *
 * Users write the common names; each has one wire name and the values that
 * are documented.  What is not in the table is refused at submit, because a
 * request with an unknown member fails only hours later, and 50,000 times.
 */

typedef enum ParamKind
{
	PARAM_INTEGER,
	PARAM_NUMBER,
	PARAM_WORD,					/* one of a list */
	PARAM_STRING,
	PARAM_STOP,					/* a string, or up to four */
	PARAM_OBJECT
} ParamKind;

typedef struct Param
{
	const char *name;
	const char *wire;
	ParamKind	kind;
	double		min;
	double		max;
	const char *words;
} Param;

#define EFFORTS "none minimal low medium high xhigh max"

static const Param known_params[] = {
	/* max_tokens itself is refused by the o series and from gpt-5 on */
	{"max_tokens", "max_completion_tokens", PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"temperature", "temperature", PARAM_NUMBER, 0, 2, NULL},
	{"top_p", "top_p", PARAM_NUMBER, 0, 1, NULL},
	{"seed", "seed", PARAM_INTEGER, -9223372036854775808.0, 9223372036854775807.0, NULL},
	{"stop", "stop", PARAM_STOP, 0, 0, NULL},
	{"reasoning_effort", "reasoning_effort", PARAM_WORD, 0, 0, EFFORTS},
	{"verbosity", "verbosity", PARAM_WORD, 0, 0, "low medium high"},
	{"presence_penalty", "presence_penalty", PARAM_NUMBER, -2, 2, NULL},
	{"frequency_penalty", "frequency_penalty", PARAM_NUMBER, -2, 2, NULL},
	{"prompt_cache_key", "prompt_cache_key", PARAM_STRING, 0, 0, NULL},
	{"prompt_cache_options", "prompt_cache_options", PARAM_OBJECT, 0, 0, NULL},
	{"prompt_cache_retention", "prompt_cache_retention", PARAM_STRING, 0, 0, NULL},
	{"safety_identifier", "safety_identifier", PARAM_STRING, 0, 0, NULL},
};

/* Names that others use, or that are not parameters here, and what to do. */
static const struct
{
	const char *name;
	const char *hint;
}			other_names[] =
{
	{"max_completion_tokens", "it is called \"max_tokens\" here"},
	{"max_output_tokens", "it is called \"max_tokens\" here"},
	{"stop_sequences", "it is called \"stop\" here"},
	{"effort", "it is called \"reasoning_effort\" here"},
	{"response_format", "use the argument \"schema\""},
	{"messages", "let the query yield a column \"messages\""},
	{"model", "use the argument \"model\""},
	{"system", "use the argument \"system\""},
	{"n", "each prompt has one answer"},
	{"stream", "answers are not streamed"},
	{"service_tier", "it would change the price that is computed"},
};

/*
 * What a class of models refuses (model pages of September to November 2026
 * and recorded refusals).  Of a model that is not here nothing is known, and
 * everything is let through.
 */
typedef enum Sampling
{
	SAMPLING_ANY,
	SAMPLING_DEFAULT,			/* no value but 1 */
	SAMPLING_EFFORT_NONE,		/* with effort "none", which must be given */
	SAMPLING_NO_EFFORT			/* with effort "none", which is the default */
} Sampling;

typedef struct ModelClass
{
	const char *prefix;
	Sampling	sampling;
	const char *efforts;		/* NULL: no effort is accepted */
} ModelClass;

static const ModelClass model_classes[] = {
	{"gpt-6.2-sol", SAMPLING_DEFAULT, "low medium high xhigh max"},
	{"gpt-6.1-sol", SAMPLING_DEFAULT, "low medium high xhigh"},
	{"gpt-6-astra", SAMPLING_DEFAULT, "low medium high xhigh max"},
	{"gpt-6-sol", SAMPLING_EFFORT_NONE, EFFORTS},
	{"gpt-6-luna", SAMPLING_EFFORT_NONE, EFFORTS},
	{"gpt-5.6", SAMPLING_EFFORT_NONE, EFFORTS},
	{"gpt-5.5", SAMPLING_NO_EFFORT, EFFORTS},
	{"gpt-5.4", SAMPLING_NO_EFFORT, EFFORTS},
	{"gpt-5.2", SAMPLING_NO_EFFORT, EFFORTS},
	{"gpt-5.1", SAMPLING_NO_EFFORT, EFFORTS},
	{"gpt-5-chat", SAMPLING_ANY, EFFORTS},	/* not a reasoning model */
	{"gpt-5", SAMPLING_DEFAULT, "minimal low medium high"},
	{"o1", SAMPLING_DEFAULT, "low medium high"},
	{"o3", SAMPLING_DEFAULT, "low medium high"},
	{"o4", SAMPLING_DEFAULT, "low medium high"},
	{"gpt-4o", SAMPLING_ANY, NULL},
	{"gpt-4.1", SAMPLING_ANY, NULL},
};

static const Param *
find_param(const char *name)
{
	int			i;

	for (i = 0; i < (int) lengthof(known_params); i++)
	{
		if (strcmp(known_params[i].name, name) == 0)
			return &known_params[i];
	}
	return NULL;
}

/* The name of a fine-tuned model begins with "ft:" and that of its base. */
static const char *
base_model(const char *model)
{
	return (strncmp(model, "ft:", 3) == 0) ? model + 3 : model;
}

static const ModelClass *
find_model_class(const char *model)
{
	int			i;

	model = base_model(model);
	for (i = 0; i < (int) lengthof(model_classes); i++)
	{
		size_t		len = strlen(model_classes[i].prefix);

		if (strncmp(model, model_classes[i].prefix, len) == 0 &&
			strchr("-:", model[len]) != NULL)	/* its NUL counts, too */
			return &model_classes[i];
	}
	return NULL;
}

/* How many letters must be put in, taken out or replaced; long: many. */
static int
edit_distance(const char *a, const char *b)
{
	int			row[33];
	int			len = strlen(b);
	int			i;
	int			j;

	if (len >= (int) lengthof(row) || strlen(a) >= lengthof(row))
		return PG_INT32_MAX;
	for (j = 0; j <= len; j++)
		row[j] = j;
	for (i = 1; a[i - 1] != '\0'; i++)
	{
		int			diagonal = row[0];

		row[0] = i;
		for (j = 1; j <= len; j++)
		{
			int			replaced = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = Min(Min(row[j], row[j - 1]) + 1, replaced);
		}
	}
	return row[len];
}

static char *
unknown_param(const char *name)
{
	StringInfoData text;
	const char *nearest = NULL;
	int			least = 4;		/* more is another word, not a slip */
	int			i;

	initStringInfo(&text);
	appendStringInfo(&text, "unknown parameter \"%s\"", name);

	for (i = 0; i < (int) lengthof(other_names); i++)
	{
		if (strcmp(other_names[i].name, name) == 0)
		{
			appendStringInfo(&text, "; %s", other_names[i].hint);
			return text.data;
		}
	}

	for (i = 0; i < (int) lengthof(known_params); i++)
	{
		int			distance = edit_distance(name, known_params[i].name);

		if (distance < least)
		{
			least = distance;
			nearest = known_params[i].name;
		}
	}
	if (nearest != NULL)
	{
		appendStringInfo(&text, "; perhaps you mean \"%s\"", nearest);
		return text.data;
	}

	appendStringInfoString(&text, "; known are ");
	for (i = 0; i < (int) lengthof(known_params); i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", known_params[i].name);
	return text.data;
}

/* NULL, or what the value should be. */
static char *
check_number(const Param *param, const LlmbJson *value)
{
	const char *what = (param->kind == PARAM_INTEGER) ? "an integer" : "a number";
	double		number;

	if (value->type == LLMB_JSON_NUMBER &&
		(param->kind == PARAM_NUMBER || strpbrk(value->text, ".eE") == NULL))
	{
		number = strtod(value->text, NULL);
		if (number >= param->min && number <= param->max)
			return NULL;
	}
	if (strcmp(param->name, "seed") == 0)
		return pstrdup(what);
	if (param->max >= PG_INT32_MAX)
		return psprintf("%s of at least %g", what, param->min);
	return psprintf("%s between %g and %g", what, param->min, param->max);
}

static bool
is_stop(const LlmbJson *value)
{
	const LlmbJson *child;

	if (value->type == LLMB_JSON_STRING)
		return true;
	if (value->type != LLMB_JSON_ARRAY || value->count < 1 || value->count > 4)
		return false;
	for (child = value->first; child != NULL; child = child->next)
	{
		if (child->type != LLMB_JSON_STRING)
			return false;
	}
	return true;
}

static char *
check_value(const Param *param, const LlmbJson *value)
{
	switch (param->kind)
	{
		case PARAM_INTEGER:
		case PARAM_NUMBER:
			return check_number(param, value);
		case PARAM_WORD:
			if (value->type == LLMB_JSON_STRING && in_list(value->text, param->words))
				return NULL;
			return psprintf("one of: %s", param->words);
		case PARAM_STRING:
			return (value->type == LLMB_JSON_STRING) ? NULL : pstrdup("a string");
		case PARAM_STOP:
			return is_stop(value) ? NULL : pstrdup("a string, or an array of up to four");
		case PARAM_OBJECT:
			return (value->type == LLMB_JSON_OBJECT) ? NULL : pstrdup("an object");
	}
	return NULL;
}

static char *
check_sampling(const char *model, const ModelClass *class,
			   const LlmbJson *params, const char *name)
{
	LlmbJson   *value = llmb_json_get(params, name);
	const char *effort = llmb_json_string(params, "reasoning_effort");

	if (llmb_json_is_null(value) || strtod(value->text, NULL) == 1)
		return NULL;
	switch (class->sampling)
	{
		case SAMPLING_ANY:
			return NULL;
		case SAMPLING_DEFAULT:
			return psprintf("model \"%s\" takes no %s but 1", model, name);
		case SAMPLING_EFFORT_NONE:
			if (effort != NULL && strcmp(effort, "none") == 0)
				return NULL;
			break;
		case SAMPLING_NO_EFFORT:
			if (effort == NULL || strcmp(effort, "none") == 0)
				return NULL;
			break;
	}
	return psprintf("model \"%s\" takes %s only with reasoning_effort \"none\"",
					model, name);
}

/* Values are known to be of the right type here. */
static char *
check_model(const char *model, const LlmbJson *params)
{
	const ModelClass *class = find_model_class(model);
	const char *effort = llmb_json_string(params, "reasoning_effort");
	char	   *reason;

	if (class == NULL)
		return NULL;
	if (effort != NULL && class->efforts == NULL)
		return psprintf("model \"%s\" takes no reasoning_effort", model);
	if (effort != NULL && !in_list(effort, class->efforts))
		return psprintf("model \"%s\" takes as reasoning_effort one of: %s",
						model, class->efforts);
	reason = check_sampling(model, class, params, "temperature");
	if (reason == NULL)
		reason = check_sampling(model, class, params, "top_p");
	return reason;
}

char *
llmb_openai_check_params(const char *model, const LlmbJson *params)
{
	const LlmbJson *value;

	if (llmb_json_is_null(params))
		return NULL;
	if (params->type != LLMB_JSON_OBJECT)
		return pstrdup("parameters must be an object");

	for (value = params->first; value != NULL; value = value->next)
	{
		const Param *param = find_param(value->name);
		char	   *expected;

		if (param == NULL)
			return unknown_param(value->name);
		if (llmb_json_is_null(value))
			continue;
		expected = check_value(param, value);
		if (expected != NULL)
			return psprintf("parameter \"%s\" must be %s", value->name, expected);
	}
	return check_model(model, params);
}

/*
 * Requests
 */

/* JSON as given, but for its line ends: they would end a line of JSONL. */
static void
put_raw(StringInfo out, const char *json)
{
	int			start = out->len;
	char	   *p;

	appendStringInfoString(out, json);
	for (p = out->data + start; *p != '\0'; p++)
	{
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	}
}

static void
put_message(StringInfo out, const char *role, const char *text)
{
	appendStringInfo(out, "{\"role\":\"%s\",\"content\":", role);
	llmb_json_put_string(out, text);
	appendStringInfoChar(out, '}');
}

static void
put_messages(StringInfo out, const LlmbRequest *request)
{
	if (request->messages != NULL)
	{
		put_raw(out, request->messages);
		return;
	}
	appendStringInfoChar(out, '[');
	if (request->system != NULL)
	{
		put_message(out, "system", request->system);
		appendStringInfoChar(out, ',');
	}
	put_message(out, "user", request->prompt ? request->prompt : "");
	appendStringInfoChar(out, ']');
}

static void
put_params(StringInfo out, const LlmbJson *params)
{
	const LlmbJson *value;

	if (params == NULL || params->type != LLMB_JSON_OBJECT)
		return;
	for (value = params->first; value != NULL; value = value->next)
	{
		const Param *param = find_param(value->name);

		if (param == NULL || llmb_json_is_null(value))
			continue;
		appendStringInfo(out, ",\"%s\":", param->wire);
		llmb_json_put_node(out, value);
	}
}

void
llmb_openai_put_body(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, "{\"model\":");
	llmb_json_put_string(out, request->model);
	put_params(out, request->params);
	if (request->schema != NULL)
	{
		appendStringInfoString(out, ",\"response_format\":{\"type\":\"json_schema\","
							   "\"json_schema\":{\"name\":\"answer\",\"strict\":true,\"schema\":");
		put_raw(out, request->schema);
		appendStringInfoString(out, "}}");
	}
	appendStringInfoString(out, ",\"messages\":");
	put_messages(out, request);
	appendStringInfoChar(out, '}');
}

void
llmb_openai_put_line(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, "{\"custom_id\":");
	llmb_json_put_string(out, request->custom_id);
	appendStringInfoString(out, ",\"method\":\"POST\",\"url\":\"" ENDPOINT "\",\"body\":");
	llmb_openai_put_body(out, request);
	appendStringInfoString(out, "}\n");
}

/*
 * Calls
 */

/* A value that would end the header and begin another is left out. */
static void
add_header(LlmbCall *call, const char *name, const char *prefix, const char *value)
{
	const char *p;

	if (value == NULL || value[0] == '\0')
		return;
	for (p = value; *p != '\0'; p++)
	{
		if ((unsigned char) *p < 0x20 || *p == 0x7F)
			return;
	}
	Assert(call->header_count < (int) lengthof(call->headers));
	call->headers[call->header_count++] = psprintf("%s: %s%s", name, prefix, value);
}

/* Method and path; false when the id cannot be part of a path. */
static bool
set_path(LlmbCall *call, const char *method, const char *before,
		 const char *id, const char *after)
{
	if (!is_id(id))
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
	if (!is_id(ref->token))
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
					 "Content-Disposition: form-data; name=\"file\"; filename=\"llm_batch-%s.jsonl\"\r\n"
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

	if (!is_id(ref->token) || !is_id(ref->remote_input))
		return false;
	call->method = "POST";
	call->path = pstrdup("/batches");
	add_header(call, "Content-Type", "", "application/json");
	call->body = makeStringInfo();
	appendStringInfo(call->body,
					 "{\"input_file_id\":\"%s\",\"endpoint\":\"" ENDPOINT "\",\"completion_window\":",
					 ref->remote_input);
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
	if (!is_id(ref->cursor))
		return false;
	call->path = psprintf("/batches?limit=%d&after=%s", LIST_LIMIT, ref->cursor);
	return true;
}

bool
llmb_openai_make_call(LlmbVerb verb, const LlmbBatchRef *ref,
					  const char *key, LlmbCall *call)
{
	memset(call, 0, sizeof(LlmbCall));
	add_header(call, "Authorization", "Bearer ", key);
	add_header(call, "OpenAI-Organization", "", ref->organization);
	add_header(call, "OpenAI-Project", "", ref->project);

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
	}
	return false;
}

/*
 * Errors, of calls and of single requests alike
 *
 * {"error":{"message":..., "type":..., "param":..., "code":...}}; some servers write the
 * members without the envelope, or a mere string for it.
 */
typedef struct ErrorWords
{
	const char *code;			/* "" when absent, as the others */
	const char *type;
	const char *param;
	const char *message;
	int64		number;			/* code, where it is a number; else -1 */
} ErrorWords;

#define QUOTA_CODES \
	"insufficient_quota credit_balance_exhausted billing_hard_limit_reached " \
	"organization_spend_limit_exceeded project_spend_limit_exceeded " \
	"organization_usage_limit_exceeded"

/* A request as such is too long for the model. */
#define LENGTH_CODES "context_length_exceeded string_above_max_length"

/* The words were refused, though with a status of 400. */
#define REFUSAL_CODES \
	"content_filter content_policy_violation invalid_prompt bio_policy " \
	"misalignment_policy_violation"

static const char *
string_or_empty(const LlmbJson *node, const char *member)
{
	const char *text = llmb_json_string(node, member);

	return text != NULL ? text : "";
}

static void
read_error(const LlmbJson *body, ErrorWords *words)
{
	LlmbJson   *error = llmb_json_get(body, "error");

	memset(words, 0, sizeof(*words));
	if (error == NULL || error->type != LLMB_JSON_OBJECT)
		error = unconstify(LlmbJson *, body);
	words->code = string_or_empty(error, "code");
	words->type = string_or_empty(error, "type");
	words->param = string_or_empty(error, "param");
	words->message = string_or_empty(error, "message");
	words->number = -1;
	if (words->code[0] == '\0')
		words->number = llmb_json_int(error, "code", -1);
	if (words->message[0] == '\0')
		words->message = string_or_empty(body, "error");
}

static bool
either_in_list(const ErrorWords *words, const char *list)
{
	return in_list(words->code, list) || in_list(words->type, list);
}

/* What may be shown and logged: a word of theirs, and nothing but a word. */
static char *
safe_code(const char *code)
{
	size_t		len = strspn(code, "abcdefghijklmnopqrstuvwxyz0123456789_.-");

	if (len == 0 || len > 64 || code[len] != '\0')
		return NULL;
	return pstrdup(code);
}

static char *
copy_or_null(const char *text)
{
	return (text != NULL && text[0] != '\0') ? pstrdup(text) : NULL;
}

/*
 * Replies
 */

/* An object that a call names is gone; elsewhere the address is wrong. */
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
			if (in_list(words->param, "file_id input_file_id"))
				return LLMB_FAULT_GONE;
			return LLMB_FAULT_REQUEST;
		default:
			return LLMB_FAULT_REQUEST;
	}
}

static LlmbFault
judge_status(LlmbVerb verb, int status, const ErrorWords *words)
{
	if (status >= 400 && status < 500)
	{
		if (either_in_list(words, QUOTA_CODES))
			return LLMB_FAULT_QUOTA;
		if (either_in_list(words, "token_limit_exceeded"))
			return LLMB_FAULT_QUEUE_FULL;
	}
	switch (status)
	{
		case 400:
			/* a file just uploaded may be unknown for some seconds (seen) */
			if (verb == LLMB_CALL_CREATE &&
				in_list(words->param, "file_id input_file_id"))
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
	}
	return (status < 300 || status >= 500) ? LLMB_FAULT_RETRY : LLMB_FAULT_REQUEST;
}

static void
read_failure(LlmbVerb verb, int status, const LlmbJson *body, LlmbReply *reply)
{
	ErrorWords	words;

	read_error(body, &words);
	reply->fault = judge_status(verb, status, &words);
	reply->code = safe_code(words.code);
	if (reply->code == NULL)
		reply->code = safe_code(words.type);
	reply->message = copy_or_null(words.message);
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
	if (!is_id(text))
		return false;
	*id = pstrdup(text);
	return true;
}

/* Why validation refused a batch: the first of its errors. */
static LlmbFault
judge_failed_batch(const ErrorWords *words)
{
	if (in_list(words->code, "token_limit_exceeded"))
		return LLMB_FAULT_QUEUE_FULL;
	if (in_list(words->code, QUOTA_CODES))
		return LLMB_FAULT_QUOTA;
	if (in_list(words->code, "too_many_tasks"))
		return LLMB_FAULT_TOO_LARGE;
	return LLMB_FAULT_REQUEST;
}

static void
first_error(const LlmbJson *node, ErrorWords *words)
{
	read_error(llmb_json_at(llmb_json_path(node, "errors", "data", NULL), 0), words);
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

/* False when this is not a batch, or one that cannot be worked with. */
static bool
read_batch(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	const char *object = llmb_json_string(node, "object");
	const char *status = llmb_json_string(node, "status");
	const char *token = llmb_json_string(llmb_json_get(node, "metadata"), "llm_batch");
	LlmbJson   *counts = llmb_json_get(node, "request_counts");
	ErrorWords	words;

	if (status == NULL || (object != NULL && strcmp(object, "batch") != 0))
		return false;
	if (!read_id(node, "output_file_id", &batch->output) ||
		!read_id(node, "error_file_id", &batch->errors) ||
		!read_id(node, "input_file_id", &batch->input))
		return false;
	batch->token = is_id(token) ? pstrdup(token) : NULL;
	batch->created_s = llmb_json_int(node, "created_at", 0);
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
	batch->total = llmb_json_int(counts, "total", -1);
	batch->done = llmb_json_int(counts, "completed", -1);
	batch->failed = llmb_json_int(counts, "failed", -1);

	/* the id last: whoever sees one sees a whole batch */
	return read_id(node, "id", &batch->id) && batch->id != NULL;
}

static bool
read_described_batch(const LlmbJson *body, LlmbReply *reply)
{
	ErrorWords	words;

	if (!read_batch(body, &reply->batch))
		return false;
	if (reply->batch.state == LLMB_REMOTE_FAILED)
	{
		first_error(body, &words);
		reply->code = safe_code(words.code);
		reply->message = copy_or_null(words.message);
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

	if (llmb_json_is_null(more))
		has_more = (reply->listed_count >= LIST_LIMIT);
	else
		has_more = (more->type != LLMB_JSON_BOOL || more->boolean);
	if (!has_more)
		return true;
	if (reply->listed_count == 0)
		return false;
	reply->next_cursor = pstrdup(reply->listed[reply->listed_count - 1].id);
	return true;
}

/* False when the reply is not what the call should bring. */
static bool
read_success(LlmbVerb verb, const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *data;

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
		case LLMB_CALL_CHECK:
			data = llmb_json_get(body, "data");
			reply->models = (data != NULL) ? data->count : 0;
			return data != NULL && data->type == LLMB_JSON_ARRAY;
		case LLMB_CALL_FETCH:
		case LLMB_CALL_DELETE_FILE:
			return true;
	}
	return false;
}

static void
forget_content(LlmbReply *reply)
{
	int64		retry_after_ms = reply->retry_after_ms;

	memset(reply, 0, sizeof(LlmbReply));
	reply->retry_after_ms = retry_after_ms;
	reply->batch.total = reply->batch.done = reply->batch.failed = -1;
}

void
llmb_openai_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply)
{
	LlmbJson   *body = NULL;
	bool		altered = false;
	const char *reason;

	reply->retry_after_ms = http->retry_after_ms;
	forget_content(reply);

	/* a result file is read line by line, by read_line() */
	if (http->status == 200 && verb == LLMB_CALL_FETCH)
		return;

	if (http->body != NULL && http->len > 0)
	{
		size_t		len = llmb_json_clean(http->body, http->len, &altered);

		body = llmb_json_parse(http->body, len, &reason);
	}

	if (http->status < 200 || http->status > 299)
		read_failure(verb, http->status, body, reply);
	else if (!read_success(verb, body, reply))
	{
		/*
		 * After a create or a cancel the deed may be done: no fault, and no
		 * batch; the caller goes and looks.  All else is done again.
		 */
		forget_content(reply);
		if (verb != LLMB_CALL_CREATE && verb != LLMB_CALL_CANCEL)
			reply->fault = LLMB_FAULT_RETRY;
	}
	llmb_json_free(body);
}

/*
 * Result lines
 *
 * {"id":..., "custom_id":..., "response":{"status_code":..., "request_id":...,
 * "body":{...}}, "error":...}.  A request has succeeded when there is no error, the status is
 * 200, and the body says so as well.
 */

static void
fail(LlmbOutcome *outcome, LlmbCode code, bool retryable, const char *error)
{
	outcome->code = code;
	outcome->retryable = retryable;
	if (outcome->error == NULL)
		outcome->error = copy_or_null(error);
}

/* Takes a string out of the tree instead of copying it. */
static char *
take_string(LlmbJson *node, const char *member)
{
	LlmbJson   *value = llmb_json_get(node, member);
	char	   *text;

	if (value == NULL || value->type != LLMB_JSON_STRING)
		return NULL;
	text = value->text;
	value->text = NULL;
	value->type = LLMB_JSON_NULL;
	return text;
}

/* The request did not run, or not to its end: the line's own error. */
static void
read_line_error(const LlmbJson *error, LlmbOutcome *outcome)
{
	const char *code = string_or_empty(error, "code");
	const char *message = string_or_empty(error, "message");

	if (error->type == LLMB_JSON_STRING)
		message = error->text;

	if (strcmp(code, "batch_expired") == 0)
		fail(outcome, LLMB_EXPIRED, true, message);
	else if (strcmp(code, "batch_cancelled") == 0)
		fail(outcome, LLMB_CANCELLED_ITEM, false, message);
	else if (strcmp(code, "request_timeout") == 0)
		fail(outcome, LLMB_TIMEOUT, true, message);
	else
		fail(outcome, LLMB_PROVIDER_ERROR, true, message);
}

/* The request was answered with an error. */
static void
read_request_error(int64 status, const LlmbJson *body, LlmbOutcome *outcome)
{
	ErrorWords	words;

	read_error(body, &words);
	if (status == 200)
		status = words.number;	/* gateways: the error in a body of 200 */

	if (status == 429)
		fail(outcome, LLMB_RATE_LIMITED, true, words.message);
	else if (status == 408)
		fail(outcome, LLMB_TIMEOUT, true, words.message);
	else if (status == 401 || status == 403)
		fail(outcome, LLMB_AUTH, false, words.message);
	else if (status == 413 || either_in_list(&words, LENGTH_CODES))
		fail(outcome, LLMB_TOO_LARGE, false, words.message);
	else if (either_in_list(&words, REFUSAL_CODES))
		fail(outcome, LLMB_REFUSED, false, words.message);
	else if (status >= 400 && status < 500 && status != 409)
		fail(outcome, LLMB_INVALID_REQUEST, false, words.message);
	else
		fail(outcome, LLMB_PROVIDER_ERROR, true, words.message);
}

static int64
token_count(const LlmbJson *node, const char *member)
{
	return Max(llmb_json_int(node, member, -1), -1);
}

static void
read_usage(const LlmbJson *usage, LlmbOutcome *outcome)
{
	LlmbJson   *in = llmb_json_get(usage, "prompt_tokens_details");
	LlmbJson   *out = llmb_json_get(usage, "completion_tokens_details");

	outcome->input_tokens = token_count(usage, "prompt_tokens");
	outcome->cached_tokens = token_count(in, "cached_tokens");
	outcome->cache_write_tokens = token_count(in, "cache_write_tokens");
	outcome->output_tokens = token_count(usage, "completion_tokens");
	outcome->reasoning_tokens = token_count(out, "reasoning_tokens");
}

/* A message's text: a string, or the text parts of an array, joined. */
static char *
take_content(LlmbJson *message)
{
	LlmbJson   *content = llmb_json_get(message, "content");
	LlmbJson   *part;
	StringInfoData text;
	bool		any = false;

	if (content == NULL || content->type != LLMB_JSON_ARRAY)
		return take_string(message, "content");

	initStringInfo(&text);
	for (part = content->first; part != NULL; part = part->next)
	{
		const char *type = string_or_empty(part, "type");
		const char *words = llmb_json_string(part, "text");

		if (words == NULL || !in_list(type, "text output_text"))
			continue;
		appendStringInfoString(&text, words);
		any = true;
	}
	if (any)
		return text.data;
	pfree(text.data);
	return NULL;
}

/* Text that stands for a refusal, or NULL. */
static char *
take_refusal(LlmbJson *message)
{
	LlmbJson   *content = llmb_json_get(message, "content");
	LlmbJson   *part;
	char	   *refusal = take_string(message, "refusal");

	if (refusal != NULL || content == NULL || content->type != LLMB_JSON_ARRAY)
		return refusal;
	for (part = content->first; part != NULL && refusal == NULL; part = part->next)
		refusal = take_string(part, "refusal");
	return refusal;
}

/* A body of status 200: a chat.completion, and how it finished. */
static void
read_completion(LlmbJson *body, LlmbOutcome *outcome)
{
	LlmbJson   *choice = llmb_json_at(llmb_json_get(body, "choices"), 0);
	LlmbJson   *message = llmb_json_get(choice, "message");
	const char *finish;
	char	   *refusal;

	outcome->model = take_string(body, "model");
	read_usage(llmb_json_get(body, "usage"), outcome);

	if (!llmb_json_is_null(llmb_json_get(choice, "error")))
	{
		read_request_error(200, choice, outcome);
		return;
	}
	if (!llmb_json_is_null(llmb_json_get(body, "error")))
	{
		read_request_error(200, body, outcome);
		return;
	}

	outcome->finish_reason = take_string(choice, "finish_reason");
	finish = outcome->finish_reason ? outcome->finish_reason : "";
	refusal = take_refusal(message);

	if (refusal != NULL || strcmp(finish, "content_filter") == 0)
	{
		outcome->error = refusal;
		fail(outcome, LLMB_REFUSED, false, "The answer was held back by a content filter.");
		return;
	}
	if (in_list(finish, "tool_calls function_call"))
	{
		fail(outcome, LLMB_PROVIDER_ERROR, false, "The model called a tool instead of answering.");
		return;
	}

	outcome->answer = take_content(message);
	if (strcmp(finish, "length") == 0)
		fail(outcome, LLMB_TRUNCATED, false, "The answer reached the limit of tokens.");
	else if (outcome->answer == NULL)
		fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply holds no answer.");
}

/* An error is there unless it is null, or the {} that some write for null. */
static bool
is_error(const LlmbJson *error)
{
	return !llmb_json_is_null(error) &&
		!(error->type == LLMB_JSON_OBJECT && error->count == 0);
}

bool
llmb_openai_read_line(char *line, size_t len, LlmbOutcome *outcome)
{
	LlmbJson   *root;
	LlmbJson   *error;
	LlmbJson   *response;
	LlmbJson   *body;
	const char *reason;
	bool		altered = false;
	int64		status;

	memset(outcome, 0, sizeof(LlmbOutcome));
	read_usage(NULL, outcome);

	len = llmb_json_clean(line, len, &altered);
	root = llmb_json_parse(line, len, &reason);
	outcome->custom_id = take_string(root, "custom_id");
	if (outcome->custom_id == NULL || outcome->custom_id[0] == '\0')
	{
		llmb_json_free(root);
		return false;
	}

	error = llmb_json_get(root, "error");
	response = llmb_json_get(root, "response");
	body = llmb_json_get(response, "body");
	status = llmb_json_int(response, "status_code", -1);
	outcome->request_id = take_string(response, "request_id");

	if (status >= 400)
		read_request_error(status, is_error(error) ? root : body, outcome);
	else if (is_error(error))
		read_line_error(error, outcome);
	else if (status == 200)
		read_completion(body, outcome);
	else
		fail(outcome, LLMB_PROVIDER_ERROR, true, "The result line holds no response.");

	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(root);
	return true;
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
		(model[0] == 'o' && model[1] >= '1' && model[1] <= '9' &&
		 strchr("-:", model[2]) != NULL);
}

const LlmbProvider llmb_provider_openai = {
	.api = "openai",
	.base_url = "https://api.openai.com/v1",
	.needs_key = true,
	.max_batch_requests = LLMB_OPENAI_MAX_BATCH_REQUESTS,
	.max_batch_bytes = LLMB_OPENAI_MAX_BATCH_BYTES,
	.serves = openai_serves,
	.check_params = llmb_openai_check_params,
	.put_body = llmb_openai_put_body,
	.put_line = llmb_openai_put_line,
	.make_call = llmb_openai_make_call,
	.read_reply = llmb_openai_read_reply,
	.read_line = llmb_openai_read_line,
};
