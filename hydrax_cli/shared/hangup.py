"""A terminal that goes away.

Promise: a command whose standard output is a terminal ends once that is gone, as by SIGHUP, which the system sends to
the leader of a session and its job in the foreground only. Whatever ignores SIGHUP (``nohup``) and whatever writes to a
file or a pipe goes on; what it would still write to the terminal is dropped.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

__all__ = ["end_with_terminal"]

_STDOUT, _STDERR = 1, 2
_POLL_MILLISECONDS = 500
"""A pseudo-terminal that goes away ends the wait itself."""


def end_with_terminal() -> None:
    """Watch standard output and standard error from now on, as far as they are terminals."""
    poll = select.poll()
    watched = {}
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            copy = os.dup(stream.fileno())  # what captures standard output puts something else in its place
            watched[copy] = stream is sys.__stdout__
            poll.register(copy, 0)
    if watched:
        threading.Thread(target=_watch, args=(poll, watched), name="hydrax-terminal", daemon=True).start()


def _watch(poll: select.poll, watched: dict[int, bool]) -> None:
    while watched:
        for descriptor, event in poll.poll(_POLL_MILLISECONDS):
            poll.unregister(descriptor)
            os.close(descriptor)
            ends = watched.pop(descriptor)
            if event & select.POLLHUP:
                _hang_up(ends=ends)


def _hang_up(*, ends: bool) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (_STDOUT, _STDERR):
        if _is_gone(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
    if ends:
        os.kill(os.getpid(), signal.SIGHUP)


def _is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
