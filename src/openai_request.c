/*-------------------------------------------------------------------------
 *
 * openai_request.c
 *		Requests in OpenAI's wire form: parameters, bodies, lines.
 *
 * There are three endpoints, each with names of its own for the same things:
 * Chat Completions, which every compatible server has; Responses; and
 * Embeddings, which takes a text and little else.
 *
 * Sources: the npm package openai 7.55.0 (November 2026),
 * resources/chat/completions/completions.d.ts, responses/responses.d.ts,
 * embeddings.d.ts; OpenAI's published openapi.json of August 2026.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "batch.h"
#include "json.h"
#include "provider.h"
#include "provider_openai.h"

/*
 * Endpoints
 */

LlmbEndpoint
llmb_openai_endpoint(const LlmbModel *model, const LlmbDialect *dialect)
{
	if (model != NULL && model->model_class != NULL && strcmp(model->model_class, "embedding") == 0)
		return LLMB_ENDPOINT_EMBEDDINGS;
	return dialect->endpoint;
}

const char *
llmb_openai_path(LlmbEndpoint endpoint)
{
	switch (endpoint)
	{
		case LLMB_ENDPOINT_CHAT:
			break;
		case LLMB_ENDPOINT_RESPONSES:
			return "/responses";
		case LLMB_ENDPOINT_EMBEDDINGS:
			return "/embeddings";
	}
	return "/chat/completions";
}

bool
llmb_openai_is_old_azure(const LlmbDialect *dialect, const char *base_url)
{
	size_t		len = base_url ? strlen(base_url) : 0;

	return dialect->api_version != NULL && dialect->api_version[0] != '\0' &&
		!(len >= 3 && strcmp(base_url + len - 3, "/v1") == 0);
}

/*
 * Parameters
 *
 * One table for each endpoint.  Values are those that are documented.
 */

#define EFFORTS "none minimal low medium high xhigh max"
#define VERBOSITIES "low medium high"

static const LlmbParam chat_params[] = {
	/* max_tokens itself is refused by the o series and from gpt-5 on */
	{"max_tokens", "max_completion_tokens", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"temperature", "temperature", LLMB_PARAM_NUMBER, 0, 2, NULL},
	{"top_p", "top_p", LLMB_PARAM_NUMBER, 0, 1, NULL},
	{"seed", "seed", LLMB_PARAM_INTEGER, -9223372036854775808.0, 9223372036854775807.0, NULL},
	{"stop", "stop", LLMB_PARAM_STOP, 0, 4, NULL},
	{"reasoning_effort", "reasoning_effort", LLMB_PARAM_WORD, 0, 0, EFFORTS},
	{"verbosity", "verbosity", LLMB_PARAM_WORD, 0, 0, VERBOSITIES},
	{"presence_penalty", "presence_penalty", LLMB_PARAM_NUMBER, -2, 2, NULL},
	{"frequency_penalty", "frequency_penalty", LLMB_PARAM_NUMBER, -2, 2, NULL},
	{"prompt_cache_key", "prompt_cache_key", LLMB_PARAM_STRING, 0, 0, NULL},
	{"prompt_cache_options", "prompt_cache_options", LLMB_PARAM_OBJECT, 0, 0, NULL},
	{"prompt_cache_retention", "prompt_cache_retention", LLMB_PARAM_STRING, 0, 0, NULL},
	{"safety_identifier", "safety_identifier", LLMB_PARAM_STRING, 0, 0, NULL},
};

/* reasoning_effort and verbosity stand in objects of their own there */
static const LlmbParam responses_params[] = {
	{"max_tokens", "max_output_tokens", LLMB_PARAM_INTEGER, 16, PG_INT32_MAX, NULL},
	{"temperature", "temperature", LLMB_PARAM_NUMBER, 0, 2, NULL},
	{"top_p", "top_p", LLMB_PARAM_NUMBER, 0, 1, NULL},
	{"reasoning_effort", NULL, LLMB_PARAM_WORD, 0, 0, EFFORTS},
	{"verbosity", NULL, LLMB_PARAM_WORD, 0, 0, VERBOSITIES},
	{"prompt_cache_key", "prompt_cache_key", LLMB_PARAM_STRING, 0, 0, NULL},
	{"prompt_cache_options", "prompt_cache_options", LLMB_PARAM_OBJECT, 0, 0, NULL},
	{"prompt_cache_retention", "prompt_cache_retention", LLMB_PARAM_STRING, 0, 0, NULL},
	{"safety_identifier", "safety_identifier", LLMB_PARAM_STRING, 0, 0, NULL},
};

static const LlmbParam embeddings_params[] = {
	{"dimensions", "dimensions", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
};

/* Names that others use, or that are not parameters here, and what to do. */
static const LlmbParamHint other_names[] = {
	{"max_completion_tokens", "it is called \"max_tokens\" here"},
	{"max_output_tokens", "it is called \"max_tokens\" here"},
	{"stop_sequences", "it is called \"stop\" here"},
	{"effort", "it is called \"reasoning_effort\" here"},
	{"reasoning", "it is called \"reasoning_effort\" here"},
	{"response_format", "use the argument \"schema\""},
	{"text", "use the argument \"schema\""},
	{"messages", "let the query yield a column \"messages\""},
	{"input", "use the argument \"prompt\""},
	{"model", "use the argument \"model\""},
	{"system", "use the argument \"system\""},
	{"instructions", "use the argument \"system\""},
	{"n", "each prompt has one answer"},
	{"stream", "answers are not streamed"},
	{"store", "answers are not kept by the provider"},
	{"background", "use the argument \"mode\""},
	{"service_tier", "it would change the price that is computed"},
	{"dimensions", "only embeddings have dimensions"},
};

#define IN_CHAT_ONLY "the endpoint \"responses\" does not have it, \"chat\" does"

static const LlmbParamHint not_in_responses[] = {
	{"seed", IN_CHAT_ONLY},
	{"stop", IN_CHAT_ONLY},
	{"presence_penalty", IN_CHAT_ONLY},
	{"frequency_penalty", IN_CHAT_ONLY},
};

static const LlmbParam *
params_of(LlmbEndpoint endpoint, int *count)
{
	switch (endpoint)
	{
		case LLMB_ENDPOINT_CHAT:
			break;
		case LLMB_ENDPOINT_RESPONSES:
			*count = lengthof(responses_params);
			return responses_params;
		case LLMB_ENDPOINT_EMBEDDINGS:
			*count = lengthof(embeddings_params);
			return embeddings_params;
	}
	*count = lengthof(chat_params);
	return chat_params;
}

/* What only Chat Completions takes, said before the name is called unknown. */
static char *
missing_in_responses(const LlmbJson *params)
{
	int			i;

	for (i = 0; i < (int) lengthof(not_in_responses); i++)
	{
		if (!llmb_json_is_null(llmb_json_get(params, not_in_responses[i].name)))
			return psprintf("parameter \"%s\" cannot be used: %s",
							not_in_responses[i].name, not_in_responses[i].hint);
	}
	return NULL;
}

char *
llmb_openai_check_params(const LlmbModel *model, const LlmbDialect *dialect, const LlmbJson *params)
{
	LlmbEndpoint endpoint = llmb_openai_endpoint(model, dialect);
	const LlmbParam *table;
	char	   *reason = NULL;
	int			count;

	table = params_of(endpoint, &count);
	if (endpoint == LLMB_ENDPOINT_RESPONSES)
		reason = missing_in_responses(params);
	if (reason == NULL)
		reason = llmb_check_params(table, count, other_names, lengthof(other_names), params);
	if (reason == NULL && endpoint != LLMB_ENDPOINT_EMBEDDINGS)
		reason = llmb_check_model_params(model, params, "temperature top_p");
	return reason;
}

static void
put_params(StringInfo out, const LlmbRequest *request, LlmbEndpoint endpoint)
{
	const LlmbJson *value;
	const LlmbParam *table;
	int			count;

	if (request->params == NULL || request->params->type != LLMB_JSON_OBJECT)
		return;
	table = params_of(endpoint, &count);
	for (value = request->params->first; value != NULL; value = value->next)
	{
		const LlmbParam *param = llmb_find_param(table, count, value->name);
		const char *wire;

		if (param == NULL || param->wire == NULL || llmb_json_is_null(value))
			continue;
		wire = param->wire;
		if (request->dialect->old_cap && strcmp(wire, "max_completion_tokens") == 0)
			wire = "max_tokens";
		appendStringInfo(out, ",\"%s\":", wire);
		llmb_json_put_node(out, value);
	}
}

/*
 * The schema of the answer
 */

static LlmbStructured
structured_form(const LlmbRequest *request)
{
	if (request->dialect->structured == LLMB_STRUCTURED_NATIVE && request->model->json_schema == 0)
		return LLMB_STRUCTURED_PROMPT;
	return request->dialect->structured;
}

/* Whether the model has to be told the schema in words. */
static bool
needs_words(const LlmbRequest *request)
{
	return request->schema != NULL && structured_form(request) != LLMB_STRUCTURED_NATIVE;
}

#define SCHEMA_HEAD "\"name\":\"answer\",\"strict\":true,\"schema\":"

static void
put_response_format(StringInfo out, const LlmbRequest *request)
{
	switch (structured_form(request))
	{
		case LLMB_STRUCTURED_NATIVE:
			appendStringInfoString(out, ",\"response_format\":{\"type\":\"json_schema\","
								   "\"json_schema\":{" SCHEMA_HEAD);
			llmb_put_raw(out, request->schema);
			appendStringInfoString(out, "}}");
			break;
		case LLMB_STRUCTURED_OBJECT:
			appendStringInfoString(out, ",\"response_format\":{\"type\":\"json_object\"}");
			break;
		case LLMB_STRUCTURED_PROMPT:
			break;
	}
}

/* The same for Responses: flat, and in an object with the verbosity. */
static void
put_text_format(StringInfo out, const LlmbRequest *request)
{
	LlmbJson   *verbosity = llmb_json_get(request->params, "verbosity");
	LlmbStructured form = structured_form(request);
	const char *comma = "";

	if (request->schema == NULL || form == LLMB_STRUCTURED_PROMPT)
	{
		if (llmb_json_is_null(verbosity))
			return;
		appendStringInfoString(out, ",\"text\":{");
	}
	else
	{
		appendStringInfoString(out, ",\"text\":{\"format\":{\"type\":");
		if (form == LLMB_STRUCTURED_NATIVE)
		{
			appendStringInfoString(out, "\"json_schema\"," SCHEMA_HEAD);
			llmb_put_raw(out, request->schema);
			appendStringInfoChar(out, '}');
		}
		else
			appendStringInfoString(out, "\"json_object\"}");
		comma = ",";
	}
	if (!llmb_json_is_null(verbosity))
	{
		appendStringInfo(out, "%s\"verbosity\":", comma);
		llmb_json_put_node(out, verbosity);
	}
	appendStringInfoChar(out, '}');
}

/*
 * Bodies
 */

static void
put_message(StringInfo out, const char *role, const char *text)
{
	appendStringInfo(out, "{\"role\":\"%s\",\"content\":", role);
	llmb_json_put_string(out, text);
	appendStringInfoChar(out, '}');
}

/* The messages as given, or with one more before them. */
static void
put_given_messages(StringInfo out, const char *messages, const char *system)
{
	const char *rest = messages + strspn(messages, " \t\r\n");

	if (system == NULL || *rest != '[')
	{
		llmb_put_raw(out, messages);
		return;
	}
	appendStringInfoChar(out, '[');
	put_message(out, "system", system);
	rest++;
	rest += strspn(rest, " \t\r\n");
	if (*rest != ']')
		appendStringInfoChar(out, ',');
	llmb_put_raw(out, rest);
}

static void
put_messages(StringInfo out, const LlmbRequest *request)
{
	char	   *words = NULL;
	const char *system = request->messages != NULL ? NULL : request->system;

	if (needs_words(request))
		system = words = llmb_schema_in_words(system, request->schema);
	if (request->messages != NULL)
		put_given_messages(out, request->messages, system);
	else
	{
		appendStringInfoChar(out, '[');
		if (system != NULL)
		{
			put_message(out, "system", system);
			appendStringInfoChar(out, ',');
		}
		put_message(out, "user", request->prompt ? request->prompt : "");
		appendStringInfoChar(out, ']');
	}
	if (words != NULL)
		pfree(words);
}

static void
put_chat(StringInfo out, const LlmbRequest *request)
{
	put_params(out, request, LLMB_ENDPOINT_CHAT);
	if (request->schema != NULL)
		put_response_format(out, request);
	appendStringInfoString(out, ",\"messages\":");
	put_messages(out, request);
}

/*
 * A part of a message's content as Responses calls it: "text" is input_text,
 * or what the model once said itself; an image is no object of its own.
 * Other parts are the same, or not known there.
 */
static void
put_input_part(StringInfo out, const LlmbJson *part, bool assistant)
{
	const char *type = llmb_string_or_empty(part, "type");
	LlmbJson   *image = llmb_json_get(part, "image_url");
	LlmbJson   *detail = llmb_json_get(image, "detail");

	if (strcmp(type, "text") == 0)
	{
		appendStringInfo(out, "{\"type\":\"%s\",\"text\":", assistant ? "output_text" : "input_text");
		llmb_json_put_string(out, llmb_string_or_empty(part, "text"));
		appendStringInfoChar(out, '}');
	}
	else if (strcmp(type, "image_url") == 0)
	{
		appendStringInfoString(out, "{\"type\":\"input_image\",\"image_url\":");
		llmb_json_put_string(out, llmb_string_or_empty(image, "url"));
		if (!llmb_json_is_null(detail))
		{
			appendStringInfoString(out, ",\"detail\":");
			llmb_json_put_node(out, detail);
		}
		appendStringInfoChar(out, '}');
	}
	else
		llmb_json_put_node(out, part);
}

static void
put_input_item(StringInfo out, const LlmbJson *message)
{
	bool		assistant = strcmp(llmb_string_or_empty(message, "role"), "assistant") == 0;
	const LlmbJson *member;
	const LlmbJson *part;

	appendStringInfoChar(out, '{');
	for (member = message->first; member != NULL; member = member->next)
	{
		if (member != message->first)
			appendStringInfoChar(out, ',');
		llmb_json_put_string(out, member->name);
		appendStringInfoChar(out, ':');
		if (strcmp(member->name, "content") != 0 || member->type != LLMB_JSON_ARRAY)
		{
			llmb_json_put_node(out, member);
			continue;
		}
		appendStringInfoChar(out, '[');
		for (part = member->first; part != NULL; part = part->next)
		{
			if (part != member->first)
				appendStringInfoChar(out, ',');
			put_input_part(out, part, assistant);
		}
		appendStringInfoChar(out, ']');
	}
	appendStringInfoChar(out, '}');
}

/*
 * Messages as Chat Completions has them, for Responses.  Whatever is no list
 * of objects is left as it is, for the provider to refuse.
 */
static void
put_input_messages(StringInfo out, const char *messages, const char *system)
{
	char	   *copy = pstrdup(messages);
	bool		altered = false;
	const char *reason;
	LlmbJson   *root = llmb_json_parse(copy, llmb_json_clean(copy, strlen(copy), &altered), &reason);
	LlmbJson   *message;
	bool		objects = root != NULL && root->type == LLMB_JSON_ARRAY;

	pfree(copy);
	for (message = objects ? root->first : NULL; message != NULL; message = message->next)
		objects &= message->type == LLMB_JSON_OBJECT;
	if (!objects)
		put_given_messages(out, messages, system);
	else
	{
		appendStringInfoChar(out, '[');
		if (system != NULL)
			put_message(out, "system", system);
		for (message = root->first; message != NULL; message = message->next)
		{
			if (message != root->first || system != NULL)
				appendStringInfoChar(out, ',');
			put_input_item(out, message);
		}
		appendStringInfoChar(out, ']');
	}
	llmb_json_free(root);
}

/*
 * Words about the schema go among the messages, not to the instructions:
 * "json_object" is refused unless the input speaks of JSON.
 */
static void
put_input(StringInfo out, const LlmbRequest *request)
{
	char	   *words = needs_words(request) ? llmb_schema_in_words(NULL, request->schema) : NULL;

	if (request->messages != NULL)
		put_input_messages(out, request->messages, words);
	else if (words != NULL)
	{
		appendStringInfoChar(out, '[');
		put_message(out, "system", words);
		appendStringInfoChar(out, ',');
		put_message(out, "user", request->prompt ? request->prompt : "");
		appendStringInfoChar(out, ']');
	}
	else
		llmb_json_put_string(out, request->prompt ? request->prompt : "");
	if (words != NULL)
		pfree(words);
}

/* store: the default is to keep what was answered for 30 days */
static void
put_responses(StringInfo out, const LlmbRequest *request)
{
	LlmbJson   *effort = llmb_json_get(request->params, "reasoning_effort");

	appendStringInfoString(out, ",\"store\":false");
	put_params(out, request, LLMB_ENDPOINT_RESPONSES);
	if (!llmb_json_is_null(effort))
	{
		appendStringInfoString(out, ",\"reasoning\":{\"effort\":");
		llmb_json_put_node(out, effort);
		appendStringInfoChar(out, '}');
	}
	put_text_format(out, request);
	if (request->system != NULL && request->messages == NULL)
	{
		appendStringInfoString(out, ",\"instructions\":");
		llmb_json_put_string(out, request->system);
	}
	appendStringInfoString(out, ",\"input\":");
	put_input(out, request);
}

/* There is no place for a system prompt, messages or a schema. */
static void
put_embeddings(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, ",\"encoding_format\":\"float\"");
	put_params(out, request, LLMB_ENDPOINT_EMBEDDINGS);
	appendStringInfoString(out, ",\"input\":");
	llmb_json_put_string(out, request->prompt ? request->prompt : "");
}

void
llmb_openai_put_body(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, "{\"model\":");
	llmb_json_put_string(out, request->model->name);
	switch (llmb_openai_endpoint(request->model, request->dialect))
	{
		case LLMB_ENDPOINT_CHAT:
			put_chat(out, request);
			break;
		case LLMB_ENDPOINT_RESPONSES:
			put_responses(out, request);
			break;
		case LLMB_ENDPOINT_EMBEDDINGS:
			put_embeddings(out, request);
			break;
	}
	appendStringInfoChar(out, '}');
}

/*
 * The url is the same for every server, wherever its base_url ends: it is
 * the name of the endpoint, and must be that of the create.
 */
void
llmb_openai_put_line(StringInfo out, const LlmbRequest *request)
{
	appendStringInfoString(out, "{\"custom_id\":");
	llmb_json_put_string(out, request->custom_id);
	appendStringInfo(out, ",\"method\":\"POST\",\"url\":\"/v1%s\",\"body\":",
					 llmb_openai_path(llmb_openai_endpoint(request->model, request->dialect)));
	llmb_openai_put_body(out, request);
	appendStringInfoString(out, "}\n");
}
