"""Sockets of running loaders: their places, and the users that may connect.

Promise: a socket lies in a folder that belongs to the user and is closed to all others: ``hydrax`` in
``$XDG_RUNTIME_DIR``, or ``hydrax-UID`` among the temporary files. A folder that is another user's, or open to others,
or a link, is not used. The socket itself has mode 0600, and both ends ask the kernel for the user of the other: the
same user is let in, and root, who may read the memory of every process anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Address", "bind", "connect", "in_use", "is_allowed", "listed", "peer_user", "remove"]

_NAME = re.compile(r"(\d{1,9})-(\d{1,6})\.sock")
_LONGEST_PATH = 100
"""Bytes; the kernel takes 107 in the address of a socket."""
_MOST_LOADERS = 1000
_TRIES = 5
_CREDENTIALS = struct.Struct("iII")


class Address(NamedTuple):
    path: Path
    pid: int
    number: int


def _folders() -> list[Path]:
    """Where sockets of this user may be; the process that offers one may have had another environment."""
    user = os.geteuid()
    runtime = [Path(name) for name in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}") if name]
    found = [path / "hydrax" for path in runtime if path.is_absolute()]
    return list(dict.fromkeys([*found, Path(tempfile.gettempdir()) / f"hydrax-{user}"]))


def _fault(folder: Path) -> str:
    """Why a folder is not to be trusted, ``""`` where it is."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    if found.st_mode & 0o077:
        return f"{folder} is open to other users (mode {stat.S_IMODE(found.st_mode):o}; expected 700)"
    return ""


def _own_folder() -> Path:
    """The folder to offer a socket in, made where it is not there."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_absolute():
        with contextlib.suppress(OSError):
            found = Path(runtime).stat()
            if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
                return _made(Path(runtime) / "hydrax")
    return _made(Path(tempfile.gettempdir()) / f"hydrax-{os.geteuid()}")


def _made(folder: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
        folder.chmod(0o700)  # whatever the umask is
    fault = _fault(folder)
    if fault:
        raise PermissionError(errno.EACCES, fault)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{folder} cannot be written")
    return folder


def bind() -> tuple[socket.socket, Address]:
    """A socket of this process, not listening yet, and where it is."""
    pid = os.getpid()
    for attempt in range(_TRIES):
        folder = _own_folder()
        try:
            for number in range(1, _MOST_LOADERS):
                address = Address(folder / f"{pid}-{number}.sock", pid, number)
                made = _bind(address)
                if made is not None:
                    return made, address
        except FileNotFoundError:  # another process has removed the folder, which was empty
            if attempt == _TRIES - 1:
                raise
    raise OSError(errno.EADDRINUSE, f"{_MOST_LOADERS} loaders of this process are watched already")


def _bind(address: Address) -> socket.socket | None:
    for _ in range(2):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(made.fileno(), 0o600)  # the file gets it, less the umask
            with _short(address.path) as path:
                made.bind(path)
        except OSError as error:
            made.close()
            if error.errno != errno.EADDRINUSE:
                raise
            if in_use(address.path):
                return None
            address.path.unlink(missing_ok=True)  # an earlier process had this pid
        else:
            return made
    return None


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the path that fits into the address of a socket."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def connect(path: Path) -> socket.socket:
    """A socket, not blocking, that is connected to the loader at that place."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(path) as name:
            made.connect(name)
        allowed = is_allowed(peer_user(made))
    except BaseException:
        made.close()
        raise
    if not allowed:
        made.close()
        raise PermissionError(errno.EACCES, f"{path} is offered by another user")
    return made


def in_use(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with probe, _short(path) as name:
        try:
            probe.connect(name)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def listed() -> list[Address]:
    """The sockets of this user, oldest process first; those whose process is gone are removed."""
    found = []
    for folder in _folders():
        try:
            if _fault(folder):
                continue
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            continue
        for name in names:
            parts = _NAME.fullmatch(name)
            if parts is None:
                continue
            address = Address(folder / name, int(parts[1]), int(parts[2]))
            # A process of another container may have a pid that does not exist here, but it listens.
            if not _is_alive(address.pid) and not in_use(address.path):
                remove(address.path)
            else:
                found.append(address)
    return sorted(found, key=lambda address: (address.pid, address.number))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def peer_user(connection: socket.socket) -> int:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def is_allowed(user: int) -> bool:
    """Whether that user may be at the other end."""
    return user in (os.geteuid(), 0)
