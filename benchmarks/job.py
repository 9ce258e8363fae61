#!/usr/bin/env python3
"""A whole LoRA fine-tuning, from the command to the finished model: dtrain beside transformers' Trainer with peft.

    python benchmarks/job.py target/release/dtrain MODEL_DIR DATASET_DIR [--images 1000] [--batch 32] [--threads 2] [--rounds 1]

One process on the CPU in f32, one epoch over the first --images training images and an evaluation of --eval images at the end,
RandomResizedCrop + flip, r 16 on query and value, batch --batch, no accumulation. Trainer's DataLoader has --workers processes.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

arguments = argparse.ArgumentParser()
arguments.add_argument("program")
arguments.add_argument("model")
arguments.add_argument("dataset")
arguments.add_argument("--images", type=int, default=1000)
arguments.add_argument("--eval", type=int, default=100)
arguments.add_argument("--batch", type=int, default=32)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--workers", type=int, default=2)
arguments.add_argument("--rounds", type=int, default=1)
arguments.add_argument("--validation", default="validation", help="its split")
arguments.add_argument("--sides", default="dtrain,Trainer")
arguments.add_argument("--json", help="a file for the raw numbers")
arguments.add_argument("--output", help=argparse.SUPPRESS)
a = arguments.parse_args()


def trainer(output):
    import numpy, torch
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
    from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments
    torch.set_num_threads(a.threads)
    train = load_dataset(a.dataset, split=f"train[:{a.images}]")
    held_out = load_dataset(a.dataset, split=f"{a.validation}[:{a.eval}]")
    processor = AutoImageProcessor.from_pretrained(a.model)
    normalize = Normalize(processor.image_mean, processor.image_std)
    views = {"train": Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), normalize]),
             "eval": Compose([Resize(224), CenterCrop(224), ToTensor(), normalize])}

    def view(name):
        return lambda rows: {"pixel_values": [views[name](i.convert("RGB")) for i in rows["image"]], "label": rows["label"]}
    train.set_transform(view("train"))
    held_out.set_transform(view("eval"))
    names = train.features["label"].names
    model = AutoModelForImageClassification.from_pretrained(a.model, num_labels=len(names), ignore_mismatched_sizes=True)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, bias="none",
                                             target_modules=["q_proj", "v_proj", "query", "value"], modules_to_save=["classifier"]))
    collate = lambda rows: {"pixel_values": torch.stack([r["pixel_values"] for r in rows]),
                            "labels": torch.tensor([r["label"] for r in rows])}
    job = Trainer(
        model=model, train_dataset=train, eval_dataset=held_out, processing_class=processor, data_collator=collate,
        compute_metrics=lambda p: {"accuracy": float((numpy.argmax(p.predictions, 1) == p.label_ids).mean())},
        args=TrainingArguments(
            output_dir=output, remove_unused_columns=False, eval_strategy="epoch", save_strategy="epoch", learning_rate=5e-3,
            per_device_train_batch_size=a.batch, per_device_eval_batch_size=a.batch, num_train_epochs=1, logging_steps=10,
            load_best_model_at_end=True, metric_for_best_model="accuracy", label_names=["labels"], report_to="none", use_cpu=True,
            dataloader_num_workers=a.workers))
    job.train()
    job.save_model(output)
    figures = job.evaluate()
    print(json.dumps({"accuracy": figures["eval_accuracy"]}))


def ours(output):
    command = [a.program, "--recipe", "vit-lora", "--model", a.model, "--dataset", a.dataset, "--train-split", f"train[:{a.images}]",
               "--validation-split", f"{a.validation}[:{a.eval}]", "--per-device-train-batch-size", str(a.batch),
               "--per-device-eval-batch-size", str(a.batch), "--gradient-accumulation-steps", "1", "--num-train-epochs", "1",
               "--threads", str(a.threads), "--device", "cpu", "--output-dir", output]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    where_time_went.append(said[said.find("time of rank 0"):said.find("results: ")])
    return json.load(open(os.path.join(output, "all_results.json")))["eval_accuracy"]


def theirs(output):
    environment = dict(os.environ, OMP_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1")
    ended = subprocess.run([sys.executable, *sys.argv, "--output", output], check=True, stdout=subprocess.PIPE, text=True,
                           env=environment)
    return json.loads(ended.stdout.splitlines()[-1])["accuracy"]


if a.output:
    trainer(a.output)
    sys.exit()
sides = {side: {"dtrain": ours, "Trainer": theirs}[side] for side in a.sides.split(",")}
seconds, accuracy, where_time_went = {side: [] for side in sides}, {}, []
for _ in range(a.rounds):
    for side, run in sides.items():
        with tempfile.TemporaryDirectory() as output:
            start = time.perf_counter()
            accuracy[side] = run(output)
            seconds[side].append(time.perf_counter() - start)
print(f"{os.path.basename(a.model.rstrip('/'))}, {a.images} images, 1 epoch, batch {a.batch}, {a.threads} threads, {a.rounds} rounds in turns\n")
print("| side | s from the command to the finished model | accuracy | dtrain is faster by |\n|---|---|---|---|")
mine = statistics.median(seconds.get("dtrain", [float("nan")]))
for side, times in seconds.items():
    print(f"| {side} | {statistics.median(times):.1f} [{min(times):.1f}-{max(times):.1f}] | {accuracy[side]:.4f} | "
          f"{'' if side == 'dtrain' else f'{statistics.median(times) / mine:.2f}'} |")
if where_time_went:
    print(f"\ndtrain, {where_time_went[-1]}")
if a.json:
    from importlib.metadata import version
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "datasets", "torchvision", "pillow")}
    json.dump({"arguments": vars(a), "versions": versions, "seconds": seconds, "accuracy": accuracy,
               "where_time_went": where_time_went}, open(a.json, "w"), indent=1)
