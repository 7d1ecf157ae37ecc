-- The views: their columns are an interface, and they show what is so.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
\pset format unaligned

SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'llm_batch'::regnamespace AND c.relkind = 'v' GROUP BY c.relname ORDER BY c.relname;

-- an empty database: empty views, and one line about the worker
SELECT (SELECT count(*) FROM llm_batch.progress) AS progress, (SELECT count(*) FROM llm_batch.results) AS results,
	(SELECT count(*) FROM llm_batch.attempts) AS attempts, (SELECT count(*) FROM llm_batch.batches) AS batches,
	(SELECT count(*) FROM llm_batch.events) AS events, (SELECT count(*) FROM llm_batch.workers) AS workers;
SELECT database = current_database() AS database, preloaded, (pid IS NULL) = (message IS NOT NULL) AS message_without_worker,
	(pid IS NULL) = (since IS NOT NULL) AS since_without_worker FROM llm_batch.workers;
SELECT server, enabled, breaker, failures, in_flight, calls_per_minute, error_rate, active_jobs, active_batches, queued, uncertain, turnaround_p50, last_success FROM llm_batch.health;
SELECT name, string_agg(labels - 'server' #>> '{}', ' ' ORDER BY labels) AS labels, sum(value) FROM llm_batch.metrics WHERE name <> 'llm_batch_worker_up' GROUP BY name ORDER BY name;

-- before the commit that wakes the worker, and without any worker: all is queued
CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '1h', realtime_threshold '0');
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', realtime_threshold '0', max_batch_requests '2', max_active_batches '2');
BEGIN;
SELECT llm_batch.submit_prompts('{One. 1,Two. 2,Three. 3}', 'mock', server => 'slow', labels => '{"a": 1}') AS job \gset
SELECT owner = current_user AS own, task, server, model, mode, state, total, queued, in_flight, succeeded, failed, cancelled, unapplied, uncertain,
	percent, bar, elapsed >= '0' AS elapsed, eta, eta_at, cost, saved, cost_unknown, labels, created_at = now() AS created, finished_at
FROM llm_batch.progress WHERE job_id = :job;
SELECT ordinal, key, attempt, state, answer, error_code, model, completed_at FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT kind, message, batch_id, at IS NOT NULL AS at FROM llm_batch.events WHERE job_id = :job;
COMMIT;

-- at the provider: in flight
CREATE PROCEDURE until(condition text) LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	FOR i IN 1..3000 LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		COMMIT;
		EXIT WHEN met;
		PERFORM pg_sleep(0.01);
	END LOOP;
	IF met IS NOT TRUE THEN
		RAISE EXCEPTION 'this did not come true: %', condition;
	END IF;
END $$;
CALL until(format($$(SELECT state = 'in_progress' FROM llm_batch.batches WHERE job_id = %s)$$, :job));
SELECT state, queued, in_flight, percent < 100 AS not_all, bar ~ '^\[#*\.+\]$' AS bar, reason, finished_at FROM llm_batch.progress WHERE job_id = :job;
SELECT DISTINCT state FROM llm_batch.results WHERE job_id = :job;
SELECT owner = current_user AS own, server, model, attempt, state, items, bytes > 0 AS bytes, remote_id IS NOT NULL AS remote, submitted_at >= created_at AS submitted, ended_at FROM llm_batch.batches WHERE job_id = :job;
SELECT pid > 0 AS pid, state, message FROM llm_batch.workers;
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_batch worker' AND datname = current_database();

-- time left is told from the provider's counts, before the first result is here
CREATE SERVER steady FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '5s', realtime_threshold '0', poll_max '100ms');
SELECT llm_batch.submit_prompts(array_agg('Prompt ' || n), 'mock', server => 'steady') AS job FROM generate_series(1, 100) n \gset
CALL until(format($$(SELECT eta IS NOT NULL FROM llm_batch.progress WHERE job_id = %s)$$, :job));
SELECT state, succeeded, percent > 0 AND percent < 100 AS moves, eta BETWEEN '0' AND '10 s' AS eta, eta_at BETWEEN now() - interval '1 s' AND now() + interval '10 s' AS eta_at
FROM llm_batch.progress WHERE job_id = :job;
SELECT llm_batch.cancel(:job);

-- ended: each event in its order, numbers and words in their places
SELECT llm_batch.submit_prompts('{One. 1,Two. 2,Three. 3}', 'mock', server => 'fast') AS job \gset
CALL llm_batch.wait(:job);
SELECT kind, regexp_replace(message, '\y(mock-)?[0-9a-f_-]{10,}\y|\d+ bytes', 'X', 'g') AS message FROM llm_batch.events WHERE job_id = :job AND batch_id IS NULL ORDER BY event_id;
SELECT b.items, string_agg(e.kind, ', ' ORDER BY event_id) AS events FROM llm_batch.events e JOIN llm_batch.batches b USING (batch_id)
WHERE b.job_id = :job GROUP BY b.batch_id, b.items ORDER BY b.batch_id;
SELECT attempt, state, items, done, failed, remote_end, error_code, finalized_at >= ended_at AND ended_at >= submitted_at AS in_order FROM llm_batch.batches WHERE job_id = :job ORDER BY batch_id;
SELECT percent, bar, eta, eta_at, elapsed <= now() - created_at AS elapsed, finished_at > created_at AS finished FROM llm_batch.progress WHERE job_id = :job;
SELECT ordinal, attempt, state, answer, batch_id = (SELECT min(batch_id) FROM llm_batch.batches b WHERE b.job_id = a.job_id) AS first_batch, altered FROM llm_batch.attempts a WHERE job_id = :job ORDER BY ordinal;
-- elapsed stands still
SELECT elapsed AS before FROM llm_batch.progress WHERE job_id = :job \gset
SELECT pg_sleep(1.1) \g /dev/null
SELECT elapsed = :'before' AS stands FROM llm_batch.progress WHERE job_id = :job;

-- several attempts: results has the last one, attempts has all
CREATE SERVER broken FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', realtime_threshold '0', failure_rate '1', max_attempts '3', retry_base '1ms', retry_max '1ms');
SELECT llm_batch.submit_prompts('{One. 1,Two. 2}', 'mock', server => 'broken') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT ordinal, attempt, state, error_code, answer, error IS NOT NULL AS error FROM llm_batch.results WHERE job_id = :job ORDER BY 1, 2;
SELECT ordinal, attempt, state, error_code FROM llm_batch.attempts WHERE job_id = :job ORDER BY 1, 2;
SELECT state, succeeded, failed, percent, cost, cost_unknown FROM llm_batch.progress WHERE job_id = :job;

-- answer_json: only what is JSON, whatever else an answer may be
SELECT a, llm_batch.answer_json(a) FROM (VALUES ('{"a": 1}'), (' [1, "x"] '), ('prose'), ('{"a": '), ('1'), ('"text"'), ('null'), ('true'), (''), ('{"a": 1} and more'),
	(E'```json\n{"a": 1}\n```'), ('{"n": 1e999999}'), ('{"u": "\u0000"}'), ('{"u": "\ud800"}'), ('{"a": 1, "a": 2}'), (repeat('[', 100000))) v(a) WHERE length(a) < 1000
	OR llm_batch.answer_json(a) IS NOT NULL;

SELECT llm_batch.cancel(job_id) FROM llm_batch.progress WHERE finished_at IS NULL;
CALL until('(SELECT bool_and(finished_at IS NOT NULL) FROM llm_batch.progress)');
DROP PROCEDURE until;
DROP SERVER slow, fast, steady, broken;
