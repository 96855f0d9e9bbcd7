"""Reporters of a run: live bars on a terminal, plain lines elsewhere, or nothing.

Promise: a report costs little: what is shown is brought up to date ten times a second at most, whatever the batches do.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from hydrax_cli.run.render.terminal import plan_view, result_view
from hydrax_cli.run.render.text import pass_line, plan_lines, rates, result_lines
from hydrax_cli.shared.units import count, many

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from hydrax_cli.run.summary import PlannedRun, RunResult
    from hydrax_core import Batch
    from hydrax_core.monitor import Pass, Passes

__all__ = ["PlainReporter", "Reporter", "SilentReporter", "TerminalReporter", "choose_reporter"]

_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 10.0
_WINDOW_SECONDS = 2.0


class Reporter:
    """Hears of a run: ``start``, then ``batch`` by batch with the passes it ends, then ``finish`` or ``abandon``."""

    def start(self, plan: PlannedRun) -> None:
        """The run begins."""

    def batch(self, batch: Batch[Any], passes: Passes, ended: Iterable[Pass]) -> None:
        """A batch was handed out and worked on."""

    def finish(self, result: RunResult, ended: Iterable[Pass]) -> None:
        """The run is over; ``ended`` are the passes that ``batch`` did not get."""

    def abandon(self) -> None:
        """The run is over, and there is no result. May follow ``finish``."""


def choose_reporter(stream: TextIO, *, quiet: bool) -> Reporter:
    if quiet:
        return SilentReporter(stream)
    console = Console(file=stream, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalReporter(console)
    return PlainReporter(stream)


class SilentReporter(Reporter):
    """Writes only the digest, where one was asked for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def finish(self, result: RunResult, ended: Iterable[Pass]) -> None:  # noqa: ARG002  see Reporter
        if result.digest is not None:
            self._stream.write(f"{result.digest}\n")


class PlainReporter(Reporter):
    """Plain lines: the plan, each pass when it ends, a sign of life every ten seconds, the result."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_line = 0.0

    def start(self, plan: PlannedRun) -> None:
        self._next_line = time.monotonic() + _LINE_SECONDS
        self._write(plan_lines(plan))

    def batch(self, batch: Batch[Any], passes: Passes, ended: Iterable[Pass]) -> None:
        self._write(pass_line(done) for done in ended)
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            items = f"{many(passes.items, 'item')} so far"
            assert passes.current is not None
            of = "" if batch.progress_total is None else f" of {batch.progress_total}"
            self._write([f"{passes.current.name}: batch {batch.progress}{of}, {items}"])

    def finish(self, result: RunResult, ended: Iterable[Pass]) -> None:
        self._write(pass_line(done) for done in ended)
        self._write(result_lines(result))

    def _write(self, lines: Iterable[str]) -> None:
        written = False
        for line in lines:
            self._stream.write(f"{line}\n")
            written = True
        if written:
            self._stream.flush()


class TerminalReporter(Reporter):
    """The plan, live bars, the result."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: _Bars | None = None
        self._next_refresh = 0.0

    def start(self, plan: PlannedRun) -> None:
        self._console.print(plan_view(plan))
        self._bars = _Bars(self._console, plan)
        self._bars.start()

    def batch(self, batch: Batch[Any], passes: Passes, ended: Iterable[Pass]) -> None:  # noqa: ARG002  see Reporter
        now = time.monotonic()
        if now >= self._next_refresh and self._bars is not None:
            self._next_refresh = now + _REFRESH_SECONDS
            self._bars.show(now, batch, passes)

    def finish(self, result: RunResult, ended: Iterable[Pass]) -> None:  # noqa: ARG002  see Reporter
        self.abandon()
        self._console.print(result_view(result))

    def abandon(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Bars(Progress):
    """A bar for the epoch or validation run, one for the whole, and a line of rates."""

    def __init__(self, console: Console, plan: PlannedRun) -> None:
        self._rates = Text(f"starting {many(plan.loader_count, 'worker')}", style="dim")
        super().__init__(
            TextColumn("{task.description}", style="cyan"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            _CountColumn(Column(justify="right")),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
        )
        self._window: deque[tuple[float, int, int, float]] = deque()
        self._epoch = self.add_task("epoch", total=None if plan.plan.streams() else plan.plan.batches_per_epoch)
        self._whole = self.add_task("whole run", total=plan.batches)

    def show(self, now: float, batch: Batch[Any], passes: Passes) -> None:
        self._rates = self._rate_text(now, passes)
        assert passes.current is not None
        self.update(self._epoch, description=passes.current.name, completed=batch.progress, total=batch.progress_total)
        self.update(self._whole, completed=passes.batches)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield self._rates

    def _rate_text(self, now: float, passes: Passes) -> Text:
        window = self._window
        window.append((now, passes.items, passes.bytes, passes.idle_seconds))
        while len(window) > 2 and now - window[1][0] >= _WINDOW_SECONDS:  # noqa: PLR2004  both ends
            window.popleft()
        then, items, array_bytes, idle = window[0]
        values = rates(passes.items - items, passes.bytes - array_bytes, passes.idle_seconds - idle, now - then)
        return Text.assemble(
            *(
                (text, style)
                for value, unit in zip(values, (" items/s   ", " MB/s   ", " idle"), strict=True)
                for text, style in ((value, "bold"), (unit, "dim"))
            )
        )


class _CountColumn(ProgressColumn):
    """``12/22``."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{count(int(task.total))}"
        return Text(f"{count(int(task.completed))}{of}", style="dim")
