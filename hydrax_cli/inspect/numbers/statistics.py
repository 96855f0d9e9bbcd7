"""What the values of an array look like, in numbers and in warnings.

Promise: exact over the values looked at; of an array with more than ``MOST_VALUES`` the first rows are looked at, which
is said. The caller leaves padding rows out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MOST_VALUES", "ArrayStats", "array_stats", "as_numbers", "shares", "uncounted"]

MOST_VALUES = 1 << 24
_BINS = 48
_MOST_NAMED_ROWS = 3
_LARGE_FLOAT = 1000.0
_HALF_OF_RANGE = 0.5
_SMALL_EXPONENTS = frozenset({"float16"})
_BYTE = 255
_FEW_LEVELS = 16
_SMALLEST_ROW = 4
_LARGEST_SQUARE = 1e100


@dataclass(frozen=True, slots=True)
class ArrayStats:
    """One array in numbers; minimum, maximum, mean and deviation are those of its finite values.

    Attributes:
        values: How many values were looked at.
        partial: Whether there are more.
        minimum: Smallest; ``None`` where no value is finite, as for the next three.
        std: Standard deviation, of the whole population.
        histogram: Counts of equally wide bins from minimum to maximum; one bin a value where all are whole and near.
        warnings: What a person would want to know.
    """

    values: int
    partial: bool
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    nans: int
    infs: int
    histogram: tuple[int, ...]
    warnings: tuple[str, ...]


def array_stats(array: npt.NDArray[Any]) -> ArrayStats:
    rows = len(array)
    row_size = max(1, array.size // max(1, rows))
    looked = max(1, min(rows, MOST_VALUES // row_size))
    numbers = as_numbers(array[:looked])
    nans, infs, finite = 0, 0, numbers.reshape(-1)
    if numbers.dtype.kind == "f":
        is_finite = np.isfinite(finite)
        if not is_finite.all():
            nans = int(np.isnan(finite).sum())
            infs = int(finite.size - is_finite.sum() - nans)
            finite = finite[is_finite]
    warnings = [
        *_bad_values(nans, infs),
        *_odd_range(array.dtype, finite, row_size),
        *_odd_rows(numbers, row_size, rows),
    ]
    if not finite.size:
        return ArrayStats(int(numbers.size), looked < rows, None, None, None, None, nans, infs, (), tuple(warnings))
    mean, std = _moments(finite)
    return ArrayStats(
        values=int(numbers.size),
        partial=looked < rows,
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        mean=mean,
        std=std,
        nans=nans,
        infs=infs,
        histogram=_histogram(finite),
        warnings=tuple(warnings),
    )


def uncounted(why: str) -> ArrayStats:
    return ArrayStats(0, False, None, None, None, None, 0, 0, (), (why,))


def as_numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in a dtype that NumPy calculates with: bool as uint8, complex as magnitude, bfloat16 as float32."""
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind == "c":
        magnitude: npt.NDArray[Any] = np.abs(array)
        return magnitude
    if array.dtype.kind not in "iuf":
        return array.astype(np.float32)
    return array


def _histogram(finite: npt.NDArray[Any]) -> tuple[int, ...]:
    low, high = finite.min(), finite.max()
    if low == high:
        return (int(finite.size),)
    width = int(high) - int(low) + 1
    if width <= _BINS and (finite.dtype.kind in "iu" or bool((finite == np.rint(finite)).all())):
        return tuple(int(n) for n in np.bincount((finite - low).astype(np.int64), minlength=width))
    places = (_BINS * shares(finite, float(low), float(high))).astype(np.int64)
    return tuple(int(n) for n in np.bincount(np.minimum(places, _BINS - 1), minlength=_BINS))


def shares(numbers: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float64]:
    """Where numbers lie between two bounds, 0 to 1; exact enough also where the distance of the bounds overflows."""
    wide = numbers.astype(np.float64)
    span = high - low
    if np.isinf(span):
        return shares(wide / 2, low / 2, high / 2)
    shifted: npt.NDArray[np.float64] = (wide - low) / span if span else np.zeros_like(wide)
    return shifted


def _moments(finite: npt.NDArray[Any]) -> tuple[float, float]:
    """Mean and deviation, without the overflow of squares."""
    largest = max(abs(float(finite.min())), abs(float(finite.max())))
    factor = largest if largest > _LARGEST_SQUARE else 1.0
    wide = finite.astype(np.float64) / factor if factor > 1 else finite
    return float(wide.mean(dtype=np.float64)) * factor, float(wide.std(dtype=np.float64)) * factor


def _bad_values(nans: int, infs: int) -> list[str]:
    return [f"{count:,} {name}" for count, name in ((nans, "NaN"), (infs, "Inf")) if count]


def _odd_range(dtype: np.dtype[Any], finite: npt.NDArray[Any], row_size: int) -> list[str]:
    if not finite.size:
        return ["no value is finite"]
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        same = "all zeros" if low == 0 else f"constant: every value is {low:g}"
        return [same] if finite.size > 1 else []
    if finite.dtype.kind == "f":
        return _odd_floats(dtype, finite, low, high, is_scalar=row_size == 1)
    if dtype == np.uint8 and row_size >= _SMALLEST_ROW and high <= 1:
        return ["only 0 and 1 in uint8: a mask, or scaled before the conversion?"]
    return []


def _odd_floats(
    dtype: np.dtype[Any], finite: npt.NDArray[Any], low: float, high: float, *, is_scalar: bool
) -> list[str]:
    largest = max(abs(low), abs(high))
    if dtype.name in _SMALL_EXPONENTS and largest > _HALF_OF_RANGE * float(np.finfo(dtype).max):
        return [f"{largest:g} is close to the largest {dtype.name}, {float(np.finfo(dtype).max):g}"]
    if largest > _LARGE_FLOAT:
        return [f"values up to {largest:g}: not normalised?"]
    is_bytes = low >= 0 and _FEW_LEVELS < high <= _BYTE and not is_scalar
    if is_bytes and bool((finite == np.rint(finite)).all()):
        return [f"whole numbers up to {high:g} in {dtype.name}: bytes, not scaled?"]
    return []


def _odd_rows(numbers: npt.NDArray[Any], row_size: int, rows: int) -> list[str]:
    """Rows left unfilled, and rows that equal the row before; rows of a few values may well be equal."""
    if rows < 2 or row_size < _SMALLEST_ROW:  # noqa: PLR2004  a neighbour
        return []
    flat = numbers.reshape(len(numbers), -1)
    zero = np.equal(flat, 0).all(axis=1)
    if zero.all():
        return []
    found = []
    if zero.any():
        found.append(f"{_named(np.flatnonzero(zero))} all zeros")
    same = np.equal(flat[1:], flat[:-1]).all(axis=1)
    equal = np.flatnonzero(same & ~zero[1:])
    if equal.size:
        pairs = ", ".join(f"{row} and {row + 1}" for row in equal[:_MOST_NAMED_ROWS])
        found.append(f"equal rows: {pairs}{_and_more(equal.size)}")
    return found


def _named(rows: npt.NDArray[np.intp]) -> str:
    names = ", ".join(str(row) for row in rows[:_MOST_NAMED_ROWS])
    return f"row {names} is" if rows.size == 1 else f"rows {names}{_and_more(rows.size)} are"


def _and_more(count: int) -> str:
    return f" and {count - _MOST_NAMED_ROWS} more" if count > _MOST_NAMED_ROWS else ""
