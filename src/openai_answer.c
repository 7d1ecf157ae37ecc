/*-------------------------------------------------------------------------
 *
 * openai_answer.c
 *		What a request brought, in OpenAI's wire form: errors, answers of
 *		three endpoints, usage; in a result line or in a reply of its own.
 *
 * A body tells by its form which endpoint it comes from:
 *
 *		{"object":"chat.completion", "choices":[...], "usage":...}
 *		{"object":"response", "status":..., "output":[...], "usage":...}
 *		{"object":"list", "data":[{"embedding":[...]}], "usage":...}
 *
 * A status of 200 is not enough in any of them: the body has to say so, too.
 *
 * Sources: as in openai_request.c; the guides "Error codes" and "Rate
 * limits" at developers.openai.com; for who may try again, client.js of the
 * npm package.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <math.h>

#include "batch.h"
#include "json.h"
#include "provider.h"
#include "provider_openai.h"

/*
 * Errors
 */

/* A request as such is too long for the model. */
#define LENGTH_CODES "context_length_exceeded string_above_max_length"

/* The words were refused, though with a status of 400. */
#define REFUSAL_CODES \
	"content_filter content_policy_violation invalid_prompt bio_policy " \
	"misalignment_policy_violation"

/* Sent too fast, or overloaded: by code, where the status may say anything. */
#define BUSY_CODES "rate_limit_exceeded slow_down server_is_overloaded"

/*
 * Of a Responses body with an error: what another sending does not mend
 * ("ResponseErrorCode" in openai-openapi); also image_*, invalid_*.
 */
#define FINAL_CODES \
	"data_residency_mismatch empty_image_file failed_to_download_image unsupported_image_media_type"

/* Codes of a body whose HTTP status was 200, and the status they stand for. */
static const struct
{
	const char *code;
	int			status;
}			code_status[] =
{
	{"rate_limit_exceeded", 429},
	{"slow_down", 503},
	{"server_is_overloaded", 503},
	{"server_error", 500},
};

void
llmb_openai_read_error(const LlmbJson *body, LlmbOpenaiError *words)
{
	LlmbJson   *error = llmb_json_get(body, "error");

	memset(words, 0, sizeof(*words));
	if (error == NULL || error->type != LLMB_JSON_OBJECT)
		error = unconstify(LlmbJson *, body);
	words->code = llmb_string_or_empty(error, "code");
	words->type = llmb_string_or_empty(error, "type");
	words->param = llmb_string_or_empty(error, "param");
	words->message = llmb_string_or_empty(error, "message");
	words->number = llmb_json_int(error, "code", -1);
	if (words->message[0] == '\0')
		words->message = llmb_string_or_empty(body, "error");
}

bool
llmb_openai_error_in(const LlmbOpenaiError *words, const char *list)
{
	return llmb_in_list(words->code, list) || llmb_in_list(words->type, list);
}

char *
llmb_openai_error_code(const LlmbOpenaiError *words)
{
	char	   *code = llmb_safe_code(words->code);

	return code ? code : llmb_safe_code(words->type);
}

/* An error is there unless it is null, or the {} that some write for null. */
static bool
is_error(const LlmbJson *error)
{
	return !llmb_json_is_null(error) &&
		!(error->type == LLMB_JSON_OBJECT && error->count == 0);
}

/* The status of an error that came in a body of status 200; 0 unknown. */
static int
status_of_error(const LlmbOpenaiError *words)
{
	int			i;

	if (words->number >= 100 && words->number <= 599)
		return (int) words->number;
	for (i = 0; i < (int) lengthof(code_status); i++)
	{
		if (llmb_openai_error_in(words, code_status[i].code))
			return code_status[i].status;
	}
	/* the request's own fault; what is not known may pass */
	return llmb_openai_error_in(words, REFUSAL_CODES " " FINAL_CODES) ||
		strncmp(words->code, "invalid_", 8) == 0 || strncmp(words->code, "image_", 6) == 0 ? 400 : 0;
}

/* What a failed request comes to; status 0 unknown. */
static void
fail_by_error(int status, const LlmbOpenaiError *words, LlmbOutcome *outcome)
{
	const char *message = words->message;

	if (message[0] == '\0')
		message = psprintf("The provider answered with an error (status %d) and no words.", status);
	if (status == 429 || status == 402)
		llmb_outcome_fail(outcome, LLMB_RATE_LIMITED, true, message);
	else if (status == 408)
		llmb_outcome_fail(outcome, LLMB_TIMEOUT, true, message);
	else if (status == 401 || status == 403)
		llmb_outcome_fail(outcome, LLMB_AUTH, false, message);
	else if (status == 413 || llmb_openai_error_in(words, LENGTH_CODES))
		llmb_outcome_fail(outcome, LLMB_TOO_LARGE, false, message);
	else if (llmb_openai_error_in(words, REFUSAL_CODES))
		llmb_outcome_fail(outcome, LLMB_REFUSED, false, message);
	else if (status >= 400 && status < 500 && status != 409)
		llmb_outcome_fail(outcome, LLMB_INVALID_REQUEST, false, message);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, message);
}

/* Whose fault that is, of a request that was sent by itself. */
static LlmbFault
judge_error(int status, const LlmbOpenaiError *words)
{
	if (status == 402 || llmb_openai_error_in(words, LLMB_OPENAI_QUOTA_CODES))
		return LLMB_FAULT_QUOTA;	/* 402: gateways, no credit left */
	if (status == 401 || status == 403)
		return LLMB_FAULT_KEY;
	if (status == 429 || status == 503 || llmb_openai_error_in(words, BUSY_CODES))
		return LLMB_FAULT_BUSY;
	if (status == 413)
		return LLMB_FAULT_TOO_LARGE;
	if (status == 408 || status == 409 || status < 400 || status >= 500)
		return LLMB_FAULT_RETRY;
	return LLMB_FAULT_REQUEST;
}

/*
 * The error of a request, which stands in node.  reply, unless NULL, gets
 * whose fault it is.
 */
static void
read_error_of(int status, const LlmbJson *node, LlmbOutcome *outcome, LlmbReply *reply)
{
	LlmbOpenaiError words;

	llmb_openai_read_error(node, &words);
	if (status == 200)
		status = status_of_error(&words);
	fail_by_error(status, &words, outcome);
	if (reply == NULL)
		return;
	reply->fault = judge_error(status, &words);
	reply->code = llmb_openai_error_code(&words);
	reply->message = llmb_copy_or_null(words.message);
}

/*
 * Answers of Chat Completions
 */

static void
read_chat_usage(const LlmbJson *usage, LlmbOutcome *outcome)
{
	LlmbJson   *in = llmb_json_get(usage, "prompt_tokens_details");
	LlmbJson   *out = llmb_json_get(usage, "completion_tokens_details");

	outcome->input_tokens = llmb_count(usage, "prompt_tokens");
	outcome->cached_tokens = llmb_count(in, "cached_tokens");
	outcome->cache_write_tokens = llmb_count(in, "cache_write_tokens");
	outcome->output_tokens = llmb_count(usage, "completion_tokens");
	outcome->reasoning_tokens = llmb_count(out, "reasoning_tokens");
	outcome->long_write_tokens = 0;
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
		return llmb_take_string(message, "content");

	initStringInfo(&text);
	for (part = content->first; part != NULL; part = part->next)
	{
		const char *type = llmb_string_or_empty(part, "type");
		const char *words = llmb_json_string(part, "text");

		if (words == NULL || !llmb_in_list(type, "text output_text"))
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
	char	   *refusal = llmb_take_string(message, "refusal");

	if (refusal != NULL || content == NULL || content->type != LLMB_JSON_ARRAY)
		return refusal;
	for (part = content->first; part != NULL && refusal == NULL; part = part->next)
		refusal = llmb_take_string(part, "refusal");
	return refusal;
}

#define HELD_BACK	"The answer was held back by a content filter."
#define CUT_SHORT	"The answer reached the limit of tokens."
#define NO_ANSWER	"The reply holds no answer."
#define TOOL_CALLED "The model called a tool instead of answering."

static void
refuse(LlmbOutcome *outcome, char *refusal)
{
	outcome->error = refusal;
	llmb_outcome_fail(outcome, LLMB_REFUSED, false, HELD_BACK);
}

static void
read_completion(LlmbJson *body, LlmbOutcome *outcome, LlmbReply *reply)
{
	LlmbJson   *choice = llmb_json_at(llmb_json_get(body, "choices"), 0);
	LlmbJson   *message = llmb_json_get(choice, "message");
	const char *finish;
	char	   *refusal;

	read_chat_usage(llmb_json_get(body, "usage"), outcome);

	/* gateways: the error of the one behind them */
	if (is_error(llmb_json_get(choice, "error")))
	{
		read_error_of(200, choice, outcome, reply);
		return;
	}

	outcome->finish_reason = llmb_take_string(choice, "finish_reason");
	finish = outcome->finish_reason ? outcome->finish_reason : "";
	refusal = take_refusal(message);

	if (refusal != NULL || strcmp(finish, "content_filter") == 0)
	{
		refuse(outcome, refusal);
		return;
	}
	if (llmb_in_list(finish, "tool_calls function_call"))
	{
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, false, TOOL_CALLED);
		return;
	}

	outcome->answer = take_content(message);
	if (strcmp(finish, "length") == 0)
		llmb_outcome_fail(outcome, LLMB_TRUNCATED, false, CUT_SHORT);
	else if (outcome->answer == NULL)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, NO_ANSWER);
}

/*
 * Answers of Responses
 */

static void
read_response_usage(const LlmbJson *usage, LlmbOutcome *outcome)
{
	LlmbJson   *in = llmb_json_get(usage, "input_tokens_details");
	LlmbJson   *out = llmb_json_get(usage, "output_tokens_details");

	outcome->input_tokens = llmb_count(usage, "input_tokens");
	outcome->cached_tokens = llmb_count(in, "cached_tokens");
	outcome->cache_write_tokens = llmb_count(in, "cache_write_tokens");
	outcome->output_tokens = llmb_count(usage, "output_tokens");
	outcome->reasoning_tokens = llmb_count(out, "reasoning_tokens");
	outcome->long_write_tokens = 0;
}

/* The texts of all messages of an output, joined; or the refusal among them. */
static char *
take_output(LlmbJson *output, char **refusal, bool *tool)
{
	StringInfoData text;
	LlmbJson   *item;
	bool		any = false;

	initStringInfo(&text);
	for (item = output ? output->first : NULL; item != NULL; item = item->next)
	{
		const char *type = llmb_string_or_empty(item, "type");
		char	   *part;

		if (strcmp(type, "message") != 0)
		{
			*tool |= strcmp(type, "function_call") == 0 || strcmp(type, "custom_tool_call") == 0;
			continue;
		}
		if (*refusal == NULL)
			*refusal = take_refusal(item);
		part = take_content(item);
		if (part == NULL)
			continue;
		appendStringInfoString(&text, part);
		pfree(part);
		any = true;
	}
	if (any)
		return text.data;
	pfree(text.data);
	return NULL;
}

/* incomplete: what there is of an answer is kept where more tokens would have helped. */
static void
read_incomplete(LlmbJson *body, char *answer, LlmbOutcome *outcome)
{
	LlmbJson   *details = llmb_json_get(body, "incomplete_details");
	char	   *reason = llmb_take_string(details, "reason");

	if (reason != NULL)
	{
		if (outcome->finish_reason != NULL)
			pfree(outcome->finish_reason);
		outcome->finish_reason = reason;
	}
	if (reason != NULL && strcmp(reason, "max_output_tokens") == 0)
	{
		outcome->answer = answer;
		llmb_outcome_fail(outcome, LLMB_TRUNCATED, false, CUT_SHORT);
		return;
	}
	if (answer != NULL)
		pfree(answer);
	if (reason != NULL && strcmp(reason, "content_filter") == 0)
		refuse(outcome, NULL);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The answer was not completed.");
}

static void
read_response(LlmbJson *body, LlmbOutcome *outcome)
{
	char	   *refusal = NULL;
	char	   *answer;
	const char *status;
	bool		tool = false;

	read_response_usage(llmb_json_get(body, "usage"), outcome);
	outcome->finish_reason = llmb_take_string(body, "status");
	status = outcome->finish_reason ? outcome->finish_reason : "completed";

	if (!llmb_in_list(status, "completed incomplete"))
	{
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The response was not completed.");
		return;
	}
	answer = take_output(llmb_json_get(body, "output"), &refusal, &tool);
	if (refusal != NULL)
	{
		if (answer != NULL)
			pfree(answer);
		refuse(outcome, refusal);
	}
	else if (strcmp(status, "incomplete") == 0)
		read_incomplete(body, answer, outcome);
	else if (answer != NULL)
		outcome->answer = answer;
	else if (tool)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, false, TOOL_CALLED);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, NO_ANSWER);
}

/*
 * Answers of Embeddings
 */

/* A vector of numbers, as JSON; anything else is none. */
static char *
copy_vector(const LlmbJson *vector)
{
	const LlmbJson *number;
	StringInfoData text;

	if (vector == NULL || vector->type != LLMB_JSON_ARRAY || vector->count == 0)
		return NULL;
	initStringInfo(&text);
	for (number = vector->first; number != NULL; number = number->next)
	{
		if (number->type != LLMB_JSON_NUMBER)
		{
			pfree(text.data);
			return NULL;
		}
		appendStringInfoChar(&text, number == vector->first ? '[' : ',');
		appendStringInfoString(&text, number->text);
	}
	appendStringInfoChar(&text, ']');
	return text.data;
}

static void
read_embedding(LlmbJson *body, LlmbOutcome *outcome)
{
	LlmbJson   *usage = llmb_json_get(body, "usage");
	LlmbJson   *first = llmb_json_at(llmb_json_get(body, "data"), 0);

	outcome->input_tokens = llmb_count(usage, "prompt_tokens");
	outcome->cached_tokens = outcome->cache_write_tokens = outcome->long_write_tokens = 0;
	outcome->output_tokens = outcome->reasoning_tokens = 0;
	outcome->answer = copy_vector(llmb_json_get(first, "embedding"));
	if (outcome->answer == NULL)
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply holds no vector of numbers.");
}

/*
 * Any body of status 200
 */

static bool
is_array(const LlmbJson *node)
{
	return node != NULL && node->type == LLMB_JSON_ARRAY;
}

/* reply, unless NULL, gets whose fault an error is. */
static void
read_body(LlmbJson *body, LlmbOutcome *outcome, LlmbReply *reply)
{
	const char *object = llmb_string_or_empty(body, "object");

	outcome->model = llmb_take_string(body, "model");
	if (is_error(llmb_json_get(body, "error")))
	{
		if (strcmp(object, "response") == 0)
			read_response_usage(llmb_json_get(body, "usage"), outcome);
		else
			read_chat_usage(llmb_json_get(body, "usage"), outcome);
		read_error_of(200, body, outcome, reply);
	}
	else
	{
		if (strcmp(object, "response") == 0 || is_array(llmb_json_get(body, "output")))
			read_response(body, outcome);
		else if (strcmp(object, "list") == 0 || is_array(llmb_json_get(body, "data")))
			read_embedding(body, outcome);
		else
			read_completion(body, outcome, reply);
		outcome->perhaps_run = outcome->code != LLMB_OK && outcome->input_tokens < 0;
	}
}

/*
 * Result lines
 *
 * {"id":..., "custom_id":..., "response":{"status_code":..., "request_id":...,
 * "body":{...}}, "error":...}.  A request has succeeded when there is no error, the status is
 * 200, and the body says so as well.
 */

/* The request did not run, or not to its end: the line's own error. */
static void
read_line_error(const LlmbJson *error, LlmbOutcome *outcome)
{
	const char *code = llmb_string_or_empty(error, "code");
	const char *message = llmb_string_or_empty(error, "message");

	if (error->type == LLMB_JSON_STRING)
		message = error->text;
	if (message[0] == '\0')
		message = code;

	if (strcmp(code, "batch_expired") == 0)
		llmb_outcome_fail(outcome, LLMB_EXPIRED, true, message);
	else if (strcmp(code, "batch_cancelled") == 0)
		llmb_outcome_fail(outcome, LLMB_CANCELLED_ITEM, false, message);
	else if (strcmp(code, "request_timeout") == 0)
		llmb_outcome_fail(outcome, LLMB_TIMEOUT, true, message);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, message);
}

bool
llmb_openai_read_line(char *line, size_t len, LlmbOutcome *outcome)
{
	bool		altered = false;
	LlmbJson   *root = llmb_open_line(line, len, "custom_id", outcome, &altered);
	LlmbJson   *error;
	LlmbJson   *response;
	LlmbJson   *body;
	int64		status;

	if (root == NULL)
		return false;

	error = llmb_json_get(root, "error");
	response = llmb_json_get(root, "response");
	body = llmb_json_get(response, "body");
	status = llmb_json_int(response, "status_code", -1);
	outcome->request_id = llmb_take_string(response, "request_id");

	if (status >= 400)
		read_error_of((int) Min(status, 599), is_error(error) ? root : body, outcome, NULL);
	else if (is_error(error))
		read_line_error(error, outcome);
	else if (status == 200)
		read_body(body, outcome, NULL);
	else
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The result line holds no response.");

	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(root);
	return true;
}

/*
 * Replies in real time
 */

/*
 * Some servers say themselves whether the same request may be sent again;
 * that outranks the status, but not what is known of key and quota.
 */
static void
obey_should_retry(const LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply)
{
	char	   *word = llmb_reply_header(http, "x-should-retry");
	bool		passing = reply->fault == LLMB_FAULT_RETRY || reply->fault == LLMB_FAULT_BUSY;

	if (word == NULL)
		return;
	if (strcmp(word, "true") == 0 && reply->fault == LLMB_FAULT_REQUEST)
	{
		reply->fault = LLMB_FAULT_RETRY;
		outcome->retryable = true;
	}
	else if (strcmp(word, "false") == 0 && passing)
	{
		reply->fault = LLMB_FAULT_REQUEST;
		outcome->retryable = false;
	}
	pfree(word);
}

void
llmb_openai_read_answer(LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply)
{
	LlmbJson   *body;
	bool		altered = false;

	llmb_outcome_init(outcome);
	reply->retry_after_ms = http->retry_after_ms;
	llmb_reply_forget(reply);

	body = llmb_reply_json(http, &altered);
	outcome->request_id = llmb_reply_header(http, "x-request-id");
	if (http->status < 200 || http->status > 299)
	{
		read_error_of(http->status, body, outcome, reply);
		obey_should_retry(http, outcome, reply);
	}
	else if (body == NULL || body->type != LLMB_JSON_OBJECT)
	{
		/* not a reply of such a server at all: somebody stands between */
		llmb_outcome_fail(outcome, LLMB_PROVIDER_ERROR, true, "The reply is not a JSON object.");
		outcome->perhaps_run = true;
		reply->fault = LLMB_FAULT_RETRY;
	}
	else
		read_body(body, outcome, reply);
	outcome->altered = altered && outcome->answer != NULL;
	llmb_json_free(body);
}

/*
 * Rate limits
 */

/* Milliseconds of a unit that begins at text, and its length; 0 for none. */
static double
unit_ms(const char *text, int *len)
{
	static const struct
	{
		const char *unit;
		double		ms;
	}			units[] =
	{
		/* the longer ones first; "\302\265" and "\316\274" are micro signs */
		{"ms", 1}, {"us", 0.001}, {"\302\265s", 0.001}, {"\316\274s", 0.001}, {"ns", 0.000001},
		{"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000},
	};
	int			i;

	for (i = 0; i < (int) lengthof(units); i++)
	{
		*len = strlen(units[i].unit);
		if (strncmp(text, units[i].unit, *len) == 0)
			return units[i].ms;
	}
	return 0;
}

/* No limit is further away than this, in milliseconds: a day. */
#define MAX_RESET_MS 86400000.0

/*
 * Milliseconds of a duration as Go writes it ("6m0s", "1h2m3.5s", "20ms"),
 * or of plain seconds; of a moment in epoch seconds or milliseconds, as some
 * gateways write it, from now on.  -1 for anything else.
 */
static int64
reset_ms(const char *text, int64 now_ms)
{
	double		total = 0;
	bool		any = false;

	if (text == NULL)
		return -1;
	while (*text != '\0')
	{
		char	   *end;
		double		number;
		double		unit;
		int			len;

		/* strtod() would take signs, blanks, "inf" and hexadecimals, too */
		if (strspn(text, "0123456789.") == 0 || text[0] == '.' || text[1] == 'x' || text[1] == 'X')
			return -1;
		number = strtod(text, &end);
		if (*end == '\0' && !any)
		{
			if (number >= 1e12)
				total = number - now_ms;
			else if (number >= 1e9)
				total = number * 1000 - now_ms;
			else
				total = number * 1000;
			any = true;
			break;
		}
		unit = unit_ms(end, &len);
		if (unit == 0)
			return -1;
		total += number * unit;
		text = end + len;
		any = true;
	}
	if (!any || !isfinite(total))
		return -1;
	return (int64) ceil(Min(Max(total, 0), MAX_RESET_MS));
}

static int64
reset_header(const LlmbHttpReply *http, const char *name, int64 now_ms)
{
	char	   *text = llmb_reply_header(http, name);
	int64		ms = reset_ms(text, now_ms);

	if (text != NULL)
		pfree(text);
	return ms;
}

/* Of two limits of tokens the one of which less is left. */
void
llmb_openai_read_limits(const LlmbHttpReply *http, int64 now_ms, LlmbLimits *limits)
{
	int64		left;

	limits->requests_left = llmb_reply_header_int(http, "x-ratelimit-remaining-requests");
	limits->requests_reset_ms = reset_header(http, "x-ratelimit-reset-requests", now_ms);
	limits->tokens_left = llmb_reply_header_int(http, "x-ratelimit-remaining-tokens");
	limits->tokens_reset_ms = reset_header(http, "x-ratelimit-reset-tokens", now_ms);

	left = llmb_reply_header_int(http, "x-ratelimit-remaining-project-tokens");
	if (left >= 0 && (limits->tokens_left < 0 || left < limits->tokens_left))
	{
		limits->tokens_left = left;
		limits->tokens_reset_ms = reset_header(http, "x-ratelimit-reset-project-tokens", now_ms);
	}
}
