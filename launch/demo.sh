#!/usr/bin/env bash
# The whole way on a fresh machine: installs what is missing, builds, makes a small dataset and a small pretrained ViT, and
# fine-tunes it with the recipe vit-lora on two MPI ranks. Can be run again. Results lie in work/demo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$repository"
demo=work/demo

say "building"
cargo build --release
DTRAIN="$target_folder/release/dtrain"
export DTRAIN
begun=$(date +%s)

say "making a dataset and a base model"
"$DTRAIN" demo "$demo"

# Whole pictures, as in evaluation: a small crop of one of these shapes often looks like another shape.
say "fine-tuning on two ranks"
./launch/mpirun.sh 2 --recipe vit-lora --model "$demo/base-vit" --dataset "$demo/shapes" \
    --train-split train --validation-split validation --train-transform eval \
    --per-device-train-batch-size 16 --gradient-accumulation-steps 1 \
    --output-dir "$demo/fine-tuned" --overwrite-output-dir

accuracy=$(sed -n 's/.*"eval_accuracy": *\([0-9.]*\).*/\1/p' "$demo/fine-tuned/all_results.json")
say "done in $(($(date +%s) - begun)) s after the build"
echo "validation accuracy: $accuracy"
echo "adapter, history and checkpoints: $repository/$demo/fine-tuned"
