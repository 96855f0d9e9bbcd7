"""Rows of a table or a query of SQLite, by their integer key.

Promise: the database is opened read-only, once in each process. A row is found by its key, whatever is deleted between;
the keys are read when the group is made, and a row that is gone, or a key that comes twice, is an error. What SQLite
stores in a column may be of any type: a value unlike the others of its column is an error of its row.
"""

from __future__ import annotations

import functools
import sqlite3
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec
from hydrax_core.errors import shorten
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.paths import local_path
from hydrax_core.sources.record_columns import refuse_rounded
from hydrax_core.sources.row_source import Arrays, Columns, Extra, FileSource, Rows, choose, make_rows, put, spec_of

if TYPE_CHECKING:
    import os

__all__ = ["SqliteRows", "sqlite"]

_ASKED = 500
"""Keys in one statement; SQLite takes 999 in its oldest versions."""

_SAMPLED = 100


def sqlite(
    path: str | os.PathLike[str],
    query: str,
    columns: Columns = None,
    *,
    key: str = "rowid",
    missing: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of a table or query of an SQLite database.

    Columns of numbers become int32 or float32 arrays, as their first rows are; a blob becomes an array where
    ``columns`` gives its shape and dtype. A missing number (NULL) is NaN in a column of floats, else an error of its
    row. Texts are left out, or go to the additional data.

    Args:
        path: The database.
        query: Name of a table, or a SELECT that yields ``key`` among its columns, as in
            ``"SELECT rowid, x, y FROM t WHERE x > 3"``.
        columns: Names of the columns to load, or name -> dtype or (shape, dtype[, jax dtype]); all numbers but the key
            by default.
        key: The column, of distinct integers, by which a row is found; quick where SQLite has an index of it.
        missing: What a missing value is, by column.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the columns that go to the additional data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no database, the query fails or yields no ``key``, or a column asked for cannot be an array.
    """
    file = local_path("path", path, "sqlite", "SQLite", folder=False)
    source = SqliteRows(file, query, key, missing or {})
    source.choose(columns, additional)
    return make_rows(source, batch_size, seed, labels)


class SqliteRows(FileSource):
    def __init__(self, path: str, query: str, key: str, missing: Mapping[str, Any]) -> None:
        self._key, self._missing = key, missing
        single = query.strip().rstrip(";")
        is_select = single.split(None, 1)[0].lower() in {"select", "with"}
        self._query = single if is_select else f"SELECT rowid, * FROM {_quoted(single)}"  # noqa: S608  the user's own
        super().__init__([path], self._query, key, missing)
        self.specs: Mapping[str, ArraySpec] = {}
        self._numbers = self._read_keys()

    def _read_keys(self) -> range | npt.NDArray[np.int64]:
        """The keys, ascending; a range where none is missing."""
        found = [row[0] for row in self._rows(f"SELECT {_quoted(self._key)} FROM ({self._query})", ())]  # noqa: S608  same
        if not found:
            raise ValueError(f"{self.paths[0]}: the query yields no row")
        if any(type(number) is not int for number in found):
            raise ValueError(f"{self.paths[0]}: key: {self._key!r} is not an integer in every row")
        keys = np.sort(np.array(found, np.int64))
        if (np.diff(keys) == 0).any():
            raise ValueError(f"{self.paths[0]}: key: {self._key!r} is the same in several rows")
        return range(int(keys[0]), int(keys[-1]) + 1) if keys[-1] - keys[0] == len(keys) - 1 else keys

    def choose(self, columns: Columns, additional: Iterable[str]) -> None:
        sample = list(self._rows(f"SELECT * FROM ({self._query}) LIMIT {_SAMPLED}", ()))  # noqa: S608  same
        names = self._names
        found = {name: _spec([row[place] for row in sample]) for place, name in enumerate(names) if name != self._key}
        if columns is not None and self._key in columns:
            found[self._key] = spec_of((), np.int32)
        self.specs, self.additional, self.left_out = choose("columns", found, columns, additional)

    def __len__(self) -> int:
        return len(self._numbers)

    @functools.cached_property
    def _connection(self) -> sqlite3.Connection:
        uri = f"file:{quote(self.paths[0])}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        weakref.finalize(self, connection.close)
        return connection

    @functools.cached_property
    def _names(self) -> list[str]:
        return [column[0] for column in self._execute(f"SELECT * FROM ({self._query}) LIMIT 0", ()).description]  # noqa: S608  same

    def _execute(self, statement: str, values: Sequence[int]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise ValueError(f"{self.paths[0]}: {error}; in {shorten(statement, 120)}") from error

    def _rows(self, statement: str, values: Sequence[int]) -> Iterable[tuple[Any, ...]]:
        cursor = self._execute(statement, values)
        try:
            yield from cursor
        except sqlite3.Error as error:
            raise ValueError(f"{self.paths[0]}: {error}") from error

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        keys = [int(self._numbers[index]) for index in indices.tolist()]
        names = list(dict.fromkeys([self._key, *arrays, *self.additional]))
        select = f"SELECT {', '.join(map(_quoted, names))} FROM ({self._query}) WHERE {_quoted(self._key)} IN "  # noqa: S608  same
        found: dict[int, tuple[Any, ...]] = {}
        distinct = list(dict.fromkeys(keys))
        for first in range(0, len(distinct), _ASKED):
            part = distinct[first : first + _ASKED]
            found.update((row[0], row) for row in self._rows(f"{select}({','.join('?' * len(part))})", part))
        gone = next((number for number in distinct if number not in found), None)
        if gone is not None:
            raise ValueError(f"{self.paths[0]}: it changed: the row with {self._key} {gone} is gone")
        rows = [found[number] for number in keys]
        for name, array in arrays.items():
            place = names.index(name)
            where = f"{self.paths[0]}: {name!r}"
            for target, row in zip(array, rows, strict=True) if array.ndim > 1 else ():
                _put_blob(f"{where}, {self._key} {row[0]}", target, row[place])
            if array.ndim == 1:
                put(where, array, self._numbers_of(name, [row[place] for row in rows], keys, array.dtype))
        if not self.additional:
            return None
        return [{name: row[names.index(name)] for name in self.additional} for row in rows]

    def _numbers_of(self, name: str, values: list[Any], keys: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        for place, value in enumerate(values):
            if value is None:
                values[place] = self._missing.get(name, np.nan if dtype.kind == "f" else None)
            if not isinstance(values[place], int | float):
                raise ValueError(  # noqa: TRY004  the data's type
                    f"{self.paths[0]}: {name!r}: the row with {self._key} {keys[place]} holds {shorten(value, 40)}, "
                    "no number; missing={name: value} says what NULL is"
                )
        found = np.array(values)
        refuse_rounded(f"{self.paths[0]}: {name!r}", found, values, dtype)
        return found

    def _files(self) -> Iterable[str]:
        return (self.paths[0], f"{self.paths[0]}-wal")  # what is committed last may stand there only


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _spec(values: Sequence[Any]) -> ArraySpec | str:
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return "its first rows have no value"
    if kinds <= {int, float}:
        return spec_of((), np.float32 if float in kinds else np.int32)
    if bytes in kinds:
        return "it holds blobs; give columns={name: (shape, dtype)}"
    return f"it holds {', '.join(sorted(kind.__name__ for kind in kinds))}"


def _put_blob(where: str, target: npt.NDArray[Any], value: Any) -> None:
    if not isinstance(value, bytes) or len(value) != target.nbytes:
        given = f"{len(value)} bytes" if isinstance(value, bytes) else shorten(value, 40)
        raise ValueError(f"{where}: expected a blob of {target.nbytes} bytes, got {given}")
    target[...] = np.frombuffer(value, target.dtype).reshape(target.shape)
