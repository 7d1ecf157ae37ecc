/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Fuzz target "answer": from what a model wrote to the texts of columns.
 *
 * Input: a letter that says which column (see columns[]), a letter for the
 * schema, then the answer.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <math.h>

#include "answer.h"

#include "fuzz.h"

static const char *labels[] = {"good", "bad", "it depends", "Good one", "\"quoted\\\""};

/* Not PostgreSQL's opinion, but one: what looks like a time. */
static bool
valid_moment(LlmbKind kind, const char *text)
{
	(void) kind;
	return text[0] >= '0' && text[0] <= '9' && strlen(text) < 40;
}

#define COMMON .name = "v", .valid_moment = valid_moment

static const LlmbColumn columns[] = {
	{COMMON, .kind = LLMB_KIND_TEXT, .nullable = true},
	{COMMON, .kind = LLMB_KIND_TEXT, .max_chars = 5, .strict_text = true},
	{COMMON, .kind = LLMB_KIND_INTEGER, .min = PG_INT64_MIN, .max = PG_INT64_MAX},
	{COMMON, .kind = LLMB_KIND_INTEGER, .min = -32768, .max = 32767, .nullable = true},
	{COMMON, .kind = LLMB_KIND_NUMERIC},
	{COMMON, .kind = LLMB_KIND_NUMERIC, .precision = 6, .scale = 2},
	{COMMON, .kind = LLMB_KIND_NUMERIC, .precision = 2, .scale = -3, .nullable = true},
	{COMMON, .kind = LLMB_KIND_FLOAT, .single = true},
	{COMMON, .kind = LLMB_KIND_FLOAT, .nullable = true},
	{COMMON, .kind = LLMB_KIND_BOOLEAN, .nullable = true, .optional = true},
	{COMMON, .kind = LLMB_KIND_ENUM, .labels = labels, .label_count = lengthof(labels)},
	{COMMON, .kind = LLMB_KIND_DATE},
	{COMMON, .kind = LLMB_KIND_UUID},
	{COMMON, .kind = LLMB_KIND_JSON, .json_in_string = true},
	{COMMON, .kind = LLMB_KIND_JSON, .nullable = true},
	{COMMON, .kind = LLMB_KIND_VECTOR},
	{COMMON, .kind = LLMB_KIND_OTHER},
	{COMMON, .kind = LLMB_KIND_TEXT, .array = true, .nullable = true},
	{COMMON, .kind = LLMB_KIND_ENUM, .array = true, .labels = labels, .label_count = lengthof(labels)},
	{COMMON, .kind = LLMB_KIND_INTEGER, .array = true, .min = 0, .max = 5},
};

static const char *const schemas[] = {
	"{}",
	"{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"string\"}},\"required\":[\"v\"]}",
	"{\"type\":\"object\",\"properties\":{\"v\":{\"type\":[\"integer\",\"null\"],\"enum\":[1,2,null]},"
	"\"w\":{\"type\":\"array\",\"items\":{\"type\":\"number\"}}},\"required\":[\"v\",\"w\"]}",
	"{\"type\":\"object\",\"properties\":{\"v\":{\"anyOf\":[{\"type\":\"boolean\"},{\"const\":\"good\"},"
	"{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"null\"}}}]}}}",
	"{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"array\",\"items\":{\"enum\":[\"good\",\"bad\",7]}}}}",
	"{\"type\":7,\"properties\":[\"v\"],\"required\":{\"v\":1},\"enum\":{},\"anyOf\":[7]}",
};

static LlmbJson *
schema_of(int n)
{
	const char *reason;
	char	   *text = fuzz_copy(schemas[n], strlen(schemas[n]));

	return llmb_json_parse(text, strlen(text), &reason);
}

/* What goes into a column is of its kind. */
static void
check_text(const LlmbColumn *column, const char *text)
{
	char	   *end;
	bool		listed = false;
	const char *reason;

	CHECK(fuzz_is_text(text));
	if (column->array)
	{
		CHECK(text[0] == '{' && text[strlen(text) - 1] == '}');
		return;
	}
	switch (column->kind)
	{
		case LLMB_KIND_INTEGER:
			errno = 0;
			CHECK(strtoll(text, &end, 10) >= column->min && strtoll(text, &end, 10) <= column->max);
			CHECK(errno == 0 && *end == '\0' && end > text);
			break;
		case LLMB_KIND_NUMERIC:
			CHECK(strspn(text, "0123456789+-.eE") == strlen(text) && text[0] != '\0');
			if (column->precision > 0)
				CHECK(fabs(strtod(text, NULL)) < pow(10, column->precision - column->scale));
			break;
		case LLMB_KIND_FLOAT:
			CHECK(!isinf(strtod(text, &end)) && !isnan(strtod(text, &end)) && *end == '\0');
			break;
		case LLMB_KIND_BOOLEAN:
			CHECK(strcmp(text, "true") == 0 || strcmp(text, "false") == 0);
			break;
		case LLMB_KIND_ENUM:
			for (int i = 0; i < column->label_count; i++)
				listed |= strcmp(text, column->labels[i]) == 0;
			CHECK(listed);
			break;
		case LLMB_KIND_UUID:
			CHECK(strlen(text) >= 32 && strlen(text) <= 41);
			break;
		case LLMB_KIND_JSON:
			CHECK(llmb_json_parse(fuzz_copy(text, strlen(text)), strlen(text), &reason) != NULL);
			break;
		case LLMB_KIND_VECTOR:
			CHECK(text[0] == '[' && strpbrk(text, "\"{") == NULL);
			break;
		default:
			break;
	}
	if (column->max_chars > 0)
		CHECK(strlen(text) <= 4096 + (size_t) column->max_chars * 4);
}

static bool
skip_some(const char *member, const void *arg)
{
	return strcmp(member, arg) == 0;
}

void
fuzz_one(const char *data, size_t len)
{
	const LlmbColumn *column;
	LlmbJson   *schema;
	LlmbJson   *answer;
	LlmbJson   *value;
	const char *reason = NULL;
	const char *text = NULL;
	bool		altered = false;

	if (len < 2)
		return;
	column = &columns[(unsigned char) (data[0] - 'a') % lengthof(columns)];
	schema = schema_of((unsigned char) (data[1] - 'a') % lengthof(schemas));
	answer = llmb_answer_recover(fuzz_copy(data + 2, len - 2), len - 2, schema, &altered, &reason);
	if (answer == NULL)
	{
		CHECK(reason != NULL);
		return;
	}
	CHECK(answer->type == LLMB_JSON_OBJECT && answer->name == NULL);
	value = llmb_json_get(answer, "v");
	if (llmb_answer_value(column, value, &text, &reason))
	{
		CHECK(text != NULL || column->nullable);
		if (text != NULL)
			check_text(column, text);
		if (!llmb_answer_listed(column, llmb_json_path(schema, "properties", "v", NULL), value, text, &reason))
			CHECK(fuzz_is_text(reason));
	}
	else
		CHECK(reason != NULL && fuzz_is_text(reason));
	if (!llmb_answer_check(schema, answer, "", skip_some, "w", &reason))
		CHECK(reason != NULL && fuzz_is_text(reason));
	(void) llmb_answer_fits_jsonb(answer);
}
