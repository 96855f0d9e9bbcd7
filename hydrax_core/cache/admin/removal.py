"""Removing parts of a cache that nobody uses.

Promise: only files of the format are touched, and none through a link.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hydrax_core.cache.admin.survey import Survey, epoch_paths
from hydrax_core.cache.format.arrays import ArrayFile, punch
from hydrax_core.cache.format.folder import epoch_folder, open_within
from hydrax_core.cache.store.locks import FolderLock
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["exclusive_lock", "free_entries", "remove_epoch"]


def exclusive_lock(folder: Path) -> FolderLock:
    """Make sure that nobody uses a cache, until the lock is closed.

    Raises:
        CacheBusyError: Somebody does.
        CacheError: The folder cannot be written.
    """
    try:
        lock = FolderLock(folder, writable=True)
    except OSError as error:
        raise CacheError(f"{folder}: this cache cannot be changed: {error.strerror or error}") from error
    try:
        lock.exclude_use()
    except BaseException:
        lock.close()
        raise
    return lock


def free_entries(folder: Path, files: Sequence[ArrayFile], epoch: int, numbers: Sequence[int]) -> None:
    """Free the room of entries that have no row; files that are too long get their length.

    Raises:
        OSError: A file cannot be written.
    """
    for file in files:
        descriptor = open_within(folder, epoch, file.file_name, os.O_RDWR)
        try:
            if os.fstat(descriptor).st_size > file.size:
                os.ftruncate(descriptor, file.size)
            for number in numbers:
                punch(descriptor, file.offset(number), file.entry_bytes)
        finally:
            os.close(descriptor)


def remove_epoch(folder: Path, found: Survey, epoch: int) -> None:
    """Remove the array files of an epoch, and its folder if nothing else is in it.

    Raises:
        OSError: A file cannot be removed.
    """
    for path in epoch_paths(folder, found, epoch):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something foreign is in it
        (folder / epoch_folder(epoch)).rmdir()
