/*-------------------------------------------------------------------------
 *
 * fleet.c
 *		All batches that are on their way, and questions about them.
 *
 * There are some dozens at most: one list, walked from its begin, will do.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "fleet.h"

static List *flights = NIL;		/* of LlmbFlight */
static bool wants_look = true;

List *
llmb_fleet(void)
{
	return flights;
}

LlmbFlight *
llmb_fleet_add(LlmbBatchRow *row, LlmbSpool *spool, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	LlmbFlight *flight = palloc0(sizeof(LlmbFlight));

	flight->row = row;
	flight->context = context;
	flight->spool = spool;
	flight->unsent = row->realtime;
	flights = lappend(flights, flight);
	MemoryContextSwitchTo(old);
	return flight;
}

typedef struct JobCount
{
	int64		job;			/* the key */
	int			flying;
} JobCount;

static int64 freed = 0;

int64
llmb_fleet_freed(void)
{
	return freed;
}

void
llmb_fleet_forget(LlmbFlight *flight)
{
	freed++;
	flights = list_delete_ptr(flights, flight);
	llmb_spool_free(flight->spool);
	MemoryContextDelete(flight->context);
	pfree(flight);
	wants_look = true;
}

void
llmb_fleet_served(LlmbFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	flights = lappend(list_delete_ptr(flights, flight), flight);
	MemoryContextSwitchTo(old);
}

bool
llmb_fleet_has_batch(int64 batch)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		if (((LlmbFlight *) lfirst(lc))->row->id == batch)
			return true;
	}
	return false;
}

bool
llmb_fleet_has_job(int64 job)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		if (((LlmbFlight *) lfirst(lc))->row->job == job)
			return true;
	}
	return false;
}

bool
llmb_fleet_creating(const LlmbFlight *mine)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbFlight *other = lfirst(lc);

		if (other != mine && strcmp(other->row->server, mine->row->server) == 0 &&
			strcmp(other->row->owner, mine->row->owner) == 0 &&
			(other->row->state == LLMB_VERIFYING ||
			 (other->row->state == LLMB_SUBMITTING && llmb_call_busy(&other->party))))
			return true;
	}
	return false;
}

LlmbFlight *
llmb_fleet_verifying(const LlmbFlight *mine)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbFlight *other = lfirst(lc);

		if (other != mine && other->row->state == LLMB_VERIFYING &&
			strcmp(other->row->server, mine->row->server) == 0 && strcmp(other->row->owner, mine->row->owner) == 0)
			return other;
	}
	return NULL;
}

static bool
is_unsent(const LlmbFlight *flight)
{
	if (flight->row->realtime && flight->row->state < LLMB_ENDED)
		return flight->unsent;
	return flight->row->state == LLMB_PLANNED || flight->row->state == LLMB_UPLOADING;
}

int
llmb_fleet_count(const LlmbJob *job, bool *unsent)
{
	int			count = 0;
	ListCell   *lc;

	*unsent = false;
	foreach(lc, flights)
	{
		LlmbFlight *flight = lfirst(lc);

		if (strcmp(flight->row->server, job->server) != 0 || strcmp(flight->row->owner, job->owner) != 0)
			continue;
		count += !flight->row->realtime;
		*unsent |= flight->row->job == job->id && is_unsent(flight);
	}
	return count;
}

LlmbFlight *
llmb_fleet_unsent(int64 job)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job && !flight->cancel && is_unsent(flight))
			return flight;
	}
	return NULL;
}

bool
llmb_fleet_landing(int64 job)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job &&
			(flight->row->state == LLMB_ENDED || flight->row->state == LLMB_FETCHING))
			return true;
	}
	return false;
}

bool
llmb_fleet_realtime(int64 job)
{
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbFlight *flight = lfirst(lc);

		if (flight->row->job == job && flight->row->realtime && !llmb_batch_is_over(flight->row->state))
			return true;
	}
	return false;
}

int64
llmb_fleet_tokens(const char *server, const char *owner, const char *model)
{
	int64		tokens = 0;
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbBatchRow *row = ((LlmbFlight *) lfirst(lc))->row;

		if (!row->realtime && row->state < LLMB_ENDED && row->model && strcmp(row->model, model) == 0 &&
			strcmp(row->server, server) == 0 && strcmp(row->owner, owner) == 0)
			tokens += row->forecast_tokens;
	}
	return tokens;
}

int64
llmb_fleet_job_tokens(int64 job)
{
	int64		tokens = 0;
	ListCell   *lc;

	foreach(lc, flights)
	{
		LlmbBatchRow *row = ((LlmbFlight *) lfirst(lc))->row;

		if (!row->realtime && row->state < LLMB_ENDED && row->job == job)
			tokens += row->forecast_tokens;
	}
	return tokens;
}

/* Jobs and flights are both few or many: the table spares the product of the two. */
void
llmb_fleet_count_jobs(List *jobs)
{
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(JobCount), .hcxt = CurrentMemoryContext};
	HTAB	   *counts = hash_create("llm_batch flights", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ListCell   *lc;
	bool		found;

	foreach(lc, flights)
	{
		LlmbFlight *flight = lfirst(lc);
		JobCount   *count = hash_search(counts, &flight->row->job, HASH_ENTER, &found);

		count->flying = found ? count->flying + 1 : 1;
	}
	foreach(lc, jobs)
	{
		LlmbJob    *job = lfirst(lc);
		JobCount   *count = hash_search(counts, &job->id, HASH_FIND, &found);

		job->flying = found ? count->flying : 0;
	}
	hash_destroy(counts);
}

void
llmb_fleet_look_at_jobs(void)
{
	wants_look = true;
}

bool
llmb_fleet_wants_look(void)
{
	bool		was = wants_look;

	wants_look = false;
	return was;
}
