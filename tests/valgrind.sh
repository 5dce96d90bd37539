#!/bin/sh
# valgrind.sh [NAME …]: tests/NAME.test, or every .test file, under valgrind's memcheck. What it says is printed; an error is a
# failure. Its cpu has no AVX-512, so the kernels are avx2's. It runs one thread at a time: a second one would only spin.
set -u
failed=0
[ $# -gt 0 ] || set -- $(cd tests && ls ./*.test | sed -e 's/^..//' -e 's/\.test$//')
for name in "$@"; do
    log=build/tmp/valgrind.$name.txt
    mkdir -p build/tmp
    THREADS=1 valgrind -q --error-exitcode=99 --log-file="$log" --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        tclsh tests/run.tcl "tests/$name.test" | sed -n '$p'
    if [ -s "$log" ]; then
        failed=1
        head -n 40 "$log"
    else
        echo "valgrind: $name: clean"
    fi
done
exit $failed
