/*-------------------------------------------------------------------------
 *
 * test_batch.c
 *		Tests of src/batch.c: names, transitions, policies by simulation.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "unit.h"

static const char *const all_states[] = {
	"planned", "uploading", "submitting", "verifying", "in_progress", "cancelling",
	"ended", "fetching", "finalized", "failed", "cancelled"
};

static const char *const all_codes[] = {
	"rate_limited", "auth", "invalid_request", "too_large", "provider_error", "timeout",
	"expired", "refused", "truncated", "invalid_output", "unanswered", "write_back",
	"stale", "cancelled", "budget"
};

static void
test_names(void)
{
	LlmbBatchState state;
	LlmbCode	code;
	int			i;
	bool		good = true;

	for (i = 0; i < (int) lengthof(all_states); i++)
		good &= llmb_batch_state_parse(all_states[i], &state) && (int) state == i &&
			strcmp(llmb_batch_state_name(state), all_states[i]) == 0;
	ok(good, "states: names there and back");
	ok(!llmb_batch_state_parse("nowhere", &state), "states: an unknown name");

	good = true;
	for (i = 0; i < (int) lengthof(all_codes); i++)
		good &= llmb_code_parse(all_codes[i], &code) && (int) code == i + 1 &&
			strcmp(llmb_code_name(code), all_codes[i]) == 0;
	ok(good, "codes: names there and back");
	is_text(llmb_code_name(LLMB_OK), NULL, "codes: success has none");
	ok(!llmb_code_parse("ok", &code), "codes: an unknown name");

	ok(llmb_provider("openai") == &llmb_provider_openai &&
	   llmb_provider("mock") == &llmb_provider_mock, "providers: found by name");
	ok(llmb_provider("nobody") == NULL, "providers: an unknown name");
}

/* A row for each state: '1' where it may become the state of that column. */
static void
test_transitions(void)
{
	static const char *const may[] = {
		/* p u s v i c e f F X C */
		"01101000011",			/* planned */
		"10101010011",			/* uploading */
		"11011010011",			/* submitting */
		"10101110011",			/* verifying */
		"10000110010",			/* in_progress */
		"00001010011",			/* cancelling */
		"00000001111",			/* ended */
		"00000010111",			/* fetching */
		"00000000000",			/* finalized */
		"00000000000",			/* failed */
		"00000000000",			/* cancelled */
	};
	int			from;
	int			to;

	for (from = 0; from < (int) lengthof(may); from++)
	{
		bool		good = true;

		for (to = 0; to < (int) lengthof(may); to++)
			good &= (llmb_batch_can_become(from, to) == (may[from][to] == '1'));
		ok(good, "transitions: from %s", all_states[from]);
		ok(llmb_batch_is_over(from) == (strchr(may[from], '1') == NULL),
		   "transitions: whether %s is the end", all_states[from]);
	}
}

/* Whether an end can be reached from every state. */
static void
test_no_trap(void)
{
	bool		ends[lengthof(all_states)];
	int			round;
	int			from;
	int			to;

	for (from = 0; from < (int) lengthof(ends); from++)
		ends[from] = llmb_batch_is_over(from);
	for (round = 0; round < (int) lengthof(ends); round++)
		for (from = 0; from < (int) lengthof(ends); from++)
			for (to = 0; to < (int) lengthof(ends); to++)
				ends[from] |= ends[to] && llmb_batch_can_become(from, to);
	for (from = 0; from < (int) lengthof(ends); from++)
		ok(ends[from], "transitions: %s leads to an end", all_states[from]);
}

static void
test_backoff(void)
{
	is_int(llmb_backoff_ms(1, 1000, 60000, 0.0), 500, "backoff: first, least");
	is_int(llmb_backoff_ms(1, 1000, 60000, 0.5), 750, "backoff: first, in the middle");
	is_int(llmb_backoff_ms(2, 1000, 60000, 0.0), 1000, "backoff: second doubles");
	is_int(llmb_backoff_ms(5, 1000, 60000, 0.0), 8000, "backoff: fifth");
	is_int(llmb_backoff_ms(7, 1000, 60000, 0.0), 30000, "backoff: capped");
	is_int(llmb_backoff_ms(2000000000, 1000, 60000, 0.0), 30000, "backoff: two thousand million");
	is_int(llmb_backoff_ms(3, PG_INT64_MAX / 2, PG_INT64_MAX - 1, 0.0) > 0, 1, "backoff: no overflow");
	is_int(llmb_backoff_ms(1, 5000, 1000, 0.0), 500, "backoff: base above the cap");
	is_int(llmb_backoff_ms(1, 0, 0, 0.0), 1, "backoff: never without a wait");
	ok(llmb_backoff_ms(1, 1000, 60000, 0.999999) < 1000, "backoff: below the whole");
}

static void
test_routing(void)
{
	ok(llmb_goes_realtime("auto", 20, true, 20), "auto: as many as the threshold go in real time");
	ok(!llmb_goes_realtime("auto", 21, true, 20), "auto: one more is a batch");
	ok(!llmb_goes_realtime("auto", 1, true, 0), "auto: a threshold of 0 means batches");
	ok(!llmb_goes_realtime("batch", 1, true, 20), "batch is a batch, however small");
	ok(llmb_goes_realtime("realtime", 1000000, true, 20), "realtime is real time, however large");
	ok(llmb_goes_realtime("auto", 1000, false, 20), "without a batch API all goes in real time");
	ok(llmb_goes_realtime("batch", 1000, false, 20), "... whatever was asked for");
}

void
test_batch(void)
{
	test_routing();
	test_names();
	test_transitions();
	test_no_trap();
	test_backoff();
}
