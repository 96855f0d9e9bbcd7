"""How far a training loop is, in the user's own loop: ``for batch in track(loader):``.

Promise: the batches are those of the loader, one after the other, and none is kept. A bar an epoch and one for the
validation within it; items a second, and the share of the time that the loop waited for batches. In a terminal rich
draws it, in a notebook tqdm; in a file, or without them, there are plain lines. They are imported when they are used.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, TypeVar

from hydrax_core.monitor.run import Pass, Passes

if TYPE_CHECKING:
    from hydrax_core.batch.batch import Batch

__all__ = ["track"]

BatchT = TypeVar("BatchT", bound="Batch[Any]")
Style = Literal["auto", "terminal", "notebook", "lines"]
_LINE_SECONDS = 10.0
_STYLES = ("auto", "terminal", "notebook", "lines")


def track(loader: Iterable[BatchT], *, style: Style = "auto", file: TextIO | None = None) -> Iterator[BatchT]:
    """Iterate over a loader and show how far it is.

    Args:
        loader: A ``Dataloader``; one that runs in a ``with`` block goes on there.
        style: ``"terminal"``: bars by rich; ``"notebook"``: bars by tqdm; ``"lines"``: a line a pass, and one every ten
            seconds; ``"auto"``: what goes with ``file``.
        file: Where it is shown; ``None`` for standard error.

    Yields:
        The loader's batches.

    Raises:
        ValueError: ``style`` is none of these.
        ModuleNotFoundError: A style was asked for by name whose library is not installed.
    """
    if style not in _STYLES:
        raise ValueError(f"style: expected one of {', '.join(_STYLES)}; got {style!r}")
    return _tracked(loader, style, sys.stderr if file is None else file)


def _tracked(loader: Iterable[BatchT], style: Style, file: TextIO) -> Iterator[BatchT]:
    passes = Passes(ordered=getattr(loader, "deterministic", True))
    batches = iter(loader)
    with contextlib.closing(_display(style, file)) as display:
        before = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            idle = time.perf_counter() - asked
            yield batch
            now = time.perf_counter()
            ended = passes.add(batch, now - before, idle)
            assert passes.current is not None
            display.show(passes.current, batch.progress, batch.progress_total, ended)
            before = now
            del batch  # or it would be held while the next one is waited for
        for done in passes.end():
            display.end(done)


class _Display(Protocol):
    def show(self, current: Pass, done: int, total: int | None, ended: list[Pass]) -> None: ...
    def end(self, done: Pass) -> None: ...
    def close(self) -> None: ...


def _display(style: Style, file: TextIO) -> _Display:
    """What shows it; ``"auto"`` takes what is there."""
    if style == "auto":
        wanted = "notebook" if _in_notebook() else "terminal" if file.isatty() else "lines"
        with contextlib.suppress(ImportError):
            return _STYLED[wanted](file)
        return _Lines(file)
    return _STYLED[style](file)


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this, which has imported IPython."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _rates(counts: Pass) -> str:
    speed = f"{counts.items / counts.seconds:,.0f} items/s" if counts.seconds else "-"
    idle = f"{100 * min(1.0, counts.idle_seconds / counts.seconds):.0f} %" if counts.seconds else "-"
    return f"{speed}, idle {idle}"


def _line(done: Pass) -> str:
    batches = "1 batch" if done.batches == 1 else f"{done.batches:,} batches"
    return f"{done.name}: {batches}, {done.items:,} items in {done.seconds:,.1f} s, {_rates(done)}"


class _Lines:
    """A line a pass, and a sign of life."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._reported = time.monotonic()

    def show(self, current: Pass, done: int, total: int | None, ended: list[Pass]) -> None:
        for one in ended:
            self.end(one)
        if not ended and time.monotonic() - self._reported >= _LINE_SECONDS:
            of = "" if total is None else f" of {total:,}"
            self._write(f"{current.name}: {done:,}{of} batches, {_rates(current)}")

    def end(self, done: Pass) -> None:
        self._write(_line(done))

    def _write(self, line: str) -> None:
        self._reported = time.monotonic()
        self._file.write(f"{line}\n")
        self._file.flush()

    def close(self) -> None:
        """Lines need no end."""


class _Terminal:
    """Bars while a pass runs, its line when it is over."""

    def __init__(self, file: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415  only this style needs it
        from rich.progress import (  # noqa: PLC0415  same
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=Console(file=file),
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def show(self, current: Pass, done: int, total: int | None, ended: list[Pass]) -> None:
        rates = _rates(current)
        if current.name not in self._tasks:
            indent = "" if current.kind == "training" else "  "
            self._tasks[current.name] = self._bars.add_task(f"{indent}{current.name}", total=total, rates=rates)
        self._bars.update(self._tasks[current.name], completed=done, rates=rates)
        for one in ended:
            self.end(one)

    def end(self, done: Pass) -> None:
        self._bars.remove_task(self._tasks.pop(done.name))
        self._bars.console.print(_line(done), markup=False, highlight=False)

    def close(self) -> None:
        self._bars.stop()


class _Notebook:
    """A bar a pass; that of an epoch stays."""

    def __init__(self, file: TextIO) -> None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # noqa: PLC0415  only a notebook needs it

        self._make = tqdm
        self._file = file
        self._bars: dict[str, Any] = {}

    def show(self, current: Pass, done: int, total: int | None, ended: list[Pass]) -> None:
        bar = self._bars.get(current.name)
        if bar is None:
            stays = current.kind == "training"
            bar = self._make(total=total, desc=current.name, unit="batch", leave=stays, file=self._file)
            self._bars[current.name] = bar
        bar.set_postfix_str(_rates(current), refresh=False)
        bar.update(done - bar.n)
        for one in ended:
            self.end(one)

    def end(self, done: Pass) -> None:
        self._bars.pop(done.name).close()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


_STYLED: dict[str, Callable[[TextIO], _Display]] = {"terminal": _Terminal, "notebook": _Notebook, "lines": _Lines}
