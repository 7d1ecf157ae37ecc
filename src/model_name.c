/*-------------------------------------------------------------------------
 *
 * model_name.c
 *		By which names a model, and by which host a server, stands in
 *		llm_batch.model.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "model_name.h"

static bool
all_digits(const char *text, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return false;
	}
	return true;
}

/* Length of a date at the end, "-2026-03-17", "-20260317" or "@20260317"; or 0. */
static size_t
date_suffix(const char *name)
{
	size_t		len = strlen(name);
	const char *at = name + len;

	if (len > 11 && at[-11] == '-' && all_digits(at - 10, 4) && at[-6] == '-' &&
		all_digits(at - 5, 2) && at[-3] == '-' && all_digits(at - 2, 2))
		return 11;
	if (len > 9 && (at[-9] == '-' || at[-9] == '@') && all_digits(at - 8, 8))
		return 9;
	return 0;
}

/* The base of "ft:base:organization::id", or NULL. */
static char *
fine_tuned_base(const char *name)
{
	if (strncmp(name, "ft:", 3) != 0 || name[3] == '\0' || name[3] == ':')
		return NULL;
	return pnstrdup(name + 3, strcspn(name + 3, ":"));
}

static void
add_form(char **forms, int *count, char *form)
{
	Assert(*count < LLMB_MODEL_FORMS);
	forms[(*count)++] = form;
}

char **
llmb_model_forms(const char *name, bool prices, int *count)
{
	char	  **forms = palloc(sizeof(char *) * LLMB_MODEL_FORMS);
	char	   *base = fine_tuned_base(name);
	const char *last;
	size_t		date;

	*count = 0;
	add_form(forms, count, pstrdup(name));
	if (base && prices)
		return forms;
	if (strncmp(name, "models/", 7) == 0 && name[7] != '\0')
		base = pstrdup(name + 7);
	if (base)
		add_form(forms, count, base);
	last = forms[*count - 1];
	date = date_suffix(last);
	if (date > 0)
		add_form(forms, count, pnstrdup(last, strlen(last) - date));
	return forms;
}

char *
llmb_url_host(const char *url)
{
	const char *start;
	char	   *host;

	if (url == NULL)
		return NULL;
	start = strstr(url, "://");
	start = start ? start + 3 : url;
	host = pnstrdup(start, strcspn(start, "/?#"));
	if (strchr(host, '@'))
		host = strchr(host, '@') + 1;
	/* "[::1]:8080": what is in brackets is the host */
	if (host[0] == '[')
		host[strcspn(host, "]") + (strchr(host, ']') ? 1 : 0)] = '\0';
	else
		host[strcspn(host, ":")] = '\0';
	for (char *c = host; *c; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	return host;
}
