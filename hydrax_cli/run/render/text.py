"""Plans and results as plain lines, without control codes; pure, nothing is written here.

``terminal.py`` shows the same facts and words on a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, many, rate, share, size, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrax_cli.run.summary import CachePlan, PlannedRun, RunResult
    from hydrax_core import FirstBatch, Stats
    from hydrax_core.monitor import ArrayPlan, GroupPlan, Pass, RunPlan

__all__ = [
    "SAME_ARRAYS",
    "batches_of",
    "batches_text",
    "cache_text",
    "dtypes",
    "has_cache",
    "order_text",
    "pass_line",
    "phases",
    "plan_facts",
    "plan_groups",
    "plan_lines",
    "rates",
    "result_facts",
    "result_lines",
]

SAME_ARRAYS = "the same arrays"
_BEGINNING = " to begin with (auto)"
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
    for group, cache, same_arrays in plan_groups(run):
        lines.append(f"{group.name}: {batches_text(group)}; {order_text(group)}")
        if same_arrays:
            lines.append(f"  {SAME_ARRAYS}")
        else:
            lines.extend(f"  {a.name} {a.shape[1:]} {dtypes(a, '->')}, {size(a.bytes)} a batch" for a in group.arrays)
        if cache is not None:
            lines.append(f"  cache {cache_text(cache)}")
    lines.extend(f"{label}: {text}" for label, text in plan_facts(run))
    return list(map(clean, lines))


def plan_groups(run: PlannedRun) -> Iterator[tuple[GroupPlan, CachePlan | None, bool]]:
    """Each group with its cache, and whether its arrays are those of the group before."""
    before: tuple[object, ...] = ()
    for group, cache in zip(run.plan.groups, run.caches, strict=True):
        arrays = (group.arrays, group.batch_size)
        yield group, cache, arrays == before
        before = arrays


def batches_text(group: GroupPlan) -> str:
    if group.shards:
        return f"a stream in {many(group.shards, 'shard')}, in batches of {count(group.batch_size)}"
    things = many(group.items, "item")
    if group.rows is not None:
        what = f"of {things}" if group.fill is None else f"{group.fill:.1%} full"
        things = f"{many(group.rows, 'row')} {what},"
    text = f"{things} in {many(group.batches, 'batch', 'batches')} of {count(group.batch_size)}"
    if not group.left_out:
        return text
    when = ", the same ones each time" if group.kind == "validation" else " an epoch"
    return f"{text}, {many(group.left_out, 'item')} left out{when} (remainder: drop)"


def order_text(group: GroupPlan) -> str:
    """Seed and shuffle in words."""
    augmented = ", augmented behind the loader" if group.augmented else ""
    if group.kind == "validation":
        return f"in the order of the data{augmented}"
    if group.shards:
        return f"seed {group.seed}, in the order of the stream, shuffled within its buffer"
    first = "the first shuffled" if group.shuffle_first else "first epoch: in the order of the data"
    return f"seed {group.seed}, {_SHUFFLES[group.shuffle_later]}, {first}{augmented}"


def cache_text(cache: CachePlan) -> str:
    things = "items" if cache.keeps == "item" else "batches"
    complete = count(cache.complete)
    if cache.shared:
        text, needed = f"{things} that serve every epoch", f" of {complete} held"
    else:
        text, needed = f"{things} of each epoch", f" held, {complete} an epoch"
    held = "" if cache.held is None else f", {count(cache.held)}{needed}"
    only_read = "" if cache.filled else "; this run only reads it"
    return f"{cache.folder}: {text}{held}{only_read}"


def dtypes(array: ArrayPlan, arrow: str) -> str:
    if array.jax_dtype == array.numpy_dtype:
        return array.numpy_dtype
    return f"{array.numpy_dtype} {arrow} {array.jax_dtype}"


def plan_facts(run: PlannedRun) -> Iterator[tuple[str, str]]:
    plan = run.plan
    yield from run.notes
    epoch = many(plan.batches_per_epoch, "training batch", "training batches")
    if plan.streams():
        epoch = "training batches until the stream ends"
    if plan.validation_interval:
        validation = many(plan.batches_per_validation, "validation batch", "validation batches")
        if plan.streams("validation"):
            validation = "validation batches until their stream ends"
        epochs, rest = divmod(plan.validation_interval, plan.batches_per_epoch)
        if rest:
            every = f"; after every {count(plan.validation_interval)} of them {validation}"
        else:
            every = f", then {validation}" if epochs == 1 else f"; after every {count(epochs)} epochs {validation}"
        epoch += every + (", one run of them before training" if plan.validates_first else "")
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
    first, offset = divmod(plan.first_batch, plan.batches_per_epoch)
    if plan.training_batches is None:
        most = plan.last_batch - plan.first_batch
        amount = (
            "to its end" if most % plan.batches_per_epoch == 0 or offset else f"at most {count(most)} training batches"
        )
    else:
        amount = many(plan.training_batches, "training batch", "training batches")
    if plan.validation_batches:
        amount += f", {many(plan.validation_batches, 'validation batch', 'validation batches')}"
    last = max(first, (plan.last_batch - 1) // plan.batches_per_epoch)
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    return f"{epochs}{f' from batch {offset}' if offset else ''}: {amount}"


# --- the result


def pass_line(done: Pass) -> str:
    """One epoch or validation run in a plain line."""
    line = _amounts(done.name, done.batches, done, done.idle_seconds)
    return f"{line}, cache {_hits(done)}" if has_cache(done) else line


def _amounts(name: str, batches: int, counts: Pass | Stats, idle_seconds: float) -> str:
    items, megabytes, idle = rates(counts.items, counts.bytes, idle_seconds, counts.seconds)
    return (
        f"{name}: {many(batches, 'batch', 'batches')}, {many(counts.items, 'item')}, {span(counts.seconds)}, "
        f"{items} items/s, {megabytes} MB/s, idle {idle}"
    )


def has_cache(counts: Pass | Stats) -> bool:
    return bool(counts.cache_hits or counts.cache_misses)


def _hits(counts: Pass | Stats) -> str:
    return f"{many(counts.cache_hits, 'hit')}, {many(counts.cache_misses, 'miss', 'misses')}"


def result_lines(result: RunResult) -> list[str]:
    stats = result.stats
    lines = [_amounts("total", batches_of(result), stats, result.idle_seconds)]
    if stats.first_batch is not None:
        named = ", ".join(f"{name} {span(seconds)}" for name, seconds in phases(stats.first_batch))
        lines.append(f"first batch: {span(stats.first_batch.total)} ({named})")
    lines.extend(f"{label}: {text}" for label, text in result_facts(result))
    lines.append(f"verdict: {result.verdict}")
    return list(map(clean, lines))


def phases(first: FirstBatch) -> tuple[tuple[str, float], ...]:
    return ("start", first.start), ("load", first.load), ("place", first.place)


def _data_facts(stats: Stats) -> Iterator[tuple[str, str]]:
    if len(stats.groups) > 1:
        shares = [f"{group.share:.1%} (of {group.expected:.1%}, {group.epochs:.1f} epochs)" for group in stats.groups]
        yield "groups", ", ".join(shares)
    if stats.token_places:
        full = f"{100 * stats.tokens / stats.token_places:.1f} % of the places in their rows"
        yield "tokens", f"{count(stats.tokens)}, {rate(stats.tokens, stats.seconds)} a second, {full}"
    if stats.shapes > 1:
        yield "shapes", f"{count(stats.shapes)} shapes of batches, each of which a compiled step is compiled for"


def result_facts(result: RunResult) -> Iterator[tuple[str, str]]:
    stats = result.stats
    if result.interrupted:
        yield "interrupted", f"--start {result.resume} goes on from here"
    if has_cache(stats):
        dropped = many(stats.dropped_batches, "batch", "batches")
        lost = f"; {dropped} dropped, as only the cache may serve them" if stats.dropped_batches else ""
        damaged = f"; damage found {many(stats.cache_corrupt, 'time')}, and loaded anew" if stats.cache_corrupt else ""
        error = f"; not all is stored: {stats.cache_error}" if stats.cache_error and stats.cache_misses else ""
        yield "cache", f"{_hits(stats)}{lost}{damaged}{error}"
    if stats.errors:
        done = [many(stats.skipped_batches, "batch", "batches") + " skipped"] if stats.skipped_batches else []
        done += [many(stats.substituted_items, "item") + " substituted"] if stats.substituted_items else []
        yield "errors", ", ".join([f"{many(stats.errors, 'item')} failed", *done])
    yield from _data_facts(stats)
    if stats.tuning:
        yield "auto", stats.tuning
    if stats.worker_restarts:
        yield "restarts", f"{many(stats.worker_restarts, 'worker')} replaced"
    if result.digest is not None:
        yield "digest", result.digest
    for finding in result.findings or ():
        yield "check", finding


def batches_of(result: RunResult) -> int:
    return result.stats.training_batches + result.stats.validation_batches
