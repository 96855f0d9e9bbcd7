"""Use of a cache folder, and claims to write entries, as advisory locks on bytes of one empty file.

Promise: a lock ends with its process, however that ends, so nothing stale is left behind. Locks belong to an open
file (Linux ``F_OFD_SETLK``), not to a process: two stores in one process exclude each other like two processes do.
Where the system has no such locks, ``record_locks.py`` stands in.

Byte 0: in use (shared by every open store; alone for removing). Byte 1: being set up. From byte 64 on: one an entry.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydrax_core.cache.format.folder import LOCK, open_regular
from hydrax_core.cache.store.record_locks import RecordLocks
from hydrax_core.data.portable import PORTABLE
from hydrax_core.errors import CacheBusyError, CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FolderLock", "OpenFileLocks"]

_IN_USE = 0
_SETUP = 1
_ENTRIES = 64
_ENTRY_SPACE = 2**62
"""Offsets must stay below 2**63; two entries that meet in one byte would only be written one after the other."""

_FLOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_HELD = {errno.EAGAIN, errno.EACCES}
_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 30.0


class FolderLock:
    """The lock file of one cache folder, opened once.

    Args:
        writable: Whether to create the file and to take locks that exclude others.

    Raises:
        OSError: The file cannot be opened or created.
    """

    def __init__(self, folder: Path, *, writable: bool) -> None:
        self._folder = folder
        self._flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._file: OpenFileLocks | RecordLocks | None = _open(folder / LOCK, self._flags)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def share_use(self) -> None:
        """Say that the cache is in use, until ``close()``; waits while it is being removed from.

        Raises:
            CacheBusyError: It stayed so for half a minute.
        """
        self._wait(fcntl.F_RDLCK, _IN_USE, "entries are being removed from it")

    def exclude_use(self) -> None:
        """Exclude all other use of the cache, until ``close()``."""
        if not self._take(fcntl.F_WRLCK, _IN_USE):
            raise CacheBusyError(f"{self._folder}: a run is using this cache; wait for its end, or stop it")

    def is_used(self) -> bool:
        """Whether another open file holds the cache in use."""
        assert self._file is not None
        return self._file.is_taken(_IN_USE)

    @contextmanager
    def setup(self) -> Iterator[None]:
        """Create or mend manifest and index alone.

        Raises:
            CacheBusyError: Another process has been at it for half a minute.
        """
        self._wait(fcntl.F_WRLCK, _SETUP, "another process is creating or mending it")
        try:
            yield
        finally:
            self._take(fcntl.F_UNLCK, _SETUP)

    def claim(self, place: int) -> bool:
        """Claim the writing of an entry; ``False`` where another open file has it."""
        return self._take(fcntl.F_WRLCK, _ENTRIES + place % _ENTRY_SPACE)

    def release(self, place: int) -> None:
        if self._file is not None:
            self._take(fcntl.F_UNLCK, _ENTRIES + place % _ENTRY_SPACE)

    def _wait(self, kind: int, start: int, why: str) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if self._take(kind, start):
                if self._is_current():
                    return
                # The cache was removed, its lock file with it: the file that we have open has no name any more.
                self.close()
                self._file = _open(self._folder / LOCK, self._flags)
                continue
            if time.monotonic() > end:
                raise CacheBusyError(f"{self._folder}: {why}, for {_PATIENCE_SECONDS:.0f} s already; try again later")
            time.sleep(_PAUSE_SECONDS)

    def _is_current(self) -> bool:
        try:
            found = (self._folder / LOCK).lstat()
        except FileNotFoundError:
            return False
        assert self._file is not None
        own = self._file.status()
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def _take(self, kind: int, place: int) -> bool:
        assert self._file is not None
        try:
            return self._file.take(kind, place)
        except OSError as error:
            if error.errno in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
                raise CacheError(
                    f"{self._folder}: its file system has no working locks ({error.strerror}); use a local folder, or "
                    "cache_readonly=True"
                ) from error
            raise


class OpenFileLocks:
    """Locks that belong to an open file.

    Args:
        path: The file.
        flags: How to open it.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self._file = open_regular(path, flags)

    def status(self) -> os.stat_result:
        """What the system knows of the file."""
        return os.fstat(self._file)

    def take(self, kind: int, place: int) -> bool:
        """Take, change or give back the lock of a byte; ``False`` where others have it.

        Raises:
            OSError: The file system has no locks.
        """
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def is_taken(self, place: int) -> bool:
        """Whether others hold the lock of a byte."""
        flock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, flock))[0]
        return kind != fcntl.F_UNLCK

    def close(self) -> None:
        os.close(self._file)


def _open(path: Path, flags: int) -> OpenFileLocks | RecordLocks:
    return RecordLocks(path, flags) if PORTABLE else OpenFileLocks(path, flags)
