"""What sources cost beside time: `python sources_costs.py [--small]`.

Memory: what a worker that reads random rows of 10 GB has of its own (anonymous pages; those of mapped files belong to
the page cache, which gives them back), above the same of 10 MB. Listing: seconds of CPU for 200,000 files in 200
folders, their names alone, and with what a cache or a state asks for. The files are sparse, and empty.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from hydrax_core import Dataloader
from hydrax_core.sources import arrow, image_folder, numpy_rows, tokens

CONSOLE = Console(width=100, highlight=False)
WIDTH = 768
BATCHES = 300
MARKS = {"memory": 100, "names": 0.5, "identities": 1.5}


def npy(path, size):
    rows = size // (4 * WIDTH)
    np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    return numpy_rows(path).training


def stream(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return tokens(path, 1024, "uint16").training


def parquet(path, size):
    rows = 5_000
    values = pa.array(np.zeros(rows * WIDTH, np.float32))
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(values, WIDTH)})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as file:
        for _ in range(max(1, size // table.nbytes)):
            file.write_table(table, row_group_size=rows)
    return arrow(path).training


def anonymous(process):
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024


def own_memory(group):
    """MiB of each worker, behind some batches."""
    with Dataloader(group, loader_count=2) as loader:
        for _ in range(BATCHES):
            next(loader)
        tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
        workers = [child for task in tasks for child in (task / "children").read_text().split()]
        return max(map(anonymous, workers))


def memory(folder, large):
    for name, write, suffix in (("npy", npy, ".npy"), ("tokens", stream, ".bin"), ("parquet", parquet, ".parquet")):
        small, full = (own_memory(write(folder / f"{size}{suffix}", size)) for size in (10 << 20, large))
        CONSOLE.print(
            f"{name:10} {large >> 30} GiB: {full:6.0f} MiB a worker, {full - small:+6.1f} above 10 MiB; "
            f"mark: below {MARKS['memory']} more"
        )


def listing(folder, count):
    for label in range(200):
        (folder / f"{label:03}").mkdir()
        for number in range(count // 200):
            (folder / f"{label:03}" / f"{number:05}.jpg").touch()
    names, identities = [], []
    for _ in range(5):
        started = time.process_time()
        group = image_folder(folder, batch_size=1).training
        listed = time.process_time()
        group.items.fingerprint()
        names.append(listed - started)
        identities.append(time.process_time() - started)
    for told, found in (("names", names), ("identities", identities)):
        CONSOLE.print(f"{count:,} files, {told}: {statistics.median(found):.2f} s; mark: {MARKS[told]} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="1 GiB and 20,000 files")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "images").mkdir()
        listing(Path(name) / "images", 20_000 if small else 200_000)
        memory(Path(name), 1 << 30 if small else 10 << 30)


if __name__ == "__main__":
    main()
