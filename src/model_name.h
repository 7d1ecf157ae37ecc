/*-------------------------------------------------------------------------
 *
 * model_name.h
 *		By which names a model, and by which host a server, stands in
 *		llm_batch.model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_MODEL_NAME_H
#define LLMB_MODEL_NAME_H

/*
 * Under which names the table may know a model, the likeliest first: the name
 * itself, what is behind a folder ("models/"), the name without the date of a
 * snapshot, the base of a fine-tuned model (not where prices are asked for:
 * they are others).  Sets *count; 1 to LLMB_MODEL_FORMS palloc'd strings.
 */
#define LLMB_MODEL_FORMS	4
extern char **llmb_model_forms(const char *name, bool prices, int *count);

/* The host of a base_url in lower case, palloc'd; NULL for NULL. */
extern char *llmb_url_host(const char *url);

#endif							/* LLMB_MODEL_NAME_H */
