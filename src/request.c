/*-------------------------------------------------------------------------
 *
 * request.c
 *		From a job and a prompt to the provider's request.
 *
 * The database's encoding ends here: what goes to a provider is UTF-8, what
 * comes back from these functions is the database's.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "request.h"

char *
llmb_to_utf8(const char *text)
{
	char	   *utf8 = pg_server_to_any(text, strlen(text), PG_UTF8);

	/* pg_server_to_any gives the text itself where nothing is to be done */
	return utf8 == text ? pstrdup(text) : utf8;
}

LlmbJson *
llmb_json_of_text(const char *text, const char **reason)
{
	char	   *utf8 = llmb_to_utf8(text);
	bool		altered = false;
	size_t		len = llmb_json_clean(utf8, strlen(utf8), &altered);

	utf8[len] = '\0';
	return llmb_json_parse(utf8, len, reason);
}

/* One UTF-8 character in the database's encoding, or as \uXXXX. */
static void
append_character(StringInfo out, const unsigned char *at, int len, bool *altered)
{
	pg_wchar	c = utf8_to_unicode(at);
	char	   *converted;

	if (len == 1)
	{
		appendStringInfoChar(out, *at);
		return;
	}
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
	{
		unsigned char buffer[MAX_UNICODE_EQUIVALENT_STRING + 1];
		Oid			proc = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());

		if (OidIsValid(proc) &&
			pg_do_encoding_conversion_buf(proc, PG_UTF8, GetDatabaseEncoding(),
										  (unsigned char *) at, len, buffer, sizeof(buffer), true) == len)
		{
			converted = (char *) buffer;
			appendStringInfoString(out, converted);
			return;
		}
	}
	if (c >= 0x10000)
		appendStringInfo(out, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
	else
		appendStringInfo(out, "\\u%04x", c);
	if (altered)
		*altered = true;
}

char *
llmb_from_utf8(const char *text, bool *altered)
{
	const unsigned char *at = (const unsigned char *) text;
	StringInfoData out;

	if (GetDatabaseEncoding() == PG_UTF8)
		return pstrdup(text);
	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		return pstrdup(text);
	initStringInfo(&out);
	while (*at)
	{
		int			len = pg_utf_mblen(at);

		append_character(&out, at, len, altered);
		at += len;
	}
	return out.data;
}

/* ---- requests ---- */

static LlmbJson *
parsed(const char *json)
{
	const char *reason;

	if (json == NULL || strcmp(json, "{}") == 0)
		return NULL;
	return llmb_json_of_text(json, &reason);
}

static const char *
utf8_or_null(const char *text)
{
	if (text == NULL || GetDatabaseEncoding() == PG_UTF8)
		return text;
	return llmb_to_utf8(text);
}

/* An item's own parameters go over the job's. */
static LlmbJson *
merged_params(const char *job, const char *item)
{
	LlmbJson   *params = parsed(job);
	LlmbJson   *own = parsed(item);

	if (own == NULL || own->first == NULL)
		return params;
	if (params == NULL || params->first == NULL)
		return own;
	for (LlmbJson *member = params->first; member; member = member->next)
	{
		LlmbJson   *over = llmb_json_get(own, member->name);

		if (over == NULL)
		{
			LlmbJson   *copy = palloc(sizeof(LlmbJson));

			*copy = *member;
			copy->next = own->first;
			own->first = copy;
			own->count++;
		}
	}
	return own;
}

void
llmb_put_request(StringInfo out, const LlmbServer *server, const LlmbModel *model,
				 const LlmbJobDef *def, const LlmbPrompt *prompt, const char *custom_id, bool first)
{
	LlmbRequest request = {0};

	request.custom_id = custom_id;
	request.first = first;
	request.model = model;
	request.dialect = &server->dialect;
	if (def->mask_pii && !prompt->masked)
		elog(ERROR, "a prompt that was not masked was to be sent");
	request.system = prompt->masked ? prompt->system : utf8_or_null(prompt->system ? prompt->system : def->system);
	request.prompt = prompt->masked ? prompt->prompt : utf8_or_null(prompt->prompt);
	request.messages = prompt->masked ? prompt->messages : utf8_or_null(prompt->messages);
	request.params = merged_params(def->params, prompt->params);
	request.schema = utf8_or_null(def->schema);
	if (custom_id)
		server->provider->put_line(out, &request);
	else
		server->provider->put_body(out, &request);
}

bool
llmb_sends_bodies(const LlmbServer *server, bool realtime)
{
	return realtime && server->provider->answer == NULL;
}

int64
llmb_text_bytes(const LlmbJobDef *def, const LlmbPrompt *prompt)
{
	const char *system = prompt->system || prompt->masked ? prompt->system : prompt->messages ? NULL : def->system;

	return (prompt->prompt ? strlen(prompt->prompt) : 0) +
		(prompt->messages ? strlen(prompt->messages) : 0) + (system ? strlen(system) : 0);
}
