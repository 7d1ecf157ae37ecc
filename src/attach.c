/*-------------------------------------------------------------------------
 *
 * attach.c
 *		attach and detach: which tables a task answers.
 *
 * An attachment is checked when it is made, as the task's owner, whose jobs
 * its rows become; the worker finds out at use what has changed since.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "attach.h"
#include "compat.h"
#include "own_task.h"
#include "preset.h"
#include "schema.h"
#include "shmem.h"
#include "source.h"
#include "task_trigger.h"
#include "trouble.h"
#include "view.h"
#include "watch.h"

PG_FUNCTION_INFO_V1(llmb_attach);
PG_FUNCTION_INFO_V1(llmb_detach);
PG_FUNCTION_INFO_V1(llmb_detach_by_name);

/* ---- what is checked ---- */

/* The prompt must not read what the answer changes. */
static void
check_generated(Relation rel, const LlmbSource *source)
{
	const char *missing;
	Bitmapset  *targets = llmb_column_numbers(rel, source->targets, source->target_count, &missing);

	for (int i = 0; i < source->template->column_count; i++)
	{
		const char *column = source->template->columns[i];

		if (llmb_generated_from(rel, get_attnum(RelationGetRelid(rel), column), targets))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the prompt reads its own target"),
					 errdetail("Column \"%s\" is generated from a target column.", column),
					 errhint("Leave {{%s}} out of the prompt, or write the answer to another column.", column)));
	}
}

/* submit() raises for a row without a key; one that a trigger tells of would wait for nothing. */
static void
check_key(Relation rel, const LlmbSource *source)
{
	for (int i = 0; i < source->key_count; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), source->keys[i]);

		if (!TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of the key may be NULL", source->keys[i]),
					 errdetail("An answer finds its row by the key: rows without one would never be answered."),
					 errhint("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL;",
							 quote_qualified_identifier(source->schema, source->table), quote_identifier(source->keys[i]))));
	}
}

static bool
reads_any(const char *prompt, char **columns, int count)
{
	LlmbTemplate *template = llmb_template_parse(prompt);

	for (int i = 0; i < template->column_count; i++)
	{
		for (int j = 0; j < count; j++)
		{
			if (strcmp(template->columns[i], columns[j]) == 0)
				return true;
		}
	}
	return false;
}

/* Does what "from" writes lead, from prompt to target, to what "to" reads? */
static bool
leads_to(const LlmbAttachment *from, const LlmbAttachment *to, List *all, List *passed)
{
	ListCell   *lc;

	if (reads_any(to->prompt, from->targets, from->target_count))
		return true;
	foreach(lc, all)
	{
		LlmbAttachment *next = lfirst(lc);

		if (next->id != to->id && !list_member_ptr(passed, next) &&
			reads_any(next->prompt, from->targets, from->target_count) &&
			leads_to(next, to, all, lappend(list_copy(passed), next)))
			return true;
	}
	return false;
}

/* A table, what it is a part of, and the parts of that: they share rows. */
static List *
relation_family(Oid relid)
{
	List	   *ancestors = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;
	Oid			top = ancestors ? llast_oid(ancestors) : relid;

	return get_rel_relkind(top) == RELKIND_PARTITIONED_TABLE ? find_all_inheritors(top, NoLock, NULL) : list_make1_oid(top);
}

List *
llmb_attachments_of_family(Oid relid)
{
	List	   *all = NIL;
	ListCell   *lc;

	foreach(lc, relation_family(relid))
	{
		const char *name = get_rel_name(lfirst_oid(lc));
		List	   *namesakes = name ? llmb_store_attachments(0, get_namespace_name(get_rel_namespace(lfirst_oid(lc))), name) : NIL;
		ListCell   *a;

		/* those of a table of somebody else's that had the name once say nothing of this one */
		foreach(a, namesakes)
		{
			if (llmb_owner_is_known(lfirst_oid(lc), ((LlmbAttachment *) lfirst(a))->source_owner, InvalidOid))
				all = lappend(all, lfirst(a));
		}
	}
	return all;
}

/* Tasks that would answer each other for ever. */
static void
check_cycle(const LlmbTask *task, const LlmbAttachment *attachment, Oid relid)
{
	List	   *all = NIL;
	ListCell   *lc;

	foreach(lc, llmb_attachments_of_family(relid))
	{
		if (((LlmbAttachment *) lfirst(lc))->id != attachment->id)
			all = lappend(all, lfirst(lc));
	}
	if (leads_to(attachment, attachment, all, NIL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tasks on \"%s\" would read each other's targets in a circle", attachment->source_table),
				 errdetail("What task \"%s\" writes is read by a task whose target leads back to its prompt.", task->name),
				 errhint("Write to another column, or leave that column out of the prompt.")));
}

/* ---- attaching ---- */

/* A table and a part of it would each have the part's rows answered. */
static void
check_not_attached_twice(const LlmbTask *task, Oid relid)
{
	List	   *relatives = list_concat(get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL,
										get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ?
										list_delete_oid(find_all_inheritors(relid, AccessShareLock, NULL), relid) : NIL);
	ListCell   *lc;

	foreach(lc, relatives)
	{
		if (llmb_store_find_attachment(task->id, get_namespace_name(get_rel_namespace(lfirst_oid(lc))), get_rel_name(lfirst_oid(lc))) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("task \"%s\" is attached to \"%s\" already, which shares rows with \"%s\"",
							task->name, get_rel_name(lfirst_oid(lc)), get_rel_name(relid)),
					 errhint("Attach it to the whole table or to parts of it, not to both.")));
	}
}

/* The table was attached under another name: its triggers say so, and its owner, for anybody may name a trigger so.  0: it was not. */
static int64
renamed_attachment(const LlmbTask *task, Relation rel)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const char *name = rel->trigdesc->triggers[i].tgname;
		LlmbAttachment *a;

		if (strncmp(name, LLMB_TRIGGER_PREFIX, strlen(LLMB_TRIGGER_PREFIX)) != 0)
			continue;
		a = llmb_store_attachment(strtoll(name + strlen(LLMB_TRIGGER_PREFIX), NULL, 10));
		if (a && a->task == task->id && !rel->rd_rel->relispartition &&
			llmb_owner_is_known(RelationGetRelid(rel), a->source_owner, InvalidOid))
			return a->id;
	}
	return 0;
}

/*
 * Until the transaction ends nobody else attaches a task to rows of this
 * table, or changes how one is attached.  A lock beside the table's own, which
 * has other uses: 1 is no number of an object within a table's lock.
 */
static void
lock_attachments(Oid relid)
{
	List	   *ancestors = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;

	LockDatabaseObject(RelationRelationId, ancestors ? llast_oid(ancestors) : relid, 1, ShareUpdateExclusiveLock);
}

/*
 * Resolves the table for the task, as the task's owner, and stores the
 * attachment.
 */
static LlmbAttachment *
attach_table(const LlmbTask *task, Oid relid, bool row_level, bool triggers)
{
	LlmbAttachment *a = palloc0(sizeof(LlmbAttachment));
	LlmbIdentity	was;
	LlmbAsk    *ask;
	LlmbSource *source;
	Relation	rel;

	llmb_become_owner(task, &was);
	ask = llmb_ask_of_task(task, 1);
	/* raises where the task's owner has no business, and so cannot keep others waiting */
	(void) llmb_source_resolve(relid, task->prompt, task->key, task->target);
	/* for whom we wait may want to replace triggers */
	UnlockRelationOid(relid, AccessShareLock);
	lock_attachments(relid);
	source = llmb_source_resolve(relid, task->prompt, task->key, task->target);
	a->task = task->id;
	a->source_schema = source->schema;
	a->source_table = source->table;
	a->source_owner = source->owner;
	a->keys = source->keys;
	a->key_count = source->key_count;
	a->targets = source->targets;
	a->target_count = source->target_count;
	a->prompt = source->prompt;
	a->row_level = row_level;
	a->triggers = triggers;
	a->schema = llmb_target_schema(source, task->schema, llmb_is_embedding(ask->server, ask->model));
	llmb_preset_check(task->preset, a->schema);
	a->targets_hash = llmb_targets_hash(relid, source->targets, source->target_count);
	rel = table_open(relid, AccessShareLock);
	check_key(rel, source);
	check_generated(rel, source);
	if (task->filter)
		llmb_check_condition_on(rel, task->filter);
	a->id = llmb_store_find_attachment(task->id, a->source_schema, a->source_table);
	if (a->id == 0)
		a->id = renamed_attachment(task, rel);
	table_close(rel, NoLock);
	check_not_attached_twice(task, relid);
	check_cycle(task, a, relid);
	llmb_become_self(&was);
	llmb_store_attach(a);
	return a;
}

LlmbAttachment *
llmb_task_attach_by_trigger(const LlmbTask *task, Relation rel)
{
	Oid			owner = llmb_task_owner(task);

	/* who owns the table may run code as the task's owner then, and spend: a superuser has privileges of everybody */
	if (!OidIsValid(owner) || owner != rel->rd_rel->relowner || !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("task \"%s\" is not attached to \"%s\"", task->name, RelationGetRelationName(rel)),
				 errdetail("A trigger attaches a task only to a table of the task's owner, when the owner's first statement fires it."),
				 errhint("As owner of the task: SELECT llm_batch.attach(%s, %s);", quote_literal_cstr(task->name),
						 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
																	   RelationGetRelationName(rel))))));
	return attach_table(task, RelationGetRelid(rel), true, false);
}

/* ---- a task that has changed ---- */

static bool
is_one_of(const char *name, char **names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

/* Do columns matter now that did not before?  Their changes until now were nobody's concern. */
static bool
more_columns_matter(bool refiltered, const LlmbAttachment *now, const LlmbAttachment *before)
{
	LlmbTemplate *template = llmb_template_parse(now->prompt);
	LlmbTemplate *old = llmb_template_parse(before->prompt);

	for (int i = 0; i < now->key_count; i++)
	{
		if (!is_one_of(now->keys[i], before->keys, before->key_count))
			return true;
	}
	for (int i = 0; i < template->column_count; i++)
	{
		if (!is_one_of(template->columns[i], before->keys, before->key_count) &&
			!is_one_of(template->columns[i], old->columns, old->column_count))
			return true;
	}
	return refiltered;
}

/*
 * Transactions that write to these tables end first, and what is written later
 * is seen with the new definition: CREATE TRIGGER takes the same lock, in the
 * same order.  Who may neither make triggers nor write must not stop others.
 */
static void
wait_for_writers(const LlmbTask *task, List *relids)
{
	ListCell   *lc;

	list_sort(relids, list_oid_cmp);
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER | ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE) != ACLCHECK_OK &&
			pg_attribute_aclcheck_all(relid, GetUserId(), ACL_UPDATE, ACLMASK_ANY) != ACLCHECK_OK)
		{
			ereport(NOTICE,
					(errmsg("changes of %s by transactions that are open now may be missed", llmb_relation_name(relid)),
					 errdetail("You may not lock the table, so these were not waited for."),
					 errhint("When they have ended: SELECT llm_batch.run(%s);", quote_literal_cstr(task->name))));
			continue;
		}
		LockRelationOid(relid, ShareRowExclusiveLock);
		(void) llmb_relation_tree(relid, ShareRowExclusiveLock);
	}
}

static int
compare_tables(const ListCell *a, const ListCell *b)
{
	const LlmbAttachment *x = lfirst(a);
	const LlmbAttachment *y = lfirst(b);
	Oid			left = llmb_table_by_name(x->source_schema, x->source_table);
	Oid			right = llmb_table_by_name(y->source_schema, y->source_table);

	return left < right ? -1 : left > right;
}

void
llmb_renew_attachments(const LlmbTask *task, bool refiltered)
{
	List	   *attachments = llmb_store_attachments(task->id, NULL, NULL);
	List	   *relids = NIL;
	List	   *widened = NIL;
	ListCell   *lc;
	ListCell   *part;

	/* in the order of everybody who locks several of them */
	list_sort(attachments, compare_tables);
	foreach(lc, attachments)
	{
		LlmbAttachment *before = lfirst(lc);
		Oid			relid = llmb_table_by_name(before->source_schema, before->source_table);
		LlmbAttachment *now;

		/* a table that is gone, or somebody else's now */
		if (!OidIsValid(relid) || !llmb_owner_is_known(relid, before->source_owner, llmb_task_owner(task)))
		{
			ereport(WARNING,
					(errmsg("table %s keeps the definition that it had", quote_qualified_identifier(before->source_schema, before->source_table)),
					 errdetail("It does not exist any more, or belongs to another role now."),
					 errhint("When it is back: SELECT llm_batch.attach(%s, ...);", quote_literal_cstr(task->name))));
			continue;
		}
		now = attach_table(task, relid, before->row_level, before->triggers);
		relids = lappend_oid(relids, relid);
		if (more_columns_matter(refiltered, now, before))
			widened = lappend_oid(widened, relid);
	}
	wait_for_writers(task, widened);
	foreach(lc, relids)
	{
		foreach(part, llmb_relation_tree(lfirst_oid(lc), AccessShareLock))
			llmb_triggers_forget(lfirst_oid(part));
	}
}

/* ---- entry points ---- */

static void
check_source_kind(Oid relid)
{
	char		kind = get_rel_relkind(relid);

	if (kind != '\0' && kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", get_rel_name(relid)),
				 errdetail("Only tables have triggers that see all changed rows."),
				 errhint("Attach the task to the tables under it, or call submit() from time to time.")));
}

/*
 * The table's attachment until now; or NULL.  One whose triggers are not
 * there any more was that of another table of this name, which was dropped:
 * what was asked about its rows says nothing of the rows of this one.
 */
static LlmbAttachment *
attachment_before(const LlmbTask *task, Oid relid)
{
	int64		id = get_rel_name(relid) == NULL ? 0 :
		llmb_store_find_attachment(task->id, get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
	LlmbAttachment *before = id != 0 ? llmb_store_attachment(id) : NULL;

	if (before == NULL || !before->triggers || llmb_has_any_trigger(relid, id))
		return before;
	llmb_views_drop(task->id, id, false);
	llmb_store_detach(id);
	return NULL;
}

static void
tell_of_triggers(const LlmbTask *task, Oid relid, bool again)
{
	int			parts = list_length(llmb_relation_tree(relid, AccessShareLock)) - 1;

	ereport(NOTICE,
			(again ? errmsg("task \"%s\" answers rows of %s as before, by new triggers", task->name, llmb_relation_name(relid)) :
			 errmsg("task \"%s\" answers rows of %s from now on", task->name, llmb_relation_name(relid)),
			 parts > 0 ? errdetail_plural("There are triggers on the table and on its %d partition.",
										  "There are triggers on the table and on its %d partitions.", parts, parts) : 0,
			 errhint("SELECT llm_batch.run(%s); answers those that are there already.", quote_literal_cstr(task->name))));
}

/*
 * llm_batch.attach(task, source, row_level) returns void
 */
Datum
llmb_attach(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_to_change(fcinfo, "llm_batch.attach()");
	LlmbAttachment *before;
	LlmbAttachment *a;
	Oid			relid;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("source must not be NULL"),
				 errhint("Pass a table: source => 'articles'.")));
	relid = PG_GETARG_OID(1);
	check_source_kind(relid);
	before = attachment_before(task, relid);
	a = attach_table(task, relid, PG_ARGISNULL(2) ? before && before->row_level : PG_GETARG_BOOL(2), true);
	/* it was attached before, perhaps: some may be of the other kind */
	llmb_drop_triggers(a->id, relid);
	llmb_create_triggers(task, a, relid);
	tell_of_triggers(task, relid, before && before->triggers);
	PG_RETURN_VOID();
}

/* Of the task to that table, by its name or by its triggers; 0: none. */
static int64
attachment_of(const LlmbTask *task, Oid relid)
{
	int64		attachment;
	Relation	rel;

	if (!OidIsValid(relid) || get_rel_name(relid) == NULL)
		return 0;
	attachment = llmb_store_find_attachment(task->id, get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
	if (attachment != 0)
		return attachment;
	rel = relation_open(relid, AccessShareLock);
	attachment = renamed_attachment(task, rel);
	relation_close(rel, NoLock);
	return attachment;
}

/* Of the task to a table of that name which is gone, or has another name now; 0: none. */
static int64
attachment_of_gone(const LlmbTask *task, const RangeVar *name)
{
	int64		found = 0;
	ListCell   *lc;

	foreach(lc, llmb_store_attachments(task->id, NULL, NULL))
	{
		LlmbAttachment *a = lfirst(lc);

		if (strcmp(a->source_table, name->relname) != 0 || (name->schemaname && strcmp(a->source_schema, name->schemaname) != 0) ||
			OidIsValid(llmb_table_by_name(a->source_schema, a->source_table)))
			continue;
		if (found != 0)
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
					 errmsg("task \"%s\" is attached to several tables \"%s\"", task->name, name->relname),
					 errhint("Write the name with its schema.")));
		found = a->id;
	}
	return found;
}

/* relid: InvalidOid for a table that is gone, and its triggers with it. */
static void
detach_table(const LlmbTask *task, int64 attachment, Oid relid)
{
	if (attachment == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task \"%s\" is not attached to that table", task->name),
				 errhint("SELECT source FROM llm_batch.tasks WHERE task = %s;", quote_literal_cstr(task->name))));
	llmb_views_drop(task->id, attachment, false);
	if (OidIsValid(relid))
	{
		llmb_drop_triggers(attachment, relid);
		llmb_warn_of_triggers(task, relid);
	}
	else
		llmb_triggers_forget(InvalidOid);
	llmb_store_detach(attachment);
	llmb_wake_at_commit();
}

/*
 * llm_batch.detach(task, source regclass) returns void
 */
Datum
llmb_detach(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_to_change(fcinfo, "llm_batch.detach()");
	Oid			relid = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);

	detach_table(task, attachment_of(task, relid), relid);
	PG_RETURN_VOID();
}

/*
 * llm_batch.detach(task, source text) returns void: the same, where the table
 * may be gone
 */
Datum
llmb_detach_by_name(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = llmb_task_to_change(fcinfo, "llm_batch.detach()");
	RangeVar   *name = PG_ARGISNULL(1) ? NULL : makeRangeVarFromNameList(textToQualifiedNameList(PG_GETARG_TEXT_PP(1)));
	Oid			relid = name ? RangeVarGetRelid(name, NoLock, true) : InvalidOid;
	int64		attachment = attachment_of(task, relid);

	if (attachment == 0 && name)
	{
		attachment = attachment_of_gone(task, name);
		relid = InvalidOid;
	}
	detach_table(task, attachment, relid);
	PG_RETURN_VOID();
}
