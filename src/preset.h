/*-------------------------------------------------------------------------
 *
 * preset.h
 *		Prompts to start from: rows of llm_batch.preset.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_PRESET_H
#define LLMB_PRESET_H

#include "postgres.h"

/* palloc'd, in the database's encoding; JSON is its text. */
typedef struct LlmbPreset
{
	char	   *prompt;
	char	   *system;			/* NULL none */
	char	   *params;			/* an object */
	char	   *schema;			/* an object; NULL none */
} LlmbPreset;

/*
 * Fills the preset of that name; behind it, in parentheses, may stand what
 * the preset has room for: "translation(German)".  The user's row of a name
 * goes before the shipped one.  Raises, with the nearest name, when there is
 * none, and when what stands in parentheses is missing or not wanted.
 */
extern void llmb_preset(const char *name, LlmbPreset *preset);

/*
 * Raises when the preset chooses from a list, and the schema in which answers
 * will be asked for (NULL: none) has no such list.  name NULL, or of a preset
 * that is not there any more: nothing is wrong.
 */
extern void llmb_preset_check(const char *name, const char *schema);

#endif							/* LLMB_PRESET_H */
