"""Items that lie in blocks which are read whole: blocks in random order, the rows of a few blocks shuffled together.

Promise: each item once an epoch. The blocks of an epoch follow one another in an order of its own; those that begin
within the same ``window`` of rows are shuffled row by row, so that a batch needs the blocks of one window, or at an
edge of two. The n-th row is a function of (key, epoch, n) and the sizes of the blocks; an epoch's table of blocks is
made once, the rows of a block are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hydrax_core.data.rows import DrawnRows, RowOrder, value_digest
from hydrax_core.plan.permutation import Indices, derive_key, permute

__all__ = ["BlockRows"]


class _Epoch(NamedTuple):
    """The blocks of an epoch.

    Attributes:
        order: Number of each block, in the order of the epoch.
        starts: Position of its first row, and the number of rows at the end.
        windows: Position of the first row of each window, and the number of rows at the end.
    """

    key: int
    order: Indices
    starts: Indices
    windows: Indices


class BlockRows(RowOrder):
    """The order of items in blocks.

    Args:
        starts: Index of the first item of each block, ascending, and the number of items at the end.
        window: Items that are shuffled together, at least 1: blocks are taken whole.
    """

    def __init__(self, starts: Indices, window: int) -> None:
        self._starts, self._window = starts, window
        self._epoch: _Epoch | None = None

    @property
    def size(self) -> int:
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        return value_digest("blocks", self._starts, self._window)

    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:
        if epoch == 0 and not shuffled:
            images = np.arange(first, end, dtype=np.int64)
            return DrawnRows(images, images)
        found = self._made(derive_key(key, "blocks", epoch))
        positions = np.arange(first, end, dtype=np.int64)
        window = int(np.searchsorted(found.windows, first, "right")) - 1
        while first < end:
            begin, after = found.windows[window : window + 2].tolist()
            part = slice(first - end + len(positions), min(after, end) - end + len(positions))
            positions[part] = begin + permute(derive_key(found.key, window), after - begin, positions[part] - begin)
            first, window = after, window + 1
        block = np.searchsorted(found.starts, positions, "right") - 1
        images = self._starts[found.order[block]] + positions - found.starts[block]
        return DrawnRows(images, images)

    def alike(self, index: int) -> tuple[Sequence[int], int]:
        return range(self.size), index

    def _made(self, key: int) -> _Epoch:
        found = self._epoch
        if found is None or found.key != key:
            count = len(self._starts) - 1
            order = permute(key, count, np.arange(count))
            starts = np.concatenate([[0], np.cumsum(np.diff(self._starts)[order])]).astype(np.int64)
            edges = np.flatnonzero(np.diff(starts[:-1] // self._window)) + 1
            windows = np.unique(np.concatenate([[0], starts[edges], starts[-1:]])).astype(np.int64)
            found = self._epoch = _Epoch(key, order, starts, windows)  # as a whole: another thread may look
        return found
