/*-------------------------------------------------------------------------
 *
 * test_provider.c
 *		Tests of src/provider.c: what the providers' files share.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "provider.h"
#include "unit.h"

static void
test_words(void)
{
	char		long_id[130];

	memset(long_id, 'a', sizeof(long_id));
	long_id[128] = '\0';
	ok(llmb_is_id("batch_67d4-A") && llmb_is_id(long_id), "ids: what is one");
	long_id[128] = 'a';
	long_id[129] = '\0';
	ok(!llmb_is_id(NULL) && !llmb_is_id("") && !llmb_is_id("../x") && !llmb_is_id("a b") &&
	   !llmb_is_id("a\n") && !llmb_is_id("caf\xC3\xA9") && !llmb_is_id(long_id), "ids: what is none");

	ok(llmb_in_list("low", "low medium high") && llmb_in_list("high", "low medium high") &&
	   llmb_in_list("b", "ab b"), "lists: words that are in one");
	ok(!llmb_in_list("lo", "low medium") && !llmb_in_list("ow", "low") && !llmb_in_list("", "low") &&
	   !llmb_in_list("low medium", "low medium") && !llmb_in_list("low", ""), "lists: words that are not");

	is_text(llmb_safe_code("context_length_exceeded"), "context_length_exceeded", "codes: a word");
	is_text(llmb_safe_code("Your prompt was: x"), NULL, "codes: words of another kind");
	is_text(llmb_safe_code(""), NULL, "codes: none");
	is_text(llmb_safe_code(NULL), NULL, "codes: nothing");

	is_text(llmb_copy_or_null(""), NULL, "copy: nothing of nothing");
	is_text(llmb_copy_or_null(NULL), NULL, "copy: nor of NULL");
	is_text(llmb_copy_or_null("a"), "a", "copy: else a copy");
}

static void
test_reading(void)
{
	LlmbJson   *json = parse("{\"s\": \"x\", \"n\": 7, \"neg\": -3, \"z\": null, \"digits\": \"12\"}");
	LlmbHttpReply http = http_reply(200, "{\"a\": \"\\u0000\"}");
	LlmbHttpReply broken = http_reply(200, "<html>");
	LlmbHttpReply empty = http_reply(204, "");
	LlmbOutcome outcome;
	LlmbReply	reply;
	LlmbJson   *body;
	bool		altered = false;

	is_text(llmb_string_or_empty(json, "s"), "x", "member: a string");
	is_text(llmb_string_or_empty(json, "n"), "", "member: a number is none");
	is_text(llmb_string_or_empty(NULL, "n"), "", "member: of nothing");
	is_text(llmb_take_string(json, "s"), "x", "take: a string");
	is_text(llmb_take_string(json, "s"), NULL, "take: only once");
	is_text(llmb_take_string(json, "n"), NULL, "take: a number is none");
	is_int(llmb_count(json, "n"), 7, "count: a number");
	is_int(llmb_count(json, "digits"), 12, "count: digits in a string");
	is_int(llmb_count(json, "neg"), -1, "count: negative is unknown");
	is_int(llmb_count(json, "z"), -1, "count: null is unknown");
	is_int(llmb_count(NULL, "n"), -1, "count: of nothing");
	is_int(llmb_count(parse("{\"n\": 2147483647}"), "n"), PG_INT32_MAX, "count: the largest");
	is_int(llmb_count(parse("{\"n\": 2147483648}"), "n"), -1, "count: more than anything has");
	is_int(llmb_count(parse("{\"n\": 1000000000000000000}"), "n"), -1, "count: absurd");
	is_int(llmb_epoch_seconds(parse("{\"t\": 1790000000}"), "t"), 1790000000, "time: in seconds");
	is_int(llmb_epoch_seconds(parse("{\"t\": -1}"), "t"), 0, "time: negative is none");
	is_int(llmb_epoch_seconds(parse("{\"t\": 1790000000000}"), "t"), 0, "time: after the year 9999 is none");
	is_int(llmb_rfc3339_ms("1970-01-01T00:00:00+23:59"), 0, "time: before 1970 is none");
	is_int(llmb_rfc3339_ms("1970-01-01T00:00:01.5Z"), 1500, "time: just after");

	llmb_outcome_init(&outcome);
	ok(outcome.code == LLMB_OK && outcome.input_tokens == -1 && outcome.cached_tokens == -1 &&
	   outcome.cache_write_tokens == -1 && outcome.long_write_tokens == -1 &&
	   outcome.output_tokens == -1 && outcome.reasoning_tokens == -1, "outcome: begins unknown");
	llmb_outcome_fail(&outcome, LLMB_TIMEOUT, true, "first");
	llmb_outcome_fail(&outcome, LLMB_REFUSED, false, "second");
	ok(outcome.code == LLMB_REFUSED && !outcome.retryable, "outcome: the last failure counts");
	is_text(outcome.error, "first", "outcome: the first words stay");
	llmb_outcome_init(&outcome);
	llmb_outcome_fail(&outcome, LLMB_TIMEOUT, true, "");
	is_text(outcome.error, "The provider gave no reason.", "outcome: a failure has a reason");
	outcome.error = pstrdup("");
	llmb_outcome_fail(&outcome, LLMB_TIMEOUT, true, "a reason");
	is_text(outcome.error, "a reason", "outcome: an empty one is none");

	memset(&reply, 0x55, sizeof(reply));
	reply.retry_after_ms = 1500;
	llmb_reply_forget(&reply);
	ok(reply.retry_after_ms == 1500 && reply.fault == LLMB_FAULT_NONE && reply.code == NULL &&
	   reply.batch.id == NULL && reply.batch.total == -1 && reply.batch.done == -1 &&
	   reply.batch.failed == -1, "reply: forgets all but the wait");

	body = llmb_reply_json(&http, &altered);
	ok(altered, "body: says that it was cleaned");
	is_text(llmb_json_string(body, "a"), "\xEF\xBF\xBD", "body: parsed");
	ok(llmb_reply_json(&broken, &altered) == NULL && llmb_reply_json(&empty, &altered) == NULL,
	   "body: what is no JSON");
}

static void
test_headers(void)
{
	LlmbHttpReply http = http_reply(200, "");
	LlmbCall	call = {0};

	is_text(llmb_reply_header(&http, "x-request-id"), NULL, "headers: none at all");
	http.headers = "x-request-id: req_1\nx-ratelimit-limit-requests: 60\nx-n: 1x\nx-big: 99999999999999999999\n"
		"x-neg: -1\nx-last: yes";
	is_text(llmb_reply_header(&http, "x-request-id"), "req_1", "headers: the first");
	is_text(llmb_reply_header(&http, "x-last"), "yes", "headers: the last, without a line end");
	is_text(llmb_reply_header(&http, "request-id"), NULL, "headers: a name is whole");
	is_text(llmb_reply_header(&http, "x-ratelimit-limit"), NULL, "headers: to its end");
	is_int(llmb_reply_header_int(&http, "x-ratelimit-limit-requests"), 60, "headers: a count");
	is_int(llmb_reply_header_int(&http, "x-n"), -1, "headers: no count");
	is_int(llmb_reply_header_int(&http, "x-big"), -1, "headers: too large a count");
	is_int(llmb_reply_header_int(&http, "x-neg"), -1, "headers: a negative count");
	is_int(llmb_reply_header_int(&http, "x-none"), -1, "headers: none, no count");
	http.headers = "a: caf\xE9 \x07\nb: 500\xC2\xB5s\n";
	is_text(llmb_reply_header(&http, "a"), "caf? ?", "headers: what is not UTF-8, and controls, are replaced");
	is_text(llmb_reply_header(&http, "b"), "500\xC2\xB5s", "headers: UTF-8 stays");

	llmb_add_header(&call, "A", "Bearer ", "k");
	llmb_add_header(&call, "B", "", NULL);
	llmb_add_header(&call, "B", "", "");
	llmb_add_header(&call, "B", "", "x\r\nC: y");
	llmb_add_header(&call, "B", "", "x\x7F");
	is_int(call.header_count, 1, "headers: what cannot be one is not added");
	is_text(call.headers[0], "A: Bearer k", "headers: one added");
}

static void
test_times(void)
{
	is_int(llmb_rfc3339_ms("1970-01-01T00:00:00Z"), 0, "time: the epoch");
	is_int(llmb_rfc3339_ms("2026-08-02T17:47:08.039741+00:00"), INT64CONST(1785692828039), "time: microseconds");
	is_int(llmb_rfc3339_ms("2026-08-02T17:47:08.039741123Z"), INT64CONST(1785692828039), "time: nanoseconds");
	is_int(llmb_rfc3339_ms("2026-08-02T19:47:08+02:00"), INT64CONST(1785692828000), "time: east of Greenwich");
	is_int(llmb_rfc3339_ms("2026-08-02T12:17:08-05:30"), INT64CONST(1785692828000), "time: west of it");
	is_int(llmb_rfc3339_ms("2024-02-29T00:00:00Z"), INT64CONST(1709164800000), "time: a leap day");
	is_int(llmb_rfc3339_ms("2000-03-01T00:00:00Z"), INT64CONST(951868800000), "time: after one");
	is_int(llmb_rfc3339_ms("2026-08-02T17:47:08"), 0, "time: no zone");
	is_int(llmb_rfc3339_ms("2026-13-02T17:47:08Z"), 0, "time: no month");
	is_int(llmb_rfc3339_ms("soon"), 0, "time: none");
	is_int(llmb_rfc3339_ms(NULL), 0, "time: nothing");
}

static void
test_writing(void)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, "a\n");
	llmb_put_raw(&out, "{\r\n\"b\":1}");
	is_text(out.data, "a\n{  \"b\":1}", "raw: its own line ends are gone, and only those");

	has_text(llmb_schema_in_words(NULL, "{\"type\":\"object\"}"), "schema:\n{\"type\":\"object\"}", "words: the schema");
	ok(strncmp(llmb_schema_in_words("Be brief.", "{}"), "Be brief.\n\n", 11) == 0, "words: behind the system prompt");
	ok(strncmp(llmb_schema_in_words(NULL, "{}"), "Answer ", 7) == 0, "words: or alone");
}

static const LlmbParam table[] = {
	{"max_tokens", "maxOutputTokens", LLMB_PARAM_INTEGER, 1, PG_INT32_MAX, NULL},
	{"temperature", "temperature", LLMB_PARAM_NUMBER, 0, 2, NULL},
	{"effort", "effort", LLMB_PARAM_WORD, 0, 0, "low high"},
	{"stop", "stop", LLMB_PARAM_STOP, 0, 2, NULL},
	{"user", "user", LLMB_PARAM_STRING, 0, 0, NULL},
	{"options", "options", LLMB_PARAM_OBJECT, 0, 0, NULL},
};

static const LlmbParamHint hints[] = {
	{"n", "each prompt has one answer"},
};

static void
checked(const char *params, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = llmb_check_params(table, lengthof(table), hints, lengthof(hints), json);

	if (part == NULL)
		is_text(reason, NULL, psprintf("table: %s", params));
	else
		has_text(reason, part, psprintf("table: %s", params));
	llmb_json_free(json);
}

static void
test_param_table(void)
{
	is_text(llmb_find_param(table, lengthof(table), "max_tokens")->wire, "maxOutputTokens", "table: a wire name");
	ok(llmb_find_param(table, lengthof(table), "maxOutputTokens") == NULL, "table: which is not the common one");
	checked("{}", NULL);
	checked("null", NULL);
	checked("3", "must be an object");
	checked("{\"max_tokens\": 1, \"temperature\": 2.0, \"effort\": \"low\", \"stop\": [\"a\",\"b\"],"
			" \"user\": \"\", \"options\": {}}", NULL);
	checked("{\"max_tokens\": null}", NULL);
	checked("{\"max_tokens\": 1e3}", "an integer of at least 1");
	checked("{\"max_tokens\": -1}", "an integer of at least 1");
	checked("{\"temperature\": true}", "a number between 0 and 2");
	checked("{\"effort\": \"medium\"}", "one of: low high");
	checked("{\"effort\": 1}", "one of: low high");
	checked("{\"stop\": [\"a\",\"b\",\"c\"]}", "an array of up to 2");
	checked("{\"user\": 1}", "must be a string");
	checked("{\"options\": []}", "must be an object");
	checked("{\"n\": 2}", "each prompt has one answer");
	checked("{\"temparature\": 2}", "perhaps you mean \"temperature\"");
	checked("{\"zzzzzzzzzzzz\": 2}", "known are max_tokens, temperature, effort, stop, user, options");
	is_text(llmb_check_params(table, lengthof(table), NULL, 0, NULL), NULL, "table: no hints, no parameters");
}

static void
model_checked(const char *model, const char *params, const char *sampling, const char *part)
{
	LlmbJson   *json = parse(params);
	char	   *reason = llmb_check_model_params(model_of(model), json, sampling);
	char	   *what = psprintf("model: %s %s", model, params);

	if (part == NULL)
		is_text(reason, NULL, what);
	else
		has_text(reason, part, what);
	llmb_json_free(json);
}

static void
test_model_params(void)
{
	model_checked("gpt-4.1-mini", "{\"temperature\": 0.2}", "temperature top_p", NULL);
	model_checked("gpt-4.1-mini", "{\"reasoning_effort\": \"low\"}", "temperature", "takes no reasoning_effort");
	model_checked("gpt-5-mini", "{\"temperature\": 1.0, \"top_p\": 1}", "temperature top_p", NULL);
	model_checked("gpt-5-mini", "{\"top_p\": 0.9}", "temperature top_p", "takes no top_p but 1");
	model_checked("gpt-5-mini", "{\"top_p\": 0.9}", "temperature", NULL);
	model_checked("gpt-5-mini", "{\"top_k\": 1}", "temperature top_k", "takes no top_k");
	model_checked("gpt-5-mini", "{\"reasoning_effort\": \"none\"}", "temperature",
				  "one of: minimal low medium high");
	model_checked("gpt-6-luna", "{\"temperature\": 0}", "temperature", "only with reasoning_effort \"none\"");
	model_checked("gpt-6-luna", "{\"temperature\": 0, \"reasoning_effort\": \"none\"}", "temperature", NULL);
	model_checked("gpt-5.1", "{\"temperature\": 0}", "temperature", NULL);
	model_checked("nobody-knows", "{\"temperature\": 0, \"reasoning_effort\": \"max\"}", "temperature", NULL);
	is_text(llmb_check_model_params(model_of("gpt-5-mini"), NULL, "temperature"), NULL, "model: no parameters");
}

void
test_provider(void)
{
	test_words();
	test_reading();
	test_headers();
	test_times();
	test_writing();
	test_param_table();
	test_model_params();
}
