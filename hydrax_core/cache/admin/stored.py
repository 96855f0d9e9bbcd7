"""One entry read from its files, for looking at: its arrays, its additional data, and whether its checksum fits.

Promise: nothing is unpickled, run or mapped, and no link is followed. What cannot be read is zeros, and is said. A bad
entry can be looked at, too: that is what somebody who looks for a fault wants.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np

from hydrax_core.cache.format.additional import decode_batch, decode_item
from hydrax_core.cache.format.checksum import entry_checksum, unseal
from hydrax_core.cache.format.codec import DecodeError, dtype_of
from hydrax_core.cache.format.folder import open_within
from hydrax_core.data.group import DRAWN, Shuffle
from hydrax_core.plan.order import GroupOrder
from hydrax_core.plan.permutation import derive_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hydrax_core.cache.format.arrays import ArrayFile
    from hydrax_core.cache.format.manifest import Manifest, StoredArray
    from hydrax_core.cache.index.index import IndexRow
    from hydrax_core.plan.order import BatchContent

__all__ = ["Fault", "Pickled", "StoredEntry", "read_stored"]

Fault: TypeAlias = Literal["", "corrupt", "cut", "missing", "unchecked"]


@dataclass(frozen=True, slots=True)
class Pickled:
    """Stands in for a value that is stored as a pickle, which looking at a cache does not open."""

    size: int

    def __repr__(self) -> str:
        """What it is, in words."""
        return f"<unopened pickle of {self.size} bytes>"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry, or the first rows of one.

    Attributes:
        arrays: Copies, by name; of a batch with all its rows, padding included; of an item without a batch dimension.
        additional: Name -> one value a row; of an item the value. Pickles are ``Pickled``.
        fault: ``""`` for a checksum that fits, ``"unchecked"`` where only some rows were asked for; ``"corrupt"``,
            ``"cut"`` and ``"missing"`` as ``verify`` has them.
        additional_fault: Why there is no additional data though some is stored; ``""`` where all is well.
        indices: Index in the group's data of each real row; empty where the settings do not tell.
        seeds: Seed of each real row; ``None`` in validation, of items, and where the settings do not tell.
    """

    arrays: Mapping[str, np.ndarray[Any, Any]]
    additional: Mapping[str, Any]
    fault: Fault
    additional_fault: str
    indices: Sequence[int]
    seeds: Sequence[int] | None


def read_stored(
    folder: Path, manifest: Manifest, files: Sequence[ArrayFile], row: IndexRow, rows: int | None
) -> StoredEntry:
    """Read the entry of a row of the index; with ``rows`` only the first rows of a batch.

    Raises:
        IndexError: There is no such entry in an epoch.
    """
    if not 0 <= row.number < manifest.entries:
        raise IndexError(f"there is no {manifest.cache_by} {row.number}; an epoch has {manifest.entries}")
    part = manifest.cache_by == "batch" and rows is not None
    raw = {file.array.name: np.zeros(_bytes_of(file, rows if part else None), np.uint8) for file in files}
    worst: Fault = "unchecked" if part else ""
    for file in files:
        fault = _read(folder, file, row, raw[file.array.name])
        worst = fault or worst
    identity = manifest.identity_digest()
    if not worst:
        parts = raw.values()
        checksum = entry_checksum(identity, row.epoch, row.number, row.created, row.size, row.additional, parts)
        worst = "" if checksum == row.checksum else "corrupt"
    additional, additional_fault = _additional(identity, manifest, row)
    content = _content(manifest, row.epoch, row.number)
    indices: Sequence[int] = () if content is None else tuple(content.indices.tolist())
    seeds = None if content is None or content.seeds is None else tuple(content.seeds.tolist())
    return StoredEntry(
        MappingProxyType({file.array.name: _shaped(raw[file.array.name], file.array) for file in files}),
        MappingProxyType(additional),
        worst,
        additional_fault,
        (row.number,) if manifest.cache_by == "item" else indices,
        seeds,
    )


def _bytes_of(file: ArrayFile, rows: int | None) -> int:
    if rows is None:
        return file.entry_bytes
    return min(max(1, rows), file.array.shape[0]) * (file.entry_bytes // file.array.shape[0])


def _read(folder: Path, file: ArrayFile, row: IndexRow, into: np.ndarray[Any, Any]) -> Fault:
    """Fill a buffer with the first bytes of an entry."""
    try:
        descriptor = open_within(folder, row.epoch, file.file_name, os.O_RDONLY)
    except OSError:
        return "missing"
    try:
        rest, position = into.data, file.offset(row.number)
        while rest:
            count = os.preadv(descriptor, [rest], position)
            if not count:
                return "cut"
            rest, position = rest[count:], position + count
    except OSError:
        return "corrupt"  # the disk cannot read it
    finally:
        os.close(descriptor)
    return ""


def _shaped(raw: np.ndarray[Any, Any], array: StoredArray) -> np.ndarray[Any, Any]:
    stored = np.dtype(array.stored)
    try:
        dtype = dtype_of(array.dtype)  # bfloat16 and its like, stored as integers of the same bits
    except (DecodeError, ImportError, AttributeError):
        dtype = stored
    found = raw.view(dtype if dtype.itemsize == stored.itemsize else stored)
    return found.reshape(-1, *array.shape[1:]) if array.shape else found.reshape(())


def _additional(identity: bytes, manifest: Manifest, row: IndexRow) -> tuple[dict[str, Any], str]:
    if row.additional is None:
        return {}, ""
    data = unseal(identity, row.epoch, row.number, row.additional)
    if data is None:
        return {}, "its checksum does not fit"
    try:
        if manifest.cache_by == "item":
            return decode_item(data, allow_pickle=False, instead=_pickled), ""
        rows = manifest.arrays[0].shape[0]
        return dict(decode_batch(data, rows, allow_pickle=False, instead=_pickled)), ""
    except DecodeError as error:
        return {}, str(error)


def _pickled(data: bytes) -> Pickled:
    return Pickled(len(data))


def _content(manifest: Manifest, epoch: int, number: int) -> BatchContent | None:
    """Which items a batch holds; ``None`` where the settings, which anybody may have written, do not say."""
    settings = manifest.settings
    size, batch_size, seed = (settings.get(name) for name in ("items", "batch_size", "seed"))
    if (
        manifest.cache_by == "item"
        or str(settings.get("data")).startswith(DRAWN)
        or type(size) is not int
        or type(batch_size) is not int
    ):
        return None
    training = manifest.kind == "training"
    later = settings.get("shuffle_later") if training else "repeat"
    known = later in get_args(Shuffle) and (not training or (type(seed) is int and manifest.group_index is not None))
    if not known or not (0 < batch_size <= size < 2**62) or (manifest.entries - 1) * batch_size >= size:
        return None
    assert not training or (seed is not None and manifest.group_index is not None)
    key = derive_key(seed, manifest.group_index) if training else None
    order = GroupOrder(
        size,
        batch_size,
        manifest.entries,
        key,
        shuffle_first=settings.get("shuffle_first") is True,
        shuffle_later=cast("Shuffle", later),
        first_seeds_only=settings.get("first_seeds_only") is True,
    )
    content = order.batch(epoch, number)  # the order of a content epoch is that of the epoch of its number
    return content if (content.content_epoch, content.content_batch) == (epoch, number) else None
