/*-------------------------------------------------------------------------
 *
 * preset.c
 *		Prompts to start from.
 *
 * A preset is a row: prompt, system prompt, parameters and schema.  What
 * differs from one use to the next (the language of a translation, the
 * classes of a classification) stands in parentheses behind its name and
 * replaces {{argument}}: in the system prompt as it is, in the schema as a
 * list of strings.  A schema whose argument is not given is none: the classes
 * are then those of an enum column, or of the caller's schema.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/builtins.h"

#include "json.h"
#include "preset.h"
#include "request.h"
#include "sql.h"
#include "template.h"

#define ARGUMENT	"{{argument}}"

/* A row as it is stored. */
typedef struct PresetRow
{
	LlmbPreset	preset;
	char	   *argument;		/* what may stand in parentheses; NULL nothing */
	char	   *fallback;		/* what stands for it when it is not given */
} PresetRow;

/* ---- the table ---- */

static bool
read_row(const char *name, PresetRow *row)
{
	LlmbRows   *rows = llmb_sql("SELECT prompt, system, params::text, schema::text, argument, argument_default "
								"FROM llm_batch.preset WHERE name = $1 ORDER BY shipped LIMIT 1",
								"t", name);
	bool		found = llmb_row_count(rows) > 0;

	if (found)
	{
		row->preset.prompt = llmb_row_text(rows, 0, 1);
		row->preset.system = llmb_row_text(rows, 0, 2);
		row->preset.params = llmb_row_text(rows, 0, 3);
		row->preset.schema = llmb_row_text(rows, 0, 4);
		row->argument = llmb_row_text(rows, 0, 5);
		row->fallback = llmb_row_text(rows, 0, 6);
	}
	llmb_sql_done(rows);
	return found;
}

static char **
all_names(int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT DISTINCT name FROM llm_batch.preset ORDER BY name", "");
	char	  **names;

	*count = llmb_row_count(rows);
	names = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		names[i] = llmb_row_text(rows, i, 1);
	llmb_sql_done(rows);
	return names;
}

static void
unknown(const char *name)
{
	int			count;
	char	  **names = all_names(&count);
	const char *near = llmb_nearest(name, names, count);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", names[i]);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("preset \"%s\" does not exist", name),
			 errdetail("There are: %s.", list.data),
			 near ? errhint("Perhaps you meant \"%s\".", near) :
			 errhint("Name one of these, add a row of yours to llm_batch.preset, or pass a prompt.")));
}

/* ---- name and argument ---- */

static char *
trimmed(const char *text, size_t len)
{
	size_t		skip = strspn(text, " \t\r\n");

	skip = Min(skip, len);
	text += skip;
	len -= skip;
	while (len > 0 && strchr(" \t\r\n", text[len - 1]))
		len--;
	return pnstrdup(text, len);
}

/* "name(argument)" in its parts; *argument is NULL without parentheses, or with none between them. */
static char *
split_name(const char *given, char **argument)
{
	char	   *whole = trimmed(given, strlen(given));
	size_t		len = strlen(whole);
	char	   *open = strchr(whole, '(');

	*argument = NULL;
	if (open == NULL || whole[len - 1] != ')')
		return whole;
	*argument = trimmed(open + 1, whole + len - 1 - (open + 1));
	if ((*argument)[0] == '\0')
		*argument = NULL;
	return trimmed(whole, open - whole);
}

/* ---- the argument in its places ---- */

static char *
replace(const char *text, const char *what, const char *by)
{
	StringInfoData out;
	const char *at;

	initStringInfo(&out);
	while ((at = strstr(text, what)) != NULL)
	{
		appendBinaryStringInfo(&out, text, at - text);
		appendStringInfoString(&out, by);
		text = at + strlen(what);
	}
	appendStringInfoString(&out, text);
	return out.data;
}

/* "a, b" as "a", "b" */
static char *
as_strings(const char *argument)
{
	StringInfoData out;

	initStringInfo(&out);
	for (;;)
	{
		size_t		len = strcspn(argument, ",");
		char	   *one = trimmed(argument, len);

		if (one[0] != '\0')
		{
			appendStringInfoString(&out, out.len > 0 ? ", " : "");
			llmb_json_put_string(&out, llmb_to_utf8(one));
		}
		if (argument[len] == '\0')
			return llmb_from_utf8(out.data, NULL);
		argument += len + 1;
	}
}

static bool
has_room(const char *text)
{
	return text && strstr(text, ARGUMENT) != NULL;
}

static void
put_argument(const char *name, PresetRow *row, const char *argument)
{
	LlmbPreset *preset = &row->preset;

	if (argument && row->argument == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("preset \"%s\" takes nothing in parentheses", name),
				 errhint("Write preset => '%s'.", name)));
	/* one that lists nothing is none */
	if (argument && argument[strspn(argument, ", \t\r\n")] == '\0')
		argument = NULL;
	argument = argument ? argument : row->fallback;
	if (argument == NULL && has_room(preset->system))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("preset \"%s\" needs its %s", name, row->argument ? row->argument : "argument"),
				 errhint("Write it in parentheses: preset => '%s(...)'.", name)));
	if (has_room(preset->system))
		preset->system = replace(preset->system, ARGUMENT, argument);
	if (has_room(preset->schema))
		preset->schema = argument ? replace(preset->schema, "\"" ARGUMENT "\"", as_strings(argument)) : NULL;
}

void
llmb_preset(const char *name, LlmbPreset *preset)
{
	PresetRow	row;
	char	   *argument;
	char	   *bare = split_name(name, &argument);

	if (!read_row(bare, &row))
		unknown(bare);
	put_argument(bare, &row, argument);
	*preset = row.preset;
}

/* ---- what it chooses from ---- */

static bool
lists_values(const LlmbJson *json)
{
	if (json->type == LLMB_JSON_OBJECT && (llmb_json_get(json, "enum") || llmb_json_get(json, "const")))
		return true;
	for (const LlmbJson *child = json->first; child; child = child->next)
	{
		if (lists_values(child))
			return true;
	}
	return false;
}

void
llmb_preset_check(const char *name, const char *schema)
{
	PresetRow	row;
	char	   *argument;
	char	   *bare = name ? split_name(name, &argument) : NULL;
	const char *reason;
	LlmbJson   *json;

	if (bare == NULL || !read_row(bare, &row) || !has_room(row.preset.schema) || row.fallback)
		return;
	json = schema ? llmb_json_of_text(schema, &reason) : NULL;
	if (json && lists_values(json))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("preset \"%s\" has nothing to choose from", bare),
			 errdetail("It needs %s, and the answer can be any text.", row.argument ? row.argument : "a list"),
			 errhint("Make the target column an enum (without a target: preset => '%s(one, another)'), or pass a schema with a property that has an \"enum\".", bare)));
}
