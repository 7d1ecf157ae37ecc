/*-------------------------------------------------------------------------
 *
 * lane.h
 *		The way to a provider in real time with one key, and how jobs that go
 *		the same way share it.
 *
 * A lane has as many places as the option realtime_concurrency says.  A place
 * is held by an item from the moment it is marked until its result is
 * committed; so the places bound what a crash leaves uncertain, as well as
 * what is out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_LANE_H
#define LLMB_LANE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "pace.h"

typedef struct LlmbLane
{
	char	   *server;
	char	   *owner;
	LlmbPace	pace;
	int			held;			/* places, of all members */
	size_t		bytes;			/* of the requests in them */
	int			sharing;		/* members that have something to send */
	int64		rounds;			/* how often places were taken */
	int64		sends;
	bool		freed;			/* since the last llmb_lane_wake() */
	List	   *members;		/* of LlmbLaneMember */
} LlmbLane;

/* One set of items on its way. */
typedef struct LlmbLaneMember
{
	LlmbLane   *lane;
	TimestampTz *due;			/* the time of its next step; set to 0 to wake it */
	int			held;			/* places, those that are parked among them */
	int			parked;			/* of these: not counted in the lane */
	size_t		parked_bytes;
	bool		sharing;
	bool		wants_place;	/* the others hold what it could use */
	bool		wants_pace;		/* too many are out for what it has ready */
	bool		has_ready;		/* and it has */
	int64		sent;			/* lane->sends when it last sent */
	int64		served;			/* lane->rounds when it last took a place */
} LlmbLaneMember;

/* Joins the lane of that server and owner; until llmb_lane_leave(). */
extern void llmb_lane_join(LlmbLaneMember *member, const char *server, const char *owner,
						   TimestampTz *due);
/* Gives back what it holds, wakes others, and leaves. */
extern void llmb_lane_leave(LlmbLaneMember *member);

/* Has it something to send, and may it? */
extern void llmb_lane_share(LlmbLaneMember *member, bool sharing);

/*
 * How many places it may take once "answered" of its own are free: its share,
 * what is free, and nothing while one that holds none has waited longer.
 */
extern int	llmb_lane_room(const LlmbLaneMember *member, int answered);
/* Is there memory for one more request?  For one there always is. */
extern bool llmb_lane_has_memory(const LlmbLaneMember *member);

extern void llmb_lane_take(LlmbLaneMember *member, size_t bytes);
extern void llmb_lane_give(LlmbLaneMember *member, size_t bytes);

/*
 * So many of its places, with so many bytes, are of no use to it while nothing
 * may be sent (the job is paused, the key is refused): others may have them.
 * 0 takes them back, which may be more than there are places: what is out is
 * bounded by the pace all the same.
 */
extern void llmb_lane_park(LlmbLaneMember *member, int places, size_t bytes);

/*
 * While little may be out: must it let others go first, that have something
 * ready and have sent nothing for longer?  They are woken then.
 */
extern bool llmb_lane_yields(LlmbLaneMember *member);
extern void llmb_lane_sent(LlmbLaneMember *member);

/* Wakes those that found no place, if some have become free. */
extern void llmb_lane_wake(LlmbLane *lane);
/* One fewer is out: wakes those that have something ready. */
extern void llmb_lane_wake_for_pace(LlmbLane *lane);

#endif							/* LLMB_LANE_H */
