"""Rows drawn from the items of several members in exact shares, or by the weight of each item: functions of position.

Promise: the rows at a position of an epoch cost the same for any, and need no table beyond the members' own. In a block
the counts of members are exact; a member's items come all once before one comes again. Items by weight are drawn with
replacement, each row on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.rows import DrawnRows, RowOrder, value_digest
from hydrax_core.plan.permutation import Indices, derive_key, permute, seeds_of

__all__ = ["Member", "MixedRows", "WeightedRows"]

Member: TypeAlias = range | npt.NDArray[np.int64]
_LARGEST_TABLE = 1 << 16
"""Of a block up to this, the order is made once, and not for each row."""


@dataclass(frozen=True, eq=False)
class MixedRows(RowOrder):
    """Rows of several members.

    Attributes:
        members: The items of each, ascending.
        counts: Rows of each in a block.
    """

    members: tuple[Member, ...]
    counts: tuple[int, ...]
    rows: int

    @property
    def size(self) -> int:
        return self.rows

    @cached_property
    def digest(self) -> str:
        return value_digest("mixed", *self.members, self.counts, self.rows)

    @cached_property
    def _block(self) -> int:
        return sum(self.counts)

    @cached_property
    def _ends(self) -> Indices:
        return np.cumsum(self.counts)

    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:
        """See ``RowOrder``: a block's order is one permutation, turned by another step in each block."""
        # Blocks go on from epoch to epoch: an epoch need not be a whole number of them.
        blocks, places = np.divmod(np.arange(epoch * self.rows + first, epoch * self.rows + end), self._block)
        if len(self.members) > 1:
            pattern = derive_key(key, "pattern")
            places = self._permuted(pattern, places)
            begin, last = int(blocks[0]), int(blocks[-1])
            turns = (seeds_of(pattern, np.arange(begin, last + 1)) % self._block).astype(np.int64)
            places = (places + turns[blocks - begin]) % self._block
        owners = np.searchsorted(self._ends, places, "right")
        indices, numbers = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        items = sum(map(len, self.members))
        for rows in _by_owner(owners):
            owner = int(owners[rows[0]])
            member, count = self.members[owner], self.counts[owner]
            nth = blocks[rows] * count + (places[rows] - (int(self._ends[owner]) - count))
            passes, nth = np.divmod(nth, len(member))
            begin, last = int(passes.min()), int(passes.max())
            for turn in range(begin, last + 1):
                own = slice(None) if begin == last else passes == turn
                found = nth[own]
                if shuffled or turn:
                    found = permute(derive_key(key, "member", owner, turn), len(member), found)
                taken = found + member.start if isinstance(member, range) else member[found]
                indices[rows[own]] = taken
                numbers[rows[own]] = taken + turn * items
        return DrawnRows(indices, numbers)

    def _permuted(self, key: int, places: Indices) -> Indices:
        if self._block > _LARGEST_TABLE:
            return permute(key, self._block, places)
        known, order = self._order[0]
        if known != key:
            order = permute(key, self._block, np.arange(self._block))
            self._order[0] = (key, order)  # as a whole: another thread may look
        return order[places]

    @cached_property
    def _order(self) -> list[tuple[int, Indices]]:
        return [(-1, np.empty(0, np.int64))]

    def alike(self, index: int) -> tuple[Member, int]:
        for member in self.members:
            place = index - member.start if isinstance(member, range) else int(np.searchsorted(member, index))
            if 0 <= place < len(member) and member[place] == index:
                return member, place
        raise IndexError(f"item {index} is in no member")


def _by_owner(owners: Indices) -> list[Indices]:
    order = np.argsort(owners.astype(np.min_scalar_type(int(owners.max()))), kind="stable")  # small ints by radix
    return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)


@dataclass(frozen=True, eq=False)
class WeightedRows(RowOrder):
    """Rows drawn with replacement.

    Attributes:
        ends: The weights of the items, summed up.
    """

    ends: npt.NDArray[np.float64]
    rows: int

    @property
    def size(self) -> int:
        return self.rows

    @cached_property
    def digest(self) -> str:
        return value_digest("weighted", self.ends, self.rows)

    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:  # noqa: ARG002  ever by the key
        positions = np.arange(epoch * self.rows + first, epoch * self.rows + end)
        high, low = (seeds_of(derive_key(key, "draw", part), positions).astype(np.float64) for part in (0, 1))
        drawn = (high + low / 2**32) / 2**32 * self.ends[-1]
        indices = np.searchsorted(self.ends, np.minimum(drawn, np.nextafter(self.ends[-1], 0)), "right")
        return DrawnRows(indices, indices + (positions + 1) * len(self.ends))

    def alike(self, index: int) -> tuple[Sequence[int], int]:
        """See ``RowOrder``: any item."""
        return range(len(self.ends)), index
