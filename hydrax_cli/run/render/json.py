"""The result as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hydrax_cli.shared.text import to_json

if TYPE_CHECKING:
    from hydrax_cli.run.summary import RunResult

__all__ = ["result_json"]


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
        "groups": [asdict(group) for group in stats.groups],
        "shapes": stats.shapes,
        "tokens": stats.tokens,
        "token_places": stats.token_places,
        "cache_hits": stats.cache_hits,
        "cache_misses": stats.cache_misses,
        "digest": result.digest,
        "verdict": result.verdict,
        "classes": {name: list(names) for name, names in result.classes.items()},
        "findings": result.findings,
    }
    if stats.cache_error:
        values["cache_error"] = stats.cache_error
    return to_json(values)
