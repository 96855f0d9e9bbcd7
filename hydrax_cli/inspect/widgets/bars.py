"""Bars and graphs out of characters; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bar", "blocks", "columns"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_BROAD = 3
"""Bars of this width have a gap between them."""


def bar(width: int, share: float) -> tuple[str, str]:
    """A bar of so many characters: the part that is done and the rest."""
    halves = round(2 * width * min(1.0, max(0.0, share)))
    full, half = divmod(halves, 2)
    done = "━" * full + ("╸" if half else "")
    rest = width - len(done)
    return done, "─" * rest


def columns(values: Sequence[float], width: int, height: int, *, most: float | None = None) -> list[str]:
    """Values as columns of blocks, the last ones to the right; the top line first.

    A value above 0 always shows.
    """
    last = list(values)[-width:]
    largest = max(last, default=0.0) if most is None else most
    levels = [0 if largest <= 0 or value <= 0 else max(1, round(8 * height * value / largest)) for value in last]
    lines = []
    for line in range(height - 1, -1, -1):
        text = "".join(_EIGHTHS[min(8, max(0, level - 8 * line))] for level in levels)
        lines.append(text.rjust(width))
    return lines


def blocks(counts: Sequence[int], width: int) -> list[float]:
    """Counts brought to at most so many columns: added up where there are more, broad bars where there are fewer."""
    number = len(counts)
    if not number or width <= 0:
        return []
    if number <= width:
        broad = width // number
        gap = 1 if broad >= _BROAD else 0
        return (
            [float(count) for count in counts for _ in range(broad - gap)]
            if not gap
            else [value for count in counts for value in (*[float(count)] * (broad - gap), 0.0)]
        )
    made = [0.0] * width
    for place, count in enumerate(counts):
        made[place * width // number] += count
    return made
