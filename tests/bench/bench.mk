# bench.mk: how fast, and how faithful, beside others.

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

.PHONY: faith bench
