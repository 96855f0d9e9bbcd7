"""Complete batches between the engine's thread and the consumer's, and what wakes a thread that waits in a selector.

Promise: the consumer wakes for every batch, error and end, and never misses one; a batch stays here until it is taken,
so that a KeyboardInterrupt on the way to the consumer loses nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hydrax_core.engine.jobs import HostBatch

__all__ = ["ReadyBatch", "ReadyQueue", "Wakeup"]

_send = ctypes.PyDLL(None).send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)


class Wakeup:
    """Wakes a selector from any thread, and from a garbage collection in the middle of anything."""

    def __init__(self) -> None:
        self._receive, self._send = socket.socketpair()
        self._receive.setblocking(False)
        self._send.setblocking(False)
        self._fd = self._send.fileno()

    def fileno(self) -> int:
        return self._receive.fileno()

    def wake(self) -> None:
        # Through PyDLL, which keeps the interpreter's lock: given up here, the engine would take it for its whole step,
        # and next() would wait that long. An error is none: full, it is readable already; closed, no engine waits.
        _send(self._fd, b"\0", 1, _FLAGS)

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._receive.recv(4096)

    def close(self) -> None:
        self._fd = -1
        self._send.close()
        self._receive.close()


class ReadyBatch:
    """A batch that is complete.

    Attributes:
        prepared: What was made of it ahead, ``None`` for nothing.
        tried: Whether the engine has set out to make that, or the consumer to make its own.
    """

    __slots__ = ("batch", "prepared", "tried")

    def __init__(self, batch: HostBatch) -> None:
        self.batch = batch
        self.prepared: Any = None
        self.tried = False


class ReadyQueue:
    """A queue of batches and errors with one consumer at a time."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ready: deque[ReadyBatch | Exception] = deque()
        self._event: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wake_below = 0
        self._owes_wake = False
        """Whether Ctrl-C came between taking something out and waking the engine for that."""
        self.waiting = False
        self.taken = 0
        """Batches taken."""
        self.first_taken: float | None = None
        """When the first was, on the clock of ``time.perf_counter()``."""
        self.waited = 0.0
        """Seconds that the consumer has waited, all times together."""
        self.ended = False
        self.fatal: BaseException | None = None

    def __len__(self) -> int:
        return len(self._ready)

    # --- the engine's side

    def offer(self, item: HostBatch | Exception) -> None:
        self._ready.append(ReadyBatch(item) if isinstance(item, HostBatch) else item)
        self._notify()

    def end(self) -> None:
        """Nothing comes after what is here. Safe in any thread, in signal handlers too."""
        self.ended = True
        self._event.put(None)

    def fail(self, error: BaseException) -> None:
        """Nothing comes after what is here but this error, again and again."""
        if self.fatal is None:
            self.fatal = error
        self._event.put(None)

    def sleeping(self, wake_below: int) -> None:
        """The engine is about to sleep; it wants to be woken when fewer batches than that are here."""
        self._wake_below = wake_below

    def prepare(self, make: Callable[[HostBatch], Any], most: int) -> None:
        """Have something made of each of the first ``most`` batches before the consumer asks for it, once."""
        for position in range(most):
            try:
                entry = self._ready[position]  # no copy of the queue would do: it holds what is taken meanwhile
            except IndexError:
                return
            if isinstance(entry, ReadyBatch) and not entry.tried:
                entry.tried = True
                entry.prepared = make(entry.batch)

    def clear(self) -> None:
        self._ready.clear()

    def slots(self) -> frozenset[int]:
        batches = [entry.batch for entry in list(self._ready) if isinstance(entry, ReadyBatch)]
        return frozenset(batch.slot for batch in batches if batch.slot is not None)

    # --- the consumer's side

    def ready(self) -> ReadyBatch | None:
        """The first batch where nothing else, such as an error, comes before it."""
        try:
            item = self._ready[0]
        except IndexError:
            return None
        if not isinstance(item, ReadyBatch):
            return None
        item.tried = True
        return item

    def first(self) -> ReadyBatch | None:
        """The first batch, which stays here; ``None`` when there is none, or the run has ended.

        Raises:
            Exception: The error in its place, which goes.
        """
        try:
            item = self._ready[0]
        except IndexError:  # empty, perhaps since a moment ago: another thread may close the loader
            if self.fatal is not None:
                raise self.fatal from None
            return None
        if isinstance(item, Exception):
            self._owes_wake = True
            self._ready.popleft()
            self._wake()
            self._owes_wake = False
            raise item
        item.tried = True
        return item

    def await_news(self, seconds: float | None, *, notify: Callable[[], bool]) -> bool:
        """Wait until something may have come; false when nothing did.

        Args:
            seconds: How long; ``None`` for no limit.
            notify: Whether to wake the engine; called when ``waiting`` is set already.
        """
        self.waiting = True  # set before looking again: a consumer is woken only while it is set
        began = time.monotonic()
        try:
            if notify() or self._owes_wake:
                self._wake()
                self._owes_wake = False
            if self._ready or self.ended or self.fatal is not None:
                return True
            # SimpleQueue, unlike Event and Condition, may be put to in signal handlers.
            self._event.get(timeout=seconds)
        except queue.Empty:
            return False
        finally:
            self.waiting = False
            self.waited += time.monotonic() - began
        return True

    def take(self, ready: ReadyBatch) -> bool:
        """Take what ``first()`` returned; false when it is gone, as another thread closed the loader."""
        self._owes_wake = True
        try:
            taken = self._ready.popleft() is ready
        except IndexError:
            return False
        self.taken += 1
        if self.first_taken is None:
            self.first_taken = time.perf_counter()
        if len(self._ready) < self._wake_below:
            self._wake()
        self._owes_wake = False
        return taken

    def _notify(self) -> None:
        if self.waiting:
            self._event.put(None)
