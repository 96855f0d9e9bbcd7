"""The counts behind ``Dataloader.stats()``: what the consumer's side counts, put together with the engine's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydrax_core.data.group import DataGroup
from hydrax_core.engine.counters import EngineCounts
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.monitor.stats import FirstBatch, Stats

__all__ = ["Counters"]


class Counters:
    """Counts of one loader since its start; ``last`` is the snapshot kept when it was closed.

    Args:
        groups: Training before validation.
        depth: Batches loaded ahead.
        loader_count: Workers.
        slot_bytes: Size of a slot.
    """

    def __init__(self, groups: Sequence[DataGroup[Any]], depth: int, loader_count: int, slot_bytes: int) -> None:
        self._batch_bytes = {
            (ordinal, cached): sum(layout.nbytes for layout in layouts.values())
            for ordinal, group in enumerate(groups)
            for cached, layouts in ((False, group.loader_layouts), (True, group.cache_layouts))
        }
        self._caching = [group.cache_location is not None for group in groups]
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

    def handed_out(self, host: HostBatch) -> None:
        """A batch was handed out."""
        if self._first_at is None:
            self._first_at = time.perf_counter()
        if host.planned.address.kind == "training":
            self._training += 1
        else:
            self._validation += 1
        self._items += len(host.indices)
        self._bytes += self._batch_bytes[host.group, host.cached]
        if self._caching[host.group]:
            self._hits += host.from_cache
            self._misses += not host.from_cache

    def idle_usec(self) -> int:
        """Microseconds waited since the last call."""
        since = self._idle - self._idle_told
        self._idle_told = self._idle
        return int(since * 1e6)

    def keep(self, snapshot: Stats, caches: GroupCaches) -> None:
        """Keep the last snapshot of a loader, with what closing the caches brought to light."""
        self.last = replace(snapshot, running=False, cache_corrupt=caches.corrupt, cache_error=caches.error)

    def snapshot(self, counts: EngineCounts | None) -> Stats:
        """All counts now."""
        workers = () if counts is None else counts.workers
        slots = () if counts is None else counts.slots
        dropped = 0 if counts is None else counts.dropped_batches
        tuned = None if counts is None or counts.tuning is None else counts
        return Stats(
            seconds=time.perf_counter() - self._started,
            idle_seconds=self._idle,
            training_batches=self._training,
            validation_batches=self._validation,
            items=self._items,
            bytes=self._bytes,
            errors=0 if counts is None else counts.errors,
            skipped_batches=0 if counts is None else counts.skipped_batches,
            substituted_items=0 if counts is None else counts.substituted_items,
            dropped_batches=dropped,
            cache_hits=self._hits,
            cache_misses=self._misses + dropped,
            loaded_items=0 if counts is None else counts.loaded_items,
            load_seconds=0.0 if counts is None else counts.load_seconds,
            depth=self._depth if tuned is None else tuned.depth,
            loader_count=self._loader_count if tuned is None else tuned.loader_count,
            tuning=None if tuned is None else tuned.tuning,
            slot_bytes=self._slot_bytes,
            slots=slots,
            held_batches=slots.count("held"),
            worker_restarts=0 if counts is None else counts.worker_restarts,
            workers=workers,
            first_batch=None if counts is None else self._first_batch(counts),
            running=counts is not None,
            cache_corrupt=0 if counts is None else counts.cache_corrupt,
            cache_error="" if counts is None else counts.cache_error,
        )

    def _first_batch(self, counts: EngineCounts) -> FirstBatch | None:
        if self._first_at is None or counts.first_complete is None:
            return None
        ready = counts.first_complete  # a batch of the cache waits for no worker
        if counts.first_ready is not None:
            ready = min(ready, counts.first_ready)
        return FirstBatch(
            start=ready - counts.started,
            load=counts.first_complete - ready,
            place=self._first_at - counts.first_complete,
        )
