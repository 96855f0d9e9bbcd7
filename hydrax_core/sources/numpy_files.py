"""Rows of arrays in .npy and .npz files.

Promise: a file is mapped, not read into memory, except for compressed members of an .npz file, which every worker
process unpacks for itself. Pickled (object) arrays are refused: unpickling runs code.
"""

from __future__ import annotations

import functools
import os
import struct
import zipfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.paths import find_file
from hydrax_core.sources.remote import RemoteFile, is_remote
from hydrax_core.sources.remote_files import RemoteArray, RemoteReader, open_array
from hydrax_core.sources.row_source import (
    Arrays,
    Chosen,
    Columns,
    Extra,
    FileSource,
    Rows,
    choose,
    columns_of,
    gather,
    make_rows,
    one_length,
    put,
    value_spec,
)

__all__ = ["NumpyFile", "numpy_rows"]

_Opened: TypeAlias = Mapping[str, npt.NDArray[Any] | RemoteArray]

_NO_PICKLES = "it holds Python objects, which are not loaded as unpickling runs code"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member; then come the name and the extra field of these lengths
_LONGEST_HEADER = 1 << 16
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def numpy_rows(
    path: str | os.PathLike[str],
    arrays: Columns = None,
    *,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows (first dimension) of the array in an .npy file, or of the arrays of equal length in an .npz file.

    The arrays of an .npz file keep their names, that of an .npy file is called ``data``. 64-bit numbers become 32-bit
    ones, as in jax's default mode; an integer that does not fit fails its row. Strings and single
    values are left out.

    Args:
        path: The file.
        arrays: Names of the arrays to load, or name -> dtype or (shape of one row, dtype[, jax dtype]); all by default.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the arrays that go to the additional data, such as strings.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, is damaged, or an array asked for cannot be batched; the text names the array.
    """
    file = find_file("path", path, "numpy_rows")
    opened = _open(file)
    try:
        found = {
            name: _NO_PICKLES if array.dtype.hasobject else value_spec(array.shape, array.dtype)
            for name, array in opened.items()
        }
        chosen = choose("arrays", found, arrays, additional)
        size = one_length("arrays", {name: len(opened[name]) for name in (*chosen.specs, *chosen.additional)})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{file if is_remote(path) else path}: {error}") from None
    return make_rows(NumpyFile(file, size, chosen), batch_size, seed, labels)


class NumpyFile(FileSource):
    def __init__(self, path: str, size: int, chosen: Chosen) -> None:
        super().__init__([path])
        self.specs, self.additional, self.left_out = chosen
        self._size = size

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def arrays(self) -> _Opened:
        """The file's arrays, mapped; elsewhere, fetched by rows.

        Raises:
            ValueError: The file is damaged, or changed since its group was made.
        """
        names = (*self.specs, *self.additional)
        opened = _open(self.paths[0], names)
        for name in names:
            if name not in opened or len(opened[name]) != self._size:
                raise ValueError(f"{self.paths[0]}: it changed: {name!r} no longer has {self._size} rows")
        return opened

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        opened = self.arrays
        for name, array in arrays.items():
            found, where = opened[name], f"{self.paths[0]}: {name!r}"
            if isinstance(found, RemoteArray):
                put(where, array, found[indices])
            else:
                gather(where, found, indices, array)
        return columns_of(self.additional, (opened[name][indices].tolist() for name in self.additional))


def _open(path: str, names: Collection[str] | None = None) -> _Opened:
    """The arrays of a file, of these names; a single object for each that holds Python objects."""
    try:
        if path.endswith(".npz"):
            return _open_archive(path, names)
        if isinstance(path, RemoteFile):
            return {"data": open_array(RemoteReader(path))}
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an .npz archive; rename it to .npz")  # noqa: TRY004, TRY301  the file's content is wrong
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and isinstance(path, RemoteFile):
            raise
        # Damage shows as whatever it makes NumPy, zipfile and zlib stumble over.
        raise ValueError(f"{path}: cannot be read as a NumPy file: {error}") from error
    return {"data": array.view(np.ndarray)}


def _open_archive(path: str, names: Collection[str] | None) -> _Opened:
    with RemoteReader(path) if isinstance(path, RemoteFile) else Path(path).open("rb") as file:
        archive = zipfile.ZipFile(file)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        return {name: _member(archive, file, info) for name, info in members.items() if names is None or name in names}


def _member(
    archive: zipfile.ZipFile, file: BinaryIO | RemoteReader, info: zipfile.ZipInfo
) -> npt.NDArray[Any] | RemoteArray:
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored:
        file.seek(info.header_offset)
        name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(info.header_offset + _LOCAL_HEADER.size + name_length + extra_length)
        if isinstance(file, RemoteReader):
            return open_array(file)
    elif isinstance(file, RemoteReader):
        file.fetch(
            [(info.header_offset, min(info.compress_size + _LONGEST_HEADER, file.file.size - info.header_offset))]
        )
    with nullcontext(file) if stored else archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _READERS:
            raise ValueError(f"{info.filename} has version {version} of NumPy's format; known are 1.0 and 2.0")
        shape, fortran_order, dtype = _READERS[version](member)
        if dtype.hasobject:
            return np.array(None)
        if stored:
            return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran_order else "C").view(np.ndarray)
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
