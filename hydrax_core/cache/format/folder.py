"""Which files belong to a cache, and opening them without following symbolic links.

Promise: a path is recognised as a cache by what lies in it alone. Nothing outside the folder is ever opened, as links
within it are refused (the folder itself may be reached through one).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import urllib.parse
from pathlib import Path
from typing import Final

import xxhash

from hydrax_core.errors import NotACacheError

__all__ = [
    "INDEX",
    "INDEX_SIDE_FILES",
    "LOCK",
    "MANIFEST",
    "OLD_INDEX",
    "array_file_name",
    "caches",
    "epoch_folder",
    "epoch_of",
    "epochs",
    "is_cache",
    "is_files_fault",
    "is_temporary",
    "open_folder",
    "open_regular",
    "require_cache",
]

MANIFEST: Final = "hydrax-cache.json"
LOCK: Final = "hydrax-cache.lock"
INDEX: Final = "index.sqlite"
OLD_INDEX: Final = "index.damaged"
INDEX_SIDE_FILES: Final = ("index.sqlite-journal", "index.sqlite-wal", "index.sqlite-shm")
"""What SQLite puts beside its file; the last two only after damage, as the format keeps a rollback journal."""

_TEMPORARY: Final = re.compile(re.escape(MANIFEST) + r"\.[0-9a-f]{8}\.tmp")
_EPOCH: Final = re.compile(r"epoch-(0|[1-9][0-9]{0,17})")
_FILE_IS_WRONG: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, None}
_LONGEST_NAME: Final = 100
_NAME_KEPT: Final = 80


def epoch_folder(epoch: int) -> str:
    return f"epoch-{epoch}"


def epoch_of(name: str) -> int | None:
    found = _EPOCH.fullmatch(name)
    return int(found[1]) if found else None


def array_file_name(array: str) -> str:
    """Name of the file of an array: safe as a file name, different for different arrays."""
    quoted = urllib.parse.quote(array.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) > _LONGEST_NAME:
        digest = xxhash.xxh3_64_hexdigest(array.encode("utf-8", "surrogatepass"))
        quoted = f"{quoted[:_NAME_KEPT]}~{digest}"
    return f"{quoted}.npy"


def is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def is_cache(folder: Path) -> bool:
    """Whether the folder holds a cache: a manifest, or nothing but files of the format and one of a name that is ours.

    Others, too, call their folders ``epoch-0`` and keep ``.npy`` files in them.
    """
    if is_regular(folder / MANIFEST):
        return True
    try:
        names = [child.name for child in folder.iterdir()]
    except OSError:
        return False
    if MANIFEST in names:  # another process may have put it there since the look above
        return is_regular(folder / MANIFEST)
    own = {LOCK, INDEX, OLD_INDEX, *INDEX_SIDE_FILES}
    ours = any(name == LOCK or is_temporary(name) for name in names)
    return ours and all(name in own or is_temporary(name) or epoch_of(name) is not None for name in names)


def require_cache(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    if not is_cache(folder):
        if not folder.exists():
            raise NotACacheError(f"{folder}: there is no such folder")
        raise NotACacheError(f"{folder}: this is no hydrax cache, as it holds no {MANIFEST}")
    return folder


def caches(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The cache at a path, or the caches in the folders right below it.

    Raises:
        NotACacheError: There is neither.
    """
    folder = Path(path)
    if is_cache(folder):
        return (folder,)
    try:
        below = sorted(child for child in folder.iterdir() if is_regular(child / MANIFEST))
    except OSError:
        below = []
    return tuple(below) or (require_cache(folder),)


def epochs(folder: Path) -> list[int]:
    """The content epochs that have a folder, in order; links are none."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            epoch = epoch_of(entry.name)
            if epoch is not None and entry.is_dir(follow_symlinks=False):
                found.append(epoch)
    return sorted(found)


def is_regular(path: Path) -> bool:
    """Whether there is a plain file, neither a link nor a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_files_fault(error: OSError) -> bool:
    """Whether an error in opening a file blames the file, not the moment; without a number it is our own refusal."""
    return error.errno in _FILE_IS_WRONG


def open_folder(path: Path | str, *, within: int | None = None) -> int:
    """A file descriptor of a folder; within another one links are refused."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    return os.open(path, flags if within is None else flags | os.O_NOFOLLOW, dir_fd=within)


def open_regular(name: Path | str, flags: int, *, within: int | None = None) -> int:
    """A file descriptor of a plain file; links are refused, and a pipe or device never blocks.

    To be written, it has no other name either: that may be a file that others know as theirs.
    """
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=within)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is no plain file")
    if flags & (os.O_RDWR | os.O_WRONLY) and status.st_nlink > 1:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "it has another name (a hard link), so it is not written", str(name))
    return descriptor
