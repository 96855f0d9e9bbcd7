"""Which items go into the next chunk, and what becomes of a batch whose chunks come back: pure bookkeeping.

Promise: every row of a batch is loaded, substituted or failed exactly once in what is delivered, whatever order results
arrive in and however many workers are lost. An item is given up after it has killed ``MOST_DEATHS`` workers. The error
reported for a batch is that of its first failing row, whatever the timing.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from hydrax_core.engine.jobs import BatchJob, JobGroup
from hydrax_core.engine.workers.wire import Chunk, ChunkResult, Garbled
from hydrax_core.errors import BatchAddress, LoaderError, WorkerDiedError

__all__ = ["MOST_DEATHS", "OnError", "Schedule"]

OnError: TypeAlias = Literal["raise", "skip", "substitute"]
Substitute: TypeAlias = Callable[[BatchAddress, int, int], tuple[int, int | None]]

MOST_DEATHS = 3
_MOST_SUBSTITUTES = 8
_TARGET_SECONDS = 0.002
"""Work in a chunk: a chunk costs 30-40 us to send, receive and account for (measured), which is 2 % of this."""
_SMOOTHING = 0.25


class _Rows(NamedTuple):
    """Rows of a job that are on their way, or have to go again."""

    job: BatchJob
    first: int
    size: int


class Schedule:
    """The batches in work.

    Args:
        groups: The groups, training before validation.
        workers: How many workers share the work.
        on_error: What to do about a failing item.
        substitute: Gives the item that stands in for a failing one, see ``GroupOrder.substitute``.
    """

    def __init__(
        self,
        groups: Sequence[JobGroup],
        workers: int,
        on_error: OnError,
        substitute: Substitute,
    ) -> None:
        self._groups = groups
        self.workers = workers
        """How many share the work."""
        self._on_error = on_error
        self._substitute = substitute
        self._uncut: deque[BatchJob] = deque()
        self._again: deque[_Rows] = deque()
        self._sent: dict[int, _Rows] = {}
        self._deaths: dict[tuple[int, int], int] = {}
        self._item_seconds: dict[int, float] = {}
        self._numbers = 0
        self.errors = 0
        self.substituted = 0

    def add(self, job: BatchJob) -> None:
        """Take a batch to load; batches are worked on in the order of this call."""
        self._uncut.append(job)

    @property
    def has_uncut(self) -> bool:
        """Whether there is work that no worker has."""
        return bool(self._uncut or self._again)

    @property
    def batch_seconds(self) -> float:
        """Seconds of work that a batch of the costliest group takes; infinite where nothing is known."""
        return max(
            (seconds * self._groups[group].batch_size for group, seconds in self._item_seconds.items()),
            default=math.inf,
        )

    def estimate(self, chunk: Chunk) -> float:
        """Seconds that a chunk will take, 0 where nothing is known."""
        return self._item_seconds.get(chunk.group, 0.0) * chunk.size

    def next_chunk(self) -> Chunk | None:
        """The next items to load, or ``None`` when all are handed out."""
        while self._again or self._uncut:
            if self._again:
                rows = self._again.popleft()
                if rows.job.failures and rows.first > min(rows.job.failures):
                    rows.job.open -= rows.size  # its batch is lost, and these cannot change the error
                    continue
                chunk = self._chunk(rows)
            else:
                job = self._uncut[0]
                if job.failures:
                    self._uncut.popleft()
                    continue
                first, left = job.uncut[0]
                count = self._items_a_chunk(job, left)
                job.uncut[:1] = [(first + count, left - count)] if count < left else []
                job.open += count
                if not job.uncut:
                    self._uncut.popleft()
                rows = _Rows(job, first, count)
                chunk = self._chunk(rows)
            if chunk is not None:
                return chunk
        return None

    def accept(self, result: ChunkResult) -> BatchJob:
        """Take the result of a chunk; the job may be complete now."""
        rows = self._sent.pop(result.number)
        job = rows.job
        if result.loaded:
            self._learn(job.group, result.seconds / result.loaded)
        if result.additional is not None:
            batch_size = self._groups[job.group].batch_size
            for offset, values in enumerate(result.additional):
                if values:
                    job.add(rows.first + offset, values, batch_size)
        job.load_seconds += result.seconds
        job.open -= rows.size
        for row in range(rows.first, rows.first + rows.size) if self._deaths else ():
            self._deaths.pop((job.group, job.index(row)), None)  # it killed the last worker by chance
        for failure in result.failures:
            descriptor = self._descriptor(job, failure.row)
            self._fail(job, failure.row, job.failed(failure.row, descriptor, failure.cause, failure.traceback))
        return job

    def lose(self, numbers: Sequence[int], busy: tuple[int, int] | None, how: str) -> list[BatchJob]:
        """Have the chunks of a dead worker done again.

        Args:
            numbers: Chunks that it had not answered.
            busy: Chunk and row that it was working on.
            how: How it ended, in words.

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
            elif rows.first <= row < rows.first + rows.size and self._died_of(rows.job, row, how):
                after = rows.first + rows.size - row - 1
                if after:
                    self._again.appendleft(_Rows(rows.job, row + 1, after))
                if row > rows.first:
                    self._again.appendleft(_Rows(rows.job, rows.first, row - rows.first))
            else:
                self._again.appendleft(rows)
        return jobs

    def refuse(self, chunk: Chunk, row: int, cause: str) -> BatchJob:
        """Fail an item whose descriptor cannot be sent; the rest of its chunk goes again."""
        rows = self._sent.pop(chunk.number)
        job = rows.job
        before, after = row - rows.first, rows.first + rows.size - row - 1
        if after:
            self._again.appendleft(_Rows(job, row + 1, after))
        if before:
            self._again.appendleft(_Rows(job, rows.first, before))
        job.open -= 1
        self._fail(job, row, job.failed(row, chunk.descriptors()[before], cause, ""))
        return job

    def reject(self, number: int, garbled: Garbled) -> None:
        """A chunk or its result could not be unpickled: find out by which item, and fail it."""
        rows = self._sent.pop(number)
        if rows.size > 1:
            self._go_singly(rows)
            return
        job = rows.job
        job.open -= 1
        descriptor = self._descriptor(job, rows.first)
        self._fail(job, rows.first, job.failed(rows.first, descriptor, garbled.cause, garbled.traceback))

    def _go_singly(self, rows: _Rows) -> None:
        for row in reversed(range(rows.first, rows.first + rows.size)):
            self._again.appendleft(_Rows(rows.job, row, 1))

    def describe(self, number: int, row: int) -> tuple[BatchAddress, int] | None:
        """The batch and the index of the item at a row of a chunk in work."""
        rows = self._sent.get(number)
        if rows is None or not 0 <= row < len(rows.job.indices):
            return None
        return rows.job.address, rows.job.index(row)

    def _items_a_chunk(self, job: BatchJob, left: int) -> int:
        seconds = self._item_seconds.get(job.group)
        if seconds is None:  # nothing known: have every worker begin at once
            return min(left, math.ceil(len(job.indices) / (2 * self.workers)))
        # Even parts: a chunk for one last row costs as much as any.
        return math.ceil(left / max(1, round(left * seconds / _TARGET_SECONDS)))

    def _learn(self, group: int, seconds: float) -> None:
        known = self._item_seconds.get(group, seconds)
        self._item_seconds[group] = known + _SMOOTHING * (seconds - known)

    def _chunk(self, rows: _Rows) -> Chunk | None:
        job = rows.job
        end = rows.first + rows.size
        try:
            indices = job.indices[rows.first : end]
            items: list[Any] | bytes
            if self._groups[job.group].indexed:
                items = indices.tobytes()
            else:
                items = list(map(self._groups[job.group].data.__getitem__, indices.tolist()))
        except Exception:  # noqa: BLE001  the user's sequence may raise anything
            items = self._items_before_the_bad_one(rows)
            if not items:
                return None
            rows = _Rows(job, rows.first, len(items))
        seeds = None if job.seeds is None else job.seeds[rows.first : rows.first + rows.size].tobytes()
        self._numbers += 1
        self._sent[self._numbers] = rows
        return Chunk(self._numbers, job.group, job.slot, rows.first, rows.size, items, seeds)

    def _items_before_the_bad_one(self, rows: _Rows) -> list[Any]:
        """Fail the first item that the data does not give; those after it go again."""
        job = rows.job
        end = rows.first + rows.size
        items: list[Any] = []
        for row in range(rows.first, end):
            try:
                items.append(self._groups[job.group].data[job.index(row)])
            except Exception as error:  # noqa: BLE001  see _chunk
                cause = f"data[{job.index(row)}]: {''.join(traceback.format_exception_only(error)).strip()}"
                after = end - row - 1
                if after:
                    self._again.appendleft(_Rows(job, row + 1, after))
                job.open -= 1
                trace = traceback.format_exc().rstrip()
                self._fail(job, row, job.failed(row, None, cause, trace, in_worker=False))
                break
        return items

    def _descriptor(self, job: BatchJob, row: int) -> Any:
        """The item of a row for an error; its index where only workers read it, ``None`` where the data now fails."""
        if self._groups[job.group].indexed:
            return job.index(row)
        try:
            return self._groups[job.group].data[job.index(row)]
        except Exception:  # noqa: BLE001  see _chunk
            return None

    def _died_of(self, job: BatchJob, row: int, how: str) -> bool:
        """Count a worker's death against an item; true when the item is given up."""
        key = (job.group, job.index(row))
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < MOST_DEATHS:
            return False
        job.open -= 1
        descriptor = self._descriptor(job, row)
        self._fail(job, row, job.killed(row, descriptor, self._deaths.pop(key), how))
        return True

    def _fail(self, job: BatchJob, row: int, error: LoaderError | WorkerDiedError) -> None:
        self.errors += 1
        attempt = job.attempts.get(row, 0)
        most = min(_MOST_SUBSTITUTES, len(self._groups[job.group].data) - 1)
        if self._on_error != "substitute" or attempt >= most:
            job.failures[row] = error
            return
        original = int(job.planned.content.indices[row])
        job.attempts[row] = attempt + 1
        job.substitute(row, *self._substitute(job.address, original, attempt))
        job.open += 1
        self.substituted += 1
        self._again.append(_Rows(job, row, 1))
