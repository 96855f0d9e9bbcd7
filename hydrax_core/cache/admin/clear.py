"""``clear``: remove entries of a cache, or all of it.

Promise: only files of the format are removed, only while no run uses the cache, and no link is followed. Killed in
the middle, it leaves a cache that serves nothing wrong. Entries are removed as corrupt only where all could be read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrax_core.cache.admin.reading import CheckedRow, check_rows
from hydrax_core.cache.admin.survey import Survey, exclusive_lock, readonly_index
from hydrax_core.cache.format.folder import INDEX, INDEX_SIDE_FILES, LOCK, MANIFEST, OLD_INDEX, require_cache
from hydrax_core.cache.index.index import Index
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hydrax_core.cache.index.index import IndexRow

__all__ = ["Cleared", "clear"]


@dataclass(frozen=True, slots=True)
class Cleared:
    """What went, or would go.

    Attributes:
        entries: Entries.
        files: Whole files, relative to the folder.
        freed_bytes: Room on the disk that this frees: exact for whole files, the size of the arrays for entries.
    """

    entries: int
    files: tuple[str, ...]
    freed_bytes: int


def clear(
    path: str | os.PathLike[str],
    *,
    epoch: int | None = None,
    older_than: float | None = None,
    corrupt: bool = False,
    dry_run: bool = False,
    on_read: Callable[[int], None] | None = None,
) -> Cleared:
    """Remove all of a cache, or the entries that fit every condition given.

    Args:
        path: The cache's folder; it stays, empty of the cache's files.
        epoch: Only entries of this content epoch.
        older_than: Only entries written more than this many seconds ago.
        corrupt: Only entries that fail their checksum; all others are read, too.
        dry_run: Change nothing.
        on_read: With ``corrupt``, called after each entry with the number of entries read so far. What it raises ends
            the reading, before anything is removed.

    Raises:
        NotACacheError: There is no cache.
        CacheBusyError: A run uses it.
        CacheError: It cannot be read or changed; or there are conditions and its manifest or index is damaged; or an
            entry that may be corrupt cannot be read. Then nothing is removed.
    """
    folder = require_cache(path)
    everything = epoch is None and older_than is None and not corrupt
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(contextlib.closing(exclusive_lock(folder)))
        found = stack.enter_context(Survey(folder))
        try:
            if everything:
                return _clear_all(found, dry_run=dry_run)
            return _clear_some(found, _Conditions(epoch, older_than, corrupt, on_read), dry_run=dry_run)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"{folder}: not everything could be removed: {error}") from error


@dataclass(frozen=True, slots=True)
class _Conditions:
    epoch: int | None
    older_than: float | None
    corrupt: bool
    on_read: Callable[[int], None] | None


def _clear_all(found: Survey, *, dry_run: bool) -> Cleared:
    index, _ = readonly_index(found.path)
    entries = 0
    if index is not None:
        with contextlib.closing(index):
            entries = sum(count.entries for count in index.counts())
    # The index goes first, so that no row names what is gone; the manifest late, so that the rest is known as ours.
    first = [INDEX, *INDEX_SIDE_FILES, OLD_INDEX]
    last = [*(name for name in found.leftovers if name not in INDEX_SIDE_FILES), MANIFEST, LOCK]
    names = [*first, *(name for names in found.epochs.values() for name in names), *last]
    names = [name for name in names if found.status(name) is not None]
    freed = found.disk_bytes(*names)
    if not dry_run:
        found.require_current()
        for name in first:
            found.remove(name)
        for epoch in found.epochs:
            found.remove_epoch(epoch)
        for name in last:
            found.remove(name)
    return Cleared(entries, tuple(names), freed)


def _clear_some(found: Survey, conditions: _Conditions, *, dry_run: bool) -> Cleared:
    if found.manifest is None:
        raise CacheError(
            f"{found.path}: without a sound {MANIFEST} its entries cannot be told apart; clear it as a whole"
        )
    with contextlib.closing(_open_index(found.path, writable=not dry_run)) as index:
        chosen: dict[int, list[int]] = defaultdict(list)
        sizes: dict[int, int] = defaultdict(int)
        for row in _rows(found, index, conditions):
            chosen[row.epoch].append(row.number)
            sizes[row.epoch] += row.size
        counts = {count.epoch: count.entries for count in index.counts()}
        if index.unreadable:
            raise CacheError(f"{found.path}: its index cannot be read, so nothing is removed: {index.unreadable}")
        whole = [epoch for epoch, numbers in chosen.items() if len(numbers) == counts.get(epoch)]
        names = [name for epoch in whole for name in found.epochs.get(epoch, ())]
        freed = found.disk_bytes(*names) + sum(size for epoch, size in sizes.items() if epoch not in whole)
        if chosen and not dry_run:
            found.require_current()
            for epoch, numbers in chosen.items():
                if not index.remove([(epoch, number) for number in numbers]):
                    raise CacheError(f"{found.path}: its index cannot be written")
                if epoch not in found.epochs:
                    continue
                if epoch in whole:
                    found.remove_epoch(epoch)
                else:
                    good = [number for number in numbers if 0 <= number < found.manifest.entries]
                    found.mend_epoch(epoch, good)
            index.shrink()
    return Cleared(sum(map(len, chosen.values())), tuple(names), freed)


def _open_index(folder: Path, *, writable: bool) -> Index:
    if writable:
        index: Index | None = Index(folder, writable=True, alone=contextlib.nullcontext)
        problem = ""
    else:
        index, problem = readonly_index(folder)
    if index is None:
        raise CacheError(f"{folder}: its index cannot be read: {problem}")
    if index.damage:
        index.close()
        raise CacheError(f"{folder}: its index is damaged ({index.damage}); mend it: hydrax cache verify --repair")
    return index


def _rows(found: Survey, index: Index, conditions: _Conditions) -> Iterable[IndexRow]:
    assert found.manifest is not None
    newest = None if conditions.older_than is None else time.time() - conditions.older_than
    rows: Iterable[IndexRow] = (
        row
        for row in index.rows()
        if conditions.epoch in (None, row.epoch) and (newest is None or row.created < newest)
    )
    if not conditions.corrupt:
        return rows
    checked = check_rows(found.path, found.files, found.manifest.identity_digest(), rows)
    return _faulty(found.path, checked, conditions.on_read)


def _faulty(folder: Path, checked: Iterable[CheckedRow], on_read: Callable[[int], None] | None) -> Iterator[IndexRow]:
    for number, (row, fault) in enumerate(checked, 1):
        if on_read is not None:
            on_read(number)
        if fault == "unreadable":
            raise CacheError(
                f"{folder}: entry {row.number} of epoch {row.epoch} cannot be read just now, so nothing is "
                "removed; see hydrax cache verify"
            )
        if fault:
            yield row
