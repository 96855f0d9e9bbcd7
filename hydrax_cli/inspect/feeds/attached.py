"""Runs of other processes, watched through their sockets; nothing of them is driven from here.

Promise: neither jax nor the run's own code is imported. One thread talks to the run, so that a run that is stopped, or
dies in the middle of a word, holds up no key. What happened to it becomes a frame; it is not looked for again but at
the user's wish.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING

from hydrax_cli.inspect.feeds.conversation import Conversation
from hydrax_cli.inspect.feeds.live import choice_of, gone_fault
from hydrax_cli.inspect.run_view import Frame
from hydrax_core.monitor import Run, find_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_cli.inspect.feeds.capture import LogBuffer
    from hydrax_cli.inspect.run_view import Attaching, BatchView, Controls, Fault, RunChoice, RunState
    from hydrax_core.monitor import BatchRecord

__all__ = ["AttachedFeed"]

_SILENT_SECONDS = 3.0
_STUCK_SECONDS = 1.0
"""Waiting longer than this for a batch shows as starved."""
_BATCH_SECONDS = 6.0
"""Longest wait for the next batch of a run."""
_JOIN_SECONDS = 2.0
_DEATH_SECONDS = 0.5
_LOOK_SECONDS = 0.02


class AttachedFeed:
    """Watches a run; see ``Feed`` and ``Attaching`` for the members.

    Args:
        log: Gets what the run and the feed have to say, and gives the lines of every frame.
    """

    def __init__(self, runs: Sequence[Run], log: LogBuffer) -> None:
        self.controls: Controls | None = None
        self.attaching: Attaching | None = self
        self._log = log
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="inspect-attached", daemon=True)
        # Orders: each is one assignment, made before the thread is woken.
        self._closing = False
        self._looking = False
        self._chosen: Run | None = runs[0] if len(runs) == 1 else None
        self._offered: tuple[Run, ...] = tuple(runs) if self._chosen is None else ()
        # What is known, written by the thread alone.
        self._watched: Run | None = None
        self._talk: Conversation | None = None
        self._fault: Fault | None = None
        self._last_serial = 0
        """Serial of the last record of the runs before."""
        self._between = 0.0
        """Seconds put in between two runs, so that nothing is measured from one to the other."""

    # --- orders, from any thread

    def start(self) -> None:
        self._thread.start()

    def look_again(self) -> None:
        self._looking = True
        self._wake()

    def choose(self, choice: RunChoice | None) -> None:
        offered, self._offered = self._offered, ()
        if choice is not None:
            self._chosen = next((run for run in offered if str(run.path) == choice.path), None)
        self._wake()

    def close(self) -> None:
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():
            self._bell.close()
            self._ring.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full socket is readable already; a closed one has no reader
            self._ring.send(b"\0")

    # --- what the app sees

    def frame(self) -> Frame:
        talk = self._talk
        records: list[BatchRecord] = []
        while talk is not None and talk.records:
            records.append(talk.records.popleft())
        lines, missed = self._log.drain()
        moment = None if talk is None else talk.moment
        fault = self._fault or (None if talk is None else talk.fault)
        state, detail = self._state(talk, fault)
        return Frame(
            state=state,
            detail=detail,
            subject=None if talk is None or talk.translation is None else talk.translation.subject,
            device="" if moment is None else moment.device,
            stats=None if moment is None else moment.stats,
            current=None if talk is None else talk.current,
            records=tuple(records),
            lines=lines,
            missed_lines=missed,
            waiting_seconds=0.0 if moment is None or state == "done" else moment.waiting_seconds,
            paused_seconds=self._between,
            fault=fault,
            choices=tuple(map(choice_of, self._offered)),
        )

    def _state(self, talk: Conversation | None, fault: Fault | None) -> tuple[RunState, str]:
        if fault is not None:
            return "failed", ""
        if talk is None:
            return "opening", "no run is chosen" if self._watched is None else "attaching …"
        moment = talk.moment
        if (silent := talk.silent_for()) > _SILENT_SECONDS:
            return "silent", f"no answer for {silent:.0f} s"
        state: RunState = "starved" if moment is not None and moment.waiting_seconds > _STUCK_SECONDS else "running"
        if moment is None:
            state = "opening"
        elif talk.over or moment.ended:
            state = "done"
        elif moment.stats.first_batch is None:
            state = "starting"
        return state, "" if moment is not None else "attaching …"

    def preview(self) -> BatchView | None:
        talk = self._talk
        if talk is None:
            return None
        talk.want_sample()
        return talk.latest

    def has(self, record: BatchRecord) -> bool:
        talk = self._talk
        return talk is not None and talk.has(record.serial)

    def open(self, record: BatchRecord) -> BatchView:
        """The rows that came of a batch; for the newest, the next one handed out, whole."""
        talk = self._talk
        if talk is None or talk.translation is None:
            raise LookupError("no run is watched")
        kept = talk.kept(record.serial)
        fresh = talk.is_fresh(record.serial)
        newest = talk.current is not None and record.serial == talk.current.serial
        if kept is not None and (kept[0].rows >= record.size or not newest):
            return talk.translation.view(*kept)
        why = "Batches of a live run are sampled, and nothing of this one was copied."
        if talk.silent_for() > _SILENT_SECONDS:
            why = "The run does not answer now."
        elif fresh and not talk.over:
            whole = talk.next_batch(_BATCH_SECONDS)
            if not isinstance(whole, str):
                return talk.translation.view(*whole)
            why = whole
        if kept is not None:
            return talk.translation.view(*kept)
        command = talk.translation.subject.command_for(record)
        raise LookupError(f"{why} This loads it again, TARGET being what makes the loader:\n{command}")

    # --- the thread

    def _run(self) -> None:
        while not self._closing:
            if self._looking:
                self._look()
            run, self._chosen = self._chosen, None
            if run is None:
                select.select([self._bell], [], [])
                self._hear_bell()
                continue
            try:
                self._watch(run)
            except ConnectionError as error:
                self._fault = gone_fault(run, _how_it_went(run, str(error)))
            except Exception as error:  # noqa: BLE001  a defect of ours is shown, too: the thread must not just be gone
                self._fault = gone_fault(run, "".join(traceback.format_exception(error)))
            if self._fault is not None:
                self._log.add("hydrax", "error", self._fault.title)

    def _look(self) -> None:
        """Find the run that was watched, another of its name, or all there are to choose from."""
        self._looking = False
        before, runs = self._watched, find_runs()
        if self._is_on():
            runs = [run for run in runs if before is None or run.path != before.path]
            if not runs:
                self._log.add("inspect", "info", "there is no other run to watch")
            self._offered = tuple(runs)
            return
        same = [run for run in runs if before is not None and run.name == before.name]
        if not runs:
            self._log.add("inspect", "error", "no run is there to watch")
        elif len(same) == 1 or len(runs) == 1:
            self._chosen = (same or runs)[0]
        else:
            self._offered = tuple(runs)

    def _is_on(self) -> bool:
        return self._talk is not None and not self._talk.over

    def _watch(self, run: Run) -> None:
        """Talk to a run until it ends or another is chosen."""
        before = self._talk
        if before is not None and before.current is not None:
            self._last_serial = before.current.serial
        self._watched, self._talk, self._fault = run, None, None
        self._between += 1.0
        talk = Conversation(run, self._last_serial, self._log)
        self._talk = talk
        with contextlib.closing(talk), selectors.DefaultSelector() as selector:
            selector.register(talk, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while not (self._closing or self._chosen or talk.over):
                if self._looking:
                    self._look()
                for key, _ in selector.select(talk.ask(time.monotonic())):
                    if key.fileobj is self._bell:
                        self._hear_bell()
                    else:
                        talk.hear()

    def _hear_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)


def _how_it_went(run: Run, how: str) -> str:
    """What became of a run whose connection was cut."""
    return "its process has ended without a word: it was killed, or crashed" if _ends(run.pid) else how


def _ends(pid: int) -> bool:
    """Whether a process is gone, or will be in a moment."""
    try:
        with os.fdopen(os.pidfd_open(pid)) as process:
            return bool(select.select([process], [], [], _DEATH_SECONDS)[0])
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # another system than Linux, or an older one
        end = time.monotonic() + _DEATH_SECONDS
        while time.monotonic() < end:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                return False
            time.sleep(_LOOK_SECONDS)
        return False
