/*-------------------------------------------------------------------------
 *
 * http.c
 *		Fuzz target "http": what http.c does with headers and bodies that
 *		libcurl hands to it.
 *
 * The file is taken in whole, for what is tested is its own business; nothing
 * of the server or of libcurl that it would need for a real exchange is ever
 * called, and the linker is told to let that be.
 *
 * Input: a letter with flags, a letter for the size of pieces; header lines
 * up to an empty one; the body.
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/http.c"

#include "fuzz.h"

/* A reply is handed over in pieces, as a network does. */
static bool
take_headers(LlmbTransfer *t, const char **data, size_t *len)
{
	while (*len > 0)
	{
		const char *newline = memchr(*data, '\n', *len);
		size_t		n = newline ? (size_t) (newline - *data + 1) : *len;
		bool		last = n <= 2 && newline != NULL;
		char	   *line = malloc(n);
		size_t		taken;

		memcpy(line, *data, n);
		/* libcurl refuses headers with a NUL in them */
		if (memchr(line, '\0', n) != NULL)
		{
			free(line);
			return false;
		}
		taken = take_header(line, 1, n, t);
		free(line);
		CHECK(taken == n || (taken == 0 && t->reason[0] != '\0'));
		CHECK(t->kept_len < sizeof(t->kept) && t->kept[t->kept_len] == '\0' && strlen(t->kept) == t->kept_len);
		CHECK(t->kept_len == 0 || t->kept[t->kept_len - 1] == '\n');
		CHECK(t->retry_after_ms >= -1 && t->retry_after_ms <= INT64CONST(24) * 3600 * 1000);
		CHECK(t->status == 0 || (t->status >= 200 && t->status <= 999));
		if (taken == 0)
			return false;
		*data += n;
		*len -= n;
		if (last)
			return true;
	}
	return true;
}

/* The caller's part: takes some of the whole lines. */
static void
take_lines(LlmbTransfer *t, size_t most)
{
	size_t		len;
	char	   *lines = llmb_http_lines(t, &len);
	size_t		whole = 0;

	CHECK(len <= t->len - t->head);
	CHECK(len == 0 || lines[len - 1] == '\n' || t->result == CURLE_OK);
	while (whole < len && whole < most)
	{
		char	   *newline = memchr(lines + whole, '\n', len - whole);
		size_t		end = newline ? (size_t) (newline - lines + 1) : len;

		CHECK(end - whole <= t->reply_cap + 1);
		whole = end;
	}
	llmb_http_taken(t, whole);
	CHECK(t->head <= t->whole && t->whole <= t->len && (t->buf == NULL || t->len < t->room));
}

/* Returns how many bytes were taken in all. */
static size_t
take_body(LlmbTransfer *t, const char *data, size_t len, size_t piece)
{
	size_t		at = 0;

	while (at < len)
	{
		size_t		n = Min(piece, len - at);
		char	   *copy = malloc(n);
		size_t		taken;

		memcpy(copy, data + at, n);
		taken = take_reply(copy, 1, n, t);
		free(copy);
		CHECK(taken == n || taken == CURL_WRITEFUNC_PAUSE || (taken == 0 && t->reason[0] != '\0'));
		CHECK(t->head <= t->whole || !is_stream(t));
		CHECK(t->buf == NULL || (t->len < t->room && t->buf[t->len] == '\0'));
		CHECK(is_stream(t) || t->len <= (t->lines ? ERROR_BODY_CAP : t->reply_cap));
		if (taken == 0)
			break;
		if (taken == CURL_WRITEFUNC_PAUSE)
		{
			t->paused = false;
			take_lines(t, LINES_ENOUGH);
			continue;
		}
		at += n;
		if (is_stream(t) && at % 3 == 0)
			take_lines(t, at % 5 * 100);
	}
	return at;
}

void
fuzz_one(const char *data, size_t len)
{
	LlmbTransfer t = {.place = FINISHED, .fd = -1, .retry_after_ms = -1};
	size_t		piece;
	size_t		left;
	char	   *body;

	if (len < 2)
		return;
	t.lines = data[0] & 1;
	t.by_stall = t.lines;
	t.reply_cap = (data[0] & 2) ? 64 : 16 * 1024;
	t.result = (data[0] & 4) ? CURLE_PARTIAL_FILE : CURLE_OK;
	piece = 1 + (unsigned char) data[1];
	data += 2;
	len -= 2;
	if (take_headers(&t, &data, &len))
	{
		/* libcurl ends what was not taken */
		if (take_body(&t, data, len, piece) < len)
			t.result = CURLE_WRITE_ERROR;
		take_lines(&t, len + 1);
		body = llmb_http_body(&t, &left);
		CHECK(body[left] == '\0' && left <= len);
		(void) llmb_http_wire(&t);
	}
	free(t.buf);
}
