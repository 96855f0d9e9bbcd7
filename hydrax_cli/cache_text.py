"""What ``hydrax cache`` says: pure functions from what the library returns to lines and JSON values."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.units import count, many, share, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrax_core.cache import CacheInfo, Cleared, Finding

__all__ = ["cleared_line", "finding_line", "finding_values", "info_lines", "info_values"]

_BAR = 30
_MOST_EPOCHS = 12
_COLOURS = {"corrupt": "red", "cut": "red", "missing": "red", "stale": "red", "foreign": "cyan"}
_WIDEST_KIND = len("unfinished")


def info_lines(info: CacheInfo) -> Iterator[str]:
    """What a cache holds."""
    yield click.style(str(info.path), bold=True)
    group = info.kind if info.group_index is None else f"{info.kind} {info.group_index}"
    items = many(int(info.settings["items"]), "item") if isinstance(info.settings.get("items"), int) else "items"
    yield f"  {group}: {_kind(info, info.entries_per_epoch)} from {items}"
    widths = [max(len(text) for text in column) for column in zip(*_array_rows(info), strict=True)]
    for row in _array_rows(info):
        yield "    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield f"  settings: {', '.join(f'{key} {value}' for key, value in sorted(info.settings.items()) if key != 'data')}"
    shown = info.epochs if len(info.epochs) <= _MOST_EPOCHS else (*info.epochs[:_MOST_EPOCHS], None)
    for epoch in shown:
        if epoch is None:
            yield f"  … {many(len(info.epochs) - _MOST_EPOCHS, 'epoch')} more"
            continue
        part = f"{count(epoch.entries)} of {count(info.entries_per_epoch)}"
        covered = share(epoch.entries, info.entries_per_epoch)
        bar = _bar(epoch.entries / info.entries_per_epoch)
        yield f"  epoch {epoch.epoch}  {bar}  {part} ({covered}), the last on {_day(epoch.newest)}"
    if not info.epochs:
        yield f"  empty {_bar(0)}"
    yield f"  on disk: {_kind(info, info.entries)}, {size(info.disk_bytes)}"
    made = info.made
    yield f"  made: {made.get('at', '?')} by {made.get('by', '?')}, hydrax {made.get('hydrax', '?')}"
    if info.in_use:
        yield "  in use by a run"
    if info.problem:
        yield click.style(f"  index: {info.problem}; see hydrax cache verify", fg="red")


def info_values(info: CacheInfo) -> dict[str, Any]:
    """What a cache holds, as JSON values; times are seconds since 1970."""
    whole = len(info.epochs) * info.entries_per_epoch
    return {
        **{field.name: getattr(info, field.name) for field in dataclasses.fields(info)},
        "path": str(info.path),
        "settings": dict(info.settings),
        "made": dict(info.made),
        "arrays": [dataclasses.asdict(array) for array in info.arrays],
        "epochs": [epoch._asdict() for epoch in info.epochs],
        "entries": info.entries,
        "coverage": info.entries / whole if whole else 0.0,
    }


def finding_line(finding: Finding) -> str:
    """A finding in one line."""
    kind = click.style(finding.what.ljust(_WIDEST_KIND), fg=_COLOURS.get(finding.what, "yellow"))
    since = "" if finding.since is None else f" (since {_day(finding.since)})"
    done = click.style(", repaired", fg="green") if finding.repaired else ""
    return f"{kind}  {_printable(finding.where)}: {_printable(finding.detail)}{since}{done}"


def finding_values(path: str, finding: Finding) -> dict[str, Any]:
    """A finding as JSON values."""
    return {"path": path, **dataclasses.asdict(finding)}


def cleared_line(path: str, cleared: Cleared) -> str:
    """What goes, in one line."""
    entries = many(cleared.entries, "entry", "entries")
    return f"{path}: {entries}, {many(len(cleared.files), 'whole file')}, {size(cleared.freed_bytes)}"


def _printable(text: str) -> str:
    """File names may hold anything, control codes of terminals too."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _array_rows(info: CacheInfo) -> list[tuple[str, str, str, str]]:
    return [
        (
            array.name,
            str(array.shape),
            array.dtype if array.dtype == array.jax_dtype else f"{array.dtype} → {array.jax_dtype}",
            f"{size(array.nbytes)} each",
        )
        for array in info.arrays
    ]


def _kind(info: CacheInfo, number: int) -> str:
    return many(number, "item") if info.cache_by == "item" else many(number, "batch", "batches")


def _bar(part: float) -> str:
    filled = min(_BAR, round(_BAR * part))
    if 0 < part < 1:
        filled = min(max(filled, 1), _BAR - 1)  # a bar is empty or full only when that is so
    return click.style("━" * filled, fg="green") + click.style("╌" * (_BAR - filled), dim=True)


def _day(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a damaged row
        return "?"
