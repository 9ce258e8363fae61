#!/usr/bin/env python3
"""A training step on the CPU, pixels in memory: dtrain in f32 and in bf16 beside PyTorch eager, in f32, with channels last, under
bf16 autocast.

    python benchmarks/step.py target/release/dtrain MODEL_DIR [--method lora|full] [--batch 16] [--threads 2] [--rounds 2]
    python benchmarks/step.py target/release/dtrain resnet-50       # random weights, if there is no such directory

Both sides load the same checkpoint: LoRA (r 16, alpha 16, dropout 0.1, query and value) through peft, or full fine-tuning, which
is what ResNets get. dtrain computes in bf16 on processors with AVX512_BF16 as fast as it can, on others slowly.
AdamW (fused in PyTorch), clipping at norm 1. In each round every side runs in a process of its own: 2 steps warm up, then the
median of --steps. Peak memory is the process's largest resident set.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

arguments = argparse.ArgumentParser()
arguments.add_argument("program")
arguments.add_argument("model")
arguments.add_argument("--method", choices=["lora", "full"], help="default: lora; full for a ResNet")
arguments.add_argument("--batch", type=int, default=16)
arguments.add_argument("--classes", type=int, default=101)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--steps", type=int, default=4)
arguments.add_argument("--rounds", type=int, default=2)
arguments.add_argument("--sides", help="default: dtrain,dtrain-bf16,f32,bf16; channels-last in the place of bf16 for a ResNet")
arguments.add_argument("--json", help="a file for the raw numbers")
arguments.add_argument("--peer", choices=["f32", "channels-last", "bf16"], help=argparse.SUPPRESS)
a = arguments.parse_args()


def random_resnet_50(place):
    from transformers import ResNetConfig, ResNetForImageClassification
    ResNetForImageClassification(ResNetConfig()).save_pretrained(place)
    with open(os.path.join(place, "preprocessor_config.json"), "w") as file:
        json.dump({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, file)


def peer(side):
    import torch
    from transformers import AutoModelForImageClassification
    torch.set_num_threads(a.threads)
    model = AutoModelForImageClassification.from_pretrained(a.model, num_labels=a.classes, ignore_mismatched_sizes=True)
    if a.method == "lora":
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, bias="none",
                                                 target_modules=["q_proj", "v_proj", "query", "value"],
                                                 modules_to_save=["classifier"]))
    layout = torch.channels_last if side == "channels-last" else torch.contiguous_format
    model.train().to(memory_format=layout)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    size = getattr(model.config, "image_size", 224)
    pixels = torch.randn(a.batch, 3, size, size).to(memory_format=layout)
    labels = torch.arange(a.batch) * 37 % a.classes
    times = []
    for _ in range(a.steps + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side == "bf16"):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(times[2:]), "loss": loss.item(),
                      "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def ours(precision):
    command = [a.program, "bench", "step", a.model, "--method", a.method, "--batch", str(a.batch), "--classes", str(a.classes),
               "--threads", str(a.threads), "--rounds", str(a.steps), "--device", "cpu", "--precision", precision,
               "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    step = report["rows"][-1]
    return {"seconds": step["ms"]["median"] / 1e3, "megabytes": int(report["settings"]["peak memory"].split()[0]),
            "share": step["% of product"], "report": report}


def theirs(side):
    environment = dict(os.environ, OMP_NUM_THREADS=str(a.threads), MKL_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1",
                       HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    command = [sys.executable, sys.argv[0], a.program, a.model, "--method", a.method, "--batch", str(a.batch),
               "--classes", str(a.classes), "--threads", str(a.threads), "--steps", str(a.steps), "--peer", side]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.splitlines()[-1])


if a.peer:
    peer(a.peer)
    sys.exit()
scratch = tempfile.TemporaryDirectory()
if a.model == "resnet-50" and not os.path.isdir(a.model):
    a.model = os.path.join(scratch.name, a.model)
    random_resnet_50(a.model)
with open(os.path.join(a.model, "config.json")) as config:
    is_resnet = json.load(config).get("model_type") == "resnet"
a.method = a.method or ("full" if is_resnet else "lora")
a.sides = a.sides or "dtrain,dtrain-bf16,f32," + ("channels-last" if is_resnet else "bf16")
mine = {"dtrain": "fp32", "dtrain-bf16": "bf16"}
results = {side: [] for side in a.sides.split(",")}
for _ in range(a.rounds):
    for side in results:
        results[side].append(ours(mine[side]) if side in mine else theirs(side))
names = {"dtrain": "dtrain f32", "dtrain-bf16": "dtrain bf16", "f32": "PyTorch eager f32", "channels-last": "PyTorch eager f32, channels last",
         "bf16": "PyTorch eager, bf16 autocast"}
seconds = {side: statistics.median(r["seconds"] for r in runs) for side, runs in results.items()}
mine = [side for side in results if side in mine]
print(f"{os.path.basename(a.model.rstrip('/'))}, {a.method}, batch {a.batch}, {a.threads} threads, "
      f"{a.rounds} rounds in turns of {a.steps} steps; median [slowest-fastest]\n")
print("| side | images/s | peak MB | % of the product's rate | " + " | ".join(f"{names[side]} is faster by" for side in mine) + " |")
print("|---" * (4 + len(mine)) + "|")
for side, runs in results.items():
    speeds = [a.batch / r["seconds"] for r in runs]
    ratios = ["" if side == other else f"{seconds[side] / seconds[other]:.2f}" for other in mine]
    share = f"{runs[0]['share']:.0f}" if side in mine else ""
    print(f"| {names[side]} | {statistics.median(speeds):.2f} [{min(speeds):.2f}-{max(speeds):.2f}] | "
          f"{max(r['megabytes'] for r in runs):,} | {share} | " + " | ".join(ratios) + " |")
if a.json:
    from importlib.metadata import version
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    json.dump({"arguments": vars(a), "versions": versions, "runs": results}, open(a.json, "w"), indent=1)
