"""Tar shards, lines and JPEG beside their peers on the same files: `python sources_files.py [--json F] [--small]`.

One process each, the page cache warm. All cases take turns within a round; a ratio is taken within a round, and the
table shows the median over rounds. Seconds are of CPU, of all threads and of programs that were called, so that a busy
machine shows in none; the ratios of the clock's seconds, which count several cores as one, say more on a quiet one.
Peers that are not installed are left out and named.
"""

import argparse
import importlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import simplejpeg
import skimage.data
from PIL import Image
from rich.console import Console

from hydrax_core.sources import Augment, jsonl, tar
from hydrax_core.sources.image_decoding import Picture
from hydrax_core.sources.lines import LineFiles
from hydrax_core.sources.tar_members import walk

MARKS = {
    "tar, index": (None, 200_000),
    "tar, random samples": ("tar, webdataset in order", 3),
    "jsonl, index": ("wc -l", 0.5),
    "jsonl, random lines": ("jsonl, HF load_dataset[i]", 5),
    "jpeg, crop and resize": ("jpeg, Pillow", 1.5),
    "jpeg, crop and resize ": ("jpeg, simplejpeg decodes only", 0.95),
    "jpeg, the same by OpenCV": ("jpeg, Pillow", 1.5),
    "jpeg, the same by OpenCV ": ("jpeg, simplejpeg decodes only", 0.95),
}
BATCH = 64
CONSOLE = Console(width=100, highlight=False)


def make(folder, small):
    """The files, and how many members, lines and bytes they have."""
    rng = np.random.default_rng(0)
    array = io.BytesIO()
    np.save(array, rng.random(768, np.float32))
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(2_000 if small else 20_000):
            for suffix, data in (("cls", str(number % 10).encode()), ("npy", array.getvalue())):
                info = tarfile.TarInfo(f"{number:07}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with (folder / "a.jsonl").open("w") as file:
        for number in range(20_000 if small else 1_000_000):
            text = "word " * (1 + number * 7919 % 30)
            file.write(json.dumps({"id": number, "x": number / 7, "v": [1, 2, number % 5], "text": text}) + "\n")
    Image.fromarray(skimage.data.rocket()).resize((500, 375)).save(folder / "a.jpg", quality=90)


def cases(folder):
    """What each case does, and how many units that is."""
    path, lines = folder / "a.tar", folder / "a.jsonl"
    samples, records = tar(path).training.items, jsonl(lines).training.items
    members, size = 2 * len(samples), lines.stat().st_size
    image = (folder / "a.jpg").read_bytes()
    picture, target = Picture(224, 224, augment=Augment()), np.empty((224, 224, 3), np.uint8)
    fast = Picture(224, 224, augment=Augment(), resampling="opencv")

    def index():
        with path.open("rb") as file:
            walk(lambda start, size: os.pread(file.fileno(), size, start), path.stat().st_size, str(path))

    def standard_library():
        with tarfile.open(path) as archive:
            archive.getmembers()

    def fill(source):
        arrays = {name: np.empty((BATCH, *spec.shape), spec.numpy_dtype) for name, spec in source.specs.items()}
        rng = np.random.default_rng(1)

        def read():
            for _ in range(50):
                source.fill(rng.integers(0, len(source), BATCH), arrays)

        return read, 50 * BATCH

    def pillow():
        for seed in range(20):
            box = picture._box(375, 500, seed)
            with Image.open(io.BytesIO(image)) as opened:
                part = opened.convert("RGB").crop(tuple(map(round, box[:4])))
            part = part.resize((224, 224), Image.Resampling.BILINEAR)
            target[...] = np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if box.flipped else part)

    found = {
        "tar, index": (index, members),
        "tar, tarfile": (standard_library, members),
        "tar, random samples": fill(samples),
        "jsonl, index": (lambda: LineFiles((str(lines),), "filled")._build(), size),
        "wc -l": (lambda: subprocess.run(["wc", "-l", lines], check=True, capture_output=True), size),
        "jsonl, random lines": fill(records),
        "jpeg, crop and resize": (lambda: [picture.read(image, "a", target, seed) for seed in range(20)], 20),
        "jpeg, the same by OpenCV": (lambda: [fast.read(image, "a", target, seed) for seed in range(20)], 20),
        "jpeg, Pillow": (pillow, 20),
        "jpeg, simplejpeg decodes only": (lambda: [simplejpeg.decode_jpeg(image) for _ in range(20)], 20),
    }
    found.update(peers(path, lines))
    return found


def peers(path, lines):
    """What others do with the same files."""
    found = {}
    try:
        webdataset = importlib.import_module("webdataset")

        def iterate():
            return [sample["cls"] for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode()]

        found["tar, webdataset in order"] = (iterate, len(iterate()))
    except ImportError as error:
        CONSOLE.print(f"left out: webdataset ({error})")
    try:
        datasets = importlib.import_module("datasets")
        table = datasets.load_dataset("json", data_files=str(lines), cache_dir=str(lines.parent / "hf"), split="train")
        rng = np.random.default_rng(1)
        found["jsonl, HF load_dataset[i]"] = (
            lambda: [table[int(i)] for i in rng.integers(0, len(table), 10 * BATCH)],
            10 * BATCH,
        )
    except ImportError as error:
        CONSOLE.print(f"left out: datasets ({error})")
    return found


def cpu_seconds():
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def speed(case):
    """Units a second of CPU, and of the clock."""
    run, units = case
    before, started = cpu_seconds(), time.perf_counter()
    run()
    return units / max(cpu_seconds() - before, 1e-4), units / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--small", action="store_true", help="small files, one round")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, asked.small)
        chosen = cases(folder)
        for case in chosen.values():
            speed(case)
        rounds = [{label: speed(case) for label, case in chosen.items()} for _ in range(1 if asked.small else 5)]
    medians = {label: statistics.median(one[label][0] for one in rounds) for label in chosen}
    for label, value in medians.items():
        CONSOLE.print(f"{label:32} {value:16,.0f} a second of CPU")
    for label, (peer, mark) in MARKS.items():
        own = label.strip()
        if peer is None:
            CONSOLE.print(f"{own}: {medians[own]:,.0f}; mark {mark:,}")
        elif peer in chosen:
            ratio, by_clock = (statistics.median(one[own][k] / one[peer][k] for one in rounds) for k in (0, 1))
            CONSOLE.print(f"{own}: {ratio:.2f} of {peer} ({by_clock:.2f} by the clock); mark {mark}")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"medians": medians, "rounds": rounds}))


if __name__ == "__main__":
    sys.exit(main())
