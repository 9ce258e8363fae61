#!/usr/bin/env python3
"""Decode + RandomResizedCrop(224) + flip + normalize on one core: dtrain beside its peers.

    cargo bench --bench preprocess --no-run          # prints the path of the executable
    python benchmarks/data.py EXECUTABLE FOLDER... [--rounds 7] [--core 0] [--peers pillow,opencv] [--json FILE]

All sides read the same files from memory and run in turns, pinned to the same core. Times are CPU times of the process (the
machine may be shared); a row is the median over the rounds, with the slowest and fastest in brackets. The crops are drawn
from the same distribution, each side with its own random numbers. `benchmarks/peers.sh` installs the peers; one that is not
there is left out, and the table says so.

Equal to Pillow bit for bit: dtrain. Others decode or resize differently (OpenCV's and DALI's resize have no antialiasing or
another one), so they do less or other work.
"""
import argparse, glob, io, json, os, platform, statistics, subprocess, sys, time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
BATCH = 32


def pillow():
    import torch
    from PIL import Image
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
    transform = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])

    def go(files):
        for i in range(0, len(files), BATCH):
            torch.stack([transform(Image.open(io.BytesIO(f)).convert("RGB")) for f in files[i:i + BATCH]])
    return go


def torchvision_v2():
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2
    transform = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(),
                            v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])

    def go(files):
        for i in range(0, len(files), BATCH):
            decoded = (decode_image(torch.frombuffer(bytearray(f), dtype=torch.uint8), ImageReadMode.RGB)
                       for f in files[i:i + BATCH])
            torch.stack([transform(image) for image in decoded])
    return go


def opencv():
    import cv2, numpy, torch
    from torchvision.transforms import RandomResizedCrop
    cv2.setNumThreads(1)

    def sample(file):
        image = cv2.imdecode(numpy.frombuffer(file, numpy.uint8), cv2.IMREAD_COLOR_RGB)
        size = torch.empty(3, *image.shape[:2], device="meta")
        top, left, height, width = RandomResizedCrop.get_params(size, (0.08, 1.0), (3 / 4, 4 / 3))
        part = image[top:top + height, left:left + width]
        # INTER_AREA is OpenCV's way to shrink without aliasing.
        shrinks = height > 224 and width > 224
        part = cv2.resize(part, (224, 224), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if torch.rand(()) < 0.5:
            part = cv2.flip(part, 1)
        return part.transpose(2, 0, 1).astype(numpy.float32) * (2 / 255) - 1

    def go(files):
        for i in range(0, len(files), BATCH):
            numpy.stack([sample(f) for f in files[i:i + BATCH]])
    return go


def dali():
    import numpy
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_async=False,
                  exec_pipelined=False)
    def pipeline():
        encoded = fn.external_source(name="encoded", dtype=types.UINT8)
        image = fn.decoders.image_random_crop(encoded, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0],
                                              random_aspect_ratio=[3 / 4, 4 / 3], num_attempts=10)
        image = fn.resize(image, size=[224, 224], interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.crop_mirror_normalize(image, dtype=types.FLOAT, output_layout="CHW", mean=[127.5] * 3, std=[127.5] * 3,
                                        mirror=fn.random.coin_flip())
    built = pipeline()
    built.build()

    def go(files):
        arrays = [numpy.frombuffer(f, numpy.uint8) for f in files]
        for i in range(0, len(arrays) - BATCH + 1, BATCH):
            built.feed_input("encoded", arrays[i:i + BATCH])
            built.run()
    return go


PEERS = {"pillow": ("Pillow + torchvision", pillow), "torchvision": ("torchvision v2", torchvision_v2),
         "opencv": ("OpenCV", opencv), "dali": ("DALI (CPU)", dali)}


class Ours:
    def __init__(self, executable, folder):
        self.process = subprocess.Popen([executable, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.images = int(self.process.stdout.readline())

    def __call__(self):
        self.process.stdin.write("\n"); self.process.stdin.flush()
        return [float(v) for v in self.process.stdout.readline().split()]


def spread(values):
    return f"{statistics.median(values):.0f} [{min(values):.0f}-{max(values):.0f}]"


def versions():
    from importlib.metadata import version, PackageNotFoundError
    found = []
    for name in ["pillow", "torch", "torchvision", "opencv-python-headless", "nvidia-dali-cuda120"]:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return ", ".join(found)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("executable")
    arguments.add_argument("folders", nargs="+")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--core", type=int, default=0)
    arguments.add_argument("--peers", default=",".join(PEERS))
    arguments.add_argument("--json")
    a = arguments.parse_args()
    os.sched_setaffinity(0, {a.core})
    sides, absent = {}, []
    for key in a.peers.split(","):
        name, make = PEERS[key]
        try:
            sides[name] = make()
        except ImportError as error:
            absent.append(f"{name} ({error})")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    print(f"{cpu}, one core; {versions()}; {a.rounds} rounds in turns, CPU time, median [slowest-fastest]")
    for missing in absent:
        print(f"left out: {missing}")
    print("\n| images | side | images/s | dtrain is faster by |\n|---|---|---|---|")
    record = []
    for folder in a.folders:
        paths = sorted(p for p in glob.glob(folder + "/*") if os.path.isfile(p))
        files = [open(p, "rb").read() for p in paths]
        # Whole batches only, as DALI's pipeline takes them; dtrain's side reads the folder itself.
        assert len(files) % BATCH == 0, f"{folder}: {len(files)} files, give a multiple of {BATCH}"
        ours = Ours(a.executable, folder)
        assert ours.images == len(files)
        ours()
        for go in sides.values():
            go(files[:BATCH])
        speeds = {name: [] for name in ["dtrain", *sides]}
        parts = []
        for _ in range(a.rounds):
            total, decode, resample = ours()
            speeds["dtrain"].append(len(files) / total)
            parts.append((decode / len(files) * 1e6, resample / len(files) * 1e6))
            for name, go in sides.items():
                start = time.process_time()
                go(files)
                speeds[name].append(len(files) / (time.process_time() - start))
        ours.process.stdin.close()
        decode, resample = (statistics.median(p[i] for p in parts) for i in (0, 1))
        kilobytes = sum(map(len, files)) / len(files) / 1024
        label = f"{len(files)} of {os.path.basename(folder.rstrip('/'))}, {kilobytes:.0f} KB"
        mine = statistics.median(speeds["dtrain"])
        for name, values in speeds.items():
            ratio = f"decode {decode:.0f} us, the rest {resample:.0f} us" if name == "dtrain" else \
                f"{mine / statistics.median(values):.2f}"
            print(f"| {label} | {name} | {spread(values)} | {ratio} |", flush=True)
            record.append({"images": label, "side": name, "images_per_second": values})
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"processor": cpu, "versions": versions(), "rounds": a.rounds, "rows": record}, f, indent=1)


main()
