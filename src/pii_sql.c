/*-------------------------------------------------------------------------
 *
 * pii_sql.c
 *		Personal data and the database: users' patterns, the maps that are
 *		kept, and a prompt as it may leave.
 *
 * A prompt is masked when its request is written, not before: what is stored
 * is what the row says, and the stale check goes by it.  What was replaced is
 * kept in llm_batch.pii_map in the transaction that plans the batch; a request
 * that is written again is masked by that map, whatever the patterns are then.
 * An item in which nothing was found has a row, too: that it left as it is was
 * decided with it.
 *
 * Patterns are PostgreSQL's own regular expressions.  Back references, which
 * make matching take time beyond all bounds, are refused when a pattern is
 * stored: matching runs in the worker that all jobs share.  Others may still
 * take the square of a text's length ('project(.*code)?'): a prompt on which
 * they take too long is not sent.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "bulk.h"
#include "pii_sql.h"
#include "request.h"

PG_FUNCTION_INFO_V1(llmb_redact);
PG_FUNCTION_INFO_V1(llmb_check_pattern);

typedef struct Pattern
{
	char	   *label;
	regex_t		regex;
	MemoryContextCallback on_reset; /* before version 16 regex memory is malloc'd */
} Pattern;

struct LlmbMasking
{
	MemoryContext context;		/* of the masking */
	MemoryContext per_prompt;
	const LlmbJobDef *def;		/* NULL: redact() */
	Pattern   **patterns;
	char	  **labels;
	int			pattern_count;
	LlmbBulk   *bulk;			/* of llm_batch.pii_map; NULL before the first row */
	LlmbPii    *pii;			/* of the last prompt */
	bool		was_kept;		/* its map came with it, and stays */
	bool		replaces;		/* its map came with it, and was of another text */
	LlmbPrompt	masked;
};

/* ---- patterns ---- */

static void
free_regex(void *arg)
{
	pg_regfree(arg);
}

static void
regex_error(int code, const regex_t *regex)
{
	char		words[100];

	/* what stops a statement stops its matching, too */
	CHECK_FOR_INTERRUPTS();
	pg_regerror(code, regex, words, sizeof(words));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
			 errmsg("invalid regular expression: %s", words)));
}

/* Compiles it; regex memory goes with the current context. */
static Pattern *
compile_pattern(const char *label, const char *text)
{
	Pattern    *pattern = palloc0(sizeof(Pattern));
	int			len = strlen(text);
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (len + 1));
	int			result;

	pattern->label = pstrdup(label);
	len = pg_mb2wchar_with_len(text, wide, len);
	result = pg_regcomp(&pattern->regex, wide, len, REG_ADVANCED, DEFAULT_COLLATION_OID);
	if (result != REG_OKAY)
		regex_error(result, &pattern->regex);
	pattern->on_reset.func = free_regex;
	pattern->on_reset.arg = &pattern->regex;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &pattern->on_reset);
	pfree(wide);
	return pattern;
}

static void
read_patterns(LlmbMasking *masking)
{
	LlmbRows   *rows = llmb_sql("SELECT label, pattern FROM llm_batch.pii_pattern WHERE enabled ORDER BY name", "");

	masking->pattern_count = llmb_row_count(rows);
	masking->patterns = palloc(sizeof(Pattern *) * Max(masking->pattern_count, 1));
	masking->labels = palloc(sizeof(char *) * Max(masking->pattern_count, 1));
	for (int i = 0; i < masking->pattern_count; i++)
	{
		masking->patterns[i] = compile_pattern(llmb_row_text(rows, i, 1), llmb_row_text(rows, i, 2));
		masking->labels[i] = masking->patterns[i]->label;
	}
	llmb_sql_done(rows);
}

/* ---- matching ---- */

/* One that is not ASCII; see wide_text(). */
static pg_wchar
wide_character(const char *text, int bytes)
{
	char		given[8];
	char	   *one;
	pg_wchar	converted[8];
	pg_wchar	wide = 0xFFFD;

	memcpy(given, text, bytes);
	given[bytes] = '\0';
	one = llmb_from_utf8(given, NULL);
	if (strlen(one) <= 4 && pg_mb2wchar_with_len(one, converted, strlen(one)) == 1)
		wide = converted[0];
	pfree(one);
	return wide;
}

/*
 * UTF-8 as the characters that regular expressions of this database are made
 * of; one that its encoding lacks becomes one that nothing matches but a dot.
 */
static pg_wchar *
wide_text(const char *text, int len, int *count)
{
	pg_wchar   *wide = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(pg_wchar) * ((Size) len + 1));
	int			n = 0;

	if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
	{
		*count = pg_mb2wchar_with_len(text, wide, len);
		return wide;
	}
	for (int i = 0; i < len;)
	{
		int			bytes = pg_utf_mblen((const unsigned char *) text + i);

		wide[n++] = bytes == 1 ? (unsigned char) text[i] : wide_character(text + i, bytes);
		i += bytes;
	}
	*count = n;
	return wide;
}

/* Bytes of the character at a place of UTF-8 text, as wide_text() counts them. */
static int
step_of(const char *text)
{
	return GetDatabaseEncoding() == PG_SQL_ASCII ? 1 : pg_utf_mblen((const unsigned char *) text);
}

static void
find_pattern(Pattern *pattern, const char *text, const pg_wchar *wide, int count, LlmbPiiSpans *spans)
{
	int			from = 0;
	int			at = 0;			/* character */
	int			byte = 0;		/* where it begins */

	while (from <= count)
	{
		regmatch_t	match;
		int			begin;
		int			result = pg_regexec(&pattern->regex, wide, count, from, NULL, 1, &match, 0);

		if (result == REG_NOMATCH)
			return;
		if (result != REG_OKAY)
			regex_error(result, &pattern->regex);
		for (; at < match.rm_so; at++)
			byte += step_of(text + byte);
		begin = byte;
		for (; at < match.rm_eo; at++)
			byte += step_of(text + byte);
		llmb_pii_add_span(spans, begin, byte, pattern->label);
		from = match.rm_eo > match.rm_so ? match.rm_eo : match.rm_eo + 1;
	}
}

static void
find_patterns(const char *text, int len, LlmbPiiSpans *spans, void *arg)
{
	LlmbMasking *masking = arg;
	pg_wchar   *wide;
	int			count;

	if (masking->pattern_count == 0)
		return;
	wide = wide_text(text, len, &count);
	for (int i = 0; i < masking->pattern_count; i++)
		find_pattern(masking->patterns[i], text, wide, count, spans);
	pfree(wide);
}

/* ---- masking ---- */

static LlmbMasking *
new_masking(const LlmbJobDef *def)
{
	LlmbMasking *masking = palloc0(sizeof(LlmbMasking));

	masking->context = CurrentMemoryContext;
	masking->per_prompt = AllocSetContextCreate(CurrentMemoryContext, "llm_batch masked prompt", ALLOCSET_DEFAULT_SIZES);
	masking->def = def;
	read_patterns(masking);
	return masking;
}

LlmbMasking *
llmb_masking_begin(const LlmbJobDef *def)
{
	return def->mask_pii ? new_masking(def) : NULL;
}

static char *
utf8_or_null(const char *text)
{
	return text ? llmb_to_utf8(text) : NULL;
}

static void
note_text(LlmbPii *pii, const char *text)
{
	if (text)
		llmb_pii_note(pii, text, strlen(text));
}

static char *
mask_text(LlmbPii *pii, const char *text)
{
	return text ? llmb_pii_mask(pii, text, strlen(text)) : NULL;
}

static char *
masked_json(LlmbPii *pii, LlmbJson *json)
{
	StringInfoData out;

	initStringInfo(&out);
	llmb_pii_mask_json(pii, json);
	llmb_json_put_node(&out, json);
	return out.data;
}

/* Fills masking->masked; the order of the texts is part of the map. */
static void
mask_texts(LlmbMasking *masking, LlmbPii *pii, const LlmbPrompt *prompt)
{
	const LlmbJobDef *def = masking->def;
	LlmbPrompt *masked = &masking->masked;
	char	   *system = utf8_or_null(prompt->system ? prompt->system : prompt->messages ? NULL : def->system);
	char	   *text = utf8_or_null(prompt->prompt);
	LlmbJson   *messages = NULL;
	const char *reason;

	if (prompt->messages && (messages = llmb_json_of_text(prompt->messages, &reason)) == NULL)
		elog(ERROR, "the messages of item %d cannot be read: %s", prompt->ordinal, reason);
	note_text(pii, system);
	note_text(pii, text);
	if (messages)
		llmb_pii_note_json(pii, messages);
	/* names and descriptions that the answer may repeat */
	note_text(pii, utf8_or_null(def->schema));

	masked->system = mask_text(pii, system);
	masked->prompt = mask_text(pii, text);
	masked->messages = messages ? masked_json(pii, messages) : NULL;
	masking->pii = pii;
}

const LlmbPrompt *
llmb_mask_prompt(LlmbMasking *masking, const LlmbPrompt *prompt)
{
	MemoryContext old;

	if (masking == NULL)
		return prompt;
	MemoryContextReset(masking->per_prompt);
	old = MemoryContextSwitchTo(masking->per_prompt);
	masking->masked = *prompt;
	masking->masked.masked = true;
	masking->was_kept = false;
	if (prompt->map)
	{
		mask_texts(masking, llmb_pii_again(prompt->map), prompt);
		masking->was_kept = llmb_pii_was_same(masking->pii);
	}
	masking->replaces = prompt->map != NULL && !masking->was_kept;
	if (!masking->was_kept)
		mask_texts(masking, llmb_pii_begin(find_patterns, masking, (const char *const *) masking->labels,
										   masking->pattern_count), prompt);
	MemoryContextSwitchTo(old);
	return &masking->masked;
}

/* Time for the patterns of one prompt: ten times what ordinary ones take, and more. */
#define PATTERN_MS			2000
#define PATTERN_MS_PER_MB	1000

static int
time_for(const LlmbPrompt *prompt)
{
	Size		bytes = (prompt->prompt ? strlen(prompt->prompt) : 0) + (prompt->system ? strlen(prompt->system) : 0) +
		(prompt->messages ? strlen(prompt->messages) : 0);

	return PATTERN_MS + (int) (bytes / 1024 * PATTERN_MS_PER_MB / 1024);
}

const LlmbPrompt *
llmb_mask_prompt_in_time(LlmbMasking *masking, const LlmbPrompt *prompt)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const LlmbPrompt *volatile masked = NULL;
	TimestampTz deadline;

	if (masking == NULL || masking->pattern_count == 0)
		return llmb_mask_prompt(masking, prompt);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), time_for(prompt));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		enable_timeout_at(STATEMENT_TIMEOUT, deadline);
		masked = llmb_mask_prompt(masking, prompt);
		/* it may have come where nobody looks */
		CHECK_FOR_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_QUERY_CANCELED || GetCurrentTimestamp() < deadline)
			ReThrowError(error);
		FreeErrorData(error);
		masked = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return masked;
}

/* ---- maps that are kept ---- */

static Datum
text_array(char **texts, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = CStringGetTextDatum(llmb_from_utf8(texts[i], NULL));
	return PointerGetDatum(construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
int_array(const int *numbers, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int32GetDatum(numbers[i]);
	return PointerGetDatum(construct_array(datums, count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

void
llmb_masking_keep(LlmbMasking *masking, int64 job, int ordinal)
{
	const LlmbPiiMap *map;
	Datum		values[5];
	bool		nulls[5] = {false};
	MemoryContext old;

	if (masking == NULL || masking->was_kept)
		return;
	if (masking->replaces)
		(void) llmb_sql_run("DELETE FROM llm_batch.pii_map WHERE job_id = $1 AND ordinal = $2", "li", job, ordinal);
	map = llmb_pii_map(masking->pii);
	old = MemoryContextSwitchTo(masking->context);
	if (masking->bulk == NULL)
		masking->bulk = llmb_bulk_begin("pii_map");
	MemoryContextSwitchTo(masking->per_prompt);
	values[0] = Int64GetDatum(job);
	values[1] = Int32GetDatum(ordinal);
	values[2] = int_array(map->places, map->place_count * LLMB_PII_PLACE);
	values[3] = text_array(map->placeholders, map->count);
	values[4] = text_array(map->originals, map->count);
	llmb_bulk_put(masking->bulk, values, nulls);
	MemoryContextSwitchTo(old);
}

void
llmb_masking_end(LlmbMasking *masking)
{
	if (masking == NULL)
		return;
	if (masking->bulk)
		llmb_bulk_end(masking->bulk);
	masking->bulk = NULL;
	MemoryContextDelete(masking->per_prompt);
}

static char **
array_texts(Datum array, int *count)
{
	Datum	   *datums;
	bool	   *nulls;
	char	  **texts;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &datums, &nulls, count);
	texts = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		char	   *one = TextDatumGetCString(datums[i]);

		texts[i] = llmb_to_utf8(one);
		pfree(one);
	}
	pfree(datums);
	pfree(nulls);
	return texts;
}

static int *
array_ints(Datum array, int *count)
{
	Datum	   *datums;
	bool	   *nulls;
	int		   *numbers;

	deconstruct_array(DatumGetArrayTypeP(array), INT4OID, sizeof(int32), true, TYPALIGN_INT, &datums, &nulls, count);
	numbers = palloc(sizeof(int) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		numbers[i] = DatumGetInt32(datums[i]);
	pfree(datums);
	pfree(nulls);
	return numbers;
}

LlmbPiiMap *
llmb_row_map(LlmbRows *rows, int row, int column)
{
	LlmbPiiMap *map;
	Datum		arrays[3];
	bool		isnull;
	int			originals;

	for (int i = 0; i < 3; i++)
	{
		arrays[i] = llmb_row_datum(rows, row, column + i, &isnull);
		if (isnull)
			return NULL;
	}
	map = palloc0(sizeof(LlmbPiiMap));
	map->places = array_ints(arrays[0], &map->place_count);
	map->place_count /= LLMB_PII_PLACE;
	map->placeholders = array_texts(arrays[1], &map->count);
	map->originals = array_texts(arrays[2], &originals);
	if (originals != map->count)
		elog(ERROR, "a row of llm_batch.pii_map has %d placeholders for %d originals", map->count, originals);
	return map;
}

void
llmb_map_free(LlmbPiiMap *map)
{
	if (map == NULL)
		return;
	for (int i = 0; i < map->count; i++)
	{
		pfree(map->placeholders[i]);
		pfree(map->originals[i]);
	}
	pfree(map->placeholders);
	pfree(map->originals);
	pfree(map->places);
	pfree(map);
}

LlmbPiiMap **
llmb_store_maps(int64 job, const LlmbResult *results, int count)
{
	LlmbPiiMap **maps = palloc0(sizeof(LlmbPiiMap *) * Max(count, 1));
	int		   *ordinals = palloc(sizeof(int) * Max(count, 1));
	LlmbRows   *rows;

	for (int i = 0; i < count; i++)
		ordinals[i] = results[i].ordinal;
	/* see llmb_store_keys() */
	rows = llmb_sql("SELECT u.n::int, m.places, m.placeholders, m.originals "
					"FROM unnest($2::int[]) WITH ORDINALITY u(ordinal, n) "
					"CROSS JOIN LATERAL (SELECT t.places, t.placeholders, t.originals FROM llm_batch.pii_map t "
					" WHERE t.job_id = $1 AND t.ordinal = u.ordinal AND t.originals <> '{}' OFFSET 0) m",
					"lo", job, DatumGetArrayTypeP(int_array(ordinals, count)));
	for (int i = 0; i < llmb_row_count(rows); i++)
		maps[llmb_row_int(rows, i, 1) - 1] = llmb_row_map(rows, i, 2);
	llmb_sql_done(rows);
	return maps;
}

const char *
llmb_hide_originals(int64 job, int ordinal, const char *text)
{
	LlmbResult	item = {.ordinal = ordinal};
	LlmbPiiMap *map;

	if (text == NULL)
		return NULL;
	map = llmb_store_maps(job, &item, 1)[0];
	return map ? llmb_pii_hide(map, pstrdup(text)) : text;
}

/* ---- SQL ---- */

/*
 * llm_batch.redact(text) returns text: what mask_pii would send
 */
Datum
llmb_redact(PG_FUNCTION_ARGS)
{
	LlmbMasking *masking = fcinfo->flinfo->fn_extra;
	MemoryContext old;
	LlmbPii    *pii;
	char	   *given = llmb_to_utf8(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	/* patterns are compiled once for all rows of a query */
	if (masking == NULL)
	{
		old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		masking = fcinfo->flinfo->fn_extra = new_masking(NULL);
		MemoryContextSwitchTo(old);
	}
	pii = llmb_pii_begin(find_patterns, masking, (const char *const *) masking->labels, masking->pattern_count);
	llmb_pii_note(pii, given, strlen(given));
	PG_RETURN_TEXT_P(cstring_to_text(llmb_from_utf8(llmb_pii_mask(pii, given, strlen(given)), NULL)));
}

static void
refuse_pattern(const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
			 errmsg("%s", why),
			 errhint("%s", hint)));
}

/*
 * llm_batch.check_pattern(text) returns boolean: true, or raises
 */
Datum
llmb_check_pattern(PG_FUNCTION_ARGS)
{
	Pattern    *pattern = compile_pattern("", text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (pattern->regex.re_info & REG_UBACKREF)
		refuse_pattern("a pattern must not have back references",
					   "They take too long where all jobs wait; write what is repeated once more.");
	if (pattern->regex.re_info & REG_UEMPTYMATCH)
		refuse_pattern("a pattern must not match the empty text",
					   "Write + instead of *, or what must be there at least.");
	PG_RETURN_BOOL(true);
}
