"""Numbers as people read them; two or three figures, and always the unit."""

from __future__ import annotations

import re

__all__ = ["AGE", "age_seconds", "count", "many", "rate", "ratio", "share", "size", "span"]

_MINUTE = 60
_HOUR = 3600
_TWO_FIGURES = 10
_SIZES = ("KiB", "MiB", "GiB", "TiB")
_AGES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
AGE = rf"(\d{{1,9}}(?:\.\d*)?|\.\d{{1,9}})\s*({'|'.join(_AGES)})"
"""Pattern of an age as people write it: ``12h``, ``7d``, ``2w``."""


def age_seconds(found: re.Match[str]) -> float:
    """Seconds of an age that ``AGE`` has matched."""
    return float(found[1]) * _AGES[found[2]]


def span(seconds: float) -> str:
    """A time: ``"81 µs"``, ``"4.1 ms"``, ``"2.3 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``."""
    if seconds >= _HOUR:
        return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE):02} min"
    if seconds >= 2 * _MINUTE:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE):02} s"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{_figures(seconds * factor)} {unit}"
    return f"{seconds * 1e6:.1f} µs" if seconds else "0 s"


def size(count_bytes: float) -> str:
    """A size: ``"256 B"``, ``"4.0 KiB"``, ``"12 MiB"``."""
    if count_bytes < 1024:  # noqa: PLR2004  KiB
        return f"{int(count_bytes)} B"
    value, unit = count_bytes / 1024, _SIZES[0]
    for unit in _SIZES:
        if value < 1000 or unit == _SIZES[-1]:  # noqa: PLR2004  three figures at most
            break
        value /= 1024
    return f"{_figures(value)} {unit}"


def rate(amount: float, seconds: float) -> str:
    """An amount a second, without its unit: ``"118,320"``, ``"3.2"``; ``"-"`` where no time passed."""
    return _figures(amount / seconds) if seconds > 0 else "-"


def share(part: float, whole: float) -> str:
    """A share in per cent: ``"12 %"``."""
    return f"{100 * min(part / whole, 1):.0f} %" if whole > 0 else "-"


def ratio(value: float) -> str:
    """How many times: ``"4.7"``, ``"12"``, ``"over 1,000"``."""
    return "over 1,000" if value > 1000 else _figures(value)  # noqa: PLR2004  more says nothing


def count(number: int) -> str:
    """A number with commas."""
    return f"{number:,}"


def many(number: int, noun: str, plural: str = "") -> str:
    """A number of things: ``"1 batch"``, ``"1,200 batches"``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _figures(value: float) -> str:
    return f"{value:,.1f}" if value < _TWO_FIGURES else f"{value:,.0f}"
