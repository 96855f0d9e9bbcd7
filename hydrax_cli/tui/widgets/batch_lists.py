"""The lists of the batch screen: its arrays with their numbers, and its items."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget

from hydrax_cli.tui.widgets.drawing import blocks, columns
from hydrax_cli.tui.widgets.line_list import LineList, Pieces, clean
from hydrax_cli.units import count, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrax_cli.tui.messages import ArrayInfo, BatchView
    from hydrax_cli.tui.statistics import ArrayStats

__all__ = ["ArrayDetail", "ArrayList", "ItemList"]

_WIDE = 110
_MOST_VALUE_COLUMNS = 3
_VALUE_WIDTH = 8
_SEED_WIDTH = 44


class ArrayList(LineList):
    """A line an array: layout, numbers, and a mark where there is a warning."""

    BORDER_TITLE = "arrays"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", show=False)]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._infos: Sequence[ArrayInfo] = ()
        self._stats: Mapping[str, ArrayStats] = {}

    def show(self, infos: Sequence[ArrayInfo], stats: Mapping[str, ArrayStats]) -> None:
        """Show arrays; numbers may come later."""
        self._infos, self._stats = infos, stats
        self.lines_changed()

    def count(self) -> int:
        """Arrays."""
        return len(self._infos)

    def header(self, width: int) -> Pieces:
        """The titles."""
        wide = width >= _WIDE
        text = f"   {'array':<14} {'shape':<18} {'as loaded':<9} {'as placed':<9}"
        if wide:
            text += f" {'offset':>10} {'size':>9}"
        text += f" {'min':>9} {'max':>9}"
        if wide:
            text += f" {'mean':>9} {'std':>9} {'NaN':>6} {'Inf':>6}"
        return [(text, "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        """An array."""
        info, stats = self._infos[index], self._stats.get(self._infos[index].name)
        wide = width >= _WIDE
        mark = "▸" if index == self.chosen else " "
        shape = f"({', '.join(map(str, info.shape))}{',' if len(info.shape) == 1 else ''})"
        name = f"{info.name} *" if info.is_label else info.name
        text = f" {mark} {clean(name)[:14]:<14} {shape[:18]:<18} {info.numpy_dtype[:9]:<9} {info.jax_dtype[:9]:<9}"
        if wide:
            text += f" {count(info.offset):>10} {size(info.bytes):>9}"
        if stats is None:
            return [(text, "plain"), ("         …", "dim")]
        text += f" {_value(stats.minimum):>9} {_value(stats.maximum):>9}"
        pieces = [(text, "plain")]
        if wide:
            pieces.append((f" {_value(stats.mean):>9} {_value(stats.std):>9}", "plain"))
            pieces.append((f" {count(stats.nans):>6}", "bad" if stats.nans else "dim"))
            pieces.append((f" {count(stats.infs):>6}", "bad" if stats.infs else "dim"))
        if stats.warnings:
            pieces.append((f"  ⚠ {stats.warnings[0]}" if wide else " ⚠", "warn"))
        return pieces


class ArrayDetail(Widget):
    """The histogram of an array, its numbers in full and its warnings."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._info: ArrayInfo | None = None
        self._stats: ArrayStats | None = None

    def show(self, info: ArrayInfo | None, stats: ArrayStats | None) -> None:
        """Show an array's numbers."""
        self._info, self._stats = info, stats
        self.border_title = None if info is None else f"values of {clean(info.name)}"
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

    def _facts(self, info: ArrayInfo, stats: ArrayStats, room: int) -> list[Content]:
        of = " of the first rows" if stats.partial else ""
        facts = [
            Content.assemble(("mean ", "$dim"), _value(stats.mean), ("  std ", "$dim"), _value(stats.std)),
            Content.assemble(
                (f"{count(stats.values)} values{of}, {size(info.bytes)} at byte {count(info.offset)}", "$dim")
            ),
        ]
        bad = Content.assemble(
            (f"{count(stats.nans)} NaN", "$text-error" if stats.nans else "$dim"),
            "  ",
            (f"{count(stats.infs)} Inf", "$text-error" if stats.infs else "$dim"),
        )
        warnings = [Content.styled(f"⚠ {text}", "$text-warning") for text in stats.warnings]
        if not warnings:
            warnings = [Content.styled("✓ nothing odd", "$text-success")]
        lines = [facts[0], *warnings, facts[1], bad] if stats.warnings else [*facts, bad, *warnings]
        return [line.truncate(max(1, room), ellipsis=True) for line in lines]


class ItemList(LineList):
    """A line an item: its index in the data, its seed, its small values, what it is."""

    BORDER_TITLE = "items"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "large", key_display="↵")]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._view: BatchView | None = None
        self._values: list[tuple[str, list[str]]] = []

    def show(self, view: BatchView) -> None:
        """Show the items of a batch."""
        self._view = view
        self._values = [
            (name, [str(value) for value in array[: len(view.indices)]])
            for name, array in view.arrays.items()
            if array.ndim == 1
        ][:_MOST_VALUE_COLUMNS]
        self.border_title = f"{len(view.indices)} items"
        self.lines_changed()

    def count(self) -> int:
        """Real rows."""
        return 0 if self._view is None else len(self._view.indices)

    def header(self, width: int) -> Pieces:
        """The titles."""
        values = "".join(f" {clean(name)[:_VALUE_WIDTH]:>{_VALUE_WIDTH}}" for name, _ in self._values)
        seed = "        seed" if width >= _SEED_WIDTH else ""
        return [(f"  row     index{values}{seed}  what it is", "head")]

    def pieces(self, index: int, width: int) -> Pieces:
        """An item."""
        view = self._view
        assert view is not None
        mark = "▸" if index == self.chosen else " "
        yield f"{mark}{index:>4} {view.indices[index]:>9}", "plain"
        for _, values in self._values:
            yield f" {values[index][:_VALUE_WIDTH]:>{_VALUE_WIDTH}}", "accent"
        if width >= _SEED_WIDTH:
            yield f"  {'-' if view.seeds is None else view.seeds[index]:>10}", "dim"
        if view.descriptors:
            yield f"  {clean(view.descriptors[index])}", "plain"
        for name, texts in view.additional.items():
            if texts[index]:
                yield f"  {clean(name)}=", "dim"
                yield clean(texts[index]), "plain"


def _value(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e7:  # noqa: PLR2004  else the exponent is shorter
        return str(int(value))
    return f"{value:.4g}"
