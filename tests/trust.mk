# trust.mk: the long targets, that look for what `make test` has no time for. SECURITY.md has their figures.

dqlite:                                   ## three replicated nodes, one killed: the same bytes everywhere (Debian: libdqlite-dev)
	@if echo '#include <dqlite.h>' | $(CC) -E - >/dev/null 2>&1; then $(MAKE) $(BUILD)/dqlite_node && tclsh tests/dqlite.tcl; \
	else echo "skipped: dqlite: there is no dqlite.h"; fi

$(BUILD)/dqlite_node: tests/dqlite_node.c $(BUILD)/libsqlite_lm.a
	$(CC) $(CFLAGS) -o $@ $< $(BUILD)/libsqlite_lm.a $(LIBS) -ldqlite -lsqlite3 -ldl

# gcc 12 optimises scalar.c under both sanitizers for longer than ten minutes.
asan:                                     ## the suite under AddressSanitizer and UBSan
	$(MAKE) BUILD=build/asan OPT='-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer' SCALAR_OPT=-O0 asan-run

asan-run: tree
	cd $(BUILD)/tree && ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    tclsh tests/run.tcl

valgrind:                                 ## the .test files, one by one, under valgrind; ONLY="store token …"
	$(MAKE) BUILD=build/valgrind KERN_OPT='-include tests/no_fma.h' SLOW= valgrind-run

valgrind-run: tree
	cd $(BUILD)/tree && sh tests/valgrind.sh $(ONLY)

analyse:                                  ## gcc's warnings about conversions as errors, then clang-tidy (clang's analyser and bugprone)
	$(MAKE) BUILD=build/analyse OPT='-O1 -Werror' build/analyse/lm.so
	sh tests/analyse.sh $(ENGINE) $(EXT)

# A tree in which the suite finds $(BUILD) as its build/, and the models without those that are SLOW.
SLOW = %.Q4_1.gguf %_m.gguf
tree: all $(TOOLS)
	mkdir -p $(BUILD)/tree/models
	for d in tests sql ext engine include Makefile README.md; do ln -sfn $(CURDIR)/$$d $(BUILD)/tree/$$d; done
	for m in $(filter-out $(SLOW),$(wildcard models/*)); do ln -sfn $(CURDIR)/$$m $(BUILD)/tree/$$m; done
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

soak: all $(HOSTS) $(BUILD)/soak_load $(BUILD)/fuzz_test    ## no memory, no disk, kill -9, interrupts, many connections, every byte of the fixtures: SECONDS=600
	SPOIL=all $(BUILD)/fuzz_test
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

# Programs are linked with it; Tcl, and what is built already, find it in the place of the system's library.
newest: all $(TOOLS) $(HOSTS)             ## the suite on the newest SQLite
	@! sh tests/amalgamation.sh $@ || $(MAKE) BUILD=build/newest OPT='-O2 -fPIC -g -Ibuild/sqlite' newest-run

newest-run: $(BUILD)/libsqlite3.so.0
	@echo "SQLite $$(echo 'package require sqlite3; sqlite3 db :memory:; puts [db version]' | LD_LIBRARY_PATH=$(BUILD) tclsh)"
	LD_LIBRARY_PATH=$(BUILD) tclsh tests/run.tcl

$(BUILD)/libsqlite3.so.0: $(BUILD)/sqlite3.o
	$(CC) -shared -Wl,-soname,$(@F) -o $@ $< -lm -ldl

$(BUILD)/sqlite3.o: build/sqlite/sqlite3.c
	@mkdir -p $(@D)
	$(CC) $(OPT) -DSQLITE_THREADSAFE=1 -DSQLITE_ENABLE_COLUMN_METADATA -DSQLITE_ENABLE_PREUPDATE_HOOK -DSQLITE_ENABLE_SESSION -DSQLITE_ENABLE_UNLOCK_NOTIFY \
	    -DSQLITE_ENABLE_MATH_FUNCTIONS -c -o $@ $<

hosts: all                                ## the extension loaded by the sqlite3 shell, Tcl, Python, apsw, Node
	sh tests/hosts.sh

.PHONY: dqlite asan asan-run valgrind valgrind-run analyse tree coverage fuzz fuzzers soak tsan tsan-run newest newest-run hosts
