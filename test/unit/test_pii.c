/*-------------------------------------------------------------------------
 *
 * test_pii.c
 *		Tests of src/pii.c, src/pii_plain.c, src/pii_scan.c and src/pii_ids.c:
 *		what is masked, what is not, and what comes back.
 *
 * Numbers are made up, or those that their issuers give as examples.
 *
 *-------------------------------------------------------------------------
 */
#include "common.h"

#include <time.h>

#include "pii.h"
#include "unit.h"

typedef struct Case
{
	const char *what;
	const char *text;
	const char *expected;		/* NULL: the text itself */
} Case;

/* Masked as expected, and restored to what it was. */
static void
run_cases(const char *title, const Case *cases, int count)
{
	for (int i = 0; i < count; i++)
	{
		const char *text = cases[i].text;
		LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
		char	   *out;

		llmb_pii_note(pii, text, strlen(text));
		out = llmb_pii_mask(pii, text, strlen(text));
		is_text(out, cases[i].expected ? cases[i].expected : text, psprintf("%s: %s", title, cases[i].what));
		is_text(llmb_pii_restore(llmb_pii_map(pii), out, false), text, psprintf("%s: %s: and back", title, cases[i].what));
	}
}

#define RUN(title, cases) run_cases(title, cases, lengthof(cases))

/* ---- by form ---- */

static void
test_email(void)
{
	static const Case cases[] = {
		{"plain", "john.doe@example.com", "[EMAIL_1]"},
		{"in a sentence", "Write to john.doe@example.com.", "Write to [EMAIL_1]."},
		{"twice the same", "a@b.co, c@d.co; a@b.co", "[EMAIL_1], [EMAIL_2]; [EMAIL_1]"},
		{"another case is another value", "Ann@x.org ann@x.org", "[EMAIL_1] [EMAIL_2]"},
		{"tags and signs", "<j.o'brien+list_1%x@mail-1.example.co.uk>", "<[EMAIL_1]>"},
		{"mailto", "mailto:a.b@c.de?subject=x", "mailto:[EMAIL_1]?subject=x"},
		{"in quotes", "'a@b.de' \"a@b.de\"", "'[EMAIL_1]' \"[EMAIL_1]\""},
		{"in Markdown", "**a@b.de** [a@b.de](mailto:a@b.de)", "**[EMAIL_1]** [[EMAIL_1]](mailto:[EMAIL_1])"},
		{"in JSON", "{\"mail\":\"a@b.de\"}", "{\"mail\":\"[EMAIL_1]\"}"},
		{"in a list", "a@b.de;c@d.de,e@f.de|g@h.de", "[EMAIL_1];[EMAIL_2],[EMAIL_3]|[EMAIL_4]"},
		{"umlauts", "Frau m\xC3\xBCller@stra\xC3\x9F""e.de hat", "Frau [EMAIL_1] hat"},
		{"Chinese around it", "\xE9\x82\xAE\xE7\xAE\xB1" "a@b.com\xE6\x98\xAF", "\xE9\x82\xAE\xE7\xAE\xB1[EMAIL_1]\xE6\x98\xAF"},
		{"Chinese itself", "\xE7\x94\xA8\xE6\x88\xB7@\xE4\xBE\x8B\xE5\xAD\x90.com\xE3\x80\x82", "[EMAIL_1]\xE3\x80\x82"},
		{"Korean behind it", "a@b.co.kr\xEC\x9C\xBC\xEB\xA1\x9C", "[EMAIL_1]\xEC\x9C\xBC\xEB\xA1\x9C"},
		{"punycode", "a@xn--mnchen-3ya.de", "[EMAIL_1]"},
		{"numbers before the sign", "4111111111111111@x.com", "[EMAIL_1]"},
		{"a dot before the sign", "anna.@docomo.example", "[EMAIL_1]"},
		{"dots alone", "so ...@docomo.example", NULL},
		{"no domain", "a@localhost", NULL},
		{"a handle", "thanks @john and @jane.doe !", NULL},
		{"a package", "npm i react@18.2.0 @scope/x@1.0", NULL},
		{"at signs alone", "@ @@ a@ @b @.com a@.com a@b.", NULL},
		{"a price", "3 @ 4.50", NULL},
		{"a decorator", "\n@app.route('/')", NULL},
	};

	RUN("e-mail", cases);
}

static void
test_ip(void)
{
	static const Case cases[] = {
		{"v4", "from 192.168.1.77 to 8.8.8.8:53", "from [IP_1] to [IP_2]:53"},
		{"v4 with its mask", "10.0.0.0/8", "[IP_1]/8"},
		{"a range", "10.0.0.1-10.0.0.9", "[IP_1]-[IP_2]"},
		{"at the end", "It was 10.1.2.3.", "It was [IP_1]."},
		{"in brackets, in a URL", "(http://10.1.2.3/x)", "(http://[IP_1]/x)"},
		{"in JSON", "{\"ip\":\"10.1.2.3\"}", "{\"ip\":\"[IP_1]\"}"},
		{"v6", "at 2001:db8:85a3:0:0:8a2e:370:7334 now", "at [IP_1] now"},
		{"v6, shortened", "fe80::1, 2001:db8::/32 and ::1", "[IP_1], [IP_2]/32 and [IP_3]"},
		{"v6 with its port", "[2001:db8::1]:443", "[[IP_1]]:443"},
		{"v6 with a zone", "ping fe80::1ff:fe23:4567:890a%eth2", "ping [IP_1]"},
		{"v6 around v4", "::ffff:192.0.2.128", "[IP_1]"},
		{"v6 behind a word", "ip:2001:db8::1", "ip:[IP_1]"},
		{"three numbers", "PostgreSQL 15.20.1 and 1.2.3", NULL},
		{"five numbers", "1.2.3.4.5", NULL},
		{"too large", "10.0.19041.1 300.1.2.3 1.2.3.256", NULL},
		{"a version", "version 4.2.1.7, Version: 2.0.0.1", NULL},
		{"a version with a letter", "v1.2.3.4 1.2.3.4rc1 1.2.3.4-beta", NULL},
		{"a section", "Section 4.2.1.3 and \xC2\xA7 1.2.3.4", NULL},
		{"begins with nought", "0.1.2.3", NULL},
		{"times", "12:30:45 and 23:59", NULL},
		{"a MAC address", "00:1a:2b:3c:4d:5e", NULL},
		{"names", "std::vector<int> add::face dead::beef x::y Abc::Def::Abe", NULL},
		{"a ratio", "1:2:3", NULL},
		{"casts", "'1'::int4, a::text, '1'::bit", NULL},
	};

	RUN("IP", cases);
}

static void
test_card(void)
{
	static const Case cases[] = {
		{"Visa", "card 4111111111111111", "card [CARD_1]"},
		{"in groups", "4111 1111 1111 1111 and 4111-1111-1111-1111", "[CARD_1] and [CARD_2]"},
		{"no-break blanks", "4111\xC2\xA0""1111\xC2\xA0""1111\xC2\xA0""1111", "[CARD_1]"},
		{"American Express", "3782 822463 10005", "[CARD_1]"},
		{"Mastercard, both ranges", "5555555555554444 2223003122003222", "[CARD_1] [CARD_2]"},
		{"Diners, JCB, Discover", "30569309025904 3530111333300000 6011111111111117", "[CARD_1] [CARD_2] [CARD_3]"},
		{"two, one behind the other", "4111 1111 1111 1111 5555 5555 5555 4444", "[CARD_1] [CARD_2]"},
		{"with its expiry", "4111 1111 1111 1111 12/27", "[CARD_1] 12/27"},
		{"in CSV", "7,4111111111111111,12/27", "7,[CARD_1],12/27"},
		{"behind letters", "Visa4111111111111111", "Visa[CARD_1]"},
		{"behind an underscore", "card_4111111111111111", "card_[CARD_1]"},
		{"Chinese around it", "\xE5\x8D\xA1" "4111111111111111\xE6\x98\xAF", "\xE5\x8D\xA1[CARD_1]\xE6\x98\xAF"},
		{"an order number that fails Luhn", "order 4111111111111112", NULL},
		{"Luhn, but nobody's card", "1234567890123452", NULL},
		{"one digit too many", "41111111111111111111", NULL},
		{"a fraction", "0.4111111111111111 and 3.4111111111111111", NULL},
		{"part of a hash", "a4111111111111111b", NULL},
		{"years", "2021 2022 2023 2024", NULL},
		{"small groups", "41 11 11 11 11 11 11 11", NULL},
		{"noughts", "0000000000000000", NULL},
	};

	RUN("card", cases);
}

static void
test_iban(void)
{
	static const Case cases[] = {
		{"DE", "DE89370400440532013000", "[IBAN_1]"},
		{"in groups", "IBAN: DE89 3704 0044 0532 0130 00 BIC COBADEFF", "IBAN: [IBAN_1] BIC COBADEFF"},
		{"small letters", "de89 3704 0044 0532 0130 00", "[IBAN_1]"},
		{"GB, FR, NL, NO", "GB29NWBK60161331926819 FR1420041010050500013M02606 NL91ABNA0417164300 NO9386011117947",
		"[IBAN_1] [IBAN_2] [IBAN_3] [IBAN_4]"},
		{"MT, the longest of its kind", "MT84MALT011000012345MTLCAST001S", "[IBAN_1]"},
		{"in brackets", "(CH9300762011623852957)", "([IBAN_1])"},
		{"one digit wrong", "DE89370400440532013001", NULL},
		{"another country's length", "DE8937040044053201300", NULL},
		{"no such country", "XX89370400440532013000", NULL},
		{"a word before it", "xDE89370400440532013000", NULL},
		{"more behind it", "DE893704004405320130001", NULL},
	};

	RUN("IBAN", cases);
}

static void
test_phone(void)
{
	static const Case cases[] = {
		{"international", "+49 30 1234567, +4930123456, +1 (555) 123-4567", "[PHONE_1], [PHONE_2], [PHONE_3]"},
		{"with (0)", "+49 (0) 30 / 12 34 56", "[PHONE_1]"},
		{"with 00", "0049 30 1234567", "[PHONE_1]"},
		{"in brackets", "(+44 20 7946 0958)", "([PHONE_1])"},
		{"dots", "+33.6.12.34.56.78", "[PHONE_1]"},
		{"tel:", "tel:+15551234567", "tel:[PHONE_1]"},
		{"what follows is another number", "+49 30 123456 2 rooms", "[PHONE_1] 2 rooms"},
		{"American", "555-123-4567, (555) 123-4567, 555.123.4567, 1-800-555-0199", "[PHONE_1], [PHONE_2], [PHONE_3], [PHONE_4]"},
		{"German", "030 1234567, 0171/1234567, (030) 123-4567, 0171 123 45 67", "[PHONE_1], [PHONE_2], [PHONE_3], [PHONE_4]"},
		{"British", "020 7946 0958 or 07700 900123 or 07700900123", "[PHONE_1] or [PHONE_2] or [PHONE_3]"},
		{"French", "01 23 45 67 89, 01.23.45.67.89", "[PHONE_1], [PHONE_2]"},
		{"Italian, Dutch, Japanese", "06 1234 5678, 020-1234567, 03-1234-5678", "[PHONE_1], [PHONE_2], [PHONE_3]"},
		{"Brazilian", "(11) 91234-5678", "[PHONE_1]"},
		{"named", "Tel. 1234567, phone: 612 345 678, Fax 89-12-34", "Tel. [PHONE_1], phone: [PHONE_2], Fax [PHONE_3]"},
		{"named, behind a dot", "Tel.030 1234567", "Tel.[PHONE_1]"},
		{"names of members", "{\"tel\":\"1234567\",\"telephone\":1234567,\"homePhone\":\"1234568\",\"cell\": 1234569, \"iPhone\": 1234567}",
		"{\"tel\":\"[PHONE_1]\",\"telephone\":[PHONE_1],\"homePhone\":\"[PHONE_2]\",\"cell\": [PHONE_3], \"iPhone\": 1234567}"},
		{"an extension of one digit", "Tel. 030 / 1234567-0, 030 1234567-0, +49 30 1234567-0", "Tel. [PHONE_1], [PHONE_2], [PHONE_3]"},
		{"a link", "https://wa.me/491701234567", "https://wa.me/[PHONE_1]"},
		{"a thin dash", "030\xE2\x80\x93" "1234567", "[PHONE_1]"},
		{"a date", "01.02.2026, 2026-11-21, 11/21/2026, 01-02-2026", NULL},
		{"date and time", "01.02.2026 10:30 and 01.02.2026 10", NULL},
		{"named, but a date", "phone call on 12.11.2026", NULL},
		{"prices", "1,234,567.89 EUR and 1.234.567,89 and $1234567", NULL},
		{"percentages", "+3.5 % and +12", NULL},
		{"fractions", "0.0666666666, -0.03125000000, 00.5", NULL},
		{"years and counts", "in 2024 and 2025, 123 456 people", NULL},
		{"an ISBN", "ISBN 0-306-40615-2 and ISBN 0306406152", NULL},
		{"order numbers", "order 5551234567, no. 100200300400, 2024-001234", NULL},
		{"post codes", "01067 Dresden, 10115 Berlin", NULL},
		{"a sum", "1+23456789", NULL},
		{"other words", "font 1234567, television 1234567, hotel 1234567, cells 123456", NULL},
		{"a table of numbers", "1 2 3 4 5 6 7 8 9 10 11 12\n13 14 15", NULL},
		{"coordinates", "52.520008, 13.404954", NULL},
		{"a time stamp", "1700000000 and 2026-11-21T10:30:00Z", NULL},
		{"a UUID", "123e4567-e89b-12d3-a456-426614174000", NULL},
	};

	RUN("phone", cases);
}

static void
test_ids(void)
{
	static const Case cases[] = {
		{"US: SSN", "123-45-6789", "[NATIONAL_ID_1]"},
		{"US: SSN, named", "SSN: 123456789", "SSN: [NATIONAL_ID_1]"},
		{"US: ITIN", "912-78-1234", "[NATIONAL_ID_1]"},
		{"US: never given out", "000-12-3456 666-12-3456 123-00-4567 123-45-0000 912-12-1234", NULL},
		{"US: nine digits of any kind", "123456789", NULL},
		{"US: part of more", "123-45-6789-1 1-123-45-6789", NULL},
		{"GB: NINO", "AB123456C, AB 12 34 56 C", "[NATIONAL_ID_1], [NATIONAL_ID_2]"},
		{"GB: prefixes that are none", "BG123456A QQ123456A AO123456A AB123456E ab123456c", NULL},
		{"DE: tax id", "86095742719, 86 095 742 719", "[NATIONAL_ID_1], [NATIONAL_ID_2]"},
		{"DE: wrong check digit", "86095742718", NULL},
		{"DE: no digit repeated", "12345678903", NULL},
		{"DE: pension insurance", "15 070649 C 103 and 15070649C103", "[NATIONAL_ID_1] and [NATIONAL_ID_2]"},
		{"DE: pension insurance, wrong", "15070649C104", NULL},
		{"FR: NIR", "255081416802538, 2 55 08 14 168 025 38", "[NATIONAL_ID_1], [NATIONAL_ID_2]"},
		{"FR: Corsica", "1 85 05 2A 006 084 36", NULL},
		{"FR: wrong key", "255081416802539", NULL},
		{"ES: DNI, NIE", "12345678Z, 12345678-Z, X1234567L, x-1234567-L", "[NATIONAL_ID_1], [NATIONAL_ID_2], [NATIONAL_ID_3], [NATIONAL_ID_4]"},
		{"ES: wrong letter", "12345678A X1234567A", NULL},
		{"ES: a word behind eight digits", "12345678 z", NULL},
		{"IT: codice fiscale", "RSSMRA85T10A562S rssmra85t10a562s", "[NATIONAL_ID_1] [NATIONAL_ID_2]"},
		{"IT: wrong letter", "RSSMRA85T10A562T", NULL},
		{"NL: BSN, named", "BSN 111222333 and BSN: 1112.22.333", "BSN [NATIONAL_ID_1] and BSN: [NATIONAL_ID_2]"},
		{"NL: nine digits of any kind", "111222333", NULL},
		{"BE", "85.07.30-033.28 and 85073003328", "[NATIONAL_ID_1] and [NATIONAL_ID_2]"},
		{"BE: wrong", "85.07.30-033.29", NULL},
		{"CH: AHV", "756.9217.0769.85", "[NATIONAL_ID_1]"},
		{"CH: an EAN of others", "757.9217.0769.85 4006381333931", NULL},
		{"SE", "811228-9874, 19811228-9874", "[NATIONAL_ID_1], [NATIONAL_ID_2]"},
		{"SE: wrong", "811228-9875, 812828-9874", NULL},
		{"FI", "131052-308T", "[NATIONAL_ID_1]"},
		{"FI: wrong", "131052-308U", NULL},
		{"PL: PESEL, named", "PESEL 44051401359", "PESEL [NATIONAL_ID_1]"},
		{"BR: CPF", "529.982.247-25", "[NATIONAL_ID_1]"},
		{"BR: wrong", "529.982.247-24", NULL},
		{"CN", "11010519491231002X and 110105194912310037", "[NATIONAL_ID_1] and 110105194912310037"},
		{"CA: SIN, named", "SIN 130 692 544", "SIN [NATIONAL_ID_1]"},
		{"CA: nine digits of any kind", "130 692 544", NULL},
	};

	RUN("national id", cases);
}

/* ---- as texts are written down ---- */

static void
test_escapes(void)
{
	static const Case cases[] = {
		{"a phone behind \\n", "\"Contact:\\n+49 170 1234567\"", "\"Contact:\\n[PHONE_1]\""},
		{"an IBAN behind \\t", "\"IBAN\\tDE89370400440532013000\"", "\"IBAN\\t[IBAN_1]\""},
		{"an IP address behind \\n, before \\n", "\"IP\\n192.168.1.17\\nx\"", "\"IP\\n[IP_1]\\nx\""},
		{"an e-mail behind \\n", "\"Contact:\\nmax@example.com\\n\"", "\"Contact:\\n[EMAIL_1]\\n\""},
		{"each of them", "\\nmax@x.de\\rmax@x.de\\tmax@x.de\\bmax@x.de\\fmax@x.de\\u000amax@x.de", "\\n[EMAIL_1]\\r[EMAIL_1]\\t[EMAIL_1]\\b[EMAIL_1]\\f[EMAIL_1]\\u000a[EMAIL_1]"},
		{"each before a card", "\\n4111111111111111\\r4111111111111111\\t4111111111111111\\b4111111111111111\\f4111111111111111\\u00204111111111111111",
		"\\n[CARD_1]\\r[CARD_1]\\t[CARD_1]\\b[CARD_1]\\f[CARD_1]\\u0020[CARD_1]"},
		{"ids", "\\n123-45-6789\\tAB123456C\\r\\nRSSMRA85T10A562S", "\\n[NATIONAL_ID_1]\\t[NATIONAL_ID_2]\\r\\n[NATIONAL_ID_3]"},
		{"IPv6", "\\nfe80::1\\t2001:db8::1\\n::1", "\\n[IP_1]\\t[IP_2]\\n[IP_3]"},
		{"a phone without +", "\\n030 1234567\\n(555) 123-4567\\nTel. 1234567\\n", "\\n[PHONE_1]\\n[PHONE_2]\\nTel. [PHONE_3]\\n"},
		{"JSON in JSON", "\"{\\\"c\\\":\\\"Contact:\\\\n+49 170 1234567\\\\nmax@x.de\\\"}\"", "\"{\\\"c\\\":\\\"Contact:\\\\n[PHONE_1]\\\\n[EMAIL_1]\\\"}\""},
		{"an at sign alone behind \\n", "\"\\n@example.com\"", NULL},
		{"\\u within", "\"m\\u00fcller\\u0040example.com, \\u002B49\\u00a0170\\u00a01234567\"", "\"[EMAIL_1], [PHONE_1]\""},
		{"\\u around", "\\u003cmax@x.de\\u003e \\ud83d\\ude00max@x.de\\ud83d", "\\u003c[EMAIL_1]\\u003e \\ud83d\\ude00[EMAIL_1]\\ud83d"},
		{"a slash", "\"030\\/1234567 http:\\/\\/10.1.2.3\\/\"", "\"[PHONE_1] http:\\/\\/[IP_1]\\/\""},
		{"Markdown", "max\\_m@x.de, \\+49 170 1234567, 10\\.1\\.2\\.3", "[EMAIL_1], [PHONE_1], [IP_1]"},
		{"entities", "max&#64;x.de &lt;max&commat;x.de&gt; &#109;&#97;&#x78;&#64;x.de Tel&nbsp;030&nbsp;1234567 &#43;49&#160;30&#160;1234567",
		"[EMAIL_1] &lt;[EMAIL_2]&gt; [EMAIL_3] Tel&nbsp;[PHONE_1] [PHONE_2]"},
		{"entities twice", "max&amp;#64;x.de", "[EMAIL_1]"},
		{"a query string", "?email=max%40example.com&tel=%2B49%20170%201234567&x=1", "?email=[EMAIL_1]&tel=[PHONE_1]&x=1"},
		{"a form", "to=m%C3%BCller%40example.com&tel=%2B49+170+1234567&n=%28555%29+123-4567", "to=[EMAIL_1]&tel=[PHONE_1]&n=[PHONE_2]"},
		{"blanks of a form", "?a=b&card=4111+1111+1111+1111&iban=DE89+3704+0044+0532+0130+00&tel=+49+30+1234567&to=a+b@x.de",
		"?a=b&card=[CARD_1]&iban=[IBAN_1]&tel=[PHONE_1]&to=[EMAIL_1]"},
		{"bytes", "'m\\xc3\\xbcller@x.de\\x0a10.1.2.3' 'm\\xfcller@x.de' Tel\\xc2\\xa0030 1234567", "'[EMAIL_1]\\x0a[IP_1]' '[EMAIL_2]' Tel\\xc2\\xa0[PHONE_1]"},
		{"percent signs twice", "u=http%3A%2F%2Fx%2F%3Fm%3Dmax%2540example.com%26", "u=http%3A%2F%2Fx%2F%3Fm%3D[EMAIL_1]%26"},
		{"a blank before an address", "?body=Mail%20max@example.com", "?body=Mail%20[EMAIL_1]"},
		{"a percent sign that is none", "100%4111111111111111 and 100%4012888888881881", "100%[CARD_1] and 100%[CARD_2]"},
		{"quoted-printable", "From: max=40example.com=\n x=3D1\n+49 170=20123456=\r\n7 m=C3=BCller@x.de",
		"From: [EMAIL_1]=\n x=3D1\n[PHONE_1] [EMAIL_2]"},
		{"no quoted-printable", "id=4012888888881881 uid=20max@x.de", "id=[CARD_1] uid=[EMAIL_1]"},
		{"wide characters", "\xEF\xBC\x90\xEF\xBC\x93\xEF\xBC\x8D\xEF\xBC\x91\xEF\xBC\x92\xEF\xBC\x93\xEF\xBC\x94\xEF\xBC\x8D\xEF\xBC\x95\xEF\xBC\x96\xEF\xBC\x97\xEF\xBC\x98 max\xEF\xBC\xA0x.de",
		"[PHONE_1] [EMAIL_1]"},
		{"what cannot be seen", "\xE2\x80\xAA+49 170\xE2\x80\x8B" "1234567\xE2\x80\xAC max\xC2\xAD" "@x.de x\xE2\x80\x8B" "10.1.2.3",
		"\xE2\x80\xAA[PHONE_1]\xE2\x80\xAC [EMAIL_1] x\xE2\x80\x8B[IP_1]"},
		{"Arabic digits", "\xD9\xA0\xD9\xA3\xD9\xA0 \xD9\xA1\xD9\xA2\xD9\xA3\xD9\xA4\xD9\xA5\xD9\xA6\xD9\xA7", "[PHONE_1]"},
		{"letters of HTML", "m&uuml;ller@x.de stra&szlig;e@x.de", "[EMAIL_1] [EMAIL_2]"},
		{"JSON comes back as JSON", "{\"m\":\"m\\u00fcller@x.de\",\"p\":\"030\\/1234567\"}", "{\"m\":\"[EMAIL_1]\",\"p\":\"[PHONE_1]\"}"},
		{"nothing", "\\n \\t \\u \\u12 \\x & &; &#; &#x; %  %zz %4 = =3D =\n \\", NULL},
	};

	RUN("escape", cases);
}

static void
test_logins(void)
{
	static const Case cases[] = {
		{"user and password", "https://u:secret@host.example/x", "https://[LOGIN_1]@host.example/x"},
		{"no dot in the host", "postgres://max:geheim@localhost/db", "postgres://[LOGIN_1]@localhost/db"},
		{"an address", "redis://:secret@10.1.2.3:6379", "redis://[LOGIN_1]@[IP_1]:6379"},
		{"signs", "ftp://max:p%2Fs$@host.de, ftp://max:p@s$@host.de", "ftp://[LOGIN_1], ftp://[LOGIN_2]@host.de"},
		{"an e-mail address as user", "https://max%40x.de:pw@host/", "https://[LOGIN_1]@host/"},
		{"in JSON", "{\"u\":\"http:\\/\\/u:pw@h\\/\"}", "{\"u\":\"http:\\/\\/[LOGIN_1]@h\\/\"}"},
		{"no password", "ssh://max@x.de/", "ssh://[EMAIL_1]/"},
		{"none", "http://x:80/@y http://x:80?q=a@b http://x.de:80 @x", NULL},
	};

	RUN("login", cases);
}

static void
test_side_by_side(void)
{
	static const Case cases[] = {
		{"a bracket", "+491701234567 (555) 123-4567", "[PHONE_1] [PHONE_2]"},
		{"named and a bracket", "Tel. 1234567 (555) 123-4567", "Tel. [PHONE_1] [PHONE_2]"},
		{"a slash", "+49 170 1234567 / 030 7654321", "[PHONE_1] / [PHONE_2]"},
		{"blanks", "+49 170 1234567 030 7654321, 030 123456 040 654321", "[PHONE_1] [PHONE_2], [PHONE_3] [PHONE_4]"},
		{"pairs", "+33 6 12 34 05 06 01 23 45 67 89", "[PHONE_1] [PHONE_2]"},
		{"a card", "+49 30 1234567 4111 1111 1111 1111", "[PHONE_1] [CARD_1]"},
		{"a date", "+49 30 1234567 2024-01-02", "[PHONE_1] 2024-01-02"},
		{"the end of a bracket", "+49 30 1234567 (030) 12", "[PHONE_1] (030) 12"},
		{"one name for both", "Tel. 1234567 / 7654321 abc", "Tel. [PHONE_1] abc"},
		{"all in brackets", "(555) 123-4567 (555) 987-6543", "[PHONE_1] [PHONE_2]"},
	};

	RUN("side by side", cases);
}

/* ---- placeholders ---- */

static void
test_placeholders(void)
{
	static const Case cases[] = {
		{"one that the text mentions", "[EMAIL_1] is a@b.de", "[EMAIL_1] is [EMAIL_2]"},
		{"in any form", "email_1, \\[Email\\_3\\] and [email 2] are not a@b.de c@d.de", "email_1, \\[Email\\_3\\] and [email 2] are not [EMAIL_4] [EMAIL_5]"},
		{"mentioned behind the value", "a@b.de is not [EMAIL_1]", "[EMAIL_2] is not [EMAIL_1]"},
		{"gaps are used", "[EMAIL_2] a@b.de c@d.de", "[EMAIL_2] [EMAIL_1] [EMAIL_3]"},
		{"another label's number is free", "[PHONE_1] a@b.de", "[PHONE_1] [EMAIL_1]"},
		{"words that only look like it", "email 1, MY_EMAIL_1, EMAIL_1x, EMAIL_01: a@b.de", "email 1, MY_EMAIL_1, EMAIL_1x, EMAIL_01: [EMAIL_1]"},
		{"a large number", "[EMAIL_999999999] a@b.de", "[EMAIL_999999999] [EMAIL_1]"},
		{"all kinds", "a@b.de +49 30 1234567 4111111111111111 DE89370400440532013000 10.0.0.1 123-45-6789",
		"[EMAIL_1] [PHONE_1] [CARD_1] [IBAN_1] [IP_1] [NATIONAL_ID_1]"},
		{"empty", "", NULL},
		{"nothing", "The quick brown fox.", NULL},
		{"bytes that are no UTF-8", "\xFF\xC3 a@b.de \xE2\x82", "\xFF\xC3 [EMAIL_1] \xE2\x82"},
	};

	RUN("placeholder", cases);
}

static void
test_texts_of_one_request(void)
{
	LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
	const char *system = "You are a@b.de. See PHONE_1.";
	const char *prompt = "From c@d.de to a@b.de, +49 30 1234567";

	llmb_pii_note(pii, system, strlen(system));
	llmb_pii_note(pii, prompt, strlen(prompt));
	is_text(llmb_pii_mask(pii, system, strlen(system)), "You are [EMAIL_1]. See PHONE_1.", "the first text of a request");
	is_text(llmb_pii_mask(pii, prompt, strlen(prompt)), "From [EMAIL_2] to [EMAIL_1], [PHONE_2]", "the second has the same placeholders");
	is_int(llmb_pii_map(pii)->count, 3, "three values");
	is_text(llmb_pii_restore(llmb_pii_map(pii), pstrdup("PHONE_1 is not PHONE_2"), false), "PHONE_1 is not +49 30 1234567",
			"what the texts mentioned stays");
}

/* A finder as of a user's patterns: names, numbers, and a part of an address. */
static void
find_names(const char *text, int len, LlmbPiiSpans *spans, void *arg)
{
	static const struct
	{
		const char *what;
		const char *label;
	}			known[] = {{"Miller", "NAME"}, {"E-77", "EMPLOYEE"}, {"ann miller@", "NAME"}, {"\"q\\\"", "CODE"}, {"b.de Miller", "NAME"}};

	(void) arg;
	(void) len;
	for (int i = 0; i < (int) lengthof(known); i++)
	{
		const char *at = text;

		while ((at = strstr(at, known[i].what)) != NULL)
		{
			llmb_pii_add_span(spans, at - text, at - text + strlen(known[i].what), known[i].label);
			at++;
		}
	}
}

static const char *const name_labels[] = {"NAME", "EMPLOYEE", "NAME", "CODE", "NAME"};

static LlmbPii *
with_names(const char *text, char **out)
{
	LlmbPii    *pii = llmb_pii_begin(find_names, NULL, name_labels, lengthof(name_labels));

	llmb_pii_note(pii, text, strlen(text));
	*out = llmb_pii_mask(pii, text, strlen(text));
	return pii;
}

static void
test_finder(void)
{
	char	   *out;
	LlmbPii    *pii;

	(void) with_names("Miller, a@b.de, E-77, Miller; NAME_1", &out);
	is_text(out, "[NAME_2], [EMAIL_1], [EMPLOYEE_1], [NAME_2]; NAME_1", "a finder's labels are as good as ours");
	pii = with_names("x ann miller@b.de y", &out);
	is_text(out, "x [NAME_1] y", "what overlaps is masked as a whole, by its longest part");
	is_text(llmb_pii_map(pii)->originals[0], "ann miller@b.de", "and is one value");
	(void) with_names("a@b.de Miller", &out);
	is_text(out, "[NAME_1]", "also at its other end");
	pii = with_names("EMAIL_1Miller c@d.de MillerEMAIL_1 xE-77 E-778", &out);
	is_text(out, "[NAME_1] [EMAIL_1] [NAME_2] [EMPLOYEE_1] [EMPLOYEE_2]", "what is part of a word is masked with it");
	is_text(llmb_pii_restore(llmb_pii_map(pii), out, false), "EMAIL_1Miller c@d.de MillerEMAIL_1 xE-77 E-778", "and comes back with it");
	(void) with_names("\xC3\xBC" "berMiller Millerf\xC3\xBC" "chse, 2\xC3\x97Miller\xE2\x80\x94\xD0\x96Miller\xE1\xBA\xA1 Millere\xCC\x81, \xE4\xBE\x8BMiller\xE4\xBE\x8B", &out);
	is_text(out, "[NAME_1] [NAME_2], 2\xC3\x97[NAME_3]\xE2\x80\x94[NAME_4] [NAME_5], \xE4\xBE\x8B[NAME_3]\xE4\xBE\x8B",
			"also where letters are not ASCII");
}

/* ---- the same again ---- */

static void
test_again(void)
{
	const char *system = "At 10.0.0.1:";
	const char *prompt = "a@b.de, Miller and a@b.de again";
	const char *empty = "";
	LlmbPii    *pii = llmb_pii_begin(find_names, NULL, name_labels, lengthof(name_labels));
	LlmbPii    *again;
	const LlmbPiiMap *map;
	LlmbPiiMap	broken;
	char	   *first[2];

	llmb_pii_note(pii, system, strlen(system));
	llmb_pii_note(pii, prompt, strlen(prompt));
	first[0] = llmb_pii_mask(pii, system, strlen(system));
	(void) llmb_pii_mask(pii, empty, 0);
	first[1] = llmb_pii_mask(pii, prompt, strlen(prompt));
	map = llmb_pii_map(pii);
	is_int(map->place_count, 4, "places");

	again = llmb_pii_again(map);
	llmb_pii_note(again, system, strlen(system));
	is_text(llmb_pii_mask(again, system, strlen(system)), first[0], "the same text again");
	(void) llmb_pii_mask(again, empty, 0);
	is_text(llmb_pii_mask(again, prompt, strlen(prompt)), first[1], "and the other, without its finder");
	ok(llmb_pii_was_same(again), "it was the same");

	again = llmb_pii_again(map);
	(void) llmb_pii_mask(again, system, strlen(system));
	ok(!llmb_pii_was_same(again), "a text is missing: not the same");
	again = llmb_pii_again(map);
	(void) llmb_pii_mask(again, system, strlen(system));
	(void) llmb_pii_mask(again, "a@b.dx, Miller and a@b.de again", strlen(prompt));
	ok(!llmb_pii_was_same(again), "a letter differs: not the same");
	again = llmb_pii_again(map);
	(void) llmb_pii_mask(again, "At 10.0", 7);
	(void) llmb_pii_mask(again, prompt, strlen(prompt));
	ok(!llmb_pii_was_same(again), "a text is shorter: not the same");

	broken = *map;
	broken.places = palloc(sizeof(int) * LLMB_PII_PLACE * map->place_count);
	for (int i = 0; i < map->place_count * LLMB_PII_PLACE; i++)
	{
		static const int values[] = {-1, 0, 1000000, PG_INT32_MAX};

		for (int v = 0; v < (int) lengthof(values); v++)
		{
			memcpy(broken.places, map->places, sizeof(int) * LLMB_PII_PLACE * map->place_count);
			broken.places[i] = values[v];
			if (broken.places[i] == map->places[i])
				continue;
			again = llmb_pii_again(&broken);
			(void) llmb_pii_mask(again, system, strlen(system));
			(void) llmb_pii_mask(again, prompt, strlen(prompt));
			if (llmb_pii_was_same(again))
				ok(false, "number %d of a map is %d: not the same", i, values[v]);
		}
	}
	ok(true, "maps that are broken are noticed");
}

/* ---- messages ---- */

static void
test_messages(void)
{
	LlmbJson   *tree = parse("[{\"role\":\"user\",\"content\":\"I am a@b.de\\n\\\"x\\\"\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
							 "\"text\":\"caf\\u00e9 c@d.de\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,4111111111111111\"}}],"
							 "\"a@b.de\":4111111111111111,\"n\":[1.5,true,null,\"a@b.de\"]}]");
	LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
	StringInfoData out;

	llmb_pii_note_json(pii, tree);
	llmb_pii_mask_json(pii, tree);
	initStringInfo(&out);
	llmb_json_put_node(&out, tree);
	is_text(out.data, "[{\"role\":\"user\",\"content\":\"I am [EMAIL_1]\\n\\\"x\\\"\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
			"\"text\":\"caf\xC3\xA9 [EMAIL_2]\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,4111111111111111\"}}],"
			"\"a@b.de\":\"[CARD_1]\",\"n\":[1.5,true,null,\"[EMAIL_1]\"]}]", "strings and numbers of messages, and nothing else");
}

static char *repeated(const char *part, int bytes);

/* A string under that name, as it leaves. */
static const char *
left_as(const char *name, const char *text)
{
	LlmbJson	string = {.type = LLMB_JSON_STRING, .name = pstrdup(name), .text = pstrdup(text)};
	LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);

	llmb_pii_note_json(pii, &string);
	llmb_pii_mask_json(pii, &string);
	return string.text;
}

/* Files go as they are, and texts that look a little like them do not. */
static void
test_files(void)
{
	static const char *const files[][2] = {
		{"url", "data:image/png;base64,4111111111111111"},
		{"image_url", "DATA:Image/SVG+xml;charset=utf-8;base64,AAAA/4111111111111111/AAAA\r\nAAA=\r\n"},
		{"file_data", "data:application/vnd.ms-excel.sheet-2;base64,+4930123456789/=="},
		{"data", "data:;base64,4111111111111111"},
	};
	static const char *const texts[][2] = {
		{"text", "Data: a@b.de"},
		{"content", "data:a@b.de"},
		{"url", "data:text/plain,4111111111111111"},
		{"url", "data:text/plain;base64,4111 1111 1111 1111"},
		{"url", "data:text/plain;base64,\n4111111111111111\nand others"},
		{"url", "data:text/plain;4111111111111111;base64,AAAA"},
		{"url", "data:text/plain;name=a@b.de;base64,AAAA"},
	};
	const char *alone = repeated("AbC/4111111111111111/x", 600);
	const char *lines = repeated("AbC/4111111111111111/xAbC/4111111111111111/xAbC/4111111111111111/xAbC/4111111\r\n", 600);
	const char *ibans = repeated("Iban-DE89370400440532013000\n", 600);
	const char *cards = repeated("Cards:4111111111111111,", 600);
	const char *even = repeated("Iban-DE89370400440532013000-Iban_DE89370400440532013000-Iban-Ab_/\n", 600);
	const char *uneven = repeated("Abc/4111111111111111/4111111111111111/4111111111111111/4111111111111111\nDE89370400440532013000\n", 600);

	for (int i = 0; i < (int) lengthof(files); i++)
		is_text(left_as(files[i][0], files[i][1]), files[i][1], psprintf("a file stays: %d", i));
	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		const char *left = left_as(texts[i][0], texts[i][1]);

		ok(strstr(left, "a@b.de") == NULL && strstr(left, "1111 1111") == NULL && strstr(left, "11111111") == NULL, "no file: %d", i);
	}
	is_text(left_as("data", alone), alone, "base64 stays");
	is_text(left_as("data", lines), lines, "in lines, too");
	ok(strstr(left_as("text", alone), "4111") == NULL, "but not as a text");
	ok(strstr(left_as("text", lines), "4111111111111111") == NULL, "nor its lines");
	ok(strstr(left_as("data", ibans), "DE89") == NULL, "a list is none");
	ok(strstr(left_as("text", ibans), "DE89") == NULL, "as a text neither");
	ok(strstr(left_as("data", cards), "4111") == NULL, "nor are words with other signs");
	ok(strstr(left_as("data", even), "DE89") == NULL, "nor even lines with signs that lines do not have");
	ok(strstr(left_as("data", uneven), "DE89") == NULL, "nor uneven lines");
	ok(strstr(left_as("data", "DE89370400440532013000"), "DE89") == NULL, "nor what is short");
}

/* ---- answers ---- */

static void
test_restore(void)
{
	static const struct
	{
		const char *what;
		const char *answer;
		const char *expected;
	}			cases[] = {
		{"as it was", "Mail [EMAIL_1].", "Mail a@b.de."},
		{"no brackets", "Mail EMAIL_1.", "Mail a@b.de."},
		{"small letters", "[email_1] Email_1 [Email_1]", "a@b.de a@b.de a@b.de"},
		{"other brackets", "<EMAIL_1> (EMAIL_1) {EMAIL_1}", "<a@b.de> (a@b.de) {a@b.de}"},
		{"wide brackets", "\xE3\x80\x90" "EMAIL_1\xE3\x80\x91", "\xE3\x80\x90" "a@b.de\xE3\x80\x91"},
		{"blanks within", "[ EMAIL_1 ]", "a@b.de"},
		{"another sign", "[EMAIL 1] [EMAIL-1]", "a@b.de a@b.de"},
		{"Markdown", "[EMAIL\\_1] \\[EMAIL\\_1\\] **EMAIL_1** `EMAIL_1`", "a@b.de a@b.de **a@b.de** `a@b.de`"},
		{"a link", "[[EMAIL_1]](mailto:[EMAIL_1])", "[a@b.de](mailto:a@b.de)"},
		{"possessive", "[NAME_1]'s and NAME_1s", "Miller's and NAME_1s"},
		{"at the ends", "EMAIL_1", "a@b.de"},
		{"one bracket", "[EMAIL_1 is", "[a@b.de is"},
		{"words", "my email 1 and e-mail 1, email-1", "my email 1 and e-mail 1, email-1"},
		{"not ours", "[EMAIL_2] [PHONE_1] [EMAIL_10] EMAIL_01 XEMAIL_1 MY_EMAIL_1 [EMAIL_]", "[EMAIL_2] [PHONE_1] [EMAIL_10] EMAIL_01 XEMAIL_1 MY_EMAIL_1 [EMAIL_]"},
		{"nothing", "plain", "plain"},
		{"empty", "", ""},
		{"two that touch", "[EMAIL_1][NAME_1]", "a@b.deMiller"},
		{"a quote in text", "code [CODE_1]", "code \"q\\\""},
		{"a quote in JSON", "{\"x\": \"[CODE_1]\"}", "{\"x\": \"\\\"q\\\\\\\"\"}"},
		{"a quote in JSON, with blanks", " [\"a\", \"CODE_1 b\"]\n", " [\"a\", \"\\\"q\\\\\\\" b\"]\n"},
		{"JSON in a string of JSON", "{\"x\": \"{\\\"y\\\": \\\"[CODE_1]\\\"}\"}", "{\"x\": \"{\\\"y\\\": \\\"\\\\\\\"q\\\\\\\\\\\\\\\"\\\"}\"}"},
		{"no JSON at all", "{[CODE_1]}", "{\"q\\\"}"},
		{"a placeholder before JSON", "[CODE_1] {\"x\": 1}", "\"q\\\" {\"x\": 1}"},
	};
	char	   *out;
	const LlmbPiiMap *map = llmb_pii_map(with_names("a@b.de, Miller: \"q\\\"", &out));

	is_text(out, "[EMAIL_1], [NAME_1]: [CODE_1]", "what was sent");
	for (int i = 0; i < (int) lengthof(cases); i++)
		is_text(llmb_pii_restore(map, pstrdup(cases[i].answer), false), cases[i].expected, psprintf("restored: %s", cases[i].what));
	out = llmb_pii_restore(map, pstrdup("Here: {\"x\": \"[CODE_1]\"}"), true);
	is_text(out, "Here: {\"x\": \"\\\"q\\\\\\\"\"}", "restored: JSON with words around it");
	is_text(llmb_pii_hide(map, pstrdup("invalid input \"a@b.de\", Miller")), "invalid input \"[EMAIL_1]\", [NAME_1]", "an error says nothing");
}

/* A placeholder of ten bytes may stand for much more. */
static void
test_restored_size(void)
{
	char	   *text = psprintf("%s@b.de", repeated("a", 60));
	char	   *answer = repeated("[EMAIL_1] ", LLMB_PII_MAX_RESTORED / 70 * 10);
	LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
	char	   *out;

	is_text(llmb_pii_mask(pii, text, strlen(text)), "[EMAIL_1]", "a long value");
	ok(llmb_pii_restore(llmb_pii_map(pii), answer, false) != NULL, "an answer that repeats it");
	out = psprintf("%s%s", answer, answer);
	ok(llmb_pii_restore(llmb_pii_map(pii), out, false) == NULL, "but not without end");
}

/* ---- time ---- */

static double
seconds(void)
{
	struct timespec now;

	/* of this process alone: the machine has others */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static char *
repeated(const char *part, int bytes)
{
	StringInfoData text;

	initStringInfo(&text);
	while (text.len < bytes)
		appendStringInfoString(&text, part);
	return text.data;
}

/* Masked and restored; the best of three. */
static double
time_of(const char *part, int bytes)
{
	double		best = 1e9;
	char	   *text = repeated(part, bytes);

	for (int i = 0; i < 3; i++)
	{
		double		begin = seconds();
		LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
		char	   *out;

		llmb_pii_note(pii, text, strlen(text));
		out = llmb_pii_mask(pii, text, strlen(text));
		(void) llmb_pii_restore(llmb_pii_map(pii), out, false);
		best = Min(best, seconds() - begin);
	}
	pfree(text);
	return best;
}

/*
 * Ten times the text may take twenty times as long, where a square would take
 * a hundred: what the machine does beside it makes up for less.
 */
static void
test_linear(void)
{
	static const char *const parts[] = {"1", "1 ", "12.", "a@", "@", "a.", ":", "1:", "::1", "+49 ", "0", "(0", "-", "A1", "DE89 ", "[EMAIL_1] ",
		"EMAIL_", "email_1[", "1.2.3.4.", "x@y.z", "\\", "[", " 1 ]", "555-123-4567 ", "\\n", "\\u00", "%25", "%40", "&", "&amp;", "&#", "=\n", "=4", "://a:", "://", "+49 1 (", "012 ", "\xE2\x80\x8B", "\xC3\xA4", "\xE7\x94\xA8", "tel 1", "4111 "};

	for (int i = 0; i < (int) lengthof(parts); i++)
	{
		double		once = time_of(parts[i], 100000);
		double		tenfold = time_of(parts[i], 1000000);

		ok(tenfold < 20 * once + 0.05, "linear: %s", parts[i][0] == '[' ? "a bracket" : parts[i]);
		if (tenfold >= 20 * once + 0.05)
			printf("# %.4f s for 100 kB, %.4f s for 1 MB\n", once, tenfold);
	}
}

/* Values that all differ: the tables grow, and nothing is compared with all. */
static void
test_many(void)
{
	StringInfoData text;
	LlmbPii    *pii = llmb_pii_begin(NULL, NULL, NULL, 0);
	char	   *out;
	double		begin;

	initStringInfo(&text);
	for (int i = 0; i < 100000; i++)
		appendStringInfo(&text, "u%d@example.com [EMAIL_%d] ", i, 2 * i + 1);
	begin = seconds();
	llmb_pii_note(pii, text.data, text.len);
	out = llmb_pii_mask(pii, text.data, text.len);
	is_int(llmb_pii_map(pii)->count, 100000, "100,000 values");
	is_text(llmb_pii_map(pii)->placeholders[99999], "[EMAIL_200000]", "whose numbers the text does not mention");
	ok(strcmp(llmb_pii_restore(llmb_pii_map(pii), out, false), text.data) == 0, "all come back");
	ok(seconds() - begin < 5, "in time");
}

/* What it costs, for "unit measure". */
void
measure_pii(void)
{
	static const struct
	{
		const char *name;
		const char *part;
	}			kinds[] = {
		{"prose", "The quick brown fox jumps over the lazy dog, and nobody in 1987 knew why. "},
		{"UTF-8 prose", "Falsches \xC3\x9C" "ben von Xylophonmusik qu\xC3\xA4lt jeden gr\xC3\xB6\xC3\x9F" "eren Zwerg. "},
		{"a table of numbers", "1234 56.78 9,012.34 2026-11-21 10:30:45 -5 "},
		{"one value in 200 bytes", "Dear team, please call the customer back as soon as you can, he has been waiting for a week and "
			"says that nobody has answered his letters; write to john.doe@example.com if he is not there. "},
		{"values all over", "john.doe@example.com +49 30 1234567 DE89370400440532013000 4111111111111111 192.168.1.7 "},
	};

	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		double		time = time_of(kinds[i].part, 4000000);

		printf("masking %s: %.2f us per kB, %.0f MB/s\n", kinds[i].name, time / 4000 * 1e6, 4 / time);
	}
}

void
test_pii(void)
{
	test_email();
	test_ip();
	test_card();
	test_iban();
	test_phone();
	test_ids();
	test_escapes();
	test_logins();
	test_side_by_side();
	test_placeholders();
	test_texts_of_one_request();
	test_finder();
	test_again();
	test_messages();
	test_files();
	test_restore();
	test_restored_size();
	test_linear();
	test_many();
}
