"""Lines of text: JSON, CSV, or as they are; read by number in the workers, from an index of their beginnings.

Promise: what ``lines`` and ``record_columns`` promise. A line that is damaged fails its item, by file and byte. Which
files it is about is named by path, size and time of change.
"""

from __future__ import annotations

import csv as csv_format
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from hydrax_core.data.checks import integer
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.index import Folder, regular_file
from hydrax_core.sources.lines import Kind, LineFiles
from hydrax_core.sources.paths import Paths, find_files
from hydrax_core.sources.record_columns import (
    LENGTH,
    additional_of,
    choose_columns,
    fill_columns,
    read_json,
    sampled,
    text_number,
    warn_cut,
)
from hydrax_core.sources.remote import RemoteFile
from hydrax_core.sources.row_source import Arrays, Columns, Extra, FileSource, Rows, make_rows, put, spec_of

__all__ = ["CSV", "JSONL", "TEXT", "csv", "jsonl", "text_lines"]

JSONL, CSV, TEXT = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".txt",)
"""What counts in a folder."""

_DELIMITERS = ",\t;|"
_HEAD = 20

Encode: TypeAlias = Callable[[str], Sequence[int]]


def jsonl(
    paths: Paths,
    columns: Columns = None,
    *,
    additional: Sequence[str] = (),
    missing: Mapping[str, Any] | None = None,
    length: int = LENGTH,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    index_folder: Folder = None,
) -> Rows:
    """The lines of JSON files, one object a line, as arrays by name.

    Numbers become at most 32 bits wide, lists of one length an array, lists of several lengths one of the greatest
    found, padded with zeros, with their length in ``<name>_length``. Texts are left out, unless there is nothing else
    or they are named: then they are UTF-8 bytes, cut and padded to ``length``. Empty lines do not count. A missing
    number is NaN in a column of floats, else an error of its row, unless ``missing`` says what it is.

    Args:
        paths: A file, a folder (its ``.jsonl`` and ``.ndjson`` files), a pattern with ``*``, or several of these.
        columns: Names of the columns to read, or a dict of ``name -> (shape, dtype)``; by default all of numbers.
        additional: Names of columns that go to ``batch.additional`` as they are.
        missing: What a missing value is, by column.
        length: Bytes kept of a text; 256 unless given, and a warning tells of longer ones.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        index_folder: Where to keep the index; by default the user's cache folder, see ``hydrax_core.sources.index``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or has no such columns.
    """
    source = JsonLines(find_files("paths", paths, JSONL, "jsonl"), index_folder, dict(missing or {}))
    source.choose(columns, additional, length)
    return make_rows(source, batch_size, seed, labels)


def csv(
    paths: Paths,
    columns: Columns = None,
    *,
    additional: Sequence[str] = (),
    missing: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
    length: int = LENGTH,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    index_folder: Folder = None,
) -> Rows:
    """The rows of CSV files as arrays by column.

    Columns of numbers are found out: ``int32``, ``float32`` or ``bool``. Empty cells, and NA, N/A, NaN, null and None
    in any case, are missing numbers. Missing numbers and texts are as in ``jsonl``; a column of numbers and other text
    is left out, unless it is named.

    Args:
        paths: A file, a folder (its ``.csv`` and ``.tsv`` files), a pattern with ``*``, or several of these, all with
            the same columns.
        columns: Names of the columns to read, or a dict of ``name -> (shape, dtype)``; by default all of numbers.
        additional: Names of columns that go to ``batch.additional`` as text.
        missing: What a missing value is, by column.
        names: Names of the columns, where the files have no header line.
        delimiter: What separates values; by default comma, tab, semicolon or bar, as the first lines show.
        quotes: Whether values may be within double quotes, and then hold delimiters and line breaks.
        length: Bytes kept of a text; 256 unless given, and a warning tells of longer ones.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        index_folder: Where to keep the index; by default the user's cache folder, see ``hydrax_core.sources.index``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, its columns differ from those of the first one, or it has no such columns.
    """
    files = find_files("paths", paths, CSV, "csv")
    source = CsvRecords(files, index_folder, names, delimiter, quotes, dict(missing or {}))
    source.choose(columns, additional, length)
    return make_rows(source, batch_size, seed, labels)


def text_lines(
    paths: Paths,
    *,
    length: int = LENGTH,
    encode: Encode | None = None,
    additional: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    index_folder: Folder = None,
) -> Rows:
    """The lines of text files, empty ones included, in batches of ``text`` and ``length`` (int32, (batch,)).

    ``text`` is the line as UTF-8 bytes (uint8, (batch, length)), or what ``encode`` makes of it (int32), cut to
    ``length`` and padded with zeros.

    Args:
        paths: A file, a folder (its ``.txt`` files), a pattern with ``*``, or several of these.
        length: Values kept of a line; 256 unless given, and a warning tells of longer ones.
        encode: Turns a line into numbers, in the workers: a tokenizer's ``encode``.
        additional: Whether ``batch.additional["line"]`` has the lines as text.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        index_folder: Where to keep the index; by default the user's cache folder, see ``hydrax_core.sources.index``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or an argument has a wrong value.
    """
    integer("length", length, minimum=1)
    source = TextLines(find_files("paths", paths, TEXT, "text_lines"), length, encode, additional, index_folder)
    if not len(source):
        raise ValueError(f"{source.what}: it has no lines")
    return make_rows(source, batch_size, seed)


class _Lines(FileSource):
    def __init__(
        self, paths: Sequence[str], kind: Kind, index_folder: Folder, *reading: Any, header: bool = False
    ) -> None:
        for path in paths:
            if not isinstance(path, RemoteFile):
                regular_file(path)
        super().__init__(paths, *reading)
        self.lines = LineFiles(paths, kind, header=header, folder=index_folder)
        self.what = paths[0] if len(paths) == 1 else f"{len(paths)} files, of which the first is {paths[0]}"

    def __len__(self) -> int:
        return len(self.lines)

    def decoded(self, indices: Indices) -> list[Any]:
        """Some lines, decoded.

        Raises:
            ValueError: A line is damaged; the text names the file and the byte.
        """
        found = []
        for index, line in zip(indices.tolist(), self.lines.read(indices), strict=True):
            try:
                found.append(self.decode(line))
            except OverflowError as error:
                raise OverflowError(f"{self.lines.place(index)}: {error}") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self.lines.place(index)}: {error}") from error
        return found

    @abstractmethod
    def decode(self, line: bytes) -> Any:
        """What a line says."""


class TextLines(_Lines):
    def __init__(
        self, paths: Sequence[str], length: int, encode: Encode | None, additional: bool, index_folder: Folder
    ) -> None:
        super().__init__(paths, "all", index_folder, length, getattr(encode, "__qualname__", encode and type(encode)))
        dtype = np.uint8 if encode is None else np.int32
        self.specs = {"text": spec_of((length,), dtype), "length": spec_of((), np.int32)}
        self.additional = ("line",) if additional else ()
        self.encode = encode

    def decode(self, line: bytes) -> str:
        """The text of a line; a damaged character is refused."""
        return line.decode()

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        lines = self.decoded(indices)
        for row, line in enumerate(lines):
            target = arrays["text"][row]
            values: Any = np.frombuffer(line.encode(), np.uint8) if self.encode is None else self.encode(line)
            if len(values) > LENGTH == len(target):
                warn_cut("text", len(values))
            values = np.asarray(values)[: len(target)]
            if len(values):
                put(f"{self.what}: the encoded text", target[: len(values)], values)
            target[len(values) :] = 0
            arrays["length"][row] = len(values)
        return [{"line": line} for line in lines] if self.additional else None


class _Records(_Lines):
    parse: Callable[[str], Any] | None = None
    missing: Mapping[str, Any]

    def choose(self, columns: Columns, additional: Sequence[str], length: int) -> None:
        if not len(self):
            raise ValueError(f"{self.what}: it has no rows")
        integer("length", length, minimum=1)
        records = self.decoded(np.array(sampled(len(self))))
        self.specs, self.additional, self.left_out = choose_columns(
            records, columns, additional, length, self.parse, missing=self.missing, ragged=True
        )

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        records = self.decoded(indices)
        fill_columns(records, arrays, f"{self.what}: ", self.parse, self.missing)
        return additional_of(records, self.additional)


class JsonLines(_Records):
    def __init__(self, paths: Sequence[str], index_folder: Folder, missing: Mapping[str, Any]) -> None:
        super().__init__(paths, "filled", index_folder, missing)
        self.missing = missing

    def decode(self, line: bytes) -> dict[str, Any]:
        found = read_json(line)
        if not isinstance(found, dict):
            raise ValueError(f"expected a JSON object a line, got a {type(found).__name__}")  # noqa: TRY004  the file's content is wrong
        return found


class CsvRecords(_Records):
    """Rows of CSV files as dicts of texts by column."""

    parse = staticmethod(text_number)

    def __init__(
        self,
        paths: Sequence[str],
        index_folder: Folder,
        names: Sequence[str] | None,
        delimiter: str | None,
        quotes: bool,
        missing: Mapping[str, Any],
    ) -> None:
        kind: Kind = "quoted" if quotes else "filled"
        super().__init__(paths, kind, index_folder, names, delimiter, quotes, missing, header=names is None)
        self.missing = missing
        self.quotes = quotes
        heads = [self.lines.first_lines(file, _HEAD) for file in range(len(paths))]
        if not heads[0]:
            raise ValueError(f"{paths[0]}: it is empty")
        self.delimiter = delimiter or _delimiter([line.decode("utf-8", "replace") for line in heads[0]])
        self.names = self._header(paths[0], heads[0][0]) if names is None else tuple(names)
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise ValueError(f"{paths[0]}: two columns are called {repeated[0]!r}; give names=(...) of your own")
        for path, head in zip(paths, heads, strict=True):
            if names is None and head and (found := self._header(path, head[0])) != self.names:
                raise ValueError(f"{path}: its columns are {found}; those of {paths[0]} are {self.names}")

    def _header(self, path: str, line: bytes) -> tuple[str, ...]:
        try:
            return tuple(self._split(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line 1: {error}") from error

    def decode(self, line: bytes) -> dict[str, str]:
        """The values of a row by column."""
        values = self._split(line.decode())
        if len(values) != len(self.names):
            raise ValueError(f"expected {len(self.names)} values, got {len(values)}")
        return dict(zip(self.names, values, strict=True))

    def _split(self, text: str) -> list[str]:
        try:
            quoting: Any = csv_format.QUOTE_MINIMAL if self.quotes else csv_format.QUOTE_NONE
            rows = list(csv_format.reader([text], delimiter=self.delimiter, quoting=quoting, strict=True))
        except csv_format.Error as error:
            raise ValueError(f"no row of CSV: {error}") from error
        return rows[0] if rows else []


def _delimiter(lines: Sequence[str]) -> str:
    """The one that most lines have most of, as often as the first one."""
    if not lines:
        return ","
    counts = {each: lines[0].count(each) for each in _DELIMITERS}
    agreeing = {each: sum(line.count(each) == count for line in lines) for each, count in counts.items() if count}
    return max(agreeing, key=lambda each: (agreeing[each], counts[each]), default=",")
