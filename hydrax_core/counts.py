"""What an engine has counted, as one value."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from hydrax_core.stats import SlotState, WorkerStats

__all__ = ["EngineCounts", "slot_states"]


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """An engine at one moment; the names are those of ``Stats``.

    Attributes:
        depth: Batches loaded ahead.
        loader_count: Workers.
        tuning: Why depth and workers are as many as they are, ``None`` where both were given.
        errors: Items that failed.
        substituted_items: Items that stand in for others.
        skipped_batches: Batches given up.
        dropped_batches: Batches that only a cache could have served.
        worker_restarts: Workers replaced.
        loaded_items: Items loaded.
        load_seconds: Time in the loader for them, over all workers.
        workers: One entry a worker.
        slots: State of each slot in use.
        cache_corrupt: Entries of caches that were found to be bad.
        cache_error: Why a cache takes no more, empty where it does.
        started: When the engine was made, of ``time.perf_counter()``.
        first_ready: When the first worker was.
        first_complete: When the first batch was.
    """

    depth: int
    loader_count: int
    tuning: str | None
    errors: int
    substituted_items: int
    skipped_batches: int
    dropped_batches: int
    worker_restarts: int
    loaded_items: int
    load_seconds: float
    workers: tuple[WorkerStats, ...]
    slots: tuple[SlotState, ...]
    cache_corrupt: int
    cache_error: str
    started: float
    first_ready: float | None
    first_complete: float | None


def slot_states(
    count: int, filling: AbstractSet[int], ready: AbstractSet[int], leased: AbstractSet[int]
) -> tuple[SlotState, ...]:
    """What each of the first ``count`` slots is in use for."""

    def state(slot: int) -> SlotState:
        if slot in filling:
            return "filling"
        if slot in ready:
            return "ready"
        return "held" if slot in leased else "free"

    return tuple(map(state, range(count)))
