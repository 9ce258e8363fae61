#!/usr/bin/env bash
# A CUDA 13.0 compiler and its headers out of pip wheels, for machines that have neither a GPU nor a CUDA installation.
#
#     . launch/cuda-toolchain.sh          # sets CUDA_HOME, PATH, CUDA_COMPUTE_CAP, CUDARC_CUDA_VERSION
#     launch/cuda-toolchain.sh            # only fetches
#
# Fetched once (about 350 MB) into $DTRAIN_CUDA_HOME, by default ~/.cache/dtrain/cuda-13.0. A machine with a CUDA toolkit
# does not need this: set CUDA_HOME to it and build with --features cuda.
cuda_toolchain() {
    local root="${DTRAIN_CUDA_HOME:-$HOME/.cache/dtrain/cuda-13.0}" home wheels
    home="$root/nvidia/cu13"
    if [ ! -e "$root/complete" ]; then
        command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
            { echo "cuda-toolchain: python3 with pip is needed to fetch the CUDA wheels" >&2; return 1; }
        wheels="$root/wheels"
        mkdir -p "$wheels" || return 1
        echo "fetching the CUDA 13.0 compiler into $root" >&2
        python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$wheels" \
            nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
            nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-curand==10.4.0.35 || return 1
        for wheel in "$wheels"/*.whl; do
            python3 -m zipfile -e "$wheel" "$root" || return 1
        done
        chmod a+x "$home"/bin/* "$home"/nvvm/bin/* || return 1
        # The linker looks for an unversioned libcudart.a; everything else is found at run time, never at link time.
        cp "$home/lib/libcudart_static.a" "$home/lib/libcudart.a" || return 1
        find "$home/lib" -name 'lib*.so' -delete
        rm -rf "$wheels"
        touch "$root/complete"
    fi
    export CUDA_HOME="$home" CUDA_PATH="$home" CUDARC_CUDA_VERSION=13000
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" PATH="$home/bin:$PATH"
}
cuda_toolchain || { echo "cuda-toolchain: no CUDA toolchain" >&2; return 1 2>/dev/null || exit 1; }
