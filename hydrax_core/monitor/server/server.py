"""The training's side: a thread that offers a socket and answers inspectors.

Promise: the training never waits for it. Without a client the thread sleeps; with one it wakes when that asks, at most
ten times a second. Whatever goes wrong here ends the watching, with one line in the log, and never the run. The socket
goes with the loader; what a killed process leaves is removed when runs are listed. In a fork's child it is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.group import DataGroup
from hydrax_core.engine.ready import Wakeup
from hydrax_core.monitor.protocol import address
from hydrax_core.monitor.protocol.messages import VERSION, Ask, Bye, Hello, Moment, Refusal
from hydrax_core.monitor.protocol.wire import MOST_PAYLOAD
from hydrax_core.monitor.run import BatchRecord, RunPlan
from hydrax_core.monitor.server import describe
from hydrax_core.monitor.server.listen import Listener
from hydrax_core.monitor.server.peer import Gone, Peer
from hydrax_core.monitor.stats import Stats
from hydrax_core.monitor.tap import RowsRequest, Tap

__all__ = ["Monitor"]

_JOIN_SECONDS = 1.0
_MOST_CLIENTS = 8
_DEAF_SECONDS = 1.0
"""How long no client is let in after the process had no descriptor for one."""
_SAMPLE_BYTES = 2 << 20
_LARGEST_ROW = 16 << 20
"""Of larger rows not even one is in a sample."""
_SAMPLE_SECONDS = 0.4
"""Between two samples."""
_MOST_RECORDS = 128
"""In one answer, but for the first."""
_MIB = 1 << 20
_logger = logging.getLogger("hydrax")


class Monitor:
    """Offers one loader from ``start()`` to ``close()``.

    Args:
        groups: Its groups, training before validation.
        plan: Gives what is known of it before it runs.
        snapshot: Gives its counts.
        name: What the user calls the run; ``""`` for the name of the script.
    """

    def __init__(
        self, groups: Sequence[DataGroup[Any]], plan: Callable[[], RunPlan], snapshot: Callable[[], Stats], name: str
    ) -> None:
        self._wakeup = Wakeup()
        self.tap = Tap(self._wakeup.wake)
        self._groups, self._plan = groups, plan
        self._sizes = describe.sizes(groups)
        self._snapshot = snapshot
        self._name = name
        self._since = time.time()
        self._pid = os.getpid()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="hydrax-monitor", daemon=True)
        # Of the thread alone:
        self._listening: socket.socket | None = None
        self._path: Path | None = None
        self._deaf_until: float | None = None
        self._selector = selectors.PollSelector()  # epoll's set would be shared with a fork's child
        self._peers: list[Peer] = []
        self._listener = Listener()
        self._memory: npt.NDArray[np.uint8] | None = None
        self._in_use_by: list[Peer] = []
        """Those that the memory is being sent to."""
        self._next_sample = 0.0
        _monitors.add(self)

    def start(self, owner: object) -> None:
        """Start the thread, which does all the rest, so that Ctrl-C cannot leave it half done.

        Args:
            owner: When it is gone, the thread ends.

        Raises:
            RuntimeError: There can be no further thread.
        """
        self._owner = weakref.ref(owner, lambda _: self._stop())
        self._thread.start()

    def close(self) -> None:
        """End the thread and remove the socket."""
        if os.getpid() != self._pid:
            return
        self._stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _stop(self) -> None:
        self._closing = True
        self._wakeup.wake()

    def abandon(self) -> None:
        """Close this process's copies of the descriptors: it is a fork of the one that they belong to."""
        self._wakeup.close()
        if self._listening is not None:
            self._listening.close()
        for peer in self._peers:
            peer.close()

    # --- the thread

    def _run(self) -> None:
        try:
            self._listening, bound = address.bind()
            self._path = bound.path
            self._listening.listen(_MOST_CLIENTS)
            self._selector.register(self._wakeup, selectors.EVENT_READ)
            self._selector.register(self._listening, selectors.EVENT_READ)
            while not self._closing:
                self._turn()
        except OSError as error:
            # As text: kept log records would keep the traceback, and with it the memory of the batches.
            _logger.warning("this run cannot be watched: %s", str(error))
        except Exception:  # noqa: BLE001  a defect of ours must not end the run
            text = traceback.format_exc()
            _logger.error("this run cannot be watched any longer; it goes on by itself\n%s", text)  # noqa: TRY400  see above
        finally:
            self._end()

    def _end(self) -> None:
        if self._path is not None:
            address.remove(self._path)
        if self._listening is not None:
            self._listening.close()
        bye = self._bye()
        for peer in list(self._peers):
            with contextlib.suppress(Gone, ValueError):
                now = time.monotonic()
                if peer.last_asked is not None and self._closing:
                    peer.say(self._moment(peer.last_asked), now=now)  # the last batches, which were not asked for yet
                peer.say(bye, now=now)
            self._drop(peer)
        self._selector.close()
        self._wakeup.close()
        self.tap.request = None

    def _bye(self) -> Bye:
        tap = self.tap
        if tap.trouble is not None and tap.trouble.left:
            return Bye(tap.trouble.text, failed=True)
        if tap.left_by:
            return Bye(f"the run was ended by {tap.left_by}", failed=False)
        return Bye("the run has ended" if tap.ended else "the loader was closed", failed=False)

    def _turn(self) -> None:
        now = time.monotonic()
        due = min(self._dues(), default=None)
        for key, events in self._selector.select(None if due is None else max(0.0, due - now)):
            if key.fileobj is self._wakeup:
                self._wakeup.clear()
            elif key.fileobj is self._listening:
                self._let_in()
            else:
                self._attend(key.data, events)
        now = time.monotonic()
        if self._deaf_until is not None and now >= self._deaf_until:
            self._deaf_until = None
            assert self._listening is not None
            self._selector.register(self._listening, selectors.EVENT_READ)
        for peer in list(self._peers):
            with self._losing(peer):
                peer.flush(now)
                question = peer.question(now)
                if question is not None:
                    self._answer(peer, question, now)
        self._pass_on(now)
        self._request(now)
        self._watch()

    def _dues(self) -> Iterator[float]:
        if self._deaf_until is not None:
            yield self._deaf_until
        for peer in self._peers:
            due = peer.due()
            if due is not None:
                yield due
        if self._may_request() and any(self._wanting()):
            yield self._next_sample

    def _watch(self) -> None:
        """Have the selector watch for room to send more."""
        for peer in self._peers:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.sending else 0)
            if self._selector.get_key(peer).events != wanted:
                self._selector.modify(peer, wanted, peer)

    # --- clients

    def _let_in(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._selector.unregister(self._listening)
                self._deaf_until = time.monotonic() + _DEAF_SECONDS
            return  # it has gone again, else
        connection.setblocking(False)
        user = address.peer_user(connection)
        if not address.is_allowed(user):
            _logger.warning("user %d wanted to watch this run and was refused", user)
            connection.close()
            return
        peer = Peer(connection)
        self._peers.append(peer)
        self._selector.register(peer, selectors.EVENT_READ, peer)
        if len(self._peers) == 1:
            self._listener.start()
        now = time.monotonic()
        with self._losing(peer):
            if len(self._peers) > _MOST_CLIENTS:
                peer.say(Bye(f"{_MOST_CLIENTS} others watch this run already", failed=True), now=now)
                raise Gone
            peer.say(self._hello(), now=now)

    def _attend(self, peer: Peer, events: int) -> None:
        if events & selectors.EVENT_READ and peer in self._peers:
            with self._losing(peer):
                peer.hear()

    @contextlib.contextmanager
    def _losing(self, peer: Peer) -> Iterator[None]:
        try:
            yield
        except Gone as gone:
            _logger.debug("a client of the monitor is dropped: %s", gone)
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        self._selector.unregister(peer)
        peer.close()
        self._peers.remove(peer)
        if not self._peers:
            self._listener.stop()
            self._memory = None

    # --- answers

    def _hello(self) -> Hello:
        records = self.tap.records.copy()
        record = records[-1] if records else None
        return Hello(
            version=VERSION,
            pid=self._pid,
            name=self._name or describe.program(),
            command=describe.command_line(),
            since=self._since,
            place=None if record is None else (record.kind, record.epoch, record.epoch_batch),
            ended=self.tap.ended,
        )

    def _answer(self, peer: Peer, question: Ask, now: float) -> None:
        if question.what == "moment":
            peer.wants_sample |= question.sample
            peer.last_asked = question
            peer.say(self._moment(question), now=now)
        elif question.what == "batch":
            refusal = self._why_no_batch()
            if refusal:
                peer.say(Refusal("batch", refusal), now=now)
            else:
                peer.wants_batch = True
        else:
            try:
                peer.say(self._plan(), now=now)
            except ValueError:
                peer.say(Refusal("about", "it has too many groups and arrays to be watched"), now=now)

    def _moment(self, question: Ask) -> Moment:
        tap, stats = self.tap, self._snapshot()
        records = self._records(question.after)
        lines, missed = self._listener.lines(question.lines_after, (w.pid for w in stats.workers if w.pid is not None))
        since = tap.waiting_since
        return Moment(
            stats=stats,
            records=records,
            lines=lines,
            missed_lines=missed,
            waiting_seconds=0.0 if since is None else max(0.0, time.perf_counter() - since),
            device=tap.device,
            ended=tap.ended,
            trouble=tap.trouble,
        )

    def _records(self, after: int) -> tuple[BatchRecord, ...]:
        new = [record for record in self.tap.records.copy() if record.serial > after]
        return tuple(new[-_MOST_RECORDS:] if after else new)

    def _why_no_batch(self) -> str:
        if self.tap.ended:
            return "the run has ended: no further batch comes"
        batch, _ = self._sizes
        if batch > MOST_PAYLOAD:
            return (
                f"a batch takes {batch // _MIB:,} MiB; out of a live run, batches of at most "
                f"{MOST_PAYLOAD // _MIB} MiB are copied whole"
            )
        return ""

    # --- samples

    def _may_request(self) -> bool:
        """Whether the training's thread has nothing to copy."""
        return self.tap.request is None and self.tap.copied is None

    def _wanting(self) -> list[Peer]:
        """Clients that want rows and have read what was sent before: a slow reader delays no other."""
        return [peer for peer in self._peers if (peer.wants_sample or peer.wants_batch) and not peer.sending]

    def _request(self, now: float) -> None:
        """Have the training's thread copy the next batch, where a client wants it."""
        if now < self._next_sample or not self._may_request():
            return
        wanting = self._wanting()
        if not wanting:
            return
        whole = any(peer.wants_batch for peer in wanting)
        if any(peer in self._peers and peer.sending for peer in self._in_use_by):
            self._memory = None  # theirs until it has left; others get memory of their own
        self._in_use_by = []
        batch, row = self._sizes
        size = batch if whole else min(batch, max(_SAMPLE_BYTES, min(row, _LARGEST_ROW)))
        if self._memory is None or not size <= self._memory.size <= 2 * size:
            self._memory = np.empty(size, np.uint8)
            self._memory.fill(0)  # here, not in the training's thread, the kernel finds the memory
        self._next_sample = now + _SAMPLE_SECONDS
        self.tap.request = RowsRequest(self._memory, whole)

    def _pass_on(self, now: float) -> None:
        """Send what the training's thread has copied to those who want it."""
        copied = self.tap.copied
        if copied is None:
            return
        self.tap.copied = None
        wanted = [peer for peer in self._wanting() if peer.wants_sample or copied.whole]
        if not wanted:
            return
        message = describe.sample(copied, self._groups[copied.group])
        payload = memoryview(b"" if self._memory is None else self._memory.data)[: copied.bytes]
        for peer in wanted:
            with self._losing(peer):
                try:
                    peer.say(message, payload, now=now)
                except ValueError:
                    if peer.wants_batch:
                        peer.say(Refusal("batch", "a batch has too many rows to be copied whole"), now=now)
            peer.wants_sample = False
            peer.wants_batch &= not copied.whole
        self._in_use_by = wanted


_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()
"""Monitors at work, so that a fork's child closes their sockets and the end of the program removes them."""


def _after_fork_in_child() -> None:
    for monitor in list(_monitors):
        monitor.abandon()


def _at_exit() -> None:
    for monitor in list(_monitors):
        monitor.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
