/*-------------------------------------------------------------------------
 *
 * probe.c
 *		check_server: a free call through the worker, which is where key
 *		files, proxies and certificates are as they will be in earnest.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "utils/acl.h"
#include "utils/memutils.h"

#include "call.h"
#include "compat.h"
#include "probe.h"
#include "store.h"
#include "turn.h"

typedef struct Probe
{
	LlmbParty	party;			/* must be first */
	int64		id;
} Probe;

static List *probes = NIL;

static void
forget_probe(Probe *probe)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	llmb_call_drop(&probe->party);
	probes = list_delete_ptr(probes, probe);
	pfree(probe);
	MemoryContextSwitchTo(old);
}

static char *
verdict(const LlmbEnding *ending, bool *ok)
{
	const LlmbReply *reply = &ending->reply;

	*ok = false;
	if (ending->wire != LLMB_WIRE_OK)
		return pstrdup(ending->error);
	switch (reply->fault)
	{
		case LLMB_FAULT_NONE:
			*ok = true;
			return psprintf("address, TLS and key work; models that the key can see: %d", reply->models);
		case LLMB_FAULT_KEY:
			return psprintf("the address answers, but refuses the key (HTTP %d%s%s)", ending->status,
							reply->code ? ", " : "", reply->code ? reply->code : "");
		case LLMB_FAULT_QUOTA:
			return psprintf("the key is known, but has no money or quota left (HTTP %d%s%s)", ending->status,
							reply->code ? ", " : "", reply->code ? reply->code : "");
		default:
			return psprintf("the address does not answer as this api does (HTTP %d%s%s)", ending->status,
							reply->code ? ", " : "", reply->code ? reply->code : "");
	}
}

static void
probe_ended(LlmbParty *party, LlmbEnding *ending)
{
	Probe	   *probe = (Probe *) party;
	bool		ok;
	char	   *message = verdict(ending, &ok);

	if (ok && party->provider->answer)
		message = pstrdup("it answers in process, and needs neither address nor key");

	llmb_turn_begin("recording a probe");
	llmb_store_probe_done(probe->id, ok, message);
	llmb_turn_commit();
	forget_probe(probe);
}

static void
probe_failed(LlmbParty *party)
{
	forget_probe((Probe *) party);
}

static bool
is_running(int64 id)
{
	ListCell   *lc;

	foreach(lc, probes)
	{
		if (((Probe *) lfirst(lc))->id == id)
			return true;
	}
	return false;
}

static const char *
prepare(const LlmbProbe *asked, LlmbServer **server, char **key)
{
	Oid			role = get_role_oid(asked->role, true);
	bool		missing;
	char	   *reason = NULL;

	*key = NULL;
	*server = llmb_server_by_name(asked->server);
	if (!OidIsValid(role) || *server == NULL)
		return "the role or the server does not exist any more";
	if (llmb_foreign_server_aclcheck((*server)->oid, role) != ACLCHECK_OK)
		return "the role has no USAGE on the server";
	if ((*server)->provider == NULL)
		return "this api is not supported yet";
	if ((*server)->provider->needs_key)
		*key = llmb_server_key(*server, role, true, &missing, &reason);
	return reason;
}

void
llmb_probe_start_asked(void)
{
	List	   *asked = llmb_store_probes();
	ListCell   *lc;

	foreach(lc, asked)
	{
		LlmbProbe  *ask = lfirst(lc);
		LlmbBatchRef ref = {0};
		LlmbServer *server;
		char	   *key;
		const char *reason;
		Probe	   *probe;
		MemoryContext old;

		if (is_running(ask->id))
			continue;
		reason = prepare(ask, &server, &key);
		if (reason)
		{
			llmb_store_probe_done(ask->id, false, reason);
			continue;
		}
		probe = MemoryContextAllocZero(TopMemoryContext, sizeof(Probe));
		probe->id = ask->id;
		probe->party.ended = probe_ended;
		probe->party.failed = probe_failed;
		ref.organization = server->organization;
		ref.project = server->project;
		ref.dialect = &server->dialect;
		ref.base_url = server->base_url;
		old = MemoryContextSwitchTo(TopMemoryContext);
		probes = lappend(probes, probe);
		MemoryContextSwitchTo(old);
		(void) llmb_call_start(&probe->party, server, LLMB_CALL_CHECK, &ref, key, NULL);
	}
}

bool
llmb_probe_busy(void)
{
	return probes != NIL;
}
