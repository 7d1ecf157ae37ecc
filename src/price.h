/*-------------------------------------------------------------------------
 *
 * price.h
 *		What requests cost, from the usage that their provider tells.
 *
 * Tokens of a request have prices by class: input that no cache had, input
 * read from a cache, input written to one for the usual or the longer time,
 * and output.  Each class has a factor for batches; a request of very many
 * input tokens may be dearer as a whole.  Amounts are numeric, in USD and not
 * rounded; what is not known is NULL, never 0.
 *
 * Tables are read by llmb_prices() alone; the rest is arithmetic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PRICE_H
#define LLMB_PRICE_H

#include "datatype/timestamp.h"
#include "utils/numeric.h"

#include "model.h"
#include "store_model.h"

typedef enum LlmbTokenClass
{
	LLMB_TOKENS_FRESH,
	LLMB_TOKENS_CACHED,
	LLMB_TOKENS_WRITTEN,
	LLMB_TOKENS_WRITTEN_LONG,
	LLMB_TOKENS_OUTPUT,
	LLMB_TOKEN_CLASSES
} LlmbTokenClass;

/* As LlmbOutcome has it; -1 each when the provider did not say. */
typedef struct LlmbUsage
{
	int64		input;			/* whole prompt, cached and written parts included */
	int64		cached;
	int64		written;		/* for whichever time */
	int64		long_written;	/* of these for the longer time */
	int64		output;			/* reasoning included */
	int64		reasoning;
} LlmbUsage;

typedef struct LlmbPrices
{
	/* USD per token [in a batch] [above long_context] [class]; NULL unknown */
	Numeric		rate[2][2][LLMB_TOKEN_CLASSES];
	int64		long_context;	/* input tokens; 0: no such band */
} LlmbPrices;

/*
 * The prices of a model on that server, as the table has them for the day
 * (UTC) of "when".  In a transaction; palloc'd, never NULL.
 */
extern LlmbPrices *llmb_prices(const LlmbServer *server, const char *model, TimestampTz when);

/* The cost of one request; NULL when price or usage is not known. */
extern Numeric llmb_price(const LlmbPrices *prices, const LlmbUsage *usage, bool batch);

/* The cost of what a forecast says, as text; NULL when it is not known. */
extern char *llmb_forecast_price(const LlmbPrices *prices, const LlmbForecast *forecast, bool batch);

/* Adds up attempts of one mode. */
typedef struct LlmbBill
{
	const LlmbPrices *prices;
	bool		batch;
	bool		known;			/* the cost of some attempt is */
	int64		attempts;
	int64		unknown;		/* attempts whose cost is not known */
	LlmbUsage	all;			/* tokens of all attempts */
	int64		priced[2][LLMB_TOKEN_CLASSES];	/* tokens of those of known cost */
} LlmbBill;

extern void llmb_bill_begin(LlmbBill *bill, const LlmbPrices *prices, bool batch);

/*
 * Adds an attempt and returns its cost, NULL when that is not known.  unbilled:
 * the provider takes nothing for an attempt of such an end without usage.
 */
extern Numeric llmb_bill_add(LlmbBill *bill, const LlmbUsage *usage, bool unbilled);

/* The sums: amounts are NULL when no attempt's cost is known. */
extern void llmb_bill_end(const LlmbBill *bill, LlmbSpending *spending);

#endif							/* LLMB_PRICE_H */
