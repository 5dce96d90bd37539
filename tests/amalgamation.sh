#!/bin/sh
# Fetch the newest amalgamation of SQLite that npm's better-sqlite3 carries into build/sqlite.
set -eu
[ -f build/sqlite/sqlite3.c ] && exit 0
command -v npm >/dev/null || { echo "skipped: $1: no npm here to fetch SQLite's amalgamation with"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p build/sqlite
(cd "$folder" && npm pack --silent better-sqlite3 >/dev/null && tar xzf better-sqlite3-*.tgz) ||
    { echo "skipped: $1: SQLite's amalgamation could not be fetched"; exit 1; }
mv "$folder"/package/deps/sqlite3/sqlite3.c "$folder"/package/deps/sqlite3/*.h build/sqlite/
