"""Rows of arrays in .npy and .npz files.

Promise: a file is mapped, not read into memory, except for compressed members of an .npz file, which every worker
process unpacks for itself. Pickled (object) arrays are refused: unpickling runs code.
"""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import IdentifiedItems, files_fingerprint
from hydrax_core.data.group import DataGroup

if TYPE_CHECKING:
    import os

__all__ = ["NumpyLoader", "NumpyRows", "numpy_rows"]

_Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member; then come the name and the extra field of these lengths
_NARROW = {"f8": "float32", "i8": "int32", "u8": "uint32", "c16": "complex64"}
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NumpyRows(NamedTuple):
    """The rows of a file, ready for a ``Dataloader``."""

    loader_func: NumpyLoader
    training: DataGroup[int]


def numpy_rows(path: str | os.PathLike[str], *, batch_size: int = 64, seed: int = 0) -> NumpyRows:
    """The rows (first dimension) of the array in an .npy file, or of the arrays of equal length in an .npz file.

    The arrays of an .npz file keep their names, that of an .npy file is called ``data``. 64-bit numbers become 32-bit
    ones, as in jax's default mode; an integer that does not fit fails its row.

    Args:
        path: The file.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, is damaged, or holds arrays that cannot be batched; the text names the array.
    """
    loader = NumpyLoader(str(Path(path).resolve()))
    arrays = loader.arrays
    scalars = [name for name, array in arrays.items() if not array.shape]
    if scalars:
        raise ValueError(f"{path}: {scalars[0]!r} is a single value; expected rows along a first dimension")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "it holds none"
        raise ValueError(f"{path}: expected arrays of one length; {told}")
    specs = {name: (array.shape[1:], _narrow(array.dtype)) for name, array in arrays.items()}
    file = Path(loader.path)
    source = functools.partial(files_fingerprint, [file.name], file.parent)
    rows = IdentifiedItems(range(next(iter(lengths.values()))), source)
    return NumpyRows(
        loader,
        DataGroup(
            batch_size, rows, loader_func=loader, loader_arrays=specs, seed=seed, shuffle_first=True, remainder="pad"
        ),
    )


class NumpyLoader:
    """Loads rows of a file, which each process opens once, at its first row."""

    __hydrax_batched__ = True

    def __init__(self, path: str) -> None:
        self.path = path
        self._arrays: _Arrays | None = None

    def __reduce__(self) -> tuple[type[NumpyLoader], tuple[str]]:
        return NumpyLoader, (self.path,)

    def __call__(self, items: Sequence[int], arrays: _Arrays, seeds: Sequence[int] | None) -> None:  # noqa: ARG002  a loader has three parameters
        """Fill the arrays with these rows.

        Raises:
            OverflowError: An integer needs more than 32 bits.
        """
        for name, array in arrays.items():
            rows = self.arrays[name][items]
            array[...] = rows
            if (
                rows.dtype.kind in "iu"
                and rows.dtype.itemsize > array.dtype.itemsize
                and not np.array_equal(array, rows)
            ):
                raise OverflowError(f"{self.path}: {name!r} holds an integer that does not fit into {array.dtype}")

    @property
    def arrays(self) -> _Arrays:
        """The file's arrays.

        Raises:
            ValueError: See ``numpy_rows``.
        """
        if self._arrays is None:
            self._arrays = _open(self.path)
        return self._arrays


def _narrow(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The native dtype of at most 32 bits a number."""
    return np.dtype(_NARROW.get(dtype.newbyteorder("=").str[1:], dtype.newbyteorder("=")))


def _open(path: str) -> _Arrays:
    try:
        if path.endswith(".npz"):
            return _open_archive(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an .npz archive; rename it to .npz")  # noqa: TRY004, TRY301  the file's content is wrong
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        # Damage shows as whatever it makes NumPy, zipfile and zlib stumble over.
        raise ValueError(f"{path}: cannot be read as a NumPy file: {error}") from error
    return {"data": array}


def _open_archive(path: str) -> _Arrays:
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as members, Path(path).open("rb") as file:
        return {
            info.filename.removesuffix(".npy"): _map(file, info) if _is_plain(info) else members[info.filename]
            for info in archive.infolist()
        }


def _is_plain(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED


def _map(file: BinaryIO, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    file.seek(info.header_offset)
    name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(info.header_offset + _LOCAL_HEADER.size + name_length + extra_length)
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"{info.filename} has version {version} of NumPy's format; known are 1.0 and 2.0")
    shape, fortran_order, dtype = _READERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are not loaded as unpickling runs code")
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran_order else "C")
