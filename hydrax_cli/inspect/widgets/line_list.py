"""A list of lines of which only those in sight are drawn, so that it costs the same for ten lines and for thousands.

Promise: whatever is in a line, it is drawn as harmless text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hydrax_cli.shared.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.style import Style
    from textual import events

__all__ = ["LineList", "Pieces"]

Pieces: TypeAlias = "Iterable[tuple[str, str]]"
"""A line in pieces: text, and the name of a look (``plain dim faint good warn bad accent primary key head``)."""

_LOOKS = ("plain", "dim", "faint", "good", "warn", "bad", "accent", "primary", "key", "head")


class LineList(ScrollView, can_focus=True):
    """Lines with a cursor; subclasses say what the lines are.

    A header of one line stays in place. ``chosen`` is the line under the cursor, ``None`` for none.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"line--{look}" for look in (*_LOOKS, "cursor", "blurred")}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "first", "First", show=False),
        Binding("end", "last", "Last", show=False),
        Binding("enter", "select", "open", key_display="↵"),
    ]

    EMPTY: ClassVar[str] = ""
    """What stands in the place of the first line while there is none."""

    @dataclass(eq=False)
    class Chosen(Message):
        widget: LineList
        index: int

        @property
        def control(self) -> LineList:
            return self.widget

    class Selected(Chosen):
        """The line was entered: Enter, or a double click."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self.chosen: int | None = None
        self._looks: dict[tuple[str, bool], Style] = {}

    # --- for subclasses

    def count(self) -> int:
        raise NotImplementedError

    def pieces(self, index: int, width: int) -> Pieces:
        """The pieces of a line."""
        raise NotImplementedError

    def header(self, width: int) -> Pieces | None:  # noqa: ARG002  for subclasses
        """The pieces of the header, ``None`` for no header."""
        return None

    def empty(self) -> str:
        """What stands in the place of the first line while there is none."""
        return self.EMPTY

    # --- drawing

    def lines_changed(self) -> None:
        """Draw anew after the lines have changed."""
        size = Size(self.scrollable_content_region.width, self.count() + self._header_height())
        if self.virtual_size != size:
            self.virtual_size = size
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        header_height = self._header_height()
        if y < header_height:
            return self._strip(self.header(width) or (), width, cursor=False)
        index = self.scroll_offset.y + y - header_height
        if index >= self.count():
            text = self.empty() if index == 0 else ""
            return self._strip([(text, "dim")], width, cursor=False)
        return self._strip(self.pieces(index, width), width, cursor=index == self.chosen)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._looks.clear()

    def on_resize(self) -> None:
        """The width may decide what a line shows."""
        self.lines_changed()

    def watch_has_focus(self, _has_focus: bool) -> None:
        """The cursor looks otherwise where keys go elsewhere."""
        super().watch_has_focus(_has_focus)
        self._looks.clear()
        self.refresh()

    def _strip(self, pieces: Pieces, width: int, *, cursor: bool) -> Strip:
        segments, used = [], 0
        for foreign, look in pieces:
            text = clean(foreign)
            length = cell_len(text)
            if used + length > width:
                text = set_cell_size(text, width - used)
                length = width - used
            if length > 0:
                segments.append(Segment(text, self._look(look, cursor=cursor)))
                used += length
        if used < width:
            segments.append(Segment(" " * (width - used), self._look("plain", cursor=cursor)))
        return Strip(segments, width)

    def _look(self, name: str, *, cursor: bool) -> Style:
        style = self._looks.get((name, cursor))
        if style is None:
            style = self.get_component_rich_style(f"line--{name}")
            if cursor:
                style += self.get_component_rich_style(
                    "line--cursor" if self.has_focus else "line--blurred", partial=True
                )
            self._looks[name, cursor] = style
        return style

    def _header_height(self) -> int:
        return 0 if self.header(0) is None else 1

    # --- keys and mouse

    def choose(self, index: int | None) -> None:
        if index is not None:
            index = max(0, min(index, self.count() - 1)) if self.count() else None
        if index != self.chosen:
            self.chosen = index
            if index is not None:
                self.post_message(self.Chosen(self, index))
        if index is not None:
            height = max(1, self.scrollable_content_region.height - self._header_height())
            top = self.scroll_offset.y
            if index < top or index >= top + height:
                self.scroll_to(y=index if index < top else index - height + 1, animate=False)
        self.refresh()

    def action_move(self, lines: int) -> None:
        self.choose(0 if self.chosen is None else self.chosen + lines)

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.size.height - self._header_height() - 1))

    def action_first(self) -> None:
        self.choose(0)

    def action_last(self) -> None:
        self.choose(self.count() - 1)

    def action_select(self) -> None:
        if self.count():
            self.post_message(self.Selected(self, self.chosen or 0))

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or place.y < self._header_height():
            return
        index = self.scroll_offset.y + place.y - self._header_height()
        if index < self.count():
            self.choose(index)
            if event.chain > 1:
                self.action_select()
