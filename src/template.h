/*-------------------------------------------------------------------------
 *
 * template.h
 *		Prompt templates: {{column}}, {{column|json}}, {{*}} for the whole row,
 *		and {{{{ for "{{".
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_TEMPLATE_H
#define LLMB_TEMPLATE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

typedef struct LlmbTemplate
{
	struct LlmbTemplatePart *parts;
	int			part_count;
	char	  **columns;		/* distinct, in order of first appearance */
	int			column_count;
} LlmbTemplate;

/* A template bound to the types of its columns. */
typedef struct LlmbRenderer
{
	const LlmbTemplate *template;
	struct LlmbRenderColumn *columns;
} LlmbRenderer;

/* Reads a template.  Raises for an opened and unclosed or empty {{ }}. */
extern LlmbTemplate *llmb_template_parse(const char *text);

/* Does {{*}} or {{*|json}} stand in it? */
extern bool llmb_template_has_star(const LlmbTemplate *template);

/*
 * Its text with {{*}} written out for these columns: a line "name: {{name}}"
 * for each; {{*|json}}: one JSON object.  palloc'd.  Raises when there is no
 * column, or one whose name no placeholder can hold.
 */
extern char *llmb_template_expand(const LlmbTemplate *template, char **columns, int count);

/*
 * Whether {{*}} leaves columns of that type out: bytea, tsvector and vectors
 * are long, and say nothing to a model.
 */
extern bool llmb_template_star_skips(Oid type);

/* types[i] is the type of template->columns[i]. */
extern LlmbRenderer *llmb_renderer(const LlmbTemplate *template, const Oid *types);

/* Appends the prompt; values in the order of template->columns. */
extern void llmb_render(LlmbRenderer *renderer, StringInfo out,
						const Datum *values, const bool *nulls);

/*
 * Settings that the rendering of values depends on, the same at submit and
 * at write-back; the time zone is the submitter's.  For the current GUC nest
 * level.
 */
extern void llmb_pin_rendering(const char *time_zone);

/* The 64-bit hash by which stale answers are told. */
extern int64 llmb_text_hash(const char *text, size_t len);

/* The name of names[] that is nearest to "name", or NULL when none is near. */
extern const char *llmb_nearest(const char *name, char **names, int count);

#endif							/* LLMB_TEMPLATE_H */
