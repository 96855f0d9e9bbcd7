"""Columns of Arrow as NumPy arrays: what becomes of which type, and how rows are gathered from chunks.

Promise: numbers without missing values are read where they lie (a mapped file stays on the disk), the rest is decoded
for the rows asked for only. A missing number is NaN where the array is of floats, else an error of its row, as a
missing list is, unless ``missing`` says what it is. Lists of different length fill rows of the greatest, zeros behind
them, and their length stands in an array of its own. Lists of lists that make a matrix of one shape are that matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec, length_name
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.row_source import (
    OWN_LOADER,
    Arrays,
    Chosen,
    Columns,
    choose,
    gather,
    put,
    refuse_length_column,
    require,
    spec_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "ObjectColumn", "choose_columns", "fill_columns", "is_list", "open_columns", "pyarrow"]


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def pyarrow() -> Any:
    """The module.

    Raises:
        ImportError: It is not installed.
    """
    return require("pyarrow", "arrow", "reading Arrow and Parquet")


def choose_columns(
    found: Mapping[str, Column], columns: Columns, additional: Iterable[str], others: Mapping[str, Any] = _NOTHING
) -> tuple[Chosen, tuple[str, ...]]:
    """Which columns become arrays; lists of different length, or cut to another, bring an array of their lengths.

    Args:
        others: What becomes of a column instead of what it says itself.

    Returns:
        The choice, and the names of the columns that are read for its arrays.
    """
    known = {name: others.get(name) or column.spec for name, column in found.items()}
    chosen = choose("columns", known, columns, additional, ragged=True)
    specs = dict(chosen.specs)
    loaded = tuple(name for name in found if name in specs)
    for name, spec in chosen.specs.items():
        if spec.ragged is not None:
            if isinstance(others.get(name), ArraySpec) or found[name].lists != 1 or isinstance(found[name].dtype, str):
                why = found[name].dtype if isinstance(found[name].dtype, str) else "it has no lists of any length"
                raise ValueError(f"columns: {name!r} cannot be Ragged: {why}; {OWN_LOADER}")
        elif (
            name in found
            and found[name].lists
            and (found[name].ragged or spec.shape != getattr(known[name], "shape", None))
        ):
            refuse_length_column(name, chosen.specs)
            specs[length_name(name)] = spec_of((), np.int32)
    return chosen._replace(specs=specs), loaded


def fill_columns(columns: Mapping[str, Column], indices: Indices, arrays: Arrays) -> None:
    for name, column in columns.items():
        if name in arrays and arrays[name].dtype.hasobject:
            column.elements(indices, arrays[name])
        elif name in arrays:
            lengths = length_name(name)
            column.fill(indices, arrays[name], arrays.get(lengths) if column.lists and lengths not in columns else None)


def value_type(kind: pa.DataType) -> tuple[tuple[int, ...], int, np.dtype[Any] | str]:
    """Shape of a value, levels of lists of any length around it, and its dtype or why there is none."""
    module = pyarrow()
    shape: tuple[int, ...] = ()
    lists = 0
    while True:
        if isinstance(kind, module.BaseExtensionType):
            fixed = getattr(kind, "shape", None)
            if fixed is None:
                kind = kind.storage_type
                continue
            return tuple(fixed), 0, _dtype(_innermost(kind.storage_type))
        if module.types.is_dictionary(kind):
            names = not shape and not lists and _is_text(kind.value_type)
            return shape, lists, np.dtype(np.int32) if names else f"its type is {kind}"
        if module.types.is_fixed_size_list(kind):
            shape = (*shape, kind.list_size)
        elif is_list(kind):
            if shape:
                return (), lists, f"lists of any length within ones of fixed length ({kind})"
            lists += 1
        else:
            return shape, lists, _dtype(kind)
        kind = kind.value_type


def _innermost(kind: Any) -> Any:
    while hasattr(kind, "value_type") or hasattr(kind, "storage_type"):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    return kind


def _is_text(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _dtype(kind: Any) -> np.dtype[Any] | str:
    types = pyarrow().types
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return found
    return f"its type is {kind}"


class Column:
    """A column that becomes an array: rows are gathered into the array of a batch.

    Args:
        missing: What a missing value is; ``None`` for an error.
        shape: Shape of a value, where the process may not know its extension type.
    """

    def __init__(
        self, where: str, chunks: Sequence[pa.Array], missing: Any = None, shape: tuple[int, ...] | None = None
    ) -> None:
        self.where, self._missing = where, missing
        self._chunks = _matrices([_storage(chunk) for chunk in chunks if len(chunk)])
        self._starts = np.concatenate([[0], np.cumsum([len(chunk) for chunk in self._chunks])]).astype(np.int64)
        kind = chunks[0].type
        self.is_extension = isinstance(kind, pyarrow().BaseExtensionType)
        self.classes: tuple[str, ...] = ()
        """The names that its numbers stand for."""
        if pyarrow().types.is_dictionary(kind):
            self.classes = tuple(map(str, chunks[0].dictionary.to_pylist()))
        self.shape, self.lists, self.dtype = value_type(
            self._chunks[0].type if self._chunks and is_list(kind) else kind
        )
        """Shape and dtype of one value, or the reason why there is none."""
        if shape is not None:
            self.shape, self.lists, self.dtype = shape, 0, _dtype(_innermost(kind))
        if self.lists and missing is not None and not isinstance(missing, list | tuple | np.ndarray):
            raise ValueError(f"missing: {where} holds lists; expected one, such as [], got {missing!r}")
        self._views: list[npt.NDArray[Any] | None] | None = None
        self._scattered: _Scattered | None = None
        self._lists: list[Callable[[int], npt.NDArray[Any]] | None] | None = None

    @property
    def spec(self) -> ArraySpec | str:
        """The array of a row: of the greatest length, where it is a list."""
        if isinstance(self.dtype, str):
            return self.dtype
        if self.lists > 1:
            return "lists of lists that differ in their lengths"
        shape = self.shape
        if self.lists:
            given = 0 if self._missing is None else len(self._missing)
            longest = max((int(lengths.max(initial=0)) for lengths in map(_lengths, self._chunks)), default=0)
            shape = (max(longest, given), *shape)
        return f"its shape is {shape}" if 0 in shape else spec_of(shape, self.dtype)

    @property
    def ragged(self) -> bool:
        """Whether its rows are of different length."""
        if not self.lists:
            return False
        found = {
            int(edge)
            for lengths in map(_lengths, self._chunks)
            if len(lengths)
            for edge in (lengths.min(), lengths.max())
        }
        return len(found) > 1

    def lengths(self) -> Indices:
        """The length of each row of lists.

        Raises:
            ValueError: A list is missing.
        """
        found = np.concatenate([np.empty(0, np.int64), *map(_lengths, self._chunks)]).astype(np.int64)
        for start, chunk in zip(self._starts.tolist(), self._chunks, strict=False):
            if chunk.null_count:
                rows = start + np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))
                found[rows] = len(self._missing_list(int(rows[0])))
        return found

    def fill(self, indices: Indices, array: npt.NDArray[Any], lengths: npt.NDArray[Any] | None = None) -> None:
        """Gather rows.

        Args:
            lengths: Where their lengths go; ``None`` where all have that of the array.

        Raises:
            ValueError: A value is missing, or has another length.
            OverflowError: A number does not fit.
        """
        if self.lists > 1:
            raise ValueError(f"{self.where}: {self.spec}")
        if self.lists:
            self._fill_lists(indices, array, lengths)
            return
        views = self._mapped()
        if len(views) == 1 and views[0] is not None:
            gather(self.where, views[0], indices, array)
            return
        if self._scattered is not None:
            self._scattered.gather(self.where, indices, array)
            return
        which = np.searchsorted(self._starts, indices, "right") - 1
        local = indices - self._starts[which]
        for chunk in np.unique(which).tolist():
            rows = np.flatnonzero(which == chunk)
            values = self._decoded(self._chunks[chunk].take(pyarrow().array(local[rows])), indices[rows])
            part = np.empty((len(rows), *array.shape[1:]), array.dtype)
            put(self.where, part, values)
            array[rows] = part

    def _mapped(self) -> Sequence[npt.NDArray[Any] | None]:
        """Each chunk as an array where it lies, ``None`` where it has to be decoded."""
        if self._views is None:
            views = [_view(chunk, self.shape) for chunk in self._chunks]
            found = [view for view in views if view is not None]
            if len(found) == len(views) > 1:
                self._scattered = _Scattered(found, self._starts)
            self._views = views
        return self._views

    def _decoded(self, values: Any, indices: Indices) -> npt.NDArray[Any]:
        missing = values.null_count
        if missing and self._missing is not None and not self.shape:
            values, missing = self._filled(values), 0
        if missing and (self.shape or not pyarrow().types.is_floating(values.type)):
            row = int(indices[np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]])
            raise ValueError(f"{self.where}: row {row} has no value (null); missing={{name: value}} says what it is")
        while hasattr(values.type, "value_type"):
            values = values.flatten()
            if values.null_count:
                raise ValueError(f"{self.where}: a list has no value (null) at some place")
        found: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return found.reshape(len(indices), *self.shape)

    def _filled(self, values: Any) -> Any:
        try:
            return values.fill_null(self._missing)
        except (pyarrow().ArrowException, OverflowError, TypeError) as error:
            raise ValueError(f"missing: {self.where} is of {values.type}, which {self._missing!r} is not") from error

    def elements(self, indices: Indices, array: npt.NDArray[Any]) -> None:
        """Gather the lists of rows as they are, into an array of objects."""
        for row, values in enumerate(self._values_of(indices)):
            array[row] = values

    def _values_of(self, indices: Indices) -> Iterator[npt.NDArray[Any]]:
        which = np.searchsorted(self._starts, indices, "right") - 1
        local = indices - self._starts[which]
        if self._lists is None:
            self._lists = [_list_view(chunk, self.shape) for chunk in self._chunks]
        for row, chunk, offset in zip(indices.tolist(), which.tolist(), local.tolist(), strict=True):
            view = self._lists[chunk]
            yield self._decoded_list(chunk, offset, row) if view is None else view(offset)

    def _fill_lists(self, indices: Indices, array: npt.NDArray[Any], lengths: npt.NDArray[Any] | None) -> None:
        if lengths is not None:
            array[...] = 0
        for row, values in enumerate(self._values_of(indices)):
            where = f"{self.where}: row {indices[row]}"
            if lengths is None:
                put(where, array[row : row + 1], values[None])
            else:
                count = min(len(values), array.shape[1])
                put(where, array[row, :count], values[:count])
                lengths[row] = count

    def _decoded_list(self, chunk: int, offset: int, row: int) -> npt.NDArray[Any]:
        value = self._chunks[chunk][offset]
        if not value.is_valid:
            return self._missing_list(row)
        return self._decoded(value.values, np.full(len(value.values), row))

    def _missing_list(self, row: int) -> npt.NDArray[Any]:
        if self._missing is None:
            raise ValueError(f"{self.where}: row {row} has no value (null); missing={{name: []}} says what it is")
        return np.asarray(self._missing, self.dtype).reshape(-1, *self.shape)


class _Scattered:
    """Chunks of equal rows anywhere in memory, of which rows are gathered at once.

    Rows are elements of an array that overlaps itself, from the first chunk to the end of the last, at the greatest
    step that reaches all rows. What lies between the chunks is never touched. A loop over the rows takes twice as long.

    Args:
        chunks: The chunks.
        starts: Number of the first row of each, and of all rows.
    """

    def __init__(self, chunks: Sequence[npt.NDArray[Any]], starts: Indices) -> None:
        self._chunks = chunks  # they keep the memory
        row = chunks[0].nbytes // len(chunks[0])
        addresses = np.array([chunk.__array_interface__["data"][0] for chunk in chunks], np.int64)
        base = int(addresses.min())
        addresses -= base
        end = int((addresses + [chunk.nbytes for chunk in chunks]).max())
        step = int(np.gcd.reduce(np.append(addresses, row)))
        memory = (ctypes.c_char * end).from_address(base)
        first = np.frombuffer(memoryview(memory), np.dtype(f"V{row}"), 1)
        self._rows = np.lib.stride_tricks.as_strided(first, ((end - row) // step + 1,), (step,), writeable=False)
        self._apart = step == row
        self._ends, self._steps = starts[1:], row // step
        self._firsts = addresses // step - starts[:-1] * self._steps
        """Place of the row 0 of each chunk, if its rows went down so far."""

    def gather(self, where: str, indices: Indices, array: npt.NDArray[Any]) -> None:
        """Fill an array with rows; see ``row_source.gather``."""
        places = self._firsts[self._ends.searchsorted(indices, "right")] + indices * self._steps
        kept = self._chunks[0]
        if array.dtype != kept.dtype or array.shape[1:] != kept.shape[1:]:
            put(where, array, self._rows[places].view(kept.dtype).reshape(len(indices), *kept.shape[1:]))
            return
        target = array.reshape(len(array), -1).view(self._rows.dtype)[:, 0]
        if self._apart:  # they do not overlap, and NumPy gathers without a copy between
            np.take(self._rows, places, out=target, mode="clip")
        else:
            target[...] = self._rows[places]


def _storage(chunk: Any) -> Any:
    while isinstance(chunk.type, pyarrow().BaseExtensionType):
        chunk = chunk.storage
    if not pyarrow().types.is_dictionary(chunk.type):
        return chunk
    # Numbers of names have a sign, so that -1 may stand for a missing one; polars has them without.
    unsigned = pyarrow().types.is_unsigned_integer(chunk.indices.type)
    return chunk.indices.cast(pyarrow().int32()) if unsigned else chunk.indices


def _matrices(chunks: list[Any]) -> list[Any]:
    """Chunks of lists of lists as ones of fixed sizes, where all have the same; nothing is copied."""
    if not chunks or not is_list(chunks[0].type) or not is_list(chunks[0].type.value_type):
        return chunks
    sizes: list[int] = []
    levels = chunks
    while is_list(levels[0].type):
        found = {int(edge) for chunk in levels for edge in (_lengths(chunk).min(), _lengths(chunk).max())}
        if len(found) != 1 or 0 in found or any(chunk.null_count for chunk in levels):
            return chunks
        sizes.append(found.pop())
        levels = [chunk.flatten() for chunk in levels]
    for size in reversed(sizes):
        levels = [pyarrow().FixedSizeListArray.from_arrays(level, size) for level in levels]
    return levels


def is_list(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind))


def _lengths(chunk: Any) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.diff(chunk.offsets.to_numpy())
    return found


def _view(chunk: Any, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """A chunk as an array that shares its memory, ``None`` where that cannot be."""
    types = pyarrow().types
    length = len(chunk)
    while types.is_fixed_size_list(chunk.type) and not chunk.null_count:
        chunk = chunk.flatten()
    if chunk.null_count or not (types.is_integer(chunk.type) or types.is_floating(chunk.type)):
        return None
    found: npt.NDArray[Any] = chunk.to_numpy(zero_copy_only=True)
    return found.reshape(length, *shape)


def _list_view(chunk: Any, shape: tuple[int, ...]) -> Callable[[int], npt.NDArray[Any]] | None:
    """What gives the values of a list of a chunk where they lie; ``None`` where they have to be decoded."""
    values = None if chunk.null_count else _view(chunk.values, shape)
    if values is None:
        return None
    known, edges = values, chunk.offsets.to_numpy()
    return lambda offset: known[edges[offset] : edges[offset + 1]]


def open_columns(
    where: str,
    table: Any,
    names: Iterable[str],
    missing: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]] = _NOTHING,
) -> dict[str, Column]:
    columns = {}
    for name in names:
        chunks = table.column(name).chunks or [pyarrow().array([], table.schema.field(name).type)]
        columns[name] = Column(f"{where}{name!r}", chunks, missing.get(name), shapes.get(name))
    return columns


class ObjectColumn:
    """A column that becomes additional data: rows as Python's values."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._starts = np.concatenate([[0], np.cumsum([len(chunk) for chunk in self._chunks])]).astype(np.int64)

    def take(self, indices: Indices) -> list[Any]:
        which = np.searchsorted(self._starts, indices, "right") - 1
        local = (indices - self._starts[which]).tolist()
        return [self._chunks[chunk][row].as_py() for chunk, row in zip(which.tolist(), local, strict=True)]
