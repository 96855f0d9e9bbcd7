"""Data that is read where it is used: a source travels to each worker once, and then only indices do.

Promise: a source is used by one thread at a time in each process: every worker, thread or process, has a copy of its
own, made by pickling; ``batch.data`` and error texts use the one given. Nothing is read before a worker needs it.

A class that keeps files open leaves them out of its pickled state and opens them at the first read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["Items", "Source"]

D = TypeVar("D")


class Source(ABC, Generic[D]):
    """Items by index, read in the workers; give it to a ``DataGroup`` as ``data``.

    A subclass can be pickled, has a fixed length, and gives equal items for equal indices in every process.
    ``hydrax_core.testing.check_source`` tries that.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def __getitem__(self, index: int) -> D:
        """The item at ``index``, in ``range(len(self))``.

        Raises:
            IndexError: There is no such item.
        """

    def __getitems__(self, indices: Sequence[int]) -> list[D]:
        """Several items; a subclass that reads many at once faster than one by one overrides it."""
        return [self[index] for index in indices]

    def fingerprint(self) -> str | None:
        """What names the content of the data; equal only for equal data. ``None``: a sample of the items is read.

        It decides whether a cache or a saved state belongs to this data, so it changes when a file does: path within
        the root, size and time of change of every file, for example.
        """
        return None

    def __iter__(self) -> Iterator[D]:
        return (self[index] for index in range(len(self)))


class Items(Sequence[D]):
    """The items of one call of a batched loader, read when they are first used.

    A loader that knows its source reads ``items.indices`` from ``items.source`` its own way instead.
    """

    def __init__(self, source: Source[D], indices: npt.NDArray[np.int64]) -> None:
        self.source = source
        self.indices = indices
        self._items: list[D] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def read(self) -> list[D]:
        """All of them, in one call of the source.

        Raises:
            ValueError: The source gave another number of items than it was asked for.
        """
        if self._items is None:
            found = list(self.source.__getitems__(self.indices.tolist()))
            if len(found) != len(self.indices):
                raise ValueError(
                    f"{type(self.source).__name__}.__getitems__: expected {len(self.indices)} items, got {len(found)}"
                )
            self._items = found
        return self._items

    @overload
    def __getitem__(self, index: int) -> D: ...
    @overload
    def __getitem__(self, index: slice) -> list[D]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.read()[index]

    def __iter__(self) -> Iterator[D]:
        return iter(self.read())
