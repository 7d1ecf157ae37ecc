/*-------------------------------------------------------------------------
 *
 * task.c
 *		create_task, alter_task, drop_task, attach, detach and run.
 *
 * A task says what is asked of a row, an attachment of which table.  Both are
 * checked when they are made, as the task's owner, whose jobs they become;
 * the worker finds out at use what has changed since.
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
#include "funcapi.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "ddl.h"
#include "enqueue.h"
#include "fill.h"
#include "preset.h"
#include "schema.h"
#include "shmem.h"
#include "source.h"
#include "sql.h"
#include "task.h"
#include "trouble.h"
#include "view.h"
#include "watch.h"

PG_FUNCTION_INFO_V1(llmb_create_task);
PG_FUNCTION_INFO_V1(llmb_alter_task);
PG_FUNCTION_INFO_V1(llmb_drop_task);
PG_FUNCTION_INFO_V1(llmb_attach);
PG_FUNCTION_INFO_V1(llmb_detach);
PG_FUNCTION_INFO_V1(llmb_detach_by_name);
PG_FUNCTION_INFO_V1(llmb_run);

#define MAX_NAME_BYTES	256

/* Arguments of create_task and alter_task. */
enum
{
	ARG_NAME, ARG_PROMPT, ARG_PRESET, ARG_MODEL, ARG_TARGET, ARG_KEY, ARG_FILTER, ARG_SERVER, ARG_SYSTEM,
	ARG_PARAMS, ARG_SCHEMA, ARG_MODE, ARG_PRIORITY, ARG_CACHE, ARG_PACK, ARG_MASK_PII, ARG_MAX_COST, ARG_DEADLINE,
	ARG_LABELS, ARG_MAX_WAIT, ARG_MAX_ITEMS, ARG_ON_SUCCESS, ARG_ON_ERROR, ARG_ENABLED
};

/* ---- whose it is ---- */

static Oid
task_owner(const LlmbTask *task)
{
	return get_role_oid(task->owner, true);
}

LlmbTask *
llmb_own_task(const char *name)
{
	LlmbTask   *task = llmb_store_task(name, 0);
	Oid			owner = task ? task_owner(task) : InvalidOid;

	if (task && (superuser() || (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))))
		return task;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("task \"%s\" does not exist", name),
			 errhint("SELECT task FROM llm_batch.tasks; shows your tasks.")));
	return NULL;
}

static LlmbTask *
task_arg(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name = llmb_text_arg(fcinfo, 0);

	llmb_check_given(name, "task");
	llmb_require_writable(function);
	return llmb_own_task(name);
}

/* The same, as it is once those are through who are changing it; others wait until we are. */
static LlmbTask *
task_to_change(FunctionCallInfo fcinfo, const char *function)
{
	LlmbTask   *task = task_arg(fcinfo, function);

	llmb_store_lock_task(task->id);
	return llmb_own_task(task->name);
}

typedef struct Identity
{
	Oid			user;
	int			security;
} Identity;

/* What is checked, and what runs, is what the owner may do, whoever asks. */
static void
become_owner(const LlmbTask *task, Identity *was)
{
	Oid			owner = task_owner(task);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which owns task \"%s\", does not exist", task->owner, task->name),
				 errhint("Create the role, or drop the task.")));
	GetUserIdAndSecContext(&was->user, &was->security);
	SetUserIdAndSecContext(owner, was->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

static void
become_self(const Identity *was)
{
	SetUserIdAndSecContext(was->user, was->security);
}

/* ---- arguments ---- */

/* NULL leaves a member as it is, and '' takes it away. */
static void
take_text(FunctionCallInfo fcinfo, int n, char **member)
{
	if (PG_ARGISNULL(n))
		return;
	*member = llmb_text_arg(fcinfo, n);
	if ((*member)[0] == '\0')
		*member = NULL;
}

static void
take_object(FunctionCallInfo fcinfo, int n, const char *name, char **member)
{
	if (!PG_ARGISNULL(n))
		*member = llmb_object_arg(fcinfo, n, name, NULL);
}

static void
take_interval(FunctionCallInfo fcinfo, int n, char **member)
{
	if (!PG_ARGISNULL(n))
		*member = DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(n)));
}

static int
compare_intervals(const char *a, const char *b)
{
	Datum		x = DirectFunctionCall3(interval_in, CStringGetDatum(a), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	Datum		y = DirectFunctionCall3(interval_in, CStringGetDatum(b), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	return DatumGetInt32(DirectFunctionCall2(interval_cmp, x, y));
}

/* What has no empty text is taken away by what could not be meant: an empty object, NaN, no time at all. */
static void
take_away(char **member, const char *nothing)
{
	if (*member && strcmp(*member, nothing) == 0)
		*member = NULL;
}

/* What a preset brings stands back behind what is given here, and behind what was given before. */
static void
take_preset(FunctionCallInfo fcinfo, LlmbTask *task)
{
	LlmbPreset	preset;

	if (PG_ARGISNULL(ARG_PRESET))
		return;
	task->preset = llmb_text_arg(fcinfo, ARG_PRESET);
	llmb_preset(task->preset, &preset);
	task->prompt = preset.prompt;
	task->system = preset.system;
	task->params = preset.params;
	task->schema = preset.schema;
}

static void
take_arguments(FunctionCallInfo fcinfo, LlmbTask *task)
{
	take_preset(fcinfo, task);
	take_text(fcinfo, ARG_PROMPT, &task->prompt);
	take_text(fcinfo, ARG_MODEL, &task->model);
	take_text(fcinfo, ARG_TARGET, &task->target);
	take_text(fcinfo, ARG_KEY, &task->key);
	take_text(fcinfo, ARG_FILTER, &task->filter);
	if (!PG_ARGISNULL(ARG_SERVER))
		task->server = pstrdup(NameStr(*PG_GETARG_NAME(ARG_SERVER)));
	take_text(fcinfo, ARG_SYSTEM, &task->system);
	take_object(fcinfo, ARG_PARAMS, "params", &task->params);
	take_object(fcinfo, ARG_SCHEMA, "schema", &task->schema);
	take_text(fcinfo, ARG_MODE, &task->mode);
	if (!PG_ARGISNULL(ARG_PRIORITY))
		task->priority = PG_GETARG_INT32(ARG_PRIORITY);
	if (!PG_ARGISNULL(ARG_MASK_PII))
		task->mask_pii = PG_GETARG_BOOL(ARG_MASK_PII);
	if (!PG_ARGISNULL(ARG_MAX_COST))
		task->max_cost = DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(ARG_MAX_COST)));
	take_interval(fcinfo, ARG_DEADLINE, &task->deadline);
	take_object(fcinfo, ARG_LABELS, "labels", &task->labels);
	take_interval(fcinfo, ARG_MAX_WAIT, &task->max_wait);
	if (!PG_ARGISNULL(ARG_MAX_ITEMS))
		task->max_items = PG_GETARG_INT32(ARG_MAX_ITEMS);
	take_text(fcinfo, ARG_ON_SUCCESS, &task->on_success);
	take_text(fcinfo, ARG_ON_ERROR, &task->on_error);
	take_away(&task->schema, "{}");
	take_away(&task->max_cost, "NaN");
	if (task->deadline && compare_intervals(task->deadline, "0") == 0)
		task->deadline = NULL;
	/* the table is the schema, unless somebody says otherwise */
	if (!PG_ARGISNULL(ARG_PRESET) && PG_ARGISNULL(ARG_SCHEMA) && task->target)
		task->schema = NULL;
}

/* ---- checks ---- */

static void
check_own_arguments(const LlmbTask *task)
{
	if (task->prompt == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a task needs a prompt"),
				 errhint("Pass prompt => 'Summarise: {{body}}', or preset => 'summary'.")));
	if (task->max_items < 1 || task->max_items > 50000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_items must lie between 1 and 50000"),
				 errhint("So many changed rows travel at once, even if they are young.")));
	if (compare_intervals(task->max_wait, "0") < 0 || compare_intervals(task->max_wait, "7 days") > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wait must lie between 0 and 7 days"),
				 errhint("A changed row waits so long at most for others to travel with.")));
	if (task->filter)
		llmb_check_condition(task->filter);
	(void) llmb_template_parse(task->prompt);
	/* without a schema the columns that it is attached to may have the list */
	if (task->schema || task->target == NULL)
		llmb_preset_check(task->preset, task->schema);
}

/* As the task's owner.  Raises for what could not be sent. */
static LlmbAsk *
ask_of_task(FunctionCallInfo fcinfo, const LlmbTask *task)
{
	LlmbArguments arguments = {0};

	arguments.model = task->model;
	arguments.server = task->server;
	arguments.system = task->system;
	arguments.params = task->params;
	arguments.schema = task->schema;
	arguments.mode = task->mode;
	arguments.priority = task->priority;
	arguments.pack = fcinfo == NULL || PG_ARGISNULL(ARG_PACK) ? 1 : PG_GETARG_INT32(ARG_PACK);
	arguments.mask_pii = task->mask_pii;
	arguments.max_cost = task->max_cost;
	if (task->deadline)
		arguments.deadline = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(task->deadline),
																   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	arguments.labels = task->labels;
	arguments.on_success = task->on_success;
	arguments.on_error = task->on_error;
	return llmb_ask(&arguments);
}

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
	Identity	was;
	LlmbAsk    *ask;
	LlmbSource *source;
	Relation	rel;

	become_owner(task, &was);
	ask = ask_of_task(NULL, task);
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
	become_self(&was);
	llmb_store_attach(a);
	return a;
}

LlmbAttachment *
llmb_task_attach_by_trigger(const LlmbTask *task, Relation rel)
{
	Oid			owner = task_owner(task);

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

static char *
relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/* The table and, if it has partitions, all of these, which are locked so. */
static List *
relation_tree(Oid relid, LOCKMODE lockmode)
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
			 name, form->event, relation_name(relid), by_row ? form->row : form->statement, quote_literal_cstr(task->name));
	/* what a subscription applies fires no others */
	if (a->row_level)
		llmb_ddl("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", relation_name(relid), name);
}

static void
drop_triggers(int64 attachment, Oid relid)
{
	ListCell   *lc;

	foreach(lc, relation_tree(relid, ShareRowExclusiveLock))
	{
		for (int i = 0; i < (int) lengthof(trigger_forms); i++)
		{
			char	   *name = llmb_trigger_name(attachment, i);

			/* that of a partition goes with the one that it was made from */
			if (OidIsValid(get_trigger_oid(lfirst_oid(lc), name, true)))
				llmb_ddl("DROP TRIGGER %s ON %s", name, relation_name(lfirst_oid(lc)));
		}
		llmb_triggers_forget(lfirst_oid(lc));
		CommandCounterIncrement();
	}
}

static void
create_triggers(const LlmbTask *task, const LlmbAttachment *a, Oid relid)
{
	ListCell   *lc;

	foreach(lc, relation_tree(relid, ShareRowExclusiveLock))
	{
		for (int i = 0; i < (int) lengthof(trigger_forms); i++)
		{
			create_trigger(task, a, lfirst_oid(lc), i);
			CommandCounterIncrement();
		}
		llmb_triggers_forget(lfirst_oid(lc));
	}
}

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

/* ---- entry points: tasks ---- */

/*
 * llm_batch.create_task(name, ...) returns bigint, the task's id
 */
Datum
llmb_create_task(PG_FUNCTION_ARGS)
{
	LlmbTask	task = {.version = 1, .enabled = true, .mode = "auto", .labels = "{}", .max_items = 10000, .params = "{}", .max_wait = "00:01:00"};
	LlmbAsk    *ask;

	llmb_require_writable("llm_batch.create_task()");
	task.name = llmb_text_arg(fcinfo, ARG_NAME);
	llmb_check_given(task.name, "name");
	if (strlen(task.name) > MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("the name of a task cannot be longer than %d bytes", MAX_NAME_BYTES),
				 errhint("Shorten it.")));
	task.owner = GetUserNameFromId(GetUserId(), false);
	task.time_zone = pstrdup(pg_get_timezone_name(session_timezone));
	take_arguments(fcinfo, &task);
	check_own_arguments(&task);
	ask = ask_of_task(fcinfo, &task);
	task.server = ask->server->name;
	if (!llmb_store_new_task(&task))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("task \"%s\" already exists", task.name),
				 errhint("Choose another name, or change it: SELECT llm_batch.alter_task(...).")));
	PG_RETURN_INT64(task.id);
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

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
more_columns_matter(const LlmbTask *task, const LlmbTask *was, const LlmbAttachment *now, const LlmbAttachment *before)
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
	return task->filter && !same_text(task->filter, was->filter);
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
					(errmsg("changes of %s by transactions that are open now may be missed", relation_name(relid)),
					 errdetail("You may not lock the table, so these were not waited for."),
					 errhint("When they have ended: SELECT llm_batch.run(%s);", quote_literal_cstr(task->name))));
			continue;
		}
		LockRelationOid(relid, ShareRowExclusiveLock);
		(void) relation_tree(relid, ShareRowExclusiveLock);
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

/* Its tables once more, with what has changed; "was" is the task before. */
static void
renew_attachments(const LlmbTask *task, const LlmbTask *was)
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
		if (!OidIsValid(relid) || !llmb_owner_is_known(relid, before->source_owner, task_owner(task)))
		{
			ereport(WARNING,
					(errmsg("table %s keeps the definition that it had", quote_qualified_identifier(before->source_schema, before->source_table)),
					 errdetail("It does not exist any more, or belongs to another role now."),
					 errhint("When it is back: SELECT llm_batch.attach(%s, ...);", quote_literal_cstr(task->name))));
			continue;
		}
		now = attach_table(task, relid, before->row_level, before->triggers);
		relids = lappend_oid(relids, relid);
		if (more_columns_matter(task, was, now, before))
			widened = lappend_oid(widened, relid);
	}
	wait_for_writers(task, widened);
	foreach(lc, relids)
	{
		foreach(part, relation_tree(lfirst_oid(lc), AccessShareLock))
			llmb_triggers_forget(lfirst_oid(part));
	}
}

/* alter_task(name, enabled => false), and nothing else? */
static bool
only_disables(FunctionCallInfo fcinfo)
{
	for (int i = ARG_NAME + 1; i < ARG_ENABLED; i++)
	{
		if (!PG_ARGISNULL(i))
			return false;
	}
	return !PG_ARGISNULL(ARG_ENABLED) && !PG_GETARG_BOOL(ARG_ENABLED);
}

/*
 * llm_batch.alter_task(name, ...) returns int, the version of its prompt
 */
Datum
llmb_alter_task(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = task_to_change(fcinfo, "llm_batch.alter_task()");
	LlmbTask	was = *task;
	Identity	self;

	if (only_disables(fcinfo))
	{
		/* whatever else is wrong with it: that can be mended later */
		task->enabled = false;
		llmb_store_change_task(task);
		PG_RETURN_INT32(task->version);
	}
	/* another model is looked for on any server, unless one is named */
	if (!PG_ARGISNULL(ARG_MODEL) && PG_ARGISNULL(ARG_SERVER) && strcmp(llmb_text_arg(fcinfo, ARG_MODEL), was.model) != 0)
		task->server = NULL;
	take_arguments(fcinfo, task);
	if (!PG_ARGISNULL(ARG_ENABLED))
		task->enabled = PG_GETARG_BOOL(ARG_ENABLED);
	check_own_arguments(task);
	if (!same_text(task->prompt, was.prompt) || !same_text(task->system, was.system) ||
		!same_text(task->params, was.params) || !same_text(task->schema, was.schema))
		task->version++;
	become_owner(task, &self);
	task->server = ask_of_task(fcinfo, task)->server->name;
	become_self(&self);
	llmb_store_change_task(task);
	renew_attachments(task, &was);
	llmb_views_follow(task->id);
	llmb_wake_at_commit();
	PG_RETURN_INT32(task->version);
}

/*
 * llm_batch.drop_task(name, cascade) returns void
 */
Datum
llmb_drop_task(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = task_to_change(fcinfo, "llm_batch.drop_task()");
	ListCell   *lc;

	llmb_views_drop(task->id, 0, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	foreach(lc, llmb_store_attachments(task->id, NULL, NULL))
	{
		LlmbAttachment *a = lfirst(lc);
		Oid			relid = llmb_table_by_name(a->source_schema, a->source_table);

		if (OidIsValid(relid))
			drop_triggers(a->id, relid);
		else
			llmb_triggers_forget(InvalidOid);
	}
	llmb_store_drop_task(task->id);
	llmb_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- entry points: tables ---- */

/* Those that somebody made by hand stay, and the next row that fires one attaches the table again. */
static void
warn_of_triggers(const LlmbTask *task, Oid relid)
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
					 errhint("DROP TRIGGER %s ON %s;", quote_identifier(trigger->tgname), relation_name(relid))));
	}
	table_close(rel, AccessShareLock);
}

static bool
has_any_trigger(Oid relid, int64 attachment)
{
	for (int i = 0; i < (int) lengthof(trigger_forms); i++)
	{
		if (OidIsValid(get_trigger_oid(relid, llmb_trigger_name(attachment, i), true)))
			return true;
	}
	return false;
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

	if (before == NULL || !before->triggers || has_any_trigger(relid, id))
		return before;
	llmb_views_drop(task->id, id, false);
	llmb_store_detach(id);
	return NULL;
}

static void
tell_of_triggers(const LlmbTask *task, Oid relid, bool again)
{
	int			parts = list_length(relation_tree(relid, AccessShareLock)) - 1;

	ereport(NOTICE,
			(again ? errmsg("task \"%s\" answers rows of %s as before, by new triggers", task->name, relation_name(relid)) :
			 errmsg("task \"%s\" answers rows of %s from now on", task->name, relation_name(relid)),
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
	LlmbTask   *task = task_to_change(fcinfo, "llm_batch.attach()");
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
	drop_triggers(a->id, relid);
	create_triggers(task, a, relid);
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
		drop_triggers(attachment, relid);
		warn_of_triggers(task, relid);
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
	LlmbTask   *task = task_to_change(fcinfo, "llm_batch.detach()");
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
	LlmbTask   *task = task_to_change(fcinfo, "llm_batch.detach()");
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

/* ---- entry points: rows that are there already ---- */

typedef struct RunSink
{
	LlmbInboxWriter *writer;
	char		kind;
} RunSink;

static void
put_key(const char *key, void *arg)
{
	RunSink    *sink = arg;

	llmb_inbox_put(sink->writer, sink->kind, key);
}

static int64
run_attachment(const LlmbTask *task, const LlmbAttachment *a, const char *filter, bool again)
{
	Oid			schema = get_namespace_oid(a->source_schema, false);
	Oid			relid = get_relname_relid(a->source_table, schema);
	LlmbSource *source;
	Identity	was;
	RunSink		sink = {.kind = again ? LLMB_ROW_AGAIN : LLMB_ROW_CHANGED};

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s does not exist any more", quote_qualified_identifier(a->source_schema, a->source_table)),
				 errhint("SELECT llm_batch.drop_task(%s);", quote_literal_cstr(task->name))));
	become_owner(task, &was);
	source = llmb_source_resolve(relid, a->prompt, task->key, NULL);
	sink.writer = llmb_inbox_begin(a->id);
	llmb_fill_keys(source, filter, task->time_zone, put_key, &sink);
	become_self(&was);
	return llmb_inbox_end(sink.writer);
}

/*
 * llm_batch.run(task, filter, again) returns bigint, how many rows will be
 * looked at
 */
Datum
llmb_run(PG_FUNCTION_ARGS)
{
	LlmbTask   *task = task_arg(fcinfo, "llm_batch.run()");
	char	   *filter = llmb_text_arg(fcinfo, 1);
	List	   *attachments = llmb_store_attachments(task->id, NULL, NULL);
	int64		rows = 0;
	ListCell   *lc;

	if (filter)
		llmb_check_condition(filter);
	if (attachments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task \"%s\" is not attached to a table", task->name),
				 errhint("SELECT llm_batch.attach(%s, 'table');", quote_literal_cstr(task->name))));
	foreach(lc, attachments)
		rows += run_attachment(task, lfirst(lc), filter, !PG_ARGISNULL(2) && PG_GETARG_BOOL(2));
	PG_RETURN_INT64(rows);
}
