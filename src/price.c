/*-------------------------------------------------------------------------
 *
 * price.c
 *		What requests cost, from the usage that their provider tells.
 *
 * How each provider's usage becomes an LlmbUsage is the business of its own
 * file.  Here, for all of them:
 *
 *		cost = (input - cached - written) * input price + cached * cached price
 *			 + (written - long_written) * write price + long_written * long
 *			   write price + output * output price
 *
 * each price with the factors of its class for batches and for long prompts.
 * A price per million becomes one per token by multiplying with 0.000001,
 * not by dividing: that is exact to the last digit.
 *
 * What one-by-one real time would have cost is the same request with nothing
 * cached, at the list price: input * input price + output * output price.
 * The difference to the cost is what was saved; of that, the part that comes
 * from the cache is the difference at real-time prices, and may be negative
 * where writing cost more than reading has brought so far.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "price.h"

/* ---- numeric ---- */

/* NULL when either is. */
static Numeric
times(Numeric a, Numeric b)
{
	if (a == NULL || b == NULL)
		return NULL;
	return DatumGetNumeric(DirectFunctionCall2(numeric_mul, NumericGetDatum(a), NumericGetDatum(b)));
}

static Numeric
plus(Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(a), NumericGetDatum(b)));
}

static Numeric
minus(Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_sub, NumericGetDatum(a), NumericGetDatum(b)));
}

static Numeric
trimmed(Numeric a)
{
	return DatumGetNumeric(DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(a)));
}

static bool
is_zero(Numeric a)
{
	return a && DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a), NumericGetDatum(int64_to_numeric(0))));
}

static char *
text_of(Numeric a)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(trimmed(a))));
}

static Numeric
one_millionth(void)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum("0.000001"),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* ---- prices ---- */

/* Which of the factors for batches is a class's: input, cached, write, output. */
static const int batch_factor[LLMB_TOKEN_CLASSES] = {0, 1, 2, 2, 3};

LlmbPrices *
llmb_prices(const LlmbServer *server, const char *model, TimestampTz when)
{
	LlmbPrices *prices = palloc0(sizeof(LlmbPrices));
	Numeric		millionth = one_millionth();
	LlmbPriceRow row;

	llmb_store_prices(server, model, when, &row);
	prices->long_context = row.long_context;
	for (int class = 0; class < LLMB_TOKEN_CLASSES; class++)
	{
		Numeric		list = times(row.price[class], millionth);
		Numeric		long_list = times(list, class == LLMB_TOKENS_OUTPUT ? row.long_output : row.long_input);
		Numeric		factor = row.batch[batch_factor[class]];

		prices->rate[false][0][class] = list;
		prices->rate[false][1][class] = long_list;
		prices->rate[true][0][class] = times(list, factor);
		prices->rate[true][1][class] = times(long_list, factor);
	}
	return prices;
}

/* ---- one request ---- */

static int
band(const LlmbPrices *prices, int64 input)
{
	return prices->long_context > 0 && input > prices->long_context ? 1 : 0;
}

/*
 * Tokens by class.  False when the usage is not known, or when it cannot be:
 * parts that are greater than the whole.  A count of a part that the provider
 * leaves out is 0: who has a cache tells of it.
 */
static bool
by_class(const LlmbUsage *usage, const Numeric *rate, int64 *tokens)
{
	int64		cached = Max(usage->cached, 0);
	int64		written = Max(usage->written, 0);
	int64		long_written = Max(usage->long_written, 0);

	/* embeddings have no output, and its price is 0 */
	if (usage->input < 0 || (usage->output < 0 && !is_zero(rate[LLMB_TOKENS_OUTPUT])))
		return false;
	if (cached > usage->input || written > usage->input - cached || long_written > written)
		return false;
	tokens[LLMB_TOKENS_FRESH] = usage->input - cached - written;
	tokens[LLMB_TOKENS_CACHED] = cached;
	tokens[LLMB_TOKENS_WRITTEN] = written - long_written;
	tokens[LLMB_TOKENS_WRITTEN_LONG] = long_written;
	tokens[LLMB_TOKENS_OUTPUT] = Max(usage->output, 0);
	return true;
}

/* NULL when a class that there are tokens of has no price. */
static Numeric
cost_of(const Numeric *rate, const int64 *tokens)
{
	Numeric		sum = NULL;

	/* without these nothing is known of the model */
	if (rate[LLMB_TOKENS_FRESH] == NULL || rate[LLMB_TOKENS_OUTPUT] == NULL)
		return NULL;
	for (int class = 0; class < LLMB_TOKEN_CLASSES; class++)
	{
		Numeric		part;

		if (tokens[class] == 0)
			continue;
		part = times(rate[class], int64_to_numeric(tokens[class]));
		if (part == NULL)
			return NULL;
		sum = sum ? plus(sum, part) : part;
	}
	return sum ? trimmed(sum) : int64_to_numeric(0);
}

Numeric
llmb_price(const LlmbPrices *prices, const LlmbUsage *usage, bool batch)
{
	const Numeric *rate = prices->rate[batch][band(prices, usage->input)];
	int64		tokens[LLMB_TOKEN_CLASSES];

	if (!by_class(usage, rate, tokens))
		return NULL;
	return cost_of(rate, tokens);
}

char *
llmb_forecast_price(const LlmbPrices *prices, const LlmbForecast *forecast, bool batch)
{
	int64		tokens[LLMB_TOKEN_CLASSES] = {0};
	int64		average = 0;
	Numeric		cost;

	tokens[LLMB_TOKENS_FRESH] = forecast->input_tokens;
	tokens[LLMB_TOKENS_OUTPUT] = forecast->output_tokens;
	/* the band by what a request has on average */
	if (forecast->items > 0)
		average = forecast->input_tokens / forecast->items;
	cost = cost_of(prices->rate[batch][band(prices, average)], tokens);
	return cost ? text_of(cost) : NULL;
}

/* ---- many requests ---- */

void
llmb_bill_begin(LlmbBill *bill, const LlmbPrices *prices, bool batch)
{
	memset(bill, 0, sizeof(*bill));
	bill->prices = prices;
	bill->batch = batch;
}

Numeric
llmb_bill_add(LlmbBill *bill, const LlmbUsage *usage, bool unbilled)
{
	int			b = band(bill->prices, usage->input);
	const Numeric *rate = bill->prices->rate[bill->batch][b];
	int64		tokens[LLMB_TOKEN_CLASSES];
	Numeric		cost = NULL;

	bill->attempts++;
	bill->all.input += Max(usage->input, 0);
	bill->all.cached += Max(usage->cached, 0);
	bill->all.written += Max(usage->written, 0);
	bill->all.output += Max(usage->output, 0);
	bill->all.reasoning += Max(usage->reasoning, 0);
	if (usage->input < 0 && usage->output < 0 && unbilled)
		cost = int64_to_numeric(0);
	else if (by_class(usage, rate, tokens))
	{
		cost = cost_of(rate, tokens);
		for (int class = 0; cost && class < LLMB_TOKEN_CLASSES; class++)
			bill->priced[b][class] += tokens[class];
	}
	bill->known |= cost != NULL;
	bill->unknown += cost == NULL;
	return cost;
}

/* What the priced tokens of a band would have cost one by one in real time. */
static Numeric
list_price(const LlmbBill *bill, int b)
{
	const int64 *priced = bill->priced[b];
	int64		tokens[LLMB_TOKEN_CLASSES] = {0};

	tokens[LLMB_TOKENS_FRESH] = priced[LLMB_TOKENS_FRESH] + priced[LLMB_TOKENS_CACHED] +
		priced[LLMB_TOKENS_WRITTEN] + priced[LLMB_TOKENS_WRITTEN_LONG];
	tokens[LLMB_TOKENS_OUTPUT] = priced[LLMB_TOKENS_OUTPUT];
	return cost_of(bill->prices->rate[false][b], tokens);
}

/* A class has its price in all bands and modes, or an attempt is not priced. */
static Numeric
sum_of(const LlmbBill *bill, bool batch)
{
	Numeric		sum = int64_to_numeric(0);

	for (int b = 0; b < 2; b++)
	{
		Numeric		part = cost_of(bill->prices->rate[batch][b], bill->priced[b]);

		if (part)
			sum = plus(sum, part);
	}
	return sum;
}

void
llmb_bill_end(const LlmbBill *bill, LlmbSpending *spending)
{
	Numeric		list = int64_to_numeric(0);
	Numeric		in_real_time;
	Numeric		cost;

	memset(spending, 0, sizeof(*spending));
	spending->attempts = bill->attempts;
	spending->input_tokens = bill->all.input;
	spending->cached_tokens = bill->all.cached;
	spending->cache_write_tokens = bill->all.written;
	spending->output_tokens = bill->all.output;
	spending->reasoning_tokens = bill->all.reasoning;
	spending->cost_unknown = bill->unknown;
	if (!bill->known)
		return;
	for (int b = 0; b < 2; b++)
	{
		Numeric		part = list_price(bill, b);

		if (part)
			list = plus(list, part);
	}
	in_real_time = sum_of(bill, false);
	cost = sum_of(bill, bill->batch);
	spending->cost = text_of(cost);
	spending->real_time_cost = text_of(list);
	spending->saved = text_of(minus(list, cost));
	spending->saved_prefix = text_of(minus(list, in_real_time));
	spending->saved_batch = text_of(minus(in_real_time, cost));
}
