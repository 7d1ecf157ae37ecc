/*-------------------------------------------------------------------------
 *
 * plan.c
 *		Cutting a job's items into batches.
 *
 * Items are taken in the order of their ordinals by keyset, so that the cost
 * of a batch does not depend on how many wait behind it.  A batch is written
 * to its request file while it is being planned: the provider's limits are
 * about the file's lines and bytes, and only the written line knows its size.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "fair.h"
#include "fleet.h"
#include "flight.h"
#include "gate.h"
#include "model.h"
#include "options.h"
#include "pii_sql.h"
#include "plan.h"
#include "request.h"
#include "store_task.h"
#include "token.h"
#include "turn.h"

/* A set of items that are sent singly: what is spooled at a time. */
#define REALTIME_ITEMS	2000
#define REALTIME_BYTES	(INT64CONST(64) * 1024 * 1024)

/* A batch ends with what was masked in that time; 50,000 articles of 2 kB take a fifth of it. */
#define MASKING_MS		5000

/* Why a batch ended where it did. */
typedef enum Full
{
	NOT_FULL,
	FULL_FILE,					/* of bytes */
	FULL_QUEUE,					/* the provider's, of tokens */
	FULL_BUDGET					/* of the job's max_cost */
} Full;

typedef struct Planning
{
	MemoryContext context;		/* of what outlives the planning */
	LlmbJob    *job;
	LlmbServer *server;
	LlmbModel  *model;
	LlmbJobDef *def;
	LlmbMasking *masking;
	LlmbBatchRow *row;
	LlmbSpool  *spool;
	int			range_space;
	StringInfoData line;
	int64		max_bytes;
	double		tokens_per_byte;	/* of text */
	double		tokens_per_item;
	double		tokens_left;	/* in the provider's queue; negative: no limit known */
	bool		queue_empty;	/* nothing of ours is in it */
	double		cost_per_byte;
	double		cost_per_item;
	double		cost_left;		/* of max_cost; negative: no limit */
	Full		full;
	int			withdrawn;		/* items of a task whose rows have changed */
	int			unmasked;		/* ordinal of an item that could not be masked in time; 0: none */
	TimestampTz begun;			/* the masking, which may be slow */
} Planning;

static void
add_ordinal(Planning *planning, int ordinal)
{
	LlmbBatchRow *row = planning->row;
	LlmbRange  *last = row->range_count ? &row->ranges[row->range_count - 1] : NULL;

	if (last && last->upper == ordinal)
		last->upper++;
	else
	{
		if (row->range_count == planning->range_space)
		{
			planning->range_space *= 2;
			row->ranges = repalloc(row->ranges, sizeof(LlmbRange) * planning->range_space);
		}
		row->ranges[row->range_count].lower = ordinal;
		row->ranges[row->range_count].upper = ordinal + 1;
		row->ranges[row->range_count++].position = row->item_count;
	}
	row->item_count++;
}

/* ---- items ---- */

/* Does one more line of so many bytes fit, of which so many are text? */
static Full
fullness(const Planning *planning, int bytes, int64 text_bytes)
{
	const LlmbBatchRow *row = planning->row;
	int64		text = row->text_bytes + text_bytes;
	int			items = row->item_count + 1;

	/* what is too large alone goes alone, for the provider to refuse */
	if (row->item_count > 0 && row->file_bytes + bytes > planning->max_bytes)
		return FULL_FILE;
	if (planning->tokens_left >= 0 &&
		text * planning->tokens_per_byte + items * planning->tokens_per_item > planning->tokens_left &&
		(row->item_count > 0 || !planning->queue_empty))
		return FULL_QUEUE;
	if (planning->cost_left >= 0 &&
		text * planning->cost_per_byte + items * planning->cost_per_item > planning->cost_left)
		return FULL_BUDGET;
	return NOT_FULL;
}

static bool
plan_prompt(const LlmbPrompt *prompt, void *arg)
{
	Planning   *planning = arg;
	bool		bodies = llmb_sends_bodies(planning->server, planning->row->realtime);
	int64		text_bytes;
	char		custom_id[80];
	const LlmbPrompt *masked;

	/* what is masked by now goes: sockets and other jobs wait */
	if (planning->masking && planning->row->item_count > 0 &&
		TimestampDifferenceMilliseconds(planning->begun, GetCurrentTimestamp()) >= MASKING_MS)
		return false;
	masked = llmb_mask_prompt_in_time(planning->masking, prompt);
	/* what stands before it goes; then it is the first, and fails */
	if (masked == NULL)
	{
		planning->unmasked = prompt->ordinal;
		return false;
	}
	prompt = masked;
	snprintf(custom_id, sizeof(custom_id), "%s-%d", planning->row->token, prompt->ordinal);
	resetStringInfo(&planning->line);
	llmb_put_request(&planning->line, planning->server, planning->model,
					 planning->def, prompt, bodies ? NULL : custom_id, planning->row->item_count == 0);
	if (bodies)
		appendStringInfoChar(&planning->line, '\n');
	text_bytes = llmb_text_bytes(planning->def, prompt);
	planning->full = fullness(planning, planning->line.len, text_bytes);
	if (planning->full != NOT_FULL)
		return false;
	llmb_spool_write(planning->spool, planning->line.data, planning->line.len);
	planning->row->file_bytes += planning->line.len;
	planning->row->text_bytes += text_bytes;
	llmb_masking_keep(planning->masking, planning->job->id, prompt->ordinal);
	add_ordinal(planning, prompt->ordinal);
	return true;
}

/* With 64 random bits: what tells a batch of ours from any other. */
static char *
new_token(int64 job, int first)
{
	uint64		random;

	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random token")));
	return llmb_token_make(llmb_token_home(GetSystemIdentifier(), MyDatabaseId), job, first, random);
}

bool
llmb_plan_ground(LlmbJob *job, LlmbServer **server)
{
	LlmbGround	ground = {.job = job};
	const char *reason = llmb_ground_obstacle(job->server, &ground);

	*server = ground.server;
	if (reason)
	{
		llmb_store_await_mend(job->id, reason);
		if (job->reason == NULL || strcmp(job->reason, reason) != 0)
			llmb_store_event(job->id, 0, "paused", "%s", reason);
		job->look_again_ms = llmb_look_again_ms(ground.server, 1);
		return false;
	}
	if (job->awaits_mend)
	{
		llmb_store_resume_job(job->id);
		llmb_store_event(job->id, 0, "resumed", "what the job was paused for is mended: it goes on");
	}
	return true;
}

/* ---- ways ---- */

/* How items of the job travel; "fell_back": those that a batch did not bring. */
static bool
goes_realtime(const LlmbJob *job, const LlmbServer *server, bool fell_back)
{
	bool		has_batch = server->batch && !llmb_model(server, job->model)->no_batch;

	return fell_back || llmb_goes_realtime(job->mode, job->total, has_batch, server->realtime_threshold);
}

/* Fresh items go first, but for those that have waited for a batch in vain. */
static bool
takes_fresh(const LlmbJob *job, TimestampTz now)
{
	bool		retry_due = job->retry_attempt > 0 && job->retry_at <= now;

	return job->fresh && !(retry_due && job->retry_realtime);
}

/* ---- forecasts ---- */

/* The job's cap on output tokens, 0 for none. */
static int64
output_cap(const LlmbJobDef *def)
{
	const char *reason;

	return Max(0, llmb_json_int(llmb_json_of_text(def->params ? def->params : "{}", &reason), "max_tokens", 0));
}

static double
forecast_cost(const Planning *planning, const LlmbForecast *forecast)
{
	char	   *cost = llmb_forecast_cost(planning->server, planning->job->model, forecast, !planning->row->realtime);

	return cost ? strtod(cost, NULL) : 0;
}

/* What a byte and an item are expected to take: all is linear in both. */
static void
set_rates(Planning *planning)
{
	const int64 many = 1000000;
	LlmbForecast bytes;
	LlmbForecast items;

	llmb_forecast(planning->server, planning->model, many, 0, output_cap(planning->def), &bytes);
	llmb_forecast(planning->server, planning->model, 0, (int) many, output_cap(planning->def), &items);
	planning->tokens_per_byte = bytes.input_tokens / (double) many;
	planning->tokens_per_item = items.input_tokens / (double) many;
	planning->cost_per_byte = LLMB_BUDGET_MARGIN * forecast_cost(planning, &bytes) / many;
	planning->cost_per_item = LLMB_BUDGET_MARGIN * forecast_cost(planning, &items) / many;
}

/* Tokens that batches of this key and model have in the provider's queue. */
static void
set_queue_room(Planning *planning)
{
	int64		limit = llmb_enqueued_limit(planning->server, planning->model);
	int64		used = llmb_fleet_tokens(planning->job->server, planning->job->owner, planning->job->model);

	int64		own = llmb_fleet_job_tokens(planning->job->id);

	planning->tokens_left = limit <= 0 || planning->row->realtime ? -1 :
		Max(0, Min(limit - used, own > 0 ? llmb_fair_share(limit) - own : limit));
	planning->queue_empty = used == 0;
}

static void
set_limits(Planning *planning)
{
	const LlmbJob *job = planning->job;

	planning->max_bytes = planning->row->realtime ?
		Min(REALTIME_BYTES, planning->server->max_batch_bytes) : planning->server->max_batch_bytes;
	if (!planning->row->realtime)
	{
		int64		learned = llmb_learned_batch_bytes(job->server, job->model);

		if (learned > 0)
			planning->max_bytes = Min(planning->max_bytes, learned);
	}
	set_rates(planning);
	set_queue_room(planning);
	planning->cost_left = job->max_cost < 0 ? -1 : Max(0, job->max_cost - job->cost - LLMB_BUDGET_MARGIN * job->flying_cost);
}

/* What the batch as it stands is expected to take. */
static void
note_forecast(Planning *planning)
{
	LlmbBatchRow *row = planning->row;
	LlmbForecast forecast;
	char	   *cost;

	llmb_forecast(planning->server, planning->model, row->text_bytes, row->item_count,
				  output_cap(planning->def), &forecast);
	row->forecast_tokens = forecast.input_tokens;
	cost = llmb_forecast_cost(planning->server, planning->job->model, &forecast, !row->realtime);
	/* the row lives as long as the flight */
	row->forecast_cost = cost ? MemoryContextStrdup(planning->context, cost) : NULL;
}

/* ---- planning ---- */

/* In a turn: one kind of items at a time. */
static void
collect(Planning *planning, TimestampTz now)
{
	LlmbJob    *job = planning->job;
	LlmbBatchRow *row = planning->row;
	bool		fresh = takes_fresh(job, now);
	int			limit;
	int			most;

	if (!fresh && (job->retry_attempt == 0 || job->retry_at > now))
		return;
	row->attempt = fresh ? 1 : job->retry_attempt;
	row->realtime = goes_realtime(job, planning->server, !fresh && job->retry_realtime);
	limit = (int) planning->server->max_batch_requests;
	if (row->realtime)
		limit = Max(REALTIME_ITEMS, 4 * (int) planning->server->realtime_concurrency);
	/* what was refused together goes in halves */
	if (!fresh && !row->realtime && llmb_store_refused_items(job->id, &most) > 0)
		limit = Min(limit, (llmb_store_refused_items(job->id, &most) + 1) / 2);
	set_limits(planning);
	row->token = MemoryContextStrdup(planning->context, new_token(job->id, fresh ? job->planned_to + 1 : 0));
	planning->masking = llmb_masking_begin(planning->def);
	planning->begun = GetCurrentTimestamp();
	/* what has changed since it was asked about is not sent any more */
	if (job->attachment != 0)
		planning->withdrawn = llmb_store_withdraw_changed(job->attachment, job->id);
	if (planning->withdrawn > 0)
		llmb_turn_see_changes();
	if (fresh)
		llmb_store_new_prompts(job->id, job->planned_to, limit, plan_prompt, planning);
	else
		llmb_store_queued_prompts(job->id, job->retry_attempt, job->retry_realtime, limit, plan_prompt, planning);
	llmb_masking_end(planning->masking);
	note_forecast(planning);
}

static void
begin_planning(Planning *planning, LlmbJob *job, LlmbServer *server, MemoryContext context)
{
	MemoryContext old;

	planning->context = context;
	planning->job = job;
	planning->server = server;
	planning->def = llmb_store_job_def(job->id);
	planning->model = llmb_model(server, job->model);
	initStringInfo(&planning->line);
	old = MemoryContextSwitchTo(context);
	planning->spool = llmb_spool_new(context);
	planning->row = palloc0(sizeof(LlmbBatchRow));
	planning->row->job = job->id;
	planning->row->owner = pstrdup(job->owner);
	planning->row->server = pstrdup(job->server);
	planning->row->model = pstrdup(job->model);
	planning->range_space = 16;
	planning->row->ranges = palloc(sizeof(LlmbRange) * planning->range_space);
	MemoryContextSwitchTo(old);
}

/*
 * The last key (server and owner) that was found to have no room: the jobs
 * behind, of which there may be thousands, are not asked one by one.  A
 * moment later, or when a place has become free, it is tried again.
 */
#define FULL_MS		1000
static NameData full_server;
static NameData full_owner;
static int64 full_freed = -1;
static TimestampTz full_until = 0;
static int64 full_threshold = 0;

static void
note_full(const LlmbJob *job, const LlmbServer *server)
{
	full_threshold = server->realtime_threshold;
	namestrcpy(&full_server, job->server);
	namestrcpy(&full_owner, job->owner);
	full_freed = llmb_fleet_freed();
	full_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FULL_MS);
}

static bool
is_full(const LlmbJob *job, TimestampTz now)
{
	return full_freed == llmb_fleet_freed() && now < full_until && !job->retry_realtime &&
		(strcmp(job->mode, "batch") == 0 || (strcmp(job->mode, "auto") == 0 && job->total > full_threshold)) &&
		strcmp(NameStr(full_server), job->server) == 0 && strcmp(NameStr(full_owner), job->owner) == 0;
}

/* Limits are those of a key, so of server and owner. */
static bool
room_for_batch(const LlmbJob *job, const LlmbServer *server, TimestampTz now)
{
	bool		unsent;
	int			flying = llmb_fleet_count(job, &unsent);

	/* one file of a job waits on disk at a time; the next is written when it is sent */
	if (unsent)
		return false;
	/* with a budget, what a set has cost is known before the next is sent */
	if (job->max_cost >= 0 && llmb_fleet_realtime(job->id))
		return false;
	if (goes_realtime(job, server, !takes_fresh(job, now) && job->retry_realtime))
		return true;
	if (flying >= server->max_active_batches)
		note_full(job, server);
	return flying < server->max_active_batches && job->flying < llmb_fair_share(server->max_active_batches);
}

/* In a turn: nothing fits any more into what the job may cost. */
static void
pause_for_budget(const LlmbJob *job)
{
	char	   *reason = llmb_budget_reason(job);

	llmb_store_job_state(job->id, "paused", reason);
	llmb_store_event(job->id, 0, "paused", "%s", reason);
}

/* In a turn. */
static void
fail_unmasked(const Planning *planning)
{
	int64		job = planning->job->id;

	llmb_store_fail_unplanned(job, planning->unmasked, planning->row->attempt, LLMB_INVALID_REQUEST,
							  "it was not sent: the patterns of llm_batch.pii_pattern take too long on its text");
	llmb_store_event(job, 0, "refused", "item %d is not sent: the patterns of llm_batch.pii_pattern take too long on its text", planning->unmasked);
	(void) llmb_store_finish_job(job);
}

bool
llmb_plan_batch(LlmbJob *job, TimestampTz now)
{
	MemoryContext context;
	Planning	planning = {0};
	LlmbServer *server;
	bool		paused = false;
	bool		due = job->fresh || (job->retry_attempt > 0 && job->retry_at <= now);

	if (!due)
		return false;
	/* what is still landing may bring more to be sent again: one batch for all */
	if (!job->fresh && llmb_fleet_landing(job->id))
		return false;
	if (is_full(job, now))
		return false;
	llmb_turn_begin("planning a batch");
	/* one that is paused leaves nothing to be done for the others */
	if (!llmb_plan_ground(job, &server))
	{
		llmb_turn_commit();
		return false;
	}
	if (!llmb_gate_allows(job, goes_realtime(job, server, !takes_fresh(job, now) && job->retry_realtime)) ||
		!room_for_batch(job, server, now))
	{
		llmb_turn_commit();
		return false;
	}
	/* our caller's to throw away, until all has gone well */
	context = AllocSetContextCreate(CurrentMemoryContext, "llm_batch flight", ALLOCSET_SMALL_SIZES);
	begin_planning(&planning, job, server, context);
	collect(&planning, now);
	if (planning.row->item_count > 0)
		llmb_store_add_batch(planning.row);
	else if (planning.unmasked > 0)
		fail_unmasked(&planning);
	/* what is still flying may turn out cheaper than it was expected to be */
	else if (planning.full == FULL_BUDGET && !job->live_batches)
	{
		pause_for_budget(job);
		paused = true;
	}
	llmb_turn_commit();
	if (planning.row->item_count == 0)
	{
		llmb_spool_free(planning.spool);
		MemoryContextDelete(context);
		/* that took its time: the jobs behind have their turn first */
		if (planning.unmasked > 0)
			job->look_again_ms = 1;
		return paused || planning.withdrawn > 0;
	}
	MemoryContextSetParent(context, TopMemoryContext);
	llmb_fleet_add(planning.row, planning.spool, context);
	llmb_fair_served(job, planning.row->realtime);
	return true;
}
