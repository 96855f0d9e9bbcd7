"""What a loader tells about itself: frozen snapshots, made by ``Dataloader.stats()``."""

from __future__ import annotations

from dataclasses import dataclass

from hydrax_core.engine.counters import SlotState, WorkerStats

__all__ = ["FirstBatch", "Stats"]


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


@dataclass(frozen=True, slots=True)
class Stats:
    """A loader at one moment; counts are since its start, sizes in bytes, times in seconds.

    Attributes:
        seconds: Time since the start.
        idle_seconds: Time the consumer waited in ``next()``.
        training_batches: Training batches handed out.
        validation_batches: Validation batches handed out.
        items: Items (real rows) in the batches handed out.
        bytes: Bytes of the arrays handed out, as loaded.
        errors: Items that failed, whatever was done about it.
        skipped_batches: Batches dropped by ``on_error="skip"``.
        substituted_items: Items replaced by ``on_error="substitute"``.
        dropped_batches: Batches not served because only a cache may serve them and it does not hold them.
        cache_hits: Batches handed out that the cache served.
        cache_misses: Batches that a cache was asked for and did not hold: loaded and handed out, or dropped.
        loaded_items: Items that ``loader_func`` loaded, batches not handed out yet included.
        load_seconds: Time spent in ``loader_func`` for those, over all workers.
        depth: How many batches are loaded ahead.
        loader_count: Workers.
        slot_bytes: Size of one slot, a place for one batch.
        slots: State of each slot in use.
        held_batches: Batches handed out whose arrays are still alive.
        worker_restarts: Workers replaced.
        workers: One entry a worker.
        first_batch: Time to the first batch, ``None`` before it.
        running: Whether workers are up.
        cache_corrupt: How often an entry of a cache was found damaged; it was loaded anew.
        cache_error: Why a cache is not written, or no longer, ``""`` while all is well.
        tuning: Why ``depth`` and ``loader_count`` are what they are, where ``"auto"`` chose one; else ``None``.
    """

    seconds: float
    idle_seconds: float
    training_batches: int
    validation_batches: int
    items: int
    bytes: int
    errors: int
    skipped_batches: int
    substituted_items: int
    dropped_batches: int
    cache_hits: int
    cache_misses: int
    loaded_items: int
    load_seconds: float
    depth: int
    loader_count: int
    slot_bytes: int
    slots: tuple[SlotState, ...]
    held_batches: int
    worker_restarts: int
    workers: tuple[WorkerStats, ...]
    first_batch: FirstBatch | None
    running: bool
    cache_corrupt: int = 0
    cache_error: str = ""
    tuning: str | None = None
