"""From what the engine delivers to what the user gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from hydrax_core.batch import BatchParts, TrainingBatch, ValidationBatch
from hydrax_core.group import DataGroup
from hydrax_core.jobs import HostBatch

__all__ = ["assemble"]

D = TypeVar("D")


def assemble(
    host: HostBatch,
    group: DataGroup[D],
    arrays: Mapping[str, Any],
    progress_total: int,
    store: Callable[..., None],
) -> TrainingBatch[D] | ValidationBatch[D]:
    """The batch for the consumer.

    Args:
        host: The batch in host memory.
        group: Its group.
        arrays: Its jax arrays.
        progress_total: Batches in its epoch (or validation run).
        store: Stores it in the cache, see ``Shelf.store``.
    """
    keep = None
    if not host.cached and group.cache_layouts and not group.cache_readonly:
        keep = partial(store, replace(host, arrays={}))  # without its arrays, or they would be held
    parts = BatchParts(
        group=group,
        address=host.planned.address,
        arrays=arrays,
        layouts=group.cache_layouts if host.cached else group.loader_layouts,
        additional=host.additional,
        indices=tuple(host.indices),
        seeds=None if host.seeds is None else tuple(host.seeds),
        seed=host.planned.content.seed,
        rows=group.batch_size,
        uncached=not host.cached,
        progress_total=progress_total,
        from_cache=host.from_cache,
        load_seconds=host.load_seconds,
        store=keep,
    )
    return TrainingBatch(parts) if host.planned.address.kind == "training" else ValidationBatch(parts)
