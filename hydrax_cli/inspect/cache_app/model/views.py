"""Entries of a cache as the batches that the screens show. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hydrax_cli.inspect.run_view import BatchView
from hydrax_core.monitor import ArrayPlan, BatchRecord, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrax_core.cache import CacheInfo, EntryInfo, StoredArray, StoredEntry

__all__ = ["record_of", "rows_of", "view_of"]

_HEADER_BYTES: Final = 4096  # of a file, before its entries; see docs/cache.md
_FAULTS: Final = {
    "": "sound",
    "corrupt": "BAD: its checksum does not fit",
    "cut": "BAD: a file ends before it",
    "missing": "BAD: a file is missing",
    "unreadable": "it cannot be read just now",
    "unchecked": "not checked",
}


def record_of(found: CacheInfo | None, entries: Sequence[EntryInfo], place: int) -> BatchRecord:
    """What a batch, or several items, are called; ``place`` is that of the first in the list."""
    first, last = entries[0], entries[-1]
    name, size = "", len(entries)
    if found is None or found.cache_by == "batch":
        size = _real_rows(found, first.number)
    else:
        name = f"item {first.number:,}" if size == 1 else f"items {first.number:,} … {last.number:,}"
    return BatchRecord(
        serial=place + 1,
        kind="validation" if found is not None and found.kind == "validation" else "training",
        group=0 if found is None else found.group_index or 0,
        epoch=first.epoch,
        epoch_batch=first.number,
        batch_num=first.number,
        size=size,
        cached=True,
        name=name,
    )


def view_of(found: CacheInfo, record: BatchRecord, several: Sequence[StoredEntry]) -> BatchView:
    """A batch, or several items one below the other.

    Raises:
        LookupError: The manifest declares batches without rows.
    """
    first = several[0]
    if found.cache_by == "batch" and not all(array.shape for array in found.arrays):
        raise LookupError("its manifest declares an array without rows")
    if found.cache_by == "batch":
        arrays: Mapping[str, Any] = first.arrays
        indices: Sequence[int] = first.indices or range(record.size)
        seeds = first.seeds
        values = {name: list(column) for name, column in first.additional.items()}
    else:
        arrays = {name: np.stack([stored.arrays[name] for stored in several]) for name in first.arrays}
        indices = [stored.indices[0] for stored in several]
        seeds = None
        names = sorted({name for stored in several for name in stored.additional})
        values = {name: [stored.additional.get(name) for stored in several] for name in names}
    notes = [_FAULTS[first.fault]] if len({stored.fault for stored in several}) == 1 else ["BAD: some of them"]
    notes += [f"additional data: {stored.additional_fault}" for stored in several if stored.additional_fault][:1]
    return BatchView(
        record=record,
        arrays=MappingProxyType(dict(arrays)),
        infos=_array_infos(found, record),
        indices=indices,
        seeds=seeds,
        descriptors=(),
        additional=MappingProxyType({name: [one_line(value) for value in column] for name, column in values.items()}),
        source=", ".join(notes),
    )


def _array_infos(found: CacheInfo, record: BatchRecord) -> tuple[ArrayPlan, ...]:
    """Layouts of an entry; of items, of so many below each other. The offset is that in the file."""
    rows = 1 if found.cache_by == "batch" else record.size
    return tuple(
        ArrayPlan(
            name=array.name,
            shape=array.shape if found.cache_by == "batch" else (rows, *array.shape),
            numpy_dtype=array.dtype,
            jax_dtype=array.jax_dtype,
            offset=_HEADER_BYTES + record.epoch_batch * array.nbytes,
            bytes=array.nbytes * rows,
            is_label=False,
        )
        for array in found.arrays
    )


def rows_of(array: StoredArray) -> int:
    """Rows of a stored batch; a forged manifest may declare none."""
    return array.shape[0] if array.shape else 1


def _real_rows(found: CacheInfo | None, number: int) -> int:
    if found is None:
        return 1
    rows, items = rows_of(found.arrays[0]), found.settings.get("items")
    return max(1, min(rows, items - number * rows)) if isinstance(items, int) else rows
