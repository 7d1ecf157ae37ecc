/*-------------------------------------------------------------------------
 *
 * test_mock.c
 *		Tests of src/provider_mock.c: the whole life of a batch, and answers.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "unit.h"

#define P (&llmb_provider_mock)

#define START INT64CONST(1790000000000)

static LlmbReply
call(LlmbVerb verb, const LlmbBatchRef *ref, int64 now_ms)
{
	LlmbHttpReply http = {0};
	LlmbReply	reply = {0};

	P->answer(verb, ref, now_ms, &http);
	P->read_reply(verb, &http, &reply);
	return reply;
}

/* Many requests answered; what came of them. */
typedef struct Harvest
{
	int			lines;
	int			good;
	int			errors;
	int			cancelled;
	int			foreign;		/* lines that are not what they should be */
} Harvest;

static Harvest
harvest(const LlmbBatchRef *ref, int64 now_ms, int count)
{
	Harvest		result = {0};
	LlmbRequest request = {0};
	StringInfoData line;
	StringInfoData out;
	LlmbOutcome outcome;
	int			i;

	initStringInfo(&line);
	initStringInfo(&out);
	request.model = model_of("mock");
	request.dialect = &plain_dialect;
	for (i = 0; i < count; i++)
	{
		/* what fails is told by the text */
		request.prompt = psprintf("Summarise: It rained for %d days. Nobody minded.", i);
		request.custom_id = psprintf("%s-%d", ref->token, i);
		resetStringInfo(&line);
		resetStringInfo(&out);
		P->put_line(&line, &request);
		P->answer_line(ref, now_ms, line.data, line.len, &out);
		result.lines += (out.len > 0 && out.data[out.len - 1] == '\n');
		if (!P->read_line(out.data, out.len - 1, &outcome) ||
			strcmp(outcome.custom_id, request.custom_id) != 0)
			result.foreign++;
		else if (outcome.code == LLMB_OK)
			result.good++;
		else if (outcome.code == LLMB_PROVIDER_ERROR && outcome.retryable)
			result.errors++;
		else if (outcome.code == LLMB_CANCELLED_ITEM)
			result.cancelled++;
	}
	return result;
}

static void
test_life(void)
{
	LlmbBatchRef ref = {.dialect = &plain_dialect};
	LlmbReply	reply;
	Harvest		h;
	int64		done;

	ref.token = "t0k";
	ref.item_count = 1000;
	ref.latency_ms = 10000;
	ref.seed = 1;

	ok(P->base_url == NULL && !P->needs_key, "mock: no address and no key");
	ok(P->serves("mock") && P->serves("mock-large") && !P->serves("gpt-6-luna"), "mock: models");
	reply = call(LLMB_CALL_CHECK, &ref, START);
	is_int(reply.models, 1, "mock: check");
	reply = call(LLMB_CALL_UPLOAD, &ref, START);
	is_text(reply.file_id, "mock-file-t0k", "mock: upload");
	ref.remote_input = reply.file_id;
	reply = call(LLMB_CALL_LIST, &ref, START);
	ok(reply.fault == LLMB_FAULT_NONE && reply.listed_count == 0 && reply.next_cursor == NULL,
	   "mock: nothing in listings");

	reply = call(LLMB_CALL_CREATE, &ref, START);
	is_text(reply.batch.id, "mock-1790000000000-1000", "mock: create");
	is_text(reply.batch.token, "t0k", "mock: gives the token back");
	is_text(reply.batch.input, "mock-file-t0k", "mock: names the input");
	is_int(reply.batch.created_s, 1790000000, "mock: when it was created");
	ok(reply.batch.state == LLMB_REMOTE_RUNNING && reply.batch.total == -1, "mock: validating first");
	ref.remote_id = reply.batch.id;

	reply = call(LLMB_CALL_POLL, &ref, START + 2000);
	done = reply.batch.done;
	ok(reply.batch.state == LLMB_REMOTE_RUNNING && reply.batch.total == 1000 && done > 150 && done <= 200,
	   "mock: a fifth of its time, a fifth of its requests");
	ok(reply.batch.output == NULL, "mock: no file yet");
	reply = call(LLMB_CALL_POLL, &ref, START + 8000);
	ok(reply.batch.done > done && reply.batch.done <= 800, "mock: counts grow");
	reply = call(LLMB_CALL_POLL, &ref, START + 9999);
	is_int(reply.batch.state, LLMB_REMOTE_RUNNING, "mock: not before its time");
	reply = call(LLMB_CALL_POLL, &ref, START + 11000);
	is_int(reply.batch.state, LLMB_REMOTE_ENDED, "mock: over, with a tenth to spare");
	is_int(reply.batch.done, 1000, "mock: all done");
	is_text(reply.batch.output, "mock-1790000000000-1000-output", "mock: a file");
	is_text(reply.batch.errors, NULL, "mock: and one only");
	reply = call(LLMB_CALL_POLL, &ref, START - 5000);
	is_int(reply.batch.state, LLMB_REMOTE_RUNNING, "mock: a clock that was set back");
	reply = call(LLMB_CALL_DELETE_FILE, &ref, START + 12000);
	is_int(reply.fault, LLMB_FAULT_NONE, "mock: delete");

	h = harvest(&ref, START + 12000, 1000);
	ok(h.lines == 1000 && h.good == 1000 && h.foreign == 0, "mock: every request answered");

	ref.remote_id = "mock-x";
	reply = call(LLMB_CALL_POLL, &ref, START);
	is_int(reply.fault, LLMB_FAULT_GONE, "mock: an id of somebody else");
	ref.remote_id = "mock-1-2-3";
	is_int(call(LLMB_CALL_POLL, &ref, START).fault, LLMB_FAULT_GONE, "mock: an id with something behind it");
	ref.remote_id = "mock-1790000000000-1000";
	ref.latency_ms = 0;
	is_int(call(LLMB_CALL_POLL, &ref, START).batch.state, LLMB_REMOTE_ENDED, "mock: without latency over at once");
}

static void
test_faults(void)
{
	LlmbBatchRef ref = {.dialect = &plain_dialect};
	LlmbReply	reply;
	Harvest		h;
	Harvest		other;

	ref.token = "t0k";
	ref.item_count = 1000;
	ref.latency_ms = 10000;
	ref.remote_id = "mock-1790000000000-1000";

	ref.failure_rate = 0.2;
	h = harvest(&ref, START + 12000, 1000);
	ok(h.errors > 150 && h.errors < 250 && h.good + h.errors == 1000, "mock: a fifth fails: %d", h.errors);
	other = harvest(&ref, START + 99000, 1000);
	is_int(other.errors, h.errors, "mock: the same ones when asked again");
	ref.seed = 2;
	ok(harvest(&ref, START, 1000).errors != h.errors, "mock: another seed, others");
	reply = call(LLMB_CALL_POLL, &ref, START + 12000);
	ok(reply.batch.done == 800 && reply.batch.failed == 200, "mock: counts know of failures");
	ref.failure_rate = 1;
	is_int(harvest(&ref, START, 100).errors, 100, "mock: everything fails");
	ref.failure_rate = 0;

	reply = call(LLMB_CALL_CANCEL, &ref, START + 5000);
	is_int(reply.batch.state, LLMB_REMOTE_CANCELLED, "mock: cancelled at once");
	ref.cancelled_ms = START + 5000;
	reply = call(LLMB_CALL_POLL, &ref, START + 60000);
	ok(reply.batch.state == LLMB_REMOTE_CANCELLED && reply.batch.done > 400 && reply.batch.done <= 500 &&
	   reply.batch.output != NULL, "mock: and keeps what was done");
	h = harvest(&ref, START + 60000, 1000);
	ok(h.good > 400 && h.good < 550 && h.good + h.cancelled == 1000, "mock: half was answered: %d", h.good);
	ref.cancelled_ms = START + 20000;
	is_int(call(LLMB_CALL_POLL, &ref, START + 30000).batch.state, LLMB_REMOTE_ENDED,
		   "mock: too late to be cancelled");
	is_int(harvest(&ref, START + 30000, 100).good, 100, "mock: then all are answered");
}

/*
 * Answers
 */

static LlmbOutcome
ask_by(const LlmbDialect *dialect, const char *system, const char *prompt, const char *schema, const char *params)
{
	LlmbBatchRef ref = {.dialect = dialect};
	LlmbRequest request = {0};
	LlmbOutcome outcome;
	StringInfoData line;
	StringInfoData out;

	initStringInfo(&line);
	initStringInfo(&out);
	ref.remote_id = "mock-1-1";
	request.custom_id = "t-1";
	request.model = model_of("mock");
	request.dialect = dialect;
	request.system = system;
	request.prompt = prompt;
	request.schema = schema;
	request.params = params ? parse(params) : NULL;
	P->put_line(&line, &request);
	P->answer_line(&ref, 2, line.data, line.len, &out);
	if (!P->read_line(out.data, out.len - 1, &outcome) || outcome.answer == NULL)
		outcome.answer = pstrdup("(no answer)");
	return outcome;
}

static LlmbOutcome
ask(const char *system, const char *prompt, const char *schema, const char *params)
{
	return ask_by(&plain_dialect, system, prompt, schema, params);
}

static void
answers(const char *prompt, const char *answer)
{
	char	   *what = psprintf("mock answers: %.40s", prompt);
	char	   *p;

	for (p = what; *p; p++)
		if (*p == '\n' || *p == '#')
			*p = ' ';
	is_text(ask(NULL, prompt, NULL, NULL).answer, answer, what);
}

static void
test_sentences(void)
{
	LlmbOutcome outcome;
	StringInfoData text;
	char	   *answer;
	int			i;

	answers("Summarise: It rained. Nobody minded.", "It rained.");
	answers("Summarise this article in one sentence:\n\nTitle: Rain\nIt rained all day. So?", "It rained all day.");
	answers("It rained. Nobody minded.", "It rained.");
	answers("Summarise: Mr. Smith paid $1.5 million to J. Doe of the U.S. Navy. He left.",
			"Mr. Smith paid $1.5 million to J. Doe of the U.S. Navy.");
	answers("Summarise: \"Stop!\" he said. Then he left.", "\"Stop!\" he said.");
	answers("Summarise: What now? Nobody knew.", "What now?");
	answers("Summarise: Friday, January 4\n\nIt rained. Nobody minded.", "It rained.");
	answers("Summarise: A title\n\nand nothing else", "A title");
	answers("Summarise: no end in sight", "no end in sight");
	answers("Summarise: A  line\nand another. More.", "A line and another.");
	answers("Summarise: \xE6\x97\xA5\xE6\x9C\xAC\xE3\x80\x82\xE8\xAA\x9E", "\xE6\x97\xA5\xE6\x9C\xAC\xE3\x80\x82");
	answers("Summarise: Meet at 10:30 or later. Bye.", "Meet at 10:30 or later.");
	answers("Summarise:", "Summarise:");
	answers("", "There is no text.");
	answers(" \n\t ", "There is no text.");
	answers(":", ":");

	initStringInfo(&text);
	appendStringInfoString(&text, "Summarise: ");
	for (i = 0; i < 300; i++)
		appendStringInfoString(&text, "\xC3\xA9");
	answer = ask(NULL, text.data, NULL, NULL).answer;
	is_int(strlen(answer), 197 * 2 + 3, "mock answers: a long word is cut between characters");
	ok(pg_encoding_verifymbstr(PG_UTF8, answer, strlen(answer)) == (int) strlen(answer), "mock answers: UTF-8");

	outcome = ask("Be brief.", "Summarise: It rained. Nobody minded.", NULL, NULL);
	is_int(outcome.input_tokens, 3 + 9, "mock: input tokens");
	is_int(outcome.output_tokens, 3, "mock: output tokens");
	is_text(outcome.model, "mock", "mock: model");
	outcome = ask(NULL, "Summarise: It rained all day in the north. So?", NULL, "{\"max_tokens\": 2}");
	ok(outcome.code == LLMB_TRUNCATED, "mock: a limit of tokens truncates");
	is_text(outcome.answer, "It raine", "mock: and keeps the rest");

	outcome = ask(NULL, "Summarise: \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E", NULL, "{\"max_tokens\": 2}");
	is_text(outcome.answer, "\xE6\x97\xA5\xE6\x9C\xAC", "mock: cuts between characters");

	answers("Classify as one of sport, business or politics: The coach praised his players after the match.", "sport");
	is_text(ask("Reply with one of: positive, negative, neutral.", "I love it, great app.", NULL, NULL).answer,
			"positive", "mock answers: options of the system");
	answers("Summarise: He was one of the best, a great, kind man. He died.",
			"He was one of the best, a great, kind man.");
}

static LlmbJson *
object(const char *system, const char *prompt, const char *schema)
{
	LlmbJson   *root = parse(ask(system, prompt, schema, NULL).answer);

	if (root == NULL || root->type != LLMB_JSON_OBJECT)
		ok(false, "mock: an object for %s", schema);
	return root;
}

static void
test_schemas(void)
{
	static const char *const news =
		"Summarise. Sentiment: one of positive, negative, neutral. Text: Profits at the bank rose. Shares were up.";
	LlmbJson   *root;
	int64		score;
	int			i;
	bool		good = true;

	root = object(NULL, news, "{\"type\":\"object\",\"properties\":{\"summary\":{\"type\":\"string\"},"
				  "\"sentiment\":{\"type\":\"string\"},\"topics\":{\"type\":[\"string\",\"null\"]},"
				  "\"section\":{\"enum\":[\"sport\",\"business\",\"culture\"]},"
				  "\"score\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":5},"
				  "\"share\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1},"
				  "\"urgent\":{\"type\":\"boolean\"},\"day\":{\"type\":\"string\",\"format\":\"date\"},"
				  "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}");
	is_int(root->count, 9, "mock schema: every member");
	is_text(llmb_json_string(root, "summary"), "Profits at the bank rose.", "mock schema: the first string is a sentence");
	is_text(llmb_json_string(root, "sentiment"), "positive", "mock schema: an option named in the prompt");
	is_text(llmb_json_string(root, "topics"), "Profits, Shares", "mock schema: another string has salient words");
	is_text(llmb_json_string(root, "section"), "business", "mock schema: an enum by the text");
	is_text(llmb_json_string(root, "day"), "2026-01-15", "mock schema: a date");
	ok(llmb_json_get(root, "urgent")->type == LLMB_JSON_BOOL, "mock schema: a boolean");
	ok(llmb_json_get(root, "tags")->type == LLMB_JSON_ARRAY &&
	   llmb_json_at(llmb_json_get(root, "tags"), 0)->type == LLMB_JSON_STRING, "mock schema: an array");
	ok(llmb_json_get(root, "share")->type == LLMB_JSON_NUMBER, "mock schema: a number");

	for (i = 0; i < 200; i++)
	{
		root = object(NULL, psprintf("Rate: text %d", i),
					  "{\"properties\":{\"s\":{\"type\":\"integer\",\"minimum\":-2,\"exclusiveMaximum\":3}}}");
		score = llmb_json_int(root, "s", -99);
		good &= (score >= -2 && score <= 2);
	}
	ok(good, "mock schema: integers stay within their bounds");
	is_text(ask(NULL, "Say it.", "{\"type\":\"object\",\"properties\":[\"v\",{\"type\":\"string\"}]}", NULL).answer, "{}",
			"mock schema: members without names are none");

	root = object("section (one of world, sport)", "The team won the cup.",
				  "{\"properties\":{\"summary\":{\"type\":\"string\"},\"section\":{\"type\":\"string\"}}}");
	is_text(llmb_json_string(root, "section"), "sport", "mock schema: options in brackets, in the system");
	is_text(llmb_json_string(root, "summary"), "The team won the cup.", "mock schema: and not another member's");
	root = object(NULL, "Give a summary and a section (one of world, sport): The team won the cup.",
				  "{\"properties\":{\"summary\":{\"type\":\"string\"},\"section\":{\"type\":\"string\"}}}");
	is_text(llmb_json_string(root, "summary"), "The team won the cup.", "mock schema: nor those of a member named in between");
	is_text(llmb_json_string(root, "section"), "sport", "mock schema: which has them");
	root = object(NULL, "Is it one of spam, ham? Text: ham and eggs",
				  "{\"properties\":{\"label\":{\"type\":\"string\"}}}");
	ok(root != NULL && root->count == 1, "mock schema: one member");
	root = object(NULL, "x", "{\"properties\":{\"a\":{\"const\":7},\"b\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\","
				  "\"properties\":{\"c\":{\"type\":\"string\",\"maxLength\":3}}}]},\"\":{\"type\":\"string\"}}}");
	is_int(llmb_json_int(root, "a", -1), 7, "mock schema: a constant");
	ok(llmb_json_path(root, "b", "c", NULL) != NULL && strlen(llmb_json_path(root, "b", "c", NULL)->text) <= 3,
	   "mock schema: of alternatives the one that is not null");
	ok(llmb_json_get(root, "") != NULL, "mock schema: a member without a name");

	root = parse(ask(NULL, "x", "{\"type\":\"array\",\"minItems\":200,\"items\":{\"type\":\"array\",\"minItems\":200,"
					 "\"items\":{\"type\":\"array\",\"minItems\":200,\"items\":{}}}}", NULL).answer);
	ok(root != NULL, "mock schema: nested arrays stay small");
	ok(parse(ask(NULL, "", "{\"properties\":{\"a\":{\"enum\":[]},\"b\":{\"enum\":[1,null]},\"c\":{\"enum\":[\"\"]},\"d\":null}}",
				 NULL).answer) != NULL, "mock schema: odd ones still make JSON");
}

/* Prompts of random bytes, UTF-8 all of them, with and without a schema. */
static void
test_any_prompt(void)
{
	static const char *const pieces[] = {
		"\xC3\xA9", "\xE3\x80\x82", "\xF0\x9F\x98\x80", ". ", "! ", "\n", "\n\n", ": ", "one of ", ", ", " or ",
		"a", "Z", "Mr", "1.5", "\"", "(", ")", "summary", "|", "/", ";", "sentiment", "long words everywhere "
	};
	uint64		state = 7;
	int			broken = 0;
	int			i;

	for (i = 0; i < 5000; i++)
	{
		StringInfoData prompt;
		LlmbOutcome outcome;
		int			n = next_random(&state) % 60;

		initStringInfo(&prompt);
		while (n-- > 0)
			appendStringInfoString(&prompt, pieces[next_random(&state) % lengthof(pieces)]);
		outcome = ask(NULL, prompt.data, i % 2 ? NULL :
					  "{\"properties\":{\"summary\":{\"type\":\"string\",\"maxLength\":9},\"sentiment\":{\"type\":\"string\"}}}",
					  NULL);
		if (outcome.code != LLMB_OK || outcome.altered || outcome.answer[0] == '\0' ||
			pg_encoding_verifymbstr(PG_UTF8, outcome.answer, strlen(outcome.answer)) != (int) strlen(outcome.answer) ||
			(i % 2 == 0 && parse(outcome.answer) == NULL))
		{
			if (broken++ == 0)
				printf("# \"%s\"\n", outcome.answer);
		}
		pfree(prompt.data);
	}
	is_int(broken, 0, "mock: valid text for any prompt");
}

/* The same answers by the other endpoints, and vectors. */
static void
test_endpoints(void)
{
	static const char *const schema = "{\"type\":\"object\",\"properties\":{\"summary\":{\"type\":\"string\"}}}";
	LlmbDialect dialect = {.endpoint = LLMB_ENDPOINT_RESPONSES};
	LlmbBatchRef ref = {.dialect = &dialect, .item_count = 1};
	LlmbOutcome outcome = ask_by(&dialect, "Be brief.", "Summarise: It rained. Nobody minded.", NULL, NULL);
	LlmbHttpReply http = {0};
	LlmbJson   *vector;
	LlmbJson   *number;
	double		square = 0;
	const char *const native = ask(NULL, "Summarise: It rained. So?", schema, NULL).answer;

	is_text(outcome.answer, "It rained.", "mock responses: an answer");
	ok(outcome.input_tokens == 3 + 9 && outcome.output_tokens == 3, "mock responses: usage");
	is_text(ask_by(&dialect, NULL, "Summarise: It rained. So?", schema, NULL).answer, native, "mock responses: a schema");
	outcome = ask_by(&dialect, NULL, "Summarise: It rained all day in the north, in the south and at sea, with wind. So?", NULL,
					 "{\"max_tokens\": 16}");
	is_int(outcome.code, LLMB_TRUNCATED, "mock responses: truncated");
	dialect.structured = LLMB_STRUCTURED_PROMPT;
	is_text(ask_by(&dialect, NULL, "Summarise: It rained. So?", schema, NULL).answer, native, "mock responses: a schema in words");
	dialect.endpoint = LLMB_ENDPOINT_CHAT;
	is_text(ask_by(&dialect, NULL, "Summarise: It rained. So?", schema, NULL).answer, native, "mock: a schema in words");
	dialect.old_cap = true;
	is_int(ask_by(&dialect, NULL, "Summarise: It rained all day.", NULL, "{\"max_tokens\": 2}").code, LLMB_TRUNCATED,
		   "mock: the old name of the limit");

	dialect.endpoint = LLMB_ENDPOINT_EMBEDDINGS;
	P->answer(LLMB_CALL_CREATE, &ref, START, &http);
	has_text(http.body, "\"endpoint\":\"/v1/embeddings\"", "mock embeddings: the batch says so");
	outcome = ask_by(&dialect, NULL, "It rained.", NULL, NULL);
	ok(outcome.code == LLMB_OK && outcome.input_tokens == 3 && outcome.output_tokens == 0, "mock embeddings: usage");
	vector = parse(outcome.answer);
	is_int(vector->count, 8, "mock embeddings: eight numbers");
	for (number = vector->first; number != NULL; number = number->next)
		square += strtod(number->text, NULL) * strtod(number->text, NULL);
	ok(square > 0.999999 && square < 1.000001, "mock embeddings: of length 1");
	is_text(ask_by(&dialect, NULL, "It rained.", NULL, NULL).answer, outcome.answer, "mock embeddings: the same for the same text");
	ok(strcmp(ask_by(&dialect, NULL, "It snowed.", NULL, NULL).answer, outcome.answer) != 0, "mock embeddings: others for another");
	is_int(parse(ask_by(&dialect, NULL, "It rained.", NULL, "{\"dimensions\": 1536}").answer)->count, 1536,
		   "mock embeddings: as many as asked for");
	is_int(parse(ask_by(&dialect, NULL, "", NULL, "{\"dimensions\": 1}").answer)->count, 1, "mock embeddings: one");
}

void
test_mock(void)
{
	test_endpoints();
	test_life();
	test_faults();
	test_sentences();
	test_schemas();
	test_any_prompt();
}
