"""Which host of how many this process is, and which rows of each batch it has.

Promise: order, seeds, state and the entries of caches belong to the batch of all hosts together, so that another number
of hosts goes on with it. All hosts have equally many batches; what could put them out of step is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydrax_core.data.checks import integer
from hydrax_core.data.group import DataGroup
from hydrax_core.plan.permutation import Indices

__all__ = ["HostShare", "check_in_step", "host_share"]


@dataclass(frozen=True, slots=True)
class HostShare:
    """What this host has of a run.

    Attributes:
        rows: For each group, training before validation, the rows that it loads, ascending; ``None`` for all.
        shardings: For each group the sharding of each array; empty for arrays on one device.
        parts: For each group, into how many parts the rows of an array are cut for the devices; 1 where left out.
        talking: Whether the hosts can reach one another through ``jax.distributed``.
    """

    index: int
    count: int
    rows: tuple[Indices | None, ...]
    shardings: tuple[Mapping[str, Any], ...]
    parts: tuple[Mapping[str, int], ...]
    talking: bool


def host_share(groups: Sequence[DataGroup[Any]], sharding: Any, hosts: Any) -> HostShare:
    """What this host has; see ``Dataloader`` for the arguments."""
    if hosts is not None:
        return _by_number(groups, sharding, *_pair(hosts))
    if sharding is None:
        return HostShare(0, 1, (None,) * len(groups), ({},) * len(groups), ({},) * len(groups), talking=False)
    from hydrax_core.batch import sharding as rules  # noqa: PLC0415  it imports jax

    shardings = tuple(rules.shardings_of(sharding, group) for group in groups)
    talking = any(map(rules.spans_hosts, shardings))
    rows: list[Indices | None] = []
    parts = []
    for group, found in zip(groups, shardings, strict=True):
        loaded, cached = group.batch_layouts
        own = rules.host_rows(found, {**cached, **loaded})
        rows.append(None if len(own) == group.batch_size else own)
        parts.append(_parts(found, group, own))
    _check_shared(groups, rows)
    index, count = rules.this_process() if talking else (0, 1)
    return HostShare(index, count, tuple(rows), shardings, tuple(parts), talking=talking)


def check_in_step(share: HostShare, *, placement_func: Any, deterministic: Any, on_error: Any) -> None:
    """Refuse what has several devices or hosts disagree."""
    if placement_func is not None and any(share.shardings):
        raise ValueError("placement_func: sharding places the arrays already; give one of the two")
    if share.count == 1:
        return
    if deterministic is False:
        raise ValueError("deterministic: several hosts need the same batches at the same time; leave it True")
    if on_error == "skip":
        raise ValueError(
            "on_error: 'skip' would leave out a batch on one of several hosts only; use 'substitute', which keeps all "
            "of them in step, or 'raise'"
        )


def _by_number(groups: Sequence[DataGroup[Any]], sharding: Any, index: int, count: int) -> HostShare:
    rows, shardings, parts = [], [], []
    for group in groups:
        if group.batch_size % count:
            raise ValueError(f"hosts: a batch_size of {group.batch_size} cannot be divided among {count} hosts")
        size = group.batch_size // count
        rows.append(np.arange(index * size, (index + 1) * size) if count > 1 else None)
        found, cut = {}, {}
        if sharding is not None:
            from hydrax_core.batch import sharding as rules  # noqa: PLC0415  it imports jax

            found = rules.shardings_of(sharding, group.replace(batch_size=size, remainder="pad"))
            if rules.spans_hosts(found):
                raise ValueError("hosts: the sharding spans several hosts, so that jax knows them; leave hosts out")
            cut = _parts(found, group, np.arange(size))
        shardings.append(found)
        parts.append(cut)
    _check_shared(groups, rows)
    return HostShare(index, count, tuple(rows), tuple(shardings), tuple(parts), talking=False)


def _parts(shardings: Mapping[str, Any], group: DataGroup[Any], own: Indices) -> dict[str, int]:
    """Into how many parts loaded rows are cut; caches, augmenting and trimming take rows that lie together."""
    from hydrax_core.batch.sharding import row_parts  # noqa: PLC0415  it imports jax

    if group.cache_location is not None or group.augment_func is not None or group.trims:
        return {}
    found = {name: row_parts(shardings[name], layout, own) for name, layout in group.loader_layouts.items()}
    return {name: parts for name, parts in found.items() if parts > 1}


def _check_shared(groups: Sequence[DataGroup[Any]], rows: Sequence[Indices | None]) -> None:
    for group, own in zip(groups, rows, strict=True):
        if own is not None and group.trims:
            raise ValueError(
                f"loader_arrays[{group.trims[0].name!r}]: Ragged(multiple=...) has the shape of a batch follow its "
                "longest row, and a host that loads only some rows does not know the others; leave multiple out, or "
                "use buckets(), whose shapes are known ahead"
            )
        if own is not None and group.cache_location is not None and group.cache_by == "batch":
            raise ValueError(
                "cache_by: a host that has only some rows of a batch cannot keep batches; with cache_by='item' the "
                "cache serves any number of hosts"
            )


def _pair(hosts: Any) -> tuple[int, int]:
    if not isinstance(hosts, tuple | list) or len(hosts) != 2:  # noqa: PLR2004  a pair
        raise TypeError(f"hosts: expected (index, count), got {hosts!r}")
    count = integer("hosts[1]", hosts[1], 1)
    return integer("hosts[0]", hosts[0], 0, count - 1), count
