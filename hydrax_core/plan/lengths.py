"""The length of each item of a group: given, known by the data, or measured in one pass that is kept.

Promise: what is kept is used only for the data and the function that it was measured of.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.group import DataGroup
from hydrax_core.data.rows import value_digest
from hydrax_core.plan.packing import Lengths, checked_lengths

__all__ = ["NO_RAGGED", "lengths_of"]

NO_RAGGED = (
    "group: it has no ragged array; declare one: loader_arrays={'ids': ((Ragged(),), 'int32')}, or for a source "
    "hugging_face(data, {'ids': ((Ragged(),), 'int32')})"
)


def lengths_of(group: DataGroup[Any], lengths: Any, kept: str | os.PathLike[str] | None) -> Lengths:
    """The lengths of a group's items.

    Args:
        lengths: One number for each item; a function of an item; or ``None`` for ``lengths()`` of the group's data.
        kept: File where what a function measured is kept, ``.npz``.

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
        lengths = _measured(group, lengths, None if kept is None else Path(kept))
    found = checked_lengths("lengths", lengths)
    if len(found) != len(group):
        raise ValueError(f"lengths: expected {len(group)}, one for each item, got {len(found)}")
    return found


def _measured(group: DataGroup[Any], function: Callable[[Any], int], kept: Path | None) -> Any:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    if kept is None:
        return [function(item) for item in group]
    digest = value_digest(data_digest(group.items), name)
    try:
        with np.load(kept) as saved:
            if saved["digest"] == digest:
                return saved["lengths"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not what it was: measured again
    lengths = np.array([function(item) for item in group], np.int64)
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.savez(file, lengths=lengths, digest=digest)
    unfinished.replace(kept)
    return lengths
