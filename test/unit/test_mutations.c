/*-------------------------------------------------------------------------
 *
 * test_mutations.c
 *		Whatever a provider sends: text that was cut, changed and repeated at
 *		random goes through every reader.  What is tested is that nothing is
 *		read or written out of bounds (build with sanitizers) and that what
 *		comes out keeps its promises.  And how fast the readers are.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"
#include "portability/instr_time.h"

#include "unit.h"

#define P (&llmb_provider_openai)

static const char *const seeds[] = {
	"{\"id\":\"batch_req_1\",\"custom_id\":\"t-1\",\"response\":{\"status_code\":200,\"request_id\":\"r\","
	"\"body\":{\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
	"\"A\\u00e9\\ud83d\\ude00\\n\\\"b\\\\\\u0000\xE2\x82\xAC\",\"refusal\":null},\"finish_reason\":\"stop\"}],"
	"\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":72,\"prompt_tokens_details\":{\"cached_tokens\":0}}}},"
	"\"error\":null}",
	"{\"id\":\"b\",\"custom_id\":\"t-4\",\"response\":{\"status_code\":200,\"body\":{\"object\":\"response\",\"status\":"
	"\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},\"output\":[{\"type\":\"reasoning\"},"
	"{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"A\\u0000\"},{\"type\":\"refusal\",\"refusal\":\"n\"}]}],"
	"\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}},\"error\":null}",
	"{\"custom_id\":\"t-5\",\"response\":{\"status_code\":200,\"body\":{\"object\":\"list\",\"data\":[{\"embedding\":"
	"[0.5,-1,2e-3]}],\"usage\":{\"prompt_tokens\":3}}},\"error\":null}",
	"{\"object\":\"response\",\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"},\"output\":[]}",
	"{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]},\"error\":{\"code\":429}}]}",
	"{\"id\":\"b\",\"custom_id\":\"t-2\",\"response\":null,\"error\":{\"code\":\"batch_expired\",\"message\":\"m\"}}",
	"{\"id\":\"b\",\"custom_id\":\"t-3\",\"response\":{\"status_code\":400,\"body\":{\"error\":{\"message\":\"m\","
	"\"type\":\"invalid_request_error\",\"param\":\"temperature\",\"code\":\"unsupported_value\"}}},\"error\":null}",
	"{\"id\":\"batch_1\",\"object\":\"batch\",\"status\":\"failed\",\"errors\":{\"data\":[{\"code\":"
	"\"token_limit_exceeded\",\"message\":\"m\"}]},\"input_file_id\":\"f\",\"output_file_id\":\"o\","
	"\"error_file_id\":\"\",\"created_at\":17,\"request_counts\":{\"total\":1,\"completed\":1,\"failed\":0},"
	"\"metadata\":{\"llm_batch\":\"t\"}}",
	"{\"object\":\"list\",\"data\":[{\"id\":\"b1\",\"status\":\"completed\"},{\"id\":\"b2\",\"status\":\"expired\"}],"
	"\"has_more\":true}",
	"{\"error\":{\"message\":\"m\",\"type\":\"insufficient_quota\",\"param\":null,\"code\":\"insufficient_quota\"}}",
};

static const char *const spices[] = {
	"\\u", "\\ud83d", "\\ude00", "\\u0000", "\\\\", "\\", "\"", "{", "}", "[", "]", ",", ":", "null",
	"\xED\xA0\x80", "\xC3", "\xFF", "-1", "1e999", "99999999999999999999", "{\"a\":", "[[[[[[[[[[[[[[[["
};

/* A few random changes; the result is in a buffer of exactly its size. */
static char *
mutate(uint64 *state, size_t *len)
{
	StringInfoData text;
	const char *seed = seeds[next_random(state) % lengthof(seeds)];
	int			changes = 1 + next_random(state) % 4;
	char	   *result;

	initStringInfo(&text);
	appendStringInfoString(&text, seed);
	while (changes-- > 0)
	{
		int			at = next_random(state) % (text.len + 1);
		const char *spice = spices[next_random(state) % lengthof(spices)];
		char	   *tail = pnstrdup(text.data + at, text.len - at);
		size_t		skipped = next_random(state) % 8;

		switch (next_random(state) % 5)
		{
			case 0:				/* a byte */
				if (at < text.len)
					text.data[at] = (char) next_random(state);
				break;
			case 1:				/* cut */
				text.len = at;
				break;
			case 2:				/* put in */
				text.len = at;
				appendStringInfoString(&text, spice);
				appendStringInfoString(&text, tail);
				break;
			case 3:				/* take out */
				text.len = at;
				appendStringInfoString(&text, strlen(tail) > skipped ? tail + skipped : "");
				break;
			case 4:				/* repeat */
				appendStringInfoString(&text, tail);
				break;
		}
		pfree(tail);
	}
	result = malloc(text.len + 1);
	memcpy(result, text.data, text.len);
	result[text.len] = '\0';
	*len = text.len;
	pfree(text.data);
	return result;
}

static void
free_outcome(LlmbOutcome *outcome)
{
	free(outcome->custom_id);
	free(outcome->answer);
	free(outcome->error);
	free(outcome->finish_reason);
	free(outcome->model);
	free(outcome->request_id);
}

static void
free_batch(LlmbRemoteBatch *batch)
{
	free(batch->id);
	free(batch->token);
	free(batch->input);
	free(batch->output);
	free(batch->errors);
}

static void
free_reply(LlmbReply *reply)
{
	int			i;

	free_batch(&reply->batch);
	for (i = 0; i < reply->listed_count; i++)
		free_batch(&reply->listed[i]);
	free(reply->listed);
	free(reply->code);
	free(reply->message);
	free(reply->file_id);
	free(reply->next_cursor);
}

static bool
is_utf8(const char *text)
{
	return text == NULL ||
		pg_encoding_verifymbstr(PG_UTF8, text, strlen(text)) == (int) strlen(text);
}

static bool
clean_keeps_promises(char *text, size_t len)
{
	bool		altered = false;
	bool		again = false;
	size_t		clean = llmb_json_clean(text, len, &altered);
	size_t		twice;

	if (clean > len || text[clean] != '\0' ||
		pg_encoding_verifymbstr(PG_UTF8, text, clean) != (int) clean)
		return false;
	twice = llmb_json_clean(text, clean, &again);
	return twice == clean && !again;
}

static bool
line_keeps_promises(char *text, size_t len)
{
	LlmbOutcome outcome;
	bool		good = true;

	if (P->read_line(text, len, &outcome))
		good = outcome.custom_id != NULL && is_utf8(outcome.answer) && is_utf8(outcome.error) &&
			(outcome.code != LLMB_OK || outcome.answer != NULL) &&
			(outcome.code == LLMB_OK || outcome.error != NULL || outcome.code != LLMB_REFUSED) &&
			outcome.input_tokens >= -1 && outcome.output_tokens >= -1;
	free_outcome(&outcome);
	return good;
}

static bool
reply_keeps_promises(char *text, size_t len, LlmbVerb verb, int status)
{
	LlmbHttpReply http = {status, text, len, -1, NULL};
	LlmbReply	reply;
	bool		good;

	P->read_reply(verb, &http, &reply);
	good = (reply.code == NULL || strlen(reply.code) <= 64) && is_utf8(reply.message) &&
		(status == 200 || reply.fault != LLMB_FAULT_NONE) &&
		(verb != LLMB_CALL_POLL || status != 200 ||
		 (reply.batch.id != NULL) == (reply.fault == LLMB_FAULT_NONE)) &&
		(verb != LLMB_CALL_LIST || reply.fault != LLMB_FAULT_NONE || reply.listed != NULL);
	free_reply(&reply);
	return good;
}

/* Also the headers, which are cut and changed like the bodies. */
static bool
answer_keeps_promises(char *text, size_t len, int status)
{
	LlmbHttpReply http = {status, text, len, -1, NULL};
	LlmbOutcome outcome;
	LlmbReply	reply = {0};
	LlmbLimits	limits;
	char	   *headers = psprintf("x-ratelimit-reset-tokens: %s\nx-request-id: %s\n", text, text);
	bool		good;

	http.headers = headers;
	P->read_limits(&http, INT64CONST(1790000000000), &limits);
	good = limits.tokens_reset_ms >= -1 && limits.tokens_reset_ms <= INT64CONST(86400000);
	P->read_answer(&http, &outcome, &reply);
	good &= is_utf8(outcome.answer) && is_utf8(outcome.error) &&
		(outcome.code != LLMB_OK || (outcome.answer != NULL && reply.fault == LLMB_FAULT_NONE)) &&
		(outcome.code == LLMB_OK || outcome.error != NULL) &&
		(status == 200 || reply.fault != LLMB_FAULT_NONE) &&
		outcome.input_tokens >= -1 && outcome.output_tokens >= -1;
	free_outcome(&outcome);
	free_reply(&reply);
	free(headers);
	return good;
}

void
test_mutations(int rounds)
{
	static const LlmbVerb verbs[] = {
		LLMB_CALL_POLL, LLMB_CALL_LIST, LLMB_CALL_FIND_FILE, LLMB_CALL_CREATE, LLMB_CALL_UPLOAD, LLMB_CALL_CHECK
	};
	static const int statuses[] = {200, 200, 400, 404, 429, 500};
	uint64		state = 20261121;
	int			broken[4] = {0};
	int			i;

	for (i = 0; i < rounds; i++)
	{
		size_t		len;
		char	   *text = mutate(&state, &len);

		switch (i % 4)
		{
			case 0:
				broken[0] += !clean_keeps_promises(text, len);
				break;
			case 1:
				broken[1] += !line_keeps_promises(text, len);
				break;
			case 2:
				broken[2] += !reply_keeps_promises(text, len, verbs[next_random(&state) % lengthof(verbs)],
												   statuses[next_random(&state) % lengthof(statuses)]);
				break;
			case 3:
				broken[3] += !answer_keeps_promises(text, len, statuses[next_random(&state) % lengthof(statuses)]);
				break;
		}
		free(text);
	}
	is_int(broken[0], 0, "mutations: cleaned text is UTF-8, not longer, and clean");
	is_int(broken[1], 0, "mutations: result lines");
	is_int(broken[2], 0, "mutations: replies");
	is_int(broken[3], 0, "mutations: answers in real time");
}

/*
 * Figures
 */

static double
seconds_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now);
}

/* A result line like those recorded in 2025, of 1.2 kB. */
static char *
typical_line(const char *word)
{
	StringInfoData answer;

	initStringInfo(&answer);
	while (answer.len < 480)
		appendStringInfoString(&answer, word);
	return psprintf("{\"id\": \"batch_req_6780bb36c8508190a5254f418acd5ed0\", \"custom_id\": \"c0ffee-1234\", "
					"\"response\": {\"status_code\": 200, \"request_id\": \"ed3ad7feb8ad212a440ab12a1175798e\", "
					"\"body\": {\"id\": \"chatcmpl-Ao2bZUcX4NWHN7CDnc08E2pPhqQ0Q\", \"object\": \"chat.completion\", "
					"\"created\": 1736489777, \"model\": \"gpt-3.5-turbo-0125\", \"choices\": [{\"index\": 0, \"message\": "
					"{\"role\": \"assistant\", \"content\": \"%s\", \"refusal\": null}, \"logprobs\": null, "
					"\"finish_reason\": \"stop\"}], \"usage\": {\"prompt_tokens\": 10, \"completion_tokens\": 72, "
					"\"total_tokens\": 82, \"prompt_tokens_details\": {\"cached_tokens\": 0, \"audio_tokens\": 0}, "
					"\"completion_tokens_details\": {\"reasoning_tokens\": 0, \"audio_tokens\": 0, "
					"\"accepted_prediction_tokens\": 0, \"rejected_prediction_tokens\": 0}}, "
					"\"service_tier\": \"default\", \"system_fingerprint\": null}}, \"error\": null}", answer.data);
}

static void
measure_reading(const char *name, const char *line)
{
	const int	lines = 200000;
	size_t		len = strlen(line);
	char	   *copy = palloc(len + 1);
	instr_time	start;
	double		took;
	int			i;

	INSTR_TIME_SET_CURRENT(start);
	for (i = 0; i < lines; i++)
	{
		LlmbOutcome outcome;

		memcpy(copy, line, len + 1);
		if (!P->read_line(copy, len, &outcome) || outcome.answer == NULL)
			printf("not read\n");
		free_outcome(&outcome);
	}
	took = seconds_since(start);
	printf("read_line, %s, %zu bytes: %.0f lines/s, %.0f MB/s\n",
		   name, len, lines / took, lines / took * len / 1e6);
	pfree(copy);
}

static void
measure_writing(void)
{
	const int	lines = 200000;
	LlmbRequest request = {0};
	StringInfoData out;
	StringInfoData prompt;
	instr_time	start;
	double		took;
	double		bytes = 0;
	int			i;

	initStringInfo(&out);
	initStringInfo(&prompt);
	while (prompt.len < 1000)
		appendStringInfoString(&prompt, "A sentence, \"quoted\", of some length.\n");
	request.custom_id = "c0ffee-1234";
	request.model = model_of("gpt-6-luna");
	request.dialect = &plain_dialect;
	request.system = "Summarise in one sentence.";
	request.prompt = prompt.data;
	INSTR_TIME_SET_CURRENT(start);
	for (i = 0; i < lines; i++)
	{
		resetStringInfo(&out);
		P->put_line(&out, &request);
		bytes += out.len;
	}
	took = seconds_since(start);
	printf("put_line, %d bytes: %.0f lines/s, %.0f MB/s\n", out.len, lines / took, bytes / took / 1e6);
}

static void
measure_mock(void)
{
	const int	lines = 50000;
	LlmbBatchRef ref = {.dialect = &plain_dialect};
	LlmbRequest request = {0};
	StringInfoData line;
	StringInfoData out;
	instr_time	start;
	double		took;
	int			i;

	initStringInfo(&line);
	initStringInfo(&out);
	request.custom_id = "c0ffee-1234";
	request.model = model_of("mock");
	request.dialect = &plain_dialect;
	request.prompt = "Summarise: Quarterly profits jumped. The firm said that sales of films and music rose, too, "
		"and that the market would grow. Analysts had expected less of it in a year like this.";
	request.schema = "{\"type\":\"object\",\"properties\":{\"summary\":{\"type\":\"string\"},"
		"\"section\":{\"enum\":[\"business\",\"sport\",\"politics\",\"culture\"]}}}";
	ref.remote_id = "mock-1-50000";
	INSTR_TIME_SET_CURRENT(start);
	for (i = 0; i < lines; i++)
	{
		resetStringInfo(&line);
		resetStringInfo(&out);
		llmb_provider_mock.put_line(&line, &request);
		llmb_provider_mock.answer_line(&ref, 2, line.data, line.len, &out);
	}
	took = seconds_since(start);
	printf("mock answer_line with a schema: %.0f lines/s\n", lines / took);
}

void
measure(void)
{
	measure_reading("plain answer", typical_line("Spaghetti is a long and thin pasta. "));
	measure_reading("escaped answer", typical_line("caf\\u00e9 \\\"x\\\"\\n"));
	measure_reading("UTF-8 answer", typical_line("\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E"));
	measure_writing();
	measure_mock();
	measure_pii();
}
