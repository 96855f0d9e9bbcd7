"""Comparing a sample of a cache with what its loader loads now: ``hydrax cache verify --against``.

Promise: what is compared, bit by bit, is what training would get with the cache and without it in the same place of the
run. A loader whose results depend on more than item and seed shows as stale, because for the cache it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hydrax_cli.cache.remake import Place, find_place
from hydrax_core.cache import Finding, UnstorableError, encode, info, sample_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from hydrax_cli.shared.options import AskedLoader
    from hydrax_core import Batch, DataGroup, Dataloader
    from hydrax_core.cache import CacheInfo

__all__ = ["Compared", "compare"]

_ADDITIONAL = "\0additional"  # beside the arrays, under names that none of them has
_SERVED = "\0served"


class Compared(NamedTuple):
    """One batch of a sample.

    Attributes:
        served: Whether the cache served it whole; what it did not serve was loaded on both sides.
    """

    served: bool
    finding: Finding | None


def compare(
    path: Path,
    loader: Dataloader[Any],
    asked: AskedLoader,
    sample: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Compared]:
    """Load a sample of entries anew.

    Args:
        loader: A loader with the group that the cache was made for.
        progress: Called with the entries compared and those to be compared.

    Raises:
        CacheMismatchError: The loader has no group that the cache was made for.
        UsageError: The cache holds what a training loop made of the loaded arrays.
    """
    found = info(path)
    place = find_place(path, loader, found, asked)
    numbers = sample_entries(path, sample)
    size = place.cached.batch_size
    per_entry = 1 if found.cache_by == "batch" else size
    wanted = sorted({(epoch, number // per_entry) for epoch, number in numbers})
    done = 0
    for batches in [wanted] if found.kind == "validation" else [[one] for one in wanted]:
        numbers_wanted = [number for _, number in batches]
        cached = _load(loader, found, place, place.cached, batches[0][0], numbers_wanted)
        fresh = _load(loader, found, place, place.fresh, batches[0][0], numbers_wanted)
        for epoch, number in batches:
            detail = _difference(cached[number], fresh[number])
            where = f"epoch {epoch}, batch {number}"
            stale = Finding("stale", where, None, detail, epoch, number) if detail else None
            yield Compared(cached[number][_SERVED], stale)
            done += 1
            if progress is not None:
                progress(done, len(wanted))


def _load(
    loader: Dataloader[Any], found: CacheInfo, place: Place, group: DataGroup[Any], epoch: int, numbers: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Batches of a group: name -> array, and the additional data."""
    plain = {
        kind: [other.replace(cache_location=None, cache_readonly=False, cache_arrays=None) for other in others]
        for kind, others in (("training", loader.training), ("validation", loader.validation))
    }
    plain[found.kind][place.ordinal] = group
    offset = sum(other.batch_count for other in plain[found.kind][: place.ordinal])
    changes: dict[str, Any] = {
        "training": plain["training"],
        "interleave_groups": False,
        "on_error": "raise",
        "cacher_count": 0,
        "deterministic": True,
    }
    if group is place.cached:  # what the cache serves needs no workers
        changes["loader_kind"] = "inline"
    if found.kind == "training":
        changes |= {"validation": None, "start_at": (epoch, offset + numbers[0])}
        per_epoch = sum(other.batch_count for other in plain["training"])
        changes["end_at"] = ("batch", epoch * per_epoch + offset + numbers[0] + 1)
    else:  # the first validation run follows the first training batch
        changes |= {"validation": ("batch", 1, plain["validation"]), "start_at": (0, 0), "end_at": ("batch", 1)}
    loaded: dict[int, dict[str, Any]] = {}
    with loader.replace(**changes) as running:
        for batch in running:
            number = batch.address.epoch_batch - offset
            if batch.address.kind == found.kind and number in numbers:
                loaded[number] = _content(batch)
            if len(loaded) == len(numbers):
                break
    return loaded


def _content(batch: Batch[Any]) -> dict[str, Any]:
    arrays: Mapping[str, Any] = {name: np.array(array) for name, array in batch.arrays.items()}
    additional = {key: list(values) for key, values in batch.additional.items()}
    return {**arrays, _ADDITIONAL: additional, _SERVED: batch.from_cache}


def _difference(cached: Mapping[str, Any], fresh: Mapping[str, Any]) -> str:
    """How two contents differ, in words."""
    for name, array in cached.items():
        other = fresh[name]
        if name == _SERVED:
            continue
        if name == _ADDITIONAL:
            if _code(array) != _code(other):
                return "its additional data differs"
        elif array.shape != other.shape or array.dtype != other.dtype:
            return f"array {name!r} has another shape or dtype"
        else:
            differing = int((_bytes(array) != _bytes(other)).any(axis=1).sum())
            if differing:
                return f"array {name!r} differs in {differing:,} of {array.size:,} elements"
    return ""


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bytes of each element; compared so, NaN equals itself."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)


def _code(additional: Any) -> bytes:
    try:
        return encode(additional, allow_pickle=True)
    except UnstorableError:
        return repr(additional).encode()
