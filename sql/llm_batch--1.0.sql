/* llm_batch 1.0 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION llm_batch" to load this file. \quit

-- A schema of that name that somebody else made may hold planted objects.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace
				   WHERE nspname OPERATOR(pg_catalog.=) 'llm_batch'
				   AND nspowner OPERATOR(pg_catalog.=)
					   (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user))
	THEN
		RAISE EXCEPTION USING
			ERRCODE = 'duplicate_schema',
			MESSAGE = 'schema "llm_batch" belongs to another role',
			HINT = 'Drop or rename that schema, then create the extension again.';
	END IF;
END $$;

GRANT USAGE ON SCHEMA llm_batch TO PUBLIC;

----------------------------------------------------------------------------
-- Servers
----------------------------------------------------------------------------

CREATE FUNCTION llm_batch.validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'llmb_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION llm_batch.validator(text[], oid) IS
'checks options of servers and user mappings; called by CREATE and ALTER';
REVOKE ALL ON FUNCTION llm_batch.validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER llm_batch VALIDATOR llm_batch.validator;
COMMENT ON FOREIGN DATA WRAPPER llm_batch IS 'endpoints of LLM providers';

CREATE SERVER mock FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock');
COMMENT ON SERVER mock IS 'answers in process: no key, no network, no cost';
GRANT USAGE ON FOREIGN SERVER mock TO PUBLIC;

----------------------------------------------------------------------------
-- Tables.  Append-only but for the counters of job and batch, and the narrow
-- tables queue, unapplied, command and probe.  Numbers and text are apart:
-- pg_monitor may read job, batch, result and event, and no text.
----------------------------------------------------------------------------

-- Whether the current user has the privileges of that role; false when there
-- is no such role any more, but for superusers.
CREATE FUNCTION llm_batch.may_see(owner name) RETURNS boolean
AS 'MODULE_PATHNAME', 'llmb_may_see' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION llm_batch.may_see(name) IS
'whether the current user has the privileges of the role that owns a job';

CREATE SEQUENCE llm_batch.job_id_seq;
CREATE TABLE llm_batch.job (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('llm_batch.job_id_seq'),
	owner name NOT NULL,
	server name NOT NULL,
	model text NOT NULL,
	mode text NOT NULL,
	task text,
	state text NOT NULL CHECK (state IN ('waiting', 'running', 'paused', 'cancelling',
										 'succeeded', 'partial', 'failed', 'cancelled')),
	reason text,
	rest_code text,
	priority int NOT NULL,
	total int NOT NULL DEFAULT 0,
	queued int NOT NULL DEFAULT 0,
	in_flight int NOT NULL DEFAULT 0,
	succeeded int NOT NULL DEFAULT 0,
	failed int NOT NULL DEFAULT 0,
	cancelled int NOT NULL DEFAULT 0,
	unapplied int NOT NULL DEFAULT 0,
	uncertain int NOT NULL DEFAULT 0,
	planned_to int NOT NULL DEFAULT 0,
	cost numeric,
	cost_unknown int NOT NULL DEFAULT 0,
	saved numeric,
	labels jsonb NOT NULL,
	request_key text,
	request_hash bigint NOT NULL,
	deadline_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	started_at timestamptz,
	finished_at timestamptz,
	system_identifier bigint NOT NULL,
	database_oid bigint NOT NULL,
	CHECK (total = queued + in_flight + succeeded + failed + cancelled),
	CHECK (queued >= 0 AND in_flight >= 0 AND succeeded >= 0 AND failed >= 0 AND cancelled >= 0 AND unapplied >= 0),
	UNIQUE (owner, request_key)
) WITH (fillfactor = 50);
CREATE INDEX job_active ON llm_batch.job (id)
	WHERE state IN ('waiting', 'running', 'paused', 'cancelling');
COMMENT ON TABLE llm_batch.job IS 'one call of submit: state and counters; only the worker changes them';
COMMENT ON COLUMN llm_batch.job.planned_to IS 'highest ordinal that was ever given to a batch';
COMMENT ON COLUMN llm_batch.job.rest_code IS 'what became of items that were never sent, once the job gave them up';

CREATE TABLE llm_batch.job_def (
	job_id bigint PRIMARY KEY,
	source_schema name,
	source_table name,
	key_columns name[],
	target_columns name[],
	prompt text,
	system text,
	params jsonb NOT NULL,
	schema json,
	time_zone text NOT NULL
);
COMMENT ON TABLE llm_batch.job_def IS 'what a job asks: template, source, target; by name, never by oid';

CREATE TABLE llm_batch.item (
	job_id bigint NOT NULL,
	prompt_hash bigint NOT NULL,
	ordinal int NOT NULL,
	key text,
	PRIMARY KEY (job_id, ordinal)
);
COMMENT ON TABLE llm_batch.item IS 'one prompt of a job and the key of its source row; written once';

CREATE TABLE llm_batch.prompt (
	job_id bigint NOT NULL,
	ordinal int NOT NULL,
	prompt text,
	system text,
	messages text,
	params text,
	PRIMARY KEY (job_id, ordinal)
);
COMMENT ON TABLE llm_batch.prompt IS 'texts to be sent; deleted as llm_batch.keep_prompts says';

CREATE TABLE llm_batch.queue (
	job_id bigint NOT NULL,
	attempt int NOT NULL,
	ordinal int NOT NULL,
	not_before timestamptz NOT NULL,
	PRIMARY KEY (job_id, attempt, ordinal)
);
CREATE INDEX queue_due ON llm_batch.queue (job_id, not_before);
COMMENT ON TABLE llm_batch.queue IS
'items to be sent again; first attempts need no row, they are the ordinals above job.planned_to';

CREATE SEQUENCE llm_batch.batch_id_seq;
CREATE TABLE llm_batch.batch (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('llm_batch.batch_id_seq'),
	job_id bigint NOT NULL,
	server name NOT NULL,
	attempt int NOT NULL,
	state text NOT NULL CHECK (state IN ('planned', 'uploading', 'submitting', 'verifying', 'in_progress',
		'cancelling', 'ended', 'fetching', 'finalized', 'failed', 'cancelled')),
	reason text,
	token text NOT NULL UNIQUE,
	creates int NOT NULL DEFAULT 0,
	item_count int NOT NULL,
	file_bytes bigint NOT NULL,
	done int NOT NULL DEFAULT 0,
	failed int NOT NULL DEFAULT 0,
	tries int NOT NULL DEFAULT 0,
	not_before timestamptz,
	remote_input text,
	remote_id text,
	remote_output text,
	remote_errors text,
	remote_end text,
	error_code text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	intent_at timestamptz,
	submitted_at timestamptz,
	cancelled_at timestamptz,
	ended_at timestamptz,
	finalized_at timestamptz,
	items int4multirange NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX batch_job ON llm_batch.batch (job_id);
CREATE INDEX batch_live ON llm_batch.batch (id) WHERE state NOT IN ('finalized', 'failed', 'cancelled');
COMMENT ON TABLE llm_batch.batch IS 'one batch at a provider; every change of state is committed before or after the call it belongs to';
COMMENT ON COLUMN llm_batch.batch.items IS 'ordinals of its items';
COMMENT ON COLUMN llm_batch.batch.token IS 'random; begins its custom_ids, and with creates travels as the label of the batch';
COMMENT ON COLUMN llm_batch.batch.remote_end IS 'how the provider ended it: ended, expired, cancelled or failed';

CREATE TABLE llm_batch.result (
	job_id bigint NOT NULL,
	batch_id bigint NOT NULL,
	completed_at timestamptz NOT NULL,
	ordinal int NOT NULL,
	attempt int NOT NULL,
	input_tokens int,
	cached_tokens int,
	cache_write_tokens int,
	output_tokens int,
	reasoning_tokens int,
	applied boolean NOT NULL,
	altered boolean NOT NULL,
	state text NOT NULL,
	error_code text,
	finish_reason text,
	model text,
	request_id text,
	cost numeric,
	PRIMARY KEY (job_id, ordinal, attempt)
);
COMMENT ON TABLE llm_batch.result IS 'what an attempt brought, in numbers';
COMMENT ON COLUMN llm_batch.result.state IS
'succeeded, failed, cancelled: final; retried: failed and queued again; stored: the answer waits for its locked source row';

CREATE TABLE llm_batch.answer (
	job_id bigint NOT NULL,
	ordinal int NOT NULL,
	attempt int NOT NULL,
	answer text,
	error text,
	PRIMARY KEY (job_id, ordinal, attempt)
);
COMMENT ON TABLE llm_batch.answer IS 'what an attempt brought, in words';

CREATE TABLE llm_batch.unapplied (
	job_id bigint NOT NULL,
	ordinal int NOT NULL,
	attempt int NOT NULL,
	tries int NOT NULL,
	not_before timestamptz NOT NULL,
	PRIMARY KEY (job_id, ordinal)
);
CREATE INDEX unapplied_due ON llm_batch.unapplied (not_before);
COMMENT ON TABLE llm_batch.unapplied IS 'stored answers that are still to be written to their source rows';

CREATE SEQUENCE llm_batch.event_id_seq;
CREATE TABLE llm_batch.event (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('llm_batch.event_id_seq'),
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	job_id bigint NOT NULL,
	batch_id bigint,
	kind text NOT NULL,
	message text NOT NULL
);
CREATE INDEX event_job ON llm_batch.event (job_id);
COMMENT ON TABLE llm_batch.event IS 'the history of jobs and batches in plain words, without prompts and answers';

CREATE SEQUENCE llm_batch.command_id_seq;
CREATE TABLE llm_batch.command (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('llm_batch.command_id_seq'),
	job_id bigint NOT NULL,
	verb text NOT NULL,
	codes text[],
	given_by name NOT NULL,
	given_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX command_job ON llm_batch.command (job_id);
COMMENT ON TABLE llm_batch.command IS
'what people ask of a job, until the worker has done it: so that no open transaction of theirs can hold the worker up';

CREATE SEQUENCE llm_batch.probe_id_seq;
CREATE TABLE llm_batch.probe (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('llm_batch.probe_id_seq'),
	server name NOT NULL,
	role name NOT NULL,
	ok boolean,
	message text,
	asked_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE llm_batch.probe IS 'calls of check_server and what the worker found';

-- lz4, where the server has it, is several times as fast as the default
DO $$
DECLARE
	col record;
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_settings
			   WHERE name OPERATOR(pg_catalog.=) 'default_toast_compression'
			   AND 'lz4' OPERATOR(pg_catalog.=) ANY (enumvals))
	THEN
		ALTER TABLE llm_batch.prompt ALTER COLUMN prompt SET COMPRESSION lz4;
		ALTER TABLE llm_batch.answer ALTER COLUMN answer SET COMPRESSION lz4;
	END IF;
END $$;

----------------------------------------------------------------------------
-- Who sees what
----------------------------------------------------------------------------

ALTER TABLE llm_batch.job ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.job_def ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.item ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.prompt ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.batch ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.result ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.answer ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.unapplied ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.event ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.command ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_batch.probe ENABLE ROW LEVEL SECURITY;

CREATE POLICY owner ON llm_batch.job FOR SELECT
	USING (llm_batch.may_see(owner) OR pg_catalog.pg_has_role('pg_monitor', 'USAGE'));
-- Numbers follow job; text asks for the owner's privileges once more.
CREATE POLICY owner ON llm_batch.batch FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.result FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.event FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.queue FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.unapplied FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.command FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j));
CREATE POLICY owner ON llm_batch.job_def FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j WHERE llm_batch.may_see(j.owner)));
CREATE POLICY owner ON llm_batch.item FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j WHERE llm_batch.may_see(j.owner)));
CREATE POLICY owner ON llm_batch.prompt FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j WHERE llm_batch.may_see(j.owner)));
CREATE POLICY owner ON llm_batch.answer FOR SELECT
	USING (job_id IN (SELECT j.id FROM llm_batch.job j WHERE llm_batch.may_see(j.owner)));
CREATE POLICY owner ON llm_batch.probe FOR SELECT
	USING (llm_batch.may_see(role));

GRANT SELECT ON llm_batch.job, llm_batch.job_def, llm_batch.item, llm_batch.prompt, llm_batch.queue,
	llm_batch.batch, llm_batch.result, llm_batch.answer, llm_batch.unapplied, llm_batch.event,
	llm_batch.command, llm_batch.probe TO PUBLIC;

COMMENT ON SEQUENCE llm_batch.job_id_seq IS 'ids of jobs';
COMMENT ON SEQUENCE llm_batch.batch_id_seq IS 'ids of batches';
COMMENT ON SEQUENCE llm_batch.event_id_seq IS 'ids of events';
COMMENT ON SEQUENCE llm_batch.command_id_seq IS 'ids of commands, in the order they were given';
COMMENT ON SEQUENCE llm_batch.probe_id_seq IS 'ids of calls of check_server';

-- Sequences too: without them ids would begin anew after a restore.
SELECT pg_catalog.pg_extension_config_dump('llm_batch.job', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.job_def', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.item', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.prompt', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.queue', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.batch', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.result', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.answer', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.unapplied', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.event', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.command', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.batch_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('llm_batch.command_id_seq', '');

----------------------------------------------------------------------------
-- Submit
----------------------------------------------------------------------------

CREATE FUNCTION llm_batch.submit(
	source regclass, prompt text, model text,
	target text DEFAULT NULL,
	key text DEFAULT NULL,
	filter text DEFAULT NULL,
	"limit" bigint DEFAULT NULL,
	server name DEFAULT NULL, system text DEFAULT NULL,
	params jsonb DEFAULT '{}',
	schema jsonb DEFAULT NULL,
	mode text DEFAULT 'auto', priority int DEFAULT 0,
	atomic boolean DEFAULT false, cache boolean DEFAULT true, pack int DEFAULT 1, mask_pii boolean DEFAULT false,
	max_cost numeric DEFAULT NULL,
	deadline interval DEFAULT NULL,
	after bigint DEFAULT NULL,
	request_key text DEFAULT NULL,
	labels jsonb DEFAULT '{}')
RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_submit' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION llm_batch.submit IS
'sends one prompt for each row of a table, writes the answers to target columns; returns the job''s id';

CREATE FUNCTION llm_batch.submit_query(
	query text, model text,
	server name DEFAULT NULL, system text DEFAULT NULL,
	params jsonb DEFAULT '{}',
	schema jsonb DEFAULT NULL,
	mode text DEFAULT 'auto', priority int DEFAULT 0,
	atomic boolean DEFAULT false, cache boolean DEFAULT true, pack int DEFAULT 1, mask_pii boolean DEFAULT false,
	max_cost numeric DEFAULT NULL,
	deadline interval DEFAULT NULL,
	after bigint DEFAULT NULL,
	request_key text DEFAULT NULL,
	labels jsonb DEFAULT '{}')
RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_submit_query' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION llm_batch.submit_query IS
'sends one prompt for each row of a query that yields key and prompt, optionally system, messages and params; returns the job''s id';

CREATE FUNCTION llm_batch.submit_prompts(
	prompts text[], model text,
	server name DEFAULT NULL, system text DEFAULT NULL,
	params jsonb DEFAULT '{}',
	schema jsonb DEFAULT NULL,
	mode text DEFAULT 'auto', priority int DEFAULT 0,
	atomic boolean DEFAULT false, cache boolean DEFAULT true, pack int DEFAULT 1, mask_pii boolean DEFAULT false,
	max_cost numeric DEFAULT NULL,
	deadline interval DEFAULT NULL,
	after bigint DEFAULT NULL,
	request_key text DEFAULT NULL,
	labels jsonb DEFAULT '{}')
RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_submit_prompts' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION llm_batch.submit_prompts IS
'sends each prompt of an array, keyed by its position; returns the job''s id';

CREATE FUNCTION llm_batch.preview(
	source regclass, prompt text, model text,
	target text DEFAULT NULL,
	key text DEFAULT NULL,
	filter text DEFAULT NULL,
	"limit" bigint DEFAULT NULL,
	server name DEFAULT NULL, system text DEFAULT NULL,
	params jsonb DEFAULT '{}',
	schema jsonb DEFAULT NULL,
	mode text DEFAULT 'auto', priority int DEFAULT 0,
	atomic boolean DEFAULT false, cache boolean DEFAULT true, pack int DEFAULT 1, mask_pii boolean DEFAULT false,
	max_cost numeric DEFAULT NULL,
	deadline interval DEFAULT NULL,
	after bigint DEFAULT NULL,
	request_key text DEFAULT NULL,
	labels jsonb DEFAULT '{}',
	n int DEFAULT 1)
RETURNS TABLE (key text, request json)
AS 'MODULE_PATHNAME', 'llmb_preview' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION llm_batch.preview IS
'the exact request bodies that submit with the same arguments would send, for the first n rows; nothing is sent or stored';

CREATE FUNCTION llm_batch.render(template text, record) RETURNS text
AS 'MODULE_PATHNAME', 'llmb_render_sql' LANGUAGE C STABLE;
COMMENT ON FUNCTION llm_batch.render(text, record) IS
'a prompt template filled with the columns of a row';

CREATE FUNCTION llm_batch.prompt_text(template text, VARIADIC "any") RETURNS text
AS 'MODULE_PATHNAME', 'llmb_prompt_text' LANGUAGE C STABLE;
COMMENT ON FUNCTION llm_batch.prompt_text(text, "any") IS
'the prompt rendered from the template''s columns, given in their order; retry() makes stale prompts anew by it';

CREATE FUNCTION llm_batch.prompt_hash(template text, VARIADIC "any") RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_prompt_hash' LANGUAGE C STABLE;
COMMENT ON FUNCTION llm_batch.prompt_hash(text, "any") IS
'hash of the prompt rendered from the template''s columns, given in their order; write-back tells stale answers by it';

----------------------------------------------------------------------------
-- Run
----------------------------------------------------------------------------

CREATE PROCEDURE llm_batch.wait(job bigint, timeout interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'llmb_wait' LANGUAGE C;
COMMENT ON PROCEDURE llm_batch.wait(bigint, interval) IS
'returns when the job has ended; prints its progress; holds no snapshot meanwhile';

CREATE FUNCTION llm_batch.cancel(job bigint) RETURNS void
AS 'MODULE_PATHNAME', 'llmb_cancel' LANGUAGE C STRICT;
COMMENT ON FUNCTION llm_batch.cancel(bigint) IS
'asks for the end of a job; what the provider has finished by then is stored, written and counted';

CREATE FUNCTION llm_batch.pause(job bigint) RETURNS void
AS 'MODULE_PATHNAME', 'llmb_pause' LANGUAGE C STRICT;
COMMENT ON FUNCTION llm_batch.pause(bigint) IS 'stops new spending of a job; batches on their way still land';

CREATE FUNCTION llm_batch.resume(job bigint, resend boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'llmb_resume' LANGUAGE C STRICT;
COMMENT ON FUNCTION llm_batch.resume(bigint, boolean) IS
'lets a paused job go on; resend => true also sends anew what may have been sent already';

CREATE FUNCTION llm_batch.retry(job bigint, codes text[] DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_retry' LANGUAGE C;
COMMENT ON FUNCTION llm_batch.retry(bigint, text[]) IS
'sends failed items of an ended job again, those without a stored answer unless their code is named; returns how many';

CREATE FUNCTION llm_batch.apply(job bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'llmb_apply' LANGUAGE C STRICT;
COMMENT ON FUNCTION llm_batch.apply(bigint) IS
'writes stored answers again that could not be written, free of charge; returns how many will be tried';

CREATE PROCEDURE llm_batch.check_server(server name)
AS 'MODULE_PATHNAME', 'llmb_check_server' LANGUAGE C;
COMMENT ON PROCEDURE llm_batch.check_server(name) IS
'makes one free call through the worker: tells whether key, address and TLS work';

----------------------------------------------------------------------------
-- Look
----------------------------------------------------------------------------

CREATE FUNCTION llm_batch.answer_json(answer text) RETURNS jsonb
AS 'MODULE_PATHNAME', 'llmb_answer_json' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION llm_batch.answer_json(text) IS 'the answer as jsonb where it is JSON, else NULL';

CREATE FUNCTION llm_batch.worker_status(OUT pid int, OUT state text, OUT since timestamptz, OUT preloaded boolean)
RETURNS record
AS 'MODULE_PATHNAME', 'llmb_worker_status' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION llm_batch.worker_status() IS
'this database''s worker: its process, or since when there is none for certain';

CREATE VIEW llm_batch.workers WITH (security_invoker, security_barrier) AS
SELECT w.pid, pg_catalog.current_database() AS database, w.state, w.since, w.preloaded,
	CASE WHEN w.state = 'disabled'
		THEN 'llm_batch.enabled is off'
		WHEN w.pid IS NULL
		THEN 'no worker since ' || pg_catalog.date_trunc('second', w.since)
	END AS message
FROM llm_batch.worker_status() w;
COMMENT ON VIEW llm_batch.workers IS 'the background worker of this database';

-- What is asked of a job and not yet done shows at once.
CREATE VIEW llm_batch.progress WITH (security_invoker, security_barrier) AS
SELECT j.id AS job_id, j.task, j.owner, j.server, j.model, j.mode,
	s.state,
	CASE
		WHEN s.state OPERATOR(pg_catalog.<>) j.state THEN NULL
		WHEN j.reason IS NOT NULL THEN j.reason
		WHEN j.state IN ('waiting', 'running', 'cancelling') THEN w.message
	END AS reason,
	j.total, j.queued, j.in_flight, j.succeeded, j.failed, j.cancelled, j.unapplied, j.uncertain,
	p.percent,
	'[' || pg_catalog.repeat('#', (p.percent / 5)::int) || pg_catalog.repeat('.', 20 - (p.percent / 5)::int) || ']' AS bar,
	pg_catalog.date_trunc('second', e.finish - j.created_at) AS elapsed,
	CASE WHEN j.finished_at IS NULL AND d.done > 0
		THEN pg_catalog.date_trunc('second', (e.finish - j.started_at) * ((j.total - d.done) / d.done::float8))
	END AS eta,
	CASE WHEN j.finished_at IS NULL AND d.done > 0
		THEN pg_catalog.date_trunc('second', e.finish + (e.finish - j.started_at) * ((j.total - d.done) / d.done::float8))
	END AS eta_at,
	j.cost, j.saved, j.cost_unknown, j.labels, j.created_at, j.finished_at
FROM llm_batch.job j
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN j.finished_at IS NOT NULL AND c.verbs OPERATOR(pg_catalog.&&) '{retry,apply}' THEN 'running'
		WHEN j.finished_at IS NOT NULL THEN j.state
		WHEN 'cancel' OPERATOR(pg_catalog.=) ANY (c.verbs) THEN 'cancelling'
		WHEN c.verbs[pg_catalog.array_upper(c.verbs, 1)] OPERATOR(pg_catalog.=) 'pause' AND j.state IN ('waiting', 'running') THEN 'paused'
		ELSE j.state END AS state
	FROM (SELECT pg_catalog.array_agg(verb ORDER BY id) AS verbs FROM llm_batch.command c WHERE c.job_id = j.id) c
) s
CROSS JOIN LATERAL (
	SELECT COALESCE(pg_catalog.sum(b.item_count - LEAST(b.done, b.item_count)), 0) AS open
	FROM llm_batch.batch b
	WHERE b.job_id = j.id
	AND b.state IN ('planned', 'uploading', 'submitting', 'verifying', 'in_progress', 'cancelling')
) f
-- finished here, or at the provider and on its way home
CROSS JOIN LATERAL (
	SELECT GREATEST(j.total - j.queued - f.open, j.succeeded + j.failed + j.cancelled) AS done
) d
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN j.total = 0 OR d.done >= j.total AND j.finished_at IS NOT NULL THEN 100.0
		ELSE LEAST(pg_catalog.round(100.0 * d.done / j.total, 1), 99.9) END AS percent
) p
CROSS JOIN LATERAL (SELECT COALESCE(j.finished_at, pg_catalog.clock_timestamp()) AS finish) e
LEFT JOIN llm_batch.workers w ON w.pid IS NULL;
COMMENT ON VIEW llm_batch.progress IS
'one line per job: state, counts, bar, time left (from the providers'' counts and the rate so far), cost in USD';

CREATE VIEW llm_batch.attempts WITH (security_invoker, security_barrier) AS
SELECT r.job_id, r.job_id * 100000000 + r.ordinal AS item_id, r.ordinal, i.key, r.attempt, r.batch_id,
	CASE r.state WHEN 'retried' THEN 'failed' WHEN 'stored' THEN 'in_flight' ELSE r.state END AS state,
	a.answer, llm_batch.answer_json(a.answer) AS answer_json,
	r.error_code, a.error, r.finish_reason, r.model,
	1 AS prompt_version,
	r.input_tokens, r.cached_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens,
	r.cost, r.request_id, r.altered, r.completed_at
FROM llm_batch.result r
LEFT JOIN llm_batch.item i ON i.job_id = r.job_id AND i.ordinal = r.ordinal
LEFT JOIN llm_batch.answer a ON a.job_id = r.job_id AND a.ordinal = r.ordinal AND a.attempt = r.attempt;
COMMENT ON VIEW llm_batch.attempts IS 'every attempt of every item that has brought something';

CREATE VIEW llm_batch.results WITH (security_invoker, security_barrier) AS
SELECT i.job_id, i.job_id * 100000000 + i.ordinal AS item_id, i.ordinal, i.key,
	COALESCE(r.attempt, 0) AS attempt, s.state,
	a.answer, llm_batch.answer_json(a.answer) AS answer_json,
	CASE WHEN s.state IN ('failed', 'cancelled') THEN COALESCE(CASE WHEN r.state IN ('failed', 'cancelled') THEN r.error_code END, j.rest_code, 'cancelled')
		ELSE r.error_code END AS error_code,
	a.error, r.finish_reason, COALESCE(r.model, j.model) AS model,
	1 AS prompt_version,
	r.input_tokens, r.cached_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens,
	r.cost, r.request_id, r.altered, r.completed_at
FROM llm_batch.item i
JOIN llm_batch.job j ON j.id = i.job_id
LEFT JOIN LATERAL (
	SELECT * FROM llm_batch.result r
	WHERE r.job_id = i.job_id AND r.ordinal = i.ordinal
	ORDER BY r.attempt DESC LIMIT 1
) r ON true
LEFT JOIN llm_batch.answer a ON a.job_id = r.job_id AND a.ordinal = r.ordinal AND a.attempt = r.attempt
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN r.state = 'succeeded' THEN 'succeeded'
		WHEN r.state = 'stored' THEN 'in_flight'
		WHEN j.in_flight > 0 AND EXISTS (
			SELECT FROM llm_batch.batch b
			WHERE b.job_id = i.job_id AND b.state NOT IN ('finalized', 'failed', 'cancelled')
			AND b.items @> i.ordinal AND b.attempt > COALESCE(r.attempt, 0)) THEN 'in_flight'
		WHEN j.queued > 0 AND (i.ordinal > j.planned_to OR EXISTS (
			SELECT FROM llm_batch.queue q
			WHERE q.job_id = i.job_id AND q.ordinal = i.ordinal)) THEN 'queued'
		WHEN r.state IN ('failed', 'cancelled') THEN r.state
		WHEN j.rest_code <> 'cancelled' AND r.attempt IS NULL THEN 'failed'
		ELSE 'cancelled' END AS state
) s;
COMMENT ON VIEW llm_batch.results IS
'one line per item: its state, and what its last attempt brought';

CREATE VIEW llm_batch.batches WITH (security_invoker, security_barrier) AS
SELECT b.id AS batch_id, b.job_id, j.owner, b.server, j.model, b.attempt, b.state, b.reason,
	b.item_count AS items, b.done, b.failed, b.file_bytes AS bytes, b.tries,
	b.remote_id, b.remote_end, b.error_code,
	b.created_at, b.submitted_at, b.cancelled_at, b.ended_at, b.finalized_at
FROM llm_batch.batch b
JOIN llm_batch.job j ON j.id = b.job_id;
COMMENT ON VIEW llm_batch.batches IS 'one line per batch at a provider';

CREATE VIEW llm_batch.events WITH (security_invoker, security_barrier) AS
SELECT e.id AS event_id, e.at, e.job_id, e.batch_id, e.kind, e.message, j.labels
FROM llm_batch.event e
JOIN llm_batch.job j ON j.id = e.job_id
ORDER BY e.id;
COMMENT ON VIEW llm_batch.events IS 'the history of jobs and batches';

GRANT SELECT ON llm_batch.workers, llm_batch.progress, llm_batch.attempts, llm_batch.results,
	llm_batch.batches, llm_batch.events TO PUBLIC;
