"""The runs of other processes, to choose one to watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from hydrax_cli.inspect.run_view import RunChoice
from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.units import many, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

__all__ = ["RunsScreen"]

_NAME_WIDTH = 22


class _RunList(LineList):
    def __init__(self, runs: Sequence[RunChoice]) -> None:
        super().__init__(id="run-list")
        self._runs = runs
        self.chosen = 0

    def count(self) -> int:
        return len(self._runs)

    def header(self, width: int) -> Pieces:  # noqa: ARG002  the same at every width
        return [(f"   {'run':<{_NAME_WIDTH}} {'pid':>8}  {'for':<11} {'at':<18} command", "head")]

    def pieces(self, index: int, width: int) -> Pieces:  # noqa: ARG002  the end of a line is cut
        run = self._runs[index]
        seconds = "-" if run.seconds is None else span(run.seconds)
        yield " ▸ " if index == self.chosen else "   ", "key"
        yield f"{run.name[:_NAME_WIDTH]:<{_NAME_WIDTH}} ", "plain" if run.seconds is not None else "warn"
        yield f"{run.pid:>8}  ", "accent"
        yield f"{seconds:<11} {run.place:<18} ", "plain"
        yield run.command, "dim"


class RunsScreen(CurrentSize, ModalScreen[RunChoice | None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "close", show=False),
        Binding("q", "app.quit", "quit", show=False),
        Binding("question_mark", "app.help", "help", show=False),
    ]
    AUTO_FOCUS = "#run-list"

    def __init__(self, runs: Sequence[RunChoice]) -> None:
        super().__init__()
        self._runs = runs

    def compose(self) -> ComposeResult:
        with Vertical(id="runs", classes="dialog") as box:
            box.border_title = f"{many(len(self._runs), 'run')} to watch"
            box.border_subtitle = "Enter watches it · Esc closes · q quits"
            listed = _RunList(self._runs)
            listed.styles.height = min(len(self._runs), 12) + 1
            yield listed

    @on(LineList.Selected)
    def _selected(self, event: LineList.Selected) -> None:
        self.dismiss(self._runs[event.index])
