"""The caller itself as the worker: for debuggers, and for tests without processes.

Promise: the same batches as from processes, bit for bit. The loader runs inside ``next()``, in the caller's thread.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from hydrax_core.engine.workers.protocol import Report
from hydrax_core.engine.workers.runner import ChunkRunner
from hydrax_core.engine.workers.wire import Chunk, Ready, StartFailure

__all__ = ["InlineWorker"]


class InlineWorker:
    """The caller; see ``Worker`` for the members."""

    replaceable = False
    pid = None
    descriptors: tuple[int, ...] = ()

    def __init__(self, number: int, runner: ChunkRunner, status: memoryview, startup: Callable[[], Any] | None) -> None:
        self.number = number
        self.status = status
        self._runner = runner
        self._reports: list[Report] = []
        self._chunks: deque[Chunk] = deque()
        try:
            if startup is not None:
                startup()
        except Exception as error:  # noqa: BLE001  told through the engine, as for any worker
            cause = "".join(traceback.format_exception_only(error)).strip()
            self._reports.append(StartFailure(cause, traceback.format_exc().rstrip()))
        else:
            self._reports.append(Ready(0))

    @property
    def unsent(self) -> int | None:
        """Nothing: a chunk is taken at once."""
        return None

    def send(self, chunk: Chunk) -> None:
        """Take a chunk; it is loaded by the next ``reports()``."""
        self._chunks.append(chunk)

    def flush(self) -> None:
        """Nothing is ever left to send."""

    def reports(self, descriptor: int = -1) -> list[Report]:  # noqa: ARG002  it has no descriptor
        """Load what was handed over; a chunk that Ctrl-C interrupts is loaded again by the next call."""
        while self._chunks:
            self._reports.append(self._runner.run(self._chunks[0]))
            self._chunks.popleft()
        found, self._reports = self._reports, []
        return found

    def stop(self) -> None:
        """Nothing runs."""

    def join(self, seconds: float) -> None:
        """Nothing runs."""

    def abandon(self) -> None:
        """Nothing runs."""
