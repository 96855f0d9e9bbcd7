"""The length of each item of a group: given, known by the data, or measured in one pass that is kept.

Promise: what is kept is used only for the data and the function, its code included, that it was measured of.
"""

from __future__ import annotations

import contextlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hydrax_core.data.checks import call
from hydrax_core.data.code_digest import code_digests
from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.group import DataGroup
from hydrax_core.data.logger import logger
from hydrax_core.data.rows import value_digest
from hydrax_core.plan.packing import Lengths, checked_lengths

__all__ = ["NO_RAGGED", "Progress", "lengths_of"]

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the items measured so far, and all."""
_PROGRESS_SECONDS = 0.1

NO_RAGGED = (
    "group: it has no ragged array; declare one: loader_arrays={'ids': ((Ragged(),), 'int32')}, or for a source "
    "hugging_face(data, {'ids': ((Ragged(),), 'int32')})"
)


def lengths_of(
    group: DataGroup[Any],
    lengths: Any,
    kept: str | os.PathLike[str] | None,
    progress: Progress | None,
    location: str | os.PathLike[str] | None,
) -> Lengths:
    """The lengths of a group's items.

    Args:
        lengths: One number for each item; a function of an item; or ``None`` for ``lengths()`` of the group's data.
        kept: File where what a function measured is kept, ``.npz``.
        progress: Called while it measures.
        location: The cache of what is made; without ``kept``, lengths are kept beside it.

    Raises:
        TypeError: They are no whole numbers, or there is nothing that gives them.
        ValueError: They are not one for each item, or negative.
    """
    if lengths is None:
        lengths = getattr(group.items, "lengths", None)
        if not callable(lengths):
            raise TypeError(
                f"lengths: a {type(group.items).__name__} does not tell the lengths of its items (by lengths()); "
                "give one number for each item, or a function of an item"
            )
        lengths = lengths()
    elif callable(lengths):
        if progress is not None:
            call("progress", progress, 2, "(measured, items)")
        if kept is None and location is not None:
            kept = Path(location).with_name(f"{Path(location).name}-lengths.npz")
        lengths = _measured(group, lengths, None if kept is None else Path(kept), progress)
    found = checked_lengths("lengths", lengths)
    if len(found) != len(group):
        raise ValueError(f"lengths: expected {len(group)}, one for each item, got {len(found)}")
    return found


def _measured(
    group: DataGroup[Any], function: Callable[[Any], int], kept: Path | None, progress: Progress | None
) -> Any:
    if kept is None:
        return list(_each(group, function, progress))
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    digest = value_digest(data_digest(group.items), name, code_digests(function))
    try:
        with np.load(kept) as saved:
            if saved["digest"] == digest:
                return saved["lengths"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not what it was: measured again
    lengths = checked_lengths("lengths", list(_each(group, function, progress)))
    unfinished = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, lengths=lengths, digest=digest)
        unfinished.replace(kept)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        logger.warning("%s: the lengths are not kept, and will be measured again: %s", kept, error.strerror)
    return lengths


def _each(group: DataGroup[Any], function: Callable[[Any], int], progress: Progress | None) -> Iterator[int]:
    """The length of each item, and how many of them are measured."""
    shown = 0.0
    for number, item in enumerate(group):
        if progress is not None and time.monotonic() - shown >= _PROGRESS_SECONDS:
            progress(number, len(group))
            shown = time.monotonic()
        yield function(item)
    if progress is not None:
        progress(len(group), len(group))
