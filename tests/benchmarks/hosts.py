"""What a host of many costs against one: the plan of a batch, and the time to the first batch.

    python tests/benchmarks/hosts.py

Hosts are simulated (``hosts=(index, count)``): each loads its 64 rows of the global batch, of a million items.
"""

from __future__ import annotations

import sys
import time

import jax
import numpy as np

from hydrax_core import DataGroup, Dataloader

ROWS, ITEMS, ROUNDS = 64, 1_000_000, 30


def load(item: int, arrays: dict[str, np.ndarray], seed: int) -> None:  # type: ignore[type-arg]
    """Fill a row of 12 KiB."""
    arrays["image"][...] = item % 251


def loader(count: int) -> Dataloader[int]:
    """The last of so many hosts."""
    arrays = {"image": ((64, 64, 3), "uint8")}
    group = DataGroup(ROWS * count, range(ITEMS), loader_arrays=arrays, shuffle_first=True)
    return Dataloader(load, group, hosts=(count - 1, count), loader_kind="thread", end_at=("epoch", 1))


def milliseconds(count: int) -> tuple[float, float, float]:
    """The fastest of the rounds: the plan of a batch, the first batch, a further one."""
    plans, firsts, others = [], [], []
    for number in range(ROUNDS):
        began = time.perf_counter()
        with loader(count) as running:
            jax.block_until_ready(next(running).arrays)
            firsts.append(time.perf_counter() - began)
            began = time.perf_counter()
            for _ in range(10):
                jax.block_until_ready(next(running).arrays)
            others.append((time.perf_counter() - began) / 10)
            plan = running._arguments.plan
            began = time.perf_counter()
            plan.batch(100 + number)
            plans.append(time.perf_counter() - began)
    return tuple(1e3 * min(found) for found in (plans, firsts, others))  # type: ignore[return-value]


def main() -> None:
    """One line a number of hosts."""
    milliseconds(1)  # jax compiles and Python warms up
    for count in (1, 8, 64):
        plan, first, other = milliseconds(count)
        sys.stdout.write(
            f"{count:>2} hosts, global batch of {ROWS * count:>5,}: plan {plan:.2f} ms, first batch {first:.1f} ms, "
            f"further ones {other:.2f} ms\n"
        )


if __name__ == "__main__":
    main()
