"""Opening the cache of a group: creating it, mending it, refusing it, or doing without.

Promise: what is opened was made for exactly this group. Of several processes that create a cache at once one does.
Where the folder cannot be written it is only read, and where the disk is full or broken there is no cache; both are
logged, and training goes on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from hydrax_core.cache.format.folder import MANIFEST, is_cache, is_regular
from hydrax_core.cache.format.manifest import DamagedManifestError, Manifest, read_manifest, write_manifest
from hydrax_core.cache.index.index import Index
from hydrax_core.cache.store.locks import FolderLock
from hydrax_core.data.code_digest import changed_code
from hydrax_core.errors import CacheBusyError, CacheError, NotACacheError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OpenCache", "open_cache"]

_log = logging.getLogger("hydrax")

_MOST_NAMED: Final = 6
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class OpenCache:
    """An open cache.

    Attributes:
        index: Its index, ``None`` where there is no cache to read.
        lock: Its locks, ``None`` where the folder has none and cannot get one.
        writable: Whether entries may be added and removed.
        error: Why not, where that was not asked for.
    """

    folder: Path
    index: Index | None
    lock: FolderLock | None
    writable: bool
    error: str = ""

    def close(self) -> None:
        if self.index is not None:
            self.index.close()
        if self.lock is not None:
            self.lock.close()


def open_cache(folder: Path, wanted: Manifest, *, readonly: bool, needed: bool) -> OpenCache:
    """Open the cache in a folder.

    Args:
        folder: Where it is, or is to be.
        wanted: What the group asks for.
        needed: Whether there is nothing to be done without it.

    Raises:
        CacheMismatchError: It holds something else.
        NotACacheError: The folder holds something else than a cache; or nothing, where one is needed.
        CacheBusyError: Another process has been creating, mending or clearing it for half a minute.
        CacheError: It cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise NotACacheError(f"{folder}: expected a folder, this is a file")
    error_text = ""
    if not readonly:
        try:
            return _open_writable(folder, wanted)
        except OSError as error:
            if error.errno in _FORBIDDEN and not is_regular(folder / MANIFEST):
                raise CacheError(f"{folder}: the cache cannot be created: {error.strerror}") from error
            if error.errno not in _FORBIDDEN:
                _log.warning(
                    "%s: there is no caching in this run, training goes on without it: %s", folder, _text(error)
                )
                return OpenCache(folder, None, None, writable=False, error=_text(error))
            _log.warning("%s: this cache cannot be written, so it is only read: %s", folder, _text(error))
            error_text = _text(error)
        except sqlite3.Error as error:
            if (
                getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            ):  # nothing to read: one that exists needs no room to open
                _log.warning("%s: there is no caching in this run, training goes on without it: %s", folder, error)
                return OpenCache(folder, None, None, writable=False, error=str(error))
            error_text = str(error)
            _log.warning("%s: the index of this cache cannot be written, so it is only read: %s", folder, error)
    return replace(_open_readonly(folder, wanted, needed=needed), error=error_text)


def _text(error: OSError) -> str:
    return error.strerror or str(error)


def _open_writable(folder: Path, wanted: Manifest) -> OpenCache:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not is_cache(folder):
        raise NotACacheError(
            f"{folder}: this folder is not empty and no hydrax cache, as it holds no {MANIFEST}; give a new folder"
        )
    lock = FolderLock(folder, writable=True)
    try:
        lock.share_use()
        with lock.setup():
            manifest = _read_manifest(folder)
            if manifest is None:
                write_manifest(folder, wanted)
        if manifest is not None:
            _compare(manifest, wanted, folder)
        return OpenCache(folder, Index(folder, writable=True, alone=lock.setup), lock, writable=True)
    except BaseException:
        lock.close()
        raise


def _open_readonly(folder: Path, wanted: Manifest, *, needed: bool) -> OpenCache:
    if not folder.exists() or not any(folder.iterdir()):
        if needed:
            raise NotACacheError(f"{folder}: there is no cache, and without loader_arrays nothing else to serve")
        _log.warning("%s: there is no cache yet, and a read-only one is not created", folder)
        return OpenCache(folder, None, None, writable=False)
    if not is_cache(folder):
        raise NotACacheError(f"{folder}: this is no hydrax cache, as it holds no {MANIFEST}")
    lock = _shared_lock(folder)
    try:
        manifest = _read_manifest(folder)
        if manifest is not None:
            _compare(manifest, wanted, folder)
        return OpenCache(folder, _readonly_index(folder), lock, writable=False)
    except BaseException:
        if lock is not None:
            lock.close()
        raise


def _compare(manifest: Manifest, wanted: Manifest, folder: Path) -> None:
    """Refuse another group, and warn of a changed loader, which may or may not load the same."""
    manifest.require_equal(wanted, folder)
    changed = changed_code(manifest.code, wanted.code)
    if changed:
        names = ", ".join(changed[:_MOST_NAMED]) + (", ..." if len(changed) > _MOST_NAMED else "")
        _log.warning(
            "%s: the loader is not the one that this cache was made with, by its code (%s); what is cached is served "
            "as it is. If it loads something else now, give the group another cache_version, and hydrax cache clear %s",
            folder,
            names,
            folder,
        )


def _read_manifest(folder: Path) -> Manifest | None:
    """The manifest; a damaged one is as good as none, because every entry's checksum covers what it says."""
    try:
        return read_manifest(folder)
    except DamagedManifestError as error:
        _log.warning("%s is damaged: %s", folder / MANIFEST, error)
        return None


def _shared_lock(folder: Path) -> FolderLock | None:
    """The lock that keeps others from removing entries, where there is one."""
    try:
        lock = FolderLock(folder, writable=False)
    except OSError:
        return None
    try:
        lock.share_use()
    except CacheBusyError:
        lock.close()
        raise
    except (OSError, CacheError):
        lock.close()
        return None
    return lock


def _readonly_index(folder: Path) -> Index | None:
    try:
        return Index(folder, writable=False, alone=contextlib.nullcontext)
    except (OSError, sqlite3.Error) as error:
        _log.warning(
            "%s: its index cannot be read, so the cache counts as empty: %s. If a writer was killed, opening the cache "
            "once where it can be written mends this",
            folder,
            error,
        )
        return None
