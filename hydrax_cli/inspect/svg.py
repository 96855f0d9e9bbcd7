"""A picture of the screen as SVG, without a terminal.

Promise: the file stands alone (no font or style from elsewhere is fetched) and is the same for the same screen. Blocks
and frames are drawn as shapes, so that pictures and graphs are exact whatever font a viewer has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.color_triplet import ColorTriplet
from rich.terminal_theme import TerminalTheme

from hydrax_cli.inspect.textual_private import screen_strips
from hydrax_cli.shared.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.segment import Segment
    from rich.style import Style
    from textual.app import App

__all__ = ["screen_svg"]

_Run: TypeAlias = tuple[int, str, str, str, str]
"""Column, text, colour, background, classes."""

_WIDTH = 8.4
_HEIGHT = 18.0
_BASELINE = 13.2
_MARGIN = 8.0
_FONT = 'ui-monospace,"Cascadia Mono","Fira Code","DejaVu Sans Mono",Menlo,Consolas,monospace'
_THEME = TerminalTheme((15, 20, 27), (214, 221, 232), [(0, 0, 0)] * 8)
# Parts of a cell that a block covers: left, top, right, bottom, each from 0 to 1.
_BLOCKS: dict[str, tuple[float, float, float, float]] = {
    "▀": (0, 0, 1, 0.5),
    "▄": (0, 0.5, 1, 1),
    "█": (0, 0, 1, 1),
    "▌": (0, 0, 0.5, 1),
    "▐": (0.5, 0, 1, 1),
    "─": (0, 0.47, 1, 0.53),
    "━": (0, 0.42, 1, 0.58),
    "╸": (0, 0.42, 0.5, 0.58),
    "│": (0.44, 0, 0.56, 1),
    **{glyph: (0.0, 1 - eighths / 8, 1.0, 1.0) for eighths, glyph in enumerate("▁▂▃▄▅▆▇█", 1)},
    **{glyph: (0.0, 0.0, 1 - eighths / 8, 1.0) for eighths, glyph in enumerate("▉▊▋▌▍▎▏", 1)},
}
# Quarter circles between the middles of two sides.
_CORNERS = {"╭": (1, 1), "╮": (-1, 1), "╰": (1, -1), "╯": (-1, -1)}
_SHAPES = "".join((*_BLOCKS, *_CORNERS))
_PIECE = re.compile(f"([{_SHAPES}])\\1*|[^ {_SHAPES}]+")


def screen_svg(app: App[Any]) -> str:
    """The screen of an app that runs, dialogs and what is behind them included."""
    rows = list(_rows(screen_strips(app)))
    columns, lines = app.size
    width, height = columns * _WIDTH + 2 * _MARGIN, lines * _HEIGHT + 2 * _MARGIN
    plain = _hex(app.screen.background_colors[1].rgb)
    under, over, texts = _Shapes(), _Shapes(), _Texts()
    for y, row in enumerate(rows):
        for column, text, colour, background, classes in row:
            if background not in ("", plain):
                under.add(background, column, y, column + cell_len(text), y + 1)
            _draw(text, column, y, colour, classes, over, texts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}">',
        f"<style>text{{font:14px {_FONT};white-space:pre;font-variant-ligatures:none}}",
        ".b text{font-weight:bold}.i text{font-style:italic}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{plain}"/>',
        f'<g transform="translate({_n(_MARGIN)} {_n(_MARGIN)})">',
        f'<g transform="scale({_n(_WIDTH)} {_n(_HEIGHT)})" shape-rendering="crispEdges">',
        *under.paths(),
        *over.paths(),
        "</g>",
        *over.arcs(),
        *texts.groups(),
        "</g>",
        "</svg>",
        "",
    ]
    return "\n".join(parts)


class _Shapes:
    """Rectangles and arcs; all of a colour become one path."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}
        self._arcs: dict[str, list[str]] = {}
        self._last: tuple[str, float, float, float, float] | None = None

    def add(self, colour: str, left: float, top: float, right: float, bottom: float) -> None:
        """A rectangle; one that goes on to the right of the last one makes that longer."""
        pieces = self._paths.setdefault(colour, [])
        last = self._last
        if last is not None and last[0] == colour and (last[2], last[3], last[4]) == (top, left, bottom):
            pieces.pop()
            left = last[1]
        self._last = (colour, left, top, right, bottom)
        wide = _n(right - left)
        pieces.append(f"M{_n(left)} {_n(top)}h{wide}v{_n(bottom - top)}h-{wide}z")

    def arc(self, colour: str, column: float, line: float, right: int, down: int) -> None:
        """A quarter circle between the middles of two sides of a cell."""
        x, y, radius = (column + 0.5) * _WIDTH, (line + 0.5) * _HEIGHT, _WIDTH / 2
        start = f"M{_n(x)} {_n(y + down * _HEIGHT / 2)}V{_n(y + down * radius)}"
        self._arcs.setdefault(colour, []).append(f"{start}Q{_n(x)} {_n(y)} {_n(x + right * radius)} {_n(y)}")

    def paths(self) -> Iterator[str]:
        """The rectangles, measured in cells."""
        for colour, pieces in self._paths.items():
            yield f'<path fill="{colour}" d="{"".join(pieces)}"/>'

    def arcs(self) -> Iterator[str]:
        for colour, pieces in self._arcs.items():
            yield f'<path fill="none" stroke="{colour}" d="{"".join(pieces)}"/>'


class _Texts:
    """Words at their places, grouped by their look."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], list[str]] = {}

    def add(self, text: str, column: int, line: int, colour: str, classes: str) -> None:
        place = f'x="{_n(column * _WIDTH)}" y="{_n(line * _HEIGHT + _BASELINE)}"'
        length = f'textLength="{_n(cell_len(text) * _WIDTH)}"'
        self._groups.setdefault((colour, classes), []).append(f"<text {place} {length}>{escape(text)}</text>")

    def groups(self) -> Iterator[str]:
        for (colour, classes), texts in self._groups.items():
            kind = f' class="{classes}"' if classes else ""
            yield f'<g fill="{colour}"{kind}>{"".join(texts)}</g>'


def _draw(text: str, column: int, line: int, colour: str, classes: str, shapes: _Shapes, texts: _Texts) -> None:
    for offset, piece in _pieces(text):
        x, length = column + offset, cell_len(piece)
        part = _BLOCKS.get(piece[0])
        if part is not None:
            left, top, right, bottom = part
            for i in range(length):
                shapes.add(colour, x + i + left, line + top, x + i + right, line + bottom)
        elif piece[0] in _CORNERS:
            for i in range(length):
                shapes.arc(colour, x + i, line, *_CORNERS[piece[0]])
        else:
            texts.add(piece, x, line, colour, classes)


def _rows(strips: Iterable[Iterable[Iterable[Segment]]]) -> Iterator[list[_Run]]:
    """Each line in runs of one look."""
    for line in strips:
        row: list[_Run] = []
        column = 0
        for foreign, style, control in (segment for strip in line for segment in strip):
            if control or not foreign:
                continue
            text = clean(foreign)
            colour, background, classes = _look(style)
            row.append((column, text, colour, background, classes))
            column += cell_len(text)
        yield row


def _look(style: Style | None) -> tuple[str, str, str]:
    if style is None:
        return "", "", ""
    colour = style.color.get_truecolor(_THEME) if style.color is not None else _THEME.foreground_color
    background = style.bgcolor.get_truecolor(_THEME, foreground=False) if style.bgcolor is not None else None
    if style.reverse:
        colour, background = background or _THEME.background_color, colour
    if style.dim and background is not None:
        colour = ColorTriplet(*((c + b) // 2 for c, b in zip(colour, background, strict=True)))
    classes = " ".join(name for name, used in (("b", style.bold), ("i", style.italic)) if used)
    return _hex(colour), "" if background is None else _hex(background), classes


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Runs of one shape, and words, each at a place of its own as fonts differ; with their offset in cells."""
    for found in _PIECE.finditer(text):
        yield cell_len(text[: found.start()]), found[0]


def _hex(colour: Iterable[float]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def _n(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
