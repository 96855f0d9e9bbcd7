"""The sources of rows, beside NumPy and beside the loaders that a user would take: `python sources.py [--json F]`.

Rows of 3 KB (768 floats) in random order, the page cache warm, in batches. All cases take turns within a round; a ratio
is taken within a round, and the table shows the median over rounds. `fill` is what one process fills into one warm
batch; `loader` is a whole Dataloader with two workers whose batches nobody computes with. Peers that are not installed
are left out and named.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hydrax_core import Dataloader
from hydrax_core.plan.order import group_order
from hydrax_core.sources import arrow, hdf5, hugging_face, numpy_rows

WIDTH = 768
ROWS = 100_000
BATCH = 64
LARGE = 1024
GROUP = 5_000
MARKS = {
    "npy, fill": ("np.take", 0.7),
    "arrow, fill": ("np.take", 0.5),
    "hugging_face, fill": ("np.take", 0.5),
    "parquet, fill, block shuffle": ("pyarrow, row groups in order", 0.6),
    "hugging_face, loader, batch 64": ("torch over HF, batch 64", 10),
    "hugging_face, loader, batch 64 ": ("grain over HF, batch 64", 10),
    "hugging_face, loader, batch 1024": ("torch over HF, batch 1024", 10),
}


def make(folder, rows):
    values = np.random.default_rng(0).random((rows, WIDTH), np.float32)
    np.save(folder / "rows.npy", values)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), WIDTH)})
    with pa.ipc.new_file(folder / "rows.arrow", table.schema) as file:
        file.write_table(table)
    pq.write_table(table, folder / "rows.parquet", row_group_size=GROUP)
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(1000, WIDTH))
    features = datasets.Features({"x": datasets.Sequence(datasets.Value("float32"), length=WIDTH)})
    with datasets.arrow_writer.ArrowWriter(features=features, path=str(folder / "hf.arrow")) as writer:
        for first in range(0, rows, 1000):  # the batches that datasets itself writes
            writer.write_table(table.slice(first, 1000))
        writer.finalize()
    datasets.Dataset.from_file(str(folder / "hf.arrow")).save_to_disk(folder / "hf")


def filling(rows, seconds):
    """Rows a second that a source fills into one batch, in the order of its group."""
    group = rows.training.replace(batch_size=BATCH)
    order, source = group_order(group, "training", 0), group.items
    (name, layout), *_ = group.loader_layouts.items()
    batch = {name: np.zeros(layout.shape, layout.numpy_dtype)}
    chosen = [order.batch(epoch, number).indices for epoch in range(3) for number in range(len(group) // BATCH)]
    return rate(lambda number: source.fill(chosen[number % len(chosen)], batch), seconds)


def taking(path, seconds):
    mapped = np.load(path, mmap_mode="r").view(np.ndarray)
    batch = np.zeros((BATCH, WIDTH), np.float32)
    chosen = np.random.default_rng(1).integers(0, len(mapped), (4096, BATCH))
    return rate(lambda number: np.take(mapped, chosen[number % 4096], axis=0, out=batch, mode="clip"), seconds)


def row_groups(path, seconds):
    file, done, started = pq.ParquetFile(path, memory_map=True), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += file.read_row_group(done // GROUP % file.num_row_groups, use_threads=False).num_rows
    return done / (time.perf_counter() - started)


def rate(step, seconds):
    for number in range(20):
        step(number)
    done, started = 20, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        step(done)
        done += 1
    return (done - 20) * BATCH / passed


def loading(rows, batch_size, seconds):
    group = rows.training.replace(batch_size=batch_size, remainder="drop")
    with Dataloader(group, loader_count=2, depth="auto") as loader:
        return consumed((batch.arrays for batch in loader), batch_size, seconds)


def consumed(batches, batch_size, seconds):
    batches = iter(batches)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds / 2:
        next(batches)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        next(batches)
        done += batch_size
    return done / passed


def over_torch(folder, batch_size, seconds):
    import torch.utils.data  # noqa: PLC0415  a peer

    dataset = datasets.load_from_disk(folder).with_format("numpy")
    loader = torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, num_workers=2, drop_last=True)

    def endless():
        while True:
            yield from loader

    return consumed(endless(), batch_size, seconds)


def over_grain(folder, batch_size, seconds):
    import grain.python  # noqa: PLC0415  a peer
    from absl import flags  # noqa: PLC0415  same

    flags.FLAGS.mark_as_parsed()
    dataset = datasets.load_from_disk(folder).with_format("numpy")
    data = grain.python.MapDataset.source(dataset).seed(0).shuffle().repeat().batch(batch_size)
    loader = data.to_iter_dataset().mp_prefetch(grain.python.MultiprocessingOptions(num_workers=2))
    return consumed(loader, batch_size, seconds)


def cases(folder, seconds):
    npy, mapped = numpy_rows(folder / "rows.npy"), arrow(folder / "rows.arrow")
    parquet, hf = arrow(folder / "rows.parquet"), hugging_face(folder / "hf")
    yield "np.take", lambda: taking(folder / "rows.npy", seconds)
    yield "npy, fill", lambda: filling(npy, seconds)
    yield "arrow, fill", lambda: filling(mapped, seconds)
    yield "hugging_face, fill", lambda: filling(hf, seconds)
    yield "pyarrow, row groups in order", lambda: row_groups(folder / "rows.parquet", seconds)
    yield "parquet, fill, block shuffle", lambda: filling(parquet, seconds)
    yield "hdf5 in chunks, fill, block shuffle", lambda: filling(hdf5(folder / "rows.h5"), seconds)
    for size in (BATCH, LARGE):
        yield f"npy, loader, batch {size}", lambda size=size: loading(npy, size, seconds)
        yield f"hugging_face, loader, batch {size}", lambda size=size: loading(hf, size, seconds)
        yield f"parquet, loader, batch {size}", lambda size=size: loading(parquet, size, seconds)
        yield f"torch over HF, batch {size}", lambda size=size: over_torch(folder / "hf", size, seconds)
    yield f"grain over HF, batch {BATCH}", lambda: over_grain(folder / "hf", BATCH, seconds)


def say(text):
    sys.stdout.write(f"{text}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", default="", help="cases whose names have this text")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    logging.getLogger("hydrax").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.rows)
        for _ in range(chosen.rounds):
            for name, measure in cases(Path(folder), chosen.seconds):
                if chosen.only not in name:
                    continue
                try:
                    found.setdefault(name, []).append(measure())
                except ImportError as error:
                    say(f"{name}: left out ({error})")
    say(f"{'rows of 3 KB a second':44}{'median':>12}   of all rounds")
    for name, rates in found.items():
        say(f"{name:44}{statistics.median(rates):12,.0f}   {', '.join(f'{value:,.0f}' for value in rates)}")
    for name, (base, mark) in MARKS.items():
        if base in found and name.strip() in found:
            ratio = statistics.median(a / b for a, b in zip(found[name.strip()], found[base], strict=True))
            verdict = "holds" if ratio >= mark else "MISSED"
            say(f"{name.strip()} : {base}  {ratio:.2f}  (mark: at least {mark})  {verdict}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
