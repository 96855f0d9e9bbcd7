"""The caches of a loader's groups, as the engine uses them.

Promise: a batch of the cache is what was stored under its content, or it is not served. Storing never fails a run and
never holds it up: what the disk cannot take in time is not stored, is counted and is logged once. Batches with
substituted items are not stored as batches, or the substitute would outlive the repair of the item.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.cache import CacheStore
from hydrax_core.data.layout import block_size
from hydrax_core.data.logger import logger
from hydrax_core.engine.jobs import BatchJob, HostBatch, JobGroup
from hydrax_core.engine.resources.machine import memory_budget
from hydrax_core.plan.permutation import Indices
from hydrax_core.plan.plan import PlannedBatch

__all__ = ["GroupCaches"]

_EPOCHS_REMEMBERED = 64
_COPIED_BYTES = 1 << 20
"""Batches up to this are copied for the disk, so that it holds no slot; larger ones keep theirs until written."""


class GroupCaches:
    """One store a group, or none.

    Args:
        stores: The store of each group, training before validation; ``None`` for groups without a cache.
    """

    def __init__(self, stores: Sequence[CacheStore | None], groups: Sequence[JobGroup]) -> None:
        self._stores = stores
        self._groups = groups
        self._warned: set[int] = set()
        self._closed = False
        self._looked_at: dict[tuple[int, int], int] = {}
        self.empty = not any(stores)
        sizes = [group.batch_count * block_size(group.cache_layouts) for group in groups]
        memory = memory_budget()
        self._larger_than_memory = [size > memory for size in sizes]

    def keeps_batches(self, group: int) -> bool:
        store = self._stores[group]
        return store is not None and store.cache_by == "batch"

    def keeps_items(self, group: int) -> bool:
        store = self._stores[group]
        return store is not None and store.cache_by == "item"

    def look_ahead(self, planned: PlannedBatch, group: int) -> None:
        """Have a batch checked on another thread before it is asked for."""
        store = self._stores[group]
        if store is None:
            return
        if store.cache_by == "batch":
            epoch = planned.content.content_epoch
            times = self._looked_at.pop((group, epoch), 0)
            self._looked_at[group, epoch] = times + 1
            if len(self._looked_at) > _EPOCHS_REMEMBERED:
                del self._looked_at[next(iter(self._looked_at))]
            # An entry is checked once in a process; what does not fit into memory is worth reading ahead again.
            if times < self._groups[group].batch_count or self._larger_than_memory[group]:
                store.prefetch(epoch, planned.content.content_batch)
        else:
            store.prefetch_items(self._groups[group].own(planned.content).indices)

    def batch(self, planned: PlannedBatch, group: int) -> HostBatch | None:
        store = self._stores[group]
        assert store is not None
        content = planned.content
        found = store.read(content.content_epoch, content.content_batch)
        if found is None:
            return None
        return HostBatch(
            planned,
            group,
            None,
            found.arrays,
            content.indices,
            content.seeds,
            found.additional,
            cached=True,
            from_cache=True,
        )

    def fill(self, job: BatchJob, arrays: Mapping[str, npt.NDArray[Any]]) -> list[int]:
        """Fill the rows of a job that a cache holds; the rows that it does not hold."""
        store = self._stores[job.group]
        assert store is not None
        if store.cache_by == "batch":
            content = job.planned.content
            batch = store.read(content.content_epoch, content.content_batch)
            if batch is None:
                return list(range(len(job.indices)))
            for name, array in batch.arrays.items():
                arrays[name][...] = array
            job.additional = {name: list(values) for name, values in batch.additional.items()}
            return []
        found = store.read_items(job.indices, arrays)
        batch_size = self._groups[job.group].batch_size
        for name, values in found.additional.items():
            job.additional[name] = [*values, *[None] * (batch_size - len(values))]
        missing: list[int] = found.missing.tolist()
        return missing

    def keep(self, job: BatchJob, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store a loaded batch of a group whose cache has the loader's layout."""
        store = self._stores[job.group]
        if store is None or not self._groups[job.group].stores_itself or not store.writing or job.loaded_rows == []:
            return
        # What is trimmed is so in the slot, at once.
        if self._groups[job.group].trims or sum(array.nbytes for array in arrays.values()) <= _COPIED_BYTES:
            arrays = {name: array.copy() for name, array in arrays.items()}
        try:
            if store.cache_by == "item":
                self._write_items(store, job.indices, job.loaded_rows, arrays, job.additional)
            elif not job.failed_rows:
                content = job.planned.content
                store.write(content.content_epoch, content.content_batch, arrays, job.additional, wait=False)
        except Exception as error:  # noqa: BLE001  the values' own pickling may raise anything
            if job.group not in self._warned:
                self._warned.add(job.group)
                logger.warning("%s: a batch is not cached (further ones are not mentioned): %s", job.address, error)

    def store(
        self, host: HostBatch, arrays: Mapping[str, npt.NDArray[Any]], additional: Mapping[str, Sequence[Any]]
    ) -> None:
        """Store a batch that the user turned into its cached layout.

        Raises:
            RuntimeError: The loader is closed.
            TypeError: A value of ``additional`` cannot be stored; the text names it.
        """
        store = self._stores[host.group]
        assert store is not None
        if self._closed:
            raise RuntimeError("batch.cache(): the loader is closed, so nothing can be stored; use persist=False")
        if not store.writing:
            return
        content = host.planned.content
        if store.cache_by == "item":
            self._write_items(store, host.indices, None, arrays, additional)
        elif np.array_equal(host.indices, content.indices):
            store.write(content.content_epoch, content.content_batch, arrays, additional, wait=False)

    def stats(self) -> dict[str, Any]:
        counters = [store.counters() for store in self._stores if store is not None]
        return {
            "cache_corrupt": sum(counts.corrupt for counts in counters),
            "cache_unstored": sum(counts.unstored for counts in counters),
            "cache_error": next(filter(None, (counts.error for counts in counters)), ""),
        }

    def close(self, seconds: float) -> None:
        """Have what waits on the disk, within ``seconds``, and close the stores."""
        self._closed = True
        deadline = time.monotonic() + seconds
        stores = [store for store in self._stores if store is not None]
        for store in stores:
            store.start_closing()
        for store in stores:
            store.finish_closing(max(0.0, deadline - time.monotonic()))

    @staticmethod
    def _write_items(
        store: CacheStore,
        indices: Indices,
        rows: Sequence[int] | None,
        arrays: Mapping[str, npt.NDArray[Any]],
        additional: Mapping[str, Sequence[Any]],
    ) -> None:
        if rows is not None and len(rows) < len(indices):
            arrays = {name: array[rows] for name, array in arrays.items()}
            additional = {name: [values[row] for row in rows] for name, values in additional.items()}
            indices = indices[rows]
        count = len(indices)
        additional = {name: values[:count] for name, values in additional.items()}
        store.write_items(indices, arrays, additional, wait=False)
