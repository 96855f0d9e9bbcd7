"""Which entries a filter asks for, and a list of those that are known one by one. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from hydrax_cli.inspect.cache_app.model.contents import Selection
from hydrax_cli.shared.units import AGE, age_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_core.cache import EntryInfo

__all__ = ["FILTER_HINT", "KeyList", "read_filter"]

FILTER_HINT: Final = "epoch:3  batch:10-20  older:7d  newer:2h  bad"

_RANGE: Final = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
_NUMBERS: Final = frozenset({"batch", "item", "in", ""})


def read_filter(text: str, now: float) -> tuple[Selection, str]:
    """What the words of a filter ask for, and the first word that is not understood.

    ``epoch:3``, ``batch:10-20`` (also ``item`` and ``in``, or the numbers alone), ``older:7d``, ``newer:2h``, ``bad``;
    all words have to fit. A word that is being written, such as ``epoch:``, asks for nothing yet.
    """
    epochs = numbers = None
    low, high, timed, bad = float("-inf"), float("inf"), False, False
    for word in text.lower().split():
        name, colon, value = word.partition(":")
        if not colon and name[:1].isdigit():
            name, value = "", name
        span, age = _RANGE.fullmatch(value), re.fullmatch(AGE, value)
        if name == "bad" and not colon:
            bad = True
        elif name in _NUMBERS and span is not None:
            numbers = _range(span)
        elif name == "epoch" and span is not None:
            epochs = _range(span)
        elif name in ("older", "newer") and age is not None:
            moment = now - age_seconds(age)
            low, high = (low, min(high, moment)) if name == "older" else (max(low, moment), high)
            timed = True
        elif value or not colon:
            return Selection(), word
    return Selection(epochs, numbers, (low, high) if timed else None, bad), ""


def _range(found: re.Match[str]) -> tuple[int, int]:
    return int(found[1]), int(found[2] or found[1]) + 1


class KeyList:
    """Entries that are in hand already, in order."""

    def __init__(self, entries: Sequence[EntryInfo]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def page(self, first: int, count: int) -> list[EntryInfo]:
        return list(self._entries[first : first + count])

    def place_of(self, epoch: int, number: int) -> int:
        """Where an entry is, or would be."""
        return bisect_left(self._entries, (epoch, number), key=lambda entry: (entry.epoch, entry.number))
