/*-------------------------------------------------------------------------
 *
 * http.h
 *		The door to the network: libcurl's multi interface in a
 *		WaitEventSet.  Only http.c knows curl.
 *
 * One process has one loop.  A transfer is started, the loop waits, and a
 * finished transfer is handed out by llmb_http_next().  Nothing here opens a
 * transaction; none may be open in llmb_http_wait().
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_HTTP_H
#define LLMB_HTTP_H

#include "postgres.h"

/* How an exchange went, from the point of view of "can it have been done?" */
typedef enum LlmbWire
{
	LLMB_WIRE_OK,				/* a whole reply with a status is there */
	LLMB_WIRE_NOT_SENT,			/* the request was not wholly handed over */
	LLMB_WIRE_UNANSWERED,		/* wholly sent, no (whole) status came back */
	LLMB_WIRE_CUT				/* a status came, the body is not whole */
} LlmbWire;

/*
 * Fills buf with up to size bytes of the request file, from where the last
 * call stopped; 0 at the end, -1 on failure.  Must not throw.  Called with
 * rewind true (and size 0) to start from the beginning.
 */
typedef ssize_t (*LlmbFileReader) (void *arg, char *buf, size_t size, bool rewind);

typedef struct LlmbHttpRequest
{
	const char *method;
	const char *url;
	char	  **headers;		/* "Name: value" */
	int			header_count;
	const char *body;			/* before the file; may be NULL */
	size_t		body_len;
	LlmbFileReader file;		/* NULL: no file part */
	void	   *file_arg;
	int64		file_len;
	const char *after;			/* after the file; may be NULL */
	bool		lines;			/* hand the reply out in whole lines */
	size_t		reply_cap;		/* bytes of reply (lines: of one line) */
	int64		connect_timeout_ms;
	int64		request_timeout_ms; /* file part and lines: longest stall */
	const char *ca_file;		/* NULL: the system's */
	const char *proxy;			/* NULL: none, whatever the environment says */
	bool		allow_loopback; /* may the address be a loopback one? */
	void	   *owner;			/* the caller's */
	const char *name;			/* of the call, for crash points; a constant */
} LlmbHttpRequest;

typedef struct LlmbTransfer LlmbTransfer;

/* What llmb_http_next() found. */
typedef enum LlmbHttpEvent
{
	LLMB_HTTP_NOTHING,
	LLMB_HTTP_DONE,				/* ended, well or not; free it */
	LLMB_HTTP_LINES				/* paused with whole lines to be taken; told
								 * once, and again after llmb_http_taken() */
} LlmbHttpEvent;

extern void llmb_http_init(void);

/* Copies all it needs of the request.  Raises only out of memory. */
extern LlmbTransfer *llmb_http_start(const LlmbHttpRequest *request);

/* How many connections may be open at a time: a third of max_files_per_process, about. */
extern int	llmb_http_capacity(void);

/* True while a transfer is under way. */
extern bool llmb_http_busy(void);
/* How many are under way. */
extern int	llmb_http_count(void);

/*
 * Sleeps, and serves sockets meanwhile, until the latch is set, there is
 * something for llmb_http_next(), or timeout_ms passed (-1: no limit).
 * Resets the latch, and answers interrupts.  Time spent outside of it does
 * not count against a transfer's limits.
 */
extern bool llmb_http_wait(long timeout_ms);

extern LlmbHttpEvent llmb_http_next(LlmbTransfer **transfer);

extern void *llmb_http_owner(LlmbTransfer *transfer);
extern LlmbWire llmb_http_wire(LlmbTransfer *transfer);
extern int	llmb_http_status(LlmbTransfer *transfer);	/* 0: none */
extern int64 llmb_http_retry_after_ms(LlmbTransfer *transfer);	/* -1: none */
/*
 * Headers of the reply that providers read (rate limits, upload address,
 * request id): "name: value\n", names in lower case; "" without.  Good until
 * the transfer is freed.
 */
extern const char *llmb_http_headers(LlmbTransfer *transfer);
/*
 * Plain words for what went wrong, DNS / connect / TLS / stall told apart;
 * "" when nothing did.  Holds host and port, never path, header or body.
 */
extern const char *llmb_http_error(LlmbTransfer *transfer);
/* The reply's body; NUL-terminated at [len], may be edited. */
extern char *llmb_http_body(LlmbTransfer *transfer, size_t *len);

/*
 * Streams: the whole lines at hand (of a done transfer: what is left, with
 * or without a line end; of one that was cut, only what is whole), then "I
 * took n bytes", which lets it flow on when less than 1 MB is left.
 * When the status is not 200 the reply is kept as a body instead, of at most
 * 1 MB.  The pointer is good until the next call of taken or wait.
 */
extern char *llmb_http_lines(LlmbTransfer *transfer, size_t *len);
extern void llmb_http_taken(LlmbTransfer *transfer, size_t n);

/* Ends it if need be, and frees it.  Never blocks. */
extern void llmb_http_free(LlmbTransfer *transfer);

#endif							/* LLMB_HTTP_H */
