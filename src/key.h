/*-------------------------------------------------------------------------
 *
 * key.h
 *		The key of a source row as text: what key::text gives, and a JSON
 *		array of such texts for several columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_KEY_H
#define LLMB_KEY_H

#include "postgres.h"

#include "lib/stringinfo.h"

typedef struct LlmbKeyText LlmbKeyText;

/* For columns of these types; lives in the current memory context. */
extern LlmbKeyText *llmb_key_text_begin(const Oid *types, int count);

/*
 * Appends the key.  False (and nothing is appended) when a column of a single
 * key is NULL.  The texts of some types depend on settings: see the next.
 */
extern bool llmb_key_text(LlmbKeyText *key, StringInfo out, const Datum *values, const bool *nulls);

/* Do the settings of llmb_pin_rendering() matter for these columns? */
extern bool llmb_key_text_needs_settings(const LlmbKeyText *key);

#endif							/* LLMB_KEY_H */
