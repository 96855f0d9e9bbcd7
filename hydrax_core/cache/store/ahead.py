"""Work done ahead of the one who needs it, on one thread.

Promise: who waits for a key gets it done, by whoever; what was asked for ahead and is never needed costs a bounded
amount.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Ahead"]

_MOST_KEPT: Final = 64


class Ahead:
    """Runs functions on a thread, each under a key.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._futures: dict[Hashable, Future[object]] = {}
        self._open = True

    def start(self, key: Hashable, function: Callable[[], object]) -> None:
        """Have a function run, unless one runs under that key or too many wait."""
        if not self._open or key in self._futures:
            return
        if len(self._futures) >= _MOST_KEPT:
            for old in [old for old, future in self._futures.items() if future.done()]:
                self._futures.pop(old, None)
            if len(self._futures) >= _MOST_KEPT:
                return
        self._futures[key] = self._thread.submit(function)

    def wait(self, key: Hashable) -> None:
        """Wait for the function of a key, if there is one; what it raised is raised here."""
        future = self._futures.pop(key, None)
        if future is not None and not future.cancel():
            try:
                future.result()
            except CancelledError:
                return

    def close(self) -> None:
        """End the thread; what has not begun is dropped."""
        self._open = False
        self._thread.shutdown(wait=True, cancel_futures=True)
