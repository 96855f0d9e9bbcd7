"""Work in threads, for a screen that must not wait.

Promise: what follows a piece of work happens in the app's own thread, one thing after the other, and not at all once
the app is closing. Work that raises becomes a text, not the end of the app.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import App

__all__ = ["Jobs"]


class Jobs:
    """The work of one app.

    Args:
        app: Whose threads and message queue are used.
    """

    def __init__(self, app: App[Any], failed: Callable[[Exception], None]) -> None:
        self._app = app
        self._failed = failed
        self._pending = 0

    @property
    def idle(self) -> bool:
        return not self._pending

    def do(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do something in a thread, and something with its result in the app's."""
        self._pending += 1
        self._app.run_worker(partial(self._work, work, then), thread=True)

    def post(self, what: Callable[[Any], None], value: Any) -> None:
        """Have something happen in the app's thread; any thread may call this."""
        self._app.call_later(what, value)

    def _work(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  whatever the disk does, the app lives
            result, then = error, self._failed
        self.post(partial(self._follow, then), result)

    def _follow(self, then: Callable[[Any], None], result: Any) -> None:
        self._pending -= 1
        if self._app.is_running:
            then(result)
