"""The main function of a worker process.

Promise: it imports neither jax nor the user's ``__main__``, ends when the engine closes its socket, and is killed by
the kernel when the main process is gone, even while a loader holds the interpreter: the main process holds the other
end of a pipe (the *lifeline*), whose closing sends this process SIGKILL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from typing import Any

from hydrax_core.data import function
from hydrax_core.engine.resources.slots import SlotMemory
from hydrax_core.engine.workers.runner import ChunkRunner
from hydrax_core.engine.workers.wire import (
    Channel,
    Chunk,
    ChunkResult,
    Definitions,
    Functions,
    GroupSetup,
    ItemFailure,
    Ready,
    StartFailure,
    WorkerSetup,
    define,
    garbled,
)
from hydrax_core.errors import shorten

__all__ = ["main"]


def main() -> None:
    """Serve the engine on the descriptors given as arguments: socket, memory file, lifeline; then comes the path."""
    socket_fd, memory_fd, lifeline_fd = (int(argument) for argument in sys.argv[1:4])
    for fd in (socket_fd, memory_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # not for programs that the loader starts
    _tie_to(lifeline_fd)
    # Ctrl-C reaches every process of the terminal; when to stop is the main process's decision. A handler, unlike
    # SIG_IGN, is not inherited by programs that the loader starts.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a TextIOWrapper here
    channel = Channel(socket.socket(fileno=socket_fd))
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(channel, memory_fd)


def _serve(channel: Channel, memory_fd: int) -> None:
    setup: WorkerSetup = pickle.loads(channel.receive())
    try:
        runner = _start(setup, memory_fd)
    except BaseException as error:  # noqa: BLE001  whatever ends the start is told to the main process
        channel.send(_start_failure(error))
        return
    pid = os.getpid()
    channel.send(pickle.dumps(Ready(pid)))
    while True:
        frame = channel.receive()
        try:
            message = pickle.loads(frame)
        except BaseException as error:  # noqa: BLE001  a descriptor's own unpickling may raise anything
            channel.send(pickle.dumps(garbled("the descriptor cannot be unpickled in the worker", error)))
            continue
        if isinstance(message, Definitions):
            try:
                define(message)
            except BaseException as error:  # noqa: BLE001  the imports of the user's classes may raise anything
                channel.send(_start_failure(error))
                return
            continue
        result = runner.run(message)
        if os.getpid() != pid:  # the loader forked and let the child return, too: it has no business on the socket
            return
        channel.send(_encode(result, message))


def _start_failure(error: BaseException) -> bytes:
    cause = "".join(traceback.format_exception_only(error)).strip()
    return pickle.dumps(StartFailure(cause, traceback.format_exc().rstrip()))


def _start(setup: WorkerSetup, memory_fd: int) -> ChunkRunner:
    sys.path[:] = setup.search_path
    if setup.nice:
        os.nice(setup.nice)
    function.active = True
    functions: Functions = pickle.loads(setup.functions)
    if functions.startup is not None:
        functions.startup()
    memory = SlotMemory(memory_fd, setup.slot_size, setup.workers, setup.base)
    groups: list[GroupSetup] = pickle.loads(setup.groups)
    status = memory.status(setup.number)
    return ChunkRunner(functions.loaders, groups, memory, status, stop_at_failure=functions.stop_at_failure)


def _encode(result: ChunkResult, chunk: Chunk) -> bytes:
    try:
        return pickle.dumps(result, protocol=5)
    except Exception:  # noqa: BLE001  whatever a value's own pickling raises
        return pickle.dumps(_without_unpicklable(result, chunk), protocol=5)


def _without_unpicklable(result: ChunkResult, chunk: Chunk) -> ChunkResult:
    """The result with failures in the place of items whose additional data cannot be sent."""
    assert result.additional is not None
    failures = list(result.failures)
    additional: list[dict[str, Any] | None] = []
    for offset, values in enumerate(result.additional):
        problem = _unpicklable(values or {})
        additional.append(None if problem else values)
        if problem:
            failures.append(ItemFailure(chunk.first_row + offset, problem, ""))
    return result._replace(additional=additional, failures=tuple(failures))


def _unpicklable(values: dict[str, Any]) -> str:
    for name, value in values.items():
        try:
            pickle.dumps(value, protocol=5)
        except Exception as error:  # noqa: BLE001  see _encode
            return (
                f"the additional data {name!r} cannot be pickled: {shorten(value, 80)} "
                f"({type(error).__name__}: {error}); "
                "return plain values such as numbers, strings, lists and NumPy arrays"
            )
    return ""


def _tie_to(lifeline_fd: int) -> None:
    """Have the kernel kill this process when the other end of the lifeline closes."""
    try:
        fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline_fd, 10, signal.SIGKILL)  # F_SETSIG, <fcntl.h>; Python has no name for it
        fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # no F_SETSIG outside Linux: a thread does, as long as the loader lets it run
        threading.Thread(target=_die_with, args=(lifeline_fd,), daemon=True).start()
        return
    # The main process may have gone before the tie was made.
    os.set_blocking(lifeline_fd, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(lifeline_fd, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def _die_with(lifeline_fd: int) -> None:
    os.read(lifeline_fd, 1)
    os.kill(os.getpid(), signal.SIGKILL)
