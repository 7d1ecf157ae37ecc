/*-------------------------------------------------------------------------
 *
 * log.c
 *		One line in the server's log for each change of state, for programs.
 *
 * Lines wait in memory of the transaction, the newest first, each with the
 * nesting level that it belongs to by now: a subtransaction that commits
 * hands its lines to its parent, one that aborts takes them along.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "log.h"

int			llmb_log_events = LLMB_LOG_OFF;

typedef struct Waiting
{
	int			level;			/* of the (sub)transaction it stands and falls with */
	struct Waiting *older;
	char		text[FLEXIBLE_ARRAY_MEMBER];
} Waiting;

static Waiting *newest = NULL;	/* in TopTransactionContext */

/* ---- writing ---- */

static void
write_line(const char *text)
{
	/* not for the client, whatever its client_min_messages is */
	ereport(LOG_SERVER_ONLY,
			(errmsg_internal("llm_batch event: %s", text),
			 errhidestmt(true), errhidecontext(true)));
}

static void
write_waiting(void)
{
	Waiting    *oldest = NULL;

	while (newest)
	{
		Waiting    *line = newest;

		newest = line->older;
		line->older = oldest;
		oldest = line;
	}
	for (; oldest; oldest = oldest->older)
		write_line(oldest->text);
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT)
		write_waiting();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		newest = NULL;
}

static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	(void) mine;
	(void) parent;
	(void) arg;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (newest && newest->level >= level)
			newest = newest->older;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (Waiting *line = newest; line && line->level >= level; line = line->older)
			line->level = level - 1;
	}
}

static void
keep_until_commit(const char *text, size_t len)
{
	static bool registered = false;
	Waiting    *line;

	Assert(IsTransactionState());
	line = MemoryContextAlloc(TopTransactionContext, offsetof(Waiting, text) + len + 1);
	if (!registered)
	{
		RegisterXactCallback(at_end_of_transaction, NULL);
		RegisterSubXactCallback(at_end_of_subtransaction, NULL);
	}
	registered = true;
	memcpy(line->text, text, len + 1);
	line->level = GetCurrentTransactionNestLevel();
	line->older = newest;
	newest = line;
}

/* ---- lines ---- */

static void
put_name(LlmbLogLine *line, const char *name)
{
	appendStringInfo(line, "%s\"%s\": ", line->len > 1 ? ", " : "", name);
}

/* In UTC, so that lines of several servers can be put in order. */
static void
put_time(LlmbLogLine *line, const char *name, TimestampTz when)
{
	static const int utc = 0;
	char		text[MAXDATELEN + 1];

	put_name(line, name);
	appendStringInfo(line, "\"%s\"", JsonEncodeDateTime(text, TimestampTzGetDatum(when), TIMESTAMPTZOID, &utc));
}

/* The name of our database; it is looked up once, so a renamed one keeps it. */
static const char *
database_name(void)
{
	static char name[NAMEDATALEN];

	if (name[0] == '\0' && OidIsValid(MyDatabaseId) && IsTransactionState())
	{
		char	   *found = get_database_name(MyDatabaseId);

		strlcpy(name, found ? found : "", NAMEDATALEN);
	}
	return name[0] ? name : NULL;
}

void
llmb_log_begin(LlmbLogLine *line, const char *what)
{
	initStringInfo(line);
	appendStringInfoChar(line, '{');
	put_time(line, "at", GetCurrentTimestamp());
	llmb_log_text(line, "database", database_name());
	llmb_log_text(line, "what", what);
}

void
llmb_log_text(LlmbLogLine *line, const char *name, const char *text)
{
	if (text == NULL)
		return;
	put_name(line, name);
	escape_json(line, text);
}

void
llmb_log_int(LlmbLogLine *line, const char *name, int64 number)
{
	put_name(line, name);
	appendStringInfo(line, INT64_FORMAT, number);
}

void
llmb_log_time(LlmbLogLine *line, const char *name, int64 epoch_ms)
{
	if (epoch_ms != 0)
		put_time(line, name, llmb_timestamp(epoch_ms));
}

void
llmb_log_json(LlmbLogLine *line, const char *name, const char *json)
{
	put_name(line, name);
	appendStringInfoString(line, json);
}

void
llmb_log_end(LlmbLogLine *line)
{
	appendStringInfoChar(line, '}');
	keep_until_commit(line->data, line->len);
	pfree(line->data);
}

void
llmb_log_end_now(LlmbLogLine *line)
{
	appendStringInfoChar(line, '}');
	write_line(line->data);
	pfree(line->data);
}

void
llmb_log_process(const char *what, const char *state, const char *reason)
{
	LlmbLogLine line;

	if (llmb_log_events == LLMB_LOG_OFF)
		return;
	llmb_log_begin(&line, what);
	llmb_log_text(&line, "state", state);
	llmb_log_text(&line, "reason", reason);
	llmb_log_int(&line, "pid", MyProcPid);
	llmb_log_end_now(&line);
}
