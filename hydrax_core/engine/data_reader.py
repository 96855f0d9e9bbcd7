"""The thread that reads data which only the main process has: ``data[i]`` of the user's own sequences.

Promise: the engine's thread runs no code of the user's data. Every row asked for comes back once, with its item or with
what went wrong. Without a thread (``loader_kind="inline"``) rows are read in the caller's, when they are asked for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hydrax_core.data.read_lock import GuardedData
from hydrax_core.engine.jobs import JobRows
from hydrax_core.errors import error_texts

__all__ = ["DataReader", "UnreadableRow"]

_PIECE_SECONDS = 0.002
"""After so much reading, what was read goes to the workers: it is worth a chunk."""
_PAUSE_SECONDS = 0.0005
"""For another thread to get hold of the data's lock."""
_SLOW_SECONDS = 0.0005
"""Reading an item for longer than this is mentioned where a batch is late."""


class UnreadableRow(NamedTuple):
    rows: JobRows
    cause: str
    traceback: str


class _Request(NamedTuple):
    rows: JobRows
    data: Sequence[Any]
    indices: Sequence[int]
    whole: bool


class DataReader:
    """Reads rows of batches, one after the other.

    Args:
        wake: Wakes the engine when something was read.
        threaded: Whether there is a thread for it.
    """

    def __init__(self, wake: Callable[[], None], *, threaded: bool) -> None:
        self._wake = wake
        self._threaded = threaded
        self._requests: deque[_Request] = deque()
        self._event: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._found: deque[JobRows | UnreadableRow] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._current: tuple[int, str, float] | None = None
        """Index of the item in work, its batch, and since when, of ``time.monotonic()``."""
        self.items = 0
        """Items read."""
        self.seconds = 0.0
        """Time that this took."""

    def request(self, rows: JobRows, data: Sequence[Any], *, whole: bool, urgent: bool) -> None:
        """Have the items of rows read.

        Args:
            whole: Pass them on together, and not as they are read.
            urgent: Before those that wait.
        """
        indices = rows.job.indices[rows.first : rows.first + rows.size].tolist()
        request = _Request(rows, data, indices, whole)
        if not self._threaded:
            self._read(request)
            return
        if urgent:
            self._requests.appendleft(request)
        else:
            self._requests.append(request)
        self._event.put(None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hydrax-data", daemon=True)
            self._thread.start()

    def take(self) -> list[JobRows | UnreadableRow]:
        """What was read since the last call, with its items."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def report(self) -> str:
        current = self._current
        texts = []
        if self.items and self.seconds / self.items > _SLOW_SECONDS:
            texts.append(
                f"reading data[i] in the main process takes {1000 * self.seconds / self.items:.3g} ms an item; give a "
                "Source (hydrax_core.Source), which is read in the workers"
            )
        if current is not None and (seconds := time.monotonic() - current[2]) > _SLOW_SECONDS:
            texts.append(f"data[{current[0]}] of {current[1]} has been read for {seconds:.1f} s")
        return "; ".join(texts)

    def close(self, seconds: float) -> None:
        """End the thread; an item that takes longer than ``seconds`` leaves it behind, as a thread cannot be killed."""
        self._stopping = True
        self._event.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        while True:
            self._event.get()
            if self._stopping:
                return
            self._read(self._requests.popleft())

    def _read(self, request: _Request) -> None:
        rows, data, indices, whole = request
        read = data.read if isinstance(data, GuardedData) else data.__getitem__
        address = str(rows.job.address)
        items: list[Any] = []
        first, began = rows.first, time.perf_counter()
        for row, index in enumerate(indices, rows.first):
            self._current = (index, address, time.monotonic())
            failure = None
            try:
                items.append(read(index))
            except BaseException as error:  # the user's sequence may raise anything, SystemExit too
                if not self._threaded and isinstance(error, KeyboardInterrupt):
                    raise
                cause, trace = error_texts(error)
                failure = UnreadableRow(JobRows(rows.job, row, 1), f"data[{index}]: {cause}", trace)
            now = time.perf_counter()
            if failure is not None or row + 1 == rows.first + rows.size or (not whole and now - began > _PIECE_SECONDS):
                self.seconds += now - began
                self.items += row + 1 - first
                if items:
                    self._found.append(JobRows(rows.job, first, len(items), items))
                if failure is not None:
                    self._found.append(failure)
                self._wake()
                if self._stopping:
                    return
                items, first, began = [], row + 1, now
            if isinstance(data, GuardedData) and data.wanted and self._threaded:
                data.wanted = False
                time.sleep(_PAUSE_SECONDS)
                began += _PAUSE_SECONDS
        self._current = None
