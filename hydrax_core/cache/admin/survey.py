"""Looking at a cache folder from outside, without a group: for ``info``, ``verify`` and ``clear``.

Promise: nothing is changed by looking, but for what SQLite itself does when a writer was killed in the middle of a
commit: it undoes that commit, as it would for the next run.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrax_core.cache.format.arrays import ArrayFile, array_files
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
)
from hydrax_core.cache.format.manifest import DamagedManifestError, Manifest, read_manifest
from hydrax_core.cache.index.database import play_back_journal
from hydrax_core.cache.index.index import Index
from hydrax_core.cache.store.locks import FolderLock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Survey", "in_use", "needs_index", "readonly_index", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a cache folder; all names are relative to it.

    Attributes:
        manifest: What the cache was made for, ``None`` where that is missing or damaged.
        damage: What is wrong with the manifest.
        files: The files of one content epoch.
        epochs: Content epoch -> names of its array files that are there.
        leftovers: What killed writers left.
        foreign: What is not of the format.
    """

    manifest: Manifest | None
    damage: str
    files: tuple[ArrayFile, ...]
    epochs: dict[int, tuple[str, ...]]
    leftovers: tuple[str, ...]
    foreign: tuple[str, ...]


def survey(folder: Path) -> Survey:
    """Look at a folder that is a cache.

    Raises:
        CacheMismatchError: A later version of the format.
        OSError: It cannot be read.
    """
    manifest, damage = None, ""
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError as error:
        damage = str(error)
    files = () if manifest is None else array_files(manifest)
    epochs: dict[int, tuple[str, ...]] = {}
    leftovers, foreign = [], []
    for child in sorted(folder.iterdir()):
        name, epoch = child.name, epoch_of(child.name)
        if epoch is not None and child.is_dir() and not child.is_symlink():
            # Without a manifest nobody knows the arrays' names: then every .npy file counts.
            names = {file.file_name for file in files} or None
            epochs[epoch] = tuple(_array_files(child, names))
            foreign += [f"{name}/{other.name}" for other in sorted(child.iterdir()) if other.name not in epochs[epoch]]
        elif not is_regular(child):
            foreign.append(name)
        elif is_temporary(name) or name in INDEX_SIDE_FILES:
            leftovers.append(name)
        elif name not in {MANIFEST, LOCK, INDEX, OLD_INDEX}:
            foreign.append(name)
    ordered = dict(sorted(epochs.items()))
    return Survey(manifest, damage, files, ordered, tuple(leftovers), tuple(foreign))


def needs_index(folder: Path, found: Survey) -> bool:
    """Whether the index is worth a look: a cache that holds nothing needs none, and an empty file is none yet."""
    try:
        return bool(found.epochs) or (folder / INDEX).lstat().st_size > 0
    except OSError:
        return False


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


def _array_files(folder: Path, names: set[str] | None) -> list[str]:
    return [
        child.name
        for child in sorted(folder.iterdir())
        if is_regular(child) and (child.suffix == ".npy" if names is None else child.name in names)
    ]


def disk_bytes(path: Path) -> int:
    """Room that a file takes on the disk; 0 where it is gone."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def epoch_paths(folder: Path, found: Survey, epoch: int) -> list[Path]:
    """The array files of a content epoch that are there."""
    return [folder / epoch_folder(epoch) / name for name in found.epochs.get(epoch, ())]
