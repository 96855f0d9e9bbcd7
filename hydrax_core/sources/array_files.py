"""Arrays in HDF5 and Zarr: the rows (first dimension) of those that have equally many.

Promise: what lies in one piece in an HDF5 file is mapped. What lies in chunks is read chunk by chunk, each once while
it is kept, in an order that shuffles whole chunks and the rows of a window of them. Each process opens the files for
itself, read-only.
"""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.blocks import BlockSource, Shuffle, check_shuffle, window_rows
from hydrax_core.sources.paths import local_path
from hydrax_core.sources.row_source import (
    Arrays,
    Chosen,
    Columns,
    Rows,
    choose,
    gather,
    make_rows,
    one_length,
    put,
    require,
    value_spec,
)

__all__ = ["StoredRows", "hdf5", "zarr"]

_BLOCK = 1024
"""Rows of a block where no array lies in chunks."""


def hdf5(
    path: str | os.PathLike[str],
    datasets: Columns = None,
    *,
    shuffle: Shuffle | None = None,
    window: int | str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of the datasets of an HDF5 file.

    A dataset in a group is called ``"group/name"``. 64-bit numbers become 32-bit ones, and one that does not fit fails
    its row. Strings and compound values are left out, or go to the additional data.

    Args:
        path: The file.
        datasets: Names of the datasets to load, or name -> dtype or (shape of one row, dtype[, jax dtype]); all that
            can by default.
        shuffle: ``"block"``: whole chunks in random order, the rows of a window of them shuffled, as is the default
            where a dataset lies in chunks; ``"rows"``: all rows shuffled, which is slow there.
        window: Rows that are shuffled together, or their bytes, such as ``"256MB"``; a worker keeps that much in
            memory. By default what 64 MiB hold, at least a chunk.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the datasets that go to the additional data.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or no HDF5 file, or a dataset asked for cannot be an array.
    """
    require("h5py", "hdf5", "reading HDF5")
    source = Hdf5File.of(path, "datasets", datasets, additional, shuffle, window)
    return make_rows(source, batch_size, seed, labels)


def zarr(
    path: str | os.PathLike[str],
    arrays: Columns = None,
    *,
    shuffle: Shuffle | None = None,
    window: int | str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of an array of Zarr, which is called ``data``, or of the arrays of a group.

    Args:
        path: The folder.
        arrays: See ``datasets`` of ``hdf5``.
        shuffle: See ``hdf5``.
        window: See ``hdf5``.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the arrays that go to the additional data.

    Raises:
        ImportError: zarr is not installed.
        FileNotFoundError: There is no such folder.
        ValueError: It is damaged or nothing of Zarr, or an array asked for cannot be loaded.
    """
    require("zarr", "zarr", "reading Zarr")
    source = ZarrFolder.of(path, "arrays", arrays, additional, shuffle, window)
    return make_rows(source, batch_size, seed, labels)


class StoredRows(BlockSource):
    source: str
    """The function that reads it."""
    _beside: tuple[str, ...] = ()

    def __init__(self, path: str, size: int, block: int, chosen: Chosen, window: int, *, shuffled: bool) -> None:
        sizes = [block] * (size // block) + ([size % block] if size % block else [])
        super().__init__([path], sizes, chosen, window, shuffled=shuffled)

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        argument: str,
        columns: Columns,
        additional: Iterable[str],
        shuffle: Shuffle | None,
        window: int | str | None,
    ) -> Self:
        """The rows of a path; ``argument`` is what the function calls its columns."""
        check_shuffle(shuffle)
        file = local_path("path", path, cls.source, "HDF5 or Zarr")
        opened = cls.open(file)
        found = {name: value_spec(array.shape, array.dtype) for name, array in opened.items()}
        chosen = choose(argument, found, columns, additional)
        names = (*chosen.specs, *chosen.additional)
        size = one_length(f"{file}: {argument}", {name: opened[name].shape[0] for name in names})
        chunks = [rows for name in names if (rows := cls.chunk_rows(opened[name]))]
        block = min(size, max(chunks, default=_BLOCK))
        rows = window_rows("window", window, size, chosen.specs)
        source = cls(file, size, block, chosen, rows, shuffled=shuffle != "rows" and bool(chunks or shuffle))
        source._beside = cls.files_beside(file, [opened[name] for name in names])
        return source

    @staticmethod
    @abstractmethod
    def open(path: str) -> Mapping[str, Any]:
        """The arrays of a file by name.

        Raises:
            ValueError: It cannot be read.
        """

    @staticmethod
    @abstractmethod
    def chunk_rows(array: Any) -> int | None:
        """Rows that are read together; ``None`` where the array lies in one piece."""

    @staticmethod
    def files_beside(path: str, arrays: Iterable[Any]) -> tuple[str, ...]:
        """The other files that values of arrays lie in, relative to the folder of this one.

        Raises:
            ValueError: One of them is not there.
        """
        del path, arrays
        return ()

    def _files(self) -> Iterable[str]:
        return (*self.paths, *self._beside)

    @functools.cached_property
    def _opened(self) -> Mapping[str, Any]:
        opened = self.open(self.paths[0])
        for name in (*self.specs, *self.additional):
            if name not in opened or opened[name].shape[0] != len(self):
                raise ValueError(f"{self.paths[0]}: it changed: {name!r} no longer has {len(self)} rows")
        self.files_beside(self.paths[0], [opened[name] for name in (*self.specs, *self.additional)])
        return opened

    def read_block(self, number: int, arrays: Arrays) -> Mapping[str, Sequence[Any]]:
        span = slice(*self.blocks[number : number + 2].tolist())
        try:
            for name, array in arrays.items():
                put(f"{self.paths[0]}: {name!r}", array, np.asarray(self._opened[name][span]))
            return {name: _texts(self._opened[name], span) for name in self.additional}
        except (OverflowError, ValueError):
            raise
        except Exception as error:
            # Filters and codecs let out whatever damage makes them stumble over.
            raise ValueError(f"{self.paths[0]}: rows {span.start} to {span.stop} cannot be read: {error}") from error


class Hdf5File(StoredRows):
    source = "hdf5"

    @staticmethod
    def open(path: str) -> Mapping[str, Any]:
        module = require("h5py", "hdf5", "reading HDF5")
        found: dict[str, Any] = {}
        try:
            module.File(path, "r").visititems(
                lambda name, item: found.update({name: item}) if isinstance(item, module.Dataset) else None
            )
        except Exception as error:
            raise ValueError(f"{path}: cannot be read as an HDF5 file: {error}") from error
        return found

    @staticmethod
    def chunk_rows(array: Any) -> int | None:
        return array.chunks[0] if array.chunks else None

    @staticmethod
    def files_beside(path: str, arrays: Iterable[Any]) -> tuple[str, ...]:
        module, folder = require("h5py", "hdf5", "reading HDF5"), Path(path).parent
        found: dict[str, None] = {}
        for array in arrays:
            if array.external:
                raise ValueError(
                    f"{path}: {array.name!r} keeps its values in {array.external[0][0]}; copy it into a file"
                )
            for part in array.virtual_sources() if array.is_virtual else ():
                other = Path(path) if part.file_name == "." else folder / part.file_name
                if not other.is_file():  # HDF5 would make up its values
                    raise ValueError(f"{path}: {array.name!r} is made of values of {other}, which is no file")
                with module.File(other, "r") as file:
                    inner = Hdf5File.files_beside(str(other), [file[part.dset_name]])
                paths = [other, *(other.parent / one for one in inner)]
                found.update(dict.fromkeys(os.path.relpath(one, folder) for one in paths))
        return tuple(found)

    @functools.cached_property
    def _mapped(self) -> Mapping[str, npt.NDArray[Any]]:
        """The arrays where they lie, if all lie in one piece each."""
        found = {name: _map(self.paths[0], self._opened[name]) for name in self.specs}
        return {} if self.additional or any(array is None for array in found.values()) else found  # type: ignore[return-value]  # none is None

    def fill(self, indices: Indices, arrays: Arrays) -> list[dict[str, Any]] | None:
        if not self._mapped:
            return super().fill(indices, arrays)
        for name, array in arrays.items():
            gather(f"{self.paths[0]}: {name!r}", self._mapped[name], indices, array)
        return None


class ZarrFolder(StoredRows):
    source = "zarr"

    @staticmethod
    def open(path: str) -> Mapping[str, Any]:
        module = require("zarr", "zarr", "reading Zarr")
        try:
            opened = module.open(path, mode="r")
            if isinstance(opened, module.Array):
                return {"data": opened}
            return {name: item for name, item in opened.members(max_depth=None) if isinstance(item, module.Array)}
        except Exception as error:
            raise ValueError(f"{path}: cannot be read as an array or group of Zarr: {error}") from error

    @staticmethod
    def chunk_rows(array: Any) -> int | None:
        return int((array.shards or array.chunks)[0]) if array.shape else None

    def _files(self) -> Iterable[str]:
        root = self.paths[0]
        return sorted(os.path.join(parent, name) for parent, _, names in os.walk(root) for name in names)  # noqa: PTH118  many chunks


def _texts(array: Any, span: slice) -> list[Any]:
    values = array[span]
    return [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]


def _map(path: str, dataset: Any) -> npt.NDArray[Any] | None:
    plain = dataset.chunks is None and dataset.compression is None and not dataset.is_virtual and not dataset.external
    offset = dataset.id.get_offset() if plain else None
    if offset is None:
        return None
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape).view(np.ndarray)
