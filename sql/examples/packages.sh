#!/bin/sh
# Print real short documents, a line each: a package's name, a tab, the one-line description that Debian has of it. What
# apt knows (its lists come with `apt-get update`) of some sections for people rather than programs, or, where it has no
# lists, what is installed. Usage: packages.sh [LINES]
set -eu
{
    apt-cache dumpavail 2>/dev/null | awk '
        /^Package: / { name = $2 }
        /^Description(-en)?: / { text = substr($0, index($0, ": ") + 2) }
        /^Section: / { section = $2 }
        /^$/ { if (section ~ /^(games|graphics|sound|video|mail|editors|education|web|news|hamradio|math)$/) print name "\t" text; name = text = section = "" }'
    dpkg-query -W -f='${Package}\t${binary:Summary}\n'
} | awk -F '\t' -v most="${1:-1000000}" '$2 != "" && !seen[$1]++ && !seen[$2]++ && n++ < most'
