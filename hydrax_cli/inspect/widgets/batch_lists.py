"""The lists of the batch screen: its arrays with their numbers, and its items."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget

from hydrax_cli.inspect.widgets.bars import blocks, columns
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, many, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrax_cli.inspect.numbers.statistics import ArrayStats
    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.monitor import ArrayPlan

__all__ = ["ArrayDetail", "ArrayList", "ItemList"]

_WIDE = 111
_VERY_WIDE = 132
_MOST_VALUE_COLUMNS = 3
_VALUE_WIDTH = 8
_NUMBERS_WIDTH = 16
"""Columns for the indices, or seeds, of the documents of a packed row."""
_REST_WIDTH = 16
"""Columns of what an item is that are worth more than its seed."""


class ArrayList(LineList):
    """A line an array: layout, numbers, and a mark where there is a warning."""

    BORDER_TITLE = "arrays"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", show=False)]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._infos: Sequence[ArrayPlan] = ()
        self._stats: Mapping[str, ArrayStats] = {}

    def show(self, infos: Sequence[ArrayPlan], stats: Mapping[str, ArrayStats]) -> None:
        """Show arrays; numbers may come later."""
        self._infos, self._stats = infos, stats
        self.lines_changed()

    def count(self) -> int:
        return len(self._infos)

    def header(self, width: int) -> Pieces:
        text = f"   {'array':<14} {'shape':<18} {'as loaded':<9} {'as placed':<9}"
        if width >= _VERY_WIDE:
            text += f" {'offset':>10} {'size':>9}"
        text += f" {'min':>9} {'max':>9}"
        if width >= _WIDE:
            text += f" {'mean':>9} {'std':>9} {'NaN':>6} {'Inf':>6}"
        return [(text, "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        info, stats = self._infos[index], self._stats.get(self._infos[index].name)
        shape = f"({', '.join(map(str, info.shape))}{',' if len(info.shape) == 1 else ''})"
        name = f"{info.name} *" if info.is_label else info.name
        yield "▸" if index == self.chosen else " ", "key"
        yield "⚠ " if stats is not None and stats.warnings else "  ", "warn"
        yield f"{name[:14]:<14} {shape[:18]:<18} {info.numpy_dtype[:9]:<9} {info.jax_dtype[:9]:<9}", "plain"
        if width >= _VERY_WIDE:
            yield f" {count(info.offset):>10} {size(info.bytes):>9}", "plain"
        if stats is None:
            yield "         …", "dim"
            return
        yield f" {_value(stats.minimum):>9} {_value(stats.maximum):>9}", "plain"
        if width >= _WIDE:
            yield f" {_value(stats.mean):>9} {_value(stats.std):>9}", "plain"
            yield f" {count(stats.nans):>6}", "bad" if stats.nans else "dim"
            yield f" {count(stats.infs):>6}", "bad" if stats.infs else "dim"


class ArrayDetail(Widget):
    """The histogram of an array, its numbers in full and its warnings."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._info: ArrayPlan | None = None
        self._stats: ArrayStats | None = None

    def show(self, info: ArrayPlan | None, stats: ArrayStats | None) -> None:
        self._info, self._stats = info, stats
        self.border_title = None if info is None else Content(f"values of {clean(info.name)}")
        self.refresh()

    def render(self) -> Content:
        """The histogram to the left, the rest to the right."""
        info, stats = self._info, self._stats
        if info is None or stats is None:
            return Content.styled("counting …", "$dim")
        width, height = self.content_size
        wide = min(64, width // 2)
        heights = blocks(stats.histogram, wide)
        drawn = columns(heights, len(heights), max(1, height - 1))
        left = [Content.styled(f"{line:<{wide}}"[:wide], "$accent") for line in drawn]
        low, high = _value(stats.minimum), _value(stats.maximum)
        axis = f"{low}{high:>{max(1, len(heights) - len(low))}}"[:wide]
        left.append(Content.styled(axis, "$dim"))
        right = self._facts(info, stats, width - wide - 2)
        lines = [
            line.pad_right(max(0, wide - line.cell_length))
            + Content("  ")
            + (right[place] if place < len(right) else Content())
            for place, line in enumerate(left)
        ]
        return Content("\n").join(lines)

    def _facts(self, info: ArrayPlan, stats: ArrayStats, room: int) -> list[Content]:
        of = " of the first rows" if stats.partial else ""
        lines = [
            Content.assemble(("mean ", "$dim"), _value(stats.mean), ("  std ", "$dim"), _value(stats.std)),
            Content.styled(
                f"{count(stats.values)} values{of}, {size(info.bytes)} at byte {count(info.offset)}", "$dim"
            ),
            Content.assemble(
                (f"{count(stats.nans)} NaN", "$text-error" if stats.nans else "$dim"),
                "  ",
                (f"{count(stats.infs)} Inf", "$text-error" if stats.infs else "$dim"),
            ),
        ]
        if not stats.warnings:
            return [*lines, Content.styled("✓ nothing odd", "$text-success")]
        warnings = [Content.styled(f"⚠ {text}", "$text-warning") for text in stats.warnings]
        return [lines[0], *(line for text in warnings for line in text.wrap(max(1, room))), *lines[1:]]


class _ItemColumn:
    """A column of the items: a title and a text a row."""

    def __init__(self, title: str, texts: list[str], look: str) -> None:
        self.title = title
        self.texts = texts
        self.look = look
        self.width = max(len(title), max(map(len, texts), default=0))


class ItemList(LineList):
    """A line an item: its index in the data, its seed, its small values, what it is."""

    BORDER_TITLE = "items"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "large", key_display="↵")]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._view: BatchView | None = None
        self._columns: list[_ItemColumn] = []
        self._descriptors: Sequence[str] = ()

    def show(self, view: BatchView) -> None:
        self._view = view
        indices = [str(index) for index in view.indices]
        self._columns = [_ItemColumn("row", [str(row) for row in range(len(indices))], "plain")]
        self._columns.append(_ItemColumn("index", [clean(index, _NUMBERS_WIDTH) for index in indices], "plain"))
        self._columns += [
            _ItemColumn(name[:_VALUE_WIDTH], [str(value)[:_VALUE_WIDTH] for value in array], "accent")
            for name, array in view.arrays.items()
            if array.ndim == 1
        ][:_MOST_VALUE_COLUMNS]
        if view.seeds is not None:
            self._columns.append(_ItemColumn("seed", [clean(str(seed), _NUMBERS_WIDTH) for seed in view.seeds], "dim"))
        # A descriptor that only repeats the index says nothing.
        self._descriptors = () if list(view.descriptors) == indices else view.descriptors
        self.border_title = many(len(indices), "item")
        self.lines_changed()

    def count(self) -> int:
        return 0 if self._view is None else len(self._view.indices)

    def header(self, width: int) -> Pieces:
        titles = "".join(f"  {column.title:>{column.width}}" for column in self._fitting(width))
        return [(f"{titles}  {'what it is' if self._descriptors else ''}", "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        view = self._view
        assert view is not None
        yield "▸" if index == self.chosen else " ", "key"
        for place, column in enumerate(self._fitting(width)):
            yield f"{' ' * (2 if place else 1)}{column.texts[index]:>{column.width}}", column.look
        if self._descriptors:
            yield f"  {self._descriptors[index]}", "plain"
        for name, texts in view.additional.items():
            if texts[index]:
                yield f"  {name}=", "dim"
                yield texts[index], "plain"

    def _fitting(self, width: int) -> list[_ItemColumn]:
        """All columns where there is room for them and the rest, else all but the seed."""
        taken = sum(column.width + 2 for column in self._columns)
        return [column for column in self._columns if column.title != "seed" or width - taken >= _REST_WIDTH]


def _value(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e7:  # noqa: PLR2004  else the exponent is shorter
        return str(int(value))
    return f"{value:.4g}"
