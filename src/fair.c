/*-------------------------------------------------------------------------
 *
 * fair.c
 *		Whose turn it is.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "fair.h"

/* What one job leaves of a limit ... */
#define LEFT_FOR_OTHERS	8
/* ... unless that is so low that a place is too much to leave empty. */
#define SMALL_LIMIT		4

static int
by_need(const ListCell *a, const ListCell *b)
{
	const LlmbJob *x = lfirst(a);
	const LlmbJob *y = lfirst(b);

	if (x->priority != y->priority)
		return x->priority > y->priority ? -1 : 1;
	if (x->flying != y->flying)
		return x->flying < y->flying ? -1 : 1;
	if (x->served != y->served)
		return x->served < y->served ? -1 : 1;
	return x->id < y->id ? -1 : 1;
}

/* When jobs were given their last batch, counted from the start of this process. */
typedef struct Served
{
	int64		job;			/* the key */
	int64		at;
} Served;

/* More are not remembered: then all are equal once. */
#define MAX_SERVED	10000

static HTAB *served = NULL;
static int64 serving = 0;

/*
 * Who shares places.  Jobs that had no batch yet and the others take turns
 * there: one that has just come does not wait for all those that go on, and
 * these do not wait for ever while new ones keep coming.
 */
typedef struct Sharing
{
	char	   *server;
	char	   *owner;
	bool		newcomer_last;	/* the last batch went to a job that had none before */
} Sharing;

static List *sharings = NIL;

static Sharing *
sharing_of(const LlmbJob *job)
{
	MemoryContext before;
	Sharing    *sharing;
	ListCell   *lc;

	foreach(lc, sharings)
	{
		sharing = lfirst(lc);
		if (strcmp(sharing->server, job->server) == 0 && strcmp(sharing->owner, job->owner) == 0)
			return sharing;
	}
	before = MemoryContextSwitchTo(TopMemoryContext);
	sharing = palloc0(sizeof(Sharing));
	sharing->server = pstrdup(job->server);
	sharing->owner = pstrdup(job->owner);
	sharings = lappend(sharings, sharing);
	MemoryContextSwitchTo(before);
	return sharing;
}

void
llmb_fair_served(const LlmbJob *job, bool realtime)
{
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(Served)};
	Served	   *entry;
	bool		found;

	if (served && hash_get_num_entries(served) >= MAX_SERVED)
	{
		hash_destroy(served);
		served = NULL;
	}
	if (served == NULL)
		served = hash_create("llm_batch served jobs", 64, &control, HASH_ELEM | HASH_BLOBS);
	entry = hash_search(served, &job->id, HASH_ENTER, &found);
	entry->at = ++serving;
	if (!realtime)
		sharing_of(job)->newcomer_last = !found;
}

static int64
served_at(int64 job)
{
	Served	   *entry = served ? hash_search(served, &job, HASH_FIND, NULL) : NULL;

	return entry ? entry->at : 0;
}

static int
by_turn(const ListCell *a, const ListCell *b)
{
	const LlmbJob *x = lfirst(a);
	const LlmbJob *y = lfirst(b);

	if (x->priority != y->priority)
		return x->priority > y->priority ? -1 : 1;
	if (x->turn != y->turn)
		return x->turn < y->turn ? -1 : 1;
	return by_need(a, b);
}

typedef struct Owner
{
	const char *name;
	int			priority;
	int			jobs;
} Owner;

/* A job's turn is how many of its owner's jobs of that priority stand before it. */
static void
give_turns(List *jobs)
{
	Owner	   *owners = palloc(sizeof(Owner) * Max(list_length(jobs), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, jobs)
	{
		LlmbJob    *job = lfirst(lc);
		int			i = 0;

		while (i < count && (owners[i].priority != job->priority || strcmp(owners[i].name, job->owner) != 0))
			i++;
		if (i == count)
			owners[count++] = (Owner) {job->owner, job->priority, 0};
		job->turn = owners[i].jobs++;
	}
	pfree(owners);
}

void
llmb_fair_order(List *jobs)
{
	ListCell   *lc;

	foreach(lc, jobs)
	{
		LlmbJob    *job = lfirst(lc);

		job->served = served_at(job->id);
		if (job->served == 0 && sharing_of(job)->newcomer_last)
			job->served = PG_INT64_MAX;
	}
	list_sort(jobs, by_need);
	give_turns(jobs);
	list_sort(jobs, by_turn);
}

int64
llmb_fair_share(int64 limit)
{
	return limit < SMALL_LIMIT ? limit : limit - Max(1, limit / LEFT_FOR_OTHERS);
}
