"""The inspector's side: finds running loaders and talks to one.

Promise: neither jax nor NumPy is imported for it, no call waits longer than it says, and whatever the other side sends
ends in messages of the protocol or in a ``ConnectionError`` with a text for people.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydrax_core.monitor.protocol import address
from hydrax_core.monitor.protocol.messages import VERSION, Ask, Bye, Hello
from hydrax_core.monitor.protocol.wire import Message, WireError, client_reader, encode

__all__ = ["Connection", "Run", "check_version", "find_runs"]

_RECEIVE = 1 << 18
_MOST_QUEUED = 1 << 14
_LIST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """A running loader that can be watched.

    Attributes:
        path: Its socket.
        pid: Its process.
        number: Which of the loaders of that process.
        hello: Its first message; ``None`` where it did not answer in time, as a stopped process does not.
    """

    path: Path
    pid: int
    number: int
    hello: Hello | None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.hello.name if self.hello is not None else "does not answer"


class Connection:
    """A connection to one loader.

    Args:
        path: Its socket.

    Raises:
        ConnectionError: No loader listens there, or one of another user.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._socket = address.connect(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise ConnectionError("the run is gone") from error
            raise ConnectionError(str(error)) from error
        self._reader = client_reader()
        self._queued = b""

    def fileno(self) -> int:
        """Readable when something has come."""
        return self._socket.fileno()

    def ask(self, question: Ask) -> None:
        """Send a question; one that cannot leave now, as the other side is stopped, leaves with a later one.

        ``receive()`` raises once the other side is gone and its last messages are read.

        Raises:
            ConnectionError: The other side has taken no question for long.
        """
        self._queued += b"".join(encode(question))
        try:
            sent = self._socket.send(self._queued, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            sent = 0
        self._queued = self._queued[sent:]
        if len(self._queued) > _MOST_QUEUED:
            raise ConnectionError("it takes no questions any more")

    def receive(self) -> Iterator[tuple[Message, bytes]]:
        """What has come, each message with the bytes of its arrays; does not wait.

        Raises:
            ConnectionError: The other side is gone, or says what cannot be understood.
        """
        try:
            data = self._socket.recv(_RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise ConnectionError(f"the connection is cut: {error.strerror}") from error
        if not data:
            raise ConnectionError("the connection is cut")
        try:
            yield from self._reader.feed(data)
        except WireError as error:
            raise ConnectionError(f"what it says cannot be understood: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def check_version(hello: Hello) -> None:
    """Refuse another protocol.

    Raises:
        ConnectionError: It is another one.
    """
    if hello.version != VERSION:
        raise ConnectionError(
            f"it runs with another hydrax (protocol {hello.version}, here {VERSION}): use `hydrax` of its environment"
        )


def find_runs(seconds: float = _LIST_SECONDS) -> list[Run]:
    """The running loaders of this user that can be watched, the newest first; waits at most so long for answers."""
    waiting: dict[Connection, address.Address] = {}
    hellos: dict[address.Address, Hello | None] = {}
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for found in address.listed():
            try:
                connection = Connection(found.path)
            except ConnectionError:
                continue
            stack.callback(connection.close)
            waiting[connection] = found
            hellos[found] = None
            selector.register(connection, selectors.EVENT_READ, connection)
        while waiting and (rest := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                connection = key.data
                try:
                    first = next(connection.receive(), None)
                except ConnectionError:
                    del hellos[waiting[connection]]
                else:
                    if first is None:
                        continue
                    if isinstance(first[0], Hello):
                        hellos[waiting[connection]] = first[0]
                    elif isinstance(first[0], Bye):
                        pass  # it has enough clients; it is listed all the same
                selector.unregister(connection)
                del waiting[connection]
    runs = [Run(found.path, found.pid, found.number, hello) for found, hello in hellos.items()]
    return sorted(runs, key=lambda run: -run.hello.since if run.hello is not None else 0.0)
