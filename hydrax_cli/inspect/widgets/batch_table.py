"""The last batches, newest first; stays where the user looks while new ones come in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.cells import set_cell_size
from textual.content import Content

from hydrax_cli.inspect.run_view import Fault
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hydrax_core.monitor import BatchRecord

__all__ = ["BatchTable", "matches"]

_MOST_BATCHES = 500
_MARK = "◆"


def _seed(record: BatchRecord) -> str:
    return "-" if record.seed is None else str(record.seed)


def _load(record: BatchRecord) -> str:
    return "-" if record.load_seconds is None else span(record.load_seconds)


def _error(record: BatchRecord) -> str:
    return Fault.of(record.error).title if record.error else ""


class _Column:
    """A column, shown from a width of the table on."""

    def __init__(self, title: str, width: int, least: int, text: Callable[[BatchRecord], str], *, number: bool) -> None:
        self.title = title
        self.width = width
        self.least = least
        self.text = text
        self.number = number


_COLUMNS = (
    _Column("batch", 9, 0, lambda r: f"{r.batch_num:,}", number=True),
    _Column("kind", 10, 0, lambda r: r.kind, number=False),
    _Column("epoch", 7, 0, lambda r: f"{r.epoch:,}", number=True),
    _Column("in epoch", 8, 0, lambda r: f"{r.epoch_batch:,}", number=True),
    _Column("group", 5, 72, lambda r: str(r.group), number=True),
    _Column("items", 6, 84, lambda r: f"{r.size:,}", number=True),
    _Column("seed", 10, 56, _seed, number=True),
    _Column("wait", 7, 0, lambda r: span(r.wait_seconds), number=True),
    _Column("load", 7, 92, _load, number=True),
    _Column("from", 6, 64, lambda r: "cache" if r.cached else "loader", number=False),
)
_GAP = "  "
_NAMED = {
    "batch": lambda r: r.batch_num,
    "epoch": lambda r: r.epoch,
    "in": lambda r: r.epoch_batch,
    "group": lambda r: r.group,
    "items": lambda r: r.size,
    "seed": lambda r: r.seed,
}


def matches(record: BatchRecord, words: Sequence[str]) -> bool:
    """Whether a batch fits every word of a filter.

    ``epoch:3`` (also ``batch in group items seed``) asks for a number, ``3-7`` for a range; any other word is looked
    for in the kind, ``cache`` or ``loader``, ``error`` and the error's text. A bare number is a batch's.
    """
    return all(_fits(record, word) for word in words)


def _fits(record: BatchRecord, word: str) -> bool:
    name, colon, value = word.partition(":")
    if not colon:
        name, value = "batch", word
    if name in _NAMED and value:
        low, dash, high = value.partition("-")
        if low.isdecimal() and (high.isdecimal() or not dash):
            number: int | None = _NAMED[name](record)
            return number is not None and int(low) <= number <= int(high or low)
    kinds = [record.kind, "cache" if record.cached else "loader"]
    if record.error:
        kinds += ["error", _error(record).lower()]
    return any(word.lower() in kind for kind in kinds)


class BatchTable(LineList):
    """The last few hundred batches."""

    BORDER_TITLE = "batches"
    EMPTY = " no batch yet"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._records: deque[BatchRecord] = deque(maxlen=_MOST_BATCHES)
        self._shown: list[BatchRecord] = []
        self._words: tuple[str, ...] = ()
        self.mark: Callable[[BatchRecord], bool] | None = None
        """Which batches stand out, where not every one can be looked into."""

    @property
    def chosen_record(self) -> BatchRecord | None:
        """The batch under the cursor; the newest where there is no cursor."""
        if not self._shown:
            return None
        return self._shown[self.chosen or 0]

    @property
    def shown(self) -> Sequence[BatchRecord]:
        """The batches that fit the filter, newest first."""
        return self._shown

    def add(self, records: Sequence[BatchRecord]) -> None:
        if not records:
            return
        self._records.extendleft(records)
        self._show()

    def filter(self, text: str) -> None:
        """Show only what fits all words of a text."""
        self._words = tuple(text.split())
        self._show()

    def neighbour(self, record: BatchRecord, step: int, fits: Callable[[BatchRecord], bool]) -> BatchRecord | None:
        """The next batch handed out before (-1) or after (1) another one, among those shown that fit."""
        places = range(len(self._shown)) if step < 0 else reversed(range(len(self._shown)))
        for place in places:
            found = self._shown[place]
            if (found.serial - record.serial) * step > 0 and fits(found):
                self.choose(place)
                return found
        return None

    def _show(self) -> None:
        held = self.chosen_record if self.chosen is not None else None
        above = self.chosen
        self._shown = [record for record in self._records if matches(record, self._words)]
        if held is not None and above is not None:
            self._hold(held, above)
        title = f"last {len(self._records)} batches" if self._records else "batches"
        if self._words:
            title += f" · {len(self._shown)} with {' '.join(self._words)}"
        self.border_title = Content(clean(title))
        self.lines_changed()

    def _hold(self, held: BatchRecord, above: int) -> None:
        """Keep the cursor on its batch, and that where it is on the screen."""
        place = next((i for i, record in enumerate(self._shown) if record.serial <= held.serial), None)
        self.chosen = place
        if place is not None and self.scroll_offset.y > 0 and place > above:
            top = self.scroll_offset.y + place - above
            self.lines_changed()
            self.scroll_to(y=top, animate=False)

    def count(self) -> int:
        return len(self._shown)

    def header(self, width: int) -> Pieces:
        return [(self._row(width, lambda column: column.title) + _GAP, "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        record = self._shown[index]
        if record.error:
            place = self._row(width, lambda column: column.text(record) if column.title in _PLACES else "").rstrip()
            return [(f"{place}{_GAP}", "bad"), (f"✗ {_error(record)}", "bad")]
        look = "plain" if record.kind == "training" else "accent"
        row = self._row(width, lambda column: column.text(record))
        if self.mark is None:
            return [(row, look)]
        return [(_MARK if self.mark(record) else " ", "key"), (row[1:], look)]

    def action_first(self) -> None:
        """Follow the newest batch again."""
        self.choose(None)
        self.scroll_to(y=0, animate=False)

    def _row(self, width: int, text: Callable[[_Column], str]) -> str:
        cells = []
        for column in _COLUMNS:
            if width and width < column.least:
                continue
            value = text(column)
            value = f"{value:>{column.width}}" if column.number else set_cell_size(value, column.width)
            cells.append(value)
        return f" {_GAP.join(cells)}"


_PLACES = frozenset({"batch", "kind", "epoch", "in epoch"})
