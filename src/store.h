/*-------------------------------------------------------------------------
 *
 * store.h
 *		The door to our own tables.
 *
 * Every function runs in the caller's transaction, as the extension's owner
 * with search_path pinned, and leaves nothing open.  What it returns is
 * palloc'd in the caller's memory context.  Errors of SQL are raised.
 *
 * Names stand in the tables, oids never: a dump must restore anywhere.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_H
#define LLMB_STORE_H

#include "postgres.h"

#include "batch.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "pii.h"
#include "utils/array.h"
#include "utils/numeric.h"

/* ---- jobs ---- */

typedef struct LlmbJob
{
	int64		id;
	char	   *owner;
	char	   *server;
	char	   *model;
	char	   *mode;			/* as asked for: auto, batch, realtime */
	char	   *state;
	char	   *reason;
	int			total;
	int			queued;
	int			in_flight;
	int			succeeded;
	int			failed;
	int			cancelled;
	int			unapplied;
	int			planned_to;
	int			retry_attempt;	/* attempt of the queue row due next; 0 none */
	TimestampTz retry_at;		/* when that is */
	bool		retry_realtime; /* it fell back from a batch */
	double		cost;			/* USD so far; of what has a known price */
	double		flying_cost;	/* USD that its live batches are expected to cost */
	double		max_cost;		/* USD; -1 none */
	bool		live_batches;	/* some batch is not over */
	bool		past_deadline;
	TimestampTz deadline;		/* 0: none */
	bool		ours;			/* not dumped, restored or copied from elsewhere */
	bool		commanded;		/* something is asked of it and not yet done, or follows its end at once */
	bool		awaits_mend;	/* paused for what is mended elsewhere; never set in a copy */
	int			priority;
	int64		attachment;		/* of the task that made it; 0 none */
	int			flying;			/* set by the fleet: its batches that are out */
	int			turn;			/* set by fair.c */
	int64		served;			/* set by fair.c */
	bool		fresh;			/* items above planned_to wait to be sent */
	int64		look_again_ms;	/* set by planning: an obstacle is looked at again after so long */
	bool		atomic;			/* all answers or none are written */
	bool		held;			/* it waits for another job to end; it may have no items yet */
	int64		after;			/* that job; 0 none */
	char	   *after_state;	/* with held: how that has ended, or 'gone'; NULL not yet, or what follows it at once is still to run */
} LlmbJob;

/* What a job asks; text members NULL when absent. */
typedef struct LlmbJobDef
{
	char	   *source_schema;
	char	   *source_table;
	char	   *source_owner;	/* who it belonged to at submit; NULL not known */
	char	  **key_columns;
	int			key_count;
	char	  **target_columns;
	int			target_count;
	char	   *prompt;
	char	   *system;
	char	   *params;			/* JSON */
	char	   *schema;			/* JSON */
	char	   *time_zone;		/* of the submitting session */
	int64		targets_hash;	/* llmb_targets_hash() at submit */
	int64		attachment;		/* of the task that made the job; 0 none.  Read only */
	bool		mask_pii;		/* personal data is replaced before it leaves */
	char	   *filter;			/* SQL condition on the source */
	int64		row_limit;		/* of the source; -1 none */
	char	   *query;			/* of submit_query() */
	char	   *on_success;		/* SQL that runs when the job ends well */
	char	   *on_error;		/* and when it does not */
	bool		atomic;			/* of the job; as read, never as given */
} LlmbJobDef;

typedef struct LlmbNewJob
{
	LlmbJobDef	def;
	char	   *server;
	char	   *model;
	char	   *mode;
	char	   *labels;			/* JSON */
	char	   *request_key;
	int64		request_hash;
	int			priority;
	TimestampTz deadline;		/* 0: none */
	char	   *max_cost;		/* USD, a number; NULL none */
	bool		atomic;			/* all answers or none are written */
	int64		after;			/* it starts when that job has ended; 0 at once */
	char	   *task;			/* that made it; NULL none */
	int64		attachment;		/* of the task; 0 none */
	int			prompt_version; /* of the task's prompt; 1 without a task */
} LlmbNewJob;

/* Inserts the job of the current user; 0 when its request_key is taken. */
extern int64 llmb_store_new_job(const LlmbNewJob *job, const char *owner);
/* The job of that request_key: its id (0: none) and its arguments' hash. */
extern int64 llmb_store_find_request(const char *owner, const char *request_key, int64 *hash);
/* The job is complete: total items, all queued. */
extern void llmb_store_job_filled(int64 job, int total);
/* The job is complete but for its items: they are made when job->after has ended. */
extern void llmb_store_job_held(int64 job, int64 after);
/* It waits no more: so many items, of which so many have failed already. */
extern void llmb_store_release_job(int64 job, int total, int failed);
/*
 * Around a change of a job's state, for the log and for who listens: what it is
 * before (NULL when nobody wants to know), and then, if it is another now, a
 * line, and a notification with the commit.
 */
extern char *llmb_store_job_before(int64 job);
extern void llmb_store_log_job(int64 job, const char *before);

extern List *llmb_store_active_jobs(void);	/* of LlmbJob, by priority, id */
extern LlmbJob *llmb_store_job(int64 job);	/* NULL: no such job */
extern LlmbJobDef *llmb_store_job_def(int64 job);
extern bool llmb_store_has_work(void);
/* Was any event ever written here, or restored with all that is older? */
extern bool llmb_store_has_history(void);

/* Adds to the counters of a job; they must sum up to nothing. */
typedef struct LlmbDelta
{
	int			queued;
	int			in_flight;
	int			succeeded;
	int			failed;
	int			cancelled;
	int			unapplied;
	int			uncertain;
	int			cost_unknown;	/* attempts whose cost is not known */
	char	   *cost;			/* USD of attempts, a number; NULL none is known */
	char	   *saved;			/* USD against one-by-one real time; NULL likewise */
} LlmbDelta;

extern bool llmb_job_is_over(const LlmbJob *job);
extern void llmb_store_count(int64 job, const LlmbDelta *delta);
extern void llmb_store_job_state(int64 job, const char *state, const char *reason);
/* Pauses it for what is mended elsewhere: the worker looks again by itself. */
extern void llmb_store_await_mend(int64 job, const char *reason);
/* From paused to where it was. */
extern void llmb_store_resume_job(int64 job);
/* Gives up what was never sent: code 'cancelled' or an error code. */
extern int	llmb_store_drop_rest(int64 job, const char *code);
/* Ends a job with nothing left to do; returns its state, NULL if there is. */
extern char *llmb_store_finish_job(int64 job);
/* Ends it in that state, for a reason that is kept; nothing may be queued or in flight. */
extern void llmb_store_end_job(int64 job, const char *state, const char *reason);
/* How the items of a job failed, in words: codes and how often; palloc'd. */
extern char *llmb_store_failures(int64 job);

/* ---- commands and probes ---- */

typedef struct LlmbCommand
{
	int64		id;
	int64		job;
	char	   *verb;
	ArrayType  *codes;
} LlmbCommand;

extern void llmb_store_command(int64 job, const char *verb, ArrayType *codes);
/* The oldest that is not done; NULL when there is none. */
extern LlmbCommand *llmb_store_next_command(void);
extern void llmb_store_command_done(int64 id);
/* Failed items that retry() with these codes would send: how many. */
extern int64 llmb_store_count_retry(int64 job, ArrayType *codes);
extern int64 llmb_store_count_apply(int64 job);
extern int	llmb_store_do_retry(int64 job, ArrayType *codes);
extern int	llmb_store_do_apply(int64 job);

/*
 * A job whose triggers hold up others is written no more until a person asks
 * for it: barred, and what was asked of it is forgotten, with an event that
 * says why; or (why is NULL) not.
 */
extern void llmb_store_bar_writing(int64 job, const char *why);
extern bool llmb_store_writing_is_barred(int64 job);

typedef struct LlmbProbe
{
	int64		id;
	char	   *server;
	char	   *role;
} LlmbProbe;

extern int64 llmb_store_new_probe(const char *server, const char *role);
extern List *llmb_store_probes(void);
extern void llmb_store_probe_done(int64 id, bool ok, const char *message);
/* True when it is done; then it is removed. */
extern bool llmb_store_take_probe(int64 id, bool *ok, char **message);

/* ---- prompts ---- */

typedef struct LlmbPrompt
{
	int			ordinal;
	char	   *prompt;
	char	   *system;
	char	   *messages;
	char	   *params;
	LlmbPiiMap *map;			/* how it was masked when it was first sent; NULL: it was not yet, or goes as it is */
	bool		masked;			/* by llmb_mask_prompt(): in UTF-8, and system is all there is */
} LlmbPrompt;

/* Returns false to stop; the prompt that was refused counts as not read. */
typedef bool (*LlmbPromptTaker) (const LlmbPrompt *prompt, void *arg);

/*
 * Hands out a job's prompts in the order of ordinals: the never-sent ones
 * above "after", the ones in queue that are due for "attempt" in that mode, or those of a
 * batch; of the first two at most "limit".  Memory does not grow with their
 * number.
 */
extern void llmb_store_new_prompts(int64 job, int after, int limit, LlmbPromptTaker take, void *arg);
extern void llmb_store_queued_prompts(int64 job, int attempt, bool realtime, int limit,
									  LlmbPromptTaker take, void *arg);
extern void llmb_store_batch_prompts(int64 batch, LlmbPromptTaker take, void *arg);

/* ---- batches ---- */

typedef struct LlmbRange
{
	int			lower;			/* first ordinal */
	int			upper;			/* last ordinal + 1 */
	int			position;		/* how many items stand before it */
} LlmbRange;

typedef struct LlmbBatchRow
{
	int64		id;
	int64		job;
	char	   *owner;			/* of the job: whose key it travels with */
	char	   *model;			/* of the job */
	char	   *server;
	bool		realtime;		/* its items are sent singly */
	int			attempt;
	LlmbBatchState state;
	char	   *reason;
	char	   *token;
	int			creates;
	int			item_count;
	int64		file_bytes;
	int64		text_bytes;		/* of its prompts, system prompts included */
	int64		forecast_tokens;	/* input tokens expected */
	char	   *forecast_cost;	/* USD expected, a number; NULL unknown */
	int			marked;			/* realtime: so many may have been sent */
	int			done;
	int			failed;
	int			tries;
	char	   *remote_input;
	char	   *remote_id;
	char	   *remote_output;
	char	   *remote_errors;
	char	   *remote_end;
	TimestampTz stray_at;		/* when an upload was last not answered; 0 never */
	char	   *route;			/* hash of where its create went, and with which key; NULL not known */
	char	   *error_code;		/* why the batch failed or was cancelled */
	TimestampTz created_at;
	TimestampTz intent_at;
	TimestampTz submitted_at;
	TimestampTz cancelled_at;
	TimestampTz provider_ended_at;	/* when it ended there; 0 not known */
	TimestampTz ended_at;		/* when that was seen */
	LlmbRange  *ranges;
	int			range_count;
} LlmbBatchRow;

/*
 * Adds a planned batch, takes its items out of what is queued, and fills in
 * id and created_at.
 */
extern void llmb_store_add_batch(LlmbBatchRow *batch);
/* An item that failed before any batch took it, with that error; what comes behind it goes on. */
extern void llmb_store_fail_unplanned(int64 job, int ordinal, int attempt, LlmbCode code, char *error);
/* Deletes the prompts of a batch's items that are answered, and what was masked in them: all of them? */
extern void llmb_store_purge_prompts(const LlmbBatchRow *batch, bool all, bool masked);
/* Ends the items of a batch that was never sent, with that code. */
extern void llmb_store_end_unsent(const LlmbBatchRow *batch, LlmbCode code);
/* Is this the provider's id of a batch of ours? */
extern bool llmb_store_knows_remote(const char *server, const char *remote_id);
extern List *llmb_store_live_batches(void);	/* of LlmbBatchRow */
extern LlmbBatchRow *llmb_store_batch(int64 id);	/* NULL: no such batch */
/* Writes back all that can change; "was" is the state it must still have. */
extern void llmb_store_save_batch(const LlmbBatchRow *batch, LlmbBatchState was);
/* Marks in seen[] (by position) the items that have their result already. */
extern int	llmb_store_seen(const LlmbBatchRow *batch, bool *seen);

/* A request file that is to be deleted at its provider. */
typedef struct LlmbLeftover
{
	int64		batch;
	char	   *server;
	char	   *owner;			/* of the job: whose key it went with */
	char	   *remote_file;	/* NULL: copies are to be looked for by the batch's token */
	int			tries;
} LlmbLeftover;

/* Has a request file of the batch deleted, after so many milliseconds; NULL: its copies looked for.  False: known already. */
extern bool llmb_store_leave(const LlmbBatchRow *batch, const char *remote_file, int64 delay_ms);
/* Those due, of each server and owner the first; of LlmbLeftover. */
extern List *llmb_store_leftovers(void);
/* When the next is due; 0: there is none. */
extern TimestampTz llmb_store_next_leftover(void);
extern void llmb_store_leftover_done(const LlmbLeftover *leftover);
/* Nothing of the same server and owner is due before that time ... */
extern void llmb_store_leftover_wait(const LlmbLeftover *leftover, int64 delay_ms);
/* ... and that was one more try. */
extern void llmb_store_leftover_later(const LlmbLeftover *leftover, int64 delay_ms);

/* Position of an ordinal in the batch, or -1. */
extern int	llmb_range_position(const LlmbRange *ranges, int count, int ordinal);

/* ---- results ---- */

typedef struct LlmbResult
{
	int			ordinal;
	int			attempt;
	int64		batch;
	const char *state;			/* see llm_batch.result.state */
	LlmbCode	code;
	bool		applied;
	bool		altered;
	char	   *answer;			/* database encoding from here on */
	char	   *error;
	char	   *finish_reason;
	char	   *model;
	char	   *request_id;
	int64		input_tokens;
	int64		cached_tokens;
	int64		cache_write_tokens;
	int64		long_write_tokens;	/* of these for the longer time; not stored */
	int64		output_tokens;
	int64		reasoning_tokens;
	Numeric		cost;			/* USD; NULL unknown */
	bool		perhaps_run;	/* without usage: it may have cost something */
	bool		free;			/* known to have cost nothing */
	char	   *key;			/* of its source row; NULL none */
	int64		prompt_hash;
	int			retry_after_ms; /* state 'retried': when to send again */
	bool		resend_realtime;	/* state 'retried': it falls back to real time */
} LlmbResult;

/* Stale items of a job above an ordinal that retry() may send: key alone. */
extern LlmbResult *llmb_store_stale_items(int64 job, int above, int limit, int *count);
/* The prompt of an item is another from now on. */
extern void llmb_store_renew_prompt(int64 job, int ordinal, const char *prompt, int64 hash);
/* Fills key and prompt_hash of results of one job. */
extern void llmb_store_keys(int64 job, LlmbResult *results, int count);
/* Appends results and answers, and queues those with state 'retried'. */
extern void llmb_store_put_results(int64 job, LlmbResult *results, int count);
/* All items of a batch that was never run go back to the queue as they were. */
extern void llmb_store_requeue(const LlmbBatchRow *batch, int64 delay_ms);

/* A batch of more items that is refused as a whole, unnamed, is cut in halves. */
#define LLMB_HALVE_ABOVE	100
/*
 * Items of the job's smallest batch that was so refused, 0 without one, and of
 * its largest.
 */
extern int	llmb_store_refused_items(int64 job, int *most);

/* How many attempts of an item have failed with that code. */
extern int	llmb_store_times(int64 job, int ordinal, LlmbCode code);

/* Stored answers of a job whose time has come, the oldest first. */
extern LlmbResult *llmb_store_due_answers(int64 *job, int limit, int *count);
extern TimestampTz llmb_store_next_due_answer(void);
/* Decides one: it was written or refused, or comes back after delay_ms. */
extern void llmb_store_answer_decided(int64 job, const LlmbResult *result);
extern void llmb_store_answer_later(int64 job, int ordinal, int64 delay_ms);
extern void llmb_store_answer_wait(int64 job, const LlmbResult *results, int count, int64 delay_ms);

/*
 * Of an atomic job: answers that are held until all are there.  The next ones
 * above an ordinal; all of them written (or, without targets, let go) or
 * given up: how many.  The last takes one that was given up for its own sake.
 */
extern void llmb_store_hold_answers(int64 job, const LlmbResult *results, int count);
extern LlmbResult *llmb_store_held_answers(int64 job, int above, int limit, int *count);
extern int	llmb_store_release_held(int64 job, bool applied);
extern int	llmb_store_drop_held(int64 job, const char *error);
extern void llmb_store_blame(int64 job, int ordinal, LlmbCode code, const char *error);

/* ---- counters that never fall, for llm_batch.metrics ---- */

/* So many more of what (items, jobs, errors) with that label. */
extern void llmb_store_tally(int64 job, const char *what, const char *label, int64 more);

/* ---- events ---- */

extern void llmb_store_event(int64 job, int64 batch, const char *kind,
							 const char *format,...) pg_attribute_printf(4, 5);
/* How many of that kind the job has. */
extern int	llmb_store_count_events(int64 job, const char *kind);

#endif							/* LLMB_STORE_H */
