"""Worker processes: started by exec with a socket of their own, watched by the kernel.

Promise: no guard around the user's main module is needed, as it is never imported; a worker's end shows at once, also
when a grandchild keeps its socket open; lines that it prints reach the main process's ``sys.stdout`` and
``sys.stderr`` whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydrax_core.data import function
from hydrax_core.engine.resources.slots import SlotMemory
from hydrax_core.engine.workers.imports import Imported, ImportedFile
from hydrax_core.engine.workers.interpreter import JOB_SIGNALS, WORKER_MARK, interpreter_here
from hydrax_core.engine.workers.lifeline import end_of
from hydrax_core.engine.workers.protocol import Report, WorkerGoneError
from hydrax_core.engine.workers.wire import Channel, Chunk, DescriptorEncoder, StartFailure, WorkerSetup, garbled
from hydrax_core.errors import WorkerStartError

__all__ = ["ProcessWorker", "ProcessWorkers", "listeners"]

_PROGRAM = "import sys; sys.path[:] = sys.argv[4:]; from hydrax_core.engine.workers.child import main; main()"
"""On the main process's own search path, or a ``selectors.py`` in the current folder would be taken for Python's."""
_END_SECONDS = 1.0
"""How long a worker may live on after its socket was closed."""
_LONGEST_LINE = 1 << 20
_READ = 1 << 16
_MOST_READS = 32
_ENVIRONMENT = {
    # As many BLAS threads as cores in every worker would fight each other.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc hands blocks of 128 KiB and more back to the kernel at each free() and faults them in again at the next
    # malloc(): 340 page faults an image of 384 x 384, a sixth of the time to decode it (measured).
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_logger = logging.getLogger("hydrax")

listeners: list[Callable[[int, int, str], None]] = []
"""Called with the pid and the number of a worker, of whichever loader, and lines that it wrote; they must not wait."""


class ProcessWorkers:
    """Starts the worker processes of one loader.

    Args:
        setup: Setup of every worker but for its number.

    Raises:
        WorkerStartError: This process is a worker itself, or no Python interpreter is known to start workers with.
    """

    def __init__(self, setup: WorkerSetup, memory: SlotMemory) -> None:
        _check_no_worker()
        self._setup = setup
        self._memory = memory
        self._encoder = DescriptorEncoder()
        self._workers: dict[int, ProcessWorker] = {}
        # A replacement finds what its predecessor found, wherever the main process has gone since.
        self.interpreter = interpreter_here()
        self.environment = {**_ENVIRONMENT, **self.interpreter.environment, WORKER_MARK: "1"}
        self.folder = _current_folder()
        self.imported: dict[str, ImportedFile] = {}

    def start(self, number: int) -> ProcessWorker:
        try:
            worker = ProcessWorker(self._setup._replace(number=number), self._memory, self)
        except OSError as error:
            raise WorkerStartError(
                f"worker {number} could not be started: {error}; each takes a process and five open files "
                "(ulimit -u, ulimit -n), see loader_count"
            ) from error
        definitions = self._encoder.definitions()
        if definitions is not None:
            worker.send_frame(definitions)
        self._workers[number] = worker
        return worker

    def encode(self, chunk: Chunk) -> bytes:
        """The frame of a chunk; what it needs defined goes to all workers first."""
        frame, definitions = self._encoder.encode(chunk)
        if definitions is not None:
            for worker in self._workers.values():
                with contextlib.suppress(WorkerGoneError):
                    worker.send_frame(definitions)
        return frame


class ProcessWorker:
    replaceable = True

    def __init__(self, setup: WorkerSetup, memory: SlotMemory, workers: ProcessWorkers) -> None:
        self.number = setup.number
        self.status = memory.status(setup.number)
        self.status[0] = 0
        self._workers = workers
        interpreter = workers.interpreter
        search_path = [*(path for path in interpreter.path if isinstance(path, str)), str(Path(__file__).parents[3])]
        with contextlib.ExitStack() as undo:
            own, theirs = socket.socketpair()
            undo.callback(own.close)
            with theirs, contextlib.ExitStack() as passed:
                lifeline, kept = os.pipe()
                passed.callback(os.close, lifeline)
                self._lifeline = io.FileIO(kept, "w")  # Ctrl-C cannot have it closed twice, or never
                undo.callback(self._lifeline.close)
                fds = []
                for fd in (theirs.fileno(), memory.fd, lifeline):
                    fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))  # 0 to 2, if closed here, are set anew there
                    passed.callback(os.close, fds[-1])
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)  # until it can handle them
                passed.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and program
                    [sys.executable, *interpreter.flags, "-c", _PROGRAM, *map(str, fds), *search_path],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=workers.environment,
                    cwd=workers.folder if os.path.isdir(workers.folder) else None,  # noqa: PTH112  no text, maybe
                )
            undo.callback(_kill, self._process)
            self._ended = end_of(self._process)
            undo.pop_all()
        self.pid: int | None = self._process.pid
        own.setblocking(False)
        self._channel = Channel(own)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = ((self._process.stdout, "stdout"), (self._process.stderr, "stderr"))
        self._outputs = [_Output(pipe, name, self._process.pid, setup.number) for pipe, name in pipes]
        watched = (self._channel, self._ended, *self._outputs)
        self.descriptors: tuple[int, ...] = tuple(end.fileno() for end in watched)
        self._gone = False
        self.ending = False
        self._killer: threading.Timer | None = None
        self._killed = False
        self.send_frame(pickle.dumps((interpreter, workers.imported), protocol=5))
        self.send_frame(pickle.dumps(setup, protocol=5))
        self.flush()  # it has much to import, while others are started

    @property
    def unsent(self) -> int | None:
        return self._channel.fileno() if self._channel.pending and not self._gone else None

    def send(self, chunk: Chunk) -> None:
        self.send_frame(self._workers.encode(chunk))

    def send_frame(self, frame: bytes) -> None:
        self._channel.queue(frame)

    def flush(self) -> None:
        try:
            self._channel.flush()
        except EOFError:
            self._gone = True  # reports() raises, after what the worker had sent before

    def reports(self, descriptor: int = -1) -> list[Report]:
        for output in self._outputs:
            if descriptor in (-1, output.fileno()):
                output.forward()
                if output.ended:
                    self.descriptors = tuple(fd for fd in self.descriptors if fd != output.fileno())
        if descriptor not in (-1, self._channel.fileno(), self._ended.fileno()):
            return []
        try:
            frames = self._channel.receive_all()
        except EOFError:
            frames = []
            self._gone = True
        messages = self._messages(frames)
        if not frames and (code := self._process.poll()) is not None:
            raise WorkerGoneError(_how_it_ended(code, by_us=self._killed))
        if not frames and self._gone and self._killer is None:
            # Its socket is closed, so it ends in a moment without being waited for; or it lives on, and is killed.
            self.ending = True
            self.descriptors = tuple(fd for fd in self.descriptors if fd != self._channel.fileno())
            self._killer = threading.Timer(_END_SECONDS, self._kill_late)
            self._killer.daemon = True
            self._killer.start()
        return messages

    def _messages(self, frames: list[bytes]) -> list[Report]:
        messages: list[Report] = []
        for frame in frames:
            message = _read(frame)
            if not isinstance(message, Imported):
                messages.append(message)
            elif conflict := message.conflict(self._workers.imported):
                return [StartFailure(conflict, "")]
            else:
                self._workers.imported.update(message.files)
        return messages

    def stop(self) -> None:
        """Close the socket, which ends a worker that is not in the middle of an item."""
        self._gone = True
        self._channel.close()

    def join(self, seconds: float) -> None:
        """Wait for the end; past ``seconds``, kill it."""
        self.stop()
        deadline = time.monotonic() + seconds
        with selectors.PollSelector() as selector:  # takes no descriptor, of which none may be left
            if self._process.poll() is None:
                selector.register(self._ended, selectors.EVENT_READ)
            for output in self._outputs:  # a worker that still prints must not be stuck in a full pipe
                if not output.ended:
                    selector.register(output.fileno(), selectors.EVENT_READ)
            while self._process.poll() is None and (rest := deadline - time.monotonic()) > 0:
                selector.select(rest)
                for output in self._outputs:
                    output.forward()
                    if output.ended and output.fileno() in selector.get_map():
                        selector.unregister(output.fileno())
        _kill(self._process)
        for output in self._outputs:
            output.forward()
        self._close()

    def abandon(self) -> None:
        """Close this process's copies of the descriptors."""
        self._channel.close()
        self._close()

    def _close(self) -> None:
        for output in self._outputs:
            output.close()
        self._lifeline.close()
        self._ended.close()
        if self._killer is not None:
            self._killer.cancel()

    def _kill_late(self) -> None:
        self._killed = True
        self._process.kill()


def _how_it_ended(code: int, *, by_us: bool) -> str:
    if by_us:
        return "it closed its socket"
    if code >= 0:
        return f"it exited with code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"it was killed by signal {-code}"
    return f"it was killed by {number.name} ({(signal.strsignal(number) or '').lower()})"


class _Output:
    """Forwards the lines that a worker prints to the main process's stream of the same name."""

    def __init__(self, pipe: Any, name: str, pid: int, number: int) -> None:
        self._pipe = pipe
        self._name = name
        self._writer = pid, number
        self._fd = int(pipe.fileno())
        self._rest = b""
        self.ended = False
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        return self._fd

    def forward(self) -> None:
        for _ in range(_MOST_READS):  # a worker may print faster than this reads
            if self.ended:
                return
            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                return
            if not data:
                self.ended = True
            lines, newline, rest = (self._rest + data).rpartition(b"\n")
            if len(rest) > _LONGEST_LINE or (self.ended and rest):
                lines, newline, rest = lines + newline + rest, b"\n", b""
            self._rest = rest
            self._write(lines + newline)

    def close(self) -> None:
        self.ended = True
        self._pipe.close()

    def _write(self, data: bytes) -> None:
        if not data:
            return
        text = data.decode(errors="backslashreplace")
        for listener in tuple(listeners):
            listener(*self._writer, text)
        stream: Any = getattr(sys, self._name)
        if stream is None:
            return
        try:
            stream.write(text)
            if hasattr(stream, "flush"):
                stream.flush()
        except Exception as error:  # noqa: BLE001  a program may have put any object there
            _logger.debug("a worker's output is lost, sys.%s cannot be written: %r", self._name, error)


def _check_no_worker() -> None:
    if function.active:
        raise WorkerStartError(
            "a worker process was about to start worker processes of its own, without end: it runs a module that makes "
            "and runs a Dataloader as it is imported. Put that under `if __name__ == '__main__':` or into a function "
            "(where it is meant to run in a worker: loader_kind='inline')"
        )
    if WORKER_MARK in os.environ:
        raise WorkerStartError(
            f"this program was started as a worker of itself: sys.executable, {sys.executable!r}, is no Python "
            f"interpreter but the program. {_EXECUTABLE}"
        )
    if getattr(sys, "frozen", False) or not sys.executable:
        what = "is a frozen program" if sys.executable else "names no program"
        raise WorkerStartError(f"sys.executable, {sys.executable!r}, {what}, no Python interpreter. {_EXECUTABLE}")


_EXECUTABLE = (
    "Set sys.executable to the path of a Python interpreter with the same packages before the loader starts, "
    "or use loader_kind='thread'"
)


def _read(frame: bytes) -> Report | Imported:
    try:
        report: Report | Imported = pickle.loads(frame)
    except Exception as error:  # noqa: BLE001  whatever a value's own unpickling raises
        what = "the additional data cannot be unpickled; return plain values such as numbers and strings"
        report = garbled(what, error)
    return report


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _current_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  as isdir() wants it
    except FileNotFoundError:  # it was removed
        return ""
