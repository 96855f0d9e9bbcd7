"""A loader that the app itself runs; with ``sampling.py``, which copies from batches, all that touches the core.

Promise: one thread takes the batches, so that a slow loader, an import or a hanging item never holds up a key. The app
asks for frames and gets frozen values. Jumping, pausing and closing interrupt a wait. ``close()`` ends every worker.

Any batch that was seen can be looked at again, without keeping it: a batch is a function of its place in the run.
"""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from click import ClickException

from hydrax_cli.inspect.run_view import Fault, Frame, Subject
from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.text import clean, clean_lines
from hydrax_core.errors import (
    BatchAddress,
    BatchesHeldError,
    BatchTimeoutError,
    HydraxError,
    LoaderError,
    WorkerDiedError,
)
from hydrax_core.monitor import BatchRecord, device_of, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrax_cli.inspect.feeds.capture import LogBuffer
    from hydrax_cli.inspect.run_view import Attaching, BatchView, Controls, RunState
    from hydrax_core import Batch, Dataloader

__all__ = ["LoaderFeed", "Opened"]

_MOST_RECORDS = 500
_PREVIEW_SECONDS = 0.4
_STUCK_SECONDS = 1.0
"""Waiting longer than this for a batch shows as starved, whatever the speed."""
_JOIN_SECONDS = 3.0
_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A target that was found.

    Attributes:
        name: Its name for people.
        command: ``hydrax run`` with the arguments that decide its batches.
        loader: The loader, not started.
        check: Whether its loader function is somebody's own, in which mistakes are looked for.
    """

    name: str
    command: str
    loader: Dataloader[Any]
    check: bool = False


class LoaderFeed:
    """Runs a loader; see ``Feed`` and ``Controls`` for the members.

    Args:
        open_target: Finds the loader; called in the feed's thread, and again after ``reopen()``.
        log: Gets what the feed has to say, and gives the lines of every frame.
        step_seconds: A training step to pretend after each batch.
        limit: Most batches a second.
    """

    def __init__(
        self,
        open_target: Callable[[], Opened],
        log: LogBuffer,
        *,
        step_seconds: float = 0.0,
        limit: float | None = None,
        playing: bool = True,
    ) -> None:
        self.controls: Controls | None = self
        self.attaching: Attaching | None = None
        self._open_target = open_target
        self._log = log
        self._step_seconds = step_seconds
        self._limit = limit
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inspect-feed", daemon=True)
        self._opening = threading.Lock()
        # Orders, under _wake.
        self._playing = playing
        self._steps = 0
        self._jump: tuple[int, int] | None = None
        self._reopen = True
        self._closing = False
        # What is known, written by the feed's thread alone.
        self._loader: Dataloader[Any] | None = None
        self._subject: Subject | None = None
        self._device = ""
        self._fault: Fault | None = None
        self._ended = False
        self._unchecked = False
        self._hand: tuple[Batch[Any], BatchRecord] | None = None
        self._current: BatchRecord | None = None
        self._serial = 0
        self._records: deque[BatchRecord] = deque(maxlen=_MOST_RECORDS)
        self._waiting_since: float | None = None
        self._due = 0.0
        self._paused_since: float | None = None if playing else time.perf_counter()
        self._paused = 0.0
        self._preview: BatchView | None = None
        self._preview_wanted = False
        self._preview_at = 0.0

    # --- orders, from any thread

    def start(self) -> None:
        self._thread.start()

    def play(self) -> None:
        """Go on, at the start where the run has ended, behind the error where it has failed."""
        with self._wake:
            self._playing = True
            if self._ended and self._jump is None:
                self._jump = divmod(self._first_batch(), self._per_epoch())
            elif self._fault is not None and self._fault.fatal and self._loader is not None:
                self._jump = self._jump or self._place()
            self._wake.notify_all()

    def pause(self) -> None:
        with self._wake:
            self._playing = False
            self._steps = 0
            self._wake.notify_all()

    def step(self) -> None:
        with self._wake:
            self._playing = False
            self._steps += 1
            self._due = 0.0
            self._wake.notify_all()

    def jump(self, epoch: int, batch: int) -> None:
        with self._wake:
            self._jump = (epoch, batch)
            self._steps = 0 if self._playing else 1
            self._interrupt()
            self._wake.notify_all()

    def set_limit(self, per_second: float | None) -> None:
        with self._wake:
            self._limit = per_second
            self._due = 0.0
            self._wake.notify_all()

    def reopen(self) -> None:
        with self._wake:
            self._reopen = True
            self._interrupt()
            self._wake.notify_all()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._interrupt()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        self._hand = None
        if self._loader is not None:
            self._loader.close()

    def _interrupt(self) -> None:
        if self._loader is not None:
            self._loader.interrupt()

    # --- what the app sees

    def frame(self) -> Frame:
        records = []
        while self._records:
            records.append(self._records.popleft())
        lines, missed = self._log.drain()
        loader, waiting_since = self._loader, self._waiting_since
        now = time.perf_counter()
        waiting = 0.0 if waiting_since is None else now - waiting_since
        stats = None if loader is None else loader.stats()
        started = stats is not None and stats.first_batch is not None
        paused_since = self._paused_since
        return Frame(
            state=self._state(waiting, started=started),
            detail="a batch is on its way" if waiting_since is not None and not self._playing and started else "",
            subject=self._subject,
            device=self._device,
            stats=stats,
            current=self._current,
            records=tuple(records),
            lines=lines,
            missed_lines=missed,
            waiting_seconds=waiting,
            paused_seconds=self._paused + (0.0 if paused_since is None else now - paused_since),
            limit=self._limit,
            fault=self._fault,
        )

    def _state(self, waiting: float, *, started: bool) -> RunState:
        if self._fault is not None:
            return "failed"
        if self._loader is None:
            return "opening"
        if self._ended:
            return "done"
        if waiting and not started:
            return "starting"
        if waiting > _STUCK_SECONDS:
            return "starved"
        return "running" if self._playing else "paused"

    def preview(self) -> BatchView | None:
        self._preview_wanted = True
        if self._paused_since is not None:
            with self._wake:
                self._wake.notify_all()
        return self._preview

    def has(self, record: BatchRecord) -> bool:
        """Whether that batch can be shown: any can be loaded again, but for one that failed."""
        return not record.error

    def open(self, record: BatchRecord) -> BatchView:
        """A batch with all that is in it: the one in hand, or the same one loaded again."""
        from hydrax_cli.inspect.feeds import sampling  # noqa: PLC0415  NumPy comes with it

        loader, subject, hand = self._loader, self._subject, self._hand
        if loader is None or subject is None:
            raise LookupError("the target is not open")
        if hand is not None and hand[1].serial == record.serial:
            return sampling.view(hand[0], record, subject, source="the batch in hand")
        with self._opening:
            return sampling.load_again(loader, record, subject)

    # --- the thread

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001  the user's code, or a defect: it is shown, the thread lives
                self._fail(error)
        self._hand = None
        if self._loader is not None:
            self._loader.close()

    def _next_task(self) -> Callable[[], None] | None:
        """What to do now; waits while there is nothing to do."""
        with self._wake:
            while True:
                task, seconds = self._choose()
                if task is not None or self._closing:
                    self._mark_paused(paused=task is None)
                    return None if self._closing else task
                self._mark_paused(paused=seconds is None)
                self._wake.wait(seconds)

    def _choose(self) -> tuple[Callable[[], None] | None, float | None]:
        """What to do now, else how long to wait; ``None`` for until something changes."""
        if self._reopen:
            return self._open, None
        if self._loader is None:
            return None, None
        if self._jump is not None:
            return self._move, None
        if self._preview_wanted and self._preview_is_due():
            return self._sample, None
        stopped = self._ended or (self._fault is not None and self._fault.fatal)
        if stopped or not (self._playing or self._steps):
            return None, None
        rest = self._due - time.perf_counter()
        return (None, rest) if rest > 0 else (self._take, None)

    def _mark_paused(self, *, paused: bool) -> None:
        now = time.perf_counter()
        if paused and self._paused_since is None:
            self._paused_since = now
            gc.collect(0)  # jax lets go of the batches before this one at its next call, which may be long in coming
        elif not paused and self._paused_since is not None:
            self._paused += now - self._paused_since
            self._paused_since = None

    def _open(self) -> None:
        self._reopen = False
        self._hand = None
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()
        self._fault = None
        self._ended = False
        try:
            opened = self._open_target()
        except Exception as error:  # noqa: BLE001  a target is anybody's code; whatever it raises is shown
            self._fault = _open_fault(error)
            self._log.add("inspect", "error", self._fault.title)
            return
        has_step = self._step_seconds > 0
        self._subject = Subject(opened.name, opened.command, plan_of(opened.loader), has_step)
        self._loader = opened.loader
        self._unchecked = opened.check

    def _move(self) -> None:
        loader = self._loader
        assert loader is not None
        with self._wake:
            place, self._jump = self._jump, None
        assert place is not None
        self._hand = None
        loader.close()
        changes: dict[str, Any] = {"start_at": place}
        if loader.last_batch is not None and place[0] * self._per_epoch() + place[1] >= loader.last_batch:
            changes["end_at"] = None
            self._log.add(
                "inspect", "info", f"{place[0]}:{place[1]} is past the end of the run: it goes on without one"
            )
        self._fault = None
        self._ended = False
        self._due = 0.0
        self._loader = loader.replace(**changes)
        with self._wake:
            if self._jump is not None or self._reopen or self._closing:
                self._loader.interrupt()

    def _take(self) -> None:
        loader = self._loader
        assert loader is not None
        self._fault = None
        started = self._waiting_since = time.perf_counter()
        try:
            batch = next(loader)
            for array in batch.arrays.values():
                array.block_until_ready()
        except StopIteration:
            self._ended = not loader.interrupted
            return
        finally:
            self._waiting_since = None
            self._steps = max(0, self._steps - 1)
        now = time.perf_counter()
        self._keep(batch, now - started)
        if self._unchecked:
            self._check(loader)
            now = time.perf_counter()
        paced = self._due + 1 / self._limit if self._limit else 0.0
        self._due = max(now + self._step_seconds, paced)
        if self._preview_wanted and now - self._preview_at > _PREVIEW_SECONDS:
            self._sample()

    def _check(self, loader: Dataloader[Any]) -> None:
        """Look for mistakes of the loader function, once, while its first batch is shown."""
        from hydrax_core.testing import check_run  # noqa: PLC0415  NumPy comes with it

        self._unchecked = False
        for finding in check_run(loader, seconds=_CHECK_SECONDS):
            self._log.add("inspect", "warning", finding)

    def _keep(self, batch: Batch[Any], wait_seconds: float) -> None:
        from hydrax_cli.inspect.feeds import sampling  # noqa: PLC0415  NumPy comes with it

        self._serial += 1
        self._current = sampling.record_of(batch, self._serial, wait_seconds)
        self._records.append(self._current)
        self._hand = batch, self._current
        self._device = self._device or device_of(batch)

    def _sample(self) -> None:
        from hydrax_cli.inspect.feeds import sampling  # noqa: PLC0415  NumPy comes with it

        hand, subject = self._hand, self._subject
        if hand is None or subject is None:
            return
        self._preview_wanted = False
        self._preview_at = time.perf_counter()
        self._preview = sampling.glance(*hand, subject)

    def _preview_is_due(self) -> bool:
        shown, hand = self._preview, self._hand
        return hand is not None and (shown is None or shown.record.serial != hand[1].serial)

    def _fail(self, error: BaseException) -> None:
        fault, address = _batch_fault(error)
        with self._wake:
            self._playing = False
            self._steps = 0
        self._fault = fault
        self._hand = None  # a preview of it would fail again
        self._log.add("hydrax" if address is None else "loader", "error", fault.text)
        if address is not None:
            self._serial += 1
            self._current = BatchRecord.at(address, self._serial, error=fault.text)
            self._records.append(self._current)

    def _first_batch(self) -> int:
        return self._subject.plan.first_batch if self._subject is not None else 0

    def _per_epoch(self) -> int:
        return self._subject.plan.batches_per_epoch if self._subject is not None else 1

    def _place(self) -> tuple[int, int]:
        """Epoch and batch behind the last one handed out."""
        if self._current is None or self._subject is None:
            return divmod(self._first_batch(), self._per_epoch())
        epoch, batch = self._subject.plan.start_of(self._current)
        return divmod(epoch * self._per_epoch() + batch + 1, self._per_epoch())


def _open_fault(error: Exception) -> Fault:
    if isinstance(error, ClickException):
        return Fault(_first_line(error.message), error.message, fatal=True, usage=error.exit_code != 1)
    text = clean_lines(str(error) if isinstance(error, TargetError) else "".join(traceback.format_exception(error)))
    return Fault(_first_line(text), text, fatal=True)


def _batch_fault(error: BaseException) -> tuple[Fault, BatchAddress | None]:
    """A batch that did not come, and which one it was; the fault is fatal where no later one will come either."""
    address = error.address if isinstance(error, LoaderError | WorkerDiedError) else None
    goes_on = address is not None or isinstance(error, BatchTimeoutError | BatchesHeldError)
    said = str(error)
    text = clean_lines(said if isinstance(error, HydraxError) else "".join(traceback.format_exception(error)))
    return Fault(_first_line(said) or type(error).__name__, text, fatal=not goes_on), address


def _first_line(text: str) -> str:
    return clean(text.partition("\n")[0])
