"""Ragged arrays of a batch that are only as long as its longest row needs, in multiples that are declared.

Promise: a trimmed array has the rows of the whole one, up to a multiple that holds the longest, and lies in the same
memory, C-contiguous and from the same byte on: its rows are closed up, which is one pass over what is kept. So a whole
array is of no more use, and whoever else needs it has copied it before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec, Layouts, aligned, length_name

__all__ = ["Trim", "trimmed", "trimmed_layouts", "trims_of"]


class Trim(NamedTuple):
    """An array that is trimmed: its name, the multiple, and the greatest length."""

    name: str
    multiple: int
    most: int

    def length(self, longest: int) -> int:
        """The length of the array of a batch whose longest row has so many elements."""
        return min(self.most, aligned(max(1, longest), self.multiple))


def trims_of(specs: Mapping[str, ArraySpec]) -> tuple[Trim, ...]:
    return tuple(
        Trim(name, spec.ragged.multiple, spec.shape[0])
        for name, spec in specs.items()
        if spec.ragged is not None and spec.ragged.multiple is not None
    )


def trimmed(arrays: Mapping[str, npt.NDArray[Any]], trims: Sequence[Trim]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a batch, those of ``trims`` closed up in their own memory."""
    found = dict(arrays)
    for trim in trims:
        length = trim.length(int(arrays[length_name(trim.name)].max(initial=0)))
        found[trim.name] = _closed_up(arrays[trim.name], length)
    return found


def trimmed_layouts(layouts: Layouts, lengths: Mapping[str, int]) -> Layouts:
    found = dict(layouts)
    for name, length in lengths.items():
        shape = (layouts[name].shape[0], length, *layouts[name].shape[2:])
        found[name] = layouts[name]._replace(shape=shape, size=math.prod(shape))
    return found


def _closed_up(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    rows, most, *inner = array.shape
    if length == most:
        return array
    flat, whole, kept = array.reshape(-1), math.prod(array.shape[1:]), math.prod((length, *inner))
    for row in range(1, rows):
        flat[row * kept : (row + 1) * kept] = flat[row * whole : row * whole + kept]
    return np.ndarray((rows, length, *inner), array.dtype, flat)
