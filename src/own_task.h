/*-------------------------------------------------------------------------
 *
 * own_task.h
 *		Whose a task is, and what its jobs are asked as.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_OWN_TASK_H
#define LLMB_OWN_TASK_H

#include "fmgr.h"

#include "ask.h"
#include "store_task.h"

/* InvalidOid: the role does not exist any more. */
extern Oid	llmb_task_owner(const LlmbTask *task);

/*
 * The task of that name, if the current user has the privileges of its owner;
 * else raises that it does not exist.
 */
extern LlmbTask *llmb_own_task(const char *name);

/* The one that the first argument names; function: who asks, for messages.  Raises where nothing can be written. */
extern LlmbTask *llmb_task_arg(FunctionCallInfo fcinfo, const char *function);

/* The same, as it is once those are through who are changing it; others wait until we are. */
extern LlmbTask *llmb_task_to_change(FunctionCallInfo fcinfo, const char *function);

typedef struct LlmbIdentity
{
	Oid			user;
	int			security;
} LlmbIdentity;

/*
 * What is checked, and what runs, is what the owner may do, whoever asks.
 * Raises when the role does not exist any more.
 */
extern void llmb_become_owner(const LlmbTask *task, LlmbIdentity *was);
extern void llmb_become_self(const LlmbIdentity *was);

/* As the task's owner: what a job of it would be.  Raises for what could not be sent. */
extern LlmbAsk *llmb_ask_of_task(const LlmbTask *task, int pack);

#endif							/* LLMB_OWN_TASK_H */
