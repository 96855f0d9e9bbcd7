"""The loop of the engine's thread: hand out work, wait, take in what came, pass on what is complete.

Promise: batches come in the order of the plan (or, if asked, as they become ready); at most ``depth`` are loaded ahead,
where one that the consumer waits for counts as taken; a dead worker is replaced and its items are done again; an error
of any kind goes to the queue, so that the consumer never waits for something that cannot come. Nothing here polls: a
step sleeps until a worker or the consumer wakes it; only at the limit of held batches it looks for slots a hundred
times a second.

One thread at a time runs steps; others may read the counts.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hydrax_core.data.layout import views
from hydrax_core.data.logger import logger
from hydrax_core.data.trim import trimmed
from hydrax_core.engine.admission import Admission
from hydrax_core.engine.counters import EngineStats, FirstBatch, slot_states
from hydrax_core.engine.data_reader import DataReader
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.jobs import BatchJob, HostBatch, JobGroup
from hydrax_core.engine.ready import ReadyQueue, Wakeup
from hydrax_core.engine.resources.autotune import Bounds, Load, Setting, Tuner
from hydrax_core.engine.resources.limits import HeldBatches
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.engine.schedule import OnError, Schedule
from hydrax_core.engine.workers.pool import WorkerHandle, WorkerPool
from hydrax_core.engine.workers.protocol import Worker, WorkerGoneError
from hydrax_core.engine.workers.wire import ChunkResult, Garbled, StartFailure
from hydrax_core.errors import CacheError, HydraxError, StreamError, WorkerDiedError, WorkerStartError
from hydrax_core.plan.plan import Plan

__all__ = ["EngineSettings", "Loop", "may_be_missing"]

_LEASE_POLL_SECONDS = 0.01
_SHORT_SECONDS, _TINY_SECONDS = 0.02, 0.002
_SEVERAL = 8
"""To wake a thread takes the consumer 15 to 40 us (measured). Where a worker's time for a batch is shorter than so, it
does that once for a quarter of the depth; once for half of it where tiny ones are so many ahead."""


def may_be_missing(depth: int, batch_seconds: float) -> int:
    """How many batches may be missing of ``depth`` before the consumer wakes the engine for more."""
    if batch_seconds < _TINY_SECONDS and depth >= _SEVERAL:
        return depth // 2
    return depth // 4 if batch_seconds < _SHORT_SECONDS else 0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs; the names are those of ``Dataloader``.

    Attributes:
        depth: Batches loaded ahead; the least and the most.
        max_held: Batches that the consumer may hold while it asks for another.
        deterministic: Whether batches keep the order of the plan.
        on_error: What to do about a failing item.
        threaded: Whether a thread drives the engine; else the consumer does, in ``wait()``.
    """

    depth: Bounds
    workers: Bounds
    max_held: int
    deterministic: bool
    on_error: OnError
    threaded: bool


class Loop:
    """Loads the batches of a plan, a step at a time.

    Args:
        groups: Training before validation.
    """

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[JobGroup],
        admission: Admission,
        caches: GroupCaches,
        pool: SlotPool,
        wakeup: Wakeup,
        queue: ReadyQueue,
        start_worker: Callable[[int], Worker],
        settings: EngineSettings,
    ) -> None:
        self._plan = plan
        self._groups = groups
        self._admission = admission
        self._caches = caches
        self._pool = pool
        self._wakeup = wakeup
        self._queue = queue
        self._settings = settings
        self._tuner = Tuner(settings.depth, settings.workers)
        self._depth = settings.depth.least
        self._reader = DataReader(wakeup.wake, threaded=settings.threaded)
        self._schedule = Schedule(groups, settings.workers.least, settings.on_error, plan.substitute, self._reader)
        self._workers = WorkerPool(start_worker, settings.workers.least)
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup, selectors.EVENT_READ)
        self._held = HeldBatches(pool, self._depth, settings.max_held)
        self._jobs: dict[int, BatchJob | HostBatch] = {}
        self._make: Callable[[HostBatch], object] | None = None
        self._most_made = 0
        self._stopping = False
        self._logged: set[str] = set()
        self._skipped_batches = 0
        self._skipped_in_a_row = 0
        self._dropped_batches = 0
        self._dropped_in_a_row = 0
        self.dropped: deque[int] = deque()
        """Numbers of batches that failed; the owner of the position takes them out."""
        self.at_end = False
        """Whether the last batch of the run is loaded."""
        self._started = time.perf_counter()
        self._first_ready: float | None = None
        self._first_complete: float | None = None

    # --- for other threads

    def stats(self) -> EngineStats:
        setting, schedule, workers, pool = self._tuner.setting, self._schedule, self._workers, self._pool
        slots = slot_states(pool.count, self._filling(), self._queue.slots(), pool.leased())
        return EngineStats(
            depth=setting.depth,
            loader_count=setting.workers,
            tuning=setting.why if self._tuner.tunes else None,
            slot_bytes=pool.memory.slot_size,
            slots=slots,
            held_batches=slots.count("held"),
            workers=workers.stats(schedule.describe),
            worker_restarts=workers.restarts,
            loaded_items=workers.loaded_items,
            load_seconds=workers.busy_seconds,
            calls=schedule.calls,
            call_seconds=schedule.call_seconds,
            read_items=self._reader.items,
            read_seconds=self._reader.seconds,
            failed_items=schedule.failed_items,
            errors=schedule.errors,
            skipped_batches=self._skipped_batches,
            substituted_items=schedule.substituted,
            dropped_batches=self._dropped_batches,
            first_batch=self._first_batch(),
            **self._caches.stats(),
        )

    def _first_batch(self) -> FirstBatch | None:
        complete, taken = self._first_complete, self._queue.first_taken
        if complete is None or taken is None:
            return None
        # A batch of the cache waits for no worker.
        ready = complete if self._first_ready is None else min(complete, self._first_ready)
        return FirstBatch(start=ready - self._started, load=complete - ready, place=taken - complete)

    @property
    def setting(self) -> Setting:
        return self._tuner.setting

    @property
    def max_held(self) -> int:
        """With no more slots than that, ``excess()`` need not be asked."""
        return self._settings.max_held

    def excess(self) -> HydraxError | None:
        """The error for a consumer that holds too many batches to get another, or ``None``."""
        return self._held.excess()

    def report(self) -> str:
        return "; ".join(filter(None, (self._reader.report(), self._workers.report(self._schedule.describe))))

    def make_ahead(self, make: Callable[[HostBatch], object], most: int) -> None:
        """Have ``make`` called with each of the next ``most`` batches before the consumer takes it."""
        self._most_made = most
        self._make = make
        self._wakeup.wake()

    def stop(self) -> None:
        """Have the current step end soon and start nothing more."""
        self._stopping = True
        self._wakeup.wake()

    def _filling(self) -> frozenset[int]:
        return frozenset(job.slot for job in list(self._jobs.values()) if isinstance(job, BatchJob))

    # --- begin and end

    def start(self) -> None:
        """Start the workers, have the first work done, and their memory mapped while they start."""
        for _ in self._workers.start():
            if self._stopping:
                return
        self.step(block=False)
        if self._first_ready is None:  # the workers are still starting
            self._pool.prefault(self._filling())

    def start_workers(self) -> None:
        deque(self._workers.start(), maxlen=0)

    def close(self, seconds: float) -> None:
        """End all workers; those that take longer than ``seconds`` are killed. No step may come after."""
        deadline = time.monotonic() + seconds
        self._reader.close(0)
        self.end_workers(seconds)
        self._reader.close(max(0.0, deadline - time.monotonic()))
        self.at_end = False  # what is dropped here was not handed out
        self._selector.close()
        self._jobs.clear()

    def end_workers(self, seconds: float) -> None:
        """End all workers; those that take longer than ``seconds`` are killed."""
        self._workers.close(seconds)

    # --- a step

    def step(self, *, block: bool) -> None:
        """Hand out work, wait for something to happen, take in what came."""
        settled = False
        if self._queue.fatal is None:
            self._admit()
            for found in self._reader.take():
                self._schedule.arrived(found)
            self._feed()
            settled = self._deliver()  # a batch whose items cannot even be sent is done already
        if self._tuner.tunes:
            self._tune()
        self._workers.watch(self._selector)
        wake_below = self._wake_below()
        self._queue.sleeping(wake_below)
        # The consumer may have taken a batch before it could see the mark: look once more.
        late = len(self._queue) < wake_below and self._can_admit
        sleep = block and not settled and not late
        if sleep and self._make is not None:
            self._queue.prepare(self._make, self._most_made)
        for key, _ in self._selector.select(self._timeout() if sleep else 0):
            if key.data is None:
                self._wakeup.clear()
            elif key.fd in key.data.watched:  # not one that was replaced a moment ago
                self._take_reports(key.data, key.fd)
        for handle in self._workers.handles:
            if not handle.worker.descriptors:
                self._take_reports(handle, -1)
        self._deliver()

    def _wake_below(self) -> int:
        """The engine wants to be woken when fewer batches are ready; 0 for never, as there is work enough."""
        if self._schedule.has_uncut:
            return 0
        return self._depth - may_be_missing(self._depth, self._schedule.batch_seconds) - len(self._jobs)

    @property
    def _can_admit(self) -> bool:
        return self._has_room and not self._admission.at_end and not self._pool.exhausted and self._queue.fatal is None

    @property
    def _has_room(self) -> bool:
        """Whether fewer than ``depth`` batches (or errors in their place) are ahead."""
        ready = len(self._queue)
        if ready and self._queue.waiting:  # one that the consumer waits for counts as taken
            ready -= 1
        return len(self._jobs) + ready < self._depth

    def _timeout(self) -> float | None:
        """How long to sleep at most; a limit only where a lease has to end first, as that wakes no thread."""
        return _LEASE_POLL_SECONDS if self._pool.exhausted else None

    def _tune(self) -> None:
        self._workers.reap(self._selector)
        queue = self._queue
        if not queue.taken or not self._workers.complete:
            self._tuner.restart()
            return
        load = Load(time.monotonic(), queue.taken, queue.waited, self._workers.busy_seconds)
        setting = self._tuner.look(load)
        if setting is None:
            return
        self._depth = self._held.depth = setting.depth
        try:
            self._workers.resize(setting.workers)
        except WorkerStartError as error:
            logger.warning("loader_count='auto': %s", error)
            self._tuner.confine(self._workers.count)
        self._schedule.workers = self._tuner.setting.workers

    def _admit(self) -> None:
        while self._has_room and not self._admission.at_end:
            batch = self._admission.take(soft_limit=self._depth + 2)
            if batch == "no free slot":
                waiting = self._queue.waiting or not self._settings.threaded
                error = self._held.starve(waiting=waiting and not self._jobs and not self._queue)
                if error is not None:
                    self._queue.offer(error)
                return
            if batch == "not cached":
                self._drop(self._admission.last)
                if self._stopping or self._queue.fatal is not None:
                    return
                continue
            self._dropped_in_a_row = 0
            self._held.look()
            self._jobs[batch.planned.number] = batch
            if isinstance(batch, BatchJob):
                self._schedule.add(batch)

    def _drop(self, number: int) -> None:
        self._dropped_batches += 1
        self.dropped.append(number)
        self._dropped_in_a_row += 1
        epoch = self._plan.batches_per_epoch + self._plan.batches_per_validation
        if self._dropped_in_a_row >= epoch:
            self._queue.fail(
                CacheError(
                    f"the cache holds none of {epoch} batches in a row, and there are no loader_arrays to load them "
                    "into: fill it with a loader first, or look at it with `hydrax cache verify`"
                )
            )

    def _feed(self) -> None:
        without: set[int] = set()
        while (handle := self._workers.least_busy(without)) is not None:
            chunk = self._schedule.next_chunk(handle.worker.number)
            if chunk is None:
                if not self._schedule.in_shards:
                    return
                without.add(handle.worker.number)
                continue
            try:
                handle.send(chunk, self._schedule.estimate(chunk))
            except WorkerGoneError:
                raise
            except Exception as error:
                if not self._settings.threaded:  # nothing is pickled there: a signal's handler has raised
                    raise
                row, cause = self._workers.find_unsendable(chunk, error)
                self._schedule.refuse(chunk, row, cause)

    def _take_reports(self, handle: WorkerHandle, descriptor: int) -> None:
        try:
            reports = handle.worker.reports(descriptor)
        except WorkerGoneError as gone:
            self._replace(handle, str(gone))
            return
        for report in reports:
            if isinstance(report, ChunkResult):
                handle.done(report)
                self._workers.progress()
                self._schedule.accept(report)
                for notice in report.notices:
                    self._log_once(notice)
            elif isinstance(report, Garbled):
                self._schedule.reject(handle.oldest(), report)
            elif isinstance(report, StartFailure):
                trace = f"\n\nIn the worker:\n{report.traceback}"
                text = f"worker {handle.worker.number} could not start: {report.cause}{trace}"
                self._queue.fail(WorkerStartError(text))
            else:
                handle.ready = True
                if self._first_ready is None:
                    self._first_ready = time.perf_counter()

    def _replace(self, handle: WorkerHandle, how: str) -> None:
        if self._stopping or self._queue.fatal is not None:
            return
        busy = handle.busy()
        what = self._schedule.describe(*busy) if busy is not None else None
        doing = "idle" if what is None else f"at item {what[1]} of {what[0]}"
        logger.warning("worker %d ended: %s; it was %s; it is replaced", handle.worker.number, how, doing)
        self._schedule.lose(handle.unanswered(), busy, how)
        if not self._workers.replace(handle, self._selector, idle=busy is None):
            which = (
                "workers end before they do any work; of the last" if handle.worker.replaceable else "a worker ended"
            )
            message = f"{which}: {how}"
            self._queue.fail(WorkerDiedError(message, None, None, None, how))

    def _deliver(self) -> bool:
        before = len(self._jobs)
        for number, batch in list(self._jobs.items()):
            if self._queue.fatal is not None:
                break  # nothing comes behind it, whatever is complete by chance
            if isinstance(batch, HostBatch):
                del self._jobs[number]
                self._offer(batch)
            elif batch.complete:
                del self._jobs[number]
                self._settle(batch)
            elif self._settings.deterministic:
                break
        if not self._jobs and self._admission.at_end:
            self.at_end = True
            self._queue.end()
        return len(self._jobs) < before

    def _settle(self, job: BatchJob) -> None:
        error = job.error
        if error is None:
            group = self._groups[job.group]
            if group.shards and not self._has_rows(job, group):
                self._pool.release(job.slot)
                return
            lease = self._pool.lease(job.slot)
            loaded = views(lease, group.layouts, parts=group.parts)
            self._caches.keep(job, loaded)
            from_cache = bool(group.augmented) and job.loaded_rows == []
            self._offer(
                HostBatch(
                    job.planned,
                    job.group,
                    job.slot,
                    trimmed(views(lease, group.augmented) if group.augmented else loaded, group.trims),
                    job.indices,
                    job.seeds if job.fresh is None else job.fresh,
                    job.additional,
                    cached=group.stores_itself and not group.augmented,
                    from_cache=from_cache,
                    load_seconds=None if from_cache else job.load_seconds,
                )
            )
            return
        self._pool.release(job.slot)
        self.dropped.append(job.planned.number)
        if self._settings.on_error == "skip":
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= self._plan.batches_per_epoch + self._plan.batches_per_validation:
                error.add_note(f"hydrax: {self._skipped_in_a_row} batches in a row were skipped: no item can be loaded")
                self._queue.fail(error)
            self._skipped_batches += 1
            self._log_once(
                f"a batch is skipped, as on_error='skip' asks (later ones are only counted): {error}", key="skip"
            )
            return
        self._queue.offer(error)

    def _has_rows(self, job: BatchJob, group: JobGroup) -> bool:
        """Whether a batch of a stream is one, or stands behind the end of its shard."""
        if job.ended is not None:
            job.cut()
        has_rows = len(job.indices) >= (group.batch_size if group.drops_short else 1)
        if not self._admission.settled(job.planned, group.shards, has_rows=has_rows, ended=job.ended is not None):
            self._queue.fail(
                StreamError(
                    f"{job.address}: the stream gave no batch in this epoch; does its factory make a new iterable each "
                    "time, and with remainder='drop', has a shard enough items for a batch?"
                )
            )
        return has_rows

    def _offer(self, batch: HostBatch) -> None:
        self._skipped_in_a_row = 0
        self._queue.offer(batch)
        if self._first_complete is None:
            self._first_complete = time.perf_counter()

    def _log_once(self, text: str, key: str | None = None) -> None:
        if (key or text) not in self._logged:
            self._logged.add(key or text)
            logger.warning("%s", text)
