/*-------------------------------------------------------------------------
 *
 * model.h
 *		What is known of models: llm_batch.model, and what usage has taught.
 *
 * Everything here reads the tables, so it wants a transaction, and returns
 * what is palloc'd in the caller's context.  Names of models are in the
 * database's encoding; LlmbModel, which goes to providers, is UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_MODEL_H
#define LLMB_MODEL_H

#include "options.h"

/*
 * What is known of a model on that server, in UTF-8.  Never NULL: of an
 * unknown model all members but the name say "unknown".
 */
extern LlmbModel *llmb_model(const LlmbServer *server, const char *name);

/* What requests are expected to take. */
typedef struct LlmbForecast
{
	int			items;			/* 0: the input alone is of interest */
	int64		input_tokens;
	int64		output_tokens;
} LlmbForecast;

/*
 * Forecast of so many requests that are so many bytes long in all, by what
 * usage has taught of server and model; before that by 4 bytes a token and
 * 500 tokens an answer.  max_tokens: what an answer may have at most, 0 when
 * that is not said.
 */
extern void llmb_forecast(const LlmbServer *server, const LlmbModel *model, int64 bytes, int items,
						  int64 max_tokens, LlmbForecast *forecast);

/*
 * What that would cost today in USD, as a number in text (palloc'd); NULL
 * when the price is not known.  Nothing is expected to come from a cache.
 */
extern char *llmb_forecast_cost(const LlmbServer *server, const char *model,
								const LlmbForecast *forecast, bool batch);

/* What a model can be given, for checks and estimates. */
typedef struct LlmbRoom
{
	int64		max_input;		/* tokens of a prompt; 0 unknown */
	double		bytes_per_token;	/* as usage has taught, else as assumed */
	bool		calibrated;		/* usage has taught it */
	bool		answers;		/* its answers are tokens, and how many is ... */
	bool		answers_calibrated; /* ... taught by usage, too */
} LlmbRoom;

extern void llmb_model_room(const LlmbServer *server, const char *name, LlmbRoom *room);

/*
 * Takes note of what came back for a batch: all of its items brought usage.
 * bytes: length of its requests.
 */
extern void llmb_learn_usage(const char *server, const char *model, int64 bytes,
							 int64 input_tokens, int64 answers, int64 output_tokens);

/*
 * Tokens that batches of a model may have in the provider's queue at a time:
 * option max_enqueued_tokens, or less where the provider has refused more
 * within the last day; 0 when no limit is known.
 */
extern int64 llmb_enqueued_limit(const LlmbServer *server, const LlmbModel *model);
/* The provider refused a batch because its queue held "tokens" already. */
extern void llmb_learn_enqueued_limit(const LlmbServer *server, const LlmbModel *model, int64 tokens, bool guess);

/*
 * Under which names the table may know a model, the likeliest first: the name
 * itself, what is behind a folder ("models/"), the name without the date of a
 * snapshot, the base of a fine-tuned model (not where prices are asked for:
 * they are others).  Sets *count; 1 to LLMB_MODEL_FORMS palloc'd strings.
 */
extern char **llmb_model_forms(const char *name, bool prices, int *count);

/* The host of a base_url in lower case, palloc'd; NULL for NULL. */
extern char *llmb_url_host(const char *url);

/*
 * Bytes of a request file that the server's provider has not refused yet, once
 * it has refused one within the last day; 0 when none was refused.
 */
extern int64 llmb_learned_batch_bytes(const char *server, const char *model);
extern void llmb_learn_batch_bytes(const char *server, const char *model, int64 bytes);

#endif							/* LLMB_MODEL_H */
