/*-------------------------------------------------------------------------
 *
 * call.c
 *		A provider's call: over HTTP, or answered in process.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "call.h"
#include "crash.h"
#include "health.h"
#include "turn.h"

/*
 * Cap of a reply that is not lines.  The largest is a page of 100 batches,
 * about 1 kB each; lists of models run to some hundred kB.
 */
#define REPLY_CAP	(8 * 1024 * 1024)
/* Cap of one line: an answer of 128,000 tokens, escaped, stays under 2 MB. */
#define LINE_CAP	(16 * 1024 * 1024)

static LlmbParty *answered_parties = NULL;

/* ---- guarding ---- */

bool
llmb_guarded(void (*step) (void *arg), void *arg, const char *what)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool went_well = true;

	PG_TRY();
	{
		step(arg);
	}
	PG_CATCH();
	{
		went_well = false;
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		errcontext("%s", what);
		EmitErrorReport();
		llmb_turn_abort();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return went_well;
}

/* ---- starting ---- */

/* Its name in crash points. */
static const char *
call_name(LlmbVerb verb)
{
	static const char *const names[] = {
		[LLMB_CALL_UPLOAD] = "call upload",
		[LLMB_CALL_UPLOAD_DATA] = "call upload data",
		[LLMB_CALL_CREATE] = "call create",
		[LLMB_CALL_POLL] = "call poll",
		[LLMB_CALL_LIST] = "call list",
		[LLMB_CALL_CANCEL] = "call cancel",
		[LLMB_CALL_FETCH] = "call fetch",
		[LLMB_CALL_FIND_FILE] = "call find file",
		[LLMB_CALL_DELETE_FILE] = "call delete file",
		[LLMB_CALL_CHECK] = "call check",
		[LLMB_CALL_ANSWER] = "call answer",
	};

	return verb < (int) lengthof(names) && names[verb] ? names[verb] : "call";
}

static void
answer_in_process(LlmbParty *party, LlmbVerb verb, const LlmbBatchRef *ref)
{
	LlmbHttpReply http = {.retry_after_ms = -1};

	party->provider->answer(verb, ref, llmb_now_ms(), &http);
	party->answered = MemoryContextStrdup(TopMemoryContext, http.body ? http.body : "");
	party->answered_status = http.status;
	party->answered_retry_ms = http.retry_after_ms;
	party->next = answered_parties;
	answered_parties = party;
}

static void
start_transfer(LlmbParty *party, const LlmbServer *server, LlmbCall *call, LlmbSpool *spool)
{
	LlmbHttpRequest request = {0};
	char	  **headers = palloc(sizeof(char *) * (call->header_count + server->header_count + 1));

	for (int i = 0; i < call->header_count; i++)
		headers[request.header_count++] = call->headers[i];
	for (int i = 0; i < server->header_count; i++)
		headers[request.header_count++] = server->headers[i];
	request.method = call->method;
	request.url = psprintf("%s%s", server->base_url, call->path);
	request.headers = headers;
	request.body = call->body ? call->body->data : NULL;
	request.body_len = call->body ? call->body->len : 0;
	if (party->verb == LLMB_CALL_ANSWER)
	{
		request.body = party->body;
		request.body_len = party->body_len;
	}
	if (call->with_file)
	{
		(void) llmb_spool_read(spool, NULL, 0, true);
		request.file = llmb_spool_read;
		request.file_arg = spool;
		request.file_len = llmb_spool_bytes(spool);
		request.after = call->after_file;
	}
	request.lines = party->lines_wanted = call->reply_is_lines;
	/* results may come inside the reply that describes their batch */
	request.reply_cap = call->reply_is_lines || party->verb == LLMB_CALL_FETCH || party->verb == LLMB_CALL_POLL ?
		LINE_CAP : REPLY_CAP;
	request.connect_timeout_ms = server->connect_timeout_ms;
	request.request_timeout_ms = server->request_timeout_ms;
	request.ca_file = server->ca_file;
	request.proxy = server->proxy;
	request.allow_loopback = server->allow_loopback;
	request.owner = party;
	request.name = call_name(party->verb);
	party->transfer = llmb_http_start(&request);
	party->health = llmb_health_of(server);
	party->called_ms = llmb_health_sent(party->health);
}

bool
llmb_call_start(LlmbParty *party, const LlmbServer *server, LlmbVerb verb,
				const LlmbBatchRef *ref, const char *key, LlmbSpool *spool)
{
	LlmbCall	call = {0};

	Assert(!llmb_call_busy(party));
	party->provider = server->provider;
	party->verb = verb;
	if (!server->provider->make_call(verb, ref, key, &call))
		return false;
	llmb_crash_point(call_name(verb), "begin");
	if (server->provider->answer)
		answer_in_process(party, verb, ref);
	else
		start_transfer(party, server, &call, spool);
	return true;
}

bool
llmb_call_busy(const LlmbParty *party)
{
	return party->transfer != NULL || party->answered != NULL;
}

static void
unlink_answered(LlmbParty *party)
{
	LlmbParty **at = &answered_parties;

	while (*at && *at != party)
		at = &(*at)->next;
	if (*at)
		*at = party->next;
	party->next = NULL;
}

void
llmb_call_drop(LlmbParty *party)
{
	if (party->transfer)
		llmb_http_free(party->transfer);
	party->transfer = NULL;
	if (party->health)
		llmb_health_dropped(party->health, party->called_ms);
	party->health = NULL;
	if (party->answered)
	{
		unlink_answered(party);
		pfree(party->answered);
	}
	party->answered = NULL;
}

/* ---- serving ---- */

char *
llmb_ending_in_words(const LlmbEnding *ending)
{
	if (ending->wire != LLMB_WIRE_OK)
		return pstrdup(ending->error);
	return ending->reply.code ? psprintf("HTTP %d, %s", ending->status, ending->reply.code) :
		psprintf("HTTP %d", ending->status);
}

typedef struct Service
{
	LlmbParty  *party;
	LlmbTransfer *transfer;		/* NULL: an answer in process */
	LlmbHttpEvent event;
} Service;

static void
hand_out_lines(LlmbParty *party, LlmbTransfer *transfer)
{
	size_t		len;
	char	   *lines = llmb_http_lines(transfer, &len);

	if (len == 0)
		return;
	llmb_health_answers(party->health, party->called_ms);
	party->lines(party, lines, len);
}

/* A whole reply, in memory of the current context. */
static void
read_whole(LlmbParty *party, LlmbTransfer *transfer, LlmbHttpReply *http, LlmbEnding *ending)
{
	char	   *body = llmb_http_body(transfer, &http->len);

	/* not pnstrdup: what came may hold a NUL */
	http->body = palloc(http->len + 1);
	memcpy(http->body, body, http->len);
	http->body[http->len] = '\0';
	if (party->verb == LLMB_CALL_ANSWER)
		party->provider->read_answer(http, &ending->outcome, &ending->reply);
	else
		party->provider->read_reply(party->verb, http, &ending->reply);
	if (ending->reply.lines && ending->reply.lines->len > 0)
		party->lines(party, ending->reply.lines->data, ending->reply.lines->len);
}

/*
 * Why the server is at fault, or NULL.  That it is overloaded (529 of
 * Anthropic, 429) says that it lives, and its reply says when to come again.
 */
static char *
fault_of_server(const LlmbEnding *ending)
{
	if (ending->wire != LLMB_WIRE_OK)
		return pstrdup(ending->error);
	return ending->status >= 500 && ending->status != 529 ? psprintf("HTTP %d", ending->status) : NULL;
}

static void
note_health(LlmbParty *party, const LlmbEnding *ending)
{
	LlmbHealth *health = party->health;

	party->health = NULL;
	llmb_health_ended(health, party->called_ms, fault_of_server(ending));
}

static void
end_transfer(LlmbParty *party, LlmbTransfer *transfer)
{
	LlmbEnding	ending = {.verb = party->verb, .limits = {-1, -1, -1, -1}};
	LlmbHttpReply http = {0};
	bool		lines = party->lines_wanted && llmb_http_status(transfer) == 200;

	llmb_crash_point(call_name(party->verb), "answered");
	ending.wire = llmb_http_wire(transfer);
	ending.status = http.status = llmb_http_status(transfer);
	ending.error = pstrdup(llmb_http_error(transfer) ? llmb_http_error(transfer) : "");
	ending.reply.retry_after_ms = -1;
	http.retry_after_ms = llmb_http_retry_after_ms(transfer);
	http.headers = pstrdup(llmb_http_headers(transfer));
	if (party->provider->read_limits && ending.status > 0)
		party->provider->read_limits(&http, llmb_now_ms(), &ending.limits);
	if (lines)
		hand_out_lines(party, transfer);
	else if (ending.wire == LLMB_WIRE_OK)
		read_whole(party, transfer, &http, &ending);
	/* the party may have dropped the transfer at the sight of its lines */
	if (party->transfer != transfer)
		return;
	note_health(party, &ending);
	llmb_call_drop(party);
	party->ended(party, &ending);
}

static void
end_answered(LlmbParty *party)
{
	LlmbEnding	ending = {.verb = party->verb, .wire = LLMB_WIRE_OK, .error = ""};
	LlmbHttpReply http = {0};

	llmb_crash_point(call_name(party->verb), "answered");
	ending.status = http.status = party->answered_status;
	http.body = pstrdup(party->answered);
	http.len = strlen(http.body);
	http.retry_after_ms = party->answered_retry_ms;
	llmb_call_drop(party);
	party->provider->read_reply(party->verb, &http, &ending.reply);
	party->ended(party, &ending);
}

static void
serve_one(void *arg)
{
	Service    *service = arg;

	if (service->transfer == NULL)
		end_answered(service->party);
	else if (service->event == LLMB_HTTP_DONE)
		end_transfer(service->party, service->transfer);
	else
	{
		size_t		len;

		hand_out_lines(service->party, service->transfer);
		/* the party may have dropped the transfer meanwhile */
		if (service->party->transfer == service->transfer)
		{
			(void) llmb_http_lines(service->transfer, &len);
			llmb_http_taken(service->transfer, len);
		}
	}
}

bool
llmb_call_serve(void)
{
	Service		service = {0};

	service.event = llmb_http_next(&service.transfer);
	if (service.event != LLMB_HTTP_NOTHING)
		service.party = llmb_http_owner(service.transfer);
	else if (answered_parties)
	{
		service.party = answered_parties;
		service.transfer = NULL;
	}
	else
		return false;
	if (!llmb_guarded(serve_one, &service, "llm_batch: serving a provider's reply"))
	{
		llmb_call_drop(service.party);
		service.party->failed(service.party);
	}
	return true;
}
