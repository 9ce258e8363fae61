#!/usr/bin/env bash
# Proves and measures dtrain on a machine with an NVIDIA GPU, beside its peers, in under ten minutes: correctness, sanitizers,
# training to accuracy, several ranks, every stage against what the GPU can do. Nothing is fetched.
#
#     benchmarks/gpu.sh [--out FOLDER] [--budget SECONDS] [--only PART,PART] [--dry-run]
#
# From the repository after `cargo build --release --features cuda`, or from a folder that launch/pack-gpu.sh made. Needs python3;
# the peers need torch, transformers, peft, datasets, torchvision in it (parts that miss something are skipped with a line).
# --dry-run goes through all parts in tiny sizes on the CPU. Writes FOLDER/gpu.json and FOLDER/gpu.txt after each part.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/gpu.py" "$@"
