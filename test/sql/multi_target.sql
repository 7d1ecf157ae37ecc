-- Several target columns: the model is asked for a JSON object, and each
-- member goes to its column.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0');
SET llm_batch.default_server = 'fast';
\pset format unaligned

CREATE TABLE articles (id int PRIMARY KEY, body text, summary text, category varchar(20), "Quoted ""name""" text, untouched text DEFAULT 'as it was');
INSERT INTO articles (id, body) VALUES
	(1, 'The match was won by the home team. Its players cheered.'),
	(2, 'Shares of the bank rose. Its profit grew.'),
	(3, 'The minister met the president. The party approved.');

-- the schema that is sent follows from the columns
SELECT request->'response_format'->'json_schema'->'schema' AS schema
FROM llm_batch.preview('articles', 'Summarise. category: one of sports, business, politics. {{body}}', 'mock', target => 'summary, category');

SELECT llm_batch.submit('articles', E'Summarise, and tell the category: one of sports, business, politics.\n{{body}}', 'mock', target => 'summary, category') AS job \gset
CALL llm_batch.wait(:job);
SELECT id, summary, category, untouched FROM articles ORDER BY id;
SELECT key, state, answer_json->>'category' AS category, answer_json->>'summary' = (SELECT summary FROM articles a WHERE a.id::text = r.key) AS same
FROM llm_batch.results r WHERE job_id = :job ORDER BY ordinal;

-- names that need quotes, in SQL's way of writing lists; the order is the list's
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => '"Quoted ""name""", Summary', "limit" => 1) AS job \gset
CALL llm_batch.wait(:job);
SELECT json_object_keys(answer::json) AS member FROM llm_batch.results WHERE job_id = :job;
SELECT id, "Quoted ""name""" IS NOT NULL AS quoted, summary FROM articles ORDER BY id;

-- a schema of one's own; what has no column stays in answer_json
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => 'summary', "limit" => 1,
	schema => '{"type": "object", "properties": {"summary": {"const": "Mine."}, "sure": {"const": true}}, "required": ["summary", "sure"], "additionalProperties": false}') AS job \gset
CALL llm_batch.wait(:job);
SELECT answer_json FROM llm_batch.results WHERE job_id = :job;
SELECT id, summary FROM articles WHERE id = 1;

-- an answer that lacks a member, or has one that is no text, or is no object,
-- is asked for again and then fails; the row keeps what it has
ALTER SERVER fast OPTIONS (ADD retry_base '1ms', ADD retry_max '1ms');
SELECT llm_batch.submit('articles', '{{body}}', 'mock', target => 'summary', "limit" => 1, schema => schema) AS job FROM (VALUES
	('{"type": "object", "properties": {"summary": {"type": "null"}}, "required": ["summary"]}'::jsonb)) v(schema) \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT attempt, state, error_code, error, answer FROM llm_batch.attempts WHERE job_id = :job ORDER BY attempt;
SELECT id, summary FROM articles WHERE id = 1;

-- one column refuses: neither is written, for a row is written as a whole
BEGIN;
SELECT llm_batch.submit('articles', E'Tell the category: one of sports, business, politics.\n{{body}}', 'mock', target => 'summary, category', "limit" => 1) AS job \gset
ALTER TABLE articles ALTER category TYPE varchar(3) USING 'old';
COMMIT;
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT state, error_code, error, answer_json->>'category' AS kept FROM llm_batch.results WHERE job_id = :job;
SELECT id, summary, category FROM articles WHERE id = 1;
ALTER TABLE articles ALTER category TYPE varchar(20);
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
SELECT state, succeeded, failed, unapplied FROM llm_batch.progress WHERE job_id = :job;
SELECT id, summary, category FROM articles WHERE id = 1;

DROP TABLE articles;
DROP SERVER fast;
