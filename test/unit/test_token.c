/*
 * What a batch's token says.
 */
#include "unit.h"

#include "token.h"

static void
test_round_trip(void)
{
	uint32		home = llmb_token_home(UINT64CONST(7123456789012345678), 16384);
	char	   *text = llmb_token_make(home, 42, 50001, UINT64CONST(0xfedcba9876543210));
	LlmbToken	token;

	ok(home != llmb_token_home(UINT64CONST(7123456789012345678), 16385), "another database has another home");
	ok(llmb_token_parse(psprintf("%s_3", text), &token), "a label is read");
	ok(token.home == home && token.job == 42 && token.first == 50001 && token.creates == 3, "all of it");
	is_text(token.text, text, "and the token in it");
	ok(llmb_token_parse(psprintf("%s-17", text), &token), "a custom_id is read");
	ok(token.creates == 0 && token.job == 42, "which has no creates");
	text = llmb_token_make(PG_UINT32_MAX, PG_INT64_MAX >> 4, PG_INT32_MAX, PG_UINT64_MAX);
	ok(strlen(text) <= 50, "the longest has 50 bytes");
	ok(llmb_token_parse(psprintf("%s-99999999", text), &token) && token.job == PG_INT64_MAX >> 4 && token.first == PG_INT32_MAX,
	   "and is read");
}

static void
test_others(void)
{
	static const char *const others[] = {
		"", "batch", "my_label_1", "0123456789abcdef_1", "01234567_1_1_0123456789abcdef",
		"01234567_1_1_0123456789abcdef_", "01234567_1_1_0123456789abcdef_0", "01234567_1_1_0123456789abcdef_x",
		"01234567_1_1_0123456789abcdef_1x", "01234567_1_1_0123456789abcdef_9999999999", "01234567_1_1_0123456789abcde_1",
		"01234567_1_1_0123456789abcdef0_1", "0123456_1_1_0123456789abcdef_1", "01234567_1_80000000_0123456789abcdef_1",
		"01234567_7fffffffffffffff0_1_0123456789abcdef_1", "01234567__1_0123456789abcdef_1", "01234567_-1_1_0123456789abcdef_1",
		"01234567_1_1_0123456789ABCDEF_1"
	};
	LlmbToken	token;

	ok(!llmb_token_parse(NULL, &token), "nothing is none of ours");
	for (int i = 0; i < (int) lengthof(others); i++)
		ok(!llmb_token_parse(others[i], &token), "\"%s\" is none of ours", others[i]);
}

void
test_token(void)
{
	test_round_trip();
	test_others();
}
