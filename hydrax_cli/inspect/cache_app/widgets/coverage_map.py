"""The coverage map: what is stored, missing, sound and bad, a cell for each batch or for some neighbours.

Promise: what is drawn costs what is in sight, however many epochs there are. A complete epoch asks for nothing; of
another one the counts are asked for when it comes into sight, and until they are there its last ones are drawn.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from textual.binding import Binding, BindingType
from textual.message import Message

from hydrax_cli.inspect.cache_app.widgets.plotting import Cell, Plot, plot
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.units import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.style import Style
    from textual import events

    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_core.cache import EpochCount

__all__ = ["LEGEND", "CoverageMap"]

LEGEND: Final = (
    ("■", "primary", "stored"),
    ("◧", "primary", "in part"),
    ("●", "good", "sound"),
    ("✗", "bad", "bad"),
    ("·", "faint", "missing"),
)
_HERE: Final = "@"
"""Behind the name of a look: the cell under the cursor."""
_MOST_KEPT: Final = 256


class _Counted(NamedTuple):
    """What counts of an epoch rest on."""

    entries: int
    newest: float
    since: float | None


class CoverageMap(LineList):
    """A map of one cache: content epochs from top to bottom, batches or items from left to right."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "cell(-1)", "before", show=False),
        Binding("right,l", "cell(1)", "next", show=False),
        Binding("enter", "select", "entry", key_display="↵"),
    ]

    @dataclass(eq=False)
    class Wanted(Message):
        epoch: int
        width: int
        since: float | None

    @dataclass(eq=False)
    class Pointed(Message):
        cell: Cell
        moved: bool

    @dataclass(eq=False)
    class Entered(Message):
        """A cell was entered: Enter, or a double click."""

        cell: Cell

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._state: GroupState | None = None
        self._plot: Plot | None = None
        self._epochs: Sequence[EpochCount | None] = ()
        self._here: tuple[int, int] | None = None
        self._counts: dict[tuple[int, int], tuple[_Counted, list[tuple[int, int]]]] = {}
        self._asked: set[tuple[int, int, _Counted]] = set()
        self.unheard = 0
        """Requests that are on their way to the app, which takes this down as it hears them."""

    # --- what is shown

    def show(self, state: GroupState | None, *, anew: bool) -> None:
        self._state = state
        if anew:
            self._here = None
            self._counts.clear()
            self._asked.clear()
        info = None if state is None else state.group.info
        self._epochs = () if info is None else info.epochs or (None,)
        self._lay_out()

    def fill(self, epoch: int, width: int, since: float | None, counts: list[tuple[int, int]]) -> None:
        basis = self._basis(epoch, since)
        if basis is not None:
            if len(self._counts) >= _MOST_KEPT:
                self._counts.pop(next(iter(self._counts)))
            self._counts[epoch, width] = basis, counts
            self._asked.discard((epoch, width, basis))
            self.refresh()
            if self.here is not None:
                self.post_message(self.Pointed(self.here, moved=False))

    @property
    def plot(self) -> Plot | None:
        return self._plot

    @property
    def here(self) -> Cell | None:
        if self._here is None or self._plot is None or self._here[0] >= len(self._epochs):
            return None
        return self._plot.cell(*self._here)

    def wanted_height(self, width: int, most: int) -> int:
        """Lines that it has a use for in so many columns and at most so many lines."""
        info = None if self._state is None else self._state.group.info
        if info is None:
            return 1
        made = plot(info.entries_per_epoch, len(self._epochs), self._last_epoch(), (width, most))
        return min(most, made.lines * len(self._epochs))

    def epoch_at(self, place: int) -> int:
        """The number of the epoch at a place in the list of those that have entries."""
        epoch = self._epochs[place]
        return 0 if epoch is None else epoch.epoch

    def point(self, epoch: int, number: int) -> None:
        place = self._place(epoch)
        if place is not None and self._plot is not None:
            self._go(place, number // self._plot.width, tell=False)

    def _place(self, number: int) -> int | None:
        place = bisect_left(range(len(self._epochs)), number, key=self.epoch_at)
        return place if place < len(self._epochs) and self.epoch_at(place) == number else None

    def describe(self, cell: Cell) -> str:
        """What a cell stands for, and what is known of it, in words."""
        state = self._state
        if state is None or cell.epoch_place >= len(self._epochs) or self._plot is None:
            return ""
        group, epoch = state.group, self.epoch_at(cell.epoch_place)
        size = cell.end - cell.first
        if size == 1:
            where = f"epoch {epoch}, {group.noun} {count(cell.first)}"
        else:
            where = f"epoch {epoch}, {group.nouns} {count(cell.first)} to {count(cell.end - 1)}"
        counted = self._counted(cell.epoch_place)
        if counted is None:
            return f"{where}: …"
        here = counted[cell.first // self._plot.width]
        stored, (glyph, _) = min(here[0], size), self._cell(cell, here)
        bad = state.verdicts.bad_between(epoch, cell.first, cell.end)
        parts = ["missing" if not stored else "stored" if size == 1 else f"{count(stored)} of {count(size)} stored"]
        parts += [f"{bad} bad" if size > 1 else "bad"] if bad else []
        parts += ["sound"] if glyph in "●◐" else []
        return f"{where}: {', '.join(parts)}"

    # --- the parts of a line

    def count(self) -> int:
        return 0 if self._plot is None else self._plot.lines * len(self._epochs)

    def pieces(self, index: int, width: int) -> Pieces:
        """A line: where it starts, its cells, and the epoch's share."""
        made, state = self._plot, self._state
        assert made is not None
        assert state is not None
        epoch_place, cells = made.line(index)
        epoch = self.epoch_at(epoch_place)
        label = f"{epoch}:{made.cell(epoch_place, cells.start).first}"
        first_line = cells.start == 0
        yield f"{label:>{made.label - 1}} ", "dim"
        counted = self._counted(epoch_place)
        used = made.label
        for cell in cells:
            glyph, look = ("…", "faint") if counted is None else self._cell(made.cell(epoch_place, cell), counted[cell])
            here = (epoch_place, cell) == self._here
            yield glyph, look + (_HERE if here else "")
            if made.broad > 1:
                yield " " * (made.broad - 1), "plain"
            used += made.broad
        if first_line:
            yield f"{self._share(epoch_place):>{max(0, width - used)}}", "dim"

    def _cell(self, cell: Cell, counted: tuple[int, int]) -> tuple[str, str]:
        assert self._state is not None
        verdicts, epoch = self._state.verdicts, self.epoch_at(cell.epoch_place)
        stored, later = counted
        if verdicts.bad_between(epoch, cell.first, cell.end):
            return "✗", "bad"
        if not stored:
            return "·", "faint"
        whole = stored >= cell.end - cell.first
        if not later and verdicts.is_read(epoch, cell.end - 1):
            return "●" if whole else "◐", "good"
        return "■" if whole else "◧", "primary"

    def _share(self, epoch_place: int) -> str:
        epoch = self._epochs[epoch_place]
        info = None if self._state is None else self._state.group.info
        if epoch is None or info is None:
            return "0 %"
        return f"{min(100, 100 * epoch.entries // info.entries_per_epoch)} %"

    def _counted(self, epoch_place: int) -> list[tuple[int, int]] | None:
        """The counts of an epoch's cells; asks for them where they are not those of now."""
        made, epoch, state = self._plot, self._epochs[epoch_place], self._state
        assert made is not None
        assert state is not None
        if epoch is None:
            return [(0, 0)] * made.cells
        since = state.verdicts.since
        basis = self._basis(epoch.epoch, since)
        assert basis is not None
        if epoch.entries >= made.entries and (since is None or epoch.newest < since):
            return [(made.width, 0)] * made.cells
        known = self._counts.get((epoch.epoch, made.width))
        if known is None or known[0] != basis:
            if (epoch.epoch, made.width, basis) not in self._asked:
                self._asked.add((epoch.epoch, made.width, basis))
                self.unheard += 1
                self.call_later(self._ask, epoch.epoch, made.width, basis.since)
            return None if known is None else known[1]
        return known[1]

    def _ask(self, epoch: int, width: int, since: float | None) -> None:
        """Later, as what is sent while drawing has the screen for its sender, and stops there."""
        self.post_message(self.Wanted(epoch, width, since))

    def _basis(self, number: int, since: float | None) -> _Counted | None:
        """Counts hold until entries come or go, or something is read anew that was there before."""
        place = self._place(number)
        epoch = None if place is None else self._epochs[place]
        if epoch is None:
            return None
        return _Counted(epoch.entries, epoch.newest, since if since is not None and epoch.newest >= since else None)

    # --- where it lies

    def on_resize(self) -> None:
        held = self.here
        self._lay_out()
        if held is not None and self._plot is not None:
            self._here = (held.epoch_place, held.first // self._plot.width)

    def _lay_out(self) -> None:
        info = None if self._state is None else self._state.group.info
        size = self.scrollable_content_region
        if info is None or not self._epochs:
            self._plot = None
        else:
            lines = (size.width, size.height)
            self._plot = plot(info.entries_per_epoch, len(self._epochs), self._last_epoch(), lines)
        self.lines_changed()

    def _last_epoch(self) -> int:
        return self.epoch_at(len(self._epochs) - 1) if self._epochs else 0

    def _look(self, name: str, *, cursor: bool) -> Style:
        """The cursor is on a cell, not on a line."""
        del cursor
        return super()._look(name.removesuffix(_HERE), cursor=name.endswith(_HERE))

    # --- keys and mouse

    def _go(self, epoch_place: int, cell: int, *, tell: bool = True) -> None:
        made = self._plot
        if made is None:
            return
        epoch_place = max(0, min(epoch_place, len(self._epochs) - 1))
        self._here = (epoch_place, max(0, min(cell, made.cells - 1)))
        line, top = made.line_of(epoch_place, self._here[1] * made.width), self.scroll_offset.y
        height = max(1, self.scrollable_content_region.height)
        if line < top or line >= top + height:
            self.scroll_to(y=line if line < top else line - height + 1, animate=False)
        self.post_message(self.Pointed(made.cell(*self._here), moved=tell))
        self.refresh()

    def action_cell(self, step: int) -> None:
        if self._plot is not None:
            epoch_place, cell = self._here or (0, -step)
            place = max(0, epoch_place * self._plot.cells + cell + step)
            self._go(*divmod(min(place, len(self._epochs) * self._plot.cells - 1), self._plot.cells))

    def action_move(self, lines: int) -> None:
        made = self._plot
        if made is None or self._here is None:
            self.action_first()
            return
        line, across = divmod(self._here[1], made.across)
        place = max(0, min(self._here[0] * made.lines + line + lines, self.count() - 1))
        epoch_place, cells = made.line(place)
        self._go(epoch_place, min(cells.start + across, cells.stop - 1))

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.scrollable_content_region.height - 1))

    def action_first(self) -> None:
        self._go(0, 0)

    def action_last(self) -> None:
        if self._plot is not None:
            self._go(len(self._epochs) - 1, self._plot.cells - 1)

    def action_select(self) -> None:
        if self.here is not None:
            self.post_message(self.Entered(self.here))

    def on_click(self, event: events.Click) -> None:
        cell = self._under(event)
        if cell is not None and self._plot is not None:
            self._go(cell.epoch_place, cell.first // self._plot.width)
            if event.chain > 1:
                self.action_select()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        cell = self._under(event)
        if cell is not None:
            self.post_message(self.Pointed(cell, moved=False))

    def on_leave(self) -> None:
        if self.here is not None:
            self.post_message(self.Pointed(self.here, moved=False))

    def _under(self, event: events.MouseEvent) -> Cell | None:
        place = event.get_content_offset(self)
        if place is None or self._plot is None:
            return None
        line = self.scroll_offset.y + place.y
        return self._plot.at(place.x, line) if line < self.count() else None
