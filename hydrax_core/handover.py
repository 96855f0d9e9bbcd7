"""Complete batches between the engine's thread and the consumer's.

Promise: the consumer wakes for every batch, error and end, and never misses one; a batch stays here until it is taken,
so that a KeyboardInterrupt on the way to the consumer loses nothing.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hydrax_core.jobs import HostBatch

__all__ = ["Handover"]


class _Entry:
    """A batch, and what was made of it ahead: gone with it, whenever that is."""

    __slots__ = ("batch", "prepared", "tried")

    def __init__(self, batch: HostBatch) -> None:
        self.batch = batch
        self.prepared: Any = None
        self.tried = False


class Handover:
    """A queue of batches and errors with one consumer at a time.

    Args:
        wake: Wakes the engine.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ready: deque[_Entry | Exception] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hungry_below = 0
        self._owes_wake = False
        """Whether Ctrl-C came between taking something out and waking the engine for that."""
        self.waiting = False
        self.taken = 0
        """Batches taken."""
        self.waited = 0.0
        """Seconds that the consumer has waited, all times together."""
        self.ended = False
        self.fatal: BaseException | None = None

    def __len__(self) -> int:
        return len(self._ready)

    # --- the engine's side

    def offer(self, item: HostBatch | Exception) -> None:
        """Pass on a batch, or an error in its place."""
        self._ready.append(_Entry(item) if isinstance(item, HostBatch) else item)
        self._ring()

    def end(self) -> None:
        """Nothing comes after what is here. Safe in any thread, in signal handlers too."""
        self.ended = True
        self._bell.put(None)

    def fail(self, error: BaseException) -> None:
        """Nothing comes after what is here but this error, again and again."""
        if self.fatal is None:
            self.fatal = error
        self._bell.put(None)

    def sleeping(self, hungry_below: int) -> None:
        """The engine is about to sleep; it wants to be woken when fewer batches than that are here."""
        self._hungry_below = hungry_below

    def prepare(self, make: Callable[[HostBatch], Any], most: int) -> None:
        """Have something made of each of the first ``most`` batches before the consumer asks for it, once."""
        for entry in list(self._ready)[:most]:
            if isinstance(entry, _Entry) and not entry.tried:
                entry.tried = True
                entry.prepared = make(entry.batch)

    def clear(self) -> None:
        """Drop what is here."""
        self._ready.clear()

    def slots(self) -> frozenset[int]:
        """Slots of the batches that are here."""
        batches = [entry.batch for entry in list(self._ready) if isinstance(entry, _Entry)]
        return frozenset(batch.slot for batch in batches if batch.slot is not None)

    # --- the consumer's side

    def first(self) -> HostBatch | None:
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
        return item.batch

    def prepared(self, batch: HostBatch) -> Any:
        """What was made of the batch that ``first()`` returned, ``None`` for nothing."""
        try:
            item = self._ready[0]
        except IndexError:  # see first()
            return None
        return item.prepared if isinstance(item, _Entry) and item.batch is batch else None

    def await_news(self, deadline: float | None, *, knock: Callable[[], bool]) -> bool:
        """Wait until something may have come; false when ``deadline`` (of ``time.monotonic()``) has passed.

        Args:
            deadline: When to give up.
            knock: Whether to have the engine see that somebody waits; asked when that can be seen already.
        """
        self.waiting = True  # set before looking again: the bell rings only for who waits
        began = time.monotonic()
        try:
            if knock() or self._owes_wake:
                self._wake()
                self._owes_wake = False
            if self._ready or self.ended or self.fatal is not None:
                return True
            # SimpleQueue, unlike Event and Condition, can be rung in signal handlers.
            self._bell.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return False
        finally:
            self.waiting = False
            self.waited += time.monotonic() - began
        return True

    def take(self, batch: HostBatch) -> bool:
        """Take the batch that ``first()`` returned; false when it is gone, as another thread closed the loader."""
        self._owes_wake = True
        try:
            item = self._ready.popleft()
        except IndexError:
            return False
        self.taken += 1
        if len(self._ready) < self._hungry_below:
            self._wake()
        self._owes_wake = False
        return isinstance(item, _Entry) and item.batch is batch

    def _ring(self) -> None:
        if self.waiting:
            self._bell.put(None)
