#!/usr/bin/env bash
# Runs a command with MONGODB_URI set to a MongoDB of its own, which ends with the command:
#
#   scripts/with-mongod.sh sh -c 'super-node demo --fast --mongodb "$MONGODB_URI"'
#
# A MONGODB_URI that is already set is used as it is. The exit code is the command's.
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: $0 COMMAND [ARGUMENT…]" >&2
  exit 2
fi
if [[ -n "${MONGODB_URI:-}" ]]; then
  exec "$@"
fi

binary="$("$(dirname "$0")/fetch-mongod.sh")"
work="$(mktemp -d)"
mongod=
cleanup() {
  if [[ -n "$mongod" ]]; then
    kill -9 "$mongod" 2>/dev/null || true
    wait "$mongod" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Another process may take the port between the choice and the use: then choose again.
for _attempt in 1 2 3 4 5; do
  port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
  rm -rf "$work/db"
  mkdir "$work/db"
  "$binary" --dbpath "$work/db" --bind_ip 127.0.0.1 --port "$port" --unixSocketPrefix "$work" \
    --wiredTigerCacheSizeGB 0.25 >"$work/log" 2>&1 &
  mongod=$!
  for _wait in $(seq 600); do
    kill -0 "$mongod" 2>/dev/null || break
    if grep -q '"Waiting for connections"' "$work/log"; then
      export MONGODB_URI="mongodb://127.0.0.1:$port/?directConnection=true"
      code=0
      "$@" || code=$?
      exit "$code"
    fi
    sleep 0.1
  done
done
echo "mongod did not start:" >&2
tail -n 5 "$work/log" >&2
exit 1
