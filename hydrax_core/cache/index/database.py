"""The SQLite file of an index: opening it, and telling damage from a file that cannot be opened just now.

Promise: what is opened has our table and nothing else: no view, trigger or other schema that would run. Reading it
takes steps and memory in proportion to the file, whatever its pages refer to. A file in WAL mode is refused before
SQLite believes it, and so is a journal that names another file: when SQLite plays such a one back, it removes that
file, wherever it lies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, Literal

from hydrax_core.cache.format.folder import INDEX, INDEX_SIDE_FILES, is_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = [
    "DamagedIndexError",
    "bounded",
    "check_database",
    "check_journal_mode",
    "connect",
    "fetch",
    "integrity_error",
    "is_damage",
    "play_back_journal",
    "salvage",
]

_APPLICATION: Final = 0x68647861  # "hdxa"
_VERSION: Final = 1
_TABLE: Final = (
    "CREATE TABLE entries (epoch INTEGER NOT NULL, number INTEGER NOT NULL, checksum BLOB NOT NULL, "
    "created REAL NOT NULL, size INTEGER NOT NULL, additional BLOB, PRIMARY KEY (epoch, number))"
)
_ANY: Final = "SELECT 1 FROM sqlite_master LIMIT 1"
_SCHEMA: Final = [(b"index", b"sqlite_autoindex_entries_1", None), (b"table", b"entries", _TABLE.encode())]
_WAIT_SECONDS: Final = 30.0
_STEPS: Final = 10_000
_STEPS_ALLOWED: Final = 1_000_000
_STEPS_A_BYTE: Final = 4
"""An entry takes 35 bytes at least, and no statement of ours more than some 30 steps for each."""
_LEAST_LENGTH: Final = 1 << 20
_SALVAGED_ROWS: Final = 1000

# The file's environment is at fault, not its content. All other codes mean that the content is damaged.
_ENVIRONMENT: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_TOOBIG,
}

_JOURNAL_END: Final = struct.Struct(">II8s")
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_MODE_AT: Final = 18
_ROLLBACK: Final = b"\x01\x01"

# Fields of the first 100 bytes that never change in our files (https://www.sqlite.org/fileformat2.html, section 1.3).
_CONSTANT_FIELDS: Final = (
    (0, b"SQLite format 3\0"),
    (_MODE_AT, _ROLLBACK),
    (21, bytes((64, 32, 32))),
    (56, (1).to_bytes(4, "big")),  # UTF-8
    (60, _VERSION.to_bytes(4, "big")),
    (68, _APPLICATION.to_bytes(4, "big")),
)
_HEADER_BYTES: Final = 100


class DamagedIndexError(Exception):
    """The file is no index of ours, or no longer."""


@contextlib.contextmanager
def bounded(connection: sqlite3.Connection, path: Path) -> Iterator[int]:
    """What runs within may take steps, and read values, as the size of the file allows; gives the bytes to read in all.

    Raises:
        DamagedIndexError: It takes more, as where pages refer to each other in circles.
    """
    try:
        size = os.stat(path).st_size  # noqa: PTH116  once a query
    except OSError:
        size = 0
    left = (_STEPS_ALLOWED + _STEPS_A_BYTE * size) // _STEPS

    def step() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    length = max(size, _LEAST_LENGTH)
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)
    connection.set_progress_handler(step, _STEPS)
    try:
        yield length
    except sqlite3.Error as error:
        if left < 0:
            raise DamagedIndexError("its pages refer to each other in circles") from error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG:
            raise DamagedIndexError("a value in it is said to be longer than the file") from error
        raise
    finally:
        with contextlib.suppress(sqlite3.Error):  # closed within
            connection.set_progress_handler(None, 0)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)


def fetch(connection: sqlite3.Connection, path: Path, sql: str, parameters: Sequence[Any]) -> list[Any]:
    """All rows that a query finds."""
    with bounded(connection, path) as most:
        return list(_within(connection.execute(sql, parameters), most))


def _within(rows: Iterable[tuple[Any, ...]], most: int) -> Iterator[tuple[Any, ...]]:
    held = 0
    for row in rows:
        held += sum(len(value) for value in row if type(value) is bytes)
        if held > most:
            raise DamagedIndexError("its rows hold more than the file")
        yield row


def connect(path: Path, mode: Literal["ro", "rw", "rwc"]) -> sqlite3.Connection:
    """Open the file to read, to write, or to write and create it with its table if it is missing or empty.

    Raises:
        DamagedIndexError: It is no plain file, or in WAL mode.
        sqlite3.Error: It cannot be opened.
        OSError: It is to be written, and has another name.
    """
    sides = {path.name + name.removeprefix(INDEX) for name in INDEX_SIDE_FILES}
    for name in (path.name, *sides):  # SQLite would follow a link, and write through it
        beside = path.with_name(name)
        if os.path.lexists(beside) and not is_regular(beside):
            raise DamagedIndexError(f"{name} is no plain file")
    if mode != "ro" and path.exists() and path.stat().st_nlink > 1:
        raise PermissionError(errno.EPERM, "it has another name (a hard link), so it is not written", str(path))
    _check_journal(path.with_name(f"{path.name}-journal"))
    check_journal_mode(path)
    uri = f"file:{urllib.parse.quote(bytes(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(
        uri, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False, uri=True, cached_statements=16
    )
    try:
        connection.text_factory = bytes  # a damaged row may hold what is no text
        with bounded(connection, path):
            for setting in ("cell_size_check=ON", "trusted_schema=OFF", "temp_store=MEMORY", "synchronous=FULL"):
                connection.execute(f"PRAGMA {setting}")
            if mode == "rwc":
                _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is not an index of ours."""
    # Reading the schema lets SQLite play a killed writer's journal back; only then do the first bytes count.
    if _schema(connection, path) != _SCHEMA:
        raise DamagedIndexError("it does not have the table of an index")
    start = _start(path)
    for offset, expected in _CONSTANT_FIELDS:
        if start[offset : offset + len(expected)] != expected:
            raise DamagedIndexError(f"its first page differs from that of an index at byte {offset}")


def _check_journal(path: Path) -> None:
    """Refuse a journal of a transaction over several databases; we have one.

    Such a journal ends in the name of another file, the name's length, a checksum of it and a magic number
    (https://www.sqlite.org/fileformat2.html, section 3).
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _JOURNAL_END.size:
                return
            file.seek(size - _JOURNAL_END.size)
            length, _, magic = _JOURNAL_END.unpack(file.read(_JOURNAL_END.size))
    except (FileNotFoundError, struct.error):  # a writer has just finished with it
        return
    if magic == _JOURNAL_MAGIC and 0 < length <= size - _JOURNAL_END.size:
        raise DamagedIndexError("its journal names another file")


def check_journal_mode(path: Path) -> None:
    """Refuse a file that says it is in WAL mode; SQLite would create files for that."""
    with contextlib.suppress(FileNotFoundError):
        start = _start(path)
        if len(start) == _HEADER_BYTES and start[_MODE_AT : _MODE_AT + len(_ROLLBACK)] != _ROLLBACK:
            raise DamagedIndexError("its first page says that it is not in rollback journal mode")


def integrity_error(connection: sqlite3.Connection, path: Path) -> str:
    """What SQLite's own check finds wrong, ``""`` for nothing; reads the whole file.

    Raises:
        DamagedIndexError: It cannot even be checked.
        sqlite3.Error: Likewise.
    """
    found = fetch(connection, path, "PRAGMA integrity_check(1)", ())[0][0]
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    return "" if text == "ok" else text


def salvage(path: Path) -> Iterator[list[tuple[Any, ...]]]:
    """What can still be read of a damaged file's table, some rows at a time; every row may be wrong.

    From both ends, as reading stops at the first bad page.
    """
    with contextlib.suppress(DamagedIndexError, sqlite3.Error, OSError):
        connection = connect(path, "ro")
        with contextlib.closing(connection):
            if _schema(connection, path) != _SCHEMA:
                return
            for order in ("ASC", "DESC"):
                page: list[tuple[Any, ...]] = []
                with contextlib.suppress(DamagedIndexError, sqlite3.Error), bounded(connection, path) as most:
                    sql = f"SELECT * FROM entries NOT INDEXED ORDER BY rowid {order}"  # noqa: S608  see above
                    for row in _within(connection.execute(sql), most):
                        page.append(row)
                        if len(page) == _SALVAGED_ROWS:
                            yield page
                            page = []
                yield page


def play_back_journal(path: Path) -> None:
    """Let SQLite undo what a killed writer left half done, where it can; a read-only connection could not."""
    with contextlib.suppress(DamagedIndexError, sqlite3.Error, OSError):
        connection = connect(path, "rw")
        with contextlib.closing(connection):
            fetch(connection, path, _ANY, ())


def is_damage(error: Exception) -> bool:
    """Whether an error means that the content is damaged, not that the file cannot be opened just now."""
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, DamagedIndexError)
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.ProgrammingError)
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF not in _ENVIRONMENT


def _schema(connection: sqlite3.Connection, path: Path) -> list[tuple[Any, ...]]:
    found = fetch(connection, path, f"SELECT type, name, sql FROM sqlite_master LIMIT {len(_SCHEMA) + 1}", ())  # noqa: S608  a number
    return sorted(found) if len(found) == len(_SCHEMA) else []


def _create(connection: sqlite3.Connection) -> None:
    if connection.execute(_ANY).fetchone() is not None:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute(_ANY).fetchone() is None:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute(_TABLE)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)
