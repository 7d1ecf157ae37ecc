/*-------------------------------------------------------------------------
 *
 * llm_batch.c
 *		Where the library is loaded: settings, shared memory, launcher, and
 *		the utility hook that gets the worker out of a database's way.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "commands/defrem.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "compat.h"
#include "launcher.h"
#include "shmem.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static ProcessUtility_hook_type previous_utility_hook = NULL;

/* The database that a statement needs for itself alone, or NULL. */
static const char *
database_needed(Node *statement)
{
	ListCell   *lc;

	if (IsA(statement, DropdbStmt))
		return ((DropdbStmt *) statement)->dbname;
	if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return ((RenameStmt *) statement)->subname;
	if (IsA(statement, AlterDatabaseStmt))
	{
		foreach(lc, ((AlterDatabaseStmt *) statement)->options)
		{
			if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
				return ((AlterDatabaseStmt *) statement)->dbname;
		}
	}
	if (IsA(statement, CreatedbStmt))
	{
		foreach(lc, ((CreatedbStmt *) statement)->options)
		{
			DefElem    *def = lfirst_node(DefElem, lc);

			if (strcmp(def->defname, "template") == 0 && def->arg)
				return defGetString(def);
		}
	}
	return NULL;
}

static bool
creates_extension(Node *statement)
{
	return IsA(statement, CreateExtensionStmt) &&
		strcmp(((CreateExtensionStmt *) statement)->extname, LLMB_EXTENSION) == 0;
}

/* have_createdb_privilege() is extern in some minor versions of 15 only. */
static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		may = false;

	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

/* Who could not do it anyway shall not be able to stop the worker. */
static bool
may_need(Node *statement, Oid database)
{
	if (superuser())
		return true;
	if (IsA(statement, CreatedbStmt))
		return may_create_databases() && llmb_owns_database(database);
	return llmb_owns_database(database);
}

static void
release_database(int code, Datum database)
{
	(void) code;
	llmb_release_database(DatumGetObjectId(database), false);
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	const char *name = database_needed(pstmt->utilityStmt);
	Oid			database = name ? get_database_oid(name, true) : InvalidOid;
	ProcessUtility_hook_type next = previous_utility_hook ? previous_utility_hook : standard_ProcessUtility;

	if (!OidIsValid(database) || !may_need(pstmt->utilityStmt, database))
	{
		next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		if (creates_extension(pstmt->utilityStmt))
			llmb_extension_at_commit();
		return;
	}
	/* also when the session is terminated: nobody else would release it */
	PG_ENSURE_ERROR_CLEANUP(release_database, ObjectIdGetDatum(database));
	{
		llmb_hold_database(database);
		next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_database, ObjectIdGetDatum(database));
	llmb_release_database(database, IsA(pstmt->utilityStmt, DropdbStmt));
}

void
_PG_init(void)
{
	llmb_define_settings();
	if (!process_shared_preload_libraries_in_progress)
		return;
	llmb_shmem_request();
	previous_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	/* pg_upgrade wants the server for itself */
	if (!IsBinaryUpgrade)
		llmb_register_launcher();
}
