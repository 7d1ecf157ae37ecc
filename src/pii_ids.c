/*-------------------------------------------------------------------------
 *
 * pii_ids.c
 *		Payment cards, IBANs and national ids by lengths and check digits.
 *
 * Whoever calls has taken the separators out.  An id that any number of its
 * length could be, but for one check digit (so that one order number in ten
 * looks like it), is taken for one only behind a word that names it.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include "pii.h"

static int
value(char c)
{
	return c - '0';
}

/* The number that n digits make. */
static int64
number_of(const char *digits, int n)
{
	int64		number = 0;

	for (int i = 0; i < n; i++)
		number = number * 10 + value(digits[i]);
	return number;
}

static int
weighted(const char *digits, const int *weights, int n)
{
	int			sum = 0;

	for (int i = 0; i < n; i++)
		sum += value(digits[i]) * weights[i];
	return sum;
}

static bool
all_same(const char *digits, int n)
{
	for (int i = 1; i < n; i++)
	{
		if (digits[i] != digits[0])
			return false;
	}
	return true;
}

static bool
all_digits(const char *id, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (id[i] < '0' || id[i] > '9')
			return false;
	}
	return true;
}

static bool
is_capital(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool
is_day_month(int day, int month)
{
	return day >= 1 && day <= 31 && month >= 1 && month <= 12;
}

/* ISO/IEC 7812-1, annex B */
static bool
luhn(const char *digits, int n)
{
	int			sum = 0;

	for (int i = 0; i < n; i++)
	{
		int			d = value(digits[n - 1 - i]);

		if (i % 2 == 1)
			d = d > 4 ? 2 * d - 9 : 2 * d;
		sum += d;
	}
	return sum % 10 == 0;
}

/* ---- payment cards ---- */

/*
 * First digits and lengths of the schemes, as Wikipedia, "Payment card
 * number", lists them.  A bound is compared with as many digits as it has.
 */
static const struct
{
	int			from;
	int			to;
	int			digits;			/* of from and to */
	int			min_len;
	int			max_len;
}			card_ranges[] = {
	{4, 4, 1, 13, 19},			/* Visa */
	{51, 55, 2, 16, 16},		/* Mastercard */
	{2221, 2720, 4, 16, 16},
	{34, 34, 2, 15, 15},		/* American Express */
	{37, 37, 2, 15, 15},
	{300, 305, 3, 14, 19},		/* Diners Club */
	{3095, 3095, 4, 14, 19},
	{36, 36, 2, 14, 19},
	{38, 39, 2, 14, 19},
	{3528, 3589, 4, 16, 19},	/* JCB */
	{6011, 6011, 4, 16, 19},	/* Discover, RuPay, UnionPay */
	{644, 649, 3, 16, 19},
	{65, 65, 2, 16, 19},
	{60, 60, 2, 16, 16},
	{81, 82, 2, 16, 19},
	{62, 62, 2, 16, 19},
	{5018, 5018, 4, 13, 19},	/* Maestro */
	{5020, 5020, 4, 13, 19},
	{5038, 5038, 4, 13, 19},
	{5893, 5893, 4, 13, 19},
	{6304, 6304, 4, 13, 19},
	{6759, 6763, 4, 13, 19},
	{6799, 6799, 4, 13, 19},
	{2200, 2204, 4, 16, 19},	/* Mir */
	{9792, 9792, 4, 16, 16},	/* Troy */
};

bool
llmb_pii_is_card(const char *digits, int len)
{
	if (len < 13 || len > 19 || all_same(digits, len))
		return false;
	for (int i = 0; i < (int) lengthof(card_ranges); i++)
	{
		int64		prefix = number_of(digits, card_ranges[i].digits);

		if (prefix >= card_ranges[i].from && prefix <= card_ranges[i].to &&
			len >= card_ranges[i].min_len && len <= card_ranges[i].max_len)
			return luhn(digits, len);
	}
	return false;
}

/* ---- IBAN ---- */

/* Lengths: SWIFT, "IBAN Registry". */
static const char iban_lengths[] =
"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28"
"EE20EG29ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26"
"IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28"
"NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25"
"SV28TL23TN24TR26UA29VA22VG24XK20YE30";

int
llmb_pii_iban_length(const char *country)
{
	for (const char *entry = iban_lengths; *entry; entry += 4)
	{
		if (entry[0] == country[0] && entry[1] == country[1])
			return (int) number_of(entry + 2, 2);
	}
	return 0;
}

/* ISO 7064, MOD 97-10, the first four characters last */
bool
llmb_pii_is_iban(const char *iban, int len)
{
	int			rest = 0;

	if (len < 5 || !all_digits(iban + 2, 2) || llmb_pii_iban_length(iban) != len)
		return false;
	for (int i = 0; i < len; i++)
	{
		char		c = iban[(i + 4) % len];

		if (is_capital(c))
			rest = (rest * 100 + c - 'A' + 10) % 97;
		else
			rest = (rest * 10 + value(c)) % 97;
	}
	return rest == 1;
}

/* ---- ids of digits ---- */

/* United States: Social Security Number; and the ITIN, which begins with 9 */
static bool
is_ssn(const char *d)
{
	int64		area = number_of(d, 3);
	int64		group = number_of(d + 3, 2);

	if (area >= 900)
		return (group >= 50 && group <= 65) || (group >= 70 && group <= 88) ||
			(group >= 90 && group <= 92) || group >= 94;
	return area != 0 && area != 666 && group != 0 && number_of(d + 5, 4) != 0;
}

/*
 * Germany: tax id.  ISO 7064, MOD 11,10; and of the first ten digits exactly
 * one stands there twice or three times.
 */
static bool
is_steuer_id(const char *d)
{
	int			times[10] = {0};
	int			repeated = 0;
	int			product = 10;

	if (d[0] == '0')
		return false;
	for (int i = 0; i < 10; i++)
	{
		int			sum = (value(d[i]) + product) % 10;

		times[value(d[i])]++;
		product = (sum == 0 ? 10 : sum) * 2 % 11;
	}
	for (int i = 0; i < 10; i++)
	{
		if (times[i] > 3)
			return false;
		repeated += times[i] > 1;
	}
	return repeated == 1 && (11 - product) % 10 == value(d[10]);
}

/* France: NIR; sex, year, month, department, commune, order, and a key */
static bool
is_nir(const char *d)
{
	int64		month = number_of(d + 3, 2);

	return strchr("123478", d[0]) != NULL &&
		((month >= 1 && month <= 12) || (month >= 20 && month <= 42) || month >= 50) &&
		97 - number_of(d, 13) % 97 == number_of(d + 13, 2);
}

/* Netherlands: BSN, the test of eleven */
static bool
is_bsn(const char *d)
{
	static const int weights[] = {9, 8, 7, 6, 5, 4, 3, 2, -1};

	return !all_same(d, 9) && weighted(d, weights, 9) % 11 == 0;
}

/* Belgium: national register number; born since 2000 with a 2 before it */
static bool
is_belgian(const char *d)
{
	int64		number = number_of(d, 9);
	int64		check = number_of(d + 9, 2);

	return number_of(d + 2, 2) <= 12 && number_of(d + 4, 2) <= 31 && number != 0 &&
		(97 - number % 97 == check || 97 - (number + INT64CONST(2000000000)) % 97 == check);
}

/* Switzerland: AHV number, an EAN-13 */
static bool
is_ahv(const char *d)
{
	static const int weights[] = {1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1};

	return memcmp(d, "756", 3) == 0 && weighted(d, weights, 13) % 10 == 0;
}

/* Sweden: personal identity number, YYMMDD and four; days of coordination numbers are 60 more */
static bool
is_swedish(const char *d)
{
	int			day = (int) number_of(d + 4, 2);

	return is_day_month(day > 60 ? day - 60 : day, (int) number_of(d + 2, 2)) && luhn(d, 10);
}

/* Norway: DDMMYY and five, two of which are check digits; D-numbers add 40 to the day */
static bool
is_norwegian(const char *d)
{
	static const int first[] = {3, 7, 6, 1, 8, 9, 4, 5, 2, 1};
	static const int second[] = {5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1};
	int			day = (int) number_of(d, 2);

	return is_day_month(day > 40 ? day - 40 : day, (int) number_of(d + 2, 2)) &&
		weighted(d, first, 10) % 11 == 0 && weighted(d, second, 11) % 11 == 0;
}

/* Poland: PESEL; the century stands in the month */
static bool
is_pesel(const char *d)
{
	static const int weights[] = {1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1};

	return is_day_month((int) number_of(d + 4, 2), (int) number_of(d + 2, 2) % 20) &&
		weighted(d, weights, 11) % 10 == 0;
}

/* Brazil: CPF */
static bool
is_cpf(const char *d)
{
	static const int weights[] = {11, 10, 9, 8, 7, 6, 5, 4, 3, 2};
	int			first = weighted(d, weights + 1, 9) * 10 % 11 % 10;
	int			second = weighted(d, weights, 10) * 10 % 11 % 10;

	return !all_same(d, 11) && first == value(d[9]) && second == value(d[10]);
}

/* Canada: SIN */
static bool
is_sin(const char *d)
{
	return d[0] != '0' && d[0] != '8' && luhn(d, 9);
}

/* China: resident identity number of 18 places; the last may be X */
static bool
is_chinese(const char *d)
{
	static const int weights[] = {7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2};
	int			century = (int) number_of(d + 6, 2);

	return d[0] != '0' && (century == 19 || century == 20) &&
		is_day_month((int) number_of(d + 12, 2), (int) number_of(d + 10, 2)) &&
		"10X98765432"[weighted(d, weights, 17) % 11] == d[17];
}

static bool
is_swedish_long(const char *d)
{
	return (d[0] == '1' || d[0] == '2') && is_swedish(d + 2);
}

static const struct
{
	const char *shapes;			/* each between two '|' */
	int			len;
	bool		(*check) (const char *digits);
	const char *words;			/* one of them must stand before it; NULL: none */
}			digit_ids[] = {
	{"|3-2-4|3 2 4|", 9, is_ssn, NULL},
	{"|9|", 9, is_ssn, "ssn|social|itin"},
	{"|11|2 3 3 3|", 11, is_steuer_id, NULL},
	{"|15|13 2|1 2 2 2 3 3 2|1 2 2 2 3 3-2|", 15, is_nir, NULL},
	{"|9|4.2.3|4 2 3|3 3 3|3.3.3|", 9, is_bsn, "bsn|burgerservice|sofi"},
	{"|11|2.2.2-3.2|6-3.2|6-5|", 11, is_belgian, NULL},
	{"|13|3.4.4.2|3 4 4 2|", 13, is_ahv, NULL},
	{"|6-4|", 10, is_swedish, NULL},
	{"|8-4|", 12, is_swedish_long, NULL},
	{"|10|", 10, is_swedish, "personnummer|samordningsnummer"},
	{"|12|", 12, is_swedish_long, "personnummer|samordningsnummer"},
	{"|11|6 5|", 11, is_norwegian, NULL},
	{"|11|", 11, is_pesel, "pesel"},
	{"|3.3.3-2|", 11, is_cpf, NULL},
	{"|11|", 11, is_cpf, "cpf"},
	{"|9|3 3 3|3-3-3|", 9, is_sin, "sin|social|nas"},
	{"|18|", 18, is_chinese, NULL},
};

bool
llmb_pii_is_digits_id(const char *id, int len, const char *shape,
					  bool (*keyword) (const char *words, void *arg), void *arg)
{
	char		whole[64];

	snprintf(whole, sizeof(whole), "|%s|", shape);
	for (int i = 0; i < (int) lengthof(digit_ids); i++)
	{
		if (digit_ids[i].len != len || strstr(digit_ids[i].shapes, whole) == NULL)
			continue;
		if (digit_ids[i].check(id) && (digit_ids[i].words == NULL || keyword(digit_ids[i].words, arg)))
			return true;
	}
	return false;
}

/* ---- ids with letters ---- */

/* United Kingdom: National Insurance number */
bool
llmb_pii_is_nino(const char *id, int len)
{
	static const char *const never[] = {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"};

	if (len != 9 || !is_capital(id[0]) || !is_capital(id[1]) || !all_digits(id + 2, 6) ||
		id[8] < 'A' || id[8] > 'D')
		return false;
	if (strchr("DFIQUV", id[0]) || strchr("DFIOQUV", id[1]))
		return false;
	for (int i = 0; i < (int) lengthof(never); i++)
	{
		if (strncmp(id, never[i], 2) == 0)
			return false;
	}
	return true;
}

/* Spain: DNI, and NIE, whose X, Y, Z count 0, 1, 2 */
static bool
is_dni(const char *id, int len)
{
	char		digits[8];

	if (len != 9)
		return false;
	memcpy(digits, id, 8);
	if (id[0] >= 'X' && id[0] <= 'Z')
		digits[0] = '0' + id[0] - 'X';
	return all_digits(digits, 8) && "TRWAGMYFPDXBNJZSQVHLCKE"[number_of(digits, 8) % 23] == id[8];
}

/*
 * Italy: codice fiscale; where several people would have the same, letters
 * stand for digits.  Values of characters in odd places: decree of
 * 23 December 1976.
 */
static bool
is_codice_fiscale(const char *id, int len)
{
	static const int odd[] = {1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23};
	static const char *const form = "LLLLLLDDMDDLDDDL";
	int			sum = 0;

	if (len != 16)
		return false;
	for (int i = 0; i < 16; i++)
	{
		bool		digit = id[i] >= '0' && id[i] <= '9';
		int			n = digit ? value(id[i]) : id[i] - 'A';

		switch (form[i])
		{
			case 'L':
				if (digit)
					return false;
				break;
			case 'D':
				if (!digit && strchr("LMNPQRSTUV", id[i]) == NULL)
					return false;
				break;
			default:
				if (strchr("ABCDEHLMPRST", id[i]) == NULL)
					return false;
		}
		if (i < 15)
			sum += i % 2 == 0 ? odd[n] : n;
	}
	return id[15] == 'A' + sum % 26;
}

/* Germany: pension insurance number */
static bool
is_rvnr(const char *id, int len)
{
	static const int weights[] = {2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1};
	char		digits[13];
	int			sum = 0;

	if (len != 12 || !all_digits(id, 8) || !is_capital(id[8]) || !all_digits(id + 9, 3))
		return false;
	/* days of a second person born that day are 50 more */
	if (!is_day_month((int) number_of(id + 2, 2) % 50, (int) number_of(id + 4, 2)))
		return false;
	memcpy(digits, id, 8);
	digits[8] = '0' + (id[8] - 'A' + 1) / 10;
	digits[9] = '0' + (id[8] - 'A' + 1) % 10;
	memcpy(digits + 10, id + 9, 2);
	for (int i = 0; i < 12; i++)
	{
		int			product = value(digits[i]) * weights[i];

		sum += product / 10 + product % 10;
	}
	return sum % 10 == value(id[11]);
}

/* France: NIR of Corsica, whose departments are 2A and 2B */
static bool
is_corsican(const char *id, int len)
{
	char		digits[15];

	if (len != 15 || id[5] != '2' || (id[6] != 'A' && id[6] != 'B'))
		return false;
	memcpy(digits, id, 15);
	digits[5] = '1';
	digits[6] = id[6] == 'A' ? '9' : '8';
	return all_digits(digits, 15) && is_nir(digits);
}

/* Finland: HETU without the sign of its century, which may be a letter */
static bool
is_hetu(const char *id, int len)
{
	char		digits[9];

	if (len == 11 && strchr("ABCDEFUVWXY", id[6]) != NULL)
	{
		if (!all_digits(id, 6) || !all_digits(id + 7, 3))
			return false;
		memcpy(digits, id, 6);
		memcpy(digits + 6, id + 7, 3);
		return is_day_month((int) number_of(id, 2), (int) number_of(id + 2, 2)) &&
			"0123456789ABCDEFHJKLMNPRSTUVWXY"[number_of(digits, 9) % 31] == id[10];
	}
	return false;
}

bool
llmb_pii_is_mixed_id(const char *id, int len)
{
	return is_dni(id, len) || is_codice_fiscale(id, len) || is_rvnr(id, len) || is_corsican(id, len) ||
		is_hetu(id, len) || (len == 18 && id[17] == 'X' && all_digits(id, 17) && is_chinese(id));
}
