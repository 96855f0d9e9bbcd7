"""Shapes, dtypes and offsets of the arrays of one batch in one block of memory.

Promise: every array starts at a multiple of 64 bytes from the start of the block, which lets the CPU backend of jax
alias it without a copy; so does each of the parts that go to different devices, whatever the size of a row. A layout
depends on the declared arrays, the batch size and these parts alone.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import integer

__all__ = [
    "ALIGNMENT",
    "WHOLE",
    "ArrayLayout",
    "ArraySpec",
    "Layouts",
    "Parts",
    "Ragged",
    "array_layouts",
    "array_specs",
    "block_size",
    "clear_rows",
    "joined",
    "length_name",
    "resized",
    "row_at",
    "shifted",
    "views",
]

ALIGNMENT = 64
"""Bytes; jax's CPU backend copies an array that starts elsewhere than at a multiple of this (measured, jax 0.10)."""

_SPEC_FORM = "(shape without batch, numpy dtype[, jax dtype])"
_SPEC_LENGTHS = (2, 3)


@dataclass(frozen=True, slots=True)
class Ragged:
    """The first dimension of an array whose rows have different lengths, ``("tokens", (Ragged(512), 80), "float32")``.

    The batch has the array with that dimension at its greatest, and beside it ``<name>_length``, int32.

    Attributes:
        max: The greatest length; ``None`` only where ``pack``, ``concat`` or ``buckets`` give it.
        pad: What the elements behind a row's length hold.
        multiple: Have the dimension of a batch at the multiple of this which is enough for its longest row, and at most
            ``max``: as many shapes as there are multiples, each of which jax compiles. ``None``: always at ``max``.
    """

    max: int | None = None
    pad: float = 0
    multiple: int | None = None

    def resized(self, length: int) -> Ragged:
        """The same with another greatest length."""
        return Ragged(length, self.pad, self.multiple)


class ArraySpec(NamedTuple):
    """One declared array: the shape of one item and the dtypes on both sides; for ``ragged`` see ``Ragged``."""

    shape: tuple[int, ...]
    numpy_dtype: np.dtype[Any]
    jax_dtype: np.dtype[Any]
    ragged: Ragged | None = None


class ArrayLayout(NamedTuple):
    """Where an array of a batch lies.

    Attributes:
        shape: Shape with the leading batch dimension.
        numpy_dtype: Dtype in the loader's memory.
        jax_dtype: Dtype of the jax array.
        offset: First byte within the batch's block of memory, a multiple of 64.
        size: Number of elements.
    """

    shape: tuple[int, ...]
    numpy_dtype: np.dtype[Any]
    jax_dtype: np.dtype[Any]
    offset: int
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take, without padding."""
        return self.size * self.numpy_dtype.itemsize


Layouts: TypeAlias = Mapping[str, ArrayLayout]


def array_specs(argument: str, arrays: Mapping[str, Any]) -> Mapping[str, ArraySpec]:
    """Validate a declaration ``name -> (shape, numpy dtype[, jax dtype])``.

    Args:
        argument: Name of the user's argument, for the error texts.

    Raises:
        TypeError: Something has the wrong type; the text names the array.
        ValueError: A dimension is not positive, a dtype is not numeric, or nothing is declared.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{argument}: expected a dict of name -> {_SPEC_FORM}, got {type(arrays).__name__}")
    if not arrays:
        raise ValueError(f"{argument}: no array is declared; expected at least one name -> {_SPEC_FORM}")
    specs: dict[str, ArraySpec] = {}
    for name, given in arrays.items():
        spec = specs[_name(argument, name)] = _spec(f"{argument}[{name!r}]", given)
        if spec.ragged is not None and length_name(name) not in arrays:
            specs[length_name(name)] = ArraySpec((), np.dtype(np.int32), np.dtype(np.int32))
    for name in (name for name, spec in specs.items() if spec.ragged is not None):
        shape, numpy_dtype, jax_dtype, _ = specs[length_name(name)]
        if shape or (numpy_dtype, jax_dtype) != (np.dtype(np.int32), np.dtype(np.int32)):
            raise ValueError(
                f"{argument}[{length_name(name)!r}]: it has the lengths of the ragged {name!r}, so it is "
                f"((), 'int32'), which you may leave out; got {arrays[length_name(name)]!r}; or rename one"
            )
    return MappingProxyType(specs)


def length_name(name: str) -> str:
    return f"{name}_length"


def _name(argument: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{argument}: array names are non-empty strings, got {name!r}")
    return name


def _spec(where: str, spec: Any) -> ArraySpec:
    if isinstance(spec, ArraySpec):
        return spec
    if not isinstance(spec, tuple | list) or len(spec) not in _SPEC_LENGTHS:
        raise TypeError(f"{where}: expected {_SPEC_FORM}, got {spec!r}")
    shape = spec[0]
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{where}: the shape is a tuple of ints, got {shape!r}; a scalar an item has the shape ()")
    ragged = _ragged(where, shape)
    if ragged is not None:
        shape = (ragged.max or 1, *shape[1:])
    for dim in shape:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
            raise TypeError(f"{where}: the shape is a tuple of ints, got {shape!r}")
        if dim <= 0:
            raise ValueError(f"{where}: every dimension is at least 1, got {shape!r}")
    numpy_dtype = _dtype(where, spec[1])
    jax_dtype = _dtype(where, spec[2]) if len(spec) == max(_SPEC_LENGTHS) else numpy_dtype
    if ragged is not None and np.asarray(ragged.pad).astype(numpy_dtype) != ragged.pad:
        raise ValueError(f"{where}: {numpy_dtype} cannot hold the padding {ragged.pad!r}")
    return ArraySpec(tuple(int(dim) for dim in shape), numpy_dtype, jax_dtype, ragged)


def _ragged(where: str, shape: tuple[Any, ...] | list[Any]) -> Ragged | None:
    first = shape[0] if shape else None
    if not isinstance(first, Ragged):
        return None
    for name in ("max", "multiple"):
        if getattr(first, name) is not None:
            integer(f"{where}: Ragged({name})", getattr(first, name), 1)
    return first


def _dtype(where: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
    if dtype is None:
        raise TypeError(f"{where}: a dtype is missing, got None")
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = _extended_dtype(where, dtype)
    if found.hasobject or found.names is not None or found.subdtype is not None or found.kind in "SUMm":
        raise ValueError(f"{where}: jax has no dtype {found}; expected a bool, integer, float or complex dtype")
    if found.kind == "V" and not _is_extended(found):
        raise ValueError(f"{where}: jax has no dtype {found}; expected a bool, integer, float or complex dtype")
    if not found.isnative:
        raise ValueError(f"{where}: the dtype {found!r} has foreign byte order; use {found.newbyteorder('=')!r}")
    return found


def _extended_dtype(where: str, dtype: Any) -> np.dtype[Any]:
    """A dtype that NumPy does not know by name, such as ``"bfloat16"``."""
    import ml_dtypes  # noqa: PLC0415  only such a dtype pays for it

    kind = getattr(ml_dtypes, dtype, None) if isinstance(dtype, str) else None
    if kind is None:
        raise TypeError(f"{where}: {dtype!r} is no dtype that NumPy or ml_dtypes know")
    found: np.dtype[Any] = np.dtype(kind)
    return found


def _is_extended(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__.partition(".")[0] == "ml_dtypes"


Parts: TypeAlias = Mapping[str, int]
"""Into how many equal runs of rows an array is cut, each of which starts at a multiple of 64 bytes. Those are named of
which a part has another size, and no others."""
WHOLE: Parts = MappingProxyType({})


def array_layouts(batch_size: int, specs: Mapping[str, ArraySpec], parts: Parts = WHOLE) -> Layouts:
    """Lay the arrays of a batch one after the other, each, and each of its parts, at a multiple of 64 bytes."""
    layouts: dict[str, ArrayLayout] = {}
    offset = 0
    for name, spec in specs.items():
        shape = (batch_size, *spec.shape)
        layouts[name] = ArrayLayout(shape, spec.numpy_dtype, spec.jax_dtype, offset, math.prod(shape))
        offset += _span(layouts[name], parts.get(name, 1))
    return MappingProxyType(layouts)


def _span(layout: ArrayLayout, parts: int) -> int:
    return parts * aligned(layout.nbytes // parts)


def resized(layouts: Layouts, rows: int, parts: Parts = WHOLE) -> Layouts:
    """Layouts of batches with another number of rows, or in parts."""
    specs = {name: ArraySpec(layout.shape[1:], *layout[1:3]) for name, layout in layouts.items()}
    return array_layouts(rows, specs, parts)


def shifted(layouts: Layouts, offset: int) -> Layouts:
    """Layouts of arrays that begin at ``offset``, a multiple of 64, of their block."""
    return {name: layout._replace(offset=layout.offset + offset) for name, layout in layouts.items()}


def block_size(layouts: Layouts, parts: Parts = WHOLE) -> int:
    """Bytes of the block that holds all arrays, the last one's padding included."""
    return max((layout.offset + _span(layout, parts.get(name, 1)) for name, layout in layouts.items()), default=0)


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def views(buffer: Any, layouts: Layouts, start: int = 0, parts: Parts = WHOLE) -> dict[str, npt.NDArray[Any]]:
    """NumPy arrays over the block that starts at byte ``start`` of ``buffer``; nothing is copied.

    They have the shape ``layout.shape``, and are contiguous; of one in parts, the first dimension is two, (part, row of
    the part), and it is not.
    """
    return {name: _view(buffer, start, layout, parts.get(name, 1)) for name, layout in layouts.items()}


def _view(buffer: Any, start: int, layout: ArrayLayout, parts: int) -> npt.NDArray[Any]:
    dtype, shape = layout.numpy_dtype, layout.shape
    if parts == 1:
        return np.ndarray(shape, dtype, buffer, start + layout.offset)
    inner = list(itertools.accumulate(reversed(shape[1:]), operator.mul, initial=dtype.itemsize))
    strides = (aligned(layout.nbytes // parts), *reversed(inner))
    return np.ndarray((parts, shape[0] // parts, *shape[1:]), dtype, buffer, start + layout.offset, strides)


def row_at(array: npt.NDArray[Any], row: int) -> Any:
    """What a view of an array has at the index of a row: a view, of a single element too."""
    return array[row, ...] if array.flags.c_contiguous else array[(*divmod(row, array.shape[1]), ...)]


def clear_rows(array: npt.NDArray[Any], first: int, end: int) -> None:
    """Set rows of the view of an array to zero."""
    if array.flags.c_contiguous:
        array[first:end] = 0
    else:
        for row in range(first, end):
            row_at(array, row)[...] = 0


def joined(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The view of an array with one row an index; a copy where it is in parts."""
    return array if array.flags.c_contiguous else array.reshape(-1, *array.shape[2:])
