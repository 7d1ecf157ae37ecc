/*-------------------------------------------------------------------------
 *
 * json.c
 *		A tree of JSON values, read by PostgreSQL's own parser; a writer; and
 *		the cleaning of bytes that came from elsewhere.
 *
 * common/jsonapi.h judges what is JSON.  Three of its habits need care, and
 * are taken care of before it sees a byte, for all of them end in ereport()
 * in a backend:
 *
 *	- it converts \uXXXX into the server's encoding, and some characters have
 *	  no place there: llmb_json_clean() turns them into UTF-8 bytes first,
 *	  which it copies as they are;
 *	- it refuses U+0000 and halves of surrogate pairs, and with them the whole
 *	  text: llmb_json_clean() replaces them;
 *	- it descends recursively, until check_stack_depth() has enough:
 *	  text_fits() measures the nesting.
 *
 * A tree costs about a hundred bytes for each value, however short it is
 * written ("[1,1,1,..."), so the number of values is bounded, too.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <ctype.h>

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "compat.h"
#include "json.h"

/*
 * Most values in one text.  The largest reply we ask for, a listing of 100
 * batches, has about 4,000; with this bound a tree stays under 32 MB.
 */
#define MAX_VALUES 250000

/* U+FFFD REPLACEMENT CHARACTER */
#define REPLACEMENT "\xEF\xBF\xBD"
#define REPLACEMENT_LEN 3

/* What the semantic actions build on. */
typedef struct TreeBuilder
{
	LlmbJson   *root;
	LlmbJson   *open[LLMB_JSON_MAX_DEPTH];	/* arrays and objects around us */
	int			depth;			/* how many of them */
	char	   *name;			/* of the member whose value comes next */
} TreeBuilder;

/*
 * Cleaning
 */

/*
 * Replaces what is not UTF-8.  The replacement character is longer than a
 * lone bad byte and the text must not grow, so such a byte becomes '?'.  A
 * surrogate written as three bytes, which some encoders do, has the room.
 */
static bool
replace_invalid_bytes(char *text, size_t len)
{
	size_t		at = 0;
	bool		replaced = false;

	while ((at += pg_encoding_verifymbstr(PG_UTF8, text + at, len - at)) < len)
	{
		const unsigned char *s = (const unsigned char *) text + at;

		replaced = true;
		if (len - at >= REPLACEMENT_LEN &&
			s[0] == 0xED && s[1] >= 0xA0 && s[1] <= 0xBF &&
			s[2] >= 0x80 && s[2] <= 0xBF)
		{
			memcpy(text + at, REPLACEMENT, REPLACEMENT_LEN);
			at += REPLACEMENT_LEN;
		}
		else
			text[at++] = '?';
	}
	return replaced;
}

/* The code unit of "\uXXXX" at s, or -1 when that is not what stands there. */
static int
unicode_escape(const char *s, const char *end)
{
	int			unit = 0;
	int			i;

	if (end - s < 6 || s[0] != '\\' || s[1] != 'u')
		return -1;
	for (i = 2; i < 6; i++)
	{
		char		c = s[i];

		if (c >= '0' && c <= '9')
			unit = unit * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			unit = unit * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			unit = unit * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return unit;
}

/*
 * Decodes the escape at *in and steps over it: writes the character to out
 * and returns the length written.  Returns 0, with *in stepped over what is
 * to be kept, for an escape that stays one.
 *
 * ASCII stays: a control character, a quote or a backslash may not stand
 * raw in a string, and for the rest it makes no difference.
 */
static int
decode_escape(char **in, const char *end, char *out, bool *altered)
{
	int			unit = unicode_escape(*in, end);
	int			low;
	pg_wchar	c;

	if (unit < 0 || (unit > 0 && unit < 0x80))
	{
		*in += (unit < 0) ? Min(2, end - *in) : 6;
		return 0;
	}

	*in += 6;
	c = unit;
	if (is_utf16_surrogate_first(c))
	{
		low = unicode_escape(*in, end);
		if (low >= 0 && is_utf16_surrogate_second(low))
		{
			*in += 6;
			c = surrogate_pair_to_codepoint(c, low);
		}
	}
	if (c == 0 || (c >= 0xD800 && c <= 0xDFFF))
	{
		*altered = true;
		memcpy(out, REPLACEMENT, REPLACEMENT_LEN);
		return REPLACEMENT_LEN;
	}
	unicode_to_utf8(c, (unsigned char *) out);
	return pg_utf_mblen((unsigned char *) out);
}

/*
 * A backslash is legal inside strings only, so that every one begins an
 * escape; stepping from escape to escape also keeps "\\u0041" what it is.
 */
static size_t
decode_escapes(char *text, size_t len, bool *altered)
{
	char	   *end = text + len;
	char	   *out = memchr(text, '\\', len);
	char	   *in = out;

	if (in == NULL)
		return len;

	while (in < end)
	{
		char	   *start = in;
		int			written = decode_escape(&in, end, out, altered);
		char	   *next;

		/* what is kept runs on to the next escape, and moves in one go */
		if (written > 0)
		{
			out += written;
			start = in;
			if (in < end && *in == '\\')
				continue;
		}
		next = (in < end) ? memchr(in, '\\', end - in) : NULL;
		if (next == NULL)
			next = end;
		if (out != start)
			memmove(out, start, next - start);
		out += next - start;
		in = next;
	}
	return out - text;
}

size_t
llmb_json_clean(char *text, size_t len, bool *altered)
{
	size_t		clean_len;

	if (replace_invalid_bytes(text, len))
		*altered = true;
	clean_len = decode_escapes(text, len, altered);
	if (clean_len < len)
		text[clean_len] = '\0';
	return clean_len;
}

/*
 * Reading
 */

/* p is after an opening quote; returns where the string has ended. */
static const char *
skip_string(const char *p, const char *end)
{
	while ((p = memchr(p, '"', end - p)) != NULL)
	{
		const char *escape = p;

		/* an odd number of backslashes before it: an escaped quote */
		while (escape[-1] == '\\')
			escape--;
		p++;
		if ((p - 1 - escape) % 2 == 0)
			return p;
	}
	return end;
}

/*
 * Whether the parser may be let loose on the text.  Depth and number are
 * exact for JSON; of anything else the parser reads no more than a prefix
 * that could still become JSON, of which they are exact as well.
 */
static const char *
text_fits(const char *text, size_t len)
{
	const char *p = text;
	const char *end = text + len;
	int			depth = 0;
	int			values = 0;

	while (p < end)
	{
		switch (*p++)
		{
			case '"':
				p = skip_string(p, end);
				break;
			case '{':
			case '[':
				values++;
				if (++depth > LLMB_JSON_MAX_DEPTH)
					return "JSON nests too deeply";
				break;
			case '}':
			case ']':
				depth--;
				break;
			case ',':
				values++;
				break;
			default:
				break;
		}
		if (depth < 0)
			return "not valid JSON";
	}
	return (values > MAX_VALUES) ? "JSON holds too many values" : NULL;
}

static LlmbJson *
add_value(TreeBuilder *builder, LlmbJsonType type)
{
	LlmbJson   *node = palloc0(sizeof(LlmbJson));
	LlmbJson   *parent;

	node->type = type;
	node->name = builder->name;
	builder->name = NULL;

	if (builder->depth == 0)
	{
		builder->root = node;
		return node;
	}
	parent = builder->open[builder->depth - 1];
	if (parent->last == NULL)
		parent->first = node;
	else
		parent->last->next = node;
	parent->last = node;
	parent->count++;
	return node;
}

static void
open_value(TreeBuilder *builder, LlmbJsonType type)
{
	LlmbJson   *node = add_value(builder, type);

	Assert(builder->depth < LLMB_JSON_MAX_DEPTH);
	builder->open[builder->depth++] = node;
}

static LlmbJsonActionResult
tree_object_start(void *state)
{
	open_value(state, LLMB_JSON_OBJECT);
	LLMB_JSON_ACTION_DONE;
}

static LlmbJsonActionResult
tree_array_start(void *state)
{
	open_value(state, LLMB_JSON_ARRAY);
	LLMB_JSON_ACTION_DONE;
}

static LlmbJsonActionResult
tree_close(void *state)
{
	((TreeBuilder *) state)->depth--;
	LLMB_JSON_ACTION_DONE;
}

static LlmbJsonActionResult
tree_member(void *state, char *name, bool isnull pg_attribute_unused())
{
	((TreeBuilder *) state)->name = name;
	LLMB_JSON_ACTION_DONE;
}

/* The token is palloc'd and ours, as the name of a member is. */
static LlmbJsonActionResult
tree_scalar(void *state, char *token, JsonTokenType tokentype)
{
	LlmbJson   *node;

	switch (tokentype)
	{
		case JSON_TOKEN_STRING:
			node = add_value(state, LLMB_JSON_STRING);
			node->text = token;
			break;
		case JSON_TOKEN_NUMBER:
			node = add_value(state, LLMB_JSON_NUMBER);
			node->text = token;
			break;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			node = add_value(state, LLMB_JSON_BOOL);
			node->boolean = (tokentype == JSON_TOKEN_TRUE);
			pfree(token);
			break;
		default:
			(void) add_value(state, LLMB_JSON_NULL);
			pfree(token);
			break;
	}
	LLMB_JSON_ACTION_DONE;
}

LlmbJson *
llmb_json_parse(char *text, size_t len, const char **reason)
{
	TreeBuilder builder = {0};
	JsonSemAction actions = {0};
	JsonLexContext *lex;
	JsonParseErrorType result;

	*reason = text_fits(text, len);
	if (*reason != NULL)
		return NULL;

	actions.semstate = &builder;
	actions.object_start = tree_object_start;
	actions.object_end = tree_close;
	actions.array_start = tree_array_start;
	actions.array_end = tree_close;
	actions.object_field_start = tree_member;
	actions.scalar = tree_scalar;

	lex = llmb_json_lexer_make(text, len, PG_UTF8);
	result = pg_parse_json(lex, &actions);
	llmb_json_lexer_free(lex);
	if (result == JSON_SUCCESS)
		return builder.root;

	/* its own words would quote the text */
	*reason = "not valid JSON";
	if (builder.name != NULL)
		pfree(builder.name);
	llmb_json_free(builder.root);
	return NULL;
}

void
llmb_json_free(LlmbJson *node)
{
	LlmbJson   *child;
	LlmbJson   *next;

	if (node == NULL)
		return;
	for (child = node->first; child != NULL; child = next)
	{
		next = child->next;
		llmb_json_free(child);
	}
	if (node->name != NULL)
		pfree(node->name);
	if (node->text != NULL)
		pfree(node->text);
	pfree(node);
}

/*
 * Navigation
 */

/* Of members with the same name the last one counts, as in jsonb. */
LlmbJson *
llmb_json_get(const LlmbJson *node, const char *member)
{
	LlmbJson   *found = NULL;
	LlmbJson   *child;

	if (node == NULL || node->type != LLMB_JSON_OBJECT)
		return NULL;
	for (child = node->first; child != NULL; child = child->next)
	{
		if (strcmp(child->name, member) == 0)
			found = child;
	}
	return found;
}

LlmbJson *
llmb_json_path(const LlmbJson *node,...)
{
	va_list		members;
	const char *member;

	va_start(members, node);
	while ((member = va_arg(members, const char *)) != NULL)
		node = llmb_json_get(node, member);
	va_end(members);
	return unconstify(LlmbJson *, node);
}

LlmbJson *
llmb_json_at(const LlmbJson *node, int index)
{
	LlmbJson   *child;

	if (node == NULL || node->type != LLMB_JSON_ARRAY || index < 0)
		return NULL;
	for (child = node->first; child != NULL && index > 0; index--)
		child = child->next;
	return child;
}

const char *
llmb_json_string(const LlmbJson *node, const char *member)
{
	LlmbJson   *value = llmb_json_get(node, member);

	if (value == NULL || value->type != LLMB_JSON_STRING)
		return NULL;
	return value->text;
}

int64
llmb_json_int(const LlmbJson *node, const char *member, int64 absent)
{
	LlmbJson   *value = llmb_json_get(node, member);
	char	   *end;
	int64		result;

	if (value == NULL ||
		(value->type != LLMB_JSON_NUMBER && value->type != LLMB_JSON_STRING))
		return absent;

	/* strtoll() would also take blanks and a plus sign */
	if (value->text[0] != '-' && !isdigit((unsigned char) value->text[0]))
		return absent;
	errno = 0;
	result = strtoll(value->text, &end, 10);
	return (errno != 0 || *end != '\0') ? absent : result;
}

bool
llmb_json_is_null(const LlmbJson *node)
{
	return node == NULL || node->type == LLMB_JSON_NULL;
}

/*
 * Writing
 */

static void
put_escape(StringInfo out, unsigned char c)
{
	switch (c)
	{
		case '"':
			appendStringInfoString(out, "\\\"");
			break;
		case '\\':
			appendStringInfoString(out, "\\\\");
			break;
		case '\n':
			appendStringInfoString(out, "\\n");
			break;
		case '\r':
			appendStringInfoString(out, "\\r");
			break;
		case '\t':
			appendStringInfoString(out, "\\t");
			break;
		default:
			appendStringInfo(out, "\\u%04x", c);
			break;
	}
}

void
llmb_json_put_string_len(StringInfo out, const char *text, size_t len)
{
	const char *end = text + len;
	const char *run = text;
	const char *p;

	appendStringInfoCharMacro(out, '"');
	for (p = text; p < end; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (likely(c >= 0x20 && c != '"' && c != '\\'))
			continue;
		appendBinaryStringInfo(out, run, p - run);
		put_escape(out, c);
		run = p + 1;
	}
	appendBinaryStringInfo(out, run, end - run);
	appendStringInfoCharMacro(out, '"');
}

void
llmb_json_put_string(StringInfo out, const char *text)
{
	llmb_json_put_string_len(out, text, strlen(text));
}

static void
put_children(StringInfo out, const LlmbJson *node)
{
	const LlmbJson *child;

	for (child = node->first; child != NULL; child = child->next)
	{
		if (child != node->first)
			appendStringInfoChar(out, ',');
		if (node->type == LLMB_JSON_OBJECT)
		{
			llmb_json_put_string(out, child->name);
			appendStringInfoChar(out, ':');
		}
		llmb_json_put_node(out, child);
	}
}

void
llmb_json_put_node(StringInfo out, const LlmbJson *node)
{
	switch (node->type)
	{
		case LLMB_JSON_NULL:
			appendStringInfoString(out, "null");
			break;
		case LLMB_JSON_BOOL:
			appendStringInfoString(out, node->boolean ? "true" : "false");
			break;
		case LLMB_JSON_NUMBER:
			appendStringInfoString(out, node->text);
			break;
		case LLMB_JSON_STRING:
			llmb_json_put_string(out, node->text);
			break;
		case LLMB_JSON_ARRAY:
			appendStringInfoChar(out, '[');
			put_children(out, node);
			appendStringInfoChar(out, ']');
			break;
		case LLMB_JSON_OBJECT:
			appendStringInfoChar(out, '{');
			put_children(out, node);
			appendStringInfoChar(out, '}');
			break;
	}
}

ssize_t
llmb_jsonl_next(const char *buf, size_t len, size_t *consumed)
{
	const char *newline = (len > 0) ? memchr(buf, '\n', len) : NULL;

	if (newline == NULL)
		return -1;
	*consumed = newline - buf + 1;
	if (newline > buf && newline[-1] == '\r')
		newline--;
	return newline - buf;
}
