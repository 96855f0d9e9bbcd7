"""Reading every entry of a cache from its files and comparing checksums.

Promise: nothing is unpickled or decoded, nothing is mapped (a file cut meanwhile is a short read), and memory is
bounded. Several threads read, since reading and hashing both let others run.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from hydrax_core.cache.format.checksum import entry_checksum
from hydrax_core.cache.format.folder import open_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from hydrax_core.cache.format.arrays import ArrayFile
    from hydrax_core.cache.index.index import IndexRow

__all__ = ["CheckedRow", "Fault", "check_rows"]

Fault: TypeAlias = Literal["", "corrupt", "cut", "missing"]

_CHUNK: Final = 1 << 18
"""Bytes read at once: they are hashed while still in the processor's cache."""
_TASK_BYTES: Final = 1 << 24
"""Bytes of one task for a thread, so that handing it over costs little."""
_ROWS: Final = 1024
_THREADS: Final = 4


class CheckedRow(NamedTuple):
    """A row of the index, and what is wrong with its entry."""

    row: IndexRow
    fault: Fault


class _CutError(Exception):
    """A file ends before the entry does."""


def check_rows(
    folder: Path, files: Sequence[ArrayFile], identity: bytes, rows: Iterable[IndexRow]
) -> Iterator[CheckedRow]:
    """Check entries; ``rows`` are in the order of their epochs."""
    source = iter(rows)
    buffers = threading.local()
    step = max(1, _TASK_BYTES // sum(file.entry_bytes for file in files))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        opened: list[int | None] = []
        epoch: int | None = None
        try:
            while page := list(islice(source, _ROWS)):
                while page:
                    if page[0].epoch != epoch:
                        _close(opened)
                        epoch = page[0].epoch
                        opened = _open(folder, epoch, files)
                    part = [row for row in page if row.epoch == epoch]
                    page = [row for row in page if row.epoch != epoch]
                    descriptors = tuple(opened)
                    tasks = [part[first : first + step] for first in range(0, len(part), step)]
                    for checked in pool.map(
                        lambda rows, d=descriptors: [
                            CheckedRow(row, _fault(files, d, identity, row, buffers)) for row in rows
                        ],
                        tasks,
                    ):
                        yield from checked
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            _close(opened)


def _open(folder: Path, epoch: int, files: Sequence[ArrayFile]) -> list[int | None]:
    """A file descriptor of each file, ``None`` where it is missing or no plain file."""
    opened: list[int | None] = []
    for file in files:
        try:
            opened.append(open_within(folder, epoch, file.file_name, os.O_RDONLY))
        except OSError:
            opened.append(None)
    return opened


def _close(opened: Iterable[int | None]) -> None:
    for descriptor in opened:
        if descriptor is not None:
            os.close(descriptor)


def _fault(
    files: Sequence[ArrayFile],
    descriptors: Sequence[int | None],
    identity: bytes,
    row: IndexRow,
    buffers: threading.local,
) -> Fault:
    if None in descriptors:
        return "missing"
    if not 0 <= row.number < files[0].entries:
        return "corrupt"
    if not hasattr(buffers, "view"):
        buffers.view = memoryview(bytearray(_CHUNK))
    parts = _parts(files, descriptors, row.number, buffers.view)
    try:
        checksum = entry_checksum(identity, row.epoch, row.number, row.created, row.size, row.additional, parts)
    except _CutError:
        return "cut"
    except OSError:
        return "corrupt"  # the disk cannot read it
    return "" if checksum == row.checksum else "corrupt"


def _parts(
    files: Sequence[ArrayFile], descriptors: Sequence[int | None], number: int, buffer: memoryview
) -> Iterator[Any]:
    for file, descriptor in zip(files, descriptors, strict=True):
        assert descriptor is not None
        position, end = file.offset(number), file.offset(number + 1)
        while position < end:
            count = os.preadv(descriptor, [buffer[: min(_CHUNK, end - position)]], position)
            if not count:
                raise _CutError
            yield buffer[:count]
            position += count
