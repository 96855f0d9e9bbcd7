"""Keeps what others write off the screen and in the log.

Promise: while ``Capture`` is entered, nothing but the app reaches the terminal: not a loader's print, not a library
written in C, not a warning, not a grandchild. What is written comes out of the log in whole lines. However many lines
come, memory is bounded; lines that had to go are counted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from hydrax_core.monitor import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrax_core.monitor import Level

__all__ = ["Capture", "LogBuffer"]

_MOST_LINES = 1000
_LONGEST_LINE = 2000
_READ_BYTES = 1 << 16
_ENGINE_THREAD = "hydrax-engine"
_WORKER_THREAD = "hydrax-worker-"
_LEVELS: tuple[tuple[int, Level], ...] = ((logging.ERROR, "error"), (logging.WARNING, "warning"))


class LogBuffer:
    """Lines on their way to the screen; every method is safe in any thread."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque()
        self._lock = threading.Lock()
        self._serial = 0
        self._missed = 0

    def add(self, source: str, level: Level, text: str, at: float | None = None) -> None:
        """Add the lines of a text that came now, or ``at`` seconds since the epoch."""
        now = time.time() if at is None else at
        with self._lock:
            for line in text.splitlines() or [""]:
                self._serial += 1
                self._lines.append(LogLine(self._serial, now, source, level, line[:_LONGEST_LINE]))
            while len(self._lines) > _MOST_LINES:
                self._lines.popleft()
                self._missed += 1

    def miss(self, lines: int) -> None:
        with self._lock:
            self._missed += lines

    def drain(self) -> tuple[tuple[LogLine, ...], int]:
        """The lines since the last call, and how many of them came too fast to be kept."""
        with self._lock:
            lines, missed = tuple(self._lines), self._missed
            self._lines.clear()
            self._missed = 0
        return lines, missed


class _Stream(io.TextIOBase):
    """Takes the place of ``sys.stdout`` or ``sys.stderr``; a line is complete when its writer ends it."""

    def __init__(self, name: str, log: LogBuffer) -> None:
        self._name = name
        self._log = log
        self._rests: dict[int, str] = {}

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io declares an attribute
        return "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        writer = threading.get_ident()
        lines, newline, rest = (self._rests.pop(writer, "") + text).rpartition("\n")
        if newline:
            self._log.add(self._source(), "info", lines)
        if rest:
            self._rests[writer] = rest
        return len(text)

    def flush(self) -> None:
        """Lines leave when they are complete."""

    def _source(self) -> str:
        thread = threading.current_thread().name
        if thread == _ENGINE_THREAD:
            return "loader"
        if thread.startswith(_WORKER_THREAD):
            return f"worker {thread.removeprefix(_WORKER_THREAD)}"
        return self._name


class _Handler(logging.Handler):
    def __init__(self, log: LogBuffer) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = next((name for least, name in _LEVELS if record.levelno >= least), "info")
        self._log.add(record.name, level, self.format(record))


class Capture:
    """Takes over the output of this process; the app draws on ``terminal`` meanwhile.

    Args:
        log: Where lines go.
        descriptors: Whether to take the file descriptors 1 and 2, too, as a process on a terminal should; ``terminal``
            is the screen then. A test leaves them alone.
    """

    def __init__(self, log: LogBuffer, *, descriptors: bool) -> None:
        self._log = log
        self._descriptors = descriptors
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        handler = _Handler(self._log)
        root = logging.getLogger()
        root.addHandler(handler)
        self._undo.append(lambda: root.removeHandler(handler))
        logging.captureWarnings(True)
        self._undo.append(lambda: logging.captureWarnings(False))
        if self._descriptors:
            self._take_descriptors()
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()

    def take_streams(self) -> None:
        """Take ``sys.stdout`` and ``sys.stderr``, once the app runs: it takes them for itself at its start.

        At its end it puts back what was there before it, and so undoes this, too.
        """
        sys.stdout, sys.stderr = _Stream("stdout", self._log), _Stream("stderr", self._log)

    def _take_descriptors(self) -> None:
        """Textual draws on ``sys.__stderr__`` and asks ``sys.__stdout__`` its size: both get the terminal.

        Everyone else gets a pipe to the log.
        """
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        kept = os.dup(1), os.dup(2)
        terminal = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        thread = threading.Thread(target=_read_lines, args=(reader, self._log), name="inspect-output", daemon=True)
        thread.start()
        before = sys.__stdout__, sys.__stderr__
        sys.__stdout__ = sys.__stderr__ = terminal  # type: ignore[misc]  # nothing else moves Textual

        def undo() -> None:
            sys.__stdout__, sys.__stderr__ = before  # type: ignore[misc]  # see above
            for kept_fd, fd in zip(kept, (1, 2), strict=True):
                os.dup2(kept_fd, fd)
                os.close(kept_fd)
            with contextlib.suppress(OSError):  # it is gone
                terminal.close()

        self._undo.append(undo)


def _read_lines(descriptor: int, log: LogBuffer) -> None:
    """Until the last writer has closed its end."""
    rest = b""
    while data := os.read(descriptor, _READ_BYTES):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            log.add("stderr", "info", lines.decode(errors="replace"))
        if len(rest) > _READ_BYTES:
            log.add("stderr", "info", rest.decode(errors="replace"))
            rest = b""
    if rest:
        log.add("stderr", "info", rest.decode(errors="replace"))
    os.close(descriptor)
