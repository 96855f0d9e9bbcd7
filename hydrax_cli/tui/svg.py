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
    compositor = app.screen._compositor  # noqa: SLF001  Textual's own export reads it the same way
    update = compositor.render_update(full=True, screen_stack=app._background_screens)  # noqa: SLF001  see above
    columns, lines = app.size
    width, height = columns * _WIDTH + 2 * _MARGIN, lines * _HEIGHT + 2 * _MARGIN
    background = _hex(app.screen.background_colors[1].rgb)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}">',
        f"<style>text{{font-family:{_FONT};font-size:14px;white-space:pre;font-variant-ligatures:none}}.b{{font-weight:bold}}.i{{font-style:italic}}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{background}"/>',
        f'<g transform="translate({_n(_MARGIN)} {_n(_MARGIN)})" shape-rendering="crispEdges">',
    ]
    rows = list(_rows(update.strips))  # type: ignore[union-attr]  # a full update has strips
    for y, row in enumerate(rows):
        parts.extend(_backgrounds(row, y, background))
    for y, row in enumerate(rows):
        parts.extend(_glyphs(row, y))
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _rows(strips: Iterable[Iterable[Iterable[Segment]]]) -> Iterator[list[_Run]]:
    """Each line in runs of one look."""
    for line in strips:
        row: list[_Run] = []
        column = 0
        for text, style, control in (segment for strip in line for segment in strip):
            if control or not text:
                continue
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


def _backgrounds(row: list[_Run], y: int, plain: str) -> Iterator[str]:
    runs: list[list[float | str]] = []
    for column, text, _, background, _ in row:
        if background in ("", plain):
            continue
        if runs and runs[-1][2] == background and runs[-1][1] == column:
            runs[-1][1] = column + cell_len(text)
        else:
            runs.append([column, column + cell_len(text), background])
    for start, end, colour in runs:
        yield _rect(float(start), y, float(end), y + 1, str(colour))


def _glyphs(row: list[_Run], y: int) -> Iterator[str]:
    for column, text, colour, _, classes in row:
        for offset, piece in _pieces(text):
            x, length = column + offset, cell_len(piece)
            part = _BLOCKS.get(piece[0])
            if part is not None:
                left, top, right, bottom = part
                if right - left == 1:
                    yield _rect(x, y + top, x + length, y + bottom, colour)
                else:
                    yield from (_rect(x + i + left, y + top, x + i + right, y + bottom, colour) for i in range(length))
            elif piece[0] in _CORNERS:
                yield from (_corner(x + i, y, *_CORNERS[piece[0]], colour) for i in range(length))
            else:
                kind = f' class="{classes}"' if classes else ""
                yield (
                    f'<text{kind} x="{_n(x * _WIDTH)}" y="{_n(y * _HEIGHT + _BASELINE)}" '
                    f'textLength="{_n(length * _WIDTH)}" fill="{colour}">{escape(piece)}</text>'
                )


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Runs of one shape, and words, each at a place of its own as fonts differ; with their offset in cells."""
    for found in _PIECE.finditer(text):
        yield cell_len(text[: found.start()]), found[0]


def _rect(left: float, top: float, right: float, bottom: float, colour: str) -> str:
    return (
        f'<rect x="{_n(left * _WIDTH)}" y="{_n(top * _HEIGHT)}" width="{_n((right - left) * _WIDTH)}" '
        f'height="{_n((bottom - top) * _HEIGHT)}" fill="{colour}"/>'
    )


def _corner(column: float, y: int, right: int, down: int, colour: str) -> str:
    x, middle = (column + 0.5) * _WIDTH, (y + 0.5) * _HEIGHT
    radius = _WIDTH / 2
    end_y = middle + down * _HEIGHT / 2
    bend = f"V{_n(middle + down * radius)}Q{_n(x)} {_n(middle)} {_n(x + right * radius)} {_n(middle)}"
    return f'<path d="M{_n(x)} {_n(end_y)}{bend}" fill="none" stroke="{colour}" shape-rendering="auto"/>'


def _hex(colour: Iterable[float]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
