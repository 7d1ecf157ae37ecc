/*-------------------------------------------------------------------------
 *
 * ground.c
 *		Whether a server can be called for a job, with what, and by which route.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/acl.h"

#include "compat.h"
#include "ground.h"
#include "model.h"

const char *
llmb_ground_obstacle(const char *server_name, LlmbGround *ground)
{
	const LlmbServer *server;
	bool		missing;
	char	   *reason;

	ground->owner = get_role_oid(ground->job->owner, true);
	if (!OidIsValid(ground->owner))
		return psprintf("role \"%s\" does not exist any more", ground->job->owner);
	server = ground->server = llmb_server_by_name(server_name);
	if (server == NULL)
		return psprintf("server \"%s\" does not exist any more", server_name);
	ground->model = llmb_model(server, ground->job->model);
	if (server->provider == NULL)
		return psprintf("api \"%s\" is not supported", server->api);
	if (!server->enabled)
		return psprintf("server \"%s\" is disabled", server->name);
	if (llmb_foreign_server_aclcheck(server->oid, ground->owner) != ACLCHECK_OK)
		return psprintf("role \"%s\" has lost USAGE on server \"%s\"", ground->job->owner, server->name);
	if (!server->provider->needs_key)
		return NULL;
	ground->key = llmb_server_key(server, ground->owner, true, &missing, &reason);
	return ground->key ? NULL : reason;
}

static void
add_to_hash(pg_cryptohash_ctx *hash, const char *text)
{
	/* with the zero at its end, so that parts cannot run into one another */
	if (pg_cryptohash_update(hash, (const uint8 *) (text ? text : ""), (text ? strlen(text) : 0) + 1) < 0)
		elog(ERROR, "could not compute a hash");
}

/*
 * 32 bits tell one key from the next, and nothing of the key; the token is
 * salt, so that rows cannot be compared either.
 */
char *
llmb_ground_route(const LlmbBatchRow *row, const LlmbGround *ground)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];

	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not compute a hash");
	add_to_hash(hash, row->token);
	add_to_hash(hash, ground->server->base_url);
	add_to_hash(hash, ground->server->organization);
	add_to_hash(hash, ground->server->project);
	add_to_hash(hash, ground->key);
	if (pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a hash");
	pg_cryptohash_free(hash);
	return psprintf("%02x%02x%02x%02x", digest[0], digest[1], digest[2], digest[3]);
}
