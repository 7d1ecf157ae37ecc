/*-------------------------------------------------------------------------
 *
 * pii_sql.h
 *		Personal data and the database: users' patterns, the maps that are
 *		kept, and a prompt as it may leave.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PII_SQL_H
#define LLMB_PII_SQL_H

#include "pii.h"
#include "sql.h"
#include "store.h"

/* The masking of one job's prompts, one after the other. */
typedef struct LlmbMasking LlmbMasking;

/*
 * In a transaction.  NULL for a job whose texts go as they are: all functions
 * below take that and then do nothing.  Lives in the current context.
 */
extern LlmbMasking *llmb_masking_begin(const LlmbJobDef *def);

/*
 * The prompt as it may leave: in UTF-8, the job's system prompt among it;
 * as it left before where it has a map.  Without a masking the prompt itself.
 * Valid until the next.
 */
extern const LlmbPrompt *llmb_mask_prompt(LlmbMasking *masking, const LlmbPrompt *prompt);

/*
 * The same in the worker, which all jobs share: NULL when the users' patterns
 * take too long on this text.  A subtransaction.
 */
extern const LlmbPrompt *llmb_mask_prompt_in_time(LlmbMasking *masking, const LlmbPrompt *prompt);

/* The prompt that was masked last goes out: its map is kept, unless it has been. */
extern void llmb_masking_keep(LlmbMasking *masking, int64 job, int ordinal);
/* Writes what is kept. */
extern void llmb_masking_end(LlmbMasking *masking);

/*
 * A map from columns places, placeholders, originals of a row, in UTF-8; NULL
 * when they are NULL.  llmb_map_free() takes NULL.
 */
extern LlmbPiiMap *llmb_row_map(LlmbRows *rows, int row, int column);
extern void llmb_map_free(LlmbPiiMap *map);

/* The maps of these results' items, one for each; NULL where there is none. */
extern LlmbPiiMap **llmb_store_maps(int64 job, const LlmbResult *results, int count);

/* A text about an item as others than its owner may read it: without what was masked in the item's prompt.  NULL stays. */
extern const char *llmb_hide_originals(int64 job, int ordinal, const char *text);

#endif							/* LLMB_PII_SQL_H */
