"""The table of works: what is measured, on whom, and the mark each figure has to reach.

A work is a set of cases that are measured in turn. A mark compares the figures of one round, never of two: what slows
the machine down for a while slows both sides. Where the marks come from: they are the project's own promise, set before
the code was written; a mark that was missed stays here as it was, with the reason in docs/performance.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

PEERS = ("grain", "torch", "hydrax 0.2.2")
ONE = "one process"
TWO = "two processes"
WORK_ALONE = "two, work only"
MAP = "memory map"
ONE_LOADER = "hydrax 0.2.2, one loader"
MIB_S = 1 / (1 << 10)
"""GiB of MiB."""


@dataclass(frozen=True)
class Mark:
    """A promise about the figures of one work.

    Attributes:
        text: What is compared.
        tops: Cases on our side; the worst of them counts.
        bottoms: Cases it is compared with; the best one that was measured counts.
        bound: The promise; ``None`` where two versions are only compared.
        sense: Whether the figure has to be ``"at least"`` or ``"at most"`` the bound.
        how: ``"ratio"`` top / bottom, ``"difference"`` top - bottom, or the top's ``"value"`` itself.
        field: Which of a measurement's figures.
    """

    text: str
    tops: tuple[str, ...]
    bottoms: tuple[str, ...]
    bound: float | None
    sense: Literal["at least", "at most"] = "at least"
    how: Literal["ratio", "difference", "value"] = "ratio"
    field: str = "value"

    def holds(self, figure: float, slack: float = 1.0) -> bool:
        """Whether the promise is kept; with ``slack`` 2, whether it is kept to one half."""
        if self.bound is None:
            return True
        return figure >= self.bound / slack if self.sense == "at least" else figure <= self.bound * slack


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        name: For ``--only``.
        title: What is done.
        unit: Of the figures shown.
        scale: Figure shown for a measured value of 1.
        better: Whether ``"more"`` or ``"less"`` is better.
        cases: What is measured, by label; a label that is a peer's name stands in the peer's column.
        marks: What has to hold.
        along: What the labels count, for works that are plotted as growth.
    """

    name: str
    title: str
    unit: str
    better: Literal["more", "less"]
    cases: Mapping[str, Job]
    marks: tuple[Mark, ...]
    scale: float = 1.0
    along: str = ""


def _each(job: Job, *others: str) -> dict[str, Job]:
    return {peer: replace(job, peer=peer) for peer in ("hydrax", *PEERS, *others)}


def _pair(job: Job, part: str, **options: int) -> Job:
    return replace(job, peer="pair", measure="pair", options=json.dumps({"part": part, **options}))


def _tiny() -> Work:
    job = Job("", "tiny", batch=256)
    cases = _each(job, ONE)
    cases[TWO] = _pair(job, "throughput")
    return Work(
        "tiny",
        "16 float32 an item, batch 256",
        "k items/s",
        "more",
        cases,
        (Mark("best peer", ("hydrax",), PEERS, 4.0),),
        scale=1e-3,
    )


def _batched() -> Work:
    job = Job("", "tiny", batch=256)
    runs = replace(job, batched=True)
    cases = {
        "hydrax": replace(runs, peer="hydrax"),
        "grain": replace(job, peer="grain"),
        "torch": replace(job, peer="torch"),
        "torch __getitems__": replace(runs, peer="torch"),
        "hydrax 0.2.2": replace(job, peer="hydrax 0.2.2"),
        ONE: replace(runs, peer=ONE),
    }
    return Work(
        "batched",
        "the same through @batched; peers per item",
        "k items/s",
        "more",
        cases,
        (
            Mark("best per-item peer", ("hydrax",), PEERS, 20.0),
            Mark("torch __getitems__", ("hydrax",), ("torch __getitems__",), 1.0),
        ),
        scale=1e-3,
    )


def _copy() -> Work:
    job = Job("", "copy", batch=16)
    cases = _each(job, ONE)
    cases["hydrax, defaults"] = replace(cases["hydrax"], options='{"zeroed": true, "depth": 3}')
    cases[TWO] = _pair(job, "throughput")
    return Work(
        "copy",
        "1 MiB rows of a memory map, batch 16",
        "GiB/s",
        "more",
        cases,
        (Mark("best peer", ("hydrax",), PEERS, 1.1), Mark("two processes that copy and sum", ("hydrax",), (TWO,), 0.8)),
        scale=MIB_S,
    )


def _cached() -> Work:
    job = Job("", "copy", measure="cached", batch=16, items=128)
    # Its documentation means one loader, whose second epoch is the cached one. That stalls more often than not, its own
    # thread having ended in an IndexError, whatever the depth (3, 6, 12 and 32 were tried); a second loader that only
    # reads the cache works.
    alone = replace(job, peer="hydrax 0.2.2", options='{"loaders": 1}', limit=20)
    cases = {peer: replace(job, peer=peer) for peer in ("hydrax", "hydrax 0.2.2", MAP)} | {ONE_LOADER: alone}
    return Work(
        "cached",
        "the copy work, second epoch, from the cache",
        "GiB/s",
        "more",
        cases,
        (
            Mark("rows of a kept-open memory map", ("hydrax",), (MAP,), 0.8),
            Mark("hydrax 0.2.2", ("hydrax",), ("hydrax 0.2.2", ONE_LOADER), 3.0),
        ),
        scale=MIB_S,
    )


def _filling() -> Work:
    job = Job("hydrax", "steady", measure="filling", batch=64, items=3200, options='{"cache": true}')
    cases = {"hydrax": job, "without a cache": replace(job, options='{"cache": false}')}
    mark = Mark("the same without a cache", ("hydrax",), ("without a cache",), 1.05, "at most")
    return Work("filling", "first epoch that fills a cache, 1 ms and 12 KiB an item", "s", "less", cases, (mark,))


def _checking() -> Work:
    job = Job("hydrax", "copy", measure="checking", batch=16, items=512, options='{"checked": true}')
    cases = {"hydrax": job, "unchecked": replace(job, options='{"checked": false}')}
    for checked, label in ((True, "a step of 2 ms"), (False, "a step of 2 ms, unchecked")):
        cases[label] = replace(job, options=json.dumps({"checked": checked, "step": True}))
    # At most a fifth of the whole is the checks': the whole is at most 1.25 x the rest.
    marks = (
        Mark("the same without the checks", ("hydrax",), ("unchecked",), 1.25, "at most"),
        Mark("the same with a step of 2 ms", ("a step of 2 ms",), ("a step of 2 ms, unchecked",), 1.25, "at most"),
    )
    return Work("checking", "first cached epoch, 512 MiB in batches of 16", "ms", "less", cases, marks, scale=1e3)


def _image() -> Work:
    job = Job("", "image", batch=64)
    cases = _each(job, ONE)
    cases[WORK_ALONE] = _pair(job, "bare")
    return Work(
        "image",
        "JPEG 384 to 224x224x3, Pillow, batch 64",
        "images/s",
        "more",
        cases,
        (
            Mark("best peer", ("hydrax",), PEERS, 1.0),
            Mark("two processes that only decode", ("hydrax",), (WORK_ALONE,), 0.95),
        ),
    )


def _first() -> Work:
    cases = _each(Job("", "tiny", measure="first", batch=8))
    return Work(
        "first",
        "first batch of 8, from constructing the loader",
        "s",
        "less",
        cases,
        (Mark("best peer", ("hydrax",), PEERS, 0.5, "at most"),),
    )


def _memory() -> Work:
    cases = _each(Job("", "tiny", measure="memory", batch=256), ONE)
    mark = Mark("above jax alone, MiB", ("hydrax",), (ONE,), 60.0, "at most", how="difference")
    return Work("memory", "PSS of all processes, tiny work; one process is jax alone", "MiB", "less", cases, (mark,))


def _slow() -> Work:
    job = Job("", "slow", batch=64)
    cases = _each(job, ONE)
    cases[WORK_ALONE] = _pair(job, "bare")
    return Work(
        "slow",
        "one item in 500 takes 100 x as long, batch 64",
        "k items/s",
        "more",
        cases,
        (Mark("best peer", ("hydrax",), PEERS, 1.0),),
        scale=1e-3,
    )


def _idle() -> Work:
    cases = _each(Job("", "small", measure="idle", batch=8))
    return Work(
        "idle",
        "JPEG 32x32x3, batch 8, 2 ms a jitted step: share of the time spent in next()",
        "%",
        "less",
        cases,
        (Mark("idle share", ("hydrax",), (), 0.01, "at most", how="value"),),
        scale=100,
    )


def _plan() -> Work:
    cases = {}
    for peer in ("hydrax", "grain"):
        for power in (4, 9):
            for what, start in (("first", 0), ("resume", 10**6)):
                job = Job(peer, "tiny", measure=what, batch=256, items=10**power, shuffle=True, start=start)
                cases[f"{peer} {what} 10**{power}"] = job
    marks = []
    for what in ("first", "resume"):
        large, small = f"hydrax {what} 10**9", f"hydrax {what} 10**4"
        marks.append(Mark(f"{what}: 10**9 over 10**4 items", (large,), (small,), 1.2, "at most"))
        marks.append(Mark(f"{what}: MiB more", (large,), (small,), 10.0, "at most", how="difference", field="mib"))
        marks.append(Mark(f"{what}: grain, 10**9 items", (large,), (f"grain {what} 10**9",), 1.0, "at most"))
    return Work("plan", "shuffled, first batch and resume at batch 10**6", "s", "less", cases, tuple(marks))


def _auto() -> Work:
    job = Job("hydrax", "image", batch=64)
    fixed = {
        f"{workers} x {depth}": replace(job, workers=workers, options=f'{{"depth": {depth}}}')
        for workers, depth in ((1, 3), (2, 2), (2, 3), (2, 6), (3, 3))
    }
    # It may take a while to settle: what is measured is what it settled on.
    auto = replace(job, options='{"loader_count": "auto", "depth": "auto"}', warmup=6.0)
    return Work(
        "auto",
        "image work, loader_count and depth chosen by the loader; else loader_count x depth",
        "images/s",
        "more",
        {"auto": auto, **fixed},
        (Mark("best of the fixed settings", ("auto",), tuple(fixed), 0.95),),
    )


def _monitor() -> Work:
    job = Job("hydrax", "tiny")
    cases = {
        "off": replace(job, options='{"monitor": false}'),
        "no client": replace(job, options='{"monitor": true}'),
        "a client": replace(job, options='{"monitor": true, "attached": true}', warmup=4.0),
    }
    marks = (
        Mark("off, nobody attached", ("no client",), ("off",), 0.99),
        Mark("off, the inspector attached", ("a client",), ("off",), None),
    )
    return Work("monitor", "tiny work, a run that can be watched", "k items/s", "more", cases, marks, scale=1e-3)


def _next() -> Work:
    job = Job("hydrax", "small", measure="ready", batch=8, seconds=1.0)
    cases = {
        "hydrax": job,
        "jax, compiled copy": replace(job, peer="jax", measure="handed", options='{"by": "copy"}'),
        "jax.device_put": replace(job, peer="jax", measure="handed", options='{"by": "put"}'),
    }
    return Work("next", "next() with the batch ready, 8 x 32x32x3 uint8", "µs", "less", cases, (), scale=1e6)


def _sum() -> Work:
    job = Job("jax", "tiny", measure="summed", batch=256, seconds=1.0)
    cases = {
        "placed long ago": replace(job, options='{"by": "ready"}'),
        "just placed": replace(job, options='{"by": "placed"}'),
    }
    return Work("sum", "jitted sum of a tiny batch, waited for, no loader", "µs", "less", cases, (), scale=1e6)


def _rotation() -> Work:
    job = Job("", "copy", batch=16, seconds=1.0)
    cases = {f"{places}": _pair(job, "throughput", places=places) for places in (1, 2, 3, 5, 8)}
    return Work(
        "rotation",
        "two processes copy and sum 1 MiB rows, no loader, going around batches in turn",
        "GiB/s",
        "more",
        cases,
        (),
        scale=MIB_S,
        along="batches that each goes around",
    )


def _growth() -> tuple[Work, ...]:
    job = Job("hydrax", "tiny", seconds=1.5)
    items = {f"{10**power}": replace(job, items=10**power) for power in range(3, 8)}
    arrays = {f"{count}": replace(job, load=f"arrays:{count}") for count in (1, 2, 4, 8, 16, 32, 64)}
    workers = {f"{count}": replace(job, workers=count) for count in (1, 2, 4, 8)}
    return (
        Work(
            "growth-items",
            "tiny work, items of the data set",
            "k items/s",
            "more",
            items,
            (Mark("slowest over fastest", tuple(items), tuple(items), 0.75),),
            scale=1e-3,
            along="items of the data set",
        ),
        Work(
            "growth-arrays",
            "16 float32 an array, arrays an item",
            "k items/s",
            "more",
            arrays,
            (),
            scale=1e-3,
            along="arrays of an item",
        ),
        Work(
            "growth-workers",
            "tiny work, worker processes",
            "k items/s",
            "more",
            workers,
            (Mark("8 workers over 2", ("8",), ("2",), 0.75),),
            scale=1e-3,
            along="workers",
        ),
    )


WORKS: tuple[Work, ...] = (
    _tiny(),
    _batched(),
    _copy(),
    _cached(),
    _filling(),
    _checking(),
    _image(),
    _first(),
    _memory(),
    _slow(),
    _idle(),
    _plan(),
    _auto(),
    _monitor(),
    _next(),
    _sum(),
    *_growth(),
    _rotation(),
)
