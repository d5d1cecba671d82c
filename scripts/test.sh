#!/usr/bin/env bash
# Every check of the project, in one command. Ends with a summary; exits 1 if any step failed.
#
#   scripts/test.sh                 all steps
#   scripts/test.sh format lint     only these steps
#
# Steps: format lint docs test demo demo-mongodb simulate deploy
#
# Needs a Rust toolchain. Uses cargo-nextest when it is installed, `cargo test` otherwise. The demo and the tests that
# only need a MongoDB use MONGODB_URI if that is set; tests that kill a mongod start one of their own: the one on PATH,
# else a cached one, else one that is fetched once.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ALL=(format lint docs test demo demo-mongodb simulate deploy)
readonly SIMULATED_HISTORIES="${SIMULATED_HISTORIES:-2000}"
readonly COURSE_SEEDS="${COURSE_SEEDS:-40}"
summary=()
failed=0

# The binary that the tests built too: built in full before a step runs it.
super_node() {
  cargo build --quiet --bin super-node
  "${CARGO_TARGET_DIR:-target}/debug/super-node" "$@"
}

step_format() { cargo fmt --check; }

step_lint() { cargo clippy --all-targets -- -D warnings; }

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items; }

step_test() {
  # Tests start servers of their own, which they kill: have the binary ready before their clocks run.
  local mongod
  mongod=$(scripts/fetch-mongod.sh)
  echo "mongod: $mongod"
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --no-fail-fast
  else
    echo "cargo-nextest is not installed: cargo test runs the same tests, one binary after the other"
    # Few at a time: process tests start whole clusters.
    cargo test --lib --bins --tests --no-fail-fast -- --test-threads=2
  fi
}

# Without MongoDB: `demo` would take a URI from the environment.
step_demo() {
  unset MONGODB_URI
  super_node demo --fast
}

# For machines this time: the last object says whether every check held.
step_demo-mongodb() {
  cargo build --quiet --bin super-node
  local last
  # Not `tee /dev/stderr`: where that is a file, it is opened anew and what the steps before wrote is gone.
  # The variable is for the command that the script starts, not for this shell.
  # shellcheck disable=SC2016
  last=$(scripts/with-mongod.sh sh -c \
    'exec "${CARGO_TARGET_DIR:-target}/debug/super-node" demo --fast -o json --mongodb "$MONGODB_URI"' \
    | tee >(cat >&2) | tail -n 1)
  case $last in
    *'"step":"summary"'*'"ok":true'*) ;;
    *) echo "the last object is not a summary that is ok" >&2; return 1 ;;
  esac
}

# With the binary that the tests built: a build that is optimised in full takes longer than it saves here.
step_simulate() {
  cargo build --quiet --bin super-node
  local simulator="${CARGO_TARGET_DIR:-target}/debug/super-node"
  "$simulator" sim --seeds "$SIMULATED_HISTORIES"
  local file
  for file in scenarios/*.toml; do "$simulator" sim --seeds 50 --scenario "$file"; done
  "$simulator" sim --cuts
  "$simulator" scenario run all --seeds "$COURSE_SEEDS"
}

# Compose file, manifests, unit and image, as far as that goes without an engine.
step_deploy() {
  cargo build --quiet --bin super-node
  scripts/check-deploy.sh "${CARGO_TARGET_DIR:-target}/debug/super-node"
}

# Runs one step and notes what became of it. A step that lacks an optional tool says so with code 77.
run_step() {
  local name=$1 began=$SECONDS code=0
  printf '\n==> %s\n' "$name"
  # A subshell with its own -e: the first command of a step that fails ends the step.
  set +e
  (set -e; "step_$name")
  code=$?
  set -e
  local took="$((SECONDS - began)) s"
  case $code in
    0) summary+=("passed   $name ($took)") ;;
    77) summary+=("skipped  $name (a tool is missing, see above)") ;;
    130 | 143) printf 'interrupted\n' >&2; exit "$code" ;;
    *) summary+=("FAILED   $name ($took, exit code $code)"); failed=1 ;;
  esac
}

known() {
  local step
  for step in "${ALL[@]}"; do [ "$step" = "$1" ] && return 0; done
  return 1
}

main() {
  local step steps=("$@")
  [ "$#" -gt 0 ] || steps=("${ALL[@]}")
  for step in "${steps[@]}"; do
    known "$step" || { echo "unknown step '$step': one of ${ALL[*]}" >&2; exit 2; }
  done
  for step in "${steps[@]}"; do run_step "$step"; done

  printf '\n==> summary\n'
  printf '%s\n' "${summary[@]}"
  if [ "$failed" -ne 0 ]; then
    printf 'some checks FAILED\n'
    exit 1
  fi
  printf 'all checks passed\n'
}

main "$@"
