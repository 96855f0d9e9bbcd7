"""A progress bar on the terminal's error stream, elsewhere nothing.

Promise: lines said while it is shown go to standard output, above the bar where both share a terminal.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from hydrax_cli.shared.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Progress", "progress"]

_REFRESH_SECONDS = 0.05


class Progress:
    """Told how far something came; ``done`` remembers it.

    Args:
        show: Shows an amount done and the whole.
    """

    def __init__(self, show: Callable[[int, int], None], say: Callable[[str], None]) -> None:
        self._show = show
        self._next = 0.0
        self.say = say
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        """Some times a second of all the times that this is called, the bar moves."""
        self.done = done
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + _REFRESH_SECONDS
            self._show(done, total)


@contextmanager
def progress(title: str, unit: Literal["bytes", "batches"]) -> Iterator[Progress]:
    """A bar for as long as the context lasts."""
    if not sys.stderr.isatty():
        yield Progress(lambda _done, _total: None, click.echo)
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal pays for it
    from rich.progress import (  # noqa: PLC0415  same
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415  same
    from rich.text import Text  # noqa: PLC0415  same

    columns: list[ProgressColumn] = [TextColumn("{task.description}", style="cyan", markup=False)]
    columns.append(BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"))
    columns.append(DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn())
    columns += [TransferSpeedColumn()] if unit == "bytes" else []
    columns.append(TimeRemainingColumn(compact=True))
    console = Console(stderr=True, highlight=False)
    bars = Bars(*columns, console=console, transient=True, expand=True)

    def say(line: str) -> None:
        if sys.stdout.isatty():  # the bar is on the same screen, and has to make room
            console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            click.echo(line)

    def show(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total)

    with bars:
        task = bars.add_task(clean(title), total=None)
        yield Progress(show, say)
