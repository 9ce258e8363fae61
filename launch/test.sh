#!/usr/bin/env bash
# All checks of dtrain: format, lints, every test, the build without MPI, and the build for GPUs with its tests, which run on a
# stand-in where there is no GPU. Installs what is missing; can be run again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"

# A CUDA toolkit of this machine, or the compiler out of wheels.
find_cuda() {
    [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || (install_missing_packages python3 python3-pip) || return 1
    # shellcheck source=cuda-toolchain.sh
    . launch/cuda-toolchain.sh
}

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

say "build for GPUs: lints, kernels, tests"
if find_cuda; then
    cargo clippy --release --features cuda --all-targets -- -D warnings
    # Registers and spills of every kernel, as the compiler told them in this build.
    kernels/ptxas.sh --built || status=$?
    cargo test --release --features cuda --test gpu 2>&1 | tee -a "$log" || status=$?
elif [ -n "${CI:-}" ]; then
    die "no CUDA compiler: continuous integration must build for GPUs"
else
    echo "SKIPPED: the build for GPUs and its tests, for lack of a CUDA compiler" | tee -a "$log"
fi

say "totals"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     /SKIPPED:/ { skipped++ }
     END { printf "%d passed, %d failed, %d ignored, %d skipped for lack of what they need\n", passed, failed, ignored, skipped }' "$log"
exit "$status"
