/*-------------------------------------------------------------------------
 *
 * mock_answer.c
 *		Answers made from a prompt's own text, for the provider "mock".
 *
 * They are no language model's, but a demonstration should read sensibly:
 * the leading sentence for a summary; one of the options where a choice is
 * asked for; values that a JSON schema allows where there is one.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <math.h>

#include "common/hashfn.h"

#include "answer.h"
#include "mock_answer.h"

/* Longest plain answer, in characters. */
#define MAX_ANSWER_CHARS 200

/* An instruction before the text is no longer than this. */
#define MAX_INSTRUCTION 240

/* Lines before the text proper. */
#define MAX_HEADINGS 3
#define MAX_HEADING_LEN 120

/* Choices: how many, how long, of how many words. */
#define MAX_OPTIONS 16
#define MAX_OPTION_LEN 40
#define MAX_OPTION_WORDS 3

/* How far "one of" may stand from the name of what it belongs to. */
#define MAX_OPTION_GAP 80

/* Words of a text that are looked at when some are picked from it. */
#define MAX_WORDS 200

/*
 * Deepest nesting of schemas that is followed, and how many elements all
 * arrays of an answer may have: three in each is many when they nest.
 */
#define MAX_SCHEMA_DEPTH 16
#define MAX_ELEMENTS 500

/* A piece of text that is not ours. */
typedef struct Span
{
	const char *start;
	size_t		len;
} Span;

/* A request, as far as an answer depends on it. */
typedef struct Question
{
	char	   *system;			/* all that the system said */
	char	   *prompt;			/* all that the user said */
	Span		instruction;	/* the prompt's beginning: what is to be done */
	Span		text;			/* the rest: what it is to be done to */
	uint64		hash;
} Question;

uint64
llmb_mock_hash(const char *text, size_t len, int64 seed, LlmbMockPurpose purpose)
{
	/* purposes are few, so that no two pairs make the same number */
	return hash_bytes_extended((const unsigned char *) text, (int) len,
							   (uint64) seed * 31 + purpose);
}

double
llmb_mock_fraction(uint64 hash)
{
	return (double) (hash >> 11) / (double) (UINT64CONST(1) << 53);
}

/*
 * Text
 */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* ASCII only: answers must not depend on a locale. */
static bool
is_small(char c)
{
	return c >= 'a' && c <= 'z';
}

/* Letters, in any script: whatever is not ASCII counts as one. */
static bool
is_letter(char c)
{
	return is_small(c) || (c >= 'A' && c <= 'Z') || IS_HIGHBIT_SET(c);
}

static bool
is_inside(char c)
{
	return ((unsigned char) c & 0xC0) == 0x80;
}

static Span
trim(Span span)
{
	while (span.len > 0 && is_blank(span.start[0]))
	{
		span.start++;
		span.len--;
	}
	while (span.len > 0 && is_blank(span.start[span.len - 1]))
		span.len--;
	return span;
}

/* Whether span begins with text, whatever the case of either. */
static bool
begins_with(Span span, const char *text)
{
	size_t		len = strlen(text);

	return span.len >= len && pg_strncasecmp(span.start, text, len) == 0;
}

static Span
advance(Span span, size_t by)
{
	by = Min(by, span.len);
	span.start += by;
	span.len -= by;
	return span;
}

/* Where text occurs as a whole word; span.len when it does not. */
static size_t
find_word(Span span, const char *text)
{
	size_t		len = strlen(text);
	size_t		i;

	for (i = 0; i + len <= span.len; i++)
	{
		if (begins_with(advance(span, i), text) &&
			(i == 0 || !is_letter(span.start[i - 1])) &&
			(i + len == span.len || !is_letter(span.start[i + len])))
			return i;
	}
	return span.len;
}

/* The longest part that fits, cut between words if that is possible. */
static size_t
cut_chars(Span span, int max_chars)
{
	size_t		i;
	size_t		last_blank = 0;
	int			chars = 0;

	for (i = 0; i < span.len; i++)
	{
		if (is_inside(span.start[i]))
			continue;
		if (++chars > max_chars)
			return (last_blank > 0) ? last_blank : i;
		if (is_blank(span.start[i]))
			last_blank = i;
	}
	return span.len;
}

/* Whether the full stop at i belongs to an abbreviation or an initial. */
static bool
is_abbreviation(Span span, size_t i)
{
	static const char *const known[] = {
		"mr", "mrs", "ms", "dr", "prof", "st", "sen", "gov", "rep", "gen",
		"col", "lt", "sgt", "jr", "sr", "vs", "etc", "eg", "ie", "no", "inc",
		"corp", "ltd", "co", "approx", "jan", "feb", "aug", "sept", "oct",
		"nov", "dec"
	};
	size_t		start = i;
	int			k;

	while (start > 0 && is_letter(span.start[start - 1]))
		start--;
	if (i - start == 1)
		return true;			/* J. Smith, U.S. */
	for (k = 0; k < (int) lengthof(known); k++)
	{
		if (strlen(known[k]) == i - start &&
			pg_strncasecmp(span.start + start, known[k], i - start) == 0)
			return true;
	}
	return false;
}

/*
 * If a sentence ends with the character at i, the length of what ends it,
 * closing quotes included; else 0.
 */
static size_t
sentence_end(Span span, size_t i)
{
	static const char *const wide[] = {"\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F"};
	char		c = span.start[i];
	size_t		after = i + 1;
	size_t		next;
	int			k;

	for (k = 0; k < (int) lengthof(wide); k++)
	{
		if (span.len - i >= 3 && memcmp(span.start + i, wide[k], 3) == 0)
			return 3;
	}
	if (c != '.' && c != '!' && c != '?')
		return 0;
	while (after < span.len && strchr("\"')!?.", span.start[after]) != NULL &&
		   span.start[after] != '\0')
		after++;
	if (after == span.len)
		return after - i;
	if (!is_blank(span.start[after]) || (c == '.' && is_abbreviation(span, i)))
		return 0;

	/* what goes on in small letters is the same sentence */
	for (next = after; next < span.len && is_blank(span.start[next]); next++)
		;
	if (next < span.len && is_small(span.start[next]))
		return 0;
	return after - i;
}

/* Whether a sentence ends anywhere in span. */
static bool
has_sentence_end(Span span)
{
	size_t		i;

	for (i = 0; i < span.len; i++)
	{
		if (sentence_end(span, i) > 0)
			return true;
	}
	return false;
}

/* Titles and dates: short lines that end no sentence, before others. */
static Span
skip_headings(Span text)
{
	int			headings;

	for (headings = 0; headings < MAX_HEADINGS; headings++)
	{
		const char *newline = memchr(text.start, '\n', text.len);
		Span		line = text;
		Span		rest;

		if (newline != NULL)
			line.len = newline - text.start;
		rest = trim(advance(text, line.len));
		if (line.len > MAX_HEADING_LEN || rest.len == 0 ||
			is_small(rest.start[0]) || has_sentence_end(line))
			break;
		text = rest;
	}
	return text;
}

/* Up to where the first sentence goes; an empty line ends it as well. */
static Span
first_sentence(Span text)
{
	size_t		i;

	text = skip_headings(trim(text));
	for (i = 0; i < text.len; i++)
	{
		size_t		end = sentence_end(text, i);

		if (end > 0)
		{
			text.len = i + end;
			break;
		}
		if (text.start[i] == '\n' && i + 1 < text.len && text.start[i + 1] == '\n')
		{
			text.len = i;
			break;
		}
	}
	return trim(text);
}

/* The words of span with single blanks between them. */
static char *
copy_words(Span span)
{
	StringInfoData out;
	size_t		i;

	initStringInfo(&out);
	span = trim(span);
	for (i = 0; i < span.len; i++)
	{
		if (!is_blank(span.start[i]))
			appendStringInfoChar(&out, span.start[i]);
		else if (!is_blank(span.start[i + 1]))
			appendStringInfoChar(&out, ' ');
	}
	return out.data;
}

static char *
leading_sentence(Span text)
{
	Span		sentence = first_sentence(text);
	size_t		len = cut_chars(sentence, MAX_ANSWER_CHARS);
	Span		part = {sentence.start, len};
	char	   *start;
	char	   *answer;

	if (sentence.len == 0)
		return pstrdup("There is no text.");
	if (len == sentence.len)
		return copy_words(sentence);
	part.len = cut_chars(sentence, MAX_ANSWER_CHARS - 3);
	start = copy_words(part);
	answer = psprintf("%s...", start);
	pfree(start);
	return answer;
}

/* How far a head goes: to a colon or the end of a line; 0 when too far. */
static size_t
head_len(Span span)
{
	size_t		i;

	for (i = 0; i + 1 < span.len && i <= MAX_INSTRUCTION; i++)
	{
		if (span.start[i] == '\n' ||
			(span.start[i] == ':' && is_blank(span.start[i + 1])))
			return i + 1;
	}
	return 0;
}

/* "Title:", or a list of what there is to choose from. */
static bool
is_label(Span head)
{
	int			blanks = 0;
	size_t		i;

	if (find_word(head, "one of") < head.len)
		return true;
	for (i = 0; i < head.len; i++)
		blanks += (head.start[i] == ' ');
	return blanks < 3 && head.start[head.len - 1] == ':';
}

/*
 * Where the text of a prompt begins: after "Summarise this: ", say, and what
 * labels follow.  A beginning that is longer than an instruction is taken
 * for text, and so is one that nothing follows.
 */
static size_t
instruction_len(Span prompt)
{
	Span		rest = prompt;

	for (;;)
	{
		size_t		len = head_len(rest);
		Span		after = advance(rest, len);

		while (after.len > 0 && is_blank(after.start[0]))
			after = advance(after, 1);
		if (len == 0 || after.len == 0)
			break;
		if (rest.start != prompt.start && !is_label((Span) {rest.start, len}))
			break;
		rest = after;
	}
	return rest.start - prompt.start;
}

/*
 * Choices
 */

typedef struct Options
{
	int			count;
	Span		option[MAX_OPTIONS];
} Options;

static Span
strip_quotes(Span span)
{
	span = trim(span);
	while (span.len > 0 && strchr("\"'`*[(", span.start[0]) != NULL)
		span = advance(span, 1);
	while (span.len > 0 && strchr("\"'`*])", span.start[span.len - 1]) != NULL)
		span.len--;
	return trim(span);
}

/* False when it does not look like something to choose. */
static bool
add_option(Options *options, Span option)
{
	size_t		i;
	int			words = 1;

	option = trim(option);
	if (begins_with(option, "or ") || begins_with(option, "and "))
		option = trim(advance(option, 3));
	option = strip_quotes(option);
	if (option.len == 0)
		return true;			/* between ", " and "or" */
	for (i = 0; i < option.len; i++)
		words += is_blank(option.start[i]);
	if (option.len > MAX_OPTION_LEN || words > MAX_OPTION_WORDS ||
		options->count == MAX_OPTIONS)
		return false;
	options->option[options->count++] = option;
	return true;
}

/* Reads "a, b or c" up to the end of the sentence, bracket or line. */
static bool
parse_options(Span text, Options *options)
{
	size_t		start;
	size_t		i;

	options->count = 0;
	while (text.len > 0 && (is_blank(text.start[0]) || text.start[0] == ':') &&
		   text.start[0] != '\n')
		text = advance(text, 1);
	if (text.len > 0 && strchr("[(", text.start[0]) != NULL)
		text = advance(text, 1);

	for (start = i = 0; i < text.len && strchr(".;:)]\n", text.start[i]) == NULL; i++)
	{
		Span		here = {text.start + i, text.len - i};
		int			separator = 0;

		if (strchr(",/|", text.start[i]) != NULL)
			separator = 1;
		else if (begins_with(here, " or "))
			separator = 4;
		if (separator == 0)
			continue;
		if (!add_option(options, (Span) {text.start + start, i - start}))
			return false;
		i += separator - 1;
		start = i + 1;
	}
	return add_option(options, (Span) {text.start + start, i - start}) &&
		options->count >= 2;
}

/* "one of a, b, c" anywhere in span. */
static bool
find_options(Span span, Options *options)
{
	for (;;)
	{
		size_t		at = find_word(span, "one of");

		if (at == span.len)
			return false;
		span = advance(span, at + strlen("one of"));
		if (parse_options(span, options))
			return true;
	}
}

/*
 * "P: one of a, b, c", "P (one of a, b, c)" and the like: the first "one of"
 * after the word, in the same line, and with no other member in between.
 */
static bool
find_options_of(Span span, const char *name, const LlmbJson *members,
				Options *options)
{
	const LlmbJson *member;

	for (;;)
	{
		size_t		at = find_word(span, name);
		Span		window;
		Span		gap;
		bool		others = false;

		if (at == span.len || name[0] == '\0')
			return false;
		span = advance(span, at + strlen(name));
		window = (Span) {span.start, Min(span.len, MAX_OPTION_GAP)};
		gap = (Span) {window.start, find_word(window, "one of")};
		if (gap.len == window.len || memchr(gap.start, '\n', gap.len) != NULL)
			continue;
		for (member = members->first; member != NULL; member = member->next)
			others |= (find_word(gap, member->name) < gap.len);
		if (!others && parse_options(advance(span, gap.len + strlen("one of")), options))
			return true;
	}
}

/* Beginnings of words that speak for an option. */
static const struct
{
	const char *option;			/* its beginning, too */
	const char *words;
}			hints[] =
{
	{"business", "profit compan shares market econom bank firm sales investor dollar trade"},
	{"econom", "profit compan shares market econom bank inflation growth trade tax"},
	{"sport", "match player team coach cup season champion league goal win game olympic"},
	{"politic", "minister government election party vote parliament president labour senat policy"},
	{"tech", "software computer internet digital mobile phone user online technolog net game"},
	{"sci/tech", "software computer internet space scientist research user online technolog"},
	{"health", "patient hospital doctor disease drug virus medic health treatment vaccin"},
	{"science", "scientist research study space universit species planet discover"},
	{"culture", "film music album actor book festival award museum art song"},
	{"entertain", "film music album actor star award show band song tv"},
	{"weather", "storm rain wind temperature flood snow hurricane forecast"},
	{"world", "countr troops killed foreign iraq united nations war peace attack"},
	{"positive", "good great love excellent best happy amazing enjoy perfect nice won win rise rose gain strong success"},
	{"negative", "bad worst hate terrible poor awful waste crash problem death killed fall fell loss lost weak fear"},
};

/* How many words of text begin with one of the blank-separated list. */
static int
count_words(Span text, const char *list)
{
	int			count = 0;
	size_t		i;

	for (i = 0; i < text.len; i++)
	{
		const char *p = list;

		if (!is_letter(text.start[i]) || (i > 0 && is_letter(text.start[i - 1])))
			continue;
		while (*p != '\0')
		{
			size_t		len = strcspn(p, " ");

			if (pg_tolower((unsigned char) text.start[i]) == (unsigned char) *p &&
				text.len - i >= len && pg_strncasecmp(text.start + i, p, len) == 0)
			{
				count++;
				break;
			}
			p += len;
			p += strspn(p, " ");
		}
	}
	return count;
}

/* How well the option fits the text: its own stem counts double. */
static int
score_option(Span text, Span option)
{
	char		stem[8];
	size_t		len = Min(Max(option.len, 1), sizeof(stem) - 1);
	int			score;
	size_t		i;

	if (len > 4)
		len = Max(len - 1, 4);	/* politics, political */
	for (i = 0; i < len; i++)
		stem[i] = is_blank(option.start[i]) ? '\0' : pg_tolower((unsigned char) option.start[i]);
	stem[len] = '\0';
	score = 2 * count_words(text, stem);

	for (i = 0; i < (int) lengthof(hints); i++)
	{
		if (begins_with(option, hints[i].option))
			score += count_words(text, hints[i].words);
	}
	return score;
}

/* What is chosen when nothing speaks for anything. */
static bool
is_fallback(Span option)
{
	return begins_with(option, "neutral") || begins_with(option, "other") ||
		begins_with(option, "general") || begins_with(option, "unknown") ||
		begins_with(option, "none") || begins_with(option, "mixed");
}

static int
choose(const Question *question, const Options *options)
{
	int			best = -1;
	int			best_score = 0;
	int			i;

	for (i = 0; i < options->count; i++)
	{
		int			score = score_option(question->text, options->option[i]);

		if (score > best_score)
		{
			best = i;
			best_score = score;
		}
	}
	for (i = 0; i < options->count && best < 0; i++)
	{
		if (is_fallback(options->option[i]))
			best = i;
	}
	return (best >= 0) ? best : (int) (question->hash % options->count);
}

/*
 * Words that a text is about: long ones that come often
 */

static bool
same_word(Span a, Span b)
{
	return a.len == b.len && pg_strncasecmp(a.start, b.start, a.len) == 0;
}

/* Distinct words of five letters and more, with how often they come. */
static int
collect_words(Span text, Span *words, int *counts)
{
	int			n = 0;
	size_t		i = 0;

	while (i < text.len && n < MAX_WORDS)
	{
		Span		word = {text.start + i, 0};
		int			k;

		while (i < text.len && is_letter(text.start[i]))
			i++;
		word.len = text.start + i - word.start;
		if (word.len == 0)
			i++;
		if (word.len < 5 || word.len > MAX_OPTION_LEN)
			continue;
		for (k = 0; k < n && !same_word(words[k], word); k++)
			;
		if (k == n)
		{
			words[n] = word;
			counts[n++] = 0;
		}
		counts[k]++;
	}
	return n;
}

/* Takes out of words the one that says most; NULL when none is left. */
static char *
take_word(Span *words, int *counts, int n)
{
	int			best = -1;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (counts[i] > 0 &&
			(best < 0 || counts[i] * words[i].len > counts[best] * words[best].len))
			best = i;
	}
	if (best < 0)
		return NULL;
	counts[best] = 0;
	return pnstrdup(words[best].start, words[best].len);
}

static char *
salient_words(Span text, int how_many)
{
	Span		words[MAX_WORDS];
	int			counts[MAX_WORDS];
	int			n = collect_words(text, words, counts);
	StringInfoData out;

	initStringInfo(&out);
	while (how_many-- > 0)
	{
		char	   *word = take_word(words, counts, n);

		if (word == NULL)
			break;
		appendStringInfo(&out, "%s%s", out.len > 0 ? ", " : "", word);
		pfree(word);
	}
	if (out.len == 0)
		appendStringInfoString(&out, "nothing");
	return out.data;
}

/*
 * Values that a schema allows
 */

typedef struct SchemaWalk
{
	const Question *question;
	bool		sentence_used;	/* the first free string got the sentence */
	int			depth;
	int			elements;		/* of arrays, so far */
	uint64		turn;			/* makes each number another one */
} SchemaWalk;

static void put_value(StringInfo out, SchemaWalk *walk, const LlmbJson *schema,
					  const char *name, const LlmbJson *siblings);

/* The type, which may be given as ["string", "null"]. */
static const char *
schema_type(const LlmbJson *schema)
{
	LlmbJson   *type = llmb_json_get(schema, "type");
	LlmbJson   *child;

	if (type != NULL && type->type == LLMB_JSON_STRING)
		return type->text;
	if (type != NULL && type->type == LLMB_JSON_ARRAY)
	{
		for (child = type->first; child != NULL; child = child->next)
		{
			if (child->type == LLMB_JSON_STRING && strcmp(child->text, "null") != 0)
				return child->text;
		}
	}
	if (llmb_json_get(schema, "properties") != NULL)
		return "object";
	if (llmb_json_get(schema, "items") != NULL)
		return "array";
	return "string";
}

/* Of alternatives the first that is not null. */
static const LlmbJson *
schema_alternative(const LlmbJson *schema)
{
	LlmbJson   *list = llmb_json_get(schema, "anyOf");
	LlmbJson   *child;

	if (list == NULL)
		list = llmb_json_get(schema, "oneOf");
	for (child = list ? list->first : NULL; child != NULL; child = child->next)
	{
		const char *type = llmb_json_string(child, "type");

		if (type == NULL || strcmp(type, "null") != 0)
			return child;
	}
	return schema;
}

static uint64
next_hash(SchemaWalk *walk)
{
	uint64		mix[2] = {walk->question->hash, ++walk->turn};

	return hash_bytes_extended((unsigned char *) mix, sizeof(mix), FOR_ANSWER);
}

/* A bound, or the default; exclusive bounds are kept by a step. */
static double
schema_bound(const LlmbJson *schema, const char *member, const char *exclusive,
			 double step, double otherwise)
{
	LlmbJson   *bound = llmb_json_get(schema, member);

	if (bound != NULL && bound->type == LLMB_JSON_NUMBER)
		return strtod(bound->text, NULL);
	bound = llmb_json_get(schema, exclusive);
	if (bound != NULL && bound->type == LLMB_JSON_NUMBER)
		return strtod(bound->text, NULL) + step;
	return otherwise;
}

static void
put_number(StringInfo out, SchemaWalk *walk, const LlmbJson *schema, bool integer)
{
	double		step = integer ? 1 : 0.01;
	double		min = schema_bound(schema, "minimum", "exclusiveMinimum", step, NAN);
	double		max = schema_bound(schema, "maximum", "exclusiveMaximum", -step, NAN);
	double		share = llmb_mock_fraction(next_hash(walk));
	double		value;

	if (isnan(min))
		min = isnan(max) ? 0 : max - (integer ? 100 : 1);
	if (isnan(max))
		max = min + (integer ? 100 : 1);
	if (integer)
		value = Min(ceil(min) + floor(share * (floor(max) - ceil(min) + 1)), floor(max));
	else
		value = Min(min + floor(share * (max - min) * 100) / 100, max);
	if (!isfinite(value))
		value = 0;

	/* up to 2^53 a double holds every integer */
	if (integer && fabs(value) <= 9007199254740992.0)
		appendStringInfo(out, "%lld", (long long) value);
	else
		appendStringInfo(out, "%.15g", value);
}

static void
put_enum(StringInfo out, SchemaWalk *walk, const LlmbJson *list)
{
	Options		options = {0};
	LlmbJson   *member[MAX_OPTIONS];
	LlmbJson   *child;

	for (child = list->first; child != NULL; child = child->next)
	{
		if (child->type == LLMB_JSON_STRING && options.count < MAX_OPTIONS)
		{
			member[options.count] = child;
			options.option[options.count].start = child->text;
			options.option[options.count++].len = strlen(child->text);
		}
	}
	if (options.count > 0)
		llmb_json_put_node(out, member[choose(walk->question, &options)]);
	else
		llmb_json_put_node(out, llmb_json_at(list, next_hash(walk) % list->count));
}

/* Strings of a form; the moments are of no importance, but valid. */
static const char *
formatted_string(const char *format)
{
	if (strcmp(format, "date") == 0)
		return "2026-01-15";
	if (strcmp(format, "date-time") == 0)
		return "2026-01-15T12:00:00Z";
	if (strcmp(format, "time") == 0)
		return "12:00:00Z";
	if (strcmp(format, "duration") == 0)
		return "P1D";
	if (strcmp(format, "email") == 0)
		return "someone@example.com";
	if (strcmp(format, "uri") == 0)
		return "https://example.com/";
	if (strcmp(format, "uuid") == 0)
		return "00000000-0000-4000-8000-000000000000";
	return NULL;
}

static bool
string_options(const Question *question, const char *name,
			   const LlmbJson *siblings, Options *options)
{
	Span		system = {question->system, strlen(question->system)};
	Span		prompt = {question->prompt, strlen(question->prompt)};

	if (name != NULL && siblings != NULL &&
		(find_options_of(prompt, name, siblings, options) ||
		 find_options_of(system, name, siblings, options)))
		return true;
	if (siblings != NULL && siblings->count > 1)
		return false;
	return find_options(question->instruction, options) ||
		find_options(system, options);
}

/* How long a string may be: by the schema, or in its description's words. */
static int64
schema_max_chars(const LlmbJson *schema)
{
	const char *description = llmb_json_string(schema, "description");
	const char *words = description ? strstr(description, "At most ") : NULL;
	int			chars;

	if (words != NULL && sscanf(words, "At most %d characters", &chars) == 1)
		return chars;
	return llmb_json_int(schema, "maxLength", -1);
}

/* Whether a string is to hold JSON. */
static bool
takes_json(const LlmbJson *schema)
{
	const char *description = llmb_json_string(schema, "description");

	return description != NULL && strstr(description, LLMB_JSON_IN_STRING) != NULL;
}

static size_t
fitting_len(const char *text, int64 max_chars)
{
	Span		span = {text, strlen(text)};

	if (max_chars < 0)
		return span.len;
	return cut_chars(span, (int) Min(max_chars, PG_INT32_MAX - 1));
}

static void
put_json_in_string(StringInfo out, SchemaWalk *walk)
{
	StringInfoData json;
	char	   *sentence = leading_sentence(walk->question->text);

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"text\": ");
	llmb_json_put_string(&json, sentence);
	appendStringInfo(&json, ", \"number\": %d}", (int) (next_hash(walk) % 101));
	llmb_json_put_string(out, json.data);
	pfree(sentence);
	pfree(json.data);
}

static void
put_text(StringInfo out, SchemaWalk *walk, const LlmbJson *schema,
		 const char *name, const LlmbJson *siblings)
{
	const Question *question = walk->question;
	const char *format = llmb_json_string(schema, "format");
	const char *fixed = (format != NULL) ? formatted_string(format) : NULL;
	char	   *text;
	Options		options;
	Span		span;

	if (takes_json(schema))
	{
		put_json_in_string(out, walk);
		return;
	}
	if (fixed != NULL)
		text = pstrdup(fixed);
	else if (string_options(question, name, siblings, &options))
	{
		span = options.option[choose(question, &options)];
		text = pnstrdup(span.start, span.len);
	}
	else if (!walk->sentence_used)
	{
		walk->sentence_used = true;
		text = leading_sentence(question->text);
	}
	else
		text = salient_words(question->text, 4);

	llmb_json_put_string_len(out, text, fitting_len(text, schema_max_chars(schema)));
	pfree(text);
}

static void
put_array(StringInfo out, SchemaWalk *walk, const LlmbJson *schema)
{
	const LlmbJson *items = llmb_json_get(schema, "items");
	int64		count = Min(llmb_json_int(schema, "maxItems", 3), 3);
	const char *type = schema_type(schema_alternative(items));
	Span		words[MAX_WORDS];
	int			counts[MAX_WORDS];
	int			n = collect_words(walk->question->text, words, counts);
	int64		i;

	count = Max(count, Min(llmb_json_int(schema, "minItems", 0), MAX_WORDS));
	appendStringInfoChar(out, '[');
	for (i = 0; i < count && walk->elements < MAX_ELEMENTS; i++)
	{
		char	   *word = NULL;

		walk->elements++;
		if (i > 0)
			appendStringInfoChar(out, ',');
		if (strcmp(type, "string") == 0 && llmb_json_get(items, "enum") == NULL &&
			llmb_json_get(items, "format") == NULL && !takes_json(items))
			word = take_word(words, counts, n);
		if (word != NULL)
		{
			llmb_json_put_string_len(out, word, fitting_len(word, schema_max_chars(items)));
			pfree(word);
		}
		else
			put_value(out, walk, items, NULL, NULL);
	}
	appendStringInfoChar(out, ']');
}

static void
put_object(StringInfo out, SchemaWalk *walk, const LlmbJson *schema)
{
	const LlmbJson *members = llmb_json_get(schema, "properties");
	const LlmbJson *member;

	/* a schema is the user's, and may be wrong */
	if (members && members->type != LLMB_JSON_OBJECT)
		members = NULL;
	appendStringInfoChar(out, '{');
	for (member = members ? members->first : NULL; member != NULL; member = member->next)
	{
		if (member != members->first)
			appendStringInfoChar(out, ',');
		llmb_json_put_string(out, member->name);
		appendStringInfoChar(out, ':');
		put_value(out, walk, member, member->name, members);
	}
	appendStringInfoChar(out, '}');
}

static void
put_value(StringInfo out, SchemaWalk *walk, const LlmbJson *schema,
		  const char *name, const LlmbJson *siblings)
{
	const LlmbJson *list;
	const char *type;

	if (++walk->depth > MAX_SCHEMA_DEPTH)
	{
		appendStringInfoString(out, "null");
		walk->depth--;
		return;
	}
	schema = schema_alternative(schema);
	list = llmb_json_get(schema, "enum");
	type = schema_type(schema);

	if (llmb_json_get(schema, "const") != NULL)
		llmb_json_put_node(out, llmb_json_get(schema, "const"));
	else if (list != NULL && list->type == LLMB_JSON_ARRAY && list->count > 0)
		put_enum(out, walk, list);
	else if (strcmp(type, "object") == 0)
		put_object(out, walk, schema);
	else if (strcmp(type, "array") == 0)
		put_array(out, walk, schema);
	else if (strcmp(type, "integer") == 0 || strcmp(type, "number") == 0)
		put_number(out, walk, schema, type[0] == 'i');
	else if (strcmp(type, "boolean") == 0)
		appendStringInfoString(out, next_hash(walk) & 1 ? "true" : "false");
	else if (strcmp(type, "null") == 0)
		appendStringInfoString(out, "null");
	else
		put_text(out, walk, schema, name, siblings);
	walk->depth--;
}

/*
 * Answering one request
 */

/* A message's text, whether it is a string or an array of parts. */
static void
append_content(StringInfo out, const LlmbJson *message)
{
	LlmbJson   *content = llmb_json_get(message, "content");
	LlmbJson   *part;

	if (content == NULL)
		return;
	if (out->len > 0)
		appendStringInfoChar(out, '\n');
	if (content->type == LLMB_JSON_STRING)
		appendStringInfoString(out, content->text);
	for (part = content->first; part != NULL; part = part->next)
	{
		const char *text = llmb_json_string(part, "text");

		if (text != NULL)
			appendStringInfoString(out, text);
	}
}

/*
 * The messages of a chat completion; of the other endpoints the "input",
 * which may be a text, and "instructions".
 */
static void
read_question(const LlmbJson *body, int64 seed, Question *question)
{
	LlmbJson   *messages = llmb_json_get(body, "messages");
	const char *instructions = llmb_json_string(body, "instructions");
	LlmbJson   *message;
	StringInfoData system;
	StringInfoData prompt;
	Span		all;

	initStringInfo(&system);
	initStringInfo(&prompt);
	if (instructions != NULL)
		appendStringInfoString(&system, instructions);
	if (messages == NULL)
		messages = llmb_json_get(body, "input");
	if (messages != NULL && messages->type == LLMB_JSON_STRING)
		appendStringInfoString(&prompt, messages->text);
	for (message = messages ? messages->first : NULL; message != NULL; message = message->next)
	{
		const char *role = llmb_json_string(message, "role");

		if (role != NULL &&
			(strcmp(role, "system") == 0 || strcmp(role, "developer") == 0))
			append_content(&system, message);
		else
			append_content(&prompt, message);
	}
	question->system = system.data;
	question->prompt = prompt.data;
	question->hash = llmb_mock_hash(prompt.data, prompt.len, seed, FOR_ANSWER);

	all = (Span) {prompt.data, prompt.len};
	question->instruction = all;
	question->instruction.len = instruction_len(all);
	question->text = advance(all, question->instruction.len);
}

/* The answer that a schema asks for. */
static char *
schema_answer(const Question *question, const LlmbJson *schema)
{
	SchemaWalk	walk = {0};
	StringInfoData out;

	walk.question = question;
	initStringInfo(&out);
	put_value(&out, &walk, schema, NULL, NULL);
	return out.data;
}

/* A schema that was told in words, at the system's end; NULL without. */
static LlmbJson *
schema_of_words(const char *system)
{
	static const char head[] = "JSON schema:\n";
	const char *at = strstr(system, head);
	const char *reason;
	LlmbJson   *schema;
	char	   *copy;

	if (at == NULL)
		return NULL;
	copy = pstrdup(at + strlen(head));
	schema = llmb_json_parse(copy, strlen(copy), &reason);
	pfree(copy);
	return schema;
}

static char *
make_answer(const Question *question, const LlmbJson *body)
{
	LlmbJson   *schema = llmb_json_path(body, "response_format", "json_schema", "schema", NULL);
	Span		system = {question->system, strlen(question->system)};
	Options		options;

	if (schema == NULL)
		schema = llmb_json_path(body, "text", "format", "schema", NULL);
	if (schema != NULL)
		return schema_answer(question, schema);
	schema = schema_of_words(question->system);
	if (schema != NULL)
	{
		char	   *answer = schema_answer(question, schema);

		llmb_json_free(schema);
		return answer;
	}
	if (find_options(question->instruction, &options) || find_options(system, &options))
	{
		Span		option = options.option[choose(question, &options)];

		return pnstrdup(option.start, option.len);
	}
	return leading_sentence(question->text);
}

/* Of length 1, as those of real models are. */
void
llmb_mock_vector(const char *text, int64 seed, double *vector, int dimensions)
{
	uint64		hash = llmb_mock_hash(text, strlen(text), seed, FOR_ANSWER);
	double		square = 0;
	int			i;

	for (i = 0; i < dimensions; i++)
	{
		uint64		mix[2] = {hash, i};

		/* never 0, so that the length is not either */
		vector[i] = llmb_mock_fraction(hash_bytes_extended((unsigned char *) mix, sizeof(mix), FOR_ANSWER)) * 2 -
			0.9999999;
		square += vector[i] * vector[i];
	}
	for (i = 0; i < dimensions; i++)
		vector[i] /= sqrt(square);
}

char *
llmb_mock_answer(const LlmbJson *body, int64 seed, size_t *prompt_bytes, size_t *system_bytes, uint64 *hash)
{
	Question	question;
	char	   *answer;

	read_question(body, seed, &question);
	answer = make_answer(&question, body);
	*prompt_bytes = strlen(question.prompt);
	*system_bytes = strlen(question.system);
	*hash = question.hash;

	/* a batch has many of these, and they may all meet in one context */
	pfree(question.prompt);
	pfree(question.system);
	return answer;
}
