"""Batches and their arrays as jax trees.

Promise: a jitted function of a batch compiles once a group, whatever batch comes. What jax hands on (``tree.map``,
``device_put``) is the batch that it was, with other arrays. What is known of one batch alone (indices, seeds, address)
never enters a compiled function, where it would stay that of the first: asked for there, it raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import jax

from hydrax_core.batch.arrays import Arrays
from hydrax_core.batch.batch import BatchTree, TrainingBatch, ValidationBatch

__all__ = ["register"]


@cache
def register() -> None:
    """Make the types of batches known to jax, once."""
    tree = jax.tree_util
    tree.register_pytree_with_keys(Arrays, _arrays_with_keys, _make_arrays, _flatten_arrays)
    kind: Any
    for kind in (TrainingBatch, ValidationBatch):
        tree.register_pytree_with_keys(kind, _batch_with_keys, _make_batch, _flatten_batch)


def _flatten_arrays(arrays: Arrays) -> tuple[Sequence[Any], tuple[str, ...]]:
    return tuple(arrays.values()), tuple(arrays)


def _arrays_with_keys(arrays: Arrays) -> tuple[Sequence[tuple[Any, Any]], tuple[str, ...]]:
    keys = jax.tree_util.DictKey
    return [(keys(name), array) for name, array in arrays.items()], tuple(arrays)


def _make_arrays(names: tuple[str, ...], arrays: Iterable[Any]) -> Arrays:
    return Arrays(dict(zip(names, arrays, strict=True)))


def _flatten_batch(batch: TrainingBatch[Any] | ValidationBatch[Any]) -> tuple[Sequence[Any], BatchTree]:
    return batch.tree_leaves(), batch.tree


def _batch_with_keys(batch: TrainingBatch[Any] | ValidationBatch[Any]) -> tuple[Sequence[tuple[Any, Any]], BatchTree]:
    keys = (jax.tree_util.GetAttrKey("arrays"), jax.tree_util.GetAttrKey("mask"))
    return list(zip(keys, batch.tree_leaves(), strict=False)), batch.tree


def _make_batch(tree: BatchTree, leaves: Iterable[Any]) -> Any:
    arrays, *mask = leaves
    parts = [*(arrays.values() if isinstance(arrays, Arrays) else [arrays]), *mask]
    traced = any(isinstance(part, jax.core.Tracer) for part in parts)
    return tree.batch(arrays, mask[0] if mask else None, traced=traced)
