# llm_batch: LLM prompts over tables through the providers' batch APIs

MODULE_big = llm_batch
OBJS = \
	src/afterwards.o \
	src/answer.o \
	src/as_owner.o \
	src/ask.o \
	src/atomic.o \
	src/attach.o \
	src/batch.o \
	src/breaker.o \
	src/bulk.o \
	src/cadence.o \
	src/call.o \
	src/chain.o \
	src/clock.o \
	src/control.o \
	src/crash.o \
	src/ddl.o \
	src/enqueue.o \
	src/estimate.o \
	src/failover.o \
	src/fair.o \
	src/fill.o \
	src/fleet.o \
	src/flight.o \
	src/gate.o \
	src/gather.o \
	src/ground.o \
	src/guc.o \
	src/health.o \
	src/housekeeping.o \
	src/http.o \
	src/inbox.o \
	src/json.o \
	src/key.o \
	src/lane.o \
	src/launcher.o \
	src/leftover.o \
	src/lifecycle.o \
	src/llm_batch.o \
	src/log.o \
	src/look.o \
	src/mock_answer.o \
	src/model.o \
	src/model_name.o \
	src/notify.o \
	src/openai_answer.o \
	src/openai_request.o \
	src/options.o \
	src/own_task.o \
	src/pace.o \
	src/pii.o \
	src/pii_ids.o \
	src/pii_plain.o \
	src/pii_scan.o \
	src/pii_sql.o \
	src/plan.o \
	src/preset.o \
	src/price.o \
	src/probe.o \
	src/provider.o \
	src/provider_anthropic.o \
	src/provider_gemini.o \
	src/provider_mock.o \
	src/provider_openai.o \
	src/realtime.o \
	src/replies.o \
	src/request.o \
	src/results.o \
	src/schema.o \
	src/shmem.o \
	src/source.o \
	src/spool.o \
	src/sql.o \
	src/steps.o \
	src/store_batch.o \
	src/store_forget.o \
	src/store_home.o \
	src/store_job.o \
	src/store_model.o \
	src/store_result.o \
	src/store_task.o \
	src/store_turnaround.o \
	src/submit.o \
	src/task.o \
	src/task_answer.o \
	src/task_trigger.o \
	src/template.o \
	src/token.o \
	src/trouble.o \
	src/turn.o \
	src/verify.o \
	src/view.o \
	src/view_shape.o \
	src/watch.o \
	src/worker.o \
	src/writeback.o

EXTENSION = llm_batch
DATA = sql/llm_batch--1.0.sql
PGFILEDESC = "llm_batch - LLM prompts over tables through batch APIs"

PG_CPPFLAGS = $(shell pkg-config --cflags libcurl)
SHLIB_LINK = $(shell pkg-config --libs libcurl)

REGRESS        = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS   = --inputdir=test --temp-instance=tmp_check/regress --temp-config=test/llm_batch.conf
ISOLATION      = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=. --temp-instance=tmp_check/isolation --temp-config=test/llm_batch.conf
TAP_TESTS      = 1
PROVE_TESTS    = test/t/*.pl

REGRESS_PREP   = test-folders

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

# pg_regress makes one folder, not the one above it
test-folders:
	@mkdir -p tmp_check
.PHONY: test-folders

# Every warning is an error, with the compiler that CC names, with assertions
# and without; nothing is kept.  PostgreSQL's and libcurl's own headers are not
# ours to judge.  (Where the server was built with gcc, its printf attribute is
# gnu_printf, which clang does not know: that, and nothing else, is let pass.)
LINT_CPPFLAGS = $(patsubst -I%,-isystem %,$(filter -I/% -D%,$(CPPFLAGS)))
LINT_CFLAGS = -O2 -fPIC -fwrapv -fno-strict-aliasing -Werror -Wall -Wextra \
	-Wdeclaration-after-statement -Wmissing-prototypes -Wpointer-arith -Wvla -Wformat-security \
	-Wno-ignored-attributes
lint:
	@for f in $(OBJS:.o=.c); do \
		for assert in -U -D; do \
			$(CC) $(LINT_CPPFLAGS) $${assert}USE_ASSERT_CHECKING $(LINT_CFLAGS) \
				-c $$f -o /dev/null || exit 1; \
		done; \
	done
.PHONY: lint
