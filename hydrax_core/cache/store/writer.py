"""Writing entries: cacher threads put arrays into the files, one more makes them last.

Promise: handing over an entry waits for no disk; what has no room in the backlog is not stored, is counted and is
said once (or, where that is asked for, one waits for room). An entry's row is added when its data is on the disk, many
entries at a time. An entry that the index holds, or that another process is writing, is not written. After the first
error nothing more is written, which is logged once. A job that is written, or given up, is held no longer: its arrays
may be memory that a loader waits for.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hydrax_core.cache.format.arrays import ArrayFile, EpochWriter
from hydrax_core.cache.format.entry import entry_checksum, seal
from hydrax_core.cache.index.index import Index, IndexRow
from hydrax_core.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hydrax_core.cache.store.locks import FolderLock

__all__ = ["MOST_BACKLOG", "Job", "Writer"]

_log = logging.getLogger("hydrax")

MOST_BACKLOG: Final = 256 << 20
"""Bytes that may wait for the disk where the caller does not wait for room."""
_LEAST_JOB: Final = 16 << 10
"""What the smallest job counts for, as it takes memory beside its data."""
_GROUP_SECONDS: Final = 0.5
"""How long entries gather for one commit: what ``kill -9`` can cost, against three fsyncs a commit."""


@dataclass(frozen=True, slots=True)
class Job:
    """Entries to write.

    Attributes:
        data: One array of bytes for each array of the cache, of shape ``(len(numbers), bytes of an entry)``; it must
            stay as it is while the job is held.
        additional: Encoded additional data of each.
    """

    epoch: int
    numbers: Sequence[int]
    data: Sequence[Any]
    additional: Sequence[bytes | None]

    @property
    def weight(self) -> int:
        data = sum(int(part.nbytes) for part in self.data)
        return max(_LEAST_JOB, data + sum(map(len, filter(None, self.additional))))


@dataclass(slots=True)
class _OpenEpoch:
    files: EpochWriter
    users: int = 0


@dataclass(slots=True)
class _Written:
    """A job whose data is in the files, but perhaps not on the disk."""

    epoch: int
    rows: list[IndexRow] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    uses_files: bool = False


class Writer:
    """Writes entries of one cache.

    Args:
        threads: Number of cacher threads, at least 1.
        on_mended: Told the epoch whose files had been cut.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[ArrayFile],
        identity: bytes,
        index: Index,
        lock: FolderLock,
        *,
        threads: int,
        on_mended: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._files = files
        self._identity = identity
        self._index = index
        self._lock = lock
        self._on_mended = on_mended
        self._queue_size = 2 * threads
        self._change = threading.Condition()
        """Guards what follows; held for moments only, while no disk is waited for."""
        self._queue: deque[Job] = deque()
        self._backlog = 0
        self._written: list[_Written] = []
        self._unsettled = 0
        self._hurry = 0
        self._closing = False
        self._files_change = threading.Lock()
        """Guards what follows; held while files are opened and closed."""
        self._claimed: set[int] = set()
        self._epochs: dict[int, _OpenEpoch] = {}
        self._threads = [
            threading.Thread(target=self._cache, name=f"hydrax-cacher-{n}", daemon=True) for n in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._commit, name="hydrax-cache-commit", daemon=True))
        self._started = False
        self.error = ""
        self.entries = 0
        self.bytes = 0
        self.unstored = 0
        """Entries that were not taken, as the disk was too slow."""

    def submit(self, job: Job, *, wait: bool) -> bool:
        """Hand over entries; false when they are not stored.

        Args:
            wait: Whether to wait for room; else what has no room is not stored.
        """
        with self._change:
            if not self._started and not self._closing and not self.error:
                self._started = True
                for thread in self._threads:
                    thread.start()
            while wait and len(self._queue) >= self._queue_size and not self.error and not self._closing:
                self._change.wait()
            full = len(self._queue) >= self._queue_size and self._backlog + job.weight > MOST_BACKLOG
            if not self.error and not self._closing and (wait or not full):
                self._queue.append(job)
                self._backlog += job.weight
                self._unsettled += 1
                self._change.notify_all()
                return True
            slow = not self.error and not self._closing
            first = slow and not self.unstored
            self.unstored += len(job.numbers) if slow else 0
        if first:
            _log.warning(
                "%s: the disk is slower than the loader; what it cannot take in time is not stored, but loaded again "
                "when it comes again (further ones are counted in stats().cache_unstored)",
                self._folder,
            )
        return False

    def drop_queue(self) -> int:
        """Store nothing of what waits; how many entries that are, those not settled yet included."""
        with self._change:
            dropped, self._queue = list(self._queue), deque()
            self._unsettled -= len(dropped)
            lost = sum(len(job.numbers) for job in dropped)
            self.unstored += lost
            self._backlog -= sum(job.weight for job in dropped)
            self._closing = True
            self._change.notify_all()
        return lost

    def flush(self) -> None:
        """Wait until all entries handed over are on the disk, or given up."""
        with self._change:
            self._hurry += 1
            self._change.notify_all()
            try:
                while self._unsettled:
                    self._change.wait()
            finally:
                self._hurry -= 1

    def close(self) -> None:
        """``flush()``, and end the threads."""
        self.flush()
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._started:
            for thread in self._threads:
                thread.join()

    def _cache(self) -> None:
        """The body of a cacher thread."""
        while True:
            with self._change:
                while not self._queue and not self._closing:
                    self._change.wait()
                if not self._queue:
                    return
                job = self._queue.popleft()
                off = bool(self.error)
                self._change.notify_all()
            written = _Written(job.epoch)
            try:
                if not off:
                    self._write(job, written)
            except Exception as error:  # noqa: BLE001  a thread that dies would leave others waiting; it is logged
                self._give_up(error)
            weight = job.weight
            del job  # its arrays may hold memory that a loader waits for
            with self._change:
                self._backlog -= weight
                self._written.append(written)
                self._change.notify_all()

    def _write(self, job: Job, written: _Written) -> None:
        chosen = self._claim(job, written)
        if not chosen:
            return
        files = self._use(job.epoch)
        written.uses_files = True
        for position in chosen:
            number, additional = job.numbers[position], job.additional[position]
            parts = [array[position] for array in job.data]
            size = sum(len(part) for part in parts)
            try:
                files.write(number, parts)
            except OSError:
                files.free(number)
                raise
            created = time.time()
            sealed = None if additional is None else seal(self._identity, job.epoch, number, additional)
            checksum = entry_checksum(self._identity, job.epoch, number, created, size, sealed, parts)
            written.rows.append(IndexRow(job.epoch, number, checksum, created, size, sealed))

    def _claim(self, job: Job, written: _Written) -> list[int]:
        """Positions in the job of the entries that are ours to write; their claims are noted in ``written``."""
        claimed = {}
        for position, number in enumerate(job.numbers):
            place = job.epoch * self._files[0].entries + number
            with self._files_change:
                if place in self._claimed or not self._lock.claim(place):
                    continue
                self._claimed.add(place)
            written.places.append(place)
            claimed[number] = position
        there = self._index.get_many(job.epoch, list(claimed))
        return [position for number, position in claimed.items() if number not in there]

    def _use(self, epoch: int) -> EpochWriter:
        with self._files_change:
            opened = self._epochs.get(epoch)
            if opened is None:
                opened = self._epochs[epoch] = _OpenEpoch(EpochWriter(self._folder, epoch, self._files))
                if opened.files.mended:
                    self._on_mended(epoch)
            opened.users += 1
            return opened.files

    def _leave(self, epoch: int) -> None:
        with self._files_change:
            opened = self._epochs[epoch]
            opened.users -= 1
            if not opened.users:
                del self._epochs[epoch]
                opened.files.close()

    def _commit(self) -> None:
        """The body of the thread that makes entries last."""
        while True:
            with self._change:
                while not self._written and not (self._closing and not self._unsettled):
                    self._change.wait()
                if not self._written:
                    return
                end = time.monotonic() + _GROUP_SECONDS
                while not self._hurry and not self._closing and (rest := end - time.monotonic()) > 0:
                    self._change.wait(rest)
                group, self._written = self._written, []
            rows = [row for written in group for row in written.rows]
            try:
                for epoch in {row.epoch for row in rows}:
                    self._epochs[epoch].files.sync()
                if rows:
                    self._index.add(rows)
            except Exception as error:  # noqa: BLE001  a thread that dies would leave others waiting; it is logged
                self._give_up(error)
                rows = []
            self._settle(group, rows)

    def _settle(self, group: list[_Written], rows: list[IndexRow]) -> None:
        for written in group:
            if written.uses_files:
                self._leave(written.epoch)
        with self._files_change:
            for written in group:
                for place in written.places:
                    self._lock.release(place)
                    self._claimed.discard(place)
        with self._change:
            self.entries += len(rows)
            self.bytes += sum(row.size for row in rows)
            self._unsettled -= len(group)
            self._change.notify_all()

    def _give_up(self, error: Exception) -> None:
        text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        with self._change:
            first = not self.error
            self.error = self.error or text
            self._change.notify_all()
        if first:
            expected = isinstance(error, OSError | sqlite3.Error | CacheError)
            _log.warning(
                "%s: caching is off for the rest of this run, training goes on without it: %s",
                self._folder,
                text,
                exc_info=None if expected else error,
            )
