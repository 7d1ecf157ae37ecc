/*-------------------------------------------------------------------------
 *
 * answer.c
 *		From what a model wrote to the texts that columns take.
 *
 * Three steps, each a function of its inputs:
 *
 *	recover		the JSON object, wherever a reader would find it;
 *	value		one member of it, as text that the column's type reads;
 *	check		what goes into no column, against its schema.
 *
 * The rule for what is let pass: a value is taken when a careful reader could
 * not mean anything else by it ("7" for 7, 7.0 for 7, "Positive" for the only
 * label positive), and refused otherwise.  Nothing is guessed, cut off or
 * left out, and nothing becomes NULL that is not JSON's null.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <ctype.h>
#include <math.h>

#include "mb/pg_wchar.h"

#include "answer.h"

/* How much of a value a reason quotes, in bytes. */
#define MAX_QUOTED 60
/* How many labels a reason lists. */
#define MAX_LISTED 12
/* Objects in one answer that are compared; a reader has long given up. */
#define MAX_CANDIDATES 16

/*
 * Limits of numeric: digits before and after the point (PostgreSQL manual,
 * Numeric Types).
 */
#define NUMERIC_BEFORE 131072
#define NUMERIC_AFTER 16383

/* ---- recovery ---- */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *
skip_blanks(const char *p, const char *end)
{
	while (p < end && is_blank(*p))
		p++;
	return p;
}

/* p stands on an opening quote; returns what stands behind the closing one. */
static const char *
behind_string(const char *p, const char *end)
{
	for (p++; p < end; p++)
	{
		if (*p == '\\')
			p++;
		else if (*p == '"')
			return p + 1;
	}
	return end;
}

/* p stands on '{'; returns what stands behind its '}', NULL when none does. */
static const char *
behind_object(const char *p, const char *end)
{
	int			depth = 0;

	while (p < end)
	{
		if (*p == '"')
		{
			p = behind_string(p, end);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']') && --depth == 0)
			return p + 1;
		p++;
	}
	return NULL;
}

/* A string literal as JSON wants it: no raw controls, no unknown escapes. */
static const char *
mend_string(StringInfo out, const char *p, const char *end)
{
	const char *stop = behind_string(p, end);

	for (; p < stop; p++)
	{
		if ((unsigned char) *p < 0x20)
			appendStringInfo(out, "\\u%04x", *p);
		else if (*p == '\\' && p + 1 < stop)
		{
			p++;
			if (*p == '\'')
				appendStringInfoChar(out, '\'');
			else if (strchr("\"\\/bfnrt", *p) != NULL ||
					 (*p == 'u' && stop - p > 4 && isxdigit((unsigned char) p[1]) && isxdigit((unsigned char) p[2]) &&
					  isxdigit((unsigned char) p[3]) && isxdigit((unsigned char) p[4])))
				appendStringInfo(out, "\\%c", *p);
			else
			{
				/* "\(": the backslash was meant */
				appendStringInfo(out, "\\\\%c", *p);
			}
		}
		else
			appendStringInfoChar(out, *p);
	}
	return stop;
}

/* What models get wrong in JSON that is otherwise whole. */
static char *
mend(const char *p, const char *end, size_t *len)
{
	StringInfoData out;

	initStringInfo(&out);
	while (p < end)
	{
		if (*p == '"')
		{
			p = mend_string(&out, p, end);
			continue;
		}
		if (*p == ',')
		{
			const char *next = skip_blanks(p + 1, end);

			if (next < end && (*next == '}' || *next == ']'))
			{
				p = next;
				continue;
			}
		}
		appendStringInfoChar(&out, *p++);
	}
	*len = out.len;
	return out.data;
}

/* One JSON value, mended where that is needed; else NULL. */
static LlmbJson *
parse_piece(const char *start, const char *end, bool *altered)
{
	size_t		len = end - start;
	char	   *copy = pnstrdup(start, len);
	char	   *mended;
	const char *reason;
	LlmbJson   *node;

	/* backslashes of the prose before it may have hidden escapes */
	len = llmb_json_clean(copy, len, altered);
	node = llmb_json_parse(copy, len, &reason);
	if (node == NULL)
	{
		mended = mend(copy, copy + len, &len);
		node = llmb_json_parse(mended, len, &reason);
		pfree(mended);
	}
	pfree(copy);
	return node;
}

static bool
has_required(const LlmbJson *object, const LlmbJson *schema)
{
	LlmbJson   *required = llmb_json_get(schema, "required");

	for (LlmbJson *name = required ? required->first : NULL; name; name = name->next)
	{
		if (name->type == LLMB_JSON_STRING && llmb_json_get(object, name->text) == NULL)
			return false;
	}
	return true;
}

static bool
same_value(const LlmbJson *a, const LlmbJson *b)
{
	StringInfoData as;
	StringInfoData bs;
	bool		same;

	initStringInfo(&as);
	initStringInfo(&bs);
	llmb_json_put_node(&as, a);
	llmb_json_put_node(&bs, b);
	same = strcmp(as.data, bs.data) == 0;
	pfree(as.data);
	pfree(bs.data);
	return same;
}

/* The candidate that is meant; NULL when that cannot be told. */
static LlmbJson *
choose(LlmbJson **candidates, int count, const LlmbJson *schema)
{
	LlmbJson   *chosen = NULL;
	int			complete = 0;

	for (int i = 0; i < count; i++)
		complete += has_required(candidates[i], schema);
	for (int i = 0; i < count; i++)
	{
		if (complete > 0 && !has_required(candidates[i], schema))
			continue;
		if (chosen != NULL && !same_value(chosen, candidates[i]))
			return NULL;
		chosen = candidates[i];
	}
	return chosen;
}

/*
 * All objects of a text that stand in no other one.  A '{' that no member's
 * name or '}' follows is prose; one that looks like an object and is none
 * makes the whole text unreadable, for what stands inside is not the answer.
 * Every byte is so read a fixed number of times.
 */
static LlmbJson *
search(const char *p, const char *end, const LlmbJson *schema, bool *altered, const char **reason)
{
	LlmbJson   *candidates[MAX_CANDIDATES];
	LlmbJson   *chosen;
	int			count = 0;

	*reason = "the answer is not a JSON object";
	while ((p = memchr(p, '{', end - p)) != NULL)
	{
		const char *inside = skip_blanks(p + 1, end);
		const char *behind;

		if (inside == end || (*inside != '"' && *inside != '}'))
		{
			p++;
			continue;
		}
		behind = behind_object(p, end);
		if (behind == NULL)
		{
			*reason = "the answer's JSON object has no end";
			return NULL;
		}
		*reason = "the answer holds more than one JSON object";
		if (count == MAX_CANDIDATES)
			return NULL;
		candidates[count] = parse_piece(p, behind, altered);
		if (candidates[count] == NULL)
		{
			*reason = "the answer is not valid JSON";
			return NULL;
		}
		count++;
		p = behind;
	}
	chosen = choose(candidates, count, schema);
	for (int i = 0; i < count; i++)
	{
		if (candidates[i] != chosen)
			llmb_json_free(candidates[i]);
	}
	return chosen;
}

/* Models that think aloud say where they stop. */
static const char *
behind_thoughts(const char *text)
{
	static const char mark[] = "</think>";
	const char *found;

	while ((found = strstr(text, mark)) != NULL)
		text = found + strlen(mark);
	return text;
}

LlmbJson *
llmb_answer_recover(char *text, size_t len, const LlmbJson *schema, bool *altered, const char **reason)
{
	const char *start = text;
	const char *end;
	LlmbJson   *whole;

	len = llmb_json_clean(text, len, altered);
	text[len] = '\0';
	whole = llmb_json_parse(text, len, reason);
	if (whole != NULL && whole->type == LLMB_JSON_OBJECT)
		return whole;
	if (whole != NULL && whole->type == LLMB_JSON_STRING)
	{
		/* JSON in a string, once more escaped */
		len = llmb_json_clean(whole->text, strlen(whole->text), altered);
		whole->text[len] = '\0';
		start = whole->text;
	}
	start = behind_thoughts(start);
	end = start + strlen(start);
	return search(start, end, schema, altered, reason);
}

/* ---- decimal numbers ---- */

/* 0.d1d2d3... times ten to the power of "point"; d1 is not 0. */
typedef struct Decimal
{
	bool		negative;
	const char *text;			/* as written, without blanks */
	size_t		text_len;
	char	   *digits;			/* without zeros at either end */
	int			count;			/* 0: zero */
	int64		point;
} Decimal;

/* [+-]digits[.digits][e[+-]digits], blanks around it. */
static bool
read_decimal(const char *p, Decimal *d)
{
	bool		any = false;
	bool		seen_point = false;
	long		exponent = 0;

	memset(d, 0, sizeof(*d));
	while (is_blank(*p))
		p++;
	if (*p == '+' && p[1] != '-')
		p++;
	d->text = p;
	d->negative = *p == '-';
	p += d->negative;
	d->digits = palloc(strlen(p) + 1);
	for (; isdigit((unsigned char) *p) || (*p == '.' && !seen_point); p++)
	{
		if (*p == '.')
		{
			seen_point = true;
			continue;
		}
		any = true;
		if (d->count > 0 || *p != '0')
			d->digits[d->count++] = *p;
		if (d->count > 0 && !seen_point)
			d->point++;
		else if (d->count == 0 && seen_point)
			d->point--;
	}
	if (!any)
		return false;
	if (*p == 'e' || *p == 'E')
	{
		char	   *rest;

		if (!isdigit((unsigned char) p[1]) && !((p[1] == '-' || p[1] == '+') && isdigit((unsigned char) p[2])))
			return false;
		errno = 0;
		exponent = strtol(p + 1, &rest, 10);
		if (errno != 0 || labs(exponent) > 2 * NUMERIC_BEFORE)
			return false;
		p = rest;
	}
	d->text_len = p - d->text;
	while (d->count > 0 && d->digits[d->count - 1] == '0')
		d->count--;
	d->digits[d->count] = '\0';
	d->point += exponent;
	while (is_blank(*p))
		p++;
	return *p == '\0';
}

/* A number, or a string that is one. */
static bool
decimal_value(const LlmbJson *value, Decimal *d)
{
	return (value->type == LLMB_JSON_NUMBER || value->type == LLMB_JSON_STRING) &&
		read_decimal(value->text, d);
}

static char *
integer_text(const LlmbColumn *column, const LlmbJson *value)
{
	Decimal		d;
	char	   *digits;
	int64		number;

	if (!decimal_value(value, &d))
		return NULL;
	if (d.count == 0)
		d.point = 1;
	/* a fraction, or more than int64 has */
	if (d.count > d.point || d.point > 19)
		return NULL;
	digits = psprintf("%s%s%0*d", d.negative ? "-" : "", d.digits, (int) (d.point - d.count), 0);
	/* "%0*d" of width 0 still writes one digit */
	digits[(d.negative ? 1 : 0) + d.point] = '\0';
	errno = 0;
	number = strtoll(digits, NULL, 10);
	if (errno != 0 || number < column->min || number > column->max)
		return NULL;
	return digits;
}

/* Whether rounding to numeric(precision, scale) leaves it in range. */
static bool
fits_numeric(const Decimal *d, int precision, int scale)
{
	int			before = precision - scale;

	if (d->count == 0 || d->point < before)
		return true;
	if (d->point > before)
		return false;
	/* 9.995 becomes 10.00 */
	for (int i = 0; i < precision; i++)
	{
		if (i >= d->count || d->digits[i] != '9')
			return true;
	}
	return d->count <= precision || d->digits[precision] < '5';
}

static char *
numeric_text(const LlmbColumn *column, const LlmbJson *value)
{
	Decimal		d;

	if (!decimal_value(value, &d))
		return NULL;
	if (d.count > 0 && (d.point > NUMERIC_BEFORE || d.count - d.point > NUMERIC_AFTER))
		return NULL;
	if (column->precision > 0 && !fits_numeric(&d, column->precision, column->scale))
		return NULL;
	return pnstrdup(d.text, d.text_len);
}

static const char *
float_text(const LlmbColumn *column, const LlmbJson *value)
{
	const char *text = value->text;
	double		number;

	/* an embedding has thousands: what JSON calls a number is one */
	if (value->type != LLMB_JSON_NUMBER)
	{
		Decimal		d;

		if (!decimal_value(value, &d))
			return NULL;
		text = pnstrdup(d.text, d.text_len);
	}
	number = column->single ? strtof(text, NULL) : strtod(text, NULL);
	if (isinf(number))
		return NULL;
	/* nearer to zero than the type can tell */
	return number == 0 ? "0" : text;
}

/* ---- other scalars ---- */

/* Without the blanks around it; palloc'd. */
static char *
trimmed(const char *text)
{
	const char *end = text + strlen(text);

	text = skip_blanks(text, end);
	while (end > text && is_blank(end[-1]))
		end--;
	return pnstrdup(text, end - text);
}

/* A scalar's text, else NULL. */
static char *
scalar_text(const LlmbJson *value)
{
	switch (value->type)
	{
		case LLMB_JSON_STRING:
		case LLMB_JSON_NUMBER:
			return pstrdup(value->text);
		case LLMB_JSON_BOOL:
			return pstrdup(value->boolean ? "true" : "false");
		default:
			return NULL;
	}
}

static char *
json_text(const LlmbJson *value)
{
	StringInfoData out;

	initStringInfo(&out);
	llmb_json_put_node(&out, value);
	return out.data;
}

/* Blanks at the end do not count: varchar cuts them off. */
static int
count_chars(const char *text)
{
	size_t		len = strlen(text);
	int			count = 0;

	while (len > 0 && text[len - 1] == ' ')
		len--;
	for (size_t i = 0; i < len; i++)
		count += ((unsigned char) text[i] & 0xC0) != 0x80;
	return count;
}

static char *
plain_text(const LlmbColumn *column, const LlmbJson *value)
{
	char	   *text = scalar_text(value);

	if (text == NULL && !column->strict_text)
		text = json_text(value);
	if (text == NULL || (column->max_chars > 0 && count_chars(text) > column->max_chars))
		return NULL;
	return text;
}

static char *
boolean_text(const LlmbJson *value)
{
	char	   *text = value->type == LLMB_JSON_NUMBER ? NULL : scalar_text(value);

	if (text == NULL)
		return NULL;
	text = trimmed(text);
	if (pg_strcasecmp(text, "true") == 0)
		return pstrdup("true");
	return pg_strcasecmp(text, "false") == 0 ? pstrdup("false") : NULL;
}

/* Exactly a label, else the only one that differs in case and blanks alone. */
static char *
enum_text(const LlmbColumn *column, const LlmbJson *value)
{
	char	   *text = scalar_text(value);
	const char *near = NULL;
	int			hits = 0;

	if (text == NULL)
		return NULL;
	for (int i = 0; i < column->label_count; i++)
	{
		if (strcmp(column->labels[i], text) == 0)
			return text;
	}
	text = trimmed(text);
	for (int i = 0; i < column->label_count; i++)
	{
		if (strcmp(column->labels[i], text) == 0)
			return text;
		if (pg_strcasecmp(column->labels[i], text) == 0)
		{
			near = column->labels[i];
			hits++;
		}
	}
	return hits == 1 ? pstrdup(near) : NULL;
}

/* 32 hexadecimal digits, hyphens between groups of four, perhaps in braces. */
static char *
uuid_text(const LlmbJson *value)
{
	char	   *text;
	const char *p;
	int			digits = 0;
	bool		braces;

	if (value->type != LLMB_JSON_STRING)
		return NULL;
	p = text = trimmed(value->text);
	braces = *p == '{';
	p += braces;
	for (; *p && digits < 32; p++)
	{
		if (isxdigit((unsigned char) *p))
			digits++;
		else if (*p != '-' || digits == 0 || digits % 4 != 0 || p[-1] == '-')
			return NULL;
	}
	return digits == 32 && strcmp(p, braces ? "}" : "") == 0 ? text : NULL;
}

static char *
moment_text(const LlmbColumn *column, const LlmbJson *value)
{
	char	   *text;

	if (value->type != LLMB_JSON_STRING)
		return NULL;
	text = trimmed(value->text);
	return column->valid_moment(column->kind, text) ? text : NULL;
}

bool
llmb_answer_fits_jsonb(const LlmbJson *value)
{
	if (value->type == LLMB_JSON_NUMBER)
	{
		Decimal		d;

		return read_decimal(value->text, &d) &&
			(d.count == 0 || (d.point <= NUMERIC_BEFORE && d.count - d.point <= NUMERIC_AFTER));
	}
	for (const LlmbJson *child = value->first; child; child = child->next)
	{
		if (!llmb_answer_fits_jsonb(child))
			return false;
	}
	return true;
}

static char *
any_json_text(const LlmbColumn *column, const LlmbJson *value)
{
	if (column->json_in_string && value->type == LLMB_JSON_STRING)
	{
		bool		altered = false;

		value = parse_piece(value->text, value->text + strlen(value->text), &altered);
	}
	return value && llmb_answer_fits_jsonb(value) ? json_text(value) : NULL;
}

static char *
vector_text(const LlmbJson *value)
{
	StringInfoData out;
	LlmbColumn	element = {.single = true};

	if (value->type != LLMB_JSON_ARRAY || value->count == 0)
		return NULL;
	initStringInfo(&out);
	for (const LlmbJson *child = value->first; child; child = child->next)
	{
		const char *text = child->type == LLMB_JSON_NUMBER ? float_text(&element, child) : NULL;

		if (text == NULL)
			return NULL;
		appendStringInfoChar(&out, child == value->first ? '[' : ',');
		appendStringInfoString(&out, text);
	}
	appendStringInfoChar(&out, ']');
	return out.data;
}

static const char *
element_text(const LlmbColumn *column, const LlmbJson *value)
{
	if (value->type == LLMB_JSON_NULL)
		return NULL;
	switch (column->kind)
	{
		case LLMB_KIND_TEXT:
			return plain_text(column, value);
		case LLMB_KIND_INTEGER:
			return integer_text(column, value);
		case LLMB_KIND_NUMERIC:
			return numeric_text(column, value);
		case LLMB_KIND_FLOAT:
			return float_text(column, value);
		case LLMB_KIND_BOOLEAN:
			return boolean_text(value);
		case LLMB_KIND_ENUM:
			return enum_text(column, value);
		case LLMB_KIND_DATE:
		case LLMB_KIND_TIME:
		case LLMB_KIND_TIMESTAMP:
			return moment_text(column, value);
		case LLMB_KIND_UUID:
			return uuid_text(value);
		case LLMB_KIND_JSON:
			return any_json_text(column, value);
		case LLMB_KIND_VECTOR:
			return vector_text(value);
		case LLMB_KIND_OTHER:
			return scalar_text(value);
	}
	return NULL;
}

/* As array_in() reads it; every element quoted, for any may need it. */
static const char *
array_text(const LlmbColumn *column, const LlmbJson *value)
{
	StringInfoData out;

	if (value->type != LLMB_JSON_ARRAY)
		return NULL;
	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	for (const LlmbJson *child = value->first; child; child = child->next)
	{
		const char *text = element_text(column, child);

		if (text == NULL)
			return NULL;
		appendStringInfoString(&out, child == value->first ? "\"" : ",\"");
		for (const char *p = text; *p; p++)
		{
			if (*p == '"' || *p == '\\')
				appendStringInfoChar(&out, '\\');
			appendStringInfoChar(&out, *p);
		}
		appendStringInfoChar(&out, '"');
	}
	appendStringInfoChar(&out, '}');
	return out.data;
}

/* ---- reasons ---- */

/* A value, cut between characters. */
static char *
quoted(const LlmbJson *value)
{
	char	   *text = json_text(value);
	size_t		len = 0;

	if (strlen(text) <= MAX_QUOTED)
		return text;
	while (len + pg_utf_mblen((unsigned char *) text + len) <= MAX_QUOTED)
		len += pg_utf_mblen((unsigned char *) text + len);
	strcpy(text + len, "...");
	return text;
}

static char *
label_list(const LlmbColumn *column)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, "one of");
	for (int i = 0; i < column->label_count && i < MAX_LISTED; i++)
		appendStringInfo(&out, "%s %s", i ? "," : "", column->labels[i]);
	if (column->label_count > MAX_LISTED)
		appendStringInfoString(&out, ", ...");
	return out.data;
}

static char *
expectation(const LlmbColumn *column)
{
	switch (column->kind)
	{
		case LLMB_KIND_TEXT:
			return column->max_chars > 0 ? psprintf("text of at most %d characters", column->max_chars) : pstrdup("text");
		case LLMB_KIND_INTEGER:
			return psprintf("an integer from %lld to %lld", (long long) column->min, (long long) column->max);
		case LLMB_KIND_NUMERIC:
			return column->precision > 0 ? psprintf("a number that numeric(%d,%d) holds", column->precision, column->scale) :
				pstrdup("a number");
		case LLMB_KIND_FLOAT:
			return psprintf("a number that %s holds", column->single ? "real" : "double precision");
		case LLMB_KIND_BOOLEAN:
			return pstrdup("true or false");
		case LLMB_KIND_ENUM:
			return label_list(column);
		case LLMB_KIND_DATE:
			return pstrdup("a date like 2026-01-31");
		case LLMB_KIND_TIME:
			return pstrdup("a time like 12:30:00");
		case LLMB_KIND_TIMESTAMP:
			return pstrdup("a date and time like 2026-01-31T12:30:00Z");
		case LLMB_KIND_UUID:
			return pstrdup("a UUID");
		case LLMB_KIND_JSON:
			return pstrdup(column->json_in_string ? "JSON, or a string that holds JSON" : "JSON");
		case LLMB_KIND_VECTOR:
			return pstrdup("an array of numbers");
		case LLMB_KIND_OTHER:
			break;
	}
	return pstrdup("a string, a number or a boolean");
}

bool
llmb_answer_value(const LlmbColumn *column, const LlmbJson *value, const char **text, const char **reason)
{
	*text = NULL;
	if (value == NULL && column->optional && column->nullable)
		return true;
	if (value && value->type == LLMB_JSON_NULL && column->nullable)
		return true;
	if (value)
		*text = column->array ? array_text(column, value) : element_text(column, value);
	if (*text)
		return true;
	*reason = psprintf("column \"%s\": expected %s%s, %s%s", column->name,
					   column->array ? "an array, each element " : "", expectation(column),
					   value ? "got " : "the answer has no such member", value ? quoted(value) : "");
	return false;
}

/* ---- checks against a schema ---- */

bool
llmb_schema_has_type(const LlmbJson *schema, const char *type)
{
	LlmbJson   *word = llmb_json_get(schema, "type");

	if (word == NULL)
		return false;
	if (word->type == LLMB_JSON_STRING)
		return strcmp(word->text, type) == 0;
	for (word = word->first; word; word = word->next)
	{
		if (word->type == LLMB_JSON_STRING && strcmp(word->text, type) == 0)
			return true;
	}
	return false;
}

bool
llmb_schema_allows_null(const LlmbJson *schema)
{
	LlmbJson   *keyword;

	if (llmb_json_get(schema, "type") != NULL && !llmb_schema_has_type(schema, "null"))
		return false;
	if ((keyword = llmb_json_get(schema, "const")) != NULL && keyword->type != LLMB_JSON_NULL)
		return false;
	if ((keyword = llmb_json_get(schema, "enum")) != NULL)
	{
		for (keyword = keyword->first; keyword && keyword->type != LLMB_JSON_NULL;)
			keyword = keyword->next;
		if (keyword == NULL)
			return false;
	}
	if ((keyword = llmb_json_get(schema, "anyOf")) != NULL)
	{
		for (keyword = keyword->first; keyword && !llmb_schema_allows_null(keyword);)
			keyword = keyword->next;
		return keyword != NULL;
	}
	return true;
}

static bool
is_integral(const LlmbJson *value)
{
	Decimal		d;

	return value->type == LLMB_JSON_NUMBER && read_decimal(value->text, &d) && d.count <= Max(d.point, 0);
}

static bool
type_fits(const LlmbJson *schema, const LlmbJson *value)
{
	static const char *const names[] = {"null", "boolean", "number", "string", "array", "object"};

	if (llmb_json_get(schema, "type") == NULL || llmb_schema_has_type(schema, names[value->type]))
		return true;
	return llmb_schema_has_type(schema, "integer") && is_integral(value);
}

static bool
is_listed(const LlmbJson *list, const LlmbJson *value)
{
	for (const LlmbJson *child = list->first; child; child = child->next)
	{
		if (same_value(child, value))
			return true;
	}
	return false;
}

typedef struct Check
{
	const char *at;				/* path of the value, "" for the root */
	bool		(*skip) (const char *member, const void *arg);
	const void *arg;
	const char **reason;
} Check;

static bool check_value(const Check *check, const LlmbJson *schema, const LlmbJson *value);

static bool
misfit(const Check *check, const char *expected, const LlmbJson *value)
{
	*check->reason = psprintf("%s%s%s expected %s%s%s",
							  check->at[0] ? "member \"" : "", check->at[0] ? check->at : "the answer:",
							  check->at[0] ? "\":" : "", expected, value ? ", got " : "", value ? quoted(value) : "");
	return false;
}

static bool
check_members(const Check *check, const LlmbJson *schema, const LlmbJson *object)
{
	LlmbJson   *required = llmb_json_get(schema, "required");
	LlmbJson   *properties = llmb_json_get(schema, "properties");
	Check		inner = {.reason = check->reason};

	/* a schema is the user's, and may be wrong */
	if (properties && properties->type != LLMB_JSON_OBJECT)
		properties = NULL;
	for (LlmbJson *name = required ? required->first : NULL; name; name = name->next)
	{
		if (name->type != LLMB_JSON_STRING || llmb_json_get(object, name->text) ||
			(check->skip && check->skip(name->text, check->arg)))
			continue;
		*check->reason = psprintf("the answer has no member \"%s%s%s\"", check->at, check->at[0] ? "." : "", name->text);
		return false;
	}
	for (LlmbJson *property = properties ? properties->first : NULL; property; property = property->next)
	{
		LlmbJson   *member = llmb_json_get(object, property->name);

		if (member == NULL || (check->skip && check->skip(property->name, check->arg)))
			continue;
		inner.at = psprintf("%s%s%s", check->at, check->at[0] ? "." : "", property->name);
		if (!check_value(&inner, property, member))
			return false;
	}
	return true;
}

static bool
check_elements(const Check *check, const LlmbJson *items, const LlmbJson *array)
{
	Check		inner = {.reason = check->reason};
	int			n = 0;

	for (const LlmbJson *child = array->first; child; child = child->next)
	{
		inner.at = psprintf("%s[%d]", check->at, n++);
		if (!check_value(&inner, items, child))
			return false;
	}
	return true;
}

static bool
check_alternatives(const Check *check, const LlmbJson *list, const LlmbJson *value)
{
	for (const LlmbJson *schema = list->first; schema; schema = schema->next)
	{
		if (check_value(check, schema, value))
			return true;
	}
	return list->first == NULL || misfit(check, "one of the alternatives of its schema", value);
}

/* The schema's nesting is bounded by the reader's. */
static bool
check_value(const Check *check, const LlmbJson *schema, const LlmbJson *value)
{
	LlmbJson   *keyword;

	if (schema->type != LLMB_JSON_OBJECT)
		return true;
	if (!type_fits(schema, value))
		return misfit(check, psprintf("type %s", json_text(llmb_json_get(schema, "type"))), value);
	if ((keyword = llmb_json_get(schema, "const")) != NULL && !same_value(keyword, value))
		return misfit(check, json_text(keyword), value);
	if ((keyword = llmb_json_get(schema, "enum")) != NULL && !is_listed(keyword, value))
		return misfit(check, "one of the values of its enum", value);
	if ((keyword = llmb_json_get(schema, "anyOf")) != NULL && !check_alternatives(check, keyword, value))
		return false;
	if (value->type == LLMB_JSON_OBJECT)
		return check_members(check, schema, value);
	if (value->type == LLMB_JSON_ARRAY && (keyword = llmb_json_get(schema, "items")) != NULL)
		return check_elements(check, keyword, value);
	return true;
}

bool
llmb_answer_check(const LlmbJson *schema, const LlmbJson *value, const char *at,
				  bool (*skip) (const char *member, const void *arg), const void *arg, const char **reason)
{
	Check		check = {.at = at, .skip = skip, .arg = arg, .reason = reason};

	return check_value(&check, schema, value);
}

/* ---- what a target's property lists ---- */

static bool
is_text_of(const LlmbJson *listed, const char *text)
{
	char	   *own = scalar_text(listed);

	return own != NULL && strcmp(own, text) == 0;
}

static bool
lists_text(const LlmbJson *schema, const char *text)
{
	LlmbJson   *keyword;
	LlmbJson   *child;

	if ((keyword = llmb_json_get(schema, "const")) != NULL && !is_text_of(keyword, text))
		return false;
	if ((keyword = llmb_json_get(schema, "enum")) != NULL)
	{
		for (child = keyword->first; child && !is_text_of(child, text);)
			child = child->next;
		if (child == NULL)
			return false;
	}
	if ((keyword = llmb_json_get(schema, "anyOf")) != NULL)
	{
		for (child = keyword->first; child && !lists_text(child, text);)
			child = child->next;
		return child != NULL;
	}
	return true;
}

bool
llmb_answer_listed(const LlmbColumn *column, const LlmbJson *property, const LlmbJson *value, const char *text,
				   const char **reason)
{
	const LlmbJson *items = llmb_json_get(property, "items");
	bool		listed = true;

	if (property == NULL || value == NULL || value->type == LLMB_JSON_NULL)
		return true;
	if (value->type != LLMB_JSON_ARRAY && value->type != LLMB_JSON_OBJECT)
	{
		char	   *own = scalar_text(value);

		listed = lists_text(property, text) || (own && lists_text(property, own));
	}
	else if (!column->array)
		return llmb_answer_check(property, value, column->name, NULL, NULL, reason);
	/* labels are told from each other by the type already */
	else if (column->kind != LLMB_KIND_ENUM && items)
	{
		for (const LlmbJson *child = value->first; child && listed; child = child->next)
		{
			char	   *own = scalar_text(child);

			listed = own == NULL || lists_text(items, own);
		}
	}
	if (!listed)
		*reason = psprintf("column \"%s\": expected a value that its schema lists, got %s", column->name, quoted(value));
	return listed;
}
