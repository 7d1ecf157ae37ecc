/*-------------------------------------------------------------------------
 *
 * options.c
 *		SQL/MED options: the validator, and servers as C structs.
 *
 * One table says of every option where it belongs, what it takes and who may
 * set it; the validator, the error hints and the reader all go by it.
 *
 * The validator sees the options that would result, not the change.  So that
 * ALTER SERVER by an owner is not refused for what a superuser set before, a
 * value for superusers is let pass when a server of the current user has the
 * same value already: that gives nobody anything they did not have.  User
 * mappings get no such grace, for a key file must not follow its user to a
 * server of the user's own making.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "options.h"

PG_FUNCTION_INFO_V1(llmb_validator);

typedef enum OptionType
{
	OPT_TEXT,
	OPT_CHOICE,					/* one of "choices", separated by '|' */
	OPT_BOOL,
	OPT_INT,
	OPT_REAL,
	OPT_DURATION,				/* as in postgresql.conf, kept in ms */
	OPT_SIZE,					/* as in postgresql.conf, kept in bytes */
	OPT_URL,
	OPT_HEADERS					/* "Name: value", one a line */
} OptionType;

typedef struct Option
{
	const char *name;
	Oid			catalog;
	OptionType	type;
	const char *choices;
	double		min;
	double		max;
	bool		superuser;		/* always for superusers */
	bool		mock_only;		/* for the in-process provider alone */
	size_t		offset;			/* of its place in LlmbServer; 0: none */
} Option;

#define SERVER(name, type, choices, min, max, field) \
	{name, ForeignServerRelationId, type, choices, min, max, false, false, offsetof(LlmbServer, field)}
#define SERVER_SU(name, type, field) \
	{name, ForeignServerRelationId, type, NULL, 0, 0, true, false, offsetof(LlmbServer, field)}
#define MOCK(name, type, min, max, field) \
	{name, ForeignServerRelationId, type, NULL, min, max, false, true, offsetof(LlmbServer, field)}
#define MAPPING(name, su) \
	{name, UserMappingRelationId, OPT_TEXT, NULL, 0, 0, su, false, 0}

#define MS_PER_DAY (24.0 * 3600 * 1000)
#define MAX_COUNT 2147483647.0
#define MAX_BYTES (1024.0 * 1024 * 1024 * 1024)

static const Option options[] = {
	SERVER("api", OPT_CHOICE, "openai|anthropic|gemini|mock", 0, 0, api),
	SERVER("base_url", OPT_URL, NULL, 0, 0, base_url),
	SERVER("enabled", OPT_BOOL, NULL, 0, 0, enabled),
	SERVER("batch", OPT_BOOL, NULL, 0, 0, batch),
	SERVER("realtime_threshold", OPT_INT, NULL, 0, MAX_COUNT, realtime_threshold),
	SERVER("realtime_concurrency", OPT_INT, NULL, 1, 1000, realtime_concurrency),
	SERVER("requests_per_minute", OPT_INT, NULL, 1, MAX_COUNT, requests_per_minute),
	SERVER("tokens_per_minute", OPT_INT, NULL, 1, 1e15, tokens_per_minute),
	SERVER("max_batch_requests", OPT_INT, NULL, 1, 1e6, max_batch_requests),
	SERVER("max_batch_bytes", OPT_SIZE, NULL, 1024, MAX_BYTES, max_batch_bytes),
	SERVER("max_enqueued_tokens", OPT_INT, NULL, 1, 1e15, max_enqueued_tokens),
	SERVER("max_active_batches", OPT_INT, NULL, 1, 1000, max_active_batches),
	SERVER("poll_min", OPT_DURATION, NULL, 10, MS_PER_DAY, poll_min_ms),
	SERVER("poll_max", OPT_DURATION, NULL, 10, MS_PER_DAY, poll_max_ms),
	SERVER("completion_window", OPT_TEXT, NULL, 0, 0, completion_window),
	SERVER("batch_timeout", OPT_DURATION, NULL, 1000, 30 * MS_PER_DAY, batch_timeout_ms),
	SERVER("fallback", OPT_CHOICE, "realtime|none", 0, 0, fallback),
	SERVER("on_unanswered", OPT_CHOICE, "resend|fail", 0, 0, resend_unanswered),
	SERVER("settle_time", OPT_DURATION, NULL, 0, MS_PER_DAY, settle_time_ms),
	SERVER("max_attempts", OPT_INT, NULL, 1, 100, max_attempts),
	SERVER("invalid_output_retries", OPT_INT, NULL, 0, 100, invalid_output_retries),
	SERVER("retry_base", OPT_DURATION, NULL, 1, MS_PER_DAY, retry_base_ms),
	SERVER("retry_max", OPT_DURATION, NULL, 1, MS_PER_DAY, retry_max_ms),
	SERVER("connect_timeout", OPT_DURATION, NULL, 10, MS_PER_DAY, connect_timeout_ms),
	SERVER("request_timeout", OPT_DURATION, NULL, 10, MS_PER_DAY, request_timeout_ms),
	SERVER("organization", OPT_TEXT, NULL, 0, 0, organization),
	SERVER("project", OPT_TEXT, NULL, 0, 0, project),
	SERVER("api_version", OPT_TEXT, NULL, 0, 0, dialect.api_version),
	SERVER("endpoint", OPT_CHOICE, "chat|responses|embeddings", 0, 0, dialect.endpoint),
	SERVER("structured_output", OPT_CHOICE, "native|object|prompt", 0, 0, dialect.structured),
	SERVER("output_cap", OPT_CHOICE, "max_completion_tokens|max_tokens", 0, 0, dialect.old_cap),
	SERVER("auth", OPT_CHOICE, "bearer|api-key", 0, 0, dialect.key_header),
	SERVER_SU("ca_file", OPT_TEXT, ca_file),
	SERVER_SU("proxy", OPT_TEXT, proxy),
	SERVER_SU("headers", OPT_HEADERS, headers),
	MOCK("latency", OPT_DURATION, 0, MS_PER_DAY, latency_ms),
	MOCK("failure_rate", OPT_REAL, 0, 1, failure_rate),
	MOCK("seed", OPT_INT, 0, 9e18, seed),
	MAPPING("api_key", false),
	MAPPING("api_key_file", true),
	MAPPING("api_key_env", true),
};

/* ---- values ---- */

static const Option *
find_option(const char *name, Oid catalog)
{
	for (int i = 0; i < (int) lengthof(options); i++)
	{
		if (options[i].catalog == catalog && strcmp(options[i].name, name) == 0)
			return &options[i];
	}
	return NULL;
}

static char *
option_names(Oid catalog)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < (int) lengthof(options); i++)
	{
		if (options[i].catalog == catalog)
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", options[i].name);
	}
	return names.data;
}

static void
bad_value(const char *name, const char *takes)
{
	/* the value is not shown: what was meant for another option may be a key */
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errhint("The option takes %s.", takes)));
}

/* A number in the option's unit, checked against its range. */
static double
number_value(const Option *option, const char *value)
{
	const char *hint = NULL;
	double		number;
	char	   *end;

	if (option->type == OPT_DURATION || option->type == OPT_SIZE)
	{
		int			flags = option->type == OPT_DURATION ? GUC_UNIT_MS : GUC_UNIT_BYTE;

		if (!parse_real(value, &number, flags, &hint))
			bad_value(option->name, option->type == OPT_DURATION ?
					  "a duration such as 500ms, 30s, 10min, 1h or 1d (plain numbers are milliseconds)" :
					  "a size such as 64kB or 200MB (plain numbers are bytes)");
	}
	else
	{
		errno = 0;
		number = strtod(value, &end);
		if (end == value || *end != '\0' || errno != 0 || isnan(number) ||
			(option->type == OPT_INT && number != floor(number)))
			bad_value(option->name, option->type == OPT_INT ? "a whole number" : "a number");
	}
	if (number < option->min || number > option->max)
		bad_value(option->name,
				  psprintf("a value from %.15g to %.15g%s", option->min, option->max,
						   option->type == OPT_DURATION ? " ms" :
						   option->type == OPT_SIZE ? " bytes" : ""));
	return number;
}

static bool
is_choice(const char *choices, const char *value)
{
	size_t		len = strlen(value);
	const char *at = choices;

	while (len > 0 && strchr(value, '|') == NULL && (at = strstr(at, value)) != NULL)
	{
		if ((at == choices || at[-1] == '|') && (at[len] == '\0' || at[len] == '|'))
			return true;
		at += len;
	}
	return false;
}

/* Extra headers: "Name: value" lines without control characters. */
static char **
header_lines(const char *name, const char *value, int *count)
{
	char	   *copy = pstrdup(value);
	char	  **lines = palloc0(sizeof(char *) * 32);
	char	   *line;
	char	   *save = NULL;

	*count = 0;
	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
	{
		char	   *colon = strchr(line, ':');
		size_t		name_len = colon ? colon - line : 0;

		if (name_len == 0 || *count == 31 ||
			strspn(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != name_len)
			bad_value(name, "lines of the form \"Name: value\", 31 at most");
		for (char *c = line; *c; c++)
		{
			if ((unsigned char) *c < 0x20 || *c == 0x7f)
				bad_value(name, "lines without control characters");
		}
		lines[(*count)++] = line;
	}
	return lines;
}

/* What travels in these headers is a secret, and pg_foreign_server is for all to read. */
static void
check_no_secret(const char *name, char **lines, int count)
{
	static const char *const secret[] = {
		"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"
	};

	for (int i = 0; i < count; i++)
	{
		size_t		len = strcspn(lines[i], ":");

		for (int s = 0; s < (int) lengthof(secret); s++)
		{
			if (len == strlen(secret[s]) && pg_strncasecmp(lines[i], secret[s], len) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						 errmsg("option \"%s\" must not hold the header \"%s\"", name, secret[s]),
						 errdetail("Everybody can read the options of servers."),
						 errhint("Put the key into a user mapping; option \"auth\" says in which header it travels.")));
		}
	}
}

/* ---- addresses ---- */

/* The host of a URL that begins with http:// or https://, lower case. */
static char *
url_host(const char *url)
{
	const char *start = strstr(url, "://") + 3;
	const char *end = start + strcspn(start, "/?#");
	char	   *host = pnstrdup(start, end - start);
	char	   *colon;

	if (host[0] == '[')
	{
		char	   *close = strchr(host, ']');

		if (close)
			*close = '\0';
		host++;
	}
	else if ((colon = strchr(host, ':')) != NULL)
		*colon = '\0';
	return asc_tolower(host, strlen(host));
}

/*
 * Whether the host is written as a loopback address.  A name that merely
 * resolves to one is stopped when the socket is opened.
 */
static bool
host_is_loopback(const char *host)
{
	size_t		len = strlen(host);

	return strcmp(host, "localhost") == 0 ||
		(len > 10 && strcmp(host + len - 10, ".localhost") == 0) ||
		(strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == len) ||
		strcmp(host, "0.0.0.0") == 0 ||
		strcmp(host, "::1") == 0 || strncmp(host, "::ffff:127.", 11) == 0 ||
		strcmp(host, "::") == 0;
}

/* Behind the host: nothing, or ':' and a port. */
static bool
port_is_valid(const char *url)
{
	const char *host = strstr(url, "://") + 3;
	const char *bracket = host[0] == '[' ? strchr(host, ']') : NULL;
	const char *colon = (bracket ? bracket : host) + strcspn(bracket ? bracket : host, ":/");
	size_t		digits;
	int			port;

	if (host[0] == '[' && (bracket == NULL || strchr(":/", bracket[1]) == NULL))
		return false;
	if (*colon != ':')
		return true;
	digits = strspn(colon + 1, "0123456789");
	port = digits <= 5 ? atoi(colon + 1) : 0;
	return port >= 1 && port <= 65535 && strchr("/", colon[1 + digits]) != NULL;
}

static void
check_url(const char *name, const char *value)
{
	bool		plain = pg_strncasecmp(value, "http://", 7) == 0;

	if (!plain && pg_strncasecmp(value, "https://", 8) != 0)
		bad_value(name, "an address that begins with https:// (or http:// for a loopback host)");
	if (strpbrk(value, " \t\r\n@?#\\") != NULL || url_host(value)[0] == '\0' ||
		!port_is_valid(value))
		bad_value(name, "an address of the form https://host[:port][/path], without user, query or spaces");
	if (plain && !host_is_loopback(url_host(value)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("plain HTTP is refused for option \"%s\"", name),
				 errdetail("The key and the prompts would travel unencrypted."),
				 errhint("Use https://; http:// is possible only to a loopback address.")));
}

/* ---- the validator ---- */

/* A server that the current user owns has this very value already. */
static bool
has_value_already(const char *name, const char *value)
{
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server form = (Form_pg_foreign_server) GETSTRUCT(tuple);
		ForeignServer *server;
		ListCell   *lc;

		if (!has_privs_of_role(GetUserId(), form->srvowner))
			continue;
		server = GetForeignServer(form->oid);
		if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, LLMB_EXTENSION) != 0)
			continue;
		foreach(lc, server->options)
		{
			DefElem    *def = lfirst_node(DefElem, lc);

			if (strcmp(def->defname, name) == 0 && strcmp(defGetString(def), value) == 0)
				found = true;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
check_power(const Option *option, const char *value)
{
	bool		guarded = option->superuser ||
		(option->type == OPT_URL && host_is_loopback(url_host(value)));

	if (!guarded || superuser())
		return;
	if (option->catalog == ForeignServerRelationId && has_value_already(option->name, value))
		return;
	if (option->type == OPT_URL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only a superuser may set option \"%s\" to a loopback address", option->name),
				 errhint("Ask a superuser to create the server and to grant USAGE on it.")));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("only a superuser may set option \"%s\"", option->name),
			 option->catalog == UserMappingRelationId ?
			 errhint("Use option \"api_key\".") :
			 errhint("Ask a superuser to set it.")));
}

static void
check_value(const Option *option, const char *value)
{
	bool		flag;
	char	  **lines;
	int			count;

	switch (option->type)
	{
		case OPT_TEXT:
			if (value[0] == '\0' || strpbrk(value, "\r\n") != NULL)
				bad_value(option->name, "one line of text that is not empty");
			if (strcmp(option->name, "ca_file") == 0 || strcmp(option->name, "api_key_file") == 0)
			{
				if (!is_absolute_path(value))
					bad_value(option->name, "an absolute path");
			}
			break;
		case OPT_CHOICE:
			if (!is_choice(option->choices, value))
				bad_value(option->name, psprintf("one of %s", option->choices));
			break;
		case OPT_BOOL:
			if (!parse_bool(value, &flag))
				bad_value(option->name, "on or off");
			break;
		case OPT_URL:
			check_url(option->name, value);
			break;
		case OPT_HEADERS:
			lines = header_lines(option->name, value, &count);
			check_no_secret(option->name, lines, count);
			break;
		default:
			(void) number_value(option, value);
	}
}

static char *
list_value(List *list, const char *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* Options that not every protocol has a place for; NULL: all have. */
static const char *
apis_of(const char *name)
{
	static const char *const some[][2] = {
		{"organization", "openai"},
		{"project", "openai|anthropic"},
		{"completion_window", "openai"},
		{"endpoint", "openai|mock"},
		{"output_cap", "openai"},
		{"auth", "openai"},
		{"api_version", "openai|anthropic|gemini"},
		{"ca_file", "openai|anthropic|gemini"},
		{"proxy", "openai|anthropic|gemini"},
		{"headers", "openai|anthropic|gemini"},
	};

	for (int i = 0; i < (int) lengthof(some); i++)
	{
		if (strcmp(some[i][0], name) == 0)
			return some[i][1];
	}
	return NULL;
}

static void
check_together(List *list, Oid catalog)
{
	char	   *api = list_value(list, "api");
	ListCell   *lc;

	if (catalog == UserMappingRelationId && list_length(list) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("a user mapping takes one option"),
				 errhint("Give one of %s.", option_names(catalog))));
	if (catalog != ForeignServerRelationId)
		return;
	if (api == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"api\" is required"),
				 errhint("Say which protocol the server speaks: openai, anthropic, gemini or mock.")));
	foreach(lc, list)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const Option *option = find_option(def->defname, catalog);

		const char *apis = option->mock_only ? "mock" : apis_of(option->name);

		if (apis && !is_choice(apis, api))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" is only for servers with api \"%s\"", option->name, apis),
					 errhint("Leave it out.")));
		if (strcmp(api, "mock") == 0 && option->type == OPT_URL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("a server with api \"mock\" takes no option \"%s\"", option->name),
					 errhint("It answers in process; leave the option out.")));
	}
}

/*
 * llm_batch.validator(text[], oid): what CREATE and ALTER of the wrapper's
 * objects call.  Raises for the first thing that is wrong.
 */
Datum
llmb_validator(PG_FUNCTION_ARGS)
{
	List	   *list = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	foreach(lc, list)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const Option *option = find_option(def->defname, catalog);
		char	   *names = option_names(catalog);

		if (option == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", def->defname),
					 names[0] ? errhint("Valid options in this context are: %s", names) :
					 errhint("There are no valid options in this context.")));
		check_value(option, defGetString(def));
		check_power(option, defGetString(def));
	}
	check_together(list, catalog);
	PG_RETURN_VOID();
}

/* ---- reading ---- */

/* Choices in the order of their enum; of two, what is told as true. */
static void
apply_choice(LlmbServer *server, const Option *option, char *value)
{
	char	   *field = (char *) server + option->offset;

	if (option->offset == offsetof(LlmbServer, api))
		server->api = value;
	else if (option->offset == offsetof(LlmbServer, dialect.endpoint))
		server->dialect.endpoint = strcmp(value, "responses") == 0 ? LLMB_ENDPOINT_RESPONSES :
			strcmp(value, "embeddings") == 0 ? LLMB_ENDPOINT_EMBEDDINGS : LLMB_ENDPOINT_CHAT;
	else if (option->offset == offsetof(LlmbServer, dialect.structured))
		server->dialect.structured = strcmp(value, "object") == 0 ? LLMB_STRUCTURED_OBJECT :
			strcmp(value, "prompt") == 0 ? LLMB_STRUCTURED_PROMPT : LLMB_STRUCTURED_NATIVE;
	else
		*(bool *) field = strcmp(value, "realtime") == 0 || strcmp(value, "resend") == 0 ||
			strcmp(value, "max_tokens") == 0 || strcmp(value, "api-key") == 0;
}

static void
apply_option(LlmbServer *server, const Option *option, char *value)
{
	char	   *field = (char *) server + option->offset;

	switch (option->type)
	{
		case OPT_CHOICE:
			apply_choice(server, option, value);
			break;
		case OPT_BOOL:
			(void) parse_bool(value, (bool *) field);
			break;
		case OPT_REAL:
			*(double *) field = number_value(option, value);
			break;
		case OPT_INT:
		case OPT_DURATION:
		case OPT_SIZE:
			*(int64 *) field = (int64) number_value(option, value);
			break;
		case OPT_HEADERS:
			server->headers = header_lines(option->name, value, &server->header_count);
			break;
		default:
			*(char **) field = value;
	}
}

/* Defaults: what the provider documents, else what worked in practice. */
static void
set_defaults(LlmbServer *server)
{
	const LlmbProvider *provider = server->provider;
	bool		mock = strcmp(server->api, "mock") == 0;

	server->enabled = server->batch = server->fallback = true;
	server->resend_unanswered = true;
	server->realtime_threshold = 20;
	server->realtime_concurrency = 16;
	server->max_batch_requests = provider ? provider->max_batch_requests : 50000;
	server->max_batch_bytes = provider ? provider->max_batch_bytes : INT64CONST(200000000);
	server->max_active_batches = 20;
	server->max_attempts = 4;
	server->invalid_output_retries = 1;
	server->poll_min_ms = mock ? 100 : 5000;
	server->poll_max_ms = mock ? 1000 : 300000;
	/* the provider's own end comes first, if it comes */
	server->batch_timeout_ms = ((provider ? provider->window_hours : 24) + 2) * INT64CONST(3600000);
	server->settle_time_ms = mock ? 0 : 15 * INT64CONST(60000);
	server->retry_base_ms = mock ? 100 : 2000;
	server->retry_max_ms = 10 * INT64CONST(60000);
	server->connect_timeout_ms = 10000;
	server->request_timeout_ms = mock ? 1000 : 10 * INT64CONST(60000);
	server->completion_window = pstrdup("24h");
	server->latency_ms = 1000;
}

LlmbServer *
llmb_server_by_oid(Oid oid)
{
	ForeignServer *foreign = GetForeignServerExtended(oid, FSV_MISSING_OK);
	LlmbServer *server;
	ListCell   *lc;
	size_t		len;

	if (foreign == NULL ||
		strcmp(GetForeignDataWrapper(foreign->fdwid)->fdwname, LLMB_EXTENSION) != 0)
		return NULL;
	server = palloc0(sizeof(LlmbServer));
	server->api = list_value(foreign->options, "api");
	server->provider = llmb_provider(server->api);
	set_defaults(server);
	foreach(lc, foreign->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const Option *option = find_option(def->defname, ForeignServerRelationId);

		/* an option without a place belongs to what is not built yet */
		if (option && option->offset != offsetof(LlmbServer, oid))
			apply_option(server, option, defGetString(def));
	}
	server->oid = oid;
	server->name = foreign->servername;
	server->base_url_is_default = server->base_url == NULL;
	if (server->base_url == NULL && server->provider && server->provider->base_url)
		server->base_url = pstrdup(server->provider->base_url);
	if (server->base_url)
	{
		server->base_url = pstrdup(server->base_url);
		len = strlen(server->base_url);
		while (len > 0 && server->base_url[len - 1] == '/')
			server->base_url[--len] = '\0';
		server->allow_loopback = host_is_loopback(url_host(server->base_url));
	}
	return server;
}

LlmbServer *
llmb_server_by_name(const char *name)
{
	Oid			oid = get_foreign_server_oid(name, true);

	return OidIsValid(oid) ? llmb_server_by_oid(oid) : NULL;
}

/* ---- keys ---- */

/* First line of a key file, up to 4 kB. */
static char *
key_from_file(const char *path, char **reason)
{
	FILE	   *file = AllocateFile(path, "r");
	char		line[4096];
	char	   *key = NULL;

	if (file == NULL)
	{
		*reason = psprintf("the key file cannot be read: %s", strerror(errno));
		return NULL;
	}
	if (fgets(line, sizeof(line), file) != NULL)
	{
		line[strcspn(line, "\r\n")] = '\0';
		key = pstrdup(line);
	}
	explicit_bzero(line, sizeof(line));
	FreeFile(file);
	if (key == NULL || key[0] == '\0')
	{
		*reason = pstrdup("the key file is empty");
		return NULL;
	}
	return key;
}

static List *
mapping_options(Oid server, Oid user, bool *found)
{
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;
	List	   *list = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user),
							ObjectIdGetDatum(server));
	*found = HeapTupleIsValid(tuple);
	if (!*found)
		return NIL;
	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		list = untransformRelOptions(datum);
	ReleaseSysCache(tuple);
	return list;
}

char *
llmb_server_key(const LlmbServer *server, Oid owner, bool read_files,
				bool *missing, char **reason)
{
	List	   *list;
	char	   *value;
	bool		found;

	*missing = false;
	*reason = NULL;
	list = mapping_options(server->oid, owner, &found);
	if (!found)
		list = mapping_options(server->oid, InvalidOid, &found);
	if (!found)
	{
		*missing = true;
		*reason = psprintf("there is no user mapping for server \"%s\"", server->name);
		return NULL;
	}
	if ((value = list_value(list, "api_key")) != NULL)
		return value;
	if ((value = list_value(list, "api_key_file")) != NULL)
		return read_files ? key_from_file(value, reason) : pstrdup("");
	if ((value = list_value(list, "api_key_env")) != NULL)
	{
		char	   *key = getenv(value);

		if (!read_files || (key && key[0]))
			return pstrdup(key ? key : "");
		*reason = psprintf("environment variable \"%s\" is not set in the server's environment", value);
		return NULL;
	}
	*reason = psprintf("the user mapping for server \"%s\" has no key", server->name);
	return NULL;
}

/* ---- choosing ---- */

void
llmb_require_usage(const LlmbServer *server)
{
	char	   *user = GetUserNameFromId(GetUserId(), false);

	if (llmb_foreign_server_aclcheck(server->oid, GetUserId()) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for foreign server %s", server->name),
			 errhint("Ask its owner to run: GRANT USAGE ON FOREIGN SERVER %s TO %s;",
					 quote_identifier(server->name), quote_identifier(user))));
}

static void
require_usable(const LlmbServer *server)
{
	bool		missing;
	char	   *reason;

	llmb_require_usage(server);
	if (server->provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("api \"%s\" of server \"%s\" is not supported yet", server->api, server->name),
				 errhint("Use a server with api openai, anthropic, gemini or mock.")));
	if (!server->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" is disabled", server->name),
				 errhint("ALTER SERVER %s OPTIONS (SET enabled 'on');", quote_identifier(server->name))));
	if (!server->provider->needs_key)
		return;
	if (llmb_server_key(server, GetUserId(), false, &missing, &reason) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s", reason),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (api_key '...');",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)),
						 quote_identifier(server->name))));
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	return strcmp(((LlmbServer *) lfirst(a))->name, ((LlmbServer *) lfirst(b))->name);
}

/* All servers of the wrapper that the current user may use. */
static List *
usable_servers(void)
{
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *list = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		LlmbServer *server = llmb_server_by_oid(((Form_pg_foreign_server) GETSTRUCT(tuple))->oid);

		if (server && llmb_foreign_server_aclcheck(server->oid, GetUserId()) == ACLCHECK_OK)
			list = lappend(list, server);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	/* for messages: the catalog has them in any order */
	list_sort(list, by_name);
	return list;
}

/*
 * How well a server suits a model: 2 when the model is its provider's own, 1
 * when it is an endpoint at an address of its own, which may serve any.
 */
static int
suits(const LlmbServer *server, const char *model)
{
	if (server->provider == NULL || !server->enabled)
		return 0;
	if (server->provider->serves(model))
		return 2;
	return server->base_url != NULL && !server->base_url_is_default ? 1 : 0;
}

static LlmbServer *
only_candidate(const char *model)
{
	List	   *usable = usable_servers();
	LlmbServer *found = NULL;
	int			best = 1;
	int			matches = 0;
	StringInfoData names;
	StringInfoData candidates;
	ListCell   *lc;

	initStringInfo(&names);
	initStringInfo(&candidates);
	foreach(lc, usable)
	{
		LlmbServer *server = lfirst(lc);
		int			suit = suits(server, model);

		if (suit > best)
		{
			matches = 0;
			resetStringInfo(&candidates);
		}
		if (suit >= best)
		{
			best = suit;
			found = server;
			matches++;
			appendStringInfo(&candidates, "%s%s", candidates.len ? ", " : "", quote_identifier(server->name));
		}
		appendStringInfo(&names, "%s%s", names.len ? ", " : "", quote_identifier(server->name));
	}
	if (matches == 1)
		return found;
	ereport(ERROR,
			(errcode(matches ? ERRCODE_AMBIGUOUS_PARAMETER : ERRCODE_UNDEFINED_OBJECT),
			 matches ? errmsg("more than one server can serve model \"%s\"", model) :
			 errmsg("no server that you may use serves model \"%s\"", model),
			 matches ? errdetail("Candidates: %s.", candidates.data) :
			 names.len ? errdetail("Servers that you may use: %s.", names.data) : 0,
			 errhint("Pass server => 'name', or set llm_batch.default_server; CREATE SERVER ... FOREIGN DATA WRAPPER llm_batch makes a new one.")));
	return NULL;
}

LlmbServer *
llmb_choose_server(const char *name, const char *model)
{
	LlmbServer *server;

	if (name == NULL && llmb_default_server && llmb_default_server[0])
		name = llmb_default_server;
	server = name ? llmb_server_by_name(name) : only_candidate(model);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist, or is not a server of llm_batch", name),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai');",
						 quote_identifier(name))));
	require_usable(server);
	return server;
}
