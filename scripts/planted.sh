#!/usr/bin/env bash
# Tests the tests: plants known bugs (tests/planted/*.toml) and sees whether the simulator finds each of them.
#
#   scripts/planted.sh                    every bug, each within its own number of histories
#   scripts/planted.sh NAME...            only these
#   scripts/planted.sh --write            every bug; then writes the table into docs/planted.md
#   scripts/planted.sh --sound N          runs N histories without a bug first (default 200; 0: none)
#
# All bugs are applied to one copy of the tree, target/planted/tree, which is built once; an environment variable
# switches one of them on. A bug is looked for from seed 0 on. It counts as found only if the invariant that is broken is
# one that its file names. Exits 1 if a bug is not found, or if the copy breaks an invariant without any.
#
# To look at a bug: SUPER_NODE_PLANTED=NAME target/planted/target/sim/super-node sim --seed N
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PLACE=target/planted
readonly PROGRAM=$PLACE/target/sim/super-node
# Longest search for one bug, in seconds: beyond it the bug counts as not found.
readonly PATIENCE="${PLANTED_PATIENCE:-900}"

sound=200
write=0
wanted=()
while [ "$#" -gt 0 ]; do
  case $1 in
    --sound) sound=${2:?--sound needs a number}; shift ;;
    --write) write=1 ;;
    -*) echo "unknown option '$1'" >&2; exit 2 ;;
    *) wanted+=("$1") ;;
  esac
  shift
done

is_wanted() {
  [ "${#wanted[@]}" -eq 0 ] && return 0
  local name
  for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
  return 1
}

# The test checks the list and makes the copy.
cargo test --quiet --test planted every_bug_can_be_planted >"$PLACE.log" 2>&1 || { cat "$PLACE.log" >&2; exit 1; }
for name in ${wanted[@]+"${wanted[@]}"}; do
  cut -f1 "$PLACE/bugs.tsv" | grep -qx "$name" || { echo "no planted bug is called '$name'" >&2; exit 2; }
done
cargo build --quiet --manifest-path "$PLACE/tree/Cargo.toml" --profile sim --bin super-node \
  --target-dir "$PLACE/target"

# Runs histories with a bug switched on; its answer is in $PLACE/NAME.out and .err.
hunt() { # name, seeds, scenario
  local options=(sim --seeds "$2" --no-shrink --output json)
  [ "$3" = - ] || options+=(--scenario "scenarios/$3.toml")
  SUPER_NODE_PLANTED=$1 timeout "$PATIENCE" "$PROGRAM" "${options[@]}" >"$PLACE/$1.out" 2>"$PLACE/$1.err"
}

if [ "$sound" -gt 0 ]; then
  echo "without a bug: $sound histories"
  hunt none "$sound" - || { cat "$PLACE/none.err" >&2; echo "the copy is not sound" >&2; exit 1; }
fi

rows=()
missed=0
began=$SECONDS
while IFS=$'\t' read -r name seeds scenario hazards what invariants; do
  is_wanted "$name" || continue
  since=$SECONDS found='' caught=''
  if ! hunt "$name" "$seeds" "$scenario"; then
    # The first of the reported violations; histories are reported in the order of their seeds.
    found=$(tr -d '\n' <"$PLACE/$name.out" \
      | grep -o '"seed": *[0-9]*, *"invariant": *"[^"]*", *"what": *"[^"]*' | head -n 1 || true)
  fi
  if [ -z "$found" ]; then
    echo "MISSED   $name: not found in $seeds histories ($((SECONDS - since)) s)"
    missed=$((missed + 1))
    continue
  fi
  seed=$(sed 's/^"seed": *\([0-9]*\).*/\1/' <<<"$found")
  caught=$(sed 's/^.*"invariant": *"\([^"]*\)".*$/\1/' <<<"$found")
  told=$(sed 's/^.*"what": *"//' <<<"$found")
  case "|$invariants|" in
    *"|$caught|"*) ;;
    *)
      echo "ODD      $name: seed $seed found something else: $told"
      missed=$((missed + 1))
      continue
      ;;
  esac
  echo "found    $name: seed $seed, by: $told ($((SECONDS - since)) s)"
  [ "$scenario" = - ] && where='' || where=" of \`$scenario\`"
  rows+=("| \`$name\` | $hazards | $what | $((seed + 1))$where | $seeds | $caught |")
done <"$PLACE/bugs.tsv"

printf '\n| bug | hazards | what it does | histories needed | allowed | caught by |\n|---|---|---|---|---|---|\n'
printf '%s\n' ${rows[@]+"${rows[@]}"}
printf '\n%s found, %s missed, %s s\n' "${#rows[@]}" "$missed" "$((SECONDS - began))"
[ "$missed" -eq 0 ] || exit 1

if [ "$write" -eq 1 ] && [ "${#wanted[@]}" -eq 0 ]; then
  {
    sed '/^| bug | hazards/,$d' docs/planted.md
    printf '| bug | hazards | what it does | histories needed | allowed | caught by |\n|---|---|---|---|---|---|\n'
    printf '%s\n' "${rows[@]}"
  } >"$PLACE/planted.md"
  cp "$PLACE/planted.md" docs/planted.md
  echo "docs/planted.md is written"
fi
