"""Tables of Arrow: IPC and Feather files, which are mapped; Parquet files, whose row groups are read whole; in memory.

Promise: a mapped file costs no memory but the pages that are read. Parquet, and compressed record batches, are read in
blocks that are shuffled, and their rows within a window of them; never row by row. So is every file that lies
elsewhere: the columns of a block are fetched at once. What the names of folders say (``year=2024/``) is a column: see
``partitions``.
"""

from __future__ import annotations

import functools
import os
import secrets
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import xxhash

from hydrax_core.data.layout import length_name
from hydrax_core.data.portable import PORTABLE
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.arrow_columns import (
    Column,
    ObjectColumn,
    choose_columns,
    fill_columns,
    is_list,
    open_columns,
    pyarrow,
)
from hydrax_core.sources.blocks import BlockSource, Shuffle, check_shuffle, window_rows
from hydrax_core.sources.partitions import Partitions, partitions_of
from hydrax_core.sources.paths import Paths, find_files
from hydrax_core.sources.remote import RemoteFile
from hydrax_core.sources.remote_files import RemoteReader
from hydrax_core.sources.row_source import (
    Arrays,
    Chosen,
    Columns,
    Extra,
    FileSource,
    Rows,
    columns_of,
    make_rows,
    require,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from hydrax_core.data.layout import ArraySpec

__all__ = ["ArrowTable", "arrow"]

SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")
_PARQUET, _IPC, _FEATHER_1 = b"PAR1", b"ARROW1", b"FEA1"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SHARED = 8 << 20
"""Bytes of a table in memory above which workers share one copy."""
_MOST_OPEN = 64
"""Files that a process keeps open."""


def arrow(
    data: Paths | pa.Table,
    columns: Columns = None,
    *,
    shuffle: Shuffle | None = None,
    window: int | str | None = None,
    missing: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of Arrow IPC, Feather or Parquet files, or of a table in memory.

    Columns of numbers and truth values become arrays, also lists of them and tensors of fixed shape; 64-bit numbers
    become 32-bit ones, and one that does not fit fails its row. Names (a dictionary of strings) become the numbers of
    ``Rows.classes``, but for Parquet. The folders of ``year=2024/kind=a/0.parquet`` are columns, too. Lists of
    different length fill rows of the greatest length, zeros behind them, and ``NAME_length`` tells how many there are.
    A missing number is NaN in a column of floats, else an error of its row. Other columns, such as strings, are left
    out, or go to the additional data.

    Args:
        data: The files (paths, folders, patterns; all of one schema), or a ``pyarrow.Table``, of which the workers
            get a copy: all one, where it is large.
        columns: Names of the columns to load, or name -> dtype or (shape, dtype[, jax dtype]); all by default. A shape
            for a column of lists cuts longer ones; ``((Ragged(),), dtype)`` keeps them whole, for ``pack`` and
            ``buckets``, but for Parquet and compressed files.
        shuffle: ``"block"``: whole blocks in random order, the rows of a window of blocks shuffled; ``"rows"``: all
            rows shuffled, which is slow where blocks are decoded. By default ``"block"`` for Parquet and compressed
            files.
        window: Rows that are shuffled together, or their bytes, such as ``"256MB"``; a worker keeps that much in
            memory. By default what 64 MiB hold, at least a block.
        missing: What a missing value is, by column.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the columns that go to the additional data.

    Raises:
        ImportError: pyarrow is not installed.
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged or of another schema, or a column asked for cannot be an array.
    """
    check_shuffle(shuffle)
    filling = dict(missing or {})
    if isinstance(data, pyarrow().Table):
        table = ArrowTable([], data, filling)
        table.choose(columns, additional)
        return make_rows(table, batch_size, seed, labels)
    given = [data] if isinstance(data, str | os.PathLike) else list(data)
    paths = find_files("data", given, SUFFIXES, "arrow")
    source: FileSource
    with _named(paths):
        partitions = partitions_of(given, paths)
        formats = [_format(path) for path in paths]
        if "parquet" in formats or "compressed" in formats:
            source = _open_blocks(paths, formats, partitions, columns, additional, filling, window, shuffle)
        else:
            source = ArrowTable(paths, None, filling, partitions)
            source.choose(columns, additional)
    return make_rows(source, batch_size, seed, labels)


class ArrowTable(FileSource):
    """Rows of a table that is mapped, or in memory.

    Args:
        paths: The files, absolute; none for a table in memory.
        missing: What a missing value is, by column.
        partitions: Columns that stand in the names of folders.
    """

    def __init__(
        self,
        paths: Sequence[str],
        table: pa.Table | None,
        missing: Mapping[str, Any],
        partitions: Partitions | None = None,
    ) -> None:
        super().__init__(paths, missing, partitions)
        self._partitions = partitions
        self._memory: Any = table
        self._shared: _SharedTable | None = None
        self._missing = missing
        self._size: int = self._table.num_rows
        self._loaded: tuple[str, ...] = ()
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._names: Mapping[str, tuple[str, ...]] = {}
        """The names that the dictionaries of the table number."""
        self.specs: Mapping[str, ArraySpec] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A large table in memory travels as the place of a copy that all processes map, where the system has such."""
        state = super().__getstate__()
        of_another = isinstance(self._memory, tuple)
        if self._memory is not None and not of_another and self._memory.nbytes > _SHARED and not PORTABLE:
            if self._shared is None:
                self._shared = _SharedTable(self._memory)
            state["_memory"] = self._shared.place
        state["_shared"] = None
        return state

    def choose(self, columns: Columns, additional: Iterable[str], others: Mapping[str, ArraySpec] = _NOTHING) -> None:
        """Decide which columns become what, but for others that a subclass fills."""
        found = open_columns(self._where, self._table, _distinct(self._table.column_names), self._missing)
        (self.specs, self.additional, self.left_out), loaded = choose_columns(found, columns, additional, others)
        self._loaded = tuple(name for name in loaded if name not in others)
        self._shapes = {name: found[name].shape for name in self._loaded if found[name].is_extension}
        self._names = {name: found[name].classes for name in self._loaded if found[name].classes}
        self.classes = self._names

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def _given(self) -> pa.Table:
        if self._memory is None:
            return open_tables(self.paths, self._partitions)
        return _opened_copy(self._memory) if isinstance(self._memory, tuple) else self._memory

    @functools.cached_property
    def _table(self) -> pa.Table:
        return _of_distinct_names(self._given.unify_dictionaries())

    @functools.cached_property
    def _columns(self) -> dict[str, Column]:
        if self._table.num_rows != self._size:
            raise ValueError(f"{self.paths[0]}: it changed: it no longer has {self._size} rows")
        found = open_columns(self._where, self._table, self._loaded, self._missing, self._shapes)
        for name, names in self._names.items():
            if found[name].classes != names:
                raise ValueError(f"{self._where}it changed: the names of {name!r} are others")
        return found

    @property
    def _where(self) -> str:
        return f"{self.paths[0]}: " if self.paths else ""

    def lengths(self) -> Indices:
        """See ``RowSource``: by the offsets of the lists; those of padded lists, too."""
        names = [name for name in self._loaded if length_name(name) in self.specs]
        return self._agreed({name: self._columns[name].lengths() for name in self.ragged or names})

    @functools.cached_property
    def _objects(self) -> dict[str, ObjectColumn]:
        return {name: ObjectColumn(self._table.column(name)) for name in self.additional}

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        fill_columns(self._columns, indices, arrays)
        return columns_of(self.additional, (column.take(indices) for column in self._objects.values()))

    def fingerprint(self) -> str:
        """Of a table in memory, its content."""
        if self._memory is None:
            return super().fingerprint()
        digest = xxhash.xxh3_128(self._reading.encode())
        with pyarrow().ipc.new_stream(pyarrow().PythonFile(_Digesting(digest), "w"), self._given.schema) as stream:
            stream.write_table(self._given.combine_chunks())
        return digest.hexdigest()


class ArrowBlocks(BlockSource):
    """Rows of row groups, and of compressed record batches."""

    def __init__(
        self,
        paths: Sequence[str],
        places: Sequence[_Place],
        chosen: Chosen,
        loaded: Sequence[str],
        partitions: Partitions,
        missing: Mapping[str, Any],
        window: int,
        *,
        shuffled: bool,
    ) -> None:
        sizes = [place.rows for place in places]
        super().__init__(paths, sizes, chosen, window, missing, partitions, shuffled=shuffled)
        self._places, self._loaded, self._missing = tuple(places), tuple(loaded), missing
        self._partitions = partitions

    @functools.cached_property
    def _readers(self) -> dict[str, Any]:
        return {}

    def read_table(self, number: int, names: Sequence[str]) -> pa.Table:
        """The columns of these names of a block.

        Raises:
            ValueError: The file is damaged, or changed.
        """
        place = self._places[number]
        with _named([place.path]):
            if place.path not in self._readers:
                if len(self._readers) >= _MOST_OPEN:
                    self._readers.clear()
                self._readers[place.path] = _Reader(place.path)
            reader = self._readers[place.path]
            table = reader.read(place.number, [name for name in names if name in reader.schema.names])
            if table.num_rows != place.rows:
                raise ValueError(f"it changed: block {place.number} no longer has {place.rows} rows")
            return self._partitions.add(table, place.path, [name for name in names if name not in table.column_names])

    def read_block(self, number: int, arrays: Arrays) -> Mapping[str, Sequence[Any]]:
        place = self._places[number]
        table = self.read_table(number, (*self._loaded, *self.additional))
        where = f"{place.path}, block {place.number}: "
        fill_columns(open_columns(where, table, self._loaded, self._missing), np.arange(table.num_rows), arrays)
        return {name: table.column(name).to_pylist() for name in self.additional}


class _Place(NamedTuple):
    path: str
    number: int
    rows: int


class _Reader:
    """A Parquet or IPC file whose blocks are read."""

    def __init__(self, path: str) -> None:
        module = pyarrow()
        self._parquet: Any = None
        self._remote = RemoteReader(path) if isinstance(path, RemoteFile) else None
        self._file = module.memory_map(path) if self._remote is None else module.PythonFile(self._remote, "r")
        if _format(path) == "parquet":
            self._parquet = require("pyarrow.parquet", "arrow", "reading Parquet").ParquetFile(self._file)
            self.schema = self._parquet.schema_arrow
            metadata = self._parquet.metadata
            self.rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        else:
            reader = module.ipc.open_file(self._file)
            self.schema = reader.schema
            self._counted = reader.num_record_batches

    def sizes(self) -> list[int]:
        if self._parquet is not None:
            return self.rows
        return [len(self._batch(number, self.schema.names[:1])) for number in range(self._counted)]

    def read(self, number: int, names: Sequence[str]) -> pa.Table:
        if self._parquet is not None:
            if self._remote is not None:
                self._remote.fetch(self._chunks(number, names))
            return self._parquet.read_row_group(number, columns=list(names), use_threads=False).select(list(names))
        return pyarrow().Table.from_batches([self._batch(number, names)]).select(list(names))

    def _chunks(self, number: int, names: Sequence[str]) -> list[tuple[int, int]]:
        """Where the columns of a row group lie."""
        group = self._parquet.metadata.row_group(number)
        found = []
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.partition(".")[0] in names:
                starts = [column.data_page_offset, column.dictionary_page_offset or 0]
                found.append((min(start for start in starts if start > 0), column.total_compressed_size))
        return found

    def _batch(self, number: int, names: Sequence[str]) -> pa.RecordBatch:
        fields = [self.schema.names.index(name) for name in names]
        options = pyarrow().ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return pyarrow().ipc.open_file(self._file, options=options).get_batch(number)


def _open_blocks(
    paths: Sequence[str],
    formats: Sequence[str],
    partitions: Partitions,
    columns: Columns,
    additional: Iterable[str],
    missing: Mapping[str, Any],
    window: int | str | None,
    shuffle: Shuffle | None,
) -> ArrowBlocks:
    if "mapped" in formats or "stream" in formats:
        raise ValueError("expected files that are all compressed, or none of them; split them into two calls")
    places: list[_Place] = []
    schema = None
    for path in paths:
        reader = _Reader(path)
        schema = reader.schema if schema is None else _same(path, schema, reader.schema)
        places.extend(_Place(path, number, rows) for number, rows in enumerate(reader.sizes()) if rows)
    if schema is None or not places:
        raise ValueError("it has no rows")
    _distinct(schema.names)
    unknown = ArrowBlocks(paths, places, Chosen({}, (), {}), (), partitions, missing, 1, shuffled=False)
    asked = schema.names if columns is None else list(columns)
    lists = [name for name in schema.names if name in asked and is_list(schema.field(name).type)]
    keys = partitions.missing_in(schema.names)
    names = [*schema.names, *keys]
    found = open_columns("", partitions.add(schema.empty_table(), paths[0], keys), names, missing)
    found.update(open_columns("", unknown.read_table(0, lists), lists, missing) if lists else {})
    reasons = {
        name: "its lists are of different length; give the greatest: columns={'NAME': ((512,), 'int32')}"
        for name in lists
        if found[name].ragged
    }
    reasons.update(dict.fromkeys(_dictionaries(schema), "its names are numbered anew in each block"))
    chosen, loaded = choose_columns(found, columns, additional, reasons)
    open_ended = next((name for name, spec in chosen.specs.items() if spec.ragged is not None), None)
    if open_ended is not None:
        raise ValueError(
            f"columns: {open_ended!r} cannot be Ragged: files of blocks are not read row by row; read the table whole: "
            "arrow(pyarrow.parquet.read_table(path), columns), of Feather pyarrow.feather.read_table(path)"
        )
    rows = window_rows("window", window, sum(place.rows for place in places), chosen.specs)
    source = ArrowBlocks(paths, places, chosen, loaded, partitions, missing, rows, shuffled=shuffle != "rows")
    source.classes = {name: found[name].classes for name in keys if name in chosen.specs and found[name].classes}
    return source


def open_tables(paths: Sequence[str], partitions: Partitions | None = None) -> pa.Table:
    """The mapped tables of several files of one schema, one after the other."""
    module = pyarrow()
    tables: list[Any] = []
    for path in paths:
        with _named([path]):
            file = module.memory_map(path)
            opening = module.ipc.open_file if _magic(path) == _IPC else module.ipc.open_stream
            table = opening(file).read_all()
            if partitions is not None:
                table = partitions.add(table, path, partitions.missing_in(table.column_names))
            tables.append(table)
            _same(path, tables[0].schema, table.schema)
    return module.concat_tables(tables)


def _format(path: str) -> Literal["parquet", "compressed", "mapped", "stream"]:
    """What a file is, by its content.

    Raises:
        ValueError: It is none of these.
    """
    magic = _magic(path)
    if magic[:4] == _PARQUET:
        return "parquet"
    if isinstance(path, RemoteFile):
        if magic != _IPC:
            raise ValueError("it is neither Parquet nor a file of Arrow IPC (streams of it have no n-th row)")
        return "compressed"
    if magic[:4] == _FEATHER_1:
        raise ValueError("Feather of version 1 cannot be mapped; write it anew with pyarrow.feather.write_feather")
    module = pyarrow()
    file = module.memory_map(path)
    whole = file.read_buffer()
    if magic == _IPC:
        reader = module.ipc.open_file(module.BufferReader(whole))
        first = reader.get_batch(0) if reader.num_record_batches else None
        return "mapped" if first is None or _lies_in(first, whole) else "compressed"
    first = next(iter(module.ipc.open_stream(module.BufferReader(whole))), None)
    if first is not None and not _lies_in(first, whole):
        raise ValueError("a compressed stream of Arrow has no n-th row; write it as a file (pyarrow.ipc.new_file)")
    return "stream"


def _lies_in(batch: pa.RecordBatch, whole: pa.Buffer) -> bool:
    end = whole.address + whole.size
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    return all(whole.address <= buffer.address < end for buffer in buffers)


def _magic(path: str) -> bytes:
    with RemoteReader(path) if isinstance(path, RemoteFile) else Path(path).open("rb") as file:
        return file.read(len(_IPC))


def _dictionaries(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pyarrow().types.is_dictionary(field.type)]


def _distinct(names: list[str]) -> list[str]:
    """The names of columns, each of which is there once."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"columns: two columns are called {twice!r}; rename one")
    return names


def _of_distinct_names(table: pa.Table) -> pa.Table:
    """A table in whose dictionaries no name stands twice, and none that is missing: Arrow allows both."""
    for place, field in enumerate(table.schema):
        kind, column = field.type, table.column(place)
        if pyarrow().types.is_dictionary(kind) and column.num_chunks:
            names = column.chunk(0).dictionary
            if names.null_count or len(names.unique()) < len(names):
                column = column.cast(kind.value_type).dictionary_encode()
                table = table.set_column(place, field.name, column.unify_dictionaries())
    return table


def _same(path: str, first: pa.Schema, other: pa.Schema) -> pa.Schema:
    if not other.equals(first):
        raise ValueError(f"{path}: expected the schema of the first file ({first}), got {other}")
    return first


@contextmanager
def _named(paths: Sequence[str]) -> Iterator[None]:
    """Errors of Arrow name the file that was opened."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError, pyarrow().ArrowException) as error:
        named = str(error) if any(path in str(error) for path in paths) else f"{paths[0]}: {error}"
        raise ValueError(named) from error


class _SharedTable:
    """A copy of a table in memory without a file, for other processes while this one keeps it.

    Its place is a path and a name: descriptors are numbered anew, so the path may come to be that of another file.
    """

    def __init__(self, table: pa.Table) -> None:
        name = f"hydrax-table-{secrets.token_hex(16)}"
        descriptor = os.memfd_create(name)
        weakref.finalize(self, os.close, descriptor)
        self.place = f"/proc/{os.getpid()}/fd/{descriptor}", name
        with (
            os.fdopen(os.dup(descriptor), "wb") as file,
            pyarrow().ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table.combine_chunks())


def _opened_copy(place: tuple[str, str]) -> pa.Table:
    """The table at a place of ``_SharedTable``.

    Raises:
        ValueError: It is gone.
    """
    path, name = place
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        own = f"/proc/self/fd/{descriptor}"
        if name in os.readlink(own):  # noqa: PTH115  no Path of what is none
            return open_tables([own])
    except FileNotFoundError:
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    raise ValueError("data: a table in memory is shared only while the process that has it keeps it")


class _Digesting:
    """A file whose content only changes a digest."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True
