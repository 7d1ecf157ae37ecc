/*-------------------------------------------------------------------------
 *
 * model.c
 *		What is known of models: llm_batch.model, and what usage has taught.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <math.h>

#include "utils/timestamp.h"

#include "model.h"
#include "model_name.h"
#include "price.h"
#include "request.h"
#include "store_model.h"

/*
 * Until usage has taught better.  Four bytes a token is the providers' own
 * rule of thumb for English; other scripts move it by less than a factor of
 * two in both directions.  How long answers get depends on
 * what is asked: 500 tokens is a long paragraph and some reasoning.
 */
#define BYTES_PER_TOKEN		4.0
#define TOKENS_PER_ANSWER	500

/* ---- facts ---- */

static LlmbSampling
sampling_of(const char *word)
{
	if (word == NULL)
		return LLMB_SAMPLING_UNKNOWN;
	if (strcmp(word, "any") == 0)
		return LLMB_SAMPLING_ANY;
	if (strcmp(word, "default") == 0)
		return LLMB_SAMPLING_DEFAULT;
	return LLMB_SAMPLING_EFFORT_NONE;
}

static const char *
utf8_or_null(const char *text)
{
	return text ? llmb_to_utf8(text) : NULL;
}

LlmbModel *
llmb_model(const LlmbServer *server, const char *name)
{
	LlmbModel  *model = palloc0(sizeof(LlmbModel));
	LlmbModelFacts facts;

	llmb_store_model_facts(server, name, &facts);
	model->name = llmb_to_utf8(name);
	model->model_class = utf8_or_null(facts.model_class);
	model->context_window = facts.context_window;
	model->max_output = facts.max_output;
	model->sampling = sampling_of(facts.sampling);
	model->efforts = utf8_or_null(facts.efforts);
	model->default_effort = utf8_or_null(facts.default_effort);
	model->json_schema = facts.json_schema;
	model->no_batch = facts.no_batch;
	return model;
}

/* ---- forecasts ---- */

/*
 * A prompt's tokens are those of its text, and some that come with each
 * request: a schema, the form of a chat.  Usage tells but their sum.  When
 * that is more than the text is expected to have, the rest is each request's;
 * when it is less, the text has more bytes a token, within what tokenisers
 * do: short prompts must not teach a wrong rate for long ones.
 */
typedef struct InputRate
{
	double		bytes_per_token;
	double		tokens_per_request;
} InputRate;

static InputRate
input_rate(const LlmbModelFacts *facts, const LlmbCalibration *calibration)
{
	InputRate	rate = {facts->bytes_per_token > 0 ? facts->bytes_per_token : BYTES_PER_TOKEN, 0};
	double		text_tokens = calibration->text_bytes / rate.bytes_per_token;

	if (calibration->input_tokens <= 0 || calibration->answers <= 0)
		return rate;
	if (calibration->input_tokens > text_tokens)
		rate.tokens_per_request = (calibration->input_tokens - text_tokens) / calibration->answers;
	else
		rate.bytes_per_token = Min((double) calibration->text_bytes / calibration->input_tokens,
								   2 * rate.bytes_per_token);
	return rate;
}

static bool
is_embedding(const LlmbModelFacts *facts)
{
	return facts->model_class && strcmp(facts->model_class, "embedding") == 0;
}

static double
tokens_per_answer(const LlmbModelFacts *facts, const LlmbCalibration *calibration, int64 max_tokens)
{
	double		tokens = TOKENS_PER_ANSWER;

	if (is_embedding(facts))
		return 0;
	if (calibration->answers > 0)
		tokens = (double) calibration->output_tokens / calibration->answers;
	if (facts->max_output > 0)
		tokens = Min(tokens, (double) facts->max_output);
	return max_tokens > 0 ? Min(tokens, (double) max_tokens) : tokens;
}

void
llmb_forecast(const LlmbServer *server, const LlmbModel *model, int64 bytes, int items,
			  int64 max_tokens, LlmbForecast *forecast)
{
	char	   *name = llmb_from_utf8(model->name, NULL);
	LlmbModelFacts facts;
	LlmbCalibration calibration;
	InputRate	rate;

	llmb_store_model_facts(server, name, &facts);
	llmb_store_calibration(server->name, name, &calibration);
	rate = input_rate(&facts, &calibration);
	forecast->items = items;
	forecast->input_tokens = (int64) ceil(bytes / rate.bytes_per_token + items * rate.tokens_per_request);
	forecast->output_tokens = (int64) ceil(items * tokens_per_answer(&facts, &calibration, max_tokens));
}

char *
llmb_forecast_cost(const LlmbServer *server, const char *model, const LlmbForecast *forecast, bool batch)
{
	LlmbPrices *prices = llmb_prices(server, model, GetCurrentTimestamp());

	return llmb_forecast_price(prices, forecast, batch);
}

void
llmb_model_room(const LlmbServer *server, const char *name, LlmbRoom *room)
{
	LlmbModelFacts facts;
	LlmbCalibration calibration;

	llmb_store_model_facts(server, name, &facts);
	llmb_store_calibration(server->name, name, &calibration);
	room->max_input = facts.max_input > 0 ? facts.max_input : facts.context_window;
	room->bytes_per_token = input_rate(&facts, &calibration).bytes_per_token;
	room->calibrated = calibration.input_tokens > 0;
	room->answers = !is_embedding(&facts);
	room->answers_calibrated = calibration.answers > 0;
}

void
llmb_learn_usage(const char *server, const char *model, int64 bytes,
				 int64 input_tokens, int64 answers, int64 output_tokens)
{
	if (bytes > 0 && input_tokens > 0 && answers > 0 && output_tokens >= 0)
		llmb_store_learn_usage(server, model, bytes, input_tokens, answers, output_tokens);
}

int64
llmb_enqueued_limit(const LlmbServer *server, const LlmbModel *model)
{
	LlmbCalibration calibration;
	int64		limit = server->max_enqueued_tokens;

	llmb_store_calibration(server->name, llmb_from_utf8(model->name, NULL), &calibration);
	if (calibration.max_enqueued_tokens == 0)
		return limit;
	return limit == 0 ? calibration.max_enqueued_tokens : Min(limit, calibration.max_enqueued_tokens);
}

void
llmb_learn_enqueued_limit(const LlmbServer *server, const LlmbModel *model, int64 tokens, bool guess)
{
	if (tokens > 0)
		llmb_store_learn_enqueued(server->name, llmb_from_utf8(model->name, NULL), tokens, guess);
}

/* ---- sizes that a provider has refused ---- */

int64
llmb_learned_batch_bytes(const char *server, const char *model)
{
	LlmbCalibration calibration;

	llmb_store_calibration(server, model, &calibration);
	return calibration.max_batch_bytes;
}

void
llmb_learn_batch_bytes(const char *server, const char *model, int64 bytes)
{
	llmb_store_learn_bytes(server, model, Max(bytes, 1));
}
