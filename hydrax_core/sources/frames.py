"""Data frames of pandas and polars, as tables of Arrow.

Promise: what ``arrow`` promises of a table in memory. Numbers of pandas are not copied. The index of a pandas frame is
no column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hydrax_core.errors import shorten
from hydrax_core.sources.arrow_columns import pyarrow
from hydrax_core.sources.arrow_files import arrow
from hydrax_core.sources.row_source import Columns, Rows

__all__ = ["data_frame"]


def data_frame(
    frame: Any,
    columns: Columns = None,
    *,
    missing: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Rows:
    """The rows of a DataFrame of pandas or polars.

    Columns of numbers and truth values become arrays; 64-bit numbers become 32-bit ones, and one that does not fit
    fails its row. Categories become int32 numbers, whose names are in ``Rows.classes``. A missing number is NaN in a
    column of floats, else an error of its row. Other columns, such as strings, are left out, or go to the additional
    data.

    Args:
        frame: The frame. Do not change it afterwards.
        columns: Names of the columns to load, or name -> dtype or (shape, dtype[, jax dtype]); all by default.
        missing: What a missing value is, by column; for categories a number.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the columns that go to the additional data.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: It is no DataFrame.
        ValueError: It is empty, or a column asked for cannot be an array.
    """
    module = pyarrow()
    library = type(frame).__module__.partition(".")[0]
    if library == "pandas" and hasattr(frame, "columns"):
        table = _of_pandas(module, frame)
    elif library == "polars" and hasattr(frame, "to_arrow") and hasattr(frame, "columns"):
        table = frame.to_arrow()
    else:
        hint = "; call collect() first" if library == "polars" and hasattr(frame, "collect") else ""
        raise TypeError(f"frame: expected a DataFrame of pandas or polars, got {shorten(frame, 60)}{hint}")
    if not table.num_rows:
        raise ValueError("frame: it has no rows")
    return arrow(
        table, columns, missing=missing, batch_size=batch_size, seed=seed, labels=labels, additional=additional
    )


def _of_pandas(module: Any, frame: Any) -> Any:
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"frame: two columns are called {twice!r}")
    return module.table({name: _column(module, frame.iloc[:, place]) for place, name in enumerate(names)})


def _column(module: Any, series: Any) -> Any:
    kind = getattr(series.dtype, "kind", "O")
    if kind in "biuf" and type(series.dtype).__module__.startswith("numpy"):
        values = series.to_numpy()
        # As it is: NaN is a number here, and not a missing one. Arrow knows no other byte order than the machine's.
        return module.array(values.astype(values.dtype.newbyteorder("="), copy=False))
    try:
        return module.array(series, from_pandas=True)
    except module.ArrowException:
        return module.array([repr(value) for value in series])  # a mixture of types: no array, but a text
