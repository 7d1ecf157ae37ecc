/*-------------------------------------------------------------------------
 *
 * test_errors.c
 *		docs/ERRORS.md, read as a test: each row of a provider's table is made
 *		into a reply, handed to that provider, and compared with what the row
 *		says of it.
 *
 * A table is told by its header, the provider by the heading above it:
 *
 *		## OpenAI: `openai`
 *		| where | status | says | whose | fault | error_code | again | what happens |
 *
 * Words in backticks make the body: the bare one is the error's code as the
 * provider names it, `name=value` is another member, `{...}` is a whole body.
 * "or" between them makes alternatives, each of which is tried.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "provider.h"
#include "unit.h"

#define FILE_NAME	"docs/ERRORS.md"
#define HEADER		"| where | status | says | whose | fault | error_code | again | what happens |"
#define ACTIONS		"| where | fault | what happens | attempts |"
#define MAX_CELLS	8
#define MAX_ACTIONS 64
/* What the tables must have at the least, lest half of them is not read. */
#define LEAST_REPLIES	500

typedef struct Cells
{
	int			count;
	char	   *cell[MAX_CELLS];
} Cells;

/* The members of an error, "" when absent. */
typedef struct Says
{
	const char *bare;
	const char *type;
	const char *param;
	const char *message;
	const char *detail;
	const char *reason;
	const char *quota;
	const char *line;
	const char *result;
	const char *raw;			/* the whole body, or NULL */
} Says;

static Cells actions[MAX_ACTIONS];
static int	action_count;
static int	replies_tried;
static StringInfoData complaints;	/* about the present row */

/* ---- reading the file ---- */

static char *
trimmed(const char *text, size_t len)
{
	while (len > 0 && text[0] == ' ')
	{
		text++;
		len--;
	}
	while (len > 0 && text[len - 1] == ' ')
		len--;
	return pnstrdup(text, len);
}

/* "| a | b |": cells; none when it is no row.  "\|" does not end a cell. */
static Cells
read_cells(const char *line)
{
	Cells		cells = {0};
	const char *at = line;

	if (*at != '|')
		return cells;
	for (at++; *at != '\0' && cells.count < MAX_CELLS;)
	{
		const char *end = at;

		while (*end != '\0' && (*end != '|' || end[-1] == '\\'))
			end++;
		if (*end == '\0')
			break;
		cells.cell[cells.count++] = trimmed(at, end - at);
		at = end + 1;
	}
	return cells;
}

static const LlmbProvider *
provider_of_heading(const char *line)
{
	const char *begin = strchr(line, '`');
	const char *end = begin ? strchr(begin + 1, '`') : NULL;

	return end ? llmb_provider(pnstrdup(begin + 1, end - begin - 1)) : NULL;
}

/* ---- from a row to bodies ---- */

static void
put_string(StringInfo out, const char *name, const char *value)
{
	if (value[0] == '\0')
		appendStringInfo(out, "\"%s\":null", name);
	else
		appendStringInfo(out, "\"%s\":\"%s\"", name, value);
}

static const char *
openai_error(const Says *says)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	put_string(&out, "message", says->message);
	appendStringInfoChar(&out, ',');
	put_string(&out, "type", says->type);
	appendStringInfoChar(&out, ',');
	put_string(&out, "param", says->param);
	appendStringInfoChar(&out, ',');
	put_string(&out, "code", says->bare);
	appendStringInfo(&out, "%s%s}", says->line[0] ? ",\"line\":" : "", says->line);
	return out.data;
}

static const char *
anthropic_error(const Says *says)
{
	return psprintf("{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"%s\",\"details\":{\"error_code\":\"%s\"}},\"request_id\":\"req_1\"}",
					says->bare, says->message, says->detail);
}

/* number: the HTTP status of a call, the google.rpc.Code of anything else */
static const char *
gemini_error(const Says *says, const char *number)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"code\":%s,\"message\":\"%s\"", number, says->message);
	if (says->bare[0] && strspn(says->bare, "0123456789") == 0)
		appendStringInfo(&out, ",\"status\":\"%s\"", says->bare);
	appendStringInfo(&out, ",\"details\":[{\"reason\":\"%s\"},{\"violations\":[{\"quotaId\":\"%s\"}]}]}",
					 says->reason, says->quota);
	return out.data;
}

/* The body of a call's reply of that status. */
static const char *
call_body(const LlmbProvider *provider, const Says *says, const char *status)
{
	if (says->raw)
		return says->raw;
	if (provider == &llmb_provider_anthropic)
		return anthropic_error(says);
	if (provider == &llmb_provider_gemini)
		return psprintf("{\"error\":%s}", gemini_error(says, status));
	return psprintf("{\"error\":%s}", openai_error(says));
}

/* A result line; status "-": the line has an error of its own. */
static const char *
line_body(const LlmbProvider *provider, const Says *says, const char *status)
{
	if (provider == &llmb_provider_anthropic)
	{
		if (says->raw)
			return psprintf("{\"custom_id\":\"t-1\",\"result\":{\"type\":\"succeeded\",\"message\":%s}}", says->raw);
		if (says->result[0])
			return psprintf("{\"custom_id\":\"t-1\",\"result\":{\"type\":\"%s\"}}", says->result);
		return psprintf("{\"custom_id\":\"t-1\",\"result\":{\"type\":\"errored\",\"error\":%s}}", anthropic_error(says));
	}
	if (provider == &llmb_provider_gemini)
		return says->raw ? psprintf("{\"key\":\"t-1\",\"response\":%s}", says->raw) :
			psprintf("{\"key\":\"t-1\",\"error\":%s}", gemini_error(says, says->bare));
	if (strcmp(status, "-") == 0)
		return psprintf("{\"custom_id\":\"t-1\",\"response\":null,\"error\":%s}", openai_error(says));
	return psprintf("{\"custom_id\":\"t-1\",\"response\":{\"status_code\":%s,\"request_id\":\"r\",\"body\":%s},\"error\":null}",
					status, says->raw && says->raw[0] == '\0' ? "null" : call_body(provider, says, status));
}

/* A poll's reply: the provider refused the batch as a whole. */
static const char *
batch_body(const LlmbProvider *provider, const Says *says)
{
	if (provider == &llmb_provider_gemini)
		return psprintf("{\"name\":\"batches/b1\",\"done\":true,\"metadata\":{\"state\":\"BATCH_STATE_FAILED\"},\"error\":%s}",
						gemini_error(says, says->bare));
	return psprintf("{\"id\":\"batch_1\",\"object\":\"batch\",\"status\":\"failed\",\"errors\":{\"object\":\"list\",\"data\":[%s]}}",
					openai_error(says));
}

/* ---- comparing ---- */

static const char *
fault_name(LlmbFault fault)
{
	static const char *const names[] = {
		[LLMB_FAULT_NONE] = "none",
		[LLMB_FAULT_RETRY] = "retry",
		[LLMB_FAULT_BUSY] = "busy",
		[LLMB_FAULT_KEY] = "key",
		[LLMB_FAULT_QUOTA] = "quota",
		[LLMB_FAULT_QUEUE_FULL] = "queue_full",
		[LLMB_FAULT_TOO_LARGE] = "too_large",
		[LLMB_FAULT_GONE] = "gone",
		[LLMB_FAULT_REQUEST] = "request",
	};

	return names[fault];
}

/* Whose fault a judgement may be called, in words. */
static bool
may_be_whose(const char *whose, const char *fault, bool again)
{
	static const struct
	{
		const char *fault;
		const char *whose;
	}			table[] =
	{
		{"none", "item nobody server"},
		{"retry", "server nobody"},
		{"busy", "server"},
		{"key", "key"},
		{"quota", "quota"},
		{"queue_full", "quota"},
		{"too_large", "batch item"},
		{"gone", "nobody"},
		{"request", "batch item"},
	};

	/* a line has no fault of its own: the item's, or what passes */
	if (strcmp(fault, "-") == 0)
		return again ? llmb_in_list(whose, "server quota nobody") : llmb_in_list(whose, "item key nobody");
	for (int i = 0; i < (int) lengthof(table); i++)
	{
		if (strcmp(table[i].fault, fault) == 0)
			return llmb_in_list(whose, table[i].whose);
	}
	return false;
}

/* Does the table of actions say so for that place and fault (or code)? */
static bool
is_action(const char *where, const char *fault, const char *code, const char *happens)
{
	for (int i = 0; i < action_count; i++)
	{
		char	  **cell = actions[i].cell;
		const char *key = strcmp(fault, "-") == 0 || strcmp(fault, "none") == 0 ? code : fault;

		if (strcmp(cell[0], where) == 0 && llmb_in_list(key, cell[1]) && strcmp(cell[2], happens) == 0)
			return true;
	}
	return false;
}

/* Notes what differs, and in which of the row's replies. */
static void
complain(const char *about, const char *got, const char *expected, const char *body)
{
	if (strcmp(got, expected) == 0)
		return;
	appendStringInfo(&complaints, "# %s: got \"%s\", the row says \"%s\": %s\n", about, got, expected, body);
}

/* One place, one status, one way of saying it. */
static void
try_reply(const LlmbProvider *provider, const Cells *row, const char *where, const char *status, const Says *says)
{
	static const struct
	{
		const char *name;
		LlmbVerb	verb;
	}			verbs[] =
	{
		{"upload", LLMB_CALL_UPLOAD},
		{"create", LLMB_CALL_CREATE},
		{"poll", LLMB_CALL_POLL},
		{"list", LLMB_CALL_LIST},
		{"fetch", LLMB_CALL_FETCH},
		{"cancel", LLMB_CALL_CANCEL},
	};
	const char *fault = "-";
	const char *code = "-";
	const char *body = "";
	bool		again = false;
	LlmbOutcome outcome = {0};
	LlmbReply	reply = {0};

	replies_tried++;
	if (strcmp(where, "line") == 0)
	{
		char	   *line = pstrdup(body = line_body(provider, says, status));

		complain("read as a line", provider->read_line(line, strlen(line), &outcome) ? "yes" : "no", "yes", body);
	}
	else if (strcmp(where, "answer") == 0)
	{
		LlmbHttpReply http = http_reply(atoi(status), body = call_body(provider, says, status));

		provider->read_answer(&http, &outcome, &reply);
		fault = fault_name(reply.fault);
	}
	else if (strcmp(where, "batch") == 0)
	{
		LlmbHttpReply http = http_reply(200, body = batch_body(provider, says));

		provider->read_reply(LLMB_CALL_POLL, &http, &reply);
		fault = fault_name(reply.batch.fault);
		complain("read as a batch", reply.fault == LLMB_FAULT_NONE && reply.batch.id ? "yes" : "no", "yes", body);
		complain("the batch has failed", reply.batch.state == LLMB_REMOTE_FAILED ? "yes" : "no",
				 reply.batch.fault == LLMB_FAULT_NONE ? "no" : "yes", body);
	}
	else
	{
		LlmbHttpReply http = http_reply(atoi(status), body = call_body(provider, says, status));
		int			i = 0;

		while (i < (int) lengthof(verbs) && strcmp(verbs[i].name, where) != 0)
			i++;
		if (i == (int) lengthof(verbs))
			complain("where", where, "a place that there is", body);
		else
			provider->read_reply(verbs[i].verb, &http, &reply);
		fault = fault_name(reply.fault);
	}
	if (outcome.code != LLMB_OK)
	{
		code = llmb_code_name(outcome.code);
		again = outcome.retryable;
	}
	complain("fault", fault, row->cell[4], body);
	complain("error_code", code, row->cell[5], body);
	complain("again", strcmp(code, "-") == 0 ? "-" : again ? "yes" : "no", row->cell[6], body);
	if (!may_be_whose(row->cell[3], fault, again))
		complain("whose", fault, row->cell[3], body);
	if (!is_action(where, fault, code, row->cell[7]))
		complain("what happens", "what the table below does not have there", row->cell[7], body);
}

static void
read_word(Says *says, const char *word)
{
	struct
	{
		const char *name;
		const char **member;
	}			members[] =
	{
		{"type=", &says->type},
		{"param=", &says->param},
		{"message=", &says->message},
		{"detail=", &says->detail},
		{"reason=", &says->reason},
		{"quotaId=", &says->quota},
		{"line=", &says->line},
		{"result=", &says->result},
	};

	if (word[0] == '{' || word[0] == '<')
	{
		says->raw = word;
		return;
	}
	for (int i = 0; i < (int) lengthof(members); i++)
	{
		size_t		len = strlen(members[i].name);

		if (strncmp(word, members[i].name, len) == 0)
		{
			*members[i].member = word + len;
			return;
		}
	}
	says->bare = word;
}

/* One alternative of the cell "says": words in backticks, else no body. */
static Says
read_says(const char *text)
{
	Says		says = {"", "", "", "", "", "", "", "", "", NULL};
	bool		any = false;
	const char *begin;

	while ((begin = strchr(text, '`')) != NULL)
	{
		const char *end = strchr(begin + 1, '`');

		if (end == NULL)
			break;
		read_word(&says, pnstrdup(begin + 1, end - begin - 1));
		any = true;
		text = end + 1;
	}
	if (!any)
		says.raw = "";
	return says;
}

/* Each alternative of the cell "says". */
static void
try_says(const LlmbProvider *provider, const Cells *row, const char *where, const char *status)
{
	char	   *rest = pstrdup(row->cell[2]);

	while (rest != NULL)
	{
		char	   *next = strstr(rest, "` or `");
		Says		says;

		if (next != NULL)
		{
			next[1] = '\0';
			next += strlen("` or ");
		}
		says = read_says(rest);
		try_reply(provider, row, where, status, &says);
		rest = next;
	}
}

static void
try_statuses(const LlmbProvider *provider, const Cells *row, const char *where)
{
	char	   *save = NULL;
	char	   *list = pstrdup(row->cell[1]);

	for (char *status = strtok_r(list, ", ", &save); status; status = strtok_r(NULL, ", ", &save))
		try_says(provider, row, where, status);
}

static void
try_row(const LlmbProvider *provider, const Cells *row)
{
	char	   *save = NULL;
	char	   *list = pstrdup(row->cell[0]);

	initStringInfo(&complaints);
	for (char *where = strtok_r(list, ", ", &save); where; where = strtok_r(NULL, ", ", &save))
		try_statuses(provider, row, where);
	ok(complaints.len == 0, "errors: %s, %s, %s: %.100s", provider->api, row->cell[0], row->cell[1], row->cell[2]);
	printf("%s", complaints.data);
}

/* ---- the whole ---- */

typedef enum Table
{
	NO_TABLE,
	PROVIDER_TABLE,
	ACTION_TABLE
} Table;

/* Pass 0 collects the actions, which stand behind the tables that need them. */
static void
read_file(FILE *file, int pass)
{
	const LlmbProvider *provider = NULL;
	Table		table = NO_TABLE;
	char		line[4096];

	rewind(file);
	while (fgets(line, sizeof(line), file))
	{
		Cells		cells;

		line[strcspn(line, "\r\n")] = '\0';
		if (strncmp(line, "## ", 3) == 0)
			provider = provider_of_heading(line);
		cells = read_cells(line);
		if (cells.count == 0)
			table = NO_TABLE;
		else if (strcmp(line, HEADER) == 0)
			table = PROVIDER_TABLE;
		else if (strcmp(line, ACTIONS) == 0)
			table = ACTION_TABLE;
		else if (strncmp(cells.cell[0], "---", 3) == 0)
			continue;
		else if (table == ACTION_TABLE && pass == 0 && action_count < MAX_ACTIONS)
			actions[action_count++] = cells;
		else if (table == PROVIDER_TABLE && pass == 1)
		{
			if (provider == NULL || cells.count != 8)
				ok(false, "errors: a row of a provider's table: %s", line);
			else
				try_row(provider, &cells);
		}
	}
}

void
test_errors(void)
{
	FILE	   *file = fopen(FILE_NAME, "r");

	ok(file != NULL, "errors: %s is there", FILE_NAME);
	if (file == NULL)
		return;
	action_count = replies_tried = 0;
	read_file(file, 0);
	read_file(file, 1);
	fclose(file);
	ok(action_count > 10 && action_count < MAX_ACTIONS, "errors: the table of actions was read");
	ok(replies_tried >= LEAST_REPLIES, "errors: %d replies were tried", replies_tried);
}
