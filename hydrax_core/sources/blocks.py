"""Rows that lie in blocks which are read whole: row groups of Parquet, compressed record batches, chunks of HDF5.

Promise: a process keeps the blocks that it used last, in memory that is taken once: as many as the window of the order
holds, and two. Each is decoded once while it is kept, whatever the number of rows asked for. The order (see
``hydrax_core.plan.blocks``) asks for the rows of a few blocks at a time, so that a block is decoded once an epoch and
worker; rows in any other order are right, and slow.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import choice, integer
from hydrax_core.data.layout import ArraySpec
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.row_source import Arrays, Chosen, FileSource, gather, put

__all__ = ["WINDOW_BYTES", "BlockSource", "Shuffle", "check_shuffle", "window_rows"]

Shuffle: TypeAlias = Literal["rows", "block"]

WINDOW_BYTES = 64 << 20
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


class BlockSource(FileSource):
    """Rows in blocks.

    Args:
        paths: The files, absolute.
        sizes: Rows of each block, in the order of the data.
        window: Rows that the order shuffles together; a process keeps the blocks of that many.
        shuffled: Whether the order shuffles whole blocks; else all rows.
        reading: What else decides what a row holds.
    """

    blocks: Indices

    def __init__(
        self,
        paths: Sequence[str],
        sizes: Sequence[int],
        chosen: Chosen,
        window: int,
        *reading: Any,
        shuffled: bool = True,
    ) -> None:
        super().__init__(paths, *reading)
        self.blocks = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.specs, self.additional, self.left_out = chosen
        self._kept_rows = window
        self.window = window if shuffled else None

    def __len__(self) -> int:
        return int(self.blocks[-1])

    @abstractmethod
    def read_block(self, number: int, arrays: Arrays) -> Mapping[str, Sequence[Any]]:
        """Fill arrays of as many rows as the block has, and return its additional columns."""

    def fill(self, indices: Indices, arrays: Arrays) -> list[dict[str, Any]] | None:
        numbers = np.searchsorted(self.blocks, indices, "right") - 1
        kept = self._kept
        wanted, which = np.unique(numbers, return_inverse=True)
        first_kept = np.argsort([number not in kept for number in wanted.tolist()], kind="stable")
        wanted, which = wanted[first_kept], np.argsort(first_kept)[which]
        extra: list[dict[str, Any]] = [{}] * len(indices) if self.additional else []
        for first in range(0, len(wanted), kept.most):
            some = wanted[first : first + kept.most].tolist()
            slots = np.array(kept.load(some, self._read))
            rows = np.arange(len(indices))
            if len(some) < len(wanted):
                rows = np.flatnonzero((which >= first) & (which < first + len(some)))
            local = indices[rows] - self.blocks[numbers[rows]]
            flat = slots[which[rows] - first] * kept.rows + local
            for name, array in arrays.items():
                where = f"{self.paths[0]}: {name!r}"
                if len(some) == len(wanted):
                    gather(where, kept.arrays[name], flat, array)
                else:
                    part = np.empty((len(rows), *array.shape[1:]), array.dtype)
                    put(where, part, kept.arrays[name][flat])
                    array[rows] = part
            for row, place, offset in zip(rows, slots[which[rows] - first], local, strict=True) if extra else ():
                extra[row] = {name: kept.extra[place][name][offset] for name in self.additional}
        return extra or None

    @functools.cached_property
    def _kept(self) -> _Kept:
        sizes = np.diff(self.blocks)
        sizes = sizes[sizes > 0]
        return _Kept(
            min(len(sizes), -(-self._kept_rows // max(1, int(sizes.mean()))) + 2), int(sizes.max()), self.specs
        )

    def _read(self, number: int, arrays: Arrays) -> Mapping[str, Sequence[Any]]:
        rows = int(self.blocks[number + 1] - self.blocks[number])
        return self.read_block(number, {name: array[:rows] for name, array in arrays.items()})


class _Kept:
    """The blocks used last, decoded.

    Args:
        rows: Rows of the largest.
    """

    def __init__(self, most: int, rows: int, specs: Mapping[str, ArraySpec]) -> None:
        self.most, self.rows = most, rows
        self.arrays: dict[str, npt.NDArray[Any]] = {
            name: np.empty((most * rows, *spec.shape), spec.numpy_dtype) for name, spec in specs.items()
        }
        self.extra: list[Mapping[str, Sequence[Any]]] = [{}] * most
        self._places: OrderedDict[int, int] = OrderedDict()
        self._free = list(range(most))

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def load(self, numbers: Sequence[int], read: Any) -> list[int]:
        """Where these blocks lie, at most ``most``; those that are not there are read."""
        for number in numbers:
            if number in self._places:
                self._places.move_to_end(number)
        for number in numbers:
            if number not in self._places:
                place = self._free.pop() if self._free else self._places.popitem(last=False)[1]
                span = slice(place * self.rows, (place + 1) * self.rows)
                try:
                    self.extra[place] = read(number, {name: array[span] for name, array in self.arrays.items()})
                except BaseException:
                    self._free.append(place)
                    raise
                self._places[number] = place
        return [self._places[number] for number in numbers]


def check_shuffle(shuffle: str | None) -> None:
    if shuffle is not None:
        choice("shuffle", shuffle, get_args(Shuffle))


def window_rows(argument: str, window: int | str | None, size: int, specs: Mapping[str, ArraySpec]) -> int:
    """The rows of a window, given in rows, or in bytes as ``"64MB"``.

    Raises:
        TypeError: It is neither.
        ValueError: It is not at least one row, or no number of bytes.
    """
    bytes_a_row = max(1, sum(spec.numpy_dtype.itemsize * math.prod(spec.shape) for spec in specs.values()))
    if window is None:
        return max(1, min(size, WINDOW_BYTES // bytes_a_row))
    if isinstance(window, str):
        text = window.strip().lower().replace(" ", "")
        unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
        number = text.removesuffix(unit)
        if not unit or not number.replace(".", "", 1).isdigit():
            raise ValueError(f"{argument}: expected rows, or bytes such as '64MB', got {window!r}")
        return max(1, min(size, int(float(number) * _UNITS[unit] / bytes_a_row)))
    return min(size, integer(argument, window, minimum=1))
