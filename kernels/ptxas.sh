#!/usr/bin/env bash
# What the compiler makes of every kernel: registers, spilled bytes, stack and static shared memory on each architecture.
#
#     kernels/ptxas.sh [FILE.cu ...]      # a table on standard output; without files: all kernels
#
# Needs nvcc (on a machine without a toolkit: `. launch/cuda-toolchain.sh` first). Fails if a kernel does not compile, or if
# a kernel spills. Also makes PTX for compute_90, which newer GPUs compile for themselves.
# Records: kernels/ptxas.sh > benchmarks/records/ptxas-$(date +%F).txt
set -eu
cd "$(dirname "$0")"
files=("$@")
[ $# -gt 0 ] || files=(*.cu)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra flags < nvcc.flags
nvcc --version | sed -n 's/.*release \([^,]*\), \(V.*\)/nvcc \2/p'
printf 'flags %s\n\n%-44s %-6s %9s %12s %11s %6s %13s\n' \
    "${flags[*]}" kernel arch registers spill_stores spill_loads stack static_shared
for file in "${files[@]}"; do
    nvcc "${flags[@]}" -arch=compute_90 -ptx -o "$work/k.ptx" "$file"
    for arch in sm_80 sm_90; do
        nvcc "${flags[@]}" -arch=$arch -cubin -Xptxas -v -o "$work/k.cubin" "$file" 2> "$work/log" ||
            { cat "$work/log" >&2; exit 1; }
        awk -v arch=$arch '
            /Compiling entry function/ { split($0, quoted, "\x27"); name = quoted[2] }
            /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
            /Used [0-9]+ registers/ {
                registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
                shared = 0
                if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
                printf "%-44s %-6s %9d %12d %11d %6d %13d\n", name, arch, registers, stores, loads, stack, shared
            }' "$work/log" | sort >> "$work/table"
    done
done
cat "$work/table"
awk '$4 + $5 > 0 { print "spills: " $1 " on " $2 > "/dev/stderr"; bad = 1 } END { exit bad }' "$work/table"
