# What stands before the commands of a document when tests/docs.rs runs them (bash -eu). stdin is a pipe that lives as long as
# the test: super-nodes end with it.
#
# The commands are run as they are written. Only what somebody does with several terminals and their eyes is done here: nodes and
# agents go to the background, what never ends is ended after two seconds, what is not there yet is waited for, and processes
# are only looked for among those that the document has started.

exec 9<&0 </dev/null
pids=$PWD/.pids
logs=$PWD/.logs
binary=$(type -P super-node)
mkdir -p "$pids" "$logs"

is_alive() { readlink "/proc/$1/exe" >/dev/null 2>&1; }
pid_in() { sed -n 's/^pid //p' "$1"; }

end_all() {
  local file
  for file in "$pids"/*; do
    if [ -e "$file" ] && is_alive "$(pid_in "$file")"; then kill -9 "$(pid_in "$file")" || true; fi
  done
}
trap end_all EXIT

super-node() {
  local code begun=$SECONDS
  case " $* " in
  " start "* | " agent "*)
    local log pid
    log=$(mktemp "$logs/XXXXXX")
    # By its path, not by "command": what is told to end must be the process itself.
    "$binary" "$@" --exit-with-parent <&9 >"$log" 2>&1 &
    pid=$!
    printf 'pid %s\n%s\n' "$pid" "$*" >"$pids/$pid"
    # A person sees it in the other terminal.
    while [ "$1" = start ] && is_alive "$pid" && ! grep -q ' serves ' "$log"; do sleep 0.1; done
    is_alive "$pid" || { echo "it ended at once: $*"; tail -n 5 "$log"; return 1; }
    return 0
    ;;
  *" --follow "* | *" --watch "* | " kv watch "*)
    code=0
    timeout 2 super-node "$@" || code=$?
    [ "$code" = 124 ] || return "$code"
    return 0
    ;;
  " ledger claim "*)
    until command super-node -o json ledger balances --member "$3" | grep -Eq '"balance":([3-9][0-9]{6}|[0-9]{8})'; do
      [ $((SECONDS - begun)) -lt 40 ] || { echo "$3 is not paid"; return 1; }
      sleep 0.3
    done
    ;;
  esac
  while :; do
    code=0
    command super-node "$@" || code=$?
    # Not found: a person reads more slowly than this script.
    if [ "$code" != 6 ] || [ $((SECONDS - begun)) -ge 40 ]; then return "$code"; fi
    sleep 0.3
  done
}

curl() {
  local code=0
  case " $* " in
  *" -N "*)
    timeout 2 curl "$@" || code=$?
    [ "$code" = 124 ] || return "$code"
    ;;
  *) command curl "$@" ;;
  esac
}

# pkill -SIGNAL -f PATTERN
pkill() {
  local file found=1
  for file in "$pids"/*; do
    if grep -qF -e "$3" "$file" && is_alive "$(pid_in "$file")"; then
      found=0
      kill "$1" "$(pid_in "$file")"
      echo "was told to end" >>"$file"
    fi
  done
  return "$found"
}

# pgrep -f PATTERN
pgrep() {
  local file found=1
  for file in "$pids"/*; do
    if grep -qF -e "$2" "$file" && is_alive "$(pid_in "$file")"; then
      found=0
      pid_in "$file"
    fi
  done
  return "$found"
}

# At the end: everything that was started and not told to end still runs.
all_live() {
  local file
  for file in "$pids"/*; do
    [ -e "$file" ] || continue
    grep -q "was told to end" "$file" || is_alive "$(pid_in "$file")" || {
      echo "it has ended: $(tail -n 1 "$file")"
      tail -n 5 "$logs"/*
      return 1
    }
  done
}
