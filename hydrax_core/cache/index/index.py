"""The index: one row of an SQLite table an entry.

Promise: rows say where something may lie, and the checksum in them decides. Damage found when opening or at any later
moment makes a writable index start anew with the rows that can still be read, and keeps the old file as
``index.damaged``; a read-only one then holds nothing. Once open, only ``add`` raises.

A rollback journal, not WAL: that needs shared memory, which network file systems and read-only folders have not.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hydrax_core.cache.format.entry import CHECKSUM_BYTES
from hydrax_core.cache.format.folder import INDEX, INDEX_SIDE_FILES, OLD_INDEX
from hydrax_core.cache.index.database import (
    DamagedIndexError,
    bounded,
    check_database,
    connect,
    fetch,
    integrity_error,
    is_damage,
    salvage,
)
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["EntryInfo", "EpochCount", "Index", "IndexRow"]

_log = logging.getLogger("hydrax")

_AT_ONCE: Final = 500
"""Parameters of a statement; SQLite has at most 999 of them in its older versions."""
_PAGE_ROWS: Final = 256
_MOST_MENDED: Final = 8
_INFO: Final = "epoch, number, created, size, length(additional)"


class IndexRow(NamedTuple):
    """One entry.

    Attributes:
        created: Seconds since 1970.
    """

    epoch: int
    number: int
    checksum: bytes
    created: float
    size: int
    additional: bytes | None


class EntryInfo(NamedTuple):
    """What the index says about one entry.

    Attributes:
        epoch: Content epoch.
        number: Batch or item.
        created: When it was written, seconds since 1970.
        size: Bytes of the arrays.
        additional_bytes: Bytes of its additional data as stored, ``None`` where there is none.
    """

    epoch: int
    number: int
    created: float
    size: int
    additional_bytes: int | None


class EpochCount(NamedTuple):
    """What the index says about one content epoch."""

    epoch: int
    entries: int
    oldest: float
    newest: float


class Index:
    """The index of one cache, open.

    Attributes:
        damage: What was wrong with its content, ``""`` for nothing.
        unreadable: Why something could not be read though nothing is known to be wrong with it.

    Args:
        writable: Whether to create and mend it; else nothing in the folder changes.
        alone: Gives a context in which no other process creates or mends it.

    Raises:
        sqlite3.Error: It cannot be created or opened, for reasons other than damage.
        OSError: Likewise.
    """

    def __init__(self, folder: Path, *, writable: bool, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self._folder = folder
        self._path = folder / INDEX
        self._writable = writable
        self._alone = alone
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._warned = False
        self._mended = 0
        self.damage = ""
        self.unreadable = ""
        try:
            self._open()
        except (DamagedIndexError, sqlite3.Error) as error:
            if not is_damage(error):
                raise
            self._mend(error)

    def close(self) -> None:
        with self._writing, self._reading:
            self._close()

    def get(self, epoch: int, number: int) -> IndexRow | None:
        rows = self._select("SELECT * FROM entries WHERE epoch = ? AND number = ?", (epoch, number))
        return rows[0] if rows else None

    def get_many(self, epoch: int, numbers: Sequence[int]) -> dict[int, IndexRow]:
        found: dict[int, IndexRow] = {}
        for first in range(0, len(numbers), _AT_ONCE):
            part = numbers[first : first + _AT_ONCE]
            marks = ",".join("?" * len(part))
            sql = f"SELECT * FROM entries WHERE epoch = ? AND number IN ({marks})"  # noqa: S608  marks only
            found.update((row.number, row) for row in self._select(sql, (epoch, *part)))
        return found

    def rows(self) -> Iterator[IndexRow]:
        """All rows, in order; others may write meanwhile."""
        after = (-(2**63), -(2**63))
        sql = "SELECT * FROM entries WHERE (epoch, number) > (?, ?) ORDER BY epoch, number LIMIT ?"
        while page := self._select(sql, (*after, _PAGE_ROWS)):
            yield from page
            if (page[-1].epoch, page[-1].number) <= after:
                self._fail(DamagedIndexError("its rows are out of order"))
                return
            after = (page[-1].epoch, page[-1].number)

    def key_at(self, position: int) -> tuple[int, int] | None:
        sql = "SELECT epoch, number FROM entries ORDER BY epoch, number LIMIT 1 OFFSET ?"
        found = self._fetch(sql, (position,))
        return found[0] if found and type(found[0][0]) is type(found[0][1]) is int else None

    def counts(self) -> list[EpochCount]:
        # Rows lie in the order they were written: looking each up by its key would take six times as long.
        sql = (
            "SELECT epoch, count(*), min(created), max(created) FROM entries NOT INDEXED GROUP BY epoch ORDER BY epoch"
        )
        counts = [EpochCount(*fields) for fields in self._fetch(sql, ())]
        return [count for count in counts if all(type(field) in (int, float) for field in count)]

    def count(self, epoch: int, first: int, end: int, *, written: tuple[float, float] | None = None) -> int:
        """Entries of an epoch with a number in ``range(first, end)``, written in a span of time where one is given."""
        sql = "SELECT count(*) FROM entries WHERE epoch = ? AND number >= ? AND number < ?"
        found = self._fetch(sql + _written(written), (epoch, first, end, *(written or ())))
        return int(found[0][0]) if found else 0

    def infos(
        self, epoch: int, first: int, end: int, *, skip: int, limit: int, written: tuple[float, float] | None = None
    ) -> list[EntryInfo]:
        sql = f"SELECT {_INFO} FROM entries WHERE epoch = ? AND number >= ? AND number < ?{_written(written)}"  # noqa: S608  constants only
        sql += " ORDER BY number LIMIT ? OFFSET ?"
        return _infos(self._fetch(sql, (epoch, first, end, *(written or ()), limit, skip)))

    def infos_of(self, epoch: int, numbers: Sequence[int]) -> list[EntryInfo]:
        found: list[EntryInfo] = []
        for first in range(0, len(numbers), _AT_ONCE):
            part = numbers[first : first + _AT_ONCE]
            sql = f"SELECT {_INFO} FROM entries WHERE epoch = ? AND number IN ({','.join('?' * len(part))})"  # noqa: S608  marks only
            found += _infos(self._fetch(sql, (epoch, *part)))
        return sorted(found)

    def add(self, rows: Sequence[IndexRow]) -> None:
        """Add entries whose data is on the disk, all or none; they are on the disk, too, when this returns."""
        sql = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)"
        try:
            self._change(sql, rows)
            damage: Exception | None = (
                None if self._has(rows) else DamagedIndexError("rows that were just added are not found")
            )
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            damage = error
        if damage is not None:
            self._mend(damage)
            self._change(sql, rows)

    def remove(self, keys: Sequence[tuple[int, int]]) -> bool:
        """Forget entries; ``False`` where the index cannot be written."""
        try:
            self._change("DELETE FROM entries WHERE epoch = ? AND number = ?", keys)
        except sqlite3.Error as error:
            self._fail(error)
            return False
        return True

    def shrink(self) -> None:
        """Give free room back to the file system, where that works."""
        with contextlib.suppress(DamagedIndexError, sqlite3.Error):
            self._change("VACUUM", None)

    def check(self) -> str:
        with self._reading:
            if self._reader is None:
                return self.damage
            try:
                return integrity_error(self._reader, self._path)
            except (DamagedIndexError, sqlite3.Error) as error:
                if is_damage(error):
                    return str(error)
                self.unreadable = str(error)
                return ""

    def mend(self, why: str) -> None:
        """Start anew with the rows that can still be read, unless another process has done so."""
        self._mend(DamagedIndexError(why))

    def _has(self, rows: Sequence[IndexRow]) -> bool:
        found = {
            (epoch, number)
            for epoch in {row.epoch for row in rows}
            for number in self.get_many(epoch, [row.number for row in rows if row.epoch == epoch])
        }
        return all((row.epoch, row.number) in found for row in rows)

    def _select(self, sql: str, parameters: Sequence[Any]) -> list[IndexRow]:
        return [_row(fields) for fields in self._fetch(sql, parameters) if type(fields[0]) is type(fields[1]) is int]

    def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            with self._reading:
                return [] if self._reader is None else fetch(self._reader, self._path, sql, parameters)
        except (DamagedIndexError, sqlite3.Error) as error:
            self._fail(error)
            return []

    def _change(self, sql: str, rows: Sequence[Sequence[Any]] | None) -> None:
        with self._writing:
            if self._writer is None:
                raise sqlite3.ProgrammingError("the index is closed or read-only")
            if rows is None:
                with bounded(self._writer, self._path):
                    self._writer.execute(sql)
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(sql, rows)
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    def _fail(self, error: Exception) -> None:
        """A read, or a removal, failed: mend what is damaged, and log it once."""
        if is_damage(error):
            self._mend(error)
            return
        self.unreadable = str(error)
        if not self._warned:
            self._warned = True
            _log.warning("%s cannot be read, so the cache counts as empty for now: %s", self._path, error)

    def _mend(self, error: Exception) -> None:
        with self._writing, self._reading:
            try:
                with self._alone():
                    self._mend_alone(error)
            except (OSError, sqlite3.Error, DamagedIndexError, CacheError) as second:
                self._close()
                _log.warning("%s is damaged (%s) and cannot be mended: %s", self._path, error, second)

    def _mend_alone(self, error: Exception) -> None:
        self._close()
        self.damage = str(error)
        self._mended += 1
        if not self._writable or self._mended > _MOST_MENDED:
            _log.warning("%s is damaged, so the cache counts as empty: %s", self._path, error)
            return
        with contextlib.suppress(DamagedIndexError, sqlite3.Error):
            self._open()
            if self._reader is not None and not integrity_error(self._reader, self._path):
                return  # another process or thread has mended it
        self._close()
        self._path.replace(self._folder / OLD_INDEX)
        for name in INDEX_SIDE_FILES:  # a journal would be played back into the new file
            (self._folder / name).unlink(missing_ok=True)
        self._open()
        assert self._writer is not None
        for page in salvage(self._folder / OLD_INDEX):
            rows = [row for row in map(_row, page) if row.checksum and type(row.epoch) is type(row.number) is int]
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._writer.execute("COMMIT")
        kept = self._writer.execute("SELECT count(*) FROM entries").fetchone()[0]
        _log.warning(
            "%s is damaged and set aside as %s; %d entries could still be read from it: %s",
            self._path,
            OLD_INDEX,
            kept,
            error,
        )

    def _open(self) -> None:
        if not self._writable and not self._path.exists():
            return
        try:
            self._reader = connect(self._path, "rwc" if self._writable else "ro")
            check_database(self._reader, self._path)
            self._writer = connect(self._path, "rw") if self._writable else None
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None


def _written(span: tuple[float, float] | None) -> str:
    return "" if span is None else " AND created >= ? AND created < ?"


def _infos(found: Sequence[Sequence[Any]]) -> list[EntryInfo]:
    """Rows of ``_INFO``; those with fields of other types than ours are left out."""
    kinds = (int, int, float, int)
    rows = (row for row in found if tuple(map(type, row[:4])) == kinds and type(row[4]) in (int, type(None)))
    return [EntryInfo(*row) for row in rows]


def _row(fields: Sequence[Any]) -> IndexRow:
    """A row; one with fields of other types than ours gets a checksum that nothing has."""
    epoch, number, checksum, created, size, additional = fields
    if (
        type(checksum) is bytes
        and len(checksum) == CHECKSUM_BYTES
        and type(created) is float
        and type(size) is int
        and (additional is None or type(additional) is bytes)
    ):
        return IndexRow(epoch, number, checksum, created, size, additional)
    return IndexRow(epoch, number, b"", 0.0, 0, None)
