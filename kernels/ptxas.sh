#!/usr/bin/env bash
# What the compiler makes of every kernel: registers, spilled bytes, stack and static shared memory on each architecture.
#
#     kernels/ptxas.sh [FILE.cu ...]      # compiles; without files: all kernels
#     kernels/ptxas.sh --built [FOLDER]   # what the last build with --features cuda said, below FOLDER (target by default)
#
# A table on standard output. Fails if a kernel does not compile, or if one spills more than 16 bytes a thread: less is a number
# that is kept aside once, more comes back in every round of a loop. Compiling needs nvcc (on a machine without a toolkit:
# `. launch/cuda-toolchain.sh` first).
# Records: kernels/ptxas.sh > benchmarks/records/ptxas-$(date +%F).txt
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra flags < "$here/nvcc.flags"
if [ "${1:-}" = --built ]; then
    built=${2:-${CARGO_TARGET_DIR:-$here/../target}}
    # Cargo keeps the outcome of several builds; the last one is meant.
    newest=$(find "$built" -path '*/build/dtrain-*/out/images.rs' -printf '%T@ %h\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
    [ -n "$newest" ] || { echo "ptxas.sh: no build with --features cuda below $built" >&2; exit 1; }
    cat "$newest"/*.ptxas > "$work/log"
else
    cd "$here"
    files=("$@")
    [ $# -gt 0 ] || files=(*.cu)
    nvcc --version | sed -n 's/.*release \([^,]*\), \(V.*\)/nvcc \2/p'
    for file in "${files[@]}"; do
        nvcc "${flags[@]}" -fatbin -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90 \
            -gencode=arch=compute_90,code=compute_90 -Xptxas -v -o "$work/k.fatbin" "$file" > "$work/said" 2>&1 ||
            { cat "$work/said" >&2; exit 1; }
        cat "$work/said" >> "$work/log"
    done
fi
printf 'flags %s\n\n%-44s %-6s %9s %12s %11s %6s %13s\n' \
    "${flags[*]}" kernel arch registers spill_stores spill_loads stack static_shared
awk '
    /Compiling entry function/ { split($0, quoted, "\x27"); name = quoted[2]; arch = quoted[4] }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
        registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
        printf "%-44s %-6s %9d %12d %11d %6d %13d\n", name, arch, registers, stores, loads, stack, shared
    }' "$work/log" | sort > "$work/table"
cat "$work/table"
[ -s "$work/table" ] || { echo "ptxas.sh: the compiler said nothing of any kernel" >&2; exit 1; }
awk '$4 > 16 || $5 > 16 { print "ptxas.sh: " $1 " spills on " $2 > "/dev/stderr"; bad = 1 } END { exit bad }' "$work/table"
