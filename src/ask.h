/*-------------------------------------------------------------------------
 *
 * ask.h
 *		What is asked of a model, checked: the arguments that submit, its kin
 *		and tasks share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_ASK_H
#define LLMB_ASK_H

#include "fmgr.h"

#include "model.h"
#include "options.h"
#include "store.h"

/* Arguments as they were given; text members NULL when absent. */
typedef struct LlmbArguments
{
	char	   *model;
	char	   *server;
	char	   *system;
	char	   *params;			/* JSON object */
	char	   *schema;			/* JSON object */
	char	   *mode;
	int			priority;
	bool		atomic;
	int			pack;
	bool		mask_pii;
	char	   *max_cost;		/* a number of USD */
	Interval   *deadline;		/* from now on */
	int64		after;			/* a job; 0 none */
	char	   *request_key;
	int64		request_hash;	/* of all arguments of the call */
	char	   *labels;			/* JSON object */
	char	   *on_success;
	char	   *on_error;
} LlmbArguments;

/* What comes of them. */
typedef struct LlmbAsk
{
	LlmbServer *server;
	LlmbModel  *model;
	LlmbNewJob	job;			/* but for source, prompt and target */
} LlmbAsk;

/*
 * Checks the arguments for the current user.  Raises for the first that could
 * not be sent, kept or paid for.
 */
extern LlmbAsk *llmb_ask(const LlmbArguments *arguments);

/*
 * Can these parameters (JSON) be sent?  If not, *why says it, palloc'd; NULL:
 * they are no JSON object.
 */
extern bool llmb_params_fit(const LlmbAsk *ask, const char *params, char **why);

/* Raises when "given" is, and the model makes embeddings: one text, one vector. */
extern void llmb_check_no_embedding(const LlmbAsk *ask, const char *given, const char *name);

/* Raises when value is NULL or blank. */
extern void llmb_check_given(const char *value, const char *name);

/* Raises when a text would not be UTF-8; key: of the row it is for, or NULL. */
extern void llmb_check_utf8(const char *text, const char *what, const char *key);

/* A text argument, NULL for NULL. */
extern char *llmb_text_arg(FunctionCallInfo fcinfo, int n);
/* A JSON object as text; absent: what stands for NULL.  Raises for other JSON. */
extern char *llmb_object_arg(FunctionCallInfo fcinfo, int n, const char *name, const char *absent);

#endif							/* LLMB_ASK_H */
