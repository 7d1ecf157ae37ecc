/*-------------------------------------------------------------------------
 *
 * provider.c
 *		What the providers' files share.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "batch.h"
#include "json.h"
#include "provider.h"

/* Longest id that may enter a path; the providers' have up to 50 characters. */
#define MAX_ID_LEN 128

/* 10000-01-01T00:00:00Z in seconds; no time that a provider writes is later. */
#define YEAR_10000 INT64CONST(253402300800)

/* ---- words ---- */

bool
llmb_is_id(const char *id)
{
	size_t		len;

	if (id == NULL)
		return false;
	len = strspn(id, "abcdefghijklmnopqrstuvwxyz"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				 "0123456789_-");
	return len > 0 && len <= MAX_ID_LEN && id[len] == '\0';
}

bool
llmb_in_list(const char *word, const char *list)
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

char *
llmb_safe_code(const char *code)
{
	size_t		len;

	if (code == NULL)
		return NULL;
	len = strspn(code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
	if (len == 0 || len > 64 || code[len] != '\0')
		return NULL;
	return pstrdup(code);
}

char *
llmb_copy_or_null(const char *text)
{
	return (text != NULL && text[0] != '\0') ? pstrdup(text) : NULL;
}

/* ---- reading ---- */

const char *
llmb_string_or_empty(const LlmbJson *node, const char *member)
{
	const char *text = llmb_json_string(node, member);

	return text != NULL ? text : "";
}

char *
llmb_take_string(LlmbJson *node, const char *member)
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

int64
llmb_count(const LlmbJson *node, const char *member)
{
	int64		count = llmb_json_int(node, member, -1);

	return (count >= 0 && count <= PG_INT32_MAX) ? count : -1;
}

int64
llmb_epoch_seconds(const LlmbJson *node, const char *member)
{
	int64		seconds = llmb_json_int(node, member, 0);

	return (seconds > 0 && seconds < YEAR_10000) ? seconds : 0;
}

void
llmb_outcome_init(LlmbOutcome *outcome)
{
	memset(outcome, 0, sizeof(LlmbOutcome));
	outcome->input_tokens = outcome->output_tokens = -1;
	outcome->cached_tokens = outcome->cache_write_tokens = -1;
	outcome->long_write_tokens = outcome->reasoning_tokens = -1;
}

void
llmb_outcome_fail(LlmbOutcome *outcome, LlmbCode code, bool retryable, const char *error)
{
	outcome->code = code;
	outcome->retryable = retryable;
	if (outcome->error != NULL && outcome->error[0] == '\0')
	{
		pfree(outcome->error);
		outcome->error = NULL;
	}
	if (outcome->error == NULL)
		outcome->error = pstrdup((error != NULL && error[0] != '\0') ? error : "The provider gave no reason.");
}

void
llmb_reply_forget(LlmbReply *reply)
{
	int64		retry_after_ms = reply->retry_after_ms;

	memset(reply, 0, sizeof(LlmbReply));
	reply->retry_after_ms = retry_after_ms;
	reply->batch.total = reply->batch.done = reply->batch.failed = -1;
}

LlmbJson *
llmb_reply_json(LlmbHttpReply *http, bool *altered)
{
	const char *reason;
	size_t		len;

	if (http->body == NULL || http->len == 0)
		return NULL;
	len = llmb_json_clean(http->body, http->len, altered);
	return llmb_json_parse(http->body, len, &reason);
}

void
llmb_read_reply(LlmbVerb verb, LlmbHttpReply *http, LlmbReply *reply,
				bool (*success) (LlmbVerb verb, const LlmbHttpReply *http,
								 const LlmbJson *body, LlmbReply *reply),
				void (*failure) (LlmbVerb verb, int status,
								 const LlmbJson *body, LlmbReply *reply))
{
	LlmbJson   *body;
	bool		altered = false;

	reply->retry_after_ms = http->retry_after_ms;
	llmb_reply_forget(reply);

	/* a result file was handed out line by line */
	if (http->status == 200 && verb == LLMB_CALL_FETCH && (http->body == NULL || http->len == 0))
		return;

	body = llmb_reply_json(http, &altered);
	if (http->status < 200 || http->status > 299)
		failure(verb, http->status, body, reply);
	else if (!success(verb, http, body, reply))
	{
		llmb_reply_forget(reply);
		if (verb != LLMB_CALL_CREATE && verb != LLMB_CALL_CANCEL)
			reply->fault = LLMB_FAULT_RETRY;
	}
	llmb_json_free(body);
}

LlmbJson *
llmb_open_line(char *line, size_t len, const char *id_member, LlmbOutcome *outcome, bool *altered)
{
	LlmbJson   *root;
	const char *reason;

	llmb_outcome_init(outcome);
	len = llmb_json_clean(line, len, altered);
	root = llmb_json_parse(line, len, &reason);
	outcome->custom_id = llmb_take_string(root, id_member);
	if (outcome->custom_id != NULL && outcome->custom_id[0] != '\0')
		return root;
	llmb_json_free(root);
	return NULL;
}

/* Some write "500\xC2\xB5s"; what is not even UTF-8 becomes '?'. */
static char *
copy_value(const char *text, size_t len)
{
	char	   *copy = pnstrdup(text, len);
	int			whole = strlen(copy);
	bool		utf8 = pg_encoding_verifymbstr(PG_UTF8, copy, whole) == whole;

	for (char *p = copy; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7F || (IS_HIGHBIT_SET(*p) && !utf8))
			*p = '?';
	}
	return copy;
}

char *
llmb_reply_header(const LlmbHttpReply *http, const char *name)
{
	const char *line = http->headers;
	size_t		len = strlen(name);

	while (line != NULL && *line != '\0')
	{
		const char *end = strchr(line, '\n');
		size_t		line_len = end ? (size_t) (end - line) : strlen(line);

		if (line_len > len + 2 && strncmp(line, name, len) == 0 && line[len] == ':' && line[len + 1] == ' ')
			return copy_value(line + len + 2, line_len - len - 2);
		line = end ? end + 1 : NULL;
	}
	return NULL;
}

int64
llmb_reply_header_int(const LlmbHttpReply *http, const char *name)
{
	char	   *text = llmb_reply_header(http, name);
	int64		value = -1;
	char	   *end;

	if (text == NULL)
		return -1;
	if (text[0] >= '0' && text[0] <= '9')
	{
		errno = 0;
		value = strtoll(text, &end, 10);
		if (errno != 0 || *end != '\0')
			value = -1;
	}
	pfree(text);
	return value;
}

/* Days from 1970-01-01 to a day of the Gregorian calendar. */
static int64
days_from_civil(int64 year, int month, int day)
{
	int64		era;
	int64		of_era;
	int64		of_year;

	year -= month <= 2;
	era = year / 400;
	of_era = year - era * 400;
	of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

int64
llmb_rfc3339_ms(const char *text)
{
	int			year,
				month,
				day,
				hour,
				minute,
				second,
				used = 0;
	int			off_hour = 0,
				off_minute = 0;
	int64		ms = 0;
	int64		seconds;
	const char *at;

	if (text == NULL ||
		sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &year, &month, &day, &hour, &minute, &second, &used) != 6 ||
		year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
		return 0;
	at = text + used;
	if (*at == '.')
	{
		int			unit = 100;

		for (at++; *at >= '0' && *at <= '9'; at++, unit /= 10)
			ms += (*at - '0') * unit;
	}
	seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
	if (*at == '+' || *at == '-')
	{
		if (sscanf(at + 1, "%2d:%2d", &off_hour, &off_minute) != 2)
			return 0;
		seconds -= (*at == '+' ? 1 : -1) * (off_hour * 3600 + off_minute * 60);
	}
	else if (*at != 'Z' && *at != 'z')
		return 0;
	return (seconds >= 0) ? seconds * 1000 + ms : 0;
}

/* ---- calls ---- */

void
llmb_add_header(LlmbCall *call, const char *name, const char *prefix, const char *value)
{
	const char *p;

	if (value == NULL || value[0] == '\0')
		return;
	/* one that would end the header and begin another */
	for (p = value; *p != '\0'; p++)
	{
		if ((unsigned char) *p < 0x20 || *p == 0x7F)
			return;
	}
	Assert(call->header_count < (int) lengthof(call->headers));
	call->headers[call->header_count++] = psprintf("%s: %s%s", name, prefix, value);
}

void
llmb_put_raw(StringInfo out, const char *json)
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

char *
llmb_schema_in_words(const char *system, const char *schema)
{
	return psprintf("%s%sAnswer with one JSON object and nothing else. It must satisfy this JSON schema:\n%s",
					system ? system : "", system ? "\n\n" : "", schema);
}

/* ---- parameters ---- */

const LlmbParam *
llmb_find_param(const LlmbParam *table, int count, const char *name)
{
	int			i;

	for (i = 0; i < count; i++)
	{
		if (strcmp(table[i].name, name) == 0)
			return &table[i];
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
unknown_param(const LlmbParam *table, int count, const LlmbParamHint *hints, int hint_count,
			  const char *name)
{
	StringInfoData text;
	const char *nearest = NULL;
	int			least = 4;		/* more is another word, not a slip */
	int			i;

	initStringInfo(&text);
	appendStringInfo(&text, "unknown parameter \"%s\"", name);

	for (i = 0; i < hint_count; i++)
	{
		if (strcmp(hints[i].name, name) == 0)
		{
			appendStringInfo(&text, "; %s", hints[i].hint);
			return text.data;
		}
	}

	for (i = 0; i < count; i++)
	{
		int			distance = edit_distance(name, table[i].name);

		if (distance < least)
		{
			least = distance;
			nearest = table[i].name;
		}
	}
	if (nearest != NULL)
	{
		appendStringInfo(&text, "; perhaps you mean \"%s\"", nearest);
		return text.data;
	}

	appendStringInfoString(&text, "; known are ");
	for (i = 0; i < count; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", table[i].name);
	return text.data;
}

/* NULL, or what the value should be. */
static char *
check_number(const LlmbParam *param, const LlmbJson *value)
{
	const char *what = (param->kind == LLMB_PARAM_INTEGER) ? "an integer" : "a number";
	double		number;

	if (value->type == LLMB_JSON_NUMBER &&
		(param->kind == LLMB_PARAM_NUMBER || strpbrk(value->text, ".eE") == NULL))
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
is_stop(const LlmbParam *param, const LlmbJson *value)
{
	const LlmbJson *child;

	if (value->type == LLMB_JSON_STRING)
		return true;
	if (value->type != LLMB_JSON_ARRAY || value->count < 1 || value->count > param->max)
		return false;
	for (child = value->first; child != NULL; child = child->next)
	{
		if (child->type != LLMB_JSON_STRING)
			return false;
	}
	return true;
}

static char *
check_value(const LlmbParam *param, const LlmbJson *value)
{
	switch (param->kind)
	{
		case LLMB_PARAM_INTEGER:
		case LLMB_PARAM_NUMBER:
			return check_number(param, value);
		case LLMB_PARAM_WORD:
			if (value->type == LLMB_JSON_STRING && llmb_in_list(value->text, param->words))
				return NULL;
			return psprintf("one of: %s", param->words);
		case LLMB_PARAM_STRING:
			return (value->type == LLMB_JSON_STRING) ? NULL : pstrdup("a string");
		case LLMB_PARAM_STOP:
			return is_stop(param, value) ? NULL : psprintf("a string, or an array of up to %g", param->max);
		case LLMB_PARAM_OBJECT:
			return (value->type == LLMB_JSON_OBJECT) ? NULL : pstrdup("an object");
	}
	return NULL;
}

char *
llmb_check_params(const LlmbParam *table, int count, const LlmbParamHint *hints, int hint_count,
				  const LlmbJson *params)
{
	const LlmbJson *value;

	if (llmb_json_is_null(params))
		return NULL;
	if (params->type != LLMB_JSON_OBJECT)
		return pstrdup("parameters must be an object");
	for (value = params->first; value != NULL; value = value->next)
	{
		const LlmbParam *param = llmb_find_param(table, count, value->name);
		char	   *expected;

		if (param == NULL)
			return unknown_param(table, count, hints, hint_count, value->name);
		if (llmb_json_is_null(value))
			continue;
		expected = check_value(param, value);
		if (expected != NULL)
			return psprintf("parameter \"%s\" must be %s", value->name, expected);
	}
	return NULL;
}

/* Whether the one sampling parameter may go to the model. */
static char *
check_sampling(const LlmbModel *model, const LlmbJson *params, const char *name)
{
	LlmbJson   *value = llmb_json_get(params, name);
	const char *effort = llmb_json_string(params, "reasoning_effort");
	bool		by_default = strcmp(name, "top_k") != 0;

	if (llmb_json_is_null(value) || (by_default && strtod(value->text, NULL) == 1))
		return NULL;
	if (effort == NULL)
		effort = model->default_effort;
	switch (model->sampling)
	{
		case LLMB_SAMPLING_UNKNOWN:
		case LLMB_SAMPLING_ANY:
			return NULL;
		case LLMB_SAMPLING_DEFAULT:
			return psprintf("model \"%s\" takes no %s%s", model->name, name, by_default ? " but 1" : "");
		case LLMB_SAMPLING_EFFORT_NONE:
			if (effort != NULL && strcmp(effort, "none") == 0)
				return NULL;
			break;
	}
	return psprintf("model \"%s\" takes %s only with reasoning_effort \"none\"", model->name, name);
}

char *
llmb_check_model_params(const LlmbModel *model, const LlmbJson *params, const char *sampling)
{
	const char *effort = llmb_json_string(params, "reasoning_effort");
	const char *word = sampling;

	if (effort != NULL && model->efforts != NULL && !llmb_in_list(effort, model->efforts))
		return model->efforts[0] == '\0' ?
			psprintf("model \"%s\" takes no reasoning_effort", model->name) :
			psprintf("model \"%s\" takes as reasoning_effort one of: %s", model->name, model->efforts);
	if (model->max_output > 0 && llmb_json_int(params, "max_tokens", 0) > model->max_output)
		return psprintf("model \"%s\" gives at most " INT64_FORMAT " tokens", model->name, model->max_output);
	while (*word != '\0')
	{
		size_t		len = strcspn(word, " ");
		char	   *reason = check_sampling(model, params, pnstrdup(word, len));

		if (reason != NULL)
			return reason;
		word += len;
		word += strspn(word, " ");
	}
	return NULL;
}
