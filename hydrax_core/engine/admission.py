"""From the plan's next number to a batch: out of the cache, or as a job for the workers.

Promise: each number of the run is asked for once, in order; a slot is taken only where something is loaded into it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias

from hydrax_core.data.layout import WHOLE, Layouts, clear_rows, views
from hydrax_core.data.logger import logger
from hydrax_core.data.trim import trimmed
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.jobs import BatchJob, HostBatch, JobGroup
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.plan.plan import Plan, PlannedBatch, Position

__all__ = ["Admission"]

NoBatch: TypeAlias = Literal["no free slot", "not cached"]
"""Why there is no batch: ask again when a slot may be free; or only a cache can serve it and does not hold it."""

_LOOK_AHEAD = 3
"""Batches that the cache checks ahead of the one asked for."""


class Admission:
    """The batches of a run, one after the other.

    Args:
        groups: Training before validation; ``training_groups`` of them are training.
        first: Number of the first batch, see ``Plan``.
        end: Number of the batch to stop before; ``None`` for none.
        skipped: Numbers to leave out, as they were handed out before.
    """

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[JobGroup],
        training_groups: int,
        pool: SlotPool,
        caches: GroupCaches,
        *,
        first: int,
        end: int | None,
        skipped: Collection[int],
    ) -> None:
        self._plan = plan
        self._groups = groups
        self._training_groups = training_groups
        self._pool = pool
        self._caches = caches
        self._end = end
        self._skipped = skipped
        self._ahead: dict[int, PlannedBatch] = {}
        self._pass = _StreamPass("", -1, whole=False)
        self.last = -1
        """Number of the batch that ``take()`` gave last, or found in no cache."""
        self._next = first
        self._pass_skipped()

    def take(self, soft_limit: int) -> BatchJob | HostBatch | NoBatch:
        """The next batch, complete or to be loaded, or why there is none; not to be asked at the end.

        Args:
            soft_limit: How many slots there may be before it is worth looking for garbage that holds one.
        """
        planned = self._planned()
        batch = self._take(planned, self._ordinal(planned), soft_limit)
        if batch != "no free slot":
            self._ahead.pop(self._next, None)
            self.last = self._next
            self._next += 1
            self._pass_skipped()
        return batch

    @property
    def at_end(self) -> bool:
        return self._end is not None and self._next >= self._end

    def settled(self, planned: PlannedBatch, shards: int, *, has_rows: bool, ended: bool) -> bool:
        """Take note of a batch of a stream; those that follow in its shard, or in the epoch, go where it ended.

        Returns:
            False where the epoch ended and gave no batch.
        """
        address = planned.address
        if (self._pass.kind, self._pass.epoch) != (address.kind, address.epoch):
            self._pass = _StreamPass(address.kind, address.epoch, whole=address.epoch_batch == 0)
        current = self._pass
        current.given |= has_rows
        if ended:
            current.ended.add(address.epoch_batch % shards)
        if len(current.ended) < shards:
            return True
        plan = self._plan
        if address.kind == "validation":
            after = planned.number - address.epoch_batch + plan.batches_per_validation
        else:
            after = plan.number(Position((address.epoch + 1) * plan.batches_per_epoch, 0))
        if self._end is not None and self._next < self._end < after:
            logger.warning("the stream ended in epoch %d, before the batch that end_at names", address.epoch)
        self._next = max(self._next, after)
        return current.given or not current.whole

    def _pass_skipped(self) -> None:
        while self._next in self._skipped:
            self._next += 1

    def _take(self, planned: PlannedBatch, group: int, soft_limit: int) -> BatchJob | HostBatch | NoBatch:
        caches, found = self._caches, self._groups[group]
        by_batch = caches.keeps_batches(group)
        if by_batch and not (found.augmented or found.trims):
            batch = caches.batch(planned, group)
            if batch is not None or not found.layouts:
                return batch or "not cached"
        slot = self._pool.acquire(soft_limit)
        if slot is None:
            return "no free slot"
        own = found.own(planned.content)
        job = BatchJob(planned, group, slot, own.indices, own.seeds, own.fresh)
        self._clear_padding(job, found.layouts, found.augmented)
        return self._gather(job) if by_batch or caches.keeps_items(group) else job

    def _gather(self, job: BatchJob) -> BatchJob | HostBatch | NoBatch:
        """A batch of which the cache holds all items, some or none."""
        group, caches = self._groups[job.group], self._caches
        self._clear_padding(job, group.cache_layouts)
        missing = caches.fill(job, views(self._block(job.slot), group.cache_layouts))
        if not missing and not group.augmented:
            arrays = trimmed(views(self._pool.lease(job.slot), group.cache_layouts), group.trims)
            return HostBatch(
                job.planned,
                job.group,
                job.slot,
                arrays,
                job.indices,
                job.seeds,
                job.additional,
                cached=True,
                from_cache=True,
            )
        if missing and not group.layouts:
            self._pool.release(job.slot)
            return "not cached"
        if group.augmented:
            job.filled = {*range(len(job.indices))} - {*missing}
            job.uncut = sorted([*_runs(missing), *_runs(sorted(job.filled))])
            job.loaded_rows = missing
        elif group.stores_itself:  # what is here has the loader's layout, so the rest is enough
            job.uncut = _runs(missing)
            job.loaded_rows = missing
        else:
            job.additional.clear()
            self._clear_padding(job, group.layouts)
        return job

    def _planned(self) -> PlannedBatch:
        """The next batch of the plan; the cache checks those that follow."""
        if self._caches.empty:
            return self._plan.batch(self._next)
        end = self._end
        for number in range(self._next, self._next + 1 + _LOOK_AHEAD):
            if number not in self._ahead and (end is None or number < end):
                planned = self._ahead[number] = self._plan.batch(number)
                self._caches.look_ahead(planned, self._ordinal(planned))
        return self._ahead[self._next]

    def _ordinal(self, planned: PlannedBatch) -> int:
        first = self._training_groups if planned.address.kind == "validation" else 0
        return first + planned.address.group_index

    def _clear_padding(self, job: BatchJob, *parts_of_slot: Layouts) -> None:
        group = self._groups[job.group]
        if len(job.indices) == group.batch_size:
            return
        for layouts in parts_of_slot:
            parts = group.parts if layouts is group.layouts else WHOLE
            for array in views(self._block(job.slot), layouts, parts=parts).values():
                clear_rows(array, len(job.indices), group.batch_size)

    def _block(self, slot: int) -> memoryview:
        mapping, offset = self._pool.memory.locate(slot)
        return memoryview(mapping)[offset : offset + self._pool.memory.stride]


@dataclass(slots=True)
class _StreamPass:
    """An epoch of a stream: which shards ended, whether it gave a batch, and whether it was seen from its beginning."""

    kind: str
    epoch: int
    whole: bool
    ended: set[int] = field(default_factory=set)
    given: bool = False


def _runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending rows as runs of (first, count)."""
    runs = []
    for _, run in groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        runs.append((numbers[0], len(numbers)))
    return runs
