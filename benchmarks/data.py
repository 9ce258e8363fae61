#!/usr/bin/env python3
"""Decode + RandomResizedCrop(224) + flip + normalize on one core: dtrain against Pillow + torchvision.

    cargo bench --bench preprocess --no-run          # prints the path of the executable
    python benchmarks/data.py EXECUTABLE FOLDER... [--rounds 7] [--core 0] [--record FILE.md]

Both sides read the same files from memory and run in turns, pinned to the same core. Times are CPU times of the process
(the machine may be shared); a row is the median over the rounds, with the fastest and slowest in brackets. The crops are
drawn from the same distribution, each side with its own random numbers. Needs torch, torchvision and pillow.
"""
import argparse, glob, io, os, platform, statistics, subprocess, sys, time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
arguments = argparse.ArgumentParser()
arguments.add_argument("executable")
arguments.add_argument("folders", nargs="+")
arguments.add_argument("--rounds", type=int, default=7)
arguments.add_argument("--core", type=int, default=0)
arguments.add_argument("--record")
a = arguments.parse_args()
os.sched_setaffinity(0, {a.core})

import PIL, torch, torchvision
from PIL import Image, features
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

torch.set_num_threads(1)
transform = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])


def pillow(files):
    start = time.process_time()
    for i in range(0, len(files), 32):
        torch.stack([transform(Image.open(io.BytesIO(f)).convert("RGB")) for f in files[i:i + 32]])
    return time.process_time() - start


class Ours:
    def __init__(self, folder):
        self.process = subprocess.Popen([a.executable, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.images = int(self.process.stdout.readline())

    def __call__(self):
        self.process.stdin.write("\n"); self.process.stdin.flush()
        return [float(v) for v in self.process.stdout.readline().split()]


def spread(values):
    return f"{statistics.median(values):7.0f} [{min(values):.0f}-{max(values):.0f}]"


cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
lines = [
    f"{cpu}, one core; Pillow {PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}), "
    f"torchvision {torchvision.__version__}; {a.rounds} rounds in turns, CPU time, median [slowest-fastest]", "",
    "| images | KB | dtrain images/s | Pillow + torchvision images/s | ratio | of dtrain's: decode, resize + normalize |",
    "|---|---|---|---|---|---|"]
for folder in a.folders:
    paths = sorted(p for p in glob.glob(folder + "/*") if os.path.isfile(p))
    files = [open(p, "rb").read() for p in paths]
    ours = Ours(folder)
    assert ours.images == len(files)
    ours(); pillow(files[:32])
    mine, theirs, parts = [], [], []
    for _ in range(a.rounds):
        total, decode, resample = ours()
        mine.append(len(files) / total)
        parts.append((decode / len(files) * 1e6, resample / len(files) * 1e6))
        theirs.append(len(files) / pillow(files))
    ours.process.stdin.close()
    ratio = statistics.median(mine) / statistics.median(theirs)
    decode, resample = (statistics.median(p[i] for p in parts) for i in (0, 1))
    kilobytes = sum(map(len, files)) / len(files) / 1024
    lines.append(f"| {len(files)} of {os.path.basename(folder.rstrip('/'))} | {kilobytes:.0f} | {spread(mine)} | "
                 f"{spread(theirs)} | {ratio:.2f} | {decode:.0f} us, {resample:.0f} us |")
    print(lines[-1], file=sys.stderr, flush=True)
print("\n".join(lines))
if a.record:
    with open(a.record, "w") as f:
        f.write("# Data path on one core\n\n" + "\n".join(lines) + "\n")
