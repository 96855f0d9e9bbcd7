"""Arrays of rows of different lengths: the loader gives what it has, the batch has the padded array and the lengths.

Promise: behind the length of a row stands the padding and nothing else, whatever lay there before. A row without a
length, or longer than the array, or with a number that the array cannot hold, is an error that names the array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.function import is_batched, items_a_call
from hydrax_core.data.layout import ArraySpec, length_name

__all__ = ["RaggedLoader", "put"]


class RaggedLoader:
    """What loads rows of ragged arrays, from the user's loader.

    Args:
        loader_func: Fills the first elements of a ragged array and sets ``<name>_length``, or returns the elements
            under the array's name.
    """

    def __init__(self, loader_func: Callable[..., Any], specs: Mapping[str, ArraySpec], *, zeroed: bool) -> None:
        self._loader = loader_func
        self._pads = {name: spec.ragged.pad for name, spec in specs.items() if spec.ragged is not None}
        self._zeroed = zeroed
        self.__hydrax_batched__ = is_batched(loader_func) and items_a_call(loader_func)

    def __call__(self, items: Any, arrays: Mapping[str, npt.NDArray[Any]], seeds: Any) -> Any:
        for name in self._pads:
            arrays[length_name(name)][...] = -1
        results = self._loader(items, arrays, seeds)
        if not self.__hydrax_batched__:
            return self._finish(results, arrays)
        if results is not None and (not isinstance(results, list | tuple) or len(results) != len(items)):
            return results  # which is refused where it arrives
        rows = [{name: array[row, ...] for name, array in arrays.items()} for row in range(len(items))]
        finished = [self._finish(result, row) for result, row in zip(results or [None] * len(rows), rows, strict=True)]
        return finished if any(result is not None for result in finished) else None

    def _finish(self, result: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Pad the arrays of a row; what is left of the result of the loader."""
        if result is not None and not isinstance(result, Mapping):
            return result  # as above
        rest = dict(result or {})
        for name, pad in self._pads.items():
            array, length = arrays[name], arrays[length_name(name)]
            if rest.get(name) is not None:
                values = np.asarray(rest.pop(name))
                if len(values) <= len(array):
                    put(repr(name), array[: len(values)], values)
                length[...] = len(values)
            count = int(length)
            if count < 0:
                raise ValueError(
                    f"{name!r} has no length: set arrays[{length_name(name)!r}][...] to the elements filled, "
                    f"or return {{{name!r}: elements}}"
                )
            if count > len(array):
                raise ValueError(f"{name!r} has {count} elements, its Ragged(max={len(array)}) has room for no more")
            if pad or not self._zeroed:
                array[count:] = pad
        return rest or None


def put(where: str, target: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    if target.shape != values.shape:
        raise ValueError(f"{where}: expected the shape {target.shape[1:]}, got {values.shape[1:]}")
    if values.dtype.kind == "c" and target.dtype.kind in "biuf":
        turned = values[values.imag != 0]
        if turned.size:
            raise OverflowError(f"{where}: {turned[0].item()!r} does not fit into {target.dtype}")
        values = values.real
    with np.errstate(invalid="ignore", over="ignore"):
        target[...] = values
    if target.dtype == values.dtype or np.can_cast(values.dtype, target.dtype, "safe"):
        return
    if target.dtype.kind in "biu":
        wrong = target != values
    elif target.dtype.kind in "fc" and values.dtype.kind in "iufc":
        wrong = ~np.isfinite(target)
        wrong = wrong & np.isfinite(values) if wrong.any() else wrong
    else:
        return
    if np.any(wrong):
        raise OverflowError(f"{where}: {values[wrong].flat[0].item()!r} does not fit into {target.dtype}")
