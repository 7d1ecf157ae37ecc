/*-------------------------------------------------------------------------
 *
 * own_task.c
 *		Whose a task is, and what its jobs are asked as.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "own_task.h"
#include "sql.h"

Oid
llmb_task_owner(const LlmbTask *task)
{
	return get_role_oid(task->owner, true);
}

LlmbTask *
llmb_own_task(const char *name)
{
	LlmbTask   *task = llmb_store_task(name, 0);
	Oid			owner = task ? llmb_task_owner(task) : InvalidOid;

	if (task && (superuser() || (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))))
		return task;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("task \"%s\" does not exist", name),
			 errhint("SELECT task FROM llm_batch.tasks; shows your tasks.")));
	return NULL;
}

LlmbTask *
llmb_task_arg(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name = llmb_text_arg(fcinfo, 0);

	llmb_check_given(name, "task");
	llmb_require_writable(function);
	return llmb_own_task(name);
}

LlmbTask *
llmb_task_to_change(FunctionCallInfo fcinfo, const char *function)
{
	LlmbTask   *task = llmb_task_arg(fcinfo, function);

	llmb_store_lock_task(task->id);
	return llmb_own_task(task->name);
}

void
llmb_become_owner(const LlmbTask *task, LlmbIdentity *was)
{
	Oid			owner = llmb_task_owner(task);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which owns task \"%s\", does not exist", task->owner, task->name),
				 errhint("Create the role, or drop the task.")));
	GetUserIdAndSecContext(&was->user, &was->security);
	SetUserIdAndSecContext(owner, was->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

void
llmb_become_self(const LlmbIdentity *was)
{
	SetUserIdAndSecContext(was->user, was->security);
}

LlmbAsk *
llmb_ask_of_task(const LlmbTask *task, int pack)
{
	LlmbArguments arguments = {0};

	arguments.model = task->model;
	arguments.server = task->server;
	arguments.system = task->system;
	arguments.params = task->params;
	arguments.schema = task->schema;
	arguments.mode = task->mode;
	arguments.priority = task->priority;
	arguments.pack = pack;
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
