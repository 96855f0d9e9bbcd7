"""Plan in, complete host batches out: the thread between the workers and the consumer.

Promise: batches come in the order of the plan (or, if asked, as they become ready); at most ``depth`` are loaded ahead;
a dead worker is replaced and its items are done again; an error of any kind reaches the consumer, who never waits for
something that cannot come. Nothing here polls: the thread sleeps until a worker, the consumer or a lease wakes it.

The consumer's thread only takes from the ``Handover``; everything else belongs to the engine's thread. That is why a KeyboardInterrupt, which Python raises in the main thread, cannot leave the engine half way.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hydrax_core.crew import Crew, Member
from hydrax_core.errors import (
    BatchesHeldError,
    BatchTimeoutError,
    HydraxError,
    WorkerDiedError,
    WorkerStartError,
)
from hydrax_core.handover import Handover
from hydrax_core.jobs import BatchJob, HostBatch, JobGroup
from hydrax_core.layout import views
from hydrax_core.plan import Plan
from hydrax_core.schedule import OnError, Schedule
from hydrax_core.slots import SlotPool
from hydrax_core.waker import Waker
from hydrax_core.workers.messages import ChunkResult, Garbled, StartFailure
from hydrax_core.workers.protocol import Worker, WorkerGoneError

__all__ = ["Engine", "EngineSettings"]

_GRACE_SECONDS = 1.0
"""How long a worker may take to end after its socket closes; ``with`` promises to be left within 2 s."""
_MOST_DROPPED = 4096
_LEASE_POLL_SECONDS = 0.01
_STARVED_SECONDS = 2.0
_logger = logging.getLogger("hydrax")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs; the names are those of ``Dataloader``.

    Attributes:
        first: Number of the first batch, see ``Plan``.
        end: Number of the batch to stop before; ``None`` for none.
        skipped: Numbers not to deliver, as they were handed out before.
        depth: Batches loaded ahead.
        loader_count: Workers.
        deterministic: Whether batches keep the order of the plan.
        on_error: What to do about a failing item.
        batched: Whether the loader takes many items at once, so that it is not known which of them it is at.
        threaded: Whether a thread drives the engine; else the consumer does, in ``wait()``.
    """

    first: int
    end: int | None
    skipped: frozenset[int]
    depth: int
    loader_count: int
    deterministic: bool
    on_error: OnError
    batched: bool
    threaded: bool


class Engine:
    """Loads the batches of a plan.

    Args:
        plan: The plan.
        groups: Training before validation; ``training_groups`` of them are training.
        training_groups: See ``groups``.
        pool: The slots; the engine closes it.
        waker: What the pool wakes when a slot comes free.
        start_worker: Starts a worker of a number.
        settings: See ``EngineSettings``.
    """

    def __init__(
        self,
        plan: Plan,
        groups: Sequence[JobGroup],
        training_groups: int,
        pool: SlotPool,
        waker: Waker,
        start_worker: Callable[[int], Worker],
        settings: EngineSettings,
    ) -> None:
        self._plan = plan
        self._groups = groups
        self._training_groups = training_groups
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
        self._next = settings.first
        self._jobs: dict[int, BatchJob] = {}
        self._handover = Handover(waker.wake)
        self._stopping = False
        self._said: set[str] = set()
        self.skipped_batches = 0
        self.dropped: deque[int] = deque(maxlen=_MOST_DROPPED)
        """Numbers of batches that failed; whoever keeps the position takes them out."""
        self._starved_since: float | None = None
        self.at_end = False
        """Whether the last batch of the run is loaded; ``wait()`` also ends after ``interrupt()`` and ``close()``."""
        self.started = time.perf_counter()
        self.first_ready: float | None = None
        self.first_complete: float | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.RLock()
        _engines.add(self)

    def start(self) -> None:
        """Start the workers and the thread."""
        self._crew.start()
        if self._settings.threaded:
            self._thread = threading.Thread(target=self._run, name="hydrax-engine", daemon=True)
            self._thread.start()

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
            if batch is not None or ended:
                return batch
            if not self._settings.threaded:
                self._turn(block=False)
            elif not handover.await_news(deadline, knock=lambda: self._pool.short):
                raise BatchTimeoutError(f"no batch arrived within {seconds:g} s; {self._crew.report(self._schedule)}")

    def take(self, note: str, holders: Iterable[Any]) -> None:
        """Take the batch that ``wait()`` returned.

        Args:
            note: Where it is handed out, for error texts.
            holders: The objects that are; as long as they live the consumer is said to hold the batch.
        """
        batch = self._handover.take()
        if batch.slot is not None:
            self._pool.annotate(batch.slot, note, holders)

    @property
    def filling_slots(self) -> frozenset[int]:
        """Slots of batches being loaded."""
        return frozenset(job.slot for job in list(self._jobs.values()))

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
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(_GRACE_SECONDS)
            self._crew.close(_GRACE_SECONDS)
            self.at_end = False  # what is dropped here was not handed out
            self._selector.close()
            self._waker.close()
            self._handover.clear()
            self._jobs.clear()
            self.interrupt()
            self._pool.close()
            _engines.discard(self)

    def interrupt(self) -> None:
        """Let ``wait()`` return ``None`` after what is ready; safe in threads and signal handlers."""
        self._handover.end()

    def _run(self) -> None:
        try:
            while not self._stopping and self._handover.fatal is None:
                self._turn(block=True)
        except BaseException as error:  # the consumer must hear of a defect of ours, too, and of sys.exit() in the data
            if not self._stopping:
                _logger.exception("the engine failed")
                self._handover.fail(error)

    def _turn(self, *, block: bool) -> None:
        """Hand out work, wait for something to happen, take in what came."""
        settled = False
        if self._handover.fatal is None:
            self._admit()
            self._feed()
            settled = self._deliver()  # a batch whose items cannot even be sent is done already
        self._crew.watch(self._selector)
        self._handover.sleeping(hungry=not self._schedule.has_uncut)
        for key, _ in self._selector.select(self._patience() if block and not settled else 0):
            if key.data is None:
                self._waker.clear()
            elif key.fd in key.data.watched:  # not one that was replaced a moment ago
                self._hear(key.data, key.fd)
        for member in self._crew.members:
            if not member.worker.descriptors:
                self._hear(member, -1)
        self._deliver()

    def _patience(self) -> float | None:
        """How long to sleep at most: for ever, but where only jaxlib, which rings no bell, can free a slot."""
        stuck = self._pool.short and self._handover.waiting and not self._jobs
        return _LEASE_POLL_SECONDS if stuck else None

    def _admit(self) -> None:
        settings = self._settings
        while len(self._jobs) + len(self._handover) < settings.depth:  # errors count, or a failing run would race ahead
            if settings.end is not None and self._next >= settings.end:
                return
            if self._next in settings.skipped:
                self._next += 1
                continue
            slot = self._pool.acquire(settings.depth + 2)
            if slot is None:
                self._out_of_slots()
                return
            self._warn_if_hoarding()
            planned = self._plan.batch(self._next)
            group = planned.address.group_index
            if planned.address.kind == "validation":
                group += self._training_groups
            job = BatchJob(planned, group, slot, list(planned.content.indices), planned.content.seeds)
            if len(job.indices) < self._groups[group].batch_size:
                self._clear_padding(job)
            self._jobs[self._next] = job
            self._schedule.add(job)
            self._next += 1

    def _clear_padding(self, job: BatchJob) -> None:
        mapping, offset = self._pool.memory.locate(job.slot)
        block = memoryview(mapping)[offset : offset + self._pool.memory.stride]
        for array in views(block, self._groups[job.group].layouts).values():
            array[len(job.indices) :] = 0

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
        for number, job in list(self._jobs.items()):
            if job.complete:
                del self._jobs[number]
                self._settle(job)
            elif self._settings.deterministic:
                break
        if not self._jobs and self._settings.end is not None and self._next >= self._settings.end:
            self.at_end = True
            self._handover.end()
        return len(self._jobs) < before

    def _settle(self, job: BatchJob) -> None:
        error = job.error
        if error is None:
            self._handover.offer(self._host_batch(job))
            if self.first_complete is None:
                self.first_complete = time.perf_counter()
            return
        self._pool.release(job.slot)
        self.dropped.append(job.planned.number)
        if self._settings.on_error == "skip":
            self.skipped_batches += 1
            self._say_once(
                f"a batch is skipped, as on_error='skip' asks (later ones are only counted): {error}", key="skip"
            )
            return
        self._handover.offer(error)

    def _host_batch(self, job: BatchJob) -> HostBatch:
        root = self._pool.lease(job.slot)
        arrays = views(root, self._groups[job.group].layouts)
        return HostBatch(job.planned, job.group, job.slot, arrays, job.indices, job.seeds, job.additional, cached=False)

    def _out_of_slots(self) -> None:
        """No slot is left: wait for a lease to end, and tell a consumer who waits for a batch that cannot come."""
        waiting = self._handover.waiting or not self._settings.threaded
        if not waiting or self._jobs or self._handover:
            self._starved_since = None
            return
        now = time.monotonic()
        self._starved_since = self._starved_since or now
        # Arrays that only computations in flight still need come free by themselves; NumPy views of them may not.
        if len(self._pool.held()) < self._pool.limit and now - self._starved_since < _STARVED_SECONDS:
            return
        gc.collect()  # batches in reference cycles are held by nobody
        notes = self._pool.notes()
        self._handover.offer(
            BatchesHeldError(
                f"{len(notes)} batches are held, as many as max_held allows, so no memory is left for the next; they "
                f"were handed out: {_places(notes)}. Drop the arrays (or call batch.close()), or raise max_held"
            )
        )

    def _warn_if_hoarding(self) -> None:
        depth = self._settings.depth
        if self._pool.count <= 2 * depth + 1 or "held" in self._said:
            return
        notes = self._pool.held()
        if len(notes) > depth + 1:  # the one that the consumer works on is none too many
            self._say_once(
                f"{len(notes)} batches are held, more than depth={depth}: the loader takes more memory for new ones and "
                f"gives it back later; they were handed out: {_places(notes)}",
                key="held",
            )

    def _say_once(self, text: str, key: str | None = None) -> None:
        if (key or text) not in self._said:
            self._said.add(key or text)
            _logger.warning("%s", text)


def _places(notes: Sequence[str]) -> str:
    return "; ".join(f"{count} at {place}" for place, count in Counter(notes).items())


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Engines that run, so that a fork's child lets go of their workers."""


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine.crew.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
