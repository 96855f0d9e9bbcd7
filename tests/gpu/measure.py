"""What a device does with batches: transfers, overlap, leases, memory; then the tests. One table, JSON on request.

    python tests/gpu/measure.py [--short] [RESULT.json]

Needs numpy, jax, cloudpickle and xxhash. Runs on whatever backend jax finds; a CPU has no transfer, only aliases.
``--short`` has a twentieth of the batches and no tests, to see that all of it works.
"""

import argparse
import gc
import json
import platform
import sys
import time
from pathlib import Path

import core_tests
import jax
import jax.numpy as jnp
import numpy as np

import hydrax_core
from hydrax_core import DataGroup, Dataloader

BUDGET = 265
"""Seconds until the tests are asked to end, which they do within 20."""
ROWS = 64
MOST_SLOTS, MOST_GROWTH = 100, 64
"""What is taken for a leak: slots of batches that nobody holds, MiB."""
LARGE = (256, 256, 3)
"""Of one item: 12 MiB a batch as bytes."""


def load(item, arrays, seed):
    arrays["x"][...] = item % 251


def group(shape, count, dtype="uint8"):
    return DataGroup(ROWS, range(ROWS * count), loader_arrays={"x": (shape, dtype)}, zeroed=False)


def loader(shape, count, **more):
    return Dataloader(load, group(shape, count), loader_count=2, end_at=("epoch", 1), **{"depth": 4, **more})


def transferred(array):
    """The array on the device; where that is an alias of the host's memory, a copy stands for the transfer."""
    return jnp.array(array, copy=True) if jax.default_backend() == "cpu" else array


def bare_gigabytes(count):
    """GB/s of ``jax.device_put`` alone from memory that is warm."""
    host = np.ones((ROWS, *LARGE), np.uint8)
    jax.block_until_ready(jax.device_put(host))
    began = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(transferred(jax.device_put(host)))
    return count * host.nbytes / (time.perf_counter() - began) / 1e9


def loaded_gigabytes(count):
    """GB/s of batches that are ready, as the consumer gets them."""
    with loader(LARGE, count) as running:
        batch = next(running)
        began, taken = time.perf_counter(), 0
        for batch in running:
            array = batch.arrays["x"]
            jax.block_until_ready(transferred(array))
            taken += array.nbytes
        return taken / (time.perf_counter() - began) / 1e9


def idle_share(step_seconds, count):
    """Share of the time in ``next()`` beside a step on the device that takes about so long."""
    matrix = jnp.ones((512, 512))

    @jax.jit
    def work(matrix, turns):
        return jax.lax.fori_loop(0, turns, lambda _, m: m @ m / 512, matrix)

    jax.block_until_ready(work(matrix, 1))
    turns = 1
    while True:  # as many turns as take the time wanted
        began = time.perf_counter()
        jax.block_until_ready(work(matrix, turns))
        took = time.perf_counter() - began
        if took >= step_seconds / 2:
            break
        turns *= 2
    turns = max(1, round(turns * step_seconds / took))
    with loader((64, 64, 3), count) as running:
        next(running)
        began, before = time.perf_counter(), running.stats().idle_seconds
        for batch in running:
            jax.block_until_ready((work(matrix, turns), batch.arrays["x"]))
        return (running.stats().idle_seconds - before) / (time.perf_counter() - began)


def leases(count):
    """Whether a kept batch stays as it was, and the slots that batches without a call of jax between take."""
    with loader((64, 64, 3), count + 2) as running:
        kept = next(running)
        before = np.asarray(kept.arrays["x"]).copy()
        slots = 0
        for _ in range(count):
            next(running)
            slots = max(slots, len(running.stats().slots))
        same = bool((np.asarray(kept.arrays["x"]) == before).all())
    return same, slots


def memory_growth(count):
    """MiB that the device's memory (the process's, on a CPU) grew by over so many batches, after the first tenth."""
    with loader((32, 32, 3), count + count // 10, depth=8) as running:
        start = 0.0
        for number, batch in enumerate(running):
            jax.block_until_ready(batch.arrays["x"])
            if number == count // 10:
                start = memory_mib()
        return memory_mib() - start


def memory_mib():
    gc.collect()
    found = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if found:
        return found["bytes_in_use"] / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("result", nargs="?", type=Path)
    options = parser.parse_args()
    began, part = time.monotonic(), 20 if options.short else 1
    device = jax.local_devices()[0]
    same, slots = leases(500 // part)
    growth = memory_growth(2000 // part)
    found = {
        "device": f"{device.platform}: {device.device_kind}",
        "versions": f"hydrax {hydrax_core.__version__}, jax {jax.__version__}, Python {platform.python_version()}",
        "bare device_put, GB/s": round(bare_gigabytes(40 // part), 2),
        "batches, GB/s": round(loaded_gigabytes(60 // part), 2),
        "idle share at a step of 2 ms": round(idle_share(0.002, 300 // part), 3),
        "idle share at a step of 20 ms": round(idle_share(0.02, 100 // part), 3),
        "a kept batch stays as it was": same,
        f"slots in use over {500 // part} batches without a jax call": slots,
        f"memory growth over {2000 // part:,} batches, MiB": round(growth, 1),
    }
    good = same and slots <= MOST_SLOTS and growth <= MOST_GROWTH
    if not options.short:
        tests, passed = core_tests.run(BUDGET - (time.monotonic() - began))
        found |= tests
        good = good and passed
    found["seconds"] = round(time.monotonic() - began)
    width = max(map(len, found))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in found.items()))
    if options.result is not None:
        options.result.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
