/*
 * When batches are polled: the policy against made providers and a made clock.
 * All chance comes from one seed, so the figures are the same in every run.
 */
#include "unit.h"

#include <math.h>

#include "cadence.h"

#define MINUTE	INT64CONST(60000)
#define HOUR	(60 * MINUTE)

/* The defaults of the options. */
#define POLL_MIN	5000
#define POLL_MAX	300000
/* What it is measured against. */
#define FIXED_MS	30000

static uint64 seed;

static double
chance(void)
{
	return next_random(&seed) / 4294967296.0;
}

/* Of the standard normal distribution (Box and Muller). */
static double
normal(void)
{
	double		u = (next_random(&seed) + 1.0) / 4294967297.0;

	return sqrt(-2 * log(u)) * cos(2 * M_PI * chance());
}

/* What a made provider is like. */
typedef enum Counting
{
	COUNTS_NOTHING,				/* all is "processing" until the end */
	COUNTS_EVENLY,				/* a queue first, then at an even pace */
	COUNTS_ROUGHLY,				/* in twenty jumps, and the last tenth takes a third of the time */
} Counting;

typedef struct Maker
{
	const char *name;
	double		minutes;		/* median of its turnarounds */
	double		spread;			/* standard deviation of their logarithm */
	Counting	counting;
} Maker;

/* One batch on its way. */
typedef struct Run
{
	int64		takes_ms;
	double		queued;			/* share of the time before anything is done */
	Counting	counting;
} Run;

static Run
new_run(const Maker *maker, double factor)
{
	Run			run;

	run.takes_ms = (int64) (maker->minutes * factor * MINUTE * exp(maker->spread * normal()));
	run.queued = 0.6 * chance();
	run.counting = maker->counting;
	return run;
}

static int64
count_done(const Run *run, int64 now, int64 total)
{
	double		part = ((double) now / run->takes_ms - run->queued) / (0.98 - run->queued);

	if (run->counting == COUNTS_NOTHING)
		return -1;
	if (part <= 0)
		return 0;
	if (run->counting == COUNTS_ROUGHLY)
	{
		part = part < 2.0 / 3 ? part * 1.35 : 0.9 + (part - 2.0 / 3) * 0.3;
		part = floor(part * 20) / 20;
	}
	return (int64) (total * Min(part, 1));
}

typedef struct Watch
{
	int			polls;
	double		late;			/* share of the turnaround */
	int64		least_ms;		/* between two polls */
	int64		most_ms;
} Watch;

static Watch
watch(const Run *run, const LlmbExpectation *expected)
{
	int64		total = run->counting == COUNTS_NOTHING ? -1 : 2000;
	LlmbSight	sight = {0, total, -1, -1, -1};
	Watch		w = {0, 0, PG_INT64_MAX, 0};

	do
	{
		int64		wait = llmb_cadence_wait_ms(expected, &sight, POLL_MIN, POLL_MAX, chance());

		w.least_ms = Min(w.least_ms, wait);
		w.most_ms = Max(w.most_ms, wait);
		w.polls++;
		sight.before_ms = sight.elapsed_ms;
		sight.before_done = sight.done;
		sight.elapsed_ms += wait;
		sight.done = count_done(run, sight.elapsed_ms, total);
	} while (sight.elapsed_ms < run->takes_ms);
	w.late = (double) (sight.elapsed_ms - run->takes_ms) / run->takes_ms;
	return w;
}

/* The last turnarounds of one server, model and size, the newest first. */
typedef struct History
{
	double		seconds[LLMB_TURNAROUNDS];
	int			count;
} History;

static void
learn(History *history, double seconds)
{
	history->count = Min(history->count + 1, LLMB_TURNAROUNDS);
	memmove(&history->seconds[1], &history->seconds[0], sizeof(double) * (history->count - 1));
	history->seconds[0] = seconds;
}

static void
expect(LlmbExpectation *expected, const History *history)
{
	LlmbPastBatch past[LLMB_TURNAROUNDS];
	int			i;

	for (i = 0; i < history->count; i++)
		past[i] = (LlmbPastBatch) {history->seconds[i], i, true, 0};
	llmb_cadence_expect(expected, past, history->count);
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

#define RUNS		400
#define MOST_RUNS	(7 * RUNS)

/* What many batches came to. */
typedef struct Tally
{
	int			runs;
	double		late[MOST_RUNS];
	double		fixed_late[MOST_RUNS];
	int64		polls;
	int64		fixed_polls;
	int64		least_ms;
	int64		most_ms;
} Tally;

static void
add_run(Tally *tally, const Run *run, const Watch *w)
{
	int64		fixed = (run->takes_ms + FIXED_MS - 1) / FIXED_MS;

	tally->late[tally->runs] = w->late;
	tally->fixed_late[tally->runs] = (double) (fixed * FIXED_MS - run->takes_ms) / run->takes_ms;
	tally->runs++;
	tally->polls += w->polls;
	tally->fixed_polls += fixed;
	tally->least_ms = tally->runs == 1 ? w->least_ms : Min(tally->least_ms, w->least_ms);
	tally->most_ms = Max(tally->most_ms, w->most_ms);
}

static double
quantile(double *values, int count, double q)
{
	qsort(values, count, sizeof(double), compare);
	return values[(int) (q * (count - 1))];
}

/* So many batches one after the other, each teaching the next. */
static void
go_on(Tally *tally, History *history, const Maker *maker, double factor, int runs)
{
	int			i;

	for (i = 0; i < runs; i++)
	{
		Run			run = new_run(maker, factor);
		LlmbExpectation expected;
		Watch		w;

		expect(&expected, history);
		w = watch(&run, &expected);
		add_run(tally, &run, &w);
		learn(history, run.takes_ms / 1000.0);
	}
}

/*
 * The median of what is late, and the polls against those of a fixed cadence,
 * may be so much at most.
 */
static void
judge(Tally *tally, const char *name, double late, double share)
{
	double		median = quantile(tally->late, tally->runs, 0.5);
	double		tail = quantile(tally->late, tally->runs, 0.95);
	double		polls = (double) tally->polls / tally->fixed_polls;

	ok(median <= late && polls <= share,
	   "cadence, %s: %.1f %% late (p95 %.1f %%, fixed %.1f %%), %.1f polls each, %.2f of a fixed cadence",
	   name, 100 * median, 100 * tail, 100 * quantile(tally->fixed_late, tally->runs, 0.5),
	   (double) tally->polls / tally->runs, polls);
}

static const Maker makers[] = {
	{"no counts, 30 minutes", 30, 0.6, COUNTS_NOTHING},
	{"no counts, 1 hour, widely spread", 60, 1.0, COUNTS_NOTHING},
	{"no counts, 20 minutes, nearly always the same", 20, 0.1, COUNTS_NOTHING},
	{"even counts, 40 minutes", 40, 0.7, COUNTS_EVENLY},
	{"even counts, 4 hours", 240, 0.8, COUNTS_EVENLY},
	{"rough counts, 90 minutes", 90, 0.9, COUNTS_ROUGHLY},
};

/* Four hundred batches of each provider, from the first that it ever sees. */
static void
test_steady(void)
{
	int			i;

	for (i = 0; i < (int) lengthof(makers); i++)
	{
		Tally		tally = {0};
		History		history = {{0}, 0};

		seed = 100 + i;
		go_on(&tally, &history, &makers[i], 1, RUNS);
		judge(&tally, makers[i].name, 0.05, 1.0 / 3);
		ok(tally.least_ms >= POLL_MIN && tally.most_ms <= POLL_MAX,
		   "cadence, %s: poll_min and poll_max are kept", makers[i].name);
	}
}

/* First batches only: each meets an empty history. */
static void
test_cold(void)
{
	Tally		tally = {0};
	int			i;

	seed = 200;
	for (i = 0; i < RUNS; i++)
	{
		History		history = {{0}, 0};

		go_on(&tally, &history, &makers[i % lengthof(makers)], 1, 1);
	}
	judge(&tally, "nothing learned", 0.05, 1.0 / 3);
}

/*
 * Batches of minutes: a fixed cadence of 30 seconds is late by a tenth of
 * them and has few polls.  What is kept here is the lateness.
 */
static const Maker short_maker = {NULL, 3, 0.7, COUNTS_NOTHING};

static void
test_short(void)
{
	Tally		tally = {0};
	History		history = {{0}, 0};

	seed = 300;
	go_on(&tally, &history, &short_maker, 1, RUNS);
	judge(&tally, "no counts, 3 minutes", 0.05, 2.5);
}

/* All of them, one as often as the other, in one database. */
static void
test_mixture(void)
{
	static Tally tally;
	History		histories[lengthof(makers) + 1];
	int			i;

	seed = 500;
	memset(&tally, 0, sizeof(tally));
	memset(histories, 0, sizeof(histories));
	for (i = 0; i < MOST_RUNS; i++)
	{
		int			m = i % (int) lengthof(histories);

		go_on(&tally, &histories[m], m < (int) lengthof(makers) ? &makers[m] : &short_maker, 1, 1);
	}
	judge(&tally, "all together, from 3 minutes to hours", 0.05, 1.0 / 3);
}

/*
 * From one batch to the next the provider takes that much longer, or shorter:
 * five batches to take note, five to get used to it, then as ever.
 */
static void
test_change(const char *name, double factor, const double *late)
{
	static const Maker maker = {NULL, 60, 0.3, COUNTS_NOTHING};
	static const char *const when[] = {"first five", "next five", "next ten"};
	Tally		tally[4];
	History		history = {{0}, 0};
	char		label[100];
	int			i;
	int			t;

	seed = 400;
	memset(tally, 0, sizeof(tally));
	go_on(&tally[3], &history, &maker, 1, 60);
	for (i = 0; i < 40; i++)
	{
		History		changed = history;

		for (t = 0; t < 3; t++)
			go_on(&tally[t], &changed, &maker, factor, t < 2 ? 5 : 10);
	}
	for (t = 0; t < 3; t++)
	{
		snprintf(label, sizeof(label), "%s: the %s", name, when[t]);
		judge(&tally[t], label, late[t], 1.0 / 3);
	}
}

static void
test_changes(void)
{
	test_change("ten times as long", 10, (double[]) {0.05, 0.05, 0.05});
	test_change("twice as long", 2, (double[]) {0.05, 0.05, 0.05});
	test_change("half as long", 0.5, (double[]) {0.08, 0.06, 0.05});
	test_change("a third as long", 1.0 / 3, (double[]) {0.10, 0.06, 0.05});
}

/* ---- single decisions ---- */

static LlmbExpectation
expect_same(double seconds, int count)
{
	LlmbExpectation expected;
	History		history = {{0}, 0};

	while (count-- > 0)
		learn(&history, seconds);
	expect(&expected, &history);
	return expected;
}

static void
test_waits(void)
{
	LlmbExpectation nothing = expect_same(0, 0);
	LlmbExpectation hour = expect_same(3600, 20);
	LlmbSight	first = {0, -1, -1, -1, -1};
	LlmbSight	hours = {8 * HOUR, -1, -1, -1, -1};
	LlmbSight	back = {-5000, -1, -1, -1, -1};
	int64		wait;

	wait = llmb_cadence_wait_ms(&hour, &first, POLL_MIN, 24 * HOUR, 0.5);
	ok(wait > 5 * MINUTE && wait < 57 * MINUTE, "cadence: the first poll comes from what was learned: after %.1f minutes", wait / 60000.0);
	wait = llmb_cadence_wait_ms(&hour, &first, POLL_MIN, POLL_MAX, 0.999);
	ok(wait >= POLL_MAX - 1 && wait <= POLL_MAX, "cadence: but never later than poll_max");
	wait = llmb_cadence_wait_ms(&nothing, &first, POLL_MIN, 24 * HOUR, 0.5);
	ok(wait >= POLL_MIN && wait < MINUTE, "cadence: with nothing learned it comes early: after %.1f seconds", wait / 1000.0);
	wait = llmb_cadence_wait_ms(&nothing, &hours, POLL_MIN, 24 * HOUR, 0.5);
	ok(wait > 8 * HOUR / 25 && wait < 8 * HOUR / 8, "cadence: after eight hours a share of them: %.1f minutes", wait / 60000.0);
	wait = llmb_cadence_wait_ms(&hour, &hours, POLL_MIN, 24 * HOUR, 0.5);
	ok(wait > 8 * HOUR / 25 && wait < 8 * HOUR / 8, "cadence: the same long after the learned time: %.1f minutes", wait / 60000.0);
	ok(llmb_cadence_wait_ms(&nothing, &hours, POLL_MIN, 24 * HOUR, 0.0) < llmb_cadence_wait_ms(&nothing, &hours, POLL_MIN, 24 * HOUR, 0.9),
	   "cadence: jitter spreads it");
	ok(llmb_cadence_wait_ms(&nothing, &first, POLL_MIN, POLL_MAX, 0.0) >= POLL_MIN, "cadence: never below poll_min");
	is_int(llmb_cadence_wait_ms(&nothing, &first, 60000, 1000, 0.5), 60000, "cadence: poll_min wins over poll_max");
	is_int(llmb_cadence_wait_ms(&nothing, &first, 0, 0, 0.5), 1, "cadence: never without a wait");
	ok(llmb_cadence_wait_ms(&nothing, &back, POLL_MIN, POLL_MAX, 0.5) >= POLL_MIN, "cadence: a clock that was set back");
}

static void
test_counts(void)
{
	LlmbExpectation nothing = expect_same(0, 0);
	LlmbExpectation hour = expect_same(3600, 20);
	LlmbSight	half = {10 * MINUTE, 1000, 500, -1, -1};
	LlmbSight	nearly = {10 * MINUTE, 1000, 990, 9 * MINUTE, 900};
	LlmbSight	all = {10 * MINUTE, 1000, 1000, 9 * MINUTE, 990};
	LlmbSight	stands = {10 * MINUTE, 1000, 950, 9 * MINUTE, 950};
	LlmbSight	slow = {70 * MINUTE, 1000, 100, 60 * MINUTE, 90};
	LlmbSight	wrong[] = {
		{10 * MINUTE, 1000, PG_INT64_MAX, 9 * MINUTE, 1},
		{10 * MINUTE, PG_INT64_MAX, PG_INT64_MAX - 1, 9 * MINUTE, PG_INT64_MAX},
		{10 * MINUTE, 1000, 10, 10 * MINUTE, 5},
		{10 * MINUTE, 1000, 10, 9 * MINUTE, 50},
		{10 * MINUTE, 0, 0, 9 * MINUTE, 0},
		{PG_INT64_MAX, 1000, 1, 0, 0},
	};
	int			i;
	int64		wait = llmb_cadence_wait_ms(&nothing, &half, 1000, HOUR, 0.5);

	ok(wait > 2 * MINUTE && wait < 4 * MINUTE, "cadence: counts say ten minutes are left, and are trusted for %.1f", wait / 60000.0);
	wait = llmb_cadence_wait_ms(&hour, &nearly, 1000, HOUR, 0.5);
	ok(wait > 6000 && wait < 20000, "cadence: seven seconds are left, whatever was learned: %.1f", wait / 1000.0);
	wait = llmb_cadence_wait_ms(&nothing, &all, 1000, HOUR, 0.5);
	ok(wait <= 10 * MINUTE / 50, "cadence: all is counted, files are due: %.1f seconds", wait / 1000.0);
	wait = llmb_cadence_wait_ms(&hour, &stands, 1000, HOUR, 0.5);
	ok(wait <= MINUTE, "cadence: the last ones let wait: %.1f seconds", wait / 1000.0);
	wait = llmb_cadence_wait_ms(&hour, &slow, 1000, HOUR, 0.5);
	ok(wait > 15 * MINUTE, "cadence: a slow batch is not polled as one that is due: %.1f minutes", wait / 60000.0);
	for (i = 0; i < (int) lengthof(wrong); i++)
	{
		wait = llmb_cadence_wait_ms(&hour, &wrong[i], 1000, HOUR, 0.999);
		ok(wait >= 1000 && wait <= HOUR, "cadence: counts that cannot be right, %d: %lld", i, (long long) wait);
		ok(llmb_cadence_left_ms(&hour, &wrong[i]) >= 0, "cadence: nor make a time below zero, %d", i);
	}
}

static double
minutes_left(const LlmbExpectation *expected, int64 elapsed, int64 done)
{
	LlmbSight	sight = {elapsed, 1000, done, -1, -1};

	return llmb_cadence_left_ms(expected, &sight) / 60000.0;
}

static void
test_left(void)
{
	LlmbExpectation nothing = expect_same(0, 0);
	LlmbExpectation hour = expect_same(3600, 20);
	LlmbSight	sight = {HOUR, -1, -1, -1, -1};
	double		left;

	is_int(llmb_cadence_left_ms(&nothing, &sight), -1, "cadence: with nothing learned and no counts, nothing is told");
	is_int(llmb_cadence_left_ms(&nothing, &(LlmbSight) {HOUR, 1000, 0, -1, -1}), -1, "cadence: nor while nothing is done");
	left = minutes_left(&nothing, HOUR, 750);
	ok(left > 19.9 && left < 20.1, "cadence: by counts alone, straight on: %.1f minutes", left);
	left = minutes_left(&hour, 0, -1);
	ok(left > 55 && left < 65, "cadence: what was learned, at the begin: %.1f minutes", left);
	left = minutes_left(&hour, 30 * MINUTE, -1);
	ok(left > 25 && left < 35, "cadence: and later: %.1f minutes", left);
	left = minutes_left(&hour, 30 * MINUTE, 900);
	ok(left > 3 && left < 7, "cadence: counts know better: %.1f minutes", left);
	left = minutes_left(&hour, 3 * HOUR, -1);
	ok(left > 5 && left < 24 * 60, "cadence: overdue, and still some time: %.1f minutes", left);
	left = minutes_left(&hour, PG_INT64_MAX, -1);
	ok(left >= 0, "cadence: at the end of time");
}

/* What is not of this model and size helps until there is enough that is. */
static void
test_alike(void)
{
	LlmbPastBatch past[40];
	LlmbExpectation expected;
	int			i;

	for (i = 0; i < 20; i++)
		past[i] = (LlmbPastBatch) {600, i, true, 0};
	for (; i < 40; i++)
		past[i] = (LlmbPastBatch) {36000, i - 20, false, 1};
	llmb_cadence_expect(&expected, past + 20, 20);
	ok(minutes_left(&expected, 0, -1) > 400, "cadence: another model is better than nothing: %.1f minutes", minutes_left(&expected, 0, -1));
	llmb_cadence_expect(&expected, past, 40);
	ok(minutes_left(&expected, 0, -1) < 15, "cadence: and nothing against its own past: %.1f minutes", minutes_left(&expected, 0, -1));
	past[0].seconds = NAN;
	past[1].seconds = INFINITY;
	past[2].seconds = -1;
	llmb_cadence_expect(&expected, past, 40);
	ok(minutes_left(&expected, 0, -1) < 15, "cadence: some nonsense does no harm");

	is_int(llmb_size_class(0), 1, "cadence: sizes from 1");
	is_int(llmb_size_class(3), 1, "cadence: 3 is of size 1");
	is_int(llmb_size_class(4), 4, "cadence: 4 begins the next");
	is_int(llmb_size_class(50000), 16384, "cadence: 50,000");
	is_int(llmb_size_class(PG_INT64_MAX), 1 << 28, "cadence: no end");
}

void
test_cadence(void)
{
	test_waits();
	test_counts();
	test_left();
	test_alike();
	test_steady();
	test_cold();
	test_short();
	test_mixture();
	test_changes();
}
