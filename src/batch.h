/*-------------------------------------------------------------------------
 *
 * batch.h
 *		What a batch is: its states, and the table of functions behind which
 *		a provider stands.
 *
 * Nothing here does I/O, knows SPI, curl, a setting or the clock: text and
 * numbers in, structs out.  A provider is one file; adding one touches the
 * list in batch.c and nothing else.
 *
 * All strings handed to and from a provider are UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_BATCH_H
#define LLMB_BATCH_H

#include "common.h"
#include "json.h"

/*
 * States of a batch, as they stand in llm_batch.batch.state.  The legal
 * successors are in llmb_batch_can_become(); docs/ARCHITECTURE.md has the
 * diagram.
 */
typedef enum LlmbBatchState
{
	LLMB_PLANNED,				/* items chosen and committed; nothing sent */
	LLMB_UPLOADING,				/* request file on its way */
	LLMB_SUBMITTING,			/* intent committed; the create may be out */
	LLMB_VERIFYING,				/* create unanswered: being looked for */
	LLMB_IN_PROGRESS,			/* the provider works */
	LLMB_CANCELLING,			/* cancel asked for, provider not yet ended */
	LLMB_ENDED,					/* provider ended; files not yet read */
	LLMB_FETCHING,				/* results being read and written back */
	LLMB_FINALIZED,				/* every item decided or queued again */
	LLMB_FAILED,				/* refused as a whole; items decided or queued */
	LLMB_CANCELLED				/* cancelled; what was finished is stored */
} LlmbBatchState;

extern const char *llmb_batch_state_name(LlmbBatchState state);
extern bool llmb_batch_state_parse(const char *name, LlmbBatchState *state);
extern bool llmb_batch_can_become(LlmbBatchState from, LlmbBatchState to);
extern bool llmb_batch_is_over(LlmbBatchState state);

/* Why an attempt did not bring an answer: llm_batch.results.error_code. */
typedef enum LlmbCode
{
	LLMB_OK,
	LLMB_RATE_LIMITED,
	LLMB_AUTH,
	LLMB_INVALID_REQUEST,
	LLMB_TOO_LARGE,
	LLMB_PROVIDER_ERROR,
	LLMB_TIMEOUT,
	LLMB_EXPIRED,
	LLMB_REFUSED,
	LLMB_TRUNCATED,
	LLMB_INVALID_OUTPUT,
	LLMB_UNANSWERED,
	LLMB_WRITE_BACK,
	LLMB_STALE,
	LLMB_CANCELLED_ITEM,
	LLMB_BUDGET
} LlmbCode;

extern const char *llmb_code_name(LlmbCode code);	/* NULL for LLMB_OK */
extern bool llmb_code_parse(const char *name, LlmbCode *code);

/* Which of a provider's ways of answering a request takes. */
typedef enum LlmbEndpoint
{
	LLMB_ENDPOINT_CHAT,			/* the provider's usual one */
	LLMB_ENDPOINT_RESPONSES,	/* OpenAI's newer one */
	LLMB_ENDPOINT_EMBEDDINGS	/* a vector instead of text */
} LlmbEndpoint;

/* How an answer of a given schema is asked for. */
typedef enum LlmbStructured
{
	LLMB_STRUCTURED_NATIVE,		/* the provider's own form */
	LLMB_STRUCTURED_OBJECT,		/* "some JSON object", and the schema in words */
	LLMB_STRUCTURED_PROMPT		/* in words alone */
} LlmbStructured;

/* What a server's options say about its way of speaking the protocol. */
typedef struct LlmbDialect
{
	LlmbEndpoint endpoint;
	LlmbStructured structured;
	bool		old_cap;		/* "max_tokens", where OpenAI renamed it */
	bool		key_header;		/* "api-key: ..." instead of the usual header */
	char	   *api_version;	/* NULL: the provider's default */
} LlmbDialect;

/* Which temperature and top_p a model takes. */
typedef enum LlmbSampling
{
	LLMB_SAMPLING_UNKNOWN,		/* nothing is known: let through */
	LLMB_SAMPLING_ANY,
	LLMB_SAMPLING_DEFAULT,		/* no value but the default */
	LLMB_SAMPLING_EFFORT_NONE	/* only with reasoning effort "none" */
} LlmbSampling;

/* What is known of a model, from llm_batch.model.  Never prices. */
typedef struct LlmbModel
{
	const char *name;			/* as asked for */
	const char *model_class;	/* a word that its provider's file explains; NULL unknown */
	int64		context_window; /* tokens; 0 unknown */
	int64		max_output;		/* tokens; 0 unknown */
	LlmbSampling sampling;
	const char *efforts;		/* accepted ones, blank-separated; "" none; NULL unknown */
	const char *default_effort; /* when none is given; NULL unknown */
	int			json_schema;	/* 1 yes, 0 no, -1 unknown */
	bool		no_batch;		/* known not to be taken in batches */
} LlmbModel;

/* One prompt, ready to be rendered.  NULL members are absent. */
typedef struct LlmbRequest
{
	const char *custom_id;		/* "<token>-<ordinal>": [A-Za-z0-9_-]{1,64} */
	bool		first;			/* of its request file */
	const LlmbModel *model;
	const LlmbDialect *dialect;
	const char *system;			/* system prompt */
	const char *prompt;			/* user prompt, or NULL when messages is set */
	const char *messages;		/* JSON array that replaces system and prompt */
	const LlmbJson *params;		/* object of common parameter names, or NULL */
	const char *schema;			/* JSON schema of the answer, as JSON text; its root is an object */
} LlmbRequest;

/* The calls that a batch's life is made of. */
typedef enum LlmbVerb
{
	LLMB_CALL_UPLOAD,			/* send the request file, or ask where to */
	LLMB_CALL_UPLOAD_DATA,		/* send it there (reply->upload_url of the above) */
	LLMB_CALL_CREATE,			/* create the batch: the one paid call */
	LLMB_CALL_POLL,
	LLMB_CALL_LIST,				/* a page of batches, newest first */
	LLMB_CALL_CANCEL,
	LLMB_CALL_FETCH,			/* a result file (ref->part says which) */
	LLMB_CALL_FIND_FILE,		/* a page of uploaded files; newest first where the provider says so */
	LLMB_CALL_DELETE_FILE,		/* our own input file, after the end */
	LLMB_CALL_CHECK,			/* a free call: key, address, models */
	LLMB_CALL_ANSWER			/* one request in real time; the caller adds its body */
} LlmbVerb;

/* What a provider may know of a batch and its server. */
typedef struct LlmbBatchRef
{
	const char *token;			/* random; travels as metadata or name */
	const LlmbModel *model;
	const LlmbDialect *dialect;
	const char *base_url;		/* without a '/' at the end */
	const char *upload_url;		/* LLMB_CALL_UPLOAD_DATA */
	const char *completion_window;	/* as the server option says: "24h" */
	const char *organization;	/* server options; NULL when not set */
	const char *project;
	const char *remote_input;	/* provider's id of the uploaded file */
	const char *remote_id;		/* provider's id of the batch */
	const char *remote_output;	/* provider's id of result file 0 */
	const char *remote_errors;	/* provider's id of result file 1 */
	int			part;			/* LLMB_CALL_FETCH: 0 output, 1 errors */
	const char *cursor;			/* LLMB_CALL_LIST, _FIND_FILE: where the page starts */
	int64		item_count;
	int64		file_bytes;		/* length of the request file */

	/* only for the provider that answers in process */
	int64		created_ms;		/* when the batch was created, epoch ms; 0 */
	int64		cancelled_ms;	/* when its cancel was asked for; 0 */
	int64		latency_ms;		/* how long its batches take */
	double		failure_rate;	/* share of requests that fail, 0..1 */
	int64		seed;
	int			attempt;		/* which sending of its items this is */
} LlmbBatchRef;

/* A call as the provider wants it made. */
typedef struct LlmbCall
{
	const char *method;			/* "GET", "POST", "DELETE" */
	char	   *path;			/* after base_url, begins with '/'; never another host */
	char	   *headers[8];		/* "Name: value", the key's among them */
	int			header_count;
	StringInfo	body;			/* small body, or what stands before the file */
	bool		with_file;		/* request file follows body */
	char	   *after_file;		/* what stands after the request file, or NULL */
	bool		reply_is_lines; /* reply is JSONL of any length */
} LlmbCall;

/* Whose fault, hence what to do.  The provider's reply is judged once, here. */
typedef enum LlmbFault
{
	LLMB_FAULT_NONE,
	LLMB_FAULT_RETRY,			/* passing: same call again after a wait */
	LLMB_FAULT_BUSY,			/* LLMB_CALL_ANSWER: sent too fast, or overloaded; not the request's fault */
	LLMB_FAULT_KEY,				/* wrong key, no permission: pause the job */
	LLMB_FAULT_QUOTA,			/* money or quota: pause the job */
	LLMB_FAULT_QUEUE_FULL,		/* enqueued-token limit: same batch later */
	LLMB_FAULT_TOO_LARGE,		/* split */
	LLMB_FAULT_GONE,			/* the object does not exist */
	LLMB_FAULT_REQUEST			/* refused for good */
} LlmbFault;

typedef enum LlmbRemoteState
{
	LLMB_REMOTE_UNKNOWN,
	LLMB_REMOTE_RUNNING,
	LLMB_REMOTE_CANCELLING,
	LLMB_REMOTE_ENDED,			/* terminal, result files as named */
	LLMB_REMOTE_EXPIRED,		/* terminal, result files possible */
	LLMB_REMOTE_CANCELLED,		/* terminal, result files possible */
	LLMB_REMOTE_FAILED			/* refused as a whole, nothing ran */
} LlmbRemoteState;

/* Lines of one refusal that are taken note of; a second refusal tells more. */
#define LLMB_BAD_LINES	64

/* One batch of a listing, or of a reply that describes a batch. */
typedef struct LlmbRemoteBatch
{
	char	   *id;
	char	   *token;			/* ours, when the provider gives it back */
	char	   *input;			/* id of its request file */
	int64		created_s;		/* epoch seconds, 0 unknown */
	int64		ended_ms;		/* epoch milliseconds, 0 unknown or not ended */
	LlmbRemoteState state;
	LlmbFault	fault;			/* why, when state is LLMB_REMOTE_FAILED */
	int64		total;			/* the provider's counts; -1 unknown */
	int64		done;			/* succeeded so far */
	int64		failed;
	int			bad_lines[LLMB_BAD_LINES];	/* request lines it was refused for */
	int			bad_line_count;
	char	   *output;			/* result file ids; NULL when there is none */
	char	   *errors;
} LlmbRemoteBatch;

typedef enum LlmbFileState
{
	LLMB_FILE_READY,			/* or the provider does not say */
	LLMB_FILE_PENDING,			/* it is still looking at it */
	LLMB_FILE_BROKEN
} LlmbFileState;

/* One file of a listing. */
typedef struct LlmbRemoteFile
{
	char	   *id;
	char	   *token;			/* the label of an upload of ours, by its name; NULL somebody else's */
	int64		bytes;			/* -1 unknown */
	int64		created_s;		/* epoch seconds; 0 unknown, or the listing has no order */
	LlmbFileState state;
} LlmbRemoteFile;

typedef struct LlmbReply
{
	LlmbFault	fault;
	int64		retry_after_ms; /* what the provider asked for; -1 nothing */
	char	   *code;			/* provider's error code or type; safe to show */
	char	   *message;		/* provider's words: may quote the request */
	char	   *file_id;		/* LLMB_CALL_UPLOAD, _DATA: the file is there */
	char	   *upload_url;		/* LLMB_CALL_UPLOAD: it goes here, by LLMB_CALL_UPLOAD_DATA */
	StringInfo	lines;			/* FETCH of results that are no file: as lines for read_line */
	LlmbRemoteBatch batch;		/* CREATE, POLL, CANCEL; id NULL when absent */
	LlmbRemoteBatch *listed;	/* LIST */
	int			listed_count;
	LlmbRemoteFile *files;		/* FIND_FILE */
	int			file_count;
	char	   *next_cursor;	/* LIST, FIND_FILE: NULL when this was the last page */
	int			models;			/* CHECK: how many models the key can see */
	int64		queue_tokens;	/* LLMB_FAULT_QUEUE_FULL: how many tokens may be enqueued; 0 not said */
} LlmbReply;

/* What an HTTP exchange brought, as far as a provider cares. */
typedef struct LlmbHttpReply
{
	int			status;
	char	   *body;			/* NUL-terminated at body[len]; may be edited */
	size_t		len;
	int64		retry_after_ms; /* from Retry-After headers; -1 none */
	const char *headers;		/* "name: value\n" of those that providers read, names in lower case; or NULL */
} LlmbHttpReply;

/* What a provider's headers say of its rate limits; -1 each where they do not. */
typedef struct LlmbLimits
{
	int64		requests_left;	/* in the current window */
	int64		requests_reset_ms;	/* until it is whole again */
	int64		tokens_left;
	int64		tokens_reset_ms;
} LlmbLimits;

/* What one result line, or one real-time reply, says about its item. */
typedef struct LlmbOutcome
{
	char	   *custom_id;
	LlmbCode	code;
	bool		retryable;		/* the same request may succeed later */
	char	   *answer;			/* kept also for LLMB_TRUNCATED; else NULL */
	char	   *error;			/* the provider's words: text, not for logs */
	char	   *finish_reason;	/* as the provider wrote it */
	char	   *model;			/* the model that answered */
	char	   *request_id;
	bool		altered;		/* a character of the answer was replaced */
	int64		input_tokens;	/* whole prompt, cached part included; -1 */
	int64		cached_tokens;
	int64		cache_write_tokens; /* all that was written to a cache */
	int64		long_write_tokens;	/* of these, the part kept for the longer time */
	int64		output_tokens;	/* reasoning included */
	int64		reasoning_tokens;
	bool		perhaps_run;	/* failed without usage, and yet it may have been charged */
} LlmbOutcome;

typedef struct LlmbProvider
{
	const char *api;			/* value of the server option "api" */
	const char *base_url;		/* default; NULL when there is no address */
	bool		needs_key;

	/* limits that the provider documents; sources stand in its file */
	int64		max_batch_requests;
	int64		max_batch_bytes;
	int			window_hours;	/* after which it ends a batch, ready or not */

	bool		inline_requests;	/* the create carries the request file; no upload */
	bool		unlabelled;		/* listings do not give our token back */

	/* Whether a model of this name is this provider's own. */
	bool		(*serves) (const char *model);

	/*
	 * NULL when every member of params is known and may be sent to model,
	 * else the reason (palloc'd).
	 */
	char	   *(*check_params) (const LlmbModel *model, const LlmbDialect *dialect,
								 const LlmbJson *params);

	/* Appends the body of a real-time request. */
	void		(*put_body) (StringInfo out, const LlmbRequest *request);

	/* Appends one line of a request file, with its line end (and what stands between lines). */
	void		(*put_line) (StringInfo out, const LlmbRequest *request);

	/*
	 * Fills call and returns true, or returns false when this provider has
	 * no such call, or when an id in ref cannot be part of one.  The key
	 * appears in call->headers only.
	 */
	bool		(*make_call) (LlmbVerb verb, const LlmbBatchRef *ref,
							  const char *key, LlmbCall *call);

	/* Judges and reads a reply to that call. */
	void		(*read_reply) (LlmbVerb verb, LlmbHttpReply *http,
							   LlmbReply *reply);

	/*
	 * Reads one line of a result file (line[len] is NUL, may be edited).
	 * False when the line cannot be told to be any item's.
	 */
	bool		(*read_line) (char *line, size_t len, LlmbOutcome *outcome);

	/*
	 * Reads a reply to LLMB_CALL_ANSWER into both: the outcome as if it had
	 * come in a batch (without custom_id), and reply->fault, code and
	 * retry_after_ms, which tell whose fault a failure is.
	 */
	void		(*read_answer) (LlmbHttpReply *http, LlmbOutcome *outcome, LlmbReply *reply);

	/* What the headers of any reply say of rate limits; NULL: they never do. */
	void		(*read_limits) (const LlmbHttpReply *http, int64 now_ms, LlmbLimits *limits);

	/*
	 * In process instead of over HTTP, or NULL: answers a call at now_ms
	 * (epoch milliseconds) as the far side would ...
	 */
	void		(*answer) (LlmbVerb verb, const LlmbBatchRef *ref,
						   int64 now_ms, LlmbHttpReply *http);

	/* ... and appends the result line of one request line. */
	void		(*answer_line) (const LlmbBatchRef *ref, int64 now_ms,
								char *line, size_t len, StringInfo out);
} LlmbProvider;

extern const LlmbProvider llmb_provider_openai;
extern const LlmbProvider llmb_provider_anthropic;
extern const LlmbProvider llmb_provider_gemini;
extern const LlmbProvider llmb_provider_mock;

/* NULL when no provider of that name is built in. */
extern const LlmbProvider *llmb_provider(const char *api);

/*
 * Policies, pure functions of their inputs.
 *
 * llmb_backoff_ms: wait before try number "tries" + 1 (tries >= 1): base
 * doubled with every try, capped, and spread over [0.5, 1.0) of that by
 * jitter in [0, 1).
 *
 * llmb_goes_realtime: whether a job of so many items goes in real time; "mode"
 * as asked for, has_batch: there is a batch API that takes the model.
 */
extern int64 llmb_backoff_ms(int tries, int64 base_ms, int64 max_ms, double jitter);
extern bool llmb_goes_realtime(const char *mode, int64 items, bool has_batch, int64 threshold);

#endif							/* LLMB_BATCH_H */
