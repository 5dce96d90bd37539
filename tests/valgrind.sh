#!/bin/sh
# valgrind.sh [NAME …]: tests/NAME.test, or every .test file, under valgrind's memcheck. What it says is printed; an error, a leak or
# a failed check is a failure. Its cpu has no AVX-512, so the kernels are avx2's. It runs one thread at a time: a second would only spin.
set -u
failed=0
[ $# -gt 0 ] || set -- $(cd tests && ls ./*.test | sed -e 's/^..//' -e 's/\.test$//')
mkdir -p build/tmp
for name in "$@"; do
    log=build/tmp/valgrind.$name.txt
    said=$(THREADS=1 valgrind -q --error-exitcode=99 --log-file="$log" --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite tclsh tests/run.tcl "tests/$name.test") && [ ! -s "$log" ] && result=clean || { result=failed; failed=1; }
    echo "valgrind: $name: $result: $(echo "$said" | sed -n '$p')"
    [ $result = clean ] || { echo "$said" | sed -n '/once more/,$p'; head -n 40 "$log"; }
done
exit $failed
