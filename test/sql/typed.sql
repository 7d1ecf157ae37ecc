-- Typed answers: the table is the schema.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
SET client_min_messages = warning;
CREATE SERVER fast FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'mock', latency '0', retry_base '1ms', retry_max '1ms');
SET llm_batch.default_server = 'fast';
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
\pset format unaligned

CREATE TYPE mood AS ENUM ('negative', 'neutral', 'positive');
CREATE DOMAIN stars AS smallint CHECK (VALUE BETWEEN 1 AND 5);
CREATE DOMAIN label AS varchar(20) NOT NULL;
CREATE DOMAIN labels AS label[];
CREATE TABLE reviews (id int PRIMARY KEY, body text,
	plain text, short varchar(60), fixed char(8), required text NOT NULL DEFAULT '',
	small smallint, middle int, large bigint NOT NULL DEFAULT 0,
	exact numeric, price numeric(6,2), whole numeric(4), near real, far double precision,
	flag boolean, feeling mood, feelings mood[],
	day date, hour time, moment timestamptz, local timestamp, ident uuid,
	words text[], tags labels, numbers int[] NOT NULL DEFAULT '{}', any_json jsonb, old_json json,
	rating stars, tag label DEFAULT 'none');
INSERT INTO reviews (id, body) VALUES
	(1, 'A good and great book. The pages are excellent.'),
	(2, 'A bad, terrible film. It was a waste.'),
	(3, 'A lamp. It stands there.');
COMMENT ON COLUMN reviews.feeling IS 'How the reviewer felt';
COMMENT ON COLUMN reviews.short IS 'A headline';
COMMENT ON COLUMN reviews.any_json IS 'What else there is to say!';
CREATE PROCEDURE all_ended() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..3000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM llm_batch.progress WHERE finished_at IS NULL);
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION properties(target text) RETURNS TABLE (name text, property json) LANGUAGE sql AS $$
	SELECT p.key, p.value
	FROM llm_batch.preview('reviews', '{{body}}', 'mock', target => target) r,
		json_each(r.request::json->'response_format'->'json_schema'->'schema'->'properties') p
$$;

-- what is asked for, column by column
SELECT * FROM properties('plain, short, fixed, required, small, middle, large, exact, price, whole, near, far, flag, feeling, feelings, day, hour, moment, local, ident, words, tags, numbers, any_json, old_json, rating, tag');
SELECT (request::jsonb->'response_format'->'json_schema'->'schema') #- '{properties}' AS rest
FROM llm_batch.preview('reviews', '{{body}}', 'mock', target => 'feeling, large');
-- one text column: no schema, the whole answer
SELECT target, request::jsonb ? 'response_format' AS schema FROM (VALUES ('plain'), ('short'), ('fixed'), ('tag'), ('feeling'), ('middle'), ('words'), ('any_json')) v(target),
	llm_batch.preview('reviews', '{{body}}', 'mock', target => target) p;

-- all of them, asked, answered, written
SELECT llm_batch.submit('reviews', '{{body}}', 'mock', mode => 'batch',
	target => 'plain, short, fixed, required, small, middle, large, exact, price, whole, near, far, flag, feeling, feelings, day, hour, moment, local, ident, words, tags, numbers, any_json, old_json, tag') AS job \gset
CALL llm_batch.wait(:job);
SELECT state, succeeded, failed FROM llm_batch.progress WHERE job_id = :job;
SELECT id, plain, short, fixed, required <> '' AS required, small BETWEEN 0 AND 100 AS small, middle BETWEEN 0 AND 100 AS middle, large BETWEEN 0 AND 100 AS large,
	exact IS NOT NULL AS exact, price IS NOT NULL AS price, whole IS NOT NULL AS whole, near IS NOT NULL AS near, far IS NOT NULL AS far, flag IS NOT NULL AS flag,
	feeling, cardinality(feelings) AS feelings, day, hour, moment, local, ident, cardinality(words) AS words, cardinality(tags) AS tags, cardinality(numbers) AS numbers,
	jsonb_typeof(any_json) AS any_json, json_typeof(old_json) AS old_json, tag <> 'none' AS tag
FROM reviews ORDER BY id;
-- one column of another type
SELECT llm_batch.submit('reviews', '{{body}}', 'mock', mode => 'batch', target => 'middle', filter => 'id = 1') AS job \gset
CALL llm_batch.wait(:job);
SELECT (answer_json->>'middle')::int = (SELECT middle FROM reviews WHERE id = 1) AS same FROM llm_batch.results WHERE job_id = :job;

-- what a domain's or a table's constraint refuses is kept, and applied later
ALTER TABLE reviews ADD CONSTRAINT no_moods CHECK (feeling IS NULL) NOT VALID;
SELECT llm_batch.submit('reviews', '{{body}} Again.', 'mock', mode => 'batch', target => 'feeling', filter => 'id < 3') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT key, error_code, error FROM llm_batch.results WHERE job_id = :job ORDER BY key;
ALTER TABLE reviews DROP CONSTRAINT no_moods;
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
SELECT id, feeling FROM reviews ORDER BY id;

-- a domain's check: what it takes and what it refuses
SELECT llm_batch.submit('reviews', '{{body}}', 'mock', mode => 'batch', target => 'rating', filter => 'id = ' || id, labels => jsonb_build_object('n', value),
	schema => jsonb_build_object('type', 'object', 'properties', jsonb_build_object('rating', jsonb_build_object('const', value)))) IS NULL AS none
FROM (VALUES (1, 5), (2, 6)) v(id, value);
CALL all_ended();
SELECT j.labels->>'n' AS answered, r.error_code, r.error, rating FROM llm_batch.results r JOIN llm_batch.progress j USING (job_id) JOIN reviews v ON v.id = r.key::int
WHERE j.labels ? 'n' ORDER BY job_id;

-- one answer for each case, against the column it is for
CREATE TABLE cases (n serial PRIMARY KEY, body text DEFAULT 'x', target text, answer jsonb,
	short varchar(5), required text NOT NULL DEFAULT 'kept', small smallint, large bigint, price numeric(4,2), near real, flag boolean, feeling mood,
	day date, hour time, moment timestamptz, local timestamp, ident uuid, words text[], numbers int[], days date[], any_json jsonb, span int4range, raw bytea, pair box);
INSERT INTO cases (target, answer) VALUES
	('short', '"seven"'), ('short', '"too long"'), ('short', '7'), ('short', 'null'), ('required', 'null'), ('required', '""'),
	('small', '7'), ('small', '"7"'), ('small', '7.0'), ('small', '7.5'), ('small', '40000'), ('small', '"many"'), ('large', '9223372036854775807'), ('large', '9223372036854775808'),
	('price', '99.99'), ('price', '1.239'), ('price', '99.999'), ('price', '"12.5"'), ('price', '"12,5"'), ('near', '1e-60'), ('near', '1e40'),
	('flag', 'true'), ('flag', '"False"'), ('flag', '"yes"'), ('flag', '1'),
	('feeling', '"positive"'), ('feeling', '"Positive "'), ('feeling', '"glad"'), ('feeling', 'null'),
	('day', '"2026-02-28"'), ('day', '"2026-02-29"'), ('day', '"28 February 2026"'), ('day', '"20260228"'), ('day', '"2026-02-28T23:00:00Z"'), ('day', '"04/05/2026"'), ('day', '"4.5.2026"'),
	('day', '"04 05 2026"'), ('day', '"today"'), ('day', '"tomorrow"'), ('day', '"soon"'), ('day', '""'), ('day', '"9999999-01-01"'), ('day', '"February 2026"'), ('day', '20260228'),
	('hour', '"12:30:00Z"'), ('hour', '"12:30:00"'), ('hour', '"1:05 pm"'), ('hour', '"25:00"'), ('hour', '"noonish"'), ('hour', '"now"'),
	('moment', '"2026-02-28T23:30:00+01:00"'), ('moment', '"2026-02-28T23:30:00Z"'), ('moment', '"2026-02-28 23:30"'), ('moment', '"2026-02-28"'), ('moment', '"2026-02-28T25:30:00Z"'),
	('moment', '"2026-02-28T23:30:00 Nowhere/Land"'), ('moment', '"now"'), ('moment', '"294277-01-01T00:00:00Z"'), ('moment', '"12:30"'),
	('local', '"2026-02-28T23:30:00.123456Z"'), ('local', '"2026-02-30T00:00:00"'),
	('ident', '"6F9619FF-8B86-D011-B42D-00CF4FC964FF"'), ('ident', '"6F9619FF"'),
	('words', '["a", "b, c", "\"d\""]'), ('words', '[]'), ('words', '"a"'), ('words', '["a", null]'), ('numbers', '[1, "2"]'), ('numbers', '[1, 2.5]'), ('numbers', '[[1]]'),
	('days', '["2026-02-28", "2026-03-01"]'), ('days', '["2026-02-28", "yesterday"]'),
	('any_json', '{"a": [1, "x"]}'), ('any_json', '"x"'), ('any_json', 'null'),
	-- of these no schema can be derived, but one can be given
	('span', '"[1,5)"'), ('span', '"from 1 to 5"'), ('raw', '"\\x0102"'), ('span', '{"lower": 1}'), ('pair', '"((0,0),(1,1))"');
SELECT count(llm_batch.submit('cases', '{{body}}', 'mock', mode => 'batch', target => target, filter => 'n = ' || n, labels => '{"case": true}',
	schema => jsonb_build_object('type', 'object', 'properties', jsonb_build_object(target, jsonb_build_object('const', answer)), 'required', jsonb_build_array(target)))) AS jobs
FROM cases;
CALL all_ended();
SELECT c.target, c.answer, CASE WHEN r.state = 'succeeded' THEN to_jsonb(c)->target END AS taken, r.attempt, r.error_code AS code, r.error
FROM llm_batch.results r JOIN llm_batch.progress j USING (job_id) JOIN cases c ON c.n = r.key::int
WHERE j.labels ? 'case' ORDER BY c.n;
-- no answer is quoted where others may read
SELECT count(*) FROM llm_batch.events WHERE message ~ 'many|glad|soon|too long';

-- what a schema of one's own lists holds, whatever the column would take; and its word on null
SELECT count(llm_batch.submit('cases', '{{body}}', 'mock', mode => 'batch', target => target, filter => 'n = ' || n, labels => '{"own": true}',
	schema => jsonb_build_object('type', 'object', 'properties', jsonb_build_object(target, property), 'required', required))) AS jobs
FROM (VALUES (1, 'short', '{"type": "string", "enum": ["a", "b"]}'::jsonb, '["short"]'::jsonb), (2, 'short', '{"type": "string", "const": null}', '["short"]'), (3, 'small', '{"type": "integer", "minimum": 3, "maximum": 3}', '[]'),
	(4, 'any_json', '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}', '[]'), (5, 'any_json', '{"type": "object", "properties": {"b": {"const": 1}}, "required": ["a"]}', '[]'),
	(6, 'any_json', '{"type": ["object", "array"], "items": {"const": 7}}', '[]'), (7, 'words', '{"type": "array", "items": {"const": "w"}}', '[]'), (8, 'short', '{"const": {"a": 1}}', '[]'), (9, 'short', '{"type": "object", "const": [1]}', '[]')) v(n, target, property, required);
CALL all_ended();
SELECT c.n, r.answer, CASE WHEN r.state = 'succeeded' THEN (SELECT to_jsonb(c)->k FROM json_object_keys(r.answer::json) k) END AS taken, r.error_code AS code, r.error
FROM llm_batch.results r JOIN llm_batch.progress j USING (job_id) JOIN cases c ON c.n = r.key::int
WHERE j.labels ? 'own' ORDER BY c.n;

-- the time zone of what names none is that of the session that submitted
SET TimeZone = 'America/New_York';
SELECT llm_batch.submit('cases', '{{body}}', 'mock', mode => 'batch', target => 'moment', filter => 'n = 1',
	schema => '{"type": "object", "properties": {"moment": {"const": "2026-02-28 12:00"}}}') AS job \gset
SET TimeZone = 'UTC';
CALL llm_batch.wait(:job);
SELECT moment FROM cases WHERE n = 1;

-- one jsonb column takes the whole object of a schema that does not name it
SELECT llm_batch.submit('cases', '{{body}}', 'mock', mode => 'batch', target => 'any_json', filter => 'n = 1',
	schema => '{"type": "object", "properties": {"a": {"const": 1}, "b": {"const": [null, "x"]}}, "required": ["a", "b"]}') AS job \gset
CALL llm_batch.wait(:job);
SELECT any_json FROM cases WHERE n = 1;
-- which must still be as that schema says
SELECT llm_batch.submit('cases', '{{body}}', 'mock', mode => 'batch', target => 'any_json', filter => 'n = 2',
	schema => '{"type": "object", "properties": {"a": {"const": "x", "type": "integer"}}}') AS job \gset
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT error_code, error, answer FROM llm_batch.results WHERE job_id = :job;

-- no target, but a schema: the answer is held against it, and asked for again
SELECT llm_batch.submit_prompts(ARRAY['x'], 'mock', mode => 'batch', labels => '{"alone": true}', schema => schema) IS NULL AS none FROM (VALUES
	('{"type": "object", "properties": {"n": {"type": "integer", "const": 7}}, "required": ["n"]}'::jsonb),
	('{"type": "object", "properties": {"n": {"type": "integer", "const": "7"}}, "required": ["n"]}'),
	('{"type": "object", "properties": {"m": {"type": "integer"}}, "required": ["n"]}'),
	('{"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string"}, "const": ["a", 1]}}}'),
	('{"const": "x"}'),
	('{}'), ('{"anyOf": [{"type": "object"}]}')) v(schema);
CALL all_ended();
SELECT r.attempt, r.state, r.error_code, r.error, r.answer FROM llm_batch.attempts r JOIN llm_batch.progress j USING (job_id) WHERE j.labels ? 'alone' ORDER BY job_id, attempt;

-- a column that has become another since: asked of the type it has then
BEGIN;
SELECT llm_batch.submit('cases', '{{body}} Retyped.', 'mock', mode => 'batch', target => 'small, flag', filter => 'n = 3') AS job \gset
ALTER TABLE cases ALTER small TYPE text, ALTER flag TYPE mood USING NULL;
COMMIT;
\set VERBOSITY sqlstate
CALL llm_batch.wait(:job);
\set VERBOSITY default
SELECT error_code, regexp_replace(error, 'got .*', 'got ...') AS error FROM llm_batch.results WHERE job_id = :job;
-- nothing of it was thrown away
ALTER TABLE cases ALTER flag TYPE text;
SELECT llm_batch.apply(:job);
CALL llm_batch.wait(:job);
SELECT small ~ '^\d+$' AS small, flag IN ('true', 'false') AS flag FROM cases WHERE n = 3;

-- types without a schema are refused before a cent is spent
CREATE TYPE pair AS (a int, b text);
CREATE TABLE strange (id int PRIMARY KEY, body text, composite pair, bytes bytea, span int4range, dot point, pairs pair[], named name);
CREATE FUNCTION attempt(target text, model text DEFAULT 'mock', relation text DEFAULT 'strange', more text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE format('SELECT llm_batch.submit(%L, %L, %L, target => %L %s)', relation, '{{body}}', model, target, more);
	RETURN 'TAKEN';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format('%s: %s', SQLSTATE, SQLERRM) || COALESCE(E'\n  DETAIL: ' || NULLIF(detail, ''), '') || COALESCE(E'\n  HINT: ' || NULLIF(hint, ''), '');
END $$;
SELECT attempt(target) FROM (VALUES ('composite'), ('bytes'), ('span'), ('dot'), ('pairs'), ('named')) v(target);

-- and a schema that describes no object
SELECT attempt('named', 'mock', 'strange', ', schema => ''{"type": "string"}''');
SELECT attempt('named', 'mock', 'strange', ', schema => ''{"type": ["array", "null"], "properties": {"named": {}}}''');

-- a type of a schema that the caller may not use: the cast would fail
CREATE ROLE regress_llmb_user;
CREATE SCHEMA hidden;
CREATE TYPE hidden.mood AS ENUM ('up', 'down');
CREATE TABLE moods (id int PRIMARY KEY, body text, mood hidden.mood, moods hidden.mood[]);
GRANT SELECT, UPDATE ON moods TO regress_llmb_user;
SET ROLE regress_llmb_user;
SELECT attempt(target, 'mock', 'moods', ', server => ''mock''') FROM (VALUES ('mood'), ('moods')) v(target);
RESET ROLE;
GRANT USAGE ON SCHEMA hidden TO regress_llmb_user;
INSERT INTO moods VALUES (1, 'Things go up.');
SET ROLE regress_llmb_user;
SELECT llm_batch.submit('moods', '{{body}}', 'mock', mode => 'batch', server => 'mock', target => 'mood, moods') AS job \gset
CALL llm_batch.wait(:job);
SELECT mood, cardinality(moods) FROM moods;
RESET ROLE;

-- embeddings: a vector into an array, or into pgvector's type
INSERT INTO llm_batch.model (api, name, class) VALUES ('mock', 'mock-embedding', 'embedding');
CREATE TYPE vector;
CREATE FUNCTION vector_in(cstring, oid, int) RETURNS vector LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION vector_out(vector) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE vector (INPUT = vector_in, OUTPUT = vector_out, LIKE = text);
CREATE TABLE vectors (id int PRIMARY KEY, body text, near real[], far double precision[], pg vector, summary text, numbers int[]);
INSERT INTO vectors VALUES (1, 'Tea is hot.'), (2, 'Ice is cold.');
SELECT attempt(target, 'mock-embedding', 'vectors') FROM (VALUES ('summary'), ('numbers'), ('near, far')) v(target);
SELECT attempt('near', 'mock-embedding', 'vectors', ', system => ''Be brief.''');
SELECT attempt('near', 'mock-embedding', 'vectors', ', schema => ''{}''');
SELECT attempt('pg', 'mock', 'vectors');
SELECT count(llm_batch.submit('vectors', '{{body}}', 'mock-embedding', mode => 'batch', target => target)) AS jobs FROM (VALUES ('near'), ('far'), ('pg')) v(target);
CALL all_ended();
SELECT id, cardinality(near) = cardinality(far) AS same, cardinality(far) = json_array_length(pg::text::json) AS again, far[1] = (pg::text::json->>0)::float8 AS first,
	near = far::real[] AS nearly, far <> (SELECT far FROM vectors o WHERE o.id <> v.id) AS of_its_own FROM vectors v ORDER BY id;
SELECT DISTINCT r.state, r.error_code FROM llm_batch.results r JOIN llm_batch.progress p USING (job_id) WHERE p.model = 'mock-embedding';

-- what a reader finds in an answer, answer_json shows
SELECT answer, llm_batch.answer_json(answer) FROM (VALUES
	(E'```json\n{"a": 1,}\n```'), ('Here: {"a": {"b": "}"}} - done'), ('{"a": 1} or {"a": 2}'), ('[{"a": 1}, 2]'), ('so {it} is'), ('{"a": "cut')) v(answer);

DELETE FROM llm_batch.model WHERE name = 'mock-embedding';
DROP TABLE reviews, cases, strange, vectors, moods;
DROP SCHEMA hidden CASCADE;
DROP TYPE vector CASCADE;
DROP TYPE pair;
DROP DOMAIN labels, label, stars;
DROP TYPE mood CASCADE;
DROP FUNCTION attempt, properties;
DROP PROCEDURE all_ended;
DROP SERVER fast;
DROP ROLE regress_llmb_user;
