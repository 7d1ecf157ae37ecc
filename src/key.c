/*-------------------------------------------------------------------------
 *
 * key.c
 *		The key of a source row as text.
 *
 * The same text that a query gives with ::text (see llmb_source_query()),
 * without a query: triggers run for every changed row.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "key.h"

typedef struct KeyColumn
{
	bool		is_text;		/* the datum is a text */
	bool		casts;			/* function is a cast to text, not an output function */
	FmgrInfo	function;
} KeyColumn;

struct LlmbKeyText
{
	int			count;
	bool		needs_settings;
	KeyColumn  *columns;
};

/* Types of ordinary keys, whose text is always the same. */
static bool
is_steady(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID || type == TEXTOID || type == VARCHAROID ||
		type == BPCHAROID || type == UUIDOID || type == NUMERICOID || type == NAMEOID || type == BOOLOID ||
		type == OIDOID;
}

static void
begin_column(LlmbKeyText *key, KeyColumn *column, Oid type)
{
	Oid			base = getBaseType(type);
	Oid			function = InvalidOid;
	bool		varlena;

	key->needs_settings |= !is_steady(base);
	switch (find_coercion_pathway(TEXTOID, base, COERCION_EXPLICIT, &function))
	{
		case COERCION_PATH_RELABELTYPE:
			column->is_text = true;
			return;
		case COERCION_PATH_FUNC:
			column->casts = true;
			break;
		default:
			if (base == TEXTOID)
			{
				column->is_text = true;
				return;
			}
			getTypeOutputInfo(type, &function, &varlena);
	}
	fmgr_info(function, &column->function);
}

LlmbKeyText *
llmb_key_text_begin(const Oid *types, int count)
{
	LlmbKeyText *key = palloc0(sizeof(LlmbKeyText));

	key->count = count;
	key->columns = palloc0(sizeof(KeyColumn) * count);
	for (int i = 0; i < count; i++)
		begin_column(key, &key->columns[i], types[i]);
	return key;
}

bool
llmb_key_text_needs_settings(const LlmbKeyText *key)
{
	return key->needs_settings;
}

static char *
column_text(KeyColumn *column, Datum value)
{
	if (column->is_text)
		return TextDatumGetCString(value);
	if (column->casts)
		return TextDatumGetCString(FunctionCall1(&column->function, value));
	return OutputFunctionCall(&column->function, value);
}

bool
llmb_key_text(LlmbKeyText *key, StringInfo out, const Datum *values, const bool *nulls)
{
	if (key->count == 1)
	{
		if (nulls[0])
			return false;
		appendStringInfoString(out, column_text(&key->columns[0], values[0]));
		return true;
	}
	/* as jsonb writes it */
	for (int i = 0; i < key->count; i++)
	{
		appendStringInfoString(out, i ? ", " : "[");
		if (nulls[i])
			appendStringInfoString(out, "null");
		else
			escape_json(out, column_text(&key->columns[i], values[i]));
	}
	appendStringInfoChar(out, ']');
	return true;
}
