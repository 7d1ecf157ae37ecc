/*-------------------------------------------------------------------------
 *
 * llm_batch.h
 *		Settings and names that several rooms share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLM_BATCH_H
#define LLM_BATCH_H

#include "postgres.h"

#define LLMB_EXTENSION	"llm_batch"
#define LLMB_SCHEMA		"llm_batch"
#define LLMB_LIBRARY	"llm_batch"
#define LLMB_WORKER_TYPE	"llm_batch worker"
#define LLMB_LAUNCHER_TYPE	"llm_batch launcher"

/*
 * item_id = job_id * LLMB_ITEM_ID_FACTOR + ordinal: unique, needs no
 * sequence, and a person can read it.
 */
#define LLMB_ITEM_ID_FACTOR INT64CONST(100000000)
#define LLMB_MAX_ITEMS		99999999

/* guc.c */
typedef enum LlmbKeepPrompts
{
	LLMB_KEEP_JOB,				/* until the job ends, failed items' longer */
	LLMB_KEEP_FOREVER
} LlmbKeepPrompts;

extern bool llmb_enabled;
extern char *llmb_default_server;
extern int	llmb_keep_prompts;
extern int	llmb_max_prompt_kb;
extern int	llmb_atomic_max_items;
extern int	llmb_sweep_interval_s;
extern int	llmb_idle_timeout_s;
extern int	llmb_write_back_timeout_ms;
extern int	llmb_write_back_rows;

extern void llmb_define_settings(void);

#endif							/* LLM_BATCH_H */
