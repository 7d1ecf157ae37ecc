/*-------------------------------------------------------------------------
 *
 * lane.c
 *		The way to a provider in real time with one key, and how jobs that go
 *		the same way share it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "lane.h"

/*
 * Bodies that are held for one key, in bytes; each is there twice while it is
 * out.  One may come on top.
 */
#define BODIES_ENOUGH	(8 * 1024 * 1024)

static List *lanes = NIL;		/* of LlmbLane: one for each key that was used */

static LlmbLane *
find_lane(const char *server, const char *owner)
{
	LlmbLane   *lane;
	ListCell   *lc;

	foreach(lc, lanes)
	{
		lane = lfirst(lc);
		if (strcmp(lane->server, server) == 0 && strcmp(lane->owner, owner) == 0)
			return lane;
	}
	lane = palloc0(sizeof(LlmbLane));
	lane->server = pstrdup(server);
	lane->owner = pstrdup(owner);
	lanes = lappend(lanes, lane);
	return lane;
}

void
llmb_lane_join(LlmbLaneMember *member, const char *server, const char *owner, TimestampTz *due)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	memset(member, 0, sizeof(LlmbLaneMember));
	member->due = due;
	member->lane = find_lane(server, owner);
	member->lane->members = lappend(member->lane->members, member);
	MemoryContextSwitchTo(old);
}

void
llmb_lane_leave(LlmbLaneMember *member)
{
	LlmbLane   *lane = member->lane;

	Assert(member->held == 0);
	llmb_lane_share(member, false);
	lane->members = list_delete_ptr(lane->members, member);
	llmb_lane_wake(lane);
	member->lane = NULL;
}

void
llmb_lane_share(LlmbLaneMember *member, bool sharing)
{
	if (member->sharing == sharing)
		return;
	member->lane->sharing += sharing ? 1 : -1;
	member->lane->freed |= !sharing;
	member->sharing = sharing;
}

/* Members that hold no place and have waited for longer than this one. */
static int
waiting_longer(const LlmbLaneMember *member)
{
	int			count = 0;
	ListCell   *lc;

	foreach(lc, member->lane->members)
	{
		const LlmbLaneMember *other = lfirst(lc);

		count += other != member && other->sharing && other->held == 0 && other->served < member->served;
	}
	return count;
}

int
llmb_lane_room(const LlmbLaneMember *member, int answered)
{
	const LlmbLane *lane = member->lane;
	int			most = lane->pace.most;
	int			sharing = Max(lane->sharing, 1);
	int			share = (most + sharing - 1) / sharing;

	return Min(share - (member->held - answered), most - (lane->held - answered) - waiting_longer(member));
}

bool
llmb_lane_has_memory(const LlmbLaneMember *member)
{
	return member->held == 0 || member->lane->bytes < BODIES_ENOUGH;
}

void
llmb_lane_take(LlmbLaneMember *member, size_t bytes)
{
	member->held++;
	member->lane->held++;
	member->lane->bytes += bytes;
	member->served = ++member->lane->rounds;
}

void
llmb_lane_give(LlmbLaneMember *member, size_t bytes)
{
	member->held--;
	member->lane->held--;
	member->lane->bytes -= bytes;
	member->lane->freed = true;
}

void
llmb_lane_park(LlmbLaneMember *member, int places, size_t bytes)
{
	LlmbLane   *lane = member->lane;

	lane->held += member->parked - places;
	lane->bytes += member->parked_bytes - bytes;
	lane->freed |= places > member->parked;
	member->parked = places;
	member->parked_bytes = bytes;
}

bool
llmb_lane_yields(LlmbLaneMember *member)
{
	LlmbLane   *lane = member->lane;
	int			longer = 0;
	ListCell   *lc;

	foreach(lc, lane->members)
	{
		const LlmbLaneMember *other = lfirst(lc);

		longer += other != member && other->has_ready && other->sent < member->sent;
	}
	if (longer == 0 || (int) lane->pace.limit - lane->pace.out > longer)
		return false;
	foreach(lc, lane->members)
	{
		LlmbLaneMember *other = lfirst(lc);

		if (other != member && other->has_ready)
			*other->due = 0;
	}
	return true;
}

void
llmb_lane_sent(LlmbLaneMember *member)
{
	member->sent = ++member->lane->sends;
}

void
llmb_lane_wake(LlmbLane *lane)
{
	ListCell   *lc;

	if (!lane->freed)
		return;
	lane->freed = false;
	foreach(lc, lane->members)
	{
		LlmbLaneMember *member = lfirst(lc);

		if (member->wants_place)
			*member->due = 0;
		member->wants_place = false;
	}
}

void
llmb_lane_wake_for_pace(LlmbLane *lane)
{
	ListCell   *lc;

	foreach(lc, lane->members)
	{
		LlmbLaneMember *member = lfirst(lc);

		if (member->wants_pace)
			*member->due = 0;
		member->wants_pace = false;
	}
}
