"""Plan in, complete host batches out: the thread between the workers and the consumer.

Promise: the consumer waits until a batch, an error or the end comes, and for nothing else; closing ends everything
within two seconds, from whatever thread.

The consumer's thread only takes from the ``ReadyQueue``; all else belongs to the engine's thread, which steps the
``Loop``. That is why a KeyboardInterrupt, which Python raises in the main thread, cannot leave the engine half way.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any

from hydrax_core.data.logger import logger
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.loop import Loop
from hydrax_core.engine.ready import ReadyBatch, ReadyQueue, Wakeup
from hydrax_core.engine.resources.limits import CallSite
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.errors import BatchTimeoutError, HydraxError

__all__ = ["Engine"]

_GRACE_SECONDS = 1.0
"""How long a worker may take to end after its socket closes; ``with`` promises to be left within 2 s."""
_PARTS = 8
_CLOSE_SECONDS, _LEAST_SECONDS = 1.8, 0.2
"""How long closing takes, the caches' disk included, which has at least the second of these."""


class Engine:
    """Runs a loop in a thread of its own, or in the consumer's.

    Args:
        caches: The caches; the engine closes them.
        pool: The slots; the engine closes it.
        wakeup: What wakes the loop; the engine closes it.
        threaded: Whether a thread drives; else the consumer does, in ``wait()``.
    """

    def __init__(
        self, loop: Loop, queue: ReadyQueue, caches: GroupCaches, pool: SlotPool, wakeup: Wakeup, *, threaded: bool
    ) -> None:
        self.loop = loop
        self._queue = queue
        self.caches = caches
        self._pool = pool
        self._wakeup = wakeup
        self._threaded = threaded
        self._born = _forks
        self._max_held = loop.max_held
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
            self.loop.start_workers()

    def ready(self) -> ReadyBatch | None:
        if self._born != _forks or self._pool.count > self._max_held:
            return None
        return self._queue.ready()

    def wait(self, seconds: float | None) -> ReadyBatch | None:
        """The next batch, and what ``make`` made of it; it stays here until ``take()``; ``None`` at the end of the run.

        Raises:
            BatchTimeoutError: None arrived within ``seconds``.
            HydraxError: What went wrong on the way; after a ``LoaderError`` the next call goes on behind that batch.
        """
        if self._born != _forks:
            raise HydraxError("this loader was started before a fork and works in the parent only; make a new one")
        left = seconds
        queue = self._queue
        while True:
            ended = queue.ended  # read before looking: the last batch comes right before the end
            ready = queue.first()
            if ready is not None and (error := self.loop.excess()) is not None:
                raise error
            if ready is not None or ended:
                return ready
            if not self._threaded:
                self.loop.step(block=False)
                continue
            if left is not None and left <= 0:
                raise BatchTimeoutError(f"no batch arrived within {seconds:g} s; {self.loop.report()}")
            # In parts: of the time in which the process was stopped (Ctrl-Z, a closed laptop), which no part can help,
            # at most one part counts.
            part = None if left is None or seconds is None else min(left, seconds / _PARTS)
            began = time.monotonic()
            queue.await_news(part, notify=lambda: self._pool.exhausted)
            if left is not None and part is not None:
                left -= min(part, time.monotonic() - began)

    def take(self, ready: ReadyBatch, note: CallSite, holders: tuple[weakref.ref[Any], ...]) -> bool:
        """Take the batch that ``wait()`` returned; false when it is gone, as another thread closed the loader.

        Args:
            note: Where it is handed out, for error texts.
            holders: Weak references to the objects that are; as long as one lives, the consumer counts as holding it.
        """
        if not self._queue.take(ready):
            return False
        if ready.batch.slot is not None:
            self._pool.annotate(ready.batch.slot, note, holders)
        return True

    def close(self) -> None:
        """End thread and workers, within two seconds, and free what is not held."""
        if self._born != _forks:
            return
        deadline = time.monotonic() + _CLOSE_SECONDS
        with self._closing:  # several threads may leave at once
            self._stopping = True
            self.loop.stop()
            if self._thread not in (None, threading.current_thread()) and self._thread.is_alive():
                self._thread.join(_GRACE_SECONDS)
                self._left_behind = self._thread.is_alive()
            self.loop.close(_GRACE_SECONDS)
            self._wakeup.close()
            self._queue.clear()
            self.interrupt()
            self.caches.close(max(_LEAST_SECONDS, deadline - time.monotonic()))
            self._pool.close()

    def fail(self, error: BaseException) -> None:
        self._queue.fail(error)

    def interrupt(self) -> None:
        """Let ``wait()`` return ``None`` after what is ready; safe in threads and signal handlers."""
        self._queue.end()

    def _run(self) -> None:
        try:
            self.loop.start()
            while not self._stopping and self._queue.fatal is None:
                self.loop.step(block=True)
        except BaseException as error:  # noqa: BLE001  a defect of ours: the consumer must hear of it, too
            if not self._stopping:
                self._queue.fail(error)
                if not isinstance(error, HydraxError):
                    logger.exception("the engine failed")
        if self._left_behind:  # a worker may have been started after close() had ended the others
            self.loop.end_workers(0)


_forks = 0
"""How often this process, or those that it comes from, forked: the engines of a parent are none of its child's."""


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603  what the hook is for
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
