/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The process that starts workers where there is work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_LAUNCHER_H
#define LLMB_LAUNCHER_H

/* Registers the launcher; for shared_preload_libraries only. */
extern void llmb_register_launcher(void);

#endif							/* LLMB_LAUNCHER_H */
