"""Workers in this process: the caller itself, and threads.

The first is for debuggers and for tests without processes, the second for loaders that release the interpreter's lock
and for free-threaded Python.

Promise: the same batches as from processes, bit for bit. What it refuses: a thread cannot be killed, so a loader that
never returns keeps its thread until the interpreter ends.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from hydrax_core.data import function
from hydrax_core.engine.workers.protocol import Report, WorkerGoneError
from hydrax_core.engine.workers.runner import ChunkRunner
from hydrax_core.engine.workers.wire import NO_SIGNAL, Chunk, Ready, StartFailure
from hydrax_core.errors import error_texts

__all__ = ["InlineWorker", "ThreadWorker"]

_logger = logging.getLogger("hydrax")


class _LocalWorker:
    """What both have in common; see ``Worker`` for the members."""

    replaceable = False
    ending = False
    pid: int | None = None
    unsent: int | None = None
    """A chunk is taken at once."""

    descriptors: tuple[int, ...] = ()

    def __init__(self, number: int, runner: ChunkRunner, status: memoryview, startup: Callable[[], Any] | None) -> None:
        self.number = number
        self.status = status
        self._runner = runner
        self._startup = startup
        self._found: deque[Report] = deque()

    def flush(self) -> None: ...

    def stop(self) -> None: ...

    def join(self, seconds: float) -> None: ...

    def abandon(self) -> None: ...

    def _started(self) -> bool:
        try:
            if self._startup is not None:
                self._startup()
        except BaseException as error:
            if not (isinstance(error, Exception) or function.is_worker()):
                raise  # Ctrl-C, and what else ends a program, where the caller is the worker
            self._found.append(StartFailure(*error_texts(error)))
            return False
        self._found.append(Ready(0))
        return True

    def _take(self) -> list[Report]:
        taken: list[Report] = []
        while self._found:
            taken.append(self._found.popleft())
        return taken


class InlineWorker(_LocalWorker):
    """The caller: the loader runs inside ``next()``, in the caller's thread."""

    def __init__(self, number: int, runner: ChunkRunner, status: memoryview, startup: Callable[[], Any] | None) -> None:
        super().__init__(number, runner, status, startup)
        self._chunks: deque[Chunk] = deque()
        self._started()

    def send(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def reports(self, descriptor: int = -1) -> list[Report]:  # noqa: ARG002  it has no descriptor
        """Load what was handed over; a chunk that Ctrl-C interrupts is loaded again by the next call."""
        while self._chunks:
            self._found.append(self._runner.run(self._chunks[0]))
            self._chunks.popleft()
        return self._take()


class ThreadWorker(_LocalWorker):
    """A worker thread; ``context`` gives it its context variables, NumPy's and decimal's settings among them."""

    def __init__(
        self,
        number: int,
        runner: ChunkRunner,
        status: memoryview,
        startup: Callable[[], Any] | None,
        context: contextvars.Context,
    ) -> None:
        super().__init__(number, runner, status, startup)
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._end = ""
        self._event, self._notify = socket.socketpair()
        self._event.setblocking(False)
        self._notify.setblocking(False)
        self.descriptors = (self._event.fileno(),)
        name = f"hydrax-worker-{number}"
        self._thread = threading.Thread(target=context.copy().run, args=(self._run,), name=name, daemon=True)
        self._thread.start()

    def send(self, chunk: Chunk) -> None:
        self._chunks.put(chunk)

    def reports(self, descriptor: int = -1) -> list[Report]:  # noqa: ARG002  it has one descriptor
        with contextlib.suppress(BlockingIOError):
            self._event.recv(4096)
        found = self._take()
        if self._end and not found:
            raise WorkerGoneError(self._end)
        return found

    def stop(self) -> None:
        self._chunks.put(None)

    def join(self, seconds: float) -> None:
        self.stop()
        self._thread.join(seconds)
        if self._thread.is_alive():
            _logger.warning("a worker thread is still busy with an item and cannot be stopped; it is left behind")
        self.abandon()

    def abandon(self) -> None:
        """Close one end of the notification; the thread closes its own, whenever it ends."""
        self._event.close()
        if not self._thread.is_alive():
            self._notify.close()

    def _run(self) -> None:
        function.local.active = True
        with self._notify:
            try:
                started = self._started()
                self._wake()
                while started and (chunk := self._chunks.get()) is not None:
                    self._found.append(self._runner.run(chunk))
                    self._wake()
            except BaseException as error:
                _logger.exception("a worker thread ended")
                self._end = error_texts(error)[0]
                self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # where it is full, it is readable; where it is closed, no engine waits
            self._notify.send(b"\0", NO_SIGNAL)
