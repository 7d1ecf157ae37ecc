/*-------------------------------------------------------------------------
 *
 * housekeeping.c
 *		Jobs that are removed: those that forget() names, and those that have
 *		been kept as long as the settings say.
 *
 * A job that is to go is marked first.  Then its rows go in slices, each a
 * transaction of some thousand rows, so that whatever else is due has its turn
 * in between.  The job's own row goes last, so a crash leaves a mark that the
 * next worker finds.  While request files of it are still to be deleted at
 * a provider, the job's row and those of its batches stay: they say with
 * whose key, and under which name.
 *
 * Whose time is over is looked for when the worker starts, and then each
 * llm_batch.sweep_interval.  Where nobody works, the launcher starts a worker
 * as often.  Jobs that something still needs are passed over; a look at them
 * goes on where the last one stopped, so that its cost does not grow with
 * their number.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "portability/instr_time.h"
#include "utils/timestamp.h"

#include "housekeeping.h"
#include "store_forget.h"
#include "turn.h"

/*
 * One transaction deletes until it has taken so long, or so many rows.  Items
 * go so many at a time; fewer where that takes too long, because their texts
 * are long.
 */
#define SLICE_MS		20
#define ROWS_AT_A_TIME	5000
#define ITEMS_AT_A_TIME	500
#define ITEMS_MS		10
/* Ended jobs that are looked at in one transaction. */
#define ENDED_AT_A_TIME	200
/* Of those that something still needs, one look passes so many of each kind. */
#define HELD_IN_A_LOOK	1000
/* Rows of spending that one transaction sums up. */
#define SPENDING_AT_A_TIME	1000
#define AFTER_ERROR_MS	5000

int			llmb_keep_succeeded_min = -1;
int			llmb_keep_partial_min = -1;
int			llmb_keep_failed_min = -1;
int			llmb_keep_cancelled_min = -1;
int			llmb_keep_task_min = 30 * 24 * 60;
int			llmb_keep_daily_min = -1;

typedef struct Kind
{
	const char *name;
	const char *setting;
	const int  *minutes;
	LlmbEndedPlace place;		/* where the next look goes on */
	int			held;			/* that this look has passed */
	bool		done;			/* with this look */
	int			was;			/* the setting at the last look */
} Kind;

static Kind kinds[] = {
	{.name = "succeeded", .setting = "llm_batch.keep_succeeded_jobs", .minutes = &llmb_keep_succeeded_min},
	{.name = "partial", .setting = "llm_batch.keep_partial_jobs", .minutes = &llmb_keep_partial_min},
	{.name = "failed", .setting = "llm_batch.keep_failed_jobs", .minutes = &llmb_keep_failed_min},
	{.name = "cancelled", .setting = "llm_batch.keep_cancelled_jobs", .minutes = &llmb_keep_cancelled_min},
	{.name = "task", .setting = "llm_batch.keep_task_jobs", .minutes = &llmb_keep_task_min},
};

static bool marked = true;		/* marked jobs are to be looked for */
static bool looked = false;		/* it has looked for them in this process */
static bool marked_since = false;	/* another was marked since this pass over them began */
static bool some_wait = false;	/* marked jobs do, for their files */
static LlmbForgotten current;	/* the one whose rows go; id 0: none */
static int	items_at_a_time = ITEMS_AT_A_TIME;
static int64 passed = 0;		/* the last that was dealt with in this pass */
static int	daily_was = 0;		/* llm_batch.keep_daily_costs at the last look */
static TimestampTz next_look = 1;	/* for those whose time is over; 1 at once */
static TimestampTz not_before = 0;	/* after an error */

void
llmb_housekeeping_look(void)
{
	marked = marked_since = true;
}

void
llmb_housekeeping_files_gone(void)
{
	/* who was passed a moment ago may have begun to wait */
	if (some_wait || passed != 0)
		llmb_housekeeping_look();
}

/* ---- whose time is over ---- */

/* In a turn: marks jobs of a kind, and counts down what the turn has left. */
static void
mark_ended(Kind *kind, int *left)
{
	List	   *jobs = llmb_store_ended_jobs(kind->name, *kind->minutes, &kind->place, *left);
	ListCell   *lc;

	foreach(lc, jobs)
	{
		const LlmbEnded *job = lfirst(lc);

		if (job->held)
			kind->held++;
		else if (llmb_store_begin_forget(job->id, psprintf("its time by %s is over", kind->setting)))
			llmb_housekeeping_look();
	}
	kind->done = list_length(jobs) < *left || kind->held >= HELD_IN_A_LOOK;
	/* next time from the oldest on again */
	if (list_length(jobs) < *left)
		memset(&kind->place, 0, sizeof(kind->place));
	*left -= list_length(jobs);
}

static Kind *
next_kind(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (!kinds[i].done && *kinds[i].minutes >= 0)
			return &kinds[i];
	}
	return NULL;
}

static void
end_look(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		kinds[i].was = *kinds[i].minutes;
		kinds[i].done = false;
		kinds[i].held = 0;
	}
	daily_was = llmb_keep_daily_min;
	next_look = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), llmb_sweep_interval_s * INT64CONST(1000));
}

/* One slice of a look; kinds without any ended job take a probe each. */
static void
look(void)
{
	Kind	   *kind;
	int			left = ENDED_AT_A_TIME;
	bool		summed = false;

	llmb_turn_begin("looking for jobs whose time is over");
	while (left > 0 && (kind = next_kind()) != NULL)
		mark_ended(kind, &left);
	if (left > 0 && llmb_keep_daily_min >= 0)
		summed = llmb_store_sum_up_months(llmb_keep_daily_min, SPENDING_AT_A_TIME);
	/* restored, for instance, with its mark */
	marked |= llmb_store_any_forgotten();
	llmb_turn_commit();
	if (next_kind() == NULL && !summed)
		end_look();
}

/* ---- removal ---- */

static double
ms_since(const instr_time *begin)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, *begin);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* In a turn: the next rows of a job. */
static int
remove_some(LlmbForgotten *job, bool *gone)
{
	instr_time	begin;
	int			rows;

	INSTR_TIME_SET_CURRENT(begin);
	rows = llmb_store_forget_rows(job, items_at_a_time, gone);
	if (ms_since(&begin) > ITEMS_MS)
		items_at_a_time = Max(items_at_a_time / 2, 1);
	else if (items_at_a_time < ITEMS_AT_A_TIME)
		items_at_a_time++;
	return rows;
}

/* True when rows have gone. */
static bool
remove_rows(void)
{
	LlmbForgotten job = current;
	int64		last = passed;
	int			rows = 0;
	bool		more = true;
	instr_time	begin;

	if (job.id == 0 && last == 0)
		marked_since = false;
	llmb_turn_begin("forgetting jobs");
	INSTR_TIME_SET_CURRENT(begin);
	while (rows < ROWS_AT_A_TIME && ms_since(&begin) < SLICE_MS)
	{
		bool		gone;

		more = job.id != 0 || llmb_store_next_forgotten(last, &job);
		if (!more)
		{
			some_wait = llmb_store_any_forgotten();
			break;
		}
		rows += remove_some(&job, &gone);
		if (gone)
		{
			last = job.id;
			job.id = 0;
		}
	}
	llmb_turn_commit();
	current = job;
	passed = more ? last : 0;
	marked = more || marked_since;
	return rows > 0;
}

/* ---- steps ---- */

static bool
settings_changed(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (kinds[i].was != *kinds[i].minutes)
			return true;
	}
	return daily_was != llmb_keep_daily_min;
}

TimestampTz
llmb_housekeeping_next(void)
{
	return Max(not_before, marked || settings_changed() ? 1 : next_look);
}

bool
llmb_housekeeping_busy(void)
{
	/* in a database without a history it never looks */
	return marked && looked;
}

bool
llmb_housekeeping_step(void)
{
	not_before = 0;
	looked = true;
	if (marked)
		return remove_rows();
	look();
	return marked_since;
}

void
llmb_housekeeping_failed(void)
{
	memset(&current, 0, sizeof(current));
	passed = 0;
	marked = true;
	for (int i = 0; i < (int) lengthof(kinds); i++)
		memset(&kinds[i].place, 0, sizeof(kinds[i].place));
	end_look();
	not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AFTER_ERROR_MS);
}
