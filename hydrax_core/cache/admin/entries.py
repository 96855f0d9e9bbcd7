"""``CacheEntries``: the entries of a cache to page through and to look into, without a group or a loader.

Promise: nothing is changed and nothing runs. Memory and time are those of what is asked for, whether the cache has ten
entries or ten million. Others may write meanwhile: a list then is that of the moment it was made, and where entries
have gone since its pages are shorter.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from hydrax_core.cache.admin.reading import StoredEntry, read_stored
from hydrax_core.cache.admin.survey import readonly_index
from hydrax_core.cache.format.arrays import array_files
from hydrax_core.cache.format.folder import MANIFEST, require_cache
from hydrax_core.cache.format.manifest import DamagedManifestError, read_manifest
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from hydrax_core.cache.index.index import EntryInfo, EpochCount, Index

__all__ = ["CacheEntries", "EntryList"]

_BIN: Final = 4096
"""Numbers that are counted together: skipping that many rows of the index takes half a millisecond."""
_MOST_BINS: Final = 4096


class _Bin(NamedTuple):
    """So many entries of an epoch with a number in ``range(first, end)``."""

    epoch: int
    first: int
    end: int
    entries: int


class EntryList:
    """Entries in the order of epoch and number, by their place in it; made by ``CacheEntries.select``."""

    def __init__(self, index: Index | None, bins: Sequence[_Bin], written: tuple[float, float] | None) -> None:
        self._index = index
        self._bins = [part for part in bins if part.entries]
        self._ends = list(accumulate(part.entries for part in self._bins))
        self._written = written

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def page(self, first: int, count: int) -> list[EntryInfo]:
        """At most ``count`` entries from a place on; fewer at the end, and where some have gone since."""
        found: list[EntryInfo] = []
        place = bisect_right(self._ends, first)
        while self._index is not None and place < len(self._bins) and first < self._ends[place]:
            part, start = self._bins[place], self._ends[place] - self._bins[place].entries
            skip, wanted = first - start, min(part.entries - (first - start), count)
            found += self._index.infos(part.epoch, part.first, part.end, skip=skip, limit=wanted, written=self._written)
            first, count, place = first + wanted, count - wanted, place + 1
            if not count:
                break
        return found

    def place_of(self, epoch: int, number: int) -> int:
        """The place of an entry; of one that is not in the list, the place where it would be."""
        place = bisect_right(self._bins, (epoch, number), key=itemgetter(0, 1)) - 1
        if place < 0:
            return 0
        part, start = self._bins[place], self._ends[place] - self._bins[place].entries
        if part.epoch != epoch or self._index is None:
            return self._ends[place]
        end = min(max(number, part.first), part.end)
        return start + min(part.entries, self._index.count(epoch, part.first, end, written=self._written))


class CacheEntries:
    """The entries of the cache at ``path``, open; any thread may use it.

    One that is removed meanwhile is listed until it is opened anew, and its entries read as ``"missing"``.

    Raises:
        NotACacheError: There is no cache.
        CacheError: Its manifest is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = require_cache(path)
        try:
            manifest = read_manifest(self._folder)
        except DamagedManifestError as error:
            raise CacheError(f"{self._folder}: {MANIFEST} is damaged: {error}") from error
        if manifest is None:
            raise CacheError(f"{self._folder}: {MANIFEST} is missing")
        self._manifest = manifest
        self._files = array_files(manifest)
        self._index, _ = readonly_index(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; afterwards it holds nothing."""
        if self._index is not None:
            self._index.close()

    def select(
        self,
        counts: Iterable[EpochCount],
        *,
        epochs: tuple[int, int] | None = None,
        numbers: tuple[int, int] | None = None,
        written: tuple[float, float] | None = None,
    ) -> EntryList:
        """The entries that fit all that is given.

        Args:
            counts: What there is, see ``CacheInfo.epochs``.
            epochs: First content epoch, and the one to stop before.
            numbers: First number, and the one to stop before.
            written: When they were written: from a time on and before another, seconds since 1970.
        """
        bins: list[_Bin] = []
        for epoch, entries, oldest, newest in counts:
            span = None if written is None or (written[0] <= oldest and newest < written[1]) else written
            out_of_time = written is not None and (newest < written[0] or oldest >= written[1])
            if out_of_time or (epochs is not None and not epochs[0] <= epoch < epochs[1]):
                continue
            bins += self._bins_of(epoch, entries, numbers, span)
        return EntryList(self._index, bins, written)

    def _bins_of(
        self, epoch: int, entries: int, numbers: tuple[int, int] | None, written: tuple[float, float] | None
    ) -> list[_Bin]:
        low, high = (0, self._manifest.entries) if numbers is None else numbers
        low, high = max(0, low), min(high, self._manifest.entries)
        whole = (low, high) == (0, self._manifest.entries) and written is None
        width = max(_BIN, -(-self._manifest.entries // _MOST_BINS))
        edges = [(first, min(first + width, high)) for first in range(low, high, width)]
        if whole and entries == self._manifest.entries:
            return [_Bin(epoch, first, end, end - first) for first, end in edges]
        if whole and len(edges) == 1:
            return [_Bin(epoch, low, high, entries)]
        return [_Bin(epoch, first, end, self._count(epoch, first, end, written)) for first, end in edges]

    def _count(self, epoch: int, first: int, end: int, written: tuple[float, float] | None = None) -> int:
        return 0 if self._index is None else self._index.count(epoch, first, end, written=written)

    def coverage(self, epoch: int, width: int, *, since: float | None = None) -> list[tuple[int, int]]:
        """How many entries there are of each ``width`` numbers, and how many of them were written ``since`` a time.

        Without a time the second is 0.
        """
        found = []
        for first in range(0, self._manifest.entries, width):
            end = min(first + width, self._manifest.entries)
            stored = self._count(epoch, first, end)
            later = self._count(epoch, first, end, (since, float("inf"))) if since is not None and stored else 0
            found.append((stored, later))
        return found

    def find(self, keys: Iterable[tuple[int, int]]) -> list[EntryInfo]:
        """Those of the entries, by epoch and number, that there are, in order."""
        if self._index is None:
            return []
        found: list[EntryInfo] = []
        for epoch, group in groupby(sorted(set(keys)), itemgetter(0)):
            found += self._index.infos_of(epoch, [number for _, number in group])
        return found

    def read(self, epoch: int, number: int, *, rows: int | None = None) -> StoredEntry | None:
        """An entry with all that is in it; ``None`` where there is none.

        Args:
            epoch: Content epoch.
            number: Batch or item.
            rows: Only so many rows of a batch; they are not checked then.

        Raises:
            IndexError: There is no such entry in an epoch.
        """
        row = None if self._index is None else self._index.get(epoch, number)
        return None if row is None else read_stored(self._folder, self._manifest, self._files, row, rows)
