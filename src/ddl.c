/*-------------------------------------------------------------------------
 *
 * ddl.c
 *		DDL on users' objects, as the caller.
 *
 *-------------------------------------------------------------------------
 */
#include "llm_batch.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/guc.h"

#include "ddl.h"

int
llmb_ddl_begin(void)
{
	int			level = NewGUCNestLevel();

	/* names in our statements are qualified; operators and functions are PostgreSQL's own */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return level;
}

void
llmb_ddl_end(int level)
{
	SPI_finish();
	AtEOXact_GUC(false, level);
}

void
llmb_ddl(const char *format,...)
{
	StringInfoData sql;
	int			level;
	int			code;

	initStringInfo(&sql);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&sql, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&sql, needed);
	}
	level = llmb_ddl_begin();
	code = SPI_execute(sql.data, false, 0);
	if (code < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(code));
	llmb_ddl_end(level);
}
