"""What the engine shows of itself at one moment: frozen values, of which ``Stats`` takes over every one by its name."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeAlias

__all__ = ["EngineStats", "FailedItem", "FirstBatch", "SlotState", "WorkerState", "WorkerStats", "slot_states"]

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
class FailedItem:
    """An item that failed.

    Attributes:
        kind: ``"training"`` or ``"validation"``.
        group_index: Position of its group among the groups of its kind.
        index: Its index in the group's data.
        cause: The first of its errors in one line.
        times: How often it failed.
    """

    kind: str
    group_index: int
    index: int
    cause: str
    times: int = 1

    def again(self) -> Self:
        """The same after one more failure."""
        return replace(self, times=self.times + 1)


@dataclass(frozen=True, slots=True)
class FirstBatch:
    """Seconds to the first batch, by phase; the phases follow one another.

    Attributes:
        start: From the start of the loader to the first worker that is ready (processes, imports, startup_func), or to
            the first batch where the cache served it before that.
        load: From then to the first complete batch.
        place: From then to its jax arrays, jax's own start included where it was not imported before.
    """

    start: float
    load: float
    place: float

    @property
    def total(self) -> float:
        """Seconds from the start of the loader to the first batch in hand."""
        return self.start + self.load + self.place


@dataclass(frozen=True)
class EngineStats:
    """The engine's part of ``hydrax_core.Stats``, which says what each value is."""

    depth: int = 0
    loader_count: int = 0
    tuning: str | None = None
    slot_bytes: int = 0
    slots: tuple[SlotState, ...] = ()
    held_batches: int = 0
    workers: tuple[WorkerStats, ...] = ()
    worker_restarts: int = 0
    loaded_items: int = 0
    load_seconds: float = 0.0
    calls: int = 0
    call_seconds: float = 0.0
    read_items: int = 0
    read_seconds: float = 0.0
    failed_items: tuple[FailedItem, ...] = ()
    errors: int = 0
    skipped_batches: int = 0
    substituted_items: int = 0
    dropped_batches: int = 0
    cache_corrupt: int = 0
    cache_unstored: int = 0
    cache_error: str = ""
    first_batch: FirstBatch | None = None


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
