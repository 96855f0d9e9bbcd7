"""Records (dicts of values by name) as arrays: which columns there are, and how they fill a batch.

Promise: shapes and dtypes are found in ``SAMPLED`` records, spread evenly, and can be given instead. Later values that
do not fit fail their item, by column; nothing is wrapped, cut off or guessed. Only text that becomes bytes is cut, to
the length that was asked for. A missing number is NaN where the column is of floats, else it fails its item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec
from hydrax_core.errors import shorten
from hydrax_core.sources.common import Arrays, Columns, Found, choose, narrow, put

__all__ = ["SAMPLED", "Chosen", "choose_columns", "fill_columns", "sampled", "text_number"]

SAMPLED = 400
_SUFFIX = "_length"
_TRUTHS = {"true": True, "false": False}

Record = Mapping[str, Any]
Chosen = tuple[Mapping[str, ArraySpec], tuple[str, ...], Mapping[str, str]]
"""The arrays, the names of the additional columns, and what is left out, with the reason."""


def sampled(size: int) -> list[int]:
    """Which of ``size`` records to look at: the first, and others spread evenly."""
    half = SAMPLED // 2
    spread = np.linspace(0, size - 1, half).astype(np.int64).tolist() if size else []
    return sorted({*range(min(size, half)), *spread})


def choose_columns(
    records: Sequence[Record],
    columns: Columns,
    additional: Iterable[str],
    length: int,
    parse: Callable[[str], Any] | None = None,
    given: Found = MappingProxyType({}),
) -> Chosen:
    """The arrays that records fill, by some of them.

    Args:
        records: Some of them.
        columns: As in ``common.choose``; ``None`` for all of numbers, and where there are none for all of text.
        additional: Names of the columns that go to the additional data.
        length: Bytes kept of a text.
        parse: Turns a text into a number where it is one.
        given: What is known of other columns, which are in no record.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A column is not there or no array can hold it; or there is none that one can.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    values = {name: [record.get(name) for record in records] for name in names}
    if parse is not None:
        values = {name: _parsed(column, parse) for name, column in values.items()}
    found = {**{name: _kind(column, length) for name, column in values.items()}, **given}
    texts = {name for name in names if isinstance(found[name], ArraySpec) and _is_text(values[name])}
    more = tuple(additional) if not isinstance(additional, str) else additional
    if columns is None and any(isinstance(found[name], ArraySpec) for name in found if name not in texts | set(more)):
        found.update(dict.fromkeys(texts, "text; name it in columns for its bytes, or in additional"))
    specs, texts_too, left_out = choose("columns", found, columns, more)
    arrays: dict[str, ArraySpec] = {}
    for name, spec in specs.items():
        arrays[name] = spec
        if len(spec.shape) == 1 and any(_is_padded(value, spec.shape) for value in values.get(name, ())):
            arrays[name + _SUFFIX] = ArraySpec((), np.dtype(np.int32), np.dtype(np.int32))
    return arrays, texts_too, left_out


def fill_columns(
    records: Sequence[Record], arrays: Arrays, where: str = "", parse: Callable[[str], Any] | None = None
) -> None:
    """Fill every element of arrays by the columns of records; ``<name>_length`` has the lengths of a padded one.

    Raises:
        TypeError: A value is missing or of another type than its column.
        OverflowError: A number does not fit into its dtype.
        ValueError: A list is too long, or of another shape.
    """
    for name, target in arrays.items():
        if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in arrays:
            continue
        values = [record.get(name) for record in records]
        told = f"{where}{name!r}"
        if target.ndim == 1:
            put(told, target, _numbers(told, values, target.dtype, parse))
            continue
        lengths = arrays.get(name + _SUFFIX)
        if lengths is None and (many := _stacked(values, target)) is not None:
            put(told, target, many)
            continue
        for row, value in enumerate(values):
            filled = _fill(told, target[row], value, padded=lengths is not None)
            if lengths is not None:
                lengths[row] = filled


def _stacked(values: list[Any], target: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """All rows as one array, where they are plain; what is not is looked at row by row, to say what is wrong."""
    try:
        many = np.array(values)
    except ValueError:
        return None
    plain = many.shape == target.shape and many.dtype.kind in "biufc"
    return many if plain and not (target.dtype.kind in "biu" and many.dtype.kind in "fc") else None


def text_number(text: str) -> int | float | bool | str | None:
    """The number or truth that a text is; ``None`` for an empty one; the text itself where it is none."""
    text = text.strip()
    if not text:
        return None
    for kind in (int, float) if "_" not in text else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return _TRUTHS.get(text.lower(), text)


def _fill(told: str, target: npt.NDArray[Any], value: Any, *, padded: bool) -> int:
    if isinstance(value, str) and target.dtype == np.uint8:
        given = np.frombuffer(value.encode("utf-8", "surrogatepass")[: target.shape[0]], np.uint8)
    elif value is None:
        raise TypeError(f"{told} is missing")
    else:
        given = np.asarray(value)
        if given.dtype.kind not in "biufc" or (target.dtype.kind in "biu" and given.dtype.kind in "fc" and given.size):
            raise TypeError(f"{told} holds {shorten(value, 60)}, which {target.dtype} cannot hold")
    if not padded:
        put(told, target[None], given[None])
        return 0
    length = given.shape[0] if given.ndim == 1 else 0
    if given.ndim != 1 or length > target.shape[0]:
        raise ValueError(
            f"{told} has the shape {given.shape}, its array {target.shape}; give columns with (shape, dtype)"
        )
    put(told, target[:length], given if length else target[:0])
    target[length:] = 0
    return length


def _numbers(
    told: str, values: list[Any], dtype: np.dtype[Any], parse: Callable[[str], Any] | None
) -> npt.NDArray[Any]:
    if parse is not None:
        values = [parse(value) if isinstance(value, str) else value for value in values]
    if dtype.kind in "fc" and None in values:
        values = [np.nan if value is None else value for value in values]
    found = np.array(values) if None not in values else None
    wider = found is not None and dtype.kind in "biu" and found.dtype.kind in "fc"
    if found is None or found.ndim != 1 or found.dtype.kind not in "biufc" or wider:
        right = (bool, int) if dtype.kind in "biu" else (bool, int, float, complex)
        wrong = next((value for value in values if not isinstance(value, right)), values)
        raise TypeError(f"{told} {'is missing' if wrong is None else f'holds {shorten(wrong, 60)}'}; expected {dtype}")
    return found


def _parsed(values: list[Any], parse: Callable[[str], Any]) -> list[Any]:
    """A column of numbers written as text; one of text stays as it is."""
    found = [parse(value) if isinstance(value, str) else value for value in values]
    return values if any(isinstance(value, str) for value in found) else found


def _is_text(values: list[Any]) -> bool:
    return any(isinstance(value, str) for value in values)


def _is_padded(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, str) or (value is not None and np.shape(value) != shape)


def _kind(values: list[Any], length: int) -> ArraySpec | str:
    """The array of a column; or in words why there is none."""
    present = [value for value in values if value is not None]
    if not present:
        return "always missing"
    if all(isinstance(value, str) for value in present):
        return _spec((length,), np.dtype(np.uint8))
    try:
        arrays = [np.asarray(value) for value in present]
    except ValueError:
        return f"not regular, as {shorten(present[0], 60)}"
    kinds = {array.dtype.kind for array in arrays if array.size}
    strange = next(
        (value for value, a in zip(present, arrays, strict=True) if a.size and a.dtype.kind not in "biufc"), None
    )
    problem = None
    if strange is not None:
        problem = f"no number: {shorten(strange, 60)}"
    elif not kinds:
        problem = "lists that are all empty"
    elif "b" in kinds and len(kinds) > 1:
        problem = "of mixed types, booleans and numbers"
    elif len({array.ndim for array in arrays}) > 1 or (arrays[0].ndim > 1 and len({a.shape for a in arrays}) > 1):
        problem = f"of several shapes, as {sorted({array.shape for array in arrays})[:2]}"
    if problem is not None:
        return problem
    dtype = narrow(np.result_type(*{array.dtype for array in arrays if array.size}))
    if dtype.kind in "iu" and len(present) < len(values):
        dtype = np.dtype(np.float32)  # NaN for what is missing
    return _spec((max(len(a) for a in arrays),) if arrays[0].ndim == 1 else arrays[0].shape, dtype)


def _spec(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    return ArraySpec(shape, dtype, dtype)
