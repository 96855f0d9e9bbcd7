"""Finding and checking entries, and the mappings that they are read from.

Promise: an entry is checked before its first use and whenever its files were mapped anew. One that fails is forgotten, so
that it is loaded and written again. The process's own memory takes one byte an entry of the epochs used last.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hydrax_core.cache.arrays import ArrayFile, EpochMap
from hydrax_core.cache.checksum import entry_checksum, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hydrax_core.cache.index import Index, IndexRow

__all__ = ["Found", "Reader"]

_log = logging.getLogger(__name__)

_EPOCHS_KEPT: Final = 4
_ATTEMPTS: Final = 3
_UNCHECKED, _PLAIN, _WITH_ADDITIONAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Found:
    """Where a checked entry lies.

    Attributes:
        files: The mapped files of its epoch.
        has_additional: Whether the index holds additional data for it.
    """

    files: EpochMap
    has_additional: bool


@dataclass(frozen=True, slots=True)
class _Epoch:
    files: EpochMap
    states: np.ndarray[Any, np.dtype[np.uint8]]


class Reader:
    """Reads entries of one cache; any thread may call it.

    Args:
        folder: The cache's folder.
        files: Its files.
        identity: Digest of its settings.
        index: Its index, ``None`` for a cache without entries.
        writable: Whether bad entries are removed from the index.
    """

    def __init__(
        self, folder: Path, files: Sequence[ArrayFile], identity: bytes, index: Index | None, *, writable: bool
    ) -> None:
        self._folder = folder
        self._files = files
        self._identity = identity
        self._index = index
        self._writable = writable
        self._lock = threading.Lock()
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self.corrupt = 0

    def find(self, epoch: int, number: int) -> Found | None:
        """A checked entry; ``None`` where there is none, or a bad one, which is then forgotten."""
        opened = self._open(epoch, create=False)
        if opened is not None and opened.states[number] and opened.files.holds(number):
            return Found(opened.files, bool(opened.states[number] == _WITH_ADDITIONAL))
        row = self._row(epoch, number)
        return None if row is None else self._check(row)

    def find_many(self, epoch: int, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[list[Found | None], Found | None]:
        """Checked entries of one epoch: each, and one that has the files of all that are there."""
        raise NotImplementedError

    def is_checked(self, epoch: int, number: int) -> bool:
        """Whether an entry needs no check any more."""
        opened = self._open(epoch, create=False)
        return opened is not None and bool(opened.states[number])

    def additional(self, epoch: int, number: int) -> bytes | None:
        """The encoded additional data of an entry, ``None`` where it is gone or damaged."""
        row = self._row(epoch, number)
        if row is None or row.additional is None:
            return None
        return unseal(self._identity, epoch, number, row.additional)

    def forget(self, epoch: int, number: int, why: str) -> None:
        """Give up a bad entry: count it, say so the first time, remove it."""
        with self._lock:
            self.corrupt += 1
            first = self.corrupt == 1
            opened = self._epochs.get(epoch)
            if opened is not None:
                opened.states[number] = _UNCHECKED
        _log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s: entry %d of epoch %d is not served, %s%s",
            self._folder,
            number,
            epoch,
            why,
            "; further ones are counted in silence" if first else "",
        )
        if self._writable and self._index is not None:
            self._index.remove([(epoch, number)])

    def drop(self, epoch: int) -> None:
        """Map the files of an epoch anew at their next use, and check their entries again."""
        with self._lock:
            self._epochs.pop(epoch, None)
