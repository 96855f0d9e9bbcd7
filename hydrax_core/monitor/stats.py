"""Statistics of a loader: frozen snapshots, made by ``Dataloader.stats()``, and the counters of the consumer's side.

Promise: a snapshot costs some ten microseconds and waits for nothing; a number of the engine has the same name there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import length_name
from hydrax_core.engine.counters import EngineStats
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.plan.mixture import Mixture

__all__ = ["Counters", "GroupShare", "Stats"]


@dataclass(frozen=True, slots=True)
class GroupShare:
    """A training group in a run.

    Attributes:
        batches: Its batches handed out.
        share: Their share of all training batches handed out, 0 to 1.
        expected: The share that it has now by ``weights``, or by its batches.
        epochs: How often all its batches came up to the last batch handed out, counted from the start of the run.
    """

    batches: int
    share: float
    expected: float
    epochs: float


@dataclass(frozen=True)
class Stats(EngineStats):
    """A loader at one moment; counts are since its start, sizes in bytes, times in seconds.

    Attributes:
        seconds: Time since the start.
        idle_seconds: Time the consumer waited in ``next()``.
        training_batches: Training batches handed out.
        validation_batches: Validation batches handed out.
        items: Items (real rows) in the batches handed out; of several hosts, those that this one loaded.
        bytes: Bytes of the arrays handed out, as loaded; of several hosts, those of this one's rows.
        errors: Items that failed, whatever was done about it.
        failed_items: The first hundred different items that failed.
        skipped_batches: Batches dropped by ``on_error="skip"``.
        substituted_items: Items replaced by ``on_error="substitute"``.
        dropped_batches: Batches not served because only a cache may serve them and it does not hold them.
        cache_hits: Batches handed out that the cache served.
        cache_misses: Batches that a cache was asked for and did not hold: loaded and handed out, or dropped.
        cache_corrupt: How often an entry of a cache was found damaged; it was loaded anew.
        cache_unstored: Entries that were not stored, as the disk of a cache did not take them in time.
        cache_error: Why a cache is not written, or no longer, ``""`` while all is well.
        loaded_items: Items that ``loader_func`` loaded, batches not handed out yet included.
        load_seconds: Time spent in ``loader_func`` for those, over all workers.
        calls: Calls of loader functions that take many items at once (``batched``).
        call_seconds: What those calls took beside their items, as far as it was learned: a part of ``load_seconds``.
        read_items: Items that were read in the main process, as ``data`` is a sequence of the user's own.
        read_seconds: Time that reading them took.
        depth: How many batches are loaded ahead.
        loader_count: Workers; on the command line this is ``--workers``.
        tuning: Why ``depth`` and ``loader_count`` are what they are, where ``"auto"`` chose one; else ``None``.
        slot_bytes: Size of one slot, the memory of one batch.
        slots: State of each slot in use.
        held_batches: Batches handed out whose arrays are still alive.
        worker_restarts: Workers replaced.
        workers: One entry a worker.
        first_batch: Time to the first batch, ``None`` before it.
        running: Whether workers are up.
        groups: One entry for each training group.
        tokens: Elements of ragged arrays handed out that are no padding; of packed rows what they hold on average.
        token_places: Elements of those arrays in the same rows, padding included.
        shapes: Different shapes of batches handed out: jax compiles a step once for each.
    """

    seconds: float = 0.0
    idle_seconds: float = 0.0
    training_batches: int = 0
    validation_batches: int = 0
    items: int = 0
    bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    running: bool = False
    groups: tuple[GroupShare, ...] = ()
    tokens: int = 0
    token_places: int = 0
    shapes: int = 0


class _Tokens(NamedTuple):
    """How tokens of a group are counted: in which array, with which lengths, or how full its rows are."""

    array: str
    lengths: str
    fill: float | None

    @classmethod
    def of(cls, group: DataGroup[Any]) -> Self | None:
        if group.rows is not None and group.rows.fill is not None:
            return cls(next(iter(group.rows.segments)), "", group.rows.fill)
        for name, spec in (group.augment_specs or group.loader_specs).items():
            if spec.ragged is not None:
                return cls(name, length_name(name), None)
        return None


class Counters:
    """What the consumer of one loader got since the loader's start.

    Args:
        groups: Training before validation.
        mixture: The turns of the training groups.
    """

    def __init__(self, groups: Sequence[DataGroup[Any]], mixture: Mixture) -> None:
        self._counted = [_Tokens.of(group) for group in groups]
        self._caching = [group.cache_location is not None for group in groups]
        self.start(mixture)

    def start(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._of_groups = [0] * len(mixture.batch_counts)
        self._last = -1
        self._started = time.perf_counter()
        self._idle = 0.0
        self._idle_reported = 0.0
        self._batches = {"training": 0, "validation": 0}
        self._items = 0
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._tokens = 0.0
        self._token_places = 0
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()

    def waited(self, seconds: float) -> None:
        self._idle += seconds

    def handed_out(self, host: HostBatch) -> None:
        address = host.planned.address
        self._batches[address.kind] += 1
        if address.kind == "training":
            self._of_groups[address.group_index] += 1
            self._last = max(self._last, address.batch_num)
        self._items += len(host.indices)
        arrays = host.arrays.values()
        self._bytes += sum([array.nbytes for array in arrays])
        self._shapes.add(tuple([array.shape for array in arrays]))
        counted = self._counted[host.group]
        if counted is not None and counted.array in host.arrays:
            places = len(host.indices) * host.arrays[counted.array].shape[1]
            self._token_places += places
            self._tokens += int(host.arrays[counted.lengths].sum()) if counted.fill is None else places * counted.fill
        if self._caching[host.group]:
            self._hits += host.from_cache
            self._misses += not host.from_cache

    def idle_usec(self) -> int:
        """Microseconds waited since the last call."""
        since = self._idle - self._idle_reported
        self._idle_reported = self._idle
        return int(since * 1e6)

    def _shares(self) -> tuple[GroupShare, ...]:
        total, counts = max(1, sum(self._of_groups)), self._mixture.batch_counts
        expected, used = self._mixture.share(max(0, self._last)), self._mixture.used(self._last + 1)
        return tuple(
            GroupShare(batches, batches / total, share, before / count)
            for batches, share, before, count in zip(self._of_groups, expected, used, counts, strict=True)
        )

    def snapshot(self, engine: EngineStats) -> Stats:
        return Stats(
            **vars(engine),
            seconds=time.perf_counter() - self._started,
            idle_seconds=self._idle,
            training_batches=self._batches["training"],
            validation_batches=self._batches["validation"],
            items=self._items,
            bytes=self._bytes,
            cache_hits=self._hits,
            cache_misses=self._misses + engine.dropped_batches,
            running=True,
            groups=self._shares(),
            tokens=round(self._tokens),
            token_places=self._token_places,
            shapes=len(self._shapes),
        )
