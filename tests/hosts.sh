#!/bin/sh
# Load build/lm.so into every host that is here or can be fetched, and ask each the same. The sqlite3 shell's answers are
# the right ones. Usage: hosts.sh; what it fetches stands in build/hosts. PYTHON, NODE: which to use.
set -u
python=${PYTHON:-python3} node=${NODE:-node} folder=$PWD/build/hosts passed=0 failed=0
mkdir -p "$folder"
import="SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"tiny\"}')"
ask="SELECT group_concat(x, ' ') FROM (SELECT generate('Once', '{\"template\":\"none\",\"max_tokens\":12}') AS x
     UNION ALL SELECT hex(embed('the sea', '{\"model\":\"tiny\",\"dimensions\":4}')) UNION ALL SELECT lm_check()
     UNION ALL SELECT group_concat(piece, '') FROM generate_stream('the sea', '{\"max_tokens\":5}')
     UNION ALL SELECT sum(n_params) FROM lm_parameters('tiny'))"
export import ask
command -v sqlite3 >/dev/null || { echo "skipped: no sqlite3 shell"; exit 0; }
right=$(sqlite3 :memory: '.load build/lm' "$import" "$ask") || { echo "sqlite3 shell: it cannot load build/lm: 0 passed, 1 failed"; exit 1; }
right=${right#tiny?}

# check NAME ANSWER STATUS: hold an answer against the shell's.
check() {
    if [ "$3" = 0 ] && [ "${2#*|}" = "$right" ]; then
        passed=$((passed + 1))
        echo "$1 ${2%%|*}: as the sqlite3 shell"
    else
        failed=$((failed + 1))
        echo "$1: status $3: $2"
    fi
}

check "sqlite3 shell" "$(sqlite3 --version | cut -d' ' -f1)|$right" 0

if command -v tclsh >/dev/null; then
    got=$(tclsh 2>&1 <<'TCL'
package require sqlite3
sqlite3 db :memory:
db enable_load_extension 1
db eval { SELECT load_extension('build/lm', 'sqlite3_lm_init') }
db eval $env(import)
puts [db version]|[db onecolumn $env(ask)]
TCL
    )
    check Tcl "$got" $?
else
    echo "skipped: Tcl: no tclsh here"
fi

# A Python without enable_load_extension cannot load anything; Debian's has it.
loads() { "$1" -c 'import sqlite3; sqlite3.Connection.enable_load_extension' 2>/dev/null; }
debian=/usr/bin/python3
loads "$python" || ! loads $debian || python=$debian
if ! command -v "$python" >/dev/null; then
    echo "skipped: Python: no $python here"
elif ! loads "$python"; then
    echo "skipped: Python's sqlite3: $python was built without enable_load_extension"
else
    got=$("$python" - 2>&1 <<'PYTHON'
import os, sqlite3, threading
db = sqlite3.connect(":memory:", check_same_thread=False)
db.enable_load_extension(True)
db.load_extension("build/lm")
db.execute(os.environ["import"]).fetchall()
db.set_progress_handler(lambda: 0, 100)
out = []
# Another thread, with little stack.
threading.stack_size(256 * 1024)
t = threading.Thread(target=lambda: out.append(db.execute(os.environ["ask"]).fetchone()[0]))
t.start()
t.join()
db.close()
print(sqlite3.sqlite_version + "|" + out[0])
PYTHON
    )
    check "Python's sqlite3" "$got" $?
fi

if command -v "$python" >/dev/null; then
    PYTHONPATH=$folder/python "$python" -c 'import apsw' 2>/dev/null || "$python" -m pip install -q --target "$folder/python" apsw >"$folder/pip.log" 2>&1
    if PYTHONPATH=$folder/python "$python" -c 'import apsw' 2>/dev/null; then
        got=$(PYTHONPATH=$folder/python "$python" - 2>&1 <<'PYTHON'
import apsw, os
db = apsw.Connection(":memory:")
db.enable_load_extension(True)
db.load_extension("build/lm.so", "sqlite3_lm_init")
db.execute(os.environ["import"]).fetchall()
print(apsw.sqlite_lib_version() + "|" + db.execute(os.environ["ask"]).fetchall()[0][0])
PYTHON
        )
        check apsw "$got" $?
    else
        echo "skipped: apsw: it could not be installed: $(tail -n 1 "$folder/pip.log")"
    fi
fi

if ! command -v "$node" >/dev/null; then
    echo "skipped: Node: no $node here"
else
    [ -d "$folder/node_modules/better-sqlite3" ] || npm install --silent --no-audit --no-fund --prefix "$folder" better-sqlite3 >"$folder/npm.log" 2>&1
    if NODE_PATH=$folder/node_modules "$node" -e 'new (require("better-sqlite3"))(":memory:")' 2>"$folder/node.log"; then
        got=$(NODE_PATH=$folder/node_modules "$node" - 2>&1 <<'NODE'
const db = new (require("better-sqlite3"))(":memory:");
db.loadExtension("build/lm.so");
db.prepare(process.env.import).all();
const version = db.prepare("SELECT sqlite_version()").pluck().get();
console.log(version + "|" + db.prepare(process.env.ask).pluck().get());
db.close();
NODE
        )
        check "Node's better-sqlite3" "$got" $?
    else
        echo "skipped: Node's better-sqlite3: it could not be installed: $(grep -h . "$folder/npm.log" "$folder/node.log" 2>/dev/null | grep -im 1 error)"
    fi
    if "$node" -e 'require("node:sqlite")' 2>/dev/null; then
        got=$("$node" --no-warnings - 2>&1 <<'NODE'
const db = new (require("node:sqlite").DatabaseSync)(":memory:", { allowExtension: true });
db.loadExtension("build/lm.so");
db.prepare(process.env.import).all();
const version = db.prepare("SELECT sqlite_version() AS v").get().v;
console.log(version + "|" + Object.values(db.prepare(process.env.ask).get())[0]);
NODE
        )
        check "Node's own" "$got" $?
    else
        echo "skipped: Node's own sqlite: $("$node" --version) has none"
    fi
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
