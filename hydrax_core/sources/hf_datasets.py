"""Datasets of Hugging Face, read from their Arrow table instead of item by item.

Promise: the rows that the dataset shows, in its order, selections and shuffles included. What a dataset decides only
when an item is asked for (``set_transform``) is refused, as the table does not know it. Workers map the dataset's
files and do not import ``datasets``, unless the dataset is more than its files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hydrax_core.data.layout import ArraySpec
from hydrax_core.errors import shorten
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.arrow_columns import ObjectColumn
from hydrax_core.sources.arrow_files import ArrowTable, open_tables
from hydrax_core.sources.formats import expect_format
from hydrax_core.sources.image_decoding import Picture
from hydrax_core.sources.row_source import Arrays, Columns, Extra, Rows, make_rows, require, spec_of

__all__ = ["HuggingFaceRows", "hugging_face"]

_COMPARED = 16
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def hugging_face(
    dataset: Any,
    columns: Columns = None,
    *,
    split: str | None = None,
    size: int | tuple[int, int] = 224,
    missing: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of a Dataset of Hugging Face as arrays.

    Numbers, truth values, ``ClassLabel``, ``Sequence`` and ``Array2D`` ... become arrays as in ``arrow``: 64-bit
    numbers become 32-bit ones, and lists of different length fill rows of the greatest, with ``NAME_length`` beside
    them. ``Image`` is decoded in the workers to uint8, (height, width, 3). ``Rows.classes`` has the names of each
    ``ClassLabel``. Other features, such as strings, are left out, or go to the additional data.

    Args:
        dataset: The dataset, or the folder of one that ``save_to_disk`` wrote.
        columns: Names of the features to load, or name -> dtype or (shape, dtype[, jax dtype]); all by default. A shape
            for a sequence cuts longer ones; ``((Ragged(),), dtype)`` keeps them whole, for ``pack`` and ``buckets``.
        split: The split, where it is a DatasetDict.
        size: Height and width that images are brought to, or one number for both.
        missing: What a missing value is, by column.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the features that go to the additional data.

    Raises:
        ImportError: datasets is not installed.
        TypeError: It is no Dataset, or one that transforms its items when they are asked for.
        ValueError: It is empty, has several splits, or a feature asked for cannot be an array.
    """
    module = require("datasets", "hf", "reading datasets of Hugging Face")
    if isinstance(dataset, str | Path):
        expect_format("hugging_face", [str(dataset)])
        dataset = module.load_from_disk(str(dataset))
    dataset = _one_split(module, dataset, split)
    if not len(dataset):
        raise ValueError("dataset: it is empty")
    shown = dataset.format["columns"]
    if columns is None and len(shown) < len(dataset.column_names):
        columns = [name for name in shown if name not in set(additional)]
    features = dataset.features
    images = {name for name, feature in features.items() if isinstance(feature, module.Image)}
    source = HuggingFaceRows(dataset, images, Picture.sized(size), missing or {})
    source.choose(columns, additional)
    source.classes = {
        name: tuple(features[name].names) for name in source.specs if isinstance(features.get(name), module.ClassLabel)
    }
    return make_rows(source, batch_size, seed, labels)


class HuggingFaceRows(ArrowTable):
    """Rows of a dataset.

    Args:
        images: Its columns of encoded images.
        missing: What a missing value is, by column.
    """

    content = None  # the dataset's own fingerprint

    def __init__(self, dataset: Any, images: Iterable[str], picture: Picture, missing: Mapping[str, Any]) -> None:
        self._images, self._picture = frozenset(images), picture
        self._name = dataset._fingerprint  # noqa: SLF001  the only name that a dataset has of its content
        indices = dataset._indices  # noqa: SLF001  what select(), shuffle() and the like chose
        self._indices: Indices | None = None
        if indices is not None:
            self._indices = indices.table.column(0).combine_chunks().to_numpy().astype(np.int64)
        table = dataset.data.table
        paths = [file["filename"] for file in dataset.cache_files]
        self._dataset_table = None
        if not paths:
            super().__init__([], table, missing)
        elif _are_the_table(paths, table):
            super().__init__(paths, None, missing)
        else:
            self._dataset_table = dataset.data
            super().__init__(paths, None, missing)

    @functools.cached_property
    def _table(self) -> Any:
        if self._dataset_table is not None:
            return self._dataset_table.table  # it travels as its files and what is done to them
        return super()._table

    def choose(self, columns: Columns, additional: Iterable[str], others: Mapping[str, ArraySpec] = _NOTHING) -> None:
        """See ``ArrowTable``; encoded images become arrays of pixels."""
        pixels = spec_of(self._picture.shape, np.uint8)
        super().choose(columns, additional, {**others, **dict.fromkeys(self._images, pixels)})

    def __len__(self) -> int:
        return super().__len__() if self._indices is None else len(self._indices)

    @functools.cached_property
    def _encoded(self) -> dict[str, ObjectColumn]:
        return {name: ObjectColumn(self._table.column(name)) for name in self._images if name in self.specs}

    def lengths(self) -> Indices:
        return super().lengths() if self._indices is None else super().lengths()[self._indices]

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        rows = indices if self._indices is None else self._indices[indices]
        extra = super().fill(rows, arrays)
        for name, column in self._encoded.items():
            for place, value in enumerate(column.take(rows)) if name in arrays else ():
                where = f"row {rows[place]}: {name!r}"
                if value is None:
                    raise ValueError(f"{where} has no value (null)")
                data = Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
                self._picture.read(data, where, arrays[name][place], None)
        return extra

    def fingerprint(self) -> str:
        """The dataset's own, and how it is read."""
        return f"{self._name} {self._reading} {self._picture if self._encoded else ()}"


def _one_split(module: Any, dataset: Any, split: str | None) -> Any:
    if isinstance(dataset, module.DatasetDict):
        names = ", ".join(map(repr, dataset))
        if split is None and len(dataset) != 1:
            raise ValueError(f"split: the dataset has several; name one of {names}")
        if split is not None and split not in dataset:
            raise ValueError(f"split: expected one of {names}, got {split!r}")
        dataset = dataset[next(iter(dataset)) if split is None else split]
    elif split is not None and isinstance(dataset, module.Dataset) and split != str(dataset.split):
        raise ValueError(f"split: this dataset is the split {str(dataset.split)!r}, got {split!r}")
    if not isinstance(dataset, module.Dataset):
        raise TypeError(
            f"dataset: expected a datasets.Dataset, a DatasetDict or the folder of one, got {shorten(dataset, 80)}; "
            "an IterableDataset has no n-th row"
        )
    if dataset.format["type"] == "custom":
        raise TypeError(
            "dataset: it transforms its items when they are asked for (set_transform), which its table does not know; "
            "give torch_dataset(dataset), which asks for them, or dataset.with_format(None)"
        )
    return dataset


def _are_the_table(paths: list[str], table: Any) -> bool:
    """Whether the files as they are hold a table: it may be some of their rows or columns, or cast."""
    try:
        found = open_tables(paths)
    except ValueError:
        return False
    if found.num_rows != table.num_rows or not found.schema.equals(table.schema):
        return False
    rows = {int(row) for row in np.linspace(0, table.num_rows - 1, _COMPARED)}
    return all(found.slice(row, 1).equals(table.slice(row, 1)) for row in rows)
