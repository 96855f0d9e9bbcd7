"""Worker threads: for loaders that release the GIL, and for free-threaded Python.

Promise: the same batches as from processes, bit for bit. What it refuses: a thread cannot be killed, so a loader that
never returns keeps its thread until the interpreter ends.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from hydrax_core.data import function
from hydrax_core.engine.workers.protocol import Report, WorkerGoneError
from hydrax_core.engine.workers.runner import ChunkRunner
from hydrax_core.engine.workers.wire import Chunk, Ready, StartFailure

__all__ = ["ThreadWorker"]

_logger = logging.getLogger("hydrax")


class ThreadWorker:
    """One worker thread; see ``Worker`` for the members."""

    replaceable = False
    pid = None

    def __init__(self, number: int, runner: ChunkRunner, status: memoryview, startup: Callable[[], Any] | None) -> None:
        self.number = number
        self.status = status
        self._runner = runner
        self._startup = startup
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._reports: deque[Report] = deque()
        self._end = ""
        self._event, self._notify = socket.socketpair()
        self._event.setblocking(False)
        self._notify.setblocking(False)
        self.descriptors: tuple[int, ...] = (self._event.fileno(),)
        self._thread = threading.Thread(target=self._run, name=f"hydrax-worker-{number}", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int | None:
        """Nothing: a queue takes everything at once."""
        return None

    def send(self, chunk: Chunk) -> None:
        """Hand over a chunk."""
        self._chunks.put(chunk)

    def flush(self) -> None:
        """Nothing is ever left to send."""

    def reports(self, descriptor: int = -1) -> list[Report]:  # noqa: ARG002  one bell, one descriptor
        """What the thread has said since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._event.recv(4096)
        found: list[Report] = []
        while self._reports:
            found.append(self._reports.popleft())
        if self._end and not found:
            raise WorkerGoneError(self._end)
        return found

    def stop(self) -> None:
        """Let the thread end after the chunk in work."""
        self._chunks.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the end, at most ``seconds``."""
        self.stop()
        self._thread.join(seconds)
        if self._thread.is_alive():
            _logger.warning("a worker thread is still busy with an item and cannot be stopped; it is left behind")
        self.abandon()

    def abandon(self) -> None:
        """Close the bell; the thread closes its end of it, whenever it ends."""
        self._event.close()
        if not self._thread.is_alive():
            self._notify.close()

    def _run(self) -> None:
        with self._notify:
            self._serve()

    def _serve(self) -> None:
        function.local.active = True
        try:
            if self._startup is not None:
                self._startup()
        except BaseException as error:  # noqa: BLE001  whatever ends the start is told to the engine
            cause = "".join(traceback.format_exception_only(error)).strip()
            self._report(StartFailure(cause, traceback.format_exc().rstrip()))
            return
        self._report(Ready(0))
        try:
            while (chunk := self._chunks.get()) is not None:
                self._report(self._runner.run(chunk))
        except BaseException as error:
            _logger.exception("a worker thread ended")
            self._end = "".join(traceback.format_exception_only(error)).strip()
            self._wake()

    def _report(self, report: Report) -> None:
        self._reports.append(report)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full bell rings already; a closed one has nobody to hear it
            self._notify.send(b"\0")
