"""The identity of data: what a cache or a saved state is of.

Promise: data that says who it is by a method ``fingerprint() -> str`` is named by that; other data by the value of its
items in their order. Equal data has equal digests in every process and run. A change of any item changes the digest
where the data has at most ``EXACT_ITEMS`` items; of longer data the length and ``SAMPLED_ITEMS`` items, evenly spread,
are read, so that a billion items cost what a thousand cost; of a ``Source`` without a fingerprint
``SAMPLED_OF_A_SOURCE``. Files are named by path, size and time of their last change
(or by their content), so a file rewritten in place and another folder with equal names are other data.

Items are read by pickling them without memory of what came before: otherwise two equal lists would differ when one of
them holds the same string object twice. Sets of strings have no order that holds across processes: use tuples.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import xxhash

from hydrax_core.data.source import Source
from hydrax_core.errors import shorten

__all__ = ["EXACT_ITEMS", "SAMPLED_ITEMS", "IdentifiedItems", "data_digest", "files_fingerprint"]

D = TypeVar("D")

EXACT_ITEMS = 2_000_000
SAMPLED_ITEMS = 65_536
SAMPLED_OF_A_SOURCE = 64
"""Items of a source may be costly to read: those without a fingerprint are known by a few."""
_RUN = 1024
_CHUNK = 1 << 20


def data_digest(data: Any) -> str:
    """The digest of a sequence of items, 32 hexadecimal digits.

    Raises:
        TypeError: An item cannot be pickled (the text names it), or ``data.fingerprint()`` returns no string.
    """
    size = len(data)
    digest = xxhash.xxh3_128(f"{size} items".encode())
    own = getattr(data, "fingerprint", None)
    name = own() if callable(own) else None
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(f"data: its fingerprint() returned {shorten(name)}; expected a str, or None for unknown")
        digest.update(b"fingerprint\0" + name.encode("utf-8", "surrogatepass"))
    elif isinstance(data, range):
        digest.update(repr(data).encode())
    elif isinstance(data, np.ndarray) and not data.dtype.hasobject and size <= EXACT_ITEMS:
        digest.update(f"{data.dtype.str} {data.shape}".encode())
        digest.update(np.ascontiguousarray(data).view(np.uint8).data)
    elif size <= (0 if isinstance(data, Source) else EXACT_ITEMS):
        for first in range(0, size, _RUN):
            digest.update(_encode(data, range(first, min(first + _RUN, size))))
    else:
        wanted = SAMPLED_OF_A_SOURCE if isinstance(data, Source) else SAMPLED_ITEMS
        sample = np.linspace(0, size - 1, min(size, wanted)).astype(np.int64).tolist()
        for first in range(0, len(sample), _RUN):
            digest.update(_encode(data, sample[first : first + _RUN]))
    return digest.hexdigest()


def files_fingerprint(
    paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str], content: bool = False
) -> str:
    """The identity of files: of each, in this order, its path within ``root``, its size and when it was last changed.

    Where ``root`` lies does not count. A file that cannot be looked at counts as such: reading it is what fails. Two
    hundred thousand files take half a second.

    Args:
        paths: The files, relative to ``root`` or below it.
        root: Their folder.
        content: Read the files and name them by their content instead of the time: a copy is then the same data.

    Returns:
        32 hexadecimal digits.
    """
    digest = xxhash.xxh3_128(b"content" if content else b"size and time")
    folder = os.path.join(os.fspath(root), "")  # noqa: PTH118  a prefix that ends with a separator
    for given in paths:
        path = os.fspath(given)
        full = path if path.startswith(folder) else folder + path
        try:
            status = os.stat(full)  # noqa: PTH116  three times as fast as Path, once a file
            told = _content_digest(full) if content else str(status.st_mtime_ns)
            told = f"{status.st_size} {told}"
        except OSError:
            told = "unreadable"
        digest.update(f"{full[len(folder) :]}\0{told}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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

    def fingerprint(self) -> str:
        """The identity of the source and of the items."""
        return f"{self._source()} {data_digest(self._items)}"


def _content_digest(path: str) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:  # noqa: PTH123  as above
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _encode(data: Sequence[Any], indices: Sequence[int]) -> bytes:
    items = [data[index] for index in indices]
    try:
        return _dump(items)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError):
        for index, item in zip(indices, items, strict=True):
            try:
                _dump(item)
            except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError) as error:
                raise TypeError(f"data: item {index} ({shorten(item)}) cannot be pickled: {error}") from error
        raise


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True  # no memo: see the module's docstring
    pickler.dump(value)
    return buffer.getvalue()
