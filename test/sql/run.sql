-- wait, cancel, pause, resume, retry, apply, check_server: what they do, and
-- when they refuse.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', realtime_threshold '0', retry_base '1ms', retry_max '1ms');
CREATE SERVER slow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '1h', realtime_threshold '0');
SET llm_batch.default_server = 'fast';
\pset format unaligned
\pset tuples_only on
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
CREATE VIEW counts AS SELECT job_id, state, reason, total, queued, in_flight, succeeded, failed, cancelled, unapplied, finished_at IS NOT NULL AS finished FROM llm_batch.progress;
CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
INSERT INTO articles SELECT n, format('Article %s speaks. At length.', n) FROM generate_series(1, 5) n;

-- wait: not in a transaction block, nor in a function; in any other autocommit
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => 'summary') AS job \gset
BEGIN;
CALL llm_batch.wait(:job);
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN;
CALL llm_batch.wait(:job);
ROLLBACK;
CREATE FUNCTION wait_inside() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL llm_batch.wait(1); END $$;
SELECT wait_inside();
DROP FUNCTION wait_inside();
\set VERBOSITY default
CALL llm_batch.wait(:job);
CALL llm_batch.wait(job => :job, timeout => '1 min');
SET client_min_messages = notice;
CALL llm_batch.wait(:job);
SET client_min_messages = warning;
DO $$
DECLARE
	job bigint := (SELECT max(job_id) FROM llm_batch.progress);
BEGIN
	CALL llm_batch.wait(job);
END $$;
SELECT * FROM counts WHERE job_id = :job;
SELECT count(*) FROM articles WHERE summary LIKE 'Article % speaks.';
-- of nothing
CALL llm_batch.wait(0);
CALL llm_batch.wait(NULL);
CALL llm_batch.wait(999999, '1 s');

-- the timeout is an error, and the job goes on
SELECT llm_batch.submit_prompts('{One.,Two.,Three.}', 'mock', server => 'slow') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job, '0.3 s');
CALL llm_batch.wait(:job, '0');
SET statement_timeout = '300ms';
CALL llm_batch.wait(:job);
RESET statement_timeout;
\set VERBOSITY default
CALL until(format('(SELECT in_flight = 3 FROM counts WHERE job_id = %s)', :job));
SELECT * FROM counts WHERE job_id = :job;

-- pause shows at once; what flies goes on; then no new batch is made
SELECT llm_batch.pause(:job);
SELECT state FROM counts WHERE job_id = :job;
CALL until(format('(SELECT reason IS NOT NULL FROM counts WHERE job_id = %s)', :job));
SELECT * FROM counts WHERE job_id = :job;
SELECT llm_batch.pause(:job);
SELECT llm_batch.resume(:job);
CALL until(format($$(SELECT state = 'running' FROM counts WHERE job_id = %s)$$, :job));
SELECT * FROM counts WHERE job_id = :job;
SELECT llm_batch.resume(:job);
SELECT llm_batch.resume(:job, resend => true);
-- cancel returns at once, and shows; the provider ends it
SELECT llm_batch.cancel(:job);
SELECT state IN ('cancelling', 'cancelled') FROM counts WHERE job_id = :job;
SELECT llm_batch.cancel(:job);
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;
SELECT state, error_code, count(*) FROM llm_batch.results WHERE job_id = :job GROUP BY 1, 2;
SELECT kind FROM llm_batch.events WHERE job_id = :job AND kind IN ('paused', 'resumed', 'cancelling', 'cancelled') AND batch_id IS NULL GROUP BY kind ORDER BY min(event_id);
-- an ended job cannot be stopped, and is not started
SELECT llm_batch.cancel(:job);
SELECT llm_batch.pause(:job);
SELECT llm_batch.resume(:job);

-- paused before it began: nothing is sent
BEGIN;
SELECT llm_batch.submit('articles', '{{body}} Once more.', 'mock', target => 'summary') AS job \gset
SELECT llm_batch.pause(:job);
COMMIT;
CALL until(format('(SELECT reason IS NOT NULL FROM counts WHERE job_id = %s)', :job));
SELECT pg_sleep(0.3) \g /dev/null
SELECT * FROM counts WHERE job_id = :job;
SELECT count(*) FROM llm_batch.batches WHERE job_id = :job;
SELECT DISTINCT state FROM llm_batch.results WHERE job_id = :job;
-- a paused job can be cancelled
SELECT llm_batch.cancel(:job);
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;
SELECT DISTINCT state, error_code FROM llm_batch.results WHERE job_id = :job;
-- retry of what was cancelled, when its code is named
SELECT llm_batch.retry(:job);
SELECT llm_batch.retry(:job, '{cancelled}');
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;

-- rolled back commands are not obeyed
SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow') AS job \gset
BEGIN;
SELECT llm_batch.cancel(:job);
SELECT state FROM counts WHERE job_id = :job;
ROLLBACK;
CALL until(format('(SELECT in_flight = 1 FROM counts WHERE job_id = %s)', :job));
SELECT state, cancelled FROM counts WHERE job_id = :job;
SELECT llm_batch.cancel(:job);
CALL llm_batch.wait(:job);

-- all failed: wait raises; retry sends the failed ones again
ALTER SERVER fast OPTIONS (ADD failure_rate '1', ADD max_attempts '1');
SELECT llm_batch.submit('articles', '{{body}} Thirdly.', 'mock', target => 'summary', "limit" => 2) AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT * FROM counts WHERE job_id = :job;
SELECT error_code, finish_reason, answer, cost FROM llm_batch.results WHERE job_id = :job;
SELECT llm_batch.retry(:job, '{rate_limited}');
SELECT llm_batch.retry(:job, '{no_such_code}');
SELECT llm_batch.retry(:job, ARRAY[NULL]);
SELECT llm_batch.retry(NULL);
ALTER SERVER fast OPTIONS (SET failure_rate '0');
SELECT llm_batch.retry(:job);
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;
SELECT ordinal, attempt, state, error_code FROM llm_batch.attempts WHERE job_id = :job ORDER BY 1, 2;
SELECT llm_batch.retry(:job);

-- what it will cost is said before
SELECT llm_batch.submit_prompts('{"A sentence that is longer than one token."}', 'mock', params => '{"max_tokens": 1}') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT state, error_code, finish_reason, answer FROM llm_batch.results WHERE job_id = :job;
-- a truncated answer is an answer: paid again only when named
SELECT llm_batch.retry(:job);
SET client_min_messages = notice;
BEGIN;
SELECT llm_batch.retry(:job, '{truncated}');
ROLLBACK;
SET client_min_messages = warning;
-- while it runs there is nothing to retry or apply
SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow') AS job \gset
\set VERBOSITY sqlstate
SELECT llm_batch.retry(:job);
\set VERBOSITY default
SELECT llm_batch.cancel(:job);
CALL llm_batch.wait(:job);

-- one row refuses its answer, one is gone, one has new text: the others land
DELETE FROM articles;
INSERT INTO articles SELECT n, format('Row %s speaks.', n) FROM generate_series(1, 5) n;
BEGIN;
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => 'summary', server => 'fast') AS job \gset
ALTER TABLE articles ADD CONSTRAINT no_two CHECK (id <> 2 OR summary IS NULL);
DELETE FROM articles WHERE id = 3;
UPDATE articles SET body = 'Newer text.' WHERE id = 4;
COMMIT;
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;
SELECT key, state, error_code, error, answer FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT * FROM articles ORDER BY id;
-- apply writes what can be written by now, and pays nothing; the rest stays
ALTER TABLE articles DROP CONSTRAINT no_two;
SELECT count(*) AS attempts FROM llm_batch.attempts WHERE job_id = :job \gset
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;
SELECT key, state, error_code, answer FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT * FROM articles ORDER BY id;
SELECT count(*) = :attempts FROM llm_batch.attempts WHERE job_id = :job;
-- stale only when named: then the prompt that was made is sent again, and is stale again
SELECT llm_batch.retry(:job);
SELECT llm_batch.apply(:job) AS rows_to_try;
CALL llm_batch.wait(:job);
SELECT * FROM articles WHERE id = 4;

-- a job without answers that wait
SELECT llm_batch.submit_prompts('{One.}', 'mock') AS job \gset
CALL llm_batch.wait(:job);
SET client_min_messages = notice;
SELECT llm_batch.apply(:job);
SET client_min_messages = warning;

-- a source that has gone: nothing is thrown away
SELECT llm_batch.submit('articles', 'Last: {{body}}', 'mock', target => 'summary', "limit" => 1, server => 'slow') AS job \gset
CALL until(format('(SELECT in_flight = 1 FROM counts WHERE job_id = %s)', :job));
ALTER TABLE articles RENAME TO papers;
ALTER SERVER slow OPTIONS (SET latency '0');
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT state, error_code, error, answer FROM llm_batch.results WHERE job_id = :job;
ALTER TABLE papers RENAME TO articles;
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
SELECT id, summary FROM articles ORDER BY id LIMIT 1;
ALTER SERVER slow OPTIONS (SET latency '1h');

-- the deadline: what is unsent then ends expired
BEGIN;
SELECT llm_batch.submit_prompts('{One.,Two.}', 'mock', deadline => '0.2 s') AS job \gset
SELECT llm_batch.pause(:job);
COMMIT;
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT * FROM counts WHERE job_id = :job;
SELECT DISTINCT state, error_code FROM llm_batch.results WHERE job_id = :job;

-- a server that is switched off pauses its jobs, and says so
ALTER SERVER slow OPTIONS (ADD enabled 'off');
SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow');
ALTER SERVER slow OPTIONS (SET enabled 'on');
BEGIN;
SELECT llm_batch.submit_prompts('{One.}', 'mock', server => 'slow') AS job \gset
ALTER SERVER slow OPTIONS (SET enabled 'off');
COMMIT;
CALL until(format($$(SELECT state = 'paused' FROM counts WHERE job_id = %s)$$, :job));
SELECT * FROM counts WHERE job_id = :job;
ALTER SERVER slow OPTIONS (SET enabled 'on', SET latency '0');
SELECT llm_batch.resume(:job);
CALL llm_batch.wait(:job);
SELECT * FROM counts WHERE job_id = :job;

-- another's job does not exist, for whoever has not its owner's privileges
CREATE ROLE regress_llmb_owner;
CREATE ROLE regress_llmb_member;
CREATE ROLE regress_llmb_stranger;
GRANT regress_llmb_owner TO regress_llmb_member;
GRANT USAGE ON FOREIGN SERVER fast TO regress_llmb_owner;
SET ROLE regress_llmb_owner;
SELECT llm_batch.submit_prompts('{One.}', 'mock') AS job \gset
SET ROLE regress_llmb_stranger;
\set VERBOSITY terse
SELECT llm_batch.cancel(:job);
\set VERBOSITY sqlstate
SELECT llm_batch.cancel(:job);
SELECT llm_batch.pause(:job);
SELECT llm_batch.resume(:job);
SELECT llm_batch.retry(:job);
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
\set VERBOSITY default
SET ROLE regress_llmb_member;
CALL llm_batch.wait(:job);
SELECT owner, state FROM llm_batch.progress;
SELECT llm_batch.retry(:job);
RESET ROLE;

-- check_server: a free call through the worker
SET client_min_messages = notice;
CALL llm_batch.check_server('fast');
CALL llm_batch.check_server('nowhere');
CALL llm_batch.check_server(NULL);
BEGIN;
CALL llm_batch.check_server('fast');
ROLLBACK;
CREATE SERVER closed FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'http://127.0.0.1:1/v1', connect_timeout '2s', request_timeout '2s');
CALL llm_batch.check_server('closed');
CREATE USER MAPPING FOR CURRENT_USER SERVER closed OPTIONS (api_key 'secret');
\set VERBOSITY sqlstate
CALL llm_batch.check_server('closed');
\set VERBOSITY default
SET ROLE regress_llmb_stranger;
CALL llm_batch.check_server('closed');
RESET ROLE;
SET client_min_messages = warning;
-- no question stays behind
SELECT count(*) FROM llm_batch.probe;

DROP VIEW counts;
DROP PROCEDURE until;
DROP TABLE articles;
DROP SERVER fast, slow, closed CASCADE;
DROP ROLE regress_llmb_owner, regress_llmb_member, regress_llmb_stranger;
