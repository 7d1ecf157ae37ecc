/*-------------------------------------------------------------------------
 *
 * pii.c
 *		Personal data in texts, replaced by placeholders and put back.
 *
 * A "mention" is whatever a reader would take for a placeholder, be it ours or
 * not: a label and a number.  The same reader of mentions serves both ends:
 * numbers that the texts mention are not given to values, and mentions in an
 * answer are what is restored.  So what models make of a placeholder may be
 * read generously (they drop brackets, change the case, escape the underscore
 * for Markdown), and a mention that is not ours is still left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "common/hashfn.h"

#include "pii.h"

/* Longest number of a mention, in digits. */
#define MAX_NUMBER_DIGITS 9

typedef struct Label
{
	const char *name;
	int			len;
	int			next;			/* number of its next value */
	int		   *taken;			/* numbers that the texts mention */
	int			taken_count;
	int			taken_space;
	int			taken_at;		/* sorted, and below this all are less than next */
} Label;

typedef struct Labels
{
	Label	   *label;
	int			count;
	int			space;
} Labels;

struct LlmbPii
{
	LlmbPiiFinder finder;
	void	   *finder_arg;
	Labels		labels;
	bool		begun;			/* some text was masked */
	LlmbPiiMap	map;
	int			map_space;
	int			place_space;
	int		   *slots;			/* hash table of values: index + 1, or 0 */
	int			slot_count;		/* a power of two */
	int			since;			/* bytes since the last place */

	/* as it was done before */
	const LlmbPiiMap *again;
	int			place;			/* the next one */
	bool		differs;
};

/* ---- labels ---- */

static Label *
find_label(const Labels *labels, const char *name, int len)
{
	for (int i = 0; i < labels->count; i++)
	{
		if (labels->label[i].len == len && pg_strncasecmp(labels->label[i].name, name, len) == 0)
			return &labels->label[i];
	}
	return NULL;
}

static Label *
add_label(Labels *labels, const char *name, int len)
{
	Label	   *label = find_label(labels, name, len);

	if (label != NULL)
		return label;
	if (labels->count == labels->space)
	{
		labels->space = Max(16, labels->space * 2);
		labels->label = labels->label ? repalloc(labels->label, sizeof(Label) * labels->space) :
			palloc(sizeof(Label) * labels->space);
	}
	label = &labels->label[labels->count++];
	memset(label, 0, sizeof(Label));
	label->name = name;
	label->len = len;
	label->next = 1;
	return label;
}

/* ---- mentions ---- */

typedef struct Mention
{
	const Label *label;
	int			number;
	int			begin;
	int			end;
} Mention;

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_name(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* Steps back over backslashes before i. */
static int
before_backslashes(const char *text, int i)
{
	while (i > 0 && text[i - 1] == '\\')
		i--;
	return i;
}

/* The longest label that ends before i, case aside, and is no end of a longer name. */
static const Label *
label_before(const Labels *labels, const char *text, int i)
{
	const Label *best = NULL;

	for (int n = 0; n < labels->count; n++)
	{
		const Label *label = &labels->label[n];

		if (label->len <= i && pg_strncasecmp(text + i - label->len, label->name, label->len) == 0 &&
			(i == label->len || !is_name(text[i - label->len - 1])) &&
			(best == NULL || label->len > best->len))
			best = label;
	}
	return best;
}

/* With its brackets, if it has both: "[EMAIL_1]", "[ email_1 ]", "\[EMAIL\_1\]" */
static bool
take_brackets(const char *text, int len, Mention *mention)
{
	int			begin = mention->begin;
	int			end = mention->end;

	while (begin > 0 && mention->begin - begin < 2 && text[begin - 1] == ' ')
		begin--;
	while (end < len && end - mention->end < 2 && text[end] == ' ')
		end++;
	while (end < len && end - mention->end < 4 && text[end] == '\\')
		end++;
	if (begin == 0 || text[begin - 1] != '[' || end == len || text[end] != ']')
		return false;
	mention->begin = begin - 1;
	mention->end = end + 1;
	/* as many backslashes before the bracket as before the other */
	if (text[end - 1] == '\\')
		mention->begin = before_backslashes(text, mention->begin);
	return true;
}

/* The mention whose number begins at i, if any; *next: where to go on. */
static bool
mention_at(const Labels *labels, const char *text, int len, int i, Mention *mention, int *next)
{
	int			name_end;
	char		sign = text[i - 1];

	mention->number = 0;
	for (mention->end = i; mention->end < len && is_digit(text[mention->end]); mention->end++)
	{
		if (mention->end - i < MAX_NUMBER_DIGITS)
			mention->number = mention->number * 10 + text[mention->end] - '0';
	}
	*next = mention->end;
	if (mention->end - i > MAX_NUMBER_DIGITS || text[i] == '0' || (mention->end < len && is_name(text[mention->end])))
		return false;
	name_end = before_backslashes(text, i - 1);
	if (i - 1 - name_end > 4)
		return false;
	mention->label = label_before(labels, text, name_end);
	if (mention->label == NULL)
		return false;
	mention->begin = name_end - mention->label->len;
	/* "phone 1" and "id-1" are words, but between brackets */
	return take_brackets(text, len, mention) || sign == '_';
}

/* The next mention from *at on. */
static bool
next_mention(const Labels *labels, const char *text, int len, int *at, Mention *mention)
{
	int			i = Max(*at, 1);

	while (i < len)
	{
		int			next = i + 1;
		char		before;

		if (!is_digit(text[i]))
		{
			i++;
			continue;
		}
		before = text[i - 1];
		if ((before == '_' || before == ' ' || before == '-') &&
			mention_at(labels, text, len, i, mention, &next) && mention->begin >= *at)
		{
			*at = mention->end;
			return true;
		}
		i = next;
	}
	return false;
}

/* ---- values ---- */

static uint32
hash_of(const char *value, int len)
{
	return hash_bytes((const unsigned char *) value, len);
}

static void
grow_slots(LlmbPii *pii)
{
	pii->slot_count = Max(64, pii->slot_count * 2);
	if (pii->slots)
		pfree(pii->slots);
	pii->slots = palloc0(sizeof(int) * pii->slot_count);
	for (int i = 0; i < pii->map.count; i++)
	{
		uint32		slot = hash_of(pii->map.originals[i], strlen(pii->map.originals[i]));

		while (pii->slots[slot & (pii->slot_count - 1)] != 0)
			slot++;
		pii->slots[slot & (pii->slot_count - 1)] = i + 1;
	}
}

static int
compare_ints(const void *a, const void *b)
{
	int			x = *(const int *) a;
	int			y = *(const int *) b;

	return x < y ? -1 : x > y;
}

/* The next number of that label which no text mentions. */
static int
next_number(Label *label)
{
	while (label->taken_at < label->taken_count && label->taken[label->taken_at] <= label->next)
	{
		if (label->taken[label->taken_at++] == label->next)
			label->next++;
	}
	return label->next++;
}

static char *
new_placeholder(LlmbPii *pii, const char *name)
{
	Label	   *label = add_label(&pii->labels, name, strlen(name));

	return psprintf("[%s_%d]", label->name, next_number(label));
}

/* The index of a value; a new one gets a placeholder of that label. */
static int
value_index(LlmbPii *pii, const char *text, int len, const char *label)
{
	LlmbPiiMap *map = &pii->map;
	uint32		slot = hash_of(text, len);
	int			i;

	if ((map->count + 1) * 2 > pii->slot_count)
		grow_slots(pii);
	while ((i = pii->slots[slot & (pii->slot_count - 1)]) != 0)
	{
		const char *original = map->originals[i - 1];

		if (strncmp(original, text, len) == 0 && original[len] == '\0')
			return i - 1;
		slot++;
	}
	if (map->count == pii->map_space)
	{
		pii->map_space = Max(16, pii->map_space * 2);
		map->originals = map->originals ? repalloc(map->originals, sizeof(char *) * pii->map_space) :
			palloc(sizeof(char *) * pii->map_space);
		map->placeholders = map->placeholders ? repalloc(map->placeholders, sizeof(char *) * pii->map_space) :
			palloc(sizeof(char *) * pii->map_space);
	}
	map->originals[map->count] = pnstrdup(text, len);
	map->placeholders[map->count] = new_placeholder(pii, label);
	pii->slots[slot & (pii->slot_count - 1)] = ++map->count;
	return map->count - 1;
}

static void
add_place(LlmbPii *pii, int gap, int len, int index)
{
	LlmbPiiMap *map = &pii->map;
	int		   *place;

	if (map->place_count == pii->place_space)
	{
		pii->place_space = Max(16, pii->place_space * 2);
		map->places = map->places ? repalloc(map->places, sizeof(int) * LLMB_PII_PLACE * pii->place_space) :
			palloc(sizeof(int) * LLMB_PII_PLACE * pii->place_space);
	}
	place = map->places + LLMB_PII_PLACE * map->place_count++;
	place[0] = gap;
	place[1] = len;
	place[2] = index;
}

/* ---- spans ---- */

static int
compare_spans(const void *a, const void *b)
{
	const LlmbPiiSpan *x = a;
	const LlmbPiiSpan *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end > y->end ? -1 : x->end < y->end;
}

/*
 * Bytes of the character at i if it is part of a word, else 0.  Beyond ASCII:
 * letters of scripts that set blanks between words, U+00C0 to U+0DFF (as in
 * pii_scan.c) and those of Vietnamese and old Greek, U+1E00 to U+1FFF.
 */
static int
word_bytes(const char *text, int i, int len)
{
	unsigned char c = text[i];
	unsigned char second = i + 1 < len ? text[i + 1] : 0;

	if (is_name(text[i]))
		return 1;
	if ((second & 0xC0) != 0x80)
		return 0;
	if (c >= 0xC3 && c <= 0xDF)
		/* but the signs of multiplication and division */
		return c == 0xC3 && (second == 0x97 || second == 0xB7) ? 0 : 2;
	if ((c == 0xE0 && second >= 0xA0 && second <= 0xB7) || (c == 0xE1 && second >= 0xB8))
		return i + 2 < len && (text[i + 2] & 0xC0) == 0x80 ? 3 : 0;
	return 0;
}

/* The same of the character that ends before i. */
static int
word_bytes_before(const char *text, int i, int from)
{
	int			begin = i - 1;

	while (begin > from && i - begin < 3 && (text[begin] & 0xC0) == 0x80)
		begin--;
	return begin >= from && word_bytes(text, begin, i) == i - begin ? i - begin : 0;
}

static int
word_begin(const char *text, int i, int from)
{
	int			bytes;

	while ((bytes = word_bytes_before(text, i, from)) > 0)
		i -= bytes;
	return i;
}

static int
word_end(const char *text, int i, int len)
{
	int			bytes;

	while (i < len && (bytes = word_bytes(text, i, len)) > 0)
		i += bytes;
	return i;
}

/*
 * What overlaps becomes one, under the label of its longest part: nothing of
 * either may leave.
 */
static void
merge_spans(const char *text, int len, LlmbPiiSpans *spans)
{
	int			count = 0;
	int			longest = 0;

	qsort(spans->span, spans->count, sizeof(LlmbPiiSpan), compare_spans);
	for (int i = 0; i < spans->count; i++)
	{
		LlmbPiiSpan span = spans->span[i];
		LlmbPiiSpan *last = count > 0 ? &spans->span[count - 1] : NULL;
		int			from = last ? last->end : 0;

		/* a finder may count bytes, but a half of a character is no text */
		while (span.begin > from && span.begin < len && ((unsigned char) text[span.begin] & 0xC0) == 0x80)
			span.begin--;
		while (span.end < len && ((unsigned char) text[span.end] & 0xC0) == 0x80)
			span.end++;
		if (span.in_word && span.begin > from)
			span.begin = word_begin(text, span.begin, from);
		if (span.in_word && span.end > from)
			span.end = word_end(text, span.end, len);
		/* one that touches the last in the middle of a word is part of it */
		if (last == NULL || span.begin > from || (span.begin == from && !(span.in_word && word_bytes_before(text, from, 0) > 0)))
		{
			spans->span[count++] = span;
			longest = span.end - span.begin;
			continue;
		}
		if (span.end - span.begin > longest)
		{
			longest = span.end - span.begin;
			last->label = span.label;
		}
		last->end = Max(last->end, span.end);
	}
	spans->count = count;
}

static void
find_spans(LlmbPii *pii, const char *text, int len, LlmbPiiSpans *spans)
{
	int			by_form;

	memset(spans, 0, sizeof(LlmbPiiSpans));
	llmb_pii_scan(text, len, spans);
	by_form = spans->count;
	if (pii->finder)
		pii->finder(text, len, spans, pii->finder_arg);
	for (int i = by_form; i < spans->count; i++)
		spans->span[i].in_word = true;
	if (spans->count > by_form)
		merge_spans(text, len, spans);
}

/* ---- masking ---- */

LlmbPii *
llmb_pii_begin(LlmbPiiFinder finder, void *arg, const char *const *labels, int label_count)
{
	LlmbPii    *pii = palloc0(sizeof(LlmbPii));

	pii->finder = finder;
	pii->finder_arg = arg;
	for (const char *const *label = llmb_pii_labels; *label; label++)
		(void) add_label(&pii->labels, *label, strlen(*label));
	for (int i = 0; i < label_count; i++)
		(void) add_label(&pii->labels, labels[i], strlen(labels[i]));
	return pii;
}

LlmbPii *
llmb_pii_again(const LlmbPiiMap *map)
{
	LlmbPii    *pii = palloc0(sizeof(LlmbPii));

	pii->again = map;
	for (int i = 0; i < map->place_count; i++)
	{
		const int  *place = map->places + LLMB_PII_PLACE * i;

		if (place[0] < 0 || place[1] <= 0 || place[2] < 0 || place[2] >= map->count)
			pii->differs = true;
	}
	return pii;
}

bool
llmb_pii_was_same(const LlmbPii *pii)
{
	return !pii->differs && pii->place == pii->again->place_count;
}

const LlmbPiiMap *
llmb_pii_map(const LlmbPii *pii)
{
	return pii->again ? pii->again : &pii->map;
}

void
llmb_pii_note(LlmbPii *pii, const char *text, int len)
{
	Mention		mention;
	int			at = 0;

	Assert(!pii->begun);
	while (pii->again == NULL && next_mention(&pii->labels, text, len, &at, &mention))
	{
		Label	   *label = unconstify(Label *, mention.label);

		if (label->taken_count == label->taken_space)
		{
			label->taken_space = Max(16, label->taken_space * 2);
			label->taken = label->taken ? repalloc(label->taken, sizeof(int) * label->taken_space) :
				palloc(sizeof(int) * label->taken_space);
		}
		label->taken[label->taken_count++] = mention.number;
	}
}

void
llmb_pii_note_json(LlmbPii *pii, const LlmbJson *node)
{
	if (node->type == LLMB_JSON_STRING)
		llmb_pii_note(pii, node->text, strlen(node->text));
	if (node->name)
		llmb_pii_note(pii, node->name, strlen(node->name));
	for (const LlmbJson *child = node->first; child; child = child->next)
		llmb_pii_note_json(pii, child);
}

static void
sort_taken(LlmbPii *pii)
{
	for (int i = 0; i < pii->labels.count; i++)
	{
		Label	   *label = &pii->labels.label[i];

		if (label->taken_count > 1)
			qsort(label->taken, label->taken_count, sizeof(int), compare_ints);
	}
	pii->begun = true;
}

/* A database that lacks characters of it has it with \uXXXX instead. */
static bool
is_original(const char *original, const char *text, int len)
{
	if ((int) strlen(original) != len)
		return strstr(original, "\\u") != NULL;
	return memcmp(original, text, len) == 0;
}

/* By the places that were found before. */
static void
mask_again(LlmbPii *pii, StringInfo out, const char *text, int len)
{
	const LlmbPiiMap *map = pii->again;
	int			at = 0;

	while (!pii->differs && pii->place < map->place_count)
	{
		const int  *place = map->places + LLMB_PII_PLACE * pii->place;
		int			begin = at + place[0] - pii->since;
		const char *original;

		/* in a later text */
		if (begin >= len)
			break;
		original = map->originals[place[2]];
		if (begin < at || place[1] > len - begin || !is_original(original, text + begin, place[1]))
		{
			pii->differs = true;
			return;
		}
		appendBinaryStringInfo(out, text + at, begin - at);
		appendStringInfoString(out, map->placeholders[place[2]]);
		at = begin + place[1];
		pii->since = 0;
		pii->place++;
	}
	appendBinaryStringInfo(out, text + at, len - at);
	pii->since += len - at;
}

char *
llmb_pii_mask(LlmbPii *pii, const char *text, int len)
{
	StringInfoData out;
	LlmbPiiSpans spans;
	int			at = 0;

	initStringInfo(&out);
	if (pii->again)
	{
		mask_again(pii, &out, text, len);
		return out.data;
	}
	if (!pii->begun)
		sort_taken(pii);
	find_spans(pii, text, len, &spans);
	enlargeStringInfo(&out, len);
	for (int i = 0; i < spans.count; i++)
	{
		const LlmbPiiSpan *span = &spans.span[i];
		int			index = value_index(pii, text + span->begin, span->end - span->begin, span->label);

		appendBinaryStringInfo(&out, text + at, span->begin - at);
		appendStringInfoString(&out, pii->map.placeholders[index]);
		add_place(pii, pii->since + span->begin - at, span->end - span->begin, index);
		pii->since = 0;
		at = span->end;
	}
	appendBinaryStringInfo(&out, text + at, len - at);
	pii->since += len - at;
	if (spans.span)
		pfree(spans.span);
	return out.data;
}

/* What makes the form of messages, and no text of anybody's. */
static bool
is_form(const LlmbJson *node)
{
	static const char *const names[] = {"role", "type", "media_type", "mime_type", "mimeType"};

	if (node->name == NULL || node->type != LLMB_JSON_STRING)
		return false;
	for (int i = 0; i < (int) lengthof(names); i++)
	{
		if (strcmp(node->name, names[i]) == 0)
			return true;
	}
	return false;
}

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#define BASE64	LETTERS "+/"
#define BASE64_OF_URLS LETTERS "-_"

/* "data:image/png;base64,...": that and nothing else, and nothing personal before the comma. */
static bool
is_data_url(const char *text)
{
	static const char *const sign = ";base64,";
	LlmbPiiSpans spans = {0};
	size_t		head;

	if (pg_strncasecmp(text, "data:", 5) != 0)
		return false;
	head = 5 + strspn(text + 5, LETTERS "/.+-_;=");
	if (text[head] != ',' || head < 4 + strlen(sign) || pg_strncasecmp(text + head + 1 - strlen(sign), sign, strlen(sign)) != 0)
		return false;
	if (text[head + strspn(text + head, "," BASE64 "-_=\r\n")] != '\0' || strchr(text + head + 1, ',') != NULL)
		return false;
	llmb_pii_scan(text, (int) head, &spans);
	if (spans.span)
		pfree(spans.span);
	return spans.count == 0;
}

/* A file or a signature, long, in one line or in lines of one length, as MIME and PEM have them. */
static bool
is_base64(const char *text)
{
	const size_t long_enough = 512;
	const size_t shortest_line = 60;
	size_t		line = strcspn(text, "=\r\n");
	size_t		last = line;

	if (strlen(text) < long_enough || (strspn(text, BASE64) < line && strspn(text, BASE64_OF_URLS) < line))
		return false;
	for (text += line; *text == '\r' || *text == '\n'; text += last)
	{
		text += strspn(text, "\r\n");
		if (*text == '\0')
			break;
		/* only the last is shorter */
		if (line < shortest_line || last < line)
			return false;
		last = strspn(text, BASE64);
		if (last > line)
			return false;
	}
	text += strspn(text, "=");
	return text[strspn(text, "\r\n")] == '\0';
}

/* An image or file, or what a provider has signed or encrypted: no text of anybody's. */
static bool
is_binary(const LlmbJson *node)
{
	/* members whose content is base64: Anthropic's, Gemini's, OpenAI's */
	static const char *const names[] = {"data", "file_data", "image", "b64_json", "encrypted_content", "signature",
	"thoughtSignature", "thought_signature"};

	for (int i = 0; node->name && i < (int) lengthof(names); i++)
	{
		if (strcmp(node->name, names[i]) == 0 && is_base64(node->text))
			return true;
	}
	return is_data_url(node->text);
}

void
llmb_pii_mask_json(LlmbPii *pii, LlmbJson *node)
{
	if (node->type == LLMB_JSON_STRING && !is_form(node) && !is_binary(node))
		node->text = llmb_pii_mask(pii, node->text, strlen(node->text));
	else if (node->type == LLMB_JSON_NUMBER)
	{
		char	   *masked = llmb_pii_mask(pii, node->text, strlen(node->text));

		if (strcmp(masked, node->text) != 0)
			node->type = LLMB_JSON_STRING;
		node->text = masked;
	}
	for (LlmbJson *child = node->first; child; child = child->next)
		llmb_pii_mask_json(pii, child);
}

/* ---- restoring ---- */

/* In which JSON string a place of an answer is. */
typedef struct Strings
{
	int			at;				/* so far it is known */
	bool		inside;
	bool		json_within;	/* the string itself is JSON text */
} Strings;

static bool
begins_json(const char *text)
{
	text += strspn(text, " \n\r\t");
	if (text[0] == '{')
		return true;
	return text[0] == '[' && strchr("{[]\\-0123456789 ", text[1]) != NULL;
}

static void
go_to(Strings *strings, const char *answer, int to)
{
	while (strings->at < to)
	{
		char		c = answer[strings->at++];

		if (c == '\\' && strings->inside)
			strings->at++;
		else if (c == '"')
		{
			strings->inside = !strings->inside;
			strings->json_within = strings->inside && begins_json(answer + strings->at);
		}
	}
}

/* As in a JSON string, without its quotes. */
static char *
escaped(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	llmb_json_put_string(&out, text);
	out.data[out.len - 1] = '\0';
	return out.data + 1;
}

static bool
needs_escape(const char *text)
{
	for (; *text; text++)
	{
		if (*text == '"' || *text == '\\' || (unsigned char) *text < ' ')
			return true;
	}
	return false;
}

/*
 * Whether it was written as JSON writes it, with escapes that nothing else has
 * ("m\u00fcller@x.de", "030\/1234567").
 */
static bool
is_escaped(const char *text)
{
	for (; (text = strpbrk(text, "\"\\")) != NULL; text += 2)
	{
		if (text[0] == '"' || (text[1] != '/' && (text[1] != 'u' || strspn(text + 2, "0123456789abcdefABCDEF") < 4)))
			return false;
	}
	return true;
}

static bool
is_json(const char *answer)
{
	const char *reason;
	char	   *copy;

	if (strpbrk(answer, "{[") != answer + strspn(answer, " \n\r\t"))
		return false;
	copy = pstrdup(answer);
	return llmb_json_parse(copy, strlen(copy), &reason) != NULL;
}

static void
read_labels(const LlmbPiiMap *map, Labels *labels)
{
	memset(labels, 0, sizeof(Labels));
	for (int i = 0; i < map->count; i++)
	{
		const char *name = map->placeholders[i] + 1;
		const char *sign = strrchr(name, '_');

		if (map->placeholders[i][0] == '[' && sign != NULL && sign > name)
			(void) add_label(labels, name, sign - name);
	}
}

/* The index of its value, or -1. */
static int
find_value(const LlmbPiiMap *map, const int *slots, int slot_count, const Mention *mention)
{
	char		placeholder[LLMB_PII_MAX_LABEL + 16];
	uint32		slot;
	int			i;

	snprintf(placeholder, sizeof(placeholder), "[%.*s_%d]", Min(mention->label->len, LLMB_PII_MAX_LABEL),
			 mention->label->name, mention->number);
	slot = hash_of(placeholder, strlen(placeholder));
	while ((i = slots[slot & (slot_count - 1)]) != 0)
	{
		if (strcmp(map->placeholders[i - 1], placeholder) == 0)
			return i - 1;
		slot++;
	}
	return -1;
}

static int *
placeholder_slots(const LlmbPiiMap *map, int *slot_count)
{
	int		   *slots;

	for (*slot_count = 16; *slot_count < map->count * 2; *slot_count *= 2)
		;
	slots = palloc0(sizeof(int) * *slot_count);
	for (int i = 0; i < map->count; i++)
	{
		uint32		slot = hash_of(map->placeholders[i], strlen(map->placeholders[i]));

		while (slots[slot & (*slot_count - 1)] != 0)
			slot++;
		slots[slot & (*slot_count - 1)] = i + 1;
	}
	return slots;
}

char *
llmb_pii_restore(const LlmbPiiMap *map, char *answer, bool json)
{
	int			len = strlen(answer);
	int			done = 0;
	int			at = 0;
	bool		looked = json;
	Strings		strings = {0};
	StringInfoData out;
	Labels		labels;
	Mention		mention;
	int		   *slots;
	int			slot_count;

	if (map->count == 0)
		return answer;
	read_labels(map, &labels);
	slots = placeholder_slots(map, &slot_count);
	initStringInfo(&out);
	while (next_mention(&labels, answer, len, &at, &mention))
	{
		int			i = find_value(map, slots, slot_count, &mention);
		const char *original;

		if (i < 0)
			continue;
		original = map->originals[i];
		if (needs_escape(original))
		{
			if (!looked)
				json = is_json(answer);
			looked = true;
			if (json)
			{
				go_to(&strings, answer, mention.begin);
				if (!is_escaped(original) || strpbrk(original, "\n\r\t"))
					original = escaped(original);
				if (strings.inside && strings.json_within)
					original = escaped(original);
			}
		}
		if ((size_t) out.len + (mention.begin - done) + strlen(original) + (len - mention.end) > LLMB_PII_MAX_RESTORED)
		{
			pfree(slots);
			pfree(out.data);
			return NULL;
		}
		appendBinaryStringInfo(&out, answer + done, mention.begin - done);
		appendStringInfoString(&out, original);
		done = mention.end;
	}
	pfree(slots);
	if (done == 0)
	{
		pfree(out.data);
		return answer;
	}
	appendBinaryStringInfo(&out, answer + done, len - done);
	return out.data;
}

char *
llmb_pii_hide(const LlmbPiiMap *map, char *text)
{
	bool		first[256] = {false};
	StringInfoData out;

	for (int i = 0; i < map->count; i++)
		first[(unsigned char) map->originals[i][0]] = true;
	initStringInfo(&out);
	while (*text)
	{
		int			longest = 0;
		int			found = -1;

		for (int i = 0; first[(unsigned char) *text] && i < map->count; i++)
		{
			int			len = strlen(map->originals[i]);

			if (len > longest && strncmp(text, map->originals[i], len) == 0)
			{
				longest = len;
				found = i;
			}
		}
		if (found >= 0)
			appendStringInfoString(&out, map->placeholders[found]);
		else
			appendStringInfoChar(&out, *text);
		text += Max(longest, 1);
	}
	return out.data;
}
