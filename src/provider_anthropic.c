/*-------------------------------------------------------------------------
 *
 * provider_anthropic.c
 *		Anthropic's Message Batches and Messages.
 *
 * A batch is one POST whose body holds all of its requests: there is no file
 * to upload and no label to give, and listings tell nothing of what a batch
 * holds but how many requests there are.  So a batch whose create was never
 * answered can only be told by the custom_ids in its results; until then it
 * is a candidate by its number of requests and its time (unlabelled).
 *
 * A batch is in_progress, canceling or ended, and says nothing of its
 * progress before it has ended.  What became of each request stands in the
 * one result file, also of those that expired or were canceled.
 *
 * The words of LlmbModel.model_class that are understood here say how a model
 * thinks, which is how reasoning_effort is written:
 *
 *		claude-enabled		only when asked, with a budget of tokens
 *		claude-adaptive		by itself, and can be told not to
 *		claude-between		the same, in other words: "between_tools"
 *		claude-always		by itself, and cannot be told not to
 *
 * A model of another class is taken for claude-adaptive, as new ones are.
 *
 * Sources: npm @anthropic-ai/sdk 1.11.0 (November 2026); the pages "Batch
 * processing", "Errors", "Rate limits", "Structured outputs", "Prompt
 * caching" and those of the models at platform.claude.com; recorded traffic
 * of 2025 and 2026.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "provider.h"

/* Batches on a page of a listing; a thousand would be allowed. */
#define LIST_LIMIT 100

/* What is sent unless the server says otherwise: it takes all parameters. */
#define DEFAULT_VERSION "2023-06-01"

/* From this version on no model takes temperature, top_p and top_k. */
#define NO_SAMPLING_VERSION "2026-10-21"

/*
 * Tokens of an answer, when nobody says how many: max_tokens is required.
 * Nothing is paid for room that is not used, but an answer that is cut is
 * paid and lost; so it is more than the answers of a job over rows have, and
 * still an end to one that does not stop.  Thinking counts as well, and gets
 * room of its own, more at the efforts that are known for it.  The usual sum
 * stays under the 21,333 tokens from which on the SDKs want a real-time
 * answer to be streamed, the largest under what any model gives at most.
 */
#define ANSWER_TOKENS	4096
#define THINKING_TOKENS 16384
#define MOST_THINKING	(3 * THINKING_TOKENS)

/* The least budget there is (SDK: messages.d.ts, budget_tokens). */
#define MIN_BUDGET 1024

/* A schema with more members of several types is refused ("Structured outputs"). */
#define MAX_UNIONS 16

typedef enum Thinking
{
	THINKS_WHEN_ASKED,
	THINKS,
	THINKS_BETWEEN_TOOLS,
	THINKS_ALWAYS
} Thinking;

static Thinking
thinking_of(const LlmbModel *model)
{
	const char *class = model->model_class ? model->model_class : "";

	if (strcmp(class, "claude-enabled") == 0)
		return THINKS_WHEN_ASKED;
	if (strcmp(class, "claude-between") == 0)
		return THINKS_BETWEEN_TOOLS;
	if (strcmp(class, "claude-always") == 0)
		return THINKS_ALWAYS;
	return THINKS;
}

/*
 * Parameters
 */

#define SAMPLING "temperature top_p top_k"

static const LlmbParam known_params[] = {
	{"max_tokens", "max_tokens", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"temperature", "temperature", LLMB_PARAM_NUMBER, 0, 1, NULL},
	{"top_p", "top_p", LLMB_PARAM_NUMBER, 0, 1, NULL},
	{"top_k", "top_k", LLMB_PARAM_INTEGER, 0, PG_INT32_MAX, NULL},
	{"stop", "stop_sequences", LLMB_PARAM_STOP, 0, 100, NULL},
	{"reasoning_effort", NULL, LLMB_PARAM_WORD, 0, 0, "none low medium high xhigh max"},
};

static const LlmbParamHint other_names[] = {
	{"max_completion_tokens", "it is called \"max_tokens\" here"},
	{"max_output_tokens", "it is called \"max_tokens\" here"},
	{"stop_sequences", "it is called \"stop\" here"},
	{"effort", "it is called \"reasoning_effort\" here"},
	{"thinking", "use \"reasoning_effort\""},
	{"output_config", "use \"reasoning_effort\" and the argument \"schema\""},
	{"output_format", "use the argument \"schema\""},
	{"response_format", "use the argument \"schema\""},
	{"messages", "let the query yield a column \"messages\""},
	{"model", "use the argument \"model\""},
	{"system", "use the argument \"system\""},
	{"seed", "Anthropic's models take none"},
	{"presence_penalty", "Anthropic's models take none"},
	{"frequency_penalty", "Anthropic's models take none"},
	{"verbosity", "Anthropic's models take none"},
	{"stream", "answers are not streamed"},
	{"service_tier", "it would change the price that is computed"},
	{"inference_geo", "it would change the price that is computed"},
};

static const char *
version_of(const LlmbDialect *dialect)
{
	return (dialect && dialect->api_version && dialect->api_version[0]) ? dialect->api_version : DEFAULT_VERSION;
}

/* The effort that is asked for, or NULL. */
static const char *
effort_of(const LlmbJson *params)
{
	return llmb_json_string(params, "reasoning_effort");
}

/* A budget of thinking is part of this request. */
static bool
has_budget(const LlmbModel *model, const LlmbJson *params)
{
	const char *effort = effort_of(params);

	return thinking_of(model) == THINKS_WHEN_ASKED && effort != NULL && strcmp(effort, "none") != 0;
}

static bool
is_given(const LlmbJson *params, const char *name)
{
	return !llmb_json_is_null(llmb_json_get(params, name));
}

/* A stop text of blanks alone is refused by the provider. */
static bool
is_blank_stop(const LlmbJson *stop)
{
	const LlmbJson *child;

	if (llmb_json_is_null(stop))
		return false;
	if (stop->type == LLMB_JSON_STRING)
		return stop->text[strspn(stop->text, " \t\r\n")] == '\0';
	for (child = stop->first; child != NULL; child = child->next)
	{
		if (is_blank_stop(child))
			return true;
	}
	return false;
}

/* What a budget of thinking does not go with ("Extended thinking"). */
static char *
check_budget(const LlmbModel *model, const LlmbJson *params)
{
	const LlmbJson *temperature = llmb_json_get(params, "temperature");
	const LlmbJson *top_p = llmb_json_get(params, "top_p");

	if (llmb_json_int(params, "max_tokens", PG_INT32_MAX) <= MIN_BUDGET)
		return psprintf("with reasoning_effort, model \"%s\" needs max_tokens of more than %d",
						model->name, MIN_BUDGET);
	if (!llmb_json_is_null(temperature) && strtod(temperature->text, NULL) != 1)
		return psprintf("with reasoning_effort, model \"%s\" takes no temperature but 1", model->name);
	if (is_given(params, "top_k"))
		return psprintf("with reasoning_effort, model \"%s\" takes no top_k", model->name);
	if (!llmb_json_is_null(top_p) && strtod(top_p->text, NULL) < 0.95)
		return psprintf("with reasoning_effort, model \"%s\" takes no top_p under 0.95", model->name);
	return NULL;
}

/* What goes not together, whatever the single values are. */
static char *
check_together(const LlmbModel *model, const LlmbJson *params)
{
	const char *effort = effort_of(params);
	if (is_blank_stop(llmb_json_get(params, "stop")))
		return pstrdup("parameter \"stop\" must hold more than blanks");
	if (strstr(model->name, "-4-5") != NULL && is_given(params, "temperature") && is_given(params, "top_p"))
		return psprintf("model \"%s\" takes temperature or top_p, not both", model->name);
	if (thinking_of(model) == THINKS_ALWAYS && effort != NULL && strcmp(effort, "none") == 0)
		return psprintf("model \"%s\" always thinks: reasoning_effort cannot be \"none\"", model->name);
	return has_budget(model, params) ? check_budget(model, params) : NULL;
}

static char *
anthropic_check_params(const LlmbModel *model, const LlmbDialect *dialect, const LlmbJson *params)
{
	static const char *const sampling[] = {"temperature", "top_p", "top_k"};
	char	   *reason;
	int			i;

	if (dialect && dialect->endpoint == LLMB_ENDPOINT_EMBEDDINGS)
		return pstrdup("Anthropic has no embeddings");
	if (dialect && dialect->endpoint == LLMB_ENDPOINT_RESPONSES)
		return pstrdup("Anthropic has no endpoint \"responses\"");
	reason = llmb_check_params(known_params, lengthof(known_params),
							   other_names, lengthof(other_names), params);
	for (i = 0; i < (int) lengthof(sampling) && reason == NULL; i++)
	{
		if (strcmp(version_of(dialect), NO_SAMPLING_VERSION) >= 0 && is_given(params, sampling[i]))
			reason = psprintf("version %s of Anthropic's API takes no %s", version_of(dialect), sampling[i]);
	}
	if (reason == NULL)
		reason = llmb_check_model_params(model, params, SAMPLING);
	return reason ? reason : check_together(model, params);
}

/*
 * Schemas
 *
 * What the provider cannot enforce it refuses, with the whole request.  So it
 * is told in the description instead, as the SDKs do it: "{maximum: 5}".  Our
 * own check of the answer looks at the schema as it was.
 */

/* "Structured outputs": what a schema may say */
#define SCHEMA_WORDS \
	"type properties required additionalProperties items enum const anyOf allOf $ref $defs " \
	"definitions description title default format pattern minItems"
#define SCHEMA_FORMATS "date-time time date duration email hostname uri ipv4 ipv6 uuid"

/* Members that say nothing of the answer. */
#define SCHEMA_NOTES "$schema $id $comment examples"

/* Members that have several types, null among them, count against a limit. */
static int
count_unions(const LlmbJson *node)
{
	const LlmbJson *child;
	int			count = 0;

	for (child = node->first; child != NULL; child = child->next)
	{
		if (child->name && child->type == LLMB_JSON_ARRAY && llmb_in_list(child->name, "type anyOf oneOf"))
			count++;
		count += count_unions(child);
	}
	return count;
}

static bool
can_be_told(const LlmbJson *member)
{
	if (strcmp(member->name, "format") == 0)
		return member->type == LLMB_JSON_STRING && llmb_in_list(member->text, SCHEMA_FORMATS);
	if (strcmp(member->name, "minItems") == 0)
		return member->type == LLMB_JSON_NUMBER && llmb_in_list(member->text, "0 1");
	return llmb_in_list(member->name, SCHEMA_WORDS " oneOf");
}

static void
put_member_name(StringInfo out, const char *name)
{
	if (out->data[out->len - 1] != '{')
		appendStringInfoChar(out, ',');
	llmb_json_put_string(out, name);
	appendStringInfoChar(out, ':');
}

/* The description, with what cannot be told otherwise. */
static void
put_description(StringInfo out, const LlmbJson *schema)
{
	const char *given = llmb_json_string(schema, "description");
	const LlmbJson *member;
	StringInfoData text;
	bool		any = false;

	initStringInfo(&text);
	if (given)
		appendStringInfoString(&text, given);
	for (member = schema->first; member != NULL; member = member->next)
	{
		if (can_be_told(member) || llmb_in_list(member->name, SCHEMA_NOTES))
			continue;
		appendStringInfoString(&text, any ? ", " : text.len > 0 ? "\n\n{" : "{");
		appendStringInfo(&text, "%s: ", member->name);
		llmb_json_put_node(&text, member);
		any = true;
	}
	if (any)
		appendStringInfoChar(&text, '}');
	if (text.len > 0)
	{
		put_member_name(out, "description");
		llmb_json_put_string(out, text.data);
	}
	pfree(text.data);
}

static void put_schema(StringInfo out, const LlmbJson *schema);

/* A map or a list of schemas, or one. */
static void
put_schemas(StringInfo out, const LlmbJson *node)
{
	const LlmbJson *child;

	appendStringInfoChar(out, node->type == LLMB_JSON_OBJECT ? '{' : '[');
	for (child = node->first; child != NULL; child = child->next)
	{
		if (node->type == LLMB_JSON_OBJECT)
			put_member_name(out, child->name);
		else if (child != node->first)
			appendStringInfoChar(out, ',');
		put_schema(out, child);
	}
	appendStringInfoChar(out, node->type == LLMB_JSON_OBJECT ? '}' : ']');
}

static void
put_schema(StringInfo out, const LlmbJson *schema)
{
	const LlmbJson *member;

	if (schema->type != LLMB_JSON_OBJECT)
	{
		llmb_json_put_node(out, schema);
		return;
	}
	appendStringInfoChar(out, '{');
	for (member = schema->first; member != NULL; member = member->next)
	{
		if (!can_be_told(member) || llmb_in_list(member->name, "description additionalProperties"))
			continue;
		put_member_name(out, strcmp(member->name, "oneOf") == 0 ? "anyOf" : member->name);
		if ((member->type == LLMB_JSON_OBJECT && llmb_in_list(member->name, "properties $defs definitions")) ||
			(member->type == LLMB_JSON_ARRAY && llmb_in_list(member->name, "anyOf allOf oneOf")))
			put_schemas(out, member);
		else if (strcmp(member->name, "items") == 0)
			put_schema(out, member);
		else
			llmb_json_put_node(out, member);
	}
	/* no other object is accepted */
	if (llmb_json_get(schema, "properties") != NULL ||
		strcmp(llmb_string_or_empty(schema, "type"), "object") == 0)
		appendStringInfo(out, "%s\"additionalProperties\":false", out->data[out->len - 1] == '{' ? "" : ",");
	put_description(out, schema);
	appendStringInfoChar(out, '}');
}

/*
 * Requests
 */

/* A copy of JSON of our own, as a tree; NULL when it is none. */
static LlmbJson *
parse_copy(const char *json)
{
	char	   *copy = pstrdup(json);
	bool		altered = false;
	const char *reason;
	LlmbJson   *root = llmb_json_parse(copy, llmb_json_clean(copy, strlen(copy), &altered), &reason);

	pfree(copy);
	return root;
}

/* A budget for models that take one. */
static int64
budget_of(const char *effort)
{
	if (strcmp(effort, "low") == 0)
		return MIN_BUDGET;
	return strcmp(effort, "medium") == 0 ? 4 * MIN_BUDGET : THINKING_TOKENS;
}

/* Room for models that think as long as they see fit. */
static int64
thinking_room(const char *effort)
{
	return (effort != NULL && llmb_in_list(effort, "xhigh max")) ? MOST_THINKING : THINKING_TOKENS;
}

/* max_tokens, and of it the budget of thinking (0: none). */
static int64
room_for_answer(const LlmbRequest *request, int64 *budget)
{
	const LlmbModel *model = request->model;
	int64		cap = llmb_json_int(request->params, "max_tokens", 0);

	*budget = has_budget(model, request->params) ? budget_of(effort_of(request->params)) : 0;
	if (cap <= 0)
	{
		cap = ANSWER_TOKENS + (thinking_of(model) == THINKS_WHEN_ASKED ? *budget :
							   thinking_room(effort_of(request->params)));
		if (model->max_output > 0)
			cap = Min(cap, model->max_output);
	}
	/* it must be less than the whole; half of it leaves room for an answer */
	if (*budget >= cap)
		*budget = Max(cap / 2, MIN_BUDGET);
	return cap;
}

static void
put_params(StringInfo out, const LlmbJson *params)
{
	const LlmbJson *value;

	if (params == NULL || params->type != LLMB_JSON_OBJECT)
		return;
	for (value = params->first; value != NULL; value = value->next)
	{
		const LlmbParam *param = llmb_find_param(known_params, lengthof(known_params), value->name);

		if (param == NULL || param->wire == NULL || llmb_json_is_null(value) ||
			strcmp(param->name, "max_tokens") == 0)
			continue;
		appendStringInfo(out, ",\"%s\":", param->wire);
		if (param->kind == LLMB_PARAM_STOP && value->type == LLMB_JSON_STRING)
			appendStringInfoChar(out, '[');
		llmb_json_put_node(out, value);
		if (param->kind == LLMB_PARAM_STOP && value->type == LLMB_JSON_STRING)
			appendStringInfoChar(out, ']');
	}
}

static void
put_thinking(StringInfo out, const LlmbRequest *request, int64 budget)
{
	const char *effort = effort_of(request->params);
	Thinking	thinking = thinking_of(request->model);

	if (effort == NULL)
		return;
	if (budget > 0)
		appendStringInfo(out, ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":" INT64_FORMAT "}", budget);
	else if (thinking == THINKS_WHEN_ASKED)
		return;
	else if (strcmp(effort, "none") != 0)
		appendStringInfoString(out, ",\"thinking\":{\"type\":\"adaptive\"}");
	else
		appendStringInfo(out, ",\"thinking\":{\"type\":\"%s\"}",
						 thinking == THINKS_BETWEEN_TOOLS ? "between_tools" : "disabled");
}

/* The schema in the provider's own form, or NULL when it goes in words. */
static LlmbJson *
native_schema(const LlmbRequest *request)
{
	LlmbJson   *schema;

	if (request->schema == NULL || request->model->json_schema == 0 ||
		(request->dialect && request->dialect->structured != LLMB_STRUCTURED_NATIVE))
		return NULL;
	schema = parse_copy(request->schema);
	if (schema == NULL || count_unions(schema) <= MAX_UNIONS)
		return schema;
	llmb_json_free(schema);
	return NULL;
}

static void
put_output_config(StringInfo out, const LlmbRequest *request, const LlmbJson *schema)
{
	const char *effort = effort_of(request->params);

	if (effort && (strcmp(effort, "none") == 0 || thinking_of(request->model) == THINKS_WHEN_ASKED))
		effort = NULL;
	if (effort == NULL && schema == NULL)
		return;
	appendStringInfoString(out, ",\"output_config\":{");
	if (effort)
		appendStringInfo(out, "\"effort\":\"%s\"%s", effort, schema ? "," : "");
	if (schema)
	{
		appendStringInfoString(out, "\"format\":{\"type\":\"json_schema\",\"schema\":");
		put_schema(out, schema);
		appendStringInfoChar(out, '}');
	}
	appendStringInfoChar(out, '}');
}

/* Appends the text of a message's content: a string, or its parts. */
static void
append_content(StringInfo text, const LlmbJson *message)
{
	const LlmbJson *content = llmb_json_get(message, "content");
	const LlmbJson *part;

	if (content == NULL)
		return;
	if (text->len > 0)
		appendStringInfoString(text, "\n\n");
	if (content->type == LLMB_JSON_STRING)
		appendStringInfoString(text, content->text);
	for (part = content->first; part != NULL; part = part->next)
		appendStringInfoString(text, llmb_string_or_empty(part, "text"));
}

static bool
is_system(const LlmbJson *message)
{
	return llmb_in_list(llmb_string_or_empty(message, "role"), "system developer");
}

/*
 * What stands in "system": the system prompt, or of an array of messages
 * those that begin it, since there is no such role here; palloc'd or NULL.
 */
static char *
system_text(const LlmbRequest *request, const LlmbJson *messages)
{
	const LlmbJson *message;
	StringInfoData text;

	if (messages == NULL)
		return llmb_copy_or_null(request->messages ? NULL : request->system);
	initStringInfo(&text);
	for (message = messages->first; message != NULL && is_system(message); message = message->next)
		append_content(&text, message);
	if (text.len > 0)
		return text.data;
	pfree(text.data);
	return NULL;
}

static void
put_messages(StringInfo out, const LlmbRequest *request, const LlmbJson *messages)
{
	const LlmbJson *message;

	appendStringInfoString(out, ",\"messages\":");
	if (messages == NULL && request->messages != NULL)
		llmb_put_raw(out, request->messages);
	else if (messages == NULL)
	{
		appendStringInfoString(out, "[{\"role\":\"user\",\"content\":");
		llmb_json_put_string(out, request->prompt ? request->prompt : "");
		appendStringInfoString(out, "}]");
	}
	else
	{
		message = messages->first;
		while (message != NULL && is_system(message))
			message = message->next;
		appendStringInfoChar(out, '[');
		for (; message != NULL; message = message->next)
		{
			llmb_json_put_node(out, message);
			if (message->next)
				appendStringInfoChar(out, ',');
		}
		appendStringInfoChar(out, ']');
	}
}

static void
put_system(StringInfo out, const LlmbRequest *request, const LlmbJson *messages, bool in_words)
{
	char	   *system = system_text(request, messages);

	if (in_words)
	{
		char	   *both = llmb_schema_in_words(system, request->schema);

		if (system)
			pfree(system);
		system = both;
	}
	if (system == NULL)
		return;
	appendStringInfoString(out, ",\"system\":");
	llmb_json_put_string(out, system);
	pfree(system);
}

static void
anthropic_put_body(StringInfo out, const LlmbRequest *request)
{
	LlmbJson   *messages = request->messages ? parse_copy(request->messages) : NULL;
	LlmbJson   *schema = native_schema(request);
	int64		budget;
	int64		cap = room_for_answer(request, &budget);

	if (messages && messages->type != LLMB_JSON_ARRAY)
	{
		llmb_json_free(messages);
		messages = NULL;
	}
	appendStringInfoString(out, "{\"model\":");
	llmb_json_put_string(out, request->model->name);
	appendStringInfo(out, ",\"max_tokens\":" INT64_FORMAT, cap);
	put_params(out, request->params);
	put_thinking(out, request, budget);
	put_output_config(out, request, schema);
	put_system(out, request, messages, request->schema != NULL && schema == NULL);
	put_messages(out, request, messages);
	appendStringInfoChar(out, '}');
	llmb_json_free(schema);
	llmb_json_free(messages);
}

/* A line each, so that a request file can be looked at; the comma is the array's. */
static void
anthropic_put_line(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, request->first ? "{\"custom_id\":" : ",{\"custom_id\":");
	llmb_json_put_string(out, request->custom_id);
	appendStringInfoString(out, ",\"params\":");
	anthropic_put_body(out, request);
	appendStringInfoString(out, "}\n");
}

/*
 * Calls
 */

/* Method and path; false when the id cannot be part of a path. */
static bool
set_path(LlmbCall *call, const char *method, const char *id, const char *after)
{
	if (!llmb_is_id(id))
		return false;
	call->method = method;
	call->path = psprintf("/v1/messages/batches/%s%s", id, after);
	return true;
}

static bool
make_create(LlmbCall *call)
{
	call->method = "POST";
	call->path = pstrdup("/v1/messages/batches");
	llmb_add_header(call, "Content-Type", "", "application/json");
	call->body = makeStringInfo();
	appendStringInfoString(call->body, "{\"requests\":[");
	call->with_file = true;
	call->after_file = pstrdup("]}");
	return true;
}

static bool
make_list(const LlmbBatchRef *ref, LlmbCall *call)
{
	call->method = "GET";
	if (ref->cursor != NULL && !llmb_is_id(ref->cursor))
		return false;
	call->path = psprintf("/v1/messages/batches?limit=%d%s%s", LIST_LIMIT,
						  ref->cursor ? "&after_id=" : "", ref->cursor ? ref->cursor : "");
	return true;
}

static bool
anthropic_make_call(LlmbVerb verb, const LlmbBatchRef *ref, const char *key, LlmbCall *call)
{
	memset(call, 0, sizeof(LlmbCall));
	llmb_add_header(call, "x-api-key", "", key);
	llmb_add_header(call, "anthropic-version", "", version_of(ref->dialect));
	/* only keys that may act on several workspaces need it */
	llmb_add_header(call, "anthropic-workspace-id", "", ref->project);

	switch (verb)
	{
		case LLMB_CALL_CREATE:
			return make_create(call);
		case LLMB_CALL_POLL:
			return set_path(call, "GET", ref->remote_id, "");
		case LLMB_CALL_LIST:
			return make_list(ref, call);
		case LLMB_CALL_CANCEL:
			return set_path(call, "POST", ref->remote_id, "/cancel");
		case LLMB_CALL_FETCH:
			/* not at results_url, which may name any host */
			call->reply_is_lines = true;
			return ref->part == 0 && set_path(call, "GET", ref->remote_id, "/results");
		case LLMB_CALL_CHECK:
			call->method = "GET";
			call->path = pstrdup("/v1/models?limit=1000");
			return true;
		case LLMB_CALL_ANSWER:
			call->method = "POST";
			call->path = pstrdup("/v1/messages");
			llmb_add_header(call, "Content-Type", "", "application/json");
			return true;
		case LLMB_CALL_UPLOAD:
		case LLMB_CALL_UPLOAD_DATA:
		case LLMB_CALL_FIND_FILE:
		case LLMB_CALL_DELETE_FILE:
			return false;
	}
	return false;
}

/*
 * Errors, of calls and of single requests alike
 *
 * {"type":"error","error":{"type":..., "message":..., "details":{...}},"request_id":...}
 */
typedef struct ErrorWords
{
	const char *type;			/* "" when absent, as the others */
	const char *message;
	const char *detail;			/* details.error_code */
	const char *request_id;
} ErrorWords;

static void
read_error(const LlmbJson *body, ErrorWords *words)
{
	LlmbJson   *error = llmb_json_get(body, "error");

	if (error == NULL || error->type != LLMB_JSON_OBJECT)
		error = unconstify(LlmbJson *, body);
	words->type = llmb_string_or_empty(error, "type");
	words->message = llmb_string_or_empty(error, "message");
	words->detail = llmb_string_or_empty(llmb_json_get(error, "details"), "error_code");
	words->request_id = llmb_string_or_empty(body, "request_id");
}

/*
 * No more money, or no more to be spent: waiting does not help.  The code to
 * show, or NULL when it is about something else.  Some of these come as a bad
 * request, and only their text tells ("Errors").
 */
static const char *
money_code(const ErrorWords *words)
{
	if (strcmp(words->type, "billing_error") == 0)
		return words->type;
	if (llmb_in_list(words->detail, "enforced_spend_limit_reached contract_spend_limit_reached"))
		return words->detail;
	if (!llmb_in_list(words->type, "invalid_request_error rate_limit_error"))
		return NULL;
	if (strstr(words->message, "credit balance is too low") != NULL)
		return "credit_balance_too_low";
	if (strstr(words->message, "reached your specified") != NULL && strstr(words->message, "usage limits") != NULL)
		return "usage_limits_reached";
	return NULL;
}

/* The prompt as such is longer than the model reads. */
static bool
is_about_length(const ErrorWords *words)
{
	return strcmp(words->type, "request_too_large") == 0 ||
		strstr(words->message, "prompt is too long") != NULL ||
		strstr(words->message, "exceed context limit") != NULL;
}

static LlmbFault
judge_status(LlmbVerb verb, int status, const ErrorWords *words)
{
	if (status >= 400 && money_code(words) != NULL)
		return LLMB_FAULT_QUOTA;
	switch (status)
	{
		case 401:
		case 403:
			return LLMB_FAULT_KEY;
		case 402:
			return LLMB_FAULT_QUOTA;
		case 404:
			return (verb == LLMB_CALL_POLL || verb == LLMB_CALL_CANCEL || verb == LLMB_CALL_FETCH) ?
				LLMB_FAULT_GONE : LLMB_FAULT_REQUEST;
		case 413:
			return LLMB_FAULT_TOO_LARGE;
		case 408:
		case 409:
			return LLMB_FAULT_RETRY;
		case 429:
		case 529:
			return verb == LLMB_CALL_ANSWER ? LLMB_FAULT_BUSY : LLMB_FAULT_RETRY;
		case 503:
			/* the key with which the customer has the data encrypted */
			if (strncmp(words->detail, "cmek_", 5) == 0 || strncmp(words->type, "cmek_", 5) == 0)
				return LLMB_FAULT_KEY;
			return verb == LLMB_CALL_ANSWER ? LLMB_FAULT_BUSY : LLMB_FAULT_RETRY;
	}
	return (status < 400 || status >= 500) ? LLMB_FAULT_RETRY : LLMB_FAULT_REQUEST;
}

static void
read_failure(LlmbVerb verb, int status, const LlmbJson *body, LlmbReply *reply)
{
	ErrorWords	words;

	read_error(body, &words);
	reply->fault = judge_status(verb, status, &words);
	reply->code = llmb_safe_code(money_code(&words));
	if (reply->code == NULL)
		reply->code = llmb_safe_code(words.detail);
	if (reply->code == NULL)
		reply->code = llmb_safe_code(words.type);
	reply->message = llmb_copy_or_null(words.message);
}

/* What an error means for the one request that it is the answer to. */
static void
fail_by_error(LlmbOutcome *outcome, const ErrorWords *words)
{
	static const struct
	{
		const char *type;
		LlmbCode	code;
		bool		retryable;
	}			kinds[] =
	{
		{"invalid_request_error", LLMB_INVALID_REQUEST, false},
		{"not_found_error", LLMB_INVALID_REQUEST, false},
		{"authentication_error", LLMB_AUTH, false},
		{"permission_error", LLMB_AUTH, false},
		{"rate_limit_error", LLMB_RATE_LIMITED, true},
		{"timeout_error", LLMB_TIMEOUT, true},
	};
	const char *message = words->message;
	int			i;

	if (message[0] == '\0')
		message = words->type;
	if (outcome->request_id == NULL)
		outcome->request_id = llmb_copy_or_null(words->request_id);
	if (money_code(words) != NULL)
	{
		llmb_outcome_fail(outcome, LLMB_RATE_LIMITED, true, message);
		return;
	}
	if (is_about_length(words))
	{
		llmb_outcome_fail(outcome, LLMB_TOO_LARGE, false, message);
		return;
	}
	for (i = 0; i < (int) lengthof(kinds); i++)
	{
		if (strcmp(words->type, kinds[i].type) == 0)
		{
			llmb_outcome_fail(outcome, kinds[i].code, kinds[i].retryable, message);
			return;
		}
	}
	/* "any other kind may be sent again unchanged" ("Batch processing") */
	llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, message);
}

/*
 * Batches
 */

static LlmbRemoteState
read_state(const LlmbJson *node, const char *status)
{
	if (strcmp(status, "in_progress") == 0)
		return LLMB_REMOTE_RUNNING;
	if (strcmp(status, "canceling") == 0)
		return LLMB_REMOTE_CANCELLING;
	if (strcmp(status, "ended") != 0)
		return LLMB_REMOTE_UNKNOWN;
	return llmb_json_string(node, "cancel_initiated_at") ? LLMB_REMOTE_CANCELLED : LLMB_REMOTE_ENDED;
}

static bool
has_ended(const LlmbRemoteBatch *batch)
{
	return batch->state == LLMB_REMOTE_ENDED || batch->state == LLMB_REMOTE_CANCELLED;
}

/* The sum of two counts; -1 when either is unknown, or the sum cannot be. */
static int64
add_counts(int64 a, int64 b)
{
	if (a < 0 || b < 0 || a > PG_INT64_MAX / 2 || b > PG_INT64_MAX / 2)
		return -1;
	return a + b;
}

/*
 * The five counts always add up to the number of requests.  Until the end
 * all are "processing", whatever has been done: that is no progress.
 */
static void
read_counts(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	static const char *const names[] = {"processing", "succeeded", "errored", "canceled", "expired"};
	LlmbJson   *counts = llmb_json_get(node, "request_counts");
	int			i;

	batch->total = 0;
	for (i = 0; i < (int) lengthof(names); i++)
		batch->total = add_counts(batch->total, llmb_count(counts, names[i]));
	batch->done = has_ended(batch) ? llmb_count(counts, "succeeded") : -1;
	batch->failed = has_ended(batch) ? llmb_count(counts, "errored") : -1;
}

/* False when this is not a batch, or one that cannot be worked with. */
static bool
read_batch(const LlmbJson *node, LlmbRemoteBatch *batch)
{
	const char *type = llmb_json_string(node, "type");
	const char *status = llmb_json_string(node, "processing_status");
	const char *id = llmb_json_string(node, "id");

	if (status == NULL || !llmb_is_id(id) || (type != NULL && strcmp(type, "message_batch") != 0))
		return false;
	batch->created_s = llmb_rfc3339_ms(llmb_json_string(node, "created_at")) / 1000;
	batch->ended_ms = llmb_rfc3339_ms(llmb_json_string(node, "ended_at"));
	batch->state = read_state(node, status);
	read_counts(node, batch);
	/* that there are results; where, make_call() knows */
	if (llmb_json_string(node, "results_url") != NULL && has_ended(batch))
		batch->output = pstrdup(id);
	batch->id = pstrdup(id);
	return true;
}

/*
 * A page counts as read only when each batch on it was, with its time and
 * its number of requests, by which candidates are told: a listing is what
 * proves that a batch does not exist.
 */
static bool
read_listing(const LlmbJson *body, LlmbReply *reply)
{
	LlmbJson   *data = llmb_json_get(body, "data");
	LlmbJson   *more = llmb_json_get(body, "has_more");
	LlmbJson   *node;

	if (data == NULL || data->type != LLMB_JSON_ARRAY || more == NULL || more->type != LLMB_JSON_BOOL)
		return false;
	reply->listed = palloc0(sizeof(LlmbRemoteBatch) * Max(data->count, 1));
	for (node = data->first; node != NULL; node = node->next)
	{
		LlmbRemoteBatch *batch = &reply->listed[reply->listed_count];

		if (!read_batch(node, batch))
			return false;
		reply->listed_count++;
		if (batch->created_s <= 0 || batch->total < 0)
			return false;
	}
	if (!more->boolean)
		return true;
	if (reply->listed_count == 0)
		return false;
	reply->next_cursor = pstrdup(reply->listed[reply->listed_count - 1].id);
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
		case LLMB_CALL_CREATE:
		case LLMB_CALL_CANCEL:
		case LLMB_CALL_POLL:
			return read_batch(body, &reply->batch);
		case LLMB_CALL_LIST:
			return read_listing(body, reply);
		case LLMB_CALL_CHECK:
			data = llmb_json_get(body, "data");
			reply->models = (data != NULL) ? data->count : 0;
			return data != NULL && data->type == LLMB_JSON_ARRAY;
		case LLMB_CALL_FETCH:
			return true;
		case LLMB_CALL_UPLOAD:
		case LLMB_CALL_UPLOAD_DATA:
		case LLMB_CALL_FIND_FILE:
		case LLMB_CALL_DELETE_FILE:
		case LLMB_CALL_ANSWER:
			break;
	}
	return false;
}

static void
anthropic_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply)
{
	llmb_read_reply(verb, http, reply, read_success, read_failure);
}

/*
 * Answers
 */

/*
 * input_tokens are those that no cache has to do with; and all that was
 * written, the part kept for an hour too, is in cache_creation_input_tokens.
 */
static void
read_usage(const LlmbJson *usage, LlmbOutcome *outcome)
{
	LlmbJson   *written = llmb_json_get(usage, "cache_creation");
	int64		shorter = llmb_count(written, "ephemeral_5m_input_tokens");

	outcome->cached_tokens = llmb_count(usage, "cache_read_input_tokens");
	outcome->cache_write_tokens = llmb_count(usage, "cache_creation_input_tokens");
	outcome->long_write_tokens = llmb_count(written, "ephemeral_1h_input_tokens");
	if (outcome->cache_write_tokens < 0)
		outcome->cache_write_tokens = add_counts(shorter, outcome->long_write_tokens);
	outcome->input_tokens = add_counts(llmb_count(usage, "input_tokens"),
									   add_counts(Max(outcome->cached_tokens, 0),
												  Max(outcome->cache_write_tokens, 0)));
	outcome->output_tokens = llmb_count(usage, "output_tokens");
	outcome->reasoning_tokens = llmb_count(llmb_json_get(usage, "output_tokens_details"), "thinking_tokens");
}

/* The text blocks, joined; thinking may stand before them.  NULL: there is none. */
static char *
take_text(const LlmbJson *message)
{
	LlmbJson   *content = llmb_json_get(message, "content");
	LlmbJson   *block;
	StringInfoData text;
	char	   *only = NULL;
	int			count = 0;

	if (content == NULL || content->type != LLMB_JSON_ARRAY)
		return NULL;
	initStringInfo(&text);
	for (block = content->first; block != NULL; block = block->next)
	{
		char	   *words;

		if (strcmp(llmb_string_or_empty(block, "type"), "text") != 0 ||
			(words = llmb_take_string(block, "text")) == NULL)
			continue;
		appendStringInfoString(&text, words);
		if (only != NULL)
			pfree(only);
		only = words;
		count++;
	}
	if (count <= 1)
	{
		pfree(text.data);
		return only;
	}
	pfree(only);
	return text.data;
}

static char *
refusal_words(const LlmbJson *message)
{
	LlmbJson   *details = llmb_json_get(message, "stop_details");
	const char *explanation = llmb_json_string(details, "explanation");
	const char *category = llmb_json_string(details, "category");

	if (explanation != NULL && explanation[0] != '\0')
		return pstrdup(explanation);
	if (category != NULL && category[0] != '\0')
		return psprintf("The model refused to answer (%s).", category);
	return pstrdup("The model refused to answer.");
}

static void
read_message(LlmbJson *message, LlmbOutcome *outcome)
{
	const char *stop;

	outcome->model = llmb_take_string(message, "model");
	if (outcome->request_id == NULL)
		outcome->request_id = llmb_take_string(message, "id");
	read_usage(llmb_json_get(message, "usage"), outcome);
	outcome->finish_reason = llmb_take_string(message, "stop_reason");
	stop = outcome->finish_reason ? outcome->finish_reason : "";

	if (strcmp(stop, "refusal") == 0)
	{
		outcome->error = refusal_words(message);
		llmb_outcome_fail(outcome, LLMB_REFUSED, false, NULL);
		return;
	}
	if (llmb_in_list(stop, "tool_use pause_turn"))
	{
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, false, "The model called a tool instead of answering.");
		return;
	}
	outcome->answer = take_text(message);
	if (strcmp(stop, "max_tokens") == 0)
		llmb_outcome_fail(outcome, LLMB_TRUNCATED, false, "The answer reached the limit of tokens.");
	else if (strcmp(stop, "model_context_window_exceeded") == 0)
		llmb_outcome_fail(outcome, LLMB_TRUNCATED, false, "Prompt and answer filled the model's context window.");
	else if (outcome->answer == NULL)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply holds no answer.");
}

/* What has run is charged, also where the reply does not say so. */
static void
note_charge(LlmbOutcome *outcome)
{
	outcome->perhaps_run = outcome->code != LLMB_OK && outcome->input_tokens < 0;
}

/* {"type":"succeeded","message":{...}}, or why there is no message. */
static void
read_result(const LlmbJson *result, LlmbOutcome *outcome)
{
	const char *type = llmb_string_or_empty(result, "type");
	LlmbJson   *message = llmb_json_get(result, "message");
	ErrorWords	words;

	if (strcmp(type, "errored") == 0)
	{
		/* the whole envelope of an error stands there, not only the error */
		read_error(llmb_json_get(result, "error"), &words);
		fail_by_error(outcome, &words);
	}
	else if (strcmp(type, "canceled") == 0)
		llmb_outcome_fail(outcome, LLMB_CANCELLED_ITEM, false,
						  "The batch was canceled before this request was reached.");
	else if (strcmp(type, "expired") == 0)
		llmb_outcome_fail(outcome, LLMB_EXPIRED, true, "The batch expired before this request was reached.");
	else
	{
		if (strcmp(type, "succeeded") == 0 && message != NULL)
			read_message(message, outcome);
		else
			llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The result line holds no result.");
		note_charge(outcome);
	}
}

static bool
anthropic_read_line(char *line, size_t len, LlmbOutcome *outcome)
{
	bool		altered = false;
	LlmbJson   *root = llmb_open_line(line, len, "custom_id", outcome, &altered);

	if (root == NULL)
		return false;
	read_result(llmb_json_get(root, "result"), outcome);
	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(root);
	return true;
}

/*
 * Real time
 */

/* A status that is no success, for the request: by status, then by its words. */
static void
fail_by_status(LlmbOutcome *outcome, int status, const ErrorWords *words)
{
	static const struct
	{
		int			status;
		const char *type;
	}			types[] =
	{
		/* replies from the edge are not always JSON */
		{400, "invalid_request_error"},
		{401, "authentication_error"},
		{402, "billing_error"},
		{403, "permission_error"},
		{404, "not_found_error"},
		{408, "timeout_error"},
		{413, "request_too_large"},
		{429, "rate_limit_error"},
		{504, "timeout_error"},
	};
	ErrorWords	by_status = *words;
	int			i;

	by_status.type = (status >= 400 && status < 500 && status != 409) ? "invalid_request_error" : "api_error";
	for (i = 0; i < (int) lengthof(types); i++)
	{
		if (types[i].status == status)
			by_status.type = types[i].type;
	}
	if (by_status.message[0] == '\0')
		by_status.message = psprintf("HTTP status %d", status);
	fail_by_error(outcome, &by_status);
}

static void
anthropic_read_answer(LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply)
{
	bool		altered = false;
	LlmbJson   *body = llmb_reply_json(http, &altered);
	ErrorWords	words;

	llmb_outcome_init(outcome);
	reply->retry_after_ms = http->retry_after_ms;
	llmb_reply_forget(reply);
	outcome->request_id = llmb_reply_header(http, "request-id");

	if (http->status != 200)
	{
		read_error(body, &words);
		read_failure(LLMB_CALL_ANSWER, http->status, body, reply);
		fail_by_status(outcome, http->status, &words);
	}
	else if (strcmp(llmb_string_or_empty(body, "type"), "message") == 0)
	{
		read_message(body, outcome);
		outcome->altered = altered && outcome->answer != NULL;
		note_charge(outcome);
	}
	else
	{
		reply->fault = LLMB_FAULT_RETRY;
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply is not a message.");
		note_charge(outcome);
	}
	llmb_json_free(body);
}

/* The limits are those of a minute; a reset that is further away is no news. */
#define MAX_RESET_MS INT64CONST(3600000)

/* Milliseconds until the time in a header; -1 when there is none. */
static int64
reset_ms(const LlmbHttpReply *http, const char *name, int64 now_ms)
{
	char	   *text = llmb_reply_header(http, name);
	int64		at = llmb_rfc3339_ms(text);

	if (text != NULL)
		pfree(text);
	return at > 0 ? Min(Max(at - now_ms, 0), MAX_RESET_MS) : -1;
}

/* The "tokens" headers speak of whichever limit of tokens is the nearest. */
static void
anthropic_read_limits(const LlmbHttpReply *http, int64 now_ms, LlmbLimits *limits)
{
	limits->requests_left = llmb_reply_header_int(http, "anthropic-ratelimit-requests-remaining");
	limits->requests_reset_ms = reset_ms(http, "anthropic-ratelimit-requests-reset", now_ms);
	limits->tokens_left = llmb_reply_header_int(http, "anthropic-ratelimit-tokens-remaining");
	limits->tokens_reset_ms = reset_ms(http, "anthropic-ratelimit-tokens-reset", now_ms);
	if (limits->tokens_left < 0)
	{
		limits->tokens_left = llmb_reply_header_int(http, "anthropic-ratelimit-input-tokens-remaining");
		limits->tokens_reset_ms = reset_ms(http, "anthropic-ratelimit-input-tokens-reset", now_ms);
	}
}

static bool
anthropic_serves(const char *model)
{
	return strncmp(model, "claude-", 7) == 0;
}

const LlmbProvider llmb_provider_anthropic = {
	.api = "anthropic",
	.base_url = "https://api.anthropic.com",
	.needs_key = true,

	/* "Batch processing": 100,000 requests or 256 MB, whichever is less */
	.max_batch_requests = 100000,
	.max_batch_bytes = INT64CONST(256) * 1000 * 1000 - 1000,
	.window_hours = 24,	/* platform.claude.com, "Batch processing" */
	.inline_requests = true,
	.unlabelled = true,
	.serves = anthropic_serves,
	.check_params = anthropic_check_params,
	.put_body = anthropic_put_body,
	.put_line = anthropic_put_line,
	.make_call = anthropic_make_call,
	.read_reply = anthropic_read_reply,
	.read_line = anthropic_read_line,
	.read_answer = anthropic_read_answer,
	.read_limits = anthropic_read_limits,
};
