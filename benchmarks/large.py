"""A dataset with ImageNet's counts, to measure what does not fit into memory: 1.28 million small JPEGs in 300 Parquet shards.

    python benchmarks/large.py make DIR --images SOURCE     # pictures of SOURCE's Parquet files, made small; about 10 GB
    python benchmarks/large.py make DIR --images SOURCE --rows 640000     # half of it
    python benchmarks/large.py cold DIR                     # takes DIR's files out of the system's cache
    target/release/dtrain bench loader DIR --shuffle-mode block

Rows are sorted by class, as many datasets on the Hub are; row groups have 100 rows, as `push_to_hub` writes them.
Needs pyarrow, Pillow and numpy.
"""

import argparse
import io
import json
import os
import pathlib

ROWS, SHARD, CLASSES, GROUP, POOL = 1_281_167, 4271, 1000, 100, 6000


def pool(source, count):
    """Small JPEGs: windows out of the source's pictures, about 7 kB each."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    random = np.random.default_rng(1)
    files = sorted(pathlib.Path(source).rglob("*.parquet"))
    pictures = [bytes_ for f in files for bytes_ in pq.read_table(f)["image"].combine_chunks().field("bytes").to_pylist()]
    small = []
    while len(small) < count:
        picture = Image.open(io.BytesIO(pictures[len(small) % len(pictures)])).convert("RGB")
        side = int(random.integers(150, 190))
        scale = side / min(picture.size)
        picture = picture.resize([round(length * scale) for length in picture.size], Image.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(random.integers(70, 85)))
        small.append(file.getvalue())
    return small


def make(directory, source, count, group):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = pathlib.Path(directory) / "data"
    data.mkdir(parents=True)
    small = pa.array(pool(source, POOL), pa.binary())
    random = np.random.default_rng(2)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [f"class {n:04d}" for n in range(CLASSES)]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    shards = -(-count // SHARD)
    starts = np.linspace(0, count, shards + 1).astype(int)
    for shard, (start, end) in enumerate(zip(starts, starts[1:])):
        rows = np.arange(start, end)
        images = small.take(pa.array(random.integers(0, len(small), len(rows))))
        image = pa.StructArray.from_arrays([images, pa.nulls(len(rows), pa.string())], ["bytes", "path"])
        table = pa.table({"image": image, "label": pa.array(rows * CLASSES // count, pa.int64())})
        table = table.replace_schema_metadata(metadata)
        pq.write_table(table, data / f"train-{shard:05d}-of-{shards:05d}.parquet", row_group_size=group)
    size = sum(file.stat().st_size for file in data.iterdir())
    print(f"{count} rows in {shards} shards, {size / 1e9:.1f} GB")


def cold(directory):
    """What the system has cached of the files is dropped; only for files that are on disk already."""
    for file in pathlib.Path(directory).rglob("*.parquet"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "cold"])
    parser.add_argument("directory")
    parser.add_argument("--images", help="dataset in Parquet that the pictures come from")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--row-group", type=int, default=GROUP)
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(arguments.directory, arguments.images, arguments.rows, arguments.row_group)
    else:
        cold(arguments.directory)
