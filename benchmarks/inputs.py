#!/usr/bin/env python3
"""What the comparisons are made on: models with random weights (speed does not depend on the values) and pictures.

    python benchmarks/inputs.py FOLDER [--photos DATASET]

Makes FOLDER/vit-tiny, vit-small and vit-base (width 192, 384 and 768, 12 layers, 224 px), and FOLDER/drawn: 96 JPEGs of 512 x 512
pixels, quality 85 to 90, 4:2:0, as heavy to decode as photographs. DATASET is a folder of parquet shards with an image and a label
column, such as some classes of food101, with splits train and validation: 256 of its images become files in FOLDER/photos, and 1,100
the dataset FOLDER/job of 1,000 training and 100 validation images.
"""
import argparse, glob, io, json, os

arguments = argparse.ArgumentParser()
arguments.add_argument("folder")
arguments.add_argument("--photos")
a = arguments.parse_args()
SIDE = 512


def model(name, **sizes):
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    torch.manual_seed(0)
    folder = os.path.join(a.folder, name)
    ViTForImageClassification(ViTConfig(num_labels=101, **sizes)).save_pretrained(folder)
    json.dump({"image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
               "rescale_factor": 1 / 255, "size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5] * 3,
               "image_std": [0.5] * 3}, open(os.path.join(folder, "preprocessor_config.json"), "w"))


def drawn(index):
    """Structure at several scales, so that the entropy decoder has as much to do as with a photograph."""
    import numpy
    from PIL import Image
    random = numpy.random.default_rng(index)
    total = numpy.full((SIDE, SIDE, 3), 128, numpy.float32)
    for cells, strength in ((6, 60), (24, 30), (96, 18), (256, 8)):
        grid = Image.fromarray(numpy.uint8(random.normal(128, 42, (cells, cells, 3)).clip(0, 255)))
        total += (numpy.asarray(grid.resize((SIDE, SIDE), Image.BILINEAR), numpy.float32) - 128) / 42 * strength
    file = io.BytesIO()
    Image.fromarray(numpy.uint8(total.clip(0, 255))).save(file, "JPEG", quality=85 + index % 6, subsampling="4:2:0")
    return file.getvalue()


def files(name, contents):
    folder = os.path.join(a.folder, name)
    os.makedirs(folder, exist_ok=True)
    for index, content in enumerate(contents):
        with open(os.path.join(folder, f"{index:04}.jpg"), "wb") as file:
            file.write(content)


def job(table):
    import pyarrow.parquet
    folder = os.path.join(a.folder, "job", "data")
    os.makedirs(folder, exist_ok=True)
    for split, rows in (("train", table[:1000]), ("validation", table[1000:1100])):
        assert len(rows) == (1000 if split == "train" else 100), f"{a.photos} has too few images"
        pyarrow.parquet.write_table(rows, os.path.join(folder, f"{split}-00000-of-00001.parquet"), row_group_size=100)


model("vit-tiny", hidden_size=192, num_attention_heads=3, intermediate_size=768)
model("vit-small", hidden_size=384, num_attention_heads=6, intermediate_size=1536)
model("vit-base")
files("drawn", map(drawn, range(96)))
if a.photos:
    import pyarrow, pyarrow.parquet
    shards = [sorted(glob.glob(os.path.join(a.photos, "**", f"{split}-*.parquet"), recursive=True)) for split in ("train", "validation")]
    table = pyarrow.concat_tables(map(pyarrow.parquet.read_table, sum(shards, [])))
    files("photos", (image["bytes"] for image in table["image"][:256].to_pylist()))
    # Shards are sorted by class or not: either way both splits see all of them.
    import numpy
    job(table.take(numpy.random.default_rng(0).permutation(len(table))))
