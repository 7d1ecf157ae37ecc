/*-------------------------------------------------------------------------
 *
 * store_model.h
 *		The door to llm_batch.model, .calibration and .spending; see store.h
 *		for what holds for all of its functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_STORE_MODEL_H
#define LLMB_STORE_MODEL_H

#include "utils/numeric.h"

#include "options.h"

/* Of one row of the user's and one of the extension's; see llm_batch.model. */
typedef struct LlmbModelFacts
{
	char	   *model_class;	/* NULL unknown, and so on */
	char	   *sampling;
	char	   *efforts;		/* blank-separated */
	char	   *default_effort;
	int			json_schema;	/* 1 yes, 0 no, -1 unknown */
	bool		no_batch;
	int64		context_window; /* tokens; 0 unknown */
	int64		max_input;
	int64		max_output;
	double		bytes_per_token;	/* 0 unknown */
} LlmbModelFacts;

/* All unknown for a model that the table does not know. */
extern void llmb_store_model_facts(const LlmbServer *server, const char *name, LlmbModelFacts *facts);

/* Prices of a model at a time, in USD per million tokens; NULL unknown. */
typedef struct LlmbPriceRow
{
	Numeric		price[5];		/* input, cached, cache_write, cache_write_long, output */
	Numeric		batch[4];		/* factors: input, cached, cache_write, output */
	Numeric		long_input;		/* factors above long_context */
	Numeric		long_output;
	int64		long_context;	/* tokens; 0 none */
} LlmbPriceRow;

extern void llmb_store_prices(const LlmbServer *server, const char *model, TimestampTz when, LlmbPriceRow *row);

/*
 * The names of models that the server is likely to have and whose price is
 * known: embedding models, or the others.  Sets *count.
 */
extern char **llmb_store_priced_models(const LlmbServer *server, bool embedding, int *count);

/* Sums of what came back; all 0 when nothing has. */
typedef struct LlmbCalibration
{
	int64		text_bytes;
	int64		input_tokens;
	int64		answers;
	int64		output_tokens;
	int64		max_enqueued_tokens;	/* of a refusal within the last day */
	int64		max_batch_bytes;	/* the same */
} LlmbCalibration;

extern void llmb_store_calibration(const char *server, const char *model, LlmbCalibration *calibration);
extern void llmb_store_learn_usage(const char *server, const char *model, int64 bytes,
								   int64 input_tokens, int64 answers, int64 output_tokens);
extern void llmb_store_learn_enqueued(const char *server, const char *model, int64 tokens, bool guess);
/* A batch of so many tokens was taken: a guess that it nearly fills grows. */
extern void llmb_store_grow_enqueued(const char *server, const char *model, int64 tokens);
extern void llmb_store_learn_bytes(const char *server, const char *model, int64 bytes);

/* What some attempts of a job took on a day; amounts in USD, NULL unknown. */
typedef struct LlmbSpending
{
	int64		attempts;
	int64		succeeded;		/* of these; not what waits for its row */
	int64		input_tokens;
	int64		cached_tokens;
	int64		cache_write_tokens;
	int64		output_tokens;
	int64		reasoning_tokens;
	int64		cost_unknown;	/* attempts that may have cost something, nobody knows what */
	char	   *cost;
	char	   *real_time_cost;
	char	   *saved;			/* the next two together */
	char	   *saved_batch;
	char	   *saved_prefix;
} LlmbSpending;

/*
 * What so many items of a job cost by what its attempts have cost that had
 * usage: a number, rounded to a millionth; NULL when none is known.
 */
extern char *llmb_store_usual_cost(int64 job, int64 count);
/* How long so many of its prompts are, if they are as those that are left. */
extern int64 llmb_store_prompt_bytes(int64 job, int64 count);

/* Adds to llm_batch.spending of that job, mode and the day of "when" (UTC). */
extern void llmb_store_spend(int64 job, bool realtime, TimestampTz when, const LlmbSpending *spending);

#endif							/* LLMB_STORE_MODEL_H */
