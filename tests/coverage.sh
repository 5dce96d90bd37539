#!/bin/sh
# coverage.sh: after make coverage has run the suite: branches of the readers of foreign bytes, file by file, then lines of
# everything; under 95 and 90 % is a failure. What can only happen when an allocation fails is the fault tests' business: the readers are counted with and
# without the lines that allocate. GCOVR: gcovr, version 8 or newer (pip install gcovr).
set -eu
gcovr=${GCOVR:-gcovr}
readers='engine/format/(file|gguf|hf|meta|reader|safetensors)\.c|engine/base/(json|utf8)\.c|engine/model/arch\.c|engine/token/(tok|tokjson|pipe|bpe|spm|wordpiece|unigram|added|pretok|regex|normal|decode|merge|chat)\.c|ext/(store|adapter|train_store|options|import)\.c'
memory='.*(lm_(alloc|calloc|realloc|grow)\(|LM_NOMEM|sqlite3_(malloc64|mprintf)\().*'
trace() {
    out=$1
    shift
    "$gcovr" -r . -f engine/ -f ext/ --exclude-unreachable-branches --merge-mode-functions=separate \
        --gcov-suspicious-hits-threshold=0 "$@" --json "build/coverage/$out.json" build/coverage
}
percent() { "$gcovr" -r . -a "build/coverage/$1.json" -s -o build/coverage/report.txt -f "$2" | sed -n "s/^$3: //p"; }

trace all
trace fed --exclude-branches-by-pattern "$memory"
"$gcovr" -r . -a build/coverage/fed.json -f "$readers" --txt --txt-metric branch
echo "readers, branches, lines that allocate left aside: $(percent fed "$readers" branches)"
echo "readers, branches, all:                            $(percent all "$readers" branches)"
echo "everything, lines:                                 $(percent all '.*' lines)"
at_least() { awk -v is="${1%%%*}" -v least="$2" 'BEGIN { exit !(is >= least) }' || { echo "$1, expected $2 %"; exit 1; }; }
at_least "$(percent fed "$readers" branches)" 95
at_least "$(percent all "$readers" branches)" 95
at_least "$(percent all '.*' lines)" 90
