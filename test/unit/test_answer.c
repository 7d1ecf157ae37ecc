/*-------------------------------------------------------------------------
 *
 * test_answer.c
 *		Tests of src/answer.c: objects found where a reader finds them, values
 *		that columns take, and what is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "answer.h"
#include "unit.h"

/* ---- recovery ---- */

static const char *const schema_ab =
"{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"a\",\"b\"]}";

/* The object as it is read, or the reason why there is none. */
static char *
recovered(const char *answer, const char *schema, bool *altered)
{
	char	   *copy = pstrdup(answer);
	const char *reason = "";
	LlmbJson   *object;
	StringInfoData out;

	object = llmb_answer_recover(copy, strlen(copy), schema ? parse(schema) : NULL, altered, &reason);
	pfree(copy);
	if (object == NULL)
		return pstrdup(reason);
	initStringInfo(&out);
	llmb_json_put_node(&out, object);
	return out.data;
}

static void
test_recovery(void)
{
#define NOT_OBJECT "the answer is not a JSON object"
#define NO_END "the answer's JSON object has no end"
#define SEVERAL "the answer holds more than one JSON object"
#define INVALID "the answer is not valid JSON"
	static const struct
	{
		const char *what;
		const char *answer;
		const char *expected;
		const char *schema;
	}			cases[] = {
		{"bare", "{\"a\":1}", "{\"a\":1}", NULL},
		{"blanks around", " \n\t{ \"a\" : 1 }\r\n", "{\"a\":1}", NULL},
		{"byte order mark", "\xEF\xBB\xBF{\"a\":1}", "{\"a\":1}", NULL},
		{"empty object", "{}", "{}", NULL},
		{"code fence", "```json\n{\"a\":1}\n```", "{\"a\":1}", NULL},
		{"code fence without language", "```\n{\"a\":1}\n```\n", "{\"a\":1}", NULL},
		{"open code fence", "```json\n{\"a\":1}", "{\"a\":1}", NULL},
		{"tildes", "~~~\n{\"a\":1}\n~~~", "{\"a\":1}", NULL},
		{"prose before", "Here you are: {\"a\":1}", "{\"a\":1}", NULL},
		{"prose behind", "{\"a\":1}\n\nI hope this helps!", "{\"a\":1}", NULL},
		{"prose around a fence", "Sure!\n```json\n{\"a\":1}\n```\nAnything else?", "{\"a\":1}", NULL},
		{"quotes in the prose", "It \"is\" {\"a\":1} \"so", "{\"a\":1}", NULL},
		{"braces in the prose", "{curly} {} braces {\"a\":1} {too}", SEVERAL, NULL},
		{"braces in the prose, and a schema", "{curly} {} braces {\"a\":1,\"b\":2} {too}", "{\"a\":1,\"b\":2}", schema_ab},
		{"braces that are no object", "\\frac{1}{2} is {\"a\":1}", "{\"a\":1}", NULL},
		{"trailing comma", "{\"a\":1,}", "{\"a\":1}", NULL},
		{"trailing commas within", "{\"a\":[1,2,],\"b\":{\"c\":1 ,\n},}", "{\"a\":[1,2],\"b\":{\"c\":1}}", NULL},
		{"a comma in a string is none", "{\"a\":\"x,}\",}", "{\"a\":\"x,}\"}", NULL},
		{"two commas are not mended", "{\"a\":1,,}", INVALID, NULL},
		{"raw line ends in a string", "{\"a\":\"x\ny\tz\"}", "{\"a\":\"x\\ny\\tz\"}", NULL},
		{"escaped apostrophe", "{\"a\":\"it\\'s\"}", "{\"a\":\"it's\"}", NULL},
		{"escapes that JSON lacks", "{\"a\":\"\\(x\\) \\user\"}", "{\"a\":\"\\\\(x\\\\) \\\\user\"}", NULL},
		{"escapes that it has", "{\"a\":\"\\\"\\\\\\/\\n\\u0041\",}", "{\"a\":\"\\\"\\\\/\\nA\"}", NULL},
		{"braces in strings", "x {\"a\":\"}{\",\"b\":\"\\\"}\"} y", "{\"a\":\"}{\",\"b\":\"\\\"}\"}", NULL},
		{"nested objects are one", "{\"a\":{\"b\":{\"c\":1}}} .", "{\"a\":{\"b\":{\"c\":1}}}", NULL},
		{"an array around it", "[{\"a\":1}]", "{\"a\":1}", NULL},
		{"a string around it", "\"{\\\"a\\\": \\\"x\\\\ny\\\"}\"", "{\"a\":\"x\\ny\"}", NULL},
		{"two that are the same", "{\"a\":1} and again {\"a\": 1}", "{\"a\":1}", NULL},
		{"two that differ", "{\"a\":1} or {\"a\":2}", SEVERAL, NULL},
		{"two in an array", "[{\"a\":1},{\"a\":2}]", SEVERAL, NULL},
		{"one has what is required", "{\"x\":1} gives {\"b\":1,\"a\":2}", "{\"b\":1,\"a\":2}", schema_ab},
		{"both have it", "{\"a\":1,\"b\":1} or {\"a\":1,\"b\":2}", SEVERAL, schema_ab},
		{"neither has it", "{\"a\":1} or {\"b\":2}", SEVERAL, schema_ab},
		{"one lacks it", "{\"a\":1}", "{\"a\":1}", schema_ab},
		{"thoughts before it", "<think>Perhaps {\"a\":2}?</think>\n{\"a\":1}", "{\"a\":1}", NULL},
		{"members twice: the last", "{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}", NULL},
		{"cut off", "{\"a\":\"x", NO_END, NULL},
		{"cut off in prose", "Here: {\"a\":{\"b\":1}", NO_END, NULL},
		{"broken, with a whole one inside", "{\"a\" 1, \"b\":{\"c\":1}}", INVALID, NULL},
		{"brackets that cross", "{\"a\":[1}]", INVALID, NULL},
		{"prose alone", "I cannot answer that.", NOT_OBJECT, NULL},
		{"nothing", "", NOT_OBJECT, NULL},
		{"a number", "1", NOT_OBJECT, NULL},
		{"null", "null", NOT_OBJECT, NULL},
		{"an array", "[1,2]", NOT_OBJECT, NULL},
		{"a string", "\"x\"", NOT_OBJECT, NULL},
		{"apostrophes for quotes", "{'a': 1}", NOT_OBJECT, NULL},
		{"names without quotes", "{a: 1}", NOT_OBJECT, NULL},
		{"U+0000", "{\"a\":\"x\\u0000y\"}", "{\"a\":\"x\xEF\xBF\xBDy\"}", NULL},
		{"half a pair", "so: {\"a\":\"\\ud800\"}", "{\"a\":\"\xEF\xBF\xBD\"}", NULL},
		{"a pair", "so: {\"a\":\"\\ud83d\\ude00\"}", "{\"a\":\"\xF0\x9F\x98\x80\"}", NULL},
		{"a backslash before it", "\\{\"a\":\"\\u00e9\"}", "{\"a\":\"\xC3\xA9\"}", NULL},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		bool		altered = false;
		char	   *got = recovered(cases[i].answer, cases[i].schema, &altered);
		char	   *what = psprintf("recovery: %s", cases[i].what);

		is_text(got, cases[i].expected, what);
		ok(altered == (strstr(cases[i].expected, "\xEF\xBF\xBD") != NULL), "%s: altered", what);
	}
}

/* Long answers of the worst kinds take no longer than others of their length. */
static void
test_recovery_of_much(void)
{
	static const char *const units[] = {"{", "{\"", "{}", "{\"a\":1}", "{\"a\":", "\"{", "{x}", "[{", "{\"a\":1},", "\\{\""};
	int			n = 200000;

	for (int i = 0; i < (int) lengthof(units); i++)
	{
		StringInfoData text;
		bool		altered = false;

		initStringInfo(&text);
		for (int k = 0; k < n; k++)
			appendStringInfoString(&text, units[i]);
		(void) recovered(text.data, NULL, &altered);
		pfree(text.data);
		ok(true, "recovery: %d times %s comes to an end", n, units[i]);
	}
}

/* ---- values ---- */

static bool
moment_stub(LlmbKind kind, const char *text)
{
	return strcmp(text, kind == LLMB_KIND_DATE ? "2026-01-31" : kind == LLMB_KIND_TIME ? "12:30" : "2026-01-31T12:30") == 0;
}

/* The column's text; "NULL"; or the reason. */
static const char *
taken(LlmbColumn column, const char *json)
{
	LlmbJson   *value = json ? parse(json) : NULL;
	const char *text;
	const char *reason = NULL;

	column.name = "c";
	column.valid_moment = moment_stub;
	if (json && value == NULL)
		return "the test's own JSON is invalid";
	if (!llmb_answer_value(&column, value, &text, &reason))
		return reason;
	return text ? text : "NULL";
}

static void
takes(LlmbColumn column, const char *json, const char *expected)
{
	is_text(taken(column, json), expected, psprintf("value: %s is taken", json ? json : "an absent one"));
}

static void
refuses(LlmbColumn column, const char *json, const char *reason)
{
	char	   *what = psprintf("value: %s is refused", json ? json : "an absent one");

	has_text(taken(column, json), reason, what);
	has_text(taken(column, json), "column \"c\": expected ", what);
}

static void
test_null(void)
{
	LlmbColumn	nullable = {.kind = LLMB_KIND_TEXT, .nullable = true};
	LlmbColumn	required = {.kind = LLMB_KIND_TEXT};
	LlmbColumn	optional = {.kind = LLMB_KIND_TEXT, .nullable = true, .optional = true};
	LlmbColumn	optional_required = {.kind = LLMB_KIND_TEXT, .optional = true};
	LlmbColumn	many = {.kind = LLMB_KIND_TEXT, .array = true, .nullable = true};

	takes(nullable, "null", "NULL");
	refuses(required, "null", "expected text, got null");
	refuses(nullable, NULL, "the answer has no such member");
	takes(optional, NULL, "NULL");
	refuses(optional_required, NULL, "the answer has no such member");
	takes(nullable, "\"\"", "");
	takes(nullable, "\"null\"", "null");
	takes(many, "null", "NULL");
	refuses(many, "[\"a\",null]", "each element text, got");
}

static void
test_text(void)
{
	const char *reason;
	LlmbColumn	any = {.kind = LLMB_KIND_TEXT};
	LlmbColumn	strict = {.kind = LLMB_KIND_TEXT, .strict_text = true};
	LlmbColumn	three = {.kind = LLMB_KIND_TEXT, .max_chars = 3, .strict_text = true};

	takes(any, "\" a\\nb \"", " a\nb ");
	takes(any, "7.50", "7.50");
	takes(any, "true", "true");
	takes(any, "[1,{\"a\":null}]", "[1,{\"a\":null}]");
	refuses(strict, "[1]", "expected text, got [1]");
	takes(three, "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
	takes(three, "\"abc   \"", "abc   ");
	refuses(three, "\"abcd\"", "text of at most 3 characters, got \"abcd\"");
	refuses(three, "\"   d\"", "at most 3");
	/* what is quoted ends between characters */
	reason = taken(three, "\"x\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC"
														"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC"
														"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\"");
	ok(strlen(reason) > 60 && pg_encoding_verifymbstr(PG_UTF8, reason, strlen(reason)) == (int) strlen(reason),
	   "value: a reason is valid UTF-8");
	has_text(taken(three, "\"0123456789012345678901234567890123456789012345678901234567890123456789\""), "678...", "value: a reason is short");
}

static void
test_integers(void)
{
	LlmbColumn	small = {.kind = LLMB_KIND_INTEGER, .min = PG_INT16_MIN, .max = PG_INT16_MAX};
	LlmbColumn	large = {.kind = LLMB_KIND_INTEGER, .min = PG_INT64_MIN, .max = PG_INT64_MAX};

	takes(small, "7", "7");
	takes(small, "-7", "-7");
	takes(small, "0", "0");
	takes(small, "-0.0", "-0");
	takes(small, "7.0", "7");
	takes(small, "7e2", "700");
	takes(small, "7.25e2", "725");
	takes(small, "1200e-2", "12");
	takes(small, "0.00e5", "0");
	takes(small, "\"7\"", "7");
	takes(small, "\" +7 \"", "7");
	takes(small, "\"007\"", "7");
	takes(small, "32767", "32767");
	takes(small, "-32768", "-32768");
	refuses(small, "32768", "an integer from -32768 to 32767, got 32768");
	refuses(small, "-32769", "got -32769");
	refuses(small, "7.5", "got 7.5");
	refuses(small, "0.07", "got 0.07");
	refuses(small, "7e-1", "got 7e-1");
	refuses(small, "1e400", "got 1e400");
	refuses(small, "1e999999999999", "got 1e999999999999");
	refuses(small, "\"seven\"", "got \"seven\"");
	refuses(small, "\"7 stars\"", "got \"7 stars\"");
	refuses(small, "\"+-7\"", "got");
	refuses(small, "\"1,000\"", "got");
	refuses(small, "\"\"", "got \"\"");
	refuses(small, "\"0x7\"", "got");
	refuses(small, "true", "got true");
	refuses(small, "[7]", "got [7]");
	takes(large, "9223372036854775807", "9223372036854775807");
	takes(large, "-9223372036854775808", "-9223372036854775808");
	takes(large, "9.2e18", "9200000000000000000");
	refuses(large, "9223372036854775808", "got");
	refuses(large, "-9223372036854775809", "got");
	refuses(large, "1e19", "got");
}

static void
test_numbers(void)
{
	LlmbColumn	any = {.kind = LLMB_KIND_NUMERIC};
	LlmbColumn	price = {.kind = LLMB_KIND_NUMERIC, .precision = 4, .scale = 2};
	LlmbColumn	tiny = {.kind = LLMB_KIND_NUMERIC, .precision = 2, .scale = 4};
	LlmbColumn	thousands = {.kind = LLMB_KIND_NUMERIC, .precision = 2, .scale = -3};
	LlmbColumn	real = {.kind = LLMB_KIND_FLOAT, .single = true};
	LlmbColumn	twice = {.kind = LLMB_KIND_FLOAT};

	takes(any, "1.50", "1.50");
	takes(any, "-1e10", "-1e10");
	takes(any, "\" 3.14 \"", "3.14");
	takes(any, "\".5\"", ".5");
	refuses(any, "\"1.2.3\"", "a number, got");
	refuses(any, "\"NaN\"", "got");
	refuses(any, "\"$5\"", "got");
	refuses(any, "\"5e\"", "got");
	refuses(any, "\".\"", "got");
	refuses(any, "1e200000", "got");
	refuses(any, "1e-20000", "got");
	takes(price, "99.99", "99.99");
	takes(price, "99.994", "99.994");
	takes(price, "-99.99", "-99.99");
	takes(price, "0", "0");
	takes(price, "0.001", "0.001");
	refuses(price, "99.995", "a number that numeric(4,2) holds, got 99.995");
	refuses(price, "100", "got 100");
	takes(price, "99.9899999", "99.9899999");
	takes(tiny, "0.0099", "0.0099");
	refuses(tiny, "0.01", "got");
	refuses(tiny, "0.00995", "got");
	takes(thousands, "99000", "99000");
	takes(thousands, "99499", "99499");
	refuses(thousands, "99500", "got");
	refuses(thousands, "100000", "got");
	takes(real, "1.5", "1.5");
	takes(real, "\"1.5\"", "1.5");
	takes(real, "1e-60", "0");
	refuses(real, "1e39", "a number that real holds, got 1e39");
	takes(twice, "1e39", "1e39");
	refuses(twice, "1e400", "double precision holds");
	refuses(twice, "\"inf\"", "got");
	refuses(twice, "null", "got null");
}

static void
test_words(void)
{
	const char *labels[] = {"positive", "Negative", "mixed feelings", "a", "A"};
	LlmbColumn	mood = {.kind = LLMB_KIND_ENUM, .labels = labels, .label_count = 5};
	LlmbColumn	flag = {.kind = LLMB_KIND_BOOLEAN};
	LlmbColumn	uuid = {.kind = LLMB_KIND_UUID};
	LlmbColumn	date = {.kind = LLMB_KIND_DATE};
	LlmbColumn	moment = {.kind = LLMB_KIND_TIMESTAMP};

	takes(mood, "\"positive\"", "positive");
	takes(mood, "\" Positive\\n\"", "positive");
	takes(mood, "\"NEGATIVE\"", "Negative");
	takes(mood, "\"a\"", "a");
	takes(mood, "\"A\"", "A");
	refuses(mood, "\" b\"", "one of positive, Negative, mixed feelings, a, A, got \" b\"");
	refuses(mood, "\"posit\"", "got");
	refuses(mood, "\"positive!\"", "got");
	refuses(mood, "\"\"", "got");
	refuses(mood, "1", "got 1");
	refuses(mood, "[\"positive\"]", "got");
	takes(flag, "true", "true");
	takes(flag, "false", "false");
	takes(flag, "\"true\"", "true");
	takes(flag, "\" False \"", "false");
	refuses(flag, "1", "true or false, got 1");
	refuses(flag, "\"yes\"", "got");
	takes(uuid, "\"00000000-0000-4000-8000-00000000000a\"", "00000000-0000-4000-8000-00000000000a");
	takes(uuid, "\" {0000000000004000800000000000000A} \"", "{0000000000004000800000000000000A}");
	refuses(uuid, "\"00000000-0000-4000-8000-00000000000\"", "a UUID");
	refuses(uuid, "\"00000000-0000-4000-8000-00000000000ab\"", "a UUID");
	refuses(uuid, "\"0000000--0000-4000-8000-00000000000a\"", "a UUID");
	refuses(uuid, "\"{00000000-0000-4000-8000-00000000000a\"", "a UUID");
	refuses(uuid, "7", "a UUID");
	takes(date, "\" 2026-01-31 \"", "2026-01-31");
	refuses(date, "\"2026-02-31\"", "a date like 2026-01-31, got \"2026-02-31\"");
	refuses(date, "20260131", "got 20260131");
	takes(moment, "\"2026-01-31T12:30\"", "2026-01-31T12:30");
	refuses(moment, "{}", "a date and time like");
}

static void
test_json_values(void)
{
	LlmbColumn	native = {.kind = LLMB_KIND_JSON};
	LlmbColumn	in_string = {.kind = LLMB_KIND_JSON, .json_in_string = true};
	LlmbColumn	other = {.kind = LLMB_KIND_OTHER};

	takes(native, "{\"a\":[1,null]}", "{\"a\":[1,null]}");
	takes(native, "\"{}\"", "\"{}\"");
	takes(native, "7", "7");
	takes(in_string, "{\"a\":1}", "{\"a\":1}");
	takes(in_string, "\"{\\\"a\\\": 1,}\"", "{\"a\":1}");
	takes(in_string, "\" [1, 2] \"", "[1,2]");
	takes(in_string, "\"7\"", "7");
	takes(in_string, "\"\\\"x\\\"\"", "\"x\"");
	refuses(in_string, "\"prose\"", "a string that holds JSON, got \"prose\"");
	refuses(in_string, "\"\"", "got");
	refuses(native, "[1e200000]", "got");
	takes(other, "\"[1,2)\"", "[1,2)");
	refuses(other, "{\"a\":1}", "a string, a number or a boolean");
}

static void
test_arrays(void)
{
	const char *labels[] = {"red", "green"};
	LlmbColumn	words = {.kind = LLMB_KIND_TEXT, .array = true, .strict_text = true};
	LlmbColumn	colours = {.kind = LLMB_KIND_ENUM, .array = true, .labels = labels, .label_count = 2};
	LlmbColumn	floats = {.kind = LLMB_KIND_FLOAT, .array = true, .single = true};
	LlmbColumn	objects = {.kind = LLMB_KIND_JSON, .array = true};
	LlmbColumn	vector = {.kind = LLMB_KIND_VECTOR};

	takes(words, "[]", "{}");
	takes(words, "[\"a b\",\"\",\"NULL\",\"{x}\",\"q\\\"\\\\\"]", "{\"a b\",\"\",\"NULL\",\"{x}\",\"q\\\"\\\\\"}");
	refuses(words, "\"a, b\"", "an array, each element text, got \"a, b\"");
	refuses(words, "[[\"a\"]]", "got [[\"a\"]]");
	refuses(words, "{\"0\":\"a\"}", "got");
	takes(colours, "[\"Red\",\"green\"]", "{\"red\",\"green\"}");
	refuses(colours, "[\"red\",\"blue\"]", "each element one of red, green");
	takes(floats, "[0.5,\"1\",-2e-3]", "{\"0.5\",\"1\",\"-2e-3\"}");
	takes(objects, "[{\"a\":\"x\"},[1]]", "{\"{\\\"a\\\":\\\"x\\\"}\",\"[1]\"}");
	takes(vector, "[0.1,-2,1e-60]", "[0.1,-2,0]");
	refuses(vector, "[]", "an array of numbers");
	refuses(vector, "[\"1\"]", "an array of numbers");
	refuses(vector, "\"[1]\"", "an array of numbers");
}

/* ---- a schema alone ---- */

static bool
skip_t(const char *member, const void *arg)
{
	return strcmp(member, arg) == 0;
}

static const char *
checked(const char *schema, const char *json, const char *skipped)
{
	const char *reason = NULL;

	return llmb_answer_check(parse(schema), parse(json), "", skipped ? skip_t : NULL, skipped, &reason) ? "fits" : reason;
}

static void
test_check(void)
{
	static const char *const schema = "{\"type\":\"object\",\"required\":[\"n\",\"t\"],\"properties\":{"
		"\"n\":{\"type\":\"integer\"},\"t\":{\"type\":[\"string\",\"null\"]},\"e\":{\"enum\":[\"x\",1]},"
		"\"l\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"required\":[\"k\"],\"properties\":{\"k\":{\"type\":\"boolean\"}}}},"
		"\"o\":{\"anyOf\":[{\"type\":\"number\"},{\"type\":\"null\"}]},\"c\":{\"const\":true},\"r\":{\"$ref\":\"#/x\"}}}";

	is_text(checked(schema, "{\"n\":1,\"t\":\"x\"}", NULL), "fits", "check: what is required is there");
	is_text(checked(schema, "{\"n\":2.0,\"t\":null,\"e\":1,\"l\":[{\"k\":true}],\"o\":null,\"c\":true,\"r\":[],\"z\":1}", NULL), "fits", "check: all is as it should be");
	is_text(checked(schema, "{\"n\":1}", NULL), "the answer has no member \"t\"", "check: a member is missing");
	is_text(checked(schema, "{\"n\":\"1\",\"t\":\"\"}", NULL), "member \"n\": expected type \"integer\", got \"1\"", "check: a string is no integer");
	is_text(checked(schema, "{\"n\":1.5,\"t\":\"\"}", NULL), "member \"n\": expected type \"integer\", got 1.5", "check: nor is a fraction");
	is_text(checked(schema, "{\"n\":1,\"t\":1}", NULL), "member \"t\": expected type [\"string\",\"null\"], got 1", "check: neither of two types");
	is_text(checked(schema, "{\"n\":1,\"t\":\"\",\"e\":\"y\"}", NULL), "member \"e\": expected one of the values of its enum, got \"y\"", "check: no value of the enum");
	is_text(checked(schema, "{\"n\":1,\"t\":\"\",\"l\":[{\"k\":true},{}]}", NULL), "the answer has no member \"l[1].k\"", "check: an element lacks a member");
	is_text(checked(schema, "{\"n\":1,\"t\":\"\",\"l\":[{\"k\":0}]}", NULL), "member \"l[0].k\": expected type \"boolean\", got 0", "check: an element's member");
	is_text(checked(schema, "{\"n\":1,\"t\":\"\",\"o\":\"\"}", NULL), "member \"o\": expected one of the alternatives of its schema, got \"\"", "check: no alternative");
	is_text(checked(schema, "{\"n\":1,\"t\":\"\",\"c\":false}", NULL), "member \"c\": expected true, got false", "check: another constant");
	is_text(checked(schema, "[]", NULL), "the answer: expected type \"object\", got []", "check: not an object");
	is_text(checked(schema, "{\"n\":1}", "t"), "fits", "check: what is checked elsewhere may be missing");
	is_text(checked(schema, "{\"n\":1,\"t\":[]}", "t"), "fits", "check: and be anything");
	is_text(checked("{\"properties\":{\"a\":true}}", "{\"a\":1}", NULL), "fits", "check: a schema may be true");
	is_text(checked("{\"type\":7,\"required\":[1],\"properties\":[],\"anyOf\":{},\"items\":1}", "{}", NULL), "the answer: expected type 7, got {}", "check: a strange schema");
	is_text(checked("{\"type\":\"object\",\"properties\":[\"v\",{\"type\":7}]}", "{\"v\":1}", NULL), "fits", "check: members without names are none");
}

/* ---- what a target's property says ---- */

static bool
listed(LlmbColumn column, const char *property, const char *json)
{
	const char *reason = NULL;
	const char *text;
	LlmbJson   *value = parse(json);

	column.name = "c";
	column.nullable = true;
	return llmb_answer_value(&column, value, &text, &reason) &&
		llmb_answer_listed(&column, property ? parse(property) : NULL, value, text, &reason);
}

static void
test_listed(void)
{
	LlmbColumn	text = {.kind = LLMB_KIND_TEXT};
	LlmbColumn	number = {.kind = LLMB_KIND_INTEGER, .min = 0, .max = 100};
	LlmbColumn	words = {.kind = LLMB_KIND_TEXT, .array = true};
	static const char *const ab = "{\"type\":\"string\",\"enum\":[\"a\",\"b\"]}";
	static const char *const ab_or_null = "{\"anyOf\":[{\"enum\":[\"a\",\"b\"]},{\"type\":\"null\",\"const\":null}]}";

	ok(listed(text, NULL, "\"x\""), "listed: without a property all is");
	ok(listed(text, "{}", "\"x\""), "listed: without an enum all is");
	ok(listed(text, ab, "\"b\""), "listed: one of two");
	ok(!listed(text, ab, "\"c\""), "listed: neither");
	ok(listed(text, ab_or_null, "\"a\""), "listed: in an alternative");
	ok(!listed(text, ab_or_null, "\"c\""), "listed: in none");
	ok(listed(text, ab_or_null, "null"), "listed: null is told by its type");
	ok(listed(number, "{\"enum\":[1,2]}", "\"2\""), "listed: a number as its text");
	ok(listed(number, "{\"enum\":[2.0]}", "2.0"), "listed: a number as it is written");
	ok(!listed(number, "{\"const\":1}", "2"), "listed: another number");
	ok(listed(words, "{\"items\":{\"enum\":[\"a\",\"b\"]}}", "[\"a\",\"a\"]"), "listed: each element");
	ok(!listed(words, "{\"items\":{\"enum\":[\"a\",\"b\"]}}", "[\"a\",\"c\"]"), "listed: not each element");

	ok(llmb_schema_allows_null(parse("{}")), "null: by an empty schema");
	ok(llmb_schema_allows_null(parse("{\"type\":[\"string\",\"null\"]}")), "null: by its type");
	ok(!llmb_schema_allows_null(parse("{\"type\":\"string\"}")), "null: not by another type");
	ok(llmb_schema_allows_null(parse(ab_or_null)), "null: by an alternative");
	ok(!llmb_schema_allows_null(parse("{\"anyOf\":[{\"type\":\"string\"}]}")), "null: by none");
	ok(!llmb_schema_allows_null(parse("{\"enum\":[\"a\"]}")), "null: not in an enum");
	ok(llmb_schema_allows_null(parse("{\"enum\":[\"a\",null]}")), "null: in an enum");
	ok(!llmb_schema_allows_null(parse("{\"const\":1}")), "null: another constant");
}

/* ---- anything ---- */

static void
test_anything(void)
{
	static const char *const pieces[] = {"{", "}", "[", "]", "\"", "\\", ",", ":", "\"a\":", "\"b\":1", "1", "```json\n", "\n", " ",
	"\\u0000", "\\ud800", "\xC3", "\xED\xA0\x80", "null", "'", "</think>", "x", "\\\"", "{\"a\":1}", "-", "1e9"};
	uint64		state = 20261121;
	int			found = 0;
	int			rounds = 30000;
	int			bad = 0;

	for (int i = 0; i < rounds; i++)
	{
		StringInfoData text;
		const char *reason = NULL;
		bool		altered = false;
		LlmbJson   *object;
		char	   *exact;

		initStringInfo(&text);
		for (int k = next_random(&state) % 20; k > 0; k--)
			appendStringInfoString(&text, pieces[next_random(&state) % lengthof(pieces)]);
		/* of exactly its size, for the sanitizers */
		exact = malloc(text.len + 1);
		memcpy(exact, text.data, text.len + 1);
		object = llmb_answer_recover(exact, text.len, NULL, &altered, &reason);
		found += object != NULL;
		bad += object ? object->type != LLMB_JSON_OBJECT : reason == NULL;
		llmb_json_free(object);
		free(exact);
		pfree(text.data);
	}
	is_int(bad, 0, "anything: an object or a reason");
	ok(found > rounds / 100, "anything: some of it is an object (%d)", found);
}

void
test_answer(void)
{
	test_recovery();
	test_recovery_of_much();
	test_null();
	test_text();
	test_integers();
	test_numbers();
	test_words();
	test_json_values();
	test_arrays();
	test_check();
	test_listed();
	test_anything();
}
