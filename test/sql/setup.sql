-- What CREATE EXTENSION makes, who may use it, and that it goes again.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
DROP SCHEMA IF EXISTS llm_batch;
RESET client_min_messages;
\pset format unaligned

-- a schema that somebody else made may hold planted objects
CREATE ROLE regress_llmb_stranger;
CREATE SCHEMA llm_batch AUTHORIZATION regress_llmb_stranger;
\set SHOW_CONTEXT never
CREATE EXTENSION llm_batch;
\set SHOW_CONTEXT errors
DROP SCHEMA llm_batch;
DROP ROLE regress_llmb_stranger;

-- the schema is part of the names that users write
CREATE EXTENSION llm_batch SCHEMA public;
CREATE EXTENSION llm_batch;
SELECT n.nspname, e.extrelocatable FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'llm_batch';

-- objects of the extension without a comment
CREATE TEMP VIEW members AS
SELECT classid, objid FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'llm_batch');
SELECT pg_describe_object(classid, objid, 0) AS without_comment FROM members
-- row types, array types and view rules come with their relation
WHERE classid NOT IN ('pg_type'::regclass, 'pg_rewrite'::regclass)
AND obj_description(objid, classid::regclass::name) IS NULL ORDER BY 1;

-- a server that needs nothing is there
SELECT srvname, fdwname, srvoptions, has_server_privilege('public', s.oid, 'USAGE') AS for_all
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE fdwname = 'llm_batch';
-- and the wrapper is not everybody's to make servers with
SELECT has_foreign_data_wrapper_privilege('public', 'llm_batch', 'USAGE') AS wrapper_for_all, fdwhandler FROM pg_foreign_data_wrapper WHERE fdwname = 'llm_batch';

-- functions: who may call them; none runs as somebody else by SECURITY DEFINER
SELECT p.proname, p.prokind, p.prosecdef, has_function_privilege('public', p.oid, 'EXECUTE') AS for_all
FROM members m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid ORDER BY 1;

-- relations: PUBLIC reads what row-level security lets it see, and writes nothing
SELECT c.relname, c.relkind, c.relrowsecurity AS rls, c.reloptions::text ~ 'security_invoker' AS invoker,
	c.reloptions::text ~ 'security_barrier' AS barrier,
	CASE WHEN c.relkind <> 'S' THEN has_table_privilege('public', c.oid, 'SELECT') END AS reads,
	CASE c.relkind WHEN 'S' THEN has_sequence_privilege('public', c.oid, 'USAGE, UPDATE, SELECT')
		ELSE has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		  OR has_any_column_privilege('public', c.oid, 'INSERT, UPDATE, REFERENCES') END AS writes
FROM members m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND m.objid = c.oid ORDER BY c.relkind, 1;
SELECT has_schema_privilege('public', 'llm_batch', 'USAGE') AS usage, has_schema_privilege('public', 'llm_batch', 'CREATE') AS may_create;

-- settings
SELECT name, setting, unit, context, vartype, min_val, max_val, enumvals FROM pg_settings WHERE name LIKE 'llm\_batch.%' ORDER BY name;
SELECT name AS undocumented FROM pg_settings WHERE name LIKE 'llm\_batch.%' AND short_desc IS NULL;
SET llm_batch.no_such_setting = on;
SET llm_batch.keep_prompts = 'for a while';
SET llm_batch.enabled = off;
CREATE ROLE regress_llmb_user;
SET ROLE regress_llmb_user;
SET llm_batch.default_server = 'mock';
SET llm_batch.max_prompt_size = '1GB';
RESET ROLE;
RESET llm_batch.default_server;
DROP ROLE regress_llmb_user;

-- and away: nothing stays behind but the schema
DROP VIEW members;
DROP EXTENSION llm_batch;
SELECT count(*) FROM pg_foreign_server WHERE srvname = 'mock';
SELECT count(*) FROM pg_class WHERE relnamespace = 'llm_batch'::regnamespace;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'llm_batch'::regnamespace;
DROP SCHEMA llm_batch;
