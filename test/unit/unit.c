/*-------------------------------------------------------------------------
 *
 * unit.c
 *		Runs the unit tests, and helps them.
 *
 *		unit				all tests
 *		unit mutate N		N rounds of mutated input instead of a few
 *		unit measure		how fast result lines are read and requests written
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "unit.h"

static int	tests_run = 0;
static int	tests_failed = 0;

void
ok(bool passed, const char *fmt,...)
{
	va_list		args;

	tests_run++;
	if (!passed)
		tests_failed++;
	printf("%sok %d - ", passed ? "" : "not ", tests_run);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
}

void
is_int(int64 got, int64 expected, const char *what)
{
	ok(got == expected, "%s", what);
	if (got != expected)
		printf("# got %lld, expected %lld\n", (long long) got, (long long) expected);
}

static const char *
or_null(const char *text)
{
	return text ? text : "(null)";
}

void
is_text(const char *got, const char *expected, const char *what)
{
	bool		same = (got == NULL || expected == NULL) ? got == expected :
		strcmp(got, expected) == 0;

	ok(same, "%s", what);
	if (!same)
		printf("# got \"%s\", expected \"%s\"\n", or_null(got), or_null(expected));
}

void
has_text(const char *got, const char *part, const char *what)
{
	bool		has = (got != NULL && strstr(got, part) != NULL);

	ok(has, "%s", what);
	if (!has)
		printf("# got \"%s\", without \"%s\"\n", or_null(got), part);
}

void
skip(const char *what, const char *why)
{
	printf("ok %d # SKIP skipped: %s: %s\n", ++tests_run, what, why);
}

LlmbJson *
parse(const char *text)
{
	const char *reason;
	bool		altered = false;
	char	   *copy = pstrdup(text);
	size_t		len = llmb_json_clean(copy, strlen(copy), &altered);
	LlmbJson   *root = llmb_json_parse(copy, len, &reason);

	pfree(copy);
	return root;
}

LlmbHttpReply
http_reply(int status, const char *body)
{
	LlmbHttpReply http = {0};

	http.status = status;
	http.body = pstrdup(body);
	http.len = strlen(body);
	http.retry_after_ms = -1;
	return http;
}

char *
recorded(const char *name, size_t *len)
{
	const char *shared = getenv("LLM_BATCH_SHARED");
	StringInfoData text;
	char		chunk[8192];
	char	   *path;
	size_t		n;
	FILE	   *file;

	path = psprintf("%s/fixtures/openai/%s", shared ? shared : "../shared", name);
	file = fopen(path, "rb");
	pfree(path);
	if (file == NULL)
	{
		skip(name, "no recorded traffic; LLM_BATCH_SHARED says where it is");
		return NULL;
	}
	initStringInfo(&text);
	while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
		appendBinaryStringInfo(&text, chunk, n);
	fclose(file);
	*len = text.len;
	return text.data;
}

const LlmbDialect plain_dialect = {LLMB_ENDPOINT_CHAT, LLMB_STRUCTURED_NATIVE, false, false, NULL};

const LlmbModel *
model_of(const char *name)
{
	static const LlmbModel known[] = {
		{"gpt-4.1-mini", NULL, 1047576, 32768, LLMB_SAMPLING_ANY, "", NULL, 1, false},
		{"ft:gpt-4o-mini:us::1", NULL, 128000, 16384, LLMB_SAMPLING_ANY, "", NULL, 1, false},
		{"o3-mini", NULL, 200000, 100000, LLMB_SAMPLING_DEFAULT, "low medium high", "medium", 1, false},
		{"gpt-5-mini", NULL, 400000, 128000, LLMB_SAMPLING_DEFAULT, "minimal low medium high", "medium", 1, false},
		{"gpt-5.1", NULL, 400000, 128000, LLMB_SAMPLING_EFFORT_NONE, "none low medium high", "none", 1, false},
		{"gpt-6-luna", NULL, 1050000, 128000, LLMB_SAMPLING_EFFORT_NONE, "none low medium high xhigh max", "medium", 1, false},
		{"gpt-6.2-sol", NULL, 1050000, 128000, LLMB_SAMPLING_DEFAULT, "low medium high xhigh", NULL, 1, false},
		{"llama-3.1-8b", NULL, 131072, 8192, LLMB_SAMPLING_UNKNOWN, NULL, NULL, 0, false},
		{"text-embedding-3-small", "embedding", 8192, 0, LLMB_SAMPLING_UNKNOWN, NULL, NULL, -1, false},
	};
	LlmbModel  *model;
	int			i;

	for (i = 0; i < (int) lengthof(known); i++)
	{
		if (strcmp(known[i].name, name) == 0)
			return &known[i];
	}
	model = palloc0(sizeof(LlmbModel));
	model->name = pstrdup(name);
	model->json_schema = -1;
	return model;
}

/* xorshift64*, S. Vigna, "An experimental exploration of Marsaglia's
 * xorshift generators, scrambled" (2016) */
uint32
next_random(uint64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (uint32) ((*state * UINT64CONST(2685821657736338717)) >> 32);
}

int
main(int argc, char **argv)
{
	/* after a crash one wants to see how far it came */
	setvbuf(stdout, NULL, PG_IOLBF, 0);

	if (argc > 1 && strcmp(argv[1], "measure") == 0)
	{
		measure();
		return 0;
	}
	if (argc > 2 && strcmp(argv[1], "mutate") == 0)
		test_mutations(atoi(argv[2]));
	else
	{
		test_json();
		test_answer();
		test_batch();
		test_provider();
	test_pace();
	test_cadence();
	test_breaker();
	test_token();
		test_pii();
		test_openai();
		test_openai_endpoints();
		test_recorded();
		test_gemini();
		test_anthropic();
		test_mock();
		test_errors();
		test_mutations(100000);
	}
	printf("1..%d\n", tests_run);
	if (tests_failed > 0)
		printf("# %d of %d failed\n", tests_failed, tests_run);
	return tests_failed > 0 ? 1 : 0;
}
