"""Which rows of a batch lie on which device, and which of them this host has to load.

Promise: whatever the sharding (rows, columns, replicas, any order of devices), a host loads each row that one of its
devices needs once, and no other. Nothing here depends on how many hosts there are: the batch is that of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import ALIGNMENT, ArrayLayout, Layouts
from hydrax_core.plan.permutation import Indices

__all__ = [
    "Pieces",
    "ShardingSpec",
    "host_rows",
    "mask_sharding",
    "pieces",
    "row_parts",
    "shardings_of",
    "spans_hosts",
    "this_process",
]

ShardingSpec = jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | tuple[jax.sharding.Mesh, Any]
_FORMS = (
    "a jax.sharding.Sharding, a dict of array name -> Sharding, or (mesh, axis names), of which the first axis is that "
    "of the rows"
)


def shardings_of(spec: Any, group: DataGroup[Any]) -> dict[str, jax.sharding.Sharding]:
    """The sharding of each array of a group.

    Raises:
        TypeError: ``spec`` has none of the known forms.
        ValueError: An array has no sharding, or its shape cannot be divided so.
    """
    found = {}
    for layouts in group.batch_layouts:
        for name, layout in layouts.items():
            sharding = _sharding_of(spec, name, len(layout.shape))
            try:
                sharding.shard_shape(layout.shape)
                for trim in group.trims:
                    if trim.name == name:
                        sharding.shard_shape((layout.shape[0], trim.length(1), *layout.shape[2:]))
            except ValueError as error:
                raise ValueError(
                    f"sharding: array {name!r} of shape {layout.shape} (batch_size {group.batch_size} is that of all "
                    f"hosts) cannot be divided: {error}"
                ) from error
            found[name] = sharding
    return found


def _sharding_of(spec: Any, name: str, rank: int) -> jax.sharding.Sharding:
    if isinstance(spec, Mapping):
        if name not in spec:
            raise ValueError(f"sharding: array {name!r} has none; given are {', '.join(map(repr, spec)) or 'none'}")
        spec = spec[name]
    if isinstance(spec, tuple | list) and len(spec) == 2 and isinstance(spec[0], jax.sharding.Mesh):  # noqa: PLR2004
        mesh, axes = spec
        axes = (axes,) if isinstance(axes, str) or axes is None else tuple(axes)
        try:
            return jax.sharding.NamedSharding(mesh, _spec(axes[:rank]))
        except ValueError as error:
            raise ValueError(f"sharding: {error}") from error
    if not isinstance(spec, jax.sharding.Sharding):
        raise TypeError(f"sharding: expected {_FORMS}; got {spec!r}")
    return spec


def _spec(axes: Sequence[Any]) -> jax.sharding.PartitionSpec:
    spec: Any = jax.sharding.PartitionSpec
    made: jax.sharding.PartitionSpec = spec(*axes)
    return made


def this_process() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


def spans_hosts(shardings: Mapping[str, jax.sharding.Sharding]) -> bool:
    return not all(sharding.is_fully_addressable for sharding in shardings.values())


def host_rows(shardings: Mapping[str, jax.sharding.Sharding], layouts: Layouts) -> Indices:
    """The rows of a batch that this process's devices need, ascending.

    Raises:
        ValueError: An array has no device of this process.
    """
    needed = np.zeros(next(iter(layouts.values())).shape[0], bool)
    for name, layout in layouts.items():
        indices = shardings[name].addressable_devices_indices_map(layout.shape)
        if not indices:
            raise ValueError(f"sharding: array {name!r} has no device of this process ({jax.process_index()})")
        for index in indices.values():
            needed[(index or (slice(None),))[0]] = True
    return np.flatnonzero(needed)


class Pieces(NamedTuple):
    """The parts of an array for this process's devices.

    Attributes:
        slices: For each, its part of the array that holds this host's rows.
        slices_of_parts: The same where that array is in parts, see ``row_parts``.
    """

    devices: list[Any]
    slices: list[tuple[slice, ...]]
    slices_of_parts: list[tuple[int | slice, ...]]
    shape: tuple[int, ...]


def pieces(sharding: jax.sharding.Sharding, shape: Sequence[int], rows: Indices) -> Pieces:
    """Where the parts of an array of (global) shape ``shape`` are in one that holds ``rows`` only."""
    found: Mapping[Any, Any] = sharding.addressable_devices_indices_map(tuple(shape))
    slices, of_parts = [], []
    for index in found.values():
        first, end, _ = index[0].indices(shape[0])
        start = int(np.searchsorted(rows, first))
        slices.append((slice(start, start + end - first), *index[1:]))
        of_parts.append((start // max(1, end - first), slice(None), *index[1:]))
    return Pieces(list(found), slices, of_parts, sharding.shard_shape(tuple(shape)))


def row_parts(sharding: jax.sharding.Sharding, layout: ArrayLayout, rows: Indices) -> int:
    """Into how many parts this host's rows have to be cut so that each device's starts where jax needs no copy of it.

    1 where all do already, or where cutting does not help: the devices copy anyway, or get columns.
    """
    shape = layout.shape
    devices: set[Any] = sharding.device_set
    if any(device.platform != "cpu" for device in devices):
        return 1
    part, *columns = sharding.shard_shape(shape)
    starts = {index[0].start for index in pieces(sharding, shape, rows).slices}
    whole_rows = columns == list(shape[1:]) and sorted(starts) == list(range(0, len(rows), part))
    return len(starts) if whole_rows and layout.nbytes // shape[0] * part % ALIGNMENT else 1


def mask_sharding(sharding: jax.sharding.Sharding, rank: int) -> jax.sharding.Sharding | None:
    """The sharding of one value a row, on the devices of the rows; ``None`` where it is not known."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, _spec(sharding.spec[:1]))
    return sharding if rank == 1 or isinstance(sharding, jax.sharding.SingleDeviceSharding) else None
