"""One measurement in a fresh process: ``python child.py JOB`` with a job as JSON prints one line of JSON.

Workers that are spawned import this file as their main module, so everything heavy is imported inside ``main``: each
peer starts its workers as fast as it can.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from job import Job
from loads import load_named

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 0.002
"""Seconds a training step pretends to take, in the idle work."""
SAMPLES = 5
READY = 30
"""Batches that lie ready before ``next()`` is timed."""
MIB = 1 << 20


def _check(job: Job, found: float) -> None:
    """Refuse a first batch that is not the one that one process makes: every peer does the same work."""
    import numpy as np  # noqa: PLC0415

    if job.shuffle or job.start:
        return
    make = load_named(job.load).make
    expected = sum(float(np.sum(array, dtype=float)) for item in range(job.batch) for array in make(item).values())
    if abs(found - expected) > 1e-3 * max(1.0, abs(expected)):
        raise AssertionError(f"{job.peer} hands out another first batch: its sum is {found}, expected {expected}")


class Consumer:
    """Takes batches of a peer and reads every byte of each."""

    def __init__(self, job: Job) -> None:
        import jax  # noqa: PLC0415
        import peers  # noqa: PLC0415
        from consume import total  # noqa: PLC0415

        self.job, self.total = job, total
        peers.warm_import(job.peer)
        load = load_named(job.load)
        self.example = tuple(
            jax.device_put(peers.aligned((job.batch, *shape), dtype)) for shape, dtype in load.specs.values()
        )
        total(self.example).block_until_ready()
        self.job = peers.prepare(job)
        adapters = peers.CACHED if job.measure == "cached" else peers.ADAPTERS
        self.open = lambda: adapters[job.peer](self.job)

    def take(self, batches: Any) -> float:
        """Sum of the next batch, waited for; the batch is let go of."""
        return float(self.total(next(batches)).block_until_ready())

    def warm(self, batches: Any) -> None:
        _check(self.job, self.take(batches))
        end = time.perf_counter() + self.job.warmup
        while time.perf_counter() < end:
            self.total(next(batches)).block_until_ready()


def throughput(job: Job) -> dict[str, Any]:
    import peers  # noqa: PLC0415

    consumer = Consumer(job)
    batches = consumer.open()
    consumer.warm(batches)
    found = _rate(job, lambda: consumer.total(next(batches)).block_until_ready())
    if any(client.poll() is not None for client in peers.CLIENTS):
        raise RuntimeError("the attached client ended before the measurement did")
    return found | _settled() | {"close": batches}


def _settled() -> dict[str, Any]:
    """What a loader that chooses its own settings has chosen."""
    import peers  # noqa: PLC0415

    return {
        name: getattr(stats, name)
        for stats in (loader.stats() for loader in peers.TUNED)
        for name in ("loader_count", "depth")
    }


def filling(job: Job) -> dict[str, Any]:
    """Seconds of the first epoch, from constructing the loader to its last batch, with or without a cache."""
    import peers  # noqa: PLC0415
    import system  # noqa: PLC0415

    consumer = Consumer(job)
    with peers.own_folder() as folder:
        make = peers.own_loader(job, folder if json.loads(job.options)["cache"] else None)
        neighbours = system.Neighbours()
        start = time.perf_counter()
        with make(end_at=("epoch", 1)) as loader:
            _read(consumer, loader)
            value = time.perf_counter() - start
        return {"value": value, "closed": time.perf_counter() - start, "others": neighbours.share()}


def checking(job: Job) -> dict[str, Any]:
    """Seconds of a first cached epoch, from constructing the loader, with its checks or without; median of some."""
    import peers  # noqa: PLC0415
    import system  # noqa: PLC0415
    from consume import step_of  # noqa: PLC0415

    consumer = Consumer(job)
    options = json.loads(job.options)
    with peers.own_folder() as folder:
        make = peers.own_loader(job, folder)
        with make(end_at=("epoch", 1)) as loader:
            _read(consumer, loader)
        if not options["checked"]:
            peers.accept_any_checksum()
        if options.get("step"):
            consumer.total = step_of(STEP, consumer.example)
        found = []
        neighbours = system.Neighbours()
        for _ in range(SAMPLES):
            start = time.perf_counter()
            with make(start_at=(1, 0), end_at=("epoch", 2), loader_kind="thread") as loader:
                _read(consumer, loader)
                found.append(time.perf_counter() - start)
                if loader.stats().cache_misses:
                    raise AssertionError("a batch was loaded, not served by the cache")
        return {"value": statistics.median(found), "others": neighbours.share()}


def _read(consumer: Consumer, loader: Any) -> None:
    for batch in loader:
        arrays = tuple(batch.arrays.values())
        del batch
        consumer.total(arrays).block_until_ready()
        del arrays


def _rate(job: Job, one: Callable[[], object]) -> dict[str, Any]:
    import system  # noqa: PLC0415

    neighbours = system.Neighbours()
    count = 0
    start = time.perf_counter()
    end = start + job.seconds
    now = start
    while now < end:
        one()
        count += 1
        now = time.perf_counter()
    return {"value": count * job.batch / (now - start), "others": neighbours.share(), "batches": count}


def first(job: Job) -> dict[str, Any]:
    import system  # noqa: PLC0415

    consumer = Consumer(job)
    neighbours = system.Neighbours()
    start = time.perf_counter()
    batches = consumer.open()
    found = consumer.take(batches)
    value = time.perf_counter() - start
    others = neighbours.share()
    _check(job, found)
    return {"value": value, "others": others, "mib": system.proportional_bytes(os.getpid()) / MIB, "close": batches}


def memory(job: Job) -> dict[str, Any]:
    import system  # noqa: PLC0415

    consumer = Consumer(job)
    alone = system.proportional_bytes(os.getpid())
    batches = consumer.open()
    consumer.warm(batches)
    found = []
    for _ in range(SAMPLES):
        end = time.perf_counter() + job.seconds / SAMPLES
        while time.perf_counter() < end:
            consumer.total(next(batches)).block_until_ready()
        found.append(system.proportional_bytes(os.getpid()))
    return {"value": statistics.median(found) / MIB, "before": alone / MIB, "others": 0.0, "close": batches}


def idle(job: Job) -> dict[str, Any]:
    import system  # noqa: PLC0415
    from consume import step_of  # noqa: PLC0415

    consumer = Consumer(job)
    step = step_of(STEP, consumer.example)
    batches = consumer.open()
    consumer.warm(batches)
    for _ in range(50):
        step(next(batches)).block_until_ready()
    neighbours = system.Neighbours()
    waited = 0.0
    waits = []
    begin = after = time.perf_counter()
    while after < begin + job.seconds:
        arrays = next(batches)
        have = time.perf_counter()
        waits.append(have - after)
        waited += have - after
        step(arrays).block_until_ready()
        del arrays
        after = time.perf_counter()
    return {
        "value": waited / (after - begin),
        "median_wait": statistics.median(waits),
        "step": (after - begin - waited) / len(waits),
        "others": neighbours.share(),
        "close": batches,
    }


def ready(job: Job) -> dict[str, Any]:
    """Seconds of one ``next()`` when the batch is there already: the median over runs that each empty a full loader."""
    import system  # noqa: PLC0415

    from hydrax_core import DataGroup, Dataloader  # noqa: PLC0415

    Consumer(job)  # jax has started, the programs are compiled
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in load_named(job.load).specs.items()}
    group = DataGroup(job.batch, range(job.items), loader_arrays=arrays)
    found = []
    neighbours = system.Neighbours()
    with Dataloader(load_named(job.load).fill, group, depth=2 * READY + 4, loader_count=job.workers) as loader:
        end = time.perf_counter() + job.seconds
        while time.perf_counter() < end:
            while loader.stats().slots.count("ready") < READY:
                time.sleep(0.01)
            for _ in range(READY):
                start = time.perf_counter()
                batch = next(loader)
                found.append(time.perf_counter() - start)
                batch.close()
    return {"value": statistics.median(found), "others": neighbours.share()}


def handed(job: Job) -> dict[str, Any]:
    """Seconds jax takes to make arrays of a batch in NumPy memory: by a compiled copy, or by ``device_put``."""
    import jax  # noqa: PLC0415
    import peers  # noqa: PLC0415
    import system  # noqa: PLC0415

    specs = load_named(job.load).specs
    host = {name: peers.aligned((job.batch, *shape), dtype) for name, (shape, dtype) in specs.items()}
    make = jax.jit(dict) if json.loads(job.options)["by"] == "copy" else jax.device_put
    jax.block_until_ready(make(host))
    found = []
    neighbours = system.Neighbours()
    end = time.perf_counter() + job.seconds
    start = end
    while start <= end:
        start = time.perf_counter()
        made = make(host)
        found.append(time.perf_counter() - start)
        jax.block_until_ready(made)
    return {"value": statistics.median(found), "others": neighbours.share()}


def summed(job: Job) -> dict[str, Any]:
    """Seconds of the jitted sum of a batch, waited for: of arrays that are there for long, or were just placed."""
    import jax  # noqa: PLC0415
    import peers  # noqa: PLC0415
    import system  # noqa: PLC0415

    consumer = Consumer(job)
    specs = load_named(job.load).specs.values()
    host = [peers.aligned((job.batch, *shape), dtype) for shape, dtype in specs]
    placed = json.loads(job.options)["by"] == "placed"
    found = []
    neighbours = system.Neighbours()
    end = time.perf_counter() + job.seconds
    start = end
    while start <= end:
        arrays = tuple(jax.device_put(array) for array in host) if placed else consumer.example
        start = time.perf_counter()
        consumer.total(arrays).block_until_ready()
        found.append(time.perf_counter() - start)
    return {"value": statistics.median(found), "others": neighbours.share()}


def bare(job: Job) -> dict[str, Any]:
    """The item's work alone, into one warm batch: no jax, nobody reads the batch."""
    import peers  # noqa: PLC0415

    load = load_named(job.load)
    arrays = {name: peers.aligned((job.batch, *shape), dtype) for name, (shape, dtype) in load.specs.items()}
    views = [{name: array[row, ...] for name, array in arrays.items()} for row in range(job.batch)]
    position = 0

    def one() -> None:
        nonlocal position
        for item, row in enumerate(views, position):
            load.fill(item, row)
        position += job.batch

    end = time.perf_counter() + job.warmup
    while time.perf_counter() < end:
        one()
    return _rate(job, one)


def pair(job: Job) -> dict[str, Any]:
    """The rates of two processes that do the work at the same time and share nothing, added up."""
    import system  # noqa: PLC0415

    neighbours = system.Neighbours()
    part = json.loads(job.dump()) | {"peer": "one process", "measure": json.loads(job.options)["part"]}
    command = [sys.executable, __file__, json.dumps(part)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    if any("error" in one for one in found):
        raise RuntimeError(f"a process of the pair failed: {found}")
    return {"value": sum(one["value"] for one in found), "others": neighbours.share()}


MEASURES = {
    "throughput": throughput,
    "cached": throughput,
    "filling": filling,
    "checking": checking,
    "first": first,
    "resume": first,
    "memory": memory,
    "idle": idle,
    "ready": ready,
    "handed": handed,
    "summed": summed,
    "bare": bare,
    "pair": pair,
}


def main() -> None:
    job = Job.load_json(sys.argv[1])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import peers  # noqa: PLC0415

    try:
        result = MEASURES[job.measure](job)
    except peers.NotSupportedError as error:
        result = {"unsupported": str(error)}
    batches = result.pop("close", None)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    if batches is not None:
        with contextlib.suppress(Exception):
            batches.close()


if __name__ == "__main__":
    main()
