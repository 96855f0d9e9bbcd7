"""The bookkeeping of one batch on its way from the plan to the consumer: values that the rooms of the engine share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import Layouts, Parts
from hydrax_core.data.read_lock import GuardedData
from hydrax_core.data.trim import Trim
from hydrax_core.errors import BatchAddress, LoaderError, WorkerDiedError, shorten
from hydrax_core.plan.order import BatchContent, StandIn
from hydrax_core.plan.permutation import Indices, Seeds
from hydrax_core.plan.plan import PlannedBatch

__all__ = ["BatchJob", "HostBatch", "JobGroup", "JobRows"]

N = TypeVar("N", bound=np.generic)


@dataclass(frozen=True, slots=True)
class JobGroup:
    """What the engine knows of a group.

    Attributes:
        layouts: Layouts of the loaded arrays; empty where nothing is loaded.
        cache_layouts: Layouts of the cached arrays; empty without a cache.
        trims: Arrays whose length follows the longest row of the batch.
        augmented: Layouts of what the loaded arrays are augmented into, which lies before them in the slot; empty where
            they are handed out as they are.
        stores_itself: Whether loaded batches go to the cache as they are.
        zeroed: Whether rows are zeroed before the loader gets them.
        batched: Whether the loader takes many items at once, so that it is not known which of them it is at.
        items_a_call: The least and the most items of a call, where it is batched; 0 for no bound.
        indexed: Whether the workers are sent indices: the data is a source, or the items are their own indices.
        rows: Rows of a planned batch that this host loads, ascending, ``batch_size`` many; ``None`` for all.
        parts: How the loaded arrays are cut for devices.
        shards: Shards of unknown length, of which a batch has one; 0 where it is known how many batches there are.
        drops_short: Whether the last batch of a shard is left out unless it is full.
    """

    data: Sequence[Any]
    layouts: Layouts
    cache_layouts: Layouts
    stores_itself: bool
    batch_size: int
    batch_count: int
    zeroed: bool
    batched: bool = False
    items_a_call: tuple[int, int] = (0, 0)
    indexed: bool = False
    rows: Indices | None = None
    augmented: Layouts = field(default_factory=dict)
    trims: tuple[Trim, ...] = ()
    parts: Parts = field(default_factory=dict)
    shards: int = 0
    drops_short: bool = False

    @property
    def read_by_thread(self) -> bool:
        """Whether reading an item runs code of the user's."""
        return not self.indexed and isinstance(self.data, GuardedData)

    def own(self, content: BatchContent) -> BatchContent:
        """Of the real rows those that this host loads."""
        if self.rows is None:
            return content
        real = self.rows[: int(np.searchsorted(self.rows, len(content.indices)))]
        seeds, fresh = (None if numbers is None else numbers[real] for numbers in (content.seeds, content.fresh))
        return content._replace(indices=content.indices[real], seeds=seeds, fresh=fresh)


class HostBatch(NamedTuple):
    """A complete batch in host memory.

    Attributes:
        group: Ordinal of its group, training before validation.
        slot: Where it lies, ``None`` where it lies in no slot.
        arrays: NumPy arrays by name; they keep the memory that they lie in.
        indices: Index of each real row in the group's data.
        seeds: Seed of each real row as it is shown, ``None`` in validation.
        additional: Additional data by name, with batch-size many values each.
        cached: Whether it is in the cached layout.
        from_cache: Whether the cache served it; else it was loaded.
        load_seconds: Time in ``loader_func`` for its rows, over all workers; ``None`` where none was loaded.
    """

    planned: PlannedBatch
    group: int
    slot: int | None
    arrays: Mapping[str, npt.NDArray[Any]]
    indices: Indices
    seeds: Seeds | None
    additional: Mapping[str, Sequence[Any]]
    cached: bool
    from_cache: bool = False
    load_seconds: float | None = None


@dataclass(slots=True, eq=False)
class BatchJob:
    """A batch being loaded.

    Attributes:
        group: Ordinal of its group, training before validation.
        indices: Index of each real row, substitutes included; read-only.
        seeds: Seed of each real row, ``None`` in validation.
        fresh: What augments each real row; ``None`` in validation, and without augmentation.
        uncut: Runs of rows, (first, count), not handed out in chunks yet.
        open: JobRows handed out whose outcome is not known.
        loaded_rows: JobRows that are loaded and not from the cache; ``None`` for all.
        filled: Rows that are in place, from the cache, and are left to be augmented.
        failed_rows: What failed by row: its item, then its substitutes.
        load_seconds: Time in ``loader_func`` so far, over all workers.
        ended: The first row behind the end of the batch's shard; ``None`` where it did not end.
    """

    planned: PlannedBatch
    group: int
    slot: int
    indices: Indices
    seeds: Seeds | None
    fresh: Seeds | None = None
    uncut: list[tuple[int, int]] = field(default_factory=list)
    open: int = 0
    loaded_rows: list[int] | None = None
    filled: set[int] = field(default_factory=set)
    additional: dict[str, list[Any]] = field(default_factory=dict)
    failures: dict[int, LoaderError | WorkerDiedError] = field(default_factory=dict)
    failed_rows: dict[int, list[LoaderError | WorkerDiedError]] = field(default_factory=dict)
    load_seconds: float = 0.0
    ended: int | None = None

    def __post_init__(self) -> None:
        if not self.uncut and len(self.indices):  # a host may have none of a last batch's rows
            self.uncut = [(0, len(self.indices))]

    @property
    def address(self) -> BatchAddress:
        return self.planned.address

    @property
    def complete(self) -> bool:
        """Whether no row is left to wait for; after a failure, rows not handed out are left."""
        return self.open == 0 and (not self.uncut or bool(self.failures))

    @property
    def error(self) -> LoaderError | WorkerDiedError | None:
        """The error of the first failing row: the same whatever the workers' timing."""
        return self.failures[min(self.failures)] if self.failures else None

    def index(self, row: int) -> int:
        return int(self.indices[row])

    def cut(self) -> None:
        """Have the rows only that its shard had."""
        self.indices = self.indices[: self.ended]
        self.seeds = None if self.seeds is None else self.seeds[: self.ended]

    def substitute(self, row: int, other: StandIn) -> None:
        self.indices = _with(self.indices, row, other.item)
        if self.seeds is not None:
            assert other.seed is not None
            self.seeds = _with(self.seeds, row, other.seed)
        if self.fresh is not None:
            assert other.fresh is not None
            self.fresh = _with(self.fresh, row, other.fresh)
        self.filled.discard(row)
        for values in self.additional.values():
            values[row] = None

    def add(self, row: int, values: Mapping[str, Any], batch_size: int) -> None:
        for name, value in values.items():
            self.additional.setdefault(name, [None] * batch_size)[row] = value

    def failed(self, row: int, descriptor: Any, cause: str, traceback: str, *, in_worker: bool = True) -> LoaderError:
        return LoaderError(self.address, self.index(row), descriptor, cause, traceback, in_worker)

    def killed(self, row: int, descriptor: Any, times: int, how: str) -> WorkerDiedError:
        item = f"item {self.index(row)} ({shorten(descriptor)}) of {self.address}"
        message = f"{item} killed {times} workers; of the last: {how}"
        return WorkerDiedError(message, self.address, self.index(row), descriptor, how)


class JobRows(NamedTuple):
    """JobRows of a job that follow one another.

    Attributes:
        items: Their items, once these were read.
    """

    job: BatchJob
    first: int
    size: int
    items: list[Any] | None = None

    def part(self, first: int, size: int) -> JobRows:
        start = first - self.first
        return JobRows(self.job, first, size, None if self.items is None else self.items[start : start + size])

    def item(self, row: int) -> Any:
        """The item of a row; its index where only workers read it."""
        return self.job.index(row) if self.items is None else self.items[row - self.first]


def _with(numbers: npt.NDArray[N], row: int, number: int) -> npt.NDArray[N]:
    changed = numbers.copy()
    changed[row] = number
    return changed
