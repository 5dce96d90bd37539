#!/bin/sh
# Install what building, testing and fetching need on Debian 12; name the packages where we may not.
set -eu
packages="gcc make libc6-dev libsqlite3-dev sqlite3 libpcre2-dev libutf8proc-dev libb2-dev tcl libsqlite3-tcl python3-pip unzip ca-certificates"
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
    sudo=""
elif command -v sudo >/dev/null 2>&1; then
    sudo="sudo"
else
    echo "please install:$missing" >&2
    exit 1
fi
$sudo apt-get update -q
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends $missing
