"""Locks on bytes of a file where the system has none of open files: locks of processes, told apart within this one.

Promise: as ``OpenFileLocks`` in ``locks.py``. Record locks belong to a process, which loses all of a file's when any of
its descriptors of that file is closed. So all users in this process share one, and a table says who of them holds what.
Of a file that this process may not write it cannot be told whether other processes use it: no is assumed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrax_core.cache.format.folder import open_regular

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RecordLocks"]

_COMMANDS = {
    fcntl.F_RDLCK: fcntl.LOCK_SH | fcntl.LOCK_NB,
    fcntl.F_WRLCK: fcntl.LOCK_EX | fcntl.LOCK_NB,
    fcntl.F_UNLCK: fcntl.LOCK_UN,
}


@dataclass(slots=True)
class _File:
    """A file as this process has it open.

    Attributes:
        readable: A descriptor.
        writable: One to write, ``-1`` for none.
        users: How many there are.
        holders: Byte -> user -> kind of its lock.
    """

    readable: int = -1
    writable: int = -1
    users: int = 0
    holders: dict[int, dict[RecordLocks, int]] = field(default_factory=dict)

    def set(self, kind: int, place: int) -> bool:
        """Change the lock of this process on a byte; ``False`` where another process has it."""
        descriptor = self.writable if self.writable >= 0 else self.readable
        try:
            fcntl.lockf(descriptor, _COMMANDS[kind], 1, place)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return False
            raise
        return True


class RecordLocks:
    """The locks of one user of a file.

    Args:
        path: The file.
        flags: How to open it.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        writes = bool(flags & os.O_RDWR)
        with _lock:
            try:
                file = _files.get(_key(path.lstat()))
            except FileNotFoundError:
                file = None
            if file is None or (writes and file.writable < 0):
                descriptor = open_regular(path, flags)
                file = _files.setdefault(_key(os.fstat(descriptor)), _File())
                if writes:
                    file.writable = descriptor
                else:
                    file.readable = descriptor
            file.users += 1
            self._file = file
            self._closed = False

    def status(self) -> os.stat_result:
        """What the system knows of the file."""
        return os.fstat(max(self._file.writable, self._file.readable))

    def take(self, kind: int, place: int) -> bool:
        """Take, change or give back the lock of a byte; ``False`` where others have it.

        Raises:
            OSError: The file system has no locks.
        """
        with _lock:
            holders = self._file.holders.setdefault(place, {})
            others = {held for user, held in holders.items() if user is not self}
            if kind != fcntl.F_UNLCK and (fcntl.F_WRLCK in others or (others and kind == fcntl.F_WRLCK)):
                return False
            if not self._file.set(fcntl.F_RDLCK if others else kind, place):
                return False
            if kind == fcntl.F_UNLCK:
                holders.pop(self, None)
            else:
                holders[self] = kind
            if not holders:
                del self._file.holders[place]
            return True

    def is_taken(self, place: int) -> bool:
        """Whether others hold the lock of a byte."""
        with _lock:
            holders = self._file.holders.get(place, {})
            if holders or not self._may_write():
                return bool(holders.keys() - {self})
            if not self._file.set(fcntl.F_WRLCK, place):
                return True
            self._file.set(fcntl.F_UNLCK, place)
            return False

    def _may_write(self) -> bool:
        if self._file.writable < 0:
            try:
                descriptor = open_regular(self._path, os.O_RDWR)
            except OSError:
                return False
            if _files.get(_key(os.fstat(descriptor))) is not self._file:
                os.close(descriptor)  # of another file, at whose place this one no longer is
                return False
            self._file.writable = descriptor
        return True

    def close(self) -> None:
        with _lock:
            if self._closed:
                return
            self._closed = True
            file = self._file
            for place in [place for place, holders in file.holders.items() if self in holders]:
                self.take(fcntl.F_UNLCK, place)
            file.users -= 1
            if file.users == 0:
                for key in [key for key, known in _files.items() if known is file]:
                    del _files[key]
                for descriptor in {file.readable, file.writable} - {-1}:
                    os.close(descriptor)


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


_files: dict[tuple[int, int], _File] = {}
_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603  a thread that is not in the child may have held it
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
