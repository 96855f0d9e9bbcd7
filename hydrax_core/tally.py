"""The counts behind ``Dataloader.stats()``: what the consumer's side counts, put together with the engine's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from hydrax_core.engine import Engine
from hydrax_core.stats import FirstBatch, SlotState, Stats

__all__ = ["Tally"]


class Tally:
    """Counts of one loader since its start; ``last`` is the snapshot kept when it was closed.

    Args:
        depth: Batches loaded ahead.
        loader_count: Workers.
        slot_bytes: Size of a slot.
    """

    def __init__(self, depth: int, loader_count: int, slot_bytes: int) -> None:
        self._depth = depth
        self._loader_count = loader_count
        self._slot_bytes = slot_bytes
        self.last: Stats | None = None
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._started = time.perf_counter()
        self._idle = 0.0
        self._idle_told = 0.0
        self._training = 0
        self._validation = 0
        self._items = 0
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._first_at: float | None = None

    def waited(self, seconds: float) -> None:
        """The consumer waited for a batch."""
        self._idle += seconds

    def handed_out(self, training: bool, items: int, arrays: Mapping[str, npt.NDArray[Any]], hit: bool | None) -> None:
        """A batch was handed out; ``hit`` tells whether the cache served it, ``None`` where its group has none."""
        if self._first_at is None:
            self._first_at = time.perf_counter()
        if training:
            self._training += 1
        else:
            self._validation += 1
        self._items += items
        self._bytes += sum(array.nbytes for array in arrays.values())
        if hit is not None:
            self._hits += hit
            self._misses += not hit

    def idle_usec(self) -> int:
        """Microseconds waited since the last call."""
        since = self._idle - self._idle_told
        self._idle_told = self._idle
        return int(since * 1e6)

    def keep(self, snapshot: Stats) -> None:
        """Keep the last snapshot of a loader that is being closed."""
        self.last = replace(snapshot, running=False)

    def snapshot(self, engine: Engine | None) -> Stats:
        """All counts now."""
        workers = () if engine is None else engine.crew.stats(engine.schedule)
        slots = () if engine is None else _slots(engine)
        dropped = 0 if engine is None else engine.dropped_batches
        return Stats(
            seconds=time.perf_counter() - self._started,
            idle_seconds=self._idle,
            training_batches=self._training,
            validation_batches=self._validation,
            items=self._items,
            bytes=self._bytes,
            errors=0 if engine is None else engine.schedule.errors,
            skipped_batches=0 if engine is None else engine.skipped_batches,
            substituted_items=0 if engine is None else engine.schedule.substituted,
            dropped_batches=dropped,
            cache_hits=self._hits,
            cache_misses=self._misses + dropped,
            loaded_items=sum(worker.items for worker in workers),
            load_seconds=sum(worker.busy_seconds for worker in workers),
            depth=self._depth,
            loader_count=self._loader_count,
            slot_bytes=self._slot_bytes,
            slots=slots,
            held_batches=slots.count("held"),
            worker_restarts=0 if engine is None else engine.crew.restarts,
            workers=workers,
            first_batch=None if engine is None else self._first_batch(engine),
            running=engine is not None,
        )

    def _first_batch(self, engine: Engine) -> FirstBatch | None:
        if self._first_at is None or engine.first_complete is None:
            return None
        ready = engine.first_complete  # a batch of the cache waits for no worker
        if engine.first_ready is not None:
            ready = min(ready, engine.first_ready)
        return FirstBatch(
            start=ready - engine.started,
            load=engine.first_complete - ready,
            place=self._first_at - engine.first_complete,
        )


def _slots(engine: Engine) -> tuple[SlotState, ...]:
    leased, ready, filling = engine.pool.leased(), engine.ready_slots, engine.filling_slots

    def state(slot: int) -> SlotState:
        if slot in filling:
            return "filling"
        if slot in ready:
            return "ready"
        return "held" if slot in leased else "free"

    return tuple(state(slot) for slot in range(engine.pool.count))
