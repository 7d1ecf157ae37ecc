/*-------------------------------------------------------------------------
 *
 * json.c
 *		Fuzz target "json": json.c, and the small readers of provider.c.
 *
 * Input: a letter that says which reader, then the bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "mb/pg_wchar.h"

#include "json.h"
#include "model_name.h"
#include "provider.h"

#include "fuzz.h"

static int
depth_of(const LlmbJson *node)
{
	int			deepest = 0;

	for (const LlmbJson *child = node->first; child; child = child->next)
	{
		int			depth = depth_of(child);

		deepest = Max(deepest, depth);
	}
	return deepest + 1;
}

static void
check_node(const LlmbJson *node, bool member)
{
	int			count = 0;

	CHECK((node->name != NULL) == member);
	CHECK(fuzz_is_text(node->name));
	CHECK((node->text != NULL) == (node->type == LLMB_JSON_STRING || node->type == LLMB_JSON_NUMBER));
	CHECK(fuzz_is_text(node->text));
	for (const LlmbJson *child = node->first; child; child = child->next)
	{
		CHECK(child->next != NULL || child == node->last);
		CHECK(llmb_json_at(node, count) == (node->type == LLMB_JSON_ARRAY ? child : NULL));
		/* of a name that is there twice, the last */
		CHECK(!member || child->name == NULL || llmb_json_get(node, child->name) != NULL);
		check_node(child, node->type == LLMB_JSON_OBJECT);
		if (++count > 50)
			break;
	}
	CHECK(count > 50 || count == node->count);
}

/* Text that was cleaned stays what it is; what was read can be written and read again. */
static void
check_json(const char *data, size_t len)
{
	char	   *text = fuzz_copy(data, len);
	bool		altered = false;
	bool		again = false;
	size_t		clean = llmb_json_clean(text, len, &altered);
	const char *reason = NULL;
	LlmbJson   *root;
	LlmbJson   *copy;
	StringInfoData written;
	StringInfoData rewritten;

	CHECK(clean <= len && text[clean] == '\0');
	CHECK(strlen(text) == clean && fuzz_is_text(text));
	CHECK(llmb_json_clean(text, clean, &again) == clean && !again);

	root = llmb_json_parse(text, clean, &reason);
	if (root == NULL)
	{
		CHECK(reason != NULL);
		return;
	}
	CHECK(depth_of(root) <= LLMB_JSON_MAX_DEPTH + 1);
	check_node(root, false);
	(void) llmb_json_int(root, "a", -1);
	(void) llmb_count(root, "a");

	initStringInfo(&written);
	initStringInfo(&rewritten);
	llmb_json_put_node(&written, root);
	CHECK(fuzz_is_text(written.data) && strlen(written.data) == (size_t) written.len);
	copy = llmb_json_parse(written.data, written.len, &reason);
	CHECK(copy != NULL);
	llmb_json_put_node(&rewritten, copy);
	CHECK(strcmp(written.data, rewritten.data) == 0);
	llmb_json_free(copy);
	llmb_json_free(root);
}

static void
check_lines(const char *data, size_t len)
{
	char	   *text = fuzz_copy(data, len);
	size_t		at = 0;
	size_t		consumed;
	ssize_t		n;

	while ((n = llmb_jsonl_next(text + at, len - at, &consumed)) >= 0)
	{
		CHECK(consumed > (size_t) n && consumed <= (size_t) n + 2 && consumed <= len - at);
		CHECK(text[at + consumed - 1] == '\n');
		CHECK(memchr(text + at, '\n', n) == NULL);
		at += consumed;
	}
	CHECK(memchr(text + at, '\n', len - at) == NULL);
}

static void
check_words(const char *data, size_t len)
{
	char	   *text = fuzz_copy(data, len);
	LlmbHttpReply http = {.headers = text};
	char	   *safe = llmb_safe_code(text);
	char	   *value = llmb_reply_header(&http, "x");
	int64		ms = llmb_rfc3339_ms(text);
	char	  **forms;
	int			count;

	/* to the end of the year 9999, and a day for zones */
	CHECK(ms >= 0 && ms <= INT64CONST(253402387200000));
	CHECK(!llmb_is_id(text) || (strlen(text) <= 128 && strpbrk(text, "/.%? \n") == NULL));
	CHECK(safe == NULL || strcmp(safe, text) == 0);
	CHECK(value == NULL || (strchr(value, '\n') == NULL && strlen(value) <= len));
	CHECK(llmb_reply_header_int(&http, "x") >= -1);
	(void) llmb_in_list(text, "a ab abc");
	forms = llmb_model_forms(text, len % 2 == 0, &count);
	CHECK(count >= 1 && count <= LLMB_MODEL_FORMS);
	for (int i = 0; i < count; i++)
		CHECK(strlen(forms[i]) <= strlen(text));
	(void) llmb_url_host(text);
}

void
fuzz_one(const char *data, size_t len)
{
	if (len < 1)
		return;
	switch (data[0])
	{
		case 'j':
			check_json(data + 1, len - 1);
			break;
		case 'l':
			check_lines(data + 1, len - 1);
			break;
		case 'w':
			check_words(data + 1, len - 1);
			break;
	}
}
