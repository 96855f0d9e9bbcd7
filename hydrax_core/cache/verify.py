"""``verify``: find everything that is wrong with a cache, and with ``repair`` drop what is bad so that it loads anew.

Promise: every entry is read. What is found is returned, nothing is printed, nothing is executed. Without ``repair`` nothing
is changed; with it only files of the format are, and only while nobody uses the cache. What is foreign stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from hydrax_core.cache.arrays import HEADER_BYTES, ArrayFile, EpochWriter, punch
from hydrax_core.cache.check import check_rows
from hydrax_core.cache.folder import INDEX, LOCK, MANIFEST, OLD_INDEX, epoch_folder, open_regular, require_cache
from hydrax_core.cache.index import Index
from hydrax_core.cache.locks import FolderLock
from hydrax_core.cache.survey import Survey, epoch_paths, is_used, readonly_index, survey
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hydrax_core.cache.manifest import Manifest

__all__ = ["Finding", "FindingKind", "verify"]

FindingKind: TypeAlias = Literal["corrupt", "cut", "missing", "unfinished", "orphaned", "foreign"]

_CHUNK: Final = 1 << 20


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


def verify(
    path: str | os.PathLike[str], *, repair: bool = False, progress: Callable[[int, int], None] | None = None
) -> Iterator[Finding]:
    """Read a whole cache and yield what is wrong with it.

    Args:
        path: The cache's folder.
        repair: Remove bad entries, leftovers and orphans; nobody may use the cache meanwhile.
        progress: Called with the bytes read and the bytes to be read.

    Raises:
        NotACacheError: There is no cache.
        CacheBusyError: It is to be repaired, and a run uses it.
        CacheError: It is to be repaired, and cannot be written; or it is of a later version.
    """
    folder = require_cache(path)
    if not repair:
        return _findings(_Scope(folder, survey(folder), repair=False, settled=not is_used(folder), progress=progress))
    lock = exclusive_lock(folder)
    try:
        return _repair(lock, _Scope(folder, survey(folder), repair=True, settled=True, progress=progress))
    except BaseException:
        lock.close()
        raise


def exclusive_lock(folder: Path) -> FolderLock:
    """Make sure that nobody uses a cache, until the lock is closed.

    Raises:
        CacheBusyError: Somebody does.
        CacheError: The folder cannot be written.
    """
    try:
        lock = FolderLock(folder, writable=True)
    except OSError as error:
        raise CacheError(f"{folder}: this cache cannot be changed: {error.strerror or error}") from error
    try:
        lock.exclude_use()
    except BaseException:
        lock.close()
        raise
    return lock


def _repair(lock: FolderLock, scope: _Scope) -> Iterator[Finding]:
    with contextlib.closing(lock):
        for finding in _findings(scope):
            yield replace(finding, repaired=finding.what != "foreign" and finding.where != MANIFEST)


def _findings(scope: _Scope) -> Iterator[Finding]:
    yield from _folder_findings(scope)
    manifest = scope.found.manifest
    index, problem = _index(scope)
    if index is None:
        if not scope.found.epochs and not os.path.lexists(scope.folder / INDEX):
            return  # a cache without entries
        what: FindingKind = "missing" if not os.path.lexists(scope.folder / INDEX) else "corrupt"
        yield Finding(what, INDEX, _modified(scope.folder / INDEX), problem)
    else:
        with contextlib.closing(index):
            problem = index.damage or index.check()
            if problem:
                yield Finding("corrupt", INDEX, _modified(scope.folder / INDEX), problem)
                if scope.repair and not index.damage:
                    index.mend(problem)
            if manifest is not None:
                yield from _entry_findings(scope, manifest, index)
    yield from _old_index(scope)
    if index is None and manifest is not None:
        yield from _orphans(scope, set())


def _folder_findings(scope: _Scope) -> Iterator[Finding]:
    found, folder = scope.found, scope.folder
    if found.manifest is None:
        detail = "it is written anew by the next run that uses the cache; until then entries cannot be checked"
        what: FindingKind = "corrupt" if found.damage else "missing"
        yield Finding(what, MANIFEST, _modified(folder / MANIFEST), f"{found.damage or 'it is missing'}; {detail}")
    for name in found.foreign:
        yield Finding("foreign", name, _modified(folder / name), "it is not of this format and is left alone")
    if scope.settled:
        for name in found.leftovers:
            since = _modified(folder / name)
            if since is None:
                continue  # a journal that SQLite has played back by now
            yield Finding("unfinished", name, since, "a killed writer left it")
            if scope.repair and not name.startswith(INDEX):
                (folder / name).unlink(missing_ok=True)


def _old_index(scope: _Scope) -> Iterator[Finding]:
    path = scope.folder / OLD_INDEX
    if os.path.lexists(path):
        yield Finding("orphaned", OLD_INDEX, _modified(path), "a damaged index that was set aside")
        if scope.repair:
            path.unlink(missing_ok=True)


def _index(scope: _Scope) -> tuple[Index | None, str]:
    if not scope.repair:
        return readonly_index(scope.folder)
    if not os.path.lexists(scope.folder / INDEX):
        return None, "it is missing"
    return Index(scope.folder, writable=True, alone=contextlib.nullcontext), ""
