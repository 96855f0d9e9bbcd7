"""Files elsewhere beside the bare requests: `python sources_remote.py [--json F] [--small]`.

A web server of its own process answers each request after 5 ms. *alone*: as many threads as a source has requests on
their way fetch random rows with obstore, one after the other, and nothing else. The sources read the same rows of the
same files. All cases take turns within a round; a ratio is taken within a round, and the table shows the median over
rounds. The time is that of a clock: waiting is what is measured.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import obstore
from obstore.store import HTTPStore
from rich.console import Console

from hydrax_core import Dataloader
from hydrax_core.sources import numpy_rows, tar
from hydrax_core.sources.remote import REQUESTS

DELAY_SECONDS = 0.005
ROW, ROWS, BATCH, BATCHES = 3072, 20_000, 256, 20
MARKS = {"numpy_rows, fill": 0.8, "numpy_rows, Dataloader": 0.8, "tar, fill": 0.8}
CONSOLE = Console(width=100, highlight=False)


class Answering(asyncio.Protocol):
    """Serves the ranges of a few files in memory, each after the delay."""

    def __init__(self, files):
        self.files, self.rest = files, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            head, self.rest = self.rest.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self.answer, head)

    def answer(self, head):
        content = self.files[head.split(b" ", 2)[1].decode().lstrip("/")]
        first, last = head.lower().partition(b"range: bytes=")[2].split(b"\r\n", 1)[0].split(b"-")
        part = content[int(first) : int(last) + 1]
        self.transport.write(
            b'HTTP/1.1 206 OK\r\nETag: "1"\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n\r\n'
            % (len(part), int(first), int(first) + len(part) - 1, len(content))
            + part
        )


async def serve(files):
    server = await asyncio.get_running_loop().create_server(lambda: Answering(files), "127.0.0.1", 0, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def make(folder, rows):
    """An array, and a tar of as many samples."""
    values = np.random.default_rng(0).integers(0, 256, (rows, ROW), np.uint8)
    np.save(folder / "a.npy", values)
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(rows // 4):
            array = io.BytesIO()
            np.save(array, values[number])
            info = tarfile.TarInfo(f"{number:07}.npy")
            info.size = len(array.getvalue())
            archive.addfile(info, io.BytesIO(array.getvalue()))


def alone(address, rows):
    """So many threads, each of which asks for one row after the other."""
    store = HTTPStore(address, client_options={"allow_http": True})
    offsets = (np.random.default_rng(1).integers(0, rows, BATCHES * BATCH) * ROW + 128).tolist()

    def read(start):
        return obstore.get(store, "a.npy", options={"range": (start, start + ROW)}).bytes()

    def run():
        with ThreadPoolExecutor(REQUESTS) as threads:
            for _ in threads.map(read, offsets):
                pass

    return run, len(offsets)


def filling(source):
    arrays = {name: np.empty((BATCH, *spec.shape), spec.numpy_dtype) for name, spec in source.specs.items()}
    rng = np.random.default_rng(1)

    def run():
        for _ in range(BATCHES):
            source.fill(rng.integers(0, len(source), BATCH), arrays)

    return run, BATCHES * BATCH


def loading(group):
    """Batches out of a loader of one worker; its start does not count."""

    def run():
        with Dataloader(group, loader_count=1, depth=2) as loader:
            for _ in range(3):
                next(loader)
            start = time.perf_counter()
            for _ in range(BATCHES):
                next(loader)
            return time.perf_counter() - start

    return run, BATCHES * BATCH


def speed(case):
    run, units = case
    start = time.perf_counter()
    seconds = run()
    return units / (seconds or time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--small", action="store_true", help="small files, one round")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(serve({path.name: path.read_bytes() for path in Path(asked.serve).iterdir()}))
        return
    with tempfile.TemporaryDirectory() as name:
        rows = ROWS // 10 if asked.small else ROWS
        make(Path(name), rows)
        command = [sys.executable, __file__, "--serve", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                measure(f"http://127.0.0.1:{server.stdout.readline().strip()}", rows, asked)
            finally:
                server.kill()


def measure(address, rows, asked):
    group = numpy_rows(f"{address}/a.npy", batch_size=BATCH).training
    cases = {
        "alone": alone(address, rows),
        "numpy_rows, fill": filling(group.items),
        "numpy_rows, Dataloader": loading(group),
        "tar, fill": filling(tar(f"{address}/a.tar", batch_size=BATCH).training.items),
    }
    rounds = [{label: speed(case) for label, case in cases.items()} for _ in range(1 if asked.small else 7)]
    found = {}
    for label in cases:
        ratio = statistics.median(each[label] / each["alone"] for each in rounds)
        median = statistics.median(each[label] for each in rounds)
        found[label] = {"rows_a_second": median, "ratio": ratio, "mark": MARKS.get(label)}
        mark = MARKS.get(label)
        told = "" if mark is None else f"   {'reached' if ratio >= mark else 'missed'} (>= {mark})"
        CONSOLE.print(f"{label:26}{median:10,.0f} rows/s{ratio:8.2f} x alone{told}")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"requests": REQUESTS, "cases": found}, indent=1))


if __name__ == "__main__":
    main()
