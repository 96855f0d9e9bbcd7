"""What an engine has counted, as one value."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["EngineCounts", "SlotState", "WorkerState", "WorkerStats", "slot_states"]

SlotState: TypeAlias = Literal["free", "filling", "ready", "held"]
WorkerState: TypeAlias = Literal["starting", "idle", "busy", "ended"]


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """One worker at one moment.

    Attributes:
        number: Zero-based number of the worker; a replacement keeps the number.
        pid: Process id; ``None`` where the worker is a thread or the caller itself.
        state: What it does now.
        items: Items loaded since the start, predecessors of the same number included.
        busy_seconds: Time spent in ``loader_func`` for those items.
        restarts: How often it was replaced.
        address: The batch in work as text, ``""`` when idle.
        item: Index in its group's data of the item in work, ``None`` when idle.
        item_seconds: Time since the worker took that item up, at least; 0 when idle.
    """

    number: int
    pid: int | None
    state: WorkerState
    items: int
    busy_seconds: float
    restarts: int
    address: str
    item: int | None
    item_seconds: float


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
