"""Speeds and shares from one frame to the next; pure but for what it remembers.

Promise: pauses, the time to the first batch and jumps count for nothing: what is shown is the run while it runs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hydrax_cli.shared.verdict import pace, verdict

if TYPE_CHECKING:
    from hydrax_cli.inspect.run_view import Frame, RunState
    from hydrax_core.monitor import Stats

__all__ = ["Rates", "Reading"]

_SHORT_SECONDS = 2.0
_LONG_SECONDS = 30.0
_BUCKET_SECONDS = 0.5
_MOST_BUCKETS = 240
_STARVED_SHARE = 0.25
_LONGEST_IDLE_GAP = 0.05
"""A pause shorter than this is a step's, not the user's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a frame means.

    Attributes:
        state: The frame's state, ``"starved"`` where the training waits for batches much of the time.
        idle: Share of the time that the consumer waited, 0 to 1.
        history: Items a second, a value each half second, oldest first.
        busy: Share of the time that each worker loaded, 0 to 1.
        verdict: Who waits for whom, in words.
    """

    state: RunState = "opening"
    items: float = 0.0
    bytes: float = 0.0
    batches: float = 0.0
    idle: float = 0.0
    history: tuple[float, ...] = ()
    busy: tuple[float, ...] = ()
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class _Sample:
    active: float
    idle: float
    stats: Stats


class Rates:
    """Reads one frame after the other.

    Args:
        cores: Cores that workers may use, for the verdict.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._samples: deque[_Sample] = deque()
        self._buckets: deque[float] = deque(maxlen=_MOST_BUCKETS)
        self._bucket_seconds = 0.0
        self._bucket_items = 0
        self._paused = 0.0
        self._reading = Reading()

    def read(self, frame: Frame) -> Reading:
        stats = frame.stats
        if stats is None or stats.first_batch is None:
            self._samples.clear()
            self._reading = replace(Reading(), state=frame.state, history=tuple(self._buckets))
            return self._reading
        self._take(frame, stats)
        if frame.state in ("running", "starved") and len(self._samples) > 1:
            self._reading = self._measure(frame)
        else:
            self._reading = replace(self._reading, state=frame.state, busy=tuple(0.0 for _ in stats.workers))
        return self._reading

    def _take(self, frame: Frame, stats: Stats) -> None:
        paused = frame.paused_seconds - self._paused
        self._paused = frame.paused_seconds
        idle = stats.idle_seconds + frame.waiting_seconds
        last = self._samples[-1] if self._samples else None
        if last is None or stats.seconds < last.stats.seconds or paused > _LONGEST_IDLE_GAP:
            self._samples.clear()
            self._samples.append(_Sample(0.0, idle, stats))
            return
        passed = max(0.0, stats.seconds - last.stats.seconds - paused)
        self._samples.append(_Sample(last.active + passed, idle, stats))
        while self._samples[-1].active - self._samples[1].active > _LONG_SECONDS:
            self._samples.popleft()
        self._bucket_seconds += passed
        self._bucket_items += stats.items - last.stats.items
        if self._bucket_seconds >= _BUCKET_SECONDS:
            self._buckets.append(self._bucket_items / self._bucket_seconds)
            self._bucket_seconds, self._bucket_items = 0.0, 0

    def _measure(self, frame: Frame) -> Reading:
        now = self._samples[-1]
        recent = next(s for s in self._samples if now.active - s.active <= _SHORT_SECONDS)
        if recent is now:
            recent = self._samples[-2]
        seconds = max(now.active - recent.active, 1e-9)
        before, after = recent.stats, now.stats
        idle = min(1.0, max(0.0, now.idle - recent.idle) / seconds)
        has_step = frame.limit is not None or (frame.subject is not None and frame.subject.has_step)
        state = frame.state
        if state == "running" and has_step and seconds > _SHORT_SECONDS / 2 and idle > _STARVED_SHARE:
            state = "starved"
        batches = after.training_batches + after.validation_batches
        return Reading(
            state=state,
            items=(after.items - before.items) / seconds,
            bytes=(after.bytes - before.bytes) / seconds,
            batches=(batches - before.training_batches - before.validation_batches) / seconds,
            idle=idle,
            history=tuple(self._buckets),
            busy=_busy(before, after, seconds),
            verdict=self._verdict(frame, has_step=has_step),
        )

    def _verdict(self, frame: Frame, *, has_step: bool) -> str:
        before, after = self._samples[0].stats, self._samples[-1].stats
        measured = pace(before, after)
        if measured.batches <= measured.depth + 1:
            return self._reading.verdict
        inline = frame.subject is not None and frame.subject.plan.loader_kind == "inline"
        return verdict(measured, has_step=has_step, inline=inline, cores=self._cores)


def _busy(before: Stats, after: Stats, seconds: float) -> tuple[float, ...]:
    """A long item shows up in the counts at its end only: until then it counts as busy."""
    known = {worker.number: worker.busy_seconds for worker in before.workers}
    return tuple(
        1.0
        if worker.item is not None and worker.item_seconds >= seconds
        else min(1.0, max(0.0, worker.busy_seconds - known.get(worker.number, 0.0)) / seconds)
        for worker in after.workers
    )
