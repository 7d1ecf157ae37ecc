/*-------------------------------------------------------------------------
 *
 * gate.c
 *		After a promotion: who may send already.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "utils/memutils.h"

#include "gate.h"
#include "turn.h"

static List *gates = NIL;
static bool was_promoted = false;
static int	timeline = 0;
static LlmbHome home;

void
llmb_gate_begin(void)
{
	llmb_turn_begin("asking for the timeline");
	timeline = (int) GetWALInsertionTimeLine();
	llmb_store_home(timeline, &home);
	was_promoted = home.timeline != timeline;
	llmb_turn_commit();
}

int
llmb_gate_timeline(void)
{
	return timeline;
}

const LlmbHome *
llmb_gate_home(void)
{
	return &home;
}

const List *
llmb_gates(void)
{
	return gates;
}

LlmbGate *
llmb_gate_find(const char *server, const char *owner)
{
	ListCell   *lc;

	foreach(lc, gates)
	{
		LlmbGate   *gate = lfirst(lc);

		if (strcmp(gate->server, server) == 0 && strcmp(gate->owner, owner) == 0)
			return gate;
	}
	return NULL;
}

static LlmbGate *
new_gate(const LlmbJob *job)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	LlmbGate   *gate = palloc0(sizeof(LlmbGate));

	gate->server = pstrdup(job->server);
	gate->owner = pstrdup(job->owner);
	snprintf(gate->why, sizeof(gate->why), LLMB_COMPARING "this server was promoted: before anything is sent, "
			 "the batches that server \"%s\" lists are compared with ours", job->server);
	gates = lappend(gates, gate);
	MemoryContextSwitchTo(old);
	return gate;
}

/* In a turn: why the job waits, NULL: not any more.  A reason of somebody else's stays. */
static void
explain(const LlmbJob *job, const char *why)
{
	bool		ours = job->reason && strncmp(job->reason, LLMB_COMPARING, strlen(LLMB_COMPARING)) == 0;
	bool		active = strcmp(job->state, "waiting") == 0 || strcmp(job->state, "running") == 0;

	if (active && (why ? job->reason == NULL || (ours && strcmp(job->reason, why) != 0) : ours))
		llmb_store_job_state(job->id, job->state, why);
}

bool
llmb_gate_allows(const LlmbJob *job, bool realtime)
{
	bool		allowed;
	LlmbGate   *gate;

	if (!was_promoted || !job->ours)
		return true;
	gate = llmb_gate_find(job->server, job->owner);
	if (gate == NULL)
	{
		gate = new_gate(job);
		gate->open = llmb_store_is_compared(job->server, job->owner, timeline);
	}
	gate->job = job->id;
	allowed = gate->open || (gate->listed && (realtime || job->id > home.last_job));
	explain(job, allowed ? NULL : gate->why);
	gate->asleep &= allowed;
	return allowed;
}

bool
llmb_gate_busy(void)
{
	ListCell   *lc;

	foreach(lc, gates)
	{
		LlmbGate   *gate = lfirst(lc);

		if (!gate->open && !gate->asleep)
			return true;
	}
	return false;
}
