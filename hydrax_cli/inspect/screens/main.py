"""The main screen: what the run does, what it did last, and a picture of what it feeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.screen import Screen
from textual.widgets import Footer, Input

from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_cli.inspect.widgets.batch_table import BatchTable
from hydrax_cli.inspect.widgets.line_list import LineList
from hydrax_cli.inspect.widgets.log_view import LogView
from hydrax_cli.inspect.widgets.panels import FramePanel, ProgressPanel, SpeedPanel, TopBar, WorkersPanel

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from hydrax_cli.inspect.numbers.rates import Reading
    from hydrax_cli.inspect.run_view import BatchView, Frame
    from hydrax_core.monitor import BatchRecord

__all__ = ["MainScreen"]

_PREVIEW_AT_LEAST = 12
_FILTER_HINT = "epoch:3  batch:10-20  validation  error  cache  seed:…"


class MainScreen(CurrentSize, Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "app.play", "play"),
        Binding("s", "app.step", "step"),
        Binding("n", "app.next_epoch", "epoch"),
        Binding("g", "app.go_to", "go"),
        Binding("enter", "open", "open", key_display="↵"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("l", "log", "log"),
        Binding("r", "app.look_again", "runs"),
        Binding("question_mark", "app.help", "help", key_display="?"),
        Binding("q", "app.quit", "quit"),
        Binding("escape", "leave", "back", show=False),
    ]
    AUTO_FOCUS = "#table"

    def __init__(self) -> None:
        super().__init__()
        self.table = BatchTable(id="table")
        self._panels: tuple[FramePanel, ...] = (
            TopBar(id="top"),
            ProgressPanel(id="progress"),
            SpeedPanel(id="speed"),
            WorkersPanel(id="workers"),
        )
        self._preview = ArrayPicture(at_least=_PREVIEW_AT_LEAST, id="preview")
        self._filter = Input(placeholder=_FILTER_HINT, id="filter", compact=True)
        self._log_view = LogView(id="log")

    def compose(self) -> ComposeResult:
        top, *pulse = self._panels
        yield top
        with Container(id="board"):
            with Vertical(id="pulse"):
                yield from pulse
            yield self._preview
        with Container(id="lists"):
            with Vertical(id="batches"):
                yield self.table
                yield self._filter
            yield self._log_view
        yield Footer(compact=True)

    @property
    def wants_preview(self) -> bool:
        return self.is_current and self._preview.display and self._preview.size.height > 0

    def show_frame(self, frame: Frame, reading: Reading) -> None:
        for panel in self._panels:
            panel.show_frame(frame, reading)
        self.table.add(frame.records)
        self._log_view.add(frame.lines, frame.missed_lines)

    def on_screen_suspend(self) -> None:
        """Behind a dialog a picture costs more than it shows."""
        self._preview.visible = False

    def on_screen_resume(self) -> None:
        self._preview.visible = True

    def show_preview(self, view: BatchView) -> None:
        self._preview.show_best(view)

    @on(LineList.Selected, "#table")
    def _table_selected(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        record = self.table.chosen_record
        if record is not None:
            self._open(record)

    def _open(self, record: BatchRecord) -> None:
        self.app.open_batch(record)  # type: ignore[attr-defined]  # the app is InspectApp

    def action_filter(self) -> None:
        self.query_one("#batches").add_class("-filtering")
        self._filter.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.table.filter(event.value)

    @on(Input.Submitted, "#filter")
    def _filter_submitted(self) -> None:
        self.table.focus()

    def action_leave(self) -> None:
        """Leave the filter, the log, or the place in the table."""
        if self._filter.has_focus or self._filter.value:
            self._filter.value = ""
            self.query_one("#batches").remove_class("-filtering")
        elif self.query_one("#lists").has_class("-log"):
            self.action_log()
        else:
            self.table.action_first()
        self.table.focus()

    def action_log(self) -> None:
        """Show the log where it is not in sight, else go there and back."""
        lists, log = self.query_one("#lists"), self._log_view
        if log.has_focus:
            lists.remove_class("-log")
            self.table.focus()
        else:
            lists.add_class("-log")
            log.focus()
