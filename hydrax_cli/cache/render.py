"""What ``hydrax cache`` says: pure functions from what the library returns to lines and JSON values."""

from __future__ import annotations

import dataclasses
import time
from calendar import timegm
from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, many, share, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from hydrax_core.cache import CacheInfo, Cleared, Finding

__all__ = [
    "cleared_lines",
    "finding_lines",
    "finding_values",
    "info_lines",
    "info_values",
    "loader_text",
    "loader_values",
    "overview_lines",
    "verified_lines",
]

_BAR = 20
_MOST_EPOCHS = 12
_MOST_PARTS = 4
_SETTINGS = ("seed", "shuffle_first", "shuffle_later", "remainder")
_COLOURS = {"corrupt": "red", "cut": "red", "missing": "red", "unreadable": "red", "stale": "red", "foreign": "cyan"}
_WIDEST_KIND = len("unfinished")


def overview_lines(infos: Sequence[CacheInfo]) -> Iterator[str]:
    for position, info in enumerate(infos):
        if position:
            yield ""
        yield from info_lines(info)
    if len(infos) > 1:
        yield ""
        yield f"{many(len(infos), 'cache')}, {size(sum(info.disk_bytes for info in infos))} on disk"


def info_lines(info: CacheInfo) -> Iterator[str]:
    """What a cache holds; within 80 columns, but for long names of folders and arrays."""
    yield click.style(clean(str(info.path)), bold=True)
    yield f"  {_group(info)}"
    widths = [max(len(text) for text in column) for column in zip(*_array_rows(info), strict=True)]
    for row in _array_rows(info):
        yield "    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    facts = list(_facts(info))
    width = max(len(label) for label, _ in facts)
    for label, text in facts:
        yield f"  {click.style(label.ljust(width), dim=True)}  {text}"


def _group(info: CacheInfo) -> str:
    name = info.kind if info.group_index is None else f"{info.kind} {info.group_index}"
    items, batch_size = info.settings.get("items"), info.settings.get("batch_size")
    text = f"{name}: {_kind(info, info.entries_per_epoch)}"
    if info.cache_by == "item" or not isinstance(items, int):
        return text
    return f"{text}{f' of {batch_size:,}' if isinstance(batch_size, int) else ''} from {many(items, 'item')}"


def _facts(info: CacheInfo) -> Iterator[tuple[str, str]]:
    settings = [f"{key} {info.settings[key]}" for key in _SETTINGS if key in info.settings]
    if settings:
        yield "settings", clean(", ".join(settings))
    for epoch in info.epochs[:_MOST_EPOCHS]:
        part = f"{count(epoch.entries)} of {count(info.entries_per_epoch)}"
        covered = share(epoch.entries, info.entries_per_epoch)
        bar = _bar(epoch.entries / info.entries_per_epoch)
        yield f"epoch {epoch.epoch}", f"{bar}  {part} ({covered}), last {_day(epoch.newest)}"
    left_out = info.epochs[_MOST_EPOCHS:]
    if left_out:
        yield "…", f"{many(len(left_out), 'epoch')} more, {_kind(info, sum(epoch.entries for epoch in left_out))}"
    if not info.epochs:
        yield "empty", _bar(0)
    yield "on disk", f"{_kind(info, info.entries)}, {size(info.disk_bytes)}"
    made = {key: clean(text) for key, text in info.made.items()}
    yield "made", f"{_local(made.get('at', '?'))} by {made.get('by', '?')}, hydrax {made.get('hydrax', '?')}"
    yield "loader", loader_text(info)
    if info.in_use:
        yield "in use", click.style("by a run, now", fg="yellow")
    if info.problem:
        yield "index", click.style(f"{clean(info.problem)}; see hydrax cache verify", fg="red")


def loader_text(info: CacheInfo) -> str:
    """What the cache was loaded with: the version that the user gives, and the code that there was."""
    parts = [clean(name) for name in info.code if name != "python"]
    listed = ", ".join(parts[:_MOST_PARTS]) + (
        f" and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
    )
    code = f", code {info.code_digest} ({listed})" if parts else ""
    return f"cache_version {clean(str(info.settings.get('version', '?')))}{code}"


def loader_values(info: CacheInfo) -> dict[str, Any]:
    return {"version": info.settings.get("version"), "code": dict(info.code), "code_digest": info.code_digest}


def info_values(info: CacheInfo) -> dict[str, Any]:
    whole = len(info.epochs) * info.entries_per_epoch
    return {
        **{field.name: getattr(info, field.name) for field in dataclasses.fields(info)},
        "path": str(info.path),
        "settings": dict(info.settings),
        "made": dict(info.made),
        **loader_values(info),
        "arrays": [dataclasses.asdict(array) for array in info.arrays],
        "epochs": [epoch._asdict() for epoch in info.epochs],
        "entries": info.entries,
        "coverage": info.entries / whole if whole else 0.0,
    }


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Findings as lines; what is wrong in the same way with entry after entry is one line."""
    first: Finding | None = None
    last: Finding | None = None
    for finding in findings:
        if first is None or last is None or not _continues(last, finding):
            if first is not None and last is not None:
                yield _finding_line(first, last)
            first = finding
        last = finding
    if first is not None and last is not None:
        yield _finding_line(first, last)


def _continues(before: Finding, finding: Finding) -> bool:
    if before.number is None or finding.number != before.number + 1:
        return False
    return dataclasses.replace(finding, where=before.where, since=before.since, number=before.number) == before


def _finding_line(first: Finding, last: Finding) -> str:
    kind = click.style(first.what.ljust(_WIDEST_KIND), fg=_COLOURS.get(first.what, "yellow"))
    where = clean(first.where)
    if last is not first:
        assert first.number is not None
        assert last.number is not None
        name, _, number = where.rpartition(" ")
        plural = "batches" if name.endswith("batch") else f"{name.rpartition(' ')[2]}s"
        where = f"{name.rpartition(' ')[0]} {plural} {number} to {last.number}"
    known = "written" if first.number is not None else "modified"
    known = "" if last.since is None else click.style(f" ({known} {_day(last.since)})", dim=True)
    state = click.style(", repaired", fg="green") if first.repaired else known
    return f"{kind}  {where}: {clean(first.detail)}{state}"


def verified_lines(path: Path, findings: Sequence[Finding], read: str, *, repair: bool) -> Iterator[str]:
    """The summary and what to do; ``read`` says what was read."""
    if not findings:
        yield f"{click.style('clean', fg='green', bold=True)}; {read}"
        return
    repaired = sum(finding.repaired for finding in findings)
    found = f"{many(len(findings), 'finding')}{f', {count(repaired)} repaired' if repair else ''}"
    yield f"{click.style(found, fg='green' if repaired == len(findings) else 'red', bold=True)}; {read}"
    kinds = {finding.what for finding in findings if not finding.repaired}
    if not repair and kinds - {"foreign", "stale"}:
        yield f"to drop what is bad, so that it is loaded anew: hydrax cache verify {clean(str(path))} --repair"
    if "stale" in kinds:
        yield f"the loader makes something else now; to begin anew: hydrax cache clear {clean(str(path))}"


def finding_values(path: str, finding: Finding) -> dict[str, Any]:
    return {"path": path, **dataclasses.asdict(finding)}


def cleared_lines(done: Sequence[tuple[Path, Cleared]], *, going: bool) -> Iterator[str]:
    """What goes, a cache in each line, and how much room that frees."""
    paths = [clean(str(path)) for path, _ in done]
    widest = max(map(len, paths))
    for path, (_, cleared) in zip(paths, done, strict=True):
        entries, files = many(cleared.entries, "entry", "entries"), many(len(cleared.files), "whole file")
        what = f"{path.ljust(widest)}  {entries}, {files}, {size(cleared.freed_bytes)}"
        yield f"{'going' if going else 'would go'}  {what}"
    if len(done) > 1:
        freed = sum(cleared.freed_bytes for _, cleared in done)
        yield f"{size(freed)} in {many(len(done), 'cache')}"


def _array_rows(info: CacheInfo) -> list[tuple[str, str, str, str]]:
    return [
        (
            clean(array.name),
            str(array.shape),
            clean(array.dtype if array.dtype == array.jax_dtype else f"{array.dtype} → {array.jax_dtype}"),
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


def _local(text: str) -> str:
    """A time in UTC as the manifest has it, as that of the place."""
    try:
        return _day(timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return text
