"""A bell that a selector can hear."""

from __future__ import annotations

import contextlib
import ctypes
import socket

__all__ = ["Wakeup"]

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
        """Readable after ``wake()``."""
        return self._receive.fileno()

    def wake(self) -> None:
        """Make the descriptor readable."""
        # Through PyDLL, which keeps the interpreter's lock: given up here, the engine would take it for its whole turn,
        # and next() would wait that long. An error is none: full, it is readable already; closed, nobody waits.
        _send(self._fd, b"\0", 1, _FLAGS)

    def clear(self) -> None:
        """Make the descriptor unreadable."""
        with contextlib.suppress(OSError):
            self._receive.recv(4096)

    def close(self) -> None:
        """Close both ends."""
        self._fd = -1
        self._send.close()
        self._receive.close()
