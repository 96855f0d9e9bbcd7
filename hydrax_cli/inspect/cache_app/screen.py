"""The screen of a cache: what it holds, a map of it, its entries, and what is wrong with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual import events, on
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from hydrax_cli.inspect.cache_app.model.contents import Key, Selection
from hydrax_cli.inspect.cache_app.model.listing import FILTER_HINT, read_filter
from hydrax_cli.inspect.cache_app.widgets.coverage_map import LEGEND, CoverageMap
from hydrax_cli.inspect.cache_app.widgets.entry_table import EntryTable
from hydrax_cli.inspect.cache_app.widgets.lists import FindingList, GroupList
from hydrax_cli.inspect.cache_app.widgets.panels import CacheBar, Holdings
from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_cli.inspect.widgets.line_list import LineList
from hydrax_cli.shared.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_cli.inspect.cache_app.widgets.plotting import Cell
    from hydrax_cli.inspect.run_view import BatchView

__all__ = ["CacheScreen"]

_LOOK_AT_LEAST: Final = 6
_MAP_SHARE: Final = 0.35
_SHORT_MAP: Final = 4
_MOST_GROUPS: Final = 6
_MOST_FINDINGS: Final = 12
_STYLES: Final = {"primary": "$text-primary", "good": "$text-success", "bad": "$text-error", "faint": "$faint"}


class CacheScreen(CurrentSize, Screen[None]):
    """The caches at a path; one of them is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("m", "map", "map"),
        Binding("v", "app.verify", "verify"),
        Binding("p", "app.repair", "repair"),
        Binding("x", "app.clear", "clear"),
        Binding("f", "findings", "findings"),
        Binding("g", "app.go_to", "go", show=False),
        Binding("r", "app.refresh_now", "refresh", show=False),
        Binding("left_square_bracket", "group(-1)", "group before", show=False),
        Binding("right_square_bracket", "group(1)", "next group", show=False),
        Binding("question_mark", "app.help", "help", key_display="?"),
        Binding("q", "app.quit", "quit"),
        Binding("escape", "leave", "back", show=False),
    ]
    AUTO_FOCUS = "#entries"

    @dataclass(eq=False)
    class GroupChosen(Message):
        place: int

    @dataclass(eq=False)
    class Filtered(Message):
        selection: Selection
        words: str

    class Opened(Message):
        """An entry is to be looked into."""

    @dataclass(eq=False)
    class Sought(Message):
        key: Key
        focus: bool

    class Looked(Message):
        """The entry under the cursor is another one."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.table = EntryTable(id="entries")
        self.map = CoverageMap(id="map")
        self.findings = FindingList(id="findings")
        self._groups = GroupList(id="groups")
        self._bar = CacheBar(path, id="top")
        self._holdings = Holdings(id="holdings")
        self._pointed = Static("", id="pointed")
        self._filter = Input(placeholder=FILTER_HINT, id="entry-filter", compact=True)
        self._picture = ArrayPicture(at_least=_LOOK_AT_LEAST, id="look")
        self._picture.can_focus = False
        self._states: Sequence[GroupState] = ()
        self._cell: Cell | None = None

    def compose(self) -> ComposeResult:
        yield self._bar
        yield self._groups
        with Container(id="cache-board"):
            yield self._holdings
            with Vertical(id="coverage") as box:
                box.border_title = "coverage"
                yield self.map
                yield self._pointed
        with Container(id="cache-lists"):
            with Vertical(id="listed"):
                yield self.table
                yield self._filter
            yield self._picture
        yield self.findings
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """The legend stands in the frame of the map."""
        signs = [Content.assemble((sign, _STYLES[look]), (f" {text}", "$dim")) for sign, look, text in LEGEND]
        self.query_one("#coverage").border_subtitle = Content("  ").join(signs)

    # --- what is shown

    def show(self, states: Sequence[GroupState], shown: GroupState | None, problem: str, *, anew: bool) -> None:
        """Show the caches, and one of them; ``anew`` where that was not the one before."""
        self._states = states
        self._bar.show(shown, problem)
        self._groups.display = len(states) > 1
        self._groups.styles.height = min(len(states), _MOST_GROUPS) + self._groups.gutter.height
        self._groups.show(states)
        if shown is not None:
            place = next(place for place, state in enumerate(states) if state is shown)
            if place != self._groups.chosen:
                self._groups.choose(place)
        self._holdings.show(shown, problem)
        self.map.show(shown, anew=anew)
        self._fit_map()
        self.findings.show(shown)
        self.set_class(shown is not None and bool(shown.did), "-found")
        self.table.refresh()
        self._name_map()
        self._fit_findings()
        if anew:
            self._picture.clear()
            self._cell = None
        elif self._cell is not None:
            self._cell = self.map.here  # what the mouse was on may be another cell now
        self._describe()

    def show_picture(self, view: BatchView | None) -> None:
        if view is None:
            self._picture.clear()
        else:
            self._picture.show_best(view)

    @property
    def shows_findings(self) -> bool:
        return self.is_current and self.findings.display

    @property
    def wants_picture(self) -> bool:
        return self.is_current and self._picture.display and self._picture.size.height > 0

    def on_resize(self, event: events.Resize) -> None:
        """The map takes what it has a use for, but not all."""
        del event
        self.call_after_refresh(self._fit_map)
        self.call_after_refresh(self._fit_findings)
        self.call_after_refresh(self._recell)

    def _fit_map(self) -> None:
        short = self.has_class("-short")
        most = _SHORT_MAP if short else max(_SHORT_MAP, int(self.size.height * _MAP_SHARE) - 3)
        wide = self.has_class("-medium") or self.has_class("-wide")
        # Beside the text the map may be as high as that is.
        if wide and not short:
            most = max(most, self._holdings.wanted_height() - 1)
        wanted = self.map.wanted_height(max(1, self.map.size.width), most)
        if wide and not short:
            wanted = max(wanted, self._holdings.wanted_height() - 1)
        self.map.styles.height = wanted
        self._holdings.styles.height = wanted + 3 if wide and not short else None  # as high as the map's box

    def _name_map(self) -> None:
        width = 1 if self.map.plot is None else self.map.plot.width
        self.query_one("#coverage").border_title = "coverage" if width == 1 else f"coverage · {width:,} a cell"

    def _recell(self) -> None:
        self._cell = self.map.here
        self._name_map()
        self._describe()

    def _fit_findings(self) -> None:
        """A clean cache needs a line; findings get a few."""
        if self.has_class("-short"):
            self.findings.styles.height = None
        else:
            most = _MOST_FINDINGS if self.has_class("-very-tall") else _MOST_FINDINGS // 2
            self.findings.styles.height = min(most, 1 + self.findings.count()) + self.findings.gutter.height

    def _describe(self) -> None:
        self._pointed.update(Content("" if self._cell is None else self.map.describe(self._cell)))

    def on_screen_suspend(self) -> None:
        """Behind a dialog a picture costs more than it shows."""
        self._picture.visible = False

    def on_screen_resume(self) -> None:
        """Back in front, maybe at another entry."""
        self._picture.visible = True
        self.post_message(self.Looked())

    # --- keys and mouse

    @on(LineList.Chosen, "#groups")
    def _group_chosen(self, event: LineList.Chosen) -> None:
        self.post_message(self.GroupChosen(event.index))

    def action_group(self, step: int) -> None:
        if self._states:
            place = (self._groups.chosen or 0) + step
            self.post_message(self.GroupChosen(place % len(self._states)))

    @on(CoverageMap.Pointed)
    def _map_pointed(self, event: CoverageMap.Pointed) -> None:
        self._cell = event.cell
        self._describe()
        if event.moved:
            key = Key(self.map.epoch_at(event.cell.epoch_place), event.cell.first)
            self.post_message(self.Sought(key, focus=False))

    @on(CoverageMap.Entered)
    def _map_entered(self, event: CoverageMap.Entered) -> None:
        self.post_message(self.Sought(Key(self.map.epoch_at(event.cell.epoch_place), event.cell.first), focus=True))

    @on(LineList.Chosen, "#entries")
    def _entry_chosen(self) -> None:
        self.point_at_chosen()

    def point_at_chosen(self) -> None:
        """The map and the picture follow the table, unless the map leads."""
        entry = self.table.chosen_entry
        if entry is not None and not self.map.has_focus:
            self.map.point(entry.epoch, entry.number)
        self.post_message(self.Looked())

    @on(LineList.Selected, "#entries")
    def _entry_selected(self) -> None:
        self.post_message(self.Opened())

    @on(LineList.Selected, "#findings")
    def _finding_selected(self, event: LineList.Selected) -> None:
        finding = self.findings.finding(event.index)
        if finding is None or finding.epoch is None or finding.number is None:
            self.notify("That is no entry.")
            return
        self.remove_class("-findings")
        self.post_message(self.Sought(Key(finding.epoch, finding.number), focus=True))

    def action_filter(self) -> None:
        self.remove_class("-findings")
        self.query_one("#listed").add_class("-filtering")
        self._filter.focus()

    @on(Input.Changed, "#entry-filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        selection, strange = read_filter(event.value, time.time())
        if strange:
            self.table.border_title = Content(clean(f"what is “{strange}”?"))
        else:
            self.post_message(self.Filtered(selection, " ".join(event.value.split())))

    @on(Input.Submitted, "#entry-filter")
    def _filter_submitted(self) -> None:
        self.table.focus()

    def action_leave(self) -> None:
        """Leave the filter, the findings, or the place in the table."""
        if self._filter.has_focus or self._filter.value:
            self._filter.value = ""
            self.query_one("#listed").remove_class("-filtering")
        elif self.has_class("-findings"):
            self.remove_class("-findings")
        elif self.table.has_focus:
            self.table.action_first()
        self.table.focus()

    def action_map(self) -> None:
        (self.table if self.map.has_focus else self.map).focus()
        if self.map.has_focus and self.map.here is None:
            self.map.action_first()

    def action_findings(self) -> None:
        if self.findings.has_focus:
            self.remove_class("-findings")
            self.table.focus()
        else:
            self.add_class("-found", "-findings")
            self.findings.focus()
