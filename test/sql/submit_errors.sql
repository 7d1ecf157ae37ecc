-- What can be known to fail is refused at submit: SQLSTATE, message and hint,
-- and nothing is enqueued.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
\pset format unaligned
\pset tuples_only on

CREATE TABLE refused (n serial, what text, sqlstate text, hint text);
-- what a call is refused with, which is also noted down
CREATE FUNCTION attempt(arguments text, call text DEFAULT 'submit') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	BEGIN
		EXECUTE format('SELECT count(*) FROM llm_batch.%s(%s)', call, arguments);
		RETURN 'TAKEN';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		INSERT INTO refused (what, sqlstate, hint) VALUES (arguments, SQLSTATE, hint);
		RETURN format('%s: %s', SQLSTATE, SQLERRM) || COALESCE(E'\n  DETAIL: ' || NULLIF(detail, ''), '')
			|| COALESCE(E'\n  HINT: ' || NULLIF(hint, ''), '');
	END;
END $$;
CREATE ROLE regress_llmb_user;
GRANT INSERT ON refused TO regress_llmb_user;
GRANT USAGE ON SEQUENCE refused_n_seq TO regress_llmb_user;

CREATE TABLE articles (id int PRIMARY KEY, title text, body text, summary text, size int, shape point, "Mixed" text,
	shout text GENERATED ALWAYS AS (upper(title)) STORED, nr int GENERATED ALWAYS AS IDENTITY UNIQUE, maybe text UNIQUE);
INSERT INTO articles (id, title, body) VALUES (1, 'Tea', 'Tea is hot.'), (2, 'Ice', 'Ice is cold.');

-- the template
SELECT attempt($$'articles', 'Summarise {{bdoy}}', 'mock'$$);
SELECT attempt($$'articles', 'Summarise {{mixed}}', 'mock'$$);
SELECT attempt($$'articles', 'Summarise {{nothing_like_any}}', 'mock'$$);
SELECT attempt($$'articles', '{{ctid}}', 'mock'$$);
SELECT attempt($$'articles', '{{body', 'mock'$$);
SELECT attempt($$'articles', '{{}}', 'mock'$$);
SELECT attempt($$'articles', '{{body|upper}}', 'mock'$$);
SELECT attempt($$'articles', '  ', 'mock'$$);
SELECT attempt($$'articles', NULL, 'mock'$$);

-- the source and its key
SELECT attempt($$NULL, '{{body}}', 'mock'$$);
CREATE TABLE keyless (body text, answer text, n int UNIQUE, p int NOT NULL, q int NOT NULL);
CREATE UNIQUE INDEX ON keyless (p) WHERE q > 0;
CREATE UNIQUE INDEX ON keyless ((q + 1));
ALTER TABLE keyless ADD UNIQUE (q) DEFERRABLE;
SELECT attempt($$'keyless', '{{body}}', 'mock'$$);
SELECT attempt($$'keyless', '{{body}}', 'mock', key => 'p'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', key => 'title'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', key => 'idd'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', key => 'id,'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', key => 'id, id'$$);
INSERT INTO keyless VALUES ('Body.', NULL, NULL, 1, 1);
SELECT attempt($$'keyless', '{{body}}', 'mock', key => 'n'$$);
CREATE VIEW bodies AS SELECT body FROM articles;
SELECT attempt($$'bodies', '{{body}}', 'mock'$$);
CREATE TEMP TABLE fleeting (id int PRIMARY KEY, body text);
INSERT INTO fleeting VALUES (1, 'Gone.');
SELECT attempt($$'fleeting', '{{body}}', 'mock'$$);
CREATE SEQUENCE counter;
SELECT attempt($$'counter', 'x', 'mock'$$);
SELECT attempt($$'articles_pkey', 'x', 'mock'$$);

-- the target
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'sumary'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'mixed'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => ''$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'summary title'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'summary, summary'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'shout'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'nr'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'id'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'summary, title', key => 'title'$$);
SELECT attempt($$'articles', '{{title}}', 'mock', target => 'maybe', key => 'maybe'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'body'$$);
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'shape'$$);
CREATE VIEW longest AS SELECT id, title, body, summary FROM articles ORDER BY length(body) DESC LIMIT 1;
SELECT attempt($$'longest', '{{body}}', 'mock', key => 'id', target => 'summary'$$);
CREATE VIEW half AS SELECT id, body, summary, upper(title) AS loud FROM articles;
SELECT attempt($$'half', '{{body}}', 'mock', key => 'id', target => 'loud'$$);
CREATE MATERIALIZED VIEW stored AS SELECT id, body, summary FROM articles;
CREATE UNIQUE INDEX ON stored (id);
SELECT attempt($$'stored', '{{body}}', 'mock', key => 'id', target => 'summary'$$);
SELECT attempt($$'pg_class', '{{relname}}', 'mock', key => 'oid', target => 'relname'$$);

-- privileges: on what is read, on what is written, on the server
GRANT SELECT (id, title) ON articles TO regress_llmb_user;
SET ROLE regress_llmb_user;
SELECT attempt($$'articles', '{{body}}', 'mock'$$);
SELECT attempt($$'articles', '{{title}}', 'mock', target => 'summary'$$);
SELECT attempt($$'articles', '{{title}}', 'mock', filter => 'body IS NULL'$$);
SELECT attempt($$'articles', '{{title}}', 'mock', key => 'nr'$$);
SELECT attempt($$$q$SELECT id AS key, body AS prompt FROM articles$q$, 'mock'$$, 'submit_query');
RESET ROLE;
GRANT UPDATE (summary) ON articles TO regress_llmb_user;
REVOKE USAGE ON FOREIGN SERVER mock FROM PUBLIC;
SET ROLE regress_llmb_user;
SELECT attempt($$'articles', '{{title}}', 'mock', target => 'summary', server => 'mock'$$);
SELECT attempt($$'articles', '{{title}}', 'mock', target => 'summary'$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER mock TO PUBLIC;
CREATE SCHEMA hidden;
CREATE TABLE hidden.articles (id int PRIMARY KEY, body text);
GRANT SELECT ON hidden.articles TO regress_llmb_user;
CREATE FUNCTION hidden_table() RETURNS regclass LANGUAGE sql SECURITY DEFINER AS $$ SELECT 'hidden.articles'::regclass $$;
SET ROLE regress_llmb_user;
SELECT attempt($$hidden_table(), '{{body}}', 'mock'$$);
RESET ROLE;

-- the server and its user mapping
CREATE SERVER openai FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai');
SELECT attempt($$'articles', '{{body}}', 'mock', server => 'no_such_server'$$);
SELECT attempt($$'articles', '{{body}}', 'gpt-6-luna', server => 'openai'$$);
SELECT attempt($$'articles', '{{body}}', 'no-such-model'$$);
SELECT attempt($$'articles', '{{body}}', NULL$$);
SELECT attempt($$'articles', '{{body}}', ''$$);

-- the filter
SELECT filter, attempt(format('%L, %L, %L, filter => %L', 'articles', '{{body}}', 'mock', filter)) FROM (VALUES
	(''), ('body IS'), ('bdoy IS NULL'), ('body'), ('true; DELETE FROM articles'), ('true); DELETE FROM articles; --'), ('true;'), ('true, false'),
	('true FROM articles'), ('true ORDER BY id'), ('true UNION SELECT false'), ('true AS x'), ('count(*) > 0'), ('1/(id - 2) = 1'),
	('EXISTS (DELETE FROM articles RETURNING id)'), ('WITH x AS (DELETE FROM articles RETURNING id) SELECT true')) v(filter);
SELECT attempt($$'articles', '{{body}}', 'mock', "limit" => -1$$);
SELECT count(*) FROM articles;

-- the query
SELECT query, attempt(format('%L, %L', query, 'mock'), 'submit_query') FROM (VALUES
	(''), (' -- nothing'), (NULL), ('SELEC 1'), ('SELECT 1 AS key, ''x'' AS prompt; DELETE FROM articles'), ('DELETE FROM articles'),
	('DELETE FROM articles RETURNING id AS key, body AS prompt'),
	('SELECT 1 AS key, ''x'' AS prompt INTO stolen'), ('TRUNCATE articles'), ('SELECT 1 AS id, ''x'' AS prompt'), ('SELECT 1 AS key'),
	('SELECT 1 AS key, ''x'' AS prompt FROM nowhere'), ('SELECT NULL AS key, ''x'' AS prompt'), ('SELECT 1 AS key, NULL AS prompt'),
	('SELECT 1 AS key, '' '' AS prompt'), ('SELECT 1 AS key, ''x'' AS prompt, ''{}''::text AS params'), ('SELECT 1 AS key, ''x'' AS prompt, ''[]''::jsonb AS params'),
	('SELECT 1 AS key, ''x'' AS prompt, ''{"temperatur": 1}''::jsonb AS params'), ('SELECT 1 AS key, ''{}''::jsonb AS messages'), ('SELECT 1 AS key, ''[]''::jsonb AS messages'),
	('SELECT 1 AS key, ''[]'' AS messages'), ('SELECT 1 AS key, ''x'' AS prompt, $1')) v(query);
SELECT count(*) FROM articles;

-- the prompts
SELECT attempt($$NULL, 'mock'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x', NULL], 'mock'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x', '', 'y'], 'mock'$$, 'submit_prompts');
SELECT attempt($$'articles', '{{summary}}', 'mock'$$);
SET llm_batch.max_prompt_size = '1kB';
SELECT attempt($$ARRAY['x', repeat('y', 1025)], 'mock'$$, 'submit_prompts');
BEGIN;
SELECT attempt($$ARRAY[repeat('y', 1024)], 'mock'$$, 'submit_prompts');
ROLLBACK;
RESET llm_batch.max_prompt_size;
CREATE SERVER narrow FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', max_batch_bytes '1kB');
SELECT attempt($$ARRAY[repeat('y', 1025)], 'mock', server => 'narrow'$$, 'submit_prompts');
-- the request's own text counts as well: what fits alone may not fit in a line
SELECT attempt($$ARRAY[repeat('y', 1000)], 'mock', server => 'narrow'$$, 'submit_prompts');
SELECT attempt($$ARRAY['short'], 'mock', server => 'narrow', system => repeat('y', 1025)$$, 'submit_prompts');
DROP SERVER narrow;

-- params, schema, labels, deadline
SELECT attempt(format('ARRAY[%L], %L, params => %L', 'x', 'mock', params), 'submit_prompts') FROM (VALUES
	('[]'), ('1'), ('{"temperatur": 1}'), ('{"max_tokens": "many"}'), ('{"max_tokens": -1}'), ('{"model": "x"}'), ('{"messages": []}'), ('{"stream": true}')) v(params);
SELECT attempt($$ARRAY['x'], 'mock', schema => '"string"'$$, 'submit_prompts');
SELECT attempt($$'articles', '{{body}}', 'mock', target => 'summary', schema => '{"type": "object", "properties": {"other": {"type": "string"}}}'$$);
SELECT attempt($$ARRAY['x'], 'mock', labels => '["a"]'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x'], 'mock', deadline => '-1 hour'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x'], 'mock', deadline => '0'$$, 'submit_prompts');

-- what comes later is refused, not ignored
SELECT attempt(format('ARRAY[%L], %L, %s', 'x', 'mock', later), 'submit_prompts') FROM (VALUES ('pack => 2')) v(later);

-- no job comes after one that is not there: ids point back, so there is no cycle
SELECT attempt($$ARRAY['x'], 'mock', after => 1$$, 'submit_prompts');
-- nor has an atomic one more items than one transaction should write
SET llm_batch.atomic_max_items = 2;
SELECT attempt($$ARRAY['x', 'y', 'z'], 'mock', atomic => true$$, 'submit_prompts');
RESET llm_batch.atomic_max_items;

-- the mode, and the budget
SELECT attempt(format('ARRAY[%L], %L, %s', 'x', 'mock', wrong), 'submit_prompts') FROM (VALUES
	('mode => ''fast'''), ('mode => NULL'), ('max_cost => -1'), ('max_cost => ''NaN''')) v(wrong);
CREATE SERVER gateway FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'http://localhost:11434/v1', batch 'off');
CREATE USER MAPPING FOR CURRENT_USER SERVER gateway OPTIONS (api_key 'none');
SELECT attempt($$ARRAY['x'], 'llama', server => 'gateway', mode => 'batch'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x'], 'llama', server => 'gateway', max_cost => 1$$, 'submit_prompts');
DROP SERVER gateway CASCADE;
INSERT INTO llm_batch.model (api, name, batch) VALUES ('mock', 'mock-live', false);
SELECT attempt($$ARRAY['x'], 'mock-live', mode => 'batch'$$, 'submit_prompts');
DELETE FROM llm_batch.model WHERE name = 'mock-live';

-- a request_key stands for one request
BEGIN;
SELECT attempt($$ARRAY['x'], 'mock', request_key => 'k'$$, 'submit_prompts');
SELECT attempt($$ARRAY['x'], 'mock', request_key => 'k'$$, 'submit_prompts');
SELECT regexp_replace(attempt(v, 'submit_prompts'), 'job \d+', 'job N') FROM (VALUES ($$ARRAY['y'], 'mock', request_key => 'k'$$),
	($$ARRAY['x'], 'mock', request_key => 'k', labels => '{"a": 1}'$$)) v(v);
ROLLBACK;

-- nothing can be written
SET default_transaction_read_only = on;
SELECT llm_batch.submit_prompts(ARRAY['x'], 'mock');
SELECT llm_batch.submit('articles', '{{body}}', 'mock');
SELECT llm_batch.submit_query('SELECT 1 AS key, ''x'' AS prompt', 'mock');
SELECT llm_batch.cancel(1);
RESET default_transaction_read_only;

-- after all that, nothing was enqueued
SELECT (SELECT count(*) FROM llm_batch.job) AS jobs, (SELECT count(*) FROM llm_batch.job_def) AS defs, (SELECT count(*) FROM llm_batch.item) AS items,
	(SELECT count(*) FROM llm_batch.prompt) AS prompts, (SELECT count(*) FROM llm_batch.queue) AS queue;
-- no refusal was an internal error; those without a hint are PostgreSQL's own
SELECT what, sqlstate FROM refused WHERE sqlstate LIKE 'XX%' ORDER BY n;
SELECT what, sqlstate FROM refused WHERE hint = '' ORDER BY n;

DROP TABLE articles, keyless, refused CASCADE;
DROP SCHEMA hidden CASCADE;
DROP SEQUENCE counter;
DROP FUNCTION attempt, hidden_table;
DROP SERVER openai;
DROP ROLE regress_llmb_user;
