/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Settings, and why each has its context.
 *
 * What names hosts or files is no setting but an option of a server, where
 * the superuser rules of options.c hold.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <limits.h>

#include "utils/guc.h"

#include "atomic.h"
#include "chain.h"
#include "crash.h"
#include "housekeeping.h"
#include "log.h"
#include "notify.h"

bool		llmb_enabled = true;
char	   *llmb_default_server = NULL;
int			llmb_keep_prompts = LLMB_KEEP_JOB;
int			llmb_max_prompt_kb = 16 * 1024;
int			llmb_atomic_max_items = 10000;
int			llmb_sweep_interval_s = 300;
int			llmb_idle_timeout_s = 60;
int			llmb_write_back_timeout_ms = 10000;
int			llmb_write_back_rows = 2000;

static const struct config_enum_entry keep_choices[] = {
	{"job", LLMB_KEEP_JOB, false},
	{"forever", LLMB_KEEP_FOREVER, false},
	{NULL, 0, false}
};

static const struct config_enum_entry log_choices[] = {
	{"off", LLMB_LOG_OFF, false},
	{"states", LLMB_LOG_STATES, false},
	{"all", LLMB_LOG_ALL, false},
	{"on", LLMB_LOG_STATES, true},
	{NULL, 0, false}
};

static void
define_keeping(const char *name, const char *what, int *minutes)
{
	DefineCustomIntVariable(name, what, "Since they ended; -1: for ever. What they have cost stays in the view costs.",
							minutes, *minutes, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

/* What everybody meets. */
static void
define_general(void)
{
	/* SIGHUP: one switch for the operator, also before the first start of a clone. */
	DefineCustomBoolVariable("llm_batch.enabled",
							 "Lets the workers of llm_batch run.",
							 "Off: nothing is sent, polled or written; jobs wait.",
							 &llmb_enabled, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* USERSET: a convenience; USAGE on the server is asked all the same. */
	DefineCustomStringVariable("llm_batch.default_server",
							   "Server that submit uses when none is named.",
							   NULL,
							   &llmb_default_server, "", PGC_USERSET, 0, NULL, NULL, NULL);

	/* SIGHUP: the worker reads it, and a database's policy on stored text is not its users'. */
	DefineCustomEnumVariable("llm_batch.keep_prompts",
							 "How long the texts that were sent are kept.",
							 "job: until answered; those of failed items stay for retry(). forever: until the job is removed.",
							 &llmb_keep_prompts, LLMB_KEEP_JOB, keep_choices, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * SIGHUP: the log is the operator's, and a job's lines come from its
	 * session and from the worker, which have to agree.  Off: the tables say
	 * it all, to those who may see it; of the log nobody knows who reads it,
	 * and labels stand in it.
	 */
	DefineCustomEnumVariable("llm_batch.log_events",
							 "Writes a line of JSON to the server's log for each change of state.",
							 "states: of jobs, batches, servers' breakers, launcher and workers. all: these, and every row of the view events.",
							 &llmb_log_events, LLMB_LOG_OFF, log_choices, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* SIGHUP: the worker reads it, and who listens in a database is not its jobs' owners' to know. */
	DefineCustomBoolVariable("llm_batch.notify",
							 "Sends NOTIFY llm_batch when a job's state or counts change.",
							 "Whoever listens in the database sees numbers, names and labels of jobs, and no text.",
							 &llmb_notify, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* SUSET: what one prompt may cost is the operator's to bound. */
	DefineCustomIntVariable("llm_batch.max_prompt_size",
							"Longest prompt that submit takes.",
							NULL,
							&llmb_max_prompt_kb, 16 * 1024, 1, 1024 * 1024, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* How the worker works, and how long. */
static void
define_worker(void)
{
	/* SIGHUP: read by launcher and worker only. */
	DefineCustomIntVariable("llm_batch.sweep_interval",
							"How often a sleeping worker looks for work that no wake-up announced.",
							"Such as rows of a prepared transaction or of a restored dump.",
							&llmb_sweep_interval_s, 300, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_batch.idle_timeout",
							"How long a worker stays without work.",
							NULL,
							&llmb_idle_timeout_s, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_batch.write_back_timeout",
							"Longest that writing one slice of answers to a source table may take.",
							NULL,
							&llmb_write_back_timeout_ms, 10000, 10, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_batch.write_back_rows",
							"Answers that are stored and written in one transaction at most.",
							NULL,
							&llmb_write_back_rows, 2000, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* SIGHUP: read by the worker, which serves nobody else meanwhile. */
	DefineCustomIntVariable("llm_batch.query_timeout",
							"Longest that the query of a job may take that begins after another.",
							"The worker does nothing else meanwhile.",
							&llmb_query_timeout_ms, 10000, 10, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	/* SUSET: how long one transaction may keep rows locked is the operator's to bound. */
	DefineCustomIntVariable("llm_batch.atomic_max_items",
							"Most items of an atomic job.",
							"All its answers are written in one transaction.",
							&llmb_atomic_max_items, 10000, 1, LLMB_MAX_ITEMS, PGC_SUSET, 0, NULL, NULL, NULL);
}

/* What is kept, and how long. */
static void
define_retention(void)
{
	/*
	 * SIGHUP: the worker reads them, and for how long a database keeps what it
	 * has paid for is not its users' to say.  For ever by default: only the
	 * jobs that tasks make by themselves would pile up without anybody's doing.
	 */
	define_keeping("llm_batch.keep_succeeded_jobs", "How long jobs that succeeded are kept, with their answers.", &llmb_keep_succeeded_min);
	define_keeping("llm_batch.keep_partial_jobs", "How long jobs that ended partial are kept, with their answers.", &llmb_keep_partial_min);
	define_keeping("llm_batch.keep_failed_jobs", "How long failed jobs are kept.", &llmb_keep_failed_min);
	define_keeping("llm_batch.keep_cancelled_jobs", "How long cancelled jobs are kept.", &llmb_keep_cancelled_min);
	define_keeping("llm_batch.keep_task_jobs", "How long ended jobs of tasks are kept that have no row's newest answer.", &llmb_keep_task_min);

	DefineCustomIntVariable("llm_batch.keep_daily_costs",
							"How long costs of forgotten jobs are kept by day and labels.",
							"Then they are summed up by month; -1: for ever.",
							&llmb_keep_daily_min, -1, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

void
llmb_define_settings(void)
{
	define_general();
	define_worker();
	define_retention();

	/*
	 * SIGHUP: for tests of the worker, see crash.h.  It does name a file, but
	 * only who could stop the server anyway can set it, or see it.
	 */
	DefineCustomStringVariable("llm_batch.crash_file",
							   "File that tells the worker at which point to crash, for tests.",
							   NULL,
							   &llmb_crash_file, NULL, PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);

	MarkGUCPrefixReserved("llm_batch");
}
