/*-------------------------------------------------------------------------
 *
 * common.h
 *		The ground that backend code and stand-alone programs share.
 *
 * json.c, batch.c and the providers are text in, struct out: they use
 * palloc, StringInfo and common/jsonapi and nothing else of the server, so
 * that unit tests and fuzzers can compile them with -DFRONTEND.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_COMMON_H
#define LLMB_COMMON_H

#ifdef FRONTEND
/* newer versions of libpgcommon name them so, lest libpq be meant */
#define USE_PRIVATE_ENCODING_FUNCS
#include "postgres_fe.h"
#include "common/fe_memutils.h"
#else
#include "postgres.h"
#endif

#include "lib/stringinfo.h"

#endif							/* LLMB_COMMON_H */
