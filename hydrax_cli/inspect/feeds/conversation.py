"""A conversation with one run: asks a few times a second, keeps what comes until the screens take it.

Promise: one question is under way at a time, so that a run that does not answer is asked nothing more. What is kept is
bounded. Used by one thread, but for what is said to be for others.

Batches of a live run are sampled: kept are the last rows that came for the picture, up to ``_MOST_KEPT_BYTES``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from hydrax_cli.inspect.feeds.live import Translation, gone_fault, trouble_fault
from hydrax_core.monitor import Ask, Bye, Connection, Hello, Moment, Refusal, RunPlan, Sample, check_version

if TYPE_CHECKING:
    from hydrax_cli.inspect.feeds.capture import LogBuffer
    from hydrax_cli.inspect.run_view import BatchView, Fault
    from hydrax_core.monitor import BatchRecord, Run

__all__ = ["Conversation"]

_ASK_SECONDS = 0.25
_MOST_RECORDS = 500
_MOST_KEPT_BYTES = 48 << 20
_MOST_KEPT = 100
"""Samples; at the pace that they come in, the table forgets a batch before that."""
_FRESH_SECONDS = 3.0
"""A batch that came so lately is taken for the newest: a fast run has left it behind when the key arrives."""


class Conversation:
    """Talks to a run.

    Args:
        first: Serial of the last record that the screens know.
        log: Gets the lines of the run.
    """

    def __init__(self, run: Run, first: int, log: LogBuffer) -> None:
        self._run = run
        self._first = first
        self._log = log
        self._connection = Connection(run.path)
        self._news = threading.Condition()
        # For others to read:
        self.translation: Translation | None = None
        self.moment: Moment | None = None
        self.current: BatchRecord | None = None
        self.records: deque[BatchRecord] = deque(maxlen=_MOST_RECORDS)
        self.latest: BatchView | None = None
        self.fault: Fault | None = None
        self.over = False
        self.asked_at: float | None = None
        """When the question was asked that is not answered yet."""
        # Of the thread:
        self._kept: dict[int, tuple[Sample, bytes]] = {}
        self._kept_bytes = 0
        self._after = self._lines_after = 0
        self._next_ask = 0.0
        self._fresh: deque[tuple[float, int]] = deque()
        # Orders, under _news:
        self._sample_wanted = False
        self._batch_wanted = False
        self._whole: tuple[Sample, bytes] | str | None = None

    def fileno(self) -> int:
        """Readable when ``hear()`` has something to hear."""
        return self._connection.fileno()

    def ask(self, now: float) -> float | None:
        """Ask what is due; how long until there is something to ask, ``None`` for after an answer.

        Raises:
            ConnectionError: The run takes no questions any more.
        """
        if self.asked_at is not None:
            return None
        if self.translation is None:
            question = Ask("about")
        elif now < self._next_ask:
            return self._next_ask - now
        else:
            with self._news:
                if self._batch_wanted:
                    self._batch_wanted = False
                    self._connection.ask(Ask("batch"))
                question = Ask("moment", self._after, self._lines_after, self._sample_wanted)
                self._sample_wanted = False
        self._connection.ask(question)
        self.asked_at = now
        if question.what == "moment":
            self._next_ask = now + _ASK_SECONDS
        return None

    def hear(self) -> None:
        for message, payload in self._connection.receive():
            if isinstance(message, Hello):
                check_version(message)
            elif isinstance(message, RunPlan):
                self.asked_at = None
                self.translation = Translation(self._run, message, self._first)
            elif isinstance(message, Moment):
                self.asked_at = None
                self._take(message)
            elif isinstance(message, Sample):
                self._keep(message, payload)
            elif isinstance(message, Refusal):
                if message.what == "about":
                    raise ConnectionError(message.text)
                self._answer(message.text)
            elif isinstance(message, Bye):
                self._part(message)
                return

    def close(self) -> None:
        self._connection.close()
        self.over = True
        self.asked_at = None
        with self._news:
            self._news.notify_all()

    # --- for other threads

    def want_sample(self) -> None:
        """Have the rows of a newer batch come."""
        self._sample_wanted = True

    def has(self, serial: int) -> bool:
        return serial in self._kept

    def kept(self, serial: int) -> tuple[Sample, bytes] | None:
        return self._kept.get(serial)

    def is_fresh(self, serial: int) -> bool:
        """Whether that batch is the newest, or was a moment ago."""
        newest = self.current is not None and serial == self.current.serial
        fresh = self._fresh.copy()
        return newest or (bool(fresh) and serial > fresh[0][1])

    def silent_for(self) -> float:
        """Seconds since the question that was not answered yet."""
        asked_at = self.asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def next_batch(self, seconds: float) -> tuple[Sample, bytes] | str:
        """The next batch handed out, whole, or why there is none within so many seconds."""
        with self._news:
            self._batch_wanted, self._whole = True, None
            self._news.wait_for(self._is_answered, seconds)
            self._batch_wanted = False
            why = "the run is over" if self.over else f"the run handed out no batch for {seconds:g} s"
            return self._whole or why

    def _is_answered(self) -> bool:
        return self._whole is not None or self.over

    # --- what comes

    def _take(self, moment: Moment) -> None:
        translation = self._translated()
        made = [translation.record(record) for record in moment.records if record.serial > self._after]
        now = time.monotonic()
        if made:
            self._after = moment.records[-1].serial
            self.current = made[-1]
            self.records.extend(made)
            self._fresh.append((now, made[0].serial - 1))
        while self._fresh and now - self._fresh[0][0] > _FRESH_SECONDS:
            self._fresh.popleft()
        for line in moment.lines:
            if line.serial > self._lines_after:
                self._log.add(line.source, line.level, line.text, line.at)
                self._lines_after = line.serial
        if moment.missed_lines > 0:
            self._log.miss(moment.missed_lines)
        self.fault = trouble_fault(moment.trouble, self.fault)
        self.moment = moment

    def _keep(self, sample: Sample, payload: bytes) -> None:
        translation = self._translated()
        serial = translation.record(sample.record).serial
        if not sample.rows:
            return  # not even one has room
        try:
            self.latest = translation.view(sample, payload)
        except LookupError as error:
            raise ConnectionError(str(error)) from error
        if serial not in self._kept:
            self._kept[serial] = sample, payload
            self._kept_bytes += len(payload)
        while len(self._kept) > _MOST_KEPT or (self._kept_bytes > _MOST_KEPT_BYTES and len(self._kept) > 1):
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest)[1])
        if sample.rows >= sample.record.size:
            self._answer((sample, payload))

    def _translated(self) -> Translation:
        if self.translation is None:
            raise ConnectionError("it speaks before it is asked")
        return self.translation

    def _answer(self, whole: tuple[Sample, bytes] | str) -> None:
        with self._news:
            self._whole = whole
            self._news.notify_all()

    def _part(self, bye: Bye) -> None:
        self.over = True
        if bye.failed:
            self.fault = gone_fault(self._run, bye.text)
        else:
            self._log.add("inspect", "info", f"{bye.text}; r looks for runs again")
