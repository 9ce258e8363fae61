#!/bin/bash
# Every comparison that needs no GPU, one after the other: tables on stdout and in FOLDER/*.txt, raw numbers in FOLDER/*.json.
#
#     benchmarks/cpu.sh FOLDER INPUTS [PART...]
#
# INPUTS is what inputs.py made (with --photos). Parts, each of one to five minutes; without any, all of them:
# step-tiny step-small step-base allreduce data data-fast data-augment job-tiny job-small. PYTHON, DTRAIN and PREPROCESS name programs that are there.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
folder=$(realpath -m "$1") inputs=$(realpath "$2")
parts=("${@:3}")
[ ${#parts[@]} -gt 0 ] || parts=(step-tiny step-small step-base allreduce data data-fast data-augment job-tiny job-small)
cd "$here/.."
python=${PYTHON:-$(benchmarks/peers.sh)}
if [ -z "${DTRAIN:-}" ]; then
    cargo build --release
    DTRAIN=${CARGO_TARGET_DIR:-target}/release/dtrain
fi
if [ -z "${PREPROCESS:-}" ] && [[ " ${parts[*]} " == *" data"* ]]; then
    PREPROCESS=$(cargo bench --bench preprocess --no-run --message-format=json | "$python" -c '
import json, sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "preprocess"][-1])')
fi
mkdir -p "$folder"

compare() { # NAME SCRIPT ARGUMENTS...
    "$python" "benchmarks/$2" "${@:3}" --json "$folder/$1.json" 2>"$folder/$1.err" | tee "$folder/$1.txt" || { cat "$folder/$1.err" >&2; return 1; }
    rm "$folder/$1.err"
    echo
}
step() { compare "$1" step.py "$DTRAIN" "$inputs/$2" --batch "$3" --steps "$4" --rounds "$5"; }
job() { compare "$1" job.py "$DTRAIN" "$inputs/$2" "$inputs/job" --rounds 1; }

for part in "${parts[@]}"; do
    case $part in
    step-tiny) step "$part" vit-tiny 32 4 2 ;;
    step-small) step "$part" vit-small 16 3 2 ;;
    step-base) step "$part" vit-base 8 2 1 ;;
    allreduce) compare "$part" allreduce.py "$DTRAIN" --rounds 2 --repeat 5 ;;
    data) compare "$part" data.py "$PREPROCESS" "$inputs/drawn" "$inputs/photos" --rounds 3 ;;
    data-fast)
        for size in 224 112; do
            compare "$part-$size" data.py "$PREPROCESS" "$inputs/photos" --rounds 3 --peers pillow --size $size --decode fast
            compare "$part-$size-exact" data.py "$PREPROCESS" "$inputs/photos" --rounds 3 --peers pillow --size $size
        done ;;
    data-augment)
        for augment in none rand-augment color-jitter random-erasing; do
            compare "$part-$augment" data.py "$PREPROCESS" "$inputs/photos" --rounds 3 --peers pillow --augment $augment
        done ;;
    job-tiny) job "$part" vit-tiny ;;
    job-small) job "$part" vit-small ;;
    *) echo "no part $part" >&2; exit 2 ;;
    esac
done
