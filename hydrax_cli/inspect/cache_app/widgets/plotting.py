"""How the coverage map lies on the screen: which entries a cell stands for, and which line and column it is in. Pure.

Promise: every entry belongs to exactly one cell, and no line is wider than the room there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cell", "Plot", "plot"]

_SHARE: Final = 6
"""Columns of an epoch's share, ``" 100 %"``."""
_ROUND: Final = 10
_STEPS: Final = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)


class Cell(NamedTuple):
    """The entries ``range(first, end)`` of the epoch at a place in the list of epochs."""

    epoch_place: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Plot:
    """Where the cells are.

    Attributes:
        entries: Entries of an epoch.
        label: Columns in front of the cells.
        across: Cells of a line.
        broad: Columns of a cell.
        width: Entries of a cell.
        lines: Lines of an epoch.
    """

    entries: int
    label: int
    across: int
    broad: int
    width: int
    lines: int

    @property
    def cells(self) -> int:
        return -(-self.entries // self.width)

    def line(self, number: int) -> tuple[int, range]:
        """The place of the epoch that a line belongs to, and the cells of it that stand there."""
        epoch_place, line = divmod(number, self.lines)
        first = line * self.across
        return epoch_place, range(first, min(first + self.across, self.cells))

    def cell(self, epoch_place: int, number: int) -> Cell:
        first = number * self.width
        return Cell(epoch_place, first, min(first + self.width, self.entries))

    def at(self, column: int, line: int) -> Cell | None:
        epoch_place, cells = self.line(line)
        across = (column - self.label) // self.broad
        return self.cell(epoch_place, cells[across]) if 0 <= across < len(cells) else None

    def line_of(self, epoch_place: int, number: int) -> int:
        return epoch_place * self.lines + number // self.width // self.across


def plot(entries: int, epochs: int, last_epoch: int, size: tuple[int, int]) -> Plot:
    """The finest map that shows all epochs at once, or a line an epoch where there are too many.

    Args:
        last_epoch: The largest number of one.
        size: Columns and lines.
    """
    label = len(f"{last_epoch}:{entries - 1}") + 1
    room = max(1, size[0] - label - _SHARE)
    most_lines = max(1, size[1] // max(1, epochs))
    for width in _widths():
        cells = -(-entries // width)
        # Several epochs are easier to compare with a line each, a single one is easier to see with broad cells.
        broads = (1,) if width > 1 or (epochs > 1 and room // 2 < cells <= room) else (2, 1)
        for broad in broads:
            most = room // broad
            across = cells if cells <= most else _rounded(most)
            if across and -(-cells // across) <= most_lines:
                return Plot(entries, label, across, broad, width, -(-cells // across))
    raise AssertionError("a cell for all entries always fits")


def _widths() -> Iterator[int]:
    """Numbers that a person can count with."""
    yield from range(1, 10)
    for zeros in count():
        for step in _STEPS:
            yield step * 10**zeros


def _rounded(across: int) -> int:
    return across if across < _ROUND else across // _ROUND * _ROUND
