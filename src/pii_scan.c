/*-------------------------------------------------------------------------
 *
 * pii_scan.c
 *		What in a text is known to be personal by its form.
 *
 * One pass, from word to word; two where there are escapes, of which the first
 * reads what they say.  At the begin of a word and at "::" a few
 * readers look ahead, each for no more than a fixed number of characters, and
 * at "@" one looks as far as the next "@" on both sides: so the time is linear,
 * whatever the text.  Where several have found something the longest counts.
 *
 * In doubt the text is masked: a value that is masked comes back with the
 * answer, and one that was not is gone for good.  But an answer about prices,
 * versions and order numbers is of no use when all of them are masked, so
 * that a form that numbers often have by chance needs a check digit, a
 * separator in the right place, or a word before it that says what it is.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "pii.h"

#define MAX_DIGITS	24
#define MAX_GROUPS	12
/* How far before a number a word may begin that says what it is. */
#define CONTEXT		28

static const char EMAIL[] = "EMAIL";
static const char PHONE[] = "PHONE";
static const char CARD[] = "CARD";
static const char IBAN[] = "IBAN";
static const char IP[] = "IP";
static const char NATIONAL_ID[] = "NATIONAL_ID";
static const char LOGIN[] = "LOGIN";

const char *const llmb_pii_labels[] = {EMAIL, PHONE, CARD, IBAN, IP, NATIONAL_ID, LOGIN, NULL};

typedef struct Scan
{
	const unsigned char *text;
	int			len;
	LlmbPiiSpans *spans;
} Scan;

/* What a reader has found; none when end is 0. */
typedef struct Found
{
	int			begin;
	int			end;
	const char *label;
} Found;

void
llmb_pii_add_span(LlmbPiiSpans *spans, int begin, int end, const char *label)
{
	if (begin >= end)
		return;
	if (spans->count == spans->space)
	{
		spans->space = Max(16, spans->space * 2);
		spans->span = spans->span ? repalloc(spans->span, sizeof(LlmbPiiSpan) * spans->space) :
			palloc(sizeof(LlmbPiiSpan) * spans->space);
	}
	spans->span[spans->count].begin = begin;
	spans->span[spans->count].end = end;
	spans->span[spans->count].in_word = false;
	spans->span[spans->count++].label = label;
}

/* The longest counts; of equals the first. */
static void
better(Found *best, int begin, int end, const char *label)
{
	if (end == 0 || end - begin <= best->end - best->begin)
		return;
	best->begin = begin;
	best->end = end;
	best->label = label;
}

/* ---- characters ---- */

/* Beyond the ends: no character of any kind. */
static unsigned char
at(const Scan *scan, int i)
{
	return i >= 0 && i < scan->len ? scan->text[i] : '\0';
}

static bool
is_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
is_word(unsigned char c)
{
	return is_digit(c) || is_letter(c);
}

static unsigned char
capital(unsigned char c)
{
	return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
}

static bool
is_hex(unsigned char c)
{
	return is_digit(c) || (capital(c) >= 'A' && capital(c) <= 'F');
}

/* Bytes of a blank at i, among them those that do not break lines; 0: none. */
static int
blank_at(const Scan *scan, int i)
{
	if (at(scan, i) == ' ')
		return 1;
	if (at(scan, i) == 0xC2 && at(scan, i + 1) == 0xA0)
		return 2;
	if (at(scan, i) == 0xE2 && at(scan, i + 1) == 0x80 &&
		(at(scan, i + 2) == 0xAF || at(scan, i + 2) == 0x89 || at(scan, i + 2) == 0x87))
		return 3;
	return 0;
}

/* Bytes of a hyphen or dash at i; 0: none. */
static int
hyphen_at(const Scan *scan, int i)
{
	if (at(scan, i) == '-')
		return 1;
	if (at(scan, i) == 0xE2 && at(scan, i + 1) == 0x80 && at(scan, i + 2) >= 0x90 && at(scan, i + 2) <= 0x93)
		return 3;
	if (at(scan, i) == 0xE2 && at(scan, i + 1) == 0x88 && at(scan, i + 2) == 0x92)
		return 3;
	return 0;
}

/*
 * Whether one of these words, in small letters with '|' between them, stands
 * shortly before i: as a whole or as the begin of one, also in "homePhone", and
 * no other number between.
 */
static bool
word_before(const Scan *scan, int i, const char *words)
{
	char		before[CONTEXT + 1];
	bool		begins[CONTEXT + 1];
	int			n = 0;

	for (int j = Max(0, i - CONTEXT); j < i; j++)
	{
		unsigned char c = scan->text[j];

		/* only what stands behind the last number and in the same line counts */
		if (is_digit(c) || c == '\n')
			n = 0;
		else
		{
			/* but an iPhone is none */
			begins[n] = n == 0 || !is_letter(before[n - 1]) ||
				(c >= 'A' && c <= 'Z' && at(scan, j - 1) >= 'a' && at(scan, j - 2) >= 'a');
			before[n++] = c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
		}
	}
	before[n] = '\0';
	while (*words)
	{
		int			len = strcspn(words, "|");

		for (int j = 0; j + len <= n; j++)
		{
			if (begins[j] && memcmp(before + j, words, len) == 0)
				return true;
		}
		words += len + (words[len] == '|');
	}
	return false;
}

/* ---- e-mail ---- */

/* The code point at i, with its length; 0 for what is no text. */
static uint32
character_at(const Scan *scan, int i, int *len)
{
	unsigned char c = at(scan, i);

	*len = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
	if (c < 0x80)
		return c;
	if (c < 0xC2 || c > 0xF4 || i + *len > scan->len)
	{
		*len = 1;
		return 0;
	}
	if (*len == 2)
		return (c & 0x1F) << 6 | (at(scan, i + 1) & 0x3F);
	if (*len == 3)
		return (c & 0x0F) << 12 | (at(scan, i + 1) & 0x3F) << 6 | (at(scan, i + 2) & 0x3F);
	return (c & 0x07) << 18 | (at(scan, i + 1) & 0x3F) << 12 | (at(scan, i + 2) & 0x3F) << 6 | (at(scan, i + 3) & 0x3F);
}

/*
 * Letters of scripts that set blanks between words: what stands next to an
 * address belongs to it.  Thai, Chinese and others do not; in an address they
 * count only where there is nothing else.
 */
static bool
is_spaced_letter(uint32 c)
{
	return c >= 0xC0 && c < 0xE00 && c != 0xD7 && c != 0xF7;
}

static bool
is_other_letter(uint32 c)
{
	return c >= 0xE00 && !(c >= 0x2000 && c <= 0x2BFF) && !(c >= 0x3000 && c <= 0x303F) &&
		!(c >= 0xFE00 && c <= 0xFEFF) && !(c >= 0xFF00 && c <= 0xFF20) && c < 0x1F000;
}

static bool
in_address(uint32 c, const char *signs, bool others)
{
	if (c < 0x80)
		return is_word(c) || (c != 0 && strchr(signs, c) != NULL);
	return is_spaced_letter(c) || (others && is_other_letter(c));
}

/* Where the local part before i begins; i: there is none. */
static int
local_begin(const Scan *scan, int i, bool others)
{
	int			begin = i;
	int			len;

	while (begin > 0)
	{
		int			previous = begin - 1;

		while (previous > 0 && begin - previous < 4 && (scan->text[previous] & 0xC0) == 0x80)
			previous--;
		if (!in_address(character_at(scan, previous, &len), "._%+-'&#!$", others) || previous + len != begin)
			break;
		begin = previous;
	}
	while (begin < i && scan->text[begin] < 0x80 && !is_word(scan->text[begin]) && scan->text[begin] != '_' && scan->text[begin] != '+')
		begin++;
	/* a quote behind the last letter is none of its; a dot was allowed by some providers */
	return at(scan, i - 1) == '\'' ? i : begin;
}

/* Where the domain that begins at i ends; 0: there is none. */
static int
domain_end(const Scan *scan, int i, bool others)
{
	int			end = i;
	int			label = i;		/* where the current one begins */
	int			labels = 0;
	int			valid = 0;

	while (end < scan->len)
	{
		int			len;
		uint32		c = character_at(scan, end, &len);

		if (c == '.')
		{
			if (end == label)
				break;
			labels++;
			label = end + 1;
		}
		else if (!in_address(c, "-_", others))
			break;
		end += len;
		/* a last label has two characters or more, the first of them a letter */
		if (c != '.' && c != '-' && c != '_' && labels > 0 && end - label >= 2 && !is_digit(at(scan, label)))
			valid = end;
	}
	return valid;
}

static Found
email_at(const Scan *scan, int i)
{
	Found		found = {0};
	int			begin = local_begin(scan, i, false);
	int			end = domain_end(scan, i + 1, false);

	if (begin == i)
		begin = local_begin(scan, i, true);
	if (end == 0)
		end = domain_end(scan, i + 1, true);
	if (begin < i && end > 0)
		better(&found, begin, end, EMAIL);
	return found;
}

/* ---- user and password of a URL ---- */

/* The last '@' before the host and path end, for what begins behind "://"; 0: no password. */
static int
login_end(const Scan *scan, int i)
{
	int			end = 0;
	bool		colon = false;

	for (int j = i; j < scan->len && scan->text[j] > ' ' && strchr("/?#<>\"`", scan->text[j]) == NULL; j++)
	{
		if (scan->text[j] == '@' && colon)
			end = j;
		colon |= scan->text[j] == ':';
	}
	return end;
}

/* ---- IP addresses ---- */

/* Four numbers up to 255 with dots between them, from i on: where they end, or 0. */
static int
dotted_quad(const Scan *scan, int i)
{
	for (int part = 0; part < 4; part++)
	{
		int			number = 0;
		int			digits = 0;

		if (part > 0 && at(scan, i++) != '.')
			return 0;
		while (is_digit(at(scan, i)) && digits < 4)
		{
			number = number * 10 + at(scan, i++) - '0';
			digits++;
		}
		if (digits < 1 || digits > 3 || number > 255)
			return 0;
	}
	return i;
}

/* Neither 1.2.3.4.5 nor 1.2.3.4rc1 nor 1.2.3.4-beta */
static bool
ends_number(const Scan *scan, int end)
{
	unsigned char c = at(scan, end);

	return !is_word(c) && c != '_' && !(c == '.' && is_digit(at(scan, end + 1))) && !(c == '-' && is_letter(at(scan, end + 1)));
}

static int
ipv4_end(const Scan *scan, int i)
{
	int			end = dotted_quad(scan, i);
	unsigned char before = at(scan, i - 1);

	if (end == 0 || before == '.' || !ends_number(scan, end))
		return 0;
	/* nobody has an address that begins with 0; versions and sections do */
	if (at(scan, i) == '0' && at(scan, i + 1) == '.')
		return 0;
	if (word_before(scan, i, "version|ver.|section|chapter|clause|kapitel|abschnitt") || (at(scan, i - 1) == 0xA7 || at(scan, i - 2) == 0xA7))
		return 0;
	return end;
}

/*
 * Groups of hexadecimal digits with colons between them: eight, or fewer and
 * "::" once; the last two may be an IPv4 address.  What has no digit is a
 * name of a programming language (add::face).
 */
static int
ipv6_end(const Scan *scan, int i)
{
	int			groups = 0;
	bool		shortened = false;
	bool		has_digit = false;
	int			end = i;

	for (;;)
	{
		int			digits = 0;
		int			quad = dotted_quad(scan, end);

		if (quad > 0 && (groups > 0 || shortened) && !is_word(at(scan, quad)))
		{
			groups += 2;
			end = quad;
			has_digit = true;
			break;
		}
		while (is_hex(at(scan, end + digits)) && digits < 5)
		{
			has_digit |= is_digit(at(scan, end + digits));
			digits++;
		}
		if (digits > 4)
			return 0;
		groups += digits > 0;
		end += digits;
		if (groups > 8)
			return 0;
		if (at(scan, end) != ':')
			break;
		if (at(scan, end + 1) == ':')
		{
			if (shortened)
				return 0;
			shortened = true;
			end += 2;
			if (!is_hex(at(scan, end)))
				break;
		}
		else if (digits > 0 && is_hex(at(scan, end + 1)))
			end++;
		else
			break;
	}
	if (is_word(at(scan, end)) || (at(scan, end) == ':' && at(scan, end + 1) == ':') || at(scan, end) == '_')
		return 0;
	if (at(scan, end) == ':' && is_hex(at(scan, end + 1)))
		return 0;
	if (!has_digit || (shortened ? groups < 1 || groups > 7 : groups != 8))
		return 0;
	/* fe80::1%eth0 */
	if (at(scan, end) == '%' && is_word(at(scan, end + 1)))
	{
		int			zone = end + 1;

		while (zone - end < 16 && is_word(at(scan, zone)))
			zone++;
		end = zone;
	}
	return end;
}

/* ---- numbers in groups ---- */

typedef struct Group
{
	int			begin;
	int			end;
	int			first;			/* its first digit in digits[] */
	char		before;			/* separator: ' ', '-', '.', '/', '(', ')'; '\0' for the first */
	bool		narrow;			/* and nothing else between */
} Group;

typedef struct Number
{
	const Scan *scan;
	char		digits[MAX_DIGITS + 1];
	Group		group[MAX_GROUPS];
	int			groups;
	bool		attached;		/* to a number before it, by - . or / */
	bool		is_rest;		/* of another number */
} Number;

/* Bytes of what separates two groups of digits; 0: they are two numbers. */
static int
separator_at(const Scan *scan, int i, char *which, bool *narrow)
{
	int			begin = i;
	int			blanks = 0;
	int			signs = 0;

	*which = ' ';
	for (;;)
	{
		int			blank = blank_at(scan, i);
		int			hyphen = hyphen_at(scan, i);
		unsigned char c = at(scan, i);

		if (blank > 0 && blanks <= signs)
		{
			blanks++;
			i += blank;
		}
		else if (hyphen > 0 && signs == 0)
		{
			signs++;
			i += hyphen;
			*which = '-';
		}
		else if ((c == '.' || c == '/' || c == '(' || c == ')') && signs < 2)
		{
			signs++;
			i++;
			*which = c;
		}
		else if (hyphen > 0 && signs == 1 && *which == ')')
		{
			signs++;
			i += hyphen;
		}
		else
			break;
	}
	*narrow = blanks + signs == 1;
	return is_digit(at(scan, i)) ? i - begin : 0;
}

static int
digits_through(const Number *number, int k)
{
	return number->group[k].first + number->group[k].end - number->group[k].begin;
}

/* The number whose first digit stands at i, as far as it goes. */
static void
read_number(const Scan *scan, int i, Number *number)
{
	unsigned char before = at(scan, i - 1);
	int			count = 0;

	number->scan = scan;
	number->groups = 0;
	number->is_rest = false;
	number->attached = (before == '-' || before == '.' || before == '/') && is_digit(at(scan, i - 2));
	for (char which = '\0';;)
	{
		Group	   *group = &number->group[number->groups];
		bool		narrow = true;
		int			separator = 0;
		int			end;

		if (number->groups > 0)
			separator = separator_at(scan, i, &which, &narrow);
		if (number->groups > 0 && separator == 0)
			return;
		i += separator;
		for (end = i; is_digit(at(scan, end)); end++)
		{
			if (count + end - i >= MAX_DIGITS)
				return;
		}
		memcpy(number->digits + count, scan->text + i, end - i);
		group->begin = i;
		group->end = end;
		group->first = count;
		group->before = which;
		group->narrow = narrow;
		count += end - i;
		number->digits[count] = '\0';
		i = end;
		if (++number->groups == MAX_GROUPS || is_word(at(scan, i)))
			return;
	}
}

/*
 * Whether the number may end with group k: no letter follows, nor more digits
 * behind a sign that binds them.
 */
static bool
may_end(const Number *number, int k)
{
	int			end = number->group[k].end;
	unsigned char next = at(number->scan, end);

	return !is_word(next) && next != '_' &&
		!((next == '-' || next == '.') && is_digit(at(number->scan, end + 1)));
}

/* ---- payment cards ---- */

static int
card_end(const Number *number)
{
	int			found = 0;

	if (number->attached)
		return 0;
	for (int k = 0; k < number->groups && digits_through(number, k) <= 19; k++)
	{
		const Group *group = &number->group[k];

		if (k > 0 && (!group->narrow || (group->before != ' ' && group->before != '-') ||
					  group->end - group->begin < 3 || number->group[0].end - number->group[0].begin != 4))
			break;
		if (may_end(number, k) && found == 0 && llmb_pii_is_card(number->digits, digits_through(number, k)))
			found = group->end;
	}
	return found;
}

/* ---- national ids ---- */

static bool
id_keyword(const char *words, void *arg)
{
	const Number *number = arg;

	return word_before(number->scan, number->group[0].begin, words);
}

static int
digits_id_end(const Number *number)
{
	char		shape[MAX_GROUPS * 3 + 1];
	int			n = 0;
	int			found = 0;

	if (number->attached || digits_through(number, number->groups - 1) < 9)
		return 0;
	for (int k = 0; k < number->groups && digits_through(number, k) <= 18; k++)
	{
		const Group *group = &number->group[k];

		if (k > 0 && !group->narrow)
			break;
		if (k > 0)
			shape[n++] = group->before;
		if (group->end - group->begin >= 10)
			shape[n++] = '1';
		shape[n++] = '0' + (group->end - group->begin) % 10;
		shape[n] = '\0';
		if (digits_through(number, k) >= 9 && may_end(number, k) &&
			llmb_pii_is_digits_id(number->digits, digits_through(number, k), shape, id_keyword, unconstify(Number *, number)))
			found = group->end;
	}
	return found;
}

/* ---- phone numbers ---- */

#define PHONE_WORDS "tel.|tel:|tel |tel-|telef|teleph|telno|tel\"|fon:|phone|mobil|m\xC3\xB3vil|movil|handy|cell:|cell |cell\"|cellul|fax|whatsapp|rufn|t\xC3\xA9l|portable:|gsm|wa.me"

/* Do the first three groups make a date? */
static bool
begins_with_date(const Number *number)
{
	const Group *g = number->group;
	int			part[3];

	if (number->groups < 3 || g[1].before != g[2].before || strchr("-./", g[1].before) == NULL)
		return false;
	for (int i = 0; i < 3; i++)
	{
		int			len = g[i].end - g[i].begin;

		if (len > 4 || len == 3)
			return false;
		part[i] = 0;
		for (int j = 0; j < len; j++)
			part[i] = part[i] * 10 + number->digits[g[i].first + j] - '0';
	}
	if (g[0].end - g[0].begin == 4)
		return part[0] >= 1900 && part[0] < 2100 && part[1] >= 1 && part[1] <= 12 && part[2] >= 1 && part[2] <= 31;
	if (g[2].end - g[2].begin == 4)
		return part[2] >= 1900 && part[2] < 2100 && part[0] >= 1 && part[1] >= 1 && Min(part[0], part[1]) <= 12 && Max(part[0], part[1]) <= 31;
	return false;
}

static bool
isbn_before(const Number *number)
{
	return word_before(number->scan, number->group[0].begin, "isbn|issn|ean|gtin|doi");
}

static int	trunk_phone(const Number *number);
static int	american_phone(const Number *number);
static int	bracketed_phone(const Number *number);

/* Whether what group k begins is something by itself. */
static bool
begins_another(const Number *number, int k)
{
	Number		rest;

	read_number(number->scan, number->group[k].begin, &rest);
	rest.is_rest = true;
	return rest.groups > 0 &&
		(card_end(&rest) > 0 || digits_id_end(&rest) > 0 || begins_with_date(&rest) ||
		 american_phone(&rest) > 0 || trunk_phone(&rest) > 0 || bracketed_phone(&rest) > 0);
}

/*
 * Of a number that is longer than a phone number can be, and would be cut
 * behind group k: the group behind which another number begins, if it has min
 * digits so far.
 */
static int
side_by_side(const Number *number, int k, int min)
{
	if (k < 0 || k + 1 >= number->groups || number->is_rest)
		return k;
	for (int last = k; last >= 0 && digits_through(number, last) >= min; last--)
	{
		if (begins_another(number, last + 1))
			return last;
	}
	/* not behind "(" alone */
	if (k > 0 && number->group[k].before == '(' && digits_through(number, k - 1) >= min)
		return k - 1;
	return k;
}

/* The last digit of "030 1234567-0", where they are asked to wait. */
static bool
is_extension(const Number *number, int k)
{
	const Group *group = &number->group[k];

	return group->before == '-' && group->narrow &&
		number->group[k - 1].end - number->group[k - 1].begin >= 3 && may_end(number, k);
}

/* The last group with which it has so many digits; -1: none. */
static int
last_group(const Number *number, int min, int max)
{
	int			last = -1;
	int			k;

	for (k = 0; k < number->groups && digits_through(number, k) <= max; k++)
	{
		const Group *group = &number->group[k];

		/* +33 6 12 34 56 78, +49 (0) 30; but not the 2 of "+49 30 123456 2 rooms" */
		if (k > 1 && group->end - group->begin == 1 && group->before != '(' && !is_extension(number, k))
			return last;
		if (digits_through(number, k) >= min && !is_word(at(number->scan, number->group[k].end)))
			last = k;
	}
	return k < number->groups ? side_by_side(number, last, min) : last;
}

/* +49 30 123456, 0049 30 123456 */
static int
international_phone(const Number *number, bool plus)
{
	int			k;

	if (plus && number->digits[0] != '0')
		k = last_group(number, number->groups > 1 ? 7 : 8, 15);
	else if (!plus && !number->attached && number->group[0].end - number->group[0].begin >= 2 &&
			 number->digits[0] == '0' && number->digits[1] == '0' && number->digits[2] >= '1')
		k = last_group(number, 10, 17);
	else
		return 0;
	return k < 0 ? 0 : number->group[k].end;
}

/* 030 1234567, (0171) 123-4567, 01 23 45 67 89, 07700900123 */
static int
trunk_phone(const Number *number)
{
	int			first = number->group[0].end - number->group[0].begin;
	int			end = 0;
	int			last = -1;

	if (number->digits[0] != '0' || number->digits[1] == '0' || first < 2 || number->attached || isbn_before(number))
		return 0;
	if (first >= 10 && first <= 11 && may_end(number, 0))
		end = number->group[0].end;
	if (begins_with_date(number))
		return end;
	for (int k = 1; k < number->groups && digits_through(number, k) <= 12; k++)
	{
		const Group *group = &number->group[k];

		/* behind the area code the same sign throughout */
		if ((group->end - group->begin < 2 && !is_extension(number, k)) || (k > 2 && group->before != number->group[2].before) || group->before == '(')
			break;
		if (digits_through(number, k) >= 9 && may_end(number, k))
			last = k;
	}
	last = side_by_side(number, last, 9);
	return last < 0 ? end : number->group[last].end;
}

/* (555) 123-4567, 1-555-123-4567, 555.123.4567 */
static int
american_phone(const Number *number)
{
	int			g = number->digits[0] == '1' && number->group[0].end - number->group[0].begin == 1;
	const char *d = number->digits + g;

	if (number->attached || number->groups < g + 3 || digits_through(number, g + 2) != 10 + g)
		return 0;
	if (number->group[g].end - number->group[g].begin != 3 || number->group[g + 1].end - number->group[g + 1].begin != 3)
		return 0;
	if (d[0] < '2' || strchr("-. ", number->group[g + 2].before) == NULL)
		return 0;
	return may_end(number, g + 2) ? number->group[g + 2].end : 0;
}

/* (11) 91234-5678 */
static int
bracketed_phone(const Number *number)
{
	int			first = number->group[0].end - number->group[0].begin;
	int			k;

	if (at(number->scan, number->group[0].begin - 1) != '(' || number->groups < 2 || number->group[1].before != ')' ||
		first < 2 || first > 5 || number->group[1].end - number->group[1].begin < 3)
		return 0;
	k = last_group(number, 8, 12);
	return k < 1 || !may_end(number, k) ? 0 : number->group[k].end;
}

/* Tel. 1234567 */
static int
named_phone(const Number *number)
{
	int			k = last_group(number, 6, 13);
	int			last = number->groups - 1;

	/* Tel. 1234567 / 7654321 */
	if (k >= 0 && k < last && number->group[k + 1].before == '/' && digits_through(number, last) >= digits_through(number, k) + 6)
		k = last;
	if (k < 0 || number->attached || !may_end(number, k) || begins_with_date(number) ||
		!word_before(number->scan, number->group[0].begin, PHONE_WORDS))
		return 0;
	return number->group[k].end;
}

static void
find_phone(const Number *number, Found *found)
{
	const Scan *scan = number->scan;
	int			begin = number->group[0].begin;
	bool		plus = at(scan, begin - 1) == '+' && !is_word(at(scan, begin - 2));
	int			end = international_phone(number, plus);

	if (end == 0 && !plus)
		end = american_phone(number);
	if (end == 0 && !plus)
		end = trunk_phone(number);
	if (end == 0 && !plus)
		end = bracketed_phone(number);
	if (end == 0)
		end = named_phone(number);
	if (end == 0)
		return;
	if (plus)
		begin--;
	/* a bracket that is closed within */
	if (at(scan, begin - 1) == '(' && memchr(scan->text + begin, ')', end - begin) != NULL)
		begin--;
	better(found, begin, end, PHONE);
}

/* ---- words with letters and digits ---- */

/*
 * Letters and digits from i on as capitals, at most max of them, with their
 * ends; single separators between them are left out.
 */
static int
compact(const Scan *scan, int i, bool separators, int max, char *out, int *ends)
{
	int			n = 0;

	while (n < max)
	{
		int			step = 0;

		if (!is_word(at(scan, i)) && separators && n > 0)
			step = Max(blank_at(scan, i), hyphen_at(scan, i));
		if (!is_word(at(scan, i + step)))
			break;
		out[n] = capital(at(scan, i + step));
		i += step + 1;
		ends[n++] = i;
	}
	out[n] = '\0';
	return n;
}

static int
iban_end(const Scan *scan, int i)
{
	char		iban[35];
	int			ends[35];
	int			n;
	int			len;

	if (!is_letter(at(scan, i)) || !is_letter(at(scan, i + 1)) || !is_digit(at(scan, i + 2)) || !is_digit(at(scan, i + 3)))
		return 0;
	n = compact(scan, i, true, 34, iban, ends);
	len = llmb_pii_iban_length(iban);
	if (len == 0 || len > n || is_word(at(scan, ends[len - 1])) || !llmb_pii_is_iban(iban, len))
		return 0;
	return ends[len - 1];
}

/* The id that the first characters make, some of which may be set apart. */
static int
mixed_id_end(const Scan *scan, int i)
{
	static const int lengths[] = {18, 16, 15, 12, 11, 9};
	char		id[20];
	int			ends[20];
	int			n = compact(scan, i, true, 19, id, ends);
	bool		letters = false;

	/* all have nine places or more, and a letter */
	for (int j = 0; j < n; j++)
		letters |= is_letter(id[j]);
	if (n < 9 || !letters)
		return 0;

	for (int j = 0; j < (int) lengthof(lengths); j++)
	{
		int			len = lengths[j];

		if (n < len || is_word(at(scan, ends[len - 1])))
			continue;
		/* a small letter that is set apart is a word of its own */
		if (ends[len - 1] - ends[len - 2] > 1 && at(scan, ends[len - 1] - 1) >= 'a')
			continue;
		if (llmb_pii_is_mixed_id(id, len))
			return ends[len - 1];
		/* in small letters anything looks like one: 3ab123456c */
		if (len == 9 && at(scan, i) < 'a' && llmb_pii_is_nino(id, len) && at(scan, ends[8] - 1) < 'a')
			return ends[8];
	}
	return 0;
}

/* Finland: 131052-308T, where the sign is the century and not a separator */
static int
hetu_end(const Scan *scan, int i)
{
	char		id[12];

	if (is_digit(at(scan, i + 6)) || !is_digit(at(scan, i + 5)) || is_word(at(scan, i + 11)) || at(scan, i + 10) >= 'a')
		return 0;
	for (int j = 0; j < 11; j++)
		id[j] = capital(at(scan, i + j));
	if (id[6] == '-' || id[6] == '+')
		id[6] = 'A';
	return llmb_pii_is_mixed_id(id, 11) ? i + 11 : 0;
}

/* ---- the pass ---- */

static void
find_in_number(const Scan *scan, int i, bool glued, Found *found)
{
	Number		number;

	read_number(scan, i, &number);
	/* a number that is too long to be anything */
	if (number.groups == 0)
		return;
	if (!glued)
		better(found, i, ipv4_end(scan, i), IP);
	better(found, i, card_end(&number), CARD);
	better(found, i, digits_id_end(&number), NATIONAL_ID);
	if (!glued || word_before(scan, i, PHONE_WORDS))
		find_phone(&number, found);
}

/* What most of the time goes into is looked up: which bytes make words. */
enum
{
	KIND_NONE,
	KIND_LETTER,
	KIND_DIGIT,
	KIND_SIGN					/* something may begin here that is no word */
};

static unsigned char kinds[256];

static void
set_kinds(void)
{
	for (int c = 0; c < 256; c++)
		kinds[c] = is_letter(c) ? KIND_LETTER : is_digit(c) ? KIND_DIGIT : c == '@' || c == ':' ? KIND_SIGN : KIND_NONE;
}

/* At the begin of a word that ends at end and has a digit in it, or near it. */
static Found
find_in_word(const Scan *scan, int i, int end)
{
	Found		found = {0};
	int			letters = i;

	if (is_digit(at(scan, i)))
	{
		find_in_number(scan, i, false, &found);
		better(&found, i, hetu_end(scan, i), NATIONAL_ID);
	}
	else
	{
		better(&found, i, iban_end(scan, i), IBAN);
		/* Visa4111111111111111 */
		while (letters < end && is_letter(scan->text[letters]))
			letters++;
		if (end - letters >= 3)
			find_in_number(scan, letters, true, &found);
	}
	better(&found, i, mixed_id_end(scan, i), NATIONAL_ID);
	return found;
}

static Found
find_at(const Scan *scan, int i, int *next)
{
	Found		found = {0};
	bool		has_digit = false;
	unsigned char kind;
	int			end = i;
	int			ipv6 = 0;

	while (end < scan->len && ((kind = kinds[scan->text[end]]) == KIND_LETTER || kind == KIND_DIGIT))
	{
		has_digit |= kind == KIND_DIGIT;
		end++;
	}
	*next = end;
	if (end - i > 4 && !has_digit)
		return found;
	if (end - i <= 4 && at(scan, end) == ':' && !(at(scan, i - 1) == ':' && at(scan, i - 2) == ':'))
		ipv6 = ipv6_end(scan, i);
	/* "AB 12 34 56 C", "X-1234567-L": digits begin with the next word */
	if (has_digit || (end - i <= 2 && is_digit(at(scan, end + Max(blank_at(scan, end), hyphen_at(scan, end))))))
		found = find_in_word(scan, i, end);
	better(&found, i, ipv6, IP);
	return found;
}

/* What a reader that looked back has found may reach into what stood before. */
static void
take(LlmbPiiSpans *spans, int from, Found *found)
{
	while (spans->count > from && spans->span[spans->count - 1].end > found->begin)
	{
		const LlmbPiiSpan *last = &spans->span[--spans->count];

		found->begin = Min(found->begin, last->begin);
		found->end = Max(found->end, last->end);
	}
	llmb_pii_add_span(spans, found->begin, found->end, found->label);
}

static void
scan_text(const char *text, int len, LlmbPiiSpans *spans)
{
	Scan		scan = {(const unsigned char *) text, len, spans};
	int			from = spans->count;
	int			i = 0;

	if (kinds['@'] == KIND_NONE)
		set_kinds();
	while (i < len)
	{
		unsigned char c = scan.text[i];
		int			next = i + 1;
		Found		found = {0};

		if (kinds[c] == KIND_NONE)
		{
			i++;
			continue;
		}
		if (kinds[c] != KIND_SIGN)
			found = find_at(&scan, i, &next);
		else if (c == '@')
		{
			if (spans->count == from || spans->span[spans->count - 1].end < i || spans->span[spans->count - 1].label != LOGIN)
				found = email_at(&scan, i);
		}
		else if (c == ':' && at(&scan, i + 1) == '/' && at(&scan, i + 2) == '/')
			better(&found, i + 3, login_end(&scan, i + 3), LOGIN);
		else if (c == ':' && at(&scan, i + 1) == ':' && is_hex(at(&scan, i + 2)) && !is_word(at(&scan, i - 1)) && at(&scan, i - 1) != ':')
			better(&found, i, ipv6_end(&scan, i), IP);
		if (found.end > 0)
		{
			take(spans, from, &found);
			next = found.end;
		}
		i = next;
	}
}

/* ---- both passes ---- */

static int
compare_spans(const void *a, const void *b)
{
	const LlmbPiiSpan *x = a;
	const LlmbPiiSpan *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end > y->end ? -1 : x->end < y->end;
}

/* What overlaps becomes one, under the label of its longest part. */
static void
join_spans(LlmbPiiSpans *spans, int from)
{
	int			count = from;
	int			longest = 0;

	qsort(spans->span + from, spans->count - from, sizeof(LlmbPiiSpan), compare_spans);
	for (int i = from; i < spans->count; i++)
	{
		LlmbPiiSpan span = spans->span[i];
		LlmbPiiSpan *last = count > from ? &spans->span[count - 1] : NULL;

		if (last == NULL || span.begin >= last->end)
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

/*
 * What was found in the text as it stands, besides what was found in the plain
 * one.  Where both have something the plain text is right, but that a password
 * may have signs that end it when they are read.
 */
static void
add_literal(const LlmbPiiPlain *plain, LlmbPiiSpans *spans, int from, const LlmbPiiSpans *literal)
{
	int			to = spans->count;
	int			at = from;

	for (int i = 0; i < literal->count; i++)
	{
		const LlmbPiiSpan *span = &literal->span[i];

		while (at < to && spans->span[at].end <= span->begin)
			at++;
		if (span->label != LOGIN && at < to && spans->span[at].begin < span->end)
			continue;
		/* the n of "\n@example.com" is nobody */
		if (span->label == EMAIL && llmb_pii_within_escape(plain, span->begin))
			continue;
		llmb_pii_add_span(spans, span->begin, span->end, span->label);
	}
	if (spans->count > to)
		join_spans(spans, from);
}

void
llmb_pii_scan(const char *text, int len, LlmbPiiSpans *spans)
{
	LlmbPiiPlain *plain = llmb_pii_plain(text, len);
	LlmbPiiSpans literal = {0};
	int			from = spans->count;
	const char *plain_text;
	int			plain_len;

	if (plain == NULL)
	{
		scan_text(text, len, spans);
		return;
	}
	plain_text = llmb_pii_plain_text(plain, &plain_len);
	scan_text(plain_text, plain_len, spans);
	for (int i = from; i < spans->count; i++)
		llmb_pii_from_plain(plain, &spans->span[i]);
	scan_text(text, len, &literal);
	add_literal(plain, spans, from, &literal);
	if (literal.span)
		pfree(literal.span);
	llmb_pii_plain_free(plain);
}
