"""The entries of a cache, of which only those in sight are in memory.

Promise: ten million entries scroll like ten. Pages are asked for when a line of theirs is drawn, and the list shows
dots until they are there.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_cli.inspect.cache_app.model.contents import Entries
    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_core.cache import EntryInfo

__all__ = ["PAGE", "EntryTable", "moment"]

PAGE: Final = 128
"""Entries that are asked for together."""
_MOST_PAGES: Final = 64
_STATES: Final = {"sound": ("● sound", "good"), "bad": ("✗ bad", "bad"), "unread": ("○ not read", "dim")}
_MEDIUM: Final = 64
_WIDE: Final = 76
_MOMENT, _SHORT_MOMENT = 19, 16
"""Columns of a time with and without its seconds."""


def _epoch(width: int) -> int:
    return 7 if width >= _MEDIUM else 5


def moment(seconds: float) -> str:
    """A time as people write it, to the second; rows of a damaged index may hold anything."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


class EntryTable(LineList):
    """A line an entry: which one, when it was written, its size, and whether it is sound."""

    BORDER_TITLE = "entries"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "open", key_display="↵")]

    @dataclass(eq=False)
    class Wanted(Message):
        entries: Entries
        first: int

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._state: GroupState | None = None
        self._entries: Entries | None = None
        self._length = 0
        self._pages: OrderedDict[int, Sequence[EntryInfo]] = OrderedDict()
        self._asked: set[int] = set()
        self._words = ""
        self._empty = " reading the index …"

    # --- what is shown

    def show(
        self, state: GroupState | None, entries: Entries | None, pages: dict[int, Sequence[EntryInfo]], words: str
    ) -> None:
        """List entries, of which some pages are at hand; ``words`` are the filter's."""
        self._state, self._entries, self._words = state, entries, words
        self._length = 0 if entries is None else len(entries)
        self._pages = OrderedDict(pages)
        self._asked.clear()
        self._empty = " nothing fits the filter" if words else " nothing is stored yet"
        if state is None:
            self._empty = " there is no cache"
        elif state.group.info is None:
            self._empty = " its entries cannot be told apart without a sound manifest"
        if self.chosen is not None and self.chosen >= self._length:
            self.chosen = None
        total = self._length if state is None or state.group.info is None else state.group.info.entries
        title = f"entries · {count(self._length)}" + (f" of {count(total)} with {words}" if words else "")
        self.border_title = Content(clean(title))
        self.lines_changed()

    def fill(self, entries: Entries, first: int, page: Sequence[EntryInfo]) -> None:
        """A page, as it was wanted; one of a list that is shown no more is left aside."""
        if entries is self._entries:
            self._pages[first] = page
            self._asked.discard(first)
            while len(self._pages) > _MOST_PAGES:
                self._pages.popitem(last=False)
            self.refresh()

    def pages_in_sight(self) -> set[int]:
        """First places of the pages around what is seen, and around the cursor."""
        top = self.scroll_offset.y
        places = {top, top + max(1, self.size.height)} | (set() if self.chosen is None else {self.chosen})
        return {place // PAGE * PAGE for place in places if place < max(1, self._length)}

    def entry(self, place: int) -> EntryInfo | None:
        """The entry at a place; ``None`` until its page is there, which is asked for."""
        if not 0 <= place < self._length or self._entries is None:
            return None
        first = place // PAGE * PAGE
        page = self._pages.get(first)
        if page is None:
            if first not in self._asked:
                self._asked.add(first)
                self.call_later(self._ask, self._entries, first)
            return None
        return page[place - first] if place - first < len(page) else None

    def _ask(self, entries: Entries, first: int) -> None:
        """Later, as what is sent while drawing has the screen for its sender, and stops there."""
        self.post_message(self.Wanted(entries, first))

    @property
    def chosen_entry(self) -> EntryInfo | None:
        """The entry under the cursor; the first where there is no cursor."""
        return self.entry(self.chosen or 0)

    def entries_from(self, place: int, number: int) -> list[EntryInfo]:
        """So many entries from a place on, as far as they are of one epoch and at hand."""
        found: list[EntryInfo] = []
        for here in range(place, place + number):
            entry = self.entry(here)
            if entry is None or (found and entry.epoch != found[0].epoch):
                break
            found.append(entry)
        return found

    # --- the parts of a line

    def count(self) -> int:
        return self._length

    def empty(self) -> str:
        return self._empty

    def header(self, width: int) -> Pieces:
        noun = "batch" if self._state is None else self._state.group.noun
        more = f"  {'additional':>10}" if width >= _WIDE else ""
        written = "written".ljust(_MOMENT if width >= _MEDIUM else _SHORT_MOMENT)
        return [(f"  {'epoch':>{_epoch(width)}}  {noun:>9}  {written}  {'size':>8}{more}  checksum", "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        entry = self.entry(index)
        yield "▸ " if index == self.chosen else "  ", "key"
        if entry is None:
            yield f"{'…':>7}", "dim"
            return
        yield f"{count(entry.epoch):>{_epoch(width)}}  {count(entry.number):>9}", "plain"
        yield f"  {moment(entry.created)[: _MOMENT if width >= _MEDIUM else _SHORT_MOMENT]}", "dim"
        yield f"  {size(entry.size):>8}", "plain"
        if width >= _WIDE:
            yield f"  {'-' if entry.additional_bytes is None else size(entry.additional_bytes):>10}", "dim"
        state = "unread" if self._state is None else self._state.verdicts.state(entry)
        text, look = _STATES[state]
        yield f"  {text}", look
