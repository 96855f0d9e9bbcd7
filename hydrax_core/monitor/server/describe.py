"""A loader's arguments and a batch's rows as the plain values that are sent."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import Layouts, block_size
from hydrax_core.monitor import Watched
from hydrax_core.monitor.protocol.messages import About, ArrayPlan, GroupPlan, Kind, Record, Sample
from hydrax_core.monitor.tap import Copied, Seen

__all__ = ["about", "command_line", "program", "record", "sample", "sizes"]

_LONGEST_TEXT = 300
_MOST_TEXTS = 1024
_LONGEST_COMMAND = 500


def program() -> str:
    """What the program is called: the name of its script."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python"
    return "notebook" if name == "ipykernel_launcher.py" else name


def command_line() -> str:
    """How the program was called."""
    return shlex.join(sys.argv)[:_LONGEST_COMMAND]


def about(watched: Watched) -> About:
    """What is known of a loader before it runs."""
    training = [_group("training", index, group) for index, group in enumerate(watched.training)]
    validation = [_group("validation", index, group) for index, group in enumerate(watched.validation)]
    return About(
        groups=(*training, *validation),
        batches_per_epoch=watched.batches_per_epoch,
        batches_per_validation=watched.batches_per_validation,
        validation_interval=watched.validation_interval,
        first_batch=watched.first_batch,
        last_batch=watched.last_batch,
        workers_are=watched.loader_kind,
        places_itself=watched.places_itself,
    )


def sizes(watched: Watched) -> tuple[int, int]:
    """Bytes of the largest batch, and of the largest row, of any group in whichever layout."""
    groups = (*watched.training, *watched.validation)
    found = [
        (block_size(layouts), group.batch_size)
        for group in groups
        for layouts in (group.loader_layouts, group.cache_layouts)
    ]
    return max(size for size, _ in found), max(-(-size // rows) for size, rows in found)


def record(seen: Seen) -> Record:
    """A batch that was handed out or failed."""
    address = seen.address
    training = address.kind == "training"
    return Record(
        serial=seen.serial,
        kind="training" if training else "validation",
        group=address.group_index,
        epoch=address.epoch,
        epoch_batch=address.epoch_batch,
        batch_num=address.batch_num,
        size=seen.size,
        seed=seen.seed if training and not seen.error else None,
        wait_seconds=seen.wait_seconds,
        load_seconds=seen.load_seconds,
        cached=seen.cached,
        error=seen.error,
    )


def sample(copied: Copied, watched: Watched) -> Sample:
    """Rows that were copied, with what they are."""
    group = (*watched.training, *watched.validation)[copied.group]
    indices = tuple(int(index) for index in copied.indices)
    return Sample(
        record=record(copied.seen),
        rows=copied.rows,
        in_cached_layout=copied.in_cached_layout,
        indices=indices,
        seeds=None if copied.seeds is None else tuple(int(seed) for seed in copied.seeds),
        descriptors=_descriptors(group, indices),
        additional=tuple(
            (name, tuple(text(value) for value in values[:_MOST_TEXTS])) for name, values in copied.additional.items()
        ),
        arrays=copied.arrays,
    )


def _descriptors(group: DataGroup[Any], indices: Sequence[int]) -> tuple[str, ...]:
    """Only of data that is surely fine with being read by one more thread."""
    data = group.items
    if not isinstance(data, list | tuple | range):
        return ()
    return tuple(text(data[index]) for index in indices[:_MOST_TEXTS])


def text(value: Any) -> str:
    """A value in one line of bounded length."""
    if value is None:
        return ""
    try:
        found = value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001  a broken repr is no reason to show nothing
        found = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    found = " ".join(found[: 4 * _LONGEST_TEXT].split())
    return found if len(found) <= _LONGEST_TEXT else f"{found[: _LONGEST_TEXT - 1]}…"


def _group(kind: Kind, index: int, group: DataGroup[Any]) -> GroupPlan:
    return GroupPlan(
        kind=kind,
        index=index,
        items=len(group),
        batch_size=group.batch_size,
        batches=group.batch_count,
        seed=group.seed,
        loaded=_arrays(group.loader_layouts, group),
        cached=_arrays(group.cache_layouts, group),
    )


def _arrays(layouts: Layouts, group: DataGroup[Any]) -> tuple[ArrayPlan, ...]:
    return tuple(
        ArrayPlan(
            name=name,
            shape=layout.shape,
            numpy_dtype=str(layout.numpy_dtype),
            jax_dtype=str(layout.jax_dtype),
            offset=layout.offset,
            bytes=layout.nbytes,
            is_label=name in group.labels,
        )
        for name, layout in layouts.items()
    )
