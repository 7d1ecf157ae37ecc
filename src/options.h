/*-------------------------------------------------------------------------
 *
 * options.h
 *		Options of servers and user mappings: which there are, which values
 *		they take, who may set them, and what a server's settings come to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_OPTIONS_H
#define LLMB_OPTIONS_H

#include "batch.h"

typedef struct LlmbServer
{
	Oid			oid;
	char	   *name;
	const LlmbProvider *provider;	/* NULL: the api is known, not built in */
	char	   *api;
	char	   *base_url;		/* without a '/' at the end; NULL for mock */
	bool		base_url_is_default;
	bool		allow_loopback;	/* base_url itself names a loopback address */
	bool		enabled;
	bool		batch;			/* false: the endpoint has no batch API */
	bool		fallback;		/* to real time */
	bool		resend_unanswered;
	int64		realtime_threshold;
	int64		realtime_concurrency;
	int64		requests_per_minute;	/* 0: no pace of our own */
	int64		tokens_per_minute;
	int64		max_batch_requests;
	int64		max_batch_bytes;
	int64		max_enqueued_tokens;	/* 0: none known */
	int64		max_active_batches;
	int64		max_attempts;
	int64		invalid_output_retries;
	int64		poll_min_ms;
	int64		poll_max_ms;
	int64		batch_timeout_ms;
	int64		settle_time_ms;
	int64		retry_base_ms;
	int64		retry_max_ms;
	int64		connect_timeout_ms;
	int64		request_timeout_ms;
	char	   *completion_window;
	char	   *ca_file;
	char	   *proxy;
	char	   *organization;
	char	   *project;
	LlmbDialect dialect;
	char	  **headers;		/* extra ones, "Name: value" */
	int			header_count;
	int64		latency_ms;		/* mock */
	double		failure_rate;	/* mock */
	int64		seed;			/* mock */
} LlmbServer;

/*
 * Reads a server's options over its provider's defaults, palloc'd in the
 * current context.  NULL when there is no such server of this wrapper.
 */
extern LlmbServer *llmb_server_by_oid(Oid oid);
extern LlmbServer *llmb_server_by_name(const char *name);

/*
 * The key that role "owner" has for the server: NULL with *reason (plain
 * words, never the key) when there is none that works.  *missing tells
 * whether the mapping itself is absent.
 */
extern char *llmb_server_key(const LlmbServer *server, Oid owner,
							 bool read_files, bool *missing, char **reason);

/*
 * The server for a submit by the current user: the named one, else
 * llm_batch.default_server, else the only one that may be used and whose api
 * serves the model.  Raises when there is none, or when USAGE, the mapping or
 * the api is lacking.
 */
extern LlmbServer *llmb_choose_server(const char *name, const char *model);

/* Raises unless the current user has USAGE on the server. */
extern void llmb_require_usage(const LlmbServer *server);

#endif							/* LLMB_OPTIONS_H */
