/*-------------------------------------------------------------------------
 *
 * task_trigger.c
 *		The triggers that attach() makes.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "ddl.h"
#include "task_trigger.h"

char *
llmb_relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

List *
llmb_relation_tree(Oid relid, LOCKMODE lockmode)
{
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		return find_all_inheritors(relid, lockmode, NULL);
	return list_make1_oid(relid);
}

typedef struct TriggerForm
{
	const char *suffix;
	const char *event;
	const char *statement;		/* between table and function, for statements */
	const char *row;			/* for rows; NULL: there is none */
} TriggerForm;

static const TriggerForm trigger_forms[] = {
	{"insert", "INSERT", "REFERENCING NEW TABLE AS new FOR EACH STATEMENT", "FOR EACH ROW"},
	{"update", "UPDATE", "REFERENCING OLD TABLE AS old NEW TABLE AS new FOR EACH STATEMENT", "FOR EACH ROW"},
	{"delete", "DELETE", "REFERENCING OLD TABLE AS old FOR EACH STATEMENT", "FOR EACH ROW"},
	{"truncate", "TRUNCATE", "FOR EACH STATEMENT", NULL},
};

char *
llmb_trigger_name(int64 attachment, int form)
{
	return psprintf(LLMB_TRIGGER_PREFIX INT64_FORMAT "_%s", attachment, trigger_forms[form].suffix);
}

bool
llmb_has_triggers(Oid relid, int64 attachment)
{
	for (int i = 0; i < (int) lengthof(trigger_forms); i++)
	{
		if (!OidIsValid(get_trigger_oid(relid, llmb_trigger_name(attachment, i), true)))
			return false;
	}
	return true;
}

static void
create_trigger(const LlmbTask *task, const LlmbAttachment *a, Oid relid, int number)
{
	const TriggerForm *form = &trigger_forms[number];
	char	   *name = llmb_trigger_name(a->id, number);
	bool		by_row = a->row_level && form->row;

	if (OidIsValid(get_trigger_oid(relid, name, true)))
		return;
	llmb_ddl("CREATE TRIGGER %s AFTER %s ON %s %s EXECUTE FUNCTION llm_batch.enqueue(%s)",
			 name, form->event, llmb_relation_name(relid), by_row ? form->row : form->statement, quote_literal_cstr(task->name));
	/* what a subscription applies fires no others */
	if (a->row_level)
		llmb_ddl("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", llmb_relation_name(relid), name);
}

void
llmb_drop_triggers(int64 attachment, Oid relid)
{
	ListCell   *lc;

	foreach(lc, llmb_relation_tree(relid, ShareRowExclusiveLock))
	{
		for (int i = 0; i < (int) lengthof(trigger_forms); i++)
		{
			char	   *name = llmb_trigger_name(attachment, i);

			/* that of a partition goes with the one that it was made from */
			if (OidIsValid(get_trigger_oid(lfirst_oid(lc), name, true)))
				llmb_ddl("DROP TRIGGER %s ON %s", name, llmb_relation_name(lfirst_oid(lc)));
		}
		llmb_triggers_forget(lfirst_oid(lc));
		CommandCounterIncrement();
	}
}

void
llmb_create_triggers(const LlmbTask *task, const LlmbAttachment *a, Oid relid)
{
	ListCell   *lc;

	foreach(lc, llmb_relation_tree(relid, ShareRowExclusiveLock))
	{
		for (int i = 0; i < (int) lengthof(trigger_forms); i++)
		{
			create_trigger(task, a, lfirst_oid(lc), i);
			CommandCounterIncrement();
		}
		llmb_triggers_forget(lfirst_oid(lc));
	}
}

void
llmb_warn_of_triggers(const LlmbTask *task, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgnargs == 1 && strcmp(trigger->tgargs[0], task->name) == 0 &&
			strncmp(trigger->tgname, LLMB_TRIGGER_PREFIX, strlen(LLMB_TRIGGER_PREFIX)) != 0)
			ereport(WARNING,
					(errmsg("trigger \"%s\" on \"%s\" still feeds task \"%s\"", trigger->tgname, RelationGetRelationName(rel), task->name),
					 errdetail("The next row that fires it attaches the table again."),
					 errhint("DROP TRIGGER %s ON %s;", quote_identifier(trigger->tgname), llmb_relation_name(relid))));
	}
	table_close(rel, AccessShareLock);
}

bool
llmb_has_any_trigger(Oid relid, int64 attachment)
{
	for (int i = 0; i < (int) lengthof(trigger_forms); i++)
	{
		if (OidIsValid(get_trigger_oid(relid, llmb_trigger_name(attachment, i), true)))
			return true;
	}
	return false;
}

void
llmb_triggers_forget(Oid relid)
{
	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
	else
		CacheInvalidateRelcacheAll();
}
