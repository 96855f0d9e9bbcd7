"""Copies out of batches, for looking at them.

Promise: what is copied is independent of the loader's memory, and the lease on it ends with the call. A glance copies a
few rows, at most ``_GLANCE_BYTES`` an array.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrax_cli.inspect.run_view import BatchView
from hydrax_core.errors import HydraxError
from hydrax_core.monitor import BatchRecord, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from hydrax_cli.inspect.run_view import Subject
    from hydrax_core import Batch, Dataloader

__all__ = ["glance", "load_again", "record_of", "view"]

_GLANCE_BYTES = 2 << 20
_GLANCE_ROWS = 256
_MOST_HELPERS = 2


def glance(batch: Batch[Any], record: BatchRecord, subject: Subject) -> BatchView:
    """The first rows of a batch in hand."""
    arrays = {}
    for name, array in batch.arrays.items():
        rows = min(array.shape[0], _GLANCE_ROWS, max(1, _GLANCE_BYTES * array.shape[0] // max(1, array.nbytes)))
        arrays[name] = np.array(np.asarray(array)[:rows])
    return _view(batch, record, subject, arrays, source="the latest batch")


def view(batch: Batch[Any], record: BatchRecord, subject: Subject, *, source: str) -> BatchView:
    arrays = {name: np.array(array) for name, array in batch.arrays.items()}
    additional = {name: tuple(one_line(value) for value in values) for name, values in batch.additional.items()}
    return replace(
        _view(batch, record, subject, arrays, source=source),
        descriptors=tuple(one_line(item) for item in batch.data),
        additional=MappingProxyType(additional),
    )


def load_again(loader: Dataloader[Any], record: BatchRecord, subject: Subject) -> BatchView:
    """Load a batch a second time, in workers of its own: the same seeds give the same batch.

    Raises:
        LookupError: It fails now; the text says how.
    """
    start = subject.plan.start_of(record)
    end = start[0] * subject.plan.batches_per_epoch + start[1] + 1
    helpers = min(loader.loader_count, _MOST_HELPERS)
    changes: dict[str, Any] = {"start_at": start, "end_at": ("batch", end), "loader_count": helpers, "depth": 1}
    again = loader.replace(**changes, deterministic=True, monitor=False)
    wanted = (record.kind, record.batch_num)
    try:
        with again:
            for batch in again:
                if (batch.address.kind, batch.address.batch_num) == wanted:
                    return view(batch, record, subject, source="loaded again from its seeds")
    except HydraxError as error:
        raise LookupError(str(error)) from error
    raise LookupError(f"{record.title} did not come again")


def record_of(batch: Batch[Any], serial: int, wait_seconds: float) -> BatchRecord:
    """The line of the table for a batch in hand."""
    return BatchRecord.at(
        batch.address,
        serial,
        size=batch.size,
        seed=batch.seed if batch.is_training else None,  # type: ignore[attr-defined]  # a TrainingBatch then
        wait_seconds=wait_seconds,
        load_seconds=batch.load_seconds,
        cached=batch.from_cache,
    )


def _view(
    batch: Batch[Any], record: BatchRecord, subject: Subject, arrays: Mapping[str, npt.NDArray[Any]], *, source: str
) -> BatchView:
    return BatchView(
        record=record,
        arrays=MappingProxyType(dict(arrays)),
        infos=subject.plan.group(record).arrays,
        indices=batch.indices,
        seeds=batch.seeds if batch.is_training else None,  # type: ignore[attr-defined]  # a TrainingBatch then
        descriptors=(),
        source=source,
        command=subject.command_for(record),
    )
