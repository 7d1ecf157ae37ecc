/*-------------------------------------------------------------------------
 *
 * trouble.c
 *		What is wrong with a table that a task is attached to.
 *
 * Tables are dropped, renamed and get partitions, and nobody calls us then.
 * So this is looked up in the catalogs when somebody looks at the task: no
 * lock is taken, and nothing is mended here, for DDL is its owner's.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "source.h"
#include "task_trigger.h"
#include "trouble.h"

PG_FUNCTION_INFO_V1(llmb_source_trouble);

/* An attachment as the view llm_batch.tasks gives it. */
typedef struct Attached
{
	int64		id;
	const char *schema;
	const char *table;
	const char *table_owner;
	const char *task;
	const char *task_owner;
	bool		triggers;		/* attach() has made them */
} Attached;

Oid
llmb_table_by_name(const char *schema, const char *table)
{
	Oid			namespace = get_namespace_oid(schema, true);

	return OidIsValid(namespace) ? get_relname_relid(table, namespace) : InvalidOid;
}

static char *
name_of(Oid relid)
{
	char	   *name = get_rel_name(relid);
	char	   *schema = name ? get_namespace_name(get_rel_namespace(relid)) : NULL;

	return schema ? quote_qualified_identifier(schema, name) : NULL;
}

static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/*
 * Triggers keep their names when a table gets another.  Anybody can give a
 * trigger of his such a name, so the table must be its owner's still.
 */
static Oid
renamed_to(const Attached *a)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	Oid			owner = get_role_oid(a->table_owner, true);
	Oid			found = InvalidOid;
	NameData	name;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	namestrcpy(&name, llmb_trigger_name(a->id, 0));
	ScanKeyInit(&key, Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&name));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (!OidIsValid(found) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;

		if (OidIsValid(owner) && owner_of(relid) == owner && !get_rel_relispartition(relid))
			found = relid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static char *
call(const char *function, const Attached *a, const char *table)
{
	return psprintf("%s(%s, %s)", function, quote_literal_cstr(a->task), quote_literal_cstr(table));
}

/* Of the table itself, or NULL. */
static char *
trouble_of_table(const Attached *a, Oid relid)
{
	char	   *named = quote_qualified_identifier(a->schema, a->table);
	char	   *now;

	if (!OidIsValid(relid))
	{
		now = a->triggers ? name_of(renamed_to(a)) : NULL;
		if (now)
			return psprintf("table %s is called %s now: %s", named, now, call("attach", a, now));
		return psprintf("table %s does not exist any more: attach() another, or %s", named, call("detach", a, named));
	}
	if (!llmb_owner_is_known(relid, a->table_owner, get_role_oid(a->task_owner, true)))
		return psprintf("table %s belongs to another role now: %s", named, call("attach", a, named));
	if (a->triggers && !llmb_has_triggers(relid, a->id))
		return psprintf("table %s lacks triggers of the task, so its changes are missed: %s, then run(%s)",
						named, call("attach", a, named), quote_literal_cstr(a->task));
	return NULL;
}

/* Of partitions that came after attach(), or NULL. */
static char *
trouble_of_parts(const Attached *a, Oid relid)
{
	char	   *first = NULL;
	int			count = 0;
	ListCell   *lc;

	if (!a->triggers || !OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return NULL;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		char	   *name = llmb_has_triggers(lfirst_oid(lc), a->id) ? NULL : name_of(lfirst_oid(lc));

		if (name == NULL)
			continue;
		if (count++ == 0)
			first = name;
	}
	if (count == 0)
		return NULL;
	return psprintf("partition %s%s came later: what is written or emptied by its own name is missed; %s, then run(%s)",
					first, count == 1 ? "" : psprintf(" (and %d more)", count - 1),
					call("attach", a, quote_qualified_identifier(a->schema, a->table)), quote_literal_cstr(a->task));
}

/*
 * llm_batch.source_trouble(attachment bigint, source_schema name,
 * source_table name, source_owner name, task text, task_owner name, triggers
 * boolean, parts boolean) returns text: what is wrong with the table, or with
 * parts of it; NULL nothing
 */
Datum
llmb_source_trouble(PG_FUNCTION_ARGS)
{
	Attached	a = {
		.id = PG_GETARG_INT64(0),
		.schema = NameStr(*PG_GETARG_NAME(1)),
		.table = NameStr(*PG_GETARG_NAME(2)),
		.table_owner = NameStr(*PG_GETARG_NAME(3)),
		.task = text_to_cstring(PG_GETARG_TEXT_PP(4)),
		.task_owner = NameStr(*PG_GETARG_NAME(5)),
		.triggers = PG_GETARG_BOOL(6),
	};
	Oid			relid = llmb_table_by_name(a.schema, a.table);
	char	   *trouble = PG_GETARG_BOOL(7) ? trouble_of_parts(&a, relid) : trouble_of_table(&a, relid);

	if (trouble == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(trouble));
}
