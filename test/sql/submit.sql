-- submit, submit_query, submit_prompts, preview and render, as they are meant.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '20ms');
SET llm_batch.default_server = 'fast';
\pset format unaligned

-- render: as a job would, whatever the session's own forms of dates and bytes
\pset tuples_only on
SET DateStyle = 'SQL, DMY';
SET bytea_output = 'escape';
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE TABLE sample (id int, title text, body text, n numeric, flag bool, tags text[], doc jsonb, day date, raw bytea, mood mood, "Odd ""name""" text, "a|b" int);
INSERT INTO sample VALUES (1, 'Tea', E'Two\nlines "quoted" \\ back', 1.50, true, '{a,"b c"}', '{"k": [1, null]}', '3/2/2026', '\x6100', 'cross', 'odd', 7);
INSERT INTO sample (id) VALUES (2);
SELECT template || ' -> ' || COALESCE(llm_batch.render(template, s), '(null)') FROM sample s, (VALUES
	(1, 'Summarise: {{title}}, {{body}}'), (2, '{{ id }}/{{n}}/{{flag}}/{{tags}}/{{doc}}/{{day}}/{{raw}}/{{mood}}'),
	(3, '{{title|json}} {{body|json}} {{id|json}} {{n|json}} {{flag|json}} {{tags | json}} {{doc|json}} {{day|json}} {{raw|json}} {{mood|json}}'),
	(4, 'literal {{{{title}} and } and }} and { and {{{{{{title}}'), (5, '{{Odd "name"}}'), (6, 'no column at all'), (7, ''), (8, '{{title}}{{title}}'))
	t(n, template) ORDER BY s.id, t.n;
SELECT llm_batch.render('{{sum}} of {{count}}', r) FROM (SELECT count(*), sum(id) FROM sample) r;
SELECT llm_batch.render('{{f1}}', ROW('x'::text, 2));
SELECT llm_batch.render(NULL, ROW(1)) IS NULL, llm_batch.render('x', NULL) IS NULL;
RESET DateStyle;
RESET bytea_output;
\set VERBOSITY terse
SELECT llm_batch.render('{{titel}}', s) FROM sample s;
SELECT llm_batch.render('{{}}', s) FROM sample s;
SELECT llm_batch.render('{{title|upper}}', s) FROM sample s;
SELECT llm_batch.render('{{title', s) FROM sample s;
\set VERBOSITY default

-- an SQL job: one item per row, answers beside the rows
CREATE TABLE articles (id int PRIMARY KEY, title text, body text, summary text);
INSERT INTO articles VALUES (1, 'Tea', 'Tea is hot. It cools.', NULL), (2, 'Ice', 'Ice is cold! Very.', NULL),
	(3, 'Rain', 'Rain falls. Often.', 'kept'), (4, 'Snow', NULL, NULL);
SELECT llm_batch.submit('articles', 'Summarise: {{body}}', 'mock', target => 'summary', filter => 'body IS NOT NULL AND summary IS NULL') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM articles ORDER BY id;
SELECT owner = current_user, server, model, mode, state, total, succeeded, failed, percent, bar, cost, cost_unknown, labels, reason
FROM llm_batch.progress WHERE job_id = :job;
SELECT ordinal, key, attempt, state, answer, answer_json, error_code, error, finish_reason, model, prompt_version,
	input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost, item_id = job_id * 100000000 + ordinal
FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
-- the prompts that were answered are not kept, by default
SELECT count(*) FROM llm_batch.prompt WHERE job_id = :job;

-- limit: the same rows each time, in the order of the key
SELECT llm_batch.submit('articles', '{{title}}', 'mock', "limit" => 2) AS job \gset
CALL llm_batch.wait(:job);
SELECT key FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT llm_batch.submit('articles', '{{title}}', 'mock', "limit" => 0) AS job \gset
SELECT state, total, percent, finished_at IS NOT NULL FROM llm_batch.progress WHERE job_id = :job;
-- no row matches: an empty job has succeeded
SET client_min_messages = notice;
SELECT llm_batch.submit('articles', '{{title}}', 'mock', filter => 'false') AS job \gset
SET client_min_messages = warning;
CALL llm_batch.wait(:job);
SELECT state, total, percent FROM llm_batch.progress WHERE job_id = :job;

-- without a target: results only; a view, a partitioned table, and a key by name
CREATE VIEW titles AS SELECT id AS nr, upper(title) AS loud FROM articles;
SELECT llm_batch.submit('titles', 'Say {{loud}}', 'mock', key => 'nr', labels => '{"team": "search", "n": 1}') AS job \gset
CALL llm_batch.wait(:job);
SELECT key, answer FROM llm_batch.results WHERE job_id = :job ORDER BY key;
SELECT DISTINCT labels FROM llm_batch.progress WHERE job_id = :job UNION ALL SELECT DISTINCT labels FROM llm_batch.events WHERE job_id = :job;
CREATE VIEW writable AS SELECT id, body, summary FROM articles WHERE id < 3;
SELECT llm_batch.submit('writable', 'Through a view: {{body}}', 'mock', key => 'id', target => 'summary') AS job \gset
CALL llm_batch.wait(:job);
SELECT id, summary FROM articles ORDER BY id;
CREATE TABLE parted (region text, id int, body text, answer text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
INSERT INTO parted VALUES ('eu', 1, 'One in Europe.'), ('us', 1, 'One in America.');
SELECT llm_batch.submit('parted', '{{body}}', 'mock', target => 'answer') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM parted ORDER BY region;

-- submit_query
SELECT llm_batch.submit_query($$SELECT title AS key, 'Summarise: ' || body AS prompt, 'Be brief, ' || title AS system,
	'{"max_tokens": 2}'::jsonb AS params FROM articles WHERE body IS NOT NULL ORDER BY id$$, 'mock') AS job \gset
CALL llm_batch.wait(:job);
SELECT ordinal, key, state, error_code, answer, finish_reason FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT llm_batch.submit_query($$WITH q AS (VALUES (1.5)) SELECT column1 AS key,
	'[{"role": "user", "content": "First of all. Then."}]'::json AS messages FROM q$$, 'mock') AS job \gset
CALL llm_batch.wait(:job);
SELECT key, answer FROM llm_batch.results WHERE job_id = :job;

-- submit_prompts; a schema makes the answer JSON
SELECT llm_batch.submit_prompts(ARRAY['Grass is green. So.', E'Umlauts: \u00e4\u00f6\u00fc \u20ac \U0001F600 stay.'], 'mock') AS job \gset
CALL llm_batch.wait(:job);
SELECT key, answer FROM llm_batch.results WHERE job_id = :job ORDER BY ordinal;
SELECT llm_batch.submit_prompts(ARRAY['Snow is white. So.'], 'mock', schema => '{"type": "object", "properties": {"sentence": {"type": "string"}, "sure": {"const": true}}, "required": ["sentence", "sure"], "additionalProperties": false}') AS job \gset
CALL llm_batch.wait(:job);
SELECT answer, answer_json->>'sentence' AS sentence FROM llm_batch.results WHERE job_id = :job;
SELECT llm_batch.submit_prompts('{}', 'mock') AS job \gset
SELECT state, total FROM llm_batch.progress WHERE job_id = :job;

-- preview: the request bodies, and nothing is stored or sent
SELECT count(*) AS jobs FROM llm_batch.job \gset
SELECT * FROM llm_batch.preview('articles', 'Summarise: {{body}}', 'mock', filter => 'body IS NOT NULL');
SELECT * FROM llm_batch.preview('articles', 'Say {{title|json}}', 'mock', system => 'Be "brief".', params => '{"max_tokens": 20, "temperature": 0.5}', n => 2);
SELECT key, request->'response_format' FROM llm_batch.preview('articles', '{{body}}', 'mock', target => 'title, summary', n => 1);
SELECT count(*) FROM llm_batch.preview('articles', '{{title}}', 'mock', n => 0);
SELECT count(*) FROM llm_batch.preview('articles', '{{title}}', 'mock', n => 100);
SELECT count(*) FROM llm_batch.preview('articles', '{{title}}', 'mock', "limit" => 3, n => 100);
-- it works where nothing can be written
BEGIN READ ONLY;
SELECT key, request FROM llm_batch.preview('articles', '{{title}}', 'mock');
COMMIT;
SELECT count(*) = :jobs FROM llm_batch.job;

-- request_key: the same call is the same job
SELECT llm_batch.submit('articles', '{{title}}', 'mock', request_key => 'nightly') AS job \gset
SELECT llm_batch.submit('articles', '{{title}}', 'mock', request_key => 'nightly') = :job;
-- also with a search_path that makes the table be written otherwise
SET search_path = pg_catalog;
SELECT llm_batch.submit('public.articles', '{{title}}', 'mock', request_key => 'nightly') = :job;
RESET search_path;
-- also while it runs and when it has ended
CALL llm_batch.wait(:job);
SELECT llm_batch.submit('articles', '{{title}}', 'mock', request_key => 'nightly') = :job;
SELECT count(*) FROM llm_batch.job WHERE request_key = 'nightly';
SELECT total, (SELECT count(*) FROM llm_batch.item WHERE job_id = :job) FROM llm_batch.progress WHERE job_id = :job;
-- another key is another job, and a key is its owner's
SELECT llm_batch.submit('articles', '{{title}}', 'mock', request_key => 'nightly 2') <> :job;
SELECT llm_batch.submit_prompts('{a}', 'mock', request_key => 'mine') AS mine \gset
CREATE ROLE regress_llmb_user;
GRANT USAGE ON FOREIGN SERVER fast TO regress_llmb_user;
SET ROLE regress_llmb_user;
SELECT llm_batch.submit_prompts('{a}', 'mock', request_key => 'mine') <> :mine;
SELECT count(*) FROM llm_batch.progress;
RESET ROLE;

-- a rollback leaves nothing; a savepoint's neither
SELECT count(*) AS jobs FROM llm_batch.job \gset
BEGIN;
SELECT llm_batch.submit_prompts('{rolled back}', 'mock', request_key => 'gone') > 0;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT llm_batch.submit_prompts('{rolled back}', 'mock', request_key => 'gone') > 0;
ROLLBACK TO s;
COMMIT;
SELECT count(*) = :jobs FROM llm_batch.job;
SELECT (SELECT count(*) FROM llm_batch.item i WHERE NOT EXISTS (SELECT FROM llm_batch.job j WHERE j.id = i.job_id))
	+ (SELECT count(*) FROM llm_batch.prompt i WHERE NOT EXISTS (SELECT FROM llm_batch.job j WHERE j.id = i.job_id)) AS orphans;
-- work of this very transaction is seen: rows and the job itself
BEGIN;
INSERT INTO articles VALUES (5, 'Fog', 'Fog hides. All.', NULL);
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => 'summary', filter => 'id = 5') AS job \gset
SELECT state, total, queued FROM llm_batch.progress WHERE job_id = :job;
COMMIT;
CALL llm_batch.wait(:job);
SELECT summary FROM articles WHERE id = 5;

-- settings of the session are as before, whatever a submit pinned meanwhile
SHOW DateStyle;
SHOW search_path;

-- the neutral values of what comes later are taken
SELECT llm_batch.submit_prompts('{a}', 'mock', mode => 'batch', priority => 3, atomic => false, cache => true, pack => 1, mask_pii => false,
	max_cost => NULL, after => NULL, deadline => '1 day', labels => NULL, params => NULL) > 0;

DO $$
DECLARE
	job bigint;
BEGIN
	FOR job IN SELECT job_id FROM llm_batch.progress WHERE finished_at IS NULL LOOP
		PERFORM llm_batch.cancel(job);
	END LOOP;
END $$;
DROP TABLE articles, parted, sample CASCADE;
DROP TYPE mood;
DROP SERVER fast CASCADE;
DROP ROLE regress_llmb_user;
