/*-------------------------------------------------------------------------
 *
 * token.c
 *		The token of a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "token.h"

#include "common/hashfn.h"

uint32
llmb_token_home(uint64 system_identifier, uint32 database)
{
	uint64		words[2] = {system_identifier, database};

	return hash_bytes((const unsigned char *) words, sizeof(words));
}

char *
llmb_token_make(uint32 home, int64 job, int first, uint64 random)
{
	return psprintf("%08x_%llx_%x_%016llx", home, (unsigned long long) job, (unsigned) first,
					(unsigned long long) random);
}

/* At most 15 digits, so that it fits into what is signed; moves *at behind them. */
static bool
read_hex(const char **at, int64 *number)
{
	static const char digits[] = "0123456789abcdef";
	int			len = (int) strspn(*at, digits);

	if (len < 1 || len > 15)
		return false;
	*number = 0;
	for (int i = 0; i < len; i++)
		*number = *number * 16 + (strchr(digits, (*at)[i]) - digits);
	*at += len;
	return true;
}

static bool
read_creates(const char *at, int *creates)
{
	int			len = (int) strspn(at, "0123456789");

	*creates = len > 0 && len < 10 ? atoi(at) : 0;
	return *creates > 0 && at[len] == '\0';
}

bool
llmb_token_parse(const char *text, LlmbToken *token)
{
	const char *at = text;
	int64		home;
	int64		first;

	memset(token, 0, sizeof(LlmbToken));
	if (text == NULL || strspn(text, "0123456789abcdef") != 8)
		return false;
	if (!read_hex(&at, &home) || *at++ != '_' || !read_hex(&at, &token->job) || *at++ != '_' ||
		!read_hex(&at, &first) || first > PG_INT32_MAX || *at++ != '_' || strspn(at, "0123456789abcdef") != 16)
		return false;
	at += 16;
	token->home = (uint32) home;
	token->first = (int) first;
	memcpy(token->text, text, at - text);
	return *at == '-' || (*at == '_' && read_creates(at + 1, &token->creates));
}
