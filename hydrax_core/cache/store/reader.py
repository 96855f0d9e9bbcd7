"""Finding and checking entries, and the mappings that they are read from.

Promise: an entry is checked before its first use and whenever its files were mapped anew. One that fails is
forgotten, so that it is loaded and written again. The process's own memory takes one byte an entry of the epochs used
last.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hydrax_core.cache.format.arrays import ArrayFile, EpochMap
from hydrax_core.cache.format.entry import entry_checksum, unseal
from hydrax_core.cache.format.folder import is_files_fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hydrax_core.cache.index.index import Index, IndexRow

__all__ = ["EntryReader", "Found", "FoundMany"]

_log = logging.getLogger("hydrax")

_EPOCHS_KEPT: Final = 4
_ATTEMPTS: Final = 3
_CUT: Final = "its file is cut"
_UNCHECKED, _PLAIN, _WITH_ADDITIONAL, _BAD = 0, 1, 2, 3
"""``_BAD`` where nothing can be written, so that the entry stays as it is: it is found and counted once."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a checked entry lies.

    Attributes:
        has_additional: Whether the index holds additional data for it.
    """

    files: EpochMap
    has_additional: bool


@dataclass(frozen=True, slots=True)
class FoundMany:
    """Where checked entries of one epoch lie.

    Attributes:
        files: The mapped files; ``None`` where no entry is there.
        has_additional: For which of them the index holds additional data, bool.
    """

    files: EpochMap | None
    there: np.ndarray[Any, np.dtype[np.bool_]]
    has_additional: np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class _Epoch:
    files: EpochMap
    states: np.ndarray[Any, np.dtype[np.uint8]]


class EntryReader:
    """Reads entries of one cache; any thread may call it.

    Args:
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
        self._warned = False
        self.corrupt = 0

    def find(self, epoch: int, number: int) -> Found | None:
        """A checked entry; ``None`` where there is none, or a bad one, which is then forgotten."""
        opened = self._open(epoch, create=False)
        if opened is not None and opened.states[number] == _BAD:
            return None
        if opened is not None and opened.states[number] and opened.files.holds(number):
            return Found(opened.files, bool(opened.states[number] == _WITH_ADDITIONAL))
        row = self._row(epoch, number)
        return None if row is None else self._check(row)

    def find_many(self, epoch: int, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> FoundMany:
        """Checked entries of one epoch, as ``find`` does it."""
        for _ in range(_ATTEMPTS):
            opened = self._open(epoch, create=False)
            unchecked = numbers if opened is None else numbers[opened.states[numbers] == _UNCHECKED]
            if unchecked.size and self._index is not None:
                for row in self._index.get_many(epoch, unchecked.tolist()).values():
                    self._check(row)
                opened = self._open(epoch, create=False)
            if opened is None:
                break
            states = opened.states[numbers]
            good = (states != _UNCHECKED) & (states != _BAD)
            there = numbers[good]
            if not there.size or opened.files.holds(int(there.max())):
                return FoundMany(opened.files, good, states == _WITH_ADDITIONAL)
            self.drop(epoch)  # a file was cut since
        nothing = np.zeros(numbers.shape, np.bool_)
        return FoundMany(None, nothing, nothing)

    def prepare(self, epoch: int, number: int) -> bool:
        """Have a checked entry in memory soon, without waiting; ``False`` where it is yet to be checked."""
        opened = self._open(epoch, create=False)
        if opened is None or not opened.states[number]:
            return False
        opened.files.read_ahead(number)
        return True

    def all_checked(self, epoch: int, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
        opened = self._open(epoch, create=False)
        return opened is not None and bool(opened.states[numbers].all())

    def additional(self, epoch: int, numbers: Sequence[int]) -> dict[int, bytes]:
        """The encoded additional data of entries, by number; where it is gone or bad, there is none."""
        rows = {} if self._index is None else self._index.get_many(epoch, numbers)
        found = {}
        for number, row in rows.items():
            data = None if row.additional is None else unseal(self._identity, epoch, number, row.additional)
            if data is None:
                self.forget(epoch, number, "its additional data is damaged")
            else:
                found[number] = data
        return found

    def forget(self, epoch: int, number: int, why: str) -> None:
        """Give up a bad entry: count it, log the first one, remove it."""
        with self._lock:
            self.corrupt += 1
            first = self.corrupt == 1
            opened = self._epochs.get(epoch)
            if opened is not None:
                opened.states[number] = _UNCHECKED if self._writable else _BAD
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

    def close(self) -> None:
        """Let go of all mappings; those under arrays served live on."""
        with self._lock:
            self._epochs.clear()

    def drop(self, epoch: int) -> None:
        """Map the files of an epoch anew at their next use, and check their entries again."""
        with self._lock:
            self._epochs.pop(epoch, None)

    def _row(self, epoch: int, number: int) -> IndexRow | None:
        return None if self._index is None else self._index.get(epoch, number)

    def _check(self, row: IndexRow) -> Found | None:
        why = ""
        for _ in range(_ATTEMPTS):
            try:
                opened = self._open(row.epoch, create=True)
            except OSError as error:
                if not is_files_fault(error):
                    self._cannot_open(error)
                    return None
                opened, why = None, f"its file is missing or no plain file ({error})"
            if opened is not None:
                fault = self._fault(row, opened.files)
                if fault is None:
                    return None
                why = fault
                if not why:
                    has_additional = row.additional is not None
                    opened.states[row.number] = _WITH_ADDITIONAL if has_additional else _PLAIN
                    return Found(opened.files, has_additional)
                if not opened.files.is_current():
                    self.drop(row.epoch)
                    continue
            again = self._row(row.epoch, row.number)
            if again is None:
                return None
            if again == row:
                break
            row = again  # another process has written it anew meanwhile
        self.forget(row.epoch, row.number, why)
        return None

    def _fault(self, row: IndexRow, files: EpochMap) -> str | None:
        """What is wrong with an entry, ``""`` for nothing, ``None`` where it cannot be read just now."""
        if not files.holds(row.number):
            return _CUT
        try:
            files.read(row.number)
        except OSError as error:
            if not files.holds(row.number):
                return _CUT
            self._cannot_open(error)
            return None
        parts = files.parts(row.number)
        checksum = entry_checksum(self._identity, row.epoch, row.number, row.created, row.size, row.additional, parts)
        return "" if checksum == row.checksum else "its checksum does not fit"

    def _open(self, epoch: int, *, create: bool) -> _Epoch | None:
        with self._lock:
            opened = self._epochs.get(epoch)
            if opened is not None:
                self._epochs.move_to_end(epoch)
            elif create:
                files = EpochMap(self._folder, epoch, self._files)
                opened = self._epochs[epoch] = _Epoch(files, np.zeros(self._files[0].entries, np.uint8))
                while len(self._epochs) > _EPOCHS_KEPT:
                    self._epochs.popitem(last=False)
            return opened

    def _cannot_open(self, error: OSError) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            _log.warning("%s: its entries cannot be read for now: %s", self._folder, error)
