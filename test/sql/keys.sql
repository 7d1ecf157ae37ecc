-- An answer finds its row by whatever key the table has.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0');
SET llm_batch.default_server = 'fast';
\pset format unaligned

-- a table with this key, three rows, one answer each: in the right row?
CREATE FUNCTION fill(columns text, key text, rows text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'DROP TABLE IF EXISTS keyed';
	EXECUTE format('CREATE TABLE keyed (%s, body text, answer text, PRIMARY KEY (%s))', columns, key);
	EXECUTE format('INSERT INTO keyed SELECT v.*, ''Row '' || row_number() OVER () || '' speaks.'' FROM (VALUES %s) v', rows);
	RETURN llm_batch.submit('keyed', '{{body}} And on.', 'mock', target => 'answer');
END $$;
CREATE VIEW verdict AS SELECT p.state, p.succeeded, r.keys FROM llm_batch.progress p
JOIN LATERAL (SELECT string_agg(key, ' ' ORDER BY ordinal) AS keys FROM llm_batch.results r WHERE r.job_id = p.job_id) r ON true
WHERE p.job_id = (SELECT max(job_id) FROM llm_batch.progress);

CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$');
CREATE TYPE stage AS ENUM ('new', 'old', 'very old');

SELECT fill('id bigint', 'id', $$(-9223372036854775808), (0), (9223372036854775807)$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id uuid', 'id', $$('00000000-0000-0000-0000-000000000001'::uuid), ('ffffffff-ffff-4fff-bfff-ffffffffffff')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id text', 'id', $$(''), (' a '), ('a'), ('O''Brien "x" \ {y}'), (E'two\nlines'), ('NULL'), (E'\u00e4')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id char(4)', 'id', $$('a'), ('ab  '), ('abcd')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id bit(3)', 'id', $$(B'101'), (B'100'), (B'001')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id varchar(3)', 'id', $$('a'), ('b')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id numeric', 'id', $$(1.50), (1.5e30), (0.000000000000000000000000000001)$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id float8', 'id', $$(0.1::float8), (1e-300), (0.30000000000000004)$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id date', 'id', $$('2026-02-03'::date), ('0044-03-15 BC'), ('infinity')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id timestamptz', 'id', $$('2026-02-03 04:05:06.789012+09'::timestamptz), ('2026-10-25 02:30:00+02'), ('2026-10-25 02:30:00+01')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id interval', 'id', $$('1 mon 2 days'::interval), ('-3:04:05.6')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id bytea', 'id', $$('\x00ff'::bytea), ('abc')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id code', 'id', $$('A'::code), ('BC')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id stage', 'id', $$('new'::stage), ('very old')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id boolean', 'id', $$(true), (false)$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;
SELECT fill('id int[]', 'id', $$('{1,2}'::int[]), ('{}')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;

-- composite: a JSON array of texts, in the order of the key
SELECT fill('region text, id int, day date', 'day, region, id', $$('eu "x"', 1, '2026-02-03'::date), ('us, \', 1, '2026-02-03'), ('[1]', 1, '2026-02-03')$$) AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM keyed WHERE answer = body;

-- names that need quotes: table, schema, key, template, target
CREATE SCHEMA "My ""Schema""";
CREATE TABLE "My ""Schema"""."A Table" ("Key, one" int, "select" text, "Body, x" text, "A""n" text, PRIMARY KEY ("Key, one", "select"));
INSERT INTO "My ""Schema"""."A Table" VALUES (1, 'x', 'Quoted speaks.', NULL);
SELECT llm_batch.submit('"My ""Schema"""."A Table"', '{{Body, x}}', 'mock', target => '"A""n"') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT "A""n" FROM "My ""Schema"""."A Table";

-- columns that were dropped leave their places
CREATE TABLE shifted (gone int, id int, gone_too text, body text, answer text, PRIMARY KEY (id));
ALTER TABLE shifted DROP COLUMN gone, DROP COLUMN gone_too;
INSERT INTO shifted VALUES (1, 'Shifted speaks.', NULL);
SELECT llm_batch.submit('shifted', '{{body}}', 'mock', target => 'answer') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT * FROM shifted;

-- without a primary key: a unique index over NOT NULL columns; named: any unique one
CREATE TABLE indexed (a int NOT NULL, b int UNIQUE, body text, answer text);
CREATE UNIQUE INDEX ON indexed (a);
INSERT INTO indexed VALUES (1, 10, 'First speaks.'), (2, 20, 'Second speaks.');
SELECT llm_batch.submit('indexed', '{{body}}', 'mock', target => 'answer') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM indexed WHERE answer = body;
SELECT llm_batch.submit('indexed', '{{body}} Again.', 'mock', target => 'answer', key => 'b') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict; SELECT count(*) FROM indexed WHERE answer = body;
-- a named key of several columns, in another order than the index has
CREATE UNIQUE INDEX ON indexed (a, b);
SELECT llm_batch.submit('indexed', '{{body}} Once more.', 'mock', target => 'answer', key => 'B , "a"') AS job \gset
CALL llm_batch.wait(:job);
SELECT * FROM verdict;

DROP VIEW verdict;
DROP FUNCTION fill;
DROP TABLE keyed, indexed, shifted CASCADE;
SET client_min_messages = error;
DROP SCHEMA "My ""Schema""" CASCADE;
DROP DOMAIN code;
DROP TYPE stage;
DROP SERVER fast;
