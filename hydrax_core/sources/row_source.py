"""What the sources of rows share: a source that fills arrays many rows at once, its loader, its group.

Promise: a value that its array cannot hold is an error of its row, never another value. What a source opens, it opens
at the first read of each process; it travels as paths. Its identity is that of its files and of everything that
decides what a row holds. A column that becomes no array is named in ``Rows.left_out`` with the reason.
A column asked for as ``Ragged`` is whole, or refused by name.
"""

from __future__ import annotations

import copy
import difflib
import functools
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import xxhash

from hydrax_core.data.checks import require
from hydrax_core.data.function import batched, random_in_each_epoch
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import ArraySpec, array_specs, length_name
from hydrax_core.data.ragged import put
from hydrax_core.data.source import Items, Source
from hydrax_core.plan.blocks import BlockRows
from hydrax_core.plan.permutation import Indices, derive_key, permute
from hydrax_core.sources.paths import files_name
from hydrax_core.sources.remote import REQUESTS, RemoteFile

__all__ = [
    "FETCHED_AT_ONCE",
    "OWN_LOADER",
    "Arrays",
    "Chosen",
    "Columns",
    "FileSource",
    "Found",
    "Reopened",
    "RowSource",
    "Rows",
    "by_content",
    "check_indices",
    "choose",
    "columns_of",
    "gather",
    "load_rows",
    "make_rows",
    "narrow",
    "one_length",
    "put",
    "refuse_length_column",
    "require",
    "spec_of",
    "value_spec",
]

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Columns: TypeAlias = Iterable[str] | Mapping[str, Any] | None
"""Names of the columns that become arrays; or name -> dtype, or (shape, dtype[, jax dtype]), or ``None`` for what is
found out."""
Found: TypeAlias = Mapping[str, ArraySpec | str]
"""What is known of each column: the array of one row, or why it is none."""
D = TypeVar("D")
Extra: TypeAlias = list[dict[str, Any]] | None

_log = logging.getLogger("hydrax")
FETCHED_AT_ONCE = 8 * REQUESTS
_SHOWN = 8
_MEASURED_AT_ONCE = 1024
OWN_LOADER = (
    "load it yourself: DataGroup(4, wrap(dataset), loader_arrays={'ids': ((Ragged(),), 'int32')}, loader_func=...), "
    "see docs/mixtures.md"
)
_RAGGED_RECIPE = f"give columns={{'NAME': ((Ragged(),), 'int32')}} to hugging_face, arrow or jsonl, or {OWN_LOADER}"
_NARROW = {"f8": "float32", "i8": "int32", "u8": "uint32", "c16": "complex64"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Chosen(NamedTuple):
    """What becomes of columns: the arrays, the names of those in the additional data, and why others are left out."""

    specs: Mapping[str, ArraySpec]
    additional: tuple[str, ...]
    left_out: Mapping[str, str]


class Reopened:
    """What opens its files anew in each process: they are cached properties, which do not travel."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if not isinstance(getattr(type(self), name, None), functools.cached_property)
        }


class RowSource(Reopened, Source[dict[str, Any]]):
    """Rows with named columns, read many at once; a row is a dict of its arrays and additional columns.

    The array of a ``Ragged`` column has in each row as many elements as there are.

    Attributes:
        specs: The arrays of one row.
        additional: Names of the columns that become additional data.
        left_out: Columns that are neither -> why.
        classes: Arrays of class numbers -> the names that 0, 1, ... stand for.
        blocks: Where the runs of rows start that are cheap to read together, and the number of rows at the end;
            ``None`` where every row costs the same.
        window: Rows that the order shuffles together, blocks being whole; ``None`` to shuffle all.
    """

    specs: Mapping[str, ArraySpec]
    additional: tuple[str, ...] = ()
    left_out: Mapping[str, str] = _NOTHING
    classes: Mapping[str, tuple[str, ...]] = _NOTHING
    blocks: Indices | None = None
    window: int | None = None

    @abstractmethod
    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        """Fill every element of the arrays with these rows, and return their additional columns, if any.

        The array of a ragged column is one of objects: each becomes the array of a row's elements, in any dtype.
        """

    def fill_seeded(self, indices: Indices, arrays: Arrays, seeds: Sequence[int] | None) -> Extra:
        """The same where rows have a part that is random; without seeds they have none."""
        del seeds
        return self.fill(indices, arrays)

    @property
    def ragged(self) -> tuple[str, ...]:
        """Names of the arrays whose rows have different lengths."""
        return tuple(name for name, spec in self.specs.items() if spec.ragged is not None)

    def lengths(self) -> Indices:
        """The elements of each row, for ``pack`` and ``buckets``; without a quicker way all rows are read.

        Raises:
            ValueError: No array is ragged, or two differ.
        """
        return self._agreed({name: self._measured(name) for name in self.ragged})

    def _measured(self, name: str) -> Indices:
        found = np.empty(len(self), np.int64)
        for first in range(0, len(found), _MEASURED_AT_ONCE):
            rows = np.arange(first, min(first + _MEASURED_AT_ONCE, len(found)))
            elements = np.empty(len(rows), object)
            self.fill(rows, {name: elements})
            found[rows] = [len(each) for each in elements]
        return found

    @staticmethod
    def _agreed(lengths: Mapping[str, Indices]) -> Indices:
        if not lengths:
            raise ValueError(f"lengths: no array of the source is ragged; {_RAGGED_RECIPE}")
        (first, found), *others = lengths.items()
        for name, other in others:
            differing = np.flatnonzero(found != other)
            if differing.size:
                row = int(differing[0])
                raise ValueError(
                    f"lengths: row {row} has {found[row]} elements in {first!r} and {other[row]} in {name!r}; "
                    "pack takes arrays of equal lengths: leave one out of the columns"
                )
        return found

    def read(self, indices: Indices, arrays: Arrays) -> list[dict[str, Any]]:
        """Fill the arrays of fixed shape; the rest of each row, its ragged arrays among it."""
        ragged = {name: np.empty(len(indices), object) for name in self.ragged}
        rows = self.fill(indices, {**arrays, **ragged}) or [{} for _ in indices]
        return [{**{name: many[row] for name, many in ragged.items()}, **rest} for row, rest in enumerate(rows)]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        check_indices("row", indices, len(self))
        apart = {*self.ragged, *map(length_name, self.ragged)}
        arrays = {
            name: np.zeros((len(indices), *spec.shape), spec.numpy_dtype)
            for name, spec in self.specs.items()
            if name not in apart
        }
        rest = self.read(np.asarray(indices, np.int64), arrays)
        return [{**{name: array[row] for name, array in arrays.items()}, **rest[row]} for row in range(len(indices))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]


class FileSource(RowSource):
    """Rows of files.

    Args:
        paths: The files, absolute.
        reading: What else decides what a row holds, such as a query.
    """

    content: bool | None = False
    """Whether files are named by their content instead of the time of change; ``None`` where neither names them."""

    def __init__(self, paths: Sequence[str], *reading: Any) -> None:
        self.paths = tuple(paths)
        self._reading = repr(reading)

    def fingerprint(self) -> str:
        """The files by path, size and time of change (elsewhere: ETag), and how they are read."""
        reading = xxhash.xxh3_128_hexdigest(self._reading.encode())
        return f"{files_name(self._files(), self.paths, content=bool(self.content))} {reading}"

    def _files(self) -> Iterable[str]:
        return self.paths


class _Part(RowSource):
    """Some rows of a source, in its order: those of one side of a split, worked out anew in each process."""

    def __init__(self, source: RowSource, share: float, seed: int, *, validation: bool) -> None:
        self._source, self._share, self._seed, self._validation = source, share, seed, validation
        self.specs, self.additional = source.specs, source.additional
        self.window = source.window
        if source.blocks is not None:
            self.blocks = np.searchsorted(self._indices, source.blocks).astype(np.int64)

    @functools.cached_property
    def _indices(self) -> Indices:
        size = len(self._source)
        count = min(size - 1, max(1, round(size * self._share)))
        chosen = np.zeros(size, bool)
        chosen[permute(derive_key(self._seed, "split"), size, np.arange(count))] = True
        return np.flatnonzero(chosen if self._validation else ~chosen)

    def __len__(self) -> int:
        return len(self._indices)

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        return self._source.fill(self._indices[indices], arrays)

    def fill_seeded(self, indices: Indices, arrays: Arrays, seeds: Sequence[int] | None) -> Extra:
        return self._source.fill_seeded(self._indices[indices], arrays, seeds)

    def lengths(self) -> Indices:
        return self._source.lengths()[self._indices]

    def fingerprint(self) -> str | None:
        name = self._source.fingerprint()
        return None if name is None else f"{name} {self._share} {self._seed} {self._validation}"


class Rows(NamedTuple):
    """Rows of a source, ready for a ``Dataloader``.

    Attributes:
        loader_func: What loads them; the group carries it, too.
        training: The group of all rows, shuffled, the last batch padded.
        left_out: Columns that are no arrays and not in the additional data -> why.
        classes: Arrays of class numbers -> the names that 0, 1, ... stand for.
    """

    loader_func: Any
    training: DataGroup[dict[str, Any]]
    left_out: Mapping[str, str] = _NOTHING
    classes: Mapping[str, tuple[str, ...]] = _NOTHING

    def split(self, share: float = 0.1, seed: int = 0) -> tuple[DataGroup[dict[str, Any]], DataGroup[dict[str, Any]]]:
        """Two groups that share the rows at random: for training, and for validation.

        Args:
            share: Part of the rows that is for validation, above 0 and below 1.
            seed: Chooses which.

        Raises:
            ValueError: ``share`` is out of bounds, or there are not two rows.
        """
        if not 0 < share < 1:
            raise ValueError(f"share: expected a number above 0 and below 1, got {share!r}")
        source = cast("RowSource", self.training.items)
        if len(source) < 2:  # noqa: PLR2004  one for each side
            raise ValueError(f"split: expected at least 2 rows, got {len(source)}")
        training, validation = (_Part(source, share, seed, validation=side) for side in (False, True))
        return (
            self.training.replace(data=training, rows=_order(training)),
            self.training.replace(data=validation, rows=_order(validation), loader_func=self.loader_func),
        )


def by_content(group: DataGroup[D]) -> DataGroup[D]:
    """The group, whose caches and states know its files by their content instead of the time of their last change.

    A copy of the files is then the same data, and so is one that was written anew with what it held. All of them are
    read once whenever a cache or a state asks. Names and order still count; files elsewhere are known by their ETag.

    Args:
        group: A group that a source of files returned, or one of its ``split``.

    Raises:
        TypeError: It is no such group.
    """
    return group.replace(data=cast("Sequence[D]", _by_content(group.items)))


def _by_content(source: Any) -> Any:
    changed = copy.copy(source)
    if isinstance(inside := getattr(source, "_source", None), Source):
        changed._source = _by_content(inside)  # noqa: SLF001  a part of our own, or items of files
    elif getattr(source, "content", None) is not None and source.paths:
        changed.content = True
    else:
        raise TypeError(f"by_content: expected a group of a source of files, got one of {type(source).__name__}")
    return changed


def _order(source: RowSource) -> BlockRows | None:
    return None if source.blocks is None or source.window is None else BlockRows(source.blocks, source.window)


@batched
def load_rows(
    items: Items[dict[str, Any]] | list[dict[str, Any]], arrays: Arrays, seeds: Sequence[int] | None
) -> Extra:
    """Fill the arrays with the rows of a ``RowSource``, or, where documents are packed, with rows that were read."""
    if not isinstance(items, Items):
        return [_take_row(row, item, arrays) for row, item in enumerate(items)]
    source = items.source
    assert isinstance(source, RowSource)
    if not source.ragged:
        return source.fill_seeded(items.indices, arrays, seeds)
    apart = {*source.ragged, *map(length_name, source.ragged)}
    return source.read(items.indices, {name: array for name, array in arrays.items() if name not in apart})


def _take_row(row: int, item: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Fill a row of the arrays; what else the item holds."""
    for name, array in arrays.items():
        put(repr(name), array[row : row + 1], np.asarray(item[name])[None])
    return {name: value for name, value in item.items() if name not in arrays}


def make_rows(
    source: RowSource, batch_size: int, seed: int, labels: Iterable[str] = (), *, advice: str = "", **others: Any
) -> Rows:
    """The group of a source, whose files elsewhere are asked for enough rows at once for many requests.

    Args:
        advice: See ``random_in_each_epoch``, which the loader is in training.
        others: Further arguments of the group.
    """
    remote = any(isinstance(path, RemoteFile) for path in getattr(source, "paths", ()))
    loader_func = batched(least=FETCHED_AT_ONCE)(functools.partial(load_rows)) if remote else load_rows
    group = DataGroup(
        batch_size,
        source,
        loader_func=random_in_each_epoch(loader_func, advice) if advice else loader_func,
        loader_arrays=source.specs,
        seed=seed,
        shuffle_first=True,
        remainder="pad",
        labels=labels,
        zeroed=False,
        rows=_order(source),
        **others,
    )
    return Rows(loader_func, group, MappingProxyType(source.left_out), MappingProxyType(source.classes))


def choose(
    argument: str, found: Found, columns: Columns, additional: Iterable[str] = (), *, ragged: bool = False
) -> Chosen:
    """Which columns become arrays, as asked for or, without ``columns``, all that can.

    ``ragged`` says whether the source's ``fill`` takes the arrays of objects of ragged columns.

    Raises:
        TypeError: ``columns`` or ``additional`` is a string, or a dtype is none.
        ValueError: There is no such column, or it cannot become an array.
    """
    texts = tuple(_names("additional", additional, found))
    if columns is None:
        wanted: Mapping[str, Any] = {
            name: None for name, spec in found.items() if isinstance(spec, ArraySpec) and name not in texts
        }
        if not wanted:
            reasons = "; ".join(f"{name!r}: {why}" for name, why in found.items())
            raise ValueError(f"{argument}: nothing can become an array; it holds {reasons or 'none'}")
    else:
        names = _names(argument, columns, found)
        wanted = {name: columns[name] if isinstance(columns, Mapping) else None for name in names}
    specs = dict(
        array_specs(argument, {name: _wanted(argument, name, found[name], ask) for name, ask in wanted.items()})
    )
    refused = next((name for name, spec in specs.items() if spec.ragged and not ragged), None)
    if refused is not None:
        raise ValueError(
            f"{argument}: this source has no rows of different lengths, so {refused!r} cannot be Ragged; {OWN_LOADER}"
        )
    clash = next((name for name, spec in specs.items() if spec.ragged and length_name(name) in found), None)
    if clash is not None:
        raise ValueError(
            f"{argument}: the lengths of {clash!r} would be {length_name(clash)!r}, which is a column; rename that one"
        )
    left_out = {
        name: spec if isinstance(spec, str) else "not asked for"
        for name, spec in found.items()
        if name not in specs and name not in texts
    }
    if columns is None and left_out:
        listed = [f"{name!r} ({why})" for name, why in list(left_out.items())[:_SHOWN]]
        more = f"; {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        _log.warning("%s: no arrays are made of %s%s", argument, "; ".join(listed), more)
    return Chosen(specs, texts, left_out)


def refuse_length_column(name: str, chosen: Mapping[str, ArraySpec]) -> None:
    """Refuse a column, chosen to be an array, that has the name of the lengths of another.

    Raises:
        ValueError: There is one.
    """
    if length_name(name) in chosen:
        raise ValueError(
            f"columns: the lengths of {name!r} would be {length_name(name)!r}, which is a column, too; "
            "name the columns to load, and leave one of these two out"
        )


def _names(argument: str, columns: Iterable[str], found: Found) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"{argument}: expected names of columns, got the string {columns!r}; write [{columns!r}]")
    names = list(columns)
    for name in names:
        if name not in found:
            close = difflib.get_close_matches(str(name), found, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{argument}: there is no {name!r}; there are {', '.join(map(repr, found))}{hint}")
    return names


def _wanted(argument: str, name: str, found: ArraySpec | str, ask: Any) -> Any:
    if ask is None:
        if isinstance(found, str):
            raise ValueError(f"{argument}: {name!r} cannot become an array: {found}")
        return found
    if isinstance(ask, tuple | list):
        return ask
    if isinstance(found, str):
        raise ValueError(f"{argument}: {name!r}: expected (shape, dtype), got {ask!r}: {found}")  # noqa: TRY004  same
    return found.shape, ask


def one_length(argument: str, lengths: Mapping[str, int]) -> int:
    """The rows that all arrays of a file have.

    Raises:
        ValueError: They have different ones.
    """
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"{argument}: expected arrays of one length; {found}; name those to load")
    return next(iter(lengths.values()))


def columns_of(names: Sequence[str], columns: Iterable[Iterable[Any]]) -> Extra:
    """Additional columns as a dict a row; ``None`` without any."""
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] if names else None


def check_indices(what: str, indices: Iterable[int], size: int) -> None:
    """Refuse, with an IndexError, what is not in ``range(size)``."""
    for index in indices:
        if not 0 <= index < size:
            raise IndexError(f"{what} {index} of {size}")


def spec_of(shape: tuple[int, ...], dtype: Any) -> ArraySpec:
    """An array of a dtype as ``narrow`` has it, in memory and on the device."""
    narrowed = narrow(np.dtype(dtype))
    return ArraySpec(shape, narrowed, narrowed)


def value_spec(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec | str:
    """The array of a row of an array of rows, or why it is none."""
    if not shape:
        return "it is a single value"
    if dtype.kind not in "biufc" or dtype.hasobject:
        return f"jax has no dtype {dtype}"
    return f"its shape is {shape}" if 0 in shape else spec_of(tuple(shape[1:]), dtype)


def narrow(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The native dtype of at most 32 bits a number, as in jax's default mode."""
    return np.dtype(_NARROW.get(dtype.newbyteorder("=").str[1:], dtype.newbyteorder("=")))


def gather(where: str, values: npt.NDArray[Any], indices: Indices, target: npt.NDArray[Any]) -> None:
    """``target[...] = values[indices]``, with one copy where the dtypes are equal; the indices are within bounds."""
    if values.dtype == target.dtype and values.flags.c_contiguous and values.shape[1:] == target.shape[1:]:
        np.take(values, indices, axis=0, out=target, mode="clip")  # other modes fill a buffer first
    else:
        put(where, target, values[indices])
