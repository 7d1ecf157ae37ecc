/*-------------------------------------------------------------------------
 *
 * probe.h
 *		check_server: a free call through the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PROBE_H
#define LLMB_PROBE_H

/* In a turn: starts the calls that check_server asks for. */
extern void llmb_probe_start_asked(void);
extern bool llmb_probe_busy(void);

#endif							/* LLMB_PROBE_H */
