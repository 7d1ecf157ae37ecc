/*-------------------------------------------------------------------------
 *
 * control.h
 *		Jobs that the current user may control.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CONTROL_H
#define LLMB_CONTROL_H

#include "store.h"

/*
 * The job, if the current user has the privileges of its owner; palloc'd.
 * Raises else, in the same words for one that is another's and one that is
 * not there.
 */
extern LlmbJob *llmb_own_job(int64 id);

#endif							/* LLMB_CONTROL_H */
