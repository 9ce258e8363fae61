#!/usr/bin/env bash
# What building and running dtrain needs on Debian or Ubuntu: checks, and installs what is missing (as root or with sudo).
# Sourced by demo.sh and test.sh; can be run by itself and again.
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Open MPI, libclang (bindings to MPI), cmake and nasm (libjpeg-turbo), a C compiler.
needed_packages="libopenmpi-dev openmpi-bin libclang-dev clang cmake nasm pkg-config"

# Of the packages named.
install_missing_packages() {
    local missing="" package as_root=""
    command -v dpkg-query >/dev/null || die "this is no Debian or Ubuntu: install the equivalents of: $*"
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "missing packages:$missing; install them, or run this as root"
        as_root=sudo
    fi
    say "installing:$missing"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}

check_rust() {
    [ -d "$HOME/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null || die "no Rust toolchain: install one from https://rustup.rs"
    local wanted have
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repository/Cargo.toml")
    have=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -1)" = "$wanted" ] ||
        die "Rust $have is too old, $wanted is needed: rustup update stable"
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2086
install_missing_packages $needed_packages
check_rust
# A machine that builds again and again keeps its build folder outside the checkout.
if [ -z "${CARGO_TARGET_DIR:-}" ] && [ "${CI:-}" = true ]; then
    export CARGO_TARGET_DIR="$HOME/.cache/dtrain/target"
fi
target_folder=${CARGO_TARGET_DIR:-$repository/target}
