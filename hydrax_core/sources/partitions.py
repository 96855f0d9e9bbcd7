"""Columns that stand in the names of folders, in Hive's way: ``year=2024/kind=a/part-0.parquet``.

Promise: a column for each key in the folders between the files and the folder, or the fixed beginning of the pattern,
that was given: int64 where all its values are whole numbers, else the names of a dictionary. Files whose folders have
other keys than those of the first are refused by name. A column of this name in the files is the one that counts.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import xxhash

from hydrax_core.sources.remote import is_remote, shown_address
from hydrax_core.sources.row_source import require

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Partitions", "partitions_of"]

_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_REPEATED = 1 << 20
"""Rows of a chunk of equal values, of which a long column has many references."""


class Partitions:
    """Values that all rows of a file share.

    Args:
        values: Key -> the value of each file by its path, ``None`` for none.
    """

    def __init__(self, values: Mapping[str, Mapping[str, str | None]]) -> None:
        self._names: dict[str, list[str]] = {}
        self._values: dict[str, dict[str, int | None]] = {}
        for key, texts in values.items():
            known = sorted({text for text in texts.values() if text is not None})
            if all(_WHOLE.fullmatch(text) for text in known):
                self._values[key] = {path: None if text is None else int(text) for path, text in texts.items()}
            else:
                number = {text: place for place, text in enumerate(known)}
                self._names[key] = known
                self._values[key] = {path: None if text is None else number[text] for path, text in texts.items()}

    def __repr__(self) -> str:
        return xxhash.xxh3_128_hexdigest(repr((self._names, self._values)).encode("utf-8", "surrogateescape"))

    def missing_in(self, names: Sequence[str]) -> list[str]:
        """The keys that are not among these names of columns."""
        return [key for key in self._values if key not in names]

    def add(self, table: pa.Table, path: str, keys: Sequence[str]) -> pa.Table:
        """A table with these keys of its file as further columns."""
        module = require("pyarrow", "arrow", "reading Arrow and Parquet")
        for key in keys:
            names, rows = self._names.get(key), table.num_rows
            kind = module.int64() if names is None else module.int32()
            value = module.scalar(self._values[key][path], kind)
            chunk: Any = module.repeat(value, min(rows, _REPEATED))
            if names is not None:
                chunk = module.DictionaryArray.from_arrays(chunk, module.array(names, module.string()))
            chunks = [chunk] * (rows // _REPEATED) + [chunk[: rows % _REPEATED]]
            table = table.append_column(key, module.chunked_array(chunks))
        return table


def partitions_of(given: Sequence[str | os.PathLike[str]], files: Sequence[str]) -> Partitions:
    """The partitions of files that were found as folders, patterns and files.

    Raises:
        ValueError: The folders of one file have other keys than those of the first.
    """
    parents = [os.path.dirname(file) for file in files]  # noqa: PTH120  many
    common = os.path.commonpath(parents)
    if "://" in files[0]:
        common = common.replace(":/", "://", 1)
    roots = sorted({*filter(None, map(_root, given)), common}, key=len)
    folders = {parent: _keys(parent, roots) for parent in set(parents)}
    found = [folders[parent] for parent in parents]
    for file, keys in zip(files, found, strict=True):
        if list(keys) != list(found[0]):
            keys_of = [", ".join(f"{key}=" for key in some) or "none" for some in (found[0], keys)]
            raise ValueError(
                f"{file}: expected folders with the keys of {files[0]} ({keys_of[0]}), got {keys_of[1]}; "
                "give those of one layout"
            )
    return Partitions({key: {file: keys[key] for file, keys in zip(files, found, strict=True)} for key in found[0]})


def _root(given: str | os.PathLike[str]) -> str | None:
    """The folder below which keys count; ``None`` for a file, which says nothing of that."""
    if is_remote(given):
        return shown_address(str(given)).partition("*")[0].rpartition("/")[0]
    path = Path(os.path.abspath(os.fspath(given)))  # noqa: PTH100  as files are found
    if path.is_dir():
        return str(path)
    if path.exists() or not glob.has_magic(str(path)):
        return None
    return str(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)))


def _keys(folder: str, roots: Sequence[str]) -> dict[str, str | None]:
    root = next((root for root in roots if f"{folder}{os.sep}".startswith(os.path.join(root, ""))), folder)  # noqa: PTH118  a prefix that ends with a separator
    parts = [part.partition("=") for part in Path(os.path.relpath(folder, root)).parts if "=" in part]
    return {unquote(key): None if value == _NULL else unquote(value) for key, _, value in parts if key}
