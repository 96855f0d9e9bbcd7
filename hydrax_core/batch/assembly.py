"""From what the engine delivers to what the user gets."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from hydrax_core.batch.batch import BatchParts, TrainingBatch, ValidationBatch
from hydrax_core.data.group import DataGroup
from hydrax_core.engine.jobs import HostBatch

if TYPE_CHECKING:
    from hydrax_core.batch.placement import PlacedArrays, Placement

__all__ = ["Assembler", "PreparedBatch", "assemble"]

D = TypeVar("D")


class PreparedBatch(NamedTuple):
    """A batch for the consumer.

    Attributes:
        batch: The batch.
        holders: Weak references to its arrays: as long as one of them lives, somebody holds the batch.
        placed: What it was made of, where that was done ahead.
    """

    batch: TrainingBatch[Any] | ValidationBatch[Any]
    holders: tuple[weakref.ref[Any], ...]
    placed: PlacedArrays | None = None


class Assembler(Generic[D]):
    """Makes the batches of a loader, in the consumer's thread or ahead of it in the engine's.

    Args:
        groups: Training before validation.
        totals: Batches of an epoch, and of a validation run.
        placement: Places them.
        store: Stores one in the cache, see ``GroupCaches.store``.
    """

    def __init__(
        self,
        groups: Sequence[DataGroup[D]],
        totals: tuple[int, int],
        placement: Placement,
        store: Callable[..., None],
    ) -> None:
        self._groups = groups
        self._totals = totals
        self._placement = placement
        self._store = store
        self._consumer: object = None
        """Settings of the consumer's thread when it last had to make a batch itself."""

    def ahead(self, host: HostBatch) -> object:
        """Make the batch for a consumer that will ask ``make()`` for it; ``None`` where that is left to it."""
        if self._consumer is not None and self._consumer != self._placement.context():
            return None  # it would be made in vain
        placed = self._placement.ahead(host)
        return None if placed is None else self._assemble(host, placed.arrays)._replace(placed=placed)

    def make(self, host: HostBatch, ahead: object) -> PreparedBatch:
        """The batch for the consumer.

        Args:
            host: The batch in host memory.
            ahead: What ``ahead()`` made of it, or ``None``.

        Raises:
            PlacementError: A ``placement_func`` returned something else than declared.
        """
        if isinstance(ahead, PreparedBatch) and ahead.placed is not None and self._placement.fits(ahead.placed):
            return ahead
        self._consumer = self._placement.context()
        return self._assemble(host, self._placement.place(host))

    def _assemble(self, host: HostBatch, arrays: Mapping[str, Any]) -> PreparedBatch:
        total = self._totals[host.planned.address.kind == "validation"]
        batch = assemble(host, self._groups[host.group], arrays, total, self._store)
        return PreparedBatch(batch, tuple(map(weakref.ref, arrays.values())))


def assemble(
    host: HostBatch,
    group: DataGroup[D],
    arrays: Mapping[str, Any],
    progress_total: int,
    store: Callable[..., None],
) -> TrainingBatch[D] | ValidationBatch[D]:
    """The batch for the consumer.

    Args:
        host: The batch in host memory.
        group: Its group.
        arrays: Its jax arrays.
        progress_total: Batches in its epoch (or validation run).
        store: Stores it in the cache, see ``GroupCaches.store``.
    """
    keep = None
    if not host.cached and group.cache_layouts and not group.cache_readonly:
        keep = partial(store, host._replace(arrays={}))  # without its arrays, or they would be held
    parts = BatchParts(
        group=group,
        address=host.planned.address,
        arrays=MappingProxyType(dict(arrays)),
        layouts=group.cache_layouts if host.cached else group.loader_layouts,
        additional=host.additional,
        indices=host.indices,
        seeds=host.seeds,
        content=host.planned.content,
        rows=group.batch_size,
        uncached=not host.cached,
        progress_total=progress_total,
        from_cache=host.from_cache,
        load_seconds=host.load_seconds,
        store=keep,
    )
    return TrainingBatch(parts) if host.planned.address.kind == "training" else ValidationBatch(parts)
