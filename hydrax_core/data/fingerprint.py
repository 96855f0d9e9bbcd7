"""The identity of data: what a cache or a saved state is of.

Promise: data that names itself by a method ``fingerprint() -> str`` is named by that; other data by the value of its
items in their order. Equal data has equal digests in every process and run. A change of any item changes the digest
where items are stored as they are (lists, tuples, ranges, arrays, deques) and at most ``EXACT_ITEMS`` many; of more,
the length and ``SAMPLED_ITEMS`` items, evenly spread, are read, so that a billion items cost what a thousand cost. Of a
``Source``, and of a class of the user's, whose ``__getitem__`` may decode a file, ``SAMPLED_IF_COMPUTED`` items are
read: neither a checkpoint nor opening a cache reads a whole data set. Files are named by path, size and time of their
last change (or by their content), so a file rewritten in place and another folder with equal names are other data.

Lists, tuples, ranges and other sequences of equal items are equal; an array is equal to arrays of the same dtype and
shape. Which items are equal: ``hydrax_core.data.value_bytes``. An item that cannot be read counts as such.
"""

from __future__ import annotations

import array
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import xxhash

from hydrax_core.data.logger import logger
from hydrax_core.data.value_bytes import UNENCODABLE, array_parts, dtype_text, value_bytes
from hydrax_core.errors import shorten

__all__ = ["EXACT_ITEMS", "SAMPLED_ITEMS", "WHAT_DATA_IS", "IdentifiedItems", "data_digest", "files_fingerprint"]

D = TypeVar("D")

WHAT_DATA_IS = "the identity of the data: path, size and time of the last change of each file, or what the items are"
"""For the texts of errors that show two of them."""
EXACT_ITEMS = 2_000_000
SAMPLED_ITEMS = 65_536
SAMPLED_IF_COMPUTED = 256
_STORED = tuple(kind.__getitem__ for kind in (list, tuple, range, np.ndarray, np.memmap, deque, array.array))
"""Ways of reading an item that cost nothing."""
_RUN = 1024
_CHUNK = 1 << 20
_PATIENCE_SECONDS = 5


def data_digest(data: Any, guard: Any = None) -> str:
    """The digest of a sequence of items, 32 hexadecimal digits.

    Args:
        guard: What reads them, one thread at a time; ``None`` for the data itself.

    Raises:
        TypeError: An item cannot be pickled (the text names it), or ``data.fingerprint()`` returns no string.
    """
    size = len(data)
    digest = xxhash.xxh3_128(f"{size} items".encode())
    reading = data if guard is None else guard
    own = getattr(reading, "fingerprint", None)
    name = own() if callable(own) else None
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(f"data: its fingerprint() returned {shorten(name)}; expected a str, or None for unknown")
        digest.update(b"fingerprint\0" + name.encode("utf-8", "surrogatepass"))
    elif type(data) in (np.ndarray, np.memmap) and not data.dtype.hasobject and size <= EXACT_ITEMS:
        digest.update(f"array {dtype_text(data.dtype)} {data.shape}".encode())
        step = max(1, _CHUNK * size // max(1, data.nbytes))
        for first in range(0, size, step):
            for part in array_parts(data[first : first + step]):
                digest.update(part)
    else:
        stored = getattr(type(data), "__getitem__", None) in _STORED
        most, sampled = (EXACT_ITEMS, SAMPLED_ITEMS) if stored else (0, SAMPLED_IF_COMPUTED)
        sample = np.linspace(0, size - 1, min(size, sampled)).astype(np.int64)
        indices = range(size) if size <= most else sample.tolist()
        items = _Items(reading)
        for first in range(0, len(indices), _RUN):
            digest.update(items.encode(indices[first : first + _RUN]))
    return digest.hexdigest()


class _Unreadable:
    """Stands in for an item that cannot be read."""


class _Items:
    """Reads items and says, once each, what the user may want to change about them."""

    def __init__(self, data: Sequence[Any]) -> None:
        self._data = data
        self._read = 0
        self._warn_at = time.monotonic() + _PATIENCE_SECONDS
        self._warned = False

    def encode(self, indices: Sequence[int]) -> bytes:
        items = [self._item(index) for index in indices]
        self._read += len(items)
        if time.monotonic() > self._warn_at:
            self._warn_at = float("inf")
            logger.warning(
                "data: reading its items for a cache or a saved state has taken %d s for %d of %d; data with a method "
                "fingerprint() -> str is named by that instead",
                _PATIENCE_SECONDS,
                self._read,
                len(self._data),
            )
        try:
            return value_bytes(items)
        except UNENCODABLE:
            for index, item in zip(indices, items, strict=True):
                try:
                    value_bytes(item)
                except UNENCODABLE as error:
                    raise TypeError(f"data: item {index} ({shorten(item)}) cannot be pickled: {error}") from error
            raise

    def _item(self, index: int) -> Any:
        try:
            return self._data[index]
        except Exception as error:  # noqa: BLE001  the user's code; loading the item raises it again, or skips it
            if not self._warned:
                self._warned = True
                logger.warning(
                    "data: item %d cannot be read (%r), which is how it counts for a cache or a saved state",
                    index,
                    error,
                )
            return _Unreadable()


def files_fingerprint(
    paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str], content: bool = False
) -> str:
    """The identity of files: of each, in this order, its path within ``root``, its size and when it was last changed.

    Where ``root`` lies does not count. A file that cannot be looked at counts as such: reading it is what fails. Two
    hundred thousand files take a second, most of it the system's.

    Args:
        paths: The files, relative to ``root`` or below it.
        content: Read the files and name them by their content instead of the time: a copy is then the same data.

    Returns:
        32 hexadecimal digits.
    """
    digest = xxhash.xxh3_128(b"content" if content else b"size and time")
    folder = os.path.join(os.fspath(root), "")  # noqa: PTH118  a prefix that ends with a separator
    given = iter(paths)
    while some := [os.fspath(path).removeprefix(folder) for path in itertools.islice(given, _RUN)]:
        states = [_state(folder + path, content) for path in some]
        lines = [f"{path}\0{state}\0" for path, state in zip(some, states, strict=True)]
        digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _state(path: str, content: bool) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116  three times as fast as Path, once a file
        return f"{status.st_size} {_content_digest(path) if content else status.st_mtime_ns}"
    except OSError:
        return "unreadable"


class IdentifiedItems(Sequence[D], Generic[D]):
    """Items that mean nothing without what they are read from.

    Args:
        items: The items.
        source: Names what they are read from; called when a cache or a state asks.
    """

    def __init__(self, items: Sequence[D], source: Callable[[], str]) -> None:
        self._items = items
        self._source = source

    @overload
    def __getitem__(self, index: int) -> D: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[D]: ...
    def __getitem__(self, index: int | slice) -> D | Sequence[D]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> Sequence[D]:
        return self._items

    def fingerprint(self) -> str:
        """The identity of the source and of the items."""
        return f"{self._source()} {data_digest(self._items)}"


def _content_digest(path: str) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:  # noqa: PTH123  as above
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()
