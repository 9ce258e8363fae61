#!/usr/bin/env bash
# usage: launch/mpirun.sh RANKS [dtrain's flags]
# Starts dtrain on this machine with so many ranks. Root and more ranks than cores are allowed: containers have both.
# Ranks are not bound to cores, since each of them has threads of its own.
set -euo pipefail
[ $# -ge 1 ] && [ "$1" -ge 1 ] 2>/dev/null || { echo "usage: $0 RANKS [dtrain's flags]" >&2; exit 2; }
ranks=$1
shift
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${DTRAIN:-${CARGO_TARGET_DIR:-$repository/target}/release/dtrain}
[ -x "$program" ] || { echo "error: no program at $program: run cargo build --release" >&2; exit 1; }
options=(--bind-to none -n "$ranks")
if mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
    options+=(--oversubscribe)
    [ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
fi
exec mpirun "${options[@]}" "$program" "$@"
