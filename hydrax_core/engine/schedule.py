"""Which items go into the next chunk, and what becomes of a batch whose chunks come back; nothing here waits.

Promise: every row of a batch is loaded, substituted or failed exactly once in what is delivered, whatever order results
arrive in and however many workers are lost. What failed is counted, and the first hundred items are listed. An item is
given up after it has killed ``MOST_DEATHS`` workers. The error reported for a batch is that of its first failing row,
whatever the timing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from hydrax_core.data.logger import logger
from hydrax_core.data.read_lock import PlainData
from hydrax_core.data.rows import ENDED
from hydrax_core.engine.counters import FailedItem
from hydrax_core.engine.data_reader import DataReader, UnreadableRow
from hydrax_core.engine.jobs import BatchJob, JobGroup, JobRows
from hydrax_core.engine.workers.wire import Chunk, ChunkResult, Garbled
from hydrax_core.errors import BatchAddress, LoaderError, WorkerDiedError
from hydrax_core.plan.order import StandIn

__all__ = ["MOST_DEATHS", "LoadCost", "OnError", "Schedule"]

OnError: TypeAlias = Literal["raise", "skip", "substitute"]
Substitute: TypeAlias = Callable[[BatchAddress, int, int], StandIn]

MOST_DEATHS = 3
_MOST_SUBSTITUTES = 8
_MOST_FAILED_LISTED = 100
_MOST_FAILED_LOGGED = 20
_LONGEST_CAUSE = 200
_TARGET_SECONDS = 0.002
"""Work in a chunk: a chunk costs 30-40 us to send, receive and account for (measured), which is 2 % of this."""
_SMOOTHING = 0.25
_ITEMS_SHARE = 9
"""A call of a batched loader has so many items that they cost this many times what the call costs without any."""
_CALLS_REMEMBERED = 32
_FIRST_CALLS, _PROBED_CALLS = 8, 16
"""Of the first calls every second is of half the size, later every sixteenth: sizes must differ to tell what a call
costs from what its items cost."""
_LEAST_SPREAD = 1e-3


class LoadCost:
    """What loading costs, learned from chunks; recent ones count most.

    Args:
        batched: Whether the loader takes all items of a chunk in one call, which may have a fixed cost.
    """

    def __init__(self, *, batched: bool) -> None:
        self._batched = batched
        self.known = False
        self.item = 0.0
        """Seconds an item."""
        self.call = 0.0
        """Seconds a call, whatever it has to load."""
        self._sums = 0.0, 0.0, 0.0, 0.0, 0.0
        """Of weights, items, squares of items, seconds, items times seconds."""

    def seconds(self, items: int) -> float:
        """Seconds that so many items take; 0 where nothing is known."""
        return self.call + self.item * items

    def learn(self, items: int, seconds: float) -> None:
        if not self._batched:
            each = seconds / items
            self.item = self.item + _SMOOTHING * (each - self.item) if self.known else each
            self.known = True
            return
        self.known = True
        keep = 1 - 1 / _CALLS_REMEMBERED
        weight, n, nn, t, nt = self._sums
        weight, n, nn = keep * weight + 1, keep * n + items, keep * nn + items * items
        t, nt = keep * t + seconds, keep * nt + items * seconds
        self._sums = weight, n, nn, t, nt
        spread = weight * nn - n * n  # least squares: a line through (items, seconds)
        if spread > _LEAST_SPREAD * n * n:
            self.item = max(0.0, (weight * nt - n * t) / spread)
            self.call = max(0.0, (t - self.item * n) / weight)
        else:
            self.call = 0.0
        if not self.call:
            self.item = t / n

    def chunk_size(self) -> float:
        if not self.item:
            return math.inf if self.call else 1.0
        return max(_TARGET_SECONDS, _ITEMS_SHARE * self.call) / self.item


class Schedule:
    """The batches in work.

    Args:
        groups: The groups, training before validation.
        workers: How many workers share the work.
        on_error: What to do about a failing item.
        substitute: Gives the item that stands in for a failing one, see ``GroupOrder.substitute``.
        reader: Reads the items of data that runs code of the user's.
    """

    def __init__(
        self, groups: Sequence[JobGroup], workers: int, on_error: OnError, substitute: Substitute, reader: DataReader
    ) -> None:
        self._groups = groups
        self.workers = workers
        """How many share the work."""
        self._on_error = on_error
        self._substitute = substitute
        self._reader = reader
        self._being_read = 0
        """JobRows that the reader has."""
        self._uncut: deque[BatchJob] = deque()
        self._again: deque[JobRows] = deque()
        """JobRows that were read, or have to go again."""
        self._sent: dict[int, JobRows] = {}
        self._deaths: dict[tuple[int, int], int] = {}
        """Workers that an item has killed, of one loading: an item of two epochs may be loaded for both at once."""
        self.in_shards = any(group.shards for group in groups)
        """Whether it matters which worker loads what."""
        self._costs = [LoadCost(batched=group.batched) for group in groups]
        self._numbers = 0
        self._probes = [0] * len(groups)
        """Chunks made of each group."""
        self.errors = 0
        self.substituted = 0
        self.calls = 0
        """Calls of batched loaders."""
        self.call_seconds = 0.0
        """What these took beside their items."""
        self._failed: dict[tuple[int, int], FailedItem] = {}

    def add(self, job: BatchJob) -> None:
        if self._groups[job.group].read_by_thread:
            runs, job.uncut = job.uncut, []
            for first, count in runs:
                job.open += count
                rows = JobRows(job, first, count)
                if first in job.filled:
                    self._again.append(rows)
                else:
                    self._have_read(rows)
        elif job.uncut:
            self._uncut.append(job)

    @property
    def has_uncut(self) -> bool:
        return bool(self._uncut or self._again or self._being_read)

    @property
    def batch_seconds(self) -> float:
        """Seconds of work that a batch of the costliest group takes; infinite where nothing is known."""
        known = [
            cost.seconds(group.batch_size) for cost, group in zip(self._costs, self._groups, strict=True) if cost.known
        ]
        return max(known, default=math.inf)

    @property
    def failed_items(self) -> tuple[FailedItem, ...]:
        return tuple(self._failed.copy().values())

    def estimate(self, chunk: Chunk) -> float:
        return self._costs[chunk.group].seconds(chunk.size)

    def arrived(self, found: JobRows | UnreadableRow) -> None:
        if isinstance(found, JobRows):
            self._being_read -= found.size
            self._again.append(found)
            return
        self._being_read -= 1
        job, row = found.rows.job, found.rows.first
        job.open -= 1
        self._fail(job, row, job.failed(row, None, found.cause, found.traceback, in_worker=False))

    def next_chunk(self, worker: int = 0) -> Chunk | None:
        """The next items to load, or ``None`` when all are handed out, or are for others than this worker."""
        while (places := self._places(worker)) is not None:
            again, uncut = places
            if again is not None:
                rows = self._again[again]
                del self._again[again]
                job = rows.job
                if job.failures and rows.first > min(job.failures):
                    job.open -= rows.size  # its batch is lost, and these cannot change the error
                    continue
                count = self._items_a_chunk(job, rows.size)
                if count < rows.size:
                    self._again.appendleft(rows.part(rows.first + count, rows.size - count))
                    rows = rows.part(rows.first, count)
            else:
                job = self._uncut[uncut]
                if job.failures:
                    del self._uncut[uncut]
                    continue
                first, left = job.uncut[0]
                count = self._items_a_chunk(job, left)
                job.uncut[:1] = [(first + count, left - count)] if count < left else []
                job.open += count
                if not job.uncut:
                    del self._uncut[uncut]
                rows = JobRows(job, first, count)
            chunk = self._chunk(rows)
            if chunk is not None:
                return chunk
        return None

    def _places(self, worker: int) -> tuple[int | None, int] | None:
        """Where the next rows for a worker stand: in ``_again``, else in ``_uncut``."""
        if not self.in_shards:
            return (0 if self._again else None, 0) if self._again or self._uncut else None
        for place, rows in enumerate(self._again):
            if self._is_for(rows.job, worker):
                return place, 0
        return next(((None, place) for place, job in enumerate(self._uncut) if self._is_for(job, worker)), None)

    def _is_for(self, job: BatchJob, worker: int) -> bool:
        """Whether a worker may load a batch: those of a shard are one worker's, which has it open where they begin."""
        shards = self._groups[job.group].shards
        return not shards or job.address.epoch_batch % shards % self.workers == worker

    def accept(self, result: ChunkResult) -> BatchJob:
        """Take the result of a chunk; the job may be complete now."""
        rows = self._sent.pop(result.number)
        job = rows.job
        if result.loaded:
            batched, cost = self._groups[job.group].batched, self._costs[job.group]
            if not (batched and result.failures):  # else its items were loaded again, one by one
                cost.learn(result.loaded, result.seconds)
            if batched:
                self.calls += 1
                self.call_seconds += min(cost.call, result.seconds)
        if result.additional is not None:
            batch_size = self._groups[job.group].batch_size
            for offset, values in enumerate(result.additional):
                if values and ENDED in values:
                    row = rows.first + offset
                    job.ended = row if job.ended is None else min(row, job.ended)
                elif values:
                    job.add(rows.first + offset, values, batch_size)
        job.load_seconds += result.seconds
        job.open -= rows.size
        for row in range(rows.first, rows.first + rows.size) if self._deaths else ():
            self._deaths.pop((job.planned.number, job.index(row)), None)  # it killed the last worker by chance
        for failure in result.failures:
            item = rows.item(failure.row)
            self._fail(job, failure.row, job.failed(failure.row, item, failure.cause, failure.traceback))
        return job

    def lose(self, numbers: Sequence[int], busy: tuple[int, int] | None, how: str) -> list[BatchJob]:
        """Have the chunks of a dead worker done again.

        Args:
            numbers: Chunks that it had not answered.
            busy: Chunk and row that it was working on.

        Returns:
            The jobs concerned; they may be complete now.
        """
        jobs = []
        for number in reversed(numbers):
            rows = self._sent.pop(number)
            jobs.append(rows.job)
            row = busy[1] if busy is not None and busy[0] == number else -1
            if row >= 0 and self._groups[rows.job.group].batched and rows.size > 1:
                self._go_singly(rows)  # which of them it is will show
            elif rows.first <= row < rows.first + rows.size and self._died_of(rows, row, how):
                self._go_around(rows, row)
            else:
                self._again.appendleft(rows)
        return jobs

    def refuse(self, chunk: Chunk, row: int, cause: str) -> BatchJob:
        """Fail an item whose descriptor cannot be sent; the rest of its chunk goes again."""
        rows = self._sent.pop(chunk.number)
        self._go_around(rows, row)
        rows.job.open -= 1
        self._fail(rows.job, row, rows.job.failed(row, rows.item(row), cause, ""))
        return rows.job

    def reject(self, number: int, garbled: Garbled) -> None:
        """A chunk or its result could not be unpickled: find out by which item, and fail it."""
        rows = self._sent.pop(number)
        if rows.size > 1:
            self._go_singly(rows)
            return
        job, row = rows.job, rows.first
        job.open -= 1
        self._fail(job, row, job.failed(row, rows.item(row), garbled.cause, garbled.traceback))

    def describe(self, number: int, row: int) -> tuple[BatchAddress, int] | None:
        """The batch and the index of the item at a row of a chunk in work."""
        rows = self._sent.get(number)
        if rows is None or not 0 <= row < len(rows.job.indices):
            return None
        return rows.job.address, rows.job.index(row)

    def _go_singly(self, rows: JobRows) -> None:
        for row in reversed(range(rows.first, rows.first + rows.size)):
            self._again.appendleft(rows.part(row, 1))

    def _go_around(self, rows: JobRows, row: int) -> None:
        """Have all rows but one go again."""
        before, after = row - rows.first, rows.first + rows.size - row - 1
        if after:
            self._again.appendleft(rows.part(row + 1, after))
        if before:
            self._again.appendleft(rows.part(rows.first, before))

    def _have_read(self, rows: JobRows, *, urgent: bool = False) -> None:
        group = self._groups[rows.job.group]
        self._being_read += rows.size
        self._reader.request(rows, group.data, whole=group.batched, urgent=urgent)

    def _items_a_chunk(self, job: BatchJob, left: int) -> int:
        cost, group = self._costs[job.group], self._groups[job.group]
        if cost.known:
            # Even parts: a chunk for one last row costs as much as any.
            count = math.ceil(left / max(1, round(left / cost.chunk_size())))
        else:  # have every worker begin at once
            count = min(left, math.ceil(len(job.indices) / (2 * self.workers)))
        if group.batched:
            made = self._probes[job.group] = self._probes[job.group] + 1
            if made % (2 if made <= _FIRST_CALLS else _PROBED_CALLS) == 0:
                count = math.ceil(count / 2)
            least, most = group.items_a_call
            count = max(count, min(least, left))
            count = min(count, most or count)
        return count

    def _chunk(self, rows: JobRows) -> Chunk | None:
        job, group = rows.job, self._groups[rows.job.group]
        indices = job.indices[rows.first : rows.first + rows.size]
        filled = rows.first in job.filled  # as all of these rows are, or none
        items: list[Any] | bytes
        if filled or group.indexed:
            items = indices.tobytes()
        elif rows.items is not None:
            items = rows.items
        else:
            try:
                numbers, data = indices.tolist(), group.data
                items = data.__getitems__(numbers) if isinstance(data, PlainData) else [data[n] for n in numbers]
            except Exception:  # noqa: BLE001  a list that was made shorter, say: the reader finds the item
                self._have_read(rows, urgent=True)
                return None
            rows = rows._replace(items=items)
        seeds = None if job.seeds is None else job.seeds[rows.first : rows.first + rows.size].tobytes()
        fresh = None if job.fresh is None else job.fresh[rows.first : rows.first + rows.size].tobytes()
        self._numbers += 1
        self._sent[self._numbers] = rows
        return Chunk(self._numbers, job.group, job.slot, rows.first, rows.size, items, seeds, fresh, filled)

    def _died_of(self, rows: JobRows, row: int, how: str) -> bool:
        """Count a worker's death against an item; true when the item is given up."""
        job = rows.job
        key = (job.planned.number, job.index(row))
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < MOST_DEATHS:
            return False
        job.open -= 1
        self._fail(job, row, job.killed(row, rows.item(row), self._deaths.pop(key), how))
        return True

    def _fail(self, job: BatchJob, row: int, error: LoaderError | WorkerDiedError) -> None:
        self.errors += 1
        index = job.index(row)
        substitutes = self._on_error == "substitute" and bool(self._groups[job.group].layouts)
        self._list(job, index, error, log=substitutes)
        failed = job.failed_rows.setdefault(row, [])
        failed.append(error)
        most = min(_MOST_SUBSTITUTES, len(self._groups[job.group].data) - 1) if substitutes else 0
        if len(failed) > most:
            job.failures[row] = failed[0]
            if len(failed) > 1:
                job.failures[row] = _with_substitutes(failed)
            return
        original = int(self._groups[job.group].own(job.planned.content).indices[row])
        job.substitute(row, self._substitute(job.address, original, len(failed) - 1))
        job.open += 1
        self.substituted += 1
        if self._groups[job.group].read_by_thread:
            self._have_read(JobRows(job, row, 1), urgent=True)
        else:
            self._again.append(JobRows(job, row, 1))

    def _list(self, job: BatchJob, index: int, error: LoaderError | WorkerDiedError, *, log: bool) -> None:
        """Count a failure of an item; of its first one, have it listed and logged."""
        key = job.group, index
        known = self._failed.get(key)
        if known is not None:
            self._failed[key] = known.again()
            return
        if len(self._failed) >= _MOST_FAILED_LISTED:
            return
        self._failed[key] = FailedItem(job.address.kind, job.address.group_index, index, _cause(error))
        if not log or len(self._failed) > _MOST_FAILED_LOGGED:
            return
        last = len(self._failed) == _MOST_FAILED_LOGGED
        logger.warning(
            "another item takes the place of one that failed, as on_error='substitute' asks (%s): %s",
            "no more are mentioned, see stats().failed_items" if last else "each is mentioned once",
            error,
        )


def _with_substitutes(failed: Sequence[LoaderError | WorkerDiedError]) -> LoaderError | WorkerDiedError:
    """The error of an item whose substitutes, which follow it, failed as well."""
    error = failed[0]
    texts = "; ".join(f"item {other.index}: {_cause(other)}" for other in failed[1:])
    text = f"{len(failed) - 1} substitutes failed, too: {texts}"
    if isinstance(error, WorkerDiedError):
        return WorkerDiedError(f"{error.message}; {text}", error.address, error.index, error.descriptor, error.how)
    cause, trace = f"{error.cause}; {text}", error.worker_traceback
    return LoaderError(error.address, error.index, error.descriptor, cause, trace, error.in_worker)


def _cause(error: LoaderError | WorkerDiedError) -> str:
    text = error.cause if isinstance(error, LoaderError) else f"workers died: {error.how}"
    return text if len(text) <= _LONGEST_CAUSE else f"{text[: _LONGEST_CAUSE - 1]}…"
