"""The caches at a path, for the screens; the only file of these screens that touches the library.

Promise: a cache that is damaged, or that vanishes, becomes a text. Nothing is written but by ``verify`` with ``repair``
and by ``clear``; nothing is unpickled.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydrax_cli.inspect.cache_app.model.contents import Group, Key, Snapshot, VerifyProgress
from hydrax_cli.inspect.cache_app.model.listing import KeyList
from hydrax_cli.inspect.cache_app.model.views import record_of, rows_of, view_of
from hydrax_core.cache import CacheEntries, caches, clear, in_use, info, verify
from hydrax_core.errors import HydraxError, NotACacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydrax_cli.inspect.cache_app.model.contents import Conditions, Entries, Selection
    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.cache import CacheInfo, Cleared, EntryInfo, Finding, StoredEntry
    from hydrax_core.monitor import BatchRecord

__all__ = ["CacheSource"]

_REPORT_SECONDS: Final = 0.2
_MOST_ITEMS: Final = 64
_ITEMS_BYTES: Final = 32 << 20
_GLANCE_BYTES: Final = 4 << 20


class _StoppedError(Exception):
    """The user has seen enough."""


class CacheSource:
    """The cache at ``path``, or those in the folders right below it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: dict[Path, tuple[object, CacheEntries]] = {}
        self._lock = threading.Lock()

    # --- what there is

    def require(self) -> None:
        """Make sure that there is a cache at all."""
        caches(self._path)

    def load(self) -> Snapshot:
        try:
            return Snapshot(tuple(map(self._group, caches(self._path))))
        except (HydraxError, OSError) as error:
            return Snapshot((), _message(error))

    def _group(self, folder: Path) -> Group:
        writable = os.access(folder, os.W_OK)
        try:
            found = info(folder)
        except (HydraxError, OSError, sqlite3.Error) as error:
            return Group(folder, folder.name, None, _message(error).removeprefix(f"{folder}: "), writable)
        name = found.kind if found.group_index is None else f"{found.kind} {found.group_index}"
        return Group(folder, name, found, f"index: {found.problem}" if found.problem else "", writable)

    def stamp(self) -> object:
        """See ``CacheAccess``: times and sizes of the indexes, and who uses them."""
        try:
            folders = caches(self._path)
        except (NotACacheError, OSError):
            return None
        return tuple((folder, _stamp(folder), in_use(folder), os.access(folder, os.W_OK)) for folder in folders)

    def _entries(self, group: Group) -> CacheEntries:
        """The open cache of a group; opened anew once its index is another file."""
        stamp = _stamp(group.path)[0]
        with self._lock:
            known = self._opened.get(group.path)
            if known is not None and known[0] == stamp:
                return known[1]
            opened = CacheEntries(group.path)
            self._opened[group.path] = stamp, opened
        if known is not None:
            known[1].close()
        return opened

    def select(self, group: Group, selection: Selection, bad: Sequence[Key]) -> Entries:
        entries = self._entries(group)
        limits = {"epochs": selection.epochs, "numbers": selection.numbers, "written": selection.written}
        if selection.bad:
            found = entries.find(key for key in bad if _within(key, selection))
            span = selection.written
            return KeyList([one for one in found if span is None or span[0] <= one.created < span[1]])
        return entries.select(group.info.epochs if group.info is not None else (), **limits)  # type: ignore[arg-type]  # each has its type

    def coverage(self, group: Group, epoch: int, width: int, since: float | None) -> list[tuple[int, int]]:
        return self._entries(group).coverage(epoch, width, since=since)

    def still_bad(self, group: Group, bad: Sequence[Key], since: float) -> list[Key]:
        found = self._entries(group).find(bad)
        return [Key(entry.epoch, entry.number) for entry in found if entry.created < since]

    # --- what is in it

    def items_at_once(self, group: Group) -> int:
        found = group.info
        if found is None or found.cache_by == "batch":
            return 1
        return max(1, min(_MOST_ITEMS, _ITEMS_BYTES // max(1, sum(array.nbytes for array in found.arrays))))

    def record(self, group: Group, entries: Sequence[EntryInfo], place: int) -> BatchRecord:
        return record_of(group.info, entries, place)

    def glance(self, group: Group, entries: Sequence[EntryInfo]) -> BatchView | None:
        found = group.info
        try:
            return None if found is None or not entries else self._glance(group, found, entries)
        except (HydraxError, OSError, sqlite3.Error, IndexError, MemoryError):
            return None  # opening it shows the error

    def _glance(self, group: Group, found: CacheInfo, entries: Sequence[EntryInfo]) -> BatchView | None:
        if found.cache_by == "batch":
            rows = max(1, min(rows_of(array) * _GLANCE_BYTES // max(1, array.nbytes) for array in found.arrays))
            stored = self._entries(group).read(entries[0].epoch, entries[0].number, rows=rows)
            several = [] if stored is None else [stored]
        else:
            several = [stored for _, stored in self._read(group, entries)]
        return view_of(found, record_of(found, entries, 0), several) if several else None

    def open(self, group: Group, entries: Sequence[EntryInfo], record: BatchRecord) -> tuple[BatchView, list[str]]:
        found = group.info
        try:
            read = [] if found is None else list(self._read(group, entries))
        except (HydraxError, OSError, sqlite3.Error, IndexError, MemoryError) as error:
            raise LookupError(_message(error)) from error
        if found is None or not read:
            raise LookupError("it has been removed meanwhile")
        return view_of(found, record, [stored for _, stored in read]), [stored.fault for _, stored in read]

    def _read(self, group: Group, entries: Sequence[EntryInfo]) -> Iterator[tuple[EntryInfo, StoredEntry]]:
        opened = self._entries(group)
        for entry in entries:
            stored = opened.read(entry.epoch, entry.number)
            if stored is not None:
                yield entry, stored

    # --- putting it in order

    def verify(
        self, group: Group, stop: threading.Event, report: Callable[[VerifyProgress], None], *, repair: bool
    ) -> None:
        reading = _Reading(stop, report)
        try:
            for finding in verify(group.path, repair=repair, progress=reading.progress, on_entry=reading.entry):
                reading.found(finding)
            reading.report("done")
        except _StoppedError:
            reading.report("stopped")
        except (HydraxError, OSError, sqlite3.Error) as error:
            reading.report(_message(error))

    def clear(self, group: Group, conditions: Conditions, stop: threading.Event, *, dry_run: bool) -> Cleared | None:
        def on_read(_done: int) -> None:
            if stop.is_set():
                raise _StoppedError

        try:
            return clear(
                group.path,
                epoch=conditions.epoch,
                older_than=conditions.older_than,
                corrupt=conditions.corrupt,
                dry_run=dry_run,
                on_read=on_read,
            )
        except _StoppedError:
            return None

    def close(self) -> None:
        with self._lock:
            for _, opened in self._opened.values():
                opened.close()
            self._opened.clear()


class _Reading:
    """Passes on how far a verify is, some times a second, and ends it when asked to."""

    def __init__(self, stop: threading.Event, report: Callable[[VerifyProgress], None]) -> None:
        self._stop = stop
        self._report = report
        self._started = self._reported = time.monotonic()
        self._done = self._total = 0
        self._read_to: Key | None = None
        self._findings: list[Finding] = []

    def progress(self, done: int, total: int) -> None:
        self._done, self._total = done, total

    def entry(self, epoch: int, number: int) -> None:
        self._read_to = Key(epoch, number)
        if self._stop.is_set():
            raise _StoppedError
        if time.monotonic() >= self._reported + _REPORT_SECONDS:
            self.report("")

    def found(self, finding: Finding) -> None:
        self._findings.append(finding)

    def report(self, end: str) -> None:
        self._reported = time.monotonic()
        findings, self._findings = tuple(self._findings), []
        seconds = self._reported - self._started
        self._report(VerifyProgress(self._done, self._total, seconds, self._read_to, findings, end))


def _within(key: Key, selection: Selection) -> bool:
    epochs, numbers = selection.epochs, selection.numbers
    return (epochs is None or epochs[0] <= key.epoch < epochs[1]) and (
        numbers is None or numbers[0] <= key.number < numbers[1]
    )


def _stamp(folder: Path) -> tuple[object, ...]:
    """Which files the index and the manifest are, and when they were last changed."""
    files: list[object] = []
    times: list[object] = []
    for name in ("index.sqlite", "hydrax-cache.json"):
        try:
            found = (folder / name).stat()
        except OSError:
            files.append(None)
            continue
        files.append((found.st_dev, found.st_ino))
        times.append((found.st_mtime_ns, found.st_size))
    return tuple(files), tuple(times)


def _message(error: BaseException) -> str:
    return str(error) or type(error).__name__
