#!/bin/sh
# Run an example on a fresh database, showing each statement and what it gives. Usage: run.sh NAME
set -eu
example=sql/examples/$1.sql
base=models/SmolLM2-135M-Instruct.Q4_1.gguf
options='{"name":"dials","dtype":"f16"}'
[ -f "$base" ] || make -s "$base" || base=models/tiny.gguf
database=$(mktemp)
trap 'rm -f "$database" "$database"-*' EXIT
sqlite3 "$database" ".load build/lm" "SELECT lm_import('$base', '$options')" >/dev/null
echo "$base"
sqlite3 -header -column "$database" ".load build/lm" ".echo on" ".read $example"
