"""Plans and results for a terminal: the facts and words of ``text.py`` in colours and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hydrax_cli.run.render.text import (
    SAME_ARRAYS,
    batches_of,
    batches_text,
    cache_text,
    dtypes,
    has_cache,
    order_text,
    phases,
    plan_facts,
    plan_groups,
    rates,
    result_facts,
)
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, size, span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hydrax_cli.run.summary import PlannedRun, RunResult
    from hydrax_core import FirstBatch, Stats
    from hydrax_core.monitor import GroupPlan, Pass, RunPlan

__all__ = ["plan_view", "result_view"]

_LONGEST_TABLE = 24
"""Rows of the table of passes; of more, the middle is left out."""
_PHASE_STYLES = ("cyan", "yellow", "magenta")
_PHASE_BAR = 24


def plan_view(run: PlannedRun) -> RenderableType:
    heading = Text.assemble(("hydrax run", "bold"), "  ", (clean(run.target), "bold cyan"), f"  {clean(run.kind)}")
    parts: list[RenderableType] = [heading]
    for group, cache, same_arrays in plan_groups(run):
        arrays = Text(SAME_ARRAYS, style="dim") if same_arrays else _arrays_view(run.plan, group)
        title = Text.assemble((group.name, "bold"), f"  {batches_text(group)}")
        parts.extend([Text(), title, Text(order_text(group), style="dim"), Padding(arrays, (0, 0, 0, 2))])
        if cache is not None:
            parts.append(Padding(Text.assemble(("cache  ", "dim"), clean(cache_text(cache))), (0, 0, 0, 2)))
    return Group(*parts, Text(), _facts_view(plan_facts(run)), Text())


def _arrays_view(plan: RunPlan, group: GroupPlan) -> Table:
    """The arrays of a group, in columns as wide as the widest of all groups needs."""
    arrays = [array for each in plan.groups for array in each.arrays]
    table = _grid()
    table.add_column(style="cyan", min_width=max(len(array.name) for array in arrays))
    table.add_column(min_width=max(len(str(array.shape[1:])) for array in arrays))
    table.add_column(min_width=max(len(dtypes(array, "→")) for array in arrays))
    table.add_column(justify="right", no_wrap=True)
    for array in group.arrays:
        row = (array.name, str(array.shape[1:]), dtypes(array, "→"), f"{size(array.bytes)} a batch")
        table.add_row(*(Text(clean(text)) for text in row))
    return table


def result_view(result: RunResult) -> RenderableType:
    first = result.stats.first_batch
    facts = _facts_view([*([] if first is None else [("first batch", _phases_view(first))]), *result_facts(result)])
    verdict = _grid()
    verdict.add_column(style="bold green", no_wrap=True)
    verdict.add_column(style="bold")
    verdict.add_row("●", Text(clean(result.verdict)))
    return Group(_passes_view(result), Text(), facts, Text(), verdict)


def _passes_view(result: RunResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    with_hits = has_cache(result.stats)
    for title in ("", "batches", "items", "time", "items/s", "MB/s", "idle", *(["hits"] if with_hits else [])):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)

    def add(name: str, batches: int, counts: Pass | Stats, idle_seconds: float, style: str) -> None:
        speed = rates(counts.items, counts.bytes, idle_seconds, counts.seconds)
        hits = [_hit_share(counts)] if with_hits else []
        table.add_row(name, count(batches), count(counts.items), span(counts.seconds), *speed, *hits, style=style)

    left_out = max(0, len(result.passes) - _LONGEST_TABLE)
    for position, done in enumerate(result.passes):
        if position == _LONGEST_TABLE // 2 and left_out:
            table.add_row(f"… {count(left_out)} more", style="dim")
        if not _LONGEST_TABLE // 2 <= position < _LONGEST_TABLE // 2 + left_out:
            add(done.name, done.batches, done, done.idle_seconds, "cyan" if done.kind == "validation" else "")
    add("total", batches_of(result), result.stats, result.idle_seconds, "bold")
    return table


def _hit_share(counts: Pass | Stats) -> str:
    asked = counts.cache_hits + counts.cache_misses
    return f"{100 * counts.cache_hits // asked} %" if asked else "-"


def _phases_view(first: FirstBatch) -> Text:
    text = Text()
    for (_, seconds), style in zip(phases(first), _PHASE_STYLES, strict=True):
        text.append("━" * max(1, round(_PHASE_BAR * seconds / first.total)) if first.total else "", style=style)
    for (name, seconds), style in zip(phases(first), _PHASE_STYLES, strict=True):
        text.append(f"  {name} ", style=style)
        text.append(span(seconds))
    return text


def _facts_view(facts: Iterable[tuple[str, str | Text]]) -> Table:
    table = _grid()
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, text in facts:
        table.add_row(label, Text(clean(text)) if isinstance(text, str) else text)
    return table


def _grid() -> Table:
    return Table.grid(padding=(0, 2))
