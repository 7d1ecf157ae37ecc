/*-------------------------------------------------------------------------
 *
 * http.c
 *		The door to the network: libcurl's multi interface in a
 *		WaitEventSet.
 *
 * libcurl does not wait here; we wait for it.  It tells us which sockets it
 * cares for (watch_socket: edit an array) and when it wants to be called at
 * the latest (set_timer: store a time).  llmb_http_wait() sleeps on the
 * postmaster, the process latch and those sockets, answers interrupts, and
 * only then calls libcurl, for what is readable first and for its timers
 * last.  There is no thread of ours, no epoll and no timer descriptor.
 *
 * Vocabulary
 *	transfer	one exchange: request out, reply in
 *	pool		a multi handle with the connections that it keeps open
 *	given		bytes of the request's body that libcurl took from us
 *	stream		a reply with status 200 that is handed out in lines; it is
 *				paused while enough whole lines lie ready
 *
 * What always holds
 *	- A transfer is in flight (on the list "flying", known to its pool),
 *	  finished (on the list "finished", out of the pool), or handed out (on
 *	  no list, until the caller frees it).
 *	- Functions that libcurl calls never throw and never call libcurl.  They
 *	  note the reason in the transfer and return short.  Buffers that grow
 *	  there come from malloc(), so that lack of memory is a return value,
 *	  and so that a large one goes back to the system when it is freed.
 *	- libcurl runs with signals blocked, because the threads that it starts
 *	  for name lookups inherit the mask; in one of those a handler of
 *	  PostgreSQL's must never run.  Each call returns within milliseconds.
 *	- Nothing is torn down at process exit: that can wait for a lookup that
 *	  hangs (measured: 5.7 s instead of 0.16 s).
 *	- A request that was wholly given is never given again, although libcurl
 *	  would like to: it repeats any request, POST included, when a kept
 *	  connection dies before the reply's first byte.  See rewind_body().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "access/xact.h"
#include "crash.h"
#include "http.h"
#include "lib/ilist.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "compat.h"

#if LIBCURL_VERSION_NUM < 0x074100
#error "libcurl 7.65 or later is needed"
#endif

/*
 * Without it, ending a transfer whose name lookup hangs waits for the lookup.
 * Known since 7.87; written as a number so that what counts is the library
 * we run with.  Older ones refuse it, which is no harm.
 */
#if LIBCURL_VERSION_NUM < 0x075700
#define CURLOPT_QUICK_EXIT		((CURLoption) 322)
#endif

/*
 * Whole lines at hand that make us stop reading: some 800 results of usual
 * size, a good bite for a transaction, and 20 MB with 20 files at a time.
 */
#define LINES_ENOUGH	(1024 * 1024)

/* What a stream says when it is no stream: an error's text is never larger. */
#define ERROR_BODY_CAP			(1024 * 1024)

/* All header lines of a reply together; providers send less than 4 kB. */
#define HEADERS_CAP				(64 * 1024)

/* Bytes that must move within request_timeout, lest it is a stall. */
#define LEAST_PROGRESS			1024

/*
 * libcurl's own buffers, per transfer.  Large ones pay for files and streams
 * only.  With TLS an upload's progress is seen once per buffer, so there it
 * must be small enough not to look like a stall on a slow line.
 */
#define UPLOAD_BUFFER			(512 * 1024L)
#define UPLOAD_BUFFER_TLS		(128 * 1024L)
#define DOWNLOAD_BUFFER			(256 * 1024L)

/*
 * A kept connection that was idle for longer is not used for a request that
 * must not be sent twice.  Common servers close after 5 s and more; meeting
 * that moment would leave us with a request of unknown fate.
 */
#define FRESH_ENOUGH_SECONDS	4L

/* Descriptors that fd.c counts as foreign and that we leave to others. */
#define SPARE_DESCRIPTORS		16

/* Events served per wait. */
#define READY_MAX				64

/*
 * A multi handle.  There are two, because the guard against loopback
 * addresses is asked when a socket is opened, and a kept connection that was
 * opened for a superuser's server must not serve another's.
 */
typedef struct Pool
{
	CURLM	   *multi;
	int64		timer;			/* ms; libcurl wants to run then; -1: never */
} Pool;

enum
{
	POOL_GUARDED,
	POOL_FREE,
	POOL_COUNT
};

/* A socket that libcurl cares for. */
typedef struct Watch
{
	curl_socket_t fd;
	uint32		events;			/* WL_SOCKET_..., or 0 for none at present */
	Pool	   *pool;
} Watch;

typedef enum TransferPlace
{
	IN_FLIGHT,
	FINISHED,
	HANDED_OUT
} TransferPlace;

struct LlmbTransfer
{
	dlist_node	node;
	TransferPlace place;
	MemoryContext context;		/* holds this struct and what it copied */
	Pool	   *pool;
	CURL	   *easy;
	struct curl_slist *headers;
	void	   *owner;
	const char *name;			/* of the call, for crash points; or NULL */
	bool		told_sent;		/* that point was passed */

	/* the request */
	char	   *url;
	bool		guarded;
	bool		proxied;
	char	   *body;
	int64		body_len;
	LlmbFileReader file;
	void	   *file_arg;
	int64		file_len;
	char	   *after;
	int64		after_len;
	int64		total;			/* body, file and after */
	int64		given;			/* of these, since the last rewind */
	bool		wholly_given;	/* once true, stays true */
	bool		refused_resend;

	/* time */
	int64		connect_ms;		/* limits; 0: none */
	int64		limit_ms;
	bool		by_stall;		/* limit counts from the last progress */
	int64		counts_from;	/* ms */
	bool		connected;		/* TLS and all */
	int			fd;				/* the last socket opened for it, or -1 */
	curl_off_t	seen_up;
	curl_off_t	seen_down;

	/* the reply */
	int			status;
	int64		retry_after_ms;
	bool		retry_after_exact;	/* it came in milliseconds */
	char		kept[2048];		/* headers that providers read: llmb_http_headers() */
	size_t		kept_len;
	size_t		header_bytes;
	bool		headers_ended;
	bool		lines;
	size_t		reply_cap;
	char	   *buf;			/* malloc'd */
	size_t		room;
	size_t		head;			/* taken so far */
	size_t		whole;			/* end of the last whole line */
	size_t		len;
	bool		paused;
	bool		told;			/* the pause was reported */

	/* how it ended */
	CURLcode	result;
	const char *phase;
	int64		sent_up;
	bool		head_sent;
	long		os_errno;
	char		reason[160];	/* ours, when a callback gave up */
	char		detail[CURL_ERROR_SIZE];
	char	   *error;
};

static bool initialized = false;
static MemoryContext HttpContext = NULL;
static Pool pools[POOL_COUNT];
static dlist_head flying = DLIST_STATIC_INIT(flying);
static dlist_head finished = DLIST_STATIC_INIT(finished);
static int	flying_count = 0;

static Watch *watches = NULL;
static int	watch_count = 0;
static int	watch_room = 0;
static int	open_sockets = 0;

/*
 * The wait set is built anew when the sockets changed since the last wait,
 * and kept otherwise: one upload of 200 MB waits hundreds of times on one
 * and the same socket.  A set half built by an error is freed by the next.
 */
static WaitEventSet *wait_set = NULL;
static bool wait_set_stale = true;

/* When we last left llmb_http_wait(); see excuse_absence(). */
static int64 left_at = 0;

static int	set_timer(CURLM *multi, long timeout_ms, void *arg);
static int	watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
						 void *socket_arg);
static void finish(LlmbTransfer *t, CURLcode result);


/* ---------------------------------------------------------------- basics */

/* Milliseconds of a clock that is never set back. */
static int64
clock_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * SIGQUIT is not in BlockSig, but belongs to the main thread as much as the
 * others.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t	mask = BlockSig;

	sigaddset(&mask, SIGQUIT);
	sigprocmask(SIG_SETMASK, &mask, saved);
}

static void
unblock_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/* fd.c lets foreign descriptors have a third; wait sets need some too. */
static long
sockets_allowed(void)
{
	return Max(max_safe_fds / 3 - SPARE_DESCRIPTORS, 4);
}

int
llmb_http_capacity(void)
{
	return (int) sockets_allowed();
}

/* A reply with status 200 of which the caller wants lines? */
static bool
is_stream(const LlmbTransfer *t)
{
	return t->lines && t->status == 200;
}

/*
 * How many connections it keeps is left to libcurl: four times the transfers
 * in flight, so a burst keeps all of its own, and a quiet time few.  (With a
 * fixed number below the concurrency it would open one per request: 3,000
 * requests a second instead of 17,000.)  When as many are open as may be, it
 * closes an idle one, or lets a transfer wait for its turn.
 */
static void
make_pool(Pool *pool)
{
	pool->timer = -1;
	pool->multi = curl_multi_init();
	if (pool->multi == NULL ||
		curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, watch_socket) != CURLM_OK ||
		curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool) != CURLM_OK ||
		curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, set_timer) != CURLM_OK ||
		curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool) != CURLM_OK ||
		curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, sockets_allowed()) != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
}

/*
 * In the worker, never in the postmaster: what libcurl and its TLS library
 * set up must not be inherited by every backend.
 */
void
llmb_http_init(void)
{
	curl_version_info_data *version;

	if (initialized)
		return;

	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not initialize libcurl")));

	version = curl_version_info(CURLVERSION_NOW);
	if ((version->features & CURL_VERSION_ASYNCHDNS) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("libcurl %s cannot look up names without blocking",
						version->version),
				 errhint("Use a libcurl that was built with the threaded resolver or with c-ares.")));

	if (HttpContext == NULL)
		HttpContext = AllocSetContextCreate(TopMemoryContext,
											"llm_batch HTTP",
											ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < POOL_COUNT; i++)
	{
		if (pools[i].multi == NULL)
			make_pool(&pools[i]);
	}
	initialized = true;
}


/* --------------------------------------------- what libcurl asks us to do */

/* Timer callback: store a time. */
static int
set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	Pool	   *pool = (Pool *) arg;

	(void) multi;
	if (timeout_ms < 0)
		pool->timer = -1;
	else if (timeout_ms == 0)
		pool->timer = clock_ms();
	else
	{
		/*
		 * One more because our clock is cut to whole milliseconds: libcurl
		 * does not set a timer again that we answered too early.
		 */
		pool->timer = clock_ms() + timeout_ms + 1;
	}
	return 0;
}

static int
find_watch(curl_socket_t fd)
{
	for (int i = 0; i < watch_count; i++)
	{
		if (watches[i].fd == fd)
			return i;
	}
	return -1;
}

/* Makes room for so many watches; false if there is no memory. */
static bool
reserve_watches(int count)
{
	Watch	   *larger;

	if (count <= watch_room)
		return true;
	count = Max(count, watch_room * 2);
	larger = realloc(watches, count * sizeof(Watch));
	if (larger == NULL)
		return false;
	watches = larger;
	watch_room = count;
	return true;
}

/* Socket callback: edit the array. */
static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
			 void *socket_arg)
{
	int			i = find_watch(fd);
	uint32		events = 0;

	(void) easy;
	(void) socket_arg;

	if (what == CURL_POLL_REMOVE)
	{
		if (i >= 0)
			watches[i] = watches[--watch_count];
		wait_set_stale = true;
		return 0;
	}

	if (i < 0)
	{
		/* llmb_http_start() made room; more is never needed in practice */
		if (!reserve_watches(watch_count + 1))
			return -1;
		i = watch_count++;
		watches[i].fd = fd;
		watches[i].events = 0;
	}
	watches[i].pool = (Pool *) arg;
	if (what & CURL_POLL_IN)
		events |= WL_SOCKET_READABLE;
	if (what & CURL_POLL_OUT)
		events |= WL_SOCKET_WRITEABLE;
	if (watches[i].events != events)
		wait_set_stale = true;
	watches[i].events = events;
	return 0;
}

/* What is wrong with an IPv4 address for those who may not go everywhere? */
static const char *
refused_ipv4(uint32 address)
{
	if ((address >> 24) == 127)
		return "loopback";
	if ((address >> 24) == 0)
		return "loopback";		/* "this host" */
	if ((address >> 16) == 0xA9FE)
		return "link-local";	/* 169.254: metadata services of clouds */
	return NULL;
}

static const char *
refused_address(const struct sockaddr *sa)
{
	if (sa->sa_family == AF_INET)
		return refused_ipv4(ntohl(((const struct sockaddr_in *) sa)->sin_addr.s_addr));
	if (sa->sa_family == AF_INET6)
	{
		const struct in6_addr *a = &((const struct sockaddr_in6 *) sa)->sin6_addr;
		uint32		last;

		memcpy(&last, &a->s6_addr[12], sizeof(last));
		if (IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a))
			return "loopback";
		if (IN6_IS_ADDR_LINKLOCAL(a))
			return "link-local";
		if (IN6_IS_ADDR_V4MAPPED(a) || IN6_IS_ADDR_V4COMPAT(a))
			return refused_ipv4(ntohl(last));
		return NULL;
	}
	return "strange";
}

static void
note_refusal(LlmbTransfer *t, const struct sockaddr *sa, const char *kind)
{
	char		text[INET6_ADDRSTRLEN] = "?";

	if (sa->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *) sa)->sin_addr,
				  text, sizeof(text));
	else if (sa->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) sa)->sin6_addr,
				  text, sizeof(text));
	snprintf(t->reason, sizeof(t->reason),
			 "address %s is a %s address; only a superuser may make a server that uses one",
			 text, kind);
}

/*
 * Opens a socket, or refuses to.  This is the place for the guard: here the
 * name was looked up, so no trick with names gets past it.  With a proxy the
 * address is the proxy's, which a superuser chose.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;
	const char *kind;
	int			fd;

	(void) purpose;
	if (t->guarded && (kind = refused_address(&address->addr)) != NULL)
	{
		note_refusal(t, &address->addr, kind);
		return CURL_SOCKET_BAD;
	}

	/* libcurl counts too, but for each pool alone, and connections only */
	if (open_sockets >= sockets_allowed() || !AcquireExternalFD())
	{
		snprintf(t->reason, sizeof(t->reason),
				 "too many sockets are open (%d)", open_sockets);
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype, address->protocol);
	if (fd < 0)
	{
		ReleaseExternalFD();
		return CURL_SOCKET_BAD;
	}

	/* a program that a trigger starts must not inherit it */
	(void) fcntl(fd, F_SETFD, FD_CLOEXEC);
	open_sockets++;
	t->fd = fd;
	return fd;
}

static int
close_socket(void *arg, curl_socket_t fd)
{
	(void) arg;					/* its transfer may be long gone */
	open_sockets--;
	ReleaseExternalFD();
	return close(fd);
}

/* Fills buf from the request file; -1, with a reason, when it cannot. */
static ssize_t
give_file(LlmbTransfer *t, char *buf, size_t size)
{
	ssize_t		n = t->file(t->file_arg, buf, size, false);

	if (n > 0 && (size_t) n <= size)
		return n;
	strlcpy(t->reason,
			n == 0 ? "the request file is shorter than announced" :
			"the request file could not be read",
			sizeof(t->reason));
	return -1;
}

/* Read callback: body, then file, then after. */
static size_t
give_body(char *buf, size_t size, size_t nitems, void *arg)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;
	size_t		room = size * nitems;
	size_t		filled = 0;

	while (filled < room && t->given < t->total)
	{
		int64		file_end = t->body_len + t->file_len;
		int64		left;
		ssize_t		n;

		if (t->given < t->body_len)
			left = t->body_len - t->given;
		else if (t->given < file_end)
			left = file_end - t->given;
		else
			left = t->total - t->given;
		n = (ssize_t) Min(left, (int64) (room - filled));

		if (t->given < t->body_len)
			memcpy(buf + filled, t->body + t->given, n);
		else if (t->given < file_end)
			n = give_file(t, buf + filled, n);
		else
			memcpy(buf + filled, t->after + (t->given - file_end), n);
		if (n < 0)
			return CURL_READFUNC_ABORT;
		filled += n;
		t->given += n;
	}
	if (t->given == t->total)
		t->wholly_given = true;
	return filled;
}

/*
 * Seek callback.  libcurl rewinds in order to send once more, on another
 * connection, a request to which a kept connection did not answer.  Had the
 * server all of it, it may be at work (and charge for it) already, so that is
 * for the caller to decide.
 */
static int
rewind_body(void *arg, curl_off_t offset, int origin)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;

	if (origin != SEEK_SET || offset != 0)
		return CURL_SEEKFUNC_FAIL;
	if (t->wholly_given)
	{
		t->refused_resend = true;
		strlcpy(t->reason,
				"the connection was lost after the whole request had been sent",
				sizeof(t->reason));
		return CURL_SEEKFUNC_FAIL;
	}
	if (t->file != NULL && t->file(t->file_arg, NULL, 0, true) < 0)
	{
		strlcpy(t->reason, "the request file could not be read again",
				sizeof(t->reason));
		return CURL_SEEKFUNC_FAIL;
	}
	t->given = 0;
	return CURL_SEEKFUNC_OK;
}

/*
 * Progress callback: what moved resets the clock of a stall, unless it is so
 * little that somebody only wants to keep us.
 */
static int
see_progress(void *arg, curl_off_t down_total, curl_off_t down,
			 curl_off_t up_total, curl_off_t up)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;

	(void) down_total;
	(void) up_total;
	if (down - t->seen_down + up - t->seen_up >= LEAST_PROGRESS)
	{
		t->seen_down = down;
		t->seen_up = up;
		if (t->by_stall)
			t->counts_from = clock_ms();
	}
	if (t->name && !t->told_sent && t->total > 0 && up >= t->total)
	{
		t->told_sent = true;
		llmb_crash_point_in_callback(t->name, "sent");
	}
	return 0;
}

/* Value of a header line if it is the named one, else NULL. */
static const char *
header_value(const char *line, const char *name)
{
	size_t		len = strlen(name);

	if (pg_strncasecmp(line, name, len) != 0 || line[len] != ':')
		return NULL;
	line += len + 1;
	while (*line == ' ' || *line == '\t')
		line++;
	return line;
}

/* A non-negative number in plain decimals, or -1. */
static double
plain_number(const char *text)
{
	const char *end = text + strspn(text, "0123456789.");
	char	   *read_to;
	double		value = strtod(text, &read_to);

	/* strtod() would also take "0x10", "1e9" and "nan" */
	if (read_to != end || end == text)
		return -1;
	return end[strspn(end, " \t\r\n")] == '\0' && !isinf(value) ? value : -1;
}

/*
 * "120", or "Wed, 21 Oct 2026 07:28:00 GMT"; milliseconds win over both.
 * Limits are of a minute or of a day: what asks for more than a day is a slip,
 * or malice, and our own backoff is the better answer to it.
 */
static void
note_retry_after(LlmbTransfer *t, const char *line)
{
	const double longest = 24.0 * 3600 * 1000;
	const char *value;
	double		ms = -1;

	if ((value = header_value(line, "retry-after-ms")) != NULL)
	{
		ms = plain_number(value);
		if (ms >= 0)
			t->retry_after_exact = true;
	}
	else if (!t->retry_after_exact &&
			 (value = header_value(line, "retry-after")) != NULL)
	{
		ms = plain_number(value);
		if (ms >= 0)
			ms *= 1000;
		else
		{
			time_t		at = curl_getdate(value, NULL);

			if (at != (time_t) -1)
				ms = Max(0.0, difftime(at, time(NULL)) * 1000);
		}
	}
	if (ms >= 0 && ms <= longest)
		t->retry_after_ms = (int64) ms;
}

/* A new status line: what was noted before belonged to an interim reply. */
static void
note_status(LlmbTransfer *t, const char *line)
{
	const char *p = strchr(line, ' ');
	int			status = p ? atoi(p) : 0;

	t->status = (status >= 200 && status <= 999) ? status : 0;
	t->headers_ended = false;
	t->retry_after_ms = -1;
	t->retry_after_exact = false;
	t->kept_len = 0;
	t->kept[0] = '\0';
}

/* Keeps "name: value" of what providers read, if there is room for it. */
static void
keep_header(LlmbTransfer *t, const char *data, size_t n)
{
	static const char *const wanted[] = {
		"x-ratelimit-", "anthropic-ratelimit-", "x-goog-upload-url:", "x-request-id:", "request-id:",
		"x-should-retry:"
	};
	size_t		name_len = 0;

	while (n > 0 && (data[n - 1] == '\r' || data[n - 1] == '\n'))
		n--;
	for (int i = 0; i < (int) lengthof(wanted); i++)
	{
		size_t		len = strlen(wanted[i]);

		if (n > len && pg_strncasecmp(data, wanted[i], len) == 0)
		{
			name_len = (const char *) memchr(data, ':', n) ? (const char *) memchr(data, ':', n) - data : 0;
			break;
		}
	}
	if (name_len == 0 || t->kept_len + n + 3 > sizeof(t->kept) || memchr(data, '\0', n))
		return;
	for (size_t i = 0; i < name_len; i++)
		t->kept[t->kept_len++] = pg_tolower((unsigned char) data[i]);
	data += name_len + 1;
	n -= name_len + 1;
	while (n > 0 && (*data == ' ' || *data == '\t'))
	{
		data++;
		n--;
	}
	memcpy(t->kept + t->kept_len, ": ", 2);
	memcpy(t->kept + t->kept_len + 2, data, n);
	t->kept_len += n + 2;
	t->kept[t->kept_len++] = '\n';
	t->kept[t->kept_len] = '\0';
}

#define COMPRESSED_UNASKED	"the reply is compressed, although that was not asked for"

/* Only "identity" and "chunked" leave a body what it is. */
static bool
is_plain_encoding(const char *value)
{
	size_t		len = strcspn(value, " \t\r\n");

	return value[len + strspn(value + len, " \t\r\n")] == '\0' &&
		((len == 8 && pg_strncasecmp(value, "identity", 8) == 0) ||
		 (len == 7 && pg_strncasecmp(value, "chunked", 7) == 0));
}

/* Header callback, called with one whole line that has no NUL at its end. */
static size_t
take_header(char *data, size_t size, size_t nitems, void *arg)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;
	size_t		n = size * nitems;
	char		line[128];
	const char *value;

	t->header_bytes += n;
	if (t->header_bytes > HEADERS_CAP)
	{
		snprintf(t->reason, sizeof(t->reason),
				 "the headers of the reply have no end (more than %d bytes)",
				 HEADERS_CAP);
		return 0;
	}
	memcpy(line, data, Min(n, sizeof(line) - 1));
	line[Min(n, sizeof(line) - 1)] = '\0';

	/* a reply that begins has moved; one that drips headers has not */
	if (t->by_stall && strncmp(line, "HTTP/", 5) == 0)
		t->counts_from = clock_ms();

	if (strncmp(line, "HTTP/", 5) == 0)
		note_status(t, line);
	else if (line[0] == '\r' || line[0] == '\n')
		t->headers_ended = true;
	else if ((value = header_value(line, "content-encoding")) != NULL ||
			 (value = header_value(line, "transfer-encoding")) != NULL)
	{
		/* we ask for none, and what may have no end is not unpacked, which libcurl would do */
		if (!is_plain_encoding(value))
		{
			strlcpy(t->reason, COMPRESSED_UNASKED, sizeof(t->reason));
			return 0;
		}
	}
	else
	{
		note_retry_after(t, line);
		keep_header(t, data, n);
	}
	return n;
}

/* Appends to the reply; false, with a reason, if there is no memory. */
static bool
append(LlmbTransfer *t, const char *data, size_t n)
{
	if (t->len + n + 1 > t->room && t->head > 0)
	{
		memmove(t->buf, t->buf + t->head, t->len - t->head);
		t->len -= t->head;
		t->whole -= t->head;
		t->head = 0;
	}
	if (t->len + n + 1 > t->room)
	{
		size_t		room = Max(t->room * 2, t->len + n + 1);
		char	   *larger = realloc(t->buf, room);

		if (larger == NULL)
		{
			strlcpy(t->reason, "there is no memory for the reply",
					sizeof(t->reason));
			return false;
		}
		t->buf = larger;
		t->room = room;
	}
	memcpy(t->buf + t->len, data, n);
	t->len += n;
	t->buf[t->len] = '\0';
	return true;
}

/* Moves the end of the whole lines; false, with a reason, if one is too long. */
static bool
count_lines(LlmbTransfer *t, size_t from)
{
	char	   *newline;
	char	   *end;

	while ((newline = memchr(t->buf + from, '\n', t->len - from)) != NULL &&
		   newline - (t->buf + t->whole) <= (ptrdiff_t) t->reply_cap)
		from = t->whole = newline + 1 - t->buf;

	end = newline ? newline : t->buf + t->len;
	if (end - (t->buf + t->whole) > (ptrdiff_t) t->reply_cap)
	{
		snprintf(t->reason, sizeof(t->reason),
				 "a line of the reply is larger than %zu bytes", t->reply_cap);
		return false;
	}
	return true;
}

/*
 * Write callback.  A stream is paused before more is taken, never after:
 * libcurl delivers again what it was told to keep.
 */
static size_t
take_reply(char *data, size_t size, size_t nitems, void *arg)
{
	LlmbTransfer *t = (LlmbTransfer *) arg;
	size_t		n = size * nitems;

	if (is_stream(t))
	{
		if (t->whole - t->head >= LINES_ENOUGH)
		{
			t->paused = true;
			t->told = false;
			return CURL_WRITEFUNC_PAUSE;
		}
		if (!append(t, data, n) || !count_lines(t, t->len - n))
			return 0;
	}
	else
	{
		size_t		cap = t->lines ? ERROR_BODY_CAP : t->reply_cap;

		if (n > cap || t->len > cap - n)
		{
			snprintf(t->reason, sizeof(t->reason),
					 "the reply is larger than %zu bytes", cap);
			return 0;
		}
		if (!append(t, data, n))
			return 0;
	}
	return n;
}


/* ------------------------------------------------------ starting, ending */

/*
 * Copies the request.  The context is the caller's child until nothing can
 * be thrown any more, so that an error cleans up.
 */
static LlmbTransfer *
copy_request(const LlmbHttpRequest *r)
{
	MemoryContext context;
	LlmbTransfer *t;

	context = AllocSetContextCreate(CurrentMemoryContext,
									"llm_batch transfer",
									ALLOCSET_SMALL_SIZES);
	t = MemoryContextAllocZero(context, sizeof(LlmbTransfer));
	t->context = context;
	t->url = MemoryContextStrdup(context, r->url);
	t->proxied = r->proxy != NULL && r->proxy[0] != '\0';
	t->guarded = !r->allow_loopback && !t->proxied;
	t->pool = &pools[r->allow_loopback ? POOL_FREE : POOL_GUARDED];
	t->owner = r->owner;
	t->name = r->name;
	if (r->body != NULL && r->body_len > 0)
	{
		t->body_len = r->body_len;
		t->body = MemoryContextAllocHuge(context, r->body_len);
		memcpy(t->body, r->body, r->body_len);
	}
	if (r->file != NULL)
	{
		t->file = r->file;
		t->file_arg = r->file_arg;
		t->file_len = r->file_len;
	}
	if (r->after != NULL)
	{
		t->after = MemoryContextStrdup(context, r->after);
		t->after_len = strlen(r->after);
	}
	t->total = t->body_len + t->file_len + t->after_len;
	t->lines = r->lines;
	t->reply_cap = r->reply_cap;
	t->by_stall = r->lines || r->file != NULL;
	t->connect_ms = Max(r->connect_timeout_ms, 0);
	t->limit_ms = Max(r->request_timeout_ms, 0);
	t->fd = -1;
	t->retry_after_ms = -1;
	t->phase = "before the connection";
	return t;
}

static bool
add_header(LlmbTransfer *t, const char *header)
{
	struct curl_slist *longer = curl_slist_append(t->headers, header);

	if (longer == NULL)
		return false;
	t->headers = longer;
	return true;
}

/*
 * The caller's headers and ours: no "Expect: 100-continue", which costs a
 * second with servers that do not know it; no compression; and no content
 * type of libcurl's own invention.
 */
static CURLcode
add_headers(LlmbTransfer *t, const LlmbHttpRequest *r)
{
	bool		typed = false;

	for (int i = 0; i < r->header_count; i++)
	{
		if (strpbrk(r->headers[i], "\r\n") != NULL)
		{
			strlcpy(t->reason, "a header of the request holds a line break",
					sizeof(t->reason));
			return CURLE_BAD_FUNCTION_ARGUMENT;
		}
		if (header_value(r->headers[i], "content-type") != NULL)
			typed = true;
		if (!add_header(t, r->headers[i]))
			return CURLE_OUT_OF_MEMORY;
	}
	if (!add_header(t, "Expect:") ||
		!add_header(t, "Accept-Encoding: identity") ||
		(!typed && !add_header(t, "Content-Type:")))
		return CURLE_OUT_OF_MEMORY;
	return CURLE_OK;
}

#define SET(option, value) \
	do { \
		if (rc == CURLE_OK) \
			rc = curl_easy_setopt(t->easy, (option), (value)); \
	} while (0)

/* Where to, and by which rules. */
static CURLcode
prepare_connection(LlmbTransfer *t, const LlmbHttpRequest *r)
{
	CURLcode	rc = CURLE_OK;

	SET(CURLOPT_URL, t->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif

	/*
	 * One transfer has one connection: a paused stream then stops its sender
	 * by TCP alone, where HTTP/2 would buffer a window of megabytes for it,
	 * and one broken connection breaks one transfer.
	 */
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);

	/* headers with keys must not follow a redirect to another host */
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (r->ca_file != NULL)
	{
		SET(CURLOPT_CAINFO, r->ca_file);
		SET(CURLOPT_CAPATH, NULL);	/* this authority, and no other */
	}

	/* "" keeps the environment of the postmaster out of it */
	SET(CURLOPT_PROXY, r->proxy ? r->proxy : "");
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);

	/* we keep this time too; libcurl divides it among a name's addresses */
	if (t->connect_ms > 0)
		SET(CURLOPT_CONNECTTIMEOUT_MS, (long) Min(t->connect_ms + 1000, INT_MAX));
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, t);
	SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	if (rc == CURLE_OK)
		(void) curl_easy_setopt(t->easy, CURLOPT_QUICK_EXIT, 1L);
	return rc;
}

/*
 * Method and body.  All bodies go through the read callback, also those that
 * lie in memory, because libcurl asks before it sends one again (see
 * rewind_body).  For a request without a body it does not ask; of these, all
 * but GET and HEAD get a new connection, where it has no reason to repeat.
 */
static CURLcode
prepare_request(LlmbTransfer *t, const LlmbHttpRequest *r)
{
	CURLcode	rc = CURLE_OK;
	bool		get = strcmp(r->method, "GET") == 0;
	bool		head = strcmp(r->method, "HEAD") == 0;
	bool		has_body = t->total > 0;

	if (has_body || strcmp(r->method, "POST") == 0 ||
		strcmp(r->method, "PUT") == 0 || strcmp(r->method, "PATCH") == 0)
	{
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->total);
		if (!has_body)
			SET(CURLOPT_POSTFIELDS, "");	/* Content-Length: 0 */
		if (strcmp(r->method, "POST") != 0)
			SET(CURLOPT_CUSTOMREQUEST, r->method);
	}
	else if (head)
		SET(CURLOPT_NOBODY, 1L);
	else
	{
		SET(CURLOPT_HTTPGET, 1L);
		if (!get)
			SET(CURLOPT_CUSTOMREQUEST, r->method);
	}

	if (has_body)
	{
		SET(CURLOPT_READFUNCTION, give_body);
		SET(CURLOPT_READDATA, t);
		SET(CURLOPT_SEEKFUNCTION, rewind_body);
		SET(CURLOPT_SEEKDATA, t);
		SET(CURLOPT_MAXAGE_CONN, FRESH_ENOUGH_SECONDS);
	}
	else if (!get && !head)
		SET(CURLOPT_FRESH_CONNECT, 1L);
	if (t->file != NULL)
		SET(CURLOPT_UPLOAD_BUFFERSIZE,
			pg_strncasecmp(t->url, "https", 5) == 0 ? UPLOAD_BUFFER_TLS : UPLOAD_BUFFER);
	SET(CURLOPT_HTTPHEADER, t->headers);
	return rc;
}

/*
 * What comes back.  No time limit is given to libcurl: it would give up on a
 * transfer whose reply lies ready in the socket when all that was late was
 * us, and to tell a stall it would wake us every second.  See end_overdue().
 */
static CURLcode
prepare_reply(LlmbTransfer *t)
{
	CURLcode	rc = CURLE_OK;

	SET(CURLOPT_PRIVATE, t);
	SET(CURLOPT_ERRORBUFFER, t->detail);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, t);
	SET(CURLOPT_WRITEFUNCTION, take_reply);
	SET(CURLOPT_WRITEDATA, t);
	if (t->lines)
		SET(CURLOPT_BUFFERSIZE, DOWNLOAD_BUFFER);
	if (t->by_stall || llmb_crash_file != NULL)
	{
		SET(CURLOPT_NOPROGRESS, 0L);
		SET(CURLOPT_XFERINFOFUNCTION, see_progress);
		SET(CURLOPT_XFERINFODATA, t);
	}
	return rc;
}

#undef SET

static void
drop(LlmbTransfer *t)
{
	sigset_t	saved;

	block_signals(&saved);
	curl_easy_cleanup(t->easy);
	unblock_signals(&saved);
	curl_slist_free_all(t->headers);
	free(t->buf);
	MemoryContextDelete(t->context);
}

LlmbTransfer *
llmb_http_start(const LlmbHttpRequest *request)
{
	LlmbTransfer *t = copy_request(request);
	CURLcode	rc;
	sigset_t	saved;

	Assert(initialized);

	/* a connecting transfer has two sockets at most, its lookup one */
	t->easy = curl_easy_init();
	if (t->easy == NULL || !reserve_watches(4 * (flying_count + 1) + 16))
	{
		drop(t);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while starting an HTTP request.")));
	}

	MemoryContextSetParent(t->context, HttpContext);
	t->place = IN_FLIGHT;
	t->counts_from = clock_ms();
	dlist_push_tail(&flying, &t->node);
	flying_count++;

	if ((rc = add_headers(t, request)) == CURLE_OK &&
		(rc = prepare_connection(t, request)) == CURLE_OK &&
		(rc = prepare_request(t, request)) == CURLE_OK &&
		(rc = prepare_reply(t)) == CURLE_OK)
	{
		block_signals(&saved);
		if (curl_multi_add_handle(t->pool->multi, t->easy) != CURLM_OK)
			rc = CURLE_OUT_OF_MEMORY;
		unblock_signals(&saved);
	}

	/* bad arguments are the transfer's fault, not the caller's */
	if (rc != CURLE_OK)
		finish(t, rc);
	return t;
}

/* Has the connecting ended, and the exchange begun? */
static bool
is_connected(LlmbTransfer *t)
{
	curl_off_t	ready = 0;

	if (!t->connected &&
		curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &ready) == CURLE_OK &&
		ready > 0)
	{
		t->connected = true;
		if (t->by_stall)
			t->counts_from = clock_ms();
	}
	return t->connected;
}

/*
 * In which phase is it?  Only for words.  Some versions of libcurl do not
 * tell when TCP alone is connected, so we ask the socket.
 */
static const char *
current_phase(LlmbTransfer *t)
{
	struct sockaddr_storage address;
	socklen_t	len = sizeof(address);
	curl_off_t	looked_up = 0;

	if (t->status > 0)
		return "receiving the reply";
	if (is_connected(t))
		return t->sent_up < t->total ? "sending the request" : "waiting for the reply";
	curl_easy_getinfo(t->easy, CURLINFO_NAMELOOKUP_TIME_T, &looked_up);
	if (looked_up == 0)
		return "looking up the name";
	if (t->fd < 0 || getpeername(t->fd, (struct sockaddr *) &address, &len) != 0)
		return "connecting";
	return t->proxied ? "setting up the connection through the proxy" : "setting up TLS";
}

/* Takes a transfer out of its pool and notes all that will be asked. */
static void
finish(LlmbTransfer *t, CURLcode result)
{
	curl_off_t	up = 0;
	long		request_size = 0;
	sigset_t	saved;

	Assert(t->place == IN_FLIGHT);
	curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &up);
	curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &request_size);
	curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &t->os_errno);
	t->result = result;
	t->sent_up = up;
	t->head_sent = request_size > 0;
	t->phase = current_phase(t);
	t->paused = false;

	block_signals(&saved);
	(void) curl_multi_remove_handle(t->pool->multi, t->easy);
	unblock_signals(&saved);

	dlist_delete(&t->node);
	flying_count--;
	dlist_push_tail(&finished, &t->node);
	t->place = FINISHED;
}

void
llmb_http_free(LlmbTransfer *t)
{
	if (t->place == IN_FLIGHT)
		finish(t, CURLE_ABORTED_BY_CALLBACK);
	if (t->place == FINISHED)
		dlist_delete(&t->node);
	drop(t);
}


/* -------------------------------------------------------------- the wait */

/*
 * Time that the caller spent elsewhere, in a transaction of ours for example,
 * is not held against the servers.
 */
static void
excuse_absence(int64 now)
{
	int64		gap = now - left_at;
	dlist_iter	iter;

	if (gap <= 0)
		return;
	dlist_foreach(iter, &flying)
	{
		LlmbTransfer *t = dlist_container(LlmbTransfer, node, iter.cur);

		t->counts_from = Min(now, t->counts_from + gap);
	}
}

/* Is there something that llmb_http_next() has not told yet? */
static bool
have_news(void)
{
	dlist_iter	iter;

	if (!dlist_is_empty(&finished))
		return true;
	dlist_foreach(iter, &flying)
	{
		LlmbTransfer *t = dlist_container(LlmbTransfer, node, iter.cur);

		if (t->paused && !t->told)
			return true;
	}
	return false;
}

/* The earlier of two times, -1 being never. */
static int64
earlier(int64 a, int64 b)
{
	if (a < 0 || b < 0)
		return Max(a, b);
	return Min(a, b);
}

/*
 * When must this transfer have connected, moved, or ended?  -1: never.  A
 * small exchange has that long in all.  One with a file or lines has it for
 * each silence, the one before the reply's first byte included, but none
 * while it is paused: then it is us who are slow.
 */
static int64
due_time(LlmbTransfer *t)
{
	int64		due = -1;

	if (t->paused)
		return -1;
	if (t->connect_ms > 0 && !is_connected(t))
		due = t->counts_from + t->connect_ms;
	if (t->limit_ms > 0)
		due = earlier(due, t->counts_from + t->limit_ms);
	return due;
}

/* How long may we sleep?  In the form that WaitEventSetWait() likes. */
static long
sleep_time(int64 until)
{
	int64		now = clock_ms();
	dlist_iter	iter;

	if (have_news())
		return 0;
	for (int i = 0; i < POOL_COUNT; i++)
		until = earlier(until, pools[i].timer);
	dlist_foreach(iter, &flying)
	{
		LlmbTransfer *t = dlist_container(LlmbTransfer, node, iter.cur);

		until = earlier(until, due_time(t));
	}
	if (until < 0)
		return -1;
	return (long) Min(Max(until - now, 0), INT_MAX);
}

static void
build_wait_set(void)
{
	WaitEventSet *old = wait_set;
	MemoryContext caller;

	if (old != NULL && !wait_set_stale)
		return;
	wait_set_stale = true;
	wait_set = NULL;
	if (old != NULL)
		FreeWaitEventSet(old);

	caller = MemoryContextSwitchTo(HttpContext);
	wait_set = llmb_create_wait_event_set(watch_count + 2);
	MemoryContextSwitchTo(caller);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	for (int i = 0; i < watch_count; i++)
	{
		if (watches[i].events != 0)
			AddWaitEventToSet(wait_set, watches[i].events, watches[i].fd, NULL, NULL);
	}
	wait_set_stale = false;
}

/* Sleeps; returns the number of events in ready, and whether we were woken. */
static int
sleep_once(long timeout, WaitEvent *ready, bool *woken)
{
	bool		latched = false;
	uint32		event = flying_count > 0 ? llmb_wait_event_network() : llmb_wait_event_main();
	int			n;

	n = WaitEventSetWait(wait_set, timeout, ready, READY_MAX, event);
	for (int i = 0; i < n; i++)
		latched |= (ready[i].events & WL_LATCH_SET) != 0;
	if (latched)
	{
		*woken = true;
		ResetLatch(MyLatch);

		/* a latch that is set hides the sockets from older versions */
		if (n == 1)
			n = WaitEventSetWait(wait_set, 0, ready, READY_MAX, event);
	}
	return n;
}

/* Runs libcurl for a socket, or for its timers. */
static void
run_curl(Pool *pool, curl_socket_t fd, int what)
{
	CURLMcode	rc;
	int			running;
	sigset_t	saved;

	block_signals(&saved);
	rc = curl_multi_socket_action(pool->multi, fd, what, &running);
	unblock_signals(&saved);

	/* no transfer's fault; it is of no use after that, so start afresh */
	if (rc != CURLM_OK)
		ereport(FATAL,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("libcurl failed: %s", curl_multi_strerror(rc))));
}

/*
 * While one socket is served libcurl may close others, and open new ones with
 * their numbers.  The first are skipped; for the second a call too many does
 * no harm, as no socket of libcurl's blocks.
 */
static void
serve_sockets(const WaitEvent *ready, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			what = 0;
		int			watch;

		if (ready[i].events & WL_SOCKET_READABLE)
			what |= CURL_CSELECT_IN;
		if (ready[i].events & WL_SOCKET_WRITEABLE)
			what |= CURL_CSELECT_OUT;
		if (what == 0 || (watch = find_watch(ready[i].fd)) < 0)
			continue;
		run_curl(watches[watch].pool, ready[i].fd, what);
	}
}

static void
serve_timers(void)
{
	for (int i = 0; i < POOL_COUNT; i++)
	{
		Pool	   *pool = &pools[i];

		if (pool->timer < 0 || pool->timer > clock_ms())
			continue;
		pool->timer = -1;
		run_curl(pool, CURL_SOCKET_TIMEOUT, 0);
	}
}

static void
collect_finished(void)
{
	for (int i = 0; i < POOL_COUNT; i++)
	{
		CURLMsg    *message;
		int			left;

		while ((message = curl_multi_info_read(pools[i].multi, &left)) != NULL)
		{
			CURLcode	result = message->data.result;
			char	   *t = NULL;

			if (message->msg != CURLMSG_DONE)
				continue;
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
			finish((LlmbTransfer *) t, result);
		}
	}
}

/* Ends what took too long.  Last, when all that was readable has been read. */
static void
end_overdue(void)
{
	int64		now = clock_ms();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &flying)
	{
		LlmbTransfer *t = dlist_container(LlmbTransfer, node, iter.cur);
		int64		due = due_time(t);

		if (due < 0 || due > now)
			continue;
		finish(t, CURLE_OPERATION_TIMEDOUT);
	}
}

bool
llmb_http_wait(long timeout_ms)
{
	int64		until = timeout_ms < 0 ? -1 : clock_ms() + timeout_ms;
	bool		woken = false;

	Assert(initialized);
	Assert(!IsTransactionState());

	excuse_absence(clock_ms());
	do
	{
		WaitEvent	ready[READY_MAX];
		int			n;

		build_wait_set();
		n = sleep_once(sleep_time(until), ready, &woken);
		CHECK_FOR_INTERRUPTS();
		serve_sockets(ready, n);
		serve_timers();
		collect_finished();
		end_overdue();
		left_at = clock_ms();
	} while (!woken && !have_news() && (until < 0 || left_at < until));
	return woken;
}

bool
llmb_http_busy(void)
{
	return flying_count > 0 || !dlist_is_empty(&finished);
}

int
llmb_http_count(void)
{
	return flying_count;
}

LlmbHttpEvent
llmb_http_next(LlmbTransfer **transfer)
{
	dlist_iter	iter;

	*transfer = NULL;
	if (!dlist_is_empty(&finished))
	{
		*transfer = dlist_container(LlmbTransfer, node,
									dlist_pop_head_node(&finished));
		(*transfer)->place = HANDED_OUT;
		return LLMB_HTTP_DONE;
	}
	dlist_foreach(iter, &flying)
	{
		LlmbTransfer *t = dlist_container(LlmbTransfer, node, iter.cur);

		if (t->paused && !t->told)
		{
			/* to the end of the list: others come first next time */
			t->told = true;
			dlist_delete(&t->node);
			dlist_push_tail(&flying, &t->node);
			*transfer = t;
			return LLMB_HTTP_LINES;
		}
	}
	return LLMB_HTTP_NOTHING;
}


/* ------------------------------------------------------------- the reply */

void *
llmb_http_owner(LlmbTransfer *t)
{
	return t->owner;
}

int
llmb_http_status(LlmbTransfer *t)
{
	return t->status;
}

const char *
llmb_http_headers(LlmbTransfer *t)
{
	return t->kept;
}

int64
llmb_http_retry_after_ms(LlmbTransfer *t)
{
	return t->retry_after_ms;
}

char *
llmb_http_body(LlmbTransfer *t, size_t *len)
{
	static char nothing[1];

	*len = t->len - t->head;
	if (t->buf == NULL)
	{
		nothing[0] = '\0';
		return nothing;
	}
	return t->buf + t->head;
}

char *
llmb_http_lines(LlmbTransfer *t, size_t *len)
{
	char	   *lines = llmb_http_body(t, len);

	if (!is_stream(t))
		*len = 0;
	else if (t->place == IN_FLIGHT || llmb_http_wire(t) != LLMB_WIRE_OK)
		*len = t->whole - t->head;
	return lines;
}

void
llmb_http_taken(LlmbTransfer *t, size_t n)
{
	CURLcode	rc;
	sigset_t	saved;

	Assert(n <= t->len - t->head);
	t->head += n;
	t->whole = Max(t->whole, t->head);
	if (t->head == t->len && t->len > 0)
	{
		t->head = t->whole = t->len = 0;
		t->buf[0] = '\0';
	}
	if (t->place != IN_FLIGHT || !t->paused)
		return;
	t->told = false;
	if (t->whole - t->head >= LINES_ENOUGH)
		return;

	/* libcurl may call back at once, and pause again */
	t->paused = false;
	t->counts_from = clock_ms();
	block_signals(&saved);
	rc = curl_easy_pause(t->easy, CURLPAUSE_CONT);
	unblock_signals(&saved);
	t->pool->timer = clock_ms();	/* run soon; some versions do not say so */

	/* it does not end the transfer itself when what it kept is refused */
	if (rc != CURLE_OK)
		finish(t, rc);
}

/*
 * How far did it get?  NOT_SENT is said only when the request cannot have
 * arrived whole; a request without a body may have as soon as a byte went.
 */
LlmbWire
llmb_http_wire(LlmbTransfer *t)
{
	bool		sent;

	/* to libcurl a connection that ends amid the headers is a whole reply */
	if (t->status > 0)
		return t->result == CURLE_OK && t->headers_ended ?
			LLMB_WIRE_OK : LLMB_WIRE_CUT;
	if (t->total == 0)
		sent = t->head_sent;
	else
		sent = t->refused_resend || (t->wholly_given && t->sent_up >= t->total);
	return sent ? LLMB_WIRE_UNANSWERED : LLMB_WIRE_NOT_SENT;
}


/* ------------------------------------------------------------- the words */

/* host:port, which may be told; the rest of a URL may not. */
static char *
peer_name(LlmbTransfer *t)
{
	CURLU	   *url = curl_url();
	char	   *host = NULL;
	char	   *port = NULL;
	char		name[300] = "the server";

	if (url != NULL &&
		curl_url_set(url, CURLUPART_URL, t->url, 0) == CURLUE_OK &&
		curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
		curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK)
		snprintf(name, sizeof(name), "%s:%s", host, port);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(url);
	return MemoryContextStrdup(t->context, name);
}

/*
 * libcurl's own words, cut and made printable.  Only for codes whose texts
 * were read and found to hold no part of request, reply, URL or proxy.
 */
static const char *
safe_detail(LlmbTransfer *t)
{
	if (t->detail[0] == '\0')
		return curl_easy_strerror(t->result);
	t->detail[200] = '\0';
	for (char *p = t->detail; *p != '\0'; p++)
	{
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
	return t->detail;
}

/*
 * Why there is no connection, as the system puts it.  Not as libcurl does:
 * the code also stands for a bad proxy, and the text then has its password.
 */
static const char *
connect_detail(LlmbTransfer *t)
{
	if (t->os_errno != 0)
		return strerror((int) t->os_errno);
	return curl_easy_strerror(t->result);
}

static char *
describe_timeout(LlmbTransfer *t, const char *peer)
{
	if (t->status == 0 && !t->connected)
		return psprintf("could not connect to %s within " INT64_FORMAT " ms (while %s)",
						peer, earlier(t->connect_ms ? t->connect_ms : -1,
									  t->limit_ms ? t->limit_ms : -1), t->phase);
	if (t->by_stall)
		return psprintf("nothing moved, or next to nothing, for " INT64_FORMAT " ms in the exchange with %s (while %s)",
						t->limit_ms, peer, t->phase);
	return psprintf("%s did not answer within " INT64_FORMAT " ms (while %s)",
					peer, t->limit_ms, t->phase);
}

static char *
describe_cut(LlmbTransfer *t, const char *peer)
{
	if (t->status > 0)
		return psprintf("the reply of %s was cut off: %s",
						peer, t->headers_ended ? safe_detail(t) : "its headers have no end");
	if (llmb_http_wire(t) == LLMB_WIRE_NOT_SENT)
		return psprintf("the connection to %s was lost while sending the request: %s",
						peer, safe_detail(t));
	return psprintf("the connection to %s was lost before a reply came: %s",
					peer, safe_detail(t));
}

static char *
describe_error(LlmbTransfer *t, const char *peer)
{
	if (t->reason[0] != '\0')
		return psprintf("exchange with %s ended: %s", peer, t->reason);
	/* libcurl since 8 may see that in a header before we do */
	if ((int) t->result == CURLE_BAD_CONTENT_ENCODING)
		return psprintf("exchange with %s ended: %s", peer, COMPRESSED_UNASKED);
	if (t->status > 0 && !t->headers_ended && t->result != CURLE_OPERATION_TIMEDOUT)
		return describe_cut(t, peer);

	switch ((int) t->result)
	{
		case CURLE_OK:
			return psprintf("%s sent no HTTP status", peer);
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_WEIRD_SERVER_REPLY:
			return psprintf("%s does not speak HTTP%s", peer,
							t->head_sent ? "" : ", or its URL is neither http nor https");
		case CURLE_COULDNT_RESOLVE_HOST:
			return psprintf("could not resolve the host name of %s", peer);
		case CURLE_COULDNT_RESOLVE_PROXY:
			return psprintf("could not resolve the host name of the proxy for %s", peer);
		case CURLE_COULDNT_CONNECT:
			return psprintf("could not connect to %s%s: %s",
							t->proxied ? "the proxy for " : "", peer, connect_detail(t));
		case CURLE_PEER_FAILED_VERIFICATION:
			return psprintf("could not verify the TLS certificate of %s: %s",
							peer, safe_detail(t));
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_SSL_CIPHER:
			return psprintf("could not set up TLS with %s: %s",
							peer, safe_detail(t));
		case CURLE_SSL_CACERT_BADFILE:
			return psprintf("could not load the file of certificate authorities for %s", peer);
		case CURLE_OPERATION_TIMEDOUT:
			return describe_timeout(t, peer);
		case CURLE_GOT_NOTHING:
		case CURLE_PARTIAL_FILE:
		case CURLE_RECV_ERROR:
		case CURLE_SEND_ERROR:
			return describe_cut(t, peer);
		default:
			return psprintf("exchange with %s failed: %s",
							peer, curl_easy_strerror(t->result));
	}
}

const char *
llmb_http_error(LlmbTransfer *t)
{
	MemoryContext caller;

	if (t->place == IN_FLIGHT || llmb_http_wire(t) == LLMB_WIRE_OK)
		return "";
	if (t->error == NULL)
	{
		caller = MemoryContextSwitchTo(t->context);
		t->error = describe_error(t, peer_name(t));
		MemoryContextSwitchTo(caller);
	}
	return t->error;
}
