/*-------------------------------------------------------------------------
 *
 * pii_plain.c
 *		A text as its reader understands it: escapes of JSON and logs, Markdown's
 *		backslashes, entities of HTML, percent encoding and quoted-printable
 *		read, wide characters and other scripts' digits as the common ones, and
 *		nothing that cannot be seen.
 *
 * Which of these a text is written in is not known: whatever looks like one is
 * read.  pii_scan.c looks at the text as it stands, too, for what that hides.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "pii.h"

/* What is not drawn at all. */
#define NOTHING 0xFFFFFFFF

typedef struct Unit
{
	int			plain;			/* where its text stands */
	int			plain_len;
	int			raw;			/* and what stands for that */
	int			raw_len;
} Unit;

struct LlmbPiiPlain
{
	StringInfoData text;
	Unit	   *unit;
	int			count;
	int			space;
};

typedef struct Source
{
	const unsigned char *text;
	int			len;
	int			is_quoted;		/* quoted-printable: 1 yes, 0 no, -1 not looked yet */
	bool		is_query;		/* behind '?' or '&' */
	bool		is_form;		/* in a parameter of a query string or form, where '+' is a blank */
} Source;

/* ---- characters ---- */

/* Beyond the ends: no character of any kind. */
static unsigned char
at(const Source *source, int i)
{
	return i >= 0 && i < source->len ? source->text[i] : '\0';
}

static bool
is_word(uint32 c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int
hex_value(unsigned char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* So many hexadecimal digits from i on; -1: there are less. */
static int
hex_at(const Source *source, int i, int digits)
{
	int			value = 0;

	for (int n = 0; n < digits; n++)
	{
		int			digit = hex_value(at(source, i + n));

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* The common form of a character, NOTHING for one that is not seen. */
static uint32
common_form(uint32 c)
{
	if (c < ' ')
		return '\n';
	if (c >= 0xFF01 && c <= 0xFF5E)
		return c - 0xFF01 + '!';
	if (c == 0x3000)
		return ' ';
	if ((c >= 0x660 && c <= 0x669) || (c >= 0x966 && c <= 0x96F))
		return '0' + (c & 0xF) - (c >= 0x966 ? 6 : 0);
	if (c >= 0x6F0 && c <= 0x6F9)
		return '0' + (c & 0xF);
	if (c == 0xAD || (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
		(c >= 0x2060 && c <= 0x2064) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF)
		return NOTHING;
	return c;
}

/* ---- the ways of writing: bytes of what stands at i, and what it says; 0: itself ---- */

static int
read_utf8(const Source *source, int i, uint32 *c)
{
	unsigned char first = at(source, i);
	int			len = first < 0xE0 ? 2 : 3;
	uint32		given = first & (first < 0xE0 ? 0x1F : 0x0F);

	if (first < 0xC2 || first >= 0xF0)
		return 0;
	for (int n = 1; n < len; n++)
	{
		if ((at(source, i + n) & 0xC0) != 0x80)
			return 0;
		given = given << 6 | (at(source, i + n) & 0x3F);
	}
	*c = common_form(given);
	return *c == given ? 0 : len;
}

/* Behind "\u": half of a pair with the other half, which has backslashes of its own. */
static int
read_u(const Source *source, int i, uint32 *c)
{
	int			high = hex_at(source, i, 4);
	int			next = i + 4;
	int			low;

	if (high < 0)
		return 0;
	*c = common_form(high);
	if (high < 0xD800 || high > 0xDFFF)
		return 4;
	/* what is no pair is no letter of anything */
	*c = 0x2028;
	while (next - i < 12 && at(source, next) == '\\')
		next++;
	low = at(source, next) == 'u' ? hex_at(source, next + 1, 4) : -1;
	if (high >= 0xDC00 || low < 0xDC00 || low > 0xDFFF)
		return 4;
	*c = 0x10000 + ((high - 0xD800) << 10) + low - 0xDC00;
	return next + 5 - i;
}

/*
 * Behind "\x": a character, or one byte of several.  Which of them the first
 * byte of a letter and the letter itself are makes no difference here; the
 * bytes behind it are not seen, and C2 and E2 begin signs.
 */
static uint32
read_x(int value)
{
	if (value < 0x80)
		return common_form(value);
	return value < 0xC0 ? NOTHING : value == 0xC2 || value == 0xE2 ? ' ' : (uint32) value;
}

/*
 * Any number of backslashes is read as one: JSON in JSON, and logs in it, have
 * two for a line's end.
 */
static int
read_backslash(const Source *source, int i, uint32 *c)
{
	int			behind = i;
	int			len = 1;

	if (at(source, i - 1) == '\\')
		return 0;
	while (at(source, behind) == '\\')
		behind++;
	*c = at(source, behind);
	if (*c == 'u')
		len += read_u(source, behind + 1, c);
	else if (*c == 'x' && hex_at(source, behind + 1, 2) >= 0)
	{
		*c = read_x(hex_at(source, behind + 1, 2));
		len = is_word(*c) ? 0 : 3;
	}
	else if (*c != '\0' && strchr("nrtbfv", *c) != NULL)
		*c = '\n';
	else if (*c == '\0' || strchr("\"/'_.+-@()*#~`[]:", *c) == NULL)
		return 0;
	return len == 0 || *c == 'u' ? 0 : behind - i + len;
}

/* Only signs: what letters and digits stand for is written as they are. */
static int
read_percent(Source *source, int i, uint32 *c)
{
	int			digits = i + 1;
	int			value;

	/* %2540 is %40, written once more */
	while (digits - i < 7 && hex_at(source, digits, 2) == '%' && hex_at(source, digits + 2, 2) >= 0)
		digits += 2;
	value = hex_at(source, digits, 2);
	if (value < 0 || is_word(value))
		return 0;
	source->is_form = true;
	*c = value < ' ' ? '\n' : value;
	return digits + 2 - i;
}

/* Quoted-printable is told by its lines' ends, or by what everybody writes in it. */
static bool
is_quoted(Source *source)
{
	if (source->is_quoted < 0)
	{
		source->is_quoted = 0;
		for (int i = 0; i + 2 < source->len && source->is_quoted == 0; i++)
		{
			const unsigned char *p = source->text + i;

			if (p[0] == '=' && ((p[1] == '3' && p[2] == 'D') || p[1] == '\n' || (p[1] == '\r' && p[2] == '\n')))
				source->is_quoted = 1;
		}
	}
	return source->is_quoted > 0;
}

static int
read_quoted(Source *source, int i, uint32 *c)
{
	int			value = hex_at(source, i + 1, 2);

	*c = NOTHING;
	if (at(source, i + 1) == '\n')
		return 2;
	if (at(source, i + 1) == '\r' && at(source, i + 2) == '\n')
		return 3;
	if (value < 0 || is_word(value) || at(source, i + 1) >= 'a' || at(source, i + 2) >= 'a' || !is_quoted(source))
		return 0;
	*c = value < ' ' ? '\n' : value;
	return 3;
}

/* Behind '&', and behind "#" of "&#64;" */
static int
read_number_entity(const Source *source, int i, uint32 *c)
{
	bool		hex = at(source, i) == 'x' || at(source, i) == 'X';
	int			end = i + hex;
	uint32		value = 0;

	for (; end - i < 9; end++)
	{
		int			digit = hex_value(at(source, end));

		if (digit < 0 || (!hex && digit > 9))
			break;
		value = value * (hex ? 16 : 10) + digit;
	}
	if (at(source, end) != ';' || end == i + hex || value == 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
		return 0;
	*c = common_form(value);
	return end + 1 - i;
}

static int
read_entity(const Source *source, int i, uint32 *c)
{
	static const struct
	{
		const char *name;
		uint32		c;
	}			known[] = {
		{"nbsp;", 0xA0}, {"ensp;", ' '}, {"emsp;", ' '}, {"thinsp;", ' '}, {"shy;", NOTHING}, {"zwnj;", NOTHING}, {"zwj;", NOTHING},
		{"lt;", '<'}, {"gt;", '>'}, {"quot;", '"'}, {"apos;", '\''}, {"commat;", '@'}, {"plus;", '+'}, {"period;", '.'},
		{"lowbar;", '_'}, {"colon;", ':'}, {"sol;", '/'}, {"lpar;", '('}, {"rpar;", ')'}, {"hyphen;", '-'}, {"dash;", '-'},
		{"ndash;", '-'}, {"Tab;", '\n'}, {"NewLine;", '\n'}, {"auml;", 0xE4}, {"ouml;", 0xF6}, {"uuml;", 0xFC}, {"szlig;", 0xDF},
		{"eacute;", 0xE9}, {"egrave;", 0xE8}, {"ccedil;", 0xE7}, {"ntilde;", 0xF1}, {"oslash;", 0xF8}, {"aring;", 0xE5}
	};
	int			name = i + 1;

	/* &amp;#64; is &#64;, written once more */
	while (name - i < 9 && name + 4 <= source->len && memcmp(source->text + name, "amp;", 4) == 0)
		name += 4;
	if (at(source, name) == '#')
	{
		int			len = read_number_entity(source, name + 1, c);

		return len > 0 ? name + 1 + len - i : 0;
	}
	for (int k = 0; k < (int) lengthof(known); k++)
	{
		int			len = strlen(known[k].name);

		if (name + len <= source->len && memcmp(source->text + name, known[k].name, len) == 0)
		{
			*c = known[k].c;
			return name + len - i;
		}
	}
	return 0;
}

/* "4111+1111", "DE89+3704"; but not "tel=+49" and "ann+list@x.org" */
static bool
is_form_blank(const Source *source, int i)
{
	unsigned char before = at(source, i - 1);
	unsigned char behind = at(source, i + 1);

	return source->is_form && is_word(before) && before < 'a' && (behind == '(' || behind == '%' || (is_word(behind) && behind < 'a'));
}

static int
read_unit(Source *source, int i, uint32 *c)
{
	switch (source->text[i])
	{
		case '\\':
			return read_backslash(source, i, c);
		case '%':
			return read_percent(source, i, c);
		case '&':
			return read_entity(source, i, c);
		case '=':
			return read_quoted(source, i, c);
		case '+':
			*c = ' ';
			return is_form_blank(source, i) ? 1 : 0;
		default:
			return source->text[i] >= 0xC2 ? read_utf8(source, i, c) : 0;
	}
}

/* ---- the text ---- */

static void
put_character(StringInfo out, uint32 c)
{
	if (c < 0x80)
		appendStringInfoCharMacro(out, c);
	else if (c < 0x800)
	{
		appendStringInfoCharMacro(out, 0xC0 | c >> 6);
		appendStringInfoCharMacro(out, 0x80 | (c & 0x3F));
	}
	else if (c < 0x10000)
	{
		appendStringInfoCharMacro(out, 0xE0 | c >> 12);
		appendStringInfoCharMacro(out, 0x80 | (c >> 6 & 0x3F));
		appendStringInfoCharMacro(out, 0x80 | (c & 0x3F));
	}
	else
	{
		appendStringInfoCharMacro(out, 0xF0 | c >> 18);
		appendStringInfoCharMacro(out, 0x80 | (c >> 12 & 0x3F));
		appendStringInfoCharMacro(out, 0x80 | (c >> 6 & 0x3F));
		appendStringInfoCharMacro(out, 0x80 | (c & 0x3F));
	}
}

/* byte: it is one of several that %C3%BC and =C3=BC make a character of */
static void
add_unit(LlmbPiiPlain *plain, int raw, int raw_len, uint32 c, bool byte)
{
	Unit	   *unit;

	if (plain->count == plain->space)
	{
		plain->space = Max(64, plain->space * 2);
		plain->unit = plain->unit ? repalloc(plain->unit, sizeof(Unit) * plain->space) : palloc(sizeof(Unit) * plain->space);
	}
	unit = &plain->unit[plain->count++];
	unit->plain = plain->text.len;
	unit->raw = raw;
	unit->raw_len = raw_len;
	if (byte)
		appendStringInfoCharMacro(&plain->text, c);
	else if (c != NOTHING)
		put_character(&plain->text, c);
	unit->plain_len = plain->text.len - unit->plain;
}

LlmbPiiPlain *
llmb_pii_plain(const char *text, int len)
{
	Source		source = {(const unsigned char *) text, len, -1, false, false};
	LlmbPiiPlain *plain = NULL;
	int			done = 0;

	for (int i = 0; i < len;)
	{
		unsigned char first = source.text[i];
		uint32		c = 0;
		int			unit_len;

		if (first <= ' ' || first == '"' || first == '?' || first == '&')
		{
			source.is_form = false;
			source.is_query = first == '?' || first == '&';
		}
		else if (first == '=' && source.is_query)
			source.is_form = true;
		if (is_word(first) || first == ' ' || (unit_len = read_unit(&source, i, &c)) == 0)
		{
			i++;
			continue;
		}
		if (plain == NULL)
		{
			plain = palloc0(sizeof(LlmbPiiPlain));
			initStringInfo(&plain->text);
			enlargeStringInfo(&plain->text, len);
		}
		appendBinaryStringInfo(&plain->text, text + done, i - done);
		add_unit(plain, i, unit_len, c, (first == '%' || first == '=') && c != NOTHING);
		i += unit_len;
		done = i;
	}
	if (plain)
		appendBinaryStringInfo(&plain->text, text + done, len - done);
	return plain;
}

const char *
llmb_pii_plain_text(const LlmbPiiPlain *plain, int *len)
{
	*len = plain->text.len;
	return plain->text.data;
}

/* The last unit that begins at or before a place, on either side; NULL: none. */
static const Unit *
unit_before(const LlmbPiiPlain *plain, int place, bool raw)
{
	int			low = 0;
	int			high = plain->count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if ((raw ? plain->unit[middle].raw : plain->unit[middle].plain) <= place)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 ? &plain->unit[low - 1] : NULL;
}

/* Where the character at a place of the plain text begins, or behind it ends. */
static int
raw_place(const LlmbPiiPlain *plain, int place, bool end)
{
	const Unit *unit = unit_before(plain, place, false);

	if (unit == NULL)
		return place + end;
	if (place < unit->plain + unit->plain_len)
		return end ? unit->raw + unit->raw_len : unit->raw;
	return unit->raw + unit->raw_len + place - unit->plain - unit->plain_len + end;
}

void
llmb_pii_from_plain(const LlmbPiiPlain *plain, LlmbPiiSpan *span)
{
	int			end = raw_place(plain, span->end - 1, true);

	span->begin = raw_place(plain, span->begin, false);
	span->end = end;
}

bool
llmb_pii_within_escape(const LlmbPiiPlain *plain, int place)
{
	const Unit *unit = unit_before(plain, place, true);

	return unit != NULL && place > unit->raw && place < unit->raw + unit->raw_len;
}

void
llmb_pii_plain_free(LlmbPiiPlain *plain)
{
	pfree(plain->text.data);
	pfree(plain->unit);
	pfree(plain);
}
