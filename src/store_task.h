/*-------------------------------------------------------------------------
 *
 * store_task.h
 *		Tasks, the tables they are attached to, and what has changed there;
 *		as store.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_TASK_H
#define LLMB_STORE_TASK_H

#include "store.h"

typedef struct LlmbTask
{
	int64		id;				/* 0: not stored yet */
	char	   *name;
	char	   *owner;
	bool		enabled;
	bool		ours;			/* not dumped, restored or copied from elsewhere */
	int			version;		/* of prompt, system, params and schema */
	char	   *preset;
	char	   *server;
	char	   *model;
	char	   *mode;
	int			priority;
	char	   *target;			/* as given; NULL none */
	char	   *key;
	char	   *filter;
	bool		mask_pii;
	char	   *max_cost;		/* USD, a number */
	char	   *deadline;		/* an interval */
	int			max_items;
	char	   *max_wait;		/* an interval */
	char	   *labels;			/* JSON */
	char	   *on_success;
	char	   *on_error;
	char	   *time_zone;
	char	   *prompt;
	char	   *system;
	char	   *params;			/* JSON */
	char	   *schema;			/* JSON, as given; NULL derived */
} LlmbTask;

/* Inserts it and its first version; false when the name is taken.  Sets id. */
extern bool llmb_store_new_task(LlmbTask *task);
/* Writes all members but id, name and owner; a version that is new is added. */
extern void llmb_store_change_task(const LlmbTask *task);
/* Until the transaction ends nobody else changes that task; waits for whoever is doing so. */
extern void llmb_store_lock_task(int64 task);
extern void llmb_store_drop_task(int64 task);
/* By name or by id (name NULL); NULL: no such task. */
extern LlmbTask *llmb_store_task(const char *name, int64 id);

/* A table whose rows a task answers. */
typedef struct LlmbAttachment
{
	int64		id;				/* 0: not stored yet */
	int64		task;
	char	   *source_schema;
	char	   *source_table;
	char	   *source_owner;	/* role that the table belongs to */
	char	  **keys;
	int			key_count;
	char	  **targets;
	int			target_count;
	char	   *prompt;			/* for the columns of this table */
	char	   *schema;			/* JSON */
	int64		targets_hash;
	bool		row_level;
	bool		triggers;		/* attach() has made them; else somebody did by hand */
} LlmbAttachment;

extern void llmb_store_attach(LlmbAttachment *attachment);	/* sets id of a new one */
extern void llmb_store_detach(int64 attachment);
extern LlmbAttachment *llmb_store_attachment(int64 id);	/* NULL: there is none */
/* Of that task to that table, or 0. */
extern int64 llmb_store_find_attachment(int64 task, const char *source_schema, const char *source_table);
/* of LlmbAttachment: of one task; or (task 0) all to one table. */
extern List *llmb_store_attachments(int64 task, const char *source_schema, const char *source_table);

/* ---- what has changed ---- */

/* The kinds of llm_batch.inbox. */
#define LLMB_ROW_CHANGED	'r'
#define LLMB_ROW_NEW		'n'
#define LLMB_ROW_DELETED	'd'
#define LLMB_ROW_AGAIN		'a'
#define LLMB_TABLE_EMPTIED	't'
#define LLMB_PART_EMPTIED	'p'
#define LLMB_ROWS_LOST		'l'

/* An attachment that has something in its inbox. */
typedef struct LlmbInbox
{
	int64		attachment;
	int64		task;
	char	   *owner;
	int			priority;
	bool		full;			/* max_items are there */
	bool		held;			/* off, restored, or its last job is not sent yet */
	TimestampTz due;			/* when the oldest has waited for max_wait */
} LlmbInbox;

/* By priority, then age; rows with ids up to "proven" are known to be gone. */
extern List *llmb_store_inboxes(int64 proven);

typedef struct LlmbChange
{
	int64		id;
	char		kind;
	char	   *key;			/* NULL: of the whole table */
} LlmbChange;

/* The last time, among the next "limit" changes, that the whole table was emptied; 0: it was not. */
extern int64 llmb_store_emptied(int64 attachment, int64 proven, int limit);
/* Takes at most "limit" changes out of an inbox, the oldest first. */
extern LlmbChange *llmb_store_take_changes(int64 attachment, int64 proven, int limit, int *count);
/* The highest id that any change may have been given so far. */
extern int64 llmb_store_last_change_id(void);
/* Removes what belongs to attachments that are gone, some of it: was there any? */
extern bool llmb_store_clean_attachments(void);
/* Why the worker does nothing for it; NULL: nothing is wrong. */
extern void llmb_store_gathering_reason(int64 attachment, const char *reason);
/* The same, and nothing is done for it until the task is changed. */
extern void llmb_store_bar_gathering(int64 attachment, const char *reason);
/* Is there anything in the inboxes that is to be looked at? */
extern bool llmb_store_has_changes(void);
extern void llmb_store_gathered(int64 attachment, int rows, bool new_job);

/* ---- the newest item of each row ---- */

typedef struct LlmbTaskItem
{
	char	   *key;
	int64		hash;
	int64		job;			/* 0: the row has none */
	int			ordinal;
	int			version;
	bool		failed;			/* it ended, and not well */
} LlmbTaskItem;

/* Fills the items of these keys, by their order. */
extern void llmb_store_task_items(int64 attachment, LlmbTaskItem *items, int count);
/* From now on these are the newest; all of one job and version. */
extern void llmb_store_set_task_items(int64 attachment, const LlmbTaskItem *items, int count);
/* These rows have none any more. */
extern void llmb_store_drop_task_items(int64 attachment, const LlmbTaskItem *items, int count);
/* Keys of the rows whose newest item is in a job that has unsent items; *count of them. */
extern char **llmb_store_unsent_keys(int64 attachment, int *count);
/*
 * Before items of a task's job are sent: those whose rows have changed since,
 * by the inbox, are withdrawn; they are looked at again with the next
 * gathering.  Returns how many.
 */
extern int	llmb_store_withdraw_changed(int64 attachment, int64 job);
/*
 * All rows of the attachment are gone: items that are not sent yet end, and
 * all are forgotten, some thousands at a time, by their keys.  Starts at that
 * key ("" at first) and gives the one to go on from, NULL when that was all.
 */
extern char *llmb_store_empty_task_items(int64 attachment, const char *from);
/*
 * Ends items that are not on their way yet, with that code; the others are
 * left alone.  Returns how many.
 */
extern int	llmb_store_withdraw(const LlmbTaskItem *items, int count, LlmbCode code);
/*
 * Of the results of a task's job: which are no row's newest item any more?
 * Sets codes[]: LLMB_OK for those that are, LLMB_STALE where there is a newer
 * one, LLMB_CANCELLED_ITEM where the row is gone.
 */
extern void llmb_store_superseded(int64 attachment, int64 job, const LlmbResult *const *results, int count, LlmbCode *codes);

#endif							/* LLMB_STORE_TASK_H */
