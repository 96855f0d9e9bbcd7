"""What is told of a run, as frozen values: the plan before it, the passes over the data, the result after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydrax_core.errors import HydraxError

if TYPE_CHECKING:
    from hydrax_cli.shared.target import Target
    from hydrax_core import Batch, DataGroup, Stats

__all__ = ["ArrayPlan", "CachePlan", "GroupPlan", "Pass", "Passes", "RunPlan", "RunResult", "describe"]

_FURTHER_SLOTS = 2
"""A loader uses ``depth`` slots and these: one in the consumer's hands, one about to be free."""
_SHUFFLES = {
    "repeat": "every epoch the same",
    "reseed": "every epoch the same order with new seeds",
    "itemwise": "items shuffled anew every epoch",
    "batchwise": "the same batches in a new order every epoch",
}


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array: its shape without the batch, its dtypes on both sides, its bytes a batch."""

    name: str
    shape: tuple[int, ...]
    numpy_dtype: str
    jax_dtype: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The cache of a group.

    Attributes:
        folder: Where it is.
        keeps: ``"batch"`` or ``"item"``.
        shared: Whether what one epoch needs serves every other; else each epoch has entries of its own.
        held: Entries that are there; ``None`` where that cannot be told.
        complete: Entries that one epoch needs.
        filled: Whether this run stores what it loads.
    """

    folder: str
    keeps: str
    shared: bool
    held: int | None
    complete: int
    filled: bool


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One group: ``name`` is ``"training 0"``, ``order`` tells seed and shuffle in words."""

    name: str
    items: int
    batch_size: int
    batches: int
    order: str
    arrays: tuple[ArrayPlan, ...]
    cache: CachePlan | None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is going to do.

    Attributes:
        target: What runs, for people.
        groups: Training before validation.
        batches_per_epoch: Training batches.
        batches_per_validation: Validation batches of one validation run.
        validation_interval: Training batches between two validation runs.
        first_batch: Number of the first training batch.
        last_batch: Number of the training batch to stop before.
        validation_batches: Validation batches of the whole run.
        workers: Workers.
        kind: What they are.
        depth: Batches loaded ahead.
        slots: Places for batches that will be in use.
        slot_bytes: Size of one.
        deterministic: Whether batches keep their order.
        tuned: Which of ``depth`` and ``loader_count`` are chosen while it runs, beginning with those.
    """

    target: str
    groups: tuple[GroupPlan, ...]
    batches_per_epoch: int
    batches_per_validation: int
    validation_interval: int
    first_batch: int
    last_batch: int
    validation_batches: int
    workers: int
    kind: str
    depth: int
    slots: int
    slot_bytes: int
    deterministic: bool
    tuned: tuple[str, ...]

    @property
    def training_batches(self) -> int:
        """Training batches of the whole run."""
        return max(0, self.last_batch - self.first_batch)


def describe(target: Target) -> RunPlan:
    """The plan of a loader that has an end; its caches are looked into, and not changed."""
    loader = target.loader
    assert loader.last_batch is not None
    interval = loader.validation_interval
    depth = 1 if loader.loader_kind == "inline" else loader.depth
    runs = max(0, loader.last_batch // interval - loader.first_batch // interval) if interval else 0
    training = [_group(f"training {i}", group, seeded=True) for i, group in enumerate(loader.training)]
    validation = [_group(f"validation {i}", group, seeded=False) for i, group in enumerate(loader.validation)]
    return RunPlan(
        target=target.name,
        groups=(*training, *validation),
        batches_per_epoch=loader.batches_per_epoch,
        batches_per_validation=loader.batches_per_validation,
        validation_interval=interval,
        first_batch=loader.first_batch,
        last_batch=loader.last_batch,
        validation_batches=runs * loader.batches_per_validation,
        workers=loader.loader_count,
        kind=loader.loader_kind,
        depth=depth,
        slots=depth + _FURTHER_SLOTS,
        slot_bytes=loader.slot_bytes,
        deterministic=loader.deterministic,
        tuned=loader.tuned,
    )


def _group(name: str, group: DataGroup[Any], *, seeded: bool) -> GroupPlan:
    layouts = group.loader_layouts or group.cache_layouts
    order = "in the order of the data"
    if seeded:
        first = "the first shuffled" if group.shuffle_first else "the first in the order of the data"
        order = f"seed {group.seed}, {_SHUFFLES[group.shuffle_later]}, {first}"
    return GroupPlan(
        name=name,
        items=len(group),
        batch_size=group.batch_size,
        batches=group.batch_count,
        order=order,
        arrays=tuple(
            ArrayPlan(array, layout.shape[1:], layout.numpy_dtype.name, layout.jax_dtype.name, layout.nbytes)
            for array, layout in layouts.items()
        ),
        cache=None if group.cache_location is None else _cache(group, seeded=seeded),
    )


def _cache(group: DataGroup[Any], *, seeded: bool) -> CachePlan:
    from hydrax_core.cache import info  # noqa: PLC0415  a run without a cache needs none of it

    assert group.cache_location is not None
    held: int | None = 0
    if group.cache_location.exists():
        try:
            held = info(group.cache_location).entries
        except (HydraxError, OSError):
            held = None  # what is wrong is told, or mended, when the loader opens the cache
    return CachePlan(
        folder=str(group.cache_location),
        keeps=group.cache_by,
        shared=group.cache_by == "item" or not seeded or group.shuffle_later in {"repeat", "batchwise"},
        held=held,
        complete=len(group) if group.cache_by == "item" else group.batch_count,
        filled=not group.cache_readonly and group.cache_layouts == group.loader_layouts,
    )


@dataclass(frozen=True, slots=True)
class Pass:
    """What was handed out of one epoch or validation run.

    Attributes:
        kind: ``"training"`` or ``"validation"``.
        epoch: Number of the epoch or of the validation run.
        batches: Batches handed out.
        items: Real rows in them.
        bytes: Bytes of their arrays.
        seconds: From the end of the batch before (of the first, from the start of the run) to the end of the last one.
        idle_seconds: The part of it that was spent waiting for batches; for the first one, all the time until it came.
        cache_hits: Batches that a cache served.
        cache_misses: Batches that a cache did not hold, so that they were loaded.
    """

    kind: str
    epoch: int
    batches: int = 0
    items: int = 0
    bytes: int = 0
    seconds: float = 0.0
    idle_seconds: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def name(self) -> str:
        """``"epoch 3"`` or ``"validation 3"``."""
        return f"{'epoch' if self.kind == 'training' else 'validation'} {self.epoch}"


class Passes:
    """Adds batches up by epoch and validation run, in the order in which these began.

    Args:
        ordered: Whether batches come in the order of the plan, so that the last one of a pass ends it.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._passes: dict[tuple[str, int], Pass] = {}
        self._open: list[tuple[str, int]] = []
        self.batches = 0
        self.items = 0
        self.bytes = 0
        self.idle_seconds = 0.0

    def add(self, batch: Batch[Any], seconds: float, idle_seconds: float) -> list[Pass]:
        """Add a batch and the time since the one before; returns the passes that it ends."""
        address = batch.address
        items, array_bytes = batch.size, sum(layout.nbytes for layout in batch.layouts.values())
        key = (address.kind, address.epoch)
        cached = batch.group.cache_location is not None
        before = self._passes.get(key)
        if before is None:
            before = Pass(*key)
            self._open.append(key)
        self._passes[key] = Pass(
            *key,
            batches=before.batches + 1,
            items=before.items + items,
            bytes=before.bytes + array_bytes,
            seconds=before.seconds + seconds,
            idle_seconds=before.idle_seconds + idle_seconds,
            cache_hits=before.cache_hits + (cached and batch.from_cache),
            cache_misses=before.cache_misses + (cached and not batch.from_cache),
        )
        self.batches += 1
        self.items += items
        self.bytes += array_bytes
        self.idle_seconds += idle_seconds
        if not self._ordered:
            return []
        last = batch.progress == batch.progress_total
        # A skipped last batch does not show; the next pass of the same kind ends the one before.
        return self._end([k for k in self._open if k[0] == key[0] and (k[1] < key[1] or last)])

    def end(self) -> list[Pass]:
        """The passes that ``add()`` has not returned."""
        return self._end(list(self._open))

    def snapshot(self) -> tuple[Pass, ...]:
        """All passes so far."""
        return tuple(self._passes.values())

    def _end(self, keys: list[tuple[str, int]]) -> list[Pass]:
        for key in keys:
            self._open.remove(key)
        return [self._passes[key] for key in keys]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Attributes:
        target: What ran.
        passes: Its passes.
        stats: The loader's last snapshot.
        interrupted: Whether it was stopped by Ctrl-C.
        resume: ``"EPOCH:BATCH"`` of the next training batch.
        digest: The hash over all batches of a whole run, where it was asked for.
        verdict: Who waits for whom, or what it failed with.
    """

    target: str
    passes: tuple[Pass, ...]
    stats: Stats
    interrupted: bool
    resume: str
    digest: str | None
    verdict: str

    @property
    def idle_seconds(self) -> float:
        """Time without a batch to work on, the time to the first one included."""
        return sum(done.idle_seconds for done in self.passes)
