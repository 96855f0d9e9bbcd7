"""``verify``: find everything that is wrong with a cache, and with ``repair`` drop what is bad so that it loads anew.

Promise: every entry is read. What is found is returned, nothing is printed, nothing is executed. Without ``repair``
nothing is changed; with it only files of the format are, and only while nobody uses the cache. What is foreign stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from hydrax_core.cache.admin.check import check_rows
from hydrax_core.cache.admin.removal import exclusive_lock, free_entries, remove_epoch
from hydrax_core.cache.admin.survey import Survey, epoch_paths, in_use, needs_index, readonly_index, survey
from hydrax_core.cache.format.arrays import HEADER_BYTES, ArrayFile, EpochWriter
from hydrax_core.cache.format.folder import (
    INDEX,
    INDEX_SIDE_FILES,
    MANIFEST,
    OLD_INDEX,
    epoch_folder,
    open_within,
    require_cache,
)
from hydrax_core.cache.index.index import Index
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hydrax_core.cache.format.manifest import Manifest
    from hydrax_core.cache.store.locks import FolderLock

__all__ = ["Finding", "FindingKind", "verify"]

FindingKind: TypeAlias = Literal["corrupt", "cut", "missing", "unfinished", "orphaned", "foreign", "stale"]

_EMPTY: Final = "it is empty"
_CHUNK: Final = 1 << 20
_UNKNOWN, _GOOD, _BAD, _UNFINISHED = range(4)
_DETAILS: Final = {
    "corrupt": "wrong checksum",
    "cut": "a file ends before it",
    "missing": "a file is missing or no plain file",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        what: The kind, see ``docs/cache.md``.
        where: File, or epoch and entry.
        since: Until when it was known to be good, or when the file was last modified; seconds since 1970.
        detail: What is wrong, in words.
        epoch: Content epoch of the entry; ``None`` for files.
        number: Number of the entry; ``None`` for files.
        repaired: Whether it has been mended.
    """

    what: FindingKind
    where: str
    since: float | None
    detail: str
    epoch: int | None = None
    number: int | None = None
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class _Scope:
    folder: Path
    found: Survey
    repair: bool
    settled: bool  # nobody writes, so what has no row will not get one
    progress: Callable[[int, int], None] | None
    on_entry: Callable[[int, int], None] | None


def verify(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_entry: Callable[[int, int], None] | None = None,
) -> Iterator[Finding]:
    """Read a whole cache and yield what is wrong with it.

    Args:
        path: The cache's folder.
        repair: Remove bad entries, leftovers and orphans; nobody may use the cache meanwhile.
        progress: Called with the bytes read and the bytes to be read.
        on_entry: Called with content epoch and number of each entry that has been read, in their order; what is wrong
            with it has been yielded by then.

    Raises:
        NotACacheError: There is no cache.
        CacheBusyError: It is to be repaired, and a run uses it.
        CacheError: It is to be repaired, and cannot be written; or it is of a later version.
    """
    folder = require_cache(path)
    if not repair:
        settled = not in_use(folder)
        return _findings(_Scope(folder, survey(folder), False, settled, progress, on_entry))
    lock = exclusive_lock(folder)
    try:
        return _repair(lock, _Scope(folder, survey(folder), True, True, progress, on_entry))
    except BaseException:
        lock.close()
        raise


def _repair(lock: FolderLock, scope: _Scope) -> Iterator[Finding]:
    with contextlib.closing(lock):
        for finding in _findings(scope):
            yield replace(finding, repaired=finding.what != "foreign" and finding.where != MANIFEST)


def _findings(scope: _Scope) -> Iterator[Finding]:
    yield from _folder_findings(scope)
    index, problem = _index(scope)
    seen: set[int] = set()
    if index is None and problem:
        there = os.path.lexists(scope.folder / INDEX)
        yield Finding("corrupt" if there else "missing", INDEX, _modified(scope.folder / INDEX), problem)
    elif index is not None:
        with contextlib.closing(index):
            problem = problem or index.damage or index.check()
            if problem:
                yield Finding("corrupt", INDEX, _modified(scope.folder / INDEX), problem)
                if scope.repair and not index.damage and problem != _EMPTY:
                    index.mend(problem)
            if scope.found.manifest is not None:
                yield from _entry_findings(scope, scope.found.manifest, index, seen)
    if scope.repair:
        for name in INDEX_SIDE_FILES:  # what SQLite had no use for
            (scope.folder / name).unlink(missing_ok=True)
    yield from _leftover_findings(scope, seen)


def _folder_findings(scope: _Scope) -> Iterator[Finding]:
    found, folder = scope.found, scope.folder
    if found.manifest is None:
        detail = "it is written anew by the next run that uses the cache; until then entries cannot be checked"
        what: FindingKind = "corrupt" if found.damage else "missing"
        yield Finding(what, MANIFEST, _modified(folder / MANIFEST), f"{found.damage or 'it is missing'}; {detail}")
    for name in found.foreign:
        yield Finding("foreign", name, _modified(folder / name), "not of this format; left alone")
    if scope.settled:
        for name in found.leftovers:
            since = _modified(folder / name)
            if since is None:
                continue  # a journal that SQLite has played back by now
            yield Finding("unfinished", name, since, "a killed writer left it")
            if scope.repair and name not in INDEX_SIDE_FILES:
                (folder / name).unlink(missing_ok=True)


def _index(scope: _Scope) -> tuple[Index | None, str]:
    if not needs_index(scope.folder, scope.found):
        return None, ""
    if not scope.repair:
        return readonly_index(scope.folder)
    if not os.path.lexists(scope.folder / INDEX):
        return None, "it is missing"
    # SQLite takes an empty file for a new one, and makes a sound index of it.
    problem = "" if (scope.folder / INDEX).lstat().st_size else _EMPTY
    return Index(scope.folder, writable=True, alone=contextlib.nullcontext), problem


def _entry_findings(scope: _Scope, manifest: Manifest, index: Index, seen: set[int]) -> Iterator[Finding]:
    """Check all entries; the epochs that have any are added to ``seen``."""
    files = scope.found.files
    entry_bytes = sum(file.entry_bytes for file in files)
    total = entry_bytes * sum(count.entries for count in index.counts())
    done = 0
    epoch: _Epoch | None = None
    for row, fault in check_rows(scope.folder, files, manifest.identity_digest(), index.rows()):
        if epoch is None or row.epoch != epoch.number:
            if epoch is not None:
                yield from _epoch_findings(scope, epoch, index)
            epoch = _Epoch(row.epoch, _states(scope.folder, manifest.entries), [])
            seen.add(row.epoch)
        if 0 <= row.number < manifest.entries:
            epoch.states[row.number] = _BAD if fault else _GOOD
        if fault:
            epoch.bad.append((row.epoch, row.number))
            where = _place(scope, row.epoch, row.number)
            yield Finding(fault, where, row.created or None, _DETAILS[fault], row.epoch, row.number)
        done += entry_bytes
        if scope.progress is not None:
            scope.progress(done, total)
        if scope.on_entry is not None:
            scope.on_entry(row.epoch, row.number)
    if epoch is not None:
        yield from _epoch_findings(scope, epoch, index)


def _states(folder: Path, entries: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        return np.zeros(entries, np.uint8)
    except MemoryError as error:
        raise CacheError(f"{folder}: {MANIFEST} tells of {entries:,} entries, which do not fit into memory") from error


@dataclass(frozen=True, slots=True)
class _Epoch:
    number: int
    states: np.ndarray[Any, np.dtype[np.uint8]]
    bad: list[tuple[int, int]]


def _epoch_findings(scope: _Scope, epoch: _Epoch, index: Index) -> Iterator[Finding]:
    """What is wrong with the files of an epoch, apart from the entries that the index names."""
    for file in scope.found.files:
        name = f"{epoch_folder(epoch.number)}/{file.file_name}"
        since = _modified(scope.folder / name)
        try:
            descriptor = open_within(scope.folder, epoch.number, file.file_name, os.O_RDONLY)
        except OSError as error:
            yield Finding("missing", name, since, error.strerror or str(error))
            continue
        try:
            size = os.fstat(descriptor).st_size
            if size != file.size:
                yield Finding("cut" if size < file.size else "corrupt", name, since, f"{size} bytes of {file.size}")
            if os.pread(descriptor, HEADER_BYTES, 0) != file.header:
                yield Finding("corrupt", name, since, "its header")
            if scope.settled:
                for number in _unfinished(descriptor, file, epoch.states):
                    where = _place(scope, epoch.number, number)
                    epoch.states[number] = _UNFINISHED  # once an entry, not once an array
                    yield Finding("unfinished", where, since, "data without a row", epoch.number, number)
        finally:
            os.close(descriptor)
    if scope.repair:
        index.remove(epoch.bad)
        if _GOOD in epoch.states:
            _mend_files(scope, epoch)
        else:
            remove_epoch(scope.folder, scope.found, epoch.number)


def _unfinished(descriptor: int, file: ArrayFile, states: np.ndarray[Any, np.dtype[np.uint8]]) -> Iterator[int]:
    """Entries that have data and no row."""
    position = HEADER_BYTES
    while True:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
            hole = min(os.lseek(descriptor, position, os.SEEK_HOLE), file.size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes from here on
                return
            raise
        if position >= file.size:
            return
        first = (position - HEADER_BYTES) // file.entry_bytes
        last = (hole - 1 - HEADER_BYTES) // file.entry_bytes
        for number in (np.flatnonzero(states[first : last + 1] == _UNKNOWN) + first).tolist():
            start, end = max(file.offset(number), position), min(file.offset(number + 1), hole)
            if _has_data(descriptor, start, end):
                yield number
        position = hole


def _has_data(descriptor: int, start: int, end: int) -> bool:
    while start < end:
        part = os.pread(descriptor, min(_CHUNK, end - start), start)
        if not part:
            return False
        if any(part):
            return True
        start += len(part)
    return False


def _mend_files(scope: _Scope, epoch: _Epoch) -> None:
    files = scope.found.files
    EpochWriter(scope.folder, epoch.number, files).close()  # restores missing files, lengths and headers
    numbers = np.flatnonzero((epoch.states == _BAD) | (epoch.states == _UNFINISHED)).tolist()
    free_entries(scope.folder, files, epoch.number, numbers)


def _leftover_findings(scope: _Scope, seen: set[int]) -> Iterator[Finding]:
    """Whole files that no row refers to."""
    path = scope.folder / OLD_INDEX
    if os.path.lexists(path):
        yield Finding("orphaned", OLD_INDEX, _modified(path), "a damaged index that was set aside")
        if scope.repair:
            path.unlink(missing_ok=True)
    if scope.found.manifest is None or not scope.settled:
        return
    for epoch in scope.found.epochs:
        if epoch not in seen:
            for path in epoch_paths(scope.folder, scope.found, epoch):
                name = f"{path.parent.name}/{path.name}"
                yield Finding("orphaned", name, _modified(path), "the index has no entry in it")
            if scope.repair:
                remove_epoch(scope.folder, scope.found, epoch)


def _place(scope: _Scope, epoch: int, number: int) -> str:
    manifest = scope.found.manifest
    return f"epoch {epoch}, {'entry' if manifest is None else manifest.cache_by} {number}"


def _modified(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None
