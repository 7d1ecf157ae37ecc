/*-------------------------------------------------------------------------
 *
 * view_shape.h
 *		What a view over a task's table shows: told from its definition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_VIEW_SHAPE_H
#define LLMB_VIEW_SHAPE_H

#include "nodes/pg_list.h"

#include "store_task.h"

/* A property of an answer that is a column of its own. */
typedef struct LlmbAnswerField
{
	char	   *name;			/* in the database's encoding */
	Oid			type;			/* text, numeric, int8, bool or jsonb */
} LlmbAnswerField;

/*
 * List of LlmbAnswerField: the properties of a schema (or NULL), in order.
 * NIL: the answer is one text.
 */
extern List *llmb_answer_fields(const char *schema);

/* The role that owns a relation; InvalidOid: there is no such relation. */
extern Oid	llmb_relation_owner(Oid relid);

/* Whose answers that view reads by llm_batch.task_answer(): an attachment; 0 nobody's. */
extern int64 llmb_view_attachment(Oid view);

/* Does it show all columns of the answer as the attachment has them now, and no others? */
extern bool llmb_view_fits(Oid view, const LlmbAttachment *attachment);

/* A column of the view that is one of the source's. */
typedef struct LlmbViewColumn
{
	AttrNumber	attnum;			/* in the source */
	char	   *name;			/* in the view */
} LlmbViewColumn;

/*
 * Sets *columns (of LlmbViewColumn, in order).  False when the view is not of
 * the form that create_view() gives it any more: somebody has changed it.
 */
extern bool llmb_view_source_columns(Oid view, List **columns);

/*
 * Why somebody who may read that view may not read every answer of the
 * attachment: it hides rows or answers, or shows others to others.  NULL when
 * there is no reason.
 */
extern const char *llmb_view_hides(Oid view, const LlmbAttachment *attachment);

#endif							/* LLMB_VIEW_SHAPE_H */
