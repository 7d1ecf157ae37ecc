/*-------------------------------------------------------------------------
 *
 * plan.c
 *		Cutting a job's items into batches.
 *
 * Items are taken in the order of their ordinals by keyset, so that the cost
 * of a batch does not depend on how many wait behind it.  A batch is written
 * to its request file while it is being planned: the provider's limits are
 * about the file's lines and bytes, and only the written line knows its size.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "compat.h"
#include "options.h"
#include "plan.h"
#include "request.h"
#include "turn.h"

typedef struct Planning
{
	LlmbJob    *job;
	LlmbServer *server;
	LlmbJobDef *def;
	LlmbBatchRow *row;
	LlmbSpool  *spool;
	int			range_space;
	StringInfoData line;
} Planning;

static void
add_ordinal(Planning *planning, int ordinal)
{
	LlmbBatchRow *row = planning->row;
	LlmbRange  *last = row->range_count ? &row->ranges[row->range_count - 1] : NULL;

	if (last && last->upper == ordinal)
		last->upper++;
	else
	{
		if (row->range_count == planning->range_space)
		{
			planning->range_space *= 2;
			row->ranges = repalloc(row->ranges, sizeof(LlmbRange) * planning->range_space);
		}
		row->ranges[row->range_count].lower = ordinal;
		row->ranges[row->range_count].upper = ordinal + 1;
		row->ranges[row->range_count++].position = row->item_count;
	}
	row->item_count++;
}

static bool
plan_prompt(const LlmbPrompt *prompt, void *arg)
{
	Planning   *planning = arg;
	char		custom_id[80];

	snprintf(custom_id, sizeof(custom_id), "%s-%d", planning->row->token, prompt->ordinal);
	resetStringInfo(&planning->line);
	llmb_put_request(&planning->line, planning->server->provider, planning->job->model,
					 planning->def, prompt, custom_id);
	/* one that is too long alone goes alone, for the provider to refuse */
	if (planning->row->item_count > 0 &&
		planning->row->file_bytes + planning->line.len > planning->server->max_batch_bytes)
		return false;
	llmb_spool_write(planning->spool, planning->line.data, planning->line.len);
	planning->row->file_bytes += planning->line.len;
	add_ordinal(planning, prompt->ordinal);
	return true;
}

/* 64 random bits: what tells a batch of ours from any other. */
static char *
new_token(void)
{
	uint64		random;

	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random token")));
	return psprintf("%016llx", (unsigned long long) random);
}

/* In a turn.  NULL when the job may be planned, else why not. */
static const char *
obstacle(const LlmbJob *job, LlmbServer **server)
{
	Oid			owner = get_role_oid(job->owner, true);

	*server = llmb_server_by_name(job->server);
	if (!OidIsValid(owner))
		return psprintf("role \"%s\" does not exist any more", job->owner);
	if (*server == NULL || (*server)->provider == NULL)
		return psprintf("server \"%s\" does not exist any more", job->server);
	if (!(*server)->enabled)
		return psprintf("server \"%s\" is disabled", job->server);
	if (llmb_foreign_server_aclcheck((*server)->oid, owner) != ACLCHECK_OK)
		return psprintf("role \"%s\" has lost USAGE on server \"%s\"", job->owner, job->server);
	return NULL;
}

/* In a turn: fresh items first, then what is to be sent again. */
static void
collect(Planning *planning, TimestampTz now)
{
	LlmbJob    *job = planning->job;
	int			limit = (int) planning->server->max_batch_requests;

	planning->row->attempt = 1;
	llmb_store_new_prompts(job->id, job->planned_to, limit, plan_prompt, planning);
	if (planning->row->item_count == 0 && job->retry_attempt > 0 && job->retry_at <= now)
	{
		planning->row->attempt = job->retry_attempt;
		llmb_store_queued_prompts(job->id, job->retry_attempt, limit, plan_prompt, planning);
	}
}

static void
begin_planning(Planning *planning, LlmbJob *job, LlmbServer *server, MemoryContext context)
{
	MemoryContext old;

	planning->job = job;
	planning->server = server;
	planning->def = llmb_store_job_def(job->id);
	initStringInfo(&planning->line);
	old = MemoryContextSwitchTo(context);
	planning->spool = llmb_spool_new(context);
	planning->row = palloc0(sizeof(LlmbBatchRow));
	planning->row->job = job->id;
	planning->row->owner = pstrdup(job->owner);
	planning->row->server = pstrdup(job->server);
	planning->row->token = new_token();
	planning->range_space = 16;
	planning->row->ranges = palloc(sizeof(LlmbRange) * planning->range_space);
	MemoryContextSwitchTo(old);
}

/* Limits are those of a key, so of server and owner. */
static bool
room_for_batch(const LlmbJob *job, const LlmbServer *server)
{
	bool		unsent;

	/* one file of a job waits on disk at a time; the next is written when it is sent */
	return llmb_lifecycle_count(job, &unsent) < server->max_active_batches && !unsent;
}

bool
llmb_plan_batch(LlmbJob *job, TimestampTz now)
{
	MemoryContext context;
	Planning	planning = {0};
	LlmbServer *server;
	const char *reason;
	bool		due = job->planned_to < job->total || (job->retry_attempt > 0 && job->retry_at <= now);

	if (!due)
		return false;
	/* what is still landing may bring more to be sent again: one batch for all */
	if (job->planned_to >= job->total && llmb_lifecycle_landing(job->id))
		return false;
	llmb_turn_begin("planning a batch");
	reason = obstacle(job, &server);
	if (reason)
	{
		llmb_store_job_state(job->id, "paused", reason);
		llmb_store_event(job->id, 0, "paused", "%s", reason);
		llmb_turn_commit();
		return true;
	}
	if (!room_for_batch(job, server))
	{
		llmb_turn_commit();
		return false;
	}
	/* our caller's to throw away, until all has gone well */
	context = AllocSetContextCreate(CurrentMemoryContext, "llm_batch flight", ALLOCSET_SMALL_SIZES);
	begin_planning(&planning, job, server, context);
	collect(&planning, now);
	if (planning.row->item_count > 0)
		llmb_store_add_batch(planning.row);
	llmb_turn_commit();
	if (planning.row->item_count == 0)
	{
		llmb_spool_free(planning.spool);
		MemoryContextDelete(context);
		return false;
	}
	MemoryContextSetParent(context, TopMemoryContext);
	llmb_lifecycle_add(planning.row, planning.spool, context);
	return true;
}
