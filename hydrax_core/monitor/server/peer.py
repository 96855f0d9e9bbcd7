"""One client of a running loader, as the monitor's thread sees it.

Promise: nothing here blocks. A client that does not read keeps at most one answer and one sample in memory, and is
dropped after ``_TIMEOUT_SECONDS`` seconds without progress; one that asks too often is answered less often; one that
says what cannot be understood is dropped.
"""

from __future__ import annotations

import socket
from collections import deque

from hydrax_core.monitor.protocol.messages import Ask
from hydrax_core.monitor.protocol.wire import Message, WireError, encode, server_reader

__all__ = ["Gone", "Peer"]

_RECEIVE = 1 << 14
_TIMEOUT_SECONDS = 5.0
_BETWEEN = 0.1
"""Seconds between two answers."""


class Gone(Exception):  # noqa: N818  no error: clients come and go
    """The client is gone, or is no client."""


class Peer:
    """A connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = server_reader()
        self._outbox: deque[memoryview] = deque()
        self._stuck_since = 0.0
        self._asked: deque[Ask] = deque()
        self._next_answer = 0.0
        self._answered = False
        self.wants_sample = False
        self.wants_batch = False
        self.last_asked: Ask | None = None
        """The last question for a moment."""

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def sending(self) -> bool:
        return bool(self._outbox)

    def due(self) -> float | None:
        """When something has to be done about it, unless it says or reads something before; ``None`` for nothing."""
        if self._outbox:
            return self._stuck_since + _TIMEOUT_SECONDS
        return self._next_answer if self._asked else None

    def hear(self) -> None:
        try:
            data = self._connection.recv(_RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("it has left")
        try:
            for message, _ in self._reader.feed(data):
                assert isinstance(message, Ask)
                self._asked.append(message)
        except WireError as error:
            raise Gone(f"it sent what is no question: {error}") from error
        if len(self._asked) > 2:  # noqa: PLR2004  a batch and a moment
            raise Gone("it asks without waiting for answers")

    def question(self, now: float) -> Ask | None:
        if not self._asked or self._outbox or now < self._next_answer:
            return None
        if self._answered:  # the second question of a client need not wait
            self._next_answer = now + _BETWEEN
        self._answered = True
        return self._asked.popleft()

    def say(self, message: Message, payload: memoryview | bytes = b"", *, now: float) -> None:
        """Send a message, as far as it can leave now."""
        if not self._outbox:
            self._stuck_since = now
        self._outbox.extend(encode(message, payload))
        self.flush(now)

    def flush(self, now: float) -> None:
        while self._outbox:
            piece = self._outbox[0]
            try:
                sent = self._connection.send(piece, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise Gone(str(error)) from error
            if sent:
                self._stuck_since = now
            if sent < len(piece):
                self._outbox[0] = piece[sent:]
                if not sent:
                    break
            else:
                self._outbox.popleft()
        if self._outbox and now - self._stuck_since >= _TIMEOUT_SECONDS:
            raise Gone("it does not read what it asked for")

    def close(self) -> None:
        self._outbox.clear()
        self._connection.close()
