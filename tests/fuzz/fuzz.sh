# fuzz.sh: fuzz each target for SECONDS (60): libFuzzer over ASan and UBSan, a table at the end. ONLY=name, or several.
#     make fuzz SECONDS=1800 ONLY="gguf tokenizer_json"
# What is found is left in build/fuzz/found; what is learnt, in build/fuzz/corpus, where the next run begins.
seconds=${SECONDS_EACH:-60}
names=$(ls tests/fuzz/*.c | sed 's,.*/,,; s,\.c$,,')
if ! command -v clang > /dev/null || ! echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return p[0] == n; }' |
        clang -x c -fsanitize=fuzzer,address -o /dev/null - 2> /dev/null; then
    for name in ${ONLY:-$names}; do echo "skipped: fuzz target $name: no clang with libFuzzer (Debian: clang libclang-rt-14-dev)"; done
    exit 0
fi
# UBSan keeps clang 14 busy with the AVX-512 kernels for minutes. Its pointer-overflow would object to NULL + 0, which is what an empty
# array's end is, and no overflow (C2y says so, N3322).
make -s BUILD=build/fuzz CC=clang VNNI_OPT=-fno-sanitize=undefined,float-cast-overflow OPT="-O1 -g -fno-omit-frame-pointer \
    -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize=pointer-overflow -fno-sanitize-recover=all" fuzzers || exit 1
tclsh tests/fuzz/seeds.tcl build/fuzz/seeds || exit 1
failed=0
for name in ${ONLY:-$names}; do
    corpus=build/fuzz/corpus/$name log=build/fuzz/$name.log kept=tests/fuzz/$name
    mkdir -p $corpus build/fuzz/found build/fuzz/seeds/$name
    [ -d $kept ] || kept=
    dict=tests/fuzz/$name.dict
    [ -f $dict ] || dict=
    build/fuzz/fuzz_$name -max_total_time=$seconds -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -max_len=16384 -print_final_stats=1 \
        -use_value_profile=1 -artifact_prefix=build/fuzz/found/$name- ${dict:+-dict=$dict} $corpus build/fuzz/seeds/$name $kept > $log 2>&1
    rc=$?
    [ $rc = 0 ] || failed=1
    awk -v name=$name -v rc=$rc '/cov: /{ for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "corp:") corp = $(i + 1) } }
        /stat::number_of_executed_units/{ n = $2 } / in [0-9]+ second/{ for (i = 1; i < NF; i++) if ($i == "in") s = $(i + 1) } /SUMMARY|ERROR: libFuzzer/{ what = $0 }
        END { printf "%-16s %10d executions %6d s %6d branches covered, corpus %s  %s\n", name, n, s, cov, corp, rc ? "FAILED: " what : "nothing found" }' $log
done
exit $failed
