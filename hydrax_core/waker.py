"""A bell that a selector can hear."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["Waker"]


class Waker:
    """Wakes a selector from any thread, and from a garbage collection in the middle of anything."""

    def __init__(self) -> None:
        self._receive, self._send = socket.socketpair()
        self._receive.setblocking(False)
        self._send.setblocking(False)

    def fileno(self) -> int:
        """Readable after ``wake()``."""
        return self._receive.fileno()

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(OSError):  # full: it is readable already; closed: nobody waits
            self._send.send(b"\0")

    def clear(self) -> None:
        """Make the descriptor unreadable."""
        with contextlib.suppress(OSError):
            self._receive.recv(4096)

    def close(self) -> None:
        """Close both ends."""
        self._send.close()
        self._receive.close()
