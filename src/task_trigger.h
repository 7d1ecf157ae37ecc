/*-------------------------------------------------------------------------
 *
 * task_trigger.h
 *		The triggers that attach() makes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TASK_TRIGGER_H
#define LLMB_TASK_TRIGGER_H

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

#include "store_task.h"

/* What their names begin with. */
#define LLMB_TRIGGER_PREFIX	"llm_batch_"

/* As SQL writes it, with its schema. */
extern char *llmb_relation_name(Oid relid);

/* The table and, if it has partitions, all of these (of Oid), which are locked so. */
extern List *llmb_relation_tree(Oid relid, LOCKMODE lockmode);

/* The name of the trigger for that event: 0 INSERT, 1 UPDATE, 2 DELETE, 3 TRUNCATE. */
extern char *llmb_trigger_name(int64 attachment, int form);

/* Has the relation all of them, or any? */
extern bool llmb_has_triggers(Oid relid, int64 attachment);
extern bool llmb_has_any_trigger(Oid relid, int64 attachment);

/* Between llmb_ddl_begin() and its end, or not: on the table and all its partitions.  As the current user; those that are there stay. */
extern void llmb_create_triggers(const LlmbTask *task, const LlmbAttachment *attachment, Oid relid);
extern void llmb_drop_triggers(int64 attachment, Oid relid);

/* Those that somebody made by hand stay, and the next row that fires one attaches the table again. */
extern void llmb_warn_of_triggers(const LlmbTask *task, Oid relid);

/*
 * Sessions forget what they know of triggers on the relation, when that
 * commits.  InvalidOid: on all, for a table whose name is not known any more.
 */
extern void llmb_triggers_forget(Oid relid);

#endif							/* LLMB_TASK_TRIGGER_H */
