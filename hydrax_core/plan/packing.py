"""Documents of known lengths in rows of one length: which row holds what, without a table of rows.

Promise: every token of every document that is kept stands in exactly one place of one row; no row is overfull; the same
lengths give the same rows on every machine. A row is found in the same time wherever it stands.

Packing is best-fit-decreasing (D. Johnson, 1973) over the histogram of lengths (M. Krell et al., arXiv 2107.02027): the
longest documents first, each into the row with the least space that is enough. Rows of the same make-up are one *kind*
with a count, so a million documents take a few thousand steps; what is kept is the documents by length, and the kinds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import integer
from hydrax_core.data.rows import value_digest
from hydrax_core.plan.permutation import derive_key

__all__ = ["ConcatenatedRows", "Lengths", "PackedRows", "Piece", "Row", "SplitLong", "checked_lengths"]

Lengths: TypeAlias = npt.NDArray[np.int64]
SplitLong: TypeAlias = bool | Literal["drop"]
_SHORT = 1 << 16
"""Lengths below this are sorted by radix: a tenth of the time."""


class Piece(NamedTuple):
    """What of a document stands in a row.

    Attributes:
        part: Which part of it, counted from 0; ``None`` where it is whole.
        start: Its first token in the document.
        total: Tokens of the whole document.
    """

    item: int
    part: int | None
    start: int
    length: int
    total: int


Row: TypeAlias = tuple[Piece, ...]


class _Kind(NamedTuple):
    """Rows that hold as many documents of the same lengths.

    Attributes:
        first: The first of them.
        parts: Length, how many documents of it are in each row, and which of all of that length is the first.
    """

    first: int
    parts: tuple[tuple[int, int, int], ...]


class _Rows(Sequence[tuple[int | tuple[int, int], ...]]):
    """Rows as tuples of item numbers, (item, part) of a document that is split; see ``row()`` for all of it."""

    length: int
    """Tokens that a row has room for."""
    tokens: int
    """Tokens in all rows."""
    digest: str
    """Of the lengths and of what was asked for."""
    dropped: int = 0
    """Documents left out as they are longer than a row."""
    _size: int

    def row(self, number: int, epoch: int = 0) -> Row:
        raise NotImplementedError

    @property
    def fill(self) -> float:
        """Which part of the rows is tokens, 0 to 1."""
        return self.tokens / (self._size * self.length)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> tuple[int | tuple[int, int], ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int | tuple[int, int], ...]]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._size))]
        number = index + self._size if index < 0 else index
        if not 0 <= number < self._size:
            raise IndexError(f"row {index} of {self._size}")
        return tuple(piece.item if piece.part is None else (piece.item, piece.part) for piece in self.row(number))

    def __iter__(self) -> Iterator[tuple[int | tuple[int, int], ...]]:
        return (self[number] for number in range(self._size))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._size:,} rows of {self.length:,}, {self.fill:.1%} full>"


class PackedRows(_Rows):
    """Rows of whole documents, as full as best-fit-decreasing makes them.

    Args:
        lengths: Tokens of each document; those of 0 are in no row.
        length: Tokens that a row has room for.
        max_segments: Most documents in a row; ``None`` for any number.
        split_long: What happens to documents that are longer than a row: ``True``: they are cut into parts, each but
            the last of them a row of its own; ``"drop"``: they are left out; ``False``: an error.

    Raises:
        ValueError: A document is longer than a row, and ``split_long`` is ``False``; no document is left.
    """

    def __init__(
        self, lengths: Lengths, length: int, *, max_segments: int | None = None, split_long: SplitLong = True
    ) -> None:
        self.length = length
        self.digest = value_digest("packed", lengths, length, max_segments, split_long)
        long = np.flatnonzero(lengths > length)
        if long.size and split_long is False:
            raise ValueError(
                f"length: item {long[0]} has {lengths[long[0]]:,} tokens and a row has room for {length:,}; "
                "use split_long=True to cut it, or split_long='drop' to leave it out"
            )
        packed = lengths
        self._long = long[:0]
        if long.size:
            packed = lengths.copy()
            packed[long] = lengths[long] % length if split_long else 0
            if split_long == "drop":
                packed[long] = 0
                self.dropped = len(long)
            else:
                self._long = long
        self._long_lengths = lengths[self._long]
        self._whole_parts = np.concatenate([[0], np.cumsum(self._long_lengths // length)])
        histogram = np.bincount(packed, minlength=length + 1)
        histogram[0] = 0
        self.tokens = int((histogram * np.arange(length + 1)).sum() + self._whole_parts[-1] * length)
        if not self.tokens:
            raise ValueError("lengths: there is no token to pack")
        self._kinds, self._packed = _best_fit(histogram, length, max_segments or len(lengths))
        self._firsts = [kind.first for kind in self._kinds]
        self._size = self._packed + int(self._whole_parts[-1])
        self._counts = histogram
        self._starts = int((packed == 0).sum()) + np.concatenate([[0], np.cumsum(histogram)])
        narrow = packed.astype(np.uint16) if length < _SHORT else packed
        order = np.argsort(narrow, kind="stable")
        self._order = order.astype(np.int32) if len(order) < 1 << 31 else order

    def row(self, number: int, epoch: int = 0) -> Row:
        """What a row holds; from epoch to epoch, documents of equal length change places."""
        if number >= self._packed:
            rank = number - self._packed
            place = int(np.searchsorted(self._whole_parts, rank, "right")) - 1
            part = rank - int(self._whole_parts[place])
            item = int(self._long[place])
            return (Piece(item, part, part * self.length, self.length, int(self._long_lengths[place])),)
        kind = self._kinds[bisect.bisect_right(self._firsts, number) - 1]
        turn = number - kind.first
        pieces: list[Piece] = []
        for length, count, first in kind.parts:
            start, ranks = int(self._starts[length]), range(first + turn * count, first + (turn + 1) * count)
            if epoch:
                size = int(self._counts[length])
                factor, shift = _affine(size, derive_key("repack", epoch, length))
                items = [int(self._order[start + (factor * rank + shift) % size]) for rank in ranks]
            else:
                items = self._order[start + ranks.start : start + ranks.stop].tolist()
            pieces += [self._piece(item, length) for item in items]
        return tuple(pieces)

    def _piece(self, item: int, length: int) -> Piece:
        """What of a document shares a row with others: all of it, or the last of its parts."""
        place = int(np.searchsorted(self._long, item)) if self._long.size else 0
        if place == len(self._long) or self._long[place] != item:
            return Piece(item, None, 0, length, length)
        part = int(self._whole_parts[place + 1] - self._whole_parts[place])
        return Piece(item, part, part * self.length, length, int(self._long_lengths[place]))


class ConcatenatedRows(_Rows):
    """The stream of all documents, one after the other, cut into rows.

    Args:
        remainder: Whether the last row, where it is not full, is left out (``"drop"``) or kept (``"pad"``).

    Raises:
        ValueError: There is not enough for a row.
    """

    def __init__(self, lengths: Lengths, length: int, *, remainder: Literal["drop", "pad"] = "drop") -> None:
        self.length = length
        self.digest = value_digest("concatenated", lengths, length, remainder)
        self._ends = np.cumsum(lengths)
        total = int(self._ends[-1]) if len(self._ends) else 0
        self._size = total // length if remainder == "drop" else -(-total // length)
        if not self._size:
            raise ValueError(
                f"lengths: {total:,} tokens do not fill one row of {length:,}; use a lesser length, or remainder='pad'"
            )
        self.tokens = min(total, self._size * length)

    def row(self, number: int, epoch: int = 0) -> Row:  # noqa: ARG002  the stream is the same in each epoch
        first, end = number * self.length, min((number + 1) * self.length, int(self._ends[-1]))
        pieces: list[Piece] = []
        item = int(np.searchsorted(self._ends, first, "right"))
        while first < end:
            start = 0 if item == 0 else int(self._ends[item - 1])
            stop = min(end, int(self._ends[item]))
            if stop > first:
                whole = first == start and stop == int(self._ends[item])
                part = None if whole else number - start // self.length
                total = int(self._ends[item]) - start
                pieces.append(Piece(item, part, first - start, stop - first, total))
                first = stop
            item += 1
        return tuple(pieces)


def checked_lengths(argument: str, lengths: Any) -> Lengths:
    found = np.asarray(lengths)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"{argument}: expected one number for each item, got an array of shape {found.shape}")
    if found.dtype.kind not in "iu":
        raise TypeError(f"{argument}: expected whole numbers, got {found.dtype}")
    if found.min() < 0:
        item = int(found.argmin())
        raise ValueError(f"{argument}: expected numbers of at least 0, got {found[item]} for item {item}")
    return found.astype(np.int64, copy=False)


def checked_length(length: Any) -> int:
    return integer("length", length, 1, 2**31 - 1)


def _affine(size: int, key: int) -> tuple[int, int]:
    """Factor and shift of a permutation ``(factor * n + shift) % size``."""
    factor = key % size or 1
    while math.gcd(factor, size) > 1:
        factor = factor % size + 1
    return factor, (key >> 32) % size


class _Open(NamedTuple):
    """Rows of the same make-up that have space left."""

    number: int
    segments: int
    parts: tuple[tuple[int, int, int], ...]


def _best_fit(histogram: Lengths, length: int, max_segments: int) -> tuple[list[_Kind], int]:
    """The kinds of rows, and how many rows there are.

    Best-fit puts documents of one length into a row until it has no space for another, as it is then the row with the
    least space that is enough. So all documents of one length are placed together, and all rows of one make-up.
    """
    by_space: dict[int, list[_Open]] = {}
    spaces = 0
    """Bit n: there are rows with space n."""
    closed: list[_Open] = []

    def put(rows: _Open, space: int, size: int, each: int, count: int, rank: int) -> None:
        nonlocal spaces
        left, segments = space - size * each, rows.segments + each
        filled = _Open(count, segments, (*rows.parts, (size, each, rank)))
        if left and segments < max_segments:
            by_space.setdefault(left, []).append(filled)
            spaces |= 1 << left
        else:
            closed.append(filled)

    for size in np.flatnonzero(histogram)[::-1].tolist():
        left, rank = int(histogram[size]), 0
        while left:
            fitting = spaces >> size
            if fitting:
                space = size + (fitting & -fitting).bit_length() - 1
                rows = by_space[space].pop()
                if not by_space[space]:
                    spaces ^= 1 << space
            else:
                space = length
                rows = _Open(left, 0, ())
            each = min(space // size, max_segments - rows.segments, left)
            count = min(rows.number, left // each)
            put(rows, space, size, each, count, rank)
            rank += each * count
            left -= each * count
            if rows.number > count and rows.segments:  # rows that there are: what is left of them waits again
                later = tuple((length, each, first + count * each) for length, each, first in rows.parts)
                by_space.setdefault(space, []).append(_Open(rows.number - count, rows.segments, later))
                spaces |= 1 << space
    closed += [rows for waiting in by_space.values() for rows in waiting]
    kinds, first = [], 0
    for rows in closed:
        kinds.append(_Kind(first, rows.parts))
        first += rows.number
    return kinds, first
