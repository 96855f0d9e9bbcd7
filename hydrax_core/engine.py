"""Plan in, complete host batches out: the thread between the workers and the consumer.

Promise: the consumer waits until a batch, an error or the end comes, and for nothing else; closing ends everything
within two seconds, from whatever thread.

The consumer's thread only takes from the ``Handover``; everything else belongs to the engine's thread, which drives the
``Driver``. That is why a KeyboardInterrupt, which Python raises in the main thread, cannot leave the engine half way.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from hydrax_core.counts import EngineCounts
from hydrax_core.driver import Driver
from hydrax_core.errors import BatchTimeoutError, HydraxError
from hydrax_core.handover import Handover
from hydrax_core.jobs import HostBatch
from hydrax_core.shelf import Shelf
from hydrax_core.slots import SlotPool
from hydrax_core.tuning import Setting
from hydrax_core.waker import Waker

__all__ = ["Engine"]

_GRACE_SECONDS = 1.0
"""How long a worker may take to end after its socket closes; ``with`` promises to be left within 2 s."""
_logger = logging.getLogger("hydrax")


class Engine:
    """Runs a driver in a thread of its own, or in the consumer's.

    Args:
        driver: Loads the batches.
        handover: Where the driver puts them.
        shelf: The caches; the engine closes them.
        pool: The slots; the engine closes it.
        waker: What wakes the driver; the engine closes it.
        threaded: Whether a thread drives; else the consumer does, in ``wait()``.
    """

    def __init__(
        self, driver: Driver, handover: Handover, shelf: Shelf, pool: SlotPool, waker: Waker, *, threaded: bool
    ) -> None:
        self._driver = driver
        self._handover = handover
        self._shelf = shelf
        self._pool = pool
        self._waker = waker
        self._threaded = threaded
        self._pid = os.getpid()
        self._stopping = False
        self._left_behind = False
        self._thread: threading.Thread | None = None
        self._closing = threading.RLock()

    def start(self) -> None:
        """Start the thread, which starts the workers: Ctrl-C, which hits the main thread, cannot cut that short."""
        if self._threaded:
            self._thread = threading.Thread(target=self._run, name="hydrax-engine", daemon=True)
            self._thread.start()
        else:
            self._driver.start_workers()

    def make_ahead(self, make: Callable[[HostBatch], object]) -> None:
        """Have ``make`` called with a batch before the consumer takes it, in the engine's thread."""
        self._driver.make_ahead(make)

    def prepared(self, batch: HostBatch) -> object:
        """What ``make`` returned for the batch that ``wait()`` did; ``None`` where it was not called."""
        return self._handover.prepared(batch)

    def counts(self) -> EngineCounts:
        """What was done so far, and what is going on."""
        return self._driver.counts()

    @property
    def setting(self) -> Setting:
        """How many batches are loaded ahead, and by how many workers."""
        return self._driver.setting

    @property
    def dropped(self) -> deque[int]:
        """Numbers of batches that failed; whoever keeps the position takes them out."""
        return self._driver.dropped

    @property
    def at_end(self) -> bool:
        """Whether the last batch of the run is loaded; ``wait()`` also ends after ``interrupt()`` and ``close()``."""
        return self._driver.at_end

    @property
    def shelf(self) -> Shelf:
        """The caches, for ``Batch.cache()``."""
        return self._shelf

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
            if batch is not None and (error := self._driver.excess()) is not None:
                raise error
            if batch is not None or ended:
                return batch
            if not self._threaded:
                self._driver.turn(block=False)
            elif not handover.await_news(deadline, knock=lambda: self._pool.short):
                raise BatchTimeoutError(f"no batch arrived within {seconds:g} s; {self._driver.report()}")

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

    def close(self) -> None:
        """End thread and workers, within two seconds, and free what is not held."""
        if os.getpid() != self._pid:
            return
        with self._closing:  # several threads may leave at once
            self._stopping = True
            self._driver.stop()
            if self._thread not in (None, threading.current_thread()) and self._thread.is_alive():
                self._thread.join(_GRACE_SECONDS)
                self._left_behind = self._thread.is_alive()
            self._driver.close(_GRACE_SECONDS)
            self._waker.close()
            self._handover.clear()
            self.interrupt()
            self._shelf.close()
            self._pool.close()

    def interrupt(self) -> None:
        """Let ``wait()`` return ``None`` after what is ready; safe in threads and signal handlers."""
        self._handover.end()

    def _run(self) -> None:
        try:
            self._driver.start()
            while not self._stopping and self._handover.fatal is None:
                self._driver.turn(block=True)
        except BaseException as error:  # the consumer must hear of a defect of ours, too, and of sys.exit() in the data
            if not self._stopping:
                if not isinstance(error, HydraxError):
                    _logger.exception("the engine failed")
                self._handover.fail(error)
        if self._left_behind:  # a worker may have been started after close() had ended the others
            self._driver.end_workers(0)
