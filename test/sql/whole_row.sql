-- {{*}}: the whole row in a prompt.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
\pset format unaligned
\pset tuples_only on

CREATE TABLE whole (
	id int PRIMARY KEY, "Title Case" text, body text, gone int, day date, raw bytea,
	words tsvector, both_of text GENERATED ALWAYS AS (body || '!') STORED, summary text, mood text);
ALTER TABLE whole DROP gone;
INSERT INTO whole VALUES (1, 'Tea', E'Two\nlines "quoted"', '2026-02-03', '\x6100', 'a:1', DEFAULT, 'old', 'calm'), (2, NULL, 'Ice', NULL, NULL, NULL, DEFAULT, NULL, NULL);

-- lines with labels, or one object; not what is generated, bytes, or a target
SELECT request->'messages'->0->>'content' FROM llm_batch.preview('whole', '{{*}}', 'mock', target => 'summary', n => 2);
SELECT request->'messages'->0->>'content' FROM llm_batch.preview('whole', 'Row: {{ * }}. {{{{*}} {{body}}', 'mock', target => 'summary, mood');
SELECT r, r::jsonb->>'body' FROM (SELECT request->'messages'->0->>'content' AS r FROM llm_batch.preview('whole', '{{*|json}}', 'mock', n => 2)) p;
SELECT request->'messages'->0->>'content' FROM llm_batch.preview('whole', '{{{{{{* | json}}}', 'mock', target => 'mood');

-- what is kept is the template with the columns, so that later ones do not make answers stale
SELECT llm_batch.submit('whole', 'All of {{*}}', 'mock', target => 'summary') AS job \gset
ALTER TABLE whole ADD later int;
CALL llm_batch.wait(:job);
SELECT prompt FROM llm_batch.job_def WHERE job_id = :job;
SELECT state FROM llm_batch.results WHERE job_id = :job;
SELECT items FROM llm_batch.estimate('whole', '{{*}}', 'mock', target => 'summary') WHERE asked;

-- what tasks write is left out as well
SELECT llm_batch.create_task('mood', prompt => '{{body}}', model => 'mock', target => 'mood') > 0;
SET client_min_messages = error;
SELECT llm_batch.attach('mood', 'whole');
SET client_min_messages = warning;
SELECT request->'messages'->0->>'content' FROM llm_batch.preview('whole', '{{*}}', 'mock');

-- render() knows the record alone
SELECT llm_batch.render('{{*}}', w) FROM whole w WHERE id = 2;
SELECT llm_batch.render('{{*|json}}', r) FROM (SELECT 1 AS a, NULL::text AS b, 'x"y' AS c) r;

-- refused
\set VERBOSITY terse
SELECT llm_batch.render('{{*|upper}}', w) FROM whole w;
CREATE TABLE odd (id int PRIMARY KEY, "a|b" text);
SELECT llm_batch.preview('odd', '{{*}}', 'mock');
SELECT llm_batch.render('{{*}}', ROW('\x00'::bytea));
CREATE ROLE regress_llmb_reader;
GRANT SELECT (id, body) ON whole TO regress_llmb_reader;
SET ROLE regress_llmb_reader;
SELECT llm_batch.preview('whole', '{{*}}', 'mock', server => 'mock');
RESET ROLE;
DROP TABLE whole, odd;
DROP ROLE regress_llmb_reader;

-- a member of an answer in its type, or nothing
\set doc '''{"t": "x", "n": 1.50, "i": 3.0, "big": 1e30, "b": true, "o": {"k": [1]}, "z": null}'''
SELECT llm_batch.answer_field(:doc, f, NULL::text) AS text, llm_batch.answer_field(:doc, f, NULL::numeric) AS numeric,
	llm_batch.answer_field(:doc, f, NULL::bigint) AS bigint, llm_batch.answer_field(:doc, f, NULL::boolean) AS boolean,
	llm_batch.answer_field(:doc, f, NULL::jsonb) AS jsonb
FROM unnest('{t,n,i,big,b,o,z,none}'::text[]) f;
SELECT llm_batch.answer_field('[1]', 'a', NULL::text), llm_batch.answer_field(NULL, 'a', NULL::text), llm_batch.answer_field('{}', NULL, NULL::text);
SELECT llm_batch.answer_field('{"a": 1}', 'a', NULL::date);
