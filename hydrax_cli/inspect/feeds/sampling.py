"""Copies out of batches, for looking at them.

Promise: what is copied is independent of the loader's memory, and the lease on it ends with the call. A glance copies a
few rows, at most ``_GLANCE_BYTES`` an array.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hydrax_cli.inspect.texts import one_line
from hydrax_cli.inspect.values import ArrayInfo, BatchRecord, BatchView, GroupInfo, Subject
from hydrax_core.errors import HydraxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from hydrax_core import Batch, DataGroup, Dataloader

__all__ = ["describe", "device_of", "glance", "load_again", "record_of", "view"]

_GLANCE_BYTES = 2 << 20
_GLANCE_ROWS = 256
_MOST_HELPERS = 2


def describe(loader: Dataloader[Any], name: str, command: str, *, has_step: bool) -> Subject:
    """What is known of a loader before it runs."""
    training = [_group("training", index, group) for index, group in enumerate(loader.training)]
    validation = [_group("validation", index, group) for index, group in enumerate(loader.validation)]
    return Subject(
        target=name,
        command=command,
        groups=(*training, *validation),
        batches_per_epoch=loader.batches_per_epoch,
        batches_per_validation=loader.batches_per_validation,
        validation_interval=loader.validation_interval,
        first_batch=loader.first_batch,
        last_batch=loader.last_batch,
        kind=loader.loader_kind,
        has_step=has_step,
    )


def glance(batch: Batch[Any], record: BatchRecord, subject: Subject) -> BatchView:
    """The first rows of a batch in hand."""
    arrays = {}
    for name, array in batch.arrays.items():
        rows = min(array.shape[0], _GLANCE_ROWS, max(1, _GLANCE_BYTES * array.shape[0] // max(1, array.nbytes)))
        arrays[name] = np.array(np.asarray(array)[:rows])
    return _view(batch, record, subject, arrays, source="the latest batch")


def view(batch: Batch[Any], record: BatchRecord, subject: Subject, *, source: str) -> BatchView:
    """All of a batch in hand."""
    arrays = {name: np.array(array) for name, array in batch.arrays.items()}
    made = _view(batch, record, subject, arrays, source=source)
    additional = {name: tuple(one_line(value) for value in values) for name, values in batch.additional.items()}
    return BatchView(
        record=record,
        group=made.group,
        arrays=made.arrays,
        infos=made.infos,
        indices=made.indices,
        seeds=made.seeds,
        descriptors=tuple(one_line(item) for item in batch.data),
        additional=MappingProxyType(additional),
        source=made.source,
        command=made.command,
    )


def load_again(loader: Dataloader[Any], record: BatchRecord, subject: Subject) -> BatchView:
    """Load a batch a second time, in workers of its own: the same seeds give the same batch.

    Raises:
        LookupError: It fails now; the text says how.
    """
    start = subject.start_of(record)
    end = start[0] * subject.batches_per_epoch + start[1] + 1
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
    address = batch.address
    return BatchRecord(
        serial=serial,
        kind=address.kind,
        group=address.group_index,
        epoch=address.epoch,
        epoch_batch=address.epoch_batch,
        batch_num=address.batch_num,
        size=batch.size,
        seed=batch.seed if batch.is_training else None,  # type: ignore[attr-defined]  # a TrainingBatch then
        wait_seconds=wait_seconds,
        load_seconds=batch.load_seconds,
        cached=batch.from_cache,
    )


def device_of(batch: Batch[Any]) -> str:
    """Where a batch is placed, in words."""
    devices = {device for array in batch.arrays.values() for device in array.devices()}
    first = min(devices, key=lambda device: device.id)
    return f"{first.platform}:{first.id}" if len(devices) == 1 else f"{len(devices)} x {first.platform}"


def _view(
    batch: Batch[Any],
    record: BatchRecord,
    subject: Subject,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    source: str,
) -> BatchView:
    group = subject.group(record)
    return BatchView(
        record=record,
        group=group,
        arrays=MappingProxyType(dict(arrays)),
        infos=group.arrays,
        indices=batch.indices,
        seeds=batch.seeds if batch.is_training else None,  # type: ignore[attr-defined]  # a TrainingBatch then
        descriptors=(),
        source=source,
        command=subject.command_for(record),
    )


def _group(kind: str, index: int, group: DataGroup[Any]) -> GroupInfo:
    layouts = group.loader_layouts or group.cache_layouts
    return GroupInfo(
        kind=kind,
        index=index,
        items=len(group),
        batch_size=group.batch_size,
        batches=group.batch_count,
        seed=group.seed,
        arrays=tuple(
            ArrayInfo(
                name=name,
                shape=layout.shape,
                numpy_dtype=str(layout.numpy_dtype),
                jax_dtype=str(layout.jax_dtype),
                offset=layout.offset,
                bytes=layout.nbytes,
                is_label=name in group.labels,
            )
            for name, layout in layouts.items()
        ),
    )
