/*-------------------------------------------------------------------------
 *
 * test_json.c
 *		Tests of src/json.c.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "unit.h"

#define FFFD "\xEF\xBF\xBD"

/* in has in_len bytes; out is what it is cleaned to. */
static void
cleans(const char *in, size_t in_len, const char *out, bool altered, const char *what)
{
	char	   *text = palloc(in_len + 1);
	bool		was_altered = false;
	size_t		len;

	memcpy(text, in, in_len);
	text[in_len] = '\0';
	len = llmb_json_clean(text, in_len, &was_altered);
	ok(len == strlen(out) && memcmp(text, out, len) == 0 &&
	   text[len] == '\0' && was_altered == altered, "clean: %s", what);
	if (len != strlen(out) || memcmp(text, out, len) != 0)
		printf("# got \"%.*s\"\n", (int) len, text);
	pfree(text);
}

#define CLEANS(in, out, altered, what) cleans(in, sizeof(in) - 1, out, altered, what)

static void
test_clean(void)
{
	bool		altered = true;
	char		text[] = "{}";

	CLEANS("", "", false, "nothing");
	CLEANS("{\"a\": \"plain\"}", "{\"a\": \"plain\"}", false, "plain text");
	CLEANS("\"\\u00e9\"", "\"\xC3\xA9\"", false, "two bytes");
	CLEANS("\"\\u20AC!\"", "\"\xE2\x82\xAC!\"", false, "three bytes, capital digits");
	CLEANS("\"\\ud83d\\uDE00\"", "\"\xF0\x9F\x98\x80\"", false, "a surrogate pair");
	CLEANS("\\u0080\\u07ff\\u0800\\uffff", "\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF", false,
		   "the edges of UTF-8");
	CLEANS("\\udbff\\udfff", "\xF4\x8F\xBF\xBF", false, "the last character");
	CLEANS("\"\\u001f\\u0022\\u005c\\u0041\\u007F\"", "\"\\u001f\\u0022\\u005c\\u0041\\u007F\"",
		   false, "ASCII escapes stay");
	CLEANS("\"\\n\\t\\\"\\/\\\\\"", "\"\\n\\t\\\"\\/\\\\\"", false, "short escapes stay");
	CLEANS("\"\\\\u00e9\"", "\"\\\\u00e9\"", false, "an escaped backslash before u00e9");
	CLEANS("\"\\\\\\u00e9\"", "\"\\\\\xC3\xA9\"", false, "an escaped backslash before an escape");
	CLEANS("a\\u0000b", "a" FFFD "b", true, "U+0000");
	CLEANS("\\ud83d", FFFD, true, "a lone high surrogate at the end");
	CLEANS("\\ud83dx", FFFD "x", true, "a lone high surrogate");
	CLEANS("\\ude00x", FFFD "x", true, "a lone low surrogate");
	CLEANS("\\ud83d\\u0041", FFFD "\\u0041", true, "a high surrogate before another escape");
	CLEANS("\\ud83d\\ud83d\\ude00", FFFD "\xF0\x9F\x98\x80", true, "two highs and a low");
	CLEANS("\\ud83d\\n", FFFD "\\n", true, "a high surrogate before a short escape");
	CLEANS("\\u12", "\\u12", false, "an escape that is cut");
	CLEANS("\\u12g4\\u00e9", "\\u12g4\xC3\xA9", false, "what is no escape stays");
	CLEANS("x\\", "x\\", false, "a backslash at the end");
	CLEANS("caf\xE9!", "caf?!", true, "a byte of Latin 1");
	CLEANS("\xC3", "?", true, "a cut character");
	CLEANS("\xC0\x80", "??", true, "an overlong form");
	CLEANS("a\xED\xA0\x80z", "a" FFFD "z", true, "a surrogate in three bytes");
	CLEANS("\xF5\x80\x80\x80", "????", true, "beyond Unicode");
	CLEANS("a\0b", "a?b", true, "a NUL");
	CLEANS("\xE2\x82\xAC\\u00e9\xE2\x82\xAC", "\xE2\x82\xAC\xC3\xA9\xE2\x82\xAC", false,
		   "bytes and escapes side by side");

	(void) llmb_json_clean(text, 2, &altered);
	ok(altered, "clean: altered is never set to false");
}

static const char *
refused(const char *text, size_t len)
{
	const char *reason = NULL;
	char	   *copy = pnstrdup(text, len);
	LlmbJson   *root = llmb_json_parse(copy, len, &reason);

	pfree(copy);
	if (root == NULL)
		return reason;
	llmb_json_free(root);
	return NULL;
}

static char *
repeated(const char *text, int times)
{
	StringInfoData out;

	initStringInfo(&out);
	while (times-- > 0)
		appendStringInfoString(&out, text);
	return out.data;
}

static void
test_limits(void)
{
	char	   *text;

	text = psprintf("%s%s", repeated("[", LLMB_JSON_MAX_DEPTH), repeated("]", LLMB_JSON_MAX_DEPTH));
	is_text(refused(text, strlen(text)), NULL, "parse: the deepest nesting");
	text = psprintf("[%s]", text);
	is_text(refused(text, strlen(text)), "JSON nests too deeply", "parse: one deeper");
	text = repeated("{\"a\":", 1000000);
	is_text(refused(text, strlen(text)), "JSON nests too deeply", "parse: a million deep");
	text = psprintf("\"%s\\\\\"", repeated("[\\\"", 1000));
	is_text(refused(text, strlen(text)), NULL, "parse: brackets inside a string do not nest");
	text = psprintf("[%s1]", repeated("1,", 300000));
	is_text(refused(text, strlen(text)), "JSON holds too many values", "parse: too many values");
	text = psprintf("[\"%s\"]", repeated(",", 300000));
	is_text(refused(text, strlen(text)), NULL, "parse: commas inside a string are not counted");
}

static void
test_parse(void)
{
	static const char *const bad[] = {
		"", " ", "{", "}", "]", "{]", "[1,]", "{\"a\"}", "{\"a\":1,}", "nul", "\"", "\"\\\"",
		"1 2", "{} x", "'a'", "[1 2]", "\"\n\"", "\"\\x\"", "01", "+1", "NaN", "{\"a\":\"b",
		"\xEF\xBB\xBF{}"
	};
	LlmbJson   *root;
	StringInfoData out;
	int			i;

	for (i = 0; i < (int) lengthof(bad); i++)
		ok(refused(bad[i], strlen(bad[i])) != NULL, "parse: refuses case %d", i);

	root = parse(" {\"a\": [1, -2.5e3, \"x\\ty\", true, false, null, {}], \"b\": {\"c\": \"\"},"
				 " \"n\": 12, \"s\": \"34\", \"big\": 99999999999999999999, \"frac\": 1.5,"
				 " \"plus\": \"+1\", \"none\": null, \"dup\": 1, \"dup\": 2, \"caf\\u00e9\": 1} ");
	ok(root != NULL && root->type == LLMB_JSON_OBJECT && root->count == 11, "parse: an object");
	is_int(llmb_json_get(root, "a")->count, 7, "parse: an array's elements");
	is_text(llmb_json_at(llmb_json_get(root, "a"), 1)->text, "-2.5e3", "parse: a number as written");
	is_text(llmb_json_at(llmb_json_get(root, "a"), 2)->text, "x\ty", "parse: a string unescaped");
	ok(llmb_json_at(llmb_json_get(root, "a"), 3)->boolean &&
	   !llmb_json_at(llmb_json_get(root, "a"), 4)->boolean, "parse: true and false");
	ok(llmb_json_at(llmb_json_get(root, "a"), 7) == NULL &&
	   llmb_json_at(llmb_json_get(root, "a"), -1) == NULL, "at: outside is absent");
	is_text(llmb_json_string(llmb_json_get(root, "b"), "c"), "", "string: an empty one");
	is_text(llmb_json_string(root, "n"), NULL, "string: not of a number");
	is_int(llmb_json_int(root, "n", -1), 12, "int: a number");
	is_int(llmb_json_int(root, "s", -1), 34, "int: a number in a string");
	is_int(llmb_json_int(root, "big", -1), -1, "int: too large is absent");
	is_int(llmb_json_int(root, "frac", -1), -1, "int: a fraction is absent");
	is_int(llmb_json_int(root, "plus", -1), -1, "int: a plus sign is absent");
	is_int(llmb_json_int(root, "none", -7), -7, "int: null is absent");
	is_int(llmb_json_int(root, "dup", -1), 2, "get: of equal names the last");
	is_int(llmb_json_int(root, "caf\xC3\xA9", -1), 1, "get: a name that was escaped");
	is_text(llmb_json_path(root, "b", "c", NULL)->text, "", "path: down");
	ok(llmb_json_path(root, "b", "x", "y", NULL) == NULL, "path: absent");
	ok(llmb_json_get(NULL, "a") == NULL && llmb_json_string(NULL, "a") == NULL &&
	   llmb_json_int(NULL, "a", 5) == 5 && llmb_json_is_null(NULL) &&
	   llmb_json_is_null(llmb_json_get(root, "none")) &&
	   !llmb_json_is_null(llmb_json_get(root, "n")), "navigation: nothing in nothing");
	ok(llmb_json_get(llmb_json_get(root, "a"), "a") == NULL, "get: an array has no members");

	initStringInfo(&out);
	llmb_json_put_node(&out, llmb_json_get(root, "a"));
	is_text(out.data, "[1,-2.5e3,\"x\\ty\",true,false,null,{}]", "put_node: an array");
	resetStringInfo(&out);
	llmb_json_put_node(&out, llmb_json_get(root, "b"));
	is_text(out.data, "{\"c\":\"\"}", "put_node: an object");
	llmb_json_free(root);
	llmb_json_free(NULL);
}

static void
test_write(void)
{
	StringInfoData out;
	LlmbJson   *root;
	char		every[256];
	int			i;

	initStringInfo(&out);
	llmb_json_put_string(&out, "a\"b\\c\n\r\t\x01/\x7F\xC3\xA9");
	is_text(out.data, "\"a\\\"b\\\\c\\n\\r\\t\\u0001/\x7F\xC3\xA9\"", "put_string: escapes");
	resetStringInfo(&out);
	llmb_json_put_string_len(&out, "abc", 2);
	is_text(out.data, "\"ab\"", "put_string_len: so much and no more");
	resetStringInfo(&out);
	llmb_json_put_string(&out, "");
	is_text(out.data, "\"\"", "put_string: nothing");

	for (i = 0; i < 127; i++)
		every[i] = i + 1;
	every[127] = '\0';
	resetStringInfo(&out);
	llmb_json_put_string(&out, every);
	root = parse(out.data);
	is_text(root ? root->text : NULL, every, "put_string: what is written is read again");
	ok(strchr(out.data, '\n') == NULL, "put_string: no line end inside");
	llmb_json_free(root);
}

static void
test_lines(void)
{
	const char *text = "one\ntwo\r\n\n\r\nrest";
	size_t		len = strlen(text);
	size_t		taken = 99;

	is_int(llmb_jsonl_next(text, len, &taken), 3, "lines: length without LF");
	is_int(taken, 4, "lines: LF taken");
	is_int(llmb_jsonl_next(text + 4, len - 4, &taken), 3, "lines: length without CRLF");
	is_int(taken, 5, "lines: CRLF taken");
	is_int(llmb_jsonl_next(text + 9, len - 9, &taken), 0, "lines: an empty one");
	is_int(llmb_jsonl_next(text + 10, len - 10, &taken), 0, "lines: an empty one with CRLF");
	is_int(llmb_jsonl_next(text + 12, len - 12, &taken), -1, "lines: no end yet");
	is_int(llmb_jsonl_next(text, 0, &taken), -1, "lines: nothing");
	is_int(llmb_jsonl_next(text + 4, 4, &taken), -1, "lines: a CR alone ends none");
}

void
test_json(void)
{
	test_clean();
	test_parse();
	test_limits();
	test_write();
	test_lines();
}
