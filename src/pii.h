/*-------------------------------------------------------------------------
 *
 * pii.h
 *		Personal data in texts: found, replaced by placeholders, put back.
 *
 * A request's texts are masked together: the same value has the same
 * placeholder in all of them, "[EMAIL_1]", numbered in the order in which
 * values are met.  A number that the texts themselves mention ("see EMAIL_1")
 * is passed over, so that whatever looks like a placeholder in the answer is
 * either ours or was not masked.
 *
 * What was replaced is a map: placeholders and originals, and the places, so
 * that the same texts are masked the same way again whatever would be found
 * in them then.
 *
 * Pure: palloc and StringInfo only.  All text is UTF-8; offsets and lengths
 * are bytes.  Nothing raises an error other than out-of-memory.  The time
 * taken is linear in the text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PII_H
#define LLMB_PII_H

#include "common.h"
#include "json.h"

/* Longest label of a placeholder: capitals, digits and '_', a letter first. */
#define LLMB_PII_MAX_LABEL 32

/* ---- finding (pii_scan.c) ---- */

/* text[begin, end) is of that kind. */
typedef struct LlmbPiiSpan
{
	int			begin;
	int			end;
	const char *label;			/* lives as long as whoever finds */
	bool		in_word;		/* set by pii.c: it may begin or end in the middle of a word */
} LlmbPiiSpan;

typedef struct LlmbPiiSpans
{
	LlmbPiiSpan *span;
	int			count;
	int			space;
} LlmbPiiSpans;

/* Appends a span; an empty one is passed over. */
extern void llmb_pii_add_span(LlmbPiiSpans *spans, int begin, int end, const char *label);

/*
 * Appends what is known to be personal by its form: e-mail and IP addresses,
 * phone numbers, payment cards, IBANs, national ids, user and password of a
 * URL; also where they are written with escapes of JSON, HTML, URLs or mails.
 * In the order of the text, none overlapping another.
 */
extern void llmb_pii_scan(const char *text, int len, LlmbPiiSpans *spans);

/* Labels that llmb_pii_scan() gives, ended by NULL. */
extern const char *const llmb_pii_labels[];

/* ---- as a reader sees it (pii_plain.c) ---- */

/* A text without its escapes and entities, and where each of its characters came from. */
typedef struct LlmbPiiPlain LlmbPiiPlain;

/* NULL: the text has none. */
extern LlmbPiiPlain *llmb_pii_plain(const char *text, int len);
extern const char *llmb_pii_plain_text(const LlmbPiiPlain *plain, int *len);
/* From a place of the plain text to that of the text itself; whole escapes. */
extern void llmb_pii_from_plain(const LlmbPiiPlain *plain, LlmbPiiSpan *span);
/* Whether a place of the text itself is behind the first and before the last byte's end of an escape. */
extern bool llmb_pii_within_escape(const LlmbPiiPlain *plain, int place);
extern void llmb_pii_plain_free(LlmbPiiPlain *plain);

/* ---- national ids by their check digits (pii_ids.c) ---- */

/*
 * Recognises digits and capital letters, id[0..len), without the separators
 * between them; shape tells how they were grouped ("3-2-4", "11").  keyword
 * says whether a word before them names that country's id; in some forms it
 * is not one without it.
 */
extern bool llmb_pii_is_digits_id(const char *id, int len, const char *shape,
								  bool (*keyword) (const char *words, void *arg), void *arg);
/* The same for ids with letters in them and a check digit, which need no shape. */
extern bool llmb_pii_is_mixed_id(const char *id, int len);
/* The United Kingdom's, which has none: by its letters alone. */
extern bool llmb_pii_is_nino(const char *id, int len);
/* Whether these digits, without separators, can be the number of a payment card. */
extern bool llmb_pii_is_card(const char *digits, int len);
/* How many characters an IBAN of that country (two capitals) has; 0: there is none. */
extern int	llmb_pii_iban_length(const char *country);
/* Whether these digits and capitals, without separators, are an IBAN: country, length, checksum. */
extern bool llmb_pii_is_iban(const char *iban, int len);

/* ---- masking and restoring (pii.c) ---- */

typedef struct LlmbPiiMap
{
	int			count;
	char	  **placeholders;	/* "[EMAIL_1]" */
	char	  **originals;
	int			place_count;
	int		   *places;			/* of each: bytes since the last, its length, index of its value */
} LlmbPiiMap;

#define LLMB_PII_PLACE 3		/* numbers of one place */

/*
 * What else is to be masked: appends spans in any order, also overlapping.
 * They are widened to whole words: the rest of one would be a placeholder's
 * look-alike ("EMAIL_1Miller"), or tell what the whole was.
 */
typedef void (*LlmbPiiFinder) (const char *text, int len, LlmbPiiSpans *spans, void *arg);

/* The masking of one request.  Lives in the context that is current at its begin. */
typedef struct LlmbPii LlmbPii;

/* finder: NULL, or looks for more, under these labels. */
extern LlmbPii *llmb_pii_begin(LlmbPiiFinder finder, void *arg, const char *const *labels, int label_count);
/* As it was done before; text must come in the same order and be the same. */
extern LlmbPii *llmb_pii_again(const LlmbPiiMap *map);
/* False: it was not the same, and what llmb_pii_mask() gave is of no use. */
extern bool llmb_pii_was_same(const LlmbPii *pii);

/*
 * Takes note of what looks like a placeholder in a text that goes with the
 * request.  All texts, masked ones or not, before the first is masked.
 */
extern void llmb_pii_note(LlmbPii *pii, const char *text, int len);
extern void llmb_pii_note_json(LlmbPii *pii, const LlmbJson *node);

/* The text as it may leave; palloc'd. */
extern char *llmb_pii_mask(LlmbPii *pii, const char *text, int len);
/*
 * The same in the strings of a JSON tree, in place; a number that is masked
 * becomes a string.  Names of members, roles, types, data: URLs in base64, and
 * base64 in members that hold files stay.
 */
extern void llmb_pii_mask_json(LlmbPii *pii, LlmbJson *node);

/* What was replaced; valid while pii is. */
extern const LlmbPiiMap *llmb_pii_map(const LlmbPii *pii);

/*
 * Bytes that an answer may have with the originals in it, the longest line of
 * a result file: ten bytes of a placeholder may stand for megabytes, and an
 * answer may repeat it as often as it likes.
 */
#define LLMB_PII_MAX_RESTORED (16 * 1024 * 1024)

/*
 * An answer with the originals in it again; palloc'd, or the answer itself
 * where there is nothing to restore, or NULL when it would be longer than
 * LLMB_PII_MAX_RESTORED.  Also found without their brackets, in
 * another case, and with the backslashes of Markdown.  json: the answer is
 * known to be JSON text, so that originals are escaped as in a JSON string;
 * an answer that is JSON by itself is noticed.
 */
extern char *llmb_pii_restore(const LlmbPiiMap *map, char *answer, bool json);

/* A text with each original replaced by its placeholder; palloc'd, or itself. */
extern char *llmb_pii_hide(const LlmbPiiMap *map, char *text);

#endif							/* LLMB_PII_H */
