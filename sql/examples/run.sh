#!/bin/sh
# Run an example on a fresh database, showing each statement and what it gives. Usage: run.sh dials|search|sentiment|overfit|sharing|pairs|gpt1
set -eu
example=sql/examples/$1.sql
database=$(mktemp)
trap 'rm -f "$database" "$database"-*' EXIT
in_database() { sqlite3 "$database" ".load build/lm" "$@"; }
case $1 in
search)
    make -s models/all-MiniLM-L6-v2/model.safetensors models/vec0.so
    in_database "SELECT lm_import('models/all-MiniLM-L6-v2/', '{\"name\":\"minilm\"}')" "CREATE TABLE package(id INTEGER PRIMARY KEY, name, description)" >/dev/null
    sh sql/examples/packages.sh | in_database "CREATE TEMP TABLE line(name, description)" ".mode tabs" ".import /dev/stdin line" \
        "INSERT INTO package(name, description) SELECT name, description FROM line"
    in_database "SELECT count(*) || ' packages' FROM package"
    sqlite3 -header -column "$database" ".load build/lm" ".load models/vec0" ".echo on" ".read $example" ;;
gpt1)
    cat README.md sql/*.md ext/*.c engine/*/*.c >"$database-text"
    in_database "CREATE TABLE lesson AS SELECT CAST(readfile('$database-text') AS TEXT) AS text"
    sqlite3 -header -column "$database" ".load build/lm" ".echo on" ".read $example" ".echo off" ".shell grep VmHWM /proc/\$PPID/status" ;;
pairs)
    encoder=models/all-MiniLM-L6-v2
    make -s $encoder/model.safetensors || encoder=tests/golden/hf_bert
    in_database "SELECT lm_import('$encoder', '{\"name\":\"encoder\"}')" >/dev/null
    echo "$encoder"
    sqlite3 -header -column "$database" ".load build/lm" ".echo on" ".read $example" ;;
sentiment | overfit | sharing)
    [ $1 != sharing ] || in_database "CREATE TEMP TABLE wanted AS SELECT 2000 AS n" ".read models/stories.sql"
    sqlite3 -header -column "$database" ".load build/lm" ".echo on" ".read $example" ;;
*)
    base=models/SmolLM2-135M-Instruct.Q4_1.gguf
    [ -f "$base" ] || make -s "$base" || base=models/tiny.gguf
    in_database "SELECT lm_import('$base', '{\"name\":\"dials\",\"dtype\":\"f16\"}')" >/dev/null
    echo "$base"
    sqlite3 -header -column "$database" ".load build/lm" ".echo on" ".read $example" ;;
esac
