"""The peers' side of benchmarks/gpu.sh, on the same GPU: transformers and peft, torch.compile, and what torch says the GPU can do.

    python3 gpu_peers.py ceilings|model|jpegs|step|trainer --work FOLDER [...]     # one JSON object on the last line
"""
import argparse, io, json, os, statistics, sys, time

began = time.perf_counter()
arguments = argparse.ArgumentParser()
arguments.add_argument("what", choices=["ceilings", "model", "jpegs", "step", "trainer"])
arguments.add_argument("--work", required=True)
arguments.add_argument("--folder", help="where the model or the images go, or are")
arguments.add_argument("--way", default="eager", choices=["eager", "compiled"])
arguments.add_argument("--kind", default="vit", choices=["vit", "resnet"], help="ViT-B/16 with LoRA, or all weights of ResNet-50")
arguments.add_argument("--dry-run", action="store_true")
a = arguments.parse_args()
CLASSES = 101


def torch_on_device():
    import torch
    torch.manual_seed(0)
    return torch, "cpu" if a.dry_run else "cuda"


def timed(torch, action, rounds, warm=3):
    """Median seconds, everything that was asked of the GPU included."""
    wait = (lambda: None) if a.dry_run else torch.cuda.synchronize
    seconds = []
    for index in range(warm + rounds):
        wait()
        start = time.perf_counter()
        action()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm:])


def ceilings():
    torch, device = torch_on_device()
    found = {"device": "cpu" if a.dry_run else torch.cuda.get_device_name(0), "torch": torch.__version__}
    count = 1 << (16 if a.dry_run else 31)
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_GBps"] = 2 * count / timed(torch, lambda: target.copy_(source), 10) / 1e9
    if not a.dry_run:
        host = torch.empty(1 << 28, dtype=torch.uint8).pin_memory()
        found["from_host_GBps"] = (1 << 28) / timed(torch, lambda: target[: 1 << 28].copy_(host, non_blocking=True), 10) / 1e9
    del source, target
    for dtype in (torch.float16, torch.bfloat16):
        side = 64 if a.dry_run else 8192
        x, y = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        found[f"matmul_{str(dtype)[6:]}_TFLOPs"] = 2 * side**3 / timed(torch, lambda: x @ y, 10) / 1e12
    # The products of a block of ViT-B/16: rows are images times tokens.
    for batch in (1,) if a.dry_run else (128, 512):
        for inputs, outputs in ((768, 2304), (768, 768), (768, 3072), (3072, 768)):
            x = torch.randn(batch * 197, inputs, device=device, dtype=torch.float16)
            w = torch.randn(outputs, inputs, device=device, dtype=torch.float16)
            seconds = timed(torch, lambda: torch.nn.functional.linear(x, w), 10)
            found[f"linear_{batch}x197_{inputs}_to_{outputs}_TFLOPs"] = 2 * len(x) * inputs * outputs / seconds / 1e12
    return found


def model():
    """A ViT-B/16 or ResNet-50 with random weights, as the Hub lays it out: speed does not depend on the values."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    import torch
    torch.manual_seed(0)
    if a.kind == "resnet":
        from transformers import ResNetConfig, ResNetForImageClassification
        sizes = dict(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1]) if a.dry_run else {}
        ResNetForImageClassification(ResNetConfig(num_labels=CLASSES, **sizes)).save_pretrained(a.folder)
        json.dump({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32 if a.dry_run else 224}},
                  open(os.path.join(a.folder, "preprocessor_config.json"), "w"))
        return {"folder": a.folder}
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=128) if a.dry_run else {}
    ViTForImageClassification(ViTConfig(num_labels=CLASSES, **sizes)).save_pretrained(a.folder)
    try:
        ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"height": 224, "width": 224}).save_pretrained(a.folder)
    except Exception:  # whichever class this version has
        json.dump({"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
                   "size": {"height": 224, "width": 224}, "image_processor_type": "ViTImageProcessor"},
                  open(os.path.join(a.folder, "preprocessor_config.json"), "w"))
    return {"folder": a.folder}


def one_jpeg(index):
    """512 pixels on the longer side, structure at several scales, quality 85 to 90: as heavy to decode as photographs."""
    import numpy
    from PIL import Image
    random = numpy.random.default_rng(index)
    longer, shorter = 512, int(random.integers(340, 513))
    width, height = (longer, shorter) if index % 3 else (shorter, longer)
    total = numpy.zeros((height, width, 3), numpy.float32)
    for cells, strength in ((6, 60), (24, 30), (96, 18), (256, 8)):
        noise = random.normal(0, 1, (cells, cells, 3)).clip(-3, 3)
        layer = Image.fromarray(numpy.uint8(noise * 42 + 128)).resize((width, height), Image.BILINEAR)
        total += (numpy.asarray(layer, numpy.float32) - 128) / 42 * strength
    file = io.BytesIO()
    Image.fromarray(numpy.uint8((total + 128).clip(0, 255))).save(file, "JPEG", quality=int(random.integers(85, 91)))
    return file.getvalue()


def jpegs():
    """A dataset of 5,000 images in 101 classes, parquet as on the Hub; a tenth will be held out."""
    from concurrent.futures import ProcessPoolExecutor
    import pyarrow, pyarrow.parquet
    count = 40 if a.dry_run else 5000
    with ProcessPoolExecutor() as pool:
        files = list(pool.map(one_jpeg, range(count), chunksize=32))
    names = [f"class {c}" for c in range(CLASSES)]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.table({"image": [{"bytes": file, "path": None} for file in files], "label": [i % CLASSES for i in range(count)]},
                          schema=pyarrow.schema([("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
                                                 ("label", pyarrow.int64())]))
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    os.makedirs(os.path.join(a.folder, "data"), exist_ok=True)
    pyarrow.parquet.write_table(table, os.path.join(a.folder, "data", "train-00000-of-00001.parquet"), row_group_size=100)
    return {"images": count, "mean_KB": sum(map(len, files)) / count / 1e3}


def adapted(folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained(folder)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, bias="none", modules_to_save=["classifier"],
                                            target_modules=["query", "value", "q_proj", "v_proj"]))


def step():
    """Forward, loss, backward, unscale, clip, AdamW, pixels on the GPU; autocast to fp16 and GradScaler as Trainer has them. A
    ResNet with channels last, which suits tensor cores, and the convolutions that cuDNN finds fastest."""
    torch, device = torch_on_device()
    batch = 2 if a.dry_run else 128
    layout = torch.contiguous_format
    if a.kind == "resnet":
        from transformers import AutoModelForImageClassification
        layout, torch.backends.cudnn.benchmark = torch.channels_last, True
        model = AutoModelForImageClassification.from_pretrained(os.path.join(a.work, "resnet-50"))
    else:
        model = adapted(os.path.join(a.work, "vit-base"))
    model = model.to(device).to(memory_format=layout).train()
    forward = torch.compile(model) if a.way == "compiled" and not a.dry_run else model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=not a.dry_run)
    scaler = torch.amp.GradScaler(device, enabled=not a.dry_run)
    side = 32 if a.dry_run and a.kind == "resnet" else 224
    pixels = torch.randn(batch, 3, side, side, device=device).to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def one():
        with torch.autocast(device, dtype=torch.bfloat16 if a.dry_run else torch.float16):
            loss = forward(pixel_values=pixels, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    first = time.perf_counter()
    one()
    first = time.perf_counter() - first
    seconds = timed(torch, one, 2 if a.dry_run else 20)
    found = {"images_per_s": batch / seconds, "ms": seconds * 1e3, "first_step_s": first,
             "attention": getattr(model.config, "_attn_implementation", None)}
    if not a.dry_run:
        found["allocated_MB"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def trainer():
    """The seed's program: transforms in Python, one process, evaluation and a checkpoint each epoch."""
    import numpy, torch
    from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
    from transformers import Trainer, TrainingArguments
    try:
        from datasets import load_dataset
    except ImportError:
        load_dataset = None
    end = [ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    views = {"train": Compose([RandomResizedCrop(224), RandomHorizontalFlip(), *end]), "test": Compose([Resize(224), CenterCrop(224), *end])}

    def opened(image):
        from PIL import Image
        return image if hasattr(image, "convert") else Image.open(io.BytesIO(image["bytes"]))
    if load_dataset:
        rows = load_dataset("parquet", data_files=os.path.join(a.folder, "data", "*.parquet"), split="train",
                            cache_dir=os.path.join(a.work, "cache"))
        split = rows.train_test_split(test_size=0.1)
        for name, view in views.items():
            split[name].set_transform(lambda batch, view=view: {"pixel_values": [view(opened(i).convert("RGB")) for i in batch["image"]],
                                                                "label": batch["label"]})
    else:
        # Without datasets, rows out of pyarrow: that costs less.
        import glob, pyarrow.parquet
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(f) for f in sorted(glob.glob(os.path.join(a.folder, "data", "*.parquet")))])
        rows = list(zip(table["image"].to_pylist(), table["label"].to_pylist()))
        order = numpy.random.default_rng(0).permutation(len(rows))
        held_out = -(-len(rows) // 10)

        class Rows(torch.utils.data.Dataset):
            def __init__(self, places, view):
                self.places, self.view = places, view
            def __len__(self):
                return len(self.places)
            def __getitem__(self, place):
                image, label = rows[self.places[place]]
                return {"pixel_values": self.view(opened(image).convert("RGB")), "label": label}
        split = {"train": Rows(order[held_out:], views["train"]), "test": Rows(order[:held_out], views["test"])}
    few = dict(max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2) if a.dry_run else dict(
        per_device_train_batch_size=128, gradient_accumulation_steps=4)
    settings = TrainingArguments(
        os.path.join(a.work, "trainer"), remove_unused_columns=False, eval_strategy="epoch", save_strategy="epoch", save_total_limit=2,
        learning_rate=5e-3, per_device_eval_batch_size=128, fp16=not a.dry_run, num_train_epochs=5, logging_steps=10,
        load_best_model_at_end=True, metric_for_best_model="accuracy", label_names=["labels"], use_cpu=a.dry_run, report_to="none",
        disable_tqdm=True, **few)
    job = Trainer(adapted(os.path.join(a.work, "vit-base")), settings, train_dataset=split["train"], eval_dataset=split["test"],
                  data_collator=lambda batch: {"pixel_values": torch.stack([x["pixel_values"] for x in batch]),
                                               "labels": torch.tensor([x["label"] for x in batch])},
                  compute_metrics=lambda p: {"accuracy": float((numpy.argmax(p.predictions, 1) == p.label_ids).mean())})
    job.train()
    figures = job.evaluate()
    return {"seconds": time.perf_counter() - began, "accuracy": figures["eval_accuracy"], "rows": "datasets" if load_dataset else "pyarrow"}


found = {"ceilings": ceilings, "model": model, "jpegs": jpegs, "step": step, "trainer": trainer}[a.what]()
sys.stdout.flush()
print("\n" + json.dumps(found))
