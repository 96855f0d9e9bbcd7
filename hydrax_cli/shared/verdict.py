"""Who waits for whom, by how much, and what would change it: one line from two snapshots of a loader.

Promise: pure, so that a run's end and a live view say the same of the same numbers, and nothing is said of a run so
short that prefetching alone explains it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrax_cli.shared.units import count, many, rate, ratio, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_core import Stats

__all__ = ["Pace", "pace", "verdict"]

_NO_WAIT = 0.05
"""Share of waiting up to which the training step counts as the limit."""
_MOST_WORKERS = 1024
"""What ``Dataloader`` takes."""
_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How batches came and went between two snapshots.

    Attributes:
        seconds: Time that it took.
        idle_seconds: Time that the consumer waited for batches.
        hits: How many of the batches a cache served.
        item_seconds: Time in ``loader_func`` for an item; 0 where none was loaded.
        workers: Workers, at least 1.
        depth: Batches loaded ahead.
        read_seconds: Time in ``data[i]``, in the main process, for an item; 0 where workers read, or nothing is known.
        calls: Calls of a loader of many items (``batched``) for a batch.
        call_seconds: What such a call takes beside its items.
    """

    batches: int
    items: int
    seconds: float
    idle_seconds: float
    hits: int
    item_seconds: float
    workers: int
    depth: int
    read_seconds: float = 0.0
    calls: float = 0.0
    call_seconds: float = 0.0

    @property
    def rows(self) -> float:
        """Items a batch."""
        return self.items / self.batches

    @property
    def step_seconds(self) -> float:
        """What the consumer takes for a batch."""
        return max(0.0, self.seconds - self.idle_seconds) / self.batches

    @property
    def load_seconds(self) -> float:
        """What all workers together take for a batch that no cache serves."""
        return self.item_seconds * self.rows / self.workers

    @property
    def reads(self) -> bool:
        """Whether reading in the main process takes longer than loading, and most of the time."""
        reading = self.read_seconds * self.rows
        return reading > self.load_seconds and reading > _MOSTLY * self.seconds / self.batches

    @property
    def cached(self) -> bool:
        return self.hits == self.batches


def pace(before: Stats, after: Stats) -> Pace:
    """The pace between two snapshots; take the first of them after the first batch, which is like no other."""
    span_items = after.loaded_items - before.loaded_items
    loaded, load_seconds = after.loaded_items, after.load_seconds
    if span_items:
        loaded, load_seconds = span_items, after.load_seconds - before.load_seconds
    read = after.read_items - before.read_items
    calls, call_seconds = after.calls - before.calls, after.call_seconds - before.call_seconds
    training = after.training_batches - before.training_batches
    batches, items = training + after.validation_batches - before.validation_batches, after.items - before.items
    return Pace(
        batches=batches,
        items=items,
        seconds=after.seconds - before.seconds,
        idle_seconds=after.idle_seconds - before.idle_seconds,
        hits=after.cache_hits - before.cache_hits,
        item_seconds=load_seconds / loaded if loaded else 0.0,
        workers=max(1, after.loader_count),
        depth=after.depth,
        read_seconds=(after.read_seconds - before.read_seconds) / read if read else 0.0,
        calls=calls / span_items * items / batches if batches and span_items else 0.0,
        call_seconds=call_seconds / calls if calls else 0.0,
    )


def verdict(measured: Pace, *, has_step: bool, inline: bool, cores: int, tuned: Sequence[str] = ()) -> str:
    """The line.

    Args:
        has_step: Whether the consumer trains, or pretends to; else it only takes batches.
        inline: Whether the loader runs in the consumer's own thread.
        cores: Cores that the workers may use.
        tuned: Which of ``depth`` and ``loader_count`` the loader chose by itself.
    """
    if measured.batches <= measured.depth or measured.seconds <= 0:
        return f"too few batches to tell: {measured.batches} after the first, and {measured.depth} are loaded ahead"
    if not has_step:
        line = _no_step(measured)
    elif measured.idle_seconds <= _NO_WAIT * measured.seconds:
        line = _step_is_the_limit(measured)
    elif measured.cached:
        line = _step_waits_for_the_cache(measured, inline=inline)
    else:
        line = _inline(measured, cores) if inline else _step_waits(measured, cores)
    served = f"; the cache served {count(measured.hits)} of {many(measured.batches, 'batch', 'batches')}"
    if 0 < measured.hits < measured.batches:
        line += served
    return f"{line}; auto chose {_chosen(measured, tuned)}" if tuned else line


def _chosen(measured: Pace, tuned: Sequence[str]) -> str:
    chosen = {"loader_count": many(measured.workers, "worker"), "depth": f"depth {measured.depth}"}
    return " and ".join(text for name, text in chosen.items() if name in tuned)


def _no_step(measured: Pace) -> str:
    period = span(measured.seconds / measured.batches)
    items = rate(measured.items, measured.seconds)
    source = " from the cache" if measured.cached else ""
    why = "a longer step would not wait"
    if measured.reads:
        why = f"reading data[i] in the main process is the limit: {_reading(measured)}"
    elif not measured.cached:
        why += _fixed_cost(measured)
    return f"no training step to feed: a batch comes every {period}{source} ({items} items/s); {why}"


def _step_is_the_limit(measured: Pace) -> str:
    step = span(measured.step_seconds)
    if measured.cached:
        return f"the training step is the limit: {step}; the cache served all batches"
    if not measured.load_seconds:
        return f"the training step is the limit: {step}; the batches needed no loading"
    times = measured.step_seconds / measured.load_seconds
    text = f"the training step is the limit: {step} against {span(measured.load_seconds)} a batch from the loader"
    if times > 1:
        text += f", which could feed {ratio(times)} times as much"
    enough = _enough_workers(measured)
    if enough < measured.workers:
        text += f"; {many(enough, 'worker')} would do"
    return text


def _step_waits_for_the_cache(measured: Pace, *, inline: bool) -> str:
    step, waiting = span(measured.step_seconds), f"{100 * measured.idle_seconds / measured.seconds:.0f} %"
    reading = span(measured.idle_seconds / measured.batches)
    advice = "another kind than inline reads ahead" if inline else "more depth may help, more workers would not"
    return (
        f"the step of {step} waits {waiting} of the time, though the cache served all batches: {reading} a batch for "
        f"reading, checking and placing; {advice}"
    )


def _inline(measured: Pace, cores: int) -> str:
    loading, step = span(measured.idle_seconds / measured.batches), span(measured.step_seconds)
    if measured.reads:
        return f"the step of {step} waits while its own thread reads data[i]: {_reading(measured)}"
    would_do = _would_do(measured, cores)
    return f"the step waits while its own thread loads: {loading} a batch on top of {step} a step; {would_do}"


def _step_waits(measured: Pace, cores: int) -> str:
    step, waiting = span(measured.step_seconds), f"{100 * measured.idle_seconds / measured.seconds:.0f} %"
    if measured.reads:
        return (
            f"the step of {step} waits {waiting} of the time for reading data[i] in the main process: "
            f"{_reading(measured)}"
        )
    if measured.load_seconds > measured.step_seconds:
        would_do = _would_do(measured, cores)
        return (
            f"the loader is behind: {_loading(measured)} > {step} a step, which waits {waiting} of the time; {would_do}"
            f"{_fixed_cost(measured)}"
        )
    return (
        f"the step of {step} waits {waiting} of the time, though loading takes {span(measured.load_seconds)} a batch: "
        "the rest is handing over (placement, conversion) or uneven items; more depth may help, more workers would not"
    )


def _reading(measured: Pace) -> str:
    reading = span(measured.read_seconds * measured.rows)
    return (
        f"{span(measured.read_seconds)} an item, {reading} a batch, whatever the number of workers; give a Source "
        "(hydrax_core.Source), which is read in the workers"
    )


def _fixed_cost(measured: Pace) -> str:
    """What to do about calls that cost more than their items."""
    fixed, loading = measured.calls * measured.call_seconds, measured.item_seconds * measured.rows
    if fixed <= _MOSTLY * loading or not loading:
        return ""
    return (
        f"; {100 * min(1.0, fixed / loading):.0f} % of loading is the fixed cost of a call of the batched loader "
        f"({span(measured.call_seconds)}), not its items: a larger batch_size spreads it over more of them"
    )


def _loading(measured: Pace) -> str:
    """``41 ms an item x 64 / 4 workers = 656 ms a batch``."""
    rows = count(round(measured.rows)) if measured.rows == round(measured.rows) else f"{measured.rows:,.1f}"
    workers = many(measured.workers, "worker")
    return f"{span(measured.item_seconds)} an item x {rows} / {workers} = {span(measured.load_seconds)} a batch"


def _enough_workers(measured: Pace) -> int:
    return max(1, math.ceil(measured.load_seconds * measured.workers / measured.step_seconds))


def _would_do(measured: Pace, cores: int) -> str:
    if measured.load_seconds * measured.workers > _MOST_WORKERS * measured.step_seconds:
        return "more workers would help, but no number of them would do"
    enough = _enough_workers(measured)
    limit = f" (there are {many(cores, 'core')})" if enough > cores else ""
    return f"{many(enough, 'worker')} would do{limit}"
