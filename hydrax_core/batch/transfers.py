"""What the methods of a batch do with its arrays: check them, cut them, bring them back to the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from hydrax_core.batch.jax_settings import own_transfers
from hydrax_core.data.layout import Layouts
from hydrax_core.errors import PlacementError
from hydrax_core.plan.permutation import Indices

__all__ = ["checked", "host_arrays", "row_mask", "split_rows"]


def row_mask(rows: int, size: int, device: Any) -> jax.Array:
    """True for the first ``size`` of some rows."""
    with own_transfers():
        mask: jax.Array = jax.device_put(np.arange(rows) < size, device)
    return mask


def split_rows(array: jax.Array, first: int, end: int, device: Any) -> jax.Array:
    several = len(array.sharding.device_set) > 1  # a slice on the devices would have to keep their mesh
    with own_transfers():
        rows: Any = np.asarray(array) if several else array
        part: jax.Array = jax.device_put(rows[first:end], device)
        # All rows on the same device would be the same memory, which closing the whole would take from the part.
        return jnp.array(part, copy=True) if end - first == len(array) else part


def host_arrays(arrays: Mapping[str, jax.Array], layouts: Layouts, own: Indices | None) -> dict[str, npt.NDArray[Any]]:
    """NumPy arrays with the NumPy dtypes of ``layouts``; waits until the arrays are computed.

    Args:
        own: The rows wanted of arrays that span several hosts; ``None`` for all.
    """
    return {
        name: (np.asarray(arrays[name]) if own is None else _rows_here(arrays[name], own)).astype(
            layout.numpy_dtype, copy=False
        )
        for name, layout in layouts.items()
    }


def _rows_here(array: jax.Array, own: Indices) -> npt.NDArray[Any]:
    """Rows of an array that spans hosts, of which this one has all that are wanted."""
    rows = np.empty((len(own), *array.shape[1:]), array.dtype)
    for shard in array.addressable_shards:
        first, end, _ = shard.index[0].indices(array.shape[0])
        wanted = np.flatnonzero((own >= first) & (own < end))
        rows[(wanted, *shard.index[1:])] = np.asarray(shard.data)[own[wanted] - first]
    return rows


def checked(argument: str, placed: Any, layouts: Layouts) -> dict[str, jax.Array]:
    """The arrays in the order of ``layouts``.

    Raises:
        PlacementError: Names, shapes or dtypes are not as ``layouts`` say; the text names ``argument``.
    """
    if not isinstance(placed, Mapping):
        raise PlacementError(f"{argument}: expected a dict of jax arrays, got {type(placed).__name__}")
    if placed.keys() != layouts.keys():
        raise PlacementError(f"{argument}: expected the arrays {sorted(layouts)}, got {sorted(placed)}")
    for name, array in placed.items():
        layout = layouts[name]
        if not isinstance(array, jax.Array):
            raise PlacementError(f"{argument}: {name!r} is a {type(array).__name__}, not a jax array")
        here, hosts = _rows_of(array), 1 if array.is_fully_addressable else jax.process_count()
        if here != layout.shape[0] or array.shape[1:] != layout.shape[1:] or array.dtype != layout.jax_dtype:
            wanted = [layout.shape[0] * hosts, *layout.shape[1:]]
            over = f" over {hosts} hosts (or {layout.shape[0]} rows, replicated)" if hosts > 1 else ""
            raise PlacementError(
                f"{argument}: {name!r} is {array.dtype}{list(array.shape)}, declared is "
                f"{layout.jax_dtype}{wanted}{over}"
            )
    return {name: placed[name] for name in layouts}


def _rows_of(array: jax.Array) -> int:
    """Rows of an array; of one that spans hosts, those that this one has."""
    if array.is_fully_addressable or not array.ndim:
        return array.shape[0] if array.ndim else -1
    here = np.zeros(array.shape[0], bool)
    for index in array.sharding.addressable_devices_indices_map(array.shape).values():
        here[(index or (slice(None),))[0]] = True
    return int(here.sum())
