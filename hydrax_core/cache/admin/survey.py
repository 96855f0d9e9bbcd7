"""A cache folder from outside, without a group: what lies in it, and removing that.

Promise: nothing is changed by looking, but for what SQLite itself does when a writer was killed in the middle of a
commit: it undoes that commit, as it would for the next run. Only files of the format are removed, and none through a
link: the folder is held open, so that what takes its place meanwhile, or that of a folder in it, is not followed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Self

from hydrax_core.cache.format.arrays import ArrayFile, array_files, open_array, punch
from hydrax_core.cache.format.folder import (
    INDEX,
    INDEX_SIDE_FILES,
    LOCK,
    MANIFEST,
    OLD_INDEX,
    epoch_folder,
    epoch_of,
    is_regular,
    is_temporary,
    open_folder,
)
from hydrax_core.cache.format.manifest import DamagedManifestError, Manifest, read_manifest
from hydrax_core.cache.index.database import play_back_journal
from hydrax_core.cache.index.index import Index
from hydrax_core.cache.store.locks import FolderLock
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Survey", "exclusive_lock", "in_use", "readonly_index"]


class Survey:
    """What lies in a folder that is a cache; all names are relative to it.

    Attributes:
        path: The folder.
        manifest: What the cache was made for, ``None`` where that is missing or damaged.
        damage: What is wrong with the manifest.
        files: The files of one content epoch.
        epochs: Content epoch -> names of its array files that are there, ``"epoch-0/x.npy"``.
        leftovers: What killed writers left.
        foreign: What is not of the format.

    Raises:
        CacheError: It cannot be read.
        CacheMismatchError: A later version of the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = -1
        try:
            self._folder = open_folder(path)
            self._look()
        except OSError as error:
            self.close()
            raise CacheError(f"{path}: it cannot be read, and nothing is changed: {error}") from error
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        self.manifest: Manifest | None = None
        self.damage = ""
        try:
            self.manifest = read_manifest(self.path)
        except DamagedManifestError as error:
            self.damage = str(error)
        self.files: tuple[ArrayFile, ...] = () if self.manifest is None else array_files(self.manifest)
        # Without a manifest the arrays' names are not known: then every .npy file counts.
        known = {file.file_name for file in self.files}
        epochs: dict[int, tuple[str, ...]] = {}
        leftovers: list[str] = []
        foreign: list[str] = []
        for name, kind in _list(self._folder):
            epoch = epoch_of(name)
            if epoch is not None and kind == stat.S_IFDIR:
                arrays: list[str] = []
                with contextlib.suppress(FileNotFoundError), _opened(self.open_epoch(epoch)) as within:
                    for child, child_kind in _list(within):
                        own = child in known if known else child.endswith(".npy")
                        (arrays if own and child_kind == stat.S_IFREG else foreign).append(f"{name}/{child}")
                epochs[epoch] = tuple(arrays)
            elif kind == stat.S_IFREG and (is_temporary(name) or name in INDEX_SIDE_FILES):
                leftovers.append(name)
            elif kind != stat.S_IFREG or name not in {MANIFEST, LOCK, INDEX, OLD_INDEX}:
                foreign.append(name)
        self.epochs = dict(sorted(epochs.items()))
        self.leftovers, self.foreign = tuple(leftovers), tuple(foreign)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # of a generator that was never asked

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    @property
    def needs_index(self) -> bool:
        """Whether the index is worth a look: a cache that holds nothing needs none, and an empty file is none yet."""
        status = self.status(INDEX)
        return bool(self.epochs) or (status is not None and status.st_size > 0)

    def status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return None

    def modified(self, name: str) -> float | None:
        status = self.status(name)
        return None if status is None else status.st_mtime

    def disk_bytes(self, *names: str) -> int:
        return sum(status.st_blocks * 512 for status in map(self.status, names) if status is not None)

    def open_epoch(self, epoch: int) -> int:
        """A file descriptor of the folder of a content epoch."""
        return open_folder(epoch_folder(epoch), within=self._folder)

    def require_current(self) -> None:
        """Make sure that what was opened by its path since, lock, manifest and index, is of this folder.

        Raises:
            CacheError: Another folder has taken its place.
        """
        own = os.fstat(self._folder)
        try:
            there = self.path.stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise CacheError(f"{self.path}: another folder took its place meanwhile, so nothing is changed")

    def remove(self, name: str) -> None:
        """Remove a file of the folder itself; one that is gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    def remove_epoch(self, epoch: int) -> None:
        """Remove the array files of an epoch, and its folder if nothing else is in it."""
        names = self.epochs.get(epoch, ())
        with _opened(self.open_epoch(epoch)) as within:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name.partition("/")[2], dir_fd=within)
        with contextlib.suppress(OSError):  # something foreign is in it
            os.rmdir(epoch_folder(epoch), dir_fd=self._folder)

    def mend_epoch(self, epoch: int, numbers: Sequence[int]) -> None:
        """Free the room of entries that have no row; all files get their header and their length."""
        with _opened(self.open_epoch(epoch)) as within:
            for file in self.files:
                with _opened(open_array(file, within=within)[0]) as descriptor:
                    if os.fstat(descriptor).st_size > file.size:
                        os.ftruncate(descriptor, file.size)
                    for number in numbers:
                        punch(descriptor, file.offset(number), file.entry_bytes)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _list(folder: int) -> list[tuple[str, int]]:
    """Names in a folder, in order, and what each is; others may be writing in it."""
    found = []
    for name in sorted(os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            found.append((name, stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)))
    return found


def exclusive_lock(folder: Path) -> FolderLock:
    """Exclude all use of a cache, until the lock is closed.

    Raises:
        CacheBusyError: The cache is in use.
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


def readonly_index(folder: Path) -> tuple[Index | None, str]:
    """The index, ``None`` where it is missing or cannot be opened, and why.

    A damaged one is opened and empty, see ``Index.damage``.
    """
    path = folder / INDEX
    if not os.path.lexists(path):
        return None, "it is missing"
    if any(is_regular(folder / name) for name in INDEX_SIDE_FILES) and os.access(path, os.W_OK):
        play_back_journal(path)
    try:
        return Index(folder, writable=False, alone=contextlib.nullcontext), ""
    except (OSError, sqlite3.Error) as error:
        return None, str(error)


def in_use(folder: Path) -> bool:
    """Whether a run has the cache open."""
    try:
        lock = FolderLock(folder, writable=False)
    except OSError:
        return False
    with contextlib.closing(lock), contextlib.suppress(OSError):
        return lock.is_used()
    return False
