#!/bin/sh
# Writes ten million small entries through the log and checks that it keeps to its space bound (docs/storage.md).
# Prints the most bytes that it took, and how long it takes to open what is left.
set -eu
cd "$(dirname "$0")/.."
SUPER_NODE_TEST_ENTRIES="${1:-10000000}" exec cargo test --quiet --profile sim --test storage -- --nocapture however_many
