"""Plan in, complete host batches out: the thread between the workers and the consumer.

Promise: batches come in the order of the plan (or, if asked, as they become ready); at most ``depth`` are loaded ahead;
a dead worker is replaced and its items are done again; an error of any kind reaches the consumer, who never waits for
something that cannot come. Nothing here polls: the thread sleeps until a worker or the consumer wakes it; only at the
limit of held batches it looks for slots a hundred times a second.

The consumer's thread only takes from the ``Handover``; everything else belongs to the engine's thread. That is why a
KeyboardInterrupt, which Python raises in the main thread, cannot leave the engine half way.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydrax_core.crew import Crew, Member
from hydrax_core.errors import (
    BatchTimeoutError,
    CacheError,
    HydraxError,
    WorkerDiedError,
    WorkerStartError,
)
from hydrax_core.handover import Handover
from hydrax_core.hoarding import HoardWatch
from hydrax_core.intake import Intake, Nothing
from hydrax_core.jobs import BatchJob, HostBatch, JobGroup
from hydrax_core.layout import views
from hydrax_core.plan import Plan
from hydrax_core.schedule import Schedule
from hydrax_core.settings import EngineSettings
from hydrax_core.shelf import Shelf
from hydrax_core.slots import SlotPool
from hydrax_core.waker import Waker
from hydrax_core.workers.messages import ChunkResult, Garbled, StartFailure
from hydrax_core.workers.protocol import Worker, WorkerGoneError

__all__ = ["Engine"]

_GRACE_SECONDS = 1.0
"""How long a worker may take to end after its socket closes; ``with`` promises to be left within 2 s."""
_LEASE_POLL_SECONDS = 0.01
_logger = logging.getLogger("hydrax")


class Engine:
    """Loads the batches of a plan.

    Args:
        plan: The plan.
        groups: Training before validation.
        intake: Where batches begin.
        shelf: The caches; the engine closes them.
        pool: The slots; the engine closes it.
        waker: What wakes the thread.
        start_worker: Starts a worker of a number.
        settings: See ``EngineSettings``.
    """

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[JobGroup],
        intake: Intake,
        shelf: Shelf,
        pool: SlotPool,
        waker: Waker,
        start_worker: Callable[[int], Worker],
        settings: EngineSettings,
    ) -> None:
        self._plan = plan
        self._groups = groups
        self._pool = pool
        self._waker = waker
        self._settings = settings
        self._pid = os.getpid()
        self._schedule = Schedule(
            groups, settings.loader_count, settings.on_error, plan.substitute, batched=settings.batched
        )
        self._crew = Crew(start_worker, settings.loader_count)
        self._selector = selectors.DefaultSelector()
        self._selector.register(waker, selectors.EVENT_READ)
        self._intake = intake
        self._shelf = shelf
        self._hoard = HoardWatch(pool, settings.depth, settings.max_held)
        self._jobs: dict[int, BatchJob | HostBatch] = {}
        self._handover = Handover(waker.wake)
        self._stopping = False
        self._left_behind = False
        self._said: set[str] = set()
        self.skipped_batches = 0
        self._skipped_in_a_row = 0
        self.dropped: deque[int] = deque()
        """Numbers of batches that failed; whoever keeps the position takes them out."""
        self.dropped_batches = 0
        self._dropped_in_a_row = 0
        self.at_end = False
        """Whether the last batch of the run is loaded; ``wait()`` also ends after ``interrupt()`` and ``close()``."""
        self.started = time.perf_counter()
        self.first_ready: float | None = None
        self.first_complete: float | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.RLock()

    def start(self) -> None:
        """Start the thread, which starts the workers: Ctrl-C, which hits the main thread, cannot cut that short."""
        if self._settings.threaded:
            self._thread = threading.Thread(target=self._run, name="hydrax-engine", daemon=True)
            self._thread.start()
        else:
            deque(self._crew.start(), maxlen=0)

    @property
    def schedule(self) -> Schedule:
        """The batches in work, for their counts."""
        return self._schedule

    @property
    def crew(self) -> Crew:
        """The workers, for their counts."""
        return self._crew

    @property
    def pool(self) -> SlotPool:
        """The slots, for their counts."""
        return self._pool

    def wait(self, seconds: float | None) -> HostBatch | None:
        """The next batch, which stays here until ``take()``; ``None`` at the end of the run.

        Raises:
            BatchTimeoutError: None arrived within ``seconds``.
            HydraxError: What went wrong on the way; after a ``LoaderError`` the next call goes on behind that batch.
        """
        if os.getpid() != self._pid:
            raise HydraxError("this loader was started before a fork and works in the parent only; make a new one")
        deadline = None if seconds is None else time.monotonic() + seconds
        handover = self._handover
        while True:
            ended = handover.ended  # read before looking: the last batch comes right before the end
            batch = handover.first()
            if batch is not None and (error := self._hoard.excess()) is not None:
                raise error
            if batch is not None or ended:
                return batch
            if not self._settings.threaded:
                self._turn(block=False)
            elif not handover.await_news(deadline, knock=lambda: self._pool.short):
                raise BatchTimeoutError(f"no batch arrived within {seconds:g} s; {self._crew.report(self._schedule)}")

    def take(self, batch: HostBatch, note: str, holders: Iterable[Any]) -> bool:
        """Take the batch that ``wait()`` returned; false when it is gone, as another thread closed the loader.

        Args:
            batch: The batch.
            note: Where it is handed out, for error texts.
            holders: The objects that are; as long as they live the consumer is said to hold the batch.
        """
        if not self._handover.take(batch):
            return False
        if batch.slot is not None:
            self._pool.annotate(batch.slot, note, holders)
        return True

    @property
    def shelf(self) -> Shelf:
        """The caches, for their counts and for ``Batch.cache()``."""
        return self._shelf

    @property
    def filling_slots(self) -> frozenset[int]:
        """Slots of batches being loaded."""
        return frozenset(job.slot for job in list(self._jobs.values()) if isinstance(job, BatchJob))

    @property
    def ready_slots(self) -> frozenset[int]:
        """Slots of complete batches not taken yet."""
        return self._handover.slots()

    def close(self) -> None:
        """End thread and workers, within two seconds, and free what is not held."""
        if os.getpid() != self._pid:
            return
        with self._closing:  # several threads may leave at once
            self._stopping = True
            self._waker.wake()
            if self._thread not in (None, threading.current_thread()) and self._thread.is_alive():
                self._thread.join(_GRACE_SECONDS)
                self._left_behind = self._thread.is_alive()
            self._crew.close(_GRACE_SECONDS)
            self.at_end = False  # what is dropped here was not handed out
            self._selector.close()
            self._waker.close()
            self._handover.clear()
            self._jobs.clear()
            self.interrupt()
            self._shelf.close()
            self._pool.close()

    def interrupt(self) -> None:
        """Let ``wait()`` return ``None`` after what is ready; safe in threads and signal handlers."""
        self._handover.end()

    def _run(self) -> None:
        try:
            for _ in self._crew.start():
                if self._stopping:
                    return
            self._turn(block=False)
            if self.first_ready is None:  # the workers are still starting
                self._pool.prefault(self.filling_slots)
            while not self._stopping and self._handover.fatal is None:
                self._turn(block=True)
        except BaseException as error:  # the consumer must hear of a defect of ours, too, and of sys.exit() in the data
            if not self._stopping:
                if not isinstance(error, HydraxError):
                    _logger.exception("the engine failed")
                self._handover.fail(error)
        if self._left_behind:  # a worker may have been started after close() had ended the others
            self._crew.close(0)

    def _turn(self, *, block: bool) -> None:
        """Hand out work, wait for something to happen, take in what came."""
        settled = False
        if self._handover.fatal is None:
            self._admit()
            self._feed()
            settled = self._deliver()  # a batch whose items cannot even be sent is done already
        self._crew.watch(self._selector)
        self._handover.sleeping(hungry=not self._schedule.has_uncut)
        # The consumer may have taken a batch just before it could know of the hunger: look once more.
        late = self._has_room and not self._intake.at_end and not self._pool.short and self._handover.fatal is None
        sleep = block and not settled and not late
        for key, _ in self._selector.select(self._patience() if sleep else 0):
            if key.data is None:
                self._waker.clear()
            elif key.fd in key.data.watched:  # not one that was replaced a moment ago
                self._hear(key.data, key.fd)
        for member in self._crew.members:
            if not member.worker.descriptors:
                self._hear(member, -1)
        self._deliver()

    @property
    def _has_room(self) -> bool:
        """Whether fewer than ``depth`` batches (or errors in their place) are ahead."""
        return len(self._jobs) + len(self._handover) < self._settings.depth

    def _patience(self) -> float | None:
        """How long to sleep at most: for ever, but where only a lease, which rings no bell, can free a slot."""
        return _LEASE_POLL_SECONDS if self._pool.short else None

    def _admit(self) -> None:
        while self._has_room:
            batch = self._intake.take()
            if batch is Nothing.NO_SLOT:
                waiting = self._handover.waiting or not self._settings.threaded
                error = self._hoard.starve(waiting=waiting and not self._jobs and not self._handover)
                if error is not None:
                    self._handover.offer(error)
                return
            if batch is Nothing.END:
                return
            if batch is Nothing.DROPPED:
                self._drop(self._intake.last)
                if self._stopping or self._handover.fatal is not None:
                    return
                continue
            self._dropped_in_a_row = 0
            self._hoard.look()
            self._jobs[batch.planned.number] = batch
            if isinstance(batch, BatchJob):
                self._schedule.add(batch)

    def _drop(self, number: int) -> None:
        self.dropped_batches += 1
        self.dropped.append(number)
        self._dropped_in_a_row += 1
        epoch = self._plan.batches_per_epoch + self._plan.batches_per_validation
        if self._dropped_in_a_row >= epoch:
            self._handover.fail(
                CacheError(
                    f"the cache holds none of {epoch} batches in a row, and there are no loader_arrays to load them "
                    "into: fill it with a loader first, or look at it with `hydrax cache verify`"
                )
            )

    def _feed(self) -> None:
        while (member := self._crew.least_busy()) is not None:
            chunk = self._schedule.next_chunk()
            if chunk is None:
                return
            try:
                member.send(chunk, self._schedule.estimate(chunk))
            except WorkerGoneError:
                raise
            except Exception as error:  # noqa: BLE001  a descriptor's own pickling may raise anything
                row, cause = self._crew.find_unsendable(chunk, error)
                self._schedule.refuse(chunk, row, cause)

    def _hear(self, member: Member, descriptor: int) -> None:
        try:
            reports = member.worker.reports(descriptor)
        except WorkerGoneError as gone:
            self._replace(member, str(gone))
            return
        for report in reports:
            if isinstance(report, ChunkResult):
                member.done(report)
                self._crew.progress()
                self._schedule.accept(report)
                for notice in report.notices:
                    self._say_once(notice)
            elif isinstance(report, Garbled):
                self._schedule.reject(member.oldest(), report)
            elif isinstance(report, StartFailure):
                trace = f"\n\nIn the worker:\n{report.traceback}"
                text = f"worker {member.worker.number} could not start: {report.cause}{trace}"
                self._handover.fail(WorkerStartError(text))
            else:
                member.ready = True
                if self.first_ready is None:
                    self.first_ready = time.perf_counter()

    def _replace(self, member: Member, how: str) -> None:
        if self._stopping or self._handover.fatal is not None:
            return
        busy = member.busy()
        what = self._schedule.describe(*busy) if busy is not None else None
        doing = "idle" if what is None else f"at item {what[1]} of {what[0]}"
        _logger.warning("worker %d ended: %s; it was %s; it is replaced", member.worker.number, how, doing)
        self._schedule.lose(member.unanswered(), busy, how)
        if not self._crew.replace(member, self._selector, idle=busy is None):
            which = (
                "workers end before they do any work; of the last" if member.worker.replaceable else "a worker ended"
            )
            message = f"{which}: {how}"
            self._handover.fail(WorkerDiedError(message, None, None, None, how))

    def _deliver(self) -> bool:
        """Pass on the batches that are complete; whether there were any."""
        before = len(self._jobs)
        for number, batch in list(self._jobs.items()):
            if isinstance(batch, HostBatch):
                del self._jobs[number]
                self._offer(batch)
            elif batch.complete:
                del self._jobs[number]
                self._settle(batch)
            elif self._settings.deterministic:
                break
        if not self._jobs and self._intake.at_end:
            self.at_end = True
            self._handover.end()
        return len(self._jobs) < before

    def _settle(self, job: BatchJob) -> None:
        error = job.error
        if error is None:
            group = self._groups[job.group]
            arrays = views(self._pool.lease(job.slot), group.layouts)
            self._shelf.keep(job, arrays)
            as_cached = group.stores_itself
            self._offer(
                HostBatch(
                    job.planned,
                    job.group,
                    job.slot,
                    arrays,
                    job.indices,
                    job.seeds,
                    job.additional,
                    cached=as_cached,
                    load_seconds=job.load_seconds,
                )
            )
            return
        self._pool.release(job.slot)
        self.dropped.append(job.planned.number)
        if self._settings.on_error == "skip":
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= self._plan.batches_per_epoch + self._plan.batches_per_validation:
                error.add_note(f"hydrax: {self._skipped_in_a_row} batches in a row were skipped: no item can be loaded")
                self._handover.fail(error)
            self.skipped_batches += 1
            self._say_once(
                f"a batch is skipped, as on_error='skip' asks (later ones are only counted): {error}", key="skip"
            )
            return
        self._handover.offer(error)

    def _offer(self, batch: HostBatch) -> None:
        self._skipped_in_a_row = 0
        self._handover.offer(batch)
        if self.first_complete is None:
            self.first_complete = time.perf_counter()

    def _say_once(self, text: str, key: str | None = None) -> None:
        if (key or text) not in self._said:
            self._said.add(key or text)
            _logger.warning("%s", text)
