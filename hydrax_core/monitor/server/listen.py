"""Log lines of hydrax, and what workers write, while an inspector is connected.

Promise: what the program itself does with its log stays as it is: no handler is added, as one would silence Python's
handler of last resort. Logging and forwarding output only append to a bounded queue.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hydrax_core.engine.workers import process
from hydrax_core.monitor.run import Level, LogLine

__all__ = ["Listener"]

_MOST_TEXTS = 256
_MOST_LINES = 1000
_MOST_AT_ONCE = 200
_LONGEST_TEXT = 1 << 16
_LONGEST_LINE = 2000


class _Text(NamedTuple):
    """What was written at once: one line or many; ``pid`` is ``None`` where no worker wrote it."""

    number: int
    at: float
    source: str
    level: Level
    text: str
    pid: int | None


class _Ear(logging.Filter):
    """Lets every record pass, and notes it."""

    def __init__(self, hear: Callable[[float, str, Level, str, int | None], None]) -> None:
        super().__init__()
        self._hear = hear

    def filter(self, record: logging.LogRecord) -> bool:
        level: Level = "error" if record.levelno >= logging.ERROR else "info"
        if logging.WARNING <= record.levelno < logging.ERROR:
            level = "warning"
        with contextlib.suppress(Exception):  # its own handler reports a record whose arguments do not fit
            self._hear(record.created, "hydrax", level, record.getMessage(), None)
        return True


class Listener:
    """Hears what is logged and written between ``start()`` and ``stop()``; used by one thread."""

    def __init__(self) -> None:
        self._texts: deque[_Text] = deque(maxlen=_MOST_TEXTS)
        self._numbers = itertools.count(1)
        self._number = 0
        self._ear = _Ear(self._hear)
        self._loggers: list[logging.Logger] = []
        self._lines: deque[LogLine] = deque(maxlen=_MOST_LINES)
        self._serial = 0
        self._workers: set[int] = set()

    def start(self) -> None:
        known = list(logging.root.manager.loggerDict.items())
        rooms = [made for name, made in known if name.startswith("hydrax_core") and isinstance(made, logging.Logger)]
        self._loggers = [logging.getLogger("hydrax"), *rooms]  # filters, unlike handlers, are not inherited
        for logger in self._loggers:
            logger.addFilter(self._ear)
        process.listeners.append(self._hear_worker)

    def stop(self) -> None:
        for logger in self._loggers:
            logger.removeFilter(self._ear)
        self._loggers.clear()
        with contextlib.suppress(ValueError):
            process.listeners.remove(self._hear_worker)

    def lines(self, after: int, workers: Iterable[int]) -> tuple[tuple[LogLine, ...], int]:
        """The newest lines after a serial, and how many before them are not among them.

        Args:
            after: The last serial known.
            workers: Processes of this loader's workers; what others wrote is left out.
        """
        self._workers.update(workers)
        while self._texts:
            self._take(self._texts.popleft())
        found = [line for line in self._lines if line.serial > after][-_MOST_AT_ONCE:]
        return tuple(found), max(0, self._serial - after - len(found)) if after else 0

    def _take(self, text: _Text) -> None:
        self._serial += text.number - self._number - 1  # a line at least each, that had to go
        self._number = text.number
        if text.pid is not None and text.pid not in self._workers:
            return
        for line in text.text.splitlines():
            self._serial += 1
            self._lines.append(LogLine(self._serial, text.at, text.source, text.level, line[:_LONGEST_LINE]))

    def _hear_worker(self, pid: int, number: int, text: str) -> None:
        self._hear(time.time(), f"worker {number}", "info", text, pid)

    def _hear(self, at: float, source: str, level: Level, text: str, pid: int | None) -> None:
        self._texts.append(_Text(next(self._numbers), at, source, level, text[-_LONGEST_TEXT:], pid))
