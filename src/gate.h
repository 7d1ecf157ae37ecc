/*-------------------------------------------------------------------------
 *
 * gate.h
 *		After a promotion: who may send already.
 *
 * The tables of a promoted standby may be some seconds old.  There is a gate
 * for each server and owner; failover.c compares what the provider lists with
 * our tables, and opens it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_GATE_H
#define LLMB_GATE_H

#include "store_home.h"

/* Reasons of jobs that stand before a gate begin so. */
#define LLMB_COMPARING "comparing: "

/* Found by who stands before it; all but the names is failover.c's to change. */
typedef struct LlmbGate
{
	char	   *server;
	char	   *owner;
	int64		job;			/* who asked last */
	bool		open;
	bool		listed;			/* there was a complete list: some may go */
	bool		asleep;			/* nobody is there who could send: until somebody asks */
	char		why[300];		/* progress.reason of those who wait */
} LlmbGate;

/* Outside of a turn: is this another timeline than the one we began on? */
extern void llmb_gate_begin(void);

/* The present timeline, and what was known when it began. */
extern int	llmb_gate_timeline(void);
extern const LlmbHome *llmb_gate_home(void);

/*
 * In a turn: may the job send?  False: first its server is compared with our
 * tables, which this call begins if need be; the job says so in its reason.
 * One complete list will do for requests in real time, which are in no list,
 * and for jobs that the old primary cannot have known.
 */
extern bool llmb_gate_allows(const LlmbJob *job, bool realtime);

/* NULL: nobody has stood before it yet. */
extern LlmbGate *llmb_gate_find(const char *server, const char *owner);

/* All of them, as LlmbGate; they live as long as the worker. */
extern const List *llmb_gates(void);

/* Is one shut, and somebody before it? */
extern bool llmb_gate_busy(void);

#endif							/* LLMB_GATE_H */
