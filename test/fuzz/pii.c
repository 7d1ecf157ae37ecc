/*-------------------------------------------------------------------------
 *
 * pii.c
 *		Fuzz target "pii": personal data found, masked and restored.
 *
 * Input: a letter, then a text.  "a" and others: the text is masked, once more
 * by its map, and restored.  "b": likewise, in two texts that are cut at the
 * first NUL or line end, and with a finder beside the forms.  "c": it is an
 * answer, restored by a map of ours.  "d": it is JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "pii.h"

#include "fuzz.h"

static const char *const labels[] = {"NAME", "E", "EMAIL"};

/* Capitals, also in the middle of words; and any two bytes around a 'q'. */
static void
find_some(const char *text, int len, LlmbPiiSpans *spans, void *arg)
{
	(void) arg;
	for (int i = 0; i < len; i++)
	{
		if (text[i] == 'M')
		{
			int			end = Min(len, i + 6);

			while (end < len && (text[end] & 0xC0) == 0x80)
				end++;
			llmb_pii_add_span(spans, i, end, labels[0]);
		}
		if (text[i] == 'q' && i > 0 && (text[i - 1] & 0x80) == 0)
			llmb_pii_add_span(spans, i - 1, i + 1, labels[1]);
		if (text[i] == '7')
			llmb_pii_add_span(spans, i, i + 1, labels[2]);
	}
}

static bool
is_utf8(const char *text, size_t len)
{
	return strlen(text) == len && fuzz_is_text(text);
}

static void
check_map(const LlmbPiiMap *map)
{
	for (int i = 0; i < map->count; i++)
	{
		CHECK(map->originals[i][0] != '\0');
		CHECK(map->placeholders[i][0] == '[');
		CHECK(strlen(map->placeholders[i]) <= LLMB_PII_MAX_LABEL + 12);
	}
	for (int i = 0; i < map->place_count * LLMB_PII_PLACE; i++)
		CHECK(map->places[i] >= 0);
}

/* Masks, masks again, restores: each text comes back byte by byte. */
static void
round_trip(char **texts, int count, LlmbPiiFinder finder)
{
	LlmbPii    *pii = llmb_pii_begin(finder, NULL, labels, finder ? lengthof(labels) : 0);
	LlmbPii    *again;
	char	   *masked[2];

	for (int i = 0; i < count; i++)
		llmb_pii_note(pii, texts[i], strlen(texts[i]));
	for (int i = 0; i < count; i++)
		masked[i] = llmb_pii_mask(pii, texts[i], strlen(texts[i]));
	check_map(llmb_pii_map(pii));
	again = llmb_pii_again(llmb_pii_map(pii));
	for (int i = 0; i < count; i++)
		CHECK(strcmp(llmb_pii_mask(again, texts[i], strlen(texts[i])), masked[i]) == 0);
	CHECK(llmb_pii_was_same(again));
	for (int i = 0; i < count; i++)
	{
		if (is_utf8(texts[i], strlen(texts[i])))
			CHECK(fuzz_is_text(masked[i]));
		CHECK(strcmp(llmb_pii_restore(llmb_pii_map(pii), pstrdup(masked[i]), false), texts[i]) == 0 ||
			  texts[i][strspn(texts[i], " \n\r\t")] == '{' || texts[i][strspn(texts[i], " \n\r\t")] == '[');
	}
}

static void
restore_some(char *answer)
{
	static const char text[] = "a@b.de Miller +49 30 1234567 \"q\\q";
	LlmbPii    *pii = llmb_pii_begin(find_some, NULL, labels, lengthof(labels));
	bool		is_text = fuzz_is_text(answer);

	llmb_pii_note(pii, text, strlen(text));
	(void) llmb_pii_mask(pii, text, strlen(text));
	for (int json = 0; json < 2; json++)
	{
		char	   *restored = llmb_pii_restore(llmb_pii_map(pii), pstrdup(answer), json == 1);

		if (is_text)
			CHECK(fuzz_is_text(restored));
		(void) llmb_pii_hide(llmb_pii_map(pii), restored);
	}
}

static void
mask_json(char *text, size_t len)
{
	bool		altered = false;
	const char *reason;
	LlmbJson   *json;
	LlmbPii    *pii = llmb_pii_begin(find_some, NULL, labels, lengthof(labels));
	StringInfoData out;

	len = llmb_json_clean(text, len, &altered);
	json = llmb_json_parse(text, len, &reason);
	if (json == NULL)
		return;
	llmb_pii_note_json(pii, json);
	llmb_pii_mask_json(pii, json);
	initStringInfo(&out);
	llmb_json_put_node(&out, json);
	CHECK(fuzz_is_text(out.data));
	CHECK(llmb_json_parse(fuzz_copy(out.data, out.len), out.len, &reason) != NULL);
}

void
fuzz_one(const char *data, size_t len)
{
	char	   *text;
	char	   *texts[2];

	if (len < 1 || memchr(data, '\0', len) != NULL)
		return;
	text = fuzz_copy(data + 1, len - 1);
	switch (data[0])
	{
		case 'b':
			texts[0] = text;
			texts[1] = text + strcspn(text, "\n");
			if (*texts[1])
				*texts[1]++ = '\0';
			round_trip(texts, 2, find_some);
			break;
		case 'c':
			restore_some(text);
			break;
		case 'd':
			mask_json(text, len - 1);
			break;
		default:
			texts[0] = text;
			round_trip(texts, 1, NULL);
	}
}
