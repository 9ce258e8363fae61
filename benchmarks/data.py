#!/usr/bin/env python3
"""Decode + RandomResizedCrop(224) + flip + normalize on one core: dtrain beside its peers.

    cargo bench --bench preprocess --no-run          # prints the path of the executable
    python benchmarks/data.py EXECUTABLE FOLDER... [--rounds 7] [--core 0] [--peers pillow,opencv] [--json FILE]
        [--size 224] [--decode fast] [--augment rand-augment|color-jitter|random-erasing]

All sides read the same files from memory and run in turns, pinned to the same core. Times are CPU times of the process (the
machine may be shared); a row is the median over the rounds, with the slowest and fastest in brackets. The crops are drawn
from the same distribution, each side with its own random numbers. `benchmarks/peers.sh` installs the peers; one that is not
there is left out, and the table says so.

--decode fast: decoding at a half, a quarter or an eighth of the size, where the crop is still as large as the sample. Of the
peers Pillow can do that (Image.draft, which is libjpeg-turbo's scaled decoding). --augment: RandAugment(2, 9),
ColorJitter(0.4, 0.4, 0.4, 0.1) or RandomErasing of every sample, by torchvision on Pillow images; what others cannot do
leaves them out.

Equal to Pillow bit for bit: dtrain, without --decode fast. Others decode or resize differently (OpenCV's and DALI's resize have no antialiasing or
another one), so they do less or other work.
"""
import argparse, glob, io, json, os, platform, statistics, subprocess, sys, time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
BATCH = 32


class Unable(Exception):
    pass


def exact_and_plain(options):
    if options.decode == "fast" or options.augment != "none":
        raise Unable("does nothing of this kind")


def pillow(options):
    import torch
    from PIL import Image
    from torchvision.transforms import (ColorJitter, Compose, Normalize, RandAugment, RandomErasing, RandomHorizontalFlip,
                                        RandomResizedCrop, ToTensor)
    size = options.size
    on_pictures = {"rand-augment": [RandAugment(2, 9)], "color-jitter": [ColorJitter(0.4, 0.4, 0.4, 0.1)]}
    behind = [RandomHorizontalFlip(), *on_pictures.get(options.augment, []), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    if options.augment == "random-erasing":
        behind.append(RandomErasing(1.0))
    if options.decode == "fast":
        behind = Compose(behind)

        def transform(image):
            width, height = image.size
            whole = torch.empty(3, height, width, device="meta")
            top, left, rows, columns = RandomResizedCrop.get_params(whole, (0.08, 1.0), (3 / 4, 4 / 3))
            # The smallest of its scales at which the crop has at least as many pixels as the sample.
            image.draft("RGB", (-(-width * size // columns), -(-height * size // rows)))
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
            return behind(image.convert("RGB").resize((size, size), Image.BILINEAR, box))
        open_image = Image.open
    else:
        transform = Compose([RandomResizedCrop(size), *behind])
        open_image = lambda file: Image.open(file).convert("RGB")

    def go(files):
        for i in range(0, len(files), BATCH):
            torch.stack([transform(open_image(io.BytesIO(f))) for f in files[i:i + BATCH]])
    return go


def torchvision_v2(options):
    exact_and_plain(options)
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2
    transform = v2.Compose([v2.RandomResizedCrop(options.size, antialias=True), v2.RandomHorizontalFlip(),
                            v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])

    def go(files):
        for i in range(0, len(files), BATCH):
            decoded = (decode_image(torch.frombuffer(bytearray(f), dtype=torch.uint8), ImageReadMode.RGB)
                       for f in files[i:i + BATCH])
            torch.stack([transform(image) for image in decoded])
    return go


def opencv(options):
    exact_and_plain(options)
    side = options.size
    import cv2, numpy, torch
    from torchvision.transforms import RandomResizedCrop
    cv2.setNumThreads(1)

    def sample(file):
        image = cv2.imdecode(numpy.frombuffer(file, numpy.uint8), cv2.IMREAD_COLOR_RGB)
        size = torch.empty(3, *image.shape[:2], device="meta")
        top, left, height, width = RandomResizedCrop.get_params(size, (0.08, 1.0), (3 / 4, 4 / 3))
        part = image[top:top + height, left:left + width]
        # INTER_AREA is OpenCV's way to shrink without aliasing.
        shrinks = height > side and width > side
        part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if torch.rand(()) < 0.5:
            part = cv2.flip(part, 1)
        return part.transpose(2, 0, 1).astype(numpy.float32) * (2 / 255) - 1

    def go(files):
        for i in range(0, len(files), BATCH):
            numpy.stack([sample(f) for f in files[i:i + BATCH]])
    return go


def dali(options):
    exact_and_plain(options)
    import numpy
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_async=False,
                  exec_pipelined=False)
    def pipeline():
        encoded = fn.external_source(name="encoded", dtype=types.UINT8)
        image = fn.decoders.image_random_crop(encoded, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0],
                                              random_aspect_ratio=[3 / 4, 4 / 3], num_attempts=10)
        image = fn.resize(image, size=[options.size, options.size], interp_type=types.INTERP_LINEAR, antialias=True)
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
    def __init__(self, executable, folder, options):
        flags = ["--size", str(options.size), "--decode", options.decode, "--augment", options.augment]
        self.process = subprocess.Popen([executable, folder, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    arguments.add_argument("--size", type=int, default=224)
    arguments.add_argument("--decode", choices=["exact", "fast"], default="exact")
    arguments.add_argument("--augment", choices=["none", "rand-augment", "color-jitter", "random-erasing"], default="none")
    arguments.add_argument("--json")
    a = arguments.parse_args()
    os.sched_setaffinity(0, {a.core})
    sides, absent = {}, []
    for key in a.peers.split(","):
        name, make = PEERS[key]
        try:
            sides[name] = make(a)
        except (ImportError, Unable) as error:
            absent.append(f"{name} ({error})")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    print(f"{cpu}, one core; {versions()}; {a.rounds} rounds in turns, CPU time, median [slowest-fastest]; "
          f"to {a.size} px, decode {a.decode}, augment {a.augment}")
    for missing in absent:
        print(f"left out: {missing}")
    print("\n| images | side | images/s | dtrain is faster by |\n|---|---|---|---|")
    record = []
    for folder in a.folders:
        paths = sorted(p for p in glob.glob(folder + "/*") if os.path.isfile(p))
        files = [open(p, "rb").read() for p in paths]
        # Whole batches only, as DALI's pipeline takes them; dtrain's side reads the folder itself.
        assert len(files) % BATCH == 0, f"{folder}: {len(files)} files, give a multiple of {BATCH}"
        ours = Ours(a.executable, folder, a)
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
            json.dump({"processor": cpu, "versions": versions(), "rounds": a.rounds, "size": a.size, "decode": a.decode,
                       "augment": a.augment, "rows": record}, f, indent=1)


main()
