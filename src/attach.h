/*-------------------------------------------------------------------------
 *
 * attach.h
 *		Which tables a task answers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_ATTACH_H
#define LLMB_ATTACH_H

#include "utils/rel.h"

#include "store_task.h"

/* All attachments (of LlmbAttachment) to a table, to what it is a part of, and to its parts. */
extern List *llmb_attachments_of_family(Oid relid);

/*
 * A trigger that somebody created by hand feeds the task from a table that it
 * is not attached to.  It is attached now, if its owner owns the table as
 * well; else raises.  Returns the attachment.
 */
extern LlmbAttachment *llmb_task_attach_by_trigger(const LlmbTask *task, Relation rel);

/*
 * A task has changed: its tables are checked once more, and what sessions know
 * of them is forgotten.  Where more columns matter than before, or rows are
 * chosen otherwise (refiltered), waits for transactions that write there.
 */
extern void llmb_renew_attachments(const LlmbTask *task, bool refiltered);

#endif							/* LLMB_ATTACH_H */
