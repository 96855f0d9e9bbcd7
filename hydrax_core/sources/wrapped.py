"""Anything with a length and items by index, from other libraries or one's own, as a source that workers read.

Promise: the object travels to each worker once, by its own pickling, and is asked there for the items of many rows at
once where it can give them (``__getitems__``; the rows of a NumPy array). Items are named, and their arrays found out,
by an example; an item that differs from it is an error of that item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.layout import ArraySpec
from hydrax_core.data.source import Source
from hydrax_core.errors import shorten
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.row_source import (
    Arrays,
    Chosen,
    Columns,
    Extra,
    Rows,
    RowSource,
    check_indices,
    choose,
    make_rows,
    put,
    require,
    spec_of,
)

__all__ = ["Wrapped", "grain_source", "tfds_source", "torch_dataset", "wrap"]

D = TypeVar("D")
_SCALARS = (bool, int, float, complex, np.generic)


class Wrapped(Source[D]):
    """The items of an object; see ``wrap``."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self._size = len(wrapped)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> D:
        check_indices("item", [index], self._size)
        return cast("D", self.wrapped[index])

    def __getitems__(self, indices: Sequence[int]) -> list[D]:
        many = getattr(self.wrapped, "__getitems__", None)
        if many is not None:
            return list(many(list(indices)))
        if isinstance(self.wrapped, np.ndarray):
            return list(self.wrapped[np.asarray(indices, np.int64)])
        return [self.wrapped[index] for index in indices]

    def fingerprint(self) -> str | None:
        """The object's own, by ``fingerprint()`` or ``_fingerprint``; of a list or array that of its values."""
        own = getattr(self.wrapped, "fingerprint", None)
        if callable(own):
            return cast("str | None", own())
        name = getattr(self.wrapped, "_fingerprint", None)
        if isinstance(name, str):
            return name
        return data_digest(self.wrapped) if isinstance(self.wrapped, list | tuple | np.ndarray) else None


def wrap(items: Any) -> Source[Any]:
    """A ``Source`` of anything with ``__len__`` and ``__getitem__``, to give to a ``DataGroup`` as ``data``.

    Such as a map-style Dataset of torch, a RandomAccessDataSource or MapDataset of grain, a data source of TFDS, a
    Dataset of Hugging Face, a list, an array.

    Args:
        items: The object; a ``Source`` comes back as it is. It must be picklable, and give equal items for equal
            indices.

    Raises:
        TypeError: It has no length or no items by index.
    """
    if isinstance(items, Source):
        return items
    if isinstance(items, str | bytes | Mapping) or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise TypeError(
            f"wrap: expected an object with __len__ and integer indices, got {shorten(items, 80)}; "
            "data without a length (an IterableDataset, a generator) is read by hydrax_core.sources.stream"
        )
    return Wrapped(items)


def torch_dataset(
    dataset: Any,
    columns: Columns = None,
    *,
    names: Sequence[str] = (),
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
    example: int = 0,
) -> Rows:
    """The items of a map-style Dataset of torch, or of anything that ``wrap`` takes, as arrays.

    What an item holds is found out by an example: the values of a dict by their keys (``"a/b"`` for a dict in a dict),
    of a dataclass or named tuple by their fields, of a tuple by ``names`` or ``"0"``, ``"1"``, ...; a single value is
    called ``"data"``. NumPy arrays, numbers, lists of numbers, torch's tensors and Pillow's images become arrays;
    64-bit numbers become 32-bit ones. The rest is left out, or goes to the additional data.

    Args:
        dataset: The dataset.
        columns: Names of the values to load, or name -> dtype or (shape, dtype[, jax dtype]); all by default.
        names: Names of the parts of an item that is a tuple, or of the single value.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the values that go to the additional data.
        example: Index of the item that shapes and dtypes are taken from.

    Raises:
        TypeError: The dataset has no length or no items by index.
        ValueError: Nothing in the example becomes an array, or a name is not in it.
    """
    source = wrap(dataset)
    if len(source) == 0:
        raise ValueError("dataset: it is empty; expected at least one item")
    leaves = leaves_of(source[example], tuple(names))
    chosen = choose("columns", leaf_specs(leaves), columns, additional, ragged=True)
    return make_rows(ItemRows(source, tuple(names), chosen), batch_size, seed, labels)


def grain_source(source: Any, columns: Columns = None, **options: Any) -> Rows:
    """The elements of a RandomAccessDataSource or MapDataset of grain as arrays: see ``torch_dataset``.

    A MapDataset keeps its transformations, which then run in the workers. One that is shuffled or repeated is shuffled
    or repeated before hydrax shuffles; leave that to hydrax.

    Args:
        source: The source.
        columns: See ``torch_dataset``.
        **options: See ``torch_dataset``.
    """
    return torch_dataset(source, columns, **options)


def tfds_source(name: str, split: str, columns: Columns = None, *, data_dir: str | None = None, **options: Any) -> Rows:
    """A split of a dataset of TensorFlow Datasets as arrays, by its random access (``tfds.data_source``).

    Args:
        name: The dataset, such as ``"mnist"``.
        split: The split, such as ``"train"`` or ``"train[:90%]"``.
        columns: See ``torch_dataset``.
        data_dir: Where the dataset lies, or is prepared.
        **options: See ``torch_dataset``.

    Raises:
        ImportError: tensorflow-datasets is not installed.
    """
    tfds = require("tensorflow_datasets", "tfds", "reading TensorFlow Datasets")
    return torch_dataset(tfds.data_source(name, split=split, data_dir=data_dir), columns, **options)


class ItemRows(RowSource):
    """Rows of arrays made of the items of a source."""

    def __init__(self, source: Source[Any], names: tuple[str, ...], chosen: Chosen) -> None:
        self._source, self._names = source, names
        self.specs, self.additional, self.left_out = chosen

    def __len__(self) -> int:
        return len(self._source)

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        numbers = indices.tolist()
        items = self._source.__getitems__(numbers)
        if len(items) != len(numbers):
            raise ValueError(f"__getitems__: expected {len(numbers)} items, got {len(items)}")
        where = [f"item {number}" for number in numbers]
        return fill_items(where, items, self._names, arrays, self.additional)

    def fingerprint(self) -> str | None:
        name = self._source.fingerprint()
        return None if name is None else f"{name} {self._names}"


def fill_items(
    where: Sequence[str] | str, items: Sequence[Any], names: tuple[str, ...], arrays: Arrays, additional: Sequence[str]
) -> Extra:
    """Fill arrays with the values of items, and return the others that are asked for; ``where`` is for errors."""
    extra: list[dict[str, Any]] = []
    for row, item in enumerate(items):
        leaves, place = leaves_of(item, names), where if isinstance(where, str) else where[row]
        for name, array in arrays.items():
            if name not in leaves or (value := _array(leaves[name])) is None:
                held = ", ".join(f"{name!r}: {shorten(leaf, 40)}" for name, leaf in leaves.items())
                raise ValueError(f"{place}: no array {name!r}; it holds {held}")
            if array.dtype.hasobject:
                array[row] = value
            else:
                put(f"{place}: {name!r}", array[row : row + 1], value[None])
        extra.append({name: leaves.get(name) for name in additional})
    return extra if additional else None


def leaf_specs(leaves: Mapping[str, Any]) -> Mapping[str, ArraySpec | str]:
    """The array of each value, or why it is none."""
    return {name: _spec(leaf) for name, leaf in leaves.items()}


def leaves_of(item: Any, names: tuple[str, ...], prefix: str = "") -> Mapping[str, Any]:
    """The values of an item by name."""
    parts = _parts(item, () if prefix else names)
    if parts is None:
        return MappingProxyType({prefix.removesuffix("/") or (names[0] if names else "data"): item})
    leaves: dict[str, Any] = {}
    for name, part in parts:
        found, before = leaves_of(part, names, f"{prefix}{name}/"), len(leaves)
        leaves.update(found)
        if len(leaves) != before + len(found):
            raise ValueError(f"names: two parts of an item are called alike, one of {', '.join(map(repr, found))}")
    return MappingProxyType(leaves)


def _parts(item: Any, names: tuple[str, ...]) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(item, Mapping):
        return item.items()
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return [(field.name, getattr(item, field.name)) for field in dataclasses.fields(item)]
    if isinstance(item, tuple):
        fields = getattr(item, "_fields", names) or range(len(item))
        if len(fields) != len(item):
            raise ValueError(f"names: expected {len(item)} names, one for each part of an item, got {names!r}")
        return zip(fields, item, strict=True)
    if isinstance(item, list) and any(not isinstance(part, (*_SCALARS, list)) for part in item):
        return list(enumerate(item))
    return None


def _array(leaf: Any) -> npt.NDArray[Any] | None:
    """A value as an array, ``None`` where it is none."""
    if hasattr(leaf, "detach"):  # a tensor of torch, which may have a gradient
        leaf = leaf.detach().cpu()
    elif leaf is None or isinstance(leaf, str | bytes):
        return None
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biufc" or array.dtype.type.__module__.startswith("ml_dtypes") else None


def _spec(leaf: Any) -> ArraySpec | str:
    array = _array(leaf)
    if array is None:
        return f"a {type(leaf).__name__} is no array of numbers"
    if 0 in array.shape:
        return f"its shape is {array.shape}"
    return spec_of(array.shape, array.dtype)
