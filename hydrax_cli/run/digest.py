"""One hash over a whole run: equal on two machines means equal data.

Promise: it covers, batch by batch in the order of arrival, where the batch stands, the indices and seeds of its rows,
and name, shape, dtype and every byte of its arrays. Additional data, paths and the number of workers are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

import hydrax_core

if TYPE_CHECKING:
    from hydrax_core import TrainingBatch, ValidationBatch

__all__ = ["RowsDigest", "RunDigest"]

_BITS = 128


class RunDigest:
    """Batches in, 32 hexadecimal digits out (XXH3, 128 bits)."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, batch: TrainingBatch[Any] | ValidationBatch[Any]) -> None:
        """Add a batch; its arrays are copied to the host where they are elsewhere."""
        address = batch.address
        self._add_text(
            f"{address.kind} {address.group_index} {address.epoch} {address.epoch_batch} {address.batch_num}"
        )
        self._add(_flat(batch.indices, "<i8"))
        if isinstance(batch, hydrax_core.TrainingBatch):
            self._add(_flat(batch.seeds, "<u8"))
        for name in sorted(batch.arrays):
            self._add_text(name)
            self._add(np.asarray(batch.arrays[name]))

    def hexdigest(self) -> str:
        """The hash of all batches so far."""
        return self._hash.hexdigest()

    def _add(self, array: npt.NDArray[Any]) -> None:
        self._add_text(f"{array.dtype.name} {array.shape}")
        self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _add_text(self, text: str) -> None:
        encoded = text.encode()
        self._hash.update(len(encoded).to_bytes(8, "little"))
        self._hash.update(encoded)


class RowsDigest(RunDigest):
    """Of a host of several: the sum of the hashes of its rows, each of which says where in the run the row stands.

    The digests of all hosts add up, modulo 2**128, to that of one host that has all rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0

    def update(self, batch: TrainingBatch[Any] | ValidationBatch[Any]) -> None:
        """Add the rows of a batch that this host has, those of padding included."""
        own, indices = batch.own_rows, batch.indices
        seeds = batch.seeds if isinstance(batch, hydrax_core.TrainingBatch) else [None] * len(indices)
        known = [*zip(indices, seeds, strict=True), *[None] * (len(own) - len(indices))]
        arrays = {name: np.ascontiguousarray(np.asarray(batch.arrays[name])) for name in sorted(batch.arrays)}
        heads = [(name, array.dtype.name, array.shape[1:]) for name, array in arrays.items()]
        rows = [array.reshape(len(own), -1).view(np.uint8) for array in arrays.values()]
        for position, row in enumerate(own):
            hashed = xxhash.xxh3_128(f"{batch.address} {row} {known[position]} {heads}".encode())
            for array in rows:
                hashed.update(array[position].data)
            self._sum += hashed.intdigest()

    def hexdigest(self) -> str:
        return f"{self._sum % 2**_BITS:0{_BITS // 4}x}"


def _flat(numbers: Sequence[Any], dtype: str) -> npt.NDArray[Any]:
    """One number a row, or those of a packed row behind their count."""
    if not any(isinstance(number, tuple) for number in numbers):
        return np.array(numbers, dtype)
    return np.array([number for row in numbers for number in (len(row), *row)], dtype)
