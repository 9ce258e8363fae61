"""Kernels alone, on data of many times the cache: bytes that they cannot do without, divided by the time; attention in FLOP.

    python3 gpu_kernels.py --work FOLDER [--dry-run]      # one JSON object on the last line

Takes the images that nvcc made when dtrain was built (kernels/*.fatbin in the work folder, else the last build's) and needs cupy.
Preprocessing is held against Pillow, pixel by pixel. --dry-run does the same in tiny sizes with the kernels built for the host.
"""
import argparse, ctypes, glob, json, os, statistics, subprocess
import numpy
import PIL
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
arguments = argparse.ArgumentParser()
arguments.add_argument("--work", required=True)
arguments.add_argument("--dry-run", action="store_true")
a = arguments.parse_args()
BITS, SIZE = 22, 224


class Gpu:
    def __init__(self):
        import cupy
        self.cupy = cupy
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))
        folders = [f"{a.work}/kernels", *sorted(glob.glob(f"{target}/release/build/dtrain-*/out"), key=os.path.getmtime, reverse=True)]
        self.folder = next(f for f in folders if os.path.exists(f"{f}/preprocess.fatbin"))

    def array(self, x):
        return self.cupy.asarray(x)

    def kernel(self, file, name, shared):
        function = self.cupy.RawModule(path=f"{self.folder}/{file}.fatbin").get_function(name)
        if shared > 48 << 10:
            function.max_dynamic_shared_size_bytes = shared
        return lambda grid, block, args: function(grid, block, tuple(args), shared_mem=shared)

    def seconds(self, actions):
        """Median of a call; the actions take turns, so that no data stays in the cache."""
        times = []
        for index in range(30):
            start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            start.record()
            actions[index % len(actions)]()
            end.record()
            end.synchronize()
            times.append(self.cupy.cuda.get_elapsed_time(start, end) / 1e3)
        return statistics.median(times[5:])

    def back(self, x):
        return self.cupy.asnumpy(x)


class Host:
    """The same kernels built for the processor (kernels/host.h)."""
    def array(self, x):
        return numpy.ascontiguousarray(x)

    def kernel(self, file, name, shared):
        folder, made = os.path.join(HERE, "../kernels"), os.path.join(a.work, f"{file}.so")
        if not os.path.exists(made):
            subprocess.run(["c++", "-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-I", folder,
                            "-x", "c++", f"{folder}/{file}.cu", f"{folder}/host.cpp", "-o", made], check=True)
        entry = getattr(ctypes.CDLL(made), f"{name}_host")
        entry.restype = ctypes.c_char_p

        def call(grid, block, args):
            cells = [ctypes.c_uint64(x.ctypes.data) if isinstance(x, numpy.ndarray) else
                     ctypes.c_uint64(int(numpy.asarray(x).view({4: "u4", 8: "u8"}[numpy.asarray(x).nbytes]))) for x in args]
            pointers = (ctypes.c_void_p * len(cells))(*[ctypes.addressof(cell) for cell in cells])
            said = entry((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), ctypes.c_uint(shared), pointers, ctypes.c_uint(0))
            assert said is None, said
        return call

    def seconds(self, actions):
        actions[0]()
        return 1.0

    def back(self, x):
        return x


def axis(inputs, outputs):
    """Bilinear weights as Pillow has them: first input and weights in units of 2^-22 of every output."""
    if inputs == outputs:
        return [(i, [1 << BITS]) for i in range(outputs)]
    scale, found = inputs / outputs, []
    width = max(scale, 1.0)
    for output in range(outputs):
        center = (output + 0.5) * scale
        first, last = int(max(center - width + 0.5, 0.0)), min(int(center + width + 0.5), inputs)
        real = [max(1.0 - abs((i - center + 0.5) * (1.0 / width)), 0.0) for i in range(first, last)]
        total = sum(real) or 1.0
        found.append((first, [int(x / total * (1 << BITS) + 0.5) for x in real]))
    return found


def grouped(weights):
    """Spans in groups of four inputs, firsts and ends in order; what a group's 16 bytes hold. See src/ops/preprocess/tables.rs."""
    ends = numpy.maximum.accumulate([-(-(first + len(w)) // 4) for first, w in weights])
    firsts = numpy.minimum.accumulate([first // 4 for first, _ in weights][::-1])[::-1]
    most = int((ends - firsts).max())
    groups = numpy.zeros((len(weights), most, 4), numpy.uint32)
    for output, (first, all_of_it) in enumerate(weights):
        for place, weight in enumerate(all_of_it, first - 4 * int(firsts[output])):
            group, lane = divmod(place, 4)
            groups[output, group, lane // 2] |= (weight & 0xffff) << 16 * lane % 32 if lane % 2 else weight & 0xffff
            groups[output, group, 2] |= (weight >> 16 & 0xff) << 8 * lane
    return numpy.stack([firsts, ends - firsts], 1).astype(numpy.uint32), groups, most


def plan(pictures, size):
    """Jobs and tables; a picture is (first byte, width of the picture, crop (x, y, width, height), flip)."""
    jobs, tables, units = [], [], 0
    for start, width, (x, y, w, h), flip in pictures:
        columns, across, most_across = grouped(axis(w, size))
        rows, down, most_down = grouped(axis(h, size))
        lost_across, lost_down = w - size, h - size
        vertical = int(PIL.__version__.split(".")[0]) >= 13 and lost_down > 0 and lost_down > 2 * lost_across
        first = start + 3 * (y * width + x)
        jobs += [first & 0xffffffff, first >> 32, units & 0xffffffff, units >> 32, 3 * width, h, most_across, most_down, int(flip),
                 int(vertical), 0, 0]
        words = numpy.concatenate([columns.ravel(), rows.ravel(), across.transpose(1, 0, 2).ravel(), down.ravel()])
        assert len(words) % 4 == 0
        tables.append(words)
        units += len(words) // 4
    return numpy.array(jobs, numpy.uint32), numpy.concatenate(tables)


def preprocess(machine):
    size, count, side = (32, 3, 60) if a.dry_run else (SIZE, 512, 512)
    random = numpy.random.default_rng(1)
    small = [random.integers(0, 256, (9, 9, 3), numpy.uint8) for _ in range(count)]
    images = [numpy.asarray(Image.fromarray(s).resize((side, side), Image.BICUBIC)) ^ random.integers(0, 8, (side, side, 3), numpy.uint8)
              for s in small]
    pictures = []
    for index in range(count):
        area, aspect = side * side * random.uniform(0.08, 1), numpy.exp(random.uniform(numpy.log(3 / 4), numpy.log(4 / 3)))
        w, h = (min(side, max(1, round(x))) for x in ((area * aspect) ** 0.5, (area / aspect) ** 0.5))
        pictures.append((index * side * side * 3, side, (int(random.integers(side - w + 1)), int(random.integers(side - h + 1)), w, h), index % 2))
    jobs, tables = plan(pictures, size)
    pixels = numpy.concatenate([*[i.ravel() for i in images], numpy.zeros(16, numpy.uint8)])
    values = numpy.repeat((numpy.arange(256, dtype=numpy.float32) / 127.5 - 1)[None], 3, 0)
    out = [machine.array(numpy.full((count, 3, size, size), numpy.nan, numpy.float16)) for _ in range(1 if a.dry_run else 2)]
    given = [machine.array(x) for x in (pixels, jobs, tables, values)]
    strips = max(1, min(-(-1024 // count), -(-size // 16)))
    strip = -(-(-(-size // strips)) // 4) * 4
    kernel = machine.kernel("preprocess", "preprocess_f16", 0)
    numbers = [numpy.uint32(n) for n in (size, size, strip, 0)]
    calls = [lambda o=o: kernel((-(-size // strip), 1, count), (-(-size // 32) * 32, 1, 1), [o, *given, *numbers]) for o in out]
    seconds = machine.seconds(calls)
    wrong = 0
    got = machine.back(out[0])
    for index in range(min(count, 64)):
        x, y, w, h = pictures[index][2]
        expected = numpy.asarray(Image.fromarray(images[index]).crop((x, y, x + w, y + h)).resize((size, size), Image.BILINEAR))
        expected = expected[:, ::-1] if pictures[index][3] else expected
        expected = values[0][expected.transpose(2, 0, 1)].astype(numpy.float16)
        wrong += int((got[index] != expected).sum())
    moved = sum(3 * w * h for _, _, (_, _, w, h), _ in pictures) + count * 3 * size * size * 2
    return {"preprocess_GBps": moved / seconds / 1e9, "preprocess_images_per_s": count / seconds, "preprocess_values_unlike_Pillows": wrong}


def elementwise(machine):
    """LayerNorm of x = a + b + bias, which is stored too; GELU of x + bias, which is stored too."""
    rows, width = (5, 768) if a.dry_run else (512 * 197, 768)
    random = numpy.random.default_rng(2)
    x, y = (random.standard_normal((rows, width), numpy.float32).astype(numpy.float16) for _ in range(2))
    a_, b_, out, total = (machine.array(v) for v in (x, y, x * 0, x * 0))
    one, mean, rstd = (machine.array(numpy.ones(n, numpy.float32)) for n in (width, rows, rows))
    norm = machine.kernel("layer_norm", "layer_norm_forward_f16", 0)
    numbers = [numpy.uint32(rows), numpy.uint32(width), numpy.uint32(width), numpy.float32(1e-12)]
    seconds = machine.seconds([lambda: norm((-(-rows // 8), 1, 1), (256, 1, 1), [total, out, mean, rstd, a_, b_, one, one, one, *numbers])])
    found = {"layer_norm_forward_GBps": 4 * x.nbytes / seconds / 1e9}
    gelu = machine.kernel("gelu", "gelu_forward_f16", 0)
    numbers = [numpy.uint64(x.size), numpy.uint32(width)]
    seconds = machine.seconds([lambda: gelu((-(-x.size // 2048), 1, 1), (256, 1, 1), [out, total, a_, one, *numbers])])
    found["gelu_forward_GBps"] = 3 * x.nbytes / seconds / 1e9
    return found


def attention(machine):
    batch, heads, s, e = (1, 1, 20, 64) if a.dry_run else (128, 12, 197, 64)
    d = heads * e
    random = numpy.random.default_rng(3)
    packed = random.standard_normal((batch, s, 3 * d), numpy.float32).astype(numpy.float16)
    qkv = machine.array(packed)
    o, d_o, *gradients = (machine.array(numpy.zeros((batch, s, n), numpy.float16)) for n in (d, d, 3 * d))
    log_sums = machine.array(numpy.zeros((batch, heads, s), numpy.float32))
    place = lambda which: qkv.reshape(-1)[which * d:]
    padded, tiles = -(-s // 16) * 16, -(-s // 16)
    threads = -(-tiles // -(-tiles // 7)) * 32
    strides = [numpy.uint64(n) for n in (s * 3 * d, 3 * d)]
    numbers = [numpy.uint32(s), numpy.uint32(s), numpy.float32(e**-0.5)]
    forward = machine.kernel("attention_tensor", "attention_tensor_forward_f16", 4 * padded * e)
    run = lambda: forward((1, heads, batch), (threads, 1, 1), [o, log_sums, place(0), place(1), place(2), *strides, *strides, *numbers])
    seconds = machine.seconds([run])
    work = 4 * batch * heads * s * s * e
    found = {"attention_forward_us": seconds * 1e6, "attention_forward_TFLOPs": work / seconds / 1e12}
    backward = machine.kernel("attention_tensor", "attention_tensor_backward_f16", 4 * padded * e + 8 * padded)
    to = [gradients[0].reshape(-1)[which * d:] for which in range(3)]
    run = lambda: backward((1, heads, batch), (threads, 1, 1),
                           [*to, place(0), place(1), place(2), o, d_o, log_sums, *strides, *strides, *strides, *strides, *numbers])
    seconds = machine.seconds([run])
    found.update({"attention_backward_us": seconds * 1e6, "attention_backward_TFLOPs": 2.5 * work / seconds / 1e12})
    # The first head of the first image in f64.
    q, k, v = (packed[0, :, which * d : which * d + e].astype(numpy.float64) for which in range(3))
    scores = q @ k.T / e**0.5
    weights = numpy.exp(scores - scores.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) @ v
    found["attention_relative_error"] = float(numpy.linalg.norm(machine.back(o)[0, :, :e] - expected) / numpy.linalg.norm(expected))
    return found


machine = Host() if a.dry_run else Gpu()
found = {}
for part in (preprocess, elementwise, attention):
    try:
        found.update(part(machine))
    except Exception as error:  # the others still count
        found[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"[:600]
print(json.dumps(found))
