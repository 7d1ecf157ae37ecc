/*-------------------------------------------------------------------------
 *
 * schema.c
 *		The table is the schema.
 *
 * At submit, as the caller, the catalogs' description of the target columns
 * becomes a JSON schema.  It keeps to what the strict modes of all providers
 * take: every property required, no additional ones, null by type, and no
 * bounds; what a schema cannot say stands in the description.
 *
 * When answers arrive the catalogs are asked again, for the table may have
 * changed since; answer.c does the rest.  No input function is called here:
 * those of users' types are user code, and even PostgreSQL's own raise.
 * Dates are read by its parser, which does not.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "answer.h"
#include "compat.h"
#include "request.h"
#include "schema.h"
#include "template.h"

/*
 * Labels that a schema lists; of longer enums the model is not told.  OpenAI
 * (Structured Outputs guide, "Limitations on enum size") limits the length of
 * the labels of an enum that has more, and their number in a whole schema.
 */
#define MAX_LABELS 250

/* ---- what a column takes ---- */

/* From a domain to its base; its own NOT NULL counts. */
static Oid
strip_domains(Oid type, int32 *typmod, bool *nullable)
{
	for (;;)
	{
		HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		Form_pg_type form;
		bool		domain;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for type %u", type);
		form = (Form_pg_type) GETSTRUCT(tuple);
		domain = form->typtype == TYPTYPE_DOMAIN;
		if (domain)
		{
			if (form->typnotnull)
				*nullable = false;
			type = form->typbasetype;
			*typmod = form->typtypmod;
		}
		ReleaseSysCache(tuple);
		if (!domain)
			return type;
	}
}

static int
compare_labels(const void *a, const void *b)
{
	float4		x = ((Form_pg_enum) GETSTRUCT(*(HeapTuple *) a))->enumsortorder;
	float4		y = ((Form_pg_enum) GETSTRUCT(*(HeapTuple *) b))->enumsortorder;

	return (x > y) - (x < y);
}

/*
 * The labels in their order, in UTF-8.  What a SQL_ASCII database has that is
 * none cannot be sent, and so not be answered.
 */
static void
read_labels(Oid type, LlmbColumn *column)
{
	CatCList   *list = SearchSysCacheList1(ENUMTYPOIDNAME, ObjectIdGetDatum(type));
	HeapTuple  *tuples = palloc(sizeof(HeapTuple) * Max(list->n_members, 1));

	for (int i = 0; i < list->n_members; i++)
		tuples[i] = &list->members[i]->tuple;
	qsort(tuples, list->n_members, sizeof(HeapTuple), compare_labels);
	column->labels = palloc(sizeof(char *) * Max(list->n_members, 1));
	for (int i = 0; i < list->n_members; i++)
	{
		char	   *label = NameStr(((Form_pg_enum) GETSTRUCT(tuples[i]))->enumlabel);

		if (GetDatabaseEncoding() != PG_SQL_ASCII || pg_verify_mbstr(PG_UTF8, label, strlen(label), true))
			column->labels[column->label_count++] = llmb_to_utf8(label);
	}
	ReleaseCatCacheList(list);
}

static void
set_integer(LlmbColumn *column, int64 min, int64 max)
{
	column->kind = LLMB_KIND_INTEGER;
	column->min = min;
	column->max = max;
}

static void
set_numeric(LlmbColumn *column, int32 typmod)
{
	column->kind = LLMB_KIND_NUMERIC;
	/* as numeric.c packs them */
	if (typmod >= (int32) VARHDRSZ)
	{
		column->precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
		column->scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	}
}

static void
set_text(LlmbColumn *column, int32 typmod)
{
	column->kind = LLMB_KIND_TEXT;
	column->max_chars = typmod >= (int32) VARHDRSZ ? typmod - VARHDRSZ : 0;
}

/* Types of extensions are known by their names, in whatever schema. */
static void
set_by_name(LlmbColumn *column, Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	column->kind = LLMB_KIND_OTHER;
	if (form->typtype == TYPTYPE_BASE && type >= FirstNormalObjectId)
	{
		if (strcmp(NameStr(form->typname), "vector") == 0 || strcmp(NameStr(form->typname), "halfvec") == 0)
			column->kind = LLMB_KIND_VECTOR;
		else if (strcmp(NameStr(form->typname), "citext") == 0)
			column->kind = LLMB_KIND_TEXT;
	}
	ReleaseSysCache(tuple);
}

static bool valid_moment(LlmbKind kind, const char *text);

/* A type that is neither domain nor array. */
static void
describe_scalar(Oid type, int32 typmod, LlmbColumn *column)
{
	switch (type)
	{
		case TEXTOID:
			set_text(column, -1);
			return;
		case VARCHAROID:
		case BPCHAROID:
			set_text(column, typmod);
			return;
		case INT2OID:
			set_integer(column, PG_INT16_MIN, PG_INT16_MAX);
			return;
		case INT4OID:
			set_integer(column, PG_INT32_MIN, PG_INT32_MAX);
			return;
		case INT8OID:
			set_integer(column, PG_INT64_MIN, PG_INT64_MAX);
			return;
		case NUMERICOID:
			set_numeric(column, typmod);
			return;
		case FLOAT4OID:
		case FLOAT8OID:
			column->kind = LLMB_KIND_FLOAT;
			column->single = type == FLOAT4OID;
			return;
		case BOOLOID:
			column->kind = LLMB_KIND_BOOLEAN;
			return;
		case DATEOID:
			column->kind = LLMB_KIND_DATE;
			return;
		case TIMEOID:
		case TIMETZOID:
			column->kind = LLMB_KIND_TIME;
			return;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			column->kind = LLMB_KIND_TIMESTAMP;
			return;
		case UUIDOID:
			column->kind = LLMB_KIND_UUID;
			return;
		case JSONOID:
		case JSONBOID:
			column->kind = LLMB_KIND_JSON;
			return;
	}
	if (get_typtype(type) == TYPTYPE_ENUM)
	{
		column->kind = LLMB_KIND_ENUM;
		read_labels(type, column);
		return;
	}
	set_by_name(column, type);
}

/* False when the relation has no such column (any more). */
static bool
describe_column(Oid relid, const char *name, LlmbColumn *column)
{
	HeapTuple	tuple = SearchSysCacheAttName(relid, name);
	Form_pg_attribute att;
	Oid			type;
	Oid			element;
	int32		typmod;
	bool		ignored = true;

	memset(column, 0, sizeof(*column));
	column->name = llmb_to_utf8(name);
	column->kind = LLMB_KIND_TEXT;
	column->nullable = true;
	column->valid_moment = valid_moment;
	if (!HeapTupleIsValid(tuple))
		return false;
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	type = att->atttypid;
	typmod = att->atttypmod;
	column->nullable = !att->attnotnull;
	ReleaseSysCache(tuple);

	type = strip_domains(type, &typmod, &column->nullable);
	element = get_element_type(type);
	if (OidIsValid(element))
	{
		column->array = true;
		type = strip_domains(element, &typmod, &ignored);
	}
	describe_scalar(type, typmod, column);
	return true;
}

int64
llmb_targets_hash(Oid relid, char **names, int count)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < count; i++)
	{
		LlmbColumn	column;
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (!describe_column(relid, names[i], &column))
		{
			appendStringInfoString(&text, "none;");
			continue;
		}
		get_atttypetypmodcoll(relid, get_attnum(relid, names[i]), &type, &typmod, &collation);
		appendStringInfoString(&text, format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		appendStringInfoString(&text, column.nullable ? "" : " not null");
		for (int n = 0; n < column.label_count; n++)
			llmb_json_put_string(&text, column.labels[n]);
		appendStringInfoChar(&text, ';');
	}
	return llmb_text_hash(text.data, text.len);
}

/* ---- moments ---- */

/*
 * Before 16 the readers raise for a time zone that does not exist, where one
 * with punctuation may stand; everything else they return.
 */
static bool
knows_zones(LlmbKind kind, char **field, const int *ftype, int count)
{
	/* the first field of a date and time may be "january-31-2026" */
	for (int i = kind == LLMB_KIND_TIME ? 0 : 1; i < count; i++)
	{
		if (ftype[i] == DTK_DATE && !isdigit((unsigned char) field[i][0]) && pg_tzset(field[i]) == NULL)
			return false;
	}
	return true;
}

/*
 * Nothing that would mean another moment when it is read again, nor
 * 04/05/2026, which a reader takes for either: a date has its year first, or
 * its month by name.
 */
static bool
is_unmistakable(char **field, const int *ftype, int count)
{
	static const char *const floating[] = {"now", "today", "tomorrow", "yesterday"};
	int			numbers = 0;
	int			words = 0;

	for (int i = 0; i < count; i++)
	{
		if (ftype[i] == DTK_STRING || ftype[i] == DTK_SPECIAL)
		{
			words++;
			for (int k = 0; k < (int) lengthof(floating); k++)
			{
				if (strcmp(field[i], floating[k]) == 0)
					return false;
			}
		}
		numbers += ftype[i] == DTK_NUMBER;
		if (ftype[i] == DTK_DATE && strspn(field[i], "0123456789") < 4 &&
			strpbrk(field[i], "abcdefghijklmnopqrstuvwxyz") == NULL)
			return false;
	}
	return numbers < 2 || words > 0;
}

static bool
valid_date_time(LlmbKind kind, int dtype, struct pg_tm *tm, fsec_t fsec, int zone)
{
	Timestamp	moment;

	if (dtype == DTK_EARLY || dtype == DTK_LATE || dtype == DTK_EPOCH)
		return true;
	if (dtype != DTK_DATE)
		return false;
	if (kind == LLMB_KIND_DATE)
		return IS_VALID_JULIAN(tm->tm_year, tm->tm_mon, tm->tm_mday) &&
			IS_VALID_DATE(date2j(tm->tm_year, tm->tm_mon, tm->tm_mday) - POSTGRES_EPOCH_JDATE);
	return tm2timestamp(tm, fsec, &zone, &moment) == 0;
}

static bool
valid_moment(LlmbKind kind, const char *text)
{
	char		buffer[MAXDATELEN + MAXDATEFIELDS];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			count;
	int			dtype;
	struct pg_tm tm;
	fsec_t		fsec;
	int			zone = 0;

	if (ParseDateTime(text, buffer, sizeof(buffer), field, ftype, MAXDATEFIELDS, &count) != 0 ||
		!is_unmistakable(field, ftype, count) || !knows_zones(kind, field, ftype, count))
		return false;
	if (kind == LLMB_KIND_TIME)
		return llmb_decode_time_only(field, ftype, count, &dtype, &tm, &fsec, &zone) == 0;
	return llmb_decode_date_time(field, ftype, count, &dtype, &tm, &fsec, &zone) == 0 &&
		valid_date_time(kind, dtype, &tm, fsec, zone);
}

/* ---- the schema that is derived ---- */

/* Members of a type's schema, but for null: "type" stands before them. */
static const char *
type_word(const LlmbColumn *column)
{
	switch (column->kind)
	{
		case LLMB_KIND_INTEGER:
			return "integer";
		case LLMB_KIND_NUMERIC:
		case LLMB_KIND_FLOAT:
			return "number";
		case LLMB_KIND_BOOLEAN:
			return "boolean";
		default:
			return "string";
	}
}

static const char *
type_format(const LlmbColumn *column)
{
	switch (column->kind)
	{
		case LLMB_KIND_DATE:
			return "date";
		case LLMB_KIND_TIME:
			return "time";
		case LLMB_KIND_TIMESTAMP:
			return "date-time";
		case LLMB_KIND_UUID:
			return "uuid";
		default:
			return NULL;
	}
}

static bool
lists_labels(const LlmbColumn *column)
{
	return column->kind == LLMB_KIND_ENUM && column->label_count <= MAX_LABELS;
}

/* What goes into the braces for one value: type, format, enum. */
static void
put_scalar(StringInfo out, const LlmbColumn *column, bool nullable)
{
	const char *format = type_format(column);

	appendStringInfo(out, nullable ? "\"type\":[\"%s\",\"null\"]" : "\"type\":\"%s\"", type_word(column));
	if (format)
		appendStringInfo(out, ",\"format\":\"%s\"", format);
	for (int i = 0; i < column->label_count && lists_labels(column); i++)
	{
		appendStringInfoString(out, i ? "," : ",\"enum\":[");
		llmb_json_put_string(out, column->labels[i]);
		if (i == column->label_count - 1)
			appendStringInfoChar(out, ']');
	}
}

/* What the schema's own words cannot say. */
static char *
note(const LlmbColumn *column)
{
	if (column->kind == LLMB_KIND_JSON)
		return pstrdup(LLMB_JSON_IN_STRING);
	if (column->kind == LLMB_KIND_TEXT && column->max_chars > 0)
		return psprintf("At most %d characters.", column->max_chars);
	if (column->kind == LLMB_KIND_NUMERIC && column->precision > 0 && column->scale == 0)
		return psprintf("A whole number of at most %d digits.", column->precision);
	return NULL;
}

/* The column's comment, our note behind it; each may be NULL. */
static void
put_description(StringInfo out, const char *comment, const char *own)
{
	if (comment == NULL && own == NULL)
		return;
	appendStringInfoString(out, ",\"description\":");
	if (comment && own)
		own = psprintf("%s%s %s", comment, strchr(".!?", comment[strlen(comment) - 1]) ? "" : ".", own);
	llmb_json_put_string(out, own ? own : comment);
}

static void
put_property(StringInfo out, const LlmbColumn *column, const char *comment)
{
	char	   *own = note(column);

	appendStringInfoChar(out, '{');
	if (column->array)
	{
		appendStringInfo(out, "\"type\":%s,\"items\":{", column->nullable ? "[\"array\",\"null\"]" : "\"array\"");
		put_scalar(out, column, false);
		put_description(out, NULL, own);
		appendStringInfoChar(out, '}');
		own = NULL;
	}
	else if (column->nullable && lists_labels(column))
	{
		/* a list of labels holds no null */
		appendStringInfoString(out, "\"anyOf\":[{");
		put_scalar(out, column, false);
		appendStringInfoString(out, "},{\"type\":\"null\"}]");
	}
	else
		put_scalar(out, column, column->nullable);
	put_description(out, comment, own);
	appendStringInfoChar(out, '}');
}

/* In UTF-8. */
static char *
derive(const LlmbSource *source, const LlmbColumn *columns)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"type\":\"object\",\"properties\":{");
	for (int i = 0; i < source->target_count; i++)
	{
		char	   *comment = GetComment(source->relid, RelationRelationId,
										 get_attnum(source->relid, source->targets[i]));

		appendStringInfoString(&out, i ? "," : "");
		llmb_json_put_string(&out, columns[i].name);
		appendStringInfoChar(&out, ':');
		put_property(&out, &columns[i], comment && *comment ? llmb_to_utf8(comment) : NULL);
	}
	appendStringInfoString(&out, "},\"required\":[");
	for (int i = 0; i < source->target_count; i++)
	{
		appendStringInfoString(&out, i ? "," : "");
		llmb_json_put_string(&out, columns[i].name);
	}
	appendStringInfoString(&out, "],\"additionalProperties\":false}");
	return out.data;
}

/* ---- checks at submit ---- */

bool
llmb_is_embedding(const LlmbServer *server, const LlmbModel *model)
{
	return server->dialect.endpoint == LLMB_ENDPOINT_EMBEDDINGS ||
		(model->model_class && strcmp(model->model_class, "embedding") == 0);
}

void
llmb_check_schema(const char *given)
{
	const char *reason;
	LlmbJson   *schema = given ? llmb_json_of_text(given, &reason) : NULL;

	if (schema && llmb_json_get(schema, "type") && !llmb_schema_has_type(schema, "object"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the schema does not describe an object"),
				 errdetail("Its \"type\" is another one; an answer with a schema is always a JSON object."),
				 errhint("Make the value a property: {\"type\": \"object\", \"properties\": {\"value\": ...}, \"required\": [\"value\"], \"additionalProperties\": false}.")));
}

static char *
target_type(const LlmbSource *source, int target)
{
	Oid			type;
	int32		typmod;
	Oid			collation;

	get_atttypetypmodcoll(source->relid, get_attnum(source->relid, source->targets[target]),
						  &type, &typmod, &collation);
	return format_type_with_typemod(type, typmod);
}

static bool
takes_vector(const LlmbColumn *column)
{
	return column->kind == LLMB_KIND_VECTOR ? !column->array : column->kind == LLMB_KIND_FLOAT && column->array;
}

static void
check_vector_target(const LlmbSource *source, const LlmbColumn *columns)
{
	if (source->target_count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an embedding goes into one target column, not %d", source->target_count),
				 errhint("Name one column.")));
	if (source->target_count == 1 && !takes_vector(&columns[0]))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("target column \"%s\" is of type %s", source->targets[0], target_type(source, 0)),
				 errdetail("The model gives embeddings: vectors of numbers."),
				 errhint("Use a column of type real[], double precision[] or, with pgvector, vector.")));
}

static void
check_derivable(const LlmbSource *source, const LlmbColumn *columns)
{
	for (int i = 0; i < source->target_count; i++)
	{
		if (columns[i].kind == LLMB_KIND_OTHER || columns[i].kind == LLMB_KIND_VECTOR)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("target column \"%s\" is of type %s", source->targets[i], target_type(source, i)),
					 errdetail("No JSON schema can be derived from that type."),
					 errhint("Use a jsonb column, or pass schema and say there what its value looks like.")));
	}
}

static Oid
type_namespace(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			namespace = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
		ReleaseSysCache(tuple);
	}
	return namespace;
}

/* The cast of an answer names the column's type, which takes USAGE on its schema. */
static void
check_castable(const LlmbSource *source)
{
	for (int i = 0; i < source->target_count; i++)
	{
		Oid			base = getBaseType(get_atttype(source->relid, get_attnum(source->relid, source->targets[i])));
		Oid			namespace = type_namespace(base);

		if (OidIsValid(namespace) && llmb_namespace_aclcheck(namespace, GetUserId()) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for schema %s, which has the type of target column \"%s\"",
							get_namespace_name(namespace), source->targets[i]),
					 errhint("GRANT USAGE ON SCHEMA %s TO %s;", quote_identifier(get_namespace_name(namespace)),
							 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	}
}

/* One jsonb column may take the whole object. */
static bool
takes_whole(const LlmbColumn *columns, int count, const LlmbJson *properties)
{
	return count == 1 && columns[0].kind == LLMB_KIND_JSON && !columns[0].array &&
		llmb_json_get(properties, columns[0].name) == NULL;
}

static void
check_given(const char *given, const LlmbSource *source, const LlmbColumn *columns)
{
	const char *reason;
	LlmbJson   *properties = llmb_json_get(llmb_json_of_text(given, &reason), "properties");

	if (takes_whole(columns, source->target_count, properties))
		return;
	for (int i = 0; i < source->target_count; i++)
	{
		if (llmb_json_get(properties, columns[i].name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the schema has no property for target column \"%s\"", source->targets[i]),
					 errhint("Give it one, or leave schema out: it is then derived from the target columns.")));
	}
}

char *
llmb_target_schema(const LlmbSource *source, char *given, bool embedding)
{
	LlmbColumn *columns = palloc(sizeof(LlmbColumn) * Max(source->target_count, 1));

	for (int i = 0; i < source->target_count; i++)
		(void) describe_column(source->relid, source->targets[i], &columns[i]);
	check_castable(source);
	if (embedding)
	{
		check_vector_target(source, columns);
		return NULL;
	}
	if (given)
	{
		check_given(given, source, columns);
		return given;
	}
	if (source->target_count == 0)
		return NULL;
	check_derivable(source, columns);
	if (source->target_count == 1 && columns[0].kind == LLMB_KIND_TEXT && !columns[0].array)
		return NULL;
	return llmb_from_utf8(derive(source, columns), NULL);
}

/* ---- answers ---- */

struct LlmbSplit
{
	LlmbColumn *columns;
	int			count;
	LlmbJson   *schema;			/* NULL: none */
	bool		whole;			/* the object goes into the one jsonb column */
	bool		changed;		/* targets are not what they were at submit */
	MemoryContext scratch;		/* of one answer */
};

static bool
is_required(const LlmbJson *schema, const char *name)
{
	LlmbJson   *required = llmb_json_get(schema, "required");

	for (LlmbJson *child = required ? required->first : NULL; child; child = child->next)
	{
		if (child->type == LLMB_JSON_STRING && strcmp(child->text, name) == 0)
			return true;
	}
	return false;
}

/* How the schema's word for a property bears on what the column takes. */
static void
heed_property(const LlmbJson *schema, LlmbColumn *column)
{
	LlmbJson   *property = llmb_json_path(schema, "properties", column->name, NULL);
	const LlmbJson *value = column->array ? llmb_json_get(property, "items") : property;
	const char *description = llmb_json_string(value, "description");
	bool		typed = llmb_json_get(value, "type") != NULL;

	column->nullable = column->nullable && llmb_schema_allows_null(property);
	column->optional = property != NULL && !is_required(schema, column->name);
	column->strict_text = typed && !llmb_schema_has_type(value, "object") && !llmb_schema_has_type(value, "array");
	column->json_in_string = (description && strstr(description, LLMB_JSON_IN_STRING)) ||
		(typed && !llmb_schema_has_type(value, "string"));
}

LlmbSplit *
llmb_split_begin(const LlmbJobDef *def)
{
	LlmbSplit  *split = palloc0(sizeof(LlmbSplit));
	Oid			namespace = def->source_schema ? get_namespace_oid(def->source_schema, true) : InvalidOid;
	Oid			relid = OidIsValid(namespace) ? get_relname_relid(def->source_table, namespace) : InvalidOid;
	const char *reason;

	split->count = def->target_count;
	split->columns = palloc0(sizeof(LlmbColumn) * Max(split->count, 1));
	split->schema = def->schema ? llmb_json_of_text(def->schema, &reason) : NULL;
	split->changed = def->target_count > 0 &&
		llmb_targets_hash(relid, def->target_columns, def->target_count) != def->targets_hash;
	split->scratch = AllocSetContextCreate(CurrentMemoryContext, "llm_batch answer", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < split->count; i++)
	{
		/* of what is gone write-back will tell */
		(void) describe_column(relid, def->target_columns[i], &split->columns[i]);
		heed_property(split->schema, &split->columns[i]);
	}
	split->whole = split->schema && takes_whole(split->columns, split->count, llmb_json_get(split->schema, "properties"));
	return split;
}

static bool
is_target(const char *member, const void *arg)
{
	const LlmbSplit *split = arg;

	for (int i = 0; i < split->count; i++)
	{
		if (strcmp(split->columns[i].name, member) == 0)
			return true;
	}
	return false;
}

/* No schema: the answer as a whole is the value. */
static bool
take_plain(const LlmbSplit *split, char *utf8, const char **texts, bool *altered, const char **reason)
{
	const LlmbColumn *column = &split->columns[0];
	LlmbJson	string = {.type = LLMB_JSON_STRING, .text = utf8};
	LlmbJson   *value = &string;

	if (column->array || column->kind == LLMB_KIND_VECTOR || column->kind == LLMB_KIND_JSON)
	{
		size_t		len = llmb_json_clean(utf8, strlen(utf8), altered);

		utf8[len] = '\0';
		value = llmb_json_parse(utf8, len, reason);
		if (value == NULL)
			return false;
	}
	return llmb_answer_value(column, value, &texts[0], reason);
}

/* What the schema says of a target beyond what its column does. */
static bool
heeds_property(const LlmbSplit *split, const LlmbColumn *column, const LlmbJson *value, const char *text, const char **reason)
{
	LlmbJson   *property = llmb_json_path(split->schema, "properties", column->name, NULL);

	if (property && value && column->kind == LLMB_KIND_JSON && !column->array)
	{
		/* JSON that was asked for in a string is free */
		if (column->json_in_string && (value->type == LLMB_JSON_STRING || llmb_schema_has_type(property, "string")))
			return true;
		return llmb_answer_check(property, value, column->name, NULL, NULL, reason);
	}
	return llmb_answer_listed(column, property, value, text, reason);
}

static bool
take_members(const LlmbSplit *split, char *utf8, const char **texts, bool *altered, const char **reason)
{
	LlmbJson   *object = llmb_answer_recover(utf8, strlen(utf8), split->schema, altered, reason);

	if (object == NULL)
		return false;
	if (split->whole)
		return llmb_answer_check(split->schema, object, "", NULL, NULL, reason) &&
			llmb_answer_value(&split->columns[0], object, &texts[0], reason);
	for (int i = 0; i < split->count; i++)
	{
		const LlmbColumn *column = &split->columns[i];
		LlmbJson   *value = llmb_json_get(object, column->name);

		if (!llmb_answer_value(column, value, &texts[i], reason) ||
			!heeds_property(split, column, value, texts[i], reason))
			return false;
	}
	return llmb_answer_check(split->schema, object, "", is_target, split, reason);
}

/* As write-back has always taken it: nothing but the text. */
static bool
takes_anything(const LlmbSplit *split)
{
	return split->schema == NULL &&
		(split->count == 0 || (split->columns[0].kind == LLMB_KIND_TEXT && !split->columns[0].array));
}

bool
llmb_split_answer(LlmbSplit *split, const char *answer, char **columns, bool *altered, const char **reason)
{
	MemoryContext old;
	const char **texts;
	char	   *utf8;
	bool		fits;

	if (takes_anything(split))
	{
		if (split->count > 0)
			columns[0] = pstrdup(answer);
		return true;
	}
	MemoryContextReset(split->scratch);
	old = MemoryContextSwitchTo(split->scratch);
	texts = palloc0(sizeof(char *) * Max(split->count, 1));
	utf8 = llmb_to_utf8(answer);
	fits = split->schema ? take_members(split, utf8, texts, altered, reason) :
		take_plain(split, utf8, texts, altered, reason);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < split->count && fits; i++)
		columns[i] = texts[i] ? llmb_from_utf8(texts[i], altered) : NULL;
	if (!fits)
		*reason = llmb_from_utf8(*reason, NULL);
	return fits;
}

bool
llmb_split_is_changed(const LlmbSplit *split)
{
	return split->changed;
}
