"""Which items a batch holds and which seeds they get: pure functions of (seed, group, epoch, position).

Promise: the answer for one batch costs the same for the first and the billionth, needs no table, and does not depend
on what was asked before, on the machine or on the number of workers. Each index appears once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hydrax_core.data.group import DataGroup, Shuffle
from hydrax_core.data.rows import DrawnRows, RowOrder
from hydrax_core.plan.permutation import Indices, Seeds, derive_key, permute, seeds_of
from hydrax_core.plan.sampling import WeightedRows

__all__ = ["BatchContent", "GroupOrder", "StandIn", "group_order"]

_WINDOW = 4096
"""Positions computed at once: enough to make NumPy's cost a call vanish, 0.3 ms to the first batch."""
_ROWS_WINDOW = 4 * _WINDOW
"""The same of rows that are drawn of several members, each of which costs calls of its own."""


class BatchContent(NamedTuple):
    """What one batch holds.

    Attributes:
        indices: Index in the group's data of each real row, at most batch-size many; read-only.
        seeds: Seed of each real row, in [0, 2**32); ``None`` in validation; read-only.
        key: The group's key; ``None`` in validation.
        content_epoch: Batches of equal content epoch and content batch are equal, seeds included.
        content_batch: See there.
        fresh: What augments each real row, other than ``seeds`` in every epoch; ``None`` without augmentation.
    """

    indices: Indices
    seeds: Seeds | None
    key: int | None
    content_epoch: int
    content_batch: int
    fresh: Seeds | None = None

    @property
    def shown_seeds(self) -> Seeds | None:
        """The seeds that ``batch.seeds`` shows: the fresh ones, where there are."""
        return self.seeds if self.fresh is None else self.fresh

    @property
    def seed(self) -> int:
        """Seed of the batch, in [0, 2**32); 0 in validation."""
        return 0 if self.key is None else derive_key(self.key, "batch", self.content_epoch, self.content_batch) >> 32


class StandIn(NamedTuple):
    """What takes the place of an item that failed: its index, and its seeds as in ``BatchContent``."""

    item: int
    seed: int | None = None
    fresh: int | None = None


class GroupOrder:
    """The order of one group.

    Args:
        batch_count: Batches an epoch; the last one may be short.
        key: The group's key, which no other group of the loader shares; ``None`` in validation: data order, no seeds.
        shuffle_later: What later epochs do, see ``DataGroup``.
        first_seeds_only: Whether an item has the seed of the first epoch in all of them.
        rows: How the rows of an epoch are made; ``None`` for each item once.
        augmented: Whether rows have fresh seeds, too.
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
        rows: RowOrder | None = None,
        augmented: bool = False,
    ) -> None:
        self._size = size
        self._rows = rows
        self._batch_size = batch_size
        self._batch_count = batch_count
        self._key = key
        self._shuffle_first = shuffle_first
        self._shuffle_later = shuffle_later
        self._first_seeds_only = first_seeds_only
        self._row_count = size if rows is None else rows.size
        window = max(_WINDOW if rows is None else _ROWS_WINDOW, batch_size)
        self._items = _Window(self._row_count, window, self._draw)
        self._fresh = _Window(self._row_count, window, self._draw_each) if augmented else None
        self._batches = _Window(
            batch_count, _WINDOW, lambda key, _, first, end: _permuted(key, batch_count, first, end)
        )

    def batch(self, epoch: int, position: int) -> BatchContent:
        content_epoch, content_batch = self.content(epoch, position)
        first = content_batch * self._batch_size
        end = min(first + self._batch_size, self._row_count)
        order = self._item_order(content_epoch)
        if self._key is None:
            indices, _ = self._items.take(*order, None, first, end)
            return BatchContent(indices, None, None, content_epoch, content_batch)
        indices, seeds = self._items.take(*order, self._seed_key(content_epoch), first, end)
        fresh = None
        if self._fresh is not None:
            _, fresh = self._fresh.take(*order, self._fresh_key(epoch), first, end)
        return BatchContent(indices, seeds, self._key, content_epoch, content_batch, fresh)

    def content(self, epoch: int, position: int) -> tuple[int, int]:
        if self._key is None or epoch == 0 or self._shuffle_later == "repeat":
            return 0, position
        if self._shuffle_later == "batchwise":
            key = derive_key(self._key, "batch order", epoch)
            return 0, int(self._batches.take(key, epoch, None, position, position + 1)[0][0])
        return epoch, position

    def substitute(self, epoch: int, index: int, attempt: int) -> StandIn:
        """The item that stands in for a failing one, for ``attempt`` 0, 1, ...

        The same on every host, because it depends on the arguments alone; never ``index`` itself.
        """
        key = derive_key(self._key or 0, "substitute", epoch, index)
        alike, place = (range(self._size), index) if self._rows is None else self._rows.alike(index)
        count = len(alike)
        offset = int(permute(key, count - 1, attempt % (count - 1))) + 1 if count > 1 else 0
        other = int(alike[(place + offset) % count])
        if self._key is None:
            return StandIn(other)
        content_epoch, _ = self.content(epoch, 0)
        fresh = None if self._fresh is None else int(seeds_of(self._fresh_key(epoch), other))
        return StandIn(other, int(seeds_of(self._seed_key(content_epoch), other)), fresh)

    def _seed_key(self, content_epoch: int) -> int:
        assert self._key is not None
        return derive_key(self._key, "items", 0 if self._first_seeds_only else content_epoch)

    def _fresh_key(self, epoch: int) -> int:
        assert self._key is not None
        return derive_key(self._key, "augment", 0 if self._shuffle_later == "repeat" else epoch)

    def _item_order(self, content_epoch: int) -> tuple[int | None, int]:
        """The key of the order of items, ``None`` for that of the data, and the epoch that it is of."""
        if self._key is None:
            return None, 0
        epoch = content_epoch if self._shuffle_later == "itemwise" else 0
        if epoch == 0 and not self._shuffle_first:
            return None, 0
        return derive_key(self._key, "item order", epoch if self._rows is None else 0), epoch

    def _draw(self, key: int | None, epoch: int, first: int, end: int) -> DrawnRows:
        found = self._draw_each(key, epoch, first, end)
        return DrawnRows(found.indices, found.indices) if self._first_seeds_only else found

    def _draw_each(self, key: int | None, epoch: int, first: int, end: int) -> DrawnRows:
        if self._rows is None:
            return _permuted(key, self._size, first, end)
        fixed = derive_key(self._key or 0, "item order", 0)  # its order goes on from epoch to epoch
        shuffled = self._shuffle_first and self._key is not None
        return self._rows.draw(fixed, epoch, first, end, shuffled=shuffled)


def _permuted(key: int | None, size: int, first: int, end: int) -> DrawnRows:
    images = np.arange(first, end, dtype=np.int64)
    if key is not None:
        images = permute(key, size, images)
    return DrawnRows(images, images)


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
        rows=WeightedRows(group.weight_ends, len(group)) if group.weight_ends is not None else group.rows,
        augmented=group.augment_func is not None,
    )


class _Part(NamedTuple):
    """What a window holds: images and seeds of the positions from ``first`` on."""

    keys: tuple[int | None, int, int | None]
    first: int
    images: Indices
    seeds: Seeds


class _Window:
    """Images of a permutation, and their seeds, around the positions asked last, so that small requests are cheap.

    Args:
        length: Positions computed at once.
        draw: Gives what stands at positions from one up to another, for a key and an epoch.
    """

    def __init__(self, size: int, length: int, draw: Callable[[int | None, int, int, int], DrawnRows]) -> None:
        self._size = size
        self._length = length
        self._draw = draw
        self._part = _Part((None, 0, None), 0, np.empty(0, np.int64), np.empty(0, np.uint32))

    def take(
        self, key: int | None, epoch: int, seed_key: int | None, first: int, end: int
    ) -> tuple[Indices, Seeds | None]:
        """Images and seeds of ``range(first, end)``.

        Args:
            key: Of the permutation; ``None`` for the identity.
            seed_key: Of the seeds; ``None`` for none.
        """
        part, keys = self._part, (key, epoch, seed_key)
        if keys != part.keys or first < part.first or end > part.first + len(part.images):
            drawn = self._draw(key, epoch, first, min(self._size, max(end, first + self._length)))
            images = drawn.indices
            seeds = np.empty(0, np.uint32) if seed_key is None else seeds_of(seed_key, drawn.numbers)
            images.flags.writeable = seeds.flags.writeable = False  # every batch has a part of them
            part = _Part(keys, first, images, seeds)
            self._part = part  # at once and as a whole: Ctrl-C, or another thread, may come at any moment
        wanted = slice(first - part.first, end - part.first)
        return part.images[wanted], None if seed_key is None else part.seeds[wanted]
