"""Records of bytes by number, LMDB and ArrayRecord, which a function of the user's decodes.

Promise: each process opens the files for itself, read-only. The records of LMDB are numbered in the order of their
keys. A record that the function refuses, or that is gone, is an error of that item.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from hydrax_core.data.source import Source
from hydrax_core.sources.paths import Paths, files_name, find_files, local_path, refuse_remote
from hydrax_core.sources.row_source import Columns, Reopened, Rows, check_indices, require
from hydrax_core.sources.wrapped import torch_dataset

__all__ = ["Records", "array_record", "lmdb"]

_MOST_DATABASES = 64


def lmdb(
    path: str | os.PathLike[str],
    decode: Callable[[bytes], Any] | None = None,
    columns: Columns = None,
    *,
    database: str | None = None,
    **options: Any,
) -> Rows:
    """The values of an LMDB database, in the order of their keys.

    Args:
        path: The database: its folder, or its file.
        decode: Makes an item of the bytes of a value, in the workers: a dict, tuple, array, ... as ``torch_dataset``
            takes it. By default the array ``data`` of the bytes, uint8, of which all have equally many.
        columns: See ``torch_dataset``.
        database: Name of the database within the file; ``None`` for the one without a name.
        **options: See ``torch_dataset``.

    Raises:
        ImportError: lmdb is not installed.
        FileNotFoundError: There is no such database.
        ValueError: It is damaged or empty, or an item becomes no array.
    """
    require("lmdb", "lmdb", "reading LMDB")
    file = local_path("path", path, "lmdb", "LMDB")
    return torch_dataset(LmdbRecords(file, database, decode), columns, **options)


def array_record(
    paths: Paths, decode: Callable[[bytes], Any] | None = None, columns: Columns = None, **options: Any
) -> Rows:
    """The records of ArrayRecord files, in the order of the files.

    Args:
        paths: The files (paths, folders, patterns).
        decode: See ``lmdb``.
        columns: See ``torch_dataset``.
        **options: See ``torch_dataset``.

    Raises:
        ImportError: array_record is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged, or an item becomes no array.
    """
    require("array_record", "array-record", "reading ArrayRecord")
    for path in [paths] if isinstance(paths, str | os.PathLike) else (paths := list(paths)):
        refuse_remote("paths", path, "ArrayRecord")
    files = find_files("paths", paths, (".array_record", ".arrayrecord"), "array_record")
    return torch_dataset(ArrayRecords(files, decode), columns, **options)


class Records(Reopened, Source[Any]):
    content = False
    """See ``FileSource``."""

    def __init__(self, paths: Sequence[str], decode: Callable[[bytes], Any] | None) -> None:
        self.paths, self._decode = tuple(paths), decode

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of records within bounds."""

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        check_indices("record", indices, len(self))
        decode = self._decode or (lambda value: np.frombuffer(value, np.uint8))
        return [decode(value) for value in self.read(indices)]

    def fingerprint(self) -> str:
        """The files by path, size and time of change."""
        return files_name(self.files(), self.paths, content=self.content)

    def files(self) -> Iterable[str]:
        return self.paths


class _Environment:
    """An open file of LMDB, which a process may open once only; closed when nothing refers to it."""

    def __init__(self, module: Any, path: str) -> None:
        self.environment = module.open(
            path,
            subdir=Path(path).is_dir(),
            readonly=True,
            lock=False,
            readahead=False,
            max_dbs=_MOST_DATABASES,
            create=False,
        )


_environments: weakref.WeakValueDictionary[str, _Environment] = weakref.WeakValueDictionary()
_opening = threading.Lock()


class LmdbRecords(Records):
    def __init__(self, path: str, database: str | None, decode: Callable[[bytes], Any] | None) -> None:
        super().__init__([path], decode)
        self._database = database
        try:
            with self._opened[0].environment.begin(db=self._opened[1]) as transaction:
                keys = list(transaction.cursor().iternext(keys=True, values=False))
        except self._module.Error as error:
            raise ValueError(f"{path}: cannot be read as LMDB: {error}") from error
        if not keys:
            raise ValueError(f"{path}: it holds no value")
        self._keys = b"".join(keys)
        self._ends = np.array(list(accumulate(map(len, keys))), np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def _module(self) -> Any:
        return require("lmdb", "lmdb", "reading LMDB")

    @functools.cached_property
    def _opened(self) -> tuple[_Environment, Any]:
        name = None if self._database is None else self._database.encode()
        with _opening:
            shared = _environments.get(self.paths[0])
            if shared is None:
                shared = _environments[self.paths[0]] = _Environment(self._module, self.paths[0])
            return shared, shared.environment.open_db(name, create=False)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        values = []
        try:
            shared, database = self._opened
            with shared.environment.begin(db=database) as transaction:
                for index in indices:
                    key = self._keys[self._ends[index - 1] if index else 0 : self._ends[index]]
                    value = transaction.get(key)
                    if value is None:
                        raise ValueError(f"{self.paths[0]}: it changed: the key {key!r} is gone")
                    values.append(value)
        except self._module.Error as error:
            raise ValueError(f"{self.paths[0]}: {error}") from error
        return values

    def files(self) -> Iterable[str]:
        path = Path(self.paths[0])
        return [str(path / "data.mdb") if path.is_dir() else str(path)]


class ArrayRecords(Records):
    def __init__(self, paths: Sequence[str], decode: Callable[[bytes], Any] | None) -> None:
        super().__init__(paths, decode)
        self._size = len(self._opened)
        if not self._size:
            raise ValueError(f"{paths[0]}: it holds no record")

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def _opened(self) -> Any:
        module = require("array_record.python.array_record_data_source", "array-record", "reading ArrayRecord")
        try:
            return module.ArrayRecordDataSource(list(self.paths))
        except Exception as error:
            raise ValueError(f"{self.paths[0]}: cannot be read as ArrayRecord: {error}") from error

    def read(self, indices: Sequence[int]) -> list[bytes]:
        opened = self._opened
        try:
            return list(opened.__getitems__(list(indices)))
        except Exception as error:
            more = f" or another of {len(self.paths)} files" if len(self.paths) > 1 else ""
            raise ValueError(f"{self.paths[0]}{more}: {error}") from error
