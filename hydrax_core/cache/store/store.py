"""``CacheStore``: the cache of one group as a loader uses it.

Promise: what ``read`` gives is what ``write`` was given, bit by bit, or nothing. Only arguments that cannot be right
raise (and ``open``, on a cache of something else); whatever the disk does ends in "not cached". See
``docs/cache.md``.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

import numpy as np

from hydrax_core.cache.format.arrays import array_files
from hydrax_core.cache.format.codec import DecodeError, PickleRefusedError
from hydrax_core.cache.format.entry import decode_batch, decode_item, encode_batch, encode_items
from hydrax_core.cache.format.manifest import CacheBy, Manifest
from hydrax_core.cache.store.opening import OpenCache, open_cache
from hydrax_core.cache.store.reader import EntryReader, FoundMany
from hydrax_core.cache.store.writer import Job, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from hydrax_core.data.group import DataGroup

__all__ = ["CacheCounters", "CacheStore", "CachedBatch", "CachedItems"]

_log = logging.getLogger("hydrax")

_T = TypeVar("_T")
_Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
_ITEMS_EPOCH: Final = 0
_MOST_KEPT: Final = 64


class _Ahead:
    """Runs functions on a thread, each under a key, before it is needed.

    Waiting for a key runs its function where the thread has not begun; what is never waited for costs a bounded amount.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._futures: dict[Hashable, Future[object]] = {}
        self._open = True

    def start(self, key: Hashable, function: Callable[[], object]) -> None:
        """Have a function run, unless one runs under that key or too many wait."""
        if not self._open or key in self._futures:
            return
        if len(self._futures) >= _MOST_KEPT:
            for old in [old for old, future in self._futures.items() if future.done()]:
                self._futures.pop(old, None)
            if len(self._futures) >= _MOST_KEPT:
                return
        self._futures[key] = self._thread.submit(function)

    def wait(self, key: Hashable) -> None:
        """Wait for the function of a key, if there is one; what it raised is raised here."""
        future = self._futures.pop(key, None)
        if future is not None and not future.cancel():
            try:
                future.result()
            except CancelledError:
                return

    def close(self) -> None:
        """End the thread; what has not begun is dropped."""
        self._open = False
        self._thread.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class CachedBatch:
    """A batch from the cache.

    Attributes:
        arrays: Read-only views of the mapped files, in the order of ``group.cache_layouts``; they stay good after the
            store is closed.
        additional: Name -> one value a row.
    """

    arrays: Mapping[str, np.ndarray[Any, Any]]
    additional: Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class CachedItems:
    """What the cache had of the items asked for.

    Attributes:
        missing: Positions among the items asked for of those that it has not, int64, ascending.
        additional: Name -> one value a position, ``None`` where there is none.
    """

    missing: np.ndarray[Any, np.dtype[np.int64]]
    additional: Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """A store at one moment; what is counted are entries: batches, or items with ``cache_by="item"``.

    Attributes:
        hits: Entries served.
        misses: Entries asked for and not served, corrupt ones included.
        corrupt: Entries that were there and bad.
        written: Entries written by this store that are on the disk.
        written_bytes: Bytes of their arrays.
        error: Why nothing is written, or no longer, ``""`` while all is well.
        unstored: Entries that were not written, as the disk did not take them in time.
    """

    hits: int
    misses: int
    corrupt: int
    written: int
    written_bytes: int
    error: str
    unstored: int = 0


class CacheStore:
    """The cache of one group; made by ``CacheStore.open``, and used from any thread.

    Attributes:
        cache_by: Whether entries are batches or items.
        readonly: Whether nothing is ever written, because of the group or the folder.
    """

    def __init__(
        self, group: DataGroup[Any], manifest: Manifest, cache: OpenCache, *, allow_pickle: bool, cacher_count: int
    ) -> None:
        identity = manifest.identity_digest()
        files = array_files(manifest)
        self.cache_by: CacheBy = manifest.cache_by
        self.readonly = not cache.writable
        self._cache = cache
        self._entries = manifest.entries
        self._batch_size = group.batch_size
        self._allow_pickle = allow_pickle
        self._dtypes = {name: layout.numpy_dtype for name, layout in group.cache_layouts.items()}
        self._shapes = {array.name: array.shape for array in manifest.arrays}
        self._reader = EntryReader(cache.folder, files, identity, cache.index, writable=cache.writable)
        self._writer: Writer | None = None
        if cache.writable and cacher_count:
            assert cache.index is not None
            assert cache.lock is not None
            self._writer = Writer(
                cache.folder,
                files,
                identity,
                cache.index,
                cache.lock,
                threads=cacher_count,
                on_mended=self._reader.drop,
            )
        self._ahead = _Ahead("hydrax-cache-check")
        self._counting = threading.Lock()
        self._hits = self._misses = 0
        self._told_pickle = False
        self._closer: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        group: DataGroup[Any],
        *,
        kind: str,
        group_index: int,
        cacher_count: int = 1,
        loader_func: Callable[..., Any] | None = None,
    ) -> CacheStore:
        """Open the cache of a group, creating it if need be.

        Args:
            group: A group with a ``cache_location``.
            kind: ``"training"`` or ``"validation"``.
            group_index: Its place among the groups of its kind.
            cacher_count: Threads that write; 0 writes nothing.
            loader_func: What loads the group, where it brings nothing itself.

        Raises:
            CacheMismatchError: The cache holds something else than the group asks for.
            NotACacheError: The folder is not empty and no cache; or there is none and the group has no loader arrays.
            CacheBusyError: Another process has been creating or clearing it for half a minute.
            CacheError: It cannot be created.
            TypeError: An item of the group cannot be pickled, which the digest of the data needs.
        """
        location = group.cache_location
        if location is None:
            raise ValueError("group: it has no cache_location")
        manifest = Manifest.of(
            group, kind=kind, group_index=group_index, cache_by=group.cache_by, loader_func=loader_func
        )
        cache = open_cache(location, manifest, readonly=group.cache_readonly, needed=not group.loader_layouts)
        return cls(group, manifest, cache, allow_pickle=group.cache_pickle, cacher_count=cacher_count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def writing(self) -> bool:
        """Whether what is handed to ``write`` is stored; ``False`` after a full disk, too."""
        return self._writer is not None and not self._writer.error and self._closer is None

    def counters(self) -> CacheCounters:
        """The counts so far."""
        writer = self._writer
        return CacheCounters(
            hits=self._hits,
            misses=self._misses,
            corrupt=self._reader.corrupt,
            written=writer.entries if writer else 0,
            written_bytes=writer.bytes if writer else 0,
            error=writer.error if writer else self._cache.error,
            unstored=writer.unstored if writer else 0,
        )

    # Batches

    def prefetch(self, content_epoch: int, content_batch: int) -> None:
        """Check a batch on another thread, or have a checked one in memory, so that its ``read`` need not wait.

        Raises:
            IndexError: There is no such batch in an epoch.
        """
        self._require_number(content_batch)
        if not self._reader.prepare(content_epoch, content_batch):
            self._ahead.start((content_epoch, content_batch), lambda: self._reader.find(content_epoch, content_batch))

    def read(self, content_epoch: int, content_batch: int) -> CachedBatch | None:
        """A batch, or ``None`` where the cache has none that is good. Nothing is copied.

        Raises:
            IndexError: There is no such batch in an epoch.
        """
        self._require_number(content_batch)
        self._ahead.wait((content_epoch, content_batch))
        found = self._reader.find(content_epoch, content_batch)
        additional: dict[str, list[Any]] | None = {}
        if found is not None and found.has_additional:
            additional = self._batch_additional(content_epoch, content_batch)
        self._count(1, hits=found is not None and additional is not None)
        if found is None or additional is None:
            return None
        arrays = found.files.arrays(content_batch, self._dtypes)
        return CachedBatch(MappingProxyType(arrays), MappingProxyType(additional))

    def write(
        self,
        content_epoch: int,
        content_batch: int,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        additional: Mapping[str, Sequence[Any]] | None = None,
        *,
        wait: bool = True,
    ) -> bool:
        """Store a batch; false when that is not done.

        Args:
            content_epoch: Its content epoch.
            content_batch: Its number within that.
            arrays: As ``group.cache_layouts`` says; they must stay as they are for as long as the store holds
                them.
            additional: Name -> one value a row, padding rows included.
            wait: Whether to wait while the disk is behind; else what it cannot take in time is not stored.

        Raises:
            IndexError: There is no such batch in an epoch.
            ValueError: Arrays or lists do not have the names, shapes or dtypes of the layouts.
            TypeError: A value of ``additional`` cannot be stored; the text names it.
        """
        self._require_number(content_batch)
        data = self._bytes(arrays, 1)
        coded = encode_batch(additional or {}, self._batch_size, allow_pickle=self._allow_pickle)
        return self._submit(Job(content_epoch, (content_batch,), data, (coded,)), wait=wait)

    # Items

    def prefetch_items(self, indices: np.ndarray[Any, Any]) -> None:
        """Check items on another thread, so that the next ``read_items`` of the same need not wait.

        Raises:
            IndexError: There is no such item.
        """
        numbers = self._numbers(indices)
        if not self._reader.all_checked(_ITEMS_EPOCH, numbers):
            self._ahead.start(numbers.tobytes(), lambda: self._reader.find_many(_ITEMS_EPOCH, numbers))

    def read_items(self, indices: np.ndarray[Any, Any], into: Mapping[str, np.ndarray[Any, Any]]) -> CachedItems:
        """Copy items into the first rows of arrays; rows of missing items stay as they are.

        Args:
            indices: Index of each item in the group's data.
            into: C-contiguous arrays as ``group.cache_layouts`` says, with at least one row an index.

        Raises:
            IndexError: There is no such item.
            ValueError: The arrays do not have the names, shapes or dtypes of the layouts, or too few rows.
        """
        numbers = self._numbers(indices)
        self._bytes(into, len(numbers))
        if not all(into[name].flags.c_contiguous for name in self._dtypes):
            raise ValueError("into: the arrays must be C-contiguous")
        self._ahead.wait(numbers.tobytes())
        found = self._reader.find_many(_ITEMS_EPOCH, numbers)
        there, additional = self._items_additional(found, numbers)
        rows = np.flatnonzero(there)
        if found.files is not None and 0 < len(rows) == len(numbers):
            found.files.gather(numbers, into)
        elif found.files is not None and len(rows):
            part = {name: np.empty((len(rows), *into[name].shape[1:]), into[name].dtype) for name in self._dtypes}
            found.files.gather(numbers[rows], part)
            for name, values in part.items():
                into[name][rows] = values
        self._count(len(numbers), hits=len(rows))
        return CachedItems(np.flatnonzero(~there), MappingProxyType(additional))

    def write_items(
        self,
        indices: np.ndarray[Any, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]],
        additional: Mapping[str, Sequence[Any]] | None = None,
        *,
        wait: bool = True,
    ) -> bool:
        """Store items; as ``write`` does for a batch.

        Args:
            indices: Index of each item in the group's data.
            arrays: As ``group.cache_layouts`` says, with at least one row an index; see ``write``.
            additional: Name -> one value an index; ``None`` is not stored.
            wait: As of ``write``.

        Raises:
            IndexError: There is no such item.
            ValueError: Arrays or lists do not have the names, shapes or dtypes of the layouts.
            TypeError: A value of ``additional`` cannot be stored; the text names it.
        """
        numbers = self._numbers(indices).tolist()
        data = self._bytes(arrays, len(numbers))
        coded = encode_items(additional or {}, len(numbers), allow_pickle=self._allow_pickle)
        return self._submit(Job(_ITEMS_EPOCH, numbers, data, coded), wait=wait)

    # Both

    def flush(self) -> None:
        """Wait until all that was handed to ``write`` is on the disk, or given up."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """``flush()`` and give everything back; arrays served stay good. A second call does nothing."""
        self.start_closing()
        self.finish_closing(None)

    def start_closing(self) -> None:
        """Store nothing more, and have what waits stored on a thread, which then gives everything back."""
        if self._closer is None:
            self._closer = threading.Thread(target=self._close, name="hydrax-cache-close", daemon=True)
        if self._closer.ident is None:  # also where Ctrl-C came right before the start
            self._closer.start()

    def finish_closing(self, seconds: float | None) -> None:
        """Wait until that is done; after ``seconds`` what still waits is dropped, and the thread left behind."""
        if self._closer is None:
            return
        self._closer.join(seconds)
        if self._closer.is_alive() and self._writer is not None:
            lost = self._writer.drop_queue()
            _log.warning(
                "%s: the disk did not take everything in time: %d entries are not stored, those in work perhaps",
                self._cache.folder,
                lost,
            )

    def _close(self) -> None:
        self._ahead.close()
        if self._writer is not None:
            self._writer.close()
        self._reader.close()
        self._cache.close()

    def _submit(self, job: Job, *, wait: bool) -> bool:
        return self._writer is not None and bool(job.numbers) and self._writer.submit(job, wait=wait)

    def _batch_additional(self, epoch: int, number: int) -> dict[str, list[Any]] | None:
        data = self._reader.additional(epoch, (number,)).get(number)
        if data is None:
            return None
        return self._decoded(
            epoch, number, lambda: decode_batch(data, self._batch_size, allow_pickle=self._allow_pickle)
        )

    def _items_additional(
        self, found: FoundMany, numbers: _Numbers
    ) -> tuple[np.ndarray[Any, Any], dict[str, list[Any]]]:
        """Which items are there after a look at their additional data, and that data."""
        there = found.there.copy()
        additional: dict[str, list[Any]] = {}
        positions = np.flatnonzero(found.has_additional).tolist()
        data = self._reader.additional(_ITEMS_EPOCH, numbers[found.has_additional].tolist()) if positions else {}
        for position in positions:
            number = int(numbers[position])
            coded, values = data.get(number), None
            if coded is not None:
                values = self._decoded(
                    _ITEMS_EPOCH, number, functools.partial(decode_item, coded, allow_pickle=self._allow_pickle)
                )
            if values is None:
                there[position] = False
                continue
            for key, value in values.items():
                additional.setdefault(key, [None] * len(numbers))[position] = value
        return there, additional

    def _decoded(self, epoch: int, number: int, decoded: Callable[[], _T]) -> _T | None:
        try:
            return decoded()
        except PickleRefusedError:
            first, self._told_pickle = not self._told_pickle, True
            if first:
                _log.warning(
                    "%s: entries that hold pickles are not served; if you trust who wrote them, set cache_pickle=True",
                    self._cache.folder,
                )
        except DecodeError as error:
            self._reader.forget(epoch, number, f"its additional data cannot be read: {error}")
        return None

    def _bytes(self, arrays: Mapping[str, np.ndarray[Any, Any]], entries: int) -> list[np.ndarray[Any, Any]]:
        """The arrays as bytes, one row an entry, in the order of the files; checked against the layouts."""
        if arrays.keys() != self._dtypes.keys():
            raise ValueError(f"arrays: expected {_listed(self._dtypes)}, got {_listed(arrays)}")
        data = []
        for name, shape in self._shapes.items():
            array, dtype = arrays[name], self._dtypes[name]
            if array.dtype != dtype:
                raise ValueError(f"arrays[{name!r}]: expected the dtype {dtype}, got {array.dtype}")
            if self.cache_by == "batch" and array.shape != shape:
                raise ValueError(f"arrays[{name!r}]: expected the shape {shape}, got {array.shape}")
            if self.cache_by == "item" and (array.shape[1:] != shape or len(array) < entries):
                raise ValueError(f"arrays[{name!r}]: expected {entries} rows of the shape {shape}, got {array.shape}")
            rows = array[:entries] if self.cache_by == "item" else array
            data.append(np.ascontiguousarray(rows).reshape(entries, math.prod(shape)).view(np.uint8))
        return data

    def _numbers(self, indices: Any) -> _Numbers:
        numbers = np.array(indices, np.int64).reshape(-1)
        if numbers.size:
            self._require_number(int(numbers.min()))
            self._require_number(int(numbers.max()))
        return numbers

    def _require_number(self, number: int) -> None:
        if not 0 <= number < self._entries:
            raise IndexError(f"there is no {self.cache_by} {number}; an epoch has {self._entries}")

    def _count(self, asked: int, *, hits: int) -> None:
        with self._counting:
            self._hits += hits
            self._misses += asked - hits


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
