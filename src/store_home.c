/*-------------------------------------------------------------------------
 *
 * store_home.c
 *		Where this database is at home.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "miscadmin.h"

#include "sql.h"
#include "store_home.h"

static bool
read_home(LlmbHome *home)
{
	LlmbRows   *rows = llmb_sql("SELECT timeline, seen_at, last_job FROM llm_batch.home "
								"WHERE system_identifier = $1 AND database_oid = $2",
								"ll", (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	bool		found = llmb_row_count(rows) > 0;

	if (found)
	{
		home->timeline = (int) llmb_row_int(rows, 0, 1);
		home->seen_at = llmb_row_time(rows, 0, 2);
		home->last_job = llmb_row_int(rows, 0, 3);
	}
	llmb_sql_done(rows);
	return found;
}

void
llmb_store_home(int present, LlmbHome *home)
{
	llmb_sql_run("UPDATE llm_batch.home SET seen = $1, seen_at = clock_timestamp(), "
				 " last_job = (SELECT COALESCE(max(id), 0) FROM llm_batch.job) "
				 "WHERE seen <> $1 AND system_identifier = $2 AND database_oid = $3",
				 "ill", present, (int64) GetSystemIdentifier(), (int64) MyDatabaseId);
	if (read_home(home))
		return;
	llmb_sql_run("DELETE FROM llm_batch.home", "");
	llmb_sql_run("DELETE FROM llm_batch.compared", "");
	llmb_sql_run("INSERT INTO llm_batch.home (system_identifier, database_oid, timeline, seen) VALUES ($1, $2, $3, $3)",
				 "lli", (int64) GetSystemIdentifier(), (int64) MyDatabaseId, present);
	(void) read_home(home);
}

bool
llmb_store_is_compared(const char *server, const char *owner, int timeline)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.compared "
								" WHERE server = $1::name AND owner = $2::name AND timeline = $3)",
								"tti", server, owner, timeline);
	bool		compared = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return compared;
}

void
llmb_store_set_compared(const char *server, const char *owner, int timeline)
{
	llmb_sql_run("INSERT INTO llm_batch.compared (server, owner, timeline) VALUES ($1::name, $2::name, $3) "
				 "ON CONFLICT (server, owner) DO UPDATE SET timeline = $3, at = clock_timestamp()",
				 "tti", server, owner, timeline);
}

TimestampTz
llmb_store_oldest_job(const char *server, const char *owner, int64 last_job)
{
	LlmbRows   *rows = llmb_sql("SELECT min(created_at) FROM llm_batch.job "
								"WHERE state IN ('waiting', 'running', 'paused', 'cancelling') "
								"AND server = $1::name AND owner = $2::name AND id <= $3", "ttl", server, owner, last_job);
	TimestampTz oldest = llmb_row_time(rows, 0, 1);

	llmb_sql_done(rows);
	return oldest;
}

bool
llmb_store_knows_token(const char *token)
{
	LlmbRows   *rows = llmb_sql("SELECT EXISTS (SELECT FROM llm_batch.batch WHERE token = $1)", "t", token);
	bool		known = llmb_row_bool(rows, 0, 1);

	llmb_sql_done(rows);
	return known;
}

void
llmb_store_add_found_batch(LlmbBatchRow *row)
{
	llmb_store_add_batch(row);
	row->state = LLMB_IN_PROGRESS;
	llmb_store_save_batch(row, LLMB_PLANNED);
}
