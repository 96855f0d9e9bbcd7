"""``verify``: find everything that is wrong with a cache, and with ``repair`` drop what is bad so that it loads anew.

Promise: every entry is read. What is found is returned, nothing is printed, nothing is executed. Without ``repair``
nothing is changed. With it everything is read first; then only files of the format are changed, only while no run uses
the cache, and nothing at all where anything could not be read: that is not bad, but not known to be good either. (A
damaged index is set aside at once, as reading needs it, and kept then.) What is foreign stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from hydrax_core.cache.admin.reading import check_rows, fault_of
from hydrax_core.cache.admin.survey import Survey, exclusive_lock, in_use, readonly_index
from hydrax_core.cache.format.arrays import HEADER_BYTES, ArrayFile
from hydrax_core.cache.format.folder import INDEX, INDEX_SIDE_FILES, MANIFEST, OLD_INDEX, open_regular, require_cache
from hydrax_core.cache.index.index import Index
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hydrax_core.cache.format.manifest import Manifest
    from hydrax_core.cache.store.locks import FolderLock

__all__ = ["Finding", "FindingKind", "verify"]

FindingKind: TypeAlias = Literal[
    "corrupt", "cut", "missing", "unreadable", "unfinished", "orphaned", "foreign", "stale"
]

_EMPTY: Final = "it is empty"
_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 1 << 20
"""Numbers of entries looked at together, however many a manifest announces."""
_DETAILS: Final = {
    "corrupt": "wrong checksum",
    "cut": "a file ends before it",
    "missing": "a file is missing or no plain file",
    "unreadable": "it cannot be read just now",
}
_LEFT_ALONE: Final = {"foreign", "unreadable"}


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


@dataclass(slots=True)
class _Epoch:
    """What is known of one content epoch; entries by number, in order."""

    number: int
    rows: array[int] = field(default_factory=lambda: array("q"))
    bad: list[int] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    faulty: bool = False


@dataclass(frozen=True, slots=True)
class _Scope:
    found: Survey
    repair: bool
    settled: bool  # no run writes, so what has no row will not get one
    progress: Callable[[int, int], None] | None
    on_entry: Callable[[int, int], None] | None
    epochs: list[_Epoch] = field(default_factory=list)


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
        repair: Remove bad entries, leftovers and orphans, when everything has been read; no run may use the cache
            meanwhile. Where a finding is ``"unreadable"``, nothing is removed.
        progress: Called with the bytes read and the bytes to be read.
        on_entry: Called with content epoch and number of each entry that has been read, in their order; without
            ``repair`` what is wrong with it has been yielded by then.

    Raises:
        NotACacheError: There is no cache.
        CacheBusyError: It is to be repaired, and a run uses it.
        CacheError: It cannot be read; or it is to be repaired, and cannot be written; or it is of a later version.
    """
    folder = require_cache(path)
    lock = exclusive_lock(folder) if repair else None
    try:
        scope = _Scope(Survey(folder), repair, repair or not in_use(folder), progress, on_entry)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return _findings(scope) if lock is None else _repair(lock, scope)


def _repair(lock: FolderLock, scope: _Scope) -> Iterator[Finding]:
    with contextlib.closing(lock), contextlib.closing(scope.found):
        findings = list(_findings(scope))
        if any(finding.what == "unreadable" for finding in findings):
            yield from findings
            return
        try:
            _mend(scope)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"{scope.found.path}: not everything could be repaired: {error}") from error
        for finding in findings:
            yield replace(finding, repaired=finding.what not in _LEFT_ALONE and finding.where != MANIFEST)


def _mend(scope: _Scope) -> None:
    found = scope.found
    found.require_current()
    bad = [(epoch.number, number) for epoch in scope.epochs for number in epoch.bad]
    if bad:
        with contextlib.closing(Index(found.path, writable=True, alone=contextlib.nullcontext)) as index:
            if not index.remove(bad):
                raise CacheError(f"{found.path}: its index cannot be written, so nothing is repaired")
    for name in (*found.leftovers, *INDEX_SIDE_FILES, OLD_INDEX):  # also what SQLite had no use for
        found.remove(name)
    seen = set()
    for epoch in scope.epochs:
        if len(epoch.bad) < len(epoch.rows):
            seen.add(epoch.number)
            if not epoch.faulty:
                continue
            freed = {number for number in epoch.bad if 0 <= number < found.files[0].entries} | epoch.unfinished
            found.mend_epoch(epoch.number, sorted(freed))
    if found.manifest is not None:
        for number in found.epochs.keys() - seen:
            found.remove_epoch(number)


def _findings(scope: _Scope) -> Iterator[Finding]:
    with contextlib.closing(scope.found) if not scope.repair else contextlib.nullcontext():
        found = scope.found
        yield from _folder_findings(scope)
        index, problem = _open_index(scope)
        if index is None and problem:
            what: FindingKind = "missing" if found.status(INDEX) is None else "unreadable"
            yield Finding(what, INDEX, found.modified(INDEX), problem)
            if what == "unreadable":
                return
        elif index is not None:
            with contextlib.closing(index):
                yield from _index_findings(scope, index, problem)
                if found.manifest is not None:
                    yield from _entry_findings(scope, found.manifest, index)
                if index.unreadable:
                    yield Finding("unreadable", INDEX, found.modified(INDEX), index.unreadable)
                    return
        yield from _leftover_findings(scope)


def _folder_findings(scope: _Scope) -> Iterator[Finding]:
    found = scope.found
    if found.manifest is None:
        detail = "it is written anew by the next run that uses the cache; until then entries cannot be checked"
        what: FindingKind = "corrupt" if found.damage else "missing"
        yield Finding(what, MANIFEST, found.modified(MANIFEST), f"{found.damage or 'it is missing'}; {detail}")
    for name in found.foreign:
        yield Finding("foreign", name, found.modified(name), "not of this format; left alone")
    if scope.settled:
        for name in found.leftovers:
            since = found.modified(name)
            if since is not None:  # else a journal that SQLite has played back by now
                yield Finding("unfinished", name, since, "a killed writer left it")


def _open_index(scope: _Scope) -> tuple[Index | None, str]:
    found = scope.found
    if not found.needs_index:
        return None, ""
    status = found.status(INDEX)
    if not scope.repair or status is None:
        return readonly_index(found.path)
    found.require_current()
    try:
        # SQLite takes an empty file for a new one, and makes a sound index of it.
        problem = "" if status.st_size else _EMPTY
        return Index(found.path, writable=True, alone=contextlib.nullcontext), problem
    except (OSError, sqlite3.Error) as error:
        return None, str(error)


def _index_findings(scope: _Scope, index: Index, problem: str) -> Iterator[Finding]:
    problem = problem or index.damage or index.check()
    if problem:
        yield Finding("corrupt", INDEX, scope.found.modified(INDEX), problem)
        if scope.repair and not index.damage and problem != _EMPTY:
            index.mend(problem)


def _entry_findings(scope: _Scope, manifest: Manifest, index: Index) -> Iterator[Finding]:
    files = scope.found.files
    entry_bytes = sum(file.entry_bytes for file in files)
    total = entry_bytes * sum(count.entries for count in index.counts())
    done = 0
    epoch: _Epoch | None = None
    for row, fault in check_rows(scope.found.path, files, manifest.identity_digest(), index.rows()):
        if epoch is None or row.epoch != epoch.number:
            if epoch is not None:
                yield from _noted(epoch, _epoch_findings(scope, epoch))
            epoch = _Epoch(row.epoch)
            scope.epochs.append(epoch)
        epoch.rows.append(row.number)
        if fault:
            assert fault != "unchecked"
            epoch.bad.append(row.number)
            where = _place(manifest, row.epoch, row.number)
            yield Finding(fault, where, row.created or None, _DETAILS[fault], row.epoch, row.number)
        done += entry_bytes
        if scope.progress is not None:
            scope.progress(done, total)
        if scope.on_entry is not None:
            scope.on_entry(row.epoch, row.number)
    if epoch is not None:
        yield from _noted(epoch, _epoch_findings(scope, epoch))


def _noted(epoch: _Epoch, findings: Iterator[Finding]) -> Iterator[Finding]:
    epoch.faulty = bool(epoch.bad)
    for finding in findings:
        epoch.faulty = True
        yield finding


def _epoch_findings(scope: _Scope, epoch: _Epoch) -> Iterator[Finding]:
    """What is wrong with the files of an epoch, apart from the entries that the index names."""
    found, manifest = scope.found, scope.found.manifest
    assert manifest is not None
    for file in found.files:
        name = f"epoch-{epoch.number}/{file.file_name}"
        since = found.modified(name)
        try:
            with contextlib.ExitStack() as opened:
                within = found.open_epoch(epoch.number)
                opened.callback(os.close, within)
                descriptor = open_regular(file.file_name, os.O_RDONLY, within=within)
                opened.callback(os.close, descriptor)
                size = os.fstat(descriptor).st_size
                if size != file.size:
                    yield Finding("cut" if size < file.size else "corrupt", name, since, f"{size} bytes of {file.size}")
                if os.pread(descriptor, HEADER_BYTES, 0) != file.header:
                    yield Finding("corrupt", name, since, "its header")
                if scope.settled:
                    for number in _unfinished(descriptor, file, epoch):
                        where = _place(manifest, epoch.number, number)
                        epoch.unfinished.add(number)  # once an entry, not once an array
                        yield Finding("unfinished", where, since, "data without a row", epoch.number, number)
        except OSError as error:
            fault = fault_of(error)
            yield Finding("missing" if fault == "missing" else "unreadable", name, since, error.strerror or str(error))


def _unfinished(descriptor: int, file: ArrayFile, epoch: _Epoch) -> Iterator[int]:
    """Entries that have data and no row."""
    known = np.frombuffer(epoch.rows, np.int64)
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
        end = (hole - 1 - HEADER_BYTES) // file.entry_bytes + 1
        for first in range((position - HEADER_BYTES) // file.entry_bytes, end, _AT_ONCE):
            last = min(first + _AT_ONCE, end)
            there = known[np.searchsorted(known, first) : np.searchsorted(known, last)]
            for number in np.setdiff1d(np.arange(first, last), there, assume_unique=True).tolist():
                begin, stop = max(file.offset(number), position), min(file.offset(number + 1), hole)
                if number not in epoch.unfinished and _has_data(descriptor, begin, stop):
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


def _leftover_findings(scope: _Scope) -> Iterator[Finding]:
    found = scope.found
    if found.status(OLD_INDEX) is not None:
        yield Finding("orphaned", OLD_INDEX, found.modified(OLD_INDEX), "a damaged index that was set aside")
    if found.manifest is not None and scope.settled:
        seen = {epoch.number for epoch in scope.epochs}
        for epoch, names in found.epochs.items():
            for name in names if epoch not in seen else ():
                yield Finding("orphaned", name, found.modified(name), "the index has no entry in it")


def _place(manifest: Manifest, epoch: int, number: int) -> str:
    return f"epoch {epoch}, {manifest.cache_by} {number}"
