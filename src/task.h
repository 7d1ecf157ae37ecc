/*-------------------------------------------------------------------------
 *
 * task.h
 *		Tasks: named definitions of jobs, and the tables they are attached to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TASK_H
#define LLMB_TASK_H

#include "utils/rel.h"

#include "ask.h"
#include "store_task.h"

/* What the names of triggers begin with that attach() makes. */
#define LLMB_TRIGGER_PREFIX	"llm_batch_"

/*
 * The task of that name, if the current user has the privileges of its owner;
 * else raises that it does not exist.
 */
extern LlmbTask *llmb_own_task(const char *name);

/* The trigger that attach() makes for that event: 0 INSERT, 1 UPDATE, 2 DELETE, 3 TRUNCATE. */
extern char *llmb_trigger_name(int64 attachment, int form);

/* Has the relation all of them? */
extern bool llmb_has_triggers(Oid relid, int64 attachment);

/* All attachments (of LlmbAttachment) to a table, to what it is a part of, and to its parts. */
extern List *llmb_attachments_of_family(Oid relid);

/*
 * A trigger that somebody created by hand feeds the task from a table that it
 * is not attached to.  It is attached now, if its owner owns the table as
 * well; else raises.  Returns the attachment.
 */
extern LlmbAttachment *llmb_task_attach_by_trigger(const LlmbTask *task, Relation rel);

#endif							/* LLMB_TASK_H */
