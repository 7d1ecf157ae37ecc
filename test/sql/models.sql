-- llm_batch.model: which row counts, what requests cost by it, and what is
-- estimated and refused by it before anything is sent.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
\pset format unaligned
CREATE SERVER openai FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai');
CREATE SERVER groq FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://API.Groq.com:443/openai/v1');
CREATE SERVER together FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://api.together.xyz/v1');
CREATE SERVER anthropic FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'anthropic');
CREATE SERVER gemini FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'gemini');
CREATE USER MAPPING FOR CURRENT_USER SERVER openai OPTIONS (api_key 'k');
CREATE USER MAPPING FOR CURRENT_USER SERVER groq OPTIONS (api_key 'k');
CREATE USER MAPPING FOR CURRENT_USER SERVER anthropic OPTIONS (api_key 'k');

-- what comes with the extension: how much, and nothing that cannot be
SELECT api, host, count(*) AS rows, count(*) FILTER (WHERE input IS NULL) AS without_price FROM llm_batch.model GROUP BY 1, 2 ORDER BY 1, 2;
SELECT name FROM llm_batch.model WHERE NOT shipped OR cached > input OR cache_write < input OR cache_write_long < cache_write
	OR input IS NOT NULL AND (batch_input IS NULL OR batch_output IS NULL OR batch_input > 1)
	OR max_input + max_output > context_window OR class IS NULL AND api <> 'mock' OR note IS NULL
	OR (position('%' IN name) > 0 AND input IS NOT NULL AND api <> 'mock');
SELECT api, class, string_agg(DISTINCT sampling, ', ') AS sampling, count(*) FROM llm_batch.model GROUP BY 1, 2 ORDER BY 1, 2;

-- one request each, by hand, in USD per million: the usage that the providers
-- tell, in real time and in a batch
CREATE FUNCTION pg_temp.cost(server name, model text, input bigint, cached bigint, written bigint, long bigint, output bigint, mode text)
RETURNS numeric LANGUAGE sql AS $$ SELECT llm_batch.price($1, $2, $3, $7, $4, $5, $6, $8, '2026-11-21 12:00Z') $$;
SELECT n, cost, cost = expected / 1000000 AS right FROM (VALUES
	-- 10,000 in, 6,000 of it cached, 1,000 written; 500 out
	(1, pg_temp.cost('openai', 'gpt-6-luna', 10000, 6000, 1000, 0, 500, 'realtime'), 3000 * 0.1 + 6000 * 0.01 + 1000 * 0.125 + 500 * 0.5),
	(2, pg_temp.cost('openai', 'gpt-6-luna', 10000, 6000, 1000, 0, 500, 'batch'), (3000 * 0.1 + 6000 * 0.01 + 1000 * 0.125 + 500 * 0.5) / 2),
	-- 400 of what is written is kept for 12 hours
	(3, pg_temp.cost('openai', 'gpt-6.2-sol', 10000, 6000, 1000, 400, 500, 'batch'), (3000 * 2 + 6000 * 0.1 + 600 * 2.5 + 400 * 5 + 500 * 10) / 2.0),
	-- before gpt-5.6, writing costs nothing extra
	(4, pg_temp.cost('openai', 'gpt-4.1-mini', 10000, 6000, 1000, 0, 500, 'realtime'), 4000 * 0.4 + 6000 * 0.1 + 500 * 1.6),
	-- input_tokens 2,000 + read 5,000 + written 3,000, of these 1,000 for an hour
	(5, pg_temp.cost('anthropic', 'claude-haiku-4-5', 10000, 5000, 3000, 1000, 700, 'realtime'), 2000 * 1 + 5000 * 0.1 + 2000 * 1.25 + 1000 * 2 + 700 * 5),
	(6, pg_temp.cost('anthropic', 'claude-haiku-4-5', 10000, 5000, 3000, 1000, 700, 'batch'), (2000 * 1 + 5000 * 0.1 + 2000 * 1.25 + 1000 * 2 + 700 * 5) / 2),
	-- cached input is not halved
	(7, pg_temp.cost('gemini', 'gemini-2.5-flash', 10000, 4096, 0, 0, 300, 'realtime'), 5904 * 0.3 + 4096 * 0.03 + 300 * 2.5),
	(8, pg_temp.cost('gemini', 'gemini-2.5-flash', 10000, 4096, 0, 0, 300, 'batch'), 5904 * 0.15 + 4096 * 0.03 + 300 * 1.25),
	(9, pg_temp.cost('openai', 'text-embedding-3-large', 7, 0, 0, 0, 0, 'batch'), 7 * 0.065),
	(10, pg_temp.cost('groq', 'llama-3.3-70b-versatile', 1001, 0, 0, 0, 77, 'batch'), 1001 * 0.295 + 77 * 0.395),
	(11, pg_temp.cost('mock', 'anything', 1000, 10, 10, 5, 1000, 'batch'), 0),
	(12, pg_temp.cost('openai', 'gpt-6-luna', 1, 0, 0, 0, 0, 'batch'), 0.05),
	(13, pg_temp.cost('openai', 'gpt-6-luna', 1, 1, 0, 0, 0, 'batch'), 0.005)
) v(n, cost, expected) ORDER BY n;

-- above a threshold the whole request is dearer; cached and written tokens count
SELECT n, cost, cost = expected / 1000000 AS right FROM (VALUES
	(1, pg_temp.cost('openai', 'gpt-5.4', 272000, 0, 0, 0, 100, 'realtime'), 272000 * 2.5 + 100 * 15),
	(2, pg_temp.cost('openai', 'gpt-5.4', 272001, 272000, 0, 0, 100, 'realtime'), 1 * 5 + 272000 * 0.5 + 100 * 22.5),
	(3, pg_temp.cost('openai', 'gpt-6-sol', 300000, 0, 1000, 1000, 100, 'batch'), (299000 * 4 + 1000 * 10 + 100 * 15) / 2.0),
	(4, pg_temp.cost('anthropic', 'claude-haiku-5-5', 100000, 50000, 50000, 0, 10, 'realtime'), 50000 * 0.01 + 50000 * 0.125 + 10 * 0.5),
	(5, pg_temp.cost('anthropic', 'claude-haiku-5-5', 100001, 50000, 50000, 0, 10, 'realtime'), 1 * 0.5 + 50000 * 0.05 + 50000 * 0.625 + 10 * 2.5),
	(6, pg_temp.cost('gemini', 'gemini-2.5-pro', 200000, 0, 0, 0, 10, 'batch'), (200000 * 1.25 + 10 * 10) / 2),
	(7, pg_temp.cost('gemini', 'gemini-2.5-pro', 200001, 100000, 0, 0, 10, 'batch'), 100001 * 1.25 + 100000 * 0.25 + 10 * 7.5)
) v(n, cost, expected) ORDER BY n;

-- what is not known is NULL: the model; what a cache costs; what it costs in a batch
SELECT llm_batch.price('openai', 'gpt-99', 10) AS model, llm_batch.price('openai', 'gpt-5.1', 10) AS class_alone,
	llm_batch.price('groq', 'llama-3.1-8b-instant', 10, cached_tokens => 5) AS cached,
	llm_batch.price('groq', 'openai/gpt-oss-20b', 10, cached_tokens => 5) AS cached_in_batch,
	llm_batch.price('groq', 'openai/gpt-oss-20b', 10, cached_tokens => 5, mode => 'realtime') AS cached_in_real_time,
	llm_batch.price('openai', NULL, 10) AS no_model;
SELECT llm_batch.price('nobody', 'gpt-6-luna', 10);
SELECT llm_batch.price('openai', 'gpt-6-luna', -1);
SELECT llm_batch.price('openai', 'gpt-6-luna', 10, cached_tokens => 6, cache_write_tokens => 5);
SELECT llm_batch.price('openai', 'gpt-6-luna', 10, mode => 'auto');

-- prices by the day, UTC
SELECT model, day, llm_batch.price(CASE WHEN model LIKE 'claude%' THEN 'anthropic' WHEN model LIKE 'gem%' THEN 'gemini' ELSE 'openai' END,
	model, 1000000, 0, CASE WHEN model LIKE 'claude%' THEN 1000000 ELSE 0 END, mode => 'realtime', at => day::timestamptz)
FROM (VALUES ('gpt-5.6-sol', '2026-08-20 23:59:59Z'), ('gpt-5.6-sol', '2026-08-21 00:00:00Z'),
	('claude-sonnet-5-5', '2026-10-06 23:59:59Z'), ('claude-sonnet-5-5', '2026-10-07 00:00:00Z'), ('claude-sonnet-5-5', '2026-10-06 22:00:00-02'),
	('gemini-3.8-flash', '2026-12-31 23:00:00Z'), ('gemini-3.8-flash', '2027-01-01 00:00:00Z')) v(model, day);

-- names: snapshots, folders, fine-tuned models; hosts
SELECT server, model, llm_batch.price(server, model, 1000000, mode => 'realtime') FROM (VALUES
	('openai', 'gpt-5.4-nano'), ('openai', 'gpt-5.4-nano-2026-03-17'), ('openai', 'gpt-4o-2024-08-06'), ('openai', 'gpt-4o-mini-2024-07-18'),
	('openai', 'gpt-4o-2024-08'), ('openai', 'gpt-4o-audio-preview'), ('openai', 'gpt-5-chat-latest'), ('openai', '-2026-03-17'), ('openai', 'GPT-4o'), ('openai', 'gpt%'),
	('openai', 'ft:gpt-4o-mini-2024-07-18:org::id'), ('openai', 'ft:'), ('openai', 'openai/gpt-oss-120b'),
	('groq', 'openai/gpt-oss-20b'), ('together', 'openai/gpt-oss-20b'), ('groq', 'gpt-4o'),
	('anthropic', 'claude-haiku-4-5-20251001'), ('anthropic', 'claude-haiku-4-5@20251001'), ('anthropic', 'claude-haiku-4-5'), ('anthropic', 'claude-opus-5'), ('anthropic', 'gpt-4o'),
	('gemini', 'models/gemini-2.5-flash'), ('gemini', 'gemini-embedding-001')) v(server, model);

-- facts: what a model refuses is refused at submit, also by such a name
CREATE TABLE page (id int PRIMARY KEY, body text, answer text, word text, vector real[]);
INSERT INTO page SELECT n, repeat('Tea for two. ', 10) FROM generate_series(1, 25) n;
CREATE PROCEDURE pg_temp.refused(server name, model text, params jsonb) LANGUAGE plpgsql AS $$
DECLARE
	reason text;
BEGIN
	PERFORM llm_batch.preview('page', '{{body}}', model, server => server, params => params);
	RAISE WARNING '%: %', model, 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
	RAISE WARNING '%', reason;
END $$;
\set VERBOSITY terse
CALL pg_temp.refused('openai', 'gpt-6-astra-2026-01-01', '{"temperature": 0.2}');
CALL pg_temp.refused('openai', 'gpt-6-luna', '{"temperature": 0.2}');
CALL pg_temp.refused('openai', 'gpt-6-luna', '{"temperature": 0.2, "reasoning_effort": "none"}');
CALL pg_temp.refused('openai', 'gpt-5.2-2025-12-11', '{"temperature": 0.2}');
CALL pg_temp.refused('openai', 'ft:gpt-4o-mini-2024-07-18:org::id', '{"reasoning_effort": "low"}');
CALL pg_temp.refused('openai', 'o3-mini', '{"reasoning_effort": "minimal"}');
CALL pg_temp.refused('openai', 'gpt-99', '{"temperature": 0.2, "reasoning_effort": "low"}');
\set VERBOSITY default

-- rows of yours: they win, whatever is shipped; prices are one row's, the rest is added to
INSERT INTO llm_batch.model (api, name, input, output) VALUES ('openai', 'gpt-6-luna', 0.08, 0.4);
SELECT llm_batch.price('openai', 'gpt-6-luna', 1000000, 1000000) AS batch, llm_batch.price('openai', 'gpt-6-luna', 1000000, mode => 'realtime') AS real_time,
	llm_batch.price('openai', 'gpt-6-luna', 100, cached_tokens => 1) AS cached, llm_batch.price('openai', 'gpt-6-luna', 200000) AS short,
	llm_batch.price('groq', 'gpt-6-luna', 1000000, mode => 'realtime') AS at_all_hosts;
\set VERBOSITY terse
CALL pg_temp.refused('openai', 'gpt-6-luna', '{"temperature": 0.2}');
-- what yours says of the model counts, too; then without a price the shipped one's
UPDATE llm_batch.model SET sampling = 'any', input = NULL, output = NULL WHERE NOT shipped;
CALL pg_temp.refused('openai', 'gpt-6-luna', '{"temperature": 0.2}');
\set VERBOSITY default
SELECT llm_batch.price('openai', 'gpt-6-luna', 1000000, cached_tokens => 1000000, mode => 'realtime');
-- from a day on; for a host; a pattern; a name before a pattern; a longer pattern before a shorter one
INSERT INTO llm_batch.model (api, name, host, valid_from, input, output, batch_input, batch_output) VALUES
	('openai', 'gpt-6-luna', NULL, '2026-01-01', 7, 0, 1, 1), ('openai', 'gpt-6-luna', NULL, '2999-01-01', 8, 0, 1, 1),
	('openai', 'gpt-6-luna', '%.groq.com', '-infinity', 9, 0, 1, 1),
	('openai', 'mine-%', NULL, '-infinity', 1, 0, 1, 1), ('openai', 'mine-large-%', NULL, '-infinity', 2, 0, 1, 1), ('openai', 'mine-large', NULL, '-infinity', 3, 0, 1, 1);
SELECT llm_batch.price('openai', 'gpt-6-luna', 1000000) AS of_today, llm_batch.price('openai', 'gpt-6-luna', 1000000, at => '2025-12-31') AS before,
	llm_batch.price('openai', 'gpt-6-luna', 1000000, at => '2999-01-02') AS later, llm_batch.price('groq', 'gpt-6-luna', 1000000) AS host,
	llm_batch.price('openai', 'mine-x', 1000000) AS pattern, llm_batch.price('openai', 'mine-large-x', 1000000) AS longer,
	llm_batch.price('openai', 'mine-large-2026-01-01', 1000000) AS name, llm_batch.price('anthropic', 'mine-x', 1000000) AS other_api;
DELETE FROM llm_batch.model WHERE NOT shipped;

-- what cannot be is refused
INSERT INTO llm_batch.model (api, name) VALUES ('google', 'x');
INSERT INTO llm_batch.model (api, name, input, output) VALUES ('openai', 'x', 'NaN', 1);
INSERT INTO llm_batch.model (api, name, input, output) VALUES ('openai', 'x', -1, 1);
INSERT INTO llm_batch.model (api, name, input, output, batch_input) VALUES ('openai', 'x', 1, 1, 'Infinity');
INSERT INTO llm_batch.model (api, name, input) VALUES ('openai', 'x', 1);
INSERT INTO llm_batch.model (api, name, input, output, long_context) VALUES ('openai', 'x', 1, 1, 100000);
INSERT INTO llm_batch.model (api, name, sampling) VALUES ('openai', 'x', 'some');
INSERT INTO llm_batch.model (api, name) VALUES ('openai', 'x'), ('openai', 'x');

-- everybody may read it; it is written by the owner, and whom he lets
CREATE ROLE regress_llmb_reader;
SET ROLE regress_llmb_reader;
SELECT count(*) > 100 AS readable FROM llm_batch.model;
SELECT llm_batch.price('openai', 'gpt-4o', 1000000);
INSERT INTO llm_batch.model (api, name, input, output) VALUES ('mock', 'x', 1, 1);
UPDATE llm_batch.model SET input = 0;
SELECT count(*) FROM llm_batch.calibration;
RESET ROLE;
GRANT INSERT ON llm_batch.model TO regress_llmb_reader;
SET ROLE regress_llmb_reader;
INSERT INTO llm_batch.model (api, name, host, input, output) VALUES ('openai', 'x', 'nowhere', 1, 1);
RESET ROLE;

-- estimate: the asked model, and others that could do it, the cheapest first
SELECT * FROM llm_batch.estimate('page', 'Summarise: {{body}}', 'gpt-6-luna', server => 'openai') LIMIT 4;
SELECT count(*) > 15 AS candidates, count(*) FILTER (WHERE asked) AS asked, bool_and(fits) AS fit, bool_and(cost = cost_batch AND mode = 'batch') AS batch,
	bool_and(model NOT LIKE 'text-embedding%') AS no_embedding, bool_and(cost_batch * 2 = cost_realtime) AS half FROM llm_batch.estimate('page', '{{body}}', 'gpt-6-luna', server => 'openai');
-- up to realtime_threshold in real time; max_tokens bounds the answers; who refuses the parameters is left out
SELECT model, asked, items, output_tokens, mode, cost = cost_realtime AS real_time FROM llm_batch.estimate('page', '{{body}}', 'gpt-4o-mini', server => 'openai', "limit" => 20, params => '{"max_tokens": 100, "temperature": 0.5}') ORDER BY model;
-- a model without a price is told, and has no cost
SELECT model, asked, input_tokens > 0 AS input, cost_realtime, cost_batch, cost, fits, note FROM llm_batch.estimate('page', '{{body}}', 'gpt-99', server => 'openai') WHERE asked;
SELECT model, asked, output_tokens, cost > 0 AS cost FROM llm_batch.estimate('page', '{{body}}', 'text-embedding-3-small', server => 'openai', target => 'vector') ORDER BY model;
-- elsewhere, what the table has for that host
SELECT model FROM llm_batch.estimate('page', '{{body}}', 'llama-3.1-8b-instant', server => 'groq') ORDER BY model COLLATE "C";
-- a structured answer: who has no JSON schema is left out
SELECT model FROM llm_batch.estimate('page', '{{body}}', 'openai/gpt-oss-20b', server => 'groq', target => 'answer, word') ORDER BY model COLLATE "C";
-- no rows; nothing stored
SELECT items, input_tokens, output_tokens, cost, note FROM llm_batch.estimate('page', '{{body}}', 'gpt-4o', server => 'openai', filter => 'false') WHERE asked;
SELECT count(*) FROM llm_batch.job;

-- a prompt that cannot fit the context: estimate says so, submit refuses it
UPDATE page SET body = repeat('x', 1100000) WHERE id = 7;
SELECT fits, note FROM llm_batch.estimate('page', '{{body}}', 'gpt-4o', server => 'openai') WHERE asked;
SELECT llm_batch.submit('page', '{{body}}', 'gpt-4o', server => 'openai');
SELECT llm_batch.submit_prompts(ARRAY['short', repeat('y', 70000)], 'text-embedding-3-small', server => 'openai');
SELECT llm_batch.submit_query($$SELECT 1 AS key, 'short' AS prompt, repeat('z', 3300000) AS system$$, 'claude-haiku-4-5', server => 'anthropic', mode => 'batch');
BEGIN;
SELECT llm_batch.submit('page', '{{body}}', 'gpt-4o', server => 'openai', filter => 'id <> 7') > 0 AS taken;
SELECT llm_batch.submit('page', '{{body}}', 'gpt-4.1', server => 'openai') > 0 AS taken;
ROLLBACK;
UPDATE page SET body = 'Tea for two.' WHERE id = 7;

-- what was spent: to the last digit, in the transaction of the results
INSERT INTO llm_batch.model (api, name, input, cached, cache_write, output, batch_input, batch_cached, batch_cache_write, batch_output) VALUES ('mock', 'dear', 1.23, 0.123, 1.5, 4.57, 0.5, 1, 0.5, 0.25);
SELECT llm_batch.submit('page', 'Summarise: {{body}}', 'dear', server => 'mock', target => 'answer', mode => 'batch', labels => '{"team": "a"}') AS job \gset
CALL llm_batch.wait(:job);
SELECT p.cost > 0 AS cost, p.cost_unknown, p.cost = a.cost AS as_attempts, p.cost = (a.input * 1.23 * 0.5 + a.output * 4.57 * 0.25) / 1000000 AS by_hand,
	p.cost + p.saved = (a.input * 1.23 + a.output * 4.57) / 1000000 AS against_real_time, p.cost = c.cost AND p.saved = c.saved AND c.saved = c.saved_batch + c.saved_prefix AND c.saved_prefix = 0 AS as_costs,
	c.attempts, c.input_tokens = a.input AND c.output_tokens = a.output AS tokens, c.labels, c.day = (now() AT TIME ZONE 'UTC')::date AS today
FROM llm_batch.progress p, llm_batch.costs c, (SELECT sum(cost) AS cost, sum(input_tokens) AS input, sum(output_tokens) AS output FROM llm_batch.attempts WHERE job_id = :job) a
WHERE p.job_id = :job AND c.model = 'dear';
-- in real time nothing is saved
SELECT llm_batch.submit('page', 'Summarise: {{body}}', 'dear', server => 'mock', mode => 'realtime') AS job \gset
CALL llm_batch.wait(:job);
SELECT cost > 0 AS cost, saved, cost_unknown FROM llm_batch.progress WHERE job_id = :job;
SELECT mode, attempts, cost > 0 AS cost, real_time_cost - cost = saved_batch AS saved, saved_batch > 0 AS by_batch FROM llm_batch.spending WHERE model = 'dear' ORDER BY mode;
-- without a price: unknown, and counted
INSERT INTO llm_batch.model (api, name, valid_from, input, output, batch_output) VALUES ('mock', 'half-known', '-infinity', 1, 1, NULL);
UPDATE llm_batch.model SET batch_output = NULL WHERE api = 'mock' AND shipped;
SELECT llm_batch.submit('page', '{{body}}', 'half-known', server => 'mock', mode => 'batch') AS job \gset
CALL llm_batch.wait(:job);
SELECT cost, saved, cost_unknown FROM llm_batch.progress WHERE job_id = :job;
SELECT cost, real_time_cost, saved, saved_batch, saved_prefix, cost_unknown FROM llm_batch.costs WHERE model = 'half-known';
UPDATE llm_batch.model SET batch_output = 1 WHERE api = 'mock' AND shipped;

-- usage teaches: the next estimate goes by it
SELECT c.answers, e.note, e.output_tokens = ceil(c.output_tokens::numeric * 25 / c.answers) AS output,
	abs(e.input_tokens - c.input_tokens::numeric / 2) < 2 AS input
FROM llm_batch.calibration c, llm_batch.estimate('page', 'Summarise: {{body}}', 'dear', server => 'mock') e
WHERE c.model = 'dear' AND e.asked AND c.server = 'mock';

-- what a provider did not run costs nothing; sending it again is forecast, then goes by what was paid
CREATE SERVER broken FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', failure_rate '1', max_attempts '1');
SELECT llm_batch.submit('page', 'Summarise: {{body}}', 'dear', server => 'broken', mode => 'batch') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT state, failed, cost, saved, cost_unknown FROM llm_batch.progress WHERE job_id = :job;
SET client_min_messages = notice;
BEGIN;
SELECT llm_batch.retry(:job);
ROLLBACK;
UPDATE llm_batch.model SET batch_output = NULL WHERE api = 'mock';
BEGIN;
SELECT llm_batch.retry(:job);
ROLLBACK;
UPDATE llm_batch.model SET batch_output = CASE name WHEN 'dear' THEN 0.25 ELSE 1 END WHERE api = 'mock';
SET client_min_messages = warning;
SELECT llm_batch.submit('page', 'Summarise: {{body}}', 'dear', server => 'mock', mode => 'batch', params => '{"max_tokens": 1}') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT state, failed, cost > 0 AS cost, cost_unknown FROM llm_batch.progress WHERE job_id = :job;
SELECT round(cost, 6) AS paid FROM llm_batch.progress WHERE job_id = :job;
SET client_min_messages = notice;
BEGIN;
SELECT llm_batch.retry(:job, '{truncated}');
ROLLBACK;
SET client_min_messages = warning;

-- who sees what was spent
SELECT count(*) > 1 AS own FROM llm_batch.costs;
SET ROLE regress_llmb_reader;
SELECT count(*) FROM llm_batch.costs;
RESET ROLE;
GRANT pg_monitor TO regress_llmb_reader;
SET ROLE regress_llmb_reader;
SELECT count(*) > 1 AS all FROM llm_batch.costs;
SELECT count(*) > 0 AS calibration FROM llm_batch.calibration;
UPDATE llm_batch.spending SET cost = 0;
RESET ROLE;

DROP TABLE page;
DROP EXTENSION llm_batch CASCADE;
DROP ROLE regress_llmb_reader;
