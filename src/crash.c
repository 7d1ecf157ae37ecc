/*-------------------------------------------------------------------------
 *
 * crash.c
 *		Crash points: places where a test can make the worker die, or fail,
 *		at a moment of its choice.
 *
 * Files are read and written with stdio: a point may stand in a callback of
 * libcurl, where nothing of the server's may throw.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "crash.h"

/* A file of orders is written by a test; longer ones are cut. */
#define ORDERS_SIZE 4096
#define POINT_SIZE	200

char	   *llmb_crash_file = NULL;

/* ---- the file ---- */

typedef struct Orders
{
	char		text[ORDERS_SIZE];
	bool		trace;
	char	   *first;			/* line; "" none */
	char	   *rest;			/* lines behind it */
} Orders;

/* Cuts the line at the begin of text off, and returns what is behind it. */
static char *
cut_line(char *text)
{
	char	   *end = strchr(text, '\n');

	if (end == NULL)
		return text + strlen(text);
	*end = '\0';
	return end + 1;
}

static bool
read_orders(Orders *orders)
{
	FILE	   *file = fopen(llmb_crash_file, "r");
	size_t		len;

	if (file == NULL)
		return false;
	len = fread(orders->text, 1, ORDERS_SIZE - 1, file);
	fclose(file);
	orders->text[len] = '\0';
	orders->first = orders->text;
	orders->rest = cut_line(orders->first);
	orders->trace = strcmp(orders->first, "trace") == 0;
	if (orders->trace)
	{
		orders->first = orders->rest;
		orders->rest = cut_line(orders->first);
	}
	return true;
}

/*
 * The first order is as good as done.  By way of a new file: whoever looks
 * sees the old orders or the new ones.
 */
static void
drop_first(const Orders *orders)
{
	char		path[MAXPGPATH];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s.new", llmb_crash_file);
	file = fopen(path, "w");
	if (file == NULL)
		return;
	fprintf(file, "%s%s", orders->trace ? "trace\n" : "", orders->rest);
	fclose(file);
	(void) rename(path, llmb_crash_file);
}

static void
trace(const char *point)
{
	char		path[MAXPGPATH];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s.log", llmb_crash_file);
	file = fopen(path, "a");
	if (file == NULL)
		return;
	fprintf(file, "%d %s\n", MyProcPid, point);
	fclose(file);
}

/* ---- what is to be done ---- */

typedef enum Action
{
	ACTION_NONE,
	ACTION_KILL,
	ACTION_STOP,
	ACTION_EXIT,
	ACTION_ERROR
} Action;

static Action
action_of(const char *line)
{
	static const char *const names[] = {NULL, "kill ", "stop ", "exit ", "error "};

	for (int i = 1; i < (int) lengthof(names); i++)
	{
		if (strncmp(line, names[i], strlen(names[i])) == 0)
			return (Action) i;
	}
	return ACTION_NONE;
}

/* Is the point of this order passed, and for the time that it names? */
static bool
is_due(const char *line, const char *point)
{
	static char seen[ORDERS_SIZE];
	static int	times;
	const char *named = strchr(line, ' ');
	int			nth = 1;

	if (named == NULL)
		return false;
	if (named[1] >= '0' && named[1] <= '9')
	{
		nth = atoi(named + 1);
		named = strchr(named + 1, ' ');
	}
	if (strcmp(seen, line) != 0)
	{
		strlcpy(seen, line, sizeof(seen));
		times = 0;
	}
	if (named == NULL || strcmp(named + 1, point) != 0 || ++times != nth)
		return false;
	/* the same line may follow */
	seen[0] = '\0';
	return true;
}

static void
act(Action action, const char *point)
{
	if (action == ACTION_EXIT)
		proc_exit(1);
	if (action == ACTION_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_OPERATOR_INTERVENTION),
				 errmsg("crash point \"%s\"", point)));
	if (action == ACTION_KILL)
		kill(MyProcPid, SIGKILL);
	else
		kill(PostmasterPid, SIGQUIT);
	/* libcurl is called with signals blocked */
	sigprocmask(SIG_SETMASK, &UnBlockSig, NULL);
	for (;;)
		pg_usleep(100000L);
}

void
llmb_crash_pass(const char *what, const char *when, bool may_throw)
{
	static bool passing = false;
	Orders		orders;
	Action		action;
	char		point[POINT_SIZE];

	/* proc_exit() may come by here again */
	if (passing || *llmb_crash_file == '\0' || !read_orders(&orders))
		return;
	snprintf(point, sizeof(point), "%s: %s", what, when);
	if (orders.trace)
		trace(point);
	action = action_of(orders.first);
	if (action == ACTION_NONE || (!may_throw && (action == ACTION_EXIT || action == ACTION_ERROR)) ||
		!is_due(orders.first, point))
		return;
	drop_first(&orders);
	passing = action != ACTION_ERROR;
	act(action, point);
}

/* ---- turns ---- */

static char turn[POINT_SIZE];	/* its name, and the changes in it */
static bool turn_wrote;

void
llmb_crash_turn_begins(const char *doing)
{
	if (unlikely(llmb_crash_file != NULL))
		strlcpy(turn, doing, sizeof(turn));
}

void
llmb_crash_turn_changes(const char *from, const char *to)
{
	size_t		len = strlen(turn);

	if (unlikely(llmb_crash_file != NULL))
		snprintf(turn + len, sizeof(turn) - len, " [%s > %s]", from, to);
}

/* A turn that has only read leaves nothing that a crash could undo. */
void
llmb_crash_turn_commits(void)
{
	if (likely(llmb_crash_file == NULL))
		return;
	turn_wrote = TransactionIdIsValid(GetTopTransactionIdIfAny());
	if (turn_wrote)
		llmb_crash_pass(turn, "commit", true);
}

void
llmb_crash_turn_committed(void)
{
	if (unlikely(llmb_crash_file != NULL) && turn_wrote)
		llmb_crash_pass(turn, "committed", true);
}
