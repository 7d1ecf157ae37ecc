/*-------------------------------------------------------------------------
 *
 * store_task.c
 *		Tasks, the tables they are attached to, and what has changed there.
 *
 * Sessions change llm_batch.task, task_version and attachment, which the
 * worker only reads; the worker changes gathering and task_item, which
 * sessions only read.  So neither ever waits for the other.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "sql.h"
#include "store_task.h"

/* Rows of attachments that are gone are removed so many at a time. */
#define CLEAN_ROWS	5000

/* ---- arrays ---- */

static ArrayType *
int8_array(const int64 *numbers, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int64GetDatum(numbers[i]);
	return construct_array(datums, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

static ArrayType *
key_array(const LlmbTaskItem *items, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = CStringGetTextDatum(items[i].key);
	return construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT);
}

static ArrayType *
item_hashes(const LlmbTaskItem *items, int count)
{
	int64	   *numbers = palloc(sizeof(int64) * Max(count, 1));

	for (int i = 0; i < count; i++)
		numbers[i] = items[i].hash;
	return int8_array(numbers, count);
}

static ArrayType *
ordinal_array(const LlmbTaskItem *items, int count)
{
	Datum	   *datums = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		datums[i] = Int32GetDatum(items[i].ordinal);
	return construct_array(datums, count, INT4OID, sizeof(int32), true, TYPALIGN_INT);
}

static ArrayType *
job_array(const LlmbTaskItem *items, int count)
{
	int64	   *numbers = palloc(sizeof(int64) * Max(count, 1));

	for (int i = 0; i < count; i++)
		numbers[i] = items[i].job;
	return int8_array(numbers, count);
}

/* ---- tasks ---- */

static void
add_version(const LlmbTask *task)
{
	llmb_sql_run("INSERT INTO llm_batch.task_version (task_id, version, prompt, system, params, schema) "
				 "VALUES ($1, $2, $3, $4, $5::jsonb, $6::json) ON CONFLICT (task_id, version) DO NOTHING",
				 "litttt", task->id, task->version, task->prompt, task->system, task->params, task->schema);
}

bool
llmb_store_new_task(LlmbTask *task)
{
	LlmbRows   *rows = llmb_sql("INSERT INTO llm_batch.task (name, owner, version, server, model, mode, priority, target, key, filter, "
								" mask_pii, max_cost, deadline, max_items, max_wait, labels, on_success, on_error, time_zone, preset, "
								" system_identifier, database_oid) "
								"VALUES ($1, $2::name, $3, $4::name, $5, $6, $7, $8, $9, $10, $11, $12::numeric, $13::interval, $14, "
								" $15::interval, $16::jsonb, $17, $18, $19, $20, $21, $22) "
								"ON CONFLICT (name) DO NOTHING RETURNING id",
								"ttitttitttbttittttttll", task->name, task->owner, task->version, task->server, task->model, task->mode,
								task->priority, task->target, task->key, task->filter, (int) task->mask_pii, task->max_cost,
								task->deadline, task->max_items, task->max_wait, task->labels, task->on_success, task->on_error,
								task->time_zone, task->preset, (int64) GetSystemIdentifier(), (int64) MyDatabaseId);

	task->id = llmb_row_count(rows) ? llmb_row_int(rows, 0, 1) : 0;
	llmb_sql_done(rows);
	if (task->id == 0)
		return false;
	add_version(task);
	return true;
}

/* Who changes it wants it here: a restored task becomes one of this database. */
void
llmb_store_change_task(const LlmbTask *task)
{
	llmb_sql_run("UPDATE llm_batch.task SET version = $2, server = $3::name, model = $4, mode = $5, priority = $6, target = $7, key = $8, "
				 " filter = $9, mask_pii = $10, max_cost = $11::numeric, deadline = $12::interval, max_items = $13, "
				 " max_wait = $14::interval, labels = $15::jsonb, on_success = $16, on_error = $17, time_zone = $18, preset = $19, "
				 " enabled = $20, system_identifier = $21, database_oid = $22, changed_at = now() WHERE id = $1",
				 "litttitttbttitttttt" "bll", task->id, task->version, task->server, task->model, task->mode,
				 task->priority, task->target, task->key, task->filter, (int) task->mask_pii, task->max_cost,
				 task->deadline, task->max_items, task->max_wait, task->labels, task->on_success, task->on_error,
				 task->time_zone, task->preset, (int) task->enabled,
				 (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	add_version(task);
}

void
llmb_store_drop_task(int64 task)
{
	llmb_sql_run("DELETE FROM llm_batch.attachment WHERE task_id = $1", "l", task);
	llmb_sql_run("DELETE FROM llm_batch.task_version WHERE task_id = $1", "l", task);
	llmb_sql_run("DELETE FROM llm_batch.task WHERE id = $1", "l", task);
}

LlmbTask *
llmb_store_task(const char *name, int64 id)
{
	LlmbRows   *rows = llmb_sql("SELECT t.id, t.name, t.owner, t.enabled, t.system_identifier, t.database_oid, t.version, t.preset, "
								" t.server, t.model, t.mode, t.priority, t.target, t.key, t.filter, t.mask_pii, t.max_cost::text, "
								" t.deadline::text, t.max_items, t.max_wait::text, t.labels::text, t.on_success, t.on_error, t.time_zone, "
								" v.prompt, v.system, v.params::text, v.schema::text "
								"FROM llm_batch.task t JOIN llm_batch.task_version v ON v.task_id = t.id AND v.version = t.version "
								"WHERE CASE WHEN $1 IS NULL THEN t.id = $2 ELSE t.name = $1 END", "tl", name, id);
	LlmbTask   *task = NULL;

	if (llmb_row_count(rows) > 0)
	{
		task = palloc0(sizeof(LlmbTask));
		task->id = llmb_row_int(rows, 0, 1);
		task->name = llmb_row_text(rows, 0, 2);
		task->owner = llmb_row_text(rows, 0, 3);
		task->enabled = llmb_row_bool(rows, 0, 4);
		task->ours = llmb_row_int(rows, 0, 5) == (int64) GetSystemIdentifier() && llmb_row_int(rows, 0, 6) == (int64) MyDatabaseId;
		task->version = llmb_row_int(rows, 0, 7);
		task->preset = llmb_row_text(rows, 0, 8);
		task->server = llmb_row_text(rows, 0, 9);
		task->model = llmb_row_text(rows, 0, 10);
		task->mode = llmb_row_text(rows, 0, 11);
		task->priority = llmb_row_int(rows, 0, 12);
		task->target = llmb_row_text(rows, 0, 13);
		task->key = llmb_row_text(rows, 0, 14);
		task->filter = llmb_row_text(rows, 0, 15);
		task->mask_pii = llmb_row_bool(rows, 0, 16);
		task->max_cost = llmb_row_text(rows, 0, 17);
		task->deadline = llmb_row_text(rows, 0, 18);
		task->max_items = llmb_row_int(rows, 0, 19);
		task->max_wait = llmb_row_text(rows, 0, 20);
		task->labels = llmb_row_text(rows, 0, 21);
		task->on_success = llmb_row_text(rows, 0, 22);
		task->on_error = llmb_row_text(rows, 0, 23);
		task->time_zone = llmb_row_text(rows, 0, 24);
		task->prompt = llmb_row_text(rows, 0, 25);
		task->system = llmb_row_text(rows, 0, 26);
		task->params = llmb_row_text(rows, 0, 27);
		task->schema = llmb_row_text(rows, 0, 28);
	}
	llmb_sql_done(rows);
	return task;
}

void
llmb_store_lock_task(int64 task)
{
	llmb_sql_run("SELECT FROM llm_batch.task WHERE id = $1 FOR NO KEY UPDATE", "l", task);
}

/* ---- attachments ---- */

void
llmb_store_attach(LlmbAttachment *a)
{
	LlmbRows   *rows = llmb_sql("INSERT INTO llm_batch.attachment AS x (id, task_id, source_schema, source_table, key_columns, target_columns, "
								" prompt, schema, targets_hash, row_level, source_owner, triggers) "
								"VALUES (CASE WHEN $1 = 0 THEN nextval('llm_batch.attachment_id_seq') ELSE $1 END, $2, $3::name, $4::name, "
								" $5::name[], $6::name[], $7, $8::json, $9, $10, $11::name, $12) "
								"ON CONFLICT (id) DO UPDATE SET source_schema = excluded.source_schema, source_table = excluded.source_table, "
								" key_columns = excluded.key_columns, target_columns = excluded.target_columns, "
								" prompt = excluded.prompt, schema = excluded.schema, targets_hash = excluded.targets_hash, "
								" row_level = excluded.row_level, source_owner = excluded.source_owner, triggers = x.triggers OR excluded.triggers "
								"RETURNING id",
								"llttaattlbtb", a->id, a->task, a->source_schema, a->source_table,
								llmb_name_array(a->keys, a->key_count), llmb_name_array(a->targets, a->target_count),
								a->prompt, a->schema, a->targets_hash, (int) a->row_level, a->source_owner, (int) a->triggers);

	a->id = llmb_row_int(rows, 0, 1);
	llmb_sql_done(rows);
	/* by it what is left of an attachment is found, also of one that never came to anything */
	llmb_sql_run("INSERT INTO llm_batch.gathering (attachment_id) VALUES ($1) ON CONFLICT (attachment_id) DO NOTHING", "l", a->id);
}

void
llmb_store_detach(int64 attachment)
{
	llmb_sql_run("DELETE FROM llm_batch.attachment WHERE id = $1", "l", attachment);
}

#define ATTACHMENT_QUERY \
	"SELECT id, task_id, source_schema, source_table, key_columns::text[], target_columns::text[], prompt, schema::text, " \
	" targets_hash, row_level, source_owner, triggers FROM llm_batch.attachment "

static LlmbAttachment *
read_attachment(LlmbRows *rows, int row)
{
	LlmbAttachment *a = palloc0(sizeof(LlmbAttachment));

	a->id = llmb_row_int(rows, row, 1);
	a->task = llmb_row_int(rows, row, 2);
	a->source_schema = llmb_row_text(rows, row, 3);
	a->source_table = llmb_row_text(rows, row, 4);
	a->keys = llmb_row_names(rows, row, 5, &a->key_count);
	a->targets = llmb_row_names(rows, row, 6, &a->target_count);
	a->prompt = llmb_row_text(rows, row, 7);
	a->schema = llmb_row_text(rows, row, 8);
	a->targets_hash = llmb_row_int(rows, row, 9);
	a->row_level = llmb_row_bool(rows, row, 10);
	a->source_owner = llmb_row_text(rows, row, 11);
	a->triggers = llmb_row_bool(rows, row, 12);
	return a;
}

LlmbAttachment *
llmb_store_attachment(int64 id)
{
	LlmbRows   *rows = llmb_sql(ATTACHMENT_QUERY "WHERE id = $1", "l", id);
	LlmbAttachment *attachment = llmb_row_count(rows) ? read_attachment(rows, 0) : NULL;

	llmb_sql_done(rows);
	return attachment;
}

int64
llmb_store_find_attachment(int64 task, const char *source_schema, const char *source_table)
{
	LlmbRows   *rows = llmb_sql("SELECT min(id) FROM llm_batch.attachment "
								"WHERE task_id = $1 AND source_schema = $2::name AND source_table = $3::name",
								"ltt", task, source_schema, source_table);
	int64		id = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return id;
}

List *
llmb_store_attachments(int64 task, const char *source_schema, const char *source_table)
{
	LlmbRows   *rows = llmb_sql(ATTACHMENT_QUERY "WHERE CASE WHEN $1 <> 0 THEN task_id = $1 "
								" ELSE source_schema = $2::name AND source_table = $3::name END ORDER BY id",
								"ltt", task, source_schema, source_table);
	List	   *list = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
		list = lappend(list, read_attachment(rows, i));
	llmb_sql_done(rows);
	return list;
}

/* ---- what has changed ---- */

/*
 * Whether nothing is done for attachment a of task t, with $2 and $3 for
 * where we are: it is off, or not at home here, or its last job is not sent
 * yet (a second one would only wait as well, and travel in a smaller part).
 */
#define HELD \
	"(NOT t.enabled OR t.system_identifier <> $2 OR t.database_oid <> $3 " \
	" OR EXISTS (SELECT FROM llm_batch.gathering g WHERE g.attachment_id = a.id AND g.barred_at > t.changed_at) " \
	" OR EXISTS (SELECT FROM llm_batch.job j WHERE j.attachment_id = a.id " \
	"  AND j.state IN ('waiting', 'running', 'paused', 'cancelling') AND j.planned_to < j.total AND j.queued > 0 " \
	"  AND EXISTS (SELECT FROM llm_batch.prompt p WHERE p.job_id = j.id AND p.ordinal > j.planned_to))) "

List *
llmb_store_inboxes(int64 proven)
{
	LlmbRows   *rows = llmb_sql("SELECT a.id, a.task_id, f.id IS NOT NULL, o.at + t.max_wait, t.owner, t.priority, "
								HELD
								"FROM llm_batch.attachment a JOIN llm_batch.task t ON t.id = a.task_id "
								"CROSS JOIN LATERAL (SELECT i.at FROM llm_batch.inbox i WHERE i.attachment_id = a.id AND i.id > $1 "
								" ORDER BY i.id LIMIT 1) o "
								"LEFT JOIN LATERAL (SELECT i.id FROM llm_batch.inbox i WHERE i.attachment_id = a.id AND i.id > $1 "
								" ORDER BY i.id OFFSET t.max_items - 1 LIMIT 1) f ON true "
								"ORDER BY t.priority DESC, o.at, a.id",
								"lll", proven, (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	List	   *list = NIL;

	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbInbox  *inbox = palloc(sizeof(LlmbInbox));

		inbox->attachment = llmb_row_int(rows, i, 1);
		inbox->task = llmb_row_int(rows, i, 2);
		inbox->full = llmb_row_bool(rows, i, 3);
		inbox->due = llmb_row_time(rows, i, 4);
		inbox->owner = llmb_row_text(rows, i, 5);
		inbox->priority = (int) llmb_row_int(rows, i, 6);
		inbox->held = llmb_row_bool(rows, i, 7);
		list = lappend(list, inbox);
	}
	llmb_sql_done(rows);
	return list;
}

/*
 * These tables are vacuumed while they are empty, more often than not, and a
 * plan for one row reads all for each row when there are many.  So rows are
 * deleted by ctid (the worker alone changes them), and OFFSET 0 has keys
 * looked up one by one.
 */

LlmbChange *
llmb_store_take_changes(int64 attachment, int64 proven, int limit, int *count)
{
	LlmbRows   *rows = llmb_sql("WITH taken AS ("
								" DELETE FROM llm_batch.inbox i WHERE i.ctid = ANY (ARRAY(SELECT n.ctid FROM llm_batch.inbox n "
								"  WHERE n.attachment_id = $1 AND n.id > $2 ORDER BY n.id LIMIT $3)) "
								" RETURNING i.id, i.kind, i.key) "
								"SELECT id, kind::text, key FROM taken ORDER BY id",
								"lli", attachment, proven, limit);
	LlmbChange *changes;

	*count = llmb_row_count(rows);
	changes = palloc(sizeof(LlmbChange) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		changes[i].id = llmb_row_int(rows, i, 1);
		changes[i].kind = llmb_row_text(rows, i, 2)[0];
		changes[i].key = llmb_row_text(rows, i, 3);
	}
	llmb_sql_done(rows);
	return changes;
}

int64
llmb_store_last_change_id(void)
{
	LlmbRows   *rows = llmb_sql("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM llm_batch.inbox_id_seq", "");
	int64		id = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return id;
}

/* Attachments that are not there any more, and have left something. */
#define GONE \
	"SELECT g.attachment_id FROM llm_batch.gathering g " \
	"WHERE NOT EXISTS (SELECT FROM llm_batch.attachment a WHERE a.id = g.attachment_id) OFFSET 0"

/*
 * Of a table that was dropped nothing is asked any more; its attachment stays,
 * for people to see.  One that was only renamed has its triggers still.  0: none.
 */
static int64
attachment_of_dropped_table(void)
{
	/* triggers, of which there may be thousands, only of tables that are not there */
	LlmbRows   *rows = llmb_sql("WITH dropped AS MATERIALIZED (SELECT a.id, a.triggers, t.name FROM llm_batch.attachment a "
								" JOIN llm_batch.task t ON t.id = a.task_id WHERE t.system_identifier = $1 AND t.database_oid = $2 "
								" AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
								"  WHERE c.relname = a.source_table AND n.nspname = a.source_schema) "
								" AND (EXISTS (SELECT FROM llm_batch.inbox i WHERE i.attachment_id = a.id) "
								"  OR EXISTS (SELECT FROM llm_batch.task_item i WHERE i.attachment_id = a.id))) "
								"SELECT min(a.id) FROM dropped a WHERE NOT EXISTS ("
								" SELECT FROM pg_trigger g WHERE g.tgfoid = 'llm_batch.enqueue()'::regprocedure "
								" AND CASE WHEN a.triggers THEN starts_with(g.tgname::text, 'llm_batch_' || a.id || '_') "
								"  ELSE g.tgargs = convert_to(a.name, getdatabaseencoding()) || decode('00', 'hex') END)",
								"ll", (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	int64		id = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return id;
}

static int
clean_dropped_table(void)
{
	int64		id = attachment_of_dropped_table();

	if (id == 0)
		return 0;
	return llmb_sql_run("DELETE FROM llm_batch.inbox i WHERE i.ctid = ANY (ARRAY(SELECT m.ctid FROM llm_batch.inbox m "
						" WHERE m.attachment_id = $1 LIMIT $2))", "li", id, CLEAN_ROWS) +
		llmb_sql_run("DELETE FROM llm_batch.task_item i WHERE i.ctid = ANY (ARRAY(SELECT m.ctid FROM llm_batch.task_item m "
					 " WHERE m.attachment_id = $1 LIMIT $2))", "li", id, CLEAN_ROWS);
}

bool
llmb_store_clean_attachments(void)
{
	int			gone = llmb_sql_run("DELETE FROM llm_batch.inbox i WHERE i.ctid = ANY (ARRAY(SELECT n.ctid FROM (" GONE ") g "
									" CROSS JOIN LATERAL (SELECT m.ctid FROM llm_batch.inbox m "
									"  WHERE m.attachment_id = g.attachment_id LIMIT $1) n LIMIT $1))", "i", CLEAN_ROWS);

	gone += llmb_sql_run("DELETE FROM llm_batch.task_item i WHERE i.ctid = ANY (ARRAY(SELECT n.ctid FROM (" GONE ") g "
						 " CROSS JOIN LATERAL (SELECT m.ctid FROM llm_batch.task_item m "
						 "  WHERE m.attachment_id = g.attachment_id LIMIT $1) n LIMIT $1))", "i", CLEAN_ROWS);
	if (gone == 0)
		gone = llmb_sql_run("DELETE FROM llm_batch.gathering g "
							"WHERE NOT EXISTS (SELECT FROM llm_batch.attachment a WHERE a.id = g.attachment_id) "
							"AND NOT EXISTS (SELECT FROM llm_batch.inbox i WHERE i.attachment_id = g.attachment_id)", "");
	if (gone == 0)
		gone = clean_dropped_table();
	return gone > 0;
}

void
llmb_store_gathering_reason(int64 attachment, const char *reason)
{
	llmb_sql_run("INSERT INTO llm_batch.gathering AS g (attachment_id, reason) VALUES ($1, $2) "
				 "ON CONFLICT (attachment_id) DO UPDATE SET reason = excluded.reason WHERE g.reason IS DISTINCT FROM excluded.reason",
				 "lt", attachment, reason);
}

void
llmb_store_bar_gathering(int64 attachment, const char *reason)
{
	llmb_sql_run("INSERT INTO llm_batch.gathering (attachment_id, reason, barred_at) VALUES ($1, $2, clock_timestamp()) "
				 "ON CONFLICT (attachment_id) DO UPDATE SET reason = excluded.reason, barred_at = excluded.barred_at",
				 "lt", attachment, reason);
}

bool
llmb_store_has_changes(void)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.attachment a JOIN llm_batch.task t ON t.id = a.task_id "
								" WHERE EXISTS (SELECT FROM llm_batch.inbox i WHERE i.attachment_id = a.id AND i.id > $1) AND NOT " HELD ")",
								"lll", INT64CONST(0), (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	bool		has = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return has;
}

void
llmb_store_gathered(int64 attachment, int rows, bool new_job)
{
	llmb_sql_run("INSERT INTO llm_batch.gathering AS g (attachment_id, gathered_at, rows, jobs) VALUES ($1, clock_timestamp(), $2, $3) "
				 "ON CONFLICT (attachment_id) DO UPDATE SET reason = NULL, gathered_at = excluded.gathered_at, "
				 " rows = g.rows + excluded.rows, jobs = g.jobs + excluded.jobs",
				 "lii", attachment, rows, (int) new_job);
}

/* ---- the newest item of each row ---- */

void
llmb_store_task_items(int64 attachment, LlmbTaskItem *items, int count)
{
	LlmbRows   *rows = llmb_sql("SELECT u.n::int, i.prompt_hash, i.job_id, i.ordinal, i.version, "
								/* the last attempt counts, and none that is still to come may succeed */
								" CASE WHEN r.state IN ('failed', 'cancelled') THEN "
								"   NOT EXISTS (SELECT FROM llm_batch.queue q WHERE q.job_id = i.job_id AND q.ordinal = i.ordinal) "
								"   AND NOT EXISTS (SELECT FROM llm_batch.batch b WHERE b.job_id = i.job_id AND b.items @> i.ordinal "
								"    AND b.attempt > r.attempt AND b.state NOT IN ('finalized', 'failed', 'cancelled')) "
								"  ELSE r.state IS NULL AND j.finished_at IS NOT NULL END "
								"FROM unnest($2) WITH ORDINALITY u(key, n) "
								"CROSS JOIN LATERAL (SELECT * FROM llm_batch.task_item t WHERE t.attachment_id = $1 AND t.key = u.key OFFSET 0) i "
								"LEFT JOIN llm_batch.job j ON j.id = i.job_id "
								"LEFT JOIN LATERAL (SELECT t.state, t.attempt FROM llm_batch.result t "
								" WHERE t.job_id = i.job_id AND t.ordinal = i.ordinal ORDER BY t.attempt DESC LIMIT 1) r ON true",
								"la", attachment, key_array(items, count));

	for (int i = 0; i < llmb_row_count(rows); i++)
	{
		LlmbTaskItem *item = &items[llmb_row_int(rows, i, 1) - 1];

		item->hash = llmb_row_int(rows, i, 2);
		item->job = llmb_row_int(rows, i, 3);
		item->ordinal = llmb_row_int(rows, i, 4);
		item->version = llmb_row_int(rows, i, 5);
		item->failed = llmb_row_bool(rows, i, 6);
	}
	llmb_sql_done(rows);
}

void
llmb_store_set_task_items(int64 attachment, const LlmbTaskItem *items, int count)
{
	if (count == 0)
		return;
	llmb_sql_run("INSERT INTO llm_batch.task_item (attachment_id, key, prompt_hash, job_id, ordinal, version) "
				 "SELECT $1, u.key, u.hash, $5, u.ordinal, $6 "
				 "FROM ROWS FROM (unnest($2), unnest($3), unnest($4)) u(key, hash, ordinal) "
				 "ON CONFLICT (attachment_id, key) DO UPDATE SET prompt_hash = excluded.prompt_hash, job_id = excluded.job_id, "
				 " ordinal = excluded.ordinal, version = excluded.version",
				 "lahol" "i", attachment, key_array(items, count), item_hashes(items, count), ordinal_array(items, count),
				 items[0].job, items[0].version);
}

void
llmb_store_drop_task_items(int64 attachment, const LlmbTaskItem *items, int count)
{
	if (count > 0)
		llmb_sql_run("DELETE FROM llm_batch.task_item i WHERE i.ctid = ANY (ARRAY(SELECT n.ctid FROM unnest($2) u(key) "
					 " CROSS JOIN LATERAL (SELECT t.ctid FROM llm_batch.task_item t WHERE t.attachment_id = $1 AND t.key = u.key OFFSET 0) n))",
					 "la", attachment, key_array(items, count));
}

/* What of these (job, ordinal) pairs waits to be sent: given a result, and their prompts removed. */
#define WITHDRAW \
	", again AS (DELETE FROM llm_batch.queue q USING u WHERE q.job_id = u.job_id AND q.ordinal = u.ordinal " \
	" RETURNING q.job_id, q.ordinal, q.attempt), " \
	"fresh AS (SELECT u.job_id, u.ordinal, 1 AS attempt FROM u JOIN llm_batch.job j ON j.id = u.job_id " \
	" WHERE u.ordinal > j.planned_to AND j.state IN ('waiting', 'running', 'paused', 'cancelling') " \
	" AND EXISTS (SELECT FROM llm_batch.prompt p WHERE p.job_id = u.job_id AND p.ordinal = u.ordinal)), " \
	"ended AS (INSERT INTO llm_batch.result (job_id, batch_id, completed_at, ordinal, attempt, applied, altered, state, error_code, cost) " \
	" SELECT w.job_id, 0, clock_timestamp(), w.ordinal, w.attempt, false, false, 'cancelled', $1, 0 " \
	" FROM (SELECT * FROM again UNION ALL SELECT * FROM fresh) w RETURNING job_id, ordinal), " \
	"unsent AS (DELETE FROM llm_batch.prompt p USING ended e WHERE p.job_id = e.job_id AND p.ordinal = e.ordinal), " \
	"unmasked AS (DELETE FROM llm_batch.pii_map p USING ended e WHERE p.job_id = e.job_id AND p.ordinal = e.ordinal), " \
	"counted AS (UPDATE llm_batch.job j SET queued = j.queued - c.n, cancelled = j.cancelled + c.n " \
	" FROM (SELECT e.job_id, count(*)::int AS n FROM ended e GROUP BY e.job_id) c WHERE j.id = c.job_id " \
	" RETURNING j.owner, j.server, j.model, c.n), " \
	"told AS (INSERT INTO llm_batch.tally AS t (owner, server, model, what, label, value) " \
	" SELECT owner, server, model, 'items', 'cancelled', sum(n) FROM counted GROUP BY owner, server, model " \
	" ON CONFLICT (owner, server, model, what, label) DO UPDATE SET value = t.value + excluded.value) " \
	"SELECT COALESCE(sum(n), 0)::int FROM counted"

int
llmb_store_withdraw(const LlmbTaskItem *items, int count, LlmbCode code)
{
	LlmbRows   *rows;
	int			withdrawn;

	if (count == 0)
		return 0;
	rows = llmb_sql("WITH u AS MATERIALIZED (SELECT v.job_id, v.ordinal FROM ROWS FROM (unnest($2), unnest($3)) v(job_id, ordinal)) "
					WITHDRAW, "tho", llmb_code_name(code), job_array(items, count), ordinal_array(items, count));
	withdrawn = llmb_row_int(rows, 0, 1);
	llmb_sql_done(rows);
	return withdrawn;
}

int64
llmb_store_emptied(int64 attachment, int64 proven, int limit)
{
	LlmbRows   *rows = llmb_sql("SELECT max(n.id) FROM (SELECT i.id, i.kind FROM llm_batch.inbox i WHERE i.attachment_id = $1 AND i.id > $2 "
								" ORDER BY i.id LIMIT $3) n WHERE n.kind = 't'", "lli", attachment, proven, limit);
	int64		id = llmb_row_int(rows, 0, 1);

	llmb_sql_done(rows);
	return id;
}

char *
llmb_store_empty_task_items(int64 attachment, const char *from)
{
	LlmbRows   *rows = llmb_sql("SELECT i.key, i.job_id, i.ordinal, EXISTS (SELECT FROM llm_batch.job j WHERE j.id = i.job_id AND j.queued > 0) "
								"FROM llm_batch.task_item i WHERE i.attachment_id = $1 AND i.key >= $2 ORDER BY i.key LIMIT $3",
								"lti", attachment, from, CLEAN_ROWS);
	int			count = llmb_row_count(rows);
	LlmbTaskItem *items = palloc0(sizeof(LlmbTaskItem) * Max(count, 1));
	LlmbTaskItem *unsent = palloc0(sizeof(LlmbTaskItem) * Max(count, 1));
	int			unsent_count = 0;

	for (int i = 0; i < count; i++)
	{
		items[i].key = llmb_row_text(rows, i, 1);
		items[i].job = llmb_row_int(rows, i, 2);
		items[i].ordinal = (int) llmb_row_int(rows, i, 3);
		if (llmb_row_bool(rows, i, 4))
			unsent[unsent_count++] = items[i];
	}
	llmb_sql_done(rows);
	(void) llmb_store_withdraw(unsent, unsent_count, LLMB_CANCELLED_ITEM);
	if (count == 0)
		return NULL;
	llmb_sql_run("DELETE FROM llm_batch.task_item WHERE attachment_id = $1 AND key >= $2 AND key <= $3", "ltt",
				 attachment, from, items[count - 1].key);
	return count < CLEAN_ROWS ? NULL : items[count - 1].key;
}

int
llmb_store_withdraw_changed(int64 attachment, int64 job)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.inbox WHERE attachment_id = $1), "
								" EXISTS (SELECT FROM llm_batch.inbox WHERE attachment_id = $1 AND kind IN ('t', 'p'))", "l", attachment);
	bool		any = llmb_row_bool(rows, 0, 1);
	bool		emptied = llmb_row_bool(rows, 0, 2);
	int			withdrawn;

	llmb_sql_done(rows);
	if (!any)
		return 0;
	/* which rows are gone is not known: all of the job's are looked at once more */
	if (emptied)
		llmb_sql_run("INSERT INTO llm_batch.inbox (attachment_id, id, at, kind, key) "
					 "SELECT $1, nextval('llm_batch.inbox_id_seq'), clock_timestamp(), 'r', i.key FROM llm_batch.task_item i "
					 "JOIN llm_batch.job j ON j.id = i.job_id "
					 "WHERE i.job_id = $2 AND i.attachment_id = $1 AND (i.ordinal > j.planned_to OR EXISTS ("
					 " SELECT FROM llm_batch.queue q WHERE q.job_id = i.job_id AND q.ordinal = i.ordinal))", "ll", attachment, job);
	rows = llmb_sql("WITH u AS MATERIALIZED (SELECT DISTINCT i.job_id, i.ordinal FROM llm_batch.inbox n "
					" JOIN llm_batch.task_item i ON i.attachment_id = n.attachment_id AND i.key = n.key "
					" WHERE n.attachment_id = $2 AND i.job_id = $3) "
					WITHDRAW, "tll", llmb_code_name(LLMB_STALE), attachment, job);
	withdrawn = llmb_row_int(rows, 0, 1);
	llmb_sql_done(rows);
	return withdrawn;
}

char **
llmb_store_unsent_keys(int64 attachment, int *count)
{
	LlmbRows   *rows = llmb_sql("SELECT i.key FROM llm_batch.job j JOIN llm_batch.task_item i ON i.job_id = j.id "
								"WHERE j.attachment_id = $1 AND j.state IN ('waiting', 'running', 'paused', 'cancelling') AND j.queued > 0 "
								"AND i.attachment_id = $1", "l", attachment);
	char	  **keys;

	*count = llmb_row_count(rows);
	keys = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		keys[i] = llmb_row_text(rows, i, 1);
	llmb_sql_done(rows);
	return keys;
}

void
llmb_store_superseded(int64 attachment, int64 job, const LlmbResult *const *results, int count, LlmbCode *codes)
{
	LlmbTaskItem *items = palloc0(sizeof(LlmbTaskItem) * Max(count, 1));

	for (int i = 0; i < count; i++)
		items[i].key = results[i]->key ? results[i]->key : "";
	llmb_store_task_items(attachment, items, count);
	for (int i = 0; i < count; i++)
		codes[i] = items[i].job == 0 ? LLMB_CANCELLED_ITEM :
			items[i].job != job || items[i].ordinal != results[i]->ordinal ? LLMB_STALE : LLMB_OK;
}
