/*-------------------------------------------------------------------------
 *
 * crash.h
 *		Crash points: places where a test can make the worker die, or fail,
 *		at a moment of its choice.
 *
 * A point is passed before and after each commit of a turn that wrote
 * something, and before, during and after each call of a provider.  Its name
 * is made of what is there anyway: the turn's name, the change of state made
 * in it, the call's verb.  So a new step has its points without anyone having
 * to remember it.  Off (the default): one test of a pointer per point.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_CRASH_H
#define LLMB_CRASH_H

#include "postgres.h"

/*
 * Setting llm_batch.crash_file, NULL by default.  Where that file is there,
 * its first line says what happens next:
 *
 *		<action> [<nth>] <point>
 *
 * When this process passes that point for the nth time (1) since it saw the
 * line, the line is taken out of the file, and the action done; then the next
 * line counts, in a new process as well.  Actions:
 *
 *		kill	SIGKILL for this process
 *		stop	SIGQUIT for the postmaster: an immediate stop
 *		exit	this process ends with status 1, as after a FATAL error
 *		error	ERROR
 *
 * A line "trace" before all others stays, and has each point that is passed
 * written to <file>.log, after the process id and a blank.
 */
extern char *llmb_crash_file;

/*
 * "<what>: <when>" is passed.  May raise ERROR, end the process, or not come
 * back.
 */
#define llmb_crash_point(what, when) \
	do { \
		if (unlikely(llmb_crash_file != NULL)) \
			llmb_crash_pass(what, when, true); \
	} while (0)

/* The same where nothing may be thrown: "exit" and "error" do not count. */
#define llmb_crash_point_in_callback(what, when) \
	do { \
		if (unlikely(llmb_crash_file != NULL)) \
			llmb_crash_pass(what, when, false); \
	} while (0)

extern void llmb_crash_pass(const char *what, const char *when, bool may_throw);

/*
 * The points of a turn: its begin with its name, a change of state in it, and
 * both sides of its commit.
 */
extern void llmb_crash_turn_begins(const char *doing);
extern void llmb_crash_turn_changes(const char *from, const char *to);
extern void llmb_crash_turn_commits(void);
extern void llmb_crash_turn_committed(void);

#endif							/* LLMB_CRASH_H */
