"""Functions and classes pickled by value, for processes that cannot import them.

Promise: a traceback from there names the file and the line that the user wrote. cloudpickle alone (since 3.1.3) calls
the file of every such function ``<dynamic-code>``, so that equal functions have equal pickles.
"""

from __future__ import annotations

import io
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

import cloudpickle

__all__ = ["dumps"]

_reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]


def dumps(value: Any) -> bytes:
    """The pickle of ``value``; ``pickle.loads`` reads it."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def with_file(name: str, make: Callable[..., types.CodeType], *arguments: Any) -> types.CodeType:
    """A code object of a file."""
    return make(*arguments).replace(co_filename=name)


def _reduced(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = _reduce_code(code)
    return with_file, (code.co_filename, make, *arguments)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduced}, cloudpickle.Pickler.dispatch_table)
