"""Entries read from their files: all of them to compare checksums, or one to look at.

Promise: nothing is unpickled, run or mapped (a file cut meanwhile is a short read), and no link is followed. Memory is
bounded, and each thread has one file open at a time. What a file lacks is a fault of the entry; what cannot be read
just now (no permission, too many open files, an error of the disk or the network) is ``"unreadable"`` and no fault.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np

from hydrax_core.cache.format.codec import DecodeError, dtype_of
from hydrax_core.cache.format.entry import decode_batch, decode_item, entry_digest, unseal
from hydrax_core.cache.format.folder import epoch_folder, is_files_fault, open_folder, open_regular
from hydrax_core.data.group import DRAWN, Shuffle
from hydrax_core.errors import CacheError
from hydrax_core.plan.order import GroupOrder
from hydrax_core.plan.permutation import derive_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from hydrax_core.cache.format.arrays import ArrayFile
    from hydrax_core.cache.format.manifest import Manifest, StoredArray
    from hydrax_core.cache.index.index import IndexRow
    from hydrax_core.plan.order import BatchContent

__all__ = ["CheckedRow", "Fault", "Pickled", "StoredEntry", "check_rows", "fault_of", "read_stored"]

Fault: TypeAlias = Literal["", "unchecked", "corrupt", "cut", "missing", "unreadable"]
"""From good to worst: of several the last one counts."""

_FAULTS: Final = get_args(Fault)
_CHUNK: Final = 1 << 18
"""Bytes read at once: they are hashed while still in the processor's cache."""
_TASK_BYTES: Final = 1 << 24
"""Bytes of one task for a thread, so that handing it over, and opening the files for it, costs little."""
_TASK_ROWS: Final = 4096
_ROWS: Final = 1 << 14
_THREADS: Final = 4
_MOST_BYTES: Final = 1 << 32
"""Of what is looked at; a manifest may announce anything."""


class CheckedRow(NamedTuple):
    """A row of the index, and what is wrong with its entry."""

    row: IndexRow
    fault: Fault


def fault_of(error: OSError) -> Fault:
    """What an error in opening a file means for what lies in it."""
    return "missing" if is_files_fault(error) else "unreadable"


def _worst(*faults: Fault) -> Fault:
    return max(faults, key=_FAULTS.index)


def check_rows(
    folder: Path, files: Sequence[ArrayFile], identity: bytes, rows: Iterable[IndexRow]
) -> Iterator[CheckedRow]:
    """Check entries; ``rows`` are in the order of their epochs."""
    source = iter(rows)
    buffers = threading.local()
    step = min(_TASK_ROWS, max(1, _TASK_BYTES // sum(file.entry_bytes for file in files)))

    def check(part: Sequence[IndexRow]) -> list[CheckedRow]:
        if not hasattr(buffers, "view"):
            buffers.view = memoryview(bytearray(_CHUNK))
        return _check(folder, files, identity, part, buffers.view)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        try:
            while page := list(islice(source, _ROWS)):
                tasks: list[list[IndexRow]] = []
                for _, group in groupby(page, lambda row: row.epoch):
                    part = list(group)
                    tasks += [part[first : first + step] for first in range(0, len(part), step)]
                for checked in pool.map(check, tasks):
                    yield from checked
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _check(
    folder: Path, files: Sequence[ArrayFile], identity: bytes, rows: Sequence[IndexRow], buffer: memoryview
) -> list[CheckedRow]:
    """Check entries of one epoch, file by file."""
    faults: list[Fault] = ["" if 0 <= row.number < files[0].entries else "corrupt" for row in rows]
    digests = [entry_digest(identity, row.epoch, row.number, row.created, row.size, row.additional) for row in rows]
    for file in files:
        try:
            descriptor = _open(folder, rows[0].epoch, file)
        except OSError as error:
            faults = [_worst(fault, fault_of(error)) for fault in faults]
            continue
        try:
            for place, (row, digest) in enumerate(zip(rows, digests, strict=True)):
                position, end = file.offset(row.number), file.offset(row.number + 1)
                while position < end and not faults[place]:
                    part = buffer[: min(_CHUNK, end - position)]
                    faults[place] = _fill(part, descriptor, position)
                    digest.update(part)
                    position += len(part)
        finally:
            os.close(descriptor)
    return [
        CheckedRow(row, fault or ("" if digest.digest() == row.checksum else "corrupt"))
        for row, fault, digest in zip(rows, faults, digests, strict=True)
    ]


def _open(folder: Path, epoch: int, file: ArrayFile) -> int:
    """A file descriptor of an array file of a content epoch, with no link on the way below the cache's folder."""
    opened = [open_folder(folder)]
    try:
        opened.append(open_folder(epoch_folder(epoch), within=opened[0]))
        return open_regular(file.file_name, os.O_RDONLY, within=opened[1])
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _fill(buffer: memoryview, descriptor: int, position: int) -> Fault:
    while buffer:
        try:
            count = os.preadv(descriptor, [buffer], position)
        except OSError:
            return "unreadable"
        if not count:
            return "cut"
        buffer, position = buffer[count:], position + count
    return ""


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
            ``"cut"``, ``"missing"`` and ``"unreadable"`` as ``verify`` has them.
        additional_fault: Why there is no additional data though some is stored; ``""`` where all is well.
        indices: Index in the group's data of each real row; empty where the settings do not say.
        seeds: Seed of each real row; ``None`` in validation, of items, and where the settings do not say.
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
        CacheError: An array of it is larger than 4 GiB.
    """
    if not 0 <= row.number < manifest.entries:
        raise IndexError(f"there is no {manifest.cache_by} {row.number}; an epoch has {manifest.entries}")
    part = manifest.cache_by == "batch" and rows is not None
    raw: dict[str, np.ndarray[Any, Any]] = {}
    worst: Fault = "unchecked" if part else ""
    for file in files:
        size = _bytes_of(file, rows if part else None)
        if size > _MOST_BYTES:
            raise CacheError(f"{folder}: {file.array.name!r} takes {size:,} bytes an entry, too much to look at")
        raw[file.array.name] = np.zeros(size, np.uint8)
        found = _read(folder, row.epoch, file, row.number, raw[file.array.name].data)
        worst = _worst(worst, found)
    identity = manifest.identity_digest()
    if not worst:
        digest = entry_digest(identity, row.epoch, row.number, row.created, row.size, row.additional)
        for array in raw.values():
            digest.update(array.data)
        worst = "" if digest.digest() == row.checksum else "corrupt"
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


def _read(folder: Path, epoch: int, file: ArrayFile, number: int, into: memoryview) -> Fault:
    try:
        descriptor = _open(folder, epoch, file)
    except OSError as error:
        return fault_of(error)
    try:
        return _fill(into, descriptor, file.offset(number))
    finally:
        os.close(descriptor)


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
