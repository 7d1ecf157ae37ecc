/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The only place that knows which version we are compiled against.
 *
 * Code elsewhere is written to the newest interface; what older versions
 * lack is made up for here, each with its reason.  The part for the backend
 * stands under #ifndef FRONTEND, because json.c and the providers are also
 * built into stand-alone programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LLMB_COMPAT_H
#define LLMB_COMPAT_H

/*
 * common/jsonapi.h, for json.c alone.
 *
 * Semantic actions return a status since 16, and nothing before.  The lexer
 * can live in memory of the caller's and has a function that frees it since
 * 17; before, it and the buffer of its string value are the caller's.
 */
#ifdef JSONAPI_H

#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType LlmbJsonActionResult;
#define LLMB_JSON_ACTION_DONE	return JSON_SUCCESS
#else
typedef void LlmbJsonActionResult;
#define LLMB_JSON_ACTION_DONE	return
#endif

static inline JsonLexContext *
llmb_json_lexer_make(char *text, size_t len, int encoding)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, text, len, encoding, true);
#else
	return makeJsonLexContextCstringLen(text, (int) len, encoding, true);
#endif
}

static inline void
llmb_json_lexer_free(JsonLexContext *lex)
{
#if PG_VERSION_NUM >= 170000
	freeJsonLexContext(lex);
#else
	pfree(lex->strval->data);
	pfree(lex->strval);
	pfree(lex);
#endif
}

#endif							/* JSONAPI_H */

#ifndef FRONTEND

#include "catalog/pg_attribute.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/timeout.h"
#include "utils/wait_event.h"

/*
 * Since 17 a wait event set belongs to a resource owner instead of a memory
 * context.  Ours outlive transactions and are freed by hand: no owner.
 */
static inline WaitEventSet *
llmb_create_wait_event_set(int n)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, n);
#else
	return CreateWaitEventSet(CurrentMemoryContext, n);
#endif
}

/* Extensions have wait events with names of their own since 17. */
static inline uint32
llmb_wait_event(const char *name, uint32 *event)
{
#if PG_VERSION_NUM >= 170000
	if (*event == 0)
		*event = WaitEventExtensionNew(name);
	return *event;
#else
	(void) name;
	(void) event;
	return PG_WAIT_EXTENSION;
#endif
}

/* The worker, until something falls due. */
static inline uint32
llmb_wait_event_main(void)
{
	static uint32 event = 0;

	return llmb_wait_event("LlmBatchMain", &event);
}

/* Sleeping, while calls are out. */
static inline uint32
llmb_wait_event_network(void)
{
	static uint32 event = 0;

	return llmb_wait_event("LlmBatchNetwork", &event);
}

/* A session: for what the worker has to do. */
static inline uint32
llmb_wait_event_worker(void)
{
	static uint32 event = 0;

	return llmb_wait_event("LlmBatchWorker", &event);
}

/* A session that needs a database for itself: for the worker's end. */
static inline uint32
llmb_wait_event_worker_end(void)
{
	static uint32 event = 0;

	return llmb_wait_event("LlmBatchWorkerEnd", &event);
}

static inline uint32
llmb_wait_event_launcher(void)
{
	static uint32 event = 0;

	return llmb_wait_event("LlmBatchLauncher", &event);
}

/* Since 19 a worker can be one that ends by itself when its database goes. */
#ifdef BGWORKER_INTERRUPTIBLE
#define LLMB_BGWORKER_INTERRUPTIBLE BGWORKER_INTERRUPTIBLE
#else
#define LLMB_BGWORKER_INTERRUPTIBLE 0
#endif

/*
 * Since 16 the caller says whether only summarizing indexes are wanted; since
 * 19 that and the other wishes are flags.
 */
#if PG_VERSION_NUM >= 190000
#define llmb_insert_index_tuples(info, slot, estate) 	list_free(ExecInsertIndexTuples(info, estate, 0, slot, NIL, NULL))
#elif PG_VERSION_NUM >= 160000
#define llmb_insert_index_tuples(info, slot, estate) \
	list_free(ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL, false))
#else
#define llmb_insert_index_tuples(info, slot, estate) \
	list_free(ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL))
#endif

/* Since 16 one function checks privileges on all kinds of objects. */
#if PG_VERSION_NUM >= 160000
#define llmb_foreign_server_aclcheck(server, role) \
	object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE)
#else
#define llmb_foreign_server_aclcheck(server, role) \
	pg_foreign_server_aclcheck(server, role, ACL_USAGE)
#endif

#if PG_VERSION_NUM >= 160000
#define llmb_namespace_aclcheck(namespace, role) \
	object_aclcheck(NamespaceRelationId, namespace, role, ACL_USAGE)
#else
#define llmb_namespace_aclcheck(namespace, role) \
	pg_namespace_aclcheck(namespace, role, ACL_USAGE)
#endif

#if PG_VERSION_NUM >= 160000
#define llmb_owns_database(database) \
	object_ownercheck(DatabaseRelationId, database, GetUserId())
#else
#define llmb_owns_database(database) \
	pg_database_ownercheck(database, GetUserId())
#endif

/*
 * Since 16 the readers of dates tell more of what is wrong.  For schema.c
 * alone, which includes utils/datetime.h.
 */
#ifdef DATETIME_H
static inline int
llmb_decode_date_time(char **field, int *ftype, int count, int *dtype, struct pg_tm *tm, fsec_t *fsec, int *zone)
{
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;

	return DecodeDateTime(field, ftype, count, dtype, tm, fsec, zone, &extra);
#else
	return DecodeDateTime(field, ftype, count, dtype, tm, fsec, zone);
#endif
}

static inline int
llmb_decode_time_only(char **field, int *ftype, int count, int *dtype, struct pg_tm *tm, fsec_t *fsec, int *zone)
{
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;

	return DecodeTimeOnly(field, ftype, count, dtype, tm, fsec, zone, &extra);
#else
	return DecodeTimeOnly(field, ftype, count, dtype, tm, fsec, zone);
#endif
}
#endif							/* DATETIME_H */

/* Since 17 a stronger lock can be asked for as well. */
#if PG_VERSION_NUM >= 170000
#define llmb_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define llmb_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#endif

/* Since 18 a generated column can be one that is computed when it is read. */
#ifdef ATTRIBUTE_GENERATED_VIRTUAL
#define llmb_is_virtual(att) ((att)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define llmb_is_virtual(att) ((void) (att), false)
#endif

/* Since 17 code can set a timeout of its transaction, which ends the process. */
static inline bool
llmb_transaction_timed_out(void)
{
#if PG_VERSION_NUM >= 170000
	return get_timeout_indicator(TRANSACTION_TIMEOUT, false);
#else
	return false;
#endif
}

/*
 * Since 18 a PGPROC tells regular backends instead of background workers,
 * and since 19 what kind of process it is.
 */
#if PG_VERSION_NUM >= 190000
#define llmb_is_background_worker(proc) ((proc)->backendType == B_BG_WORKER)
#elif PG_VERSION_NUM >= 180000
#define llmb_is_background_worker(proc) (!(proc)->isRegularBackend)
#else
#define llmb_is_background_worker(proc) ((proc)->isBackgroundWorker)
#endif

#endif							/* FRONTEND */

#endif							/* LLMB_COMPAT_H */
