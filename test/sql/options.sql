-- Options of servers and user mappings: by name, by value, and for whom.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS llm_batch CASCADE;
CREATE EXTENSION llm_batch;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- what an SQL statement comes to; what it did is undone
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RAISE SQLSTATE 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN
		RETURN 'taken';
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		RETURN format('%s: %s', SQLSTATE, SQLERRM) || COALESCE(E'\n  DETAIL: ' || NULLIF(detail, ''), '')
			|| COALESCE(E'\n  HINT: ' || NULLIF(hint, ''), '');
END $$;
CREATE FUNCTION with_option(option text, value text, api text DEFAULT 'openai') RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('CREATE SERVER s FOREIGN DATA WRAPPER llm_batch OPTIONS (%s%I %L)',
		CASE option WHEN 'api' THEN '' ELSE format('api %L, ', api) END, option, value))
$$;

-- values that are taken: no row means that all were
SELECT option, value, outcome FROM (VALUES
	('api', 'openai'), ('api', 'anthropic'), ('api', 'gemini'), ('api', 'mock'),
	('base_url', 'https://api.example.com'), ('base_url', 'https://api.example.com:8443/v1/'),
	('base_url', 'https://[2001:db8::1]:8443/v1'), ('base_url', 'HTTPS://API.EXAMPLE.COM/v1'),
	('base_url', 'http://localhost:8000/v1'), ('base_url', 'http://127.0.0.1:8000'), ('base_url', 'http://[::1]:8000/v1'),
	('enabled', 'on'), ('enabled', 'false'), ('batch', 'off'), ('batch', 'yes'),
	('realtime_threshold', '0'), ('realtime_threshold', '20'),
	('realtime_concurrency', '1'), ('realtime_concurrency', '1000'),
	('requests_per_minute', '500'), ('tokens_per_minute', '30000000'),
	('max_batch_requests', '1'), ('max_batch_requests', '100000'),
	('max_batch_bytes', '64MB'), ('max_batch_bytes', '200000000'), ('max_batch_bytes', '1GB'),
	('max_enqueued_tokens', '90000'), ('max_active_batches', '5'),
	('poll_min', '500ms'), ('poll_min', '1000'), ('poll_max', '1d'), ('poll_max', '90min'),
	('completion_window', '24h'), ('batch_timeout', '26h'), ('batch_timeout', '1s'),
	('fallback', 'realtime'), ('fallback', 'none'), ('on_unanswered', 'resend'), ('on_unanswered', 'fail'),
	('settle_time', '0'), ('settle_time', '15min'), ('max_attempts', '1'), ('invalid_output_retries', '0'),
	('retry_base', '2s'), ('retry_max', '10min'), ('connect_timeout', '10s'), ('request_timeout', '10min'),
	('ca_file', '/etc/ssl/certs/ours.pem'), ('proxy', 'http://proxy.example.com:3128'),
	('organization', 'org-1'), ('project', 'proj_1'), ('api_version', '2023-06-01'),
	('headers', 'X-Team: search'), ('headers', E'X-Team: search\nX-Cost-Centre: 12')
) v(option, value), with_option(option, value) outcome WHERE outcome <> 'taken';
SELECT option, value, outcome FROM (VALUES ('latency', '0'), ('latency', '2s'), ('failure_rate', '0'), ('failure_rate', '0.25'),
	('failure_rate', '1'), ('seed', '7')) v(option, value), with_option(option, value, 'mock') outcome WHERE outcome <> 'taken';

-- values that are not; the messages never repeat them, they may be keys
SELECT option, to_jsonb(value) AS value, outcome FROM (VALUES
	('api', ''), ('api', 'OpenAI'), ('api', 'mistral'), ('api', 'openai|anthropic'), ('api', 'open'),
	('base_url', ''), ('base_url', 'api.example.com'), ('base_url', 'ftp://api.example.com'), ('base_url', 'https://'),
	('base_url', 'https:///v1'), ('base_url', 'https://user:secret@api.example.com'), ('base_url', 'https://api.example.com/v1?key=secret'),
	('base_url', 'https://api.example.com/v1#x'), ('base_url', 'https://api.example.com /v1'), ('base_url', E'https://api.example.com\n'),
	('base_url', 'https://api.example.com:port/v1'),
	('base_url', 'http://api.example.com/v1'), ('base_url', 'http://localhost.example.com'), ('base_url', 'http://127.example.com'),
	('base_url', 'http://10.0.0.1:8000/v1'), ('base_url', 'http://169.254.169.254/'),
	('enabled', 'maybe'), ('enabled', ''), ('batch', '2'),
	('realtime_threshold', '-1'), ('realtime_threshold', '1.5'), ('realtime_threshold', 'many'), ('realtime_threshold', ''),
	('realtime_concurrency', '0'), ('realtime_concurrency', '1001'), ('requests_per_minute', '0'), ('tokens_per_minute', '12x'),
	('max_batch_requests', '0'), ('max_batch_requests', '1e99'), ('max_batch_bytes', '10'), ('max_batch_bytes', '64 parsecs'),
	('max_batch_bytes', '5s'), ('max_enqueued_tokens', '-5'), ('max_active_batches', '0'),
	('poll_min', '1ms'), ('poll_min', '5MB'), ('poll_min', 'soon'), ('poll_max', '2d'), ('poll_max', '-1s'), ('poll_max', ''),
	('completion_window', ''), ('completion_window', E'24h\n'), ('batch_timeout', '10ms'), ('batch_timeout', '1 fortnight'),
	('fallback', 'batch'), ('fallback', 'realtime|none'), ('on_unanswered', ''), ('on_unanswered', 'resend|fail'),
	('settle_time', '-1'), ('max_attempts', '0'), ('max_attempts', '101'), ('invalid_output_retries', '-1'),
	('retry_base', '0'), ('retry_max', 'NaN'), ('connect_timeout', 'inf'), ('request_timeout', '1'),
	('ca_file', 'ours.pem'), ('ca_file', ''), ('proxy', ''), ('organization', E'org\nX-Injected: 1'), ('project', E'p\r'), ('api_version', ''),
	('headers', 'no colon'), ('headers', ': empty'), ('headers', 'Bad Name: x'), ('headers', E'X-A: a\x01b'),
	('latency', '-1'), ('failure_rate', '0.1'), ('seed', '1')
) v(option, value), with_option(option, value) outcome;
SELECT option, value, outcome FROM (VALUES ('latency', 'long'), ('latency', '2d'), ('failure_rate', '1.5'), ('failure_rate', 'nan'),
	('failure_rate', '-0.1'), ('seed', '-1'), ('seed', 'x'), ('base_url', 'https://api.example.com')) v(option, value), with_option(option, value, 'mock') outcome;

-- an option that does not exist: the valid ones are listed
SELECT with_option('bas_url', 'https://api.example.com');
SELECT with_option('api_key', 'secret');
SELECT with_option('API', 'openai');
-- the protocol must be said, and cannot be taken away
SELECT attempt('CREATE SERVER s FOREIGN DATA WRAPPER llm_batch');
SELECT attempt('ALTER SERVER mock OPTIONS (DROP api)');
-- the wrapper itself has no options
SELECT attempt('ALTER FOREIGN DATA WRAPPER llm_batch OPTIONS (ADD timeout ''1'')');

-- user mappings
CREATE SERVER remote FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai');
SELECT options, attempt(format('CREATE USER MAPPING FOR PUBLIC SERVER remote OPTIONS (%s)', options)) FROM (VALUES
	($$api_key 'secret'$$), ($$api_key_file '/etc/llm_batch/key'$$), ($$api_key_env 'OPENAI_API_KEY'$$),
	($$api_key ''$$), ($$api_key E'secret\nX-Injected: 1'$$), ($$api_key_file 'key'$$), ($$api_key_env ''$$),
	($$api_key 'secret', api_key_env 'KEY'$$), ($$"user" 'me', password 'secret'$$), ($$base_url 'https://api.example.com'$$)) v(options);

-- what is for superusers
CREATE ROLE regress_llmb_owner;
CREATE ROLE regress_llmb_other;
GRANT USAGE ON FOREIGN DATA WRAPPER llm_batch TO regress_llmb_owner, regress_llmb_other;
CREATE SERVER guarded FOREIGN DATA WRAPPER llm_batch
	OPTIONS (api 'openai', base_url 'http://127.0.0.1:8000/v1', ca_file '/etc/ssl/ours.pem', proxy 'http://proxy:3128', headers 'X-Team: search');
ALTER SERVER guarded OWNER TO regress_llmb_owner;
ALTER SERVER remote OWNER TO regress_llmb_owner;
SET ROLE regress_llmb_owner;
SELECT option, value, with_option(option, value) FROM (VALUES
	('base_url', 'https://api.example.com'), ('poll_min', '1s'), ('organization', 'org-1'),
	('base_url', 'http://127.0.0.1:9000/v1'), ('base_url', 'https://127.0.0.1/'), ('base_url', 'https://LOCALHOST:8000'),
	('base_url', 'https://127.1/'), ('base_url', 'https://[::1]/'), ('base_url', 'https://[::ffff:127.0.0.1]/'), ('base_url', 'https://0.0.0.0/'),
	('base_url', 'https://api.localhost/'), ('base_url', 'http://localhost/v1'),
	('ca_file', '/etc/passwd'), ('proxy', 'http://evil:3128'), ('headers', 'X-A: b')) v(option, value);
SELECT attempt($$CREATE USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (api_key 'secret')$$);
SELECT attempt($$CREATE USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (api_key_file '/etc/passwd')$$);
SELECT attempt($$CREATE USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (api_key_env 'HOME')$$);

-- ALTER: only what changes is checked
SELECT change, attempt('ALTER SERVER guarded OPTIONS (' || change || ')') FROM (VALUES
	($$ADD poll_min '1s'$$), ($$SET base_url 'https://api.example.com'$$), ($$DROP ca_file$$), ($$SET headers 'X-Team: search'$$),
	($$SET base_url 'http://127.0.0.1:9000/v1'$$), ($$SET ca_file '/etc/passwd'$$), ($$SET proxy 'http://evil:3128'$$),
	($$SET headers 'X-Team: other'$$), ($$ADD retry_base 'x'$$)) v(change);
-- another's value is nobody else's
SET ROLE regress_llmb_other;
SELECT with_option('ca_file', '/etc/ssl/ours.pem');
SELECT with_option('base_url', 'http://127.0.0.1:8000/v1');
-- a key file that a superuser gave does not follow its user to a server of the user's own
RESET ROLE;
CREATE USER MAPPING FOR regress_llmb_other SERVER guarded OPTIONS (api_key_file '/etc/llm_batch/key');
SET ROLE regress_llmb_other;
CREATE SERVER own FOREIGN DATA WRAPPER llm_batch OPTIONS (api 'openai', base_url 'https://evil.example.com');
SELECT attempt($$CREATE USER MAPPING FOR CURRENT_USER SERVER own OPTIONS (api_key_file '/etc/llm_batch/key')$$);
-- one's own mapping on another's server needs USAGE, as PostgreSQL has it
SELECT attempt($$CREATE USER MAPPING FOR CURRENT_USER SERVER remote OPTIONS (api_key 'secret')$$);
RESET ROLE;

-- a key is shown to nobody but who set it and superusers
CREATE USER MAPPING FOR regress_llmb_owner SERVER remote OPTIONS (api_key 'secret');
GRANT USAGE ON FOREIGN SERVER remote TO regress_llmb_other;
SET ROLE regress_llmb_other;
SELECT srvname, usename, umoptions FROM pg_user_mappings WHERE srvname = 'remote';
RESET ROLE;

SET client_min_messages = warning;
DROP SERVER guarded, remote, own CASCADE;
REVOKE USAGE ON FOREIGN DATA WRAPPER llm_batch FROM regress_llmb_owner, regress_llmb_other;
DROP ROLE regress_llmb_owner, regress_llmb_other;
DROP FUNCTION with_option, attempt;
