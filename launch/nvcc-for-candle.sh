#!/usr/bin/env bash
# nvcc, but candle's kernels for quantised language models become stubs: 12 minutes of compiling become 2, and 37 MB go.
#
# Cargo's build scripts find it through NVCC (.cargo/config.toml). Everything else goes to the real nvcc: that of
# CUDA_HOME or CUDA_PATH, of /usr/local/cuda, or the first on PATH.
set -eu
for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    [ -n "$home" ] && [ -x "$home/bin/nvcc" ] && { real="$home/bin/nvcc"; break; }
done
real="${real:-$(command -v nvcc)}" || { echo "nvcc-for-candle: no nvcc; see launch/cuda-toolchain.sh" >&2; exit 127; }

source='' output='' folder='' kind=''
previous=''
for argument in "$@"; do
    case "$previous" in -o) output="$argument" ;; --output-directory) folder="$argument" ;; esac
    case "$argument" in *.cu) source="$argument" ;; -c | --ptx) kind="$argument" ;; esac
    previous="$argument"
done
case "${CARGO_PKG_NAME:-}:$kind:${source##*/}" in
candle-kernels:-c:mmq_* | candle-kernels:-c:mmvq_* | candle-kernels:-c:moe_*)
    # One of the objects has all the functions that candle-core refers to; calling one ends the program.
    {
        echo '#include <stdlib.h>'
        [ "${source##*/}" != moe_gguf.cu ] ||
            sed -n 's/.*pub fn \([a-z0-9_]*\) *(.*/void \1(void) { abort(); }/p' "$CARGO_MANIFEST_DIR/src/ffi.rs" | sort -u
    } | cc -x c -O1 -fPIC -c -o "$output" -
    ;;
candle-kernels:--ptx:quantized.cu)
    printf '.version 7.0\n.target sm_80\n.address_size 64\n' >"$folder/quantized.ptx"
    ;;
*) exec "$real" "$@" ;;
esac
