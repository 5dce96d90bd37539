#!/bin/sh
# analyse.sh FILE …: clang-tidy with clang's static analyser and its checks for likely bugs. Left out is what asks for another
# style (parameters of one type side by side, strcmp without == 0, an int times an int as an index, macros whose argument is a
# type or a statement, two branches alike, an assignment in a condition, our include guards) and for Annex K's functions in place of memcpy and snprintf;
# narrowing is gcc's -Wconversion to find.
set -eu
checks='-*,clang-analyzer-*,-clang-analyzer-security.insecureAPI.*,-clang-analyzer-optin.performance.Padding,bugprone-*,-bugprone-easily-swappable-parameters'
checks="$checks,-bugprone-suspicious-string-compare,-bugprone-not-null-terminated-result,-bugprone-implicit-widening-of-multiplication-result"
checks="$checks,-bugprone-macro-parentheses,-bugprone-branch-clone,-bugprone-narrowing-conversions,-bugprone-assignment-in-if-condition,-bugprone-reserved-identifier"
numbers='{CheckOptions: [{key: bugprone-signed-char-misuse.CharTypdefsToIgnore, value: int8_t}]}'     # an int8_t is no character
failed=0
for file in "$@"; do
    contract="-include tests/analyse.h"
    case $file in
    */avx2.c) cpu="-mavx2 -mfma -mf16c" ;;
    */vnni.c) cpu="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c" ;;
    */amx.c) cpu="-mamx-tile -mamx-int8 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c" ;;
    */err.c | */mem.c) cpu="" contract="" ;;
    *) cpu="" ;;
    esac
    # shellcheck disable=SC2086
    clang-tidy --quiet --warnings-as-errors='*' -checks="$checks" -config="$numbers" "$file" -- -std=c11 -D_GNU_SOURCE= -Ibuild/analyse -DLM_COMMIT='"x"' $cpu $contract 2>/dev/null || failed=1
done
exit $failed
