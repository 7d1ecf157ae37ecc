/*-------------------------------------------------------------------------
 *
 * view.h
 *		Views over a task's table with its answers beside the rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_VIEW_H
#define LLMB_VIEW_H

#include "postgres.h"

/*
 * Brings the views of a task in line with its answers, after it has changed,
 * as the current user: those whose columns do not fit any more are replaced,
 * or made anew with owner, privileges and comments kept, over the same columns
 * of the table.  One that somebody has changed stays, with a warning.  Raises
 * when something depends on a view that has to go, or the user may not replace
 * it.
 */
extern void llmb_views_follow(int64 task);

/*
 * Before a task or (attachment not 0) one of its attachments goes: its views
 * go with it if cascade, as by DROP VIEW ... CASCADE; without it raises when
 * there are any.
 */
extern void llmb_views_drop(int64 task, int64 attachment, bool cascade);

#endif							/* LLMB_VIEW_H */
