"""How main process and worker learn of each other's end.

Promise: a worker is killed when the main process is gone, even while a loader holds the interpreter; a worker's end
makes a descriptor of the main process readable, also when a grandchild keeps the worker's socket open.

The main process holds one end of a pipe, the lifeline. On Linux the kernel sends SIGKILL to the worker when that end
closes; elsewhere a small fork of the worker reads the pipe, and kills. On Linux a process's end is a descriptor of its
own; elsewhere a thread of the main process waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

from hydrax_core.data.portable import PORTABLE
from hydrax_core.engine.workers.wire import NO_SIGNAL

if TYPE_CHECKING:
    import subprocess  # which a worker has no use for

__all__ = ["end_of", "tie_to"]

_F_SETSIG = 10  # <fcntl.h>; Python has no name for it
_MOST_DESCRIPTORS = 4096


def tie_to(lifeline: int) -> None:
    """Have this process killed when the other end of the lifeline closes; called before it has threads."""
    if PORTABLE:
        _fork_watcher(lifeline)
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # The main process may have gone before the tie was made.
    os.set_blocking(lifeline, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(lifeline, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def end_of(process: subprocess.Popen[bytes]) -> io.FileIO | socket.socket:
    """What becomes readable when a process ends."""
    if not PORTABLE:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            return io.FileIO(os.pidfd_open(process.pid))  # it closes once, whenever Ctrl-C comes
    ended, notify = socket.socketpair()
    threading.Thread(target=_wait, args=(process, notify), name="hydrax-wait", daemon=True).start()
    return ended


def _wait(process: subprocess.Popen[bytes], notify: socket.socket) -> None:
    with notify, contextlib.suppress(OSError):
        process.wait()
        notify.send(b"\0", NO_SIGNAL)  # a fork of this process may keep the socket open


def _fork_watcher(lifeline: int) -> None:
    worker = os.getpid()
    ended, _ = os.pipe()  # the second is the worker's, and closes with it
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(ended)
        return
    if os.fork() == 0:  # no child of the worker, whose loader may wait for all its children
        first, last = sorted((lifeline, ended))
        for start, end in ((0, first), (first + 1, last), (last + 1, _MOST_DESCRIPTORS)):
            os.closerange(start, end)
        readable = select.select([lifeline, ended], [], [])[0]
        if ended not in readable:
            os.kill(worker, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # as nothing of what the interpreter does at its end is theirs to do
