"""Texts of others made harmless: names of files, arrays and tables, items, exceptions, what another run sent.

Promise: a cleaned text moves no cursor, changes no colour and no direction, can be encoded, and is of bounded length;
characters keep their places. JSON is ASCII, and JSON for every reader. Every text that the command did not write itself
goes through here where it leaves the command: a line, a screen, a picture, a file.
"""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["clean", "clean_lines", "to_json"]

_LONGEST_LINE = 2000
_LONGEST_TEXT = 50_000
_DIRECTIONS = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HARMLESS = {
    **dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029, *_DIRECTIONS), "·"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    ord("\t"): " ",
}


def clean(text: str, longest: int = _LONGEST_LINE) -> str:
    """A text as one line."""
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return text if text.isprintable() else text.translate(_HARMLESS)


def clean_lines(text: str) -> str:
    """A text of many lines, tracebacks say; of a very long one the start and the end."""
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
    return "\n".join(clean(line.expandtabs(4), _LONGEST_TEXT) for line in text.split("\n"))


def to_json(values: Any, indent: int | None = 2) -> str:
    """Values as JSON: what is no finite number becomes ``null``, a path is a text, what is no text is made one."""
    return json.dumps(_plain(values), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain_text(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    return _plain_text(str(value))


def _plain_text(text: str) -> str:
    """A path may hold bytes that are no text: they are shown by their numbers."""
    return text.encode("utf-8", "backslashreplace").decode()
