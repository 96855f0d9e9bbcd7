"""``info``: what a cache holds.

Promise: it reads the manifest and the index, not the arrays, and changes nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

from hydrax_core.cache.admin.survey import Survey, in_use, readonly_index
from hydrax_core.cache.format.folder import INDEX, LOCK, MANIFEST, OLD_INDEX, require_cache
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from hydrax_core.cache.format.manifest import CacheBy, StoredArray
    from hydrax_core.cache.index.index import EpochCount

__all__ = ["CacheInfo", "info", "sample_entries"]


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        path: Its folder.
        kind: ``"training"`` or ``"validation"``.
        group_index: Place among the training groups; ``None`` for validation.
        cache_by: Whether an entry is a batch or an item.
        settings: Settings of the group, and the digest of its data.
        arrays: The arrays of an entry.
        made: When, by whom and by which version it was made: ``at`` (UTC), ``by``, ``hydrax``.
        code: Digests of the parts of the loader that it was made with, by name, and the version of Python.
        entries_per_epoch: Entries of a complete content epoch.
        epochs: What is there of each content epoch.
        disk_bytes: Room it takes on the disk.
        in_use: Whether a run has it open.
        problem: What is wrong with the index, ``""`` for nothing.
    """

    path: Path
    kind: str
    group_index: int | None
    cache_by: CacheBy
    settings: Mapping[str, Any]
    arrays: tuple[StoredArray, ...]
    made: Mapping[str, str]
    code: Mapping[str, str]
    entries_per_epoch: int
    epochs: tuple[EpochCount, ...]
    disk_bytes: int
    in_use: bool
    problem: str

    @property
    def entries(self) -> int:
        """Entries in all."""
        return sum(epoch.entries for epoch in self.epochs)

    @property
    def code_digest(self) -> str:
        """One digest of all of the loader's code, 16 hexadecimal digits; ``""`` where nothing is known of it."""
        return xxhash.xxh3_64_hexdigest(repr(sorted(self.code.items())).encode()) if self.code else ""


def info(path: str | os.PathLike[str]) -> CacheInfo:
    """What the cache at ``path`` holds.

    Raises:
        NotACacheError: There is no cache.
        CacheError: It cannot be read, or its manifest is missing or damaged.
    """
    folder = require_cache(path)
    with Survey(folder) as found:
        return _info(folder, found)


def _info(folder: Path, found: Survey) -> CacheInfo:
    manifest = found.manifest
    if manifest is None:
        what = f"is damaged ({found.damage})" if found.damage else "is missing"
        raise CacheError(f"{folder}: {MANIFEST} {what}; the next run that uses this cache writes it anew")
    index, problem = readonly_index(folder) if found.needs_index else (None, "")
    counts: list[EpochCount] = []
    if index is not None:
        with contextlib.closing(index):
            counts = index.counts()
            problem = index.damage or index.unreadable
    names = [name for names in found.epochs.values() for name in names]
    return CacheInfo(
        path=folder,
        kind=manifest.kind,
        group_index=manifest.group_index,
        cache_by=manifest.cache_by,
        settings=manifest.settings,
        arrays=manifest.arrays,
        made=manifest.made,
        code=manifest.code,
        entries_per_epoch=manifest.entries,
        epochs=tuple(counts),
        disk_bytes=found.disk_bytes(MANIFEST, LOCK, INDEX, OLD_INDEX, *found.leftovers, *names),
        in_use=in_use(folder),
        problem=problem,
    )


def sample_entries(path: str | os.PathLike[str], count: int) -> list[tuple[int, int]]:
    """Content epoch and number of at most ``count`` entries, spread evenly over all there are.

    Raises:
        NotACacheError: There is no cache.
    """
    index, _ = readonly_index(require_cache(path))
    if index is None:
        return []
    with contextlib.closing(index):
        entries = sum(epoch.entries for epoch in index.counts())
        positions = range(entries) if entries <= count else [(2 * n + 1) * entries // (2 * count) for n in range(count)]
        return [key for key in map(index.key_at, positions) if key is not None]
