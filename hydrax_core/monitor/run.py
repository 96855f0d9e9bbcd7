"""What is shown of a run: its plan, its batches, its passes over the data, its log.

Promise: frozen values of numbers and texts, never a batch, an array or an exception. The command, its JSON, the
screens, the monitor's wire and ``hydrax_core.progress`` use these and no others; ``stats.py`` has the counts. Where
``Dataloader`` and ``DataGroup`` have a name for a number it has that name here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from hydrax_core.errors import BatchAddress, shorten

if TYPE_CHECKING:
    from hydrax_core.batch.batch import Batch
    from hydrax_core.data.group import DataGroup
    from hydrax_core.data.layout import ArrayLayout

__all__ = [
    "ArrayPlan",
    "BatchRecord",
    "GroupPlan",
    "Kind",
    "Level",
    "LogLine",
    "Pass",
    "Passes",
    "RunPlan",
    "device_of",
    "one_line",
    "plan_of",
]

Kind: TypeAlias = Literal["training", "validation"]
Level: TypeAlias = Literal["info", "warning", "error"]
_LONGEST_LINE = 300


class ArrayPlan(NamedTuple):
    """A declared array: shape with the batch, dtypes by name, offset and size of a batch in bytes as loaded.

    ``segments`` names the array that says which document of a packed row each element is of; it is empty otherwise.
    """

    name: str
    shape: tuple[int, ...]
    numpy_dtype: str
    jax_dtype: str
    offset: int
    bytes: int
    is_label: bool
    segments: str = ""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A group.

    Attributes:
        kind: ``"training"`` or ``"validation"``.
        index: Position among the groups of its kind.
        items: Items in its data.
        batch_size: Rows of a batch.
        batches: Batches an epoch, or a validation run.
        seed: As given.
        shuffle_first: Whether the first epoch is shuffled; of a validation group, nothing is.
        shuffle_later: What later epochs do.
        remainder: ``"pad"`` or ``"drop"``.
        loaded: Its arrays as loaded; empty where only the cache has some.
        cached: Its arrays as the cache has them; empty where there is none.
        rows: Rows an epoch, where they are drawn, or packed, of items; else ``None``.
        fill: Which part of packed rows is no padding, 0 to 1; ``None`` where rows are not packed.
        augmented: Whether an ``augment_func`` makes them anew in every epoch.
        shards: Shards of a stream: nobody knows its items and batches, which are then what there is room for; else 0.
    """

    kind: Kind
    index: int
    items: int
    batch_size: int
    batches: int
    seed: int
    shuffle_first: bool
    shuffle_later: str
    remainder: str
    loaded: tuple[ArrayPlan, ...]
    cached: tuple[ArrayPlan, ...]
    rows: int | None = None
    fill: float | None = None
    augmented: bool = False
    shards: int = 0

    @property
    def name(self) -> str:
        """``"training 0"``."""
        return f"{self.kind} {self.index}"

    @property
    def arrays(self) -> tuple[ArrayPlan, ...]:
        """Its arrays as loaded, or as the cache has them where nothing is loaded."""
        return self.loaded or self.cached

    @property
    def left_out(self) -> int:
        """Items, or rows of items, that no batch of an epoch holds, as they do not fill one."""
        rows = self.items if self.rows is None else self.rows
        return 0 if self.shards else max(0, rows - self.batches * self.batch_size)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What does not change while a loader runs.

    Attributes:
        groups: Training before validation.
        batches_per_epoch: Training batches; of a stream, what there is room for.
        batches_per_validation: Validation batches of one validation run; the same.
        validation_interval: Training batches between two validation runs; 0 without validation.
        first_batch: Number of the first training batch.
        last_batch: Number of the training batch to stop before; ``None`` for an endless run.
        loader_kind: What the workers are.
        places_itself: Whether a ``placement_func`` may change what is in the arrays.
        validates_first: Whether a validation run stands before the first training batch.
    """

    groups: tuple[GroupPlan, ...]
    batches_per_epoch: int
    batches_per_validation: int
    validation_interval: int
    first_batch: int
    last_batch: int | None
    loader_kind: str
    places_itself: bool = False
    validates_first: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the training groups."""
        return tuple(group.seed for group in self.groups if group.kind == "training")

    def streams(self, kind: str = "training") -> bool:
        """Whether training, or validation, is a stream."""
        return any(group.shards for group in self.groups if group.kind == kind)

    @property
    def training_batches(self) -> int | None:
        """Training batches of the whole run; ``None`` for an endless one, and of a stream."""
        return None if self.last_batch is None or self.streams() else max(0, self.last_batch - self.first_batch)

    @property
    def validation_batches(self) -> int | None:
        """Validation batches of the whole run; ``None`` for an endless one, and with a stream."""
        if self.streams() or self.streams("validation"):
            return None
        if self.last_batch is None or not self.validation_interval:
            return 0 if self.last_batch is not None else None
        runs = self.last_batch // self.validation_interval - self.first_batch // self.validation_interval
        return (max(0, runs) + (self.validates_first and self.first_batch == 0)) * self.batches_per_validation

    def trained_before(self, run: int) -> int:
        """Training batches before a validation run."""
        return (run + (not self.validates_first)) * self.validation_interval

    def group(self, record: BatchRecord) -> GroupPlan:
        """The group that a batch comes from.

        Raises:
            LookupError: There is none.
        """
        for group in self.groups:
            if (group.kind, group.index) == (record.kind, record.group):
                return group
        raise LookupError(f"there is no {record.kind} group {record.group}")

    def start_of(self, record: BatchRecord) -> tuple[int, int]:
        """Epoch and batch to start at so that the batch comes: a validation run follows a training batch."""
        if record.kind == "training":
            return record.epoch, record.epoch_batch
        return divmod(max(0, self.trained_before(record.epoch) - 1), self.batches_per_epoch)


class BatchRecord(NamedTuple):
    """A batch that was handed out, or that failed.

    Attributes:
        serial: Counts them, from 1.
        kind: Of the batch, as all that follows.
        group: Position of its group among those of its kind.
        epoch: Epoch, or number of the validation run.
        epoch_batch: Position in it, from 0.
        batch_num: Position among all of its kind, from 0.
        size: Real rows.
        seed: Seed of the batch, ``None`` in validation.
        wait_seconds: How long ``next()`` waited for it.
        load_seconds: Time in ``loader_func``, over all workers; ``None`` where it was not loaded.
        cached: Whether the cache served it.
        error: What went wrong, ``""`` for nothing.
        name: What to call it where that is not its epoch and batch.
    """

    serial: int
    kind: Kind
    group: int
    epoch: int
    epoch_batch: int
    batch_num: int
    size: int = 0
    seed: int | None = None
    wait_seconds: float = 0.0
    load_seconds: float | None = None
    cached: bool = False
    error: str = ""
    name: str = ""

    @classmethod
    def at(cls, address: BatchAddress, serial: int, **known: Any) -> BatchRecord:
        """The record of the batch at an address."""
        kind: Kind = "training" if address.kind == "training" else "validation"
        return cls(serial, kind, address.group_index, address.epoch, address.epoch_batch, address.batch_num, **known)

    @property
    def title(self) -> str:
        """``"epoch 3, batch 14"``."""
        return self.name or f"{_pass_name(self.kind, self.epoch)}, batch {self.epoch_batch}"


class LogLine(NamedTuple):
    """A line that hydrax, a loader, a worker or a library wrote.

    Attributes:
        serial: Counts the lines, from 1.
        at: When it came, seconds since the epoch.
        source: Who wrote it: ``"stdout"``, ``"stderr"``, ``"hydrax"``, ``"loader"``, or a worker.
        level: How bad it is.
        text: One line.
    """

    serial: int
    at: float
    source: str
    level: Level
    text: str


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
        return _pass_name(self.kind, self.epoch)


class Passes:
    """Adds batches up by epoch and validation run, in the order in which these began.

    Args:
        ordered: Whether batches come in the order of the plan, so that the last one of a pass ends it.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._passes: dict[tuple[str, int], Pass] = {}
        self._open: list[tuple[str, int]] = []
        self.current: Pass | None = None
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
        self.current = self._passes[key] = Pass(
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


# --- values out of what runs


_AS_THEY_ARE = tuple(
    field.name for field in dataclasses.fields(RunPlan) if field.name not in {"groups", "places_itself"}
)


def plan_of(loader: Any, *, places_itself: bool = False) -> RunPlan:
    """What is known of a loader before it runs.

    Args:
        loader: A ``Dataloader``, or what its monitor knows of it, under the same names.
        places_itself: Whether it has a ``placement_func``.
    """
    sides: tuple[tuple[Kind, Sequence[DataGroup[Any]]], ...] = (
        ("training", loader.training),
        ("validation", loader.validation),
    )
    return RunPlan(
        groups=tuple(_group(kind, index, group) for kind, groups in sides for index, group in enumerate(groups)),
        places_itself=places_itself,
        **{name: getattr(loader, name) for name in _AS_THEY_ARE},
    )


def _group(kind: Kind, index: int, group: DataGroup[Any]) -> GroupPlan:
    loaded, cached = group.batch_layouts
    return GroupPlan(
        kind=kind,
        index=index,
        items=len(group),
        batch_size=group.batch_size,
        batches=group.batch_count,
        seed=group.seed,
        shuffle_first=group.shuffle_first,
        shuffle_later=group.shuffle_later,
        remainder=group.remainder,
        loaded=_arrays(loaded, group),
        cached=_arrays(cached, group),
        rows=None if group.rows is None else group.rows.size,
        fill=None if group.rows is None else group.rows.fill,
        augmented=group.augment_func is not None,
        shards=group.shards,
    )


def _arrays(layouts: Mapping[str, ArrayLayout], group: DataGroup[Any]) -> tuple[ArrayPlan, ...]:
    segments = {} if group.rows is None else group.rows.segments
    return tuple(
        ArrayPlan(
            name=name,
            shape=layout.shape,
            numpy_dtype=str(layout.numpy_dtype),
            jax_dtype=str(layout.jax_dtype),
            offset=layout.offset,
            bytes=layout.nbytes,
            is_label=name in group.labels,
            segments=segments.get(name, "") if segments.get(name) in layouts else "",
        )
        for name, layout in layouts.items()
    )


def device_of(batch: Batch[Any]) -> str:
    """Where a batch is placed, in words."""
    devices = {device for array in batch.arrays.values() for device in array.devices()}
    first = min(devices, key=lambda device: device.id)
    return f"{first.platform}:{first.id}" if len(devices) == 1 else f"{len(devices)} x {first.platform}"


def one_line(value: Any) -> str:
    """A value in one line of bounded length; ``""`` for ``None``."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else shorten(value, 4 * _LONGEST_LINE)
    text = " ".join(text[: 4 * _LONGEST_LINE].split())
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 1]}…"


def _pass_name(kind: str, epoch: int) -> str:
    return f"{'epoch' if kind == 'training' else 'validation'} {epoch}"
