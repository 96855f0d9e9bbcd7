"""Records (dicts of values by name) as arrays: which columns there are, and how they fill a batch.

Promise: shapes and dtypes are found in ``SAMPLED`` records, spread evenly, and can be given instead. Later values that
do not fit fail their item, by column; nothing is wrapped, cut off or guessed. Only text that becomes bytes is cut, to
the length that was asked for; a warning says where that was nobody's choice. A missing value is what was said it is;
else NaN in a column of floats, and in any other it fails its item. A whole number that no float holds (beyond 2**53)
fails its item in a column of floats.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec, length_name
from hydrax_core.errors import shorten
from hydrax_core.sources.row_source import (
    Arrays,
    Chosen,
    Columns,
    Extra,
    Found,
    choose,
    put,
    refuse_length_column,
    spec_of,
)

__all__ = [
    "LENGTH",
    "SAMPLED",
    "additional_of",
    "choose_columns",
    "fill_columns",
    "read_json",
    "refuse_rounded",
    "sampled",
    "text_number",
    "warn_cut",
]

LENGTH = 256
"""Bytes kept of a text, unless a length is given."""

SAMPLED = 400
_LIST = 2
"""Dimensions of the rows of a list."""
_TRUTHS = {"true": True, "false": False}
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}
"""How files say in text that there is no number, in lower case."""
_EXACT = 1 << 53
"""Floats hold all whole numbers up to this."""
_LONG = 200
_EXPONENTS = re.compile(rb"e\+?\d{3}").search, re.compile(rb"E\+?\d{3}").search
"""What numbers beyond all floats have, and some texts: patterns that begin with one byte take a quarter of the time."""
_DIGITS = re.compile(rb"\d{%d}" % _LONG).search
_decode = json.JSONDecoder().raw_decode
"""``json.loads`` takes as long to look for white space and at its arguments as to parse a line."""

_log = logging.getLogger("hydrax")
_warned: set[str] = set()

Record = Mapping[str, Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


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
    given: Found = _NOTHING,
    missing: Mapping[str, Any] = _NOTHING,
    *,
    ragged: bool = False,
) -> Chosen:
    """The arrays that records fill, by some of them.

    Args:
        columns: As in ``row_source.choose``; ``None`` for all of numbers, and where there are none for all of text.
        additional: Names of the columns that go to the additional data.
        parse: Turns a text into a number where it is one.
        given: What is known of other columns, which are in no record.
        missing: What a missing value is, by column.
        ragged: See ``row_source.choose``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A column is not there or no array can hold it; or there is none that one can.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    values = {name: [record.get(name) for record in records] for name in names}
    if parse is not None:
        values = {name: _parsed(column, parse) for name, column in values.items()}
    unknown = next((name for name in missing if name not in values), None)
    if unknown is not None:
        raise ValueError(f"missing: there is no {unknown!r}; there are {', '.join(map(repr, values))}")
    found = {**{name: _kind(column, length) for name, column in values.items()}, **given}
    texts = {name for name in names if isinstance(found[name], ArraySpec) and _is_text(values[name])}
    more = tuple(additional) if not isinstance(additional, str) else additional
    if columns is None and any(isinstance(found[name], ArraySpec) for name in found if name not in texts | set(more)):
        found.update(dict.fromkeys(texts, "text; name it in columns for its bytes, or in additional"))
    if columns is None and parse is not None:
        found.update({name: why for name in texts if (why := _mixed(values[name], parse)) is not None})
    chosen = choose("columns", found, columns, more, ragged=ragged)
    arrays: dict[str, ArraySpec] = {}
    for name, spec in chosen.specs.items():
        arrays[name] = spec
        if len(spec.shape) == 1 and spec.ragged is None:
            refuse_length_column(name, chosen.specs)
        if len(spec.shape) == 1 and any(_is_padded(value, spec.shape) for value in values.get(name, ())):
            arrays[length_name(name)] = spec_of((), np.int32)
        _warned.discard(name)
        if name in texts and spec.shape == (LENGTH,):
            warn_cut(name, max(len(_encoded(value)) for value in values[name] if isinstance(value, str)))
    return chosen._replace(specs=arrays)


def additional_of(records: Sequence[Record], names: Sequence[str]) -> Extra:
    """The additional columns of records, as far as they have them; ``None`` without any."""
    return [{name: record[name] for name in names if name in record} for record in records] if names else None


def fill_columns(
    records: Sequence[Record],
    arrays: Arrays,
    where: str = "",
    parse: Callable[[str], Any] | None = None,
    missing: Mapping[str, Any] = _NOTHING,
) -> None:
    """Fill every element of arrays by the columns of records; ``<name>_length`` has the lengths of a padded one.

    Raises:
        TypeError: A value is missing or of another type than its column.
        OverflowError: A number does not fit into its dtype.
        ValueError: A list is too long, or of another shape.
    """
    padded_by_length = {length_name(name): array for name, array in arrays.items()}
    for name, target in arrays.items():
        padded = padded_by_length.get(name)
        if padded is not None and (padded.ndim == _LIST or padded.dtype.hasobject):
            continue  # the lengths of that array: a column of this name is refused beside a list
        values = [record.get(name) for record in records]
        place = f"{where}{name!r}"
        if target.ndim == 1 and not target.dtype.hasobject:
            put(place, target, _numbers(place, values, target.dtype, parse, missing.get(name)))
            continue
        if name in missing:
            values = [missing[name] if value is None else value for value in values]
        if target.dtype.hasobject:
            for row, value in enumerate(values):
                target[row] = _elements(name, place, value)
            continue
        lengths = arrays.get(length_name(name)) if target.ndim == _LIST else None
        if lengths is None and (many := _stacked(values, target)) is not None:
            put(place, target, many)
            continue
        for row, value in enumerate(values):
            filled = _fill(name, place, target[row], value, padded=lengths is not None)
            if lengths is not None:
                lengths[row] = filled


def _stacked(values: list[Any], target: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """All rows as one array, where they are plain; what is not is looked at row by row, to say what is wrong."""
    try:
        many = np.array(values)
    except ValueError:
        return None
    plain = many.shape == target.shape and many.dtype.kind in "biufc"
    if not plain or (target.dtype.kind in "biu" and many.dtype.kind in "fc"):
        return None
    return None if target.dtype.kind in "fc" and _beyond(many) else many


def text_number(text: str) -> int | float | bool | str | None:
    """The number or truth that a text is; ``None`` where it says that there is none; else the text itself."""
    text = text.strip()
    if text.lower() in _MISSING:
        return None
    for kind in (int, float) if "_" not in text else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return _TRUTHS.get(text.lower(), text)


def read_json(data: bytes) -> Any:
    """What JSON says.

    Raises:
        OverflowError: A number is beyond all floats, which Python itself reads as infinity.
        ValueError: It is no JSON.
    """
    lower, upper = _EXPONENTS
    overflowing = lower(data) or upper(data) or (len(data) > _LONG and _DIGITS(data))
    utf8 = data[:1] == b"{" and data[1:2] != b"\0"  # json itself looks closer, which takes as long as to parse
    if not utf8 or overflowing:
        return json.loads(data, parse_float=_finite if overflowing else None)
    text = data.decode("utf-8", "surrogatepass")
    found, end = _decode(text)
    return found if end == len(text) else json.loads(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError(f"{shorten(text, 60)} does not fit into float64")
    return number


def warn_cut(name: str, longest: int) -> None:
    """Warn, once in a process, that texts of a column are longer than what is kept without a given length."""
    if longest > LENGTH and name not in _warned:
        _warned.add(name)
        _log.warning(
            "%r holds text of %d bytes, of which the first %d are kept; length=%d (--length) keeps them all; %d is "
            "only the greatest seen so far",
            *(name, longest, LENGTH, longest, longest),
        )


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _elements(name: str, where: str, value: Any) -> npt.NDArray[Any]:
    """A list, or the UTF-8 bytes of a text, as it is."""
    if isinstance(value, str):
        return np.frombuffer(_encoded(value), np.uint8)
    if not isinstance(value, list):
        wrong = (
            f"is missing; missing={{{name!r}: []}} says what it is" if value is None else f"holds {shorten(value, 60)}"
        )
        raise TypeError(f"{where} {wrong}; expected a list")
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{where} holds {shorten(value, 60)}: {error}") from error
    if found.dtype.kind not in "biufc":
        raise TypeError(f"{where} holds {shorten(value, 60)}, which are no numbers")
    return found


def _fill(name: str, where: str, target: npt.NDArray[Any], value: Any, *, padded: bool) -> int:
    if isinstance(value, str) and target.dtype == np.uint8:
        data = _encoded(value)
        if target.shape[0] == LENGTH < len(data):
            warn_cut(name, len(data))
        given = np.frombuffer(data[: target.shape[0]], np.uint8)
    elif value is None:
        raise TypeError(f"{where} is missing; missing={{{name!r}: value}} says what it is")
    else:
        given = np.asarray(value)
        if given.dtype.kind not in "biufc" or (target.dtype.kind in "biu" and given.dtype.kind in "fc" and given.size):
            raise TypeError(f"{where} holds {shorten(value, 60)}, which {target.dtype} cannot hold")
        refuse_rounded(where, given, value, target.dtype)
    if not padded:
        put(where, target[None], given[None])
        return 0
    length = given.shape[0] if given.ndim == 1 else 0
    if given.ndim != 1 or length > target.shape[0]:
        raise ValueError(
            f"{where} has the shape {given.shape}, its array {target.shape}; give columns with (shape, dtype)"
        )
    put(where, target[:length], given if length else target[:0])
    target[length:] = 0
    return length


def _numbers(
    where: str, values: list[Any], dtype: np.dtype[Any], parse: Callable[[str], Any] | None, missing: Any
) -> npt.NDArray[Any]:
    texts = values
    if parse is not None:
        values = [parse(value) if isinstance(value, str) else value for value in values]
    missing = np.nan if missing is None and dtype.kind in "fc" else missing
    if missing is not None and None in values:
        values = [missing if value is None else value for value in values]
    found = np.array(values) if None not in values else None
    wider = found is not None and dtype.kind in "biu" and found.dtype.kind in "fc"
    if found is None or found.ndim != 1 or found.dtype.kind not in "biufc" or wider:
        right = (bool, int) if dtype.kind in "biu" else (bool, int, float, complex)
        wrong = next((value for value in values if not isinstance(value, right)), values)
        if wrong is None:
            name = where.rpartition(": ")[2]
            raise TypeError(
                f"{where} is missing; expected {dtype}; missing={{{name}: 0}} says what it is, "
                f'columns={{{name}: "float32"}} makes it NaN'
            )
        raise TypeError(f"{where} holds {shorten(wrong, 60)}; expected {dtype}")
    if found.dtype.kind in "fc" and np.isinf(found).any():
        _refuse_overflow(where, texts, found)
    refuse_rounded(where, found, values, dtype)
    return found


def refuse_rounded(where: str, found: npt.NDArray[Any], value: Any, dtype: np.dtype[Any]) -> None:
    """Refuse whole numbers for an array of floats that even float64, which NumPy makes of both, does not hold.

    Raises:
        OverflowError: There is one.
    """
    if dtype.kind not in "fc" or not _beyond(found) or (wrong := _rounded(value)) is None:
        return
    raise OverflowError(
        f"{where} holds {wrong}, which floats round to {float(wrong):.0f}; name it in additional to have it as it is"
    )


def _beyond(values: npt.NDArray[Any]) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.abs(values) >= _EXACT).any())


def _rounded(value: Any) -> int | None:
    """A whole number in a value that no float is."""
    if isinstance(value, list | tuple):
        return next((found for part in value if (found := _rounded(part)) is not None), None)
    return value if type(value) is int and abs(value) > _EXACT and int(float(value)) != value else None


def _refuse_overflow(where: str, texts: list[Any], values: npt.NDArray[Any]) -> None:
    """Refuse numbers in digits that Python read as infinity, as they are beyond all floats."""
    for row in np.flatnonzero(np.isinf(values)).tolist():
        text = texts[row]
        if isinstance(text, str) and any(map(str.isdigit, text)):
            raise OverflowError(f"{where}: {shorten(text, 60)} does not fit into float64")


def _mixed(values: list[Any], parse: Callable[[str], Any]) -> str | None:
    """Why a column is left out that was meant to be of numbers, as half of what is there shows."""
    found = [parse(value) for value in values if isinstance(value, str)]
    strange = next((value for value in found if isinstance(value, str)), None)
    numbers = sum(isinstance(value, int | float) for value in found)
    present = sum(value is not None for value in found)
    if strange is None or 2 * numbers < present:
        return None
    return f"numbers and text, as {shorten(strange, 60)}; name it in columns for its bytes, or in additional"


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
        return spec_of((length,), np.uint8)
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
    elif "f" in kinds and (rounded := _rounded(present)) is not None:
        problem = f"of floats and a whole number that these round, {rounded}"
    if problem is not None:
        return problem
    shape = (max(len(a) for a in arrays),) if arrays[0].ndim == 1 else arrays[0].shape
    return spec_of(shape, np.result_type(*{array.dtype for array in arrays if array.size}))
