"""A file elsewhere as what libraries read: an open file, and an array whose rows are fetched.

Promise: what ``remote`` promises of every byte. Nothing is kept but a few windows of an open file, and what was fetched
ahead for one block.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.remote import RemoteFile, Span, read_ranges

__all__ = ["RemoteArray", "RemoteReader"]

_WINDOW = 256 << 10
_KEPT = 8


class RemoteReader(io.RawIOBase):
    """A file opened for reading.

    Small reads come out of windows of what was read last; what ``fetch`` was asked for comes at once.
    """

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self.file = file
        self._place = 0
        self._windows: list[tuple[int, memoryview]] = []
        self._fetched: list[tuple[int, memoryview]] = []

    def fetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Read these parts, ``(start, size)``, all at once; what was fetched before is dropped."""
        self._fetched = []
        found = read_ranges([Span(self.file, start, size) for start, size in spans])
        self._fetched = [(start, data) for (start, _), data in zip(spans, found, strict=True)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.file.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        data = self._read(min(len(target), max(0, self.file.size - self._place)))
        target[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(self.file.size - self._place)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.file.size - self._place)
        return bytes(self._read(left if size is None or size < 0 else min(size, left)))

    def _read(self, size: int) -> memoryview:
        start = self._place
        self._place += size
        for first, data in (*self._fetched, *self._windows):
            if first <= start and start + size <= first + len(data):
                return data[start - first : start - first + size]
        wanted = min(max(size, _WINDOW), self.file.size - start)
        (data,) = read_ranges([Span(self.file, start, wanted)])
        if wanted <= _WINDOW:
            self._windows = [(start, data), *self._windows[: _KEPT - 1]]
        return data[:size]


class RemoteArray:
    """An array in a file, row after row.

    Args:
        start: Its first byte.

    Raises:
        ValueError: The file is too short.
    """

    def __init__(self, file: RemoteFile, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.file, self.start, self.shape, self.dtype = file, start, shape, dtype
        self.ndim = len(shape)
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if start + math.prod(shape) * dtype.itemsize > file.size:
            raise ValueError(f"its header says {shape} of {dtype}, more than its {file.size} bytes; it was cut")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Indices) -> npt.NDArray[Any]:
        return self.windows(indices, 1)[:, 0]

    def windows(self, starts: Indices, length: int) -> npt.NDArray[Any]:
        """``length`` rows from each start, as an array (starts, length, ...)."""
        size = self._row_bytes * length
        found = np.empty((len(starts), size), np.uint8)
        spans = [Span(self.file, self.start + first * self._row_bytes, size) for first in starts.tolist()]
        for row, data in zip(found, read_ranges(spans), strict=True):
            row[:] = np.frombuffer(data, np.uint8)
        return found.view(self.dtype).reshape(len(starts), length, *self.shape[1:])


def open_array(reader: RemoteReader) -> RemoteArray | npt.NDArray[Any]:
    """The array of an .npy file that begins where a reader is; a single object for Python objects.

    Raises:
        ValueError: It is none, or is too short, or its rows are not one after the other.
    """
    version = np.lib.format.read_magic(reader)
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(reader)
    elif version == (2, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(reader)
    else:
        raise ValueError(f"version {version} of NumPy's format is unknown; known are 1.0 and 2.0")
    if dtype.hasobject:
        return np.array(None)
    if by_columns and len(shape) > 1:
        raise ValueError("its values lie column by column, which cannot be read by rows elsewhere; copy the file")
    return RemoteArray(reader.file, reader.tell(), shape, dtype)
