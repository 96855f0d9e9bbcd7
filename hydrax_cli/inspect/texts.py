"""Any value as a line of text."""

from __future__ import annotations

from typing import Any

__all__ = ["one_line"]

_LONGEST = 300


def one_line(value: Any) -> str:
    """A value in one line of bounded length."""
    if value is None:
        return ""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001  a descriptor's broken repr must not hide the batch
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    text = " ".join(text[: 4 * _LONGEST].split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
