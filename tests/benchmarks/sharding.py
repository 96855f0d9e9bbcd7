"""What it costs to spread a batch over 8 CPU devices, against one: time a global batch, at full speed and ready made.

    python tests/benchmarks/sharding.py [PIXELS ...]

Prints one line a size: wall time, and what of it the main process computed, which other work on the machine disturbs
less. The promise is at most 1.3 times the time of one device at full speed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

import hydrax_core
from hydrax_core import DataGroup, Dataloader

BATCHES, ROUNDS = 300, 5


@hydrax_core.batched
def load(items: list[int], arrays: dict[str, np.ndarray], seeds: list[int]) -> None:  # type: ignore[type-arg]
    """Fill the rows as cheaply as can be."""
    arrays["image"][...] = 1
    arrays["label"][...] = items


def load_each(item: int, arrays: dict[str, np.ndarray], seed: int) -> None:  # type: ignore[type-arg]
    """The same, item by item: only so are rows of odd sizes cut for devices."""
    arrays["image"][...] = 1
    arrays["label"][...] = item


def seconds_a_batch(side: int, **sharding: object) -> tuple[float, float]:
    """The least of the rounds, of wall time and of the main process's CPU time."""
    function, rounds, batches = (load, ROUNDS, BATCHES) if side % 2 == 0 else (load_each, 2, BATCHES // 5)
    arrays = {"image": ((side, side, 3), "uint8"), "label": ((), "int32")}
    group = DataGroup(64, range(64 * batches), loader_arrays=arrays, zeroed=False)
    found = []
    with Dataloader(function, group, depth=8, end_at=("epoch", rounds + 1), **sharding) as loader:  # type: ignore[arg-type]
        for epoch in loader.epochs():
            began, used = time.perf_counter(), time.process_time()
            for batch in epoch:
                jax.block_until_ready(batch.arrays)
            found.append((time.perf_counter() - began, time.process_time() - used))
    wall, cpu = (min(times) / batches for times in zip(*found[1:], strict=True))
    return wall, cpu


def least(measured: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The least wall time and the least CPU time."""
    wall, cpu = map(min, zip(*measured, strict=True))
    return wall, cpu


def main() -> None:
    """One line a size."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    for side in map(int, sys.argv[1:] or ("8", "64", "224", "299")):
        pairs = [(seconds_a_batch(side), seconds_a_batch(side, sharding=(mesh, "data"))) for _ in range(3)]
        for what, one, eight in zip(("time", "CPU"), *map(least, zip(*pairs, strict=True)), strict=True):
            sys.stdout.write(
                f"64 x {side} x {side} x 3, {what}: one device {one * 1e6:,.0f} us, "
                f"eight {eight * 1e6:,.0f} us: {eight / one:.2f}\n"
            )


main()
