"""Groups made of others: items of several in one batch, classes in equal shares, buckets of like lengths.

Promise: what comes is a ``DataGroup`` like any other. ``batch.data`` and error texts show the item of the group that it
came from; each item is loaded by the function of its own group.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from hydrax_core.data.checks import integer
from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.function import is_batched
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import ArraySpec
from hydrax_core.data.read_lock import PlainData, is_plain
from hydrax_core.data.rows import value_digest
from hydrax_core.data.source import Items, Source
from hydrax_core.plan.lengths import NO_RAGGED, Progress, lengths_of
from hydrax_core.plan.mixture import by_weights
from hydrax_core.plan.packing import Lengths
from hydrax_core.plan.sampling import MixedRows

__all__ = ["buckets", "class_balanced", "mix"]

D = TypeVar("D")
_FITS = 2**62
_logger = logging.getLogger("hydrax")


def mix(
    groups: Iterable[DataGroup[D]],
    weights: Any = None,
    *,
    stop: str | None = None,
    items_per_epoch: int | None = None,
    **settings: Any,
) -> DataGroup[D]:
    """A group whose batches hold items of several groups, in exact shares.

    The shares are exact in blocks (of 10 items for weights 0.7 and 0.3), whose order the seed chooses. The items of a
    group come all, in an order of their own, before one comes again.

    Args:
        groups: The groups; they have equal ``loader_arrays``, and each its own ``loader_func`` or none of them one.
        weights: A number for each group, or a dict of the group's number -> weight; by default the share of its items,
            so that an epoch has each item once.
        stop: With weights, when an epoch ends: with the ``"first"`` group whose items all came; with the last
            (``"all"``); after as many items as the groups have (``"restart"``, the default).
        items_per_epoch: The length of an epoch, instead.
        settings: Arguments of ``DataGroup``; those left out are the first group's, but for its cache.

    Raises:
        TypeError: ``groups`` are no groups, or an argument has the wrong type.
        ValueError: The groups do not fit together, or an argument has a wrong value.
    """
    members = tuple(groups)
    if not members or not all(isinstance(group, DataGroup) for group in members):
        raise TypeError(f"groups: expected at least one DataGroup, got {members!r}")
    _check_alike(members, one_augmentation="augment_func" not in settings)
    sizes = [len(group) for group in members]
    length = None if items_per_epoch is None else integer("items_per_epoch", items_per_epoch, 1)
    if weights is None and stop is not None:
        raise ValueError("stop: without weights each item comes once in each epoch; give weights, too")
    shares = by_weights(sizes, sizes if weights is None else weights, stop, length)
    if len(shares.stages) > 1:
        raise ValueError("weights: mix() takes no stages; give the groups and the stages to Dataloader(weights=...)")
    starts = [0, *np.cumsum(sizes).tolist()]
    used = [group for group, count in enumerate(shares.stages[0].counts) if count]
    rows = MixedRows(
        tuple(range(starts[group], starts[group + 1]) for group in used),
        tuple(shares.stages[0].counts[group] for group in used),
        shares.batches_per_epoch,
    )
    functions = [group.loader_func for group in members]
    if any(function is None for function in functions) and any(functions):
        raise ValueError("groups: some have a loader_func and some have none; give each its own, or none of them one")
    together: dict[str, Any] = {"loader_func": functions[0]}
    parts = [group.items for group in members]
    data: Any
    if all(function is functions[0] for function in functions) and not is_batched(functions[0]):
        data = _JoinedSource(parts) if any(isinstance(part, Source) for part in parts) else _Joined(parts)
        if all(type(part) in {list, tuple} for part in parts):
            data = [item for part in parts for item in part]  # found at once, where _Joined looks for its part
        elif all(map(is_plain, parts)):
            data = _JoinedPlain(parts)
    else:
        data = _JoinedSource(parts)
        together["loader_func"] = _LoaderByMember([function for function in functions if function is not None])
    no_cache = {"cache_location": None, "cache_arrays": None, "cache_readonly": False}
    return members[0].replace(**{**no_cache, **together, "data": data, "rows": rows, **settings})


def _check_alike(members: Sequence[DataGroup[Any]], *, one_augmentation: bool) -> None:
    for number, group in enumerate(members):
        if dict(group.loader_specs) != dict(members[0].loader_specs):
            raise ValueError(
                f"groups: group {number} has other loader_arrays than group 0, which cannot stand in one batch: "
                f"{dict(group.loader_specs)} and {dict(members[0].loader_specs)}"
            )
        if one_augmentation and group.augment_func is not members[0].augment_func:
            raise ValueError(
                f"groups: group {number} has another augment_func than group 0; give one for all: mix(augment_func=...)"
            )
        if group.rows is not None or group.weight_ends is not None:
            raise ValueError(f"groups: group {number} is mixed, packed or weighted itself; mix what it was made of")


def class_balanced(group: DataGroup[D], labels: Any, **settings: Any) -> DataGroup[D]:
    """A group in which each class comes as often as any other.

    The items of a class come all before one comes again; an epoch has as many rows as there are items.

    Args:
        group: The group.
        labels: The class of each item: one number or string for each; or a function of an item.
        settings: Arguments of ``DataGroup``; those left out are the group's.

    Raises:
        ValueError: There are not as many labels as items.
    """
    found = np.array([labels(item) for item in group]) if callable(labels) else np.asarray(labels)
    if found.shape != (len(group),):
        raise ValueError(f"labels: expected {len(group)}, one for each item, got an array of shape {found.shape}")
    _, classes = np.unique(found, return_inverse=True)
    order = np.argsort(classes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(classes))[:-1])
    rows = MixedRows(tuple(members), (1,) * len(members), len(group))
    return group.replace(**{**settings, "rows": rows})


def buckets(
    group: DataGroup[D],
    lengths: Any = None,
    *,
    boundaries: int | Sequence[int],
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    longer: str = "error",
    lengths_file: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[DataGroup[D], ...]:
    """Groups of like lengths: less padding, and one compilation for each.

    Give them to a ``Dataloader``, which spreads them evenly over the epoch. The ragged arrays of each have its boundary
    as their length.

    Args:
        group: A group with ragged arrays, see ``Ragged``.
        lengths: See ``pack``.
        boundaries: Greatest length of each bucket, ascending; or how many buckets of about as many items each.
        batch_size: Rows of a batch in every bucket; by default the group's.
        tokens_per_batch: Rows times length of a batch at most, instead.
        longer: What happens to items beyond the last boundary: ``"error"``, the default, or ``"drop"``;
            the log says how many.
        lengths_file: See ``pack``.
        progress: See ``pack``.
        settings: Arguments of ``DataGroup``; those left out are the group's.

    Returns:
        A group for each bucket that has items.

    Raises:
        ValueError: An argument has a wrong value; items are longer than the last bucket.
    """
    if group.rows is not None or group.weight_ends is not None:
        raise ValueError("group: it is mixed, packed or weighted already")
    ragged = [name for name, spec in group.loader_specs.items() if spec.ragged]
    if not ragged:
        raise ValueError(NO_RAGGED)
    if batch_size is not None and tokens_per_batch is not None:
        raise ValueError("tokens_per_batch: it says what batch_size would; give one of them")
    location = settings.get("cache_location", group.cache_location)
    known = lengths_of(group, lengths, lengths_file, progress, location)
    ends = _boundaries(boundaries, known)
    _leave_out(known, ends[-1], longer)
    places = np.searchsorted(np.array(ends), known)
    made = []
    for place, end in enumerate(ends):
        items = np.flatnonzero(places == place)
        if not items.size:
            continue
        rows_a_batch = max(1, tokens_per_batch // end) if tokens_per_batch else batch_size or group.batch_size
        own: dict[str, Any] = {"rows": MixedRows((items,), (1,), len(items)), "batch_size": rows_a_batch}
        own["loader_arrays"] = _ending(group.loader_specs, end)
        if group.augment_func is not None:
            own["augment_arrays"] = _ending(group.augment_specs, end)
        if location is not None:
            own["cache_location"] = Path(location) / f"up-to-{end}"
        try:
            made.append(group.replace(**{**settings, **own}))
        except ValueError as error:
            error.add_note(f"in the bucket of lengths up to {end}, which has {len(items)} items")
            raise
    return tuple(made)


def _ending(specs: Mapping[str, ArraySpec], end: int) -> dict[str, ArraySpec]:
    """Arrays of which the ragged ones have ``end`` elements at most."""
    return {
        name: spec._replace(shape=(end, *spec.shape[1:]), ragged=spec.ragged.resized(end)) if spec.ragged else spec
        for name, spec in specs.items()
    }


def _leave_out(lengths: Lengths, end: int, longer: str) -> None:
    """Refuse items beyond the last bucket, or say how many there are."""
    beyond = np.flatnonzero(lengths > end)
    if beyond.size and longer != "drop":
        raise ValueError(
            f"boundaries: item {beyond[0]} has length {lengths[beyond[0]]}, the last bucket ends at {end}; "
            "add a boundary, or use longer='drop'"
        )
    if beyond.size:
        _logger.warning(
            "buckets: %d of %d items are longer than %d and left out (longer='drop')", beyond.size, len(lengths), end
        )


def _boundaries(boundaries: Any, lengths: Any) -> list[int]:
    if isinstance(boundaries, int):
        count = integer("boundaries", boundaries, 1)
        quantiles = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
        return sorted({max(1, int(end)) for end in quantiles})
    ends = [integer("boundaries", end, 1) for end in boundaries]
    if not ends or any(later <= end for end, later in pairwise(ends)):
        raise ValueError(f"boundaries: expected lengths from the least to the greatest, got {ends}")
    return ends


class _Joined(Sequence[Any]):
    """Data of several groups, one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.starts = [0, *np.cumsum([len(part) for part in parts]).tolist()]

    def locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.starts[-1]:
            raise IndexError(f"item {index} of {self.starts[-1]}")
        part = bisect.bisect_right(self.starts, index) - 1
        return part, index - self.starts[part]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        part, place = self.locate(index)
        return self.parts[part][place]

    def fingerprint(self) -> str:
        return value_digest(*(data_digest(part) for part in self.parts))


class _JoinedPlain(_Joined, PlainData[Any]):
    """The same of ranges, arrays and the like."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__(parts)
        self._edges = np.array(self.starts)
        ranges = [part for part in parts if type(part) is range]
        fits = all(-_FITS < number < _FITS for part in ranges for number in (part.start, part.stop, part.step))
        self._numbers = np.array([(part.start, part.step) for part in ranges]) if fits else None
        if len(ranges) < len(parts):
            self._numbers = None

    def __getitems__(self, indices: list[int]) -> list[Any]:
        wanted = np.array(indices)
        found = np.searchsorted(self._edges, wanted, "right") - 1
        places = wanted - self._edges[found]
        if self._numbers is not None:
            items: list[Any] = (self._numbers[found, 0] + self._numbers[found, 1] * places).tolist()
            return items
        return [self.parts[part][place] for part, place in zip(found.tolist(), places.tolist(), strict=True)]


class _JoinedSource(Source[Any]):
    def __init__(self, parts: Sequence[Any]) -> None:
        self.joined = _Joined(parts)

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, index: int) -> Any:
        return self.joined[index]

    def fingerprint(self) -> str:
        return self.joined.fingerprint()


class _LoaderByMember:
    """Loads each item with the function of the group that it came from."""

    __hydrax_batched__ = True

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        self._functions = [(function, is_batched(function)) for function in functions]

    def __call__(self, items: Items[Any], arrays: Any, seeds: Sequence[int] | None) -> list[Any]:
        source = items.source
        assert isinstance(source, _JoinedSource)
        results: list[Any] = []
        row = 0
        for part, run in groupby(map(source.joined.locate, items.indices.tolist()), key=lambda place: place[0]):
            places = [place for _, place in run]
            end = row + len(places)
            function, many = self._functions[part]
            data = source.joined.parts[part]
            own = {name: array[row:end] for name, array in arrays.items()}
            given = None if seeds is None else seeds[row:end]
            if many:
                read: Any = Items(data, np.array(places)) if isinstance(data, Source) else [data[n] for n in places]
                results += function(read, own, given) or [None] * len(places)
            else:
                for offset, place in enumerate(places):
                    views = {name: array[offset, ...] for name, array in own.items()}
                    results.append(function(data[place], views, None if given is None else given[offset]))
            row = end
        return results
