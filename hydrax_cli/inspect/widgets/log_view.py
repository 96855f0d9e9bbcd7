"""What loaders print and raise; follows the newest line until the user scrolls up."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.units import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_core.monitor import LogLine

__all__ = ["LogView"]

_MOST_LINES = 2000
_LOOKS = {"info": "plain", "warning": "warn", "error": "bad"}
_MARKS = {"info": " ", "warning": "!", "error": "✗"}
_SOURCE_WIDTH = 9


class LogView(LineList):
    BORDER_TITLE = "log"
    EMPTY = " what loaders print and raise comes here"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._lines: deque[LogLine | str] = deque(maxlen=_MOST_LINES)

    def add(self, lines: Sequence[LogLine], missed: int) -> None:
        if not lines:
            return
        following = self.scroll_offset.y >= self.max_scroll_y
        if missed:
            self._lines.append(f"{missed:,} lines came too fast to be shown")
        self._lines.extend(lines)
        self.border_title = f"log · {many(len(self._lines), 'line')}"
        self.lines_changed()
        if following and self.chosen is None:
            self.scroll_end(animate=False)

    def count(self) -> int:
        return len(self._lines)

    def pieces(self, index: int, width: int) -> Pieces:
        line = self._lines[index]
        if isinstance(line, str):
            return [(f" {line}", "dim")]
        at = time.strftime(" %H:%M:%S ", time.localtime(line.at)) if width >= 60 else " "  # noqa: PLR2004  else too narrow
        source = f"{line.source[:_SOURCE_WIDTH]:<{_SOURCE_WIDTH}} "
        look = _LOOKS[line.level]
        return [(at, "dim"), (source, "key"), (f"{_MARKS[line.level]} ", look), (line.text.replace("\t", "    "), look)]

    def text(self) -> str:
        return "\n".join(line if isinstance(line, str) else line.text for line in self._lines)

    def action_last(self) -> None:
        """Follow the newest line again."""
        self.choose(None)
        self.scroll_end(animate=False)

    def on_resize(self) -> None:
        following = self.scroll_offset.y >= self.max_scroll_y
        super().on_resize()
        if following:
            self.scroll_end(animate=False)
