"""Which items a batch holds and which seeds they get: pure functions of (seed, group, epoch, position).

Promise: the answer for one batch costs the same for the first and the billionth, needs no table, and does not depend
on what was asked before, on the machine or on the number of workers. Each index appears once an epoch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hydrax_core.data.group import DataGroup, Shuffle
from hydrax_core.plan.permutation import Indices, Seeds, derive_key, permute, seeds_of

__all__ = ["BatchContent", "GroupOrder", "group_order"]

_WINDOW = 4096
"""Positions computed at once: enough to make NumPy's cost a call vanish, 0.3 ms to the first batch."""


class BatchContent(NamedTuple):
    """What one batch holds.

    Attributes:
        indices: Index in the group's data of each real row, at most batch-size many; read-only.
        seeds: Seed of each real row, in [0, 2**32); ``None`` in validation; read-only.
        key: The group's key; ``None`` in validation.
        content_epoch: Batches of equal content epoch and content batch are equal, seeds included.
        content_batch: See there.
    """

    indices: Indices
    seeds: Seeds | None
    key: int | None
    content_epoch: int
    content_batch: int

    @property
    def seed(self) -> int:
        """Seed of the batch, in [0, 2**32); 0 in validation."""
        return 0 if self.key is None else derive_key(self.key, "batch", self.content_epoch, self.content_batch) >> 32


class GroupOrder:
    """The order of one group.

    Args:
        size: Number of items.
        batch_size: Rows of a batch.
        batch_count: Batches an epoch; the last one may be short.
        key: The group's key, which no other group of the loader shares; ``None`` in validation: data order, no seeds.
        shuffle_first: Whether the first epoch is shuffled.
        shuffle_later: What later epochs do, see ``DataGroup``.
        first_seeds_only: Whether an item has the seed of the first epoch in all of them.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        batch_count: int,
        key: int | None,
        *,
        shuffle_first: bool,
        shuffle_later: Shuffle,
        first_seeds_only: bool = False,
    ) -> None:
        self._size = size
        self._batch_size = batch_size
        self._batch_count = batch_count
        self._key = key
        self._shuffle_first = shuffle_first
        self._shuffle_later = shuffle_later
        self._first_seeds_only = first_seeds_only
        self._items = _Window(size, max(_WINDOW, batch_size))
        self._batches = _Window(batch_count, _WINDOW)

    def batch(self, epoch: int, position: int) -> BatchContent:
        """The content of the batch at ``position`` of ``epoch``."""
        content_epoch, content_batch = self.content(epoch, position)
        first = content_batch * self._batch_size
        end = min(first + self._batch_size, self._size)
        order_key = self._item_key(content_epoch)
        if self._key is None:
            indices, _ = self._items.take(order_key, None, first, end)
            return BatchContent(indices, None, None, content_epoch, content_batch)
        seed_key = self._seed_key(content_epoch)
        indices, seeds = self._items.take(order_key, seed_key, first, end)
        return BatchContent(indices, seeds, self._key, content_epoch, content_batch)

    def content(self, epoch: int, position: int) -> tuple[int, int]:
        """The content epoch and content batch at ``position`` of ``epoch``."""
        if self._key is None or epoch == 0 or self._shuffle_later == "repeat":
            return 0, position
        if self._shuffle_later == "batchwise":
            key = derive_key(self._key, "batch order", epoch)
            return 0, int(self._batches.take(key, None, position, position + 1)[0][0])
        return epoch, position

    def substitute(self, epoch: int, index: int, attempt: int) -> tuple[int, int | None]:
        """The item that stands in for a failing one, and its seed, for ``attempt`` 0, 1, ...

        The same on every host, because it depends on the arguments alone; never ``index`` itself.
        """
        key = derive_key(self._key or 0, "substitute", epoch, index)
        offset = int(permute(key, self._size - 1, attempt % (self._size - 1))) + 1 if self._size > 1 else 0
        other = (index + offset) % self._size
        if self._key is None:
            return other, None
        content_epoch, _ = self.content(epoch, 0)
        return other, int(seeds_of(self._seed_key(content_epoch), other))

    def _seed_key(self, content_epoch: int) -> int:
        assert self._key is not None
        return derive_key(self._key, "items", 0 if self._first_seeds_only else content_epoch)

    def _item_key(self, content_epoch: int) -> int | None:
        """The key of the item permutation, ``None`` for the order of the data."""
        if self._key is None:
            return None
        shuffled_epoch = content_epoch if self._shuffle_later == "itemwise" else 0
        if shuffled_epoch == 0 and not self._shuffle_first:
            return None
        return derive_key(self._key, "item order", shuffled_epoch)


def group_order(group: DataGroup[Any], kind: str, group_index: int) -> GroupOrder:
    """The order of a group at a place among the groups of a loader; validation is unshuffled and unseeded."""
    return GroupOrder(
        len(group),
        group.batch_size,
        group.batch_count,
        derive_key(group.seed, group_index) if kind == "training" else None,
        shuffle_first=group.shuffle_first,
        shuffle_later=group.shuffle_later,
        first_seeds_only=group.first_seeds_only,
    )


class _Part(NamedTuple):
    """What a window holds: images and seeds of the positions from ``first`` on."""

    keys: tuple[int | None, int | None]
    first: int
    images: Indices
    seeds: Seeds


class _Window:
    """Images of a permutation, and their seeds, around the positions asked last, so that small requests are cheap.

    Args:
        size: Number of elements.
        length: Positions computed at once.
    """

    def __init__(self, size: int, length: int) -> None:
        self._size = size
        self._length = length
        self._part = _Part((None, None), 0, np.empty(0, np.int64), np.empty(0, np.uint32))

    def take(self, key: int | None, seed_key: int | None, first: int, end: int) -> tuple[Indices, Seeds | None]:
        """Images and seeds of ``range(first, end)``.

        Args:
            key: Of the permutation; ``None`` for the identity.
            seed_key: Of the seeds; ``None`` for none.
            first: First position.
            end: Position after the last.
        """
        part = self._part
        if (key, seed_key) != part.keys or first < part.first or end > part.first + len(part.images):
            part = self._compute(key, seed_key, first, min(self._size, max(end, first + self._length)))
            self._part = part  # at once and as a whole: Ctrl-C, or another thread, may come at any moment
        wanted = slice(first - part.first, end - part.first)
        return part.images[wanted], None if seed_key is None else part.seeds[wanted]

    def _compute(self, key: int | None, seed_key: int | None, first: int, end: int) -> _Part:
        images = np.arange(first, end, dtype=np.int64)
        if key is not None:
            images = permute(key, self._size, images)
        seeds = np.empty(0, np.uint32) if seed_key is None else seeds_of(seed_key, images)
        images.flags.writeable = seeds.flags.writeable = False  # every batch has a part of them
        return _Part((key, seed_key), first, images, seeds)
