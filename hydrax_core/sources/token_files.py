"""Windows of a long stream of tokens in a file, for language models.

Promise: window ``n`` begins at token ``n * stride``; with ``targets`` each window has the token that follows each of
its own. Every window is full: the last tokens, fewer than a window, are left out, and ``Tokens.unused`` counts them. A
token that does not fit into the array's dtype, or is not below ``vocabulary``, fails its window. The file is mapped: it
may be larger than memory.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import boolean, integer
from hydrax_core.data.group import DataGroup
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.index import regular_file
from hydrax_core.sources.paths import find_file
from hydrax_core.sources.remote import RemoteFile, is_remote
from hydrax_core.sources.remote_files import RemoteArray, RemoteReader, open_array
from hydrax_core.sources.row_source import Arrays, FileSource, make_rows, put, spec_of

__all__ = ["Tokens", "tokens"]

_MAGIC = b"\x93NUMPY"


class Tokens(NamedTuple):
    """Windows of a stream of tokens, ready for a ``Dataloader``.

    ``unused`` counts the tokens at the end that fill no window.
    """

    loader_func: Any
    training: DataGroup[dict[str, Any]]
    unused: int


def tokens(
    path: str | os.PathLike[str],
    length: int,
    dtype: str | np.dtype[Any] | None = None,
    *,
    stride: int | None = None,
    targets: bool = False,
    vocabulary: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Tokens:
    """Windows of a stream of tokens as ``tokens`` (int32, (batch, length)) and, if asked for, ``targets`` (the same).

    Args:
        path: An ``.npy`` file with one dimension, or a file of nothing but numbers, as ``array.tofile`` writes it.
        length: Tokens in a window.
        dtype: Of the numbers in the file, such as ``"uint16"``; an ``.npy`` file says it itself.
        stride: Tokens from one window to the next; by default ``length``.
        targets: Whether to give ``targets``: the window moved on by one token.
        vocabulary: Number of tokens there are; one that is not below it fails its window.
        batch_size: Windows in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, is shorter than a window, or an argument has a wrong value.
    """
    integer("length", length, minimum=1)
    stride = length if stride is None else integer("stride", stride, minimum=1)
    if vocabulary is not None:
        integer("vocabulary", vocabulary, minimum=1)
    if not is_remote(path):
        regular_file(os.fspath(path))
    file = find_file("path", path, "tokens")
    source = TokenWindows(file, length, None if dtype is None else np.dtype(dtype), stride, targets, vocabulary)
    rows = make_rows(source, batch_size, seed, ("targets",) if targets else ())
    return Tokens(rows.loader_func, rows.training, source.unused)


class TokenWindows(FileSource):
    def __init__(
        self,
        path: str,
        length: int,
        dtype: np.dtype[Any] | None,
        stride: int,
        targets: bool,
        vocabulary: int | None,
    ) -> None:
        super().__init__([path], length, str(dtype), stride, targets)
        self.length, self.stride, self.targets = length, stride, boolean("targets", targets)
        self.dtype, self.vocabulary = dtype, vocabulary
        spec = spec_of((length,), np.int32)
        self.specs = {"tokens": spec, "targets": spec} if targets else {"tokens": spec}
        needed = length + targets
        self._total = -1
        self._total = total = len(self.stream)
        if total < needed:
            raise ValueError(f"{path}: it holds {total} tokens, fewer than the {needed} of a window")
        self._size = (total - needed) // stride + 1
        self.unused = total - ((self._size - 1) * stride + needed)

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def stream(self) -> npt.NDArray[Any] | RemoteArray:
        found = _open(self.paths[0], self.dtype)
        if self._total not in (-1, len(found)):
            raise ValueError(f"{self.paths[0]}: it changed: it no longer has {self._total} tokens")
        return found

    def fill(self, indices: Indices, arrays: Arrays) -> None:
        rows = _windows(self.stream, indices * self.stride, self.length + self.targets)
        if self.vocabulary is not None and (rows >= self.vocabulary).any():
            wrong = int(rows[rows >= self.vocabulary][0])
            raise ValueError(f"{self.paths[0]}: token {wrong} is not below the vocabulary of {self.vocabulary}")
        for name, target in arrays.items():
            first = int(name == "targets")
            put(f"{self.paths[0]}: {name!r}", target, rows[:, first : first + self.length])


def _windows(stream: npt.NDArray[Any] | RemoteArray, starts: Indices, length: int) -> npt.NDArray[Any]:
    if isinstance(stream, RemoteArray):
        return stream.windows(starts, length)
    rows = np.empty((len(starts), length), stream.dtype)
    for row, start in enumerate(starts.tolist()):
        rows[row] = stream[start : start + length]
    return rows


def _open(path: str, dtype: np.dtype[Any] | None) -> npt.NDArray[Any] | RemoteArray:
    size = path.size if isinstance(path, RemoteFile) else os.path.getsize(path)  # noqa: PTH202  as above
    with RemoteReader(path) if isinstance(path, RemoteFile) else Path(path).open("rb") as file:
        own = file.read(len(_MAGIC)) == _MAGIC
    if own:
        try:
            found = _open_npy(path)
        except Exception as error:
            # Damage shows as whatever it makes NumPy stumble over.
            raise ValueError(f"{path}: cannot be read as a NumPy file: {error}") from error
        if dtype is not None and found.dtype != dtype:
            raise ValueError(f"dtype: {path} holds {found.dtype}, not {dtype}; leave dtype out")
    else:
        if dtype is None:
            raise ValueError(f"dtype: {path} does not say of what its numbers are; give it, as in dtype='uint16'")
        if size % dtype.itemsize:
            raise ValueError(
                f"{path}: its size is no multiple of the {dtype.itemsize} bytes of {dtype}; it was cut, or is of "
                "another dtype"
            )
        if isinstance(path, RemoteFile):
            found = RemoteArray(path, 0, (size // dtype.itemsize,), dtype)
        else:
            found = np.memmap(path, dtype, "r") if size else np.empty(0, dtype)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ValueError(f"{path}: expected integers in one dimension, got {found.dtype} of shape {found.shape}")
    return found


def _open_npy(path: str) -> npt.NDArray[Any] | RemoteArray:
    if isinstance(path, RemoteFile):
        return open_array(RemoteReader(path))
    found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found
