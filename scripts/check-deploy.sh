#!/usr/bin/env bash
# Checks what deploys a super-node, without an engine, a cluster or a network:
#
#   scripts/check-deploy.sh                 the files among each other
#   scripts/check-deploy.sh SUPER_NODE      also that this binary takes the settings that they give it
#
# Compose files by whichever generations of the tool are here, alerts by promtool, manifests by scripts/check-manifests.py, the systemd unit by
# systemd-analyze, the image's last stage in a throw-away root if that can be made. What could not be checked is said.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly super_node=${1:-}
readonly unit=deploy/systemd/super-node.service
# A unit whose exposure is above this, in tenths of 0 to 10, is too open.
readonly EXPOSURE_MAX=20
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

not_checked() { printf 'not checked: %s\n' "$*"; }

check_compose() { # command…
  "$@" -f docker-compose.yml config --quiet
  "$@" -f docker-compose.yml --profile replica-set config --quiet
  "$@" -f docker-compose.yml --profile monitoring config --quiet
  printf 'compose file: %s\n' "$*"
}

compose_file() {
  local any=no
  if docker compose version >/dev/null 2>&1; then check_compose docker compose; any=yes; fi
  if command -v docker-compose >/dev/null 2>&1; then check_compose docker-compose; any=yes; fi
  [ "$any" = yes ] || not_checked "compose file: neither 'docker compose' nor 'docker-compose' is installed"
}

manifests() {
  if ! python3 -c 'import yaml' 2>/dev/null; then
    not_checked "manifests: python3-yaml is not installed"
    return
  fi
  python3 scripts/check-manifests.py
  python3 scripts/check-manifests.py --self-test
  [ -n "$super_node" ] || return 0
  # Each node's settings, as its container gets them, are settings of this binary.
  local line count=0 settings
  while IFS= read -r line; do
    declare -a settings="($line)"
    env -i "${settings[@]}" "$super_node" config check >"$work/settings" || { cat "$work/settings"; return 1; }
    count=$((count + 1))
  done < <(python3 scripts/check-manifests.py --environments)
  [ "$count" -eq 6 ] || { echo "error: $count nodes instead of 6" >&2; return 1; }
  echo "settings of $count nodes: config check"
}

# What Prometheus is given. Whether the nodes expose what it names is held by tests/monitoring.rs.
monitoring() {
  python3 -m json.tool deploy/grafana/super-node.json >/dev/null
  if ! command -v promtool >/dev/null 2>&1; then
    not_checked "alerts: promtool is not installed"
    return
  fi
  (
    cd deploy/prometheus
    promtool check config --lint=all --lint-fatal prometheus.yml
    promtool check rules --lint=all --lint-fatal alerts.yml
    promtool test rules alerts.test.yml
  ) >"$work/alerts" 2>&1 || { cat "$work/alerts" >&2; return 1; }
  echo "alerts: promtool check and test"
}

# With a binary that exists here instead of the installed one.
systemd_unit() {
  if ! command -v systemd-analyze >/dev/null 2>&1; then
    not_checked "unit: systemd-analyze is not installed"
    return
  fi
  sed "s|^ExecStart=/usr/local/bin/super-node |ExecStart=$(command -v true) |" "$unit" >"$work/super-node.service"
  ! cmp -s "$unit" "$work/super-node.service" || { echo "error: ExecStart is another" >&2; return 1; }
  # What it does not know, it only warns of.
  systemd-analyze verify "$work/super-node.service" 2>&1 | tee "$work/words"
  [ ! -s "$work/words" ] || return 1
  if systemd-analyze --help | grep -q -- --threshold; then
    systemd-analyze security --offline=true --threshold="$EXPOSURE_MAX" --no-pager \
      "$work/super-node.service" >"$work/security" || { tail -n 2 "$work/security"; return 1; }
  fi
  echo "unit: $unit"
}

# The last stage of the Dockerfile on top of this machine's own root, which it does not change: its commands, then the
# binary as its user, until it serves.
image() {
  local missing=""
  [ -n "$super_node" ] || missing="no binary was named"
  grep -q '^ID=debian' /etc/os-release 2>/dev/null || missing="this is not Debian"
  [ "$(id -u)" -eq 0 ] || missing="this needs root"
  local tool
  for tool in unshare setpriv chroot ip; do
    command -v "$tool" >/dev/null 2>&1 || missing="$tool is not installed"
  done
  # Some containers allow neither.
  # shellcheck disable=SC2016
  [ -n "$missing" ] || unshare --mount --net sh -ec '
    mount -t tmpfs none "$1" && cd "$1" && mkdir upper work root
    mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root
  ' sh "$work" 2>/dev/null || missing="no namespaces or no overlay here"
  if [ -n "$missing" ]; then
    not_checked "image: $missing"
    return
  fi
  python3 - >"$work/stage" <<'PYTHON'
import json, re, shlex
stage = open("Dockerfile").read().split("\nFROM ")[-1].replace("\\\n", " ")
lines = [re.match(r"([A-Z]+) (.+)", line) for line in stage.splitlines()]
one = {match[1]: match[2] for match in lines if match}
print("commands=" + shlex.quote("; ".join(match[2] for match in lines if match and match[1] == "RUN")))
print("target=" + shlex.quote(one["COPY"].split()[-1]))
print("user=" + shlex.quote(one["USER"]))
print("directory=" + shlex.quote(one["WORKDIR"]))
print("setting=" + shlex.quote(one["ENV"]))
print("start=" + shlex.quote(shlex.join(json.loads(one["ENTRYPOINT"]) + json.loads(one["CMD"]))))
print("health=" + shlex.quote(shlex.join(json.loads(re.search(r"HEALTHCHECK.*CMD (\[.*\])", stage)[1]))))
PYTHON
  mkdir "$work/mnt"
  # shellcheck disable=SC2016
  unshare --mount --net bash -euc '
    . "$1/stage"
    ip link set lo up
    mount -t tmpfs none "$1/mnt"
    upper=$1/mnt/upper root=$1/mnt/root
    mkdir "$upper" "$root" "$1/mnt/work"
    mount -t overlay none -o "lowerdir=/,upperdir=$upper,workdir=$1/mnt/work" "$root"
    mount --rbind /dev "$root/dev"
    mount --rbind /proc "$root/proc"
    touch "$root$target"
    mount --bind "$2" "$root$target"
    chroot "$root" sh -ec "$commands"
    as_user() {
      exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \
        env -i PATH=/usr/local/bin:/usr/bin:/bin "$setting" sh -c "cd $directory && exec $1"
    }
    as_user "$start" 2>"$1/log" &
    running=$!
    healthy=no
    for _attempt in $(seq 100); do
      if (as_user "$health") >"$1/health" 2>&1; then healthy=yes; break; fi
      kill -0 "$running" 2>/dev/null || break
      sleep 0.1
    done
    kill "$running" 2>/dev/null || true
    code=0
    wait "$running" || code=$?
    if [ "$healthy$code" != yes0 ]; then
      cat "$1/health" "$1/log"
      echo "error: healthy: $healthy, exit code $code"
      exit 1
    fi >&2
    # It wrote where its user may, and nowhere else.
    test -n "$(find "$upper$directory" -user "${user%:*}" -type f)"
    test -z "$(find "$upper" -path "$upper$directory" -prune -o -user "${user%:*}" -print)"
  ' bash "$work" "$(realpath "$super_node")"
  echo "image: the last stage starts as its user and is healthy"
}

compose_file
monitoring
manifests
systemd_unit
image
