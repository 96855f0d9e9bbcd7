"""What users need to test a loader without processes.

``load_item`` calls a loader for one item, as a worker would; ``check_loader`` looks for the mistakes that show only in
a long run: results that differ from call to call and, with ``zeroed=False``, elements left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.function import is_batched
from hydrax_core.data.group import DataGroup

__all__ = ["check_loader", "load_item"]


def load_item(
    loader_func: Callable[..., Any], group: DataGroup[Any], index: int, *, seed: int | None = 0, fill: int = 0
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Load one item of a group in the calling thread.

    Args:
        loader_func: The loader, also one marked ``batched``.
        group: The group; its ``loader_arrays`` say what is filled.
        index: Index of the item in the group's data.
        seed: What the loader gets as seed; ``None`` as in validation.
        fill: What each byte of the arrays holds before the call.

    Returns:
        The arrays by name, shaped as declared (without batch dimension), and the additional data.
    """
    batch = {
        name: np.ndarray(
            (1, *layout.shape[1:]), layout.numpy_dtype, bytearray([fill]) * (layout.nbytes // layout.shape[0])
        )
        for name, layout in group.loader_layouts.items()
    }
    item = group[index]
    if is_batched(loader_func):
        results = loader_func([item], MappingProxyType(batch), None if seed is None else [seed])
        additional = results[0] if results else None
    else:
        rows = MappingProxyType({name: array[0, ...] for name, array in batch.items()})
        additional = loader_func(item, rows, seed)
    return {name: array[0, ...] for name, array in batch.items()}, dict(additional or {})


def check_loader(
    loader_func: Callable[..., Any], group: DataGroup[Any], indices: Sequence[int] = (0,), *, seed: int | None = 0
) -> list[str]:
    """Load items twice, over different memory, and tell what is wrong; an empty list where nothing is.

    Args:
        loader_func: The loader.
        group: The group.
        indices: The items to try.
        seed: See ``load_item``.
    """
    findings = []
    for index in indices:
        first, additional = load_item(loader_func, group, index, seed=seed, fill=0x00)
        second, again = load_item(loader_func, group, index, seed=seed, fill=0xFF)
        third, _ = load_item(loader_func, group, index, seed=seed, fill=0x00)
        for name, array in first.items():
            if array.tobytes() != third[name].tobytes():
                findings.append(f"item {index}: {name!r} differs from call to call; use `seed` for randomness")
            elif not group.zeroed and array.tobytes() != second[name].tobytes():
                findings.append(
                    f"item {index}: {name!r} is not filled entirely; with zeroed=False the rest is old data"
                )
        if repr(additional) != repr(again):
            findings.append(f"item {index}: the additional data differ from call to call")
    return findings
