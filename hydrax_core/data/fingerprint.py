"""A digest of a sequence of descriptors that is the same in every process that holds equal ones.

Promise: equal items in equal order give equal digests, on every machine and in every run. A change of any item changes
the digest where the data has at most ``EXACT_ITEMS`` items; of longer data the length and ``SAMPLED_ITEMS`` items,
evenly spread, are read, so that a billion items cost what a thousand cost.

Items are read by pickling them without memory of what came before: otherwise two equal lists would differ when one of
them holds the same string object twice. Sets of strings have no order that holds across processes: use tuples.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from hydrax_core.errors import shorten

__all__ = ["EXACT_ITEMS", "SAMPLED_ITEMS", "data_digest"]

EXACT_ITEMS = 2_000_000
SAMPLED_ITEMS = 65_536
_RUN = 1024


def data_digest(data: Any) -> str:
    """The digest of a sequence of items, 32 hexadecimal digits.

    Raises:
        TypeError: An item cannot be pickled; the text names it.
    """
    size = len(data)
    digest = xxhash.xxh3_128(f"{size} items".encode())
    if isinstance(data, range):
        digest.update(repr(data).encode())
    elif isinstance(data, np.ndarray) and not data.dtype.hasobject and size <= EXACT_ITEMS:
        digest.update(f"{data.dtype.str} {data.shape}".encode())
        digest.update(np.ascontiguousarray(data).view(np.uint8).data)
    elif size <= EXACT_ITEMS:
        for first in range(0, size, _RUN):
            digest.update(_encode(data, range(first, min(first + _RUN, size))))
    else:
        sample = np.linspace(0, size - 1, SAMPLED_ITEMS).astype(np.int64).tolist()
        for first in range(0, len(sample), _RUN):
            digest.update(_encode(data, sample[first : first + _RUN]))
    return digest.hexdigest()


def _encode(data: Sequence[Any], indices: Sequence[int]) -> bytes:
    items = [data[index] for index in indices]
    try:
        return _dump(items)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError):
        for index, item in zip(indices, items, strict=True):
            try:
                _dump(item)
            except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError) as error:
                raise TypeError(f"data: item {index} ({shorten(item)}) cannot be pickled: {error}") from error
        raise


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True  # no memo: see the module's docstring
    pickler.dump(value)
    return buffer.getvalue()
