"""The program and a batch's rows as the plain values that are sent."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import block_size
from hydrax_core.monitor.protocol.messages import Sample
from hydrax_core.monitor.run import one_line
from hydrax_core.monitor.tap import Copied

__all__ = ["command_line", "program", "sample", "sizes"]

_MOST_TEXTS = 1024
_LONGEST_COMMAND = 500


def program() -> str:
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python"
    return "notebook" if name == "ipykernel_launcher.py" else name


def command_line() -> str:
    return shlex.join(sys.argv)[:_LONGEST_COMMAND]


def sizes(groups: Sequence[DataGroup[Any]]) -> tuple[int, int]:
    """Bytes of the largest batch, and of the largest row, of any group in whichever layout."""
    found = [(block_size(layouts), group.batch_size) for group in groups for layouts in group.batch_layouts]
    return max(size for size, _ in found), max(-(-size // rows) for size, rows in found)


def sample(copied: Copied, group: DataGroup[Any]) -> Sample:
    indices = tuple(int(index) for index in copied.indices)
    return Sample(
        record=copied.record,
        rows=copied.rows,
        in_cached_layout=copied.in_cached_layout,
        indices=indices,
        seeds=None if copied.seeds is None else tuple(int(seed) for seed in copied.seeds),
        descriptors=_descriptors(group, indices),
        additional=tuple(
            (one_line(name), tuple(one_line(value) for value in values[:_MOST_TEXTS]))
            for name, values in copied.additional.items()
        ),
        arrays=copied.arrays,
    )


def _descriptors(group: DataGroup[Any], indices: Sequence[int]) -> tuple[str, ...]:
    """Only of data that is surely fine with being read by one more thread."""
    data = group.items
    if not isinstance(data, list | tuple | range):
        return ()
    return tuple(one_line(data[index]) for index in indices[:_MOST_TEXTS])
