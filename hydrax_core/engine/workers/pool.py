"""The workers of an engine: which chunks each has, which is free, which has to be replaced.

Promise: a worker has its next chunk before it has done one, so that it need not wait for the engine; a pool whose
workers end again and again without doing any work is given up.
"""

from __future__ import annotations

import math
import os
import selectors
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from hydrax_core.engine.counters import WorkerStats
from hydrax_core.engine.workers import pickling
from hydrax_core.engine.workers.protocol import Worker
from hydrax_core.engine.workers.runner import BUSY_CHUNK, BUSY_ROW, BUSY_SINCE
from hydrax_core.engine.workers.wire import Chunk, ChunkResult
from hydrax_core.errors import BatchAddress, error_texts

__all__ = ["WorkerHandle", "WorkerPool"]

Describe: TypeAlias = Callable[[int, int], tuple[BatchAddress, int] | None]
"""Gives the batch and the index of the item at a row of a chunk in work."""

_AHEAD_CHUNKS = 2
_AHEAD_SECONDS = 0.01
"""Work that a worker has in hand: more than the interpreter's switch interval of 5 ms, for which a busy main thread may
keep the engine from answering."""
_MOST_IDLE_DEATHS = 3
_GRACE_SECONDS = 1.0
"""How long a worker that is not needed any more may take to end."""


@dataclass(slots=True)
class WorkerHandle:
    """A worker and what the engine knows of it."""

    worker: Worker
    ready: bool = False
    items: int = 0
    busy_seconds: float = 0.0
    restarts: int = 0
    sent: dict[int, float] = field(default_factory=dict)
    backlog: float = 0.0
    """Estimated seconds of work in hand."""
    seen: tuple[int, int, float] = (0, 0, 0.0)
    descriptors: tuple[int, ...] = ()
    writing: bool = False
    watched: dict[int, int] = field(default_factory=dict)
    retiring: bool = False

    @property
    def has_room(self) -> bool:
        usable = self.ready and not self.retiring and not self.worker.ending
        return usable and (len(self.sent) < _AHEAD_CHUNKS or self.backlog < _AHEAD_SECONDS)

    def send(self, chunk: Chunk, seconds: float) -> None:
        """Hand over a chunk that is expected to take ``seconds``, 0 where nothing is known."""
        self.worker.send(chunk)
        seconds = seconds or _AHEAD_SECONDS  # where nothing is known, or the worker that starts first would get all
        self.sent[chunk.number] = seconds
        self.backlog += seconds

    def done(self, result: ChunkResult) -> None:
        self._answered(result.number)
        self.items += result.loaded
        self.busy_seconds += result.seconds

    def oldest(self) -> int:
        """Take the chunk that the next result would have been of, as results come in order."""
        number = next(iter(self.sent))
        self._answered(number)
        return number

    def forget(self) -> None:
        self.sent.clear()
        self.backlog = 0.0

    def _answered(self, number: int) -> None:
        seconds = self.sent.pop(number, 0.0)
        self.backlog = self.backlog - seconds if self.sent else 0.0

    def unanswered(self) -> list[int]:
        return list(self.sent)

    def busy(self) -> tuple[int, int] | None:
        row = int(self.worker.status[BUSY_ROW])
        chunk = int(self.worker.status[BUSY_CHUNK])
        return (chunk, row - 1) if row and chunk in self.sent else None


class WorkerPool:
    def __init__(self, start_worker: Callable[[int], Worker], count: int) -> None:
        self._start_worker = start_worker
        self._count = count
        self._idle_deaths = 0
        self.handles: list[WorkerHandle] = []
        self.restarts = 0
        self._leaving: list[tuple[Worker, float]] = []
        self._before = (0, 0.0)
        """Items and seconds of workers that have left."""
        _pools.add(self)

    def start(self) -> Iterator[None]:
        """Start all workers, one a step; ``close()`` ends those that did start."""
        for number in range(self._count):
            self.handles.append(WorkerHandle(self._start_worker(number)))
            yield

    @property
    def count(self) -> int:
        return self._count

    @property
    def complete(self) -> bool:
        return sum(handle.ready and not handle.retiring for handle in self.handles) == self._count

    @property
    def busy_seconds(self) -> float:
        return self._before[1] + sum(handle.busy_seconds for handle in list(self.handles))

    @property
    def loaded_items(self) -> int:
        return self._before[0] + sum(handle.items for handle in list(self.handles))

    def resize(self, count: int) -> None:
        """Start workers until there are ``count``, or have the last ones end when they have done what is in hand."""
        for position, handle in enumerate(self.handles):
            handle.retiring = position >= count
        self._count = min(count, len(self.handles))
        while self._count < count:
            self.handles.append(WorkerHandle(self._start_worker(len(self.handles))))
            self._count += 1

    def reap(self, selector: selectors.BaseSelector) -> None:
        """Let go of workers that are not needed any more."""
        while self.handles and self.handles[-1].retiring and not self.handles[-1].sent:
            handle = self.handles.pop()
            for fd in handle.watched:
                selector.unregister(fd)
            self._before = (self._before[0] + handle.items, self._before[1] + handle.busy_seconds)
            handle.worker.stop()
            self._leaving.append((handle.worker, time.monotonic() + _GRACE_SECONDS))
        while self._leaving and time.monotonic() > self._leaving[0][1]:
            self._leaving.pop(0)[0].join(0)

    def least_busy(self, but: Collection[int] = ()) -> WorkerHandle | None:
        """The worker with the least work in hand, or ``None`` when all have enough, but for these numbers."""
        found, least = None, (math.inf, 0)
        for handle in self.handles:
            load = (handle.backlog, len(handle.sent))
            if load < least and handle.has_room and handle.worker.number not in but:
                found, least = handle, load
        return found

    def progress(self) -> None:
        """Take note that some work was done."""
        self._idle_deaths = 0

    def replace(self, handle: WorkerHandle, selector: selectors.BaseSelector, *, idle: bool) -> bool:
        """Start a worker instead of one that ended (when it was ``idle``); false when the pool is given up."""
        if idle:  # the schedule counts the others against their items
            self._idle_deaths += 1
        if not handle.worker.replaceable or self._idle_deaths > _MOST_IDLE_DEATHS * self._count + 1:
            return False
        for fd in handle.watched:
            selector.unregister(fd)
        handle.watched, handle.descriptors, handle.writing = {}, (), False  # the new one's may have the same numbers
        number = handle.worker.number
        handle.worker.join(0)
        handle.worker = self._start_worker(number)
        handle.ready = False
        handle.forget()
        handle.restarts += 1
        self.restarts += 1
        return True

    def watch(self, selector: selectors.BaseSelector) -> None:
        for handle in self.handles:
            worker = handle.worker
            if worker.unsent is not None:
                worker.flush()
            unsent = worker.unsent
            if unsent is None and not handle.writing and worker.descriptors == handle.descriptors:
                continue
            handle.writing, handle.descriptors = unsent is not None, worker.descriptors
            wanted = {
                fd: selectors.EVENT_READ | (selectors.EVENT_WRITE if fd == unsent else 0) for fd in worker.descriptors
            }
            for fd in handle.watched.keys() - wanted.keys():
                selector.unregister(fd)
            for fd, events in wanted.items():
                if fd not in handle.watched:
                    selector.register(fd, events, handle)
                elif handle.watched[fd] != events:
                    selector.modify(fd, events, handle)
            handle.watched = wanted

    def find_unsendable(self, chunk: Chunk, error: Exception) -> tuple[int, str]:
        """The row of the descriptor that cannot be sent, and why."""
        for offset, item in enumerate(chunk.descriptors()):
            try:
                pickling.dumps(item)
            except Exception as own:  # noqa: BLE001  whatever the descriptor's pickling raises
                return chunk.first_row + offset, f"the descriptor cannot be pickled: {error_texts(own)[0]}"
        return chunk.first_row, f"the descriptor cannot be pickled: {error_texts(error)[0]}"

    def stats(self, describe: Describe) -> tuple[WorkerStats, ...]:
        return tuple(self._handle_stats(handle, describe) for handle in list(self.handles))

    def report(self, describe: Describe) -> str:
        texts = []
        for stats in self.stats(describe):
            if stats.item is not None:
                doing = f"busy with item {stats.item} of {stats.address} for {stats.item_seconds:.1f} s"
            elif stats.state == "starting":
                doing = "still starting (startup_func, or the imports of loader_func)"
            else:
                doing = stats.state
            pid = f" (pid {stats.pid})" if stats.pid else ""
            texts.append(f"worker {stats.number}{pid} is {doing}")
        return "; ".join(texts)

    def close(self, seconds: float) -> None:
        """End all workers; those that take longer than ``seconds`` are killed."""
        for handle in self.handles:
            handle.worker.stop()
        deadline = time.monotonic() + seconds
        while self.handles:
            self.handles[-1].worker.join(max(0.0, deadline - time.monotonic()))
            del self.handles[-1:]  # a signal handler may have closed all meanwhile
        while self._leaving:
            self._leaving[-1][0].join(max(0.0, deadline - time.monotonic()))
            del self._leaving[-1:]

    def abandon(self) -> None:
        """Let go of the workers in a fork's child, without ending them."""
        for handle in self.handles:
            handle.worker.abandon()
        for worker, _ in self._leaving:
            worker.abandon()
        self.handles, self._leaving = [], []

    def _handle_stats(self, handle: WorkerHandle, describe: Describe) -> WorkerStats:
        busy = handle.busy()
        what = describe(*busy) if busy is not None else None
        now = time.monotonic()
        if busy is None or what is None:
            state = "starting" if not handle.ready else "busy" if handle.sent else "idle"
            address, item, seconds = "", None, 0.0
        else:
            if handle.seen[:2] != busy:
                # The chunk's start is known exactly, that of a later item only since it was first seen in work.
                since = int(handle.worker.status[BUSY_SINCE]) / 1e9 if handle.seen[0] != busy[0] else now
                handle.seen = (*busy, since)
            state, address, item, seconds = "busy", str(what[0]), what[1], now - handle.seen[2]
        return WorkerStats(
            handle.worker.number,
            handle.worker.pid,
            state,  # type: ignore[arg-type]  # one of the literals above
            handle.items,
            handle.busy_seconds,
            handle.restarts,
            address,
            item,
            seconds,
        )


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()
"""Pools in use, so that a fork's child lets go of their workers."""


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
