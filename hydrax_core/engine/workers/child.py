"""The main function of a worker process.

Promise: it imports neither jax nor the user's ``__main__``, ends when the engine closes its socket, and is killed when
the main process is gone. Whatever ends its start, or an item, is reported; signals to the whole job do not end it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from typing import Any

from hydrax_core.data import function
from hydrax_core.engine.resources.slots import SlotMemory
from hydrax_core.engine.workers import pickling
from hydrax_core.engine.workers.imports import ImportLog
from hydrax_core.engine.workers.interpreter import JOB_SIGNALS, WORKER_MARK, apply
from hydrax_core.engine.workers.lifeline import tie_to
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
from hydrax_core.errors import bounded, error_texts, shorten

__all__ = ["main"]


def main() -> None:
    """Serve the engine on the descriptors given as arguments: socket, memory file, lifeline; then comes the path."""
    socket_fd, memory_fd, lifeline_fd = (int(argument) for argument in sys.argv[1:4])
    del os.environ[WORKER_MARK]
    main_module = vars(sys.modules["__main__"])  # where what the user's main module defines comes to lie
    for name in [name for name in main_module if not name.startswith("__")]:
        del main_module[name]
    for fd in (socket_fd, memory_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # not for programs that the loader starts
    tie_to(lifeline_fd)
    _leave_to_main(JOB_SIGNALS)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a TextIOWrapper here
    connection = socket.socket(fileno=socket_fd)
    connection.setblocking(True)  # a default timeout in the main process has made it non-blocking
    with connection, contextlib.suppress(EOFError, ConnectionError):
        _serve(Channel(connection), memory_fd)


def _leave_to_main(signals: frozenset[signal.Signals]) -> None:
    """Outlive signals that a whole job gets: the main process decides what they mean."""
    # A handler, unlike SIG_IGN, is not inherited by programs that the loader starts.
    left = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    for number in left:
        signal.signal(number, lambda *_: None)
    # Forks of the loader's own have to obey what their parent sends them, from their first moment.
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, left)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def obey() -> None:
        for number in left:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=obey)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _serve(channel: Channel, memory_fd: int) -> None:
    interpreter, known = pickle.loads(channel.receive())
    imports = ImportLog(known)
    setup: WorkerSetup = pickle.loads(channel.receive())
    try:
        apply(interpreter)
        runner = _start(setup, memory_fd)
    except BaseException as error:  # noqa: BLE001  whatever ends the start is reported
        channel.send(_start_failure(error))
        return
    pid, encoder = os.getpid(), _Encoder()
    _report_imports(channel, imports)
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
        _report_imports(channel, imports)
        channel.send(encoder.encode(result, message))


def _report_imports(channel: Channel, imports: ImportLog) -> None:
    new = imports.take()
    if new is not None:
        channel.send(pickle.dumps(new, protocol=5))


def _start_failure(error: BaseException) -> bytes:
    return pickle.dumps(StartFailure(*error_texts(error)))


def _start(setup: WorkerSetup, memory_fd: int) -> ChunkRunner:
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


class _Encoder:
    """Encodes results; plain pickles are a tenth of the cost of those that take classes by value."""

    def __init__(self) -> None:
        self._plain = True

    def encode(self, result: ChunkResult, chunk: Chunk) -> bytes:
        if self._plain:
            try:
                return pickle.dumps(result, protocol=5)
            except Exception:  # noqa: BLE001  whatever a value's own pickling raises
                self._plain = False  # e.g. instances of a class made in a function
        try:
            return pickling.dumps(result)
        except Exception:  # noqa: BLE001  same
            return pickling.dumps(_without_unpicklable(result, chunk))


def _without_unpicklable(result: ChunkResult, chunk: Chunk) -> ChunkResult:
    """The result with failures instead of items whose additional data cannot be sent."""
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
            pickling.dumps(value)
        except Exception as error:  # noqa: BLE001  see _Encoder
            return bounded(
                f"the additional data {name!r} cannot be pickled: {shorten(value, 80)} ({error_texts(error)[0]}); "
                "return plain values such as numbers, strings, lists and NumPy arrays"
            )
    return ""
