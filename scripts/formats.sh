#!/bin/sh
# Writes a small data directory, a snapshot and the bytes of connections, in the formats of this version, below
# tests/formats/N. For a new number N only: what was released is never written again, but must stay readable.
set -eu
cd "$(dirname "$0")/.."
number=${1:?usage: scripts/formats.sh N}
kept="$PWD/tests/formats/$number"
if [ -e "$kept" ]; then
    echo "error: $kept exists: the files of a released format are never written again" >&2
    exit 2
fi
mkdir -p "$kept"
SUPER_NODE_FORMATS_DIR="$kept" cargo test --quiet --test formats what_this_version_writes
SUPER_NODE_FORMATS_DIR="$kept" cargo test --quiet --lib network::formats::what_this_version_says
# The lock is of no use to anybody.
rm -f "$kept/data/lock"
du -sh "$kept"
