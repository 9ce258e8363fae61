#!/usr/bin/env bash
# All checks of dtrain: format, lints, every test, and the build without MPI. Installs what is missing; can be run again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"

say "format"
cargo fmt --check

say "lints"
cargo clippy --release --all-targets -- -D warnings

say "build without MPI"
cargo check --release --no-default-features

say "tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --release --no-fail-fast 2>&1 | tee "$log" || status=$?

say "totals"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     /SKIPPED:/ { skipped++ }
     END { printf "%d passed, %d failed, %d ignored, %d skipped for lack of reference material\n", passed, failed, ignored, skipped }' "$log"
exit "$status"
