#!/usr/bin/env bash
# What CI has no time for: many simulated histories, every byte of a data directory changed, ten million log entries, every
# planted bug. Ends with a summary; exits 1 if anything did not hold.
#
#   scripts/nightly.sh                            100 000 histories of the default kind, 10 000 of each file in scenarios/
#   HISTORIES=1000 FROM=700000 scripts/nightly.sh  fewer, and other seeds
#
# A failure prints the command that runs it again and keeps the small plan under target/nightly/. When the bug is mended,
# the plan moves to tests/treasure/, with a word in `about` on what it found.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly HISTORIES="${HISTORIES:-100000}"
readonly FROM="${FROM:-0}"
readonly target="${CARGO_TARGET_DIR:-target}"
readonly kept="$target/nightly"
summary=()
failed=0

# Runs histories of one kind. On a failure the small plan is written down.
histories() {
  local name=$1 number=$2
  shift 2
  printf '\n==> %s: %s histories\n' "$name" "$number"
  local began=$SECONDS out="$kept/$name.txt"
  if "$target/sim/super-node" sim --seeds "$number" --from "$FROM" --save "$kept/$name.toml" "$@" \
    2>"$kept/$name.err" >"$out"; then
    summary+=("held    $name ($number histories, $((SECONDS - began)) s): $(grep -h '^slowest' "$out" || true)")
  else
    summary+=("BROKEN  $name: $(grep -h '^error\|reproduce' "$kept/$name.err" | tr '\n' ' '); plan: $kept/$name.toml")
    failed=1
    cat "$kept/$name.err" >&2
  fi
  cat "$out"
}

main() {
  cargo build --quiet --profile sim --bin super-node
  mkdir -p "$kept"
  histories default "$HISTORIES"
  local file
  for file in scenarios/*.toml; do
    histories "$(basename "$file" .toml)" "$((HISTORIES / 10))" --scenario "$file"
  done
  printf '\n==> every directed cut\n'
  "$target/sim/super-node" sim --cuts --from "$FROM" || { summary+=("BROKEN  directed cuts"); failed=1; }
  printf '\n==> storage: every byte of a directory changed, ten million entries\n'
  SUPER_NODE_TEST_EVERY_BYTE=1 cargo test --quiet --profile sim --test storage no_changed_byte ||
    { summary+=("BROKEN  a changed byte of a data directory"); failed=1; }
  scripts/ten-million.sh || { summary+=("BROKEN  the bounds of the log"); failed=1; }
  # The bugs that are planted to test the simulator itself, with the seeds that each one takes to be found.
  if [ -x scripts/planted.sh ]; then
    scripts/planted.sh || { summary+=("BROKEN  a planted bug was not found"); failed=1; }
  fi

  printf '\n==> summary\n'
  printf '%s\n' "${summary[@]}"
  [ "$failed" -eq 0 ] && printf 'everything held\n'
  return "$failed"
}

main "$@"
