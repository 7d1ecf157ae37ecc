/*-------------------------------------------------------------------------
 *
 * template.c
 *		Prompt templates: reading, rendering, hashing.
 *
 * A template is cut once into literals and columns.  Rendering takes the
 * columns' values in the template's own order, so that the UPDATE of
 * write-back can pass just these columns and needs privileges on no other.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/varlena.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "template.h"

PG_FUNCTION_INFO_V1(llmb_render_sql);
PG_FUNCTION_INFO_V1(llmb_prompt_text);
PG_FUNCTION_INFO_V1(llmb_prompt_hash);

/* what stands for the whole row */
#define STAR	"*"

typedef struct LlmbTemplatePart
{
	const char *literal;		/* NULL: a column */
	size_t		len;
	int			column;
	bool		json;
} LlmbTemplatePart;

typedef struct LlmbRenderColumn
{
	bool		is_text;		/* the datum's bytes are the text */
	FmgrInfo	output;
	FmgrInfo	to_json;
} LlmbRenderColumn;

/* ---- reading ---- */

static LlmbTemplatePart *
add_part(LlmbTemplate *template)
{
	int			n = template->part_count++;

	if (n == 0)
		template->parts = palloc(sizeof(LlmbTemplatePart) * 8);
	else if (n >= 8 && (n & (n - 1)) == 0)
		template->parts = repalloc(template->parts, sizeof(LlmbTemplatePart) * n * 2);
	memset(&template->parts[n], 0, sizeof(LlmbTemplatePart));
	return &template->parts[n];
}

static void
add_literal(LlmbTemplate *template, const char *text, size_t len)
{
	LlmbTemplatePart *part;

	if (len == 0)
		return;
	part = add_part(template);
	part->literal = pnstrdup(text, len);
	part->len = len;
}

static int
column_number(LlmbTemplate *template, const char *name)
{
	int			n = template->column_count;

	for (int i = 0; i < n; i++)
	{
		if (strcmp(template->columns[i], name) == 0)
			return i;
	}
	/* no row has more; and it keeps the search above short */
	if (n >= MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("the prompt template names more than %d columns", MaxTupleAttributeNumber)));
	template->columns = n == 0 ? palloc(sizeof(char *)) :
		repalloc(template->columns, sizeof(char *) * (n + 1));
	template->columns[n] = pstrdup(name);
	template->column_count++;
	return n;
}

static char *
trimmed(const char *text, size_t len)
{
	while (len > 0 && isspace((unsigned char) *text))
		text++, len--;
	while (len > 0 && isspace((unsigned char) text[len - 1]))
		len--;
	return pnstrdup(text, len);
}

/* What stands between {{ and }}. */
static void
add_column(LlmbTemplate *template, const char *inner, size_t len)
{
	const char *bar = memchr(inner, '|', len);
	char	   *name = trimmed(inner, bar ? (size_t) (bar - inner) : len);
	LlmbTemplatePart *part;

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("empty placeholder in the prompt template"),
				 errhint("Write {{column}}, or {{{{ for a literal {{.")));
	if (bar)
	{
		char	   *form = trimmed(bar + 1, inner + len - bar - 1);

		if (strcmp(form, "json") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown form \"%s\" in the placeholder for column \"%s\"", form, name),
					 errhint("The only form is json: {{%s|json}}.", name)));
	}
	part = add_part(template);
	part->json = bar != NULL;
	part->column = column_number(template, name);
}

LlmbTemplate *
llmb_template_parse(const char *text)
{
	LlmbTemplate *template = palloc0(sizeof(LlmbTemplate));
	const char *at = text;
	const char *open;

	while ((open = strstr(at, "{{")) != NULL)
	{
		const char *close;

		CHECK_FOR_INTERRUPTS();
		add_literal(template, at, open - at);
		if (strncmp(open, "{{{{", 4) == 0)
		{
			add_literal(template, "{{", 2);
			at = open + 4;
			continue;
		}
		close = strstr(open, "}}");
		if (close == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unclosed placeholder in the prompt template"),
					 errdetail("A {{ has no }} behind it."),
					 errhint("Write {{column}}, or {{{{ for a literal {{.")));
		add_column(template, open + 2, close - open - 2);
		at = close + 2;
	}
	add_literal(template, at, strlen(at));
	return template;
}

/* ---- the whole row ---- */

static void
append_column_line(StringInfo out, const char *name, bool json, bool first)
{
	size_t		len = strlen(name);

	if (strpbrk(name, "{}|") || strcmp(name, STAR) == 0 || isspace((unsigned char) name[0]) ||
		(len > 0 && isspace((unsigned char) name[len - 1])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" cannot stand in a prompt template", name),
				 errhint("Name the columns instead of {{*}}, or use a view in which it has another name.")));
	if (json)
	{
		appendStringInfoString(out, first ? "" : ", ");
		escape_json(out, name);
		appendStringInfo(out, ": {{%s|json}}", name);
	}
	else
		appendStringInfo(out, "%s%s: {{%s}}", first ? "" : "\n", name, name);
}

static void
append_row(StringInfo out, bool json, char **columns, int count)
{
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no column that {{*}} could stand for"),
				 errdetail("Target columns, generated columns and columns of bytes or vectors are left out."),
				 errhint("Name the columns that the prompt is to read.")));
	appendStringInfoString(out, json ? "{" : "");
	for (int i = 0; i < count; i++)
		append_column_line(out, columns[i], json, i == 0);
	appendStringInfoString(out, json ? "}" : "");
}

bool
llmb_template_has_star(const LlmbTemplate *template)
{
	for (int i = 0; i < template->column_count; i++)
	{
		if (strcmp(template->columns[i], STAR) == 0)
			return true;
	}
	return false;
}

char *
llmb_template_expand(const LlmbTemplate *template, char **columns, int count)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < template->part_count; i++)
	{
		const LlmbTemplatePart *part = &template->parts[i];

		/* {{{{ is always a part of its own */
		if (part->literal)
			appendStringInfoString(&out, strcmp(part->literal, "{{") == 0 ? "{{{{" : part->literal);
		else if (strcmp(template->columns[part->column], STAR) == 0)
			append_row(&out, part->json, columns, count);
		else
			appendStringInfo(&out, "{{%s%s}}", template->columns[part->column], part->json ? "|json" : "");
	}
	return out.data;
}

bool
llmb_template_star_skips(Oid type)
{
	Oid			base = getBaseType(type);
	char	   *name;

	if (base == BYTEAOID || base == TSVECTOROID)
		return true;
	if (base < FirstNormalObjectId)
		return false;
	/* those of pgvector, in whatever schema */
	name = format_type_extended(base, -1, FORMAT_TYPE_INVALID_AS_NULL);
	name = name ? strrchr(name, '.') ? strrchr(name, '.') + 1 : name : "";
	return strcmp(name, "vector") == 0 || strcmp(name, "halfvec") == 0 || strcmp(name, "sparsevec") == 0;
}

const char *
llmb_nearest(const char *name, char **names, int count)
{
	const char *best = NULL;
	int			best_distance = 1 + Min((int) strlen(name), 255) / 2;

	for (int i = 0; i < count; i++)
	{
		int			distance;

		if (strlen(names[i]) > 255 || strlen(name) > 255)
			continue;
		distance = varstr_levenshtein_less_equal(name, strlen(name), names[i], strlen(names[i]),
												 1, 1, 1, best_distance, true);
		if (distance <= best_distance && (best == NULL || distance < best_distance))
		{
			best = names[i];
			best_distance = distance;
		}
	}
	return best;
}

/* ---- rendering ---- */

static bool
bytes_are_text(Oid type)
{
	Oid			base = getBaseType(type);

	return base == TEXTOID || base == VARCHAROID;
}

LlmbRenderer *
llmb_renderer(const LlmbTemplate *template, const Oid *types)
{
	LlmbRenderer *renderer = palloc0(sizeof(LlmbRenderer));

	renderer->template = template;
	renderer->columns = palloc0(sizeof(LlmbRenderColumn) * Max(template->column_count, 1));
	for (int i = 0; i < template->column_count; i++)
	{
		LlmbRenderColumn *column = &renderer->columns[i];
		Oid			output;
		bool		varlena;
		Node	   *null_of_type;

		column->is_text = bytes_are_text(types[i]);
		getTypeOutputInfo(types[i], &output, &varlena);
		fmgr_info(output, &column->output);
		/* to_json() learns the type of its argument from the call's expression */
		null_of_type = (Node *) makeNullConst(types[i], -1, InvalidOid);
		fmgr_info(F_TO_JSON, &column->to_json);
		column->to_json.fn_expr = (Node *)
			makeFuncExpr(F_TO_JSON, JSONOID, list_make1(null_of_type),
						 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	}
	return renderer;
}

static void
render_text(StringInfo out, Datum datum)
{
	text	   *value = DatumGetTextPP(datum);

	appendBinaryStringInfo(out, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	if ((Pointer) value != DatumGetPointer(datum))
		pfree(value);
}

void
llmb_render(LlmbRenderer *renderer, StringInfo out,
			const Datum *values, const bool *nulls)
{
	const LlmbTemplate *template = renderer->template;

	for (int i = 0; i < template->part_count; i++)
	{
		LlmbTemplatePart *part = &template->parts[i];
		LlmbRenderColumn *column;

		if (part->literal)
		{
			appendBinaryStringInfo(out, part->literal, part->len);
			continue;
		}
		column = &renderer->columns[part->column];
		if (nulls[part->column])
			appendStringInfoString(out, part->json ? "null" : "");
		else if (part->json)
			render_text(out, FunctionCall1(&column->to_json, values[part->column]));
		else if (column->is_text)
			render_text(out, values[part->column]);
		else
			appendStringInfoString(out, OutputFunctionCall(&column->output, values[part->column]));
	}
}

int64
llmb_text_hash(const char *text, size_t len)
{
	return (int64) hash_bytes_extended((const unsigned char *) text, (int) len, 0);
}

void
llmb_pin_rendering(const char *time_zone)
{
	static const char *const pinned[][2] = {
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"xmlbinary", "base64"},
	};

	for (int i = 0; i < (int) lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (time_zone)
		(void) set_config_option("TimeZone", time_zone, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* ---- from SQL ---- */

static LlmbRenderer *
renderer_for_record(const LlmbTemplate *template, TupleDesc desc, int *attnums)
{
	Oid		   *types = palloc(sizeof(Oid) * Max(template->column_count, 1));
	char	  **names = palloc(sizeof(char *) * Max(desc->natts, 1));

	for (int i = 0; i < desc->natts; i++)
		names[i] = TupleDescAttr(desc, i)->attisdropped ? pstrdup("") :
			NameStr(TupleDescAttr(desc, i)->attname);
	for (int c = 0; c < template->column_count; c++)
	{
		const char *near = llmb_nearest(template->columns[c], names, desc->natts);

		attnums[c] = 0;
		for (int i = 0; i < desc->natts; i++)
		{
			if (names[i][0] && strcmp(names[i], template->columns[c]) == 0)
				attnums[c] = i + 1;
		}
		if (attnums[c] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the prompt template does not exist in the record", template->columns[c]),
					 near ? errhint("Perhaps you meant {{%s}}.", near) : 0));
		types[c] = TupleDescAttr(desc, attnums[c] - 1)->atttypid;
	}
	return llmb_renderer(template, types);
}

/* The template of render(): {{*}} is the record, as far as its type tells. */
static LlmbTemplate *
template_for_record(const char *text, TupleDesc desc)
{
	LlmbTemplate *template = llmb_template_parse(text);
	char	  **columns;
	int			count = 0;

	if (!llmb_template_has_star(template))
		return template;
	columns = palloc(sizeof(char *) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !att->attgenerated && !llmb_template_star_skips(att->atttypid))
			columns[count++] = NameStr(att->attname);
	}
	return llmb_template_parse(llmb_template_expand(template, columns, count));
}

/*
 * llm_batch.render(template text, record) returns text
 */
Datum
llmb_render_sql(PG_FUNCTION_ARGS)
{
	HeapTupleHeader record;
	HeapTupleData tuple;
	TupleDesc	desc;
	LlmbTemplate *template;
	LlmbRenderer *renderer;
	int		   *attnums;
	Datum	   *values;
	bool	   *nulls;
	StringInfoData out;
	int			level;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	record = PG_GETARG_HEAPTUPLEHEADER(1);
	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record), HeapTupleHeaderGetTypMod(record));
	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = record;

	template = template_for_record(text_to_cstring(PG_GETARG_TEXT_PP(0)), desc);
	attnums = palloc(sizeof(int) * Max(template->column_count, 1));
	values = palloc(sizeof(Datum) * Max(template->column_count, 1));
	nulls = palloc(sizeof(bool) * Max(template->column_count, 1));
	renderer = renderer_for_record(template, desc, attnums);
	for (int c = 0; c < template->column_count; c++)
		values[c] = heap_getattr(&tuple, attnums[c], desc, &nulls[c]);
	initStringInfo(&out);
	level = NewGUCNestLevel();
	llmb_pin_rendering(NULL);
	llmb_render(renderer, &out, values, nulls);
	AtEOXact_GUC(false, level);
	ReleaseTupleDesc(desc);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* The renderer of a query's one template, kept for the query. */
static LlmbRenderer *
cached_renderer(FunctionCallInfo fcinfo)
{
	MemoryContext old;
	LlmbTemplate *template;
	Oid		   *types;

	if (fcinfo->flinfo->fn_extra)
		return fcinfo->flinfo->fn_extra;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	template = llmb_template_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (template->column_count != PG_NARGS() - 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the template has %d columns, but %d values were given",
						template->column_count, PG_NARGS() - 1)));
	types = palloc(sizeof(Oid) * Max(template->column_count, 1));
	for (int c = 0; c < template->column_count; c++)
		types[c] = get_fn_expr_argtype(fcinfo->flinfo, c + 1);
	fcinfo->flinfo->fn_extra = llmb_renderer(template, types);
	MemoryContextSwitchTo(old);
	return fcinfo->flinfo->fn_extra;
}

/* The prompt from the template (argument 0) and its columns' values. */
static void
render_arguments(FunctionCallInfo fcinfo, StringInfo out)
{
	LlmbRenderer *renderer;
	Datum		values[FUNC_MAX_ARGS];
	bool		nulls[FUNC_MAX_ARGS];

	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a VARIADIC array cannot be given"),
				 errhint("Give the values one by one.")));
	renderer = cached_renderer(fcinfo);
	for (int c = 0; c < PG_NARGS() - 1; c++)
	{
		values[c] = PG_GETARG_DATUM(c + 1);
		nulls[c] = PG_ARGISNULL(c + 1);
	}
	initStringInfo(out);
	llmb_render(renderer, out, values, nulls);
}

/*
 * llm_batch.prompt_text(template text, VARIADIC "any") returns text
 */
Datum
llmb_prompt_text(PG_FUNCTION_ARGS)
{
	StringInfoData out;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	render_arguments(fcinfo, &out);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/*
 * llm_batch.prompt_hash(template text, VARIADIC "any") returns bigint
 *
 * The template must be the same in all calls of one query.
 */
Datum
llmb_prompt_hash(PG_FUNCTION_ARGS)
{
	StringInfoData out;
	int64		hash;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	render_arguments(fcinfo, &out);
	hash = llmb_text_hash(out.data, out.len);
	pfree(out.data);
	PG_RETURN_INT64(hash);
}
