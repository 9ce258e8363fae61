#!/usr/bin/env bash
# Installs what the comparisons run against, from pip, into a virtual environment of its own; prints its python.
#
#     python=$(benchmarks/peers.sh) && $python benchmarks/data.py ...
set -euo pipefail
place=${DTRAIN_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/dtrain/peers}
if [ ! -e "$place/complete" ]; then
    {
        python3 -m venv "$place"
        "$place/bin/pip" install --quiet \
            torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets evaluate \
            scikit-learn pillow==13.0.0 opencv-python-headless==5.0.0.93
        # DALI's CPU pipeline needs no GPU; its wheel asks for CUDA libraries that only its GPU side uses.
        "$place/bin/pip" install --quiet --no-deps nvidia-dali-cuda120==2.4.0 nvidia-nvimgcodec-cu12
        "$place/bin/pip" install --quiet optree dm-tree astunparse makefun gast six
    } >&2
    touch "$place/complete"
fi
echo "$place/bin/python"
