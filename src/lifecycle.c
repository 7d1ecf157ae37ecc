/*-------------------------------------------------------------------------
 *
 * lifecycle.c
 *		What a worker has to do, one thing at a time: commands, probes,
 *		batches to plan, flights whose step is due, stored answers, jobs that
 *		have ended and what follows them, rows that have changed, old jobs.
 *
 * Each call of llmb_lifecycle_step() does one bounded thing, so that sockets
 * are served in between.  What is due is found in the tables when something
 * was committed (dirty), and in memory otherwise: an idle worker asks nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "afterwards.h"
#include "atomic.h"
#include "chain.h"
#include "failover.h"
#include "fair.h"
#include "fleet.h"
#include "gate.h"
#include "gather.h"
#include "housekeeping.h"
#include "leftover.h"
#include "lifecycle.h"
#include "notify.h"
#include "plan.h"
#include "probe.h"
#include "realtime.h"
#include "steps.h"
#include "store_forget.h"
#include "turn.h"

/* Jobs and stored answers are looked at this often, however busy batches are. */
#define OTHERS_EVERY_MS	100
/* So long jobs are planned with one list of them, before sockets are served again. */
#define PASS_MS			50
/* Reading the list of jobs takes at most one part in so many of the worker's time. */
#define LIST_SHARE		5

static bool dirty = true;		/* jobs are to be looked at */
static bool commands_pending = true;
static bool answers_pending = true;
static bool jobs_active = false;
static TimestampTz list_due = 0;	/* not read again before then */
static TimestampTz next_look = 0;	/* when jobs are to be looked at anyway; 0 never */
static TimestampTz next_answer = 0;

/* ---- flights ---- */

/* What is under way by the tables and not in our hands yet. */
static void
load_flights(void)
{
	List	   *rows;
	ListCell   *lc;

	llmb_turn_begin("loading batches");
	rows = llmb_store_live_batches();
	foreach(lc, rows)
	{
		int64		id = ((LlmbBatchRow *) lfirst(lc))->id;
		MemoryContext context;
		MemoryContext old;
		LlmbFlight *flight;
		LlmbJob    *job;

		if (llmb_fleet_has_batch(id))
			continue;
		context = AllocSetContextCreate(TopMemoryContext, "llm_batch flight", ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(context);
		flight = llmb_fleet_add(llmb_store_batch(id), NULL, context);
		job = llmb_store_job(flight->row->job);

		/* what was asked for before the restart */
		flight->cancel_code = LLMB_CANCELLED_ITEM;
		flight->cancel = (job && strcmp(job->state, "cancelling") == 0) ||
			flight->row->state == LLMB_CANCELLING;
		if (flight->row->error_code && llmb_code_parse(flight->row->error_code, &flight->cancel_code))
			flight->cancel = true;
		MemoryContextSwitchTo(old);
	}
	llmb_turn_commit();
}

static void
step_flight(void *arg)
{
	LlmbFlight *flight = arg;

	/* planned since, or just loaded */
	if (flight->party.ended == NULL)
		llmb_steps_init(flight);
	llmb_steps_step(flight);
}

/* A flight whose step is due, and the time of the next otherwise. */
static LlmbFlight *
due_flight(TimestampTz now, TimestampTz *next)
{
	ListCell   *lc;

	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (llmb_call_busy(&flight->party))
			continue;
		if (llmb_batch_is_over(flight->row->state) || flight->next_at <= now)
			return flight;
		*next = *next == 0 ? flight->next_at : Min(*next, flight->next_at);
	}
	return NULL;
}

/* Each has its turn: who was served goes behind the others. */
static void
run_flight(LlmbFlight *flight)
{
	llmb_fleet_served(flight);
	if (llmb_batch_is_over(flight->row->state))
	{
		llmb_call_drop(&flight->party);
		llmb_realtime_free(flight);
		llmb_fleet_forget(flight);
	}
	else if (!llmb_guarded(step_flight, flight, "llm_batch: a step of a batch"))
		llmb_steps_failed(&flight->party);
}

/* ---- commands ---- */

static void
cancel_job(LlmbJob *job)
{
	ListCell   *lc;
	int			dropped;

	if (strcmp(job->state, "cancelling") == 0)
		return;
	llmb_store_job_state(job->id, "cancelling", NULL);
	dropped = llmb_store_drop_rest(job->id, "cancelled");
	llmb_store_event(job->id, 0, "cancelling", "cancel was asked for; items not sent yet: %d", dropped);
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job->id && !llmb_batch_is_over(flight->row->state))
			llmb_flight_cancel(flight, LLMB_CANCELLED_ITEM);
	}
}

static void
resume_job(LlmbJob *job)
{
	ListCell   *lc;

	if (strcmp(job->state, "paused") != 0)
		return;
	llmb_store_resume_job(job->id);
	llmb_store_event(job->id, 0, "resumed", "the job goes on");
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job->id)
		{
			flight->next_at = flight->mend_at = 0;
			flight->awaiting = false;
		}
	}
}

/* What may have arrived already is sent all the same. */
static void
resend_job(LlmbJob *job)
{
	ListCell   *lc;

	llmb_failover_waive(job);
	foreach(lc, llmb_fleet())
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job->id)
			llmb_steps_resend(flight);
	}
}

/* A job may have been made to wait for this one since that was asked. */
static void
forget_job(const LlmbJob *job)
{
	const char *needed = llmb_store_needed_for(job->id);

	if (needed)
		llmb_store_event(job->id, 0, "not_obeyed", "forget was asked for, but %s", needed);
	else if (llmb_store_begin_forget(job->id, "forget() asks for it"))
		llmb_housekeeping_look();
}

static void
run_command(const LlmbCommand *command, LlmbJob *job)
{
	bool		over = llmb_job_is_over(job);
	bool		forget = strcmp(command->verb, "forget") == 0;
	bool		for_ended = forget || strcmp(command->verb, "retry") == 0 || strcmp(command->verb, "apply") == 0;

	/* things have moved on since it was asked */
	if (over != for_ended)
		llmb_store_event(job->id, 0, "not_obeyed", "%s was asked for, but the job is %s", command->verb, job->state);
	else if (forget)
		forget_job(job);
	else if (llmb_store_is_forgotten(job->id))
		llmb_store_event(job->id, 0, "not_obeyed", "%s was asked for, but the job is being forgotten", command->verb);
	else if (strcmp(command->verb, "retry") == 0)
	{
		int			count;

		llmb_store_bar_writing(job->id, NULL);
		llmb_renew_stale(job);
		count = llmb_store_do_retry(job->id, command->codes);

		llmb_store_event(job->id, 0, "retry", "items to be sent again: %d", count);
		/* the answers that are there wait for those */
		if (job->atomic && count > 0)
			(void) llmb_store_do_apply(job->id);
	}
	else if (strcmp(command->verb, "apply") == 0)
	{
		int			count = llmb_store_do_apply(job->id);

		llmb_store_bar_writing(job->id, NULL);
		llmb_store_event(job->id, 0, "apply", "stored answers to be written again: %d", count);
		answers_pending = true;
	}
	else if (strcmp(command->verb, "cancel") == 0)
		cancel_job(job);
	else if (strcmp(command->verb, "resume") == 0)
		resume_job(job);
	else if (strcmp(command->verb, "resend") == 0)
	{
		resend_job(job);
		resume_job(job);
	}
	else if (strcmp(command->verb, "pause") == 0 && strcmp(job->state, "cancelling") != 0)
	{
		llmb_store_job_state(job->id, "paused", "paused by request");
		llmb_store_event(job->id, 0, "paused", "paused by request");
	}
}

static void
run_next_command(void *arg)
{
	LlmbCommand **command = arg;
	LlmbJob    *job;

	llmb_turn_begin("obeying a command");
	*command = llmb_store_next_command();
	if (*command)
	{
		job = llmb_store_job((*command)->job);
		if (job)
			run_command(*command, job);
		llmb_store_command_done((*command)->id);
	}
	else
		llmb_probe_start_asked();
	llmb_turn_commit();
}

/* One that cannot be obeyed must not stand in the way of the others. */
static void
drop_command(void *arg)
{
	LlmbCommand *command = arg;

	llmb_turn_begin("dropping a command");
	llmb_store_event(command->job, 0, "not_obeyed", "%s failed; the server's log tells why", command->verb);
	llmb_store_command_done(command->id);
	llmb_turn_commit();
}

/* False when even that did not go. */
static bool
obey(void)
{
	LlmbCommand *command = NULL;
	bool		went_well = llmb_guarded(run_next_command, &command, "llm_batch: obeying a command");

	if (!went_well && command)
		went_well = llmb_guarded(drop_command, command, "llm_batch: dropping a command");
	commands_pending = command != NULL || !went_well;
	dirty = true;
	return went_well;
}

/* ---- jobs ---- */

static void
end_past_deadline(const LlmbJob *job)
{
	LlmbFlight *flight;
	int			dropped;

	llmb_turn_begin("ending what is past its deadline");
	dropped = llmb_store_drop_rest(job->id, "expired");
	while ((flight = llmb_fleet_unsent(job->id)) != NULL)
	{
		dropped += flight->row->item_count - flight->row->marked;
		llmb_flight_cancel(flight, LLMB_EXPIRED);
	}
	llmb_store_event(job->id, 0, "expired", "the deadline is over; items not sent: %d", dropped);
	llmb_turn_commit();
}

/* Ends, gives up or plans; true when something was done. */
static bool
look_after_job(LlmbJob *job, TimestampTz now)
{
	char	   *ended;

	if (!job->ours && (strcmp(job->state, "waiting") == 0 || strcmp(job->state, "running") == 0))
	{
		llmb_turn_begin("pausing a restored job");
		llmb_store_job_state(job->id, "paused", "restored");
		llmb_store_event(job->id, 0, "paused", "the job was restored or copied from another database; resume() lets it go on here");
		llmb_turn_commit();
		return true;
	}
	if (job->held && strcmp(job->state, "cancelling") != 0)
		return llmb_chain_step(job);
	if (job->live_batches && !llmb_fleet_has_job(job->id))
	{
		load_flights();
		return true;
	}
	if (job->past_deadline && strcmp(job->state, "cancelling") != 0 && (job->queued > 0 || llmb_fleet_unsent(job->id)))
	{
		end_past_deadline(job);
		return true;
	}
	/* where there is a batch to be sent, that shows whether all is mended */
	if (job->queued > 0 && (strcmp(job->state, "paused") != 0 ||
							(job->awaits_mend && !llmb_fleet_has_job(job->id))))
		return llmb_plan_batch(job, now);
	if (job->atomic && job->queued == 0 && job->in_flight == job->unapplied && !job->live_batches &&
		job->succeeded < job->total)
		return job->ours && llmb_atomic_step(job);
	if (job->queued > 0 || job->in_flight > 0 || job->live_batches)
		return false;
	llmb_turn_begin("ending a job");
	ended = llmb_store_finish_job(job->id);
	llmb_turn_commit();
	return ended != NULL;
}

typedef struct Look
{
	LlmbJob    *job;
	TimestampTz now;
	bool		did;
} Look;

static void
look_after_one(void *arg)
{
	Look	   *look = arg;

	look->did = look_after_job(look->job, look->now);
}

/* A job that cannot even be planned is that job's trouble, and nobody else's. */
static void
pause_troubled(void *arg)
{
	Look	   *look = arg;

	if (strcmp(look->job->state, "waiting") != 0 && strcmp(look->job->state, "running") != 0)
		return;
	llmb_turn_begin("pausing a job");
	llmb_store_job_state(look->job->id, "paused", "planning failed; the server's log tells why");
	llmb_store_event(look->job->id, 0, "paused", "planning failed; the server's log tells why");
	llmb_turn_commit();
}

/*
 * The first errors of a job may pass (no disk, a deadlock): it is looked at
 * again in a while, and the jobs behind it now.  True when it was paused.
 */
static bool
in_trouble(Look *look)
{
	static int64 job = 0;
	static int	times = 0;

	times = look->job->id == job ? times + 1 : 1;
	job = look->job->id;
	if (times >= 3)
	{
		times = 0;
		return llmb_guarded(pause_troubled, look, "llm_batch: pausing a job");
	}
	next_look = TimestampTzPlusMilliseconds(look->now, 5000);
	return false;
}

/* When the job has to be looked at again, if nothing else happens. */
static void
note_times(const LlmbJob *job, TimestampTz now)
{
	if (!llmb_chain_waits(job) &&
		(strcmp(job->state, "paused") != 0 || job->awaits_mend || (job->in_flight > 0 && job->ours)))
		jobs_active = true;
	if (job->retry_at > now && (next_look == 0 || job->retry_at < next_look))
		next_look = job->retry_at;
	if (job->deadline > now && (next_look == 0 || job->deadline < next_look))
		next_look = job->deadline;
	/* stored answers whose time is not known yet */
	if (job->unapplied > 0 && !job->atomic && next_answer == 0)
		answers_pending = true;
}

/* Jobs are to be looked at by then; 0 never. */
static void
look_at_by(TimestampTz when)
{
	if (when != 0 && (next_look == 0 || when < next_look))
		next_look = when;
}

static void
look_after_jobs(void *arg)
{
	bool	   *did = arg;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz begun;
	List	   *jobs;
	ListCell   *lc;

	llmb_turn_begin("looking after jobs");
	jobs = llmb_store_active_jobs();
	llmb_turn_commit();
	list_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (LIST_SHARE - 1) * TimestampDifferenceMilliseconds(now, GetCurrentTimestamp()));
	jobs_active = false;
	next_look = 0;
	llmb_fleet_count_jobs(jobs);
	llmb_fair_order(jobs);
	begun = GetCurrentTimestamp();
	foreach(lc, jobs)
	{
		Look		look = {lfirst(lc), now, false};

		note_times(look.job, now);
		if (!llmb_guarded(look_after_one, &look, "llm_batch: looking after a job"))
			look.did = in_trouble(&look);
		look_at_by(look.job->look_again_ms > 0 ? TimestampTzPlusMilliseconds(now, look.job->look_again_ms) : 0);
		*did |= look.did;
		/* the jobs behind it are looked at with a new list; with a short one at once */
		if (*did && TimestampDifferenceMilliseconds(begun, GetCurrentTimestamp()) >= PASS_MS)
			break;
	}
	dirty = *did;
	/* rows may have waited for items to go */
	if (*did)
		llmb_gather_look();
}

/* ---- stored answers ---- */

static void
apply_answers(void *arg)
{
	(void) arg;
	answers_pending = llmb_apply_due();
	if (answers_pending)
	{
		dirty = true;
		return;
	}
	llmb_turn_begin("looking for stored answers");
	next_answer = llmb_store_next_due_answer();
	llmb_turn_commit();
}

/* ---- what follows a job ---- */

static void
follow_jobs(void *arg)
{
	(void) arg;
	llmb_afterwards_step();
}

static void
tell_counts(void *arg)
{
	(void) arg;
	llmb_notify_due();
}

/* True when something was due. */
static bool
tell_or_follow(TimestampTz now)
{
	if (llmb_notify_next() != 0 && llmb_notify_next() <= now)
		return llmb_guarded(tell_counts, NULL, "llm_batch: telling counts");
	if (llmb_afterwards_next() == 0 || llmb_afterwards_next() > now)
		return false;
	if (!llmb_guarded(follow_jobs, NULL, "llm_batch: running what follows a job"))
		llmb_afterwards_failed();
	/* a job may wait for what has run */
	dirty = true;
	return true;
}

/* ---- rows that have changed ---- */

typedef struct GatherLook
{
	TimestampTz now;
	bool		may_clean;
	bool		new_job;
} GatherLook;

static void
gather_rows(void *arg)
{
	GatherLook *look = arg;

	look->new_job = llmb_gather_step(look->now, look->may_clean);
}

/* True when something was due. */
static bool
gather_due(TimestampTz now, bool has_history)
{
	GatherLook	look = {now, has_history, false};

	if (llmb_gather_next() == 0 || llmb_gather_next() > now)
		return false;
	if (!llmb_guarded(gather_rows, &look, "llm_batch: gathering changed rows"))
		llmb_gather_failed(now);
	dirty |= look.new_job;
	return true;
}

/* ---- request files at providers ---- */

static void
remove_files(void *arg)
{
	(void) arg;
	llmb_leftover_step();
	/* jobs that are being forgotten wait for the last of their files */
	llmb_housekeeping_files_gone();
}

/* ---- jobs that are removed ---- */

/* Beside other work they are removed in one slice in so long. */
#define HOUSEKEEPING_EVERY_MS	100

static void
keep_house_now(void *arg)
{
	*(bool *) arg = llmb_housekeeping_step();
}

/* True when something was done. */
static bool
keep_house(TimestampTz now)
{
	bool		did = false;

	if (llmb_housekeeping_next() <= now && !llmb_guarded(keep_house_now, &did, "llm_batch: forgetting jobs"))
		llmb_housekeeping_failed();
	return did;
}

/* ---- the step ---- */

void
llmb_lifecycle_begin(void)
{
	/* an error here ends the worker: without its batches it is of no use */
	load_flights();
	llmb_gate_begin();
}

void
llmb_lifecycle_look_again(void)
{
	dirty = true;
	commands_pending = true;
	answers_pending = true;
	llmb_afterwards_look();
	llmb_gather_look();
	llmb_leftover_look();
}

static long
time_until(TimestampTz now, TimestampTz when)
{
	return when == 0 ? -1 : (long) TimestampDifferenceMilliseconds(now, when) + 1;
}

/* After an error of what concerns no batch in particular: not at once again. */
static long
troubled(void)
{
	next_look = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 5000);
	dirty = false;
	return 5000;
}

/* In a database without a history only probes have something to do. */
static void
look_for_history(void *arg)
{
	bool	   *has_history = arg;

	llmb_turn_begin("looking for work");
	*has_history = llmb_store_has_history();
	if (!*has_history)
		llmb_probe_start_asked();
	llmb_turn_commit();
}

/*
 * Every job begins with an event.  Where there are jobs and the sequence of
 * events was never used, a dump is being restored: the tables come one by
 * one, and an event written by us would take the place of one to come.
 */
static bool
has_history(void)
{
	static bool has = false;

	if (!has)
		(void) llmb_guarded(look_for_history, &has, "llm_batch: looking for work");
	return has;
}

/* The earlier of two times; 0 is never. */
static TimestampTz
sooner(TimestampTz a, TimestampTz b)
{
	return a == 0 ? b : b == 0 ? a : Min(a, b);
}

/* When the next of all things falls due, flights (which are given) among them. */
static TimestampTz
next_due(TimestampTz now, TimestampTz next)
{
	/* the next look at old jobs wakes nobody: a sleeping worker looks around now and then */
	if (llmb_housekeeping_next() <= now || llmb_housekeeping_busy())
		next = sooner(next, Max(now, llmb_housekeeping_next()));
	if (next_look != 0)
		next = sooner(next, Max(next_look, list_due));
	if (dirty)
		next = sooner(next, Max(now, list_due));
	next = sooner(next, next_answer);
	next = sooner(next, llmb_gather_next());
	next = sooner(next, llmb_notify_next());
	next = sooner(next, llmb_afterwards_next());
	return sooner(next, llmb_leftover_next());
}

long
llmb_lifecycle_step(void)
{
	static TimestampTz others_due = 0;
	static TimestampTz housekeeping_due = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = 0;
	LlmbFlight *flight;
	bool		did = false;

	/* rows of a task may be the first that there ever was to do */
	if (!has_history())
		return gather_due(now, false) ? 0 : time_until(now, llmb_gather_next());
	dirty |= llmb_fleet_wants_look();
	if (commands_pending)
		return obey() ? 0 : troubled();
	if (llmb_failover_step(now, &next))
		return 0;
	if (llmb_leftover_next() != 0 && llmb_leftover_next() <= now)
	{
		if (!llmb_guarded(remove_files, NULL, "llm_batch: removing request files"))
			llmb_leftover_failed();
		return 0;
	}
	if (housekeeping_due <= now)
	{
		housekeeping_due = TimestampTzPlusMilliseconds(now, HOUSEKEEPING_EVERY_MS);
		if (keep_house(now))
			return 0;
	}
	/* a flight may always have something to do; the others have their turn */
	flight = due_flight(now, &next);
	if (flight && now < others_due)
	{
		run_flight(flight);
		return 0;
	}
	others_due = TimestampTzPlusMilliseconds(now, OTHERS_EVERY_MS);
	if ((dirty || (next_look != 0 && next_look <= now)) && list_due <= now)
	{
		if (!llmb_guarded(look_after_jobs, &did, "llm_batch: looking after jobs"))
			return troubled();
		/* planning may take its time: flights have their turn in between */
		if (TimestampDifferenceMilliseconds(now, GetCurrentTimestamp()) >= OTHERS_EVERY_MS)
			others_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OTHERS_EVERY_MS);
		if (did)
			return 0;
	}
	if (answers_pending || (next_answer != 0 && next_answer <= now))
	{
		next_answer = 0;
		return llmb_guarded(apply_answers, NULL, "llm_batch: writing stored answers") ? 0 : troubled();
	}
	if (tell_or_follow(now))
	{
		/* SQL of users may take its time: flights have their turn in between */
		others_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OTHERS_EVERY_MS);
		return 0;
	}
	if (gather_due(now, true))
		return 0;
	if (flight)
	{
		run_flight(flight);
		return 0;
	}
	if (keep_house(now))
		return 0;
	return time_until(now, next_due(now, next));
}

bool
llmb_lifecycle_busy(void)
{
	ListCell   *lc;

	foreach(lc, llmb_fleet())
	{
		if (!((LlmbFlight *) lfirst(lc))->foreign)
			return true;
	}
	return jobs_active || next_answer != 0 || llmb_afterwards_busy() || llmb_probe_busy() || llmb_gate_busy() || llmb_gather_busy() || llmb_leftover_busy() || llmb_housekeeping_busy();
}
