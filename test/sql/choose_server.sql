-- Which server a job goes to when none is named, and which may be named.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- the server of a job that is then undone, or why there is none
CREATE FUNCTION choose(model text, server name DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	job bigint;
	chosen text;
	detail text;
	hint text;
BEGIN
	job := llm_batch.submit_prompts(ARRAY['Say hello.'], model, server => server);
	SELECT p.server INTO chosen FROM llm_batch.progress p WHERE job_id = job;
	RAISE SQLSTATE 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN
		RETURN chosen;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		RETURN format('%s: %s', SQLSTATE, SQLERRM) || COALESCE(E'\n  DETAIL: ' || NULLIF(detail, ''), '')
			|| COALESCE(E'\n  HINT: ' || NULLIF(hint, ''), '');
END $$;

-- the only one whose api serves the model
SELECT choose('mock');
SELECT choose('mock-large');
SELECT choose('gpt-6-luna');
SELECT choose('no-such-model');
-- a named one serves what it is told to
SELECT choose('gpt-6-luna', 'mock');
SELECT choose('mock', 'nowhere');

-- a server of another wrapper is none of ours
CREATE FOREIGN DATA WRAPPER regress_llmb_wrapper;
CREATE SERVER foreigner FOREIGN DATA WRAPPER regress_llmb_wrapper;
SELECT choose('mock', 'foreigner');

-- candidates: by api, or any model at an address of its own
CREATE SERVER openai FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai');
CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key 'secret');
SELECT choose('gpt-6-luna');
SELECT choose('mock');
SELECT choose('llama-3');
CREATE SERVER gateway FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://gateway.example.com/v1');
CREATE USER MAPPING FOR PUBLIC SERVER gateway OPTIONS (api_key 'secret');
SELECT choose('llama-3');
-- two that could
SELECT choose('gpt-6-luna');
SELECT choose('mock');
-- the setting decides, a name decides over it
SET llm_batch.default_server = 'openai';
SELECT choose('gpt-6-luna');
SELECT choose('llama-3');
SELECT choose('gpt-6-luna', 'gateway');
SET llm_batch.default_server = 'nowhere';
SELECT choose('mock');
RESET llm_batch.default_server;

-- only what the caller may use is a candidate
CREATE ROLE regress_llmb_user;
GRANT USAGE ON FOREIGN SERVER gateway TO regress_llmb_user;
SET ROLE regress_llmb_user;
SELECT choose('gpt-6-luna');
SELECT choose('gpt-6-luna', 'openai');
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER gateway FROM regress_llmb_user;
REVOKE USAGE ON FOREIGN SERVER mock FROM PUBLIC;
SET ROLE regress_llmb_user;
SELECT choose('gpt-6-luna');
SELECT choose('mock');
SET llm_batch.default_server = 'mock';
SELECT choose('mock');
RESET llm_batch.default_server;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER mock TO PUBLIC;

-- a disabled one is no candidate, and refuses when named
ALTER SERVER gateway OPTIONS (ADD enabled 'off');
SELECT choose('gpt-6-luna');
SELECT choose('gpt-6-luna', 'gateway');

-- no user mapping: neither for the role nor for PUBLIC; or one without a key
DROP USER MAPPING FOR PUBLIC SERVER openai;
SELECT choose('gpt-6-luna');
CREATE USER MAPPING FOR PUBLIC SERVER openai;
SELECT choose('gpt-6-luna');
CREATE USER MAPPING FOR CURRENT_USER SERVER openai OPTIONS (api_key 'secret');
SELECT choose('gpt-6-luna');

-- what is still to come says so
CREATE SERVER later FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'anthropic');
CREATE USER MAPPING FOR PUBLIC SERVER later OPTIONS (api_key 'none');
SELECT choose('claude-sonnet-5-5', 'later');
SELECT choose('claude-sonnet-5-5');
CREATE SERVER local FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'http://localhost:11434/v1', batch 'off');
CREATE USER MAPPING FOR PUBLIC SERVER local OPTIONS (api_key 'none');
SELECT choose('llama-3', 'local');

-- a mixed-case name is quoted where it is to be typed again
CREATE SERVER "My Server" FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', enabled 'off');
SELECT choose('gpt-6-luna', 'My Server');

-- all was undone
SELECT count(*) FROM llm_batch.job;

DROP FUNCTION choose;
SET client_min_messages = warning;
DROP SERVER openai, gateway, later, local, "My Server" CASCADE;
DROP FOREIGN DATA WRAPPER regress_llmb_wrapper CASCADE;
DROP ROLE regress_llmb_user;
