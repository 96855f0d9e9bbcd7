"""Messages between the engine and a worker process, and their frames.

Promise: a frame arrives whole or not at all; a peer that is gone shows as ``EOFError``, also in the middle of a frame.
Neither end of a frame blocks the engine: what a worker does not take yet is kept.

Descriptors travel as plain pickles, which are a tenth of the cost of cloudpickle's. Classes of the user's ``__main__``
(and of modules that workers cannot import) are sent once, by value, ahead of the first descriptor that needs them.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hydrax_core.data.augment import Augmentation
from hydrax_core.data.source import Source
from hydrax_core.engine.workers import pickling
from hydrax_core.errors import error_texts

__all__ = [
    "NO_SIGNAL",
    "Channel",
    "Chunk",
    "ChunkResult",
    "Definitions",
    "DescriptorEncoder",
    "Functions",
    "Garbled",
    "GroupLoader",
    "GroupSetup",
    "ItemFailure",
    "Ready",
    "StartFailure",
    "WorkerSetup",
    "define",
    "garbled",
]

_HEADER = struct.Struct("<Q")
_RECEIVE = 1 << 18
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""A dead peer is an error, no SIGPIPE: a program may have set that back to its default, which would kill it."""


class GroupSetup(NamedTuple):
    layouts: dict[str, Any]
    zeroed: bool
    augmented: dict[str, Any]
    parts: dict[str, int]


class GroupLoader(NamedTuple):
    """How a worker loads a group.

    Attributes:
        function: The loader function; ``None`` where a cache has all.
        batched: Whether it takes many items at once; beside it, as of an importable function only the name is sent.
        source: What its items are read from; ``None`` where they arrive themselves.
        augment: What augments the loaded rows, if anything.
    """

    function: Callable[..., Any] | None
    batched: bool
    source: Source[Any] | None
    augment: Augmentation | None = None


class Functions(NamedTuple):
    """What a worker has from the user.

    Attributes:
        loaders: One entry a group; ``None`` where nothing is loaded.
        stop_at_failure: Leave the rest of a chunk when an item fails, because its batch is lost anyway.
    """

    loaders: tuple[GroupLoader | None, ...]
    startup: Callable[[], Any] | None
    stop_at_failure: bool


class WorkerSetup(NamedTuple):
    number: int
    nice: int
    slot_size: int
    workers: int
    base: int
    groups: bytes
    """pickle of ``list[GroupSetup]``: after the search path is set, as dtypes may live in extension modules."""
    functions: bytes
    """cloudpickle of ``Functions``."""


class Chunk(NamedTuple):
    """Items of one batch for one worker.

    Attributes:
        number: Unique in the run.
        group: Position in ``WorkerSetup.groups``.
        items: Descriptors; indices, of a source or where items are their own, as bytes of int64, a tenth of the cost.
        seeds: Seed of each item, as bytes of uint32; ``None`` in validation.
        fresh: What augments each of them, likewise.
        filled: Whether the rows are in place already, and are only augmented.
    """

    number: int
    group: int
    slot: int
    first_row: int
    size: int
    items: list[Any] | bytes
    seeds: bytes | None
    fresh: bytes | None = None
    filled: bool = False

    def descriptors(self) -> list[Any]:
        return np.frombuffer(self.items, np.int64).tolist() if isinstance(self.items, bytes) else self.items

    def unpacked_seeds(self) -> list[int] | None:
        return None if self.seeds is None else np.frombuffer(self.seeds, np.uint32).tolist()


class Definitions(NamedTuple):
    """Classes and functions that later descriptors refer to: module name -> qualified name -> object."""

    modules: bytes
    """cloudpickle of ``dict[str, dict[str, object]]``."""


class ItemFailure(NamedTuple):
    row: int
    cause: str
    traceback: str


class ChunkResult(NamedTuple):
    """What became of a chunk.

    Attributes:
        additional: What the loader returned for each item, ``None`` where it returned nothing for any.
        notices: Remarks on how the loader treats its arrays, each sent once by a worker.
    """

    number: int
    seconds: float
    loaded: int
    additional: list[dict[str, Any] | None] | None
    failures: tuple[ItemFailure, ...]
    notices: tuple[str, ...]


class Garbled(NamedTuple):
    """Comes instead of a result: the chunk, or its result, cannot be unpickled."""

    cause: str
    traceback: str


def garbled(what: str, error: BaseException) -> Garbled:
    """The message for an error of unpickling."""
    cause, trace = error_texts(error)
    return Garbled(f"{what}: {cause}", trace)


class Ready(NamedTuple):
    pid: int


class StartFailure(NamedTuple):
    cause: str
    traceback: str


class Channel:
    """Frames over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._incoming = bytearray()
        self._frames: deque[bytes] = deque()
        self._outgoing = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        return bool(self._outgoing)

    def send(self, payload: bytes) -> None:
        """Send a frame; returns when it has left (blocking sockets)."""
        self._socket.sendall(_HEADER.pack(len(payload)) + payload, NO_SIGNAL)

    def queue(self, payload: bytes) -> None:
        """Have a frame leave with the next ``flush()``: several in one call cost little more than one."""
        self._outgoing += _HEADER.pack(len(payload))
        self._outgoing += payload

    def flush(self) -> None:
        """Send what is queued as far as that is possible without blocking."""
        while self._outgoing:
            sent = self._send(self._outgoing)
            if not sent:
                return
            del self._outgoing[:sent]

    def receive(self) -> bytes:
        """The next frame; waits for it (blocking sockets).

        Raises:
            EOFError: The peer is gone.
        """
        while not self._frames:
            self._fill()
        return self._frames.popleft()

    def receive_all(self) -> list[bytes]:
        """The frames that have arrived (non-blocking sockets).

        Raises:
            EOFError: The peer is gone, and no frame is left.
        """
        try:
            self._fill()
        except BlockingIOError:
            return []
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data, NO_SIGNAL)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError("the worker's socket is closed") from error

    def _fill(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE)
        except ConnectionResetError as error:
            raise EOFError("the worker's socket is closed") from error
        if not data:
            raise EOFError("the worker's socket is closed")
        incoming = self._incoming
        incoming += data
        start, length = 0, len(incoming)
        while length - start >= _HEADER.size:
            (size,) = _HEADER.unpack_from(incoming, start)
            end = start + _HEADER.size + size
            if length < end:
                break
            self._frames.append(bytes(memoryview(incoming)[start + _HEADER.size : end]))
            start = end
        del incoming[:start]


class DescriptorEncoder:
    """Encodes chunks, and the definitions that they need, for all workers of a loader."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}
        self._plain = True

    def encode(self, chunk: Chunk) -> tuple[bytes, bytes | None]:
        """The chunk's frame, and a frame of definitions to send to every worker before it, or ``None``."""
        if isinstance(chunk.items, bytes):
            return pickle.dumps(chunk, protocol=5), None  # nothing of the user's is in it
        if self._plain:
            try:
                return self._encode_plain(chunk)
            except (pickle.PicklingError, AttributeError, TypeError):
                self._plain = False  # e.g. instances of a class made in a function: cloudpickle takes them by value
        return pickling.dumps(chunk), None

    def definitions(self) -> bytes | None:
        """All definitions so far, for a worker that starts late."""
        return self._pack(self._known) if self._known else None

    def _encode_plain(self, chunk: Chunk) -> tuple[bytes, bytes | None]:
        buffer = io.BytesIO()
        pickler = pickling.NamedPickler(buffer)
        pickler.dump(chunk)
        new = {key: value for key, value in pickler.by_value.items() if self._known.get(key) is not value}
        if not new:
            return buffer.getvalue(), None
        self._known.update(new)
        return buffer.getvalue(), self._pack(new)

    @staticmethod
    def _pack(known: dict[tuple[str, str], Any]) -> bytes:
        modules: dict[str, dict[str, Any]] = {}
        for (module, name), value in known.items():
            modules.setdefault(module, {})[name] = value
        packed = Definitions(pickling.dumps(modules))
        return pickle.dumps(packed, protocol=5)


def define(message: Definitions) -> None:
    """Make definitions known in this process, under their modules' names."""
    for module, names in pickle.loads(message.modules).items():
        namespace = sys.modules.setdefault(module, pickling.shared_module(module))
        for name, value in names.items():
            setattr(namespace, name, value)
