/*-------------------------------------------------------------------------
 *
 * fair.c
 *		Whose turn it is.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

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
	return x->id < y->id ? -1 : 1;
}

static int
by_turn(const ListCell *a, const ListCell *b)
{
	const LlmbJob *x = lfirst(a);
	const LlmbJob *y = lfirst(b);

	if (x->priority == y->priority && x->turn != y->turn)
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
	list_sort(jobs, by_need);
	give_turns(jobs);
	list_sort(jobs, by_turn);
}

int64
llmb_fair_share(int64 limit)
{
	return limit < SMALL_LIMIT ? limit : limit - Max(1, limit / LEFT_FOR_OTHERS);
}
