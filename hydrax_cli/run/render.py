"""Plans and results as text for people and as JSON for programs; pure, nothing is written here.

The ``*_lines`` functions give plain lines without control codes, the ``*_view`` functions the same for a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hydrax_cli.shared.text import clean, to_json
from hydrax_cli.shared.units import count, many, rate, share, size, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hydrax_cli.run.summary import CachePlan, PlannedRun, RunResult
    from hydrax_core import FirstBatch, Stats
    from hydrax_core.monitor import ArrayPlan, GroupPlan, Pass, RunPlan

__all__ = [
    "pass_line",
    "plan_lines",
    "plan_view",
    "rates",
    "result_json",
    "result_lines",
    "result_view",
]

_LONGEST_TABLE = 24
"""Rows of the table of passes; of more, the middle is left out."""
_PHASE_STYLES = ("cyan", "yellow", "magenta")
_PHASE_BAR = 24
_SAME = "the same arrays"
_SHUFFLES = {
    "repeat": "every epoch the same",
    "reseed": "every epoch the same order with new seeds",
    "itemwise": "items shuffled anew every epoch",
    "batchwise": "the same batches in a new order every epoch",
}


def rates(items: int, count_bytes: int, idle_seconds: float, seconds: float) -> tuple[str, str, str]:
    """Items/s, MB/s (10**6 bytes) and idle share, without their units but for the share's."""
    return rate(items, seconds), rate(count_bytes / 1e6, seconds), share(idle_seconds, seconds)


# --- the plan


def plan_lines(run: PlannedRun) -> list[str]:
    lines = [f"hydrax run: {run.target}{f' ({run.kind})' if run.kind else ''}"]
    before: GroupPlan | None = None
    for group, cache in zip(run.plan.groups, run.caches, strict=True):
        lines.append(f"{group.name}: {_batches_text(group)}; {_order_text(group)}")
        if _same_arrays(group, before):
            lines.append(f"  {_SAME}")
        else:
            lines.extend(f"  {a.name} {a.shape[1:]} {_dtypes(a, '->')}, {size(a.bytes)} a batch" for a in group.arrays)
        if cache is not None:
            lines.append(f"  cache {_cache_text(cache)}")
        before = group
    lines.extend(f"{label}: {text}" for label, text in _plan_facts(run))
    return list(map(clean, lines))


def plan_view(run: PlannedRun) -> RenderableType:
    heading = Text.assemble(("hydrax run", "bold"), "  ", (clean(run.target), "bold cyan"), f"  {clean(run.kind)}")
    parts: list[RenderableType] = [heading]
    before: GroupPlan | None = None
    for group, cache in zip(run.plan.groups, run.caches, strict=True):
        arrays = Text(_SAME, style="dim") if _same_arrays(group, before) else _arrays_view(run.plan, group)
        title = Text.assemble((group.name, "bold"), f"  {_batches_text(group)}")
        parts.extend([Text(), title, Text(_order_text(group), style="dim"), Padding(arrays, (0, 0, 0, 2))])
        if cache is not None:
            parts.append(Padding(Text.assemble(("cache  ", "dim"), clean(_cache_text(cache))), (0, 0, 0, 2)))
        before = group
    return Group(*parts, Text(), _facts_view(_plan_facts(run)), Text())


def _arrays_view(plan: RunPlan, group: GroupPlan) -> Table:
    """The arrays of a group, in columns as wide as the widest of all groups needs."""
    arrays = [array for each in plan.groups for array in each.arrays]
    table = _grid()
    table.add_column(style="cyan", min_width=max(len(array.name) for array in arrays))
    table.add_column(min_width=max(len(str(array.shape[1:])) for array in arrays))
    table.add_column(min_width=max(len(_dtypes(array, "→")) for array in arrays))
    table.add_column(justify="right", no_wrap=True)
    for array in group.arrays:
        row = (array.name, str(array.shape[1:]), _dtypes(array, "→"), f"{size(array.bytes)} a batch")
        table.add_row(*(Text(clean(text)) for text in row))
    return table


def _same_arrays(group: GroupPlan, before: GroupPlan | None) -> bool:
    return before is not None and (group.arrays, group.batch_size) == (before.arrays, before.batch_size)


def _batches_text(group: GroupPlan) -> str:
    things = many(group.items, "item")
    if group.rows is not None:
        what = f"of {things}" if group.fill is None else f"{group.fill:.1%} full"
        things = f"{many(group.rows, 'row')} {what},"
    text = f"{things} in {many(group.batches, 'batch', 'batches')} of {count(group.batch_size)}"
    if not group.left_out:
        return text
    when = ", the same ones each time" if group.kind == "validation" else " an epoch"
    return f"{text}, {many(group.left_out, 'item')} left out{when} (remainder: drop)"


def _order_text(group: GroupPlan) -> str:
    """Seed and shuffle in words."""
    if group.kind == "validation":
        return "in the order of the data"
    first = "the first shuffled" if group.shuffle_first else "first epoch: in the order of the data"
    return f"seed {group.seed}, {_SHUFFLES[group.shuffle_later]}, {first}"


def _cache_text(cache: CachePlan) -> str:
    things = "items" if cache.keeps == "item" else "batches"
    complete = count(cache.complete)
    if cache.shared:
        text, needed = f"{things} that serve every epoch", f" of {complete} held"
    else:
        text, needed = f"{things} of each epoch", f" held, {complete} an epoch"
    held = "" if cache.held is None else f", {count(cache.held)}{needed}"
    only_read = "" if cache.filled else "; this run only reads it"
    return f"{cache.folder}: {text}{held}{only_read}"


def _dtypes(array: ArrayPlan, arrow: str) -> str:
    if array.jax_dtype == array.numpy_dtype:
        return array.numpy_dtype
    return f"{array.numpy_dtype} {arrow} {array.jax_dtype}"


_BEGINNING = " to begin with (auto)"


def _plan_facts(run: PlannedRun) -> Iterator[tuple[str, str]]:
    plan = run.plan
    yield from run.notes
    epoch = many(plan.batches_per_epoch, "training batch", "training batches")
    if plan.validation_interval:
        validation = many(plan.batches_per_validation, "validation batch", "validation batches")
        epochs, rest = divmod(plan.validation_interval, plan.batches_per_epoch)
        if rest:
            every = f"; after every {count(plan.validation_interval)} of them {validation}"
        else:
            every = f", then {validation}" if epochs == 1 else f"; after every {count(epochs)} epochs {validation}"
        epoch += every
    yield "epoch", epoch
    yield "run", _run_text(plan)
    if plan.loader_kind == "inline":
        yield "workers", "none, the loader runs in line"
    else:
        workers = many(run.loader_count, plan.loader_kind, _plural(plan.loader_kind))
        workers += _BEGINNING if "loader_count" in run.tuned else ""
        ahead = f"{many(run.depth, 'batch', 'batches')} ahead{_BEGINNING if 'depth' in run.tuned else ''}"
        order = "" if run.deterministic else ", handed out as they become ready"
        yield "workers", f"{workers}; {ahead}{order}"
    yield "memory", f"{run.slots} slots x {size(run.slot_bytes)} = {size(run.slots * run.slot_bytes)}"


def _plural(kind: str) -> str:
    return "processes" if kind == "process" else f"{kind}s"


def _run_text(plan: RunPlan) -> str:
    assert plan.last_batch is not None
    assert plan.training_batches is not None
    amount = many(plan.training_batches, "training batch", "training batches")
    if plan.validation_batches:
        amount += f", {many(plan.validation_batches, 'validation batch', 'validation batches')}"
    first, offset = divmod(plan.first_batch, plan.batches_per_epoch)
    last = max(first, (plan.last_batch - 1) // plan.batches_per_epoch)
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    return f"{epochs}{f' from batch {offset}' if offset else ''}: {amount}"


# --- the result


def pass_line(done: Pass) -> str:
    """One epoch or validation run in a plain line."""
    line = _amounts(done.name, done.batches, done, done.idle_seconds)
    return f"{line}, cache {_hits(done)}" if _has_cache(done) else line


def _amounts(name: str, batches: int, counts: Pass | Stats, idle_seconds: float) -> str:
    items, megabytes, idle = rates(counts.items, counts.bytes, idle_seconds, counts.seconds)
    return (
        f"{name}: {many(batches, 'batch', 'batches')}, {many(counts.items, 'item')}, {span(counts.seconds)}, "
        f"{items} items/s, {megabytes} MB/s, idle {idle}"
    )


def _has_cache(counts: Pass | Stats) -> bool:
    return bool(counts.cache_hits or counts.cache_misses)


def _hits(counts: Pass | Stats) -> str:
    return f"{many(counts.cache_hits, 'hit')}, {many(counts.cache_misses, 'miss', 'misses')}"


def _hit_share(counts: Pass | Stats) -> str:
    """The share of hits; 100 % are all of them."""
    asked = counts.cache_hits + counts.cache_misses
    return f"{100 * counts.cache_hits // asked} %" if asked else "-"


def result_lines(result: RunResult) -> list[str]:
    stats = result.stats
    lines = [_amounts("total", _batches(result), stats, result.idle_seconds)]
    if stats.first_batch is not None:
        phases = ", ".join(f"{name} {span(seconds)}" for name, seconds in _phases(stats.first_batch))
        lines.append(f"first batch: {span(stats.first_batch.total)} ({phases})")
    lines.extend(f"{label}: {text}" for label, text in _result_facts(result))
    lines.append(f"verdict: {result.verdict}")
    return list(map(clean, lines))


def result_view(result: RunResult) -> RenderableType:
    first = result.stats.first_batch
    facts = _facts_view([*([] if first is None else [("first batch", _phases_view(first))]), *_result_facts(result)])
    verdict = _grid()
    verdict.add_column(style="bold green", no_wrap=True)
    verdict.add_column(style="bold")
    verdict.add_row("●", Text(clean(result.verdict)))
    return Group(_passes_view(result), Text(), facts, Text(), verdict)


def _passes_view(result: RunResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    has_cache = _has_cache(result.stats)
    for title in ("", "batches", "items", "time", "items/s", "MB/s", "idle", *(["hits"] if has_cache else [])):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    stats = result.stats
    shown = result.passes
    left_out = len(shown) - _LONGEST_TABLE
    for position, done in enumerate(shown):
        if left_out > 0 and _LONGEST_TABLE // 2 <= position < _LONGEST_TABLE // 2 + left_out:
            if position == _LONGEST_TABLE // 2:
                table.add_row(f"… {count(left_out)} more", style="dim")
            continue
        numbers = (count(done.batches), count(done.items), span(done.seconds))
        speed = rates(done.items, done.bytes, done.idle_seconds, done.seconds)
        hits = [_hit_share(done)] if has_cache else []
        table.add_row(done.name, *numbers, *speed, *hits, style="cyan" if done.kind == "validation" else "")
    numbers = (count(_batches(result)), count(stats.items), span(stats.seconds))
    speed = rates(stats.items, stats.bytes, result.idle_seconds, stats.seconds)
    hits = [_hit_share(stats)] if has_cache else []
    table.add_row("total", *numbers, *speed, *hits, style="bold")
    return table


def _phases_view(first: FirstBatch) -> Text:
    text = Text()
    for (_, seconds), style in zip(_phases(first), _PHASE_STYLES, strict=True):
        text.append("━" * max(1, round(_PHASE_BAR * seconds / first.total)) if first.total else "", style=style)
    for (name, seconds), style in zip(_phases(first), _PHASE_STYLES, strict=True):
        text.append(f"  {name} ", style=style)
        text.append(span(seconds))
    return text


def _phases(first: FirstBatch) -> tuple[tuple[str, float], ...]:
    return ("start", first.start), ("load", first.load), ("place", first.place)


def _result_facts(result: RunResult) -> Iterator[tuple[str, str]]:
    stats = result.stats
    if result.interrupted:
        yield "interrupted", f"--start {result.resume} goes on from here"
    if _has_cache(stats):
        dropped = many(stats.dropped_batches, "batch", "batches")
        lost = f"; {dropped} dropped, as only the cache may serve them" if stats.dropped_batches else ""
        damaged = f"; damage found {many(stats.cache_corrupt, 'time')}, and loaded anew" if stats.cache_corrupt else ""
        error = f"; not all is stored: {stats.cache_error}" if stats.cache_error and stats.cache_misses else ""
        yield "cache", f"{_hits(stats)}{lost}{damaged}{error}"
    if stats.errors:
        done = [many(stats.skipped_batches, "batch", "batches") + " skipped"] if stats.skipped_batches else []
        done += [many(stats.substituted_items, "item") + " substituted"] if stats.substituted_items else []
        yield "errors", ", ".join([f"{many(stats.errors, 'item')} failed", *done])
    if len(stats.groups) > 1:
        shares = [f"{group.share:.1%} (of {group.expected:.1%}, {group.epochs:.1f} epochs)" for group in stats.groups]
        yield "groups", ", ".join(shares)
    if stats.tuning:
        yield "auto", stats.tuning
    if stats.worker_restarts:
        yield "restarts", f"{many(stats.worker_restarts, 'worker')} replaced"
    if result.digest is not None:
        yield "digest", result.digest


def _batches(result: RunResult) -> int:
    return result.stats.training_batches + result.stats.validation_batches


def result_json(result: RunResult) -> str:
    """The result as one JSON object; times and rates are over the whole run, the wait for the first batch included."""
    stats = result.stats
    values: dict[str, Any] = {
        "target": result.target,
        "epochs": sum(done.kind == "training" for done in result.passes),
        "training_batches": stats.training_batches,
        "validation_batches": stats.validation_batches,
        "items": stats.items,
        "bytes": stats.bytes,
        "seconds": round(stats.seconds, 6),
        "items_per_second": round(stats.items / stats.seconds, 3) if stats.seconds else 0.0,
        "idle_seconds": round(result.idle_seconds, 6),
        "first_batch_seconds": None if stats.first_batch is None else round(stats.first_batch.total, 6),
        "errors": stats.errors,
        "loader_count": stats.loader_count,
        "depth": stats.depth,
        "tuning": stats.tuning,
        "cache_hits": stats.cache_hits,
        "cache_misses": stats.cache_misses,
        "digest": result.digest,
        "verdict": result.verdict,
    }
    if stats.cache_error:
        values["cache_error"] = stats.cache_error
    return to_json(values)


def _facts_view(facts: Iterable[tuple[str, str | Text]]) -> Table:
    table = _grid()
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, text in facts:
        table.add_row(label, Text(clean(text)) if isinstance(text, str) else text)
    return table


def _grid() -> Table:
    return Table.grid(padding=(0, 2))
