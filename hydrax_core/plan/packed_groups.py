"""Groups whose rows are several documents each: packed, or cut from the stream of all of them.

Promise: the user's function loads one document at a time, into exactly the place that it has in the row. Where a
document ends another segment begins; what is behind the last is padding, with segment 0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import choice, integer
from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.function import is_batched
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import ArraySpec, length_name
from hydrax_core.data.ragged import put
from hydrax_core.data.read_lock import PlainData, is_plain
from hydrax_core.data.rows import DrawnRows, RowOrder, value_digest
from hydrax_core.data.source import Source
from hydrax_core.plan.lengths import NO_RAGGED, Progress, lengths_of
from hydrax_core.plan.packing import (
    ConcatenatedRows,
    PackedRows,
    Piece,
    SplitLong,
    checked_length,
    checked_lengths,
)
from hydrax_core.plan.permutation import derive_key, few_seeds, permute

__all__ = ["DocumentRows", "PackedItem", "concat", "pack"]

D = TypeVar("D")
_NAMES = {
    "hydrax": {"segment_ids": "segment_ids", "positions": "positions"},
    "maxtext": {"segment_ids": "{}_segmentation", "positions": "{}_position"},
    "grain": {"segment_ids": "{}_segment_ids", "positions": "{}_positions"},
}
_INT32 = np.dtype(np.int32)
_logger = logging.getLogger("hydrax")


@overload
def pack(data: DataGroup[D], lengths: Any = None, *, length: int, **settings: Any) -> DataGroup[tuple[D, ...]]: ...
@overload
def pack(data: Sequence[int] | npt.NDArray[Any], *, length: int, **settings: Any) -> PackedRows: ...
def pack(
    data: Any,
    lengths: Any = None,
    *,
    length: int,
    algorithm: str = "best_fit",
    max_segments: int | None = None,
    split_long: SplitLong = True,
    repack: str = "once",
    names: str | Mapping[str, str] = "hydrax",
    lengths_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Any:
    """Put documents of known lengths into rows of one length, by best-fit-decreasing.

    Of a group comes a group of rows. Its ragged arrays (see ``Ragged``) have ``length`` elements; beside them stand
    ``segment_ids`` (1, 2, ... for the documents of a row, 0 for padding) and ``positions`` (in the document's part),
    int32. Other arrays have ``max_segments`` rows, one a document. ``loader_func`` loads one document, into views of
    exactly its length. ``batch.data``, ``indices`` and ``seeds`` have a tuple for each row, ``batch.additional`` too.

    Args:
        data: A group; or lengths, for which the rows come as a sequence of tuples of item numbers, or (item, part) of
            documents that are split.
        lengths: Elements of each item of the group: a number for each; a function of an item; or ``None`` where the
            data tells by a method ``lengths()``.
        length: Elements of a row.
        algorithm: ``"best_fit"``: the longest first, each into the row with the least space that is enough.
        max_segments: Most documents in a row.
        split_long: ``True``, the default: documents longer than a row are cut into parts; ``"drop"``: they are left
            out, and the log says how many; ``False``: an error. A document that is split is loaded for each part: its
            loader must not depend on the seed.
        repack: ``"epoch"``: documents of equal length change rows from epoch to epoch; ``"once"``: rows stay.
        names: Names of ``segment_ids`` and ``positions``: a dict, ``{}`` in it standing for the name of an array; or
            ``"hydrax"``, ``"maxtext"`` (tokens_segmentation, tokens_position), ``"grain"`` (tokens_segment_ids,
            tokens_positions).
        lengths_file: A file, ``.npz``, where lengths by a function are kept, for the data and the function that they
            were measured of; with a ``cache_location``, by default one beside that folder.
        progress: Called as ``progress(measured, items)`` ten times a second while lengths are measured.
        settings: Arguments of ``DataGroup``; those left out are the group's, but for its cache, and ``shuffle_first``,
            which is true: rows come in the order of lengths otherwise.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value; a document is too long, and ``split_long`` is ``False``.
    """
    choice("algorithm", algorithm, ("best_fit",))
    choice("repack", repack, ("once", "epoch"))
    if split_long not in (True, False, "drop"):
        raise ValueError(f"split_long: expected True, False or 'drop', got {split_long!r}")
    most = None if max_segments is None else integer("max_segments", max_segments, 1)
    grouped = isinstance(data, DataGroup)
    if grouped:
        known = lengths_of(_plain(data), lengths, lengths_file, progress, settings.get("cache_location"))
    else:
        known = checked_lengths("lengths", data)
    rows = PackedRows(known, checked_length(length), max_segments=most, split_long=split_long)
    if rows.dropped:
        _logger.warning(
            "pack: %d of %d documents are longer than %d and left out (split_long='drop')",
            rows.dropped,
            len(known),
            length,
        )
    if not grouped:
        return rows
    if repack == "epoch" and settings.get("cache_location") is not None:
        raise ValueError("repack: with 'epoch' no row comes twice, so a cache would serve nothing; use 'once'")
    return _group_of_rows(data, rows, most, names, repacked=repack == "epoch", settings=settings)


def concat(
    group: DataGroup[D],
    lengths: Any = None,
    *,
    length: int,
    names: str | Mapping[str, str] = "hydrax",
    lengths_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> DataGroup[tuple[D, ...]]:
    """The stream of all documents, one after the other, cut into rows of one length: none of it is padding.

    For arguments and arrays see ``pack``. The last row, where it is not full, is left out, or padded with
    ``remainder="pad"``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value; there is not enough for one row.
    """
    remainder = settings.get("remainder", group.remainder)
    known = lengths_of(_plain(group), lengths, lengths_file, progress, settings.get("cache_location"))
    rows = ConcatenatedRows(known, checked_length(length), remainder=remainder)
    return _group_of_rows(group, rows, None, names, repacked=False, settings=settings)


class PackedItem(tuple[Any, ...]):  # noqa: SLOT001  a tuple has no room for slots
    """The documents of a row, and where they stand."""

    pieces: tuple[Piece, ...]

    def __new__(cls, items: Sequence[Any], pieces: tuple[Piece, ...]) -> Self:
        made = super().__new__(cls, items)
        made.pieces = pieces
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedItem, (tuple(self), self.pieces)


class _PackedItems(Sequence[Any]):
    """Rows as data: the documents of each. The rows of later epochs, where they differ, stand behind each other."""

    def __init__(self, items: Any, rows: PackedRows | ConcatenatedRows, *, repacked: bool) -> None:
        self.items = items
        self.rows = rows
        self._repacked = repacked

    def __len__(self) -> int:
        return len(self.rows)

    def pieces(self, index: int) -> tuple[Piece, ...]:
        epoch, row = divmod(index, len(self.rows))
        if index < 0 or (epoch and not self._repacked):
            raise IndexError(f"row {index} of {len(self.rows)}")
        return self.rows.row(row, epoch)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        pieces = self.pieces(index)
        numbers = [piece.item for piece in pieces]
        many = getattr(self.items, "__getitems__", None)
        return PackedItem(many(numbers) if many is not None else [self.items[number] for number in numbers], pieces)

    def fingerprint(self) -> str:
        return value_digest(data_digest(self.items), self.rows.digest, self._repacked)


class _PackedPlain(_PackedItems, PlainData[Any]):
    """The same of a list, an array and the like."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class _PackedSource(Source[Any]):
    """The same where documents are read in the workers."""

    def __init__(self, packed: _PackedItems) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Any:
        return self.packed[index]

    def fingerprint(self) -> str:
        return self.packed.fingerprint()


@dataclass(frozen=True, eq=False)
class DocumentRows(RowOrder):
    """Rows of documents as a group carries them.

    Attributes:
        repacked: Whether they differ from epoch to epoch.
        ragged: The arrays that are packed, and what their padding holds.
        by_segment: Arrays with an entry for each document of a row.
        names: For each packed array, its names of segment ids and positions.
    """

    packed: _PackedItems
    repacked: bool
    ragged: Mapping[str, float]
    by_segment: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    zeroed: bool

    @property
    def size(self) -> int:
        return len(self.packed)

    @cached_property
    def digest(self) -> str:
        """See ``RowOrder``; the data has the digest of what is in them."""
        return value_digest("documents", self.repacked)

    @property
    def fill(self) -> float:
        """Which part of the rows is no padding."""
        return self.packed.rows.fill

    @property
    def segments(self) -> Mapping[str, str]:
        """See ``RowOrder``."""
        own = dict(zip(self.ragged, (ids for ids, _ in self.names), strict=True))
        return own | {name: ids for ids, positions in self.names for name in (ids, positions)}

    @property
    def dropped(self) -> int:
        """Documents left out as they are longer than a row."""
        return self.packed.rows.dropped

    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:
        rows = np.arange(first, end, dtype=np.int64)
        if shuffled or epoch:
            rows = permute(derive_key(key, "rows", epoch), self.size, rows)
        return DrawnRows(rows + epoch * self.size if self.repacked else rows, rows)

    def alike(self, index: int) -> tuple[Sequence[int], int]:
        """See ``RowOrder``: of the same epoch."""
        first = index - index % self.size
        return range(first, first + self.size), index - first

    def origins(self, index: int) -> tuple[int, ...]:
        return tuple(piece.item for piece in self.packed.pieces(index))

    def seeds(self, index: int, seed: int) -> tuple[int, ...]:
        return tuple(_seeds(seed, self.packed.pieces(index)))

    def loading(self, loader_func: Callable[..., Any]) -> Callable[..., Any]:
        return _DocumentLoader(loader_func, dict(self.ragged), self.by_segment, self.names, zeroed=self.zeroed)


class _DocumentLoader:
    def __init__(
        self,
        loader_func: Callable[..., Any],
        ragged: Mapping[str, float],
        by_segment: tuple[str, ...],
        names: tuple[tuple[str, str], ...],
        *,
        zeroed: bool,
    ) -> None:
        self._loader = loader_func
        self._many = is_batched(loader_func)
        self._ragged = ragged
        self._by_segment = by_segment
        self._names = tuple(dict.fromkeys(names))  # arrays may share them
        self._zeroed = zeroed

    def __call__(
        self, row: PackedItem, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None
    ) -> dict[str, Any] | None:
        additional: dict[str, list[Any]] = {}
        seeds: Sequence[int | None] = [None] * len(row) if seed is None else _seeds(seed, row.pieces)
        at, counted = 0, _counted(len(arrays[self._names[0][0]]))
        for number, (item, piece, own) in enumerate(zip(row, row.pieces, seeds, strict=True)):
            place = slice(at, at + piece.length)
            views = {name: arrays[name][place] for name in self._ragged}
            target = views
            if piece.part is not None:  # the whole document, of which a part is wanted
                target = {name: np.zeros((piece.total, *view.shape[1:]), view.dtype) for name, view in views.items()}
            by_segment = {name: arrays[name][number, ...] for name in self._by_segment}
            for name, value in self._load(item, {**target, **by_segment}, own).items():
                if name in target:
                    self._take(name, value, target[name])
                else:
                    additional.setdefault(name, [None] * len(row))[number] = value
            if piece.part is not None:
                for name, view in views.items():
                    view[...] = target[name][piece.start : piece.start + piece.length]
            for segments, positions in self._names:
                arrays[segments][place] = number + 1
                arrays[positions][place] = counted[: piece.length]
            at += piece.length
        self._pad(arrays, at, len(row))
        return {name: tuple(values) for name, values in additional.items()} or None

    def _load(self, item: Any, arrays: dict[str, npt.NDArray[Any]], seed: int | None) -> Mapping[str, Any]:
        if not self._many:
            return self._loader(item, MappingProxyType(arrays), seed) or {}
        one = MappingProxyType({name: array[None] for name, array in arrays.items()})
        return (self._loader([item], one, None if seed is None else [seed]) or [None])[0] or {}

    @staticmethod
    def _take(name: str, value: Any, target: npt.NDArray[Any]) -> None:
        found = np.asarray(value)
        if len(found) != len(target):
            raise ValueError(f"{name!r} has {len(found)} elements, `lengths` says {len(target)} for this item")
        put(repr(name), target, found)

    def _pad(self, arrays: Mapping[str, npt.NDArray[Any]], end: int, segments: int) -> None:
        for name, pad in self._ragged.items():
            if pad or not self._zeroed:
                arrays[name][end:] = pad
        if not self._zeroed:
            for names in self._names:
                for name in names:
                    arrays[name][end:] = 0
            for name in self._by_segment:
                arrays[name][segments:] = 0


@lru_cache(maxsize=8)
def _counted(length: int) -> npt.NDArray[np.int32]:
    return np.arange(length, dtype=np.int32)


def _seeds(seed: int, pieces: Sequence[Piece]) -> list[int]:
    return few_seeds(seed, [piece.item for piece in pieces])


def _plain(group: DataGroup[Any]) -> DataGroup[Any]:
    if group.rows is not None or group.weight_ends is not None:
        raise ValueError("group: it is mixed, packed or weighted already; pack what it was made of")
    return group


def _group_of_rows(
    group: DataGroup[Any],
    rows: PackedRows | ConcatenatedRows,
    max_segments: int | None,
    names: str | Mapping[str, str],
    *,
    repacked: bool,
    settings: Mapping[str, Any],
) -> DataGroup[Any]:
    specs = dict(group.loader_specs)
    ragged = {name: spec.ragged for name, spec in specs.items() if spec.ragged is not None}
    if not ragged:
        raise ValueError(NO_RAGGED)
    if group.augment_func is not None and "augment_func" not in settings:
        raise ValueError(
            "augment_func: a packed group augments whole rows; give the function for them to pack(), or None"
        )
    pairs = _pairs(names, list(ragged))
    arrays: dict[str, ArraySpec] = {}
    by_segment: list[str] = []
    for name, spec in specs.items():
        if name in ragged:
            arrays[name] = spec._replace(shape=(rows.length, *spec.shape[1:]), ragged=None)
        elif name not in {length_name(other) for other in ragged}:
            if max_segments is None:
                raise ValueError(
                    f"max_segments: {name!r} has one entry for each document, so a row needs to know how many "
                    "documents it has at most; give max_segments, or make the array Ragged()"
                )
            arrays[name] = spec._replace(shape=(max_segments, *spec.shape))
            by_segment.append(name)
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if name in arrays:
            raise ValueError(f"names: {name!r} is an array of the group; choose another name")
        arrays[name] = ArraySpec((rows.length,), _INT32, _INT32)
    kind = _PackedPlain if is_plain(group.items) else _PackedItems
    packed = kind(group.items, rows, repacked=repacked)
    zeroed = settings.get("zeroed", group.zeroed)
    pads = {name: own.pad for name, own in ragged.items()}
    carried = DocumentRows(packed, repacked, MappingProxyType(pads), tuple(by_segment), pairs, zeroed)
    data = _PackedSource(packed) if isinstance(group.items, Source) else packed
    no_cache = {"cache_location": None, "cache_arrays": None, "cache_readonly": False}
    own = {"data": data, "rows": carried, "loader_arrays": arrays}
    return group.replace(**{**no_cache, "shuffle_first": True, "augment_arrays": None, **settings, **own})


def _pairs(names: Any, arrays: Sequence[str]) -> tuple[tuple[str, str], ...]:
    expected = f"one of {', '.join(map(repr, _NAMES))}, or a dict of 'segment_ids' and 'positions'"
    if isinstance(names, str):
        if names not in _NAMES:
            raise ValueError(f"names: expected {expected}, got {names!r}")
        names = _NAMES[names]
    if not isinstance(names, Mapping) or set(names) != {"segment_ids", "positions"}:
        raise ValueError(f"names: expected {expected}, got {names!r}")
    pairs = [(names["segment_ids"].format(name), names["positions"].format(name)) for name in arrays]
    return tuple(pairs)
