"""The parts of benchmarks/gpu.sh: each in processes of its own, with its own time limit; a failure ends no other part.

What the peers do is in gpu_peers.py, what kernels do alone in gpu_kernels.py. A figure of both sides is taken in this run.
"""
import argparse, glob, json, math, os, re, shutil, signal, subprocess, sys, tarfile, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
arguments = argparse.ArgumentParser()
arguments.add_argument("--out", default=os.environ.get("OUT", "gpu-results"))
arguments.add_argument("--budget", type=float, default=560, help="seconds for everything; ten times that for --dry-run")
arguments.add_argument("--only", default="", help="parts, separated by commas")
arguments.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
arguments.add_argument("--program", default=os.environ.get("DTRAIN"))
arguments.add_argument("--tests", help="the program of tests/gpu")
arguments.add_argument("--model", help="DeiT-tiny, for the parts that train to an accuracy")
arguments.add_argument("--dataset", help="ten dishes of Food-101, for the same")
a = arguments.parse_args()
a.budget *= 10 if a.dry_run else 1
START = time.monotonic()
DEVICE = "cpu" if a.dry_run else "cuda"
R = {"parts": {}}
WORK = tempfile.mkdtemp(prefix="dtrain-gpu-")


def left():
    return a.budget - (time.monotonic() - START)


# ---- what is there -------------------------------------------------------------------------------------------------

def find():
    """Unpacks what launch/pack-gpu.sh packed; finds the programs, MPI and CUDA's libraries."""
    for name in ("programs.tar.xz", "material.tar"):
        if os.path.exists(os.path.join(HERE, name)):
            with tarfile.open(os.path.join(HERE, name)) as packed:
                packed.extractall(WORK, filter="data")
    def first(*candidates):
        return next((c for c in candidates if c and os.path.exists(c)), None)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))
    built = sorted(glob.glob(os.path.join(target, "release/deps/gpu-*[!.d]")), key=os.path.getmtime, reverse=True)
    a.program = first(a.program, f"{WORK}/dtrain", os.path.join(target, "release/dtrain"))
    a.tests = first(a.tests, f"{WORK}/gpu-tests", *[b for b in built if os.access(b, os.X_OK) and "." not in os.path.basename(b)])
    a.model = first(a.model, f"{WORK}/model")
    a.dataset = first(a.dataset, f"{WORK}/dataset")
    libraries = [d for p in sys.path for d in glob.glob(os.path.join(p, "nvidia", "*", "lib"))]
    mpi = first(f"{WORK}/openmpi")
    if mpi:
        os.environ.update(OPAL_PREFIX=mpi, PATH=f"{mpi}/bin:{os.environ['PATH']}")
        libraries.insert(0, f"{mpi}/lib")
        for program in glob.glob(f"{mpi}/bin/*"):
            os.chmod(program, 0o755)
    os.environ["LD_LIBRARY_PATH"] = ":".join(libraries + [os.environ.get("LD_LIBRARY_PATH", "")])
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMPI_ALLOW_RUN_AS_ROOT="1", DTRAIN=a.program or "",
                      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1")
    if not a.program:
        sys.exit("gpu.sh: no dtrain: build it with `cargo build --release --features cuda`, or give --program")


class Memory:
    """The most memory of the GPU that is in use while this is open, above what was in use before; None without nvidia-smi."""
    def used(self):
        try:
            said = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
                                  capture_output=True, text=True, timeout=10).stdout
            return float(said.split()[0])
        except (OSError, IndexError, ValueError, subprocess.SubprocessError):
            return None
    def __enter__(self):
        self.before = self.most = self.used()
        self.open = self.before is not None
        def watch():
            while self.open:
                self.most = max(self.most, self.used() or 0)
                time.sleep(0.1)
        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.open = False
        self.thread.join()
    def megabytes(self):
        return None if self.before is None else self.most - self.before


def run(command, limit, must_succeed=True, **more):
    """Output of a command; it and its children end at the limit. How it ended is `run.code`: 0, another number, or words."""
    limit = max(1.0, min(limit * (10 if a.dry_run else 1), left()))
    environment = dict(os.environ, **more)
    with tempfile.TemporaryFile("w+") as out:
        started = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=WORK,
                                   start_new_session=True)
        try:
            run.code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            run.code = f"no end after {limit:.0f} s"
        run.seconds = time.monotonic() - started
        out.seek(0)
        said = out.read()
    if must_succeed and run.code != 0:
        raise RuntimeError(f"{' '.join(map(str, command))[:200]}: {run.code}\n{said[-1500:]}")
    return said


def last_json(said):
    return json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))


def script(name, limit, *words):
    return last_json(run([sys.executable, os.path.join(HERE, name), *words, "--work", WORK, *(["--dry-run"] if a.dry_run else [])], limit))


def bench_step(model, batch, limit, precision="fp16", method="lora"):
    words = ["bench", "step", model, "--json", "--batch", batch, "--device", DEVICE, "--method", method, "--rounds", "1" if a.dry_run else "20"]
    with Memory() as memory:
        said = last_json(run([a.program, *words, "--precision", precision], limit))
    row = next(row for row in said["rows"] if row["stage"] == "step")
    return {"images_per_s": row["images/s"]["median"], "ms": row["ms"], "rows": said["rows"], "settings": said["settings"],
            "peak_MB": memory.megabytes()}


def train(name, *words, limit, ranks=1, **more):
    """Trains; seconds from the command to the finished model, what was logged, results."""
    output = os.path.join(WORK, name)
    command = [a.program, "--recipe", "vit-lora", "--output-dir", output, "--overwrite-output-dir", "true", "--device", DEVICE, *words]
    if ranks > 1:
        # Ranks that share a GPU are hosts of their own to NCCL, which then goes over sockets.
        own = lambda rank: ["-n", "1", "-x", f"NCCL_HOSTID=rank{rank}", *command]
        command = ["mpirun", "--bind-to", "none", *[word for rank in range(ranks) for word in (own(rank) + [":"])][:-1]]
        more = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", **more}
    said = run(command, limit, **more)
    seconds = run.seconds
    copied = re.search(r"copy +([\d.]+) .*beside the steps: (\d+) MB", said)
    history = json.load(open(f"{output}/trainer_state.json"))["log_history"]
    return {"seconds": seconds, "losses": [entry["loss"] for entry in history if "loss" in entry],
            "accuracy": max((entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry), default=None),
            "results": json.load(open(f"{output}/all_results.json")),
            "copied_MB": copied and float(copied[2]), "copy_s": copied and float(copied[1])}


def furthest(ours, expected):
    assert len(ours) == len(expected) and ours, "runs of different length"
    return max(abs(x - y) / abs(y) for x, y in zip(ours, expected))


# ---- the parts -----------------------------------------------------------------------------------------------------

def machine():
    said = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], 20) if not a.dry_run else "none"
    return {"gpus": said.strip().splitlines(), "dtrain": run([a.program, "--version"], 20).strip(), "cores": os.cpu_count(),
            "python": sys.version.split()[0]}


def ceilings():
    return script("gpu_peers.py", 60, "ceilings")


def test_lines(said):
    """What libtest printed: how many tests passed, and which failed, also of a program that came to no end."""
    begun = list(re.finditer(r"^test (\S+) \.\.\. ", said, re.M))
    ends = [other.start() for other in begun[1:]] + [len(said)]
    outcome = {}
    for test, end in zip(begun, ends):
        found = re.search(r"(?:^|\s)(ok|FAILED)$", said[test.end() : end], re.M)
        outcome[test[1]] = found[1] if found else "no end"
    unlike = [f"{name}: {how}" for name, how in outcome.items() if how != "ok"]
    return {"passed": len(outcome) - len(unlike), "failed": sum(how == "FAILED" for how in outcome.values()), "others": "; ".join(unlike),
            "seconds": run.seconds}


# Tests that start dtrain again and again.
RUNS = ["commands::", "graphs::runs_are", "residual_runs::", "runs::", "trouble::"]


def tests():
    """Every op and case of the kernels' table and models' gradients, on the GPU against the CPU."""
    return tested(100, ["ops::casts"] if a.dry_run else [word for name in RUNS for word in ("--skip", name)])


def runs():
    """Whole runs and commands on the GPU: resumed, skipped, lost."""
    return tested(150, ["residual_runs::a_step"] if a.dry_run else RUNS)


def tested(limit, which):
    said = run([a.tests, "--test-threads", "1", *which], limit, False) if a.tests else skip("no program of the tests")
    found = test_lines(said)
    found["clean"] = found["passed"] > 0 and found["failed"] == 0 and run.code == 0
    if run.code != 0:
        found.update(ended=str(run.code), said=said[-4000:])
    return found


def sanitizer(tool):
    places = ["/usr/local/cuda/bin/compute-sanitizer", *sorted(glob.glob("/usr/local/cuda-*/bin/compute-sanitizer")),
              *sorted(glob.glob("/opt/nvidia/*/*/compute-sanitizer")), *sorted(glob.glob("/opt/cuda*/bin/compute-sanitizer"))]
    checker = shutil.which("compute-sanitizer") or next((place for place in places if os.path.exists(place)), None)
    if not checker or not a.tests:
        skip("no compute-sanitizer" if not checker else "no program of the tests")
    # Tests that it does not come to within its time are none that it found fault with.
    # A kernel is looked for in one module after the other, and not finding it is no error.
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    said = run([checker, "--tool", tool, *quiet, "--error-exitcode", "9", a.tests, "--test-threads", "1", "ops::", "maps::", "feed::"], 70, False)
    found = test_lines(said)
    reports = [line for line in said.splitlines() if line.startswith("=========") and "SUMMARY: 0 " not in line and len(line) > 12]
    reports = [line for line in reports if not re.search(r"COMPUTE-SANITIZER|RACECHECK SUMMARY: 0|Target application returned", line)]
    return {**found, "ended": str(run.code), "clean": found["passed"] > 0 and found["failed"] == 0 and not reports and (run.code == 0 or str(run.code).startswith("no end")),
            "reports": "\n".join(reports[:40]), "tail": said[-800:] if not found["passed"] else ""}


def memcheck():
    return sanitizer("memcheck")


def racecheck():
    return sanitizer("racecheck")


def kernels():
    return script("gpu_kernels.py", 60)


def step():
    model = vit_base()
    sizes = [2] if a.dry_run else [128, 512]
    return {f"batch {batch}": bench_step(model, batch, 60) for batch in sizes}


def graphs():
    """A run on DeiT-tiny, whose kernels are short, with micro-batches as CUDA graphs and op by op; whole steps, and the same losses."""
    if not a.model or not a.dataset:
        skip("no DeiT-tiny or no dishes (--model, --dataset)")
    found = {}
    for batch in [2] if a.dry_run else [16, 128]:
        steps = ["--max-steps", "2" if a.dry_run else "100", *LOSSES_ALONE, "--precision", "fp16", "--image-cache", "device" if DEVICE == "cuda" else "host"]
        runs = {way: train(f"graphs-{way}-{batch}", *small(9, batch), *steps, "--cuda-graph", way, limit=40) for way in ("auto", "off")}
        rate = {way: of["results"].get("train_samples_per_second") for way, of in runs.items()}
        found[f"batch {batch}"] = {"images_per_s": rate["auto"], "op by op": rate["off"],
                                   "largest relative difference of a loss": furthest(runs["auto"]["losses"], runs["off"]["losses"])}
    return found


def peers():
    vit_base()
    found = {}
    for way in ("eager", "compiled"):
        with Memory() as memory:
            found[way] = script("gpu_peers.py", 100, "step", "--way", way)
        found[way]["peak_MB"] = memory.megabytes()
    return found


def residual():
    """A step that trains all weights of a ResNet-50, beside PyTorch with channels last."""
    model = os.path.join(WORK, "resnet-50")
    script("gpu_peers.py", 60, "model", "--kind", "resnet", "--folder", model)
    R["parts"]["residual"] = found = {"dtrain": bench_step(model, 2 if a.dry_run else 128, 60, method="full")}
    with Memory() as memory:
        found["channels last"] = script("gpu_peers.py", 60, "step", "--kind", "resnet")
    found["channels last"]["peak_MB"] = memory.megabytes()
    return found


def accuracy():
    if not a.model or not a.dataset:
        skip("no DeiT-tiny or no dishes (--model, --dataset)")
    return train("accuracy", *small(4, 16 if a.dry_run else 32), *(["--max-steps", "2"] if a.dry_run else []), "--fp16", limit=90)


LOSSES_ALONE = ["--logging-steps", "1", "--eval-strategy", "no", "--do-eval", "false", "--save-strategy", "no", "--load-best-model-at-end", "false"]


def precisions():
    """50 steps in fp16 beside f32."""
    if not a.model or not a.dataset:
        skip("no DeiT-tiny or no dishes (--model, --dataset)")
    steps = ["--max-steps", "2" if a.dry_run else "50", *LOSSES_ALONE]
    runs = {p: train(p, *small(5, 8), *steps, "--precision", p, limit=60) for p in ("fp32", "fp16")}
    return {"largest relative difference of a loss": furthest(runs["fp16"]["losses"], runs["fp32"]["losses"]), **runs}


def ranks():
    """The same global batch on 1, 2 and 4 ranks of one GPU."""
    if not a.model or not a.dataset:
        skip("no DeiT-tiny or no dishes (--model, --dataset)")
    steps = ["--max-steps", "2" if a.dry_run else "20", *LOSSES_ALONE, "--precision", "fp32"]
    worlds = (1, 2) if a.dry_run else (1, 2, 4)
    runs = {n: train(f"ranks-{n}", *small(5, (8 if a.dry_run else 32) // n), *steps, limit=70, ranks=n) for n in worlds}
    return {"largest relative difference of a loss": max(furthest(runs[n]["losses"], runs[1]["losses"]) for n in worlds[1:]),
            **{f"{n} ranks": runs[n] for n in worlds}}


def caches():
    """Epochs of synthetic JPEGs with decoded pictures kept nowhere, on the host and on the GPU: later epochs decode and copy less."""
    words = ["--model", vit_base(), "--dataset", jpegs(), "--train-split", "train", "--eval-strategy", "no", "--save-strategy", "no",
             "--load-best-model-at-end", "false", "--logging-steps", "1", "--per-device-train-batch-size", 4 if a.dry_run else 128,
             "--gradient-accumulation-steps", "1", "--num-train-epochs", 1 if a.dry_run else 3, "--precision", "fp16"]
    words += ["--max-steps", "2"] if a.dry_run else []
    runs = {mode: train(f"cache-{mode}", *words, "--image-cache", mode, limit=60) for mode in ("none", "host", "device")}
    found = {"largest relative difference of a loss": max(furthest(runs[mode]["losses"], runs["none"]["losses"]) for mode in runs)}
    for mode, of in runs.items():
        found[mode] = {"seconds": of["seconds"], "images_per_s": of["results"].get("train_samples_per_second"), "copied_MB": of["copied_MB"]}
        if of["copy_s"]:
            found[mode]["copy_GBps"] = of["copied_MB"] / 1e3 / of["copy_s"]
    return found


def recipe():
    """The seed's recipe on synthetic JPEGs, by dtrain and by Trainer as the seed writes it."""
    data = jpegs()
    words = ["--model", vit_base(), "--dataset", data, "--train-split", "train", "--test-size", "0.1"]
    if a.dry_run:
        words += ["--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "2", "--max-steps", "2"]
    ours = train("recipe", *words, limit=60)
    R["parts"]["recipe"] = found = {"dtrain": ours}
    with Memory() as memory:
        found["Trainer"] = script("gpu_peers.py", 200, "trainer", "--folder", data)
    found["Trainer"]["peak_MB"] = memory.megabytes()
    return found


def small(epochs, batch):
    return ["--model", a.model, "--dataset", a.dataset, "--train-split", "train", "--validation-split", "validation",
            "--num-train-epochs", epochs, "--per-device-train-batch-size", batch, "--gradient-accumulation-steps", "1"]


def jpegs():
    data = os.path.join(WORK, "jpegs")
    if not os.path.exists(data):
        script("gpu_peers.py", 60, "jpegs", "--folder", data)
    return data


def vit_base():
    model = os.path.join(WORK, "vit-base")
    if not os.path.exists(model):
        script("gpu_peers.py", 60, "model", "--folder", model)
    return model


class Skipped(Exception):
    pass


def skip(why):
    raise Skipped(why)


# ---- what it comes to ----------------------------------------------------------------------------------------------

def goals():
    """(what, goal, value or None, met or None)."""
    def at(*path):
        value = R["parts"]
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value
    def over(x, y):
        return x / y if x and y else None
    ours, eager = at("step", "batch 128", "images_per_s"), at("peers", "eager", "images_per_s")
    matmul = at("ceilings", "matmul_float16_TFLOPs")
    # GFLOP that an exact step of ViT-B/16 with LoRA on query and value cannot do without.
    rate = ours * 67.1e9 / (matmul * 1e12) if ours and matmul else None
    table = [
        ("tests on the GPU: no failure, to the end", "yes", at("tests", "clean"), bool),
        ("whole runs in the tests: no failure, to the end", "yes", at("runs", "clean"), bool),
        ("memcheck clean", "yes", at("memcheck", "clean"), bool),
        ("racecheck clean", "yes", at("racecheck", "clean"), bool),
        ("fp16 losses against f32, 50 steps", "<= 0.02", at("precisions", "largest relative difference of a loss"), lambda x: x <= 0.02),
        ("accuracy on ten dishes, fp16", ">= 0.87", at("accuracy", "accuracy"), lambda x: x >= 0.87),
        ("losses of 2 and 4 ranks against 1", "<= 1e-3", at("ranks", "largest relative difference of a loss"), lambda x: x <= 1e-3),
        ("step, times eager transformers + peft", ">= 2.5", over(ours, eager), lambda x: x >= 2.5),
        ("step, times torch.compile + SDPA", ">= 1.3", over(ours, at("peers", "compiled", "images_per_s")), lambda x: x >= 1.3),
        ("step, share of the measured matmul rate", ">= 0.65", rate, lambda x: x >= 0.65),
        ("peak memory, times eager's", "<= 0.45", over(at("step", "batch 128", "peak_MB"), at("peers", "eager", "peak_MB")), lambda x: x <= 0.45),
        ("ResNet-50 step, times PyTorch's", ">= 1.0", over(at("residual", "dtrain", "images_per_s"), at("residual", "channels last", "images_per_s")), lambda x: x >= 1.0),
        ("preprocessing, share of copy bandwidth", ">= 0.6", over(at("kernels", "preprocess_GBps"), at("ceilings", "copy_GBps")), lambda x: x >= 0.6),
        ("losses of replayed graphs against op by op", "0", at("graphs", "batch 128", "largest relative difference of a loss"), lambda x: x == 0),
        ("losses with pictures kept on the GPU against none", "0", at("caches", "largest relative difference of a loss"), lambda x: x == 0),
        ("whole recipe, times Trainer", ">= 6", over(at("recipe", "Trainer", "seconds"), at("recipe", "dtrain", "seconds")), lambda x: x >= 6),
    ]
    # Sizes and speeds of a dry run mean nothing.
    judged = lambda value, met: None if value is None or a.dry_run else bool(met(value))
    return [(what, goal, value, judged(value, met)) for what, goal, value, met in table]


def flat(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name} {key}".strip())
    elif isinstance(value, float):
        yield name, f"{value:.4g}" if math.isfinite(value) else str(value)
    elif not isinstance(value, list):
        yield name, str(value).replace("\n", "\n      ")


def save():
    R["seconds"] = time.monotonic() - START
    R["goals"] = [dict(zip(("what", "goal", "value", "met"), goal)) for goal in goals()]
    lines = [f"{'goal':<42} {'wanted':>9} {'measured':>12}"]
    for what, goal, value, met in goals():
        shown = "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"{what:<42} {goal:>9} {shown:>12} {'' if met is None else 'met' if met else 'MISSED'}")
    for name, part in R["parts"].items():
        lines += ["", name] + [f"  {key}: {value}" for key, value in flat(part)]
    os.makedirs(a.out, exist_ok=True)
    json.dump(R, open(os.path.join(a.out, "gpu.json"), "w"), indent=1)
    open(os.path.join(a.out, "gpu.txt"), "w").write("\n".join(lines) + "\n")


# What tells most comes first. With each part the shortest time, in seconds, in which it is worth beginning.
PARTS = [(machine, 1), (tests, 20), (memcheck, 20), (accuracy, 20), (ceilings, 10), (step, 20), (peers, 40), (runs, 30), (residual, 30), (graphs, 20),
         (kernels, 10), (precisions, 15), (ranks, 20), (recipe, 60), (caches, 40), (racecheck, 20)]
a.out = os.path.abspath(a.out)
find()
wanted = [name for name in a.only.split(",") if name]
for part, least in PARTS:
    name = part.__name__
    if wanted and name not in wanted:
        continue
    began = time.monotonic()
    try:
        R["parts"][name] = part() if left() >= least else skip(f"{left():.0f} s are left")
    except Skipped as why:
        R["parts"][name] = {"skipped": str(why)}
    except Exception as error:
        so_far = R["parts"].get(name, {})
        R["parts"][name] = {**so_far, "failed": f"{type(error).__name__}: {error}"}
    R["parts"][name]["part_seconds"] = time.monotonic() - began
    save()
    outcome = next((f"{key}: {R['parts'][name][key]}" for key in ("failed", "skipped") if R["parts"][name].get(key)), "done")
    print(f"{time.monotonic() - START:6.1f} s  {name}: {outcome[:600]}", flush=True)
shutil.rmtree(WORK, ignore_errors=True)
print(open(os.path.join(a.out, "gpu.txt")).read())
