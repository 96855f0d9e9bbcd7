"""An array on the screen: pictures in half blocks, a heat map, segments in colours, or rows of numbers.

Promise: what is drawn fits the widget whatever its size; a batch that does not fit is shown a page at a time, the page
with the chosen item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich.cells import set_cell_size
from rich.color import Color as RichColor
from rich.color import ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.content import Content
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import many

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from textual import events

    from hydrax_cli.inspect.numbers.pixels import Grid, Kind, Pixels, Scale
    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.monitor import ArrayPlan

__all__ = ["ArrayPicture"]

_UPPER_HALF = "▀"
_MOST_NUMBERS = 512
_SEGMENT_COLOURS = ("primary", "warning", "success", "error", "accent", "secondary")
_FIRST_PRINTABLE, _LAST_PRINTABLE = 32, 126


class ArrayPicture(Widget, can_focus=True):
    """Draws one array of a batch.

    Args:
        at_least: How many pictures of a grid should be seen at once.
    """

    @dataclass(eq=False)
    class ItemClicked(Message):
        item: int
        double: bool

    def __init__(self, *, at_least: int, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._at_least = at_least
        self._array: npt.NDArray[Any] | None = None
        self._info: ArrayPlan | None = None
        self._scale: Scale | None = None
        self._segments: npt.NDArray[Any] | None = None
        self._kind: Kind = "rows"
        self._item: int | None = None
        self._single = False
        self._title = ""
        self._first = 0
        self._top = 0
        self._grid: Grid | None = None
        self._strips: list[Strip] | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the array can be shown as, the best first."""
        if self._array is None:
            return ()
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        best = pixels.best_kind(self._array.shape[1:], self._array.dtype)
        if self._segments is not None:
            best = "segments"
        kinds: tuple[Kind, ...] = ("picture", "heat map", "segments", "rows")
        return (best, *(kind for kind in kinds if kind != best and self._can(kind)))

    def _can(self, kind: Kind) -> bool:
        assert self._array is not None
        if kind == "segments":
            return self._segments is not None
        return kind != "picture" or 2 <= self._array.ndim - 1 <= 3  # noqa: PLR2004  height, width, channels

    def show(
        self,
        array: npt.NDArray[Any],
        info: ArrayPlan,
        *,
        kind: Kind | None,
        item: int | None,
        single: bool,
        title: str = "",
        segments: npt.NDArray[Any] | None = None,
    ) -> None:
        """Draw an array.

        Args:
            array: Shape (rows, ...); padding left out.
            kind: What to show it as, ``None`` for the best.
            single: Whether to show that item alone, as large as it gets.
            title: What to write above it instead of what it is.
            segments: Which document of a packed row each element is of, shape (rows, length); 0 for none.
        """
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        if array is not self._array:
            self._array, self._info, self._scale = array, info, pixels.scale_of(array)
        self._segments = segments if array.ndim > 1 else None
        self._kind = kind if kind in self.kinds else self.kinds[0]
        if self._kind == "picture" and pixels.best_kind(array.shape[1:], array.dtype) != "picture":
            self._kind = self.kinds[0]
        self._item, self._single, self._title = item, single, title
        self._redraw()

    def show_best(self, view: BatchView) -> None:
        """Draw what is best to look at of a batch: its first array that is a picture, else the first."""
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        names = list(view.arrays)
        kinds = {name: pixels.best_kind(array.shape[1:], array.dtype) for name, array in view.arrays.items()}
        name = next((n for kind in ("picture", "heat map") for n in names if kinds[n] == kind), names[0])
        name = next((info.name for info in view.infos if info.segments), name)
        info = next(info for info in view.infos if info.name == name)
        title = f"{view.record.title} · {name} {info.shape}"
        array, ids = view.arrays[name][: view.record.size], view.segments(info)
        self.show(array, info, kind=None, item=None, single=False, title=title, segments=ids)

    def clear(self) -> None:
        self._array = self._info = None
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips = None

    def _redraw(self) -> None:
        self._strips = None
        self._name_it()
        self.refresh()

    def _name_it(self) -> None:
        if self._array is None or self._info is None or self._scale is None:
            self.border_title = self.border_subtitle = None
            return
        what = f"{self._info.name}[{self._item}]" if self._single else self._info.name
        shape = self._array.shape[1:] if self._single else self._array.shape
        title = self._title or f"{what} {tuple(shape)} {self._array.dtype} as {self._kind}"
        self.border_title = Content(clean(title))
        if self._segments is not None and self._kind in {"segments", "rows"}:
            self.border_subtitle = self._fullness()
        elif self._kind == "rows":
            self.border_subtitle = None
        else:
            self.border_subtitle = f"dark {self._scale.low:.4g} … light {self._scale.high:.4g}"

    def _fullness(self) -> str:
        assert self._segments is not None
        shown = self._segments if self._item is None else self._segments[self._item : self._item + 1]
        row = "" if self._item is None else f"row {self._item}: "
        most = int(shown.max(initial=0)) if self._item is not None else int(shown.max(axis=1, initial=0).sum())
        return f"{row}{many(most, 'segment')}, {(shown > 0).mean():.1%} full"

    # --- drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if self._strips is None:
            self._strips = self._draw(width, self.size.height)
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(width, self.rich_style)

    def _draw(self, width: int, height: int) -> list[Strip]:
        self._grid, self._first, self._top = None, 0, 0
        if self._array is None or width <= 0 or height <= 0 or not len(self._array):
            return []
        if self._kind == "rows" or (self._kind == "segments" and self._single):
            return self._draw_rows(self._array, width, height)
        if self._kind == "segments":
            return self._draw_segments(width, height)
        pixels = self._pictures(width, height) if self._kind == "picture" else self._heat(width, height)
        strips = _half_blocks(pixels, width, self.background_colors[1].rgb)
        self._top = max(0, (height - len(strips)) // 2)
        return [Strip.blank(width, self.rich_style)] * self._top + strips

    def _pictures(self, width: int, height: int) -> Pixels:
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        array, scale = self._array, self._scale
        assert array is not None
        assert scale is not None
        area = (width, 2 * height)
        background = self.background_colors[1].rgb
        mark = Color.parse(self.app.theme_variables["accent"]).rgb
        if self._single and self._item is not None:
            shown = pixels.images(array[self._item : self._item + 1], scale)
            grid = pixels.grid_of(area, (shown.shape[1], shown.shape[2]), 1, 1)
            return pixels.montage(shown, grid, background, None, mark)
        sample = pixels.images(array[:1], scale)
        grid = pixels.grid_of(area, (sample.shape[1], sample.shape[2]), len(array), self._at_least)
        self._first = 0 if self._item is None else self._item // grid.page * grid.page
        self._grid = grid
        shown = pixels.images(array[self._first : self._first + grid.page], scale)
        chosen = None if self._item is None else self._item - self._first
        return pixels.montage(shown, grid, background, chosen, mark)

    def _heat(self, width: int, height: int) -> Pixels:
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        array, scale = self._array, self._scale
        assert array is not None
        assert scale is not None
        if self._single and self._item is not None:
            array = array[self._item : self._item + 1]
        if array.ndim == 1:
            matrix = array[None, :]
        elif self._single and array.ndim > 2:  # noqa: PLR2004  an item of two dimensions or more
            matrix = array[0].reshape(-1, array.shape[-1])
        else:
            matrix = array.reshape(len(array), -1)
        colours = pixels.heat(pixels.thin(matrix, width, 2 * height), scale)
        high = min(2 * height, colours.shape[0] * max(1, min(8, 2 * height // colours.shape[0])))
        wide = min(width, colours.shape[1] * max(1, min(8, width // colours.shape[1])))
        return pixels.fit(colours, wide, high)

    def _draw_segments(self, width: int, height: int) -> list[Strip]:
        """A line for each row of the batch, or several for each where there is room."""
        from hydrax_cli.inspect.numbers import pixels  # noqa: PLC0415  NumPy comes with it

        assert self._segments is not None
        ids, name_width = self._segments, 5
        background = self.background_colors[1].rgb
        palette = [background, *(Color.parse(self.app.theme_variables[name]).rgb for name in _SEGMENT_COLOURS)]
        thick = 2 * max(1, min(3, height // len(ids)))
        page = max(1, 2 * height // thick)
        self._first = 0 if self._item is None else self._item // page * page
        room = max(1, width - name_width)
        drawn = pixels.segments(ids[self._first : self._first + page], palette, room, thick)
        accent = Style(color=RichColor.parse(Color.parse(self.app.theme_variables["accent"]).hex6))
        strips = []
        for line, strip in enumerate(_half_blocks(drawn, drawn.shape[1], background)):
            item, part = divmod(2 * line, thick)
            item += self._first
            style = self.rich_style + accent
            if item == self._item:
                style += Style(reverse=True)
            name = Segment(f"{item:>4}" if part == 0 else " " * 4, style if part == 0 else self.rich_style)
            rest = Segment(" " * max(0, room - drawn.shape[1]), self.rich_style)
            strips.append(Strip([name, Segment(" ", self.rich_style), *strip, rest], width))
        return strips

    def _segment_pieces(self, item: int, values: npt.NDArray[Any], plain: Style) -> list[tuple[str, Style]]:
        """The numbers of a packed row, each document's in a colour of its own."""
        import numpy as np  # noqa: PLC0415  the screens are up before it is imported

        assert self._segments is not None
        ids = self._segments[item]
        per_place = max(1, values.size // len(ids))
        ids = np.repeat(ids, per_place)[: len(values)]
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        pieces = []
        for start, end in pairwise(edges):
            name = _SEGMENT_COLOURS[(int(ids[start]) - 1) % len(_SEGMENT_COLOURS)] if ids[start] else "faint"
            look = plain + Style(color=RichColor.parse(Color.parse(self.app.theme_variables[name]).hex6))
            pieces.append((" ".join(map(_number, values[start:end])) + " ", look))
        return pieces

    def _draw_rows(self, array: npt.NDArray[Any], width: int, height: int) -> list[Strip]:
        plain = self.rich_style
        muted = Style(color=RichColor.parse(Color.parse(self.app.theme_variables["accent"]).hex6))
        if array.ndim == 1:
            return self._draw_values(array, width, height, plain, muted)
        items = range(len(array)) if not self._single or self._item is None else range(self._item, self._item + 1)
        self._first = 0 if self._item is None or self._single else max(0, min(self._item, len(array) - height))
        strips: list[Strip] = []
        for item in items[self._first :][:height]:
            name = f"{item:>4} "
            values = array[item].reshape(-1)[:_MOST_NUMBERS]
            body = _row_text(values)
            chosen = plain + Style(reverse=True) if item == self._item and not self._single else plain
            if self._segments is not None:
                pieces = self._segment_pieces(item, values, chosen)
                lines_of = _wrapped(pieces, max(1, width - len(name)))[: height if self._single else 1]
                strips.extend(
                    _strip([(name if i == 0 else "     ", plain + muted), *line], width)
                    for i, line in enumerate(lines_of)
                )
            elif self._single:
                room = max(1, width - len(name))
                lines = [body[i : i + room] for i in range(0, len(body), room)][:height]
                strips.extend(
                    _strip([(name if i == 0 else "     ", plain + muted), (line, plain)], width)
                    for i, line in enumerate(lines)
                )
            else:
                strips.append(_strip([(name, plain + muted), (body, chosen)], width))
        return strips

    def _draw_values(self, array: npt.NDArray[Any], width: int, height: int, plain: Style, muted: Style) -> list[Strip]:
        texts = [_number(value) for value in array]
        across = max(1, width // (max(map(len, texts)) + 7))
        wide = width // across
        page = across * height
        self._first = 0 if self._item is None else self._item // page * page
        strips = []
        for start in range(self._first, min(len(texts), self._first + page), across):
            pieces = []
            for item in range(start, min(start + across, len(texts))):
                chosen = plain + Style(reverse=True) if item == self._item else plain
                name, text = f"{item:>4} ", texts[item]
                pieces += [(name, plain + muted), (text, chosen), (" " * max(0, wide - len(name) - len(text)), plain)]
            strips.append(_strip(pieces, width))
        return strips

    # --- mouse

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or self._array is None:
            return
        item: int | None = None
        if self._grid is not None:
            left = (self.size.width - self._grid.columns * (self._grid.width + 1) - 1) // 2
            column = (place.x - left) // (self._grid.width + 1)
            row = 2 * (place.y - self._top) // (self._grid.height + 1)
            if 0 <= column < self._grid.columns and 0 <= row < self._grid.rows:
                item = self._first + row * self._grid.columns + column
        elif self._kind == "rows" and self._array.ndim > 1 and not self._single:
            item = self._first + place.y
        elif self._kind == "segments" and not self._single:
            item = self._first + place.y // max(1, min(3, self.size.height // len(self._array)))
        if self._single and item is None:
            item = self._item
        if item is not None and item < len(self._array):
            self.post_message(self.ItemClicked(item, double=event.chain > 1))


def _number(value: Any) -> str:
    return f"{value:.4g}" if getattr(value, "dtype", None) is not None and value.dtype.kind not in "iub" else str(value)


def _row_text(values: npt.NDArray[Any]) -> str:
    """Numbers, and the text that they spell where every one is a printable character or 0."""
    numbers = " ".join(_number(value) for value in values)
    if values.dtype.kind in "iu" and len(values) > 1:
        used = values[values != 0]
        if used.size and ((used >= _FIRST_PRINTABLE) & (used <= _LAST_PRINTABLE)).all():
            return f"“{bytes(used.tolist()).decode('ascii')}”  {numbers}"
    return numbers


def _wrapped(pieces: list[tuple[str, Style]], width: int) -> list[list[tuple[str, Style]]]:
    """Pieces of text cut into lines."""
    lines: list[list[tuple[str, Style]]] = [[]]
    room = width
    for whole, style in pieces:
        text = whole
        while text:
            lines[-1].append((text[:room], style))
            text, room = text[room:], room - len(text[:room])
            if not room:
                lines.append([])
                room = width
    return lines


def _strip(pieces: list[tuple[str, Style]], width: int) -> Strip:
    segments, used = [], 0
    for text, style in pieces:
        shown = text[: width - used]
        segments.append(Segment(shown, style))
        used += len(shown)
    segments.append(Segment(set_cell_size("", width - used), pieces[-1][1] if pieces else None))
    return Strip(segments, width)


def _half_blocks(pixels: npt.NDArray[np.uint8], width: int, background: tuple[int, int, int]) -> list[Strip]:
    """Two rows of pixels a line; runs of equal cells are one segment."""
    import numpy as np  # noqa: PLC0415  the screens are up before it is imported

    high, wide = pixels.shape[:2]
    if high % 2:
        pixels = np.concatenate([pixels, np.full((1, wide, 3), background, np.uint8)])
    wider = pixels.astype(np.uint32)
    codes = wider[..., 0] << 16 | wider[..., 1] << 8 | wider[..., 2]
    left = (width - wide) // 2
    margin = Segment(" " * left, Style(bgcolor=RichColor.from_rgb(*background)))
    rest = Segment(" " * (width - wide - left), margin.style)
    strips = []
    for top, bottom in zip(codes[::2], codes[1::2], strict=True):
        ends = np.flatnonzero((np.diff(top.astype(np.int64)) != 0) | (np.diff(bottom.astype(np.int64)) != 0)) + 1
        edges = [0, *ends.tolist(), wide]
        segments = [margin] if left else []
        for start, end in pairwise(edges):
            glyph, style = _cell(int(top[start]), int(bottom[start]))
            segments.append(Segment(glyph * (end - start), style))
        segments.append(rest)
        strips.append(Strip(segments, width))
    return strips


@lru_cache(maxsize=16_384)
def _cell(top: int, bottom: int) -> tuple[str, Style]:
    if top == bottom:
        return " ", Style.from_color(None, _colour(top))
    return _UPPER_HALF, Style.from_color(_colour(top), _colour(bottom))


@lru_cache(maxsize=16_384)
def _colour(code: int) -> RichColor:
    """Without a name, which rich would write out for nothing."""
    return RichColor("", ColorType.TRUECOLOR, None, ColorTriplet(code >> 16, code >> 8 & 255, code & 255))
