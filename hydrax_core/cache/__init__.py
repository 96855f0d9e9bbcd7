"""The cache on disk; see ``docs/cache.md`` for format, promises and modes.

It knows no loader, no engine and no jax: it is given arrays and a place, and gives them back or says that it has
none. ``CacheStore`` is for the engine; ``info``, ``verify`` and ``clear`` are for users and for the command line,
``CacheEntries`` is for looking into a cache.
"""

from __future__ import annotations

from hydrax_core.cache.admin.clear import Cleared, clear
from hydrax_core.cache.admin.entries import CacheEntries, EntryList
from hydrax_core.cache.admin.info import CacheInfo, info, sample_entries
from hydrax_core.cache.admin.reading import Pickled, StoredEntry
from hydrax_core.cache.admin.survey import in_use
from hydrax_core.cache.admin.verify import Finding, verify
from hydrax_core.cache.format.codec import UnstorableError, encode
from hydrax_core.cache.format.folder import caches
from hydrax_core.cache.format.manifest import Manifest, StoredArray, read_manifest, side_by_side
from hydrax_core.cache.index.index import EntryInfo, EpochCount
from hydrax_core.cache.store.store import CacheCounters, CachedBatch, CachedItems, CacheStore

__all__ = [
    "CacheCounters",
    "CacheEntries",
    "CacheInfo",
    "CacheStore",
    "CachedBatch",
    "CachedItems",
    "Cleared",
    "EntryInfo",
    "EntryList",
    "EpochCount",
    "Finding",
    "Manifest",
    "Pickled",
    "StoredArray",
    "StoredEntry",
    "UnstorableError",
    "caches",
    "clear",
    "encode",
    "in_use",
    "info",
    "read_manifest",
    "sample_entries",
    "side_by_side",
    "verify",
]
